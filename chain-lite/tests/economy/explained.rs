//! Explanations reproduce the chain's own figures, and notice figures that are not its own.

use std::cell::Cell;

use chain_lite::account::ProviderId;
use chain_lite::audit::{BlockFacts, Visitor};
use chain_lite::events::{Event, PenaltyReason};
use chain_lite::execute::{Receipt, apply, apply_watched};
use chain_lite::explain::{Explanation, FaultExplainer, Issuance, RewardExplainer};
use chain_lite::message::{CheckedTx, Message};
use chain_lite::moment::{Moment, What};
use chain_lite::params::{ChainParams, VerificationMode};
use chain_lite::query::SectorStatus;
use chain_lite::reward;
use chain_lite::sector::dispute::PostId;
use chain_lite::units::{Epoch, EpochCount, TokenAmount};
use ed25519_dalek::SigningKey;
use prover::SectorNumber;

use crate::disputes::{announce, dispute_of, stored, wrong_post};
use crate::world::{Stub, TOKEN, World, address, key};

/// Shows every block of the world's log to a visitor; `change` may falsify the events first.
pub fn show(world: &World, visitor: &mut dyn Visitor, change: &dyn Fn(&mut Event)) {
    let mut state = world.genesis.clone();
    for (ctx, txs) in &world.log {
        let watch = &mut |moment: &Moment<'_>| visitor.moment(moment);
        let mut applied = apply_watched(&state, ctx, txs, &Stub, watch).expect("it applied before");
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
    assert_eq!(each_figure_counts(&world, &[(bad, 7)]), 3 + 1 + 2 * 3);
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

/// Falsifies one figure after the other by one unit, up and down: the explanations of these sectors do not all take it for the
/// chain's. Gives how many there are.
fn each_figure_counts(world: &World, sectors: &[(ProviderId, u64)]) -> usize {
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
            let explain = |&sector| {
                seen.set(0);
                fault_of(world, sector, None, &change)
            };
            let explained: Vec<Explanation> = sectors.iter().map(explain).collect();
            if !hit.get() {
                return n;
            }
            assert!(
                !explained.iter().all(Explanation::holds),
                "figure {n} plus {unit} passes: {}",
                explained.iter().map(text).collect::<String>()
            );
        }
    }
    unreachable!("figures come to an end")
}

