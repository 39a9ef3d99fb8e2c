//! CommP: the root over a piece's Fr32-padded nodes, computed as the bytes stream by.
//!
//! Walk: after [`super::fr32`], before [`super::layout`]. Sibling: `retrieval::verify` checks ranges against it through
//! [`super::inclusion`]. Spec: proofs.md §1.2. The data is zero-extended to `127 · 2^k` bytes first; leaves are the padded
//! nodes themselves.
//!
//! Cost: one pass; about two SHA-256 compressions per 32 bytes, in interleaved kernels, on all threads of the current
//! rayon pool with feature `prove`. Memory: 1 MiB per thread and 32 bytes per level, whatever the piece's size.
//!
//! ```text
//! chunk of 1 MiB padded → root at height 15 ─┐
//! chunk of 1 MiB padded → root at height 15 ─┴ merge like a binary counter … zero commitments fill the rest
//! ```

use super::fr32::{self, BLOCK_PADDED, BLOCK_UNPADDED};
use super::size::PaddedPieceSize;
use crate::commitment::CommP;
use crate::hash::sha256;
use crate::ids::Node;

/// Height of a chunk's tree: 2^15 nodes, 1 MiB padded.
const CHUNK_HEIGHT: u32 = 15;
const CHUNK_NODES: usize = 1 << CHUNK_HEIGHT;
/// Unpadded bytes in a chunk.
const CHUNK_BYTES: usize = CHUNK_NODES / 4 * BLOCK_UNPADDED;
/// Height of the tallest tree: a 64 GiB piece.
const MAX_HEIGHT: u32 = 31;

/// Streams unpadded bytes into a CommP.
///
/// ```
/// use prover::piece::commp::{CommpHasher, commp_of};
///
/// let mut hasher = CommpHasher::new();
/// hasher.update(b"two ");
/// hasher.update(b"parts");
/// assert_eq!(hasher.finish(), commp_of(b"two parts"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct CommpHasher {
    /// Bytes that do not fill a chunk yet.
    pending: Vec<u8>,
    /// Roots of complete subtrees, tallest first, strictly falling heights.
    roots: Vec<(u32, Node)>,
    /// Bytes seen.
    len: u64,
}

impl CommpHasher {
    /// An empty piece.
    pub fn new() -> Self {
        Self::default()
    }

    /// Unpadded bytes seen so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was seen yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends unpadded bytes. Large slices are hashed in parallel without being copied.
    ///
    /// # Panics
    /// When the sum exceeds the largest piece (64 GiB padded); callers bound their input first.
    pub fn update(&mut self, mut data: &[u8]) {
        let added = u64::try_from(data.len()).expect("no machine addresses more than 2^64 bytes");
        self.len = self
            .len
            .checked_add(added)
            .expect("a piece is below 64 GiB");
        assert!(
            self.len <= PaddedPieceSize::MAX.unpadded().bytes(),
            "a piece is below 64 GiB"
        );
        if !self.pending.is_empty() {
            let take = data.len().min(CHUNK_BYTES - self.pending.len());
            self.pending.extend_from_slice(&data[..take]);
            data = &data[take..];
            if self.pending.len() == CHUNK_BYTES {
                let root = chunk_root(&self.pending);
                self.pending.clear();
                self.push(CHUNK_HEIGHT, root);
            }
        }
        let (chunks, rest) = data.as_chunks::<CHUNK_BYTES>();
        for root in chunk_roots(chunks) {
            self.push(CHUNK_HEIGHT, root);
        }
        if !rest.is_empty() {
            self.pending.extend_from_slice(rest);
        }
    }

