//! SHA-256 kernels for x86-64: SHA-NI, one stream or four interleaved, and AVX-512 over 16 lanes.
//!
//! One SHA-NI stream is bound by the latency of `sha256rnds2`: 32 dependent instructions a block. Independent hashes
//! therefore interleave: tree nodes four at a time, labels of up to four sectors that are sealed together. Within one
//! sector a label has nothing to interleave with and gets everything else out of its chain:
//!
//! ```text
//! block      0       1..7     8..14    15..18   19                 layers 2 and up: 14 parents = 7 distinct blocks
//! parents  prefix    0..13    0..13    0..7     8, padding         layer 1: 6 parents = 3 blocks, six times, then 0
//! ```
//!
//! The prefix does not depend on any label, so four prefixes are hashed at once ahead of their nodes; of the 19 blocks in
//! the chain only 7 (3) have a message schedule of their own.
//!
//! Without AVX, on purpose: the SHA instructions exist in the old encoding alone, and where the compiler may use AVX it copies
//! nodes and states through registers of 256 bits between them. Intel's CPUs that keep both worlds apart pay at every
//! change: on a Xeon sealing 8 MiB took 58 s with AVX and 0.6 s without. On Zen 5 AVX made no difference alone, and 5 % in
//! four streams. A build for all of such a Xeon's instructions (`-C target-cpu=native`) has the mixture again. One stream
//! keeps that Xeon's SHA unit busy, so four in step are only a tenth faster there.
//!
//! Measured (Zen 5, one core): see `benches`. Registers hold the state as the instructions want it: `ABEF` and `CDGH`.
#![allow(unsafe_code)]

use super::{LabelKey, LabelStream, gather};
use crate::ids::Node;
use crate::spec::{BASE_DEGREE, DEGREE};
use core::arch::x86_64::*;
use core::borrow::BorrowMut;

#[rustfmt::skip]
const K: [u32; 64] = [
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
];
const IV: [u32; 8] = [
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
];

/// Bits of a tree node's message: two nodes.
const NODE_MESSAGE_BITS: u32 = 512;
/// Bits of a label's message: the prefix and 37 nodes.
const LABEL_MESSAGE_BITS: u32 = 1248 * 8;

/// Schedule plus round constants of a tree node's second block, which is padding alone.
const PADDING_SCHEDULE: [u32; 64] = {
    let mut w = [0u32; 64];
    w[0] = 0x8000_0000;
    w[15] = NODE_MESSAGE_BITS;
    let mut i = 16;
    while i < 64 {
        let (x, y) = (w[i - 15], w[i - 2]);
        let s0 = x.rotate_right(7) ^ x.rotate_right(18) ^ (x >> 3);
        let s1 = y.rotate_right(17) ^ y.rotate_right(19) ^ (y >> 10);
        w[i] = w[i - 16]
            .wrapping_add(s0)
            .wrapping_add(w[i - 7])
            .wrapping_add(s1);
        i += 1;
    }
    i = 0;
    while i < 64 {
        w[i] = w[i].wrapping_add(K[i]);
        i += 1;
    }
    w
};

/// What this CPU can run. A value exists only where detection succeeded, which is the safety argument of every call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// SHA-NI for everything.
    ShaNi(Detected),
    /// SHA-NI for labels, AVX-512 for rows.
    ShaNiAvx512(Detected),
}

/// Proof that detection ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Detected(());

impl Kernel {
    /// The fastest kernel of this CPU, which the standard library remembers, unless [`crate::instructions`] says none.
    pub(super) fn detect() -> Option<Self> {
        Self::available()
            .last()
            .filter(|_| crate::instructions::wide())
    }

    /// Every kernel of this CPU, slowest first.
    pub(super) fn available() -> impl Iterator<Item = Self> {
        let sha = is_x86_feature_detected!("sha")
            && is_x86_feature_detected!("ssse3")
            && is_x86_feature_detected!("sse4.1");
        let avx512 =
            sha && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        let kernels = [
            sha.then_some(Self::ShaNi(Detected(()))),
            avx512.then_some(Self::ShaNiAvx512(Detected(()))),
        ];
        kernels.into_iter().flatten()
    }

