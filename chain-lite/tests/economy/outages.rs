//! Outages of the chain and of the beacon (`beacon.md` §3): nobody is punished for one, timers go on where they stood, and the
//! values do not depend on when they came.

use std::cell::Cell;

use chain_lite::account::ProviderId;
use chain_lite::deal::DealStatus;
use chain_lite::error::ErrorCode;
use chain_lite::events::Event;
use chain_lite::execute::{ApplyError, apply};
use chain_lite::lit::Runs;
use chain_lite::message::Message;
use chain_lite::params::ChainParams;
use chain_lite::query::{self, SectorStatus};
use chain_lite::sector::deadline::Schedule;
use chain_lite::state::{self, Entry, KvRead, MemoryState, StoreError, read};
use chain_lite::units::{Epoch, EpochCount, TokenAmount};
use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use prover::SectorNumber;

use crate::world::{Stub, TOKEN, World, address, beacon, key};

/// How an outage looks from inside.
#[derive(Clone, Copy, Debug)]
enum Outage {
    /// No blocks at all.
    Chain,
    /// Blocks without beacon entries.
    Beacon,
}

impl World {
    /// `epochs` in which nothing can be done. Under [`Outage::Beacon`] the first few are lit: the known rounds still serve.
    fn outage(&mut self, kind: Outage, epochs: u64) {
        let until = self.epoch.after(EpochCount(epochs));
        match kind {
            // The first block after it, which is lit again.
            Outage::Chain => drop(self.block_at(until.next(), u64::MAX, vec![])),
            Outage::Beacon => {
                while self.epoch < until {
                    self.block_at(self.epoch.next(), 0, vec![]);
                }
                // The rounds come, 256 a block.
                while self.net().beacon_tip < self.epoch {
                    self.block_at(self.epoch.next(), u64::MAX, vec![]);
                }
            }
        }
    }

    fn happened(&self, from: usize, wanted: fn(&Event) -> bool) -> usize {
        self.history[from..]
            .iter()
            .filter(|(_, event)| wanted(event))
            .count()
    }
}

fn is_harm(event: &Event) -> bool {
    matches!(
        event,
        Event::SectorFaulted { .. }
            | Event::FaultFee { .. }
            | Event::Penalty { .. }
            | Event::PostMissed { .. }
            | Event::PreCommitExpired { .. }
            | Event::DealSlashed { .. }
            | Event::SectorTerminated { .. }
    )
}

fn busy() -> (World, SigningKey, SigningKey, ProviderId) {
    let (client, owner) = (key(1), key(10));
    let accounts = [&client, &owner].map(|key| (address(key), 50_000_000 * TOKEN));
    let mut world = World::new(ChainParams::devnet(), &accounts);
    let id = world.register(&owner, 20_000_000 * TOKEN);
    world.fund_market(&client, 1_000 * TOKEN);
    world.fund_market(&owner, 10_000_000 * TOKEN);
    (world, client, owner, id)
}

