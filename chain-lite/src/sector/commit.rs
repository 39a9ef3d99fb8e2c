//! ProveCommit: the PoRep proof, pledge, assignment to a partition (`chain.md` §6).
//!
//! Walk: after `prover::seal` (Sealed), before [`super::window_post`]. The statement is built here from state alone:
//! provider, number, the ticket and CommD and CommR fixed at pre-commit, and the seed drawn after it. A proof of anything
//! else does not verify (`threat-model.md` P10), and its bytes identify nothing (P11). The sector has no power until its
//! first window PoSt.

use prover::verify::PorepStatement;
use prover::{RegisteredSeal, SectorNumber};

use super::deadline::{self, Schedule};
use super::precommit::{expiry_timer, remaining_life, require_fresh_comm_r};
use super::{PreCommit, Sector, SectorLeaf, SectorState, Slot, quality_power};
use crate::account::{Address, ProviderId};
use crate::deal::publish::activation_timer;
use crate::deal::{DealStatus, settle};
use crate::error::{ChainError, Rule, Stop, Subject};
use crate::events::Event;
use crate::execute::{ProofError, Work};
use crate::provider::{self, Provider};
use crate::randomness::{self, Tag};
use crate::reward;
use crate::slash;
use crate::state::key;
use crate::units::{Overflow, TokenAmount};

/// Proves a pre-committed replica.
pub(crate) fn prove(
    work: &mut Work<'_>,
    sender: &Address,
    id: ProviderId,
    number: SectorNumber,
    proof: &[u8],
) -> Rule<()> {
    let mut provider = provider::operated(work, sender, id)?;
    let pre = match work.sector_leaf(id, number)? {
        Some(SectorLeaf::PreCommitted(pre)) => pre,
        Some(SectorLeaf::Committed(_)) => {
            return Err(ChainError::Duplicate {
                what: Subject::PorepProof,
            }
            .into());
        }
        Some(SectorLeaf::Ended(_)) => {
            return Err(ChainError::WrongState {
                what: Subject::PreCommit,
            }
            .into());
        }
        None => {
            return Err(ChainError::NotFound {
                what: Subject::PreCommit,
            }
            .into());
        }
    };
    check_time(work, &pre)?;
    require_fresh_comm_r(work, &pre.comm_r)?;
    let verified = check_deals(work, number, &pre)?;
    let seed_epoch = pre.epoch.after(work.params.seed_delay);
    let seed = randomness::seed(randomness::need(
        work.kv(),
        &work.net,
        Tag::SealSeed,
        seed_epoch,
        id,
    )?);
    let statement = PorepStatement {
        seal: RegisteredSeal::v1_1(provider.sector_size),
        prover: id.prover_id(),
        sector: number,
        ticket: pre.ticket,
        seed,
        comm_d: pre.comm_d,
        comm_r: pre.comm_r,
    };
    verdict(
        work.verifier()?.porep(&statement, proof),
        Subject::PorepProof,
    )?;

    let power = quality_power(
        provider.sector_size.bytes(),
        remaining_life(work.now, pre.expiration),
        verified,
        work.params.quality_verified,
    )?;
    let pledge = lock_pledge(work, &mut provider, &pre, power)?;
    work.save_provider(&provider)?;
    let (deadline, partition) = take_slot(work, &provider, number)?;
    activate_deals(work, number, &pre, &provider.owner)?;
    let (since, span) = expiry_timer(work, pre.epoch);
    let due = work.due_at(since, span)?;
    work.unindex(key::precommit_due(due, id, number));
    work.index_comm_r(&pre.comm_r, id, number);
    let sector = Sector {
        comm_r: pre.comm_r,
        comm_d: pre.comm_d,
        ticket: pre.ticket,
        seed,
        activation: work.now,
        expiration: pre.expiration,
        power,
        pledge,
        deals: pre.deals,
        deadline,
        partition,
    };
    work.save_sector(id, number, &SectorLeaf::Committed(sector));
    work.emit(Event::SectorProven {
        provider: id,
        sector: number,
        deadline,
        partition,
        pledge,
    });
    Ok(())
}

/// A verifier's answer as a rule's: a wrong proof is the sender's fault, a missing key is this node's.
pub(crate) fn verdict(answer: Result<(), ProofError>, what: Subject) -> Rule<()> {
    match answer {
        Ok(()) => Ok(()),
        Err(ProofError::Rejected(_)) => Err(ChainError::BadProof { what }.into()),
        Err(error @ ProofError::Unable(_)) => Err(Stop::Unable(error.to_string())),
    }
}

