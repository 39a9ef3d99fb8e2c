//! Rows of `threat-model.md` that the state machine answers.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use chain_lite::account::{Address, ChainId, DealId, ProviderId};
use chain_lite::deal::DealStatus;
use chain_lite::error::{ChainError, ErrorCode, Subject};
use chain_lite::execute::{ProofError, ProofVerifier, apply};
use chain_lite::message::{
    DealProposal, Message, Signature, SignedProposal, SignedTx, verify_strict,
};
use chain_lite::params::ChainParams;
use chain_lite::proofs::{Claim, apply_together};
use chain_lite::query::SectorStatus;
use chain_lite::units::{EpochCount, TokenAmount};
use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use prover::piece::layout;
use prover::verify::{PorepStatement, WindowPostStatement};
use prover::{CommD, CommP, PaddedPieceSize, PieceInfo, PostRandomness, SealVersion, SectorNumber};

use crate::world::{SIZE, Stub, TOKEN, World, address, digest, key};

const RICH: u128 = 50_000_000 * TOKEN;

fn market() -> (World, SigningKey, SigningKey, ProviderId) {
    market_with(&[])
}

/// With more people who have money from the start.
fn market_with(others: &[&SigningKey]) -> (World, SigningKey, SigningKey, ProviderId) {
    let (client, owner) = (key(1), key(10));
    let people = [&client, &owner].into_iter().chain(others.iter().copied());
    let accounts: Vec<_> = people.map(|key| (address(key), RICH)).collect();
    let mut world = World::new(ChainParams::devnet(), &accounts);
    let id = world.register(&owner, 10_000_000 * TOKEN);
    world.fund_market(&client, 1_000 * TOKEN);
    world.fund_market(&owner, 10_000_000 * TOKEN);
    (world, client, owner, id)
}

/// One replica, many claims: a CommR lives once, a number is used once for ever.
#[test]
fn tm_p3_a_replica_and_a_number_count_once() {
    let other_owner = key(11);
    let (mut world, _, owner, id) = market_with(&[&other_owner]);
    let other = world.register(&other_owner, 10_000_000 * TOKEN);
    world.commit(&owner, id, 0, vec![]);
    let live = world.sector(id, 0).comm_r;
    let claim = |world: &World, provider, number| {
        let mut msg = world.precommit_msg(provider, number, vec![]);
        if let Message::PreCommit { comm_r, .. } = &mut msg {
            *comm_r = live;
        }
        msg
    };
    for (by, provider, number) in [(&owner, id, 1), (&other_owner, other, 0)] {
        let error = world.fails(by, claim(&world, provider, number), ErrorCode::Duplicate);
        assert_eq!(
            error,
            ChainError::Duplicate {
                what: Subject::CommR
            }
        );
    }
    // Two pre-commitments of one CommR: only one can be proven.
    let mut twin = world.precommit_msg(id, 3, vec![]);
    let Message::PreCommit { comm_r: second, .. } = world.precommit_msg(id, 2, vec![]) else {
        unreachable!()
    };
    if let Message::PreCommit { comm_r, .. } = &mut twin {
        *comm_r = second;
    }
    world.must(&owner, world.precommit_msg(id, 2, vec![]));
    world.must(&owner, twin);
    world.run_to(world.epoch.after(EpochCount(5)));
    world.must(&owner, world.prove_msg(id, 2));
    world.fails(&owner, world.prove_msg(id, 3), ErrorCode::Duplicate);
    // After its end a number stays spent, while the replica may be committed to again under another number.
    while world
        .send(
            &owner,
            Message::Terminate {
                provider: id,
                sector: SectorNumber(0),
            },
        )
        .is_err()
    {}
    assert_eq!(world.status(id, 0), SectorStatus::Terminated);
    world.fails(
        &owner,
        world.precommit_msg(id, 0, vec![]),
        ErrorCode::Duplicate,
    );
    world.fails(&owner, claim(&world, id, 0), ErrorCode::Duplicate);
    world.must(&owner, claim(&world, id, 9));
}

