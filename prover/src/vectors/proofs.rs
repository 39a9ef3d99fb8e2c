//! Checks a size's PoRep and PoSt entries: challenges, openings of the sealed cases, public inputs, Groth16 proofs.

use super::Group;
use super::fields::{Fault, Fields};
use super::seals::Sealed;
use super::small::randomness;
use crate::commitment::CommR;
use crate::hash::poseidon::fr_from_node;
use crate::ids::{Node, PostRandomness, ProverId, SectorNumber};
use crate::merkle::build;
use crate::merkle::path::{BinaryPath, PoseidonPath};
use crate::porep::challenge;
use crate::post::challenge as post;
use crate::snark::CircuitId;
use crate::spec::{ApiVersion, GROTH16_PROOF_BYTES, LABEL_PARENTS, SectorSize, WINNING_CHALLENGES};
use crate::verify::{self, VerifyError, VerifyingKeys, WindowPostStatement, WinningPostStatement};
use ark_bls12_381::Fr;

/// Checks `porep_vk`, `window_vk`, `winning_vk`, `commit` and `post`.
pub(super) fn run(fields: &Fields<'_>, size: SectorSize, sealed: &[Sealed]) -> Vec<Group> {
    let mut keys_group = Group::new(format!("{}.keys", fields.at));
    let mut commit = Group::new(format!("{}.commit", fields.at));
    let mut posts = Group::new(format!("{}.post", fields.at));
    let keys = read_keys(fields, size, &mut keys_group);
    let context = Context { size, sealed, keys };
    if let Some(list) = fields.optional("commit") {
        commit.entries(list, |group, entry| context.commit(group, entry));
    }
    if let Some(list) = fields.optional("post") {
        posts.entries(list, |group, entry| {
            let (window, winning) = (entry.object("window")?, entry.object("winning")?);
            group.entry(&window, |group| context.window(group, &window));
            group.entry(&winning, |group| context.winning(group, &winning));
            Ok(())
        });
    }
    [keys_group, commit, posts]
        .into_iter()
        .filter(|group| *group != Group::new(&group.name))
        .collect()
}

/// Reads the keys that the size has; the shapes without proofs have none.
fn read_keys(fields: &Fields<'_>, size: SectorSize, group: &mut Group) -> VerifyingKeys {
    let named = [
        ("porep_vk", CircuitId::porep(size)),
        ("window_vk", CircuitId::window(size)),
        ("winning_vk", CircuitId::winning(size)),
    ];
    let mut given = Vec::new();
    for (key, circuit) in named {
        if fields.optional(key).is_none() {
            continue;
        }
        match fields.bytes(key) {
            Ok(bytes) => given.push((key, circuit, bytes)),
            Err(fault) => group.fail(&fault.at, fault.what),
        }
    }
    match VerifyingKeys::from_vk_bytes(
        given
            .iter()
            .map(|(_, circuit, bytes)| (*circuit, bytes.as_slice())),
    ) {
        Ok(keys) => {
            for (key, circuit, bytes) in &given {
                group.check(
                    &fields.place(key),
                    keys.vk_bytes(*circuit) == Some(bytes),
                    || "read back changed".into(),
                );
            }
            keys
        }
        Err(error) => {
            group.fail(&fields.at, error.to_string());
            VerifyingKeys::default()
        }
    }
}

struct Context<'a> {
    size: SectorSize,
    sealed: &'a [Sealed],
    keys: VerifyingKeys,
}

