//! The sealing pipeline: [`Packed`] → [`Labeled`] → [`Replicated`] → [`Challenged`] → [`Sealed`].
//!
//! Walk: from `piece::layout` (pieces and CommD) to the proof that the chain accepts. Each stage consumes the one before, so
//! a step cannot be skipped; each ends with a durable record ([`crate::sector_dir`]), so a run that dies goes on from there.
//! Spec: proofs.md §4.1 (PC1, PC2, C1, C2), §3.3 (files).
//!
//! | stage | step that reaches it | reads | writes |
//! |---|---|---|---|
//! | Packed | [`create`] | pieces | `unsealed` |
//! | Labeled | [`Packed::label`] or [`label_all`], PC1 | `unsealed` | TreeD, layers |
//! | Replicated | [`Labeled::replicate`], PC2 | layers, `unsealed` | TreeC, `sealed`, TreeR, `p_aux` |
//! | Challenged | [`Replicated::challenge`], C1 | all of them | the seed |
//! | Sealed | [`Challenged::prove`], C2 | vanilla proofs | the proof |
//!
//! Memory: two layers while labelling ([`label_memory`]), fixed buffers while replicating, the openings in C1
//! ([`challenge_memory`]), the circuit's need while proving; each is asked of the [`Plan`] before the step starts. Disk: [`disk_bytes`], asked before the first byte is
//! written, and [`disk_left`] again before PC1 and PC2, which may be a later run's; the parents' list is kept beside it only where there is room for both.
//! Crash: every layer, TreeC, and every stage is durable by itself; what is left half-way is redone, with the same CommR,
//! because everything follows from the request. A damaged file is named, never used: [`resume`] compares hashes, each tree
//! root is compared with what it must be, and the openings of C1 are verified before anything is proven. [`repair`] makes it
//! again in its place.

mod check;
mod label;
mod pipeline;
mod repair;
#[cfg(test)]
pub(crate) mod tests;
mod unseal;

use std::path::{Path, PathBuf};

pub(crate) use check::rows_above;
pub use check::{CheckDepth, ReplicaReport, replica_check};
pub use label::{further_memory, label_all};
pub(crate) use pipeline::write_data;
pub use pipeline::{
    AnyStage, Challenged, Labeled, Packed, Replicated, SealRequest, Sealed, create, create_on,
    create_watched, resume, resume_in, resume_on,
};
pub use repair::{repair, repair_on};
pub use unseal::unseal_range;
pub(crate) use unseal::{require_range, tree_d_root, unpad_range};

use crate::commitment::CommD;
use crate::machine::{MemoryError, Plan};
use crate::merkle::build::TreeError;
use crate::merkle::shape;
use crate::piece::layout::LayoutError;
use crate::porep::proof::VanillaError;
use crate::sector_dir::SectorDirError;
use crate::sector_dir::disk::{Disk, DiskError};
use crate::sector_dir::record::{Record, Stage};
use crate::snark::prove::ProveError;
use crate::spec::{DEGREE, NODE_BYTES, SectorSize};
use crate::verify::VerifyError;

/// Allowance for buffers and small files on top of what is counted exactly.
pub(crate) const SLACK_BYTES: u64 = 4 << 20;
/// The program's own memory: a budget is about everything that is resident.
pub(crate) const PROGRAM_BYTES: u64 = 16 << 20;

/// Sealing, unsealing or checking a sector failed. Finished stages are kept.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The folder or a file in it.
    #[error(transparent)]
    Dir(#[from] SectorDirError),
    /// A tree could not be built or read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// More memory is needed than allowed.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The disk is too small for the whole run.
    #[error(
        "sealing needs {} MiB in {} and {} MiB are free; free some space or choose another folder",
        needed.div_ceil(1 << 20), path.display(), free >> 20
    )]
    DiskSpace {
        /// The folder.
        path: PathBuf,
        /// Bytes that the remaining stages write.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// The pieces do not make a sector.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The proof type cannot be sealed here.
    #[error("{0} cannot be sealed, only verified; use the V1_1 type of the same size")]
    Unsupported(crate::spec::RegisteredSeal),
    /// The data on disk is not what CommD commits to.
    #[error(
        "{path} hashes to CommD {found} instead of {expected}: it is damaged; pack the sector anew"
    )]
    WrongData {
        /// The data file.
        path: PathBuf,
        /// What the pieces make.
        expected: CommD,
        /// What the file makes.
        found: CommD,
    },
    /// The sector's own openings do not verify: a file was damaged after its stage was recorded.
    #[error(
        "the sector in {path} does not verify ({source}): a file is damaged; run repair, or seal it anew"
    )]
    Inconsistent {
        /// The folder.
        path: PathBuf,
        /// Which check failed.
        source: VanillaError,
    },
    /// The range to unseal lies outside the sector.
    #[error("bytes {start}..{end} lie outside the sector's {capacity} bytes of data")]
    Range {
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
        /// Unpadded bytes in the sector.
        capacity: u64,
    },
    /// The replica does not decode to the data that CommD commits to.
    #[error(
        "the replica in {0} does not decode to its data: it is damaged; restore it or seal the sector anew"
    )]
    DamagedReplica(PathBuf),
    /// The Groth16 prover failed.
    #[error(transparent)]
    Prove(#[from] ProveError),
    /// The finished proof is not one that the chain would accept; it was thrown away (threat P18).
    #[error(
        "the proof made for {path} would not be accepted ({source}); check memory and parameters of this machine"
    )]
    SelfCheck {
        /// The sector's folder.
        path: PathBuf,
        /// What the verifier said.
        source: VerifyError,
    },
    /// The folder holds an update, which is no stage of sealing.
    #[error(
        "{0} holds an updated sector, not one that is being sealed; use it with the sector it was made over"
    )]
    Updated(PathBuf),
    /// The folder holds no update.
    #[error("{0} holds no updated sector; name the folder that the update made")]
    NotUpdated(PathBuf),
    /// A sector without replica cannot be updated.
    #[error("the sector in {0} has no replica yet; finish sealing it, then update it")]
    NoReplica(PathBuf),
    /// A sector that holds data cannot be updated.
    #[error("the sector in {0} holds data already; update one that was sealed empty")]
    HoldsData(PathBuf),
    /// The old replica is damaged, or is another one.
    #[error(
        "{path} is not the whole replica that is updated ({why}); name its folder, or repair it first"
    )]
    OtherReplica {
        /// The folder.
        path: PathBuf,
        /// How it shows.
        why: String,
    },
    /// An update could not be proven.
    #[error(transparent)]
    Update(#[from] crate::update::proof::UpdateError),
    /// Unsealed bytes could not be handed over.
    #[error("writing the unsealed bytes failed: {0}")]
    Output(std::io::Error),
}

