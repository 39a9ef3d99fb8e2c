//! Batches give the same verdicts with and without the CPU's wide multiplications. A process of its own, because
//! [`prover::instructions::portable_only`] is for all threads.

use ark_bls12_381::{Bls12_381, Fr};
use ark_ec::CurveGroup;
use ark_ff::Field;
use ark_groth16::Proof;
use ark_serialize::{CanonicalDeserialize, CanonicalSerialize};
use prover::verify::{
    self, CircuitId, ProofBytesError, Statement, VerifyError, VerifyingKeys, WinningPostStatement,
};
use prover::{CommR, PostRandomness, ProverId, SectorNumber, SectorSize};
use serde_json::Value;

const SIZE: SectorSize = SectorSize::Kib2;

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().expect("text")).expect("hex")
}

fn bytes32(value: &Value) -> [u8; 32] {
    bytes(value).try_into().expect("32 bytes")
}

fn encoded(proof: &Proof<Bls12_381>) -> Vec<u8> {
    let mut out = Vec::new();
    proof.serialize_compressed(&mut out).expect("memory");
    out
}

#[test]
fn tm_v7_batches_are_judged_alike_with_and_without_lanes() {
    let file = fixtures::json("vectors/filecoin.json");
    let sectors = &file["sectors"][SIZE.to_string()];
    let key = bytes(&sectors["winning_vk"]);
    let keys = VerifyingKeys::from_vk_bytes([(CircuitId::winning(SIZE), key.as_slice())])
        .expect("Filecoin's key");
    // The retired rule of the other posts is no statement's.
    let posts = sectors["post"].as_array().expect("a list");
    let post = &posts
        .iter()
        .find(|post| post["winning"]["api_version"] == "V1_1_0")
        .expect("one under the rule in force")["winning"];
    let statement = WinningPostStatement {
        size: SIZE,
        prover: ProverId(bytes32(&post["prover_id"])),
        randomness: PostRandomness::new(bytes32(&post["randomness"])).expect("canonical"),
        sector: (
            SectorNumber(post["sector_id"].as_u64().expect("a number")),
            CommR(bytes32(&post["comm_r"])),
        ),
    };
    let good = bytes(&post["proof"]);
    let proof = Proof::<Bls12_381>::deserialize_compressed(&good[..]).expect("a real proof");

    let mut items: Vec<(Statement, Vec<u8>, Result<(), VerifyError>)> = Vec::new();
    let mut push = |proof: &Proof<Bls12_381>, verdict| {
        items.push((
            Statement::Winning(statement.clone()),
            encoded(proof),
            verdict,
        ));
    };
    for k in 1..=18u64 {
        let k = Fr::from(k);
        let other = Proof {
            a: (proof.a * k).into_affine(),
            b: (proof.b * k.inverse().expect("not zero")).into_affine(),
            c: proof.c,
        };
        push(&other, Ok(()));
    }
    let rejected = Err(VerifyError::Rejected);
    let moved = Proof {
        a: -proof.a,
        ..proof.clone()
    };
    push(&moved, rejected.clone());
    let swapped = Proof {
        c: proof.a,
        ..proof.clone()
    };
    push(&swapped, rejected.clone());
    let other_sector = WinningPostStatement {
        randomness: PostRandomness::masked([7; 32]),
        ..statement.clone()
    };
    items.push((Statement::Winning(other_sector), good.clone(), rejected));
    for (at, name) in [(0, "A"), (48, "B"), (144, "C")] {
        let mut flagged = good.clone();
        flagged[at] ^= 0x40;
        let error = VerifyError::Bytes(ProofBytesError::Point(name));
        items.push((Statement::Winning(statement.clone()), flagged, Err(error)));
    }
    let short = VerifyError::Bytes(ProofBytesError::Length {
        got: 191,
        expected: 192,
    });
    items.push((
        Statement::Winning(statement.clone()),
        good[..191].to_vec(),
        Err(short),
    ));

    for portable in [false, true] {
        prover::instructions::portable_only(portable);
        // All good ones; then batches that start at each item, so that the bad ones are everywhere.
        for from in 0..items.len() {
            for count in [1, 3, 8, 9, 17, 18] {
                let some: Vec<_> = items.iter().cycle().skip(from).take(count).collect();
                let asked: Vec<_> = some
                    .iter()
                    .map(|(statement, proof, _)| (statement.clone(), proof.as_slice()))
                    .collect();
                let expected: Vec<_> = some.iter().map(|(.., verdict)| verdict.clone()).collect();
                let found = verify::batch(&keys, &asked);
                assert_eq!(found, expected, "portable {portable}, {count} from {from}");
            }
        }
    }
}