impl Context<'_> {
    fn case(&self, fields: &Fields<'_>) -> Result<&Sealed, Fault> {
        let name = fields.text("case")?;
        let case = self.sealed.iter().find(|sealed| sealed.name == name);
        case.ok_or_else(|| Fault::new(fields.place("case"), format!("{name} was not sealed")))
    }

    fn commit(&self, group: &mut Group, fields: &Fields<'_>) -> Result<(), Fault> {
        let case = self.case(fields)?;
        let partitions = self.size.partitions();
        group.equal(
            &fields.place("partitions"),
            fields.usize("partitions")?,
            partitions,
        );
        let challenges: Vec<Vec<u64>> = (0..partitions)
            .map(|partition| {
                challenge::interactive(self.size, &case.replica_id, &case.seed, partition)
            })
            .collect();
        let first = "porep_challenges_partition0";
        group.equal(
            &fields.place(first),
            &fields.numbers(first)?,
            &challenges[0],
        );
        let bytes = check_openings(group, fields, case, challenges.iter().flatten().copied())?;
        group.equal(
            &fields.place("c1_bincode_bytes"),
            fields.u64("c1_bincode_bytes")?,
            bytes,
        );

        let inputs = challenges
            .iter()
            .map(|challenges| {
                let (comm_d, comm_r) = (&case.comm_d, &case.comm_r);
                verify::porep_partition_inputs(
                    &case.graph,
                    &case.replica_id,
                    comm_d,
                    comm_r,
                    challenges,
                )
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| Fault::new(&fields.at, e))?;
        let expected = partition_inputs(fields, "public_inputs")?;
        group.check(&fields.place("public_inputs"), expected == inputs, || {
            "derived inputs differ".into()
        });

        let proof = fields.bytes("c2_proof")?;
        let circuit = CircuitId::porep(self.size);
        let verdict = verdict(verify::check(&self.keys, circuit, &inputs, &proof), fields)?;
        group.equal(&fields.place("verify"), fields.flag("verify")?, verdict);
        let mut flipped = case.comm_r.0;
        flipped[0] ^= 1;
        let flipped = fr_from_node(&flipped)
            .ok_or_else(|| Fault::new(&fields.at, "CommR with a bit flipped"))?;
        let mut changed = inputs;
        for inputs in &mut changed {
            inputs[2] = flipped;
        }
        let verdict = self::verdict(verify::check(&self.keys, circuit, &changed, &proof), fields)?;
        let key = "verify_with_comm_r_bit0_flipped";
        group.equal(&fields.place(key), fields.flag(key)?, verdict);
        Ok(())
    }

    fn window(&self, group: &mut Group, fields: &Fields<'_>) -> Result<(), Fault> {
        let api = fields.api_version()?;
        let randomness = randomness(fields)?;
        let per_partition = self.size.window_sectors();
        let key = "sectors_per_partition";
        group.equal(&fields.place(key), fields.usize(key)?, per_partition);
        let sectors = self.window_sectors(group, fields)?;
        group.equal(
            &fields.place("partitions"),
            fields.usize("partitions")?,
            sectors.len().div_ceil(per_partition),
        );

        let mut leaves = Vec::new();
        for (position, sector) in (0..).zip(&sectors) {
            let found = post::window_at(self.size, api, &randomness, sector.sector, position);
            check_replica_openings(group, fields, sector, &found)?;
            leaves.push((sector.sector.0, found.to_vec()));
        }
        group.equal(
            &fields.place("leaf_challenges"),
            fields.rows("leaf_challenges")?,
            leaves,
        );

        let proof = fields.bytes("proof")?;
        let proofs = proof.chunks(GROTH16_PROOF_BYTES);
        let expected = partition_inputs(fields, "public_inputs_per_partition")?;
        let partitions: Vec<&[&Sealed]> = sectors.chunks(per_partition).collect();
        if proofs.len() != partitions.len() || expected.len() != partitions.len() {
            return Err(Fault::new(
                &fields.at,
                "proof and inputs have another number of partitions than the sectors",
            ));
        }
        let prover = ProverId(fields.bytes32("prover_id")?);
        let mut all = true;
        for (k, ((sectors, proof), expected)) in
            partitions.into_iter().zip(proofs).zip(expected).enumerate()
        {
            let inputs = self.window_inputs(sectors, api, &randomness, k * per_partition);
            let inputs = inputs.map_err(|e| Fault::new(&fields.at, e))?;
            let at = format!("{}[{k}]", fields.place("public_inputs_per_partition"));
            group.check(&at, expected == inputs, || "derived inputs differ".into());
            let result = verify::check(&self.keys, CircuitId::window(self.size), &[inputs], proof);
            all &= verdict(result, fields)?;
            if api == ApiVersion::V1_2 {
                // The rule in force: the front door must agree.
                let sectors = sectors
                    .iter()
                    .map(|sealed| (sealed.sector, sealed.comm_r))
                    .collect();
                let statement = WindowPostStatement {
                    size: self.size,
                    prover,
                    randomness,
                    sectors,
                };
                let front = verdict(verify::window_post(&self.keys, &statement, proof), fields)?;
                group.equal(
                    &format!("{} as a statement, partition {k}", fields.at),
                    fields.flag("verify")?,
                    front,
                );
            }
        }
        group.equal(&fields.place("verify"), fields.flag("verify")?, all);
        Ok(())
    }

    /// The sealed cases that an entry proves, in its order.
    fn window_sectors(
        &self,
        group: &mut Group,
        fields: &Fields<'_>,
    ) -> Result<Vec<&Sealed>, Fault> {
        let mut sectors = Vec::new();
        for entry in fields.objects("sectors_sorted")? {
            let case = self.case(&entry)?;
            group.equal(
                &entry.place("comm_r"),
                CommR(entry.bytes32("comm_r")?),
                case.comm_r,
            );
            group.equal(
                &entry.place("sector_id"),
                SectorNumber(entry.u64("sector_id")?),
                case.sector,
            );
            sectors.push(case);
            group.unknown.extend(entry.unread());
        }
        if sectors.is_empty() || !sectors.is_sorted_by(|a, b| a.sector < b.sector) {
            return Err(Fault::new(
                fields.place("sectors_sorted"),
                "expected sectors in ascending order",
            ));
        }
        Ok(sectors)
    }

    /// One partition's inputs; a short one repeats its last sector.
    fn window_inputs(
        &self,
        sectors: &[&Sealed],
        api: ApiVersion,
        randomness: &PostRandomness,
        first: usize,
    ) -> Result<Vec<Fr>, VerifyError> {
        let openings = (0..self.size.window_sectors()).map(|position| {
            let position = position.min(sectors.len() - 1);
            let sealed = sectors[position];
            let in_proof = u64::try_from(first + position).expect("a small number of sectors");
            (
                sealed.comm_r,
                post::window_at(self.size, api, randomness, sealed.sector, in_proof),
            )
        });
        verify::post_inputs(openings)
    }

    fn winning(&self, group: &mut Group, fields: &Fields<'_>) -> Result<(), Fault> {
        let case = self.case(fields)?;
        let randomness = randomness(fields)?;
        group.equal(
            &fields.place("comm_r"),
            CommR(fields.bytes32("comm_r")?),
            case.comm_r,
        );
        group.equal(
            &fields.place("sector_id"),
            SectorNumber(fields.u64("sector_id")?),
            case.sector,
        );
        // The shape of Filecoin's circuit: 66 sectors of one challenge each.
        let (sectors, challenges) = ("param_sector_count", "param_challenge_count");
        group.equal(
            &fields.place(sectors),
            fields.usize(sectors)?,
            WINNING_CHALLENGES,
        );
        group.equal(&fields.place(challenges), fields.usize(challenges)?, 1);

        let leaves = post::winning(self.size, &randomness, case.sector);
        let key = "leaf_challenges_via_api";
        group.equal(
            &fields.place(key),
            fields.rows(key)?,
            vec![(case.sector.0, leaves.to_vec())],
        );
        check_replica_openings(group, fields, case, &leaves)?;
        // Winning types are registered with the old index rule only. The new one sees 66 sectors of one challenge and
        // opens the same leaf 66 times (proofs.md §5.2); the file proves that too, and the front door must refuse it.
        let registered = fields.api_version()? != ApiVersion::V1_2;
        let proven = if registered {
            leaves
        } else {
            [leaves[0]; WINNING_CHALLENGES]
        };
        let inputs = verify::post_inputs(proven.map(|leaf| (case.comm_r, [leaf])));
        let inputs = inputs.map_err(|e| Fault::new(&fields.at, e))?;
        let expected = elements(fields, "public_inputs", &fields.nodes("public_inputs")?)?;
        group.check(&fields.place("public_inputs"), expected == inputs, || {
            "derived inputs differ".into()
        });

        let proof = fields.bytes("proof")?;
        let direct = verdict(
            verify::check(&self.keys, CircuitId::winning(self.size), &[inputs], &proof),
            fields,
        )?;
        group.equal(&fields.place("verify"), fields.flag("verify")?, direct);
        let statement = WinningPostStatement {
            size: self.size,
            prover: ProverId(fields.bytes32("prover_id")?),
            randomness,
            sector: (case.sector, case.comm_r),
        };
        let front = verdict(verify::winning_post(&self.keys, &statement, &proof), fields)?;
        group.equal(
            &format!("{} as a statement", fields.at),
            registered && fields.flag("verify")?,
            front,
        );
        Ok(())
    }
}

