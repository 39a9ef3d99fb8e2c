//! A file as a stream of coded segments: read once, encrypt, cut, code, commit, stage on disk.
//!
//! Walk: [`crate::object::cipher`] and [`crate::object::erasure`] in motion, with `prover::piece::commp` and the BLAKE3 tree of
//! `retrieval::verify` computed on the way, so that every byte is touched once.
//!
//! ```text
//! file ─read─► chunks ─seal─► ciphertext ─spread─► k blocks ─code─► n blocks ─► n staged files + CommP + BLAKE3 outboard
//! ```
//!
//! Memory: one batch of at most [`BATCH_BYTES`] over all shards, the ciphertext of one batch, and n outboards (0.4 % of a
//! piece; [`SegmentPlan::new`] bounds a piece so that all n together stay below 64 MiB). Disk: n staged shards per segment in flight.
//!
//! Deterministic for a given key, nonce prefix and file: after a crash the same shards come out, and a file that changed in
//! between is noticed by its marks ([`PlainMark`]) or by its roots.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use borsh::{BorshDeserialize, BorshSerialize};
use prover::piece::commp::CommpHasher;
use prover::{CommP, PaddedPieceSize};
use rayon::prelude::*;
use retrieval::verify::{OutboardBuilder, ReadAt};

use super::ClientError;
use crate::object::cipher::{self, CHUNK_BYTES, Cipher};
use crate::object::erasure::{BLOCK_BYTES, Coder, Geometry, Scheme};

/// Most bytes of all shards together that are coded at once.
pub const BATCH_BYTES: usize = 16 << 20;
/// Largest piece a put makes, however large the sectors are: bounds staging space and what a retry repeats.
pub const MAX_PIECE_BYTES: u64 = 1 << 30;
/// Chunks sealed at once.
const CHUNKS_AT_ONCE: usize = 32;
/// All outboards of a segment together.
const OUTBOARD_BUDGET_BYTES: u64 = 64 << 20;

/// A regular file and what identified it when it was opened.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    file: File,
    stamp: Stamp,
}

/// Length and modification time: what a changing file changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Stamp {
    /// Bytes.
    pub len: u64,
    /// Modification time, seconds since 1970 (negative before).
    pub mtime_s: i64,
    /// Its nanoseconds.
    pub mtime_ns: u32,
}

impl Stamp {
    fn of(meta: &std::fs::Metadata) -> Self {
        let (mtime_s, mtime_ns) = match meta.modified().map(|at| at.duration_since(UNIX_EPOCH)) {
            Ok(Ok(after)) => (
                i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
                after.subsec_nanos(),
            ),
            Ok(Err(before)) => (
                -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
                before.duration().subsec_nanos(),
            ),
            Err(_) => (0, 0),
        };
        Self {
            len: meta.len(),
            mtime_s,
            mtime_ns,
        }
    }
}

impl Source {
    /// Opens a regular file; folders, pipes and devices are refused before they are opened.
    pub fn open(path: &Path) -> Result<Self, ClientError> {
        let path = std::path::absolute(path).map_err(ClientError::file("find", path))?;
        let meta = path
            .metadata()
            .map_err(ClientError::file("read", path.clone()))?;
        if !meta.is_file() {
            return Err(ClientError::NotAFile(path));
        }
        let file = File::open(&path).map_err(ClientError::file("read", path.clone()))?;
        let meta = file
            .metadata()
            .map_err(ClientError::file("read", path.clone()))?;
        Ok(Self {
            stamp: Stamp::of(&meta),
            path,
            file,
        })
    }

    /// Absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it looked like when opened.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// An error if the file is no longer what was opened.
    pub fn check_unchanged(&self) -> Result<(), ClientError> {
        let look = |meta: std::io::Result<std::fs::Metadata>| meta.map(|m| Stamp::of(&m));
        let open = look(self.file.metadata()).map_err(ClientError::file("read", &self.path))?;
        // A file that was replaced under its name is not changed for us: what was opened is what is stored.
        if open == self.stamp {
            Ok(())
        } else {
            Err(ClientError::Changed(self.path.clone()))
        }
    }
}

