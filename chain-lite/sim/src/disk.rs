//! A disk that forgets what was not synced, tears what was being written, fails when told to, and rots.
//!
//! A file is an inode with bytes that a reader sees and bytes that would survive a power cut; a name is an entry that a reader
//! sees and one that would survive. [`SimDisk::crash`] keeps what survives, and of what was not synced any of its sectors of
//! [`SECTOR`] bytes: a disk writes them in the order it likes, so a file may have its new length and its last sector, and zeros
//! before that. Names are the same: of what was made, renamed and removed in a folder since its last sync, a crash keeps the first
//! few changes, as a journal does, or any of them; each of them whole or not at all. [`SimDisk::rot`] spoils a sector that was safe ([`Rot`]); [`SimDisk::repair`] is the operator's copy.
//! Every change counts as one operation ([`SimDisk::operations`]): a test cuts the power at any of them ([`SimDisk::cut_at`]),
//! after which nothing works until the crash is taken.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chain_lite::log::Disk;
use chain_lite::vfs::{Readers, Vfs};
use rand::Rng;

/// Bytes that a disk writes whole or not at all, and that rot together.
pub const SECTOR: usize = 512;

/// How a sector goes bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rot {
    /// It gives other bytes than were written, and says nothing.
    Silent,
    /// Reading it is an error.
    Unreadable,
}

/// What the error of an unreadable sector says.
pub const UNREADABLE: &str = "this sector cannot be read";

#[derive(Clone, Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// How far the two are known to be one, so that a sync copies what is new and not the whole log.
    same: usize,
    /// First bytes of the sectors that cannot be read.
    bad: BTreeSet<usize>,
    /// What stood where silent rot is: offset, bytes.
    sound: Vec<(usize, Vec<u8>)>,
}

impl Inode {
    fn synced(bytes: Vec<u8>) -> Self {
        Self {
            durable: bytes.clone(),
            same: bytes.len(),
            bytes,
            ..Self::default()
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
        self.bad.retain(|at| *at < len);
        self.sound.retain(|(at, _)| *at < len);
    }

    /// Whether these bytes can be read.
    fn readable(&self, range: Range<usize>) -> io::Result<()> {
        let first = range.start / SECTOR * SECTOR;
        match self.bad.range(first..range.end.max(first)).next() {
            Some(_) => Err(io::Error::other(UNREADABLE)),
            None => Ok(()),
        }
    }

    /// What a power cut leaves of it.
    fn fall(&mut self, rng: &mut impl Rng) {
        let unchanged = self.same == self.durable.len() && self.same == self.bytes.len();
        // A cut of the file that was not synced may not have come through, and then nothing that was written after it did.
        if unchanged || (self.same < self.durable.len() && rng.gen_bool(0.5)) {
            self.bytes.clone_from(&self.durable);
            self.same = self.bytes.len();
            return;
        }
        let (from, written) = (self.same, self.bytes.len());
        let len = match rng.gen_bool(0.3) {
            true => written,
            false => rng.gen_range(from..=written),
        };
        self.durable.truncate(from);
        self.durable.resize(len, 0);
        // In order, as one piece, or in any order.
        let in_order = rng.gen_bool(0.5);
        for sector in (from / SECTOR * SECTOR..len).step_by(SECTOR) {
            if in_order || rng.gen_bool(0.5) {
                let part = sector.max(from)..(sector + SECTOR).min(len);
                self.durable[part.clone()].copy_from_slice(&self.bytes[part]);
            }
        }
        // A torn sector: its last byte may be anything.
        if len > from && rng.gen_bool(0.3) {
            self.durable[len - 1] ^= 0xff;
        }
        self.bytes.clone_from(&self.durable);
        self.same = len;
    }

    /// A sector of what is synced goes bad; `false` where nothing is.
    fn rot(&mut self, how: Rot, rng: &mut impl Rng) -> bool {
        if self.same == 0 {
            return false;
        }
        let at = rng.gen_range(0..self.same.div_ceil(SECTOR)) * SECTOR;
        let sector = at..(at + SECTOR).min(self.same);
        match how {
            Rot::Unreadable => drop(self.bad.insert(at)),
            Rot::Silent => {
                self.sound.push((at, self.bytes[sector.clone()].to_vec()));
                // One bit, or all of it.
                match rng.gen_bool(0.5) {
                    true => {
                        let bit = rng.gen_range(0..sector.len() * 8);
                        self.bytes[at + bit / 8] ^= 1 << (bit % 8);
                    }
                    false => {
                        let spoil = |byte: &mut u8| *byte ^= rng.gen_range(1..=u8::MAX);
                        self.bytes[sector.clone()].iter_mut().for_each(spoil);
                    }
                }
                self.durable[sector.clone()].copy_from_slice(&self.bytes[sector]);
            }
        }
        true
    }

    fn repair(&mut self) {
        self.bad.clear();
        while let Some((at, bytes)) = self.sound.pop() {
            for copy in [&mut self.bytes, &mut self.durable] {
                let end = (at + bytes.len()).min(copy.len());
                copy[at..end].copy_from_slice(&bytes[..end - at]);
            }
        }
    }
}

/// A change of names that no sync of its folder has followed yet.
#[derive(Clone, Debug)]
enum Naming {
    Made {
        path: PathBuf,
        inode: u64,
    },
    Moved {
        from: PathBuf,
        to: PathBuf,
        inode: u64,
    },
    Gone(PathBuf),
}

impl Naming {
    /// Whether it is of a file in this folder.
    fn is_in(&self, dir: Option<&Path>) -> bool {
        let inside = |path: &Path| path.parent() == dir;
        match self {
            Self::Made { path, .. } | Self::Gone(path) => inside(path),
            Self::Moved { from, to, .. } => inside(from) || inside(to),
        }
    }

