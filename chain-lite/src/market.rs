//! Client and provider escrow: money set aside for deals (`chain.md` §§3, 11).
//!
//! `escrow` is all of it, `locked` the part that open deals hold; `locked <= escrow` always (I8). A provider's escrow is
//! kept under its owner's address.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::units::TokenAmount;

/// An account's escrow leaf. An absent leaf is an empty one.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
)]
pub struct Escrow {
    /// All of it.
    pub escrow: TokenAmount,
    /// The part that open deals hold.
    pub locked: TokenAmount,
}

impl Escrow {
    /// What its account may withdraw or lock for a new deal.
    pub fn unlocked(&self) -> TokenAmount {
        self.escrow.minus_or_zero(self.locked)
    }
}
