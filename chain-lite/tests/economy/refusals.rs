//! One case at least for each class of refusal, and for each message the refusals that its rule names.

use chain_lite::account::{ChainId, DealId, NetKey, ProviderId};
use chain_lite::deal::DealStatus;
use chain_lite::error::{ChainError, ErrorCode, Subject};
use chain_lite::events::{BurnReason, Event};
use chain_lite::execute::{ApplyError, Outcome, ProofError, ProofVerifier, admit, apply, fee};
use chain_lite::message::{Message, SignedTx, Tx, TxError, sign};
use chain_lite::params::ChainParams;
use chain_lite::query::SectorStatus;
use chain_lite::sector::dispute;
use chain_lite::units::{Epoch, EpochCount, TokenAmount};
use ed25519_dalek::SigningKey;
use prover::verify::{PorepStatement, WindowPostStatement};
use prover::{CommD, SectorNumber, SectorSize};

use crate::world::{Stub, TOKEN, World, address, key};

const RICH: u128 = 50_000_000 * TOKEN;

/// A client and a provider with funded escrows.
fn market() -> (World, SigningKey, SigningKey, ProviderId) {
    let (client, owner) = (key(1), key(10));
    let mut world = World::new(
        ChainParams::devnet(),
        &[(address(&client), RICH), (address(&owner), RICH)],
    );
    let id = world.register(&owner, 10_000_000 * TOKEN);
    world.fund_market(&client, 1_000 * TOKEN);
    world.fund_market(&owner, 10_000_000 * TOKEN);
    (world, client, owner, id)
}

fn outcome(world: &World, tx: SignedTx) -> Outcome {
    let checked = tx.check(&world.chain).expect("statelessly fine");
    let admitted = admit(&world.state, world.next_ctx().height, &checked).expect("memory");
    let outcome = world.try_block(&[checked]).receipts.remove(0).outcome;
    // The mempool's question and apply's answer agree.
    assert_eq!(
        admitted.is_err(),
        matches!(outcome, Outcome::Refused { .. }),
        "{admitted:?} but {outcome:?}"
    );
    outcome
}

