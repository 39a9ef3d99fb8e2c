//! A provider's whole life as a process of its own, with the real binary, real QUIC and real proofs on 2 KiB sectors: it joins a
//! devnet, a put lands on it, it is killed in the middle of a proof and goes on, posts, declares a fault and recovers, pays
//! out, stops, starts again. The devnet's process is killed in the middle of its own provider's proof, too.
//!
//! Every wait is for a condition and ends the test when it does not come; nothing sleeps for a fixed time but between looks.
//! Cost: two PoRep proofs, each begun twice, and a dozen window proofs: about two minutes on two quiet cores.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use chain_lite::account::ProviderId;
use chain_lite::events::Event;
use chain_lite::units::Epoch;
use prover::SectorNumber;
use serde_json::Value;
use storage_node::chain::ChainClient;
use storage_node::rpc::fellows::OWNER;

/// How long one wait may take: proofs of other tests may stand before ours on this machine.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(50);

fn holdfast(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.arg("--home").arg(home).arg("--json");
    command
}

fn json(output: &Output) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).expect("stdout is one JSON value")
}

fn ask(home: &Path, words: &[&str]) -> Value {
    json(&holdfast(home).args(words).output().expect("starts"))
}

/// An answer, or `None` from a process that is not there (yet).
fn try_ask(home: &Path, words: &[&str]) -> Option<Value> {
    let output = holdfast(home).args(words).output().expect("starts");
    output
        .status
        .success()
        .then(|| serde_json::from_slice(&output.stdout).expect("stdout is one JSON value"))
}

/// Looks until it finds.
#[track_caller]
fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "never came: {what}");
        std::thread::sleep(LOOK);
    }
}

/// A running `holdfast provider run`, ended with the test whatever happens.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    fn start(home: &Path) -> Self {
        let log = home.join("run.log");
        let open = || File::options().create(true).append(true).open(&log);
        let child = holdfast(home)
            .args(["provider", "run"])
            .stdin(Stdio::null())
            .stdout(open().expect("a log"))
            .stderr(open().expect("a log"))
            .spawn()
            .expect("starts");
        let mut running = Self { child, log };
        wait("the provider serves", || {
            running.must_live();
            try_ask(home, &["provider", "status"])
        });
        running
    }

    fn must_live(&mut self) {
        if let Some(ended) = self.child.try_wait().expect("a child") {
            panic!("it ended with {ended}: {}", self.said());
        }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn stand_still(&self) -> StandsStill {
        signal("-STOP", self.child.id().into());
        StandsStill(self.child.id())
    }

    /// SIGKILL on Unix: no handler runs, no buffer is flushed.
    fn kill(&mut self) {
        self.child.kill().expect("a child");
        self.child.wait().expect("a child");
    }
}

/// A process that a signal stopped; it goes on when this is dropped.
struct StandsStill(u32);

fn signal(name: &str, process: u64) {
    let sent = Command::new("kill")
        .args([name, &process.to_string()])
        .status();
    assert!(sent.expect("kill runs").success());
}

impl Drop for StandsStill {
    fn drop(&mut self) {
        signal("-CONT", self.0.into());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A detached devnet with one provider, ended with the test whatever happens.
struct Network {
    home: PathBuf,
    pid: u64,
    url: String,
}

impl Network {
    fn up(home: &Path) -> Self {
        let words = [
            "devnet",
            "up",
            "--detach",
            "--providers",
            "1",
            "--sector-size",
            "2KiB",
            "--epoch-ms",
            "100",
        ];
        let endpoints = ask(home, &words);
        Self {
            home: home.to_owned(),
            pid: endpoints["pid"].as_u64().expect("a process"),
            url: endpoints["chain_url"].as_str().expect("a URL").to_owned(),
        }
    }

    fn kill(&self) {
        signal("-9", self.pid);
        wait("the killed devnet is gone", || {
            try_ask(&self.home, &["devnet", "status"])
                .is_none()
                .then_some(())
        });
    }

    /// Status of the provider inside.
    fn provider(&self) -> Option<Value> {
        let Some(status) = try_ask(&self.home, &["devnet", "status"]) else {
            // Busy it may be, and not dead.
            signal("-0", self.pid);
            return None;
        };
        status["providers"].get(0).cloned()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = Command::new("kill")
                .args(["-9", &self.pid.to_string()])
                .status();
        }
    }
}

/// A sector with a replica. There is one, as a rule; where the second deal was heard of late, it is in a second one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sealed {
    number: u64,
    comm_r: String,
}

/// The sector that is being proven.
fn proving(status: &Value) -> Option<Sealed> {
    let working = status["working_on"].as_str()?;
    let number = working.strip_prefix("proving sector ")?;
    (status["sealing_stage"]["stage"] == "Groth16 proof").then(|| {
        let number = number.parse().expect("a sector's number");
        let comm_r = sector(status, number)["comm_r"].as_str();
        Sealed {
            number,
            comm_r: comm_r.expect("the replica stands").to_owned(),
        }
    })
}

