//! I1–I8, I10 and I12 of `chain.md` §16 recomputed from the whole state, and the indexes recomputed from the leaves.
//!
//! [`check`] reads every leaf, so it is for tests (after every block), for `audit` at the end of a replay, and for an
//! operator who wants to know; the cheap form of I1 runs in every block ([`crate::state::Network::supply_holds`]). What
//! needs history is checked where there is one: I9, I11 and I14 by the state-machine test over events and blocks, I13 by
//! replay.
//! Cost: time and memory in proportion to the state.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use borsh::BorshDeserialize;
use prover::SectorNumber;

use crate::account::{Account, Address, ChannelId, DealId, DisputeDigest, ProviderId};
use crate::channel::{Channel, MAX_LANES};
use crate::codec::encode;
use crate::datacap::DataCap;
use crate::deal::publish::activation_timer;
use crate::deal::{Deal, DealStatus};
use crate::lit;
use crate::market::Escrow;
use crate::params::ChainParams;
use crate::provider::Provider;
use crate::query;
use crate::reward::{self, Vesting};
use crate::sector::deadline::Schedule;
use crate::sector::dispute::{self, PostId, StoredPost};
use crate::sector::{Deadline, Partition, PreCommit, Sector, SectorLeaf, SectorState};
use crate::state::{KvRead, Network, StoreError, decode, key, scan};
use crate::units::{Epoch, EpochCount, TokenAmount};

/// A rule of the whole state that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which one: `I1` … or `index`.
    pub rule: &'static str,
    /// What was found.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// All leaves, decoded.
struct Snapshot {
    params: ChainParams,
    net: Network,
    accounts: Vec<(Address, Account)>,
    escrows: BTreeMap<Address, Escrow>,
    providers: BTreeMap<ProviderId, Provider>,
    vesting: BTreeMap<ProviderId, Vesting>,
    deadlines: BTreeMap<(ProviderId, u16), Deadline>,
    partitions: BTreeMap<(ProviderId, u16, u32), Partition>,
    precommits: BTreeMap<(ProviderId, SectorNumber), PreCommit>,
    sectors: BTreeMap<(ProviderId, SectorNumber), Sector>,
    deals: BTreeMap<DealId, Deal>,
    channels: BTreeMap<ChannelId, Channel>,
    datacaps: BTreeMap<Address, DataCap>,
    posts: Vec<(PostId, StoredPost)>,
    announcements: BTreeMap<(Address, DisputeDigest), Epoch>,
}

impl Snapshot {
    fn read(state: &dyn KvRead) -> Result<Self, StoreError> {
        let leaves: BTreeMap<_, SectorLeaf> = load(state, &key::sectors(), key::parse_sector)?;
        let (mut precommits, mut sectors) = (BTreeMap::new(), BTreeMap::new());
        for (name, leaf) in leaves {
            match leaf {
                SectorLeaf::PreCommitted(leaf) => drop(precommits.insert(name, leaf)),
                SectorLeaf::Committed(leaf) => drop(sectors.insert(name, leaf)),
                SectorLeaf::Ended(_) => {}
            }
        }
        let address = |key: &[u8]| key::last_32(key).map(Address);
        Ok(Self {
            params: query::params(state)?,
            net: query::totals(state)?,
            accounts: load(state, &key::accounts(), address)?
                .into_iter()
                .collect(),
            escrows: load(state, &key::markets(), address)?,
            providers: load(state, &key::providers(), key::parse_provider)?,
            vesting: load(state, &key::vestings(), key::parse_provider)?,
            deadlines: load(state, &key::deadlines(), key::parse_deadline)?,
            partitions: load(state, &key::partitions(), key::parse_partition)?,
            deals: load(state, &key::deals(), |key| key::last_32(key).map(DealId))?,
            channels: load(state, &key::channels(), key::parse_channel)?,
            datacaps: load(state, &key::datacaps(), address)?,
            posts: dispute::all_stored(state)?,
            announcements: load(state, &key::announcements(), key::parse_announcement)?,
            precommits,
            sectors,
        })
    }
}

