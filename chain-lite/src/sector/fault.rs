//! Declarations, the close of a deadline, faults and terminations (`chain.md` §§6, 7, 10).
//!
//! Walk: after [`super::window_post`]; the money side is [`crate::slash`] and [`crate::deal::settle`]. A sector that is
//! not proven when its deadline closes becomes faulty: it earns nothing, its deals are not paid, and from the second
//! close on it costs a fee, until it is proven again or the age of the fault ends it. The close from which a fault counts
//! survives every declaration and skip, so flapping between the states buys no time (`threat-model.md` P19).

use prover::SectorNumber;

use super::deadline::{Schedule, Window};
use super::{EndedSector, Occurrence, Partition, Sector, SectorEnd, SectorLeaf, SectorState, Slot};
use crate::account::{Address, ProviderId};
use crate::deal::settle;
use crate::error::{ChainError, Rule, Stop, StoreError, Subject};
use crate::events::{Event, FaultReason, PenaltyReason};
use crate::execute::Work;
use crate::message::MAX_LISTED_SECTORS;
use crate::moment::What;
use crate::provider::{self, Provider};
use crate::reward;
use crate::slash;
use crate::state::key;
use crate::units::{EpochCount, TokenAmount};

/// Says in time that sectors cannot be proven.
pub(crate) fn declare_faults(
    work: &mut Work<'_>,
    sender: &Address,
    id: ProviderId,
    list: &[SectorNumber],
) -> Rule<()> {
    let mut provider = provider::operated(work, sender, id)?;
    check_list(list)?;
    reward::claim(work, &mut provider)?;
    for &number in list {
        let (sector, window) = declarable(work, &provider, number)?;
        let mut partition = work.partition(id, sector.deadline, sector.partition)?;
        let slot = slot_of(&mut partition, id, number)?;
        if matches!(slot.state, SectorState::Faulty { .. }) {
            return Err(ChainError::WrongState {
                what: Subject::Sector,
            }
            .into());
        }
        slot.state = faulted(
            work,
            &mut provider,
            number,
            slot.state,
            window,
            FaultReason::Declared,
        )?;
        work.save_partition(id, sector.deadline, sector.partition, &partition);
    }
    work.save_provider(&provider)
}

/// Says in time that faulty sectors will be proven again. Not while penalties are owed.
pub(crate) fn declare_recovered(
    work: &mut Work<'_>,
    sender: &Address,
    id: ProviderId,
    list: &[SectorNumber],
) -> Rule<()> {
    let mut provider = provider::operated(work, sender, id)?;
    check_list(list)?;
    provider::refresh(work, &mut provider)?;
    provider.require_no_debt()?;
    for &number in list {
        let (sector, _) = declarable(work, &provider, number)?;
        let mut partition = work.partition(id, sector.deadline, sector.partition)?;
        let slot = slot_of(&mut partition, id, number)?;
        let SectorState::Faulty { since } = slot.state else {
            return Err(ChainError::WrongState {
                what: Subject::Sector,
            }
            .into());
        };
        slot.state = SectorState::Recovering { since };
        work.save_partition(id, sector.deadline, sector.partition, &partition);
        work.emit(Event::RecoveryDeclared {
            provider: id,
            sector: number,
        });
    }
    work.save_provider(&provider)
}

/// Ends a sector before its time, for the termination fee. Not while its deadline is open or next.
pub(crate) fn terminate(
    work: &mut Work<'_>,
    sender: &Address,
    id: ProviderId,
    number: SectorNumber,
) -> Rule<()> {
    let mut provider = provider::operated(work, sender, id)?;
    let sector = work.sector(id, number)?;
    let leaf = work.deadline(id, sector.deadline)?;
    let schedule = Schedule::of(&work.params, &provider);
    schedule.require_mutable(work.now, sector.deadline, &leaf)?;
    reward::claim(work, &mut provider)?;
    let mut partition = work.partition(id, sector.deadline, sector.partition)?;
    let state = slot_of(&mut partition, id, number)?.state;
    partition.slots.retain(|slot| slot.number != number);
    work.save_partition(id, sector.deadline, sector.partition, &partition);
    free_slot(work, &provider, &sector)?;
    let fee = remove_early(
        work,
        &mut provider,
        number,
        &sector,
        state,
        SectorEnd::Terminated,
    )?;
    slash::penalize(work, &mut provider, PenaltyReason::Termination, fee)?;
    work.save_provider(&provider)
}

