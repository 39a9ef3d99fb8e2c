//! Why the chain refused: stable numeric codes for machines, data and words for people.
//!
//! [`ChainError`] is part of the receipts and therefore of consensus: it carries numbers and names, never free text, and
//! its variants are append-only. [`ChainError::code`] is what other programs may match on. Every text says what happened
//! and, where the caller can do something, what.
//! [`StoreError`] is the machine's fault (disk, bug), never the sender's: it aborts the block instead of entering it.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::units::{Epoch, Overflow, TokenAmount};

/// Stable number of each class of refusal (`chain.md` §20).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum ErrorCode {
    /// A purse holds less than the rule needs.
    InsufficientFunds = 1,
    /// The provider owes fees and must repay them first.
    FeeDebt = 2,
    /// A signature does not verify strictly.
    BadSignature = 3,
    /// The transaction is not the sender's next one.
    BadNonce = 4,
    /// No such thing on this chain.
    NotFound = 5,
    /// The thing exists but is not in the state that the message needs.
    WrongState = 6,
    /// The deadline's window (or its cut-off) does not allow this now.
    DeadlineClosed = 7,
    /// Not yet.
    TooEarly = 8,
    /// No longer.
    TooLate = 9,
    /// It was there before.
    Duplicate = 10,
    /// A value outside its limits.
    OutOfBounds = 11,
    /// A proof or commitment that does not verify.
    BadProof = 12,
    /// The sender may not do this, or the chain does not offer it.
    NotAllowed = 13,
    /// A result that does not fit 128 bits.
    Overflow = 14,
}

/// What a refusal speaks of. Append-only.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The transaction itself.
    Transaction,
    /// An account's free money.
    Account,
    /// Unlocked money in the client's market escrow.
    ClientEscrow,
    /// Unlocked money in the provider's market escrow (kept under its owner's address).
    ProviderEscrow,
    /// Money of the provider that no claim holds.
    ProviderAvailable,
    /// A provider.
    Provider,
    /// The provider's worker or owner key.
    ProviderKey,
    /// The provider's announced network addresses.
    NetworkAddress,
    /// A sector size that this chain does not seal.
    SectorSize,
    /// The first deposit of a provider.
    RegistrationDeposit,
    /// A sector number.
    SectorNumber,
    /// A sector.
    Sector,
    /// A pre-commitment.
    PreCommit,
    /// A sector's replica commitment.
    CommR,
    /// A sector's data commitment against its deals.
    CommD,
    /// The ticket's epoch.
    TicketEpoch,
    /// The seal seed's epoch.
    SeedEpoch,
    /// A sector's expiration.
    Expiration,
    /// The number of deals of one sector.
    SectorDeals,
    /// A deal.
    Deal,
    /// A deal's first epoch.
    DealStart,
    /// A deal's duration.
    DealDuration,
    /// A deal's last epoch against its sector's expiration.
    DealEnd,
    /// A deal's price.
    DealPrice,
    /// A deal's provider collateral.
    DealCollateral,
    /// A deal's label.
    DealLabel,
    /// A deal's piece size.
    PieceSize,
    /// A client's signature under a proposal.
    ProposalSignature,
    /// A proposal made for another chain.
    ProposalChain,
    /// A proposal made for another provider.
    ProposalProvider,
    /// A client that is the provider's own owner.
    SelfDeal,
    /// A deal that asks for verified quality.
    VerifiedDeal,
    /// A deadline index.
    Deadline,
    /// A partition.
    Partition,
    /// A partition that has its proof for this period.
    PostedPartition,
    /// The list of skipped sectors.
    SkippedSectors,
    /// A list of sectors.
    SectorList,
    /// A partition of which no sector would be proven.
    NothingProven,
    /// The PoRep proof.
    PorepProof,
    /// The window PoSt proof.
    WindowPostProof,
    /// The fee limit.
    FeeLimit,
    /// The transaction's last height.
    ValidUntil,
    /// Randomness of an epoch that the chain does not hold.
    Randomness,
    /// A free slot in the provider's deadlines.
    PartitionSlot,
    /// The list of proposals.
    ProposalList,
    /// An amount of zero.
    Amount,
    /// The nonce that a client gave a deal.
    ClientNonce,
    /// A list of validators.
    ValidatorSet,
    /// The number of a change of the validators.
    ChangeNumber,
    /// The approvals of a change of the validators.
    Approvals,
    /// Evidence of a double vote.
    Evidence,
    /// A validator.
    Validator,
    /// Jailing the only validator there is.
    LastValidator,
    /// A payment channel, or its money.
    Channel,
    /// The sender's side of a channel.
    ChannelKey,
    /// A voucher, or its signature.
    Voucher,
    /// A voucher made for another chain.
    VoucherChain,
    /// A voucher's lane.
    VoucherLane,
    /// A voucher's nonce.
    VoucherNonce,
    /// A voucher's amount.
    VoucherAmount,
    /// The key that grants allowances of DataCap.
    DataCapRoot,
    /// Bytes of DataCap.
    DataCap,
    /// The announcement of a dispute.
    DisputeAnnouncement,
    /// A window PoSt that was taken unverified and may be disputed.
    StoredPost,
    /// A dispute of a proof that verifies.
    SoundPost,
    /// Money passed on or taken out where it is closed credit.
    ClosedCredit,
}

