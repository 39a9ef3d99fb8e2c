//! A sector's folder: its files, the stage record that says which of them count, and the lock.
//!
//! Walk: under every stage of [`crate::seal`]; [`crate::post::proof`] opens sealed folders read-only with
//! [`ReplicaFiles`]. Spec: proofs.md §3.3 for names and layouts of layers and trees; threats H1, H3, H4, H8, H10.
//!
//! ```text
//! record            what the sector is, how far it is, SHA-256 of each finished file   (see record.rs)
//! lock              held by the one process that works here
//! unsealed          Fr32-padded data                        size of the sector
//! sealed            the replica                             size of the sector
//! p_aux             CommC ‖ CommRLast                        64 B
//! sc-02-data-*.dat  layers, TreeD, TreeC, TreeR             as Filecoin names them
//! *.tmp             work that does not count; swept once the folder is locked
//! ```
//!
//! Crash: a file is written as `*.tmp`, synced, renamed, its folder synced, and only then listed in the next record, which
//! is replaced the same way. So whatever a crash leaves, the record lists complete files only; the rest is work to redo.
//! Cost: each finished file is read once to hash it, and once more when a stage is resumed.

pub mod disk;
pub mod record;

#[cfg(test)]
pub(crate) mod crash;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::commitment::{CommC, CommRLast};
use crate::progress::{NoProgress, Progress};
use crate::spec::SectorSize;
use disk::{Disk, DiskError, NodeFile};
use record::{FileEntry, MAX_RECORD_BYTES, Record, RecordError, Roots, SectorFile};

const RECORD: &str = "record";
const LOCK: &str = "lock";
const TEMPORARY: &str = ".tmp";
/// Bytes hashed per read.
const HASH_BUFFER: usize = 1 << 18;

/// A sector's folder is not usable.
#[derive(Debug, thiserror::Error)]
pub enum SectorDirError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Another process works here.
    #[error("{0} is in use by another process; wait for it or stop it")]
    Locked(PathBuf),
    /// There is already a sector here.
    #[error("{0} already holds a sector; resume it, or choose an empty folder")]
    Occupied(PathBuf),
    /// There is no sector here.
    #[error("{0} holds no sector (no file `record`); create one first")]
    Empty(PathBuf),
    /// The record cannot be used.
    #[error("{path}: {source}")]
    Record {
        /// The record file.
        path: PathBuf,
        /// What is wrong with it.
        source: RecordError,
    },
    /// A finished file is not as it was recorded.
    #[error(
        "{path} is damaged ({what}); run `holdfast prover repair` on its folder, or restore it"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Missing, length, or contents.
        what: String,
    },
    /// A damaged file that no repair can make again.
    #[error(
        "{path} is damaged and cannot be made again ({what}); restore it, or delete the folder and seal the sector anew"
    )]
    Lost {
        /// The file.
        path: PathBuf,
        /// Why not.
        what: String,
    },
}

impl SectorDirError {
    /// Whether the disk is full, which freeing space cures.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Disk(error) if error.is_full())
    }
}

/// A sector's folder, locked for this process.
#[derive(Debug)]
pub struct SectorDir {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    record: Record,
    /// Released when dropped, also by a crash.
    _lock: File,
}

impl SectorDir {
    /// Locks the folder, creating it when needed, makes sure that it holds no sector yet, and sweeps what a run left that was
    /// killed before its first record: it counts for nothing, and room is measured next.
    pub(crate) fn claim(disk: Arc<dyn Disk>, path: &Path) -> Result<Claim, SectorDirError> {
        disk.make_dir(path)
            .map_err(DiskError::at("creating", path))?;
        let lock = lock(path)?;
        let names = disk.list(path).map_err(DiskError::at("listing", path))?;
        if names.iter().any(|name| name == RECORD) {
            return Err(SectorDirError::Occupied(path.to_owned()));
        }
        // Only what we name so: the folder may be one where the caller keeps other files.
        for name in names.iter().filter(|name| is_begun(name)) {
            remove(disk.as_ref(), &path.join(name))?;
        }
        Ok(Claim {
            path: path.to_owned(),
            disk,
            lock,
        })
    }