    fn apply(self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Made { path, inode } => drop(names.insert(path, inode)),
            Self::Moved { from, to, inode } => {
                // Something else may have the old name by now.
                if names.get(&from) == Some(&inode) {
                    names.remove(&from);
                }
                names.insert(to, inode);
            }
            Self::Gone(path) => drop(names.remove(&path)),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// How the first became of the second, but for what syncs made durable.
    unsynced: Vec<Naming>,
    next: u64,
    operations: u64,
    cut_at: Option<u64>,
    fail_at: Option<(u64, io::ErrorKind)>,
    fail_next: Option<io::ErrorKind>,
    dead: bool,
    struck: Struck,
}

/// How often what was ordered of a disk has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Struck {
    /// Power cuts in the middle of a change.
    pub cuts: u64,
    /// Changes for which there was no room.
    pub full: u64,
    /// Changes that failed for another reason.
    pub failed: u64,
    /// Files of which a power cut left another part than what was synced or what was written.
    pub torn: u64,
    /// Names that were made, changed or removed, not synced, and that a power cut kept so.
    pub names: u64,
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
            self.struck.cuts += 1;
            return Err(io::Error::other("the power fails"));
        }
        let now = self.operations;
        let due = self.fail_at.take_if(|(at, _)| *at == now);
        let failure = self.fail_next.take().or(due.map(|(_, kind)| kind));
        match failure {
            Some(io::ErrorKind::StorageFull) => self.struck.full += 1,
            Some(_) => self.struck.failed += 1,
            None => return Ok(()),
        }
        failure.map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn inode(&mut self, path: &Path) -> io::Result<u64> {
        let found = self.names.get(path).copied();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create(&mut self, path: &Path) -> u64 {
        self.next += 1;
        let (path, inode) = (path.to_owned(), self.next);
        self.inodes.insert(inode, Inode::default());
        self.named(Naming::Made { path, inode });
        inode
    }

    /// A change that readers see at once.
    fn named(&mut self, change: Naming) {
        change.clone().apply(&mut self.names);
        self.unsynced.push(change);
    }

    /// The names in the folder of `path` are durable.
    fn sync_names(&mut self, path: &Path) {
        let dir = path.parent();
        self.durable_names.retain(|path, _| path.parent() != dir);
        let now = self.names.iter().filter(|(path, _)| path.parent() == dir);
        self.durable_names
            .extend(now.map(|(path, inode)| (path.clone(), *inode)));
        self.unsynced.retain(|change| !change.is_in(dir));
    }

    /// What a power cut leaves of the names.
    fn fall(&mut self, rng: &mut impl Rng) {
        let unsynced = std::mem::take(&mut self.unsynced);
        let in_order = rng.gen_bool(0.5);
        let first = rng.gen_range(0..=unsynced.len());
        for (at, change) in unsynced.into_iter().enumerate() {
            let kept = match in_order {
                true => at < first,
                false => rng.gen_bool(0.5),
            };
            if kept {
                change.apply(&mut self.durable_names);
            }
            self.struck.names += u64::from(kept);
        }
        self.names = self.durable_names.clone();
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

    /// What has come of all that.
    pub fn struck(&self) -> Struck {
        self.state().struck
    }

    /// Whether a power cut is still to come, and which failure of the next change.
    pub fn ordered(&self) -> (bool, Option<io::ErrorKind>) {
        let state = self.state();
        (state.cut_at.is_some() && !state.dead, state.fail_next)
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
        state.sync_names(path);
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
        state.fall(rng);
        let alive: Vec<u64> = state.names.values().copied().collect();
        state.inodes.retain(|id, _| alive.contains(id));
        let mut torn = 0;
        for inode in state.inodes.values_mut() {
            let (synced, written) = (inode.durable.clone(), inode.bytes.clone());
            inode.fall(rng);
            torn += u64::from(inode.bytes != synced && inode.bytes != written);
        }
        state.struck.torn += torn;
    }

    /// A sector of one of the files that are meant goes bad: which file's; none where nothing is safe yet.
    pub fn rot(
        &self,
        how: Rot,
        is_meant: impl Fn(&Path) -> bool,
        rng: &mut impl Rng,
    ) -> Option<PathBuf> {
        let mut state = self.state();
        let files = state.names.iter().filter(|(path, id)| {
            let is_safe = state.durable_names.get(*path) == Some(*id);
            is_safe && is_meant(path)
        });
        let files: Vec<(PathBuf, u64)> = files.map(|(path, id)| (path.clone(), *id)).collect();
        let (path, id) = files.get(rng.gen_range(0..files.len().max(1)))?.clone();
        let inode = state.inodes.get_mut(&id)?;
        inode.rot(how, rng).then_some(path)
    }

    /// Somebody puts back what rotted, from a copy.
    pub fn repair(&self) {
        let mut state = self.state();
        state.inodes.values_mut().for_each(Inode::repair);
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
            let from = usize::try_from(offset).unwrap_or(usize::MAX);
            let rest = inode.bytes.get(from..).unwrap_or_default();
            let count = rest.len().min(buf.len());
            buf[..count].copy_from_slice(&rest[..count]);
            inode.readable(from..from.saturating_add(count))?;
            Ok(count)
        })?
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
                // As the operating system's do: by a sync of the folder.
                state.sync_names(path);
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
        let found = state.inodes.get(&inode);
        let inode = found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        inode.readable(0..inode.bytes.len())?;
        Ok(inode.bytes.clone())
    }

