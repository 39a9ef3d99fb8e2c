//! An optimistic devnet with real proofs: a provider stops proving and posts an old proof again; the chain takes it, the watcher —
//! the real binary, killed with its case open and started again — disputes it, once. The provider is charged, the watcher paid,
//! and the honest provider's posts are left alone, until it cheats as well and is disputed by hand. The deals are verified ones, so that their sectors' power and pledges are
//! seen with real proofs too.
//!
//! Cost: two PoRep proofs and some window proofs on 2 KiB sectors: two minutes on two quiet cores.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chain_lite::account::ProviderId;
use chain_lite::block::FinalBlock;
use chain_lite::events::{Event, FaultReason};
use chain_lite::message::Message;
use chain_lite::sector::dispute::PostId;
use chain_lite::sector::{SectorLeaf, SectorState};
use chain_lite::units::{EpochCount, TokenAmount};
use prover::{NoProgress, SectorSize};
use serde_json::Value;
use storage_node::chain::{ChainClient, PartitionView};
use storage_node::config::{Config, Home};
use storage_node::devnet::{Devnet, DevnetConfig};
use storage_node::identity::Wallet;

use crate::{ask, holdfast, run};

/// How long one wait may take: proofs of other tests may stand before ours on this machine.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(20);

/// Looks until it finds.
async fn wait<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "never came: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// A running `holdfast dispute watch`, ended with the test whatever happens.
struct Watching {
    child: Child,
    log: PathBuf,
}

