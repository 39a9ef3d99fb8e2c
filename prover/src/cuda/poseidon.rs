//! Rows of Poseidon nodes on the GPU.
//!
//! Walk: [`crate::hash::poseidon::hash_nodes`] asks here when there are enough of them. Callers are many threads at once;
//! each takes a lane, a queue with memory of its own, so that copies of one go on while another computes.
//! Check: of each batch a few hashes are computed again on the CPU; their places move from batch to batch.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use ark_bls12_381::Fr;

use super::{Arg, Buffer, Gpu, GpuError, Queue};
use crate::hash::poseidon::{Arity, constants, fr_from_node, hash_slice, node_from_fr};
use crate::ids::Node;

/// Hashes in one call from which on the way to the GPU is worth it.
pub const WORTH_IT: usize = 1 << 10;
/// Hashes that callers should bring together, where a GPU does them.
pub const TOGETHER: u64 = 1 << 15;
/// Hashes of one call that are computed again.
const CHECKED: usize = 16;
/// What a place of no node is.
const NONE: u64 = u64::MAX;

/// What all calls share.
#[derive(Debug, Default)]
pub struct Shared {
    constants: [OnceLock<Buffer>; 4],
    lanes: Mutex<Vec<Lane>>,
    calls: AtomicUsize,
}

/// Memory of one call at a time.
#[derive(Debug)]
struct Lane {
    nodes: Buffer,
    out: Buffer,
    bad: Buffer,
}

/// Hashes preimages laid end to end, as [`crate::hash::poseidon::hash_nodes`] does: `Ok(Err(place))` names the first node that is
/// no field element.
pub fn hash_nodes(
    gpu: &Gpu,
    arity: Arity,
    nodes: &[Node],
    out: &mut [Node],
) -> Result<Result<(), usize>, GpuError> {
    let queue = gpu.queue()?;
    let shared = &gpu.hashes;
    let constants = constants_on(gpu, &queue, arity)?;
    let mut lane = shared.lane(&queue, nodes.len(), out.len())?;
    queue.write(&mut lane.nodes, 0, nodes)?;
    queue.write(&mut lane.bad, 0, &[NONE])?;
    let kernel = match arity {
        Arity::Two => "poseidon_3",
        Arity::Four => "poseidon_5",
        Arity::Eight => "poseidon_9",
        Arity::Eleven => "poseidon_12",
    };
    let args = [
        Arg::At(&lane.nodes),
        Arg::Number(out.len() as u64),
        Arg::At(constants),
        Arg::Number(arity.partial_rounds() as u64),
        Arg::Number((1 << arity.len()) - 1),
        Arg::At(&lane.out),
        Arg::At(&lane.bad),
    ];
    queue.launch(kernel, out.len(), &args)?;
    let mut bad = [0];
    queue.read(&lane.bad, &mut bad)?;
    queue.read(&lane.out, out)?;
    shared.give_back(lane);
    if bad[0] != NONE {
        // It is believed only where the CPU says so too.
        let place = usize::try_from(bad[0]).ok();
        let place = place.filter(|place| {
            nodes
                .get(*place)
                .is_some_and(|node| fr_from_node(node).is_none())
        });
        return place.map(Err).ok_or(GpuError::Wrong("test of a node"));
    }
    shared.check(arity, nodes, out)?;
    Ok(Ok(()))
}

impl Shared {
    fn lane(&self, queue: &Queue, nodes: usize, out: usize) -> Result<Lane, GpuError> {
        let bytes = [nodes, out].map(|count| count * size_of::<Node>());
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |lane: &Lane| lane.nodes.bytes >= bytes[0] && lane.out.bytes >= bytes[1];
        if let Some(at) = lanes.iter().position(fits) {
            return Ok(lanes.swap_remove(at));
        }
        // One that is too small makes room for one that is not.
        lanes.pop();
        drop(lanes);
        Ok(Lane {
            nodes: queue.allocate(bytes[0])?,
            out: queue.allocate(bytes[1])?,
            bad: queue.allocate(size_of::<u64>())?,
        })
    }

