//! Get: from any k of n, verified, decrypted, written; whole or a range of bytes.
//!
//! Walk: the way back. `retrieval::fetch` brings the same columns of k shards, each 16 KiB group checked against its BLAKE3 root
//! (`threat-model.md` C6: only verified bytes are decoded); [`crate::object::erasure`] puts the segment together;
//! [`crate::object::cipher`] opens it, so any error of coding shows as a failed tag; a whole file is compared with the
//! manifest's hash. A read returns the right bytes or an error (`DESIGN.md` §6.5).
//!
//! ```text
//! fetch (I/O threads) ─ up to 8 units ─► gather ─► open ─► hash ─► write (one blocking thread)
//! next segment's fetch starts while the last units of this one are on their way
//! ```
//!
//! **Names are labels** (C7): [`safe_name`] turns one into a plain file name or refuses; the bytes go to a new file of ours in the
//! target folder and take their final name in one step that neither follows a link nor overwrites, unless forced.
//!
//! What each provider did becomes a signed receipt ([`receipts`]), whatever the get came to.
//!
//! Memory: the fetcher's in-flight bytes, 8 units, one unit of ciphertext. Crash: the part file and its mark
//! (`.holdfast-<id>…part/.mark`, fsynced every 64 MiB) stay; the same command goes on behind the mark and re-reads what is
//! before it for the hash.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use borsh::{BorshDeserialize, BorshSerialize};
use chain_lite::account::ProviderId;
use prover::CommP;
use retrieval::ShardSource;
use retrieval::fetch::{FetchRequest, Unit};
use tokio::sync::mpsc;

use super::catalog::{self, Entry};
use super::journal::replace;
use super::receipts::{self, Asked, Reads};
use super::{Chain, Client, ClientError, Network, ProviderRecord, Units, piece_key};
use crate::object::cipher::{CHUNK_BYTES, Cipher, CipherError, SEALED_CHUNK_BYTES, plain_parts};
use crate::object::erasure::{BLOCK_BYTES, Coder, Geometry};
use crate::object::manifest::{Manifest, ObjectId};

/// Units between the fetch and the writer.
const UNITS_AHEAD: usize = 8;
/// Plaintext bytes between two marks of an unfinished file.
const MARK_EVERY_BYTES: u64 = 64 << 20;
/// Longest file name made from a label.
const MAX_FILE_NAME_BYTES: usize = 200;

/// What to read.
#[derive(Clone, Debug)]
pub struct GetRequest {
    /// Object id or its beginning.
    pub object: String,
    /// First byte and one past the last (or the end); the whole object if absent.
    pub range: Option<(u64, Option<u64>)>,
}

/// Where the bytes go.
pub enum Target {
    /// A file, or a folder in which the label gives the name.
    File {
        /// Path.
        path: PathBuf,
        /// Replace what is there.
        force: bool,
    },
    /// A stream. Every byte written was verified; an error may come after some of them.
    Stream(Box<dyn Write + Send>),
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File { path, force } => write!(f, "File({}, force {force})", path.display()),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// What a get tells while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GetEvent {
    /// Size and name are known.
    Begun {
        /// The label.
        name: String,
        /// Plaintext bytes that will be written.
        bytes: u64,
        /// Of those, bytes that an interrupted get already wrote.
        resumed: u64,
    },
    /// So many more plaintext bytes were verified and written.
    Written(u64),
}

/// Hears [`GetEvent`]s.
pub type Observer = Arc<dyn Fn(GetEvent) + Send + Sync>;

/// The outcome of a get.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Got {
    /// Which object.
    pub object: ObjectId,
    /// Its label.
    pub name: String,
    /// Where it was written; `None` for a stream without a name.
    pub path: Option<PathBuf>,
    /// Plaintext bytes written.
    pub bytes: u64,
    /// The range, when one was asked for.
    pub range: Option<(u64, u64)>,
    /// The bytes have the manifest's hash (whole objects only).
    pub hash_checked: bool,
    /// Providers that were proven to have sent wrong bytes.
    pub liars: Vec<String>,
}

