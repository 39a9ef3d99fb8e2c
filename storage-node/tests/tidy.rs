//! Style as an ordinary test: what `README.md` and the threat model promise about the tree itself.
//!
//! Nothing here runs a proof; each test reads the sources and names the file and the rule it breaks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Crates in the order in which they may depend on each other.
const CRATES: [&str; 4] = ["prover", "chain-lite", "retrieval", "storage-node"];

/// Threats whose component does not exist yet, each with the reason. A row leaves this list when its part lands.
const NOT_YET: [(&str, &str); 3] = [
    ("P22", "no aggregation"),
    ("N6", "no peer discovery: the chain names every provider"),
    ("S5", "no ceremony of our own"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a crate lies in the workspace")
        .to_path_buf()
}

fn rust_files(dir: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|n| n != "target") {
                rust_files(&path, into);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for name in CRATES {
        rust_files(&root().join(name), &mut files);
    }
    files.sort();
    files
        .into_iter()
        .map(|p| {
            (
                p.clone(),
                fs::read_to_string(&p).expect("a source file is readable text"),
            )
        })
        .collect()
}

#[test]
fn every_module_opens_with_a_front_page() {
    let bare: Vec<_> = sources()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(p, _)| p)
        .collect();
    assert!(
        bare.is_empty(),
        "these files do not open with a front page (`//!`): {bare:#?}"
    );
}

#[test]
fn nothing_is_left_unfinished() {
    let words = [
        concat!("todo", "!("),
        concat!("unimpl", "emented!("),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
    ];
    for (path, text) in sources() {
        for word in words {
            assert!(!text.contains(word), "{} contains {word}", path.display());
        }
    }
}

#[test]
fn dependencies_point_one_way() {
    let manifest =
        |name: &str| fs::read_to_string(root().join(name).join("Cargo.toml")).expect("manifest");
    let deps = |name: &str| {
        manifest(name)
            .split("[dependencies]")
            .nth(1)
            .expect("dependencies")
            .to_string()
    };
    for foreign in [
        "chain-lite",
        "retrieval",
        "storage-node",
        "tokio",
        "quinn",
        "jsonrpsee",
    ] {
        assert!(
            !deps("prover").lines().any(|l| l.starts_with(foreign)),
            "prover depends on {foreign}"
        );
    }
    for foreign in ["retrieval", "storage-node", "tokio", "quinn", "rayon"] {
        assert!(
            !deps("chain-lite").lines().any(|l| l.starts_with(foreign)),
            "chain-lite depends on {foreign}"
        );
    }
    for foreign in ["chain-lite", "prover", "sled", "tokio", "rayon", "memmap2"] {
        assert!(
            !deps("chain-lite/light")
                .lines()
                .any(|l| l.starts_with(foreign)),
            "the light client depends on {foreign}"
        );
    }
    for foreign in ["chain-lite", "storage-node", "sled", "clap"] {
        assert!(
            !deps("retrieval").lines().any(|l| l.starts_with(foreign)),
            "retrieval depends on {foreign}"
        );
    }
}

/// Names of the crates that a build of this one links, with its features as they are by default.
fn linked(package: &str) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(cargo)
        .args(["tree", "--locked", "--package", package])
        .args(["--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{error}");
    let tree = String::from_utf8(out.stdout).expect("names");
    let name = |line: &str| line.split(' ').next().map(str::to_owned);
    tree.lines().filter_map(name).collect()
}

#[test]
fn what_a_default_build_links_has_no_engine_and_the_light_client_no_runtime() {
    let (light, node) = (linked("holdfast-light"), linked("storage-node"));
    assert!(light.contains("ed25519-dalek") && node.contains("holdfast-light"));
    for foreign in ["tokio", "rayon", "sled", "chain-lite", "prover"] {
        assert!(!light.contains(foreign), "the light client links {foreign}");
    }
    // Where the engine is linked it is found by these names.
    let engine = |name: &&String| name.contains("malachite") || name.contains("libp2p");
    assert!(linked("chain-lite-bft").iter().any(|name| engine(&name)));
    assert_eq!(node.iter().find(engine), None);
}

/// Paths in the README's walk table, `crate/src/...rs`; a cell may shorten later paths to the same folder.
fn walk_paths() -> Vec<PathBuf> {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let table = readme
        .split("## Follow a byte")
        .nth(1)
        .expect("the README has the walk")
        .split("\n## ")
        .next()
        .expect("text");
    let mut paths = Vec::new();
    for row in table
        .lines()
        .filter(|l| l.starts_with("| ") && l.contains('`'))
    {
        for word in row
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|w| w.contains('/'))
        {
            paths.push(PathBuf::from(word));
        }
    }
    paths
}

