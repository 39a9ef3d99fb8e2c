//! The words of consensus: what Malachite's core is told about heights, validators, votes and proposals.
//!
//! Walk: [`crate::signing`] signs these values, [`crate::codec`] writes them, [`crate::parts`] carries the bodies.
//! Spec: `consensus.md` §10. Nothing here knows a socket, a clock or a disk, so a simulator drives the core with these types.
//!
//! A *value* is the 32-byte id of a block ([`Value`]). Bodies travel as parts, and votes and the engine's log stay small.
//! `ValuePayload::ProposalOnly` must never be used with this context: the core would then call a stranger's proposal
//! valid without asking us (`consensus.md` §4, trap 1); [`PAYLOAD`] names the one that asks.
//! There are no vote extensions: their type [`NoExtension`] has no value.

use std::fmt;
use std::sync::Arc;

use borsh::{BorshDeserialize, BorshSerialize};
use chain_lite::block::BlockId;
use chain_lite::certificate::{self, Certificate, Sig, ValidatorId};
use ed25519_dalek::SigningKey;
use malachite_core_types as core;
use malachite_core_types::{
    CommitCertificate, CommitSignature, ExtendedCommitCertificate, ExtendedCommitSignature,
    LinearTimeouts, NilOrVal, Round, SignedExtension, ValuePayload, VoteType,
};

/// How proposals travel: the one payload whose validity the application judges (trap 1).
pub const PAYLOAD: ValuePayload = ValuePayload::ProposalAndParts;

/// Ties the types together; has no data of its own. The chain id enters where bytes are signed ([`crate::signing`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChainContext;

/// Height of a block; 0 is genesis.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    BorshSerialize,
    BorshDeserialize,
)]
pub struct Height(pub u64);

impl fmt::Display for Height {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl core::Height for Height {
    const ZERO: Self = Self(0);
    const INITIAL: Self = Self(1);

    // Saturating: a peer's sync range may name any height.
    fn increment_by(&self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }
    fn decrement_by(&self, n: u64) -> Option<Self> {
        self.0.checked_sub(n).map(Self)
    }
    fn as_u64(&self) -> u64 {
        self.0
    }
}

/// A validator's address: its key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct Address(pub ValidatorId);

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
impl core::Address for Address {}

/// What is decided: the id of a block.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize,
)]
pub struct Value(pub BlockId);

impl core::Value for Value {
    type Id = BlockId;

    fn id(&self) -> BlockId {
        self.0
    }
}

/// One validator of a height.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validator {
    address: Address,
    key: ValidatorId,
    power: u64,
}

impl core::Validator<ChainContext> for Validator {
    fn address(&self) -> &Address {
        &self.address
    }
    fn public_key(&self) -> &ValidatorId {
        &self.key
    }
    fn voting_power(&self) -> u64 {
        self.power
    }
}

/// The validators of a height, ascending by key: a view of chain-lite's checked set.
///
/// The sum of powers is at most 2^53 there, so the core's `3 × power` cannot overflow, which would panic (trap 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatorSet {
    set: Arc<certificate::ValidatorSet>,
    validators: Arc<[Validator]>,
    total: u64,
}

impl From<Arc<certificate::ValidatorSet>> for ValidatorSet {
    fn from(set: Arc<certificate::ValidatorSet>) -> Self {
        let validators = set.validators().iter().map(|v| Validator {
            address: Address(v.id),
            key: v.id,
            power: v.power,
        });
        Self {
            validators: validators.collect(),
            total: set.total_power(),
            set,
        }
    }
}

impl core::ValidatorSet<ChainContext> for ValidatorSet {
    fn count(&self) -> usize {
        self.validators.len()
    }
    fn total_voting_power(&self) -> u64 {
        self.total
    }
    fn get_by_address(&self, address: &Address) -> Option<&Validator> {
        self.validators
            .binary_search_by_key(address, |v| v.address)
            .ok()
            .map(|i| &self.validators[i])
    }
    fn get_by_index(&self, index: usize) -> Option<&Validator> {
        self.validators.get(index)
    }
}

impl ValidatorSet {
    /// Who proposes in `round` of `height`: the chain's own rule, so that the ledger and the core name the same one.
    pub fn proposer(&self, height: Height, round: Round) -> &Validator {
        let id = self.set.proposer(height.0, round.as_u32().unwrap_or(0));
        core::ValidatorSet::get_by_address(self, &Address(id))
            .expect("the rule names one of the set it is given")
    }
}

/// A vote extension: there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoExtension {}

impl core::Extension for NoExtension {
    fn size_bytes(&self) -> usize {
        match *self {}
    }
}

/// A prevote or precommit, for a block or for nil.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Vote {
    /// Prevote or precommit.
    pub kind: VoteType,
    /// Height voted in.
    pub height: Height,
    /// Round voted in.
    pub round: Round,
    /// The block, or nil.
    pub value: NilOrVal<BlockId>,
    /// Who votes.
    pub validator: Address,
}

impl core::Vote<ChainContext> for Vote {
    fn height(&self) -> Height {
        self.height
    }
    fn round(&self) -> Round {
        self.round
    }
    fn value(&self) -> &NilOrVal<BlockId> {
        &self.value
    }
    fn take_value(self) -> NilOrVal<BlockId> {
        self.value
    }
    fn vote_type(&self) -> VoteType {
        self.kind
    }
    fn validator_address(&self) -> &Address {
        &self.validator
    }
    fn extension(&self) -> Option<&SignedExtension<ChainContext>> {
        None
    }
    fn take_extension(&mut self) -> Option<SignedExtension<ChainContext>> {
        None
    }
    fn extend(self, extension: SignedExtension<ChainContext>) -> Self {
        match extension.message {}
    }
}

