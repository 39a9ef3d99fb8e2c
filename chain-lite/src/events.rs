//! What happened, in the order it happened: all that auditors, explorers and daemons need to follow the chain.
//!
//! Spec: `chain.md` §20. Events are values returned by `apply`, identical on every node. A transaction that fails leaves
//! none. Bytes: borsh, append-only.

use borsh::{BorshDeserialize, BorshSerialize};
use prover::{CommD, CommR, SectorNumber};
use serde::{Deserialize, Serialize};

use crate::account::{Address, ChannelId, DealId, ProviderId};
use crate::certificate::ValidatorId;
use crate::governance::JailReason;
use crate::units::{Epoch, StoragePower, TokenAmount};

/// An event and what caused it.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct EventRecord {
    /// Position of the transaction in the block; `None` for the epoch's own work before the transactions.
    pub tx: Option<u32>,
    /// What happened.
    pub event: Event,
}

/// Why a sector became faulty.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum FaultReason {
    /// Its partition was not proven.
    Missed,
    /// Its provider left it out of a proof.
    Skipped,
    /// Its provider declared it.
    Declared,
    /// A stored proof of it was disputed and is wrong.
    Disputed,
}

/// Why a provider was charged.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum PenaltyReason {
    /// Faults at a deadline's close, with terminations by timeout.
    Faults,
    /// A termination by the provider itself.
    Termination,
    /// A pre-commitment that was never proven.
    PreCommitExpired,
    /// The fee of a transaction.
    Fee,
    /// A stored proof that is wrong.
    Disputed,
}

