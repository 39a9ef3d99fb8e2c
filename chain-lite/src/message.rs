//! Transactions and messages: what a signer may ask of the chain.
//!
//! A [`Tx`] carries one sender's messages, which succeed or fail together (`consensus.md` §6). The sender signs
//! `"holdfast/tx/v1" ‖ borsh(Tx)`; the [`TxId`] is the tagged SHA-256 of the same bytes, so who re-encodes or re-signs
//! a transaction does not get a second id. A client signs `"holdfast/deal/v1" ‖ borsh(DealProposal)` off-chain; the
//! [`DealId`] is SHA-256 of exactly those bytes. All signatures are checked with ed25519's strict rules, one by one,
//! never in batches whose verdict could differ (`threat-model.md` C3).
//!
//! Evidence in types: bytes → [`SignedTx`] ([`SignedTx::from_bytes`]: bounded, canonical) → [`CheckedTx`]
//! ([`SignedTx::check`]: limits, chain, signature; pure and stateless, so a block's can be checked in parallel and the
//! mempool's verdict can be kept) → [`crate::execute::apply`].
//!
//! Bytes: borsh; enums are append-only. Golden bytes are pinned in this module's tests.

use std::sync::Arc;

use borsh::{BorshDeserialize, BorshSerialize};
use ed25519_dalek::{Signer, SigningKey};
use prover::{CommD, CommP, CommR, PaddedPieceSize, PieceInfo, SectorNumber, SectorSize};
use serde::{Deserialize, Serialize};

use crate::account::{
    Address, Blake3Root, ChainId, ChannelId, DealId, DisputeDigest, NetKey, ProviderId, TxId,
};
use crate::certificate::{MAX_VALIDATORS, Sig, Validator, ValidatorId};
use crate::channel::SignedVoucher;
use crate::codec::{self, CodecError, tagged_hash};
use crate::governance::{DoubleProposal, DoubleVote};
use crate::sector::dispute::PostId;
use crate::units::{Epoch, StoragePower, TokenAmount};

/// Longest signed transaction in bytes.
pub const MAX_TX_BYTES: usize = 128 * 1024;
/// Most messages in a transaction.
pub const MAX_MESSAGES: usize = 64;
/// Most proposals in one [`Message::PublishDeals`].
pub const MAX_PROPOSALS: usize = 64;
/// Longest label of a deal in bytes.
pub const MAX_LABEL_BYTES: usize = 256;
/// Most network addresses of a provider, and the longest of them in bytes.
pub const MAX_ADDRS: usize = 8;
/// Longest network address in bytes.
pub const MAX_ADDR_BYTES: usize = 128;
/// Most sectors in one declaration or skip list: the fullest partition that exists.
pub const MAX_LISTED_SECTORS: usize = 2349;
/// Longest proof: ten Groth16 proofs of a production PoRep.
pub const MAX_PROOF_BYTES: usize = 10 * 192;
/// The only transaction version.
pub const TX_VERSION: u8 = 1;
/// Signatures that take about as long as one proof: 64 at 40 µs.
const SIGNATURES_PER_PROOF: u64 = 64;

const TX_DOMAIN: &str = "holdfast/tx/v1";
const TX_ID_DOMAIN: &str = "holdfast/txid/v1";
const DEAL_DOMAIN: &str = "holdfast/deal/v1";

/// An ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Signature(pub [u8; 64]);

impl std::fmt::Debug for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signature({})", hex::encode(self.0))
    }
}

impl Serialize for Signature {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex::encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let mut bytes = [0u8; 64];
        let text = <String as Deserialize>::deserialize(d)?;
        hex::decode_to_slice(text, &mut bytes).map_err(serde::de::Error::custom)?;
        Ok(Self(bytes))
    }
}

/// Whether `signature` is `address`'s over `bytes`, by ed25519's strict rules: no small-order keys or points, one
/// signature encoding.
pub fn verify_strict(address: &Address, bytes: &[u8], signature: &Signature) -> bool {
    crate::certificate::verify_strict(&address.0, bytes, &signature.0)
}

