//! The shape of every circuit, pinned: counts and the digest of all rows.
//!
//! Spec: `vectors/r1cs/README.md` §3; the numbers were recorded from Filecoin's circuits. A key is
//! made for one shape and stored with its digest; [`super::keys`] refuses a key whose digest is not
//! the one here (threat S4). A change of any row needs a change here, and a review.

use super::CircuitId;
use super::CircuitKind;
use super::cs::{Circuit, ConstraintSystem};
use super::record::{Counts, RowDigest};
use crate::porep::circuit::PorepCircuit;
use crate::post::circuit::PostCircuit;
use crate::spec::SectorSize;
use crate::update::circuit::UpdateCircuit;

/// A circuit's counts and row digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Sizes.
    pub counts: Counts,
    /// SHA-256 over the rows in canonical form, lower-case hex.
    pub rows_sha256: &'static str,
}

const fn row(
    circuit: CircuitId,
    inputs: usize,
    aux: usize,
    constraints: usize,
    rows_sha256: &'static str,
) -> (CircuitId, Shape) {
    assert!(circuit.public_inputs() + 1 == inputs);
    (
        circuit,
        Shape {
            counts: Counts {
                inputs,
                aux,
                constraints,
            },
            rows_sha256,
        },
    )
}

#[rustfmt::skip]
const SHAPES: [(CircuitId, Shape); 32] = [
    row(CircuitId::porep(SectorSize::Kib2), 40, 2_685_673, 2_687_921, "c48acf08e6220b0839cc17ab449cb1bf5d81d70f6c4048d301be4cadb3658429"),
    row(CircuitId::porep(SectorSize::Kib4), 40, 2_786_423, 2_788_733, "c30ccd010a3cc455bb0f9d85ae1907fac16708441ff3764ff54d247d242bcf37"),
    row(CircuitId::porep(SectorSize::Kib16), 40, 2_974_867, 2_977_173, "3370a12b2f18cd838359d221407177aa910a21715319500c500e4f2b6f8b6474"),
    row(CircuitId::porep(SectorSize::Kib32), 40, 3_075_617, 3_077_985, "2f47d57564fd171c1a48adb357f57f37a4d983da87c4176b8d8c3ee1cf6d5f6a"),
    row(CircuitId::porep(SectorSize::Mib8), 40, 3_842_449, 3_844_929, "41eb0931d976566782164f2aa18f26c7fe6cc7a1c4d467bf7afca912f339c920"),
    row(CircuitId::porep(SectorSize::Mib512), 40, 4_420_837, 4_423_433, "add96459eedc02101315804462e19733fdec2594cfcba585a78a4302a484bd59"),
    row(CircuitId::porep(SectorSize::Gib32), 328, 130_169_893, 130_278_541, "86a77ddcb20e46c8f18866c40276b89d63bc6524e68562b81c6e6961cffff756"),
    row(CircuitId::porep(SectorSize::Gib64), 328, 131_076_643, 131_185_849, "28a13587099a74ab07b1de25e3c930e083ca814b2636eaaf9d1973944ce49b0b"),
    row(CircuitId::winning(SectorSize::Kib2), 133, 91_674, 90_750, "a770d642c8b6425a6f575cc4e8812bb7d57030c907a260100880ea83edebcb71"),
    row(CircuitId::winning(SectorSize::Kib4), 133, 112_464, 111_474, "aba3f12a969793d2d85a866b559108bf0149464ecd341eb3ae286fd0fc753f5d"),
    row(CircuitId::winning(SectorSize::Kib16), 133, 127_116, 125_730, "eb3dd74da69d86f7eec825eb25a9a8d5fd94cdaba71eb149ada834ca8c4768f5"),
    row(CircuitId::winning(SectorSize::Kib32), 133, 147_906, 146_454, "22b15570cdf7c30dcb66483a5db4d13ee4af66954aed8535b2ae8cea1415f9f9"),
    row(CircuitId::winning(SectorSize::Mib8), 133, 233_442, 230_670, "a1aa1b70d68c5d284844a23b9afecf36f4dccbfe3450c9a76e5e06f99f0bcd4f"),
    row(CircuitId::winning(SectorSize::Mib512), 133, 304_326, 300_630, "ebc86f72d378286519b3077fe6436011931dcf805db8b1fe96758f73c8204e00"),
    row(CircuitId::winning(SectorSize::Gib32), 133, 375_210, 370_590, "952195f3ab45afe853212e9fa8e11d7ed4bec4122ba263e426ccd3fba1278f94"),
    row(CircuitId::winning(SectorSize::Gib64), 133, 396_000, 391_314, "d3982b0761ee9e1663e6f04e10da16fc51f7d9b58f951ce2e8989719055968bd"),
    row(CircuitId::window(SectorSize::Kib2), 23, 22_128, 21_866, "8a2c0d48ccf8b908cc1f015ea64e386a11e0349a5c94a30aa34a8f8e5f37f779"),
    row(CircuitId::window(SectorSize::Kib4), 23, 28_428, 28_146, "2c7d7dbd4eb2fd6717ada1ef4018d2f6ff9cb7048c794543f40e94745f7c1ff6"),
    row(CircuitId::window(SectorSize::Kib16), 23, 32_868, 32_466, "0294fbecdce57807161f9e0f0b75b3fba9961d907e4c65343448745dd8395cc6"),
    row(CircuitId::window(SectorSize::Kib32), 23, 39_168, 38_746, "2500e5781881715cb56be11cb76a5c7fda34d3a475d059210bfcac27f6e78dc7"),
    row(CircuitId::window(SectorSize::Mib8), 23, 65_088, 64_266, "66ede5a29eb8887c75d8a02fd0a10e7a3313ea7575d924b80701376e268990ca"),
    row(CircuitId::window(SectorSize::Mib512), 23, 86_568, 85_466, "56c368af21afc875133de71463403b571c970bee2025ccb24b9f77159d90a454"),
    row(CircuitId::window(SectorSize::Gib32), 25_840, 126_902_376, 125_279_217, "767c39b95466ce5e90a649f136678bd38a19fff94e2bb4a2efe3b8171dd25b97"),
    row(CircuitId::window(SectorSize::Gib64), 25_301, 131_500_200, 129_887_900, "cf8daee292662b414353bfa283d77aa88526d97f71c082e0ed30feb5cf02f0b8"),
    row(CircuitId::update(SectorSize::Kib2), 5, 1_703_569, 1_705_039, "f7df72b4a9d40db05f2f02b87e70bbf5887c14242c918579423673a3fc85ab35"),
    row(CircuitId::update(SectorSize::Kib4), 5, 2_163_189, 2_165_109, "e053a4b036c64532b2929e01ef9951d180c7eb7480886426c8e63162aba601e5"),
    row(CircuitId::update(SectorSize::Kib16), 5, 6_293_944, 6_300_021, "95901cff7438c70e1b8549f7480fb1e451884694b1b0e6e2115f3e21696af84f"),
    row(CircuitId::update(SectorSize::Kib32), 5, 6_753_564, 6_760_091, "0b574e28685fc4e9179db802dd9ad56fad539d5dda1bfc07b341e1cb048df747"),
    row(CircuitId::update(SectorSize::Mib8), 5, 9_998_039, 10_007_503, "e24acc86f8c17835410a3e73d0b447faa04538d7bc3302be2fb45e3f68bd0dbf"),
    row(CircuitId::update(SectorSize::Mib512), 5, 57_401_314, 57_450_479, "7cf744c996fe422c67a666cbe9036b32a2e676692aa5a02a94d4c213c93246f9"),
    row(CircuitId::update(SectorSize::Gib32), 5, 80_978_488, 81_049_499, "6e85c79f3e15c908360e87e0e8f074f5811aa443c2891fd246334bf1e43b8a6b"),
    row(CircuitId::update(SectorSize::Gib64), 5, 84_931_220, 85_006_101, "773c90362db8bb89476fb409ce242222a6a2a7b9903cbec78df68e6e30adbb1f"),
];

