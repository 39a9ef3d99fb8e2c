//! Progress of long work, as a value that the caller passes in.
//!
//! Every step that can take more than a second takes a `&dyn Progress`: a terminal draws bars, a service writes spans,
//! a test passes [`NoProgress`]. Calls come from several threads at once, so implementations count atomically.
//!
//! A stage of several steps that cost differently gives each of them a [`Share`] of its units, so that units go by evenly and
//! [`time_left`] may count on it. Nothing here reads a clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Receives the progress of one piece of work: `start`, many `advance`, `finish`.
pub trait Progress: Send + Sync {
    /// A stage begins; `total` is in units of the stage's own choice and never zero for work that reports advances.
    fn start(&self, stage: &'static str, total: u64);
    /// `n` more units are done. The sum over a stage does not exceed its total.
    fn advance(&self, n: u64);
    /// The stage that was started last is complete.
    fn finish(&self);
}

/// Reports nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn start(&self, _stage: &'static str, _total: u64) {}
    fn advance(&self, _n: u64) {}
    fn finish(&self) {}
}

/// So many units of a stage, for a step that counts in units of its own: its progress from start to finish becomes these, never
/// more of them. The stage keeps its name.
pub struct Share<'a> {
    stage: &'a dyn Progress,
    units: u64,
    /// Units of the step: how many there are, and are done.
    total: AtomicU64,
    done: AtomicU64,
}

impl<'a> Share<'a> {
    /// `units` of the stage that `stage` has been told of, for a step that will start and finish.
    pub fn new(stage: &'a dyn Progress, units: u64) -> Self {
        let (total, done) = (AtomicU64::new(0), AtomicU64::new(0));
        Self {
            stage,
            units,
            total,
            done,
        }
    }

    /// The same for a step of so many units, which starts now.
    pub fn of(stage: &'a dyn Progress, units: u64, total: u64) -> Self {
        let share = Self::new(stage, units);
        share.total.store(total, Ordering::Relaxed);
        share
    }

    /// The stage's units when so many of the step's are done: sums of what is handed on telescope to `units`.
    fn units_at(&self, done: u64, total: u64) -> u64 {
        let part = u128::from(done.min(total)) * u128::from(self.units);
        let part = part.checked_div(u128::from(total)).unwrap_or(0);
        u64::try_from(part).expect("a part of `units`")
    }

    /// Hands on what changes when `done` becomes `change(done)`, which is not less.
    fn hand_on(&self, change: impl Fn(u64) -> u64) {
        let total = self.total.load(Ordering::Relaxed);
        let relaxed = Ordering::Relaxed;
        let update = |done| Some(change(done));
        let (Ok(before) | Err(before)) = self.done.fetch_update(relaxed, relaxed, update);
        let units = self.units_at(change(before), total) - self.units_at(before, total);
        if units > 0 {
            self.stage.advance(units);
        }
    }
}

impl Progress for Share<'_> {
    /// The first start counts: a step that has to begin again is not counted twice.
    fn start(&self, _stage: &'static str, total: u64) {
        let (new, relaxed) = (total.max(1), Ordering::Relaxed);
        let _ = self.total.compare_exchange(0, new, relaxed, relaxed);
    }

    fn advance(&self, n: u64) {
        self.hand_on(|done| done.saturating_add(n));
    }

    /// All units are done, also those that the step did not report.
    fn finish(&self) {
        self.start("", 1);
        self.hand_on(|_| u64::MAX);
    }
}

/// How long the rest of a stage takes when it goes on as it went: `None` while nothing is done, or where that is beyond reckoning.
pub fn time_left(done: u64, total: u64, elapsed: Duration) -> Option<Duration> {
    const NANOS: u128 = 1_000_000_000;
    let left = u128::from(total.saturating_sub(done));
    let nanos = elapsed.as_nanos().checked_mul(left)?;
    let nanos = nanos.checked_div(u128::from(done))?;
    let seconds = u64::try_from(nanos / NANOS).ok()?;
    let rest = u32::try_from(nanos % NANOS).expect("below a second");
    Some(Duration::new(seconds, rest))
}

/// Whole percent, rounded down; nothing of nothing is none.
pub fn percent(done: u64, total: u64) -> u8 {
    let hundredfold = u128::from(done.min(total)) * 100;
    let percent = hundredfold.checked_div(u128::from(total)).unwrap_or(0);
    u8::try_from(percent).expect("at most a hundred")
}

/// A listener for tests.
#[cfg(test)]
pub(crate) mod testing {
    use super::Progress;
    use std::sync::{Mutex, MutexGuard};

