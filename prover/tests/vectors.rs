//! Runs golden vectors: the tree's own, or the file named by `HOLDFAST_VECTORS`.
//!
//! ```text
//! cargo test -p prover --test vectors                                  the tree's own file
//! HOLDFAST_VECTORS=other.json cargo test -p prover --test vectors      any file of that format
//! HOLDFAST_VECTORS_LARGE=1 cargo test -p prover --release --test vectors      with the 512 MiB sector
//! ```

#![cfg(feature = "prove")]

use prover::NoProgress;
use prover::vectors::{self, Options, Report};
use serde_json::Value;
use std::path::PathBuf;

fn options() -> Options {
    let large = std::env::var_os("HOLDFAST_VECTORS_LARGE").is_some_and(|value| value == "1");
    Options {
        large,
        scratch: std::env::temp_dir(),
    }
}

fn own_file() -> PathBuf {
    fixtures::path("vectors/filecoin.json")
}

#[test]
fn every_group_holds() {
    let given = std::env::var_os("HOLDFAST_VECTORS").map(PathBuf::from);
    let path = given.clone().unwrap_or_else(own_file);
    let report =
        vectors::run_file(&path, &options(), &NoProgress).unwrap_or_else(|e| panic!("{e}"));
    println!("{report}");
    assert!(report.ok(), "{report}");
    if given.is_none() {
        assert_eq!(
            report.unknown().collect::<Vec<_>>(),
            Vec::<&str>::new(),
            "our own file has nothing unknown"
        );
        let skipped: Vec<&str> = report
            .groups
            .iter()
            .filter(|group| group.skipped.is_some())
            .map(|group| group.name.as_str())
            .collect();
        let expected: &[&str] = if options().large {
            &[]
        } else {
            &["sectors.512MiB"]
        };
        assert_eq!(
            skipped, expected,
            "only the large sector waits for its own command"
        );
        let empty = report
            .groups
            .iter()
            .find(|group| group.skipped.is_none() && group.passed == 0);
        assert_eq!(
            empty.map(|group| &group.name),
            None,
            "a group without a comparison tests nothing"
        );
    }
}

/// The tree's file without sectors: quick to run many times.
fn small_file() -> Value {
    let mut file = fixtures::json("vectors/filecoin.json");
    file.as_object_mut().expect("an object").remove("sectors");
    file
}

fn run(file: &Value) -> Report {
    vectors::run(file.to_string().as_bytes(), &options(), &NoProgress)
        .unwrap_or_else(|e| panic!("{e}"))
}

/// Changes one hex digit or number of every group in turn: the group, and only it, must fail.
#[test]
fn a_changed_value_fails_in_its_group() {
    let file = small_file();
    for name in file["small_vectors"].as_object().expect("an object").keys() {
        let mut changed = file.clone();
        let spoiled = changed["small_vectors"][name]
            .as_array_mut()
            .expect("a list")
            .last_mut()
            .is_some_and(spoil);
        assert!(spoiled, "{name} has a value to change");
        let report = run(&changed);
        let failed: Vec<&str> = report
            .groups
            .iter()
            .filter(|group| group.failed > 0)
            .map(|group| group.name.as_str())
            .collect();
        assert_eq!(failed, [format!("small_vectors.{name}")], "{report}");
    }
}

/// Changes the first long hex string or list of numbers found, depth first.
fn spoil(value: &mut Value) -> bool {
    match value {
        Value::String(text) if text.len() >= 32 && text.bytes().all(|b| b.is_ascii_hexdigit()) => {
            let digit = if text.starts_with('0') { "1" } else { "0" };
            text.replace_range(..1, digit);
            true
        }
        Value::Array(list) => match list.last_mut() {
            Some(Value::Number(number)) => {
                let changed = number.as_u64().map_or(0, |n| n ^ 1);
                *number = changed.into();
                true
            }
            _ => list.iter_mut().any(spoil),
        },
        Value::Object(map) => map
            .iter_mut()
            .filter(|(key, _)| *key != "what")
            .any(|(_, value)| spoil(value)),
        _ => false,
    }
}