fn sector(status: &Value, number: u64) -> &Value {
    let all = status["sectors"].as_array().expect("a list");
    let found = all.iter().find(|s| s["number"] == number);
    found.unwrap_or_else(|| panic!("no sector {number}: {status}"))
}

/// All sectors are active, and this one has the replica that it had.
fn is_active(status: &Value, what: &Sealed) -> bool {
    let all = status["sectors"].as_array().expect("a list");
    let active = !all.is_empty() && all.iter().all(|sector| sector["state"] == "active");
    if active {
        let now = &sector(status, what.number)["comm_r"];
        assert_eq!(now, &what.comm_r, "another replica was sealed: {status}");
    }
    active
}

/// The disk fails to keep the next record of a sector, because nobody can sync `/dev/null`: the process ends and says why and what to
/// do. The next one goes on.
#[cfg(target_os = "linux")]
fn lose_a_record(own: &mut Running, home: &Path, sector: u64) {
    let name = format!("sector-{sector}.tmp");
    let record = home.join("provider/journal/sectors").join(&name);
    wait("no write is under way", || {
        std::os::unix::fs::symlink("/dev/null", &record).ok()
    });
    let ended = wait("it ends", || own.child.try_wait().expect("a child"));
    let said = own.said();
    assert_eq!(ended.code(), Some(7), "{said}");
    for word in [&name, "start the provider again", "goes on"] {
        assert!(said.contains(word), "no {word:?} in {said}");
    }
    *own = Running::start(home);
}

