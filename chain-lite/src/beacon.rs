//! The beacon: one unpredictable 32-byte value per epoch, signed by drand's group or by the devnet's own key.
//!
//! Walk: a proposer puts [`Entry`]s into the block body, [`BeaconSchedule::check_entries`] judges them, `execute`
//! stores [`randomness`], and tickets, seal seeds and window-PoSt challenges are drawn from it.
//! Spec: `spec/beacon.md`, scheme `bls-unchained-g1-rfc9380`: `sig = sk·H(r)` in G1 (48 bytes), `pk` in G2 (96 bytes),
//! `H` = RFC 9380 hash of `SHA-256(r u64be)`, valid iff `e(sig, g2) = e(H(r), pk)`; the value is `SHA-256(sig)`.
//! Bytes: exactly 48 / 96, one encoding per point; identity and points outside the prime-order subgroup are refused,
//! because a signature plus a small-order point also passes the pairing and would give one round many values.
//! Cost: 1.3 ms to verify a round, 0.7 ms to sign one.

use ark_bls12_381::{Bls12_381, Fr, G1Affine, G1Projective, G2Affine, g1};
use ark_ec::hashing::HashToCurve;
use ark_ec::hashing::curve_maps::wb::WBMap;
use ark_ec::hashing::map_to_curve_hasher::MapToCurveBasedHasher;
use ark_ec::pairing::Pairing;
use ark_ec::{AffineRepr, CurveGroup};
use ark_ff::field_hashers::DefaultFieldHasher;
use ark_ff::{PrimeField, Zero};
use ark_serialize::{CanonicalDeserialize, CanonicalSerialize};
use borsh::{BorshDeserialize, BorshSerialize};
use sha2::Sha256;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::merkle::digest;
use crate::units::Epoch;

/// Domain separation tag of drand's scheme (43 bytes).
const DST: &[u8] = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_";
const _: () = assert!(DST.len() == 43);

/// The only scheme spoken here.
pub const SCHEME: &str = "bls-unchained-g1-rfc9380";

/// Most entries one block may carry (a chain that catches up takes several blocks).
pub const MAX_ENTRIES: usize = 256;

/// drand quicknet's group key, for public networks.
pub const QUICKNET_PK: &str = "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a2d1064510d1fec758c921cc22b0e17e63aaf4bcb5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a";
/// drand quicknet's chain hash.
pub const QUICKNET_HASH: &str = "52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971";
/// drand quicknet's group seed.
pub const QUICKNET_SEED: &str = "f477d5c89f21a17c863a7f937c6a6d15859414d2be09cd448d4279af331c5d3e";

type HashToG1 =
    MapToCurveBasedHasher<G1Projective, DefaultFieldHasher<Sha256, 128>, WBMap<g1::Config>>;

/// What a beacon key, signature or schedule can be accused of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BeaconError {
    /// Not the one valid encoding of a point of the prime-order subgroup, or the identity.
    #[error("the beacon {what} is not a valid point: {why}")]
    BadPoint {
        /// "group key" or "signature".
        what: &'static str,
        /// Cause.
        why: &'static str,
    },
    /// The pairing equation does not hold.
    #[error("the signature of beacon round {round} does not verify under this network's group key")]
    BadSignature {
        /// Round that was claimed.
        round: u64,
    },
    /// A block carries another round than the next one due, or one from the future.
    #[error("beacon entry {index}: round {found} where round {expected} is due")]
    WrongRound {
        /// Position in the block.
        index: usize,
        /// Round required.
        expected: u64,
        /// Round found.
        found: u64,
    },
    /// More entries than epochs have begun, or more than a block may carry.
    #[error("{found} beacon entries where at most {limit} are allowed")]
    TooMany {
        /// Entries in the block.
        found: usize,
        /// Most that are allowed now.
        limit: u64,
    },
    /// The parameters in genesis contradict themselves.
    #[error("beacon parameters: {0}")]
    Params(String),
}

/// A checked group key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupKey(G2Affine);

impl GroupKey {
    /// Decodes 96 bytes; refuses the identity (it would verify the identity signature for every round).
    pub fn decode(bytes: &[u8; 96]) -> Result<Self, BeaconError> {
        decode_point::<G2Affine>("group key", bytes).map(Self)
    }

    /// Checks one round.
    pub fn verify(&self, round: u64, sig: &[u8; 48]) -> Result<(), BeaconError> {
        let sig = decode_point::<G1Affine>("signature", sig)?;
        let left = -hash_round(round);
        let product = Bls12_381::multi_pairing([sig, left], [G2Affine::generator(), self.0]);
        // The target group is written additively: zero means both pairings are equal.
        if product.is_zero() {
            Ok(())
        } else {
            Err(BeaconError::BadSignature { round })
        }
    }
}

impl GroupKey {
    /// Whether all entries verify, with overwhelming probability; `false` may also mean bytes that are no point.
    fn verify_weighted<'a>(&self, entries: impl Iterator<Item = &'a Entry>) -> bool {
        let (mut sigs, mut hashes) = (G1Projective::zero(), G1Projective::zero());
        for entry in entries {
            let Ok(sig) = decode_point::<G1Affine>("signature", &entry.sig) else {
                return false;
            };
            let mut weight = [0u64; 2];
            weight.fill_with(|| rand::RngCore::next_u64(&mut rand::rngs::OsRng));
            sigs += sig.mul_bigint(weight);
            hashes += hash_round(entry.round).mul_bigint(weight);
        }
        let left: <Bls12_381 as Pairing>::G1Prepared = (-hashes).into_affine().into();
        Bls12_381::multi_pairing(
            [sigs.into_affine().into(), left],
            [G2Affine::generator(), self.0],
        )
        .is_zero()
    }
}

