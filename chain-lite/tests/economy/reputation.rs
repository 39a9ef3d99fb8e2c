//! Reputation from a replay is what happened, by hand-computed numbers.

use chain_lite::account::ProviderId;
use chain_lite::deal::DealStatus;
use chain_lite::message::Message;
use chain_lite::params::{ChainParams, VerificationMode};
use chain_lite::query::SectorStatus;
use chain_lite::reputation::receipt::Readings;
use chain_lite::reputation::{Closes, DealCounts, Record, Reputation};
use chain_lite::units::EpochCount;
use prover::SectorNumber;

use crate::disputes::{announce, dispute_of, stored, wrong_post};
use crate::explained::{proven, show};
use crate::world::{TOKEN, World, address, key};

/// Uptimes after 0, 1, 2, … periods with every close proven: each a sixteenth nearer to 65536, cut off.
const RISING: [u32; 10] = [
    0, 4_096, 7_936, 11_536, 14_911, 18_075, 21_041, 23_821, 26_428, 28_872,
];

fn reputations(world: &World) -> Vec<Record> {
    let mut reputation = Reputation::default();
    show(world, &mut reputation, &|_| ());
    reputation
        .finish(world.epoch, &Readings::default())
        .expect("memory")
}

fn of(world: &World, provider: ProviderId) -> Record {
    let mut records = reputations(world).into_iter();
    let found = records.find(|record| record.provider == provider);
    found.expect("registered")
}

/// One keeps all it promised; one proves once and is never seen again, and lets a deal's start pass.
#[test]
fn a_provider_that_proves_and_one_that_misses() {
    let (good_key, bad_key, idle_key, client) = (key(10), key(11), key(12), key(1));
    let owners = [&good_key, &bad_key, &idle_key];
    let mut accounts = vec![(address(&client), 1_000 * TOKEN)];
    accounts.extend(owners.map(|owner| (address(owner), 50_000_000 * TOKEN)));
    let mut world = World::new(ChainParams::devnet(), &accounts);
    let [good, bad, idle] = owners.map(|owner| world.register(owner, 10_000_000 * TOKEN));
    world.fund_market(&client, 100 * TOKEN);
    for owner in [&good_key, &bad_key] {
        world.fund_market(owner, 2_000_000 * TOKEN);
    }
    let kept = world.proposal(&client, good, 2048).sign(&client);
    let kept = world.publish(&good_key, kept).expect("acceptable");
    let mut long = world.proposal(&client, bad, 2048);
    long.end = long.start.after(EpochCount(5_000));
    let broken = world.publish(&bad_key, long.sign(&client));
    let broken = broken.expect("acceptable");
    let late = world.proposal(&client, bad, 2048).sign(&client);
    let late = world.publish(&bad_key, late).expect("acceptable");
    world.commit(&good_key, good, 0, vec![kept]);
    world.commit(&bad_key, bad, 7, vec![broken]);

    let none: &[u64] = &[];
    let all = [(&good_key, good, none), (&bad_key, bad, none)];
    let first = world.next_close(bad, 7);
    let good_first = world.next_close(good, 0);
    world.run_proving(first, &all);
    // Misses at +120, +240, +360 and at +480, which ends the sector. Its period is over within one more.
    world.run_proving(first.after(EpochCount(600)), &all[..1]);
    assert_eq!(world.status(bad, 7), SectorStatus::FaultTimeout);
    let statuses = [kept, broken, late].map(|deal| world.deal_status(&deal));
    let (completed, slashed) = (DealStatus::Completed, DealStatus::Slashed);
    assert_eq!(statuses, [completed, slashed, slashed]);

    let record = of(&world, bad);
    // 4096 from the first period; then a sixteenth less, four times: 256, 240, 225, 211 (210.9 floored away from it).
    let expected = Record {
        provider: bad,
        uptime: record.uptime,
        periods: 5,
        under_way: Closes::default(),
        deals: DealCounts {
            published: 2,
            activated: 1,
            completed: 0,
            slashed: 2,
        },
        fault_episodes: 1,
        retrieval: None,
        score: record.uptime,
    };
    assert_eq!(record, expected);
    assert_eq!(record.uptime.q16(), 4_096 - 256 - 240 - 225 - 211);

    let record = of(&world, good);
    let closes = world.epoch.since(good_first).0 / 120 + 1;
    let under_way = Closes {
        due: closes - record.periods,
        proven: closes - record.periods,
    };
    assert!(under_way.due <= 1, "one sector has one close in a period");
    assert_eq!(record.under_way, under_way);
    assert_eq!(record.uptime.q16(), RISING[record.periods as usize]);
    let deals = DealCounts {
        published: 1,
        activated: 1,
        completed: 1,
        slashed: 0,
    };
    assert_eq!((record.deals, record.fault_episodes), (deals, 0));

    // Who is registered and nothing else is in the list too.
    let record = of(&world, idle);
    assert_eq!((record.uptime.q16(), record.periods), (0, 0));
    assert_eq!(record.deals, DealCounts::default());
    let ids: Vec<ProviderId> = reputations(&world).iter().map(|r| r.provider).collect();
    assert_eq!(ids, [good, bad, idle]);
}

