//! One SDR layer, the second: its nodes have expander parents too. One core, one sector or several in step.

use criterion::{Criterion, Throughput};
use prover::{
    NoProgress, RegisteredSeal, ReplicaId, SectorSize,
    porep::{
        graph::Graph,
        label::{SectorLayer, fill_layer},
        parents::{ParentLists, ParentTable},
    },
};

use crate::support::{nodes, slow};

pub fn bench(c: &mut Criterion) {
    let size = SectorSize::Mib8;
    let seal = RegisteredSeal::v1_1(size);
    let graph = Graph::new(size, &seal.porep_id(), seal.api_version());
    let previous = nodes(usize::try_from(size.nodes()).expect("fits"));
    let [table, generated] =
        [u64::MAX, 0].map(|room| ParentLists::prepare(graph.clone(), room, None, &NoProgress));
    let replica_id = &ReplicaId([0x11; 32]);
    for (name, sectors, parents) in [
        ("size=8MiB", 1, &table),
        ("size=8MiB/sectors=2", 2, &table),
        ("size=8MiB/sectors=4", 4, &table),
        ("size=8MiB/parents=generated", 1, &generated),
    ] {
        let mut layers = vec![vec![[0; 32]; previous.len()]; sectors];
        let bytes = size.bytes() * u64::try_from(sectors).expect("few");
        let mut group = slow(c, "prover::porep::label", Throughput::Bytes(bytes));
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut sectors: Vec<SectorLayer<'_>> = layers
                    .iter_mut()
                    .map(|out| SectorLayer {
                        replica_id,
                        previous: Some(&previous),
                        out,
                    })
                    .collect();
                fill_layer(2, parents, &mut sectors, &NoProgress);
            });
        });
    }
    let mut group = slow(c, "prover::porep::parents", Throughput::Bytes(size.bytes()));
    group.bench_function("table/size=8MiB", |b| b.iter(|| ParentTable::new(&graph)));
}
