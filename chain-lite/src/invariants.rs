//! I1–I8, I10 and I12 of `chain.md` §16 recomputed from the whole state, and the indexes recomputed from the leaves. Besides:
//! runs of dark epochs and kept beacon values (`beacon.md` §3), validators and what is remembered of them (`consensus.md` §10),
//! providers' numbers, and that there is nothing under a key that is nobody's.
//!
//! [`check`] reads every leaf, so it is for tests (after every block), for `audit` at the end of a replay, and for an
//! operator who wants to know; the cheap form of I1 runs in every block ([`crate::state::Network::supply_holds`]). What
//! needs history is checked where there is one: I9, I11 and I14 by [`crate::history`], I13 by replay. (I3 is the types'.)
//! Cost: time and memory in proportion to the state.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use borsh::BorshDeserialize;
use prover::SectorNumber;

use crate::account::{Account, Address, ChannelId, DealId, DisputeDigest, ProviderId};
use crate::certificate::{Validator, ValidatorId, ValidatorSet};
use crate::channel::{Channel, MAX_LANES};
use crate::codec::encode;
use crate::datacap::DataCap;
use crate::deal::publish::activation_timer;
use crate::deal::{Deal, DealStatus};
use crate::governance::{self, Governance, Record};
use crate::lit::{self, DarkRun};
use crate::market::Escrow;
use crate::params::ChainParams;
use crate::provider::Provider;
use crate::query;
use crate::reward::{self, Vesting};
use crate::sector::deadline::Schedule;
use crate::sector::dispute::{self, PostId, StoredPost};
use crate::sector::{Deadline, Partition, PreCommit, Sector, SectorLeaf, SectorState};
use crate::state::{KvRead, Network, StoreError, decode, key, read, scan};
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
    /// By the first epoch after each.
    dark_runs: BTreeMap<Epoch, DarkRun>,
    beacons: BTreeMap<Epoch, [u8; 32]>,
    validators: Option<Vec<Validator>>,
    next_validators: Option<Vec<Validator>>,
    governance: Option<Governance>,
    records: BTreeMap<ValidatorId, Record>,
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
            dark_runs: load(state, &key::dark_runs(), key::parse_dark_run)?,
            beacons: load(state, &key::beacons(), key::parse_beacon)?,
            validators: read(state, &key::validators())?,
            next_validators: read(state, &key::next_validators())?,
            governance: read(state, &key::governance())?,
            records: load(state, &key::validator_records(), |key| {
                key::last_32(key).map(ValidatorId)
            })?,
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
    let mut report = Report::default();
    keys(state, &mut report)?;
    let snapshot = Snapshot::read(state)?;
    snapshot.supply(&mut report);
    snapshot.emission(&mut report);
    snapshot.provider_claims(&mut report);
    snapshot.partitions_hold_each_sector_once(&mut report);
    snapshot.power(&mut report);
    snapshot.escrow(&mut report);
    snapshot.deals(&mut report);
    snapshot.channels(&mut report);
    snapshot.datacap(&mut report);
    snapshot.dark(&mut report);
    snapshot.beacons(&mut report);
    snapshot.validators(&mut report);
    snapshot.compare_indexes(state, &mut report)?;
    Ok(report.0)
}

/// Nothing lies under a key that no rule writes: it would be in the state root for ever, and nobody would know why.
fn keys(state: &dyn KvRead, report: &mut Report) -> Result<(), StoreError> {
    const PAGE: usize = 1_024;
    let (mut from, until) = key::prefix_range(&[]);
    loop {
        let page = state.range(&from, &until, PAGE)?;
        for (key, _) in &page {
            let length = key.first().and_then(|tag| key::length_of(*tag));
            report.expect(length == Some(key.len()), "key", || {
                format!("{} is nobody's", hex::encode(key))
            });
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE => from = [last.as_slice(), &[0]].concat(),
            _ => return Ok(()),
        }
    }
}

/// The index entries that follow from the leaves.
pub fn indexes(state: &dyn KvRead) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, StoreError> {
    Snapshot::read(state)?.indexes(state)
}

#[derive(Default)]
pub(crate) struct Report(Vec<Violation>);

impl From<Report> for Vec<Violation> {
    fn from(report: Report) -> Self {
        report.0
    }
}

impl Report {
    pub(crate) fn expect(
        &mut self,
        holds: bool,
        rule: &'static str,
        what: impl FnOnce() -> String,
    ) {
        if !holds {
            self.0.push(Violation { rule, what: what() });
        }
    }

