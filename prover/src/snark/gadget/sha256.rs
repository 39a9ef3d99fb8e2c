//! SHA-256 as Filecoin's circuits spell it.
//!
//! Spec: `vectors/r1cs/README.md` §6. Plain twin: `crate::hash::sha256`. Cost: 26,192 rows for a
//! generic compression, 25,840 for the first block (its state is constant), 19,034 for a block of
//! padding alone. Used by TreeD paths and labels.

use super::bits::{Bit, ch, hash_bits, maj, pack_bits, reverse_bytes};
use super::uint32::{MultiEq, Word, constant, rotr, shr, xor3};
use crate::snark::cs::{ConstraintSystem, Num};

const ROUND_CONSTANTS: [u32; 64] = [
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
];
const INITIAL_STATE: [u32; 8] = [
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
];
const BLOCK_BITS: usize = 512;

/// Hashes bits in stream order (most significant bit of each byte first); result in the same order.
pub fn sha256<CS: ConstraintSystem>(cs: &mut CS, message: &[Bit]) -> Vec<Bit> {
    let mut state = INITIAL_STATE.map(constant);
    for block in padded(message).chunks_exact(BLOCK_BITS) {
        state = compress(cs, block, &state);
    }
    state
        .iter()
        .flat_map(|word| word.iter().rev().copied())
        .collect()
}

fn padded(message: &[Bit]) -> Vec<Bit> {
    let length = message.len() as u64;
    let mut bits = message.to_vec();
    bits.push(Bit::Const(true));
    let before_length = (bits.len() + 64).next_multiple_of(BLOCK_BITS) - 64;
    bits.resize(before_length, Bit::Const(false));
    bits.extend((0..64).rev().map(|i| Bit::Const(length >> i & 1 == 1)));
    bits
}

fn compress<CS: ConstraintSystem>(cs: &mut CS, block: &[Bit], state: &[Word; 8]) -> [Word; 8] {
    let mut sums = MultiEq::default();
    let schedule = schedule(cs, &mut sums, block);
    let output = rounds(cs, &mut sums, &schedule, state);
    sums.flush(cs);
    output
}

fn schedule<CS: ConstraintSystem>(cs: &mut CS, sums: &mut MultiEq, block: &[Bit]) -> Vec<Word> {
    let mut w: Vec<Word> = block
        .chunks_exact(32)
        .map(|bits| std::array::from_fn(|i| bits[31 - i]))
        .collect();
    for i in 16..64 {
        let (a, b) = (w[i - 15], w[i - 2]);
        let s0 = xor3(cs, &rotr(&a, 7), &rotr(&a, 18), &shr(&a, 3));
        let s1 = xor3(cs, &rotr(&b, 17), &rotr(&b, 19), &shr(&b, 10));
        w.push(sums.add_many(cs, &[w[i - 16], s0, w[i - 7], s1]));
    }
    w
}

/// The 64 rounds. A new `a` or `e` stays a list of summands until the next round reads its bits;
/// the last ones go into the output sums without bits of their own.
fn rounds<CS: ConstraintSystem>(
    cs: &mut CS,
    sums: &mut MultiEq,
    schedule: &[Word],
    state: &[Word; 8],
) -> [Word; 8] {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    let (mut next_a, mut next_e): (Vec<Word>, Vec<Word>) = (Vec::new(), Vec::new());
    for (w, k) in schedule.iter().zip(ROUND_CONSTANTS) {
        if !next_e.is_empty() {
            e = sums.add_many(cs, &next_e);
        }
        let s1 = xor3(cs, &rotr(&e, 6), &rotr(&e, 11), &rotr(&e, 25));
        let choice: Word = std::array::from_fn(|i| ch(cs, e[i], f[i], g[i]));
        let t1 = [h, s1, choice, constant(k), *w];
        if !next_a.is_empty() {
            a = sums.add_many(cs, &next_a);
        }
        let s0 = xor3(cs, &rotr(&a, 2), &rotr(&a, 13), &rotr(&a, 22));
        let majority: Word = std::array::from_fn(|i| maj(cs, a[i], b[i], c[i]));
        next_e = [&t1[..], &[d]].concat();
        next_a = [&t1[..], &[s0, majority]].concat();
        (h, g, f, d, c, b) = (g, f, e, c, b, a);
    }
    next_a.push(state[0]);
    next_e.push(state[4]);
    let out_a = sums.add_many(cs, &next_a);
    let out_bcd = [(1, b), (2, c), (3, d)].map(|(i, word)| sums.add_many(cs, &[state[i], word]));
    let out_e = sums.add_many(cs, &next_e);
    let out_fgh = [(5, f), (6, g), (7, h)].map(|(i, word)| sums.add_many(cs, &[state[i], word]));
    [
        out_a, out_bcd[0], out_bcd[1], out_bcd[2], out_e, out_fgh[0], out_fgh[1], out_fgh[2],
    ]
}

/// `t254` of a digest as a number: the first 254 bits after byte reversal.
pub fn digest_to_num<CS: ConstraintSystem>(cs: &mut CS, digest: &[Bit]) -> Num {
    pack_bits(cs, &reverse_bytes(digest))
}

/// A TreeD node: `t254(SHA-256(left ‖ right))`. 45,379 rows.
pub fn tree_d_node<CS: ConstraintSystem>(cs: &mut CS, left: Num, right: Num) -> Num {
    // Loose (P15): a child may be spelled as itself plus r. CommD is computed by the chain from the pieces' commitments,
    // and each node below it was hashed from canonical children (Fr32 keeps 254 bits, a digest loses its top two): a
    // node that has an aliased child as well is a second preimage of SHA-256.
    let mut message = hash_bits(cs, left);
    message.extend(hash_bits(cs, right));
    let digest = sha256(cs, &message);
    digest_to_num(cs, &digest)
}

/// A label: `t254(SHA-256(replica id ‖ BE32 layer ‖ BE64 node ‖ 0^20 ‖ 37 parents))`, the parents
/// given (6 or 14 of them, 256 bits each) repeating cyclically. `node` is least significant first.
pub fn create_label<CS: ConstraintSystem>(
    cs: &mut CS,
    replica_id: &[Bit],
    layer: u32,
    node: &[Bit],
    parents: &[Vec<Bit>],
) -> Num {
    let mut message = replica_id.to_vec();
    message.extend(constant(layer).iter().rev());
    message.extend(node.iter().rev());
    message.resize(BLOCK_BITS, Bit::Const(false));
    for parent in parents.iter().cycle().take(crate::spec::LABEL_PARENTS) {
        message.extend_from_slice(parent);
    }
    let digest = sha256(cs, &message);
    digest_to_num(cs, &digest)
}