/// One valid proof, each bound field changed: refused every time.
#[test]
fn tm_p10_a_proof_proves_its_own_statement_only() {
    let (mut world, _, owner, id) = market();
    world.must(&owner, world.precommit_msg(id, 0, vec![]));
    world.run_to(world.epoch.after(EpochCount(4)));
    let truth = world.porep_statement(id, 0);
    let changes: [fn(&mut PorepStatement); 8] = [
        |s| s.seal.version = SealVersion::V1,
        |s| s.seal.size = prover::SectorSize::Mib8,
        |s| s.prover = ProviderId(1001).prover_id(),
        |s| s.sector = SectorNumber(1),
        |s| s.ticket.0[0] ^= 1,
        |s| s.seed.0[0] ^= 1,
        |s| s.comm_d.0[0] ^= 1,
        |s| s.comm_r.0[0] ^= 1,
    ];
    for change in changes {
        let mut other = truth.clone();
        change(&mut other);
        let msg = Message::ProveCommit {
            provider: id,
            sector: SectorNumber(0),
            proof: digest(&other),
        };
        world.fails(&owner, msg, ErrorCode::BadProof);
    }
    // A proof of another type for the same sector.
    let post = WindowPostStatement {
        size: SIZE,
        prover: id.prover_id(),
        randomness: PostRandomness::masked(truth.seed.0),
        sectors: vec![(SectorNumber(0), truth.comm_r)],
    };
    let msg = Message::ProveCommit {
        provider: id,
        sector: SectorNumber(0),
        proof: digest(&post),
    };
    world.fails(&owner, msg, ErrorCode::BadProof);
    let good = world.prove_msg(id, 0);
    world.must(&owner, good.clone());
    world.fails(&owner, good, ErrorCode::Duplicate);

    // Window PoSt: another period's, another partition's statement, a sector more or less.
    let close = world.next_close(id, 0);
    let deadline = world.sector(id, 0).deadline.expect("live");
    world.run_to(close.before(EpochCount(20)));
    let truth = world.post_statement(id, deadline, 0, &[]);
    let changes: [fn(&mut WindowPostStatement); 6] = [
        |s| s.size = prover::SectorSize::Mib8,
        |s| s.prover = ProviderId(1001).prover_id(),
        |s| s.randomness = PostRandomness::masked([7; 32]),
        |s| s.sectors[0].0 = SectorNumber(1),
        |s| s.sectors[0].1.0[0] ^= 1,
        |s| s.sectors.push((SectorNumber(1), s.sectors[0].1)),
    ];
    for change in changes {
        let mut other = truth.clone();
        change(&mut other);
        let (provider, partition, skipped) = (id, 0, vec![]);
        let msg = Message::SubmitPost {
            provider,
            deadline,
            partition,
            skipped,
            proof: digest(&other),
        };
        world.fails(&owner, msg, ErrorCode::BadProof);
    }
    let good = world.post_msg(id, deadline, 0, &[]);
    world.must(&owner, good.clone());
    world.fails(&owner, good.clone(), ErrorCode::Duplicate);
    // The same bytes one period later.
    world.run_to(close.after(EpochCount(100)));
    world.fails(&owner, good, ErrorCode::BadProof);
    world.must(&owner, world.post_msg(id, deadline, 0, &[]));
}

/// Other bytes that verify for the same statement change nothing: what counts is the statement.
#[test]
fn tm_p11_a_second_form_of_an_accepted_proof_changes_nothing() {
    let (mut world, _, owner, id) = market();
    world.must(&owner, world.precommit_msg(id, 0, vec![]));
    world.run_to(world.epoch.after(EpochCount(4)));
    let second_form = |msg: &Message| {
        let mut msg = msg.clone();
        if let Message::ProveCommit { proof, .. } | Message::SubmitPost { proof, .. } = &mut msg {
            proof[32] ^= 0xff;
        }
        msg
    };
    let porep = world.prove_msg(id, 0);
    world.must(&owner, second_form(&porep));
    world.fails(&owner, porep, ErrorCode::Duplicate);
    world.run_to(world.next_close(id, 0).before(EpochCount(20)));
    let post = world.due_posts(id, &[]).remove(0);
    world.must(&owner, post.clone());
    let power = world.provider(id).power;
    world.fails(&owner, second_form(&post), ErrorCode::Duplicate);
    assert_eq!(world.provider(id).power, power);
}

/// Two deals in one sector: the chain computes CommD itself, and any other arrangement of the pieces is refused.
#[test]
fn tm_p16_comm_d_is_that_of_the_listed_deals() {
    let (mut world, client, owner, id) = market();
    let mut deal = |size: u64| {
        let proposal = world.proposal(&client, id, size);
        let piece = proposal.piece();
        (
            world
                .publish(&owner, proposal.sign(&client))
                .expect("acceptable"),
            piece,
        )
    };
    let ((small, small_piece), (big, big_piece)) = (deal(256), deal(1024));
    let comm_d = |pieces: &[PieceInfo]| layout::comm_d(pieces, SIZE).expect("fits");
    let truth = comm_d(&[small_piece, big_piece]);
    let resized = |piece: PieceInfo, size: u64| PieceInfo {
        size: PaddedPieceSize::new(size).expect("power of two"),
        ..piece
    };
    let lies = [
        comm_d(&[big_piece, small_piece]),               // swapped
        comm_d(&[small_piece]),                          // one left out
        comm_d(&[resized(small_piece, 512), big_piece]), // size times two
        comm_d(&[resized(small_piece, 128), big_piece]), // size by two
        comm_d(&[
            PieceInfo {
                comm_p: big_piece.comm_p,
                ..small_piece
            },
            big_piece,
        ]), // another root
        comm_d(&[]),                                     // zero padding instead of the data
        CommD(small_piece.comm_p.0),                     // an inner node passed off as the root
    ];
    let claim = |world: &World, comm_d: CommD, deals: Vec<DealId>| {
        let mut msg = world.precommit_msg(id, 0, deals);
        if let Message::PreCommit { comm_d: field, .. } = &mut msg {
            *field = comm_d;
        }
        msg
    };
    for lie in lies {
        let error = world.fails(
            &owner,
            claim(&world, lie, vec![small, big]),
            ErrorCode::BadProof,
        );
        assert_eq!(
            error,
            ChainError::BadProof {
                what: Subject::CommD
            }
        );
    }
    // Too much for the sector: no layout, no CommD. (256 aligned to 2048 leaves no room for 2048.)
    let (whole, _) = {
        let proposal = world.proposal(&client, id, 2048);
        (
            world
                .publish(&owner, proposal.sign(&client))
                .expect("acceptable"),
            (),
        )
    };
    let mut both = claim(&world, truth, vec![small]);
    if let Message::PreCommit { deals, .. } = &mut both {
        deals.push(whole);
    }
    world.fails(&owner, both, ErrorCode::BadProof);
    world.must(&owner, claim(&world, truth, vec![small, big]));
    assert_eq!(world.deal(&small).sector, Some(SectorNumber(0)));
}

