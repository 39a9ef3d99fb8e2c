//! Optimistic verification (`chain.md` §7): what is taken unverified, who may dispute it, and what that costs and pays.

use chain_lite::account::ProviderId;
use chain_lite::error::ErrorCode;
use chain_lite::events::{Event, FaultReason};
use chain_lite::message::Message;
use chain_lite::params::{ChainParams, VerificationMode};
use chain_lite::query::SectorStatus;
use chain_lite::sector::dispute::{self, PostId};
use chain_lite::units::{Epoch, EpochCount, TokenAmount};
use ed25519_dalek::SigningKey;
use prover::SectorNumber;

use crate::world::{Stub, TOKEN, World, address, key};

const SALT: [u8; 32] = [5; 32];

/// An optimistic chain with one active sector and four validators' accounts.
fn optimistic() -> (World, SigningKey, ProviderId, Vec<SigningKey>) {
    optimistic_with(ChainParams::devnet())
}

fn optimistic_with(params: ChainParams) -> (World, SigningKey, ProviderId, Vec<SigningKey>) {
    let owner = key(10);
    let validators: Vec<SigningKey> = (30..34).map(key).collect();
    let mut accounts = vec![(address(&owner), 50_000_000 * TOKEN)];
    accounts.extend(validators.iter().map(|key| (address(key), TOKEN)));
    let params = ChainParams {
        verification: VerificationMode::Optimistic,
        ..params
    };
    let mut world = World::new(params, &accounts);
    let id = world.register(&owner, 10_000_000 * TOKEN);
    world.commit(&owner, id, 0, vec![]);
    let close = world.next_close(id, 0);
    world.run_proving(close, &[(&owner, id, &[])]);
    assert_eq!(world.status(id, 0), SectorStatus::Active);
    (world, owner, id, validators)
}

/// Waits for the next open deadline and gives its post, with a proof that is wrong.
pub fn wrong_post(world: &mut World, id: ProviderId) -> Message {
    loop {
        if let Some(Message::SubmitPost {
            provider,
            deadline,
            partition,
            skipped,
            mut proof,
        }) = world.due_posts(id, &[]).pop()
        {
            proof[0] ^= 1;
            return Message::SubmitPost {
                provider,
                deadline,
                partition,
                skipped,
                proof,
            };
        }
        world.block(vec![]);
    }
}

pub fn stored(world: &World) -> PostId {
    let mut found = world.events.iter().filter_map(|e| PostId::of(&e.event));
    found.next().expect("a post was stored")
}

pub fn announce(post: &PostId, by: &SigningKey) -> Message {
    Message::AnnounceDispute {
        digest: post.digest(&address(by), &SALT),
    }
}

pub fn dispute_of(post: PostId) -> Message {
    Message::Dispute { post, salt: SALT }
}

#[test]
fn a_sound_proof_is_taken_unverified_and_forgotten_after_its_window() {
    let (mut world, owner, id, validators) = optimistic();
    while world.due_posts(id, &[]).is_empty() {
        world.block(vec![]);
    }
    let post = world.due_posts(id, &[]).remove(0);
    world.must(&owner, post);
    let post = stored(&world);
    assert!(world.provider(id).at_stake.0 > 0);
    assert_eq!(
        dispute::wrong_posts(&world.state, &Stub, &world.events),
        Ok(vec![])
    );
    // Disputing it costs nobody but the disputer.
    let disputer = &validators[0];
    world.must(disputer, announce(&post, disputer));
    let error = world.fails(disputer, dispute_of(post), ErrorCode::NotAllowed);
    assert!(error.to_string().contains("verifies"), "{error}");
    assert_eq!(world.status(id, 0), SectorStatus::Active);

    world.run_to(post.close.after(world.params.dispute_window));
    assert!(
        dispute::stored(&world.state, &post)
            .expect("memory")
            .is_some()
    );
    world.run_to(world.epoch.next());
    assert_eq!(dispute::stored(&world.state, &post), Ok(None));
    assert_eq!(world.provider(id).at_stake.0, 0);
    // Its announcement went too.
    world.must(disputer, announce(&post, disputer));
    world.fails(disputer, dispute_of(post), ErrorCode::NotFound);
}

