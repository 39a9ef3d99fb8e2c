//! The light client: headers, certificates and short proofs, no state and no engine.
//!
//! Walk: an auditor or wallet starts from the genesis validators or from a (height, block id) given out of band, follows
//! headers, and checks single facts: a leaf of the state, a transaction, a receipt. Spec: `consensus.md` §7.
//!
//! * *adjacent step*: the header's validators are those its parent announced, more than 2/3 of them signed;
//! * *skipping step*: more than 2/3 of the new set **and** more than 1/3 of the trusted set signed, inside the trust period
//!   (without the period, keys sold long ago could sign a forged present: `tm_v12`).
//!
//! Header `h + 1` carries the roots after block `h`, so a fact about block `h` is proven with the header of `h + 1`.
//! Everything here is pure and calm on any input; sizes are bounded by the certificate's and the paths' own limits.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::account::ChainId;
use crate::block::{BLOCK_VERSION, BlockId, Header};
use crate::certificate::{CertError, Certificate, Validator, ValidatorSet};
use crate::codec;
use crate::genesis::CheckedGenesis;
use crate::ledger::{Ledger, LedgerError};
use crate::merkle::{self, Hash, List};
use crate::tree::LeafProof;

/// A header with the reason why it is final.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct LightBlock {
    /// The header.
    pub header: Header,
    /// Its certificate.
    pub certificate: Certificate,
    /// The validators of its height; checked against the header.
    pub validators: Vec<Validator>,
}

/// A state leaf (or its absence) under a final header.
#[derive(Clone, Debug, PartialEq, BorshSerialize, BorshDeserialize)]
pub struct StateBundle {
    /// The header after the block whose state is shown.
    pub light: LightBlock,
    /// The state key.
    pub key: Vec<u8>,
    /// Its value, or none.
    pub value: Option<Vec<u8>>,
    /// The path to the header's state root.
    pub proof: LeafProof,
}

/// A transaction's receipt under a final header.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ReceiptBundle {
    /// The header after the block that carried the transaction.
    pub light: LightBlock,
    /// borsh of (receipt, its events).
    pub leaf: Vec<u8>,
    /// The path to the header's receipt root.
    pub path: merkle::Path,
}

/// Why a light client does not believe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LightError {
    /// The header is of another chain, version or time order.
    #[error("the header of block {height}: {field} does not fit what is trusted")]
    Header {
        /// Its height.
        height: u64,
        /// What does not fit.
        field: &'static str,
    },
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] CertError),
    /// Too little of the trusted set signed.
    #[error(
        "validators with power {signed} of the trusted {total} signed; a skip needs more than a third, go through blocks in between"
    )]
    TooFar {
        /// Power that signed.
        signed: u64,
        /// Power of the trusted set.
        total: u64,
    },
    /// What is trusted is too old.
    #[error(
        "the trusted block is older than the trust period; get a newer height and block id from somebody you trust"
    )]
    Expired,
    /// Two final blocks at one height.
    #[error(
        "two final blocks at height {height}: {ours} and {theirs}; keep both certificates, they are evidence"
    )]
    Fork {
        /// The height.
        height: u64,
        /// The trusted one.
        ours: BlockId,
        /// The other.
        theirs: BlockId,
    },
    /// The fact is not under the header's root.
    #[error("the proof does not lead to the header's root")]
    Proof,
}

/// What a light client believes: one final block.
#[derive(Clone, Debug)]
pub struct LightClient {
    chain_id: ChainId,
    height: u64,
    id: BlockId,
    time_ms: u64,
    validators: ValidatorSet,
    next_validators_hash: Hash,
    trust_period_ms: u64,
}

impl LightClient {
    /// Trusts the genesis alone.
    pub fn from_genesis(genesis: &CheckedGenesis, trust_period_ms: u64) -> Self {
        Self {
            chain_id: genesis.chain_id(),
            height: 0,
            id: genesis.parent_of_first(),
            time_ms: genesis.genesis().time_ms,
            validators: genesis.validators().clone(),
            next_validators_hash: genesis.validators().hash(),
            trust_period_ms,
        }
    }

