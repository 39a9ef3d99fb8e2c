//! `holdfast demo --validators 4` end to end with the real binary and real proofs on 2 KiB sectors, and what must not go wrong
//! with a devnet of several processes: a validator that dies by itself is told, and a devnet that gets no processor lets no
//! deadline pass. Built with feature `bft` only: `cargo test -p storage-node --features bft --test validators_demo`.
//!
//! Cost: four PoRep proofs and about twenty window proofs. `-k 1 -m 1` on six providers: two hold a shard, two the manifest, or
//! fewer hold both.
#![cfg(feature = "bft")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(240);
const LOOK: Duration = Duration::from_millis(100);

fn holdfast(home: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.arg("--home").arg(home).args(words);
    command
}

#[track_caller]
fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "never came: {what}");
        std::thread::sleep(LOOK);
    }
}

fn tokens(value: &Value) -> u128 {
    let text = value.as_str().expect("a decimal amount");
    text.parse().expect("a decimal amount")
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn one_of_four_is_killed_and_rejoins_a_cheat_pays_and_the_bundle_holds() {
    let home = tempfile::tempdir().expect("a temporary home");
    let words = "--json demo --validators 4 -k 1 -m 1 --sector-size 2KiB --epoch-ms 50";
    let words: Vec<&str> = words.split(' ').collect();
    let run = holdfast(home.path(), &words).output().expect("starts");
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "the demo failed:\n{said}");
    let report: Value = serde_json::from_slice(&run.stdout).expect("stdout is one JSON value");

    // Four processes, all of them at one block; one of them is another process than at first, and votes.
    let chain = &report["validators"];
    let nodes = chain["nodes"].as_array().expect("a list");
    let pids: BTreeSet<u64> = nodes.iter().map(|node| number(&node["pid"])).collect();
    assert_eq!((nodes.len(), pids.len()), (4, 4));
    for node in nodes {
        assert!(
            number(&node["height"]) >= number(&chain["height"]),
            "{node}"
        );
    }
    let killed = &chain["killed"];
    assert!(
        pids.contains(&number(&killed["pid"])) && !pids.contains(&number(&killed["killed_pid"]))
    );
    let heights = [
        "killed_height",
        "without_it_height",
        "rejoined_height",
        "voted_height",
    ];
    let [died, without, rejoined, voted] = heights.map(|name| number(&killed[name]));
    assert!(
        without >= died + 8 && rejoined >= without && voted > rejoined,
        "{killed}"
    );
    assert!(number(&chain["height"]) > voted);

    // Six providers. The damaged one was found and charged, and slowness was nobody's fault.
    let providers = report["providers"].as_array().expect("a list");
    assert_eq!(providers.len(), 6);
    let fault = &report["fault"];
    assert!(tokens(&fault["charged"]) > 0);
    for provider in providers {
        let guilty = provider["id"] == fault["provider"];
        assert_eq!(
            tokens(&provider["charged"]) > 0,
            guilty,
            "{provider}\n{said}"
        );
    }
    let sectors = report["sectors"].as_array().expect("a list").len();
    assert!((2..=4).contains(&sectors), "{sectors} sectors");
    assert_eq!(report["restored_equal"], true);

    // The auditor's two ways: the object's file alone, and the whole chain again.
    let bundle = &report["bundle"];
    let checks = bundle["checks"].as_array().expect("a list");
    let what: Vec<&str> = checks.iter().filter_map(|c| c["what"].as_str()).collect();
    let wanted = "file chain blocks state beacon porep window_post samples deals commitments placement readable";
    assert_eq!(what, wanted.split(' ').collect::<Vec<_>>(), "{bundle}");
    assert_eq!(
        bundle["refused"].as_array().map(Vec::len),
        Some(2),
        "{bundle}"
    );
    let audit = &report["audit"];
    assert!(number(&audit["blocks"]) >= number(&chain["height"]));
    assert!(number(&audit["proofs_verified"]) >= sectors as u64 + number(&report["window_posts"]));
    assert_eq!(audit["supply_ok"], true);

    // Nothing stays: no folder, no process.
    let left: Vec<_> = std::fs::read_dir(home.path()).expect("the home").collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    if cfg!(target_os = "linux") {
        let alive = |pid: &u64| Path::new(&format!("/proc/{pid}")).exists();
        assert!(!pids.iter().any(alive), "a validator outlived its demo");
    }
}

