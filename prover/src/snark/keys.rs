//! Keys on disk: made once from a published seed, or imported from Filecoin's files; kept in a shared folder, checked at every
//! opening.
//!
//! Walk: [`ParamStore::load_or_generate`] gives `snark::prove` its key; the verifying key's bytes go
//! into a genesis. [`ParamStore::import`] takes files that others made (`import`). Spec: proofs.md §4.5, `r1cs/README.md` §3;
//! threats S1–S4, S6, H3, H4.
//!
//! A key is taken when somebody stands for it ([`Origin`]): Filecoin by a pinned digest, everybody by the published seed, or
//! the caller by its hash. What a record says about itself decides nothing.
//!
//! Files, per circuit:
//! ```text
//! porep-8MiB.params        Filecoin's layout: vk | h | l | a | b_g1 | b_g2, nothing before or after
//! porep-8MiB.params.json   version, circuit, digest of its rows, insecure mark, length, SHA-256
//! porep-8MiB.vk            Filecoin's layout, with porep-8MiB.vk.json beside it
//! porep-8MiB.params.lock   held while the key is made, so that two processes make it once
//! ```
//! Crash: a file counts once its `.json` stands beside it, which is renamed into place last, after
//! the file itself was synced. Anything less is made again.
//! Cost: opening hashes the file (about 1 GB/s). Points are read in pieces by position, never mapped:
//! a file that shrinks under a running prover is an error, no signal, and memory stays bounded.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::CircuitId;
use super::dev::{Secrets, is_dev_key, pinned_vk_sha256};
use super::groth16::{CheckedKey, G1_BYTES, G2_BYTES, VkError, vk_bytes_len};
use super::keygen::Evaluated;
use super::origin::{Origin, sha256_hex};
use super::pairing::{decode_g1_uncompressed, decode_g2_uncompressed};
use super::record::{Counts, Density};
use super::shape::{self, Blank};
use crate::estimate::{key_memory, keygen_memory, vk_memory};
use crate::machine::{MemoryError, Plan};
use crate::progress::{NoProgress, Progress};

mod import;

const FORMAT_VERSION: u32 = 1;

/// The largest domain a developers' key is made for: 512 MiB PoRep, and 32 KiB updates.
const MAX_DEV_DOMAIN: usize = 1 << 23;

/// Why a key is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The disk refused.
    #[error(
        "cannot {action} {path}: {source}; check space and permissions of the folder, or choose another one with HOLDFAST_PARAMS"
    )]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what was written.
    #[error(
        "{path} is damaged: {why}; delete it, and it is made again on the next use (an imported key: import it again)"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The file belongs to another circuit, or to other rows of this one (threat S4).
    #[error(
        "{path} is a key for {found}, wanted {wanted}; delete it, and the right one is made on the next use"
    )]
    WrongCircuit {
        /// Which file.
        path: PathBuf,
        /// What its record says.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// The verifying key inside does not pass its checks.
    #[error(transparent)]
    Vk(#[from] VkError),
    /// This machine computes other bytes than all others from the same published secrets.
    #[error(
        "the verifying key of {circuit} made here has SHA-256 {made}, every other machine makes {pinned}; this machine computes wrongly, test its memory"
    )]
    NotReproduced {
        /// Which key.
        circuit: CircuitId,
        /// Hash of what was made here.
        made: String,
        /// Hash of what is made everywhere.
        pinned: &'static str,
    },
    /// The folder has no room for the key.
    #[error(
        "the key {circuit} needs {} MiB in {} and {} MiB are free; free some space, or choose another folder with HOLDFAST_PARAMS",
        needed.div_ceil(1 << 20), dir.display(), free >> 20
    )]
    DiskSpace {
        /// Which key.
        circuit: CircuitId,
        /// Bytes that it takes.
        needed: u64,
        /// The folder.
        dir: PathBuf,
        /// Bytes free.
        free: u64,
    },
    /// No developers' key is made for production sizes.
    #[error(
        "no key is made for {0}: developers' keys end at 512 MiB, those of updates at 32 KiB, and larger circuits have Filecoin's {name}.params alone; import that file with `holdfast prover params --import FILE {0}`, or use a smaller sector",
        name = .0.filecoin_name()
    )]
    NeedsCeremony(CircuitId),
    /// A file that is to be imported is no key of this circuit, or a damaged one. It is the caller's: it stays as it is.
    #[error(
        "{path} is refused as a key of {circuit}: {why}; name the circuit that it was made for, or obtain {name}.params again from where it was published",
        name = circuit.filecoin_name()
    )]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// For which circuit.
        circuit: CircuitId,
        /// What is wrong.
        why: String,
    },
    /// A sound key that nobody stands for (threats S1, S3).
    #[error(
        "the verifying key in {path} has SHA-256 {vk_sha256}: that is neither Filecoin's published key of {circuit} nor the developers' one, and whoever made it may forge proofs; use {name}.params as Filecoin published it",
        name = circuit.filecoin_name()
    )]
    Unknown {
        /// Which file.
        path: PathBuf,
        /// For which circuit.
        circuit: CircuitId,
        /// Hash of the verifying key, lower-case hex.
        vk_sha256: String,
    },
    /// An import would replace a key.
    #[error(
        "{path} is there already, with its record; to have another key of {circuit}, move both away first, or choose another folder with HOLDFAST_PARAMS"
    )]
    Occupied {
        /// Which file.
        path: PathBuf,
        /// For which circuit.
        circuit: CircuitId,
    },
    /// Making the key needs more memory than allowed.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl KeyError {
    /// Whether the disk is full, which freeing space cures.
    pub fn is_full(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            KeyError::Io { source, .. } => matches!(source.kind(), StorageFull | QuotaExceeded),
            KeyError::DiskSpace { .. } => true,
            _ => false,
        }
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> KeyError {
    let path = path.to_owned();
    move |source| KeyError::Io {
        action,
        path,
        source,
    }
}