    /// Removes what a run that was killed while it packed left in a folder without a record, for callers that measure room for
    /// several sectors before the first is begun. A folder that holds a sector, or is not there, is left as it is.
    pub fn sweep_unbegun(disk: Arc<dyn Disk>, path: &Path) -> Result<(), SectorDirError> {
        match disk.list(path) {
            Ok(names) if names.iter().any(|name| is_begun(name)) => {}
            _ => return Ok(()),
        }
        match Self::claim(disk, path) {
            Ok(_) | Err(SectorDirError::Occupied(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Locks the folder, reads the record and sweeps unfinished work. File contents are checked by [`SectorDir::check`].
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, SectorDirError> {
        let list = || match disk.list(path) {
            Ok(names) => Ok(names),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(SectorDirError::Empty(path.to_owned()))
            }
            Err(error) => Err(DiskError::at("listing", path)(error).into()),
        };
        // No lock is made in a folder that is none of ours.
        if !list()?.iter().any(|name| name == RECORD) {
            return Err(SectorDirError::Empty(path.to_owned()));
        }
        let lock = lock(path)?;
        // Whoever had the folder until now has changed it since.
        let names = list()?;
        let record = read_record(disk.as_ref(), path)?;
        let dir = Self {
            path: path.to_owned(),
            disk,
            record,
            _lock: lock,
        };
        dir.sweep(&names)?;
        Ok(dir)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is durable.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Size of the sector.
    pub fn size(&self) -> SectorSize {
        self.record.seal.size
    }

    /// Where a file is or would be.
    pub fn path_of(&self, file: SectorFile) -> PathBuf {
        self.path.join(file.name(self.size().shape().base_trees))
    }

    /// Opens a finished file.
    pub fn read(&self, file: SectorFile) -> Result<NodeFile, SectorDirError> {
        Ok(NodeFile::open(self.disk.as_ref(), &self.path_of(file))?)
    }

    /// Opens the files of all base trees, in order.
    pub fn read_trees(&self, kind: fn(u32) -> SectorFile) -> Result<Vec<NodeFile>, SectorDirError> {
        let trees = self.size().shape().base_trees as u32;
        (0..trees).map(|i| self.read(kind(i))).collect()
    }

    /// Whether the file is finished and recorded.
    pub fn has(&self, file: SectorFile) -> bool {
        self.record.entry(file).is_some()
    }

    /// Compares all recorded files with their lengths and hashes. The error is that of the first file that differs.
    pub fn check_all(&self, progress: &dyn Progress) -> Result<(), SectorDirError> {
        let checked = self.check_each(progress);
        checked.into_iter().try_for_each(|(_, result)| result)
    }

    /// The recorded files that are damaged. So is one that the disk cannot read any more, for a repair: a file that takes its place
    /// lies elsewhere. To whoever only uses the sector it is an error of the disk, which may be well again.
    pub(crate) fn damaged(
        &self,
        progress: &dyn Progress,
    ) -> Result<Vec<SectorFile>, SectorDirError> {
        let damaged = |(file, result)| match result {
            Ok(()) => None,
            Err(SectorDirError::Damaged { .. }) => Some(Ok(file)),
            Err(SectorDirError::Disk(error)) if error.is_unreadable() => Some(Ok(file)),
            Err(error) => Some(Err(error)),
        };
        let checked = self.check_each(progress);
        checked.into_iter().filter_map(damaged).collect()
    }

    /// Every recorded file with what is wrong with it: one stage, counted in bytes, side by side on the caller's pool.
    fn check_each(&self, progress: &dyn Progress) -> Vec<(SectorFile, Result<(), SectorDirError>)> {
        let files = &self.record.files;
        let bytes = files.iter().map(|entry| entry.bytes);
        progress.start(
            "checking the files",
            bytes.fold(0, u64::saturating_add).max(1),
        );
        let check = |entry: &FileEntry| (entry.file, self.check_watched(entry.file, progress));
        let checked = files.par_iter().map(check).collect();
        progress.finish();
        checked
    }

    /// Compares a recorded file with its length and hash.
    pub fn check(&self, file: SectorFile) -> Result<(), SectorDirError> {
        self.check_watched(file, &NoProgress)
    }

    /// [`SectorDir::check`], whose progress is the bytes read.
    fn check_watched(
        &self,
        file: SectorFile,
        progress: &dyn Progress,
    ) -> Result<(), SectorDirError> {
        let path = self.path_of(file);
        let damaged = |what: &str| SectorDirError::Damaged {
            path: path.clone(),
            what: what.to_owned(),
        };
        let entry = self
            .record
            .entry(file)
            .ok_or_else(|| damaged("not recorded as finished"))?;
        let open = match NodeFile::open(self.disk.as_ref(), &path) {
            Ok(open) => open,
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => {
                return Err(damaged("missing"));
            }
            Err(error) => return Err(error.into()),
        };
        let bytes = open.byte_len()?;
        if bytes != entry.bytes {
            return Err(damaged(&format!(
                "{bytes} bytes instead of {}",
                entry.bytes
            )));
        }
        if digest(&open, progress)? != entry.sha256 {
            return Err(damaged("its SHA-256 differs from the one recorded"));
        }
        Ok(())
    }

    /// Starts a file under a temporary name; what an earlier attempt left is replaced.
    pub(crate) fn begin(&self, file: SectorFile) -> Result<NodeFile, SectorDirError> {
        Ok(NodeFile::create(
            self.disk.as_ref(),
            &temporary(&self.path_of(file)),
        )?)
    }

    /// Makes finished files durable under their names and replaces the record by `change` of it that lists them.
    pub(crate) fn commit(
        &mut self,
        files: Vec<(SectorFile, NodeFile)>,
        change: impl FnOnce(&mut Record),
    ) -> Result<(), SectorDirError> {
        let mut record = self.record.clone();
        for (file, open) in &files {
            let entry = finish(
                self.disk.as_ref(),
                *file,
                open,
                &self.path_of(*file),
                &NoProgress,
            )?;
            record.files.retain(|old| old.file != *file);
            record.files.push(entry);
        }
        if !files.is_empty() {
            self.disk
                .sync_dir(&self.path)
                .map_err(DiskError::at("syncing", &self.path))?;
        }
        record.files.sort_by_key(|entry| entry.file);
        change(&mut record);
        write_record(self.disk.as_ref(), &self.path, &record)?;
        self.record = record;
        Ok(())
    }

    /// Makes a file durable in the place of a damaged one. It must be the one that was recorded: the record stays as it is.
    pub(crate) fn put_back(&self, file: SectorFile, open: &NodeFile) -> Result<(), SectorDirError> {
        let path = self.path_of(file);
        open.sync()?;
        let bytes = open.byte_len()?;
        let sha256 = digest(open, &NoProgress)?;
        let made = FileEntry {
            file,
            bytes,
            sha256,
        };
        if self.record.entry(file) != Some(&made) {
            return Err(SectorDirError::Lost {
                path,
                what: "made again it differs from what was recorded, so other files were damaged when they were recorded"
                    .to_owned(),
            });
        }
        self.disk
            .rename(open.path(), &path)
            .map_err(DiskError::at("renaming", &path))?;
        Ok(self
            .disk
            .sync_dir(&self.path)
            .map_err(DiskError::at("syncing", &self.path))?)
    }

    /// Removes what was begun and is not going to be finished.
    pub(crate) fn sweep_begun(&self) -> Result<(), SectorDirError> {
        let names = self.disk.list(&self.path);
        self.sweep(&names.map_err(DiskError::at("listing", &self.path))?)
    }

    /// Forgets files that are no longer needed, first in the record, then on disk.
    pub(crate) fn discard(
        &mut self,
        unneeded: impl Fn(SectorFile) -> bool,
    ) -> Result<(), SectorDirError> {
        let files: Vec<SectorFile> = self
            .record
            .files
            .iter()
            .map(|e| e.file)
            .filter(|f| unneeded(*f))
            .collect();
        self.commit(Vec::new(), |record| {
            record.files.retain(|entry| !files.contains(&entry.file))
        })?;
        for file in files {
            remove(self.disk(), &self.path_of(file))?;
        }
        self.disk
            .sync_dir(&self.path)
            .map_err(DiskError::at("syncing", &self.path))?;
        Ok(())
    }

    /// The disk that holds the folder.
    pub(crate) fn disk(&self) -> &dyn Disk {
        self.disk.as_ref()
    }

    /// Bytes free on the file system of this folder.
    pub(crate) fn free_bytes(&self) -> Result<u64, SectorDirError> {
        Ok(self
            .disk
            .free_bytes(&self.path)
            .map_err(DiskError::at("measuring free space of", &self.path))?)
    }

    /// Removes what an interrupted stage left: temporary files, and sector files that no record lists.
    fn sweep(&self, names: &[String]) -> Result<(), SectorDirError> {
        let trees = self.size().shape().base_trees;
        let listed: Vec<String> = self
            .record
            .files
            .iter()
            .map(|entry| entry.file.name(trees))
            .collect();
        for name in names
            .iter()
            .filter(|n| n.ends_with(TEMPORARY) || is_ours(n) && !listed.contains(n))
        {
            remove(self.disk.as_ref(), &self.path.join(name))?;
        }
        Ok(())
    }
}

/// A locked folder without a record: the first commit makes it a [`SectorDir`].
pub(crate) struct Claim {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    lock: File,
}

impl Claim {
    /// Starts the unsealed file.
    pub(crate) fn begin(
        &self,
        file: SectorFile,
        size: SectorSize,
    ) -> Result<NodeFile, SectorDirError> {
        let path = self.path.join(file.name(size.shape().base_trees));
        Ok(NodeFile::create(self.disk.as_ref(), &temporary(&path))?)
    }

    /// Makes the first file durable and writes the first record. Progress is the file's bytes, which are hashed.
    pub(crate) fn commit(
        self,
        mut record: Record,
        file: SectorFile,
        open: &NodeFile,
        progress: &dyn Progress,
    ) -> Result<SectorDir, SectorDirError> {
        let path = self
            .path
            .join(file.name(record.seal.size.shape().base_trees));
        record.files = vec![finish(self.disk.as_ref(), file, open, &path, progress)?];
        self.disk
            .sync_dir(&self.path)
            .map_err(DiskError::at("syncing", &self.path))?;
        write_record(self.disk.as_ref(), &self.path, &record)?;
        if let Some(parent) = self
            .path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            self.disk
                .sync_dir(parent)
                .map_err(DiskError::at("syncing", parent))?;
        }
        Ok(SectorDir {
            path: self.path,
            disk: self.disk,
            record,
            _lock: self.lock,
        })
    }

    /// Bytes free on the file system of this folder, those that the first file frees by taking the place of another among them: one
    /// that a run killed just before its first record left.
    pub(crate) fn free_bytes(
        &self,
        first: SectorFile,
        size: SectorSize,
    ) -> Result<u64, SectorDirError> {
        let free = self
            .disk
            .free_bytes(&self.path)
            .map_err(DiskError::at("measuring free space of", &self.path))?;
        let path = self.path.join(first.name(size.shape().base_trees));
        let replaced = match NodeFile::open(self.disk.as_ref(), &path) {
            Ok(file) => file.byte_len()?,
            Err(_) => 0,
        };
        Ok(free.saturating_add(replaced))
    }
}

/// The three kinds of files that outlive sealing, read-only and without the lock: they never change.
#[derive(Debug)]
pub struct ReplicaFiles {
    /// Size of the sector.
    pub size: SectorSize,
    /// The replica.
    pub replica: NodeFile,
    /// TreeR's files, one per base tree.
    pub tree_r: Vec<NodeFile>,
    /// CommC and CommRLast as stored. Nothing vouches for them until they hash to CommR.
    pub roots: Roots,
}

impl ReplicaFiles {
    /// Opens the folder of a sector that has at least been replicated.
    pub fn open(disk: &dyn Disk, path: &Path, size: SectorSize) -> Result<Self, DiskError> {
        let trees = size.shape().base_trees;
        let at = |file: SectorFile| path.join(file.name(trees));
        let mut roots = [[0u8; 32]; 2];
        NodeFile::open(disk, &at(SectorFile::PAux))?.read(0, &mut roots)?;
        let tree_r = (0..trees as u32)
            .map(|i| NodeFile::open(disk, &at(SectorFile::TreeR(i))))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            size,
            replica: NodeFile::open(disk, &at(SectorFile::Sealed))?,
            tree_r,
            roots: Roots {
                comm_c: CommC(roots[0]),
                comm_r_last: CommRLast(roots[1]),
            },
        })
    }
}

fn lock(path: &Path) -> Result<File, SectorDirError> {
    let at = path.join(LOCK);
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&at)
        .map_err(DiskError::at("opening", &at))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(SectorDirError::Locked(path.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => {
            Err(DiskError::at("locking", &at)(error).into())
        }
    }
}

/// Whether a sector's file has this name.
fn is_ours(name: &str) -> bool {
    name.starts_with("sc-02-data-") || ["unsealed", "sealed", "p_aux"].contains(&name)
}

/// Whether a sector's file or record has this name while it is written.
fn is_begun(name: &str) -> bool {
    let finished = name.strip_suffix(TEMPORARY);
    finished.is_some_and(|name| is_ours(name) || name == RECORD)
}

/// Removes a file, if it is still there.
fn remove(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    match disk.remove(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(DiskError::at("removing", path)(error))
        }
        _ => Ok(()),
    }
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY);
    PathBuf::from(name)
}

