//! I9, I11 and I14 of `chain.md` §16: the rules that one state does not show, because they say what led to it.
//!
//! Walk: beside [`crate::invariants`], after every block of the state-machine test (`tests/economy/model.rs`) and of the simulator
//! (`holdfast-sim`). [`History`] is told each block's events and the state after it, from the chain's beginning on, and finds a
//! fault episode that cost more than its sector's pledge (I9) and an active sector that was not proven at its last close (I11).
//! [`others_lose`] needs no history: it executes a block once for each sender in it, and finds a transaction that made
//! somebody else poorer (I14).
//!
//! Pure. Memory: some fifty bytes for each live sector. Cost: [`History::block`] reads every partition; [`others_lose`] executes
//! as many blocks as there are turns of senders in this one, and one more.

use std::collections::BTreeMap;

use prover::SectorNumber;

use crate::account::{Account, Address, ProviderId};
use crate::events::{Event, EventRecord, PenaltyReason};
use crate::execute::{Applied, ApplyError, BlockCtx, ProofVerifier, Receipt, apply};
use crate::invariants::{Report, Violation};
use crate::lit::Runs;
use crate::market::Escrow;
use crate::message::{CheckedTx, Message};
use crate::params::VerificationMode;
use crate::provider::{self, Provider};
use crate::query;
use crate::reward;
use crate::sector::deadline::Schedule;
use crate::sector::{Partition, SectorState};
use crate::state::{KvRead, Overlay, StoreError, decode, key, read, scan};
use crate::units::{Epoch, TokenAmount};

/// A sector of a chain.
type Name = (ProviderId, SectorNumber);

/// What is remembered of live sectors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    pledges: BTreeMap<Name, TokenAmount>,
    /// When each was last proven.
    proven: BTreeMap<Name, Epoch>,
    /// What each has cost since.
    spent: BTreeMap<Name, u128>,
}

impl History {
    /// What is broken by the next block: its events in order, and the state after it. Empty is good. Every block of a chain has to
    /// come here, in order: a sector whose beginning was missed counts as never pledged for and never proven.
    pub fn block(
        &mut self,
        events: &[EventRecord],
        after: &dyn KvRead,
    ) -> Result<Vec<Violation>, StoreError> {
        let (params, net) = (query::params(after)?, query::totals(after)?);
        // With disputes, a wrong proof is charged for on top of the fault that it hid.
        let eager = params.verification == VerificationMode::Eager;
        let mut report = Report::default();
        self.follow(events, net.epoch, eager, &mut report);
        let outages = Runs::of(after, &net)?;
        for (at, bytes) in scan(after, &key::partitions())? {
            let place = key::parse_partition(&at);
            let (id, deadline, _) =
                place.ok_or_else(|| StoreError::corrupt(&at, "not a key of its kind"))?;
            let partition: Partition = decode(&at, &bytes)?;
            let owner: Option<Provider> = read(after, &key::provider(id))?;
            let owner = owner.ok_or_else(|| StoreError::corrupt(&at, "nobody's partition"))?;
            let over = Schedule::of(&params, &owner).last_over(net.epoch, deadline, &outages);
            // The whole state knows all outages.
            let over =
                over.ok_or_else(|| StoreError::corrupt(&at, "a run of dark epochs is missing"))?;
            self.active_means_proven(id, &partition, over, &mut report);
        }
        Ok(report.into())
    }

    /// I9, and that what a fault costs is what its provider is charged; remembers what I11 needs.
    fn follow(&mut self, events: &[EventRecord], now: Epoch, eager: bool, report: &mut Report) {
        // Fees that the next penalty is to charge.
        let mut fees: BTreeMap<ProviderId, u128> = BTreeMap::new();
        for record in events {
            match &record.event {
                Event::SectorProven {
                    provider,
                    sector,
                    pledge,
                    ..
                } => drop(self.pledges.insert((*provider, *sector), *pledge)),
                Event::PostAccepted {
                    provider, proven, ..
                } => {
                    for number in proven {
                        self.proven.insert((*provider, *number), now);
                        self.spent.remove(&(*provider, *number));
                    }
                }
                Event::FaultFee {
                    provider,
                    sector,
                    amount,
                } => {
                    *fees.entry(*provider).or_default() += amount.0;
                    self.spend((*provider, *sector), *amount, eager, report);
                }
                Event::SectorTerminated {
                    provider,
                    sector,
                    fee,
                    ..
                } => {
                    *fees.entry(*provider).or_default() += fee.0;
                    self.spend((*provider, *sector), *fee, eager, report);
                    self.forget((*provider, *sector));
                }
                Event::SectorExpired { provider, sector } => self.forget((*provider, *sector)),
                Event::Penalty {
                    provider,
                    reason: PenaltyReason::Faults | PenaltyReason::Termination,
                    amount,
                    ..
                } => {
                    let of = fees.remove(provider).unwrap_or_default();
                    let what = format!("faults of provider {provider}");
                    report.equal("I9", what, amount.0, of);
                }
                _ => {}
            }
        }
        for (provider, left) in fees.iter().filter(|(_, left)| **left > 0) {
            report.expect(false, "I9", || {
                format!("faults of provider {provider} cost {left}, and nobody was charged")
            });
        }
    }

