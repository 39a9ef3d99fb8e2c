//! `holdfast prover` as a person runs it: the real binary on real files, and every wrong input it may meet.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use prover::SectorSize;
use prover::machine::Machine;
use prover::seal::{disk_bytes, require_disk};
use prover::sector_dir::disk::RealDisk;
use serde_json::Value;
use storage_node::kernels::Kernels;

/// A folder of its own for files, sectors and keys.
struct Desk {
    dir: tempfile::TempDir,
    params: PathBuf,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let params = dir.path().join("params");
        Self { dir, params }
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
            .env("HOLDFAST_PARAMS", &self.params)
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

    /// Starts `holdfast prover …` and does not wait; its result goes to `stdout`.
    fn start(&self, args: &[&str], stdout: Stdio) -> Child {
        std::process::Command::new(assert_cmd::cargo::cargo_bin("holdfast"))
            .env("HOLDFAST_HOME", self.path("home"))
            .env("HOLDFAST_PARAMS", &self.params)
            .arg("prover")
            .args(args)
            .args(["--json", "--quiet", "--threads", "2"])
            .stdout(stdout)
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts")
    }

    /// Starts `holdfast prover …` and kills it after a while, with SIGKILL where there is such a thing. It may have ended before.
    fn kill_after(&self, args: &[&str], after: Duration) {
        let mut child = self.start(args, Stdio::null());
        std::thread::sleep(after);
        let _ = child.kill();
        child.wait().expect("it was started here");
    }

