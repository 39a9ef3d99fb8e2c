//! Whole seals against Filecoin's values, crashes at every step, damage to every kind of file.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::commitment::{CommC, CommR, CommRLast};
use crate::hash::sha256;
use crate::ids::{ProverId, SectorNumber, Seed, Ticket};
use crate::piece::PieceInfo;
use crate::piece::commp::commp_of;
use crate::porep::proof;
use crate::progress::NoProgress;
use crate::progress::testing::Listener;
use crate::sector_dir::crash::{Accident, CrashDisk, Loss};
use crate::sector_dir::disk::{Disk, RealDisk};
use crate::sector_dir::record::{Roots, SectorFile};
use crate::sector_dir::{SectorDir, read_record};
use crate::spec::{RegisteredSeal, SealVersion};

const SEED: Seed = Seed([2; 32]);

fn plan() -> Plan {
    Plan::with_limits(2, 1 << 30).expect("two threads start")
}

/// Piece `k` (from 1) of `proofs.md` §9.3.
fn piece_bytes(k: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| ((7 * i + 13 * k) % 251) as u8).collect()
}

fn request(seal: RegisteredSeal, pieces: &[Vec<u8>]) -> SealRequest {
    let info = |bytes: &Vec<u8>| {
        let (comm_p, size) = commp_of(bytes);
        PieceInfo { comm_p, size }
    };
    SealRequest {
        seal,
        prover: ProverId([9; 32]),
        sector: SectorNumber(42),
        ticket: Ticket([1; 32]),
        pieces: pieces.iter().map(info).collect(),
    }
}

fn pack(
    disk: Arc<dyn Disk>,
    dir: &Path,
    seal: RegisteredSeal,
    lengths: &[usize],
) -> Result<Packed, SealError> {
    let pieces: Vec<Vec<u8>> = (1..)
        .zip(lengths)
        .map(|(k, &len)| piece_bytes(k, len))
        .collect();
    let mut readers: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
    let mut sources: Vec<&mut dyn std::io::Read> = readers
        .iter_mut()
        .map(|r| r as &mut dyn std::io::Read)
        .collect();
    let request = request(seal, &pieces);
    create_on(disk, dir, request, &mut sources, &NoProgress)
}

fn replicate(dir: &Path, seal: RegisteredSeal, lengths: &[usize]) -> Replicated {
    let packed = pack(Arc::new(RealDisk), dir, seal, lengths).expect("packs");
    let labeled = packed.label(&plan(), &NoProgress).expect("labels");
    labeled.replicate(&plan(), &NoProgress).expect("replicates")
}

fn kib2() -> RegisteredSeal {
    RegisteredSeal::v1_1(SectorSize::Kib2)
}

/// One block of `proofs.md` §9.3: type, unpadded piece lengths, then comm_d, replica_id, comm_c, comm_r_last, comm_r, and
/// the two challenges.
struct Golden {
    seal: RegisteredSeal,
    pieces: &'static [usize],
    roots: [&'static str; 5],
    challenges: [u64; 2],
}

const GOLDEN: [Golden; 6] = [
    Golden {
        seal: RegisteredSeal {
            version: SealVersion::V1_1,
            size: SectorSize::Kib2,
        },
        pieces: &[1016, 508, 127],
        roots: [
            "3b53dcc8914731ec87d57c43e571bd09052c6b289ae3c9d02bf83981b2bd0a3c",
            "c2b9e585bcd99af7bf916d40f0bde4513310206c6f179905b4b89b8e285eef17",
            "e84edbcacd25a18e752e940c6e158d7f4d1bfb5365b4385f02283cf772441c69",
            "bdcdf43533a7deeab8199542cb97961bbb5888a9a1df74da10fcfd226c2f1b38",
            "78b0dd6896c28e97207832afabe71a2aea4145c73d4549a4249a666cb0b25f51",
        ],
        challenges: [8, 48],
    },
    Golden {
        seal: RegisteredSeal {
            version: SealVersion::V1,
            size: SectorSize::Kib2,
        },
        pieces: &[2032],
        roots: [
            "25c9dfea70842cdc7d54ef86635d39aed1f096a96323e94979db774d668e3e06",
            "d5e59478f20bf1d372f783cd125254f77356eb88681d07b8670e7df574d9b206",
            "8cafe99eb1fde72b7fe23a6081bb2a03d2d95a434feaece6bb07f929e6267a40",
            "95f903a1002f8819b9ce923d39136205e7f48a21ed56a29d1bacd6adecdb3747",
            "f60fca651813daf599c9797d4569260d1ff7ece88a981f8206a31796595b5607",
        ],
        challenges: [20, 16],
    },
    Golden {
        seal: RegisteredSeal {
            version: SealVersion::V1_1,
            size: SectorSize::Kib4,
        },
        pieces: &[2032, 2032],
        roots: [
            "6c4e1c00f3afcf45eb8030592f0cf18cdf697a0175fcb98fe5bbe85cf0511f3e",
            "9023de527fe42930a84ca20fd07f27431c3220e53d6ce51af0584d7e4204f112",
            "e21b2919cde4f395043c9cf6a604e01d7431971a6973be86cb0d08677be0742b",
            "2f53e6083fa928a5e9537ced18935913619675b385f11537c396962a0570802f",
            "efd82a2f76ab50ec2802fb8d91a47d58222a25ee4c18802f0686f4e2a0061160",
        ],
        challenges: [112, 7],
    },
    Golden {
        seal: RegisteredSeal {
            version: SealVersion::V1_1,
            size: SectorSize::Kib16,
        },
        pieces: &[8128, 8128],
        roots: [
            "60a592324d5dee63a44dd86912c2cb5e6909830e0ec9f15f002feb369e6d0c1d",
            "081420a558588ffe62e67214a506a1bfb35ef95d39f062f09d50a5771b002e00",
            "73a2c794428ca58ab149b2e2835c19f235cc148ed5ef8fea46b9e6671375765f",
            "77fbdb36272e9c3a96811c12f66adb67c10a6ae86e4f5fbaf290ee5ac760742a",
            "a06fee456d46c94958e1b3e756497034a40b82059495ef65be2c9c46766b3713",
        ],
        challenges: [62, 132],
    },
    Golden {
        seal: RegisteredSeal {
            version: SealVersion::V1_1,
            size: SectorSize::Kib32,
        },
        pieces: &[16256, 16256],
        roots: [
            "08657b7af02a46fdf924964a52efa97663e613b7e4afab6716f206ba5629f125",
            "1074f065f00c72f7e8a0fcd7624ef1018c6e0df740851e660e9982cb2bf11414",
            "32eb9fd2853e15304f6e462c0f597e6b0174adffb3def5e59841ee8d60a7df34",
            "3158a4c7310e8f5da0f44c7d7bed08df3917a9be7ce969b9341bd054309cb717",
            "bf52c753a20d9d7ba917dbe8b446902a4e30c10049d1e0f0aca427bf437b7b4d",
        ],
        challenges: [132, 664],
    },
    Golden {
        seal: RegisteredSeal {
            version: SealVersion::V1_1,
            size: SectorSize::Mib8,
        },
        pieces: &[8323072],
        roots: [
            "253e4e89869c277d19e3e7e81c6cc8d760acdd0709c3063ed364fda606647a0c",
            "4b58a03301b06035da68734aef74e7a6280ce44496ad7dd97b8e4fe2e314340f",
            "3393adfdd21a9fe5d07bcbcf684fac647d90e0f55fb4bd63e79ce27fbba1bd25",
            "f15cf43106239aa8a6bd53cd9acc9192003bac581027595e42247f5fa83cce1e",
            "6651b8a84ee951f35238c0925be299f0e1d6a739786134cd42ac6517847b322d",
        ],
        challenges: [209473, 125026],
    },
];

fn check_golden(golden: &Golden) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("sector");
    let replicated = replicate(&path, golden.seal, golden.pieces);
    let Roots {
        comm_c,
        comm_r_last,
    } = replicated.roots();
    let found = [
        replicated.comm_d().to_string(),
        replicated.replica_id().to_string(),
        comm_c.to_string(),
        comm_r_last.to_string(),
        replicated.comm_r().to_string(),
    ];
    assert_eq!(found, golden.roots, "{}", golden.seal);
    let comm_r = replicated.comm_r();

