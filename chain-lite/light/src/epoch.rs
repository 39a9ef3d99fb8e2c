//! Time of the chain: instants and spans, counted in epochs. Saturating: an instant too far away to write never comes.
//!
//! Walk: a header carries its [`Epoch`]; every rule of `chain_lite` counts in them. Spec: `chain.md` §1. Bytes (borsh): 8,
//! little-endian. JSON: numbers.

use std::fmt;

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

/// An instant of the chain, counted in epochs from genesis (epoch 0).
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
    Serialize,
    Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// A span of time in epochs.
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
    Serialize,
    Deserialize,
)]
#[serde(transparent)]
pub struct EpochCount(pub u64);

impl Epoch {
    /// The instant `span` later, or the last epoch that can be written: an instant that far away never comes.
    pub const fn after(self, span: EpochCount) -> Self {
        Self(self.0.saturating_add(span.0))
    }
    /// The instant `span` earlier, or epoch 0.
    pub const fn before(self, span: EpochCount) -> Self {
        Self(self.0.saturating_sub(span.0))
    }
    /// The epoch after this one.
    pub const fn next(self) -> Self {
        self.after(EpochCount(1))
    }
    /// Epochs from `earlier` until this instant; zero when `earlier` is not earlier.
    pub const fn since(self, earlier: Self) -> EpochCount {
        EpochCount(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for EpochCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
