//! CommP of a piece, padding included.

use criterion::{Criterion, Throughput};
use prover::piece::commp::commp_of;

use benches::sample;

use crate::support::slow;

pub fn bench(c: &mut Criterion) {
    let data = sample(127 << 16);
    let mut group = slow(
        c,
        "prover::piece::commp",
        Throughput::Bytes(data.len() as u64),
    );
    group.bench_function("size=8MiB", |b| b.iter(|| commp_of(&data)));
}
