//! The small groups: one function per group, each against the product's own code.

use super::Group;
use super::fields::{Fault, Fields};
use crate::commitment::{CommC, CommD, CommP, CommR, CommRLast};
use crate::hash::poseidon::{self, Arity};
use crate::hash::sha256;
use crate::ids::{PorepId, PostRandomness, ProverId, ReplicaId, SectorNumber, Seed, Ticket};
use crate::piece::commp::{self, CommpHasher};
use crate::piece::size::{PaddedPieceSize, UnpaddedPieceSize};
use crate::piece::{PieceInfo, fr32, layout};
use crate::porep::challenge::{self, SyntheticChallenges};
use crate::porep::feistel::Feistel;
use crate::porep::graph::{Graph, GraphSeeds, domain_seed};
use crate::porep::{replica, replica_id};
use crate::post::challenge as post;
use crate::spec::{ApiVersion, SectorSize};
use serde_json::Value;

type Outcome = Result<(), Fault>;

/// Runs one group of `small_vectors`.
pub(super) fn run(name: &str, list: &Value) -> Group {
    let mut group = Group::new(format!("small_vectors.{name}"));
    let check: fn(&mut Group, &Fields<'_>) -> Outcome = match name {
        "comm_d_from_pieces" => comm_d_from_pieces,
        "comm_r_from_parts" => comm_r_from_parts,
        "feistel" => feistel,
        "fr32_padding" => fr32_padding,
        "piece_commitments" => piece_commitments,
        "porep_challenges" => porep_challenges,
        "porep_seeds" => porep_seeds,
        "poseidon" => poseidon,
        "post_challenges" => post_challenges,
        "post_leaf_challenge_function" => post_leaf,
        "replica_id" => replica_ids,
        "sdr_parents" => sdr_parents,
        "sha256_254_node" => sha256_node,
        "zero_piece_commitments" => zero_pieces,
        _ => {
            group.unknown.push(group.name.clone());
            return group;
        }
    };
    group.entries(list, check);
    group
}

fn size_of(fields: &Fields<'_>) -> Result<SectorSize, Fault> {
    let bytes = fields.u64("sector_size")?;
    SectorSize::from_bytes(bytes)
        .ok_or_else(|| Fault::new(fields.place("sector_size"), "not a sector size"))
}

fn padded_size(fields: &Fields<'_>) -> Result<PaddedPieceSize, Fault> {
    let bytes = fields.u64("unpadded_len")?;
    let size =
        UnpaddedPieceSize::new(bytes).map_err(|e| Fault::new(fields.place("unpadded_len"), e))?;
    Ok(size.padded())
}

/// The file's root covers only as much as its pieces close to; zeros extend it to the sector's CommD.
fn comm_d_from_pieces(group: &mut Group, fields: &Fields<'_>) -> Outcome {
    let size = size_of(fields)?;
    let mut pieces = Vec::new();
    for piece in fields.objects("pieces")? {
        pieces.push(PieceInfo {
            comm_p: CommP(piece.bytes32("comm_p")?),
            size: padded_size(&piece)?,
        });
        group.unknown.extend(piece.unread());
    }
    let layout = layout::plan(&pieces, size).map_err(|e| Fault::new(&fields.at, e))?;
    let offsets: Vec<u64> = layout
        .placements
        .iter()
        .map(|placement| placement.offset)
        .collect();
    group.equal(
        &fields.place("padded_offsets"),
        fields.numbers("padded_offsets")?,
        offsets,
    );

    let covered = fields.u64("peer_root_covers_bytes")?;
    let sized = |bytes| {
        PaddedPieceSize::new(bytes)
            .map_err(|e| Fault::new(fields.place("peer_root_covers_bytes"), e))
    };
    let (from, to) = (sized(covered)?, sized(size.bytes())?);
    if from > to {
        return Err(Fault::new(
            fields.place("peer_root_covers_bytes"),
            "more than the sector",
        ));
    }
    let whole = commp::extend_with_zeros(CommP(fields.bytes32("comm_d")?), from, to);
    group.equal(&fields.place("comm_d"), CommD(whole.0), layout.comm_d);
    Ok(())
}

fn comm_r_from_parts(group: &mut Group, fields: &Fields<'_>) -> Outcome {
    let parts = (
        CommC(fields.bytes32("comm_c")?),
        CommRLast(fields.bytes32("comm_r_last")?),
    );
    let expected = CommR(fields.bytes32("comm_r")?);
    group.equal(
        &fields.at,
        Some(expected),
        replica::comm_r(&parts.0, &parts.1),
    );
    Ok(())
}

