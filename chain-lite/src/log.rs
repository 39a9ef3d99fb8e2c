//! The block log: the one truth on disk. Append-only, hash-chained, fsynced; everything else can be rebuilt from it.
//!
//! Walk: [`crate::ledger`] appends a block and its certificate here before anything else knows of it; at start it
//! reads the log back and rebuilds or advances the sled index. An *export* is the same records with an end mark.
//!
//! ```text
//! file   = magic 8 ("HFBLOG01" | "HFBLOG02" | "HFEXPT01") ‖ chain id 32 ‖ salt 16 ‖ check 8
//! record = "HFBK" ‖ len u32le ‖ height u64le ‖ check 8 ‖ payload len ‖ digest 32
//! end    = "HFED" ‖ 0   u32le ‖ tip    u64le ‖ check 8 ‖ digest of the last record 32        (exports only)
//! check  = first 8 bytes of SHA-256("holdfast/log/head/v1" ‖ salt ‖ the 16 bytes before)      (file: 56 bytes before)
//! digest = SHA-256("holdfast/log/record/v1" ‖ digest of the record before ‖ len ‖ height ‖ payload)
//! ```
//! Record 0 is the genesis, so a file explains itself; record `h` is block `h`. A log that begins at a snapshot (`HFBLOG02`,
//! [`crate::snapshot`]) has one record between genesis and its first block: of the snapshot's height, with its *base*. The byte that makes a block final is
//! the last byte of its digest, once `sync` has returned. The salt is random per file, so that no payload can contain
//! something that looks like a later record.
//!
//! Crash: an append that did not finish leaves a *torn tail*, which [`BlockLog::open`] cuts and reports; a file whose creation did
//! not finish is made anew. A broken record
//! with a valid head after it, or below the height the index knows to be durable, is *damage* and never cut: the error
//! names the height. After a failed write or sync the log refuses everything until it is reopened; a sync is never
//! repeated, because the kernel may have dropped the pages (`tm_h5`).
//! Cost: one append and one fdatasync per block; 64 bytes of framing a record.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

/// Magic of a node's own log.
const MAGIC_LOG: &[u8; 8] = b"HFBLOG01";
/// Magic of a node's own log that begins at a snapshot.
const MAGIC_BASED: &[u8; 8] = b"HFBLOG02";
/// Magic of an export.
const MAGIC_EXPORT: &[u8; 8] = b"HFEXPT01";
const MAGIC_RECORD: &[u8; 4] = b"HFBK";
const MAGIC_END: &[u8; 4] = b"HFED";
const FILE_HEAD: u64 = 64;
const RECORD_HEAD: usize = 24;
const DIGEST: usize = 32;
/// Largest payload of one record; refused before anything is allocated.
pub const MAX_PAYLOAD: usize = 16 << 20;

/// What can be wrong with a log or an export.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk refused; the log must be reopened.
    #[error(
        "block log: {op} failed: {source}. Free space or repair the disk, then start again: nothing acknowledged is lost"
    )]
    Io {
        /// What was being done.
        op: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// An earlier write failed; this handle does nothing any more.
    #[error("the block log stopped after a failed write and must be reopened (restart the node)")]
    Stopped,
    /// The first bytes are not those of a log or export.
    #[error("{0}")]
    NotALog(String),
    /// The file belongs to another network.
    #[error(
        "this file belongs to chain {found}, not to chain {expected}; give the right --home or the right genesis"
    )]
    WrongChain {
        /// Chain id asked for.
        expected: String,
        /// Chain id in the file.
        found: String,
    },
    /// A record that was once complete does not read back.
    #[error(
        "block log damaged at height {height} (byte {offset}): {cause}. Restore the file from a copy or an export"
    )]
    Damaged {
        /// Height of the broken record.
        height: u64,
        /// Where it begins.
        offset: u64,
        /// What does not fit.
        cause: String,
    },
    /// An export ends before its end mark.
    #[error(
        "the export ends at height {height} without its end mark: it is truncated or was interrupted; export again"
    )]
    Truncated {
        /// Last complete height, if any.
        height: u64,
    },
    /// More than [`MAX_PAYLOAD`], or a height out of order: a mistake of the caller.
    #[error("block log: {0}")]
    Caller(String),
}

fn io_error(op: &'static str) -> impl FnOnce(io::Error) -> LogError {
    move |source| LogError::Io { op, source }
}

/// The few things a log asks of a disk; tests put failing disks behind it.
pub trait Disk: Send + Sync {
    /// Length in bytes, written but not yet synced ones included.
    fn len(&self) -> io::Result<u64>;
    /// Whether nothing was ever written.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Reads up to `buf.len()` bytes at `offset`; 0 at the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Writes all bytes at the end.
    fn append(&self, bytes: &[u8]) -> io::Result<()>;
    /// Returns once everything appended survives a power cut.
    fn sync(&self) -> io::Result<()>;
    /// Cuts the file.
    fn truncate(&self, len: u64) -> io::Result<()>;
}

/// A real file.
pub struct FileDisk {
    write: File,
    read: Mutex<File>,
}

impl FileDisk {
    /// Opens or creates `path`; a new file's directory entry is made durable too.
    pub fn open(path: &Path) -> io::Result<Self> {
        let write = OpenOptions::new().create(true).append(true).open(path)?;
        let read = Mutex::new(File::open(path)?);
        sync_dir(path)?;
        Ok(Self { write, read })
    }
}

/// Makes the directory entry of `path` durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) if dir.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

impl Disk for FileDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.write.metadata()?.len())
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        // A poisoned lock only means that another reader panicked; the file position is set anew anyway.
        let mut file = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(offset))?;
        file.read(buf)
    }
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.write).write_all(bytes)
    }
    fn sync(&self) -> io::Result<()> {
        self.write.sync_data()
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.write.set_len(len)
    }
}

/// Where a record stands, and the digest that chains the next one to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, borsh::BorshSerialize, borsh::BorshDeserialize)]
pub struct Mark {
    /// Height of the record.
    pub height: u64,
    /// First byte of the record.
    pub offset: u64,
    /// First byte after it.
    pub end: u64,
    /// Its digest.
    pub digest: [u8; 32],
}

