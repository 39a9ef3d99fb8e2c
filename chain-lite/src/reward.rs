//! Emission, accrual, claims and vesting (`chain.md` §9).

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::units::{Epoch, TokenAmount};

/// A provider's vesting queue leaf: when how much becomes free, ascending by epoch. An absent leaf is an empty queue.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Vesting {
    /// Due epoch and amount.
    pub entries: Vec<(Epoch, TokenAmount)>,
}