/// The pinned shape of a circuit.
pub fn pinned(circuit: CircuitId) -> Shape {
    let found = SHAPES.iter().find(|(id, _)| *id == circuit);
    found.expect("the table has every kind at every size").1
}

/// A key is for the pinned rows or for nothing: asked with [`rows_sha256`] of this build's circuit before a key is put down.
///
/// # Panics
/// When the rows are others: a mistake of ours, and no input leads here.
pub(super) fn require_reviewed(circuit: CircuitId, rows_sha256: &str) {
    assert_eq!(
        rows_sha256,
        pinned(circuit).rows_sha256,
        "the rows of {circuit} changed without a review"
    );
}

/// A circuit without a witness: zeros everywhere.
pub enum Blank {
    /// PoRep.
    Porep(PorepCircuit),
    /// WindowPoSt or WinningPoSt.
    Post(PostCircuit),
    /// Sector update.
    Update(UpdateCircuit),
}

impl Blank {
    /// The circuit of an id.
    pub fn new(circuit: CircuitId) -> Blank {
        match circuit.kind {
            CircuitKind::Porep => Blank::Porep(PorepCircuit::blank(circuit.size)),
            CircuitKind::WindowPost | CircuitKind::WinningPost => {
                Blank::Post(PostCircuit::blank(circuit.kind, circuit.size))
            }
            CircuitKind::Update => Blank::Update(UpdateCircuit::blank(circuit.size)),
        }
    }
}