/// 500 dark epochs with everything pending: sectors due, a deal waiting for its sector, a pre-commitment waiting for its proof,
/// a channel closing. Nothing is lost, and afterwards all of it goes on.
fn nobody_is_punished(kind: Outage) {
    let (mut world, client, owner, id) = busy();
    let mut deals = Vec::new();
    for number in 0..3 {
        let mut proposal = world.proposal(&client, id, 256);
        proposal.end = proposal.start.after(EpochCount(2_000));
        let deal = world
            .publish(&owner, proposal.sign(&client))
            .expect("acceptable");
        world.commit(&owner, id, number, vec![deal]);
        deals.push(deal);
    }
    let prover: (&SigningKey, ProviderId, &[u64]) = (&owner, id, &[]);
    world.run_proving(world.epoch.after(EpochCount(130)), &[prover]);
    let mut late = world.proposal(&client, id, 256);
    late.end = late.start.after(EpochCount(2_000));
    let late = world
        .publish(&owner, late.sign(&client))
        .expect("acceptable");
    world.must(&owner, world.precommit_msg(id, 3, vec![late]));
    let channel = (!world.params.closed_credit).then(|| {
        let channel = world.open_channel(&client, &owner, 1_000);
        world.must(&client, Message::SettleChannel { channel });
        let voucher = world.voucher(channel, 0, 1, 700).sign(&client);
        (channel, voucher)
    });
    world.run_proving(world.epoch.after(EpochCount(6)), &[prover]);

    let (from, before) = (world.history.len(), world.provider(id));
    world.outage(kind, 500);
    assert!(world.net().dark >= 490, "{}", world.net().dark);
    assert_eq!(world.happened(from, is_harm), 0, "{kind:?}");
    assert_eq!(world.provider(id).power, before.power);
    // What was pending goes on.
    if let Some((_, voucher)) = channel {
        world.must(&owner, Message::RedeemVoucher { voucher });
    }
    world.must(&owner, world.prove_msg(id, 3));
    assert_eq!(world.deal_status(&late), DealStatus::Active);
    let view = world.deal(&late);
    assert_eq!(
        view.refunded.0,
        view.proposal.price.0 * u128::from(world.epoch.0 - view.proposal.start.0),
        "nobody held it before, so nobody is paid for that"
    );
    world.run_proving(world.epoch.after(EpochCount(260)), &[prover]);
    assert_eq!(world.happened(from, is_harm), 0);
    for (number, deal) in deals.iter().enumerate() {
        assert_eq!(world.status(id, number as u64), SectorStatus::Active);
        assert!(world.deal(deal).paid.0 > 0);
    }
    assert_eq!(world.status(id, 3), SectorStatus::Active);
    if let Some((channel, _)) = channel {
        world.must(&client, Message::CollectChannel { channel });
    }
}

#[test]
fn five_hundred_epochs_without_a_chain_punish_nobody() {
    nobody_is_punished(Outage::Chain);
}

#[test]
fn tm_v5_500_epochs_without_a_beacon_punish_nobody() {
    nobody_is_punished(Outage::Beacon);
}

/// A deadline lasts its 20 lit epochs: with seven dark ones inside it closes seven later, not sooner and not later.
#[test]
fn a_window_is_extended_by_its_dark_epochs() {
    let (mut world, _, owner, id) = busy();
    world.commit(&owner, id, 0, vec![]);
    let prover: (&SigningKey, ProviderId, &[u64]) = (&owner, id, &[]);
    let close = world.next_close(id, 0);
    world.run_proving(close, &[prover]);
    let window = |world: &World| {
        let index = world.sector(id, 0).deadline.expect("live");
        world.deadlines(id)[usize::from(index)].window
    };
    let plan = window(&world);
    // Dark from the sixth epoch of the window on, seven long.
    world.run_to(plan.open.after(EpochCount(5)));
    let mut late = world.clone();
    for world in [&mut world, &mut late] {
        let at = world.epoch.after(EpochCount(8));
        world.block_at(at, u64::MAX, vec![]);
        world.run_to(plan.close);
    }
    let longer = plan.close.after(EpochCount(7));
    assert_eq!(
        (window(&world).open, window(&world).close),
        (plan.open, longer)
    );
    assert!(
        world
            .deadlines(id)
            .iter()
            .any(|d| d.is_open && d.window.close == longer)
    );
    // Its challenge stays, and the proof is accepted to the last epoch.
    world.run_to(longer.before(EpochCount(2)));
    let post = world.due_posts(id, &[]).remove(0);
    world.must(&owner, post);
    world.run_to(longer);
    assert_eq!(world.status(id, 0), SectorStatus::Active);
    assert_eq!(window(&world).close, plan.close.after(EpochCount(120)));
    // Who does not use it is faulty when it is over.
    late.run_to(longer.before(EpochCount(1)));
    assert_eq!(late.status(id, 0), SectorStatus::Active);
    late.run_to(longer);
    assert_eq!(late.status(id, 0), SectorStatus::Faulty);
    assert_eq!(late.sector(id, 0).faulty_since, Some(longer));
}

