//! The soundness gates of whole circuits: what threat row P15 asks before a circuit may be trusted.
//!
//! Walk: beside [`super::gadget`], whose rows these tests judge, and [`super::shape`], which pins them.
//! Spec: threat-model.md, section "Circuit". The circuits must stay Filecoin's row for row, so a finding here cannot be
//! repaired by another row: it is either a bug of ours or a looseness of Filecoin's that needs an argument at its call site.
//!
//! * [`lint`]: walking the rows once, which variable does each define? Hints and loose decompositions are allow-listed by call site.
//! * [`flip`]: change one value, solve forward, and some row must be left violated. Also bits of `value + r`, indexes with
//!   high bits, and bits that are none.
//! * [`differential`]: the vanilla verifier and the circuit give the same verdict on valid and on mutated statements.
//! * [`inputs`]: every public input is bound, in the rows and in the developers' keys.
//!
//! Cost: the ordinary run takes bounded samples, seconds in all. The full samples are one named command, minutes:
//! `cargo test -p prover -- --ignored`. Seeds are fixed and stand in every message.

use std::path::PathBuf;

use ark_bls12_381::Fr;
use ark_ff::{AdditiveGroup, BigInt, BigInteger, Field, PrimeField};
use rand::Rng;

use super::gadget::bits::FR_BITS;
use super::testing::rng;
use super::{CircuitId, CircuitKind};
use crate::ids::{PostRandomness, ProverId, SectorNumber, Seed, Ticket};
use crate::machine::Plan;
use crate::piece::PieceInfo;
use crate::piece::commp::commp_of;
use crate::porep::circuit::PorepCircuit;
use crate::porep::proof::VanillaProof;
use crate::post::challenge;
use crate::post::circuit::PostCircuit;
use crate::post::proof::{SectorProof, open};
use crate::progress::NoProgress;
use crate::seal::{SealRequest, create};
use crate::sector_dir::ReplicaFiles;
use crate::sector_dir::disk::RealDisk;
use crate::snark::cs::{Circuit, ConstraintSystem, Term};
use crate::spec::{RegisteredSeal, SectorSize, WINNING_CHALLENGES};
use crate::update::circuit::UpdateCircuit;
use crate::update::sector::tests::Case;

mod differential;
mod flip;
mod inputs;
mod lint;

/// A real sector: sealed files in a folder, and the vanilla proof of one seed.
struct Sector {
    size: SectorSize,
    number: SectorNumber,
    folder: tempfile::TempDir,
    porep: VanillaProof,
}

impl Sector {
    /// Half of the data is random, the rest zero: zero nodes have a second decomposition, see
    /// [`crate::snark::gadget::bits::to_bits_le`].
    fn seal(size: SectorSize, number: u64) -> Sector {
        let mut rng = rng(number);
        let bytes = usize::try_from(size.unpadded_bytes() / 2).expect("a small sector");
        let data: Vec<u8> = (0..bytes).map(|_| rng.r#gen()).collect();
        let (comm_p, piece) = commp_of(&data);
        let request = SealRequest {
            seal: RegisteredSeal::v1_1(size),
            prover: ProverId([9; 32]),
            sector: SectorNumber(number),
            ticket: Ticket(rng.r#gen()),
            pieces: vec![PieceInfo {
                comm_p,
                size: piece,
            }],
        };
        let plan = Plan::with_limits(2, 1 << 30).expect("two threads start");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let packed = create(&path(&folder), request, &mut [&mut &data[..]]).expect("packs");
        let labeled = packed.label(&plan, &NoProgress).expect("labels");
        let replicated = labeled.replicate(&plan, &NoProgress).expect("replicates");
        let challenged = replicated
            .challenge(Seed(rng.r#gen()), &plan, &NoProgress)
            .expect("opens");
        let porep = challenged.vanilla().clone();
        Sector {
            size,
            number: SectorNumber(number),
            folder,
            porep,
        }
    }

    fn opened(&self, leaves: &[u64]) -> SectorProof {
        let files = ReplicaFiles::open(&RealDisk, &path(&self.folder), self.size).expect("sealed");
        open(&files, self.number, self.porep.comm_r, leaves).expect("readable")
    }
}

/// The value of one side of a row. Most values are bits, and most coefficients are one.
fn value_of(side: &[Term], inputs: &[Fr], aux: &[Fr]) -> Fr {
    let values = side.iter().map(|(var, coefficient)| {
        let values = if var.is_aux() { aux } else { inputs };
        (values[var.index()], *coefficient)
    });
    let values = values.filter(|(value, _)| *value != Fr::ZERO);
    values.fold(Fr::ZERO, |sum, (value, coefficient)| {
        if coefficient == Fr::ONE {
            sum + value
        } else if value == Fr::ONE {
            sum + coefficient
        } else {
            sum + value * coefficient
        }
    })
}

fn path(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("sector")
}

/// A circuit with the witness of a real sector.
pub(super) enum Real {
    Porep(PorepCircuit),
    Post(PostCircuit),
    Update(UpdateCircuit),
}

impl Real {
    /// Of sectors 1 and, in a window that has room for it, 2.
    pub(super) fn new(circuit: CircuitId) -> Real {
        let size = circuit.size;
        let randomness = PostRandomness::masked([0xa7; 32]);
        let sectors = match circuit.kind {
            CircuitKind::Porep => {
                let porep = Sector::seal(size, 1).porep;
                return Real::Porep(porep.circuit(0).expect("canonical"));
            }
            CircuitKind::WindowPost => (1..=size.window_sectors() as u64)
                .map(|number| {
                    let sector = Sector::seal(size, number);
                    let leaves = challenge::window(size, &randomness, sector.number);
                    let opened = sector.opened(&leaves);
                    opened.witness(0..leaves.len()).expect("canonical")
                })
                .collect(),
            CircuitKind::WinningPost => {
                let sector = Sector::seal(size, 1);
                let leaves = challenge::winning(size, &randomness, sector.number);
                let opened = sector.opened(&leaves);
                let listed =
                    (0..WINNING_CHALLENGES).map(|i| opened.witness(i..i + 1).expect("canonical"));
                listed.collect()
            }
            CircuitKind::Update => {
                let vanilla = Case::new(size, 1).vanilla();
                return Real::Update(vanilla.circuit(0).expect("canonical"));
            }
        };
        Real::Post(PostCircuit { sectors })
    }
}

impl Circuit for Real {
    fn synthesize<CS: ConstraintSystem>(&self, cs: &mut CS) {
        match self {
            Real::Porep(circuit) => circuit.synthesize(cs),
            Real::Post(circuit) => circuit.synthesize(cs),
            Real::Update(circuit) => circuit.synthesize(cs),
        }
    }
}

/// `value + r`, if 255 bits reach that far: what a loose decomposition may spell instead of the value.
fn alias(value: Fr) -> Option<BigInt<4>> {
    let mut alias = Fr::MODULUS;
    let carry = alias.add_with_carry(&value.into_bigint());
    (!carry && alias.num_bits() as usize <= FR_BITS).then_some(alias)
}

/// The four circuits at 2 KiB, those of a PoSt first.
pub(super) fn circuits() -> [CircuitId; 4] {
    let size = SectorSize::Kib2;
    [
        CircuitId::window(size),
        CircuitId::winning(size),
        CircuitId::porep(size),
        CircuitId::update(size),
    ]
}