/// What [`BlockLog::open`] found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Bytes of an unfinished append that were cut.
    pub cut_bytes: u64,
    /// Height that was being written when the node stopped, if a tail was cut.
    pub cut_height: Option<u64>,
    /// Records whose digest was checked now.
    pub checked: u64,
}

/// A log open for appending.
pub struct BlockLog {
    disk: Arc<dyn Disk>,
    salt: [u8; 16],
    based: bool,
    tip: Mark,
    stopped: bool,
}

impl BlockLog {
    /// Opens or creates a log whose record 0 is `genesis`.
    ///
    /// `known` is the newest record that the index saw committed: damage at or below it is never mistaken for a torn
    /// tail. With `check_all` every record is checked and passed to `seen`; otherwise only those after `known`.
    pub fn open(
        disk: Arc<dyn Disk>,
        chain_id: [u8; 32],
        genesis: &[u8],
        known: Option<Mark>,
        check_all: bool,
        seen: &mut dyn FnMut(Mark, &[u8]),
    ) -> Result<(Self, OpenReport), LogError> {
        if is_begun_at_most(&*disk, genesis)? {
            return Self::create(disk, chain_id, genesis, known);
        }
        let (kind, found, salt) = read_file_head(&*disk)?;
        let based = kind == MAGIC_BASED;
        if kind == MAGIC_EXPORT {
            return Err(LogError::NotALog(
                "this is an export, not a node's own log; use it with `holdfast chain` or `audit`"
                    .into(),
            ));
        }
        if found != chain_id {
            return Err(wrong_chain(chain_id, found));
        }
        let reader = LogReader {
            disk: disk.clone(),
            salt,
            based,
        };
        let mut report = OpenReport::default();
        let mut cursor = reader.start(chain_id);
        if let (Some(mark), false) = (known, check_all) {
            cursor = reader.resume(mark)?;
        }
        let tip = loop {
            match cursor.next()? {
                Step::Record { mark, payload } => {
                    report.checked += 1;
                    if mark.height == 0 && payload != genesis {
                        return Err(damaged(
                            0,
                            mark.offset,
                            "the genesis record differs from this chain's genesis",
                        ));
                    }
                    if let Some(known) = known.filter(|k| k.height == mark.height && *k != mark) {
                        return Err(damaged(
                            known.height,
                            mark.offset,
                            "the index remembers another block here",
                        ));
                    }
                    seen(mark, &payload);
                }
                Step::Broken {
                    height,
                    offset,
                    cause,
                } => {
                    reader.refuse_damage(height, offset, &cause, known)?;
                    if based && height <= 1 {
                        // Written whole with the file, before anything was acknowledged or could be torn.
                        return Err(damaged(height, offset, &cause));
                    }
                    let len = disk.len().map_err(io_error("reading its length"))?;
                    disk.truncate(offset)
                        .map_err(io_error("cutting the torn tail"))?;
                    disk.sync().map_err(io_error("syncing the cut"))?;
                    report.cut_bytes = len - offset;
                    report.cut_height = Some(height);
                    break cursor.last;
                }
                Step::End => break cursor.last,
            }
        };
        if let Some(tip) = tip.filter(|tip| based && tip.height == 0) {
            return Err(damaged(1, tip.end, "the record of its snapshot is missing"));
        }
        match tip {
            Some(tip) => {
                if let Some(known) = known.filter(|k| k.height > tip.height) {
                    return Err(damaged(
                        tip.height + 1,
                        tip.end,
                        &format!(
                            "the file ends, but the index saw block {} committed",
                            known.height
                        ),
                    ));
                }
                Ok((
                    Self {
                        disk,
                        salt,
                        based,
                        tip,
                        stopped: false,
                    },
                    report,
                ))
            }
            // Only the very creation was interrupted: no block can have been acknowledged.
            None => Self::create(disk, chain_id, genesis, known),
        }
    }

    fn create(
        disk: Arc<dyn Disk>,
        chain_id: [u8; 32],
        genesis: &[u8],
        known: Option<Mark>,
    ) -> Result<(Self, OpenReport), LogError> {
        if let Some(known) = known.filter(|k| k.height > 0) {
            return Err(damaged(
                0,
                0,
                &format!(
                    "the file is empty or cut, but the index saw block {} committed",
                    known.height
                ),
            ));
        }
        let mut salt = [0; 16];
        rand::RngCore::fill_bytes(&mut rand::rngs::OsRng, &mut salt);
        disk.truncate(0)
            .map_err(io_error("clearing an unfinished file"))?;
        let mut bytes = file_head(MAGIC_LOG, chain_id, salt);
        let mut tip = start_mark(chain_id);
        tip = push_record(&mut bytes, FILE_HEAD, &salt, tip.digest, 0, genesis)?;
        disk.append(&bytes)
            .map_err(io_error("writing the genesis record"))?;
        disk.sync()
            .map_err(io_error("syncing the genesis record"))?;
        Ok((
            Self {
                disk,
                salt,
                based: false,
                tip,
                stopped: false,
            },
            OpenReport {
                checked: 1,
                ..Default::default()
            },
        ))
    }

    /// The newest record.
    pub fn tip(&self) -> Mark {
        self.tip
    }

    /// A handle for reading, usable from other threads.
    pub fn reader(&self) -> LogReader {
        LogReader {
            disk: self.disk.clone(),
            salt: self.salt,
            based: self.based,
        }
    }

    /// The bytes of a log that begins at a snapshot of block `height`, and the mark of its base record.
    pub(crate) fn based(
        chain_id: [u8; 32],
        genesis: &[u8],
        height: u64,
        base: &[u8],
    ) -> Result<(Vec<u8>, Mark), LogError> {
        if height == 0 {
            return Err(LogError::Caller("a snapshot is of block 1 or later".into()));
        }
        let mut salt = [0; 16];
        rand::RngCore::fill_bytes(&mut rand::rngs::OsRng, &mut salt);
        let mut bytes = file_head(MAGIC_BASED, chain_id, salt);
        let start = start_mark(chain_id).digest;
        let first = push_record(&mut bytes, FILE_HEAD, &salt, start, 0, genesis)?;
        let mark = push_record(&mut bytes, first.end, &salt, first.digest, height, base)?;
        Ok((bytes, mark))
    }