/// `pc + SEED_DELAY < now <= pc + PRECOMMIT_MAX`: the seed was unknown at pre-commit and is on chain now.
fn check_time(work: &Work<'_>, pre: &PreCommit) -> Rule<()> {
    let now = work.now;
    let earliest = pre.epoch.after(work.params.seed_delay).next();
    if now < earliest {
        return Err(ChainError::TooEarly {
            what: Subject::SeedEpoch,
            earliest,
            now,
        }
        .into());
    }
    let latest = pre.epoch.after(work.params.precommit_max);
    if work.lit_since(pre.epoch)? > work.params.precommit_max {
        return Err(ChainError::TooLate {
            what: Subject::PreCommit,
            latest,
            now,
        }
        .into());
    }
    Ok(())
}

/// Every deal is still waiting for exactly this sector, and has not begun without it. Gives the byte-epochs of verified ones.
fn check_deals(work: &Work<'_>, number: SectorNumber, pre: &PreCommit) -> Rule<u128> {
    let mut verified = 0u128;
    for id in &pre.deals {
        let deal = work.deal(id)?;
        if deal.status != DealStatus::Published || deal.sector != Some(number) {
            return Err(ChainError::WrongState {
                what: Subject::Deal,
            }
            .into());
        }
        let (since, span) = activation_timer(&deal);
        if work.lit_since(since)? >= span {
            let latest = deal.proposal.start;
            return Err(ChainError::TooLate {
                what: Subject::DealStart,
                latest,
                now: work.now,
            }
            .into());
        }
        verified = verified
            .checked_add(deal.verified_space_time(work.now))
            .ok_or(Overflow)?;
    }
    Ok(verified)
}

/// Releases the deposit and locks the pledge.
fn lock_pledge(
    work: &mut Work<'_>,
    provider: &mut Provider,
    pre: &PreCommit,
    power: crate::units::StoragePower,
) -> Rule<TokenAmount> {
    provider::refresh(work, provider)?;
    provider.deposits = provider.deposits.minus(pre.deposit)?;
    let baseline = reward::baseline(&work.params, work.now);
    let pledge = slash::pledge(&work.params, &work.net, power, baseline);
    provider.require_available(pledge)?;
    provider.pledge = provider.pledge.plus(pledge)?;
    Ok(pledge)
}

/// Puts the sector into a partition, and its deadline into the index of closes if it was empty.
fn take_slot(work: &mut Work<'_>, provider: &Provider, number: SectorNumber) -> Rule<(u16, u32)> {
    let id = provider.id;
    let schedule = Schedule::of(&work.params, provider);
    let mut deadlines = Vec::with_capacity(work.params.deadlines.into());
    for index in 0..work.params.deadlines {
        deadlines.push(work.deadline(id, index)?);
    }
    let size = u32::try_from(provider.sector_size.window_sectors()).unwrap_or(u32::MAX);
    let full = ChainError::WrongState {
        what: Subject::PartitionSlot,
    };
    let slot = deadline::assign(
        &schedule,
        work.now,
        &deadlines,
        size,
        work.params.max_partitions,
    );
    let (index, partition_index) = slot.ok_or(full)?;
    let mut deadline = std::mem::take(&mut deadlines[usize::from(index)]);
    if deadline.sectors() == 0 {
        let close = schedule.occurrence(work.now, index, &deadline).close;
        work.index(key::close(close, id, index));
    }
    let at = partition_index as usize;
    if at == deadline.partitions.len() {
        deadline.partitions.push(0);
    }
    deadline.partitions[at] += 1;
    work.save_deadline(id, index, &deadline);

    let mut partition = work.partition(id, index, partition_index)?;
    let place = partition.slots.partition_point(|slot| slot.number < number);
    partition.slots.insert(
        place,
        Slot {
            number,
            state: SectorState::Unproven,
        },
    );
    work.save_partition(id, index, partition_index, &partition);
    Ok((index, partition_index))
}

fn activate_deals(
    work: &mut Work<'_>,
    number: SectorNumber,
    pre: &PreCommit,
    owner: &Address,
) -> Rule<()> {
    for id in &pre.deals {
        let mut deal = work.deal(id)?;
        settle::activate(work, id, &mut deal, owner)?;
        work.save_deal(id, &deal);
        work.emit(Event::DealActivated {
            deal: *id,
            sector: number,
        });
    }
    Ok(())
}