/// What a provider tries with its one sector around one deadline.
#[derive(Clone, Copy, Debug)]
enum Trick {
    Prove,
    Miss,
    DeclareThenMiss,
    RecoverThenProve,
    RecoverThenMiss,
    RecoverThenSkip,
}

/// The reference: states and charges of one sector by the words of `chain.md` §7, twenty lines, no code of the crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reference {
    faulty_periods: Option<u64>,
    charges: u64,
    ended: bool,
}

impl Reference {
    fn period(&mut self, trick: Trick) {
        let was_faulty = self.faulty_periods.is_some();
        let proven = match trick {
            Trick::Prove => !was_faulty,
            Trick::RecoverThenProve => true,
            _ => false,
        };
        if proven {
            self.faulty_periods = None;
            return;
        }
        // The first close of a fault is free, every later one costs a fee, the fourth ends the sector (3 periods of age).
        let age = self.faulty_periods.map_or(0, |age| age + 1);
        self.charges += u64::from(was_faulty);
        self.faulty_periods = Some(age);
        self.ended = age >= 3;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Declarations, skips and recoveries around deadlines: the sector's state, age of fault and number of charges follow
    /// the reference, and no sequence earns more than proving every time.
    #[test]
    fn tm_p19_deadline_games_do_not_pay(tricks in proptest::collection::vec(0u8..6, 1..7)) {
        let (honest_owner, owner) = (key(9), key(10));
        let accounts = [(address(&honest_owner), RICH), (address(&owner), RICH)];
        let mut world = World::new(ChainParams::devnet(), &accounts);
        let honest = world.register(&honest_owner, 20_000_000 * TOKEN);
        let id = world.register(&owner, 20_000_000 * TOKEN);
        world.commit(&honest_owner, honest, 0, vec![]);
        world.commit(&owner, id, 0, vec![]);
        // Both prove once.
        let first = world.next_close(honest, 0).max(world.next_close(id, 0));
        world.run_proving(first, &[(&honest_owner, honest, &[]), (&owner, id, &[])]);
        let worth = |world: &World, id| {
            let view = world.provider(id);
            (view.balance.0 + view.claimable.0).saturating_sub(view.fee_debt.0)
        };
        let start = (worth(&world, honest), worth(&world, id));
        let mut reference = Reference { faulty_periods: None, charges: 0, ended: false };
        let deadline = usize::from(world.sector(id, 0).deadline.expect("live"));
        // Begin each period right after the close of the deadline in question.
        let mut close = world.deadlines(id)[deadline].window.close;
        world.run_proving(close, &[(&honest_owner, honest, &[]), (&owner, id, &[])]);
        for trick in tricks {
            let trick = [Trick::Prove, Trick::Miss, Trick::DeclareThenMiss, Trick::RecoverThenProve,
                Trick::RecoverThenMiss, Trick::RecoverThenSkip][usize::from(trick)];
            let list = vec![SectorNumber(0)];
            match trick {
                Trick::DeclareThenMiss => {
                    let declared = world.send(&owner, Message::DeclareFaults { provider: id, sectors: list });
                    prop_assert_eq!(declared.is_ok(), reference.faulty_periods.is_none());
                }
                Trick::RecoverThenProve | Trick::RecoverThenMiss | Trick::RecoverThenSkip => {
                    let recovered = world.send(&owner, Message::DeclareRecovered { provider: id, sectors: list });
                    prop_assert_eq!(recovered.is_ok(), reference.faulty_periods.is_some());
                }
                Trick::Prove | Trick::Miss => {}
            }
            close = close.after(EpochCount(120));
            let proves = matches!(trick, Trick::Prove | Trick::RecoverThenProve);
            let mut provers: Vec<(&SigningKey, ProviderId, &[u64])> = vec![(&honest_owner, honest, &[])];
            if proves {
                provers.push((&owner, id, &[]));
            }
            world.run_proving(close, &provers);
            reference.period(trick);
            let charged = world.history.iter().filter(|(_, event)| matches!(event,
                chain_lite::events::Event::FaultFee { provider, .. } if *provider == id)).count();
            prop_assert_eq!(charged as u64, reference.charges, "{:?}", trick);
            let status = world.status(id, 0);
            if reference.ended {
                prop_assert_eq!(status, SectorStatus::FaultTimeout);
                break;
            }
            let age = world.sector(id, 0).faulty_since.map(|since| world.epoch.since(since).0 / 120);
            prop_assert_eq!(age, reference.faulty_periods, "{:?}", trick);
            prop_assert_eq!(status == SectorStatus::Active, reference.faulty_periods.is_none());
        }
        let gain = |end: u128, start: u128| end as i128 - start as i128;
        // A claim's rounding may differ by a unit at each claim.
        prop_assert!(gain(worth(&world, id), start.1) <= gain(worth(&world, honest), start.0) + 100);
    }
}

/// Withdrawing, terminating and changing keys do not escape what is owed: whatever the order, debt is secured by what is
/// locked, and the identity that owes it stays.
#[test]
fn tm_p20_debt_follows_the_provider_and_is_secured() {
    let (mut world, _, owner, id) = market();
    let heir = key(30);
    world.commit(&owner, id, 0, vec![]);
    world.commit(&owner, id, 1, vec![]);
    let free = world.provider(id).available;
    world.must(
        &owner,
        Message::ProviderWithdraw {
            provider: id,
            amount: free,
        },
    );
    world.must(
        &owner,
        Message::ChangeKeys {
            provider: id,
            worker: address(&heir),
            net_key: Default::default(),
        },
    );
    // Never proven: fees fall due. Pledge cannot leave, debt stays below it, nothing can be taken out.
    let pledge = world.provider(id).pledge;
    let end = world.epoch.after(EpochCount(470));
    let mut most = TokenAmount(0);
    while world.epoch < end {
        let _ = world.send(
            &owner,
            Message::ProviderWithdraw {
                provider: id,
                amount: TokenAmount(1),
            },
        );
        let view = world.provider(id);
        assert!(
            view.fee_debt.0 <= view.pledge.0 + view.vesting.0,
            "epoch {}: debt is not secured",
            world.epoch
        );
        most = most.max(view.fee_debt);
    }
    assert!(most.0 > 0 && most < pledge);
    world.run_to(world.epoch.after(EpochCount(200)));
    let view = world.provider(id);
    assert_eq!(
        (view.pledge.0, view.fee_debt.0),
        (0, 0),
        "terminated, and paid from its own pledge"
    );
    let charged = pledge.0 - view.available.0;
    // Three fees of 5 % each and a termination fee of 105 % of one.
    assert!(
        charged >= pledge.0 * 20 / 100 && charged <= pledge.0 * 235 / 1000,
        "{charged} of {pledge}"
    );
}

/// Money is locked in the step that publishes: many interleavings, never more locked than there is.
#[test]
fn tm_c1_escrow_is_spent_once() {
    let (mut world, client, owner, id) = market();
    // 1,000 tokens of escrow; each deal locks 240.
    let offers: Vec<SignedProposal> = (0..6)
        .map(|_| {
            let mut proposal = world.proposal(&client, id, 128);
            proposal.price = TokenAmount(TOKEN);
            proposal.sign(&client)
        })
        .collect();
    let txs = offers.iter().enumerate().map(|(ahead, offer)| {
        world.tx(
            &owner,
            ahead as u64,
            vec![Message::PublishDeals {
                provider: id,
                proposals: vec![offer.clone()],
            }],
        )
    });
    let mut txs: Vec<_> = txs.collect();
    txs.push(world.tx(
        &client,
        0,
        vec![Message::MarketWithdraw {
            amount: TokenAmount(100 * TOKEN),
        }],
    ));
    world.block(txs);
    let published = offers.iter().filter(|offer| {
        chain_lite::query::deal(&world.state, &offer.proposal.id())
            .expect("memory")
            .is_some()
    });
    assert_eq!(published.count(), 4);
    let market = world.market(&client);
    assert_eq!(
        (market.escrow.0, market.locked.0),
        (1_000 * TOKEN, 960 * TOKEN)
    );
    world.fails(
        &client,
        Message::MarketWithdraw {
            amount: TokenAmount(40 * TOKEN + 1),
        },
        ErrorCode::InsufficientFunds,
    );
    world.must(
        &client,
        Message::MarketWithdraw {
            amount: TokenAmount(40 * TOKEN),
        },
    );
}

/// The same proposal twice, after its end, on another chain, to another provider; and every field is in its id.
#[test]
fn tm_c2_a_proposal_counts_once() {
    let (mut world, client, owner, id) = market();
    let signed = world.proposal(&client, id, 128).sign(&client);
    world
        .publish(&owner, signed.clone())
        .expect("the first time");
    let again = ChainError::Duplicate {
        what: Subject::Deal,
    };
    assert_eq!(world.publish(&owner, signed.clone()), Err(again.clone()));
    // Twice in one message.
    let twin = world.proposal(&client, id, 128).sign(&client);
    let both = Message::PublishDeals {
        provider: id,
        proposals: vec![twin.clone(), twin],
    };
    assert!(format!("{:?}", world.must(&owner, both)).contains("Duplicate"));
    world.run_to(signed.proposal.start.after(EpochCount(1)));
    assert_eq!(
        world.deal_status(&signed.proposal.id()),
        DealStatus::Slashed
    );
    let late = world.publish(&owner, signed.clone());
    assert_eq!(late, Err(again), "an ended deal's id stays used");
    let changes: [fn(&mut DealProposal); 15] = [
        |p| p.chain_id = ChainId([1; 32]),
        |p| p.client = Address([1; 32]),
        |p| p.provider = ProviderId(1),
        |p| p.piece_commp = CommP([1; 32]),
        |p| p.piece_size = PaddedPieceSize::new(256).expect("power of two"),
        |p| p.blake3_root.0[0] ^= 1,
        |p| p.group.k ^= 1,
        |p| p.group.n ^= 1,
        |p| p.group.file_root.0[0] ^= 1,
        |p| p.start = p.start.next(),
        |p| p.end = p.end.next(),
        |p| p.price.0 += 1,
        |p| p.provider_collateral.0 += 1,
        |p| p.label.push('x'),
        |p| p.client_nonce += 1,
    ];
    let mut ids = BTreeSet::from([signed.proposal.id()]);
    for change in changes {
        let mut other = signed.clone();
        change(&mut other.proposal);
        assert!(ids.insert(other.proposal.id()));
        assert!(!other.signature_holds(), "the client did not sign this");
    }
}

/// A shard that was offered to two providers, and to one of them twice: one of the three proposals is charged, never two.
#[test]
fn tm_c2_one_nonce_of_a_client_is_charged_once_whoever_publishes() {
    let (other_owner, stranger) = (key(77), key(78));
    let (mut world, client, owner, id) = market_with(&[&other_owner, &stranger]);
    let other = world.register(&other_owner, 1_000_000 * TOKEN);
    world.fund_market(&other_owner, 1_000_000 * TOKEN);
    let first = world.proposal(&client, id, 128);
    let dearer = DealProposal {
        price: TokenAmount(first.price.0 + 1),
        ..first.clone()
    };
    let elsewhere = DealProposal {
        provider: other,
        start: first.start.next(),
        end: first.end.next(),
        ..first.clone()
    };
    world
        .publish(&owner, first.sign(&client))
        .expect("the first one");
    let locked = world.market(&client).locked;
    let used = ChainError::Duplicate {
        what: Subject::ClientNonce,
    };
    assert_eq!(
        world.publish(&owner, dearer.sign(&client)),
        Err(used.clone())
    );
    assert_eq!(
        world.publish(&other_owner, elsewhere.clone().sign(&client)),
        Err(used.clone())
    );
    assert_eq!(
        world.market(&client).locked,
        locked,
        "nothing more is locked"
    );
    // Another client's nonces are its own, and a slashed deal's nonce stays used.
    world.fund_market(&stranger, 1_000 * TOKEN);
    let mut strangers = world.proposal(&stranger, id, 128);
    strangers.client_nonce = elsewhere.client_nonce;
    world
        .publish(&owner, strangers.sign(&stranger))
        .expect("a nonce of its own");
    world.run_to(elsewhere.start.after(EpochCount(1)));
    let mut late = world.proposal(&client, other, 128);
    late.client_nonce = elsewhere.client_nonce;
    assert_eq!(world.publish(&other_owner, late.sign(&client)), Err(used));
}

/// Vectors of "Taming the many EdDSAs" (novifinancial/ed25519-speccheck, cases.json): message, key, signature. Strict
/// verifiers (libra-crypto, libsodium in its README's table) accept number 6 alone.
const EDGE_CASES: [(&str, &str, &str); 15] = [
    (
        "2a66241a42a9ee12994d8068dcf1bb7dfc6637b45450acd43711f637fa5080fc",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a0000000000000000000000000000000000000000000000000000000000000000",
    ),
    (
        "8c93255d71dcab10e8f379c26200f3c7bd5f09d9bc3068d3ef4edeb4853022b6",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a0000000000000000000000000000000000000000000000000000000000000000",
    ),
    (
        "9bedc267423725d473888631ebf45988bad3db83851ee85c85e241a07d148b41",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43a5bb704786be79fc476f91d3f3f89b03984d8068dcf1bb7dfc6637b45450ac04",
    ),
    (
        "9bd9f44f4dcc75bd531b56b2cd280b0bb38fc1cd6d1230e14861d861de092e79",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43a5bb704786be79fc476f91d3f3f89b03984d8068dcf1bb7dfc6637b45450ac04",
    ),
    (
        "9bedc267423725d473888631ebf45988bad3db83851ee85c85e241a07d148b41",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa182ef1a5b928da07fec769cc8a12db6bcf70dab3f3227fa315e9d5e3e01a3405",
    ),
    (
        "aebf3f2601a0c8c5d39cc7d8911642f740b78168218da8471772b35f9d35b9ab",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa8c4bd45aecaca5b24fb97bc10ac27ac8751a7dfe1baff8b953ec9f5833ca260e",
    ),
    (
        "9bd9f44f4dcc75bd531b56b2cd280b0bb38fc1cd6d1230e14861d861de092e79",
        "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
        "9046a64750444938de19f227bb80485e92b83fdb4b6506c160484c016cc1852f87909e14428a7a1d62e9f22f3d3ad7802db02eb2e688b6c52fcd6648a98bd009",
    ),
    (
        "e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec4011eaccd55b53f56c",
        "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
        "160a1cb0dc9c0258cd0a7d23e94d8fa878bcb1925f2c64246b2dee1796bed5125ec6bc982a269b723e0668e540911a9a6a58921d6925e434ab10aa7940551a09",
    ),
    (
        "e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec4011eaccd55b53f56c",
        "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
        "21122a84e0b5fca4052f5b1235c80a537878b38f3142356b2c2384ebad4668b7e40bc836dac0f71076f9abe3a53f9c03c1ceeeddb658d0030494ace586687405",
    ),
    (
        "85e241a07d148b41e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec40",
        "442aad9f089ad9e14647b1ef9099a1ff4798d78589e66f28eca69c11f582a623",
        "e96f66be976d82e60150baecff9906684aebb1ef181f67a7189ac78ea23b6c0e547f7690a0e2ddcd04d87dbc3490dc19b3b3052f7ff0538cb68afb369ba3a514",
    ),
    (
        "85e241a07d148b41e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec40",
        "442aad9f089ad9e14647b1ef9099a1ff4798d78589e66f28eca69c11f582a623",
        "8ce5b96c8f26d0ab6c47958c9e68b937104cd36e13c33566acd2fe8d38aa19427e71f98a473474f2f13f06f97c20d58cc3f54b8bd0d272f42b695dd7e89a8c22",
    ),
    (
        "9bedc267423725d473888631ebf45988bad3db83851ee85c85e241a07d148b41",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff03be9678ac102edcd92b0210bb34d7428d12ffc5df5f37e359941266a4e35f0f",
    ),
    (
        "9bedc267423725d473888631ebf45988bad3db83851ee85c85e241a07d148b41",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffca8c5b64cd208982aa38d4936621a4775aa233aa0505711d8fdcfdaa943d4908",
    ),
    (
        "e96b7021eb39c1a163b6da4e3093dcd3f21387da4cc4572be588fafae23c155b",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "a9d55260f765261eb9b84e106f665e00b867287a761990d7135963ee0a7d59dca5bb704786be79fc476f91d3f3f89b03984d8068dcf1bb7dfc6637b45450ac04",
    ),
    (
        "39a591f5321bbe07fd5a23dc2f39d025d74526615746727ceefd6e82ae65c06f",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "a9d55260f765261eb9b84e106f665e00b867287a761990d7135963ee0a7d59dca5bb704786be79fc476f91d3f3f89b03984d8068dcf1bb7dfc6637b45450ac04",
    ),
];

#[test]
fn tm_c3_signatures_are_verified_strictly() {
    fn bytes<const N: usize>(text: &str) -> [u8; N] {
        hex::decode(text)
            .expect("hex")
            .try_into()
            .expect("its length")
    }
    let accepted: Vec<usize> = EDGE_CASES
        .iter()
        .enumerate()
        .filter(|(_, (message, key, signature))| {
            verify_strict(
                &Address(bytes(key)),
                &bytes::<32>(message),
                &Signature(bytes(signature)),
            )
        })
        .map(|(index, _)| index)
        .collect();
    assert_eq!(accepted, [6]);
}

/// The same blocks on other threads, from a state built in another order: the same receipts, events and bytes.
#[test]
fn tm_v3_blocks_give_the_same_bytes_everywhere() {
    let (mut world, client, owner, id) = market();
    let genesis = [(address(&owner), RICH), (address(&client), RICH)];
    for number in 0..4 {
        let deal = world.proposal(&client, id, 256).sign(&client);
        let deal = world.publish(&owner, deal).expect("acceptable");
        world.commit(&owner, id, number, vec![deal]);
    }
    world.run_proving(world.epoch.after(EpochCount(200)), &[(&owner, id, &[2])]);
    let states = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| world.replay(&genesis)))
            .collect();
        runs.into_iter()
            .map(|run| run.join().expect("replays"))
            .collect::<Vec<_>>()
    });
    assert!(states.iter().all(|state| *state == world.state));
    // Every machine, compiler and profile comes to these roots; the flag of genesis is in the state.
    let root = if world.params.closed_credit {
        "167838c6279aa15a7eb2926a0439a21b61fb70b3b9e6fbdbb95d62abaf47736d"
    } else {
        "e4ff4b3a03cd5b3ca671fb963c8450bbdcd25cf181232c69a27820cdf1a5429e"
    };
    assert_eq!(hex::encode(world.root()), root);
}