/// A deadline closes: what was not proven becomes faulty, deals are settled, fees charged, ends reached. With dark epochs in
/// its window it stays open instead, for as many epochs more.
pub(crate) fn close_deadline(work: &mut Work<'_>, id: ProviderId, index: u16) -> Rule<()> {
    let mut provider = work.provider(id)?;
    let mut deadline = work.deadline(id, index)?;
    let schedule = Schedule::of(&work.params, &provider);
    let window = schedule.closing(work.now, &deadline);
    if stays_open(work, id, index, &schedule, window)? {
        return Ok(());
    }
    work.show(What::Close {
        provider: &provider,
        deadline: index,
        window: Window {
            close: work.now,
            ..window
        },
    });
    reward::claim(work, &mut provider)?;
    let mut charge = TokenAmount::ZERO;
    for (partition_index, count) in (0u32..).zip(&mut deadline.partitions) {
        if *count > 0 {
            let (left, fees) =
                close_partition(work, &mut provider, window, (index, partition_index))?;
            *count = left;
            charge = charge.plus(fees)?;
        }
    }
    deadline.pending = None;
    if deadline.sectors() > 0 {
        let (next, regular) = schedule.after_close(work.now, index);
        deadline.pending = Some(next).filter(|_| !regular);
        work.index(key::close(next.close, id, index));
    }
    work.save_deadline(id, index, &deadline);
    slash::penalize(work, &mut provider, PenaltyReason::Faults, charge)?;
    // Vested rewards are unlocked and old debt is repaid even where nothing new is charged.
    slash::repay_debt(work, &mut provider, crate::events::BurnReason::Penalty)?;
    work.save_provider(&provider)
}

/// Puts the close off by the lit epochs that the window lacks. Says whether it did.
fn stays_open(
    work: &mut Work<'_>,
    id: ProviderId,
    index: u16,
    schedule: &Schedule,
    window: Window,
) -> Rule<bool> {
    // The window's epochs are those from `open` until before `now`.
    let lit = work.lit_from(window.open)?;
    let left = schedule.window_span().0.saturating_sub(lit.0);
    if left == 0 {
        return Ok(false);
    }
    let (open, close) = (window.open, work.now.after(EpochCount(left)));
    let mut deadline = work.deadline(id, index)?;
    deadline.pending = Some(Occurrence { open, close });
    work.save_deadline(id, index, &deadline);
    work.index(key::close(close, id, index));
    work.emit(Event::DeadlineExtended {
        provider: id,
        deadline: index,
        close,
    });
    Ok(true)
}

/// One partition's part of the close. Gives the sectors that stay and the fees of all.
fn close_partition(
    work: &mut Work<'_>,
    provider: &mut Provider,
    window: Window,
    (deadline, index): (u16, u32),
) -> Rule<(u32, TokenAmount)> {
    let id = provider.id;
    let mut partition = work.partition(id, deadline, index)?;
    let due = partition
        .slots
        .iter()
        .any(|slot| !matches!(slot.state, SectorState::Faulty { .. }));
    if due && !partition.posted {
        work.emit(Event::PostMissed {
            provider: id,
            deadline,
            partition: index,
        });
    }
    let mut charge = TokenAmount::ZERO;
    let mut kept = Vec::with_capacity(partition.slots.len());
    for slot in &partition.slots {
        let (state, fees) = close_sector(work, provider, window, *slot, partition.posted)?;
        charge = charge.plus(fees)?;
        kept.extend(state.map(|state| Slot {
            number: slot.number,
            state,
        }));
    }
    partition = Partition {
        posted: false,
        slots: kept,
    };
    work.save_partition(id, deadline, index, &partition);
    let left = u32::try_from(partition.slots.len()).map_err(|_| crate::units::Overflow)?;
    Ok((left, charge))
}

