//! `holdfast prover`: the prover alone, on files; no network, no chain, no home folder.
//!
//! | command | does |
//! |---|---|
//! | `seal DIR FILE…` | packs files into a sector folder and takes it to a verified proof; run again, it goes on where it stopped |
//! | `seal-all ROOT FILE…` | the same for many sectors, one file each; their labels are computed together, at twice the speed per core |
//! | `update SECTOR DIR FILE…` | puts files into a sector that was sealed empty, as a replica of its own in another folder, and proves it |
//! | `unseal DIR` | the data back from the replica, whole or a range |
//! | `prove DIR…` | a WindowPoSt (or `--winning`) of sealed sector folders |
//! | `verify FILE` | checks a proof file that `seal`, `prove` or `update` wrote |
//! | `check DIR`, `repair DIR` | finds damage in a sector folder; recomputes what can be recomputed |
//! | `bench` | what this machine offers, what each stage takes here, what larger sectors would take |
//! | `params` | lists, makes and checks proving keys, and imports Filecoin's files |
//! | `vectors FILE` | runs a file of golden vectors |
//!
//! Keys come from the parameter cache (`HOLDFAST_PARAMS`) and are made on first use. Proof files are JSON, see [`file`].

mod bench;
pub mod file;
mod params;
mod post;
mod seal;
mod sector;
mod update;
mod vectors;
mod verify;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prover::estimate::{key_bytes, keygen_memory, parents_to_write, proving_memory};
use prover::machine::{Machine, Plan};
use prover::merkle::build::TreeError;
use prover::porep::replica::comm_r;
use prover::seal::SealError;
use prover::sector_dir::SectorDirError;
use prover::sector_dir::record::{Record, Stage};
use prover::snark::CircuitId;
use prover::snark::keys::{KeyError, ParamStore, ProvingKey, require_dev};
use prover::snark::prove::ProveError;
use prover::update::proof::UpdateError;
use prover::{CommR, RegisteredSeal};

pub use super::output::BarProgress;

use super::args::parse_bytes;
use super::{Class, CliError, Context};

/// Arguments of `prover`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
    /// Threads to work with [default: all cores]
    #[arg(long, global = true, value_name = "N")]
    threads: Option<usize>,
    /// Most memory that any stage may take; one that needs more says so before it starts [default: what is free]
    #[arg(long, global = true, value_name = "BYTES", value_parser = parse_bytes)]
    memory: Option<u64>,
    /// Largest list of a proof type's parents to keep on disk (56 bytes a node: 14 MiB for 8MiB sectors, 896 MiB for 512MiB,
    /// 56 GiB for 32GiB); larger ones, and all with 0, are computed anew for every layer
    #[arg(long, global = true, value_name = "BYTES", value_parser = parse_bytes, default_value = "1GiB")]
    parent_cache: u64,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Seal files into a sector folder, or go on with one
    ///
    /// A sector that is there goes on where it stopped, by the same command again or by its folder alone. It keeps its size,
    /// provider, number, ticket and data; flags and files that say otherwise are refused. Another --seed challenges it anew,
    /// until it is proven.
    Seal(seal::SealArgs),
    /// Seal many sectors, one file each, or go on with them; labels are computed together
    ///
    /// Sectors that are there go on where they stopped, by the same command again or by their folder alone; none is made twice.
    /// Size, provider and ticket are said of the files' sectors, without files of all: one that is there must be what they say.
    /// Another --seed challenges anew whatever is not proven yet; what is proven is refused if it is named, and else stays as it is.
    SealAll(seal::SealAllArgs),
    /// Put files into a sector that was sealed empty, without sealing anew, or go on with that
    Update(update::UpdateArgs),
    /// Write a sector's data, recovered from its replica
    Unseal(sector::UnsealArgs),
    /// Prove that sealed sectors are still held
    Prove(post::ProveArgs),
    /// Verify a proof file
    Verify(verify::VerifyArgs),
    /// Look for damage in a sector folder
    Check(sector::CheckArgs),
    /// Make damaged files of a sector folder again, each beside the old one
    Repair(sector::RepairArgs),
    /// Measure this machine: kernels, every stage, estimates for larger sectors
    Bench(bench::BenchArgs),
    /// List, make or check proving keys, or import one from Filecoin's file
    Params(params::ParamsArgs),
    /// Run a file of golden vectors
    Vectors(vectors::VectorsArgs),
}