/// The record beside a file. Pinned by its version; unknown fields are refused.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    circuit: CircuitId,
    rows_sha256: String,
    /// Whether the secrets of this key are published. For people: [`Origin`] tells it from the key itself.
    insecure: bool,
    bytes: u64,
    sha256: String,
}

/// The five vectors of points, in the order of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query {
    /// Powers of tau for the quotient.
    H,
    /// Auxiliary variables, combined.
    L,
    /// A's variables.
    A,
    /// B's variables in G1.
    BG1,
    /// B's variables in G2.
    BG2,
}

impl Query {
    const ALL: [Query; 5] = [Query::H, Query::L, Query::A, Query::BG1, Query::BG2];

    const fn point_bytes(self) -> usize {
        match self {
            Query::BG2 => G2_BYTES,
            _ => G1_BYTES,
        }
    }
}

/// A proving key: an open file whose structure fits its circuit.
#[derive(Debug)]
pub struct ProvingKey {
    name: String,
    path: PathBuf,
    file: File,
    vk: CheckedKey,
    density: Density,
    /// Offset of the first point and number of points, per query.
    pub(super) queries: [(u64, usize); 5],
}

impl ProvingKey {
    /// Opens a file in Filecoin's `.params` layout for a circuit whose density is known.
    pub(crate) fn open(
        name: String,
        path: &Path,
        density: Density,
    ) -> Result<ProvingKey, KeyError> {
        let file = File::open(path).map_err(io("open", path))?;
        let damaged = |why: String| KeyError::Damaged {
            path: path.to_owned(),
            why,
        };
        let mut vk = vec![0; vk_bytes_len(density.counts.inputs)];
        read_at(&file, &mut vk, 0).map_err(|_| damaged("shorter than its verifying key".into()))?;
        let vk = CheckedKey::parse(&vk, density.counts.inputs).map_err(damaged)?;

        let points = Query::ALL.map(|query| expected_points(&density, query));
        let (queries, end) = layout(density.counts.inputs, points);
        for (query, (offset, expected)) in Query::ALL.into_iter().zip(queries) {
            let mut count = [0; COUNT_BYTES];
            read_at(&file, &mut count, offset - COUNT_BYTES as u64)
                .map_err(|_| damaged(format!("ends before {query:?}")))?;
            let count = u32::from_be_bytes(count) as usize;
            if count != expected {
                return Err(damaged(format!(
                    "{count} points in {query:?}, the circuit has {expected}"
                )));
            }
        }
        let length = file.metadata().map_err(io("inspect", path))?.len();
        if length != end {
            return Err(damaged(format!("{length} bytes, expected {end}")));
        }
        Ok(ProvingKey {
            name,
            path: path.to_owned(),
            file,
            vk,
            density,
            queries,
        })
    }

    /// The circuit's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The verifying key inside.
    pub fn verifying_key(&self) -> &CheckedKey {
        &self.vk
    }

    /// Which variables have points.
    pub fn density(&self) -> &Density {
        &self.density
    }

    /// Number of points of a query.
    pub fn points(&self, query: Query) -> usize {
        self.queries[query as usize].1
    }

    /// Raw bytes of `count` points from point `from` on.
    pub(crate) fn read(
        &self,
        query: Query,
        from: usize,
        count: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), KeyError> {
        let size = query.point_bytes();
        out.resize(count * size, 0);
        let offset = self.queries[query as usize].0 + (from * size) as u64;
        read_at(&self.file, out, offset).map_err(io("read", &self.path))
    }

    pub(crate) fn damaged(&self, why: String) -> KeyError {
        KeyError::Damaged {
            path: self.path.clone(),
            why,
        }
    }

    /// Checks every point: canonical, on the curve, in the group. Minutes for a large key.
    pub fn verify_points(&self, progress: &dyn Progress) -> Result<(), KeyError> {
        let total: usize = Query::ALL.into_iter().map(|query| self.points(query)).sum();
        progress.start("points", total as u64);
        for query in Query::ALL {
            self.verify_query(query, progress)?;
        }
        progress.finish();
        Ok(())
    }

