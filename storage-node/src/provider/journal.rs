//! The provider's journal: one small file per deal and per sector, replaced whole and atomically.
//!
//! Place in the walk: [`super::worker`] writes a record *before* it acts on it, so that kill -9 at any instruction finds
//! the last decision on disk: which deals a sector holds, its ticket, its CommR, its signed pre-commit. The chain stays the
//! truth about money and sectors; the journal is the truth about what this machine decided and holds.
//! Spec: `spec/threat-model.md` H1 (order of writes), H3 (checksum), H4 (full disk), H5 (never retry an fsync), H10 (version).
//!
//! Bytes of a record file:
//!
//! ```text
//! "HFJR" | version u16 le | payload length u32 le | payload (borsh) | BLAKE3 of all bytes before it, 32
//! ```
//!
//! Cost: one small file, two fsyncs (file, folder) per step; a provider takes a few dozen steps per sector.
//! Crash: the byte that commits is the folder entry changed by `rename`. Before it the old record stands, after it the new
//! one; a leftover `*.tmp` is removed at opening. A record that fails its checksum is moved aside as `*.damaged`, reported
//! and never used. A failed sync closes the journal until the next start ([`Journal::failure`]).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use borsh::{BorshDeserialize, BorshSerialize};
use chain_lite::log::Disk;
use chain_lite::vfs::{OsVfs, Readers, Vfs};

const MAGIC: &[u8; 4] = b"HFJR";
/// Version of the record format; a reader refuses later ones.
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 4 + 2 + 4;
const CHECKSUM_BYTES: usize = 32;
/// Largest payload: a sector with the most deals and its proofs stays far below.
const MAX_PAYLOAD_BYTES: usize = 1 << 20;
/// Longest file.
const MAX_RECORD_BYTES: u64 = (HEADER_BYTES + MAX_PAYLOAD_BYTES + CHECKSUM_BYTES) as u64;

/// Why the journal could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk said no before anything was promised; the old record stands. Free space or repair the folder, then retry.
    #[error("cannot write {path}: {source}; free space or fix the folder's permissions", path = .path.display())]
    Write {
        /// The record, or the file that it is for.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// An fsync failed. What the disk holds is unknown, so this journal takes no more records until it is opened again.
    #[error("the disk failed to keep {path} ({source}); free space if it is full, replace the disk if it is failing, then start the provider again", path = .path.display())]
    Sync {
        /// The record, a file beside it, or a name in its folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// An earlier fsync failed; this is what it said.
    #[error("the journal takes no more records: {0}")]
    Poisoned(String),
    /// The folder cannot be listed or read.
    #[error("cannot read the journal in {path}: {source}; check the disk and the folder's permissions, then start the provider again", path = .path.display())]
    Read {
        /// The folder or record.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A record written by a later program.
    #[error("{path} was written by a later version ({found}) of holdfast; upgrade this program", path = .path.display())]
    Later {
        /// The record.
        path: PathBuf,
        /// Its version.
        found: u16,
    },
    /// A payload above the limit: a bug of ours.
    #[error("a journal record of {0} bytes is above the limit of {MAX_PAYLOAD_BYTES}")]
    TooLarge(usize),
}

impl JournalError {
    /// True if the reason is a full disk, which passes when space returns.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Write { source, .. } | Self::Sync { source, .. } => is_disk_full(source),
            _ => false,
        }
    }

    /// True if nothing was lost and the same write succeeds once there is room.
    pub fn passes_with_space(&self) -> bool {
        matches!(self, Self::Write { source, .. } if is_disk_full(source))
    }
}

/// True if the system's reason is a full disk or quota.
pub fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// What opening found beside the good records.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Records that failed their checksum, moved aside under these names.
    pub moved_aside: Vec<PathBuf>,
}

/// Records with their names, and what was found wrong.
pub type Loaded<T> = (Vec<(String, T)>, Damage);

/// A folder of records of one type.
#[derive(Debug)]
pub struct Journal {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    /// What the first failed sync said: since then nothing is written.
    failed: OnceLock<String>,
}

