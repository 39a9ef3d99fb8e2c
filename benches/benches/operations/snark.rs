//! The parts of a Groth16 proof: sums of multiples in G1 and G2, and transforms, with scalars of full width.

use criterion::{Criterion, Throughput};
use prover::{
    machine::{Machine, Plan},
    snark::measure,
};

use crate::support::slow;

const SUM_LOG: usize = 16;
const TRANSFORM_LOG: usize = 20;

pub fn bench(c: &mut Criterion) {
    let plan = Plan::new(&Machine::detect()).expect("a thread pool");
    let count = 1usize << SUM_LOG;
    let scalars = measure::scalars(count);
    let mut group = slow(c, "prover::snark::msm", Throughput::Elements(count as u64));
    let points = plan.run(|| measure::points_g1(count));
    group.bench_function(format!("g1/points=2^{SUM_LOG}"), |b| {
        b.iter(|| plan.run(|| measure::sum_g1(&points, &scalars)));
    });
    let points = plan.run(|| measure::points_g2(count));
    group.bench_function(format!("g2/points=2^{SUM_LOG}"), |b| {
        b.iter(|| plan.run(|| measure::sum_g2(&points, &scalars)));
    });
    group.finish();

    let mut values = measure::scalars(1 << TRANSFORM_LOG);
    let mut group = slow(
        c,
        "prover::snark::ntt",
        Throughput::Elements(1 << TRANSFORM_LOG),
    );
    group.bench_function(format!("values=2^{TRANSFORM_LOG}"), |b| {
        b.iter(|| plan.run(|| measure::interpolate(&mut values)));
    });
    group.finish();
}
