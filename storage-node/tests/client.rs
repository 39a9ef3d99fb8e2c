//! The client against a real devnet: JSON-RPC, QUIC, providers that recompute both roots and publish; test sectors of 2 KiB.
//! The first object is put by the real binary, which is killed again and again until one run gets through.
//!
//! Sealing goes on in the background and is not waited for: this is about rungs 1 and 2, *received* and *possession*, and about
//! reading back.
//! The proving keys of the 2 KiB circuits are made on first use and shared with the other tests (`HOLDFAST_PARAMS`).

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use chain_lite::account::{Address, ChainId};
use chain_lite::units::TokenAmount;
use prover::{NoProgress, SectorSize};
use storage_node::client::get::{GetRequest, Target, get};
use storage_node::client::health::{Rung, State, health};
use storage_node::client::live::{LiveClient, connect};
use storage_node::client::{ClientError, catalog, possession};
use storage_node::config::{Config, Home};
use storage_node::devnet::{Devnet, DevnetConfig};
use storage_node::identity::Wallet;
use storage_node::object::manifest::Label;

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

/// A transfer that is killed as soon as what it signed is on disk; it needs a block more to know what became of it.
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
    let dir = tempfile::tempdir().expect("a folder");
    let home = Home::new(dir.path().join("net"));
    let config = Config::resolve(None, None, |name| std::env::var_os(name)).expect("a platform");
    let settings = DevnetConfig {
        providers: 4,
        sector_size: SectorSize::Kib2,
        epoch_ms: 100,
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

    // A put comes between a killed transfer and its next try: it does not take the transfer's nonce, and each is paid once.
    let other = dir.path().join("other");
    std::fs::write(&other, b"another file").expect("writes");
    let (to, amount) = (Address([9; 32]), TokenAmount::from_tokens(3));
    let chain = elsewhere.chain.node().chain_id();
    tokio::task::block_in_place(|| killed_transfer(&chain, &url, &here, to, "3"));
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

    // A home with nothing but the key: the chain and any k providers give everything back.
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

    elsewhere.network.close().await;
    devnet.shutdown().await.expect("stops in order");
}
