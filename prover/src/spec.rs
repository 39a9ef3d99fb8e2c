//! The one table of the proofs' numbers: sector sizes, shapes, challenge counts, registered proof types.
//!
//! Spec: proofs.md §0 (size table), §2.1 (registered types), §3.2 (tree shapes), §5 (PoSt counts).
//! Relations between the numbers are proved at compile time below the table. 4, 16 and 32 KiB are Filecoin's test
//! shapes: no registered proof type exists for them and public networks refuse them, but they are the smallest sectors
//! whose trees have sub-trees and a top, so the vectors use them.

use crate::error::ParseError;
use crate::ids::PorepId;

/// Bytes in a node: one tree leaf, one label, one field element.
pub const NODE_BYTES: usize = 32;
/// Same-layer parents of a node: the predecessor and five samples (proofs.md §2.4).
pub const BASE_DEGREE: usize = 6;
/// Previous-layer parents of a node (proofs.md §2.5).
pub const EXPANDER_DEGREE: usize = 8;
/// All parents of a node from the second layer on.
pub const DEGREE: usize = BASE_DEGREE + EXPANDER_DEGREE;
/// Parent slots in a label's preimage; parents repeat cyclically to fill them (proofs.md §2.6).
pub const LABEL_PARENTS: usize = 37;
/// Leaves challenged per sector by a WindowPoSt (proofs.md §5.3).
pub const WINDOW_CHALLENGES: usize = 10;
/// Leaves challenged by a WinningPoSt (proofs.md §5.2).
pub const WINNING_CHALLENGES: usize = 66;
/// Arity of the base trees of TreeC and TreeR (proofs.md §3.2).
pub const BASE_ARITY: usize = 8;
/// Candidate challenges of Synthetic PoRep, unless the sector has fewer nodes (proofs.md §6.4).
pub const SYNTHETIC_CANDIDATES: usize = 1 << 18;
/// One Groth16 proof: 48 + 96 + 48 bytes (proofs.md §4.5).
pub const GROTH16_PROOF_BYTES: usize = 192;

/// 2^10 bytes.
pub const KIB: u64 = 1 << 10;
/// 2^20 bytes.
pub const MIB: u64 = 1 << 20;
/// 2^30 bytes.
pub const GIB: u64 = 1 << 30;

/// A sector's size. No unknown size can exist. The discriminant is log2 of the bytes and is the stored form (borsh).
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
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum SectorSize {
    /// 2 KiB: the smallest registered test size.
    Kib2 = 11,
    /// 4 KiB, unregistered test shape 8-2-0.
    Kib4 = 12,
    /// 16 KiB, unregistered test shape 8-8-0.
    Kib16 = 14,
    /// 32 KiB, unregistered test shape 8-8-2.
    Kib32 = 15,
    /// 8 MiB: registered test size; the demo's default.
    Mib8 = 23,
    /// 512 MiB: registered test size.
    Mib512 = 29,
    /// 32 GiB: production.
    Gib32 = 35,
    /// 64 GiB: production.
    Gib64 = 36,
}

/// How the leaves of TreeC and TreeR are cut and joined (proofs.md §3.2): `base_trees` 8-ary trees over equal ranges,
/// groups of `sub` roots hashed together, then all `top` of those. Zero means the level does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Number of base trees: `max(1, sub) * max(1, top)`.
    pub base_trees: usize,
    /// Arity of the level above the base roots, 0, 2 or 8.
    pub sub: usize,
    /// Arity of the topmost level, 0 or 2.
    pub top: usize,
}

/// How a sector update is proved (proofs.md §0, §6.1): in equal slices of the sector, one Groth16 proof each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpdateShape {
    /// Slices, a power of two.
    pub partitions: usize,
    /// Challenged nodes in each slice.
    pub challenges: usize,
    /// TreeD nodes, all of one row, that cover a slice and are opened once for all of its challenges; a power of two.
    pub apex_leaves: usize,
    /// Numbers of high index bits among which the first public input chooses.
    pub high_bits: [u32; 6],
    /// The one that is chosen: position in `high_bits`.
    pub chosen: usize,
}

impl UpdateShape {
    const fn of(size: SectorSize) -> UpdateShape {
        let (partitions, challenges, apex_leaves) = match size {
            SectorSize::Kib2 | SectorSize::Kib4 => (1, 10, 8),
            SectorSize::Kib16 | SectorSize::Kib32 => (2, 10, 128),
            SectorSize::Mib8 => (4, 10, 128),
            SectorSize::Mib512 | SectorSize::Gib32 | SectorSize::Gib64 => (16, 86, 128),
        };
        let small = size as u32 <= SectorSize::Kib32 as u32;
        UpdateShape {
            partitions,
            challenges,
            apex_leaves,
            high_bits: if small { [1; 6] } else { [7, 8, 9, 10, 11, 12] },
            chosen: if small { 0 } else { 3 },
        }
    }

