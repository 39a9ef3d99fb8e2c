//! The machine's sealing slot: one PoRep at a time per machine, first come first served, and everybody can see who has it.
//!
//! Place: [`super::worker`] enters the line when [`super::lifecycle`] asks for the slot. Spec: `DESIGN.md` §5 ("one lock per
//! machine serialises PoRep proving").
//!
//! ```text
//! <params>/porep.slot          locked by the holder; the lock alone is the mutex
//! <params>/porep.holder        "<chain id> <process id>\n", written by the holder after it took the lock
//! <params>/porep.line/<place>  locked by those who wait; the smallest name that is still locked goes next
//! ```
//! The words stand beside the lock and not in it, because some systems let nobody read a locked file. They tell a waiting
//! provider whether the holder needs its chain's blocks. They may be stale for the moment between the lock and the write;
//! the next look corrects that. Unreadable words count as a stranger's.
//!
//! The line is a courtesy: it decides who tries, never who has the slot. A process that stands in front and does not take its
//! turn (suspended, or of a version without a line) delays the others by [`TURN_PATIENCE`] and no more.
//! Crash: locks end with their process. Leftover places are not locked any more and are removed by the next who looks.
//! Cost: each waiting provider opens two or three small files ten times a second.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chain_lite::account::ChainId;

use super::prover::Workshop;

/// Pause between looks at a slot that somebody else holds.
pub const POLL: Duration = Duration::from_millis(100);
/// How long a free slot is left to the one in front.
const TURN_PATIENCE: Duration = Duration::from_secs(2);
/// Longest holder file that is read, in bytes.
const MAX_WORDS_BYTES: u64 = 256;
/// Most places of the line that one look reads; more wait out their patience.
const MAX_PLACES: usize = 256;

const SLOT_FILE: &str = "porep.slot";
const HOLDER_FILE: &str = "porep.holder";
const LINE_DIR: &str = "porep.line";

/// A machine-wide slot, given back when dropped or when the process ends, however it ends.
#[derive(Debug)]
pub struct SlotGuard {
    _file: File,
}

/// On whose behalf the slot is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// It said so.
    Known {
        /// For this chain.
        chain: ChainId,
        /// By this process.
        pid: u32,
    },
    /// It said nothing that can be read.
    Unknown,
}

impl Holder {
    /// Whether it is known to work for this chain.
    pub fn is_of(&self, ours: ChainId) -> bool {
        matches!(self, Self::Known { chain, .. } if *chain == ours)
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Known { chain, pid } => {
                let chain = chain.to_string();
                let short = chain.get(..8).unwrap_or(&chain);
                write!(f, "process {pid} for chain {short}")
            }
            Self::Unknown => write!(f, "an unknown process"),
        }
    }
}

/// What one look at the slot found.
#[derive(Debug)]
pub enum SlotLook {
    /// It is ours.
    Granted(SlotGuard),
    /// Somebody has it.
    HeldBy(Holder),
    /// It is free, and somebody else came before us.
    NotOurTurn,
}

/// Our place in the line for the slot; left when dropped.
#[derive(Debug)]
pub struct SlotLine {
    dir: PathBuf,
    chain: ChainId,
    /// `None` where no place could be taken: then it is every process for itself.
    place: Option<Place>,
    free_since: Option<Instant>,
}

#[derive(Debug)]
struct Place {
    name: String,
    path: PathBuf,
    _file: File,
}

impl SlotLine {
    /// Takes a place behind everybody who waits now, on behalf of `chain`.
    pub fn enter(shop: &Workshop, chain: ChainId) -> Self {
        Self::enter_at(shop.params().dir(), chain)
    }

    fn enter_at(dir: &Path, chain: ChainId) -> Self {
        let place = Place::take(&dir.join(LINE_DIR)).inspect_err(|error| {
            tracing::debug!(%error, "no place in the line for the sealing slot; waiting without one");
        });
        Self {
            dir: dir.to_owned(),
            chain,
            place: place.ok(),
            free_since: None,
        }
    }