/// One round on chain: drand's signature, from which everybody computes the value.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Entry {
    /// drand's round number; rounds start at 1.
    pub round: u64,
    /// Compressed G1 point.
    pub sig: [u8; 48],
}

impl Entry {
    /// The 32-byte value of this round.
    pub fn randomness(&self) -> [u8; 32] {
        randomness(&self.sig)
    }
}

/// The value of a round: SHA-256 of its signature.
pub fn randomness(sig: &[u8; 48]) -> [u8; 32] {
    digest(&[sig])
}

/// A beacon network as genesis names it.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct BeaconParams {
    /// First epoch served by this network (0 for the first; an upgrade may append another).
    pub from_epoch: u64,
    /// Always [`SCHEME`].
    pub scheme: String,
    /// Group key, 96 bytes, compressed G2.
    #[serde(with = "crate::codec::hex_array")]
    pub pk: [u8; 96],
    /// Unix seconds of round 1.
    pub genesis_time: i64,
    /// Seconds between rounds.
    pub period: u32,
    /// drand's group seed.
    #[serde(with = "crate::codec::hex_array")]
    pub genesis_seed: [u8; 32],
    /// drand's beacon id.
    pub beacon_id: String,
    /// SHA-256 over the above as drand computes it; recomputed when loaded.
    #[serde(with = "crate::codec::hex_array")]
    pub chain_hash: [u8; 32],
    /// Round of `from_epoch`.
    pub round0: u64,
    /// Rounds from one epoch to the next.
    pub rounds_per_epoch: u64,
}

impl BeaconParams {
    /// Parameters of a devnet whose one node signs: round `r` belongs to epoch `r`.
    pub fn devnet(key: &DevnetSigner, genesis_time: i64) -> Self {
        let mut params = Self {
            from_epoch: 0,
            scheme: SCHEME.into(),
            pk: key.public_key(),
            genesis_time,
            period: 2,
            genesis_seed: [0; 32],
            beacon_id: "holdfast-devnet".into(),
            chain_hash: [0; 32],
            round0: 0,
            rounds_per_epoch: 1,
        };
        params.chain_hash = params.compute_chain_hash();
        params
    }

    /// drand quicknet, with `round0` the round of epoch `from_epoch`; 10 rounds of 3 s are one 30 s epoch.
    pub fn quicknet(from_epoch: u64, round0: u64) -> Self {
        Self {
            from_epoch,
            scheme: SCHEME.into(),
            pk: unhex(QUICKNET_PK),
            genesis_time: 1_692_803_367,
            period: 3,
            genesis_seed: unhex(QUICKNET_SEED),
            beacon_id: "quicknet".into(),
            chain_hash: unhex(QUICKNET_HASH),
            round0,
            rounds_per_epoch: 10,
        }
    }

    /// drand's chain hash of these parameters.
    pub fn compute_chain_hash(&self) -> [u8; 32] {
        // drand leaves the id of its unnamed default network out of the hash.
        let id: &[u8] = if self.beacon_id == "default" {
            b""
        } else {
            self.beacon_id.as_bytes()
        };
        let (period, time) = (self.period.to_be_bytes(), self.genesis_time.to_be_bytes());
        digest(&[&period, &time, &self.pk, &self.genesis_seed, id])
    }

    /// R(e), the round of epoch `e`; `None` before `from_epoch` or beyond u64.
    pub fn round_of(&self, epoch: Epoch) -> Option<u64> {
        let since = epoch.0.checked_sub(self.from_epoch)?;
        self.rounds_per_epoch
            .checked_mul(since)?
            .checked_add(self.round0)
    }

    /// The epoch whose round is `round`, as if this network served for ever.
    fn epoch_of(&self, round: u64) -> Option<Epoch> {
        let since = round.checked_sub(self.round0)?;
        let whole = since.checked_rem(self.rounds_per_epoch)? == 0;
        let of = self.from_epoch.checked_add(since / self.rounds_per_epoch)?;
        whole.then_some(Epoch(of))
    }

    /// Unix seconds at which round `r` is published; `None` for round 0 and beyond i64.
    pub fn time_of_round(&self, round: u64) -> Option<i64> {
        let steps = i64::try_from(round.checked_sub(1)?).ok()?;
        steps
            .checked_mul(i64::from(self.period))?
            .checked_add(self.genesis_time)
    }

    /// The newest round at Unix second `t`; 0 before the first.
    pub fn round_at(&self, t: i64) -> u64 {
        match t.checked_sub(self.genesis_time) {
            Some(since) if since >= 0 && self.period > 0 => {
                (since / i64::from(self.period)) as u64 + 1
            }
            _ => 0,
        }
    }

    fn check(&self, epoch_ms: Option<u64>) -> Result<GroupKey, BeaconError> {
        let fail = |why: String| Err(BeaconError::Params(why));
        if self.scheme != SCHEME {
            return fail(format!(
                "unknown scheme {:?}, only {SCHEME} is spoken",
                self.scheme
            ));
        }
        if self.beacon_id.len() > 64 || self.period == 0 || self.rounds_per_epoch == 0 {
            return fail(
                "period and rounds per epoch must be positive, the id at most 64 bytes".into(),
            );
        }
        let computed = self.compute_chain_hash();
        if computed != self.chain_hash {
            let (found, want) = (hex::encode(self.chain_hash), hex::encode(computed));
            return fail(format!(
                "chain hash {found} does not match the other fields, which give {want}"
            ));
        }
        if let Some(ms) = epoch_ms {
            let rounds_ms = self
                .rounds_per_epoch
                .checked_mul(u64::from(self.period) * 1000);
            if rounds_ms != Some(ms) {
                return fail(format!(
                    "an epoch of {ms} ms is not {} rounds of {} s",
                    self.rounds_per_epoch, self.period
                ));
            }
        }
        GroupKey::decode(&self.pk)
    }
}