/// Reads an object or a range of it.
pub async fn get<C: Chain, N: Network>(
    client: Arc<Client<C, N>>,
    request: GetRequest,
    target: Target,
    observer: Observer,
) -> Result<Got, ClientError> {
    let entry = catalog::find(&client, &request.object).await?;
    let manifest = catalog::manifest(&client, &entry).await?;
    let range = wanted(&manifest, request.range)?;
    let sink = match target {
        Target::File { path, force } => match device(&path)? {
            Some(out) => Sink::stream(Box::new(out), Some(path)),
            None => Sink::file(&path, force, &entry.object, &manifest, &range)?,
        },
        Target::Stream(out) => Sink::stream(out, None),
    };
    read(client, entry, manifest, range, sink, observer).await
}

/// A pipe, socket or terminal under that name is written to as it stands: it is no file that could be replaced, and replacing
/// `/dev/null` would be a mishap. Disks are refused.
#[cfg(unix)]
fn device(path: &Path) -> Result<Option<File>, ClientError> {
    use std::os::unix::fs::FileTypeExt;
    let Ok(meta) = path.symlink_metadata() else {
        return Ok(None);
    };
    let kind = meta.file_type();
    if kind.is_file() || kind.is_dir() || kind.is_symlink() {
        return Ok(None);
    }
    if kind.is_block_device() {
        return Err(ClientError::NotAFile(path.to_owned()));
    }
    let open = File::options().write(true).open(path);
    open.map(Some).map_err(ClientError::file("write", path))
}

#[cfg(not(unix))]
fn device(_: &Path) -> Result<Option<File>, ClientError> {
    Ok(None)
}

/// The plaintext range that was asked for, inside the object.
fn wanted(
    manifest: &Manifest,
    range: Option<(u64, Option<u64>)>,
) -> Result<Range<u64>, ClientError> {
    let len = manifest.plain_len;
    match range {
        None => Ok(0..len),
        Some((start, end)) => {
            let end = end.unwrap_or(len);
            if start >= end || end > len {
                return Err(ClientError::OutOfRange { start, end, len });
            }
            Ok(start..end)
        }
    }
}

/// The pipeline: a task fetches, a blocking thread decodes and writes.
async fn read<C: Chain, N: Network>(
    client: Arc<Client<C, N>>,
    entry: Entry,
    manifest: Manifest,
    range: Range<u64>,
    mut sink: Sink,
    observer: Observer,
) -> Result<Got, ClientError> {
    let manifest = Arc::new(manifest);
    let whole = range == (0..manifest.plain_len);
    observer(GetEvent::Begun {
        name: manifest.name.clone(),
        bytes: range.end - range.start,
        resumed: sink.done,
    });
    let left = range.start + sink.done..range.end;
    let key = client
        .wallet
        .manifest_key()
        .unwrap_key(&manifest.key, &manifest.file_tag)?;
    let cipher = Cipher::new(&key, &manifest.nonce_prefix, manifest.plain_len)
        .map_err(|error| ClientError::Bug(error.to_string()))?;
    let finished = sink.done > 0 && left.is_empty();
    let chunks = cipher.chunks_of_range(&left);
    let sealed = cipher.sealed_range(&chunks);

    let (to_writer, units) = mpsc::channel(UNITS_AHEAD);
    let source = Arc::clone(&manifest);
    let object = entry.object;
    let mut reads = Reads::default();
    let fetching = async {
        // Dropped at the end of the fetch, so that the writer sees it.
        let to_writer = to_writer;
        if finished {
            return Ok(Vec::new());
        }
        fetch_all(&client, &entry, &source, sealed, to_writer, &mut reads).await
    };
    let source = Arc::clone(&manifest);
    let bytes = range.end - range.start;
    let writing = tokio::task::spawn_blocking(move || {
        let mut writer = Writer::new(&source, cipher, chunks.start, left, whole, observer);
        if finished {
            writer.wanted = 0..0;
        }
        writer.run(&source, units, &mut sink)?;
        sink.finish(whole.then_some(&source.plain_hash), writer.hash.take())
    });
    // The writer's error wins: when it stops, the fetch only sees a closed channel.
    let (fetched, written) = tokio::join!(fetching, writing);
    receipts::keep(&client, reads).await;
    let path = match (written.map_err(ClientError::task)?, &fetched) {
        (Err(WriteStop::Short), Err(_)) => return Err(fetched.expect_err("just matched")),
        (Err(WriteStop::Short), Ok(_)) => {
            return Err(ClientError::Bug("the fetch ended early".into()));
        }
        (Err(WriteStop::Error(error)), _) => return Err(error),
        (Ok(path), _) => path,
    };
    Ok(Got {
        object,
        name: manifest.name.clone(),
        path,
        bytes,
        range: (!whole).then_some((range.start, range.end)),
        hash_checked: whole,
        liars: fetched?,
    })
}

