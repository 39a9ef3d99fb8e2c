//! Trees over 8 MiB of leaves: SHA-256 (CommD) in memory, Poseidon with arity 8 (TreeC's upper rows) in a file.

use criterion::{Criterion, Throughput};
use prover::{
    NoProgress, SectorSize,
    hash::sha256,
    merkle::build::finish_tree_c,
    sector_dir::disk::{NodeFile, RealDisk},
};

use crate::support::{nodes, slow};

pub fn bench(c: &mut Criterion) {
    let size = SectorSize::Mib8;
    let leaves = nodes(usize::try_from(size.nodes()).expect("fits"));
    let mut group = slow(c, "prover::merkle", Throughput::Bytes(size.bytes()));
    group.bench_function("tree_d/size=8MiB", |b| {
        b.iter_batched_ref(
            || leaves.clone(),
            |leaves| sha256::root_in_place(leaves),
            criterion::BatchSize::LargeInput,
        );
    });
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = NodeFile::create(&RealDisk, &dir.path().join("tree")).expect("created");
    file.write(0, &leaves).expect("written");
    group.bench_function("tree_c/size=8MiB", |b| {
        b.iter(|| finish_tree_c(&file, size, &NoProgress).expect("field elements"));
    });
}
