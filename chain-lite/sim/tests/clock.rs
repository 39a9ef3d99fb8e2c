//! The beacon's clock: stamps, dark epochs, relays that are away. The seeds of `seeds.rs` that follow it have troubles too.

use holdfast_sim::actors::Manner;
use holdfast_sim::report::{Failure, Report};
use holdfast_sim::run::run;
use holdfast_sim::scenario::{Scenario, Twins};

const MINUTE_MS: u64 = 60_000;

/// A quiet hour of honest people under the beacon's clock.
fn quiet() -> Scenario {
    let mut scenario = Scenario::of_seed(10, 1);
    assert!(scenario.follows_beacon && !scenario.governance);
    (scenario.faults, scenario.twins) = (false, Twins::Never);
    scenario.providers = vec![Manner::Honest; 8];
    scenario
}

fn held(seed: u64, scenario: &Scenario) -> Report {
    run(seed, scenario).unwrap_or_else(|failure| panic!("{failure}"))
}

fn noticed(seed: u64, scenario: &Scenario) -> Failure {
    run(seed, scenario).expect_err("something that a run must notice")
}

#[test]
fn under_the_beacons_clock_every_epoch_has_its_block_and_its_round() {
    let report = held(1, &quiet());
    assert!(report.height >= 119 && report.posts > 60, "{report:?}");
    assert_eq!((report.dark, report.faults), (0, 0), "{report:?}");
    // A proposer whose relay is slow may lose its turn.
    assert!(report.later_rounds < 30 && report.without_rounds == 0);
}

/// Twenty minutes without a round: every epoch has its block all the same, most are dark, nobody is faulty, and then proofs go on.
#[test]
fn tm_v5_while_no_rounds_come_blocks_go_on_and_deadlines_wait() {
    let mut scenario = quiet();
    scenario.no_rounds = Some((20 * MINUTE_MS, 40 * MINUTE_MS));
    let report = held(1, &scenario);
    assert!(report.height >= 119, "{report:?}");
    // The first epochs of the outage have fresh values still (`post_lookback` is 2).
    assert!((37..=39).contains(&report.dark), "{report:?}");
    assert!((39..=41).contains(&report.without_rounds), "{report:?}");
    assert_eq!(report.faults, 0, "{report:?}");
    // Deals that were to begin or to end meanwhile cost nobody anything, and were kept.
    assert!(report.kept > 5 && report.late == 0, "{report:?}");
    // Had none come until the calm, there would be fewer proofs.
    scenario.no_rounds = Some((20 * MINUTE_MS, 55 * MINUTE_MS));
    let longer = held(1, &scenario);
    assert!(longer.faults == 0 && report.posts > longer.posts + 20);
}

/// Who learns a round before its time, with a clock that is ahead, proposes with it: no block may carry it.
#[test]
fn tm_p7_a_round_before_its_time_is_noticed() {
    let mut scenario = quiet();
    scenario.clocks = vec![3_000];
    held(1, &scenario);
    scenario.early_ms = 10_000;
    let failure = noticed(1, &scenario);
    assert!(failure.what.contains("before its time"), "{failure}");
}

/// One clock that is late stamps nothing; a block that most late clocks agree on is noticed.
#[test]
fn tm_h6_tm_v5_a_block_stamped_into_the_past_is_noticed() {
    let mut scenario = quiet();
    scenario.clocks = vec![-40_000];
    let report = held(1, &scenario);
    assert!(report.height >= 100, "{report:?}");
    scenario.clocks = vec![-40_000; 3];
    let failure = noticed(1, &scenario);
    assert!(failure.what.contains("is stamped"), "{failure}");
}
