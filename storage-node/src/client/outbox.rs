//! One transaction of this wallet, sent once: a kill at any instruction and the same command again charge nothing twice.
//!
//! Place: between the commands that move money (`wallet`, `channel`, `datacap`) and the chain. A put has its own journal
//! ([`super::journal`]), because its transaction is a part of something larger.
//!
//! ```text
//! <home>/client/outbox-<chain id>   the signed transaction whose end was not told to the caller yet
//! record = version u16 ‖ borsh(signed transaction) ‖ BLAKE3 of it, 32 bytes
//! ```
//! The transaction is durable before it is submitted, and forgotten after its result was printed ([`Outbox::told`]). What an
//! interrupted command has left is followed to its end first: if it took effect and the same messages are asked for again, that
//! *is* the answer; anything else is then sent anew. As long as the chain has not proven that a left-over can no longer be
//! included, what is sent instead carries its nonce, so that one of the two can run, whatever a node says.
//!
//! Spec: `DESIGN.md` §6 promises 2 and 4. Cost: one fsync; memory: one transaction. One command of a wallet at a time
//! ([`WalletLock`]).

use std::path::{Path, PathBuf};

use borsh::{BorshDeserialize, BorshSerialize};
use chain_lite::account::ChainId;
use chain_lite::execute::Receipt;
use chain_lite::message::{Message, SignedTx};

use super::journal::{WalletLock, read_record, remove_record, write_record};
use super::live::{disbelief, failure};
use super::{Chain, ClientError};
use crate::chain::proven::{ProvenChain, ProvenError};
use crate::chain::{ChainError, TxStatus};
use crate::config::Home;
use crate::identity::Wallet;

const VERSION: u16 = 1;

#[derive(BorshSerialize, BorshDeserialize)]
struct Record {
    version: u16,
    tx: SignedTx,
}

/// A transaction that took effect, proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its receipt.
    pub receipt: Receipt,
    /// Whether an earlier command had sent it and was interrupted.
    pub resumed: bool,
}

/// What became of a left-over.
enum Left {
    /// It took effect.
    Applied(Receipt),
    /// It can never run: it failed, or it is too old and its nonce is unused.
    Over,
    /// The pool does not take it and nobody has proven that it is too old: its nonce must be used for what comes instead.
    Nonce(u64),
}

