//! `rand(tag, epoch, entropy)` of `chain.md` §4: what the beacon says to tickets, seeds, window PoSts and offsets.
//!
//! `SHA-256(tag u64be ‖ beacon(epoch) ‖ epoch u64be ‖ entropy)` with the two top bits of the last byte cleared, so that
//! every value is a canonical scalar as sealing and PoSt need it. Entropy is the provider id as u64be. An epoch whose
//! beacon is not on chain has no randomness: never another epoch's (`beacon.md` §3).

use prover::{PostRandomness, Seed, Ticket};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::account::ProviderId;
use crate::error::{ChainError, Rule, StoreError, Subject};
use crate::state::{KvRead, Network, key, read};
use crate::units::Epoch;

/// What randomness is drawn for; its number is hashed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u64)]
pub enum Tag {
    /// Bound into a replica.
    Ticket = 1,
    /// Chooses a PoRep's challenges.
    SealSeed = 2,
    /// Chooses a window PoSt's leaves.
    WindowPost = 3,
    /// Places a provider's proving period.
    DeadlineOffset = 4,
}

/// The value for one tag, epoch and entropy, given the epoch's beacon.
pub fn rand(tag: Tag, beacon: &[u8; 32], epoch: Epoch, entropy: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update((tag as u64).to_be_bytes());
    hasher.update(beacon);
    hasher.update(epoch.0.to_be_bytes());
    hasher.update(entropy);
    let mut out: [u8; 32] = hasher.finalize().into();
    out[31] &= 0x3f;
    out
}

/// `value mod n` as the rules read it: the first 16 bytes as a big-endian number (`DESIGN.md` §5). Zero for `n = 0`.
pub fn modulo(value: &[u8; 32], n: u64) -> u64 {
    let (head, _) = value
        .split_first_chunk::<16>()
        .expect("32 bytes begin with 16");
    let rest = u128::from_be_bytes(*head)
        .checked_rem(u128::from(n))
        .unwrap_or(0);
    u64::try_from(rest).expect("a remainder of a 64-bit number fits 64 bits")
}

/// The value for a provider, from the beacons in the state; `None` when the epoch's is not (yet, or any more) there.
pub fn of_provider(
    state: &dyn KvRead,
    tag: Tag,
    epoch: Epoch,
    provider: ProviderId,
) -> Result<Option<[u8; 32]>, StoreError> {
    let beacon: Option<[u8; 32]> = read(state, &key::beacon(epoch))?;
    Ok(beacon.map(|beacon| rand(tag, &beacon, epoch, &provider.0.to_be_bytes())))
}

/// As [`of_provider`], inside a rule that needs it.
pub(crate) fn need(
    state: &dyn KvRead,
    net: &Network,
    tag: Tag,
    epoch: Epoch,
    provider: ProviderId,
) -> Rule<[u8; 32]> {
    match of_provider(state, tag, epoch, provider)? {
        Some(value) => Ok(value),
        None if epoch > net.beacon_tip || epoch.0 == 0 => {
            let what = Subject::Randomness;
            Err(ChainError::TooEarly {
                what,
                earliest: epoch,
                now: net.beacon_tip,
            }
            .into())
        }
        None => Err(ChainError::NotFound {
            what: Subject::Randomness,
        }
        .into()),
    }
}

/// The ticket of a provider's replica.
pub fn ticket(value: [u8; 32]) -> Ticket {
    Ticket(value)
}

/// The seed of a PoRep.
pub fn seed(value: [u8; 32]) -> Seed {
    Seed(value)
}

/// The randomness of a window PoSt.
pub fn post(value: [u8; 32]) -> PostRandomness {
    // Already masked; masking again changes nothing and needs no error path.
    PostRandomness::masked(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `beacon.md` §3: quicknet round 1000 as beacon(100), provider 1000, tag 2.
    #[test]
    fn matches_the_published_vector() {
        let beacon =
            hex::decode("fe290beca10872ef2fb164d2aa4442de4566183ec51c56ff3cd603d930e54fdd")
                .expect("hex");
        let beacon: [u8; 32] = beacon.try_into().expect("32 bytes");
        let value = rand(Tag::SealSeed, &beacon, Epoch(100), &1000u64.to_be_bytes());
        assert_eq!(
            hex::encode(value),
            "ee3e9249f22f5b69708a0892baee37904ec7672ccd8312e3778151f7c1ba7d2d"
        );
    }

    #[test]
    fn tm_p8_every_input_changes_the_value() {
        let base = rand(Tag::Ticket, &[1; 32], Epoch(5), &7u64.to_be_bytes());
        assert_ne!(
            base,
            rand(Tag::SealSeed, &[1; 32], Epoch(5), &7u64.to_be_bytes())
        );
        assert_ne!(
            base,
            rand(Tag::Ticket, &[2; 32], Epoch(5), &7u64.to_be_bytes())
        );
        assert_ne!(
            base,
            rand(Tag::Ticket, &[1; 32], Epoch(6), &7u64.to_be_bytes())
        );
        assert_ne!(
            base,
            rand(Tag::Ticket, &[1; 32], Epoch(5), &8u64.to_be_bytes())
        );
    }

    #[test]
    fn modulo_reads_sixteen_big_endian_bytes() {
        let mut value = [0xff; 32];
        value[..16].copy_from_slice(&1_000_007u128.to_be_bytes());
        assert_eq!(modulo(&value, 1_000), 7);
        assert_eq!(modulo(&value, 0), 0);
        assert_eq!(
            modulo(&[0xff; 32], u64::MAX),
            (u128::MAX % u128::from(u64::MAX)) as u64
        );
    }
}