/// Whoever leaves with a fault and comes back under another name has paid more than who proves again: at every age of the
/// fault, with a deal and without one, whether it terminates the old sector or lets it lapse.
#[test]
fn tm_y2_registering_again_is_never_cheaper_than_curing() {
    let (other, heir) = (key(11), key(12));
    for with_deal in [false, true] {
        let (mut world, client, owner, id) = market_with(&[&other, &heir]);
        // The network goes on meanwhile, and pays whoever proves.
        let steady = world.register(&other, 10_000_000 * TOKEN);
        world.commit(&other, steady, 0, vec![]);
        let mut deals = Vec::new();
        if with_deal {
            let mut proposal = world.proposal(&client, id, 128);
            proposal.end = proposal.start.after(EpochCount(2_000));
            let deal = world.publish(&owner, proposal.sign(&client));
            deals.push(deal.expect("acceptable"));
        }
        world.commit(&owner, id, 0, deals);
        let both: [(&SigningKey, ProviderId, &[u64]); 2] =
            [(&other, steady, &[]), (&owner, id, &[])];
        world.run_proving(world.epoch.after(EpochCount(150)), &both);
        assert_eq!(world.status(id, 0), SectorStatus::Active);
        let day = world.params.proving_period;
        let end = world
            .epoch
            .after(EpochCount(world.params.fault_max.0 + 3 * day.0));

        let closes = world.params.fault_max.0 / day.0;
        for missed in 1..=closes {
            let close = world.next_close(id, 0);
            world.run_proving(close, &[(&other, steady, &[])]);
            assert_eq!(world.status(id, 0), SectorStatus::Faulty, "missed {missed}");

            let mut cured = world.clone();
            let recover = Message::DeclareRecovered {
                provider: id,
                sectors: vec![SectorNumber(0)],
            };
            until_taken(&mut cured, &owner, &recover, (&other, steady));
            cured.run_proving(end, &both);
            assert_eq!(cured.status(id, 0), SectorStatus::Active);
            let cured = cured.wealth(&[&owner, &heir], &[id]);

            for terminates in [true, false] {
                let mut washed = world.clone();
                if terminates {
                    let leave = Message::Terminate {
                        provider: id,
                        sector: SectorNumber(0),
                    };
                    until_taken(&mut washed, &owner, &leave, (&other, steady));
                }
                let fresh = washed.register(&heir, 10_000_000 * TOKEN);
                washed.must(&heir, washed.precommit_msg(fresh, 0, vec![]));
                let seed = washed.epoch.after(washed.params.seed_delay);
                washed.run_proving(seed, &[(&other, steady, &[])]);
                washed.must(&heir, washed.prove_msg(fresh, 0));
                washed.run_proving(end, &[(&other, steady, &[]), (&heir, fresh, &[])]);
                let over = if terminates {
                    SectorStatus::Terminated
                } else {
                    SectorStatus::FaultTimeout
                };
                assert_eq!(washed.status(id, 0), over);
                assert_eq!(washed.status(fresh, 0), SectorStatus::Active);
                let washed = washed.wealth(&[&owner, &heir], &[id, fresh]);
                assert!(
                    cured > washed,
                    "{missed} missed, a deal {with_deal}, terminates {terminates}: {cured} against {washed}"
                );
            }
        }
    }
}