/// How a file is cut into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentPlan {
    /// k and m.
    pub scheme: Scheme,
    /// Plaintext bytes.
    pub plain_len: u64,
    /// Ciphertext bytes of every segment but the last.
    pub segment_len: u64,
}

impl SegmentPlan {
    /// Cuts a file so that each shard is one piece of at most `max_piece` padded bytes (a power of two, at least 128).
    pub fn new(scheme: Scheme, plain_len: u64, max_piece: u64) -> Result<Self, ClientError> {
        if plain_len > cipher::MAX_PLAIN_BYTES {
            return Err(ClientError::TooLarge {
                bytes: plain_len,
                reason: format!("an object has at most {} bytes", cipher::MAX_PLAIN_BYTES),
            });
        }
        let payload = payload_of(piece_limit(scheme, max_piece));
        let segment_len = cipher::sealed_len(plain_len).min(Geometry::capacity(scheme, payload));
        Ok(Self {
            scheme,
            plain_len,
            segment_len,
        })
    }

    /// Number of segments.
    pub fn segments(&self) -> u64 {
        cipher::sealed_len(self.plain_len).div_ceil(self.segment_len)
    }

    /// Layout of a segment, which must exist.
    pub fn geometry(&self, segment: u64) -> Result<Geometry, ClientError> {
        let start = segment * self.segment_len;
        let len = (cipher::sealed_len(self.plain_len) - start).min(self.segment_len);
        Ok(Geometry::new(self.scheme, len)?)
    }
}

/// Largest padded piece for a scheme where sectors would take `max_piece`.
pub fn piece_limit(scheme: Scheme, max_piece: u64) -> u64 {
    // An outboard is 64 bytes per 16 KiB: 1/256 of the piece.
    let by_memory = OUTBOARD_BUDGET_BYTES * 256 / scheme.n() as u64;
    let limit = max_piece.min(MAX_PIECE_BYTES).min(by_memory).max(128);
    1 << limit.ilog2()
}

/// Unpadded bytes that fit a padded piece.
pub fn payload_of(padded: u64) -> u64 {
    padded / 128 * 127
}

/// Padded size of a piece of `bytes` unpadded bytes; `bytes` is at most 2^40.
pub fn padded_size(bytes: u64) -> PaddedPieceSize {
    let padded = (bytes.div_ceil(127) * 128).next_power_of_two().max(128);
    PaddedPieceSize::new(padded).expect("a power of two of at least 128")
}

/// What stood at the end of a segment's plaintext: lets a resumed put notice another file under the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct PlainMark {
    /// Plaintext bytes read so far, from the file's start.
    pub bytes: u64,
    /// BLAKE3 of them.
    pub hash: [u8; 32],
}

/// One shard on disk, ready to be pushed.
#[derive(Clone)]
pub struct StagedShard {
    /// Piece commitment.
    pub comm_p: CommP,
    /// BLAKE3 root.
    pub blake3_root: [u8; 32],
    /// Unpadded bytes.
    pub bytes: u64,
    /// The bytes.
    pub data: Arc<dyn ReadAt>,
    /// BLAKE3 tree.
    pub outboard: Arc<dyn ReadAt>,
}

impl std::fmt::Debug for StagedShard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StagedShard({}, {} bytes)", self.comm_p, self.bytes)
    }
}

/// A coded segment.
#[derive(Debug)]
pub struct StagedSegment {
    /// n shards in order.
    pub shards: Vec<StagedShard>,
    /// Plaintext read so far.
    pub mark: PlainMark,
}

/// Reads a source once, front to back, and gives its segments.
#[derive(Debug)]
pub struct SegmentEncoder {
    source: Source,
    plan: SegmentPlan,
    cipher: Cipher,
    coder: Coder,
    /// Next chunk to read.
    chunk: u64,
    /// Ciphertext that was sealed and not yet taken.
    sealed: Vec<u8>,
    hash: blake3::Hasher,
    read: u64,
    plain: Vec<u8>,
}