fn feistel(group: &mut Group, fields: &Fields<'_>) -> Outcome {
    let elements = fields.u64("num_elements")?;
    let keys = fields.numbers("keys")?;
    let keys: [u64; 4] = keys
        .try_into()
        .map_err(|_| Fault::new(fields.place("keys"), "expected four keys"))?;
    if !(1..=1 << 62).contains(&elements) {
        return Err(Fault::new(
            fields.place("num_elements"),
            "expected 1 to 2^62",
        ));
    }
    let feistel = Feistel::new(elements, keys);
    let half_bits = feistel.half_bits();
    let mask = (1u64 << half_bits) - 1;
    group.equal(
        &fields.place("half_bits"),
        fields.u64("half_bits")?,
        u64::from(half_bits),
    );
    group.equal(&fields.place("right_mask"), fields.u64("right_mask")?, mask);
    group.equal(
        &fields.place("left_mask"),
        fields.u64("left_mask")?,
        mask << half_bits,
    );
    for pair in fields.list("permute")? {
        match super::fields::numbers(pair).as_deref() {
            // A value outside the domain might walk for ever.
            Some(&[value, image]) if value < elements => {
                group.equal(
                    &format!("{} of {value}", fields.at),
                    image,
                    feistel.permute(value),
                );
            }
            _ => {
                return Err(Fault::new(
                    fields.place("permute"),
                    "expected [value below num_elements, image]",
                ));
            }
        }
    }
    Ok(())
}

fn fr32_padding(group: &mut Group, fields: &Fields<'_>) -> Outcome {
    let raw = fields.bytes("raw")?;
    let padded = fields.bytes("padded")?;
    group.equal(
        &fields.place("raw_len"),
        fields.usize("raw_len")?,
        raw.len(),
    );
    group.equal(
        &fields.place("padded_len"),
        fields.usize("padded_len")?,
        padded.len(),
    );
    if fields.optional("rule").is_some() {
        let mut generated = vec![0; raw.len()];
        fields.rule()?.fill(0, &mut generated);
        group.check(&fields.place("rule"), generated == raw, || {
            "the rule makes other bytes".into()
        });
    }
    // `what` describes input without a rule.
    fields.optional("what");
    let found = fr32::pad(&raw);
    group.check(&fields.place("padded"), found == padded, || {
        format!("found {}", hex::encode(&found))
    });
    let back = fr32::unpad(&padded).map_err(|e| Fault::new(fields.place("padded"), e))?;
    // Whole nodes carry at least the data, the rest of the last node is zero fill.
    let holds = back.get(..raw.len()).is_some_and(|data| data == raw)
        || back == raw[..back.len().min(raw.len())];
    let expected = fields
        .optional("unpad_roundtrip_ok")
        .is_none_or(|ok| ok.as_bool() == Some(true));
    group.equal(&fields.place("unpad_roundtrip_ok"), expected, holds);
    Ok(())
}

