//! Retrieval receipts: what a client says, signed, of one read from a provider; and what the receipts of many clients say together.
//!
//! Walk: `holdfast get` writes one for each piece and provider that it asked (`storage_node::client::receipts`); `holdfast chain
//! reputation --receipts FILE` hands them to [`Readings::judge`], and [`super::Reputation::finish`] takes the success rate into the score.
//! Spec: `chain.md` §18. Pure.
//!
//! ```text
//! signed   "holdfast/retrieval-receipt/v1" ‖ receipt
//! receipt  chain id 32 | client 32 | provider u64 | piece 32 | bytes u64 | ttfb µs u64 | total µs u64 | ok u8 | epoch u64
//! record   receipt 137 ‖ ed25519 signature 64                          201 bytes, little-endian, one encoding each
//! file     "HFRCPT" ‖ version u16 ‖ records, oldest first              at most 65,536 of them
//! ```
//! §18's `client_sig` is the client's key and its signature here, so that a receipt can be judged before its deal is looked up. A
//! file needs no digest: every record has its signature. What a crash leaves behind the last whole record is ignored and told.
//!
//! **What counts.** Anybody can sign anything, so a receipt counts only for a deal: its client, provider and piece are those of one
//! published on the chain, and its epoch lies between that publication and the deal's end. Said twice counts once. §18 asks to weight
//! receipts by the payer's vouchers; reads are free today and nobody signs any, so that waits for paid reads. Until then **every
//! client of a provider has the same weight**, whatever it writes:
//!
//! * of each client the newest [`CLIENT_RECEIPTS`], then of all clients the newest [`PROVIDER_RECEIPTS`] (by epoch, then by bytes);
//! * the success rate is the mean of the clients' own rates, percentiles are over receipts that weigh 1/n of their client's n.
//!
//! So one client of n moves the success rate by at most 1/n, by one receipt or by a million, as long as no more than
//! [`PROVIDER_RECEIPTS`] are there: of more, those that name the newest epochs push out the others. It resists one that floods, not one
//! who buys deals under many keys: the provider itself can, for the burnt share of their price. It is a hint for choosing, no proof.
//!
//! Cost: a strict signature for each receipt of a deal, 40 µs; those of strangers cost a look-up.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use borsh::{BorshDeserialize, BorshSerialize};
use ed25519_dalek::{Signer, SigningKey};
use prover::CommP;
use serde::{Deserialize, Serialize};

use super::Share;
use crate::account::{Address, ChainId, DealId, ProviderId};
use crate::codec::{self, CodecError};
use crate::deal::Deal;
use crate::message::{Signature, verify_strict};
use crate::units::Epoch;

/// Newest receipts of one client that count for a provider: a twentieth of [`PROVIDER_RECEIPTS`], so that nobody fills the window.
pub const CLIENT_RECEIPTS: usize = 50;
/// Newest receipts that count for a provider.
pub const PROVIDER_RECEIPTS: usize = 1_000;

/// What stands before a receipt's bytes when it is signed.
const DOMAIN: &str = "holdfast/retrieval-receipt/v1";
/// Bytes of a receipt.
const RECEIPT_BYTES: usize = 32 + 32 + 8 + 32 + 8 + 8 + 8 + 1 + 8;
/// Bytes of a signed receipt.
pub const SIGNED_BYTES: usize = RECEIPT_BYTES + 64;

const MAGIC: [u8; 6] = *b"HFRCPT";
const VERSION: u16 = 1;
/// Bytes before a file's first record.
pub const HEAD_BYTES: usize = MAGIC.len() + 2;
/// Most receipts of a file.
pub const MAX_FILE_RECEIPTS: usize = 1 << 16;
/// Longest file of receipts.
pub const MAX_FILE_BYTES: usize = HEAD_BYTES + MAX_FILE_RECEIPTS * SIGNED_BYTES;