    fn write_synced(&self, path: &Path, _: Readers, pieces: &[&[u8]]) -> io::Result<()> {
        let mut state = self.state();
        let done = state.step();
        let mut bytes = pieces.concat();
        if done.is_err() {
            bytes.truncate(bytes.len() / 2);
        }
        // A file that is there is emptied: whatever name survives, its old bytes may not.
        let id = match state.inode(path) {
            Ok(id) => id,
            Err(_) => state.create(path),
        };
        if let Some(inode) = state.inodes.get_mut(&id) {
            inode.truncate(0);
            inode.bytes = bytes;
            if done.is_ok() {
                inode.sync();
            }
        }
        done
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let inode = state.inode(from)?;
        let (from, to) = (from.to_owned(), to.to_owned());
        state.named(Naming::Moved { from, to, inode });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state.inode(path)?;
        state.named(Naming::Gone(path.to_owned()));
        Ok(())
    }

    fn sync_names(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state.sync_names(path);
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
        // A cut that was not synced has come through, or has not.
        let mut found = BTreeSet::new();
        for seed in 0..16 {
            let disk = SimDisk::default();
            disk.put(path, b"whole and new");
            disk.open(path).unwrap().truncate(5).unwrap();
            disk.crash(&mut ChaCha8Rng::seed_from_u64(seed));
            found.insert(disk.read(path).unwrap());
        }
        assert_eq!(found, [b"whole".to_vec(), b"whole and new".to_vec()].into());
    }

