//! The worker's transactions (and a watcher's): one account, several under way, each followed to its end.
//!
//! Place: between [`super::worker`] or [`crate::watch`], which hand in messages, and the chain's pool. Spec: `chain.md` §20 (strictly
//! sequential nonces), `consensus.md` §6.
//!
//! A nonce is given out once and belongs to its transaction until the chain has used it or the transaction can no longer
//! be included; then the next submission takes it first, so that a lost transaction never blocks those behind it.
//! Nothing here is durable. After a crash the first nonce comes from the chain *before* the first picture of it: what the old
//! process sent has then either landed, and the picture shows it, or still holds the same nonce as what the new one sends,
//! and only one of the two can ever be included. So nothing is done twice.
//! Cost: one status query for each transaction under way and each new block.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use chain_lite::account::{Address, TxId};
use chain_lite::execute;
use chain_lite::message::{Message, SignedTx, sign};
use ed25519_dalek::SigningKey;

use super::lifecycle::{OpKey, Outcome};
use crate::chain::{ChainClient, ChainError, TxStatus};

/// Blocks that a transaction may wait. Short: a deadline's window is, and what is lost is decided anew.
const LIFE_BLOCKS: u64 = 15;

/// Sends the worker's messages; `K` names what each is for.
pub struct TxSender<K = OpKey> {
    chain: ChainClient,
    key: SigningKey,
    address: Address,
    next_nonce: u64,
    /// Nonces below `next_nonce` whose transactions can no longer be included.
    free: BTreeSet<u64>,
    under_way: BTreeMap<u64, Sent<K>>,
}

struct Sent<K> {
    op: K,
    tx: SignedTx,
    id: TxId,
}

impl<K: Copy + Display> TxSender<K> {
    /// Starts from the chain's nonce. Call before the first picture of the chain is taken; see the front page.
    pub async fn new(chain: ChainClient, key: SigningKey) -> Result<Self, ChainError> {
        let address = Address::of(&key.verifying_key());
        let next_nonce = chain.account(&address).await?.nonce;
        Ok(Self {
            chain,
            key,
            address,
            next_nonce,
            free: BTreeSet::new(),
            under_way: BTreeMap::new(),
        })
    }

    /// Transactions under way.
    pub fn waiting(&self) -> usize {
        self.under_way.len()
    }

    /// Signs and sends messages for `op`. `Some` if they came to their end at once: the pool refused them.
    pub async fn submit(&mut self, op: K, msgs: Vec<Message>, height: u64) -> Option<Outcome> {
        for attempt in 0..2 {
            let nonce = self.take_nonce();
            let mut tx = self.chain.tx(self.address, nonce, height, msgs.clone());
            tx.valid_until_height = height.saturating_add(LIFE_BLOCKS);
            let tx = sign(tx, &self.key);
            let id = tx.id();
            match self.chain.submit(&tx).await {
                // Unreachable: it may have arrived. It is sent again until it is included or too old.
                Ok(_) | Err(ChainError::Unreachable { .. }) => {
                    self.under_way.insert(nonce, Sent { op, tx, id });
                    return None;
                }
                Err(error) => {
                    tracing::warn!(%op, %error, nonce, "a transaction was not taken");
                    let moved = self.resynchronise(nonce).await;
                    if attempt == 1 || !moved {
                        return Some(Outcome::Refused(error.to_string()));
                    }
                }
            }
        }
        Some(Outcome::Lost)
    }

    /// What has come to its end by now. The caller shows the machine a newer picture of the chain before it tells it.
    pub async fn poll(&mut self, height: u64) -> Vec<(K, Outcome)> {
        let mut ended = Vec::new();
        let nonces: Vec<u64> = self.under_way.keys().copied().collect();
        for nonce in nonces {
            let Some(sent) = self.under_way.get(&nonce) else {
                continue;
            };
            let outcome = match self.chain.tx_status(&sent.id).await {
                Ok(TxStatus::Included { receipt, .. }) => {
                    Some((outcome_of(&receipt), used(&receipt)))
                }
                Ok(TxStatus::Pending) => None,
                Ok(TxStatus::Unknown) => self.chase(sent, height).await,
                Err(_) => None,
            };
            if let Some((outcome, nonce_used)) = outcome
                && let Some(sent) = self.under_way.remove(&nonce)
            {
                if !nonce_used {
                    self.free.insert(nonce);
                }
                ended.push((sent.op, outcome));
            }
        }
        ended
    }

    /// A transaction that neither pool nor chain knows: send it again, or give it up when it is too old or its nonce is gone.
    async fn chase(&self, sent: &Sent<K>, height: u64) -> Option<(Outcome, bool)> {
        if height >= sent.tx.tx.valid_until_height {
            // It may have been included in the last block it was valid for, after we asked.
            return match self.chain.tx_status(&sent.id).await {
                Ok(TxStatus::Unknown) => Some((Outcome::Lost, false)),
                Ok(TxStatus::Included { receipt, .. }) => {
                    Some((outcome_of(&receipt), used(&receipt)))
                }
                Ok(TxStatus::Pending) | Err(_) => None,
            };
        }
        match self.chain.submit(&sent.tx).await {
            Ok(_) | Err(ChainError::Unreachable { .. }) => None,
            Err(error) => {
                let used = match self.chain.account(&self.address).await {
                    Ok(account) => account.nonce > sent.tx.tx.nonce,
                    Err(_) => return None,
                };
                tracing::warn!(op = %sent.op, %error, "a transaction was given up");
                Some((Outcome::Lost, used))
            }
        }
    }

