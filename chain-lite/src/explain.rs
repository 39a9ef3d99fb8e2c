//! Explanations: where each figure of a fault or of a reward comes from, a sentence per step, from the chain itself.
//!
//! Walk: `holdfast audit explain-fault` and `holdfast chain explain-reward` replay an export ([`crate::audit::replay`]) with one of
//! these [`Visitor`]s. Each figure is computed again from the state at its own [`Moment`], in the middle of its block, by the
//! formulas of `chain.md` §§5 and 7–10, and compared with what the chain wrote: a step that does not hold says so, and the
//! command fails. So what else a block does to a provider, before or after, in other epochs or messages, changes nothing here.
//!
//! [`Issuance`] adds up what each epoch minted and burnt. Cost: a few reads for each block beside the replay.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::account::ProviderId;
use crate::audit::{BlockFacts, Replayed, Visitor};
use crate::error::StoreError;
use crate::events::{BurnReason, Event, EventRecord, FaultReason, PenaltyReason};
use crate::lit;
use crate::moment::{Moment, What};
use crate::params::ChainParams;
use crate::provider::Provider;
use crate::query;
use crate::reward::{self, Vesting};
use crate::sector::deadline::{Schedule, Window};
use crate::sector::dispute::{self, PostId};
use crate::sector::{Deadline, Partition, Sector, SectorLeaf, SectorState};
use crate::slash;
use crate::state::{KvRead, Network, decode, key, read, scan};
use crate::units::{Epoch, EpochCount, StoragePower, TokenAmount, mul_shift};
use prover::SectorNumber;

/// One step of an explanation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Block that it speaks of.
    pub height: u64,
    /// The sentence.
    pub text: String,
    /// Whether the chain's own figure or event agrees.
    pub holds: bool,
}

/// Sentences in the order of what happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The steps.
    pub steps: Vec<Step>,
    /// Why it had to stop, if the state could not be read.
    pub failure: Option<String>,
}

impl Explanation {
    /// Whether every figure was reproduced.
    pub fn holds(&self) -> bool {
        self.failure.is_none() && self.steps.iter().all(|step| step.holds)
    }

    fn say(&mut self, height: u64, holds: bool, text: String) {
        self.steps.push(Step {
            height,
            text,
            holds,
        });
    }

    fn note(&mut self, result: Result<(), StoreError>) {
        if let Err(error) = result {
            self.failure.get_or_insert(error.to_string());
        }
    }
}

/// Explains what became of one sector's faults: a [`Visitor`].
#[derive(Clone, Debug)]
pub struct FaultExplainer {
    provider: ProviderId,
    number: SectorNumber,
    only: Option<Epoch>,
    /// The sector, once it was proven: it stays as it is until it ends.
    sector: Option<Sector>,
    /// When a proof of each of the provider's partitions was accepted last.
    posts: BTreeMap<(u16, u32), Epoch>,
    /// Proofs of the sector that were taken unverified and may be disputed.
    stored: BTreeMap<PostId, Stored>,
    /// The provider's money before the finder's share that is taken next.
    share: Option<Purse>,
    /// Its money before the charge that comes next.
    charge: Option<Purse>,
    /// What events of the present block follow from, by their index. Those of a message that failed are replaced by the next ones.
    seen: BTreeMap<usize, Seen>,
    explanation: Explanation,
}

/// What an event follows from.
#[derive(Clone, Debug)]
enum Seen {
    /// One of the sector: how the sector stood.
    Place(Box<Place>),
    /// A charge or a share: the provider's money before it.
    Purse(Box<Purse>),
    /// A proof that was stored.
    Stored(Stored),
}

/// How the sector stood at a moment.
#[derive(Clone, Debug)]
struct Place {
    now: Epoch,
    net: Network,
    sector: Sector,
    /// Nothing once it has left its partition.
    state: Option<SectorState>,
    /// The occurrence of its deadline that closes, if one does.
    window: Window,
    /// Lit epochs that a window must have.
    span: EpochCount,
    /// Dark epochs in it.
    dark: u64,
    /// Of a faulty one: lit epochs since the close from which its fault counts.
    age: Option<EpochCount>,
}

/// A proof that was taken unverified.
#[derive(Clone, Copy, Debug)]
struct Stored {
    /// Sectors that it claims to prove.
    count: usize,
    /// Whether ours is one of them.
    is_mine: bool,
    /// What it puts at stake, by the rates of when it was stored.
    stake: TokenAmount,
}

/// A block, and what was seen while it was applied.
struct Block<'a> {
    facts: &'a BlockFacts<'a>,
    params: ChainParams,
    seen: BTreeMap<usize, Seen>,
}

