//! Payment channels, vouchers and DataCap with the real binary against a real node: a devnet with one provider, two homes.
//! Every refusal ends with the exit code of its class and a hint; a command killed after it sent charges once.
//!
//! No proof is made. Cost: a devnet's start, and half a minute of blocks of a quarter of a second.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use chain_lite::units::Epoch;
use prover::SectorSize;
use serde_json::Value;
use storage_node::chain::ChainClient;
use storage_node::config::Home;
use storage_node::kernels::Kernels;
use storage_node::provider::ProviderSettings;
use storage_node::rpc::fellows::OWNER;

use crate::{ask, holdfast, read, run};

const PATIENCE: Duration = Duration::from_secs(120);
const TOKEN: u128 = 1_000_000_000_000_000_000;

#[track_caller]
fn refused(home: &Path, words: &[&str], code: i32, says: &str) {
    let output = run(home, words);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
    assert!(said.contains(says), "no {says:?} in {said}");
    assert!(code == 2 || said.contains("hint: "), "no hint in {said}");
    assert!(!said.contains("panicked"), "{said}");
}

fn text(value: &Value, key: &str) -> String {
    let found = value[key].as_str();
    found
        .unwrap_or_else(|| panic!("no text {key} in {value}"))
        .to_owned()
}

fn units(value: &Value, key: &str) -> u128 {
    text(value, key).parse().expect("a decimal")
}

/// A detached devnet, ended with the test whatever happens.
struct Network {
    home: PathBuf,
    pid: u64,
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
            "250",
        ];
        let endpoints = ask(home, &words);
        let kernels = serde_json::json!(Kernels::chosen());
        assert_eq!(endpoints["kernels"], kernels, "as fast as it can");
        Self {
            home: home.to_owned(),
            pid: endpoints["pid"].as_u64().expect("a process"),
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if !run(&self.home, &["devnet", "down"]).status.success() {
            let _ = Command::new("kill")
                .args(["-9", &self.pid.to_string()])
                .status();
        }
    }
}

/// Two homes on one chain.
struct Setup {
    _network: Network,
    payer: PathBuf,
    payee: PathBuf,
    payer_address: String,
    payee_address: String,
}

fn setup(dir: &Path) -> Setup {
    let (payer, payee) = (dir.join("payer"), dir.join("payee"));
    let network = Network::up(&payer);
    ask(&payee, &["wallet", "new"]);
    std::fs::copy(payer.join("chain.url"), payee.join("chain.url")).expect("copies");
    Setup {
        _network: network,
        payer_address: text(&ask(&payer, &["wallet", "address"]), "address"),
        payee_address: text(&ask(&payee, &["wallet", "address"]), "address"),
        payer,
        payee,
    }
}

fn free(home: &Path) -> u128 {
    units(&ask(home, &["wallet", "balance"]), "free")
}

/// Does this while the devnet's clock stands.
fn standing<T>(home: &Path, work: impl FnOnce() -> T) -> T {
    let url = std::fs::read_to_string(home.join("chain.url")).expect("an address");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let chain = runtime.block_on(ChainClient::connect(url.trim()));
    let chain = chain.expect("the chain answers");
    let ten_minutes = Duration::from_secs(600);
    let held = runtime.block_on(chain.hold_clock(OWNER, Epoch(0), ten_minutes));
    held.expect("an owner may");
    let done = work();
    let released = runtime.block_on(chain.release_clock(OWNER));
    released.expect("the chain answers");
    done
}

