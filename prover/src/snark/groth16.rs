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
//! Every decoder here takes exactly its length, checks curve and subgroup, refuses the identity,
//! and re-encodes: one encoding per value. The subgroup check is arkworks' own; multiplying by `r`
//! with a GLV-accelerated product reports points outside the group as inside (threat P12).

use ark_bls12_381::{Bls12_381, Fr, G1Affine, G2Affine};
use ark_ec::{AffineRepr, pairing::Pairing};
use ark_groth16::{Groth16, PreparedVerifyingKey, Proof, VerifyingKey};
use ark_serialize::{CanonicalSerialize, Compress, Validate};

use super::CircuitId;
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

/// A verifying key that passed every check of threat S2, with its pairing precomputations.
#[derive(Clone, Debug)]
pub struct CheckedKey {
    bytes: Vec<u8>,
    prepared: PreparedVerifyingKey<Bls12_381>,
    beta_g1: G1Affine,
    delta_g1: G1Affine,
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
        let alpha_g1: G1Affine = reader.point("alpha_g1", G1_BYTES)?;
        let beta_g1: G1Affine = reader.point("beta_g1", G1_BYTES)?;
        let beta_g2: G2Affine = reader.point("beta_g2", G2_BYTES)?;
        let gamma_g2: G2Affine = reader.point("gamma_g2", G2_BYTES)?;
        let delta_g1: G1Affine = reader.point("delta_g1", G1_BYTES)?;
        let delta_g2: G2Affine = reader.point("delta_g2", G2_BYTES)?;
        let count = u32::from_be_bytes(reader.take(4).try_into().expect("four bytes were taken"));
        if usize::try_from(count).ok() != Some(ic) {
            return Err(format!("{count} ic points, the circuit has {ic} inputs"));
        }
        let gamma_abc_g1 = (0..ic)
            .map(|_| reader.point("ic", G1_BYTES))
            .collect::<Result<_, _>>()?;
        let vk = VerifyingKey {
            alpha_g1,
            beta_g2,
            gamma_g2,
            delta_g2,
            gamma_abc_g1,
        };
        check_relations(&vk, beta_g1, delta_g1)?;
        let prepared = ark_groth16::prepare_verifying_key(&vk);
        Ok(CheckedKey {
            bytes: bytes.to_vec(),
            prepared,
            beta_g1,
            delta_g1,
        })
    }

    /// The key as it was read.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The key for ark-groth16.
    pub fn key(&self) -> &VerifyingKey<Bls12_381> {
        &self.prepared.vk
    }

    /// The key with its precomputed pairings.
    pub fn prepared(&self) -> &PreparedVerifyingKey<Bls12_381> {
        &self.prepared
    }

    /// `beta` in G1, which only a prover needs.
    pub fn beta_g1(&self) -> G1Affine {
        self.beta_g1
    }

    /// `delta` in G1, which only a prover needs.
    pub fn delta_g1(&self) -> G1Affine {
        self.delta_g1
    }

    /// Whether the proof holds for these public inputs (the constant one left out).
    ///
    /// `None` when the number of inputs is not the key's: ark-groth16 pairs up what it finds and
    /// would accept short and long lists (threat P13).
    pub fn accepts(&self, inputs: &[Fr], proof: &Proof<Bls12_381>) -> Option<bool> {
        if inputs.len() + 1 != self.key().gamma_abc_g1.len() {
            return None;
        }
        Groth16::<Bls12_381>::verify_proof(&self.prepared, proof, inputs).ok()
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
    if Bls12_381::pairing(beta_g1, vk.delta_g2) != Bls12_381::pairing(delta_g1, vk.beta_g2) {
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
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(len);
        self.0 = tail;
        head
    }

    fn point<P: AffineRepr>(&mut self, name: &'static str, len: usize) -> Result<P, String> {
        decode_point(self.take(len), Compress::No)
            .ok_or_else(|| format!("{name} is not a canonical non-identity group element"))
    }
}

/// Exactly one encoding per point, and none for the identity.
fn decode_point<P: AffineRepr>(bytes: &[u8], compress: Compress) -> Option<P> {
    let point = P::deserialize_with_mode(bytes, compress, Validate::Yes).ok()?;
    if point.is_zero() {
        return None;
    }
    let mut again = Vec::with_capacity(bytes.len());
    point.serialize_with_mode(&mut again, compress).ok()?;
    (again == bytes).then_some(point)
}

/// The proofs of `partitions` partitions: exact length, canonical points (threat P12).
pub fn decode_canonical(
    bytes: &[u8],
    partitions: usize,
) -> Result<Vec<Proof<Bls12_381>>, ProofBytesError> {
    let expected = GROTH16_PROOF_BYTES * partitions;
    if bytes.len() != expected {
        return Err(ProofBytesError::Length {
            got: bytes.len(),
            expected,
        });
    }
    bytes
        .chunks_exact(GROTH16_PROOF_BYTES)
        .map(decode_one)
        .collect()
}

fn decode_one(bytes: &[u8]) -> Result<Proof<Bls12_381>, ProofBytesError> {
    let (a, rest) = bytes.split_at(48);
    let (b, c) = rest.split_at(96);
    Ok(Proof {
        a: decode_point(a, Compress::Yes).ok_or(ProofBytesError::Point("A"))?,
        b: decode_point(b, Compress::Yes).ok_or(ProofBytesError::Point("B"))?,
        c: decode_point(c, Compress::Yes).ok_or(ProofBytesError::Point("C"))?,
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
