//! Whole updates on disk: Filecoin's own vectors, the way back, interruptions, and what is refused.

use std::path::{Path, PathBuf};

use rand::Rng;

use super::*;
use crate::ids::{ProverId, SectorNumber, Ticket};
use crate::piece::commp::commp_of;
use crate::progress::NoProgress;
use crate::seal::tests::SmallDisk;
use crate::seal::{self, CheckDepth, SealRequest, replica_check, unseal_range};
use crate::sector_dir::SectorDirError;
use crate::sector_dir::crash::{Accident, CrashDisk, Loss};
use crate::snark::testing::rng;
use crate::spec::RegisteredSeal;
use crate::verify::VerifyError;

pub(crate) fn plan() -> Plan {
    Plan::with_limits(2, 1 << 30).expect("two threads start")
}

/// An empty sector and an update of it, in a folder of their own.
pub(crate) struct Case {
    folder: tempfile::TempDir,
    pub(crate) updated: Updated,
    data: Vec<u8>,
}

impl Case {
    /// Half of the new data is random, the rest zero: zero nodes have a second decomposition.
    pub(crate) fn new(size: SectorSize, number: u64) -> Case {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut rng = rng(number);
        let bytes = usize::try_from(size.unpadded_bytes() / 2).expect("a small sector");
        let data: Vec<u8> = (0..bytes).map(|_| rng.r#gen()).collect();
        replicated(&old(&folder), size, &[]);
        let updated = update(&folder, std::slice::from_ref(&data)).expect("updates");
        Case {
            folder,
            updated,
            data,
        }
    }

    pub(crate) fn old(&self) -> PathBuf {
        old(&self.folder)
    }

    pub(crate) fn vanilla(&self) -> VanillaProof {
        self.updated.vanilla(&self.old()).expect("sound")
    }

    /// The openings of any nodes.
    pub(crate) fn open(&self, nodes: &[u64]) -> Vec<proof::ChallengeProof> {
        let size = self.updated.dir.size();
        let [old, new] = [self.old(), new(&self.folder)]
            .map(|dir| ReplicaFiles::open(&RealDisk, &dir, size).expect("sound"));
        let sources = Sources {
            old: &old,
            tree_d: &self.updated.dir.read(SectorFile::TreeD).expect("kept"),
            new: &new,
        };
        nodes
            .iter()
            .map(|node| proof::open_one(sources, size, *node).expect("readable"))
            .collect()
    }
}

fn old(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("old")
}

fn new(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("new")
}

fn pieces(data: &[Vec<u8>]) -> Vec<PieceInfo> {
    data.iter()
        .map(|data| {
            let (comm_p, size) = commp_of(data);
            PieceInfo { comm_p, size }
        })
        .collect()
}

/// Seals so far that there is a replica: proofs.md §9.3's provider, sector and ticket.
fn replicated(path: &Path, size: SectorSize, data: &[Vec<u8>]) {
    let request = SealRequest {
        seal: RegisteredSeal::v1_1(size),
        prover: ProverId([9; 32]),
        sector: SectorNumber(42),
        ticket: Ticket([1; 32]),
        pieces: pieces(data),
    };
    let mut slices: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let mut sources: Vec<&mut dyn Read> = slices.iter_mut().map(|s| s as &mut dyn Read).collect();
    let packed = seal::create(path, request, &mut sources).expect("packs");
    let labeled = packed.label(&plan(), &NoProgress).expect("labels");
    labeled.replicate(&plan(), &NoProgress).expect("replicates");
}

fn update(folder: &tempfile::TempDir, data: &[Vec<u8>]) -> Result<Updated, SealError> {
    let mut slices: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let mut sources: Vec<&mut dyn Read> = slices.iter_mut().map(|s| s as &mut dyn Read).collect();
    create(
        &new(folder),
        &old(folder),
        pieces(data),
        &mut sources,
        &plan(),
        &NoProgress,
    )
}

/// proofs.md §9.3: sealed data of pieces `(7i + 13k) mod 251`, new data `(11i + 5) mod 249`; recorded from Filecoin.
fn assert_published(size: SectorSize, sealed: &[usize], comm_d_new: &str, comm_r_new: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let byte = |value: usize| u8::try_from(value).expect("below 251");
    let data: Vec<Vec<u8>> = sealed
        .iter()
        .zip(1..)
        .map(|(len, k)| (0..*len).map(|i| byte((7 * i + 13 * k) % 251)).collect())
        .collect();
    replicated(&old(&folder), size, &data);
    let bytes = usize::try_from(size.unpadded_bytes()).expect("a small sector");
    let data: Vec<u8> = (0..bytes).map(|i| byte((11 * i + 5) % 249)).collect();
    let record = read_record(&RealDisk, &old(&folder)).expect("sealed");
    let record = Record {
        pieces: pieces(std::slice::from_ref(&data)),
        ..record
    };
    let updated = create_over(
        Arc::new(RealDisk),
        &new(&folder),
        &old(&folder),
        record,
        &mut [&mut &data[..]],
        &plan(),
        &NoProgress,
    )
    .expect("updates");
    let statement = updated.statement();
    assert_eq!(statement.comm_d_new.to_string(), comm_d_new, "{size}");
    assert_eq!(statement.comm_r_new.to_string(), comm_r_new, "{size}");
    updated.vanilla(&old(&folder)).expect("sound");
    let mut back = Vec::new();
    recover(
        &new(&folder),
        &old(&folder),
        0..size.unpadded_bytes(),
        &mut back,
        &plan(),
        &NoProgress,
    )
    .expect("decodes");
    assert!(back == data, "{size}: other data came back");
}

#[test]
fn published_updates_of_small_sectors() {
    assert_published(
        SectorSize::Kib2,
        &[1016, 508, 127],
        "8b2eed3518914921fedf953f61d52d9c5f6870564c77de3474a47d6ca611d408",
        "4447672c0796d61e3c7ebc67104484bc0a6a8a43014db9ec478d26fa8775d457",
    );
    assert_published(
        SectorSize::Kib4,
        &[2032, 2032],
        "dbcd184b276c795cdc516bd5ed1ad0d47c27c1b87e8e68835bbdb48d1e97d814",
        "d10cff8b067e5ee2402621eaa8d9a2c2fc6b7204988079c8cd8680a7b8707e5e",
    );
    assert_published(
        SectorSize::Kib16,
        &[8128, 8128],
        "d8f9134bd3bc81c357741149fbb4919d5939c3e596893100a64c33e32019e21b",
        "4341125cb1d250630dea64eb7b28784130d0ce51b1b61d9aa7b0020c2b3ffb3c",
    );
    assert_published(
        SectorSize::Kib32,
        &[16256, 16256],
        "f0c009aa82e30066bc090bc67043b60234f43fadaf1d05dc916124293d725f14",
        "2bd4e545971c22f90f5a17af2e4aa1d5381da5ffa35d143448b467fae2a72626",
    );
}

#[test]
fn published_update_of_an_8_mib_sector() {
    assert_published(
        SectorSize::Mib8,
        &[8_323_072],
        "d5feef2237451bc23dd8ba43a7b423225f3482658c1f41d2dcac57d383a93339",
        "bbd0e4e754ba3415dc2eb2a848fb369751c1b40d04ccfbceaf1c88747f041d2c",
    );
}

/// Any range, with the old sector or from labels; and the old replica again from the new one and the data.
#[test]
fn data_and_old_replica_come_back() {
    let size = SectorSize::Kib16;
    let case = Case::new(size, 1);
    let (new, old) = (new(&case.folder), case.old());
    let capacity = size.unpadded_bytes();
    let mut whole = case.data.clone();
    whole.resize(usize::try_from(capacity).expect("small"), 0);
    for range in [0..capacity, 0..0, 5..1000, capacity - 1..capacity] {
        let expected = &whole[usize::try_from(range.start).expect("small")..]
            [..usize::try_from(range.end - range.start).expect("small")];
        let mut back = Vec::new();
        recover(&new, &old, range.clone(), &mut back, &plan(), &NoProgress).expect("decodes");
        assert_eq!(back, expected, "{range:?}");
        back.clear();
        unseal_range(&new, range.clone(), &mut back, &plan(), &NoProgress).expect("unseals");
        assert_eq!(back, expected, "{range:?}");
    }
    let error = recover(
        &new,
        &old,
        0..capacity + 1,
        &mut Vec::new(),
        &plan(),
        &NoProgress,
    );
    assert!(matches!(error, Err(SealError::Range { .. })));

    let factors = factors(case.updated.dir(), case.updated.statement().comm_r_old).expect("sound");
    let files = [&new, &old].map(|dir| ReplicaFiles::open(&RealDisk, dir, size).expect("sound"));
    let data = case.updated.dir().read(SectorFile::TreeD).expect("kept");
    let nodes = usize::try_from(size.nodes()).expect("small");
    let (mut removed, mut expected) = (vec![[0u8; 32]; nodes], vec![[0u8; 32]; nodes]);
    replica::remove_into(&files[0].replica, &data, 0, &mut removed, &factors).expect("canonical");
    files[1].replica.read(0, &mut expected).expect("readable");
    assert!(removed == expected, "another old replica came back");
}

/// An interrupted update goes on with the same CommR; what is done is read back, also by who only wants PoSts of it.
#[test]
fn tm_h4_an_interrupted_update_goes_on() {
    let case = Case::new(SectorSize::Kib2, 2);
    let (path, old) = (new(&case.folder), case.old());
    let statement = case.updated.statement().clone();
    let Case {
        folder, updated, ..
    } = case;
    let mut dir = updated.dir;
    let stage = Stage::Encoding(statement.comm_r_old);
    dir.commit(Vec::new(), |record| record.stage = stage)
        .expect("writes");
    dir.discard(|file| file != SectorFile::TreeD)
        .expect("removes");
    drop(dir);
    let again = resume(&path, &old, &plan(), &NoProgress).expect("goes on");
    assert_eq!(again.statement(), &statement);
    drop(again);
    let again = resume(&path, &old, &plan(), &NoProgress).expect("finished");
    assert_eq!(again.statement(), &statement);
    assert_eq!(again.proof(), None);
    drop(again);
    let report = replica_check(
        &path,
        statement.size,
        &statement.comm_r_new,
        CheckDepth::Full,
        &plan(),
        &NoProgress,
    )
    .expect("there is memory");
    assert!(report.is_sound(), "{:?}", report.damage);
    // Sealing has no business there.
    assert!(matches!(
        seal::resume(&path, &plan(), &NoProgress),
        Err(SealError::Updated(_))
    ));
    assert!(matches!(
        seal::repair(&path, &plan(), &NoProgress),
        Err(SealError::Updated(_))
    ));
    drop(folder);
}

/// Goes on with the update in `path`, or begins it, and records a proof, the last durable step of proving.
fn finish(disk: &Arc<dyn Disk>, path: &Path, old: &Path) -> Result<CommR, SealError> {
    let data = [vec![7u8; 1000]];
    let updated = match resume_on(Arc::clone(disk), path, old, &plan(), &NoProgress) {
        Err(SealError::Dir(SectorDirError::Empty(_))) => {
            let sources: &mut [&mut dyn Read] = &mut [&mut &data[0][..]];
            let disk = Arc::clone(disk);
            create_on(
                disk,
                path,
                old,
                pieces(&data),
                sources,
                &plan(),
                &NoProgress,
            )
        }
        other => other,
    };
    let mut updated = updated?;
    if updated.proof().is_none() {
        updated.record_proof(vec![7; 192])?;
    }
    assert_eq!(updated.proof(), Some(&[7; 192][..]));
    Ok(updated.statement().comm_r_new)
}

/// As for sealing: cuts at every step with each kind of loss, and once more during the recovery; a disk that is full from each
/// step on; each sync that fails. A run on a sound disk ends with the CommR of one that nobody disturbed.
#[test]
fn tm_h1_tm_h4_tm_h5_an_accident_at_any_step_of_an_update_changes_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let old = old(&folder);
    replicated(&old, SectorSize::Kib2, &[]);
    let counting = CrashDisk::new(None);
    let disk: Arc<dyn Disk> = Arc::new(counting.clone());
    let whole = finish(&disk, &new(&folder), &old).expect("no accident");
    let steps = counting.steps();
    assert!(steps > 20, "the test walks real steps, not {steps}");
    let (mut cut, mut full, mut unsynced) = (0, 0, 0);
    for step in 0..steps {
        let again = step * 7 % steps;
        for (accidents, loss) in [
            (
                &[(step, Accident::Cut), (again, Accident::Cut)][..],
                Loss::Nothing,
            ),
            (
                &[(step, Accident::Cut), (again, Accident::Cut)],
                Loss::Unsynced,
            ),
            (
                &[(step, Accident::Cut), (again, Accident::Cut)],
                Loss::Torn(step),
            ),
            (&[(step, Accident::Full)], Loss::Nothing),
            (&[(step, Accident::SyncFails)], Loss::Unsynced),
        ] {
            let path = folder.path().join(format!("{step}-{accidents:?}-{loss:?}"));
            for accident in accidents {
                let crash = CrashDisk::new(Some(*accident));
                let disk: Arc<dyn Disk> = Arc::new(crash.clone());
                match finish(&disk, &path, &old) {
                    Ok(comm_r) => assert_eq!(comm_r, whole),
                    Err(error) => match accident.1 {
                        Accident::Cut => cut += 1,
                        Accident::Full => {
                            assert!(error.is_full(), "{error}");
                            full += 1;
                        }
                        Accident::SyncFails => unsynced += 1,
                    },
                }
                drop(disk);
                crash.lose(loss);
            }
            let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new(None));
            let comm_r = finish(&disk, &path, &old);
            let comm_r = comm_r.unwrap_or_else(|e| panic!("{step} {accidents:?} {loss:?}: {e}"));
            assert_eq!(comm_r, whole, "{step} {accidents:?} {loss:?}");
            let done = resume_on(disk, &path, &old, &plan(), &NoProgress).expect("whole");
            done.vanilla(&old)
                .expect("its files are what its record says");
        }
    }
    // The first cut of each pair strikes, and so does a good part of the second ones.
    assert!(cut > 4 * steps, "{cut} cuts of {steps} steps");
    assert!(full > steps / 2 && unsynced > 10, "{full} {unsynced}");
}