impl SegmentEncoder {
    /// An encoder at the file's start.
    pub fn new(source: Source, plan: SegmentPlan, cipher: Cipher) -> Self {
        Self {
            source,
            plan,
            cipher,
            coder: Coder::new(plan.scheme),
            chunk: 0,
            sealed: Vec::new(),
            hash: blake3::Hasher::new(),
            read: 0,
            plain: Vec::new(),
        }
    }

    /// Codes segment `segment` into files under `dir`, named after the segment and shard. Segments are asked for in order; those in
    /// between are read and hashed only. `progress` is told the plaintext bytes read.
    pub fn encode(
        &mut self,
        segment: u64,
        dir: &Path,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<StagedSegment, ClientError> {
        let start = segment * self.plan.segment_len;
        self.seek(start, progress)?;
        let geometry = self.plan.geometry(segment)?;
        let mut sinks = (0..self.plan.scheme.n())
            .map(|shard| ShardSink::create(staged_path(dir, segment, shard), geometry.shard_len()))
            .collect::<Result<Vec<_>, _>>()?;
        let mut at = 0;
        let batch = batch_bytes(self.plan.scheme);
        let mut shards = vec![Vec::new(); self.plan.scheme.n()];
        while at < geometry.len() {
            let take = batch.min(geometry.len() - at) as usize;
            self.fill(take, progress)?;
            for shard in &mut shards {
                shard.clear();
            }
            geometry.spread(at, &self.sealed[..take], &mut shards)?;
            self.sealed.drain(..take);
            self.coder.encode(&mut shards)?;
            sinks
                .par_iter_mut()
                .zip(shards.par_iter())
                .try_for_each(|(sink, bytes)| sink.append(bytes))?;
            at += take as u64;
        }
        self.source.check_unchanged()?;
        let shards = sinks
            .into_par_iter()
            .map(ShardSink::finish)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(StagedSegment {
            shards,
            mark: self.mark(),
        })
    }

    /// Plaintext read and hashed so far.
    pub fn mark(&self) -> PlainMark {
        PlainMark {
            bytes: self.read,
            hash: self.hash.finalize().into(),
        }
    }

    /// Reads on until `mark` and compares: an error if the file is not the one that was marked.
    pub fn check_mark(
        &mut self,
        mark: &PlainMark,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), ClientError> {
        while self.read < mark.bytes {
            self.skip_chunk(progress)?;
        }
        if self.mark() == *mark {
            Ok(())
        } else {
            Err(ClientError::Changed(self.source.path.clone()))
        }
    }

    /// Reads the rest, checks that the file ends where it should, and gives the hash of all plaintext.
    pub fn finish(mut self, progress: &(dyn Fn(u64) + Sync)) -> Result<[u8; 32], ClientError> {
        while self.chunk < self.cipher.chunks() {
            self.skip_chunk(progress)?;
        }
        let mut beyond = [0; 1];
        let more = self
            .source
            .file
            .read(&mut beyond)
            .map_err(ClientError::file("read", &self.source.path))?;
        if more > 0 {
            return Err(ClientError::Changed(self.source.path.clone()));
        }
        self.source.check_unchanged()?;
        Ok(self.hash.finalize().into())
    }

    /// Makes `self.sealed` start at ciphertext byte `start`.
    fn seek(&mut self, start: u64, progress: &(dyn Fn(u64) + Sync)) -> Result<(), ClientError> {
        while self.sealed_end() <= start && self.chunk < self.cipher.chunks() {
            self.skip_chunk(progress)?;
        }
        let here = self.sealed_end() - self.sealed.len() as u64;
        let skip = start
            .checked_sub(here)
            .ok_or_else(|| ClientError::Bug("segments are coded in order".into()))?;
        self.sealed.drain(..skip as usize);
        Ok(())
    }

    /// Where the ciphertext sealed so far ends.
    fn sealed_end(&self) -> u64 {
        self.cipher.sealed_range(&(0..self.chunk)).end
    }

    /// Seals chunks until at least `want` bytes of ciphertext are at hand.
    fn fill(&mut self, want: usize, progress: &(dyn Fn(u64) + Sync)) -> Result<(), ClientError> {
        while self.sealed.len() < want {
            let left = self.cipher.chunks() - self.chunk;
            let missing = (want - self.sealed.len()).div_ceil(cipher::SEALED_CHUNK_BYTES);
            let count = missing.min(CHUNKS_AT_ONCE).min(left as usize);
            if count == 0 {
                return Err(ClientError::Bug("a segment ends after its object".into()));
            }
            self.read_plain(count, progress)?;
            self.cipher
                .seal(self.chunk, &self.plain, &mut self.sealed)
                .map_err(|error| ClientError::Bug(error.to_string()))?;
            self.chunk += count as u64;
        }
        Ok(())
    }

    /// Reads the next chunk and keeps its ciphertext alone: the next segment may begin inside it.
    fn skip_chunk(&mut self, progress: &(dyn Fn(u64) + Sync)) -> Result<(), ClientError> {
        if self.chunk >= self.cipher.chunks() {
            return Err(ClientError::Changed(self.source.path.clone()));
        }
        self.sealed.clear();
        self.fill(1, progress)
    }

    /// Reads and hashes the plaintext of the next `count` chunks into `self.plain`.
    fn read_plain(
        &mut self,
        count: usize,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), ClientError> {
        let start = self.chunk * CHUNK_BYTES as u64;
        let len = (self.plan.plain_len - start).min((count * CHUNK_BYTES) as u64) as usize;
        self.plain.resize(len, 0);
        self.source
            .file
            .read_exact(&mut self.plain)
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => ClientError::Changed(self.source.path.clone()),
                _ => ClientError::file("read", &self.source.path)(error),
            })?;
        self.hash.update(&self.plain);
        self.read += len as u64;
        progress(len as u64);
        Ok(())
    }
}

