//! The scheduler against simulated providers: no network, no sleeping, seeds printed by proptest.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    fetch::ShardSource,
    peer::PeerId,
    verify::VerifyError,
    wire::{Failure, PieceRoot},
};

const MS: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Nature {
    /// Milliseconds until a unit is there.
    Good(u64),
    /// Never answers.
    Silent,
    /// Wrong bytes after so many milliseconds.
    Liar(u64),
    /// Has no such piece.
    Empty,
    /// Fails inside, every time.
    Broken,
    /// Answers "busy" so many times first.
    Busy(u32),
    /// Good for the first so many units, then silent.
    Dies(u32),
}

fn peer(n: usize) -> PeerAddr {
    PeerAddr {
        peer: PeerId([n as u8; 32]),
        addr: ([10, 0, 0, n as u8], 1).into(),
    }
}

fn request(k: u16, natures: &[Nature], size: u64) -> FetchRequest {
    let shard = |index: usize| ShardSource {
        index: index as u16,
        piece: PieceKey {
            root: PieceRoot([index as u8; 32]),
            size,
        },
        providers: vec![peer(index)],
    };
    FetchRequest {
        k,
        shards: (0..natures.len()).map(shard).collect(),
        ranges: std::iter::once(0..size).collect(),
    }
}

struct Run {
    units: Vec<Unit>,
    outcome: Result<(), FetchError>,
    report: FetchReport,
    took: Duration,
    peak_held: u64,
}

enum Reply {
    Data,
    Error(Error),
}

/// Runs a whole fetch in simulated time.
fn simulate(request: FetchRequest, natures: &[Nature], limits: FetchLimits) -> Run {
    let begin = Instant::now();
    let mut now = begin;
    let mut plan = Plan::new(request, limits, &Scores::default()).expect("a sensible request");
    let mut answers: BTreeMap<(Instant, AttemptId), (Range<u64>, Reply)> = BTreeMap::new();
    let mut asked = vec![0u32; natures.len()];
    let (mut units, mut peak_held) = (Vec::new(), 0);
    let outcome = loop {
        assert!(
            now.duration_since(begin) < Duration::from_secs(3_600),
            "does not end"
        );
        let commands = match plan.poll(now) {
            Ok(commands) => commands,
            Err(error) => break Err(error),
        };
        peak_held = peak_held.max(plan.held_bytes);
        for command in commands {
            match command {
                Command::Cancel(id) => answers.retain(|(_, attempt), _| *attempt != id),
                Command::Start {
                    attempt,
                    peer: to,
                    range,
                    ..
                } => {
                    let who = usize::from(to.peer.0[0]);
                    asked[who] += 1;
                    let refused = |code| Reply::Error(Error::Refused(Failure::new(code, 50, "")));
                    let (after, reply) = match natures[who] {
                        Nature::Good(ms) => (ms, Reply::Data),
                        Nature::Dies(n) if asked[who] <= n => (5, Reply::Data),
                        Nature::Silent | Nature::Dies(_) => continue,
                        Nature::Liar(ms) => {
                            (ms, Reply::Error(VerifyError::Leaf { offset: 0 }.into()))
                        }
                        Nature::Empty => (1, refused(FailureCode::NotFound)),
                        Nature::Broken => (1, Reply::Error(Error::Closed("reset".into()))),
                        Nature::Busy(n) if asked[who] <= n => {
                            (1, refused(FailureCode::RateLimited))
                        }
                        Nature::Busy(_) => (5, Reply::Data),
                    };
                    answers.insert((now + after as u32 * MS, attempt), (range, reply));
                }
            }
        }
        while let Some(unit) = plan.take_ready() {
            units.push(unit);
        }
        if plan.is_finished() {
            break Ok(());
        }
        let wake = plan.next_wakeup(now).max(now + MS / 10);
        match answers.first_key_value().map(|(key, _)| *key) {
            Some((due, id)) if due <= wake => {
                now = now.max(due);
                let (range, reply) = answers.remove(&(due, id)).expect("just seen");
                match reply {
                    Reply::Data => {
                        let data = Bytes::from(vec![0; (range.end - range.start) as usize]);
                        for command in plan.on_arrived(
                            id,
                            Arrived {
                                data,
                                first_byte: MS,
                                took: 2 * MS,
                            },
                            now,
                        ) {
                            let Command::Cancel(lost) = command else {
                                panic!("only cancels here")
                            };
                            answers.retain(|(_, attempt), _| *attempt != lost);
                        }
                    }
                    Reply::Error(error) => plan.on_failed(id, &error, now),
                }
            }
            _ => now = wake,
        }
    };
    if outcome.is_ok() {
        assert_eq!(plan.held_bytes, 0, "all memory is given back");
        assert!(plan.providers.iter().all(|p| p.outstanding == 0));
    }
    Run {
        units,
        outcome,
        report: plan.report(),
        took: now - begin,
        peak_held,
    }
}