impl Block<'_> {
    fn place(&self, index: usize) -> Result<&Place, StoreError> {
        match self.seen.get(&index) {
            Some(Seen::Place(place)) => Ok(place),
            _ => Err(unseen()),
        }
    }

    fn purse(&self, index: usize) -> Result<&Purse, StoreError> {
        match self.seen.get(&index) {
            Some(Seen::Purse(purse)) => Ok(purse),
            _ => Err(unseen()),
        }
    }
}

fn unseen() -> StoreError {
    StoreError::corrupt(&[], "an event was not shown while it happened")
}

impl FaultExplainer {
    /// For the faults of a sector: all, or only those of the block in which epoch `only` began.
    pub fn new(provider: ProviderId, number: SectorNumber, only: Option<Epoch>) -> Self {
        Self {
            provider,
            number,
            only,
            sector: None,
            posts: BTreeMap::new(),
            stored: BTreeMap::new(),
            share: None,
            charge: None,
            seen: BTreeMap::new(),
            explanation: Explanation::default(),
        }
    }

    /// What was found.
    pub fn finish(self) -> Explanation {
        self.explanation
    }

    fn is_mine(&self, provider: ProviderId, number: SectorNumber) -> bool {
        provider == self.provider && number == self.number
    }

    /// Keeps what the next event follows from, if it is one of those explained here.
    fn see(&mut self, moment: &Moment<'_>) -> Result<(), StoreError> {
        match moment.what {
            What::Share(provider) if provider.id == self.provider => {
                self.share = Some(Purse::of(moment, provider)?);
            }
            What::Charge(provider) if provider.id == self.provider => {
                self.charge = Some(Purse::of(moment, provider)?);
            }
            What::Event(event) => {
                let seen = self.see_event(moment, event)?;
                self.seen.extend(seen.map(|seen| (moment.at, seen)));
            }
            _ => {}
        }
        Ok(())
    }

    fn see_event(
        &mut self,
        moment: &Moment<'_>,
        event: &Event,
    ) -> Result<Option<Seen>, StoreError> {
        let money = |purse: Option<Purse>| purse.map(|purse| Seen::Purse(Box::new(purse)));
        Ok(match *event {
            Event::SectorProven {
                provider, sector, ..
            } if self.is_mine(provider, sector) => {
                self.sector = committed(moment.state, provider, sector)?;
                None
            }
            Event::SectorFaulted {
                provider, sector, ..
            }
            | Event::FaultFee {
                provider, sector, ..
            }
            | Event::SectorTerminated {
                provider, sector, ..
            } if self.is_mine(provider, sector) => Some(Seen::Place(Box::new(self.place(moment)?))),
            Event::Penalty { provider, .. } if provider == self.provider => {
                money(self.charge.take())
            }
            Event::PostDisputed { provider, .. } if provider == self.provider => {
                money(self.share.take())
            }
            Event::PostStored { provider, .. } if provider == self.provider => {
                let stored = PostId::of(event).map(|id| self.stake(moment, &id));
                stored.transpose()?.map(Seen::Stored)
            }
            _ => None,
        })
    }

    /// How the sector stands. Its leaf may be that of its end already; its partition is as before the close that is under way.
    fn place(&self, moment: &Moment<'_>) -> Result<Place, StoreError> {
        let missing = |key: Vec<u8>| StoreError::corrupt(&key, "missing");
        let (state, net, now) = (moment.state, moment.net, moment.now);
        let sector = self.sector.clone();
        let sector = sector.ok_or_else(|| missing(key::sector(self.provider, self.number)))?;
        let key = key::provider(self.provider);
        let provider: Provider = read(state, &key)?.ok_or_else(|| missing(key))?;
        let key = key::partition(self.provider, sector.deadline, sector.partition);
        let partition: Partition = read(state, &key)?.unwrap_or_default();
        let slot = partition.slots.iter().find(|s| s.number == self.number);
        let key = key::deadline(self.provider, sector.deadline);
        let deadline: Deadline = read(state, &key)?.unwrap_or_default();
        let schedule = Schedule::of(&query::params(state)?, &provider);
        let window = schedule.closing(now, &deadline);
        let dark = lit::dark_before(state, net, window.close)?.saturating_sub(lit::dark_before(
            state,
            net,
            window.open,
        )?);
        let since = slot.and_then(|slot| slot.state.faulty_since());
        let age = since.map(|since| lit::passed(state, net, since, now));
        Ok(Place {
            now,
            net: *net,
            sector,
            state: slot.map(|slot| slot.state),
            window,
            span: schedule.window_span(),
            dark,
            age: age.transpose()?,
        })
    }