    /// Trusts a block whose id was given out of band, once its header and validators match that id.
    pub fn from_trusted(
        chain_id: ChainId,
        id: BlockId,
        light: &LightBlock,
        trust_period_ms: u64,
    ) -> Result<Self, LightError> {
        let validators = check_block(&chain_id, light)?;
        let height = light.header.height;
        if light.header.id() != id {
            return Err(LightError::Header {
                height,
                field: "id",
            });
        }
        let mut client = Self {
            chain_id,
            height,
            id,
            time_ms: 0,
            next_validators_hash: [0; 32],
            validators: validators.clone(),
            trust_period_ms,
        };
        client.take(light, validators);
        Ok(client)
    }

    /// Height of the newest block believed.
    pub fn height(&self) -> u64 {
        self.height
    }

    /// Its id.
    pub fn id(&self) -> BlockId {
        self.id
    }

    /// Believes a later block: the next one, or one further ahead if enough trusted validators signed it. `now_ms` is Unix time.
    pub fn advance(&mut self, light: &LightBlock, now_ms: u64) -> Result<(), LightError> {
        let header = &light.header;
        let height = header.height;
        let bad = |field| Err(LightError::Header { height, field });
        let validators = check_block(&self.chain_id, light)?;
        if height == self.height && self.height > 0 {
            return match header.id() == self.id {
                true => Ok(()),
                false => Err(LightError::Fork {
                    height,
                    ours: self.id,
                    theirs: header.id(),
                }),
            };
        }
        if height <= self.height {
            return bad("height");
        }
        if header.time_ms <= self.time_ms {
            return bad("time");
        }
        if self.time_ms.saturating_add(self.trust_period_ms) < now_ms {
            return Err(LightError::Expired);
        }
        if height == self.height + 1 {
            if header.parent_id != self.id {
                return bad("parent");
            }
            if header.validators_hash != self.next_validators_hash {
                return bad("validators");
            }
        } else {
            let signed = light.certificate.signed_power(
                &self.chain_id,
                height,
                &header.id(),
                &self.validators,
                false,
            )?;
            let total = self.validators.total_power();
            if signed * 3 <= total {
                return Err(LightError::TooFar { signed, total });
            }
        }
        self.take(light, validators);
        Ok(())
    }

    fn take(&mut self, light: &LightBlock, validators: ValidatorSet) {
        self.height = light.header.height;
        self.id = light.header.id();
        self.time_ms = light.header.time_ms;
        self.next_validators_hash = light.header.next_validators_hash;
        self.validators = validators;
    }

    /// Whether a state leaf has this value (or is absent) after the block before the bundle's header; the header is
    /// believed on the way.
    pub fn check_state(&mut self, bundle: &StateBundle, now_ms: u64) -> Result<(), LightError> {
        self.advance(&bundle.light, now_ms)?;
        let root = &bundle.light.header.prev_state_root;
        let holds = bundle
            .proof
            .verify(root, &bundle.key, bundle.value.as_deref());
        if holds {
            Ok(())
        } else {
            Err(LightError::Proof)
        }
    }

    /// Whether the bundle's receipt is of the block before its header; the header is believed on the way.
    pub fn check_receipt(&mut self, bundle: &ReceiptBundle, now_ms: u64) -> Result<(), LightError> {
        self.advance(&bundle.light, now_ms)?;
        // Leaf 0 holds the epoch's own events and is nobody's receipt.
        let root = &bundle.light.header.prev_receipt_root;
        let holds = bundle.path.index > 0 && bundle.path.verify(List::Receipts, &bundle.leaf, root);
        if holds {
            Ok(())
        } else {
            Err(LightError::Proof)
        }
    }
}

/// What can be said about a light block alone: version, chain, its validators, their quorum.
fn check_block(chain_id: &ChainId, light: &LightBlock) -> Result<ValidatorSet, LightError> {
    let header = &light.header;
    let bad = |field| {
        Err(LightError::Header {
            height: header.height,
            field,
        })
    };
    if header.version != BLOCK_VERSION {
        return bad("version");
    }
    if header.chain_id != *chain_id {
        return bad("chain");
    }
    let validators = ValidatorSet::new(light.validators.clone())?;
    if validators.hash() != header.validators_hash {
        return bad("validators");
    }
    light
        .certificate
        .verify(chain_id, header.height, &header.id(), &validators)?;
    Ok(validators)
}

/// The header of `height` as a light block.
pub fn light_block(ledger: &Ledger, height: u64) -> Result<LightBlock, LedgerError> {
    let last = ledger.block(height)?;
    let validators = ledger.validators().validators().to_vec();
    Ok(LightBlock {
        header: last.block.header,
        certificate: last.certificate,
        validators,
    })
}