    let challenged = replicated
        .challenge(SEED, &plan(), &NoProgress)
        .expect("its own openings verify");
    let drawn: Vec<u64> = challenged.vanilla().partitions[0]
        .iter()
        .map(|c| c.challenge)
        .collect();
    assert_eq!(drawn, golden.challenges, "{}", golden.seal);
    drop(challenged);

    let size = golden.seal.size;
    let report = replica_check(&path, size, &comm_r, CheckDepth::Full, &plan(), &NoProgress)
        .expect("there is memory");
    assert!(
        report.is_sound() && report.nodes == size.nodes(),
        "{report:?}"
    );

    let mut all = Vec::new();
    unseal_range(
        &path,
        0..size.unpadded_bytes(),
        &mut all,
        &plan(),
        &NoProgress,
    )
    .expect("unseals");
    let first = piece_bytes(1, golden.pieces[0]);
    assert_eq!(all.len() as u64, size.unpadded_bytes());
    assert_eq!(all[..first.len()], first);
    let range = 100..(first.len() as u64).min(1000);
    let mut part = Vec::new();
    unseal_range(&path, range.clone(), &mut part, &plan(), &NoProgress).expect("unseals");
    assert_eq!(part, all[range.start as usize..range.end as usize]);
}

#[test]
fn small_sectors_match_filecoin() {
    GOLDEN
        .iter()
        .filter(|golden| golden.seal.size < SectorSize::Mib8)
        .for_each(check_golden);
}

#[test]
fn an_8_mib_sector_matches_filecoin() {
    GOLDEN
        .iter()
        .filter(|golden| golden.seal.size == SectorSize::Mib8)
        .for_each(check_golden);
}

/// Finishes a sector from whatever is on disk, as a provider does after a restart.
fn finish(disk: &Arc<dyn Disk>, dir: &Path) -> Result<CommR, SealError> {
    let mut stage = match resume_on(disk.clone(), dir, &plan(), &NoProgress) {
        Ok(stage) => stage,
        Err(SealError::Dir(SectorDirError::Empty(_))) => {
            AnyStage::Packed(pack(disk.clone(), dir, kib2(), &[1016, 508, 127])?)
        }
        Err(error) => return Err(error),
    };
    loop {
        stage = match stage {
            AnyStage::Packed(packed) => AnyStage::Labeled(packed.label(&plan(), &NoProgress)?),
            AnyStage::Labeled(labeled) => {
                AnyStage::Replicated(labeled.replicate(&plan(), &NoProgress)?)
            }
            AnyStage::Replicated(replicated) => {
                AnyStage::Challenged(replicated.challenge(SEED, &plan(), &NoProgress)?)
            }
            // C2 has one durable step, whatever the proof is.
            AnyStage::Challenged(challenged) => {
                AnyStage::Sealed(challenged.record_proof(vec![7; 192])?)
            }
            AnyStage::Sealed(sealed) => {
                assert_eq!(sealed.proof(), [7; 192]);
                return Ok(sealed.comm_r());
            }
        };
    }
}

fn golden_2kib() -> CommR {
    GOLDEN[0].roots[4].parse().expect("hex of 32 bytes")
}

/// Cuts a seal at every step, with each kind of loss, and once more at those steps of its recovery that are told for the first cut and
/// the kind, or until the recovery is cut no more: always the same CommR. Gives how many recoveries were cut.
fn cut_seals(second_cuts: impl Fn(u64, u64, u64) -> Box<dyn Iterator<Item = u64>>) -> u64 {
    let counting = CrashDisk::new(None);
    let dir = tempfile::tempdir().expect("temporary folder");
    let disk: Arc<dyn Disk> = Arc::new(counting.clone());
    assert_eq!(
        finish(&disk, &dir.path().join("s")).expect("no accident"),
        golden_2kib()
    );
    let steps = counting.steps();
    assert!(steps > 50, "the test walks real steps, not {steps}");

    let mut recoveries_cut = 0;
    for cut in 0..steps {
        let losses = [Loss::Nothing, Loss::Unsynced, Loss::Torn(cut)];
        for (kind, loss) in (0..).zip(losses) {
            for again in second_cuts(steps, cut, kind) {
                let dir = tempfile::tempdir().expect("temporary folder");
                let path = dir.path().join("s");
                let mut is_cut = false;
                // Past the recovery's end nothing happens.
                for at in [cut, again] {
                    let crash = CrashDisk::new(Some((at, Accident::Cut)));
                    let disk: Arc<dyn Disk> = Arc::new(crash.clone());
                    let cut_short = finish(&disk, &path);
                    is_cut = cut_short.is_err();
                    if let Ok(comm_r) = cut_short {
                        assert_eq!(comm_r, golden_2kib());
                    }
                    drop(disk);
                    crash.lose(loss);
                }
                let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new(None));
                let comm_r = finish(&disk, &path)
                    .unwrap_or_else(|e| panic!("cuts {cut} and {again}, {loss:?}: {e}"));
                assert_eq!(comm_r, golden_2kib(), "cuts {cut} and {again}, {loss:?}");
                recoveries_cut += u64::from(is_cut);
                if !is_cut {
                    break;
                }
            }
        }
    }
    recoveries_cut
}

/// At another step of each recovery for each kind of loss, so that over all of them every step is met.
#[test]
fn tm_h1_tm_h8_a_cut_at_any_step_is_resumed_to_the_same_comm_r() {
    let cuts = cut_seals(|steps, cut, kind| {
        Box::new(std::iter::once((cut * 7 + kind * steps / 3) % steps))
    });
    assert!(cuts > 50, "only {cuts} recoveries were cut");
}

/// Every step of every recovery: thousands of seals.
#[test]
#[ignore = "minutes; run it when a stage or its records change"]
fn tm_h1_tm_h8_a_seal_and_its_recovery_cut_at_every_pair_of_steps_give_the_same_comm_r() {
    let cuts = cut_seals(|_, _, _| Box::new(0..));
    assert!(cuts > 2_000, "only {cuts} recoveries were cut");
}

/// Every write fails once with a full disk: an ordinary error that says so, and a resumed run completes.
#[test]
fn tm_h4_a_full_disk_is_an_ordinary_error() {
    let counting = CrashDisk::new(None);
    let dir = tempfile::tempdir().expect("temporary folder");
    let disk: Arc<dyn Disk> = Arc::new(counting.clone());
    finish(&disk, &dir.path().join("s")).expect("no accident");

    let mut full = 0;
    for at in 0..counting.steps() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("s");
        let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new(Some((at, Accident::Full))));
        match finish(&disk, &path) {
            // Only what comes after the last write survives a disk without space.
            Ok(comm_r) => assert_eq!(comm_r, golden_2kib()),
            Err(error) => {
                assert!(error.is_full(), "step {at}: {error}");
                full += 1;
            }
        }
        let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new(None));
        assert_eq!(finish(&disk, &path).expect("space is back"), golden_2kib());
    }
    assert!(full > 30, "most steps need space, not {full}");
}

/// A failed sync ends the stage; nothing that it covered is taken as durable, and a fresh run redoes it.
#[test]
fn tm_h5_a_failed_sync_ends_the_stage() {
    let counting = CrashDisk::new(None);
    let dir = tempfile::tempdir().expect("temporary folder");
    let disk: Arc<dyn Disk> = Arc::new(counting.clone());
    finish(&disk, &dir.path().join("s")).expect("no accident");

    let mut failed = 0;
    for at in 0..counting.steps() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("s");
        let crash = CrashDisk::new(Some((at, Accident::SyncFails)));
        let disk: Arc<dyn Disk> = Arc::new(crash.clone());
        failed += u32::from(finish(&disk, &path).is_err());
        drop(disk);
        crash.lose(Loss::Unsynced);
        let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new(None));
        assert_eq!(
            finish(&disk, &path).expect("the disk is well again"),
            golden_2kib()
        );
    }
    assert!(failed > 20, "every sync fails once, not {failed}");
}

