//! DataCap (`chain.md` §§8, 12): who grants what, what a verified deal takes, gives back and is worth.

use chain_lite::account::{Address, DealId, ProviderId};
use chain_lite::deal::DealStatus;
use chain_lite::error::{ErrorCode, Subject};
use chain_lite::message::Message;
use chain_lite::params::ChainParams;
use chain_lite::query::{self, SectorStatus};
use chain_lite::units::{EpochCount, StoragePower};
use ed25519_dalek::SigningKey;

use crate::world::{TOKEN, World, address, key};

const RICH: u128 = 50_000_000 * TOKEN;

fn allow(notary: &SigningKey, bytes: u128) -> Message {
    Message::AllowDataCap {
        notary: address(notary),
        bytes: StoragePower(bytes),
    }
}

fn grant(client: Address, bytes: u128) -> Message {
    Message::GrantDataCap {
        client,
        bytes: StoragePower(bytes),
    }
}

struct Parties {
    world: World,
    root: SigningKey,
    notary: SigningKey,
    client: SigningKey,
    owner: SigningKey,
    id: ProviderId,
}

fn parties() -> Parties {
    let [client, owner, root, notary] = [1, 10, 20, 21].map(key);
    let params = ChainParams {
        datacap_root: Some(address(&root)),
        ..ChainParams::devnet()
    };
    let accounts = [&client, &owner, &root, &notary].map(|key| (address(key), RICH));
    let mut world = World::new(params, &accounts);
    let id = world.register(&owner, 10_000_000 * TOKEN);
    world.fund_market(&client, 1_000 * TOKEN);
    world.fund_market(&owner, 10_000_000 * TOKEN);
    Parties {
        world,
        root,
        notary,
        client,
        owner,
        id,
    }
}

impl Parties {
    /// `[held, consumed, granted]` of the client and the network.
    fn caps(&self) -> [u128; 3] {
        let held = query::datacap(&self.world.state, &address(&self.client)).expect("memory");
        let net = self.world.net();
        [held.held.0, net.datacap_consumed.0, net.datacap_granted.0]
    }

    fn publish(
        &mut self,
        size: u64,
        verified: bool,
    ) -> Result<DealId, chain_lite::error::ChainError> {
        let mut proposal = self.world.proposal(&self.client, self.id, size);
        proposal.verified = verified;
        self.world.publish(&self.owner, proposal.sign(&self.client))
    }
}

#[test]
fn datacap_comes_from_the_root_through_notaries() {
    let mut p = parties();
    let to = address(&p.client);
    for stranger in [&p.notary.clone(), &p.client.clone()] {
        p.world
            .fails(stranger, allow(&p.notary, 10), ErrorCode::NotAllowed);
        p.world
            .fails(stranger, grant(to, 10), ErrorCode::OutOfBounds);
    }
    p.world
        .fails(&p.root, allow(&p.notary, 0), ErrorCode::OutOfBounds);
    p.world.must(&p.root, allow(&p.notary, 4_000));
    // Neither the root itself nor the notary's own wish goes beyond the allowance.
    p.world.fails(&p.root, grant(to, 1), ErrorCode::OutOfBounds);
    p.world
        .fails(&p.notary, grant(to, 4_001), ErrorCode::OutOfBounds);
    p.world
        .fails(&p.notary, grant(to, 0), ErrorCode::OutOfBounds);
    p.world.must(&p.notary, grant(to, 3_000));
    p.world.must(&p.notary, grant(address(&p.notary), 1_000));
    let own = query::datacap(&p.world.state, &address(&p.notary)).expect("memory");
    assert_eq!((own.allowance.0, own.held.0), (0, 1_000));
    p.world
        .fails(&p.notary, grant(to, 1), ErrorCode::OutOfBounds);
    assert_eq!(p.caps(), [3_000, 0, 4_000]);
    // More than there can be is no panic.
    p.world.must(&p.root, allow(&p.notary, 1));
    p.world
        .fails(&p.root, allow(&p.notary, u128::MAX), ErrorCode::Overflow);
}