    /// `row` has two nodes for each of `out`; the caller checked it.
    pub(super) fn nodes(self, row: &[Node], out: &mut [Node]) {
        debug_assert_eq!(row.len(), 2 * out.len());
        // SAFETY: the row has 2 * out.len() readable nodes, out as many writable ones as counted, apart from the row.
        unsafe { self.nodes_raw(row.as_ptr(), out.as_mut_ptr(), out.len()) }
    }

    /// Parents replace the front half of the row.
    pub(super) fn nodes_in_place(self, row: &mut [Node]) {
        let parents = row.len() / 2;
        let row = row.as_mut_ptr();
        // SAFETY: one pointer for both sides; parent i is written after nodes 2i and 2i + 1 were read, and lies at or
        // before them, so no unread node is overwritten: groups load all their nodes before they store.
        unsafe { self.nodes_raw(row, row, parents) }
    }

    /// # Safety
    /// `row` has `2 * parents` readable nodes, `out` has `parents` writable ones, and `out` either lies apart from `row`
    /// or begins with it.
    unsafe fn nodes_raw(self, row: *const Node, out: *mut Node, parents: usize) {
        let mut done = 0;
        if let Self::ShaNiAvx512(_) = self {
            while done + 16 <= parents {
                // SAFETY: AVX-512 was detected; 32 nodes to read and 16 to write remain.
                unsafe { nodes16(row.add(2 * done), out.add(done)) };
                done += 16;
            }
        }
        while done + 4 <= parents {
            // SAFETY: SHA-NI was detected; 8 nodes to read and 4 to write remain.
            unsafe { nodes_ni::<4>(row.add(2 * done), out.add(done)) };
            done += 4;
        }
        while done < parents {
            // SAFETY: SHA-NI was detected; 2 nodes to read and 1 to write remain.
            unsafe { nodes_ni::<1>(row.add(2 * done), out.add(done)) };
            done += 1;
        }
    }

    /// Labels of `first ..`, which is not node 0, in all streams: four at a time, then the rest together.
    pub(super) fn fill_labels(
        self,
        streams: &mut [LabelStream<'_>],
        first: usize,
        parents: &[[u32; DEGREE]],
    ) {
        let (fours, rest) = streams.as_chunks_mut::<4>();
        for four in fours {
            // SAFETY: every kernel has SHA-NI.
            unsafe { fill_labels_ni(four, first, parents) }
        }
        // SAFETY: every kernel has SHA-NI.
        match rest {
            [a, b, c] => unsafe { fill_labels_ni(&mut [a, b, c], first, parents) },
            [a, b] => unsafe { fill_labels_ni(&mut [a, b], first, parents) },
            [a] => unsafe { fill_labels_ni(&mut [a], first, parents) },
            _ => {}
        }
    }
}

/// Chaining state in the order of the SHA instructions.
#[derive(Clone, Copy)]
struct State {
    abef: __m128i,
    cdgh: __m128i,
}

/// The 64 schedule words of a block with their round constants added.
type Schedule = [__m128i; 16];

#[target_feature(enable = "sha,ssse3,sse4.1")]
#[inline]
fn byte_swap() -> __m128i {
    _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3)
}

#[target_feature(enable = "sha,ssse3,sse4.1")]
#[inline]
fn words(w: [u32; 4]) -> __m128i {
    let [a, b, c, d] = w.map(u32::cast_signed);
    _mm_set_epi32(d, c, b, a)
}

#[target_feature(enable = "sha,ssse3,sse4.1")]
#[inline]
fn four(table: &[u32; 64], group: usize) -> __m128i {
    words([
        table[4 * group],
        table[4 * group + 1],
        table[4 * group + 2],
        table[4 * group + 3],
    ])
}