    /// What a post that is being stored puts at stake.
    fn stake(&self, moment: &Moment<'_>, id: &PostId) -> Result<Stored, StoreError> {
        let params = query::params(moment.state)?;
        let stored = dispute::stored(moment.state, id)?;
        let proven = stored.map(|stored| stored.proven).unwrap_or_default();
        let mut sum = 0u128;
        for &number in &proven {
            if let Some(sector) = committed(moment.state, self.provider, number)? {
                let fee = slash::dispute_fee(&params, moment.net, sector.power, sector.pledge);
                sum = sum.saturating_add(fee.0);
            }
        }
        Ok(Stored {
            count: proven.len(),
            is_mine: proven.contains(&self.number),
            stake: TokenAmount(sum),
        })
    }

    fn look(&mut self, facts: &BlockFacts<'_>) -> Result<(), StoreError> {
        let block = Block {
            facts,
            params: query::params(facts.before)?,
            seen: std::mem::take(&mut self.seen),
        };
        let wanted = self
            .only
            .is_none_or(|epoch| facts.parent < epoch && epoch <= facts.epoch);
        let mut close = Close::default();
        for (index, record) in facts.events.iter().enumerate() {
            if wanted {
                self.event(&block, index, &mut close)?;
            }
            self.remember(&block, index, &record.event);
        }
        if close.is_mine && close.sum > 0 {
            let (sum, provider) = (close.sum, self.provider);
            let text = format!("Fees of {sum} units of provider {provider} were never charged.");
            self.say(facts, false, text);
        }
        Ok(())
    }

    /// What later events need of this one.
    fn remember(&mut self, block: &Block<'_>, index: usize, event: &Event) {
        match event {
            Event::PostAccepted {
                provider,
                deadline,
                partition,
                ..
            } if *provider == self.provider => {
                self.posts
                    .insert((*deadline, *partition), block.facts.epoch);
            }
            Event::PostStored { .. } => {
                if let (Some(id), Some(Seen::Stored(stored))) =
                    (PostId::of(event), block.seen.get(&index))
                    && stored.is_mine
                {
                    self.stored.insert(id, *stored);
                }
            }
            _ => {}
        }
    }

