//! A disk that forgets what was not synced, tears what was being written, and fails when told to.
//!
//! A file is an inode with bytes that a reader sees and bytes that would survive a power cut; a name is an entry that a reader
//! sees and one that would survive. [`SimDisk::crash`] keeps what survives, and of each file's unsynced tail a random part,
//! which is what real disks do to an appended log.
//! Every change counts as one operation ([`SimDisk::operations`]): a test cuts the power at any of them ([`SimDisk::cut_at`]),
//! after which nothing works until the crash is taken.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chain_lite::log::Disk;
use chain_lite::vfs::{Readers, Vfs};
use rand::Rng;

#[derive(Clone, Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// How far the two are known to be one, so that a sync copies what is new and not the whole log.
    same: usize,
}

impl Inode {
    fn synced(bytes: Vec<u8>) -> Self {
        Self {
            durable: bytes.clone(),
            same: bytes.len(),
            bytes,
        }
    }

    fn sync(&mut self) {
        self.durable.truncate(self.same);
        self.durable.extend_from_slice(&self.bytes[self.same..]);
        self.same = self.bytes.len();
    }

    fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
        self.same = self.same.min(self.bytes.len());
    }
}

#[derive(Debug, Default)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    next: u64,
    operations: u64,
    cut_at: Option<u64>,
    fail_at: Option<(u64, io::ErrorKind)>,
    fail_next: Option<io::ErrorKind>,
    dead: bool,
}

impl State {
    /// Counts a change: the error is a cut or a fault. The change itself is not made then, unless the caller makes half of it.
    fn step(&mut self) -> io::Result<()> {
        if self.dead {
            return Err(io::Error::other("the power is off"));
        }
        self.operations += 1;
        if self.cut_at == Some(self.operations) {
            self.dead = true;
            return Err(io::Error::other("the power fails"));
        }
        let now = self.operations;
        let due = self.fail_at.take_if(|(at, _)| *at == now);
        match self.fail_next.take().or(due.map(|(_, kind)| kind)) {
            Some(kind) => Err(kind.into()),
            None => Ok(()),
        }
    }

    fn inode(&mut self, path: &Path) -> io::Result<u64> {
        let found = self.names.get(path).copied();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create(&mut self, path: &Path) -> u64 {
        self.next += 1;
        self.inodes.insert(self.next, Inode::default());
        self.names.insert(path.to_owned(), self.next);
        self.next
    }
}

/// One node's disk. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes made so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The power fails at this operation, counted as [`SimDisk::operations`] counts.
    pub fn cut_at(&self, operation: u64) {
        self.state().cut_at = Some(operation);
    }

    /// This operation fails with this error, and nothing else does.
    pub fn fail_at(&self, operation: u64, kind: io::ErrorKind) {
        self.state().fail_at = Some((operation, kind));
    }

    /// The next change fails with this error.
    pub fn fail_next(&self, kind: io::ErrorKind) {
        self.state().fail_next = Some(kind);
    }

    /// Whether the power failed.
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// A whole file; empty where there is none.
    pub fn read_all(&self, path: &Path) -> Vec<u8> {
        self.read(path).unwrap_or_default()
    }

    /// Whether there is a file of this name.
    pub fn has(&self, path: &Path) -> bool {
        self.read(path).is_ok()
    }

    /// A file that was there before, durable.
    pub fn put(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.state();
        let id = state.create(path);
        state.durable_names.insert(path.to_owned(), id);
        state.inodes.insert(id, Inode::synced(bytes.to_vec()));
    }

    /// Whether a power cut now would leave a file whose name ends like this, as it is.
    pub fn keeps(&self, end: &str) -> bool {
        let state = self.state();
        let mut named = state.durable_names.iter();
        named.any(|(path, inode)| {
            let inode = state.inodes.get(inode);
            path.to_string_lossy().ends_with(end)
                && inode.is_some_and(|inode| inode.bytes == inode.durable)
        })
    }

    /// The process is killed and starts again: what it wrote is there.
    pub fn restart(&self) {
        let mut state = self.state();
        state.dead = false;
        state.cut_at = None;
        state.fail_next = None;
        state.fail_at = None;
    }

    /// The machine stops and its disk is as a power cut leaves it; it works again.
    pub fn crash(&self, rng: &mut impl Rng) {
        self.restart();
        let mut state = self.state();
        state.names = state.durable_names.clone();
        let alive: Vec<u64> = state.names.values().copied().collect();
        state.inodes.retain(|id, _| alive.contains(id));
        for inode in state.inodes.values_mut() {
            let appended =
                inode.bytes.len() > inode.durable.len() && inode.bytes.starts_with(&inode.durable);
            if appended {
                let kept = rng.gen_range(inode.durable.len()..=inode.bytes.len());
                inode.bytes.truncate(kept);
                // A torn sector: its last byte may be anything.
                if kept > inode.durable.len() && rng.gen_bool(0.3) {
                    inode.bytes[kept - 1] ^= 0xff;
                }
            } else {
                inode.bytes.clone_from(&inode.durable);
            }
            *inode = Inode::synced(std::mem::take(&mut inode.bytes));
        }
    }
}

struct OpenFile {
    disk: SimDisk,
    inode: u64,
}

