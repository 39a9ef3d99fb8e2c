//! One transaction of this wallet, sent once: a kill at any instruction and the same command again charge nothing twice.
//!
//! Place: between the commands that send one message (`wallet`, `channel`, `datacap`, `provider`, …) and the chain. A put or a repair has its own
//! journal ([`super::journal`]), because its transaction is a part of something larger.
//!
//! ```text
//! <home>/client/outbox-<chain id>   what was signed and whose end was not told to the caller yet
//! record = version u16 ‖ borsh(signed transactions of one nonce, oldest first) ‖ BLAKE3 of it, 32 bytes
//! ```
//! The transaction is durable before it is submitted, and forgotten after its result was printed ([`Outbox::told`]). What an
//! interrupted command has left is followed to its end first: if it took effect and the same messages are asked for again, that
//! *is* the answer; anything else is then sent anew. An end is proven: a receipt, or a state in which its nonce is unused and its
//! last height is over. What a node says when it is submitted is none, because another validator may have it. Until its end, what
//! is sent instead carries its nonce and is kept beside it, so that one of them can run, and it is known later which.
//!
//! The deposit of a put or a repair is kept here too while it is on its way ([`Outbox::follow`], [`Outbox::add`]), so that the other
//! commands know what may run under their nonce.
//!
//! Spec: `DESIGN.md` §6 promises 2 and 4. Cost: one fsync; memory: a transaction or a few. One command of a wallet at a time
//! ([`WalletLock`]).

use std::path::{Path, PathBuf};

use borsh::{BorshDeserialize, BorshSerialize};
use chain_lite::account::{Address, ChainId};
use chain_lite::execute::{Outcome, Receipt};
use chain_lite::message::{Message, SignedTx};
use chain_lite::state::KvRead;

use super::journal::{WalletLock, read_record, remove_record, write_record};
use super::live::{disbelief, failure};
use super::{Chain, ChainFailure, ClientError};
use crate::chain::proven::ProvenChain;
use crate::chain::{ChainError, TxStatus};
use crate::config::Home;
use crate::identity::Wallet;
use crate::rpc::reads;

const VERSION: u16 = 2;

#[derive(BorshSerialize, BorshDeserialize)]
struct Record {
    version: u16,
    /// Of one sender and one nonce, so that one of them can run; the newest is the last.
    txs: Vec<SignedTx>,
}

/// A transaction that took effect, proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its receipt.
    pub receipt: Receipt,
    /// Whether an earlier command had sent it and was interrupted.
    pub resumed: bool,
}

impl Sent {
    /// What a sentence about it begins with: nothing, or that it was an interrupted command's, and that running the command again
    /// now sends it again, `what for` if that makes sense.
    pub fn before(&self, what_for: &str) -> String {
        match (self.resumed, what_for) {
            (false, _) => String::new(),
            (true, "") => "sent by the interrupted command before: ".into(),
            (true, what_for) => {
                format!("sent by the interrupted command before, run again {what_for}: ")
            }
        }
    }
}

/// What became of a left-over.
enum Left {
    /// This one took effect.
    Applied(SignedTx, Receipt),
    /// Nothing of it can ever run: one failed, or all are too old and their nonce is unused.
    Over,
    /// It may still run, though the node does not take it now: what comes instead must use its nonce.
    Open {
        /// Which was not taken.
        tx: SignedTx,
        /// Why.
        why: ChainFailure,
    },
}

/// The proven end of a transaction that was included.
enum End {
    Applied(Receipt),
    /// Its nonce is spent.
    Failed(ChainError),
    /// The block passed over it; it may be included again.
    Refused(ChainError),
}

/// The wallet's outbox for one chain. Holds the wallet's lock: whoever signs has it.
#[derive(Debug)]
pub struct Outbox {
    path: PathBuf,
    _lock: WalletLock,
}

impl Outbox {
    /// Takes the wallet's lock.
    pub fn open(home: &Home, chain: &ChainId) -> Result<Self, ClientError> {
        let lock = WalletLock::take(home)?;
        Ok(Self {
            path: file(home, chain),
            _lock: lock,
        })
    }

