//! Who may finalise a block, and the proof that they did: validators, votes, commit certificates.
//!
//! Walk: an engine collects votes into a [`Certificate`]; the ledger, the light client and the auditor verify it with the same function. Solo writes one signature, a BFT engine more; the bytes and the verifier are one
//! (`spec/consensus.md` §§6, 10).
//!
//! A vote is `borsh("holdfast/vote/v1", chain id, kind, height, round, block id, validator)`, signed with ed25519 and checked
//! strictly. A certificate lists its signatures in ascending order of validator, each once, so that it has one encoding.
//! It is not part of the block id: two nodes may hold different certificates of one block.

use borsh::{BorshDeserialize, BorshSerialize};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};

use crate::merkle::digest;
use crate::name::ChainId;

/// Most validators of a chain; bounds every certificate.
pub const MAX_VALIDATORS: usize = 1024;
/// Cap on the sum of powers, so that three times a power never overflows and fits a JSON number.
pub const MAX_TOTAL_POWER: u64 = 1 << 53;
const VOTE_TAG: &str = "holdfast/vote/v1";
const PROPOSAL_TAG: &str = "holdfast/proposal/v1";

/// A validator's ed25519 public key.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    BorshSerialize,
    BorshDeserialize,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct ValidatorId(#[serde(with = "crate::codec::hex_array")] pub [u8; 32]);

/// An ed25519 signature.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Sig(#[serde(with = "crate::codec::hex_array")] pub [u8; 64]);

/// SHA-256 of a header under its tag; see [`crate::header::Header::id`].
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    BorshSerialize,
    BorshDeserialize,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct BlockId(#[serde(with = "crate::codec::hex_array")] pub [u8; 32]);

macro_rules! hex_debug {
    ($($name:ident),*) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
    )*};
}
hex_debug!(ValidatorId, Sig, BlockId);

/// One validator.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Validator {
    /// Key that signs votes.
    pub id: ValidatorId,
    /// Voting weight, at least 1.
    pub power: u64,
}

/// Validators in ascending order of key, checked when built.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize)]
pub struct ValidatorSet(Vec<Validator>);

impl ValidatorSet {
    /// Checks order, uniqueness, powers and keys.
    pub fn new(mut validators: Vec<Validator>) -> Result<Self, CertError> {
        validators.sort_by_key(|v| v.id);
        let bad = |why: &str| Err(CertError::BadSet(why.into()));
        if validators.is_empty() || validators.len() > MAX_VALIDATORS {
            return bad("there must be between 1 and 1024 validators");
        }
        if validators.windows(2).any(|w| w[0].id == w[1].id) {
            return bad("a validator is named twice");
        }
        let total = validators
            .iter()
            .try_fold(0u64, |sum, v| sum.checked_add(v.power));
        if validators.iter().any(|v| v.power == 0) || total.is_none_or(|t| t > MAX_TOTAL_POWER) {
            return bad("each power must be at least 1 and their sum at most 2^53");
        }
        if let Some(v) = validators.iter().find(|v| !is_usable(&v.id)) {
            return bad(&format!("{} is not a usable ed25519 key", v.id));
        }
        Ok(Self(validators))
    }

    /// As [`Self::new`], for a list in order whose keys were checked when it was decided: what a state holds.
    pub fn checked_before(validators: Vec<Validator>) -> Result<Self, CertError> {
        let total = validators
            .iter()
            .try_fold(0u64, |sum, v| sum.checked_add(v.power));
        let powers = validators.iter().all(|v| v.power > 0);
        let ordered = validators.windows(2).all(|w| w[0].id < w[1].id);
        let count = (1..=MAX_VALIDATORS).contains(&validators.len());
        match powers && ordered && count && total.is_some_and(|t| t <= MAX_TOTAL_POWER) {
            true => Ok(Self(validators)),
            false => Err(CertError::BadSet("not one that was ever decided".into())),
        }
    }