/// A fault that was declared for a window counts from its close; where the window is extended, its first close is still free.
#[test]
fn the_first_close_of_a_declared_fault_is_free_in_an_extended_window() {
    let (mut world, _, owner, id) = busy();
    world.commit(&owner, id, 0, vec![]);
    let close = world.next_close(id, 0);
    world.run_proving(close, &[(&owner, id, &[])]);
    let declare = Message::DeclareFaults {
        provider: id,
        sectors: vec![SectorNumber(0)],
    };
    world.must(&owner, declare);
    let plan = close.after(EpochCount(120));
    world.run_to(plan.before(EpochCount(10)));
    let at = world.epoch.after(EpochCount(6));
    world.block_at(at, u64::MAX, vec![]);
    let is_fee = |event: &Event| matches!(event, Event::FaultFee { .. });
    world.run_to(plan.after(EpochCount(119)));
    assert_eq!(world.happened(0, is_fee), 0);
    assert_eq!(
        world.happened(0, |event| matches!(event, Event::DeadlineExtended { .. })),
        1
    );
    world.run_to(plan.after(EpochCount(120)));
    assert_eq!(world.happened(0, is_fee), 1);
}

/// A window that is still open when its next occurrence opens absorbs it: one proof, and the occurrence after that is next.
#[test]
fn a_window_absorbs_the_occurrence_that_opens_inside() {
    let (mut world, _, owner, id) = busy();
    world.commit(&owner, id, 0, vec![]);
    let close = world.next_close(id, 0);
    world.run_proving(close, &[(&owner, id, &[])]);
    let index = usize::from(world.sector(id, 0).deadline.expect("live"));
    let plan = world.deadlines(id)[index].window;
    world.run_to(plan.open.after(EpochCount(9)));
    // 115 dark epochs: the ten lit ones that are left reach into the next occurrence.
    let at = world.epoch.after(EpochCount(116));
    world.block_at(at, u64::MAX, vec![]);
    let inside = plan.open.after(EpochCount(120 + 11));
    world.run_to(inside);
    let window = world.deadlines(id)[index].window;
    assert_eq!(
        (window.open, window.close),
        (plan.open, plan.open.after(EpochCount(135)))
    );
    let post = world.due_posts(id, &[]).remove(0);
    world.must(&owner, post);
    world.run_to(window.close);
    assert_eq!(world.status(id, 0), SectorStatus::Active);
    // The absorbed occurrence is not open, though the schedule has it so.
    assert_eq!(world.due_posts(id, &[]).len(), 0);
    let next = world.deadlines(id)[index].window;
    assert_eq!(next.open, plan.open.after(EpochCount(240)));
    let deadline = u16::try_from(index).expect("few");
    let stale = world.post_msg(id, deadline, 0, &[]);
    world.fails(&owner, stale, ErrorCode::DeadlineClosed);
    world.run_proving(next.close, &[(&owner, id, &[])]);
    assert_eq!(world.status(id, 0), SectorStatus::Active);
    assert_eq!(
        world.deadlines(id)[index].window.open,
        plan.open.after(EpochCount(360))
    );
}

/// A fault's age stands still in the dark: 3 periods of it end a sector, outages not counted.
#[test]
fn the_age_of_a_fault_counts_lit_epochs() {
    let (mut world, _, owner, id) = busy();
    world.commit(&owner, id, 0, vec![]);
    let close = world.next_close(id, 0);
    world.run_proving(close, &[(&owner, id, &[])]);
    // Missed for ever from here on.
    let first = close.after(EpochCount(120));
    world.run_to(first.after(EpochCount(30)));
    assert_eq!(world.status(id, 0), SectorStatus::Faulty);
    let at = world.epoch.after(EpochCount(50));
    world.block_at(at, u64::MAX, vec![]);
    let third = first.after(EpochCount(360));
    world.run_to(third);
    assert_eq!(
        world.status(id, 0),
        SectorStatus::Faulty,
        "49 of them were dark"
    );
    world.run_to(third.after(EpochCount(120)));
    assert_eq!(world.status(id, 0), SectorStatus::FaultTimeout);
}

