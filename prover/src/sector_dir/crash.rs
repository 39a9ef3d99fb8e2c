//! A disk that dies, fills up or fails at a chosen step: for crash tests only.
//!
//! Files live in a real folder; this layer remembers what was not yet durable. After a cut, [`CrashDisk::lose`] rebuilds
//! the image that such a crash may leave: unsynced contents are gone or torn at 512 bytes, renames that no sync of the
//! folder followed are undone. The model is deliberately harsher than most file systems.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::disk::{Disk, DiskFile, RealDisk};

/// What happens at the chosen step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accident {
    /// The process or the machine stops: this step and all later ones do not happen.
    Cut,
    /// This and all later writes fail, as on a full disk. Reads and removals go on.
    Full,
    /// This step fails if it is a sync; nothing else is touched.
    SyncFails,
}

/// What a crash takes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// kill -9: the kernel still writes everything.
    Nothing,
    /// Power cut: all that was not synced.
    Unsynced,
    /// Power cut: a random half of the unsynced 512-byte sectors.
    Torn(u64),
}

#[derive(Debug)]
struct State {
    step: u64,
    accident: Option<(u64, Accident)>,
    dead: bool,
    unsynced: BTreeSet<PathBuf>,
    /// Renames since the last sync of their folder: target, source, what the target held before.
    renames: Vec<(PathBuf, PathBuf, Option<Vec<u8>>)>,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct CrashDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct CrashFile {
    path: PathBuf,
    inner: Box<dyn DiskFile>,
    disk: CrashDisk,
}

impl CrashDisk {
    /// A disk with at most one accident, at a step counted from 0.
    pub(crate) fn new(accident: Option<(u64, Accident)>) -> Self {
        let (unsynced, renames) = (BTreeSet::new(), Vec::new());
        Self(Arc::new(Mutex::new(State {
            step: 0,
            accident,
            dead: false,
            unsynced,
            renames,
        })))
    }

    /// Steps taken so far.
    pub(crate) fn steps(&self) -> u64 {
        self.state().step
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("no test thread panics with the lock")
    }

    /// Counts one changing operation and lets it happen or not.
    fn step(&self, is_write: bool, is_sync: bool) -> io::Result<()> {
        let mut state = self.state();
        let now = state.step;
        state.step += 1;
        match state.accident {
            Some((at, Accident::Cut)) if now >= at => {
                state.dead = true;
                Err(io::Error::other("the machine is off"))
            }
            Some((at, Accident::Full)) if now >= at && is_write => {
                Err(io::ErrorKind::StorageFull.into())
            }
            Some((at, Accident::SyncFails)) if now == at && is_sync => {
                Err(io::Error::other("input/output error"))
            }
            _ => Ok(()),
        }
    }

    fn alive(&self) -> io::Result<()> {
        if self.state().dead {
            Err(io::Error::other("the machine is off"))
        } else {
            Ok(())
        }
    }

    /// Leaves the folder as the crash left it.
    pub(crate) fn lose(&self, loss: Loss) {
        let mut state = self.state();
        if loss == Loss::Nothing {
            return;
        }
        for (to, from, before) in std::mem::take(&mut state.renames).into_iter().rev() {
            let content = std::fs::read(&to).expect("a renamed file is there");
            std::fs::write(&from, content).expect("the test folder is writable");
            match before {
                Some(before) => std::fs::write(&to, before),
                None => std::fs::remove_file(&to),
            }
            .expect("the test folder is writable");
        }
        for path in std::mem::take(&mut state.unsynced) {
            let Ok(mut content) = std::fs::read(&path) else {
                continue;
            };
            match loss {
                Loss::Torn(seed) => tear(&mut content, seed),
                _ => content.clear(),
            }
            std::fs::write(&path, content).expect("the test folder is writable");
        }
    }
}

fn tear(content: &mut [u8], mut seed: u64) {
    for sector in content.chunks_mut(512) {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        if seed >> 63 == 0 {
            sector.fill(0);
        }
    }
}

impl Disk for CrashDisk {
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        self.alive()?;
        RealDisk.make_dir(dir)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.alive()?;
        Ok(Box::new(CrashFile {
            path: path.to_owned(),
            inner: RealDisk.open(path)?,
            disk: self.clone(),
        }))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.step(true, false)?;
        self.state().unsynced.insert(path.to_owned());
        Ok(Box::new(CrashFile {
            path: path.to_owned(),
            inner: RealDisk.create(path)?,
            disk: self.clone(),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(false, false)?;
        let before = std::fs::read(to).ok();
        RealDisk.rename(from, to)?;
        let mut state = self.state();
        state.renames.push((to.to_owned(), from.to_owned(), before));
        if state.unsynced.remove(from) {
            state.unsynced.insert(to.to_owned());
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step(false, false)?;
        let mut state = self.state();
        state.unsynced.remove(path);
        state
            .renames
            .retain(|(to, from, _)| to != path && from != path);
        RealDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.step(false, true)?;
        self.state()
            .renames
            .retain(|(to, _, _)| to.parent() != Some(dir));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.alive()?;
        RealDisk.list(dir)
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        self.alive()?;
        Ok(u64::MAX)
    }
}

impl DiskFile for CrashFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.alive()?;
        self.inner.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.step(true, false)?;
        self.disk.state().unsynced.insert(self.path.clone());
        self.inner.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.step(false, true)?;
        self.disk.state().unsynced.remove(&self.path);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.alive()?;
        self.inner.len()
    }
}
