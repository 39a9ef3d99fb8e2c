//! The front door of verification: calm on any bytes.
//!
//! A statement says in the chain's words what was proved; this module recomputes every public input
//! from it (replica id, challenges, parents) and checks the Groth16 proofs under a key that passed
//! its own checks. There is no other way to verify: nothing here takes public inputs from a peer,
//! a key without checks, or a proof in a second encoding.
//!
//! Walk: last step of the prover's part; the chain (`chain_lite::sector`), providers (each verifies
//! its own proofs before sending, threat P18) and auditors call it. Builds without feature `prove`.
//! Spec: proofs.md §§4.2, 4.4, 4.5, 5; threats P10–P14, S1–S3, V7.
//! Cost: 1.5–3 ms a proof; a batch about 1 ms a proof. Memory: a few KiB, plus 26,000 field elements
//! for a WindowPoSt of 32 GiB sectors. No input makes it panic, and none makes it allocate more than
//! its statement's size says.
//!
//! What the bytes of a proof are **not**: an identity. Anybody can re-randomise a proof (threat P11),
//! so accept, count and reward by statement.

use std::collections::BTreeMap;
use std::sync::Arc;

use ark_bls12_381::{Bls12_381, Fr, G1Projective};
use ark_ec::{CurveGroup, pairing::Pairing};
use ark_ff::Zero;
use ark_groth16::Proof;
use rand::RngCore;
use sha2::{Digest, Sha256};

pub use crate::snark::groth16::{ProofBytesError, VkError as KeyError};
pub use crate::snark::{CircuitId, CircuitKind};

use crate::commitment::{CommD, CommR};
use crate::ids::{PostRandomness, ProverId, SectorNumber, Seed, Ticket};
use crate::snark::groth16::{CheckedKey, decode_canonical};
use crate::spec::{RegisteredSeal, SectorSize};

/// "This sector holds this data, sealed by this provider under this ticket", challenged by `seed`.
#[derive(Clone, Debug, PartialEq, Eq, borsh::BorshSerialize, borsh::BorshDeserialize)]
pub struct PorepStatement {
    /// Proof type: variant and sector size.
    pub seal: RegisteredSeal,
    /// Who sealed.
    pub prover: ProverId,
    /// Number of the sector within the provider.
    pub sector: SectorNumber,
    /// Chain randomness bound into the replica.
    pub ticket: Ticket,
    /// Chain randomness that chose the challenges.
    pub seed: Seed,
    /// The data.
    pub comm_d: CommD,
    /// The replica.
    pub comm_r: CommR,
}

/// "These replicas are still held": one WindowPoSt partition.
#[derive(Clone, Debug, PartialEq, Eq, borsh::BorshSerialize, borsh::BorshDeserialize)]
pub struct WindowPostStatement {
    /// Size of all its sectors.
    pub size: SectorSize,
    /// Whose sectors. Not a public input: a sector's CommR is already this provider's own, and the
    /// chain draws `randomness` with the provider as entropy.
    pub prover: ProverId,
    /// Chain randomness that chose the leaves.
    pub randomness: PostRandomness,
    /// Sectors in strictly ascending order, at least one, at most [`SectorSize::window_sectors`].
    pub sectors: Vec<(SectorNumber, CommR)>,
}

/// "This replica is held right now": a WinningPoSt.
#[derive(Clone, Debug, PartialEq, Eq, borsh::BorshSerialize, borsh::BorshDeserialize)]
pub struct WinningPostStatement {
    /// Size of the sector.
    pub size: SectorSize,
    /// Whose sector.
    pub prover: ProverId,
    /// Chain randomness that chose the leaves.
    pub randomness: PostRandomness,
    /// The chosen sector.
    pub sector: (SectorNumber, CommR),
}

/// Any of the three statements, for batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// A PoRep.
    Porep(PorepStatement),
    /// A WindowPoSt partition.
    Window(WindowPostStatement),
    /// A WinningPoSt.
    Winning(WinningPostStatement),
}

/// Why a proof was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The verifier was started without this circuit's key.
    #[error(
        "no verifying key for {0}: add it to the genesis or the key set this verifier was given"
    )]
    NoKey(CircuitId),
    /// The statement cannot be true of any sector.
    #[error("the statement is malformed: {0}")]
    Statement(String),
    /// The proof's bytes are not a proof.
    #[error("the proof's bytes are malformed: {0}")]
    Bytes(#[from] ProofBytesError),
    /// Well-formed, and wrong: the statement is false, or the proof belongs to another one.
    #[error("the proof does not hold for this statement")]
    Rejected,
    /// Statement and key disagree about the number of inputs. A fault of this build, not of a peer.
    #[error(
        "{circuit} has {expected} public inputs, {got} were derived: this build is inconsistent"
    )]
    InputCount {
        /// The circuit.
        circuit: CircuitId,
        /// By the key.
        expected: usize,
        /// By the statement.
        got: usize,
    },
}

