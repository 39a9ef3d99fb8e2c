//! Decoders of proofs and keys, and the verifiers behind them.

use crate::snark::groth16::{CheckedKey, decode_canonical, encode};
use crate::snark::{CircuitId, CircuitKind};
use crate::spec::SectorSize;
use crate::verify::{
    self, PorepStatement, Statement, UpdateStatement, VerifyingKeys, WindowPostStatement,
    WinningPostStatement,
};

/// Any bytes that read as Groth16 proofs, of one partition or of ten, are written back as those very bytes.
pub fn proof_bytes(bytes: &[u8]) {
    for partitions in [0, 1, 10] {
        if let Ok(proofs) = decode_canonical(bytes, partitions) {
            assert_eq!(proofs.len(), partitions);
            let again: Vec<u8> = proofs.iter().flat_map(encode).collect();
            assert_eq!(again, bytes);
        }
    }
}

/// Any bytes that read as a verifying key are kept as those very bytes, with a point for every input of the circuit.
pub fn verifying_key(bytes: &[u8]) {
    for kind in CircuitKind::ALL {
        let circuit = CircuitId {
            kind,
            size: SectorSize::Kib2,
        };
        if let Ok(key) = CheckedKey::read(circuit, bytes) {
            assert_eq!(key.bytes(), bytes);
            assert_eq!(key.key().gamma_abc_g1.len(), circuit.public_inputs() + 1);
        }
    }
}

/// Names of circuits have one text each.
pub fn circuit_name(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(circuit) = text.parse::<CircuitId>()
    {
        assert_eq!(circuit.to_string(), text);
    }
}

/// Any statement with any proof gets a verdict from the front door, the same alone and in a batch. The statement is read
/// from the first bytes, whatever they are; the rest is the proof.
pub fn front_door(keys: &VerifyingKeys, bytes: &[u8]) {
    let mut rest = bytes;
    let mut take = || {
        let (head, tail) = rest.split_at(rest.len().min(32));
        let mut out = [0u8; 32];
        out[..head.len()].copy_from_slice(head);
        rest = tail;
        out
    };
    let [kind, a, b, c, d] = std::array::from_fn(|_| take());
    let size = [SectorSize::Kib2, SectorSize::Mib8, SectorSize::Gib32][usize::from(kind[1]) % 3];
    let number = |bytes: [u8; 32]| {
        crate::ids::SectorNumber(u64::from_le_bytes(
            bytes[..8].try_into().expect("eight bytes"),
        ))
    };
    // Not necessarily canonical: the masked form is what a chain makes, and the other is refused.
    let randomness = crate::ids::PostRandomness::masked(a);
    let statement = match kind[0] % 4 {
        0 => Statement::Porep(PorepStatement {
            seal: crate::spec::RegisteredSeal::v1_1(size),
            prover: crate::ids::ProverId(a),
            sector: number(b),
            ticket: crate::ids::Ticket(b),
            seed: crate::ids::Seed(c),
            comm_d: crate::commitment::CommD(c),
            comm_r: crate::commitment::CommR(d),
        }),
        1 => Statement::Window(WindowPostStatement {
            size,
            prover: crate::ids::ProverId(a),
            randomness,
            sectors: [(number(b), c), (number(c), d), (number(d), b)]
                .into_iter()
                .take(usize::from(kind[2]) % 4)
                .map(|(number, comm_r)| (number, crate::commitment::CommR(comm_r)))
                .collect(),
        }),
        2 => Statement::Winning(WinningPostStatement {
            size,
            prover: crate::ids::ProverId(a),
            randomness,
            sector: (number(b), crate::commitment::CommR(c)),
        }),
        _ => Statement::Update(UpdateStatement {
            size,
            comm_r_old: crate::commitment::CommR(b),
            comm_d_new: crate::commitment::CommD(c),
            comm_r_new: crate::commitment::CommR(d),
        }),
    };
    let alone = match &statement {
        Statement::Porep(s) => verify::porep(keys, s, rest),
        Statement::Window(s) => verify::window_post(keys, s, rest),
        Statement::Winning(s) => verify::winning_post(keys, s, rest),
        Statement::Update(s) => verify::update(keys, s, rest),
    };
    assert!(alone.is_err(), "nobody proved a statement made of noise");
    assert_eq!(verify::batch(keys, &[(statement, rest)]), [alone]);
}

/// [`front_door`] without keys: what it does before it looks at one.
pub fn front_door_without_keys(bytes: &[u8]) {
    let keys = VerifyingKeys::from_vk_bytes([]).expect("no key is a sound set of keys");
    front_door(&keys, bytes);
}
