//! PoRep challenges: which nodes of a sealed sector must be opened.
//!
//! Walk: after CommR is on chain and the seed is drawn, before `proof` and `circuit`; the verifier derives the same.
//! Spec: proofs.md §4.2 (interactive), §6.3 (non-interactive), §6.4 (synthetic). Node 0 is never challenged; the same node
//! may be challenged twice.
//!
//! Every input of a derivation, as threat P8 demands them written down:
//!
//! | kind | hashed, in order | fixed before |
//! |---|---|---|
//! | interactive | replica id, seed, `LE32(index)` | the seed is drawn after CommR is on chain |
//! | non-interactive | domain text, replica id, CommR, `LE32(index)` | CommR is an input |
//! | synthetic, candidates | key text, replica id, CommR | CommR is an input |
//! | synthetic, choice | key text, replica id, seed | the seed is drawn after CommR is on chain |
//!
//! The replica id itself binds prover, sector number, ticket, CommD and porep id.
#![deny(clippy::as_conversions)]

use crate::commitment::CommR;
use crate::hash::sha256;
use crate::ids::{ReplicaId, Seed};
use crate::spec::{SYNTHETIC_CANDIDATES, SectorSize};
use blake2::Blake2bMac;
use blake2::digest::{FixedOutput, KeyInit, Update, consts::U32};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

const NON_INTERACTIVE_DOMAIN: &[u8] = b"filecoin.io|PoRep|1|NonInteractive|1";
const SYNTHETIC_GENERATION: &[u8] = b"filecoin.io|PoRep|1|Synthetic|1|Generation";
const SYNTHETIC_SELECTION: &[u8] = b"filecoin.io|PoRep|1|Synthetic|1|Selection";
const SYNTHETIC_NONCE: [u8; 12] = *b"synth-porep\0";

/// Challenges of one partition of an interactive PoRep.
pub fn interactive(
    size: SectorSize,
    replica_id: &ReplicaId,
    seed: &Seed,
    partition: usize,
) -> Vec<u64> {
    indices(size, partition)
        .map(|index| interactive_at(size.nodes(), replica_id, seed, index))
        .collect()
}

/// One interactive challenge by its index over all partitions.
///
/// # Panics
/// When the sector has fewer than two nodes, which no size has.
pub fn interactive_at(nodes: u64, replica_id: &ReplicaId, seed: &Seed, index: u32) -> u64 {
    reduce(
        &sha256::digest(&[&replica_id.0, &seed.0, &index.to_le_bytes()]),
        nodes,
    )
}

/// Challenges of one partition of a non-interactive PoRep.
pub fn non_interactive(
    size: SectorSize,
    replica_id: &ReplicaId,
    comm_r: &CommR,
    partition: usize,
) -> Vec<u64> {
    indices(size, partition)
        .map(|index| non_interactive_at(size.nodes(), replica_id, comm_r, index))
        .collect()
}

/// One non-interactive challenge by its index over all partitions.
pub fn non_interactive_at(nodes: u64, replica_id: &ReplicaId, comm_r: &CommR, index: u32) -> u64 {
    reduce(
        &sha256::digest(&[
            NON_INTERACTIVE_DOMAIN,
            &replica_id.0,
            &comm_r.0,
            &index.to_le_bytes(),
        ]),
        nodes,
    )
}

/// The candidate set of a synthetic PoRep: fixed by CommR, answered from stored proofs.
#[derive(Clone, Debug)]
pub struct SyntheticChallenges {
    candidates: Vec<u64>,
    replica_id: ReplicaId,
}

impl SyntheticChallenges {
    /// The candidates of a sector: `min(N, 2^18)` of them.
    pub fn new(size: SectorSize, replica_id: &ReplicaId, comm_r: &CommR) -> Self {
        let count = usize::try_from(size.nodes()).map_or(SYNTHETIC_CANDIDATES, |nodes| {
            nodes.min(SYNTHETIC_CANDIDATES)
        });
        Self::with_count(size.nodes(), replica_id, comm_r, count)
    }

    /// Any node count and candidate count, for vectors.
    pub fn with_count(nodes: u64, replica_id: &ReplicaId, comm_r: &CommR, count: usize) -> Self {
        let mut stream = keystream(SYNTHETIC_GENERATION, &replica_id.0, &comm_r.0);
        let candidates = (0..count)
            .map(|_| {
                let mut bytes = [0; 32];
                stream.fill_bytes(&mut bytes);
                reduce(&bytes, nodes)
            })
            .collect();
        Self {
            candidates,
            replica_id: *replica_id,
        }
    }

    /// All candidates in order.
    pub fn candidates(&self) -> &[u64] {
        &self.candidates
    }

    /// The challenges that a seed chooses: the first `count` over all partitions.
    pub fn chosen(&self, seed: &Seed, count: usize) -> Vec<u64> {
        let mut stream = keystream(SYNTHETIC_SELECTION, &self.replica_id.0, &seed.0);
        let total = u64::try_from(self.candidates.len()).expect("at most 2^18");
        (0..count)
            .map(|_| {
                let at = u64::from(stream.next_u32()) % total;
                self.candidates[usize::try_from(at).expect("below the number of candidates")]
            })
            .collect()
    }

    /// Challenges of one partition.
    pub fn partition(&self, size: SectorSize, seed: &Seed, partition: usize) -> Vec<u64> {
        let per = size.challenges_per_partition();
        self.chosen(seed, per * (partition + 1))
            .split_off(per * partition)
    }
}