    fn take_nonce(&mut self) -> u64 {
        self.free.pop_first().unwrap_or_else(|| {
            let nonce = self.next_nonce;
            self.next_nonce = self.next_nonce.saturating_add(1);
            nonce
        })
    }

    /// After a refusal: takes over the chain's nonce if it is ahead of us. True if that may help.
    async fn resynchronise(&mut self, refused: u64) -> bool {
        let Ok(account) = self.chain.account(&self.address).await else {
            self.free.insert(refused);
            return false;
        };
        if account.nonce > refused {
            self.free = self.free.split_off(&account.nonce);
            self.next_nonce = self.next_nonce.max(account.nonce);
            return true;
        }
        self.free.insert(refused);
        false
    }
}

fn outcome_of(receipt: &execute::Receipt) -> Outcome {
    match receipt.error() {
        None => Outcome::Accepted,
        Some(error) => Outcome::Refused(error.to_string()),
    }
}

/// Whether the chain has used the transaction's nonce.
fn used(receipt: &execute::Receipt) -> bool {
    !matches!(receipt.outcome, execute::Outcome::Refused { .. })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use chain_lite::units::TokenAmount;
    use prover::SectorNumber;

    use super::*;
    use crate::rpc::tests::{address, bed_of_slow_blocks, key};

    fn pay(amount: u128) -> Vec<Message> {
        vec![Message::Transfer {
            to: address(5),
            amount: TokenAmount(amount),
        }]
    }

    fn op(number: u64) -> OpKey {
        OpKey::PreCommit(SectorNumber(number))
    }

    async fn all(sender: &mut TxSender, chain: &ChainClient) -> Vec<(OpKey, Outcome)> {
        let begun = Instant::now();
        let mut ended = Vec::new();
        while sender.waiting() > 0 {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "transactions never ended"
            );
            let height = chain.head().await.expect("reads").height;
            ended.extend(sender.poll(height).await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        ended.sort_by_key(|(op, _)| *op);
        ended
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn several_are_under_way_and_each_outcome_reaches_its_own_op() {
        let bed = bed_of_slow_blocks();
        let server = bed.serve(0, None).await;
        let chain = ChainClient::connect(&server.url()).await.expect("connects");
        let mut sender = TxSender::new(chain.clone(), key(1))
            .await
            .expect("reads the nonce");
        let height = chain.head().await.expect("reads").height;
        for number in 0..6 {
            // The fourth breaks a rule; those behind it go on.
            let amount = if number == 3 { u128::MAX } else { 1 };
            assert_eq!(sender.submit(op(number), pay(amount), height).await, None);
        }
        let ended = all(&mut sender, &chain).await;
        for (number, (found, outcome)) in (0u64..).zip(&ended) {
            assert_eq!(*found, op(number));
            let refused = matches!(outcome, Outcome::Refused(_));
            assert_eq!(refused, number == 3, "{number}: {outcome:?}");
        }
        assert_eq!(
            chain.account(&address(5)).await.expect("reads").free,
            TokenAmount(5)
        );
        server.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_nonce_that_was_not_used_is_used_next_and_a_foreign_one_is_skipped() {
        let bed = bed_of_slow_blocks();
        let server = bed.serve(0, None).await;
        let chain = ChainClient::connect(&server.url()).await.expect("connects");
        let mut sender = TxSender::new(chain.clone(), key(1))
            .await
            .expect("reads the nonce");
        let mut heads = chain.subscribe_heads();
        while chain.head().await.expect("reads").height < LIFE_BLOCKS + 2 {
            heads.changed().await.expect("the chain goes on");
        }
        // Too old before it is sent: the pool refuses it.
        let outcome = sender.submit(op(0), pay(1), 0).await;
        assert!(matches!(outcome, Some(Outcome::Refused(_))), "{outcome:?}");
        let height = chain.head().await.expect("reads").height;
        assert_eq!(sender.submit(op(1), pay(1), height).await, None);
        assert_eq!(
            all(&mut sender, &chain).await,
            vec![(op(1), Outcome::Accepted)]
        );

        // Another process with the same key took the next nonce.
        chain.execute(&key(1), pay(1)).await.expect("included");
        let height = chain.head().await.expect("reads").height;
        assert_eq!(sender.submit(op(2), pay(1), height).await, None);
        assert_eq!(
            all(&mut sender, &chain).await,
            vec![(op(2), Outcome::Accepted)]
        );
        assert_eq!(
            chain.account(&address(5)).await.expect("reads").free,
            TokenAmount(3)
        );
        server.stop().await;
    }
}
