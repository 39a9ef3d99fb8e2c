//! PoSt from real sectors with real Groth16 at 2 KiB, damage of each kind, and how soon deletion is caught.

use super::*;
use crate::ids::{Seed, Ticket};
use crate::machine::Plan;
use crate::piece::PieceInfo;
use crate::piece::commp::commp_of;
use crate::progress::NoProgress;
use crate::seal::{SealRequest, create};
use crate::snark::keys::ParamStore;
use crate::spec::RegisteredSeal;

const SIZE: SectorSize = SectorSize::Kib2;
const PROVER: ProverId = ProverId([9; 32]);

fn randomness() -> PostRandomness {
    PostRandomness::masked([0xa7; 32])
}

/// A sector in its own folder, sealed as far as PoSt needs it.
fn seal(root: &Path, sector_size: SectorSize, number: u64) -> (std::path::PathBuf, CommR) {
    let data: Vec<u8> = (0..2032u64)
        .map(|i| (i * (number + 3) % 251) as u8)
        .collect();
    let (comm_p, size) = commp_of(&data);
    let request = SealRequest {
        seal: RegisteredSeal::v1_1(sector_size),
        prover: PROVER,
        sector: SectorNumber(number),
        ticket: Ticket([1; 32]),
        pieces: vec![PieceInfo { comm_p, size }],
    };
    let plan = Plan::with_limits(2, 1 << 30).expect("two threads start");
    let dir = root.join(number.to_string());
    let mut source = &data[..];
    let packed = create(&dir, request, &mut [&mut source]).expect("packs");
    let labeled = packed.label(&plan, &NoProgress).expect("labels");
    let replicated = labeled.replicate(&plan, &NoProgress).expect("replicates");
    let comm_r = replicated.comm_r();
    drop(
        replicated
            .challenge(Seed([2; 32]), &plan, &NoProgress)
            .expect("opens"),
    );
    (dir, comm_r)
}

fn window(
    key: &ProvingKey,
    sectors: &[(u64, &std::path::PathBuf, CommR)],
) -> Result<Vec<u8>, PostError> {
    let refs: Vec<ReplicaRef<'_>> = sectors
        .iter()
        .map(|&(number, dir, comm_r)| ReplicaRef {
            number: SectorNumber(number),
            comm_r,
            dir,
        })
        .collect();
    prove_window(key, SIZE, PROVER, randomness(), &refs, &NoProgress)
}

/// Full, short and unordered partitions are accepted; each kind of damage names its sector and makes no proof.
#[test]
fn tm_p18_window_post_proves_sound_sectors_and_names_damaged_ones() {
    let root = tempfile::tempdir().expect("temporary folder");
    let params = ParamStore::open(root.path().join("params")).expect("temporary folder");
    let key = params
        .load_or_generate(CircuitId::window(SIZE), &NoProgress)
        .expect("makes a key");
    let keys = front_door(CircuitId::window(SIZE), &key).expect("its own key is sound");
    let ((a, comm_r_a), (b, comm_r_b)) = (seal(root.path(), SIZE, 4), seal(root.path(), SIZE, 11));
    let statement = |sectors| WindowPostStatement {
        size: SIZE,
        prover: PROVER,
        randomness: randomness(),
        sectors,
    };

    let both = window(&key, &[(11, &b, comm_r_b), (4, &a, comm_r_a)]).expect("both are sound");
    let sorted = vec![(SectorNumber(4), comm_r_a), (SectorNumber(11), comm_r_b)];
    assert_eq!(
        verify::window_post(&keys, &statement(sorted), &both),
        Ok(())
    );
    let alone = window(&key, &[(4, &a, comm_r_a)]).expect("one is sound");
    assert_eq!(
        verify::window_post(&keys, &statement(vec![(SectorNumber(4), comm_r_a)]), &alone),
        Ok(())
    );
    let other = statement(vec![(SectorNumber(5), comm_r_a)]);
    assert!(verify::window_post(&keys, &other, &alone).is_err());

    assert!(matches!(
        window(&key, &[]),
        Err(PostError::Count { found: 0, .. })
    ));
    assert!(matches!(
        window(&key, &[(4, &a, comm_r_a); 3]),
        Err(PostError::Count { found: 3, .. })
    ));
    assert!(matches!(
        window(&key, &[(4, &a, comm_r_a); 2]),
        Err(PostError::Twice(SectorNumber(4)))
    ));

    for file in ["sealed", "sc-02-data-tree-r-last.dat", "p_aux"] {
        let path = b.join(file);
        let sound = std::fs::read(&path).expect("readable");
        let flipped: Vec<u8> = sound.iter().map(|byte| byte ^ 1).collect();
        let mut damages = vec![None];
        // TreeR of 2 KiB stores its root alone, which openings lead to and do not read; 32 KiB has its own test below.
        if file != "sc-02-data-tree-r-last.dat" {
            damages.extend([Some(flipped), Some(sound[..sound.len() - 1].to_vec())]);
        }
        for wrong in damages {
            match wrong {
                Some(bytes) => std::fs::write(&path, bytes).expect("writable"),
                None => std::fs::remove_file(&path).expect("removable"),
            }
            let error = window(&key, &[(4, &a, comm_r_a), (11, &b, comm_r_b)]).expect_err(file);
            let PostError::Faulty(faulty) = error else {
                panic!("{file}: {error}")
            };
            assert_eq!(faulty, [SectorNumber(11)], "{file}");
        }
        std::fs::write(&path, &sound).expect("writable");
    }
    let swapped =
        window(&key, &[(4, &b, comm_r_a), (11, &a, comm_r_b)]).expect_err("each other's folder");
    assert!(
        matches!(swapped, PostError::Faulty(faulty) if faulty == [SectorNumber(4), SectorNumber(11)])
    );
}