/// The wallet's outbox for one chain. Holds the wallet's lock.
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

    /// Whether an interrupted command has left exactly these messages. Takes no lock.
    pub fn is_left(home: &Home, chain: &ChainId, msgs: &[Message]) -> Result<bool, ClientError> {
        let left = read(&file(home, chain))?;
        Ok(left.is_some_and(|left| left.tx.msgs == msgs))
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
        let mut nonce = None;
        if let Some(left) = self.left()? {
            let same = left.tx.sender == wallet.address() && left.tx.msgs == msgs;
            match self.chase(chain, &left).await? {
                Left::Applied(receipt) if same => {
                    return Ok(Sent {
                        receipt,
                        resumed: true,
                    });
                }
                Left::Applied(receipt) => tell(format!(
                    "an interrupted command's transaction {} ({}) took effect",
                    receipt.tx,
                    names(&left)
                )),
                Left::Over => {}
                Left::Nonce(unused) if left.tx.sender == wallet.address() => nonce = Some(unused),
                Left::Nonce(_) => {}
            }
        }
        let tx = self.sign(chain, wallet, nonce, msgs).await?;
        if let Err(error) = chain.node().submit(&tx).await {
            if !error.is_transient() {
                self.clear()?;
            }
            return Err(failure(error).into());
        }
        let receipt = self.finish(chain, &tx).await?;
        Ok(Sent {
            receipt,
            resumed: false,
        })
    }

    /// The result was printed: nothing is left.
    pub fn told(self) -> Result<(), ClientError> {
        self.clear()
    }

    /// Signs, and makes it durable.
    async fn sign(
        &self,
        chain: &ProvenChain,
        wallet: &Wallet,
        nonce: Option<u64>,
        msgs: Vec<Message>,
    ) -> Result<SignedTx, ClientError> {
        let money = chain.money(&wallet.address()).await?;
        let now = chain.now().await?;
        let nonce = nonce.unwrap_or(money.next_nonce);
        let tx = Chain::sign(chain, wallet, nonce, now, msgs);
        let record = Record {
            version: VERSION,
            tx,
        };
        write_record(&self.path, &record)?;
        Ok(record.tx)
    }

    /// Waits for the proof of its success. What failed is forgotten: it has had its end.
    async fn finish(&self, chain: &ProvenChain, tx: &SignedTx) -> Result<Receipt, ClientError> {
        match chain.node().wait_tx(tx).await {
            Ok(_) | Err(ChainError::Failed { .. }) => {}
            Err(error) => return Err(failure(error).into()),
        }
        let confirmed = chain.confirm(tx).await;
        if matches!(
            confirmed,
            Err(ProvenError::Chain(ChainError::Failed { .. }))
        ) {
            self.clear()?;
        }
        Ok(confirmed.map_err(disbelief)?)
    }

    /// Follows a left-over to its end.
    async fn chase(&self, chain: &ProvenChain, left: &SignedTx) -> Result<Left, ClientError> {
        let node = chain.node();
        let known = node.tx_status(&left.id()).await.map_err(failure)?;
        if known == TxStatus::Unknown {
            let money = chain.money(&left.tx.sender).await?;
            if money.nonce > left.tx.nonce {
                return Err(ClientError::Unclear {
                    tx: left.id(),
                    path: self.path.clone(),
                });
            }
            if chain.now().await?.height >= left.tx.valid_until_height {
                return Ok(Left::Over);
            }
            match node.submit(left).await {
                Ok(_) => {}
                Err(error) if error.is_transient() => return Err(failure(error).into()),
                Err(_) => return Ok(Left::Nonce(left.tx.nonce)),
            }
        }
        match self.finish(chain, left).await {
            Ok(receipt) => Ok(Left::Applied(receipt)),
            // `finish` forgot it, so it failed.
            Err(_) if self.left()?.is_none() => Ok(Left::Over),
            Err(error) => Err(error),
        }
    }

    fn left(&self) -> Result<Option<SignedTx>, ClientError> {
        read(&self.path)
    }

    fn clear(&self) -> Result<(), ClientError> {
        remove_record(&self.path)
    }
}

fn file(home: &Home, chain: &ChainId) -> PathBuf {
    home.client_dir().join(format!("outbox-{chain}"))
}

fn read(path: &Path) -> Result<Option<SignedTx>, ClientError> {
    let record: Option<Record> = read_record(path)?;
    match record {
        Some(record) if record.version != VERSION => Err(ClientError::Journal {
            path: path.to_owned(),
            reason: "it was written by another version".into(),
        }),
        found => Ok(found.map(|record| record.tx)),
    }
}

/// What a transaction asks for, for people.
fn names(tx: &SignedTx) -> String {
    let names: Vec<&str> = tx.tx.msgs.iter().map(Message::name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use chain_lite::account::Address;
    use chain_lite::bundle::Anchor;
    use chain_lite::units::TokenAmount;

    use super::*;
    use crate::chain::ChainClient;
    use crate::rpc::tests::{address, bed};
    use crate::rpc::{RpcHandle, reads};

    struct Setup {
        _dir: tempfile::TempDir,
        home: Home,
        chain: ProvenChain,
        wallet: Wallet,
        server: RpcHandle,
        bed: crate::rpc::tests::Bed,
    }

    async fn setup() -> Setup {
        let bed = bed();
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
            let tx = outbox.sign(&setup.chain, &setup.wallet, None, pay(amount));
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
    async fn what_was_left_is_followed_to_its_end_before_another_command_sends() {
        let setup = setup().await;
        let outbox = setup.outbox();
        let left = outbox.sign(&setup.chain, &setup.wallet, None, pay(7));
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
        let left = outbox.sign(&setup.chain, &setup.wallet, None, pay(7));
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
}
