//! Grinding (`chain.md` §4; threat model P7, V5): what may be chosen is chosen before its challenge exists, and trying again costs
//! more than it saves. One test for each rule of lookback and cut-off; who proposes blocks cannot bend a value ([`super::outages`]).

use chain_lite::account::ProviderId;
use chain_lite::error::ErrorCode;
use chain_lite::message::Message;
use chain_lite::params::ChainParams;
use chain_lite::query::{self, SectorStatus};
use chain_lite::randomness::{Tag, rand};
use chain_lite::sector::deadline::Window;
use chain_lite::units::{Epoch, EpochCount};
use ed25519_dalek::SigningKey;
use prover::{SectorNumber, SectorSize, Ticket};

use crate::world::{TOKEN, World, address, digest, draw, key};

fn provider() -> (World, SigningKey, ProviderId) {
    let owner = key(10);
    let accounts = [(address(&owner), 50_000_000 * TOKEN)];
    let mut world = World::new(ChainParams::devnet(), &accounts);
    let id = world.register(&owner, 20_000_000 * TOKEN);
    (world, owner, id)
}

/// A pre-commitment of the next block with a ticket of this epoch.
fn with_ticket(world: &World, id: ProviderId, number: u64, epoch: Epoch) -> Message {
    let mut msg = world.precommit_msg(id, number, vec![]);
    if let Message::PreCommit { ticket_epoch, .. } = &mut msg {
        *ticket_epoch = epoch;
    }
    msg
}

/// `now - TICKET_MAX_AGE <= ticket_epoch < now`, to the epoch.
#[test]
fn tm_p7_a_ticket_is_neither_too_new_nor_too_old() {
    let (mut world, owner, id) = provider();
    world.run_to(Epoch(300));
    let (now, oldest) = (301, 301 - world.params.ticket_max_age.0);
    let fails = |epoch: u64, code: ErrorCode| {
        let mut world = world.clone();
        let msg = with_ticket(&world, id, 0, Epoch(epoch));
        world.fails(&owner, msg, code);
    };
    for new in [now, now + 1, u64::MAX] {
        fails(new, ErrorCode::TooEarly);
    }
    for old in [oldest - 1, 1, 0] {
        fails(old, ErrorCode::TooLate);
    }
    for good in [oldest, now - 1] {
        let mut world = world.clone();
        world.must(&owner, with_ticket(&world, id, 0, Epoch(good)));
    }
}

/// A replica made with a ticket of another chain, of another epoch or of another provider does not prove here.
#[test]
fn tm_p7_a_ticket_of_a_fork_does_not_prove() {
    let (mut world, owner, id) = provider();
    world.run_to(Epoch(50));
    let (epoch, entropy) = (Epoch(40), id.0.to_be_bytes());
    world.must(&owner, with_ticket(&world, id, 0, epoch));
    world.run_to(world.epoch.after(world.params.seed_delay));
    let proof = |ticket: [u8; 32]| {
        let mut statement = world.porep_statement(id, 0);
        statement.ticket = Ticket(ticket);
        Message::ProveCommit {
            provider: id,
            sector: SectorNumber(0),
            proof: digest(&statement),
        }
    };
    let forked = rand(Tag::Ticket, &[7; 32], epoch, &entropy);
    let foreign = draw(Tag::Ticket, epoch, ProviderId(id.0 + 1));
    for wrong in [
        forked,
        foreign,
        draw(Tag::Ticket, Epoch(41), id),
        draw(Tag::SealSeed, epoch, id),
    ] {
        world
            .clone()
            .fails(&owner, proof(wrong), ErrorCode::BadProof);
    }
    world
        .clone()
        .must(&owner, proof(draw(Tag::Ticket, epoch, id)));
}

/// While the beacon is away there is no ticket of the present, and no other epoch's value stands in for it.
#[test]
fn tm_v5_an_epoch_without_a_beacon_gives_no_ticket_and_no_seed() {
    let (mut world, owner, id) = provider();
    world.run_to(Epoch(50));
    let known = world.epoch;
    world.must(&owner, with_ticket(&world, id, 0, known));
    let seed = world.epoch.after(world.params.seed_delay);
    while world.epoch < seed.after(EpochCount(10)) {
        world.block_at(world.epoch.next(), 0, vec![]);
    }
    let tip = world.net().beacon_tip;
    assert!(tip < seed);
    // Blocks without entries: a message in the next one, whose own beacon is missing too.
    let judged = |world: &World, msg: Message| {
        let mut world = world.clone();
        let tx = world.tx(&owner, 0, vec![msg]);
        let receipts = world.block_at(world.epoch.next(), 0, vec![tx]);
        receipts[0].error().map(|error| error.code())
    };
    let ticket = |epoch| with_ticket(&world, id, 1, epoch);
    assert_eq!(
        judged(&world, ticket(tip.next())),
        Some(ErrorCode::TooEarly)
    );
    assert_eq!(
        judged(&world, ticket(world.epoch)),
        Some(ErrorCode::TooEarly)
    );
    assert_eq!(judged(&world, ticket(tip)), None);
    let early = world.prove_msg(id, 0);
    assert_eq!(judged(&world, early), Some(ErrorCode::TooEarly));
    world.block_at(world.epoch.next(), u64::MAX, vec![]);
    world.must(&owner, world.prove_msg(id, 0));
}

