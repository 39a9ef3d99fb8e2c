//! The client against a real devnet: JSON-RPC, QUIC, providers that recompute both roots and publish; test sectors of 2 KiB.
//! The first object is put by the real binary, which is killed again and again until one run gets through.
//!
//! Sealing goes on in the background and is not waited for: this is about rungs 1 and 2, *received* and *possession*, and about
//! reading back.
//! The proving keys of the 2 KiB circuits are made on first use and shared with the other tests (`HOLDFAST_PARAMS`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chain_lite::account::{Address, ChainId, ProviderId};
use chain_lite::units::{EpochCount, TokenAmount};
use prover::{NoProgress, SectorSize};
use storage_node::client::get::{GetRequest, Target, get};
use storage_node::client::health::{Health, Rung, State, health};
use storage_node::client::live::{LiveClient, connect};
use storage_node::client::{ClientError, catalog, possession};
use storage_node::config::{Config, Home};
use storage_node::devnet::{ClockPause, Devnet, DevnetConfig};
use storage_node::identity::Wallet;
use storage_node::object::manifest::Label;

/// How long sealing, or the end of a silent provider's deals, may take.
const PATIENCE: Duration = Duration::from_secs(1800);

async fn client(home: &Home, chain_url: &str, at: &Path) -> Arc<LiveClient> {
    let wallet = Wallet::open(&home.wallet_key(), || None).expect("the devnet's wallet");
    let client = connect(chain_url, wallet, Home::new(at)).await;
    Arc::new(client.expect("the chain answers"))
}

/// `holdfast put FILE --json` in a process of its own.
fn put(home: &Path, chain_url: &str, file: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command
        .args(["--json", "--chain", chain_url, "put"])
        .arg(file)
        .arg("--home")
        .arg(home)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Kills puts of one file after ever longer times, then lets one end; returns its JSON.
fn put_through_kills(home: &Path, chain_url: &str, file: &Path) -> serde_json::Value {
    let mut killed = 0;
    for delay_ms in [5u64, 20, 40, 60, 90, 120, 160, 200, 260, 340, 450, 600] {
        let mut child = put(home, chain_url, file).spawn().expect("starts");
        std::thread::sleep(Duration::from_millis(delay_ms));
        killed += u32::from(child.try_wait().expect("a child").is_none());
        // SIGKILL on Unix: no handler runs, no buffer is flushed.
        child.kill().expect("a child");
        child.wait().expect("a child");
    }
    assert!(killed > 0, "every put ended before it could be killed");
    let output = put(home, chain_url, file).output().expect("starts");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "after {killed} kills: {errors}");
    serde_json::from_slice(&output.stdout).expect("stdout is JSON alone")
}

