//! The workshop: runs sealing, proving and checking on this machine's cores, within its memory, one heavy job at a time.
//!
//! Place in the walk: [`super::worker`] hands in a sector and gets commitments or a proof; `prover::seal` and `prover::post`
//! do the work. Spec: `DESIGN.md` §5: one lock per machine serialises PoRep proving; window posts have a lane of their own
//! ahead of it; proving has its own threads, so that it never starves I/O.
//!
//! ```text
//! sectors/<number>/           one sector's folder, see `prover::sector_dir`
//! sectors/<number>.rebuild/   a damaged replica being resealed; takes the folder's place when its CommR is right
//! <params>/porep.slot, window.slot   the machine's slots, see [`super::slot`]
//! ```
//! A window post waits for its slot inside its job, so the clock is held for it meanwhile, whoever has the slot; after
//! [`WINDOW_SLOT_PATIENCE`] it goes without.
//! Every function here blocks and is called on a blocking thread. Each is idempotent: called again after a crash it goes on
//! from the last durable stage and ends with the same CommR.
//! Keys: those of the folder must be the ones that the chain's genesis names (S3), which [`Workshop::prepare_for`] asks before a
//! provider is registered: with another, say an imported one, a sector could be pre-committed and never proven.
//! Memory: a proving key is a file that is read in pieces; a job's need is asked of its [`Plan`] before it starts. Sealing and
//! window posts run at the same time, so the machine's memory is shared between them: a post and a check of a replica get what
//! they need, since a missed deadline costs most, and sealing gets the rest.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prover::estimate::proving_memory;
use prover::machine::{Machine, MemoryError, Plan, PlanError};
use prover::post::proof::{PostError, ReplicaRef, prove_window};
use prover::seal::{self, AnyStage, CheckDepth, SealError, SealRequest};
use prover::sector_dir::record::RecordError;
use prover::sector_dir::{self, SectorDirError};
use prover::snark::CircuitId;
use prover::snark::groth16::CheckedKey;
use prover::snark::keys::{KeyError, ParamStore};
use prover::snark::origin::Origin;
use prover::{
    CommD, CommR, NoProgress, PostRandomness, Progress, ProverId, RegisteredSeal, SealVersion,
    SectorNumber, SectorSize, Seed,
};
use rand::Rng;
use sha2::{Digest, Sha256};

use super::lifecycle::{DealRecord, Health, SealTimes, SectorRecord, Stage};
use super::slot::{self, SlotGuard};
use crate::config::{LARGEST_PARENT_LIST, parents_dir};

/// Leaves that a cheap check opens: as many as a window post.
const SAMPLE_LEAVES: usize = 10;
/// How long a window post waits for another process's before it starts anyway: memory is worth less than a deadline.
const WINDOW_SLOT_PATIENCE: Duration = Duration::from_secs(20);

/// Why a job has no result. The text is for the operator; what to do is the life cycle's decision.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// Sealing, unsealing or the folder.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The sector's folder cannot be gone on with now, and nothing says that it is worthless.
    #[error("the folder {path} is kept, and gone on with later: {source}", path = .path.display())]
    Kept {
        /// The folder.
        path: PathBuf,
        /// What is in the way, and what to do about it.
        source: SealError,
    },
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The window post; [`PostError::Faulty`] names damaged sectors.
    #[error(transparent)]
    Post(#[from] PostError),
    /// A file.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The window post needs more memory than there is.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The journal and the disk disagree: a bug, or somebody else's folder.
    #[error("sector {sector}: {what}")]
    Mismatch {
        /// Which sector.
        sector: SectorNumber,
        /// What disagrees.
        what: String,
    },
}

impl JobError {
    /// True if what is in the way passes without the sector's doing: a full disk, another process in its folder, a record that a
    /// newer program wrote.
    pub fn passes(&self) -> bool {
        let waits = match self {
            Self::Seal(SealError::Dir(error))
            | Self::Kept {
                source: SealError::Dir(error),
                ..
            } => matches!(
                error,
                SectorDirError::Locked(_)
                    | SectorDirError::Record {
                        source: RecordError::Version(_),
                        ..
                    }
            ),
            _ => false,
        };
        waits || self.is_disk_full()
    }

    /// True if the reason is a full disk, which passes when space returns.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Seal(error) | Self::Kept { source: error, .. } => error.is_full(),
            Self::File { source, .. } => super::journal::is_disk_full(source),
            Self::Key(error) => error.is_full(),
            Self::Post(_) | Self::Memory(_) | Self::Mismatch { .. } => false,
        }
    }
}