    /// High bits of a node's index that choose its factor, proofs.md's `h`.
    pub const fn high(&self) -> u32 {
        self.high_bits[self.chosen]
    }

    /// Bits of a partition's number.
    pub const fn partition_bits(&self) -> u32 {
        self.partitions.trailing_zeros()
    }

    /// Height of the tree over a partition's apex leaves.
    pub const fn apex_bits(&self) -> u32 {
        self.apex_leaves.trailing_zeros()
    }
}

/// One row of proofs.md §0.
#[derive(Clone, Copy, Debug)]
struct Row {
    size: SectorSize,
    text: &'static str,
    log2_nodes: u32,
    sub: usize,
    top: usize,
    layers: usize,
    partitions: usize,
    ni_partitions: usize,
    challenges: usize,
    window_sectors: usize,
    registered: bool,
}

const fn test_row(
    size: SectorSize,
    text: &'static str,
    log2_nodes: u32,
    sub: usize,
    top: usize,
    reg: bool,
) -> Row {
    Row {
        size,
        text,
        log2_nodes,
        sub,
        top,
        layers: 2,
        partitions: 1,
        ni_partitions: 13,
        challenges: 2,
        window_sectors: 2,
        registered: reg,
    }
}

const fn production_row(
    size: SectorSize,
    text: &'static str,
    log2_nodes: u32,
    top: usize,
    window: usize,
) -> Row {
    Row {
        size,
        text,
        log2_nodes,
        sub: 8,
        top,
        layers: 11,
        partitions: 10,
        ni_partitions: 126,
        challenges: 18,
        window_sectors: window,
        registered: true,
    }
}

const TABLE: [Row; 8] = [
    test_row(SectorSize::Kib2, "2KiB", 6, 0, 0, true),
    test_row(SectorSize::Kib4, "4KiB", 7, 2, 0, false),
    test_row(SectorSize::Kib16, "16KiB", 9, 8, 0, false),
    test_row(SectorSize::Kib32, "32KiB", 10, 8, 2, false),
    test_row(SectorSize::Mib8, "8MiB", 18, 0, 0, true),
    test_row(SectorSize::Mib512, "512MiB", 24, 0, 0, true),
    production_row(SectorSize::Gib32, "32GiB", 30, 0, 2349),
    production_row(SectorSize::Gib64, "64GiB", 31, 2, 2300),
];

// What must hold between the numbers, whoever edits the table.
const _: () = {
    let mut i = 0;
    while i < TABLE.len() {
        let row = TABLE[i];
        // The discriminant is log2 of the bytes, a node is 2^5 of them.
        assert!(row.size as u32 == row.log2_nodes + 5);
        // Base trees are complete 8-ary trees: their leaves are a power of eight.
        let joined =
            (if row.sub == 0 { 1 } else { row.sub }) * (if row.top == 0 { 1 } else { row.top });
        let leaves_log2 = row.log2_nodes - (joined as u32).trailing_zeros();
        assert!(leaves_log2.is_multiple_of(3));
        // A top level joins sub-trees, so it needs them.
        assert!(row.top == 0 || row.sub != 0);
        // proofs.md §0: minimum challenges, interactive 176 or 2, non-interactive 2253 or 26, at most 18 per proof.
        let production = row.layers == 11;
        assert!(row.partitions * row.challenges >= if production { 176 } else { 2 });
        assert!(row.ni_partitions * row.challenges >= if production { 2253 } else { 26 });
        assert!(row.challenges <= 18);
        let update = UpdateShape::of(row.size);
        assert!(update.partitions.is_power_of_two() && update.apex_leaves.is_power_of_two());
        // A challenge's path ends at an apex leaf, at or above the data; its random bits fit one digest's 254.
        assert!(update.partition_bits() + update.apex_bits() <= row.log2_nodes);
        assert!(update.high() <= row.log2_nodes);
        i += 1;
    }
};

impl SectorSize {
    /// Every size, smallest first.
    pub const ALL: [SectorSize; 8] = [
        SectorSize::Kib2,
        SectorSize::Kib4,
        SectorSize::Kib16,
        SectorSize::Kib32,
        SectorSize::Mib8,
        SectorSize::Mib512,
        SectorSize::Gib32,
        SectorSize::Gib64,
    ];

