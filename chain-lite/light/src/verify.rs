//! The pure verifier: which block may be believed after one that is, and which facts follow from it.
//!
//! Walk: an auditor or wallet starts from the genesis validators or from a (height, block id) given out of band
//! ([`Trusted`]), steps from block to block, and checks single facts: a leaf of the state, a receipt. [`crate::follow`] decides
//! which blocks to fetch. Spec: `consensus.md` §7.
//!
//! * *adjacent step*: the header's validators are those its parent announced, more than 2/3 of them signed;
//! * *skipping step*: more than 2/3 of the new set **and** more than 1/3 of the trusted set signed, inside the trust period
//!   (without the period, keys sold long ago could sign a forged present: `tm_v12`);
//! * *linked headers* ([`Links`]): headers between two believed blocks need no certificate, the parent ids bind them.
//!
//! Header `h + 1` carries the roots after block `h`, so a fact about block `h` is proven with the header of `h + 1`.
//! Everything here is calm on any input; sizes are bounded by the certificate's and the paths' own limits. Cost: a strict
//! signature check (about 32 µs) for each signer of a step; a hash for each linked header.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::certificate::{BlockId, CertError, Certificate, Validator, ValidatorSet};
use crate::codec;
use crate::epoch::Epoch;
use crate::header::{BLOCK_VERSION, Header};
use crate::leaf::LeafProof;
use crate::merkle::{self, Hash, List};
use crate::name::ChainId;

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

/// A leaf of the state, or its absence.
#[derive(Clone, Debug, PartialEq, BorshSerialize, BorshDeserialize)]
pub struct Leaf {
    /// The state key.
    pub key: Vec<u8>,
    /// Its value, or none.
    pub value: Option<Vec<u8>>,
    /// The path to the state root.
    pub proof: LeafProof,
}

/// Leaves of one state, under one final header.
#[derive(Clone, Debug, PartialEq, BorshSerialize, BorshDeserialize)]
pub struct StateBatch {
    /// The header after the block whose state is shown.
    pub light: LightBlock,
    /// The leaves, in the order in which they were asked for.
    pub leaves: Vec<Leaf>,
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

/// What is believed: one final block, or the genesis (height 0).
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Trusted {
    chain_id: ChainId,
    height: u64,
    id: BlockId,
    time_ms: u64,
    validators: ValidatorSet,
    next_validators_hash: Hash,
}

impl Trusted {
    /// The genesis alone; the first block names the chain as its parent.
    pub fn genesis(chain_id: ChainId, time_ms: u64, validators: ValidatorSet) -> Self {
        Self {
            chain_id,
            height: 0,
            id: BlockId(chain_id.0),
            time_ms,
            next_validators_hash: validators.hash(),
            validators,
        }
    }

    /// A block whose id was given out of band, once its header and validators match that id.
    pub fn checkpoint(
        chain_id: ChainId,
        id: BlockId,
        light: &LightBlock,
    ) -> Result<Self, LightError> {
        let validators = check_block(&chain_id, light)?;
        if light.header.id() != id {
            return Err(LightError::Header {
                height: light.header.height,
                field: "id",
            });
        }
        Ok(Self::of(light, validators))
    }

    fn of(light: &LightBlock, validators: ValidatorSet) -> Self {
        Self {
            chain_id: light.header.chain_id,
            height: light.header.height,
            id: light.header.id(),
            time_ms: light.header.time_ms,
            next_validators_hash: light.header.next_validators_hash,
            validators,
        }
    }

    /// The chain.
    pub fn chain_id(&self) -> ChainId {
        self.chain_id
    }

    /// Height of the block; 0 is the genesis.
    pub fn height(&self) -> u64 {
        self.height
    }

    /// Its id.
    pub fn id(&self) -> BlockId {
        self.id
    }

    /// Its time, Unix milliseconds by its proposer's clock.
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// How many validators finalised it.
    pub fn validators(&self) -> usize {
        self.validators.validators().len()
    }