/// Proves a state leaf under the newest header, which shows the state one block before the tip.
pub fn state_bundle(ledger: &Ledger, key: &[u8]) -> Result<StateBundle, LedgerError> {
    let tip = ledger.tip().height;
    let view = tip.checked_sub(1).and_then(|h| ledger.view_at(h));
    let Some(view) = view else {
        // Right after a start only the tip's own state is at hand; the next block makes it provable.
        return Err(LedgerError::NoBlock {
            height: tip + 1,
            tip,
        });
    };
    let value = crate::state::KvRead::get(&view, key)?;
    Ok(StateBundle {
        light: light_block(ledger, tip)?,
        key: key.to_vec(),
        value,
        proof: view.prove(key)?,
    })
}

/// Proves a transaction's receipt, once a block after its own is final.
pub fn receipt_bundle(
    ledger: &Ledger,
    tx: &crate::account::TxId,
) -> Result<Option<ReceiptBundle>, LedgerError> {
    let Some((height, index, _)) = ledger.receipt(tx)? else {
        return Ok(None);
    };
    let leaves = ledger.outcomes(height)?.leaves();
    let at = index as usize + 1;
    let light = light_block(ledger, height + 1)?;
    let path = merkle::path(List::Receipts, &leaves, at);
    Ok(path.map(|path| ReceiptBundle {
        light,
        leaf: leaves[at].clone(),
        path,
    }))
}

impl StateBundle {
    /// Bytes for the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(self)
    }
}

/// Any bytes as a light client's bundles: refused, or judged without panic, and never believed by a client that trusts another
/// chain. Body of the fuzz target.
pub fn fuzz_bundles(bytes: &[u8]) {
    const MAX: usize = 1 << 20;
    let validator = Validator {
        id: crate::certificate::ValidatorId(SOME_KEY),
        power: 1,
    };
    let Ok(validators) = ValidatorSet::new(vec![validator]) else {
        return;
    };
    let mut client = LightClient {
        chain_id: ChainId([0xee; 32]),
        height: 0,
        id: BlockId([0; 32]),
        time_ms: 0,
        next_validators_hash: validators.hash(),
        validators,
        trust_period_ms: u64::MAX,
    };
    if let Ok(bundle) = codec::decode::<StateBundle>(bytes, MAX) {
        assert!(client.check_state(&bundle, 0).is_err());
    }
    if let Ok(bundle) = codec::decode::<ReceiptBundle>(bytes, MAX) {
        assert!(client.check_receipt(&bundle, 0).is_err());
    }
}