/// A proposal of a block's id.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Proposal {
    /// Height proposed in.
    pub height: Height,
    /// Round proposed in.
    pub round: Round,
    /// The block.
    pub value: Value,
    /// Round in which two thirds prevoted for it already, or nil.
    pub pol_round: Round,
    /// Who proposes.
    pub proposer: Address,
}

impl core::Proposal<ChainContext> for Proposal {
    fn height(&self) -> Height {
        self.height
    }
    fn round(&self) -> Round {
        self.round
    }
    fn value(&self) -> &Value {
        &self.value
    }
    fn take_value(self) -> Value {
        self.value
    }
    fn pol_round(&self) -> Round {
        self.pol_round
    }
    fn validator_address(&self) -> &Address {
        &self.proposer
    }
}

/// An ed25519 signature, ordered as Malachite wants it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&Sig(self.0), f)
    }
}

/// Ed25519, verified strictly (trap 6: own newtypes, because the published scheme verifies less strictly).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ed25519;

/// Bytes of the wrong length for a key or signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found} bytes where {expected} are needed")]
pub struct WrongLength {
    /// Bytes found.
    pub found: usize,
    /// Bytes needed.
    pub expected: usize,
}

fn exact<const N: usize>(bytes: &[u8]) -> Result<[u8; N], WrongLength> {
    bytes.try_into().map_err(|_| WrongLength {
        found: bytes.len(),
        expected: N,
    })
}

impl core::SigningScheme for Ed25519 {
    type DecodingError = WrongLength;
    type Signature = Signature;
    type PublicKey = ValidatorId;
    type PrivateKey = SigningKey;

    fn decode_signature(bytes: &[u8]) -> Result<Signature, WrongLength> {
        exact(bytes).map(Signature)
    }
    fn encode_signature(signature: &Signature) -> Vec<u8> {
        signature.0.to_vec()
    }
    fn decode_public_key(bytes: &[u8]) -> Result<ValidatorId, WrongLength> {
        exact(bytes).map(ValidatorId)
    }
    fn encode_public_key(key: &ValidatorId) -> Vec<u8> {
        key.0.to_vec()
    }
}

impl core::Context for ChainContext {
    type Address = Address;
    type Height = Height;
    type ProposalPart = crate::parts::Part;
    type Proposal = Proposal;
    type Validator = Validator;
    type ValidatorSet = ValidatorSet;
    type Timeouts = LinearTimeouts;
    type Value = Value;
    type Vote = Vote;
    type Extension = NoExtension;
    type SigningScheme = Ed25519;

    fn select_proposer<'a>(
        &self,
        set: &'a ValidatorSet,
        height: Height,
        round: Round,
    ) -> &'a Validator {
        set.proposer(height, round)
    }

    fn new_proposal(
        &self,
        height: Height,
        round: Round,
        value: Value,
        pol_round: Round,
        proposer: Address,
    ) -> Proposal {
        Proposal {
            height,
            round,
            value,
            pol_round,
            proposer,
        }
    }

    fn new_prevote(
        &self,
        height: Height,
        round: Round,
        value: NilOrVal<BlockId>,
        validator: Address,
    ) -> Vote {
        Vote {
            kind: VoteType::Prevote,
            height,
            round,
            value,
            validator,
        }
    }

    fn new_precommit(
        &self,
        height: Height,
        round: Round,
        value: NilOrVal<BlockId>,
        validator: Address,
    ) -> Vote {
        Vote {
            kind: VoteType::Precommit,
            height,
            round,
            value,
            validator,
        }
    }
}

/// The engine's certificate as the chain's: the same signatures, in the chain's order. `None` without a round.
///
/// The two may list different signers of one block on two nodes, and more at `Finalized` than at `Decided`; that is why
/// a certificate is no part of a block's id (trap 10).
pub fn to_certificate(decided: &CommitCertificate<ChainContext>) -> Option<Certificate> {
    let sig = |s: &CommitSignature<ChainContext>| (s.address.0, Sig(s.signature.0));
    let mut sigs: Vec<_> = decided.commit_signatures.iter().map(sig).collect();
    sigs.sort_by_key(|s| s.0);
    sigs.dedup_by_key(|s| s.0);
    Some(Certificate::Ed25519V1 {
        height: decided.height.0,
        round: decided.round.as_u32()?,
        block: decided.value_id,
        sigs,
    })
}

/// The chain's certificate as the engine sends it to a peer that catches up.
pub fn from_certificate(certificate: &Certificate) -> ExtendedCommitCertificate<ChainContext> {
    let Certificate::Ed25519V1 {
        height,
        round,
        block,
        sigs,
    } = certificate;
    let commit = |(id, sig): &(ValidatorId, Sig)| {
        ExtendedCommitSignature::new(Address(*id), Signature(sig.0), None)
    };
    ExtendedCommitCertificate {
        height: Height(*height),
        round: Round::new(*round),
        value_id: *block,
        commit_signatures: sigs.iter().map(commit).collect(),
    }
}