/// All beacon networks of a chain, checked, in order of `from_epoch`.
#[derive(Clone, Debug)]
pub struct BeaconSchedule {
    networks: Vec<(BeaconParams, GroupKey)>,
    verified: Arc<Verified>,
}

/// The last entries whose signatures held, under which network's key: a validator judges a block when it is proposed, when its
/// round begins and when it is decided, and a pairing takes longer than all the rest. Shared by clones.
#[derive(Debug, Default)]
struct Verified {
    held: Mutex<VecDeque<(u64, Entry)>>,
    /// The last entry of our own source that did not hold: it is asked for again many times a second.
    refused: Mutex<Option<(u64, Entry)>>,
}

impl Verified {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, Entry)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Verifies an entry under a network's key, unless it just was.
    fn check(
        &self,
        (params, key): &(BeaconParams, GroupKey),
        entry: &Entry,
    ) -> Result<(), BeaconError> {
        let known = (params.from_epoch, entry.clone());
        if self.lock().contains(&known) {
            return Ok(());
        }
        key.verify(entry.round, &entry.sig)?;
        let mut last = self.lock();
        last.push_back(known);
        if last.len() > MAX_ENTRIES {
            last.pop_front();
        }
        Ok(())
    }
}

impl BeaconSchedule {
    /// Checks every network. `epoch_ms` is given when epochs follow the beacon's clock: it must then match, and T must go on
    /// evenly from one network to the next.
    pub fn new(networks: &[BeaconParams], epoch_ms: Option<u64>) -> Result<Self, BeaconError> {
        if networks.is_empty() || networks[0].from_epoch != 0 {
            return Err(BeaconError::Params(
                "the first network must begin at epoch 0".into(),
            ));
        }
        if networks.len() > 64
            || networks
                .windows(2)
                .any(|w| w[0].from_epoch >= w[1].from_epoch)
        {
            return Err(BeaconError::Params(
                "networks must be at most 64, in ascending order of from_epoch".into(),
            ));
        }
        let checked = networks.iter().map(|p| Ok((p.clone(), p.check(epoch_ms)?)));
        let checked = checked.collect::<Result<_, BeaconError>>()?;
        check_joints(networks, epoch_ms.is_some())?;
        Ok(Self {
            networks: checked,
            verified: Arc::default(),
        })
    }

    fn network(&self, epoch: Epoch) -> &(BeaconParams, GroupKey) {
        let after = self
            .networks
            .partition_point(|(p, _)| p.from_epoch <= epoch.0);
        &self.networks[after.max(1) - 1]
    }

    /// The parameters in force at `epoch`.
    pub fn params(&self, epoch: Epoch) -> &BeaconParams {
        &self.network(epoch).0
    }

    /// R(e); `None` only when the numbers leave u64, and for round 0, which drand does not have.
    pub fn round_of(&self, epoch: Epoch) -> Option<u64> {
        self.params(epoch)
            .round_of(epoch)
            .filter(|round| *round > 0)
    }

    /// Unix milliseconds at which epoch `e` begins when epochs follow the beacon: the time of R(e).
    pub fn time_ms_of(&self, epoch: Epoch) -> Option<u64> {
        let seconds = self.params(epoch).time_of_round(self.round_of(epoch)?)?;
        u64::try_from(seconds).ok()?.checked_mul(1000)
    }

    /// Verifies one round as that of `epoch`.
    pub fn check_entry(&self, epoch: Epoch, entry: &Entry) -> Result<(), BeaconError> {
        let expected = self.round_of(epoch).unwrap_or(0);
        if entry.round != expected || expected == 0 {
            return Err(BeaconError::WrongRound {
                index: 0,
                expected,
                found: entry.round,
            });
        }
        self.verified.check(self.network(epoch), entry)
    }

    /// The entries that a block of `epoch` can carry on a chain whose newest beacon is that of epoch `tip`: what `source` knows
    /// and what verifies, up to the first gap.
    ///
    /// All rounds that are due are asked for, also those behind a gap, so that a source can fetch them together. One that is not
    /// the round asked for, or does not verify, counts as missing: a source at fault delays its proposer and does not stop it.
    pub fn gather(&self, source: &mut dyn BeaconSource, tip: Epoch, epoch: Epoch) -> Vec<Entry> {
        source.settled(tip);
        let last = epoch.0.min(tip.0.saturating_add(MAX_ENTRIES as u64));
        let (mut entries, mut gap) = (Vec::new(), false);
        for of in (tip.0.saturating_add(1)..=last).map(Epoch) {
            let Some(round) = self.round_of(of) else {
                break;
            };
            let found = source.round(of, round);
            if gap {
                continue;
            }
            match found.filter(|entry| self.is_sound(of, entry)) {
                Some(entry) => entries.push(entry),
                None => gap = true,
            }
        }
        entries
    }

