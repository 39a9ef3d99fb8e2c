//! Explanations reproduce the chain's own figures, and notice figures that are not its own.

use chain_lite::account::ProviderId;
use chain_lite::audit::{BlockFacts, Visitor};
use chain_lite::events::Event;
use chain_lite::execute::apply;
use chain_lite::explain::{Explanation, FaultExplainer, IssuanceRow, RewardExplainer};
use chain_lite::message::Message;
use chain_lite::params::ChainParams;
use chain_lite::query::SectorStatus;
use chain_lite::units::{Epoch, EpochCount, TokenAmount};
use prover::SectorNumber;

use crate::world::{Stub, TOKEN, World, address, key};

/// Shows every block of the world's log to a visitor; `change` may falsify the events first.
fn show(world: &World, visitor: &mut dyn Visitor, change: fn(&mut Event)) {
    let accounts = [
        (address(&key(10)), 50_000_000 * TOKEN),
        (address(&key(11)), 50_000_000 * TOKEN),
    ];
    let mut state = World::new(world.params.clone(), &accounts).state;
    for (ctx, txs) in &world.log {
        let mut applied = apply(&state, ctx, txs, &Stub).expect("it applied before");
        applied
            .events
            .iter_mut()
            .for_each(|record| change(&mut record.event));
        visitor.before(&BlockFacts::new(&state, ctx, &applied).expect("memory"));
        state.commit(&applied.writes);
    }
    assert_eq!(state, world.state);
}

/// Provider `bad` misses its deadlines until its sector ends; `good` goes on.
fn world() -> (World, ProviderId, ProviderId) {
    let (good_key, bad_key) = (key(10), key(11));
    let accounts = [&good_key, &bad_key].map(|key| (address(key), 50_000_000 * TOKEN));
    let mut world = World::new(ChainParams::devnet(), &accounts);
    let good = world.register(&good_key, 10_000_000 * TOKEN);
    let bad = world.register(&bad_key, 10_000_000 * TOKEN);
    world.commit(&good_key, good, 0, vec![]);
    world.commit(&bad_key, bad, 7, vec![]);
    let all: [(&ed25519_dalek::SigningKey, ProviderId, &[u64]); 2] =
        [(&good_key, good, &[]), (&bad_key, bad, &[])];
    let close = world.next_close(bad, 7);
    world.run_proving(close.after(EpochCount(20)), &all);
    world.run_proving(close.after(EpochCount(500)), &all[..1]);
    assert_eq!(world.status(bad, 7), SectorStatus::FaultTimeout);
    (world, good, bad)
}

fn fault(
    world: &World,
    provider: ProviderId,
    only: Option<Epoch>,
    change: fn(&mut Event),
) -> Explanation {
    let mut explainer = FaultExplainer::new(provider, SectorNumber(7), only);
    show(world, &mut explainer, change);
    explainer.finish()
}

fn text(explanation: &Explanation) -> String {
    explanation
        .steps
        .iter()
        .map(|step| format!("{} {}\n", step.holds, step.text))
        .collect()
}

#[test]
fn a_fault_is_explained_from_its_deadline_to_its_end() {
    let (world, _, bad) = world();
    let whole = fault(&world, bad, None, |_| ());
    assert!(whole.holds(), "{}", text(&whole));
    let said = text(&whole);
    for part in [
        "without a proof",
        "0 of them dark",
        "last one before was at epoch",
        "3.51 days",
        "5 %",
        "age of its fault",
        "still owed",
    ] {
        assert!(said.contains(part), "{part:?} is missing in {said}");
    }
    // Two fees, then the third close ends the sector with its own fee and the termination's.
    let fees = whole
        .steps
        .iter()
        .filter(|step| step.text.contains("the chain charged"))
        .count();
    assert_eq!(fees, 3 + 1, "{said}");
    let first = world.history.iter().find_map(|(epoch, event)| match event {
        Event::FaultFee { .. } => Some(*epoch),
        _ => None,
    });
    let one = fault(&world, bad, first, |_| ());
    assert!(one.holds() && one.steps.len() == 4, "{}", text(&one));
    assert!(fault(&world, ProviderId(1), None, |_| ()).steps.is_empty());

    // A unit more is noticed, whichever figure it is.
    let falsified: [fn(&mut Event); 3] = [
        |event| {
            if let Event::FaultFee { amount, .. } = event {
                amount.0 += 1
            }
        },
        |event| {
            if let Event::SectorTerminated { fee, .. } = event {
                fee.0 += 1
            }
        },
        |event| {
            if let Event::Penalty { amount, .. } = event {
                amount.0 *= 2
            }
        },
    ];
    for (index, change) in falsified.into_iter().enumerate() {
        assert!(!fault(&world, bad, None, change).holds(), "case {index}");
    }
}