/// A real disk that says how much room there is.
#[derive(Debug)]
pub(crate) enum SmallDisk {
    /// So many bytes are free, whatever is written.
    Free(u64),
    /// A folder may hold so many bytes.
    Holds(u64),
    /// One file has a bad sector, until it is removed or another takes its place.
    Bad(Arc<std::sync::atomic::AtomicBool>, std::path::PathBuf),
    /// Its first list of a folder still names a file that is then gone.
    Stale(std::sync::atomic::AtomicBool, std::path::PathBuf),
}

impl SmallDisk {
    /// The bad file is removed or replaced: what has its name next lies elsewhere.
    fn is_given_up(&self, path: &Path) {
        if let Self::Bad(is_bad, bad) = self
            && bad == path
        {
            is_bad.store(false, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

impl Disk for SmallDisk {
    fn make_dir(&self, dir: &Path) -> std::io::Result<()> {
        RealDisk.make_dir(dir)
    }
    fn open(&self, path: &Path) -> std::io::Result<Box<dyn crate::sector_dir::disk::DiskFile>> {
        let open = RealDisk.open(path)?;
        match self {
            Self::Bad(is_bad, bad) if bad == path => {
                Ok(Box::new(BadSector(open, Arc::clone(is_bad))))
            }
            _ => Ok(open),
        }
    }
    fn create(&self, path: &Path) -> std::io::Result<Box<dyn crate::sector_dir::disk::DiskFile>> {
        RealDisk.create(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.is_given_up(to);
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> std::io::Result<()> {
        self.is_given_up(path);
        RealDisk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> std::io::Result<()> {
        RealDisk.sync_dir(dir)
    }
    fn list(&self, dir: &Path) -> std::io::Result<Vec<String>> {
        let names = RealDisk.list(dir);
        if let Self::Stale(is_told, path) = self
            && !is_told.swap(true, std::sync::atomic::Ordering::Relaxed)
        {
            RealDisk.remove(path)?;
        }
        names
    }
    fn free_bytes(&self, dir: &Path) -> std::io::Result<u64> {
        let bytes = |name: String| Ok(std::fs::metadata(dir.join(name))?.len());
        match self {
            Self::Free(bytes) => Ok(*bytes),
            Self::Holds(most) => {
                let names = RealDisk.list(dir)?.into_iter();
                let used = names.map(bytes).sum::<std::io::Result<u64>>()?;
                Ok(most.saturating_sub(used))
            }
            Self::Bad(..) | Self::Stale(..) => RealDisk.free_bytes(dir),
        }
    }
}

/// A file of which nothing can be read while it is bad.
#[derive(Debug)]
struct BadSector(
    Box<dyn crate::sector_dir::disk::DiskFile>,
    Arc<std::sync::atomic::AtomicBool>,
);

impl crate::sector_dir::disk::DiskFile for BadSector {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        if self.1.load(std::sync::atomic::Ordering::Relaxed) {
            // EIO
            return Err(std::io::Error::from_raw_os_error(5));
        }
        self.0.read_exact_at(buffer, offset)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }
    fn sync(&self) -> std::io::Result<()> {
        self.0.sync()
    }
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }
}

/// A file that the disk cannot read any more is made again in its place, with the CommR that the sector had. Who only opens the
/// sector is told of the disk, and nothing of it is taken for damaged: the next read may be well.
#[test]
fn tm_h5_a_bad_sector_of_the_disk_is_damage_that_repair_makes_good() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("s");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    assert_eq!(finish(&disk, &path).expect("seals"), golden_2kib());
    let files: Vec<SectorFile> = {
        let record = read_record(&RealDisk, &path).expect("a record");
        record.files.iter().map(|entry| entry.file).collect()
    };
    assert!(files.contains(&SectorFile::Sealed) && files.contains(&SectorFile::Layer(1)));
    for file in files {
        let bad = path.join(file.name(1));
        let is_bad = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let disk: Arc<dyn Disk> = Arc::new(SmallDisk::Bad(Arc::clone(&is_bad), bad.clone()));
        let error = resume_on(Arc::clone(&disk), &path, &plan(), &NoProgress);
        let error = error.expect_err("it cannot be read");
        let SealError::Dir(SectorDirError::Disk(told)) = &error else {
            panic!("{file:?}: {error}");
        };
        assert!(told.is_unreadable() && told.path == bad, "{error}");
        let repaired = repair_on(disk, &path, &plan(), &NoProgress);
        drop(repaired.unwrap_or_else(|error| panic!("{file:?}: {error}")));
        assert!(
            !is_bad.load(std::sync::atomic::Ordering::Relaxed),
            "{file:?}"
        );
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        assert_eq!(finish(&disk, &path).expect("whole"), golden_2kib());
    }
}

/// A run that is killed while it packs leaves up to a sector's bytes; the same command is not refused for want of them. Neither is
/// it when the kill came between the data and the first record.
#[test]
fn tm_h4_what_a_killed_run_left_is_not_in_the_way_of_the_next() {
    let (size, dir) = (SectorSize::Kib32, tempfile::tempdir().expect("a folder"));
    let (path, seal) = (dir.path().join("s"), RegisteredSeal::v1_1(size));
    let disk = || Arc::new(SmallDisk::Holds(disk_bytes(size)));
    for leftover in [
        "unsealed.tmp",
        "sc-02-data-tree-d.dat.tmp",
        "record.tmp",
        "unsealed",
    ] {
        std::fs::create_dir_all(&path).expect("a folder");
        std::fs::write(path.join(leftover), vec![0; 20 << 10]).expect("writable");
        let packed = pack(disk(), &path, seal, &[127]);
        drop(packed.unwrap_or_else(|error| panic!("{leftover}: {error}")));
        std::fs::remove_dir_all(&path).expect("removable");
    }

    // What else lies in the folder is the user's, and a sector is nobody's leftover.
    std::fs::create_dir_all(&path).expect("a folder");
    for name in ["mine", "mine.tmp", "unsealed.tmp"] {
        std::fs::write(path.join(name), name).expect("writable");
    }
    SectorDir::sweep_unbegun(disk(), &path).expect("sweeps");
    SectorDir::sweep_unbegun(disk(), &dir.path().join("missing")).expect("nothing to do");
    let there = |name: &str| path.join(name).exists();
    assert!(there("mine") && there("mine.tmp") && !there("unsealed.tmp"));
    for name in ["mine", "mine.tmp"] {
        std::fs::remove_file(path.join(name)).expect("removable");
    }
    drop(pack(disk(), &path, seal, &[127]).expect("packs"));
    std::fs::write(path.join("sealed.tmp"), "half").expect("writable");
    SectorDir::sweep_unbegun(disk(), &path).expect("leaves a sector alone");
    assert!(there("record") && there("sealed.tmp"));
}

/// What another process finishes between the look at a folder and its lock is no error.
#[test]
fn a_folder_is_listed_once_it_is_locked() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("s");
    drop(pack(Arc::new(RealDisk), &path, kib2(), &[127]).expect("packs"));
    let begun = path.join("sc-02-data-layer-1.dat.tmp");
    std::fs::write(&begun, "half").expect("writable");
    let stale = SmallDisk::Stale(false.into(), begun);
    let opened = SectorDir::open(Arc::new(stale), &path);
    assert!(opened.is_ok(), "{opened:?}");
}

/// Sectors that fit one by one and not together are refused together, before one of them is begun; labelled together, only as
/// many are begun as fit beside each other.
#[test]
fn tm_h4_sectors_that_do_not_fit_together_are_refused_before_work_starts() {
    let (size, dir) = (SectorSize::Kib2, tempfile::tempdir().expect("a folder"));
    let (each, three) = (disk_bytes(size), Path::new("not/there/yet"));
    assert!(
        require_disk(
            &SmallDisk::Free(3 * each),
            &dir.path().join(three),
            3 * each
        )
        .is_ok()
    );
    let error = require_disk(
        &SmallDisk::Free(3 * each - 1),
        &dir.path().join(three),
        3 * each,
    )
    .expect_err("one byte short");
    let said = error.to_string();
    let mib = format!("sealing needs {} MiB in ", (3 * each).div_ceil(1 << 20));
    assert!(said.starts_with(&mib), "{said}");
    assert!(said.contains("; free some space"), "{said}");
    assert!(error.is_full(), "{said}");
    assert!(!dir.path().join("not").exists(), "nothing is made");

    // Packed, each still writes everything but its data; replicated, nothing but records.
    let left = each - size.bytes();
    let disk = Arc::new(SmallDisk::Free(each.max(2 * left)));
    let sectors: Vec<Packed> = ["a", "b", "c"]
        .map(|name| pack(disk.clone(), &dir.path().join(name), kib2(), &[127]).expect("alone"))
        .into();
    assert_eq!(disk_left(sectors[0].dir().record()), left);
    let results = label_all(sectors, &plan(), &NoProgress);
    assert!(results[0].is_ok() && results[1].is_ok(), "{results:?}");
    let error = results[2].as_ref().expect_err("no room for a third");
    assert!(matches!(error, SealError::DiskSpace { .. }), "{error}");
    let AnyStage::Packed(third) =
        resume(&dir.path().join("c"), &plan(), &NoProgress).expect("as it was")
    else {
        panic!("it was not begun");
    };
    drop(results);
    // Once the others are done with, it goes on.
    drop(third.label(&plan(), &NoProgress).expect("labels"));
    let done = replicate(&dir.path().join("d"), kib2(), &[127]);
    assert_eq!(disk_left(done.dir().record()), 0);
}

/// PC2 may be a later run's, on a disk that was filled meanwhile: it asks again before it writes.
#[test]
fn tm_h4_pc2_of_a_resumed_sector_asks_for_its_room() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("s");
    let packed = pack(Arc::new(RealDisk), &path, kib2(), &[127]).expect("packs");
    let labeled = packed.label(&plan(), &NoProgress).expect("labels");
    let left = disk_left(labeled.dir().record());
    drop(labeled);
    for (free, is_enough) in [(left - 1, false), (left, true)] {
        let stage = resume_on(Arc::new(SmallDisk::Free(free)), &path, &plan(), &NoProgress);
        let AnyStage::Labeled(labeled) = stage.expect("goes on") else {
            panic!("it was labelled");
        };
        match labeled.replicate(&plan(), &NoProgress) {
            Ok(_) => assert!(is_enough),
            Err(error) => {
                assert!(matches!(error, SealError::DiskSpace { .. }), "{error}");
                assert!(!is_enough && !path.join("sc-02-data-tree-c.dat.tmp").exists());
            }
        }
    }
}

/// The parents' list is for later sectors: where it and this one do not fit together, this one goes on without it.
#[test]
fn tm_h4_the_parents_list_does_not_take_the_sectors_room() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let seal = RegisteredSeal::v1_1(SectorSize::Mib8);
    let list = 56 * seal.size.nodes();
    let left = disk_bytes(seal.size) - seal.size.bytes();
    for (free, is_kept) in [(left + list - 1, false), (left + list, true)] {
        let (path, kept) = (
            dir.path().join(free.to_string()),
            dir.path().join("parents"),
        );
        let _ = std::fs::remove_dir_all(&kept);
        drop(pack(Arc::new(RealDisk), &path, seal, &[127]).expect("packs"));
        let disk = Arc::new(SmallDisk::Free(free));
        let AnyStage::Packed(packed) =
            resume_on(disk, &path, &plan(), &NoProgress).expect("goes on")
        else {
            panic!("it was packed");
        };
        let plan = plan().with_parent_cache(&kept, u64::MAX);
        drop(packed.label(&plan, &NoProgress).expect("labels"));
        let files = std::fs::read_dir(&kept).map_or(0, |list| list.count());
        assert_eq!(files > 0, is_kept, "{free} bytes free");
    }
}

#[test]
fn too_small_a_disk_or_memory_is_refused_before_work_starts() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("s");
    let small = Arc::new(SmallDisk::Free(disk_bytes(SectorSize::Kib2) - 1));
    let error = pack(small, &path, kib2(), &[127]).expect_err("one byte short");
    assert!(matches!(error, SealError::DiskSpace { .. }), "{error}");
    let written = std::fs::read_dir(&path).expect("claimed").count();
    assert!(written <= 1, "the lock alone, not {written} files");