#[test]
fn the_walk_of_the_readme_exists_and_names_its_neighbours() {
    let paths = walk_paths();
    assert!(paths.len() >= 18, "the walk lost rows: {paths:?}");
    for path in paths {
        let full = root().join(&path);
        assert!(
            full.exists(),
            "the README's walk names {}, which does not exist",
            path.display()
        );
        if full.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&full).expect("readable");
            let front: String = text.lines().take_while(|l| l.starts_with("//!")).collect();
            assert!(
                front.to_lowercase().contains("walk"),
                "{}: the front page does not say its place in the walk",
                path.display()
            );
        }
    }
}

#[test]
fn every_threat_whose_component_exists_has_a_test() {
    let ids = "P1 P2 P3 P4 P5 P6 P7 P8 P9 P10 P11 P12 P13 P14 P15 P16 P17 P18 P19 P20 P21 P22 P23 C1 C2 C3 C4 C5 C6 C7 C8 C9 \
               V1 V2 V3 V4 V5 V6 V7 V8 V9 V10 V11 V12 V13 N1 N2 N3 N4 N5 N6 N7 R1 R2 R3 R4 S1 S2 S3 S4 S5 S6 Y1 Y2 \
               H1 H2 H3 H4 H5 H6 H7 H8 H9 H10 K1";
    let all: String = sources().into_iter().map(|(_, text)| text).collect();
    let excused: BTreeSet<_> = NOT_YET.iter().map(|(id, _)| *id).collect();
    let missing: Vec<_> = ids
        .split_whitespace()
        .filter(|id| !excused.contains(id) && !all.contains(&format!("tm_{}_", id.to_lowercase())))
        .collect();
    assert!(
        missing.is_empty(),
        "threat rows without a test: {missing:?}"
    );
}

/// `deny.toml` says more and needs a tool; this much is asked at every run: whatever is locked comes from the registry with a checksum,
/// and what our own crates reach holds neither of the two crates that the threat names, but for sled's own use. `benches` is not asked
/// for those two: Filecoin's prover, which it measures, brings them, and nothing that we ship depends on it.
#[test]
fn tm_k1_the_lock_file_has_registry_crates_only_and_none_that_is_banned() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("lock file");
    let field = |package: &str, name: &str| {
        let line = package
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name} = ")));
        line.map(|value| value.trim_matches('"').to_owned())
    };
    // A dependency is written with its version only where the lock file holds several, so a name stands for all of them.
    let mut depends: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut ours = Vec::new();
    for package in lock.split("[[package]]").skip(1) {
        let name = field(package, "name").expect("a name");
        match field(package, "source") {
            Some(source) => {
                assert!(
                    source.starts_with("registry+"),
                    "{name} comes from {source}"
                );
                assert!(
                    field(package, "checksum").is_some(),
                    "{name} has no checksum"
                );
            }
            None => ours.push(name.clone()),
        }
        let needs = package
            .lines()
            .filter_map(|line| line.strip_prefix(" \"")?.split([' ', '"']).next());
        depends
            .entry(name)
            .or_default()
            .extend(needs.map(str::to_owned));
    }
    assert!(depends.len() > 100, "the lock file was read");
    assert!(ours.iter().any(|name| name == "storage-node"));

    ours.retain(|name| name != "benches");
    let mut reached: BTreeSet<String> = BTreeSet::new();
    while let Some(name) = ours.pop() {
        if reached.insert(name.clone()) {
            ours.extend(depends[&name].iter().cloned());
        }
    }
    assert!(reached.contains("serde") && !reached.contains("benches"));
    for name in &reached {
        assert_ne!(name, "bincode", "unmaintained");
        let uses_fxhash = depends[name].contains("fxhash");
        assert!(!uses_fxhash || name == "sled", "{name} hashes with fxhash");
    }
}

/// Folders of fuzz targets. Each is a workspace of its own, which the gate does not build.
const FUZZ: [&str; 5] = [
    "prover",
    "chain-lite",
    "chain-lite/bft",
    "retrieval",
    "storage-node",
];

