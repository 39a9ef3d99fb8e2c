//! Stories with balances computed by hand.

use chain_lite::account::{Blake3Root, ProviderId};
use chain_lite::audit::FileAudit;
use chain_lite::deal::DealStatus;
use chain_lite::events::Event;
use chain_lite::message::{DealGroup, DealProposal, Message};
use chain_lite::params::ChainParams;
use chain_lite::query::SectorStatus;
use chain_lite::units::{Epoch, EpochCount, TokenAmount};
use ed25519_dalek::SigningKey;

use crate::world::{TOKEN, World, address, key};

/// `chain.md` §20: a file of 3-of-5 pieces; provider 4 stops after activation.
#[test]
fn worked_scenario_of_the_spec() {
    let client = key(1);
    let owners: Vec<SigningKey> = (10..15).map(key).collect();
    let mut accounts = vec![(address(&client), 10_000_000 * TOKEN)];
    accounts.extend(
        owners
            .iter()
            .map(|owner| (address(owner), 50_000_000 * TOKEN)),
    );
    let mut world = World::new(ChainParams::devnet(), &accounts);
    let ids: Vec<ProviderId> = owners
        .iter()
        .map(|owner| world.register(owner, 1_000_000 * TOKEN))
        .collect();
    world.fund_market(&client, 1_000 * TOKEN);
    for owner in &owners {
        world.fund_market(owner, 2_000_000 * TOKEN);
    }

    // 240 epochs at 10^12 each.
    let price = 240 * 1_000_000_000_000u128;
    let start = world.epoch.after(EpochCount(60));
    let mut deals = Vec::new();
    for (owner, &id) in owners.iter().zip(&ids) {
        let mut proposal = world.proposal(&client, id, 2048);
        (proposal.start, proposal.end) = (start, start.after(EpochCount(240)));
        deals.push((
            world
                .publish(owner, proposal.clone().sign(&client))
                .expect("acceptable"),
            proposal,
        ));
    }
    assert_eq!(world.market(&client).locked, TokenAmount(5 * price));
    for (index, (owner, &id)) in owners.iter().zip(&ids).enumerate() {
        world.commit(owner, id, 0, vec![deals[index].0]);
        assert_eq!(world.deal_status(&deals[index].0), DealStatus::Active);
    }
    assert!(world.epoch < start, "all five were committed in time");

    // Provider 4 proves once and is never seen again.
    let first_close = world.next_close(ids[4], 0);
    let provers: Vec<(&SigningKey, ProviderId, &[u64])> = owners
        .iter()
        .zip(&ids)
        .map(|(owner, &id)| (owner, id, [].as_slice()))
        .collect();
    world.run_proving(first_close, &provers);
    assert_eq!(world.status(ids[4], 0), SectorStatus::Active);
    let honest = &provers[..4];
    let paid_before = world.deal(&deals[4].0).paid;
    let balance_before = {
        let view = world.provider(ids[4]);
        TokenAmount(view.balance.0 + view.claimable.0)
    };

    // The first missed close costs only the period's pay.
    world.run_proving(first_close.after(EpochCount(120)), honest);
    assert_eq!(world.status(ids[4], 0), SectorStatus::Faulty);
    assert_eq!(world.deal(&deals[4].0).paid, paid_before);
    assert!(
        world.provider(ids[4]).balance >= balance_before,
        "nothing was charged"
    );
    let charged = |world: &World| -> u128 {
        let fees = world.history.iter().filter_map(|(_, event)| match event {
            Event::FaultFee {
                provider, amount, ..
            } if *provider == ids[4] => Some(amount.0),
            _ => None,
        });
        fees.sum()
    };
    assert_eq!(charged(&world), 0);

    // Each later one costs FF: 5 % of the pledge at most.
    let pledge = world.sector(ids[4], 0).pledge.expect("live");
    let fee = world.sector(ids[4], 0).fault_fee.expect("live");
    assert!(fee.0 > 0 && fee.0 <= pledge.0 / 20);
    world.run_proving(first_close.after(EpochCount(240)), honest);
    assert!(charged(&world) > 0 && charged(&world) <= pledge.0 / 20);

    // At 3 PP after the first missed close the sector is terminated.
    world.run_proving(first_close.after(EpochCount(120 + 359)), honest);
    assert_eq!(world.status(ids[4], 0), SectorStatus::Faulty);
    let client_before = world.market(&client);
    world.run_proving(first_close.after(EpochCount(120 + 360)), honest);
    assert_eq!(world.status(ids[4], 0), SectorStatus::FaultTimeout);
    assert_eq!(world.provider(ids[4]).pledge, TokenAmount(0));
    assert_eq!(
        world.provider(ids[4]).fee_debt,
        TokenAmount(0),
        "solvency: it ends without debt"
    );

    // Its deal was over by then (end is start + 240), so its collateral came back and the unpaid rest is the client's.
    let (id, proposal) = &deals[4];
    let deal = world.deal(id);
    assert_eq!(deal.status, DealStatus::Completed);
    assert_eq!(deal.paid.0 + deal.refunded.0, price);
    assert!(proposal.end < world.epoch && client_before.locked.0 == 0);

    // The honest four were paid in full, 5 % burnt.
    for (index, (id, proposal)) in deals[..4].iter().enumerate() {
        let deal = world.deal(id);
        assert_eq!(
            (deal.status, deal.paid.0, deal.refunded.0),
            (DealStatus::Completed, price, 0)
        );
        let market = world.market(&owners[index]);
        assert_eq!(market.escrow.0, 2_000_000 * TOKEN + price - price / 20);
        assert_eq!(market.locked.0, 0);
        assert!(proposal.provider_collateral.0 > 0);
    }
    assert_eq!(world.replay(&accounts), world.state, "I13");
}

