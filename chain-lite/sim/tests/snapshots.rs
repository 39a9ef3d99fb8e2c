//! Snapshots on a disk whose power fails: export, the node's own and import are cut at every write, sync and rename, and so is what
//! comes after; and so is the index, where it is built again from a log or a snapshot; and so is a chain's very beginning.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use chain_lite::beacon::DevnetSigner;
use chain_lite::block::Block;
use chain_lite::certificate::Certificate;
use chain_lite::genesis::CheckedGenesis;
use chain_lite::ledger::{Ledger, Slot, Tip};
use chain_lite::snapshot::{self, Anchor, SnapshotError, export_file, import_simulated};
use chain_lite::store::MemoryIndex;
use chain_lite::vfs::Vfs as _;
use ed25519_dalek::SigningKey;
use holdfast_sim::disk::SimDisk;
use holdfast_sim::scenario::genesis;
use holdfast_sim::stub::Stub;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

const HOME: &str = "/node";
/// More changes than any of these steps makes; a cut beyond the last strikes nothing.
const MOST_CHANGES: u64 = 16;

fn key() -> SigningKey {
    SigningKey::from_bytes(&[100; 32])
}

fn beacon() -> DevnetSigner {
    DevnetSigner::from_seed(&[9; 32])
}

fn chain() -> CheckedGenesis {
    genesis(&[key()], &[key()], &beacon())
        .check()
        .expect("a sound genesis")
}

fn open(disk: &SimDisk, index: &MemoryIndex, genesis: &CheckedGenesis) -> anyhow::Result<Ledger> {
    let (vfs, verifier) = (Arc::new(disk.clone()), Arc::new(Stub::new([1; 32])));
    let home = Path::new(HOME);
    Ok(Ledger::open_simulated(
        vfs,
        index,
        home,
        genesis.clone(),
        verifier,
    )?)
}

/// Commits the next block; gives it with its certificate.
fn grow(ledger: &Ledger) -> (Block, Certificate) {
    let tip = ledger.tip();
    let (epoch, height) = (tip.epoch.next(), tip.height + 1);
    let slot = Slot { height, round: 0 };
    let valid = ledger
        .build(slot, epoch, 0, vec![beacon().sign(epoch.0)], vec![])
        .expect("builds");
    let block = valid.block().clone();
    let certificate = Certificate::solo(&ledger.chain_id(), height, valid.id(), &key());
    ledger.commit(valid, certificate.clone()).expect("commits");
    (block, certificate)
}

/// A chain of four blocks.
fn source(genesis: &CheckedGenesis) -> Ledger {
    let ledger = open(&SimDisk::default(), &MemoryIndex::default(), genesis).expect("opens");
    for _ in 0..4 {
        grow(&ledger);
    }
    ledger
}

/// Power comes back: what the disk kept is random in its unsynced parts.
fn restart(disk: &SimDisk, seed: u64) {
    disk.crash(&mut ChaCha8Rng::seed_from_u64(seed));
}

/// Cuts the first try at each of its changes and the second at each of its own; `0` cuts none of the second.
fn every_two_cuts(mut check: impl FnMut(u64, u64, u64)) {
    for first in 1..=MOST_CHANGES {
        for second in 0..=MOST_CHANGES {
            check(first, second, first * 100 + second);
        }
    }
}

#[test]
fn tm_h1_an_export_that_is_cut_anywhere_leaves_the_old_file_or_the_new_one() {
    let genesis = chain();
    let ledger = source(&genesis);
    let to = Path::new("/out/chain.hfs");
    let make = |disk: &SimDisk, ledger: &Ledger| export_file(disk, to, ledger, &mut |_| ());
    let before = SimDisk::default();
    make(&before, &ledger).expect("exports");
    let old = before.read_all(to);
    grow(&ledger);
    make(&before, &ledger).expect("exports");
    let new = before.read_all(to);
    assert_ne!(old, new);
    let mut cuts = 0;
    every_two_cuts(|first, second, seed| {
        let disk = SimDisk::default();
        disk.put(to, &old);
        for (turn, cut) in [first, second].into_iter().enumerate() {
            if cut > 0 {
                disk.cut_at(disk.operations() + cut);
            }
            let done = make(&disk, &ledger).is_ok();
            cuts += u64::from(disk.is_dead());
            restart(&disk, seed + turn as u64);
            let found = disk.read_all(to);
            assert!(
                found == new || (!done && found == old),
                "cut at {first}, {second}"
            );
        }
        make(&disk, &ledger).expect("exports in the end");
        assert_eq!(disk.read_all(to), new);
    });
    assert!(cuts > 100, "{cuts} cuts: nothing was struck");
}