impl Subject {
    const fn words(self) -> &'static str {
        match self {
            Self::Transaction => "the transaction",
            Self::Account => "the account's free balance",
            Self::ClientEscrow => "the client's unlocked market escrow",
            Self::ProviderEscrow => "the provider owner's unlocked market escrow",
            Self::ProviderAvailable => "the provider's available balance",
            Self::Provider => "the provider",
            Self::ProviderKey => "the sender's key for this provider",
            Self::NetworkAddress => "the provider's network addresses",
            Self::SectorSize => "the sector size",
            Self::RegistrationDeposit => "the registration deposit",
            Self::SectorNumber => "the sector number",
            Self::Sector => "the sector",
            Self::PreCommit => "the pre-commitment",
            Self::CommR => "CommR",
            Self::CommD => "CommD against the listed deals",
            Self::TicketEpoch => "the ticket epoch",
            Self::SeedEpoch => "the seal seed's epoch",
            Self::Expiration => "the sector's expiration",
            Self::SectorDeals => "the sector's list of deals",
            Self::Deal => "the deal",
            Self::DealStart => "the deal's start",
            Self::DealDuration => "the deal's duration",
            Self::DealEnd => "the deal's end",
            Self::DealPrice => "the deal's price",
            Self::DealCollateral => "the deal's provider collateral",
            Self::DealLabel => "the deal's label",
            Self::PieceSize => "the deal's piece size",
            Self::ProposalSignature => "the client's signature under the proposal",
            Self::ProposalChain => "the proposal's chain id",
            Self::ProposalProvider => "the proposal's provider",
            Self::SelfDeal => "a deal between a provider's owner and itself",
            Self::VerifiedDeal => "a verified deal (this chain's genesis names no DataCap root)",
            Self::Deadline => "the deadline",
            Self::Partition => "the partition",
            Self::PostedPartition => "this period's proof of the partition",
            Self::SkippedSectors => "the list of skipped sectors",
            Self::SectorList => "the list of sectors",
            Self::NothingProven => "a proof that proves no sector",
            Self::PorepProof => "the PoRep proof",
            Self::WindowPostProof => "the window PoSt proof",
            Self::FeeLimit => "the fee limit",
            Self::ValidUntil => "the transaction's last height",
            Self::Randomness => "the randomness",
            Self::PartitionSlot => "a free partition slot",
            Self::ProposalList => "the list of proposals",
            Self::Amount => "the amount",
            Self::ClientNonce => "the client's nonce of another deal",
            Self::ValidatorSet => {
                "a list of validators (ascending by usable key, powers from 1 to 2^53 together)"
            }
            Self::ChangeNumber => "the number of the change of validators",
            Self::Approvals => "the approving power of the present validators",
            Self::Evidence => "the evidence of a double vote",
            Self::Validator => "the validator in the newest set",
            Self::LastValidator => "jailing the only validator there is",
            Self::Channel => "the payment channel",
            Self::ChannelKey => "the sender's side of this channel",
            Self::Voucher => "the voucher",
            Self::VoucherChain => "the voucher's chain id",
            Self::VoucherLane => "the number of the channel's lanes",
            Self::VoucherNonce => "the voucher's nonce",
            Self::VoucherAmount => "the voucher's amount",
            Self::DataCapRoot => "the DataCap root key of genesis",
            Self::DataCap => "the bytes of DataCap",
            Self::DisputeAnnouncement => "the announcement of this dispute",
            Self::StoredPost => "a stored window PoSt that may be disputed",
            Self::SoundPost => "a dispute of a proof that verifies",
            Self::ClosedCredit => {
                "passing money on or taking it out (this chain's money is closed credit)"
            }
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.words())
    }
}

