//! Runs golden-vector files made with Filecoin's own prover, and says for each group what held and what did not.
//!
//! Place: behind every test of `prover/tests/vectors.rs` and behind `holdfast prover vectors FILE`. Any file of the format
//! of `fixtures/vectors/filecoin.json` runs; its own `about` section explains encodings. Nothing is passed over in silence:
//! a group, key or size that this runner does not know is listed as unknown or skipped.
//!
//! | part of the file | checked by |
//! |---|---|
//! | `small_vectors.*` | padding, commitments, ids, graph, Poseidon, challenges: `small` |
//! | `sectors.SIZE.cases` | whole seals through the product's own steps, every file's digest: `seals` |
//! | `sectors.SIZE.commit`, `post`, `*_vk` | openings, public inputs, Groth16 proofs: `proofs` |
//!
//! Cost: seconds for sectors up to 8 MiB; the 512 MiB sector takes minutes, 3 GiB of memory and 5 GiB of disk, and runs
//! only when [`Options::large`] says so. Files come from outside: sizes are bounded before anything is allocated, and a
//! malformed entry is one failure, never a panic (threat P17).

pub mod assignment;
mod fields;
mod proofs;
mod seals;
mod small;
#[cfg(test)]
mod witness;

use crate::progress::Progress;
use crate::spec::SectorSize;
use fields::{Fault, Fields};
use serde::Serialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What a file may take in memory, its text and its values together; ours take about a quarter of it.
const PARSED_BYTES: u64 = 32 << 20;
/// What a string may take, in its lengths: as text, as a value, and unescaped in a buffer that has grown by doubling.
const STRING_COPIES: u64 = 4;
/// The longest file.
const MAX_FILE_BYTES: u64 = PARSED_BYTES / STRING_COPIES;

/// What to run and where to work.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether to seal the 512 MiB cases too.
    pub large: bool,
    /// Folder for sector files; each case uses a folder of its own in it and removes it.
    pub scratch: PathBuf,
}

/// The file as a whole could not be run.
#[derive(Debug, thiserror::Error)]
pub enum VectorError {
    /// It could not be read.
    #[error("reading {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is larger than any vector file.
    #[error("{path} has {bytes} bytes; a vector file has at most {MAX_FILE_BYTES}", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// It is not JSON, or not an object.
    #[error("not a vector file: {0}; expected JSON like fixtures/vectors/filecoin.json")]
    Format(String),
}

/// One thing that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Where in the file.
    pub at: String,
    /// What was expected and what was found.
    pub what: String,
}

/// The verdict on one group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Its path in the file.
    pub name: String,
    /// Comparisons that held.
    pub passed: u64,
    /// Comparisons that did not: all are counted, the first hundred are listed.
    pub failed: u64,
    /// What failed.
    pub failures: Vec<Failure>,
    /// Keys that this runner does not know.
    pub unknown: Vec<String>,
    /// Why the group was not run, if it was not.
    pub skipped: Option<String>,
}

/// The verdict on a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The name the file gives itself.
    pub set: String,
    /// Groups in the file's order of parts.
    pub groups: Vec<Group>,
}

impl Report {
    /// Whether something ran and all of it held. Unknown and skipped groups do not count either way.
    pub fn ok(&self) -> bool {
        self.passed() > 0 && self.failed() == 0
    }

    /// Comparisons that held.
    pub fn passed(&self) -> u64 {
        self.groups.iter().map(|group| group.passed).sum()
    }

    /// Comparisons that did not hold.
    pub fn failed(&self) -> u64 {
        self.groups.iter().map(|group| group.failed).sum()
    }

    /// Everything in the file that this runner does not know.
    pub fn unknown(&self) -> impl Iterator<Item = &str> {
        self.groups
            .iter()
            .flat_map(|group| group.unknown.iter().map(String::as_str))
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for group in &self.groups {
            write!(
                f,
                "{:<44} {:>6} passed {:>4} failed",
                group.name, group.passed, group.failed
            )?;
            match &group.skipped {
                Some(why) => writeln!(f, "  skipped: {why}")?,
                None => writeln!(f)?,
            }
            for Failure { at, what } in &group.failures {
                writeln!(f, "    {at}: {what}")?;
            }
            for key in &group.unknown {
                writeln!(f, "    unknown, not checked: {key}")?;
            }
        }
        write!(
            f,
            "{}: {} passed, {} failed",
            self.set,
            self.passed(),
            self.failed()
        )
    }
}

/// Most failures that a group lists; the rest are only counted.
const MAX_FAILURES: usize = 100;

impl Group {
    fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// Counts one comparison.
    fn check(&mut self, at: &str, ok: bool, what: impl FnOnce() -> String) {
        if ok {
            self.passed += 1;
        } else {
            self.fail(at, what());
        }
    }

    fn equal<T: PartialEq + std::fmt::Debug>(&mut self, at: &str, expected: T, found: T) {
        self.check(at, expected == found, || {
            format!("expected {expected:?}, found {found:?}")
        });
    }

    fn fail(&mut self, at: &str, what: String) {
        self.failed += 1;
        if self.failures.len() < MAX_FAILURES {
            self.failures.push(Failure {
                at: at.to_owned(),
                what,
            });
        }
    }

