//! The stage record: the one small file that says what of a sector is durable.
//!
//! Walk: every stage of [`crate::seal`] ends by replacing it. Bytes, at most [`MAX_RECORD_BYTES`]:
//! ```text
//! "HFSECTOR" ‖ LE32 version ‖ borsh(Record) ‖ SHA-256 of all before
//! ```
//! Crash: the rename of `record.tmp` to `record` is the instant at which a stage counts. A file that the record does not
//! list does not exist for sealing. An unknown version is refused by name (threat H10), never guessed at: so a program that knows
//! no updates calls their records by version 2, and opens every record of sealing, which stays version 1.

use borsh::{BorshDeserialize, BorshSerialize};
use sha2::{Digest, Sha256};

use crate::commitment::{CommC, CommD, CommR, CommRLast};
use crate::ids::{ProverId, ReplicaId, SectorNumber, Seed, Ticket};
use crate::piece::PieceInfo;
use crate::spec::RegisteredSeal;

const MAGIC: &[u8; 8] = b"HFSECTOR";
/// Version of a record whose stage is one of sealing.
const SEALING_VERSION: u32 = 1;
/// Version of a record whose stage is one of an update, and the newest that is read.
pub const VERSION: u32 = 2;
/// Largest record that is read. 2^18 pieces, more than any network allows in a sector, need 11 MB.
pub const MAX_RECORD_BYTES: u64 = 16 << 20;
const CHECKSUM_BYTES: usize = 32;

/// The kinds of files of a sector. Numbers count from 1 for layers (as Filecoin does) and from 0 for trees.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize,
)]
pub enum SectorFile {
    /// Fr32-padded data of all pieces, a sector's size.
    Unsealed,
    /// All rows of the SHA-256/254 tree over the data.
    TreeD,
    /// Labels of one layer, node-ordered.
    Layer(u32),
    /// All rows of one base tree over the columns.
    TreeC(u32),
    /// Stored rows of one base tree over the replica.
    TreeR(u32),
    /// The replica: data plus key, a sector's size.
    Sealed,
    /// CommC and CommRLast, 64 bytes.
    PAux,
}

impl SectorFile {
    /// The name on disk; tree and layer names are Filecoin's (proofs.md §3.3). `base_trees` is the shape's.
    pub fn name(self, base_trees: usize) -> String {
        let numbered = |stem: &str, i: u32| match base_trees {
            1 => format!("sc-02-data-{stem}.dat"),
            _ => format!("sc-02-data-{stem}-{i}.dat"),
        };
        match self {
            SectorFile::Unsealed => "unsealed".to_owned(),
            SectorFile::TreeD => "sc-02-data-tree-d.dat".to_owned(),
            SectorFile::Layer(layer) => format!("sc-02-data-layer-{layer}.dat"),
            SectorFile::TreeC(i) => numbered("tree-c", i),
            SectorFile::TreeR(i) => numbered("tree-r-last", i),
            SectorFile::Sealed => "sealed".to_owned(),
            SectorFile::PAux => "p_aux".to_owned(),
        }
    }
}

/// A finished file, as it was when its stage was recorded.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct FileEntry {
    /// Which file.
    pub file: SectorFile,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its contents.
    pub sha256: [u8; 32],
}

/// How far a sector is.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Stage {
    /// The unsealed file is complete. Layers that the record lists are complete too.
    Packed,
    /// TreeD and all layers.
    Labeled,
    /// TreeC, replica, TreeR; CommR is fixed.
    Replicated(Roots),
    /// A seed was chosen for CommR. The vanilla proofs are recomputed from the files.
    Challenged(Roots, Seed),
    /// The Groth16 proof of the seed's challenges, verified.
    Sealed(Roots, Seed, Vec<u8>),
    /// An update ([`crate::update::sector`]): TreeD of the new data; its replica is still to be made over the one with this CommR.
    Encoding(CommR),
    /// The update's replica and TreeR, made over the one with this CommR.
    Updated(Roots, CommR),
    /// The update's Groth16 proof, verified.
    UpdateProven(Roots, CommR, Vec<u8>),
}

impl Stage {
    /// Whether this is a step of an update, not one of sealing.
    pub fn is_update(&self) -> bool {
        matches!(
            self,
            Stage::Encoding(_) | Stage::Updated(..) | Stage::UpdateProven(..)
        )
    }
}

/// The two roots under CommR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Roots {
    /// Root of TreeC.
    pub comm_c: CommC,
    /// Root of TreeR.
    pub comm_r_last: CommRLast,
}

/// What a sector is and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Record {
    /// Proof type.
    pub seal: RegisteredSeal,
    /// Whose sector.
    pub prover: ProverId,
    /// Which of theirs.
    pub sector: SectorNumber,
    /// Chain randomness in the replica id.
    pub ticket: Ticket,
    /// Pieces in the order given, without the zero pieces between them.
    pub pieces: Vec<PieceInfo>,
    /// Root over the padded data.
    pub comm_d: CommD,
    /// Key of the labels; follows from the fields above, in an update with the CommD of zeros.
    pub replica_id: ReplicaId,
    /// How far.
    pub stage: Stage,
    /// Every file that counts, sorted by kind.
    pub files: Vec<FileEntry>,
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not a record at all, or cut short.
    #[error("it is not a sector record or is cut short")]
    NotARecord,
    /// Written by another version of the program.
    #[error(
        "it has version {0}, this program reads versions up to {VERSION}; use the program that wrote it, or seal anew"
    )]
    Version(u32),
    /// The checksum does not fit.
    #[error("its checksum does not match, so it is damaged")]
    Checksum,
    /// The checksum fits and the contents make no sense.
    #[error("its contents are malformed")]
    Malformed,
}

impl Record {
    /// The bytes of the record file.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&self.version().to_le_bytes());
        self.serialize(&mut bytes)
            .expect("writing to memory cannot fail");
        let checksum = Sha256::digest(&bytes);
        bytes.extend_from_slice(&checksum);
        bytes
    }

    /// Reads exactly one record.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(RecordError::NotARecord)?;
        let (version, rest) = rest
            .split_first_chunk::<4>()
            .ok_or(RecordError::NotARecord)?;
        let version = u32::from_le_bytes(*version);
        if !(SEALING_VERSION..=VERSION).contains(&version) {
            return Err(RecordError::Version(version));
        }
        let (body, checksum) = rest
            .split_last_chunk::<CHECKSUM_BYTES>()
            .ok_or(RecordError::NotARecord)?;
        if Sha256::digest(&bytes[..bytes.len() - CHECKSUM_BYTES])[..] != checksum[..] {
            return Err(RecordError::Checksum);
        }
        let record: Record = borsh::from_slice(body).map_err(|_| RecordError::Malformed)?;
        if record.version() == version {
            Ok(record)
        } else {
            Err(RecordError::Malformed)
        }
    }

    fn version(&self) -> u32 {
        if self.stage.is_update() {
            VERSION
        } else {
            SEALING_VERSION
        }
    }

    /// The entry of a finished file.
    pub fn entry(&self, file: SectorFile) -> Option<&FileEntry> {
        self.files.iter().find(|entry| entry.file == file)
    }
}