/// Runs the command. The work is the prover's own threads'; this one waits.
pub async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let folder = crate::config::parents_dir(&context.config.params_dir);
    let plan = plan(args.threads, args.memory)?.with_parent_cache(&folder, args.parent_cache);
    match args.action {
        Action::Seal(args) => seal::seal(args, &plan, context),
        Action::SealAll(args) => seal::seal_all(args, &plan, context),
        Action::Update(args) => update::update(args, &plan, context),
        Action::Unseal(args) => sector::unseal(args, &plan, context),
        Action::Prove(args) => post::prove(args, &plan, context),
        Action::Verify(args) => verify::verify(args, &plan, context),
        Action::Check(args) => sector::check(args, &plan, context),
        Action::Repair(args) => sector::repair(args, &plan, context),
        Action::Bench(args) => bench::bench(args, &plan, context),
        Action::Params(args) => params::params(args, &plan, context),
        Action::Vectors(args) => vectors::vectors(args, &plan, context),
    }
}

fn plan(threads: Option<usize>, memory: Option<u64>) -> Result<Plan, CliError> {
    let machine = Machine::detect();
    let threads = threads.unwrap_or(machine.cores);
    let memory = memory.unwrap_or(machine.available_memory);
    Plan::with_limits(threads, memory).map_err(|error| with_next_step(Class::Machine, error))
}

fn store(context: &Context) -> Result<ParamStore, CliError> {
    ParamStore::open(&context.config.params_dir).map_err(key_error)
}

