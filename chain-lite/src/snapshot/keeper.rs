//! Snapshots that a running node makes by itself, so that a newcomer can join without its history and nobody has to stop.
//!
//! Walk: [`keep`] beside the engine → every so many blocks a file `snapshots/<height>.hfs` in the chain's folder → `holdfast chain
//! snapshot export` copies the [`newest`] → [`super::import`] elsewhere. Spec: `consensus.md` §4 trap 13.
//!
//! The state is read from a [view](crate::store::View), so the chain goes on meanwhile; each block made during an export costs memory for
//! what it overwrote, until the export ends. Disk: [`KEPT`] files and the one being written.
//! Crash: a file is written beside its name, synced and renamed; a half one is overwritten by the next. Failure (a full
//! disk): a warning and the next try a round later, never an end of the node.

use std::fs;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Report, SnapshotError, export_file_while, io, scan};
use crate::ledger::Ledger;
use crate::vfs::{OsVfs, Vfs};

/// Folder in a chain's folder.
const FOLDER: &str = "snapshots";
/// The one being made, until its height is known.
const NEW: &str = "new";
const ENDING: &str = "hfs";
/// How many are kept, the newest ones.
pub const KEPT: usize = 2;
/// Longest pause between looks at the wish to stop.
const LOOK: Duration = Duration::from_millis(200);

/// The thread that makes snapshots. It ends when this is dropped, which waits for it: about as long as a page of leaves takes. Nothing is
/// left of a file that it was writing.
#[derive(Debug)]
pub struct Keeper {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it was reported by its own hook.
            drop(thread.join());
        }
    }
}

/// Makes a snapshot whenever the chain has passed another multiple of `every` blocks.
pub fn keep(ledger: Arc<Ledger>, every: NonZeroU64) -> Result<Keeper, SnapshotError> {
    let folder = ledger.home().join(FOLDER);
    fs::create_dir_all(&folder).map_err(io("creating", &folder))?;
    let stop = Arc::new(AtomicBool::new(false));
    let work = worker(ledger, every, Arc::clone(&stop));
    let builder = std::thread::Builder::new().name("snapshots".into());
    let thread = builder
        .spawn(work)
        .map_err(io("starting a thread for", Path::new(FOLDER)))?;
    Ok(Keeper {
        stop,
        thread: Some(thread),
    })
}

/// The thread's work. Where the chain stands is read here: blocks that come before the thread does count too.
fn worker(ledger: Arc<Ledger>, every: NonZeroU64, stop: Arc<AtomicBool>) -> impl FnOnce() {
    let begun = ledger.tip().height;
    move || run(&ledger, every, begun, &stop)
}

fn run(ledger: &Ledger, every: NonZeroU64, begun: u64, stop: &AtomicBool) {
    let mut seen = begun;
    while !stop.load(Ordering::Relaxed) {
        let tip = ledger.wait_beyond(seen, LOOK).height;
        let due = tip / every > seen / every;
        seen = tip;
        if !due {
            continue;
        }
        match write_on(&OsVfs, ledger, stop) {
            Ok(report) => tracing::info!(
                height = report.height,
                bytes = report.bytes,
                "wrote a snapshot"
            ),
            Err(SnapshotError::Stopped) => return,
            // The first blocks after an import.
            Err(SnapshotError::NotYet(why)) => tracing::debug!(why, "no snapshot yet"),
            Err(error) => {
                tracing::warn!(%error, home = %ledger.home().display(), "no snapshot was written")
            }
        }
    }
}

/// Writes one snapshot into the ledger's folder of them, unless it is to `stop`, and deletes all but the newest [`KEPT`]. What
/// [`keep`] does each time, on any file system.
pub fn write_on(
    vfs: &dyn Vfs,
    ledger: &Ledger,
    stop: &AtomicBool,
) -> Result<Report, SnapshotError> {
    // Which height it is of, the export says when it is done.
    let folder = ledger.home().join(FOLDER);
    let new = folder.join(NEW);
    let mut go_on = |_| !stop.load(Ordering::Relaxed);
    let report = export_file_while(vfs, &new, ledger, &mut go_on)?;
    let name = folder.join(format!("{}.{ENDING}", report.height));
    vfs.rename(&new, &name).map_err(io("renaming", &new))?;
    vfs.sync_names(&name)
        .map_err(io("syncing the folder of", &name))?;
    for (_, old) in all(vfs, &folder)?.into_iter().rev().skip(KEPT) {
        vfs.remove(&old).map_err(io("deleting", &old))?;
    }
    Ok(report)
}

/// Height and path of each snapshot in the folder, oldest first.
fn all(vfs: &dyn Vfs, folder: &Path) -> Result<Vec<(u64, PathBuf)>, SnapshotError> {
    let files = match vfs.list(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        files => files.map_err(io("reading", folder))?,
    };
    let paths = files.into_iter().map(|(name, _)| folder.join(name));
    let of_ours = paths.filter(|path| path.extension().is_some_and(|ending| ending == ENDING));
    let height = |path: &Path| path.file_stem()?.to_str()?.parse().ok();
    let found = of_ours.filter_map(|path| Some((height(&path)?, path)));
    let mut found: Vec<(u64, PathBuf)> = found.collect();
    found.sort();
    Ok(found)
}