    /// One stage as it was told.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Heard {
        pub stage: &'static str,
        pub total: u64,
        pub done: u64,
        /// What was told at a time.
        pub steps: Vec<u64>,
        pub finished: bool,
    }

    /// Remembers what it was told.
    #[derive(Default)]
    pub(crate) struct Listener(Mutex<Vec<Heard>>);

    impl Listener {
        /// The stages so far, forgotten here.
        pub fn take(&self) -> Vec<Heard> {
            std::mem::take(&mut *self.heard())
        }

        /// Takes the stages, all of which must be whole, and gives their names.
        pub fn take_whole(&self) -> Vec<&'static str> {
            let whole = |heard: Heard| {
                let is_whole = heard.finished && heard.total > 0 && heard.done == heard.total;
                assert!(is_whole, "{heard:?}");
                heard.stage
            };
            self.take().into_iter().map(whole).collect()
        }

        fn heard(&self) -> MutexGuard<'_, Vec<Heard>> {
            self.0.lock().expect("no test panics with it")
        }
    }

    impl Progress for Listener {
        fn start(&self, stage: &'static str, total: u64) {
            self.heard().push(Heard {
                stage,
                total,
                ..Heard::default()
            });
        }
        fn advance(&self, n: u64) {
            let mut heard = self.heard();
            let now = heard.last_mut().expect("a stage was started");
            now.done += n;
            now.steps.push(n);
            assert!(now.done <= now.total && !now.finished, "{now:?}");
        }
        fn finish(&self) {
            let mut heard = self.heard();
            heard.last_mut().expect("a stage was started").finished = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Listener;
    use super::*;

    /// Units that a stage of so many was told of.
    fn told(total: u64, of: impl FnOnce(&Listener)) -> u64 {
        let listener = Listener::default();
        listener.start("stage", total);
        of(&listener);
        let heard = listener.take();
        assert!(heard.len() == 1 && !heard[0].finished, "{heard:?}");
        heard[0].done
    }

    #[test]
    fn the_rest_takes_as_long_as_what_is_done_took() {
        let seconds = Duration::from_secs;
        assert_eq!(time_left(0, 10, seconds(5)), None, "nothing to go by");
        assert_eq!(time_left(1, 4, seconds(5)), Some(seconds(15)));
        assert_eq!(time_left(3, 4, seconds(6)), Some(seconds(2)));
        assert_eq!(time_left(4, 4, seconds(6)), Some(seconds(0)));
        assert_eq!(time_left(5, 4, seconds(6)), Some(seconds(0)));
        let third = Duration::from_nanos(333_333_333);
        assert_eq!(time_left(3, 4, seconds(1)), Some(third));
        // A month in, one in a million done; and what no clock will ever show.
        let month = seconds(30 * 86_400);
        assert_eq!(time_left(1, 1_000_001, month), Some(month * 1_000_000));
        assert_eq!(time_left(1, u64::MAX, Duration::MAX), None);
    }

    #[test]
    fn percent_are_whole_and_at_most_a_hundred() {
        let cases = [(0, 0, 0), (2, 3, 66), (3, 3, 100), (4, 3, 100)];
        for (done, total, expected) in cases {
            assert_eq!(percent(done, total), expected, "{done} of {total}");
        }
        assert_eq!(percent(u64::MAX - 1, u64::MAX), 99);
    }

    #[test]
    fn a_share_hands_on_its_units_whatever_the_step_counts_in() {
        for (units, total, steps, due) in [
            (100, 7, &[1, 1, 1][..], 42),
            (3, 1_000_000, &[250_000, 250_000], 1),
            (u64::MAX, u64::MAX, &[u64::MAX / 2; 2], u64::MAX - 1),
            (100, 7, &[], 0),
            (100, 7, &[5, 5, 5], 100),
            (0, 7, &[7], 0),
        ] {
            let step = |progress: &Listener, finish: bool| {
                let share = Share::new(progress, units);
                share.start("step", total);
                steps.iter().for_each(|step| share.advance(*step));
                // Twice is not twice as much.
                (0..2).filter(|_| finish).for_each(|_| share.finish());
            };
            assert_eq!(told(units, |progress| step(progress, false)), due);
            assert_eq!(told(units, |progress| step(progress, true)), units);
        }
    }

    #[test]
    fn a_step_that_begins_again_is_not_counted_twice() {
        let twice = |progress: &Listener| {
            let share = Share::of(progress, 10, 4);
            for _ in 0..2 {
                share.start("again", 4);
                (0..3).for_each(|_| share.advance(1));
            }
        };
        assert_eq!(told(10, twice), 10);
    }

    #[test]
    fn shares_of_shares_add_up() {
        // Without a start it is done when it is finished; only whole units are handed on.
        let half = |progress: &Listener| {
            let whole = Share::of(progress, 100, 5);
            Share::new(&whole, 2).finish();
            let second = Share::new(&whole, 3);
            second.start("step", 1000);
            (0..500).for_each(|_| second.advance(1));
        };
        assert_eq!(told(100, half), 60);
    }
}