/// A unit with the segment it belongs to.
struct Arrived {
    segment: u64,
    geometry: Geometry,
    unit: Unit,
}

/// Fetches the columns that hold the ciphertext bytes `sealed`, segment by segment; returns proven liars.
async fn fetch_all<C: Chain, N: Network>(
    client: &Client<C, N>,
    entry: &Entry,
    manifest: &Manifest,
    sealed: Range<u64>,
    to_writer: mpsc::Sender<Arrived>,
    reads: &mut Reads,
) -> Result<Vec<String>, ClientError> {
    let providers = catalog::by_id(client.chain.providers().await?);
    reads.begin(&client.chain);
    let first = sealed.start / manifest.segment_len;
    let last = (sealed.end - 1) / manifest.segment_len;
    let start = |segment: u64| {
        begin_segment(client, entry, manifest, &providers, segment, &sealed)
            .map_err(|reason| ClientError::Lost { segment, reason })
    };
    let mut liars = Vec::new();
    let mut next = Some(start(first)?);
    for segment in first..=last {
        let geometry = manifest.segment(segment)?;
        let (mut running, asked) = match next.take() {
            Some(begun) => begun,
            None => start(segment)?,
        };
        loop {
            let unit = match running.next().await {
                Ok(Some(unit)) => unit,
                Ok(None) => break,
                Err(reason) => {
                    reads.note(&asked, &running.parts());
                    return Err(ClientError::Lost { segment, reason });
                }
            };
            // The next segment's first bytes travel while this one's last are decoded.
            let is_last = unit.range.end >= columns(&geometry, manifest, segment, &sealed).end;
            if is_last && segment < last && next.is_none() {
                next = Some(start(segment + 1)?);
            }
            let arrived = Arrived {
                segment,
                geometry,
                unit,
            };
            if to_writer.send(arrived).await.is_err() {
                reads.note(&asked, &running.parts());
                return Ok(liars);
            }
        }
        reads.note(&asked, &running.parts());
        liars.extend(running.liars());
    }
    liars.sort();
    liars.dedup();
    Ok(liars)
}

/// Starts the fetch of one segment's part. Says too who may be asked for what.
fn begin_segment<C: Chain, N: Network>(
    client: &Client<C, N>,
    entry: &Entry,
    manifest: &Manifest,
    providers: &std::collections::BTreeMap<ProviderId, ProviderRecord>,
    segment: u64,
    sealed: &Range<u64>,
) -> Result<(N::Units, Vec<Asked>), String> {
    let mut asked = Vec::new();
    let geometry = manifest
        .segment(segment)
        .map_err(|error| error.to_string())?;
    let shards = manifest.segment_shards(segment).iter().enumerate();
    let shards = shards
        .map(|(index, shard)| {
            let mut holders =
                entry.holders(segment, index as u8, &shard.comm_p, &shard.blake3_root);
            if holders.is_empty() {
                // The chain knows no deal any more; the provider of the put may still have the bytes.
                holders.push(ProviderId(shard.provider));
            }
            let mut peers = Vec::new();
            for record in holders.iter().filter_map(|id| providers.get(id)) {
                peers.extend(N::peers(record));
                asked.push(Asked {
                    provider: record.id,
                    key: record.net_key,
                    piece: CommP(shard.comm_p),
                });
            }
            ShardSource {
                index: index as u16,
                piece: piece_key(shard.blake3_root, geometry.shard_len()),
                providers: peers,
            }
        })
        .filter(|source| !source.providers.is_empty())
        .collect();
    let units = client.network.fetch(FetchRequest {
        k: manifest.scheme.k() as u16,
        shards,
        ranges: vec![columns(&geometry, manifest, segment, sealed)],
    })?;
    Ok((units, asked))
}