/// What a kill while packing left is not in the way of the same command.
#[test]
fn tm_h4_what_a_killed_update_left_is_not_in_the_way_of_the_next() {
    let size = SectorSize::Kib2;
    let folder = tempfile::tempdir().expect("a temporary folder");
    replicated(&old(&folder), size, &[]);
    std::fs::create_dir_all(new(&folder)).expect("a folder");
    let leftover = new(&folder).join("sc-02-data-tree-d.dat.tmp");
    std::fs::write(leftover, vec![0; 3000]).expect("writable");
    // Records need a little, too.
    let disk: Arc<dyn Disk> = Arc::new(SmallDisk::Holds(disk_bytes(size) + 2000));
    finish(&disk, &new(&folder), &old(&folder)).expect("there is room");
}

/// Encoding may be a later run's, on a disk that was filled meanwhile: it asks again before it writes.
#[test]
fn tm_h4_a_resumed_encoding_asks_for_its_room() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (new, old) = (new(&folder), old(&folder));
    replicated(&old, SectorSize::Kib2, &[]);
    flip(&old.join("sealed"), 777);
    let error = update(&folder, &[]).expect_err("damaged");
    assert!(matches!(error, SealError::OtherReplica { .. }), "{error}");
    flip(&old.join("sealed"), 777);
    let record = read_record(&RealDisk, &new).expect("packed");
    assert!(matches!(record.stage, Stage::Encoding(_)));
    let left = disk_left(&record);
    assert!(left > SectorSize::Kib2.bytes(), "the replica alone");
    for (free, is_enough) in [(left - 1, false), (left, true)] {
        let disk = Arc::new(SmallDisk::Free(free));
        match resume_on(disk, &new, &old, &plan(), &NoProgress) {
            Ok(_) => assert!(is_enough),
            Err(error) => {
                assert!(matches!(error, SealError::DiskSpace { .. }), "{error}");
                assert!(!is_enough && !new.join("sealed.tmp").exists());
            }
        }
    }
}

