//! Client-side encryption: XChaCha20-Poly1305 in the STREAM construction, 64 KiB chunks, seekable.
//!
//! Walk: first step of a put, last of a get; [`super::erasure`] codes what this module seals. Spec: `spec/network.md` §3.2,
//! `threat-model.md` C9. Both directions live here.
//!
//! ```text
//! plaintext   | 64 KiB        | 64 KiB        | rest    |      (an empty file has one empty chunk)
//! ciphertext  | 64 KiB + 16 B | 64 KiB + 16 B | rest+16 |
//! nonce       = prefix (19 B, random) ‖ chunk number (u32 BE) ‖ last? (0 or 1)
//! ```
//!
//! One random key per object: equal files give unrelated ciphertexts and a nonce cannot repeat under a key. The chunk number
//! and the last flag in the nonce make reordering, truncation and extension fail closed; any chunk opens by itself, so a
//! byte range costs the chunks it touches. Overhead 16 bytes per 64 KiB (0.02 %). Chunks are independent, so a batch is
//! sealed and opened on all cores. Nothing is kept here: a crash loses nothing.

use std::ops::Range;

use aead_stream::aead::{self, Buffer};
use aead_stream::{NewStream, StreamBE32, StreamPrimitive};
use chacha20poly1305::XChaCha20Poly1305;
use rand::{CryptoRng, RngCore};
use rayon::prelude::*;
use zeroize::Zeroizing;

/// Plaintext bytes of a full chunk.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// Bytes a sealed chunk is longer than its plaintext.
pub const TAG_BYTES: usize = 16;
/// Bytes of a full sealed chunk.
pub const SEALED_CHUNK_BYTES: usize = CHUNK_BYTES + TAG_BYTES;
/// Longest object: the chunk number is 32 bits wide (256 TiB).
pub const MAX_PLAIN_BYTES: u64 = (u32::MAX as u64) * CHUNK_BYTES as u64;

/// A file's secret key. Prints as `[secret]` and is wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct FileKey(Zeroizing<[u8; 32]>);

impl FileKey {
    /// A fresh random key.
    pub fn generate(rng: &mut (impl RngCore + CryptoRng)) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *bytes);
        Self(bytes)
    }

    /// A key from its bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The key's bytes, for wrapping only.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for FileKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

/// The random part of an object's nonces; public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, borsh::BorshSerialize, borsh::BorshDeserialize)]
pub struct NoncePrefix(pub [u8; 19]);

impl NoncePrefix {
    /// A fresh random prefix.
    pub fn generate(rng: &mut (impl RngCore + CryptoRng)) -> Self {
        let mut bytes = [0; 19];
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }
}

/// Why bytes were not sealed or opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CipherError {
    /// The object is longer than a STREAM can number.
    #[error("{bytes} bytes are more than one object can hold ({MAX_PLAIN_BYTES})")]
    TooLong {
        /// The object's length.
        bytes: u64,
    },
    /// A chunk number past the object's end, or a chunk of the wrong length: the caller's mistake.
    #[error("chunk {chunk} does not fit this object")]
    BadChunk {
        /// The chunk's number.
        chunk: u64,
    },
    /// The tag does not match: wrong key, or changed, moved or truncated bytes.
    #[error("chunk {chunk} fails authentication")]
    Forged {
        /// The chunk's number.
        chunk: u64,
    },
}

/// Seals and opens the chunks of one object of known length.
pub struct Cipher {
    stream: StreamBE32<XChaCha20Poly1305>,
    plain_len: u64,
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Cipher {{ key: [secret], plain_len: {} }}",
            self.plain_len
        )
    }
}

impl Cipher {
    /// The cipher of an object with `plain_len` bytes of plaintext.
    pub fn new(key: &FileKey, prefix: &NoncePrefix, plain_len: u64) -> Result<Self, CipherError> {
        if plain_len > MAX_PLAIN_BYTES {
            return Err(CipherError::TooLong { bytes: plain_len });
        }
        let key = aead::Key::<XChaCha20Poly1305>::from(*key.expose());
        Ok(Self {
            stream: StreamBE32::new(&key, &prefix.0.into()),
            plain_len,
        })
    }

