//! A provider's record, its balance and the claims on it (`chain.md` §§3, 5).
//!
//! `balance` is one purse with three claims on it (deposits, pledge, vesting); what is left is *unlocked*, and less what
//! the provider owes, *available*. Money only leaves through [`withdraw`] (available only, no debt) and through penalties
//! ([`crate::slash`]), so what secures sectors and deals cannot be taken away first (`threat-model.md` P20).

use borsh::{BorshDeserialize, BorshSerialize};
use prover::SectorSize;
use serde::{Deserialize, Serialize};

use crate::account::{Address, NetKey, ProviderId};
use crate::error::{ChainError, Rule, Subject};
use crate::events::{BurnReason, Event};
use crate::execute::{Work, require_some};
use crate::message::{MAX_ADDR_BYTES, MAX_ADDRS};
use crate::randomness::{self, Tag};
use crate::reward;
use crate::slash;
use crate::units::{Epoch, EpochCount, Overflow, StoragePower, TokenAmount};

/// Keys that replace the present ones from an epoch on.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct NextKeys {
    /// The next worker.
    pub worker: Address,
    /// The next network key.
    pub net_key: NetKey,
    /// From this epoch on.
    pub effective: Epoch,
}

/// A provider's leaf.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Provider {
    /// Its number.
    pub id: ProviderId,
    /// Who registered it: withdraws, changes keys, and holds its market escrow.
    pub owner: Address,
    /// Signs its everyday messages, unless `next_keys` are in force.
    pub worker: Address,
    /// Its QUIC endpoint proves this key, unless `next_keys` are in force.
    pub net_key: NetKey,
    /// Where it listens.
    pub addrs: Vec<String>,
    /// A change of keys under way or in force.
    pub next_keys: Option<NextKeys>,
    /// Size of all its sectors.
    pub sector_size: SectorSize,
    /// When it registered.
    pub registered: Epoch,
    /// Start of its proving periods, modulo their length.
    pub offset: EpochCount,
    /// All its money here.
    pub balance: TokenAmount,
    /// Claim: deposits of open pre-commitments.
    pub deposits: TokenAmount,
    /// Claim: pledges of live sectors.
    pub pledge: TokenAmount,
    /// Claim: rewards that vest later.
    pub vesting: TokenAmount,
    /// Penalties not yet paid.
    pub fee_debt: TokenAmount,
    /// What disputes of its stored proofs would charge: not to be withdrawn while they may come. Zero in eager mode.
    pub at_stake: TokenAmount,
    /// Bytes of its active sectors.
    pub raw_power: StoragePower,
    /// Their quality-adjusted power, which earns.
    pub power: StoragePower,
    /// The network's accumulator when its reward was last claimed.
    #[serde(with = "crate::events::decimal")]
    pub acc_claimed: u128,
}

impl Provider {
    /// Worker and network key in force at `now`.
    pub fn keys(&self, now: Epoch) -> (Address, NetKey) {
        match self.next_keys {
            Some(next) if now >= next.effective => (next.worker, next.net_key),
            _ => (self.worker, self.net_key),
        }
    }

    /// Balance that no claim holds; fee debt not yet taken off.
    pub fn unlocked(&self) -> TokenAmount {
        let claims = [self.deposits, self.pledge, self.vesting];
        TokenAmount(
            claims
                .iter()
                .fold(self.balance.0, |rest, claim| rest.saturating_sub(claim.0)),
        )
    }

    /// What it may withdraw, lock or spend: unlocked less what it owes, zero where it owes more.
    pub fn available(&self) -> TokenAmount {
        self.unlocked().minus_or_zero(self.fee_debt)
    }

    /// Sum of the three claims.
    pub(crate) fn locked(&self) -> Result<TokenAmount, Overflow> {
        self.deposits.plus(self.pledge)?.plus(self.vesting)
    }