/// A provider dies before its deal ends: the client gets the unpaid rest and half the collateral, the other half burns.
#[test]
fn a_deal_broken_by_fault_timeout() {
    let (client, owner) = (key(1), key(10));
    let accounts = [
        (address(&client), 1_000 * TOKEN),
        (address(&owner), 50_000_000 * TOKEN),
    ];
    let mut world = World::new(ChainParams::devnet(), &accounts);
    let id = world.register(&owner, 1_000_000 * TOKEN);
    world.fund_market(&client, 100 * TOKEN);
    world.fund_market(&owner, 1_000_000 * TOKEN);
    let mut proposal = world.proposal(&client, id, 2048);
    proposal.end = proposal.start.after(EpochCount(5_000));
    let (price, collateral) = (proposal.price.0, proposal.provider_collateral.0);
    let deal = world
        .publish(&owner, proposal.clone().sign(&client))
        .expect("acceptable");
    world.commit(&owner, id, 7, vec![deal]);
    let first = world.next_close(id, 7);
    world.run_proving(first.after(EpochCount(120)), &[(&owner, id, &[])]);
    let last_paid = first.after(EpochCount(120));
    let paid = price * u128::from(last_paid.since(proposal.start).0);
    assert_eq!(world.deal(&deal).paid.0, paid);
    world.run_to(last_paid.after(EpochCount(120 + 360)));
    assert_eq!(world.deal_status(&deal), DealStatus::Slashed);
    assert_eq!(
        world.market(&client).escrow.0,
        100 * TOKEN - paid + collateral / 2
    );
    assert_eq!(world.market(&client).locked.0, 0);
    let pay = paid - paid / 20;
    assert_eq!(
        world.market(&owner).escrow.0,
        1_000_000 * TOKEN + pay - collateral
    );
    assert_eq!(world.market(&owner).locked.0, 0);
}