/// The verifying keys that a verifier trusts, checked and prepared once (threats S1–S3).
#[derive(Clone, Debug, Default)]
pub struct VerifyingKeys {
    keys: BTreeMap<CircuitId, Arc<CheckedKey>>,
}

impl VerifyingKeys {
    /// Checks and prepares keys in Filecoin's `.vk` layout; a repeated circuit is an error.
    pub fn from_vk_bytes<'a>(
        keys: impl IntoIterator<Item = (CircuitId, &'a [u8])>,
    ) -> Result<Self, KeyError> {
        let mut checked = BTreeMap::new();
        for (circuit, bytes) in keys {
            if checked
                .insert(circuit, Arc::new(CheckedKey::read(circuit, bytes)?))
                .is_some()
            {
                return Err(KeyError {
                    circuit,
                    why: "given twice".into(),
                });
            }
        }
        Ok(Self { keys: checked })
    }

    /// SHA-256 over every circuit and its key bytes, in the circuits' order. What a genesis or a
    /// release pins.
    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = Sha256::new_with_prefix(b"holdfast/verifying-keys/v1");
        for (circuit, key) in &self.keys {
            let name = circuit.to_string();
            hasher.update((name.len() as u64).to_le_bytes());
            hasher.update(name);
            hasher.update((key.bytes().len() as u64).to_le_bytes());
            hasher.update(key.bytes());
        }
        hasher.finalize().into()
    }

    /// The circuits whose keys are here.
    pub fn circuits(&self) -> impl Iterator<Item = CircuitId> + '_ {
        self.keys.keys().copied()
    }

    /// A key as it was given.
    pub fn vk_bytes(&self, circuit: CircuitId) -> Option<&[u8]> {
        self.keys.get(&circuit).map(|key| key.bytes())
    }

    fn key(&self, circuit: CircuitId) -> Result<&CheckedKey, VerifyError> {
        self.keys
            .get(&circuit)
            .map(Arc::as_ref)
            .ok_or(VerifyError::NoKey(circuit))
    }
}

/// Verifies a proof of replication: all its partitions.
pub fn porep(
    keys: &VerifyingKeys,
    statement: &PorepStatement,
    proof: &[u8],
) -> Result<(), VerifyError> {
    check(
        keys,
        CircuitId::porep(statement.seal.size),
        &porep_inputs(statement)?,
        proof,
    )
}

/// Verifies a WindowPoSt partition.
pub fn window_post(
    keys: &VerifyingKeys,
    statement: &WindowPostStatement,
    proof: &[u8],
) -> Result<(), VerifyError> {
    check(
        keys,
        CircuitId::window(statement.size),
        &[window_inputs(statement)?],
        proof,
    )
}

/// Verifies a WinningPoSt.
pub fn winning_post(
    keys: &VerifyingKeys,
    statement: &WinningPostStatement,
    proof: &[u8],
) -> Result<(), VerifyError> {
    check(
        keys,
        CircuitId::winning(statement.size),
        &[winning_inputs(statement)?],
        proof,
    )
}

/// Verifies many proofs at once: one verdict each, the same that single verification gives.
///
/// A batch that fails as a whole is checked singly, so a bad proof among good ones costs its sender
/// nothing more than a single check would (threat V7).
pub fn batch(keys: &VerifyingKeys, items: &[(Statement, &[u8])]) -> Vec<Result<(), VerifyError>> {
    let prepared: Vec<Result<Prepared<'_>, VerifyError>> = items
        .iter()
        .map(|(statement, proof)| Prepared::new(keys, statement, proof))
        .collect();
    let all: Vec<&Prepared<'_>> = prepared.iter().flatten().collect();
    if combined_check(&all) {
        return prepared.into_iter().map(|item| item.map(|_| ())).collect();
    }
    prepared
        .into_iter()
        .map(|item| item.and_then(|item| item.check()))
        .collect()
}

/// Checks proofs against public inputs that the caller derived, the constant one left out.
///
/// For golden vectors and for experiments; a chain or auditor has statements and uses those.
pub fn check(
    keys: &VerifyingKeys,
    circuit: CircuitId,
    inputs: &[Vec<Fr>],
    proof: &[u8],
) -> Result<(), VerifyError> {
    Prepared::from_inputs(keys, circuit, inputs.to_vec(), proof)?.check()
}

/// A decoded proof with the inputs and the key it must satisfy.
struct Prepared<'a> {
    key: &'a CheckedKey,
    partitions: Vec<(Vec<Fr>, Proof<Bls12_381>)>,
}

impl<'a> Prepared<'a> {
    fn new(
        keys: &'a VerifyingKeys,
        statement: &Statement,
        proof: &[u8],
    ) -> Result<Self, VerifyError> {
        let (circuit, inputs) = match statement {
            Statement::Porep(s) => (CircuitId::porep(s.seal.size), porep_inputs(s)?),
            Statement::Window(s) => (CircuitId::window(s.size), vec![window_inputs(s)?]),
            Statement::Winning(s) => (CircuitId::winning(s.size), vec![winning_inputs(s)?]),
        };
        Self::from_inputs(keys, circuit, inputs, proof)
    }