    /// Whether our own source's entry holds; says so once if it does not.
    fn is_sound(&self, epoch: Epoch, entry: &Entry) -> bool {
        let mut refused = self
            .verified
            .refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if refused
            .as_ref()
            .is_some_and(|(e, last)| *e == epoch.0 && last == entry)
        {
            return false;
        }
        let Err(error) = self.check_entry(epoch, entry) else {
            return true;
        };
        tracing::warn!(%error, %epoch, "the source of beacon rounds gave one that does not hold; check its key");
        *refused = Some((epoch.0, entry.clone()));
        false
    }

    /// Judges the entries of a block at `epoch` on a chain whose newest beacon is that of epoch `tip`.
    ///
    /// Entry `i` must be round `R(tip+1+i)`, none may be from the future, each must verify. Returns the values with
    /// their epochs. One failure makes the block invalid; no entries are fine.
    pub fn check_entries(
        &self,
        tip: Epoch,
        epoch: Epoch,
        entries: &[Entry],
    ) -> Result<Vec<(Epoch, [u8; 32])>, BeaconError> {
        // Rounds are cheap to compare, pairings are not: judge all numbers first.
        let values = self.check_rounds(tip, epoch, entries)?;
        for (entry, (of, _)) in entries.iter().zip(&values) {
            self.verified.check(self.network(*of), entry)?;
        }
        Ok(values)
    }

    /// As [`Self::check_entries`], but leaves the signatures to [`Self::first_bad`].
    pub fn check_rounds(
        &self,
        tip: Epoch,
        epoch: Epoch,
        entries: &[Entry],
    ) -> Result<Vec<(Epoch, [u8; 32])>, BeaconError> {
        let limit = epoch.0.saturating_sub(tip.0).min(MAX_ENTRIES as u64);
        if entries.len() as u64 > limit {
            return Err(BeaconError::TooMany {
                found: entries.len(),
                limit,
            });
        }
        let mut values = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            let of = Epoch(tip.0 + 1 + index as u64);
            let expected = self.round_of(of).unwrap_or(0);
            if entry.round != expected || expected == 0 {
                return Err(BeaconError::WrongRound {
                    index,
                    expected,
                    found: entry.round,
                });
            }
            values.push((of, entry.randomness()));
        }
        Ok(values)
    }

    /// The epochs and values of entries that a block of `epoch` carried, told from their rounds: a block after an outage carries
    /// those of older epochs, perhaps not up to its own. Leaves the signatures to [`Self::first_bad`].
    pub fn epochs_of(
        &self,
        epoch: Epoch,
        entries: &[Entry],
    ) -> Result<Vec<(Epoch, [u8; 32])>, BeaconError> {
        let Some(first) = entries.first() else {
            return Ok(Vec::new());
        };
        let at = |index: usize| self.networks.get(index).map(|(p, _)| p.from_epoch);
        let mut fits = Vec::new();
        for (index, (params, _)) in self.networks.iter().enumerate() {
            let of = params.epoch_of(first.round).filter(|of| of.0 > 0);
            let Some(of) = of.filter(|of| at(index + 1).is_none_or(|next| of.0 < next)) else {
                continue;
            };
            fits.extend(self.check_rounds(Epoch(of.0 - 1), epoch, entries).ok());
        }
        // Rounds of two networks may have one number, and then the key decides: no key's round serves two epochs.
        let mut fits = fits.into_iter();
        match (fits.next(), fits.len()) {
            (Some(only), 0) => Ok(only),
            (first_fit, _) => first_fit
                .into_iter()
                .chain(fits)
                .find(|values| {
                    let of = values.first().map(|(of, _)| *of);
                    of.is_some_and(|of| self.check_entry(of, first).is_ok())
                })
                .ok_or(BeaconError::WrongRound {
                    index: 0,
                    expected: self.round_of(epoch).unwrap_or(0),
                    found: first.round,
                }),
        }
    }

    /// The position and fault of the first entry whose signature does not verify, among entries of ascending epochs.
    ///
    /// Many are checked at once, each with its own 128-bit weight from the operating system's randomness: an unweighted sum
    /// would accept two wrong signatures with opposite errors. A batch that fails is checked singly, and that verdict
    /// counts. Costs 0.4 ms an entry instead of 1.3.
    pub fn first_bad(&self, entries: &[(Epoch, Entry)]) -> Option<(usize, BeaconError)> {
        let mut at = 0;
        for group in entries.chunk_by(|(a, _), (b, _)| self.network(*a).1 == self.network(*b).1) {
            let key = self.network(group[0].0).1;
            if !key.verify_weighted(group.iter().map(|(_, entry)| entry)) {
                let single = |(i, (_, entry)): (usize, &(Epoch, Entry))| {
                    key.verify(entry.round, &entry.sig)
                        .err()
                        .map(|error| (at + i, error))
                };
                if let Some(bad) = group.iter().enumerate().find_map(single) {
                    return Some(bad);
                }
            }
            at += group.len();
        }
        None
    }

    /// The values of entries that were judged before (a rebuild from the node's own checksummed log).
    pub fn values_unverified(&self, tip: Epoch, entries: &[Entry]) -> Vec<(Epoch, [u8; 32])> {
        (tip.0 + 1..)
            .map(Epoch)
            .zip(entries.iter().map(Entry::randomness))
            .collect()
    }
}

