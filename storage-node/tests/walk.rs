//! The README's walk, performed on sectors of 2 KiB with the real binary and real Groth16 proofs: `holdfast demo` end to
//! end, its report read the way `.ci/run` and users read it. One comment per row of the table.
//!
//! Cost: four PoRep proofs and about twenty window proofs, about two minutes on two cores; proving keys come from the
//! shared cache and are made there on first use.

use std::collections::BTreeSet;

use assert_cmd::Command;
use serde_json::Value;
use storage_node::kernels::Kernels;

/// Set for a run in which money is closed, as for the chain's own tests (`chain-lite/tests/economy/closed.rs`).
const CLOSED_CREDIT: &str = "HOLDFAST_TEST_CLOSED_CREDIT";

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("{key} is no text in {value}"))
}

fn tokens(value: &Value, key: &str) -> u128 {
    text(value, key)
        .parse()
        .unwrap_or_else(|_| panic!("{key} is no decimal amount in {value}"))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a Vec<Value> {
    value[key]
        .as_array()
        .unwrap_or_else(|| panic!("{key} is no list"))
}

#[test]
fn the_walk_holds_from_a_file_to_a_caught_cheat_and_back() {
    let home = tempfile::tempdir().expect("a temporary home");
    let run = Command::cargo_bin("holdfast")
        .expect("the binary of this build")
        // `--home` before the command here; the prover's own tests use it after.
        .arg("--home")
        .arg(home.path())
        .args(["demo", "--sector-size", "2KiB", "--json"])
        .args(std::env::var_os(CLOSED_CREDIT).map(|_| "--closed-credit"))
        .output()
        .expect("the demo runs");
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "the demo failed:\n{said}");
    // stdout is the JSON alone, whatever was said on the way.
    let report: Value = serde_json::from_slice(&run.stdout).expect("stdout is one JSON value");

    // ask, encrypt, erasure-code: the sample, any 2 of 4.
    assert_eq!(
        report["file_bytes"],
        storage_node::demo::TINY_SAMPLE.1.len()
    );
    assert_eq!(
        (&report["k"], &report["m"]),
        (&Value::from(2), &Value::from(2))
    );
    // pad, commit; agree: data and manifest, one deal per provider each, and every one was paid.
    let deals = list(&report, "deals");
    assert_eq!(deals.len(), 8);
    for deal in deals {
        assert_eq!(text(deal, "piece").len(), 64);
        assert!(tokens(deal, "paid") > 0, "an unpaid deal: {deal}");
        assert!(tokens(deal, "paid") + tokens(deal, "refunded") <= tokens(deal, "price_total"));
    }
    // into a sector, label, encode, prove, accept: a replica each, all different, none of them the data. A copy of the manifest that
    // comes late, because its disk was slow, goes into a second sector.
    let sectors = list(&report, "sectors");
    assert!((4..=8).contains(&sectors.len()), "{sectors:?}");
    let owners: BTreeSet<String> = sectors.iter().map(|s| s["provider"].to_string()).collect();
    assert_eq!(owners.len(), 4, "each has a sector");
    let replicas: BTreeSet<&str> = sectors.iter().map(|s| text(s, "comm_r")).collect();
    assert_eq!(replicas.len(), sectors.len(), "two have the same replica");
    for sector in sectors {
        assert_eq!(sector["sector_size"], 2048);
        assert_ne!(sector["comm_r"], sector["comm_d"]);
        for stage in ["pc1", "pc2", "c1", "c2"] {
            assert!(sector["seconds"][stage].is_number(), "no time for {stage}");
        }
    }
    // keep proving: every provider posted, and was rewarded for it.
    let providers = list(&report, "providers");
    assert_eq!(providers.len(), 4);
    for provider in providers {
        assert!(
            provider["window_posts"].as_u64() >= Some(1),
            "{provider} never posted"
        );
        assert!(tokens(provider, "rewarded") > 0);
    }
    let posts: u64 = providers
        .iter()
        .filter_map(|p| p["window_posts"].as_u64())
        .sum();
    assert_eq!(report["window_posts"], posts);
    // send, back: ranges, then the whole file with two providers switched off.
    assert!(report["ranges_verified"].as_u64() >= Some(1));
    assert_eq!(report["restored_equal"], true);
    // keep proving, back: the damage was found and charged to that provider and to nobody else.
    let fault = &report["fault"];
    assert!(fault["detected_epoch"].as_u64() >= fault["damaged_epoch"].as_u64());
    assert!(tokens(fault, "charged") > 0);
    for provider in providers {
        let guilty = provider["id"] == fault["provider"];
        assert_eq!(
            tokens(provider, "charged") > 0,
            guilty,
            "charged wrongly: {provider}"
        );
    }
    // label, prove: in the fastest code that this machine has, without being asked.
    assert_eq!(report["kernels"], serde_json::json!(Kernels::chosen()));
    // and all of it again, by an auditor who saw only the exported chain: every PoRep and every post.
    let audit = &report["audit"];
    assert_eq!(audit["supply_ok"], true);
    let sealed = sectors.len() as u64;
    assert!(audit["proofs_verified"].as_u64() >= Some(sealed + posts));
    assert!(audit["blocks"].as_u64() > Some(100));
    // The run's folder is gone; the home holds nothing else.
    let left: Vec<_> = std::fs::read_dir(home.path()).expect("the home").collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn a_file_that_would_take_hours_is_refused_with_the_count_and_the_estimate() {
    let home = tempfile::tempdir().expect("a temporary home");
    let file = home.path().join("large");
    std::fs::File::create(&file)
        .and_then(|f| f.set_len(1 << 30))
        .expect("a sparse file");
    let run = Command::cargo_bin("holdfast")
        .expect("the binary of this build")
        .args(["demo", "--home"])
        .arg(home.path())
        .arg(&file)
        .output()
        .expect("the demo runs");
    assert_eq!(run.status.code(), Some(4), "exit code of a refusal");
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(
        said.contains("sectors of 8MiB") && said.contains("minutes"),
        "{said}"
    );
}

#[test]
fn missing_empty_and_odd_files_are_refused_before_anything_starts() {
    let home = tempfile::tempdir().expect("a temporary home");
    let empty = home.path().join("empty");
    std::fs::write(&empty, b"").expect("writes");
    for path in [
        home.path().join("missing"),
        empty,
        home.path().to_path_buf(),
    ] {
        let run = Command::cargo_bin("holdfast")
            .expect("the binary of this build")
            .args(["demo", "--sector-size", "2KiB", "--home"])
            .arg(home.path())
            .arg(&path)
            .output()
            .expect("the demo runs");
        assert_eq!(
            run.status.code(),
            Some(3),
            "exit code of bad input for {}",
            path.display()
        );
        assert!(String::from_utf8_lossy(&run.stderr).contains("hint:"));
    }
}