fn limits() -> FetchLimits {
    FetchLimits {
        unit_bytes: 64 * 1024,
        in_flight_bytes: 2 << 20,
        stall_timeout: 2_000 * MS,
        ..FetchLimits::default()
    }
}

fn assert_complete(run: &Run, k: usize, size: u64) {
    assert!(run.outcome.is_ok(), "{:?}", run.outcome);
    let mut at = 0;
    for unit in &run.units {
        assert_eq!(unit.range.start, at, "in order, without gaps");
        at = unit.range.end;
        assert_eq!(unit.shards.len(), k);
        assert!(unit.shards.windows(2).all(|w| w[0].0 < w[1].0));
    }
    assert_eq!(at, size);
}

#[test]
fn good_providers_deliver_data_shards_without_waste() {
    let natures = [Nature::Good(5); 4];
    let run = simulate(request(2, &natures, 10 << 20), &natures, limits());
    assert_complete(&run, 2, 10 << 20);
    assert_eq!((run.report.wasted_bytes, run.report.hedges), (0, 0));
}

#[test]
fn tm_p23_any_n_minus_k_silent_providers_cost_little() {
    let good = [Nature::Good(5); 4];
    let best = simulate(request(2, &good, 20 << 20), &good, limits()).took;
    for a in 0..4 {
        for b in 0..a {
            let mut natures = good;
            natures[a] = Nature::Silent;
            natures[b] = Nature::Silent;
            let run = simulate(request(2, &natures, 20 << 20), &natures, limits());
            assert_complete(&run, 2, 20 << 20);
            assert!(
                run.took < best * 3 + 3 * limits().hedge_after,
                "{a},{b}: {:?} against {best:?}",
                run.took
            );
        }
    }
}

#[test]
fn tm_p23_a_provider_that_dies_midway_is_replaced() {
    let natures = [
        Nature::Dies(20),
        Nature::Good(5),
        Nature::Good(8),
        Nature::Dies(3),
    ];
    assert_complete(
        &simulate(request(2, &natures, 20 << 20), &natures, limits()),
        2,
        20 << 20,
    );
}

#[test]
fn tm_r2_a_liar_is_named_and_not_asked_again() {
    let natures = [
        Nature::Liar(3),
        Nature::Good(5),
        Nature::Good(5),
        Nature::Good(5),
    ];
    let run = simulate(request(2, &natures, 10 << 20), &natures, limits());
    assert_complete(&run, 2, 10 << 20);
    let liar = &run.report.providers[0];
    assert!(liar.lied && liar.units == 0 && !liar.failures.is_empty());
    assert!(run.report.providers[1..].iter().all(|p| !p.lied));
}

#[test]
fn a_report_tells_the_good_the_lost_and_the_late() {
    let natures = [
        Nature::Good(5),
        Nature::Busy(2),
        Nature::Silent,
        Nature::Empty,
        Nature::Liar(3),
    ];
    let run = simulate(request(2, &natures, 10 << 20), &natures, limits());
    assert_complete(&run, 2, 10 << 20);
    let told = |n: usize| &run.report.providers[n];
    for n in [0, 1] {
        let part = told(n);
        assert!(part.units > 0 && !part.lost && !part.lied, "{part:?}");
        assert_eq!(part.first_byte, Some(MS));
        // Requests side by side count once, so never more than the whole.
        assert!(
            part.asked_for > MS && part.asked_for <= run.took,
            "{part:?}"
        );
    }
    assert!(!told(1).failures.is_empty(), "it was busy at first");
    let silent = told(2);
    assert!(silent.late > 0 && silent.units == 0 && silent.first_byte.is_none());
    assert!(silent.asked_for >= limits().hedge_after, "{silent:?}");
    assert!(told(3).lost && told(4).lost && told(4).lied);

    // Of one unit: the read is over before the silence is a failure, and the silent one is known all the same.
    let natures = [Nature::Silent, Nature::Good(5)];
    let run = simulate(request(1, &natures, 1_000), &natures, limits());
    assert_complete(&run, 1, 1_000);
    let silent = &run.report.providers[0];
    assert_eq!((silent.units, silent.late, silent.lost), (0, 1, false));
    assert!(silent.asked_for >= limits().hedge_after, "{silent:?}");
    assert_eq!(run.report.providers[1].late, 0);
}