/// A usable ed25519 key: the first test vector of RFC 8032. Its secret is public, which does no harm in a fuzz target.
const SOME_KEY: [u8; 32] = [
    0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07, 0x3a,
    0x0e, 0xe1, 0x72, 0xf3, 0xda, 0xa6, 0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07, 0x51, 0x1a,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::tests::{address, advance, genesis, open, user, validator};
    use crate::state::key;

    const DAY_MS: u64 = 86_400_000;

    fn chain(blocks: u64) -> (tempfile::TempDir, Ledger) {
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path(), &genesis(3)).unwrap();
        advance(&ledger, blocks);
        (home, ledger)
    }

    #[test]
    fn follows_adjacent_and_skipping_steps_from_genesis() {
        let (_home, ledger) = chain(6);
        let mut client = LightClient::from_genesis(ledger.genesis(), DAY_MS);
        let now = ledger.tip().time_ms;
        client
            .advance(&light_block(&ledger, 1).unwrap(), now)
            .unwrap();
        client
            .advance(&light_block(&ledger, 2).unwrap(), now)
            .unwrap();
        client
            .advance(&light_block(&ledger, 6).unwrap(), now)
            .unwrap();
        assert_eq!(client.id(), ledger.tip().id);
        assert!(
            client
                .advance(&light_block(&ledger, 3).unwrap(), now)
                .is_err(),
            "never backwards"
        );
        let anchor = light_block(&ledger, 4).unwrap();
        let id = anchor.header.id();
        let mut other = LightClient::from_trusted(ledger.chain_id(), id, &anchor, DAY_MS).unwrap();
        other
            .advance(&light_block(&ledger, 5).unwrap(), now)
            .unwrap();
        assert!(
            LightClient::from_trusted(ledger.chain_id(), BlockId([0; 32]), &anchor, DAY_MS)
                .is_err()
        );
    }

    #[test]
    fn facts_are_proven_and_lies_are_not() {
        let (_home, ledger) = chain(5);
        let now = ledger.tip().time_ms;
        let client = LightClient::from_genesis(ledger.genesis(), DAY_MS);
        let bundle = state_bundle(&ledger, &key::account(&address(0))).unwrap();
        assert!(bundle.value.is_some());
        client.clone().check_state(&bundle, now).unwrap();
        let mut lie = bundle.clone();
        lie.value.as_mut().unwrap()[0] ^= 1;
        assert_eq!(
            client.clone().check_state(&lie, now),
            Err(LightError::Proof)
        );
        let absent = state_bundle(&ledger, &key::account(&address(77))).unwrap();
        assert_eq!(absent.value, None);
        client.clone().check_state(&absent, now).unwrap();
        let tx = ledger.committed(3).unwrap().outcomes.receipts[1].tx;
        let receipt = receipt_bundle(&ledger, &tx).unwrap().unwrap();
        client.clone().check_receipt(&receipt, now).unwrap();
        let mut lie = receipt.clone();
        lie.path.index += 1;
        assert_eq!(
            client.clone().check_receipt(&lie, now),
            Err(LightError::Proof)
        );
        let bytes = bundle.to_bytes();
        assert_eq!(
            codec::decode::<StateBundle>(&bytes, 1 << 16).unwrap(),
            bundle
        );
    }

    #[test]
    fn tm_v12_old_trust_other_validators_and_forks_are_refused() {
        let (_home, ledger) = chain(4);
        let now = ledger.tip().time_ms;
        let second = light_block(&ledger, 2).unwrap();
        let fresh = LightClient::from_genesis(ledger.genesis(), DAY_MS);
        assert_eq!(
            fresh.clone().advance(&second, now + 2 * DAY_MS),
            Err(LightError::Expired)
        );
        // A block signed by somebody else's set, far ahead.
        let mut forged = second.clone();
        forged.validators = vec![Validator {
            id: crate::certificate::ValidatorId(user(9).verifying_key().to_bytes()),
            power: 1,
        }];
        forged.header.validators_hash =
            ValidatorSet::new(forged.validators.clone()).unwrap().hash();
        forged.header.height = 3;
        forged.certificate = Certificate::solo(&ledger.chain_id(), 3, forged.header.id(), &user(9));
        assert_eq!(
            fresh.clone().advance(&forged, now),
            Err(LightError::TooFar {
                signed: 0,
                total: 1
            })
        );
        forged.header.height = 1;
        forged.header.parent_id = fresh.id();
        forged.certificate = Certificate::solo(&ledger.chain_id(), 1, forged.header.id(), &user(9));
        assert!(matches!(
            fresh.clone().advance(&forged, now),
            Err(LightError::Header {
                field: "validators",
                ..
            })
        ));
        // Two blocks of one height, both signed: evidence.
        let mut client = fresh.clone();
        client
            .advance(&light_block(&ledger, 1).unwrap(), now)
            .unwrap();
        client.advance(&second, now).unwrap();
        let mut twin = second.clone();
        twin.header.time_ms += 1;
        twin.certificate = Certificate::solo(&ledger.chain_id(), 2, twin.header.id(), &validator());
        assert!(matches!(
            client.advance(&twin, now),
            Err(LightError::Fork { height: 2, .. })
        ));
        let other = ChainId([9; 32]);
        assert!(LightClient::from_trusted(other, second.header.id(), &second, DAY_MS).is_err());
    }

    #[test]
    fn a_next_block_on_another_parent_is_refused() {
        let (_home, ledger) = chain(2);
        let now = ledger.tip().time_ms;
        let mut client = LightClient::from_genesis(ledger.genesis(), DAY_MS);
        client
            .advance(&light_block(&ledger, 1).unwrap(), now)
            .unwrap();
        let mut stray = light_block(&ledger, 2).unwrap();
        stray.header.parent_id = BlockId([7; 32]);
        stray.certificate =
            Certificate::solo(&ledger.chain_id(), 2, stray.header.id(), &validator());
        assert!(matches!(
            client.advance(&stray, now),
            Err(LightError::Header {
                field: "parent",
                ..
            })
        ));
    }
}