#[test]
fn tm_h1_tm_h5_a_provider_process_joins_seals_through_kills_posts_recovers_pays_out_and_stops() {
    let dir = tempfile::tempdir().expect("a folder");
    let (net_home, own_home) = (dir.path().join("net"), dir.path().join("own"));
    let mut net = Network::up(&net_home);
    let url = net.url.clone();

    // It joins, and has money.
    let made = ask(&own_home, &["--chain", &url, "provider", "init"]);
    assert_eq!(made["sector_size"], "2KiB");
    let mut own = Running::start(&own_home);
    let first = ask(&own_home, &["provider", "status"]);
    let id = first["provider"].as_u64().expect("an id");

    // With one provider in the devnet, a 1+1 file needs both.
    let file = dir.path().join("file");
    std::fs::write(&file, b"every byte twice, once with each of two providers").expect("writes");
    let name = file.to_str().expect("text");
    let stored = ask(&net_home, &["put", name, "-k", "1", "-m", "1"]);
    let holders = stored["providers"].as_array().expect("a list");
    assert_eq!(holders.len(), 2);
    assert!(holders.contains(&Value::from(id)), "{stored}");
    let published = stored["deals"].as_u64().expect("a count");

    // Both processes are killed in the middle of their proof, each once, and started again. Neither may get past its proof while
    // this test is busy with the other: whoever proves first stays dead, or stands still, until the other one was killed too.
    let (mut own_killed, mut net_killed) = (None, None);
    let both = wait("both were killed while they proved", || {
        if own_killed.is_none() {
            own.must_live();
            let status = ask(&own_home, &["provider", "status"]);
            if let Some(sector) = proving(&status) {
                own.kill();
                own_killed = Some(sector);
            }
        }
        if net_killed.is_none()
            && let Some(sector) = net.provider().as_ref().and_then(proving)
        {
            net.kill();
            net_killed = Some(sector);
            let _still = own_killed.is_none().then(|| own.stand_still());
            net = Network::up(&net_home);
            assert_eq!(net.url, url, "its clients still find it");
        }
        own_killed.clone().zip(net_killed.clone())
    });
    own = Running::start(&own_home);
    #[cfg(target_os = "linux")]
    lose_a_record(&mut own, &own_home, both.0.number);
    for (of_own, before) in [(false, &both.1), (true, &both.0)] {
        let status = wait("active sectors", || {
            let status = match of_own {
                true => {
                    own.must_live();
                    ask(&own_home, &["provider", "status"])
                }
                false => net.provider()?,
            };
            is_active(&status, before).then_some(status)
        });
        let sectors = status["sectors"].as_array().expect("a list");
        let numbers: Vec<_> = sectors.iter().map(|s| s["number"].as_u64()).collect();
        assert!([&[Some(0)][..], &[Some(0), Some(1)]].contains(&&numbers[..]));
        // Each deal in one of them.
        let deals: Vec<_> = sectors
            .iter()
            .flat_map(|s| s["deals"].as_array())
            .flatten()
            .collect();
        assert_eq!(
            deals.len(),
            status["deals"].as_array().map_or(0, Vec::len),
            "{status}"
        );
    }

    let runtime = tokio::runtime::Runtime::new().expect("starts");
    let chain = runtime
        .block_on(ChainClient::connect(&url))
        .expect("the chain answers");
    // One charge, and nobody was fined for being killed.
    let balance = ask(&net_home, &["wallet", "address"]);
    let client = balance["address"]
        .as_str()
        .expect("text")
        .parse()
        .expect("an address");
    let deals = runtime
        .block_on(chain.deals_by_client(&client))
        .expect("reads");
    assert_eq!(deals.len() as u64, published);
    for provider in runtime.block_on(chain.providers()).expect("reads") {
        assert!(provider.provider.fee_debt.is_zero());
    }

    // The operator declares a fault, early enough before the next window: the chain hears it, the replica is resealed, and the
    // window after that proves it again. The clock stands from the look to the command.
    let ten_minutes = Duration::from_secs(600);
    let height = wait("a window far enough away", || {
        let held = chain.hold_clock(OWNER, Epoch(0), ten_minutes);
        runtime.block_on(held).expect("an owner may");
        let status = ask(&own_home, &["provider", "status"]);
        let far = status["due"][0]["open"].as_u64() > status["epoch"].as_u64().map(|now| now + 40);
        let height = (far && is_active(&status, &both.0)).then(|| {
            let head = runtime.block_on(chain.head());
            ask(&own_home, &["provider", "declare-fault", "0"]);
            head.expect("reads").height
        });
        let released = runtime.block_on(chain.release_clock(OWNER));
        released.expect("the chain answers");
        height
    });
    let (mine, zero) = (ProviderId(id), SectorNumber(0));
    for step in ["faulted", "recovery declared", "recovered"] {
        let found = async {
            chain
                .wait_event(height, |record| match &record.event {
                    Event::SectorFaulted {
                        provider, sector, ..
                    } => step == "faulted" && (*provider, *sector) == (mine, zero),
                    Event::RecoveryDeclared { provider, sector } => {
                        step == "recovery declared" && (*provider, *sector) == (mine, zero)
                    }
                    Event::SectorRecovered { provider, sector } => {
                        step == "recovered" && (*provider, *sector) == (mine, zero)
                    }
                    _ => false,
                })
                .await
        };
        let found = runtime.block_on(async { tokio::time::timeout(PATIENCE, found).await });
        assert!(matches!(found, Ok(Some(_))), "never {step}: {}", own.said());
    }
    let refused = holdfast(&own_home)
        .args(["provider", "declare-fault", "7"])
        .output();
    assert_eq!(
        refused.expect("starts").status.code(),
        Some(4),
        "no such sector"
    );

    // Money in and out, by the owner.
    let free = || {
        let balance = ask(&own_home, &["wallet", "balance"]);
        let free = balance["free"].as_str().expect("a decimal").to_owned();
        free.parse::<u128>().expect("a decimal")
    };
    let before = free();
    let out = ask(&own_home, &["provider", "withdraw", "2"]);
    assert_eq!(out["provider"].as_u64(), Some(id));
    let token = 1_000_000_000_000_000_000u128;
    assert_eq!(free(), before + 2 * token);
    ask(&own_home, &["provider", "deposit", "1"]);
    ask(&own_home, &["provider", "deposit", "1", "--escrow"]);
    assert_eq!(free(), before);

    // It stops in order, is gone, and goes on from its home.
    ask(&own_home, &["provider", "stop"]);
    assert!(
        own.child.wait().expect("a child").success(),
        "{}",
        own.said()
    );
    let none = holdfast(&own_home)
        .args(["provider", "status"])
        .output()
        .expect("starts");
    assert_eq!(none.status.code(), Some(3));
    own = Running::start(&own_home);
    let again = wait("it sees its sectors again", || {
        let status = ask(&own_home, &["provider", "status"]);
        is_active(&status, &both.0).then_some(status)
    });
    assert_eq!(again["provider"].as_u64(), Some(id));
    let twice = holdfast(&own_home)
        .args(["provider", "run"])
        .output()
        .expect("starts");
    assert_eq!(twice.status.code(), Some(3), "a second process in one home");
    ask(&own_home, &["provider", "stop"]);
    assert!(
        own.child.wait().expect("a child").success(),
        "{}",
        own.said()
    );

    // What is wrong with a home, a key or a port is said before anything is served, with the next step.
    let refused = |code: i32, says: [&str; 2]| {
        let output = holdfast(&own_home)
            .args(["provider", "run"])
            .output()
            .expect("starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(
            says.iter().all(|word| said.contains(word)),
            "no {says:?} in {said}"
        );
    };
    let folder = own_home.join("provider");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let key = folder.join("worker.key");
        let mode = |bits| std::fs::set_permissions(&key, std::fs::Permissions::from_mode(bits));
        mode(0o644).expect("an own file");
        refused(3, ["worker.key", "chmod"]);
        mode(0o600).expect("an own file");
    }
    let chain_id = std::fs::read_to_string(folder.join("chain.id")).expect("reads");
    std::fs::write(folder.join("chain.id"), "ab".repeat(32)).expect("writes");
    refused(3, ["belongs to chain abab", "another --home"]);
    std::fs::write(folder.join("chain.id"), chain_id).expect("writes");
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let listen = taken.local_addr().expect("bound").to_string();
    ask(
        &own_home,
        &["--chain", &url, "provider", "init", "--listen", &listen],
    );
    refused(7, [&listen, "change `listen` in provider.json"]);

    ask(&net_home, &["devnet", "down"]);
    assert!(try_ask(&net_home, &["devnet", "status"]).is_none());
}
