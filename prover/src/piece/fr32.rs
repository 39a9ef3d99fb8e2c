//! Fr32 bit padding: 127 bytes of data become four 32-byte field elements, and back.
//!
//! Walk: first step inside `prover`; [`super::commp`] hashes the result, the staged sector file holds it.
//! Spec: proofs.md §1.1. The data is a little-endian bit stream cut into groups of 254 bits; each group becomes one
//! 32-byte node with two zero bits on top.
//!
//! ```text
//! input bits   0..253 | 254..507 | 508..761 | 762..1015      127 bytes
//! output node  n0     | n1       | n2       | n3             128 bytes, top two bits of each node zero
//! ```
//!
//! Bytes: `len` unpadded bytes give `ceil(8·len / 254)` nodes; a partial last node is zero-filled.
//! Cost: one pass, no allocation in the `_into` forms. Inverse in the same file; nodes with a set top bit are refused.

use std::io::Read;

/// Bytes of data in one block.
pub const BLOCK_UNPADDED: usize = 127;
/// Bytes of one padded block: four nodes.
pub const BLOCK_PADDED: usize = 128;

/// Padded bytes, always whole nodes, that `unpadded` bytes become.
pub const fn padded_len(unpadded: u64) -> u64 {
    let blocks = unpadded / BLOCK_UNPADDED as u64;
    let rest_bits = unpadded % BLOCK_UNPADDED as u64 * 8;
    blocks * BLOCK_PADDED as u64 + rest_bits.div_ceil(254) * 32
}

/// Whole bytes of data that `padded` bytes carry.
pub const fn unpadded_len(padded: u64) -> u64 {
    let blocks = padded / BLOCK_PADDED as u64;
    let rest_nodes = padded % BLOCK_PADDED as u64 / 32;
    blocks * BLOCK_UNPADDED as u64 + rest_nodes * 254 / 8
}

/// Nodes whose two top bits are not zero were never padded data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "node {node} is not Fr32-padded data (its two top bits are set): the bytes are damaged or were never padded"
)]
pub struct NotPadded {
    /// Index of the first offending node within the slice.
    pub node: usize,
}

/// Pads a whole byte string.
///
/// ```
/// use prover::piece::fr32;
///
/// let padded = fr32::pad(&[0xff; 127]);
/// assert_eq!(padded.len(), 128);
/// assert_eq!(padded[31], 0x3f); // two zero bits on top of each node
/// assert_eq!(fr32::unpad(&padded).unwrap(), [0xff; 127]);
/// ```
pub fn pad(data: &[u8]) -> Vec<u8> {
    let len = usize::try_from(padded_len(byte_count(data)))
        .expect("data in memory has a usize length, plus 1/127");
    let mut out = vec![0; len];
    pad_into(data, &mut out);
    out
}

/// Pads into a slice of exactly [`padded_len`] bytes.
///
/// # Panics
/// When `out` has another length.
pub fn pad_into(data: &[u8], out: &mut [u8]) {
    assert_eq!(
        byte_count(out),
        padded_len(byte_count(data)),
        "out must hold the padded data exactly"
    );
    let (blocks, rest) = data.as_chunks::<BLOCK_UNPADDED>();
    let (out_blocks, out_rest) = out.as_chunks_mut::<BLOCK_PADDED>();
    for (block, padded) in blocks.iter().zip(out_blocks.iter_mut()) {
        pad_block(block, padded);
    }
    if !rest.is_empty() {
        let mut block = [0; BLOCK_UNPADDED];
        block[..rest.len()].copy_from_slice(rest);
        let mut padded = [0; BLOCK_PADDED];
        pad_block(&block, &mut padded);
        // 96 bytes of input need 3.02 nodes: then the partial block fills a whole padded one.
        match out_blocks.get_mut(blocks.len()) {
            Some(last) => *last = padded,
            None => out_rest.copy_from_slice(&padded[..out_rest.len()]),
        }
    }
}

/// Removes the padding of whole nodes; the result is [`unpadded_len`] bytes.
pub fn unpad(padded: &[u8]) -> Result<Vec<u8>, NotPadded> {
    let whole = padded.len() / 32 * 32;
    let len = usize::try_from(unpadded_len(byte_count(&padded[..whole])))
        .expect("shorter than its input");
    let mut out = vec![0; len];
    unpad_into(&padded[..whole], &mut out)?;
    Ok(out)
}

