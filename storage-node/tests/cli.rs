//! The real binary on bad input: every command of the client names what is wrong, says what to do next, and ends with the exit
//! code of its class. No network is needed: these are the errors that must not depend on one.

use std::path::Path;

use assert_cmd::Command;

/// `holdfast` with a home of its own and nothing of the caller's environment.
fn holdfast(home: &Path) -> Command {
    let mut command = Command::cargo_bin("holdfast").expect("the binary is built with its tests");
    command
        .env_clear()
        .env("HOLDFAST_PARAMS", home.join("params"))
        .arg("--home")
        .arg(home);
    command
}

/// What a run left behind.
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

fn run(command: &mut Command) -> Run {
    let output = command.output().expect("the binary starts");
    Run {
        code: output.status.code().expect("it was not killed by a signal"),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

fn home() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn with_wallet() -> tempfile::TempDir {
    let home = home();
    assert_eq!(run(holdfast(home.path()).args(["wallet", "new"])).code, 0);
    home
}

#[track_caller]
fn refused(outcome: &Run, code: i32, says: &str) {
    assert_eq!(outcome.code, code, "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains(says),
        "no {says:?} in: {}",
        outcome.stderr
    );
    assert!(
        outcome.stderr.contains("hint: "),
        "no hint in: {}",
        outcome.stderr
    );
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
}

#[test]
fn a_wallet_is_made_once_and_its_address_is_printed() {
    let home = home();
    let made = run(holdfast(home.path()).args(["wallet", "new"]));
    assert_eq!(made.code, 0, "{}", made.stderr);
    let address = run(holdfast(home.path()).args(["wallet", "address"])).stdout;
    assert!(address.starts_with("hf1") && made.stdout.contains(address.trim()));
    refused(
        &run(holdfast(home.path()).args(["wallet", "new"])),
        3,
        "already a key",
    );
    let again = run(holdfast(home.path()).args(["wallet", "address"])).stdout;
    assert_eq!(again, address);
}

#[test]
fn home_is_accepted_on_either_side_and_from_the_environment() {
    let home = with_wallet();
    let expected = run(holdfast(home.path()).args(["wallet", "address"])).stdout;
    let after = run(Command::cargo_bin("holdfast")
        .expect("built")
        .env_clear()
        .args(["wallet", "address", "--home"])
        .arg(home.path()));
    let variable = run(Command::cargo_bin("holdfast")
        .expect("built")
        .env_clear()
        .env("HOLDFAST_HOME", home.path())
        .args(["wallet", "address"]));
    assert_eq!(after.stdout, expected);
    assert_eq!(variable.stdout, expected);
}

#[test]
fn with_json_stdout_is_one_json_value_for_results_and_errors() {
    let home = with_wallet();
    let good = run(holdfast(home.path()).args(["wallet", "address", "--json"]));
    let value: serde_json::Value = serde_json::from_str(&good.stdout).expect("JSON alone");
    assert!(
        value["address"]
            .as_str()
            .is_some_and(|text| text.starts_with("hf1"))
    );
    let bad = run(holdfast(home.path()).args(["get", "abcd", "--json"]));
    let value: serde_json::Value = serde_json::from_str(&bad.stdout).expect("JSON alone");
    assert_eq!(value["error"]["class"], "input");
    assert!(value["error"]["hint"].is_string());
    assert_eq!(bad.code, 3);
}

#[test]
fn every_command_without_a_wallet_says_how_to_make_one() {
    let home = home();
    let file = home.path().join("file");
    std::fs::write(&file, b"x").expect("writes");
    let file = file.to_str().expect("text");
    for line in [
        vec!["put", file],
        vec!["get", "abcd"],
        vec!["ls"],
        vec!["status", "abcd"],
        vec!["wallet", "address"],
        vec!["wallet", "balance"],
        vec!["channel", "settle", "1"],
        vec!["datacap", "show"],
        vec!["dispute", "watch"],
    ] {
        refused(
            &run(holdfast(home.path()).args(&line)),
            3,
            "there is no key",
        );
    }
}

#[test]
fn every_command_without_a_chain_says_how_to_start_one() {
    let home = with_wallet();
    let file = home.path().join("file");
    std::fs::write(&file, b"x").expect("writes");
    let file = file.to_str().expect("text");
    for line in [
        vec!["put", file],
        vec!["get", "abcd"],
        vec!["ls"],
        vec!["status", "abcd"],
        vec!["wallet", "balance"],
        vec!["channel", "show", "1"],
        vec!["datacap", "show"],
        vec!["dispute", "check", "1000/0/0@60"],
        vec!["audit", "bundle", "abcd", "-o", "out.hfa"],
    ] {
        let outcome = run(holdfast(home.path()).args(&line));
        refused(&outcome, 3, "no chain address");
        // Nobody listens on the discard port of loopback.
        let dead = run(holdfast(home.path())
            .args(&line)
            .args(["--chain", "ws://127.0.0.1:9"]));
        refused(&dead, 5, "127.0.0.1:9");
    }
    std::fs::write(home.path().join("chain.url"), "http://wrong").expect("writes");
    refused(&run(holdfast(home.path()).arg("ls")), 3, "chain.url");
}

#[test]
fn files_that_cannot_be_stored_are_named_before_anything_is_dialled() {
    let home = with_wallet();
    let put = |file: &Path| run(holdfast(home.path()).arg("put").arg(file));
    refused(&put(&home.path().join("absent")), 3, "absent");
    refused(&put(home.path()), 3, "not a plain file");
    #[cfg(target_os = "linux")]
    refused(&put(Path::new("/dev/null")), 3, "not a plain file");
}

#[test]
fn impossible_numbers_are_refused_by_the_command_line() {
    let home = with_wallet();
    let file = home.path().join("file");
    std::fs::write(&file, b"x").expect("writes");
    for numbers in [["-k", "0", "-m", "2"], ["-k", "200", "-m", "56"]] {
        let outcome = run(holdfast(home.path()).arg("put").arg(&file).args(numbers));
        refused(&outcome, 2, "shards are not possible");
    }
    for line in [
        vec!["put"],
        vec!["put", "a", "-k", "minus"],
        vec!["get", "abcd", "--range", "9..9"],
        vec!["get", "abcd", "--range", "x"],
        vec!["wallet", "transfer", "nobody", "1"],
        vec!["wallet", "transfer"],
        vec!["channel", "open", "1000", "-1"],
        vec!["channel", "redeem", "00"],
        vec!["datacap", "grant", "hf1", "1KiB"],
        vec!["dispute", "send", "1000/0/0"],
        vec!["nonsense"],
        vec!["ls", "--quiet", "-v"],
    ] {
        let outcome = run(holdfast(home.path()).args(&line));
        assert_eq!(outcome.code, 2, "{line:?}: {}", outcome.stderr);
    }
}

#[cfg(unix)]
#[test]
fn tm_h7_an_exposed_key_stops_every_command_and_nothing_prints_the_seed() {
    use std::os::unix::fs::PermissionsExt;
    let home = with_wallet();
    let key = home.path().join("wallet.key");
    let text = std::fs::read_to_string(&key).expect("own file");
    let seed = text
        .lines()
        .find_map(|line| line.strip_prefix("seed: "))
        .expect("a seed");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).expect("own file");
    let exposed = run(holdfast(home.path()).args(["wallet", "address", "-vvv"]));
    refused(&exposed, 3, "can be read by other users");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).expect("own file");
    for line in [
        vec!["wallet", "address", "-vvv"],
        vec!["ls", "-vvv", "--chain", "ws://127.0.0.1:9"],
    ] {
        let outcome = run(holdfast(home.path()).args(&line));
        assert!(!outcome.stdout.contains(seed) && !outcome.stderr.contains(seed));
    }
}