    const fn row(self) -> &'static Row {
        const ROWS: &[Row; 8] = &TABLE;
        match self {
            SectorSize::Kib2 => &ROWS[0],
            SectorSize::Kib4 => &ROWS[1],
            SectorSize::Kib16 => &ROWS[2],
            SectorSize::Kib32 => &ROWS[3],
            SectorSize::Mib8 => &ROWS[4],
            SectorSize::Mib512 => &ROWS[5],
            SectorSize::Gib32 => &ROWS[6],
            SectorSize::Gib64 => &ROWS[7],
        }
    }

    /// Padded bytes of a sector.
    pub const fn bytes(self) -> u64 {
        (NODE_BYTES as u64) << self.row().log2_nodes
    }

    /// Nodes of 32 bytes, proofs.md's `N`.
    pub const fn nodes(self) -> u64 {
        1 << self.row().log2_nodes
    }

    /// log2 of [`SectorSize::nodes`]: the height of TreeD.
    pub const fn log2_nodes(self) -> u32 {
        self.row().log2_nodes
    }

    /// Bytes of user data that fit: 127 of every 128.
    pub const fn unpadded_bytes(self) -> u64 {
        self.bytes() / 128 * 127
    }

    /// SDR layers, proofs.md's `L`.
    pub const fn layers(self) -> usize {
        self.row().layers
    }

    /// PoRep challenges in one Groth16 proof.
    pub const fn challenges_per_partition(self) -> usize {
        self.row().challenges
    }

    /// Groth16 proofs of an interactive (or synthetic) PoRep.
    pub const fn partitions(self) -> usize {
        self.row().partitions
    }

    /// Groth16 proofs of a non-interactive PoRep.
    pub const fn ni_partitions(self) -> usize {
        self.row().ni_partitions
    }

    /// Shape of TreeC and TreeR.
    pub const fn shape(self) -> Shape {
        let Row { sub, top, .. } = *self.row();
        let base_trees = (if sub == 0 { 1 } else { sub }) * (if top == 0 { 1 } else { top });
        Shape {
            base_trees,
            sub,
            top,
        }
    }

    /// Leaves of one base tree of TreeC and TreeR.
    pub const fn base_tree_leaves(self) -> u64 {
        self.nodes() / self.shape().base_trees as u64
    }

    /// Sectors in one WindowPoSt partition.
    pub const fn window_sectors(self) -> usize {
        self.row().window_sectors
    }

    /// How an update of such a sector is proved.
    pub const fn update_shape(self) -> UpdateShape {
        UpdateShape::of(self)
    }

    /// Whether Filecoin registered proof types for this size.
    pub const fn is_registered(self) -> bool {
        self.row().registered
    }

    /// Whether this is a production size. Public networks refuse the others (threat P1).
    pub const fn is_production(self) -> bool {
        matches!(self, SectorSize::Gib32 | SectorSize::Gib64)
    }

    /// The size with exactly this many padded bytes.
    pub fn from_bytes(bytes: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|size| size.bytes() == bytes)
    }
}

impl std::fmt::Display for SectorSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.row().text)
    }
}

impl std::str::FromStr for SectorSize {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::ALL
            .into_iter()
            .find(|size| size.row().text == text)
            .ok_or_else(|| {
                let known: Vec<&str> = TABLE.iter().map(|row| row.text).collect();
                ParseError::new(
                    "sector size",
                    format!("expected one of {}", known.join(", ")),
                )
            })
    }
}

crate::ids::serde_text!(SectorSize);

/// Filecoin's API version: which graph and which PoSt index rule (proofs.md §2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ApiVersion {
    /// Legacy: predecessor parent last, expander outputs truncated to 32 bits. Kept for the vectors only.
    V1_0,
    /// Predecessor first, full-range expander.
    V1_1,
    /// Graph of V1_1; WindowPoSt challenges do not depend on a sector's position.
    V1_2,
}

/// The variant of Stacked DRG PoRep.
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
pub enum SealVersion {
    /// Legacy, flawed graph (threat P5). Vectors only.
    V1,
    /// What this network uses.
    V1_1,
    /// Challenges from a committed candidate set.
    Synthetic,
    /// Challenges from CommR, many partitions.
    NonInteractive,
}

impl SealVersion {
    const ALL: [SealVersion; 4] = [
        SealVersion::V1,
        SealVersion::V1_1,
        SealVersion::Synthetic,
        SealVersion::NonInteractive,
    ];

    /// Graph and index rules of this variant.
    pub const fn api_version(self) -> ApiVersion {
        match self {
            SealVersion::V1 => ApiVersion::V1_0,
            SealVersion::V1_1 => ApiVersion::V1_1,
            SealVersion::Synthetic | SealVersion::NonInteractive => ApiVersion::V1_2,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            SealVersion::V1 => "V1",
            SealVersion::V1_1 => "V1_1",
            SealVersion::Synthetic => "V1_1_Feat_SyntheticPoRep",
            SealVersion::NonInteractive => "V1_2_Feat_NonInteractivePoRep",
        }
    }