/// Any file but TreeD is made again, with the same CommR, and a proof that was recorded stays; damage to TreeD, and another
/// sector than the one that was updated, are named before anything is given up.
#[test]
fn tm_h3_a_damaged_update_is_repaired_to_the_same_comm_r() {
    let size = SectorSize::Kib2;
    let mut case = Case::new(size, 5);
    let (path, old) = (new(&case.folder), case.old());
    let foreign = case.folder.path().join("foreign");
    replicated(&foreign, size, &[vec![1u8; 127]]);
    let proof = vec![7; 192];
    case.updated.record_proof(proof.clone()).expect("writes");
    let Case {
        folder, updated, ..
    } = case;
    let statement = updated.statement().clone();
    drop(updated);
    let repair = |over: &Path| repair(&path, over, &plan(), &NoProgress);
    for name in ["sealed", "sc-02-data-tree-r-last.dat", "p_aux"] {
        flip(&path.join(name), 9);
        let error = repair(&foreign).expect_err("another sector");
        assert!(matches!(error, SealError::OtherReplica { .. }), "{error}");
        let again = repair(&old).expect("repairs");
        assert_eq!(again.statement(), &statement, "{name}");
        assert_eq!(again.proof(), Some(&proof[..]), "{name}");
        drop(again);
        let again = resume(&path, &old, &plan(), &NoProgress).expect("whole again");
        assert_eq!(again.proof(), Some(&proof[..]), "{name}");
    }
    // With nothing to repair, the old sector is not read.
    let again = repair(&foreign).expect("whole");
    assert_eq!(again.statement(), &statement);
    drop(again);
    let error = repair_of(&old).expect_err("no update");
    assert!(matches!(error, SealError::NotUpdated(_)), "{error}");
    flip(&path.join("sc-02-data-tree-d.dat"), 9);
    let error = repair(&old).expect_err("the data itself");
    let SealError::Dir(SectorDirError::Lost { .. }) = error else {
        panic!("{error}");
    };
    let record = read_record(&RealDisk, &path).expect("readable");
    assert!(matches!(record.stage, Stage::UpdateProven(..)));
    drop(folder);
}

