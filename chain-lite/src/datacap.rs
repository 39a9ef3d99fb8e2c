//! DataCap: bytes of verified deals that a client may publish, granted by notaries (`chain.md` §12).
//!
//! Walk: before [`crate::deal::publish`], which takes a verified deal's size from its client's DataCap, and
//! [`crate::sector`], where verified bytes count as several (§8). The root key of genesis gives notaries an allowance; a
//! notary grants clients parts of it. A deal gives its bytes back only when it is slashed because it was never activated: the
//! network got nothing for them. A chain without a root key has no verified deals.
//!
//! `granted = held + consumed` always, in [`crate::state::Network`] and recomputed by [`crate::invariants`].
//! Cost: one leaf for each address that ever had some; gone when both numbers are zero.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::account::Address;
use crate::error::{ChainError, Rule, Subject};
use crate::events::Event;
use crate::execute::Work;
use crate::message::DealProposal;
use crate::units::StoragePower;

/// An address's DataCap leaf, in bytes of padded pieces. An absent leaf is nothing of either.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
)]
pub struct DataCap {
    /// As a notary: what it may still grant.
    pub allowance: StoragePower,
    /// As a client: what its verified deals may still take.
    pub held: StoragePower,
}

/// Root key only: adds to a notary's allowance.
pub(crate) fn allow(
    work: &mut Work<'_>,
    sender: &Address,
    notary: &Address,
    bytes: StoragePower,
) -> Rule<()> {
    if work.params.datacap_root != Some(*sender) {
        return Err(ChainError::NotAllowed {
            what: Subject::DataCapRoot,
        }
        .into());
    }
    require_bytes(bytes, StoragePower(u128::MAX))?;
    let mut cap = work.datacap(notary)?;
    cap.allowance = cap.allowance.plus(bytes)?;
    work.save_datacap(notary, &cap);
    work.emit(Event::AllowanceGranted {
        notary: *notary,
        bytes,
    });
    Ok(())
}

/// A notary grants a client part of its allowance.
pub(crate) fn grant(
    work: &mut Work<'_>,
    notary: &Address,
    client: &Address,
    bytes: StoragePower,
) -> Rule<()> {
    let mut own = work.datacap(notary)?;
    require_bytes(bytes, own.allowance)?;
    own.allowance = own.allowance.minus(bytes)?;
    work.save_datacap(notary, &own);
    // Read after the write: a notary may grant itself.
    let mut cap = work.datacap(client)?;
    cap.held = cap.held.plus(bytes)?;
    work.save_datacap(client, &cap);
    work.net.datacap_granted = work.net.datacap_granted.plus(bytes)?;
    work.emit(Event::DataCapGranted {
        notary: *notary,
        client: *client,
        bytes,
    });
    Ok(())
}

/// Refuses a verified proposal that its client has no bytes for.
pub(crate) fn require(work: &Work<'_>, proposal: &DealProposal) -> Rule<()> {
    if !proposal.verified {
        return Ok(());
    }
    if work.params.datacap_root.is_none() {
        return Err(ChainError::NotAllowed {
            what: Subject::VerifiedDeal,
        }
        .into());
    }
    require_bytes(size(proposal), work.datacap(&proposal.client)?.held)
}

/// A verified deal is published: its bytes are consumed. [`require`] was asked before.
pub(crate) fn consume(work: &mut Work<'_>, proposal: &DealProposal) -> Rule<()> {
    if proposal.verified {
        let mut cap = work.datacap(&proposal.client)?;
        cap.held = cap.held.minus(size(proposal))?;
        work.save_datacap(&proposal.client, &cap);
        work.net.datacap_consumed = work.net.datacap_consumed.plus(size(proposal))?;
    }
    Ok(())
}

/// A verified deal was never activated: its client gets the bytes back.
pub(crate) fn give_back(work: &mut Work<'_>, proposal: &DealProposal) -> Rule<()> {
    if proposal.verified {
        let mut cap = work.datacap(&proposal.client)?;
        cap.held = cap.held.plus(size(proposal))?;
        work.save_datacap(&proposal.client, &cap);
        work.net.datacap_consumed = work.net.datacap_consumed.minus(size(proposal))?;
    }
    Ok(())
}

fn size(proposal: &DealProposal) -> StoragePower {
    StoragePower(proposal.piece_size.bytes().into())
}

fn require_bytes(wanted: StoragePower, have: StoragePower) -> Rule<()> {
    if wanted.is_zero() || wanted > have {
        return Err(ChainError::OutOfBounds {
            what: Subject::DataCap,
            value: wanted.0,
            min: 1,
            max: have.0,
        }
        .into());
    }
    Ok(())
}
