//! Encoding and decoding of replica nodes. One core.

use criterion::{Criterion, Throughput};
use prover::porep::replica::{decode, encode};

use crate::support::{nodes, slow};

pub fn bench(c: &mut Criterion) {
    let data = nodes(1 << 15);
    let keys: Vec<_> = data.iter().rev().copied().collect();
    let bytes = Throughput::Bytes(data.len() as u64 * 32);
    let mut group = slow(c, "prover::porep::replica", bytes);
    group.bench_function("encode/size=1MiB", |b| {
        b.iter(|| {
            data.iter()
                .zip(&keys)
                .filter_map(|(data, key)| encode(data, key))
                .fold(0u8, |x, node| x ^ node[0])
        });
    });
    group.bench_function("decode/size=1MiB", |b| {
        b.iter(|| {
            data.iter()
                .zip(&keys)
                .filter_map(|(data, key)| decode(data, key))
                .fold(0u8, |x, node| x ^ node[0])
        });
    });
}