/// Removes the padding into a slice of exactly [`unpadded_len`] bytes.
///
/// # Panics
/// When `padded` is not whole nodes or `out` has another length.
pub fn unpad_into(padded: &[u8], out: &mut [u8]) -> Result<(), NotPadded> {
    assert_eq!(padded.len() % 32, 0, "padded data is whole nodes");
    assert_eq!(
        byte_count(out),
        unpadded_len(byte_count(padded)),
        "out must hold the data exactly"
    );
    if let Some(node) = padded
        .as_chunks::<32>()
        .0
        .iter()
        .position(|node| node[31] & 0xc0 != 0)
    {
        return Err(NotPadded { node });
    }
    let (blocks, rest) = padded.as_chunks::<BLOCK_PADDED>();
    let (out_blocks, out_rest) = out.as_chunks_mut::<BLOCK_UNPADDED>();
    for (padded, block) in blocks.iter().zip(out_blocks.iter_mut()) {
        unpad_block(padded, block);
    }
    let mut padded = [0; BLOCK_PADDED];
    padded[..rest.len()].copy_from_slice(rest);
    let mut block = [0; BLOCK_UNPADDED];
    unpad_block(&padded, &mut block);
    out_rest.copy_from_slice(&block[..out_rest.len()]);
    Ok(())
}

/// The whole blocks that hold a range of unpadded bytes: padded range, and how many unpadded bytes to skip in it.
pub const fn blocks_covering(start: u64, end: u64) -> (std::ops::Range<u64>, u64) {
    let unpadded = BLOCK_UNPADDED as u64;
    let padded = BLOCK_PADDED as u64;
    let first = start / unpadded;
    let last = end.div_ceil(unpadded);
    (first * padded..last * padded, start - first * unpadded)
}

/// Word `i` of the output lies in node `k = i / 4`, which starts `2k` bits before word `4k` of the input stream.
fn pad_block(block: &[u8; BLOCK_UNPADDED], out: &mut [u8; BLOCK_PADDED]) {
    let mut input = [0u8; BLOCK_PADDED];
    input[..BLOCK_UNPADDED].copy_from_slice(block);
    let words = words_of(&input);
    let mut padded = [0u64; 16];
    padded[..4].copy_from_slice(&words[..4]);
    for k in 1..4 {
        for i in 4 * k..4 * k + 4 {
            padded[i] = words[i] << (2 * k) | words[i - 1] >> (64 - 2 * k);
        }
    }
    for k in 0..4 {
        padded[4 * k + 3] &= u64::MAX >> 2;
    }
    for (bytes, word) in out.as_chunks_mut::<8>().0.iter_mut().zip(padded) {
        *bytes = word.to_le_bytes();
    }
}

fn unpad_block(padded: &[u8; BLOCK_PADDED], out: &mut [u8; BLOCK_UNPADDED]) {
    let words = words_of(padded);
    let mut data = [0u64; 16];
    for k in 0..4 {
        for i in 4 * k..4 * k + 4 {
            let next = words.get(i + 1).copied().unwrap_or(0);
            // Inside a node the next word follows at once; at its end two padding bits are left out.
            let distance = if i % 4 == 3 { 62 - 2 * k } else { 64 - 2 * k };
            data[i] = words[i] >> (2 * k) | if distance == 64 { 0 } else { next << distance };
        }
    }
    let mut bytes = [0u8; BLOCK_PADDED];
    for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(data) {
        *bytes = word.to_le_bytes();
    }
    out.copy_from_slice(&bytes[..BLOCK_UNPADDED]);
}