/// Accepted or rejected; anything else means that the entry could not be judged.
fn verdict(result: Result<(), VerifyError>, fields: &Fields<'_>) -> Result<bool, Fault> {
    match result {
        Ok(()) => Ok(true),
        Err(VerifyError::Rejected) => Ok(false),
        Err(error) => Err(Fault::new(&fields.at, error)),
    }
}

fn elements(fields: &Fields<'_>, key: &str, nodes: &[Node]) -> Result<Vec<Fr>, Fault> {
    let elements: Option<Vec<Fr>> = nodes.iter().map(fr_from_node).collect();
    elements.ok_or_else(|| Fault::new(fields.place(key), "an input is not below the field order"))
}

fn partition_inputs(fields: &Fields<'_>, key: &str) -> Result<Vec<Vec<Fr>>, Fault> {
    let partitions = fields.list(key)?.iter().map(|partition| {
        let nodes = super::fields::nodes(partition);
        elements(
            fields,
            key,
            &nodes.ok_or_else(|| Fault::new(fields.place(key), "expected 32-byte strings"))?,
        )
    });
    partitions.collect()
}

/// Opens replica leaves and follows each path to CommRLast.
fn check_replica_openings(
    group: &mut Group,
    fields: &Fields<'_>,
    case: &Sealed,
    leaves: &[u64],
) -> Result<(), Fault> {
    for &leaf in leaves {
        let path = build::open_tree_r(&case.replica, &case.tree_r, case.size, leaf);
        let path = path.map_err(|e| Fault::new(&fields.at, e))?;
        check_path(
            group,
            &format!("{} sector {} leaf {leaf}", fields.at, case.sector),
            &path,
            &case.comm_r_last.0,
        );
    }
    Ok(())
}