/// One thing that the sender asks for. Append-only: the order of the variants is their encoding.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Message {
    /// Moves free money from the sender to an account.
    Transfer {
        /// Who gets it.
        to: Address,
        /// How much.
        amount: TokenAmount,
    },
    /// Moves free money of the sender into an account's market escrow.
    MarketDeposit {
        /// Whose escrow. A provider's is kept under its owner's address.
        to: Address,
        /// How much.
        amount: TokenAmount,
    },
    /// Moves unlocked escrow of the sender back to its free money.
    MarketWithdraw {
        /// How much.
        amount: TokenAmount,
    },
    /// Makes the sender the owner of a new provider (`chain.md` §5).
    RegisterProvider {
        /// Key of everyday operation.
        worker: Address,
        /// Key of its QUIC endpoint.
        net_key: NetKey,
        /// Where it listens, `host:port` each.
        addrs: Vec<String>,
        /// Size of all its sectors.
        sector_size: SectorSize,
        /// First balance: at least the pre-commit deposit of one empty sector.
        deposit: TokenAmount,
    },
    /// Adds the sender's free money to a provider's balance, and repays its debt from it.
    ProviderDeposit {
        /// Which provider.
        provider: ProviderId,
        /// How much.
        amount: TokenAmount,
    },
    /// Owner only: takes available balance out, to the owner's free money.
    ProviderWithdraw {
        /// Which provider.
        provider: ProviderId,
        /// How much.
        amount: TokenAmount,
    },
    /// Owner only: replaces worker and network key one proving period from now.
    ChangeKeys {
        /// Which provider.
        provider: ProviderId,
        /// Next worker.
        worker: Address,
        /// Next network key.
        net_key: NetKey,
    },
    /// Replaces the addresses that the provider listens on, at once.
    SetAddrs {
        /// Which provider.
        provider: ProviderId,
        /// Where it listens, `host:port` each.
        addrs: Vec<String>,
    },
    /// Publishes client-signed deals for this provider; bad ones are skipped and named in the receipt (`chain.md` §11).
    PublishDeals {
        /// Which provider.
        provider: ProviderId,
        /// The deals.
        proposals: Vec<SignedProposal>,
    },
    /// Commits to a replica before its challenges are known (`chain.md` §6).
    PreCommit {
        /// Which provider.
        provider: ProviderId,
        /// A number that this provider never used.
        sector: SectorNumber,
        /// The replica.
        comm_r: CommR,
        /// Its data: must equal the layout of `deals`.
        comm_d: CommD,
        /// Epoch of the ticket in the replica id.
        ticket_epoch: Epoch,
        /// When the sector ends, if nothing ends it before.
        expiration: Epoch,
        /// Its deals, in the order of their pieces.
        deals: Vec<DealId>,
    },
    /// Proves the replica; the sector is committed and its deals are active.
    ProveCommit {
        /// Which provider.
        provider: ProviderId,
        /// The pre-committed number.
        sector: SectorNumber,
        /// Groth16 PoRep proof.
        #[serde(with = "crate::codec::hex_bytes")]
        proof: Vec<u8>,
    },
    /// Proves one partition of the open deadline (`chain.md` §7).
    SubmitPost {
        /// Which provider.
        provider: ProviderId,
        /// Index of the open deadline.
        deadline: u16,
        /// Index of the partition in it.
        partition: u32,
        /// Sectors that are not proven, ascending: they become faulty.
        skipped: Vec<SectorNumber>,
        /// Groth16 window PoSt proof.
        #[serde(with = "crate::codec::hex_bytes")]
        proof: Vec<u8>,
    },
    /// Says in time that sectors cannot be proven.
    DeclareFaults {
        /// Which provider.
        provider: ProviderId,
        /// The sectors, ascending.
        sectors: Vec<SectorNumber>,
    },
    /// Says in time that faulty sectors will be proven again.
    DeclareRecovered {
        /// Which provider.
        provider: ProviderId,
        /// The sectors, ascending.
        sectors: Vec<SectorNumber>,
    },
    /// Ends a sector before its time, for the termination fee.
    Terminate {
        /// Which provider.
        provider: ProviderId,
        /// The sector.
        sector: SectorNumber,
    },
    /// Replaces the validators two blocks later, approved by more than two thirds of the newest set ([`crate::governance`]).
    SetValidators {
        /// How many changes there were before it.
        number: u64,
        /// All validators from then on, ascending by key.
        validators: Vec<Validator>,
        /// Signatures over [`crate::governance::approval_bytes`], ascending by validator.
        approvals: Vec<(ValidatorId, Sig)>,
    },
    /// Shows that a validator signed two votes where one was due; it is jailed.
    ReportDoubleVote {
        /// Both votes.
        evidence: DoubleVote,
    },
    /// Sets free money of the sender aside for a payee's vouchers (`chain.md` §14).
    OpenChannel {
        /// Who redeems.
        payee: Address,
        /// How much.
        amount: TokenAmount,
    },
    /// Payee only: counts a voucher of the channel's payer.
    RedeemVoucher {
        /// The voucher.
        voucher: SignedVoucher,
    },
    /// Either side: the channel closes after a last span for vouchers.
    SettleChannel {
        /// Which channel.
        channel: ChannelId,
    },
    /// Anybody: pays out a closed channel.
    CollectChannel {
        /// Which channel.
        channel: ChannelId,
    },
    /// Root key of genesis only: lets a notary grant more DataCap (`chain.md` §12).
    AllowDataCap {
        /// Who may grant it.
        notary: Address,
        /// Bytes of padded pieces, added to what it has.
        bytes: StoragePower,
    },
    /// A notary grants a client part of its allowance.
    GrantDataCap {
        /// Who may publish verified deals with it.
        client: Address,
        /// Bytes of padded pieces.
        bytes: StoragePower,
    },
    /// Announces a dispute without saying of what (optimistic mode, `chain.md` §7).
    AnnounceDispute {
        /// [`PostId::digest`] of the sender, the post and a salt.
        digest: DisputeDigest,
    },
    /// Says that a stored window PoSt is wrong. Its announcement must be older.
    Dispute {
        /// Which post.
        post: PostId,
        /// The salt of the announcement.
        #[serde(with = "crate::codec::hex_array")]
        salt: [u8; 32],
    },
    /// Shows that a validator proposed two blocks where one was due; it is jailed.
    ReportDoubleProposal {
        /// Both proposals.
        evidence: DoubleProposal,
    },
}