/// Sends until it is taken, for a message that its deadline refuses for a while, with somebody else proving meanwhile.
fn until_taken(
    world: &mut World,
    from: &SigningKey,
    msg: &Message,
    (prover, id): (&SigningKey, ProviderId),
) {
    let last = world.epoch.after(world.params.proving_period);
    loop {
        let posts = world.due_posts(id, &[]);
        let mut txs = vec![world.tx(from, 0, vec![msg.clone()])];
        if !posts.is_empty() {
            txs.push(world.tx(prover, 0, posts));
        }
        if world.block(txs)[0].succeeded() {
            return;
        }
        assert!(world.epoch < last, "{} was never taken", msg.name());
    }
}

/// Every deal comes to an end and nothing stays locked, whatever its provider does.
#[test]
fn tm_v13_no_money_is_stranded() {
    let (mut world, client, owner, id) = market();
    let mut deals = Vec::new();
    for (number, end) in [(0u64, 300), (1, 700), (2, 2_000)] {
        let mut proposal = world.proposal(&client, id, 1024);
        proposal.end = proposal.start.after(EpochCount(end));
        let deal = world
            .publish(&owner, proposal.sign(&client))
            .expect("acceptable");
        if number < 2 {
            world.commit(&owner, id, number, vec![deal]);
        }
        deals.push(deal);
    }
    // It proves for a while, then vanishes for ever.
    world.run_proving(world.epoch.after(EpochCount(200)), &[(&owner, id, &[])]);
    world.run_to(world.epoch.after(EpochCount(1_500)));
    for deal in &deals {
        let view = world.deal(deal);
        assert!(
            matches!(view.status, DealStatus::Completed | DealStatus::Slashed),
            "{:?}",
            view.status
        );
        assert_eq!(view.locked.0, 0);
    }
    for who in [&client, &owner] {
        let market = world.market(who);
        assert_eq!(market.locked.0, 0);
        if !world.params.closed_credit {
            world.must(
                who,
                Message::MarketWithdraw {
                    amount: market.escrow,
                },
            );
        }
    }
    let view = world.provider(id);
    assert_eq!((view.pledge.0, view.deposits.0, view.fee_debt.0), (0, 0, 0));
    if world.params.closed_credit {
        return;
    }
    world.must(
        &owner,
        Message::ProviderWithdraw {
            provider: id,
            amount: TokenAmount(view.balance.0),
        },
    );
    assert_eq!(world.provider(id).balance.0, 0);
    // All that remains is with its people, burnt, or dust in the pool.
    let net = world.net();
    assert_eq!(
        net.free.0 + net.burnt.0 + net.reward_pool.0,
        net.genesis.0 + net.minted.0
    );
}

