//! The prover's progress as bars of the command line.

use std::sync::{Mutex, PoisonError};

use prover::Progress;

use crate::cli::output::{Bar, Output, Unit};

/// Draws each stage as one bar.
#[derive(Debug)]
pub struct BarProgress<'a> {
    out: &'a Output,
    bar: Mutex<Option<Bar>>,
}

impl<'a> BarProgress<'a> {
    /// Bars on this output.
    pub fn new(out: &'a Output) -> Self {
        Self {
            out,
            bar: Mutex::new(None),
        }
    }

    fn bar(&self) -> std::sync::MutexGuard<'_, Option<Bar>> {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for BarProgress<'_> {
    fn start(&self, stage: &'static str, total: u64) {
        *self.bar() = Some(self.out.bar(stage, total, Unit::Items));
    }

    fn advance(&self, n: u64) {
        if let Some(bar) = self.bar().as_ref() {
            bar.advance(n);
        }
    }

    fn finish(&self) {
        if let Some(bar) = self.bar().take() {
            bar.finish();
        }
    }
}
