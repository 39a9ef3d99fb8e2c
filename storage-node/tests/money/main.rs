//! Commands that move money, with the real binary: payments and disputes. Both wait for blocks more than they compute, so they
//! are one binary and wait side by side.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

mod disputes;
mod payments;

fn holdfast(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.arg("--home").arg(home).arg("--json");
    command
}

fn run(home: &Path, words: &[&str]) -> Output {
    holdfast(home).args(words).output().expect("starts")
}

/// What a command that must succeed says.
#[track_caller]
fn read(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).expect("stdout is one JSON value")
}

#[track_caller]
fn ask(home: &Path, words: &[&str]) -> Value {
    read(&run(home, words))
}