impl Journal {
    /// Opens the folder, creating it if needed, and removes what an interrupted write left.
    pub fn open(dir: &Path) -> Result<Self, JournalError> {
        Self::open_on(Arc::new(OsVfs), dir)
    }

    /// [`Journal::open`] on another file system: one whose power fails at each change (`chain-lite/sim`).
    pub fn open_on(vfs: Arc<dyn Vfs>, dir: &Path) -> Result<Self, JournalError> {
        let read = |source| JournalError::Read {
            path: dir.to_owned(),
            source,
        };
        vfs.create_dir(dir).map_err(read)?;
        for (name, _) in vfs.list(dir).map_err(read)? {
            if name.ends_with(".tmp") {
                vfs.remove(&dir.join(name)).map_err(read)?;
            }
        }
        // A process killed before its last sync left names that are seen and not durable; what follows acts on them.
        vfs.sync_names(&dir.join("x")).map_err(read)?;
        Ok(Self {
            vfs,
            dir: dir.to_owned(),
            failed: OnceLock::new(),
        })
    }

    /// Replaces record `name` durably: when this returns `Ok`, every later start sees the new value.
    pub fn put<T: BorshSerialize>(&self, name: &str, value: &T) -> Result<(), JournalError> {
        debug_assert!(is_record_name(name), "record names are ours: {name}");
        self.is_open()?;
        let payload = borsh::to_vec(value).map_err(|source| JournalError::Write {
            path: self.dir.join(name),
            source,
        })?;
        let bytes = encode(&payload)?;
        replace_on(&*self.vfs, &self.dir, name, &bytes)
            .inspect_err(|error| self.close_on_sync(error))
    }