impl From<DiskError> for SealError {
    fn from(error: DiskError) -> Self {
        SealError::Dir(error.into())
    }
}

impl SealError {
    /// Whether the disk is full, which freeing space cures.
    pub fn is_full(&self) -> bool {
        match self {
            SealError::Dir(error) => error.is_full(),
            SealError::Tree(TreeError::Disk(error)) => error.is_full(),
            SealError::Prove(ProveError::Key(error)) => error.is_full(),
            SealError::DiskSpace { .. } => true,
            _ => false,
        }
    }
}

/// Bytes that a sector's folder holds at most, when everything is kept until it is sealed.
pub fn disk_bytes(size: SectorSize) -> u64 {
    let trees = size.shape().base_trees as u64;
    let sector_sized = size.bytes() * (2 + size.layers() as u64);
    sector_sized
        + shape::tree_d_bytes(size)
        + trees * (shape::tree_c_bytes(size) + shape::tree_r_bytes(size))
        + SLACK_BYTES
}

/// Bytes that the folder of a sector with this record still takes until it is sealed, or its update proven.
pub fn disk_left(record: &Record) -> u64 {
    let size = record.seal.size;
    let whole = match record.stage {
        Stage::Packed | Stage::Labeled => disk_bytes(size),
        Stage::Encoding(_) => crate::update::sector::disk_bytes(size),
        // Records alone are written.
        _ => return 0,
    };
    let finished: u64 = record.files.iter().map(|entry| entry.bytes).sum();
    whole.saturating_sub(finished)
}

/// Refuses sectors that together do not fit on the disk of `folder`, before any of them is begun. The folder may be missing yet.
pub fn require_disk(disk: &dyn Disk, folder: &Path, needed: u64) -> Result<(), SealError> {
    if needed == 0 {
        return Ok(());
    }
    let named = folder.ancestors().find(|folder| folder.exists());
    let there = named.unwrap_or(Path::new("."));
    let free = disk
        .free_bytes(there)
        .map_err(DiskError::at("measuring", there))?;
    require_space(folder, needed, free)
}

/// Bytes of memory that labelling and unsealing a sector need: the layer being filled and the one before it. Parents are
/// kept in memory only where there is more.
pub fn label_memory(size: SectorSize) -> u64 {
    2 * size.bytes() + SLACK_BYTES + PROGRAM_BYTES
}

/// Bytes of memory that replicating needs: buffers of each thread.
pub fn replicate_memory(size: SectorSize, plan: &Plan) -> u64 {
    let columns = (size.layers() as u64 + 2) * crate::hash::poseidon::together();
    let per_thread =
        NODE_BYTES as u64 * (2 * columns + 4 * crate::porep::replica::chunk_nodes(size));
    plan.threads() as u64 * per_thread + SLACK_BYTES + PROGRAM_BYTES + crate::machine::gpu_memory()
}

/// Bytes of memory that C1 needs: the openings of all challenges, in vectors that may have room for as much again.
pub fn challenge_memory(size: SectorSize) -> u64 {
    // Of each level its siblings, and a node's bytes for the vector itself.
    let path: u64 = 1 + shape::path_arities(size).iter().sum::<usize>() as u64;
    let column = 1 + size.layers() as u64 + path;
    let binary = 1 + u64::from(size.log2_nodes());
    let challenge = (1 + DEGREE as u64) * column + binary + path;
    let challenges = (size.partitions() * size.challenges_per_partition()) as u64;
    2 * NODE_BYTES as u64 * challenges * challenge + SLACK_BYTES + PROGRAM_BYTES
}

/// Bytes of memory that [`replica_check`] needs: the stored rows of a base tree as they are and as they are made again, and a
/// group of leaves in each thread.
pub fn check_memory(size: SectorSize, plan: &Plan) -> u64 {
    let group = NODE_BYTES as u64 * shape::leaves_per_cached_node(size);
    let fixed = SLACK_BYTES + PROGRAM_BYTES + crate::machine::gpu_memory();
    plan.threads() as u64 * 2 * group + 6 * shape::tree_r_bytes(size) + fixed
}

pub(crate) fn require_space(path: &Path, needed: u64, free: u64) -> Result<(), SealError> {
    if free >= needed {
        Ok(())
    } else {
        Err(SealError::DiskSpace {
            path: path.to_owned(),
            needed,
            free,
        })
    }
}