/// A deal that waits for its sector, and a pre-commitment that waits for its proof, have their time in lit epochs, and no more.
#[test]
fn what_is_late_after_an_outage_is_late() {
    let (mut world, client, owner, id) = busy();
    let proposal = world.proposal(&client, id, 256).sign(&client);
    let start = proposal.proposal.start;
    let deal = world.publish(&owner, proposal).expect("acceptable");
    world.must(&owner, world.precommit_msg(id, 0, vec![]));
    let expires = world.epoch.after(EpochCount(201));
    let told = |world: &World| {
        let view = query::sector(&world.state, id, SectorNumber(0));
        view.unwrap().and_then(|view| view.prove_until)
    };
    assert_eq!(told(&world), Some(expires.before(EpochCount(1))));
    let begins = |world: &World| {
        let leaf = read(&world.state, &state::key::deal(&deal)).expect("memory");
        let net = query::totals(&world.state).expect("memory");
        query::begin_by(&world.state, &net, &leaf.expect("published")).expect("memory")
    };
    assert_eq!(begins(&world), start);
    let at = world.epoch.after(EpochCount(101));
    world.block_at(at, u64::MAX, vec![]);
    let put_off = EpochCount(100);
    // Its provider is told so at once, and not to give up.
    let last = expires.after(put_off).before(EpochCount(1));
    assert_eq!(told(&world), Some(last));
    assert_eq!(begins(&world), start.after(put_off));
    world.run_to(start.after(put_off));
    assert_eq!(world.deal_status(&deal), DealStatus::Published);
    assert_eq!(begins(&world), world.epoch, "this is the last one");
    world.run_to(start.after(put_off).next());
    assert_eq!(world.deal_status(&deal), DealStatus::Slashed);
    // In its last epoch the proof is taken, and its seed is still known; one later it is too late.
    world.run_to(expires.after(put_off).before(EpochCount(2)));
    let mut in_time = world.clone();
    assert_eq!(told(&in_time), Some(last));
    in_time.must(&owner, in_time.prove_msg(id, 0));
    assert_eq!(in_time.epoch, last);
    world.run_to(expires.after(put_off).before(EpochCount(1)));
    assert_eq!(world.status(id, 0), SectorStatus::PreCommitted);
    world.run_to(expires.after(put_off));
    assert_eq!(world.status(id, 0), SectorStatus::NeverProven);
}

#[test]
fn tm_v5_entries_come_in_order_and_never_early() {
    let (world, ..) = busy();
    let ctx = |change: &dyn Fn(&mut chain_lite::execute::BlockCtx)| {
        let mut ctx = world.ctx_at(world.epoch.after(EpochCount(3)), u64::MAX);
        change(&mut ctx);
        apply(&world.state, &ctx, &[], &Stub)
    };
    assert!(ctx(&|_| ()).is_ok());
    assert!(ctx(&|ctx| ctx.beacons.clear()).is_ok());
    assert!(ctx(&|ctx| ctx.beacons.truncate(1)).is_ok());
    let wrong: [&dyn Fn(&mut chain_lite::execute::BlockCtx); 4] = [
        &|ctx| {
            ctx.beacons.remove(0);
        },
        &|ctx| ctx.beacons.swap(0, 1),
        &|ctx| ctx.beacons.push((ctx.epoch.next(), [0; 32])),
        &|ctx| ctx.beacons[1] = ctx.beacons[0],
    ];
    for (index, change) in wrong.into_iter().enumerate() {
        assert!(
            matches!(ctx(change), Err(ApplyError::Context(_))),
            "case {index}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Proposers leave out entries and blocks as they please: every epoch's value is the same in the end, a provider that
    /// proves whenever it can is never harmed, and no rule of the state breaks on the way.
    #[test]
    fn tm_v5_withheld_rounds_change_no_value_and_harm_nobody(
        plan in proptest::collection::vec((1u64..8, 0u64..20), 40..160),
    ) {
        let (mut world, client, owner, id) = busy();
        let proposal = world.proposal(&client, id, 256).sign(&client);
        let deal = world.publish(&owner, proposal).expect("acceptable");
        world.commit(&owner, id, 0, vec![deal]);
        let from = world.history.len();
        for (skip, entries) in plan {
            let epoch = world.epoch.after(EpochCount(skip));
            let posts = world.due_posts(id, &[]);
            let txs = if posts.is_empty() { vec![] } else { vec![world.tx(&owner, 0, posts)] };
            world.block_at(epoch, entries, txs);
            // Whoever may not prove yet asks again.
            let tip = world.net().beacon_tip;
            for known in [tip, tip.before(EpochCount(20))] {
                if known.0 > 0 {
                    let value = query::beacon(&world.state, known).expect("memory");
                    prop_assert_eq!(value, Some(beacon(known)));
                }
            }
        }
        prop_assert_eq!(world.happened(from, is_harm), 0);
        prop_assert_eq!(world.replay(&[(address(&client), 50_000_000 * TOKEN), (address(&owner), 50_000_000 * TOKEN)]), world.state);
    }
}

/// A state that counts what is asked of it: a step for each read, and one for each entry that a range must be ready to give
/// beyond its first page. A range over an overlay asks for one more with each write that it has to step over.
struct Counting<'a> {
    state: &'a MemoryState,
    steps: Cell<u64>,
}

impl KvRead for Counting<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.steps.set(self.steps.get() + 1);
        self.state.get(key)
    }

    fn range(&self, from: &[u8], until: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError> {
        const PAGE: usize = 1_024;
        let beyond = if limit >= PAGE { limit - PAGE } else { limit };
        self.steps.set(self.steps.get() + 1 + beyond as u64);
        self.state.range(from, until, limit)
    }
}