fn indices(size: SectorSize, partition: usize) -> std::ops::Range<u32> {
    let per = size.challenges_per_partition();
    let index = |partition: usize| u32::try_from(partition * per).expect("partitions are few");
    index(partition)..index(partition + 1)
}

/// `int_le(digest) mod (N - 1) + 1`.
fn reduce(digest: &[u8; 32], nodes: u64) -> u64 {
    let modulus = u128::from(nodes - 1);
    let mut rest = 0u128;
    for word in digest.as_chunks::<8>().0.iter().rev() {
        rest = (rest << 64 | u128::from(u64::from_le_bytes(*word))) % modulus;
    }
    u64::try_from(rest).expect("a remainder is below its modulus") + 1
}

/// ChaCha20 in the IETF layout, keyed by keyed BLAKE2b-256.
///
/// `rand_chacha` has the original layout, a 64-bit counter and a 64-bit stream. The IETF nonce's first word is that
/// counter's upper half and the rest is the stream; the counter's lower half never overflows (at most 2^17 blocks).
fn keystream(key: &[u8], first: &[u8; 32], second: &[u8; 32]) -> ChaCha20Rng {
    let mut mac = <Blake2bMac<U32> as KeyInit>::new_from_slice(key)
        .expect("both keys are shorter than 64 bytes");
    mac.update(first);
    mac.update(second);
    let mut rng = ChaCha20Rng::from_seed(mac.finalize_fixed().into());
    let [n0, n1, n2] = [0, 4, 8].map(|at| {
        u32::from_le_bytes([
            SYNTHETIC_NONCE[at],
            SYNTHETIC_NONCE[at + 1],
            SYNTHETIC_NONCE[at + 2],
            SYNTHETIC_NONCE[at + 3],
        ])
    });
    rng.set_stream(u64::from(n2) << 32 | u64::from(n1));
    // Positions count words of 4 bytes, 16 of them in a block.
    rng.set_word_pos(u128::from(n0) << (32 + 4));
    rng
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const N: u64 = 1 << 30;

    /// proofs.md §9.4.
    #[test]
    fn published_challenges() {
        let (replica, comm_r, seed) = (ReplicaId([1; 32]), CommR([2; 32]), Seed([4; 32]));
        let size = SectorSize::Gib32;
        assert_eq!(
            interactive(size, &replica, &seed, 1)[..4],
            [349631953, 245812255, 736486847, 151672215]
        );
        assert_eq!(
            non_interactive(size, &replica, &comm_r, 125)[14..],
            [381440337, 76350849, 532941865, 960088612]
        );
        let synthetic = SyntheticChallenges::new(size, &replica, &comm_r).partition(size, &seed, 9);
        assert_eq!(
            synthetic[14..],
            [304485910, 401731669, 510143446, 653334434]
        );
    }

    /// proofs.md §9.4, storage-proofs-porep's own test.
    #[test]
    fn published_small_synthetic_set() {
        let fr = |x: u8| {
            let mut bytes = [0; 32];
            bytes[0] = x;
            bytes
        };
        let set = SyntheticChallenges::with_count(1 << 10, &ReplicaId(fr(55)), &CommR(fr(101)), 21);
        assert_eq!(
            set.candidates(),
            [
                178, 297, 869, 211, 875, 477, 94, 781, 124, 332, 856, 801, 176, 692, 429, 691, 290,
                204, 986, 210, 973
            ]
        );
        assert_eq!(
            set.chosen(&Seed([1; 32]), 10),
            [176, 781, 801, 986, 290, 211, 692, 856, 986, 332]
        );
    }

    proptest! {
        #[test]
        fn node_zero_is_never_challenged(replica: [u8; 32], seed: [u8; 32], index: u32, nodes in 2u64..=1 << 31) {
            let challenge = interactive_at(nodes, &ReplicaId(replica), &Seed(seed), index);
            prop_assert!((1..nodes).contains(&challenge));
        }

        /// Flipping any single bit of any input moves every challenge. A collision by chance has probability 2^-30 per
        /// challenge, so equality of one challenge is a failure of the derivation.
        #[test]
        fn tm_p8_every_input_bit_moves_every_challenge(a: [u8; 32], b: [u8; 32], index in 0u32..2268, bit in 0usize..256) {
            let mut flipped = [a, b];
            let one = |pair: [[u8; 32]; 2]| {
                let (replica, comm_r, seed) = (ReplicaId(pair[0]), CommR(pair[1]), Seed(pair[1]));
                let set = SyntheticChallenges::with_count(N, &replica, &comm_r, 18);
                let mut all = vec![
                    interactive_at(N, &replica, &seed, index),
                    non_interactive_at(N, &replica, &comm_r, index),
                ];
                all.extend_from_slice(set.candidates());
                all
            };
            let before = one([a, b]);
            for input in 0..2 {
                flipped[input][bit / 8] ^= 1 << (bit % 8);
                for (x, y) in before.iter().zip(one(flipped)) {
                    prop_assert_ne!(*x, y);
                }
                flipped[input][bit / 8] ^= 1 << (bit % 8);
            }
            // The choice among synthetic candidates hangs on seed and replica id alike.
            let set = SyntheticChallenges::with_count(N, &ReplicaId(a), &CommR(b), 1 << 12);
            let mut other = b;
            other[bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(set.chosen(&Seed(b), 8), set.chosen(&Seed(other), 8));
        }
    }
}