/// Syncs and renames a file that was written under its temporary name. The folder still has to be synced.
fn finish(
    disk: &dyn Disk,
    file: SectorFile,
    open: &NodeFile,
    path: &Path,
    progress: &dyn Progress,
) -> Result<FileEntry, DiskError> {
    open.sync()?;
    let entry = FileEntry {
        file,
        bytes: open.byte_len()?,
        sha256: digest(open, progress)?,
    };
    disk.rename(open.path(), path)
        .map_err(DiskError::at("renaming", path))?;
    Ok(entry)
}

fn digest(file: &NodeFile, progress: &dyn Progress) -> Result<[u8; 32], DiskError> {
    let bytes = file.byte_len()?;
    let mut buffer = vec![0u8; HASH_BUFFER.min(bytes as usize)];
    let mut hasher = Sha256::new();
    let mut offset = 0;
    while offset < bytes {
        let part = &mut buffer[..(bytes - offset).min(HASH_BUFFER as u64) as usize];
        file.read_bytes(offset, part)?;
        hasher.update(&part);
        offset += part.len() as u64;
        progress.advance(part.len() as u64);
    }
    Ok(hasher.finalize().into())
}

fn write_record(disk: &dyn Disk, dir: &Path, record: &Record) -> Result<(), DiskError> {
    let path = dir.join(RECORD);
    let file = NodeFile::create(disk, &temporary(&path))?;
    file.write_bytes(0, &record.encode())?;
    file.sync()?;
    disk.rename(file.path(), &path)
        .map_err(DiskError::at("renaming", &path))?;
    disk.sync_dir(dir).map_err(DiskError::at("syncing", dir))
}

/// Reads a sector's record without locking the folder: for readers of what no longer changes.
pub fn read_record(disk: &dyn Disk, dir: &Path) -> Result<Record, SectorDirError> {
    let path = dir.join(RECORD);
    let broken = |source| SectorDirError::Record {
        path: path.clone(),
        source,
    };
    let file = match NodeFile::open(disk, &path) {
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => {
            return Err(SectorDirError::Empty(dir.to_owned()));
        }
        other => other?,
    };
    let bytes = file.byte_len()?;
    if bytes > MAX_RECORD_BYTES {
        return Err(broken(RecordError::NotARecord));
    }
    let mut buffer = vec![0u8; bytes as usize];
    file.read_bytes(0, &mut buffer)?;
    Record::decode(&buffer).map_err(broken)
}