/// The epochs of an outage are begun one by one in the block that ends it; each costs what it has to do, however many came before.
#[test]
fn tm_v13_a_long_outage_costs_as_much_for_each_of_its_epochs() {
    let (mut world, client, owner, id) = busy();
    for number in 0..12 {
        world.commit(&owner, id, number, vec![]);
    }
    // Timers of all kinds, due inside.
    for number in 20..26 {
        let proposal = world.proposal(&client, id, 256).sign(&client);
        let deal = world.publish(&owner, proposal).expect("acceptable");
        world.must(&owner, world.precommit_msg(id, number, vec![deal]));
    }
    let steps = |epochs: u64| {
        let counting = Counting {
            state: &world.state,
            steps: Cell::new(0),
        };
        let ctx = world.ctx_at(world.epoch.after(EpochCount(epochs)), u64::MAX);
        apply(&counting, &ctx, &[], &Stub).expect("continues the chain");
        counting.steps.get()
    };
    let counted = [500, 1_000, 2_000, 4_000].map(steps);
    let per_epoch = |n: usize| (counted[n + 1] - counted[n]) / [500, 1_000, 2_000][n];
    for n in 1..3 {
        assert!(
            per_epoch(n) <= per_epoch(0) + 1,
            "{counted:?}: the later epochs of a long outage cost more than the early ones"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// What an audit bundle derives from the leaves of outages holds on chain: a proof was accepted for a window that may have been
    /// open, and whoever is active was proven since the newest window that is over. Outages of every length, also over whole
    /// periods, with and without blocks.
    #[test]
    fn windows_told_from_the_leaves_of_outages_are_those_of_the_chain(
        plan in proptest::collection::vec((1u64..4, 0u64..20, 0u64..60, 0u64..150), 20..80),
    ) {
        let (mut world, _, owner, id) = busy();
        for number in 0..3 {
            world.commit(&owner, id, number, vec![]);
        }
        let schedule = {
            let view = world.provider(id);
            Schedule::new(&world.params, view.offset)
        };
        let mut newest = std::collections::BTreeMap::new();
        for (skip, entries, rare, long) in plan {
            let skip = if rare == 0 { long.max(1) } else { skip };
            let due = world.due_posts(id, &[]);
            let windows: Vec<_> = world.deadlines(id).iter().map(|d| d.window).collect();
            let txs = if due.is_empty() { vec![] } else { vec![world.tx(&owner, 0, due)] };
            world.block_at(world.epoch.after(EpochCount(skip)), entries, txs);
            let outages = Runs::of(&world.state, &world.net()).expect("memory");
            for record in &world.events {
                let Event::PostAccepted { deadline, .. } = record.event else { continue };
                let shown = schedule.may_be_open(world.epoch, deadline, &outages).expect("all are there");
                let answered = windows[usize::from(deadline)].challenge;
                prop_assert!(shown.iter().any(|window| window.challenge == answered));
                prop_assert_eq!(schedule.last_open(world.epoch, deadline, &outages), Some(world.epoch));
                newest.insert(deadline, world.epoch);
            }
            for number in (0..3).filter(|n| world.status(id, *n) == SectorStatus::Active) {
                let deadline = world.sector(id, number).deadline.expect("live");
                let over = schedule.last_over(world.epoch, deadline, &outages).expect("all are there");
                prop_assert!(newest[&deadline] >= over, "{} {over}", newest[&deadline]);
            }
        }
    }
}

/// Without an outage the leaves say what the schedule says, and with one they say more: the scheduled window is not the one that
/// a proof in an extended window answers.
#[test]
fn the_schedule_alone_does_not_know_the_challenge_of_an_extended_window() {
    let (mut world, _, owner, id) = busy();
    world.commit(&owner, id, 0, vec![]);
    let close = world.next_close(id, 0);
    world.run_proving(close, &[(&owner, id, &[])]);
    let index = world.sector(id, 0).deadline.expect("live");
    let schedule = Schedule::new(&world.params, world.provider(id).offset);
    let window = |world: &World| world.deadlines(id)[usize::from(index)].window;
    let plan = window(&world);
    let runs = |world: &World| Runs::of(&world.state, &world.net()).expect("memory");
    world.run_to(plan.open.after(EpochCount(9)));
    let told = |world: &World| schedule.may_be_open(world.epoch, index, &runs(world));
    assert_eq!(told(&world), Some(vec![plan]));
    assert_eq!(
        schedule.last_over(world.epoch, index, &runs(&world)),
        Some(plan.open.before(EpochCount(120)))
    );
    let at = world.epoch.after(EpochCount(31));
    world.block_at(at, u64::MAX, vec![]);
    assert_ne!(
        schedule.window(world.epoch, index).challenge,
        plan.challenge
    );
    assert_eq!(told(&world), Some(vec![plan]));
    let post = world.due_posts(id, &[]).remove(0);
    world.must(&owner, post);
    world.run_to(plan.close.after(EpochCount(29)));
    assert_eq!(
        told(&world).map(|windows| windows.len()),
        Some(1),
        "the last epoch"
    );
    world.run_to(plan.close.after(EpochCount(30)));
    assert_eq!(told(&world), Some(vec![]));
    assert_eq!(
        schedule.last_open(world.epoch, index, &runs(&world)),
        Some(world.epoch.before(EpochCount(1)))
    );
    assert_eq!(
        schedule.last_over(world.epoch, index, &runs(&world)),
        Some(plan.open)
    );
}

#[test]
fn recovery_and_withdrawal_work_after_an_outage() {
    let (mut world, _, owner, id) = busy();
    world.commit(&owner, id, 0, vec![]);
    let close = world.next_close(id, 0);
    world.run_proving(close, &[(&owner, id, &[])]);
    world.run_to(close.after(EpochCount(121)));
    assert_eq!(world.status(id, 0), SectorStatus::Faulty);
    world.outage(Outage::Chain, 77);
    let declare = Message::DeclareRecovered {
        provider: id,
        sectors: vec![SectorNumber(0)],
    };
    while world.send(&owner, declare.clone()).is_err() {
        assert!(world.epoch < Epoch(2_000), "it must be possible");
    }
    let close = world.next_close(id, 0);
    world.run_proving(close, &[(&owner, id, &[])]);
    assert_eq!(world.status(id, 0), SectorStatus::Active);
    let withdraw = Message::ProviderWithdraw {
        provider: id,
        amount: TokenAmount(1),
    };
    match world.params.closed_credit {
        false => drop(world.must(&owner, withdraw)),
        true => drop(world.fails(&owner, withdraw, ErrorCode::NotAllowed)),
    }
}