#[target_feature(enable = "sha,ssse3,sse4.1")]
#[inline]
fn initial() -> State {
    let t = _mm_shuffle_epi32(words([IV[0], IV[1], IV[2], IV[3]]), 0xB1);
    let u = _mm_shuffle_epi32(words([IV[4], IV[5], IV[6], IV[7]]), 0x1B);
    State {
        abef: _mm_alignr_epi8(t, u, 8),
        cdgh: _mm_blend_epi16(u, t, 0xF0),
    }
}

/// 32 bytes as eight big-endian message words.
#[target_feature(enable = "sha,ssse3,sse4.1")]
#[inline]
fn load(node: &Node) -> [__m128i; 2] {
    let at = node.as_ptr().cast::<__m128i>();
    // SAFETY: a node is 32 readable bytes; the loads are unaligned.
    let halves = unsafe { [_mm_loadu_si128(at), _mm_loadu_si128(at.add(1))] };
    halves.map(|half| _mm_shuffle_epi8(half, byte_swap()))
}

/// Truncated digest bytes of a state.
#[target_feature(enable = "sha,ssse3,sse4.1")]
#[inline]
fn store(state: State, node: &mut Node) {
    let t = _mm_shuffle_epi32(state.abef, 0x1B);
    let u = _mm_shuffle_epi32(state.cdgh, 0xB1);
    let low = _mm_shuffle_epi8(_mm_blend_epi16(t, u, 0xF0), byte_swap());
    let high = _mm_shuffle_epi8(_mm_alignr_epi8(u, t, 8), byte_swap());
    let high = _mm_and_si128(high, _mm_set_epi64x(0x3fff_ffff_ffff_ffff, -1));
    let at = node.as_mut_ptr().cast::<__m128i>();
    // SAFETY: a node is 32 writable bytes; the stores are unaligned.
    unsafe {
        _mm_storeu_si128(at, low);
        _mm_storeu_si128(at.add(1), high);
    }
}

/// Next four schedule words from the last sixteen, oldest first.
#[target_feature(enable = "sha,ssse3,sse4.1")]
#[inline]
fn extend(m: [__m128i; 4]) -> __m128i {
    let x = _mm_sha256msg1_epu32(m[0], m[1]);
    let y = _mm_add_epi32(x, _mm_alignr_epi8(m[3], m[2], 4));
    _mm_sha256msg2_epu32(y, m[3])
}

/// Four rounds.
#[target_feature(enable = "sha,ssse3,sse4.1")]
#[inline]
fn quad(state: &mut State, words: __m128i) {
    state.cdgh = _mm_sha256rnds2_epu32(state.cdgh, state.abef, words);
    state.abef = _mm_sha256rnds2_epu32(state.abef, state.cdgh, _mm_shuffle_epi32(words, 0x0E));
}

#[target_feature(enable = "sha,ssse3,sse4.1")]
#[inline]
fn add(state: State, start: State) -> State {
    State {
        abef: _mm_add_epi32(state.abef, start.abef),
        cdgh: _mm_add_epi32(state.cdgh, start.cdgh),
    }
}

/// One block in each of `W` streams, their schedules known.
#[target_feature(enable = "sha,ssse3,sse4.1")]
#[inline]
fn compress_known<const W: usize>(state: &mut [State; W], schedules: &[Schedule; W]) {
    let start = *state;
    for group in 0..16 {
        for (state, schedule) in state.iter_mut().zip(schedules) {
            quad(state, schedule[group]);
        }
    }
    add_each(state, &start);
}

