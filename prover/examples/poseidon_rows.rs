//! How fast rows of Poseidon nodes are hashed: on the GPU with `--features cuda` where there is one, else on one core a thread.
//!
//! `cargo run --release -p prover --features cuda --example poseidon_rows`. For each arity: calls of several sizes from one thread,
//! then calls of the size that building trees uses, from all threads at once. `CUDA_VISIBLE_DEVICES=` shows the CPU.

use std::time::Instant;

use prover::hash::poseidon::{Arity, hash_nodes};
use prover::ids::Node;
use rayon::prelude::*;

fn main() {
    let start = Instant::now();
    let gpu = prover::machine::gpu();
    println!(
        "GPU {}, found in {:.2} s; {} threads",
        gpu.as_deref().unwrap_or("none"),
        start.elapsed().as_secs_f64(),
        rayon::current_num_threads()
    );
    for arity in [Arity::Two, Arity::Eight, Arity::Eleven] {
        let nodes = |count: usize| -> Vec<Node> {
            let node = |i: usize| {
                let mut node = [0x2a; 32];
                node[..8].copy_from_slice(&(i as u64).to_le_bytes());
                node
            };
            (0..count * arity.len()).map(node).collect()
        };
        let hash = |nodes: &[Node]| {
            let mut out = vec![[0; 32]; nodes.len() / arity.len()];
            hash_nodes(arity, nodes, &mut out).expect("all of them are elements");
            out
        };
        for log in [10, 13, 15, 17] {
            let nodes = nodes(1 << log);
            let seconds = [(); 2].map(|()| {
                let start = Instant::now();
                hash(&nodes);
                start.elapsed().as_secs_f64()
            });
            println!(
                "arity {:2}, one call of 2^{log}: {:8.2} ms, again {:8.2} ms, {:.3} us a hash",
                arity.len(),
                seconds[0] * 1e3,
                seconds[1] * 1e3,
                seconds[1] * 1e6 / f64::from(1 << log)
            );
        }
        let (nodes, calls) = (nodes(1 << 15), 4 * rayon::current_num_threads());
        let start = Instant::now();
        (0..calls).into_par_iter().for_each(|_| drop(hash(&nodes)));
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "arity {:2}, {calls} calls of 2^15 from all threads: {seconds:.3} s, {:.3} us a hash",
            arity.len(),
            seconds * 1e6 / f64::from(1 << 15) / calls as f64
        );
    }
}