/// One sector's part: the five steps of `chain.md` §7. Gives its next state, if it lives on, and its fees.
fn close_sector(
    work: &mut Work<'_>,
    provider: &mut Provider,
    window: Window,
    slot: Slot,
    posted: bool,
) -> Rule<(Option<SectorState>, TokenAmount)> {
    let (now, id, number) = (work.now, provider.id, slot.number);
    let sector = work.sector(id, number)?;
    // An older fault: one of this occurrence counts from its close, which an outage may have moved since.
    let is_old = |since| since <= window.open;
    let was_faulty = slot.state.faulty_since().is_some_and(is_old);
    let mut state = slot.state;
    if !posted {
        state = missed(work, provider, &sector, slot)?;
    }
    let mut charge = TokenAmount::ZERO;
    if was_faulty && matches!(state, SectorState::Faulty { .. }) {
        let fee = slash::fault_fee(&work.params, &work.net, sector.power, sector.pledge);
        charge = charge.plus(fee)?;
        work.emit(Event::FaultFee {
            provider: id,
            sector: number,
            amount: fee,
        });
    }
    for deal in &sector.deals {
        settle::at_close(work, deal, &provider.owner, state == SectorState::Active)?;
    }
    let timed_out = match state.faulty_since() {
        Some(since) => work.lit_since(since)? >= work.params.fault_max,
        None => false,
    };
    if now >= sector.expiration {
        expire(work, provider, number, &sector, state)?;
        return Ok((None, charge));
    }
    if timed_out {
        let fee = remove_early(
            work,
            provider,
            number,
            &sector,
            state,
            SectorEnd::FaultTimeout,
        )?;
        return Ok((None, charge.plus(fee)?));
    }
    Ok((Some(state), charge))
}

/// The state of a sector whose partition was not proven.
fn missed(
    work: &mut Work<'_>,
    provider: &mut Provider,
    sector: &Sector,
    slot: Slot,
) -> Rule<SectorState> {
    let reason = FaultReason::Missed;
    let since = match slot.state {
        SectorState::Faulty { since } => return Ok(SectorState::Faulty { since }),
        SectorState::Recovering { since } => since,
        SectorState::Unproven => work.now,
        SectorState::Active => {
            provider.remove_power(sector.power)?;
            work.now
        }
    };
    work.emit(Event::SectorFaulted {
        provider: provider.id,
        sector: slot.number,
        reason,
    });
    Ok(SectorState::Faulty { since })
}

/// The state of a sector that its provider says it cannot prove in `window`. A fault that was there keeps its age.
pub(crate) fn faulted(
    work: &mut Work<'_>,
    provider: &mut Provider,
    number: SectorNumber,
    state: SectorState,
    window: Window,
    reason: FaultReason,
) -> Rule<SectorState> {
    let since = match state {
        SectorState::Faulty { since } => return Ok(SectorState::Faulty { since }),
        SectorState::Recovering { since } => since,
        SectorState::Unproven => window.close,
        SectorState::Active => {
            provider.remove_power(work.sector(provider.id, number)?.power)?;
            window.close
        }
    };
    work.emit(Event::SectorFaulted {
        provider: provider.id,
        sector: number,
        reason,
    });
    Ok(SectorState::Faulty { since })
}

/// A sector came to its end: its pledge is free in full.
fn expire(
    work: &mut Work<'_>,
    provider: &mut Provider,
    number: SectorNumber,
    sector: &Sector,
    state: SectorState,
) -> Rule<()> {
    // Pre-commit took no deal that ends after the sector, so all of them were settled and ended a moment ago.
    end(work, provider, number, sector, state, SectorEnd::Expired)?;
    work.emit(Event::SectorExpired {
        provider: provider.id,
        sector: number,
    });
    Ok(())
}