/// What came of asking a provider for a piece, or a part of it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Receipt {
    /// The chain on which the deal is.
    pub chain_id: ChainId,
    /// Who asked.
    pub client: Address,
    /// Who was asked.
    pub provider: ProviderId,
    /// For which piece.
    pub piece: CommP,
    /// Verified bytes that came.
    pub bytes: u64,
    /// Microseconds from asking to the first of them; 0 if none came.
    pub ttfb_us: u64,
    /// Microseconds in which something was asked for and not yet here.
    pub total_us: u64,
    /// Whether it brought right bytes and was not given up.
    pub ok: bool,
    /// Epoch of the newest block that the client trusted then.
    pub epoch: Epoch,
}

impl Receipt {
    /// What the client signs.
    pub fn signing_bytes(&self) -> Vec<u8> {
        [DOMAIN.as_bytes(), &codec::encode(self)].concat()
    }

    /// With its client's signature; the key must be that of [`Receipt::client`].
    pub fn sign(self, key: &SigningKey) -> SignedReceipt {
        let signature = Signature(key.sign(&self.signing_bytes()).to_bytes());
        SignedReceipt {
            receipt: self,
            signature,
        }
    }

    /// KiB each second of its time, cut off.
    fn kib_per_s(&self) -> u64 {
        let bytes_per_s = u128::from(self.bytes) * 1_000_000 / u128::from(self.total_us.max(1));
        u64::try_from(bytes_per_s >> 10).unwrap_or(u64::MAX)
    }

    /// A first byte comes before the last, and a success brings some.
    fn is_possible(&self) -> bool {
        self.ttfb_us <= self.total_us && (self.bytes > 0 || !self.ok)
    }

    /// Newest first; those of one epoch in the order of their bytes, the same for everybody.
    fn order(&self) -> (Reverse<Epoch>, Vec<u8>) {
        (Reverse(self.epoch), codec::encode(self))
    }
}

/// A receipt with a signature that has not been checked.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct SignedReceipt {
    /// What is said.
    pub receipt: Receipt,
    /// The client's, over [`Receipt::signing_bytes`].
    pub signature: Signature,
}

impl SignedReceipt {
    /// Whether its client signed it, by ed25519's strict rules.
    pub fn signature_holds(&self) -> bool {
        let Self { receipt, signature } = self;
        verify_strict(&receipt.client, &receipt.signing_bytes(), signature)
    }