/// Why a transaction, a message or one proposal was refused. Append-only.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
    thiserror::Error,
)]
#[serde(rename_all = "snake_case")]
pub enum ChainError {
    /// Code 1.
    #[error("{purse} holds {have}, but {need} are needed; deposit the difference and send again")]
    InsufficientFunds {
        /// Whose money.
        purse: Subject,
        /// Needed.
        need: TokenAmount,
        /// There.
        have: TokenAmount,
    },
    /// Code 2.
    #[error("the provider owes {debt} in penalties; deposit at least that much first")]
    FeeDebt {
        /// What it owes.
        debt: TokenAmount,
    },
    /// Code 3.
    #[error("{what} does not verify")]
    BadSignature {
        /// Which signature.
        what: Subject,
    },
    /// Code 4.
    #[error("nonce {got}, but the account's next is {expected}")]
    BadNonce {
        /// The account's next nonce.
        expected: u64,
        /// The transaction's.
        got: u64,
    },
    /// Code 5.
    #[error("{what} does not exist on this chain")]
    NotFound {
        /// What was looked for.
        what: Subject,
    },
    /// Code 6.
    #[error("{what} is not in a state that allows this")]
    WrongState {
        /// What.
        what: Subject,
    },
    /// Code 7.
    #[error(
        "epoch {now}: this is possible only from epoch {from} until before {until}; wait for the next occurrence"
    )]
    DeadlineClosed {
        /// First epoch that allows it (of the current or next occurrence).
        from: Epoch,
        /// First epoch that no longer does.
        until: Epoch,
        /// The present epoch.
        now: Epoch,
    },
    /// Code 8.
    #[error("epoch {now}: too early for {what}, possible from epoch {earliest}")]
    TooEarly {
        /// For what.
        what: Subject,
        /// First epoch that allows it.
        earliest: Epoch,
        /// The present epoch.
        now: Epoch,
    },
    /// Code 9.
    #[error("epoch {now}: too late for {what}, possible until epoch {latest}")]
    TooLate {
        /// For what.
        what: Subject,
        /// Last epoch that allowed it.
        latest: Epoch,
        /// The present epoch.
        now: Epoch,
    },
    /// Code 10.
    #[error("{what} was used before")]
    Duplicate {
        /// What.
        what: Subject,
    },
    /// Code 11.
    #[error("{what} is {value}, outside {min}..={max}")]
    OutOfBounds {
        /// What.
        what: Subject,
        /// Its value.
        #[serde(with = "crate::events::decimal")]
        value: u128,
        /// Least allowed.
        #[serde(with = "crate::events::decimal")]
        min: u128,
        /// Most allowed.
        #[serde(with = "crate::events::decimal")]
        max: u128,
    },
    /// Code 12.
    #[error("{what} does not verify")]
    BadProof {
        /// Which proof or commitment.
        what: Subject,
    },
    /// Code 13.
    #[error("not allowed: {what}")]
    NotAllowed {
        /// What.
        what: Subject,
    },
    /// Code 14.
    #[error("a result does not fit 128 bits; use smaller amounts")]
    Overflow,
}

