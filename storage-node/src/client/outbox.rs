//! One transaction of this wallet, sent once: a kill at any instruction and the same command again charge nothing twice.
//!
//! Place: between the commands that send one message (`wallet`, `channel`, `datacap`, `provider`, …) and the chain. A put or a repair has its own
//! journal ([`super::journal`]), because its transaction is a part of something larger.
//!
//! ```text
//! <home>/client/outbox-<chain id>   what was signed and whose end was not told to the caller yet
//! record = version u16 ‖ borsh(groups, oldest first) ‖ BLAKE3 of it, 32 bytes
//! group  = signed transactions of one nonce, oldest first, each with whether its end is to be told
//! ```
//! The transaction is durable before it is submitted, and forgotten after its result was printed ([`Outbox::told`]). What an
//! interrupted command has left is followed to its end first: if it took effect and the same messages are asked for again, that
//! *is* the answer; anything else is then sent anew. An end is proven: a receipt, or a state in which its nonce is unused and its
//! last height is over. What a node says when it is submitted is none, because another validator may have it. Until its end, what
//! is sent instead carries its nonce and is kept beside it, so that one of them can run, and it is known later which.
//!
//! The deposit of a put or a repair is kept here too while it is on its way ([`Outbox::follow`], [`Outbox::add`]), so that the other
//! commands know what may run under their nonce. What took effect and waits to be told is a group beside it. So is what a running
//! provider signs with its owner's key ([`Outbox::follow_from`], [`Outbox::pay`]).
//!
//! Spec: `DESIGN.md` §6 promises 2 and 4. Cost: two fsyncs a write; memory: a transaction or a few. One command of a wallet at a time
//! ([`WalletLock`]).

use std::ops::ControlFlow;

use borsh::{BorshDeserialize, BorshSerialize};
use chain_lite::account::{Address, ChainId, TxId};
use chain_lite::bundle::Anchor;
use chain_lite::execute::{Outcome, Receipt};
use chain_lite::message::{Message, SignedTx, sign};
use chain_lite::state::KvRead;
use ed25519_dalek::SigningKey;

use super::journal::WalletLock;
use super::live::{disbelief, failure};
use super::record::RecordFile;
use super::{Chain, ChainFailure, ClientError, Now};
use crate::chain::proven::ProvenChain;
use crate::chain::{ChainClient, ChainError, TxStatus};
use crate::config::Home;
use crate::identity::Wallet;
use crate::rpc::reads;

const VERSION: u16 = 3;

#[derive(BorshSerialize, BorshDeserialize)]
pub(super) struct Record {
    version: u16,
    /// The oldest first.
    groups: Vec<Group>,
}

/// Of one sender and one nonce, so that one of them can run; the newest is the last.
type Group = Vec<Kept>;

#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
struct Kept {
    tx: SignedTx,
    /// Whether its end is the answer to whoever asks for the same again. Not that of a command with its own journal.
    asked: bool,
}

/// A transaction that took effect, proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// What it asked for.
    pub msgs: Vec<Message>,
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
    Applied(Kept, Receipt),
    /// Nothing of it can ever run: one failed, or all are too old and their nonce is unused.
    Over,
    /// It may still run, though the node does not take it now: what comes instead must use its nonce.
    Open {
        /// What is not too old.
        alive: Group,
        /// Which of it was not taken.
        kept: Kept,
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
    file: RecordFile,
    _lock: WalletLock,
}

impl Outbox {
    /// Takes the wallet's lock.
    pub fn open(home: &Home, chain: &ChainId) -> Result<Self, ClientError> {
        let lock = WalletLock::take(home)?;
        let file = file(home, chain);
        // What is found is gone on with: it must not vanish under what follows from it.
        file.settle()?;
        Ok(Self { file, _lock: lock })
    }

    /// Whether an interrupted command has left this very message alone. Takes no lock.
    pub fn is_left(home: &Home, chain: &ChainId, message: &Message) -> Result<bool, ClientError> {
        let groups = read(&file(home, chain))?;
        let same = |kept: &Kept| kept.asked && kept.tx.tx.msgs == std::slice::from_ref(message);
        Ok(groups.iter().flatten().any(same))
    }