    /// Starts `holdfast prover …` and kills it as soon as `begun` sees that the work has begun; whether that was before its end.
    fn kill_when(&self, args: &[&str], begun: impl Fn() -> bool) -> bool {
        let mut child = self.start(args, Stdio::null());
        while child.try_wait().expect("it was started here").is_none() {
            if begun() {
                let _ = child.kill();
                let status = child.wait().expect("it was started here");
                return status.code().is_none();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        false
    }

    /// Runs a command in the memory that it asks for when it is allowed less, and no more.
    fn run_within_need(&self, args: &[&str]) -> Value {
        let needed = self.memory_needed(args);
        let budget = format!("{needed}MiB");
        let (code, report) = self.run(&[args, &["--memory", &budget]].concat());
        assert_eq!(code, 0, "{args:?} in {budget}: {report}");
        assert_within(&report, needed);
        report
    }

    /// MiB that the command says it needs when it is allowed one.
    fn memory_needed(&self, args: &[&str]) -> u64 {
        let (code, report) = self.run(&[args, &["--memory", "1MiB"]].concat());
        assert_eq!(code, 7, "{args:?}: {report}");
        assert!(report["error"]["hint"].is_string(), "{args:?}: {report}");
        let refusal = report["error"].to_string();
        refusal
            .split_once("needs ")
            .and_then(|(_, rest)| rest.split_once(" MiB"))
            .and_then(|(mib, _)| mib.parse().ok())
            .unwrap_or_else(|| panic!("the refusal says how much is needed: {refusal}"))
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

/// A budget in MiB with what the driver of a GPU takes on top, where there is one: the program counts 192 MiB for it.
fn beside_gpu(budget: u64) -> u64 {
    budget + Kernels::chosen().gpu.map_or(0, |_| 192)
}

/// The command's own figure of its largest resident memory, against a budget in MiB with a twentieth on top.
fn assert_within(report: &Value, budget: u64) {
    let peak = report["peak_memory"].as_u64().expect("Linux says it");
    assert!(
        peak <= (budget << 20) / 100 * 105,
        "{peak} bytes of {budget} MiB: {report}"
    );
}

/// A proof file that is cut, bent or another's, by these changes of its fields, is refused as bad data; the sound one is
/// accepted afterwards.
fn assert_bent_proofs_are_refused(desk: &Desk, file: &Path, foreign: &[(&str, Value)]) {
    let text_of = std::fs::read_to_string(file).expect("readable");
    let sound: Value = serde_json::from_str(&text_of).expect("a proof file");
    let proof = sound["proof"].as_str().expect("a proof").to_owned();
    let bent = |at: usize| {
        let other = if proof[at..].starts_with('0') {
            "1"
        } else {
            "0"
        };
        format!("{}{other}{}", &proof[..at], &proof[at + 1..])
    };
    let proofs = [
        proof[..proof.len() - 2].to_owned(),
        proof[..proof.len() / 2].to_owned(),
        String::new(),
        format!("{proof}00"),
        format!("{proof}{proof}"),
        bent(1),
        bent(proof.len() / 2),
        bent(proof.len() - 1),
        proof.replacen(&proof[..2], "zz", 1),
    ];
    let proofs = proofs.map(|proof| ("proof", Value::from(proof)));
    for (field, value) in proofs.iter().chain(foreign) {
        let mut changed = sound.clone();
        assert_ne!(&changed[*field], value, "a change");
        changed[*field] = value.clone();
        std::fs::write(file, changed.to_string()).expect("writable");
        let (code, report) = desk.run(&["verify", text(file)]);
        assert_eq!(code, 6, "{field} {value}: {report}");
        assert!(report["error"]["hint"].is_string(), "{field}: {report}");
    }
    std::fs::write(file, text_of).expect("writable");
    assert_eq!(desk.run(&["verify", text(file)]).0, 0);
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
    let whole = std::fs::read(dir.join("sealed")).expect("readable");
    std::fs::write(dir.join("sealed"), &whole[..1024]).expect("writable");
    let (code, report) = desk.run(&["unseal", text(&dir), "-o", text(&missing)]);
    assert_eq!(code, 6, "a cut file is damage: {report}");
    assert!(report["error"]["hint"].is_string(), "{report}");
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
    // The proof of one of the two alone, and that of the other as the winner.
    let (alone, winning) = (desk.path("alone.json"), desk.path("winning.json"));
    let proof_of = |file: &Path| -> Value {
        let text = std::fs::read_to_string(file).expect("readable");
        serde_json::from_str::<Value>(&text).expect("a proof file")["proof"].clone()
    };
    let (code, report) = desk.run(&["prove", text(&a), "--out", text(&alone)]);
    assert_eq!(code, 0, "{report}");
    let other_randomness = Value::from("01".repeat(32));
    let foreign = [
        ("proof", proof_of(&alone)),
        ("randomness", other_randomness),
    ];
    assert_bent_proofs_are_refused(&desk, &proof, &foreign);
    for dir in [&a, &b] {
        let args = ["prove", text(dir), "--winning", "--out", text(&winning)];
        let (code, report) = desk.run(&args);
        assert_eq!(code, 0, "{report}");
        std::fs::copy(&winning, dir.join("winning.json")).expect("writable");
    }
    let foreign = [
        ("proof", proof_of(&a.join("winning.json"))),
        ("proof", proof_of(&alone)),
    ];
    assert_bent_proofs_are_refused(&desk, &winning, &foreign);

    let changes = [
        ("\"number\": 9", "\"number\": 10"),
        ("\"kind\": \"window\"", "\"kind\": \"winning\""),
    ];
    for (from, to) in changes {
        assert!(sound.contains(from));
        std::fs::write(&proof, sound.replace(from, to)).expect("writable");
        assert_eq!(desk.run(&["verify", text(&proof)]).0, 6, "{to}");
    }
    let extended = [
        &sound,
        &std::fs::read_to_string(&winning).expect("readable"),
    ]
    .map(|sound| sound.replacen('{', "{ \"also\": 1,", 1));
    let junk = ["", "{}", "[1, 2", "{\"kind\": \"porep\"}"];
    for junk in junk.into_iter().chain(extended.iter().map(String::as_str)) {
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
    assert!(!dir.exists(), "nothing was begun");
    let packed = ["seal", text(&dir), text(&good), "--until=packed", size];
    assert_eq!(desk.run(&packed).0, 0);
    let other = desk.file("other", 11);
    refused(3, &["seal", text(&dir), text(&other), size]);
    refused(3, &["seal", text(&dir), text(&good), text(&other), size]);
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

/// The platform's cache of keys, which other tests fill as well: a PoRep key takes a minute to make.
fn shared_params() -> PathBuf {
    match std::env::var_os("HOLDFAST_PARAMS") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let dirs = directories::ProjectDirs::from("", "", "holdfast").expect("a home folder");
            dirs.cache_dir().join("params")
        }
    }
}

/// Killed at moments all over pack, PC1, PC2 and C1, then twice within C2: the same command goes on each time, ends with the
/// CommR of a run that nobody disturbed, and with a proof that the front door accepts. The proof is made in the memory that
/// the command asks for when it is allowed less.
#[test]
fn tm_h8_tm_h9_a_seal_killed_at_any_moment_resumes_to_the_same_comm_r_and_a_valid_proof() {
    let desk = Desk {
        params: shared_params(),
        ..Desk::new()
    };
    let file = desk.file("data", 2000);
    let start = Instant::now();
    let whole = desk.seal_to_replica("undisturbed", "7", &file);
    let usual = start.elapsed();
    let args = ["--sector-size", "2KiB", "--sector", "7"];
    let new = |dir: &Path| {
        let words = [text(dir), text(&file)];
        words
            .into_iter()
            .chain(args)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    // One sector that is killed again and again, and one for each moment.
    let again = desk.path("again");
    let moments = 12;
    for moment in 0..moments {
        let after = usual * moment / (moments - 2);
        for dir in [again.clone(), desk.path(&format!("moment-{moment}"))] {
            let fresh = std::fs::read_dir(&dir).map_or(true, |mut list| list.next().is_none());
            let words = if fresh {
                new(&dir)
            } else {
                vec![text(&dir).to_owned()]
            };
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let words = [&["seal"], &words[..], &["--until", "challenged"]].concat();
            desk.kill_after(&words, after);
        }
    }
    let finish = |dir: &Path, until: &str| {
        let (code, report) = desk.run(&["seal", text(dir), "--until", until]);
        if code != 2 {
            return (code, report);
        }
        // Killed before anything was durable: nothing was lost, and the files are named again.
        let words = new(dir);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        desk.run(&[&["seal"], &words[..], &["--until", until]].concat())
    };
    let dirs = (0..moments).map(|moment| desk.path(&format!("moment-{moment}")));
    for dir in dirs.chain([again.clone()]) {
        let (code, report) = finish(&dir, "challenged");
        assert_eq!(code, 0, "{}: {report}", dir.display());
        assert_eq!(report["comm_r"], whole["comm_r"], "{}", dir.display());
    }

    // C2: first while the key is read, then while the proof is made.
    for after in [100, 700] {
        desk.kill_after(&["seal", text(&again)], Duration::from_millis(after));
        let (code, report) = desk.run(&["seal", text(&again), "--until", "packed"]);
        assert_eq!(code, 0, "{report}");
        assert_eq!(report["comm_r"], whole["comm_r"]);
    }
    let proof = desk.path("proof.json");
    let needed = desk.memory_needed(&["seal", text(&again)]);
    let budget = format!("{needed}MiB");
    let (code, report) = desk.run(&[
        "seal",
        text(&again),
        "--out",
        text(&proof),
        "--memory",
        &budget,
    ]);
    assert_eq!(
        (code, &report["stage"]),
        (0, &Value::from("sealed")),
        "{report}"
    );
    assert_eq!(report["comm_r"], whole["comm_r"]);
    assert_within(&report, needed);
    let (code, report) = desk.run(&["verify", text(&proof)]);
    assert_eq!(
        (code, &report["valid"]),
        (0, &Value::from(true)),
        "{report}"
    );
    let foreign = [
        ("sector", Value::from(8)),
        ("ticket", Value::from("21".repeat(32))),
        ("seed", Value::from("43".repeat(32))),
        ("comm_d", whole["comm_r"].clone()),
        ("comm_r", whole["comm_d"].clone()),
    ];
    assert_bent_proofs_are_refused(&desk, &proof, &foreign);
}

/// Killed while the verifying key is there alone, while the points are written, and as the file takes its name: nothing
/// half-written is listed or used, and the next run makes the same key as one that nobody disturbed.
#[test]
fn tm_s3_tm_h8_a_key_whose_making_is_killed_is_made_anew_and_the_same() {
    let desk = Desk::new();
    let make = ["params", "window-2KiB"];
    let path = |name: &str| desk.params.join(name);
    let (key, half) = (path("window-2KiB.params"), path("window-2KiB.params.tmp"));
    let record = path("window-2KiB.params.json");
    let written =
        |file: &Path, least: u64| std::fs::metadata(file).is_ok_and(|meta| meta.len() >= least);
    let vk = path("window-2KiB.vk.json");
    // A machine that is busy elsewhere may look up after the key is made: then it is made, and killed, once more.
    let cut = |begun: &dyn Fn() -> bool| {
        let killed = |_| {
            let killed = desk.kill_when(&make, begun) && begun() && !record.exists();
            if !killed {
                std::fs::remove_dir_all(&desk.params).expect("removable");
            }
            killed
        };
        assert!((0..20).any(killed), "never in time");
    };
    cut(&|| vk.exists());
    for least in [1, 4 << 20, 7 << 20] {
        cut(&|| written(&half, least));
        assert!(written(&half, least), "cut half-way");
        let (code, report) = desk.run(&["params"]);
        assert_eq!(
            (code, &report["keys"]),
            (0, &serde_json::json!([])),
            "half a key is none"
        );
    }
    // The whole file without its record counts for nothing either; should the record be there, it is the key.
    desk.kill_when(&make, || key.exists());
    let (code, report) = desk.run(&[&make[..], &["--check"]].concat());
    assert_eq!(code, 0, "{report}");
    assert!(!half.exists(), "what was cut is gone");

    let undisturbed = Desk::new();
    assert_eq!(undisturbed.run(&make).0, 0);
    for name in ["window-2KiB.params", "window-2KiB.vk"] {
        let made = [&desk, &undisturbed].map(|desk| std::fs::read(desk.params.join(name)));
        let [ours, theirs] = made.map(|bytes| bytes.expect("a key"));
        assert!(ours == theirs, "{name} differs");
    }
}

/// `seal-all` killed at moments all over pack, PC1, PC2 and C1, then while its second proof is made: the same command, word for
/// word, goes on, ends with the CommRs of sectors sealed alone, and with proofs that the front door accepts. A proof that was made is not made again.
#[test]
fn tm_h8_a_seal_all_killed_at_any_moment_resumes_to_the_same_comm_rs_and_valid_proofs() {
    let desk = Desk {
        params: shared_params(),
        ..Desk::new()
    };
    let files = [desk.file("data-7", 2000), desk.file("data-8", 700)];
    let size = ["--sector-size", "2KiB", "--sector", "7"];
    let new = |root: &Path| -> Vec<String> {
        let words = ["seal-all", text(root), text(&files[0]), text(&files[1])];
        let words = words.into_iter().chain(size);
        words.map(str::to_owned).collect()
    };
    let start = Instant::now();
    let alone = ["7", "8"].map(|number| {
        let file = desk.path(&format!("data-{number}"));
        desk.seal_to_replica(&format!("alone-{number}"), number, &file)["comm_r"].clone()
    });
    let usual = start.elapsed();

    let comm_rs = |report: &Value| -> Vec<Value> {
        let sectors = report["sectors"].as_array().expect("a list");
        sectors
            .iter()
            .map(|sector| sector["comm_r"].clone())
            .collect()
    };
    let moments = 10;
    for moment in 0..moments {
        let root = desk.path(&format!("moment-{moment}"));
        let words = new(&root);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let until = ["--until", "challenged"];
        desk.kill_after(
            &[&words[..], &until].concat(),
            usual * moment / (moments - 2),
        );
        let (code, report) = desk.run(&[&words[..], &until].concat());
        assert_eq!(code, 0, "{moment}: {report}");
        assert_eq!(comm_rs(&report), alone, "{moment}");
    }

    // C2 of two sectors. A machine that is busy elsewhere may look up after the second: then another two are proven.
    let dirs = |moment: usize| {
        let root = desk.path(&format!("moment-{moment}"));
        (root, desk.path(&format!("proofs-{moment}")))
    };
    let cut = (0..moments as usize).map(dirs).find(|(root, out)| {
        let go_on = ["seal-all", text(root), "--out", text(out)];
        let first = out.join("7.json");
        desk.kill_when(&go_on, || first.exists()) && !out.join("8.json").exists()
    });
    let (root, out) = cut.expect("one of two is proven");
    let go_on = ["seal-all", text(&root), "--out", text(&out)];
    let (code, report) = desk.run(&go_on);
    assert_eq!(code, 0, "{report}");
    assert_eq!(comm_rs(&report), alone);
    let c2 = |at: usize| report["sectors"][at]["seconds"]["c2"].as_f64();
    assert_eq!(c2(0), None, "the first was proven: {report}");
    assert!(c2(1) > Some(0.0), "{report}");
    for (name, comm_r) in ["7.json", "8.json"].iter().zip(&alone) {
        let file = out.join(name);
        let (code, report) = desk.run(&["verify", text(&file)]);
        assert_eq!(
            (code, &report["valid"]),
            (0, &Value::from(true)),
            "{report}"
        );
        let proof = std::fs::read_to_string(file).expect("readable");
        let proof: Value = serde_json::from_str(&proof).expect("a proof file");
        assert_eq!(&proof["comm_r"], comm_r, "{name}");
    }
}

/// `update` killed at moments all over packing and encoding, then while it proves: the same command without files goes on, to
/// the CommR of an update that nobody disturbed; the sector below is as it was.
#[test]
fn tm_h8_an_update_killed_at_any_moment_resumes_to_the_same_comm_r() {
    let desk = Desk {
        params: shared_params(),
        ..Desk::new()
    };
    let (file, sector) = (desk.file("data", 1000), desk.path("sector"));
    let empty = ["seal", text(&sector), "--empty", "--sector-size", "2KiB"];
    let (code, report) = desk.run(&[&empty[..], &["--until", "replicated"]].concat());
    assert_eq!(code, 0, "{report}");
    let before = std::fs::read(sector.join("record")).expect("readable");
    let half = ["--until", "encoded"];
    let start = Instant::now();
    let whole = desk.path("undisturbed");
    let args = ["update", text(&sector), text(&whole), text(&file)];
    let (code, whole) = desk.run(&[&args[..], &half].concat());
    assert_eq!(code, 0, "{whole}");
    let usual = start.elapsed();

    let moments = 10;
    let dir = |moment: u32| desk.path(&format!("moment-{moment}"));
    for moment in 0..moments {
        let dir = dir(moment);
        let new = ["update", text(&sector), text(&dir), text(&file)];
        desk.kill_after(&[&new[..], &half].concat(), usual * moment / (moments - 2));
        let go_on = ["update", text(&sector), text(&dir)];
        let (mut code, mut report) = desk.run(&[&go_on[..], &half].concat());
        if code == 2 {
            // Nothing was durable yet.
            (code, report) = desk.run(&[&new[..], &half].concat());
        }
        assert_eq!(code, 0, "{moment}: {report}");
        assert_eq!(report["comm_r_new"], whole["comm_r_new"], "{moment}");
    }

    // While the key is read, and while the proof is made; another test lets one be finished after this stage.
    assert_eq!(desk.run(&["params", "update-2KiB"]).0, 0);
    let dir = dir(0);
    for after in [100, 900] {
        let prove = ["update", text(&sector), text(&dir)];
        desk.kill_after(&prove, Duration::from_millis(after));
        let (code, report) = desk.run(&[&prove[..], &half].concat());
        assert_eq!(code, 0, "{report}");
        assert_eq!(report["comm_r_new"], whole["comm_r_new"]);
        assert_eq!(desk.run(&["check", text(&dir)]).0, 0);
    }
    assert!(std::fs::read(sector.join("record")).expect("readable") == before);
    assert_eq!(desk.run(&["check", text(&sector)]).0, 0);
}

/// `unseal` killed while it writes: no output of that name, the sector as it was, and the same command ends with the data and
/// nothing beside it.
#[test]
fn tm_h8_an_unseal_that_is_killed_leaves_no_output_and_runs_again() {
    let desk = Desk::new();
    let (file, dir, out) = (
        desk.file("data", 3_000_000),
        desk.path("sector"),
        desk.path("out").join("back"),
    );
    let args = ["seal", text(&dir), text(&file), "--until", "replicated"];
    let (code, report) = desk.run(&args);
    assert_eq!(code, 0, "{report}");
    let folder = desk.path("out");
    std::fs::create_dir(&folder).expect("writable");
    // The output grows under another name.
    let written = || {
        let entries = std::fs::read_dir(&folder).expect("lists");
        let bytes = |entry: std::io::Result<std::fs::DirEntry>| entry.ok()?.metadata().ok();
        entries.filter_map(bytes).map(|of| of.len()).sum::<u64>()
    };
    let unseal = ["unseal", text(&dir), "-o", text(&out)];
    let killed = |_: &i32| {
        let before = written();
        let is_cut = desk.kill_when(&unseal, || written() > before) && !out.exists();
        if !is_cut {
            // It was done before it could be seen.
            std::fs::remove_file(&out).expect("a whole output");
        }
        is_cut
    };
    assert!(
        (0..20).filter(killed).take(2).count() == 2,
        "never half-way"
    );
    assert_eq!(desk.run(&["check", text(&dir)]).0, 0);
    let (code, report) = desk.run(&unseal);
    assert_eq!(code, 0, "{report}");
    let left = std::fs::read_dir(&folder).expect("lists").count();
    assert_eq!(left, 1, "what the killed ones wrote is gone");
    let back = std::fs::read(&out).expect("readable");
    assert!(back.starts_with(&std::fs::read(&file).expect("readable")));
}

/// A parameter file that is cut, changed, empty or another circuit's is refused with its name and the way out, and the way
/// out works.
#[test]
fn tm_s3_damaged_and_foreign_parameter_files_are_refused_by_name() {
    let desk = Desk::new();
    let sector = desk.path("sector");
    desk.seal_to_replica("sector", "3", &desk.file("data", 1000));
    assert_eq!(desk.run(&["params", "window-2KiB", "winning-2KiB"]).0, 0);
    let (ours, other) = (
        desk.path("params").join("window-2KiB.params"),
        desk.path("params").join("winning-2KiB.params"),
    );
    let sound = std::fs::read(&ours).expect("readable");
    let mut changed = sound.clone();
    changed[sound.len() / 2] ^= 1;
    let foreign = std::fs::read(&other).expect("readable");
    for (what, bytes) in [
        ("cut", &sound[..sound.len() - 1]),
        ("changed", &changed),
        ("empty", &[]),
        ("foreign", &foreign),
    ] {
        std::fs::write(&ours, bytes).expect("writable");
        let (code, report) = desk.run(&["prove", text(&sector)]);
        assert_eq!(code, 6, "{what}: {report}");
        let said = |part: &str| {
            report["error"][part]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        assert!(said("message").contains("window-2KiB"), "{what}: {report}");
        assert!(!said("hint").is_empty(), "{what}: {report}");
    }
    // The record of the other circuit beside it changes nothing.
    let record = |path: &Path| PathBuf::from(format!("{}.json", path.display()));
    let kept = std::fs::read(record(&ours)).expect("readable");
    std::fs::copy(record(&other), record(&ours)).expect("writable");
    assert_eq!(
        desk.run(&["prove", text(&sector)]).0,
        6,
        "foreign with its record"
    );
    std::fs::write(record(&ours), kept).expect("writable");
    std::fs::write(&ours, &sound).expect("writable");
    assert_eq!(desk.run(&["prove", text(&sector)]).0, 0);
}

/// A `.params` file from elsewhere becomes a key of an empty folder, proves and verifies; bent, cut, lengthened and foreign ones
/// are refused by name, and neither the file nor the folder is changed.
#[test]
fn tm_s3_an_imported_parameter_file_proves_and_a_bent_one_is_refused_by_name() {
    let shared = Desk {
        params: shared_params(),
        ..Desk::new()
    };
    assert_eq!(shared.run(&["params", "window-2KiB"]).0, 0);
    let desk = Desk::new();
    let file = desk.path("v28-window.params");
    std::fs::copy(shared.params.join("window-2KiB.params"), &file).expect("copied");
    let sound = std::fs::read(&file).expect("readable");
    let import = |file: &Path, circuits: &[&str]| {
        desk.run(&[&["params", "--import", text(file)], circuits].concat())
    };

    let mut bent = sound.clone();
    bent[sound.len() / 2] ^= 1;
    let long = [&sound[..], &[0]].concat();
    let theirs = desk.path("theirs.params");
    for (what, bytes, circuit) in [
        ("bent", &bent[..], "window-2KiB"),
        ("cut", &sound[..sound.len() - 1], "window-2KiB"),
        ("long", &long, "window-2KiB"),
        ("empty", &[], "window-2KiB"),
        ("of another circuit", &sound, "winning-2KiB"),
        ("of another size", &sound, "window-8MiB"),
    ] {
        std::fs::write(&theirs, bytes).expect("writable");
        let (code, report) = import(&theirs, &[circuit]);
        assert_eq!(code, 6, "{what}: {report}");
        let message = report["error"]["message"].to_string();
        for name in ["theirs.params", circuit] {
            assert!(message.contains(name), "{what}: {report}");
        }
        assert!(report["error"]["hint"].is_string(), "{what}: {report}");
        assert_eq!(std::fs::read(&theirs).expect("still there"), bytes);
        let (code, report) = desk.run(&["params"]);
        assert_eq!(
            (code, &report["keys"]),
            (0, &serde_json::json!([])),
            "{what}"
        );
    }
    assert_eq!(import(&desk.path("missing"), &["window-2KiB"]).0, 3);
    assert_eq!(import(&file, &["window-2KiB", "winning-2KiB"]).0, 2);

    let (code, report) = import(&file, &["window-2KiB"]);
    assert_eq!(code, 0, "{report}");
    assert_eq!(report["origin"], "developers", "{report}");
    assert_eq!(report["bytes"], sound.len(), "{report}");
    assert!(std::fs::read(&file).expect("still there") == sound);
    let (code, report) = import(&file, &["window-2KiB"]);
    assert_eq!(code, 3, "a key that is there is not replaced: {report}");

    let (sector, proof) = (desk.path("sector"), desk.path("proof.json"));
    desk.seal_to_replica("sector", "3", &desk.file("data", 1000));
    let (code, report) = desk.run(&["prove", text(&sector), "--out", text(&proof)]);
    assert_eq!(code, 0, "{report}");
    let (code, report) = desk.run(&["verify", text(&proof)]);
    assert_eq!(
        (code, &report["valid"]),
        (0, &Value::from(true)),
        "{report}"
    );
}

/// `seal-all`: a sector for each file, the same replicas as one by one; refusals before the first sector is made; damage to
/// one sector does not hold up the others, and the same command without files goes on.
#[test]
fn seal_all_takes_many_files_and_goes_on() {
    let desk = Desk::new();
    let files: Vec<PathBuf> = (0..5)
        .map(|i| desk.file(&format!("data-{i}"), 500 + 300 * i))
        .collect();
    let root = desk.path("sectors");
    let all = |files: &[PathBuf], more: &[&str]| {
        let mut args = vec![
            "seal-all",
            text(&root),
            "--sector-size",
            "2KiB",
            "--sector",
            "7",
        ];
        args.extend(files.iter().map(|file| text(file)));
        args.extend(more);
        desk.run(&args)
    };

    let (code, report) = all(&[], &[]);
    assert_eq!(code, 2, "nothing to do: {report}");
    for bad in [
        desk.path("missing"),
        desk.file("empty", 0),
        desk.file("large", 3000),
    ] {
        let (code, report) = all(&[files[0].clone(), bad], &[]);
        assert_eq!(code, 3, "{report}");
        assert!(!root.exists(), "nothing was made: {report}");
    }

    let (code, report) = all(&files, &["--until", "packed"]);
    assert_eq!(code, 0, "{report}");
    let (code, report) = all(&files[1..2], &[]);
    assert_eq!(code, 3, "folder 7 holds another file's sector: {report}");

    std::fs::write(root.join("9").join("unsealed"), [1; 2048]).expect("written");
    let (code, report) = all(&[], &["--until", "replicated"]);
    assert_eq!(code, 6, "{report}");
    assert!(report["error"].to_string().contains("unsealed"), "{report}");
    std::fs::remove_dir_all(root.join("9")).expect("removed");
    let (code, report) = all(&[], &["--until", "replicated"]);
    assert_eq!(code, 0, "{report}");
    let sectors = report["sectors"].as_array().expect("a list");
    let numbers: Vec<&Value> = sectors.iter().map(|sector| &sector["sector"]).collect();
    assert_eq!(numbers, [7, 8, 10, 11]);
    let single = desk.seal_to_replica("single", "11", &files[4]);
    assert_eq!(sectors[3]["comm_r"], single["comm_r"]);
    assert_ne!(sectors[3]["comm_r"], sectors[2]["comm_r"]);
}

/// `seal-all` killed while it packed the third of five: the same command completes all five, each with its own file, and says so
/// again when there is nothing left. Files that are not what their folders hold are refused before anything is made.
#[test]
fn tm_h8_a_seal_all_killed_while_packing_completes_all_by_the_same_command() {
    let desk = Desk::new();
    let files: Vec<PathBuf> = (0..5)
        .map(|i| desk.file(&format!("data-{i}"), 500 + 300 * i))
        .collect();
    let root = desk.path("sectors");
    let all = |files: &[&PathBuf], first: &str, until: &str| {
        let mut args = vec!["seal-all", text(&root), "--sector", first];
        args.extend(["--sector-size", "2KiB", "--until", until]);
        args.extend(files.iter().map(|file| text(file)));
        desk.run(&args)
    };
    let five: Vec<&PathBuf> = files.iter().collect();
    // Two are packed; of the third there is half a file, and no record.
    assert_eq!(all(&five[..2], "7", "packed").0, 0);
    std::fs::create_dir(root.join("9")).expect("writable");
    std::fs::write(root.join("9").join("lock"), []).expect("writable");
    std::fs::write(root.join("9").join("unsealed.tmp"), [1; 1000]).expect("writable");

    let other = desk.file("other", 1234);
    for wrong in [
        vec![five[1], five[0], five[2]],
        vec![&other, five[1], five[2]],
        vec![five[0], five[2]],
    ] {
        let (code, report) = all(&wrong, "7", "packed");
        assert_eq!(code, 3, "{wrong:?}: {report}");
        assert!(report["error"]["hint"].is_string(), "{wrong:?}: {report}");
        assert!(!root.join("9").join("record").exists(), "{wrong:?}");
    }
    // What was left is gone before room is measured, and so before the files are read.
    assert!(root.join("9").join("unsealed.tmp").exists());
    let none = desk.file("none", 0);
    let (code, report) = all(&[five[0], five[1], &none], "7", "packed");
    assert_eq!(code, 3, "{report}");
    assert!(!root.join("9").join("unsealed.tmp").exists(), "{report}");

    let mut before = None;
    for round in 0..2 {
        let (code, report) = all(&five, "7", "replicated");
        assert_eq!(code, 0, "{round}: {report}");
        let sectors = report["sectors"].as_array().expect("a list");
        let told = |field: &str| -> Vec<Value> {
            sectors.iter().map(|sector| sector[field].clone()).collect()
        };
        assert_eq!(told("sector"), [7, 8, 9, 10, 11]);
        assert_eq!(told("stage"), ["replicated"; 5]);
        let comm_rs = told("comm_r");
        let third = desk.seal_to_replica(&format!("alone-{round}"), "9", five[2]);
        assert_eq!(comm_rs[2], third["comm_r"]);
        assert_eq!(before.get_or_insert(comm_rs.clone()), &comm_rs);
    }

    // Damage to one is told, and does not hold up one more file.
    flip(&root.join("8").join("sealed"), 99);
    let six: Vec<&PathBuf> = five.iter().copied().chain([&other]).collect();
    let (code, report) = all(&six, "7", "replicated");
    assert_eq!(code, 6, "{report}");
    assert!(root.join("12").join("p_aux").exists(), "{report}");
    // A folder that holds another number's sector is not gone on with.
    std::fs::rename(root.join("12"), root.join("13")).expect("writable");
    assert_eq!(all(&[&other], "13", "replicated").0, 3);
}

/// The largest number is a sector's like any other; files beyond it are refused before anything is made.
#[test]
fn numbers_of_sectors_end_with_the_largest() {
    let desk = Desk::new();
    let (root, file) = (desk.path("sectors"), desk.file("data", 1000));
    let all = |files: &[&Path]| {
        let mut args = vec!["seal-all", text(&root), "--sector", "18446744073709551615"];
        args.extend(["--sector-size", "2KiB", "--until", "packed"]);
        args.extend(files.iter().map(|file| text(file)));
        desk.run(&args)
    };
    let (code, report) = all(&[&file, &file]);
    assert_eq!(code, 2, "{report}");
    assert!(report["error"]["hint"].is_string(), "{report}");
    assert!(!root.exists(), "nothing was made");
    let (code, report) = all(&[&file]);
    assert_eq!(code, 0, "{report}");
    assert_eq!(report["sectors"][0]["sector"], u64::MAX);
}

/// What the command line says of a sector that goes on must be what its record says: size, provider, number, ticket, data. Another
/// seed challenges it anew, until it is proven; then that is refused, and `seal-all` leaves it as it is.
#[test]
fn a_flag_that_contradicts_the_sector_is_refused_and_another_seed_challenges_anew() {
    let desk = Desk {
        params: shared_params(),
        ..Desk::new()
    };
    let (file, other) = (desk.file("data", 1000), desk.file("other", 1001));
    let root = desk.path("sectors");
    let dir = root.join("7");
    let [a, b, c] = ["0a", "0b", "0c"].map(|byte| byte.repeat(32));
    let seal = |more: &[&str]| desk.run(&[&["seal", text(&dir)], more].concat());
    let new = [
        text(&file),
        "--sector-size=2KiB",
        "--sector=7",
        "--provider=1001",
        "--ticket",
        &a,
    ];
    let until = ["--until", "challenged"];
    let (code, report) = seal(&[&new[..], &until, &["--seed", &a]].concat());
    assert_eq!((code, &report["seed"]), (0, &Value::from(&*a)), "{report}");

    let record = || std::fs::read(dir.join("record")).expect("readable");
    let before = record();
    for contradiction in [
        &["--sector-size=8MiB"][..],
        &["--sector=8"],
        &["--provider=1000"],
        &["--ticket", &b],
        &[text(&other)],
        &[text(&file), text(&file)],
    ] {
        let (code, report) = seal(&[contradiction, &until].concat());
        assert_eq!(code, 3, "{contradiction:?}: {report}");
        let hint = report["error"]["hint"].as_str().unwrap_or_default();
        assert!(hint.contains("leave out"), "{contradiction:?}: {report}");
        assert!(record() == before, "{contradiction:?}");
    }
    // The same words, all or none of them, go on.
    for same in [&new[..], &new[..1], &[]] {
        let (code, report) = seal(&[same, &until].concat());
        assert_eq!((code, &report["seed"]), (0, &Value::from(&*a)), "{report}");
        assert!(record() == before);
    }

    // Another seed.
    let (code, report) = seal(&[&until[..], &["--seed", &b]].concat());
    assert_eq!((code, &report["seed"]), (0, &Value::from(&*b)), "{report}");
    let all = |more: &[&str]| desk.run(&[&["seal-all", text(&root)], more].concat());
    let seed = |report: &Value| report["sectors"][0]["seed"].clone();
    let (code, report) = all(&[&until[..], &["--seed", &c]].concat());
    assert_eq!((code, seed(&report)), (0, Value::from(&*c)), "{report}");
    let (code, report) = seal(&until);
    assert_eq!((code, &report["seed"]), (0, &Value::from(&*c)), "{report}");
    let (code, report) = all(&[&until[..], &["--ticket", &b]].concat());
    assert_eq!(code, 3, "no file that the ticket could be for: {report}");

    // Proven for the one that was named last.
    let proof = desk.path("proof.json");
    let (code, report) = seal(&["--seed", &b, "--out", text(&proof)]);
    assert_eq!((code, &report["seed"]), (0, &Value::from(&*b)), "{report}");
    let proven: Value =
        serde_json::from_slice(&std::fs::read(&proof).expect("readable")).expect("JSON");
    assert_eq!(proven["seed"], Value::from(&*b));
    assert_eq!(desk.run(&["verify", text(&proof)]).0, 0);
    let before = record();
    let (code, report) = seal(&["--seed", &c]);
    assert_eq!(code, 3, "{report}");
    let hint = report["error"]["hint"].as_str().unwrap_or_default();
    assert!(hint.contains("leave out --seed"), "{report}");
    let named = [text(&file), "--sector=7", "--seed", &c];
    let (code, report) = all(&named);
    assert_eq!(code, 3, "{report}");
    let (code, report) = all(&["--seed", &c]);
    assert_eq!((code, seed(&report)), (0, Value::from(&*b)), "{report}");
    assert_eq!(seal(&["--seed", &b]).0, 0);
    assert!(record() == before, "the proof is kept");
}

/// Other files in the place of a verifying key or a proof are told by their length, whatever it is, and not read.
#[test]
fn tm_h9_a_file_that_is_no_verifying_key_or_proof_is_refused_unread() {
    let desk = Desk::new();
    let zeros = "00".repeat(32);
    let statement = desk.path("statement.json");
    let window = format!(
        r#"{{"kind": "window", "size": "2KiB", "prover": "{zeros}", "randomness": "{zeros}", "sectors": [], "proof": ""}}"#
    );
    std::fs::write(&statement, window).expect("writable");
    let file = desk.path("v28.params");
    let sparse = std::fs::File::create(&file).expect("writable");
    // A .vk of this circuit has 3,076 bytes.
    for bytes in [0, 3075, 3077, 60 << 30, 1 << 40] {
        sparse.set_len(bytes).expect("a sparse file");
        let (code, report) = desk.run(&["verify", text(&statement), "--vk", text(&file)]);
        assert_eq!(code, 3, "{bytes}: {report}");
        let said = report["error"].to_string();
        for word in ["v28.params", "3076", ".vk"] {
            assert!(said.contains(word), "{bytes}: {report}");
        }
    }
    sparse.set_len(1 << 40).expect("a sparse file");
    let (code, report) = desk.run(&["verify", text(&file)]);
    assert_eq!(code, 3, "{report}");
    // Files that never end and say that they have no bytes.
    if Path::new("/dev/zero").exists() {
        let args = ["verify", text(&statement), "--vk", "/dev/zero"];
        assert_eq!(desk.run(&args).0, 3);
        assert_eq!(desk.run(&["verify", "/dev/zero"]).0, 3);
    }
    // The right length alone makes no key.
    sparse.set_len(3076).expect("a sparse file");
    let (code, report) = desk.run(&["verify", text(&statement), "--vk", text(&file)]);
    assert_eq!(code, 6, "{report}");
}

/// `bench` and an import keep to the memory that they are allowed, by their own account: budgets just above powers of two, where
/// measuring takes the largest share.
#[test]
fn tm_h9_bench_and_import_stay_within_the_memory_that_they_are_allowed() {
    let desk = Desk::new();
    for budget in [80, 160].map(beside_gpu) {
        let memory = format!("{budget}MiB");
        let args = ["bench", "--sector-size=2KiB", "--no-proofs"];
        let (code, report) = desk.run(&[&args[..], &["--memory", &memory]].concat());
        assert_eq!(code, 0, "{report}");
        assert_within(&report, budget);
    }
    let shared = Desk {
        params: shared_params(),
        ..Desk::new()
    };
    assert_eq!(shared.run(&["params", "window-2KiB"]).0, 0);
    let file = shared.params.join("window-2KiB.params");
    let report = desk.run_within_need(&["params", "window-2KiB", "--import", text(&file)]);
    assert_eq!(report["checked"], true, "{report}");
}

/// `bench` at the smallest size, without proofs: the machine and the kernels are this one's, every figure is there and none is zero.
#[test]
fn bench_reports_machine_kernels_stages_and_estimates() {
    let desk = Desk::new();
    let allowed = beside_gpu(64);
    let memory = format!("{allowed}MiB");
    let args = [
        "bench",
        "--sector-size",
        "2KiB",
        "--no-proofs",
        "--memory",
        &memory,
    ];
    let (code, report) = desk.run(&args);
    assert_eq!(code, 0, "{report}");
    let kernels = Kernels::chosen();
    assert_eq!(report["kernels"], serde_json::json!(kernels));
    let mut machine = report["machine"].clone();
    let free = machine["available_memory"].take().as_u64();
    assert!(free > Some(allowed << 20), "{report}");
    let host = Machine::detect();
    let told = serde_json::json!({
        "architecture": std::env::consts::ARCH,
        "os": std::env::consts::OS,
        "cores": host.cores,
        // As `run` and the arguments say.
        "threads": 2,
        "allowed_memory": allowed << 20,
        "available_memory": null,
        "sha_extensions": host.sha_extensions,
        "vector_multiply": host.vector_multiply,
    });
    assert_eq!(machine, told);
    for cost in [
        "parents",
        "label",
        "label_of_four",
        "tree_d_node",
        "column_of_eleven",
    ] {
        assert!(report["unit_costs"][cost].as_f64() > Some(0.0), "{report}");
    }
    for stage in ["pack", "pc1", "pc2"] {
        assert!(report["stages"][stage].as_f64() > Some(0.0), "{report}");
    }
    assert_eq!(report["stages"]["proofs"], Value::Null);
    let estimates = report["estimates"].as_array().expect("a list");
    let sizes: Vec<&Value> = estimates.iter().map(|line| &line["size"]).collect();
    // Beside a GPU nothing is said of other numbers of cores.
    let each = match kernels.gpu {
        Some(_) => 1,
        None => 3,
    };
    assert_eq!(
        sizes,
        [["512MiB"].repeat(each), ["32GiB"].repeat(each)].concat()
    );
    for line in estimates {
        assert!(line["pc1_seconds"].as_f64() > Some(0.0), "{report}");
        assert_eq!(line["c2_seconds"], Value::Null);
    }

    let (code, report) = desk.run(&["bench", "--sector-size", "32GiB"]);
    assert_eq!(code, 2, "no keys are made for it: {report}");
    let (code, report) = desk.run(&["bench", "--no-proofs", "--dir", "/nowhere/at/all"]);
    assert!(matches!(code, 3 | 7), "{report}");
}

/// `bench` with its proofs at the smallest size, keys from the cache: every figure is there, and none is zero.
#[test]
fn bench_reports_every_stage_through_the_proofs() {
    let desk = Desk {
        params: shared_params(),
        ..Desk::new()
    };
    let (code, report) = desk.run(&["bench", "--sector-size", "2KiB", "--sectors", "2"]);
    assert_eq!(code, 0, "{report}");
    let figures = |value: &Value, names: &[&str]| {
        for name in names {
            assert!(value[*name].as_f64() > Some(0.0), "{name}: {report}");
        }
        let known = value.as_object().expect("an object").len();
        assert_eq!(known, names.len(), "a figure that nobody looks at: {value}");
    };
    let mut stages = report["stages"].clone();
    let proofs = stages["proofs"].take();
    let together = stages["pc1_together"].take();
    assert_eq!(together[0], 2);
    assert!(together[1].as_f64() > Some(0.0), "{report}");
    stages
        .as_object_mut()
        .expect("an object")
        .retain(|_, value| !value.is_null());
    figures(&stages, &["pack", "pc1_first", "pc1", "pc2"]);
    figures(
        &proofs,
        &[
            "keys",
            "c1",
            "c2",
            "c2_peak_memory",
            "verify_seal",
            "verify_seal_of_64",
            "window_post",
            "winning_post",
            "key_window_2kib",
            "key_winning_2kib",
        ],
    );
    figures(
        &report["unit_costs"],
        &[
            "parents",
            "label",
            "label_of_four",
            "tree_d_node",
            "column_of_two",
            "column_of_eleven",
            "tree_node",
            "porep_row",
            "post_row",
        ],
    );
    // C2 of this size has vectors of 2^22 scalars, and is no more than everything.
    let peak = proofs["c2_peak_memory"].as_u64();
    assert!(peak > Some(3 << 27), "{report}");
    assert!(peak <= report["peak_memory"].as_u64(), "{report}");
    for line in report["estimates"].as_array().expect("a list") {
        assert!(line["c2_seconds"].as_f64() > Some(0.0), "{line}");
        assert!(line["window_post_seconds"].as_f64() > Some(0.0), "{line}");
    }
}

/// Labels, replica and trees of an 8 MiB sector, each stage in the memory that it asks for when it is allowed less.
#[test]
fn tm_h9_labels_and_replica_stay_within_the_memory_that_they_ask_for() {
    let desk = Desk::new();
    let (file, dir) = (desk.file("data", 3_000_000), desk.path("sector"));
    let args = ["seal", text(&dir), text(&file), "--until", "packed"];
    assert_eq!(desk.run(&args).0, 0);
    for until in ["labeled", "replicated", "challenged"] {
        let report = desk.run_within_need(&["seal", text(&dir), "--until", until]);
        assert_eq!(report["stage"], until, "{report}");
    }
}

/// Every command that computes says how much memory it needs before it starts: a hint, its class, and nothing begun.
#[test]
fn tm_h9_every_command_says_how_much_memory_it_needs_before_it_starts() {
    let desk = Desk::new();
    let file = desk.file("data", 1000);
    desk.seal_to_replica("sector", "3", &file);
    let (sector, new, out) = (desk.path("sector"), desk.path("new"), desk.path("out"));
    let statement = desk.path("statement.json");
    let zeros = "00".repeat(32);
    let window = format!(
        r#"{{"kind": "window", "size": "2KiB", "prover": "{zeros}", "randomness": "{zeros}", "sectors": [], "proof": ""}}"#
    );
    std::fs::write(&statement, window).expect("writable");
    let (damaged, challenged) = (desk.path("damaged"), desk.path("challenged"));
    desk.seal_to_replica("damaged", "4", &file);
    flip(&damaged.join("sealed"), 99);
    desk.seal_to_replica("challenged", "5", &file);
    let (code, report) = desk.run(&["seal", text(&challenged), "--until=challenged"]);
    assert_eq!(code, 0, "{report}");
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/vectors/filecoin.json");
    let record = |name: &str| std::fs::read(sector.join(name)).expect("readable");
    let before = record("record");
    let small = "--sector-size=2KiB";
    let commands: &[&[&str]] = &[
        &["seal", text(&new), text(&file), small],
        &["seal", text(&new), text(&file), small, "--until=labeled"],
        &["seal", text(&sector)],
        &["seal", text(&sector), "--until=challenged"],
        &["seal-all", text(&new), text(&file), small],
        &["unseal", text(&sector), "-o", text(&out)],
        &["prove", text(&sector), "--out", text(&out)],
        &["prove", text(&sector), "--winning", "--out", text(&out)],
        &["verify", text(&statement)],
        &["check", text(&sector)],
        &["check", text(&challenged)],
        &["repair", text(&damaged)],
        &["seal", text(&challenged), "--until=challenged"],
        &["vectors", text(&vectors)],
        &["bench", small, "--no-proofs"],
        &["bench", small],
        &["params", "window-2KiB"],
        &["params", "window-2KiB", "--import", text(&file)],
    ];
    for args in commands {
        assert!(desk.memory_needed(args) > 1, "{args:?}");
        assert!(!new.exists() && !out.exists(), "{args:?} made something");
        let keys = std::fs::read_dir(&desk.params).map_or(0, |list| list.count());
        assert_eq!(keys, 0, "{args:?} made a key");
    }
    assert!(record("record") == before, "the sector is as it was");
    // A sound sector has nothing to repair.
    assert_eq!(
        desk.run(&["repair", text(&sector), "--memory", "1MiB"]).0,
        0
    );
}

/// What the other stages take of memory, each allowed what it asks for.
#[test]
fn tm_h9_proofs_keys_and_unsealing_stay_within_the_memory_that_they_ask_for() {
    let desk = Desk::new();
    let file = desk.file("data", 1000);
    desk.seal_to_replica("small", "3", &file);
    let small = desk.path("small");
    for args in [
        &["params", "window-2KiB"][..],
        &["params", "window-2KiB", "--check"],
        &["params", "winning-2KiB"],
        &["prove", text(&small)],
        &["prove", text(&small), "--winning"],
    ] {
        desk.run_within_need(args);
    }

    // 8 MiB.
    let (file, dir, out) = (
        desk.file("data", 3_000_000),
        desk.path("sector"),
        desk.path("out"),
    );
    let args = ["seal", text(&dir), text(&file), "--until", "replicated"];
    let (code, sealed) = desk.run(&args);
    assert_eq!(code, 0, "{sealed}");
    desk.run_within_need(&["check", text(&dir)]);
    desk.run_within_need(&["unseal", text(&dir), "-o", text(&out)]);
    let back = std::fs::read(&out).expect("readable");
    let data = std::fs::read(&file).expect("readable");
    assert!(back.starts_with(&data), "the bytes that were sealed");
    flip(&dir.join("sealed"), 99);
    let report = desk.run_within_need(&["repair", text(&dir)]);
    assert_eq!(report["comm_r"], sealed["comm_r"]);
}

/// An update of 8 MiB taken back with the help of the sector below it, and three challenged sectors whose openings are made one
/// after the other: each in the memory that it asks for when it is allowed less.
#[test]
fn tm_h9_taking_an_update_back_and_many_openings_stay_within_the_memory_that_they_ask_for() {
    let desk = Desk::new();
    let file = desk.file("data", 3_000_000);
    let (sector, updated, out) = (desk.path("sector"), desk.path("updated"), desk.path("out"));
    let empty = ["seal", text(&sector), "--empty", "--until", "replicated"];
    let (code, report) = desk.run(&empty);
    assert_eq!(code, 0, "{report}");
    let args = ["update", text(&sector), text(&updated), text(&file)];
    desk.run_within_need(&[&args[..], &["--until", "encoded"]].concat());
    let args = ["unseal", text(&updated), "-o", text(&out)];
    desk.run_within_need(&[&args[..], &["--over", text(&sector)]].concat());
    let back = std::fs::read(&out).expect("readable");
    assert!(back.starts_with(&std::fs::read(&file).expect("readable")));

    let root = desk.path("sectors");
    let all = ["seal-all", text(&root), "--until", "challenged"];
    let files = [text(&file); 3];
    let (code, report) = desk.run(&[&all[..], &files].concat());
    assert_eq!(code, 0, "{report}");
    let report = desk.run_within_need(&all);
    let sectors = report["sectors"].as_array().expect("a list");
    assert!(sectors.iter().all(|sector| sector["stage"] == "challenged"));
    assert_eq!(sectors.len(), 3, "{report}");
}

/// Where a test's size and memory come from when they are not the usual ones.
fn setting(name: &str, usual: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| usual.to_owned())
}

/// A whole 512 MiB sector in 4 GiB: the largest resident memory of the process, read from outside and by its own account, stays
/// within the budget and a twentieth. Proven too where the key is in the cache. `HOLDFAST_TEST_SECTOR_SIZE` and
/// `HOLDFAST_TEST_MEMORY` choose others.
#[test]
#[ignore = "512 MiB: some minutes of a quiet machine and 6 GiB of disk"]
fn tm_h9_a_512_mib_sector_seals_within_its_memory() {
    let desk = Desk {
        params: shared_params(),
        ..Desk::new()
    };
    let size: SectorSize = setting("HOLDFAST_TEST_SECTOR_SIZE", "512MiB")
        .parse()
        .expect("a sector size");
    let budget = setting("HOLDFAST_TEST_MEMORY", "4GiB");
    let gib = budget
        .strip_suffix("GiB")
        .and_then(|n| n.parse::<u64>().ok());
    let mib = gib.expect("whole GiB") << 10;
    let needed = disk_bytes(size) + size.unpadded_bytes();
    require_disk(&RealDisk, desk.dir.path(), needed).expect("room for the sector");

    let (file, dir, proof) = (
        desk.path("data"),
        desk.path("sector"),
        desk.path("proof.json"),
    );
    pattern(&file, size.unpadded_bytes());
    let key = desk.params.join(format!("porep-{size}.params.json"));
    let until = match key.exists() {
        true => "sealed",
        false => "challenged",
    };
    // The list of parents in memory, where it has room: no file is left in the cache.
    let size = size.to_string();
    let mut args = vec!["seal", text(&dir), text(&file), "--sector-size", &size];
    args.extend(["--until", until, "--memory", &budget, "--parent-cache", "0"]);
    if until == "sealed" {
        args.extend(["--out", text(&proof)]);
    }
    let report = desk.path("report.json");
    let out = std::fs::File::create(&report).expect("writable");
    let mut child = desk.start(&args, out.into());
    let mut peak = 0;
    let status = loop {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
        let line = status.unwrap_or_default();
        let line = line.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) << 10);
        if let Some(status) = child.try_wait().expect("it was started here") {
            break status;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let report = std::fs::read_to_string(report).expect("readable");
    let report: Value = serde_json::from_str(&report).expect("one JSON value");
    assert!(status.success(), "{report}");
    assert_eq!(report["stage"], until, "{report}");
    println!(
        "{size} until {until}, {peak} bytes resident: {}",
        report["seconds"]
    );
    assert_within(&report, mib);
    assert!(peak <= (mib << 20) / 100 * 105, "{peak} bytes of {mib} MiB");
    assert!(peak > 0, "Linux says it");
    // Every file against its hash, the replica against CommR, and the proof.
    let (code, report) = desk.run(&["check", text(&dir), "--memory", &budget]);
    assert_eq!(code, 0, "{report}");
    assert_within(&report, mib);
    if until == "sealed" {
        assert_eq!(desk.run(&["verify", text(&proof)]).0, 0);
    }
}

/// A file of so many bytes that do not repeat.
fn pattern(path: &Path, bytes: u64) {
    use std::io::{BufWriter, Write};
    let file = std::fs::File::create(path).expect("writable");
    let (mut out, mut state) = (BufWriter::new(file), 0x9e37_79b9_7f4a_7c15u64);
    for _ in 0..bytes.div_ceil(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.write_all(&state.to_le_bytes()).expect("room");
    }
    let file = out.into_inner().expect("room");
    file.set_len(bytes).expect("shorter");
}

/// Four sectors of 8 MiB in step, in the memory for their layers alone, then with the list of parents in memory too.
#[test]
fn tm_h9_a_larger_budget_is_kept_too() {
    let desk = Desk::new();
    let files: Vec<PathBuf> = (1..=4)
        .map(|i| desk.file(&format!("data-{i}"), i * 1_000_000))
        .collect();
    let all = |root: &Path, until: &str, more: &[&str]| -> Vec<String> {
        let args = ["seal-all", text(root), "--until", until];
        let files = files.iter().map(|file| text(file));
        let words = args.into_iter().chain(files).chain(more.iter().copied());
        words.map(str::to_owned).collect()
    };
    for (name, until, table) in [("lean", "replicated", 0), ("rich", "labeled", 15)] {
        let root = desk.path(name);
        let words = all(&root, "labeled", &[]);
        let one = desk.memory_needed(&words.iter().map(String::as_str).collect::<Vec<_>>());
        // Two more layers of 8 MiB, and 2 MiB of buffers, for each sector after the first.
        let budget = one + 3 * 18 + table;
        let words = all(&root, until, &["--memory", &format!("{budget}MiB")]);
        let (code, report) = desk.run(&words.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(code, 0, "{report}");
        assert_within(&report, budget);
        let layers = (4 * 16 + table) << 20;
        assert!(report["peak_memory"].as_u64() > Some(layers), "{report}");
        // The next starts without the list on disk.
        std::fs::remove_dir_all(desk.params.join("parents")).expect("lists of parents");
    }
}

/// Labels are the same wherever the parents come from: generated for each layer, from memory, from the disk. The list is kept
/// only where that is asked for.
#[test]
fn parent_lists_are_kept_on_disk_or_not_by_choice() {
    let desk = Desk::new();
    let file = desk.file("data", 3_000_000);
    let kept = || -> Vec<String> {
        let list = std::fs::read_dir(desk.params.join("parents"));
        let mut names: Vec<String> = list
            .into_iter()
            .flatten()
            .map(|entry| entry.expect("an entry").file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    let labels = |name: &str, more: &[&str]| -> [Vec<u8>; 2] {
        let dir = desk.path(name);
        let args = ["seal", text(&dir), text(&file), "--until", "labeled"];
        let (code, report) = desk.run(&[&args[..], more].concat());
        assert_eq!(code, 0, "{report}");
        [1, 2].map(|layer| {
            std::fs::read(dir.join(format!("sc-02-data-layer-{layer}.dat"))).expect("a layer")
        })
    };
    // The memory of the layers alone has no room for the list.
    let lean = ["--memory", "36MiB"];
    let generated = labels("generated", &[&lean[..], &["--parent-cache", "0"]].concat());
    assert!(generated[0] != generated[1]);
    assert!(labels("in memory", &["--parent-cache", "0"]) == generated);
    assert_eq!(kept(), [""; 0], "nothing is kept");
    assert!(labels("saved", &[]) == generated);
    let names = kept();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names[0].starts_with("sdr-parents-8MiB-"), "{names:?}");
    let list = desk.params.join("parents").join(&names[0]);
    let bytes = std::fs::metadata(&list).expect("the list").len();
    assert_eq!(bytes, (8 << 20) / 32 * 56);
    assert!(labels("from disk", &lean) == generated);
    std::fs::remove_dir_all(desk.params.join("parents")).expect("removable");
    assert!(labels("made on disk", &lean) == generated);
    assert_eq!(kept(), names);
}

/// `update`: files into a sector that was sealed empty; the proof verifies and a changed one does not; the updated folder is
/// proven, checked and unsealed like any other; an interrupted or repeated command goes on; wrong inputs are refused.
#[test]
fn update_puts_files_into_an_empty_sector_and_proves_it() {
    let desk = Desk {
        params: shared_params(),
        ..Desk::new()
    };
    let (file, sector, dir) = (
        desk.file("data", 1000),
        desk.path("sector"),
        desk.path("updated"),
    );
    let empty = ["seal", text(&sector), "--empty", "--sector-size", "2KiB"];
    let (code, report) = desk.run(&[&empty[..], &["--until", "replicated"]].concat());
    assert_eq!(code, 0, "{report}");
    let comm_r_old = report["comm_r"].clone();

    // Nothing to go on with, nothing there, nothing to write a proof of.
    let refused = |code: i32, args: &[&str]| {
        let (found, report) = desk.run(args);
        assert_eq!(found, code, "{args:?}: {report}");
        assert!(report["error"]["hint"].is_string(), "{args:?}: {report}");
    };
    let (proof, missing) = (desk.path("proof.json"), desk.path("missing"));
    refused(2, &["update", text(&sector), text(&dir)]);
    refused(3, &["update", text(&missing), text(&dir), text(&file)]);
    refused(3, &["update", text(&sector), text(&dir), text(&missing)]);
    let large = desk.file("large", 2033);
    refused(3, &["update", text(&sector), text(&dir), text(&large)]);
    let new = ["update", text(&sector), text(&dir), text(&file)];
    let half = ["--until", "encoded"];
    refused(2, &[&new[..], &half, &["--out", text(&proof)]].concat());
    refused(7, &[&new[..], &["--memory", "1MiB"]].concat());
    let full = desk.path("full");
    desk.seal_to_replica("full", "8", &file);
    refused(3, &["update", text(&full), text(&dir), text(&file)]);
    assert!(!dir.exists());

    let (code, report) = desk.run(&[&new[..], &half].concat());
    assert_eq!(
        (code, &report["stage"]),
        (0, &Value::from("encoded")),
        "{report}"
    );
    assert_eq!(report["comm_r_old"], comm_r_old);
    let comm_r_new = report["comm_r_new"].clone();
    assert_ne!(comm_r_new, comm_r_old);
    // The same command finds what it made; other files are not what is there.
    let (code, report) = desk.run(&[&new[..], &half].concat());
    assert_eq!(
        (code, &report["comm_r_new"], &report["seconds"]["encode"]),
        (0, &comm_r_new, &Value::Null),
        "{report}"
    );
    let other = desk.file("other", 1001);
    let others = ["update", text(&sector), text(&dir), text(&other)];
    refused(3, &[&others[..], &half].concat());
    refused(
        3,
        &[
            "update",
            text(&sector),
            text(&full),
            text(&file),
            half[0],
            half[1],
        ],
    );
    refused(3, &["seal", text(&dir)]);
    refused(3, &["update", text(&sector), text(&sector)]);

    let go_on = ["update", text(&sector), text(&dir), "--out", text(&proof)];
    flip(&sector.join("sealed"), 99);
    refused(6, &go_on);
    flip(&sector.join("sealed"), 99);
    let needed = desk.memory_needed(&go_on);
    let budget = format!("{needed}MiB");
    let (code, report) = desk.run(&[&go_on[..], &["--memory", &budget]].concat());
    assert_eq!(
        (code, &report["stage"]),
        (0, &Value::from("proven")),
        "{report}"
    );
    assert_eq!(report["comm_r_new"], comm_r_new);
    assert_within(&report, needed);
    let (code, report) = desk.run(&go_on);
    assert_eq!(
        (code, &report["seconds"]["prove"]),
        (0, &Value::Null),
        "proven already: {report}"
    );

    let (code, report) = desk.run(&["verify", text(&proof)]);
    assert_eq!(
        (code, &report["circuit"]),
        (0, &Value::from("update-2KiB")),
        "{report}"
    );
    let sound = std::fs::read_to_string(&proof).expect("readable");
    let swapped = sound
        .replace("comm_r_old", "comm_r_x")
        .replace("comm_r_new", "comm_r_old")
        .replace("comm_r_x", "comm_r_new");
    std::fs::write(&proof, swapped).expect("writable");
    refused(6, &["verify", text(&proof)]);

    // Like any other sector.
    assert_eq!(desk.run(&["check", text(&dir)]).0, 0);
    let (code, report) = desk.run(&["prove", text(&dir), "--winning"]);
    assert_eq!(code, 0, "{report}");
    let data = std::fs::read(&file).expect("readable");
    for (name, more) in [
        ("fast", &["--over", text(&sector)][..]),
        ("from labels", &[]),
    ] {
        let out = desk.path(name);
        let args = ["unseal", text(&dir), "--range", "10..900", "-o", text(&out)];
        let (code, report) = desk.run(&[&args[..], more].concat());
        assert_eq!(code, 0, "{name}: {report}");
        assert_eq!(std::fs::read(&out).expect("readable"), data[10..900]);
    }
    flip(&dir.join("sealed"), 99);
    assert_eq!(desk.run(&["check", text(&dir)]).0, 6);
    for more in [&["--over", text(&sector)][..], &[]] {
        let args = ["unseal", text(&dir), "-o", text(&missing)];
        refused(6, &[&args[..], more].concat());
        assert!(!missing.exists(), "no output of damaged data");
    }
}

/// Updates and the other commands, none of which needs a key: what will not be proven is said before anything is encoded;
/// damage is found and repaired; no hint names a command that refuses; `seal --empty` and `seal-all` keep to their own.
#[test]
fn updates_are_checked_repaired_and_kept_apart_from_sealing() {
    let desk = Desk::new();
    let file = desk.file("data", 1000);
    let refused = |code: i32, args: &[&str], hint: &str| {
        let (found, report) = desk.run(args);
        assert_eq!(found, code, "{args:?}: {report}");
        let said = report["error"]["hint"].as_str().unwrap_or_default();
        assert!(said.contains(hint), "{args:?}: {report}");
    };
    let encode = |sector: &Path, dir: &Path, file: &[&str]| {
        let args = ["update", text(sector), text(dir), "--until", "encoded"];
        desk.run(&[&args[..], file].concat())
    };

    // 8 MiB: no key is made for it.
    let (large, none) = (desk.path("large"), desk.path("none"));
    let (code, report) = desk.run(&["seal", text(&large), "--empty", "--until", "packed"]);
    assert_eq!(code, 0, "{report}");
    let args = ["update", text(&large), text(&none), text(&file)];
    refused(4, &args, "--until encoded");
    assert!(!none.exists(), "nothing was encoded");
    refused(4, &["params", "update-8MiB"], "smaller sector");

    // A sector with data is not taken for an empty one; an empty one is gone on with.
    let (full, sector) = (desk.path("full"), desk.path("sector"));
    desk.seal_to_replica("full", "8", &file);
    refused(3, &["seal", text(&full), "--empty"], "another folder");
    let seal = ["seal", text(&sector), "--empty", "--sector-size", "2KiB"];
    for until in ["packed", "replicated"] {
        let (code, report) = desk.run(&[&seal[..], &["--until", until]].concat());
        assert_eq!(code, 0, "{report}");
    }

    // Interrupted: the replica below it was damaged.
    let dir = desk.path("updated");
    flip(&sector.join("sealed"), 99);
    let (code, report) = encode(&sector, &dir, &[text(&file)]);
    assert_eq!(code, 6, "{report}");
    flip(&sector.join("sealed"), 99);
    let out = desk.path("out");
    let unseal = ["unseal", text(&dir), "-o", text(&out)];
    refused(3, &unseal, "prover update SECTOR DIR");
    let (code, report) = encode(&sector, &dir, &[]);
    assert_eq!(code, 0, "{report}");
    let comm_r = report["comm_r_new"].clone();

    // Damaged, found, repaired.
    let (check, repair) = (["check", text(&dir)], ["repair", text(&dir)]);
    assert_eq!(desk.run(&check).0, 0);
    flip(&dir.join("sealed"), 99);
    refused(6, &check, "--over");
    refused(2, &repair, "--over");
    let over = |sector| [&repair[..], &["--over", text(sector)]].concat();
    refused(6, &over(&full), "name its folder");
    let (code, report) = desk.run(&over(&sector));
    assert_eq!(
        (code, &report["comm_r_new"]),
        (0, &comm_r),
        "repaired: {report}"
    );
    assert_eq!(desk.run(&check).0, 0);
    let args = ["repair", text(&sector), "--over", text(&dir)];
    refused(2, &args, "leave out --over");

    // `seal-all` leaves updates alone, and does not seal over one.
    let root = desk.path("sectors");
    let seventh = root.join("7");
    std::fs::create_dir(&root).expect("writable");
    let (code, report) = encode(&sector, &seventh, &[text(&file)]);
    assert_eq!(code, 0, "{report}");
    let all = |more: &[&str]| {
        let args = ["seal-all", text(&root), "--sector-size", "2KiB"];
        desk.run(&[&args[..], &["--until", "packed"], more].concat())
    };
    assert_eq!(all(&[]).0, 2, "nothing to seal");
    assert_eq!(all(&[text(&file), "--sector", "7"]).0, 3);
    let (code, report) = all(&[text(&file), "--sector", "8"]);
    assert_eq!(code, 0, "{report}");
    assert_eq!(report["sectors"].as_array().map(Vec::len), Some(1));
}