    /// Number of chunks; at least one.
    pub fn chunks(&self) -> u64 {
        chunks_of(self.plain_len)
    }

    /// Ciphertext bytes of the whole object.
    pub fn sealed_len(&self) -> u64 {
        sealed_len(self.plain_len)
    }

    /// Plaintext bytes of chunk `chunk`.
    pub fn plain_chunk_len(&self, chunk: u64) -> Result<usize, CipherError> {
        if chunk >= self.chunks() {
            return Err(CipherError::BadChunk { chunk });
        }
        let start = chunk * CHUNK_BYTES as u64;
        Ok((self.plain_len - start).min(CHUNK_BYTES as u64) as usize)
    }

    /// The chunks that hold the plaintext bytes `range`, which must lie inside the object.
    /// An empty object's only range, `0..0`, needs its one empty chunk.
    pub fn chunks_of_range(&self, range: &Range<u64>) -> Range<u64> {
        let chunk = CHUNK_BYTES as u64;
        let first = range.start / chunk;
        let end = range.end.div_ceil(chunk).max(first + 1);
        first..end.min(self.chunks())
    }

    /// Where the sealed chunks `chunks` lie in the ciphertext.
    pub fn sealed_range(&self, chunks: &Range<u64>) -> Range<u64> {
        let sealed = SEALED_CHUNK_BYTES as u64;
        let start = chunks.start * sealed;
        start..(chunks.end * sealed).min(self.sealed_len())
    }

    /// Appends the sealed form of consecutive chunks, the first of which is number `first`, to `out`.
    /// `plain` holds whole chunks; only the object's last one may be short.
    pub fn seal(&self, first: u64, plain: &[u8], out: &mut Vec<u8>) -> Result<(), CipherError> {
        let count = (plain.len().div_ceil(CHUNK_BYTES)).max(1);
        let start = out.len();
        out.resize(start + plain.len() + count * TAG_BYTES, 0);
        if plain.is_empty() {
            return self.seal_chunk(first, plain, &mut out[start..]);
        }
        out[start..]
            .par_chunks_mut(SEALED_CHUNK_BYTES)
            .zip(plain.par_chunks(CHUNK_BYTES))
            .enumerate()
            .try_for_each(|(i, (sealed, plain))| self.seal_chunk(first + i as u64, plain, sealed))
    }

    /// Opens consecutive sealed chunks in place and returns the number of plaintext bytes, which then stand at the front of
    /// `sealed`. On an error nothing in `sealed` may be used.
    pub fn open(&self, first: u64, sealed: &mut [u8]) -> Result<usize, CipherError> {
        self.open_in_place(first, sealed)?;
        Ok(close_gaps(sealed))
    }

    /// Like [`Cipher::open`], but leaves each plaintext where its chunk was, for [`plain_parts`]: nothing is moved.
    pub fn open_in_place(&self, first: u64, sealed: &mut [u8]) -> Result<(), CipherError> {
        sealed
            .par_chunks_mut(SEALED_CHUNK_BYTES)
            .enumerate()
            .try_for_each(|(i, chunk)| self.open_chunk(first + i as u64, chunk))
    }

    fn seal_chunk(&self, chunk: u64, plain: &[u8], sealed: &mut [u8]) -> Result<(), CipherError> {
        if plain.len() != self.plain_chunk_len(chunk)? || sealed.len() != plain.len() + TAG_BYTES {
            return Err(CipherError::BadChunk { chunk });
        }
        sealed[..plain.len()].copy_from_slice(plain);
        let mut buffer = SliceBuffer {
            bytes: sealed,
            len: plain.len(),
        };
        self.stream
            .encrypt_in_place(number(chunk), self.is_last(chunk), b"", &mut buffer)
            .map_err(|_| CipherError::BadChunk { chunk })
    }