fn load<K: Ord, V: BorshDeserialize>(
    state: &dyn KvRead,
    prefix: &[u8],
    name: impl Fn(&[u8]) -> Option<K>,
) -> Result<BTreeMap<K, V>, StoreError> {
    let mut found = BTreeMap::new();
    for (key, bytes) in scan(state, prefix)? {
        let name = name(&key).ok_or_else(|| StoreError::corrupt(&key, "not a key of its kind"))?;
        found.insert(name, decode(&key, &bytes)?);
    }
    Ok(found)
}

/// Every rule that one state can break, and what breaks it. Empty is good.
pub fn check(state: &dyn KvRead) -> Result<Vec<Violation>, StoreError> {
    let snapshot = Snapshot::read(state)?;
    let mut report = Report(Vec::new());
    snapshot.supply(&mut report);
    snapshot.emission(&mut report);
    snapshot.provider_claims(&mut report);
    snapshot.partitions_hold_each_sector_once(&mut report);
    snapshot.power(&mut report);
    snapshot.escrow(&mut report);
    snapshot.deals(&mut report);
    snapshot.channels(&mut report);
    snapshot.datacap(&mut report);
    snapshot.compare_indexes(state, &mut report)?;
    Ok(report.0)
}

/// The index entries that follow from the leaves.
pub fn indexes(state: &dyn KvRead) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, StoreError> {
    Snapshot::read(state)?.indexes(state)
}

struct Report(Vec<Violation>);

impl Report {
    fn expect(&mut self, holds: bool, rule: &'static str, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Violation { rule, what: what() });
        }
    }

    fn equal(&mut self, rule: &'static str, what: impl fmt::Display, kept: u128, found: u128) {
        self.expect(kept == found, rule, || {
            format!("{what}: kept {kept}, recomputed {found}")
        });
    }
}

/// A sum that a broken state cannot make wrap.
fn sum(amounts: impl IntoIterator<Item = TokenAmount>) -> u128 {
    amounts
        .into_iter()
        .fold(0, |sum, amount| sum.saturating_add(amount.0))
}

impl Snapshot {
    /// I1 and the running sums behind it. (I3, unsigned everywhere, is the types'.)
    fn supply(&self, report: &mut Report) {
        let free = sum(self.accounts.iter().map(|(_, account)| account.free));
        let escrow = sum(self.escrows.values().map(|escrow| escrow.escrow));
        let balances = sum(self.providers.values().map(|provider| provider.balance));
        report.equal("I1", "free money", self.net.free.0, free);
        report.equal("I1", "escrow", self.net.escrow.0, escrow);
        report.equal(
            "I1",
            "provider balances",
            self.net.provider_balance.0,
            balances,
        );
        let channels = sum(self.channels.values().map(|channel| channel.balance));
        report.equal("I1", "channels", self.net.channels.0, channels);
        let placed = sum([free, escrow, balances, channels].map(TokenAmount));
        let placed = placed
            .saturating_add(self.net.reward_pool.0)
            .saturating_add(self.net.burnt.0);
        report.equal(
            "I1",
            "all money",
            self.net.genesis.0.saturating_add(self.net.minted.0),
            placed,
        );
        let locked = self
            .providers
            .values()
            .map(|p| TokenAmount(sum([p.deposits, p.pledge, p.vesting])));
        report.equal(
            "I1",
            "locked by providers",
            self.net.provider_locked.0,
            sum(locked),
        );
        let locked = sum(self.escrows.values().map(|escrow| escrow.locked));
        report.equal("I1", "locked escrow", self.net.escrow_locked.0, locked);
    }

    /// I2, as far as one state shows it.
    fn emission(&self, report: &mut Report) {
        let (minted, target) = (
            self.net.minted.0,
            reward::minted_at(&self.params, self.net.theta),
        );
        report.expect(minted <= self.params.mint_total.0, "I2", || {
            format!("minted {minted}, more than ever will be")
        });
        report.expect(minted >= target, "I2", || {
            format!("minted {minted}, but M(theta) is {target}")
        });
    }