#[test]
fn a_transaction_is_judged_before_it_costs_anything() {
    let (mut world, client, owner, _) = market();
    let to = address(&owner);
    let transfer = |amount| {
        vec![Message::Transfer {
            to,
            amount: TokenAmount(amount),
        }]
    };
    let base = world.tx(&client, 0, transfer(1)).tx().clone();
    let refusal = |change: fn(&mut Tx)| {
        let mut tx = base.clone();
        change(&mut tx);
        match outcome(&world, sign(tx, &client)) {
            Outcome::Refused { error } => error,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        refusal(|tx| tx.nonce += 1),
        ChainError::BadNonce {
            expected: base.nonce,
            got: base.nonce + 1
        }
    );
    assert_eq!(refusal(|tx| tx.nonce -= 1).code(), ErrorCode::BadNonce);
    assert_eq!(
        refusal(|tx| tx.valid_until_height = 1).code(),
        ErrorCode::OutOfBounds
    );
    assert!(matches!(
        outcome(&world, sign(base.clone(), &client)),
        Outcome::Applied { .. }
    ));

    // Two of one sender in a block: the second with the next nonce runs, with the same nonce does not.
    let first = world.tx(&client, 0, transfer(1));
    let (next, again) = (
        world.tx(&client, 1, transfer(2)),
        world.tx(&client, 0, transfer(3)),
    );
    let receipts = world.block(vec![first.clone(), again, next, first]);
    let ran: Vec<bool> = receipts.iter().map(|receipt| receipt.succeeded()).collect();
    assert_eq!(ran, [true, false, true, false]);
}

#[test]
fn stateless_checks() {
    let (world, client, owner, _) = market();
    let base = world
        .tx(
            &client,
            0,
            vec![Message::MarketWithdraw {
                amount: TokenAmount(1),
            }],
        )
        .signed()
        .clone();
    let check = |signed: SignedTx| signed.check(&world.chain).expect_err("must be refused");
    let resigned = |change: fn(&mut Tx)| {
        let mut tx = base.tx.clone();
        change(&mut tx);
        check(sign(tx, &client))
    };
    assert_eq!(resigned(|tx| tx.version = 2), TxError::Version(2));
    assert!(matches!(
        resigned(|tx| tx.chain_id = ChainId([0; 32])),
        TxError::WrongChain { .. }
    ));
    assert_eq!(resigned(|tx| tx.msgs.clear()), TxError::MessageCount(0));
    assert_eq!(
        resigned(|tx| tx.msgs = vec![tx.msgs[0].clone(); 65]),
        TxError::MessageCount(65)
    );
    let oversized: [fn(&mut Tx); 5] = [
        |tx| {
            tx.msgs[0] = Message::SetAddrs {
                provider: ProviderId(1),
                addrs: vec![String::new(); 9],
            }
        },
        |tx| {
            tx.msgs[0] = Message::SetAddrs {
                provider: ProviderId(1),
                addrs: vec!["x".repeat(129)],
            }
        },
        |tx| {
            let (provider, sector) = (ProviderId(1), SectorNumber(1));
            tx.msgs[0] = Message::ProveCommit {
                provider,
                sector,
                proof: vec![0; 1921],
            };
        },
        |tx| {
            let sectors = (0..2350).map(SectorNumber).collect();
            tx.msgs[0] = Message::DeclareFaults {
                provider: ProviderId(1),
                sectors,
            };
        },
        |tx| {
            let skipped = (0..2350).map(SectorNumber).collect();
            let (provider, deadline, partition, proof) = (ProviderId(1), 0, 0, vec![]);
            tx.msgs[0] = Message::SubmitPost {
                provider,
                deadline,
                partition,
                skipped,
                proof,
            };
        },
    ];
    for change in oversized {
        assert!(matches!(
            resigned(change),
            TxError::MessageTooLarge { index: 0, .. }
        ));
    }
    // Within every list's limit, and still too long as a whole.
    let too_long = resigned(|tx| {
        let sectors: Vec<SectorNumber> = (0..2349).map(SectorNumber).collect();
        tx.msgs = vec![
            Message::DeclareFaults {
                provider: ProviderId(1),
                sectors
            };
            10
        ];
    });
    assert!(matches!(too_long, TxError::Bytes(_)), "{too_long}");
    // Not the sender's key; and one bit of the body or the signature.
    assert!(matches!(
        check(sign(base.tx.clone(), &owner)),
        TxError::Signature(_)
    ));
    let mut flipped = base.clone();
    flipped.tx.nonce ^= 1;
    assert!(matches!(check(flipped), TxError::Signature(_)));
    for byte in 0..64 {
        let mut flipped = base.clone();
        flipped.signature.0[byte] ^= 1;
        assert!(
            matches!(check(flipped), TxError::Signature(_)),
            "byte {byte}"
        );
    }
}

#[test]
fn transactions_are_atomic_and_failed_ones_spend_their_nonce() {
    let (mut world, client, owner, _) = market();
    let to = address(&owner);
    let before = (world.free(&client), world.nonce(&client));
    let msgs = vec![
        Message::Transfer {
            to,
            amount: TokenAmount(5),
        },
        Message::MarketDeposit {
            to,
            amount: TokenAmount(6),
        },
        Message::Transfer {
            to,
            amount: TokenAmount(u128::MAX),
        },
    ];
    let tx = world.tx(&client, 0, msgs);
    let receipt = world.block(vec![tx]).remove(0);
    let Outcome::Failed { message: 2, error } = receipt.outcome else {
        panic!("{:?}", receipt.outcome)
    };
    assert_eq!(error.code(), ErrorCode::InsufficientFunds);
    let after = (world.free(&client), world.nonce(&client));
    assert_eq!(
        after,
        (before.0, before.1 + 1),
        "nothing of it took effect but its nonce"
    );
    assert!(
        world.events.iter().all(|record| record.tx.is_none()),
        "and nothing of it was told"
    );
}

#[test]
fn fees_are_burnt_also_on_failure_and_charged_to_whoever_acts() {
    let (client, owner, worker) = (key(1), key(10), key(20));
    let mut params = ChainParams::devnet();
    (params.fee_base, params.fee_byte, params.fee_verify) =
        (TokenAmount(1_000), TokenAmount(10), TokenAmount(5_000));
    let mut world = World::new(params, &[(address(&client), RICH), (address(&owner), RICH)]);
    let id = world.register(&owner, 10_000_000 * TOKEN);
    // A sender's own business is paid from its account, also when it fails.
    for (amount, succeeds) in [(7, true), (u128::MAX, false)] {
        let tx = world.tx(
            &client,
            0,
            vec![Message::Transfer {
                to: address(&owner),
                amount: TokenAmount(amount),
            }],
        );
        let (free, burnt, len) = (world.free(&client).0, world.net().burnt.0, tx.len_bytes());
        let receipt = world.block(vec![tx]).remove(0);
        assert_eq!(receipt.succeeded(), succeeds);
        assert_eq!(receipt.fee.0, 1_000 + 10 * u128::from(len));
        assert_eq!(world.net().burnt.0 - burnt, receipt.fee.0);
        assert_eq!(
            free - world.free(&client).0,
            receipt.fee.0 + if succeeds { amount } else { 0 }
        );
    }
    // A fee limit below the fee: refused, nothing spent.
    let mut tx = world
        .tx(
            &client,
            0,
            vec![Message::MarketWithdraw {
                amount: TokenAmount(1),
            }],
        )
        .tx()
        .clone();
    tx.fee_limit = TokenAmount(1_000);
    let before = world.free(&client);
    assert!(matches!(
        outcome(&world, sign(tx, &client)),
        Outcome::Refused { .. }
    ));
    assert_eq!(world.free(&client), before);
    // A worker without a unit of its own: the provider pays, proofs included.
    let change = Message::ChangeKeys {
        provider: id,
        worker: address(&worker),
        net_key: NetKey([2; 32]),
    };
    world.must(&owner, change);
    world.run_to(world.epoch.after(EpochCount(120)));
    let balance = world.provider(id).balance.0;
    world.must(&worker, world.precommit_msg(id, 0, vec![]));
    world.run_to(world.epoch.after(EpochCount(4)));
    let charged = balance - world.provider(id).balance.0;
    assert!(charged > 1_000 && charged < 10_000);
    let tx = world.tx(&worker, 0, vec![world.prove_msg(id, 0)]);
    let receipt = world.block(vec![tx.clone()]).remove(0);
    assert!(receipt.succeeded());
    assert_eq!(
        receipt.fee.0,
        1_000 + 10 * u128::from(tx.len_bytes()) + 5_000
    );
    assert_eq!(world.free(&worker).0, 0);
    // The same message from a stranger: the stranger pays, and it fails.
    let balance = world.provider(id).balance.0;
    let stranger = world.tx(
        &client,
        0,
        vec![Message::SetAddrs {
            provider: id,
            addrs: vec![],
        }],
    );
    let free = world.free(&client).0;
    let receipt = world.block(vec![stranger]).remove(0);
    assert_eq!(
        receipt.error().map(ChainError::code),
        Some(ErrorCode::NotAllowed)
    );
    assert_eq!(free - world.free(&client).0, receipt.fee.0);
    assert_eq!(world.provider(id).balance.0, balance);
}

/// The production figures of `chain.md` §13: 10^12 units, 10^9 for each byte, 10^15 for each proof that it takes to judge.
#[test]
fn fees_in_production() {
    let (world, client, owner, id) = market();
    let params = ChainParams::production();
    let sector = SectorNumber(1);
    let post = dispute::PostId {
        provider: id,
        deadline: 0,
        partition: 0,
        close: Epoch(9),
    };
    let prove = |bytes| Message::ProveCommit {
        provider: id,
        sector,
        proof: vec![0; bytes],
    };
    let salt = [0; 32];
    let cases = [
        (
            Message::MarketWithdraw {
                amount: TokenAmount(1),
            },
            0,
        ),
        (prove(192), 1),
        (prove(1_920), 10),
        (Message::Dispute { post, salt }, 1),
    ];
    for (msg, proofs) in cases {
        let (name, tx) = (msg.name(), world.tx(&client, 0, vec![msg]));
        let expected = 1_000_000_000_000
            + 1_000_000_000 * u128::from(tx.len_bytes())
            + 1_000_000_000_000_000 * proofs;
        assert_eq!(fee(&params, &tx), Ok(TokenAmount(expected)), "{name}");
    }
    // A transaction of several messages pays its base once.
    let both = world.tx(&owner, 0, vec![prove(192), prove(192)]);
    let expected =
        1_000_000_000_000 + 1_000_000_000 * u128::from(both.len_bytes()) + 2_000_000_000_000_000;
    assert_eq!(fee(&params, &both), Ok(TokenAmount(expected)));
    assert_eq!(fee(&ChainParams::devnet(), &both), Ok(TokenAmount(0)));
}

/// `chain.md` §13: an on-time window PoSt never fails for lack of fees; other messages of a penniless provider do.
#[test]
fn a_post_may_go_into_secured_debt() {
    let owner = key(10);
    let mut params = ChainParams::devnet();
    params.fee_verify = TokenAmount(TOKEN);
    let mut world = World::new(params, &[(address(&owner), RICH)]);
    let id = world.register(&owner, 1_000_000 * TOKEN);
    world.commit(&owner, id, 0, vec![]);
    let close = world.next_close(id, 0);
    world.run_to(close.before(EpochCount(20)));
    let all = world.provider(id).available;
    world.must(
        &owner,
        Message::ProviderWithdraw {
            provider: id,
            amount: all,
        },
    );
    assert_eq!(world.provider(id).available.0, 0);
    let prove = world.prove_msg_or_empty(id);
    let refused = world.send(&owner, prove).expect_err("nobody pays for it");
    assert_eq!(refused.code(), ErrorCode::InsufficientFunds);
    let post = world.due_posts(id, &[]).remove(0);
    world.must(&owner, post);
    assert_eq!(world.provider(id).fee_debt.0, TOKEN);
    assert_eq!(world.status(id, 0), SectorStatus::Active);
    // Its next rewards repay it.
    world.run_to(close.after(EpochCount(1)));
    assert_eq!(world.provider(id).fee_debt.0, 0);
}

/// The other duty: a fault is declared even when nothing loose is left to pay for it.
#[test]
fn a_fault_is_declared_on_credit() {
    let owner = key(10);
    let mut params = ChainParams::devnet();
    params.fee_base = TokenAmount(TOKEN);
    let mut world = World::new(params, &[(address(&owner), RICH)]);
    let id = world.register(&owner, 1_000_000 * TOKEN);
    world.commit(&owner, id, 0, vec![]);
    let withdraw = |amount| Message::ProviderWithdraw {
        provider: id,
        amount: TokenAmount(amount),
    };
    let all = world.provider(id).available.0;
    world.must(&owner, withdraw(all - TOKEN));
    assert_eq!(world.provider(id).available.0, 0);
    world.fails(&owner, withdraw(1), ErrorCode::InsufficientFunds);
    world.must(
        &owner,
        Message::DeclareFaults {
            provider: id,
            sectors: vec![SectorNumber(0)],
        },
    );
    assert_eq!(
        (world.status(id, 0), world.provider(id).fee_debt.0),
        (SectorStatus::Faulty, TOKEN)
    );
}

impl World {
    /// Any other message with a proof in it.
    fn prove_msg_or_empty(&self, provider: ProviderId) -> Message {
        Message::ProveCommit {
            provider,
            sector: SectorNumber(77),
            proof: vec![0; 192],
        }
    }
}

#[test]
fn plain_money() {
    let (mut world, client, owner, id) = market();
    let nobody = key(99);
    let to = address(&nobody);
    world.fails(
        &nobody,
        Message::Transfer {
            to: address(&client),
            amount: TokenAmount(1),
        },
        ErrorCode::InsufficientFunds,
    );
    world.fails(
        &client,
        Message::Transfer {
            to,
            amount: TokenAmount(0),
        },
        ErrorCode::OutOfBounds,
    );
    world.fails(
        &client,
        Message::MarketDeposit {
            to,
            amount: TokenAmount(0),
        },
        ErrorCode::OutOfBounds,
    );
    world.fails(
        &client,
        Message::MarketWithdraw {
            amount: TokenAmount(1_000 * TOKEN + 1),
        },
        ErrorCode::InsufficientFunds,
    );
    world.fails(
        &client,
        Message::MarketWithdraw {
            amount: TokenAmount(0),
        },
        ErrorCode::OutOfBounds,
    );
    world.fails(
        &client,
        Message::ProviderDeposit {
            provider: ProviderId(7),
            amount: TokenAmount(1),
        },
        ErrorCode::NotFound,
    );
    world.must(
        &client,
        Message::Transfer {
            to,
            amount: TokenAmount(9),
        },
    );
    assert_eq!(world.free(&nobody), TokenAmount(9));
    world.must(
        &client,
        Message::Transfer {
            to: address(&client),
            amount: TokenAmount(9),
        },
    );
    world.must(
        &client,
        Message::MarketWithdraw {
            amount: TokenAmount(1_000 * TOKEN),
        },
    );
    assert_eq!(world.free(&client).0, RICH - 9);
    let balance = world.provider(id).balance.0;
    world.must(
        &client,
        Message::ProviderDeposit {
            provider: id,
            amount: TokenAmount(5),
        },
    );
    assert_eq!(world.provider(id).balance.0, balance + 5);
    assert_eq!(world.market(&owner).locked.0, 0);
}

#[test]
fn provider_rules() {
    let (mut world, client, owner, id) = market();
    let worker = key(20);
    let register = |sector_size, deposit, addrs: Vec<String>| Message::RegisterProvider {
        worker: address(&worker),
        net_key: NetKey([9; 32]),
        addrs,
        sector_size,
        deposit: TokenAmount(deposit),
    };
    world.fails(
        &client,
        register(SectorSize::Kib4, RICH, vec![]),
        ErrorCode::NotAllowed,
    );
    let least = match world.fails(
        &client,
        register(SectorSize::Kib2, 1, vec![]),
        ErrorCode::OutOfBounds,
    ) {
        ChainError::OutOfBounds {
            what: Subject::RegistrationDeposit,
            min,
            ..
        } => min,
        other => panic!("{other}"),
    };
    world.fails(
        &client,
        register(SectorSize::Kib2, RICH + 1, vec![]),
        ErrorCode::InsufficientFunds,
    );
    world.fails(
        &client,
        register(SectorSize::Kib2, RICH / 2, vec!["a b".into()]),
        ErrorCode::OutOfBounds,
    );
    world.fails(
        &client,
        register(SectorSize::Kib2, RICH / 2, vec![String::new()]),
        ErrorCode::OutOfBounds,
    );
    world.must(
        &client,
        register(SectorSize::Kib2, least + least / 100, vec![]),
    );

    let withdraw = |amount| Message::ProviderWithdraw {
        provider: id,
        amount: TokenAmount(amount),
    };
    world.fails(&client, withdraw(1), ErrorCode::NotAllowed);
    world.fails(&owner, withdraw(0), ErrorCode::OutOfBounds);
    world.fails(
        &owner,
        withdraw(10_000_000 * TOKEN + 1),
        ErrorCode::InsufficientFunds,
    );
    world.must(&owner, withdraw(5));

    // Keys change one period later; the worker operates, but does not withdraw or change keys.
    let change = Message::ChangeKeys {
        provider: id,
        worker: address(&worker),
        net_key: NetKey([5; 32]),
    };
    world.fails(&client, change.clone(), ErrorCode::NotAllowed);
    world.must(&owner, change.clone());
    let effective = world.epoch.after(EpochCount(120));
    let addrs = Message::SetAddrs {
        provider: id,
        addrs: vec!["h:1".into()],
    };
    world.run_to(effective.before(EpochCount(2)));
    world.fails(&worker, addrs.clone(), ErrorCode::NotAllowed);
    assert_eq!(world.provider(id).net_key, NetKey([1; 32]));
    world.must(&worker, addrs.clone());
    assert_eq!(
        (world.provider(id).net_key, world.provider(id).addrs),
        (NetKey([5; 32]), vec!["h:1".to_string()])
    );
    world.fails(&worker, withdraw(1), ErrorCode::NotAllowed);
    world.fails(&worker, change, ErrorCode::NotAllowed);
    world.must(&owner, addrs);
}

#[test]
fn deal_terms() {
    let (mut world, client, owner, id) = market();
    let poor = key(2);
    let other = world.register(&owner, 1_000_000 * TOKEN);
    type Change = fn(&mut chain_lite::message::DealProposal);
    let cases: [(Change, ErrorCode, Subject); 14] = [
        (
            |p| p.chain_id = ChainId([0; 32]),
            ErrorCode::NotAllowed,
            Subject::ProposalChain,
        ),
        (
            |p| p.verified = true,
            ErrorCode::NotAllowed,
            Subject::VerifiedDeal,
        ),
        (
            |p| p.start = Epoch(1),
            ErrorCode::OutOfBounds,
            Subject::DealStart,
        ),
        (
            |p| p.start = Epoch(u64::MAX),
            ErrorCode::OutOfBounds,
            Subject::DealStart,
        ),
        (
            |p| p.start = Epoch(20_100),
            ErrorCode::OutOfBounds,
            Subject::DealStart,
        ),
        (
            |p| p.end = p.start.after(EpochCount(59)),
            ErrorCode::OutOfBounds,
            Subject::DealDuration,
        ),
        (
            |p| p.end = p.start.after(EpochCount(100_001)),
            ErrorCode::OutOfBounds,
            Subject::DealDuration,
        ),
        (
            |p| p.end = Epoch(1),
            ErrorCode::OutOfBounds,
            Subject::DealDuration,
        ),
        (
            |p| p.piece_size = prover::PaddedPieceSize::new(4096).expect("power of two"),
            ErrorCode::OutOfBounds,
            Subject::PieceSize,
        ),
        (
            |p| p.label = "x".repeat(257),
            ErrorCode::OutOfBounds,
            Subject::DealLabel,
        ),
        (
            |p| p.provider_collateral = TokenAmount(0),
            ErrorCode::OutOfBounds,
            Subject::DealCollateral,
        ),
        (
            |p| p.provider_collateral = TokenAmount(u128::MAX),
            ErrorCode::InsufficientFunds,
            Subject::ProviderEscrow,
        ),
        (
            |p| p.price = TokenAmount(10 * TOKEN),
            ErrorCode::InsufficientFunds,
            Subject::ClientEscrow,
        ),
        (
            |p| p.price = TokenAmount(u128::MAX),
            ErrorCode::Overflow,
            Subject::DealPrice,
        ),
    ];
    for (change, code, subject) in cases {
        let mut proposal = world.proposal(&client, id, 2048);
        change(&mut proposal);
        let error = world
            .publish(&owner, proposal.sign(&client))
            .expect_err("a bad term");
        assert_eq!(error.code(), code, "{subject}: {error}");
        assert!(
            error == ChainError::Overflow || error.to_string().contains(&subject.to_string()),
            "{subject}: {error}"
        );
    }
    // Signed by somebody else; to another provider; from the owner itself; by a stranger; an empty list.
    let proposal = world.proposal(&client, id, 2048);
    let error = world
        .publish(&owner, proposal.clone().sign(&poor))
        .expect_err("not the client's");
    assert_eq!(
        error,
        ChainError::BadSignature {
            what: Subject::ProposalSignature
        }
    );
    let signed = proposal.sign(&client);
    let wrong = Message::PublishDeals {
        provider: other,
        proposals: vec![signed.clone()],
    };
    let published = world.must(&owner, wrong);
    assert!(format!("{published:?}").contains("ProposalProvider"));
    let own = world.proposal(&owner, id, 2048);
    let error = world
        .publish(&owner, own.sign(&owner))
        .expect_err("with itself");
    assert_eq!(
        error,
        ChainError::NotAllowed {
            what: Subject::SelfDeal
        }
    );
    let stranger = Message::PublishDeals {
        provider: id,
        proposals: vec![signed.clone()],
    };
    world.fails(&client, stranger, ErrorCode::NotAllowed);
    world.fails(
        &owner,
        Message::PublishDeals {
            provider: id,
            proposals: vec![],
        },
        ErrorCode::OutOfBounds,
    );
    assert_eq!(world.market(&client).locked.0, 0, "no refusal left a trace");
    // One bad among good ones: the good ones are deals.
    let mut bad = world.proposal(&client, id, 2048);
    bad.verified = true;
    let good = world.proposal(&client, id, 1024).sign(&client);
    let good_id = good.proposal.id();
    world.must(
        &owner,
        Message::PublishDeals {
            provider: id,
            proposals: vec![signed, bad.sign(&client), good],
        },
    );
    assert_eq!(world.deal_status(&good_id), DealStatus::Published);
}

#[test]
fn precommit_rules() {
    let (mut world, client, owner, id) = market();
    let offer =
        |world: &World, change: &dyn Fn(&mut Epoch, &mut Epoch, &mut CommD, &mut Vec<DealId>)| {
            let Message::PreCommit {
                mut ticket_epoch,
                mut expiration,
                mut comm_d,
                mut deals,
                provider,
                sector,
                comm_r,
            } = world.precommit_msg(id, 5, vec![])
            else {
                unreachable!("it makes pre-commitments")
            };
            change(&mut ticket_epoch, &mut expiration, &mut comm_d, &mut deals);
            Message::PreCommit {
                ticket_epoch,
                expiration,
                comm_d,
                deals,
                provider,
                sector,
                comm_r,
            }
        };
    world.run_to(Epoch(300));
    let now = Epoch(301);
    let msg = offer(&world, &|ticket, _, _, _| *ticket = now);
    world.fails(&owner, msg, ErrorCode::TooEarly);
    let msg = offer(&world, &|ticket, _, _, _| *ticket = Epoch(302 - 241));
    world.fails(&owner, msg, ErrorCode::TooLate);
    let msg = offer(&world, &|_, expiration, _, _| {
        *expiration = Epoch(303 + 439)
    });
    world.fails(&owner, msg, ErrorCode::OutOfBounds);
    let msg = offer(&world, &|_, expiration, _, _| {
        *expiration = Epoch(304 + 100_001)
    });
    world.fails(&owner, msg, ErrorCode::OutOfBounds);
    let msg = offer(&world, &|_, _, comm_d, _| *comm_d = CommD([1; 32]));
    assert_eq!(
        world.fails(&owner, msg, ErrorCode::BadProof),
        ChainError::BadProof {
            what: Subject::CommD
        }
    );
    let msg = offer(&world, &|_, _, _, deals| *deals = vec![DealId([1; 32])]);
    world.fails(&owner, msg, ErrorCode::NotFound);
    let msg = offer(&world, &|_, _, _, deals| {
        *deals = vec![DealId([1; 32]); 257]
    });
    world.fails(&owner, msg, ErrorCode::OutOfBounds);
    let msg = offer(&world, &|_, _, _, _| ());
    world.fails(&client, msg, ErrorCode::NotAllowed);

    // A deal that outlives the sector, a deal listed twice, a deal of another provider, a deal that is taken.
    let mut long = world.proposal(&client, id, 1024);
    long.end = long.start.after(EpochCount(5_000));
    let long = world
        .publish(&owner, long.sign(&client))
        .expect("acceptable");
    let msg = offer(&world, &|_, _, _, deals| *deals = vec![long]);
    world.fails(&owner, msg, ErrorCode::OutOfBounds);
    let mut short = world.proposal(&client, id, 1024);
    short.start = world.epoch.after(EpochCount(600));
    short.end = short.start.after(EpochCount(60));
    let short = world
        .publish(&owner, short.sign(&client))
        .expect("acceptable");
    let msg = offer(&world, &|_, _, _, deals| *deals = vec![short, short]);
    world.fails(&owner, msg, ErrorCode::WrongState);
    let other_owner = client.clone();
    let other = world.register(&other_owner, 1_000_000 * TOKEN);
    let Message::PreCommit {
        sector,
        comm_r,
        comm_d,
        ticket_epoch,
        expiration,
        ..
    } = world.precommit_msg(id, 9, vec![short])
    else {
        unreachable!("it makes pre-commitments")
    };
    let stolen = Message::PreCommit {
        provider: other,
        sector,
        comm_r,
        comm_d,
        ticket_epoch,
        expiration,
        deals: vec![short],
    };
    world.fails(&other_owner, stolen, ErrorCode::NotAllowed);
    world.must(&owner, world.precommit_msg(id, 6, vec![short]));
    let mut taken = world.precommit_msg(id, 7, vec![]);
    if let Message::PreCommit { deals, .. } = &mut taken {
        *deals = vec![short];
    }
    world.fails(&owner, taken, ErrorCode::WrongState);
    // The number is spent; the deposit must be there.
    world.fails(
        &owner,
        world.precommit_msg(id, 6, vec![]),
        ErrorCode::Duplicate,
    );
    if !world.params.closed_credit {
        let all = world.provider(id).available;
        world.must(
            &owner,
            Message::ProviderWithdraw {
                provider: id,
                amount: all,
            },
        );
        world.fails(
            &owner,
            world.precommit_msg(id, 8, vec![]),
            ErrorCode::InsufficientFunds,
        );
    }
    assert_eq!(world.status(id, 6), SectorStatus::PreCommitted);
}

#[test]
fn prove_commit_rules() {
    let (mut world, client, owner, id) = market();
    let no_such = Message::ProveCommit {
        provider: id,
        sector: SectorNumber(1),
        proof: vec![0; 33],
    };
    world.fails(&owner, no_such, ErrorCode::NotFound);
    let mut proposal = world.proposal(&client, id, 2048);
    proposal.start = world.epoch.after(EpochCount(20));
    let deal = world
        .publish(&owner, proposal.clone().sign(&client))
        .expect("acceptable");
    world.must(&owner, world.precommit_msg(id, 0, vec![deal]));
    let at = world.epoch;
    world.run_to(at.after(EpochCount(3)));
    let mut early = world.clone();
    early.fails(&owner, early.prove_msg(id, 0), ErrorCode::TooEarly);
    world.run_to(at.after(EpochCount(4)));
    let good = world.prove_msg(id, 0);
    let mut wrong = good.clone();
    if let Message::ProveCommit { proof, .. } = &mut wrong {
        proof[0] ^= 1;
    }
    world.fails(&owner, wrong, ErrorCode::BadProof);
    world.fails(&client, good.clone(), ErrorCode::NotAllowed);
    // The deal's start passes: it is broken, and the sector can no longer be committed with it.
    let mut late = world.clone();
    late.run_to(proposal.start.next());
    assert_eq!(late.deal_status(&deal), DealStatus::Slashed);
    late.fails(&owner, late.prove_msg(id, 0), ErrorCode::WrongState);
    // Not enough for the pledge: the sector stays pre-committed.
    if !world.params.closed_credit {
        let mut poor = world.clone();
        let all = poor.provider(id).available;
        poor.must(
            &owner,
            Message::ProviderWithdraw {
                provider: id,
                amount: all,
            },
        );
        poor.fails(&owner, poor.prove_msg(id, 0), ErrorCode::InsufficientFunds);
    }
    // In time, in the epoch of the deal's start itself.
    world.run_to(proposal.start.before(EpochCount(1)));
    world.must(&owner, good.clone());
    assert_eq!(world.deal_status(&deal), DealStatus::Active);
    world.fails(&owner, good, ErrorCode::Duplicate);
}

#[test]
fn post_and_declaration_rules() {
    let (mut world, client, owner, id) = market();
    world.commit(&owner, id, 0, vec![]);
    let deadline = world.sector(id, 0).deadline.expect("live");
    let declare = |numbers: &[u64]| Message::DeclareFaults {
        provider: id,
        sectors: numbers.iter().copied().map(SectorNumber).collect(),
    };
    let recover = |numbers: &[u64]| Message::DeclareRecovered {
        provider: id,
        sectors: numbers.iter().copied().map(SectorNumber).collect(),
    };
    // Not open yet.
    world.fails(
        &owner,
        world.post_msg(id, deadline, 0, &[]),
        ErrorCode::DeadlineClosed,
    );
    world.fails(&owner, world.post_msg_for(id, 6), ErrorCode::OutOfBounds);
    world.fails(&owner, declare(&[]), ErrorCode::OutOfBounds);
    world.fails(&owner, declare(&[1]), ErrorCode::NotFound);
    world.fails(&owner, declare(&[1, 0]), ErrorCode::NotAllowed);
    world.fails(&client, declare(&[0]), ErrorCode::NotAllowed);
    let window = world.deadlines(id)[usize::from(deadline)].window;
    assert!(
        world.epoch.after(EpochCount(4)) < window.open.before(EpochCount(20)),
        "the deadline is neither open nor next"
    );
    world.fails(&owner, recover(&[0]), ErrorCode::WrongState);
    // Last epoch for declarations and first too late.
    world.run_to(window.open.before(EpochCount(8)));
    let mut late = world.clone();
    late.run_to(late.epoch.next());
    late.fails(&owner, declare(&[0]), ErrorCode::DeadlineClosed);
    late.fails(
        &owner,
        Message::Terminate {
            provider: id,
            sector: SectorNumber(0),
        },
        ErrorCode::DeadlineClosed,
    );
    let mut declared = world.clone();
    declared.must(&owner, declare(&[0]));
    assert_eq!(declared.status(id, 0), SectorStatus::Faulty);
    assert_eq!(declared.sector(id, 0).faulty_since, Some(window.close));
    declared.run_to(window.open.before(EpochCount(1)));
    // Nothing would be proven.
    declared.fails(
        &owner,
        declared.post_msg(id, deadline, 0, &[]),
        ErrorCode::NotAllowed,
    );

    world.run_to(window.open.before(EpochCount(1)));
    world.fails(
        &owner,
        world.post_msg(id, deadline, 7, &[]),
        ErrorCode::NotFound,
    );
    world.fails(
        &owner,
        world.post_msg(id, deadline, 0, &[5]),
        ErrorCode::NotAllowed,
    );
    world.fails(
        &owner,
        world.post_msg(id, deadline, 0, &[0]),
        ErrorCode::NotAllowed,
    );
    world.fails(
        &client,
        world.post_msg(id, deadline, 0, &[]),
        ErrorCode::NotAllowed,
    );
    let mut wrong = world.post_msg(id, deadline, 0, &[]);
    if let Message::SubmitPost { proof, .. } = &mut wrong {
        proof[31] ^= 1;
    }
    world.fails(&owner, wrong, ErrorCode::BadProof);
    world.must(&owner, world.post_msg(id, deadline, 0, &[]));
    assert_eq!(world.status(id, 0), SectorStatus::Active);
    world.fails(
        &owner,
        world.post_msg(id, deadline, 0, &[]),
        ErrorCode::Duplicate,
    );
}

impl World {
    fn post_msg_for(&self, provider: ProviderId, deadline: u16) -> Message {
        Message::SubmitPost {
            provider,
            deadline,
            partition: 0,
            skipped: vec![],
            proof: vec![],
        }
    }
}

/// Debt: nothing is withdrawn, committed to or recovered until it is repaid.
#[test]
fn fee_debt_blocks() {
    let (mut world, _, owner, id) = market();
    world.commit(&owner, id, 0, vec![]);
    let all = world.provider(id).available;
    world.must(
        &owner,
        Message::ProviderWithdraw {
            provider: id,
            amount: all,
        },
    );
    // Never proven: no rewards to take the fees from.
    let close = world.next_close(id, 0);
    world.run_to(close.after(EpochCount(120)));
    let debt = world.provider(id).fee_debt;
    assert!(debt.0 > 0 && debt < world.provider(id).pledge);
    world.fails(
        &owner,
        Message::ProviderWithdraw {
            provider: id,
            amount: TokenAmount(1),
        },
        ErrorCode::FeeDebt,
    );
    world.fails(
        &owner,
        world.precommit_msg(id, 1, vec![]),
        ErrorCode::FeeDebt,
    );
    world.fails(
        &owner,
        Message::DeclareRecovered {
            provider: id,
            sectors: vec![SectorNumber(0)],
        },
        ErrorCode::FeeDebt,
    );
    world.must(
        &owner,
        Message::ProviderDeposit {
            provider: id,
            amount: debt,
        },
    );
    assert_eq!(world.provider(id).fee_debt.0, 0);
    world.must(
        &owner,
        Message::DeclareRecovered {
            provider: id,
            sectors: vec![SectorNumber(0)],
        },
    );
    assert_eq!(world.status(id, 0), SectorStatus::Recovering);
    // Recovering and missed: the age of the fault stays, the fee comes.
    let since = world.sector(id, 0).faulty_since;
    world.run_to(close.after(EpochCount(240)));
    assert_eq!(
        (world.status(id, 0), world.sector(id, 0).faulty_since),
        (SectorStatus::Faulty, since)
    );
    assert!(world.provider(id).fee_debt.0 > 0);
}

/// `chain.md` §5: debt is repaid from rewards that have not vested, earliest first, and never from pledge. Money that is gone for a
/// penalty and money that is gone for a fee are told apart.
#[test]
fn a_penalty_takes_unvested_rewards_before_it_becomes_debt() {
    let owner = key(10);
    let params = ChainParams {
        // Nothing vests by itself while this test looks.
        vest_step: EpochCount(1_000_000),
        fee_base: TokenAmount(1),
        ..ChainParams::devnet()
    };
    let mut world = World::new(params, &[(address(&owner), RICH)]);
    let id = world.register(&owner, 10_000_000 * TOKEN);
    world.commit(&owner, id, 0, vec![]);
    let close = world.next_close(id, 0).after(EpochCount(2 * 120));
    world.run_proving(close, &[(&owner, id, &[])]);
    // The first miss costs nothing, and ends the rewards.
    world.run_to(close.after(EpochCount(120)));
    assert_eq!(world.status(id, 0), SectorStatus::Faulty);
    let burns = |world: &World, wanted| {
        let of = |(_, event): &(Epoch, Event)| match event {
            Event::Burn { reason, amount } if *reason == wanted => Some(amount.0),
            _ => None,
        };
        world.history.iter().filter_map(of).sum::<u128>()
    };
    let fees = burns(&world, BurnReason::Fee);
    let (withdraw, provider) = (
        |amount| Message::ProviderWithdraw {
            provider: id,
            amount: TokenAmount(amount),
        },
        |world: &World| world.provider(id),
    );
    // The fee of the withdrawal itself is a debt too.
    let all = provider(&world).available.0;
    world.must(&owner, withdraw(all));
    assert_eq!(burns(&world, BurnReason::Fee), fees + 1);
    assert_eq!(burns(&world, BurnReason::Penalty), 0);
    let before = provider(&world);
    assert_eq!((before.available.0, before.claimable.0), (0, 0));
    world.run_to(close.after(EpochCount(240)));
    let after = provider(&world);
    let taken = before.vesting.0 - after.vesting.0;
    assert!(taken > 0 && after.vesting.0 > 0, "{taken} taken");
    assert_eq!((after.fee_debt.0, after.pledge), (0, before.pledge));
    assert_eq!(before.balance.0 - after.balance.0, taken);
    assert_eq!(burns(&world, BurnReason::Penalty), taken);
}

/// What is nobody's fault but this node's stops the block; what is no continuation is no block.
#[test]
fn a_block_that_cannot_be_applied() {
    struct NoKeys;
    impl ProofVerifier for NoKeys {
        fn porep(&self, _: &PorepStatement, _: &[u8]) -> Result<(), ProofError> {
            Err(ProofError::Unable("no key".into()))
        }
        fn window_post(&self, _: &WindowPostStatement, _: &[u8]) -> Result<(), ProofError> {
            Err(ProofError::Unable("no key".into()))
        }
    }
    let (mut world, _, owner, id) = market();
    world.must(&owner, world.precommit_msg(id, 0, vec![]));
    world.run_to(world.epoch.after(EpochCount(4)));
    let tx = world.tx(&owner, 0, vec![world.prove_msg(id, 0)]);
    let stopped = apply(&world.state, &world.next_ctx(), &[tx], &NoKeys);
    assert!(
        matches!(stopped, Err(ApplyError::Verifier(_))),
        "{stopped:?}"
    );

    let context = |change: &dyn Fn(&mut chain_lite::execute::BlockCtx)| {
        let mut ctx = world.next_ctx();
        change(&mut ctx);
        apply(&world.state, &ctx, &[], &Stub)
    };
    assert!(context(&|_| ()).is_ok());
    let wrong: [&dyn Fn(&mut chain_lite::execute::BlockCtx); 4] = [
        &|ctx| ctx.height += 1,
        &|ctx| {
            ctx.beacons.clear();
            ctx.epoch = ctx.epoch.before(EpochCount(1));
        },
        &|ctx| ctx.beacons[0].0 = ctx.epoch.next(),
        &|ctx| ctx.beacons.push((ctx.epoch.next(), [0; 32])),
    ];
    for (index, change) in wrong.into_iter().enumerate() {
        assert!(
            matches!(context(change), Err(ApplyError::Context(_))),
            "case {index}"
        );
    }
    let empty = chain_lite::state::MemoryState::default();
    assert!(matches!(
        apply(&empty, &world.next_ctx(), &[], &Stub),
        Err(ApplyError::Store(_))
    ));
}