/// Nobody starts to earn by a proof that nobody verified: neither the first one nor that of a recovery.
#[test]
fn a_proof_that_activates_is_verified_at_once() {
    let (mut world, owner, id, _) = optimistic();
    world.commit(&owner, id, 1, vec![]);
    let close = world.next_close(id, 1);
    while world.epoch < close {
        for post in world.due_posts(id, &[]) {
            let Message::SubmitPost { deadline, .. } = &post else {
                panic!("a post");
            };
            let activates = world.sector(id, 1).deadline == Some(*deadline);
            let mut wrong = post;
            if let Message::SubmitPost { proof, .. } = &mut wrong {
                proof[0] ^= 1;
            }
            let taken = world.send(&owner, wrong);
            assert_eq!(taken.is_err(), activates, "{taken:?}");
        }
        if world.epoch < close {
            world.block(vec![]);
        }
    }
    assert_eq!(world.status(id, 1), SectorStatus::Faulty);
    let declare = Message::DeclareRecovered {
        provider: id,
        sectors: vec![SectorNumber(1)],
    };
    while world.send(&owner, declare.clone()).is_err() {}
    let at = world.sector(id, 1).deadline.expect("live");
    while !world.deadlines(id)[usize::from(at)].is_open {
        world.block(vec![]);
    }
    let wrong = loop {
        let post = wrong_post(&mut world, id);
        if matches!(&post, Message::SubmitPost { deadline, .. } if *deadline == at) {
            break post;
        }
        world.must(&owner, post);
    };
    world.fails(&owner, wrong, ErrorCode::BadProof);
}

/// Three of four validators look away. The fourth verifies what each block stored, and the wrong proof is gone, its sector
/// faulty from that deadline on, the provider charged, before the window closes.
#[test]
fn tm_p21_one_honest_validator_removes_a_wrong_proof_in_its_window() {
    let (mut world, owner, id, validators) = optimistic();
    let honest = &validators[3];
    let post = wrong_post(&mut world, id);
    world.must(&owner, post);
    let (rate, view) = (world.net().rpp, world.sector(id, 0));
    let found = dispute::wrong_posts(&world.state, &Stub, &world.events).expect("memory");
    let [post] = found[..] else {
        panic!("one wrong post: {found:?}");
    };
    // The period is over and paid before the dispute comes.
    world.run_to(post.close);
    assert_eq!(world.status(id, 0), SectorStatus::Active);
    world.must(honest, announce(&post, honest));
    let (before, burnt) = (world.provider(id), world.net().burnt.0);
    world.must(honest, dispute_of(post));

    // min(BR(qa, 5.51 D), IP/10), at the rate of the post; a tenth to the finder, the rest burnt.
    let power = view.power.expect("live").0;
    let expected =
        ((power * rate * (120 * 551 / 100)) >> 32).min(view.pledge.expect("live").0 / 10);
    let after = world.provider(id);
    let earned = before.claimable.0 + before.balance.0;
    assert!(expected > 0 && after.fee_debt.0 == 0);
    let charged = world.events.iter().find_map(|e| match e.event {
        Event::PostDisputed {
            charged, reward, ..
        } => Some((charged.0, reward.0)),
        _ => None,
    });
    assert_eq!(charged, Some((expected, expected / 10)));
    assert_eq!(world.free(honest).0, TOKEN + expected / 10);
    assert_eq!(world.net().burnt.0 - burnt, expected - expected / 10);
    // One epoch's reward came in between.
    assert!(
        after.balance.0 >= earned - expected
            && after.balance.0 < before.balance.0 + before.claimable.0
    );
    assert_eq!((after.power.0, after.at_stake.0), (0, 0));
    assert_eq!(world.status(id, 0), SectorStatus::Faulty);
    assert_eq!(world.sector(id, 0).faulty_since, Some(post.close));
    assert!(world.epoch <= post.close.after(world.params.dispute_window));
    let faulted = Event::SectorFaulted {
        provider: id,
        sector: SectorNumber(0),
        reason: FaultReason::Disputed,
    };
    assert!(world.events.iter().any(|e| e.event == faulted));
    world.fails(honest, dispute_of(post), ErrorCode::NotFound);

    // The fault counts from that deadline: the next close charges its fee, the third period ends the sector.
    world.run_to(post.close.after(EpochCount(120)));
    let fees = |world: &World| {
        let fee = |(_, event): &&(Epoch, Event)| matches!(event, Event::FaultFee { .. });
        world.history.iter().filter(fee).count()
    };
    assert_eq!(fees(&world), 1);
    world.run_to(post.close.after(EpochCount(360)));
    assert_eq!(world.status(id, 0), SectorStatus::FaultTimeout);
}

/// Found while the deadline is open: the period is not paid, the first close is free, as for a skipped sector.
#[test]
fn a_dispute_before_the_close() {
    let (mut world, owner, id, validators) = optimistic();
    let post = wrong_post(&mut world, id);
    world.must(&owner, post);
    let post = stored(&world);
    world.must(&validators[0], announce(&post, &validators[0]));
    world.must(&validators[0], dispute_of(post));
    assert!(world.epoch < post.close);
    // No second proof in the same window.
    assert_eq!(world.due_posts(id, &[]).len(), 0);
    world.run_to(post.close);
    assert_eq!(world.sector(id, 0).faulty_since, Some(post.close));
    let charged = world
        .history
        .iter()
        .any(|(_, event)| matches!(event, Event::FaultFee { .. }));
    assert!(!charged);
}

