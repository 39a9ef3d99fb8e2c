//! Column hashes: two layers as at 8 MiB, eleven as at 32 GiB. One core.

use criterion::{Criterion, Throughput};
use prover::porep::column::hash_columns;

use crate::support::{nodes, slow};

pub fn bench(c: &mut Criterion) {
    for layers in [2, 11] {
        let count = 1 << 14;
        let columns: Vec<_> = (0..layers).map(|_| nodes(count)).collect();
        let mut out = vec![[0; 32]; count];
        let mut group = slow(
            c,
            "prover::porep::column",
            Throughput::Elements(count as u64),
        );
        group.bench_function(format!("layers={layers}"), |b| {
            b.iter(|| hash_columns(&columns, &mut out).expect("field elements"));
        });
    }
}