/// Why the workshop cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum WorkshopError {
    /// The folder of keys.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The threads.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Proofs made with the key that is here would be refused by the chain.
    #[error(
        "the key of {circuit} in {dir} has the verifying key with SHA-256 {found}, and the chain's genesis names {named}: the chain would refuse every proof made here and keep the deposits of its sectors; {next}",
        dir = .dir.display()
    )]
    ForeignKey {
        /// Of which circuit.
        circuit: CircuitId,
        /// The folder of keys.
        dir: PathBuf,
        /// SHA-256 of the verifying key here, lower-case hex.
        found: String,
        /// Of the one in the chain's genesis.
        named: String,
        /// What to do.
        next: String,
    },
    /// The chain's verifying key is here alone, and the proving key that could be made beside it is another one's.
    #[error(
        "the chain's genesis names the key of {circuit} whose verifying key lies in {dir}, but its proving key is not there, and none that is made here fits it; {next}",
        dir = .dir.display()
    )]
    NoProvingKey {
        /// Of which circuit.
        circuit: CircuitId,
        /// The folder of keys.
        dir: PathBuf,
        /// What to do.
        next: String,
    },
}

/// The verifying key of a circuit that a chain's genesis names, in Filecoin's `.vk` layout.
pub type NamedKey = (CircuitId, Vec<u8>);

/// How a machine with another key of a circuit gets the one that a chain names.
fn way_to(circuit: CircuitId, origin: Option<Origin>) -> String {
    let elsewhere = format!(
        "choose another folder with HOLDFAST_PARAMS, or move {circuit}.params, {circuit}.vk and their .json files out of this one"
    );
    match origin {
        Some(Origin::Filecoin) => format!("{elsewhere}, then {}", import_of(circuit)),
        Some(Origin::Developers) => {
            format!("{elsewhere}; the chain's key is made at the next start")
        }
        Some(Origin::Named) | None => UNPUBLISHED.to_owned(),
    }
}

fn import_of(circuit: CircuitId) -> String {
    format!(
        "take the file that Filecoin published: `holdfast prover params --import {}.params {circuit}`",
        circuit.filecoin_name()
    )
}

/// What to do about a key that nobody can give.
const UNPUBLISHED: &str = "nobody publishes the chain's key, so prove for another chain";

/// What to do about a verifying key that lies alone; `None` if the proving key that is made beside it is its own.
fn way_to_proving_key(circuit: CircuitId, origin: Option<Origin>) -> Option<String> {
    match origin {
        Some(Origin::Developers) => None,
        Some(Origin::Filecoin) => Some(import_of(circuit)),
        Some(Origin::Named) | None => Some(UNPUBLISHED.to_owned()),
    }
}

fn origin_of(circuit: CircuitId, vk: &[u8]) -> Option<Origin> {
    let checked = CheckedKey::read(circuit, vk).ok()?;
    Origin::of(circuit, &checked)
}

/// Keys, threads and slots of one machine, shared by all providers of a process.
pub struct Workshop {
    params: ParamStore,
    /// The threads of sealing; its memory is that of both lanes.
    seal: Plan,
    /// The threads of window posts and checks.
    post: Plan,
    /// One window proof at a time in this process.
    window_lane: std::sync::Mutex<()>,
}

impl Workshop {
    /// Sets up for the parameter folder `params`.
    pub fn new(params: &Path) -> Result<Self, WorkshopError> {
        let machine = Machine::detect();
        Self::with_limits(params, machine.cores, machine.available_memory)
    }

    /// [`Workshop::new`] with so many threads in each lane, and so many bytes for both lanes together.
    pub fn with_limits(params: &Path, threads: usize, memory: u64) -> Result<Self, WorkshopError> {
        Ok(Self {
            params: ParamStore::open(params)?,
            seal: Plan::with_limits(threads, memory)?
                .with_parent_cache(&parents_dir(params), LARGEST_PARENT_LIST),
            post: Plan::with_limits(threads, memory)?,
            window_lane: std::sync::Mutex::new(()),
        })
    }

    /// The lanes of sealing and of window posts for sectors of a size. What both are allowed fits the memory together.
    fn lanes(&self, size: SectorSize) -> (Plan, Plan) {
        let all = self.seal.memory();
        let post = proving_memory(CircuitId::window(size)) + seal::check_memory(size, &self.post);
        let post = post.min(all);
        (
            self.seal.with_memory(all - post),
            self.post.with_memory(post),
        )
    }

    /// The keys.
    pub fn params(&self) -> &ParamStore {
        &self.params
    }

    /// Makes the proving keys of a size, if they are not there yet. Minutes for 8 MiB, once per machine, before anything is
    /// sealed or proven: it may use the memory of both lanes. Refuses a machine on which a sector could be pre-committed and then
    /// not be proven, because the limits are fixed from here on.
    pub fn prepare(&self, size: SectorSize, progress: &dyn Progress) -> Result<(), KeyError> {
        self.require_room(size)?;
        for circuit in [CircuitId::window(size), CircuitId::porep(size)] {
            self.params.key(circuit, &self.seal, progress)?;
        }
        Ok(())
    }