fn words_of(bytes: &[u8; BLOCK_PADDED]) -> [u64; 16] {
    let mut words = [0; 16];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

fn byte_count(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("no machine addresses more than 2^64 bytes")
}

/// Blocks that a reader handles at once: 64 KiB padded.
const READER_BLOCKS: usize = 512;

/// Reads unpadded bytes from `R` and yields them padded: whole nodes, a partial last node zero-filled.
///
/// Memory: 128 KiB. A source that fails or ends early only changes how much comes out; nothing is buffered past its end.
pub struct Fr32Reader<R> {
    source: R,
    data: Vec<u8>,
    padded: Vec<u8>,
    at: usize,
    ended: bool,
}

impl<R: Read> Fr32Reader<R> {
    /// Wraps a source of unpadded bytes.
    pub fn new(source: R) -> Self {
        let data = vec![0; READER_BLOCKS * BLOCK_UNPADDED];
        Self {
            source,
            data,
            padded: Vec::with_capacity(READER_BLOCKS * BLOCK_PADDED),
            at: 0,
            ended: false,
        }
    }

    fn refill(&mut self) -> std::io::Result<()> {
        let filled = read_full(&mut self.source, &mut self.data)?;
        self.ended = filled < self.data.len();
        let data = &self.data[..filled];
        self.padded.resize(
            usize::try_from(padded_len(byte_count(data))).expect("at most 64 KiB"),
            0,
        );
        pad_into(data, &mut self.padded);
        self.at = 0;
        Ok(())
    }
}

impl<R: Read> Read for Fr32Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.padded.len() {
            if self.ended || buffer.is_empty() {
                return Ok(0);
            }
            self.refill()?;
        }
        let count = buffer.len().min(self.padded.len() - self.at);
        buffer[..count].copy_from_slice(&self.padded[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Reads until the buffer is full or the source ends; says how much was read.
pub(crate) fn read_full(source: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_at_the_boundaries() {
        for (unpadded, padded) in [
            (0, 0),
            (1, 32),
            (31, 32),
            (32, 64),
            (63, 64),
            (64, 96),
            (95, 96),
            (96, 128),
            (127, 128),
            (128, 160),
        ] {
            assert_eq!(padded_len(unpadded), padded, "{unpadded}");
        }
        assert_eq!(unpadded_len(128), 127);
        assert_eq!(unpadded_len(32), 31);
    }

    #[test]
    fn set_top_bits_are_named() {
        let mut padded = pad(&[0xff; 254]);
        padded[5 * 32 + 31] |= 0x40;
        assert_eq!(unpad(&padded), Err(NotPadded { node: 5 }));
    }

    #[test]
    fn tm_p17_every_length_equals_the_plain_twin() {
        for len in 0..=3 * BLOCK_UNPADDED + 1 {
            let data: Vec<u8> = (0..len)
                .map(|i| (i * 151 + 7).to_le_bytes()[0] | 0x80)
                .collect();
            let padded = pad(&data);
            assert_eq!(padded, crate::reference::fr32_pad(&data), "{len} bytes");
            let back = unpad(&padded).expect("just padded");
            assert_eq!(back[..len.min(back.len())], data[..len.min(back.len())]);
        }
    }

    #[test]
    fn covering_blocks_hold_the_range() {
        assert_eq!(blocks_covering(0, 127), (0..128, 0));
        assert_eq!(blocks_covering(126, 128), (0..256, 126));
        assert_eq!(blocks_covering(254, 254), (256..256, 0));
    }

    proptest! {
        #[test]
        fn whole_blocks_round_trip(blocks in 0usize..6, seed: [u8; 32]) {
            let data: Vec<u8> = (0..blocks * BLOCK_UNPADDED).map(|i| seed[i % 32] ^ i.to_le_bytes()[0]).collect();
            prop_assert_eq!(unpad(&pad(&data)).expect("just padded"), data);
        }

        #[test]
        fn the_reader_equals_the_slice_form(len in 0usize..200_000, step in 1usize..5000) {
            let data: Vec<u8> = (0..len).map(|i| (i * 31 + i / 255).to_le_bytes()[0]).collect();
            let mut reader = Fr32Reader::new(Dribble(&data, step));
            let mut padded = Vec::new();
            reader.read_to_end(&mut padded).expect("memory does not fail");
            prop_assert_eq!(padded, pad(&data));
        }
    }

    /// A source that hands out at most `1` bytes per read.
    struct Dribble<'a>(&'a [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let count = buffer.len().min(self.1);
            self.0.read(&mut buffer[..count])
        }
    }
}
