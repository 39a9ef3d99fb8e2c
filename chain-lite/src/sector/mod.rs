//! Sectors and partitions: records and their life (`chain.md` §6).
//!
//! ```text
//! PreCommit --prove--> Unproven --PoSt--> Active <--PoSt-- Recovering <--declare-- Faulty
//!     |expire             | missed/skip/declare                |missed/skip           |FAULT_MAX
//!   (deposit burnt)       +---------------> Faulty <-----------+                      v
//! Unproven/Active/Faulty/Recovering --expiration at its deadline--> Expired      Terminated (also voluntary)
//! ```
//! A number's leaf ([`SectorLeaf`]) holds what stays the same after prove-commit; what changes every period lives in its
//! [`Partition`], one leaf for up to 2,349 sectors, so that a period's proofs and faults change few leaves.
//! In order of a sector's life: [`precommit`], [`commit`], [`deadline`], [`window_post`], [`fault`].

pub mod commit;
pub mod deadline;
pub mod fault;
pub mod precommit;
pub mod window_post;

use borsh::{BorshDeserialize, BorshSerialize};
use prover::{CommD, CommR, SectorNumber, Seed, Ticket};
use serde::{Deserialize, Serialize};

use crate::account::DealId;
use crate::units::{Epoch, StoragePower, TokenAmount};

/// A replica that was committed to and not yet proven.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct PreCommit {
    /// The replica.
    pub comm_r: CommR,
    /// Its data.
    pub comm_d: CommD,
    /// Epoch of the ticket.
    pub ticket_epoch: Epoch,
    /// The ticket itself, kept because the beacon's values are not.
    pub ticket: Ticket,
    /// When it was pre-committed.
    pub epoch: Epoch,
    /// When the sector will end.
    pub expiration: Epoch,
    /// Its deals, in the order of their pieces.
    pub deals: Vec<DealId>,
    /// What is lost if the proof does not come.
    pub deposit: TokenAmount,
}

/// A proven replica. Its present state is in its partition.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Sector {
    /// The replica.
    pub comm_r: CommR,
    /// Its data.
    pub comm_d: CommD,
    /// Bound into the replica.
    pub ticket: Ticket,
    /// Chose the PoRep's challenges.
    pub seed: Seed,
    /// When its PoRep was accepted.
    pub activation: Epoch,
    /// When it ends, at the next close of its deadline.
    pub expiration: Epoch,
    /// Quality-adjusted power while active, fixed for its life.
    pub power: StoragePower,
    /// What secures it.
    pub pledge: TokenAmount,
    /// Its deals, in the order of their pieces.
    pub deals: Vec<DealId>,
    /// Its deadline.
    pub deadline: u16,
    /// Its partition in that deadline.
    pub partition: u32,
}

/// How a number's life ended.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum SectorEnd {
    /// The proof did not come in time.
    NeverProven,
    /// At its expiration.
    Expired,
    /// By its provider.
    Terminated,
    /// By the age of its fault.
    FaultTimeout,
}

/// All that remains of a number: it is never used again (`threat-model.md` P3).
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct EndedSector {
    /// The replica it had.
    pub comm_r: CommR,
    /// When it ended.
    pub epoch: Epoch,
    /// How.
    pub how: SectorEnd,
}

/// The leaf of a sector number.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SectorLeaf {
    /// Committed to, not proven.
    PreCommitted(PreCommit),
    /// Proven once; in a partition.
    Committed(Sector),
    /// Over.
    Ended(EndedSector),
}

/// What a committed sector's last deadlines say of it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum SectorState {
    /// Its first window PoSt is due.
    Unproven,
    /// Proven at its last deadline; earns.
    Active,
    /// Not proven; earns nothing.
    Faulty {
        /// The close from which the fault counts.
        since: Epoch,
    },
    /// Faulty, and promised for its next deadline.
    Recovering {
        /// The close from which the fault counts.
        since: Epoch,
    },
}

impl SectorState {
    /// The close from which the present fault counts.
    pub const fn faulty_since(self) -> Option<Epoch> {
        match self {
            Self::Faulty { since } | Self::Recovering { since } => Some(since),
            Self::Unproven | Self::Active => None,
        }
    }
}

/// A sector's place in a partition.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Slot {
    /// The sector.
    pub number: SectorNumber,
    /// Its present state.
    #[serde(flatten)]
    pub state: SectorState,
}

/// A partition's leaf: what one window PoSt proves.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Partition {
    /// Whether this period's proof was accepted. Cleared when the deadline closes.
    pub posted: bool,
    /// Its sectors, ascending.
    pub slots: Vec<Slot>,
}

/// A deadline's leaf: how many sectors each partition holds. An absent leaf is an empty deadline.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Deadline {
    /// Sectors by partition. Slots are reused, partitions never move.
    pub partitions: Vec<u32>,
}

impl Deadline {
    /// Sectors in all partitions.
    pub fn sectors(&self) -> u64 {
        self.partitions.iter().map(|&count| u64::from(count)).sum()
    }
}
