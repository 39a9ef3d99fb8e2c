//! One value in a small file of its own, replaced whole: the form of everything that a wallet must remember about money.
//!
//! Place: under [`super::journal`], [`super::outbox`], [`super::promise`] and the watcher's book, through the file system that the
//! home is kept on ([`Home::vfs`]). Their callers hold a lock, the wallet's or the watcher's: one process at a time writes a file.
//!
//! ```text
//! record = borsh value ‖ BLAKE3 of it, 32 bytes
//! ```
//! Write: temporary file → fsync → rename → fsync of the folder; then the value is durable, and before the rename the old one
//! stands. A process that is killed between the two leaves a value that is seen and may be gone after a power cut, so whoever goes
//! on from a value makes it durable first ([`RecordFile::settle`]). What a crash leaves of the temporary file is overwritten by the
//! next write. Only the owner may read a record. One whose digest does not match is an
//! error with its path, never guessed around. Spec: `threat-model.md` H1, H3. Cost: two fsyncs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use borsh::{BorshDeserialize, BorshSerialize};
use chain_lite::message::SignedTx;
use chain_lite::vfs::{Readers, Vfs};

use super::ClientError;
use super::journal::{Done, Head, SegmentRecord};
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
        let pieces: [&[u8]; 2] = [&value, digest.as_bytes()];
        self.vfs
            .write_synced(&part, Readers::Owner, &pieces)
            .inspect_err(|_| {
                // A disk that is full has no use for half a record.
                let _ = self.vfs.remove(&part);
            })
            .and_then(|()| self.vfs.rename(&part, &self.path))
            .map_err(ClientError::file("write", &self.path))?;
        self.settle()
    }

    /// Makes what an interrupted process wrote, and was perhaps not yet durable, durable.
    pub(crate) fn settle(&self) -> Result<(), ClientError> {
        let synced = self.vfs.sync_names(&self.path);
        synced.map_err(ClientError::file("write", &self.path))
    }

    /// Removes the record durably, if it is there.
    pub(crate) fn remove(&self) -> Result<(), ClientError> {
        match self.vfs.remove(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ClientError::file("remove", &self.path)(error))
            }
            _ => self.settle(),
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

/// Any bytes as the value of each record that a client or a watcher keeps: refused, or written back as those very bytes. Body of the
/// fuzz target.
pub fn fuzz_records(bytes: &[u8]) {
    fn same<T: BorshDeserialize + BorshSerialize>(bytes: &[u8]) {
        if let Ok(value) = borsh::from_slice::<T>(bytes) {
            assert_eq!(borsh::to_vec(&value).ok().as_deref(), Some(bytes));
        }
    }
    same::<Head>(bytes);
    same::<SegmentRecord>(bytes);
    same::<Done>(bytes);
    same::<SignedTx>(bytes);
    same::<([u8; 32], Vec<u8>)>(bytes);
    same::<super::promise::Record>(bytes);
    same::<super::outbox::Record>(bytes);
    same::<(super::get::MarkOf, u64)>(bytes);
    same::<crate::watch::Book>(bytes);
    // A map may come out of order; what was read is written the same ever after.
    if let Ok(known) = borsh::from_slice::<(u16, super::possession::Ledger)>(bytes) {
        same::<(u16, super::possession::Ledger)>(&borsh::to_vec(&known).expect("in memory"));
    }
}

#[cfg(test)]
mod tests {
    use chain_lite::vfs::OsVfs;
    use holdfast_sim::disk::SimDisk;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn on(vfs: Arc<dyn Vfs>, root: &Path) -> RecordFile {
        let home = Home::on(vfs, root);
        RecordFile::new(&home, root.join("record"))
    }

    /// Whatever fails while a record is replaced or removed, by whatever reason, the old value or the new one is read.
    #[test]
    fn tm_h1_tm_h4_tm_h5_a_failed_change_leaves_the_old_value_or_the_new_one() {
        let reasons = [
            None,
            Some(io::ErrorKind::StorageFull),
            Some(io::ErrorKind::Other),
        ];
        for (reason, gone) in reasons.iter().flat_map(|r| [(r, false), (r, true)]) {
            for at in 1..=3 {
                let disk = SimDisk::default();
                let file = on(Arc::new(disk.clone()), Path::new("/home"));
                file.write(&1u64).expect("sound");
                let before = disk.operations();
                // The disk fails the next change; those before it are made by hand.
                match reason {
                    None => disk.cut_at(before + at),
                    Some(kind) => disk.fail_at(before + at, *kind),
                }
                let failed = match gone {
                    true => file.remove(),
                    false => file.write(&2u64),
                };
                assert_eq!(
                    failed.is_err(),
                    at <= 2 + u64::from(!gone),
                    "{reason:?} {gone} {at}"
                );
                for power_fails in [false, true] {
                    match power_fails {
                        true => disk.crash(&mut ChaCha8Rng::seed_from_u64(at)),
                        false => disk.restart(),
                    }
                    let value: Option<u64> = file.read().expect("never damaged");
                    match gone {
                        true => assert!(value.is_none_or(|value| value == 1), "{value:?}"),
                        false => assert!(matches!(value, Some(1 | 2)), "{value:?}"),
                    }
                }
                // And the same again succeeds.
                file.write(&3u64).expect("sound again");
                assert_eq!(file.read().expect("reads"), Some(3u64));
            }
        }
    }

    #[test]
    fn a_value_that_was_only_seen_is_durable_once_it_is_settled() {
        let disk = SimDisk::default();
        let file = on(Arc::new(disk.clone()), Path::new("/home"));
        disk.cut_at(3);
        assert!(
            file.write(&1u64).is_err(),
            "killed before the folder's sync"
        );
        disk.restart();
        assert_eq!(file.read().expect("seen"), Some(1u64));
        file.settle().expect("syncs");
        disk.crash(&mut ChaCha8Rng::seed_from_u64(1));
        assert_eq!(file.read().expect("kept"), Some(1u64));
    }

    #[test]
    fn a_record_that_is_too_long_or_damaged_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = on(Arc::new(OsVfs), dir.path());
        file.write(&vec![7u8; 100]).expect("writes");
        let good = std::fs::read(file.path()).expect("reads");
        for bytes in [&good[..31], &good[1..], &[0; 40]] {
            std::fs::write(file.path(), bytes).expect("writes");
            let read = file.read::<Vec<u8>>();
            assert!(matches!(read, Err(ClientError::Journal { .. })), "{read:?}");
        }
        let long = std::fs::File::create(file.path()).expect("creates");
        long.set_len(MAX_RECORD_BYTES + 1).expect("a hole");
        let read = file.read::<Vec<u8>>();
        assert!(
            matches!(&read, Err(ClientError::Journal { reason, .. }) if reason.contains("long"))
        );
    }
}
