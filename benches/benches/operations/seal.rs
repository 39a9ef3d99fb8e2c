//! PC1 and PC2 of a whole 8 MiB sector: files, trees and records included.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use prover::{
    NoProgress, SectorSize,
    machine::{Machine, Plan},
    seal,
};

use benches::full_sector;

use crate::support::slow;

pub fn bench(c: &mut Criterion) {
    let size = SectorSize::Mib8;
    let plan = Plan::new(&Machine::detect()).expect("a thread pool");
    let (request, data) = full_sector(size, 7);
    let mut group = slow(c, "prover::seal", Throughput::Bytes(size.bytes()));
    for (name, timed_stage) in [("pc1/size=8MiB", 1), ("pc2/size=8MiB", 2)] {
        group.bench_function(name, |b| {
            b.iter_custom(|rounds| {
                let mut total = Duration::ZERO;
                for _ in 0..rounds {
                    let dir = tempfile::tempdir().expect("a temporary folder");
                    let mut pieces = data.as_slice();
                    let packed =
                        seal::create(&dir.path().join("s"), request.clone(), &mut [&mut pieces])
                            .expect("packed");
                    let begin = Instant::now();
                    let labeled = packed.label(&plan, &NoProgress).expect("labeled");
                    if timed_stage == 1 {
                        total += begin.elapsed();
                        continue;
                    }
                    let begin = Instant::now();
                    labeled.replicate(&plan, &NoProgress).expect("replicated");
                    total += begin.elapsed();
                }
                total
            });
        });
    }
}