impl Message {
    /// The provider in whose name the message acts, where its key (and not any account) must have sent it.
    pub fn acts_for(&self) -> Option<ProviderId> {
        match *self {
            Self::ProviderWithdraw { provider, .. }
            | Self::ChangeKeys { provider, .. }
            | Self::SetAddrs { provider, .. }
            | Self::PublishDeals { provider, .. }
            | Self::PreCommit { provider, .. }
            | Self::ProveCommit { provider, .. }
            | Self::SubmitPost { provider, .. }
            | Self::DeclareFaults { provider, .. }
            | Self::DeclareRecovered { provider, .. }
            | Self::Terminate { provider, .. } => Some(provider),
            Self::Transfer { .. }
            | Self::MarketDeposit { .. }
            | Self::MarketWithdraw { .. }
            | Self::RegisterProvider { .. }
            | Self::ProviderDeposit { .. }
            | Self::SetValidators { .. }
            | Self::ReportDoubleVote { .. }
            | Self::OpenChannel { .. }
            | Self::RedeemVoucher { .. }
            | Self::SettleChannel { .. }
            | Self::CollectChannel { .. }
            | Self::AllowDataCap { .. }
            | Self::GrantDataCap { .. }
            | Self::AnnounceDispute { .. }
            | Self::Dispute { .. }
            | Self::ReportDoubleProposal { .. } => None,
        }
    }

    /// Groth16 proofs that applying it verifies. A set's approvals, which only the state lets one check, count as proofs by
    /// the time they take.
    pub fn proofs(&self) -> u64 {
        match self {
            Self::ProveCommit { proof, .. } | Self::SubmitPost { proof, .. } => {
                (proof.len() as u64).div_ceil(192).max(1)
            }
            Self::SetValidators { approvals, .. } => {
                (approvals.len() as u64).div_ceil(SIGNATURES_PER_PROOF)
            }
            Self::Dispute { .. } => 1,
            _ => 0,
        }
    }

    /// Signatures besides the transaction's own that applying it verifies, one after the other.
    const fn signatures(&self) -> u64 {
        match self {
            Self::RedeemVoucher { .. } => 1,
            Self::ReportDoubleVote { .. } | Self::ReportDoubleProposal { .. } => 2,
            _ => 0,
        }
    }

