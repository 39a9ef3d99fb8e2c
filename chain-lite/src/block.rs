//! Blocks: what is proposed, hashed, signed and logged.
//!
//! Walk: [`crate::ledger`] builds and judges blocks, an engine finalises them, [`crate::log`] keeps them.
//! Spec: `consensus.md` §6, with epoch and beacon entries (`DESIGN.md` §5).
//!
//! ```text
//! header: see [`holdfast_light::header`], 286 bytes; the block id is its hash
//! body   = beacon entries ‖ transactions                                                     (borsh vectors)
//! tx root leaves      = borsh(beacon entries), then each transaction's bytes
//! receipt root leaves = borsh(events of the epoch), then for each transaction borsh(receipt, its events)
//! ```
//! The header carries the state root and receipt root *after the previous block*, so a block can be judged without
//! executing it, and header h+1 proves what block h did. Certificates stay outside the id (`consensus.md` §4, trap 10).

use borsh::{BorshDeserialize, BorshSerialize};

use crate::beacon::Entry;
use crate::certificate::Certificate;
use crate::codec;
use crate::events::EventRecord;
use crate::execute::Receipt;
use crate::merkle::{self, Hash, List};
use crate::message::SignedTx;

pub use holdfast_light::certificate::BlockId;
pub use holdfast_light::header::{BLOCK_VERSION, Header};

/// Largest body in bytes; checked before any signature or proof (`tm_v6`).
pub const MAX_BODY_BYTES: usize = 4 << 20;
/// Most transactions of a block.
pub const MAX_BLOCK_TXS: usize = 16_384;
/// Most Groth16 proofs of a block: at 3 ms each a block stays below a second of verification.
pub const MAX_BLOCK_PROOFS: u64 = 256;
const _: () = assert!(MAX_BODY_BYTES * 2 < crate::log::MAX_PAYLOAD);

/// What a block carries.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Body {
    /// Beacon rounds that became due, oldest first.
    pub beacons: Vec<Entry>,
    /// Transactions, in the order of their execution.
    pub txs: Vec<SignedTx>,
}

impl Body {
    /// The header's `tx_root`.
    pub fn root(&self) -> Hash {
        merkle::root(List::Transactions, &self.leaves())
    }

    /// The leaves under [`Body::root`]: transaction `i` is leaf `i + 1`.
    pub fn leaves(&self) -> Vec<Vec<u8>> {
        let first = codec::encode(&self.beacons);
        std::iter::once(first)
            .chain(self.txs.iter().map(SignedTx::to_bytes))
            .collect()
    }
}

/// A proposed block.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Block {
    /// What is signed.
    pub header: Header,
    /// What it carries.
    pub body: Body,
}

impl Block {
    /// The block's name.
    pub fn id(&self) -> BlockId {
        self.header.id()
    }
}

/// A final block: what the log stores and an auditor replays.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct FinalBlock {
    /// The block.
    pub block: Block,
    /// Why it is final.
    pub certificate: Certificate,
}

impl FinalBlock {
    /// The log's payload.
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// From the log's payload; canonical or nothing.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, codec::CodecError> {
        codec::decode(bytes, crate::log::MAX_PAYLOAD)
    }
}

/// What a block did, as the ledger keeps it beside the log and serves it.
#[derive(
    Clone,
    Debug,
    Default,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Outcomes {
    /// One for each transaction, in order.
    pub receipts: Vec<Receipt>,
    /// All events, in order.
    pub events: Vec<EventRecord>,
}

impl Outcomes {
    /// What the next header commits to.
    pub fn root(&self) -> Hash {
        merkle::root(List::Receipts, &self.leaves())
    }

    /// The leaves under [`Outcomes::root`]: the receipt of transaction `i` is leaf `i + 1`.
    pub fn leaves(&self) -> Vec<Vec<u8>> {
        let of = |tx: Option<u32>| {
            self.events
                .iter()
                .filter(|e| e.tx == tx)
                .collect::<Vec<_>>()
        };
        let mut by_tx: Vec<Vec<&EventRecord>> = vec![Vec::new(); self.receipts.len()];
        for event in &self.events {
            if let Some(list) = event.tx.and_then(|i| by_tx.get_mut(i as usize)) {
                list.push(event);
            }
        }
        let receipts = self
            .receipts
            .iter()
            .zip(&by_tx)
            .map(|pair| codec::encode(&pair));
        std::iter::once(codec::encode(&of(None)))
            .chain(receipts)
            .collect()
    }
}

/// Any bytes as a logged block: refused, or exactly what it would be written as. Body of the fuzz target.
pub fn fuzz_final_block(bytes: &[u8]) {
    if let Ok(last) = FinalBlock::from_bytes(bytes) {
        assert_eq!(last.to_bytes(), bytes, "one encoding per value");
        last.block.body.root();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::account::{Address, ChainId};
    use crate::certificate::ValidatorId;
    use crate::message::{Message, Tx, sign};
    use crate::units::{Epoch, TokenAmount};

    pub fn header() -> Header {
        Header {
            version: BLOCK_VERSION,
            chain_id: ChainId([1; 32]),
            height: 2,
            epoch: Epoch(3),
            time_ms: 4,
            parent_id: BlockId([5; 32]),
            prev_state_root: [6; 32],
            tx_root: [7; 32],
            prev_receipt_root: [8; 32],
            validators_hash: [9; 32],
            next_validators_hash: [10; 32],
            proposer: ValidatorId([11; 32]),
            round: 12,
        }
    }

    fn tx(nonce: u64) -> SignedTx {
        let key = ed25519_dalek::SigningKey::from_bytes(&[3; 32]);
        let msgs = vec![Message::Transfer {
            to: Address([4; 32]),
            amount: TokenAmount(5),
        }];
        let tx = Tx {
            version: 1,
            chain_id: ChainId([1; 32]),
            sender: Address::of(&key.verifying_key()),
            nonce,
            fee_limit: TokenAmount(0),
            valid_until_height: 9,
            msgs,
        };
        sign(tx, &key)
    }

    #[test]
    fn the_body_root_binds_order_count_and_beacons() {
        let body = |beacons: &[u64], nonces: &[u64]| Body {
            beacons: beacons
                .iter()
                .map(|r| Entry {
                    round: *r,
                    sig: [0; 48],
                })
                .collect(),
            txs: nonces.iter().map(|n| tx(*n)).collect(),
        };
        let all = [
            body(&[], &[]),
            body(&[1], &[]),
            body(&[1, 2], &[]),
            body(&[], &[0]),
            body(&[], &[0, 1]),
            body(&[], &[1, 0]),
            body(&[1], &[0, 1]),
        ];
        let roots: std::collections::BTreeSet<Hash> = all.iter().map(Body::root).collect();
        assert_eq!(roots.len(), all.len());
    }

    #[test]
    fn tm_v11_final_blocks_have_one_encoding() {
        let block = Block {
            header: header(),
            body: Body {
                beacons: vec![],
                txs: vec![tx(0)],
            },
        };
        let certificate = Certificate::Ed25519V1 {
            height: 2,
            round: 0,
            block: block.id(),
            sigs: vec![],
        };
        let last = FinalBlock { block, certificate };
        let bytes = last.to_bytes();
        assert_eq!(FinalBlock::from_bytes(&bytes).unwrap(), last);
        for len in 0..bytes.len() {
            assert!(FinalBlock::from_bytes(&bytes[..len]).is_err());
        }
        assert!(FinalBlock::from_bytes(&[bytes.as_slice(), &[0]].concat()).is_err());
    }
}
