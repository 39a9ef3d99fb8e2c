//! More than a third of the keys run on two machines each: the chain forks, and the fork convicts them.

use holdfast_sim::run::run;
use holdfast_sim::scenario::{Scenario, Twins};

/// Two of four keys doubled, the halves of each pair on different sides of every partition. Where two sound nodes call different blocks
/// final, the run itself fails unless the votes in their hands convict two keys or more and no sound one, a light client takes
/// the two blocks for a fork, and the chain jails all who are named.
#[test]
fn tm_v1_f_plus_one_doubled_keys_fork_and_every_fork_convicts_them() {
    const SEEDS: u64 = 24;
    let mut scenario = Scenario {
        twins: Twins::Never,
        doubled: 2,
        ..Scenario::of_seed(0, 1)
    };
    let (mut forks, mut by_certificates, mut by_votes, mut reported) = (0, 0, 0, 0);
    for seed in 0..SEEDS {
        scenario.follows_beacon = seed % 4 == 3;
        let report = run(seed, &scenario).unwrap_or_else(|failure| panic!("{failure}"));
        // While all are together, too, a node sees a key contradict itself.
        assert!(report.evidence > 0 || report.fork.is_some(), "{report:?}");
        let Some(fork) = report.fork else {
            continue;
        };
        println!("seed {seed}: {fork:?}");
        assert_eq!(fork.convicted, 2, "{fork:?}");
        forks += 1;
        by_certificates += u64::from(fork.by_certificates >= 2);
        by_votes += u64::from(fork.by_certificates < 2);
        reported += u64::from(fork.reported == 2);
    }
    let told = format!(
        "{forks} of {SEEDS} seeds fork, {by_certificates} of them in one round and {by_votes} in two; nodes had reported both keys before in {reported}"
    );
    println!("{told}");
    let enough = forks > SEEDS / 2 && by_certificates > 0 && by_votes > 0;
    assert!(enough && reported > SEEDS / 4, "{told}");
}