/// Files that decode bytes or texts, and the fuzz targets that reach their decoders, as `folder/target`. A file that begins to decode
/// something is named here with a target, or in [`NO_TARGET`] with a reason.
const DECODERS: [(&str, &[&str]); 58] = [
    ("prover/src/ids.rs", &["prover/names", "prover/stored"]),
    ("prover/src/spec.rs", &["prover/names", "prover/stored"]),
    ("prover/src/piece/cid.rs", &["prover/cid"]),
    ("prover/src/piece/inclusion.rs", &["prover/leaf_proof"]),
    ("prover/src/piece/size.rs", &["prover/stored"]),
    ("prover/src/sector_dir/record.rs", &["prover/sector_record"]),
    ("prover/src/snark/groth16.rs", &["prover/verifying_key"]),
    (
        "prover/src/snark/keys.rs",
        &["prover/proving_key", "prover/key_record"],
    ),
    ("prover/src/snark/lanes/mod.rs", &["prover/proof_bytes"]),
    ("prover/src/snark/mod.rs", &["prover/circuit_name"]),
    ("prover/src/vectors/mod.rs", &["prover/vector_file"]),
    ("chain-lite/bft/src/app.rs", &["chain-lite/final_block"]),
    ("chain-lite/bft/src/codec.rs", &["chain-lite/bft/messages"]),
    (
        "chain-lite/bft/src/context.rs",
        &["chain-lite/bft/messages"],
    ),
    ("chain-lite/bft/src/parts.rs", &["chain-lite/bft/parts"]),
    (
        "chain-lite/light/src/certificate.rs",
        &["chain-lite/follow"],
    ),
    (
        "chain-lite/light/src/codec.rs",
        &["chain-lite/follow", "chain-lite/signed_tx"],
    ),
    ("chain-lite/light/src/follow.rs", &["chain-lite/follow"]),
    ("chain-lite/light/src/name.rs", &["storage-node/rpc"]),
    ("chain-lite/src/account.rs", &["storage-node/rpc"]),
    ("chain-lite/src/audit.rs", &["chain-lite/proof_document"]),
    ("chain-lite/src/beacon.rs", &["chain-lite/beacon_points"]),
    ("chain-lite/src/block.rs", &["chain-lite/final_block"]),
    ("chain-lite/src/bundle.rs", &["chain-lite/light_bundles"]),
    ("chain-lite/src/genesis.rs", &["chain-lite/genesis"]),
    ("chain-lite/src/light.rs", &["chain-lite/light_bundles"]),
    ("chain-lite/src/log.rs", &["chain-lite/chain_file"]),
    ("chain-lite/src/message.rs", &["chain-lite/signed_tx"]),
    (
        "chain-lite/src/reputation/receipt.rs",
        &["chain-lite/receipts"],
    ),
    ("chain-lite/src/snapshot.rs", &["chain-lite/snapshot"]),
    ("chain-lite/src/undecided.rs", &["chain-lite/undecided"]),
    ("chain-lite/src/units.rs", &["storage-node/rpc"]),
    ("retrieval/src/peer.rs", &["retrieval/names"]),
    ("retrieval/src/range.rs", &["retrieval/ranges"]),
    ("retrieval/src/resume.rs", &["retrieval/bitmap"]),
    ("retrieval/src/voucher.rs", &["retrieval/voucher"]),
    (
        "retrieval/src/wire.rs",
        &["retrieval/frame", "retrieval/requests", "retrieval/names"],
    ),
    (
        "storage-node/src/chain/mod.rs",
        &["storage-node/rpc", "chain-lite/light_bundles"],
    ),
    (
        "storage-node/src/chain/proven.rs",
        &["storage-node/trust", "chain-lite/light_bundles"],
    ),
    (
        "storage-node/src/cli/audit.rs",
        &["chain-lite/proof_document"],
    ),
    (
        "storage-node/src/cli/governance.rs",
        &["storage-node/governance_lines"],
    ),
    (
        "storage-node/src/cli/prover/file.rs",
        &["storage-node/proof_file"],
    ),
    (
        "storage-node/src/client/get.rs",
        &["storage-node/records", "storage-node/name"],
    ),
    (
        "storage-node/src/client/possession.rs",
        &["storage-node/records", "prover/leaf_proof"],
    ),
    (
        "storage-node/src/client/record.rs",
        &["storage-node/records"],
    ),
    ("storage-node/src/devnet.rs", &["storage-node/devnet_files"]),
    ("storage-node/src/identity.rs", &["storage-node/key_text"]),
    ("storage-node/src/object/ack.rs", &["storage-node/ack"]),
    (
        "storage-node/src/object/manifest.rs",
        &["storage-node/manifest"],
    ),
    ("storage-node/src/provider/ask.rs", &["storage-node/ask"]),
    (
        "storage-node/src/provider/control.rs",
        &["storage-node/control_file", "storage-node/rpc"],
    ),
    (
        "storage-node/src/provider/enrol.rs",
        &["storage-node/settings"],
    ),
    (
        "storage-node/src/provider/intake.rs",
        &["storage-node/provider_records"],
    ),
    (
        "storage-node/src/provider/journal.rs",
        &[
            "storage-node/journal_record",
            "storage-node/provider_records",
        ],
    ),
    (
        "storage-node/src/provider/slot.rs",
        &["storage-node/slot_words"],
    ),
    (
        "storage-node/src/provider/worker.rs",
        &["storage-node/provider_records"],
    ),
    (
        "storage-node/src/relay/client.rs",
        &["storage-node/relay_answer"],
    ),
    (
        "storage-node/src/validator.rs",
        &["storage-node/network", "storage-node/card"],
    ),
];

