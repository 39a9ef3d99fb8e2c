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
    // What CPUs without AVX-512 IFMA get, beside blst's own method, which takes one thread.
    let one = Plan::new(&Machine {
        cores: 1,
        ..Machine::detect()
    });
    let one = one.expect("a thread pool");
    let points = plan.run(|| measure::points_g1(count));
    group.bench_function(format!("g1_portable/one_thread/points=2^{SUM_LOG}"), |b| {
        b.iter(|| one.run(|| measure::sum_g1_portable(&points, &scalars)));
    });
    group.bench_function(format!("g1_by_blst/one_thread/points=2^{SUM_LOG}"), |b| {
        b.iter(|| one.run(|| measure::sum_g1_by_blst(&points, &scalars)));
    });
    group.bench_function(format!("g1/points=2^{SUM_LOG}"), |b| {
        b.iter(|| plan.run(|| measure::sum_g1(&points, &scalars)));
    });
    let points = plan.run(|| measure::points_g2(count));
    group.bench_function(format!("g2_portable/one_thread/points=2^{SUM_LOG}"), |b| {
        b.iter(|| one.run(|| measure::sum_g2_portable(&points, &scalars)));
    });
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