/// Segment bytes coded at once: whole stripes, at most [`BATCH_BYTES`] over all shards.
fn batch_bytes(scheme: Scheme) -> u64 {
    let blocks = (BATCH_BYTES / (scheme.n() * BLOCK_BYTES)).max(1);
    (blocks * scheme.k() * BLOCK_BYTES) as u64
}

/// Where a staged shard lies.
pub fn staged_path(dir: &Path, segment: u64, shard: usize) -> PathBuf {
    dir.join(format!("staged-{segment:06}-{shard:03}"))
}

/// Removes the staged shards of a segment; missing ones are fine.
pub fn remove_staged(dir: &Path, segment: u64, n: usize) {
    for shard in 0..n {
        let _ = std::fs::remove_file(staged_path(dir, segment, shard));
    }
}

/// A whole piece in memory as a staged shard: what a manifest part is.
pub fn stage_in_memory(bytes: Vec<u8>) -> Result<StagedShard, ClientError> {
    let (comm_p, _) = prover::piece::commp::commp_of(&bytes);
    let (root, outboard) = retrieval::verify::outboard_of(&bytes)
        .map_err(|error| ClientError::Bug(error.to_string()))?;
    Ok(StagedShard {
        comm_p,
        blake3_root: root.0,
        bytes: bytes.len() as u64,
        data: Arc::new(bytes),
        outboard: Arc::new(outboard),
    })
}

/// Writes one shard and computes both of its roots.
pub(super) struct ShardSink {
    path: PathBuf,
    file: BufWriter<File>,
    comm_p: CommpHasher,
    tree: OutboardBuilder,
    bytes: u64,
}

