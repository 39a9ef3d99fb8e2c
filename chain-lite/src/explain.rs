//! Explanations: where each figure of a fault or of a reward comes from, a sentence per step, from the chain itself.
//!
//! Walk: `holdfast audit explain-fault` and `holdfast chain explain-reward` replay an export ([`crate::audit::replay`]) with one of
//! these [`Visitor`]s. Each figure is computed again from the state *before* its block, by the formulas of `chain.md` §§7–10, and
//! compared with what the chain wrote: a step that does not hold says so, and the command fails.
//!
//! [`Issuance`] adds up what each epoch minted and burnt. Cost: a few reads for each block beside the replay.

use serde::{Deserialize, Serialize};

use crate::account::ProviderId;
use crate::audit::{BlockFacts, Replayed, Visitor};
use crate::error::StoreError;
use crate::events::{Event, EventRecord, FaultReason, PenaltyReason};
use crate::lit;
use crate::params::ChainParams;
use crate::provider::Provider;
use crate::query;
use crate::reward;
use crate::sector::deadline::{Schedule, Window};
use crate::sector::{Deadline, Partition, Sector, SectorLeaf, SectorState};
use crate::slash;
use crate::state::{KvRead, Network, decode, key, read, scan};
use crate::units::{Epoch, EpochCount, TokenAmount, mul_shift};
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

/// The network's totals once the epochs after the parent's up to `epoch` have begun, with the power before the block.
fn begun(facts: &BlockFacts<'_>, epoch: Epoch) -> Result<(ChainParams, Network), StoreError> {
    let (params, mut net) = (query::params(facts.before)?, query::totals(facts.before)?);
    let mut at = net.epoch.next();
    while at <= epoch {
        let emitted = reward::emit(&params, &mut net, at);
        emitted.map_err(|e| StoreError::corrupt(&key::network(), e.to_string()))?;
        at = at.next();
    }
    Ok((params, net))
}

/// Explains what became of one sector's faults: a [`Visitor`].
#[derive(Clone, Debug)]
pub struct FaultExplainer {
    provider: ProviderId,
    number: SectorNumber,
    only: Option<Epoch>,
    /// Epochs in which a proof of the sector's partition was accepted: the last one.
    last_post: Option<Epoch>,
    explanation: Explanation,
}

/// What the state before a block says of the sector.
struct Before {
    params: ChainParams,
    provider: Provider,
    sector: Sector,
    state: SectorState,
    deadline: Deadline,
}

impl FaultExplainer {
    /// For the faults of a sector: all, or only those of the block in which epoch `only` began.
    pub fn new(provider: ProviderId, number: SectorNumber, only: Option<Epoch>) -> Self {
        Self {
            provider,
            number,
            only,
            last_post: None,
            explanation: Explanation::default(),
        }
    }

    /// What was found.
    pub fn finish(self) -> Explanation {
        self.explanation
    }

    fn look(&mut self, facts: &BlockFacts<'_>) -> Result<(), StoreError> {
        let Some(before) = self.read(facts.before)? else {
            return Ok(());
        };
        let wanted = self
            .only
            .is_none_or(|epoch| facts.parent < epoch && epoch <= facts.epoch);
        for record in facts.events {
            if wanted {
                self.event(facts, &before, record)?;
            }
        }
        let place = (before.sector.deadline, before.sector.partition);
        let accepted = facts.events.iter().any(|record| {
            matches!(&record.event, Event::PostAccepted { provider, deadline, partition, .. }
                if *provider == self.provider && (*deadline, *partition) == place)
        });
        if accepted {
            self.last_post = Some(facts.epoch);
        }
        Ok(())
    }

    fn read(&self, state: &dyn KvRead) -> Result<Option<Before>, StoreError> {
        let leaf: Option<SectorLeaf> = read(state, &key::sector(self.provider, self.number))?;
        let Some(SectorLeaf::Committed(sector)) = leaf else {
            return Ok(None);
        };
        let missing = |key: Vec<u8>| StoreError::corrupt(&key, "missing");
        let key = key::provider(self.provider);
        let provider = read(state, &key)?.ok_or_else(|| missing(key))?;
        let key = key::partition(self.provider, sector.deadline, sector.partition);
        let partition: Partition = read(state, &key)?.unwrap_or_default();
        let slot = partition.slots.iter().find(|s| s.number == self.number);
        let state_of = slot.ok_or_else(|| missing(key))?.state;
        let key = key::deadline(self.provider, sector.deadline);
        Ok(Some(Before {
            params: query::params(state)?,
            provider,
            state: state_of,
            deadline: read(state, &key)?.unwrap_or_default(),
            sector,
        }))
    }

