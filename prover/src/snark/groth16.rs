//! Groth16 keys and proofs as bytes; checked decoding; [`prove`] (feature `prove`).
//!
//! Walk: a proof is made here from a circuit and a key of `snark::keys`, and accepted by
//! [`crate::verify`]. Spec: proofs.md §4.5 (encodings), threats P11–P14 and S2.
//!
//! Bytes. A proof is `A ‖ B ‖ C` compressed, 48 + 96 + 48. A verifying key is Filecoin's `.vk`,
//! everything uncompressed, G1 96 and G2 192 bytes:
//! ```text
//! alpha_g1 beta_g1 beta_g2 gamma_g2 delta_g1 delta_g2 | BE32 n | ic_0 … ic_{n−1}
//! ```
//! Every decoder here takes exactly its length and one encoding per value, checks curve and subgroup, and refuses the
//! identity (threat P12; `super::pairing` says how).
//!
//! Types are ark-groth16's, which is also the plain twin of [`CheckedKey::accepts`] in tests; the arithmetic is
//! `super::pairing`'s. Cost: 1.1 ms from a PoRep proof's bytes to its verdict on a busy core of a Zen 5: 0.2 decoding, 0.1
//! inputs, 0.45 Miller loops, 0.35 final exponentiation.

use ark_bls12_381::{Bls12_381, Fr, G1Affine, G2Affine};
use ark_ec::AffineRepr;
use ark_groth16::{Proof, VerifyingKey};
use ark_serialize::CanonicalSerialize;
use rayon::prelude::*;

use super::CircuitId;
use super::input_sum::InputSum;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Ifma, LEAST, field::LANES};
use super::pairing::{
    G1, G1Sum, G2, Gt, Lines, Miller, decode_g1, decode_g1_uncompressed, decode_g2,
    decode_g2_uncompressed,
};
use crate::spec::GROTH16_PROOF_BYTES;

/// An uncompressed point of G1.
pub const G1_BYTES: usize = 96;
/// An uncompressed point of G2.
pub const G2_BYTES: usize = 192;
/// A verifying key without its ic points.
const VK_HEAD_BYTES: usize = 3 * G1_BYTES + 3 * G2_BYTES + 4;

/// Why key bytes are refused. The caller knows where they came from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "verifying key of {circuit} refused: {why}; obtain the key again from where it was published"
)]
pub struct VkError {
    /// The circuit the key was offered for.
    pub circuit: CircuitId,
    /// What is wrong with it.
    pub why: String,
}

/// Why proof bytes are refused before any pairing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofBytesError {
    /// Not the one length that a proof of this kind has.
    #[error("{got} bytes, a proof of this kind has {expected}")]
    Length {
        /// What was offered.
        got: usize,
        /// What is right.
        expected: usize,
    },
    /// A point off the curve, outside the group, the identity, or in a second encoding.
    #[error("point {0} is not a canonical encoding of a non-identity group element")]
    Point(&'static str),
}

/// A verifying key that passed every check of threat S2, with what verification precomputes: 60 KiB, and the tables of
/// `super::input_sum` once they pay.
#[derive(Debug)]
pub struct CheckedKey {
    bytes: Vec<u8>,
    vk: VerifyingKey<Bls12_381>,
    beta_g1: G1Affine,
    delta_g1: G1Affine,
    inputs: InputSum,
    /// `e(α, β)`.
    alpha_beta: Gt,
    minus_beta: Lines,
    minus_gamma: Lines,
    minus_delta: Lines,
}

impl CheckedKey {
    /// Reads Filecoin's `.vk` layout for a circuit.
    pub fn read(circuit: CircuitId, bytes: &[u8]) -> Result<CheckedKey, VkError> {
        Self::parse(bytes, circuit.public_inputs() + 1).map_err(|why| VkError { circuit, why })
    }

