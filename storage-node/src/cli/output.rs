//! What a command writes: its result, plain sentences, progress, and its error.
//!
//! | | human | `--json` |
//! |---|---|---|
//! | result | stdout | stdout, one JSON value |
//! | sentences | stdout | stderr |
//! | bars, plain progress lines | stderr | stderr |
//! | error | stderr | stderr, and `{"error": …}` on stdout |
//!
//! On a terminal, progress is drawn with `indicatif`; elsewhere a bar prints a line when it ends and at most one every
//! [`PLAIN_LINE_EVERY`] before. Both say how long the rest takes ([`time_left`]). A reader that closes stdout early ends the command quietly.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write, stderr, stdout};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use prover::progress::{percent, time_left};
use serde::Serialize;

use super::{Class, CliError};

/// How often a bar speaks when stderr is not a terminal.
const PLAIN_LINE_EVERY: Duration = Duration::from_secs(30);

/// Where a command writes. Clones draw on the same terminal.
#[derive(Clone, Debug)]
pub struct Output {
    json: bool,
    quiet: bool,
    bars: Option<MultiProgress>,
}

/// What a bar counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, shown with binary prefixes and a rate.
    Bytes,
    /// Anything countable.
    Items,
    /// Units that mean nothing to people: shown as a percentage.
    Share,
}

impl Output {
    /// An output for this process: bars only where stderr is a terminal.
    pub fn new(json: bool, quiet: bool) -> Self {
        let draw = !quiet && stderr().is_terminal();
        let bars =
            draw.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)));
        Self { json, quiet, bars }
    }

    /// Whether the result is wanted as JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints one sentence for people. Nothing with `--quiet`.
    pub fn say(&self, line: impl Display) {
        if self.quiet {
            return;
        }
        self.above_bars(|| {
            // A sentence is never the result: if nobody reads it, the command still goes on.
            let _ = if self.json {
                writeln!(stderr().lock(), "{line}")
            } else {
                writeln!(stdout().lock(), "{line}")
            };
        });
    }

    /// Prints the command's result: `value` as one JSON document, or `human(value)` for people.
    pub fn result<T: Serialize>(
        &self,
        value: &T,
        human: impl FnOnce(&T) -> String,
    ) -> Result<(), CliError> {
        let text = if self.json {
            serde_json::to_string_pretty(value)
                .map_err(|error| CliError::caused(Class::Bug, "cannot write the result", &error))?
        } else {
            human(value)
        };
        if text.is_empty() {
            return Ok(());
        }
        let mut written = Ok(());
        self.above_bars(|| written = writeln!(stdout().lock(), "{}", text.trim_end_matches('\n')));
        written.map_err(|error| stdout_error(&error))
    }

    /// Prints an error and gives the exit code of its class.
    pub fn report(&self, error: &CliError) -> ExitCode {
        if error.class() != Class::BrokenPipe {
            self.above_bars(|| {
                let mut err = stderr().lock();
                let _ = writeln!(err, "error: {error}");
                if let Some(hint) = error.next_step() {
                    let _ = writeln!(err, " hint: {hint}");
                }
            });
            if self.json {
                let value = serde_json::json!({ "error": {
                    "class": error.class().name(),
                    "message": error.message(),
                    "hint": error.next_step(),
                }});
                let _ = writeln!(stdout().lock(), "{value:#}");
            }
        }
        ExitCode::from(error.class().code())
    }

    /// A bar of `total` units under `label`; it vanishes or ends with a line when [`Bar::finish`]ed or dropped.
    pub fn bar(&self, label: impl Display, total: u64, unit: Unit) -> Bar {
        let drawn = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new(total));
            bar.set_style(style(unit));
            bar.set_message(label.to_string());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Bar::new(label.to_string(), total, unit, drawn, self.quiet)
    }

    fn above_bars(&self, print: impl FnOnce()) {
        match &self.bars {
            Some(bars) => bars.suspend(print),
            None => print(),
        }
    }
}

/// One progress bar, or its plain twin.
#[derive(Debug)]
pub struct Bar {
    label: String,
    unit: Unit,
    drawn: Option<ProgressBar>,
    silent: bool,
    plain: Mutex<Plain>,
}

#[derive(Debug)]
struct Plain {
    done: u64,
    total: u64,
    started: Instant,
    last_line: Instant,
    finished: bool,
}

impl Bar {
    fn new(
        label: String,
        total: u64,
        unit: Unit,
        drawn: Option<ProgressBar>,
        silent: bool,
    ) -> Self {
        let now = Instant::now();
        let plain = Mutex::new(Plain {
            done: 0,
            total,
            started: now,
            last_line: now,
            finished: false,
        });
        Self {
            label,
            unit,
            drawn,
            silent,
            plain,
        }
    }

    /// Counts `n` more units.
    pub fn advance(&self, n: u64) {
        if let Some(bar) = &self.drawn {
            bar.inc(n);
            return;
        }
        let mut plain = self.lock();
        plain.done = plain.done.saturating_add(n);
        if plain.last_line.elapsed() >= PLAIN_LINE_EVERY {
            plain.last_line = Instant::now();
            let elapsed = plain.started.elapsed();
            self.line(&so_far(self.unit, plain.done, plain.total, elapsed));
        }
    }