/// A transfer that is killed as soon as what it signed is on disk. The chain stands meanwhile: it needs a block more to know what
/// became of it.
fn killed_transfer(chain: &ChainId, url: &str, home: &Path, to: Address, tokens: &str) {
    let signed = Home::new(home).client_dir().join(format!("outbox-{chain}"));
    let mut child = transfer(home, url, to, tokens)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    while !signed.exists() {
        let ended = child.try_wait().expect("a child");
        assert!(ended.is_none(), "it ended before it signed: {ended:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("is killed");
    child.wait().expect("has ended");
    assert!(signed.exists(), "nobody was told");
}

fn transfer(home: &Path, url: &str, to: Address, tokens: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.args(["--json", "--chain", url, "--home"]).arg(home);
    command.args(["wallet", "transfer", &to.to_string(), tokens]);
    command
}

/// How many open deals each label has.
async fn charges(client: &LiveClient) -> BTreeMap<Label, usize> {
    let deals = client
        .chain
        .node()
        .deals_by_client(&client.wallet.address())
        .await;
    let mut counts = BTreeMap::new();
    for view in deals.expect("the chain answers") {
        let label = view.deal.proposal.label.parse().expect("our label");
        *counts.entry(label).or_default() += 1;
    }
    counts
}

async fn read(client: &Arc<LiveClient>, id: &str, to: &Path) -> Result<Vec<u8>, ClientError> {
    let request = GetRequest {
        object: id.to_owned(),
        range: None,
    };
    let target = Target::File {
        path: to.to_owned(),
        force: true,
    };
    get(Arc::clone(client), request, target, Arc::new(|_| ())).await?;
    Ok(std::fs::read(to).expect("written"))
}

#[tokio::test(flavor = "multi_thread")]
async fn tm_h1_a_killed_put_is_charged_once_and_its_key_alone_reads_it_with_m_providers_stopped() {
    a_killed_put(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tm_h1_a_killed_put_is_charged_once_in_closed_credit_too() {
    a_killed_put(true).await;
}

async fn a_killed_put(closed_credit: bool) {
    let dir = tempfile::tempdir().expect("a folder");
    let home = Home::new(dir.path().join("net"));
    let config = Config::resolve(None, None, |name| std::env::var_os(name)).expect("a platform");
    let settings = DevnetConfig {
        providers: 4,
        sector_size: SectorSize::Kib2,
        epoch_ms: 100,
        closed_credit,
        ..DevnetConfig::default()
    };
    let mut devnet = Devnet::start(&home, settings, &config.params_dir, Arc::new(NoProgress))
        .await
        .expect("starts");
    let url = devnet.chain_url();
    let here = dir.path().join("here");
    std::fs::create_dir(&here).expect("a folder");
    std::fs::copy(home.wallet_key(), here.join("wallet.key")).expect("mode and bytes");

    let file = dir.path().join("sample");
    let plain: Vec<u8> = (0..1500u32).map(|i| (i * 7 % 251) as u8).collect();
    std::fs::write(&file, &plain).expect("writes");
    let stored = tokio::task::block_in_place(|| put_through_kills(&here, &url, &file));
    let id = stored["object"].as_str().expect("an id").to_owned();
    let elsewhere = client(&home, &url, &dir.path().join("elsewhere")).await;
    let charged = charges(&elsewhere).await;
    assert_eq!(
        charged.len(),
        5,
        "four shards and one manifest part: {charged:?}"
    );
    for (label, count) in &charged {
        let copies = if matches!(label, Label::Manifest { .. }) {
            4
        } else {
            1
        };
        assert_eq!(*count, copies, "{label}");
    }
    let again = put(&here, &url, &file).output().expect("starts");
    let again: serde_json::Value = serde_json::from_slice(&again.stdout).expect("JSON");
    assert_eq!(
        (&again["object"], &again["already"]),
        (&stored["object"], &true.into())
    );
    assert_eq!(
        charges(&elsewhere).await,
        charged,
        "nothing was charged for asking again"
    );

    if !closed_credit {
        // A put comes between a killed transfer and its next try: it does not take the transfer's nonce, and each is paid once.
        let other = dir.path().join("other");
        std::fs::write(&other, b"another file").expect("writes");
        let (to, amount) = (Address([9; 32]), TokenAmount::from_tokens(3));
        let chain = elsewhere.chain.node().chain_id();
        let standing = devnet.pause_after(EpochCount(0)).await.expect("stands");
        tokio::task::block_in_place(|| killed_transfer(&chain, &url, &here, to, "3"));
        drop(standing);
        let output = put(&here, &url, &other).output().expect("starts");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        let output = transfer(&here, &url, to, "3").output().expect("starts");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        let moved: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(moved["resumed"], true, "{moved}");
        let paid = elsewhere.chain.node().account(&to).await.expect("answers");
        assert_eq!(paid.free, amount);
    }

    // A home with nothing but the key: the chain and any k providers give everything back. The chain stands meanwhile: who is
    // switched off would miss a proof within seconds once its sector is sealed, or its deal's start before.
    let standing = stand_without_fault(&devnet, &elsewhere, &id).await;
    for index in [0, 2] {
        devnet.stop_provider(index).await.expect("stops");
    }
    let bytes = read(&elsewhere, &id, &dir.path().join("back"))
        .await
        .expect("two are left");
    assert_eq!(bytes, plain);

    let entry = catalog::find(&elsewhere, &id[..8]).await.expect("listed");
    let shown = possession::check(&elsewhere, &entry).await.expect("asks");
    let now = health(&elsewhere.chain, &entry, Some(1), &shown)
        .await
        .expect("judges");
    assert_eq!(now.owed, 4, "deals are open, providers only paused");
    let seen: Vec<_> = now
        .pieces
        .iter()
        .filter(|p| p.challenge_failed.is_none())
        .collect();
    assert_eq!(
        seen.len(),
        4,
        "a shard and a copy of each provider that runs: {now:?}"
    );
    assert!(
        seen.iter().all(|piece| piece.rung >= Rung::Possession),
        "{now:?}"
    );
    assert_ne!(now.state, State::Lost);

    devnet.stop_provider(1).await.expect("stops");
    let error = read(&elsewhere, &id, &dir.path().join("lost"))
        .await
        .expect_err("one is left");
    assert!(matches!(error, ClientError::Lost { .. }), "{error}");
    assert!(!dir.path().join("lost").exists());

    drop(standing);
    elsewhere.network.close().await;
    devnet.shutdown().await.expect("stops in order");
}

/// Lets the chain stand at a moment when no sector of the object is faulty: on a busy machine one may have missed its window, and is
/// proven again in a later one.
async fn stand_without_fault(devnet: &Devnet, client: &LiveClient, id: &str) -> ClockPause {
    let begun = Instant::now();
    loop {
        let standing = devnet.pause_after(EpochCount(0)).await.expect("stands");
        let now = judged(client, id).await;
        if now.pieces.iter().all(|piece| piece.rung != Rung::Faulty) {
            return standing;
        }
        assert!(begun.elapsed() < PATIENCE, "faulty for ever: {now:?}");
        drop(standing);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// What the chain alone says of an object of one segment.
async fn judged(client: &LiveClient, id: &str) -> Health {
    let entry = catalog::find(client, id).await.expect("listed");
    let shown = possession::Ledger::default();
    let now = health(&client.chain, &entry, Some(1), &shown).await;
    now.expect("judges")
}

/// Money that nobody can pass on pays for storage, proofs and repair all the same.
#[tokio::test(flavor = "multi_thread")]
async fn closed_credit_stores_proves_and_repairs_and_passes_no_money_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let home = Home::new(dir.path().join("net"));
    let config = Config::resolve(None, None, |name| std::env::var_os(name)).expect("a platform");
    let settings = DevnetConfig {
        providers: 3,
        sector_size: SectorSize::Kib2,
        epoch_ms: 100,
        closed_credit: true,
        ..DevnetConfig::default()
    };
    let mut devnet = Devnet::start(&home, settings, &config.params_dir, Arc::new(NoProgress))
        .await
        .expect("starts");
    let url = devnet.chain_url();
    let refused = transfer(home.root(), &url, Address([9; 32]), "3").output();
    let refused = refused.expect("starts");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success(), "{said}");
    assert!(
        said.contains("this chain's money is closed credit"),
        "{said}"
    );
    assert!(!devnet.chain().info().faucet);

    let (file, plain) = (dir.path().join("sample"), vec![7; 300]);
    std::fs::write(&file, &plain).expect("writes");
    let stored = put(home.root(), &url, &file)
        .args(["-k", "1", "-m", "1"])
        .output();
    let stored = stored.expect("starts");
    let said = String::from_utf8_lossy(&stored.stderr);
    assert!(stored.status.success(), "{said}");
    let stored: serde_json::Value = serde_json::from_slice(&stored.stdout).expect("JSON");
    let id = stored["object"].as_str().expect("an id");
    let client = client(&home, &url, &dir.path().join("elsewhere")).await;
    let holders = sealed_by(&client, id).await;
    assert_eq!(holders.len(), 2, "{holders:?}");

    // One of them is lost with all it has; the other serves the object while the chain ends the lost one's deals.
    let places = devnet.providers();
    let lost = places.iter().position(|place| holders.contains(&place.id));
    let lost = lost.expect("a holder");
    devnet.stop_provider(lost).await.expect("stops");
    let back = dir.path().join("back");
    let receipts = dir.path().join("elsewhere/client/receipts");
    read_with_receipts(&client, id, &back, &plain, &receipts).await;
    let begun = Instant::now();
    let to = loop {
        let repaired = holdfast(home.root(), &["--chain", &url, "repair", id]);
        let moved = repaired["moved"].as_array().expect("a list");
        if let Some(shard) = moved.iter().find(|piece| piece["kind"] == "data") {
            break shard["to"].as_u64().expect("a provider");
        }
        assert!(begun.elapsed() < PATIENCE, "its deals never ended");
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    let holders = sealed_by(&client, id).await;
    assert!(!holders.contains(&places[lost].id), "{holders:?}");
    assert!(holders.contains(&ProviderId(to)), "{holders:?}");
    read_with_receipts(&client, id, &back, &plain, &receipts).await;
    client.network.close().await;
    let sectors = devnet.chain().sectors(places[lost].id).await;
    let sector = sectors.expect("answers")[0].number.0;
    devnet.shutdown().await.expect("stops in order");
    assert_explained(home.root(), &format!("{}/{sector}", places[lost].id));
    assert_reputation(home.root(), &receipts, places[lost].id);
}

/// Reads until receipts are left of it: a get waits for them a moment only, and a disk may be busy for longer.
async fn read_with_receipts(
    client: &Arc<LiveClient>,
    id: &str,
    to: &Path,
    plain: &[u8],
    receipts: &Path,
) {
    let length = || std::fs::metadata(receipts).map_or(0, |meta| meta.len());
    let (before, begun) = (length(), Instant::now());
    while length() == before {
        assert_eq!(read(client, id, to).await.expect("reads"), plain);
        assert!(begun.elapsed() < PATIENCE, "never a receipt");
    }
}

/// What the commands say of a chain with a fault that ended a sector: every figure is reproduced, and sums are the chain's totals.
fn assert_explained(home: &Path, fault: &str) {
    let file = home.join("chain.export");
    let file = file.to_str().expect("text");
    holdfast(home, &["chain", "export", file]);
    let fault = holdfast(home, &["audit", "explain-fault", fault, "--from", file]);
    assert_eq!(fault["holds"], true, "{fault}");
    let said = fault["steps"].to_string();
    for part in [
        "without a proof",
        "each deadline after the first costs a fee",
        "Termination fee",
    ] {
        assert!(said.contains(part), "{part:?} is missing in {said}");
    }

    let issuance = holdfast(home, &["chain", "issuance", "--from", file]);
    let amount = |of: &serde_json::Value, what: &str| -> u128 {
        of[what]
            .as_str()
            .expect("decimal")
            .parse()
            .expect("a number")
    };
    let rows = issuance["epochs"].as_array().expect("rows");
    for what in ["minted", "burnt"] {
        let sum: u128 = rows.iter().map(|row| amount(row, what)).sum();
        assert_eq!(sum, amount(&issuance, what), "{what}");
        assert!(sum > 0, "{what}");
    }
    let epochs: Vec<u64> = rows
        .iter()
        .filter_map(|row| row["epoch"].as_u64())
        .collect();
    let all: Vec<u64> = (1..=rows.len() as u64).collect();
    assert_eq!(epochs, all, "a row for each epoch");
    // The last epoch that minted, and the last one that burnt.
    for what in ["minted", "burnt"] {
        let row = rows
            .iter()
            .rfind(|row| amount(row, what) > 0)
            .expect("some");
        let epoch = row["epoch"].to_string();
        let reward = holdfast(home, &["chain", "explain-reward", &epoch, "--from", file]);
        assert_eq!(reward["holds"], true, "{reward}");
    }
}

/// What `chain reputation` says of the same export, and of the reads that this client made meanwhile.
fn assert_reputation(home: &Path, receipts: &Path, lost: ProviderId) {
    let file = home.join("chain.export");
    let export = [
        "chain",
        "reputation",
        "--from",
        file.to_str().expect("text"),
    ];
    let ask = |more: &[&str]| holdfast(home, &[&export[..], more].concat());
    let number = |of: &serde_json::Value| of.as_u64().expect("a number");
    let path = receipts.to_str().expect("text");
    let read = ask(&["--receipts", path]);
    let (told, providers) = (&read["receipts"], &read["providers"]);
    let (given, counted) = (
        number(&told["files"][0]["receipts"]),
        number(&told["counted"]),
    );
    // What was read from the lost one when its deal was over counts for nothing.
    let refused = told["refused"].as_object().expect("a map");
    let late = refused.get("outside_deal").map_or(0, number);
    assert!(counted >= 2 && counted + late == given, "{told}");

    let all = providers.as_array().expect("a list");
    assert_eq!(all.len(), 3);
    let (mut served, mut bad, mut best) = (0, None, 0);
    for record in all {
        let said = &record["retrieval"];
        let rate = match said.is_null() {
            true => 65_536,
            false => number(&said["success_rate"]),
        };
        let score = (number(&record["uptime"]) * rate) >> 16;
        assert_eq!(number(&record["score"]), score, "{record}");
        if number(&record["provider"]) == lost.0 {
            bad = Some(record);
            continue;
        }
        best = best.max(number(&record["uptime"]));
        // On a busy machine one may be late and be replaced; what it then brings once, it is measured by.
        if !said.is_null() {
            assert_eq!(number(&said["clients"]), 1, "{record}");
            let measured = said["ttfb_p95_us"].is_u64() && said["kib_per_s_p50"].is_u64();
            assert_eq!(measured, rate > 0, "{said}");
            served += u32::from(measured);
        }
    }
    assert!(served > 0, "{read}");
    let bad = bad.expect("listed");
    assert!(number(&bad["uptime"]) < best, "{read}");
    assert!(number(&bad["fault_episodes"]) > 0, "{bad}");
    assert!(number(&bad["deals"]["slashed"]) > 0, "{bad}");

    // Torn at its end, and there twice: the same figures, here of one alone.
    let torn = home.join("torn");
    let mut bytes = std::fs::read(receipts).expect("there");
    bytes.extend([7; 10]);
    std::fs::write(&torn, bytes).expect("writes");
    let torn = torn.to_str().expect("text");
    let only = ["--provider", &lost.to_string()];
    let again = ask(&[&["--receipts", path, "--receipts", torn], &only[..]].concat());
    assert_eq!(&again["providers"], &serde_json::json!([bad]));
    assert_eq!(again["receipts"]["files"][1]["torn_bytes"], 10);
    assert_eq!(again["receipts"]["refused"]["twice"], counted);

    let people = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .arg("--home")
        .arg(home)
        .args(export)
        .args(["--receipts", path])
        .output()
        .expect("starts");
    let said = String::from_utf8_lossy(&people.stdout);
    for part in ["uptime", "ttfb p50", &format!("{counted} of {given} count")] {
        assert!(said.contains(part), "{part:?} is missing in {said}");
    }
}

/// The JSON of a command that succeeds.
fn holdfast(home: &Path, args: &[&str]) -> serde_json::Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.args(["--json", "--home"]).arg(home).args(args);
    let output = command.output().expect("starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}");
    serde_json::from_slice(&output.stdout).expect("stdout is JSON alone")
}

/// Who holds the object's shards, once every piece of it, the manifest's copies too, is in a proven sector.
async fn sealed_by(client: &LiveClient, id: &str) -> BTreeSet<ProviderId> {
    let begun = Instant::now();
    loop {
        let now = judged(client, id).await;
        let open: Vec<_> = now.pieces.iter().filter(|p| p.rung != Rung::Lost).collect();
        if now.owed == now.n && open.iter().all(|piece| piece.rung == Rung::Sealed) {
            let shards = open.iter().filter(|piece| piece.kind == "data");
            return shards.map(|piece| piece.provider).collect();
        }
        assert!(begun.elapsed() < PATIENCE, "never proven: {now:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