/// Copies of a dispute or of its announcement, under other keys and ahead of the original, gain nothing and take nothing.
#[test]
fn tm_v9_a_copied_dispute_gains_nothing() {
    let (mut world, owner, id, validators) = optimistic();
    let [finder, thief, ..] = &validators[..] else {
        panic!("four validators");
    };
    let post = wrong_post(&mut world, id);
    world.must(&owner, post);
    let post = stored(&world);
    // Without an announcement, or with one made in the same block, there is no dispute.
    world.fails(finder, dispute_of(post), ErrorCode::NotFound);
    let both = world.tx(finder, 0, vec![announce(&post, finder), dispute_of(post)]);
    let receipt = world.block(vec![both]).remove(0);
    assert_eq!(receipt.error().map(|e| e.code()), Some(ErrorCode::TooEarly));

    // The thief copies the announcement, and later the dispute, each time ahead of the original.
    let original = announce(&post, finder);
    let txs = vec![
        world.tx(thief, 0, vec![original.clone()]),
        world.tx(finder, 0, vec![original.clone()]),
    ];
    assert!(world.block(txs).iter().all(|receipt| receipt.succeeded()));
    world.fails(finder, original, ErrorCode::Duplicate);
    let txs = vec![
        world.tx(thief, 0, vec![dispute_of(post)]),
        world.tx(finder, 0, vec![dispute_of(post)]),
    ];
    let receipts = world.block(txs);
    assert_eq!(
        receipts[0].error().map(|e| e.code()),
        Some(ErrorCode::NotFound)
    );
    assert!(receipts[1].succeeded(), "{:?}", receipts[1]);
    assert_eq!(world.free(thief).0, TOKEN);
    assert!(world.free(finder).0 > TOKEN);
}

/// Ending the sector and taking the money away before the dispute comes does not work.
#[test]
fn tm_p20_the_stake_outlives_the_sector() {
    let (mut world, owner, id, validators) = optimistic();
    let post = wrong_post(&mut world, id);
    world.must(&owner, post);
    let post = stored(&world);
    let stake = world.provider(id).at_stake;
    world.run_to(post.close);
    let terminate = Message::Terminate {
        provider: id,
        sector: SectorNumber(0),
    };
    while world.send(&owner, terminate.clone()).is_err() {}
    let view = world.provider(id);
    assert_eq!((view.pledge.0, view.at_stake), (0, stake));
    let withdraw = |amount: u128| Message::ProviderWithdraw {
        provider: id,
        amount: TokenAmount(amount),
    };
    // All of it but what vests later; the queue is brought up to date first, so ask for the exact rest.
    world.fails(
        &owner,
        withdraw(view.available.0),
        ErrorCode::InsufficientFunds,
    );
    world.must(&owner, withdraw(view.available.0 - stake.0));
    let left = world.provider(id);
    assert!(left.available.0 >= stake.0);
    world.must(&validators[0], announce(&post, &validators[0]));
    let burnt = world.net().burnt.0;
    world.must(&validators[0], dispute_of(post));
    let paid = world.free(&validators[0]).0 - TOKEN + world.net().burnt.0 - burnt;
    assert_eq!(paid, stake.0);
    assert_eq!(world.provider(id).fee_debt.0, 0);
    assert_eq!(world.status(id, 0), SectorStatus::Terminated);
}

/// A provider that took everything out before: the fault and the debt stand, the pledge is untouched, and the reward is what
/// little there is.
#[test]
fn a_reward_is_paid_from_loose_money_only() {
    // Nothing vests, so that nothing is left to take when it has been withdrawn.
    let params = ChainParams {
        vest_quarters: 0,
        ..ChainParams::devnet()
    };
    let (mut world, owner, id, validators) = optimistic_with(params);
    let disputer = &validators[1];
    let post = wrong_post(&mut world, id);
    let view = world.provider(id);
    assert_eq!(view.at_stake.0, 0);
    let amount = TokenAmount(view.available.0 + view.claimable.0);
    world.must(
        &owner,
        Message::ProviderWithdraw {
            provider: id,
            amount,
        },
    );
    world.must(&owner, post);
    let post = stored(&world);
    let stake = world.provider(id).at_stake.0;
    world.must(disputer, announce(&post, disputer));
    world.must(disputer, dispute_of(post));
    let view = world.provider(id);
    let reward = world.free(disputer).0 - TOKEN;
    assert!(reward > 0 && reward < stake / 10, "{reward} of {stake}");
    assert_eq!(view.fee_debt.0, stake - reward);
    assert_eq!((view.balance, view.available.0), (view.pledge, 0));
    // It is paid back from what comes later.
    let amount = TokenAmount(2 * stake);
    world.must(
        &owner,
        Message::ProviderDeposit {
            provider: id,
            amount,
        },
    );
    assert_eq!(world.provider(id).fee_debt.0, 0);
}
