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
//! In order of a sector's life: [`precommit`], [`commit`], [`deadline`], [`window_post`], [`dispute`], [`fault`].

pub mod commit;
pub mod deadline;
pub mod dispute;
pub mod fault;
pub mod precommit;
pub mod window_post;

use borsh::{BorshDeserialize, BorshSerialize};
use prover::{CommD, CommR, SectorNumber, Seed, Ticket};
use serde::{Deserialize, Serialize};

use ruint::aliases::U256;

use crate::account::DealId;
use crate::units::{Epoch, EpochCount, Overflow, StoragePower, TokenAmount, mul_shift, narrow};

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
    /// The current or next occurrence, where an outage made it another than the provider's schedule says.
    pub pending: Option<Occurrence>,
}

/// When a deadline opens and closes once.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Occurrence {
    /// First epoch of its window.
    pub open: Epoch,
    /// First epoch after it, as far as is known.
    pub close: Epoch,
}

impl Deadline {
    /// Sectors in all partitions.
    pub fn sectors(&self) -> u64 {
        self.partitions.iter().map(|&count| u64::from(count)).sum()
    }
}

/// Quality of data that is not verified, tenfold.
const BASE_WEIGHT: u64 = 10;

/// `qa` of `chain.md` §8: power of a sector of `size` bytes that lives for `life`, of which `verified` byte-epochs belong
/// to verified deals, each of which counts `weight` tenths of another.
pub fn quality_power(
    size: u64,
    life: EpochCount,
    verified: u128,
    weight: u64,
) -> Result<StoragePower, Overflow> {
    let space_time = U256::from(size) * U256::from(life.0);
    if space_time == U256::ZERO {
        return Ok(StoragePower(size.into()));
    }
    let verified = U256::from(verified);
    let base = space_time.checked_sub(verified).ok_or(Overflow)?;
    let weighted = base * U256::from(BASE_WEIGHT) + verified * U256::from(weight);
    // 64 + 64 bits, times at most 2^64, times 2^20: below 256.
    let quality = narrow((weighted << 20) / space_time)? / u128::from(BASE_WEIGHT);
    mul_shift(size.into(), quality, 20).map(StoragePower)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_power_matches_the_spec() {
        let (size, life) = (1u64 << 35, EpochCount(518_400));
        let qa = |verified: u128| quality_power(size, life, verified, 100).map(|power| power.0);
        assert_eq!(qa(0), Ok(34359738368));
        assert_eq!(qa(u128::from(size) * 518_400), Ok(343597383680));
        assert_eq!(qa((8u128 << 30) * 518_400), Ok(111669149696));
        assert_eq!(
            quality_power(2048, EpochCount(240), 51_200, 100).map(|power| power.0),
            Ok(3968)
        );
        // `chain.md` §12: weight 10 switches the feature off.
        assert_eq!(
            quality_power(2048, EpochCount(240), 51_200, 10).map(|power| power.0),
            Ok(2048)
        );
        assert_eq!(
            qa(u128::from(size) * 518_400 + 1),
            Err(Overflow),
            "more verified than there is"
        );
        assert_eq!(
            quality_power(u64::MAX, EpochCount(u64::MAX), 0, 100),
            Ok(StoragePower(u64::MAX.into()))
        );
    }
}