    /// Zero-extends to a whole piece and returns its root and padded size.
    pub fn finish(mut self) -> (CommP, PaddedPieceSize) {
        let size = PaddedPieceSize::fitting(self.len).expect("update bounds the length");
        if !self.pending.is_empty() || self.roots.is_empty() {
            let (height, root) = partial_root(&self.pending);
            // Zero nodes lift the last subtree to the height of the one before it.
            self.raise_and_push(height, root);
        }
        while let Some((height, root)) = self.roots.pop() {
            if self.roots.is_empty() && height >= size.height() {
                return (CommP(root), size);
            }
            self.raise_and_push(
                height + 1,
                sha256::node(&root, &ZERO_COMMITMENTS.at(height)),
            );
        }
        unreachable!("the loop pushes a root whenever it does not return")
    }

    /// Lifts a subtree with zero nodes until it can merge with its left neighbour, then pushes it.
    fn raise_and_push(&mut self, mut height: u32, mut root: Node) {
        while self.roots.last().is_some_and(|&(left, _)| left > height) {
            root = sha256::node(&root, &ZERO_COMMITMENTS.at(height));
            height += 1;
        }
        self.push(height, root);
    }

    fn push(&mut self, mut height: u32, mut root: Node) {
        while let Some(&(left_height, left)) = self.roots.last() {
            if left_height != height {
                break;
            }
            self.roots.pop();
            root = sha256::node(&left, &root);
            height += 1;
        }
        self.roots.push((height, root));
    }
}

/// CommP and padded size of bytes in memory.
pub fn commp_of(data: &[u8]) -> (CommP, PaddedPieceSize) {
    let mut hasher = CommpHasher::new();
    hasher.update(data);
    hasher.finish()
}

/// CommP of an all-zero piece of this size: `Z_height` of proofs.md §1.2.
pub fn zero_commitment(size: PaddedPieceSize) -> CommP {
    CommP(ZERO_COMMITMENTS.at(size.height()))
}

/// CommP of the same bytes in a larger piece: zeros follow.
///
/// # Panics
/// When `to` is smaller than `from`.
pub fn extend_with_zeros(comm_p: CommP, from: PaddedPieceSize, to: PaddedPieceSize) -> CommP {
    assert!(from <= to, "zeros extend a piece, they never shrink it");
    CommP((from.height()..to.height()).fold(comm_p.0, |root, height| {
        sha256::node(&root, &zero_node(height))
    }))
}

/// Root of an all-zero subtree of `2^height` nodes.
///
/// # Panics
/// Above height 31, which no sector has.
pub(crate) fn zero_node(height: u32) -> Node {
    ZERO_COMMITMENTS.at(height)
}

struct ZeroCommitments(std::sync::LazyLock<[Node; MAX_HEIGHT as usize + 1]>);

impl ZeroCommitments {
    fn at(&self, height: u32) -> Node {
        self.0[usize::try_from(height).expect("at most 31")]
    }
}

/// `Z_0 = 0`, `Z_{k+1} = node(Z_k, Z_k)`; 31 hashes, made on first use.
static ZERO_COMMITMENTS: ZeroCommitments = ZeroCommitments(std::sync::LazyLock::new(|| {
    let mut zeros = [[0; 32]; MAX_HEIGHT as usize + 1];
    for k in 1..zeros.len() {
        zeros[k] = sha256::node(&zeros[k - 1], &zeros[k - 1]);
    }
    zeros
}));

#[cfg(feature = "prove")]
fn chunk_roots(chunks: &[[u8; CHUNK_BYTES]]) -> Vec<Node> {
    use rayon::prelude::*;
    chunks.par_iter().map(|chunk| chunk_root(chunk)).collect()
}

#[cfg(not(feature = "prove"))]
fn chunk_roots(chunks: &[[u8; CHUNK_BYTES]]) -> Vec<Node> {
    chunks.iter().map(|chunk| chunk_root(chunk)).collect()
}