/// An owner, and a world in which its provider has sector 7 and has proven it once.
pub fn proven(params: ChainParams) -> (SigningKey, World, ProviderId) {
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

/// What the explanation of a sound chain says.
fn holds(world: &World, sector: (ProviderId, u64)) -> String {
    let explained = fault_of(world, sector, None, &|_| ());
    let said = text(&explained);
    assert!(explained.holds() && !said.is_empty(), "{said}");
    said
}

fn terminate(provider: ProviderId, number: u64) -> Message {
    let sector = SectorNumber(number);
    Message::Terminate { provider, sector }
}

/// Takes all it can out of a provider whose rewards do not vest.
fn empty(world: &mut World, owner: &SigningKey, provider: ProviderId) {
    let view = world.provider(provider);
    let amount = TokenAmount(view.available.0 + view.claimable.0);
    world.must(owner, Message::ProviderWithdraw { provider, amount });
}

/// Empty blocks until one in which the last of these succeeds, and that one.
fn block_of(world: &mut World, make: &dyn Fn(&World) -> Vec<CheckedTx>) -> Vec<Receipt> {
    for _ in 0..world.params.proving_period.0 {
        let txs = make(world);
        let applied = world.try_block(&txs);
        if applied.receipts.last().is_some_and(Receipt::succeeded) {
            return world.block(txs);
        }
        world.block(vec![]);
    }
    panic!("they do not succeed in a whole period")
}

/// Half of what a provider owes comes back in the block that charges it again, before the charge.
#[test]
fn a_charge_after_a_deposit_in_its_block_is_explained() {
    let (owner, mut world, id) = proven(ChainParams {
        vest_quarters: 0,
        ..ChainParams::devnet()
    });
    empty(&mut world, &owner, id);
    world.run_to(world.next_close(id, 7));
    empty(&mut world, &owner, id);
    world.run_to(world.next_close(id, 7));
    let debt = world.provider(id).fee_debt;
    assert!(debt.0 > 1, "the second missed deadline cost a fee");
    let deposit = Message::ProviderDeposit {
        provider: id,
        amount: TokenAmount(debt.0 / 2),
    };
    let receipts = block_of(&mut world, &|world| {
        vec![
            world.tx(&key(11), 0, vec![deposit.clone()]),
            world.tx(&owner, 0, vec![terminate(id, 7)]),
        ]
    });
    assert!(receipts[0].succeeded());
    let said = holds(&world, (id, 7));
    let left = debt.0 - debt.0 / 2;
    assert!(
        said.contains(&format!("owed {left} and is charged")),
        "{said}"
    );
    assert_eq!(each_figure_counts(&world, &[(id, 7)]), 3 + 3);
}

/// A block that begins several epochs: the power of one provider falls in the first, and another's sector is ended in the last, for a
/// fee that follows from the rate by then. Rewards are claimed in both.
#[test]
fn a_block_of_several_epochs_is_explained_by_the_power_of_each() {
    let params = ChainParams {
        fault_fee_cap_percent: 24,
        ..ChainParams::devnet()
    };
    let (good_key, bad_key) = (key(10), key(11));
    let mut world = fresh(params);
    let [good, bad] = [&good_key, &bad_key].map(|key| world.register(key, 10_000_000 * TOKEN));
    world.commit(&good_key, good, 7, vec![]);
    let numbers = [7, 8, 9];
    for number in numbers {
        world.commit(&bad_key, bad, number, vec![]);
    }
    let all: [(&SigningKey, ProviderId, &[u64]); 2] =
        [(&good_key, good, &[]), (&bad_key, bad, &[])];
    let first = numbers.map(|number| world.next_close(bad, number));
    let proven = first.into_iter().max().max(Some(world.next_close(good, 7)));
    world.run_proving(proven.expect("four"), &all);

    // One of the deadlines that are missed now closes while the other provider's is neither open nor next.
    let mut closes = numbers.map(|number| (world.next_close(bad, number), number));
    closes.sort();
    let found = closes.into_iter().find_map(|(close, number)| {
        world.run_proving(close.before(EpochCount(1)), &all[..1]);
        (2..6).find_map(|span| {
            let mut after = world.clone();
            let end = after.tx(&good_key, 0, vec![terminate(good, 7)]);
            let receipts = after.block_at(close.after(EpochCount(span)), u64::MAX, vec![end]);
            let fell = after.status(bad, number) == SectorStatus::Faulty;
            (receipts[0].succeeded() && fell).then(|| (after, world.net(), close, number))
        })
    });
    let (world, mut as_before, close, number) = found.expect("their offsets differ");
    for epoch in close.0..=world.epoch.0 {
        reward::emit(&world.params, &mut as_before, Epoch(epoch)).expect("small");
    }
    assert_ne!(as_before.rpp, world.net().rpp, "the power did not matter");
    holds(&world, (bad, number));
    holds(&world, (good, 7));
    assert_eq!(each_figure_counts(&world, &[(good, 7)]), 3);

    let explain = |epoch, change: fn(&mut Event)| {
        let mut explainer = RewardExplainer::new(Epoch(epoch));
        show(&world, &mut explainer, &change);
        explainer.finish()
    };
    let falsified: [fn(&mut Event); 4] = [
        |event| mint(event, 1),
        |event| mint(event, u128::MAX),
        |event| claim(event, 1),
        |event| claim(event, u128::MAX),
    ];
    let mut held = Vec::new();
    for epoch in close.0..=world.epoch.0 {
        let explained = explain(epoch, |_| ());
        let said = text(&explained);
        assert!(explained.holds(), "epoch {epoch}: {said}");
        let power = said.split(" held ").nth(1);
        held.extend(
            power
                .and_then(|rest| rest.lines().next())
                .map(str::to_owned),
        );
        for provider in [good, bad] {
            assert!(said.contains(&format!("Provider {provider} claimed")));
        }
    }
    assert!(held[0] != held[1] && held[1..].iter().all(|power| *power == held[1]));
    for change in falsified {
        assert!(!explain(world.epoch.0, change).holds());
    }
}

fn mint(event: &mut Event, by: u128) {
    if let Event::Mint { amount, .. } = event {
        amount.0 = amount.0.wrapping_add(by);
    }
}

fn claim(event: &mut Event, by: u128) {
    if let Event::Reward { claimed, .. } = event {
        claimed.0 = claimed.0.wrapping_add(by);
    }
}

#[test]
fn a_missed_deadline_with_an_outage_inside_is_explained() {
    let (_, mut world, id) = proven(ChainParams::devnet());
    while world.due_posts(id, &[]).is_empty() {
        world.block(vec![]);
    }
    let close = world.next_close(id, 7);
    world.block_at(world.epoch.after(EpochCount(5)), u64::MAX, vec![]);
    world.run_to(close.after(EpochCount(4)));
    let said = holds(&world, (id, 7));
    assert!(said.contains("24 epochs, 4 of them dark"), "{said}");
}

/// The announcement may come before the post, because a post's name is known before it.
#[test]
fn a_post_stored_and_disputed_in_one_block_is_explained() {
    let (owner, mut world, id) = proven(ChainParams {
        verification: VerificationMode::Optimistic,
        ..ChainParams::devnet()
    });
    let finder = key(11);
    let message = wrong_post(&mut world, id);
    let Message::SubmitPost {
        deadline,
        partition,
        ..
    } = message
    else {
        panic!("a post");
    };
    let post = PostId {
        provider: id,
        deadline,
        partition,
        close: world.next_close(id, 7),
    };
    world.must(&finder, announce(&post, &finder));
    let receipts = block_of(&mut world, &|world| {
        vec![
            world.tx(&owner, 0, vec![message.clone()]),
            world.tx(&finder, 0, vec![dispute_of(post)]),
        ]
    });
    assert!(receipts[0].succeeded());
    let said = holds(&world, (id, 7));
    for part in [
        "was disputed and does not verify",
        "was of 1 sectors",
        "10 % of that",
    ] {
        assert!(said.contains(part), "{part:?} is missing in {said}");
    }
    assert_eq!(each_figure_counts(&world, &[(id, 7)]), 2 + 2);
}

/// Two sectors of one provider end in one transaction, or in two of one block; what is free of the first one's pledge pays.
#[test]
fn two_terminations_in_one_block_are_told_apart() {
    for in_one in [true, false] {
        let (owner, mut world, id) = proven(ChainParams {
            vest_quarters: 0,
            ..ChainParams::devnet()
        });
        world.commit(&owner, id, 8, vec![]);
        let close = world.next_close(id, 8);
        world.run_proving(close, &[(&owner, id, &[])]);
        empty(&mut world, &owner, id);
        let ends = [terminate(id, 7), terminate(id, 8)];
        block_of(&mut world, &|world| match in_one {
            true => vec![world.tx(&owner, 0, ends.to_vec())],
            false => (0u64..)
                .zip(&ends)
                .map(|(ahead, end)| world.tx(&owner, ahead, vec![end.clone()]))
                .collect(),
        });
        for number in [7, 8] {
            assert_eq!(world.status(id, number), SectorStatus::Terminated);
            let said = holds(&world, (id, number));
            assert_eq!(said.matches("the sector was ended").count(), 1, "{said}");
        }
        let both = [(id, 7), (id, 8)];
        assert_eq!(each_figure_counts(&world, &both), 2 * 3, "{in_one}");
    }
}

/// A transaction that ends the sector and then fails does nothing, and explains nothing.
#[test]
fn a_failed_message_before_a_charge_leaves_nothing_behind() {
    let (owner, mut world, id) = proven(ChainParams::devnet());
    let receipts = block_of(&mut world, &|world| {
        vec![
            world.tx(&owner, 0, vec![terminate(id, 7), terminate(id, 99)]),
            world.tx(&owner, 1, vec![terminate(id, 7)]),
        ]
    });
    assert!(!receipts[0].succeeded());
    holds(&world, (id, 7));
    assert_eq!(each_figure_counts(&world, &[(id, 7)]), 3);

    let reward = |change: fn(&mut Event)| {
        let mut explainer = RewardExplainer::new(world.epoch);
        show(&world, &mut explainer, &change);
        explainer.finish()
    };
    let said = text(&reward(|_| ()));
    assert!(reward(|_| ()).holds(), "{said}");
    assert_eq!(said.matches(" claimed ").count(), 1, "{said}");
    assert!(!reward(|event| claim(event, 1)).holds());
}

/// What a sector goes through in one transaction, from its proof to its end.
#[test]
fn a_sector_that_comes_and_ends_in_one_block_is_explained() {
    let (owner, mut world, id) = proven(ChainParams::devnet());
    world.must(&owner, world.precommit_msg(id, 8, vec![]));
    world.run_to(world.epoch.after(world.params.seed_delay));
    let declare = Message::DeclareFaults {
        provider: id,
        sectors: vec![SectorNumber(8)],
    };
    block_of(&mut world, &|world| {
        let steps = vec![world.prove_msg(id, 8), declare.clone(), terminate(id, 8)];
        vec![world.tx(&owner, 0, steps)]
    });
    let said = holds(&world, (id, 8));
    for part in ["declared so in transaction 0", "Termination fee at age 0"] {
        assert!(said.contains(part), "{part:?} is missing in {said}");
    }
    assert_eq!(each_figure_counts(&world, &[(id, 8)]), 3);
}

/// V3: who watches changes nothing, and each event is shown before it is told.
#[test]
fn tm_v3_a_block_is_the_same_watched() {
    let (mut world, _, bad) = world();
    let pay = |amount| Message::Transfer {
        to: address(&key(10)),
        amount: TokenAmount(amount),
    };
    let txs = vec![
        world.tx(&key(11), 0, vec![pay(1), pay(2), terminate(bad, 99)]),
        world.tx(&key(11), 1, vec![pay(3)]),
    ];
    let receipts = world.block(txs);
    assert!(!receipts[0].succeeded());
    let mut state = fresh(world.params.clone()).state;
    for (ctx, txs) in &world.log {
        let mut shown = Vec::new();
        let watch = &mut |moment: &Moment<'_>| {
            if let What::Event(event) = moment.what {
                shown.truncate(moment.at);
                shown.push((moment.at, event.clone()));
            }
        };
        let watched = apply_watched(&state, ctx, txs, &Stub, watch).expect("it applied before");
        let alone = apply(&state, ctx, txs, &Stub).expect("it applied before");
        assert_eq!(watched, alone);
        shown.truncate(alone.events.len());
        let told = alone.events.into_iter().map(|record| record.event);
        assert_eq!(shown, told.enumerate().collect::<Vec<_>>());
        state.commit(&watched.writes);
    }
}

#[test]
fn a_termination_is_explained() {
    let (owner, mut world, id) = proven(ChainParams::devnet());
    while world.send(&owner, terminate(id, 7)).is_err() {}
    holds(&world, (id, 7));
    assert_eq!(each_figure_counts(&world, &[(id, 7)]), 1 + 2);
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
            empty(&mut world, &owner, id);
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
        assert_eq!(each_figure_counts(&world, &[(id, 7)]), 4 + closes);
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