#[test]
fn tm_h7_a_protected_wallet_needs_its_passphrase() {
    let home = home();
    let right = home.path().join("right");
    let wrong = home.path().join("wrong");
    let empty = home.path().join("empty");
    std::fs::write(&right, "correct horse\n").expect("writes");
    std::fs::write(&wrong, "battery staple\n").expect("writes");
    std::fs::write(&empty, "").expect("writes");
    let with = |line: &[&str], file: &Path| {
        run(holdfast(home.path())
            .args(line)
            .arg("--passphrase-file")
            .arg(file))
    };
    // clap takes the flag of `wallet` before its action.
    let made = run(holdfast(home.path())
        .args(["wallet", "--passphrase-file"])
        .arg(&right)
        .args(["new", "--protect"]));
    assert_eq!(made.code, 0, "{}", made.stderr);
    let opened = run(holdfast(home.path())
        .args(["wallet", "--passphrase-file"])
        .arg(&right)
        .arg("address"));
    assert!(opened.stdout.starts_with("hf1"), "{}", opened.stderr);
    refused(&with(&["ls"], &wrong), 3, "passphrase does not open");
    refused(&with(&["ls"], &empty), 3, "is empty");
    refused(&with(&["ls"], &home.path().join("absent")), 3, "absent");
    refused(
        &run(holdfast(home.path()).arg("ls")),
        3,
        "protected by a passphrase",
    );
    let by_variable = run(holdfast(home.path())
        .env("HOLDFAST_PASSPHRASE", "correct horse")
        .args(["wallet", "address"]));
    assert_eq!(by_variable.stdout, opened.stdout);
}