    /// I4, I5.
    fn provider_claims(&self, report: &mut Report) {
        for (id, provider) in &self.providers {
            let claims = sum([provider.deposits, provider.pledge, provider.vesting]);
            report.expect(provider.balance.0 >= claims, "I4", || {
                format!(
                    "provider {id} holds {}, claims are {claims}",
                    provider.balance
                )
            });
            let stakes = self.posts.iter().filter(|(post, _)| post.provider == *id);
            report.equal(
                "I5",
                format!("stake of provider {id}"),
                provider.at_stake.0,
                sum(stakes.map(|(_, post)| post.stake)),
            );
            let queue = self.vesting.get(id).map_or(0, |queue| queue.total().0);
            report.equal(
                "I5",
                format!("vesting of provider {id}"),
                provider.vesting.0,
                queue,
            );
            let deposits = self
                .precommits
                .iter()
                .filter(|((of, _), _)| of == id)
                .map(|(_, pre)| pre.deposit);
            report.equal(
                "I5",
                format!("deposits of provider {id}"),
                provider.deposits.0,
                sum(deposits),
            );
            let pledges = self
                .sectors
                .iter()
                .filter(|((of, _), _)| of == id)
                .map(|(_, sector)| sector.pledge);
            report.equal(
                "I5",
                format!("pledge of provider {id}"),
                provider.pledge.0,
                sum(pledges),
            );
        }
    }

    /// I6, first half: each live sector is in exactly the partition it names, and counts agree.
    fn partitions_hold_each_sector_once(&self, report: &mut Report) {
        let mut seen = BTreeSet::new();
        for ((id, deadline, index), partition) in &self.partitions {
            let ascending = partition
                .slots
                .windows(2)
                .all(|pair| pair[0].number < pair[1].number);
            report.expect(ascending, "I6", || {
                format!("partition {id}/{deadline}/{index} is not in order")
            });
            for slot in &partition.slots {
                seen.insert((*id, slot.number));
                let named = self
                    .sectors
                    .get(&(*id, slot.number))
                    .map(|sector| (sector.deadline, sector.partition));
                report.expect(named == Some((*deadline, *index)), "I6", || {
                    format!(
                        "sector {id}/{} is in partition {deadline}/{index}, but names {named:?}",
                        slot.number
                    )
                });
            }
            let counts = self
                .deadlines
                .get(&(*id, *deadline))
                .map(|d| d.partitions.clone())
                .unwrap_or_default();
            let kept = counts.get(*index as usize).copied().unwrap_or(0);
            report.equal(
                "I6",
                format!("sectors in {id}/{deadline}/{index}"),
                kept.into(),
                partition.slots.len() as u128,
            );
        }
        let counted: u64 = self.deadlines.values().map(Deadline::sectors).sum();
        report.equal(
            "I6",
            "sectors in deadlines",
            counted.into(),
            self.sectors.len() as u128,
        );
        for name in self.sectors.keys() {
            report.expect(seen.contains(name), "I6", || {
                format!("sector {}/{} is in no partition", name.0, name.1)
            });
        }
    }

    /// I6, second half: power is that of the active sectors.
    fn power(&self, report: &mut Report) {
        let (mut raw, mut power) = (0u128, 0u128);
        for (id, provider) in &self.providers {
            let active = self
                .partitions
                .iter()
                .filter(|((of, _, _), _)| of == id)
                .flat_map(|(_, partition)| {
                    partition
                        .slots
                        .iter()
                        .filter(|slot| slot.state == SectorState::Active)
                        .map(|slot| slot.number)
                });
            let (mut own_raw, mut own) = (0u128, 0u128);
            for number in active {
                own_raw += u128::from(provider.sector_size.bytes());
                own += self
                    .sectors
                    .get(&(*id, number))
                    .map_or(0, |sector| sector.power.0);
            }
            report.equal(
                "I6",
                format!("raw power of provider {id}"),
                provider.raw_power.0,
                own_raw,
            );
            report.equal(
                "I6",
                format!("power of provider {id}"),
                provider.power.0,
                own,
            );
            raw += own_raw;
            power += own;
        }
        report.equal("I6", "raw power of the network", self.net.raw_power.0, raw);
        report.equal("I6", "power of the network", self.net.power.0, power);
    }

