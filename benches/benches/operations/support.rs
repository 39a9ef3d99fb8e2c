//! What several benches share.

use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use prover::{
    Node, ProverId, RegisteredSeal, SectorNumber, SectorSize, Ticket,
    piece::{PieceInfo, commp::commp_of},
    seal::SealRequest,
};

/// A group for operations that take long: ten samples, and no more time than they need.
pub fn slow<'a>(
    c: &'a mut Criterion,
    name: &str,
    throughput: Throughput,
) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.throughput(throughput).sample_size(10);
    group
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(2));
    group
}

/// Bytes that look random and are the same every time.
pub fn sample(bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new()
        .update(b"holdfast benches")
        .finalize_xof()
        .fill(&mut out);
    out
}

/// Nodes that are field elements.
pub fn nodes(count: usize) -> Vec<Node> {
    let mut nodes: Vec<Node> = sample(count * 32).as_chunks().0.to_vec();
    nodes.iter_mut().for_each(|node| node[31] &= 0x3f);
    nodes
}

/// A sector full of one piece: the request and the piece's bytes.
pub fn full_sector(size: SectorSize) -> (SealRequest, Vec<u8>) {
    let data = sample(usize::try_from(size.unpadded_bytes()).expect("test sizes fit in memory"));
    let (comm_p, padded) = commp_of(&data);
    let request = SealRequest {
        seal: RegisteredSeal::v1_1(size),
        prover: ProverId::from_provider_id(1000),
        sector: SectorNumber(7),
        ticket: Ticket([0x21; 32]),
        pieces: vec![PieceInfo {
            comm_p,
            size: padded,
        }],
    };
    (request, data)
}
