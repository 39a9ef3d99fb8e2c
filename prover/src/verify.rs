//! The front door of verification: calm on any bytes.
//!
//! A statement says in the chain's words what was proved; this module recomputes every public input
//! from it (replica id, challenges, parents) and checks the Groth16 proofs under a key that passed
//! its own checks. There is no other way to verify: nothing here takes public inputs from a peer,
//! a key without checks, or a proof in a second encoding.
//!
//! Walk: last step of the prover's part; the chain (`chain_lite::sector`), providers (each verifies
//! its own proofs before sending, threat P18) and auditors call it. Builds without feature `prove`.
//! Spec: proofs.md §§4.2, 4.4, 4.5, 5, 6.1; threats P10–P14, S1–S3, V7.
//! Cost: 1.1 ms a proof on a busy core of a Zen 5; in batches of 64 a sixth of that with AVX-512 IFMA and under half
//! without, spread over the caller's rayon pool. Memory: a few KiB, at most 4 MiB of tables per key that is used often, plus 26,000 field elements for a
//! WindowPoSt of 32 GiB sectors. No input makes it panic, and none makes it allocate more than its statement's size says.
//!
//! What the bytes of a proof are **not**: an identity. Anybody can re-randomise a proof (threat P11),
//! so accept, count and reward by statement.

use std::collections::BTreeMap;
use std::sync::Arc;

use ark_bls12_381::{Bls12_381, Fr};
use ark_groth16::Proof;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

pub use crate::snark::groth16::{ProofBytesError, VkError as KeyError};
pub use crate::snark::{CircuitId, CircuitKind};

use crate::commitment::{CommD, CommR};
use crate::hash::poseidon::fr_from_node;
use crate::ids::{PostRandomness, ProverId, ReplicaId, SectorNumber, Seed, Ticket};
use crate::porep::challenge as porep_challenge;
use crate::porep::graph::Graph;
use crate::porep::replica_id;
use crate::post::challenge as post_challenge;
use crate::snark::batch::{Claim, all_hold};
use crate::snark::groth16::{CheckedKey, decode_all, in_partitions};
use crate::spec::{GROTH16_PROOF_BYTES, RegisteredSeal, SealVersion, SectorSize};
use crate::update::selector;

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

/// "The replica under the new CommR holds this data, and was made of the one under the old CommR": a sector update.
///
/// It does not say that the old replica held nothing. Who accepts an update knows that from the old sector's CommD, the
/// zero sector's, on his own books: only then is the new replica as costly to compute anew as a sealed one.
#[derive(Clone, Debug, PartialEq, Eq, borsh::BorshSerialize, borsh::BorshDeserialize)]
pub struct UpdateStatement {
    /// Size of the sector.
    pub size: SectorSize,
    /// The replica before.
    pub comm_r_old: CommR,
    /// The new data.
    pub comm_d_new: CommD,
    /// The replica from now on.
    pub comm_r_new: CommR,
}

/// Any of the four statements, for batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// A PoRep.
    Porep(PorepStatement),
    /// A WindowPoSt partition.
    Window(WindowPostStatement),
    /// A WinningPoSt.
    Winning(WinningPostStatement),
    /// A sector update.
    Update(UpdateStatement),
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

/// Verifies a sector update: all its partitions.
pub fn update(
    keys: &VerifyingKeys,
    statement: &UpdateStatement,
    proof: &[u8],
) -> Result<(), VerifyError> {
    check(
        keys,
        CircuitId::update(statement.size),
        &update_inputs(statement)?,
        proof,
    )
}

/// Verifies many proofs at once: one verdict each, the same that single verification gives.
///
/// A batch that fails as a whole is checked singly, so a bad proof among good ones costs its sender
/// nothing more than a single check would (threat V7). Runs on the caller's rayon pool.
pub fn batch(keys: &VerifyingKeys, items: &[(Statement, &[u8])]) -> Vec<Result<(), VerifyError>> {
    let undecoded: Vec<Result<Undecoded<'_>, VerifyError>> = items
        .par_iter()
        .map(|(statement, proof)| Undecoded::new(keys, statement, proof))
        .collect();
    let proofs: Vec<_> = undecoded
        .iter()
        .flatten()
        .flat_map(|item| item.proofs)
        .collect();
    let mut decoded = decode_all(&proofs).into_iter();
    let prepared: Vec<Result<Prepared<'_>, VerifyError>> = undecoded
        .into_iter()
        .map(|item| {
            let item = item?;
            // All of the item's, so that the next one's follow.
            let proofs: Vec<_> = decoded.by_ref().take(item.proofs.len()).collect();
            item.with(proofs)
        })
        .collect();
    let claims: Vec<Claim<'_>> = prepared
        .iter()
        .flatten()
        .flat_map(Prepared::claims)
        .collect();
    if all_hold(&claims) {
        return prepared.into_iter().map(|item| item.map(|_| ())).collect();
    }
    prepared
        .into_par_iter()
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
    Undecoded::from_inputs(keys, circuit, inputs.to_vec(), proof)?
        .decode()?
        .check()
}

/// A proof's bytes with the inputs and the key it must satisfy.
struct Undecoded<'a> {
    key: &'a CheckedKey,
    inputs: Vec<Vec<Fr>>,
    /// Of each partition.
    proofs: &'a [[u8; GROTH16_PROOF_BYTES]],
}

impl<'a> Undecoded<'a> {
    fn new(
        keys: &'a VerifyingKeys,
        statement: &Statement,
        proof: &'a [u8],
    ) -> Result<Self, VerifyError> {
        let (circuit, inputs) = match statement {
            Statement::Porep(s) => (CircuitId::porep(s.seal.size), porep_inputs(s)?),
            Statement::Window(s) => (CircuitId::window(s.size), vec![window_inputs(s)?]),
            Statement::Winning(s) => (CircuitId::winning(s.size), vec![winning_inputs(s)?]),
            Statement::Update(s) => (CircuitId::update(s.size), update_inputs(s)?),
        };
        Self::from_inputs(keys, circuit, inputs, proof)
    }

    fn from_inputs(
        keys: &'a VerifyingKeys,
        circuit: CircuitId,
        inputs: Vec<Vec<Fr>>,
        proof: &'a [u8],
    ) -> Result<Self, VerifyError> {
        let key = keys.key(circuit)?;
        let expected = key.inputs();
        if let Some(wrong) = inputs.iter().find(|inputs| inputs.len() != expected) {
            return Err(VerifyError::InputCount {
                circuit,
                expected,
                got: wrong.len(),
            });
        }
        let proofs = in_partitions(proof, inputs.len())?;
        Ok(Self {
            key,
            inputs,
            proofs,
        })
    }

    /// Of several bad proofs the first is named.
    fn with(
        self,
        proofs: Vec<Result<Proof<Bls12_381>, ProofBytesError>>,
    ) -> Result<Prepared<'a>, VerifyError> {
        let proofs: Vec<_> = proofs.into_iter().collect::<Result<_, _>>()?;
        Ok(Prepared {
            key: self.key,
            partitions: self.inputs.into_iter().zip(proofs).collect(),
        })
    }

    fn decode(self) -> Result<Prepared<'a>, VerifyError> {
        let proofs: Vec<_> = self.proofs.iter().collect();
        self.with(decode_all(&proofs))
    }
}