#[test]
fn damaged_keys_and_unwritable_homes_are_errors_with_a_next_step() {
    let home = with_wallet();
    let key = home.path().join("wallet.key");
    let text = std::fs::read_to_string(&key).expect("own file");
    std::fs::write(&key, text.replace("seed: ", "seed: 00")).expect("own file");
    refused(
        &run(holdfast(home.path()).args(["wallet", "address"])),
        3,
        "not a usable key file",
    );
    let file = home.path().join("a-file");
    std::fs::write(&file, b"x").expect("writes");
    let outcome = run(holdfast(&file.join("below")).args(["wallet", "new"]));
    assert!([3, 7].contains(&outcome.code), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("hint: ") && !outcome.stderr.contains("panicked"));
}

#[test]
fn help_names_only_commands_that_work() {
    let home = home();
    let help = run(holdfast(home.path()).arg("--help")).stdout;
    for command in ["put", "get", "ls", "status", "wallet"] {
        assert!(
            help.contains(&format!("\n  {command}")),
            "{command} in {help}"
        );
    }
}

/// Files that are no chain, and no proof: every command that reads one says so at once.
#[test]
fn auditors_commands_name_what_is_wrong_with_a_file() {
    let home = with_wallet();
    let at = |name: &str| home.path().join(name);
    std::fs::write(at("empty"), b"").expect("writes");
    std::fs::write(at("text"), "this is no chain\n".repeat(100)).expect("writes");
    std::fs::write(at("json"), b"{\"porep\": 1}").expect("writes");
    std::fs::write(at("cut-export"), b"HFEXPT").expect("writes");
    std::fs::write(at("cut-log"), b"HFBLOG\0\0\0\0").expect("writes");
    let sparse = std::fs::File::create(at("sparse")).expect("creates");
    sparse.set_len(1 << 40).expect("sparse");
    let names = [
        "absent",
        "empty",
        "text",
        "json",
        "cut-export",
        "cut-log",
        "sparse",
        ".",
    ];
    for name in names {
        let path = at(name);
        let file = path.to_str().expect("text");
        for line in [
            vec!["audit", "chain", file],
            vec!["audit", "file", "abcd", "--from", file],
            vec!["audit", "sector", "1000", "0", "--from", file],
            vec!["audit", "proof", file],
            vec!["audit", "verify", file],
            vec!["audit", "explain-fault", "1000/0", "--from", file],
            vec!["chain", "explain-reward", "1", "--from", file],
            vec!["chain", "issuance", "--from", file],
            vec!["chain", "reputation", "--from", file],
            vec!["chain", "reputation", "--receipts", file],
            vec!["chain", "verify", file],
            vec!["chain", "export", "out", "--from", file],
        ] {
            let begun = std::time::Instant::now();
            let outcome = run(holdfast(home.path()).current_dir(home.path()).args(&line));
            assert!(
                [3, 6].contains(&outcome.code),
                "{line:?} ended with {}: {}{}",
                outcome.code,
                outcome.stdout,
                outcome.stderr
            );
            let told = outcome.stderr.contains("hint: ") && !outcome.stderr.contains("panicked");
            assert!(told, "{line:?}: {}", outcome.stderr);
            assert!(begun.elapsed().as_secs() < 20, "{line:?} took its time");
            assert!(!at("out").exists() && !at("out.part").exists(), "{line:?}");
        }
    }
}