    /// Refuses what is not available.
    pub(crate) fn require_available(&self, need: TokenAmount) -> Rule<()> {
        let have = self.available();
        if have < need {
            return Err(ChainError::InsufficientFunds {
                purse: Subject::ProviderAvailable,
                need,
                have,
            }
            .into());
        }
        Ok(())
    }

    /// Refuses while penalties are owed.
    pub(crate) fn require_no_debt(&self) -> Rule<()> {
        if !self.fee_debt.is_zero() {
            return Err(ChainError::FeeDebt {
                debt: self.fee_debt,
            }
            .into());
        }
        Ok(())
    }

    /// Counts a sector's power. The reward so far must have been claimed.
    pub(crate) fn add_power(&mut self, power: StoragePower) -> Rule<()> {
        self.raw_power = self
            .raw_power
            .plus(StoragePower(self.sector_size.bytes().into()))?;
        self.power = self.power.plus(power)?;
        Ok(())
    }

    /// Stops counting it. The reward so far must have been claimed.
    pub(crate) fn remove_power(&mut self, power: StoragePower) -> Rule<()> {
        self.raw_power = self
            .raw_power
            .minus(StoragePower(self.sector_size.bytes().into()))?;
        self.power = self.power.minus(power)?;
        Ok(())
    }
}

/// Whether `key` may act for the provider in everyday things: its worker, or its owner.
pub fn is_operator(provider: &Provider, now: Epoch, key: &Address) -> bool {
    provider.owner == *key || provider.keys(now).0 == *key
}

/// The provider, if the sender may operate it.
pub(crate) fn operated(work: &Work<'_>, sender: &Address, id: ProviderId) -> Rule<Provider> {
    let provider = work.provider(id)?;
    if !is_operator(&provider, work.now, sender) {
        return Err(ChainError::NotAllowed {
            what: Subject::ProviderKey,
        }
        .into());
    }
    Ok(provider)
}

/// The provider, if the sender owns it.
fn owned(work: &Work<'_>, sender: &Address, id: ProviderId) -> Rule<Provider> {
    let provider = work.provider(id)?;
    if provider.owner != *sender {
        return Err(ChainError::NotAllowed {
            what: Subject::ProviderKey,
        }
        .into());
    }
    Ok(provider)
}

/// Brings a provider's money up to date: rewards claimed, vested parts unlocked, debt repaid as far as possible.
pub(crate) fn refresh(work: &mut Work<'_>, provider: &mut Provider) -> Rule<()> {
    reward::claim(work, provider)?;
    slash::repay_debt(work, provider, BurnReason::Penalty)
}

/// What a new provider says of itself.
pub(crate) struct Registration<'m> {
    pub(crate) worker: &'m Address,
    pub(crate) net_key: &'m NetKey,
    pub(crate) addrs: &'m [String],
    pub(crate) sector_size: SectorSize,
    pub(crate) deposit: TokenAmount,
}

/// Makes the sender the owner of a new provider.
pub(crate) fn register(
    work: &mut Work<'_>,
    owner: &Address,
    new: Registration<'_>,
) -> Rule<ProviderId> {
    if !work.params.sector_sizes.contains(&new.sector_size) {
        return Err(ChainError::NotAllowed {
            what: Subject::SectorSize,
        }
        .into());
    }
    check_addrs(new.addrs)?;
    // An empty sector's power is its size.
    let least = slash::precommit_deposit(
        &work.params,
        &work.net,
        StoragePower(new.sector_size.bytes().into()),
    );
    if new.deposit < least {
        let (what, value) = (Subject::RegistrationDeposit, new.deposit.0);
        return Err(ChainError::OutOfBounds {
            what,
            value,
            min: least.0,
            max: u128::MAX,
        }
        .into());
    }
    work.debit(owner, new.deposit)?;
    let id = ProviderId(work.net.next_provider);
    work.net.next_provider = id.0.checked_add(1).ok_or(Overflow)?;
    let draw = randomness::need(work.kv(), &work.net, Tag::DeadlineOffset, work.now, id)?;
    work.save_provider(&Provider {
        id,
        owner: *owner,
        worker: *new.worker,
        net_key: *new.net_key,
        addrs: new.addrs.to_vec(),
        next_keys: None,
        sector_size: new.sector_size,
        registered: work.now,
        offset: EpochCount(randomness::modulo(&draw, work.params.proving_period.0)),
        balance: new.deposit,
        deposits: TokenAmount::ZERO,
        pledge: TokenAmount::ZERO,
        vesting: TokenAmount::ZERO,
        fee_debt: TokenAmount::ZERO,
        at_stake: TokenAmount::ZERO,
        raw_power: StoragePower::ZERO,
        power: StoragePower::ZERO,
        acc_claimed: work.net.acc,
    })?;
    work.emit(Event::ProviderRegistered {
        provider: id,
        owner: *owner,
    });
    Ok(id)
}