    /// Name for people and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Transfer { .. } => "transfer",
            Self::MarketDeposit { .. } => "market_deposit",
            Self::MarketWithdraw { .. } => "market_withdraw",
            Self::RegisterProvider { .. } => "register_provider",
            Self::ProviderDeposit { .. } => "provider_deposit",
            Self::ProviderWithdraw { .. } => "provider_withdraw",
            Self::ChangeKeys { .. } => "change_keys",
            Self::SetAddrs { .. } => "set_addrs",
            Self::PublishDeals { .. } => "publish_deals",
            Self::PreCommit { .. } => "pre_commit",
            Self::ProveCommit { .. } => "prove_commit",
            Self::SubmitPost { .. } => "submit_post",
            Self::DeclareFaults { .. } => "declare_faults",
            Self::DeclareRecovered { .. } => "declare_recovered",
            Self::Terminate { .. } => "terminate",
            Self::SetValidators { .. } => "set_validators",
            Self::ReportDoubleVote { .. } => "report_double_vote",
            Self::OpenChannel { .. } => "open_channel",
            Self::RedeemVoucher { .. } => "redeem_voucher",
            Self::SettleChannel { .. } => "settle_channel",
            Self::CollectChannel { .. } => "collect_channel",
            Self::AllowDataCap { .. } => "allow_data_cap",
            Self::GrantDataCap { .. } => "grant_data_cap",
            Self::AnnounceDispute { .. } => "announce_dispute",
            Self::Dispute { .. } => "dispute",
            Self::ReportDoubleProposal { .. } => "report_double_proposal",
        }
    }

    /// Whether every list and byte string is within its limit.
    fn within_limits(&self) -> bool {
        match self {
            Self::RegisterProvider { addrs, .. } | Self::SetAddrs { addrs, .. } => {
                addrs.len() <= MAX_ADDRS && addrs.iter().all(|addr| addr.len() <= MAX_ADDR_BYTES)
            }
            Self::PublishDeals { proposals, .. } => proposals.len() <= MAX_PROPOSALS,
            Self::ProveCommit { proof, .. } => proof.len() <= MAX_PROOF_BYTES,
            Self::SubmitPost { skipped, proof, .. } => {
                skipped.len() <= MAX_LISTED_SECTORS && proof.len() <= MAX_PROOF_BYTES
            }
            Self::DeclareFaults { sectors, .. } | Self::DeclareRecovered { sectors, .. } => {
                sectors.len() <= MAX_LISTED_SECTORS
            }
            Self::SetValidators {
                validators,
                approvals,
                ..
            } => validators.len() <= MAX_VALIDATORS && approvals.len() <= MAX_VALIDATORS,
            _ => true,
        }
    }
}

/// Which file a deal's piece belongs to, set by the client. The chain keeps it and does not interpret it.
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
pub struct DealGroup {
    /// Pieces that suffice to read the file.
    pub k: u8,
    /// Pieces in all.
    pub n: u8,
    /// What the group stores.
    pub file_root: Blake3Root,
}

/// What a client offers a provider (`chain.md` §11).
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct DealProposal {
    /// The chain on which it counts.
    pub chain_id: ChainId,
    /// Who pays.
    pub client: Address,
    /// Who stores.
    pub provider: ProviderId,
    /// Root of the piece's padded nodes.
    pub piece_commp: CommP,
    /// Its padded size.
    pub piece_size: PaddedPieceSize,
    /// Root of the piece's bytes for verified ranges.
    pub blake3_root: Blake3Root,
    /// The file it belongs to.
    pub group: DealGroup,
    /// First epoch paid for; the piece must be in a committed sector by then.
    pub start: Epoch,
    /// First epoch no longer paid for.
    pub end: Epoch,
    /// For the piece, per epoch.
    pub price: TokenAmount,
    /// What the provider loses if it does not keep the deal.
    pub provider_collateral: TokenAmount,
    /// Takes its size from the client's DataCap, and counts with [`crate::params::ChainParams::quality_verified`] in its sector.
    pub verified: bool,
    /// The client's words, at most 256 bytes.
    pub label: String,
    /// The client's own number for what this deal pays for. A chain publishes one deal of a client under one nonce, ever: the
    /// same content offered again, to anybody and on any terms, carries the same nonce and is charged once.
    pub client_nonce: u64,
}

impl DealProposal {
    /// The deal's name: the same for the client before publication and for the chain after it.
    pub fn id(&self) -> DealId {
        DealId(tagged_hash(DEAL_DOMAIN, &[&codec::encode(self)]))
    }

    /// Root and size, always together (`threat-model.md` P16).
    pub fn piece(&self) -> PieceInfo {
        PieceInfo {
            comm_p: self.piece_commp,
            size: self.piece_size,
        }
    }

    /// Epochs paid for; zero when the end is not after the start.
    pub fn duration(&self) -> crate::units::EpochCount {
        self.end.since(self.start)
    }

    fn signing_bytes(&self) -> Vec<u8> {
        [DEAL_DOMAIN.as_bytes(), &codec::encode(self)].concat()
    }

    /// The proposal with its client's signature.
    pub fn sign(self, key: &SigningKey) -> SignedProposal {
        let signature = Signature(key.sign(&self.signing_bytes()).to_bytes());
        SignedProposal {
            proposal: self,
            signature,
        }
    }
}

/// A proposal with a signature that has not been checked.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct SignedProposal {
    /// What is offered.
    pub proposal: DealProposal,
    /// The client's, over the proposal's tagged bytes.
    pub signature: Signature,
}

impl SignedProposal {
    /// Whether the client signed it, strictly.
    pub fn signature_holds(&self) -> bool {
        verify_strict(
            &self.proposal.client,
            &self.proposal.signing_bytes(),
            &self.signature,
        )
    }
}

