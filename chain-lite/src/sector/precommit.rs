//! PreCommit: number, CommR, CommD, ticket, deposit (`chain.md` §6).
//!
//! Walk: after `prover::seal` (the replica exists), before [`super::commit`]. The replica is fixed on chain before the
//! seed that challenges it exists, and a deposit makes trying again expensive (`threat-model.md` P7). The chain computes
//! CommD from the deals' own piece commitments by Filecoin's placement rule; it never takes a provider's word for which
//! pieces a sector holds (P16).

use prover::piece::layout;
use prover::{CommD, CommR, PieceInfo, SectorNumber, SectorSize};

use super::{EndedSector, PreCommit, SectorEnd, SectorLeaf, quality_power};
use crate::account::{Address, DealId, ProviderId};
use crate::deal::DealStatus;
use crate::error::{ChainError, Rule, Stop, StoreError, Subject};
use crate::events::{Event, PenaltyReason};
use crate::execute::Work;
use crate::provider;
use crate::randomness::{self, Tag};
use crate::slash;
use crate::state::key;
use crate::units::{Epoch, EpochCount, Overflow};

/// What the message says.
pub(crate) struct Offer<'m> {
    pub(crate) number: SectorNumber,
    pub(crate) comm_r: CommR,
    pub(crate) comm_d: CommD,
    pub(crate) ticket_epoch: Epoch,
    pub(crate) expiration: Epoch,
    pub(crate) deals: &'m [DealId],
}

/// Commits to a replica.
pub(crate) fn precommit(
    work: &mut Work<'_>,
    sender: &Address,
    id: ProviderId,
    offer: Offer<'_>,
) -> Rule<()> {
    let mut provider = provider::operated(work, sender, id)?;
    if work.sector_leaf(id, offer.number)?.is_some() {
        return Err(ChainError::Duplicate {
            what: Subject::SectorNumber,
        }
        .into());
    }
    require_fresh_comm_r(work, &offer.comm_r)?;
    check_times(work, &offer)?;
    let ticket = randomness::need(work.kv(), &work.net, Tag::Ticket, offer.ticket_epoch, id)?;
    let (pieces, verified) = assign_deals(work, id, provider.sector_size, &offer)?;
    check_comm_d(&pieces, provider.sector_size, &offer.comm_d)?;

    provider::refresh(work, &mut provider)?;
    provider.require_no_debt()?;
    let power = quality_power(
        provider.sector_size.bytes(),
        remaining_life(work.now, offer.expiration),
        verified,
        work.params.quality_verified,
    )?;
    let deposit = slash::precommit_deposit(&work.params, &work.net, power);
    provider.require_available(deposit)?;
    provider.deposits = provider.deposits.plus(deposit)?;
    work.save_provider(&provider)?;

    let Offer {
        number,
        comm_r,
        comm_d,
        expiration,
        ..
    } = offer;
    let leaf = PreCommit {
        comm_r,
        comm_d,
        ticket_epoch: offer.ticket_epoch,
        ticket: randomness::ticket(ticket),
        epoch: work.now,
        expiration,
        deals: offer.deals.to_vec(),
        deposit,
    };
    work.save_sector(id, number, &SectorLeaf::PreCommitted(leaf));
    let (since, span) = expiry_timer(work, work.now);
    work.index(key::precommit_due(since.after(span), id, number));
    work.emit(Event::PreCommitted {
        provider: id,
        sector: number,
        comm_r,
        comm_d,
        expiration,
    });
    Ok(())
}

/// The timer at whose end a pre-commitment made at `epoch` expires: `now > epoch + PRECOMMIT_MAX`, in lit epochs.
pub(crate) fn expiry_timer(work: &Work<'_>, epoch: Epoch) -> (Epoch, EpochCount) {
    (epoch, EpochCount(work.params.precommit_max.0 + 1))
}

/// A CommR names one live replica. (Pre-commitments do not reserve it: else whoever saw one in the mempool could block it
/// with a pre-commitment of his own, which he can never prove because the replica is bound to its provider.)
pub(crate) fn require_fresh_comm_r(work: &Work<'_>, comm_r: &CommR) -> Rule<()> {
    match work.kv().get(&key::comm_r(comm_r))? {
        Some(_) => Err(ChainError::Duplicate {
            what: Subject::CommR,
        }
        .into()),
        None => Ok(()),
    }
}