#[test]
fn a_verified_deal_takes_its_size_and_gives_it_back_only_if_never_activated() {
    let mut p = parties();
    let refused = p.publish(1_024, true).expect_err("no DataCap yet");
    assert!(
        matches!(refused, chain_lite::error::ChainError::OutOfBounds { what, .. } if what == Subject::DataCap),
        "{refused}"
    );
    p.world.must(&p.root, allow(&p.notary, 2_048));
    p.world.must(&p.notary, grant(address(&p.client), 2_048));
    let kept = p.publish(1_024, true).expect("granted");
    assert_eq!(p.caps(), [1_024, 1_024, 2_048]);
    p.publish(1_024, false).expect("needs none");
    let lost = p.publish(1_024, true).expect("granted");
    assert_eq!(p.caps(), [0, 2_048, 2_048]);
    assert!(p.publish(128, true).is_err(), "it is used up");

    // Pre-committed is not activated: the second deal's sector is never proven.
    p.world.commit(&p.owner, p.id, 0, vec![kept]);
    let pending = p.world.precommit_msg(p.id, 1, vec![lost]);
    p.world.must(&p.owner, pending);
    let start = p.world.deal(&lost).proposal.start;
    p.world.run_proving(start.next(), &[(&p.owner, p.id, &[])]);
    assert_eq!(p.world.deal_status(&lost), DealStatus::Slashed);
    assert_eq!(p.caps(), [1_024, 1_024, 2_048]);

    // Broken later: the network had the bytes for a while, and they are gone.
    let terminate = Message::Terminate {
        provider: p.id,
        sector: prover::SectorNumber(0),
    };
    while p.world.send(&p.owner, terminate.clone()).is_err() {
        assert!(p.world.status(p.id, 0).is_live());
        let now = p.world.epoch.next();
        p.world.run_proving(now, &[(&p.owner, p.id, &[])]);
    }
    assert_eq!(p.world.status(p.id, 0), SectorStatus::Terminated);
    assert_eq!(p.world.deal_status(&kept), DealStatus::Slashed);
    assert_eq!(p.caps(), [1_024, 1_024, 2_048]);
}

/// Ten times the power for the verified byte-epochs, and the deposit and the pledge to match.
#[test]
fn verified_bytes_count_tenfold_for_their_time() {
    let mut p = parties();
    p.world.must(&p.root, allow(&p.notary, 4_096));
    p.world.must(&p.notary, grant(address(&p.client), 4_096));
    let deal = p.publish(1_024, true).expect("granted");
    let proposal = p.world.deal(&deal).proposal;
    let precommit = p.world.precommit_msg(p.id, 0, vec![deal]);
    let plain =
        query::sector_quote(&p.world.state, crate::world::SIZE, EpochCount(1)).expect("memory");
    p.world.must(&p.owner, precommit);
    let deposit = p.world.sector(p.id, 0).deposit.expect("pre-committed");
    p.world
        .run_to(p.world.epoch.after(p.world.params.seed_delay));
    let prove = p.world.prove_msg(p.id, 0);
    p.world.must(&p.owner, prove);
    let view = p.world.sector(p.id, 0);
    // The formula of chain.md §8 once more, in other words: average weight of a byte-epoch, in tenths, 20 binary places.
    let life = u128::from(view.expiration.expect("live").0 - p.world.epoch.0);
    let all = 2_048 * life;
    let verified = 1_024 * u128::from(proposal.end.0 - proposal.start.0);
    let tenths = ((all - verified) * 10 + verified * 100) * (1 << 20) / all;
    let expected = 2_048 * (tenths / 10) / (1 << 20);
    let power = view.power.expect("committed").0;
    assert_eq!(power, expected);
    assert!(power > 2_048 && power < 20_480);
    let ratio = |a: u128, b: u128| (a * 1_000 / b, power * 1_000 / 2_048);
    let (pledge, by_power) = ratio(view.pledge.expect("committed").0, plain.pledge.0);
    assert!(pledge.abs_diff(by_power) <= 1, "{pledge} {by_power}");
    let (locked, by_power) = ratio(deposit.0, plain.deposit.0);
    // Drawn five epochs earlier, over a life that much longer.
    assert!(locked.abs_diff(by_power) <= 20, "{locked} {by_power}");

    let close = p.world.next_close(p.id, 0);
    p.world.run_proving(close, &[(&p.owner, p.id, &[])]);
    let net = p.world.net();
    assert_eq!((net.raw_power.0, net.power.0), (2_048, expected));

    // Weight 10 switches the feature off.
    let mut off = ChainParams::devnet();
    off.quality_verified = 9;
    assert!(off.check().is_err());
}