/// A step and the bytes of memory that it needs.
type Need = (&'static str, u64);

/// Refuses work of which a step needs more memory than allowed, before anything is done for it; names the step that needs most.
fn require_memory(plan: &Plan, needs: impl IntoIterator<Item = Need>) -> Result<(), CliError> {
    let most = needs.into_iter().max_by_key(|(_, bytes)| *bytes);
    most.map_or(Ok(()), |(step, bytes)| plan.require(step, bytes))
        .map_err(|error| with_next_step(Class::Machine, error))
}

/// What a proof needs, and its key where that has to be made. Refuses a proof whose key is not there and cannot be made.
fn proof_needs(store: &ParamStore, circuit: CircuitId) -> Result<Vec<Need>, CliError> {
    let mut needs = vec![("proving", proving_memory(circuit))];
    if !store.has(circuit) {
        require_dev(circuit).map_err(key_error)?;
        needs.push(("making a key", keygen_memory(circuit)));
    }
    Ok(needs)
}

/// What a command will write, counted before it starts: what lands on one disk together shall fit there together.
#[derive(Default)]
struct Room {
    wants: Vec<Want>,
    /// Lists of parents that labelling would keep. Where only they do not fit, they are computed anew for every layer.
    lists: Vec<Want>,
}

/// So many bytes, in a folder that may be missing yet.
struct Want {
    what: String,
    folder: PathBuf,
    bytes: u64,
}

impl Room {
    fn add(&mut self, what: impl Display, folder: &Path, bytes: u64) {
        self.wants.push(Want {
            what: what.to_string(),
            folder: folder.to_owned(),
            bytes,
        });
    }

    /// A proof file, or another small one.
    fn add_out(&mut self, out: Option<&Path>) {
        let folder = out.and_then(Path::parent);
        if let Some(folder) = folder {
            self.add("the proof file", folder, 1 << 16);
        }
    }

    /// The circuit's key, if it is to be made.
    fn add_key(&mut self, store: &ParamStore, circuit: CircuitId) {
        if !store.has(circuit) {
            let what = format!("the key of {circuit}");
            self.add(what, store.dir(), key_bytes(circuit));
        }
    }

    /// The list of parents that labelling sectors of this type will keep, if any.
    fn add_parents(&mut self, seal: RegisteredSeal, plan: &Plan) {
        let bytes = parents_to_write(seal, plan);
        if let Some(folder) = plan.parent_cache(bytes).filter(|_| bytes > 0) {
            self.lists.push(Want {
                what: "the list of parents".to_owned(),
                folder: folder.to_owned(),
                bytes,
            });
        }
    }

    /// Refuses what does not fit. Gives the plan back, without a cache of parents where there is no room for one.
    fn require(&self, plan: &Plan, context: &Context) -> Result<Plan, CliError> {
        let disks = Disks {
            of: disk_of,
            free: |folder: &Path| fs4::available_space(folder),
        };
        disks.require(self.wants.iter())?;
        if disks.require(self.wants.iter().chain(&self.lists)).is_ok() {
            return Ok(plan.clone());
        }
        context
            .out
            .say("There is no room for a list of parents; they are computed for every layer.");
        Ok(plan.clone().with_parent_cache(Path::new(""), 0))
    }
}

/// Which disk a folder is on, and what is free there.
struct Disks<O, F> {
    of: O,
    free: F,
}

impl<O, F> Disks<O, F>
where
    O: Fn(&Path) -> std::io::Result<u64>,
    F: Fn(&Path) -> std::io::Result<u64>,
{
    fn require<'a>(&self, wants: impl Iterator<Item = &'a Want>) -> Result<(), CliError> {
        let mut by_disk: BTreeMap<u64, (PathBuf, Vec<&Want>)> = BTreeMap::new();
        for want in wants {
            let there = want.folder.ancestors().find(|folder| folder.exists());
            let there = there.unwrap_or(Path::new("."));
            let disk = (self.of)(there)
                .map_err(|error| CliError::io("cannot look at the disk of", there, &error))?;
            let (_, wants) = by_disk
                .entry(disk)
                .or_insert((there.to_owned(), Vec::new()));
            wants.push(want);
        }
        for (there, wants) in by_disk.values() {
            let free = (self.free)(there)
                .map_err(|error| CliError::io("cannot measure", there, &error))?;
            let needed = wants
                .iter()
                .fold(0, |sum: u64, want| sum.saturating_add(want.bytes));
            if needed > free {
                return Err(no_room(there, wants, needed, free));
            }
        }
        Ok(())
    }
}

fn no_room(there: &Path, wants: &[&Want], needed: u64, free: u64) -> CliError {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let each = wants
        .iter()
        .map(|want| format!("{} {} MiB", want.what, mib(want.bytes)));
    let what = format!(
        "{} MiB are needed on the disk of {} and {} MiB are free: {}",
        mib(needed),
        there.display(),
        free >> 20,
        each.collect::<Vec<_>>().join(", ")
    );
    CliError::new(Class::Machine, what)
        .hint("free some space, or name folders on another disk (HOLDFAST_PARAMS is the keys')")
}

/// A number of the disk's own, by which folders on it are told to share it.
#[cfg(unix)]
fn disk_of(folder: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata(folder)?.dev())
}

/// Without such a number all folders are taken to be on one disk: too careful, never too bold.
#[cfg(not(unix))]
fn disk_of(_: &Path) -> std::io::Result<u64> {
    Ok(0)
}

/// A key, made where there is none and the memory for that is allowed.
fn key(
    store: &ParamStore,
    circuit: CircuitId,
    plan: &Plan,
    progress: &BarProgress,
) -> Result<Arc<ProvingKey>, CliError> {
    store.key(circuit, plan, progress).map_err(key_error)
}

/// The prover's messages read "what happened; what to do next".
fn with_next_step(class: Class, error: impl Display) -> CliError {
    let text = error.to_string();
    match text.split_once("; ") {
        Some((what, next)) => CliError::new(class, what).hint(next),
        None => CliError::new(class, text).hint(match class {
            Class::Usage | Class::Input => "check the arguments; --help explains them",
            Class::BadData => "look for damage with `holdfast prover check DIR`",
            _ => "check disk, memory and permissions, then run the same command again",
        }),
    }
}

