//! Reed-Solomon on one core: bytes of data per second, shards of 1 MiB that stay in the cache's reach as in a put.

use criterion::{Criterion, Throughput};
use storage_node::object::erasure::{Coder, Scheme};

use benches::sample;

use crate::support::slow;

const SHARD: usize = 64 * 1024;

pub fn bench(c: &mut Criterion) {
    for (k, m) in [(2, 2), (4, 2), (10, 4)] {
        let coder = Coder::new(Scheme::new(k, m).expect("a scheme"));
        let mut shards: Vec<Vec<u8>> = sample(k * SHARD)
            .chunks(SHARD)
            .map(<[u8]>::to_vec)
            .collect();
        shards.resize(k + m, vec![0; SHARD]);
        let bytes = Throughput::Bytes((k * SHARD) as u64);
        slow(c, "storage_node::object::erasure::encode", bytes.clone())
            .bench_function(format!("scheme={k}+{m}"), |b| {
                b.iter(|| coder.encode(&mut shards).expect("equal shards"))
            });
        let all: Vec<_> = shards.iter().cloned().map(Some).collect();
        slow(c, "storage_node::object::erasure::restore_data", bytes).bench_function(
            format!("scheme={k}+{m}"),
            |b| {
                let without_m = || {
                    all.iter()
                        .enumerate()
                        .map(|(i, s)| if i < m.min(k) { None } else { s.clone() })
                        .collect()
                };
                b.iter_batched_ref(
                    without_m,
                    |shards: &mut Vec<Option<Vec<u8>>>| {
                        coder.restore_data(shards).expect("k are there")
                    },
                    criterion::BatchSize::LargeInput,
                );
            },
        );
    }
}