/// One sender's messages, in order, all or none.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Tx {
    /// [`TX_VERSION`].
    pub version: u8,
    /// The chain on which it counts.
    pub chain_id: ChainId,
    /// Who signs.
    pub sender: Address,
    /// The sender's next nonce.
    pub nonce: u64,
    /// Most that may be charged for it.
    pub fee_limit: TokenAmount,
    /// Last height whose block may carry it.
    pub valid_until_height: u64,
    /// What is asked.
    pub msgs: Vec<Message>,
}

impl Tx {
    /// The transaction's name, known before it is signed.
    pub fn id(&self) -> TxId {
        TxId(tagged_hash(TX_ID_DOMAIN, &[&codec::encode(self)]))
    }

    /// Groth16 proofs that applying it verifies, for the fee and for a block's limit. Signatures in its messages that `apply`
    /// verifies count as proofs by the time they take; the first is like the transaction's own, which counts for nothing.
    pub fn proofs(&self) -> u64 {
        let proofs: u64 = self.msgs.iter().map(Message::proofs).sum();
        let signatures: u64 = self.msgs.iter().map(Message::signatures).sum();
        let more = signatures.saturating_sub(1);
        proofs.saturating_add(more.div_ceil(SIGNATURES_PER_PROOF))
    }

    fn signing_bytes(&self) -> Vec<u8> {
        [TX_DOMAIN.as_bytes(), &codec::encode(self)].concat()
    }
}

/// Signs a transaction. `key` must be the sender's: another key gives a transaction that no check accepts.
pub fn sign(tx: Tx, key: &SigningKey) -> SignedTx {
    let signature = Signature(key.sign(&tx.signing_bytes()).to_bytes());
    SignedTx { tx, signature }
}

/// A transaction with a signature that has not been checked.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct SignedTx {
    /// What is asked.
    pub tx: Tx,
    /// The sender's, over the transaction's tagged bytes.
    pub signature: Signature,
}

/// A transaction that no state could make acceptable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TxError {
    /// Not the canonical bytes of a transaction.
    #[error("the transaction's bytes: {0}")]
    Bytes(#[from] CodecError),
    /// A version that this code does not know.
    #[error("transaction version {0}, but this chain takes version {TX_VERSION}")]
    Version(u8),
    /// Made for another chain.
    #[error("the transaction is for chain {got}, but this is chain {here}")]
    WrongChain {
        /// The transaction's.
        got: ChainId,
        /// This chain's.
        here: ChainId,
    },
    /// No messages, or too many.
    #[error("{0} messages, but a transaction carries 1 to {MAX_MESSAGES}")]
    MessageCount(usize),
    /// A list or byte string above its limit.
    #[error("message {index} ({name}) carries a list or byte string above its limit")]
    MessageTooLarge {
        /// Position in the transaction.
        index: usize,
        /// Kind of the message.
        name: &'static str,
    },
    /// Not signed by its sender.
    #[error("the signature is not the sender's; sign with the key of {0}")]
    Signature(Address),
}

impl SignedTx {
    /// Reads a transaction from the network: bounded and canonical.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TxError> {
        Ok(codec::decode(bytes, MAX_TX_BYTES)?)
    }

    /// The bytes that travel and enter the block.
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// The transaction's name.
    pub fn id(&self) -> TxId {
        self.tx.id()
    }

    /// All that can be checked without the state: limits, chain, signatures. Costs about 40 µs for each signature.
    pub fn check(self, chain_id: &ChainId) -> Result<CheckedTx, TxError> {
        let tx = &self.tx;
        if tx.version != TX_VERSION {
            return Err(TxError::Version(tx.version));
        }
        if tx.chain_id != *chain_id {
            return Err(TxError::WrongChain {
                got: tx.chain_id,
                here: *chain_id,
            });
        }
        if tx.msgs.is_empty() || tx.msgs.len() > MAX_MESSAGES {
            return Err(TxError::MessageCount(tx.msgs.len()));
        }
        if let Some((index, msg)) = tx
            .msgs
            .iter()
            .enumerate()
            .find(|(_, msg)| !msg.within_limits())
        {
            return Err(TxError::MessageTooLarge {
                index,
                name: msg.name(),
            });
        }
        let body = codec::encode(tx);
        let len = body.len() + size_of::<Signature>();
        if len > MAX_TX_BYTES {
            return Err(CodecError::TooLong {
                len: len as u64,
                max: MAX_TX_BYTES as u64,
            }
            .into());
        }
        if !verify_strict(
            &tx.sender,
            &[TX_DOMAIN.as_bytes(), &body].concat(),
            &self.signature,
        ) {
            return Err(TxError::Signature(tx.sender));
        }
        let id = TxId(tagged_hash(TX_ID_DOMAIN, &[&body]));
        let proposals = tx.msgs.iter().map(checked_proposals).collect();
        Ok(CheckedTx(Arc::new(Checked {
            signed: self,
            id,
            len: len as u64,
            proposals,
        })))
    }
}

