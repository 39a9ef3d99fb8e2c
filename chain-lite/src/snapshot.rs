//! Snapshots: the whole state of one height in one file, with the proof that it is the chain's.
//!
//! Walk: [`export`] on a node that has the chain, or [`keep`] while it runs → any way of carrying a file → [`import`] into an empty folder, from which
//! [`crate::ledger::Ledger::open`] goes on block by block. A node that is further behind than its peers remember, or in a hurry,
//! joins this way (`spec/consensus.md` §4 trap 13, §5).
//!
//! ```text
//! file = "HFSNAP01" ‖ len u32le ‖ borsh(Head) ‖ leaf … ‖ end
//! leaf = key len u16le ‖ value len u32le ‖ key ‖ value          strictly ascending by key, leaves of the state only
//! end  = 0xffff ‖ number of leaves u64le ‖ SHA-256 of everything before
//! ```
//! A snapshot of height `b` carries header `b` and header `b + 1` with its certificate, because the latter holds the state root
//! after `b`. What [`import`] believes: the chain id that it is given; that certificate, as a light client does from genesis or from
//! a checkpoint given out of band ([`Anchor`]); and leaves that give the certified root. Indexes follow from the leaves and do not
//! travel. A forged file fails at one of the three (`tm_v12`), before a ledger opens on it.
//!
//! In the folder: `base.hfs` is the file itself, truth for everything up to `b`; `blocks.log` begins with genesis and a record of
//! height `b` that names the file's digest. Both are needed to build the index again. Blocks up to `b` are not there, and reads
//! say so ([`crate::ledger::LedgerError::BeforeSnapshot`]).
//! Crash: `blocks.log` is written last, beside its name, synced and renamed: before that the folder holds no chain and
//! [`import`] begins again, after it everything is there. A snapshot made by [`export_file`] has its name when it is whole.
//! All files go through [`Vfs`], where simulated power cuts strike at each change (`chain-lite/sim`).
//! Cost: two passes over the file; memory: [`LEAVES_AT_ONCE`] leaves and their tree paths, then once the leaves that indexes
//! follow from.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use borsh::{BorshDeserialize, BorshSerialize};
use sha2::{Digest, Sha256};

use crate::account::ChainId;
use crate::block::{BLOCK_VERSION, BlockId, Header};
use crate::bundle;
use crate::codec::{self, CodecError};
use crate::error::StoreError;
use crate::genesis::{CheckedGenesis, Genesis, GenesisError, MAX_GENESIS_BYTES};
use crate::governance;
use crate::invariants;
use crate::ledger::{self, Ledger, LedgerError};
use crate::light::{self, LightBlock, LightClient, LightError};
use crate::log::{BlockLog, Disk, LogError, Mark};
use crate::merkle::Hash;
use crate::state::{KvRead, WriteSet, key};
use crate::store::{self, MemoryIndex, Meta, Place, Store};
use crate::tree::{self, TreeUpdate};
use crate::vfs::{OsVfs, Readers, Vfs};

mod keeper;

pub use keeper::{KEPT, Keeper, keep, newest, write_on};

const MAGIC: &[u8; 8] = b"HFSNAP01";
const END: u16 = u16::MAX;
/// Longest key of a leaf.
const MAX_KEY: usize = 256;
/// Longest value of a leaf: above any that the rules write.
const MAX_VALUE: usize = 4 << 20;
/// Genesis, two headers, a certificate and validators at their largest.
const MAX_HEAD: usize = MAX_GENESIS_BYTES + (1 << 20);
/// Leaves that enter the tree together.
pub const LEAVES_AT_ONCE: u64 = if cfg!(test) { 3 } else { 8_192 };
/// Name of the snapshot in a chain's folder.
const BASE_FILE: &str = "base.hfs";
/// Its name until it was checked.
const BASE_PART: &str = "base.hfs.part";
const LOG_FILE: &str = "blocks.log";

/// What a snapshot says before its leaves.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Head {
    /// The chain's genesis, canonical bytes.
    pub genesis: Vec<u8>,
    /// Header of the snapshot's height.
    pub header: Header,
    /// The header after it, which holds the state root, with its certificate and validators.
    pub next: LightBlock,
}

/// The record in the log of a node that began with a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Base {
    head: Head,
    /// SHA-256 of the file without its last 32 bytes, which are this digest.
    digest: [u8; 32],
    leaves: u64,
}

impl Base {
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(bytes, MAX_HEAD + 64)
    }

    pub(crate) fn header(&self) -> &Header {
        &self.head.header
    }
}

/// The header in the base record of a log that begins at a snapshot.
pub fn base_header(payload: &[u8]) -> Option<Header> {
    Base::from_bytes(payload).ok().map(|base| base.head.header)
}

/// What makes a snapshot's certificate believable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// More than a third of the genesis validators signed it, inside the light clients' trust period
    /// ([`bundle::trust_period_ms`]: without end for a single validator).
    Genesis {
        /// At most so long after genesis, in milliseconds; `u64::MAX` leaves it to the light clients' rule.
        trust_period_ms: u64,
    },
    /// A block id from somebody one trusts, of the snapshot's height or the one after it.
    Checkpoint {
        /// Its height.
        height: u64,
        /// The block.
        id: BlockId,
    },
}