/// Where TreeR has rows that openings read, a flipped bit in any of its nodes or in the challenged leaves is found.
#[test]
fn tm_p18_damage_in_tree_r_is_found_by_the_openings() {
    let root = tempfile::tempdir().expect("temporary folder");
    let size = SectorSize::Kib32;
    let (dir, comm_r) = seal(root.path(), size, 3);
    let sector = ReplicaRef {
        number: SectorNumber(3),
        comm_r,
        dir: &dir,
    };
    let leaves = challenge::window(size, &randomness(), sector.number);
    assert!(open_one(size, &sector, &leaves).is_ok());
    let mut files: Vec<String> = (0..16)
        .map(|i| format!("sc-02-data-tree-r-last-{i}.dat"))
        .collect();
    files.push("sealed".to_owned());
    for file in files {
        let path = dir.join(&file);
        let sound = std::fs::read(&path).expect("readable");
        let at = if file == "sealed" {
            leaves[4] as usize * 32
        } else {
            0
        };
        let mut damaged = sound.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, damaged).expect("writable");
        assert!(open_one(size, &sector, &leaves).is_err(), "{file}");
        std::fs::write(&path, sound).expect("writable");
    }
    assert!(open_one(size, &sector, &leaves).is_ok());
}

/// A provider that deleted a part of its leaves is caught with `1 − (1 − f)^10` a period: over 1,000 periods the count lies
/// in the binomial 99.9 % interval.
#[test]
fn tm_p4_deleting_a_part_is_caught_as_often_as_the_binomial_says() {
    const PERIODS: u32 = 1_000;
    let size = SectorSize::Mib8;
    for percent in [1u64, 5, 10] {
        let f = percent as f64 / 100.0;
        let p = 1.0 - (1.0 - f).powi(WINDOW_CHALLENGES as i32);
        let caught = (0..PERIODS)
            .filter(|period| {
                let bytes = crate::hash::sha256::digest(&[b"tm_p4", &period.to_le_bytes()]);
                let leaves =
                    challenge::window(size, &PostRandomness::masked(bytes), SectorNumber(7));
                // The deleted part is a contiguous run, as a lost extent of a disk is.
                leaves
                    .iter()
                    .any(|&leaf| leaf < size.nodes() * percent / 100)
            })
            .count();
        let (mean, deviation) = (
            f64::from(PERIODS) * p,
            (f64::from(PERIODS) * p * (1.0 - p)).sqrt(),
        );
        // Two-sided 99.9 %: 3.29 standard deviations.
        assert!(
            (caught as f64 - mean).abs() < 3.29 * deviation,
            "{percent} %: {caught}, expected {mean:.0}"
        );
    }
}
