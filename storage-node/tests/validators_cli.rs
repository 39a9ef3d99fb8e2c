//! Four operators found a network, join it and run it with the real binary, as `deploy/README.md` tells; one is killed and
//! comes back, one follower joins by blocks and another by a snapshot, money moves. Built with feature `bft` only: `cargo test -p storage-node --features bft --test validators_cli`.
//!
//! Every wait is for a condition and ends the test when it does not come.
#![cfg(feature = "bft")]

// What `deploy/` tells operators to type is mostly of this build.
#[path = "deploy.rs"]
mod deploy;

use std::fs::File;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

use chain_lite::account::ProviderId;
use serde_json::Value;
use storage_node::chain::ChainClient;

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
        let words = ["-v", "chain", "run", "--rpc", "127.0.0.1:0"];
        Self::spawn(home, &[&words[..], &["--snapshot-every", "10"]].concat())
    }

    /// A command that ends when its standard input does.
    fn spawn(home: &Path, words: &[&str]) -> Self {
        let log = || {
            let open = File::options()
                .create(true)
                .append(true)
                .open(home.join("run.log"));
            open.expect("a log")
        };
        let mut child = holdfast(home)
            .args(words)
            .arg("--stop-with-stdin")
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

    /// What each run of it has said of its way to being live: seconds, and the block; when the last one has.
    fn lives(&self, runs: usize) -> Vec<(f64, u64)> {
        let words = |line: &str| -> Option<(f64, u64)> {
            let (seconds, rest) = line
                .strip_prefix("live after ")?
                .split_once(" s, at block ")?;
            let (height, _) = rest.split_once(';')?;
            Some((seconds.parse().ok()?, height.parse().ok()?))
        };
        wait("a node that is live", || {
            let log = std::fs::read_to_string(self.home.join("run.log")).ok()?;
            let told: Vec<_> = log.lines().filter_map(words).collect();
            (told.len() >= runs).then_some(told)
        })
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

/// Cards of these homes, each at free ports.
fn cards_of(homes: &[PathBuf]) -> String {
    let consensus = || TcpListener::bind("127.0.0.1:0").expect("a port");
    // Transactions travel over UDP.
    let gossip = || UdpSocket::bind("127.0.0.1:0").expect("a port");
    // Held together, so that they differ.
    let free: Vec<_> = homes.iter().map(|_| (consensus(), gossip())).collect();
    let card = |(home, (tcp, udp)): (&PathBuf, &(TcpListener, UdpSocket))| {
        let port = tcp.local_addr().expect("bound").port();
        let listen = format!("/ip4/127.0.0.1/tcp/{port}");
        let gossip = udp.local_addr().expect("bound").to_string();
        let words = ["chain", "card", "--listen", &listen, "--gossip", &gossip];
        said(&run(home, &words))
    };
    homes.iter().zip(&free).map(card).collect()
}

/// The bodies of the fuzz targets, on a sound network file, its cards, and damaged copies of both.
fn fuzz_with(network: &[u8]) {
    let value: Value = serde_json::from_slice(network).expect("just written");
    let card = serde_json::to_vec(&value["validators"][0]).expect("a value");
    let all = |bytes: &[u8]| {
        storage_node::fuzz::fuzz_network(bytes);
        storage_node::fuzz::fuzz_card(bytes);
    };
    all(network);
    // Everywhere in a card, and at a hundred places of the file, which is mostly keys.
    for (sound, step) in [(&card[..], 1), (network, network.len() / 100 + 1)] {
        for at in (0..sound.len()).step_by(step) {
            for with in *b"0\"/" {
                let mut bent = sound.to_vec();
                bent[at] = with;
                all(&bent);
            }
            all(&sound[..at]);
        }
    }
}

#[test]
fn four_operators_found_join_and_run_a_chain_and_one_is_killed_and_rejoins() {
    let folder = tempfile::tempdir().expect("a folder");
    let home = |n: usize| folder.path().join(format!("home-{n}"));
    let homes: Vec<PathBuf> = (0..4).map(home).collect();
    let cards = cards_of(&homes);
    // Without an address for transactions it is the next port; a card of an older version has none.
    let listen = ["chain", "card", "--listen", "/ip6/::1/tcp/26600"];
    let beside = ask(&home(0), &listen).expect("a card");
    assert_eq!(beside["gossip"], "[::1]:26601");
    let mut old = beside;
    old.as_object_mut().expect("fields").remove("gossip");
    let older = folder.path().join("older");
    std::fs::write(&older, old.to_string()).expect("writes");
    let words = ["chain", "init", "--sector-size", "2KiB", "--validators"];
    let older = older.to_str().expect("text");
    refused(&home(0), &[&words[..], &[older]].concat(), "older version");
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
    fuzz_with(&std::fs::read(&network).expect("a network"));
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
    let free = |n: usize| Some(ask(&home(n), &["wallet", "balance"])?["free"].to_string());
    wait("money at another node", || {
        let free = free(1)?;
        free.trim_matches('"').starts_with('7').then_some(())
    });

    nodes[3].kill();
    let tip = nodes[0].height();
    nodes[0].reaches(tip + 10);
    let without_it = nodes[0].height();
    let begun = Instant::now();
    nodes[3] = Node::start(&home(3));
    let now = nodes[0].height();
    nodes[3].reaches(now + 5);
    // Each start said when it had a block made since, and not before it had those that it missed.
    let lives = nodes[3].lives(2);
    let until = begun.elapsed().as_secs_f64();
    assert!(lives.len() == 2 && lives[1].1 > without_it, "{lives:?}");
    assert!(lives[1].0 > 0.0 && lives[1].0 <= until, "{lives:?}");

    let follower = folder.path().join("follower");
    let told = said(&run(&follower, &["chain", "join", &network]));
    assert!(told.contains("as a follower"), "{told}");
    let follower = Node::start(&follower);
    let now = nodes[0].height();
    follower.reaches(now + 5);

    // A follower never has a turn, so what it is told is in a block of another: it passed the transfer on.
    let url = std::fs::read_to_string(follower.home.join("chain.url")).expect("runs");
    let words = ["--chain", url.trim(), "wallet", "transfer", to.trim(), "5"];
    // One that was told to nobody in time is signed again, and paid once.
    wait("the follower passes it on", || {
        run(&home(0), &words).status.success().then_some(())
    });
    wait("the follower's transfer at a validator", || {
        let free = free(1)?;
        free.trim_matches('"').starts_with("12").then_some(())
    });
    follower.stop();

    // Another joins without the history, from a snapshot that a running validator made by itself.
    let snapshot = text(&folder.path().join("state.hfs"));
    let made = wait("a snapshot of a running node", || {
        ask(
            &home(0),
            &["chain", "snapshot", "export", &snapshot, "--force"],
        )
    });
    let late = folder.path().join("late");
    let (id, height) = (
        &made["chain_id"],
        made["height"].as_u64().expect("a height"),
    );
    let id = id.as_str().expect("an id");
    let checkpoint = format!("{height}:{}", made["id"].as_str().expect("an id"));
    let import = ["chain", "snapshot", "import", &snapshot, "--chain-id", id];
    said(&run(
        &late,
        &[&import[..], &["--checkpoint", &checkpoint]].concat(),
    ));
    said(&run(&late, &["chain", "join", &network]));
    let late = Node::start(&late);
    let now = nodes[0].height();
    late.reaches(now + 5);
    let paid = wait("the balance", || free(1));
    assert!(paid.trim_matches('"').starts_with("12"), "once: {paid}");
    late.stop();
    nodes.into_iter().for_each(Node::stop);
}

/// A process that does not outlive its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Ended already, or has to.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A devnet with the embedded engine, money moved on it, is changed by a transaction and goes on with four validators, the first in the folder
/// where it was.
#[test]
fn a_chain_of_one_embedded_validator_becomes_a_chain_of_four_in_its_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    let owner = folder.path().join("owner");
    let first = owner.join("devnet");
    let devnet = |log: &str| {
        let log = || File::create(folder.path().join(log)).expect("a log");
        let child = holdfast(&owner)
            .args(["devnet", "up", "--providers", "1"])
            .args(["--sector-size", "2KiB", "--epoch-ms", "100"])
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log())
            .spawn()
            .expect("starts");
        let mut child = Ended(child);
        wait("the devnet", || {
            let ended = child.0.try_wait().expect("is ours");
            assert_eq!(ended, None, "the devnet ended");
            ask(&owner, &["chain", "status"]).filter(|s| s["running"] == true)
        });
        child
    };
    let mut solo = devnet("solo.log");
    let friend = folder.path().join("friend");
    said(&run(&friend, &["wallet", "new"]));
    let to = said(&run(&friend, &["wallet", "address"]));
    said(&run(&owner, &["wallet", "transfer", to.trim(), "7"]));

    // Cards of all four; the devnet's folder is the home of its validator.
    let homes: Vec<PathBuf> = (1..4)
        .map(|n| folder.path().join(format!("home-{n}")))
        .collect();
    let homes = [vec![first.clone()], homes].concat();
    let cards = cards_of(&homes);
    let file = folder.path().join("cards");
    std::fs::write(&file, cards).expect("writes");
    let (file, net) = (text(&file), text(&folder.path().join("net")));
    said(&run(
        &owner,
        &["chain", "invite", "--validators", &file, "--out", &net],
    ));
    let key = text(&first.join("validator.key"));
    let words = ["chain", "approve", "--validators", &file, "--key", &key];
    let approval = said(&run(&owner, &words));
    // The sentence about a chain that is believed from now on stands before it.
    let approval = approval.lines().last().expect("an approval");
    let approvals = text(&folder.path().join("approvals"));
    std::fs::write(&approvals, approval).expect("writes");
    let words = ["chain", "set-validators", "--validators", &file];
    let told = said(&run(
        &owner,
        &[&words[..], &["--approvals", &approvals]].concat(),
    ));
    assert!(told.contains("4 validators decide"), "{told}");
    // The embedded engine has no quorum any more and says so.
    wait("the end of the embedded engine", || {
        solo.0.try_wait().expect("is ours")
    });
    let why = std::fs::read_to_string(folder.path().join("solo.log")).expect("a log");
    assert!(why.contains("voting power that decides"), "{why}");

    let (network, beacon) = (
        format!("{net}/network.json"),
        text(&first.join("beacon.key")),
    );
    for home in &homes {
        let told = said(&run(
            home,
            &["chain", "join", &network, "--beacon-key", &beacon],
        ));
        assert!(told.contains("as validator"), "{told}");
    }
    let mut nodes: Vec<Node> = homes.iter().map(|home| Node::start(home)).collect();
    let before = ask(&first, &["chain", "status"]).expect("answers")["height"].as_u64();
    let before = before.unwrap_or(0);
    nodes.iter().for_each(|node| node.reaches(before + 5));
    let set = ask(&homes[3], &["chain", "validators"]).expect("answers");
    assert_eq!(set.as_array().map(Vec::len), Some(4));
    // The same chain: the money is where it was, and it goes on without the validator that began it.
    nodes[0].kill();
    let now = nodes[1].height();
    nodes[1].reaches(now + 5);
    let url = std::fs::read_to_string(homes[1].join("chain.url")).expect("an address");
    let balance = ask(&friend, &["--chain", url.trim(), "wallet", "balance"]).expect("answers");
    assert!(balance["free"].to_string().contains('7'), "{balance}");
    nodes.into_iter().skip(1).for_each(Node::stop);
}