/// Root reads everything, so this needs another user.
#[cfg(unix)]
#[test]
fn unreadable_files_are_named_with_the_reason() {
    use std::os::unix::fs::PermissionsExt;
    let home = with_wallet();
    let file = home.path().join("secret");
    std::fs::write(&file, b"x").expect("writes");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o000)).expect("own file");
    if std::fs::File::open(&file).is_ok() {
        eprintln!("skipped: this user may read everything");
        return;
    }
    let path = file.to_str().expect("text");
    for line in [
        vec!["put", path],
        vec!["audit", "chain", path],
        vec!["audit", "proof", path],
        vec!["chain", "verify", path],
    ] {
        refused(&run(holdfast(home.path()).args(&line)), 3, "secret");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_export_never_replaces_a_device() {
    let home = with_wallet();
    let cases = [
        (&["--force"][..], "not a plain file"),
        (&[], "exists already"),
    ];
    for (line, (force, says)) in [
        &["chain", "export", "/dev/null"][..],
        &["chain", "snapshot", "export", "/dev/null"],
    ]
    .into_iter()
    .flat_map(|line| cases.map(|case| (line, case)))
    {
        let outcome = run(holdfast(home.path()).args(line).args(force));
        refused(&outcome, 3, says);
        let meta = std::fs::symlink_metadata("/dev/null").expect("there");
        assert!(!meta.is_file(), "it is what it was");
    }
}

/// A chain of a few blocks in a home, made without a node.
fn with_chain(home: &Path) -> chain_lite::ledger::Tip {
    use chain_lite::beacon::{BeaconParams, DevnetSigner};
    use chain_lite::certificate::{Certificate, Validator, ValidatorId};
    use chain_lite::genesis::{CircuitKey, GENESIS_VERSION, Genesis, NetworkKind};
    use chain_lite::ledger::{Ledger, Slot};
    use prover::snark::CircuitId;
    use prover::spec::SectorSize;

    let key = ed25519_dalek::SigningKey::from_bytes(&[2; 32]);
    let beacon = DevnetSigner::from_seed(&[9; 32]);
    let vectors = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../fixtures/vectors/filecoin.json"
    );
    let vectors = std::fs::read(vectors).expect("the golden vectors are in the tree");
    let vectors: serde_json::Value = serde_json::from_slice(&vectors).expect("JSON");
    let vk = |circuit, name: &str| CircuitKey {
        circuit,
        insecure: true,
        vk: hex::decode(vectors["sectors"]["2KiB"][name].as_str().expect("hex")).expect("hex"),
    };
    let size = SectorSize::Kib2;
    let genesis = Genesis {
        version: GENESIS_VERSION,
        chain_name: "cli".into(),
        kind: NetworkKind::Devnet,
        time_ms: 1,
        clock: chain_lite::clock::ClockMode::Logical { epoch_ms: 1 },
        params: chain_lite::params::ChainParams {
            sector_sizes: vec![size],
            ..chain_lite::params::ChainParams::devnet()
        },
        accounts: [(
            chain_lite::account::Address([1; 32]),
            chain_lite::units::TokenAmount(7),
        )]
        .into(),
        validators: vec![Validator {
            id: ValidatorId(key.verifying_key().to_bytes()),
            power: 1,
        }],
        beacons: vec![BeaconParams::devnet(&beacon, 1)],
        keys: vec![
            vk(CircuitId::porep(size), "porep_vk"),
            vk(CircuitId::window(size), "window_vk"),
        ],
    };
    let keys = genesis.clone().check().expect("a genesis").keys().clone();
    let verifier = std::sync::Arc::new(chain_lite::audit::Groth16Verifier::new(keys));
    let ledger = Ledger::open(&home.join("chain"), &genesis, verifier).expect("opens");
    for height in 1..=5 {
        let (slot, epoch) = (Slot { height, round: 0 }, ledger.tip().epoch.next());
        let beacons = vec![beacon.sign(epoch.0)];
        let block = ledger
            .build(slot, epoch, 0, beacons, vec![])
            .expect("built");
        let certificate = Certificate::solo(&ledger.chain_id(), height, block.id(), &key);
        ledger.commit(block, certificate).expect("committed");
    }
    ledger.tip()
}