    let packed = pack(Arc::new(RealDisk), &dir.path().join("t"), kib2(), &[127]).expect("packs");
    let poor = Plan::with_limits(1, label_memory(SectorSize::Kib2) - 1).expect("one thread starts");
    assert!(matches!(
        packed.label(&poor, &NoProgress),
        Err(SealError::Memory(_))
    ));
}

/// Every long step is a stage whose units are all told, also where it goes on behind what is done already.
#[test]
fn progress_is_told_of_every_step() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let (path, heard) = (dir.path().join("s"), Listener::default());
    let resumed = || resume(&path, &plan(), &heard).expect("goes on");
    let data = piece_bytes(1, 1016);
    let request = request(kib2(), std::slice::from_ref(&data));
    let packed = create_watched(&path, request, &mut [&mut data.as_slice()], &heard);
    let packed = packed.expect("packs");
    let told = heard.take();
    let [packing] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!((packing.stage, packing.total), ("packing", 2 * 2048));
    assert!(
        packing.finished && packing.done == packing.total,
        "{packing:?}"
    );
    let labeled = packed.label(&plan(), &heard).expect("labels");
    let stages = heard.take_whole();
    assert_eq!(stages.last(), Some(&"PC1: labels and TreeD"), "{stages:?}");

    // TreeC is there, the replica is not, as when PC2 is killed.
    let replicated = labeled.replicate(&plan(), &heard).expect("replicates");
    let whole = heard.take();
    let comm_r = replicated.comm_r();
    drop(replicated);
    let mut dir = SectorDir::open(Arc::new(RealDisk), &path).expect("opens");
    dir.commit(Vec::new(), |record| record.stage = Stage::Labeled)
        .expect("a step back");
    drop(dir);
    let AnyStage::Labeled(labeled) = resumed() else {
        panic!("it was put back");
    };
    assert_eq!(heard.take_whole(), ["checking the files"]);
    let replicated = labeled.replicate(&plan(), &heard).expect("replicates");
    assert_eq!(replicated.comm_r(), comm_r);
    let rest = heard.take();
    for stage in whole.iter().chain(&rest) {
        assert_eq!(stage.stage, "PC2: columns, replica, trees");
        assert!(stage.finished && stage.done == stage.total, "{stage:?}");
    }
    assert_eq!(rest[0].total, SectorSize::Kib2.nodes());
    assert!(whole[0].total > rest[0].total, "TreeC is counted once");

    drop(replicated.challenge(SEED, &plan(), &heard).expect("opens"));
    assert_eq!(heard.take_whole(), ["C1: openings"]);
    drop(resumed());
    assert_eq!(heard.take_whole(), ["checking the files", "C1: openings"]);
    let repaired = repair(&path, &plan(), &heard).expect("sound");
    assert!(matches!(repaired, AnyStage::Challenged(_)));
    assert_eq!(heard.take_whole(), ["checking the files", "C1: openings"]);
}

/// What a repair makes again is asked for in memory before a file is given up: labels only where labels are wanting.
#[test]
fn tm_h9_a_repair_asks_for_what_it_makes_again() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("s");
    let size = SectorSize::Mib8;
    let packed = pack(
        Arc::new(RealDisk),
        &path,
        RegisteredSeal::v1_1(size),
        &[127],
    );
    let labeled = packed.expect("packs").label(&plan(), &NoProgress);
    let replicated = labeled.expect("labels").replicate(&plan(), &NoProgress);
    let files = replicated.expect("replicates").dir().record().files.clone();
    let within = |memory| Plan::with_limits(1, memory).expect("one thread starts");
    let (replicating, labelling) = (replicate_memory(size, &within(0)), label_memory(size));
    let beside = crate::machine::gpu_memory();
    assert!(replicating < labelling + beside, "else this shows nothing");
    let still_there = || {
        files
            .iter()
            .all(|entry| path.join(entry.file.name(1)).exists())
    };

    // Sound: nothing is made again, no memory is asked for.
    assert!(matches!(
        repair(&path, &within(0), &NoProgress),
        Ok(AnyStage::Replicated(_))
    ));
    flip(&path.join("sealed"), 99);
    let error = repair(&path, &within(replicating - 1), &NoProgress).expect_err("one byte short");
    assert!(matches!(error, SealError::Memory(_)), "{error}");
    assert!(still_there());
    flip(&path.join(SectorFile::Layer(2).name(1)), 99);
    let error = repair(&path, &within(labelling - 1), &NoProgress).expect_err("one byte short");
    assert!(matches!(error, SealError::Memory(_)), "{error}");
    assert!(still_there());
    flip(&path.join(SectorFile::Layer(2).name(1)), 99);
    assert!(matches!(
        repair(&path, &within(replicating), &NoProgress),
        Ok(AnyStage::Replicated(_))
    ));
}