    /// Sends what `fresh` gives and waits until it is proven that it took effect, or goes on with what an interrupted command has
    /// sent if that is `wanted`. `fresh` is asked when what was left has had its end, so that it sees what that did. `tell` hears
    /// what became of transactions that were not wanted.
    pub async fn send<E: From<ClientError>>(
        &self,
        chain: &ProvenChain,
        wallet: &Wallet,
        wanted: impl Fn(&[Message]) -> bool,
        fresh: impl AsyncFnOnce() -> Result<Vec<Message>, E>,
        tell: impl FnMut(String),
    ) -> Result<Sent, E> {
        match self.resume(chain, wallet, wanted, tell).await? {
            ControlFlow::Break(sent) => Ok(sent),
            ControlFlow::Continue(open) => {
                Ok(self.send_anew(chain, wallet, open, fresh().await?).await?)
            }
        }
    }

    /// Follows what was left to its end. Gives what was wanted and took effect, or what is still open.
    async fn resume(
        &self,
        chain: &ProvenChain,
        wallet: &Wallet,
        wanted: impl Fn(&[Message]) -> bool,
        mut tell: impl FnMut(String),
    ) -> Result<ControlFlow<Sent, Vec<Group>>, ClientError> {
        let own = |kept: &Kept| kept.tx.tx.sender == wallet.address();
        let same = |kept: &Kept| kept.asked && own(kept) && wanted(&kept.tx.tx.msgs);
        let (mut answer, mut refused) = (None, None);
        let mut keep = Vec::new();
        let groups = read(&self.file)?;
        for group in &groups {
            match self.chase(chain, group, same).await? {
                Left::Applied(kept, receipt) if answer.is_none() && same(&kept) => {
                    answer = Some(Sent {
                        msgs: kept.tx.tx.msgs,
                        receipt,
                        resumed: true,
                    });
                    keep.push(group.clone());
                }
                Left::Applied(kept, receipt) => tell(format!(
                    "an interrupted command's transaction {} ({}) took effect",
                    receipt.tx,
                    names(&kept.tx)
                )),
                Left::Over => {}
                Left::Open { alive, kept, why } => {
                    // Signed already; and another wallet's nonce is not ours to use.
                    if same(&kept) || !own(&kept) {
                        refused = Some(why);
                    }
                    keep.push(alive);
                }
            }
        }
        if keep != groups {
            self.write(keep.clone())?;
        }
        match (answer, refused) {
            (Some(sent), _) => Ok(ControlFlow::Break(sent)),
            (None, Some(why)) => Err(why.into()),
            (None, None) => Ok(ControlFlow::Continue(keep)),
        }
    }

    async fn send_anew(
        &self,
        chain: &ProvenChain,
        wallet: &Wallet,
        open: Vec<Group>,
        msgs: Vec<Message>,
    ) -> Result<Sent, ClientError> {
        let now = chain.now().await?;
        let tx = self.sign(chain, wallet, open, now, msgs).await?;
        // What the node refuses may still be alive elsewhere: the record stays.
        chain.node().submit(&tx).await.map_err(failure)?;
        match self.finish(chain, &tx).await? {
            End::Applied(receipt) => Ok(Sent {
                msgs: tx.tx.msgs,
                receipt,
                resumed: false,
            }),
            // Its nonce is spent, and its rivals' with it.
            End::Failed(error) => {
                self.forget(&tx.id())?;
                Err(failure(error).into())
            }
            End::Refused(error) => Err(failure(error).into()),
        }
    }

    /// For a command that has its own journal: follows what interrupted commands have left to its end. Gives the nonce to use
    /// if that is still open. What took effect is kept, to be told to whoever asks for it again, if anybody does.
    pub async fn follow(
        &self,
        chain: &ProvenChain,
        of: &Address,
    ) -> Result<Option<u64>, ClientError> {
        let groups = read(&self.file)?;
        let (mut open, mut kept) = (None::<u64>, Vec::new());
        for group in &groups {
            if group.iter().any(|left| left.tx.tx.sender != *of) {
                kept.push(group.clone());
                continue;
            }
            match self.chase(chain, group, |_| false).await {
                Ok(Left::Applied(left, _)) if left.asked => kept.push(group.clone()),
                Ok(Left::Applied(..) | Left::Over) => {}
                // Its nonce is used, which is enough here; the command that left it tells.
                Err(ClientError::Unclear { .. }) => kept.push(group.clone()),
                Ok(Left::Open {
                    alive, kept: left, ..
                }) => {
                    let nonce = left.tx.tx.nonce;
                    open = Some(open.map_or(nonce, |lowest| lowest.min(nonce)));
                    kept.push(alive);
                }
                Err(error) => return Err(error),
            }
        }
        if kept != groups {
            self.write(kept)?;
        }
        Ok(open)
    }

