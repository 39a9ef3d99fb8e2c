//! Paying, ending and slashing deals (`chain.md` §11).
//!
//! Walk: back from [`super::publish`]; called by [`crate::sector::deadline`] at each close, and by [`crate::slash`].
//!
//! A deal is settled when its sector's deadline closes, when its sector is removed, and at its end: the client pays for
//! the epochs since the last settlement if a proof ends them, and keeps the money if none does. Every path out of an open
//! deal goes through [`finish`], which leaves nothing locked (`threat-model.md` V13):
//! `paid + refunded + still locked == price · (end - start)` (I12).

use crate::account::{Address, DealId};
use crate::datacap;
use crate::deal::publish::activation_timer;
use crate::deal::{Deal, DealStatus};
use crate::error::Rule;
use crate::events::{BurnReason, Event};
use crate::execute::Work;
use crate::state::key;
use crate::units::{TokenAmount, mul_div};

/// A deadline closed over the deal's sector: pay for what was proven, end what is over.
pub(crate) fn at_close(
    work: &mut Work<'_>,
    id: &DealId,
    owner: &Address,
    proven: bool,
) -> Rule<()> {
    let mut deal = work.deal(id)?;
    if deal.status != DealStatus::Active {
        return Ok(());
    }
    pay(work, id, &mut deal, owner, proven)?;
    if work.now >= deal.proposal.end {
        complete(work, id, &mut deal, owner)?;
    }
    work.save_deal(id, &deal);
    Ok(())
}

/// The deal's sector ended early. What no proof covers is the client's; a deal that was not over is broken.
pub(crate) fn at_removal(work: &mut Work<'_>, id: &DealId, owner: &Address) -> Rule<()> {
    let mut deal = work.deal(id)?;
    if deal.status != DealStatus::Active {
        return Ok(());
    }
    pay(work, id, &mut deal, owner, false)?;
    if work.now >= deal.proposal.end {
        complete(work, id, &mut deal, owner)?;
    } else {
        slash(work, id, &mut deal, owner)?;
    }
    work.save_deal(id, &deal);
    Ok(())
}

/// The deal should have been in a committed sector by now. Its index entry is gone already.
pub(crate) fn not_activated(work: &mut Work<'_>, id: &DealId) -> Rule<()> {
    let mut deal = work.deal(id)?;
    if deal.status != DealStatus::Published {
        return Ok(());
    }
    let (since, span) = activation_timer(&deal);
    if work.put_off(since, span, |due| key::deal_due(due, id))? {
        return Ok(());
    }
    let owner = work.provider(deal.proposal.provider)?.owner;
    slash(work, id, &mut deal, &owner)?;
    datacap::give_back(work, &deal.proposal)?;
    // It is in no sector, and that tells it from a deal that was broken later.
    deal.sector = None;
    work.save_deal(id, &deal);
    Ok(())
}

/// The deal's piece is in a committed sector. Where an outage let that happen after the start, nobody held the piece in
/// between, and the client keeps that part of the price.
pub(crate) fn activate(
    work: &mut Work<'_>,
    id: &DealId,
    deal: &mut Deal,
    owner: &Address,
) -> Rule<()> {
    let (since, span) = activation_timer(deal);
    let due = work.due_at(since, span)?;
    work.unindex(key::deal_due(due, id));
    deal.status = DealStatus::Active;
    pay(work, id, deal, owner, false)
}

/// Settles the epochs since the last settlement.
fn pay(
    work: &mut Work<'_>,
    id: &DealId,
    deal: &mut Deal,
    owner: &Address,
    proven: bool,
) -> Rule<()> {
    let until = deal.proposal.end.min(work.now);
    if until <= deal.settled {
        return Ok(());
    }
    let amount = deal
        .proposal
        .price
        .mul_div(until.since(deal.settled).0.into(), 1)?;
    let mut client = work.escrow(&deal.proposal.client)?;
    client.locked = client.locked.minus(amount)?;
    let mut burnt = TokenAmount::ZERO;
    if proven {
        burnt = TokenAmount(mul_div(amount.0, work.params.pay_burn_bp.into(), 10_000)?);
        client.escrow = client.escrow.minus(amount)?;
        deal.paid = deal.paid.plus(amount)?;
    } else {
        deal.refunded = deal.refunded.plus(amount)?;
    }
    work.save_escrow(&deal.proposal.client, &client)?;
    if proven {
        let mut provider = work.escrow(owner)?;
        provider.escrow = provider.escrow.plus(amount.minus(burnt)?)?;
        work.save_escrow(owner, &provider)?;
        work.burn(BurnReason::DealPayment, burnt)?;
    }
    deal.settled = until;
    work.emit(Event::DealPaid {
        deal: *id,
        amount,
        burnt,
        proven,
    });
    Ok(())
}

/// Gives both sides what is still locked, and ends the deal.
fn finish(work: &mut Work<'_>, deal: &mut Deal, owner: &Address, status: DealStatus) -> Rule<()> {
    let rest = deal.locked();
    let mut client = work.escrow(&deal.proposal.client)?;
    client.locked = client.locked.minus(rest)?;
    work.save_escrow(&deal.proposal.client, &client)?;
    let mut provider = work.escrow(owner)?;
    provider.locked = provider.locked.minus(deal.proposal.provider_collateral)?;
    work.save_escrow(owner, &provider)?;
    deal.refunded = deal.refunded.plus(rest)?;
    deal.status = status;
    deal.ended = Some(work.now);
    Ok(())
}

fn complete(work: &mut Work<'_>, id: &DealId, deal: &mut Deal, owner: &Address) -> Rule<()> {
    finish(work, deal, owner, DealStatus::Completed)?;
    work.emit(Event::DealCompleted { deal: *id });
    Ok(())
}

/// Takes the whole collateral: a share to the client, the rest burnt.
fn slash(work: &mut Work<'_>, id: &DealId, deal: &mut Deal, owner: &Address) -> Rule<()> {
    finish(work, deal, owner, DealStatus::Slashed)?;
    let collateral = deal.proposal.provider_collateral;
    let to_client = collateral.mul_div(work.params.slash_to_client_percent.into(), 100)?;
    let burnt = collateral.minus(to_client)?;
    let mut provider = work.escrow(owner)?;
    provider.escrow = provider.escrow.minus(collateral)?;
    work.save_escrow(owner, &provider)?;
    let mut client = work.escrow(&deal.proposal.client)?;
    client.escrow = client.escrow.plus(to_client)?;
    work.save_escrow(&deal.proposal.client, &client)?;
    work.burn(BurnReason::DealSlash, burnt)?;
    work.emit(Event::DealSlashed {
        deal: *id,
        to_client,
        burnt,
    });
    Ok(())
}