    pub(crate) fn equal(
        &mut self,
        rule: &'static str,
        what: impl fmt::Display,
        kept: u128,
        found: u128,
    ) {
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

    /// I4, I5, and that providers are numbered one after the other.
    fn provider_claims(&self, report: &mut Report) {
        let numbered = (ProviderId::FIRST.0..).zip(&self.providers);
        for (number, (id, provider)) in numbered.clone() {
            report.expect(number == id.0 && *id == provider.id, "provider", || {
                format!(
                    "provider {} is kept under {id}, in the place of {number}",
                    provider.id
                )
            });
        }
        report.equal(
            "provider",
            "the next provider's number",
            self.net.next_provider.into(),
            u128::from(ProviderId::FIRST.0) + self.providers.len() as u128,
        );
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

    /// `beacon.md` §3: runs are apart from each other, none reaches beyond the present, and their totals add up to the network's.
    fn dark(&self, report: &mut Report) {
        let (mut total, mut last) = (0u64, None);
        for (until, run) in &self.dark_runs {
            let apart = last.is_none_or(|last| last < run.from);
            let within =
                Epoch(0) < run.from && run.from < *until && *until <= self.net.epoch.next();
            total = total.saturating_add(until.0.saturating_sub(run.from.0));
            report.expect(apart && within && run.total == total, "dark", || {
                format!("the run until {until}, {run:?}, after one until {last:?}, makes {total}")
            });
            last = Some(*until);
        }
        report.equal("dark", "dark epochs", self.net.dark.into(), total.into());
    }

    /// `beacon.md` §3: values came one after the other and the oldest were forgotten first, so those kept have no gap and end
    /// at the tip.
    fn beacons(&self, report: &mut Report) {
        let tip = self.net.beacon_tip;
        report.expect(tip <= self.net.epoch, "beacon", || {
            format!("the tip {tip} is after epoch {}", self.net.epoch)
        });
        let expected = (0..self.beacons.len() as u64).map(|back| Epoch(tip.0.saturating_sub(back)));
        let gap = self
            .beacons
            .keys()
            .rev()
            .zip(expected)
            .find(|(a, b)| *a != b);
        if let Some((found, due)) = gap {
            report.expect(false, "beacon", || {
                format!("the value of epoch {found} is kept where that of {due} is due")
            });
        }
        report.expect(
            self.beacons.contains_key(&tip) || tip == Epoch(0),
            "beacon",
            || format!("the value of the tip, epoch {tip}, is not kept"),
        );
    }

    /// `consensus.md` §10: sets are sound, the next one is written only where it differs, and a record says something that can be.
    fn validators(&self, report: &mut Report) {
        let rule = "validators";
        for list in [&self.validators, &self.next_validators]
            .into_iter()
            .flatten()
        {
            let sound = ValidatorSet::new(list.clone());
            report.expect(
                sound.as_ref().is_ok_and(|set| set.validators() == list),
                rule,
                || format!("an unsound set: {list:?}"),
            );
        }
        let (now, next) = (&self.validators, &self.next_validators);
        report.expect(
            next.is_none() || (now.is_some() && now != next),
            rule,
            || "the next set is the present one, or follows none".into(),
        );
        let written = self.governance.is_none_or(|g| g.changes > 0);
        report.expect(written, rule, || "no change is counted as one".into());
        let newest = next.as_ref().or(now.as_ref());
        let height = self.net.height;
        for (id, record) in &self.records {
            let member = newest.is_some_and(|set| set.iter().any(|v| v.id == *id));
            let jailed = record
                .jailed
                .is_none_or(|(since, _)| !member && since <= height && record.since <= since);
            let sound = *record != Record::default()
                && jailed
                && record.since <= height.saturating_add(governance::DELAY);
            report.expect(sound, rule, || {
                format!("of {id} at height {height} is remembered {record:?}, in the newest set: {member}")
            });
        }
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
    use crate::governance::JailReason;
    use crate::state::MemoryState;

    fn sound() -> MemoryState {
        let accounts = BTreeMap::from([(Address([1; 32]), TokenAmount(100))]);
        let mut state = MemoryState::default();
        state.commit(&genesis_writes(&ChainParams::devnet(), &accounts).expect("devnet is sound"));
        state
    }

    fn rules_broken(state: &MemoryState) -> BTreeSet<&'static str> {
        let found = check(state).expect("readable");
        found.iter().map(|violation| violation.rule).collect()
    }

    /// The checker can fail: each kind of damage is named.
    #[test]
    fn damage_is_found() {
        let state = sound();
        assert_eq!(check(&state), Ok(vec![]));

        let rules_broken_by = |key: Vec<u8>, value: Vec<u8>| {
            let mut state = state.clone();
            state.0.insert(key, value);
            rules_broken(&state)
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
        // Tags of nobody's, and keys of nobody's under a known tag.
        let strays = [
            vec![0x00],
            vec![0x0d],
            vec![0x7f, 1],
            vec![0x87, 1],
            vec![0xfe; 9],
            [key::network(), vec![0]].concat(),
            [key::account(&Address([1; 32])), vec![0]].concat(),
        ];
        for stray in strays {
            assert!(
                rules_broken_by(stray.clone(), encode(&Account::default())).contains("key"),
                "{}",
                hex::encode(stray)
            );
        }
    }

    /// A state with an outage behind it, values kept, and validators of whom one was jailed; one thing is changed at a time.
    #[test]
    fn damage_to_outages_beacons_validators_and_numbers_is_found() {
        let validator = |n: u8| Validator {
            id: ValidatorId(
                ed25519_dalek::SigningKey::from_bytes(&[n; 32])
                    .verifying_key()
                    .to_bytes(),
            ),
            power: 1,
        };
        let list = |keys: &[u8]| {
            let mut list: Vec<Validator> = keys.iter().map(|n| validator(*n)).collect();
            list.sort_by_key(|v| v.id);
            list
        };
        let jailed = Record {
            missed: 0,
            jailed: Some((40, JailReason::DoubleVote)),
            since: 3,
        };
        let run = |from, total| DarkRun {
            from: Epoch(from),
            total,
        };
        let mut state = sound();
        let mut net: Network = read(&state, &key::network())
            .expect("memory")
            .expect("there");
        (net.epoch, net.height, net.beacon_tip, net.dark) = (Epoch(60), 50, Epoch(59), 9);
        let mut put = |key: Vec<u8>, value: Vec<u8>| drop(state.0.insert(key, value));
        put(key::network(), encode(&net));
        put(key::dark_run(Epoch(14)), encode(&run(10, 4)));
        put(key::dark_run(Epoch(61)), encode(&run(56, 9)));
        for epoch in 50..60 {
            put(key::beacon(Epoch(epoch)), encode(&[7u8; 32]));
        }
        put(key::validators(), encode(&list(&[1, 2, 3])));
        put(key::next_validators(), encode(&list(&[1, 2])));
        put(key::governance(), encode(&Governance { changes: 1 }));
        put(key::validator(&validator(3).id), encode(&jailed));
        assert_eq!(check(&state), Ok(vec![]));

        let changed_net = |change: fn(&mut Network)| {
            let mut net = net;
            change(&mut net);
            (key::network(), Some(encode(&net)))
        };
        let record = |change: fn(&mut Record)| {
            let mut record = jailed;
            change(&mut record);
            (key::validator(&validator(3).id), Some(encode(&record)))
        };
        type Damage = (Vec<u8>, Option<Vec<u8>>);
        let cases: Vec<(&str, &str, Damage)> = vec![
            ("dark", "a total", changed_net(|n| n.dark = 10)),
            ("dark", "a run is missing", (key::dark_run(Epoch(14)), None)),
            (
                "dark",
                "a sum on the way",
                (key::dark_run(Epoch(14)), Some(encode(&run(10, 5)))),
            ),
            (
                "dark",
                "a run that ends where the next begins",
                (key::dark_run(Epoch(56)), Some(encode(&run(50, 10)))),
            ),
            (
                "dark",
                "a run of no epochs",
                (key::dark_run(Epoch(20)), Some(encode(&run(20, 4)))),
            ),
            (
                "dark",
                "a run in the future",
                changed_net(|n| n.epoch.0 = 59),
            ),
            ("beacon", "a gap", (key::beacon(Epoch(55)), None)),
            ("beacon", "the tip's value", (key::beacon(Epoch(59)), None)),
            (
                "beacon",
                "a value of the future",
                (key::beacon(Epoch(60)), Some(encode(&[7u8; 32]))),
            ),
            (
                "beacon",
                "a tip of the future",
                changed_net(|n| n.beacon_tip.0 = 61),
            ),
            (
                "validators",
                "an empty set",
                (key::validators(), Some(encode(&list(&[])))),
            ),
            (
                "validators",
                "a set out of order",
                (
                    key::validators(),
                    Some(encode(
                        &list(&[1, 2, 3]).into_iter().rev().collect::<Vec<_>>(),
                    )),
                ),
            ),
            (
                "validators",
                "no power",
                (
                    key::next_validators(),
                    Some(encode(&vec![Validator {
                        power: 0,
                        ..validator(1)
                    }])),
                ),
            ),
            (
                "validators",
                "the same set twice",
                (key::next_validators(), Some(encode(&list(&[1, 2, 3])))),
            ),
            (
                "validators",
                "a next set after none",
                (key::validators(), None),
            ),
            (
                "validators",
                "no changes, written down",
                (key::governance(), Some(encode(&Governance { changes: 0 }))),
            ),
            (
                "validators",
                "a member in jail",
                (key::next_validators(), None),
            ),
            (
                "validators",
                "jailed later than now",
                record(|r| r.jailed = Some((51, JailReason::DoubleVote))),
            ),
            (
                "validators",
                "cleared after it was jailed",
                record(|r| r.since = 41),
            ),
            (
                "validators",
                "cleared in the future",
                record(|r| (r.jailed, r.since) = (None, 53)),
            ),
            (
                "validators",
                "nothing, written down",
                record(|r| *r = Record::default()),
            ),
            (
                "provider",
                "a number given out",
                changed_net(|n| n.next_provider += 1),
            ),
        ];
        for (rule, what, (key, value)) in cases {
            let mut state = state.clone();
            match value {
                Some(value) => drop(state.0.insert(key, value)),
                None => drop(state.0.remove(&key)),
            }
            assert_eq!(rules_broken(&state), BTreeSet::from([rule]), "{what}");
        }
    }
}