    fn spend(&mut self, name: Name, amount: TokenAmount, eager: bool, report: &mut Report) {
        let spent = self.spent.entry(name).or_default();
        *spent = spent.saturating_add(amount.0);
        let (spent, pledge) = (*spent, self.pledges.get(&name).map_or(0, |pledge| pledge.0));
        report.expect(spent <= pledge || !eager, "I9", || {
            format!("sector {}/{} cost {spent} of {pledge}", name.0, name.1)
        });
    }

    fn forget(&mut self, name: Name) {
        self.pledges.remove(&name);
        self.proven.remove(&name);
        self.spent.remove(&name);
    }

    /// I11: what is active was proven since the opening of its deadline's last window that is over. (That only what is active
    /// earns is I6: power is that of the active sectors.)
    fn active_means_proven(
        &self,
        id: ProviderId,
        partition: &Partition,
        over: Epoch,
        report: &mut Report,
    ) {
        let active = partition
            .slots
            .iter()
            .filter(|slot| slot.state == SectorState::Active);
        for slot in active {
            let proven = self.proven.get(&(id, slot.number));
            report.expect(proven.is_some_and(|at| *at >= over), "I11", || {
                let at = proven.map_or("never".into(), |at| format!("at {at}"));
                let number = slot.number;
                format!("sector {id}/{number} is active, proven {at}, not since {over}")
            });
        }
    }
}

/// I14: what the transactions of a block cost those who have no part in them. After each turn of a sender, everybody else has at
/// least what they would have without it: free money, free escrow, and what their providers hold that no deposit or pledge
/// claims. Empty is good.
///
/// A part in a transaction have its sender; whose provider a key of that provider acts for; who signed a proposal that it
/// publishes; and whose proof it shows to be wrong.
pub fn others_lose(
    before: &dyn KvRead,
    ctx: &BlockCtx,
    txs: &[CheckedTx],
    verifier: &dyn ProofVerifier,
) -> Result<Vec<Violation>, ApplyError> {
    let mut report = Report::default();
    if txs.is_empty() {
        return Ok(report.into());
    }
    let mut without = Funds::after(before, &apply(before, ctx, &[], verifier)?)?;
    let mut done = 0;
    for turn in txs.chunk_by(|one, next| one.tx().sender == next.tx().sender) {
        let applied = apply(before, ctx, &txs[..done + turn.len()], verifier)?;
        let with = Funds::after(before, &applied)?;
        let mut parties = Vec::new();
        for (tx, receipt) in turn.iter().zip(&applied.receipts[done..]) {
            take_part(tx, receipt, &with.providers, ctx.epoch, &mut parties);
        }
        without.compare(&with, &parties, &mut report, || {
            let msgs = turn.iter().flat_map(|tx| &tx.tx().msgs);
            let names: Vec<&str> = msgs.map(Message::name).collect();
            format!("{} of {}", names.join(", "), turn[0].tx().sender)
        });
        (without, done) = (with, done + turn.len());
    }
    Ok(report.into())
}

/// Adds who has a part in a transaction.
fn take_part(
    tx: &CheckedTx,
    receipt: &Receipt,
    providers: &BTreeMap<ProviderId, Provider>,
    now: Epoch,
    parties: &mut Vec<Address>,
) {
    let sender = tx.tx().sender;
    parties.push(sender);
    for (index, msg) in tx.tx().msgs.iter().enumerate() {
        let own = msg.acts_for().and_then(|id| providers.get(&id));
        let own = own.filter(|own| provider::is_operator(own, now, &sender));
        parties.extend(own.map(|own| own.owner));
        // What had no effect cost nobody but who pays for it.
        if !receipt.succeeded() {
            continue;
        }
        match msg {
            Message::PublishDeals { proposals, .. } => {
                let said = proposals.iter().zip(tx.proposals(index));
                let signed = said.filter(|(_, checked)| checked.signature_holds);
                parties.extend(signed.map(|(signed, _)| signed.proposal.client));
            }
            Message::Dispute { post, .. } => {
                parties.extend(providers.get(&post.provider).map(|wrong| wrong.owner));
            }
            _ => {}
        }
    }
}

