//! One value in a small file of its own, replaced whole: the form of everything that a wallet must remember about money.
//!
//! Place: under [`super::journal`], [`super::outbox`], [`super::promise`] and the watcher's book, through the file system that the
//! home is kept on ([`Home::vfs`]). Their callers hold the wallet's lock, so one process at a time writes a file.
//!
//! ```text
//! record = borsh value ‖ BLAKE3 of it, 32 bytes
//! ```
//! Write: temporary file → fsync → rename → fsync of the folder; then the value is durable, and before the rename the old one
//! stands. What a crash leaves of the temporary file is overwritten by the next write. A record whose digest does not match is
//! an error with its path, never guessed around. Spec: `threat-model.md` H1, H3. Cost: two fsyncs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use borsh::{BorshDeserialize, BorshSerialize};
use chain_lite::vfs::Vfs;

use super::ClientError;
use crate::config::Home;

/// Longest record: 255 shards with a few attempts each stay far below.
const MAX_RECORD_BYTES: u64 = 32 << 20;

/// The file of one record.
#[derive(Clone, Debug)]
pub(crate) struct RecordFile {
    vfs: Arc<dyn Vfs>,
    path: PathBuf,
}

impl RecordFile {
    /// A handle; nothing is read. `path` lies in `home`, in a folder that is there when it is written.
    pub(crate) fn new(home: &Home, path: PathBuf) -> Self {
        Self {
            vfs: Arc::clone(home.vfs()),
            path,
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The value that was written last; nothing if there is none.
    pub(crate) fn read<T: BorshDeserialize>(&self) -> Result<Option<T>, ClientError> {
        let found = self.vfs.len(&self.path).and_then(|bytes| {
            let whole = bytes <= MAX_RECORD_BYTES;
            whole.then(|| self.vfs.read(&self.path)).transpose()
        });
        let bytes = match found {
            Ok(bytes) => bytes.ok_or_else(|| self.damaged("it is too long"))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ClientError::file("read", &self.path)(error)),
        };
        let (value, checksum) = bytes
            .split_last_chunk::<32>()
            .ok_or_else(|| self.damaged("it is too short"))?;
        if blake3::hash(value).as_bytes() != checksum {
            return Err(self.damaged("its checksum does not match"));
        }
        borsh::from_slice(value)
            .map(Some)
            .map_err(|_| self.damaged("it was written by another version"))
    }

    /// Makes a value durable in the place of the one before.
    pub(crate) fn write<T: BorshSerialize>(&self, value: &T) -> Result<(), ClientError> {
        let value = borsh::to_vec(value).expect("memory does not fail to be written");
        let digest = blake3::hash(&value);
        let mut part = self.path.clone().into_os_string();
        part.push(".tmp");
        let part = PathBuf::from(part);
        let written = self
            .vfs
            .write_synced(&part, &[&value, digest.as_bytes()])
            .and_then(|()| self.vfs.rename(&part, &self.path))
            .and_then(|()| self.vfs.sync_names(&self.path));
        written.map_err(ClientError::file("write", &self.path))
    }

    /// Removes the record durably, if it is there.
    pub(crate) fn remove(&self) -> Result<(), ClientError> {
        match self.vfs.remove(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ClientError::file("remove", &self.path)(error))
            }
            _ => self
                .vfs
                .sync_names(&self.path)
                .map_err(ClientError::file("write", &self.path)),
        }
    }

    /// What is wrong with the record.
    pub(crate) fn damaged(&self, reason: &str) -> ClientError {
        ClientError::Journal {
            path: self.path.clone(),
            reason: reason.to_owned(),
        }
    }
}