    /// The message that an interrupted command has left, if it is one that is `wanted` and the newest such. Takes no lock.
    pub fn find_left(
        home: &Home,
        chain: &ChainId,
        wanted: impl Fn(&Message) -> bool,
    ) -> Result<Option<Message>, ClientError> {
        let left = read(&file(home, chain))?.unwrap_or_default();
        let single = left.into_iter().rev().filter_map(|tx| {
            let [msg] = <[Message; 1]>::try_from(tx.tx.msgs).ok()?;
            Some(msg)
        });
        Ok({ single }.find(wanted))
    }

    /// Sends the messages and waits until it is proven that they took effect. `tell` hears what became of an interrupted
    /// command's transaction when it was another one.
    pub async fn send(
        &self,
        chain: &ProvenChain,
        wallet: &Wallet,
        msgs: Vec<Message>,
        tell: impl FnOnce(String),
    ) -> Result<Sent, ClientError> {
        let same = |tx: &SignedTx| tx.tx.sender == wallet.address() && tx.tx.msgs == msgs;
        let mut rivals = Vec::new();
        if let Some(left) = self.left()? {
            match self.chase(chain, &left, same).await? {
                Left::Applied(tx, receipt) if same(&tx) => {
                    return Ok(Sent {
                        receipt,
                        resumed: true,
                    });
                }
                Left::Applied(tx, receipt) => tell(format!(
                    "an interrupted command's transaction {} ({}) took effect",
                    receipt.tx,
                    names(&tx)
                )),
                Left::Over => {}
                // Signed already; and another wallet's nonce is not ours to use.
                Left::Open { tx, why } if same(&tx) || tx.tx.sender != wallet.address() => {
                    return Err(why.into());
                }
                Left::Open { .. } => rivals = left,
            }
        }
        let tx = self.sign(chain, wallet, rivals, msgs).await?;
        // What the node refuses may still be alive elsewhere: the record stays.
        chain.node().submit(&tx).await.map_err(failure)?;
        match self.finish(chain, &tx).await? {
            End::Applied(receipt) => Ok(Sent {
                receipt,
                resumed: false,
            }),
            End::Failed(error) | End::Refused(error) => Err(failure(error).into()),
        }
    }

    /// For a command that has its own journal: follows what an interrupted command has left to its end. Gives the nonce to use
    /// if that is still open. What took effect is kept, to be told to whoever asks for it again.
    pub async fn follow(
        &self,
        chain: &ProvenChain,
        of: &Address,
    ) -> Result<Option<u64>, ClientError> {
        let left = self.left()?;
        let Some(left) = left.filter(|left| left.iter().all(|tx| tx.tx.sender == *of)) else {
            return Ok(None);
        };
        match self.chase(chain, &left, |_| false).await {
            // Unclear: its nonce is used, which is enough here; the command that left it tells.
            Ok(Left::Applied(..) | Left::Over) | Err(ClientError::Unclear { .. }) => Ok(None),
            Ok(Left::Open { tx, .. }) => Ok(Some(tx.tx.nonce)),
            Err(error) => Err(error),
        }
    }

    /// Keeps a transaction of a command that has its own journal, before it is submitted: beside what carries the same nonce, or
    /// alone. What took effect and was not told yet stays as it is.
    pub fn add(&self, tx: &SignedTx) -> Result<(), ClientError> {
        let mut txs = self.left()?.unwrap_or_default();
        let one = |left: &SignedTx| (left.tx.sender, left.tx.nonce) == (tx.tx.sender, tx.tx.nonce);
        if !txs.iter().all(one) || txs.contains(tx) {
            return Ok(());
        }
        txs.push(tx.clone());
        self.write(txs)
    }

    /// Such a transaction has had its end.
    pub fn ended(&self, tx: &SignedTx) -> Result<(), ClientError> {
        match self.left()? {
            Some(left) if left == std::slice::from_ref(tx) => self.clear(),
            _ => Ok(()),
        }
    }

