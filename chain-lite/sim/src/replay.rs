//! The chain again, from its blocks alone: an auditor's view, on which the invariants are checked that need history.
//!
//! Walk: [`crate::run`] tells it each block once, when the first node has it. Checked are I13 (the replayed block gives the outcomes
//! and the state root that the nodes have) and, by [`chain_lite::history`], I9, I11 and I14. The state that it leaves is that of
//! any block in turn, also of one that a node committed and did not live to tell of.

use std::sync::Arc;

use chain_lite::execute::{BlockCtx, ProofVerifier, apply};
use chain_lite::genesis::CheckedGenesis;
use chain_lite::history::{self, History};
use chain_lite::ledger::CommittedBlock;
use chain_lite::message::CheckedTx;
use chain_lite::state::MemoryState;
use chain_lite::tree::MemoryTree;
use chain_lite::units::Epoch;

/// A chain that is applied again.
pub struct Replay {
    state: MemoryState,
    tree: MemoryTree,
    history: History,
    verifier: Arc<dyn ProofVerifier>,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Replay {
    /// At the chain's beginning, with the verifier that its nodes have.
    pub fn new(genesis: &CheckedGenesis, verifier: Arc<dyn ProofVerifier>) -> Self {
        let writes = genesis.writes();
        let (mut state, mut tree) = (MemoryState::default(), MemoryTree::default());
        state.commit(&writes);
        let root = tree.apply(0, &writes);
        root.expect("a genesis has leaves, and memory does not fail");
        Self {
            state,
            tree,
            history: History::default(),
            verifier,
        }
    }

    /// The state after the newest block.
    pub fn state(&self) -> &MemoryState {
        &self.state
    }

    /// Applies the next block: with the values of its beacon entries, and its transactions as they were checked. The error is what
    /// does not hold.
    pub fn block(
        &mut self,
        block: &CommittedBlock,
        beacons: Vec<(Epoch, [u8; 32])>,
        txs: &[CheckedTx],
    ) -> Result<(), String> {
        let header = &block.block.header;
        let ctx = BlockCtx {
            chain_id: header.chain_id,
            height: header.height,
            round: header.round,
            epoch: header.epoch,
            beacons,
        };
        let lost = history::others_lose(&self.state, &ctx, txs, &*self.verifier);
        let mut broken = lost.map_err(text)?;
        let applied = apply(&self.state, &ctx, txs, &*self.verifier).map_err(text)?;
        self.state.commit(&applied.writes);
        let root = self.tree.apply(header.height, &applied.writes);
        let outcomes = &block.outcomes;
        if applied.receipts != outcomes.receipts || applied.events != outcomes.events {
            return Err("I13: replayed, it has other outcomes".into());
        }
        if root.map_err(text)? != block.state_root {
            return Err("I13: replayed, it gives another state root".into());
        }
        let by_history = self.history.block(&applied.events, &self.state);
        broken.extend(by_history.map_err(text)?);
        broken.first().map_or(Ok(()), |first| Err(text(first)))
    }
}