/// The steps behind PC2 ask too: what is refused has changed nothing, and nothing is called damaged.
#[test]
fn tm_h9_c1_the_check_and_unsealing_are_refused_before_they_start() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("s");
    let replicated = replicate(&path, kib2(), &[127]);
    let (size, comm_r) = (SectorSize::Kib2, replicated.comm_r());
    let within = |memory| Plan::with_limits(1, memory).expect("one thread starts");
    let needed = challenge_memory(size);
    let error = replicated
        .challenge(SEED, &within(needed - 1), &NoProgress)
        .expect_err("one byte short");
    assert!(matches!(error, SealError::Memory(_)), "{error}");
    let AnyStage::Replicated(replicated) = resume(&path, &plan(), &NoProgress).expect("as it was")
    else {
        panic!("no challenge was recorded");
    };
    drop(
        replicated
            .challenge(SEED, &within(needed), &NoProgress)
            .expect("opens"),
    );
    // A challenged sector's openings are made again when it is gone on with.
    let error = resume(&path, &within(needed - 1), &NoProgress).expect_err("one byte short");
    assert!(matches!(error, SealError::Memory(_)), "{error}");
    let error = repair(&path, &within(needed - 1), &NoProgress).expect_err("one byte short");
    assert!(matches!(error, SealError::Memory(_)), "{error}");
    let there = resume(&path, &within(needed), &NoProgress).expect("opens");
    assert!(matches!(there, AnyStage::Challenged(_)));
    drop(there);

    let needed = check_memory(size, &within(0));
    for (memory, looks) in [(needed - 1, false), (needed, true)] {
        let plan = within(memory);
        let report = replica_check(&path, size, &comm_r, CheckDepth::Full, &plan, &NoProgress);
        assert_eq!(report.is_ok_and(|report| report.is_sound()), looks);
    }
    let (needed, mut out) = (label_memory(size), Vec::new());
    let error = unseal_range(&path, 0..1, &mut out, &within(needed - 1), &NoProgress);
    assert!(matches!(error, Err(SealError::Memory(_))), "{error:?}");
    assert!(out.is_empty());
    unseal_range(&path, 0..1, &mut out, &within(needed), &NoProgress).expect("unseals");
}

#[test]
fn a_folder_has_one_worker_and_one_sector() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("s");
    assert!(matches!(
        resume(&path, &plan(), &NoProgress),
        Err(SealError::Dir(SectorDirError::Empty(_)))
    ));
    let packed = pack(Arc::new(RealDisk), &path, kib2(), &[127]).expect("packs");
    assert!(matches!(
        resume(&path, &plan(), &NoProgress),
        Err(SealError::Dir(SectorDirError::Locked(_)))
    ));
    drop(packed);
    let again = pack(Arc::new(RealDisk), &path, kib2(), &[127]);
    assert!(matches!(
        again,
        Err(SealError::Dir(SectorDirError::Occupied(_)))
    ));
    assert!(matches!(
        resume(&path, &plan(), &NoProgress).expect("free again"),
        AnyStage::Packed(_)
    ));
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("readable");
    bytes[at] ^= 1;
    std::fs::write(path, bytes).expect("writable");
}

/// One flipped bit, and one missing byte, in each kind of file: named at resume, and repaired where the data is sound.
#[test]
fn tm_h3_damage_to_any_file_is_named_before_use_and_repaired() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("s");
    let replicated = replicate(
        &path,
        RegisteredSeal::v1_1(SectorSize::Kib32),
        &[16256, 16256],
    );
    let comm_r = replicated.comm_r();
    let files: BTreeSet<_> = replicated
        .dir()
        .record()
        .files
        .iter()
        .map(|e| replicated.dir().path_of(e.file))
        .collect();
    drop(replicated);
    assert_eq!(files.len(), 1 + 1 + 2 + 16 + 16 + 1 + 1);

    for file in &files {
        for shorten in [false, true] {
            if shorten {
                let len = std::fs::metadata(file).expect("there").len();
                std::fs::File::options()
                    .write(true)
                    .open(file)
                    .and_then(|f| f.set_len(len - 1))
                    .expect("writable");
            } else {
                flip(file, 7);
            }
            let error = resume(&path, &plan(), &NoProgress).expect_err("damaged");
            let name = file
                .file_name()
                .and_then(|name| name.to_str())
                .expect("our names are ASCII");
            assert!(error.to_string().contains(name), "{error}");

            let AnyStage::Replicated(again) =
                repair(&path, &plan(), &NoProgress).expect("made again")
            else {
                panic!("a damaged {name} costs no stage");
            };
            assert_eq!(again.comm_r(), comm_r);
            drop(again);
            let whole = resume(&path, &plan(), &NoProgress);
            assert!(matches!(whole, Ok(AnyStage::Replicated(_))), "{name}");
        }
    }
}

/// Sees at the start of every step of a repair that nothing is given up before its replacement is there.
struct AllThere(Vec<std::path::PathBuf>);

impl crate::progress::Progress for AllThere {
    fn start(&self, stage: &'static str, _total: u64) {
        let missing = self.0.iter().find(|path| !path.exists());
        assert_eq!(missing, None, "at {stage}");
    }
    fn advance(&self, _n: u64) {}
    fn finish(&self) {}
}

/// What becomes of a damaged file of a sealed sector.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    MadeAgain,
    Forgotten,
    Lost,
}