    /// I7, I8.
    fn escrow(&self, report: &mut Report) {
        let mut locked: BTreeMap<Address, u128> = BTreeMap::new();
        for deal in self.deals.values().filter(|deal| deal.status.is_open()) {
            *locked.entry(deal.proposal.client).or_default() += deal.locked().0;
            if let Some(provider) = self.providers.get(&deal.proposal.provider) {
                *locked.entry(provider.owner).or_default() += deal.proposal.provider_collateral.0;
            }
        }
        for (address, escrow) in &self.escrows {
            let found = locked.remove(address).unwrap_or(0);
            report.equal(
                "I7",
                format!("locked by deals of {address}"),
                escrow.locked.0,
                found,
            );
            report.expect(escrow.locked <= escrow.escrow, "I8", || {
                format!(
                    "{address} has {} locked of {}",
                    escrow.locked, escrow.escrow
                )
            });
        }
        for (address, amount) in locked {
            report.equal("I7", format!("locked by deals of {address}"), 0, amount);
        }
    }

    /// I12, and that a deal's life and its sector's agree.
    fn deals(&self, report: &mut Report) {
        for (id, deal) in &self.deals {
            let total = deal
                .proposal
                .price
                .0
                .saturating_mul(deal.proposal.duration().0.into());
            let found = sum([deal.paid, deal.refunded, deal.locked()]);
            report.equal("I12", format!("price of deal {id}"), total, found);
            report.expect(*id == deal.proposal.id(), "I12", || {
                format!("deal {id} is stored under another name")
            });
            let holder = deal
                .sector
                .and_then(|number| self.sectors.get(&(deal.proposal.provider, number)));
            let held = holder.is_some_and(|sector| sector.deals.contains(id));
            let fits = match deal.status {
                DealStatus::Active => held,
                DealStatus::Published => !held && deal.settled == deal.proposal.start,
                DealStatus::Completed | DealStatus::Slashed => {
                    deal.locked().is_zero() && deal.ended.is_some()
                }
            };
            report.expect(fits, "I12", || {
                format!(
                    "deal {id} is {:?}, its sector {:?}",
                    deal.status, deal.sector
                )
            });
        }
    }

    /// I10.
    fn channels(&self, report: &mut Report) {
        for (id, channel) in &self.channels {
            let redeemed = sum(channel.lanes.iter().map(|lane| lane.redeemed));
            report.equal(
                "I10",
                format!("due of channel {id}"),
                channel.due.0,
                redeemed,
            );
            let ascending = channel
                .lanes
                .windows(2)
                .all(|pair| pair[0].lane < pair[1].lane);
            let sound = channel.due <= channel.balance
                && ascending
                && channel.lanes.len() <= MAX_LANES
                && id.0 < self.net.next_channel;
            report.expect(sound, "I10", || format!("channel {id} holds {channel:?}"));
        }
    }

    /// `chain.md` §12: granted = held + consumed, and consumed is what verified deals hold that were not given back.
    fn datacap(&self, report: &mut Report) {
        let held = self.datacaps.values().map(|cap| cap.held.0);
        let held = held.fold(0, u128::saturating_add);
        let taken = |deal: &&Deal| {
            deal.proposal.verified && (deal.status != DealStatus::Slashed || deal.sector.is_some())
        };
        let deals = self.deals.values().filter(taken);
        let consumed: u128 = deals
            .map(|deal| u128::from(deal.proposal.piece_size.bytes()))
            .sum();
        let (granted, kept) = (self.net.datacap_granted.0, self.net.datacap_consumed.0);
        report.equal("datacap", "consumed", kept, consumed);
        report.equal("datacap", "granted", granted, held.saturating_add(consumed));
    }

