//! What several benches share.

use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use prover::Node;

use benches::sample;

/// A group for operations that take long: ten samples, and no more time than they need.
pub fn slow<'a>(
    c: &'a mut Criterion,
    name: &str,
    throughput: Throughput,
) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.throughput(throughput).sample_size(10);
    group
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(2));
    group
}

/// Nodes that are field elements.
pub fn nodes(count: usize) -> Vec<Node> {
    let mut nodes: Vec<Node> = sample(count * 32).as_chunks().0.to_vec();
    nodes.iter_mut().for_each(|node| node[31] &= 0x3f);
    nodes
}