    const fn first_id(self) -> u64 {
        match self {
            SealVersion::V1 => 0,
            SealVersion::V1_1 => 5,
            SealVersion::Synthetic => 10,
            SealVersion::NonInteractive => 15,
        }
    }
}

/// A seal proof type: variant and size. Text form is Filecoin's, such as `StackedDrg8MiBV1_1`.
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
pub struct RegisteredSeal {
    /// Variant of the proof.
    pub version: SealVersion,
    /// Size of the sector.
    pub size: SectorSize,
}

impl RegisteredSeal {
    /// The type that new sectors of this size use.
    pub const fn v1_1(size: SectorSize) -> Self {
        Self {
            version: SealVersion::V1_1,
            size,
        }
    }

    /// Filecoin's number of this type (proofs.md §2.1). The unregistered test shapes borrow the number of 2 KiB, as
    /// Filecoin's own tests do; [`SectorSize::is_registered`] tells them apart.
    pub const fn id(self) -> u64 {
        let offset = match self.size {
            SectorSize::Kib2 | SectorSize::Kib4 | SectorSize::Kib16 | SectorSize::Kib32 => 0,
            SectorSize::Mib8 => 1,
            SectorSize::Mib512 => 2,
            SectorSize::Gib32 => 3,
            SectorSize::Gib64 => 4,
        };
        self.version.first_id() + offset
    }

    /// The registered type with this number.
    pub fn from_id(id: u64) -> Option<Self> {
        let all = SealVersion::ALL.into_iter().flat_map(|version| {
            SectorSize::ALL
                .into_iter()
                .map(move |size| RegisteredSeal { version, size })
        });
        all.into_iter()
            .find(|seal| seal.size.is_registered() && seal.id() == id)
    }

    /// `LE64(id) ‖ LE64(nonce = 0) ‖ 0^16` (proofs.md §2.1).
    pub fn porep_id(self) -> PorepId {
        let mut bytes = [0u8; 32];
        bytes[..8].copy_from_slice(&self.id().to_le_bytes());
        PorepId(bytes)
    }

    /// Graph rules of this type.
    pub const fn api_version(self) -> ApiVersion {
        self.version.api_version()
    }
}

impl std::fmt::Display for RegisteredSeal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StackedDrg{}{}", self.size, self.version.text())
    }
}

impl std::str::FromStr for RegisteredSeal {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        for version in SealVersion::ALL {
            for size in SectorSize::ALL {
                let seal = RegisteredSeal { version, size };
                if seal.to_string() == text {
                    return Ok(seal);
                }
            }
        }
        Err(ParseError::new(
            "seal proof type",
            "expected a name such as StackedDrg8MiBV1_1",
        ))
    }
}

crate::ids::serde_text!(RegisteredSeal);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_text_and_one_byte_count() {
        for size in SectorSize::ALL {
            assert_eq!(size.to_string().parse::<SectorSize>(), Ok(size));
            assert_eq!(SectorSize::from_bytes(size.bytes()), Some(size));
            assert_eq!(
                borsh::to_vec(&size).expect("writing to memory"),
                [size as u8]
            );
            assert_eq!(size.nodes() * 32, size.bytes());
            assert_eq!(
                size.base_tree_leaves() * size.shape().base_trees as u64,
                size.nodes()
            );
        }
        assert!("8 MiB".parse::<SectorSize>().is_err());
        assert!(borsh::from_slice::<SectorSize>(&[13]).is_err());
        assert_eq!(SectorSize::Gib32.unpadded_bytes(), 34_091_302_912);
    }

    #[test]
    fn registered_ids_match_the_table_of_section_2_1() {
        let sizes = [
            SectorSize::Kib2,
            SectorSize::Mib8,
            SectorSize::Mib512,
            SectorSize::Gib32,
            SectorSize::Gib64,
        ];
        for id in 0..20u64 {
            let seal = RegisteredSeal::from_id(id).expect("ids 0 to 19 are registered");
            assert_eq!(seal.id(), id);
            assert_eq!(seal.size, sizes[usize::try_from(id % 5).expect("small")]);
            assert_eq!(seal.porep_id().0[..8], id.to_le_bytes());
            assert_eq!(seal.porep_id().0[8..], [0; 24]);
            assert_eq!(seal.to_string().parse::<RegisteredSeal>(), Ok(seal));
        }
        assert_eq!(RegisteredSeal::from_id(20), None);
    }
}