/// One block in each of `W` streams, rounds interleaved; keeps the schedules as they are made, if asked to.
#[target_feature(enable = "sha,ssse3,sse4.1")]
#[inline]
fn compress_each<const W: usize>(
    state: &mut [State; W],
    mut m: [[__m128i; 4]; W],
    mut keep: Option<&mut [Schedule; W]>,
) {
    let start = *state;
    for quarter in 0..4 {
        // The four message vectors take turns, so that none moves.
        for turn in 0..4 {
            let group = 4 * quarter + turn;
            let k = four(&K, group);
            for lane in 0..W {
                let words = _mm_add_epi32(m[lane][turn], k);
                if let Some(kept) = &mut keep {
                    kept[lane][group] = words;
                }
                quad(&mut state[lane], words);
                if quarter < 3 {
                    let last = [
                        m[lane][turn],
                        m[lane][(turn + 1) % 4],
                        m[lane][(turn + 2) % 4],
                        m[lane][(turn + 3) % 4],
                    ];
                    m[lane][turn] = extend(last);
                }
            }
        }
    }
    add_each(state, &start);
}

#[target_feature(enable = "sha,ssse3,sse4.1")]
#[inline]
fn add_each<const W: usize>(state: &mut [State; W], start: &[State; W]) {
    for lane in 0..W {
        state[lane] = add(state[lane], start[lane]);
    }
}

/// `W` tree nodes.
///
/// # Safety
/// `row` has `2 * W` readable nodes and `out` has `W` writable ones; all are read before the first is written.
#[target_feature(enable = "sha,ssse3,sse4.1")]
unsafe fn nodes_ni<const W: usize>(row: *const Node, out: *mut Node) {
    let mut messages = [[_mm_setzero_si128(); 4]; W];
    for (lane, message) in messages.iter_mut().enumerate() {
        // SAFETY: nodes 2 * lane and 2 * lane + 1 are among the 2 * W readable ones.
        let (left, right) = unsafe { (&*row.add(2 * lane), &*row.add(2 * lane + 1)) };
        let ([a, b], [c, d]) = (load(left), load(right));
        *message = [a, b, c, d];
    }
    let mut middle = [initial(); W];
    compress_each(&mut middle, messages, None);
    let mut state = middle;
    for group in 0..16 {
        let words = four(&PADDING_SCHEDULE, group);
        for lane in &mut state {
            quad(lane, words);
        }
    }
    for lane in 0..W {
        // SAFETY: out has W writable nodes; no reference into the row is alive any more.
        store(add(state[lane], middle[lane]), unsafe {
            &mut *out.add(lane)
        });
    }
}

/// Nodes whose prefixes are hashed together.
const PREFIXES: usize = 4;
/// How many nodes ahead parents are fetched: a label takes longer than a cache miss, so one would nearly do.
const PREFETCH: usize = 2;

/// One chain of labels per stream. A single chain waits for its own latency; several fill each other's gaps.
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn fill_labels_ni<'a, const W: usize, S: BorrowMut<LabelStream<'a>>>(
    streams: &mut [S; W],
    first: usize,
    parents: &[[u32; DEGREE]],
) {
    let mut prefixes = [[initial(); PREFIXES]; W];
    // Made once: clearing them for every label would cost more than a block.
    let mut labels = [[[0; 32]; DEGREE]; W];
    let mut schedules = [[[_mm_setzero_si128(); 16]; W]; DEGREE / 2];
    for (i, row) in parents.iter().enumerate() {
        let node = first + i;
        for lane in 0..W {
            let LabelStream { key, layer } = streams[lane].borrow();
            if i % PREFIXES == 0 {
                prefixes[lane] = hash_prefixes(*key, node);
            }
            if let Some(ahead) = parents.get(i + PREFETCH) {
                prefetch(key.previous, ahead, layer);
            }
            gather(key.previous, row, layer, &mut labels[lane]);
        }
        let mut state = [initial(); W];
        for lane in 0..W {
            state[lane] = prefixes[lane][i % PREFIXES];
        }
        match streams[0].borrow().key.previous {
            None => absorb::<3, W>(&mut state, &labels, &mut schedules),
            Some(_) => absorb::<7, W>(&mut state, &labels, &mut schedules),
        }
        for lane in 0..W {
            store(state[lane], &mut streams[lane].borrow_mut().layer[node]);
        }
    }
}