#[test]
fn requests_side_by_side_are_under_way_once_in_whatever_order_they_end() {
    let begun = Instant::now();
    let at = |seconds| begun + Duration::from_secs(seconds);
    // The short one ends first, and the long one around it counts whole.
    let mut spans = Spans::default();
    for (from, until, total) in [
        (5, 6, 1),
        (0, 9, 9),
        (8, 10, 10),
        (20, 21, 11),
        (30, 30, 11),
        (9, 22, 22),
        (12, 11, 22),
    ] {
        spans.add(at(from), at(until));
        assert_eq!(spans.total(), Duration::from_secs(total), "{spans:?}");
    }
}

#[test]
fn too_few_providers_is_an_error_that_names_each_cause() {
    let natures = [
        Nature::Liar(3),
        Nature::Good(5),
        Nature::Empty,
        Nature::Broken,
    ];
    let run = simulate(request(2, &natures, 10 << 20), &natures, limits());
    let error = run.outcome.expect_err("one is left");
    assert_eq!((error.k, error.left), (2, 1));
    let text = error.to_string();
    for n in [0, 2, 3] {
        assert!(
            error
                .causes
                .iter()
                .any(|(who, shard, _)| *who == peer(n) && usize::from(*shard) == n),
            "{text}"
        );
        assert!(text.contains(&peer(n).to_string()));
    }
    assert!(
        text.contains("NotFound") && text.contains("reset") && text.contains("wrong"),
        "{text}"
    );
}

#[test]
fn all_silent_ends_with_stalls_not_a_hang() {
    let natures = [Nature::Silent; 4];
    let run = simulate(request(2, &natures, 1 << 20), &natures, limits());
    assert!(
        run.outcome
            .expect_err("nobody answers")
            .to_string()
            .contains("no progress")
    );
    assert!(run.took < Duration::from_secs(60));
}

/// What these commands ask for.
fn started(commands: &[Command]) -> Vec<(AttemptId, Range<u64>)> {
    let starts = commands.iter().filter_map(|command| match command {
        Command::Start { attempt, range, .. } => Some((*attempt, range.clone())),
        Command::Cancel(_) => None,
    });
    starts.collect()
}

/// A stopped process, or a lid that was closed: everybody is silent at once, with several units outstanding each.
#[test]
fn tm_p23_a_pause_of_this_process_costs_no_provider_and_the_next_ones_do() {
    let natures = [Nature::Good(5); 2];
    let limits = limits();
    let mut plan = Plan::new(
        request(2, &natures, 1 << 20),
        limits.clone(),
        &Scores::default(),
    )
    .expect("a sensible request");
    let mut now = Instant::now();
    let asked = started(&plan.poll(now).expect("two are there"));
    assert!(asked.len() > 2 * limits.max_strikes as usize);

    now += 2 * limits.stall_timeout;
    let commands = plan.poll(now).expect("nobody is given up");
    for (id, _) in &asked {
        assert!(commands.contains(&Command::Cancel(*id)));
    }
    for part in plan.report().providers {
        assert_eq!((part.failures.len(), part.lost), (1, false), "{part:?}");
    }
    // After the pause of a strike all of it is asked again, and comes.
    now += Duration::from_secs(1);
    let mut open = started(&plan.poll(now).expect("nobody is given up"));
    assert_eq!(open.len(), asked.len());
    let mut units = 0;
    while !plan.is_finished() {
        assert!(!open.is_empty(), "it is stuck");
        for (id, range) in std::mem::take(&mut open) {
            now += MS;
            let arrived = Arrived {
                data: vec![0; (range.end - range.start) as usize].into(),
                first_byte: MS,
                took: MS,
            };
            plan.on_arrived(id, arrived, now);
        }
        while plan.take_ready().is_some() {
            units += 1;
        }
        open = started(&plan.poll(now).expect("nobody is given up"));
    }
    assert_eq!(units, 16);

    // Who is silent again and again is given up all the same.
    let mut plan = Plan::new(
        request(2, &natures, 1 << 20),
        limits.clone(),
        &Scores::default(),
    )
    .expect("a sensible request");
    let mut silences = 0;
    let given_up = (0..100).find_map(|_| {
        let polled = plan.poll(now);
        now += 2 * limits.stall_timeout;
        polled
            .map(|commands| silences += u32::from(!started(&commands).is_empty()))
            .err()
    });
    let given_up = given_up.expect("given up");
    assert_eq!((silences, given_up.left), (limits.max_strikes, 0));
}

