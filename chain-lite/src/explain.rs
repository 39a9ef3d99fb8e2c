//! Explanations: where each figure of a fault or of a reward comes from, a sentence per step, from the chain itself.
//!
//! Walk: `holdfast audit explain-fault` and `holdfast chain explain-reward` replay an export ([`crate::audit::replay`]) with one of
//! these [`Visitor`]s. Each figure is computed again from the state *before* its block, by the formulas of `chain.md` §§7–10, and
//! compared with what the chain wrote: a step that does not hold says so, and the command fails.
//!
//! [`Issuance`] adds up what each epoch minted and burnt. Cost: a few reads for each block beside the replay.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::account::ProviderId;
use crate::audit::{BlockFacts, Replayed, Visitor};
use crate::error::StoreError;
use crate::events::{BurnReason, Event, EventRecord, FaultReason, PenaltyReason};
use crate::lit;
use crate::params::ChainParams;
use crate::provider::Provider;
use crate::query;
use crate::reward::{self, Vesting};
use crate::sector::deadline::{Schedule, Window};
use crate::sector::dispute::{self, PostId, StoredPost};
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
    /// The network's totals when posts of the sector's partition were taken unverified: their stakes follow from them.
    stored_at: BTreeMap<PostId, Network>,
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
            stored_at: BTreeMap::new(),
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
        if wanted {
            for index in 0..facts.events.len() {
                self.event(facts, &before, index)?;
            }
            if self.charged(facts) {
                self.charges(facts, &before)?;
            }
        }
        let place = (before.sector.deadline, before.sector.partition);
        for post in facts.events.iter().filter_map(|r| PostId::of(&r.event)) {
            if post.provider == self.provider && (post.deadline, post.partition) == place {
                let (_, net) = begun(facts, facts.epoch)?;
                self.stored_at.insert(post, net);
            }
        }
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
        index: usize,
    ) -> Result<(), StoreError> {
        let (record, at) = (&facts.events[index], facts.epoch_of(index));
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
            } if is_mine(provider, sector) => self.fee(facts, before, at, *amount),
            Event::SectorTerminated {
                provider,
                sector,
                fee,
                by_timeout,
            } if is_mine(provider, sector) => {
                self.terminated(facts, before, at, (*fee, *by_timeout))?;
                if !by_timeout {
                    self.penalty(facts, before, index, (PenaltyReason::Termination, *fee));
                }
                Ok(())
            }
            Event::PostDisputed {
                provider,
                deadline,
                partition,
                close,
                charged,
                reward,
                ..
            } if *provider == self.provider => {
                let post = PostId {
                    provider: *provider,
                    deadline: *deadline,
                    partition: *partition,
                    close: *close,
                };
                self.disputed(facts, before, index, (post, *charged, *reward))
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
        at: Epoch,
        amount: TokenAmount,
    ) -> Result<(), StoreError> {
        let (params, net) = begun(facts, at)?;
        let (power, pledge) = (before.sector.power, before.sector.pledge);
        let found = slash::fault_fee(&params, &net, power, pledge);
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
        at: Epoch,
        (fee, by_timeout): (TokenAmount, bool),
    ) -> Result<(), StoreError> {
        let (params, net) = begun(facts, at)?;
        let sector = &before.sector;
        let fault_fee = slash::fault_fee(&params, &net, sector.power, sector.pledge);
        let age = at.since(sector.activation);
        let found = slash::termination_fee(&params, sector.pledge, fault_fee, age);
        let why = match (by_timeout, before.state.faulty_since()) {
            (true, Some(since)) => format!(
                "by the age of its fault: {} lit epochs since epoch {since}, where {} end it",
                lit::passed(facts.before, &net, since, at)?,
                params.fault_max
            ),
            (true, None) => "by the age of a fault that it does not have".to_owned(),
            (false, _) => "by its provider".to_owned(),
        };
        let (height, epoch) = (facts.height, at);
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

    /// The charges of this provider's closes: each is the sum of the fees that came before it, and what is owed after it
    /// follows from the provider's money.
    fn charges(&mut self, facts: &BlockFacts<'_>, before: &Before) -> Result<(), StoreError> {
        let mut purse = Purse::of(facts.before, before)?;
        let mut close = Close::default();
        let me = self.provider;
        for (index, record) in facts.events.iter().enumerate() {
            // Closes come before transactions.
            if record.tx.is_some() {
                break;
            }
            let now = facts.epoch_of(index);
            match &record.event {
                Event::Reward {
                    provider,
                    claimed,
                    locked,
                } if *provider == me => purse.claim(now, *claimed, *locked)?,
                Event::PreCommitExpired {
                    provider, deposit, ..
                } if *provider == me => purse.give_back_deposit(*deposit),
                Event::FaultFee {
                    provider,
                    sector,
                    amount,
                } if *provider == me => close.add(*amount, *sector == self.number),
                Event::SectorTerminated {
                    provider,
                    sector,
                    fee,
                    ..
                } if *provider == me => {
                    close.add(*fee, *sector == self.number);
                    purse.give_back_pledge(facts.before, *sector)?;
                }
                Event::SectorExpired { provider, sector } if *provider == me => {
                    purse.give_back_pledge(facts.before, *sector)?;
                }
                Event::Penalty {
                    provider,
                    reason,
                    amount,
                    debt_after,
                } if *provider == me => {
                    let owed = purse.charge(now, *amount);
                    if *reason == PenaltyReason::Faults {
                        let close = std::mem::take(&mut close);
                        if close.is_mine {
                            self.close(facts, &close, (*amount, *debt_after), owed);
                        }
                    }
                }
                _ => {}
            }
        }
        if close.is_mine && close.sum > 0 {
            let sum = close.sum;
            let text = format!("Fees of {sum} units of provider {me} were never charged.");
            self.say(facts, false, text);
        }
        Ok(())
    }

    /// One charge for all sectors of a deadline.
    fn close(
        &mut self,
        facts: &BlockFacts<'_>,
        close: &Close,
        (amount, debt): (TokenAmount, TokenAmount),
        owed: TokenAmount,
    ) {
        let (count, sum, provider) = (close.fees, close.sum, self.provider);
        self.say(
            facts,
            amount.0 == sum && debt == owed,
            format!(
                "Fees at this close of provider {provider}: {count}, together {sum} units; {amount} are charged. By its unlocked money and unvested rewards {owed} are still owed after it; the chain says {debt}."
            ),
        );
    }

    /// A stored proof was found wrong: its stake is charged, a share of it goes to who found it.
    fn disputed(
        &mut self,
        facts: &BlockFacts<'_>,
        before: &Before,
        index: usize,
        (post, charged, reward): (PostId, TokenAmount, TokenAmount),
    ) -> Result<(), StoreError> {
        let Some(stored) = dispute::stored(facts.before, &post)? else {
            let text = format!("No proof {post} was stored, and one was disputed.");
            self.say(facts, false, text);
            return Ok(());
        };
        if !stored.proven.contains(&self.number) {
            return Ok(());
        }
        let params = &before.params;
        let stake = self.stake(facts, params, &post, &stored)?;
        let percent = params.dispute_reward_percent;
        let share = charged.mul_div(percent.into(), 100).unwrap_or_default();
        let count = stored.proven.len();
        self.say(
            facts,
            charged == stake,
            format!(
                "Proof {post} was of {count} sectors; for each the lesser of {}.{:02} days of expected reward when it was stored and {} % of the pledge is at stake, {stake} units in all; the chain charged {charged}.",
                params.dispute_fee_centidays / 100,
                params.dispute_fee_centidays % 100,
                params.dispute_fee_cap_percent
            ),
        );
        let rest = charged.minus_or_zero(reward);
        let paid = self.penalty(facts, before, index, (PenaltyReason::Disputed, rest));
        // Less than the share only from a provider that owed before, or has nothing left: then nothing of the rest is paid either.
        let had_nothing = paid.is_some_and(|(owed, paid)| !owed.is_zero() || paid.is_zero());
        let holds = reward == share || (reward < share && had_nothing);
        self.say(
            facts,
            holds,
            format!(
                "Who found it gets {percent} % of that, {share} units, as far as the provider's unlocked money and unvested rewards go: {reward}."
            ),
        );
        Ok(())
    }

    /// What a stored post puts at stake, by the rates of when it was stored. Where a sector of it has ended since, or the replay
    /// began later, the stake that the chain kept.
    fn stake(
        &self,
        facts: &BlockFacts<'_>,
        params: &ChainParams,
        post: &PostId,
        stored: &StoredPost,
    ) -> Result<TokenAmount, StoreError> {
        let Some(net) = self.stored_at.get(post) else {
            return Ok(stored.stake);
        };
        let mut sum = 0u128;
        for &number in &stored.proven {
            let key = key::sector(self.provider, number);
            let Some(SectorLeaf::Committed(sector)) = read(facts.before, &key)? else {
                return Ok(stored.stake);
            };
            let fee = slash::dispute_fee(params, net, sector.power, sector.pledge);
            sum = sum.saturating_add(fee.0);
        }
        Ok(TokenAmount(sum))
    }

    /// The charge of a transaction: a termination's comes next after its event, a dispute's last before it. Gives what was owed
    /// before it, and what was paid then.
    fn penalty(
        &mut self,
        facts: &BlockFacts<'_>,
        before: &Before,
        index: usize,
        (wanted, due): (PenaltyReason, TokenAmount),
    ) -> Option<(TokenAmount, TokenAmount)> {
        let tx = facts.events[index].tx;
        let mut owed = before.provider.fee_debt;
        let mut found: Option<(usize, TokenAmount, TokenAmount, TokenAmount)> = None;
        for (i, record) in facts.events.iter().enumerate() {
            let Event::Penalty {
                provider,
                reason,
                amount,
                debt_after,
            } = record.event
            else {
                continue;
            };
            if provider != self.provider {
                continue;
            }
            let is_its = match wanted {
                PenaltyReason::Termination => i > index && found.is_none(),
                _ => i < index,
            };
            if record.tx == tx && reason == wanted && is_its {
                found = Some((i, amount, debt_after, owed));
            }
            owed = debt_after;
        }
        let provider = self.provider;
        let Some((at, amount, debt_after, owed)) = found else {
            let text = format!("{due} units are due of provider {provider} and none are charged.");
            self.say(facts, due.is_zero(), text);
            return None;
        };
        // Debt is repaid before the charge is told.
        let burnt = at.checked_sub(1).map(|i| &facts.events[i].event);
        let paid = match burnt {
            Some(Event::Burn {
                reason: BurnReason::Penalty,
                amount,
            }) => *amount,
            _ => TokenAmount::ZERO,
        };
        let all = owed.0.saturating_add(amount.0);
        self.say(
            facts,
            amount == due && all.checked_sub(paid.0) == Some(debt_after.0),
            format!(
                "Provider {provider} owed {owed} and is charged {due}; the chain charged {amount}, {paid} were paid and burnt, and {debt_after} are still owed."
            ),
        );
        Some((owed, paid))
    }
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

/// A provider's money while epochs begin: rewards come in, ends free what they held, closes charge (`chain.md` §5).
///
/// Debt is repaid here when it is charged, while the chain also repays it between charges: the same sum in the end, because
/// nothing else takes from the balance before the block's transactions.
struct Purse {
    params: ChainParams,
    provider: Provider,
    queue: Vesting,
}

impl Purse {
    fn of(state: &dyn KvRead, before: &Before) -> Result<Self, StoreError> {
        Ok(Self {
            params: before.params.clone(),
            provider: before.provider.clone(),
            queue: read(state, &key::vesting(before.provider.id))?.unwrap_or_default(),
        })
    }

    fn claim(
        &mut self,
        now: Epoch,
        claimed: TokenAmount,
        locked: TokenAmount,
    ) -> Result<(), StoreError> {
        let overflow = |_| StoreError::corrupt(&key::vesting(self.provider.id), "too much money");
        let added = self.queue.add(&self.params, now, locked);
        added.map_err(overflow)?;
        let (balance, vesting) = (&mut self.provider.balance, &mut self.provider.vesting);
        balance.0 = balance.0.saturating_add(claimed.0);
        vesting.0 = vesting.0.saturating_add(locked.0);
        Ok(())
    }

    fn give_back_deposit(&mut self, amount: TokenAmount) {
        let deposits = &mut self.provider.deposits;
        *deposits = deposits.minus_or_zero(amount);
    }

    fn give_back_pledge(
        &mut self,
        state: &dyn KvRead,
        number: SectorNumber,
    ) -> Result<(), StoreError> {
        let leaf = read(state, &key::sector(self.provider.id, number))?;
        if let Some(SectorLeaf::Committed(sector)) = leaf {
            let pledge = &mut self.provider.pledge;
            *pledge = pledge.minus_or_zero(sector.pledge);
        }
        Ok(())
    }

    /// Takes what is loose and what has not vested; gives what is still owed.
    fn charge(&mut self, now: Epoch, amount: TokenAmount) -> TokenAmount {
        let mut debt = TokenAmount(self.provider.fee_debt.0.saturating_add(amount.0));
        let freed = self.queue.take_due(now).0 + self.queue.take(debt).0;
        self.provider.vesting = self.provider.vesting.minus_or_zero(TokenAmount(freed));
        let paid = self.provider.unlocked().min(debt);
        self.provider.balance = self.provider.balance.minus_or_zero(paid);
        debt = debt.minus_or_zero(paid);
        self.provider.fee_debt = debt;
        debt
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