    /// Reads a key with `ic` points for the inputs, the constant one among them.
    pub(crate) fn parse(bytes: &[u8], ic: usize) -> Result<CheckedKey, String> {
        let expected = vk_bytes_len(ic);
        if bytes.len() != expected {
            return Err(format!(
                "{} bytes, expected {expected} for {ic} ic points",
                bytes.len()
            ));
        }
        let mut reader = Reader(bytes);
        let alpha_g1 = reader.g1("alpha_g1")?;
        let beta_g1 = reader.g1("beta_g1")?;
        let beta_g2 = reader.g2("beta_g2")?;
        let gamma_g2 = reader.g2("gamma_g2")?;
        let delta_g1 = reader.g1("delta_g1")?;
        let delta_g2 = reader.g2("delta_g2")?;
        let count = u32::from_be_bytes(*reader.take());
        if usize::try_from(count).ok() != Some(ic) {
            return Err(format!("{count} ic points, the circuit has {ic} inputs"));
        }
        // Up to 26,000 of them, 30 µs each.
        let points = reader.0.as_chunks::<G1_BYTES>().0;
        let points = points
            .par_iter()
            .with_min_len(64)
            .map(decode_g1_uncompressed);
        let gamma_abc_g1 = points
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| refused("ic"))?;
        let vk = VerifyingKey {
            alpha_g1,
            beta_g2,
            gamma_g2,
            delta_g2,
            gamma_abc_g1,
        };
        check_relations(&vk, beta_g1, delta_g1)?;
        let beta = Lines::new(&beta_g2);
        Ok(CheckedKey {
            bytes: bytes.to_vec(),
            beta_g1,
            delta_g1,
            inputs: InputSum::new(&vk.gamma_abc_g1),
            alpha_beta: Miller::of_lines(&[(G1::from(&alpha_g1), &beta)]).finish(),
            minus_beta: Lines::new(&-beta_g2),
            minus_gamma: Lines::new(&-gamma_g2),
            minus_delta: Lines::new(&-delta_g2),
            vk,
        })
    }

    /// The key as it was read.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The key for ark-groth16.
    pub fn key(&self) -> &VerifyingKey<Bls12_381> {
        &self.vk
    }

    /// Public inputs of a proof, the constant one not counted.
    pub fn inputs(&self) -> usize {
        self.inputs.inputs()
    }

    /// `beta` in G1, which only a prover needs.
    pub fn beta_g1(&self) -> G1Affine {
        self.beta_g1
    }

    /// `delta` in G1, which only a prover needs.
    pub fn delta_g1(&self) -> G1Affine {
        self.delta_g1
    }

    /// Whether the proof holds for these public inputs (the constant one left out):
    /// `e(A, B)·e(IC, −γ)·e(C, −δ) = e(α, β)`.
    ///
    /// `None` when the number of inputs is not the key's: ark-groth16 pairs up what it finds and
    /// would accept short and long lists (threat P13).
    pub fn accepts(&self, inputs: &[Fr], proof: &Proof<Bls12_381>) -> Option<bool> {
        let (left, right) = rayon::join(
            || Miller::of_lines(&[(G1::from(&proof.a), &Lines::new(&proof.b))]),
            || {
                let ic = self.inputs.of(None, inputs)?.point();
                let c = G1::from(&proof.c);
                let pairs = [(ic, &self.minus_gamma), (c, &self.minus_delta)];
                Some(Miller::of_lines(&pairs))
            },
        );
        Some(left.times(&right?).finish() == self.alpha_beta)
    }

    /// The bases of its public inputs.
    pub(super) fn input_sum(&self) -> &InputSum {
        &self.inputs
    }

    /// `e(weight·α, −β)·e(ic, −γ)·e(c, −δ)`, for many proofs at once.
    pub(super) fn minus_right_side(&self, weight: &Fr, ic: &G1Sum, c: &G1Sum) -> Miller {
        let alpha = G1::from(&self.vk.alpha_g1).times(weight);
        Miller::of_lines(&[
            (alpha.point(), &self.minus_beta),
            (ic.point(), &self.minus_gamma),
            (c.point(), &self.minus_delta),
        ])
    }
}

/// Length of a `.vk` with that many ic points.
pub const fn vk_bytes_len(ic: usize) -> usize {
    VK_HEAD_BYTES + ic * G1_BYTES
}

/// Relations that a key of an honest ceremony has and the known forgeries lack (threat S2).
fn check_relations(
    vk: &VerifyingKey<Bls12_381>,
    beta_g1: G1Affine,
    delta_g1: G1Affine,
) -> Result<(), String> {
    let (g1, g2) = (G1Affine::generator(), G2Affine::generator());
    if vk.delta_g2 == vk.gamma_g2 {
        return Err("delta equals gamma: anybody could forge proofs under it".into());
    }
    for (name, is_generator) in [
        ("delta", delta_g1 == g1 || vk.delta_g2 == g2),
        ("alpha", vk.alpha_g1 == g1),
        ("beta", beta_g1 == g1 || vk.beta_g2 == g2),
    ] {
        if is_generator {
            return Err(format!(
                "{name} is the generator: the ceremony's contribution is missing"
            ));
        }
    }
    // Beta and delta must be the same secrets in both groups, whatever the generators are.
    let pairs = [
        (G1::from(&beta_g1), G2::from(&vk.delta_g2)),
        (-G1::from(&delta_g1), G2::from(&vk.beta_g2)),
    ];
    if !Miller::of_points(&pairs).finish().is_one() {
        return Err("its G1 and G2 halves disagree".into());
    }
    Ok(())
}