    /// Runs one entry: a fault is a failure, an unread key is unknown.
    fn entry<T>(
        &mut self,
        fields: &Fields<'_>,
        run: impl FnOnce(&mut Self) -> Result<T, Fault>,
    ) -> Option<T> {
        let result = run(self)
            .map_err(|fault| self.fail(&fault.at, fault.what))
            .ok();
        if result.is_some() {
            self.unknown.extend(fields.unread());
        }
        result
    }

    /// Runs every object of a list.
    fn entries<'a>(
        &mut self,
        list: &'a Value,
        mut run: impl FnMut(&mut Self, &Fields<'a>) -> Result<(), Fault>,
    ) {
        let name = self.name.clone();
        let Some(list) = list.as_array() else {
            return self.fail(&name, "expected a list".into());
        };
        for (i, value) in list.iter().enumerate() {
            match Fields::new(value, format!("{name}[{i}]")) {
                Ok(fields) => drop(self.entry(&fields, |group| run(group, &fields))),
                Err(fault) => self.fail(&fault.at, fault.what),
            }
        }
    }
}

/// Bytes of memory that a run needs: the largest sector that it may seal, and the file itself.
pub fn memory(options: &Options) -> u64 {
    let largest = match options.large {
        true => SectorSize::Mib512,
        false => SectorSize::Mib8,
    };
    seals::memory(largest) + PARSED_BYTES
}

/// Runs a vector file.
pub fn run_file(
    path: &Path,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Report, VectorError> {
    let read = |source| VectorError::Read {
        path: path.to_owned(),
        source,
    };
    let bytes = std::fs::metadata(path).map_err(read)?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(VectorError::TooLarge {
            path: path.to_owned(),
            bytes,
        });
    }
    let text = std::fs::read(path).map_err(read)?;
    run(&text, options, progress)
}

/// Runs the contents of a vector file.
pub fn run(json: &[u8], options: &Options, progress: &dyn Progress) -> Result<Report, VectorError> {
    let parsed = parsed_bytes(json);
    if parsed > PARSED_BYTES {
        return Err(VectorError::Format(format!(
            "it may take {} MiB in memory, more than {} MiB",
            parsed.div_ceil(1 << 20),
            PARSED_BYTES >> 20
        )));
    }
    let value: Value =
        serde_json::from_slice(json).map_err(|e| VectorError::Format(e.to_string()))?;
    let Value::Object(file) = &value else {
        return Err(VectorError::Format("the top level is not an object".into()));
    };
    let set = value["about"]["set"]
        .as_str()
        .unwrap_or("unnamed set")
        .to_owned();
    let mut groups = Vec::new();
    let mut rest = Group::new("(top level)");
    for (part, contents) in file {
        match (part.as_str(), contents) {
            // Prose: encodings, rules, producer.
            ("about", _) => {}
            ("small_vectors", Value::Object(small)) => {
                groups.extend(small.iter().map(|(name, list)| small::run(name, list)));
            }
            ("sectors", Value::Object(sectors)) => {
                for (name, sector) in sectors {
                    groups.extend(run_sector(name, sector, options, progress));
                }
            }
            ("small_vectors" | "sectors", _) => rest.fail(part, "expected an object".into()),
            _ => rest.unknown.push(part.clone()),
        }
    }
    if rest.failed > 0 || !rest.unknown.is_empty() {
        groups.push(rest);
    }
    Ok(Report { set, groups })
}

/// Most bytes that a JSON text takes together with its values: a list of nothing but `{}` takes a hundred times its length. An
/// element is charged with what its list takes while it grows, an object with a node of its tree.
fn parsed_bytes(json: &[u8]) -> u64 {
    let cost = |byte: &u8| match byte {
        b',' | b':' | b'[' => 160,
        b'{' => 700,
        _ => 0,
    };
    STRING_COPIES * json.len() as u64 + json.iter().map(cost).sum::<u64>()
}

/// Seals a size's cases, then checks its proofs against them.
fn run_sector(name: &str, value: &Value, options: &Options, progress: &dyn Progress) -> Vec<Group> {
    let at = format!("sectors.{name}");
    let skip = |why: &str| {
        vec![Group {
            skipped: Some(why.to_owned()),
            ..Group::new(&at)
        }]
    };
    let fields = match Fields::new(value, at.clone()) {
        Ok(fields) => fields,
        Err(fault) => {
            let mut group = Group::new(&at);
            group.fail(&fault.at, fault.what);
            return vec![group];
        }
    };
    let size = match fields.u64("sector_size").map(SectorSize::from_bytes) {
        Ok(Some(size)) => size,
        Ok(None) => return skip("not a sector size of this prover"),
        Err(fault) => {
            let mut group = Group::new(&at);
            group.fail(&fault.at, fault.what);
            return vec![group];
        }
    };
    match size {
        SectorSize::Gib32 | SectorSize::Gib64 => {
            return skip("sealing production sectors is no test");
        }
        SectorSize::Mib512 if !options.large => {
            return skip("takes minutes, 3 GiB of memory and 5 GiB of disk: ask for large sectors");
        }
        _ => {}
    }
    let mut whole = Group::new(&at);
    whole.equal(&format!("{at}: name"), size.to_string(), name.to_owned());
    let mut cases = Group::new(format!("{at}.cases"));
    let sealed = seals::run(&fields, size, options, progress, &mut cases);
    let mut groups = vec![cases];
    groups.extend(proofs::run(&fields, size, &sealed));
    whole.unknown.extend(fields.unread());
    groups.push(whole);
    groups
}