/// Why something was burnt.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum BurnReason {
    /// A transaction's fee.
    Fee,
    /// Repaid penalties of a provider.
    Penalty,
    /// The burnt share of a deal payment.
    DealPayment,
    /// The burnt share of a slashed collateral.
    DealSlash,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// New money for proven storage.
    Mint {
        /// This epoch's.
        amount: TokenAmount,
        /// Network time in 2^-32 epochs, decimal.
        #[serde(with = "decimal")]
        theta: u128,
    },
    /// Money left the chain.
    Burn {
        /// Why.
        reason: BurnReason,
        /// How much.
        amount: TokenAmount,
    },
    /// Money moved between accounts.
    Transferred {
        /// From whom.
        from: Address,
        /// To whom.
        to: Address,
        /// How much.
        amount: TokenAmount,
    },
    /// A new provider.
    ProviderRegistered {
        /// Its id.
        provider: ProviderId,
        /// Its owner.
        owner: Address,
    },
    /// A provider's worker and network key will change.
    KeysChanging {
        /// Which provider.
        provider: ProviderId,
        /// From this epoch on.
        effective: Epoch,
    },
    /// A reward was claimed into the provider's balance.
    Reward {
        /// Which provider.
        provider: ProviderId,
        /// All of it.
        claimed: TokenAmount,
        /// The part that vests.
        locked: TokenAmount,
    },
    /// A provider was charged.
    Penalty {
        /// Which provider.
        provider: ProviderId,
        /// Why.
        reason: PenaltyReason,
        /// How much.
        amount: TokenAmount,
        /// What it still owes.
        debt_after: TokenAmount,
    },
    /// A replica was committed to.
    PreCommitted {
        /// Which provider.
        provider: ProviderId,
        /// The sector.
        sector: SectorNumber,
        /// Its replica.
        comm_r: CommR,
        /// Its data.
        comm_d: CommD,
        /// Its expiration.
        expiration: Epoch,
    },
    /// A pre-commitment was not proven in time.
    PreCommitExpired {
        /// Which provider.
        provider: ProviderId,
        /// The sector.
        sector: SectorNumber,
        /// The deposit that is charged.
        deposit: TokenAmount,
    },
    /// A replica's PoRep was accepted.
    SectorProven {
        /// Which provider.
        provider: ProviderId,
        /// The sector.
        sector: SectorNumber,
        /// Its deadline.
        deadline: u16,
        /// Its partition.
        partition: u32,
        /// Its pledge.
        pledge: TokenAmount,
    },
    /// A window PoSt was accepted.
    PostAccepted {
        /// Which provider.
        provider: ProviderId,
        /// The deadline.
        deadline: u16,
        /// The partition.
        partition: u32,
        /// The sectors it proved.
        proven: Vec<SectorNumber>,
        /// The sectors it left out.
        skipped: Vec<SectorNumber>,
    },
    /// A deadline closed without a partition's proof.
    PostMissed {
        /// Which provider.
        provider: ProviderId,
        /// The deadline.
        deadline: u16,
        /// The partition.
        partition: u32,
    },
    /// A sector was proven for the first time and earns from now on.
    SectorActivated {
        /// Which provider.
        provider: ProviderId,
        /// The sector.
        sector: SectorNumber,
        /// Its quality-adjusted power.
        power: StoragePower,
    },
    /// A sector lost its power (or its first proof did not come).
    SectorFaulted {
        /// Which provider.
        provider: ProviderId,
        /// The sector.
        sector: SectorNumber,
        /// Why.
        reason: FaultReason,
    },
    /// A faulty sector will be proven again.
    RecoveryDeclared {
        /// Which provider.
        provider: ProviderId,
        /// The sector.
        sector: SectorNumber,
    },
    /// A faulty sector was proven again.
    SectorRecovered {
        /// Which provider.
        provider: ProviderId,
        /// The sector.
        sector: SectorNumber,
    },
    /// A fault cost a fee; part of the next `Penalty`.
    FaultFee {
        /// Which provider.
        provider: ProviderId,
        /// The sector.
        sector: SectorNumber,
        /// How much.
        amount: TokenAmount,
    },
    /// A sector came to its end.
    SectorExpired {
        /// Which provider.
        provider: ProviderId,
        /// The sector.
        sector: SectorNumber,
    },
    /// A sector ended early.
    SectorTerminated {
        /// Which provider.
        provider: ProviderId,
        /// The sector.
        sector: SectorNumber,
        /// The termination fee; part of the next `Penalty`.
        fee: TokenAmount,
        /// Whether the age of its fault ended it.
        by_timeout: bool,
    },
    /// A deal's money is locked on both sides.
    DealPublished {
        /// The deal.
        deal: DealId,
        /// Who pays.
        client: Address,
        /// Who stores.
        provider: ProviderId,
    },
    /// A deal's piece is in a committed sector.
    DealActivated {
        /// The deal.
        deal: DealId,
        /// The sector.
        sector: SectorNumber,
    },
    /// A deal was settled up to now.
    DealPaid {
        /// The deal.
        deal: DealId,
        /// What its epochs since the last settlement cost.
        amount: TokenAmount,
        /// The burnt part of it.
        burnt: TokenAmount,
        /// Whether a proof ended them; if not, the client keeps the amount.
        proven: bool,
    },
    /// A deal was kept to its end.
    DealCompleted {
        /// The deal.
        deal: DealId,
    },
    /// A deal was broken by its provider.
    DealSlashed {
        /// The deal.
        deal: DealId,
        /// The client's share of the collateral.
        to_client: TokenAmount,
        /// The rest.
        burnt: TokenAmount,
    },
    /// Other validators were decided.
    ValidatorsChanged {
        /// First height that they finalise.
        effective: u64,
        /// How many they are.
        validators: u32,
        /// Their power together.
        power: u64,
    },
    /// A validator lost its place.
    ValidatorJailed {
        /// Which.
        validator: ValidatorId,
        /// Why.
        reason: JailReason,
        /// First height without it.
        effective: u64,
    },
    /// Money was set aside for a payee's vouchers.
    ChannelOpened {
        /// The channel.
        channel: ChannelId,
        /// Whose money.
        payer: Address,
        /// Who redeems.
        payee: Address,
        /// How much.
        amount: TokenAmount,
    },
    /// A voucher was counted.
    VoucherRedeemed {
        /// The channel.
        channel: ChannelId,
        /// The voucher's lane.
        lane: u64,
        /// What it added.
        amount: TokenAmount,
        /// The payee's part of the channel now.
        due: TokenAmount,
    },
    /// A side asked for a channel's end.
    ChannelSettling {
        /// The channel.
        channel: ChannelId,
        /// First epoch that takes no voucher.
        closes: Epoch,
    },
    /// A channel was paid out and is gone.
    ChannelCollected {
        /// The channel.
        channel: ChannelId,
        /// The payee's part.
        to_payee: TokenAmount,
        /// The payer's part.
        to_payer: TokenAmount,
    },
    /// A notary may grant more DataCap.
    AllowanceGranted {
        /// Who.
        notary: Address,
        /// Bytes of padded pieces.
        bytes: StoragePower,
    },
    /// A client may publish more verified deals.
    DataCapGranted {
        /// Who granted it.
        notary: Address,
        /// Who got it.
        client: Address,
        /// Bytes of padded pieces.
        bytes: StoragePower,
    },
    /// The accepted window PoSt before this was not verified: it may be disputed.
    PostStored {
        /// Which provider.
        provider: ProviderId,
        /// The deadline.
        deadline: u16,
        /// The partition.
        partition: u32,
        /// The close of the occurrence it was made for.
        close: Epoch,
    },
    /// A stored window PoSt was disputed and is wrong.
    PostDisputed {
        /// Which provider.
        provider: ProviderId,
        /// The deadline.
        deadline: u16,
        /// The partition.
        partition: u32,
        /// The close of the occurrence it was made for.
        close: Epoch,
        /// Who found it.
        disputer: Address,
        /// What it cost the provider.
        charged: TokenAmount,
        /// The disputer's part of that.
        reward: TokenAmount,
    },
    /// A deadline stays open, because there were dark epochs in its window.
    DeadlineExtended {
        /// Which provider.
        provider: ProviderId,
        /// The deadline.
        deadline: u16,
        /// Its close now.
        close: Epoch,
    },
}

/// Decimal text for a `u128` that is no quantity with a type of its own.
pub(crate) mod decimal {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &u128, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(value)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u128, D::Error> {
        <String as Deserialize>::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}