impl OpenFile {
    fn with<T>(&self, work: impl FnOnce(&mut Inode) -> T) -> io::Result<T> {
        let mut state = self.disk.state();
        if state.dead {
            return Err(io::Error::other("the power is off"));
        }
        let inode = state.inodes.get_mut(&self.inode);
        inode
            .map(work)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn step(&self) -> io::Result<()> {
        self.disk.state().step()
    }
}

impl Disk for OpenFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|inode| inode.bytes.len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.with(|inode| {
            let rest = usize::try_from(offset)
                .ok()
                .and_then(|from| inode.bytes.get(from..))
                .unwrap_or_default();
            let count = rest.len().min(buf.len());
            buf[..count].copy_from_slice(&rest[..count]);
            count
        })
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        let done = state.step();
        // A failed append may have written a part.
        let written = match &done {
            Ok(()) => bytes.len(),
            Err(_) => bytes.len() / 2,
        };
        if let Some(inode) = state.inodes.get_mut(&self.inode) {
            inode.bytes.extend_from_slice(&bytes[..written]);
        }
        done
    }

    fn sync(&self) -> io::Result<()> {
        self.step()?;
        self.with(Inode::sync)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.step()?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.with(|inode| inode.truncate(len))
    }
}

impl Vfs for SimDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn Disk>> {
        let mut state = self.state();
        let inode = match state.inode(path) {
            Ok(inode) => inode,
            Err(_) => {
                state.step()?;
                let inode = state.create(path);
                state.durable_names.insert(path.to_owned(), inode);
                inode
            }
        };
        drop(state);
        let disk = self.clone();
        Ok(Arc::new(OpenFile { disk, inode }))
    }

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        let state = self.state();
        let inside = state
            .names
            .iter()
            .filter(|(path, _)| path.parent() == Some(dir));
        let named = inside.filter_map(|(path, inode)| {
            let name = path.file_name()?.to_str()?.to_owned();
            Some((name, state.inodes.get(inode)?.bytes.len() as u64))
        });
        Ok(named.collect())
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        let mut state = self.state();
        let inode = state.inode(path)?;
        let found = state
            .inodes
            .get(&inode)
            .map(|inode| inode.bytes.len() as u64);
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut state = self.state();
        let inode = state.inode(path)?;
        let found = state.inodes.get(&inode).map(|inode| inode.bytes.clone());
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn write_synced(&self, path: &Path, _: Readers, pieces: &[&[u8]]) -> io::Result<()> {
        let mut state = self.state();
        let done = state.step();
        let mut bytes = pieces.concat();
        if done.is_err() {
            bytes.truncate(bytes.len() / 2);
        }
        let id = state.create(path);
        let inode = match done.is_ok() {
            true => Inode::synced(bytes),
            false => Inode {
                bytes,
                ..Inode::default()
            },
        };
        state.inodes.insert(id, inode);
        done
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let inode = state.inode(from)?;
        state.names.remove(from);
        state.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state
            .names
            .remove(path)
            .map(drop)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_names(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let dir = path.parent().map(Path::to_owned);
        let inside = |path: &Path| path.parent().map(Path::to_owned) == dir;
        state.durable_names.retain(|path, _| !inside(path));
        let now: Vec<_> = state
            .names
            .iter()
            .filter(|(path, _)| inside(path))
            .map(|(p, i)| (p.clone(), *i))
            .collect();
        state.durable_names.extend(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn a_crash_keeps_what_was_synced_and_no_more_than_was_written() {
        let path = Path::new("/home/log");
        for seed in 0..64 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let disk = SimDisk::default();
            let file = disk.open(path).unwrap();
            file.append(b"durable").unwrap();
            file.sync().unwrap();
            file.append(b"maybe").unwrap();
            disk.crash(&mut rng);
            let bytes = disk.read(path).unwrap();
            assert!(bytes.starts_with(b"durable") && bytes.len() <= b"durablemaybe".len());
        }
    }

    /// What a sync copies is what is new, also where a tail was cut and written anew.
    #[test]
    fn a_tail_that_was_cut_and_written_again_is_synced_as_it_is() {
        let path = Path::new("/home/log");
        let disk = SimDisk::default();
        let file = disk.open(path).unwrap();
        file.append(b"whole torn").unwrap();
        file.sync().unwrap();
        file.truncate(6).unwrap();
        file.append(b"and new").unwrap();
        file.sync().unwrap();
        disk.crash(&mut ChaCha8Rng::seed_from_u64(5));
        assert_eq!(disk.read(path).unwrap(), b"whole and new");
        file.truncate(5).unwrap();
        disk.crash(&mut ChaCha8Rng::seed_from_u64(6));
        assert_eq!(disk.read(path).unwrap(), b"whole and new");
    }

    #[test]
    fn a_name_lasts_from_the_sync_of_its_folder_on() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let disk = SimDisk::default();
        let (part, whole) = (Path::new("/d/a.part"), Path::new("/d/a"));
        disk.write_synced(part, Readers::Umask, &[b"x"]).unwrap();
        disk.rename(part, whole).unwrap();
        disk.crash(&mut rng);
        assert!(disk.read(whole).is_err() && disk.read(part).is_err());
        disk.write_synced(part, Readers::Umask, &[b"x"]).unwrap();
        disk.rename(part, whole).unwrap();
        disk.sync_names(whole).unwrap();
        disk.crash(&mut rng);
        assert_eq!(disk.read(whole).unwrap(), b"x");
    }

    #[test]
    fn nothing_works_after_a_cut_until_the_crash() {
        let disk = SimDisk::default();
        let file = disk.open(Path::new("/log")).unwrap();
        disk.cut_at(disk.operations() + 2);
        file.append(b"1").unwrap();
        assert!(file.append(b"22").is_err() && disk.is_dead());
        assert!(file.sync().is_err() && file.append(b"3").is_err());
        disk.crash(&mut ChaCha8Rng::seed_from_u64(3));
        disk.open(Path::new("/log")).unwrap().append(b"4").unwrap();
    }
}