impl Watching {
    fn start(home: &Path) -> Self {
        let log = home.join("watch.log");
        let open = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log);
        let child = holdfast(home)
            .args(["dispute", "watch"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(open.expect("a log"))
            .spawn()
            .expect("starts");
        Self { child, log }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn kill(mut self) {
        self.child.kill().expect("a child");
        self.child.wait().expect("a child");
    }

    /// Asks it to end, as a service manager does, and gives its summary.
    fn end(mut self) -> Value {
        let asked = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status();
        assert!(asked.expect("kill runs").success());
        let mut text = String::new();
        let mut stdout = self.child.stdout.take().expect("piped");
        std::io::Read::read_to_string(&mut stdout, &mut text).expect("text");
        assert!(
            self.child.wait().expect("a child").success(),
            "{}",
            self.said()
        );
        serde_json::from_str(&text).expect("stdout is one JSON value")
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The provider's first partition with sectors.
async fn partition(chain: &ChainClient, id: ProviderId) -> Option<PartitionView> {
    let all = chain.deadlines(id).await.expect("reads");
    all.into_iter().find(|view| !view.sectors.is_empty())
}

/// Any window proof of the provider that the chain took.
async fn old_proof(chain: &ChainClient, id: ProviderId) -> Vec<u8> {
    for height in (1..=chain.head().await.expect("reads").height).rev() {
        let bytes = chain.block_bytes(height).await.expect("reads");
        let block = FinalBlock::from_bytes(&bytes.expect("it is there")).expect("a block");
        for signed in &block.block.body.txs {
            for message in &signed.tx.msgs {
                if let Message::SubmitPost {
                    provider, proof, ..
                } = message
                    && *provider == id
                {
                    return proof.clone();
                }
            }
        }
    }
    panic!("provider {id} never posted");
}

/// The provider's machine is switched off, and its key posts a proof of an earlier period.
async fn post_an_old_proof(devnet: &mut Devnet, number: usize) -> PostId {
    let place = devnet.providers().swap_remove(number);
    let (id, chain) = (place.id, devnet.chain().clone());
    let worker = place.home.join("provider").join("worker.key");
    let worker = Wallet::open(&worker, || None).expect("an own file");
    let proof = old_proof(&chain, id).await;
    // Not within its own window, nor just before it: it has to be seen open from its beginning on.
    wait("a time to stop", async || {
        let standing = devnet.pause_after(EpochCount(0)).await.expect("stands");
        let view = partition(&chain, id).await?;
        let early = chain.head().await.expect("reads").epoch.0 + 5 < view.open.0;
        if early {
            devnet.stop_provider(number).await.expect("stops");
        }
        drop(standing);
        early.then_some(())
    })
    .await;
    wait("an open window", async || {
        let view = partition(&chain, id).await?;
        let now = chain.head().await.expect("reads").epoch;
        // Early enough in the window, whatever this machine is busy with.
        let open = view.open <= now.next() && now.0 + 14 < view.close.0 && !view.posted;
        if !open {
            return None;
        }
        let message = Message::SubmitPost {
            provider: id,
            deadline: view.deadline,
            partition: view.partition,
            skipped: Vec::new(),
            proof: proof.clone(),
        };
        let receipt = chain.execute(worker.signing_key(), vec![message]).await;
        receipt.expect("an optimistic chain takes it");
        Some(PostId {
            provider: id,
            deadline: view.deadline,
            partition: view.partition,
            close: view.close,
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn tm_p21_a_watcher_process_disputes_a_wrong_post_once_through_a_kill() {
    let dir = tempfile::tempdir().expect("a folder");
    let home = Home::new(dir.path().join("net"));
    let config = Config::resolve(None, None, |name| std::env::var_os(name)).expect("a platform");
    let settings = DevnetConfig {
        providers: 2,
        sector_size: SectorSize::Kib2,
        epoch_ms: 250,
        optimistic: true,
        ..DevnetConfig::default()
    };
    let mut devnet = Devnet::start(&home, settings, &config.params_dir, Arc::new(NoProgress))
        .await
        .expect("starts");
    let chain = devnet.chain().clone();
    let file = dir.path().join("sample");
    std::fs::write(&file, b"kept by two, until one of them stops").expect("writes");
    let net = home.root().to_owned();
    let stored = tokio::task::spawn_blocking(move || {
        let put = ["put", file.to_str().expect("text"), "-k", "1", "-m", "1"];
        let verified = [&put[..], &["--verified"]].concat();
        let short = run(&net, &verified);
        assert_eq!(short.status.code(), Some(4), "no DataCap yet");
        // On a devnet the home's wallet is the root key; here it is notary and client as well.
        let own = ask(&net, &["wallet", "address"])["address"].clone();
        let own = own.as_str().expect("text").to_owned();
        ask(&net, &["datacap", "allow", &own, "1MiB"]);
        ask(&net, &["datacap", "grant", &own, "8KiB"]);
        ask(&net, &verified);
        ask(&net, &["datacap", "show"])
    });
    let left = stored.await.expect("stored");
    let held = left["may_store"].as_str().expect("text");
    let held: u64 = held.parse().expect("a number");
    assert!(held < 8 << 10, "nothing was taken: {left}");

    // The watcher has a home and some money of its own.
    let own = dir.path().join("watcher");
    let address = ask(&own, &["wallet", "new"])["address"].clone();
    let address = address.as_str().expect("text").parse().expect("an address");
    std::fs::copy(home.chain_url(), own.join("chain.url")).expect("copies");
    let money = TokenAmount::from_tokens(10);
    chain.faucet(&address, money).await.expect("given");

    let places = devnet.providers();
    let (cheat, honest) = (places[0].id, places[1].id);
    for id in [cheat, honest] {
        wait("an active sector", async || {
            let view = partition(&chain, id).await?;
            let active = view.sectors.iter().all(|s| s.state == SectorState::Active);
            active.then_some(())
        })
        .await;
    }
    for id in [cheat, honest] {
        let sectors = chain.sectors(id).await.expect("reads");
        let SectorLeaf::Committed(sector) = &sectors[0].leaf else {
            panic!("no committed sector: {sectors:?}");
        };
        assert!(
            sector.power.0 > 2048,
            "verified bytes count more: {sector:?}"
        );
    }
    // Honest posts are taken unverified by now, and the watcher finds them sound.
    let watching = Watching::start(&own);
    let begin = chain.head().await.expect("reads").height;
    chain
        .wait_event(begin, |record| {
            PostId::of(&record.event).is_some_and(|post| post.provider == honest)
        })
        .await
        .expect("a post of the honest one");

    let before = chain.head().await.expect("reads").height;
    let posted = post_an_old_proof(&mut devnet, 0).await;
    // One more block makes the post provable, so that there is a case; then the clock stands, so that it is not over before it is
    // seen here.
    let standing = devnet.pause_after(EpochCount(1)).await.expect("stands");

    // Killed with its case in the book, and started again.
    let book = own.join("watch");
    wait("a case in the book", async || {
        let entries = std::fs::read_dir(&book).ok()?;
        let mut books = entries
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().starts_with("book-"));
        let length = books.next()?.metadata().ok()?.len();
        // Without a case the book is a version, a height, a count and a checksum.
        (length > 2 + 8 + 4 + 32).then_some(())
    })
    .await;
    watching.kill();
    let watching = Watching::start(&own);
    drop(standing);
    let disputed = async {
        chain
            .wait_event(before, |record| {
                matches!(record.event, Event::PostDisputed { .. })
            })
            .await
    };
    let disputed = tokio::time::timeout(PATIENCE, disputed).await;
    let Ok(Some(record)) = disputed else {
        panic!("never disputed: {}", watching.said());
    };
    let Event::PostDisputed {
        provider,
        deadline,
        partition: index,
        close,
        disputer,
        charged,
        reward,
    } = record.event
    else {
        unreachable!("that is what was waited for");
    };
    let found = PostId {
        provider,
        deadline,
        partition: index,
        close,
    };
    assert_eq!((found, disputer), (posted, address));
    assert!(
        charged.0 > 0 && reward.0 == charged.0 / 10,
        "{charged} {reward}"
    );

    // Some blocks later it is still one announcement and one dispute, and the money is where it belongs.
    let at = chain.head().await.expect("reads").height;
    wait("blocks", async || {
        (chain.head().await.expect("reads").height > at + 20).then_some(())
    })
    .await;
    let account = chain.account(&address).await.expect("reads");
    assert_eq!(
        account.nonce,
        2,
        "an announcement and a dispute: {}",
        watching.said()
    );
    assert_eq!(account.free.0, money.0 + reward.0);
    let mut faulted = Vec::new();
    let mut blocks = chain.subscribe_events(1);
    while let Some(block) = blocks.recv().await {
        for record in &block.events {
            match record.event {
                Event::SectorFaulted {
                    provider,
                    reason: FaultReason::Disputed,
                    ..
                } => faulted.push(provider),
                Event::PostDisputed { provider, .. } => assert_eq!(provider, cheat),
                _ => {}
            }
        }
        if block.head.height > at {
            break;
        }
    }
    assert_eq!(faulted, [cheat], "nobody else's sector is disputed");

    // The command of one post: it is gone by now, and an honest one verifies.
    let check = |post: PostId| {
        let own = dir.path().join("checker");
        if !own.exists() {
            ask(&own, &["wallet", "new"]);
            std::fs::copy(home.chain_url(), own.join("chain.url")).expect("copies");
        }
        let output = run(&own, &["dispute", "check", &post.to_string()]);
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let gone = tokio::task::block_in_place(|| check(posted));
    assert_eq!(gone.0, Some(3), "{}", gone.1);
    assert!(gone.1.contains("no stored post"), "{}", gone.1);
    let begin = chain.head().await.expect("reads").height;
    let sound = chain
        .wait_event(begin, |record| PostId::of(&record.event).is_some())
        .await
        .and_then(|record| PostId::of(&record.event))
        .expect("an honest post");
    // Provable one block later.
    let verdict = wait("a verdict", async || {
        let verdict = tokio::task::block_in_place(|| check(sound));
        (verdict.0 != Some(3)).then_some(verdict)
    })
    .await;
    assert_eq!(verdict.0, Some(0), "{}", verdict.1);

    let summary = watching.end();
    assert_eq!(summary["disputes"], 1, "{summary}");
    assert_eq!(summary["open"], 0, "{summary}");

    // Nobody watches any more. The other one cheats too, and is disputed by hand.
    let own = dir.path().join("checker");
    let sound = sound.to_string();
    let refused = tokio::task::block_in_place(|| run(&own, &["dispute", "send", &sound]));
    // It verifies, or its window is over by now.
    assert!([Some(3), Some(4)].contains(&refused.status.code()));
    let posted = post_an_old_proof(&mut devnet, 1).await;
    let verdict = wait("a verdict", async || {
        let verdict = tokio::task::block_in_place(|| check(posted));
        (verdict.0 != Some(3)).then_some(verdict)
    })
    .await;
    assert_eq!(verdict.0, Some(6), "{}", verdict.1);
    assert!(verdict.1.contains("is wrong"), "{}", verdict.1);
    let name = posted.to_string();
    let sent = tokio::task::block_in_place(|| ask(&own, &["dispute", "send", &name]));
    let address = tokio::task::block_in_place(|| ask(&own, &["wallet", "address"]));
    assert_eq!(sent["by"], address["address"], "{sent}");
    assert_eq!((&sent["disputes"], &sent["open"]), (&1.into(), &0.into()));
    assert_ne!(sent["reward"], "0", "{sent}");
    let again = tokio::task::block_in_place(|| run(&own, &["dispute", "send", &name]));
    assert_eq!(again.status.code(), Some(3), "it is gone");
    devnet.shutdown().await.expect("stops in order");
}