/// An epoch without anything due touches the totals and the beacon only, however much exists.
#[test]
fn tm_v13_an_idle_epoch_costs_what_is_due() {
    let (mut world, client, owner, id) = market();
    for number in 0..4 {
        let deal = world.proposal(&client, id, 256).sign(&client);
        let deal = world.publish(&owner, deal).expect("acceptable");
        world.commit(&owner, id, number, vec![deal]);
    }
    let quiet = (0..).find_map(|_| {
        let applied = world.try_block(&[]);
        let idle = applied.events.len() <= 1;
        world.block(vec![]);
        idle.then_some(applied.writes.len())
    });
    assert!(
        quiet.expect("some epoch is idle") <= 3,
        "network, beacon, and a beacon forgotten"
    );
}

proptest! {
    /// Any bytes: refused, or exactly what their value encodes to (`V11`); and no panic (`P17`).
    #[test]
    fn tm_v11_transactions_are_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(tx) = SignedTx::from_bytes(&bytes) {
            prop_assert_eq!(tx.to_bytes(), bytes);
        }
    }

    /// A good transaction with some bytes changed: refused, or canonical, and never with its old signature.
    #[test]
    fn tm_v11_changed_transactions(at in 0usize..1_000, with in 1u8..) {
        let (world, client, _, id) = market_once();
        let msgs = vec![Message::DeclareFaults { provider: id, sectors: vec![SectorNumber(1), SectorNumber(2)] }];
        let mut bytes = world.tx(&client, 0, msgs).signed().to_bytes();
        let at = at % bytes.len();
        bytes[at] ^= with;
        if let Ok(tx) = SignedTx::from_bytes(&bytes) {
            prop_assert_eq!(tx.to_bytes(), bytes);
            prop_assert!(tx.check(&world.chain).is_err());
        }
    }
}