/// Three providers: one honest, one that loses a disk, one that leaves. Balances computed here from the rules, not by the
/// crate: emission of each epoch by the table-free definition at these small values, shares by power, fees from events'
/// absence or presence.
#[test]
fn three_providers_with_hand_computed_balances() {
    let owners = [key(10), key(11), key(12)];
    let accounts: Vec<_> = owners
        .iter()
        .map(|owner| (address(owner), 50_000_000 * TOKEN))
        .collect();
    let mut world = World::new(ChainParams::devnet(), &accounts);
    let deposit = 1_000_000 * TOKEN;
    let ids: Vec<ProviderId> = owners
        .iter()
        .map(|owner| world.register(owner, deposit))
        .collect();
    for (owner, &id) in owners.iter().zip(&ids) {
        world.commit(owner, id, 0, vec![]);
    }
    let (honest, disk, leaver) = (ids[0], ids[1], ids[2]);
    let pledges: Vec<u128> = ids
        .iter()
        .map(|&id| world.sector(id, 0).pledge.expect("live").0)
        .collect();
    // Everyone activates.
    let ready = ids
        .iter()
        .map(|&id| world.next_close(id, 0))
        .max()
        .expect("three");
    let all: Vec<(&SigningKey, ProviderId, &[u64])> = owners
        .iter()
        .zip(&ids)
        .map(|(owner, &id)| (owner, id, [].as_slice()))
        .collect();
    world.run_proving(ready, &all);
    for &id in &ids {
        assert_eq!(world.status(id, 0), SectorStatus::Active);
    }

    // Rewards of one full period with all three active: equal power, so equal shares of what is minted.
    let earned = |world: &World, id: ProviderId| {
        let view = world.provider(id);
        view.balance.0 + view.claimable.0
    };
    let before: Vec<u128> = ids.iter().map(|&id| earned(&world, id)).collect();
    let minted = world.net().minted.0;
    world.run_proving(world.epoch.after(EpochCount(15)), &all);
    let share = (world.net().minted.0 - minted) / 3;
    for (index, &id) in ids.iter().enumerate() {
        let gain = earned(&world, id) - before[index];
        assert!(
            share.abs_diff(gain) <= 20,
            "provider {id} gained {gain} of {share}: more than dust is missing"
        );
    }

    // The leaver terminates in time: its pledge comes back, the fee is 2 % of it or more, at most 8.5 %.
    while world.deadlines(leaver)[usize::from(world.sector(leaver, 0).deadline.expect("live"))]
        .window
        .open
        .0
        <= world.epoch.0 + 21
    {
        world.run_proving(world.epoch.next(), &all);
    }
    let age = world
        .epoch
        .next()
        .since(world.sector(leaver, 0).activation.expect("live"))
        .0;
    let fault_fee = world.sector(leaver, 0).fault_fee.expect("live").0;
    let balance = earned(&world, leaver);
    let minted = world.net().minted.0;
    world.must(
        &owners[2],
        Message::Terminate {
            provider: leaver,
            sector: prover::SectorNumber(0),
        },
    );
    let full = pledges[2] * 85 / 1_000;
    // Terms of chain.md §10: by age, at least 2 %, at least 105 % of the fault fee.
    let fee = (u128::from(age) * full / (140 * 120))
        .min(full)
        .max(pledges[2] * 2 / 100)
        .max(fault_fee * 105 / 100);
    let last_reward = (world.net().minted.0 - minted) / 3;
    let after = earned(&world, leaver);
    assert!(
        after.abs_diff(balance + last_reward - fee) <= 20,
        "{after} against {balance} + {last_reward} - {fee}"
    );
    assert_eq!(world.provider(leaver).pledge.0, 0);

    // The disk dies: two closes missed, charged at the second, then recovery.
    let remaining = [all[0]];
    let first_missed = world.next_close(disk, 0);
    let first_missed = if world.due_posts(disk, &[]).is_empty()
        && world.deadlines(disk)[usize::from(world.sector(disk, 0).deadline.expect("live"))].is_open
    {
        // This period's proof was accepted already: the next one is missed.
        first_missed.after(EpochCount(120))
    } else {
        first_missed
    };
    world.run_proving(first_missed, &remaining);
    assert_eq!(world.status(disk, 0), SectorStatus::Faulty);
    let balance = world.provider(disk).balance.0;
    world.run_proving(first_missed.after(EpochCount(119)), &remaining);
    assert_eq!(
        world.provider(disk).balance.0,
        balance,
        "a faulty sector earns nothing and the first miss is free"
    );
    let expected = world.sector(disk, 0).fault_fee.expect("live").0;
    world.run_proving(first_missed.after(EpochCount(120)), &remaining);
    let charged = balance - world.provider(disk).balance.0;
    // The fee is that of the close's own epoch; the rate moved once in between.
    assert!(
        charged > 0 && charged.abs_diff(expected) <= expected / 8 + 1,
        "{charged} against {expected}"
    );
    assert!(charged <= pledges[1] / 20);

    // All of the emission now goes to the honest one.
    let (minted, before) = (world.net().minted.0, earned(&world, honest));
    world.run_proving(world.epoch.after(EpochCount(10)), &remaining);
    let gain = earned(&world, honest) - before;
    assert!((world.net().minted.0 - minted).abs_diff(gain) <= 20);

    // The replacement disk: declared, proven, active again.
    let declare = Message::DeclareRecovered {
        provider: disk,
        sectors: vec![prover::SectorNumber(0)],
    };
    while world.send(&owners[1], declare.clone()).is_err() {
        assert!(
            world.epoch < first_missed.after(EpochCount(240)),
            "recovery must be possible within a period"
        );
    }
    let close = world.next_close(disk, 0);
    world.run_proving(close, &all[..2]);
    assert_eq!(world.status(disk, 0), SectorStatus::Active);
    assert_eq!(world.replay(&accounts), world.state, "I13");
}

