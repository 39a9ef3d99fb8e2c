//! `apply`: one block over the state, pure and total.
//!
//! Given a snapshot, a context and checked transactions it returns the writes, the receipts and the events; the same on
//! every machine. A transaction that may not run yields a receipt that says why; only a store that cannot be read, or a
//! context that does not continue the chain, stops the block.

use borsh::{BorshDeserialize, BorshSerialize};
use prover::verify::{PorepStatement, WindowPostStatement};
use serde::{Deserialize, Serialize};

use crate::account::{ChainId, DealId, ProviderId, TxId};
use crate::error::{ChainError, StoreError};
use crate::events::EventRecord;
use crate::message::CheckedTx;
use crate::state::{KvRead, WriteSet};
use crate::units::{Epoch, TokenAmount};

/// Why a verifier did not accept a proof.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The proof or its bytes are wrong: the sender's fault, and every node's verdict.
    #[error("the proof was rejected: {0}")]
    Rejected(String),
    /// This node cannot say (for example it lacks the circuit's key): its operator's fault, and it stops the block.
    #[error("this node cannot verify: {0}")]
    Unable(String),
}

/// Checks proofs. The real one is [`crate::audit`]'s over the verifying keys of genesis.
pub trait ProofVerifier: Send + Sync {
    /// A PoRep of one sector.
    fn porep(&self, statement: &PorepStatement, proof: &[u8]) -> Result<(), ProofError>;
    /// A window PoSt of one partition.
    fn window_post(&self, statement: &WindowPostStatement, proof: &[u8]) -> Result<(), ProofError>;
}

/// What a block's header says to the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockCtx {
    /// This chain.
    pub chain_id: ChainId,
    /// The block's height: the parent's plus one.
    pub height: u64,
    /// The block's epoch: after the parent's.
    pub epoch: Epoch,
    /// Randomness of verified beacon rounds, one for each epoch after the last known one, ascending, up to `epoch`.
    pub beacons: Vec<(Epoch, [u8; 32])>,
}

/// What one proposal of a `PublishDeals` came to.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum ProposalOutcome {
    /// It is a deal now.
    Published {
        /// Its id.
        deal: DealId,
    },
    /// It was skipped.
    Refused {
        /// The id it would have had.
        deal: DealId,
        /// Why.
        error: ChainError,
    },
}

/// What a message returned.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Output {
    /// Nothing but its effect.
    Done,
    /// A new provider.
    Registered {
        /// Its id.
        provider: ProviderId,
    },
    /// One outcome for each proposal, in order.
    Deals {
        /// The outcomes.
        outcomes: Vec<ProposalOutcome>,
    },
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// All messages took effect.
    Applied {
        /// One output for each message.
        outputs: Vec<Output>,
    },
    /// A message failed and none took effect; nonce and fee are spent.
    Failed {
        /// Position of the message.
        message: u32,
        /// Why.
        error: ChainError,
    },
    /// The transaction may not run: nothing is spent, the nonce can be used again.
    Refused {
        /// Why.
        error: ChainError,
    },
}

/// The receipt of one transaction of a block, in the block's order.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Receipt {
    /// Which transaction.
    pub tx: TxId,
    /// What was charged for it.
    pub fee: TokenAmount,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Receipt {
    /// Whether all its messages took effect.
    pub fn succeeded(&self) -> bool {
        matches!(self.outcome, Outcome::Applied { .. })
    }

    /// Why it did not succeed.
    pub fn error(&self) -> Option<&ChainError> {
        match &self.outcome {
            Outcome::Applied { .. } => None,
            Outcome::Failed { error, .. } | Outcome::Refused { error } => Some(error),
        }
    }
}

/// What a block does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// To the state.
    pub writes: WriteSet,
    /// To each transaction, in order.
    pub receipts: Vec<Receipt>,
    /// For whoever watches, in order.
    pub events: Vec<EventRecord>,
}

/// Why a block could not be applied at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The state below cannot be read or is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The context does not continue the chain: the block is invalid.
    #[error("the block does not continue the chain: {0}")]
    Context(String),
    /// This node cannot verify a proof of the block.
    #[error("{0}; check the verifying keys of the genesis file")]
    Verifier(String),
}