    fn verify_query(&self, query: Query, progress: &dyn Progress) -> Result<(), KeyError> {
        const CHUNK: usize = 1 << 14;
        let is_good = |bytes: &[u8]| match query {
            Query::BG2 => bytes
                .try_into()
                .is_ok_and(|bytes| decode_g2_uncompressed(bytes).is_some()),
            _ => bytes
                .try_into()
                .is_ok_and(|bytes| decode_g1_uncompressed(bytes).is_some()),
        };
        let mut bytes = Vec::new();
        for from in (0..self.points(query)).step_by(CHUNK) {
            let count = CHUNK.min(self.points(query) - from);
            self.read(query, from, count, &mut bytes)?;
            let bad = bytes
                .par_chunks_exact(query.point_bytes())
                .position_any(|bytes| !is_good(bytes));
            if let Some(at) = bad {
                let at = from + at;
                return Err(self.damaged(format!(
                    "point {at} of {query:?} is not a canonical group element"
                )));
            }
            progress.advance(count as u64);
        }
        Ok(())
    }
}

/// The big-endian count before each vector of points.
const COUNT_BYTES: usize = 4;

/// Where the vectors of a `.params` file are: the offset of the first point and the number of points of each; and the length of
/// the file.
fn layout(inputs: usize, points: [usize; 5]) -> ([(u64, usize); 5], u64) {
    let mut end = vk_bytes_len(inputs) as u64;
    let mut queries = [(0, 0); 5];
    for ((query, count), slot) in Query::ALL.into_iter().zip(points).zip(&mut queries) {
        *slot = (end + COUNT_BYTES as u64, count);
        end = slot.0 + (count * query.point_bytes()) as u64;
    }
    (queries, end)
}

/// How many points the matrices call for (`r1cs/README.md` §3).
fn expected_points(density: &Density, query: Query) -> usize {
    let occurring = |mask: &[bool]| mask.iter().filter(|occurs| **occurs).count();
    let Counts { inputs, aux, .. } = density.counts;
    match query {
        Query::H => density.counts.domain() - 1,
        Query::L => aux,
        Query::A => inputs + occurring(&density.in_a),
        Query::BG1 | Query::BG2 => occurring(&density.inputs_in_b) + occurring(&density.in_b),
    }
}

#[cfg(unix)]
fn read_at(file: &File, out: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(windows)]
fn read_at(file: &File, mut out: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !out.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, out, offset)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        out = &mut out[read..];
        offset += read as u64;
    }
    Ok(())
}

/// A folder of keys, shared by all processes of a machine.
#[derive(Debug)]
pub struct ParamStore {
    dir: PathBuf,
    /// SHA-256 of verifying keys that the caller stands for.
    trusted: BTreeMap<CircuitId, String>,
    loaded: Mutex<BTreeMap<CircuitId, Arc<ProvingKey>>>,
}

impl ParamStore {
    /// Opens the folder, creating it when needed.
    pub fn open(dir: impl Into<PathBuf>) -> Result<ParamStore, KeyError> {
        let dir = dir.into();
        std::fs::create_dir_all(&dir).map_err(io("create", &dir))?;
        Ok(ParamStore {
            dir,
            trusted: BTreeMap::new(),
            loaded: Mutex::default(),
        })
    }

    /// Also takes the key of `circuit` whose verifying key has this SHA-256 (lower-case hex), which the caller knows from
    /// elsewhere: a key that nobody published. Without, such a key is refused whatever its record says.
    pub fn trusting(mut self, circuit: CircuitId, vk_sha256: impl Into<String>) -> ParamStore {
        self.trusted.insert(circuit, vk_sha256.into());
        self
    }

    /// Where the keys are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether a key is there with its record; nothing is checked.
    pub fn has(&self, circuit: CircuitId) -> bool {
        is_there(&self.params_path(circuit))
    }

    /// The file of a circuit's proving key.
    pub fn params_path(&self, circuit: CircuitId) -> PathBuf {
        self.dir.join(format!("{circuit}.params"))
    }

    /// The file of a circuit's verifying key.
    pub fn vk_path(&self, circuit: CircuitId) -> PathBuf {
        self.dir.join(format!("{circuit}.vk"))
    }

    /// The key of a circuit: from memory, else from disk, else made now.
    ///
    /// Call it within the pool that shall do the work.
    pub fn load_or_generate(
        &self,
        circuit: CircuitId,
        progress: &dyn Progress,
    ) -> Result<Arc<ProvingKey>, KeyError> {
        if let Some(key) = self.loaded().get(&circuit) {
            return Ok(Arc::clone(key));
        }
        if !self.has(circuit) {
            self.generate(circuit, progress)?;
        }
        let key = Arc::new(self.load(circuit, progress)?);
        Ok(Arc::clone(self.loaded().entry(circuit).or_insert(key)))
    }