impl ShardSink {
    pub(super) fn create(path: PathBuf, bytes: u64) -> Result<Self, ClientError> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(ClientError::file("stage", &path))?;
        Ok(Self {
            file: BufWriter::with_capacity(256 * 1024, file),
            path,
            comm_p: CommpHasher::new(),
            tree: OutboardBuilder::new(bytes)
                .map_err(|error| ClientError::Bug(error.to_string()))?,
            bytes,
        })
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.comm_p.update(bytes);
        self.tree
            .update(bytes)
            .map_err(|error| ClientError::Bug(error.to_string()))?;
        self.file
            .write_all(bytes)
            .map_err(ClientError::file("stage", &self.path))
    }

    /// No fsync: after a crash staged bytes are coded anew.
    pub(super) fn finish(self) -> Result<StagedShard, ClientError> {
        let file = self
            .file
            .into_inner()
            .map_err(|error| ClientError::file("stage", &self.path)(error.into_error()))?;
        let (root, outboard) = self
            .tree
            .finish()
            .map_err(|error| ClientError::Bug(error.to_string()))?;
        let (comm_p, _) = self.comm_p.finish();
        Ok(StagedShard {
            comm_p,
            blake3_root: root.0,
            bytes: self.bytes,
            data: Arc::new(file),
            outboard: Arc::new(outboard),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::cipher::{FileKey, NoncePrefix};

    fn scheme(k: usize, m: usize) -> Scheme {
        Scheme::new(k, m).expect("legal")
    }

    fn write(dir: &Path, bytes: &[u8]) -> PathBuf {
        let path = dir.join("source");
        std::fs::write(&path, bytes).expect("writes");
        path
    }

    fn encoder(path: &Path, scheme: Scheme, max_piece: u64) -> SegmentEncoder {
        let source = Source::open(path).expect("opens");
        let plan = SegmentPlan::new(scheme, source.stamp().len, max_piece).expect("fits");
        let key = FileKey::from_bytes([1; 32]);
        let cipher = Cipher::new(&key, &NoncePrefix([2; 19]), plan.plain_len).expect("small");
        SegmentEncoder::new(source, plan, cipher)
    }

    fn bytes_of(shard: &StagedShard) -> Vec<u8> {
        let mut bytes = vec![0; shard.bytes as usize];
        shard.data.read_exact_at(0, &mut bytes).expect("staged");
        bytes
    }

    fn sample(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
    }

    #[test]
    fn segments_decode_to_the_file_and_roots_are_those_of_the_shards() {
        let dir = tempfile::tempdir().expect("a folder");
        let plain = sample(300_000);
        let path = write(dir.path(), &plain);
        let mut encoder = encoder(&path, scheme(2, 1), 64 * 1024);
        assert_eq!(encoder.plan.segments(), 3);
        let mut sealed = Vec::new();
        for segment in 0..3 {
            let staged = encoder
                .encode(segment, dir.path(), &|_| ())
                .expect("encodes");
            let geometry = encoder.plan.geometry(segment).expect("exists");
            let shards: Vec<_> = staged.shards.iter().map(bytes_of).collect();
            for (shard, bytes) in staged.shards.iter().zip(&shards) {
                let (comm_p, padded) = prover::piece::commp::commp_of(bytes);
                assert_eq!(shard.comm_p, comm_p);
                assert_eq!(padded, padded_size(shard.bytes));
                assert_eq!(shard.blake3_root, *blake3::hash(bytes).as_bytes());
            }
            // Without data shard 0: the parity restores it.
            let mut kept: Vec<_> = shards.into_iter().map(Some).collect();
            kept[0] = None;
            encoder.coder.restore_data(&mut kept).expect("restores");
            geometry
                .gather(
                    0..geometry.len(),
                    |i| kept[i].as_deref().map(|b| (b, 0)),
                    &mut sealed,
                )
                .expect("complete");
        }
        let len = encoder.cipher.open(0, &mut sealed).expect("opens");
        assert_eq!(&sealed[..len], &plain[..]);
        let hash = encoder.finish(&|_| ()).expect("unchanged");
        assert_eq!(hash, *blake3::hash(&plain).as_bytes());
    }

    #[test]
    fn a_resumed_encoder_gives_the_same_shards() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = write(dir.path(), &sample(300_000));
        let mut whole = encoder(&path, scheme(2, 2), 32 * 1024);
        let last = whole.plan.segments() - 1;
        let mut marks = Vec::new();
        let mut roots = Vec::new();
        for segment in 0..=last {
            let staged = whole.encode(segment, dir.path(), &|_| ()).expect("encodes");
            marks.push(staged.mark);
            roots.push(
                staged
                    .shards
                    .iter()
                    .map(|s| s.blake3_root)
                    .collect::<Vec<_>>(),
            );
        }
        for from in 0..=last {
            let mut resumed = encoder(&path, scheme(2, 2), 32 * 1024);
            if from > 0 {
                resumed
                    .check_mark(&marks[from as usize - 1], &|_| ())
                    .expect("the same file");
            }
            let staged = resumed.encode(from, dir.path(), &|_| ()).expect("encodes");
            let again: Vec<_> = staged.shards.iter().map(|s| s.blake3_root).collect();
            assert_eq!(again, roots[from as usize], "from segment {from}");
        }
    }

    #[test]
    fn tiny_and_empty_files_make_one_small_segment() {
        let dir = tempfile::tempdir().expect("a folder");
        for len in [0, 1, 127, 2000] {
            let path = write(dir.path(), &sample(len));
            let mut encoder = encoder(&path, scheme(2, 2), 2048);
            assert_eq!(encoder.plan.segments(), 1, "{len}");
            let staged = encoder.encode(0, dir.path(), &|_| ()).expect("encodes");
            assert_eq!(staged.shards.len(), 4);
            assert!(padded_size(staged.shards[0].bytes).bytes() <= 2048);
            encoder.finish(&|_| ()).expect("unchanged");
        }
    }

    #[test]
    fn a_file_that_grows_shrinks_or_is_rewritten_is_noticed() {
        let dir = tempfile::tempdir().expect("a folder");
        let plain = sample(200_000);
        let path = write(dir.path(), &plain);
        let mut first = encoder(&path, scheme(2, 1), 16 * 1024);
        let mark = first.encode(0, dir.path(), &|_| ()).expect("encodes").mark;

        let mut shrunk = encoder(&path, scheme(2, 1), 16 * 1024);
        std::fs::write(&path, &plain[..1000]).expect("writes");
        assert!(matches!(
            shrunk.encode(0, dir.path(), &|_| ()),
            Err(ClientError::Changed(_))
        ));

        write(dir.path(), &plain);
        let grown = encoder(&path, scheme(2, 1), 16 * 1024);
        std::fs::write(&path, [plain.as_slice(), b"more"].concat()).expect("writes");
        assert!(matches!(
            grown.finish(&|_| ()),
            Err(ClientError::Changed(_))
        ));

        let mut other = plain.clone();
        other[5] ^= 1;
        write(dir.path(), &other);
        let mut rewritten = encoder(&path, scheme(2, 1), 16 * 1024);
        assert!(matches!(
            rewritten.check_mark(&mark, &|_| ()),
            Err(ClientError::Changed(_))
        ));
    }

    #[test]
    fn folders_and_missing_files_are_named() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(matches!(
            Source::open(dir.path()),
            Err(ClientError::NotAFile(_))
        ));
        let error = Source::open(&dir.path().join("absent")).expect_err("missing");
        assert!(error.to_string().contains("absent"), "{error}");
    }

    #[test]
    fn memory_and_pieces_are_bounded_whatever_the_sector() {
        for (k, m) in [(1, 0), (2, 2), (10, 4), (200, 55)] {
            let scheme = scheme(k, m);
            for sector in [128, 2048, 8 << 20, 32 << 30, u64::MAX] {
                let piece = piece_limit(scheme, sector);
                assert!(piece.is_power_of_two() && piece <= sector && piece >= 128);
                assert!(piece / 256 * scheme.n() as u64 <= OUTBOARD_BUDGET_BYTES);
                assert_eq!(padded_size(payload_of(piece)).bytes(), piece);
            }
            assert!(batch_bytes(scheme) / k as u64 * scheme.n() as u64 <= BATCH_BYTES as u64);
        }
    }
}
