//! Client and provider escrow: money set aside for deals (`chain.md` §§3, 11).
//!
//! `escrow` is all of it, `locked` the part that open deals hold; `locked <= escrow` always (I8). A provider's escrow is
//! kept under its owner's address. Plain transfers between accounts are here too.
//!
//! **Closed credit** (a flag of genesis): money pays for storage and secures it, and that is all. Messages that would pass it to
//! another user or take it out are refused; storing, proving, repairing and their payments are untouched.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::account::Address;
use crate::error::{ChainError, Rule, Subject};
use crate::events::Event;
use crate::execute::{Work, require_some};
use crate::message::Message;
use crate::provider;
use crate::units::TokenAmount;

/// An account's escrow leaf. An absent leaf is an empty one.
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
pub struct Escrow {
    /// All of it.
    pub escrow: TokenAmount,
    /// The part that open deals hold.
    pub locked: TokenAmount,
}

impl Escrow {
    /// What its account may withdraw or lock for a new deal.
    pub fn unlocked(&self) -> TokenAmount {
        self.escrow.minus_or_zero(self.locked)
    }
}

/// In a chain of closed credit: refuses a message that passes money to another user or takes it out.
pub(crate) fn require_open(work: &Work<'_>, sender: &Address, msg: &Message) -> Rule<()> {
    if !work.params.closed_credit {
        return Ok(());
    }
    let closed = match msg {
        Message::Transfer { .. }
        | Message::MarketWithdraw { .. }
        | Message::ProviderWithdraw { .. }
        | Message::OpenChannel { .. } => true,
        Message::MarketDeposit { to, .. } => to != sender,
        Message::ProviderDeposit { provider, .. } => {
            !provider::is_operator(&work.provider(*provider)?, work.now, sender)
        }
        _ => false,
    };
    if closed {
        return Err(ChainError::NotAllowed {
            what: Subject::ClosedCredit,
        }
        .into());
    }
    Ok(())
}

/// Free money to another account.
pub(crate) fn transfer(
    work: &mut Work<'_>,
    from: &Address,
    to: &Address,
    amount: TokenAmount,
) -> Rule<()> {
    require_some(amount)?;
    work.debit(from, amount)?;
    work.credit(to, amount)?;
    work.emit(Event::Transferred {
        from: *from,
        to: *to,
        amount,
    });
    Ok(())
}

/// Free money of the sender into an escrow.
pub(crate) fn deposit(
    work: &mut Work<'_>,
    from: &Address,
    to: &Address,
    amount: TokenAmount,
) -> Rule<()> {
    require_some(amount)?;
    work.debit(from, amount)?;
    let mut escrow = work.escrow(to)?;
    escrow.escrow = escrow.escrow.plus(amount)?;
    work.save_escrow(to, &escrow)
}

/// Unlocked escrow back to the sender's free money.
pub(crate) fn withdraw(work: &mut Work<'_>, owner: &Address, amount: TokenAmount) -> Rule<()> {
    require_some(amount)?;
    let mut escrow = work.escrow(owner)?;
    require_unlocked(&escrow, Subject::ClientEscrow, amount)?;
    escrow.escrow = escrow.escrow.minus(amount)?;
    work.save_escrow(owner, &escrow)?;
    work.credit(owner, amount)
}

/// Refuses what an escrow has not left unlocked.
pub(crate) fn require_unlocked(escrow: &Escrow, purse: Subject, need: TokenAmount) -> Rule<()> {
    let have = escrow.unlocked();
    if have < need {
        return Err(ChainError::InsufficientFunds { purse, need, have }.into());
    }
    Ok(())
}