/// A decoded proof with the inputs and the key it must satisfy.
struct Prepared<'a> {
    key: &'a CheckedKey,
    partitions: Vec<(Vec<Fr>, Proof<Bls12_381>)>,
}

impl Prepared<'_> {
    fn claims(&self) -> impl Iterator<Item = Claim<'_>> {
        self.partitions.iter().map(|(inputs, proof)| Claim {
            key: self.key,
            inputs,
            proof,
        })
    }

    fn check(&self) -> Result<(), VerifyError> {
        let holds = match self.partitions.as_slice() {
            // An empty list of partitions proves nothing.
            [] => false,
            [(inputs, proof)] => self.key.accepts(inputs, proof) == Some(true),
            _ => all_hold(&self.claims().collect::<Vec<_>>()),
        };
        if holds {
            Ok(())
        } else {
            Err(VerifyError::Rejected)
        }
    }
}

/// Public inputs of every partition of a PoRep.
fn porep_inputs(statement: &PorepStatement) -> Result<Vec<Vec<Fr>>, VerifyError> {
    let PorepStatement {
        seal,
        prover,
        sector,
        ticket,
        seed,
        comm_d,
        comm_r,
    } = statement;
    if seal.version != SealVersion::V1_1 {
        return Err(VerifyError::Statement(format!(
            "{seal} is not accepted here, only V1_1 types are"
        )));
    }
    let porep_id = seal.porep_id();
    let replica_id = replica_id(prover, *sector, ticket, comm_d, &porep_id);
    let graph = Graph::new(seal.size, &porep_id, seal.version.api_version());
    let partitions: Vec<_> = (0..seal.size.partitions())
        .into_par_iter()
        .map(|partition| {
            let challenges = porep_challenge::interactive(seal.size, &replica_id, seed, partition);
            porep_partition_inputs(&graph, &replica_id, comm_d, comm_r, &challenges)
        })
        .collect();
    partitions.into_iter().collect()
}

/// Public inputs of one PoRep partition (proofs.md §4.4): commitments, then per challenge the node's
/// TreeD index, its parents, and the node three times more.
pub fn porep_partition_inputs(
    graph: &Graph,
    replica_id: &ReplicaId,
    comm_d: &CommD,
    comm_r: &CommR,
    challenges: &[u64],
) -> Result<Vec<Fr>, VerifyError> {
    let mut inputs = vec![
        element("the replica id", &replica_id.0)?,
        commitment("CommD", &comm_d.0)?,
        commitment("CommR", &comm_r.0)?,
    ];
    if let Some(node) = challenges.iter().find(|node| **node >= graph.nodes()) {
        return Err(VerifyError::Statement(format!(
            "challenge {node} is outside the sector"
        )));
    }
    for (node, parents) in challenges.iter().zip(graph.parents_of(challenges)) {
        inputs.push(Fr::from(*node));
        inputs.extend(parents.map(Fr::from));
        inputs.extend([Fr::from(*node); 3]);
    }
    Ok(inputs)
}

/// Public inputs of a WindowPoSt partition. A short partition repeats its last sector, as Filecoin
/// fills it.
fn window_inputs(statement: &WindowPostStatement) -> Result<Vec<Fr>, VerifyError> {
    let WindowPostStatement {
        size,
        prover: _,
        randomness,
        sectors,
    } = statement;
    let (count, most) = (sectors.len(), size.window_sectors());
    if count == 0 || count > most {
        return Err(VerifyError::Statement(format!(
            "{count} sectors, a partition of {size} sectors has 1 to {most}"
        )));
    }
    if !sectors.is_sorted_by(|a, b| a.0 < b.0) {
        return Err(VerifyError::Statement(
            "sectors must be in ascending order, each once".into(),
        ));
    }
    let openings = (0..most).map(|position| {
        let (number, comm_r) = sectors[position.min(count - 1)];
        (comm_r, post_challenge::window(*size, randomness, number))
    });
    post_inputs(openings)
}

/// Public inputs of a WinningPoSt: the one sector listed with each of its 66 leaves.
fn winning_inputs(statement: &WinningPostStatement) -> Result<Vec<Fr>, VerifyError> {
    let WinningPostStatement {
        size,
        prover: _,
        randomness,
        sector: (number, comm_r),
    } = statement;
    let leaves = post_challenge::winning(*size, randomness, *number);
    post_inputs(leaves.into_iter().map(|leaf| (*comm_r, [leaf])))
}

/// Public inputs of any PoSt (proofs.md §§5.2, 5.3): per listed sector its CommR, then its leaves.
pub fn post_inputs<L: AsRef<[u64]>>(
    sectors: impl IntoIterator<Item = (CommR, L)>,
) -> Result<Vec<Fr>, VerifyError> {
    let mut inputs = Vec::new();
    for (comm_r, leaves) in sectors {
        inputs.push(commitment("CommR", &comm_r.0)?);
        inputs.extend(leaves.as_ref().iter().map(|leaf| Fr::from(*leaf)));
    }
    Ok(inputs)
}

/// Public inputs of every partition of a sector update (proofs.md §6.1): the circuit draws the challenges itself.
pub(crate) fn update_inputs(statement: &UpdateStatement) -> Result<Vec<Vec<Fr>>, VerifyError> {
    let commitments = [
        commitment("the old CommR", &statement.comm_r_old.0)?,
        commitment("the new CommD", &statement.comm_d_new.0)?,
        commitment("the new CommR", &statement.comm_r_new.0)?,
    ];
    Ok((0..statement.size.update_shape().partitions)
        .map(|partition| {
            let first = selector(statement.size, partition);
            std::iter::once(first).chain(commitments).collect()
        })
        .collect())
}

/// 32 little-endian bytes as a field element; a value that is none cannot be a commitment.
fn element(what: &str, bytes: &[u8; 32]) -> Result<Fr, VerifyError> {
    fr_from_node(bytes)
        .ok_or_else(|| VerifyError::Statement(format!("{what} is not below the field order")))
}