    /// As [`Workshop::prepare`], for a chain whose genesis names these verifying keys. Where the folder has another key, made here or
    /// imported, or would get one, it is refused before any is made: a sector could be pre-committed with it and then never be
    /// proven.
    pub fn prepare_for(
        &self,
        size: SectorSize,
        named: &[NamedKey],
        progress: &dyn Progress,
    ) -> Result<(), WorkshopError> {
        self.require_room(size)?;
        for key in named {
            if self.params.has(key.0) {
                self.require_named(key, progress)?;
            } else {
                // Seconds, where a proving key takes minutes.
                let vk = self.params.verifying_key(key.0, &self.seal, progress)?;
                self.require_same(key, &vk)?;
                self.require_makeable(key)?;
            }
        }
        self.prepare(size, progress)?;
        named
            .iter()
            .try_for_each(|key| self.require_named(key, progress))
    }

    fn require_named(&self, key: &NamedKey, progress: &dyn Progress) -> Result<(), WorkshopError> {
        let proving = self.params.key(key.0, &self.seal, progress)?;
        self.require_same(key, proving.verifying_key().bytes())
    }

    /// Refuses a key that is here without its proving key, and that no proving key made here would fit.
    fn require_makeable(&self, (circuit, vk): &NamedKey) -> Result<(), WorkshopError> {
        match way_to_proving_key(*circuit, origin_of(*circuit, vk)) {
            None => Ok(()),
            Some(next) => Err(WorkshopError::NoProvingKey {
                circuit: *circuit,
                dir: self.params.dir().to_owned(),
                next,
            }),
        }
    }

    fn require_same(&self, (circuit, vk): &NamedKey, found: &[u8]) -> Result<(), WorkshopError> {
        if vk == found {
            return Ok(());
        }
        Err(WorkshopError::ForeignKey {
            circuit: *circuit,
            dir: self.params.dir().to_owned(),
            found: hex::encode(Sha256::digest(found)),
            named: hex::encode(Sha256::digest(vk)),
            next: way_to(*circuit, origin_of(*circuit, vk)),
        })
    }

    fn require_room(&self, size: SectorSize) -> Result<(), KeyError> {
        let (seal, post) = self.lanes(size);
        let posting = proving_memory(CircuitId::window(size)) + seal::check_memory(size, &post);
        post.require("proving windows and checking replicas", posting)?;
        seal.require(
            "sealing beside window posts",
            proving_memory(CircuitId::porep(size)),
        )?;
        Ok(())
    }