    /// Changes what is being counted up to.
    pub fn set_total(&self, total: u64) {
        if let Some(bar) = &self.drawn {
            bar.set_length(total);
        }
        self.lock().total = total;
    }

    /// Ends the bar; without a terminal it leaves a line with the time it took.
    pub fn finish(&self) {
        if let Some(bar) = &self.drawn {
            bar.finish_and_clear();
            return;
        }
        let mut plain = self.lock();
        if !plain.finished {
            plain.finished = true;
            let seconds = plain.started.elapsed().as_secs_f64();
            let counted = match self.unit {
                Unit::Share => "done".to_owned(),
                unit => counted(unit, plain.done, plain.total),
            };
            self.line(&format!("{counted}, {seconds:.1} s"));
        }
    }

    fn line(&self, text: &str) {
        if !self.silent {
            let _ = writeln!(stderr().lock(), "{}: {text}", self.label);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Plain> {
        self.plain
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.drawn {
            bar.finish_and_clear();
        }
    }
}

/// The prover's progress as bars: each stage is one bar, shared by all threads that work on it.
#[derive(Debug)]
pub struct BarProgress {
    out: Output,
    bar: Mutex<Option<Bar>>,
}

impl BarProgress {
    /// Bars on this output.
    pub fn new(out: &Output) -> Self {
        Self {
            out: out.clone(),
            bar: Mutex::new(None),
        }
    }

    fn bar(&self) -> std::sync::MutexGuard<'_, Option<Bar>> {
        self.bar
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl prover::Progress for BarProgress {
    fn start(&self, stage: &'static str, total: u64) {
        *self.bar() = Some(self.out.bar(stage, total, Unit::Share));
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

/// Bytes with a binary prefix, three significant digits or so.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (name, shift) in UNITS {
        if bytes >= 1 << shift {
            // Display only: the quotient is far below 2^53, so the rounding of f64 does not show.
            return format!("{:.1} {name}", bytes as f64 / (1u64 << shift) as f64);
        }
    }
    format!("{bytes} B")
}

/// A time in its two largest units, as people say it.
pub fn human_time(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match (hours, minutes) {
        (0, 0) => format!("{seconds} s"),
        (0, _) => format!("{minutes} min {} s", seconds % 60),
        (..100, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{} days", hours / 24),
    }
}

/// How far a bar is.
fn counted(unit: Unit, done: u64, total: u64) -> String {
    match unit {
        Unit::Bytes => format!("{} of {}", human_bytes(done), human_bytes(total)),
        Unit::Items => format!("{done} of {total}"),
        Unit::Share => format!("{} %", percent(done, total)),
    }
}

/// How far a bar is after so long, and how long the rest takes where that can be told.
fn so_far(unit: Unit, done: u64, total: u64, elapsed: Duration) -> String {
    let counted = counted(unit, done, total);
    match time_left(done, total, elapsed) {
        Some(left) => format!("{counted}, {} left", human_time(left)),
        None => counted,
    }
}

fn style(unit: Unit) -> ProgressStyle {
    let template = match unit {
        Unit::Bytes => "{msg:28} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {left}",
        Unit::Items => "{msg:28} [{bar:30}] {pos}/{len} {left}",
        Unit::Share => "{msg:28} [{bar:30}] {percent:>3} % {left}",
    };
    let left = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let total = state.len().unwrap_or(0);
        if let Some(left) = time_left(state.pos(), total, state.elapsed()) {
            // A bar that cannot be drawn is no reason to stop.
            let _ = write!(out, "{} left", human_time(left));
        }
    };
    ProgressStyle::with_template(template)
        .expect("a constant template")
        .progress_chars("=> ")
        .with_key("left", left)
}

fn stdout_error(error: &io::Error) -> CliError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        CliError::new(Class::BrokenPipe, "stdout was closed")
    } else {
        CliError::new(Class::Machine, format!("cannot write to stdout: {error}"))
            .hint("check where stdout goes; a full disk is the usual cause")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_as_a_person_would_write_them() {
        assert_eq!(human_bytes(0), "0 B");
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(1 << 20), "1.0 MiB");
        assert_eq!(human_bytes(u64::MAX), "16777216.0 TiB");
    }

    #[test]
    fn progress_reads_as_a_person_would_write_it() {
        let time = |seconds| human_time(Duration::from_secs(seconds));
        assert_eq!(human_time(Duration::from_millis(1999)), "1 s");
        assert_eq!(time(59), "59 s");
        assert_eq!(time(200), "3 min 20 s");
        assert_eq!(time(3600), "1 h 0 min");
        assert_eq!(time(2 * 3600 + 5 * 60 + 59), "2 h 5 min");
        assert_eq!(time(100 * 3600), "4 days");
        assert_eq!(counted(Unit::Share, 2, 3), "66 %");
        assert_eq!(counted(Unit::Items, 2, 3), "2 of 3");
        assert_eq!(counted(Unit::Bytes, 0, 1 << 20), "0 B of 1.0 MiB");
        let minute = Duration::from_secs(60);
        assert_eq!(so_far(Unit::Share, 1, 4, minute), "25 %, 3 min 0 s left");
        assert_eq!(so_far(Unit::Items, 0, 4, minute), "0 of 4");
    }

    #[test]
    fn a_closed_pipe_ends_quietly() {
        let error = stdout_error(&io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(error.class().code(), 0);
    }
}
