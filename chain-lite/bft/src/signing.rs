//! What validators sign, and the one strict check of it.
//!
//! Walk: [`crate::context`] gives the values, the engine asks this module to sign and verify, [`crate::context::to_certificate`]
//! collects precommits that chain-lite's own verifier accepts, and two contradicting votes are evidence as they stand: what is
//! signed are the chain's own [`certificate::vote_bytes_of`].
//!
//! Domains, each with the chain's id, so that nothing signed for one purpose or chain serves another:
//! ```text
//! vote      borsh("holdfast/vote/v1", chain id, kind u8, height u64, round u32, block id 32, validator 32)
//!           kind 1 prevote, 2 precommit; 3 prevote for nil, 4 precommit for nil (block id: zeros)
//! proposal  borsh("holdfast/proposal/v1", chain id, height u64, round u32, block id, round of the earlier quorum, proposer)
//! parts     borsh("holdfast/proposal-parts/v1", chain id, what the first part says), see crate::parts
//! peer      Malachite's own "PoV" preimage: binds a validator's key to a network key, on any chain
//! ```

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use chain_lite::account::{self, ChainId};
use chain_lite::block::BlockId;
use chain_lite::certificate::{self, ValidatorId};
use chain_lite::codec;
use chain_lite::governance::VoteKind;
use chain_lite::message::{self, SignedTx, Tx};
use ed25519_dalek::{Signer as _, SigningKey};
use malachite_core_types::{
    NilOrVal, SignedMessage, SignedProposal, SignedVote, ValidatorProof, VoteExtensionScope,
    VoteType,
};
use malachite_signing::{Error, Signer, VerificationResult, Verifier};

use crate::context::{Address, ChainContext, NoExtension, Proposal, Signature, Vote};
use crate::parts::Init;

const PARTS_TAG: &str = "holdfast/proposal-parts/v1";

/// The step and block of a vote, as the chain names them; zeros stand for no block.
pub fn kind_of(vote: &Vote) -> (VoteKind, BlockId) {
    const NONE: BlockId = BlockId([0; 32]);
    match (vote.kind, &vote.value) {
        (VoteType::Prevote, NilOrVal::Val(block)) => (VoteKind::Prevote, *block),
        (VoteType::Precommit, NilOrVal::Val(block)) => (VoteKind::Precommit, *block),
        (VoteType::Prevote, NilOrVal::Nil) => (VoteKind::PrevoteNil, NONE),
        (VoteType::Precommit, NilOrVal::Nil) => (VoteKind::PrecommitNil, NONE),
    }
}

/// The bytes of a vote; `None` for a vote without a round, which nobody may cast.
pub fn vote_bytes(chain: &ChainId, vote: &Vote) -> Option<Vec<u8>> {
    let (kind, block) = kind_of(vote);
    Some(certificate::vote_bytes_of(
        chain,
        kind.number(),
        vote.height.0,
        vote.round.as_u32()?,
        &block,
        &vote.validator.0,
    ))
}

/// The bytes of a proposal; `None` without a round.
pub fn proposal_bytes(chain: &ChainId, p: &Proposal) -> Option<Vec<u8>> {
    Some(certificate::proposal_bytes_of(
        chain,
        p.height.0,
        p.round.as_u32()?,
        &p.value.0,
        p.pol_round.as_u32(),
        &p.proposer.0,
    ))
}

/// The bytes that a proposer signs for the parts of a block.
pub fn parts_bytes(chain: &ChainId, init: &Init) -> Vec<u8> {
    codec::encode(&(PARTS_TAG, chain, init))
}

/// A validator's key on one chain: signs and verifies.
#[derive(Clone)]
pub struct ChainSigner {
    chain: ChainId,
    key: SigningKey,
    /// Height, round and block of the newest precommit, of all clones.
    bound: Arc<Mutex<Option<(u64, u32, BlockId)>>>,
}

impl ChainSigner {
    /// Signs with `key` for `chain`.
    pub fn new(chain: ChainId, key: SigningKey) -> Self {
        let bound = Arc::default();
        Self { chain, key, bound }
    }

    /// The block of a height that this validator has precommitted last: it is bound to it, and may have to propose it again.
    pub fn bound(&self, height: u64) -> Option<BlockId> {
        let bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        bound.filter(|b| b.0 == height).map(|b| b.2)
    }

    /// Notes what a vote binds to: one that is signed now, or one that the journal tells of.
    pub fn note(&self, vote: &Vote) {
        if let (VoteType::Precommit, NilOrVal::Val(block), Some(round)) =
            (vote.kind, vote.value, vote.round.as_u32())
        {
            let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
            *bound = (*bound).max(Some((vote.height.0, round, block)));
        }
    }

    /// The validator's address.
    pub fn address(&self) -> Address {
        Address(ValidatorId(self.key.verifying_key().to_bytes()))
    }

