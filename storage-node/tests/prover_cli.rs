//! `holdfast prover` as a person runs it: the real binary on real files, and every wrong input it may meet.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

/// A folder of its own for files, sectors and keys.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("temporary folder"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, bytes: usize) -> PathBuf {
        let path = self.path(name);
        let content: Vec<u8> = (0..bytes).map(|i| (i * 7 % 251) as u8).collect();
        std::fs::write(&path, content).expect("writable");
        path
    }

    /// Runs `holdfast prover … --json` and gives the exit code and the one JSON value on stdout.
    fn run(&self, args: &[&str]) -> (i32, Value) {
        let output = Command::cargo_bin("holdfast")
            .expect("the binary is built for its tests")
            .env("HOLDFAST_HOME", self.path("home"))
            .env("HOLDFAST_PARAMS", self.path("params"))
            .arg("prover")
            .args(args)
            .args(["--json", "--quiet", "--threads", "2"])
            .output()
            .expect("the binary runs");
        let stdout = String::from_utf8(output.stdout).expect("JSON is UTF-8");
        let value = serde_json::from_str(&stdout)
            .unwrap_or_else(|error| panic!("stdout is one JSON value: {error}: {stdout:?}"));
        (output.status.code().expect("it was not killed"), value)
    }

    fn seal_to_replica(&self, name: &str, sector: &str, file: &Path) -> Value {
        let dir = self.path(name);
        let args = [
            "seal",
            text(&dir),
            text(file),
            "--sector-size",
            "2KiB",
            "--sector",
            sector,
        ];
        let (code, report) = self.run(&[&args[..], &["--until", "replicated"]].concat());
        assert_eq!(code, 0, "{report}");
        report
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("readable");
    bytes[at] ^= 1;
    std::fs::write(path, bytes).expect("writable");
}

#[test]
fn seal_resume_unseal_check_repair() {
    let desk = Desk::new();
    let (file, dir) = (desk.file("data", 2000), desk.path("sector"));
    let report = desk.seal_to_replica("sector", "7", &file);
    assert_eq!(report["stage"], "replicated");
    assert_eq!(report["sector"], 7);
    let comm_r = report["comm_r"]
        .as_str()
        .expect("a replica has a CommR")
        .to_owned();

    let (code, report) = desk.run(&["seal", text(&dir), "--until", "challenged"]);
    assert_eq!(
        (code, &report["stage"]),
        (0, &Value::from("challenged")),
        "{report}"
    );
    assert_eq!(report["comm_r"], comm_r);

    let out = desk.path("back");
    let (code, report) = desk.run(&[
        "unseal",
        text(&dir),
        "--range",
        "100..1500",
        "-o",
        text(&out),
    ]);
    assert_eq!(
        (code, report["bytes"].as_u64()),
        (0, Some(1400)),
        "{report}"
    );
    let data = std::fs::read(&file).expect("readable");
    assert_eq!(std::fs::read(&out).expect("readable"), data[100..1500]);
    let (code, report) = desk.run(&["unseal", text(&dir), "-o", text(&out)]);
    assert_eq!(code, 3, "nothing is overwritten: {report}");

    assert_eq!(desk.run(&["check", text(&dir)]).0, 0);
    flip(&dir.join("sealed"), 99);
    assert_eq!(desk.run(&["check", text(&dir)]).0, 6);
    let missing = desk.path("missing");
    let (code, report) = desk.run(&["unseal", text(&dir), "-o", text(&missing)]);
    assert_eq!(code, 6, "{report}");
    assert!(!missing.exists(), "no output of damaged data");
    let (code, report) = desk.run(&["repair", text(&dir)]);
    assert_eq!(
        (code, &report["comm_r"]),
        (0, &Value::from(comm_r)),
        "{report}"
    );
    assert_eq!(desk.run(&["check", text(&dir)]).0, 0);
}

#[test]
fn window_post_is_proven_verified_and_refused_when_changed() {
    let desk = Desk::new();
    let file = desk.file("data", 1000);
    for (name, number) in [("a", "3"), ("b", "9")] {
        desk.seal_to_replica(name, number, &file);
    }
    let (a, b, proof) = (desk.path("a"), desk.path("b"), desk.path("proof.json"));
    let (code, report) = desk.run(&["prove", text(&b), text(&a), "--out", text(&proof)]);
    assert_eq!(code, 0, "{report}");
    assert_eq!(report["sectors"][0]["number"], 3, "sorted by number");
    let (code, report) = desk.run(&["verify", text(&proof)]);
    assert_eq!(
        (code, &report["valid"]),
        (0, &Value::from(true)),
        "{report}"
    );

    let sound = std::fs::read_to_string(&proof).expect("readable");
    let changes = [
        ("\"number\": 9", "\"number\": 10"),
        ("\"kind\": \"window\"", "\"kind\": \"winning\""),
    ];
    for (from, to) in changes {
        assert!(sound.contains(from));
        std::fs::write(&proof, sound.replace(from, to)).expect("writable");
        assert_eq!(desk.run(&["verify", text(&proof)]).0, 6, "{to}");
    }
    for junk in ["", "{}", "[1, 2", "{\"kind\": \"porep\"}"] {
        std::fs::write(&proof, junk).expect("writable");
        assert_eq!(desk.run(&["verify", text(&proof)]).0, 3, "{junk:?}");
    }

    flip(&a.join("p_aux"), 0);
    let (code, report) = desk.run(&["prove", text(&b), text(&a)]);
    assert_eq!(code, 6, "{report}");
    let message = report["error"]["message"]
        .as_str()
        .expect("an error says what happened");
    assert!(message.contains("sectors 3 "), "{message}");
}

#[test]
fn wrong_inputs_have_a_message_a_next_step_and_a_code() {
    let desk = Desk::new();
    let (good, empty, large) = (
        desk.file("good", 10),
        desk.file("empty", 0),
        desk.file("large", 2033),
    );
    let (dir, missing, out) = (desk.path("sector"), desk.path("missing"), desk.path("out"));
    let refused = |code: i32, args: &[&str]| {
        let (found, report) = desk.run(args);
        assert_eq!(found, code, "{args:?}: {report}");
        for part in ["message", "hint"] {
            let said = report["error"][part].as_str();
            assert!(
                said.is_some_and(|text| !text.is_empty()),
                "{args:?} has no {part}: {report}"
            );
        }
    };
    let size = "--sector-size=2KiB";
    refused(2, &["seal", text(&dir), size]);
    refused(3, &["seal", text(&dir), text(&missing), size]);
    refused(3, &["seal", text(&dir), text(desk.dir.path()), size]);
    refused(3, &["seal", text(&dir), text(&empty), size]);
    refused(3, &["seal", text(&dir), text(&large), size]);
    refused(3, &["seal", text(&good), text(&good), size]);
    refused(
        7,
        &["seal", text(&dir), text(&good), "--memory", "1MiB", size],
    );
    refused(3, &["seal", text(&dir), text(&good), size]);
    refused(3, &["unseal", text(&missing), "-o", text(&out)]);
    refused(3, &["unseal", text(&good), "-o", text(&out)]);
    refused(3, &["unseal", text(&dir), "-o", text(&out)]);
    refused(3, &["check", text(&missing)]);
    refused(3, &["repair", text(&missing)]);
    refused(3, &["prove", text(&missing)]);
    refused(3, &["prove", text(&dir)]);
    refused(3, &["verify", text(&missing)]);
    refused(3, &["vectors", text(&good)]);
    refused(4, &["params", "porep-32GiB"]);
}