    /// The result was printed: nothing is left.
    pub fn told(self) -> Result<(), ClientError> {
        self.clear()
    }

    /// Signs, with the nonce of the rivals if there are any, and makes it durable beside them.
    async fn sign(
        &self,
        chain: &ProvenChain,
        wallet: &Wallet,
        mut rivals: Vec<SignedTx>,
        msgs: Vec<Message>,
    ) -> Result<SignedTx, ClientError> {
        let money = chain.money(&wallet.address()).await?;
        let now = chain.now().await?;
        let nonce = rivals.last().map_or(money.next_nonce, |tx| tx.tx.nonce);
        let tx = Chain::sign(chain, wallet, nonce, now, msgs);
        rivals.push(tx.clone());
        self.write(rivals)?;
        Ok(tx)
    }

    /// Waits for the proof of its end. What failed is forgotten: its nonce is spent, and its rivals' with it.
    async fn finish(&self, chain: &ProvenChain, tx: &SignedTx) -> Result<End, ClientError> {
        match chain.node().wait_tx(tx).await {
            Ok(_) | Err(ChainError::Failed { .. }) => {}
            Err(error) => return Err(failure(error).into()),
        }
        let receipt = chain.receipt(tx).await.map_err(disbelief)?;
        let failed = |error: &chain_lite::error::ChainError| ChainError::Failed {
            tx: receipt.tx,
            error: error.clone(),
        };
        Ok(match &receipt.outcome {
            Outcome::Applied { .. } => End::Applied(receipt),
            Outcome::Failed { error, .. } => {
                self.clear()?;
                End::Failed(failed(error))
            }
            Outcome::Refused { error } => End::Refused(failed(error)),
        })
    }

    /// Follows a left-over to its end. Of several, the node is given what is `wanted`, else the newest.
    async fn chase(
        &self,
        chain: &ProvenChain,
        left: &[SignedTx],
        wanted: impl Fn(&SignedTx) -> bool,
    ) -> Result<Left, ClientError> {
        let node = chain.node();
        let Some(newest) = left.last() else {
            return Ok(Left::Over);
        };
        let (sender, nonce) = (newest.tx.sender, newest.tx.nonce);
        // Nonce and height of one state: two states could show a transaction as unused and too old that was included in between.
        // The receipts are asked for after it, so that a used nonce has its receipt.
        let state = |state: &dyn KvRead| {
            let account = reads::account(state, &sender, None);
            let network = reads::network(state);
            Ok((account?.nonce, network?.height))
        };
        let (next, height) = chain.read(state).await.map_err(disbelief)?;
        for tx in left {
            if node.tx_status(&tx.id()).await.map_err(failure)? == TxStatus::Unknown {
                continue;
            }
            match self.finish(chain, tx).await? {
                End::Applied(receipt) => return Ok(Left::Applied(tx.clone(), receipt)),
                End::Failed(_) => return Ok(Left::Over),
                End::Refused(_) => {}
            }
        }
        if next > nonce {
            return Err(ClientError::Unclear {
                tx: newest.id(),
                path: self.path.clone(),
            });
        }
        let alive = |tx: &&SignedTx| height < tx.tx.valid_until_height;
        let alive: Vec<&SignedTx> = left.iter().filter(alive).collect();
        let asked = alive.iter().find(|tx| wanted(tx));
        let Some(&tx) = asked.or(alive.last()) else {
            self.clear()?;
            return Ok(Left::Over);
        };
        let why = match node.submit(tx).await {
            Ok(_) => match self.finish(chain, tx).await? {
                End::Applied(receipt) => return Ok(Left::Applied(tx.clone(), receipt)),
                End::Failed(_) => return Ok(Left::Over),
                End::Refused(error) => failure(error),
            },
            Err(error) if error.is_transient() => return Err(failure(error).into()),
            Err(error) => failure(error),
        };
        Ok(Left::Open {
            tx: tx.clone(),
            why,
        })
    }

    /// What is remembered, the oldest first.
    pub(super) fn left(&self) -> Result<Option<Vec<SignedTx>>, ClientError> {
        read(&self.path)
    }