    /// A signed vote; an error for one without a round.
    pub fn vote(&self, vote: Vote) -> Result<SignedVote<ChainContext>, Error> {
        let bytes = vote_bytes(&self.chain, &vote).ok_or_else(Error::new)?;
        self.note(&vote);
        Ok(SignedMessage::new(vote, self.sign(&bytes)))
    }

    /// A signed proposal; an error for one without a round.
    pub fn proposal(&self, proposal: Proposal) -> Result<SignedProposal<ChainContext>, Error> {
        let bytes = proposal_bytes(&self.chain, &proposal).ok_or_else(Error::new)?;
        Ok(SignedMessage::new(proposal, self.sign(&bytes)))
    }

    /// A transaction of the account that has this validator's key.
    pub fn transaction(&self, tx: Tx) -> SignedTx {
        message::sign(tx, &self.key)
    }

    /// The signature over what the first part of a block says.
    pub fn parts(&self, init: &Init) -> Signature {
        self.sign(&parts_bytes(&self.chain, init))
    }

    fn sign(&self, bytes: &[u8]) -> Signature {
        Signature(self.key.sign(bytes).to_bytes())
    }
}

/// Checks signatures of one chain.
#[derive(Clone, Copy, Debug)]
pub struct ChainVerifier {
    chain: ChainId,
}

impl ChainVerifier {
    /// For `chain`.
    pub fn new(chain: ChainId) -> Self {
        Self { chain }
    }

    /// Whether `key` signed this vote on this chain.
    pub fn vote(&self, vote: &Vote, signature: &Signature, key: &ValidatorId) -> bool {
        vote_bytes(&self.chain, vote).is_some_and(|bytes| strict(key, &bytes, signature))
    }

    /// Whether `key` signed this proposal on this chain.
    pub fn proposal(&self, proposal: &Proposal, signature: &Signature, key: &ValidatorId) -> bool {
        proposal_bytes(&self.chain, proposal).is_some_and(|bytes| strict(key, &bytes, signature))
    }

    /// Whether `key` announced these parts on this chain.
    pub fn parts(&self, init: &Init, signature: &Signature, key: &ValidatorId) -> bool {
        strict(key, &parts_bytes(&self.chain, init), signature)
    }
}

/// The chain's one ed25519 check (`tm_c3`).
fn strict(key: &ValidatorId, bytes: &[u8], signature: &Signature) -> bool {
    message::verify_strict(
        &account::Address(key.0),
        bytes,
        &message::Signature(signature.0),
    )
}

#[async_trait]
impl Signer<ChainContext> for ChainSigner {
    async fn sign_vote(&self, vote: Vote) -> Result<SignedVote<ChainContext>, Error> {
        self.vote(vote)
    }

    async fn sign_proposal(
        &self,
        proposal: Proposal,
    ) -> Result<SignedProposal<ChainContext>, Error> {
        self.proposal(proposal)
    }

    async fn sign_vote_extension(
        &self,
        _: VoteExtensionScope<ChainContext>,
        extension: NoExtension,
    ) -> Result<SignedMessage<ChainContext, NoExtension>, Error> {
        match extension {}
    }

    async fn sign_validator_proof(
        &self,
        public_key: Vec<u8>,
        peer_id: Vec<u8>,
    ) -> Result<ValidatorProof<ChainContext>, Error> {
        let bytes = ValidatorProof::<ChainContext>::signing_bytes(&public_key, &peer_id);
        Ok(ValidatorProof::new(public_key, peer_id, self.sign(&bytes)))
    }
}

#[async_trait]
impl Verifier<ChainContext> for ChainVerifier {
    async fn verify_signed_vote(
        &self,
        vote: &Vote,
        signature: &Signature,
        key: &ValidatorId,
    ) -> Result<VerificationResult, Error> {
        Ok(VerificationResult::from_bool(
            self.vote(vote, signature, key),
        ))
    }

    async fn verify_signed_proposal(
        &self,
        proposal: &Proposal,
        signature: &Signature,
        key: &ValidatorId,
    ) -> Result<VerificationResult, Error> {
        let valid = self.proposal(proposal, signature, key);
        Ok(VerificationResult::from_bool(valid))
    }

    async fn verify_signed_vote_extension(
        &self,
        _: &VoteExtensionScope<ChainContext>,
        extension: &NoExtension,
        _: &Signature,
        _: &ValidatorId,
    ) -> Result<VerificationResult, Error> {
        match *extension {}
    }

    async fn verify_validator_proof(
        &self,
        proof: &ValidatorProof<ChainContext>,
    ) -> Result<VerificationResult, Error> {
        let valid = proof
            .decoded_public_key()
            .is_ok_and(|key| strict(&key, &proof.preimage(), &proof.signature));
        Ok(VerificationResult::from_bool(valid))
    }
}