/// Whichever sectors of a new log reached the disk, nothing was acknowledged yet, and the node begins again.
#[test]
fn tm_h1_a_new_chain_begins_again_wherever_its_beginning_is_cut() {
    let genesis = chain();
    let (mut cuts, mut headless) = (0, 0);
    for seed in 0..64 {
        for cut in 1..=MOST_CHANGES {
            let (disk, index) = (SimDisk::default(), MemoryIndex::default());
            disk.cut_at(cut);
            let opened = open(&disk, &index, &genesis).is_ok();
            assert!(opened || disk.is_dead(), "{cut}, {seed}");
            cuts += u64::from(disk.is_dead());
            restart(&disk, seed);
            let log = disk.read_all(&Path::new(HOME).join("blocks.log"));
            headless += u64::from(log.len() > 512 && log.starts_with(&[0; 64]));
            let again = open(&disk, &index, &genesis);
            let again = again.unwrap_or_else(|e| panic!("cut at {cut}, seed {seed}: {e}"));
            assert_eq!(again.tip().height, 0);
            grow(&again);
            drop(again);
            restart(&disk, seed);
            let last = open(&disk, &index, &genesis).expect("opens");
            assert_eq!(last.tip().height, 1);
        }
    }
    assert!(cuts > 100 && headless > 5, "{cuts} cuts, {headless} heads");
}

/// What an operator does after each restart: start the node if there is a chain, else import again.
fn go_on(
    disk: &SimDisk,
    index: &MemoryIndex,
    genesis: &CheckedGenesis,
    file: &[u8],
    now_ms: u64,
) -> anyhow::Result<Tip> {
    let anchor = Anchor::Genesis {
        trust_period_ms: u64::MAX,
    };
    let (home, id) = (Path::new(HOME), genesis.chain_id());
    match import_simulated(disk, index, home, &mut &file[..], id, anchor, now_ms) {
        Ok(_) | Err(SnapshotError::Occupied(_)) => Ok(open(disk, index, genesis)?.tip()),
        Err(error) => Err(error.into()),
    }
}

#[test]
fn tm_h1_an_import_that_is_cut_anywhere_begins_again_or_is_complete() {
    let genesis = chain();
    let ledger = source(&genesis);
    let (disk, to) = (SimDisk::default(), Path::new("/out/chain.hfs"));
    let made = export_file(&disk, to, &ledger, &mut |_| ()).expect("exports");
    let (file, now_ms) = (disk.read_all(to), ledger.tip().time_ms);
    let next = ledger.block(made.height + 1).expect("the tip");
    let mut cuts = 0;
    for lost in [false, true] {
        every_two_cuts(|first, second, seed| {
            let (disk, mut index) = (SimDisk::default(), MemoryIndex::default());
            let mut complete = false;
            for (turn, cut) in [first, second].into_iter().enumerate() {
                if cut > 0 {
                    disk.cut_at(disk.operations() + cut);
                }
                let tip = go_on(&disk, &index, &genesis, &file, now_ms);
                cuts += u64::from(disk.is_dead());
                assert!(tip.is_ok() || disk.is_dead(), "{first}, {second}: {tip:?}");
                // What was complete once stays so.
                assert!(!complete || disk.has(&Path::new(HOME).join("blocks.log")));
                complete |= tip.is_ok();
                restart(&disk, seed + turn as u64);
                if lost {
                    index = MemoryIndex::default();
                }
            }
            let tip = go_on(&disk, &index, &genesis, &file, now_ms);
            let tip = tip.unwrap_or_else(|e| panic!("{first}, {second}: {e}"));
            assert_eq!((tip.height, tip.id), (made.height, made.id));
            // The chain's own next block follows, and is there after one more power cut.
            let taken = open(&disk, &index, &genesis).expect("opens");
            let (block, certificate) = (next.block.clone(), next.certificate.clone());
            taken.commit_decided(block, certificate).expect("follows");
            drop(taken);
            restart(&disk, seed + 7);
            let again = open(&disk, &index, &genesis).expect("opens");
            assert_eq!(again.tip(), ledger.tip(), "{first}, {second}");
        });
    }
    assert!(cuts > 200, "{cuts} cuts: nothing was struck");
}

/// A node that is started on an import that was cut off says so, and is in the way of nothing.
#[test]
fn tm_h1_a_node_started_on_half_an_import_does_not_stop_the_next_one() {
    let genesis = chain();
    let ledger = source(&genesis);
    let (disk, to) = (SimDisk::default(), Path::new("/out/chain.hfs"));
    export_file(&disk, to, &ledger, &mut |_| ()).expect("exports");
    let (file, now_ms) = (disk.read_all(to), ledger.tip().time_ms);
    let mut refused = 0;
    for cut in 1..=MOST_CHANGES {
        let (disk, index) = (SimDisk::default(), MemoryIndex::default());
        disk.cut_at(cut);
        if go_on(&disk, &index, &genesis, &file, now_ms).is_ok() {
            break;
        }
        restart(&disk, cut);
        let started = open(&disk, &index, &genesis);
        let log = Path::new(HOME).join("blocks.log");
        let is_chain = disk.has(&log) && !disk.read_all(&log).is_empty();
        assert_eq!(started.is_ok(), is_chain, "cut at {cut}");
        if started.is_err() {
            refused += 1;
            let tip = go_on(&disk, &index, &genesis, &file, now_ms);
            assert!(tip.is_ok(), "cut at {cut}: {tip:?}");
        }
    }
    assert!(refused > 0, "an index without its log was never met");
}