    /// The validators, ascending by key.
    pub fn validators(&self) -> &[Validator] {
        &self.0
    }

    /// Sum of powers.
    pub fn total_power(&self) -> u64 {
        self.0.iter().map(|v| v.power).sum()
    }

    /// Power of `id`, if it is a validator.
    pub fn power_of(&self, id: &ValidatorId) -> Option<u64> {
        self.0
            .binary_search_by_key(id, |v| v.id)
            .ok()
            .map(|i| self.0[i].power)
    }

    /// Who proposes in `round` of `height`, by `(height, round)` alone: no state, so that a light client, a validator that
    /// was away and the auditor name the same one.
    ///
    /// Turn `height + round` falls on the point `turn × φ⁻¹ mod 1` of a line on which every validator owns a stretch as long as
    /// its share of the power. Multiples of the golden ratio spread as evenly as any sequence can, so a validator proposes
    /// in proportion to its power and is never left out for long (of four equal ones each within five turns): a window
    /// of a deadline sees every proposer (`threat-model.md` V4). A silent proposer costs its own turns and no others: the next
    /// round and the next height have the same one, who is there.
    pub fn proposer(&self, height: u64, round: u32) -> ValidatorId {
        // 2^64 / φ, rounded to odd.
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let turn = height.wrapping_add(u64::from(round));
        let point = u128::from(turn.wrapping_mul(STEP));
        // Below the total power, which is at most 2^53.
        let mut left = (point * u128::from(self.total_power())) >> 64;
        for validator in &self.0 {
            let power = u128::from(validator.power);
            if left < power {
                return validator.id;
            }
            left -= power;
        }
        unreachable!("the point lies below the sum of powers, and a set has at least one validator")
    }

    /// What headers commit to.
    pub fn hash(&self) -> [u8; 32] {
        let bytes = borsh::to_vec(self).expect("writing to memory does not fail");
        digest(&[b"holdfast/validators/v1", &bytes])
    }
}

impl BorshDeserialize for ValidatorSet {
    fn deserialize_reader<R: std::io::Read>(reader: &mut R) -> std::io::Result<Self> {
        let listed = Vec::<Validator>::deserialize_reader(reader)?;
        let set = Self::new(listed.clone())
            .map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidData, e))?;
        match set.0 == listed {
            true => Ok(set),
            false => Err(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                "validators are listed in ascending order of key",
            )),
        }
    }
}

/// The bytes a validator signs to finalise a block.
pub fn vote_bytes(
    chain_id: &ChainId,
    height: u64,
    round: u32,
    block: &BlockId,
    validator: &ValidatorId,
) -> Vec<u8> {
    vote_bytes_of(chain_id, 2, height, round, block, validator)
}

/// The bytes of any vote: kind 1 is a prevote, 2 a precommit, 3 and 4 the same for no block (whose id is zeros).
pub fn vote_bytes_of(
    chain_id: &ChainId,
    kind: u8,
    height: u64,
    round: u32,
    block: &BlockId,
    validator: &ValidatorId,
) -> Vec<u8> {
    borsh::to_vec(&(VOTE_TAG, chain_id, kind, height, round, block, validator))
        .expect("writing to memory does not fail")
}

/// The bytes that a proposer signs for a block in a round. `pol_round` is the earlier round in which two thirds prevoted for it,
/// if it is proposed again.
pub fn proposal_bytes_of(
    chain_id: &ChainId,
    height: u64,
    round: u32,
    block: &BlockId,
    pol_round: Option<u32>,
    proposer: &ValidatorId,
) -> Vec<u8> {
    let said = (
        PROPOSAL_TAG,
        chain_id,
        height,
        round,
        block,
        pol_round,
        proposer,
    );
    borsh::to_vec(&said).expect("writing to memory does not fail")
}