/// A network that is away for a while: lines break and requests stall one after the other, for one reason.
#[test]
fn tm_p23_requests_that_were_side_by_side_fail_as_one() {
    let natures = [Nature::Good(5); 2];
    let limits = limits();
    let fetch = request(2, &natures, 1 << 20);
    let mut plan = Plan::new(fetch, limits.clone(), &Scores::default()).expect("sensible");
    let mut now = Instant::now();
    let mut lives = 0;
    for _ in 0..100 {
        let asked = match plan.poll(now) {
            Ok(commands) => started(&commands),
            Err(error) => {
                assert_eq!((lives, error.left), (limits.max_strikes, 0));
                return;
            }
        };
        lives += u32::from(!asked.is_empty());
        for (id, _) in asked {
            now += 40 * MS;
            plan.on_failed(id, &Error::Stalled(limits.stall_timeout), now);
        }
        // Longer than the pause after a strike.
        now += Duration::from_secs(60);
    }
    panic!("never given up");
}

#[test]
fn a_busy_provider_is_asked_again_later() {
    let natures = [Nature::Busy(3), Nature::Busy(5)];
    assert_complete(
        &simulate(request(2, &natures, 1 << 20), &natures, limits()),
        2,
        1 << 20,
    );
}

#[test]
fn hedging_stays_within_its_share() {
    // Every second provider is slow, all the time: hedges are tempting.
    let natures = [
        Nature::Good(1_500),
        Nature::Good(2),
        Nature::Good(1_400),
        Nature::Good(2),
        Nature::Good(2),
    ];
    let size = 40 << 20;
    let run = simulate(request(2, &natures, size), &natures, limits());
    assert_complete(&run, 2, size);
    let extra = u64::from(run.report.hedges) * limits().unit_bytes;
    assert!(
        extra <= 2 * size / 10 + 4 * limits().unit_bytes,
        "{extra} of {size}"
    );
}

#[test]
fn only_missing_ranges_are_asked_for() {
    let natures = [Nature::Good(2); 3];
    let mut request = request(2, &natures, 1 << 20);
    request.ranges = vec![5..6, 100_000..200_000, 1_048_570..1_048_576];
    let run = simulate(request, &natures, limits());
    let got: u64 = run
        .units
        .iter()
        .map(|unit| unit.range.end - unit.range.start)
        .sum();
    assert_eq!(got, 1 + 100_000 + 6);
    assert!(
        run.units
            .iter()
            .all(|u| u.range.start / 65_536 == (u.range.end - 1) / 65_536),
        "units keep to the grid"
    );
}

#[test]
fn senseless_requests_are_refused() {
    let natures = [Nature::Good(1); 3];
    let good = request(2, &natures, 1_000);
    let refused = |change: fn(&mut FetchRequest)| {
        let mut request = good.clone();
        change(&mut request);
        Plan::new(request, limits(), &Scores::default()).is_err()
    };
    assert!(refused(|r| r.k = 0));
    assert!(refused(|r| r.k = 4));
    assert!(refused(|r| r.shards[1].index = 0));
    assert!(refused(|r| r.shards[1].piece.size = 999));
    assert!(refused(|r| r.ranges = std::iter::once(0..1_001).collect()));
    assert!(refused(|r| r.ranges = std::iter::once(5..5).collect()));
    assert!(refused(|r| r.ranges = vec![5..9, 8..10]));
    assert!(refused(|r| r
        .shards
        .iter_mut()
        .for_each(|s| s.piece.size = u64::MAX)));
}

fn any_nature() -> impl Strategy<Value = Nature> {
    prop_oneof![
        4 => (1u64..40).prop_map(Nature::Good),
        1 => (200u64..900).prop_map(Nature::Good),
        1 => Just(Nature::Silent),
        1 => (1u64..200).prop_map(Nature::Liar),
        1 => Just(Nature::Empty),
        1 => Just(Nature::Broken),
        1 => (1u32..6).prop_map(Nature::Busy),
        1 => (0u32..30).prop_map(Nature::Dies),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Threat P23: whatever the others do, k good providers suffice, in bounded memory; otherwise it ends with an error.
    #[test]
    fn tm_p23_k_good_providers_always_suffice(k in 1u16..5, natures in prop::collection::vec(any_nature(), 5..9), size in 1u64..3_000_000) {
        let good = natures.iter().filter(|n| matches!(n, Nature::Good(_) | Nature::Busy(_))).count();
        let run = simulate(request(k, &natures, size), &natures, limits());
        if good >= usize::from(k) {
            assert_complete(&run, usize::from(k), size);
        }
        prop_assert!(run.peak_held <= limits().in_flight_bytes / 4 * 5 + u64::from(k) * limits().unit_bytes);
        for (n, nature) in natures.iter().enumerate() {
            prop_assert!(!run.report.providers[n].lied || matches!(nature, Nature::Liar(_)), "the honest are not accused");
        }
    }
}