/// A commitment; Filecoin's verifier refuses the all-zero value, which marks "none" in its state.
fn commitment(what: &str, bytes: &[u8; 32]) -> Result<Fr, VerifyError> {
    if *bytes == [0; 32] {
        return Err(VerifyError::Statement(format!("{what} is zero")));
    }
    element(what, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snark::batch::{Weight, all_hold_weighted};
    use crate::snark::groth16::{decode_canonical, encode, write_vk};
    use crate::spec::{ApiVersion, GROTH16_PROOF_BYTES};
    use ark_bls12_381::{G1Affine, G2Affine};
    use ark_ec::{AffineRepr as _, CurveGroup as _};
    use ark_ff::UniformRand as _;
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;
    use serde_json::Value;

    /// Filecoin's own keys, statements and proofs.
    struct Golden {
        keys: VerifyingKeys,
        /// Circuit, public inputs by partition, proof.
        proofs: Vec<(CircuitId, Vec<Vec<Fr>>, Vec<u8>)>,
    }

    fn bytes32(value: &Value) -> [u8; 32] {
        hex::decode(text(value))
            .expect("hex")
            .try_into()
            .expect("32 bytes")
    }

    fn text(value: &Value) -> &str {
        value.as_str().expect("a string")
    }

    fn list(value: &Value) -> &Vec<Value> {
        value.as_array().expect("a list")
    }

    fn vectors(size: SectorSize) -> Value {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../fixtures/vectors/filecoin.json"
        );
        let mut all: Value =
            serde_json::from_str(&std::fs::read_to_string(path).expect(path)).expect(path);
        all["sectors"][size.to_string()].take()
    }

    fn golden(size: SectorSize) -> Golden {
        let sectors = &vectors(size);
        let circuits = [
            CircuitId::porep(size),
            CircuitId::window(size),
            CircuitId::winning(size),
        ];
        let vks: Vec<Vec<u8>> = ["porep_vk", "window_vk", "winning_vk"]
            .iter()
            .map(|name| hex::decode(text(&sectors[*name])).expect("hex"))
            .collect();
        let keys =
            VerifyingKeys::from_vk_bytes(circuits.into_iter().zip(vks.iter().map(Vec::as_slice)));
        let mut proofs = Vec::new();
        for commit in list(&sectors["commit"]) {
            let case = list(&sectors["cases"])
                .iter()
                .find(|case| case["name"] == commit["case"]);
            let inputs = vec![golden_porep_inputs(
                size,
                case.expect("the case exists"),
                commit,
            )];
            proofs.push((
                circuits[0],
                inputs,
                hex::decode(text(&commit["c2_proof"])).expect("hex"),
            ));
        }
        for post in list(&sectors["post"]) {
            let (window, winning) = (&post["window"], &post["winning"]);
            let inputs = golden_window_inputs(size, window);
            proofs.push((
                circuits[1],
                inputs,
                hex::decode(text(&window["proof"])).expect("hex"),
            ));
            let inputs = vec![golden_winning_inputs(size, winning)];
            proofs.push((
                circuits[2],
                inputs,
                hex::decode(text(&winning["proof"])).expect("hex"),
            ));
        }
        Golden {
            keys: keys.expect("Filecoin's keys pass the checks"),
            proofs,
        }
    }

    fn api(value: &Value) -> ApiVersion {
        match text(value) {
            "V1_0_0" => ApiVersion::V1_0,
            "V1_1_0" => ApiVersion::V1_1,
            _ => ApiVersion::V1_2,
        }
    }

    /// Derived here from the case, not read from the recorded public inputs, which are compared.
    fn golden_porep_inputs(size: SectorSize, case: &Value, commit: &Value) -> Vec<Fr> {
        let porep_id = crate::ids::PorepId(bytes32(&case["porep_id"]));
        let comm_d = CommD(bytes32(&case["comm_d"]));
        let number = SectorNumber(case["sector_id"].as_u64().expect("a number"));
        let id = replica_id(
            &ProverId(bytes32(&case["prover_id"])),
            number,
            &Ticket(bytes32(&case["ticket"])),
            &comm_d,
            &porep_id,
        );
        let challenges = porep_challenge::interactive(size, &id, &Seed(bytes32(&case["seed"])), 0);
        let graph = Graph::new(size, &porep_id, api(&case["api_version"]));
        let comm_r = CommR(bytes32(&case["comm_r"]));
        let inputs = porep_partition_inputs(&graph, &id, &comm_d, &comm_r, &challenges)
            .expect("a real sector");
        compare(&inputs, &commit["public_inputs"][0]);
        inputs
    }

    /// Of a partition, or of the sectors of several.
    fn window_statement(size: SectorSize, window: &Value) -> WindowPostStatement {
        let sectors = list(&window["sectors_sorted"]).iter().map(|s| {
            (
                SectorNumber(s["sector_id"].as_u64().expect("a number")),
                CommR(bytes32(&s["comm_r"])),
            )
        });
        WindowPostStatement {
            size,
            prover: ProverId(bytes32(&window["prover_id"])),
            randomness: PostRandomness::new(bytes32(&window["randomness"])).expect("canonical"),
            sectors: sectors.collect(),
        }
    }

    fn golden_window_inputs(size: SectorSize, window: &Value) -> Vec<Vec<Fr>> {
        let WindowPostStatement {
            randomness,
            sectors,
            ..
        } = window_statement(size, window);
        let api = api(&window["api_version"]);
        let recorded = list(&window["public_inputs_per_partition"]);
        let per = size.window_sectors();
        (0..recorded.len())
            .map(|partition| {
                // Filling repeats the last sector's leaves, also under the retired rule that counts positions.
                let openings = (partition * per..(partition + 1) * per).map(|position| {
                    let position = position.min(sectors.len() - 1);
                    let (number, comm_r) = sectors[position];
                    (
                        comm_r,
                        post_challenge::window_at(size, api, &randomness, number, position as u64),
                    )
                });
                let inputs = post_inputs(openings).expect("a real partition");
                compare(&inputs, &recorded[partition]);
                inputs
            })
            .collect()
    }

    fn winning_statement(size: SectorSize, winning: &Value) -> WinningPostStatement {
        WinningPostStatement {
            size,
            prover: ProverId(bytes32(&winning["prover_id"])),
            randomness: PostRandomness::new(bytes32(&winning["randomness"])).expect("canonical"),
            sector: (
                SectorNumber(winning["sector_id"].as_u64().expect("a number")),
                CommR(bytes32(&winning["comm_r"])),
            ),
        }
    }

    fn golden_winning_inputs(size: SectorSize, winning: &Value) -> Vec<Fr> {
        let statement = winning_statement(size, winning);
        let mut inputs = winning_inputs(&statement).expect("a real sector");
        if api(&winning["api_version"]) == ApiVersion::V1_2 {
            // The producer also ran the shape under the 1.2 rule, which no registered type does: the
            // index counts within a listed sector, so all 66 leaves are the first one (proofs.md §5.2).
            let first = inputs[1];
            inputs
                .iter_mut()
                .skip(1)
                .step_by(2)
                .for_each(|leaf| *leaf = first);
        }
        compare(&inputs, &winning["public_inputs"]);
        inputs
    }

    fn compare(inputs: &[Fr], recorded: &Value) {
        let recorded: Vec<Fr> = list(recorded)
            .iter()
            .map(|v| fr_from_node(&bytes32(v)).expect("canonical"))
            .collect();
        assert!(
            inputs == recorded,
            "inputs derived here differ from the recorded ones"
        );
    }

    fn one(golden: &Golden, circuit: CircuitId) -> (Vec<Fr>, Vec<u8>) {
        let found = golden
            .proofs
            .iter()
            .find(|(id, _, _)| *id == circuit)
            .expect("one of each");
        (found.1[0].clone(), found.2.clone())
    }

    #[test]
    fn filecoins_proofs_verify_under_its_keys() {
        for size in [SectorSize::Kib2, SectorSize::Mib8] {
            let golden = golden(size);
            assert_eq!(golden.proofs.len(), 9);
            for (circuit, inputs, proof) in &golden.proofs {
                assert_eq!(
                    check(&golden.keys, *circuit, inputs, proof),
                    Ok(()),
                    "{circuit}"
                );
            }
        }
    }

    /// From a statement to its verdict, through each of the doors, and the same in a batch.
    #[test]
    fn tm_v7_statements_are_judged_alone_and_in_a_batch_alike() {
        let size = SectorSize::Kib2;
        let keys = golden(size).keys;
        let vectors = vectors(size);
        let proof = |of: &Value| hex::decode(text(of)).expect("hex");
        // A full partition under the rule of registered types, and the one WinningPoSt that they would have made too.
        let window = window_statement(size, &vectors["post"][1]["window"]);
        let window_proof = proof(&vectors["post"][1]["window"]["proof"]);
        assert_eq!(window.sectors.len(), size.window_sectors());
        let winning = winning_statement(size, &vectors["post"][0]["winning"]);
        let winning_proof = proof(&vectors["post"][0]["winning"]["proof"]);
        // Filecoin's test sectors have ids that no registered type has, so this one is false.
        let porep_proof = proof(&vectors["commit"][0]["c2_proof"]);
        let porep = PorepStatement {
            seal: RegisteredSeal::v1_1(size),
            prover: window.prover,
            sector: window.sectors[0].0,
            ticket: Ticket([2; 32]),
            seed: Seed([3; 32]),
            comm_d: CommD([4; 32]),
            comm_r: window.sectors[0].1,
        };
        let retired = RegisteredSeal {
            version: SealVersion::V1,
            ..porep.seal
        };
        let mut moved = window.clone();
        moved.sectors[1].1 = moved.sectors[0].1;
        let elsewhere = WinningPostStatement {
            randomness: PostRandomness::masked([7; 32]),
            ..winning.clone()
        };
        let short = VerifyError::Bytes(ProofBytesError::Length {
            got: 191,
            expected: 192,
        });
        let unknown = WindowPostStatement {
            size: SectorSize::Kib4,
            ..window.clone()
        };
        let items: Vec<(Statement, &[u8])> = vec![
            (Statement::Window(window.clone()), &window_proof),
            (Statement::Window(moved), &window_proof),
            (Statement::Window(window), &window_proof[1..]),
            (Statement::Winning(winning), &winning_proof),
            (Statement::Winning(elsewhere), &winning_proof),
            (Statement::Porep(porep.clone()), &porep_proof),
            (
                Statement::Porep(PorepStatement {
                    seal: retired,
                    ..porep
                }),
                &porep_proof,
            ),
            (Statement::Window(unknown), &window_proof),
        ];
        let alone = |(statement, proof): &(Statement, &[u8])| match statement {
            Statement::Porep(s) => super::porep(&keys, s, proof),
            Statement::Window(s) => window_post(&keys, s, proof),
            Statement::Winning(s) => winning_post(&keys, s, proof),
            Statement::Update(s) => update(&keys, s, proof),
        };
        let verdicts: Vec<_> = items.iter().map(alone).collect();
        let malformed = verdicts[6].clone();
        assert!(matches!(malformed, Err(VerifyError::Statement(_))));
        assert_eq!(
            verdicts,
            [
                Ok(()),
                Err(VerifyError::Rejected),
                Err(short),
                Ok(()),
                Err(VerifyError::Rejected),
                Err(VerifyError::Rejected),
                malformed,
                Err(VerifyError::NoKey(CircuitId::window(SectorSize::Kib4))),
            ]
        );
        assert_eq!(batch(&keys, &items), verdicts);
        let good = [items[0].clone(), items[3].clone()];
        assert_eq!(batch(&keys, &good), [Ok(()), Ok(())]);
        assert_eq!(batch(&keys, &[]), []);
    }

    /// The hash was computed from the vector file by another program.
    #[test]
    fn tm_s1_a_set_of_keys_names_its_circuits_and_has_one_hash() {
        let size = SectorSize::Kib2;
        let keys = golden(size).keys;
        let circuits: Vec<CircuitId> = keys.circuits().collect();
        let all = [
            CircuitId::porep(size),
            CircuitId::window(size),
            CircuitId::winning(size),
        ];
        assert_eq!(circuits, all);
        assert_eq!(
            hex::encode(keys.hash()),
            "74c631f8b247dc749992d0dae29d185e11ff2253669c28251710ced94eb485a2"
        );
    }

    #[test]
    fn tm_p14_every_public_input_is_bound() {
        let golden = golden(SectorSize::Kib2);
        for circuit in golden.keys.circuits().collect::<Vec<_>>() {
            let key = golden.keys.key(circuit).expect("present").key();
            assert!(
                key.gamma_abc_g1
                    .iter()
                    .all(|ic| !ark_ec::AffineRepr::is_zero(ic))
            );
            let (inputs, proof) = one(&golden, circuit);
            for j in 0..inputs.len() {
                let mut wrong = inputs.clone();
                wrong[j] += Fr::from(1u64);
                assert_eq!(
                    check(&golden.keys, circuit, &[wrong], &proof),
                    Err(VerifyError::Rejected),
                    "{circuit} {j}"
                );
            }
        }
    }

    #[test]
    fn tm_p13_only_the_right_number_of_inputs_is_looked_at() {
        let golden = golden(SectorSize::Kib2);
        for circuit in golden.keys.circuits().collect::<Vec<_>>() {
            let (inputs, proof) = one(&golden, circuit);
            let longer = [inputs.clone(), vec![Fr::from(0u64)]].concat();
            let shorter = inputs[..inputs.len() - 1].to_vec();
            for wrong in [longer, shorter, Vec::new()] {
                let verdict = check(&golden.keys, circuit, &[wrong], &proof);
                assert!(
                    matches!(verdict, Err(VerifyError::InputCount { .. })),
                    "{verdict:?}"
                );
            }
            assert_eq!(
                check(&golden.keys, circuit, &[], &[]),
                Err(VerifyError::Rejected)
            );
        }
    }

    #[test]
    fn tm_p11_other_proofs_of_the_same_statement_verify_too() {
        use ark_serialize::CanonicalSerialize as _;
        let golden = golden(SectorSize::Kib2);
        let circuit = CircuitId::porep(SectorSize::Kib2);
        let (inputs, bytes) = one(&golden, circuit);
        let proof = decode_canonical(&bytes, 1).expect("a real proof").remove(0);
        let key = golden.keys.key(circuit).expect("present");
        let k = Fr::from(7u64);
        let inverse = ark_ff::Field::inverse(&k).expect("not zero");
        let scaled = Proof {
            a: (proof.a * k).into_affine(),
            b: (proof.b * inverse).into_affine(),
            c: proof.c,
        };
        let negated = Proof {
            a: -proof.a,
            b: -proof.b,
            c: proof.c,
        };
        let rerandomised = ark_groth16::Groth16::<Bls12_381>::rerandomize_proof(
            key.key(),
            &proof,
            &mut rand::rngs::OsRng,
        );
        // They hold: the reason why nothing may be keyed on proof bytes. The chain's part of this
        // row (an accepted statement is not accepted again) is tested there.
        for other in [scaled, negated, rerandomised] {
            let mut again = Vec::new();
            other.serialize_compressed(&mut again).expect("memory");
            assert_ne!(again, bytes);
            assert_eq!(
                check(&golden.keys, circuit, std::slice::from_ref(&inputs), &again),
                Ok(())
            );
        }
    }

    #[test]
    fn tm_p12_one_encoding_per_proof() {
        let golden = golden(SectorSize::Kib2);
        let circuit = CircuitId::porep(SectorSize::Kib2);
        let (inputs, good) = one(&golden, circuit);
        let verdict =
            |proof: &[u8]| check(&golden.keys, circuit, std::slice::from_ref(&inputs), proof);
        let malformed = |proof: &[u8], what: &str| {
            assert!(
                matches!(verdict(proof), Err(VerifyError::Bytes(_))),
                "{what}: {:?}",
                verdict(proof)
            );
        };
        for length in [0, 1, 191, 193, 384] {
            let mut other = good.clone();
            other.resize(length, 0);
            malformed(&other, "length");
        }
        for (at, what) in [(0, "A"), (48, "B"), (144, "C")] {
            let with = |bytes: &[u8]| {
                let mut other = good.clone();
                other[at..at + bytes.len()].copy_from_slice(bytes);
                other
            };
            let end = if what == "B" { 96 } else { 48 };
            let mut identity = vec![0; end];
            identity[0] = 0xc0;
            malformed(&with(&identity), "identity");
            identity[0] = 0xe0;
            malformed(&with(&identity), "identity with a sign");
            identity[0] = 0xc0;
            identity[end - 1] = 1;
            malformed(&with(&identity), "identity with an x");
            malformed(&with(&[good[at] & 0x7f]), "uncompressed flag");
            malformed(&with(&[good[at] | 0x40]), "infinity flag on a point");
            // x = p, and above: the same residue must not have a second encoding.
            let mut order = ark_ff::BigInteger::to_bytes_be(
                &<ark_bls12_381::Fq as ark_ff::PrimeField>::MODULUS,
            );
            order[0] |= 0x80;
            malformed(&with(&order), "x = p");
            malformed(&with(&[0x9f, 0xff, 0xff]), "x > p");
        }
        malformed(&with_off_subgroup_a(&good), "A outside the subgroup");
        malformed(&with_off_subgroup_b(&good), "B outside the subgroup");
        // Every single flipped bit is refused one way or the other.
        for bit in (0..8 * GROTH16_PROOF_BYTES).step_by(97) {
            let mut other = good.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(verdict(&other).is_err(), "bit {bit}");
        }
    }

    /// On the curve, in canonical form, and not in the group of order r.
    fn with_off_subgroup_a(good: &[u8]) -> Vec<u8> {
        use ark_serialize::CanonicalSerialize as _;
        let point = (1u64..)
            .filter_map(|x| {
                ark_bls12_381::G1Affine::get_point_from_x_unchecked(
                    ark_bls12_381::Fq::from(x),
                    false,
                )
            })
            .find(|p| !p.is_in_correct_subgroup_assuming_on_curve())
            .expect("almost every point of the curve");
        let mut out = good.to_vec();
        point
            .serialize_compressed(&mut out[..48])
            .expect("48 bytes");
        out
    }

    fn with_off_subgroup_b(good: &[u8]) -> Vec<u8> {
        use ark_serialize::CanonicalSerialize as _;
        let point = (1u64..)
            .filter_map(|x| {
                ark_bls12_381::G2Affine::get_point_from_x_unchecked(
                    ark_bls12_381::Fq2::from(x),
                    false,
                )
            })
            .find(|p| !p.is_in_correct_subgroup_assuming_on_curve())
            .expect("almost every point of the curve");
        let mut out = good.to_vec();
        point
            .serialize_compressed(&mut out[48..144])
            .expect("96 bytes");
        out
    }

    #[test]
    fn tm_v7_a_batch_gives_the_verdicts_of_single_checks() {
        let golden = golden(SectorSize::Kib2);
        let mut items: Vec<Prepared<'_>> = golden
            .proofs
            .iter()
            .map(|(circuit, inputs, proof)| {
                Undecoded::from_inputs(&golden.keys, *circuit, inputs.clone(), proof)
                    .and_then(Undecoded::decode)
                    .expect("well-formed")
            })
            .collect();
        let hold = |items: &[Prepared<'_>], rounds: usize| {
            let claims: Vec<Claim<'_>> = items.iter().flat_map(Prepared::claims).collect();
            all_hold(&claims.repeat(rounds))
        };
        for count in 0..=items.len() {
            assert!(hold(&items[..count], 1), "{count}");
        }
        assert!(hold(&items, 3), "several Miller loops on each thread");

        // One false proof at any place of the batch.
        for at in 0..items.len() {
            let right = items[at].partitions[0].1.c;
            items[at].partitions[0].1.c = -right;
            assert!(!hold(&items, 1), "{at}");
            assert!(!hold(&items, 2), "{at}");
            items[at].partitions[0].1.c = right;
        }
        assert!(hold(&items, 1));

        // The partitions of one proof are a batch too: all must hold, none may be missing.
        assert!(std::ptr::eq(items[0].key, items[1].key));
        let mut joined = Prepared {
            key: items[0].key,
            partitions: [&items[0].partitions[..], &items[1].partitions].concat(),
        };
        assert_eq!(joined.check(), Ok(()));
        joined.partitions[1].1.c = -joined.partitions[1].1.c;
        assert_eq!(joined.check(), Err(VerifyError::Rejected));
        joined.partitions.clear();
        assert_eq!(joined.check(), Err(VerifyError::Rejected));

        // Opposite errors that cancel without weights: C of two proofs of one circuit moved by ±P.
        let shift = items[0].partitions[0].1.a;
        items[0].partitions[0].1.c = (items[0].partitions[0].1.c + shift).into_affine();
        items[1].partitions[0].1.c = (items[1].partitions[0].1.c - shift).into_affine();
        let pair: Vec<Claim<'_>> = items[..2].iter().flat_map(Prepared::claims).collect();
        for same in [Weight { a: 1, b: 0 }, Weight { a: 7, b: 9 }] {
            assert!(all_hold_weighted(&pair, &[same; 2]), "the attack works");
        }
        for _ in 0..20 {
            assert!(!all_hold(&pair));
        }
        assert_eq!(items[0].check(), Err(VerifyError::Rejected));
        assert_eq!(items[2].check(), Ok(()));
    }

    /// Batches of sizes around the groups of eight that are worked on together: a false proof and a malformed one found at
    /// every place, its neighbours' verdicts untouched.
    #[test]
    fn tm_v7_batches_of_every_size_find_the_bad_proof() {
        use ark_ff::Field as _;
        let golden = golden(SectorSize::Kib2);
        let circuit = CircuitId::porep(SectorSize::Kib2);
        let (inputs, bytes) = one(&golden, circuit);
        let proof = decode_canonical(&bytes, 1).expect("a real proof").remove(0);
        let other = |k: u64| {
            let k = Fr::from(k);
            encode(&Proof {
                a: (proof.a * k).into_affine(),
                b: (proof.b * k.inverse().expect("not zero")).into_affine(),
                c: proof.c,
            })
        };
        let all: Vec<_> = (1..=64).map(other).collect();
        let false_one = encode(&Proof {
            c: -proof.c,
            ..proof.clone()
        });
        let malformed: [u8; GROTH16_PROOF_BYTES] = with_off_subgroup_a(&bytes)
            .try_into()
            .expect("as long as a proof");
        let verdict = |proofs: &[[u8; GROTH16_PROOF_BYTES]]| {
            let inputs = vec![inputs.clone(); proofs.len()];
            check(&golden.keys, circuit, &inputs, proofs.as_flattened())
        };
        for count in [1usize, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 64] {
            assert_eq!(verdict(&all[..count]), Ok(()), "{count}");
            for at in (0..count).filter(|at| *at < 10 || at % 8 == 7 || at % 8 == 0) {
                let mut proofs = all[..count].to_vec();
                proofs[at] = false_one;
                assert_eq!(verdict(&proofs), Err(VerifyError::Rejected), "{count} {at}");
                proofs[at] = malformed;
                let error = ProofBytesError::Point("A");
                assert_eq!(
                    verdict(&proofs),
                    Err(VerifyError::Bytes(error)),
                    "{count} {at}"
                );
            }
        }
    }

    /// A key whose secrets are known: any statement gets a proof that holds, as a forger under the developers' keys makes it.
    struct Forge {
        circuit: CircuitId,
        alpha: Fr,
        beta: Fr,
        gamma: Fr,
        delta: Fr,
        /// Logarithms of the inputs' points, the constant one's first.
        ic: Vec<Fr>,
    }

    /// Logarithms of a proof's points.
    #[derive(Clone, Copy)]
    struct Logs {
        a: Fr,
        b: Fr,
        c: Fr,
    }

    impl Forge {
        fn new(circuit: CircuitId, rng: &mut ChaCha8Rng) -> Forge {
            let mut next = || Fr::rand(rng);
            Forge {
                circuit,
                alpha: next(),
                beta: next(),
                gamma: next(),
                delta: next(),
                ic: (0..=circuit.public_inputs()).map(|_| next()).collect(),
            }
        }

        fn vk_bytes(&self) -> Vec<u8> {
            let (g1, g2) = (G1Affine::generator(), G2Affine::generator());
            let vk = ark_groth16::VerifyingKey::<Bls12_381> {
                alpha_g1: (g1 * self.alpha).into_affine(),
                beta_g2: (g2 * self.beta).into_affine(),
                gamma_g2: (g2 * self.gamma).into_affine(),
                delta_g2: (g2 * self.delta).into_affine(),
                gamma_abc_g1: self.ic.iter().map(|k| (g1 * k).into_affine()).collect(),
            };
            let (beta, delta) = (g1 * self.beta, g1 * self.delta);
            write_vk(&vk, beta.into_affine(), delta.into_affine())
        }

        /// `A·B = αβ + γ·inputs + δ·C`, with random A and B.
        fn proof(&self, inputs: &[Fr], rng: &mut ChaCha8Rng) -> Logs {
            let (a, b) = (Fr::rand(rng), Fr::rand(rng));
            let weighed = self.ic[1..].iter().zip(inputs).map(|(k, input)| *k * input);
            let inputs = self.ic[0] + weighed.sum::<Fr>();
            let rest = a * b - self.alpha * self.beta - self.gamma * inputs;
            let delta = ark_ff::Field::inverse(&self.delta).expect("not zero");
            Logs {
                a,
                b,
                c: rest * delta,
            }
        }
    }

    impl Logs {
        fn bytes(self) -> Vec<u8> {
            let (g1, g2) = (G1Affine::generator(), G2Affine::generator());
            let proof = Proof {
                a: (g1 * self.a).into_affine(),
                b: (g2 * self.b).into_affine(),
                c: (g1 * self.c).into_affine(),
            };
            encode(&proof).to_vec()
        }
    }

    fn random32(rng: &mut ChaCha8Rng) -> [u8; 32] {
        let mut node: [u8; 32] = rng.r#gen();
        node[31] &= 0x3f;
        node
    }

    fn random_statement(kind: CircuitKind, rng: &mut ChaCha8Rng) -> Statement {
        let size = SectorSize::Kib2;
        let number = |rng: &mut ChaCha8Rng| SectorNumber(rng.gen_range(0..1 << 40));
        let prover = ProverId(random32(rng));
        let randomness = PostRandomness::masked(rng.r#gen());
        match kind {
            CircuitKind::Porep => Statement::Porep(PorepStatement {
                seal: RegisteredSeal::v1_1(size),
                prover,
                sector: number(rng),
                ticket: Ticket(rng.r#gen()),
                seed: Seed(rng.r#gen()),
                comm_d: CommD(random32(rng)),
                comm_r: CommR(random32(rng)),
            }),
            CircuitKind::WindowPost => {
                let count = rng.gen_range(1..=size.window_sectors());
                let sectors: BTreeMap<_, _> = (0..count)
                    .map(|_| (number(rng), CommR(random32(rng))))
                    .collect();
                Statement::Window(WindowPostStatement {
                    size,
                    prover,
                    randomness,
                    sectors: sectors.into_iter().collect(),
                })
            }
            CircuitKind::WinningPost => Statement::Winning(WinningPostStatement {
                size,
                prover,
                randomness,
                sector: (number(rng), CommR(random32(rng))),
            }),
            CircuitKind::Update => Statement::Update(UpdateStatement {
                size,
                comm_r_old: CommR(random32(rng)),
                comm_d_new: CommD(random32(rng)),
                comm_r_new: CommR(random32(rng)),
            }),
        }
    }

    /// The statement with one bit of a commitment turned.
    fn beside(statement: &Statement) -> Statement {
        let mut other = statement.clone();
        match &mut other {
            Statement::Porep(s) => s.comm_r.0[7] ^= 1,
            Statement::Window(s) => s.sectors[0].1.0[7] ^= 1,
            Statement::Winning(s) => s.sector.1.0[7] ^= 1,
            Statement::Update(s) => s.comm_d_new.0[7] ^= 1,
        }
        other
    }

    fn inputs_of(statement: &Statement) -> Vec<Fr> {
        let inputs = match statement {
            Statement::Porep(s) => porep_inputs(s).map(|mut all| all.remove(0)),
            Statement::Window(s) => window_inputs(s),
            Statement::Winning(s) => winning_inputs(s),
            Statement::Update(s) => update_inputs(s).map(|mut all| all.remove(0)),
        };
        inputs.expect("well-formed")
    }

    /// A batch of 64 random statements of all kinds, and what is true of each. In a quarter of the batches all hold; in the
    /// others one is wrong, or a few, or half.
    fn random_batch(
        forges: &[Forge; 4],
        rng: &mut ChaCha8Rng,
    ) -> Vec<(Statement, Vec<u8>, Result<(), VerifyError>)> {
        const BATCH: usize = 64;
        let rejected = Err(VerifyError::Rejected);
        let made = (0..BATCH).map(|_| {
            let forge = &forges[rng.gen_range(0..forges.len())];
            let statement = random_statement(forge.circuit.kind, rng);
            let logs = forge.proof(&inputs_of(&statement), rng);
            (forge.circuit, statement, logs)
        });
        let made: Vec<_> = made.collect();
        let rate = [0, 0, 8, 32][rng.gen_range(0..4)];
        let one = (rate == 0 && rng.gen_bool(0.5)).then(|| rng.gen_range(0..BATCH));
        // What an error was taken from here is added to the next wrong proof of its circuit: a sum without weights is right.
        let mut owed: BTreeMap<CircuitId, Fr> = BTreeMap::new();
        let mut items = Vec::new();
        for (at, (circuit, statement, mut logs)) in made.into_iter().enumerate() {
            if !(one == Some(at) || rng.gen_range(0..BATCH) < rate) {
                items.push((statement, logs.bytes(), Ok(())));
                continue;
            }
            let item = match rng.gen_range(0..7) {
                0 => (beside(&statement), logs.bytes(), rejected.clone()),
                1 => {
                    logs.a = -logs.a;
                    (statement, logs.bytes(), rejected.clone())
                }
                2 => {
                    (logs.a, logs.c) = (logs.c, logs.a);
                    (statement, logs.bytes(), rejected.clone())
                }
                3 => {
                    let mut flagged = logs.bytes();
                    flagged[144] ^= 0x40;
                    let error = VerifyError::Bytes(ProofBytesError::Point("C"));
                    (statement, flagged, Err(error))
                }
                4 => {
                    let mut short = logs.bytes();
                    short.pop();
                    let error = VerifyError::Bytes(ProofBytesError::Length {
                        got: 191,
                        expected: 192,
                    });
                    (statement, short, Err(error))
                }
                _ => {
                    let shift = match owed.remove(&circuit) {
                        Some(shift) => -shift,
                        None => *owed.entry(circuit).or_insert(Fr::rand(rng)),
                    };
                    logs.c += shift;
                    (statement, logs.bytes(), rejected.clone())
                }
            };
            items.push(item);
        }
        items
    }

    /// Random true statements and false ones, the truth known because their proofs were forged: the same in batches.
    fn assert_batches_tell_the_truth(batches: u64) {
        let mut rng = ChaCha8Rng::seed_from_u64(64);
        let forges = CircuitKind::ALL.map(|kind| {
            let size = SectorSize::Kib2;
            Forge::new(CircuitId { kind, size }, &mut rng)
        });
        let vks = forges.each_ref().map(Forge::vk_bytes);
        let circuits = forges.iter().map(|forge| forge.circuit);
        let keys = VerifyingKeys::from_vk_bytes(circuits.zip(vks.iter().map(Vec::as_slice)));
        let keys = keys.expect("keys like any other");
        let told: Vec<[usize; 3]> = (0..batches)
            .into_par_iter()
            .map(|seed| {
                let made = random_batch(&forges, &mut ChaCha8Rng::seed_from_u64(seed));
                let items: Vec<(Statement, &[u8])> = made
                    .iter()
                    .map(|(statement, proof, _)| (statement.clone(), proof.as_slice()))
                    .collect();
                let truth: Vec<_> = made.iter().map(|(.., truth)| truth.clone()).collect();
                assert_eq!(batch(&keys, &items), truth, "seed {seed}");
                let is = |verdict: &dyn Fn(&Result<(), VerifyError>) -> bool| {
                    truth.iter().filter(|truth| verdict(truth)).count()
                };
                let good = is(&|truth| truth.is_ok());
                let rejected = is(&|truth| *truth == Err(VerifyError::Rejected));
                [good, rejected, truth.len() - good - rejected]
            })
            .collect();
        let sum = |i: usize| told.iter().map(|counts| counts[i]).sum::<usize>();
        println!(
            "{} hold, {} do not, {} are no proofs",
            sum(0),
            sum(1),
            sum(2)
        );
        assert!(told.iter().any(|[good, ..]| *good == 64));
        assert!((1..3).all(|i| sum(i) > 0));
    }

    #[test]
    fn tm_v7_random_batches_tell_the_truth() {
        assert_batches_tell_the_truth(12);
    }

    /// 10^5 statements.
    #[test]
    #[ignore = "minutes; a dozen batches are judged always, all by `cargo test -p prover -- --ignored`"]
    fn tm_v7_random_batches_tell_the_truth_full() {
        assert_batches_tell_the_truth(100_000_u64.div_ceil(64));
    }

    /// Verdicts of ark-groth16 on the same keys, inputs and proofs: right ones, and wrong in each part.
    #[test]
    fn verdicts_are_arkworks_verdicts() {
        use ark_groth16::{Groth16, prepare_verifying_key};
        let golden = golden(SectorSize::Kib2);
        for circuit in golden.keys.circuits().collect::<Vec<_>>() {
            let key = golden.keys.key(circuit).expect("present");
            let twin = prepare_verifying_key(key.key());
            let (inputs, bytes) = one(&golden, circuit);
            let good = decode_canonical(&bytes, 1).expect("a real proof").remove(0);
            let mut cases = vec![(inputs.clone(), good.clone())];
            let mut push = |edit: &dyn Fn(&mut Proof<Bls12_381>)| {
                let mut proof = good.clone();
                edit(&mut proof);
                cases.push((inputs.clone(), proof));
            };
            push(&|proof| proof.a = -proof.a);
            push(&|proof| proof.b = -proof.b);
            push(&|proof| proof.c = -proof.c);
            push(&|proof| (proof.a, proof.b) = (-proof.a, -proof.b));
            push(&|proof| proof.c = proof.a);
            push(&|proof| proof.a = key.key().alpha_g1);
            push(&|proof| proof.b = key.key().beta_g2);
            for to in [Fr::from(0u64), -Fr::from(1u64), Fr::from(u64::MAX)] {
                let mut moved = inputs.clone();
                moved[2] = to;
                cases.push((moved, good.clone()));
                cases.push((vec![to; inputs.len()], good.clone()));
            }
            for (inputs, proof) in cases {
                let theirs = Groth16::<Bls12_381>::verify_proof(&twin, &proof, &inputs);
                let theirs = theirs.expect("the right number of inputs");
                assert_eq!(key.accepts(&inputs, &proof), Some(theirs), "{circuit}");
            }
        }
    }

    #[test]
    fn tm_p10_a_proof_serves_one_statement() {
        let golden = golden(SectorSize::Kib2);
        // Whatever circuit and whatever other inputs: only its own.
        for (i, (circuit, inputs, _)) in golden.proofs.iter().enumerate() {
            for (j, (_, _, proof)) in golden.proofs.iter().enumerate() {
                let verdict = check(&golden.keys, *circuit, inputs, proof);
                assert_eq!(verdict.is_ok(), i == j, "{i} {j}");
            }
        }
    }

    #[test]
    fn tm_p10_every_field_of_a_statement_moves_its_inputs() {
        let base = PorepStatement {
            seal: RegisteredSeal::v1_1(SectorSize::Kib2),
            prover: ProverId([1; 32]),
            sector: SectorNumber(7),
            ticket: Ticket([2; 32]),
            seed: Seed([3; 32]),
            comm_d: CommD([4; 32]),
            comm_r: CommR([5; 32]),
        };
        let variants = [
            PorepStatement {
                seal: RegisteredSeal::v1_1(SectorSize::Kib4),
                ..base.clone()
            },
            PorepStatement {
                prover: ProverId([9; 32]),
                ..base.clone()
            },
            PorepStatement {
                sector: SectorNumber(8),
                ..base.clone()
            },
            PorepStatement {
                ticket: Ticket([9; 32]),
                ..base.clone()
            },
            PorepStatement {
                seed: Seed([9; 32]),
                ..base.clone()
            },
            PorepStatement {
                comm_d: CommD([9; 32]),
                ..base.clone()
            },
            PorepStatement {
                comm_r: CommR([9; 32]),
                ..base.clone()
            },
        ];
        let inputs = porep_inputs(&base).expect("well-formed");
        for (i, variant) in variants.iter().enumerate() {
            let other = porep_inputs(variant).expect("well-formed");
            // Size alone moves the circuit; at equal ids and challenges the inputs might agree.
            assert!(other != inputs || variant.seal != base.seal, "field {i}");
        }
        let window = WindowPostStatement {
            size: SectorSize::Mib8,
            prover: ProverId([1; 32]),
            randomness: PostRandomness::masked([7; 32]),
            sectors: vec![(SectorNumber(1), CommR([5; 32]))],
        };
        let inputs = window_inputs(&window).expect("well-formed");
        let variants = [
            WindowPostStatement {
                randomness: PostRandomness::masked([8; 32]),
                ..window.clone()
            },
            WindowPostStatement {
                sectors: vec![(SectorNumber(2), CommR([5; 32]))],
                ..window.clone()
            },
            WindowPostStatement {
                sectors: vec![(SectorNumber(1), CommR([6; 32]))],
                ..window.clone()
            },
        ];
        for variant in &variants {
            assert_ne!(window_inputs(variant).expect("well-formed"), inputs);
        }
    }

    #[test]
    fn malformed_statements_are_errors() {
        let keys = VerifyingKeys::default();
        let statement = WindowPostStatement {
            size: SectorSize::Kib2,
            prover: ProverId([0; 32]),
            randomness: PostRandomness::masked([7; 32]),
            sectors: Vec::new(),
        };
        let with = |sectors: &[(u64, u8)]| WindowPostStatement {
            sectors: sectors
                .iter()
                .map(|(n, b)| (SectorNumber(*n), CommR([*b; 32])))
                .collect(),
            ..statement.clone()
        };
        let cases: [&[(u64, u8)]; 6] = [
            &[],
            &[(2, 1), (1, 1)],
            &[(1, 1), (1, 1)],
            &[(1, 1), (2, 1), (3, 1)],
            &[(1, 0)],
            &[(1, 0xff)],
        ];
        for sectors in cases {
            let verdict = window_post(&keys, &with(sectors), &[]);
            assert!(
                matches!(verdict, Err(VerifyError::Statement(_))),
                "{sectors:?}: {verdict:?}"
            );
        }
        assert_eq!(
            window_post(&keys, &with(&[(1, 1)]), &[]),
            Err(VerifyError::NoKey(CircuitId::window(SectorSize::Kib2)))
        );
    }

    #[test]
    fn tm_s2_broken_keys_are_refused() {
        use crate::snark::groth16::write_vk;
        use ark_ec::{AffineRepr, CurveGroup};
        let golden = golden(SectorSize::Kib2);
        let circuit = CircuitId::porep(SectorSize::Kib2);
        let good = golden.keys.key(circuit).expect("present");
        let (vk, beta, delta) = (good.key().clone(), good.beta_g1(), good.delta_g1());
        assert_eq!(write_vk(&vk, beta, delta), good.bytes());
        let (g1, g2) = (
            ark_bls12_381::G1Affine::generator(),
            ark_bls12_381::G2Affine::generator(),
        );
        let (zero1, zero2) = (
            ark_bls12_381::G1Affine::zero(),
            ark_bls12_381::G2Affine::zero(),
        );
        let mut broken = Vec::new();
        let mut push =
            |what: &'static str, edit: &dyn Fn(&mut ark_groth16::VerifyingKey<Bls12_381>)| {
                let mut vk = vk.clone();
                edit(&mut vk);
                broken.push((what, write_vk(&vk, beta, delta)));
            };
        push("delta = gamma", &|vk| vk.delta_g2 = vk.gamma_g2);
        push("delta = generator", &|vk| vk.delta_g2 = g2);
        push("alpha = generator", &|vk| vk.alpha_g1 = g1);
        push("beta = generator", &|vk| vk.beta_g2 = g2);
        push("alpha = 0", &|vk| vk.alpha_g1 = zero1);
        push("beta = 0", &|vk| vk.beta_g2 = zero2);
        push("gamma = 0", &|vk| vk.gamma_g2 = zero2);
        push("delta = 0", &|vk| vk.delta_g2 = zero2);
        push("an ic = 0", &|vk| vk.gamma_abc_g1[3] = zero1);
        push("ic short", &|vk| vk.gamma_abc_g1.truncate(39));
        push("ic long", &|vk| vk.gamma_abc_g1.push(g1));
        push("beta halves differ", &|vk| {
            vk.beta_g2 = (vk.beta_g2 + g2).into_affine()
        });
        broken.push(("delta_g1 = generator", write_vk(&vk, beta, g1)));
        broken.push(("beta_g1 = generator", write_vk(&vk, g1, delta)));
        for (what, bytes) in broken {
            let refused = VerifyingKeys::from_vk_bytes([(circuit, bytes.as_slice())]);
            let why = refused.expect_err(what).why;
            // For its own reason, not only for one that follows from it.
            let reason = match what.split_once(" = ") {
                Some((name, "generator")) => {
                    format!("{} is the generator", name.trim_end_matches("_g1"))
                }
                Some((name, "0")) => name.trim_start_matches("an ").into(),
                _ => String::new(),
            };
            assert!(why.contains(&reason), "{what}: {why}");
        }
        // A key of another circuit, of its own circuit twice, and with a changed byte anywhere.
        assert!(
            VerifyingKeys::from_vk_bytes([(CircuitId::window(SectorSize::Kib2), good.bytes())])
                .is_err()
        );
        assert!(
            VerifyingKeys::from_vk_bytes([(circuit, good.bytes()), (circuit, good.bytes())])
                .is_err()
        );
        for at in (0..good.bytes().len()).step_by(91) {
            let mut bytes = good.bytes().to_vec();
            bytes[at] ^= 1;
            assert!(
                VerifyingKeys::from_vk_bytes([(circuit, bytes.as_slice())]).is_err(),
                "byte {at}"
            );
        }
    }

    #[test]
    fn tm_s6_a_key_has_exactly_its_fields() {
        let golden = golden(SectorSize::Kib2);
        for circuit in golden.keys.circuits() {
            let bytes = golden.keys.vk_bytes(circuit).expect("present");
            assert_eq!(
                bytes.len(),
                3 * 96 + 3 * 192 + 4 + 96 * (circuit.public_inputs() + 1)
            );
            let longer = [bytes, &[0]].concat();
            for wrong in [&longer[..], &bytes[..bytes.len() - 1]] {
                assert!(CheckedKey::read(circuit, wrong).is_err());
            }
        }
    }

    proptest::proptest! {
        /// Any bytes as a proof, or as a key: an error, no panic.
        #[test]
        fn tm_p17_any_bytes_are_an_error(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
            proptest::prop_assert!(decode_canonical(&bytes, 1).is_err());
            proptest::prop_assert!(CheckedKey::read(CircuitId::porep(SectorSize::Kib2), &bytes).is_err());
        }
    }
}