/// Files whose decoders no fuzz target reaches, by reason.
const NO_TARGET: [(&str, &[&str]); 4] = [
    (
        "read at the command line, from whoever runs it",
        &[
            "storage-node/src/chain/gossip/mod.rs",
            "storage-node/src/cli/args.rs",
            "storage-node/src/cli/channel.rs",
            "storage-node/src/cli/explain.rs",
            "storage-node/src/cli/snapshot.rs",
            "chain-lite/src/sector/dispute.rs",
        ],
    ),
    (
        "keys and leaves of the state, written by this program: in an index that is made again from the log when a digest is wrong (H2), or proven against a root",
        &[
            "chain-lite/src/state/key.rs",
            "chain-lite/src/state/mod.rs",
            "chain-lite/src/store.rs",
            "chain-lite/src/tree.rs",
            "storage-node/src/client/bundle.rs",
        ],
    ),
    (
        "points of a key that was hashed and checked; twins are compared on every kind of bad encoding",
        &[
            "prover/src/snark/kernel/ifma.rs",
            "prover/src/snark/kernel/mod.rs",
            "prover/src/snark/kernel/portable.rs",
        ],
    ),
    (
        "the simulator's own records, and a client's provider in tests",
        &[
            "chain-lite/sim/src/journal.rs",
            "chain-lite/sim/src/scenario.rs",
            "storage-node/src/client/fake.rs",
        ],
    ),
];

/// Whether code outside of tests reads a value from bytes or from a text.
fn decodes(text: &str) -> bool {
    let code = code_of(text);
    let end = ["mod tests {", "mod test {"]
        .iter()
        .filter_map(|head| code.find(head))
        .min()
        .unwrap_or(code.len());
    let reads = |line: &str| {
        let calls = [
            "serde_json::from_",
            "borsh::from_slice",
            "try_from_slice(",
            "codec::decode",
        ];
        let makes = ["fn deserialize_reader", "FromStr for "];
        let named = ["fn decode", "fn parse", "fn from_bytes", "fn read"];
        let takes = ["&[u8]", "bytes: Bytes", "(words: &str)"];
        let has = |words: &[&str]| words.iter().any(|word| line.contains(word));
        has(&calls) || has(&makes) || has(&named) && has(&takes)
    };
    code[..end].lines().any(reads)
}

#[test]
fn every_decoder_has_a_fuzz_target_or_a_reason() {
    let aside = [
        "target",
        "tests",
        "fuzz",
        "fuzz_targets",
        "examples",
        "benches",
    ];
    let found: BTreeSet<String> = sources()
        .into_iter()
        .filter_map(|(path, text)| {
            let path = path.strip_prefix(root()).expect("below the root");
            let mut parts = path.components().map(|part| part.as_os_str());
            let name = path.file_name()?.to_str()?;
            let is_test = parts.any(|part| aside.iter().any(|aside| part == *aside))
                || name == "tests.rs"
                || name == "fuzz.rs"
                || name.ends_with("_tests.rs");
            (!is_test && decodes(&text)).then(|| path.display().to_string())
        })
        .collect();
    let reasons = NO_TARGET.iter().flat_map(|(_, files)| files.iter());
    let mut listed = BTreeSet::new();
    for file in DECODERS.iter().map(|(file, _)| file).chain(reasons) {
        assert!(listed.insert((*file).to_owned()), "{file} is listed twice");
    }
    let unlisted: Vec<_> = found.difference(&listed).collect();
    let nothing: Vec<_> = listed.difference(&found).collect();
    assert!(
        unlisted.is_empty(),
        "these files decode something and name no fuzz target: {unlisted:#?}"
    );
    assert!(
        nothing.is_empty(),
        "these files are listed and decode nothing: {nothing:#?}"
    );
    for (file, targets) in DECODERS {
        for target in targets {
            let (folder, name) = target.rsplit_once('/').expect("folder/target");
            assert!(FUZZ.contains(&folder), "{file}: {folder}");
            let at = format!("{folder}/fuzz/fuzz_targets/{name}.rs");
            assert!(root().join(&at).is_file(), "{file}: there is no {at}");
        }
    }
}