    /// Its one encoding, [`SIGNED_BYTES`] long.
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads [`SignedReceipt::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(bytes, SIGNED_BYTES)
    }
}

/// The bytes that a file of receipts begins with.
pub fn file_head() -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..MAGIC.len()].copy_from_slice(&MAGIC);
    head[MAGIC.len()..].copy_from_slice(&VERSION.to_le_bytes());
    head
}

/// What a file of receipts holds; no signature is checked yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceiptFile {
    /// Receipts, oldest first.
    pub receipts: Vec<SignedReceipt>,
    /// Records that are none.
    pub damaged: u64,
    /// Bytes behind the last whole record, left by a crash or a cut.
    pub torn: usize,
}

/// Why a file is no file of receipts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptFileError {
    /// It begins with something else.
    #[error("it is no file of retrieval receipts")]
    NotReceipts,
    /// A later format.
    #[error("its version is {0}, and this program reads version {VERSION}")]
    Version(u16),
    /// More than is ever read.
    #[error("it is longer than {MAX_FILE_RECEIPTS} receipts ({MAX_FILE_BYTES} bytes)")]
    TooLong,
}

impl ReceiptFile {
    /// Reads a whole file.
    pub fn read(bytes: &[u8]) -> Result<Self, ReceiptFileError> {
        let Some((head, records)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
            return Err(ReceiptFileError::NotReceipts);
        };
        let version = u16::from_le_bytes([head[MAGIC.len()], head[MAGIC.len() + 1]]);
        match (head.starts_with(&MAGIC), version) {
            (false, _) => return Err(ReceiptFileError::NotReceipts),
            (true, VERSION) => {}
            (true, other) => return Err(ReceiptFileError::Version(other)),
        }
        if bytes.len() > MAX_FILE_BYTES {
            return Err(ReceiptFileError::TooLong);
        }
        let whole = records.chunks_exact(SIGNED_BYTES);
        let mut file = Self {
            torn: whole.remainder().len(),
            ..Self::default()
        };
        for record in whole {
            match SignedReceipt::from_bytes(record) {
                Ok(receipt) => file.receipts.push(receipt),
                Err(_) => file.damaged += 1,
            }
        }
        Ok(file)
    }
}

/// Any bytes as a file of receipts: refused, or read so that nothing is lost and every receipt has one encoding. Body of the fuzz
/// target.
pub fn fuzz_receipts(bytes: &[u8]) {
    if let Ok(receipt) = SignedReceipt::from_bytes(bytes) {
        assert_eq!(receipt.to_bytes(), bytes, "one encoding each");
    }
    let Ok(file) = ReceiptFile::read(bytes) else {
        return;
    };
    let records = file.receipts.len() + file.damaged as usize;
    let len = HEAD_BYTES + records * SIGNED_BYTES + file.torn;
    assert_eq!(len, bytes.len(), "every byte is accounted for");
    let mut there = bytes[HEAD_BYTES..].chunks(SIGNED_BYTES);
    for receipt in &file.receipts {
        assert!(there.any(|record| record == receipt.to_bytes()), "in order");
    }
    // Nobody has a deal, so nothing counts.
    let readings = Readings::judge(&file.receipts, &ChainId([0; 32]), Epoch(u64::MAX), &[]);
    assert_eq!(readings.counted, 0);
    let refused: u64 = readings.refused.values().sum();
    assert_eq!(refused, file.receipts.len() as u64);
}

/// Why a receipt does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Of another chain.
    OtherChain,
    /// Its figures contradict each other.
    Impossible,
    /// Its client has no deal for the piece with the provider.
    NoDeal,
    /// Before its deal was published, after the deal's end, or later than the chain.
    OutsideDeal,
    /// Not signed by its client.
    Forged,
    /// There twice.
    Twice,
    /// There are enough newer ones.
    Older,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherChain => "of another chain",
            Self::Impossible => "with figures that contradict each other",
            Self::NoDeal => "of somebody without a deal for that piece with that provider",
            Self::OutsideDeal => "of an epoch outside the deal's time",
            Self::Forged => "not signed by the client they name",
            Self::Twice => "there more than once",
            Self::Older => "older than those that count",
        })
    }
}

/// What receipts say of one provider. Times and speeds are those of reads that succeeded; none of those, none of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retrieval {
    /// Receipts that count.
    pub receipts: u64,
    /// Clients that wrote them.
    pub clients: u64,
    /// Mean of the clients' shares of reads that succeeded, in 65,536ths.
    pub success_rate: Share,
    /// Median of the time to the first byte, in µs.
    pub ttfb_p50_us: Option<u64>,
    /// 95th percentile of it.
    pub ttfb_p95_us: Option<u64>,
    /// Median of the speed, in KiB each second.
    pub kib_per_s_p50: Option<u64>,
}

/// Receipts, sorted out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readings {
    /// Receipts that count.
    pub counted: u64,
    /// The others, by reason.
    pub refused: BTreeMap<Refusal, u64>,
    #[serde(skip)]
    providers: BTreeMap<ProviderId, Retrieval>,
}

/// Client, provider and piece of a deal.
type Place = (Address, ProviderId, [u8; 32]);

impl Readings {
    /// Judges receipts by the deals of a chain that is at epoch `at`. Their order does not matter.
    pub fn judge(
        receipts: &[SignedReceipt],
        chain: &ChainId,
        at: Epoch,
        deals: &[(DealId, Deal)],
    ) -> Self {
        let mut times: BTreeMap<Place, Vec<(Epoch, Option<Epoch>)>> = BTreeMap::new();
        for (_, deal) in deals {
            let p = &deal.proposal;
            let place = (p.client, p.provider, p.piece_commp.0);
            let spans = times.entry(place).or_default();
            spans.push((deal.published, deal.ended));
        }
        let mut this = Self::default();
        let mut seen = BTreeSet::new();
        let mut of: BTreeMap<ProviderId, Vec<Receipt>> = BTreeMap::new();
        for signed in receipts {
            let receipt = signed.receipt;
            let place = (receipt.client, receipt.provider, receipt.piece.0);
            let verdict = match times.get(&place) {
                _ if receipt.chain_id != *chain => Err(Refusal::OtherChain),
                _ if !receipt.is_possible() => Err(Refusal::Impossible),
                None => Err(Refusal::NoDeal),
                Some(spans) if receipt.epoch > at || !within(spans, receipt.epoch) => {
                    Err(Refusal::OutsideDeal)
                }
                Some(_) if !signed.signature_holds() => Err(Refusal::Forged),
                // By what is signed: a signer can make many signatures of one receipt.
                Some(_) if !seen.insert(codec::encode(&receipt)) => Err(Refusal::Twice),
                Some(_) => Ok(()),
            };
            match verdict {
                Ok(()) => of.entry(receipt.provider).or_default().push(receipt),
                Err(why) => *this.refused.entry(why).or_default() += 1,
            }
        }
        for (provider, receipts) in of {
            let all = receipts.len() as u64;
            let retrieval = retrieval(receipts);
            this.counted += retrieval.receipts;
            let older = all - retrieval.receipts;
            if older > 0 {
                *this.refused.entry(Refusal::Older).or_default() += older;
            }
            this.providers.insert(provider, retrieval);
        }
        this
    }

    /// What they say of a provider, if anything.
    pub fn of(&self, provider: ProviderId) -> Option<Retrieval> {
        self.providers.get(&provider).copied()
    }
}

fn within(spans: &[(Epoch, Option<Epoch>)], epoch: Epoch) -> bool {
    let holds = |&(published, ended): &(Epoch, Option<Epoch>)| {
        published <= epoch && ended.is_none_or(|ended| epoch < ended)
    };
    spans.iter().any(holds)
}

/// The figures of one provider.
fn retrieval(mut receipts: Vec<Receipt>) -> Retrieval {
    receipts.sort_by_cached_key(Receipt::order);
    let mut of_client: BTreeMap<Address, usize> = BTreeMap::new();
    receipts.retain(|receipt| {
        let count = of_client.entry(receipt.client).or_default();
        *count += 1;
        *count <= CLIENT_RECEIPTS
    });
    receipts.truncate(PROVIDER_RECEIPTS);
    let mut clients: BTreeMap<Address, Vec<&Receipt>> = BTreeMap::new();
    for receipt in &receipts {
        clients.entry(receipt.client).or_default().push(receipt);
    }
    let (mut rates, mut first, mut speed) = (0u64, Vec::new(), Vec::new());
    for theirs in clients.values() {
        let good: Vec<_> = theirs.iter().filter(|receipt| receipt.ok).collect();
        rates += u64::from(Share::of(good.len() as u64, theirs.len() as u64).q16());
        let weight = (1u64 << 32) / (good.len() as u64).max(1);
        first.extend(good.iter().map(|receipt| (receipt.ttfb_us, weight)));
        speed.extend(good.iter().map(|receipt| (receipt.kib_per_s(), weight)));
    }
    let whole = clients.len() as u64 * u64::from(Share::ONE.q16());
    Retrieval {
        receipts: receipts.len() as u64,
        clients: clients.len() as u64,
        success_rate: Share::of(rates, whole),
        ttfb_p50_us: percentile(&mut first, 50),
        ttfb_p95_us: percentile(&mut first, 95),
        kib_per_s_p50: percentile(&mut speed, 50),
    }
}

/// The least value below or at which so many percent of the weight lie (nearest rank).
fn percentile(samples: &mut [(u64, u64)], percent: u128) -> Option<u64> {
    samples.sort_unstable();
    let total: u128 = samples.iter().map(|(_, weight)| u128::from(*weight)).sum();
    let mut below = 0u128;
    let reached = samples.iter().find(|(_, weight)| {
        below += u128::from(*weight);
        below * 100 >= total * percent
    });
    reached.map(|(value, _)| *value)
}

#[cfg(test)]
mod tests {
    use prover::PaddedPieceSize;

    use super::*;
    use crate::account::Blake3Root;
    use crate::deal::DealStatus;
    use crate::message::{DealGroup, DealProposal};
    use crate::units::TokenAmount;

    const CHAIN: ChainId = ChainId([1; 32]);
    const PROVIDER: ProviderId = ProviderId(1_000);
    const NOW: Epoch = Epoch(10_000);

    fn key(n: u16) -> SigningKey {
        let mut seed = [9; 32];
        seed[..2].copy_from_slice(&n.to_le_bytes());
        SigningKey::from_bytes(&seed)
    }

    fn address(n: u16) -> Address {
        Address::of(&key(n).verifying_key())
    }

    /// A deal of client `n`, from epoch 100 to `ended`.
    fn deal(n: u16, ended: Option<u64>) -> (DealId, Deal) {
        let proposal = DealProposal {
            chain_id: CHAIN,
            client: address(n),
            provider: PROVIDER,
            piece_commp: CommP([5; 32]),
            piece_size: PaddedPieceSize::new(2_048).expect("a power of two"),
            blake3_root: Blake3Root([6; 32]),
            group: DealGroup {
                k: 1,
                n: 1,
                file_root: Blake3Root([7; 32]),
            },
            start: Epoch(200),
            end: Epoch(20_000),
            price: TokenAmount(1),
            provider_collateral: TokenAmount(1),
            verified: false,
            label: String::new(),
            client_nonce: 1,
        };
        let deal = Deal {
            status: DealStatus::Active,
            published: Epoch(100),
            sector: None,
            settled: Epoch(200),
            paid: TokenAmount::ZERO,
            refunded: TokenAmount::ZERO,
            ended: ended.map(Epoch),
            proposal,
        };
        (deal.proposal.id(), deal)
    }

    fn receipt(n: u16, epoch: u64) -> Receipt {
        Receipt {
            chain_id: CHAIN,
            client: address(n),
            provider: PROVIDER,
            piece: CommP([5; 32]),
            bytes: 1 << 20,
            ttfb_us: 2_000,
            total_us: 500_000,
            ok: true,
            epoch: Epoch(epoch),
        }
    }

    fn failed(n: u16, epoch: u64) -> SignedReceipt {
        let receipt = Receipt {
            bytes: 0,
            ttfb_us: 0,
            ok: false,
            ..receipt(n, epoch)
        };
        receipt.sign(&key(n))
    }

    fn judge(receipts: &[SignedReceipt], clients: u16) -> Readings {
        let deals: Vec<_> = (0..clients).map(|n| deal(n, None)).collect();
        Readings::judge(receipts, &CHAIN, NOW, &deals)
    }

    fn only_refused(receipt: SignedReceipt) -> Option<Refusal> {
        let readings = judge(&[receipt], 1);
        let mut refused = readings.refused.into_iter();
        let first = refused.next().map(|(why, _)| why);
        assert_eq!(readings.counted, u64::from(first.is_none()));
        assert!(refused.next().is_none());
        first
    }

    #[test]
    fn a_receipt_has_these_bytes() {
        let signed = receipt(0, 777).sign(&key(0));
        let expected = concat!(
            "0101010101010101010101010101010101010101010101010101010101010101",
            "eb2d0ede17ffd90d34e7b3c21da77d8d456feff2418f2a9bcd1976942d4ddb87",
            "e803000000000000",
            "0505050505050505050505050505050505050505050505050505050505050505",
            "0000100000000000d00700000000000020a107000000000001",
            "0903000000000000",
            "2ef05ee2dc4832f4e7e09fe136a78e52f1d588ce027dda91db35251bfcdcd13f",
            "ea4e36a3d1af345fc00269e2d0a01b0a844c2d008447dd26d032ecd55a5cfd01",
        );
        assert_eq!(hex::encode(signed.to_bytes()), expected);
        assert_eq!(file_head(), *b"HFRCPT\x01\x00");
        assert_eq!(SignedReceipt::from_bytes(&signed.to_bytes()), Ok(signed));
    }

    #[test]
    fn every_bit_of_a_receipt_is_signed_and_there_is_one_encoding() {
        let signed = receipt(0, 777).sign(&key(0));
        assert!(signed.signature_holds());
        assert_eq!(only_refused(signed), None);
        let bytes = signed.to_bytes();
        assert_eq!(bytes.len(), SIGNED_BYTES);
        for at in 0..SIGNED_BYTES {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                let Ok(other) = SignedReceipt::from_bytes(&bytes) else {
                    // Only the flag has values that are none.
                    assert!(at == RECEIPT_BYTES - 9 && bit > 0, "byte {at}");
                    continue;
                };
                assert!(!other.signature_holds(), "byte {at} is not signed");
                assert!(only_refused(other).is_some(), "byte {at}");
            }
        }
        for bad in [&bytes[1..], &[&bytes[..], &[0]].concat()[..], &[]] {
            assert!(SignedReceipt::from_bytes(bad).is_err());
        }
    }

    #[test]
    fn what_is_not_said_of_a_deal_does_not_count() {
        let with = |change: fn(&mut Receipt)| {
            let mut receipt = receipt(0, 777);
            change(&mut receipt);
            only_refused(receipt.sign(&key(0)))
        };
        assert_eq!(with(|_| ()), None);
        assert_eq!(with(|r| r.chain_id.0[0] ^= 1), Some(Refusal::OtherChain));
        assert_eq!(with(|r| r.ttfb_us = 500_001), Some(Refusal::Impossible));
        assert_eq!(with(|r| r.bytes = 0), Some(Refusal::Impossible));
        assert_eq!(with(|r| r.provider.0 += 1), Some(Refusal::NoDeal));
        assert_eq!(with(|r| r.piece.0[0] ^= 1), Some(Refusal::NoDeal));
        assert_eq!(with(|r| r.epoch.0 = 99), Some(Refusal::OutsideDeal));
        assert_eq!(with(|r| r.epoch.0 = 10_001), Some(Refusal::OutsideDeal));
        // A stranger signs for itself, and in the client's name.
        assert_eq!(
            only_refused(receipt(1, 777).sign(&key(1))),
            Some(Refusal::NoDeal)
        );
        assert_eq!(
            only_refused(receipt(0, 777).sign(&key(1))),
            Some(Refusal::Forged)
        );
        // After the deal's end nothing is owed.
        let ended = [deal(0, Some(800))];
        for (epoch, counted) in [(799, 1), (800, 0)] {
            let signed = receipt(0, epoch).sign(&key(0));
            let readings = Readings::judge(&[signed], &CHAIN, NOW, &ended);
            assert_eq!(readings.counted, counted, "epoch {epoch}");
        }
        let signed = receipt(0, 777).sign(&key(0));
        let readings = judge(&[signed, signed], 1);
        assert_eq!(readings.refused, BTreeMap::from([(Refusal::Twice, 1)]));
        assert_eq!(readings.of(ProviderId(1)), None);
    }

    #[test]
    fn tm_p23_a_flood_by_one_client_moves_the_success_rate_by_its_share_at_most() {
        // Four clients are content, two with one read; the fifth says a thousand times that it got nothing.
        let mut all: Vec<SignedReceipt> = (0..4u16)
            .flat_map(|n| (0..1 + 30 * u64::from(n / 2)).map(move |i| (n, 500 + i)))
            .map(|(n, epoch)| receipt(n, epoch).sign(&key(n)))
            .collect();
        let before = judge(&all, 5).of(PROVIDER).expect("receipts");
        assert_eq!(before.success_rate, Share::ONE);
        assert_eq!((before.receipts, before.clients), (64, 4));
        all.extend((0..1_000).map(|i| failed(4, 2_000 + i)));
        let readings = judge(&all, 5);
        let after = readings.of(PROVIDER).expect("receipts");
        assert_eq!(after.success_rate, Share::of(4, 5));
        assert_eq!((after.receipts, after.clients), (64 + 50, 5));
        assert_eq!(readings.refused, BTreeMap::from([(Refusal::Older, 950)]));
        assert_eq!(
            (after.ttfb_p50_us, after.kib_per_s_p50),
            (Some(2_000), Some(2_048))
        );
        // Nor by one receipt more than by one.
        let one = judge(&all[..65], 5).of(PROVIDER);
        assert_eq!(one.expect("receipts").success_rate, after.success_rate);
    }

    #[test]
    fn the_newest_thousand_count_in_any_order() {
        // 30 clients with 40 each; those of the first ten are the oldest, and 200 of them have to go.
        let mut all: Vec<SignedReceipt> = (0..30u16)
            .flat_map(|n| (0..40).map(move |i| (n, 1_000 * (1 + u64::from(n / 10)) + i)))
            .map(|(n, epoch)| receipt(n, epoch).sign(&key(n)))
            .collect();
        let readings = judge(&all, 30);
        assert_eq!(readings.counted, 1_000);
        assert_eq!(readings.refused, BTreeMap::from([(Refusal::Older, 200)]));
        assert_eq!(readings.of(PROVIDER).expect("receipts").clients, 30);
        all.reverse();
        assert_eq!(judge(&all, 30), readings);
    }

    #[test]
    fn percentiles_weigh_clients_not_receipts() {
        let timed = |n: u16, epoch: u64, ttfb_us: u64| {
            let receipt = Receipt {
                ttfb_us,
                total_us: 1_000_000,
                ..receipt(n, epoch)
            };
            receipt.sign(&key(n))
        };
        // Twenty of one client from 1 to 20 ms: the 10th and the 19th.
        let slow: Vec<_> = (1..=20).map(|i| timed(0, 500 + i, 1_000 * i)).collect();
        let alone = judge(&slow, 2).of(PROVIDER).expect("receipts");
        assert_eq!(
            (alone.ttfb_p50_us, alone.ttfb_p95_us),
            (Some(10_000), Some(19_000))
        );
        assert_eq!(alone.kib_per_s_p50, Some(1_024));
        // Another client with one read of 0.5 ms has half the weight: the median is its, and the 95th is the first's 18th.
        let all: Vec<_> = slow.into_iter().chain([timed(1, 500, 500)]).collect();
        let both = judge(&all, 2).of(PROVIDER).expect("receipts");
        assert_eq!(
            (both.ttfb_p50_us, both.ttfb_p95_us),
            (Some(500), Some(18_000))
        );
        let none = judge(&[failed(0, 500)], 1).of(PROVIDER).expect("receipts");
        assert_eq!((none.success_rate.q16(), none.ttfb_p50_us), (0, None));
    }

    #[test]
    fn a_torn_or_damaged_file_gives_what_is_whole_and_says_so() {
        let signed: Vec<_> = (0..3).map(|i| receipt(0, 500 + i).sign(&key(0))).collect();
        let mut bytes = file_head().to_vec();
        signed.iter().for_each(|one| bytes.extend(one.to_bytes()));
        let read = |bytes: &[u8]| ReceiptFile::read(bytes).expect("receipts");
        assert_eq!(read(&bytes).receipts, signed);
        for cut in HEAD_BYTES..bytes.len() {
            let file = read(&bytes[..cut]);
            let whole = (cut - HEAD_BYTES) / SIGNED_BYTES;
            assert_eq!(file.receipts, signed[..whole]);
            assert_eq!(file.torn, (cut - HEAD_BYTES) % SIGNED_BYTES);
            fuzz_receipts(&bytes[..cut]);
        }
        let mut damaged = bytes.clone();
        damaged[HEAD_BYTES + SIGNED_BYTES + RECEIPT_BYTES - 9] = 7;
        let file = read(&damaged);
        assert_eq!((file.receipts.len(), file.damaged), (2, 1));
        fuzz_receipts(&damaged);
        let refused = |bytes: &[u8]| ReceiptFile::read(bytes).expect_err("refused");
        for bad in [&b""[..], b"HFRCPT\x01", b"HFEXPT\x01\x00", &[0; 4_096]] {
            assert_eq!(refused(bad), ReceiptFileError::NotReceipts);
        }
        assert_eq!(refused(b"HFRCPT\x02\x00"), ReceiptFileError::Version(2));
        bytes.resize(MAX_FILE_BYTES + 1, 0);
        assert_eq!(refused(&bytes), ReceiptFileError::TooLong);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_judged_calmly(noise in proptest::collection::vec(proptest::num::u8::ANY, 0..700), head in proptest::bool::ANY) {
            let head = if head { file_head().to_vec() } else { Vec::new() };
            fuzz_receipts(&[head, noise].concat());
        }
    }
}