/// Whatever of a sealed sector is damaged: it stays sealed, with its seed and proof, the record of what is left is what it was, and what
/// is made again is what it was. What nothing needs is forgotten; what cannot be made again is named, and nothing is touched.
#[test]
fn tm_h3_a_repaired_sector_keeps_its_stage_seed_and_proof() {
    use Fate::*;
    use SectorFile::*;
    let dir = tempfile::tempdir().expect("temporary folder");
    let size = SectorSize::Kib32;
    let path = dir.path().join("s");
    let seal = |trim: Option<bool>| {
        let _ = std::fs::remove_dir_all(&path);
        let replicated = replicate(&path, RegisteredSeal::v1_1(size), &[16256, 127]);
        let challenged = replicated.challenge(SEED, &plan(), &NoProgress);
        let sealed = challenged.expect("opens").record_proof(vec![7; 192]);
        let sealed = sealed.expect("records");
        match trim {
            None => sealed,
            Some(keep_unsealed) => sealed.trim(keep_unsealed).expect("trims"),
        }
    };
    let whole = None;
    let with_data = Some(true);
    let bare = Some(false);
    let cases: &[(Option<bool>, &[SectorFile], Fate)] = &[
        (whole, &[Layer(1)], Forgotten),
        (
            whole,
            &[Layer(1), Layer(2), TreeC(0), TreeC(7), TreeD],
            Forgotten,
        ),
        (whole, &[Sealed], MadeAgain),
        (whole, &[TreeR(3), PAux], MadeAgain),
        (whole, &[Sealed, TreeR(0)], MadeAgain),
        (whole, &[Unsealed], MadeAgain),
        (whole, &[Unsealed, Sealed], MadeAgain),
        // The last layer is computed, or the data decoded.
        (whole, &[Sealed, Layer(2)], MadeAgain),
        (whole, &[Unsealed, TreeD], MadeAgain),
        (whole, &[Unsealed, TreeD, Layer(2)], Forgotten),
        (whole, &[Unsealed, TreeD, Sealed], Lost),
        (with_data, &[Sealed, TreeR(1)], MadeAgain),
        (with_data, &[Unsealed], Forgotten),
        (with_data, &[Unsealed, Sealed], Lost),
        (bare, &[TreeR(0), TreeR(7), PAux], MadeAgain),
        (bare, &[Sealed], Lost),
    ];
    for (trim, bad, fate) in cases {
        let what = format!("{trim:?} {bad:?}");
        let sealed = seal(*trim);
        let (record, comm_r) = (sealed.dir().record().clone(), sealed.comm_r());
        let trees = size.shape().base_trees;
        let at = |file: SectorFile| path.join(file.name(trees));
        let contents = || {
            let read = |entry: &crate::sector_dir::record::FileEntry| {
                (entry.file, std::fs::read(at(entry.file)).expect("there"))
            };
            record.files.iter().map(read).collect::<Vec<_>>()
        };
        let before = contents();
        drop(sealed);
        bad.iter().for_each(|file| flip(&at(*file), 7));
        let damaged = contents();
        let unneeded = |file: SectorFile| matches!(file, Layer(_) | TreeC(_) | TreeD);
        let forgotten =
            |file: SectorFile| bad.contains(&file) && (*fate == Forgotten || unneeded(file));
        // Those that are forgotten may go at once.
        let stay = record.files.iter().map(|entry| entry.file);
        let stay = AllThere(stay.filter(|file| !forgotten(*file)).map(at).collect());
        let repaired = repair(&path, &plan(), &stay);
        if *fate == Lost {
            let error = repaired.expect_err(&what);
            let SealError::Dir(SectorDirError::Lost { path: named, .. }) = &error else {
                panic!("{what}: {error}");
            };
            assert!(
                bad.iter().any(|file| at(*file) == *named),
                "{what}: {error}"
            );
            assert!(
                error.to_string().contains("seal the sector anew"),
                "{error}"
            );
            assert!(contents() == damaged, "{what}: something was touched");
            continue;
        }
        let AnyStage::Sealed(repaired) = repaired.expect(&what) else {
            panic!("{what}: it was sealed");
        };
        assert_eq!(repaired.comm_r(), comm_r, "{what}");
        assert_eq!((repaired.seed(), repaired.proof()), (SEED, &[7; 192][..]));
        let kept = repaired.dir().record().files.clone();
        for (entry, (file, bytes)) in record.files.iter().zip(&before) {
            let is_forgotten = forgotten(*file);
            assert_eq!(kept.contains(entry), !is_forgotten, "{what}: {file:?}");
            let now = std::fs::read(at(*file)).ok();
            assert!(
                now.as_ref() == (!is_forgotten).then_some(bytes),
                "{what}: {file:?}"
            );
        }
        drop(repaired);
        let names = RealDisk.list(&path).expect("there");
        assert!(
            !names.iter().any(|name| name.ends_with(".tmp")),
            "{names:?}"
        );
        assert!(resume(&path, &plan(), &NoProgress).is_ok(), "{what}");
    }
}

/// A sector on its way goes on from the stage it had, whatever is damaged: nothing but the damaged files is made again.
#[test]
fn tm_h3_a_repaired_sector_goes_on_from_its_stage() {
    use SectorFile::*;
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("s");
    let heard = Listener::default();
    let packed = pack(Arc::new(RealDisk), &path, kib2(), &[2032]).expect("packs");
    let labeled = packed.label(&plan(), &NoProgress).expect("labels");
    let repaired = |bad: &[SectorFile], steps: &[&str]| {
        bad.iter()
            .for_each(|file| flip(&path.join(file.name(1)), 7));
        let stage = repair(&path, &plan(), &heard).expect("made again");
        let told = heard.take_whole();
        let told: Vec<_> = told
            .iter()
            .filter(|step| step.ends_with("made again"))
            .collect();
        assert!(told.iter().copied().eq(steps), "{bad:?}: {told:?}");
        stage
    };
    drop(labeled);
    let stage = repaired(&[Layer(1)], &["layers made again"]);
    let AnyStage::Labeled(labeled) = stage else {
        panic!("{}", stage.name());
    };
    let replicated = labeled.replicate(&plan(), &NoProgress).expect("replicates");
    let challenged = replicated.challenge(SEED, &plan(), &NoProgress);
    drop(challenged.expect("opens"));
    let all = [
        Layer(1),
        Layer(2),
        Unsealed,
        TreeD,
        TreeC(0),
        TreeR(0),
        PAux,
    ];
    let steps = [
        "layers made again",
        "data made again",
        "TreeD made again",
        "TreeC made again",
        "TreeR made again",
    ];
    let stage = repaired(&all, &steps);
    let AnyStage::Challenged(challenged) = stage else {
        panic!("{}", stage.name());
    };
    assert_eq!(challenged.vanilla().seed, SEED);
    drop(challenged);

    // Files that were recorded as they are, and that the others do not make: nothing takes their place.
    let mut dir = SectorDir::open(Arc::new(RealDisk), &path).expect("opens");
    let first = dir.begin(Layer(1)).expect("begins");
    first.write(0, &[[1; 32]; 64]).expect("writes");
    dir.commit(vec![(Layer(1), first)], |_| ())
        .expect("records");
    drop(dir);
    flip(&path.join(Layer(2).name(1)), 7);
    let error = repair(&path, &plan(), &NoProgress).expect_err("another layer");
    assert!(
        matches!(error, SealError::Dir(SectorDirError::Lost { .. })),
        "{error}"
    );
}

/// Whole files in the wrong place, each well-formed and of the right length: layers exchanged, and layers, replica, TreeR and
/// `p_aux` of another sector. Resuming, unsealing and checking name them before anything is made of them.
#[test]
fn tm_h3_a_foreign_or_swapped_layer_or_replica_is_named() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let (path, other) = (dir.path().join("s"), dir.path().join("t"));
    let replicated = replicate(&path, kib2(), &[2032]);
    let comm_r = replicated.comm_r();
    let names = [
        SectorFile::Layer(1),
        SectorFile::Layer(2),
        SectorFile::Sealed,
        SectorFile::TreeR(0),
        SectorFile::PAux,
    ]
    .map(|file| file.name(1));
    let [first, second, sealed, tree_r, p_aux] = names.each_ref().map(String::as_str);
    drop(replicated);
    assert_ne!(replicate(&other, kib2(), &[127]).comm_r(), comm_r);
    let read = |dir: &Path, name: &str| std::fs::read(dir.join(name)).expect("readable");
    let ours: Vec<Vec<u8>> = names.iter().map(|name| read(&path, name)).collect();

    // What is put where: our file of another name, or the other sector's file of the same name.
    let swapped = [(first, read(&path, second)), (second, read(&path, first))];
    let foreign = |name| (name, read(&other, name));
    let cases = [
        swapped.to_vec(),
        vec![foreign(first)],
        vec![foreign(second)],
        vec![foreign(sealed)],
        vec![foreign(tree_r)],
        vec![foreign(p_aux)],
        vec![foreign(sealed), foreign(tree_r)],
        vec![foreign(sealed), foreign(tree_r), foreign(p_aux)],
    ];
    for case in cases {
        for (name, bytes) in &case {
            assert_ne!(&read(&path, name), bytes, "{name}");
            std::fs::write(path.join(name), bytes).expect("writable");
        }
        let has = |name: &str| case.iter().any(|(put, _)| *put == name);
        let what: Vec<&str> = case.iter().map(|(name, _)| *name).collect();

        let error = resume(&path, &plan(), &NoProgress).expect_err("files of another place");
        assert!(
            matches!(&error, SealError::Dir(SectorDirError::Damaged { path, .. })
                if what.iter().any(|name| path.ends_with(name))),
            "{what:?}: {error}"
        );

        // Unsealing reads the replica alone, and has the data's root to compare.
        let mut out = Vec::new();
        let unsealed = unseal_range(&path, 0..10, &mut out, &plan(), &NoProgress);
        if has(sealed) {
            let at = path.join(sealed);
            assert!(matches!(unsealed, Err(SealError::DamagedReplica(named)) if named == at));
            assert!(out.is_empty());
        } else {
            unsealed.expect("the replica is our own");
            assert_eq!(out, piece_bytes(1, 2032)[..10]);
        }

        // Checking reads what is kept: replica, TreeR and `p_aux`.
        for depth in [CheckDepth::Full, CheckDepth::Leaves(&[0, 63])] {
            let report = replica_check(
                &path,
                SectorSize::Kib2,
                &comm_r,
                depth,
                &plan(),
                &NoProgress,
            )
            .expect("there is memory");
            let named = |damage: &check::Damage| match damage {
                check::Damage::Roots => has(p_aux),
                check::Damage::Replica(_) => has(sealed) || has(tree_r),
                check::Damage::TreeR(_) => has(tree_r),
                check::Damage::Unreadable(_) => false,
            };
            // Openings in a tree this small are made of the replica alone.
            let tree_r_counts = matches!(depth, CheckDepth::Full) && has(tree_r);
            let kept = has(sealed) || has(p_aux) || tree_r_counts;
            assert_eq!(report.is_sound(), !kept, "{what:?} {depth:?}: {report:?}");
            assert!(
                report.damage.iter().all(named),
                "{what:?} {depth:?}: {report:?}"
            );
        }

        for (name, bytes) in names.iter().zip(&ours) {
            std::fs::write(path.join(name), bytes).expect("writable");
        }
        assert!(matches!(
            resume(&path, &plan(), &NoProgress).expect("its own files again"),
            AnyStage::Replicated(_)
        ));
    }

    // Layers that change places under a running program, behind the comparison: the columns then made of them are not the
    // graph's, which C1 finds before anything is proven.
    let third = dir.path().join("u");
    let packed = pack(Arc::new(RealDisk), &third, kib2(), &[2032]).expect("packs");
    let labeled = packed.label(&plan(), &NoProgress).expect("labels");
    for (name, bytes) in [(second, &ours[0]), (first, &ours[1])] {
        std::fs::write(third.join(name), bytes).expect("writable");
    }
    let replicated = labeled.replicate(&plan(), &NoProgress).expect("replicates");
    assert_ne!(replicated.comm_r(), comm_r);
    let error = replicated
        .challenge(SEED, &plan(), &NoProgress)
        .expect_err("columns of no graph");
    assert!(matches!(error, SealError::Inconsistent { .. }), "{error}");
}