    fn event(
        &mut self,
        block: &Block<'_>,
        index: usize,
        close: &mut Close,
    ) -> Result<(), StoreError> {
        let record = &block.facts.events[index];
        match record.event {
            Event::SectorFaulted {
                provider,
                sector,
                reason,
            } if self.is_mine(provider, sector) => {
                self.faulted(block.facts, block.place(index)?, record, reason);
            }
            Event::FaultFee {
                provider,
                sector,
                amount,
            } if provider == self.provider => {
                let is_mine = sector == self.number;
                close.add(amount, is_mine);
                if is_mine {
                    self.fee(block, block.place(index)?, amount);
                }
            }
            Event::SectorTerminated {
                provider,
                sector,
                fee,
                by_timeout,
            } if provider == self.provider => {
                let is_mine = sector == self.number;
                if by_timeout {
                    close.add(fee, is_mine);
                }
                if is_mine {
                    self.terminated(block, block.place(index)?, (fee, by_timeout));
                    if !by_timeout {
                        self.penalty(block, index, (PenaltyReason::Termination, fee))?;
                    }
                }
            }
            Event::Penalty {
                provider,
                reason: PenaltyReason::Faults,
                ..
            } if provider == self.provider => {
                let close = std::mem::take(close);
                if close.is_mine {
                    self.close(block, index, &close)?;
                }
            }
            Event::PostDisputed {
                provider,
                deadline,
                partition,
                close,
                charged,
                reward,
                ..
            } if provider == self.provider => {
                let post = PostId {
                    provider,
                    deadline,
                    partition,
                    close,
                };
                // A post is disputed once.
                if let Some(stored) = self.stored.remove(&post) {
                    self.disputed(block, index, (post, stored), (charged, reward))?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn say(&mut self, facts: &BlockFacts<'_>, holds: bool, text: String) {
        self.explanation.say(facts.height, holds, text);
    }

    fn faulted(
        &mut self,
        facts: &BlockFacts<'_>,
        place: &Place,
        record: &EventRecord,
        reason: FaultReason,
    ) {
        let (number, provider) = (self.number, self.provider);
        let who = format!("sector {number} of provider {provider}");
        let at = format!("Block {}, epoch {}: {who}", facts.height, place.now);
        // Told by the same transaction.
        let has = |found: &dyn Fn(&Event) -> bool| {
            let mut events = facts.events.iter().filter(|r| r.tx == record.tx);
            record.tx.is_some() && events.any(|r| found(&r.event))
        };
        match reason {
            FaultReason::Missed => {
                self.say(
                    facts,
                    record.tx.is_none(),
                    format!("{at} became faulty, because its deadline closed without a proof."),
                );
                self.missed(facts, place);
            }
            FaultReason::Skipped => {
                let skipped = has(&|event| {
                    matches!(event, Event::PostAccepted { provider: of, skipped, .. }
                        if *of == provider && skipped.contains(&number))
                });
                let text = format!(
                    "{at} became faulty, because its provider's own proof in this block left it out."
                );
                self.say(facts, skipped, text);
            }
            FaultReason::Declared => {
                let text = format!(
                    "{at} became faulty, because its provider declared so in transaction {} of the block.",
                    record.tx.unwrap_or_default()
                );
                self.say(facts, record.tx.is_some(), text);
            }
            FaultReason::Disputed => {
                let disputed = has(&|event| match *event {
                    Event::PostDisputed {
                        provider,
                        deadline,
                        partition,
                        close,
                        ..
                    } => self.stored.contains_key(&PostId {
                        provider,
                        deadline,
                        partition,
                        close,
                    }),
                    _ => false,
                });
                let text = format!(
                    "{at} became faulty, because a stored proof of it was disputed and does not verify."
                );
                self.say(facts, disputed, text);
            }
        }
    }

    fn missed(&mut self, facts: &BlockFacts<'_>, place: &Place) {
        let window = place.window;
        let (deadline, partition) = (place.sector.deadline, place.sector.partition);
        let (dark, due) = (place.dark, place.span.0);
        let all = window.close.since(window.open).0;
        let lit = all.saturating_sub(dark);
        self.say(
            facts,
            lit >= due && window.close == place.now,
            format!(
                "Deadline {deadline} was open from epoch {} until before {}: {all} epochs, {dark} of them dark (no block or no fresh beacon), so {lit} counted where {due} are due; its leaves were drawn from the beacon of epoch {}, and faults could be declared before epoch {}.",
                window.open, window.close, window.challenge, window.declare_until
            ),
        );
        let (holds, last) = match self.posts.get(&(deadline, partition)) {
            Some(epoch) => (
                *epoch < window.open,
                format!("the last one before was at epoch {epoch}"),
            ),
            None => (true, "there never was one".to_owned()),
        };
        self.say(
            facts,
            holds,
            format!("No proof of partition {partition} was accepted in it; {last}."),
        );
        let text = match place.state {
            Some(SectorState::Active) => format!(
                "Its power of {} bytes earns nothing from here on; the first missed deadline costs no fee.",
                place.sector.power
            ),
            Some(SectorState::Recovering { since } | SectorState::Faulty { since }) => {
                format!("It was to recover from a fault that counts from epoch {since}, and still does.")
            }
            Some(SectorState::Unproven) | None => {
                "It had not been proven before and had no power; the first missed deadline costs no fee.".to_owned()
            }
        };
        self.say(facts, place.state.is_some(), text);
    }

    fn fee(&mut self, block: &Block<'_>, place: &Place, amount: TokenAmount) {
        let (facts, params, net, at) = (block.facts, &block.params, &place.net, place.now);
        let sector = &place.sector;
        let found = slash::fault_fee(params, net, sector.power, sector.pledge);
        let since = place.state.and_then(SectorState::faulty_since);
        self.say(
            facts,
            since.is_some_and(|since| since <= place.window.open),
            format!(
                "Block {}, epoch {at}: the sector is still faulty, since epoch {}: each deadline after the first costs a fee.",
                facts.height,
                since.map_or_else(|| "?".to_owned(), |since| since.to_string())
            ),
        );
        let span = EpochCount(params.day.0.saturating_mul(params.fault_fee_centidays) / 100);
        let expected = slash::expected_reward(net, sector.power, span);
        self.say(
            facts,
            true,
            format!(
                "Expected reward of {}.{:02} days ({span} epochs): {} bytes of power x rate {} x {span} / 2^32 = {expected} units; the rate is the network's smoothed reward of a byte after the emission of epoch {at}.",
                params.fault_fee_centidays / 100, params.fault_fee_centidays % 100, sector.power, net.rpp
            ),
        );
        let cap = params.fault_fee_cap_percent;
        self.say(
            facts,
            found == amount,
            format!(
                "{cap} % of the sector's pledge of {} is {}; the fee is the lesser of the two, {found} units; the chain charged {amount}.",
                sector.pledge,
                sector.pledge.mul_div(cap.into(), 100).unwrap_or_default()
            ),
        );
    }

    fn terminated(
        &mut self,
        block: &Block<'_>,
        place: &Place,
        (fee, by_timeout): (TokenAmount, bool),
    ) {
        let (facts, params, net, at) = (block.facts, &block.params, &place.net, place.now);
        let sector = &place.sector;
        let fault_fee = slash::fault_fee(params, net, sector.power, sector.pledge);
        let age = at.since(sector.activation);
        let found = slash::termination_fee(params, sector.pledge, fault_fee, age);
        let since = place.state.and_then(SectorState::faulty_since);
        let why = match (by_timeout, since.zip(place.age)) {
            (true, Some((since, age))) => format!(
                "by the age of its fault: {age} lit epochs since epoch {since}, where {} end it",
                params.fault_max
            ),
            (true, None) => "by the age of a fault that it does not have".to_owned(),
            (false, _) => "by its provider".to_owned(),
        };
        self.say(
            facts,
            !by_timeout || place.age.is_some_and(|age| age >= params.fault_max),
            format!(
                "Block {}, epoch {at}: the sector was ended {why}; its pledge of {} was unlocked first.",
                facts.height, sector.pledge
            ),
        );
        self.say(
            facts,
            found == fee,
            format!(
                "Termination fee at age {age}: the greatest of {} per mille of the pledge by age (full after {} days), {} % of the pledge, and {} % of the fault fee of {fault_fee}: {found} units; the chain charged {fee}.",
                params.termination_permille, params.termination_age_days,
                params.termination_min_percent, params.termination_fault_percent
            ),
        );
    }

    /// One charge for all sectors of a deadline: the sum of the fees that came before it.
    fn close(&mut self, block: &Block<'_>, index: usize, close: &Close) -> Result<(), StoreError> {
        let (count, sum, provider) = (close.fees, close.sum, self.provider);
        let found = Settled::of(block, index, TokenAmount(sum))?;
        let Settled { amount, owed, .. } = found;
        self.say(
            block.facts,
            found.holds,
            format!(
                "Fees at this close of provider {provider}: {count}, together {sum} units; {amount} are charged beside the {owed} that it owed. Its unlocked money and unvested rewards pay {} of it; {} are still owed after it, and the chain says {}.",
                found.paid, found.left, found.debt_after
            ),
        );
        Ok(())
    }

    /// A stored proof was found wrong: its stake is charged, a share of it goes to who found it.
    fn disputed(
        &mut self,
        block: &Block<'_>,
        index: usize,
        (post, stored): (PostId, Stored),
        (charged, reward): (TokenAmount, TokenAmount),
    ) -> Result<(), StoreError> {
        let params = &block.params;
        let Stored { count, stake, .. } = stored;
        self.say(
            block.facts,
            charged == stake,
            format!(
                "Proof {post} was of {count} sectors; for each the lesser of {}.{:02} days of expected reward when it was stored and {} % of the pledge is at stake, {stake} units in all; the chain charged {charged}.",
                params.dispute_fee_centidays / 100,
                params.dispute_fee_centidays % 100,
                params.dispute_fee_cap_percent
            ),
        );
        let percent = params.dispute_reward_percent;
        let share = stake.mul_div(percent.into(), 100).unwrap_or_default();
        let found = block.purse(index)?.clone().share(share);
        self.say(
            block.facts,
            reward == found,
            format!(
                "Who found it gets {percent} % of that, {share} units, as far as the provider's unlocked money and unvested rewards go, {found}; the chain paid {reward}."
            ),
        );
        let rest = stake.minus_or_zero(found);
        self.penalty(block, index, (PenaltyReason::Disputed, rest))
    }

    /// The charge of a transaction: a termination's comes next after its event, a dispute's last before it.
    fn penalty(
        &mut self,
        block: &Block<'_>,
        index: usize,
        (wanted, due): (PenaltyReason, TokenAmount),
    ) -> Result<(), StoreError> {
        let (facts, me) = (block.facts, self.provider);
        let tx = facts.events[index].tx;
        // Up to the next event that has a charge of its own.
        let is_near = |i: &usize| {
            let record = &facts.events[*i];
            let other = matches!(record.event,
                Event::SectorTerminated { provider, .. } | Event::PostDisputed { provider, .. } if provider == me);
            record.tx == tx && !other
        };
        let is_its = |i: &usize| {
            matches!(facts.events[*i].event,
                Event::Penalty { provider, reason, .. } if provider == me && reason == wanted)
        };
        let found = match wanted {
            PenaltyReason::Disputed => (0..index).rev().take_while(is_near).find(is_its),
            _ => (index + 1..facts.events.len())
                .take_while(is_near)
                .find(is_its),
        };
        let Some(at) = found else {
            let text = format!("{due} units are due of provider {me} and none are charged.");
            self.say(facts, due.is_zero(), text);
            return Ok(());
        };
        let found = Settled::of(block, at, due)?;
        let Settled { amount, owed, .. } = found;
        self.say(
            facts,
            found.holds,
            format!(
                "Provider {me} owed {owed} and is charged {due}; the chain charged {amount}. Its unlocked money and unvested rewards pay {}, which are burnt; {} are still owed after it, and the chain says {}.",
                found.paid, found.left, found.debt_after
            ),
        );
        Ok(())
    }
}

/// The sector, while it lives.
fn committed(
    state: &dyn KvRead,
    provider: ProviderId,
    number: SectorNumber,
) -> Result<Option<Sector>, StoreError> {
    Ok(match read(state, &key::sector(provider, number))? {
        Some(SectorLeaf::Committed(sector)) => Some(sector),
        _ => None,
    })
}

/// Fees since the last charge of a provider's closes.
#[derive(Default)]
struct Close {
    fees: u32,
    sum: u128,
    is_mine: bool,
}

impl Close {
    fn add(&mut self, fee: TokenAmount, is_mine: bool) {
        self.fees = self.fees.saturating_add(1);
        self.sum = self.sum.saturating_add(fee.0);
        self.is_mine |= is_mine;
    }
}

/// A charge, computed again beside what the chain says of it.
struct Settled {
    /// What the chain charged.
    amount: TokenAmount,
    /// What it says is still owed.
    debt_after: TokenAmount,
    /// What was owed before.
    owed: TokenAmount,
    /// What the provider's money pays of both.
    paid: TokenAmount,
    /// What is owed after it.
    left: TokenAmount,
    /// Whether the chain says the same.
    holds: bool,
}

impl Settled {
    /// Of the penalty with this index, where `due` is to be charged.
    fn of(block: &Block<'_>, index: usize, due: TokenAmount) -> Result<Self, StoreError> {
        let events = block.facts.events;
        let Some(&Event::Penalty {
            amount, debt_after, ..
        }) = events.get(index).map(|record| &record.event)
        else {
            return Err(unseen());
        };
        let purse = block.purse(index)?;
        let owed = purse.provider.fee_debt;
        let (paid, left) = purse.clone().charge(due);
        // What is paid is burnt before the charge is told.
        let burnt = index.checked_sub(1).map(|before| &events[before].event);
        let is_burnt = matches!(burnt,
            Some(Event::Burn { reason: BurnReason::Penalty, amount }) if *amount == paid);
        Ok(Self {
            amount,
            debt_after,
            owed,
            paid,
            left,
            holds: amount == due && debt_after == left && (paid.is_zero() || is_burnt),
        })
    }
}

/// A provider's money before a charge: what pays it, and in which order (`chain.md` §5).
#[derive(Clone, Debug)]
struct Purse {
    now: Epoch,
    provider: Provider,
    queue: Vesting,
}

impl Purse {
    fn of(moment: &Moment<'_>, provider: &Provider) -> Result<Self, StoreError> {
        Ok(Self {
            now: moment.now,
            provider: provider.clone(),
            queue: read(moment.state, &key::vesting(provider.id))?.unwrap_or_default(),
        })
    }

    /// Unlocks what has vested, and then up to `wanted` of what has not, earliest first.
    fn unlock(&mut self, wanted: TokenAmount) {
        let freed = self.queue.take_due(self.now).0 + self.queue.take(wanted).0;
        self.provider.vesting = self.provider.vesting.minus_or_zero(TokenAmount(freed));
    }

    /// What it pays of a charge and of what it owed before, and what it owes then.
    fn charge(mut self, amount: TokenAmount) -> (TokenAmount, TokenAmount) {
        let debt = TokenAmount(self.provider.fee_debt.0.saturating_add(amount.0));
        self.unlock(debt);
        let paid = self.provider.unlocked().min(debt);
        (paid, debt.minus_or_zero(paid))
    }

    /// What it has of a finder's share: only what it does not owe.
    fn share(mut self, share: TokenAmount) -> TokenAmount {
        self.unlock(TokenAmount::ZERO);
        self.unlock(share.minus_or_zero(self.provider.available()));
        share.min(self.provider.available())
    }
}

impl Visitor for FaultExplainer {
    fn moment(&mut self, moment: &Moment<'_>) {
        let result = self.see(moment);
        self.explanation.note(result);
    }
    fn before(&mut self, facts: &BlockFacts<'_>) {
        let result = self.look(facts);
        self.explanation.note(result);
    }
    fn block(&mut self, _: &Replayed<'_>) {}
}

/// Explains one epoch's emission and who earns it: a [`Visitor`].
#[derive(Clone, Debug)]
pub struct RewardExplainer {
    epoch: Epoch,
    /// How the epoch began, once its block comes.
    begun: Option<Begun>,
    /// Whether its block is over.
    is_over: bool,
    /// The claim that comes next.
    claim: Option<Claim>,
    /// Claims of the present block, by the index of their event.
    claims: BTreeMap<usize, Claim>,
    explanation: Explanation,
}

/// How an epoch began: what its emission follows from.
#[derive(Clone, Debug)]
struct Begun {
    /// Index of its first event.
    at: usize,
    /// The totals before its emission.
    net: Network,
    providers: Vec<Provider>,
}

/// What a claim follows from.
#[derive(Clone, Copy, Debug)]
struct Claim {
    power: StoragePower,
    /// What the accumulator grew by since the last one.
    grown: u128,
}

impl RewardExplainer {
    /// For one epoch.
    pub fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            begun: None,
            is_over: false,
            claim: None,
            claims: BTreeMap::new(),
            explanation: Explanation::default(),
        }
    }

    /// What was found; no steps where the chain has not come to the epoch.
    pub fn finish(self) -> Explanation {
        self.explanation
    }

    fn see(&mut self, moment: &Moment<'_>) -> Result<(), StoreError> {
        // The totals name the block's epoch; blocks before the one of ours and after it say nothing.
        if self.is_over || moment.net.epoch < self.epoch {
            return Ok(());
        }
        match moment.what {
            What::Emission if moment.now == self.epoch => {
                self.begun = Some(Begun {
                    at: moment.at,
                    net: *moment.net,
                    providers: providers(moment.state)?,
                });
            }
            What::Claim(provider) => {
                self.claim = Some(Claim {
                    power: provider.power,
                    grown: moment.net.acc.saturating_sub(provider.acc_claimed),
                });
            }
            What::Event(Event::Reward { .. }) => {
                let claim = self.claim.take();
                self.claims.extend(claim.map(|claim| (moment.at, claim)));
            }
            _ => {}
        }
        Ok(())
    }

    fn look(&mut self, facts: &BlockFacts<'_>) -> Result<(), StoreError> {
        if self.epoch <= facts.parent || self.epoch > facts.epoch {
            return Ok(());
        }
        self.is_over = true;
        let begun = self.begun.take().ok_or_else(unseen)?;
        let (params, earlier) = (query::params(facts.before)?, begun.net);
        let mut net = earlier;
        reward::emit(&params, &mut net, self.epoch)
            .map_err(|e| StoreError::corrupt(&key::network(), e.to_string()))?;
        let (epoch, height) = (self.epoch, facts.height);
        let mut say = |holds, text| self.explanation.say(height, holds, text);
        let (raw, power) = (net.raw_power, net.power);
        say(
            true,
            format!(
                "Epoch {epoch} began in block {height}: the network held {raw} proven bytes, {power} bytes of quality-adjusted power."
            ),
        );
        let baseline = reward::baseline(&params, epoch);
        let (from, to) = (earlier.theta, net.theta);
        say(
            true,
            format!(
                "The baseline of day {} is {baseline} bytes, so network time moves by min(raw, baseline) / baseline, from {from} to {to} (2^-32 epochs){}.",
                epoch.0 / params.day.0.max(1),
                if power.is_zero() {
                    "; without power it stands still"
                } else {
                    ""
                }
            ),
        );
        let minted = net.minted.0 - earlier.minted.0;
        // Its emission is the first thing that an epoch tells, if it has one.
        let wrote = match facts.events.get(begun.at).map(|record| &record.event) {
            Some(Event::Mint { amount, theta }) if *theta == to => amount.0,
            _ => 0,
        };
        say(
            wrote == minted,
            format!(
                "By network time {to}, {} units are to be minted in all; {} were before, so this epoch mints {minted}; the chain minted {wrote}.",
                reward::minted_at(&params, to),
                earlier.minted,
            ),
        );
        let inst = net.acc - earlier.acc;
        say(
            true,
            format!(
                "That is {minted} x 2^32 / {power} = {inst} (2^-32 units) for each byte of power; the smoothed rate goes from {} to {}.",
                earlier.rpp, net.rpp
            ),
        );
        self.shares(facts, &begun.providers, net.power, inst);
        self.claims(facts, &params)?;
        self.burns(facts)
    }

    /// What each provider's power earned in the epoch.
    fn shares(
        &mut self,
        facts: &BlockFacts<'_>,
        providers: &[Provider],
        power: StoragePower,
        inst: u128,
    ) {
        let mut sum = 0u128;
        for provider in providers.iter().filter(|p| !p.power.is_zero()) {
            let share = mul_shift(provider.power.0, inst, 32).unwrap_or(u128::MAX);
            sum = sum.saturating_add(share);
            let text = format!(
                "Provider {}: {} bytes of power x {inst} / 2^32 = {share} units, to be claimed.",
                provider.id, provider.power
            );
            self.explanation.say(facts.height, true, text);
        }
        let minted = mul_shift(power.0, inst, 32).unwrap_or(u128::MAX);
        let text = format!(
            "Together {sum} units of the {minted} that the rate gives; the rest is rounding and stays in the pool."
        );
        self.explanation.say(facts.height, sum <= minted, text);
    }

    /// Claims that happened in the block: power times the accumulator's growth since the last one.
    fn claims(&mut self, facts: &BlockFacts<'_>, params: &ChainParams) -> Result<(), StoreError> {
        let seen = std::mem::take(&mut self.claims);
        for (index, record) in facts.events.iter().enumerate() {
            let Event::Reward {
                provider,
                claimed,
                locked,
            } = record.event
            else {
                continue;
            };
            let Claim { power, grown } = seen.get(&index).copied().ok_or_else(unseen)?;
            let due = mul_shift(power.0, grown, 32).unwrap_or(u128::MAX);
            let vests = claimed.mul_div(params.vest_quarters.into(), 4);
            let text = format!(
                "Provider {provider} claimed {claimed} in this block: {power} bytes x {grown} (growth since its last claim) / 2^32 = {due}; {} quarters of it, {locked}, vest in {} steps of {} epochs.",
                params.vest_quarters, params.vest_steps, params.vest_step
            );
            let holds = vests == Ok(locked) && claimed.0 == due;
            self.explanation.say(facts.height, holds, text);
        }
        Ok(())
    }

    fn burns(&mut self, facts: &BlockFacts<'_>) -> Result<(), StoreError> {
        let mut by_reason = BTreeMap::<String, u128>::new();
        for record in facts.events {
            if let Event::Burn { reason, amount } = record.event {
                let name = serde_json::to_value(reason).unwrap_or_default();
                let name = name.as_str().unwrap_or("?").replace('_', " ");
                let sum = by_reason.entry(name).or_default();
                *sum = sum.saturating_add(amount.0);
            }
        }
        let sum: u128 = by_reason.values().sum();
        let parts: Vec<String> = by_reason
            .iter()
            .map(|(name, amount)| format!("{amount} for {name}"))
            .collect();
        let text = match parts.is_empty() {
            true => "Nothing was burnt in this block.".to_owned(),
            false => format!("Burnt in this block: {sum} units ({}).", parts.join(", ")),
        };
        let holds = facts.burnt_after.0 == query::totals(facts.before)?.burnt.0 + sum;
        self.explanation.say(facts.height, holds, text);
        Ok(())
    }
}

impl Visitor for RewardExplainer {
    fn moment(&mut self, moment: &Moment<'_>) {
        let result = self.see(moment);
        self.explanation.note(result);
    }
    fn before(&mut self, facts: &BlockFacts<'_>) {
        let result = self.look(facts);
        self.explanation.note(result);
    }
    fn block(&mut self, _: &Replayed<'_>) {}
}

fn providers(state: &dyn KvRead) -> Result<Vec<Provider>, StoreError> {
    scan(state, &key::providers())?
        .into_iter()
        .map(|(key, bytes)| decode(&key, &bytes))
        .collect()
}

/// What one epoch, or one block, minted and burnt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuanceRow {
    /// The block.
    pub height: u64,
    /// The epoch; of a whole block, its own.
    pub epoch: Epoch,
    /// New money.
    pub minted: TokenAmount,
    /// Money gone.
    pub burnt: TokenAmount,
}

impl IssuanceRow {
    /// Of events of a block: all, or an epoch's.
    pub fn of(height: u64, epoch: Epoch, events: &[EventRecord]) -> Self {
        let mut row = Self {
            height,
            epoch,
            ..Self::default()
        };
        for record in events {
            match record.event {
                Event::Mint { amount, .. } => row.minted.0 = row.minted.0.saturating_add(amount.0),
                Event::Burn { amount, .. } => row.burnt.0 = row.burnt.0.saturating_add(amount.0),
                _ => {}
            }
        }
        row
    }
}

/// Issuance and burn of each epoch: a [`Visitor`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Issuance {
    /// Epochs, oldest first, also those without a block of their own.
    pub rows: Vec<IssuanceRow>,
}

impl Visitor for Issuance {
    fn before(&mut self, facts: &BlockFacts<'_>) {
        let rows = facts.epochs();
        self.rows
            .extend(rows.map(|(epoch, events)| IssuanceRow::of(facts.height, epoch, events)));
    }
    fn block(&mut self, _: &Replayed<'_>) {}
}