fn piece_commitments(group: &mut Group, fields: &Fields<'_>) -> Outcome {
    let len = fields.length("unpadded_len")?;
    let mut hasher = CommpHasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < len {
        let count = usize::try_from(len - at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        fields.rule()?.fill(at, &mut buffer[..count]);
        hasher.update(&buffer[..count]);
        at = hasher.len();
    }
    let (comm_p, size) = hasher.finish();
    group.equal(
        &fields.place("padded_len"),
        fields.u64("padded_len")?,
        size.bytes(),
    );
    group.equal(
        &fields.place("comm_p"),
        CommP(fields.bytes32("comm_p")?),
        comm_p,
    );
    Ok(())
}

fn zero_pieces(group: &mut Group, fields: &Fields<'_>) -> Outcome {
    let expected = CommP(fields.bytes32("comm_p_of_zeros")?);
    group.equal(
        &fields.at,
        expected,
        commp::zero_commitment(padded_size(fields)?),
    );
    Ok(())
}

fn porep_challenges(group: &mut Group, fields: &Fields<'_>) -> Outcome {
    let size = size_of(fields)?;
    let replica_id = ReplicaId(fields.bytes32("replica_id")?);
    let comm_r = CommR(fields.bytes32("comm_r")?);
    let seed = Seed(fields.bytes32("seed")?);
    group.equal(
        &fields.place("sector_nodes"),
        fields.u64("sector_nodes")?,
        size.nodes(),
    );
    let per_partition = fields.usize("challenges_per_partition")?;
    group.equal(
        &fields.place("challenges_per_partition"),
        per_partition,
        size.challenges_per_partition(),
    );
    check_partitions(
        group,
        fields,
        "interactive_partition_then_challenges",
        |partition| challenge::interactive(size, &replica_id, &seed, partition),
    )?;
    check_partitions(
        group,
        fields,
        "non_interactive_partition_then_challenges",
        |partition| challenge::non_interactive(size, &replica_id, &comm_r, partition),
    )?;
    if fields
        .optional("synthetic_partition_then_challenges")
        .is_some()
    {
        let synthetic = SyntheticChallenges::new(size, &replica_id, &comm_r);
        check_partitions(
            group,
            fields,
            "synthetic_partition_then_challenges",
            |partition| synthetic.partition(size, &seed, partition),
        )?;
    }
    Ok(())
}

fn check_partitions(
    group: &mut Group,
    fields: &Fields<'_>,
    key: &str,
    challenges: impl Fn(usize) -> Vec<u64>,
) -> Outcome {
    for (partition, expected) in fields.rows(key)? {
        // No proof has more than 126 partitions.
        let partition = usize::try_from(partition).ok().filter(|&p| p < 1000);
        let partition =
            partition.ok_or_else(|| Fault::new(fields.place(key), "partition out of range"))?;
        group.equal(
            &format!("{}, partition {partition}", fields.place(key)),
            expected,
            challenges(partition),
        );
    }
    Ok(())
}

fn porep_seeds(group: &mut Group, fields: &Fields<'_>) -> Outcome {
    let porep_id = PorepId(fields.bytes32("porep_id")?);
    let seeds = GraphSeeds::new(&porep_id);
    for (key, tag) in [
        ("drsample_domain_seed", "Filecoin_DRSample"),
        ("feistel_domain_seed", "Filecoin_Feistel"),
    ] {
        group.equal(
            &fields.place(key),
            fields.bytes32(key)?,
            domain_seed(tag, &porep_id),
        );
    }
    group.equal(
        &fields.place("drg_seed_28_bytes"),
        fields.bytes("drg_seed_28_bytes")?,
        seeds.drg.to_vec(),
    );
    group.equal(
        &fields.place("feistel_keys_u64"),
        fields.numbers("feistel_keys_u64")?,
        seeds.feistel.to_vec(),
    );
    Ok(())
}

fn poseidon(group: &mut Group, fields: &Fields<'_>) -> Outcome {
    let arity = Arity::from_len(fields.usize("arity")?)
        .ok_or_else(|| Fault::new(fields.place("arity"), "not an arity of this prover"))?;
    let constants = poseidon::constants(arity);
    let bytes = |elements: &[ark_bls12_381::Fr]| {
        elements
            .iter()
            .map(poseidon::node_from_fr)
            .collect::<Vec<_>>()
    };
    let (round, compressed) = (bytes(&constants.round), bytes(&constants.compressed));
    let mds: Vec<_> = constants.mds.iter().flat_map(|row| bytes(row)).collect();
    let digest = |nodes: &[[u8; 32]]| sha256::digest(&[nodes.as_flattened()]);

    group.equal(
        &fields.place("width"),
        fields.usize("width")?,
        arity.width(),
    );
    group.equal(
        &fields.place("full_rounds"),
        fields.usize("full_rounds")?,
        poseidon::FULL_ROUNDS,
    );
    group.equal(
        &fields.place("partial_rounds"),
        fields.usize("partial_rounds")?,
        arity.partial_rounds(),
    );
    group.equal(
        &fields.place("domain_tag"),
        fields.bytes32("domain_tag")?,
        poseidon::node_from_fr(&arity.merkle_tag()),
    );
    group.equal(
        &fields.place("hash_type"),
        fields.text("hash_type")?,
        "MerkleTree",
    );
    group.equal(
        &fields.place("strength"),
        fields.text("strength")?,
        "Standard(128)",
    );
    group.equal(
        &fields.place("round_constants_count"),
        fields.usize("round_constants_count")?,
        round.len(),
    );
    group.equal(
        &fields.place("round_constants_first8"),
        fields.nodes("round_constants_first8")?,
        round[..8].to_vec(),
    );
    let last = round[round.len() - 2..].to_vec();
    group.equal(
        &fields.place("round_constants_last2"),
        fields.nodes("round_constants_last2")?,
        last,
    );
    group.equal(
        &fields.place("mds_row0"),
        fields.nodes("mds_row0")?,
        mds[..arity.width()].to_vec(),
    );
    let count = "compressed_round_constants_count";
    group.equal(&fields.place(count), fields.usize(count)?, compressed.len());
    for (key, nodes) in [
        ("round_constants_sha256_of_concat_le", &round),
        (
            "compressed_round_constants_sha256_of_concat_le",
            &compressed,
        ),
        ("mds_sha256_of_rowmajor_concat_le", &mds),
    ] {
        group.equal(&fields.place(key), fields.bytes32(key)?, digest(nodes));
    }
    for case in fields.objects("cases")? {
        let input = case.nodes("in")?;
        if input.len() != arity.len() {
            return Err(Fault::new(
                case.place("in"),
                "another number of elements than the arity",
            ));
        }
        // `what` says in words what `in` holds.
        case.optional("what");
        let mut out = [[0; 32]];
        let found = poseidon::hash_nodes(arity, &input, &mut out)
            .ok()
            .map(|()| out[0]);
        group.equal(&case.at, Some(case.bytes32("out")?), found);
        group.unknown.extend(case.unread());
    }
    Ok(())
}

pub(super) fn randomness(fields: &Fields<'_>) -> Result<PostRandomness, Fault> {
    PostRandomness::new(fields.bytes32("randomness")?)
        .map_err(|e| Fault::new(fields.place("randomness"), e))
}

fn post_challenges(group: &mut Group, fields: &Fields<'_>) -> Outcome {
    let (size, api) = (size_of(fields)?, fields.api_version()?);
    let randomness = randomness(fields)?;
    let prover = ProverId(fields.bytes32("prover_id")?);
    let per_partition = "window_sectors_per_partition";
    group.equal(
        &fields.place(per_partition),
        fields.usize(per_partition)?,
        size.window_sectors(),
    );
    for (position, (sector, expected)) in (0..).zip(fields.rows("window_leaf_challenges")?) {
        let found = post::window_at(size, api, &randomness, SectorNumber(sector), position);
        group.equal(
            &format!("{} window, sector {sector}", fields.at),
            expected,
            found.to_vec(),
        );
    }
    for (sector, expected) in fields.rows("winning_leaf_challenges")? {
        let found = post::winning(size, &randomness, SectorNumber(sector));
        group.equal(
            &format!("{} winning, sector {sector}", fields.at),
            expected,
            found.to_vec(),
        );
    }
    for (eligible, expected) in fields.rows("winning_sector_choice")? {
        if eligible == 0 {
            return Err(Fault::new(
                fields.place("winning_sector_choice"),
                "a choice among no sectors",
            ));
        }
        for (n, expected) in (0..).zip(expected) {
            let found = post::winning_sector(&prover, &randomness, n, eligible);
            group.equal(
                &format!("{} choice of {eligible}", fields.at),
                expected,
                found,
            );
        }
    }
    Ok(())
}

fn post_leaf(group: &mut Group, fields: &Fields<'_>) -> Outcome {
    let (size, sector) = (size_of(fields)?, SectorNumber(fields.u64("sector_id")?));
    let found = post::leaf(
        size.nodes(),
        &randomness(fields)?,
        sector,
        fields.u64("challenge_index")?,
    );
    group.equal(&fields.at, fields.u64("leaf")?, found);
    Ok(())
}

fn replica_ids(group: &mut Group, fields: &Fields<'_>) -> Outcome {
    let found = replica_id(
        &ProverId(fields.bytes32("prover_id")?),
        SectorNumber(fields.u64("sector_id")?),
        &Ticket(fields.bytes32("ticket")?),
        &CommD(fields.bytes32("comm_d")?),
        &PorepId(fields.bytes32("porep_id")?),
    );
    group.equal(&fields.at, ReplicaId(fields.bytes32("replica_id")?), found);
    Ok(())
}

fn sdr_parents(group: &mut Group, fields: &Fields<'_>) -> Outcome {
    let (size, api) = (size_of(fields)?, fields.api_version()?);
    group.equal(&fields.place("nodes"), fields.u64("nodes")?, size.nodes());
    let note = fields.text("legacy_note")?;
    group.equal(
        &fields.place("legacy_note"),
        !note.is_empty(),
        api == ApiVersion::V1_0,
    );
    let graph = Graph::new(size, &PorepId(fields.bytes32("porep_id")?), api);
    for (node, expected) in fields.rows("rows_node_then_6_base_8_expander")? {
        if node >= graph.nodes() {
            return Err(Fault::new(
                &fields.at,
                format!("node {node} is outside the sector"),
            ));
        }
        let found = graph.parents(node).map(u64::from).to_vec();
        group.equal(&format!("{} node {node}", fields.at), expected, found);
    }
    Ok(())
}

fn sha256_node(group: &mut Group, fields: &Fields<'_>) -> Outcome {
    let (left, right) = (fields.bytes32("left")?, fields.bytes32("right")?);
    let expected = fields.bytes32("out")?;
    group.equal(&fields.at, expected, sha256::node(&left, &right));
    // The same through the row kernels.
    let mut out = [[0; 32]];
    sha256::nodes(&[left, right], &mut out);
    group.equal(&format!("{} as a row", fields.at), expected, out[0]);
    Ok(())
}