    /// [`ParamStore::load_or_generate`] on the plan's threads, and within its memory where the key has to be made.
    pub fn key(
        &self,
        circuit: CircuitId,
        plan: &Plan,
        progress: &dyn Progress,
    ) -> Result<Arc<ProvingKey>, KeyError> {
        if !self.has(circuit) {
            require_dev(circuit)?;
            plan.require("making a key", keygen_memory(circuit))?;
        }
        plan.run(|| self.load_or_generate(circuit, progress))
    }

    /// The verifying key's bytes. When no file has them alone: out of the proving key, else made, in seconds.
    pub fn verifying_key_bytes(
        &self,
        circuit: CircuitId,
        progress: &dyn Progress,
    ) -> Result<Vec<u8>, KeyError> {
        let path = self.vk_path(circuit);
        if !is_there(&path) {
            let _lock = self.lock(&self.params_path(circuit))?;
            if self.has(circuit) {
                let key = self.load_or_generate(circuit, progress)?;
                self.install_vk(circuit, key.verifying_key())?;
            } else {
                require_dev(circuit)?;
                progress.start("verifying key", 1);
                let evaluated = Evaluated::new(&Blank::new(circuit), Secrets::published(circuit));
                self.install_made_vk(circuit, &evaluated)?;
                progress.advance(1);
                progress.finish();
            }
        }
        check_file(circuit, &path, &NoProgress)?;
        let bytes = std::fs::read(&path).map_err(io("read", &path))?;
        self.origin_of(circuit, &path, &CheckedKey::read(circuit, &bytes)?)?;
        Ok(bytes)
    }

    /// [`ParamStore::verifying_key_bytes`] on the plan's threads, and within its memory where they have to be made.
    pub fn verifying_key(
        &self,
        circuit: CircuitId,
        plan: &Plan,
        progress: &dyn Progress,
    ) -> Result<Vec<u8>, KeyError> {
        if !is_there(&self.vk_path(circuit)) {
            if self.has(circuit) {
                plan.require("opening a key", key_memory(circuit))?;
            } else {
                require_dev(circuit)?;
                plan.require("making a verifying key", vk_memory(circuit))?;
            }
        }
        plan.run(|| self.verifying_key_bytes(circuit, progress))
    }

    /// Removes everything of a circuit, damaged or not.
    pub fn remove(&self, circuit: CircuitId) -> Result<(), KeyError> {
        let _lock = self.lock(&self.params_path(circuit))?;
        self.loaded().remove(&circuit);
        for path in [self.params_path(circuit), self.vk_path(circuit)] {
            for path in [record_path(&path), path] {
                remove_if_there(&path)?;
            }
        }
        Ok(())
    }

