//! A provider's record, its balance and the claims on it (`chain.md` §§3, 5).

use borsh::{BorshDeserialize, BorshSerialize};
use prover::SectorSize;
use serde::{Deserialize, Serialize};

use crate::account::{Address, NetKey, ProviderId};
use crate::units::{Epoch, EpochCount, StoragePower, TokenAmount};

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
}
