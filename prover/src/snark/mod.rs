//! Groth16 over BLS12-381: constraint systems, gadgets, keys, proofs.
//!
//! Walk: [`crate::porep::circuit`], [`crate::post::circuit`] and [`crate::update::circuit`] spell their statements with
//! [`gadget`] over a [`cs`] listener; [`keygen`] makes a key from one listening, [`groth16`] a proof
//! from another, [`keys`] keeps the keys on disk; [`crate::verify`] checks the result.
//! Spec: `proofs.md` §4.4–4.5, `vectors/r1cs/README.md`. Verification is done in blst's arithmetic (`pairing`);
//! ark-groth16 gives the types and is, in tests, the oracle that our keys, proofs and verdicts are compared with.

use crate::error::ParseError;
#[cfg(feature = "prove")]
use crate::spec::{BASE_ARITY, BASE_DEGREE, EXPANDER_DEGREE};
use crate::spec::{SectorSize, WINDOW_CHALLENGES, WINNING_CHALLENGES};

/// Version of Filecoin's parameter files.
#[cfg(feature = "prove")]
const FILECOIN_PARAMETERS: u32 = 28;

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
pub(crate) mod ntt;
pub mod origin;
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
pub(crate) mod testing;

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
    /// One partition of a sector update.
    Update,
}

impl CircuitKind {
    /// Every kind.
    pub const ALL: [CircuitKind; 4] = [
        CircuitKind::Porep,
        CircuitKind::WindowPost,
        CircuitKind::WinningPost,
        CircuitKind::Update,
    ];

    const fn text(self) -> &'static str {
        match self {
            CircuitKind::Porep => "porep",
            CircuitKind::WindowPost => "window",
            CircuitKind::WinningPost => "winning",
            CircuitKind::Update => "update",
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

    /// The sector update circuit of a size.
    pub const fn update(size: SectorSize) -> Self {
        Self {
            kind: CircuitKind::Update,
            size,
        }
    }

    /// Public inputs of one proof, the constant one not counted (proofs.md §§4.4, 5.2, 5.3, 6.1).
    pub const fn public_inputs(self) -> usize {
        match self.kind {
            CircuitKind::Porep => {
                3 + (3 + 1 + crate::spec::DEGREE) * self.size.challenges_per_partition()
            }
            CircuitKind::WindowPost => (1 + WINDOW_CHALLENGES) * self.size.window_sectors(),
            CircuitKind::WinningPost => 2 * WINNING_CHALLENGES,
            CircuitKind::Update => 4,
        }
    }

    /// The name under which Filecoin keeps this circuit's files, without the ending `.params` or `.vk` (proofs.md §4.5): what
    /// is proved, the tree's shape, and the SHA-256 of a description. Proof types that differ in the graph alone share keys.
    #[cfg(feature = "prove")]
    pub fn filecoin_name(self) -> String {
        use sha2::{Digest, Sha256};
        let (size, shape) = (self.size, self.size.shape());
        let tree = format!(
            "merkletree-poseidon_hasher-{BASE_ARITY}-{}-{}",
            shape.sub, shape.top
        );
        let post = |challenges: usize, sectors: usize| {
            (
                format!("proof-of-spacetime-fallback-{tree}"),
                format!(
                    "FallbackPoSt::PublicParams{{sector_size: {}, challenge_count: {challenges}, sector_count: {sectors}}}",
                    size.bytes()
                ),
            )
        };
        let (prefix, description) = match self.kind {
            CircuitKind::Porep => (
                format!("stacked-proof-of-replication-{tree}-sha256_hasher"),
                format!(
                    "layered_drgporep::PublicParams{{ graph: stacked_graph::StackedGraph{{expansion_degree: {EXPANDER_DEGREE} base_graph: drgraph::BucketGraph{{size: {}; degree: {BASE_DEGREE}; hasher: poseidon_hasher}} }}, challenges: LayerChallenges {{ layers: {}, max_count: {} }}, tree: {tree} }}",
                    size.nodes(),
                    size.layers(),
                    size.challenges_per_partition()
                ),
            ),
            CircuitKind::WindowPost => post(WINDOW_CHALLENGES, size.window_sectors()),
            CircuitKind::WinningPost => post(1, WINNING_CHALLENGES),
            CircuitKind::Update => (
                format!("empty-sector-update-{tree}"),
                format!(
                    "empty_sector_update::PublicParams{{ sector_nodes: {} }}",
                    size.nodes()
                ),
            ),
        };
        let digest = hex::encode(Sha256::digest(description));
        format!("v{FILECOIN_PARAMETERS}-{prefix}-{digest}")
    }

    /// Groth16 proofs that make up one proof of this kind.
    pub const fn partitions(self) -> usize {
        match self.kind {
            CircuitKind::Porep => self.size.partitions(),
            CircuitKind::WindowPost | CircuitKind::WinningPost => 1,
            CircuitKind::Update => self.size.update_shape().partitions,
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
                "expected porep-, window-, winning- or update- and a sector size",
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

    /// The names that Filecoin's own code gave when its circuits were recorded, and that of an update by its rule.
    #[cfg(feature = "prove")]
    #[test]
    fn names_of_parameter_files_are_filecoins() {
        let recorded = gadget::tests::recorded("circuits.json");
        let mut compared = 0;
        for entry in recorded["circuits"].as_array().expect("a list") {
            let circuit = CircuitKind::ALL
                .into_iter()
                .flat_map(|kind| SectorSize::ALL.map(|size| CircuitId { kind, size }))
                .find(|id| entry["circuit"] == id.to_string().to_lowercase())
                .expect("a circuit of ours");
            if let Some(id) = entry["parameter_cache_id"].as_str() {
                assert_eq!(circuit.filecoin_name(), format!("v28-{id}"), "{circuit}");
                compared += 1;
            }
        }
        assert_eq!(compared, 24);
        // The file that Filecoin published for 32 GiB.
        assert_eq!(
            CircuitId::update(SectorSize::Gib32).filecoin_name(),
            "v28-empty-sector-update-merkletree-poseidon_hasher-8-8-0-3b7f44a9362e3985369454947bc94022e118211e49fd672d52bec1cbfd599d18"
        );
    }

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
            (CircuitId::update(SectorSize::Mib512), 4),
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