    /// Appends block `height` and returns once it is durable.
    ///
    /// Any error from the disk stops this log for good.
    pub fn append(&mut self, height: u64, payload: &[u8]) -> Result<Mark, LogError> {
        if self.stopped {
            return Err(LogError::Stopped);
        }
        if height != self.tip.height + 1 {
            return Err(LogError::Caller(format!(
                "block {height} cannot follow block {}",
                self.tip.height
            )));
        }
        let mut bytes = Vec::with_capacity(RECORD_HEAD + payload.len() + DIGEST);
        let mark = push_record(
            &mut bytes,
            self.tip.end,
            &self.salt,
            self.tip.digest,
            height,
            payload,
        )?;
        self.stopped = true;
        self.disk
            .append(&bytes)
            .map_err(io_error("appending a block"))?;
        self.disk.sync().map_err(io_error("syncing a block"))?;
        self.stopped = false;
        self.tip = mark;
        Ok(mark)
    }
}

/// Reads records of a log that is being appended to.
#[derive(Clone)]
pub struct LogReader {
    disk: Arc<dyn Disk>,
    salt: [u8; 16],
    based: bool,
}

impl LogReader {
    /// The payload of the record at `offset`, checked against its own digest and the digest before it.
    pub fn read(&self, height: u64, offset: u64) -> Result<Vec<u8>, LogError> {
        let before = if height == 0 {
            let (_, chain_id, _) = read_file_head(&*self.disk)?;
            start_mark(chain_id).digest
        } else {
            let mut digest = [0; DIGEST];
            let at = offset.saturating_sub(DIGEST as u64);
            if !read_full(&*self.disk, at, &mut digest)? {
                return Err(damaged(
                    height,
                    offset,
                    "the file is shorter than the index says",
                ));
            }
            digest
        };
        let last = Mark {
            height: height.wrapping_sub(1),
            offset: 0,
            end: offset,
            digest: before,
        };
        let mut cursor = Cursor {
            reader: self.clone(),
            next: height,
            at: offset,
            digest: before,
            last: Some(last),
            export: false,
        };
        match cursor.next()? {
            Step::Record { payload, .. } => Ok(payload),
            Step::Broken {
                height,
                offset,
                cause,
            } => Err(damaged(height, offset, &cause)),
            Step::End => Err(damaged(height, offset, "the file ends before it")),
        }
    }

    /// All records after `known` (from the genesis record on when `None`), for replay. Ends before the first broken one,
    /// which [`BlockLog::open`] has cut or refused.
    pub fn records(&self, chain_id: [u8; 32], known: Option<Mark>) -> Result<Records, LogError> {
        Ok(Records(match known {
            Some(mark) => self.resume(mark)?,
            None => self.start(chain_id),
        }))
    }

    /// The record of the snapshot at which this log begins, if it does.
    pub fn base(&self, chain_id: [u8; 32]) -> Result<Option<(Mark, Vec<u8>)>, LogError> {
        if !self.based {
            return Ok(None);
        }
        self.records(chain_id, None)?.nth(1).transpose()
    }

    fn start(&self, chain_id: [u8; 32]) -> Cursor {
        let digest = start_mark(chain_id).digest;
        Cursor {
            reader: self.clone(),
            next: 0,
            at: FILE_HEAD,
            digest,
            last: None,
            export: false,
        }
    }

    /// Continues after a record that the index remembers, once the record itself has been read back.
    fn resume(&self, known: Mark) -> Result<Cursor, LogError> {
        self.read(known.height, known.offset)?;
        let mut digest = [0; DIGEST];
        let found = read_full(
            &*self.disk,
            known.end.saturating_sub(DIGEST as u64),
            &mut digest,
        )?;
        if !found || digest != known.digest {
            return Err(damaged(
                known.height,
                known.offset,
                "the index remembers another block here",
            ));
        }
        Ok(Cursor {
            reader: self.clone(),
            next: known.height + 1,
            at: known.end,
            digest,
            last: Some(known),
            export: false,
        })
    }

    /// Decides whether a broken record is the trace of an unfinished append or the loss of a finished one.
    fn refuse_damage(
        &self,
        height: u64,
        offset: u64,
        cause: &str,
        known: Option<Mark>,
    ) -> Result<(), LogError> {
        if known.is_some_and(|k| k.height >= height) {
            return Err(damaged(height, offset, cause));
        }
        match self.find_head_after(offset + 1, height)? {
            Some(later) => Err(damaged(
                height,
                offset,
                &format!("{cause}; block {later} after it is there"),
            )),
            None => Ok(()),
        }
    }

    /// The height of the first valid record head after `from` that belongs to a later height.
    fn find_head_after(&self, from: u64, height: u64) -> Result<Option<u64>, LogError> {
        const WINDOW: usize = 1 << 20;
        let mut at = from;
        let mut buf = vec![0; WINDOW];
        loop {
            let got = read_some(&*self.disk, at, &mut buf)?;
            for i in 0..got.saturating_sub(RECORD_HEAD - 1) {
                let head = &buf[i..i + RECORD_HEAD];
                if let Some(found) =
                    parse_head(MAGIC_RECORD, &self.salt, head).filter(|f| f.height > height)
                {
                    return Ok(Some(found.height));
                }
            }
            if got < WINDOW {
                return Ok(None);
            }
            at += (WINDOW - RECORD_HEAD + 1) as u64;
        }
    }

    /// Writes an export of records 0..=`tip.height` to `out`; returns bytes written. `progress` is told each height.
    pub fn export(
        &self,
        chain_id: [u8; 32],
        tip: Mark,
        out: &mut dyn Write,
        progress: &mut dyn FnMut(u64),
    ) -> Result<u64, LogError> {
        if self.based {
            return Err(LogError::NotALog(BEGINS_AT_SNAPSHOT.into()));
        }
        let mut export = ExportWriter::begin(out, chain_id)?;
        for record in self.records(chain_id, None)? {
            let (mark, payload) = record?;
            export.record(&payload)?;
            progress(mark.height);
            if mark.height == tip.height {
                return export.finish();
            }
        }
        Err(damaged(
            tip.height,
            tip.offset,
            "the log ends before its own tip",
        ))
    }
}

