//! Publishing client-signed deal proposals (`chain.md` §11): both sides' money is locked in the same step.
//!
//! Walk: after `retrieval::push` (the provider has the bytes and recomputed both roots), before `storage_node`'s packing
//! and [`crate::sector::precommit`]. Each proposal stands alone: bad ones are skipped and named in the receipt by index.
//! A proposal's id is the hash of its canonical bytes, chain and nonce included, and an id is accepted once for ever
//! (`threat-model.md` C1, C2). So is a client's nonce: a client that has to offer the same content to a second provider, or
//! on new terms, signs the new proposal under the old nonce, and whatever the first provider said or says, at most one of them
//! is ever charged (`DESIGN.md` §6.2; stricter than `chain.md` §11, which knows the id only).

use crate::account::{Address, DealId, ProviderId};
use crate::datacap;
use crate::deal::{Deal, DealStatus};
use crate::error::{ChainError, Rule, Stop, Subject};
use crate::events::Event;
use crate::execute::{Output, ProposalOutcome, Work};
use crate::market::require_unlocked;
use crate::message::{
    CheckedProposal, DealProposal, MAX_LABEL_BYTES, MAX_PROPOSALS, SignedProposal,
};
use crate::provider::{self, Provider};
use crate::reward;
use crate::slash;
use crate::state::{key, read};
use crate::units::{Epoch, EpochCount, TokenAmount};

/// Publishes what can be published.
pub(crate) fn publish(
    work: &mut Work<'_>,
    sender: &Address,
    id: ProviderId,
    proposals: &[SignedProposal],
    checked: &[CheckedProposal],
) -> Rule<Output> {
    let provider = provider::operated(work, sender, id)?;
    if proposals.is_empty() {
        let what = Subject::ProposalList;
        return Err(ChainError::OutOfBounds {
            what,
            value: 0,
            min: 1,
            max: MAX_PROPOSALS as u128,
        }
        .into());
    }
    let mut outcomes = Vec::with_capacity(proposals.len());
    for (signed, &verdict) in proposals.iter().zip(checked) {
        let deal = verdict.id;
        outcomes.push(
            match publish_one(work, &provider, &signed.proposal, verdict) {
                Ok(()) => ProposalOutcome::Published { deal },
                Err(Stop::Refused(error)) => ProposalOutcome::Refused { deal, error },
                Err(stop) => return Err(stop),
            },
        );
    }
    Ok(Output::Deals { outcomes })
}

/// One proposal. Everything is checked before anything is written, so a refusal leaves no trace.
fn publish_one(
    work: &mut Work<'_>,
    provider: &Provider,
    proposal: &DealProposal,
    checked: CheckedProposal,
) -> Rule<()> {
    check_parties(work, provider, proposal, checked)?;
    let duration = check_terms(work, provider, proposal)?;
    datacap::require(work, proposal)?;
    let price = proposal.price.mul_div(duration.into(), 1)?;
    let mut client = work.escrow(&proposal.client)?;
    require_unlocked(&client, Subject::ClientEscrow, price)?;
    let mut owner = work.escrow(&provider.owner)?;
    require_unlocked(
        &owner,
        Subject::ProviderEscrow,
        proposal.provider_collateral,
    )?;
    client.locked = client.locked.plus(price)?;
    datacap::consume(work, proposal)?;
    owner.locked = owner.locked.plus(proposal.provider_collateral)?;
    work.save_escrow(&proposal.client, &client)?;
    work.save_escrow(&provider.owner, &owner)?;
    record(work, provider.id, checked.id, proposal);
    Ok(())
}

/// Who deals with whom, where, and whether the client said so.
fn check_parties(
    work: &Work<'_>,
    provider: &Provider,
    proposal: &DealProposal,
    checked: CheckedProposal,
) -> Rule<()> {
    let not_allowed = |what| Err(ChainError::NotAllowed { what }.into());
    if proposal.chain_id != work.chain_id {
        return not_allowed(Subject::ProposalChain);
    }
    if proposal.provider != provider.id {
        return not_allowed(Subject::ProposalProvider);
    }
    if proposal.client == provider.owner {
        return not_allowed(Subject::SelfDeal);
    }
    if !checked.signature_holds {
        return Err(ChainError::BadSignature {
            what: Subject::ProposalSignature,
        }
        .into());
    }
    if read::<Deal>(work.kv(), &key::deal(&checked.id))?.is_some() {
        return Err(ChainError::Duplicate {
            what: Subject::Deal,
        }
        .into());
    }
    let nonce = key::client_nonce(&proposal.client, proposal.client_nonce);
    if read::<DealId>(work.kv(), &nonce)?.is_some() {
        return Err(ChainError::Duplicate {
            what: Subject::ClientNonce,
        }
        .into());
    }
    Ok(())
}

/// When, how much, for how long. Gives the duration.
fn check_terms(work: &Work<'_>, provider: &Provider, proposal: &DealProposal) -> Rule<u64> {
    let params = &work.params;
    let within = |what, value: u128, min: u128, max: u128| {
        if (min..=max).contains(&value) {
            Ok(())
        } else {
            Err(Stop::from(ChainError::OutOfBounds {
                what,
                value,
                min,
                max,
            }))
        }
    };
    let latest = work.now.after(params.max_start_delay);
    within(
        Subject::DealStart,
        proposal.start.0.into(),
        work.now.next().0.into(),
        latest.0.into(),
    )?;
    let duration = proposal.duration().0;
    within(
        Subject::DealDuration,
        duration.into(),
        params.min_deal.0.into(),
        params.max_deal.0.into(),
    )?;
    let (size, most) = (proposal.piece_size.bytes(), provider.sector_size.bytes());
    within(Subject::PieceSize, size.into(), 1, most.into())?;
    within(
        Subject::DealLabel,
        proposal.label.len() as u128,
        0,
        MAX_LABEL_BYTES as u128,
    )?;
    let least = slash::deal_collateral(params, &work.net, size, reward::baseline(params, work.now));
    within(
        Subject::DealCollateral,
        proposal.provider_collateral.0,
        least.0,
        u128::MAX,
    )?;
    Ok(duration)
}

fn record(work: &mut Work<'_>, provider: ProviderId, id: DealId, proposal: &DealProposal) {
    work.index(key::provider_deal(provider, &id));
    work.index(key::client_deal(&proposal.client, &id));
    work.index_client_nonce(&proposal.client, proposal.client_nonce, &id);
    let deal = Deal {
        status: DealStatus::Published,
        published: work.now,
        sector: None,
        settled: proposal.start,
        paid: TokenAmount::ZERO,
        refunded: TokenAmount::ZERO,
        ended: None,
        proposal: proposal.clone(),
    };
    let (since, span) = activation_timer(&deal);
    work.index(key::deal_due(since.after(span), &id));
    work.save_deal(&id, &deal);
    work.emit(Event::DealPublished {
        deal: id,
        client: proposal.client,
        provider,
    });
}

/// The timer at whose end a deal that is not active is broken: `now > start`, in lit epochs since its publication.
pub(crate) fn activation_timer(deal: &Deal) -> (Epoch, EpochCount) {
    let latest = deal.proposal.start.next();
    (deal.published, latest.since(deal.published))
}