/// What must hold between the networks of one schedule, which ascend by `from_epoch`.
///
/// Under the beacon's clock a network begins where the one before it would have gone on: otherwise epochs would overlap or jump.
/// And one key signs one round once, so the same round must not serve two epochs: the second would be known from the first on.
fn check_joints(networks: &[BeaconParams], follows_beacon: bool) -> Result<(), BeaconError> {
    let fail = |why: String| Err(BeaconError::Params(why));
    for (index, two) in networks.windows(2).enumerate() {
        let (before, after) = (&two[0], &two[1]);
        let at = Epoch(after.from_epoch);
        let due = before.round_of(at).and_then(|r| before.time_of_round(r));
        let begins = after.time_of_round(after.round0);
        if follows_beacon && (due.is_none() || due != begins) {
            return fail(format!(
                "epoch {at} begins at {due:?} by network {:?} and at {begins:?} by {:?}, which takes over there",
                before.beacon_id, after.beacon_id
            ));
        }
        let last = before.round_of(Epoch(after.from_epoch - 1));
        let again = |later: &&BeaconParams| later.pk == before.pk && Some(later.round0) <= last;
        if let Some(later) = networks[index + 1..].iter().find(again) {
            return fail(format!(
                "round {} of one key would serve two epochs",
                later.round0
            ));
        }
    }
    Ok(())
}

/// Where a proposer gets rounds from. Not believed: [`BeaconSchedule::gather`] verifies what it gives.
pub trait BeaconSource: Send {
    /// The signature of `round`, which is R(`epoch`), or `None` while it is not known here. Called only for rounds that are due,
    /// again and again until they come. Must not wait: the engine's thread asks.
    fn round(&mut self, epoch: Epoch, round: u64) -> Option<Entry>;

    /// The rounds of all epochs up to `tip` are on chain: nobody will ask for them again.
    fn settled(&mut self, tip: Epoch) {
        let _ = tip;
    }
}

/// A devnet's group key, held by its one node. Whoever holds it can predict every value.
///
/// Its `Debug` shows nothing (`tm_h7`).
#[derive(Clone)]
pub struct DevnetSigner(Fr);

impl std::fmt::Debug for DevnetSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DevnetSigner(secret)")
    }
}

impl DevnetSigner {
    /// From 32 big-endian bytes; refuses zero and values outside the field.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, BeaconError> {
        let mut little = *bytes;
        little.reverse();
        match Fr::deserialize_compressed(&little[..]) {
            Ok(sk) if !sk.is_zero() => Ok(Self(sk)),
            _ => Err(BeaconError::Params(
                "the beacon secret is not a scalar between 1 and r-1".into(),
            )),
        }
    }

    /// From any 32-byte seed: hashed, then reduced; the bias (2^-1) of one reduction does not matter to a devnet,
    /// whose holder can predict the beacon anyway.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let wide = [
            digest(&[b"holdfast/devnet-beacon/v1/0", seed]),
            digest(&[b"holdfast/devnet-beacon/v1/1", seed]),
        ]
        .concat();
        let sk = Fr::from_be_bytes_mod_order(&wide);
        // Zero has chance 2^-255; one is as good a secret for that seed.
        Self(if sk.is_zero() { Fr::from(1u64) } else { sk })
    }

    /// The group key that belongs to this secret.
    pub fn public_key(&self) -> [u8; 96] {
        encode((G2Affine::generator() * self.0).into_affine())
    }

    /// Signs a round.
    pub fn sign(&self, round: u64) -> Entry {
        Entry {
            round,
            sig: encode((hash_round(round) * self.0).into_affine()),
        }
    }
}

impl BeaconSource for DevnetSigner {
    fn round(&mut self, _: Epoch, round: u64) -> Option<Entry> {
        Some(self.sign(round))
    }
}

fn hash_round(round: u64) -> G1Affine {
    let message = digest(&[&round.to_be_bytes()]);
    let hasher = HashToG1::new(DST).expect("the curve's own isogeny parameters are consistent");
    hasher
        .hash(&message)
        .expect("SWU maps every field element to the curve")
}

/// Checked decoding of one compressed point; the array length is the exact length, the flags are checked by
/// arkworks, and re-encoding proves that no second encoding was accepted.
fn decode_point<P: AffineRepr>(what: &'static str, bytes: &[u8]) -> Result<P, BeaconError> {
    let fail = |why| BeaconError::BadPoint { what, why };
    // `deserialize_compressed` checks the curve equation and the subgroup; the unchecked one must never be used here.
    let point = P::deserialize_compressed(bytes)
        .map_err(|_| fail("not a compressed point of the prime-order subgroup"))?;
    if point.is_zero() {
        return Err(fail("it is the identity"));
    }
    let mut again = Vec::with_capacity(bytes.len());
    point
        .serialize_compressed(&mut again)
        .map_err(|_| fail("it cannot be encoded"))?;
    if again != bytes {
        Err(fail("it is not the canonical encoding"))
    } else {
        Ok(point)
    }
}

fn encode<P: CanonicalSerialize, const N: usize>(point: P) -> [u8; N] {
    let mut bytes = [0u8; N];
    point
        .serialize_compressed(&mut bytes[..])
        .expect("a compressed point has exactly this length");
    bytes
}

/// Reads one of this module's own hexadecimal constants.
fn unhex<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).expect("the constant is hexadecimal of this length");
    bytes
}

