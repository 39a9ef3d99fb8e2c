//! Deals: records and their life (`chain.md` §11).
//!
//! ```text
//! proposal signed by the client --publish--> Published --prove-commit--> Active --end--> Completed
//!                                               | now > start              | sector terminated
//!                                               +--------------------------+-------------> Slashed
//! ```
//! [`publish`] locks both sides' money, [`settle`] pays, ends and slashes. An ended deal keeps its leaf: its id is never
//! accepted again (`threat-model.md` C2), and its client can prove what became of it.

pub mod publish;
pub mod settle;

use borsh::{BorshDeserialize, BorshSerialize};
use prover::SectorNumber;
use serde::{Deserialize, Serialize};

use crate::message::DealProposal;
use crate::units::{Epoch, TokenAmount};

/// Where a deal is in its life.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum DealStatus {
    /// Money is locked; the piece is not yet in a committed sector.
    Published,
    /// In a committed sector.
    Active,
    /// Kept to its end.
    Completed,
    /// Broken by the provider.
    Slashed,
}

impl DealStatus {
    /// Whether money is still locked for it.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Published | Self::Active)
    }
}

/// A deal's leaf.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Deal {
    /// What was agreed.
    pub proposal: DealProposal,
    /// Where it is in its life.
    pub status: DealStatus,
    /// When it was published.
    pub published: Epoch,
    /// The sector that holds it or is pre-committed to.
    pub sector: Option<SectorNumber>,
    /// Settled up to here; starts at the proposal's start.
    pub settled: Epoch,
    /// What the client paid, the burnt share included.
    pub paid: TokenAmount,
    /// What the client got back of the price (collateral not counted).
    pub refunded: TokenAmount,
    /// When it ended.
    pub ended: Option<Epoch>,
}

impl Deal {
    /// Byte-epochs that count as verified in a sector of which it becomes part at `now`; zero for other deals.
    pub fn verified_space_time(&self, now: Epoch) -> u128 {
        if !self.proposal.verified {
            return 0;
        }
        let span = self.proposal.end.since(self.proposal.start.max(now));
        u128::from(self.proposal.piece_size.bytes()) * u128::from(span.0)
    }

    /// The client's money that this deal still holds.
    pub fn locked(&self) -> TokenAmount {
        if !self.status.is_open() {
            return TokenAmount::ZERO;
        }
        // Publication checked that price times the whole duration fits.
        TokenAmount(
            self.proposal
                .price
                .0
                .saturating_mul(u128::from(self.proposal.end.since(self.settled).0)),
        )
    }
}
