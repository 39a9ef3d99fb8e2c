//! The file system as chain, provider and client need it: appended logs, and small files written whole. The seam for crashes
//! and faults.
//!
//! Walk: [`crate::ledger`] opens its block log and keeps [`crate::undecided`] blocks through it; a provider's journal and a
//! wallet's records of money (`storage-node`) go through it too. [`OsVfs`] is the operating system; a simulator gives one of its own that loses what was not synced, tears writes and fails on demand
//! (`threat-model.md` H1–H3; `consensus.md` §9). The index is not behind it: it is derived, and rebuilt from the log.
//!
//! Contract, the weakest that a real disk keeps: bytes are durable after a sync of their file, names after a sync of their
//! folder; a rename is seen whole or not at all.

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use crate::log::{Disk, FileDisk, sync_dir};

/// What is kept, and how. Paths are the caller's.
pub trait Vfs: fmt::Debug + Send + Sync {
    /// Opens a file for appending; makes it, durably, if it is not there.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn Disk>>;
    /// Makes a folder and those above it, durably.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Files of a folder, also behind links, with their lengths in bytes, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>>;
    /// Bytes of a file.
    fn len(&self, path: &Path) -> io::Result<u64>;
    /// A whole file. Callers know its length from [`Vfs::list`] or [`Vfs::len`].
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Writes a new file from its pieces and makes its bytes durable, its name not yet.
    fn write_synced(&self, path: &Path, readers: Readers, pieces: &[&[u8]]) -> io::Result<()>;
    /// Gives a file another name; replaces what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in the folder of `path` durable.
    fn sync_names(&self, path: &Path) -> io::Result<()>;
}

/// Who may read a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Whom the process's umask lets.
    Umask,
    /// This user alone.
    Owner,
}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsVfs;

impl Vfs for OsVfs {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn Disk>> {
        Ok(Arc::new(FileDisk::open(path)?))
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        create_dirs(dir, &DirBuilder::new())
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
    fn write_synced(&self, path: &Path, readers: Readers, pieces: &[&[u8]]) -> io::Result<()> {
        let mut options = File::options();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        if readers == Readers::Owner {
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        }
        let mut file = options.open(path)?;
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

/// Makes a folder and those above it, each durable before something is made in it; one that is there is left as it is.
pub fn create_dirs(dir: &Path, builder: &DirBuilder) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_dirs(parent, builder)?;
    }
    match builder.create(dir) {
        // Another process was here first.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        made => made?,
    }
    sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_made_down_to_the_last_and_a_file_in_the_way_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        OsVfs.create_dir(&deep).unwrap();
        OsVfs.create_dir(&deep).unwrap();
        assert!(deep.is_dir());
        fs::write(dir.path().join("file"), b"").unwrap();
        assert!(OsVfs.create_dir(&dir.path().join("file/below")).is_err());
        assert!(OsVfs.create_dir(Path::new("")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_private_file_is_read_by_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        OsVfs
            .write_synced(&path, Readers::Owner, &[b"a", b"b"])
            .unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"ab");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