impl Circuit for Blank {
    fn synthesize<CS: ConstraintSystem>(&self, cs: &mut CS) {
        match self {
            Blank::Porep(circuit) => circuit.synthesize(cs),
            Blank::Post(circuit) => circuit.synthesize(cs),
            Blank::Update(circuit) => circuit.synthesize(cs),
        }
    }
}

/// Digest of a circuit's rows, lower-case hex.
pub fn rows_sha256(circuit: &impl Circuit) -> String {
    let mut cs = RowDigest::with_marks(Vec::new());
    circuit.synthesize(&mut cs);
    hex::encode(cs.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snark::gadget::tests::recorded;
    use crate::snark::record::Density;

    /// Sizes of which no digest was recorded. Their counts of rows are Filecoin's; the digests of the first three were made by
    /// a second implementation, in Python, that makes the recorded digest at 2 KiB too; that of 64 GiB is our own.
    const OURS: [CircuitId; 4] = [
        CircuitId::update(SectorSize::Kib4),
        CircuitId::update(SectorSize::Kib16),
        CircuitId::update(SectorSize::Kib32),
        CircuitId::update(SectorSize::Gib64),
    ];

    #[test]
    fn the_table_is_what_filecoin_recorded() {
        let recorded = recorded("circuits.json");
        let recorded = recorded["circuits"].as_array().expect("a list");
        assert_eq!(recorded.len(), SHAPES.len() - OURS.len());
        for (circuit, shape) in SHAPES {
            let name = circuit.to_string().to_lowercase();
            let entry = recorded.iter().find(|entry| entry["circuit"] == name);
            let Some(entry) = entry else {
                assert!(OURS.contains(&circuit), "{name} is not recorded");
                continue;
            };
            assert_eq!(entry["rows_sha256"], shape.rows_sha256, "{name}");
            assert_eq!(entry["inputs"], shape.counts.inputs, "{name}");
            assert_eq!(entry["aux"], shape.counts.aux, "{name}");
            assert_eq!(entry["constraints"], shape.counts.constraints, "{name}");
            assert_eq!(entry["domain_size"], shape.counts.domain(), "{name}");
        }
    }

    /// Lengths of a key's vectors, and which points it leaves out, follow from these.
    #[test]
    fn densities_are_filecoins() {
        let recorded = recorded("circuits.json");
        for size in [SectorSize::Kib2, SectorSize::Mib8] {
            for circuit in [
                CircuitId::porep(size),
                CircuitId::window(size),
                CircuitId::winning(size),
                CircuitId::update(size),
            ] {
                let density = Density::of(&Blank::new(circuit));
                let name = circuit.to_string().to_lowercase();
                let entry = recorded["circuits"]
                    .as_array()
                    .expect("a list")
                    .iter()
                    .find(|e| e["circuit"] == name);
                let entry = entry.expect("every circuit");
                let count = |mask: &[bool]| mask.iter().filter(|occurs| **occurs).count();
                assert_eq!(entry["aux_in_a"], count(&density.in_a), "{name}");
                assert_eq!(entry["aux_in_b"], count(&density.in_b), "{name}");
                assert_eq!(entry["inputs_in_b"], count(&density.inputs_in_b), "{name}");
                assert_eq!(density.counts, pinned(circuit).counts, "{name}");
            }
        }
    }

    /// One changed coefficient, one swapped pair of rows: another digest.
    #[test]
    fn tm_s4_any_changed_row_changes_the_digest() {
        use crate::snark::cs::{Num, Term, Var};
        use ark_bls12_381::Fr;
        struct Rows(Vec<[Vec<Term>; 3]>);
        impl Circuit for Rows {
            fn synthesize<CS: ConstraintSystem>(&self, cs: &mut CS) {
                for _ in 0..4 {
                    Num::alloc(cs, Fr::from(0u64));
                }
                self.0.iter().for_each(|[a, b, c]| cs.row(a, b, c));
            }
        }
        let term = |var: u32, k: u64| vec![(Var::aux(var), Fr::from(k))];
        let base = vec![
            [term(0, 1), term(1, 1), term(2, 1)],
            [term(1, 1), term(2, 3), term(3, 1)],
        ];
        let digest = rows_sha256(&Rows(base.clone()));
        for side in 0..3 {
            let mut other = base.clone();
            other[1][side][0].1 += Fr::from(1u64);
            assert_ne!(rows_sha256(&Rows(other)), digest);
        }
        let mut swapped = base.clone();
        swapped.swap(0, 1);
        assert_ne!(rows_sha256(&Rows(swapped)), digest);
        let mut shorter = base.clone();
        shorter.pop();
        assert_ne!(rows_sha256(&Rows(shorter)), digest);
    }
}
