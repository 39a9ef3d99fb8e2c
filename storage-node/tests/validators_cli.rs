//! Four operators found a network, join it and run it with the real binary, as `deploy/README.md` tells; one is killed and
//! comes back, a follower joins, money moves. Built with feature `bft` only: `cargo test -p storage-node --features bft --test validators_cli`.
//!
//! Every wait is for a condition and ends the test when it does not come.
#![cfg(feature = "bft")]

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(240);
const LOOK: Duration = Duration::from_millis(100);

fn holdfast(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.arg("--home").arg(home);
    command
}

fn run(home: &Path, words: &[&str]) -> Output {
    holdfast(home).args(words).output().expect("starts")
}

fn said(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

#[track_caller]
fn refused(home: &Path, words: &[&str], says: &str) {
    let output = run(home, words);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{errors}");
    assert!(
        errors.contains(says) && errors.contains("hint: "),
        "{errors}"
    );
}

/// An answer of the node that runs in this home, or `None`.
fn ask(home: &Path, words: &[&str]) -> Option<Value> {
    let output = holdfast(home)
        .arg("--json")
        .args(words)
        .output()
        .expect("starts");
    let done = output.status.success();
    done.then(|| serde_json::from_slice(&output.stdout).expect("one JSON value"))
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

struct Node {
    home: PathBuf,
    child: Option<Child>,
    stdin: Option<ChildStdin>,
}

impl Node {
    fn start(home: &Path) -> Self {
        drop(std::fs::remove_file(home.join("chain.url")));
        let log = || {
            let open = File::options()
                .create(true)
                .append(true)
                .open(home.join("run.log"));
            open.expect("a log")
        };
        let mut child = holdfast(home)
            .args([
                "-v",
                "chain",
                "run",
                "--rpc",
                "127.0.0.1:0",
                "--stop-with-stdin",
            ])
            .stdin(Stdio::piped())
            .stdout(log())
            .stderr(log())
            .spawn()
            .expect("starts");
        Self {
            home: home.to_owned(),
            stdin: child.stdin.take(),
            child: Some(child),
        }
    }

    fn height(&self) -> u64 {
        let status = ask(&self.home, &["chain", "status"]);
        let running = status.filter(|s| s["running"] == true);
        running.and_then(|s| s["height"].as_u64()).unwrap_or(0)
    }

    fn reaches(&self, height: u64) {
        let what = format!("{} at block {height}", self.home.display());
        wait(&what, || (self.height() >= height).then_some(()));
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("is ours");
            child.wait().expect("is ours");
        }
    }

    /// As an operator does: it ends by itself, and well.
    fn stop(mut self) {
        drop(self.stdin.take());
        let mut child = self.child.take().expect("runs");
        assert!(child.wait().expect("is ours").success());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn four_operators_found_join_and_run_a_chain_and_one_is_killed_and_rejoins() {
    let folder = tempfile::tempdir().expect("a folder");
    let home = |n: usize| folder.path().join(format!("home-{n}"));
    let free: Vec<TcpListener> = (0..4)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"))
        .collect();
    let mut cards = String::new();
    for (n, listener) in free.iter().enumerate() {
        let port = listener.local_addr().expect("bound").port();
        let listen = format!("/ip4/127.0.0.1/tcp/{port}");
        cards.push_str(&said(&run(
            &home(n),
            &["chain", "card", "--listen", &listen],
        )));
    }
    drop(free);
    refused(
        &home(0),
        &["chain", "card", "--listen", "somewhere"],
        "no address",
    );
    refused(&home(0), &["chain", "run"], "joined no network");
    let (file, net) = (folder.path().join("cards"), folder.path().join("net"));
    std::fs::write(&file, cards).expect("writes");
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    let words = [
        "chain",
        "init",
        "--validators",
        &text(&file),
        "--out",
        &text(&net),
    ];
    said(&run(
        &home(0),
        &[&words[..], &["--epoch-ms", "100", "--sector-size", "2KiB"]].concat(),
    ));
    let (network, beacon) = (
        text(&net.join("network.json")),
        text(&net.join("beacon.key")),
    );
    refused(&home(1), &["chain", "join", &network], "beacon key");
    let other = text(&home(2).join("validator.key"));
    refused(
        &home(1),
        &["chain", "join", &network, "--beacon-key", &other],
        "not this network's",
    );
    for n in 0..4 {
        let told = said(&run(
            &home(n),
            &["chain", "join", &network, "--beacon-key", &beacon],
        ));
        assert!(told.contains("as validator"), "{told}");
    }
    let mut nodes: Vec<Node> = (0..4).map(|n| Node::start(&home(n))).collect();
    nodes.iter().for_each(|node| node.reaches(5));
    let set = ask(&home(3), &["chain", "validators"]).expect("answers");
    assert_eq!(set.as_array().map(Vec::len), Some(4));

    // The founder's money, sent through its own node, is seen by another.
    said(&run(&home(1), &["wallet", "new"]));
    let to = said(&run(&home(1), &["wallet", "address"]));
    wait("a transfer", || {
        let sent = run(&home(0), &["wallet", "transfer", to.trim(), "7"]);
        sent.status.success().then_some(())
    });
    wait("money at another node", || {
        let balance = ask(&home(1), &["wallet", "balance"])?;
        balance.to_string().contains('7').then_some(())
    });

    nodes[3].kill();
    let tip = nodes[0].height();
    nodes[0].reaches(tip + 10);
    nodes[3] = Node::start(&home(3));
    let now = nodes[0].height();
    nodes[3].reaches(now + 5);

    let follower = folder.path().join("follower");
    let told = said(&run(&follower, &["chain", "join", &network]));
    assert!(told.contains("as a follower"), "{told}");
    let follower = Node::start(&follower);
    let now = nodes[0].height();
    follower.reaches(now + 5);
    follower.stop();
    nodes.into_iter().for_each(Node::stop);
}