/// The bytes of each shard of a segment that are needed for the ciphertext bytes `sealed`: whole blocks, so that a unit
/// of columns is one run of ciphertext.
fn columns(
    geometry: &Geometry,
    manifest: &Manifest,
    segment: u64,
    sealed: &Range<u64>,
) -> Range<u64> {
    let local = local_range(geometry, manifest, segment, sealed);
    let hull = geometry
        .shard_ranges(local)
        .into_iter()
        .flatten()
        .reduce(|a, b| a.start.min(b.start)..a.end.max(b.end))
        .unwrap_or(0..0);
    let block = BLOCK_BYTES as u64;
    let end = hull.end.next_multiple_of(block).min(geometry.shard_len());
    hull.start / block * block..end
}

/// The part of ciphertext range `sealed` that lies in a segment, counted from the segment's start.
fn local_range(
    geometry: &Geometry,
    manifest: &Manifest,
    segment: u64,
    sealed: &Range<u64>,
) -> Range<u64> {
    let base = segment * manifest.segment_len;
    sealed.start.max(base) - base..(sealed.end - base).min(geometry.len())
}

/// Why the writer stopped.
enum WriteStop {
    /// The fetch ended before all bytes came; its error says why.
    Short,
    /// The writer's own reason.
    Error(ClientError),
}

impl From<ClientError> for WriteStop {
    fn from(error: ClientError) -> Self {
        Self::Error(error)
    }
}

/// Gathers, opens, hashes and writes units in order.
struct Writer {
    cipher: Cipher,
    coder: Coder,
    /// Plaintext range still wanted.
    wanted: Range<u64>,
    /// Next chunk to open.
    chunk: u64,
    /// Ciphertext at hand, starting at `chunk`.
    sealed: Vec<u8>,
    /// Where the ciphertext at hand ends.
    sealed_end: u64,
    hash: Option<blake3::Hasher>,
    observer: Observer,
}

impl Writer {
    fn new(
        manifest: &Manifest,
        cipher: Cipher,
        chunk: u64,
        wanted: Range<u64>,
        whole: bool,
        observer: Observer,
    ) -> Self {
        let sealed_end = cipher.sealed_range(&(chunk..chunk + 1)).start;
        Self {
            coder: Coder::new(manifest.scheme),
            cipher,
            wanted,
            chunk,
            sealed: Vec::new(),
            sealed_end,
            hash: whole.then(blake3::Hasher::new),
            observer,
        }
    }

    fn run(
        &mut self,
        manifest: &Manifest,
        mut units: mpsc::Receiver<Arrived>,
        sink: &mut Sink,
    ) -> Result<(), WriteStop> {
        if let Some(hash) = &mut self.hash {
            sink.hash_done(hash)?;
        }
        let last_chunk = self.cipher.chunks_of_range(&self.wanted).end;
        let empty_object = manifest.plain_len == 0;
        while !self.wanted.is_empty() || (empty_object && self.chunk == 0) {
            let arrived = units.blocking_recv().ok_or(WriteStop::Short)?;
            self.gather(manifest, &arrived)?;
            self.open(arrived.segment, last_chunk, sink)?;
        }
        Ok(())
    }

    /// Appends the ciphertext of a unit's columns, from where the last one ended.
    fn gather(&mut self, manifest: &Manifest, arrived: &Arrived) -> Result<(), ClientError> {
        let geometry = &arrived.geometry;
        let columns = &arrived.unit.range;
        let block = BLOCK_BYTES as u64;
        let aligned = columns.start.is_multiple_of(block)
            && (columns.end.is_multiple_of(block) || columns.end == geometry.shard_len());
        if !aligned {
            return Err(ClientError::Bug("a unit of split blocks".into()));
        }
        let k = manifest.scheme.k() as u64;
        let base = arrived.segment * manifest.segment_len;
        let end = match columns.end == geometry.shard_len() {
            true => geometry.len(),
            false => columns.end * k,
        };
        let start = (columns.start * k).max(self.sealed_end.saturating_sub(base));
        if base + start != self.sealed_end {
            return Err(ClientError::Bug("units out of order".into()));
        }
        let restored = self.restore(manifest, &arrived.unit)?;
        let part = |shard: usize| {
            let found = match &restored {
                Some(shards) => shards[shard].as_deref(),
                None => {
                    let mut shards = arrived.unit.shards.iter();
                    let found = shards.find(|(index, _)| usize::from(*index) == shard);
                    found.map(|(_, bytes)| &bytes[..])
                }
            };
            found.map(|bytes| (bytes, columns.start))
        };
        geometry.gather(start..end, part, &mut self.sealed)?;
        self.sealed_end = base + end;
        Ok(())
    }

