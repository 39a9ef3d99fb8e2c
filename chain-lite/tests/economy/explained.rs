//! Explanations reproduce the chain's own figures, and notice figures that are not its own.

use std::cell::Cell;

use chain_lite::account::ProviderId;
use chain_lite::audit::{BlockFacts, Visitor};
use chain_lite::events::{Event, PenaltyReason};
use chain_lite::execute::apply;
use chain_lite::explain::{Explanation, FaultExplainer, Issuance, RewardExplainer};
use chain_lite::message::Message;
use chain_lite::params::{ChainParams, VerificationMode};
use chain_lite::query::SectorStatus;
use chain_lite::units::{Epoch, EpochCount, TokenAmount};
use ed25519_dalek::SigningKey;
use prover::SectorNumber;

use crate::disputes::{announce, dispute_of, stored, wrong_post};
use crate::world::{Stub, TOKEN, World, address, key};

/// Shows every block of the world's log to a visitor; `change` may falsify the events first.
fn show(world: &World, visitor: &mut dyn Visitor, change: &dyn Fn(&mut Event)) {
    let mut state = fresh(world.params.clone()).state;
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

/// A world with money for the keys 10 and 11.
fn fresh(params: ChainParams) -> World {
    let accounts = [key(10), key(11)].map(|key| (address(&key), 50_000_000 * TOKEN));
    World::new(params, &accounts)
}

/// Provider `bad` misses its deadlines until its sector ends; `good` goes on.
fn world() -> (World, ProviderId, ProviderId) {
    let (good_key, bad_key) = (key(10), key(11));
    let mut world = fresh(ChainParams::devnet());
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
    change: &dyn Fn(&mut Event),
) -> Explanation {
    fault_of(world, (provider, 7), only, change)
}

fn fault_of(
    world: &World,
    (provider, number): (ProviderId, u64),
    only: Option<Epoch>,
    change: &dyn Fn(&mut Event),
) -> Explanation {
    let mut explainer = FaultExplainer::new(provider, SectorNumber(number), only);
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
    let whole = fault(&world, bad, None, &|_| ());
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
    let one = fault(&world, bad, first, &|_| ());
    assert!(one.holds() && one.steps.len() == 4, "{}", text(&one));
    assert!(fault(&world, ProviderId(1), None, &|_| ()).steps.is_empty());

    // Two fees and two charges, then the third with the termination's: each with what is owed after it.
    assert_eq!(each_figure_counts(&world, bad), 3 + 1 + 2 * 3);
}

/// The figures of an event that an explanation of faults reproduces.
fn figures(event: &mut Event) -> Vec<&mut TokenAmount> {
    match event {
        Event::FaultFee { amount, .. } => vec![amount],
        Event::SectorTerminated { fee, .. } => vec![fee],
        Event::Penalty {
            reason: PenaltyReason::Faults | PenaltyReason::Termination | PenaltyReason::Disputed,
            amount,
            debt_after,
            ..
        } => vec![amount, debt_after],
        Event::PostDisputed {
            charged, reward, ..
        } => vec![charged, reward],
        _ => vec![],
    }
}

/// Falsifies one figure after the other by one unit, up and down: none is taken for the chain's. Gives how many there are.
fn each_figure_counts(world: &World, provider: ProviderId) -> usize {
    for n in 0.. {
        for unit in [1, u128::MAX] {
            let (seen, hit) = (Cell::new(0), Cell::new(false));
            let change = |event: &mut Event| {
                for figure in figures(event) {
                    if seen.get() == n {
                        figure.0 = figure.0.wrapping_add(unit);
                        hit.set(true);
                    }
                    seen.set(seen.get() + 1);
                }
            };
            let explained = fault(world, provider, None, &change);
            if !hit.get() {
                return n;
            }
            assert!(
                !explained.holds(),
                "figure {n} plus {unit} passes: {}",
                text(&explained)
            );
        }
    }
    unreachable!("figures come to an end")
}

/// An owner, and a world in which its provider has sector 7 and has proven it once.
fn proven(params: ChainParams) -> (SigningKey, World, ProviderId) {
    let owner = key(10);
    let mut world = fresh(params);
    let id = world.register(&owner, 10_000_000 * TOKEN);
    world.commit(&owner, id, 7, vec![]);
    let close = world.next_close(id, 7);
    world.run_proving(close, &[(&owner, id, &[])]);
    (owner, world, id)
}

#[test]
fn a_declared_fault_is_explained() {
    let (owner, mut world, id) = proven(ChainParams::devnet());
    let declare = Message::DeclareFaults {
        provider: id,
        sectors: vec![SectorNumber(7)],
    };
    world.must(&owner, declare);
    let explained = fault(&world, id, None, &|_| ());
    assert!(
        explained.holds() && text(&explained).contains("declared so in transaction 0"),
        "{}",
        text(&explained)
    );
}

#[test]
fn a_skipped_fault_is_explained_and_its_neighbour_has_none() {
    let owner = key(10);
    let mut world = fresh(ChainParams::devnet());
    let id = world.register(&owner, 10_000_000 * TOKEN);
    let (close, good, lost) = world.neighbours(&owner, id);
    world.run_proving(close, &[(&owner, id, &[lost])]);
    world.run_proving(close.after(EpochCount(121)), &[(&owner, id, &[lost])]);
    let explained = fault_of(&world, (id, lost), None, &|_| ());
    let said = text(&explained);
    assert!(explained.holds(), "{said}");
    for part in ["own proof in this block left it out", "the chain charged"] {
        assert!(said.contains(part), "{part:?} is missing in {said}");
    }
    let neighbour = fault_of(&world, (id, good), None, &|_| ());
    assert!(neighbour.steps.is_empty(), "{}", text(&neighbour));
    // A proof that left another sector out is no reason.
    let other = fault_of(&world, (id, lost), None, &|event| {
        if let Event::PostAccepted { skipped, .. } = event {
            skipped.clear();
        }
    });
    assert!(!other.holds());
}

#[test]
fn a_termination_is_explained() {
    let (owner, mut world, id) = proven(ChainParams::devnet());
    let terminate = Message::Terminate {
        provider: id,
        sector: SectorNumber(7),
    };
    while world.send(&owner, terminate.clone()).is_err() {}
    let explained = fault(&world, id, None, &|_| ());
    assert!(explained.holds(), "{}", text(&explained));
    assert_eq!(each_figure_counts(&world, id), 1 + 2);
}

/// A wrong stored proof of a provider that has money, and of one that has withdrawn all it could: then it owes, and its pledge
/// pays when its sector ends.
#[test]
fn a_dispute_is_explained_with_its_stake_and_the_finders_share() {
    for is_poor in [false, true] {
        let params = ChainParams {
            verification: VerificationMode::Optimistic,
            vest_quarters: if is_poor { 0 } else { 3 },
            ..ChainParams::devnet()
        };
        let finder = key(11);
        let (owner, mut world, id) = proven(params);
        let post = wrong_post(&mut world, id);
        if is_poor {
            let view = world.provider(id);
            let amount = TokenAmount(view.available.0 + view.claimable.0);
            let provider = id;
            world.must(&owner, Message::ProviderWithdraw { provider, amount });
        }
        world.must(&owner, post);
        let post = stored(&world);
        world.must(&finder, announce(&post, &finder));
        world.must(&finder, dispute_of(post));
        assert_eq!(world.provider(id).fee_debt.0 > 0, is_poor);
        world.run_to(post.close.after(EpochCount(360)));
        assert_eq!(world.status(id, 7), SectorStatus::FaultTimeout);
        let explained = fault(&world, id, None, &|_| ());
        let said = text(&explained);
        assert!(explained.holds(), "{said}");
        for part in [
            "was disputed and does not verify",
            "5.51 days",
            "10 % of that",
        ] {
            assert!(said.contains(part), "{part:?} is missing in {said}");
        }
        // The dispute's two and its charge's two; then the closes: fees, termination, charges with debts.
        let closes = world.history.iter().map(|(_, event)| match event {
            Event::FaultFee { .. } | Event::SectorTerminated { .. } => 1,
            Event::Penalty {
                reason: PenaltyReason::Faults,
                ..
            } => 2,
            _ => 0,
        });
        let closes: usize = closes.sum();
        assert!(closes > 4, "{said}");
        assert_eq!(each_figure_counts(&world, id), 4 + closes);
    }
}

#[test]
fn an_epochs_reward_is_explained_to_the_last_unit() {
    let (world, good, bad) = world();
    let explain = |epoch, change: fn(&mut Event)| {
        let mut explainer = RewardExplainer::new(epoch);
        show(&world, &mut explainer, &change);
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

    let one = world.net();
    assert_eq!(issued(&world), (one.minted, one.burnt));
}

/// Shows the world's issuance: one row for each epoch since the first. Gives the sums.
fn issued(world: &World) -> (TokenAmount, TokenAmount) {
    let mut issuance = Issuance::default();
    show(world, &mut issuance, &|_| ());
    let epochs: Vec<u64> = issuance.rows.iter().map(|row| row.epoch.0).collect();
    let all: Vec<u64> = (1..=world.epoch.0).collect();
    assert_eq!(epochs, all);
    let mut sums = (TokenAmount::ZERO, TokenAmount::ZERO);
    for row in &issuance.rows {
        (sums.0.0, sums.1.0) = (sums.0.0 + row.minted.0, sums.1.0 + row.burnt.0);
    }
    sums
}

/// A block that begins seven epochs: each has its own emission, and what is charged stands in the epoch of the close.
#[test]
fn issuance_has_a_row_for_each_epoch_of_a_block_of_several() {
    let (_, mut world, _) = proven(ChainParams::devnet());
    let height = world.net().height;
    world.block_at(world.epoch.after(EpochCount(7)), u64::MAX, vec![]);
    let mut issuance = Issuance::default();
    show(&world, &mut issuance, &|_| ());
    let of_block = issuance.rows.iter().filter(|row| row.height == height + 1);
    let of_block: Vec<bool> = of_block.map(|row| row.minted.0 > 0).collect();
    assert_eq!(of_block, [true; 7], "power was there all the time");
    let net = world.net();
    assert_eq!(issued(&world), (net.minted, net.burnt));
}