    /// Of what was not synced any sectors are there, also the last without those before; what was synced is there whole.
    #[test]
    fn a_crash_keeps_any_of_the_sectors_that_were_not_synced() {
        let path = Path::new("/home/log");
        let (old, new) = (vec![1; SECTOR + 7], vec![2; 3 * SECTOR]);
        let written = [old.clone(), new.clone()].concat();
        let (mut holes, mut prefixes) = (0, 0);
        for seed in 0..256 {
            let disk = SimDisk::default();
            disk.put(path, &old);
            disk.open(path).unwrap().append(&new).unwrap();
            disk.crash(&mut ChaCha8Rng::seed_from_u64(seed));
            let kept = disk.read(path).unwrap();
            assert!(kept.starts_with(&old) && kept.len() <= written.len());
            // Each sector's new bytes but the last one, which may be torn, are all there or not one is.
            let sectors = kept[..kept.len().max(1) - 1].chunks(SECTOR).enumerate();
            let there: Vec<bool> = sectors
                .skip(1)
                .filter_map(|(n, sector)| {
                    let new = &sector[if n == 1 { 7.min(sector.len()) } else { 0 }..];
                    let first = *new.first()?;
                    assert!(
                        new.iter()
                            .all(|byte| *byte == first && [0, 2].contains(byte))
                    );
                    Some(first == 2)
                })
                .collect();
            holes += u32::from(there.windows(2).any(|pair| !pair[0] && pair[1]));
            prefixes += u32::from(there.len() > 1 && there.iter().all(|is_there| *is_there));
        }
        assert!(holes > 20 && prefixes > 40, "{holes}, {prefixes}");
    }