    fn write(&self, txs: Vec<SignedTx>) -> Result<(), ClientError> {
        let record = Record {
            version: VERSION,
            txs,
        };
        write_record(&self.path, &record)
    }

    fn clear(&self) -> Result<(), ClientError> {
        remove_record(&self.path)
    }
}

fn file(home: &Home, chain: &ChainId) -> PathBuf {
    home.client_dir().join(format!("outbox-{chain}"))
}

fn read(path: &Path) -> Result<Option<Vec<SignedTx>>, ClientError> {
    let record: Option<Record> = read_record(path)?;
    match record {
        Some(record) if record.version != VERSION => Err(ClientError::Journal {
            path: path.to_owned(),
            reason: "it was written by another version".into(),
        }),
        found => Ok(found.map(|record| record.txs)),
    }
}

/// What a transaction asks for, for people.
fn names(tx: &SignedTx) -> String {
    let names: Vec<&str> = tx.tx.msgs.iter().map(Message::name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use chain_lite::bundle::Anchor;
    use chain_lite::units::TokenAmount;

    use super::*;
    use crate::chain::ChainClient;
    use crate::chain::proven::tests::{Tamper, liar};
    use crate::rpc::RpcHandle;
    use crate::rpc::tests::{Bed, address, bed, bed_with_fees};

    struct Setup {
        _dir: tempfile::TempDir,
        home: Home,
        chain: ProvenChain,
        wallet: Wallet,
        server: RpcHandle,
        bed: Bed,
    }

    async fn setup() -> Setup {
        setup_on(bed()).await
    }

    async fn setup_on(bed: Bed) -> Setup {
        let server = bed.serve(0, None).await;
        let dir = tempfile::tempdir().expect("a folder");
        let home = Home::new(dir.path());
        let node = ChainClient::connect(&server.url()).await.expect("connects");
        let anchor = Anchor::default();
        let chain = ProvenChain::open(node, &anchor, &home).await;
        Setup {
            chain: chain.expect("opens"),
            wallet: Wallet::from_seed(&[1; 32]),
            _dir: dir,
            home,
            server,
            bed,
        }
    }

    impl Setup {
        fn outbox(&self) -> Outbox {
            Outbox::open(&self.home, &self.chain.node().chain_id()).expect("free")
        }

        async fn send(&self, outbox: &Outbox, amount: u128) -> Result<Sent, ClientError> {
            let sent = outbox.send(&self.chain, &self.wallet, pay(amount), |_| {});
            sent.await
        }

        async fn received(&self) -> u128 {
            let read = |state: &dyn chain_lite::state::KvRead| {
                reads::account(state, &to(), None).map(|account| account.free.0)
            };
            self.chain.read(read).await.expect("proven")
        }
    }

    fn to() -> Address {
        address(5)
    }

    fn pay(amount: u128) -> Vec<Message> {
        vec![Message::Transfer {
            to: to(),
            amount: TokenAmount(amount),
        }]
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tm_h1_a_command_killed_anywhere_and_run_again_charges_once() {
        let setup = setup().await;
        // Killed before it was submitted, after it was submitted, and after it was included: `sign` is where the record begins,
        // `told` where it ends.
        let mut expected = 0;
        for kill in 0..3 {
            let outbox = setup.outbox();
            let amount = 10 + kill;
            let tx = outbox.sign(&setup.chain, &setup.wallet, Vec::new(), pay(amount));
            let tx = tx.await.expect("durable");
            if kill >= 1 {
                setup.chain.node().submit(&tx).await.expect("taken");
            }
            if kill == 2 {
                setup.chain.node().wait_tx(&tx).await.expect("included");
            }
            drop(outbox);
            expected += amount;
            let outbox = setup.outbox();
            let sent = setup.send(&outbox, amount).await.expect("goes on");
            assert!(sent.resumed, "kill {kill}");
            assert_eq!(sent.receipt.tx, tx.id());
            outbox.told().expect("forgets");
            assert_eq!(setup.received().await, expected, "kill {kill}");
        }
        // Told: the same command again is a new payment.
        let outbox = setup.outbox();
        assert!(!setup.send(&outbox, 10).await.expect("sent").resumed);
        outbox.told().expect("forgets");
        assert_eq!(setup.received().await, expected + 10);
        setup.server.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tm_h1_what_was_signed_waits_for_a_node_and_nothing_is_signed_beside_it() {
        let mut setup = setup().await;
        // Killed between the writing and the sending, and the node is away when the command is run again, or another one.
        let outbox = setup.outbox();
        let left = outbox.sign(&setup.chain, &setup.wallet, Vec::new(), pay(7));
        let left = left.await.expect("durable");
        drop(outbox);
        let elsewhere = setup.bed.serve(0, None).await;
        let server = std::mem::replace(&mut setup.server, elsewhere);
        let port = server.addr().port();
        server.stop().await;
        for amount in [9, 7] {
            let outbox = setup.outbox();
            let away = setup.send(&outbox, amount).await;
            let unreachable =
                |error| matches!(error, ClientError::Chain(ChainFailure::Unreachable(_)));
            assert!(away.is_err_and(unreachable), "after {amount}");
            let kept = outbox.left().expect("reads").expect("kept");
            assert_eq!(kept, std::slice::from_ref(&left), "after {amount}");
        }
        let server = setup.bed.serve(port, None).await;
        let outbox = setup.outbox();
        let sent = setup.send(&outbox, 7).await.expect("goes on");
        assert!(sent.resumed);
        assert_eq!(sent.receipt.tx, left.id());
        outbox.told().expect("forgets");
        assert_eq!(setup.received().await, 7);
        server.stop().await;
        setup.server.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_left_is_followed_to_its_end_before_another_command_sends() {
        let setup = setup().await;
        let outbox = setup.outbox();
        let left = outbox.sign(&setup.chain, &setup.wallet, Vec::new(), pay(7));
        let left = left.await.expect("durable");
        let mut told = String::new();
        let other = outbox.send(&setup.chain, &setup.wallet, pay(9), |text| told = text);
        assert!(!other.await.expect("sent").resumed);
        assert!(told.contains(&left.id().to_string()), "{told}");
        outbox.told().expect("forgets");
        assert_eq!(setup.received().await, 16);

        // What fails has had its end, and is not sent again.
        let outbox = setup.outbox();
        let failed = setup.send(&outbox, u128::MAX).await;
        assert!(matches!(failed, Err(ClientError::Chain(_))), "{failed:?}");
        drop(outbox);
        let outbox = setup.outbox();
        assert!(outbox.left().expect("reads").is_none());
        setup.send(&outbox, 1).await.expect("goes on");
        outbox.told().expect("forgets");
        assert_eq!(setup.received().await, 17);
        setup.server.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_nonce_that_somebody_else_used_is_not_guessed_around() {
        let setup = setup().await;
        let outbox = setup.outbox();
        let left = outbox.sign(&setup.chain, &setup.wallet, Vec::new(), pay(7));
        left.await.expect("durable");
        // Another home with the same key takes the nonce.
        let node = setup.chain.node();
        node.execute(setup.wallet.signing_key(), pay(100))
            .await
            .expect("included");
        while setup.received().await < 100 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let unclear = setup.send(&outbox, 7).await;
        assert!(
            matches!(unclear, Err(ClientError::Unclear { .. })),
            "{unclear:?}"
        );
        assert!(
            outbox.left().expect("reads").is_some(),
            "kept for a person to judge"
        );
        assert_eq!(setup.received().await, 100);
        assert_eq!(setup.bed.mempool.len(), 0);
        setup.server.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tm_h1_an_answer_to_a_submit_that_cannot_be_read_is_no_reason_to_pay_again() {
        let mut setup = setup().await;
        // The node takes it, and its answer is garbled on the way.
        let garbled = Arc::new(AtomicBool::new(true));
        let tamper: Tamper = {
            let garbled = Arc::clone(&garbled);
            Arc::new(move |method, answer| {
                match method == "hf_submit" && garbled.load(Ordering::SeqCst) {
                    true => serde_json::Value::Null,
                    false => answer,
                }
            })
        };
        let (lying, url) = liar(&setup.server.url(), tamper).await;
        let node = ChainClient::connect(&url).await.expect("connects");
        let chain = ProvenChain::open(node, &Anchor::default(), &setup.home).await;
        setup.chain = chain.expect("opens");
        let outbox = setup.outbox();
        let failed = setup.send(&outbox, 7).await;
        assert!(matches!(failed, Err(ClientError::Chain(_))), "{failed:?}");
        drop(outbox);
        garbled.store(false, Ordering::SeqCst);
        let outbox = setup.outbox();
        assert!(setup.send(&outbox, 7).await.expect("goes on").resumed);
        outbox.told().expect("forgets");
        assert_eq!(setup.received().await, 7);
        lying.stop().expect("runs");
        setup.server.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tm_h1_what_a_node_refuses_may_still_run_and_whichever_does_is_known() {
        let mut setup = setup_on(bed_with_fees()).await;
        let rich = std::mem::replace(&mut setup.wallet, Wallet::from_seed(&[77; 32]));
        let poor = setup.wallet.address();
        // No money for the fee: both are refused, both stay, with one nonce.
        for amount in [7, 9, 7] {
            let outbox = setup.outbox();
            let refused = setup.send(&outbox, amount).await;
            assert!(matches!(refused, Err(ClientError::Chain(_))), "{refused:?}");
        }
        let outbox = setup.outbox();
        let left = outbox.left().expect("reads").expect("kept");
        let msgs: Vec<_> = left.iter().map(|tx| tx.tx.msgs.clone()).collect();
        assert_eq!(msgs, [pay(7), pay(9)]);
        assert!(left.iter().all(|tx| tx.tx.nonce == 0));
        // A put that comes in between uses the same nonce, and its deposit is kept beside them.
        let open = outbox.follow(&setup.chain, &poor).await.expect("asks");
        assert_eq!(open, Some(0));
        let now = Chain::now(&setup.chain).await.expect("proven");
        let deposit = Chain::sign(&setup.chain, &setup.wallet, 0, now, pay(11));
        outbox.add(&deposit).expect("kept");
        outbox.ended(&deposit).expect("it is not alone");
        assert_eq!(
            outbox.left().expect("reads").map(|left| left.len()),
            Some(3)
        );
        // Another validator includes the first.
        let gift = Message::Transfer {
            to: poor,
            amount: TokenAmount::from_tokens(100),
        };
        let node = setup.chain.node();
        let gift = node.execute(rich.signing_key(), vec![gift]).await;
        gift.expect("included");
        node.submit(&left[0]).await.expect("taken");
        node.wait_tx(&left[0]).await.expect("included");
        let sent = setup.send(&outbox, 7).await.expect("known");
        assert!(sent.resumed);
        assert_eq!(sent.receipt.tx, left[0].id());
        // The other two can never run: what they asked for is sent anew.
        let mut told = String::new();
        let other = outbox.send(&setup.chain, &setup.wallet, pay(9), |text| told = text);
        assert!(!other.await.expect("sent").resumed);
        assert!(told.contains(&left[0].id().to_string()), "{told}");
        outbox.told().expect("forgets");
        assert_eq!(setup.received().await, 16);
        setup.server.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_put_sends_what_was_left_and_leaves_it_to_be_told() {
        let setup = setup().await;
        let outbox = setup.outbox();
        let left = outbox.sign(&setup.chain, &setup.wallet, Vec::new(), pay(7));
        let left = left.await.expect("durable");
        let address = setup.wallet.address();
        let open = outbox.follow(&setup.chain, &address).await;
        assert_eq!(open.expect("follows"), None);
        assert_eq!(setup.received().await, 7);
        let sent = setup.send(&outbox, 7).await.expect("known");
        assert!(sent.resumed);
        assert_eq!(sent.receipt.tx, left.id());
        outbox.told().expect("forgets");
        assert_eq!(setup.received().await, 7);
        setup.server.stop().await;
    }
}