    /// One look: takes the slot if it is free and our turn.
    pub fn look(&mut self) -> io::Result<SlotLook> {
        let Some(guard) = try_lock(&self.dir.join(SLOT_FILE))? else {
            self.free_since = None;
            return Ok(SlotLook::HeldBy(read_holder(&self.dir.join(HOLDER_FILE))));
        };
        let waited = self.free_since.get_or_insert_with(Instant::now).elapsed();
        if waited < TURN_PATIENCE && self.somebody_is_before_us() {
            // The lock was ours for an instant, which is all that a look needs.
            return Ok(SlotLook::NotOurTurn);
        }
        let words = format!("{} {}\n", self.chain, std::process::id());
        if let Err(error) = fs::write(self.dir.join(HOLDER_FILE), words) {
            // Others then take us for a stranger and hold their clocks: safe, unless they are of our chain, so say it.
            tracing::warn!(%error, "cannot say who has the sealing slot");
            let _ = fs::remove_file(self.dir.join(HOLDER_FILE));
        }
        self.place = None;
        Ok(SlotLook::Granted(guard))
    }

    fn somebody_is_before_us(&self) -> bool {
        let Some(ours) = &self.place else {
            return false;
        };
        let Ok(entries) = fs::read_dir(self.dir.join(LINE_DIR)) else {
            return false;
        };
        entries.take(MAX_PLACES).flatten().any(|entry| {
            let name = entry.file_name();
            let before = name
                .to_str()
                .is_some_and(|name| is_place_name(name) && name < ours.name.as_str());
            before && is_taken(&entry.path())
        })
    }
}