    /// As [`Outbox::follow`], for a process that believes its node. Proofs are asked for if something was left, because what is
    /// forgotten here is paid again.
    pub async fn follow_from(
        &self,
        home: &Home,
        node: &ChainClient,
        of: &Address,
    ) -> Result<Option<u64>, ClientError> {
        if read(&self.file)?.is_empty() {
            return Ok(None);
        }
        let chain = ProvenChain::open(node.clone(), &Anchor::default(), home).await;
        self.follow(&chain.map_err(disbelief)?, of).await
    }

    /// Sends what nobody asks for again, a provider's own payments, and waits until the node says that it took effect. `open` is
    /// what [`Outbox::follow_from`] gave. What fails stays, to be followed by whoever signs next.
    pub async fn pay(
        &self,
        node: &ChainClient,
        key: &SigningKey,
        open: Option<u64>,
        msgs: Vec<Message>,
    ) -> Result<Receipt, ClientError> {
        let sender = Address::of(&key.verifying_key());
        let account = node.account(&sender).await.map_err(failure)?;
        let open = open.filter(|nonce| *nonce >= account.nonce);
        let nonce = open.unwrap_or(account.next_nonce);
        let head = node.head().await.map_err(failure)?;
        let tx = sign(node.tx(sender, nonce, head.height, msgs), key);
        self.add(&tx)?;
        node.submit(&tx).await.map_err(failure)?;
        let receipt = node.wait_tx(&tx).await.map_err(failure)?;
        self.ended(&tx)?;
        Ok(receipt)
    }

    /// Keeps a transaction of a command that has its own journal, before it is submitted: beside what carries the same nonce, or
    /// alone.
    pub fn add(&self, tx: &SignedTx) -> Result<(), ClientError> {
        let mut groups = read(&self.file)?;
        keep(&mut groups, tx, false);
        self.write(groups)
    }

    /// Such a transaction has had its end. What is beside it stays, for whoever asks which of them ran.
    pub fn ended(&self, tx: &SignedTx) -> Result<(), ClientError> {
        let groups = read(&self.file)?;
        let alone = |group: &Group| matches!(&group[..], [kept] if kept.tx == *tx);
        match groups.iter().any(alone) {
            true => self.forget(&tx.id()),
            false => Ok(()),
        }
    }

    /// The result was printed: nothing is left but what is still open.
    pub fn told(self, sent: &Sent) -> Result<(), ClientError> {
        self.forget(&sent.receipt.tx)
    }

    /// Signs, with the lowest nonce that is open if there is one, and makes it durable beside what is open.
    async fn sign(
        &self,
        chain: &ProvenChain,
        wallet: &Wallet,
        mut open: Vec<Group>,
        now: Now,
        msgs: Vec<Message>,
    ) -> Result<SignedTx, ClientError> {
        let money = chain.money(&wallet.address()).await?;
        let nonces = open.iter().flatten().map(|kept| kept.tx.tx.nonce);
        let nonce = nonces.min().unwrap_or(money.next_nonce);
        let tx = Chain::sign(chain, wallet, nonce, now, msgs);
        keep(&mut open, &tx, true);
        self.write(open)?;
        Ok(tx)
    }

