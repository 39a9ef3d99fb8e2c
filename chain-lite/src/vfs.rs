//! The file system as chain, provider and client need it: appended logs, and small files written whole. The seam for crashes and faults.
//!
//! Walk: [`crate::ledger`] opens its block log and keeps [`crate::undecided`] blocks through it. [`OsVfs`] is the operating
//! system; a simulator gives one of its own that loses what was not synced, tears writes and fails on demand
//! (`threat-model.md` H1–H3; `consensus.md` §9). The index is not behind it: it is derived, and rebuilt from the log.
//!
//! Contract, the weakest that a real disk keeps: bytes are durable after a sync of their file, names after a sync of their
//! folder; a rename is seen whole or not at all.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use crate::log::{Disk, FileDisk, sync_dir};

/// What a chain's folder is kept on.
pub trait Vfs: fmt::Debug + Send + Sync {
    /// Opens a file for appending; makes it, durably, if it is not there.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn Disk>>;
    /// Makes a folder and those above it.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Files of a folder, also behind links, with their lengths in bytes, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>>;
    /// Bytes of a file.
    fn len(&self, path: &Path) -> io::Result<u64>;
    /// A whole file. Callers know its length from [`Vfs::list`] or [`Vfs::len`].
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Writes a new file from its pieces and makes its bytes durable, its name not yet.
    fn write_synced(&self, path: &Path, pieces: &[&[u8]]) -> io::Result<()>;
    /// Gives a file another name; replaces what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in the folder of `path` durable.
    fn sync_names(&self, path: &Path) -> io::Result<()>;
}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsVfs;

impl Vfs for OsVfs {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn Disk>> {
        Ok(Arc::new(FileDisk::open(path)?))
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            // Links are followed, as opening does; one that leads nowhere is no file.
            let meta = match fs::metadata(entry.path()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                meta => meta?,
            };
            // A name that is no text, or a folder, is somebody else's.
            if let (Ok(name), true) = (entry.file_name().into_string(), meta.is_file()) {
                files.push((name, meta.len()));
            }
        }
        Ok(files)
    }
    fn len(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.len())
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }
    fn write_synced(&self, path: &Path, pieces: &[&[u8]]) -> io::Result<()> {
        let mut file = File::create(path)?;
        for piece in pieces {
            file.write_all(piece)?;
        }
        file.sync_all()
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
    fn sync_names(&self, path: &Path) -> io::Result<()> {
        sync_dir(path)
    }
}
