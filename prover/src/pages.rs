//! Large zeroed buffers of nodes, on huge pages where the system gives them.
//!
//! A layer is read at random: with pages of 4 KiB nearly every parent of a large sector misses the address cache too, and a
//! 512 MiB layer has 131,072 of them. Linux gives pages of 2 MiB on request (`madvise`); elsewhere, and where it refuses,
//! ordinary pages do. Zeroed lazily: memory that is never touched is never taken.

use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

use crate::ids::Node;
use crate::spec::NODE_BYTES;

/// Below this many bytes an ordinary allocation is as good.
const WORTHWHILE: usize = 4 << 20;

/// So many nodes, all zero at first.
#[derive(Debug)]
pub(crate) struct Nodes(Memory);

#[derive(Debug)]
enum Memory {
    Heap(Vec<Node>),
    Pages(MmapMut),
}

impl Nodes {
    /// A zeroed buffer.
    pub(crate) fn zeroed(count: usize) -> Self {
        let heap = || Memory::Heap(vec![[0; NODE_BYTES]; count]);
        let bytes = count.saturating_mul(NODE_BYTES);
        if bytes < WORTHWHILE {
            return Self(heap());
        }
        // A refusal to map is no reason to fail: the allocator decides then, as for any buffer.
        Self(MmapMut::map_anon(bytes).map_or_else(
            |_| heap(),
            |map| {
                #[cfg(target_os = "linux")]
                let _ = map.advise(memmap2::Advice::HugePage);
                Memory::Pages(map)
            },
        ))
    }
}

impl Deref for Nodes {
    type Target = [Node];
    fn deref(&self) -> &[Node] {
        match &self.0 {
            Memory::Heap(nodes) => nodes,
            Memory::Pages(map) => map.as_chunks().0,
        }
    }
}

impl DerefMut for Nodes {
    fn deref_mut(&mut self) -> &mut [Node] {
        match &mut self.0 {
            Memory::Heap(nodes) => nodes,
            Memory::Pages(map) => map.as_chunks_mut().0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_zeroed_and_hold_what_is_written() {
        for count in [
            0,
            1,
            1000,
            WORTHWHILE / NODE_BYTES,
            WORTHWHILE / NODE_BYTES + 3,
        ] {
            let mut nodes = Nodes::zeroed(count);
            assert_eq!(nodes.len(), count);
            assert!(nodes.iter().all(|node| *node == [0; NODE_BYTES]));
            if let Some(last) = nodes.last_mut() {
                *last = [7; NODE_BYTES];
            }
            assert_eq!(
                nodes.iter().filter(|n| **n == [7; NODE_BYTES]).count(),
                count.min(1)
            );
        }
    }
}