/// A sector ended early: pledge unlocked, deals broken. Gives the termination fee, to be charged by the caller.
fn remove_early(
    work: &mut Work<'_>,
    provider: &mut Provider,
    number: SectorNumber,
    sector: &Sector,
    state: SectorState,
    how: SectorEnd,
) -> Rule<TokenAmount> {
    end(work, provider, number, sector, state, how)?;
    for deal in &sector.deals {
        settle::at_removal(work, deal, &provider.owner)?;
    }
    let fault_fee = slash::fault_fee(&work.params, &work.net, sector.power, sector.pledge);
    let age = work.now.since(sector.activation);
    let fee = slash::termination_fee(&work.params, sector.pledge, fault_fee, age);
    let by_timeout = how == SectorEnd::FaultTimeout;
    work.emit(Event::SectorTerminated {
        provider: provider.id,
        sector: number,
        fee,
        by_timeout,
    });
    Ok(fee)
}

/// What every end has in common: power, pledge, the live CommR, the tombstone.
fn end(
    work: &mut Work<'_>,
    provider: &mut Provider,
    number: SectorNumber,
    sector: &Sector,
    state: SectorState,
    how: SectorEnd,
) -> Rule<()> {
    if state == SectorState::Active {
        provider.remove_power(sector.power)?;
    }
    provider.pledge = provider.pledge.minus(sector.pledge)?;
    work.unindex(key::comm_r(&sector.comm_r));
    let ended = EndedSector {
        comm_r: sector.comm_r,
        epoch: work.now,
        how,
    };
    work.save_sector(provider.id, number, &SectorLeaf::Ended(ended));
    Ok(())
}

/// Takes a terminated sector out of its deadline's counts, and an empty deadline out of the index of closes.
fn free_slot(work: &mut Work<'_>, provider: &Provider, sector: &Sector) -> Rule<()> {
    let (id, index) = (provider.id, sector.deadline);
    let mut deadline = work.deadline(id, index)?;
    let count = deadline
        .partitions
        .get_mut(sector.partition as usize)
        .filter(|count| **count > 0);
    let Some(count) = count else {
        return Err(StoreError::corrupt(
            &key::deadline(id, index),
            "counts no sector where one lives",
        )
        .into());
    };
    *count -= 1;
    if deadline.sectors() == 0 {
        let schedule = Schedule::of(&work.params, provider);
        let close = schedule.occurrence(work.now, index, &deadline).close;
        work.unindex(key::close(close, id, index));
        deadline.pending = None;
    }
    work.save_deadline(id, index, &deadline);
    Ok(())
}

fn check_list(list: &[SectorNumber]) -> Rule<()> {
    if list.is_empty() || list.len() > MAX_LISTED_SECTORS {
        let (value, max) = (list.len() as u128, MAX_LISTED_SECTORS as u128);
        return Err(ChainError::OutOfBounds {
            what: Subject::SectorList,
            value,
            min: 1,
            max,
        }
        .into());
    }
    if !list.windows(2).all(|pair| pair[0] < pair[1]) {
        return Err(ChainError::NotAllowed {
            what: Subject::SectorList,
        }
        .into());
    }
    Ok(())
}

/// A live sector whose deadline still takes declarations, and the occurrence they are for.
fn declarable(
    work: &Work<'_>,
    provider: &Provider,
    number: SectorNumber,
) -> Rule<(Sector, Window)> {
    let sector = work.sector(provider.id, number)?;
    let leaf = work.deadline(provider.id, sector.deadline)?;
    let schedule = Schedule::of(&work.params, provider);
    let window = schedule.require_declarable(work.now, sector.deadline, &leaf)?;
    Ok((sector, window))
}

fn slot_of(partition: &mut Partition, id: ProviderId, number: SectorNumber) -> Rule<&mut Slot> {
    let found = partition
        .slots
        .iter_mut()
        .find(|slot| slot.number == number);
    found.ok_or_else(|| {
        Stop::Broken(StoreError::corrupt(
            &key::sector(id, number),
            "not in its partition",
        ))
    })
}