    /// Restores missing data shards; `None` when all k are data shards and nothing is to be done.
    fn restore(
        &self,
        manifest: &Manifest,
        unit: &Unit,
    ) -> Result<Option<Vec<Option<Vec<u8>>>>, ClientError> {
        let k = manifest.scheme.k();
        if unit
            .shards
            .iter()
            .filter(|(i, _)| usize::from(*i) < k)
            .count()
            == k
        {
            return Ok(None);
        }
        let mut shards: Vec<Option<Vec<u8>>> = vec![None; manifest.scheme.n()];
        for (index, bytes) in &unit.shards {
            let slot = shards
                .get_mut(usize::from(*index))
                .ok_or_else(|| ClientError::Bug("a shard that was not asked for".into()))?;
            *slot = Some(bytes.to_vec());
        }
        self.coder.restore_data(&mut shards)?;
        Ok(Some(shards))
    }

    /// Opens every chunk that is complete, and writes what is wanted of it.
    fn open(&mut self, segment: u64, last_chunk: u64, sink: &mut Sink) -> Result<(), ClientError> {
        let end = self.cipher.sealed_len();
        let complete = if self.sealed_end == end {
            self.sealed.len()
        } else {
            self.sealed.len() / SEALED_CHUNK_BYTES * SEALED_CHUNK_BYTES
        };
        // Columns are whole blocks, so a range may bring chunks behind the last one wanted; they stay closed.
        let wanted_chunks = last_chunk.saturating_sub(self.chunk) as usize;
        let take = complete.min(wanted_chunks.saturating_mul(SEALED_CHUNK_BYTES));
        self.cipher
            .open_in_place(self.chunk, &mut self.sealed[..take])
            .map_err(|error| inconsistent(segment, error))?;
        for plain in plain_parts(&self.sealed[..take]) {
            let at = self.chunk * CHUNK_BYTES as u64;
            let from = self.wanted.start.max(at).min(at + plain.len() as u64);
            let to = self.wanted.end.min(at + plain.len() as u64).max(from);
            let part = &plain[(from - at) as usize..(to - at) as usize];
            if let Some(hash) = &mut self.hash {
                hash.update(part);
            }
            sink.write(part)?;
            self.wanted.start = to.max(self.wanted.start);
            self.chunk += 1;
            (self.observer)(GetEvent::Written(part.len() as u64));
        }
        self.sealed.drain(..take);
        sink.mark_if_due()
    }
}

fn inconsistent(segment: u64, error: CipherError) -> ClientError {
    ClientError::Inconsistent { segment, error }
}

/// Where plaintext goes.
struct Sink {
    out: Out,
    /// Plaintext bytes written, those of an interrupted run included.
    done: u64,
}

enum Out {
    /// With its path, if it has one.
    Stream(Box<dyn Write + Send>, Option<PathBuf>),
    File(PartFile),
}

/// A file under a name of ours that takes its final name when it is complete.
struct PartFile {
    file: File,
    part: PathBuf,
    mark: PathBuf,
    target: PathBuf,
    force: bool,
    what: MarkOf,
    marked: u64,
    syncing: Option<std::thread::JoinHandle<()>>,
}

/// Which bytes a part file is for.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(super) struct MarkOf {
    object: [u8; 32],
    start: u64,
    end: u64,
}

impl Sink {
    fn stream(out: Box<dyn Write + Send>, path: Option<PathBuf>) -> Self {
        Self {
            out: Out::Stream(out, path),
            done: 0,
        }
    }