    fn open_chunk(&self, chunk: u64, sealed: &mut [u8]) -> Result<(), CipherError> {
        if sealed.len() != self.plain_chunk_len(chunk)? + TAG_BYTES {
            return Err(CipherError::BadChunk { chunk });
        }
        let len = sealed.len();
        let mut buffer = SliceBuffer { bytes: sealed, len };
        self.stream
            .decrypt_in_place(number(chunk), self.is_last(chunk), b"", &mut buffer)
            .map_err(|_| CipherError::Forged { chunk })
    }

    fn is_last(&self, chunk: u64) -> bool {
        chunk + 1 == self.chunks()
    }
}

/// The plaintexts of chunks that [`Cipher::open_in_place`] opened, in order.
pub fn plain_parts(opened: &[u8]) -> impl Iterator<Item = &[u8]> {
    opened
        .chunks(SEALED_CHUNK_BYTES)
        .map(|chunk| &chunk[..chunk.len() - TAG_BYTES])
}

/// Ciphertext bytes of an object with `plain_len` bytes of plaintext. `plain_len` is at most [`MAX_PLAIN_BYTES`].
pub fn sealed_len(plain_len: u64) -> u64 {
    plain_len + chunks_of(plain_len) * TAG_BYTES as u64
}

fn chunks_of(plain_len: u64) -> u64 {
    plain_len.div_ceil(CHUNK_BYTES as u64).max(1)
}

/// The chunk number as STREAM wants it.
fn number(chunk: u64) -> u32 {
    u32::try_from(chunk).expect("an object's length bounds its chunk count to 32 bits")
}

/// Moves opened chunks together over the tags between them; returns the plaintext length.
fn close_gaps(opened: &mut [u8]) -> usize {
    let mut end = 0;
    let mut start = 0;
    while start < opened.len() {
        let chunk = SEALED_CHUNK_BYTES.min(opened.len() - start);
        let plain = chunk - TAG_BYTES;
        opened.copy_within(start..start + plain, end);
        end += plain;
        start += chunk;
    }
    end
}

/// A caller's slice as the buffer the AEAD appends its tag to, so that no chunk is copied to a vector of its own.
struct SliceBuffer<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl AsRef<[u8]> for SliceBuffer<'_> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl AsMut<[u8]> for SliceBuffer<'_> {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl Buffer for SliceBuffer<'_> {
    fn extend_from_slice(&mut self, other: &[u8]) -> aead::Result<()> {
        let end = self.len + other.len();
        let room = self.bytes.get_mut(self.len..end).ok_or(aead::Error)?;
        room.copy_from_slice(other);
        self.len = end;
        Ok(())
    }

    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{RngCore, SeedableRng};
    use sha2::{Digest, Sha256};

    const PREFIX: NoncePrefix = NoncePrefix([7; 19]);

    fn cipher(len: usize) -> Cipher {
        Cipher::new(&FileKey::from_bytes([3; 32]), &PREFIX, len as u64).expect("a small object")
    }

    fn sample(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        rand_chacha::ChaCha8Rng::seed_from_u64(len as u64).fill_bytes(&mut bytes);
        bytes
    }

    fn seal_all(plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        cipher(plain.len()).seal(0, plain, &mut out).expect("seals");
        out
    }

    #[test]
    fn every_boundary_length_comes_back() {
        let c = CHUNK_BYTES;
        for len in [0, 1, c - 1, c, c + 1, 2 * c - 1, 2 * c, 3 * c + 5] {
            let plain = sample(len);
            let mut sealed = seal_all(&plain);
            assert_eq!(sealed.len() as u64, sealed_len(len as u64), "length {len}");
            let opened = cipher(len).open(0, &mut sealed).expect("opens");
            assert_eq!(&sealed[..opened], &plain[..], "length {len}");
        }
    }

    #[test]
    fn sealing_chunk_by_chunk_equals_sealing_at_once() {
        let plain = sample(3 * CHUNK_BYTES + 100);
        let mut pieces = Vec::new();
        for (i, chunk) in plain.chunks(CHUNK_BYTES).enumerate() {
            cipher(plain.len())
                .seal(i as u64, chunk, &mut pieces)
                .expect("seals");
        }
        assert_eq!(pieces, seal_all(&plain));
    }