/// Asks for the cache lines of a later node's parents. Layers of large sectors lie in memory, and without this every label
/// begins with a wait for its farthest parent.
#[target_feature(enable = "sha,ssse3,sse4.1")]
#[inline]
fn prefetch(previous: Option<&[Node]>, parents: &[u32; DEGREE], layer: &[Node]) {
    let fetch = |nodes: &[Node], parent: u32| {
        if let Some(node) = nodes.get(super::index(parent)) {
            _mm_prefetch::<_MM_HINT_T0>(node.as_ptr().cast());
        }
    };
    // The predecessor was just written.
    for &parent in &parents[1..BASE_DEGREE] {
        fetch(layer, parent);
    }
    if let Some(previous) = previous {
        for &parent in &parents[BASE_DEGREE..] {
            fetch(previous, parent);
        }
    }
}

/// States after the first block of `node .. node + 4`.
#[target_feature(enable = "sha,ssse3,sse4.1")]
#[inline]
fn hash_prefixes(key: LabelKey<'_>, node: usize) -> [State; PREFIXES] {
    let [a, b] = load(&key.replica_id.0);
    let mut messages = [[_mm_setzero_si128(); 4]; PREFIXES];
    for (message, number) in messages.iter_mut().zip(node..) {
        let number = u64::try_from(number).expect("a layer has at most 2^31 nodes");
        let [high, low] =
            [number >> 32, number & 0xffff_ffff].map(|half| u32::try_from(half).expect("32 bits"));
        *message = [a, b, words([key.layer, high, low, 0]), _mm_setzero_si128()];
    }
    let mut states = [initial(); PREFIXES];
    compress_each(&mut states, messages, None);
    states
}

/// The 19 blocks after the prefix: `2 * D` parents in `D` distinct blocks, repeated to 36 slots, then slot 36 and padding.
#[target_feature(enable = "sha,ssse3,sse4.1")]
#[inline]
fn absorb<const D: usize, const W: usize>(
    state: &mut [State; W],
    labels: &[[Node; DEGREE]; W],
    schedules: &mut [[Schedule; W]; DEGREE / 2],
) {
    let mut messages = [[_mm_setzero_si128(); 4]; W];
    for (block, kept) in schedules[..D].iter_mut().enumerate() {
        for lane in 0..W {
            let [a, b] = load(&labels[lane][2 * block]);
            let [c, d] = load(&labels[lane][2 * block + 1]);
            messages[lane] = [a, b, c, d];
        }
        compress_each(state, messages, Some(kept));
    }
    for block in D..18 {
        compress_known(state, &schedules[block % D]);
    }
    for lane in 0..W {
        let [a, b] = load(&labels[lane][36 % (2 * D)]);
        let end = words([0x8000_0000, 0, 0, 0]);
        messages[lane] = [a, b, end, words([0, 0, 0, LABEL_MESSAGE_BITS])];
    }
    compress_each(state, messages, None);
}