/// A command that is killed when the test ends, however it ends; its validators then end by themselves.
struct Running(Child);

impl Running {
    fn start(home: &Path, words: &str) -> Self {
        let words: Vec<&str> = words.split(' ').collect();
        let mut command = holdfast(home, &words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().expect("starts"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended; what is stopped dies of this too.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Sends a signal, by its name, to one process.
fn signal(name: &str, pid: u64) {
    let mut kill = Command::new("kill");
    kill.arg(name).arg(pid.to_string());
    assert!(kill.status().expect("kill").success(), "kill {name} {pid}");
}

/// What the devnet in this folder wrote of who runs where, once it serves.
fn endpoints(devnet: &Path) -> Value {
    wait("endpoints", || {
        let text = std::fs::read(devnet.join("endpoints.json")).ok()?;
        serde_json::from_slice(&text).ok()
    })
}

/// The newest block of the node at this address.
fn height(home: &Path, url: &Value) -> Option<u64> {
    let url = url.as_str().expect("an address");
    let words = ["--json", "--chain", url, "chain", "status"];
    let output = holdfast(home, &words).output().expect("starts");
    let status: Value = serde_json::from_slice(&output.stdout).ok()?;
    status["height"].as_u64()
}

#[test]
fn a_validator_that_dies_by_itself_ends_the_demo_and_is_named() {
    let home = tempfile::tempdir().expect("a temporary home");
    let words = "demo --validators 4 -k 1 -m 1 --sector-size 2KiB --epoch-ms 100";
    let mut demo = Running::start(home.path(), words);
    let folder = home.path().join(format!("demo-{}", demo.0.id()));
    // While the demo asks each of them for the first block, it might miss the answer before it misses the process.
    let mut story = BufReader::new(demo.0.stdout.take().expect("piped"));
    let mut said = String::new();
    while !said.contains("same first block") {
        let read = story.read_line(&mut said).expect("text");
        assert!(read > 0, "it ended: {said}");
    }
    // The second one: the story kills the last.
    let fellow = endpoints(&folder.join("devnet"))["fellows"][0].clone();
    signal("-KILL", number(&fellow["pid"]));
    let mut said = String::new();
    let errors = demo.0.stderr.as_mut().expect("piped");
    errors.read_to_string(&mut said).expect("text");
    assert_eq!(demo.0.wait().expect("is ours").code(), Some(6), "{said}");
    for part in [
        "validator 2 (process ",
        "ended by itself",
        "node.log",
        "hint: ",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
}

#[test]
fn the_chain_stands_while_the_process_of_its_providers_gets_no_processor() {
    let home = tempfile::tempdir().expect("a temporary home");
    let words = "devnet up --validators 4 --providers 1 --sector-size 2KiB --epoch-ms 50";
    let devnet = Running::start(home.path(), words);
    let pid = u64::from(devnet.0.id());
    let told = endpoints(&home.path().join("devnet"));
    assert_eq!(number(&told["pid"]), pid);
    let fellow = &told["fellows"][1]["chain_url"];
    let at = |least: u64| {
        wait("blocks", || {
            height(home.path(), fellow).filter(|h| *h >= least)
        })
    };
    let before = at(20);

    signal("-STOP", pid);
    let before = at(before);
    // Three of four can decide without the stopped one, in at most a proposer's patience a block: they would be seen to go on.
    let (mut seen, mut same) = (before, 0);
    wait("a chain that stands", || {
        let now = height(home.path(), fellow).expect("it answers");
        same = if now == seen { same + 1 } else { 0 };
        seen = now;
        (same >= 60).then_some(())
    });
    assert!(seen < before + 120, "it went on for a deadline's length");
    signal("-CONT", pid);
    at(seen + 20);
}

#[test]
fn too_few_validators_to_lose_one_are_refused() {
    let home = tempfile::tempdir().expect("a temporary home");
    for count in ["0", "2", "3", "17"] {
        let words = ["demo", "--validators", count];
        let output = holdfast(home.path(), &words).output().expect("starts");
        assert_eq!(output.status.code(), Some(2), "{count}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("hint: "));
    }
}