impl Place {
    fn take(dir: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        fs::create_dir_all(dir)?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let name = format!(
            "{:039}-{:010}-{:010}",
            since.map_or(0, |since| since.as_nanos()),
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = dir.join(&name);
        let file = File::options().create_new(true).write(true).open(&path)?;
        // Before this lock somebody may take the place for a leftover and remove it: then we wait without one.
        file.try_lock()?;
        Ok(Self {
            name,
            path,
            _file: file,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A place that stays is not locked any more, and removed by the next who looks.
        let _ = fs::remove_file(&self.path);
    }
}

/// Names as [`Place::take`] makes them; everything else in the folder is left alone.
fn is_place_name(name: &str) -> bool {
    name.len() == 61
        && name
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'-')
}

/// Whether somebody still stands on this place; an abandoned one is removed.
fn is_taken(path: &Path) -> bool {
    let Ok(file) = File::options().write(true).open(path) else {
        return false;
    };
    match file.try_lock() {
        Ok(()) => {
            let _ = fs::remove_file(path);
            false
        }
        Err(_) => true,
    }
}

/// A slot without a line: the lock, if nobody has it.
pub fn try_lock(path: &Path) -> io::Result<Option<SlotGuard>> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(SlotGuard { _file: file })),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

fn read_holder(path: &Path) -> Holder {
    let mut words = String::new();
    let read =
        File::open(path).and_then(|file| file.take(MAX_WORDS_BYTES).read_to_string(&mut words));
    match read {
        Ok(_) => parse_words(&words).unwrap_or(Holder::Unknown),
        Err(_) => Holder::Unknown,
    }
}

fn parse_words(words: &str) -> Option<Holder> {
    // A torn write has no line end yet.
    let (chain, pid) = words.strip_suffix('\n')?.split_once(' ')?;
    let mut id = [0u8; 32];
    hex::decode_to_slice(chain, &mut id).ok()?;
    Some(Holder::Known {
        chain: ChainId(id),
        pid: pid.parse().ok()?,
    })
}

/// Any bytes as the words in the slot's file, which any process of this machine may write: nobody, or a holder whose words read the
/// same. Body of the fuzz target.
pub fn fuzz_words(bytes: &[u8]) {
    let Some(holder) = std::str::from_utf8(bytes).ok().and_then(parse_words) else {
        return;
    };
    let Holder::Known { chain, pid } = holder else {
        panic!("words that say nothing name nobody");
    };
    assert_eq!(parse_words(&format!("{chain} {pid}\n")), Some(holder));
    assert!(holder.is_of(chain) && holder.to_string().len() < 80);
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: ChainId = ChainId([1; 32]);
    const THEIRS: ChainId = ChainId([2; 32]);

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    fn granted(line: &mut SlotLine) -> Option<SlotGuard> {
        match line.look().expect("looks") {
            SlotLook::Granted(guard) => Some(guard),
            SlotLook::HeldBy(_) | SlotLook::NotOurTurn => None,
        }
    }

    fn holder(line: &mut SlotLine) -> Holder {
        match line.look().expect("looks") {
            SlotLook::HeldBy(holder) => holder,
            other => panic!("not held: {other:?}"),
        }
    }

    #[test]
    fn who_waits_sees_for_which_chain_the_slot_is_held_and_a_stranger_for_anything_unreadable() {
        let dir = dir();
        let mut theirs = SlotLine::enter_at(dir.path(), THEIRS);
        let guard = granted(&mut theirs).expect("nobody has it");
        let mut ours = SlotLine::enter_at(dir.path(), OURS);
        let pid = std::process::id();
        let seen = holder(&mut ours);
        assert_eq!(seen, Holder::Known { chain: THEIRS, pid });
        assert!(!seen.is_of(OURS) && seen.is_of(THEIRS));
        let words = fs::read_to_string(dir.path().join(HOLDER_FILE)).expect("reads");
        for bad in ["", "x", &words[..60], &words.replace(' ', ""), "00 1\n"] {
            fs::write(dir.path().join(HOLDER_FILE), bad).expect("writes");
            assert_eq!(holder(&mut ours), Holder::Unknown, "{bad:?}");
            assert!(!Holder::Unknown.is_of(OURS));
        }
        fs::write(dir.path().join(HOLDER_FILE), [0xff; 80]).expect("writes");
        assert_eq!(holder(&mut ours), Holder::Unknown);
        fs::remove_file(dir.path().join(HOLDER_FILE)).expect("removes");
        assert_eq!(holder(&mut ours), Holder::Unknown);
        // The next holder writes its own words over whatever stands there.
        drop(guard);
        let _guard = granted(&mut ours).expect("free again");
        let mut third = SlotLine::enter_at(dir.path(), THEIRS);
        assert!(holder(&mut third).is_of(OURS));
    }

    #[test]
    fn the_slot_goes_to_who_came_first_and_a_place_that_was_left_holds_up_nobody() {
        let dir = dir();
        let mut first = SlotLine::enter_at(dir.path(), OURS);
        let guard = granted(&mut first).expect("nobody has it");
        let mut second = SlotLine::enter_at(dir.path(), OURS);
        let left = SlotLine::enter_at(dir.path(), OURS);
        let mut last = SlotLine::enter_at(dir.path(), THEIRS);
        // The file of a process that was killed while it waited: there, and not locked.
        let killed = dir.path().join(LINE_DIR).join(format!("{:061}", 0));
        fs::write(&killed, b"").expect("writes");
        drop(guard);
        assert!(granted(&mut last).is_none(), "it came later");
        let guard = granted(&mut second).expect("its turn");
        drop(left);
        drop(guard);
        assert!(granted(&mut last).is_some(), "nobody is before it any more");
        assert!(!killed.exists(), "the leftover was removed");
        let line = fs::read_dir(dir.path().join(LINE_DIR)).expect("lists");
        assert_eq!(line.count(), 0, "everybody left");
    }

    #[test]
    fn one_in_front_that_never_takes_its_turn_is_passed_after_a_moment() {
        let dir = dir();
        let _asleep = SlotLine::enter_at(dir.path(), THEIRS);
        let mut line = SlotLine::enter_at(dir.path(), OURS);
        let begun = Instant::now();
        while granted(&mut line).is_none() {
            assert!(begun.elapsed() < TURN_PATIENCE * 10, "starved");
            std::thread::sleep(POLL / 10);
        }
        assert!(begun.elapsed() >= TURN_PATIENCE, "it jumped the line");
    }
}