/// Writes an export record by record: from a log, or from blocks that a node sends.
pub struct ExportWriter<'a> {
    out: &'a mut dyn Write,
    last: Option<Mark>,
    digest: [u8; 32],
    written: u64,
}

impl<'a> ExportWriter<'a> {
    /// An export's salt is fixed: the same chain gives the same file.
    const SALT: [u8; 16] = [0; 16];

    /// Writes the file's head.
    pub fn begin(out: &'a mut dyn Write, chain_id: [u8; 32]) -> Result<Self, LogError> {
        let digest = start_mark(chain_id).digest;
        let mut export = Self {
            out,
            last: None,
            digest,
            written: 0,
        };
        export.put(&file_head(MAGIC_EXPORT, chain_id, Self::SALT))?;
        Ok(export)
    }

    /// Writes the next record: the genesis first, then block after block.
    pub fn record(&mut self, payload: &[u8]) -> Result<(), LogError> {
        let height = self.last.map_or(0, |m| m.height + 1);
        let mut bytes = Vec::with_capacity(RECORD_HEAD + payload.len() + DIGEST);
        let mark = push_record(
            &mut bytes,
            self.written,
            &Self::SALT,
            self.digest,
            height,
            payload,
        )?;
        self.put(&bytes)?;
        (self.last, self.digest) = (Some(mark), mark.digest);
        Ok(())
    }

    /// Writes the end mark; returns the bytes of the whole file. The caller syncs what it owns.
    pub fn finish(mut self) -> Result<u64, LogError> {
        let last = self
            .last
            .ok_or_else(|| LogError::Caller("an export needs its genesis".into()))?;
        self.put(&record_head(MAGIC_END, &Self::SALT, 0, last.height))?;
        self.put(&last.digest)?;
        self.out.flush().map_err(io_error("writing the export"))?;
        Ok(self.written)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        self.written += bytes.len() as u64;
        self.out
            .write_all(bytes)
            .map_err(io_error("writing the export"))
    }
}

/// Reads an export or a copied log from beginning to end, trusting nothing.
pub struct ChainFile {
    cursor: Cursor,
    path: PathBuf,
    /// The chain the file claims; the caller compares it with the hash of record 0.
    pub chain_id: [u8; 32],
    /// An export carries an end mark; a copied log may end with any complete record.
    pub is_export: bool,
    /// Whether its blocks begin at a snapshot: the record after genesis is the snapshot's, and nobody can replay it from genesis.
    pub begins_at_snapshot: bool,
}

/// What is said of a chain file that cannot be replayed from genesis.
pub(crate) const BEGINS_AT_SNAPSHOT: &str = "this log begins at a snapshot and does not hold the blocks before it; ask a node that has the whole chain for an export";

impl ChainFile {
    /// Opens `path` for reading only.
    pub fn open(path: &Path) -> Result<Self, LogError> {
        let name = path.display();
        let file = File::open(path).map_err(io_error("opening the chain file"))?;
        if !file
            .metadata()
            .map_err(io_error("opening the chain file"))?
            .is_file()
        {
            return Err(LogError::NotALog(format!(
                "{name} is not a file; give the export or blocks.log itself"
            )));
        }
        let disk: Arc<dyn Disk> = Arc::new(ReadOnly(Mutex::new(file)));
        let (kind, chain_id, salt) = read_file_head(&*disk).map_err(|e| match e {
            LogError::NotALog(why) => LogError::NotALog(format!("{name}: {why}")),
            other => other,
        })?;
        let is_export = kind == MAGIC_EXPORT;
        let based = kind == MAGIC_BASED;
        let mut cursor = LogReader { disk, salt, based }.start(chain_id);
        cursor.export = is_export;
        Ok(Self {
            cursor,
            path: path.to_owned(),
            chain_id,
            is_export,
            begins_at_snapshot: based,
        })
    }

    /// The file's path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length in bytes, for progress.
    pub fn len_bytes(&self) -> Result<u64, LogError> {
        self.cursor
            .reader
            .disk
            .len()
            .map_err(io_error("reading its length"))
    }

    /// As [`Self::next_record`], for a log that a node may be writing to right now: an unfinished last record is the end.
    pub fn next_finished_record(&mut self) -> Result<Option<(Mark, Vec<u8>)>, LogError> {
        match self.cursor.next()? {
            Step::Record { mark, payload } => Ok(Some((mark, payload))),
            Step::End => Ok(None),
            Step::Broken {
                height,
                offset,
                cause,
            } => {
                self.cursor
                    .reader
                    .refuse_damage(height, offset, &cause, None)?;
                Ok(None)
            }
        }
    }

    /// The next record, or `None` after the last one. A torn or damaged record is an error that names its height.
    pub fn next_record(&mut self) -> Result<Option<(Mark, Vec<u8>)>, LogError> {
        match self.cursor.next()? {
            Step::Record { mark, payload } => Ok(Some((mark, payload))),
            Step::End => Ok(None),
            Step::Broken {
                height,
                offset,
                cause,
            } => {
                let at_end = offset.saturating_add(RECORD_HEAD as u64) > self.len_bytes()?;
                if self.is_export && at_end {
                    return Err(LogError::Truncated {
                        height: height.saturating_sub(1),
                    });
                }
                Err(damaged(height, offset, &cause))
            }
        }
    }
}

/// Records of a node's own log, in order.
pub struct Records(Cursor);

impl Iterator for Records {
    type Item = Result<(Mark, Vec<u8>), LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.0.next() {
            Ok(Step::Record { mark, payload }) => Some(Ok((mark, payload))),
            Ok(Step::End) => None,
            Ok(Step::Broken {
                height,
                offset,
                cause,
            }) => Some(Err(damaged(height, offset, &cause))),
            Err(e) => Some(Err(e)),
        }
    }
}