impl ChainError {
    /// The stable class of this refusal.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::InsufficientFunds { .. } => ErrorCode::InsufficientFunds,
            Self::FeeDebt { .. } => ErrorCode::FeeDebt,
            Self::BadSignature { .. } => ErrorCode::BadSignature,
            Self::BadNonce { .. } => ErrorCode::BadNonce,
            Self::NotFound { .. } => ErrorCode::NotFound,
            Self::WrongState { .. } => ErrorCode::WrongState,
            Self::DeadlineClosed { .. } => ErrorCode::DeadlineClosed,
            Self::TooEarly { .. } => ErrorCode::TooEarly,
            Self::TooLate { .. } => ErrorCode::TooLate,
            Self::Duplicate { .. } => ErrorCode::Duplicate,
            Self::OutOfBounds { .. } => ErrorCode::OutOfBounds,
            Self::BadProof { .. } => ErrorCode::BadProof,
            Self::NotAllowed { .. } => ErrorCode::NotAllowed,
            Self::Overflow => ErrorCode::Overflow,
        }
    }

    /// [`ChainError::code`] as the number that stays the same for ever.
    pub const fn number(&self) -> u16 {
        self.code() as u16
    }
}

impl From<Overflow> for ChainError {
    fn from(_: Overflow) -> Self {
        Self::Overflow
    }
}

/// The state under a block cannot be read, or is not what this code wrote. Never a sender's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store below failed.
    #[error("the state store failed: {0}; stop the node and rebuild the state from the block log")]
    Io(String),
    /// A value under a key does not decode, or contradicts an invariant.
    #[error("the state is damaged at key {key}: {why}; rebuild the state from the block log")]
    Corrupt {
        /// Hex of the key (empty: the state as a whole).
        key: String,
        /// What is wrong.
        why: String,
    },
}

impl StoreError {
    pub(crate) fn corrupt(key: &[u8], why: impl Into<String>) -> Self {
        Self::Corrupt {
            key: hex::encode(key),
            why: why.into(),
        }
    }
}

/// What stops a rule: a refusal, which becomes the message's receipt, or a broken store, which stops the block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stop {
    #[error(transparent)]
    Refused(#[from] ChainError),
    #[error(transparent)]
    Broken(#[from] StoreError),
    /// This node cannot verify a proof: no verdict, so no receipt.
    #[error("{0}")]
    Unable(String),
}

impl From<Overflow> for Stop {
    fn from(_: Overflow) -> Self {
        Self::Refused(ChainError::Overflow)
    }
}

/// Result of a rule.
pub(crate) type Rule<T> = Result<T, Stop>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::TxId;
    use crate::execute::{Outcome, Receipt};

    /// A receipt's outcome is flattened into its JSON, through which numbers of 128 bits do not come: they are text.
    #[test]
    fn a_refusal_of_any_size_comes_back_from_a_receipts_json() {
        let receipt = Receipt {
            tx: TxId([1; 32]),
            fee: TokenAmount(2),
            outcome: Outcome::Failed {
                message: 0,
                error: ChainError::OutOfBounds {
                    what: Subject::DataCap,
                    value: 3,
                    min: 1,
                    max: u128::MAX,
                },
            },
        };
        let text = serde_json::to_string(&receipt).expect("writes");
        assert_eq!(
            serde_json::from_str::<Receipt>(&text).expect("reads"),
            receipt
        );
    }

    #[test]
    fn numbers_of_the_codes_are_pinned() {
        let here = Epoch(1);
        let what = Subject::Deal;
        let amount = TokenAmount(1);
        let all = [
            ChainError::InsufficientFunds {
                purse: what,
                need: amount,
                have: amount,
            },
            ChainError::FeeDebt { debt: amount },
            ChainError::BadSignature { what },
            ChainError::BadNonce {
                expected: 1,
                got: 2,
            },
            ChainError::NotFound { what },
            ChainError::WrongState { what },
            ChainError::DeadlineClosed {
                from: here,
                until: here,
                now: here,
            },
            ChainError::TooEarly {
                what,
                earliest: here,
                now: here,
            },
            ChainError::TooLate {
                what,
                latest: here,
                now: here,
            },
            ChainError::Duplicate { what },
            ChainError::OutOfBounds {
                what,
                value: 1,
                min: 2,
                max: 3,
            },
            ChainError::BadProof { what },
            ChainError::NotAllowed { what },
            ChainError::Overflow,
        ];
        for (index, error) in all.iter().enumerate() {
            assert_eq!(usize::from(error.number()), index + 1);
            // The borsh discriminant is part of receipts: same order, for ever.
            assert_eq!(usize::from(crate::codec::encode(error)[0]), index);
        }
    }
}