/// Any bytes as a signature and as a group key: what is accepted encodes to the same bytes. Body of the fuzz target.
pub fn fuzz_points(bytes: &[u8]) {
    if let Some(sig) = bytes.first_chunk::<48>()
        && let Ok(point) = decode_point::<G1Affine>("signature", sig)
    {
        assert_eq!(encode::<_, 48>(point), *sig, "one encoding per point");
        assert!(!point.is_zero() && point.is_in_correct_subgroup_assuming_on_curve());
    }
    if let Some(pk) = bytes.first_chunk::<96>()
        && let Ok(key) = GroupKey::decode(pk)
    {
        assert_eq!(encode::<_, 96>(key.0), *pk, "one encoding per point");
        assert!(key.0.is_in_correct_subgroup_assuming_on_curve());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ark_ff::BigInteger;

    const ROUNDS: [(u64, &str, &str); 5] = [
        (
            1,
            "b55e7cb2d5c613ee0b2e28d6750aabbb78c39dcc96bd9d38c2c2e12198df95571de8e8e402a0cc48871c7089a2b3af4b",
            "1466a6cd24e327188770752f6134001c64d6efcc590ccc26b721611ad96f165a",
        ),
        (
            2,
            "b6b6a585449b66eb12e875b64fcbab3799861a00e4dbf092d99e969a5eac57dd3f798acf61e705fe4f093db926626807",
            "5782d6987841c654515a0e72b2d1ebb4e741234042c37cb19608ae50d93fb60c",
        ),
        (
            1000,
            "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39",
            "fe290beca10872ef2fb164d2aa4442de4566183ec51c56ff3cd603d930e54fdd",
        ),
        (
            657413,
            "b713718a38ae728dfd477991af2822e08d2f305e47718cef9f7848ce4050e7be41076862b98fad56e91a6b85b89cd97b",
            "fc1873a13f3545aeade8401532ef5519920652eee6b0d2b19ca12643b87b3587",
        ),
        (
            30663002,
            "b9e7e1e3d7d9cf17a9f4703abfae4c137acfbef1fdb45715a98422c244a499ea381c7fd759851ed8eeb8a03d778959b3",
            "2a231554933f6fd70314fa470152710fac3eba10d052cab996e8f30854fa7f55",
        ),
    ];
    /// Round 1000's signature plus a point of order 3: passes the pairing, must be refused by decoding.
    const TORSION_1000: &str = "abbaa2cd356c8b543308abe2c07d92facb092294f841b0c295786b635167aba148d4e2e86fedf3cf2c04c43b68a5aaee";

    fn quicknet() -> GroupKey {
        GroupKey::decode(&unhex(QUICKNET_PK)).unwrap()
    }

    #[test]
    fn quicknet_rounds_verify_and_give_the_published_values() {
        for (round, sig, value) in ROUNDS {
            let sig = unhex::<48>(sig);
            assert_eq!(quicknet().verify(round, &sig), Ok(()), "round {round}");
            assert_eq!(randomness(&sig), unhex(value), "round {round}");
            assert_eq!(
                quicknet().verify(round + 1, &sig),
                Err(BeaconError::BadSignature { round: round + 1 })
            );
        }
    }

    #[test]
    fn chain_hashes_are_drands() {
        let params = BeaconParams::quicknet(0, 1000);
        assert_eq!(params.compute_chain_hash(), params.chain_hash);
        assert!(BeaconSchedule::new(&[params], Some(30_000)).is_ok());
    }

    fn spec_devnet() -> (DevnetSigner, BeaconParams) {
        let key = DevnetSigner::from_bytes(&unhex(
            "21b7634990e57b51c299ed467d95cc67db5dfbf0cce042c977c48d66e86e66be",
        ))
        .unwrap();
        let params = BeaconParams::devnet(&key, 1_700_000_000);
        (key, params)
    }

    #[test]
    fn devnet_key_signs_as_blst_does() {
        let (key, params) = spec_devnet();
        assert_eq!(
            hex::encode(params.chain_hash),
            "afa82e1bcc890d160d150a7f0c98f4a5b129463d5982f9948a0a318793b3848c"
        );
        let sig1 = "a4b6e119fd1bf9fff6cff40a7d589455b83562a4debaf9905e20dca71bfd9a823495bfd7ec4e951f7cb32021f478418b";
        assert_eq!(hex::encode(key.sign(1).sig), sig1);
        assert_eq!(
            GroupKey::decode(&params.pk)
                .unwrap()
                .verify(1, &key.sign(1).sig),
            Ok(())
        );
        assert!(quicknet().verify(1, &key.sign(1).sig).is_err());
        assert!(
            GroupKey::decode(&params.pk)
                .unwrap()
                .verify(1, &unhex(ROUNDS[0].1))
                .is_err()
        );
        assert_eq!(format!("{key:?}"), "DevnetSigner(secret)");
    }

    #[test]
    fn hash_to_curve_is_rfc_9380() {
        // RFC 9380 J.9.1 uses its own DST; the x coordinates of "" and "abc".
        let hasher = HashToG1::new(b"QUUX-V01-CS02-with-BLS12381G1_XMD:SHA-256_SSWU_RO_").unwrap();
        for (msg, x) in [
            (
                "",
                "052926add2207b76ca4fa57a8734416c8dc95e24501772c814278700eed6d1e4e8cf62d9c09db0fac349612b759e79a1",
            ),
            (
                "abc",
                "03567bc5ef9c690c2ab2ecdf6a96ef1c139cc0b2f284dca0a9a7943388a49a3aee664ba5379a7655d3c68900be2f6903",
            ),
        ] {
            let point: G1Affine = hasher.hash(msg.as_bytes()).unwrap();
            assert_eq!(hex::encode(point.x.into_bigint().to_bytes_be()), x);
        }
    }

    #[test]
    fn tm_p12_every_malformed_signature_is_refused() {
        let good = unhex::<48>(ROUNDS[2].1);
        let bad = |sig: [u8; 48]| quicknet().verify(1000, &sig).unwrap_err();
        assert!(
            matches!(bad(unhex(TORSION_1000)), BeaconError::BadPoint { .. }),
            "order-3 point must not pass"
        );
        let mut identity = [0; 48];
        identity[0] = 0xc0;
        assert!(matches!(bad(identity), BeaconError::BadPoint { .. }));
        let flip = |mask: u8| {
            let mut s = good;
            s[0] ^= mask;
            s
        };
        assert!(
            matches!(bad(flip(0x20)), BeaconError::BadSignature { .. }),
            "the negated point is a point"
        );
        assert!(matches!(bad(flip(0x80)), BeaconError::BadPoint { .. }));
        assert!(matches!(bad(flip(0x40)), BeaconError::BadPoint { .. }));
        // x + p, where it still fits 381 bits.
        let p = ark_bls12_381::Fq::MODULUS;
        let mut x = ark_ff::BigInteger384::default();
        let mut bits = good;
        bits[0] &= 0x1f;
        for (limb, chunk) in x.0.iter_mut().rev().zip(bits.chunks(8)) {
            *limb = u64::from_be_bytes(chunk.try_into().unwrap());
        }
        if !x.add_with_carry(&p) && x.num_bits() <= 381 {
            let mut s: [u8; 48] = x.to_bytes_be().try_into().unwrap();
            s[0] |= good[0] & 0xe0;
            assert!(matches!(bad(s), BeaconError::BadPoint { .. }));
        }
        let mut key = [0; 96];
        key[0] = 0xc0;
        assert!(
            GroupKey::decode(&key).is_err(),
            "the identity key would accept the identity signature"
        );
    }

    #[test]
    fn a_wrong_digest_or_domain_is_another_message() {
        let sig = decode_point::<G1Affine>("signature", &unhex::<48>(ROUNDS[2].1)).unwrap();
        let holds = |point: G1Affine| {
            let left = -point;
            Bls12_381::multi_pairing([sig, left], [G2Affine::generator(), quicknet().0]).is_zero()
        };
        assert!(holds(hash_round(1000)));
        let hash = |dst: &[u8], msg: &[u8]| HashToG1::new(dst).unwrap().hash(msg).unwrap();
        assert!(!holds(hash(
            b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_NUL_",
            &digest(&[&1000u64.to_be_bytes()])
        )));
        assert!(!holds(hash(DST, &1000u64.to_be_bytes())));
        assert!(!holds(hash(DST, &digest(&[&1000u64.to_le_bytes()]))));
    }

    #[test]
    fn entries_must_be_exactly_the_next_rounds() {
        let (key, params) = spec_devnet();
        let schedule = BeaconSchedule::new(&[params], None).unwrap();
        let run = |rounds: &[u64]| rounds.iter().map(|r| key.sign(*r)).collect::<Vec<_>>();
        let judge = |rounds: &[u64]| schedule.check_entries(Epoch(4), Epoch(6), &run(rounds));
        assert_eq!(judge(&[]).unwrap(), vec![]);
        assert_eq!(
            judge(&[5, 6]).unwrap(),
            vec![
                (Epoch(5), key.sign(5).randomness()),
                (Epoch(6), key.sign(6).randomness())
            ]
        );
        for wrong in [&[4][..], &[6], &[6, 5], &[5, 5], &[5, 7], &[5, 6, 7]] {
            assert!(judge(wrong).is_err(), "{wrong:?}");
        }
        let mut swapped = run(&[5, 6]);
        let sig = swapped[0].sig;
        swapped[0].sig = swapped[1].sig;
        swapped[1].sig = sig;
        assert!(matches!(
            schedule.check_entries(Epoch(4), Epoch(6), &swapped),
            Err(BeaconError::BadSignature { round: 5 })
        ));
    }

    #[test]
    fn tm_v7_batches_name_the_first_bad_entry_and_opposite_errors_do_not_cancel() {
        let (key, params) = spec_devnet();
        let schedule = BeaconSchedule::new(&[params], None).unwrap();
        let good: Vec<(Epoch, Entry)> = (1..=9).map(|e| (Epoch(e), key.sign(e))).collect();
        assert_eq!(schedule.first_bad(&good), None);
        assert_eq!(schedule.first_bad(&[]), None);
        let mut wrong = good.clone();
        wrong[4].1.sig = wrong[5].1.sig;
        assert_eq!(
            schedule.first_bad(&wrong),
            Some((4, BeaconError::BadSignature { round: 5 }))
        );
        let mut broken = good.clone();
        broken[7].1.sig[0] ^= 0x80;
        assert!(matches!(
            schedule.first_bad(&broken),
            Some((7, BeaconError::BadPoint { .. }))
        ));
        // sig1 + D and sig2 - D: their plain sum is right.
        let point = |sig: &[u8; 48]| decode_point::<G1Affine>("signature", sig).unwrap();
        let d = G1Affine::generator();
        let mut opposite = good.clone();
        opposite[0].1.sig = encode((point(&good[0].1.sig) + d).into_affine());
        opposite[1].1.sig = encode((point(&good[1].1.sig) - d).into_affine());
        assert_eq!(
            schedule.first_bad(&opposite),
            Some((0, BeaconError::BadSignature { round: 1 }))
        );
    }

    #[test]
    fn parameters_that_contradict_themselves_are_refused() {
        let good = BeaconParams::quicknet(0, 1000);
        let refused = |change: &dyn Fn(&mut BeaconParams), epoch_ms| {
            let mut params = good.clone();
            change(&mut params);
            assert!(BeaconSchedule::new(&[params], epoch_ms).is_err());
        };
        refused(&|p| p.period = 2, None);
        refused(&|p| p.genesis_time += 1, None);
        refused(&|p| p.genesis_seed[0] ^= 1, None);
        refused(&|p| p.beacon_id = "other".into(), None);
        refused(&|p| p.pk[95] ^= 1, None);
        refused(&|p| p.chain_hash[0] ^= 1, None);
        refused(&|p| p.scheme = "pedersen-bls-chained".into(), None);
        refused(&|p| p.rounds_per_epoch = 0, None);
        refused(&|p| p.from_epoch = 1, None);
        refused(&|_| (), Some(2_000));
        assert!(BeaconSchedule::new(&[], None).is_err());
    }

    #[test]
    fn a_blocks_entries_say_themselves_which_epochs_they_are_of() {
        let (key, first) = spec_devnet();
        let other = DevnetSigner::from_seed(&[7; 32]);
        // From epoch 50 on another network, whose rounds 10, 12, 14… the first had too.
        let mut second = BeaconParams::devnet(&other, first.genesis_time);
        (second.from_epoch, second.round0, second.rounds_per_epoch) = (50, 10, 2);
        let schedule = BeaconSchedule::new(&[first, second], None).unwrap();
        let of = |epoch, entries: &[Entry]| {
            let values = schedule.epochs_of(Epoch(epoch), entries).ok()?;
            Some(values.iter().map(|(of, _)| of.0).collect::<Vec<_>>())
        };
        let run = |key: &DevnetSigner, rounds: &[u64]| -> Vec<Entry> {
            rounds.iter().map(|r| key.sign(*r)).collect()
        };
        assert_eq!(of(40, &[]), Some(vec![]));
        assert_eq!(of(40, &run(&key, &[40])), Some(vec![40]));
        assert_eq!(
            of(40, &run(&key, &[7, 8, 9])),
            Some(vec![7, 8, 9]),
            "older than the block"
        );
        assert_eq!(of(40, &run(&key, &[41])), None, "from the future");
        assert_eq!(of(40, &run(&key, &[7, 9])), None, "a gap");
        assert_eq!(of(40, &run(&key, &[0])), None);
        // The same number under two keys.
        assert_eq!(of(60, &run(&key, &[10])), Some(vec![10]));
        assert_eq!(of(60, &run(&other, &[10])), Some(vec![50]));
        assert_eq!(of(60, &run(&other, &[10, 12])), Some(vec![50, 51]));
        let joint = [run(&key, &[49]), run(&other, &[10])].concat();
        assert_eq!(of(60, &joint), Some(vec![49, 50]));
        assert_eq!(
            of(60, &run(&other, &[11])),
            Some(vec![11]),
            "and the key refuses it"
        );
    }

    /// A second network takes over without a jump in time, and no key's round serves twice.
    #[test]
    fn tm_v5_networks_follow_each_other_without_a_jump_and_no_round_serves_twice() {
        let (key, first) = spec_devnet();
        let other = DevnetSigner::from_seed(&[7; 32]);
        // Epoch 50 begins at round 50 of the first: 98 s after its round 1.
        let second = |from_epoch: u64, round0: u64, genesis_time: i64, key: &DevnetSigner| {
            let mut params = BeaconParams::devnet(key, genesis_time);
            (params.from_epoch, params.round0) = (from_epoch, round0);
            params.chain_hash = params.compute_chain_hash();
            params
        };
        let both =
            |then: BeaconParams, epoch_ms| BeaconSchedule::new(&[first.clone(), then], epoch_ms);
        let even = second(50, 10, first.genesis_time + 98 - 18, &other);
        let schedule = both(even.clone(), Some(2_000)).unwrap();
        let time = |e| schedule.time_ms_of(Epoch(e)).unwrap();
        assert_eq!(time(50) - time(49), 2_000);
        assert_eq!(schedule.check_entry(Epoch(50), &other.sign(10)), Ok(()));
        assert!(schedule.check_entry(Epoch(49), &other.sign(10)).is_err());
        for wrong in [
            second(50, 10, first.genesis_time + 98 - 17, &other),
            second(50, 11, first.genesis_time + 98 - 18, &other),
            second(51, 10, first.genesis_time + 98 - 18, &other),
            second(50, 0, first.genesis_time + 98, &other),
        ] {
            assert!(both(wrong.clone(), Some(2_000)).is_err(), "{wrong:?}");
            assert!(both(wrong, None).is_ok(), "a logical clock has no times");
        }
        // The same key again, from a round that was used: known in advance.
        for (round0, sound) in [(10, false), (49, false), (50, true)] {
            assert_eq!(both(second(50, round0, 7, &key), None).is_ok(), sound);
        }
    }

    #[test]
    fn rounds_and_times() {
        let p = BeaconParams::quicknet(0, 1000);
        assert_eq!(p.round_of(Epoch(3)), Some(1030));
        assert_eq!(p.time_of_round(1), Some(p.genesis_time));
        assert_eq!(p.time_of_round(0), None);
        assert_eq!(p.round_at(p.genesis_time - 1), 0);
        assert_eq!(p.round_at(p.genesis_time), 1);
        assert_eq!(p.round_at(p.genesis_time + 3), 2);
        assert_eq!(p.round_of(Epoch(u64::MAX)), None);
    }
}