    fn loaded(&self) -> std::sync::MutexGuard<'_, BTreeMap<CircuitId, Arc<ProvingKey>>> {
        // Only whole entries are inserted or removed under the lock.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load(&self, circuit: CircuitId, progress: &dyn Progress) -> Result<ProvingKey, KeyError> {
        let path = self.params_path(circuit);
        let (checked, density) = rayon::join(
            || check_file(circuit, &path, progress),
            || Density::of(&Blank::new(circuit)),
        );
        checked?;
        let key = ProvingKey::open(circuit.to_string(), &path, density)?;
        self.origin_of(circuit, &path, key.verifying_key())?;
        Ok(key)
    }

    /// Who stands for the verifying key in `path`; a key that nobody stands for is refused (threats S1, S3).
    fn origin_of(
        &self,
        circuit: CircuitId,
        path: &Path,
        vk: &CheckedKey,
    ) -> Result<Origin, KeyError> {
        let vk_sha256 = sha256_hex(vk.bytes());
        let named = (self.trusted.get(&circuit) == Some(&vk_sha256)).then_some(Origin::Named);
        Origin::of(circuit, vk)
            .or(named)
            .ok_or_else(|| KeyError::Unknown {
                path: path.to_owned(),
                circuit,
                vk_sha256,
            })
    }

    fn generate(&self, circuit: CircuitId, progress: &dyn Progress) -> Result<(), KeyError> {
        require_dev(circuit)?;
        let _lock = self.lock(&self.params_path(circuit))?;
        // Another process may have made it while this one waited.
        if self.has(circuit) {
            return Ok(());
        }
        let blank = Blank::new(circuit);
        let (evaluated, digest) = rayon::join(
            || Evaluated::new(&blank, Secrets::published(circuit)),
            || shape::rows_sha256(&blank),
        );
        shape::require_reviewed(circuit, &digest);
        self.install_made_vk(circuit, &evaluated)?;
        // What a killed run left is not in the way of the next.
        fresh_temporary(&self.params_path(circuit))?;
        self.require_space(circuit, evaluated.params_bytes(), self.free_space()?)?;
        self.install(circuit, &self.params_path(circuit), true, |out| {
            evaluated.write_params(out, progress)
        })
    }

    fn free_space(&self) -> Result<u64, KeyError> {
        fs4::available_space(&self.dir).map_err(io("measure", &self.dir))
    }

    /// Refuses before the first point is computed.
    fn require_space(&self, circuit: CircuitId, needed: u64, free: u64) -> Result<(), KeyError> {
        if needed <= free {
            return Ok(());
        }
        Err(KeyError::DiskSpace {
            circuit,
            needed,
            dir: self.dir.clone(),
            free,
        })
    }

    /// Writes the verifying key that was made here, if it is what every machine makes.
    fn install_made_vk(&self, circuit: CircuitId, evaluated: &Evaluated) -> Result<(), KeyError> {
        let vk = evaluated.vk_bytes();
        if let Some(pinned) = pinned_vk_sha256(circuit) {
            let made = hex::encode(Sha256::digest(&vk));
            if made != pinned {
                return Err(KeyError::NotReproduced {
                    circuit,
                    made,
                    pinned,
                });
            }
        }
        self.install_vk(circuit, &CheckedKey::read(circuit, &vk)?)
    }

    /// Writes a verifying key unless this very one is there.
    fn install_vk(&self, circuit: CircuitId, vk: &CheckedKey) -> Result<(), KeyError> {
        let path = self.vk_path(circuit);
        let _lock = self.lock(&path)?;
        let is_there = || std::fs::read(&path).is_ok_and(|there| there == vk.bytes());
        if check_file(circuit, &path, &NoProgress).is_ok() && is_there() {
            return Ok(());
        }
        self.install(circuit, &path, is_dev_key(circuit, vk), |out| {
            out.write_all(vk.bytes())
        })
    }

    /// Held while a file is written; released when dropped.
    fn lock(&self, path: &Path) -> Result<File, KeyError> {
        let path = with_suffix(path, ".lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let file = file.map_err(io("open", &path))?;
        file.lock().map_err(io("lock", &path))?;
        Ok(file)
    }

    /// Writes a file and then its record, each synced and renamed into place.
    fn install(
        &self,
        circuit: CircuitId,
        path: &Path,
        insecure: bool,
        write: impl FnOnce(&mut HashingWriter<BufWriter<File>>) -> std::io::Result<()>,
    ) -> Result<(), KeyError> {
        // A record must never stand beside a file it does not describe.
        remove_if_there(&record_path(path))?;
        let mut written = None;
        self.replace(path, |file| {
            let mut out = HashingWriter::new(BufWriter::with_capacity(1 << 20, file));
            write(&mut out)?;
            out.flush()?;
            written = Some((out.bytes, hex::encode(out.hasher.finalize())));
            Ok(())
        })?;
        let (bytes, sha256) = written.expect("set by the writer above, which succeeded");
        self.install_record(circuit, path, insecure, bytes, sha256)
            .inspect_err(|_| {
                // What was made here counts for nothing without its record, and is made again.
                let _ = std::fs::remove_file(path);
            })
    }

    /// Writes the record of a file that is in place: from now on it counts.
    fn install_record(
        &self,
        circuit: CircuitId,
        path: &Path,
        insecure: bool,
        bytes: u64,
        sha256: String,
    ) -> Result<(), KeyError> {
        let content = Record {
            version: FORMAT_VERSION,
            circuit,
            rows_sha256: shape::pinned(circuit).rows_sha256.to_owned(),
            insecure,
            bytes,
            sha256,
        };
        let content = serde_json::to_vec_pretty(&content).expect("plain data serialises");
        self.replace(&record_path(path), |mut file| file.write_all(&content))
    }

    fn replace(
        &self,
        path: &Path,
        write: impl FnOnce(File) -> std::io::Result<()>,
    ) -> Result<(), KeyError> {
        let temporary = fresh_temporary(path)?;
        let file = File::create_new(&temporary).map_err(io("create", &temporary))?;
        let sync = file.try_clone().map_err(io("create", &temporary))?;
        let written = write(file)
            .map_err(io("write", &temporary))
            .and_then(|()| sync.sync_all().map_err(io("sync", &temporary)))
            .and_then(|()| std::fs::rename(&temporary, path).map_err(io("rename into", path)));
        if written.is_err() {
            // Half a file counts for nothing, and takes the room that may have been wanting.
            let _ = std::fs::remove_file(&temporary);
        }
        written?;
        sync_dir(&self.dir)
    }
}

#[cfg(unix)]
fn sync_dir(dir: &Path) -> Result<(), KeyError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(io("sync", dir))
}

#[cfg(not(unix))]
fn sync_dir(_: &Path) -> Result<(), KeyError> {
    // A folder cannot be opened as a file there; renames are journalled by the file system.
    Ok(())
}

/// Refuses a circuit that no developers' key is made for.
pub fn require_dev(circuit: CircuitId) -> Result<(), KeyError> {
    if shape::pinned(circuit).counts.domain() > MAX_DEV_DOMAIN {
        return Err(KeyError::NeedsCeremony(circuit));
    }
    Ok(())
}