/// Expiration: at the first close after it the pledge is free in full, the number is spent, rewards stay.
#[test]
fn a_sector_expires_and_its_pledge_is_free() {
    let owner = key(10);
    let mut world = World::new(
        ChainParams::devnet(),
        &[(address(&owner), 50_000_000 * TOKEN)],
    );
    let id = world.register(&owner, 1_000_000 * TOKEN);
    let mut msg = world.precommit_msg(id, 3, vec![]);
    let ends = world.epoch.next().after(EpochCount(200 + 240));
    if let Message::PreCommit { expiration, .. } = &mut msg {
        *expiration = ends;
    }
    world.must(&owner, msg);
    world.run_to(world.epoch.after(EpochCount(4)));
    world.must(&owner, world.prove_msg(id, 3));
    world.run_proving(ends.after(EpochCount(121)), &[(&owner, id, &[])]);
    assert_eq!(world.status(id, 3), SectorStatus::Expired);
    let view = world.provider(id);
    assert_eq!((view.pledge.0, view.power.0, view.fee_debt.0), (0, 0, 0));
    assert!(
        world
            .deadlines(id)
            .iter()
            .all(|deadline| deadline.partitions.is_empty())
    );
    if world.params.closed_credit {
        return;
    }
    // Out again: the owner gets back more than it brought, less what still vests.
    world.run_to(world.epoch.after(EpochCount(200)));
    let available = world.provider(id).balance.0 - world.provider(id).vesting.0;
    assert!(
        world.provider(id).vesting.0 > 0,
        "vesting is lazy: the withdrawal below unlocks it"
    );
    world.must(
        &owner,
        Message::ProviderWithdraw {
            provider: id,
            amount: TokenAmount(available),
        },
    );
    assert_eq!(world.provider(id).vesting.0, 0);
    assert!(available > 1_000_000 * TOKEN, "it earned");
    assert!(world.epoch > Epoch(0));
}

/// A pre-commitment that is never proven: deposit burnt, deals free for another sector, number spent. Trying again for
/// better challenges costs twenty days of the sector's reward each time.
#[test]
fn tm_p7_an_unproven_precommitment_costs_its_deposit() {
    let (client, owner) = (key(1), key(10));
    let accounts = [
        (address(&client), 1_000 * TOKEN),
        (address(&owner), 50_000_000 * TOKEN),
    ];
    let mut world = World::new(ChainParams::devnet(), &accounts);
    let id = world.register(&owner, 1_000_000 * TOKEN);
    world.fund_market(&client, 100 * TOKEN);
    world.fund_market(&owner, 1_000_000 * TOKEN);
    let mut proposal = world.proposal(&client, id, 1024);
    (proposal.start, proposal.end) = (
        world.epoch.after(EpochCount(1_000)),
        world.epoch.after(EpochCount(1_100)),
    );
    let deal = world
        .publish(&owner, proposal.sign(&client))
        .expect("acceptable");
    world.must(&owner, world.precommit_msg(id, 0, vec![deal]));
    let deposit = world.sector(id, 0).deposit.expect("pre-committed").0;
    assert_eq!(world.provider(id).deposits.0, deposit);
    world.run_to(world.epoch.after(EpochCount(200)));
    assert_eq!(world.status(id, 0), SectorStatus::PreCommitted);
    let burnt = world.net().burnt.0;
    world.run_to(world.epoch.next());
    assert_eq!(world.status(id, 0), SectorStatus::NeverProven);
    assert_eq!(world.net().burnt.0 - burnt, deposit);
    assert_eq!(world.provider(id).balance.0, 1_000_000 * TOKEN - deposit);
    // The deal goes into another sector.
    world.commit(&owner, id, 1, vec![deal]);
    assert_eq!(world.deal_status(&deal), DealStatus::Active);
}