/// The seed is of `pc + SEED_DELAY`: nobody knows it when the replica is fixed, and no proof is taken before it is there. A number
/// that was pre-committed is not pre-committed again, while it waits or after.
#[test]
fn tm_p7_the_seed_comes_after_the_replica_and_there_is_no_second_try() {
    let (mut world, owner, id) = provider();
    world.run_to(Epoch(50));
    world.must(&owner, world.precommit_msg(id, 0, vec![]));
    let seed = world.epoch.after(world.params.seed_delay);
    while world.epoch < seed {
        assert_eq!(
            query::beacon(&world.state, seed),
            Ok(None),
            "{}",
            world.epoch
        );
        let mut early = world.clone();
        early.fails(&owner, early.prove_msg(id, 0), ErrorCode::TooEarly);
        world.run_to(world.epoch.next());
    }
    let again = |world: &World| world.precommit_msg(id, 0, vec![]);
    world
        .clone()
        .fails(&owner, again(&world), ErrorCode::Duplicate);
    world.clone().must(&owner, world.prove_msg(id, 0));
    world.run_to(seed.after(world.params.precommit_max));
    assert_eq!(world.status(id, 0), SectorStatus::NeverProven);
    let renewed = again(&world);
    world.fails(&owner, renewed, ErrorCode::Duplicate);
}

/// A provider that keeps pre-committing until the challenges miss the part that it does not keep pays a deposit for each seed it
/// does not like. For every size of that part, what the tries cost is more than what the part could ever be worth: all that a
/// sector earns in the longest life, in proportion.
#[test]
fn tm_p7_aborted_commits_cost_more_than_they_save() {
    let (mut world, owner, id) = provider();
    let burnt = world.net().burnt.0;
    let mut deposits = 0;
    for number in 0..5 {
        world.must(&owner, world.precommit_msg(id, number, vec![]));
        deposits += world.sector(id, number).deposit.expect("pre-committed").0;
    }
    world.run_to(
        world
            .epoch
            .after(EpochCount(world.params.precommit_max.0 + 1)),
    );
    assert_eq!(world.net().burnt.0 - burnt, deposits);
    assert_eq!(world.net().raw_power.0, 0);

    let params = ChainParams::production();
    let life_days = (params.max_sector_life.0 / params.day.0) as f64;
    let deposit_days = params.precommit_days as f64;
    for size in [SectorSize::Gib32, SectorSize::Gib64] {
        assert!(params.sector_sizes.contains(&size));
        let challenges = (size.partitions() * size.challenges_per_partition()) as i32;
        for missing in (1..1_000).map(|permille| f64::from(permille) / 1_000.0) {
            let tries = (1.0 - missing).powi(-challenges);
            let (cost, gain) = ((tries - 1.0) * deposit_days, missing * life_days);
            assert!(cost > gain, "{missing}: {cost} days for {gain}");
        }
    }
}

/// The window that a change made in the next block would count for.
fn window_of(world: &World, id: ProviderId, number: u64) -> Window {
    let deadline = world.sector(id, number).deadline.expect("live");
    world.deadlines(id)[usize::from(deadline)].window
}

/// At every epoch of a period: whoever may still declare a fault or a recovery does not know the challenge of that window, and a
/// sector that is committed now does not know the first challenge that it will face.
#[test]
fn tm_v5_nothing_is_declared_or_committed_once_its_challenge_is_known() {
    let (mut world, owner, id) = provider();
    world.commit(&owner, id, 0, vec![]);
    let close = world.next_close(id, 0);
    world.run_proving(close, &[(&owner, id, &[])]);
    world.commit(&owner, id, 1, vec![]);
    let close = world.next_close(id, 1);
    world.run_proving(close, &[(&owner, id, &[])]);
    let until = world.epoch.after(world.params.proving_period);
    let (mut declared, mut refused) = (0, 0);
    while world.epoch < until {
        let now = world.epoch.next();
        let mut other = world.clone();
        let sectors = vec![SectorNumber(0)];
        let msg = Message::DeclareFaults {
            provider: id,
            sectors,
        };
        match other.send(&owner, msg) {
            Ok(_) => {
                let window = window_of(&other, id, 0);
                assert!(now < window.challenge, "{now}: {window:?}");
                assert_eq!(query::beacon(&other.state, window.challenge), Ok(None));
                let sectors = vec![SectorNumber(0)];
                let back = Message::DeclareRecovered {
                    provider: id,
                    sectors,
                };
                if other.send(&owner, back).is_ok() {
                    assert!(other.epoch < window_of(&other, id, 0).challenge);
                }
                declared += 1;
            }
            Err(error) => {
                assert_eq!(error.code(), ErrorCode::DeadlineClosed);
                refused += 1;
            }
        }
        let mut fresh = world.clone();
        fresh.commit(&owner, id, 2, vec![]);
        let window = window_of(&fresh, id, 2);
        assert!(fresh.epoch < window.challenge, "{window:?}");
        assert_eq!(query::beacon(&fresh.state, window.challenge), Ok(None));
        world.run_proving(now, &[(&owner, id, &[])]);
    }
    let closed = world.params.window().0 + world.params.fault_cutoff.0;
    assert_eq!(
        (declared, refused),
        (world.params.proving_period.0 - closed, closed)
    );
}

/// Constants under which a challenge would be known too early make no chain.
#[test]
fn tm_v5_parameters_keep_challenges_behind_choices() {
    let refused = |change: fn(&mut ChainParams)| {
        for mut params in [ChainParams::devnet(), ChainParams::production()] {
            assert!(params.check().is_ok());
            change(&mut params);
            assert!(params.check().is_err());
        }
    };
    refused(|p| p.post_lookback = p.fault_cutoff);
    refused(|p| p.post_lookback = p.seed_delay);
    refused(|p| p.post_lookback = p.window());
    refused(|p| p.post_lookback = EpochCount(0));
    refused(|p| p.seed_delay = EpochCount(0));
    refused(|p| p.seed_delay = p.precommit_max);
    refused(|p| p.ticket_max_age = EpochCount(0));
    refused(|p| p.fault_cutoff = EpochCount(p.proving_period.0 - p.window().0 + 1));
}
