//! What a validator has said of the height at hand, as its journal tells after a restart.
//!
//! The core replays the journal and says nothing that contradicts it. What is kept outside of the core has to know as well: which
//! blocks must not give way ([`crate::signing::ChainSigner::bound`], [`chain_lite::undecided`]), and in which of its turns a block was
//! proposed already ([`crate::app::App::remind`]).

use chain_lite::block::BlockId;
use malachite_core_consensus::Input;
use malachite_core_types::{NilOrVal, SignedVote};

use crate::context::{Address, ChainContext, Height};

/// What a journal says of one validator and of blocks.
#[derive(Debug, Default)]
pub struct Said {
    /// Its votes, in order.
    pub votes: Vec<SignedVote<ChainContext>>,
    /// Blocks that it proposed, with height and round.
    pub proposed: Vec<(Height, u32, BlockId)>,
    /// Blocks that its votes, or certificates of two thirds of the prevotes of a round, name, with that round.
    pub named: Vec<(BlockId, u32)>,
}

impl Said {
    /// Of the journal's entries, what `me` said.
    pub fn of(entries: &[Input<ChainContext>], me: &Address) -> Self {
        let mut said = Self::default();
        for entry in entries {
            match entry {
                Input::Vote(vote) if vote.validator == *me => {
                    if let (NilOrVal::Val(id), Some(round)) = (&vote.value, vote.round.as_u32()) {
                        said.named.push((*id, round));
                    }
                    said.votes.push(vote.clone());
                }
                Input::Proposal(ours) if ours.proposer == *me => {
                    let round = ours.round.as_u32();
                    let turn = round.map(|round| (ours.height, round, ours.value.0));
                    said.proposed.extend(turn);
                }
                Input::PolkaCertificate(polka) => {
                    said.named
                        .extend(polka.round.as_u32().map(|round| (polka.value_id, round)));
                }
                _ => {}
            }
        }
        said
    }
}