/// Why a snapshot cannot be made or is not believed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file cannot be read or written.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file is cut, altered or no snapshot.
    #[error("the snapshot cannot be used: {0}; get another copy")]
    File(String),
    /// Of another chain than the one asked for.
    #[error("the snapshot is of chain {found}, not {expected}; ask for one of the right network")]
    WrongChain {
        /// Asked for.
        expected: ChainId,
        /// Found.
        found: ChainId,
    },
    /// Its genesis is refused.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// Its certificate does not follow from what is trusted.
    #[error(
        "the snapshot's block is not proven final: {0}; give a checkpoint from somebody you trust, or a newer snapshot"
    )]
    Untrusted(#[from] LightError),
    /// The checkpoint speaks of another block.
    #[error(
        "the checkpoint is of block {checkpoint}, and the snapshot is of block {height}; give the id of block {height} or of the one after it"
    )]
    OtherHeight {
        /// The checkpoint's height.
        checkpoint: u64,
        /// The snapshot's.
        height: u64,
    },
    /// The leaves are not those of the certified root.
    #[error(
        "the snapshot is forged: its leaves do not give the state root that the chain certified"
    )]
    Root,
    /// There is a chain in the folder.
    #[error("{0} holds a chain already; choose an empty --home, or move that chain away")]
    Occupied(PathBuf),
    /// Whoever wanted it wants it no more.
    #[error("the snapshot was stopped before it was whole; nothing is left of it")]
    Stopped,
    /// No snapshot can be made now.
    #[error("no snapshot can be made now: {0}")]
    NotYet(&'static str),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The new log cannot be laid out.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The state cannot be read, or the new index not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> SnapshotError + 'a {
    move |source| SnapshotError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

/// What was written or taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// The chain.
    pub chain_id: ChainId,
    /// Height of the snapshot: the next block is the first that the new node holds.
    pub height: u64,
    /// Its block.
    pub id: BlockId,
    /// Leaves of the state.
    pub leaves: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Writes the state before the newest block, which that block's header proves. `progress` is told the bytes so far; the caller
/// syncs what it owns.
pub fn export(
    ledger: &Ledger,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64),
) -> Result<Report, SnapshotError> {
    export_while(ledger, out, &mut unstopped(progress))
}

fn unstopped(progress: &mut dyn FnMut(u64)) -> impl FnMut(u64) -> bool {
    move |bytes| {
        progress(bytes);
        true
    }
}

/// As [`export`], while `go_on` says so.
fn export_while(
    ledger: &Ledger,
    out: &mut dyn Write,
    go_on: &mut dyn FnMut(u64) -> bool,
) -> Result<Report, SnapshotError> {
    const PAGE: usize = 1_024;
    let tip = ledger.tip().height;
    let height = tip.saturating_sub(1);
    if height <= ledger.base_height() {
        return Err(SnapshotError::NotYet(
            "the chain needs two blocks of its own first",
        ));
    }
    let view = ledger.view_at(height).ok_or(SnapshotError::NotYet(
        "the state before the newest block is not at hand; wait for the next block",
    ))?;
    let head = Head {
        genesis: ledger.genesis().bytes().to_vec(),
        header: ledger.block(height)?.block.header,
        next: light::light_block(ledger, tip)?,
    };
    let id = head.header.id();
    let mut writer = Writer::new(out);
    let bytes = codec::encode(&head);
    let len = u32::try_from(bytes.len()).map_err(|_| too_large("its head"))?;
    writer.put(MAGIC)?;
    writer.put(&len.to_le_bytes())?;
    writer.put(&bytes)?;
    let until = key::first_index();
    let (mut from, mut leaves) = (Vec::new(), 0u64);
    loop {
        let page = view.range(&from, &until, PAGE)?;
        for (key, value) in &page {
            if key.len() > MAX_KEY || value.len() > MAX_VALUE {
                return Err(too_large("a leaf"));
            }
            // Both are below their bounds, which are below the widths.
            writer.put(&(key.len() as u16).to_le_bytes())?;
            writer.put(&(value.len() as u32).to_le_bytes())?;
            writer.put(key)?;
            writer.put(value)?;
        }
        leaves += page.len() as u64;
        if !go_on(writer.bytes) {
            return Err(SnapshotError::Stopped);
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE => from = [last.as_slice(), &[0]].concat(),
            _ => break,
        }
    }
    writer.put(&END.to_le_bytes())?;
    writer.put(&leaves.to_le_bytes())?;
    let digest = writer.sha.clone().finalize();
    writer.put(&digest)?;
    out_flush(writer.out)?;
    Ok(Report {
        chain_id: ledger.chain_id(),
        height,
        id,
        leaves,
        bytes: writer.bytes,
    })
}

/// As [`export`], into a file: written beside its name, synced, renamed and its folder synced, so that who finds the name finds
/// the whole snapshot. Replaces what has the name.
pub fn export_file(
    vfs: &dyn Vfs,
    to: &Path,
    ledger: &Ledger,
    progress: &mut dyn FnMut(u64),
) -> Result<Report, SnapshotError> {
    export_file_while(vfs, to, ledger, &mut unstopped(progress))
}

/// As [`export_file`], while `go_on` says so; it is asked once for each page of leaves.
fn export_file_while(
    vfs: &dyn Vfs,
    to: &Path,
    ledger: &Ledger,
    go_on: &mut dyn FnMut(u64) -> bool,
) -> Result<Report, SnapshotError> {
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = to.with_file_name(name);
    let mut made = || {
        let mut out = DiskWriter::create(vfs, &part)?;
        let report = export_while(ledger, &mut out, go_on)?;
        out.finish(&part)?;
        vfs.rename(&part, to).map_err(io("renaming", &part))?;
        vfs.sync_names(to)
            .map_err(io("syncing the folder of", to))?;
        Ok(report)
    };
    made().inspect_err(|_| {
        // Nobody wants half a file; one that cannot be removed either is overwritten by the next try.
        drop(vfs.remove(&part));
    })
}

fn too_large(what: &str) -> SnapshotError {
    SnapshotError::File(format!("{what} is larger than the format allows"))
}

fn out_flush(out: &mut dyn Write) -> Result<(), SnapshotError> {
    out.flush()
        .map_err(io("writing", Path::new("the snapshot")))
}

struct Writer<'a> {
    out: &'a mut dyn Write,
    sha: Sha256,
    bytes: u64,
}