/// The body of a fuzz target: `crate::…::module::name`.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Body {
    /// Folder of its crate.
    home: &'static str,
    module: String,
    name: String,
}

impl Body {
    /// From the path that a target calls.
    fn of(path: &str) -> Option<Self> {
        let home = match path.split("::").next()? {
            "prover" => "prover",
            "chain_lite" => "chain-lite",
            "holdfast_light" => "chain-lite/light",
            "chain_lite_bft" => "chain-lite/bft",
            "retrieval" => "retrieval",
            "storage_node" => "storage-node",
            _ => return None,
        };
        let mut last = path.rsplit("::").map(str::to_owned);
        Some(Self {
            home,
            name: last.next()?,
            module: last.next()?,
        })
    }

    /// Whether test code of a file runs it, or hands it to what runs it: by its module and name, or in its module by its name.
    fn runs_in(&self, path: &Path, code: &str) -> bool {
        let here = |part: &std::ffi::OsStr| part == self.module.as_str();
        let own = path.file_stem().is_some_and(here)
            || path.parent().and_then(Path::file_name).is_some_and(here);
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let used = |at: usize| {
            let (before, after) = (&code[..at], code[at + self.name.len()..].trim_start());
            let by = match before.strip_suffix("::") {
                Some(path) => path
                    .strip_suffix(self.module.as_str())
                    .is_some_and(|rest| !rest.ends_with(word)),
                None => own && !before.ends_with(word) && !before.ends_with(['.', ':']),
            };
            by && after.starts_with(['(', ',', ')', ']']) && !before.ends_with("fn ")
                || by && after.starts_with("as fn")
        };
        code.match_indices(self.name.as_str())
            .any(|(at, _)| used(at))
    }
}

/// The code of a source file's tests, without comments, texts and imports. By the house layout tests are a folder, a file of that
/// name, or the last part of a file.
fn test_code(path: &Path, text: &str) -> String {
    let whole = path.components().any(|part| part.as_os_str() == "tests")
        || path.file_name().is_some_and(|name| name == "tests.rs");
    let code = code_of(text);
    let begin = match whole {
        true => 0,
        false => ["mod tests {", "mod test {"]
            .iter()
            .filter_map(|head| code.find(head))
            .min()
            .unwrap_or(code.len()),
    };
    let mut kept = String::new();
    let mut import = false;
    for line in code[begin..].lines() {
        let begins = line.trim_start();
        let begins = begins.strip_prefix("pub ").unwrap_or(begins);
        import |= begins.starts_with("use ");
        if !import {
            kept.push_str(line);
            kept.push('\n');
        }
        import &= !line.contains(';');
    }
    kept
}

/// A source text without its comments, and with nothing in its literals.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let raw = ["r\"", "r#", "br\"", "br#"];
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let taken = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if raw.iter().any(|head| rest.starts_with(head)) && !code.ends_with(word) {
            let head = rest.find(['"', '\n', ' ']).unwrap_or(0);
            let marks = rest[..head].matches('#').count();
            let close = format!("\"{}", "#".repeat(marks));
            match rest[head..].starts_with('"') {
                true => rest[head + 1..]
                    .find(&close)
                    .map_or(rest.len(), |end| head + 1 + end + close.len()),
                // A name that is written `r#name`.
                false => 0,
            }
        } else if next == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            end.map_or(rest.len(), |end| end + 2)
        } else if next == '\'' {
            // A lifetime has no second mark so near.
            let inner = rest[1..].chars().next().map_or(0, char::len_utf8);
            match rest[1..].starts_with('\\') {
                true => rest[3..].find('\'').map_or(rest.len(), |end| end + 4),
                false if rest[1 + inner..].starts_with('\'') => inner + 2,
                false => 0,
            }
        } else {
            0
        };
        match taken {
            0 => {
                code.push(next);
                rest = &rest[next.len_utf8()..];
            }
            taken => rest = &rest[taken..],
        }
    }
    code
}