/// Proof that a block is final.
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
#[serde(rename_all = "snake_case")]
pub enum Certificate {
    /// A list of ed25519 precommits.
    Ed25519V1 {
        /// Height of the block.
        height: u64,
        /// Round in which it was decided.
        round: u32,
        /// The block.
        block: BlockId,
        /// Signatures, ascending by validator.
        sigs: Vec<(ValidatorId, Sig)>,
    },
}

/// Why a certificate or validator set is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertError {
    /// It speaks of another block than the one at hand.
    #[error("the certificate is for height {height}, block {block}, not for the block at hand")]
    OtherBlock {
        /// Height it names.
        height: u64,
        /// Block it names.
        block: BlockId,
    },
    /// Signatures out of order, doubled or too many.
    #[error(
        "the certificate's signatures are not in strictly ascending order of validator, or too many"
    )]
    NotCanonical,
    /// A signer that is no validator at this height.
    #[error("{0} is not a validator at this height")]
    Unknown(ValidatorId),
    /// A signature that does not verify strictly.
    #[error("the signature of validator {0} does not verify")]
    BadSignature(ValidatorId),
    /// Two thirds or less signed.
    #[error("validators with power {signed} of {total} signed; more than two thirds are needed")]
    NoQuorum {
        /// Power that signed.
        signed: u64,
        /// Power of all.
        total: u64,
    },
    /// The validator set itself is impossible.
    #[error("validator set: {0}")]
    BadSet(String),
}

impl Certificate {
    /// The certificate of a chain with one validator: its precommit of `block` in round 0.
    pub fn solo(chain_id: &ChainId, height: u64, block: BlockId, key: &SigningKey) -> Self {
        Self::single(chain_id, height, 0, block, key)
    }

    /// One validator's precommit of `block` in `round`.
    pub fn single(
        chain_id: &ChainId,
        height: u64,
        round: u32,
        block: BlockId,
        key: &SigningKey,
    ) -> Self {
        let id = ValidatorId(key.verifying_key().to_bytes());
        let sig = Sig(key
            .sign(&vote_bytes(chain_id, height, round, &block, &id))
            .to_bytes());
        Self::Ed25519V1 {
            height,
            round,
            block,
            sigs: vec![(id, sig)],
        }
    }

    /// Round in which the block was decided.
    pub fn round(&self) -> u32 {
        let Self::Ed25519V1 { round, .. } = self;
        *round
    }

    /// The signatures of both, where both speak of the same decision in the same round; else the one with more of them.
    pub fn merged(&self, other: Self) -> Self {
        let Self::Ed25519V1 {
            height,
            round,
            block,
            sigs,
        } = self;
        let Self::Ed25519V1 {
            height: h,
            round: r,
            block: b,
            sigs: others,
        } = &other;
        if (height, round, block) != (h, r, b) {
            return match others.len() > sigs.len() {
                true => other,
                false => self.clone(),
            };
        }
        // One signature a validator, ascending: where both have one, either would do, and ours stays.
        let mut all: std::collections::BTreeMap<_, _> = others.iter().copied().collect();
        all.extend(sigs.iter().copied());
        Self::Ed25519V1 {
            height: *height,
            round: *round,
            block: *block,
            sigs: all.into_iter().collect(),
        }
    }

    /// The block it is for.
    pub fn block(&self) -> BlockId {
        let Self::Ed25519V1 { block, .. } = self;
        *block
    }

    /// The height it names.
    pub fn height(&self) -> u64 {
        let Self::Ed25519V1 { height, .. } = self;
        *height
    }

    /// Power of its signers among `validators`, of a certificate whose signatures were verified before.
    pub fn named_power(&self, validators: &ValidatorSet) -> u64 {
        let Self::Ed25519V1 { sigs, .. } = self;
        let powers = sigs.iter().filter_map(|(id, _)| validators.power_of(id));
        powers.fold(0, u64::saturating_add)
    }