    fn file(
        path: &Path,
        force: bool,
        object: &ObjectId,
        manifest: &Manifest,
        range: &Range<u64>,
    ) -> Result<Self, ClientError> {
        let target = if path.is_dir() {
            let fallback = || format!("holdfast-{}", &object.to_string()[..16]);
            path.join(safe_name(&manifest.name).unwrap_or_else(fallback))
        } else {
            path.to_owned()
        };
        if !force && target.symlink_metadata().is_ok() {
            return Err(ClientError::Exists(target));
        }
        let dir = match target.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
            _ => PathBuf::from("."),
        };
        let stem = format!(
            ".holdfast-{}-{}-{}",
            &object.to_string()[..16],
            range.start,
            range.end
        );
        let part = dir.join(format!("{stem}.part"));
        let mark = dir.join(format!("{stem}.mark"));
        let what = MarkOf {
            object: object.0,
            start: range.start,
            end: range.end,
        };
        let done = known_mark(&mark, &what).unwrap_or(0);
        let (file, done) = open_part(&part, done)?;
        if file.try_lock().is_err() {
            return Err(ClientError::Busy(part));
        }
        Ok(Self {
            done,
            out: Out::File(PartFile {
                file,
                part,
                mark,
                target,
                force,
                what,
                marked: done,
                syncing: None,
            }),
        })
    }

    /// Feeds what an interrupted run wrote to the hash.
    fn hash_done(&mut self, hash: &mut blake3::Hasher) -> Result<(), ClientError> {
        let Out::File(part) = &mut self.out else {
            return Ok(());
        };
        let fail = || ClientError::file("read", &part.part);
        part.file.seek(SeekFrom::Start(0)).map_err(fail())?;
        let mut reader = (&part.file).take(self.done);
        let mut buffer = vec![0; 1 << 20];
        loop {
            let n = reader.read(&mut buffer).map_err(fail())?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
        }
        part.file
            .seek(SeekFrom::Start(self.done))
            .map(drop)
            .map_err(fail())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let written = match &mut self.out {
            Out::Stream(out, path) => out.write_all(bytes).map_err(output_error(path)),
            Out::File(part) => part
                .file
                .write_all(bytes)
                .map_err(ClientError::file("write", &part.part)),
        };
        self.done += bytes.len() as u64;
        written
    }

    /// Every 64 MiB: data to disk, then the mark, on a thread of its own so that the pipeline goes on.
    fn mark_if_due(&mut self) -> Result<(), ClientError> {
        let done = self.done;
        let Out::File(part) = &mut self.out else {
            return Ok(());
        };
        let busy = part
            .syncing
            .as_ref()
            .is_some_and(|thread| !thread.is_finished());
        if done < part.marked + MARK_EVERY_BYTES || busy {
            return Ok(());
        }
        part.marked = done;
        let file = part
            .file
            .try_clone()
            .map_err(ClientError::file("write", &part.part))?;
        let (mark, what) = (part.mark.clone(), part.what.clone());
        part.syncing = Some(std::thread::spawn(move || {
            // A mark that fails costs a restart from the last one, nothing else.
            if file.sync_data().is_ok() {
                let bytes = borsh::to_vec(&(what, done)).expect("memory does not fail");
                let _ = replace(
                    &mark,
                    &[&bytes[..], blake3::hash(&bytes).as_bytes()].concat(),
                );
            }
        }));
        Ok(())
    }

    /// Checks the hash and gives the file its name.
    fn finish(
        self,
        expected: Option<&[u8; 32]>,
        hash: Option<blake3::Hasher>,
    ) -> Result<Option<PathBuf>, WriteStop> {
        let right = match (expected, hash) {
            (Some(expected), Some(hash)) => hash.finalize().as_bytes() == expected,
            _ => true,
        };
        match self.out {
            Out::Stream(mut out, path) => {
                out.flush().map_err(output_error(&path))?;
                if right {
                    Ok(path)
                } else {
                    Err(ClientError::WrongHash.into())
                }
            }
            Out::File(part) if right => Ok(Some(part.publish()?)),
            Out::File(part) => {
                part.discard();
                Err(ClientError::WrongHash.into())
            }
        }
    }
}

fn output_error(path: &Option<PathBuf>) -> impl FnOnce(io::Error) -> ClientError {
    let path = path.clone().unwrap_or_else(|| "the output".into());
    ClientError::file("write", path)
}