#[test]
fn unknown_parts_are_reported() {
    let mut file = small_file();
    file["extra_part"] = Value::from(1);
    file["small_vectors"]["new_group"] = serde_json::json!([{ "x": 1 }]);
    file["small_vectors"]["replica_id"][0]["new_key"] = Value::from(1);
    file["sectors"] = serde_json::json!({
        "1GiB": { "sector_size": 1u64 << 30, "cases": [] },
        "2KiB": { "sector_size": 2048, "cases": [], "new_list": [] },
    });
    let report = run(&file);
    let unknown: Vec<&str> = report.unknown().collect();
    for expected in [
        "extra_part",
        "small_vectors.new_group",
        "small_vectors.replica_id[0].new_key",
        "sectors.2KiB.new_list",
    ] {
        assert!(
            unknown.contains(&expected),
            "{expected} is not in {unknown:?}"
        );
    }
    assert!(
        report
            .groups
            .iter()
            .any(|group| group.name == "sectors.1GiB" && group.skipped.is_some())
    );
    assert!(report.ok(), "unknown parts are no failures: {report}");
}

/// Wrong types and absurd sizes anywhere are failures of their entry, not panics and not endless work.
#[test]
fn tm_p17_malformed_entries_are_failures() {
    let file = small_file();
    let bad = [
        Value::Null,
        Value::from(u64::MAX),
        Value::from("zz"),
        serde_json::json!([[u64::MAX, [0]]]),
        Value::from(0),
    ];
    for (name, list) in file["small_vectors"].as_object().expect("an object") {
        for key in list[0].as_object().expect("an object").keys() {
            for value in &bad {
                let mut changed =
                    serde_json::json!({ "small_vectors": { name: [list[0].clone()] } });
                changed["small_vectors"][name][0][key] = value.clone();
                // Some replacements are harmless (a note in words); none may panic.
                run(&changed);
            }
        }
    }
    let report = run(
        &serde_json::json!({ "small_vectors": { "feistel": 7 }, "sectors": { "2KiB": [], "4KiB": {} } }),
    );
    assert_eq!(report.failed(), 3, "{report}");
    assert!(!report.ok());
}

#[test]
fn files_that_are_no_vectors_are_refused() {
    let missing = vectors::run_file(&PathBuf::from("no-such-file.json"), &options(), &NoProgress);
    assert!(missing.is_err_and(|e| e.to_string().contains("no-such-file.json")));
    for text in ["", "[]", "{", "not json"] {
        assert!(
            vectors::run(text.as_bytes(), &options(), &NoProgress).is_err(),
            "{text}"
        );
    }
}

/// A file that takes more memory than the run asks for is refused before it is read, or before it is parsed.
#[test]
fn tm_p17_a_file_that_takes_more_memory_than_was_asked_for_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("vectors.json");
    let refused = |bytes: &[u8], len: u64| {
        std::fs::write(&path, bytes).expect("writes");
        let file = std::fs::File::options().write(true).open(&path);
        file.and_then(|file| file.set_len(len)).expect("sets");
        let run = vectors::run_file(&path, &options(), &NoProgress);
        run.expect_err("refused").to_string()
    };
    // What is left of the memory for everything but sealing.
    let longest = 8 << 20;
    let said = refused(b"", longest + 1);
    assert!(said.contains("at most 8388608"), "{said}");
    // Zeros, read and found to be no JSON.
    let said = refused(b"", longest);
    assert!(said.contains("not a vector file: expected value"), "{said}");
    // A megabyte that takes a hundred.
    let dense = format!("{{\"about\":[{}{{}}]}}", "{},".repeat(300_000));
    let said = refused(dense.as_bytes(), dense.len() as u64);
    assert!(said.contains("MiB in memory, more than 32 MiB"), "{said}");
}