/// The record itself: any flipped byte and any shorter length is refused by name.
#[test]
fn tm_h3_a_damaged_record_is_refused() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("s");
    drop(pack(Arc::new(RealDisk), &path, kib2(), &[127]).expect("packs"));
    let record = path.join("record");
    let sound = std::fs::read(&record).expect("readable");
    for at in 0..sound.len() {
        flip(&record, at);
        let error = resume(&path, &plan(), &NoProgress).expect_err("damaged");
        assert!(
            matches!(error, SealError::Dir(SectorDirError::Record { .. })),
            "byte {at}: {error}"
        );
        std::fs::write(&record, &sound[..at]).expect("writable");
        assert!(resume(&path, &plan(), &NoProgress).is_err(), "length {at}");
        std::fs::write(&record, &sound).expect("writable");
    }
    assert!(resume(&path, &plan(), &NoProgress).is_ok());
}

/// Damage between the stages, after the hashes were compared: the openings of C1 find it.
#[test]
fn tm_p18_damage_before_c1_is_found_by_the_openings() {
    for file in [
        "sc-02-data-tree-d.dat",
        "sc-02-data-layer-2.dat",
        "sc-02-data-tree-c.dat",
        "sealed",
    ] {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("s");
        let replicated = replicate(&path, kib2(), &[2032]);
        let at = path.join(file);
        let damaged: Vec<u8> = std::fs::read(&at)
            .expect("readable")
            .iter()
            .map(|b| b ^ 1)
            .collect();
        std::fs::write(&at, damaged).expect("writable");
        let error = replicated
            .challenge(SEED, &plan(), &NoProgress)
            .expect_err(file);
        assert!(
            matches!(error, SealError::Inconsistent { .. } | SealError::Tree(_)),
            "{file}: {error}"
        );
    }
}

#[test]
fn the_scrubber_finds_and_places_damage() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("s");
    let size = SectorSize::Kib32;
    let comm_r = replicate(&path, RegisteredSeal::v1_1(size), &[16256, 16256]).comm_r();
    let look = |comm_r, depth| {
        let report = replica_check(&path, size, comm_r, depth, &plan(), &NoProgress);
        report.expect("there is memory")
    };
    let check = |depth| look(&comm_r, depth).damage;
    let group = 64 * 32;

    flip(&path.join("sealed"), 5 * group + 33);
    let expected = vec![check::Damage::Replica(5 * group as u64..6 * group as u64)];
    assert_eq!(check(CheckDepth::Full), expected);
    assert_eq!(check(CheckDepth::Leaves(&[5 * 64 + 3])), expected);
    assert_eq!(check(CheckDepth::Leaves(&[4 * 64 + 3])), []);
    flip(&path.join("sealed"), 5 * group + 33);
    assert_eq!(check(CheckDepth::Full), []);

    flip(&path.join("p_aux"), 40);
    assert_eq!(check(CheckDepth::Full), [check::Damage::Roots]);
    flip(&path.join("p_aux"), 40);

    flip(&path.join("sc-02-data-tree-r-last-3.dat"), 0);
    assert!(!check(CheckDepth::Full).is_empty());
    flip(&path.join("sc-02-data-tree-r-last-3.dat"), 0);

    std::fs::remove_file(path.join("sealed")).expect("removable");
    assert!(matches!(
        check(CheckDepth::Full)[..],
        [check::Damage::Unreadable(_)]
    ));
    let other = CommR([3; 32]);
    assert!(!look(&other, CheckDepth::Full).is_sound());
}

#[test]
fn unsealing_never_yields_wrong_bytes() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("s");
    drop(replicate(&path, kib2(), &[2032]));
    flip(&path.join("sealed"), 1000);
    let mut out = Vec::new();
    let error = unseal_range(&path, 0..10, &mut out, &plan(), &NoProgress).expect_err("damaged");
    assert!(matches!(error, SealError::DamagedReplica(_)), "{error}");
    assert!(out.is_empty());
    let outside =
        unseal_range(&path, 0..2033, &mut out, &plan(), &NoProgress).expect_err("past the end");
    assert!(matches!(outside, SealError::Range { capacity: 2032, .. }));
}

/// Mutates every field of a vanilla proof on its own: each is refused.
#[test]
fn a_vanilla_proof_with_any_wrong_field_is_refused() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let replicated = replicate(
        &dir.path().join("s"),
        RegisteredSeal::v1_1(SectorSize::Kib32),
        &[16256, 16256],
    );
    let challenged = replicated
        .challenge(SEED, &plan(), &NoProgress)
        .expect("opens");
    let sound = challenged.vanilla();
    assert_eq!(proof::verify(sound), Ok(()));

    type Mutation = fn(&mut proof::VanillaProof);
    let mutations: [(&str, Mutation); 22] = [
        ("replica id", |p| p.replica_id.0[0] ^= 1),
        ("seed", |p| p.seed.0[0] ^= 1),
        ("comm_d", |p| p.comm_d.0[0] ^= 1),
        ("comm_c", |p| p.comm_c = CommC([1; 32])),
        ("comm_r_last", |p| p.comm_r_last = CommRLast([1; 32])),
        ("comm_r", |p| p.comm_r.0[0] ^= 1),
        ("graph", |p| p.seal.version = SealVersion::V1),
        ("size", |p| p.seal.size = SectorSize::Kib16),
        ("partitions", |p| p.partitions.push(Vec::new())),
        ("challenges", |p| p.partitions[0].truncate(1)),
        ("challenge", |p| p.partitions[0][0].challenge ^= 1),
        ("order", |p| p.partitions[0].swap(0, 1)),
        ("data leaf", |p| p.partitions[0][0].data.leaf[0] ^= 1),
        ("data index", |p| p.partitions[0][0].data.index ^= 1),
        ("data sibling", |p| {
            p.partitions[0][0].data.siblings[3][0] ^= 1
        }),
        ("own label", |p| p.partitions[0][0].column.labels[0][0] ^= 1),
        ("own label missing", |p| {
            p.partitions[0][0].column.labels.truncate(1)
        }),
        ("parent label", |p| {
            p.partitions[0][1].parents[13].labels[1][0] ^= 1
        }),
        ("parent order", |p| p.partitions[0][1].parents.swap(6, 13)),
        ("parent missing", |p| {
            p.partitions[0][1].parents.truncate(13)
        }),
        ("replica leaf", |p| p.partitions[0][0].replica.leaf[0] ^= 1),
        ("replica level", |p| {
            p.partitions[0][0].replica.levels.truncate(1)
        }),
    ];
    for (what, mutate) in mutations {
        let mut wrong = sound.clone();
        mutate(&mut wrong);
        assert!(proof::verify(&wrong).is_err(), "{what}");
    }
}