impl<'a> Writer<'a> {
    fn new(out: &'a mut dyn Write) -> Self {
        Self {
            out,
            sha: Sha256::new(),
            bytes: 0,
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.sha.update(bytes);
        self.bytes += bytes.len() as u64;
        let path = Path::new("the snapshot");
        self.out.write_all(bytes).map_err(io("writing", path))
    }
}

/// Reads a snapshot front to back; what it gives is checked for form alone until [`Reader::next`] has returned `None`.
struct Reader<R> {
    from: R,
    sha: Sha256,
    at: u64,
    /// Bytes that the source has: nothing longer is ever allocated.
    len: u64,
    last: Option<Vec<u8>>,
    leaves: u64,
    /// Of the whole file, once its end was read.
    digest: Option<[u8; 32]>,
}

impl<R: Read> Reader<R> {
    fn open(from: R, len: u64) -> Result<(Self, Head), SnapshotError> {
        let mut reader = Self {
            from,
            sha: Sha256::new(),
            at: 0,
            len,
            last: None,
            leaves: 0,
            digest: None,
        };
        if reader.take(8)? != MAGIC {
            return Err(SnapshotError::File("it is no snapshot".into()));
        }
        let len = u32::from_le_bytes(array(&reader.take(4)?)) as usize;
        if len > MAX_HEAD {
            return Err(too_large("its head"));
        }
        let bytes = reader.take(len)?;
        let head = codec::decode(&bytes, MAX_HEAD);
        let head = head.map_err(|e| SnapshotError::File(format!("its head: {e}")))?;
        Ok((reader, head))
    }

    fn next(&mut self) -> Result<Option<(Vec<u8>, Vec<u8>)>, SnapshotError> {
        if self.digest.is_some() {
            return Ok(None);
        }
        let key_len = u16::from_le_bytes(array(&self.take(2)?));
        if key_len == END {
            return self.end().map(|()| None);
        }
        let value_len = u32::from_le_bytes(array(&self.take(4)?)) as usize;
        if usize::from(key_len) > MAX_KEY || value_len > MAX_VALUE {
            return Err(too_large("a leaf"));
        }
        let key = self.take(usize::from(key_len))?;
        let ascending = self.last.as_ref().is_none_or(|last| *last < key);
        if !ascending || !key::is_leaf(&key) {
            return Err(SnapshotError::File(
                "its leaves are out of order, or not leaves".into(),
            ));
        }
        let value = self.take(value_len)?;
        self.last = Some(key.clone());
        self.leaves += 1;
        Ok(Some((key, value)))
    }

    fn end(&mut self) -> Result<(), SnapshotError> {
        let count = u64::from_le_bytes(array(&self.take(8)?));
        let digest: [u8; 32] = self.sha.clone().finalize().into();
        let said = self.take(32)?;
        if count != self.leaves || said != digest || self.at != self.len {
            return Err(SnapshotError::File("it was altered or cut".into()));
        }
        self.digest = Some(digest);
        Ok(())
    }

    fn take(&mut self, len: usize) -> Result<Vec<u8>, SnapshotError> {
        let cut = || SnapshotError::File("it ends too early".into());
        if len as u64 > self.len.saturating_sub(self.at) {
            return Err(cut());
        }
        let mut bytes = vec![0; len];
        self.from.read_exact(&mut bytes).map_err(|_| cut())?;
        self.sha.update(&bytes);
        self.at += len as u64;
        Ok(bytes)
    }
}

/// The bytes of a number; [`Reader::take`] returned exactly as many as were asked for.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[..N]);
    out
}

/// A file's bytes from the beginning.
struct DiskReader {
    disk: Arc<dyn Disk>,
    at: u64,
}

impl Read for DiskReader {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let got = self.disk.read_at(self.at, buf)?;
        self.at += got as u64;
        Ok(got)
    }
}

/// A file that is written once, in pieces of a megabyte.
struct DiskWriter(BufWriter<Appender>);

struct Appender(Arc<dyn Disk>);

impl Write for Appender {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.append(bytes)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl DiskWriter {
    /// Begins a file; what an interrupted try left under its name goes.
    fn create(vfs: &dyn Vfs, path: &Path) -> Result<Self, SnapshotError> {
        let disk = vfs.open(path).map_err(io("creating", path))?;
        disk.truncate(0).map_err(io("creating", path))?;
        Ok(Self(BufWriter::with_capacity(1 << 20, Appender(disk))))
    }