    fn event(
        &mut self,
        facts: &BlockFacts<'_>,
        before: &Before,
        record: &EventRecord,
    ) -> Result<(), StoreError> {
        let is_mine = |provider: &ProviderId, number: &SectorNumber| {
            *provider == self.provider && *number == self.number
        };
        match &record.event {
            Event::SectorFaulted {
                provider,
                sector,
                reason,
            } if is_mine(provider, sector) => self.faulted(facts, before, record, *reason),
            Event::FaultFee {
                provider,
                sector,
                amount,
            } if is_mine(provider, sector) => self.fee(facts, before, *amount),
            Event::SectorTerminated {
                provider,
                sector,
                fee,
                by_timeout,
            } if is_mine(provider, sector) => self.terminated(facts, before, *fee, *by_timeout),
            Event::Penalty {
                provider,
                reason: PenaltyReason::Faults,
                amount,
                debt_after,
            } if *provider == self.provider && self.charged(facts) => {
                self.penalty(facts, *amount, *debt_after);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether the block charged this sector anything.
    fn charged(&self, facts: &BlockFacts<'_>) -> bool {
        facts.events.iter().any(|record| {
            matches!(&record.event,
                Event::FaultFee { provider, sector, .. }
                | Event::SectorTerminated { provider, sector, by_timeout: true, .. }
                    if *provider == self.provider && *sector == self.number)
        })
    }

    fn say(&mut self, facts: &BlockFacts<'_>, holds: bool, text: String) {
        self.explanation.say(facts.height, holds, text);
    }

    fn faulted(
        &mut self,
        facts: &BlockFacts<'_>,
        before: &Before,
        record: &EventRecord,
        reason: FaultReason,
    ) -> Result<(), StoreError> {
        let (number, provider) = (self.number, self.provider);
        let who = format!("sector {number} of provider {provider}");
        let (height, epoch) = (facts.height, facts.epoch);
        let at = format!("Block {height}, epoch {epoch}: {who}");
        let has = |found: &dyn Fn(&Event) -> bool| facts.events.iter().any(|r| found(&r.event));
        match reason {
            FaultReason::Missed => {
                self.say(
                    facts,
                    record.tx.is_none(),
                    format!("{at} became faulty, because its deadline closed without a proof."),
                );
                return self.missed(facts, before);
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
                let disputed = has(
                    &|event| matches!(event, Event::PostDisputed { provider: of, .. } if *of == provider),
                );
                let text = format!(
                    "{at} became faulty, because a stored proof of it was disputed and does not verify."
                );
                self.say(facts, disputed, text);
            }
        }
        Ok(())
    }

    /// The occurrence that closed in this block.
    fn closed(&self, facts: &BlockFacts<'_>, before: &Before) -> Window {
        let schedule = Schedule::of(&before.params, &before.provider);
        // Seen from the epoch after the parent's, it is the current or the next one, unless an outage moved it.
        schedule.occurrence(
            facts.parent.next(),
            before.sector.deadline,
            &before.deadline,
        )
    }

    fn missed(&mut self, facts: &BlockFacts<'_>, before: &Before) -> Result<(), StoreError> {
        let schedule = Schedule::of(&before.params, &before.provider);
        let last = schedule.closing(facts.epoch, &before.deadline);
        // Where the close is the block's own epoch, its window has just ended and `closed` would name the next one.
        let window = match self.closed(facts, before) {
            window if window.close <= facts.epoch => window,
            _ => last,
        };
        let net = query::totals(facts.before)?;
        let dark = lit::dark_before(facts.before, &net, window.close)?
            - lit::dark_before(facts.before, &net, window.open)?;
        let (deadline, partition) = (before.sector.deadline, before.sector.partition);
        let due = schedule.window_span().0;
        let all = window.close.since(window.open).0;
        self.say(
            facts,
            all - dark.min(all) >= due,
            format!(
                "Deadline {deadline} was open from epoch {} until before {}: {all} epochs, {dark} of them dark (no block or no fresh beacon), so {} counted where {due} are due; its leaves were drawn from the beacon of epoch {}, and faults could be declared before epoch {}.",
                window.open, window.close, all - dark.min(all), window.challenge, window.declare_until
            ),
        );
        let (holds, last) = match self.last_post {
            Some(epoch) => (
                epoch < window.open,
                format!("the last one before was at epoch {epoch}"),
            ),
            None => (true, "there never was one".to_owned()),
        };
        self.say(
            facts,
            holds,
            format!("No proof of partition {partition} was accepted in it; {last}."),
        );
        let text = match before.state {
            SectorState::Active => format!(
                "Its power of {} bytes earns nothing from here on; the first missed deadline costs no fee.",
                before.sector.power
            ),
            SectorState::Unproven => {
                "It had not been proven before and had no power; the first missed deadline costs no fee.".to_owned()
            }
            SectorState::Recovering { since } | SectorState::Faulty { since } => {
                format!("It was to recover from a fault that counts from epoch {since}, and still does.")
            }
        };
        self.say(facts, true, text);
        Ok(())
    }

    fn fee(
        &mut self,
        facts: &BlockFacts<'_>,
        before: &Before,
        amount: TokenAmount,
    ) -> Result<(), StoreError> {
        // A block that begins several epochs charges in one of them.
        let mut at = facts.parent.next();
        let (params, net, found) = loop {
            let (params, net) = begun(facts, at)?;
            let (power, pledge) = (before.sector.power, before.sector.pledge);
            let found = slash::fault_fee(&params, &net, power, pledge);
            if found == amount || at >= facts.epoch {
                break (params, net, found);
            }
            at = at.next();
        };
        let since = before.state.faulty_since();
        let sector = &before.sector;
        self.say(
            facts,
            since.is_some_and(|since| since < at),
            format!(
                "Block {}, epoch {at}: the sector is still faulty, since epoch {}: each deadline after the first costs a fee.",
                facts.height,
                since.map_or_else(|| "?".to_owned(), |since| since.to_string())
            ),
        );
        let span = EpochCount(params.day.0.saturating_mul(params.fault_fee_centidays) / 100);
        let expected = slash::expected_reward(&net, sector.power, span);
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
        Ok(())
    }

    fn terminated(
        &mut self,
        facts: &BlockFacts<'_>,
        before: &Before,
        fee: TokenAmount,
        by_timeout: bool,
    ) -> Result<(), StoreError> {
        let (params, net) = begun(facts, facts.epoch)?;
        let sector = &before.sector;
        let fault_fee = slash::fault_fee(&params, &net, sector.power, sector.pledge);
        let age = facts.epoch.since(sector.activation);
        let found = slash::termination_fee(&params, sector.pledge, fault_fee, age);
        let why = match (by_timeout, before.state.faulty_since()) {
            (true, Some(since)) => format!(
                "by the age of its fault: {} lit epochs since epoch {since}, where {} end it",
                lit::passed(facts.before, &net, since, facts.epoch)?,
                params.fault_max
            ),
            (true, None) => "by the age of a fault that it does not have".to_owned(),
            (false, _) => "by its provider".to_owned(),
        };
        let (height, epoch) = (facts.height, facts.epoch);
        self.say(
            facts,
            !by_timeout || before.state.faulty_since().is_some(),
            format!("Block {height}, epoch {epoch}: the sector was ended {why}; its pledge of {} was unlocked first.", sector.pledge),
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
        Ok(())
    }

    /// One charge for all sectors of a deadline.
    fn penalty(&mut self, facts: &BlockFacts<'_>, amount: TokenAmount, debt: TokenAmount) {
        let fees = facts
            .events
            .iter()
            .filter_map(|record| match &record.event {
                Event::FaultFee {
                    provider, amount, ..
                } if *provider == self.provider => Some(amount.0),
                Event::SectorTerminated {
                    provider,
                    fee,
                    by_timeout: true,
                    ..
                } if *provider == self.provider => Some(fee.0),
                _ => None,
            });
        let (count, sum) = fees.fold((0u32, 0u128), |(n, sum), fee| {
            (n + 1, sum.saturating_add(fee))
        });
        let provider = self.provider;
        self.say(
            facts,
            amount.0 <= sum,
            format!(
                "Fees in this block's closes of provider {provider}: {count}, together {sum} units; {amount} of them are charged at this deadline, and {debt} are still owed after its unlocked money and unvested rewards."
            ),
        );
    }
}

impl Visitor for FaultExplainer {
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
    explanation: Explanation,
}

impl RewardExplainer {
    /// For one epoch.
    pub fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            explanation: Explanation::default(),
        }
    }

    /// What was found; no steps where the chain has not come to the epoch.
    pub fn finish(self) -> Explanation {
        self.explanation
    }

    fn look(&mut self, facts: &BlockFacts<'_>) -> Result<(), StoreError> {
        if self.epoch <= facts.parent || self.epoch > facts.epoch {
            return Ok(());
        }
        let (params, earlier) = begun(facts, self.epoch.before(EpochCount(1)))?;
        let (_, net) = begun(facts, self.epoch)?;
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
        let wrote = facts.events.iter().find_map(|record| match record.event {
            Event::Mint { amount, theta } if theta == to => Some(amount.0),
            _ => None,
        });
        say(
            wrote.unwrap_or(0) == minted,
            format!(
                "By network time {to}, {} units are to be minted in all; {} were before, so this epoch mints {minted}; the chain minted {}.",
                reward::minted_at(&params, to),
                earlier.minted,
                wrote.unwrap_or(0)
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
        self.shares(facts, &net, inst)?;
        self.claims(facts)?;
        self.burns(facts)
    }

    /// What each provider's power earned in the epoch.
    fn shares(
        &mut self,
        facts: &BlockFacts<'_>,
        net: &Network,
        inst: u128,
    ) -> Result<(), StoreError> {
        let mut sum = 0u128;
        for provider in providers(facts.before)? {
            if provider.power.is_zero() {
                continue;
            }
            let share = mul_shift(provider.power.0, inst, 32).unwrap_or(u128::MAX);
            sum = sum.saturating_add(share);
            let text = format!(
                "Provider {}: {} bytes of power x {inst} / 2^32 = {share} units, to be claimed.",
                provider.id, provider.power
            );
            self.explanation.say(facts.height, true, text);
        }
        let minted = mul_shift(net.power.0, inst, 32).unwrap_or(u128::MAX);
        let text = format!(
            "Together {sum} units of the {minted} that the rate gives; the rest is rounding and stays in the pool."
        );
        self.explanation.say(facts.height, sum <= minted, text);
        Ok(())
    }

    /// Claims that happened in the block: power times the accumulator's growth since the last one.
    fn claims(&mut self, facts: &BlockFacts<'_>) -> Result<(), StoreError> {
        let (params, net) = begun(facts, facts.epoch)?;
        for record in facts.events {
            let Event::Reward {
                provider,
                claimed,
                locked,
            } = record.event
            else {
                continue;
            };
            let before: Option<Provider> = read(facts.before, &key::provider(provider))?;
            let Some(before) = before else { continue };
            let grown = net.acc.saturating_sub(before.acc_claimed);
            let due = mul_shift(before.power.0, grown, 32).unwrap_or(u128::MAX);
            let vests = claimed.mul_div(params.vest_quarters.into(), 4);
            let one_epoch = facts.parent.next() == facts.epoch;
            let text = format!(
                "Provider {provider} claimed {claimed} in this block: {} bytes x {grown} (growth since its last claim) / 2^32 = {due}; {} quarters of it, {locked}, vest in {} steps of {} epochs.",
                before.power, params.vest_quarters, params.vest_steps, params.vest_step
            );
            // A block of many epochs may claim at any of them.
            let holds = vests == Ok(locked) && (claimed.0 == due || !one_epoch);
            self.explanation.say(facts.height, holds, text);
        }
        Ok(())
    }

    fn burns(&mut self, facts: &BlockFacts<'_>) -> Result<(), StoreError> {
        let mut by_reason = std::collections::BTreeMap::<String, u128>::new();
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

/// What one block minted and burnt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuanceRow {
    /// The block.
    pub height: u64,
    /// Its epoch; the epochs since its parent's, where there is more than one, are in the same row.
    pub epoch: Epoch,
    /// New money.
    pub minted: TokenAmount,
    /// Money gone.
    pub burnt: TokenAmount,
}

impl IssuanceRow {
    /// Of a block's events.
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

/// Issuance and burn of each block: a [`Visitor`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Issuance {
    /// Blocks, oldest first.
    pub rows: Vec<IssuanceRow>,
}

impl Visitor for Issuance {
    fn block(&mut self, block: &Replayed<'_>) {
        let header = &block.last.block.header;
        let events = &block.outcomes.events;
        self.rows
            .push(IssuanceRow::of(header.height, header.epoch, events));
    }
}