/// The name under which a file is written before it is renamed into place. What a crash left there is removed and never
/// written to: it may be a link to a file that was to be imported.
fn fresh_temporary(path: &Path) -> Result<PathBuf, KeyError> {
    let temporary = with_suffix(path, ".tmp");
    remove_if_there(&temporary)?;
    Ok(temporary)
}

fn remove_if_there(path: &Path) -> Result<(), KeyError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Whether a file and the record without which it counts for nothing are there.
fn is_there(path: &Path) -> bool {
    path.exists() && record_path(path).exists()
}

fn record_path(path: &Path) -> PathBuf {
    with_suffix(path, ".json")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Compares a file with its record: circuit, rows, length, every byte, which is what the progress counts.
fn check_file(circuit: CircuitId, path: &Path, progress: &dyn Progress) -> Result<(), KeyError> {
    const MAX_RECORD_BYTES: u64 = 4096;
    let record_path = record_path(path);
    let damaged = |path: &Path, why: String| KeyError::Damaged {
        path: path.to_owned(),
        why,
    };
    let mut text = Vec::new();
    let file = File::open(&record_path).map_err(io("open", &record_path))?;
    file.take(MAX_RECORD_BYTES)
        .read_to_end(&mut text)
        .map_err(io("read", &record_path))?;
    let record: Record =
        serde_json::from_slice(&text).map_err(|e| damaged(&record_path, e.to_string()))?;
    if record.version != FORMAT_VERSION {
        return Err(damaged(
            &record_path,
            format!(
                "format version {}, this build knows {FORMAT_VERSION}",
                record.version
            ),
        ));
    }
    let pinned = shape::pinned(circuit).rows_sha256;
    if record.circuit != circuit || record.rows_sha256 != pinned {
        let describe = |circuit: CircuitId, rows: &str| {
            format!("{circuit} with rows {}", rows.get(..16).unwrap_or(rows))
        };
        return Err(KeyError::WrongCircuit {
            path: path.to_owned(),
            found: describe(record.circuit, &record.rows_sha256),
            wanted: describe(circuit, pinned),
        });
    }
    let file = File::open(path).map_err(io("open", path))?;
    let length = file.metadata().map_err(io("inspect", path))?.len();
    if length != record.bytes {
        return Err(damaged(
            path,
            format!("{length} bytes, its record says {}", record.bytes),
        ));
    }
    progress.start("checking the key", length.max(1));
    let sha256 = sha256_of(file, progress).map_err(io("read", path))?;
    progress.finish();
    if sha256 != record.sha256 {
        return Err(damaged(path, "its SHA-256 is not the recorded one".into()));
    }
    Ok(())
}

fn sha256_of(file: File, progress: &dyn Progress) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    in_pieces(file, |piece| {
        hasher.update(piece);
        progress.advance(piece.len() as u64);
        Ok(())
    })?;
    Ok(hex::encode(hasher.finalize()))
}

/// Reads to the end, a MiB at a time at most.
fn in_pieces(
    mut from: impl Read,
    mut take: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            read => take(&buffer[..read])?,
        }
    }
}