    /// The window slot; after a while without.
    fn window_slot(&self) -> Option<SlotGuard> {
        let until = Instant::now() + WINDOW_SLOT_PATIENCE;
        loop {
            match slot::try_lock(&self.params.dir().join("window.slot")) {
                Ok(Some(guard)) => return Some(guard),
                Ok(None) if Instant::now() < until => std::thread::sleep(slot::POLL),
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

/// One provider's place in the workshop.
#[derive(Clone)]
pub struct Bench {
    shop: Arc<Workshop>,
    seal: Plan,
    post: Plan,
    dir: PathBuf,
    size: SectorSize,
    prover: ProverId,
}

impl Bench {
    /// A bench whose sectors are folders of `dir`.
    pub fn new(shop: Arc<Workshop>, dir: PathBuf, size: SectorSize, prover: ProverId) -> Self {
        let (seal, post) = shop.lanes(size);
        Self {
            shop,
            seal,
            post,
            dir,
            size,
            prover,
        }
    }

    /// A sector's folder.
    pub fn sector_dir(&self, number: SectorNumber) -> PathBuf {
        self.dir.join(number.to_string())
    }

    /// The workshop.
    pub fn shop(&self) -> &Arc<Workshop> {
        &self.shop
    }

    /// PC1 and PC2: labels, trees, replica. Goes on where it stopped.
    pub fn seal(
        &self,
        record: &SectorRecord,
        pieces: &[(DealRecord, PathBuf)],
        progress: &dyn Progress,
    ) -> Result<(CommD, CommR, SealTimes), JobError> {
        let path = self.sector_dir(record.number);
        self.seal_at(&path, record, pieces, progress)
    }

    fn seal_at(
        &self,
        path: &Path,
        record: &SectorRecord,
        pieces: &[(DealRecord, PathBuf)],
        progress: &dyn Progress,
    ) -> Result<(CommD, CommR, SealTimes), JobError> {
        let mut spent = record.spent;
        let mut stage = self.open_or_create(path, record, pieces, progress)?;
        loop {
            let begun = Instant::now();
            stage = match stage {
                AnyStage::Packed(packed) => {
                    let labeled = packed.label(&self.seal, progress)?;
                    spent.pc1_ms += millis(begun);
                    AnyStage::Labeled(labeled)
                }
                AnyStage::Labeled(labeled) => {
                    let replicated = labeled.replicate(&self.seal, progress)?;
                    spent.pc2_ms += millis(begun);
                    AnyStage::Replicated(replicated)
                }
                AnyStage::Replicated(done) => return Ok((done.comm_d(), done.comm_r(), spent)),
                AnyStage::Challenged(done) => {
                    let done = done.forget_seed()?;
                    return Ok((done.comm_d(), done.comm_r(), spent));
                }
                AnyStage::Sealed(done) => return Ok((done.comm_d(), done.comm_r(), spent)),
            };
        }
    }

    /// The sector as it stands on disk, or packed anew when there is none, or one of another ticket, or one that is certainly worth
    /// nothing. Whatever else is in the way leaves the folder as it is.
    fn open_or_create(
        &self,
        path: &Path,
        record: &SectorRecord,
        pieces: &[(DealRecord, PathBuf)],
        progress: &dyn Progress,
    ) -> Result<AnyStage, JobError> {
        let sealing = match (&record.stage, record.replica()) {
            (_, Some(replica)) => replica.sealing,
            (Stage::Sealing(sealing), None) => *sealing,
            _ => {
                return Err(JobError::Mismatch {
                    sector: record.number,
                    what: "it has no ticket yet".to_owned(),
                });
            }
        };
        if path.exists() {
            match self.resume_or_repair(path, progress) {
                Ok(stage) if stage.dir().record().ticket == sealing.ticket => return Ok(stage),
                Ok(_) => {
                    tracing::info!(sector = record.number.0, "starts over with a new ticket");
                    remove_dir(path)?;
                }
                // Packing did not get as far as a record.
                Err(SealError::Dir(SectorDirError::Empty(_))) => remove_dir(path)?,
                Err(error) if is_beyond_use(&error) => {
                    tracing::warn!(sector = record.number.0, %error, "the sector's folder cannot be used; packing anew");
                    remove_dir(path)?;
                }
                Err(source) => {
                    return Err(JobError::Kept {
                        path: path.to_owned(),
                        source,
                    });
                }
            }
        }
        let request = SealRequest {
            seal: RegisteredSeal {
                version: SealVersion::V1_1,
                size: self.size,
            },
            prover: self.prover,
            sector: record.number,
            ticket: sealing.ticket,
            pieces: pieces.iter().map(|(deal, _)| deal.piece).collect(),
        };
        let mut sources = Vec::with_capacity(pieces.len());
        for (deal, path) in pieces {
            let file = File::open(path).map_err(at(path))?;
            // A piece is its bytes, zero-filled to the unpadded size.
            let unpadded = deal.piece.size.unpadded().bytes();
            sources.push(io::BufReader::new(file).chain(io::repeat(0)).take(unpadded));
        }
        let mut readers: Vec<&mut dyn Read> = sources
            .iter_mut()
            .map(|source| source as &mut dyn Read)
            .collect();
        let packed = seal::create_watched(path, request, &mut readers, progress)?;
        Ok(AnyStage::Packed(packed))
    }

    fn resume_or_repair(
        &self,
        path: &Path,
        progress: &dyn Progress,
    ) -> Result<AnyStage, SealError> {
        match seal::resume(path, &self.seal, progress) {
            Err(SealError::Dir(SectorDirError::Damaged { .. })) => {
                seal::repair(path, &self.seal, progress)
            }
            other => other,
        }
    }

    /// C1 and C2: the proof for this seed, verified by the front door. Goes on where it stopped.
    pub fn prove(
        &self,
        record: &SectorRecord,
        seed: Seed,
        progress: &dyn Progress,
    ) -> Result<(Vec<u8>, SealTimes), JobError> {
        let path = self.sector_dir(record.number);
        let mut spent = record.spent;
        let mut stage = self.resume_or_repair(&path, progress)?;
        loop {
            let begun = Instant::now();
            stage = match stage {
                AnyStage::Replicated(replicated) => {
                    let challenged = replicated.challenge(seed, &self.seal, progress)?;
                    spent.c1_ms += millis(begun);
                    AnyStage::Challenged(challenged)
                }
                AnyStage::Challenged(challenged) if challenged.vanilla().seed != seed => {
                    AnyStage::Replicated(challenged.forget_seed()?)
                }
                AnyStage::Challenged(challenged) => {
                    let circuit = CircuitId::porep(self.size);
                    let key = self.shop.params.key(circuit, &self.seal, progress)?;
                    let sealed = challenged.prove(&key, &self.seal, progress)?;
                    spent.c2_ms += millis(begun);
                    AnyStage::Sealed(sealed)
                }
                AnyStage::Sealed(sealed) if sealed.seed() == seed => {
                    return Ok((sealed.proof().to_vec(), spent));
                }
                other => {
                    return Err(JobError::Mismatch {
                        sector: record.number,
                        what: format!(
                            "its folder is {}, which does not fit the chain's seed",
                            other.name()
                        ),
                    });
                }
            };
        }
    }

    /// Frees what only sealing needed, once the chain has the sector. The pieces keep their own unsealed copies.
    pub fn trim(&self, number: SectorNumber) -> Result<(), JobError> {
        let path = self.sector_dir(number);
        // Not on the threads of sealing, whose labels would wait for these hashes.
        if let AnyStage::Sealed(sealed) = seal::resume(&path, &self.post, &NoProgress)? {
            sealed.trim(false)?;
        }
        Ok(())
    }

    /// A window post over these sectors, verified by the front door. One at a time per machine.
    pub fn prove_window(
        &self,
        randomness: PostRandomness,
        sectors: &[(SectorNumber, CommR)],
        progress: &dyn Progress,
    ) -> Result<Vec<u8>, JobError> {
        let _lane = self
            .shop
            .window_lane
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let _slot = self.shop.window_slot();
        let dirs: Vec<PathBuf> = sectors
            .iter()
            .map(|(number, _)| self.sector_dir(*number))
            .collect();
        let replicas: Vec<ReplicaRef<'_>> = sectors
            .iter()
            .zip(&dirs)
            .map(|((number, comm_r), dir)| ReplicaRef {
                number: *number,
                comm_r: *comm_r,
                dir,
            })
            .collect();
        let circuit = CircuitId::window(self.size);
        self.post
            .require("a window post", proving_memory(circuit))?;
        let key = self.shop.params.key(circuit, &self.post, progress)?;
        self.post.run(|| {
            Ok(prove_window(
                &key,
                self.size,
                self.prover,
                randomness,
                &replicas,
                progress,
            )?)
        })
    }

    /// Looks at a replica: all of it, or as many random leaves as a window post opens.
    pub fn scrub(&self, number: SectorNumber, comm_r: &CommR, full: bool) -> Health {
        let mut rng = rand::thread_rng();
        let leaves: Vec<u64> = (0..SAMPLE_LEAVES)
            .map(|_| rng.gen_range(0..self.size.nodes()))
            .collect();
        let depth = if full {
            CheckDepth::Full
        } else {
            CheckDepth::Leaves(&leaves)
        };
        let report = seal::replica_check(
            &self.sector_dir(number),
            self.size,
            comm_r,
            depth,
            &self.post,
            &NoProgress,
        );
        let report = match report {
            Ok(report) => report,
            Err(error) => return Health::Unknown(error.to_string()),
        };
        if report.is_sound() {
            return Health::Good { full };
        }
        if let Some(damage) = report.damage.first() {
            let places = report.damage.len();
            tracing::warn!(sector = number.0, places, %damage, "damage found");
        }
        Health::Damaged
    }

    /// Reseals a damaged replica from its pieces and puts it in the folder's place if it has the chain's CommR.
    pub fn rebuild(
        &self,
        record: &SectorRecord,
        pieces: &[(DealRecord, PathBuf)],
        progress: &dyn Progress,
    ) -> Result<(), JobError> {
        let Some(replica) = record.replica() else {
            return Err(JobError::Mismatch {
                sector: record.number,
                what: "there is no replica to rebuild".to_owned(),
            });
        };
        let fresh = self.dir.join(format!("{}.rebuild", record.number));
        let (_, comm_r, _) = self.seal_at(&fresh, record, pieces, progress)?;
        if comm_r != replica.comm_r {
            remove_dir(&fresh)?;
            return Err(JobError::Mismatch {
                sector: record.number,
                what: format!(
                    "resealing gave CommR {comm_r}, the chain has {}",
                    replica.comm_r
                ),
            });
        }
        let place = self.sector_dir(record.number);
        remove_dir(&place)?;
        fs::rename(&fresh, &place).map_err(at(&place))?;
        let _ = super::journal::sync_dir(&self.dir);
        Ok(())
    }

    /// Deletes a sector's files.
    pub fn discard(&self, number: SectorNumber) -> Result<(), JobError> {
        remove_dir(&self.sector_dir(number))?;
        remove_dir(&self.dir.join(format!("{number}.rebuild")))
    }

    /// Whether the folder holds a readable record: what a start reports.
    pub fn is_here(&self, number: SectorNumber) -> bool {
        sector_dir::read_record(&sector_dir::disk::RealDisk, &self.sector_dir(number)).is_ok()
    }
}

/// Whether a sector's folder is certainly worth nothing, after repair: everything in it can be made again from the pieces. Any
/// other error may pass, as when somebody looks at the folder, a disk is full or a newer program made it, and hours of labels would
/// go with the folder.
fn is_beyond_use(error: &SealError) -> bool {
    match error {
        // What repair says of data that is gone.
        SealError::Dir(SectorDirError::Lost { .. }) => true,
        SealError::Dir(SectorDirError::Record { source, .. }) => {
            !matches!(source, RecordError::Version(_))
        }
        // Its files are as they were recorded, and no proof can be made of them.
        SealError::Inconsistent { .. } => true,
        _ => false,
    }
}

fn remove_dir(path: &Path) -> Result<(), JobError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(JobError::File {
            path: path.to_owned(),
            source,
        }),
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> JobError {
    let path = path.to_owned();
    |source| JobError::File { path, source }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::lifecycle::Sealing;
    use super::*;
    use chain_lite::units::Epoch;
    use prover::Ticket;
    use prover::sector_dir::disk::DiskError;

    const SIZE: SectorSize = SectorSize::Kib2;

    fn bench(dir: &Path, memory: u64) -> Bench {
        let shop = Workshop::with_limits(&dir.join("params"), 1, memory).expect("a workshop");
        let prover = ProverId([9; 32]);
        Bench::new(Arc::new(shop), dir.join("sectors"), SIZE, prover)
    }

    /// A record of a sector without deals that waits for its seal.
    fn sealing(ticket: u8) -> SectorRecord {
        SectorRecord {
            number: SectorNumber(5),
            deals: Vec::new(),
            stage: Stage::Sealing(Sealing {
                ticket_epoch: Epoch(1),
                ticket: Ticket([ticket; 32]),
            }),
            spent: SealTimes::default(),
        }
    }

    /// What may pass leaves the folder as it is: the very files of the first run are gone on with, nothing is packed again.
    #[test]
    fn tm_h8_a_sectors_folder_that_cannot_be_read_now_is_kept() {
        let dir = tempfile::tempdir().expect("a folder");
        let bench = bench(dir.path(), 1 << 30);
        let record = sealing(1);
        let seal = || bench.seal(&record, &[], &NoProgress);
        let (_, comm_r, _) = seal().expect("seals");
        let path = bench.sector_dir(record.number);
        let packed_at = || {
            let data = fs::metadata(path.join("unsealed")).expect("it is there");
            data.modified().expect("the system says it")
        };
        let first = packed_at();
        let kept = |said: &str| {
            let error = seal().expect_err("not now");
            assert!(matches!(error, JobError::Kept { .. }), "{error}");
            assert!(error.to_string().contains(said), "{error}");
        };

        // Somebody looks at it.
        let lock = File::options().write(true).open(path.join("lock"));
        let lock = lock.expect("opens");
        lock.try_lock().expect("free");
        kept("in use by another process");
        drop(lock);
        // A layer cannot be opened, and no one knows for how long.
        let layer = path.join("sc-02-data-layer-1.dat");
        fs::rename(&layer, dir.path().join("aside")).expect("renames");
        std::os::unix::fs::symlink(&layer, &layer).expect("links to itself");
        kept("sc-02-data-layer-1.dat");
        fs::rename(dir.path().join("aside"), &layer).expect("renames");
        // A newer program's record.
        let ours = fs::read(path.join("record")).expect("reads");
        let mut newer = ours.clone();
        newer[8] = 3;
        fs::write(path.join("record"), newer).expect("writes");
        kept("version 3");
        fs::write(path.join("record"), &ours).expect("writes");

        let (_, again, _) = seal().expect("goes on");
        assert_eq!(again, comm_r);
        assert_eq!(packed_at(), first, "it was packed again");

        // A full disk while the folder is read or repaired passes, too, and is told as what it is.
        let full = || DiskError::at("writing", &path)(io::ErrorKind::StorageFull.into());
        let source = SealError::from(full());
        assert!(!is_beyond_use(&source));
        let path = path.clone();
        assert!(JobError::Kept { path, source }.is_disk_full());
    }

    /// What is worth nothing makes room: another ticket, data that is gone, a record that says nothing, a folder without one.
    #[test]
    fn a_sectors_folder_that_is_worth_nothing_is_packed_anew() {
        let dir = tempfile::tempdir().expect("a folder");
        let bench = bench(dir.path(), 1 << 30);
        let record = sealing(1);
        let seal = |record: &SectorRecord| bench.seal(record, &[], &NoProgress);
        let (_, comm_r, _) = seal(&record).expect("seals");
        let path = bench.sector_dir(record.number);
        let write = |name: &str| fs::write(path.join(name), "not it").expect("writes");
        let spoil: [(&str, &dyn Fn()); 3] = [
            ("its data is gone", &|| {
                for file in ["unsealed", "sc-02-data-tree-d.dat", "sealed"] {
                    write(file);
                }
            }),
            ("its record is damaged", &|| write("record")),
            ("it was killed before its first record", &|| {
                fs::remove_file(path.join("record")).expect("removes");
            }),
        ];
        for (what, spoil) in spoil {
            spoil();
            let (_, again, _) = seal(&record).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(again, comm_r, "{what}");
        }
        let (_, other, _) = seal(&sealing(2)).expect("seals");
        assert_ne!(other, comm_r, "another ticket makes another replica");
    }

    fn post(bench: &Bench) -> JobError {
        let sectors = [(SectorNumber(1), CommR([1; 32]))];
        bench
            .prove_window(PostRandomness::masked([7; 32]), &sectors, &NoProgress)
            .expect_err("there is no sector")
    }

    #[test]
    fn tm_h9_a_window_post_without_room_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let circuit = CircuitId::window(SIZE);
        let needed = proving_memory(circuit);
        let poor = bench(dir.path(), needed - 1);
        let error = post(&poor);
        assert!(matches!(error, JobError::Memory(_)), "{error}");
        let said = error.to_string();
        let mib = format!("needs {} MiB", needed.div_ceil(1 << 20));
        assert!(said.contains(&mib), "{said}");
        assert!(!poor.shop().params().has(circuit), "nothing was begun");

        // Neither are keys made nor replicas looked at where there is no room, and nothing is called damaged.
        let poor = bench(dir.path(), 1 << 20);
        let error = poor.shop().prepare(SIZE, &NoProgress).expect_err("no room");
        assert!(matches!(error, KeyError::Memory(_)), "{error}");
        for full in [false, true] {
            let health = poor.scrub(SectorNumber(1), &CommR([1; 32]), full);
            assert!(matches!(health, Health::Unknown(_)), "{health:?}");
        }

        // With room for both it goes on, to the sector that is missing.
        let rich = bench(dir.path(), 1 << 30);
        let error = post(&rich);
        let JobError::Post(PostError::Faulty(sectors)) = error else {
            panic!("{error}");
        };
        assert_eq!(sectors, [SectorNumber(1)]);
        let health = rich.scrub(SectorNumber(1), &CommR([1; 32]), true);
        assert_eq!(health, Health::Damaged);
    }

    /// Whatever the size and the machine: what the two lanes are allowed fits together, and a post is not starved by sealing.
    #[test]
    fn tm_h9_sealing_and_posting_share_the_memory() {
        let dir = tempfile::tempdir().expect("a folder");
        for size in SectorSize::ALL {
            let needed = proving_memory(CircuitId::window(size));
            for all in [0, 1 << 20, needed, 2 * needed, 1 << 40] {
                let shop = Workshop::with_limits(dir.path(), 1, all).expect("a workshop");
                let (seal, post) = shop.lanes(size);
                assert!(seal.memory() + post.memory() <= all, "{size} in {all}");
                assert_eq!(post.memory() >= needed, all >= needed, "{size} in {all}");
            }
        }
    }

    /// Verifying keys of this size that Filecoin's prover made for itself, as a chain's genesis may name them.
    pub(crate) fn filecoins() -> Vec<NamedKey> {
        let vectors = fixtures::json("vectors/filecoin.json");
        let of = |circuit, name| {
            let vk = vectors["sectors"]["2KiB"][name].as_str();
            (circuit, hex::decode(vk.expect("a key")).expect("hex"))
        };
        vec![
            of(CircuitId::porep(SIZE), "porep_vk"),
            of(CircuitId::window(SIZE), "window_vk"),
        ]
    }

    fn sha256(vk: &[u8]) -> String {
        hex::encode(Sha256::digest(vk))
    }

    /// What a shop says to a chain that names these keys, and that no PoRep key is made for it.
    #[track_caller]
    fn refused(shop: &Workshop, named: &[NamedKey], circuit: CircuitId) -> String {
        let error = shop.prepare_for(SIZE, named, &NoProgress);
        let said = error.expect_err("refused").to_string();
        let begin = format!("the key of {circuit} in ");
        assert!(said.starts_with(&begin), "{said}");
        assert!(!shop.params().has(CircuitId::porep(SIZE)), "it was made");
        said
    }

    fn two(keys: Vec<NamedKey>) -> [NamedKey; 2] {
        keys.try_into().expect("two keys")
    }

    /// A shop whose folder has this verifying key alone and takes it, and the key that is made there otherwise.
    fn with_lone_key(dir: &Path, circuit: CircuitId, vk: &[u8]) -> (Workshop, Vec<u8>) {
        let mut shop = Workshop::with_limits(dir, 2, 1 << 40).expect("a workshop");
        let own = shop.params().verifying_key_bytes(circuit, &NoProgress);
        let own = own.expect("made in seconds");
        let store = ParamStore::open(dir).expect("opens");
        shop.params = store.trusting(circuit, sha256(vk));
        let path = shop.params().vk_path(circuit);
        let record = path.with_extension("vk.json");
        let text = std::fs::read_to_string(&record).expect("reads");
        let text = text.replace(&sha256(&own), &sha256(vk));
        std::fs::write(&path, vk).expect("writes");
        std::fs::write(&record, text).expect("writes");
        (shop, own)
    }

    /// Whether the key is there or would be made, it is compared before another one is made.
    #[test]
    fn tm_s3_a_key_that_the_chain_does_not_name_is_refused_before_anything_is_made() {
        let dir = tempfile::tempdir().expect("a folder");
        let shop = Workshop::with_limits(dir.path(), 2, 1 << 40).expect("a workshop");
        let (porep, window) = (CircuitId::porep(SIZE), CircuitId::window(SIZE));
        let [theirs_porep, theirs] = two(filecoins());

        // Not there: what would be made is told beforehand.
        let said = refused(&shop, std::slice::from_ref(&theirs), window);
        assert!(said.ends_with("prove for another chain"), "{said}");
        assert!(!shop.params().has(window), "it was made");
        let own = shop.params().verifying_key_bytes(window, &NoProgress);
        let own = own.expect("made in seconds");
        for digest in [sha256(&own), sha256(&theirs.1)] {
            assert!(said.contains(&digest), "{digest} is missing in {said}");
        }
        // There.
        let made = shop.params().load_or_generate(window, &NoProgress);
        assert_eq!(made.expect("made").verifying_key().bytes(), own);
        refused(&shop, &[theirs], window);
        refused(&shop, &[(window, own), theirs_porep], porep);
    }

    /// A foreign key in the folder, on a chain of keys that are made locally.
    #[test]
    fn tm_s3_a_foreign_key_is_refused_on_a_chain_of_locally_made_ones() {
        let dir = tempfile::tempdir().expect("a folder");
        let (window, [_, (_, theirs)]) = (CircuitId::window(SIZE), two(filecoins()));
        let (shop, own) = with_lone_key(dir.path(), window, &theirs);
        let said = refused(&shop, &[(window, own)], window);
        assert!(said.ends_with("made at the next start"), "{said}");
        assert!(said.contains(&sha256(&theirs)), "{said}");
    }

    /// A verifying key alone, which the chain names and nobody here can make a proving key for: told before minutes of making
    /// another one.
    #[test]
    fn tm_s3_a_verifying_key_alone_is_refused_before_another_ones_proving_key_is_made() {
        let window = CircuitId::window(SIZE);
        let [theirs_porep, theirs] = two(filecoins());
        let dir = tempfile::tempdir().expect("a folder");
        let (shop, own) = with_lone_key(dir.path(), window, &theirs.1);
        let named = [theirs, (CircuitId::porep(SIZE), theirs_porep.1)];
        let error = shop.prepare_for(SIZE, &named, &NoProgress);
        let error = error.expect_err("refused");
        let is_told =
            matches!(&error, WorkshopError::NoProvingKey { circuit, .. } if *circuit == window);
        assert!(is_told, "{error}");
        let said = error.to_string();
        assert!(said.contains(&dir.path().display().to_string()), "{said}");
        assert!(said.ends_with("prove for another chain"), "{said}");
        assert!(!shop.params().has(window), "it was made");

        // The developers' one lies alone on every machine that only verifies: its proving key is made beside it.
        let dir = tempfile::tempdir().expect("a folder");
        let (shop, _) = with_lone_key(dir.path(), window, &own);
        shop.require_makeable(&(window, own)).expect("its own");
    }

    #[test]
    fn the_way_to_a_published_key_names_its_file() {
        let circuit = CircuitId::window(SIZE);
        let command = format!(
            "holdfast prover params --import {}.params window-2KiB",
            circuit.filecoin_name()
        );
        let said = way_to(circuit, Some(Origin::Filecoin));
        assert!(said.contains(&command), "{said}");
        // Beside its verifying key nothing has to be moved away.
        let said = way_to_proving_key(circuit, Some(Origin::Filecoin)).expect("cannot be made");
        assert!(said.contains(&command) && !said.contains("move"), "{said}");
    }

    /// A machine that could post and pre-commit, and never prove a sector, is told before it does either.
    #[test]
    fn tm_h9_a_machine_that_cannot_prove_a_sector_is_refused_at_the_start() {
        let dir = tempfile::tempdir().expect("a folder");
        let shop = Workshop::with_limits(dir.path(), 1, 1 << 40).expect("a workshop");
        let (_, post) = shop.lanes(SIZE);
        let least = post.memory() + proving_memory(CircuitId::porep(SIZE));
        let shop = Workshop::with_limits(dir.path(), 1, least - 1).expect("a workshop");
        let error = shop.prepare(SIZE, &NoProgress).expect_err("one byte short");
        assert!(matches!(error, KeyError::Memory(_)), "{error}");
        assert!(error.to_string().contains("sealing"), "{error}");
        assert!(
            !shop.params().has(CircuitId::window(SIZE)),
            "nothing was made"
        );
    }
}
