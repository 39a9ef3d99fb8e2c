//! Poseidon by arity, in rows as trees and columns take it. One core.

use criterion::{Criterion, Throughput};
use prover::hash::poseidon::{Arity, hash_nodes};

use crate::support::{nodes, slow};

pub fn bench(c: &mut Criterion) {
    let count = 1 << 12;
    for arity in Arity::ALL {
        let preimages = nodes(count * arity.len());
        let mut out = vec![[0; 32]; count];
        let mut group = slow(
            c,
            "prover::hash::poseidon",
            Throughput::Elements(count as u64),
        );
        group.bench_function(format!("arity={}", arity.len()), |b| {
            b.iter(|| hash_nodes(arity, &preimages, &mut out).expect("field elements"));
        });
    }
}
