//! Plain twins of the fast paths, written to be read beside the specification.
//!
//! Each function follows its clause of `spec/proofs.md` line by line, without blocking, tables, interleaving or threads.
//! Tests compare the product with these at every boundary; nothing else calls them.

use crate::commitment::CommP;
use crate::hash::sha256;
use crate::ids::{Node, PorepId, ReplicaId};
use crate::piece::size::PaddedPieceSize;
use crate::spec::ApiVersion;

/// Fr32 padding, bit by bit (proofs.md §1.1).
pub fn fr32_pad(data: &[u8]) -> Vec<u8> {
    let bits = data.len() * 8;
    let mut out = vec![0u8; bits.div_ceil(254) * 32];
    for bit in 0..bits {
        let at = bit / 254 * 256 + bit % 254;
        out[at / 8] |= (data[bit / 8] >> (bit % 8) & 1) << (at % 8);
    }
    out
}

/// CommP: zero-extend, pad, hash row by row (proofs.md §1.2).
pub fn commp(data: &[u8]) -> (CommP, PaddedPieceSize) {
    let blocks = data.len().div_ceil(127).max(1).next_power_of_two();
    let mut extended = data.to_vec();
    extended.resize(blocks * 127, 0);
    let row = nodes_of(&fr32_pad(&extended));
    let bytes = u64::try_from(row.len() * 32).expect("data in memory");
    (
        CommP(root(row)),
        PaddedPieceSize::new(bytes).expect("128 times a power of two"),
    )
}

/// Root of a SHA-256/254 tree (proofs.md §1.2).
pub fn root(mut row: Vec<Node>) -> Node {
    while row.len() > 1 {
        row = row
            .chunks(2)
            .map(|pair| sha256::node(&pair[0], &pair[1]))
            .collect();
    }
    row[0]
}

/// Cuts padded bytes into nodes.
pub fn nodes_of(padded: &[u8]) -> Vec<Node> {
    padded.as_chunks::<32>().0.to_vec()
}

/// Feistel permutation with cycle walking, one value at a time (proofs.md §2.5).
pub fn feistel(elements: u64, keys: [u64; 4], value: u64) -> u64 {
    use blake2::{Blake2b512, Digest};
    let mut half = 1;
    while 4u64.pow(half) < elements {
        half += 1;
    }
    let mask = (1u64 << half) - 1;
    let mut x = value;
    loop {
        let (mut left, mut right) = (x >> half, x & mask);
        for key in &keys[..3] {
            let digest = Blake2b512::new()
                .chain_update(right.to_be_bytes())
                .chain_update(key.to_be_bytes())
                .finalize();
            let f = u64::from_be_bytes(digest[..8].try_into().expect("eight bytes")) & mask;
            (left, right) = (right, left ^ f);
        }
        x = left << half | right;
        if x < elements {
            return x;
        }
    }
}

/// All parents of one node, base parents first (proofs.md §§2.3–2.5).
pub fn parents(nodes: u64, porep_id: &PorepId, api: ApiVersion, node: u64) -> Vec<u64> {
    let mut parents = base_parents(porep_id, api, node);
    let seed = sha256::digest(&[b"Filecoin_Feistel", &porep_id.0]);
    let keys = [0, 8, 16, 24]
        .map(|at| u64::from_le_bytes(seed[at..at + 8].try_into().expect("eight bytes")));
    for i in 0..8 {
        let image = feistel(8 * nodes, keys, 8 * node + i);
        parents.push(if api == ApiVersion::V1_0 {
            image % (1 << 32) / 8
        } else {
            image / 8
        });
    }
    parents
}

fn base_parents(porep_id: &PorepId, api: ApiVersion, node: u64) -> Vec<u64> {
    use rand_chacha::rand_core::{RngCore, SeedableRng};
    if node < 2 {
        return vec![0; 6];
    }
    let seed = sha256::digest(&[b"Filecoin_DRSample", &porep_id.0]);
    let mut key = [0u8; 32];
    key[..28].copy_from_slice(&seed[..28]);
    key[28..].copy_from_slice(
        &u32::try_from(node)
            .expect("at most 2^31 nodes")
            .to_le_bytes(),
    );
    let mut rng = rand_chacha::ChaCha8Rng::from_seed(key);
    let m = 5 * node;
    // The source computes it in floating point; the fast path uses the bit length.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    let buckets = (m as f64).log2().ceil() as u64;
    let mut sampled = Vec::new();
    for _ in 0..5 {
        let b = rng.next_u64() % buckets + 1;
        let hi = m.min(1 << b);
        let lo = std::cmp::max(2, hi >> 1);
        let distance = lo + rng.next_u64() % (hi - lo + 1);
        let p = (m - distance) / 5;
        sampled.push(if p == node { node - 1 } else { p });
    }
    match api {
        ApiVersion::V1_0 => sampled.push(node - 1),
        ApiVersion::V1_1 | ApiVersion::V1_2 => sampled.insert(0, node - 1),
    }
    sampled
}

/// All labels of one layer (proofs.md §2.6).
pub fn labels(
    layer: u32,
    nodes: u64,
    porep_id: &PorepId,
    api: ApiVersion,
    replica_id: &ReplicaId,
    previous: Option<&[Node]>,
) -> Vec<Node> {
    let mut out: Vec<Node> = Vec::new();
    let at = |index: u64| usize::try_from(index).expect("a layer in memory");
    for node in 0..nodes {
        let mut message = replica_id.0.to_vec();
        message.extend_from_slice(&layer.to_be_bytes());
        message.extend_from_slice(&node.to_be_bytes());
        message.extend_from_slice(&[0; 20]);
        if node > 0 {
            let parents = parents(nodes, porep_id, api, node);
            let mut values: Vec<Node> = parents[..6].iter().map(|&p| out[at(p)]).collect();
            if let Some(previous) = previous {
                values.extend(parents[6..].iter().map(|&p| previous[at(p)]));
            }
            for slot in 0..37 {
                message.extend_from_slice(&values[slot % values.len()]);
            }
        }
        out.push(sha256::t254(sha256::digest(&[&message])));
    }
    out
}