#[test]
fn declared_and_skipped_faults_are_explained() {
    let owner = key(10);
    let accounts = [&owner, &key(11)].map(|key| (address(key), 50_000_000 * TOKEN));
    let mut world = World::new(ChainParams::devnet(), &accounts);
    let id = world.register(&owner, 10_000_000 * TOKEN);
    world.commit(&owner, id, 7, vec![]);
    let close = world.next_close(id, 7);
    world.run_proving(close, &[(&owner, id, &[])]);
    let declare = Message::DeclareFaults {
        provider: id,
        sectors: vec![SectorNumber(7)],
    };
    world.must(&owner, declare);
    let explained = fault(&world, id, None, |_| ());
    assert!(
        explained.holds() && text(&explained).contains("declared so in transaction 0"),
        "{}",
        text(&explained)
    );
}

#[test]
fn an_epochs_reward_is_explained_to_the_last_unit() {
    let (world, good, bad) = world();
    let explain = |epoch, change| {
        let mut explainer = RewardExplainer::new(epoch);
        show(&world, &mut explainer, change);
        explainer.finish()
    };
    let at = |wanted: fn(&Event) -> bool| {
        world
            .history
            .iter()
            .rev()
            .find(|(_, event)| wanted(event))
            .expect("happened")
            .0
    };
    let claim = at(|event| matches!(event, Event::Reward { .. }));
    let explained = explain(claim, |_| ());
    let said = text(&explained);
    assert!(explained.holds(), "{said}");
    for part in [
        format!("Provider {good}:"),
        format!("Provider {good} claimed"),
        "baseline of day".into(),
        "2^32".into(),
    ] {
        assert!(said.contains(&part), "{part:?} is missing in {said}");
    }
    assert!(
        !said.contains(&format!("Provider {bad}:")),
        "it had no power any more"
    );
    let burn = at(|event| matches!(event, Event::Burn { .. }));
    assert!(text(&explain(burn, |_| ())).contains("for penalty"));
    let falsified: [fn(&mut Event); 3] = [
        |event| {
            if let Event::Mint { amount, .. } = event {
                amount.0 += 1
            }
        },
        |event| {
            if let Event::Reward { claimed, .. } = event {
                claimed.0 += 4
            }
        },
        |event| {
            if let Event::Burn { amount, .. } = event {
                amount.0 += 1
            }
        },
    ];
    for (change, epoch) in falsified.into_iter().zip([claim, claim, burn]) {
        assert!(!explain(epoch, change).holds());
    }
    assert!(explain(world.epoch.next(), |_| ()).steps.is_empty());

    // Issuance and burn of each epoch add up to the totals.
    let mut sums = (0, 0);
    let mut state = World::new(
        world.params.clone(),
        &[
            (address(&key(10)), 50_000_000 * TOKEN),
            (address(&key(11)), 50_000_000 * TOKEN),
        ],
    )
    .state;
    for (ctx, txs) in &world.log {
        let applied = apply(&state, ctx, txs, &Stub).expect("it applied before");
        let row = IssuanceRow::of(ctx.height, ctx.epoch, &applied.events);
        (sums.0, sums.1) = (sums.0 + row.minted.0, sums.1 + row.burnt.0);
        state.commit(&applied.writes);
    }
    let net = world.net();
    assert_eq!(
        (TokenAmount(sums.0), TokenAmount(sums.1)),
        (net.minted, net.burnt)
    );
}