/// Hashes and counts what passes.
struct HashingWriter<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W> HashingWriter<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            bytes: 0,
        }
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::SectorSize;

    /// The smallest circuit with a key.
    const CIRCUIT: CircuitId = CircuitId::window(SectorSize::Kib2);

    /// A folder with a good key, made once for all tests here.
    fn made() -> &'static tempfile::TempDir {
        static MADE: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
        MADE.get_or_init(|| {
            let dir = tempfile::tempdir().expect("a folder");
            // Two at once: one makes the key, the other waits and finds it.
            let stores = [(), ()].map(|()| ParamStore::open(dir.path()).expect("a store"));
            let modified = |store: &ParamStore| {
                store.load_or_generate(CIRCUIT, &NoProgress).expect("a key");
                std::fs::metadata(store.params_path(CIRCUIT))
                    .expect("the key")
                    .modified()
                    .expect("a time")
            };
            let (a, b) = rayon::join(|| modified(&stores[0]), || modified(&stores[1]));
            assert_eq!(a, b, "the key was made twice");
            dir
        })
    }

    /// A copy of the good folder.
    fn copy() -> (tempfile::TempDir, ParamStore) {
        let dir = tempfile::tempdir().expect("a folder");
        for entry in std::fs::read_dir(made().path()).expect("the folder") {
            let entry = entry.expect("an entry");
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("copied");
        }
        let store = ParamStore::open(dir.path()).expect("a store");
        (dir, store)
    }

    fn load(store: &ParamStore) -> Result<Arc<ProvingKey>, KeyError> {
        store.load_or_generate(CIRCUIT, &NoProgress)
    }

    #[test]
    fn a_key_is_made_once_and_passes_every_check() {
        let (_dir, store) = copy();
        let key = load(&store).expect("a good key");
        key.verify_points(&NoProgress).expect("good points");
        let vk = store
            .verifying_key_bytes(CIRCUIT, &NoProgress)
            .expect("a verifying key");
        assert_eq!(key.verifying_key().bytes(), vk);
        assert_eq!(
            Some(hex::encode(Sha256::digest(&vk)).as_str()),
            pinned_vk_sha256(CIRCUIT)
        );
        assert!(
            Arc::ptr_eq(&key, &load(&store).expect("the same")),
            "kept in memory"
        );
    }

    #[test]
    fn tm_s1_a_developers_key_is_recognised_whatever_its_record_says() {
        let (_dir, store) = copy();
        let key = load(&store).expect("a good key");
        assert!(crate::snark::dev::is_dev_key(CIRCUIT, key.verifying_key()));
        assert!(!crate::snark::dev::is_dev_key(
            CircuitId::window(SectorSize::Mib8),
            key.verifying_key()
        ));
        let record =
            std::fs::read_to_string(record_path(&store.params_path(CIRCUIT))).expect("the record");
        assert!(record.contains("\"insecure\": true"));
    }

    #[test]
    fn tm_s3_changed_and_cut_files_are_refused() {
        let (_dir, store) = copy();
        for path in [store.params_path(CIRCUIT), store.vk_path(CIRCUIT)] {
            let good = std::fs::read(&path).expect("the file");
            let read = |store: &ParamStore| match path.extension() {
                Some(extension) if extension == "vk" => {
                    store.verifying_key_bytes(CIRCUIT, &NoProgress).map(drop)
                }
                _ => store.load(CIRCUIT, &NoProgress).map(drop),
            };
            assert!(read(&store).is_ok());
            // The first byte of each block of 4 KiB; of the large file every 64th block.
            let step = if good.len() > 1 << 20 {
                4096 * 64
            } else {
                4096
            };
            for at in (0..good.len()).step_by(step) {
                let mut bad = good.clone();
                bad[at] ^= 1;
                std::fs::write(&path, &bad).expect("written");
                let error = read(&store).expect_err("a changed byte");
                assert!(matches!(error, KeyError::Damaged { .. }), "{at}: {error}");
                assert!(error.to_string().contains("delete it"), "{error}");
            }
            for length in [0, 1, good.len() - 1] {
                std::fs::write(&path, &good[..length]).expect("written");
                assert!(
                    matches!(read(&store), Err(KeyError::Damaged { .. })),
                    "{length}"
                );
            }
            // Out of the proving key the verifying key comes back, the same.
            std::fs::remove_file(&path).expect("removed");
            if path == store.vk_path(CIRCUIT) {
                assert!(read(&store).is_ok());
                assert!(std::fs::read(&path).expect("there") == good);
            } else {
                assert!(matches!(read(&store), Err(KeyError::Io { .. })));
                std::fs::write(&path, &good).expect("written");
            }
        }
    }

    #[test]
    fn tm_s4_a_key_for_other_rows_is_refused() {
        let (_dir, store) = copy();
        let path = record_path(&store.params_path(CIRCUIT));
        let good = std::fs::read_to_string(&path).expect("the record");
        let rows = shape::pinned(CIRCUIT).rows_sha256;
        let other_rows = good.replace(rows, &rows.replace('8', "9"));
        let other_circuit = good.replace("window-2KiB", "window-4KiB");
        for bad in [other_rows, other_circuit] {
            assert_ne!(bad, good);
            std::fs::write(&path, bad).expect("written");
            assert!(matches!(
                store.load(CIRCUIT, &NoProgress),
                Err(KeyError::WrongCircuit { .. })
            ));
        }
        for bad in [
            String::new(),
            "{}".into(),
            good.replace("\"version\": 1", "\"version\": 2"),
            good.replace('{', "{\"x\": 1,"),
        ] {
            std::fs::write(&path, bad).expect("written");
            assert!(matches!(
                store.load(CIRCUIT, &NoProgress),
                Err(KeyError::Damaged { .. })
            ));
        }
    }

    #[test]
    fn a_crash_before_the_record_leaves_nothing_that_counts() {
        let (dir, store) = copy();
        let params = store.params_path(CIRCUIT);
        let good = std::fs::read(&params).expect("the key");
        // Cut off while writing, and after the file but before its record.
        std::fs::remove_file(record_path(&params)).expect("removed");
        std::fs::write(&params, &good[..1000]).expect("written");
        std::fs::write(with_suffix(&params, ".tmp"), b"half").expect("written");
        assert!(!store.has(CIRCUIT));
        load(&store).expect("made again");
        assert!(
            std::fs::read(&params).expect("the key") == good,
            "the same bytes again"
        );
        store.remove(CIRCUIT).expect("removed");
        assert!(!store.has(CIRCUIT) && !params.exists());
        drop(dir);
    }

    #[test]
    fn tm_h4_a_key_says_how_much_disk_it_needs_before_it_is_made() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = ParamStore::open(dir.path()).expect("a store");
        let circuit = CircuitId::window(SectorSize::Kib2);
        let made = store
            .load_or_generate(circuit, &NoProgress)
            .expect("a small key");
        let bytes = std::fs::metadata(store.params_path(circuit))
            .expect("its file")
            .len();
        let evaluated = Evaluated::new(&Blank::new(circuit), Secrets::published(circuit));
        assert_eq!(evaluated.params_bytes(), bytes, "{}", made.name());
        assert!(store.require_space(circuit, bytes, bytes).is_ok());
        let error = store
            .require_space(circuit, bytes, bytes - 1)
            .expect_err("one byte short");
        assert!(error.to_string().contains("free some space"), "{error}");
    }

    /// Filecoin's published files are as long as the circuits say. Where the lengths are from: a list of the files that
    /// ChainSafe/forest#7592 made, rounded; and filecoin-project/bellperson#154, where a program names the length of the mapped
    /// file to the byte.
    #[test]
    fn tm_s4_published_files_have_the_lengths_of_our_circuits() {
        let recorded = crate::snark::gadget::tests::recorded("circuits.json");
        let length = |circuit: &str| {
            let circuits = recorded["circuits"].as_array().expect("a list");
            let entry = circuits.iter().find(|entry| entry["circuit"] == circuit);
            let entry = entry.expect("a recorded circuit");
            let number = |name: &str| {
                let number = entry[name].as_u64().expect("a number");
                usize::try_from(number).expect("64 bits")
            };
            let inputs = number("inputs");
            let in_a = inputs + number("aux_in_a");
            let in_b = number("inputs_in_b") + number("aux_in_b");
            let points = [number("domain_size") - 1, number("aux"), in_a, in_b, in_b];
            layout(inputs, points).1
        };
        for (circuit, unit, tenths) in [
            ("porep-2kib", 30, 10),
            ("porep-8mib", 30, 13),
            ("porep-512mib", 30, 19),
            ("porep-32gib", 30, 441),
            ("porep-64gib", 30, 444),
            ("window-2kib", 20, 110),
            ("window-8mib", 20, 294),
            ("window-512mib", 20, 432),
            ("window-32gib", 30, 566),
            ("window-64gib", 30, 583),
            ("winning-2kib", 20, 451),
            ("winning-8mib", 20, 1081),
            ("winning-512mib", 20, 1576),
            ("winning-32gib", 20, 1832),
            ("winning-64gib", 20, 1907),
            ("update-2kib", 20, 6254),
            ("update-8mib", 30, 40),
            ("update-512mib", 30, 202),
            ("update-32gib", 30, 321),
        ] {
            let unit = 1u64 << unit;
            let rounded = (length(circuit) * 10 + unit / 2) / unit;
            assert_eq!(rounded, tenths, "{circuit}: {} bytes", length(circuit));
        }
        assert_eq!(length("window-32gib"), 60_780_374_232);
    }

    #[test]
    fn tm_h9_a_key_that_needs_more_memory_than_allowed_is_not_begun() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = ParamStore::open(dir.path()).expect("a store");
        let needed = keygen_memory(CIRCUIT);
        let plan = Plan::with_limits(1, needed - 1).expect("a thread starts");
        let error = store
            .key(CIRCUIT, &plan, &NoProgress)
            .expect_err("one byte short");
        assert!(matches!(error, KeyError::Memory(_)), "{error}");
        let mut left = std::fs::read_dir(dir.path()).expect("the folder");
        assert!(left.next().is_none(), "nothing was begun");
        // One that is there is opened.
        let (_dir, store) = copy();
        assert!(store.key(CIRCUIT, &plan, &NoProgress).is_ok());
    }

    /// The disk is full at a key's bytes: it is said, nothing is left of it, and what was there stays.
    #[test]
    fn tm_h4_a_file_that_cannot_be_finished_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = ParamStore::open(dir.path()).expect("a store");
        let path = store.vk_path(CIRCUIT);
        let full = |mut file: File| {
            file.write_all(b"half")?;
            Err(std::io::ErrorKind::StorageFull.into())
        };
        let there = || std::fs::read_dir(dir.path()).expect("lists").count();
        let error = store.replace(&path, full).expect_err("full");
        assert!(error.is_full(), "{error}");
        assert_eq!(there(), 0);
        store
            .replace(&path, |mut file| file.write_all(b"whole"))
            .expect("there is space again");
        assert!(store.replace(&path, full).is_err());
        assert_eq!(std::fs::read(&path).expect("reads"), b"whole");
        assert_eq!(there(), 1);
    }

    #[test]
    fn production_sizes_need_a_ceremony() {
        let (_dir, store) = copy();
        for circuit in [
            CircuitId::porep(SectorSize::Gib32),
            CircuitId::window(SectorSize::Gib64),
        ] {
            let error = store
                .load_or_generate(circuit, &NoProgress)
                .expect_err("no developers' key");
            assert!(matches!(error, KeyError::NeedsCeremony(_)), "{error}");
            assert!(store.verifying_key_bytes(circuit, &NoProgress).is_err());
        }
    }
}