    /// Checks that more than two thirds of `validators` finalised `block` at `height`.
    pub fn verify(
        &self,
        chain_id: &ChainId,
        height: u64,
        block: &BlockId,
        validators: &ValidatorSet,
    ) -> Result<(), CertError> {
        let signed = self.signed_power(chain_id, height, block, validators, true)?;
        let total = validators.total_power();
        // Both sides below 2^55, by the cap on powers.
        if signed * 3 > total * 2 {
            Ok(())
        } else {
            Err(CertError::NoQuorum { signed, total })
        }
    }

    /// Power of `validators` behind valid signatures. With `strict_membership` a stranger's signature is an error, else it
    /// is ignored (a light client that skips asks how much of an *older* set signed).
    pub fn signed_power(
        &self,
        chain_id: &ChainId,
        height: u64,
        block: &BlockId,
        validators: &ValidatorSet,
        strict_membership: bool,
    ) -> Result<u64, CertError> {
        let Self::Ed25519V1 {
            height: h,
            round,
            block: b,
            sigs,
        } = self;
        if *h != height || b != block {
            return Err(CertError::OtherBlock {
                height: *h,
                block: *b,
            });
        }
        if sigs.len() > MAX_VALIDATORS || sigs.windows(2).any(|w| w[0].0 >= w[1].0) {
            return Err(CertError::NotCanonical);
        }
        let mut signed = 0;
        for (id, sig) in sigs {
            let Some(power) = validators.power_of(id) else {
                if strict_membership {
                    return Err(CertError::Unknown(*id));
                }
                continue;
            };
            if !verify_strict(
                &id.0,
                &vote_bytes(chain_id, height, *round, block, id),
                &sig.0,
            ) {
                return Err(CertError::BadSignature(*id));
            }
            signed += power;
        }
        Ok(signed)
    }
}

/// Whether `sig` is `key`'s over `message`, by ed25519's strict rules: no small-order keys or points, one signature encoding.
/// The one place where the chain's rules verify a signature (`tm_c3`).
pub fn verify_strict(key: &[u8; 32], message: &[u8], sig: &[u8; 64]) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(key) else {
        return false;
    };
    key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(sig))
        .is_ok()
}