impl PartFile {
    /// One step from no file to the whole file; a link or file that appeared meanwhile stays, unless forced.
    fn publish(mut self) -> Result<PathBuf, ClientError> {
        if let Some(thread) = self.syncing.take() {
            let _ = thread.join();
        }
        self.file
            .sync_data()
            .map_err(ClientError::file("write", &self.part))?;
        let named = if self.force {
            std::fs::rename(&self.part, &self.target)
        } else {
            std::fs::hard_link(&self.part, &self.target)
                .and_then(|()| std::fs::remove_file(&self.part))
        };
        named.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => ClientError::Exists(self.target.clone()),
            _ => ClientError::file("write", &self.target)(error),
        })?;
        let _ = std::fs::remove_file(&self.mark);
        Ok(self.target)
    }

    fn discard(mut self) {
        if let Some(thread) = self.syncing.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.mark);
        let _ = std::fs::remove_file(&self.part);
    }
}

/// How far an interrupted get of the same bytes came.
fn known_mark(path: &Path, what: &MarkOf) -> Option<u64> {
    let mut bytes = Vec::new();
    File::open(path)
        .ok()?
        .take(4096)
        .read_to_end(&mut bytes)
        .ok()?;
    let (value, checksum) = bytes.split_last_chunk::<32>()?;
    if blake3::hash(value).as_bytes() != checksum {
        return None;
    }
    let (of, done): (MarkOf, u64) = borsh::from_slice(value).ok()?;
    (of == *what && done <= what.end - what.start).then_some(done)
}

/// Opens the part file at `done`, or a fresh one. A link or a foreign thing under that name is removed, never followed.
fn open_part(path: &Path, done: u64) -> Result<(File, u64), ClientError> {
    let fail = || ClientError::file("write", path);
    let usable = path
        .symlink_metadata()
        .is_ok_and(|meta| meta.is_file() && meta.len() >= done);
    if !usable || done == 0 {
        match std::fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(fail()(error)),
        }
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(fail())?;
        return Ok((file, 0));
    }
    let mut file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(fail())?;
    file.set_len(done).map_err(fail())?;
    file.seek(SeekFrom::Start(done)).map_err(fail())?;
    Ok((file, done))
}

/// A label as a plain file name inside one folder, or `None` if it is none: no separators, no dots that climb, no control or
/// direction characters, no device names of any platform, no hidden files, nothing that looks like an option.
pub fn safe_name(label: &str) -> Option<String> {
    let bad_char = |c: char| {
        c.is_control()
            || matches!(c, '/' | '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|')
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}')
            || matches!(
                c,
                '\u{2028}' | '\u{2029}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            )
            || matches!(c, '\u{61c}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    let bad = label.is_empty()
        || label.len() > MAX_FILE_NAME_BYTES
        || label.starts_with(['.', '-', '~', ' '])
        || label.ends_with(['.', ' '])
        || label.chars().any(bad_char)
        || is_device_name(label);
    (!bad).then(|| label.to_owned())
}

/// Names that open devices on Windows, with or without an extension.
fn is_device_name(label: &str) -> bool {
    let stem = label.split('.').next().unwrap_or(label).trim_end();
    let stem = stem.to_ascii_uppercase();
    if ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", "CLOCK$"].contains(&stem.as_str()) {
        return true;
    }
    let port = stem
        .strip_prefix("COM")
        .or_else(|| stem.strip_prefix("LPT"));
    port.is_some_and(|number| {
        let mut chars = number.chars();
        matches!(
            (chars.next(), chars.next()),
            (Some('0'..='9' | '¹' | '²' | '³'), None)
        )
    })
}

/// A name that passes joins a folder without leaving it. Body of the fuzz target.
pub fn fuzz_safe_name(label: &str) {
    if let Some(name) = safe_name(label) {
        let joined = Path::new("/target").join(&name);
        assert_eq!(joined.parent(), Some(Path::new("/target")));
        assert_eq!(joined.file_name(), Some(name.as_ref()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tm_c7_no_text_names_anything_outside_its_folder(label in "\\PC{0,40}|[./\\\\~a-z\u{0}-\u{20}]{0,12}") {
            fuzz_safe_name(&label);
        }
    }
}