/// Skipping is declaring: the rest of the partition is proven, the skipped sector faces its first, free close.
#[test]
fn a_skipped_sector_and_its_neighbour() {
    let owner = key(10);
    let mut world = World::new(
        ChainParams::devnet(),
        &[(address(&owner), 50_000_000 * TOKEN)],
    );
    let id = world.register(&owner, 10_000_000 * TOKEN);
    let (close, good, lost) = world.neighbours(&owner, id);
    world.run_proving(close, &[(&owner, id, &[lost])]);
    assert_eq!(
        (world.status(id, good), world.status(id, lost)),
        (SectorStatus::Active, SectorStatus::Faulty)
    );
    assert_eq!(world.sector(id, lost).faulty_since, Some(close));
    // The next close charges the lost one only.
    world.run_proving(close.after(EpochCount(120)), &[(&owner, id, &[lost])]);
    let fees: Vec<u64> = world
        .history
        .iter()
        .filter_map(|(_, event)| match event {
            Event::FaultFee { sector, .. } => Some(sector.0),
            _ => None,
        })
        .collect();
    assert_eq!(fees, [lost]);
}

/// Every view of a busy world reads back from its JSON, and pages join to the whole.
#[test]
fn views_survive_json_and_pages_join() {
    fn survives<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(
        view: &T,
    ) {
        let json = serde_json::to_string(view).expect("plain data");
        assert_eq!(
            &serde_json::from_str::<T>(&json).expect("what was written"),
            view
        );
    }
    let (client, owner) = (key(1), key(10));
    let accounts = [
        (address(&client), 1_000 * TOKEN),
        (address(&owner), 50_000_000 * TOKEN),
    ];
    let mut world = World::new(ChainParams::devnet(), &accounts);
    let id = world.register(&owner, 20_000_000 * TOKEN);
    world.fund_market(&client, 100 * TOKEN);
    world.fund_market(&owner, 1_000_000 * TOKEN);
    let mut deals = Vec::new();
    for number in 0..3 {
        let deal = world.proposal(&client, id, 256).sign(&client);
        let deal = world.publish(&owner, deal).expect("acceptable");
        world.commit(&owner, id, number, vec![deal]);
        deals.push(deal);
    }
    world.must(&owner, world.precommit_msg(id, 8, vec![]));
    world.run_proving(world.epoch.after(EpochCount(130)), &[(&owner, id, &[1])]);
    survives(&world.provider(id));
    survives(&world.market(&owner));
    survives(&world.deadlines(id));
    for number in [0, 1, 2, 8] {
        survives(&world.sector(id, number));
    }
    for deal in &deals {
        survives(&world.deal(deal));
    }
    for record in &world.events {
        survives(record);
    }
    use chain_lite::query;
    let tx = world.tx(
        &owner,
        0,
        vec![Message::Terminate {
            provider: id,
            sector: prover::SectorNumber(99),
        }],
    );
    world.try_block(&[tx]).receipts.iter().for_each(survives);

    let state = &world.state;
    let all = query::sectors(state, id, None, 100).expect("memory");
    let mut joined = query::sectors(state, id, None, 2).expect("memory");
    joined.extend(
        query::sectors(state, id, joined.last().map(|view| view.number), 100).expect("memory"),
    );
    assert_eq!((all.len(), &joined), (4, &all));
    assert_eq!(
        query::precommits(state, id, None, 100)
            .expect("memory")
            .len(),
        1
    );
    let all = query::deals_of_client(state, &address(&client), None, 100).expect("memory");
    let mut joined = query::deals_of_client(state, &address(&client), None, 1).expect("memory");
    joined.extend(
        query::deals_of_client(
            state,
            &address(&client),
            joined.last().map(|view| view.id),
            100,
        )
        .expect("memory"),
    );
    assert_eq!((all.len(), &joined), (3, &all));
    assert_eq!(
        query::deals_of_provider(state, id, None, 100).expect("memory"),
        all
    );
    assert_eq!(
        query::providers(state, None, 10).expect("memory"),
        [world.provider(id)]
    );
    assert_eq!(query::providers(state, Some(id), 10).expect("memory"), []);
}