#[test]
fn only_what_a_test_runs_counts_as_run() {
    let body = Body::of("retrieval::fuzz::names").expect("a body");
    let runs = |path: &str, text: &str| {
        let path = Path::new(path);
        body.runs_in(path, &test_code(path, text))
    };
    let inside =
        |line: &str| format!("pub fn names(bytes: &[u8]) {{}}\nmod tests {{\n{line}\n}}\n");
    for line in [
        "names(&bytes);",
        "for body in [frame, names] {}",
        "f(crate::fuzz::names)",
    ] {
        assert!(runs("retrieval/src/fuzz.rs", &inside(line)), "{line}");
    }
    assert!(runs(
        "retrieval/tests/all.rs",
        "fn t() { retrieval::fuzz::names(&[]); }"
    ));
    for line in [
        "// names(&bytes);",
        "/* names(&bytes) */",
        "use super::names;",
        "use super::{\n    frame,\n    names,\n};",
        "let text = \"names(1)\";",
        "let text = r#\"a \" names(1)\"#;",
        "all.names(1);",
        "other::names(1);",
        "surnames(1);",
        "let names = 1;",
        "fn names(bytes: &[u8]) {}",
    ] {
        assert!(!runs("retrieval/src/fuzz.rs", &inside(line)), "{line}");
    }
    assert!(
        !runs("retrieval/src/fuzz.rs", "fn all() { names(&[]); }"),
        "no test"
    );
    assert!(
        !runs("retrieval/src/peer.rs", &inside("names(1);")),
        "another's"
    );
    // Marks in literals open nothing.
    for line in [
        "let c = '\"'; names(1);",
        "fn f<'a>() { names(1) }",
        "let c = '\\''; names(1);",
    ] {
        assert!(runs("retrieval/src/fuzz.rs", &inside(line)), "{line}");
    }
}

/// A fuzz target is one call of a function that an ordinary test runs too, bounded: so the gate runs the bodies of all of them.
#[test]
fn every_fuzz_target_is_one_call_that_an_ordinary_test_makes_too() {
    let mut called = BTreeSet::new();
    for name in FUZZ {
        let dir = root().join(name).join("fuzz");
        let manifest = fs::read_to_string(dir.join("Cargo.toml")).expect("a fuzz workspace");
        let listed: BTreeSet<String> = manifest
            .lines()
            .filter_map(|line| line.strip_prefix("path = \"")?.strip_suffix('"'))
            .map(str::to_owned)
            .collect();
        let mut files = Vec::new();
        rust_files(&dir.join("fuzz_targets"), &mut files);
        let there = files.iter().filter_map(|path| path.strip_prefix(&dir).ok());
        let there: BTreeSet<String> = there.map(|path| path.display().to_string()).collect();
        assert_eq!(listed, there, "{name}/fuzz/Cargo.toml lists its targets");
        for path in files {
            let text = fs::read_to_string(&path).expect("a target");
            let body = text
                .lines()
                .find_map(|line| line.strip_prefix("libfuzzer_sys::fuzz_target!(|"))
                .and_then(|line| line.split_once("| ")?.1.split('(').next())
                .and_then(Body::of)
                .unwrap_or_else(|| panic!("{} is not one call", path.display()));
            called.insert(body);
        }
    }
    let all = sources();
    let tests: Vec<(&PathBuf, String)> = all
        .iter()
        .filter(|(path, _)| {
            path.components()
                .all(|part| part.as_os_str() != "fuzz_targets")
        })
        .map(|(path, text)| (path, test_code(path, text)))
        .collect();
    for body in &called {
        let home = root().join(body.home);
        let mut own = tests.iter().filter(|(path, _)| path.starts_with(&home));
        assert!(
            own.any(|(path, code)| body.runs_in(path, code)),
            "no test runs the body of a fuzz target: {body:?}"
        );
    }
    for line in all.iter().flat_map(|(_, text)| text.lines()) {
        if let Some(rest) = line.trim_start().strip_prefix("pub fn fuzz_") {
            let name = format!("fuzz_{}", rest.split('(').next().unwrap_or(rest));
            let renaming = format!("::{name} as fuzz_");
            let renamed = all.iter().any(|(_, text)| text.contains(&renaming));
            assert!(
                renamed || called.iter().any(|body| body.name == name),
                "{name} is the body of no fuzz target"
            );
        }
    }
}