    fn indexes(&self, state: &dyn KvRead) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, StoreError> {
        let mut index = BTreeMap::new();
        let now = self.net.epoch;
        let due_at = |timer| lit::due_at(state, &self.net, timer, now);
        for (&(id, deadline), counts) in &self.deadlines {
            if let Some(provider) = self.providers.get(&id).filter(|_| counts.sectors() > 0) {
                let schedule = Schedule::of(&self.params, provider);
                let window = schedule.occurrence(now, deadline, counts);
                index.insert(key::close(window.close, id, deadline), Vec::new());
            }
        }
        for (&(id, number), pre) in &self.precommits {
            let due = due_at((pre.epoch, EpochCount(self.params.precommit_max.0 + 1)))?;
            index.insert(key::precommit_due(due, id, number), Vec::new());
        }
        for (&(id, number), sector) in &self.sectors {
            index.insert(key::comm_r(&sector.comm_r), encode(&(id, number)));
        }
        let window = self.params.dispute_window;
        for (id, _) in &self.posts {
            let due = due_at((id.close, EpochCount(window.0 + 1)))?;
            index.insert(key::dispute_due(due, id), Vec::new());
        }
        for ((sender, digest), &announced) in &self.announcements {
            let due = announced.after(window);
            index.insert(key::announcement_due(due, sender, digest), Vec::new());
        }
        for (id, deal) in &self.deals {
            if deal.status == DealStatus::Published {
                let due = due_at(activation_timer(deal))?;
                index.insert(key::deal_due(due, id), Vec::new());
            }
            index.insert(key::provider_deal(deal.proposal.provider, id), Vec::new());
            index.insert(key::client_deal(&deal.proposal.client, id), Vec::new());
            let nonce = key::client_nonce(&deal.proposal.client, deal.proposal.client_nonce);
            // Two deals under one nonce would leave one of them without its entry.
            if let Some(other) = index.insert(nonce.clone(), encode(id)) {
                index.insert(nonce, [other, encode(id)].concat());
            }
        }
        Ok(index)
    }

    fn compare_indexes(&self, state: &dyn KvRead, report: &mut Report) -> Result<(), StoreError> {
        let mut expected = self.indexes(state)?;
        for tag in key::INDEX_TAGS {
            for (key, value) in scan(state, &[tag])? {
                let found = expected.remove(&key);
                report.expect(found.as_ref() == Some(&value), "index", || {
                    format!(
                        "{} holds {}, expected {found:?}",
                        hex::encode(&key),
                        hex::encode(&value)
                    )
                });
            }
        }
        for key in expected.keys() {
            report.expect(false, "index", || {
                format!("{} is missing", hex::encode(key))
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::execute::genesis_writes;
    use crate::state::MemoryState;

    /// The checker can fail: each kind of damage is named.
    #[test]
    fn damage_is_found() {
        let accounts = BTreeMap::from([(Address([1; 32]), TokenAmount(100))]);
        let mut state = MemoryState::default();
        state.commit(&genesis_writes(&ChainParams::devnet(), &accounts).expect("devnet is sound"));
        assert_eq!(check(&state), Ok(vec![]));

        let rules_broken_by = |key: Vec<u8>, value: Vec<u8>| {
            let mut state = state.clone();
            state.0.insert(key, value);
            check(&state)
                .expect("readable")
                .iter()
                .map(|violation| violation.rule)
                .collect::<BTreeSet<_>>()
        };
        let account = encode(&Account {
            free: TokenAmount(101),
            nonce: 0,
        });
        assert_eq!(
            rules_broken_by(key::account(&Address([1; 32])), account),
            BTreeSet::from(["I1"])
        );
        let escrow = Escrow {
            escrow: TokenAmount(0),
            locked: TokenAmount(1),
        };
        let found = rules_broken_by(key::market(&Address([1; 32])), encode(&escrow));
        assert_eq!(found, BTreeSet::from(["I1", "I7", "I8"]));
        let stray = key::deal_due(crate::units::Epoch(5), &DealId::default());
        assert_eq!(rules_broken_by(stray, vec![]), BTreeSet::from(["index"]));
        let partition = Partition {
            posted: false,
            slots: vec![crate::sector::Slot {
                number: SectorNumber(1),
                state: SectorState::Active,
            }],
        };
        assert_eq!(
            rules_broken_by(key::partition(ProviderId(1000), 0, 0), encode(&partition)),
            BTreeSet::from(["I6"])
        );
    }
}
