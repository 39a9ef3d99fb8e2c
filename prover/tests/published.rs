//! The seals of proofs.md §9.3, recomputed in memory: piece by piece, layer by layer, tree by tree.
//!
//! The golden vectors of `vectors.rs` come from Filecoin's prover through files; these values were also reproduced by an
//! independent script, and the steps here never touch a disk, so the two tests share inputs with neither.

#![cfg(feature = "prove")]

use prover::hash::poseidon::{self, Arity};
use prover::hash::sha256;
use prover::merkle::build::join_base_roots;
use prover::piece::commp::commp_of;
use prover::piece::layout;
use prover::porep::challenge;
use prover::porep::graph::Graph;
use prover::porep::label::{SectorLayer, fill_layer};
use prover::porep::parents::ParentLists;
use prover::porep::{column, replica, replica_id};
use prover::{
    ApiVersion, CommC, CommRLast, NoProgress, Node, PieceInfo, PorepId, ProverId, RegisteredSeal,
    ReplicaId, SectorNumber, SectorSize, Seed, Ticket,
};

/// One block of §9.3; hex as printed there.
struct Published {
    size: SectorSize,
    porep_id: u64,
    api: ApiVersion,
    pieces: &'static [usize],
    comm_d: &'static str,
    replica_id: &'static str,
    /// Labels of node 0 in layers 1 and 2.
    labels: [&'static str; 2],
    /// Replica node 0.
    replica: &'static str,
    comm_c: &'static str,
    comm_r_last: &'static str,
    comm_r: &'static str,
    challenges: [u64; 2],
}

fn porep_id(id: u64) -> PorepId {
    RegisteredSeal::from_id(id)
        .expect("a registered id")
        .porep_id()
}

/// All layers in memory, first to last.
fn label(graph: &Graph, layers: u32, replica_id: &ReplicaId) -> Vec<Vec<Node>> {
    let parents = ParentLists::prepare(graph.clone(), u64::MAX, None, &NoProgress);
    let mut filled: Vec<Vec<Node>> = Vec::new();
    for layer in 1..=layers {
        let mut out = vec![[0; 32]; usize::try_from(graph.nodes()).expect("a test size")];
        let previous = filled.last().map(Vec::as_slice);
        let sector = SectorLayer {
            replica_id,
            previous,
            out: &mut out,
        };
        fill_layer(layer, &parents, &mut [sector], &NoProgress);
        filled.push(out);
    }
    filled
}

/// Root of an 8-ary Poseidon tree, row by row.
fn base_root(mut row: Vec<Node>) -> Node {
    while row.len() > 1 {
        let mut parents = vec![[0; 32]; row.len() / 8];
        poseidon::hash_nodes(Arity::Eight, &row, &mut parents).expect("canonical nodes");
        row = parents;
    }
    row[0]
}

fn tree_root(size: SectorSize, leaves: &[Node]) -> Node {
    let per_tree = leaves.len() / size.shape().base_trees;
    let roots: Vec<Node> = leaves
        .chunks(per_tree)
        .map(|leaves| base_root(leaves.to_vec()))
        .collect();
    join_base_roots(size, &roots).expect("canonical roots")
}

/// Column root, replica and replica root.
fn replicate(
    size: SectorSize,
    layers: &[Vec<Node>],
    data: &[Node],
) -> (CommC, Vec<Node>, CommRLast) {
    let mut columns = vec![[0; 32]; data.len()];
    column::hash_columns(layers, &mut columns).expect("labels are canonical");
    let key = layers.last().expect("at least one layer");
    let encode = |(data, key)| replica::encode(data, key).expect("data and key are canonical");
    let replica: Vec<Node> = data.iter().zip(key).map(encode).collect();
    let comm_r_last = tree_root(size, &replica);
    (
        CommC(tree_root(size, &columns)),
        replica,
        CommRLast(comm_r_last),
    )
}

fn check(published: &Published) {
    let Published { size, api, .. } = *published;
    let sources: Vec<Vec<u8>> = (1..)
        .zip(published.pieces)
        .map(|(k, &len)| {
            (0..len)
                .map(|i| u8::try_from((7 * i + 13 * k) % 251).expect("below 251"))
                .collect()
        })
        .collect();
    let infos = sources.iter().map(|source| {
        let (comm_p, size) = commp_of(source);
        PieceInfo { comm_p, size }
    });
    let layout = layout::plan(&infos.collect::<Vec<_>>(), size).expect("the pieces fit");
    assert_eq!(layout.comm_d.to_string(), published.comm_d);
    let mut staged = Vec::new();
    layout::write_sector(&layout, sources.iter().map(Vec::as_slice), &mut staged)
        .expect("writing to memory");
    let data: Vec<Node> = staged
        .chunks(32)
        .map(|node| node.try_into().expect("32 bytes"))
        .collect();
    assert_eq!(sha256::root_in_place(&mut data.clone()), layout.comm_d.0);

    let porep_id = porep_id(published.porep_id);
    let replica_id = replica_id(
        &ProverId([9; 32]),
        SectorNumber(42),
        &Ticket([1; 32]),
        &layout.comm_d,
        &porep_id,
    );
    assert_eq!(replica_id.to_string(), published.replica_id);
    let layers = label(&Graph::new(size, &porep_id, api), 2, &replica_id);
    assert_eq!(
        [hex::encode(layers[0][0]), hex::encode(layers[1][0])],
        published.labels
    );

    let (comm_c, replica, comm_r_last) = replicate(size, &layers, &data);
    assert_eq!(hex::encode(replica[0]), published.replica);
    assert_eq!(comm_c.to_string(), published.comm_c);
    assert_eq!(comm_r_last.to_string(), published.comm_r_last);
    let comm_r = replica::comm_r(&comm_c, &comm_r_last).expect("canonical roots");
    assert_eq!(comm_r.to_string(), published.comm_r);
    assert_eq!(
        challenge::interactive(size, &replica_id, &Seed([2; 32]), 0),
        published.challenges
    );
}

#[test]
fn kib_2() {
    check(&Published {
        size: SectorSize::Kib2,
        porep_id: 5,
        api: ApiVersion::V1_1,
        pieces: &[1016, 508, 127],
        comm_d: "3b53dcc8914731ec87d57c43e571bd09052c6b289ae3c9d02bf83981b2bd0a3c",
        replica_id: "c2b9e585bcd99af7bf916d40f0bde4513310206c6f179905b4b89b8e285eef17",
        labels: [
            "26345fd97f4b0f0d580549a32a41b82c14ce3f38cd5ddfa9d759fa6e5b09b81e",
            "47b138aa89a4686a69440f6f5380086f67ca33911bc5b0aa294314ff230d361e",
        ],
        replica: "54c553ccb2d49fa8ae9062c9b4e877e5e44ebf23b5655859dfffd7c9f5e51545",
        comm_c: "e84edbcacd25a18e752e940c6e158d7f4d1bfb5365b4385f02283cf772441c69",
        comm_r_last: "bdcdf43533a7deeab8199542cb97961bbb5888a9a1df74da10fcfd226c2f1b38",
        comm_r: "78b0dd6896c28e97207832afabe71a2aea4145c73d4549a4249a666cb0b25f51",
        challenges: [8, 48],
    });
}

#[test]
fn kib_2_with_the_legacy_graph() {
    check(&Published {
        size: SectorSize::Kib2,
        porep_id: 0,
        api: ApiVersion::V1_0,
        pieces: &[2032],
        comm_d: "25c9dfea70842cdc7d54ef86635d39aed1f096a96323e94979db774d668e3e06",
        replica_id: "d5e59478f20bf1d372f783cd125254f77356eb88681d07b8670e7df574d9b206",
        labels: [
            "1ff67a2b7eeb8aada0119a20c1d6b07ec478cd4d7fa2df095d1821dc27a47217",
            "358dc21cd5b9317c0ec6ab22f0426459792c12e447a8f568c8579a37f3385136",
        ],
        replica: "42a1dd3efee968ba5312ff7c51abd3cff6b09d76e1489d177e145e02c511315d",
        comm_c: "8cafe99eb1fde72b7fe23a6081bb2a03d2d95a434feaece6bb07f929e6267a40",
        comm_r_last: "95f903a1002f8819b9ce923d39136205e7f48a21ed56a29d1bacd6adecdb3747",
        comm_r: "f60fca651813daf599c9797d4569260d1ff7ece88a981f8206a31796595b5607",
        challenges: [20, 16],
    });
}

#[test]
fn kib_4() {
    check(&Published {
        size: SectorSize::Kib4,
        porep_id: 5,
        api: ApiVersion::V1_1,
        pieces: &[2032, 2032],
        comm_d: "6c4e1c00f3afcf45eb8030592f0cf18cdf697a0175fcb98fe5bbe85cf0511f3e",
        replica_id: "9023de527fe42930a84ca20fd07f27431c3220e53d6ce51af0584d7e4204f112",
        labels: [
            "8f675af1614a70f1a7ffb14db029ec23dd145988ccd7ed4e5e204104e799b226",
            "cd8781f4d6897bcd846d2ecdae03b78e5937068a406eb014a7a16258b22bb23c",
        ],
        replica: "da9b9c1600bab20bcab98127106c2605d7bb911cda0e58c35c5e262384049263",
        comm_c: "e21b2919cde4f395043c9cf6a604e01d7431971a6973be86cb0d08677be0742b",
        comm_r_last: "2f53e6083fa928a5e9537ced18935913619675b385f11537c396962a0570802f",
        comm_r: "efd82a2f76ab50ec2802fb8d91a47d58222a25ee4c18802f0686f4e2a0061160",
        challenges: [112, 7],
    });
}

#[test]
fn kib_16() {
    check(&Published {
        size: SectorSize::Kib16,
        porep_id: 5,
        api: ApiVersion::V1_1,
        pieces: &[8128, 8128],
        comm_d: "60a592324d5dee63a44dd86912c2cb5e6909830e0ec9f15f002feb369e6d0c1d",
        replica_id: "081420a558588ffe62e67214a506a1bfb35ef95d39f062f09d50a5771b002e00",
        labels: [
            "075b3695ab1df13cfa61498c9ced6a5f0e8e3031c03629be67c475f3a0965d04",
            "eacf248d5d24c58e67cd82a4b0bbe822c22b4de8286c669d0c7e44a723a3b718",
        ],
        replica: "f7e33faf8654fcccac19d6fe112458993fb0d87ac20c0e4cc23a0872f57b973f",
        comm_c: "73a2c794428ca58ab149b2e2835c19f235cc148ed5ef8fea46b9e6671375765f",
        comm_r_last: "77fbdb36272e9c3a96811c12f66adb67c10a6ae86e4f5fbaf290ee5ac760742a",
        comm_r: "a06fee456d46c94958e1b3e756497034a40b82059495ef65be2c9c46766b3713",
        challenges: [62, 132],
    });
}

#[test]
fn kib_32() {
    check(&Published {
        size: SectorSize::Kib32,
        porep_id: 5,
        api: ApiVersion::V1_1,
        pieces: &[16256, 16256],
        comm_d: "08657b7af02a46fdf924964a52efa97663e613b7e4afab6716f206ba5629f125",
        replica_id: "1074f065f00c72f7e8a0fcd7624ef1018c6e0df740851e660e9982cb2bf11414",
        labels: [
            "395b0bdde857bb0835203d59d1d73d7e7dd886ff374f290616742cf30732a53b",
            "8383d15376db0252bd58976f692165eea3fb00cda9e0e79bfc14dc4c325cd20e",
        ],
        replica: "9097ec759f0b3a9002a5eac9ca89d46421808c5f43818f4ab2d19f170435b235",
        comm_c: "32eb9fd2853e15304f6e462c0f597e6b0174adffb3def5e59841ee8d60a7df34",
        comm_r_last: "3158a4c7310e8f5da0f44c7d7bed08df3917a9be7ce969b9341bd054309cb717",
        comm_r: "bf52c753a20d9d7ba917dbe8b446902a4e30c10049d1e0f0aca427bf437b7b4d",
        challenges: [132, 664],
    });
}

#[test]
fn mib_8() {
    check(&Published {
        size: SectorSize::Mib8,
        porep_id: 6,
        api: ApiVersion::V1_1,
        pieces: &[8_323_072],
        comm_d: "253e4e89869c277d19e3e7e81c6cc8d760acdd0709c3063ed364fda606647a0c",
        replica_id: "4b58a03301b06035da68734aef74e7a6280ce44496ad7dd97b8e4fe2e314340f",
        labels: [
            "ddbba5cf06b85851f894b822b7823e8c95c957430326335ff448dce89322bc01",
            "863917040239e0d0edeba2af95d226503b86166b5d09533df55da5d280adf333",
        ],
        replica: "934d32262b69170f3338f609f73a96c6b80aa2fdf6a9faebaa1a699d5286d35a",
        comm_c: "3393adfdd21a9fe5d07bcbcf684fac647d90e0f55fb4bd63e79ce27fbba1bd25",
        comm_r_last: "f15cf43106239aa8a6bd53cd9acc9192003bac581027595e42247f5fa83cce1e",
        comm_r: "6651b8a84ee951f35238c0925be299f0e1d6a739786134cd42ac6517847b322d",
        challenges: [209_473, 125_026],
    });
}

/// Eleven layers over 64 nodes, data all zero: production's layer count on the smallest shape.
#[test]
fn the_eleven_layer_miniature() {
    let size = SectorSize::Kib2;
    let graph = Graph::with_nodes(64, &porep_id(8), ApiVersion::V1_1);
    let layers = label(&graph, 11, &ReplicaId([7; 32]));
    assert_eq!(
        hex::encode(layers[10][0]),
        "3e5843a4578d4deb69258564cdfedb45e02bfa87a1716c44b6d048f7420eb721"
    );
    let (comm_c, replica, comm_r_last) = replicate(size, &layers, &[[0; 32]; 64]);
    assert_eq!(
        replica, layers[10],
        "the replica of zeros is the key itself"
    );
    assert_eq!(
        comm_c.to_string(),
        "891f564969db1b824140f11e43b04440194501721adb542c0b294d057003de44"
    );
    assert_eq!(
        comm_r_last.to_string(),
        "7a628d749d04fc86aaea88c990365ae0b681fdd8aa53877c76a72c0146ffd018"
    );
    let comm_r = replica::comm_r(&comm_c, &comm_r_last).expect("canonical roots");
    assert_eq!(
        comm_r.to_string(),
        "78bc7558cc8a7f5266a9ef50164a8ff94644deb2709a09b5d57d1c07cd676571"
    );
}