/// Verdict on a proposal's signature, with the id that both sides know it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CheckedProposal {
    pub(crate) id: DealId,
    pub(crate) signature_holds: bool,
}

fn checked_proposals(msg: &Message) -> Vec<CheckedProposal> {
    let Message::PublishDeals { proposals, .. } = msg else {
        return Vec::new();
    };
    let check = |signed: &SignedProposal| CheckedProposal {
        id: signed.proposal.id(),
        signature_holds: signed.signature_holds(),
    };
    proposals.iter().map(check).collect()
}

/// A transaction whose bytes, limits, chain and signatures hold. Whether the state accepts it is `apply`'s to say.
///
/// Clones share it: the pool hands up to [`MAX_TX_BYTES`] to whoever selects or judges a block for the price of a count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedTx(Arc<Checked>);

#[derive(Debug, PartialEq, Eq)]
struct Checked {
    signed: SignedTx,
    id: TxId,
    len: u64,
    proposals: Vec<Vec<CheckedProposal>>,
}

impl CheckedTx {
    /// The transaction.
    pub fn tx(&self) -> &Tx {
        &self.0.signed.tx
    }
    /// The transaction with its signature.
    pub fn signed(&self) -> &SignedTx {
        &self.0.signed
    }
    /// Its name.
    pub fn id(&self) -> TxId {
        self.0.id
    }
    /// Length of its signed bytes.
    pub fn len_bytes(&self) -> u64 {
        self.0.len
    }
    /// Proofs that applying it verifies.
    pub fn proofs(&self) -> u64 {
        self.tx().proofs()
    }
    /// Verdicts on the proposals of message `index`, in order; empty for other messages.
    pub(crate) fn proposals(&self, index: usize) -> &[CheckedProposal] {
        self.0.proposals.get(index).map_or(&[], Vec::as_slice)
    }
}