fn key_error(error: KeyError) -> CliError {
    let class = match &error {
        KeyError::Io { .. }
        | KeyError::DiskSpace { .. }
        | KeyError::NotReproduced { .. }
        | KeyError::Memory(_) => Class::Machine,
        KeyError::NeedsCeremony(_) | KeyError::Unknown { .. } => Class::Refused,
        KeyError::Occupied { .. } => Class::Input,
        KeyError::Damaged { .. }
        | KeyError::WrongCircuit { .. }
        | KeyError::Vk(_)
        | KeyError::Foreign { .. } => Class::BadData,
    };
    with_next_step(class, error)
}

fn prove_error(error: ProveError) -> CliError {
    match error {
        ProveError::Key(error) => key_error(error),
        ProveError::Unsatisfied { .. } => with_next_step(Class::BadData, error)
            .hint("look for damage with `holdfast prover check DIR`"),
        ProveError::WrongKey { .. } => with_next_step(Class::BadData, error)
            .hint("remove the key from the parameter folder; it is made again on the next use"),
        ProveError::SelfCheck(_) => with_next_step(Class::Machine, error),
    }
}

fn seal_error(error: SealError) -> CliError {
    let error = match error {
        SealError::Prove(error) | SealError::Update(UpdateError::Prove(error)) => {
            return prove_error(error);
        }
        other => other,
    };
    let class = match &error {
        SealError::Dir(SectorDirError::Occupied(_) | SectorDirError::Empty(_)) => Class::Input,
        SealError::Dir(
            SectorDirError::Record { .. }
            | SectorDirError::Damaged { .. }
            | SectorDirError::Lost { .. },
        ) => Class::BadData,
        // A file that ends too early is damage, whatever the machine does.
        SealError::Dir(SectorDirError::Disk(disk)) | SealError::Tree(TreeError::Disk(disk))
            if disk.source.kind() == std::io::ErrorKind::UnexpectedEof =>
        {
            return with_next_step(Class::BadData, error)
                .hint("look for damage with `holdfast prover check DIR`");
        }
        SealError::Dir(SectorDirError::Disk(disk)) if disk.is_unreadable() => {
            return with_next_step(Class::Machine, error)
                .hint("the disk may have a bad sector: run `holdfast prover repair DIR`, which makes the file again elsewhere");
        }
        SealError::Dir(SectorDirError::Disk(_) | SectorDirError::Locked(_)) => Class::Machine,
        SealError::Tree(TreeError::NotCanonical { .. }) => Class::BadData,
        SealError::Tree(_) | SealError::Memory(_) | SealError::DiskSpace { .. } => Class::Machine,
        SealError::Layout(_) | SealError::Unsupported(_) | SealError::Range { .. } => Class::Input,
        SealError::WrongData { .. }
        | SealError::Inconsistent { .. }
        | SealError::DamagedReplica(_)
        | SealError::OtherReplica { .. }
        | SealError::Update(UpdateError::Inconsistent(_)) => Class::BadData,
        SealError::Updated(_)
        | SealError::NotUpdated(_)
        | SealError::NoReplica(_)
        | SealError::HoldsData(_) => Class::Input,
        SealError::SelfCheck { .. }
        | SealError::Update(_)
        | SealError::Prove(_)
        | SealError::Output(_) => Class::Machine,
    };
    with_next_step(class, error)
}

/// The CommR of a sector whose replica is complete; an earlier stage is the caller's mistake.
fn require_replica(dir: &Path, record: &Record) -> Result<CommR, CliError> {
    let (Stage::Replicated(roots)
    | Stage::Challenged(roots, _)
    | Stage::Sealed(roots, ..)
    | Stage::Updated(roots, _)
    | Stage::UpdateProven(roots, ..)) = &record.stage
    else {
        let what = format!("the sector in {} has no replica yet", dir.display());
        let next = match record.stage.is_update() {
            true => "finish it with `holdfast prover update SECTOR DIR`, no files named",
            false => "finish it with `holdfast prover seal DIR`",
        };
        return Err(CliError::new(Class::Input, what).hint(next));
    };
    comm_r(&roots.comm_c, &roots.comm_r_last).ok_or_else(|| {
        let what = format!(
            "the record in {} is damaged: its roots are no field elements",
            dir.display()
        );
        CliError::new(Class::BadData, what).hint("seal the sector anew")
    })
}