    #[test]
    fn the_format_is_pinned() {
        let sealed = seal_all(&sample(CHUNK_BYTES + 1000));
        assert_eq!(
            hex::encode(Sha256::digest(&sealed)),
            "2dd4da236ec96133adda3ed99010ca2bcf59b61e9f7d9e9891b781410208eff5"
        );
    }

    #[test]
    fn tm_c9_equal_files_give_unrelated_ciphertexts() {
        let plain = sample(1000);
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(1);
        let mut seal = || {
            let key = FileKey::generate(&mut rng);
            let prefix = NoncePrefix::generate(&mut rng);
            let mut out = Vec::new();
            Cipher::new(&key, &prefix, 1000)
                .and_then(|c| c.seal(0, &plain, &mut out))
                .expect("seals");
            out
        };
        assert_ne!(seal(), seal());
    }

    #[test]
    fn tm_c9_any_flipped_byte_a_moved_chunk_or_another_length_fails_closed() {
        let plain = sample(2 * CHUNK_BYTES + 10);
        let sealed = seal_all(&plain);
        let forged = |bytes: &[u8], len: usize| {
            let mut bytes = bytes.to_vec();
            cipher(len).open(0, &mut bytes).is_err()
        };
        for at in [
            0,
            CHUNK_BYTES - 1,
            CHUNK_BYTES,
            SEALED_CHUNK_BYTES,
            sealed.len() - 17,
            sealed.len() - 1,
        ] {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert!(forged(&bad, plain.len()), "byte {at}");
        }
        let mut swapped = sealed.clone();
        let (a, b) = swapped.split_at_mut(SEALED_CHUNK_BYTES);
        a.swap_with_slice(&mut b[..SEALED_CHUNK_BYTES]);
        assert!(forged(&swapped, plain.len()), "chunks swapped");
        assert!(
            forged(&sealed[..2 * SEALED_CHUNK_BYTES], 2 * CHUNK_BYTES),
            "truncated at a chunk border"
        );
        let mut other_key = sealed.clone();
        let wrong =
            Cipher::new(&FileKey::from_bytes([4; 32]), &PREFIX, plain.len() as u64).expect("small");
        assert!(wrong.open(0, &mut other_key).is_err(), "another key");
    }

    #[test]
    fn an_object_too_long_to_number_is_refused() {
        let key = FileKey::from_bytes([0; 32]);
        assert!(Cipher::new(&key, &PREFIX, MAX_PLAIN_BYTES).is_ok());
        assert_eq!(
            Cipher::new(&key, &PREFIX, MAX_PLAIN_BYTES + 1).err(),
            Some(CipherError::TooLong {
                bytes: MAX_PLAIN_BYTES + 1
            })
        );
    }

    #[test]
    fn tm_h7_a_key_never_prints_its_bytes() {
        let key = FileKey::from_bytes([0xab; 32]);
        let shown = format!(
            "{key:?} {:?}",
            Cipher::new(&key, &PREFIX, 1).expect("small")
        );
        assert!(!shown.contains("ab") && !shown.contains("171"), "{shown}");
    }

    proptest! {
        #[test]
        fn any_range_opens_from_its_own_chunks(len in 1usize..300_000, a in 0.0f64..1.0, b in 0.0f64..1.0) {
            let plain = sample(len);
            let cipher = cipher(len);
            let (mut start, mut end) = ((a * len as f64) as u64, (b * len as f64) as u64);
            if start > end { std::mem::swap(&mut start, &mut end); }
            let chunks = cipher.chunks_of_range(&(start..end));
            let at = cipher.sealed_range(&chunks);
            let mut part = seal_all(&plain)[at.start as usize..at.end as usize].to_vec();
            let opened = cipher.open(chunks.start, &mut part).expect("opens");
            let skip = (start - chunks.start * CHUNK_BYTES as u64) as usize;
            let take = (end - start) as usize;
            prop_assert!(opened >= skip + take);
            prop_assert_eq!(&part[skip..skip + take], &plain[start as usize..end as usize]);
        }
    }
}