/// The snapshots that a running node makes: whatever is cut, each name is a whole file, the last one made is there, and the next try
/// ends as if nothing had been.
#[test]
fn tm_h1_a_nodes_own_snapshots_are_whole_wherever_the_making_is_cut() {
    let ledger = source(&chain());
    let (folder, go_on) = (Path::new(HOME).join("snapshots"), AtomicBool::new(false));
    let write = |disk: &SimDisk| snapshot::write_on(disk, &ledger, &go_on).map(|made| made.height);
    let mut made = Vec::new();
    for _ in 0..3 {
        let disk = SimDisk::default();
        let height = write(&disk).expect("writes");
        made.push((height, disk.read_all(&folder.join(format!("{height}.hfs")))));
        grow(&ledger);
    }
    // What is made now is a fourth, and the oldest one of three has to go.
    let disk = SimDisk::default();
    let height = write(&disk).expect("writes");
    made.push((height, disk.read_all(&folder.join(format!("{height}.hfs")))));
    let mut cuts = 0;
    every_two_cuts(|first, second, seed| {
        let disk = SimDisk::default();
        for (height, bytes) in &made[1..3] {
            disk.put(&folder.join(format!("{height}.hfs")), bytes);
        }
        let mut done = false;
        for (turn, cut) in [first, second].into_iter().enumerate() {
            if cut > 0 {
                disk.cut_at(disk.operations() + cut);
            }
            let written = write(&disk);
            cuts += u64::from(disk.is_dead());
            assert!(written.is_ok() || disk.is_dead(), "{written:?}");
            done |= written.is_ok();
            restart(&disk, seed + turn as u64);
            let names = disk.list(&folder).expect("a folder");
            let heights = names
                .iter()
                .filter_map(|(name, _)| name.strip_suffix(".hfs"));
            let heights: Vec<u64> = heights.map(|h| h.parse().expect("a height")).collect();
            for height in &heights {
                let of = made.iter().find(|(h, _)| h == height).expect("one of ours");
                let found = disk.read_all(&folder.join(format!("{height}.hfs")));
                assert_eq!(found, of.1, "{height} after cuts at {first}, {second}");
            }
            assert!(heights.contains(&made[2].0) && (!done || heights.contains(&height)));
        }
        // A deleted one may be back after a power cut, until the next time.
        write(&disk).expect("writes in the end");
        let left = disk.list(&folder).expect("a folder");
        assert_eq!(
            left.len(),
            snapshot::KEPT,
            "{left:?} after {first}, {second}"
        );
    });
    assert!(cuts > 100, "{cuts} cuts: nothing was struck");
}

/// The index is made again from the log, or from the snapshot with which a log begins: whatever batch is the last that is written,
/// the next start takes it up or begins again, and ends with the index that never was cut.
#[test]
fn tm_h1_an_index_that_is_built_again_is_whole_wherever_the_building_is_cut() {
    let genesis = chain();
    let ledger = source(&genesis);
    let (out, to) = (SimDisk::default(), Path::new("/out/chain.hfs"));
    let made = export_file(&out, to, &ledger, &mut |_| ()).expect("exports");
    let next = ledger.block(made.height + 1).expect("the tip");
    for from_snapshot in [false, true] {
        let (disk, whole) = (SimDisk::default(), MemoryIndex::default());
        if from_snapshot {
            let (file, now) = (out.read_all(to), ledger.tip().time_ms);
            go_on(&disk, &whole, &genesis, &file, now).expect("imports");
        }
        let node = open(&disk, &whole, &genesis).expect("opens");
        for height in node.tip().height + 1..=next.block.header.height {
            let last = ledger.block(height).expect("a block");
            let done = node.commit_decided(last.block, last.certificate);
            done.expect("follows");
        }
        drop(node);
        let mut cuts = 0;
        every_two_cuts(|first, second, _| {
            let index = MemoryIndex::default();
            // Zero batches are a cut too: the first one of the next try fails.
            for left in [first - 1, second] {
                index.cut_after(left);
                cuts += u64::from(open(&disk, &index, &genesis).is_err());
                index.restart();
            }
            let node = open(&disk, &index, &genesis).expect("opens in the end");
            assert_eq!(node.tip(), ledger.tip(), "{first}, {second}");
            drop(node);
            assert!(index.is_same(&whole), "{first}, {second}");
        });
        assert!(cuts > 20, "{cuts} cuts: nothing was struck");
    }
}