/// How the names of unfinished files begin. Whoever fills one holds its lock, which tells it from what a killed command left.
const UNFINISHED: &str = ".holdfast-tmp-";
/// Attempts to make one while other commands clear the folder.
const ATTEMPTS: usize = 8;

/// Makes a file: `write` fills one of another name beside it, which is synced and takes its name when it is complete. One that
/// fails leaves nothing behind; what a killed command left in the folder is removed first, because it may have the room that this
/// one needs. Another file of that name is replaced only if `replace`.
fn make_file(
    path: &Path,
    replace: bool,
    write: impl FnOnce(&mut File) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let at = |error: std::io::Error| CliError::io("cannot write", path, &error);
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    remove_left_over(folder);
    let mut file = unfinished_in(folder).map_err(at)?;
    write(file.as_file_mut())?;
    file.as_file().sync_all().map_err(at)?;
    match replace {
        true => file.persist(path),
        false => file.persist_noclobber(path),
    }
    .map(drop)
    .map_err(|error| at(error.error))
}

/// An empty file of a name of its own, its lock held.
fn unfinished_in(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    // Whom the umask lets read it may, as with any file that a command writes.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    for _ in 0..ATTEMPTS {
        let file = builder.prefix(UNFINISHED).tempfile_in(folder)?;
        // Where nothing can be locked, nothing is taken for left over either.
        let _ = file.as_file().lock();
        // Another command may have found it before it was locked.
        if file.path().exists() {
            return Ok(file);
        }
    }
    Err(std::io::Error::other(
        "other commands go on removing unfinished files there",
    ))
}