    fn from_inputs(
        keys: &'a VerifyingKeys,
        circuit: CircuitId,
        inputs: Vec<Vec<Fr>>,
        proof: &[u8],
    ) -> Result<Self, VerifyError> {
        let key = keys.key(circuit)?;
        let expected = key.key().gamma_abc_g1.len() - 1;
        if let Some(wrong) = inputs.iter().find(|inputs| inputs.len() != expected) {
            return Err(VerifyError::InputCount {
                circuit,
                expected,
                got: wrong.len(),
            });
        }
        let proofs = decode_canonical(proof, inputs.len())?;
        Ok(Self {
            key,
            partitions: inputs.into_iter().zip(proofs).collect(),
        })
    }

    fn check(&self) -> Result<(), VerifyError> {
        let holds = |(inputs, proof): &(Vec<Fr>, _)| self.key.accepts(inputs, proof) == Some(true);
        // An empty list of partitions proves nothing.
        if !self.partitions.is_empty() && self.partitions.iter().all(holds) {
            Ok(())
        } else {
            Err(VerifyError::Rejected)
        }
    }
}

/// `Π e(A_i, B_i)^{w_i} = Π_keys e(α, β)^{Σ w_i} · e(Σ w_i·IC_i, γ) · e(Σ w_i·C_i, δ)`, with weights of 128
/// bits from the operating system: the sender of the proofs cannot know them (threat V7).
fn combined_check(items: &[&Prepared<'_>]) -> bool {
    let (mut g1, mut g2) = (Vec::new(), Vec::new());
    let mut by_key: BTreeMap<*const CheckedKey, KeySums<'_>> = BTreeMap::new();
    for item in items {
        let sums = by_key
            .entry(std::ptr::from_ref(item.key))
            .or_insert_with(|| KeySums::new(item.key));
        for (inputs, proof) in &item.partitions {
            let weight = random_weight();
            g1.push((proof.a * weight).into_affine());
            g2.push(proof.b);
            sums.add(weight, inputs, proof);
        }
    }
    for sums in by_key.values() {
        let key = sums.key.key();
        let terms = [
            (key.alpha_g1 * sums.inputs_weight, key.beta_g2),
            (sums.ic(), key.gamma_g2),
            (sums.c, key.delta_g2),
        ];
        for (left, right) in terms {
            g1.push((-left).into_affine());
            g2.push(right);
        }
    }
    Bls12_381::multi_pairing(g1, g2).is_zero()
}

/// Weighted sums of the proofs under one key.
struct KeySums<'a> {
    key: &'a CheckedKey,
    inputs_weight: Fr,
    inputs: Vec<Fr>,
    c: G1Projective,
}

impl<'a> KeySums<'a> {
    fn new(key: &'a CheckedKey) -> Self {
        let inputs = vec![Fr::zero(); key.key().gamma_abc_g1.len() - 1];
        KeySums {
            key,
            inputs_weight: Fr::zero(),
            inputs,
            c: G1Projective::zero(),
        }
    }

    fn add(&mut self, weight: Fr, inputs: &[Fr], proof: &Proof<Bls12_381>) {
        self.inputs_weight += weight;
        self.inputs
            .iter_mut()
            .zip(inputs)
            .for_each(|(sum, x)| *sum += weight * x);
        self.c += proof.c * weight;
    }

    fn ic(&self) -> G1Projective {
        let ic = &self.key.key().gamma_abc_g1;
        ic[1..]
            .iter()
            .zip(&self.inputs)
            .fold(ic[0] * self.inputs_weight, |sum, (point, x)| {
                sum + *point * x
            })
    }
}

/// 128 random bits, never zero.
fn random_weight() -> Fr {
    let mut bytes = [0u8; 16];
    loop {
        rand::rngs::OsRng.fill_bytes(&mut bytes);
        let weight = u128::from_le_bytes(bytes);
        if weight != 0 {
            return Fr::from(weight);
        }
    }
}

/// 32 little-endian bytes as a field element; a commitment that is none cannot be true.
fn element(what: &str, bytes: &[u8; 32]) -> Result<Fr, VerifyError> {
    crate::hash::poseidon::fr_from_node(bytes)
        .ok_or_else(|| VerifyError::Statement(format!("{what} is not below the field order")))
}

/// Public inputs of every partition.
fn porep_inputs(_: &PorepStatement) -> Result<Vec<Vec<Fr>>, VerifyError> {
    Err(VerifyError::Statement(
        "public inputs are not derived yet in this build".into(),
    ))
}

/// Public inputs of a WindowPoSt.
fn window_inputs(_: &WindowPostStatement) -> Result<Vec<Fr>, VerifyError> {
    Err(VerifyError::Statement(
        "public inputs are not derived yet in this build".into(),
    ))
}

/// Public inputs of a WinningPoSt.
fn winning_inputs(_: &WinningPostStatement) -> Result<Vec<Fr>, VerifyError> {
    Err(VerifyError::Statement(
        "public inputs are not derived yet in this build".into(),
    ))
}
