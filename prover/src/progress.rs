//! Progress of long work, as a value that the caller passes in.
//!
//! Every step that can take more than a second takes a `&dyn Progress`: a terminal draws bars, a service writes spans,
//! a test passes [`NoProgress`]. Calls come from several threads at once, so implementations count atomically.

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
