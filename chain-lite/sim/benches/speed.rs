//! How much faster than real time one core simulates: elements per second are simulated seconds per real second.
//!
//! `cargo bench -p holdfast-sim`: an hour of the seeds 0 to 7 in turn, the ones with set changes and twins among them.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use holdfast_sim::run::run;
use holdfast_sim::scenario::Scenario;

criterion_group!(benches, speed);
criterion_main!(benches);

fn speed(c: &mut Criterion) {
    let mut group = c.benchmark_group("simulator");
    group.sample_size(10).throughput(Throughput::Elements(3600));
    let mut seeds = (0..8).cycle();
    group.bench_function("an_hour_on_one_core", |b| {
        b.iter(|| {
            let seed = seeds.next().expect("a cycle");
            run(seed, &Scenario::of_seed(seed, 1)).expect("holds")
        });
    });
    group.finish();
}