/// Everybody's money that is not locked.
struct Funds {
    /// Free, escrow, and what their providers hold: available, claimable or vesting.
    of: BTreeMap<Address, [u128; 3]>,
    providers: BTreeMap<ProviderId, Provider>,
}

impl Funds {
    fn after(before: &dyn KvRead, applied: &Applied) -> Result<Self, StoreError> {
        Self::read(&Overlay::with(before, applied.writes.clone()))
    }

    fn read(state: &dyn KvRead) -> Result<Self, StoreError> {
        let wrong = |at: &[u8]| StoreError::corrupt(at, "not a key of its kind");
        let mut of: BTreeMap<Address, [u128; 3]> = BTreeMap::new();
        for (at, bytes) in scan(state, &key::accounts())? {
            let whose = key::last_32(&at).map(Address).ok_or_else(|| wrong(&at))?;
            of.entry(whose).or_default()[0] = decode::<Account>(&at, &bytes)?.free.0;
        }
        for (at, bytes) in scan(state, &key::markets())? {
            let whose = key::last_32(&at).map(Address).ok_or_else(|| wrong(&at))?;
            of.entry(whose).or_default()[1] = decode::<Escrow>(&at, &bytes)?.unlocked().0;
        }
        let (net, mut providers) = (query::totals(state)?, BTreeMap::new());
        for (at, bytes) in scan(state, &key::providers())? {
            let own: Provider = decode(&at, &bytes)?;
            let claimable = reward::claimable(&net, &own);
            let claimable =
                claimable.map_err(|_| StoreError::corrupt(&at, "a claim beyond 128 bits"))?;
            let parts = [own.available(), claimable, own.vesting];
            of.entry(own.owner).or_default()[2] += parts.map(|part| part.0).iter().sum::<u128>();
            providers.insert(own.id, own);
        }
        Ok(Self { of, providers })
    }