fn repair_of(path: &Path) -> Result<Updated, SealError> {
    repair(path, path, &plan(), &NoProgress)
}

#[test]
fn what_cannot_be_updated_is_refused() {
    let size = SectorSize::Kib2;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = [vec![7u8; 127]];
    // A sector that holds data.
    replicated(&old(&folder), size, &data);
    assert!(matches!(
        update(&folder, &data),
        Err(SealError::HoldsData(_))
    ));
    assert!(!new(&folder).exists());

    // One that has no replica yet.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let request = SealRequest {
        seal: RegisteredSeal::v1_1(size),
        prover: ProverId([9; 32]),
        sector: SectorNumber(42),
        ticket: Ticket([1; 32]),
        pieces: Vec::new(),
    };
    drop(seal::create(&old(&folder), request, &mut []).expect("packs"));
    assert!(matches!(
        update(&folder, &data),
        Err(SealError::NoReplica(_))
    ));

    // Pieces that do not fit, and bytes that are not the piece.
    let folder = tempfile::tempdir().expect("a temporary folder");
    replicated(&old(&folder), size, &[]);
    let large = [vec![7u8; 4064]];
    assert!(matches!(update(&folder, &large), Err(SealError::Layout(_))));
    let mut other: &[u8] = &[8u8; 127];
    let swapped = create(
        &new(&folder),
        &old(&folder),
        pieces(&data),
        &mut [&mut other],
        &plan(),
        &NoProgress,
    );
    assert!(matches!(swapped, Err(SealError::Layout(_))));
    // Nothing of that is in the way of the right one.
    let updated = update(&folder, &data).expect("updates");
    let statement = updated.statement().clone();
    drop(updated);
    assert!(matches!(
        update(&folder, &data),
        Err(SealError::Dir(SectorDirError::Occupied(_)))
    ));
    // A sealed folder is no update.
    let error = resume(&old(&folder), &old(&folder), &plan(), &NoProgress);
    assert!(matches!(error, Err(SealError::NotUpdated(_))));
    // An update is no sector to update.
    let third = folder.path().join("third");
    let chained = create(
        &third,
        &new(&folder),
        Vec::new(),
        &mut [],
        &plan(),
        &NoProgress,
    );
    assert!(matches!(chained, Err(SealError::HoldsData(_))));
    // A statement of zeros, or about what is no field element, has no inputs.
    for bent in [[0u8; 32], [0xff; 32]] {
        let mut statement = statement.clone();
        statement.comm_r_old.0 = bent;
        let inputs = crate::verify::update_inputs(&statement);
        assert!(matches!(inputs, Err(VerifyError::Statement(_))));
    }
}