fn market_once() -> (World, SigningKey, SigningKey, ProviderId) {
    static ONCE: std::sync::OnceLock<(World, SigningKey, SigningKey, ProviderId)> =
        std::sync::OnceLock::new();
    ONCE.get_or_init(market).clone()
}

/// Judges as the stub does, and counts how: proofs in batches, and proofs asked for one by one.
#[derive(Default)]
struct Counting {
    together: AtomicUsize,
    alone: AtomicUsize,
}

impl ProofVerifier for Counting {
    fn porep(&self, statement: &PorepStatement, proof: &[u8]) -> Result<(), ProofError> {
        self.alone.fetch_add(1, Relaxed);
        Stub.porep(statement, proof)
    }
    fn window_post(&self, statement: &WindowPostStatement, proof: &[u8]) -> Result<(), ProofError> {
        self.alone.fetch_add(1, Relaxed);
        Stub.window_post(statement, proof)
    }
    fn batch(&self, claims: &[Claim]) -> Vec<Result<(), ProofError>> {
        self.together.fetch_add(claims.len(), Relaxed);
        claims.iter().map(|claim| claim.judge(&Stub)).collect()
    }
}

/// A block's proofs are verified together; a wrong one among them changes no other verdict, each verdict is asked for once, and what
/// is asked only because a proof was wrong is verified too: here a second post of one window, which a good first one makes void.
#[test]
fn tm_v7_a_block_does_the_same_whether_its_proofs_are_verified_together_or_alone() {
    let (mut world, _, owner, id) = market();
    world.commit(&owner, id, 0, vec![]);
    for number in 1..4 {
        world.must(&owner, world.precommit_msg(id, number, vec![]));
    }
    // The window of sector 0 is open.
    let place = world.sector(id, 0);
    let (deadline, partition) = (place.deadline.expect("it has one"), place.partition);
    let partition = partition.expect("it has one");
    loop {
        let window = &world.deadlines(id)[usize::from(deadline)].window;
        let next = world.epoch.next();
        if window.open <= next && next < window.close {
            break;
        }
        world.run_to(next);
    }
    let ctx = world.next_ctx();
    let wrong = |mut msg: Message, n: u64| {
        if let Message::ProveCommit { proof, .. } | Message::SubmitPost { proof, .. } = &mut msg {
            // Each in its own way, so that no two are one claim.
            proof[n as usize] ^= 1;
        }
        msg
    };
    let msgs: Vec<Message> = (1..4)
        .map(|number| world.prove_msg(id, number))
        .chain([(); 2].map(|()| world.post_msg(id, deadline, partition, &[])))
        .collect();
    let (first, second) = (1 << 3, 1 << 4);
    for bad in 0..1u32 << msgs.len() {
        let txs: Vec<_> = (0u64..)
            .zip(&msgs)
            .map(|(n, msg)| {
                let msg = match bad & (1 << n) {
                    0 => msg.clone(),
                    _ => wrong(msg.clone(), n),
                };
                world.tx(&owner, n, vec![msg])
            })
            .collect();
        let plain = apply(&world.state, &ctx, &txs, &Stub).expect("continues the chain");
        let counting = Counting::default();
        let together = apply_together(&world.state, &ctx, &txs, &counting);
        assert_eq!(together.expect("continues the chain"), plain, "{bad:#b}");
        let asked = (counting.together.into_inner(), counting.alone.into_inner());
        let again = usize::from(bad & first != 0);
        assert_eq!(
            asked,
            (4, again),
            "each once, all but the second post in one batch"
        );
        let mut holds = !bad;
        if bad & first == 0 {
            holds &= !second;
        }
        for (n, receipt) in plain.receipts.iter().enumerate() {
            let expected = holds & (1 << n) != 0;
            assert_eq!(receipt.succeeded(), expected, "{bad:#b}: {receipt:?}");
        }
    }
}
