//! Hostile validators: liars, forgers, and two who act together among seven.

use holdfast_sim::foes::LIES;
use holdfast_sim::report::Report;
use holdfast_sim::run::run;
use holdfast_sim::scenario::{Scenario, Twins};

fn held(seed: u64, scenario: &Scenario) -> Report {
    run(seed, scenario).unwrap_or_else(|failure| panic!("{failure}"))
}

/// Nothing else goes wrong.
fn quiet() -> Scenario {
    Scenario {
        faults: false,
        twins: Twins::Never,
        liars: 0,
        forgers: 0,
        governance: false,
        reports: false,
        ..Scenario::of_seed(0, 1)
    }
}

/// A proposer that lies in its announcement or its block, in every way there is: nobody votes for what it says, and its turn passes. No
/// disk keeps much of it. Under both clocks.
#[test]
fn tm_v6_a_proposer_that_lies_gets_no_vote_and_fills_no_disk() {
    let mut lies = [0; LIES];
    for seed in 0..12 {
        let scenario = Scenario {
            liars: 1,
            follows_beacon: seed % 3 == 2,
            ..quiet()
        };
        let report = held(seed, &scenario);
        assert!(
            report.height >= 100 && report.later_rounds > 0,
            "{report:?}"
        );
        assert!(
            report.most_kept <= 8 && report.most_waiting < 1 << 20,
            "{report:?}"
        );
        lies.iter_mut()
            .zip(report.lies)
            .for_each(|(sum, n)| *sum += n);
    }
    println!("lies of each kind: {lies:?}");
    assert!(lies.iter().all(|n| *n > 0), "{lies:?}");
}

/// A machine that sends on what it hears with another field or signature: refused, held against nobody, and the chain goes on as if
/// nothing were.
#[test]
fn tm_v1_what_a_relay_forges_is_refused_and_held_against_nobody() {
    for seed in 0..4 {
        let scenario = Scenario {
            forgers: 1,
            reports: true,
            ..quiet()
        };
        let report = held(seed, &scenario);
        assert!(report.height >= 115, "{report:?}");
        assert!(
            report.forged > 100 && report.bad_signatures > 50,
            "{report:?}"
        );
        let accused = (report.evidence, report.two_proposals, report.jailed);
        assert_eq!(accused, (0, 0, 0), "{report:?}");
        assert!(
            report.most_kept <= 8 && report.most_waiting < 1 << 20,
            "{report:?}"
        );
    }
}

/// Two of seven act together, in a world that breaks: different blocks and votes for each half of the others, some late, some never.
/// There is no fork, nobody else is accused, and the chain goes on; where validators report them, both lose their place.
#[test]
fn tm_v1_two_colluders_among_seven_fork_nothing_and_are_the_only_ones_accused() {
    // One more than a third are too many, and a run says so.
    let three = Scenario {
        validators: 7,
        colluders: 3,
        ..quiet()
    };
    let failures = (0..8).filter_map(|seed| run(seed, &three).err());
    let mut forks = failures.filter(|failure| failure.what.starts_with("fork"));
    println!("{}", forks.next().expect("a fork in eight seeds"));
    let (mut two_blocks, mut two_votes, mut evidence, mut proposals) = (0, 0, 0, 0);
    for seed in 0..8 {
        let scenario = Scenario {
            validators: 7,
            colluders: 2,
            faults: true,
            reports: seed % 3 == 2,
            ..quiet()
        };
        let report = held(seed, &scenario);
        assert!(report.withheld > 50 && report.told_late > 50, "{report:?}");
        assert_eq!(report.jailed, 2 * u64::from(scenario.reports), "{report:?}");
        two_blocks += report.two_blocks;
        two_votes += report.two_votes;
        evidence += report.evidence;
        proposals += report.two_proposals;
    }
    let told = format!(
        "{two_blocks} turns with two blocks, {two_votes} votes twice; seen {proposals} and {evidence} times"
    );
    println!("{told}");
    let enough = two_blocks > 100 && two_votes > 500;
    assert!(enough && evidence > 50 && proposals > 0, "{told}");
}
