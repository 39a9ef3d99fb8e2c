//! The audit bundle of a real object: a devnet of 2 KiB sectors, real proofs, the real binary; then the file alone.
//!
//! The network is stopped before anything is verified, so that nothing but the file and the pinned chain id can speak for it.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chain_lite::bundle::{Anchor, Bundle};
use chain_lite::codec::tagged_hash;
use prover::{NoProgress, SectorSize};
use storage_node::config::{Config, Home};
use storage_node::devnet::{Devnet, DevnetConfig};

fn holdfast(home: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(args)
        .arg("--home")
        .arg(home)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .expect("starts")
}

fn json(output: &Output) -> serde_json::Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).expect("stdout is JSON alone")
}

#[tokio::test(flavor = "multi_thread")]
async fn tm_v12_one_file_shows_an_object_to_an_auditor_without_a_network_and_every_flipped_byte_is_found()
 {
    let dir = tempfile::tempdir().expect("a folder");
    let home = Home::new(dir.path().join("net"));
    let config = Config::resolve(None, None, |name| std::env::var_os(name)).expect("a platform");
    let settings = DevnetConfig {
        providers: 4,
        sector_size: SectorSize::Kib2,
        epoch_ms: 100,
        // For a run in which money is closed, as of the chain's own tests (`chain-lite/tests/economy/closed.rs`).
        closed_credit: std::env::var_os("HOLDFAST_TEST_CLOSED_CREDIT").is_some(),
        ..DevnetConfig::default()
    };
    let devnet = Devnet::start(&home, settings, &config.params_dir, Arc::new(NoProgress))
        .await
        .expect("starts");
    let url = devnet.chain_url();
    let chain_id = devnet.chain().chain_id();
    let root = home.root().to_owned();
    let run = |args: Vec<String>| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        tokio::task::block_in_place(|| holdfast(&root, &args))
    };
    let words = |line: &str| -> Vec<String> { line.split(' ').map(str::to_owned).collect() };

    let file = dir.path().join("sample");
    std::fs::write(&file, vec![7; 1500]).expect("writes");
    let put = run(words(&format!(
        "--json --chain {url} put {}",
        file.display()
    )));
    let id = json(&put)["object"].as_str().expect("an id").to_owned();

    // Until every piece is in a proven sector: sealing, PoRep, the first window.
    let hfa = dir.path().join("object.hfa");
    let make = format!(
        "--json --chain {url} audit bundle {id} -o {} --force --chain-id {chain_id}",
        hfa.display()
    );
    let begun = Instant::now();
    let made = loop {
        let made = json(&run(words(&make)));
        let groups = made["groups"].as_array().expect("a list");
        let proven = made["readable"] == true && groups.iter().all(|g| g["healthy"] == 4);
        // A provider that was too busy to answer is left out of the samples, and asked again the next time.
        let bytes = std::fs::read(&hfa).expect("written");
        let samples = Bundle::from_bytes(&bytes).expect("whole").samples;
        if proven && samples.len() == 4 * groups.len() {
            break made;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(1800),
            "never proven: {made}"
        );
        tokio::time::sleep(Duration::from_secs(2)).await;
    };
    devnet.shutdown().await.expect("stops in order");
    assert_eq!(made["valid"], true);

    // Another machine, no network, no chain: the file and the chain's id.
    let auditor = dir.path().join("auditor");
    let verify = format!("audit verify {} --chain-id {chain_id}", hfa.display());
    let begun = Instant::now();
    let text = tokio::task::block_in_place(|| {
        let verify = words(&verify);
        let verify: Vec<&str> = verify.iter().map(String::as_str).collect();
        holdfast(&auditor, &verify)
    });
    let took = begun.elapsed();
    let says = String::from_utf8(text.stdout).expect("text");
    println!("{says}\nverified in {took:?}");
    assert!(text.status.success(), "{says}");
    for what in [
        "file",
        "chain",
        "blocks",
        "state",
        "beacon",
        "porep",
        "window_post",
        "samples",
        "deals",
        "commitments",
        "placement",
        "1 of 1 segments stand in the order that the beacon of epoch",
        "readable",
        "the bundle holds",
    ] {
        assert!(says.contains(what), "no {what:?} in {says}");
    }
    let foreign = format!(
        "audit verify {} --chain-id {}",
        hfa.display(),
        "11".repeat(32)
    );
    assert_eq!(run(words(&foreign)).status.code(), Some(6));

    let bytes = std::fs::read(&hfa).expect("written");
    let anchor = Anchor {
        chain_id: Some(chain_id),
        checkpoint: None,
    };
    let bundle = Bundle::from_bytes(&bytes).expect("whole");
    let believed = bundle.verify(&anchor).expect("holds");
    let open = believed.deals.iter().filter(|(_, d)| d.status.is_open());
    assert_eq!(
        believed.samples.len(),
        open.count(),
        "every piece was read back"
    );
    assert!(!bundle.poreps.is_empty() && !bundle.windows.is_empty());

    // Bytes and cuts: the digest (chain-lite's own test takes every one). With a digest that fits again: the chain.
    for at in (0..bytes.len()).step_by(13) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        assert!(Bundle::from_bytes(&flipped).is_err(), "byte {at}");
        assert!(Bundle::from_bytes(&bytes[..at]).is_err(), "cut at {at}");
    }
    assert!(Bundle::from_bytes(&[bytes.as_slice(), &[0]].concat()).is_err());
    let content = 10 + 32..bytes.len() - 32;
    for at in content.step_by(bytes.len() / 150) {
        let mut flipped = bytes[..bytes.len() - 32].to_vec();
        flipped[at] ^= 1 << (at % 8);
        flipped.extend(tagged_hash("holdfast/audit-bundle/v1", &[&flipped]));
        let found = Bundle::from_bytes(&flipped).map(|bundle| bundle.verify(&anchor).is_ok());
        assert!(found != Ok(true), "byte {at} with a fitting digest");
    }
    // The subject is bound by the deals' labels, which the command reads.
    let other = Bundle {
        subject: [9; 32],
        ..bundle.clone()
    };
    std::fs::write(&hfa, other.to_bytes().expect("short")).expect("writes");
    assert_eq!(run(words(&verify)).status.code(), Some(6));
    // Leaving something out is noticed too.
    type Change = fn(&mut Bundle);
    let holes: [(&str, Change); 5] = [
        ("a PoRep", |b| drop(b.poreps.pop())),
        ("a window PoSt", |b| drop(b.windows.pop())),
        ("a beacon round", |b| drop(b.beacons.pop())),
        ("a leaf", |b| drop(b.leaves.pop())),
        ("the newest block", |b| drop(b.blocks.pop())),
    ];
    for (what, change) in holes {
        let mut less = bundle.clone();
        change(&mut less);
        assert!(less.verify(&anchor).is_err(), "without {what}");
    }
}