/// What an auditor counts: of a segment (k = 2) distinct pieces, of a manifest (k = 1) distinct holders of the one piece.
#[test]
fn a_files_audit_counts_holders_of_copies_and_distinct_pieces() {
    let (client, stranger) = (key(1), key(2));
    let owners: Vec<SigningKey> = (10..14).map(key).collect();
    let mut accounts = vec![
        (address(&client), 1_000_000 * TOKEN),
        (address(&stranger), 1_000_000 * TOKEN),
    ];
    accounts.extend(owners.iter().map(|o| (address(o), 50_000_000 * TOKEN)));
    let mut world = World::new(ChainParams::devnet(), &accounts);
    let mut ids = Vec::new();
    for owner in &owners {
        ids.push(world.register(owner, 1_000_000 * TOKEN));
        world.fund_market(owner, 1_000_000 * TOKEN);
    }
    world.fund_market(&client, 1_000 * TOKEN);
    world.fund_market(&stranger, 1_000 * TOKEN);
    let group = |k, root| DealGroup {
        k,
        n: 4,
        file_root: Blake3Root([root; 32]),
    };
    let (segment, manifest) = (group(2, 1), group(1, 2));
    let template = world.proposal(&client, ids[0], 512);
    let copy = |world: &mut World, by: &SigningKey, index: usize, group, comm_p| {
        // Far enough ahead that three sectors can be sealed one after the other.
        let start = world.epoch.after(EpochCount(450));
        let proposal = DealProposal {
            group,
            piece_commp: comm_p,
            start,
            end: start.after(EpochCount(600)),
            ..world.proposal(by, ids[index], 512)
        };
        world
            .publish(&owners[index], proposal.sign(by))
            .expect("acceptable")
    };
    // Provider 0 holds a shard and two copies, 1 the same shard and a copy, 2 another shard and a copy, 3 a copy that it never seals.
    let shared = template.piece_commp;
    let other = world.proposal(&client, ids[0], 512).piece_commp;
    let third = world.proposal(&client, ids[0], 512).piece_commp;
    let mut sectors = vec![Vec::new(); 4];
    for (index, group, comm_p) in [
        (0, segment, shared),
        (0, manifest, third),
        (0, manifest, third),
        (1, segment, shared),
        (1, manifest, third),
        (2, segment, other),
        (2, manifest, third),
        (3, manifest, third),
    ] {
        sectors[index].push(copy(&mut world, &client, index, group, comm_p));
    }
    // Deals of another client under the same name are another group.
    let foreign = copy(&mut world, &stranger, 1, manifest, shared);
    let provers: Vec<(&SigningKey, ProviderId, &[u64])> = (0..3)
        .map(|i| (&owners[i], ids[i], [].as_slice()))
        .collect();
    // Commits the next provider's sector and runs until its first deadline, those before it proving too.
    let sealed = |world: &mut World, index: usize| {
        world.commit(&owners[index], ids[index], 0, sectors[index].clone());
        let close = world.next_close(ids[index], 0);
        world.run_proving(close, &provers[..=index]);
    };
    let counts = |world: &World| {
        let mut audit = FileAudit::default();
        audit
            .close(&world.state, &|_, _| true)
            .expect("memory cannot fail");
        let of = |k| {
            let group = audit
                .groups
                .iter()
                .find(|g| g.k == k && g.client == address(&client))
                .expect("chosen");
            (group.healthy, group.readable)
        };
        assert_eq!(audit.groups.len(), 3);
        let strangers = audit.groups.iter().find(|g| g.client != address(&client));
        let strangers = strangers.expect("chosen too");
        assert_eq!((strangers.pieces.len(), strangers.healthy), (1, 0));
        assert_eq!(strangers.pieces[0].deal, foreign);
        (of(2), of(1))
    };
    assert_eq!(
        counts(&world),
        ((0, false), (0, false)),
        "nothing is sealed"
    );
    sealed(&mut world, 0);
    assert_eq!(
        counts(&world),
        ((1, false), (1, true)),
        "two copies with one holder are one"
    );
    sealed(&mut world, 1);
    assert_eq!(
        counts(&world),
        ((1, false), (2, true)),
        "the same shard twice is one piece"
    );
    sealed(&mut world, 2);
    assert_eq!(counts(&world), ((2, true), (3, true)));

    // Provider 2 stops proving: its pieces do not count any more.
    let close = world.next_close(ids[2], 0);
    world.run_proving(close, &provers[..2]);
    assert_eq!(world.status(ids[2], 0), SectorStatus::Faulty);
    assert_eq!(counts(&world), ((1, false), (2, true)));
}