/// Adds to the balance, from anybody; debt is repaid from it at once.
pub(crate) fn deposit(
    work: &mut Work<'_>,
    sender: &Address,
    id: ProviderId,
    amount: TokenAmount,
) -> Rule<()> {
    require_some(amount)?;
    let mut provider = work.provider(id)?;
    work.debit(sender, amount)?;
    provider.balance = provider.balance.plus(amount)?;
    slash::repay_debt(work, &mut provider, BurnReason::Penalty)?;
    work.save_provider(&provider)
}

/// Owner only: available balance out, when nothing is owed.
pub(crate) fn withdraw(
    work: &mut Work<'_>,
    sender: &Address,
    id: ProviderId,
    amount: TokenAmount,
) -> Rule<()> {
    require_some(amount)?;
    let mut provider = owned(work, sender, id)?;
    refresh(work, &mut provider)?;
    provider.require_no_debt()?;
    provider.require_available(amount.plus(provider.at_stake)?)?;
    provider.balance = provider.balance.minus(amount)?;
    work.save_provider(&provider)?;
    work.credit(sender, amount)
}

/// Owner only: other keys one proving period from now. A change under way is replaced, one in force is kept until then.
pub(crate) fn change_keys(
    work: &mut Work<'_>,
    sender: &Address,
    id: ProviderId,
    worker: &Address,
    net_key: &NetKey,
) -> Rule<()> {
    let mut provider = owned(work, sender, id)?;
    (provider.worker, provider.net_key) = provider.keys(work.now);
    let effective = work.now.after(work.params.proving_period);
    provider.next_keys = Some(NextKeys {
        worker: *worker,
        net_key: *net_key,
        effective,
    });
    work.save_provider(&provider)?;
    work.emit(Event::KeysChanging {
        provider: id,
        effective,
    });
    Ok(())
}

/// Announces other addresses, at once.
pub(crate) fn set_addrs(
    work: &mut Work<'_>,
    sender: &Address,
    id: ProviderId,
    addrs: &[String],
) -> Rule<()> {
    let mut provider = operated(work, sender, id)?;
    check_addrs(addrs)?;
    provider.addrs = addrs.to_vec();
    work.save_provider(&provider)
}

/// The chain keeps addresses for clients to dial; it only makes sure that they are short and printable.
fn check_addrs(addrs: &[String]) -> Rule<()> {
    let what = Subject::NetworkAddress;
    let fine = |addr: &String| {
        !addr.is_empty()
            && addr.len() <= MAX_ADDR_BYTES
            && addr.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if addrs.len() > MAX_ADDRS {
        return Err(ChainError::OutOfBounds {
            what,
            value: addrs.len() as u128,
            min: 0,
            max: MAX_ADDRS as u128,
        }
        .into());
    }
    match addrs.iter().find(|addr| !fine(addr)) {
        Some(addr) => {
            let (value, max) = (addr.len() as u128, MAX_ADDR_BYTES as u128);
            Err(ChainError::OutOfBounds {
                what,
                value,
                min: 1,
                max,
            }
            .into())
        }
        None => Ok(()),
    }
}
