//! Groth16 over BLS12-381: constraint systems, gadgets, keys, proofs.
//!
//! Walk: [`crate::porep::circuit`] and [`crate::post::circuit`] spell their statements with
//! [`gadget`] over a [`cs`] listener; [`keygen`] makes a key from one listening, [`groth16`] a proof
//! from another, [`keys`] keeps the keys on disk; [`crate::verify`] checks the result.
//! Spec: `proofs.md` §4.4–4.5, `vectors/r1cs/README.md`. Verification is done in blst's arithmetic (`pairing`);
//! ark-groth16 gives the types and is, in tests, the oracle that our keys, proofs and verdicts are compared with.

use crate::error::ParseError;
use crate::spec::{SectorSize, WINDOW_CHALLENGES, WINNING_CHALLENGES};

pub(crate) mod batch;
#[cfg(feature = "prove")]
pub mod cs;
pub mod dev;
#[cfg(feature = "prove")]
mod fixed_base;
#[cfg(feature = "prove")]
pub mod gadget;
pub mod groth16;
mod input_sum;
#[cfg(feature = "prove")]
mod kernel;
#[cfg(feature = "prove")]
pub mod keygen;
#[cfg(feature = "prove")]
pub mod keys;
#[cfg(target_arch = "x86_64")]
#[allow(
    unsafe_code,
    reason = "vector instructions; each block argues its safety"
)]
mod lanes;
#[cfg(feature = "prove")]
pub mod measure;
#[cfg(feature = "prove")]
mod msm;
#[cfg(feature = "prove")]
mod ntt;
mod pairing;
#[cfg(feature = "prove")]
pub mod prove;
#[cfg(feature = "prove")]
pub mod record;
#[cfg(feature = "prove")]
pub mod shape;
#[cfg(all(test, feature = "prove"))]
mod soundness;
#[cfg(all(test, feature = "prove"))]
mod testing;

/// What a circuit proves.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    borsh::BorshSerialize,
    borsh::BorshDeserialize,
)]
pub enum CircuitKind {
    /// One partition of a sector's proof of replication.
    Porep,
    /// One partition of a WindowPoSt.
    WindowPost,
    /// A WinningPoSt.
    WinningPost,
}

impl CircuitKind {
    /// Every kind.
    pub const ALL: [CircuitKind; 3] = [
        CircuitKind::Porep,
        CircuitKind::WindowPost,
        CircuitKind::WinningPost,
    ];

    const fn text(self) -> &'static str {
        match self {
            CircuitKind::Porep => "porep",
            CircuitKind::WindowPost => "window",
            CircuitKind::WinningPost => "winning",
        }
    }
}

/// One circuit, and so one pair of keys: `porep-8MiB`, `window-2KiB`, …
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    borsh::BorshSerialize,
    borsh::BorshDeserialize,
)]
pub struct CircuitId {
    /// What is proved.
    pub kind: CircuitKind,
    /// Of which sectors.
    pub size: SectorSize,
}

impl CircuitId {
    /// The PoRep circuit of a size.
    pub const fn porep(size: SectorSize) -> Self {
        Self {
            kind: CircuitKind::Porep,
            size,
        }
    }

    /// The WindowPoSt circuit of a size.
    pub const fn window(size: SectorSize) -> Self {
        Self {
            kind: CircuitKind::WindowPost,
            size,
        }
    }

    /// The WinningPoSt circuit of a size.
    pub const fn winning(size: SectorSize) -> Self {
        Self {
            kind: CircuitKind::WinningPost,
            size,
        }
    }

    /// Public inputs of one proof, the constant one not counted (proofs.md §§4.4, 5.2, 5.3).
    pub const fn public_inputs(self) -> usize {
        match self.kind {
            CircuitKind::Porep => {
                3 + (3 + 1 + crate::spec::DEGREE) * self.size.challenges_per_partition()
            }
            CircuitKind::WindowPost => (1 + WINDOW_CHALLENGES) * self.size.window_sectors(),
            CircuitKind::WinningPost => 2 * WINNING_CHALLENGES,
        }
    }

    /// Groth16 proofs that make up one proof of this kind.
    pub const fn partitions(self) -> usize {
        match self.kind {
            CircuitKind::Porep => self.size.partitions(),
            CircuitKind::WindowPost | CircuitKind::WinningPost => 1,
        }
    }
}

impl std::fmt::Display for CircuitId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{}-{}", self.kind.text(), self.size))
    }
}

impl std::str::FromStr for CircuitId {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let malformed = || {
            ParseError::new(
                "circuit id",
                "expected porep-, window- or winning- and a sector size",
            )
        };
        let (kind, size) = text.split_once('-').ok_or_else(malformed)?;
        let kind = CircuitKind::ALL
            .into_iter()
            .find(|k| k.text() == kind)
            .ok_or_else(malformed)?;
        Ok(Self {
            kind,
            size: size.parse()?,
        })
    }
}

crate::ids::serde_text!(CircuitId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circuit_ids_read_back_and_count_inputs() {
        // r1cs/README.md §3, less the constant one.
        let table = [
            (CircuitId::porep(SectorSize::Kib2), 39),
            (CircuitId::porep(SectorSize::Gib64), 327),
            (CircuitId::winning(SectorSize::Gib32), 132),
            (CircuitId::window(SectorSize::Mib8), 22),
            (CircuitId::window(SectorSize::Gib32), 25_839),
            (CircuitId::window(SectorSize::Gib64), 25_300),
        ];
        for (id, inputs) in table {
            assert_eq!(id.public_inputs(), inputs, "{id}");
            assert_eq!(id.to_string().parse::<CircuitId>(), Ok(id));
        }
        for bad in ["porep", "porep-", "Porep-2KiB", "snap-2KiB", "porep-2KiB "] {
            assert!(bad.parse::<CircuitId>().is_err(), "{bad}");
        }
    }
}