    fn give_back(&self, lane: Lane) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.push(lane);
    }

    fn check(&self, arity: Arity, nodes: &[Node], out: &[Node]) -> Result<(), GpuError> {
        if out.is_empty() {
            return Ok(());
        }
        for _ in 0..CHECKED {
            // A step that shares no factor with a row's length visits every place.
            let call = self.calls.fetch_add(1, Ordering::Relaxed);
            let place = call.wrapping_mul(7_919) % out.len();
            let preimage = &nodes[place * arity.len()..][..arity.len()];
            let preimage: Option<Vec<Fr>> = preimage.iter().map(fr_from_node).collect();
            let expected = preimage.map(|preimage| node_from_fr(&hash_slice(arity, &preimage)));
            if expected != Some(out[place]) {
                return Err(GpuError::Wrong("Poseidon hash"));
            }
        }
        Ok(())
    }
}

/// The constants of an arity, brought over once.
fn constants_on<'a>(gpu: &'a Gpu, queue: &Queue, arity: Arity) -> Result<&'a Buffer, GpuError> {
    let cell = &gpu.hashes.constants[arity as usize];
    if let Some(buffer) = cell.get() {
        return Ok(buffer);
    }
    let of = constants(arity);
    let mut all: Vec<Fr> = of.compressed.clone();
    all.extend(of.mds.iter().flatten());
    all.extend(of.pre_sparse.iter().flatten());
    for matrix in &of.sparse {
        all.extend(matrix.column.iter().chain(&matrix.row));
    }
    let buffer = queue.upload(&all)?;
    Ok(cell.get_or_init(|| buffer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::{all, emulated};
    use crate::snark::testing::rng;
    use ark_ff::UniformRand;

    fn nodes(count: usize, seed: u64) -> Vec<Node> {
        let mut rng = rng(seed);
        let edges = [Fr::from(0u64), Fr::from(1u64), -Fr::from(1u64)];
        let value = |i: usize| *edges.get(i % 7).unwrap_or(&Fr::rand(&mut rng));
        (0..count)
            .map(value)
            .map(|value| node_from_fr(&value))
            .collect()
    }

    #[test]
    fn hashes_are_the_cpus() {
        let cases = all()
            .into_iter()
            .flat_map(|gpu| Arity::ALL.map(|arity| (gpu, arity)));
        for (gpu, arity) in cases {
            for count in [1, 2, 130] {
                let nodes = nodes(count * arity.len(), count as u64);
                let mut out = vec![[0; 32]; count];
                let done = hash_nodes(gpu, arity, &nodes, &mut out);
                assert_eq!(done.expect("there is always this GPU"), Ok(()));
                for (preimage, out) in nodes.chunks_exact(arity.len()).zip(&out) {
                    let preimage: Vec<Fr> = preimage.iter().filter_map(fr_from_node).collect();
                    assert_eq!(
                        node_from_fr(&hash_slice(arity, &preimage)),
                        *out,
                        "{arity:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_first_node_that_is_no_element_is_named() {
        let mut nodes = nodes(40 * 8, 3);
        nodes[77] = [0xff; 32];
        nodes[200] = [0xff; 32];
        let done = hash_nodes(emulated::gpu(), Arity::Eight, &nodes, &mut [[0; 32]; 40]);
        assert_eq!(done.expect("there is always this GPU"), Err(77));
    }

    #[test]
    fn tm_p18_a_wrong_hash_is_noticed() {
        let nodes = nodes(8 * 3, 4);
        let shared = Shared::default();
        let mut out = vec![[0; 32]; 3];
        let done = hash_nodes(emulated::gpu(), Arity::Eight, &nodes, &mut out);
        assert_eq!(done.expect("there is always this GPU"), Ok(()));
        assert!(shared.check(Arity::Eight, &nodes, &out).is_ok());
        out.iter_mut().for_each(|out| out[5] ^= 1);
        let checked = shared.check(Arity::Eight, &nodes, &out);
        assert!(matches!(checked, Err(GpuError::Wrong(_))));
    }
}