fn check_times(work: &Work<'_>, offer: &Offer<'_>) -> Rule<()> {
    let (now, params) = (work.now, &work.params);
    if offer.ticket_epoch >= now {
        let earliest = offer.ticket_epoch.next();
        return Err(ChainError::TooEarly {
            what: Subject::TicketEpoch,
            earliest,
            now,
        }
        .into());
    }
    let latest = offer.ticket_epoch.after(params.ticket_max_age);
    if now > latest {
        return Err(ChainError::TooLate {
            what: Subject::TicketEpoch,
            latest,
            now,
        }
        .into());
    }
    let least = now
        .after(params.precommit_max)
        .after(params.min_sector_life);
    let most = now.after(params.max_sector_life);
    if offer.expiration < least || offer.expiration > most {
        let (min, max) = (least.0.into(), most.0.into());
        return Err(ChainError::OutOfBounds {
            what: Subject::Expiration,
            value: offer.expiration.0.into(),
            min,
            max,
        }
        .into());
    }
    Ok(())
}

/// Takes the listed deals for this sector; gives their pieces in order and the byte-epochs of the verified ones.
fn assign_deals(
    work: &mut Work<'_>,
    id: ProviderId,
    size: SectorSize,
    offer: &Offer<'_>,
) -> Rule<(Vec<PieceInfo>, u128)> {
    let most = work.params.deals_per_sector(size);
    if offer.deals.len() as u64 > most {
        let (what, value) = (Subject::SectorDeals, offer.deals.len() as u128);
        return Err(ChainError::OutOfBounds {
            what,
            value,
            min: 0,
            max: most.into(),
        }
        .into());
    }
    let mut pieces = Vec::with_capacity(offer.deals.len());
    let mut verified = 0u128;
    for deal_id in offer.deals {
        let mut deal = work.deal(deal_id)?;
        if deal.proposal.provider != id {
            return Err(ChainError::NotAllowed {
                what: Subject::ProposalProvider,
            }
            .into());
        }
        // A deal listed twice is assigned the second time round.
        if deal.status != DealStatus::Published || deal.sector.is_some() {
            return Err(ChainError::WrongState {
                what: Subject::Deal,
            }
            .into());
        }
        if deal.proposal.end > offer.expiration {
            let (value, max) = (deal.proposal.end.0.into(), offer.expiration.0.into());
            return Err(ChainError::OutOfBounds {
                what: Subject::DealEnd,
                value,
                min: 0,
                max,
            }
            .into());
        }
        pieces.push(deal.proposal.piece());
        verified = verified
            .checked_add(deal.verified_space_time(work.now))
            .ok_or(Overflow)?;
        deal.sector = Some(offer.number);
        work.save_deal(deal_id, &deal);
    }
    Ok((pieces, verified))
}

/// Lays the pieces out in listed order, each aligned to its own size, zero pieces between and behind; compares roots.
fn check_comm_d(pieces: &[PieceInfo], size: SectorSize, comm_d: &CommD) -> Rule<()> {
    match layout::comm_d(pieces, size) {
        Ok(expected) if expected == *comm_d => Ok(()),
        _ => Err(ChainError::BadProof {
            what: Subject::CommD,
        }
        .into()),
    }
}

/// The proof did not come: the deposit becomes a penalty, the deals are free for another sector.
pub(crate) fn expire(work: &mut Work<'_>, id: ProviderId, number: SectorNumber) -> Rule<()> {
    let Some(SectorLeaf::PreCommitted(leaf)) = work.sector_leaf(id, number)? else {
        let key = key::sector(id, number);
        return Err(Stop::Broken(StoreError::corrupt(
            &key,
            "due to expire, but not a pre-commitment",
        )));
    };
    let (since, span) = expiry_timer(work, leaf.epoch);
    if work.put_off(since, span, |due| key::precommit_due(due, id, number))? {
        return Ok(());
    }
    for deal_id in &leaf.deals {
        let mut deal = work.deal(deal_id)?;
        if deal.status == DealStatus::Published {
            deal.sector = None;
            work.save_deal(deal_id, &deal);
        }
    }
    let mut provider = work.provider(id)?;
    provider.deposits = provider.deposits.minus(leaf.deposit)?;
    work.emit(Event::PreCommitExpired {
        provider: id,
        sector: number,
        deposit: leaf.deposit,
    });
    slash::penalize(
        work,
        &mut provider,
        PenaltyReason::PreCommitExpired,
        leaf.deposit,
    )?;
    work.save_provider(&provider)?;
    let ended = EndedSector {
        comm_r: leaf.comm_r,
        epoch: work.now,
        how: SectorEnd::NeverProven,
    };
    work.save_sector(id, number, &SectorLeaf::Ended(ended));
    Ok(())
}

/// Epochs a sector lives from `now`; quality is computed over them.
pub(crate) fn remaining_life(now: Epoch, expiration: Epoch) -> EpochCount {
    expiration.since(now)
}