/// The newest snapshot that the node of this chain's folder has made, read whole for its form, and what it says of itself.
pub fn newest(chain_home: &Path) -> Result<Option<(PathBuf, Report)>, SnapshotError> {
    let folder = chain_home.join(FOLDER);
    let Some((height, path)) = all(&OsVfs, &folder)?.pop() else {
        return Ok(None);
    };
    let (base, bytes) = scan(&OsVfs, &folder, &format!("{height}.{ENDING}"))?;
    let genesis = crate::genesis::Genesis::from_bytes(&base.head.genesis)?;
    let report = Report {
        chain_id: genesis.chain_id(),
        height: base.header().height,
        id: base.header().id(),
        leaves: base.leaves,
        bytes,
    };
    Ok(Some((path, report)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::tests::{advance, genesis, open};

    fn heights(home: &Path) -> Vec<u64> {
        let found = all(&OsVfs, &home.join(FOLDER)).unwrap();
        found.into_iter().map(|(height, _)| height).collect()
    }

    /// Waits for a condition, but not for ever.
    fn wait(mut done: impl FnMut() -> bool) {
        let until = std::time::Instant::now() + Duration::from_secs(60);
        while !done() {
            assert!(std::time::Instant::now() < until, "it never came");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_running_node_keeps_its_newest_two_snapshots_and_each_can_be_taken_in() {
        let home = tempfile::tempdir().unwrap();
        let ledger = Arc::new(open(home.path(), &genesis(3)).unwrap());
        let folder = home.path().join(FOLDER);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("new.part"), b"cut by a crash").unwrap();
        let keeper = keep(Arc::clone(&ledger), NonZeroU64::new(5).unwrap()).unwrap();
        assert_eq!(newest(home.path()).unwrap(), None);
        let mut made = vec![];
        for _ in 0..4 {
            advance(&ledger, 5);
            let before = made.last().copied();
            wait(|| heights(home.path()).last().copied() > before);
            made.push(*heights(home.path()).last().unwrap());
        }
        drop(keeper);
        assert_eq!(heights(home.path()), made[2..], "the newest two");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "nothing half");
        let (path, report) = newest(home.path()).unwrap().unwrap();
        let taken = tempfile::tempdir().unwrap();
        let chain = taken.path().join("chain");
        let anchor = super::super::Anchor::Checkpoint {
            height: report.height,
            id: ledger.block(report.height).unwrap().block.header.id(),
        };
        let got = super::super::import(&chain, &path, ledger.chain_id(), anchor, 0, &mut |_| ());
        assert_eq!(got.unwrap(), report);
        // A damaged file is told, not handed on.
        let mut bytes = fs::read(&path).unwrap();
        bytes[40] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(newest(home.path()).is_err());
    }

    /// A machine under load may make blocks before the thread has begun.
    #[test]
    fn blocks_that_come_before_its_thread_count_too() {
        let home = tempfile::tempdir().unwrap();
        let ledger = Arc::new(open(home.path(), &genesis(3)).unwrap());
        let folder = home.path().join(FOLDER);
        fs::create_dir_all(&folder).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let every = NonZeroU64::new(5).unwrap();
        let work = worker(Arc::clone(&ledger), every, Arc::clone(&stop));
        advance(&ledger, 6);
        let keeper = Keeper {
            stop,
            thread: Some(std::thread::spawn(work)),
        };
        wait(|| !heights(home.path()).is_empty());
        drop(keeper);
    }

    #[test]
    fn who_stops_does_not_wait_for_a_snapshot_and_nothing_is_left_of_it() {
        let home = tempfile::tempdir().unwrap();
        let ledger = Arc::new(open(home.path(), &genesis(3)).unwrap());
        advance(&ledger, 5);
        let folder = home.path().join(FOLDER);
        fs::create_dir_all(&folder).unwrap();
        let stop = AtomicBool::new(true);
        let stopped = write_on(&OsVfs, &ledger, &stop);
        assert!(
            matches!(stopped, Err(SnapshotError::Stopped)),
            "{stopped:?}"
        );
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        stop.store(false, Ordering::Relaxed);
        write_on(&OsVfs, &ledger, &stop).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_written_stops_no_node() {
        let home = tempfile::tempdir().unwrap();
        let ledger = Arc::new(open(home.path(), &genesis(3)).unwrap());
        let keeper = keep(Arc::clone(&ledger), NonZeroU64::new(1).unwrap()).unwrap();
        let folder = home.path().join(FOLDER);
        // A folder stands where the new file is to be written.
        fs::create_dir(folder.join("new.part")).unwrap();
        advance(&ledger, 5);
        assert!(write_on(&OsVfs, &ledger, &AtomicBool::new(false)).is_err());
        fs::remove_dir(folder.join("new.part")).unwrap();
        advance(&ledger, 1);
        wait(|| !heights(home.path()).is_empty());
        drop(keeper);
    }
}