/// Root over one full chunk.
fn chunk_root(data: &[u8]) -> Node {
    thread_local! {
        // Padded nodes of a chunk; reused, because a fresh MiB per chunk costs more in page faults than it hashes.
        static NODES: std::cell::RefCell<Vec<Node>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    NODES.with_borrow_mut(|nodes| {
        nodes.resize(CHUNK_NODES, [0; 32]);
        fr32::pad_into(data, nodes.as_flattened_mut());
        sha256::root_in_place(nodes)
    })
}

/// Root and height of the smallest subtree, at least one block, that holds less than a chunk.
fn partial_root(data: &[u8]) -> (u32, Node) {
    let blocks = data
        .len()
        .div_ceil(BLOCK_UNPADDED)
        .max(1)
        .next_power_of_two();
    let mut nodes = vec![[0; 32]; blocks * (BLOCK_PADDED / 32)];
    let padded = usize::try_from(fr32::padded_len(
        u64::try_from(data.len()).expect("below a chunk"),
    ))
    .expect("1 MiB");
    fr32::pad_into(data, &mut nodes.as_flattened_mut()[..padded]);
    (
        nodes.len().trailing_zeros(),
        sha256::root_in_place(&mut nodes),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len)
            .map(|i| (i * 7 + (i >> 8) * 11 + (i >> 16) * 13 + 3).to_le_bytes()[0])
            .collect()
    }

    /// proofs.md §1.2.
    #[test]
    fn zero_commitments_match_the_published_ones() {
        for (height, hex) in [
            (
                2,
                "3731bb99ac689f66eef5973e4a94da188f4ddcae580724fc6f3fd60dfd488333",
            ),
            (
                3,
                "642a607ef886b004bf2c1978463ae1d4693ac0f410eb2d1b7a47fe205e5e750f",
            ),
            (
                6,
                "fc7e928296e516faade986b28f92d44a4f24b935485223376a799027bc18f833",
            ),
            (
                18,
                "65f29e5d98d246c38b388cfc06db1f6b021303c5a289000bdce832a9c3ec421c",
            ),
            (
                24,
                "39560e7b13a93b07a243fd2720ffa7cb3e1d2e505ab3629e79f46313512cda06",
            ),
            (
                30,
                "077e5fde35c50a9303a55009e3498a4ebedff39c42b710b730d8ec7ac7afa63e",
            ),
            (
                31,
                "e64005a6bfe3777953b8ad6ef93f0fca1049b2041654f2a411f7702799cece02",
            ),
        ] {
            let size = PaddedPieceSize::new(32 << height).expect("a power of two");
            assert_eq!(zero_commitment(size).to_string(), hex, "height {height}");
        }
    }

    #[test]
    fn boundary_lengths_equal_the_plain_twin() {
        for len in [
            0, 1, 126, 127, 128, 254, 255, 508, 1016, 1017, 4064, 100_000,
        ] {
            let data = bytes(len);
            assert_eq!(
                commp_of(&data),
                crate::reference::commp(&data),
                "{len} bytes"
            );
        }
    }

    #[test]
    fn chunk_boundaries_equal_the_plain_twin() {
        for len in [
            CHUNK_BYTES - 1,
            CHUNK_BYTES,
            CHUNK_BYTES + 1,
            2 * CHUNK_BYTES,
            3 * CHUNK_BYTES + 12_345,
        ] {
            let data = bytes(len);
            assert_eq!(
                commp_of(&data),
                crate::reference::commp(&data),
                "{len} bytes"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn pieces_of_updates_do_not_matter(len in 0usize..2_500_000, cuts in prop::collection::vec(0usize..2_500_000, 0..4)) {
            let data = bytes(len);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(len)).chain([len]).collect();
            cuts.sort_unstable();
            let mut hasher = CommpHasher::new();
            let mut at = 0;
            for cut in cuts {
                hasher.update(&data[at..cut]);
                at = cut;
            }
            prop_assert_eq!(hasher.len(), u64::try_from(len).expect("small"));
            prop_assert_eq!(hasher.finish(), commp_of(&data));
        }
    }
}