/// Runs the command, kills it as soon as what it signed is on disk, and runs it again. The chain stands until it is killed: it needs
/// a block more to know what became of it.
fn killed_and_again(home: &Path, words: &[&str]) -> Value {
    let outbox = || {
        let entries = std::fs::read_dir(home.join("client")).into_iter().flatten();
        let mut names = entries.flatten().map(|entry| entry.file_name());
        names.any(|name| {
            let name = name.to_string_lossy();
            name.starts_with("outbox-") && !name.ends_with(".tmp")
        })
    };
    standing(home, || {
        let mut child = holdfast(home)
            .args(words)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let begun = Instant::now();
        while !outbox() {
            assert!(begun.elapsed() < PATIENCE, "{words:?} never signed");
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().expect("a child");
        let ended = child.wait().expect("a child");
        assert!(!ended.success(), "{words:?} was killed too late");
    });
    let again = ask(home, words);
    assert!(!outbox(), "told, and forgotten");
    again
}

/// Runs the command with nobody at its output, which ends it before it has told, and runs it again.
fn unheard_and_again(home: &Path, words: &[&str]) -> Value {
    let mut command = holdfast(home);
    let mut child = command
        .args(words)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    drop(child.stdout.take());
    child.wait().expect("a child");
    let again = ask(home, words);
    assert_eq!(again["resumed"], true, "{again}");
    again
}

#[test]
fn money_goes_through_a_channel_and_every_refusal_is_clear() {
    let dir = tempfile::tempdir().expect("a folder");
    let net = setup(dir.path());
    let (payer, payee) = (&net.payer, &net.payee);
    let begun_with = free(payer);

    // Open, with a kill in the middle: one channel, charged once.
    refused(
        payer,
        &["channel", "open", &net.payer_address, "5"],
        4,
        "oneself",
    );
    refused(payer, &["channel", "open", "7", "5"], 3, "no provider 7");
    refused(payer, &["channel", "open", "nobody", "5"], 2, "nobody");
    refused(payer, &["channel", "open", &net.payee_address, "0"], 4, "");
    let opened = killed_and_again(payer, &["channel", "open", &net.payee_address, "5"]);
    assert_eq!(
        (&opened["channel"], &opened["resumed"]),
        (&1.into(), &true.into())
    );
    assert_eq!(free(payer), begun_with - 5 * TOKEN);
    let by_number = ask(payer, &["channel", "open", "1000", "1"]);
    assert_eq!(by_number["channel"], 2, "to a provider's owner");

    // Vouchers: totals, durable, never more than the channel holds; nothing is sent.
    refused(
        payer,
        &["channel", "voucher", "1", "9"],
        4,
        "holds 5 tokens",
    );
    let first = text(&ask(payer, &["channel", "voucher", "1", "2"]), "voucher");
    assert_eq!(first.len(), 272);
    let again = text(&ask(payer, &["channel", "voucher", "1", "2"]), "voucher");
    assert_eq!(again, first, "the same total is the same voucher");
    refused(
        payer,
        &["channel", "voucher", "1", "1"],
        4,
        "promised before",
    );
    refused(
        payee,
        &["channel", "voucher", "1", "3"],
        4,
        "not by this home",
    );
    refused(payer, &["channel", "voucher", "9", "1"], 3, "no channel 9");
    let second = text(&ask(payer, &["channel", "voucher", "1", "3.5"]), "voucher");
    refused(
        payer,
        &["channel", "voucher", "1", "2", "--lane", "1"],
        4,
        "promise 5.5 together",
    );

    // Redeemed by the payee alone, the newest of each lane, once.
    let mut forged = second.clone().into_bytes();
    forged[130] = if forged[130] == b'0' { b'1' } else { b'0' };
    let forged = String::from_utf8(forged).expect("hex");
    refused(payee, &["channel", "redeem", &forged], 6, "signature");
    refused(
        payee,
        &["channel", "redeem", &second[1..]],
        2,
        "272 hex digits",
    );
    refused(payer, &["channel", "redeem", &second], 4, "only the payee");
    let redeemed = killed_and_again(payee, &["channel", "redeem", &second]);
    assert_eq!(units(&redeemed, "due"), 35 * TOKEN / 10);
    refused(payee, &["channel", "redeem", &second], 4, "worth nothing");
    refused(payee, &["channel", "redeem", &first], 4, "worth nothing");
    let shown = ask(payee, &["channel", "show", "1"]);
    assert_eq!(units(&shown, "due"), 35 * TOKEN / 10);
    assert_eq!(shown["lanes"][0]["nonce"], 2);

    // Settled, then collected by anybody.
    refused(payee, &["channel", "collect", "1"], 4, "is open");
    let closes = ask(payer, &["channel", "settle", "1"])["closes"].clone();
    assert!(closes.as_u64() > Some(30), "{closes}");
    standing(payer, || {
        refused(payer, &["channel", "settle", "1"], 4, "already");
        // On a machine that stood for seven seconds it may be closed by now.
        let now = ask(payer, &["chain", "status"])["epoch"].as_u64();
        if now < closes.as_u64() {
            refused(payee, &["channel", "collect", "1"], 4, "closes at epoch");
        }
    });
    let begun = Instant::now();
    let collected = loop {
        let output = run(payee, &["channel", "collect", "1"]);
        if output.status.success() {
            break read(&output);
        }
        assert!(begun.elapsed() < PATIENCE, "it never closed");
        std::thread::sleep(Duration::from_millis(500));
    };
    assert_eq!(units(&collected, "to_payee"), 35 * TOKEN / 10);
    assert_eq!(units(&collected, "to_payer"), 15 * TOKEN / 10);
    assert_eq!(free(payee), 35 * TOKEN / 10);
    assert_eq!(free(payer), begun_with - 35 * TOKEN / 10 - TOKEN);
    refused(payee, &["channel", "show", "1"], 3, "no channel 1");
    let left = ask(payer, &["channel", "ls"]);
    assert_eq!(left.as_array().map(Vec::len), Some(1));
    assert_eq!(left[0]["channel"], 2);
    assert_eq!(ask(payee, &["channel", "ls"]), Value::Array(Vec::new()));

    // A transfer is one payment too.
    let before = free(payee);
    killed_and_again(payee, &["wallet", "transfer", &net.payer_address, "0.5"]);
    assert_eq!(free(payee), before - TOKEN / 2);

    // DataCap: the root key allows a notary, the notary grants a client.
    let shown = ask(payer, &["datacap", "show"]);
    assert_eq!(text(&shown, "root"), net.payer_address);
    refused(
        payee,
        &["datacap", "allow", &net.payee_address, "1MiB"],
        4,
        "only the root key",
    );
    refused(
        payee,
        &["datacap", "grant", &net.payer_address, "1MiB"],
        4,
        "DataCap",
    );
    killed_and_again(payer, &["datacap", "allow", &net.payee_address, "1MiB"]);
    ask(payee, &["datacap", "grant", &net.payer_address, "64KiB"]);
    refused(
        payee,
        &["datacap", "grant", &net.payer_address, "1MiB"],
        4,
        "DataCap",
    );
    refused(payer, &["datacap", "grant", "x", "1"], 2, "x");
    let notary = ask(payee, &["datacap", "show"]);
    assert_eq!(notary["may_grant"], ((1u64 << 20) - (64 << 10)).to_string());
    let client = ask(payee, &["datacap", "show", &net.payer_address]);
    assert_eq!(client["may_store"], (64u64 << 10).to_string());
}

#[test]
fn tm_h1_an_owner_deposits_and_withdraws_once_through_kills() {
    let dir = tempfile::tempdir().expect("a folder");
    // The devnet's own provider. Its process may not use the owner's key: it would fill the purses that are emptied here.
    let owner = dir.path().join("payer").join("devnet").join("provider-1");
    let settings = ProviderSettings {
        top_up: false,
        ..ProviderSettings::devnet(SectorSize::Kib2, 1)
    };
    let folder = Home::new(&owner).provider_dir();
    std::fs::create_dir_all(&folder).expect("makes");
    settings.write(&folder).expect("writes");
    let net = setup(dir.path());
    std::fs::copy(net.payer.join("chain.url"), owner.join("chain.url")).expect("copies");
    let address = text(&ask(&owner, &["wallet", "address"]), "address");
    ask(&net.payer, &["wallet", "transfer", &address, "10"]);
    let mut has = free(&owner);

    let deposited = killed_and_again(&owner, &["provider", "deposit", "3"]);
    assert_eq!(
        (&deposited["provider"], &deposited["resumed"]),
        (&1000.into(), &true.into())
    );
    has -= 3 * TOKEN;
    assert_eq!(free(&owner), has);
    let escrow = |home: &Path| units(&ask(home, &["wallet", "balance"]), "escrow");
    let before = escrow(&owner);
    killed_and_again(&owner, &["provider", "deposit", "2", "--escrow"]);
    has -= 2 * TOKEN;
    assert_eq!((free(&owner), escrow(&owner)), (has, before + 2 * TOKEN));

    // Everything, and nobody hears that it was done: there is nothing left then, and asking again is no refusal.
    let withdrawn = unheard_and_again(&owner, &["provider", "withdraw"]);
    let taken = units(&withdrawn, "amount");
    assert!(taken >= 3 * TOKEN, "{withdrawn}");
    assert_eq!(free(&owner), has + taken);
    refused(&owner, &["provider", "withdraw"], 4, "no balance");
    refused(&net.payee, &["provider", "deposit", "1"], 3, "owns no");

    // Escrow comes back the same way.
    let released = unheard_and_again(&owner, &["wallet", "release"]);
    assert_eq!(units(&released, "amount"), before + 2 * TOKEN);
    assert_eq!(free(&owner), has + taken + before + 2 * TOKEN);
}

#[test]
fn tm_h1_commands_at_once_on_one_home_each_pay_once_or_not_at_all() {
    let dir = tempfile::tempdir().expect("a folder");
    let net = setup(dir.path());
    let before = free(&net.payer);
    let amounts = ["1", "2", "4", "8"];
    let running = amounts.map(|amount| {
        holdfast(&net.payer)
            .args(["wallet", "transfer", &net.payee_address, amount])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts")
    });
    let mut paid = 0;
    let mut again = Vec::new();
    for (child, amount) in running.into_iter().zip(amounts) {
        let output = child.wait_with_output().expect("a child");
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => paid += amount.parse::<u128>().expect("a number"),
            code => {
                assert_eq!(code, Some(4), "{said}");
                assert!(
                    said.contains("another command is using this wallet"),
                    "{said}"
                );
                again.push(amount);
            }
        }
    }
    assert!(paid > 0, "one of them had the wallet");
    assert_eq!(free(&net.payer), before - paid * TOKEN);
    for amount in again {
        let moved = ask(
            &net.payer,
            &["wallet", "transfer", &net.payee_address, amount],
        );
        assert_eq!(moved["resumed"], false);
    }
    assert_eq!(free(&net.payer), before - 15 * TOKEN);
    assert_eq!(free(&net.payee), 15 * TOKEN);
}