    /// What is believed after a later block: the next one, or one further ahead if enough trusted validators signed it.
    /// `now_ms` is Unix time. The block that is trusted already changes nothing; another one of its height is a fork.
    pub fn step(
        &self,
        light: &LightBlock,
        now_ms: u64,
        trust_period_ms: u64,
    ) -> Result<Self, LightError> {
        let header = &light.header;
        let height = header.height;
        let bad = |field| Err(LightError::Header { height, field });
        let validators = check_block(&self.chain_id, light)?;
        if height == self.height && self.height > 0 {
            return match header.id() == self.id {
                true => Ok(self.clone()),
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
        if self.time_ms.saturating_add(trust_period_ms) < now_ms {
            return Err(LightError::Expired);
        }
        if height - 1 == self.height {
            if header.parent_id != self.id {
                return bad("parent");
            }
            if header.validators_hash != self.next_validators_hash {
                return bad("validators");
            }
        } else if validators != self.validators {
            // Of the same set, the two thirds that were just checked are more than a third.
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
        Ok(Self::of(light, validators))
    }
}

/// What a light client believes, and for how long it may.
#[derive(Clone, Debug)]
pub struct LightClient {
    trusted: Trusted,
    trust_period_ms: u64,
}

impl LightClient {
    /// Begins at what is trusted.
    pub fn new(trusted: Trusted, trust_period_ms: u64) -> Self {
        Self {
            trusted,
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
        let trusted = Trusted::checkpoint(chain_id, id, light)?;
        Ok(Self::new(trusted, trust_period_ms))
    }

    /// The newest block believed.
    pub fn trusted(&self) -> &Trusted {
        &self.trusted
    }

    /// Height of the newest block believed.
    pub fn height(&self) -> u64 {
        self.trusted.height
    }

    /// Its id.
    pub fn id(&self) -> BlockId {
        self.trusted.id
    }

    /// Believes a later block: the next one, or one further ahead if enough trusted validators signed it. `now_ms` is Unix time.
    pub fn advance(&mut self, light: &LightBlock, now_ms: u64) -> Result<(), LightError> {
        self.trusted = self.trusted.step(light, now_ms, self.trust_period_ms)?;
        Ok(())
    }

    /// Whether a state leaf has this value (or is absent) after the block before the bundle's header; the header is
    /// believed on the way.
    pub fn check_state(&mut self, bundle: &StateBundle, now_ms: u64) -> Result<(), LightError> {
        self.advance(&bundle.light, now_ms)?;
        bundle.check()
    }

    /// Whether the bundle's receipt is of the block before its header; the header is believed on the way.
    pub fn check_receipt(&mut self, bundle: &ReceiptBundle, now_ms: u64) -> Result<(), LightError> {
        self.advance(&bundle.light, now_ms)?;
        bundle.check()
    }
}

impl StateBundle {
    /// Whether the path leads to the bundle's own header, which the caller believes for other reasons.
    pub fn check(&self) -> Result<(), LightError> {
        let root = &self.light.header.prev_state_root;
        held(self.proof.verify(root, &self.key, self.value.as_deref()))
    }

    /// Bytes for the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(self)
    }
}

impl StateBatch {
    /// Whether every path leads to the batch's own header, which the caller believes for other reasons, and the leaves are those
    /// that were asked for, in order.
    pub fn check(&self, keys: &[Vec<u8>]) -> Result<(), LightError> {
        let root = &self.light.header.prev_state_root;
        let asked = self.leaves.iter().map(|leaf| &leaf.key).eq(keys);
        held(asked && self.leaves.iter().all(|leaf| leaf.holds(root)))
    }
}

impl Leaf {
    /// Whether the leaf has this value, or is absent, under a state root.
    pub fn holds(&self, root: &Hash) -> bool {
        self.proof.verify(root, &self.key, self.value.as_deref())
    }
}

impl ReceiptBundle {
    /// Whether the path leads to the bundle's own header, which the caller believes for other reasons.
    pub fn check(&self) -> Result<(), LightError> {
        let root = &self.light.header.prev_receipt_root;
        // Leaf 0 holds the epoch's own events and is nobody's receipt.
        held(self.path.index > 0 && self.path.verify(List::Receipts, &self.leaf, root))
    }
}

fn held(holds: bool) -> Result<(), LightError> {
    match holds {
        true => Ok(()),
        false => Err(LightError::Proof),
    }
}

/// Headers after a believed block, each the parent of the next, without certificates.
///
/// They are believed together, once a later block that is (by a certificate) turns out to be the last of them:
/// [`Links::are_believed`]. Memory: one header's worth, however many there are.
#[derive(Clone, Debug)]
pub struct Links {
    chain_id: ChainId,
    height: u64,
    id: BlockId,
    time_ms: u64,
    epoch: Epoch,
    next_validators_hash: Hash,
}

impl Links {
    /// Begins after a believed block.
    pub fn after(trusted: &Trusted) -> Self {
        Self {
            chain_id: trusted.chain_id,
            height: trusted.height,
            id: trusted.id,
            time_ms: trusted.time_ms,
            epoch: Epoch(0),
            next_validators_hash: trusted.next_validators_hash,
        }
    }

    /// Takes the next header and returns its id.
    pub fn push(&mut self, header: &Header) -> Result<BlockId, LightError> {
        let bad = |field| {
            Err(LightError::Header {
                height: header.height,
                field,
            })
        };
        if header.version != BLOCK_VERSION {
            return bad("version");
        }
        if header.chain_id != self.chain_id {
            return bad("chain");
        }
        if Some(header.height) != self.height.checked_add(1) {
            return bad("height");
        }
        if header.parent_id != self.id {
            return bad("parent");
        }
        if header.time_ms <= self.time_ms {
            return bad("time");
        }
        if header.epoch <= self.epoch {
            return bad("epoch");
        }
        if header.validators_hash != self.next_validators_hash {
            return bad("validators");
        }
        *self = Self {
            chain_id: self.chain_id,
            height: header.height,
            id: header.id(),
            time_ms: header.time_ms,
            epoch: header.epoch,
            next_validators_hash: header.next_validators_hash,
        };
        Ok(self.id)
    }

    /// Whether the last header is the block that is believed now; then all of them are.
    pub fn are_believed(&self, trusted: &Trusted) -> bool {
        self.chain_id == trusted.chain_id && self.id == trusted.id
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