fn flip(path: &Path, at: u64) {
    let mut bytes = std::fs::read(path).expect("readable");
    bytes[usize::try_from(at).expect("small")] ^= 1;
    std::fs::write(path, bytes).expect("writable");
}

/// Does something when a stage starts, or when one is finished (`None`).
struct Meanwhile<'a>(Option<&'static str>, &'a (dyn Fn() + Send + Sync));

impl Progress for Meanwhile<'_> {
    fn start(&self, stage: &'static str, _total: u64) {
        if self.0 == Some(stage) {
            (self.1)();
        }
    }

    fn advance(&self, _n: u64) {}

    fn finish(&self) {
        if self.0.is_none() {
            (self.1)();
        }
    }
}

/// Files that change between two readings: no wrong byte is handed out, and nothing is encoded over other bytes than those
/// that hash to CommR.
#[test]
fn tm_p18_a_replica_that_changes_while_it_is_read_is_noticed() {
    let size = SectorSize::Kib2;
    let case = Case::new(size, 4);
    let (new, old) = (new(&case.folder), case.old());
    for file in [new.join("sealed"), old.join("sealed")] {
        let sound = std::fs::read(&file).expect("readable");
        for changed in [
            // One bit; and nodes that decode to what no padding has.
            Box::new(|| flip(&file, 777)) as Box<dyn Fn() + Send + Sync>,
            Box::new(|| std::fs::write(&file, [0x3b; 2048]).expect("writable")),
        ] {
            let mut out = Vec::new();
            let progress = Meanwhile(None, &*changed);
            let result = recover(&new, &old, 0..2032, &mut out, &plan(), &progress);
            assert!(matches!(result, Err(SealError::DamagedReplica(_))));
            assert_eq!(out, b"");
            std::fs::write(&file, &sound).expect("writable");
        }
    }

    let other = case.folder.path().join("other");
    let changed = || flip(&old.join("sealed"), 777);
    let progress = Meanwhile(Some("new replica"), &changed);
    let error = create(&other, &old, Vec::new(), &mut [], &plan(), &progress);
    assert!(matches!(error, Err(SealError::OtherReplica { .. })));
}