/// Sixteen tree nodes, one per 32-bit lane.
///
/// # Safety
/// `row` has 32 readable nodes and `out` has 16 writable ones; all are read before the first is written.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn nodes16(row: *const Node, out: *mut Node) {
    let swap = _mm512_broadcast_i32x4(_mm_set_epi8(
        12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3,
    ));
    let mut w = [_mm512_setzero_si512(); 16];
    for (lane, words) in w.iter_mut().enumerate() {
        // SAFETY: lane's two nodes are 64 contiguous bytes among the 32 readable nodes; the load is unaligned.
        *words = _mm512_shuffle_epi8(
            unsafe { _mm512_loadu_si512(row.add(2 * lane).cast()) },
            swap,
        );
    }
    transpose(&mut w);
    let mut state = IV.map(|word| _mm512_set1_epi32(word.cast_signed()));
    compress16(&mut state, |round| {
        let at = round & 15;
        if round >= 16 {
            w[at] = extend16(w[at], w[(at + 1) & 15], w[(at + 9) & 15], w[(at + 14) & 15]);
        }
        _mm512_add_epi32(w[at], _mm512_set1_epi32(K[round].cast_signed()))
    });
    compress16(&mut state, |round| {
        _mm512_set1_epi32(PADDING_SCHEDULE[round].cast_signed())
    });
    let mut lanes = [_mm512_setzero_si512(); 16];
    lanes[..8].copy_from_slice(&state);
    transpose(&mut lanes);
    let t254 = _mm256_set_epi64x(0x3fff_ffff_ffff_ffff, -1, -1, -1);
    for (lane, words) in lanes.into_iter().enumerate() {
        let digest = _mm256_and_si256(
            _mm512_castsi512_si256(_mm512_shuffle_epi8(words, swap)),
            t254,
        );
        // SAFETY: out has 16 writable nodes of 32 bytes; the store is unaligned.
        unsafe { _mm256_storeu_si256(out.add(lane).cast(), digest) };
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn xor3(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0x96>(a, b, c)
}

/// `W[t] = W[t-16] + s0(W[t-15]) + W[t-7] + s1(W[t-2])`.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn extend16(w16: __m512i, w15: __m512i, w7: __m512i, w2: __m512i) -> __m512i {
    let s0 = xor3(
        _mm512_ror_epi32::<7>(w15),
        _mm512_ror_epi32::<18>(w15),
        _mm512_srli_epi32::<3>(w15),
    );
    let s1 = xor3(
        _mm512_ror_epi32::<17>(w2),
        _mm512_ror_epi32::<19>(w2),
        _mm512_srli_epi32::<10>(w2),
    );
    _mm512_add_epi32(_mm512_add_epi32(w16, s0), _mm512_add_epi32(w7, s1))
}

/// One block in sixteen lanes; `words` gives a round's schedule word with its constant.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn compress16(state: &mut [__m512i; 8], mut words: impl FnMut(usize) -> __m512i) {
    let start = *state;
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = start;
    for round in 0..64 {
        let e1 = xor3(
            _mm512_ror_epi32::<6>(e),
            _mm512_ror_epi32::<11>(e),
            _mm512_ror_epi32::<25>(e),
        );
        let choose = _mm512_ternarylogic_epi32::<0xca>(e, f, g);
        let t1 = _mm512_add_epi32(
            _mm512_add_epi32(h, words(round)),
            _mm512_add_epi32(e1, choose),
        );
        let a0 = xor3(
            _mm512_ror_epi32::<2>(a),
            _mm512_ror_epi32::<13>(a),
            _mm512_ror_epi32::<22>(a),
        );
        let majority = _mm512_ternarylogic_epi32::<0xe8>(a, b, c);
        (h, g, f) = (g, f, e);
        e = _mm512_add_epi32(d, t1);
        (d, c, b) = (c, b, a);
        a = _mm512_add_epi32(t1, _mm512_add_epi32(a0, majority));
    }
    for (word, (end, start)) in state
        .iter_mut()
        .zip([a, b, c, d, e, f, g, h].into_iter().zip(start))
    {
        *word = _mm512_add_epi32(end, start);
    }
}

/// Transposes a 16 by 16 matrix of 32-bit words: by 1, 2, then 4 and 8 at once.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn transpose(r: &mut [__m512i; 16]) {
    let mut t = *r;
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for i in 0..4 {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    for i in 0..4 {
        let (low, high) = ((r[i], r[i + 4]), (r[i + 8], r[i + 12]));
        let even = (
            _mm512_shuffle_i32x4(low.0, low.1, 0x88),
            _mm512_shuffle_i32x4(high.0, high.1, 0x88),
        );
        let odd = (
            _mm512_shuffle_i32x4(low.0, low.1, 0xdd),
            _mm512_shuffle_i32x4(high.0, high.1, 0xdd),
        );
        t[i] = _mm512_shuffle_i32x4(even.0, even.1, 0x88);
        t[i + 8] = _mm512_shuffle_i32x4(even.0, even.1, 0xdd);
        t[i + 4] = _mm512_shuffle_i32x4(odd.0, odd.1, 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(odd.0, odd.1, 0xdd);
    }
    *r = t;
}