struct ReadOnly(Mutex<File>);

impl Disk for ReadOnly {
    fn len(&self) -> io::Result<u64> {
        Ok(self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .metadata()?
            .len())
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(offset))?;
        file.read(buf)
    }
    fn append(&self, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn truncate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

enum Step {
    Record {
        mark: Mark,
        payload: Vec<u8>,
    },
    Broken {
        height: u64,
        offset: u64,
        cause: String,
    },
    End,
}

/// Walks records in order; stays in front of the first broken one.
struct Cursor {
    reader: LogReader,
    next: u64,
    at: u64,
    digest: [u8; 32],
    last: Option<Mark>,
    export: bool,
}

impl Cursor {
    fn next(&mut self) -> Result<Step, LogError> {
        let disk = &*self.reader.disk;
        let (height, offset) = (self.next, self.at);
        let broken_at = |height: u64, cause: &str| {
            Ok(Step::Broken {
                height,
                offset,
                cause: cause.into(),
            })
        };
        let broken = |cause: &str| broken_at(height, cause);
        let mut head = [0; RECORD_HEAD];
        let got = read_some(disk, offset, &mut head)?;
        if got == 0 && !self.export {
            return Ok(Step::End);
        }
        if got < RECORD_HEAD {
            return broken("its head is incomplete");
        }
        if self.export
            && let Some(end) = parse_head(MAGIC_END, &self.reader.salt, &head)
        {
            return self.end_mark(end.height, offset);
        }
        let Some(found) = parse_head(MAGIC_RECORD, &self.reader.salt, &head) else {
            return broken("its head does not match its check");
        };
        // A log that begins at a snapshot goes on from genesis to the snapshot's height.
        let height = match self.reader.based && height == 1 && found.height > 0 {
            true => found.height,
            false => height,
        };
        let broken = |cause: &str| broken_at(height, cause);
        if found.height != height {
            return broken(&format!("it claims to be block {}", found.height));
        }
        if found.len > MAX_PAYLOAD {
            return broken(&format!(
                "it claims {} bytes, more than any block has",
                found.len
            ));
        }
        // Compare with the file's length before allocating what the head claims.
        let end = offset + (RECORD_HEAD + found.len + DIGEST) as u64;
        if end > disk.len().map_err(io_error("reading its length"))? {
            return broken("the file ends inside it");
        }
        let mut payload = vec![0; found.len + DIGEST];
        if !read_full(disk, offset + RECORD_HEAD as u64, &mut payload)? {
            return broken("the file ends inside it");
        }
        let stored: [u8; 32] = payload
            .split_off(found.len)
            .try_into()
            .expect("exactly one digest was read");
        if record_digest(&self.digest, height, &payload) != stored {
            return broken("its bytes do not match its digest");
        }
        let mark = Mark {
            height,
            offset,
            end,
            digest: stored,
        };
        (self.next, self.at, self.digest, self.last) = (height + 1, end, stored, Some(mark));
        Ok(Step::Record { mark, payload })
    }

    fn end_mark(&mut self, height: u64, offset: u64) -> Result<Step, LogError> {
        let disk = &*self.reader.disk;
        let mut digest = [0; DIGEST + 1];
        let got = read_some(disk, offset + RECORD_HEAD as u64, &mut digest)?;
        let cause = match self.last {
            _ if got < DIGEST => "the end mark is incomplete",
            _ if got > DIGEST => "there are bytes after the end mark",
            Some(last) if last.height == height && digest[..DIGEST] == last.digest => {
                return Ok(Step::End);
            }
            _ => "the end mark names another last block",
        };
        Ok(Step::Broken {
            height: self.next,
            offset,
            cause: cause.into(),
        })
    }
}

struct Head {
    len: usize,
    height: u64,
}

fn parse_head(magic: &[u8; 4], salt: &[u8; 16], head: &[u8]) -> Option<Head> {
    if head.len() < RECORD_HEAD
        || head[..4] != magic[..]
        || head[16..24] != check(salt, &head[..16])
    {
        return None;
    }
    let len = u32::from_le_bytes(head[4..8].try_into().ok()?) as usize;
    let height = u64::from_le_bytes(head[8..16].try_into().ok()?);
    Some(Head { len, height })
}

fn record_head(magic: &[u8; 4], salt: &[u8; 16], len: u32, height: u64) -> [u8; RECORD_HEAD] {
    let mut head = [0; RECORD_HEAD];
    head[..4].copy_from_slice(magic);
    head[4..8].copy_from_slice(&len.to_le_bytes());
    head[8..16].copy_from_slice(&height.to_le_bytes());
    let sum = check(salt, &head[..16]);
    head[16..].copy_from_slice(&sum);
    head
}

fn push_record(
    out: &mut Vec<u8>,
    offset: u64,
    salt: &[u8; 16],
    before: [u8; 32],
    height: u64,
    payload: &[u8],
) -> Result<Mark, LogError> {
    if payload.len() > MAX_PAYLOAD {
        return Err(LogError::Caller(format!(
            "a record of {} bytes exceeds {MAX_PAYLOAD}",
            payload.len()
        )));
    }
    let digest = record_digest(&before, height, payload);
    out.extend_from_slice(&record_head(
        MAGIC_RECORD,
        salt,
        payload.len() as u32,
        height,
    ));
    out.extend_from_slice(payload);
    out.extend_from_slice(&digest);
    let end = offset + (RECORD_HEAD + payload.len() + DIGEST) as u64;
    Ok(Mark {
        height,
        offset,
        end,
        digest,
    })
}

fn record_digest(before: &[u8; 32], height: u64, payload: &[u8]) -> [u8; 32] {
    let mut sha = Sha256::new();
    sha.update(b"holdfast/log/record/v1");
    sha.update(before);
    sha.update((payload.len() as u32).to_le_bytes());
    sha.update(height.to_le_bytes());
    sha.update(payload);
    sha.finalize().into()
}

fn check(salt: &[u8; 16], bytes: &[u8]) -> [u8; 8] {
    let mut sha = Sha256::new();
    sha.update(b"holdfast/log/head/v1");
    sha.update(salt);
    sha.update(bytes);
    sha.finalize()[..8]
        .try_into()
        .expect("a digest has at least 8 bytes")
}

fn file_head(magic: &[u8; 8], chain_id: [u8; 32], salt: [u8; 16]) -> Vec<u8> {
    let mut head = Vec::with_capacity(FILE_HEAD as usize);
    head.extend_from_slice(magic);
    head.extend_from_slice(&chain_id);
    head.extend_from_slice(&salt);
    let sum = check(&salt, &head);
    head.extend_from_slice(&sum);
    head
}

/// Whether only the creation of this file was begun: it has no head, and no room for a block. A disk may have written the later
/// sectors of a new file and not its first, which is zeros then.
fn is_begun_at_most(disk: &dyn Disk, genesis: &[u8]) -> Result<bool, LogError> {
    let len = disk.len().map_err(io_error("reading its length"))?;
    let created = FILE_HEAD + (RECORD_HEAD + genesis.len() + DIGEST) as u64;
    if len < FILE_HEAD || len > created {
        return Ok(len < FILE_HEAD);
    }
    let mut head = [0; FILE_HEAD as usize];
    read_full(disk, 0, &mut head)?;
    Ok(head == [0; FILE_HEAD as usize])
}

fn read_file_head(disk: &dyn Disk) -> Result<(&'static [u8; 8], [u8; 32], [u8; 16]), LogError> {
    let mut head = [0; FILE_HEAD as usize];
    if !read_full(disk, 0, &mut head)? {
        return Err(LogError::NotALog(
            "the file is empty or too short to be a block log or an export".into(),
        ));
    }
    let kind = match &head[..8] {
        m if m == MAGIC_LOG => MAGIC_LOG,
        m if m == MAGIC_BASED => MAGIC_BASED,
        m if m == MAGIC_EXPORT => MAGIC_EXPORT,
        m if m[..5] == MAGIC_LOG[..5] || m[..5] == MAGIC_EXPORT[..5] => {
            return Err(LogError::NotALog(
                "the file has a format version that this program does not know".into(),
            ));
        }
        _ => {
            return Err(LogError::NotALog(
                "the file is neither a block log nor an export".into(),
            ));
        }
    };
    let chain_id = head[8..40].try_into().expect("32 bytes of the head");
    let salt: [u8; 16] = head[40..56].try_into().expect("16 bytes of the head");
    if head[56..] != check(&salt, &head[..56]) {
        return Err(damaged(0, 0, "the file head does not match its check"));
    }
    Ok((kind, chain_id, salt))
}

/// The mark "before record 0".
fn start_mark(chain_id: [u8; 32]) -> Mark {
    let digest = crate::merkle::digest(&[b"holdfast/log/start/v1", &chain_id]);
    Mark {
        height: 0,
        offset: 0,
        end: FILE_HEAD,
        digest,
    }
}

fn damaged(height: u64, offset: u64, cause: &str) -> LogError {
    LogError::Damaged {
        height,
        offset,
        cause: cause.into(),
    }
}

fn wrong_chain(expected: [u8; 32], found: [u8; 32]) -> LogError {
    LogError::WrongChain {
        expected: hex::encode(expected),
        found: hex::encode(found),
    }
}

/// Reads until `buf` is full or the file ends.
fn read_some(disk: &dyn Disk, offset: u64, buf: &mut [u8]) -> Result<usize, LogError> {
    let mut got = 0;
    while got < buf.len() {
        match disk.read_at(offset + got as u64, &mut buf[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(io_error("reading")(e)),
        }
    }
    Ok(got)
}

fn read_full(disk: &dyn Disk, offset: u64, buf: &mut [u8]) -> Result<bool, LogError> {
    Ok(read_some(disk, offset, buf)? == buf.len())
}

/// Any bytes as a chain file: every record is read or refused, and none is longer than the file. Body of the fuzz target.
pub fn fuzz_chain_file(bytes: &[u8]) {
    let disk: Arc<dyn Disk> = Arc::new(Bytes(bytes.to_vec()));
    let Ok((kind, chain_id, salt)) = read_file_head(&*disk) else {
        return;
    };
    let based = kind == MAGIC_BASED;
    let reader = LogReader { disk, salt, based };
    let mut cursor = reader.start(chain_id);
    cursor.export = kind == MAGIC_EXPORT;
    let mut heights = 0;
    loop {
        match cursor.next() {
            Ok(Step::Record { mark, payload }) => {
                assert!(
                    mark.end <= bytes.len() as u64
                        && payload.len() < bytes.len()
                        && (mark.height == heights || based && heights == 1 && mark.height > 0)
                );
                heights = mark.height + 1;
            }
            Ok(Step::Broken {
                height,
                offset,
                cause,
            }) => {
                let _ = reader.refuse_damage(height, offset, &cause, None);
                return;
            }
            Ok(Step::End) | Err(_) => return,
        }
    }
}

/// A file in memory that cannot be written.
struct Bytes(Vec<u8>);

impl Disk for Bytes {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let from = usize::try_from(offset).map_or(self.0.len(), |o| o.min(self.0.len()));
        let n = buf.len().min(self.0.len() - from);
        buf[..n].copy_from_slice(&self.0[from..from + n]);
        Ok(n)
    }
    fn append(&self, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn truncate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

/// Disks that fail on demand, for this module's tests and the ledger's.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Memory with a durable part and a part that a power cut loses.
    #[derive(Debug, Default)]
    pub struct MemDisk {
        pub bytes: Mutex<Vec<u8>>,
        pub durable: Mutex<usize>,
        /// Bytes that may still be appended before ENOSPC.
        pub space: Mutex<Option<usize>>,
        /// Syncs that still succeed before EIO.
        pub syncs: Mutex<Option<usize>>,
    }

    impl MemDisk {
        pub fn with(bytes: Vec<u8>) -> Arc<Self> {
            let durable = Mutex::new(bytes.len());
            Arc::new(Self {
                bytes: Mutex::new(bytes),
                durable,
                ..Default::default()
            })
        }
        pub fn snapshot(&self) -> Vec<u8> {
            self.bytes.lock().unwrap().clone()
        }
    }

    impl Disk for MemDisk {
        fn len(&self) -> io::Result<u64> {
            Ok(self.bytes.lock().unwrap().len() as u64)
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
            let bytes = self.bytes.lock().unwrap();
            let from = (offset as usize).min(bytes.len());
            let n = buf.len().min(bytes.len() - from);
            buf[..n].copy_from_slice(&bytes[from..from + n]);
            Ok(n)
        }
        fn append(&self, new: &[u8]) -> io::Result<()> {
            let mut space = self.space.lock().unwrap();
            let fits = space.map_or(new.len(), |s| s.min(new.len()));
            self.bytes.lock().unwrap().extend_from_slice(&new[..fits]);
            if let Some(space) = space.as_mut() {
                *space -= fits;
            }
            if fits < new.len() {
                Err(io::ErrorKind::StorageFull.into())
            } else {
                Ok(())
            }
        }
        fn sync(&self) -> io::Result<()> {
            if let Some(left) = self.syncs.lock().unwrap().as_mut() {
                if *left == 0 {
                    return Err(io::Error::other("EIO"));
                }
                *left -= 1;
            }
            *self.durable.lock().unwrap() = self.bytes.lock().unwrap().len();
            Ok(())
        }
        fn truncate(&self, len: u64) -> io::Result<()> {
            self.bytes.lock().unwrap().truncate(len as usize);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::MemDisk;
    use super::*;

    const CHAIN: [u8; 32] = [7; 32];
    const GENESIS: &[u8] = b"genesis bytes";

    fn open(
        disk: Arc<MemDisk>,
        known: Option<Mark>,
    ) -> Result<(BlockLog, OpenReport, Vec<Vec<u8>>), LogError> {
        let mut seen = vec![];
        let (log, report) = BlockLog::open(disk, CHAIN, GENESIS, known, true, &mut |_, p| {
            seen.push(p.to_vec())
        })?;
        Ok((log, report, seen))
    }

    fn block(h: u64) -> Vec<u8> {
        vec![h as u8; 10 + h as usize]
    }

    fn filled(blocks: u64) -> (Arc<MemDisk>, Vec<Mark>) {
        let disk = MemDisk::with(vec![]);
        let (mut log, ..) = open(disk.clone(), None).unwrap();
        let mut marks = vec![log.tip()];
        for h in 1..=blocks {
            marks.push(log.append(h, &block(h)).unwrap());
        }
        (disk, marks)
    }

    #[test]
    fn what_was_appended_is_read_back() {
        let (disk, marks) = filled(5);
        let (log, report, seen) = open(disk, Some(marks[5])).unwrap();
        assert_eq!((log.tip(), report.cut_bytes, seen.len()), (marks[5], 0, 6));
        assert_eq!(seen[3], block(3));
        for mark in marks.iter().skip(1) {
            assert_eq!(
                log.reader().read(mark.height, mark.offset).unwrap(),
                block(mark.height)
            );
        }
        assert_eq!(log.reader().read(0, marks[0].offset).unwrap(), GENESIS);
    }

    #[test]
    fn tm_h1_a_cut_at_every_byte_of_the_last_record_leaves_the_same_chain() {
        let (disk, marks) = filled(3);
        let whole = disk.snapshot();
        for len in marks[3].offset..marks[3].end {
            let mut image = whole.clone();
            image.truncate(len as usize);
            for zeros in [0, 7, 4096] {
                // A file system may have grown the file before the data reached it.
                let mut image = image.clone();
                image.resize(image.len() + zeros, 0);
                let disk = MemDisk::with(image);
                let (mut log, report, seen) = open(disk.clone(), Some(marks[2])).unwrap();
                assert_eq!((log.tip(), seen.len()), (marks[2], 3), "cut at {len}");
                assert_eq!(report.cut_bytes, len - marks[3].offset + zeros as u64);
                assert_eq!(log.append(3, &block(3)).unwrap(), marks[3]);
                assert_eq!(open(disk, None).unwrap().0.tip(), marks[3]);
            }
        }
    }

    #[test]
    fn tm_h1_an_interrupted_creation_starts_again() {
        let (disk, _) = filled(0);
        let whole = disk.snapshot();
        for len in 0..whole.len() {
            let (log, ..) = open(MemDisk::with(whole[..len].to_vec()), None).unwrap();
            assert_eq!(log.tip().height, 0);
        }
        // The later sectors are there, and the first is not.
        let head = FILE_HEAD as usize;
        for len in head..=whole.len() {
            let image = [&vec![0; head][..], &whole[head..len]].concat();
            let (log, ..) = open(MemDisk::with(image), None).unwrap();
            assert_eq!(log.tip().height, 0);
        }
        // What may hold a block is never taken for one.
        let (disk, _) = filled(1);
        let mut image = disk.snapshot();
        image[..head].fill(0);
        assert!(open(MemDisk::with(image), None).is_err());
    }

    #[test]
    fn tm_h3_a_flipped_bit_in_the_middle_names_its_height() {
        let (disk, marks) = filled(4);
        let whole = disk.snapshot();
        for at in FILE_HEAD..marks[3].end {
            let mut image = whole.clone();
            image[at as usize] ^= 0x10;
            let height = marks.iter().find(|m| at < m.end).unwrap().height;
            match open(MemDisk::with(image), None).map(|r| r.1) {
                Err(LogError::Damaged { height: named, .. }) => {
                    assert_eq!(named, height, "byte {at}")
                }
                other => panic!("byte {at}: {other:?}"),
            }
        }
        for at in 0..FILE_HEAD {
            let mut image = whole.clone();
            image[at as usize] ^= 0x10;
            assert!(
                open(MemDisk::with(image), None).is_err(),
                "byte {at} of the file head"
            );
        }
    }

    #[test]
    fn tm_h3_a_flip_in_the_last_block_is_not_taken_for_a_torn_tail_when_the_index_saw_it() {
        let (disk, marks) = filled(4);
        let whole = disk.snapshot();
        for at in marks[4].offset..marks[4].end {
            let mut image = whole.clone();
            image[at as usize] ^= 1;
            assert!(matches!(
                open(MemDisk::with(image), Some(marks[4])),
                Err(LogError::Damaged { height: 4, .. })
            ));
        }
        let mut image = whole.clone();
        image.truncate(marks[4].offset as usize);
        assert!(matches!(
            open(MemDisk::with(image), Some(marks[4])),
            Err(LogError::Damaged { height: 4, .. })
        ));
        assert!(matches!(
            open(MemDisk::with(vec![]), Some(marks[4])),
            Err(LogError::Damaged { .. })
        ));
    }

    #[test]
    fn a_known_tip_lets_the_check_begin_there() {
        let (disk, marks) = filled(50);
        let mut seen = 0;
        let (log, report) =
            BlockLog::open(disk, CHAIN, GENESIS, Some(marks[48]), false, &mut |_, _| {
                seen += 1
            })
            .unwrap();
        assert_eq!((log.tip(), report.checked, seen), (marks[50], 2, 2));
    }

    #[test]
    fn tm_h4_a_full_disk_is_an_error_and_stops_the_log() {
        let (disk, marks) = filled(2);
        for space in 0..60 {
            let disk = MemDisk::with(disk.snapshot());
            let (mut log, ..) = open(disk.clone(), None).unwrap();
            *disk.space.lock().unwrap() = Some(space);
            assert!(matches!(log.append(3, &block(3)), Err(LogError::Io { .. })));
            *disk.space.lock().unwrap() = None;
            assert!(
                matches!(log.append(3, &block(3)), Err(LogError::Stopped)),
                "only a reopened log may go on"
            );
            let (mut log, ..) = open(disk, Some(marks[2])).unwrap();
            assert_eq!(log.append(3, &block(3)).unwrap().height, 3);
        }
    }

    #[test]
    fn tm_h5_a_failed_sync_is_never_repeated() {
        let (disk, _) = filled(2);
        let (mut log, ..) = open(disk.clone(), None).unwrap();
        *disk.syncs.lock().unwrap() = Some(0);
        assert!(matches!(log.append(3, &block(3)), Err(LogError::Io { .. })));
        *disk.syncs.lock().unwrap() = None;
        assert!(matches!(log.append(3, &block(3)), Err(LogError::Stopped)));
        assert_eq!(log.tip().height, 2, "the block was not acknowledged");
    }

    #[test]
    fn a_payload_cannot_pose_as_a_later_record() {
        // Heads of this file's own bytes, replayed inside a payload of another file, do not match its salt.
        let (disk, marks) = filled(3);
        let stolen = disk.snapshot()[marks[3].offset as usize..marks[3].end as usize].to_vec();
        let other = MemDisk::with(vec![]);
        let (mut log, ..) = open(other.clone(), None).unwrap();
        let mark = log.append(1, &stolen).unwrap();
        let mut image = other.snapshot();
        image.truncate(mark.end as usize - 1);
        assert_eq!(open(MemDisk::with(image), None).unwrap().0.tip().height, 0);
    }

    #[test]
    fn heights_go_up_by_one_and_sizes_are_limited() {
        let (disk, _) = filled(1);
        let (mut log, ..) = open(disk, None).unwrap();
        assert!(matches!(log.append(1, b"x"), Err(LogError::Caller(_))));
        assert!(matches!(log.append(3, b"x"), Err(LogError::Caller(_))));
        assert!(matches!(
            log.append(2, &vec![0; MAX_PAYLOAD + 1]),
            Err(LogError::Caller(_))
        ));
        assert!(
            log.append(2, b"x").is_ok(),
            "a caller's mistake does not stop the log"
        );
    }

    #[test]
    fn another_chain_or_genesis_is_refused() {
        let (disk, _) = filled(1);
        let open = |chain, genesis: &[u8]| {
            BlockLog::open(disk.clone(), chain, genesis, None, true, &mut |_, _| ()).map(|_| ())
        };
        assert!(matches!(
            open([8; 32], GENESIS),
            Err(LogError::WrongChain { .. })
        ));
        assert!(matches!(
            open(CHAIN, b"other"),
            Err(LogError::Damaged { height: 0, .. })
        ));
        assert!(open(CHAIN, GENESIS).is_ok());
    }

    fn exported(blocks: u64) -> Vec<u8> {
        let (disk, marks) = filled(blocks);
        let (log, ..) = open(disk, None).unwrap();
        let mut out = vec![];
        let written = log
            .reader()
            .export(CHAIN, marks[blocks as usize], &mut out, &mut |_| ())
            .unwrap();
        assert_eq!(written, out.len() as u64);
        out
    }

    fn read_all(bytes: &[u8]) -> Result<Vec<Vec<u8>>, LogError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let mut chain = ChainFile::open(file.path())?;
        let mut all = vec![];
        while let Some((_, payload)) = chain.next_record()? {
            all.push(payload);
        }
        Ok(all)
    }

    #[test]
    fn exports_read_back_and_no_truncation_or_flip_passes() {
        let whole = exported(3);
        let all = read_all(&whole).unwrap();
        assert_eq!(all, vec![GENESIS.to_vec(), block(1), block(2), block(3)]);
        for len in 0..whole.len() {
            assert!(read_all(&whole[..len]).is_err(), "truncated to {len}");
        }
        for at in 0..whole.len() {
            let mut image = whole.clone();
            image[at] ^= 4;
            assert!(read_all(&image).is_err(), "flipped at {at}");
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert!(read_all(&longer).is_err());
        assert!(matches!(read_all(b"{\"json\": true, \"padding\": \"................................................\"}"), Err(LogError::NotALog(_))));
    }

    #[test]
    fn the_format_is_pinned() {
        assert_eq!(hex::encode(crate::merkle::digest(&[&exported(2)])), PIN);
    }
    const PIN: &str = "00683e33aa08dabf718fda40bc5e4ecc3ddbc9f4f93a864bb6a611d6c0cfdeab";
}