    /// Returns once the bytes survive a power cut.
    fn finish(self, path: &Path) -> Result<(), SnapshotError> {
        let disk = self.0.into_inner();
        let disk = disk.map_err(|e| io("writing", path)(e.into_error()))?;
        disk.0.sync().map_err(io("syncing", path))
    }
}

impl Write for DiskWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// Length of a file of `home`, if it is there.
fn length(vfs: &dyn Vfs, home: &Path, name: &str) -> Result<Option<u64>, SnapshotError> {
    let files = vfs.list(home).map_err(io("reading", home))?;
    Ok(files.into_iter().find(|f| f.0 == name).map(|f| f.1))
}

type FileReader = Reader<BufReader<DiskReader>>;

/// Opens a file of ours in `home`.
fn open_file(vfs: &dyn Vfs, home: &Path, name: &str) -> Result<(FileReader, Head), SnapshotError> {
    let path = home.join(name);
    // Opening would make it.
    let len = length(vfs, home, name)?
        .ok_or_else(|| io("opening", &path)(std::io::ErrorKind::NotFound.into()))?;
    let disk = vfs.open(&path).map_err(io("opening", &path))?;
    let reader = BufReader::with_capacity(1 << 20, DiskReader { disk, at: 0 });
    Reader::open(reader, len)
}

/// Reads a whole file for its form: what it says of itself.
fn scan(vfs: &dyn Vfs, home: &Path, name: &str) -> Result<(Base, u64), SnapshotError> {
    let (mut reader, head) = open_file(vfs, home, name)?;
    while reader.next()?.is_some() {}
    let base = Base {
        head,
        digest: reader.digest.unwrap_or_default(),
        leaves: reader.leaves,
    };
    Ok((base, reader.at))
}

/// Whether the head is of this chain and its state root certified.
fn believe(
    head: &Head,
    expected: ChainId,
    anchor: Anchor,
    now_ms: u64,
) -> Result<CheckedGenesis, SnapshotError> {
    let genesis = Genesis::from_bytes(&head.genesis)?;
    let found = genesis.chain_id();
    if found != expected {
        return Err(SnapshotError::WrongChain { expected, found });
    }
    let genesis = genesis.check()?;
    let (h, next) = (&head.header, &head.next.header);
    let (height, id) = (h.height, h.id());
    let linked = height > 0
        && next.height == height + 1
        && next.parent_id == id
        && h.version == BLOCK_VERSION
        && h.chain_id == expected
        && next.epoch > h.epoch
        && next.time_ms > h.time_ms
        && next.validators_hash == h.next_validators_hash;
    if !linked {
        return Err(SnapshotError::File(
            "its two headers do not belong together".into(),
        ));
    }
    match anchor {
        Anchor::Genesis { trust_period_ms } => {
            let trusted = genesis.trusted();
            let period = bundle::trust_period_ms(&trusted).min(trust_period_ms);
            LightClient::new(trusted, period).advance(&head.next, now_ms)?;
        }
        Anchor::Checkpoint {
            height: checkpoint,
            id: trusted,
        } => {
            // The parent's id stands in the next header, and the parent names that header's validators.
            let same = match checkpoint {
                c if c == height => trusted == id,
                c if c == next.height => trusted == next.id(),
                _ => return Err(SnapshotError::OtherHeight { checkpoint, height }),
            };
            if !same {
                let field = "id";
                return Err(LightError::Header {
                    height: checkpoint,
                    field,
                }
                .into());
            }
            LightClient::from_trusted(expected, next.id(), &head.next, u64::MAX)?;
        }
    }
    Ok(genesis)
}

/// Takes a snapshot into `home`, which must hold no chain. `expected` is the chain id and `anchor` the trust, both from outside the
/// file; `now_ms` is Unix time. Afterwards [`Ledger::open`] with the file's genesis goes on from the snapshot.
pub fn import(
    home: &Path,
    file: &Path,
    expected: ChainId,
    anchor: Anchor,
    now_ms: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<Report, SnapshotError> {
    fs::create_dir_all(home).map_err(io("creating", home))?;
    let _lock = ledger::lock(home)?;
    let mut source = File::open(file).map_err(io("opening", file))?;
    let meta = source.metadata().map_err(io("opening", file))?;
    if !meta.is_file() {
        return Err(SnapshotError::File("it is not a file".into()));
    }
    let index = store::index_dir(home);
    let folder = Folder {
        vfs: &OsVfs,
        index: Place::Folder(&index),
        home,
    };
    folder.import(&mut source, expected, anchor, now_ms, progress)
}

/// [`import`] on another file system, with the index in memory: for simulators.
pub fn import_simulated(
    vfs: &dyn Vfs,
    index: &MemoryIndex,
    home: &Path,
    source: &mut dyn Read,
    expected: ChainId,
    anchor: Anchor,
    now_ms: u64,
) -> Result<Report, SnapshotError> {
    vfs.create_dir(home).map_err(io("creating", home))?;
    let index = Place::Memory(index);
    let folder = Folder { vfs, index, home };
    folder.import(source, expected, anchor, now_ms, &mut |_| ())
}

/// Where a snapshot is taken in.
#[derive(Clone, Copy)]
struct Folder<'a> {
    vfs: &'a dyn Vfs,
    index: Place<'a>,
    home: &'a Path,
}

impl Folder<'_> {
    fn import(
        self,
        source: &mut dyn Read,
        expected: ChainId,
        anchor: Anchor,
        now_ms: u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Report, SnapshotError> {
        let Self { vfs, index, home } = self;
        // An empty file is what a node leaves that was started here by mistake, on an import that was cut off.
        if length(vfs, home, LOG_FILE)?.is_some_and(|len| len > 0) {
            return Err(SnapshotError::Occupied(home.to_owned()));
        }
        // The copy is what is checked: the file at hand may change or be somebody else's.
        let part = home.join(BASE_PART);
        copy(source, vfs, &part, progress)?;
        let taken = self.take_in(expected, anchor, now_ms);
        if taken.is_err() {
            drop(vfs.remove(&part));
            drop(store::clear(index));
        }
        let (report, first) = taken?;
        let base = home.join(BASE_FILE);
        vfs.rename(&part, &base).map_err(io("renaming", &part))?;
        vfs.sync_names(&base).map_err(io("syncing", home))?;
        // From the rename of the log on there is a chain here.
        let (part, log) = (home.join("blocks.log.part"), home.join(LOG_FILE));
        vfs.write_synced(&part, Readers::Umask, &[&first])
            .map_err(io("writing", &part))?;
        vfs.rename(&part, &log).map_err(io("renaming", &part))?;
        vfs.sync_names(&log).map_err(io("syncing", home))?;
        Ok(report)
    }

    /// Checks the copy and builds the index from it; returns the bytes of the log that begins here.
    fn take_in(
        self,
        expected: ChainId,
        anchor: Anchor,
        now_ms: u64,
    ) -> Result<(Report, Vec<u8>), SnapshotError> {
        let (base, bytes) = scan(self.vfs, self.home, BASE_PART)?;
        let genesis = believe(&base.head, expected, anchor, now_ms)?;
        let height = base.head.header.height;
        let record = codec::encode(&base);
        let (first, mark) = BlockLog::based(expected.0, genesis.bytes(), height, &record)?;
        self.build_index(BASE_PART, &base, expected, mark)?;
        let report = Report {
            chain_id: expected,
            height,
            id: base.head.header.id(),
            leaves: base.leaves,
            bytes,
        };
        Ok((report, first))
    }

    fn build_index(
        self,
        name: &str,
        base: &Base,
        chain_id: ChainId,
        mark: Mark,
    ) -> Result<Store, SnapshotError> {
        let (header, next) = (&base.head.header, &base.head.next.header);
        let meta = Meta {
            block_id: header.id(),
            state_root: next.prev_state_root,
            receipt_root: next.prev_receipt_root,
            epoch: header.epoch,
            ..Meta::genesis(chain_id, mark, header.time_ms)
        };
        let store = Store::begin(self.index, meta.clone())?;
        let (mut reader, _) = open_file(self.vfs, self.home, name)?;
        // The tree takes one version a piece, and ends at the snapshot's height.
        let size = base.leaves.div_ceil(header.height).max(LEAVES_AT_ONCE);
        let pieces = base.leaves.div_ceil(size).max(1);
        let first = header.height - pieces + 1;
        let empty = TreeUpdate {
            nodes: vec![tree::empty_root(first - 1)],
            ..TreeUpdate::default()
        };
        store.fill(&WriteSet::new(), &empty)?;
        let mut root: Hash = [0; 32];
        for version in first..=header.height {
            let mut writes = WriteSet::new();
            while (writes.len() as u64) < size {
                let Some((key, value)) = reader.next()? else {
                    break;
                };
                writes.insert(key, Some(value));
            }
            let update = tree::update(&store, version, &writes)?;
            root = update.root;
            store.fill(&writes, &update)?;
        }
        if reader.next()?.is_some() || root != next.prev_state_root {
            return Err(SnapshotError::Root);
        }
        let store = std::sync::Arc::new(store);
        let view = store.view();
        let indexes = invariants::indexes(&view)?;
        let sets = governance::sets(&view)?.ok_or(SnapshotError::Root)?;
        drop(view);
        let indexes: WriteSet = indexes.into_iter().map(|(k, v)| (k, Some(v))).collect();
        store.fill(&indexes, &TreeUpdate::default())?;
        let store = std::sync::Arc::into_inner(store)
            .ok_or_else(|| StoreError::Io("the new index is still being read".into()))?;
        Ok(store.finish(meta, [&sets.0, &sets.1])?)
    }
}

/// Builds the index of a folder that began with a snapshot again, up to the snapshot.
pub(crate) fn rebuild(
    vfs: &dyn Vfs,
    index: Place<'_>,
    home: &Path,
    base: &Base,
    chain_id: ChainId,
    mark: Mark,
) -> Result<Store, SnapshotError> {
    let (found, _) = scan(vfs, home, BASE_FILE)?;
    if found != *base {
        return Err(SnapshotError::File(format!(
            "{} is not the snapshot with which this chain's log begins",
            home.join(BASE_FILE).display()
        )));
    }
    Folder { vfs, index, home }.build_index(BASE_FILE, base, chain_id, mark)
}

fn copy(
    from: &mut dyn Read,
    vfs: &dyn Vfs,
    to: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<(), SnapshotError> {
    let mut target = DiskWriter::create(vfs, to)?;
    let mut buf = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        let got = from
            .read(&mut buf)
            .map_err(io("reading", Path::new("the snapshot")))?;
        if got == 0 {
            break;
        }
        target.write_all(&buf[..got]).map_err(io("writing", to))?;
        done += got as u64;
        progress(done);
    }
    target.finish(to)
}

/// Any bytes as a snapshot: refused, or read to its end without a panic and without more memory than the bytes. Body of the fuzz
/// target.
pub fn fuzz_snapshot(bytes: &[u8]) {
    let Ok((mut reader, head)) = Reader::open(bytes, bytes.len() as u64) else {
        return;
    };
    let chain = ChainId([0xee; 32]);
    let anchor = Anchor::Genesis {
        trust_period_ms: u64::MAX,
    };
    assert!(believe(&head, chain, anchor, 0).is_err());
    while let Ok(Some((key, value))) = reader.next() {
        assert!(key.len() + value.len() < bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::tests::{advance, genesis, next_block, open, signed, transfer, user};
    use crate::ledger::{CommitOutcome, Slot};
    use crate::state::KvRead;

    const DAY_MS: u64 = 86_400_000;

    /// A chain of `blocks` and its snapshot.
    fn chain(blocks: u64) -> (tempfile::TempDir, Ledger, Vec<u8>, Report) {
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path(), &genesis(3)).unwrap();
        advance(&ledger, blocks);
        let mut file = vec![];
        let report = export(&ledger, &mut file, &mut |_| ()).unwrap();
        assert_eq!(report.bytes, file.len() as u64);
        (home, ledger, file, report)
    }

    fn anchor() -> Anchor {
        Anchor::Genesis {
            trust_period_ms: DAY_MS,
        }
    }

    fn now(ledger: &Ledger) -> u64 {
        ledger.tip().time_ms
    }

    /// An operator may keep the log on another disk: the chain is there all the same.
    #[cfg(unix)]
    #[test]
    fn a_log_behind_a_link_is_a_chain_too() {
        let (_home, ledger, file, _) = chain(4);
        let (home, disk) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (given, log) = (disk.path().join("given.hfs"), disk.path().join("log"));
        fs::write(&given, &file).unwrap();
        let other = open(home.path(), &genesis(3)).unwrap();
        advance(&other, 2);
        drop(other);
        fs::rename(home.path().join(LOG_FILE), &log).unwrap();
        std::os::unix::fs::symlink(&log, home.path().join(LOG_FILE)).unwrap();
        let (id, now) = (ledger.chain_id(), now(&ledger));
        let taken = import(home.path(), &given, id, anchor(), now, &mut |_| ());
        assert!(
            matches!(taken, Err(SnapshotError::Occupied(_))),
            "{taken:?}"
        );
        assert_eq!(open(home.path(), &genesis(3)).unwrap().tip().height, 2);
    }

    /// As for a light client: one validator's genesis is trusted without end, several for two weeks, and less on request.
    #[test]
    fn genesis_is_trusted_as_long_as_by_light_clients() {
        use crate::ledger::tests::{four, proposed};
        let (_home, one, one_file, _) = chain(4);
        let (genesis, keys) = four();
        let home = tempfile::tempdir().unwrap();
        let several = open(home.path(), &genesis).unwrap();
        for _ in 0..3 {
            let (block, slot) = proposed(&several, 0, vec![]);
            let certificate = signed(&several.chain_id(), slot, block.id(), &keys);
            several.commit(block, certificate).unwrap();
        }
        let mut several_file = vec![];
        export(&several, &mut several_file, &mut |_| ()).unwrap();
        let fresh = |file: &[u8], ledger: &Ledger, period: u64, days: u64| {
            let (_, head) = Reader::open(file, file.len() as u64).unwrap();
            let anchor = Anchor::Genesis {
                trust_period_ms: period,
            };
            let now = now(ledger) + days * DAY_MS;
            match believe(&head, ledger.chain_id(), anchor, now) {
                Ok(_) => true,
                Err(SnapshotError::Untrusted(LightError::Expired)) => false,
                Err(error) => panic!("{error}"),
            }
        };
        assert!(fresh(&one_file, &one, u64::MAX, 4_000));
        assert!(!fresh(&one_file, &one, 5 * DAY_MS, 6));
        assert!(fresh(&several_file, &several, u64::MAX, 13));
        assert!(!fresh(&several_file, &several, u64::MAX, 15));
        assert!(fresh(&several_file, &several, 5 * DAY_MS, 4));
        assert!(!fresh(&several_file, &several, 5 * DAY_MS, 6));
    }

    /// Imports bytes into a new folder.
    fn take(
        bytes: &[u8],
        ledger: &Ledger,
        anchor: Anchor,
    ) -> Result<(tempfile::TempDir, Report), SnapshotError> {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("given.hfs");
        fs::write(&file, bytes).unwrap();
        let chain = home.path().join("chain");
        let id = ledger.chain_id();
        let report = import(&chain, &file, id, anchor, now(ledger), &mut |_| ())?;
        Ok((home, report))
    }

    fn all(ledger: &Ledger, height: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
        let view = ledger.view_at(height).unwrap();
        view.range(&[], &[0xff; 8], usize::MAX).unwrap()
    }

    #[test]
    fn a_snapshot_is_taken_in_and_the_chain_goes_on_from_it() {
        let (_full, whole, file, made) = chain(9);
        assert!(made.leaves > 2 * LEAVES_AT_ONCE, "several pieces");
        let (home, taken) = take(&file, &whole, anchor()).unwrap();
        assert_eq!(taken, made);
        assert_eq!(made.height, 8);
        let dir = home.path().join("chain");
        let ledger = open(&dir, &genesis(3)).unwrap();
        assert_eq!((ledger.tip().height, ledger.base_height()), (8, 8));
        assert_eq!(all(&ledger, 8), all(&whole, 8), "indexes too");
        // What it never had is named, not guessed.
        for height in [1, 8] {
            assert!(matches!(
                ledger.block(height),
                Err(LedgerError::BeforeSnapshot { base: 8, .. })
            ));
            assert!(ledger.outcomes(height).is_err() && ledger.validators_at(height).is_err());
        }
        assert!(ledger.decided(5..=9, u64::MAX).is_err());
        let mut nothing = vec![];
        assert!(ledger.export(&mut nothing, &mut |_| ()).is_err());
        assert!(matches!(
            export(&ledger, &mut nothing, &mut |_| ()),
            Err(SnapshotError::NotYet(_))
        ));
        // It takes the chain's next blocks and makes its own.
        for height in 9..=12 {
            if height > 9 {
                advance(&whole, 1);
            }
            let last = whole.block(height).unwrap();
            assert!(matches!(
                ledger.commit_decided(last.block, last.certificate).unwrap(),
                CommitOutcome::Committed(_)
            ));
        }
        assert_eq!(ledger.tip(), whole.tip());
        assert_eq!(all(&ledger, 12), all(&whole, 12));
        let nonces = transfer(ledger.chain_id(), 0, 12, 1);
        let (block, certificate) = next_block(&ledger, vec![nonces]);
        ledger.commit(block, certificate).unwrap();
        let tip = ledger.tip();
        drop(ledger);
        // A restart, and one without its index.
        let again = open(&dir, &genesis(3)).unwrap();
        assert_eq!((again.tip(), again.summary().replayed), (tip, 0));
        let leaf = key::network();
        let bundle = light::state_bundle(&again, &leaf).unwrap();
        let mut client = LightClient::new(again.genesis().trusted(), DAY_MS);
        client.check_state(&bundle, tip.time_ms).unwrap();
        drop(again);
        fs::remove_dir_all(store::index_dir(&dir)).unwrap();
        let again = open(&dir, &genesis(3)).unwrap();
        assert_eq!((again.tip(), again.summary().rebuilt_index), (tip, true));
        assert_eq!(again.summary().replayed, 5);
        let mut second = vec![];
        let next = export(&again, &mut second, &mut |_| ()).unwrap();
        assert_eq!(next.height, tip.height - 1, "it makes snapshots of its own");
        drop(again);
        // The audit says what is missing instead of calling the chain unsound.
        let error = crate::audit::verify_file(&dir.join("blocks.log"), None, &mut |_| ());
        assert!(error.err().unwrap().to_string().contains("snapshot"));
        assert!(crate::audit::genesis_of(&dir.join("blocks.log")).is_ok());
        fs::remove_file(dir.join(BASE_FILE)).unwrap();
        fs::remove_dir_all(store::index_dir(&dir)).unwrap();
        assert!(matches!(
            open(&dir, &genesis(3)),
            Err(LedgerError::Snapshot(_))
        ));
    }

    #[test]
    fn the_state_before_the_tip_is_there_after_a_restart() {
        let (home, ledger, file, made) = chain(5);
        let before = all(&ledger, 4);
        drop(ledger);
        let ledger = open(home.path(), &genesis(3)).unwrap();
        assert_eq!(all(&ledger, 4), before);
        let mut again = vec![];
        assert_eq!(export(&ledger, &mut again, &mut |_| ()).unwrap(), made);
        assert_eq!(again, file, "the same state gives the same file");
    }

    /// A snapshot with one thing changed, its digest made to fit again.
    fn forged(
        file: &[u8],
        change: impl FnOnce(&mut Head, &mut Vec<(Vec<u8>, Vec<u8>)>),
    ) -> Vec<u8> {
        let (mut reader, mut head) = Reader::open(file, file.len() as u64).unwrap();
        let mut leaves = vec![];
        while let Some(leaf) = reader.next().unwrap() {
            leaves.push(leaf);
        }
        change(&mut head, &mut leaves);
        let mut out = vec![];
        let mut writer = Writer::new(&mut out);
        let bytes = codec::encode(&head);
        writer.put(MAGIC).unwrap();
        writer.put(&(bytes.len() as u32).to_le_bytes()).unwrap();
        writer.put(&bytes).unwrap();
        for (key, value) in &leaves {
            writer.put(&(key.len() as u16).to_le_bytes()).unwrap();
            writer.put(&(value.len() as u32).to_le_bytes()).unwrap();
            writer.put(key).unwrap();
            writer.put(value).unwrap();
        }
        writer.put(&END.to_le_bytes()).unwrap();
        writer.put(&(leaves.len() as u64).to_le_bytes()).unwrap();
        let digest = writer.sha.clone().finalize();
        writer.put(&digest).unwrap();
        out
    }

    #[test]
    fn tm_v12_forged_snapshots_are_refused_and_leave_no_chain() {
        let (_full, ledger, file, made) = chain(7);
        assert_eq!(forged(&file, |_, _| ()), file);
        let root: [(&str, fn(&mut Head, &mut Vec<(Vec<u8>, Vec<u8>)>)); 4] = [
            ("a richer account", |_, l| {
                let of = l.iter_mut().find(|(k, _)| k[0] == key::accounts()[0]);
                of.unwrap().1[0] ^= 1;
            }),
            ("a leaf less", |_, l| drop(l.remove(1))),
            ("a leaf more", |_, l| l.push((vec![0x7f], vec![1]))),
            ("other validators", |_, l| {
                let of = l.iter_mut().find(|(k, _)| *k == key::validators());
                of.unwrap().1[6] ^= 1;
            }),
        ];
        for (what, change) in root {
            let error = take(&forged(&file, change), &ledger, anchor())
                .err()
                .unwrap();
            assert!(matches!(error, SnapshotError::Root), "{what}: {error}");
        }
        let head: [(&str, fn(&mut Head, &mut Vec<(Vec<u8>, Vec<u8>)>)); 5] = [
            ("another root", |h, _| h.next.header.prev_state_root[0] ^= 1),
            ("another height", |h, _| h.header.height += 1),
            ("another parent", |h, _| h.header.time_ms -= 1),
            ("no signature", |h, _| {
                h.next.certificate = signed(
                    &h.header.chain_id,
                    Slot::of(&h.next.certificate),
                    h.next.certificate.block(),
                    &[user(9)],
                );
            }),
            ("validators of its own", |h, _| {
                h.next.validators[0].power += 1;
            }),
        ];
        for (what, change) in head {
            let error = take(&forged(&file, change), &ledger, anchor())
                .err()
                .unwrap();
            let named = matches!(error, SnapshotError::Untrusted(_) | SnapshotError::File(_));
            assert!(named, "{what}: {error}");
        }
        // A whole chain of somebody else's: its own genesis, validators and leaves, sound in itself.
        let other_home = tempfile::tempdir().unwrap();
        let other = open(other_home.path(), &genesis(2)).unwrap();
        let mut theirs = vec![];
        for _ in 0..3 {
            let (block, certificate) = next_block(&other, vec![]);
            other.commit(block, certificate).unwrap();
        }
        export(&other, &mut theirs, &mut |_| ()).unwrap();
        let error = take(&theirs, &ledger, anchor()).err().unwrap();
        assert!(matches!(error, SnapshotError::WrongChain { .. }), "{error}");
        let swapped = forged(&theirs, |h, _| {
            h.genesis = ledger.genesis().bytes().to_vec()
        });
        assert!(take(&swapped, &ledger, anchor()).is_err());
        // Trust that has run out, and what a checkpoint says.
        let old = Anchor::Genesis { trust_period_ms: 0 };
        let error = take(&file, &ledger, old).err().unwrap();
        assert!(
            matches!(error, SnapshotError::Untrusted(LightError::Expired)),
            "{error}"
        );
        let at = |height, id| Anchor::Checkpoint { height, id };
        let id = |height| ledger.block(height).unwrap().block.id();
        assert!(take(&file, &ledger, at(6, id(6))).is_ok());
        assert!(take(&file, &ledger, at(7, id(7))).is_ok());
        let error = take(&file, &ledger, at(5, id(5))).err().unwrap();
        assert!(matches!(
            error,
            SnapshotError::OtherHeight {
                checkpoint: 5,
                height: 6
            }
        ));
        for wrong in [at(6, id(7)), at(7, id(6))] {
            assert!(take(&file, &ledger, wrong).is_err());
        }
        assert_eq!(made.height, 6);
    }

    #[test]
    fn tm_v12_a_cut_or_flipped_snapshot_is_refused_whatever_its_place() {
        let (_full, ledger, file, _) = chain(3);
        let scan_of = |bytes: &[u8]| -> Result<u64, SnapshotError> {
            let (mut reader, head) = Reader::open(bytes, bytes.len() as u64)?;
            while reader.next()?.is_some() {}
            believe(&head, ledger.chain_id(), anchor(), now(&ledger))?;
            Ok(reader.leaves)
        };
        assert!(scan_of(&file).is_ok());
        for len in 0..file.len() {
            assert!(scan_of(&file[..len]).is_err(), "cut to {len}");
        }
        for at in 0..file.len() {
            let mut bytes = file.clone();
            bytes[at] ^= 4;
            assert!(scan_of(&bytes).is_err(), "flipped at {at}");
        }
        assert!(scan_of(&[file.as_slice(), &[0]].concat()).is_err());
        fuzz_snapshot(&file);
        // A length that lies is compared with the file before anything is allocated.
        let mut lie = file.clone();
        lie[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(scan_of(&lie).is_err());
    }

    #[test]
    fn tm_h1_an_import_cut_anywhere_begins_again_or_is_complete() {
        let (_full, ledger, file, _) = chain(6);
        let genesis = genesis(3);
        let home = tempfile::tempdir().unwrap();
        let given = home.path().join("given.hfs");
        fs::write(&given, &file).unwrap();
        let (id, now) = (ledger.chain_id(), now(&ledger));
        let run = |dir: &Path| import(dir, &given, id, anchor(), now, &mut |_| ());
        let whole = home.path().join("whole");
        run(&whole).unwrap();
        let log = fs::read(whole.join("blocks.log")).unwrap();
        let tip = open(&whole, &genesis).unwrap().tip();
        assert!(matches!(run(&whole), Err(SnapshotError::Occupied(_))));
        // Each moment before the log's rename: what may lie there is in the way of nothing.
        let mut images: Vec<Vec<(&str, &[u8])>> = vec![];
        for len in (0..=file.len()).step_by(file.len() / 7) {
            images.push(vec![("base.hfs.part", &file[..len])]);
        }
        images.push(vec![(BASE_FILE, &file)]);
        for len in (0..=log.len()).step_by(log.len() / 5) {
            images.push(vec![(BASE_FILE, &file), ("blocks.log.part", &log[..len])]);
        }
        for (n, image) in images.iter().enumerate() {
            let dir = home.path().join(format!("cut{n}"));
            fs::create_dir_all(&dir).unwrap();
            for (name, bytes) in image {
                fs::write(dir.join(name), bytes).unwrap();
            }
            // An index that was begun and not finished.
            if n % 3 == 0 {
                let meta = Meta::genesis(
                    id,
                    Mark {
                        height: 0,
                        offset: 0,
                        end: 0,
                        digest: [0; 32],
                    },
                    0,
                );
                drop(Store::begin(Place::Folder(&store::index_dir(&dir)), meta).unwrap());
            }
            run(&dir).unwrap_or_else(|e| panic!("image {n}: {e}"));
            assert_eq!(open(&dir, &genesis).unwrap().tip(), tip, "image {n}");
            fs::remove_dir_all(&dir).unwrap();
        }
        // The log is there, so the folder is a chain; its index may be missing, begun or of another moment.
        for begun in [false, true] {
            fs::remove_dir_all(store::index_dir(&whole)).unwrap();
            if begun {
                let meta = Meta::genesis(
                    id,
                    Mark {
                        height: 5,
                        offset: 0,
                        end: 0,
                        digest: [0; 32],
                    },
                    0,
                );
                drop(Store::begin(Place::Folder(&store::index_dir(&whole)), meta).unwrap());
            }
            assert_eq!(open(&whole, &genesis).unwrap().tip(), tip);
        }
        // A log without its base record never was renamed into place by us.
        for len in [log.len() - 1, log.len() - 40, log.len() / 2] {
            fs::write(whole.join("blocks.log"), &log[..len]).unwrap();
            assert!(open(&whole, &genesis).is_err(), "log cut to {len}");
        }
    }

    #[test]
    fn a_chain_of_one_block_has_no_snapshot_yet() {
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path(), &genesis(3)).unwrap();
        advance(&ledger, 1);
        let mut out = vec![];
        assert!(matches!(
            export(&ledger, &mut out, &mut |_| ()),
            Err(SnapshotError::NotYet(_))
        ));
    }
}