/// Damaged copies of a real record and a real vanilla proof: refused or read as they stand, never a panic.
#[test]
fn tm_p17_damaged_records_and_vanilla_proofs_are_met_calmly() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let challenged = replicate(&dir.path().join("s"), kib2(), &[2032])
        .challenge(SEED, &plan(), &NoProgress)
        .expect("opens");
    let record = challenged.dir().record().encode();
    let vanilla = borsh::to_vec(challenged.vanilla()).expect("writing to memory");
    crate::fuzz::sector_record(&record);
    crate::fuzz::vanilla_proof(&vanilla);
    for (bytes, target) in [
        (record, crate::fuzz::sector_record as fn(&[u8])),
        (vanilla, crate::fuzz::vanilla_proof),
    ] {
        for at in (0..bytes.len()).step_by(1 + bytes.len() / 300) {
            for byte in [0x00, 0x01, 0x40, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = byte;
                target(&changed);
            }
            target(&bytes[..at]);
        }
    }
}

/// Versions 1 and 2 as they were first written: a 2 KiB sector of prover 9. Later programs must open or refuse them by name, and
/// a program that knew version 1 alone refuses updates by their number.
#[test]
fn tm_h10_the_records_bytes_are_pinned_and_other_versions_refused() {
    use crate::sector_dir::record::{Record, RecordError, Stage};
    let roots = Roots {
        comm_c: CommC([6; 32]),
        comm_r_last: CommRLast([7; 32]),
    };
    let record = Record {
        seal: kib2(),
        prover: ProverId([9; 32]),
        sector: SectorNumber(42),
        ticket: Ticket([1; 32]),
        pieces: request(kib2(), &[piece_bytes(1, 127)]).pieces,
        comm_d: crate::commitment::CommD([4; 32]),
        replica_id: crate::ids::ReplicaId([5; 32]),
        stage: Stage::Sealed(roots, SEED, vec![8; 192]),
        files: vec![crate::sector_dir::record::FileEntry {
            file: crate::sector_dir::record::SectorFile::TreeR(3),
            bytes: 32,
            sha256: [11; 32],
        }],
    };
    let bytes = record.encode();
    assert_eq!(
        hex::encode(sha256::digest(&[&bytes])),
        "73c1f20bbe2473c1470eb5818c61d6e72d1994c8712e4fd37a8902acd38d08bc"
    );
    assert_eq!(bytes[8..12], [1, 0, 0, 0]);
    assert_eq!(Record::decode(&bytes).as_ref(), Ok(&record));

    let comm_r = CommR([12; 32]);
    for (stage, pinned) in [
        (
            Stage::Encoding(comm_r),
            "b53093d8165b71ff760077a7e86c8d140d2848aac558c6be7be4610e3f3bc2ae",
        ),
        (
            Stage::Updated(roots, comm_r),
            "76ed200aa5e5b687a42541d78d0a64d413991d9cf4262a30556b355a17ba61d3",
        ),
        (
            Stage::UpdateProven(roots, comm_r, vec![8; 192]),
            "d8fb7136ec25c35b8b0efa947a8a5e2b6cb85b1d6f4731abda6f9758bc1239cf",
        ),
    ] {
        let update = Record {
            stage,
            ..record.clone()
        };
        let bytes = update.encode();
        assert_eq!(bytes[8..12], [2, 0, 0, 0]);
        assert_eq!(hex::encode(sha256::digest(&[&bytes])), pinned);
        assert_eq!(Record::decode(&bytes), Ok(update));
    }

    // The version that a stage does not have, behind a checksum that fits; one that nobody has; none at all.
    let with_version = |version: u8| {
        let mut bytes = bytes[..bytes.len() - 32].to_vec();
        bytes[8] = version;
        let checksum = sha256::digest(&[&bytes]);
        bytes.extend_from_slice(&checksum);
        bytes
    };
    assert_eq!(
        Record::decode(&with_version(2)),
        Err(RecordError::Malformed)
    );
    for other in [0, 3] {
        let error = RecordError::Version(u32::from(other));
        assert_eq!(Record::decode(&with_version(other)), Err(error));
        assert!(error.to_string().contains(&format!("version {other}")));
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(Record::decode(&longer).is_err());
}

/// Sectors labelled together have the files that each has when it is labelled alone: with room for all at once and for one
/// at a time, on one thread and on three, two graphs among them, one sector half-way and one that fails.
#[test]
fn sectors_labelled_together_equal_sectors_labelled_alone() {
    let v1 = RegisteredSeal {
        version: SealVersion::V1,
        size: SectorSize::Kib2,
    };
    let types = [kib2(), kib2(), v1, kib2(), kib2(), kib2(), v1, kib2()];
    let (half_way, spoilt) = (3, 5);
    let files = |labeled: &Labeled| labeled.dir().record().files.clone();
    let dir = tempfile::tempdir().expect("temporary folder");
    let packed_in = |round: &str, i: usize| {
        let path = dir.path().join(format!("{round}-{i}"));
        pack(Arc::new(RealDisk), &path, types[i], &[127 + i]).expect("packs")
    };
    let alone: Vec<_> = (0..types.len())
        .map(|i| {
            files(
                &packed_in("alone", i)
                    .label(&plan(), &NoProgress)
                    .expect("labels"),
            )
        })
        .collect();

    let one = label_memory(SectorSize::Kib2);
    let further = further_memory(SectorSize::Kib2);
    for (threads, memory) in [(1, one), (1, 1 << 30), (3, 1 << 30), (2, one + further)] {
        let round = format!("{threads}-{memory}");
        let sectors: Vec<Packed> = (0..types.len())
            .map(|i| {
                let packed = packed_in(&round, i);
                let path = packed.dir().path().to_owned();
                let unsealed = packed.dir().path_of(SectorFile::Unsealed);
                if i == spoilt {
                    std::fs::write(unsealed, [1; 2048]).expect("written");
                    packed
                } else if i == half_way {
                    drop(packed.label(&plan(), &NoProgress).expect("labels"));
                    let mut dir = SectorDir::open(Arc::new(RealDisk), &path).expect("opens");
                    dir.commit(Vec::new(), |record| record.stage = Stage::Packed)
                        .and_then(|()| dir.discard(|file| file == SectorFile::Layer(2)))
                        .expect("a step back");
                    drop(dir);
                    let AnyStage::Packed(packed) =
                        resume(&path, &plan(), &NoProgress).expect("goes on")
                    else {
                        panic!("without its last layer it is packed");
                    };
                    assert!(packed.dir().has(SectorFile::Layer(1)));
                    packed
                } else {
                    packed
                }
            })
            .collect();
        let plan = Plan::with_limits(threads, memory).expect("threads start");
        let together = label_all(sectors, &plan, &NoProgress);
        assert_eq!(together.len(), types.len());
        for (i, result) in together.iter().enumerate() {
            match result {
                Err(error) => {
                    assert!(matches!(error, SealError::WrongData { .. }), "{error}");
                    assert_eq!(i, spoilt, "{round}");
                }
                Ok(labeled) => assert_eq!(files(labeled), alone[i], "{round}, sector {i}"),
            }
        }
    }
    assert!(label_all(Vec::new(), &plan(), &NoProgress).is_empty());
}