    #[test]
    fn rot_spoils_one_sector_of_what_is_synced_until_it_is_repaired() {
        let path = Path::new("/home/log");
        let whole: Vec<u8> = (0..4 * SECTOR + 9).map(|n| n as u8).collect();
        for seed in 0..64 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let disk = SimDisk::default();
            assert_eq!(disk.rot(Rot::Silent, |_| true, &mut rng), None);
            disk.put(path, &whole);
            let file = disk.open(path).unwrap();
            file.append(b"new").unwrap();
            let written = disk.read(path).unwrap();
            let meant = disk.rot(Rot::Silent, |path| path.ends_with("log"), &mut rng);
            assert_eq!(meant.as_deref(), Some(path));
            let spoilt = disk.read(path).unwrap();
            let differ = (0..spoilt.len()).filter(|at| spoilt[*at] != written[*at]);
            let sectors: BTreeSet<usize> = differ.map(|at| at / SECTOR).collect();
            assert!(sectors.len() == 1 && spoilt.ends_with(b"new"));
            file.sync().unwrap();
            disk.crash(&mut rng);
            assert_eq!(disk.read(path).unwrap(), spoilt, "it stays");
            disk.rot(Rot::Unreadable, |_| true, &mut rng).unwrap();
            let refused = disk.read(path).unwrap_err();
            assert_eq!(refused.to_string(), UNREADABLE);
            let at = |n: usize| file.read_at((n * SECTOR) as u64, &mut [0; SECTOR]).is_err();
            assert_eq!((0..=4).filter(|n| at(*n)).count(), 1);
            disk.repair();
            assert_eq!(disk.read(path).unwrap(), written);
        }
    }

    /// Names under which a file is found after a power cut, over many seeds.
    fn left(make: impl Fn(&SimDisk)) -> BTreeSet<Vec<(String, Vec<u8>)>> {
        let after = |seed| {
            let disk = SimDisk::default();
            make(&disk);
            disk.crash(&mut ChaCha8Rng::seed_from_u64(seed));
            let dir = Path::new("/d");
            let names = disk.list(dir).unwrap().into_iter();
            let read = |(name, _): (String, u64)| {
                let bytes = disk.read(&dir.join(&name)).unwrap();
                (name, bytes)
            };
            names.map(read).collect()
        };
        (0..64).map(after).collect()
    }

    fn named(names: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
        let owned = |(name, bytes): &(&str, &str)| (name.to_string(), bytes.as_bytes().to_vec());
        names.iter().map(owned).collect()
    }

    #[test]
    fn a_name_lasts_from_the_sync_of_its_folder_on_and_before_it_perhaps() {
        let (part, whole) = (Path::new("/d/a.part"), Path::new("/d/a"));
        let write = |disk: &SimDisk| {
            disk.write_synced(part, Readers::Umask, &[b"new"]).unwrap();
            disk.rename(part, whole).unwrap();
        };
        // Neither, one of the two, never both: a rename is whole.
        let found = left(write);
        let all = [&[][..], &[("a.part", "new")], &[("a", "new")]].map(named);
        assert_eq!(found, all.into());
        let found = left(|disk| {
            write(disk);
            disk.sync_names(whole).unwrap();
        });
        assert_eq!(found, [named(&[("a", "new")])].into());
        // In the place of an old one: there is always one or the other.
        let found = left(|disk| {
            disk.put(whole, b"old");
            write(disk);
        });
        let both = [("a", "old"), ("a.part", "new")];
        let all = [&both[..], &both[..1], &[("a", "new")]].map(named);
        assert_eq!(found, all.into());
        // Removed, or back again.
        let found = left(|disk| {
            disk.put(whole, b"old");
            disk.remove(whole).unwrap();
        });
        assert_eq!(found, [&[][..], &[("a", "old")]].map(named).into());
        // A sync of another folder changes nothing of this one, and two changes come in any order.
        let found = left(|disk| {
            for name in ["/d/a", "/d/b"].map(Path::new) {
                disk.write_synced(name, Readers::Umask, &[b"x"]).unwrap();
            }
            disk.sync_names(Path::new("/e/c")).unwrap();
        });
        let both = [("a", "x"), ("b", "x")];
        let all = [&[][..], &both[..1], &both[1..], &both].map(named);
        assert_eq!(found, all.into());
    }

    /// Writing over a file that is there empties it first: no crash brings its old bytes back under a promise.
    #[test]
    fn a_file_that_is_written_anew_is_the_old_one_torn_or_the_new_one() {
        let path = Path::new("/d/a");
        let found = left(|disk| {
            disk.put(path, b"old");
            disk.cut_at(disk.operations() + 1);
            disk.write_synced(path, Readers::Umask, &[b"newer"])
                .unwrap_err();
        });
        assert!(found.contains(&named(&[("a", "old")])));
        assert!(found.contains(&named(&[("a", "ne")])), "{found:?}");
        let found = left(|disk| {
            disk.put(path, b"old");
            disk.write_synced(path, Readers::Umask, &[b"newer"])
                .unwrap();
        });
        assert_eq!(found, [named(&[("a", "newer")])].into());
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