fn check_path(group: &mut Group, at: &str, path: &PoseidonPath, root: &Node) {
    let found = path.root();
    group.check(at, found.as_ref().ok() == Some(root), || {
        format!("the path leads to {found:?}")
    });
}

/// Opens everything that a PoRep opens and follows each path; the length of Filecoin's C1 output follows from the paths.
fn check_openings(
    group: &mut Group,
    fields: &Fields<'_>,
    case: &Sealed,
    challenges: impl Iterator<Item = u64>,
) -> Result<u64, Fault> {
    let fault = |e: build::TreeError| Fault::new(&fields.at, e);
    // Two vector lengths, then CommR, CommD, replica id, seed and ticket.
    let partitions = u64::try_from(case.size.partitions()).expect("at most 10");
    let mut bytes = 8 + 8 * partitions + 5 * 32;
    for node in challenges {
        let at = format!("{} challenge {node}", fields.at);
        let data = build::open_tree_d(&case.tree_d, case.size, node).map_err(fault)?;
        let found = data.root();
        group.check(&at, found.as_ref().ok() == Some(&case.comm_d.0), || {
            format!("TreeD path leads to {found:?}")
        });
        let replica =
            build::open_tree_r(&case.replica, &case.tree_r, case.size, node).map_err(fault)?;
        check_path(group, &format!("{at} TreeR"), &replica, &case.comm_r_last.0);
        bytes += bincode_binary(&data) + bincode_poseidon(&replica, case.size);
        // Lengths of the two parent lists.
        bytes += 16;
        let parents = case.graph.parents(node);
        for column in std::iter::once(node).chain(parents.map(u64::from)) {
            let path = build::open_tree_c(&case.tree_c, case.size, column).map_err(fault)?;
            check_path(
                group,
                &format!("{at} column {column}"),
                &path,
                &case.comm_c.0,
            );
            bytes += bincode_poseidon(&path, case.size) + bincode_column(case.size);
        }
        bytes += bincode_labels(case.size);
    }
    Ok(bytes)
}

// Sizes of Filecoin's bincode: 8 bytes of length before each list, 4 for an enum's tag.

fn bincode_binary(path: &BinaryPath) -> u64 {
    // Tag, root and leaf, then per level: length, sibling, index.
    4 + 64 + 8 + count(path.siblings.len()) * (8 + 32 + 8)
}

fn bincode_poseidon(path: &PoseidonPath, size: SectorSize) -> u64 {
    let levels: u64 = path
        .levels
        .iter()
        .map(|siblings| 8 + 32 * count(siblings.len()) + 8)
        .sum();
    let shape = size.shape();
    let lists = 1 + u64::from(shape.sub > 0) + u64::from(shape.top > 0);
    4 + 64 + 8 * lists + levels
}

fn bincode_column(size: SectorSize) -> u64 {
    4 + 8 + 32 * count(size.layers())
}

fn bincode_labels(size: SectorSize) -> u64 {
    let one = 8 + 32 * count(LABEL_PARENTS) + 4 + 8;
    // One per layer, and the encoding proof, which repeats the last.
    8 + one * (count(size.layers()) + 1)
}

fn count(len: usize) -> u64 {
    u64::try_from(len).expect("a path is short")
}