#[test]
fn who_decides_is_changed_by_who_decides_now() {
    let dir = tempfile::tempdir().expect("a folder");
    let net = setup(dir.path());
    let payer = &net.payer;
    let at = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();
    let key = payer.join("devnet").join("validator.key");
    let validator = storage_node::identity::Wallet::open(&key, || None).expect("an own file");
    let id = hex::encode(validator.address().0);
    let key = key.to_str().expect("text");
    let card = |power: u64| {
        format!("{{\"id\":\"{id}\",\"power\":{power},\"address\":\"/ip4/127.0.0.1/tcp/1\"}}\n")
    };
    std::fs::write(at("cards"), card(7)).expect("writes");
    std::fs::write(at("twice"), card(7) + &card(8)).expect("writes");
    std::fs::write(at("none"), "").expect("writes");
    std::fs::write(at("text"), "no card\n").expect("writes");

    // Approved by a key that decides now, for this list and this change.
    let wallet = payer.join("wallet.key");
    let wallet = wallet.to_str().expect("text");
    let approve = ["chain", "approve", "--validators"];
    refused(
        payer,
        &[&approve[..], &[&at("cards"), "--key", wallet]].concat(),
        4,
        "no validator",
    );
    refused(
        payer,
        &[&approve[..], &[&at("cards")]].concat(),
        3,
        "validator.key",
    );
    refused(
        payer,
        &[&approve[..], &[&at("twice"), "--key", key]].concat(),
        3,
        "twice",
    );
    refused(
        payer,
        &[&approve[..], &[&at("none"), "--key", key]].concat(),
        3,
        "1 to",
    );
    refused(
        payer,
        &[&approve[..], &[&at("text"), "--key", key]].concat(),
        3,
        "text",
    );
    refused(
        payer,
        &[&approve[..], &[&at("absent"), "--key", key]].concat(),
        3,
        "absent",
    );
    let line = |list: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command
            .arg("--home")
            .arg(payer)
            .args(approve)
            .arg(at(list))
            .args(["--key", key]);
        let output = command.output().expect("starts");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        // The sentence about a chain that is believed from now on stands before it.
        let text = String::from_utf8(output.stdout).expect("text");
        text.lines().last().expect("an approval").to_owned() + "\n"
    };
    std::fs::write(at("approvals"), line("cards")).expect("writes");
    let set = |list: &str, approvals: &str| {
        let list = at(list);
        let approvals = at(approvals);
        [
            "chain",
            "set-validators",
            "--validators",
            &list,
            "--approvals",
            &approvals,
        ]
        .map(str::to_owned)
    };
    let words = |line: &[String; 6]| line.clone();
    let refuse = |list: &str, approvals: &str, code: i32, says: &str| {
        let line = words(&set(list, approvals));
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        refused(payer, &line, code, says);
    };
    refuse("cards", "none", 4, "0 of 1 votes");
    refuse("cards", "text", 3, "text");
    std::fs::write(at("other"), card(9)).expect("writes");
    refuse("other", "approvals", 4, "not for this list");

    let line_of = words(&set("cards", "approvals"));
    let line_of: Vec<&str> = line_of.iter().map(String::as_str).collect();
    let changed = killed_and_again(payer, &line_of);
    assert_eq!(changed["resumed"], true);
    assert_eq!(
        (&changed["number"], &changed["validators"]),
        (&0.into(), &1.into())
    );
    refuse("cards", "approvals", 4, "change 0, and the next one is 1");
    // The chain goes on with the new set, and that set approves the next change.
    std::fs::write(at("approvals"), line("other")).expect("writes");
    refuse("other", "none", 4, "0 of 7 votes");
    let line_of = words(&set("other", "approvals"));
    let line_of: Vec<&str> = line_of.iter().map(String::as_str).collect();
    assert_eq!(ask(payer, &line_of)["of"], 7);
}