/// Encodes Filecoin's `.vk` layout.
pub fn write_vk(vk: &VerifyingKey<Bls12_381>, beta_g1: G1Affine, delta_g1: G1Affine) -> Vec<u8> {
    let mut out = Vec::with_capacity(vk_bytes_len(vk.gamma_abc_g1.len()));
    put(&mut out, &vk.alpha_g1);
    put(&mut out, &beta_g1);
    put(&mut out, &vk.beta_g2);
    put(&mut out, &vk.gamma_g2);
    put(&mut out, &delta_g1);
    put(&mut out, &vk.delta_g2);
    let count = u32::try_from(vk.gamma_abc_g1.len()).expect("a circuit's inputs fit 31 bits");
    out.extend(count.to_be_bytes());
    vk.gamma_abc_g1
        .iter()
        .for_each(|point| put(&mut out, point));
    out
}

fn put(out: &mut Vec<u8>, point: &impl CanonicalSerialize) {
    point
        .serialize_uncompressed(out)
        .expect("writing to memory cannot fail");
}

/// Reads points one after another from bytes whose length was checked before.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> &'a [u8; N] {
        let (head, tail) = self
            .0
            .split_first_chunk()
            .expect("the length of all was checked");
        self.0 = tail;
        head
    }

    fn g1(&mut self, name: &'static str) -> Result<G1Affine, String> {
        decode_g1_uncompressed(self.take()).ok_or_else(|| refused(name))
    }

    fn g2(&mut self, name: &'static str) -> Result<G2Affine, String> {
        decode_g2_uncompressed(self.take()).ok_or_else(|| refused(name))
    }
}

fn refused(name: &str) -> String {
    format!("{name} is not a canonical non-identity group element")
}

/// The proofs of `partitions` partitions: exact length, canonical points (threat P12).
pub fn decode_canonical(
    bytes: &[u8],
    partitions: usize,
) -> Result<Vec<Proof<Bls12_381>>, ProofBytesError> {
    let proofs: Vec<_> = in_partitions(bytes, partitions)?.iter().collect();
    // In order, so that of several bad points the first is named.
    decode_all(&proofs).into_iter().collect()
}

/// The bytes of each partition's proof; the length must be exact.
pub fn in_partitions(
    bytes: &[u8],
    partitions: usize,
) -> Result<&[[u8; GROTH16_PROOF_BYTES]], ProofBytesError> {
    let expected = GROTH16_PROOF_BYTES * partitions;
    if bytes.len() != expected {
        return Err(ProofBytesError::Length {
            got: bytes.len(),
            expected,
        });
    }
    Ok(bytes.as_chunks().0)
}

/// Each proof of canonical points (threat P12); many are cheaper together, eight at a time.
pub fn decode_all(
    proofs: &[&[u8; GROTH16_PROOF_BYTES]],
) -> Vec<Result<Proof<Bls12_381>, ProofBytesError>> {
    #[cfg(target_arch = "x86_64")]
    if let Some(ifma) = Ifma::detect() {
        let groups = proofs.par_chunks(LANES);
        return groups
            .flat_map_iter(|some| decode_in_lanes(ifma, some))
            .collect();
    }
    proofs.par_iter().map(|bytes| decode_one(bytes)).collect()
}

/// What lanes do not accept is decided, and named, by the twin.
#[cfg(target_arch = "x86_64")]
fn decode_in_lanes(
    ifma: Ifma,
    proofs: &[&[u8; GROTH16_PROOF_BYTES]],
) -> Vec<Result<Proof<Bls12_381>, ProofBytesError>> {
    let decoded = match proofs.len() {
        LEAST.. => ifma.decode(proofs),
        few => vec![None; few],
    };
    std::iter::zip(decoded, proofs)
        .map(|(proof, bytes)| proof.map_or_else(|| decode_one(bytes), Ok))
        .collect()
}

pub(super) fn decode_one(
    bytes: &[u8; GROTH16_PROOF_BYTES],
) -> Result<Proof<Bls12_381>, ProofBytesError> {
    let (a, rest) = bytes.split_first_chunk().expect("48 of 192 bytes");
    let (b, rest) = rest.split_first_chunk().expect("96 of 144 bytes");
    let c = rest.first_chunk().expect("the last 48 bytes");
    // The two points of G1 cost what the one of G2 does.
    let ((a, c), b) = rayon::join(|| (decode_g1(a), decode_g1(c)), || decode_g2(b));
    Ok(Proof {
        a: a.ok_or(ProofBytesError::Point("A"))?,
        b: b.ok_or(ProofBytesError::Point("B"))?,
        c: c.ok_or(ProofBytesError::Point("C"))?,
    })
}

/// One proof's 192 bytes.
pub fn encode(proof: &Proof<Bls12_381>) -> [u8; GROTH16_PROOF_BYTES] {
    let mut out = [0; GROTH16_PROOF_BYTES];
    proof
        .serialize_compressed(&mut out[..])
        .expect("a compressed proof is 192 bytes");
    out
}