    /// Waits for the proof of its end.
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
            Outcome::Failed { error, .. } => End::Failed(failed(error)),
            Outcome::Refused { error } => End::Refused(failed(error)),
        })
    }

    /// Follows a group to its end. Of several, the node is given what is `wanted`, else the newest.
    async fn chase(
        &self,
        chain: &ProvenChain,
        left: &[Kept],
        wanted: impl Fn(&Kept) -> bool,
    ) -> Result<Left, ClientError> {
        let node = chain.node();
        let Some(Kept { tx: newest, .. }) = left.last() else {
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
        for kept in left {
            if node.tx_status(&kept.tx.id()).await.map_err(failure)? == TxStatus::Unknown {
                continue;
            }
            match self.finish(chain, &kept.tx).await? {
                End::Applied(receipt) => return Ok(Left::Applied(kept.clone(), receipt)),
                End::Failed(_) => return Ok(Left::Over),
                End::Refused(_) => {}
            }
        }
        if next > nonce {
            // What nobody asks for needs no answer.
            return match left.iter().any(|kept| kept.asked) {
                true => Err(ClientError::Unclear {
                    tx: newest.id(),
                    path: self.file.path().to_owned(),
                }),
                false => Ok(Left::Over),
            };
        }
        let alive = |kept: &&Kept| height < kept.tx.tx.valid_until_height;
        let alive: Vec<&Kept> = left.iter().filter(alive).collect();
        let asked = alive.iter().find(|kept| wanted(kept));
        let Some(&kept) = asked.or(alive.last()) else {
            return Ok(Left::Over);
        };
        let why = match node.submit(&kept.tx).await {
            Ok(_) => match self.finish(chain, &kept.tx).await? {
                End::Applied(receipt) => return Ok(Left::Applied(kept.clone(), receipt)),
                End::Failed(_) => return Ok(Left::Over),
                End::Refused(error) => failure(error),
            },
            Err(error) if error.is_transient() => return Err(failure(error).into()),
            Err(error) => failure(error),
        };
        Ok(Left::Open {
            kept: kept.clone(),
            alive: alive.into_iter().cloned().collect(),
            why,
        })
    }

    /// What is remembered, the oldest first.
    #[cfg(test)]
    pub(super) fn left(&self) -> Result<Option<Vec<SignedTx>>, ClientError> {
        let groups = read(&self.file)?;
        let all: Vec<_> = groups.into_iter().flatten().map(|kept| kept.tx).collect();
        Ok((!all.is_empty()).then_some(all))
    }

    /// Forgets a transaction and what carried the same nonce.
    fn forget(&self, id: &TxId) -> Result<(), ClientError> {
        let mut groups = read(&self.file)?;
        groups.retain(|group| group.iter().all(|kept| kept.tx.id() != *id));
        self.write(groups)
    }

    fn write(&self, groups: Vec<Group>) -> Result<(), ClientError> {
        if groups.is_empty() {
            return self.file.remove();
        }
        let record = Record {
            version: VERSION,
            groups,
        };
        self.file.write(&record)
    }
}

/// Puts a transaction beside what carries the same nonce, or alone.
fn keep(groups: &mut Vec<Group>, tx: &SignedTx, asked: bool) {
    let of = |tx: &SignedTx| (tx.tx.sender, tx.tx.nonce);
    let beside = |group: &&mut Group| group.iter().any(|kept| of(&kept.tx) == of(tx));
    let kept = Kept {
        tx: tx.clone(),
        asked,
    };
    let Some(group) = groups.iter_mut().find(beside) else {
        return groups.push(vec![kept]);
    };
    match group.iter_mut().find(|kept| kept.tx == *tx) {
        Some(known) => known.asked |= asked,
        None => group.push(kept),
    }
}

fn file(home: &Home, chain: &ChainId) -> RecordFile {
    RecordFile::new(home, home.client_dir().join(format!("outbox-{chain}")))
}

