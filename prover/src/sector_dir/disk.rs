//! The few file operations that sealing uses, behind one trait, so that tests can fail or cut each of them.
//!
//! Walk: under [`super::SectorDir`]; [`crate::merkle::build`] reads and writes rows through [`NodeFile`].
//! Order for anything that must survive a crash: write, [`DiskFile::sync`], [`Disk::rename`], [`Disk::sync_dir`]
//! (threat H1). A failed sync is never repeated: the stage fails, and a resumed one writes its file anew (H5).

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::ids::Node;
use crate::progress::Progress;
use crate::spec::NODE_BYTES;

/// The action of an error from reading.
const READING: &str = "reading";

/// A file system as sealing sees it.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Makes the directory and its parents; an existing one is fine.
    fn make_dir(&self, dir: &Path) -> io::Result<()>;
    /// Opens an existing file for reading.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Makes an empty file for reading and writing, replacing one of that name.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Replaces `to` by `from` in one step.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes renames and removals in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Names of the files in `dir`.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Bytes that an ordinary user may still write into `dir`'s file system.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
}

/// An open file with positioned access, usable from several threads at once.
#[allow(
    clippy::len_without_is_empty,
    reason = "the length of a file is an I/O operation, not a container's size"
)]
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Fills `buffer` from `offset`; a shorter file is an error.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`, extending the file as needed.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes contents and length durable.
    fn sync(&self) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
}

/// The operating system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File::open(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            // A name that is no UTF-8 is not one of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        fs4::available_space(dir)
    }
}

impl DiskFile for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

/// An operation on a file failed. Carries which file and what was being done, and says what to do next.
#[derive(Debug)]
pub struct DiskError {
    /// What was being done, as in "writing".
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// The operating system's reason.
    pub source: io::Error,
}

impl DiskError {
    /// For `map_err`: names the action and the file.
    pub fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self {
            action,
            path,
            source,
        }
    }

    /// Whether the disk could not give what lies there: a bad sector, the commonest damage that there is. As for a full disk, the
    /// system's number is the only sign; it is EIO's on every Unix.
    pub fn is_unreadable(&self) -> bool {
        const EIO: i32 = 5;
        self.source.raw_os_error() == Some(EIO) && self.action == READING
    }

    /// Whether the disk or a quota is full, which freeing space cures.
    pub fn is_full(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} failed: {}",
            self.action,
            self.path.display(),
            self.source
        )?;
        if self.is_full() {
            f.write_str("; free some space and run it again, finished steps are kept")?;
        }
        Ok(())
    }
}

impl std::error::Error for DiskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// An open file counted in nodes of 32 bytes, which knows its path for error messages.
#[derive(Debug)]
pub struct NodeFile {
    path: PathBuf,
    file: Box<dyn DiskFile>,
}

impl NodeFile {
    /// Opens an existing file for reading.
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Self, DiskError> {
        let file = disk.open(path).map_err(DiskError::at("opening", path))?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// Makes an empty file.
    pub fn create(disk: &dyn Disk, path: &Path) -> Result<Self, DiskError> {
        let file = disk.create(path).map_err(DiskError::at("creating", path))?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads `nodes.len()` nodes from node `at` on.
    pub fn read(&self, at: u64, nodes: &mut [Node]) -> Result<(), DiskError> {
        self.read_bytes(at * NODE_BYTES as u64, nodes.as_flattened_mut())
    }

    /// Reads one node.
    pub fn node(&self, at: u64) -> Result<Node, DiskError> {
        let mut node = [[0u8; NODE_BYTES]];
        self.read(at, &mut node)?;
        Ok(node[0])
    }

    /// Writes nodes from node `at` on.
    pub fn write(&self, at: u64, nodes: &[Node]) -> Result<(), DiskError> {
        self.write_bytes(at * NODE_BYTES as u64, nodes.as_flattened())
    }

    /// Reads bytes from byte `offset` on.
    pub fn read_bytes(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        self.file
            .read_exact_at(buffer, offset)
            .map_err(DiskError::at(READING, &self.path))
    }

    /// Writes bytes from byte `offset` on.
    pub fn write_bytes(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(DiskError::at("writing", &self.path))
    }

    /// Makes contents durable.
    pub fn sync(&self) -> Result<(), DiskError> {
        self.file
            .sync()
            .map_err(DiskError::at("syncing", &self.path))
    }

    /// Length in bytes.
    pub fn byte_len(&self) -> Result<u64, DiskError> {
        self.file
            .len()
            .map_err(DiskError::at("measuring", &self.path))
    }
}

/// Writes a file from front to back, for code that speaks [`io::Write`]. Progress is bytes.
pub(crate) struct Appender<'a> {
    file: &'a NodeFile,
    offset: u64,
    progress: &'a dyn Progress,
}

impl<'a> Appender<'a> {
    /// Starts at byte 0.
    pub(crate) fn new(file: &'a NodeFile, progress: &'a dyn Progress) -> Self {
        Self {
            file,
            offset: 0,
            progress,
        }
    }
}

impl io::Write for Appender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.file.write_all_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        self.progress.advance(bytes.len() as u64);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