/// One bit of either replica, and another sector in the old one's place: named, never encoded over or handed out.
#[test]
fn tm_p18_damage_is_named_and_no_wrong_byte_is_handed_out() {
    let size = SectorSize::Kib2;
    let case = Case::new(size, 3);
    let (new, old) = (new(&case.folder), case.old());
    let sealed = |dir: &Path| dir.join("sealed");
    let recovered = |out: &mut Vec<u8>| recover(&new, &old, 0..100, out, &plan(), &NoProgress);
    for file in [sealed(&new), sealed(&old)] {
        flip(&file, 777);
        let mut out = Vec::new();
        assert!(matches!(
            recovered(&mut out),
            Err(SealError::DamagedReplica(_))
        ));
        assert_eq!(out, b"");
        // 2 KiB have one group of leaves: every opening reads the damaged node.
        assert!(matches!(
            case.updated.vanilla(&old),
            Err(SealError::Update(UpdateError::Inconsistent(_)))
        ));
        flip(&file, 777);
    }
    recovered(&mut Vec::new()).expect("whole again");
    case.updated.vanilla(&old).expect("whole again");

    // The data in TreeD.
    let tree_d = new.join("sc-02-data-tree-d.dat");
    flip(&tree_d, 5);
    assert!(case.updated.vanilla(&old).is_err());
    flip(&tree_d, 5);

    // A damaged old replica is not encoded over.
    let other = case.folder.path().join("other");
    flip(&sealed(&old), 777);
    let error = create(&other, &old, Vec::new(), &mut [], &plan(), &NoProgress);
    assert!(matches!(error, Err(SealError::OtherReplica { .. })));
    flip(&sealed(&old), 777);
    let again = resume(&other, &old, &plan(), &NoProgress).expect("goes on once it is repaired");
    drop(again);

    // Another sector of the same size.
    let other = Case::new(size, 3);
    let foreign = other.folder.path().join("foreign");
    replicated(&foreign, size, &[vec![1u8; 127]]);
    for error in [
        recover(&new, &foreign, 0..1, &mut Vec::new(), &plan(), &NoProgress),
        case.updated.vanilla(&foreign).map(|_| ()),
    ] {
        assert!(matches!(error, Err(SealError::OtherReplica { .. })));
    }
}