    /// Removes record `name` durably; an absent record is fine.
    pub fn remove(&self, name: &str) -> Result<(), JournalError> {
        self.is_open()?;
        let path = self.dir.join(name);
        match self.vfs.remove(&path) {
            Ok(()) => sync_names(&*self.vfs, &path).inspect_err(|error| self.close_on_sync(error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(JournalError::Write { path, source }),
        }
    }

    /// Reads every record, in name order. Damaged ones are moved aside and named.
    pub fn load<T: BorshDeserialize>(&self) -> Result<Loaded<T>, JournalError> {
        self.load_where(|_| true)
    }

    /// Reads the record `special` of type `S`, and all others of type `T`. A damaged special record counts as absent.
    pub fn load_with<S: BorshDeserialize, T: BorshDeserialize>(
        &self,
        special: &str,
    ) -> Result<(Option<S>, Loaded<T>), JournalError> {
        let (found, damage) = self.load_where::<S>(|name| name == special)?;
        let (others, mut more) = self.load_where::<T>(|name| name != special)?;
        more.moved_aside.extend(damage.moved_aside);
        Ok((
            found.into_iter().next().map(|(_, value)| value),
            (others, more),
        ))
    }

    fn load_where<T: BorshDeserialize>(
        &self,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Loaded<T>, JournalError> {
        let read = |path: &Path| {
            let path = path.to_owned();
            move |source| JournalError::Read { path, source }
        };
        let mut records = Vec::new();
        let mut damage = Damage::default();
        for (name, len) in self.vfs.list(&self.dir).map_err(read(&self.dir))? {
            if !is_record_name(&name) || !wanted(&name) {
                continue;
            }
            let path = self.dir.join(&name);
            // Nothing longer than the largest record is read: none was ever written.
            let bytes = match len <= MAX_RECORD_BYTES {
                true => self.vfs.read(&path).map_err(read(&path))?,
                false => Vec::new(),
            };
            match decode(&bytes) {
                Ok(payload) => match T::try_from_slice(payload) {
                    Ok(value) => records.push((name, value)),
                    Err(_) => damage
                        .moved_aside
                        .push(self.move_aside(&path).map_err(read(&path))?),
                },
                Err(Unreadable::Later(found)) => {
                    return Err(JournalError::Later { path, found });
                }
                Err(Unreadable::Damaged) => {
                    damage
                        .moved_aside
                        .push(self.move_aside(&path).map_err(read(&path))?);
                }
            }
        }
        records.sort_by(|a, b| a.0.cmp(&b.0));
        Ok((records, damage))
    }

    fn move_aside(&self, path: &Path) -> io::Result<PathBuf> {
        let mut name = path.as_os_str().to_owned();
        name.push(".damaged");
        let aside = PathBuf::from(name);
        self.vfs.rename(path, &aside)?;
        Ok(aside)
    }

    /// Why nothing is written any more, and what to do: an fsync failed, here or in a file that a record speaks of. Never tried
    /// again, because a second fsync may succeed over what the first one lost (H5).
    pub fn failure(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    /// Takes no more records from now on, because another part of the provider cannot go on.
    pub(super) fn close(&self, reason: &str) {
        // A journal that is closed keeps its first reason.
        let _ = self.failed.set(reason.to_owned());
    }

    fn is_open(&self) -> Result<(), JournalError> {
        match self.failure() {
            Some(reason) => Err(JournalError::Poisoned(reason.to_owned())),
            None => Ok(()),
        }
    }

    /// Closes the journal if the error is a failed sync.
    pub(super) fn close_on_sync(&self, error: &JournalError) {
        if matches!(error, JournalError::Sync { .. }) {
            self.close(&error.to_string());
        }
    }

    /// Whether there is a record of this name, readable or not.
    pub(super) fn has(&self, name: &str) -> bool {
        self.vfs.len(&self.dir.join(name)).is_ok()
    }

    /// Takes a new record's name back after its `put` has failed. False if a power cut may still bring it back: then what it
    /// speaks of has to stay until the next start.
    pub(super) fn withdraw(&self, name: &str, failed: &JournalError) -> bool {
        let path = self.dir.join(name);
        let was_named = matches!(failed, JournalError::Sync { path: at, .. } if *at == path);
        if was_named && let Err(error) = self.vfs.remove(&path) {
            tracing::warn!(path = %path.display(), %error, "a record that failed stays for now");
        }
        !was_named
    }
}

/// Writes `bytes` as `dir/name` so that a crash leaves the old file or the new one: write, sync, rename, sync the folder.
pub fn replace_file(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), JournalError> {
    replace_on(&OsVfs, dir, name, bytes)
}

fn replace_on(vfs: &dyn Vfs, dir: &Path, name: &str, bytes: &[u8]) -> Result<(), JournalError> {
    let path = dir.join(name);
    let temporary = dir.join(format!("{name}.tmp"));
    let written = vfs.write_synced(&temporary, Readers::Umask, &[bytes]);
    let named = written
        .map_err(|source| not_kept(&temporary, source))
        .and_then(|()| {
            let named = vfs.rename(&temporary, &path);
            named.map_err(|source| JournalError::Write {
                path: path.clone(),
                source,
            })
        });
    named.inspect_err(|_| {
        // A full disk has no use for half a record; what cannot be removed now, opening removes.
        let _ = vfs.remove(&temporary);
    })?;
    sync_names(vfs, &path)
}

/// Makes the bytes of a file that a record will speak of durable.
pub(super) fn sync_file(file: &dyn Disk, path: &Path) -> Result<(), JournalError> {
    file.sync().map_err(|source| not_kept(path, source))
}

/// What a write or sync of a file means that nobody relies on yet.
fn not_kept(path: &Path, source: io::Error) -> JournalError {
    let path = path.to_owned();
    match passes(&source) {
        true => JournalError::Write { path, source },
        false => JournalError::Sync { path, source },
    }
}

/// Whether a write failed for a reason outside of the disk: no room, or the folder. Whatever else a disk says of bytes that were to
/// become durable counts as a failed sync.
fn passes(error: &io::Error) -> bool {
    use io::ErrorKind::{
        IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem,
    };
    is_disk_full(error)
        || matches!(
            error.kind(),
            NotFound | PermissionDenied | NotADirectory | IsADirectory | ReadOnlyFilesystem
        )
}

/// Makes the names in the folder of `path` durable.
pub(super) fn sync_names(vfs: &dyn Vfs, path: &Path) -> Result<(), JournalError> {
    vfs.sync_names(path).map_err(|source| JournalError::Sync {
        path: path.to_owned(),
        source,
    })
}

/// Makes the folder's entries durable (a no-op where folders cannot be opened as files).
pub fn sync_dir(dir: &Path) -> Result<(), JournalError> {
    if cfg!(windows) {
        return Ok(());
    }
    File::open(dir)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| JournalError::Sync {
            path: dir.to_owned(),
            source,
        })
}

enum Unreadable {
    Damaged,
    Later(u16),
}

fn encode(payload: &[u8]) -> Result<Vec<u8>, JournalError> {
    let too_large = || JournalError::TooLarge(payload.len());
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(too_large());
    }
    let length = u32::try_from(payload.len()).map_err(|_| too_large())?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len() + CHECKSUM_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(payload);
    let checksum = blake3::hash(&bytes);
    bytes.extend_from_slice(checksum.as_bytes());
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<&[u8], Unreadable> {
    if bytes.len() < HEADER_BYTES + CHECKSUM_BYTES || &bytes[..4] != MAGIC {
        return Err(Unreadable::Damaged);
    }
    let (body, checksum) = bytes.split_at(bytes.len() - CHECKSUM_BYTES);
    if blake3::hash(body).as_bytes().as_slice() != checksum {
        return Err(Unreadable::Damaged);
    }
    let version = u16::from_le_bytes([body[4], body[5]]);
    if version > VERSION {
        return Err(Unreadable::Later(version));
    }
    let length = u32::from_le_bytes([body[6], body[7], body[8], body[9]]);
    let payload = &body[HEADER_BYTES..];
    if u64::from(length) != payload.len() as u64 {
        return Err(Unreadable::Damaged);
    }
    Ok(payload)
}

/// Any bytes are a record that is written back as those very bytes, or none. Body of the fuzz target.
pub fn fuzz_record(bytes: &[u8]) {
    if let Ok(payload) = decode(bytes) {
        let again = encode(payload).expect("it was read, so it is not too long");
        // The version is the writer's; earlier ones are read as well.
        assert_eq!(decode(&again).ok(), Some(payload));
        assert_eq!(again.len(), bytes.len());
    }
}

/// Record names are lower-case letters, digits and dashes: no dots, so temporary and damaged files are never records.
fn is_record_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    fn journal() -> (tempfile::TempDir, Journal) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let journal = Journal::open(&dir.path().join("journal")).expect("opens");
        (dir, journal)
    }

    #[test]
    fn a_record_comes_back_and_the_last_one_wins() {
        let (dir, journal) = journal();
        journal.put("sector-1", &vec![1u64, 2]).expect("writes");
        journal.put("sector-1", &vec![3u64]).expect("writes");
        journal.put("deal-a", &vec![9u64]).expect("writes");
        let again = Journal::open(&dir.path().join("journal")).expect("opens");
        let (records, damage) = again.load::<Vec<u64>>().expect("reads");
        assert_eq!(
            records,
            vec![
                ("deal-a".to_owned(), vec![9]),
                ("sector-1".to_owned(), vec![3])
            ]
        );
        assert_eq!(damage, Damage::default());
        again.remove("deal-a").expect("removes");
        again.remove("deal-a").expect("an absent record is fine");
        assert_eq!(again.load::<Vec<u64>>().expect("reads").0.len(), 1);
    }

    /// Every state a crash can leave between two puts: nothing, any prefix of the temporary file, or the renamed file.
    #[test]
    fn tm_h1_a_cut_at_any_byte_of_a_write_leaves_the_old_record_or_the_new_one() {
        let new = encode(&borsh::to_vec(&vec![7u64; 5]).expect("borsh")).expect("encodes");
        for cut in 0..=new.len() {
            let (dir, journal) = journal();
            journal.put("sector-1", &vec![1u64]).expect("writes");
            drop(journal);
            let folder = dir.path().join("journal");
            fs::write(folder.join("sector-1.tmp"), &new[..cut]).expect("the image of a crash");
            let again = Journal::open(&folder).expect("opens after the crash");
            let (records, damage) = again.load::<Vec<u64>>().expect("reads");
            assert_eq!(records, vec![("sector-1".to_owned(), vec![1])], "cut {cut}");
            assert!(damage.moved_aside.is_empty());
            assert!(!folder.join("sector-1.tmp").exists(), "leftover removed");
        }
    }

    #[test]
    fn tm_h3_any_flipped_bit_or_truncation_is_detected_and_moved_aside() {
        let (dir, journal) = journal();
        let folder = dir.path().join("journal");
        let good = encode(&borsh::to_vec(&vec![7u64; 2]).expect("borsh")).expect("encodes");
        for position in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[position / 8] ^= 1 << (position % 8);
            fs::write(folder.join("sector-1"), &bad).expect("writes");
            let (records, damage) = journal.load::<Vec<u64>>().expect("reads");
            assert!(records.is_empty(), "bit {position} went unnoticed");
            assert_eq!(damage.moved_aside, vec![folder.join("sector-1.damaged")]);
        }
        for length in 0..good.len() {
            fs::write(folder.join("sector-1"), &good[..length]).expect("writes");
            let (records, damage) = journal.load::<Vec<u64>>().expect("reads");
            assert!(
                records.is_empty() && damage.moved_aside.len() == 1,
                "length {length}"
            );
        }
    }