/// Declaring a fault in time saves fees and not the name; an episode ends with the next proof.
#[test]
fn a_declared_fault_is_a_close_without_proof_and_each_episode_counts_once() {
    let (owner, mut world, id) = proven(ChainParams::devnet());
    let sectors = vec![SectorNumber(7)];
    let all = [(&owner, id, [].as_slice())];
    for episode in 1..=2 {
        let (provider, sectors) = (id, sectors.clone());
        let declare = Message::DeclareFaults { provider, sectors };
        world.must(&owner, declare);
        let close = world.next_close(id, 7);
        world.run_proving(close, &all);
        assert_eq!(world.status(id, 7), SectorStatus::Faulty);
        assert_eq!(of(&world, id).fault_episodes, episode);
        // It says that it recovers and does not: the same episode.
        let (provider, sectors) = (id, vec![SectorNumber(7)]);
        let recover = Message::DeclareRecovered { provider, sectors };
        world.must(&owner, recover.clone());
        world.run_to(world.next_close(id, 7));
        world.must(&owner, recover);
        world.run_proving(world.next_close(id, 7), &all);
        assert_eq!(world.status(id, 7), SectorStatus::Active);
        assert_eq!(of(&world, id).fault_episodes, episode);
    }
    world.run_proving(world.epoch.after(EpochCount(100)), &all);
    // Proven, then twice: declared, missed, proven. 4096; -256, -240; 3600 + 3871; -467, -438; 6566 + 3685.
    let record = of(&world, id);
    assert_eq!((record.uptime.q16(), record.periods), (10_251, 7));
}

/// A sector that is left out takes its deadline's close with it, and no other one.
#[test]
fn a_skipped_sector_makes_its_deadlines_close_unproven() {
    let owner = key(10);
    let mut world = World::new(
        ChainParams::devnet(),
        &[(address(&owner), 50_000_000 * TOKEN)],
    );
    let id = world.register(&owner, 10_000_000 * TOKEN);
    let (close, _, lost) = world.neighbours(&owner, id);
    let mut twin = world.clone();
    twin.run_proving(close, &[(&owner, id, &[])]);
    world.run_proving(close, &[(&owner, id, &[lost])]);
    let (whole, record) = (of(&twin, id), of(&world, id));
    assert_eq!(whole.periods, record.periods);
    // If its period ended with that close, the uptime shows it, else the closes under way.
    let less = whole.under_way.proven - record.under_way.proven;
    let lower = record.uptime < whole.uptime;
    assert!((less, lower) == (1, false) || (less, lower) == (0, true));
}

/// The wrong proof is found after its close, in the next period: the close is taken back.
#[test]
fn tm_p21_a_disputed_proof_is_no_proven_close() {
    let (owner, mut world, id) = proven(ChainParams {
        verification: VerificationMode::Optimistic,
        ..ChainParams::devnet()
    });
    let post = wrong_post(&mut world, id);
    world.must(&owner, post);
    let post = stored(&world);
    world.run_to(post.close);
    let counted = |world: &World| {
        let record = of(world, id);
        record.periods + record.under_way.proven
    };
    assert_eq!(counted(&world), 2, "nobody has said yet that it is wrong");
    let finder = key(11);
    world.must(&finder, announce(&post, &finder));
    world.must(&finder, dispute_of(post));
    // The sector is gone after three more closes; by then all periods are over.
    world.run_to(post.close.after(EpochCount(600)));
    assert_eq!(world.status(id, 7), SectorStatus::FaultTimeout);
    let record = of(&world, id);
    // 4096, and four closes that nobody proved.
    assert_eq!((record.uptime.q16(), record.periods), (3_164, 5));
}

/// 500 epochs come in one block, and no window in them had its lit epochs: nobody's name suffers.
#[test]
fn an_outage_costs_no_uptime() {
    let (owner, mut world, id) = proven(ChainParams::devnet());
    let all = [(&owner, id, [].as_slice())];
    world.block_at(world.epoch.after(EpochCount(500)), u64::MAX, vec![]);
    world.run_proving(world.epoch.after(EpochCount(400)), &all);
    let record = of(&world, id);
    assert_eq!(record.under_way.due, record.under_way.proven);
    assert!(record.periods >= 3, "{record:?}");
    assert_eq!(record.uptime.q16(), RISING[record.periods as usize]);
    assert_eq!(record.fault_episodes, 0);
}
