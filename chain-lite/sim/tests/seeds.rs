//! Seeds in bounded form: CI runs these; `holdfast-sim --hours N --seeds M` runs campaigns.

use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_sim::actors::Manner;
use holdfast_sim::run::{Report, Scenario, run};

/// Seeds of the test below: as many as one machine of two cores runs in about five minutes.
const SEEDS: u64 = 256;

fn held(seed: u64, scenario: &Scenario) -> Report {
    run(seed, scenario).unwrap_or_else(|failure| panic!("{failure}"))
}

/// A quiet network: every epoch has its block, nobody is faulty but who cheats or loses.
#[test]
fn without_faults_every_epoch_has_its_block() {
    let mut scenario = Scenario::of_seed(0, 1);
    (scenario.faults, scenario.twins) = (false, false);
    assert!(!scenario.governance);
    scenario.providers = vec![Manner::Honest; 8];
    let report = held(1, &scenario);
    assert!(report.height >= 115, "{report:?}");
    assert_eq!((report.crashes, report.faults), (0, 0));
    assert!(report.posts > 60, "{report:?}");
}

#[test]
fn tm_v3_the_same_seed_gives_the_same_trace_and_root() {
    let scenario = Scenario::of_seed(3, 1);
    let (once, again) = (held(3, &scenario), held(3, &scenario));
    assert_eq!(once, again);
    assert_ne!(once.trace, held(7, &Scenario::of_seed(7, 1)).trace);
}

/// Crashes with torn journals and logs, full and failing disks, partitions, loss, clocks that jump, a key on two machines,
/// a provider that cheats, a client that floods: no fork, nothing lost, all invariants after each block, no honest
/// provider ever faulty, and everybody together again after five calm minutes.
#[test]
fn tm_v1_tm_n7_tm_h1_tm_h4_tm_h5_tm_h6_an_hour_of_every_seed_holds() {
    let next = AtomicU64::new(0);
    let work = || {
        let (mut crashes, mut broken, mut troubles) = (0, 0, [0; 7]);
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= SEEDS {
                return (crashes, broken, troubles);
            }
            let report = held(seed, &Scenario::of_seed(seed, 1));
            crashes += report.crashes;
            broken += report.broken_boots;
            for (sum, more) in troubles.iter_mut().zip(report.troubles) {
                *sum += more;
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (mut crashes, mut broken, mut troubles) = (0, 0, [0; 7]);
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in running {
            let of_one = thread.join().expect("a seed failed");
            (crashes, broken) = (crashes + of_one.0, broken + of_one.1);
            for (sum, more) in troubles.iter_mut().zip(of_one.2) {
                *sum += more;
            }
        }
    });
    // A quiet run shows nothing: each kind of trouble came, on average in every second seed, and struck recoveries too.
    let enough = crashes > SEEDS && broken > 0 && troubles.iter().all(|n| *n > SEEDS / 2);
    assert!(
        enough,
        "{crashes} crashes, {broken} broken recoveries, {troubles:?}"
    );
}

/// Sets that change while machines die: who voted twice is jailed and comes back with a change, and nobody else ever is for that.
#[test]
fn tm_v1_tm_v12_seeds_with_set_changes_have_some_and_jail_who_votes_twice() {
    let (mut changes, mut jailed) = (0, 0);
    for seed in [5, 7, 13, 15] {
        let report = held(seed, &Scenario::of_seed(seed, 1));
        changes += report.changes;
        jailed += report.jailed;
    }
    assert!(
        changes >= 8 && jailed >= 1,
        "{changes} changes, {jailed} jailed"
    );
}

/// The power of one of four fails at every single write, sync and rename of its first blocks, and once more while it recovers:
/// it comes back with what it called final, agrees with the others, and the chain never stands.
#[test]
fn tm_h1_every_change_of_the_disk_is_cut_once_and_recovery_too() {
    let mut scenario = Scenario::of_seed(0, 1);
    (scenario.faults, scenario.twins) = (false, false);
    (scenario.providers, scenario.clients) = (vec![Manner::Honest], 1);
    // Three blocks of the victim, then time to come back.
    scenario.span_ms = 8 * 60_000;
    let mut broken = 0;
    for cut in 1..=60 {
        scenario.cut = Some(cut);
        scenario.cut_again = Some(1 + cut % 3);
        let report = held(cut, &scenario);
        assert!(
            report.crashes >= 2 && report.height >= 10,
            "cut at {cut}: {report:?}"
        );
        broken += report.broken_boots;
    }
    // The others start without a change of their disk, and are cut at the first ones they make then.
    assert!(broken >= 15, "{broken} of 60 recoveries were cut");
}