/// Whether the key could have an honest owner: a point on the curve, and not of small order.
fn is_usable(key: &ValidatorId) -> bool {
    VerifyingKey::from_bytes(&key.0).is_ok_and(|key| !key.is_weak())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAIN: ChainId = ChainId([1; 32]);
    const BLOCK: BlockId = BlockId([2; 32]);

    fn key(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32])
    }
    fn id(n: u8) -> ValidatorId {
        ValidatorId(key(n).verifying_key().to_bytes())
    }
    fn set(ids: &[u8]) -> ValidatorSet {
        ValidatorSet::new(
            ids.iter()
                .map(|n| Validator {
                    id: id(*n),
                    power: 1,
                })
                .collect(),
        )
        .unwrap()
    }
    fn cert(signers: &[u8]) -> Certificate {
        let sign = |n: &u8| {
            (
                id(*n),
                Sig(key(*n)
                    .sign(&vote_bytes(&CHAIN, 9, 0, &BLOCK, &id(*n)))
                    .to_bytes()),
            )
        };
        let mut sigs: Vec<_> = signers.iter().map(sign).collect();
        sigs.sort_by_key(|s| s.0);
        Certificate::Ed25519V1 {
            height: 9,
            round: 0,
            block: BLOCK,
            sigs,
        }
    }

    #[test]
    fn more_than_two_thirds_are_needed() {
        assert_eq!(
            cert(&[1, 2, 3]).verify(&CHAIN, 9, &BLOCK, &set(&[1, 2, 3, 4])),
            Ok(())
        );
        assert_eq!(
            cert(&[1, 2]).verify(&CHAIN, 9, &BLOCK, &set(&[1, 2, 3])),
            Err(CertError::NoQuorum {
                signed: 2,
                total: 3
            })
        );
        assert_eq!(
            Certificate::solo(&CHAIN, 9, BLOCK, &key(1)).verify(&CHAIN, 9, &BLOCK, &set(&[1])),
            Ok(())
        );
        assert!(cert(&[]).verify(&CHAIN, 9, &BLOCK, &set(&[1])).is_err());
    }

    #[test]
    fn tm_p10_a_certificate_counts_for_its_block_height_and_chain_only() {
        let c = cert(&[1, 2, 3]);
        let s = set(&[1, 2, 3]);
        assert!(matches!(
            c.verify(&CHAIN, 10, &BLOCK, &s),
            Err(CertError::OtherBlock { .. })
        ));
        assert!(matches!(
            c.verify(&CHAIN, 9, &BlockId([3; 32]), &s),
            Err(CertError::OtherBlock { .. })
        ));
        assert!(matches!(
            c.verify(&ChainId([9; 32]), 9, &BLOCK, &s),
            Err(CertError::BadSignature(_))
        ));
        let Certificate::Ed25519V1 { sigs, .. } = c;
        let round = Certificate::Ed25519V1 {
            height: 9,
            round: 1,
            block: BLOCK,
            sigs,
        };
        assert!(matches!(
            round.verify(&CHAIN, 9, &BLOCK, &s),
            Err(CertError::BadSignature(_))
        ));
    }

    #[test]
    fn strangers_doubles_and_disorder_are_refused() {
        let s = set(&[1, 2, 3]);
        assert!(matches!(
            cert(&[1, 2, 3, 4]).verify(&CHAIN, 9, &BLOCK, &s),
            Err(CertError::Unknown(_))
        ));
        for change in [
            |v: &mut Vec<(ValidatorId, Sig)>| v.push(v[2]),
            |v: &mut Vec<_>| v.swap(0, 1),
        ] {
            let Certificate::Ed25519V1 {
                height,
                round,
                block,
                mut sigs,
            } = cert(&[1, 2, 3]);
            change(&mut sigs);
            let c = Certificate::Ed25519V1 {
                height,
                round,
                block,
                sigs,
            };
            assert_eq!(
                c.verify(&CHAIN, 9, &BLOCK, &s),
                Err(CertError::NotCanonical)
            );
        }
    }

    #[test]
    fn tm_v4_proposers_take_turns_in_proportion_to_their_power() {
        let equal = set(&[1, 2, 3, 4]);
        for height in 0..2_000 {
            let seen: std::collections::BTreeSet<_> =
                (height..height + 5).map(|h| equal.proposer(h, 0)).collect();
            assert_eq!(seen.len(), 4, "everybody within five turns of {height}");
        }
        assert_eq!(equal.proposer(7, 3), equal.proposer(10, 0));
        let powers = [1u64, 5, 10, 84];
        let of = |n: u8| Validator {
            id: id(n),
            power: powers[usize::from(n) - 1],
        };
        let weighted = ValidatorSet::new((1..=4).map(of).collect()).unwrap();
        for n in 1..=4u8 {
            let turns = (0..10_000).filter(|h| weighted.proposer(*h, 0) == id(n));
            let turns = turns.count() as u64;
            let share = powers[usize::from(n) - 1] * 100;
            assert!(turns.abs_diff(share) <= 5, "{turns} turns for {share}");
        }
        let huge = Validator {
            id: id(1),
            power: MAX_TOTAL_POWER,
        };
        let one = ValidatorSet::new(vec![huge]).unwrap();
        assert_eq!(one.proposer(u64::MAX, u32::MAX), id(1));
        // A change of the rule is a fork: pinned.
        let order: Vec<usize> = (1..=12)
            .map(|h| {
                let at = equal.proposer(h, 0);
                equal.validators().iter().position(|v| v.id == at).unwrap()
            })
            .collect();
        assert_eq!(order, [2, 0, 3, 1, 0, 2, 1, 3, 2, 0, 3, 1]);
    }

    #[test]
    fn impossible_sets_are_refused() {
        let v = |n, power| Validator { id: id(n), power };
        assert!(ValidatorSet::new(vec![]).is_err());
        assert!(ValidatorSet::new(vec![v(1, 0)]).is_err());
        assert!(ValidatorSet::new(vec![v(1, 1), v(1, 2)]).is_err());
        assert!(ValidatorSet::new(vec![v(1, u64::MAX), v(2, 2)]).is_err());
        assert!(
            ValidatorSet::new(vec![Validator {
                id: ValidatorId([0; 32]),
                power: 1
            }])
            .is_err()
        );
        assert_ne!(set(&[1, 2]).hash(), set(&[1]).hash());
    }

    /// The first vectors of "Taming the many EdDSAs" (Chalkias, Garillot, Nikolaenko, 2020): small-order and mixed-order
    /// keys and nonces, scalars at or above the group order, non-canonical points. A strict verifier refuses 0–2 and 6–11.
    #[test]
    fn tm_c3_published_edge_cases_are_refused() {
        let cases = [
            (
                "8c93255d71dcab10e8f379c26200f3c7bd5f09d9bc3068d3ef4edeb4853022b6",
                "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
                "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a0000000000000000000000000000000000000000000000000000000000000000",
            ),
            (
                "9bd9f44f4dcc75bd531b56b2cd280b0bb38fc1cd6d1230e14861d861de092e79",
                "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
                "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43a5bb704786be79fc476f91d3f3f89b03984d8068dcf1bb7dfc6637b45450ac04",
            ),
            (
                "85e241a07d148b41e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec40",
                "442aad9f089ad9e14647b1ef9099a1ff4798d78589e66f28eca69c11f582a623",
                "e96f66be976d82e60150baecff9906684aebb1ef181f67a7189ac78ea23b6c0e547f7690a0e2ddcd04d87dbc3490dc19b3b3052f7ff0538cb68afb369ba3a514",
            ),
            (
                "9bd9f44f4dcc75bd531b56b2cd280b0bb38fc1cd6d1230e14861d861de092e79",
                "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
                "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f0000000000000000000000000000000000000000000000000000000000000000",
            ),
        ];
        let bytes = |text: &str| hex::decode(text).unwrap();
        for (message, key, sig) in cases {
            let (message, key, sig) = (bytes(message), bytes(key), bytes(sig));
            assert!(!verify_strict(
                &key.try_into().unwrap(),
                &message,
                &sig.try_into().unwrap()
            ));
        }
    }

    #[test]
    fn tm_c3_malleated_scalars_and_identity_points_are_refused() {
        let message = b"pay one token";
        let good = key(5).sign(message).to_bytes();
        let public = key(5).verifying_key().to_bytes();
        assert!(verify_strict(&public, message, &good));
        // s + L: the same equation holds, the encoding is another one.
        let order: [u8; 32] =
            hex::decode("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")
                .unwrap()
                .try_into()
                .unwrap();
        let mut bad = good;
        let mut carry = 0u16;
        for i in 0..32 {
            carry += u16::from(good[32 + i]) + u16::from(order[i]);
            bad[32 + i] = carry as u8;
            carry >>= 8;
        }
        assert!(!verify_strict(&public, message, &bad));
        let mut identity = [0u8; 32];
        identity[0] = 1;
        let mut zero_sig = [0u8; 64];
        zero_sig[0] = 1;
        assert!(
            !verify_strict(&identity, message, &zero_sig),
            "the identity key signs everything"
        );
        for flip in [0, 31, 32, 63] {
            let mut bad = good;
            bad[flip] ^= 0x80;
            assert!(!verify_strict(&public, message, &bad));
        }
        assert!(!verify_strict(&[0xff; 32], message, &good));
    }
}
