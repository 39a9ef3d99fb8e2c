//! One SDR layer, the second: its nodes have expander parents too. One core, by construction.

use criterion::{Criterion, Throughput};
use prover::{
    NoProgress, RegisteredSeal, ReplicaId, SectorSize,
    porep::{
        graph::Graph,
        label::{LayerParents, ParentTable, fill_layer},
    },
};

use crate::support::{nodes, slow};

pub fn bench(c: &mut Criterion) {
    let size = SectorSize::Mib8;
    let seal = RegisteredSeal::v1_1(size);
    let graph = Graph::new(size, &seal.porep_id(), seal.api_version());
    let table = ParentTable::new(&graph);
    let previous = nodes(usize::try_from(size.nodes()).expect("fits"));
    let mut layer = vec![[0; 32]; previous.len()];
    let id = ReplicaId([0x11; 32]);
    let mut group = slow(c, "prover::porep::label", Throughput::Bytes(size.bytes()));
    group.bench_function("size=8MiB", |b| {
        b.iter(|| {
            fill_layer(
                2,
                LayerParents::Table(&table),
                Some(&previous),
                &id,
                &mut layer,
                &NoProgress,
            )
        });
    });
    group.bench_function("size=8MiB/parents=generated", |b| {
        b.iter(|| {
            fill_layer(
                2,
                LayerParents::Generated(&graph),
                Some(&previous),
                &id,
                &mut layer,
                &NoProgress,
            )
        });
    });
    group.bench_function("parent_table/size=8MiB", |b| {
        b.iter(|| ParentTable::new(&graph))
    });
}