    #[test]
    fn tm_h10_a_record_of_a_later_version_is_refused_not_guessed() {
        let (dir, journal) = journal();
        let mut later = encode(&[]).expect("encodes");
        later.truncate(later.len() - CHECKSUM_BYTES);
        later[4..6].copy_from_slice(&2u16.to_le_bytes());
        let checksum = blake3::hash(&later);
        later.extend_from_slice(checksum.as_bytes());
        fs::write(dir.path().join("journal/sector-1"), &later).expect("writes");
        assert!(matches!(
            journal.load::<Vec<u64>>(),
            Err(JournalError::Later { found: 2, .. })
        ));
    }

    #[test]
    fn a_folder_that_vanished_is_an_error_and_a_failed_sync_closes_the_journal() {
        let (dir, journal) = journal();
        fs::remove_dir_all(dir.path().join("journal")).expect("removes");
        assert!(matches!(
            journal.put("sector-1", &1u8),
            Err(JournalError::Write { .. })
        ));
        journal.close_on_sync(&JournalError::Sync {
            path: PathBuf::from("/disk/file"),
            source: io::Error::other("EIO"),
        });
        fs::create_dir_all(dir.path().join("journal")).expect("creates");
        for refused in [journal.put("sector-1", &1u8), journal.remove("sector-1")] {
            let said = refused.expect_err("closed").to_string();
            for word in ["/disk/file", "EIO", "replace the disk", "start"] {
                assert!(said.contains(word), "no {word:?} in {said}");
            }
        }
    }

    /// `/dev/full` takes no byte, as a full disk does.
    #[cfg(target_os = "linux")]
    #[test]
    fn tm_h4_a_full_disk_leaves_the_old_record_and_passes_when_space_returns() {
        let (dir, journal) = journal();
        let folder = dir.path().join("journal");
        journal.put("sector-1", &vec![1u64]).expect("writes");
        std::os::unix::fs::symlink("/dev/full", folder.join("sector-1.tmp")).expect("links");
        let error = journal.put("sector-1", &vec![2u64]).expect_err("full");
        assert!(error.is_disk_full(), "{error}");
        assert!(
            matches!(error, JournalError::Write { .. }),
            "not a lost sync: {error}"
        );
        let (records, damage) = journal.load::<Vec<u64>>().expect("reads");
        assert_eq!(records, vec![("sector-1".to_owned(), vec![1])]);
        assert_eq!(damage, Damage::default());
        let half = folder.join("sector-1.tmp").symlink_metadata();
        assert!(half.is_err(), "half a record takes the room of others");
        journal.put("sector-1", &vec![2u64]).expect("goes on");
        assert_eq!(journal.load::<Vec<u64>>().expect("reads").0[0].1, vec![2]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