fn read(file: &RecordFile) -> Result<Vec<Group>, ClientError> {
    let record: Option<Record> = file.read()?;
    match record {
        Some(record) if record.version != VERSION => {
            Err(file.damaged("it was written by another version"))
        }
        found => Ok(found.map(|record| record.groups).unwrap_or_default()),
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

    use chain_lite::units::TokenAmount;

    use super::*;
    use crate::chain::proven::tests::{Tamper, liar};
    use crate::rpc::RpcHandle;
    use crate::rpc::tests::{Bed, address, bed, bed_with_fees, own_host};

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
        let server = bed.serve_at(own_host(), None).await;
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
            self.send_and_tell(outbox, amount, |_| {}).await
        }

        async fn send_and_tell(
            &self,
            outbox: &Outbox,
            amount: u128,
            tell: impl FnMut(String),
        ) -> Result<Sent, ClientError> {
            let same = |left: &[Message]| left == pay(amount);
            let fresh = async || Ok(pay(amount));
            let sent = outbox.send(&self.chain, &self.wallet, same, fresh, tell);
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
            let tx = setup.signed(&outbox, amount).await;
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
            outbox.told(&sent).expect("forgets");
            assert_eq!(setup.received().await, expected, "kill {kill}");
        }
        // Told: the same command again is a new payment.
        let outbox = setup.outbox();
        let sent = setup.send(&outbox, 10).await.expect("sent");
        assert!(!sent.resumed);
        outbox.told(&sent).expect("forgets");
        assert_eq!(setup.received().await, expected + 10);
        setup.server.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tm_h1_what_was_signed_waits_for_a_node_and_nothing_is_signed_beside_it() {
        let mut setup = setup().await;
        // Killed between the writing and the sending, and the node is away when the command is run again, or another one.
        let outbox = setup.outbox();
        let left = setup.signed(&outbox, 7).await;
        drop(outbox);
        let elsewhere = setup.bed.serve(0, None).await;
        let server = std::mem::replace(&mut setup.server, elsewhere);
        let addr = server.addr();
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
        let server = setup.bed.serve_at(addr, None).await;
        let outbox = setup.outbox();
        let sent = setup.send(&outbox, 7).await.expect("goes on");
        assert!(sent.resumed);
        assert_eq!(sent.receipt.tx, left.id());
        outbox.told(&sent).expect("forgets");
        assert_eq!(setup.received().await, 7);
        server.stop().await;
        setup.server.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_left_is_followed_to_its_end_before_another_command_sends() {
        let setup = setup().await;
        let outbox = setup.outbox();
        let left = setup.signed(&outbox, 7).await;
        let mut told = String::new();
        let other = setup.send_and_tell(&outbox, 9, |text| told = text);
        let other = other.await.expect("sent");
        assert!(!other.resumed);
        assert!(told.contains(&left.id().to_string()), "{told}");
        outbox.told(&other).expect("forgets");
        assert_eq!(setup.received().await, 16);

        // What fails has had its end, and is not sent again.
        let outbox = setup.outbox();
        let failed = setup.send(&outbox, u128::MAX).await;
        assert!(matches!(failed, Err(ClientError::Chain(_))), "{failed:?}");
        drop(outbox);
        let outbox = setup.outbox();
        assert!(outbox.left().expect("reads").is_none());
        let sent = setup.send(&outbox, 1).await.expect("goes on");
        outbox.told(&sent).expect("forgets");
        assert_eq!(setup.received().await, 17);
        setup.server.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_nonce_that_somebody_else_used_is_not_guessed_around() {
        let setup = setup().await;
        let outbox = setup.outbox();
        setup.signed(&outbox, 7).await;
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
        let sent = setup.send(&outbox, 7).await.expect("goes on");
        assert!(sent.resumed);
        outbox.told(&sent).expect("forgets");
        assert_eq!(setup.received().await, 7);
        lying.stop().expect("runs");
        setup.server.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tm_h1_what_a_node_refuses_may_still_run_and_whichever_does_is_known() {
        // What is refused lives for 100 blocks, and must live until there is money.
        let mut setup = setup_on(bed_with_fees(200)).await;
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
        let other = setup.send_and_tell(&outbox, 9, |text| told = text);
        let other = other.await.expect("sent");
        assert!(!other.resumed);
        assert!(told.contains(&left[0].id().to_string()), "{told}");
        outbox.told(&other).expect("forgets");
        assert_eq!(setup.received().await, 16);
        setup.server.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_put_sends_what_was_left_and_leaves_it_to_be_told() {
        let setup = setup().await;
        let outbox = setup.outbox();
        let left = setup.signed(&outbox, 7).await;
        let address = setup.wallet.address();
        let open = outbox.follow(&setup.chain, &address).await;
        assert_eq!(open.expect("follows"), None);
        assert_eq!(setup.received().await, 7);
        let sent = setup.send(&outbox, 7).await.expect("known");
        assert!(sent.resumed);
        assert_eq!(sent.receipt.tx, left.id());
        outbox.told(&sent).expect("forgets");
        assert_eq!(setup.received().await, 7);
        setup.server.stop().await;
    }

    impl Setup {
        /// A payment that took effect and was not told.
        async fn untold(&self, outbox: &Outbox, amount: u128) -> SignedTx {
            let left = self.untold_end(outbox, amount).await;
            left.expect("takes effect")
        }

        /// A payment whose command was killed before it sent.
        async fn signed(&self, outbox: &Outbox, amount: u128) -> SignedTx {
            let now = self.later().await;
            let left = outbox.sign(&self.chain, &self.wallet, Vec::new(), now, pay(amount));
            left.await.expect("durable")
        }

        /// A block takes 20 ms: what is signed with this lives longer than the test.
        async fn later(&self) -> Now {
            let mut now = Chain::now(&self.chain).await.expect("proven");
            now.height += 100_000;
            now
        }

        /// Until it can be proven.
        async fn receives(&self, amount: u128) {
            while self.received().await < amount {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }

        async fn untold_end(&self, outbox: &Outbox, amount: u128) -> Result<SignedTx, ChainError> {
            let left = self.signed(outbox, amount).await;
            self.chain.node().submit(&left).await.expect("taken");
            self.chain.node().wait_tx(&left).await?;
            Ok(left)
        }

        /// A put's deposit, signed with the nonce that a put would take, or one `ahead`.
        async fn deposit(&self, outbox: &Outbox, amount: u128, ahead: u64) -> SignedTx {
            let address = self.wallet.address();
            let open = outbox.follow(&self.chain, &address).await.expect("asks");
            let next = self.chain.money(&address).await.expect("proven").next_nonce;
            let now = self.later().await;
            let nonce = open.unwrap_or(next) + ahead;
            let deposit = Chain::sign(&self.chain, &self.wallet, nonce, now, pay(amount));
            outbox.add(&deposit).expect("kept");
            deposit
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tm_h1_a_deposit_is_remembered_beside_what_took_effect_and_was_not_told() {
        let setup = setup().await;
        // The transfer's command was killed before it told, the put's before it sent.
        let outbox = setup.outbox();
        let left = setup.untold(&outbox, 7).await;
        let deposit = setup.deposit(&outbox, 11, 0).await;
        assert_ne!(deposit.tx.nonce, left.tx.nonce);
        drop(outbox);
        // Another command does not sign under the deposit's nonce.
        let outbox = setup.outbox();
        let mut told = String::new();
        let other = setup.send_and_tell(&outbox, 9, |text| told += &text);
        let other = other.await.expect("sent");
        assert!(!other.resumed);
        for tx in [&left, &deposit] {
            assert!(told.contains(&tx.id().to_string()), "{told}");
        }
        outbox.told(&other).expect("forgets");
        assert_eq!(setup.received().await, 7 + 11 + 9);
        assert_eq!(setup.outbox().left().expect("reads"), None);
        setup.server.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tm_h1_what_is_open_outlives_the_answer_beside_it() {
        let setup = setup().await;
        let outbox = setup.outbox();
        setup.untold(&outbox, 7).await;
        // No node takes it yet: its nonce is far ahead.
        let open = setup.deposit(&outbox, 11, 1 << 20).await;
        let sent = setup.send(&outbox, 7).await.expect("known");
        assert!(sent.resumed);
        outbox.told(&sent).expect("forgets");
        let left = setup.outbox().left().expect("reads");
        assert_eq!(left, Some(vec![open]));
        setup.server.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tm_h1_a_deposit_is_no_answer_and_is_forgotten_when_it_has_had_its_end() {
        let setup = setup().await;
        let outbox = setup.outbox();
        let deposit = setup.deposit(&outbox, 11, 0).await;
        setup.chain.node().submit(&deposit).await.expect("taken");
        setup
            .chain
            .node()
            .wait_tx(&deposit)
            .await
            .expect("included");
        let sent = setup.send(&outbox, 11).await.expect("sent");
        assert!(!sent.resumed, "the deposit was a put's");
        outbox.told(&sent).expect("forgets");
        let outbox = setup.outbox();
        let deposit = setup.deposit(&outbox, 11, 0).await;
        setup.chain.node().submit(&deposit).await.expect("taken");
        let open = outbox.follow(&setup.chain, &setup.wallet.address()).await;
        assert_eq!(open.expect("asks"), None);
        assert_eq!(outbox.left().expect("reads"), None);
        assert_eq!(setup.received().await, 33);
        setup.server.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tm_h1_everything_is_counted_when_what_was_left_has_had_its_end() {
        let setup = setup().await;
        let any = |left: &[Message]| matches!(left, [Message::Transfer { .. }]);
        // On its way: that is the answer, and nothing is counted.
        let outbox = setup.outbox();
        setup.signed(&outbox, 7).await;
        let fresh = async || Err(ClientError::Bug("counted too early".into()));
        let sent = outbox.send(&setup.chain, &setup.wallet, any, fresh, |_| {});
        let sent = sent.await.expect("goes on");
        assert_eq!((sent.resumed, &sent.msgs), (true, &pay(7)));
        outbox.told(&sent).expect("forgets");
        // Dead: its amount is not taken over.
        let outbox = setup.outbox();
        let dead = setup.untold_end(&outbox, u128::MAX).await;
        assert!(dead.is_err(), "nobody has so much");
        let fresh = async || Ok::<_, ClientError>(pay(setup.received().await));
        let sent = outbox.send(&setup.chain, &setup.wallet, any, fresh, |_| {});
        let sent = sent.await.expect("sent");
        assert_eq!((sent.resumed, &sent.msgs), (false, &pay(7)));
        outbox.told(&sent).expect("forgets");
        // Another one that took effect was not there when this was counted.
        let outbox = setup.outbox();
        setup.untold(&outbox, 7).await;
        let none = |_: &[Message]| false;
        let fresh = async || Ok::<_, ClientError>(pay(setup.received().await));
        let sent = outbox.send(&setup.chain, &setup.wallet, none, fresh, |_| {});
        assert_eq!(sent.await.expect("sent").msgs, pay(21));
        setup.server.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tm_h1_a_provider_signs_beside_what_a_command_of_its_owner_has_left() {
        let setup = setup().await;
        let outbox = setup.outbox();
        let left = setup.signed(&outbox, 7).await;
        drop(outbox);
        let node = setup.chain.node();
        let (home, key) = (&setup.home, setup.wallet.signing_key());
        let address = setup.wallet.address();
        for (round, paid) in [(0, 107), (1, 207)] {
            let outbox = setup.outbox();
            let open = outbox.follow_from(home, node, &address).await;
            let open = open.expect("follows");
            assert_eq!(open, None, "round {round}");
            outbox.pay(node, key, open, pay(100)).await.expect("pays");
            let known = outbox.left().expect("reads").expect("kept");
            assert_eq!(known, std::slice::from_ref(&left), "round {round}");
            setup.receives(paid).await;
        }
        // The owner's command is answered, and not as if the provider's were its own.
        let outbox = setup.outbox();
        let sent = setup.send(&outbox, 7).await.expect("known");
        assert!(sent.resumed);
        assert_eq!(sent.receipt.tx, left.id());
        outbox.told(&sent).expect("forgets");
        assert_eq!(setup.received().await, 207);
        setup.server.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tm_h1_what_a_provider_signed_and_lost_is_followed_and_does_not_pile_up() {
        let mut setup = setup_on(bed_with_fees(20)).await;
        let rich = std::mem::replace(&mut setup.wallet, Wallet::from_seed(&[77; 32]));
        let node = setup.chain.node();
        let (home, key) = (&setup.home, setup.wallet.signing_key());
        let poor = setup.wallet.address();
        let outbox = setup.outbox();
        // The node takes none; one of them is too old when the next is signed.
        outbox.pay(node, key, None, pay(7)).await.expect_err("poor");
        let old = outbox.left().expect("reads").expect("kept");
        let until = old[0].tx.valid_until_height;
        while Chain::now(&setup.chain).await.expect("proven").height < until {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        outbox
            .pay(node, key, Some(0), pay(9))
            .await
            .expect_err("poor");
        let open = outbox.follow_from(home, node, &poor).await;
        let left = outbox.left().expect("reads");
        if open.expect("follows").is_some() {
            let left = left.clone().expect("kept");
            assert!(left.iter().all(|tx| tx.tx.msgs == pay(9)), "{left:?}");
        }
        assert!(!left.is_some_and(|left| left.contains(&old[0])));
        // With money, the next round pays once.
        let gift = Message::Transfer {
            to: poor,
            amount: TokenAmount::from_tokens(100),
        };
        let gift = node.execute(rich.signing_key(), vec![gift]).await;
        gift.expect("included");
        let open = outbox.follow_from(home, node, &poor).await;
        outbox
            .pay(node, key, open.expect("follows"), pay(1000))
            .await
            .expect("pays");
        assert_eq!(outbox.left().expect("reads"), None);
        setup.server.stop().await;
    }
}