/// A network whose epochs follow its own beacon; the validator has no key and lives on a relay that the key's holder runs.
#[test]
fn a_validator_without_the_key_lives_on_a_relay() {
    let folder = tempfile::tempdir().expect("a folder");
    let (node, founder) = (folder.path().join("node"), folder.path().join("founder"));
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    let ports: Vec<TcpListener> = (0..2)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"))
        .collect();
    let port = |n: usize| ports[n].local_addr().expect("bound").port();
    let listen = format!("/ip4/127.0.0.1/tcp/{}", port(0));
    let at = format!("127.0.0.1:{}", port(1));
    let url = format!("http://{at}");
    drop(ports);
    let card = said(&run(&node, &["chain", "card", "--listen", &listen]));
    let (file, net) = (folder.path().join("cards"), folder.path().join("net"));
    std::fs::write(&file, card).expect("writes");
    let (cards, out) = (text(&file), text(&net));
    let init = [
        "chain",
        "init",
        "--validators",
        &cards,
        "--sector-size",
        "2KiB",
        "--out",
    ];
    fn joined<'a>(init: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
        [init, more].concat()
    }
    refused(
        &founder,
        &joined(
            &init,
            &[&out, "--beacon", "own-clock", "--epoch-ms", "1500"],
        ),
        "whole seconds",
    );
    refused(
        &founder,
        &joined(&init, &[&out, "--beacon", "quicknet", "--epoch-ms", "2000"]),
        "30000 ms",
    );
    refused(
        &founder,
        &joined(&init, &[&out, "--beacon", "quicknet", "--relay", "drand"]),
        "no relay's address",
    );
    said(&run(
        &founder,
        &joined(
            &init,
            &[&out, "--beacon", "own-clock", "--epoch-ms", "1000"],
        ),
    ));
    let network = text(&net.join("network.json"));
    refused(&node, &["chain", "join", &network], "--relay URL");
    let told = said(&run(&node, &["chain", "join", &network, "--relay", &url]));
    assert!(told.contains("as validator"), "{told}");
    let key = text(&net.join("beacon.key"));
    let relay = Node::spawn(
        &founder,
        &[
            "chain",
            "relay",
            "--listen",
            &at,
            "--network",
            &network,
            "--beacon-key",
            &key,
        ],
    );
    let node = Node::start(&node);
    node.reaches(3);
    // Its randomness is there: blocks carry rounds that the node could not have signed.
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    wait("a value of the beacon", || {
        let url = std::fs::read_to_string(node.home.join("chain.url")).ok()?;
        runtime.block_on(async {
            let chain = ChainClient::connect(url.trim()).await.ok()?;
            let tip = chain.network().await.ok()?.beacon_tip;
            let known = chain.randomness(1, tip, ProviderId(1_000)).await.is_ok();
            (tip.0 > 3 && known).then_some(())
        })
    });
    node.stop();
    relay.stop();

    // drand's own: no key is made, and nobody gets one.
    let public = folder.path().join("public");
    let told = said(&run(
        &founder,
        &joined(&init, &[&text(&public), "--beacon", "quicknet"]),
    ));
    assert!(told.contains("https://api.drand.sh"), "{told}");
    assert!(!public.join("beacon.key").exists());
    let file = std::fs::read_to_string(public.join("network.json")).expect("reads");
    let file: Value = serde_json::from_str(&file).expect("JSON");
    assert_eq!(file["genesis"]["clock"]["beacon"]["epoch_ms"], 30_000);
    assert_eq!(file["genesis"]["beacons"][0]["beacon_id"], "quicknet");
    let joined = run(
        &folder.path().join("public-node"),
        &["chain", "join", &text(&public.join("network.json"))],
    );
    assert!(said(&joined).contains("as a follower"));
}