/// What fuzzing asks of any bytes: refused, or the one encoding of a transaction; and a transaction that decodes can be
/// judged without a panic. `fuzz/` and a bounded test call it.
pub fn fuzz_signed_tx(bytes: &[u8]) {
    let Ok(signed) = SignedTx::from_bytes(bytes) else {
        return;
    };
    assert_eq!(signed.to_bytes(), bytes, "two encodings of one transaction");
    let json = serde_json::to_vec(&signed).expect("a transaction is plain data");
    let back: SignedTx = serde_json::from_slice(&json).expect("what was written reads back");
    assert_eq!(back, signed, "JSON changes a transaction");
    let chain_id = signed.tx.chain_id;
    if let Ok(checked) = signed.check(&chain_id) {
        assert!(checked.len_bytes() <= MAX_TX_BYTES as u64);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::block::BlockId;
    use crate::governance::{CastProposal, CastVote, VoteKind};
    use crate::units::EpochCount;

    /// A block's limit of proofs counts the signatures that only execution can check.
    #[test]
    fn tm_v6_vouchers_and_reports_count_as_the_signatures_they_are() {
        let all = one_of_each();
        let voucher = all.iter().find(|m| m.name() == "redeem_voucher");
        let report = all.iter().find(|m| m.name() == "report_double_vote");
        let post = all.iter().find(|m| m.name() == "submit_post");
        let proofs = |vouchers, reports, posts| {
            let of = |msg: Option<&Message>, n| vec![msg.expect("one of each").clone(); n];
            let msgs = [of(voucher, vouchers), of(report, reports), of(post, posts)].concat();
            let tx = Tx {
                version: TX_VERSION,
                chain_id: ChainId([1; 32]),
                sender: Address([2; 32]),
                nonce: 0,
                fee_limit: TokenAmount(0),
                valid_until_height: 0,
                msgs,
            };
            tx.proofs()
        };
        // The first signature is as cheap as the transaction's own.
        assert_eq!([0, 1, 2, 64].map(|n| proofs(n, 0, 0)), [0, 0, 1, 1]);
        assert_eq!([1, 32, 33].map(|n| proofs(0, n, 0)), [1, 1, 2]);
        assert_eq!(proofs(63, 0, 1), proofs(0, 0, 1) + 1);
    }

    /// One message of each kind, with fields that are all different.
    pub(crate) fn one_of_each() -> Vec<Message> {
        let (provider, sector) = (ProviderId(1000), SectorNumber(7));
        let sectors = vec![SectorNumber(1), SectorNumber(2)];
        let vote = |block| CastVote {
            kind: VoteKind::Prevote,
            block: BlockId([block; 32]),
            sig: Sig([55; 64]),
        };
        let proposed = |block, pol_round| CastProposal {
            block: BlockId([block; 32]),
            pol_round,
            sig: Sig([62; 64]),
        };
        let proposal = DealProposal {
            chain_id: ChainId([1; 32]),
            client: Address([2; 32]),
            provider,
            piece_commp: CommP([3; 32]),
            piece_size: PaddedPieceSize::new(2048).expect("power of two"),
            blake3_root: Blake3Root([4; 32]),
            group: DealGroup {
                k: 3,
                n: 5,
                file_root: Blake3Root([5; 32]),
            },
            start: Epoch(60),
            end: Epoch(300),
            price: TokenAmount(6),
            provider_collateral: TokenAmount(7),
            verified: false,
            label: "manifest".into(),
            client_nonce: 8,
        };
        let signed = SignedProposal {
            proposal,
            signature: Signature([9; 64]),
        };
        vec![
            Message::Transfer {
                to: Address([10; 32]),
                amount: TokenAmount(11),
            },
            Message::MarketDeposit {
                to: Address([12; 32]),
                amount: TokenAmount(13),
            },
            Message::MarketWithdraw {
                amount: TokenAmount(14),
            },
            Message::RegisterProvider {
                worker: Address([15; 32]),
                net_key: NetKey([16; 32]),
                addrs: vec!["127.0.0.1:4001".into()],
                sector_size: SectorSize::Mib8,
                deposit: TokenAmount(17),
            },
            Message::ProviderDeposit {
                provider,
                amount: TokenAmount(18),
            },
            Message::ProviderWithdraw {
                provider,
                amount: TokenAmount(19),
            },
            Message::ChangeKeys {
                provider,
                worker: Address([20; 32]),
                net_key: NetKey([21; 32]),
            },
            Message::SetAddrs {
                provider,
                addrs: vec!["a:1".into(), "b:2".into()],
            },
            Message::PublishDeals {
                provider,
                proposals: vec![signed],
            },
            Message::PreCommit {
                provider,
                sector,
                comm_r: CommR([22; 32]),
                comm_d: CommD([23; 32]),
                ticket_epoch: Epoch(24),
                expiration: Epoch(25),
                deals: vec![DealId([26; 32])],
            },
            Message::ProveCommit {
                provider,
                sector,
                proof: vec![27; 192],
            },
            Message::SubmitPost {
                provider,
                deadline: 3,
                partition: 4,
                skipped: sectors.clone(),
                proof: vec![28; 192],
            },
            Message::DeclareFaults {
                provider,
                sectors: sectors.clone(),
            },
            Message::DeclareRecovered { provider, sectors },
            Message::Terminate { provider, sector },
            Message::SetValidators {
                number: 47,
                validators: vec![Validator {
                    id: ValidatorId([48; 32]),
                    power: 49,
                }],
                approvals: vec![(ValidatorId([48; 32]), Sig([50; 64]))],
            },
            Message::ReportDoubleVote {
                evidence: DoubleVote {
                    validator: ValidatorId([48; 32]),
                    height: 51,
                    round: 52,
                    first: vote(53),
                    second: vote(54),
                },
            },
            Message::OpenChannel {
                payee: Address([29; 32]),
                amount: TokenAmount(30),
            },
            Message::RedeemVoucher {
                voucher: SignedVoucher {
                    voucher: crate::channel::Voucher {
                        chain_id: ChainId([1; 32]),
                        channel: ChannelId(31),
                        lane: 32,
                        nonce: 33,
                        amount: TokenAmount(34),
                    },
                    signature: Signature([35; 64]),
                },
            },
            Message::SettleChannel {
                channel: ChannelId(36),
            },
            Message::CollectChannel {
                channel: ChannelId(37),
            },
            Message::AllowDataCap {
                notary: Address([38; 32]),
                bytes: StoragePower(39),
            },
            Message::GrantDataCap {
                client: Address([40; 32]),
                bytes: StoragePower(41),
            },
            Message::AnnounceDispute {
                digest: DisputeDigest([42; 32]),
            },
            Message::Dispute {
                post: PostId {
                    provider,
                    deadline: 43,
                    partition: 44,
                    close: Epoch(45),
                },
                salt: [46; 32],
            },
            Message::ReportDoubleProposal {
                evidence: DoubleProposal {
                    validator: ValidatorId([56; 32]),
                    height: 57,
                    round: 58,
                    first: proposed(59, None),
                    second: proposed(60, Some(61)),
                },
            },
        ]
    }

    fn tx() -> Tx {
        Tx {
            version: TX_VERSION,
            chain_id: ChainId([1; 32]),
            sender: Address::of(&SigningKey::from_bytes(&[7; 32]).verifying_key()),
            nonce: 2,
            fee_limit: TokenAmount(3),
            valid_until_height: 4,
            // The messages of the first version: their pins below stay as they were.
            msgs: one_of_each().drain(..15).collect(),
        }
    }

    /// The format of every message, of the transaction and of the two signed byte strings. A change here is a fork.
    /// (The deal id was also computed outside this code, by hand-packing the fields in Python.)
    #[test]
    fn bytes_are_pinned() {
        for (index, msg) in one_of_each().iter().enumerate() {
            assert_eq!(
                usize::from(codec::encode(msg)[0]),
                index,
                "{} has moved",
                msg.name()
            );
        }
        let digest = |bytes: &[u8]| hex::encode(tagged_hash("pin", &[bytes]));
        assert_eq!(
            digest(&codec::encode(&tx())),
            "3716150de50b2e49d9a5cb44f3029ed35a77f02d31de04ff12280634d96f0c72"
        );
        assert_eq!(
            tx().id().to_string(),
            "c6411decff071e1e280283bc8e1ef8781be02c3908d46989933d690e749c918f"
        );
        let signed = sign(tx(), &SigningKey::from_bytes(&[7; 32]));
        assert_eq!(
            digest(&signed.to_bytes()),
            "d34c6050c82f6981ab5408088d2fdcf4e656ea0a63794ff59c5bc1cadd636eba"
        );
        let Message::PublishDeals { proposals, .. } = &tx().msgs[8] else {
            panic!("message 8 publishes")
        };
        assert_eq!(
            proposals[0].proposal.id().to_string(),
            "b4bbd8aff2834ecf65319bb94297adb02b88e729a9b6f16d2e2beb5dc75d52bf"
        );
        assert_eq!(proposals[0].proposal.duration(), EpochCount(240));
        // Later messages, each by itself, computed in the same way: one that is appended changes none of them.
        let later = one_of_each().split_off(15);
        let pin = |msg: &Message| digest(&codec::encode(msg))[..16].to_owned();
        let pins: Vec<String> = later.iter().map(pin).collect();
        let expected = [
            "ccb8fa74f20dbbed", // set_validators
            "77d24397f8bc668a", // report_double_vote
            "ddb27c9dfad281c2", // open_channel
            "f906ddca12180485", // redeem_voucher
            "32f138dd23a7992b", // settle_channel
            "59422db2de77a0c1", // collect_channel
            "532c530cf400f809", // allow_data_cap
            "05bf5a255d0e2a26", // grant_data_cap
            "2bc16c4585cd640d", // announce_dispute
            "22b6911277e14a04", // dispute
            "bd6cacc55887007b", // report_double_proposal
        ];
        assert_eq!(pins, expected);
    }

    #[test]
    fn each_message_survives_bytes_and_json() {
        let signed = sign(tx(), &SigningKey::from_bytes(&[7; 32]));
        assert_eq!(SignedTx::from_bytes(&signed.to_bytes()), Ok(signed.clone()));
        fuzz_signed_tx(&signed.to_bytes());
        let msgs = one_of_each();
        let all = sign(Tx { msgs, ..tx() }, &SigningKey::from_bytes(&[7; 32]));
        assert_eq!(SignedTx::from_bytes(&all.to_bytes()), Ok(all.clone()));
        fuzz_signed_tx(&all.to_bytes());
        let checked = signed.clone().check(&ChainId([1; 32])).expect("well made");
        assert_eq!((checked.id(), checked.proofs()), (signed.id(), 2));
        assert_eq!(checked.len_bytes(), signed.to_bytes().len() as u64);
        assert!(
            !checked.proposals(8)[0].signature_holds,
            "its signature was made up"
        );
    }

    proptest! {
        #[test]
        fn tm_v11_fuzz_body_on_noise(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            fuzz_signed_tx(&bytes);
        }

        #[test]
        fn tm_v11_fuzz_body_on_damaged_transactions(at: prop::sample::Index, with: u8, cut: prop::sample::Index) {
            let mut bytes = sign(tx(), &SigningKey::from_bytes(&[7; 32])).to_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= with;
            fuzz_signed_tx(&bytes);
            bytes.truncate(cut.index(bytes.len()));
            fuzz_signed_tx(&bytes);
        }
    }
}