#[test]
fn tm_v12_a_chain_is_joined_by_snapshot_only_with_trust_from_outside() {
    let (full, new) = (home(), home());
    let tip = with_chain(full.path());
    let file = full.path().join("state.hfs");
    let file = file.to_str().expect("text");
    let json = |outcome: &Run| -> serde_json::Value {
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        serde_json::from_str(&outcome.stdout).expect("JSON")
    };
    let line = ["--json", "chain", "snapshot", "export", file];
    let made = json(&run(holdfast(full.path()).args(line)));
    assert_eq!(made["height"], 4);
    assert!(tip.height == 5 && !Path::new(&format!("{file}.part")).exists());
    let chain = made["chain_id"].as_str().expect("an id").to_owned();
    let point = format!("4:{}", made["id"].as_str().expect("an id"));
    let import = |home: &Path, chain: &str, more: &[&str]| {
        let line = [
            "--json",
            "chain",
            "snapshot",
            "import",
            file,
            "--chain-id",
            chain,
        ];
        run(holdfast(home).args(line).args(more))
    };
    // The genesis of this test is of 1970. Its one validator is trusted at any age, as by light clients, or for less on request.
    let old = import(new.path(), &chain, &["--trust-days", "14"]);
    refused(&old, 4, "trust period");
    let other = home();
    assert_eq!(json(&import(other.path(), &chain, &[]))["height"], 4);
    refused(
        &import(
            new.path(),
            &chain,
            &["--checkpoint", &format!("9:{}", &point[2..])],
        ),
        3,
        "block 9",
    );
    refused(
        &import(
            new.path(),
            &chain,
            &["--checkpoint", &format!("5:{}", &point[2..])],
        ),
        6,
        "proven final",
    );
    refused(
        &import(new.path(), &"00".repeat(32), &["--checkpoint", &point]),
        3,
        "not 0000",
    );
    assert!(!new.path().join("chain/blocks.log").exists());
    let taken = json(&import(new.path(), &chain, &["--checkpoint", &point]));
    assert_eq!(taken["leaves"], made["leaves"]);
    let status = json(&run(
        holdfast(new.path()).args(["--json", "chain", "status"])
    ));
    assert_eq!(
        (&status["height"], &status["chain_id"]),
        (&4.into(), &made["chain_id"])
    );
    refused(
        &import(new.path(), &chain, &["--checkpoint", &point]),
        3,
        "holds a chain already",
    );
    refused(
        &run(holdfast(new.path()).args(["chain", "export", "out"])),
        3,
        "begins at a snapshot",
    );
    refused(
        &run(holdfast(new.path()).args(["chain", "verify"])),
        3,
        "begins at a snapshot",
    );
}

#[cfg(not(feature = "bft"))]
#[test]
fn several_validators_need_a_program_with_their_engine() {
    let home = home();
    let outcome = run(holdfast(home.path()).args(["demo", "--validators", "4"]));
    refused(&outcome, 2, "--features bft");
}