/// Removes unfinished files that nobody fills any more. One that cannot be removed takes room, nothing else.
fn remove_left_over(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_ours = name
            .to_str()
            .is_some_and(|name| name.starts_with(UNFINISHED));
        if !is_ours || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let Ok(file) = File::options().write(true).open(entry.path()) else {
            continue;
        };
        // Held until the name is gone: whoever has just made the file waits for the lock and looks again.
        if file.try_lock().is_ok() {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The bytes of a file; of one with more than `most` nothing, and no more is read, whatever length it says that it has.
fn read_at_most(path: &Path, most: usize) -> Result<Option<Vec<u8>>, CliError> {
    let at = |error: std::io::Error| CliError::io("cannot read", path, &error);
    let mut bytes = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    let mut file = File::open(path).map_err(at)?.take(limit);
    file.read_to_end(&mut bytes).map_err(at)?;
    Ok((bytes.len() <= most).then_some(bytes))
}

/// Refuses a missing folder before anything says something stranger.
fn require_folder(path: &Path) -> Result<(), CliError> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(CliError::new(
            Class::Input,
            format!("{} is a file, not a sector folder", path.display()),
        )
        .hint("name the folder that `holdfast prover seal` made")),
        Err(error) => Err(CliError::io("cannot open", path, &error)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Write};

    use super::*;

    /// What lands on one disk is added up, whichever folders it is for; a list of parents is left out where only it is too much.
    #[test]
    fn tm_h4_what_a_command_writes_on_one_disk_is_counted_together() {
        let dir = tempfile::tempdir().expect("a folder");
        let (sectors, keys) = (dir.path().join("sectors"), dir.path().join("keys"));
        std::fs::create_dir(&keys).expect("makes");
        let mut room = Room::default();
        room.add("the sector", &sectors.join("not").join("yet"), 3 << 20);
        room.add("the key of porep-2KiB", &keys, 2 << 20);
        let require = |disk_of_keys: u64, free: u64| {
            let disks = Disks {
                of: |folder: &Path| Ok(if folder == keys { disk_of_keys } else { 1 }),
                free: |_: &Path| Ok(free),
            };
            disks.require(room.wants.iter())
        };
        assert!(require(1, 5 << 20).is_ok());
        assert!(require(2, 3 << 20).is_ok(), "disks of their own");
        assert!(require(2, (3 << 20) - 1).is_err());
        let error = require(1, (5 << 20) - 1).expect_err("a byte short");
        assert_eq!(error.class(), Class::Machine);
        let said = error.message();
        for part in [
            "5 MiB are needed",
            "4 MiB are free",
            "sector 3 MiB",
            "porep-2KiB 2 MiB",
        ] {
            assert!(said.contains(part), "{said}");
        }
        assert!(!sectors.exists(), "nothing is made");
    }

    /// A disk that is full half-way, and a file that somebody else has beside it under a temporary name.
    #[test]
    fn tm_h4_a_file_that_cannot_be_finished_leaves_what_was_there() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, other) = (dir.path().join("proof"), dir.path().join("proof.tmp"));
        std::fs::write(&other, b"mine").expect("writes");
        let full = |file: &mut File| {
            file.write_all(b"half").expect("written");
            let error = std::io::Error::from(ErrorKind::StorageFull);
            Err(CliError::io("cannot write", Path::new("proof"), &error))
        };
        for replace in [false, true] {
            assert!(make_file(&path, replace, full).is_err());
            let left = std::fs::read_dir(dir.path()).expect("lists").count();
            assert!(left == 1 && !path.exists());
        }
        let whole = |file: &mut File| {
            file.write_all(b"whole").expect("written");
            Ok(())
        };
        make_file(&path, false, whole).expect("written");
        assert!(make_file(&path, false, full).is_err());
        assert!(make_file(&path, false, whole).is_err(), "it is there");
        make_file(&path, true, whole).expect("replaced");
        assert_eq!(std::fs::read(&path).expect("reads"), b"whole");
        assert_eq!(std::fs::read(&other).expect("reads"), b"mine");
    }

    /// What a killed command left is removed; what another one is filling, and what only looks alike, is not.
    #[test]
    fn tm_h8_the_next_command_removes_what_a_killed_one_left() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = |name: &str| dir.path().join(name);
        let ours = |tail: &str| at(&format!("{UNFINISHED}{tail}"));
        let stranger = at(".tmp-abcdef");
        for path in [&ours("killed"), &stranger, &at("data")] {
            std::fs::write(path, b"half").expect("writes");
        }
        std::fs::create_dir(ours("folder")).expect("makes");
        #[cfg(unix)]
        std::os::unix::fs::symlink(at("data"), ours("link")).expect("links");
        let other = unfinished_in(dir.path()).expect("makes");
        make_file(&at("proof"), false, |file| {
            assert!(!ours("killed").exists(), "room first, then the file");
            // A command that begins while this one writes leaves its file alone.
            make_file(&at("second"), false, |_| Ok(()))?;
            file.write_all(b"whole").expect("written");
            Ok(())
        })
        .expect("written");
        assert_eq!(std::fs::read(at("proof")).expect("reads"), b"whole");
        assert!(other.path().exists() && at("second").exists());
        assert!(stranger.exists() && ours("folder").exists());
        #[cfg(unix)]
        assert!(ours("link").is_symlink() && at("data").exists());
    }

    /// Commands that clear a folder while others begin files in it: each file is finished.
    #[test]
    fn tm_h8_clearing_a_folder_takes_no_file_that_has_just_been_made() {
        let dir = tempfile::tempdir().expect("a folder");
        let write = |thread: usize| {
            for n in 0..200 {
                let path = dir.path().join(format!("{thread}-{n}"));
                make_file(&path, false, |_| Ok(())).expect("written");
            }
        };
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || write(thread));
            }
        });
        let left = std::fs::read_dir(dir.path()).expect("lists").count();
        assert_eq!(left, 4 * 200, "nothing else is left");
    }
}