    /// Says who has less in `with`, of those who have no part in it.
    fn compare(
        &self,
        with: &Self,
        parties: &[Address],
        report: &mut Report,
        what: impl Fn() -> String,
    ) {
        let others = self.of.iter().filter(|(whose, _)| !parties.contains(whose));
        for (whose, had) in others {
            let has = with.of.get(whose).copied().unwrap_or_default();
            let kept = had.iter().zip(&has).all(|(had, has)| has >= had);
            report.expect(kept, "I14", || {
                format!("{} costs {whose}: {had:?} became {has:?}", what())
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::ChainParams;
    use crate::sector::Slot;
    use crate::state::MemoryState;
    use crate::units::{EpochCount, StoragePower};

    const ID: ProviderId = ProviderId(1000);
    const NUMBER: SectorNumber = SectorNumber(7);

    fn record(event: Event) -> EventRecord {
        EventRecord { tx: None, event }
    }

    fn proven(pledge: u128) -> EventRecord {
        record(Event::SectorProven {
            provider: ID,
            sector: NUMBER,
            deadline: 0,
            partition: 0,
            pledge: TokenAmount(pledge),
        })
    }

    fn fee(amount: u128) -> EventRecord {
        record(Event::FaultFee {
            provider: ID,
            sector: NUMBER,
            amount: TokenAmount(amount),
        })
    }

    fn penalty(amount: u128) -> EventRecord {
        record(Event::Penalty {
            provider: ID,
            reason: PenaltyReason::Faults,
            amount: TokenAmount(amount),
            debt_after: TokenAmount::ZERO,
        })
    }

    fn posted() -> EventRecord {
        record(Event::PostAccepted {
            provider: ID,
            deadline: 0,
            partition: 0,
            proven: vec![NUMBER],
            skipped: vec![],
        })
    }

    /// A state of this epoch in which the sector is active or not; its deadline opens at 0, 120, 240.
    fn state(epoch: u64, active: bool, mode: VerificationMode) -> MemoryState {
        let params = ChainParams {
            proving_period: EpochCount(120),
            deadlines: 6,
            verification: mode,
            ..ChainParams::devnet()
        };
        let accounts = [(Address([1; 32]), TokenAmount(100))].into();
        let mut state = MemoryState::default();
        state.commit(&crate::execute::genesis_writes(&params, &accounts).expect("sound"));
        let mut net = query::totals(&state).expect("memory");
        net.epoch = Epoch(epoch);
        let own = Provider {
            id: ID,
            owner: Address([1; 32]),
            worker: Address([1; 32]),
            net_key: crate::account::NetKey([1; 32]),
            addrs: vec![],
            next_keys: None,
            sector_size: prover::SectorSize::Kib2,
            registered: Epoch(0),
            offset: EpochCount(0),
            balance: TokenAmount(50),
            deposits: TokenAmount::ZERO,
            pledge: TokenAmount(20),
            vesting: TokenAmount(5),
            fee_debt: TokenAmount::ZERO,
            at_stake: TokenAmount::ZERO,
            raw_power: StoragePower::ZERO,
            power: StoragePower::ZERO,
            acc_claimed: 0,
        };
        let partition = Partition {
            posted: false,
            slots: vec![Slot {
                number: NUMBER,
                state: match active {
                    true => SectorState::Active,
                    false => SectorState::Faulty { since: Epoch(1) },
                },
            }],
        };
        let encode = |key, value| (key, Some(value));
        state.commit(
            &[
                encode(key::network(), crate::codec::encode(&net)),
                encode(key::provider(ID), crate::codec::encode(&own)),
                encode(key::partition(ID, 0, 0), crate::codec::encode(&partition)),
            ]
            .into(),
        );
        state
    }

    fn broken(history: &mut History, events: &[EventRecord], state: &MemoryState) -> Vec<String> {
        let found = history.block(events, state).expect("memory");
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_fault_that_costs_more_than_the_pledge_is_found_and_a_proof_ends_the_episode() {
        let eager = state(30, false, VerificationMode::Eager);
        let mut history = History::default();
        let good = [proven(10), fee(6), penalty(6)];
        assert_eq!(broken(&mut history, &good, &eager), Vec::<String>::new());
        // Proven again, it begins at nothing.
        let good = [posted(), fee(6), penalty(6)];
        assert_eq!(broken(&mut history, &good, &eager), Vec::<String>::new());
        let mut disputed = history.clone();
        let again = [fee(6), penalty(6)];
        let found = broken(&mut history, &again, &eager);
        assert_eq!(found, ["I9: sector 1000/7 cost 12 of 10"]);
        // Disputes may cost more.
        let optimistic = state(30, false, VerificationMode::Optimistic);
        assert!(broken(&mut disputed, &again, &optimistic).is_empty());
    }

    #[test]
    fn a_charge_that_is_not_the_sum_of_its_fees_is_found() {
        let state = state(30, false, VerificationMode::Eager);
        for (events, wrong) in [
            (vec![proven(10), fee(2), fee(1), penalty(3)], false),
            (vec![proven(10), fee(2), penalty(4)], true),
            (vec![proven(10), fee(2)], true),
            (vec![penalty(1)], true),
        ] {
            let found = broken(&mut History::default(), &events, &state);
            assert_eq!(!found.is_empty(), wrong, "{events:?}: {found:?}");
            assert!(found.iter().all(|found| found.starts_with("I9")));
        }
    }

    #[test]
    fn an_active_sector_that_missed_its_last_window_is_found() {
        // Windows of 20 epochs: over at 20, 140, 260.
        let at = |epoch| state(epoch, true, VerificationMode::Eager);
        let mut history = History::default();
        assert!(broken(&mut history, &[proven(10), posted()], &at(5)).is_empty());
        for fine in [19, 20, 120, 139] {
            assert!(broken(&mut history, &[], &at(fine)).is_empty(), "{fine}");
        }
        let found = broken(&mut history.clone(), &[], &at(140));
        assert_eq!(
            found,
            ["I11: sector 1000/7 is active, proven at 5, not since 120"]
        );
        assert!(broken(&mut history, &[posted()], &at(139)).is_empty());
        assert!(broken(&mut history, &[], &at(140)).is_empty());
        let found = broken(&mut History::default(), &[], &at(5));
        assert!(found.len() == 1 && found[0].contains("proven never"));
    }

    #[test]
    fn who_has_less_and_no_part_in_it_is_found() {
        let state = state(5, false, VerificationMode::Eager);
        let before = Funds::read(&state).expect("memory");
        let owner = Address([1; 32]);
        // Free; no escrow; of the provider's fifty twenty are pledged.
        assert_eq!(before.of, [(owner, [100, 0, 30])].into());
        for purse in 0..3 {
            for (more, parties, lost) in [
                (false, vec![], true),
                (false, vec![owner], false),
                (true, vec![], false),
            ] {
                let mut after = Funds::read(&state).expect("memory");
                let of = after.of.get_mut(&owner).expect("has some");
                of[purse] = match more {
                    true => of[purse] + 1,
                    false => of[purse].saturating_sub(1),
                };
                let mut report = Report::default();
                before.compare(&after, &parties, &mut report, || "Transfer".into());
                let found: Vec<Violation> = report.into();
                // There is nothing to lose of an empty purse.
                assert_eq!(found.len(), usize::from(lost && purse != 1), "{purse}");
                assert!(found.iter().all(|found| found.rule == "I14"));
            }
        }
    }
}
