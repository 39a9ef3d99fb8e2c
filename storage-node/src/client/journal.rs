//! What a put must remember so that a kill at any instruction loses nothing and charges nothing twice.
//!
//! ```text
//! <home>/client/lock                      held while a command of this wallet moves money
//! <home>/client/puts/<file tag>/head      what is stored, for whom, with which key: written once, before anything else
//!                              /funding   the signed deposit, before it is submitted
//!                              /d-000000  one record per segment: roots, signed proposals, acknowledgements, stored?
//!                              /manifest  the sealed manifest, once all segments are stored
//!                              /m-000000  one record per part of the manifest
//!                              /verified  only where the deals are verified ones: written before the head
//!                              /done      object id and cost: the put is complete
//!                              /staged-…  shards on their way (not part of the journal: coded anew after a crash)
//! ```
//!
//! Each record is replaced whole and durably ([`super::record`]). The order is the safety argument:
//!
//! * a **proposal is durable before it is first sent**, so a resumed put sends the same bytes, and the chain takes one deal id once;
//! * a proposal is **replaced** (another provider) only when the first provider cannot publish it any more or cannot hold the whole
//!   piece ([`Attempt::given_up`] says so, durably, before the replacement is sent);
//! * the **deposit is durable before it is submitted**: resubmitting the same transaction is one transaction;
//! * `done` is written before *stored* is printed, and a second put of the same unchanged file finds it.
//!
//! Spec: `DESIGN.md` §6 promises 2 and 4, `threat-model.md` H1.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use borsh::{BorshDeserialize, BorshSerialize};
use chain_lite::account::{Address, ChainId, DealId};
use chain_lite::message::SignedProposal;
use chain_lite::units::{Epoch, EpochCount, TokenAmount};
use chain_lite::vfs::{OsVfs, Vfs};
use prover::CommP;

use super::ClientError;
use super::encode::{PlainMark, Stamp};
use super::record::RecordFile;
use crate::config::Home;
use crate::identity::create_private_dir;
use crate::object::cipher::NoncePrefix;
use crate::object::erasure::Scheme;
use crate::object::manifest::{FileTag, ObjectId, SealedManifest, WrappedKey};

/// Version of every record.
const VERSION: u16 = 1;

/// What is stored, for whom, how. Immutable.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Head {
    /// [`VERSION`].
    version: u16,
    /// Absolute path of the source, as text.
    pub source: String,
    /// What the source looked like.
    pub stamp: Stamp,
    /// Label for people.
    pub name: String,
    /// The paying account.
    pub account: Address,
    /// The chain.
    pub chain: ChainId,
    /// Data and parity shards.
    scheme: (u8, u8),
    /// Ciphertext bytes of a segment.
    pub segment_len: u64,
    /// How long deals run.
    pub duration: EpochCount,
    /// Seed of placement: a beacon output of the chain and the file tag.
    pub placement_seed: [u8; 32],
    /// Random part of the nonces.
    pub nonce_prefix: NoncePrefix,
    /// The file key, wrapped for the account.
    pub key: WrappedKey,
}

impl Head {
    /// A head for a new put.
    #[expect(
        clippy::too_many_arguments,
        reason = "one constructor, called once, every field named by its type"
    )]
    pub fn new(
        source: &Path,
        stamp: Stamp,
        name: String,
        account: Address,
        chain: ChainId,
        scheme: Scheme,
        segment_len: u64,
        duration: EpochCount,
        placement_seed: [u8; 32],
        nonce_prefix: NoncePrefix,
        key: WrappedKey,
    ) -> Self {
        Self {
            version: VERSION,
            source: source.to_string_lossy().into_owned(),
            stamp,
            name,
            account,
            chain,
            scheme: (scheme.k() as u8, scheme.m() as u8),
            segment_len,
            duration,
            placement_seed,
            nonce_prefix,
            key,
        }
    }

    /// k and m.
    pub fn scheme(&self) -> Result<Scheme, ClientError> {
        Ok(Scheme::new(self.scheme.0.into(), self.scheme.1.into())?)
    }
}

/// One proposal that was made for a shard.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Attempt {
    /// What was signed.
    pub proposal: SignedProposal,
    /// The provider's acknowledgement, checked.
    pub ack: Option<Vec<u8>>,
    /// Why this attempt was replaced, if it was.
    pub given_up: Option<String>,
}

impl Attempt {
    /// A proposal that was just signed.
    pub fn new(proposal: SignedProposal) -> Self {
        Self {
            proposal,
            ack: None,
            given_up: None,
        }
    }

    /// The deal it becomes.
    pub fn deal(&self) -> DealId {
        self.proposal.proposal.id()
    }
}

/// A shard and every attempt to place it; the last attempt is the live one.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ShardRecord {
    /// Piece commitment.
    pub comm_p: CommP,
    /// BLAKE3 root.
    pub blake3_root: [u8; 32],
    /// Unpadded bytes.
    pub bytes: u64,
    /// Attempts, oldest first; at least one.
    pub attempts: Vec<Attempt>,
}

impl ShardRecord {
    /// The live attempt.
    pub fn live(&self) -> &Attempt {
        self.attempts
            .last()
            .expect("a record is written with its first attempt")
    }

    /// The live attempt.
    pub fn live_mut(&mut self) -> &mut Attempt {
        self.attempts
            .last_mut()
            .expect("a record is written with its first attempt")
    }
}

/// One segment (or manifest part) on its way.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SegmentRecord {
    /// [`VERSION`].
    version: u16,
    /// n shards.
    pub shards: Vec<ShardRecord>,
    /// Where the plaintext stood after this segment; `None` for manifest parts.
    pub mark: Option<PlainMark>,
    /// Published and read back.
    pub stored: bool,
}

impl SegmentRecord {
    /// A record of freshly signed shards.
    pub fn new(shards: Vec<ShardRecord>, mark: Option<PlainMark>) -> Self {
        Self {
            version: VERSION,
            shards,
            mark,
            stored: false,
        }
    }
}

/// The end of a put.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Done {
    /// [`VERSION`].
    version: u16,
    /// The object's id.
    pub object: [u8; 32],
    /// Highest possible cost of its deals.
    pub cost: TokenAmount,
}

impl Done {
    /// A put that is complete.
    pub fn new(object: ObjectId, cost: TokenAmount) -> Self {
        Self {
            version: VERSION,
            object: object.0,
            cost,
        }
    }
}

/// Which records of a put: those of its data, or those of its manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Segment of the object.
    Data(u64),
    /// Part of the sealed manifest.
    Manifest(u64),
}

impl Part {
    fn file(self) -> String {
        match self {
            Self::Data(index) => format!("d-{index:06}"),
            Self::Manifest(index) => format!("m-{index:06}"),
        }
    }
}

/// The lock that one money-moving command of a wallet holds. Released when dropped, and by the system when the process dies.
#[derive(Debug)]
pub struct WalletLock(#[expect(dead_code, reason = "held for its lock")] File);

impl WalletLock {
    /// Takes the lock, or says that somebody else has it.
    pub fn take(home: &Home) -> Result<Self, ClientError> {
        Self::take_in(&home.client_dir())
    }

    /// The same for another part of a home: the lock lies in `dir`, which is made.
    pub fn take_in(dir: &Path) -> Result<Self, ClientError> {
        create_private_dir(dir)
            .and_then(|()| OsVfs.sync_names(dir))
            .map_err(ClientError::file("create", dir))?;
        let path = dir.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(ClientError::file("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(ClientError::Busy(path)),
            Err(TryLockError::Error(error)) => Err(ClientError::file("lock", path)(error)),
        }
    }
}

/// The journal of one put.
#[derive(Debug)]
pub struct Journal {
    home: Home,
    dir: PathBuf,
    file_tag: FileTag,
}

impl Journal {
    /// Where all puts of a home lie.
    fn root(home: &Home) -> PathBuf {
        home.client_dir().join("puts")
    }

    /// Starts a journal: afterwards the put can be resumed. `drawn`: the epoch whose beacon seeds its placement; `verified`: its deals
    /// are verified ones.
    pub fn create(
        home: &Home,
        file_tag: FileTag,
        head: &Head,
        drawn: Epoch,
        verified: bool,
    ) -> Result<Self, ClientError> {
        let journal = Self::at(home, file_tag);
        create_private_dir(&journal.dir).map_err(ClientError::file("create", &journal.dir))?;
        if verified {
            journal.file("verified").write(&VERSION)?;
        }
        journal.file("drawn").write(&drawn)?;
        journal.file("head").write(head)?;
        journal.settle()?;
        Ok(journal)
    }

    /// Makes the names of its folders and what an interrupted process wrote in it durable, so that this process may act on it.
    pub fn settle(&self) -> Result<(), ClientError> {
        for dir in [&Self::root(&self.home), &self.dir] {
            OsVfs
                .sync_names(dir)
                .map_err(ClientError::file("write", dir))?;
        }
        self.file("head").settle()
    }

    /// A handle on the journal with this tag; nothing is read.
    pub fn at(home: &Home, file_tag: FileTag) -> Self {
        Self {
            home: home.clone(),
            dir: Self::root(home).join(file_tag.to_string()),
            file_tag,
        }
    }

    /// Every journal of a home that has a readable head. A folder without one was never started and is ignored.
    pub fn all(home: &Home) -> Result<Vec<(Self, Head)>, ClientError> {
        let root = Self::root(home);
        let entries = match std::fs::read_dir(&root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(ClientError::file("list", root)(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(ClientError::file("list", &root))?;
            let tag = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            if let Some(file_tag) = tag {
                let journal = Self::at(home, file_tag);
                if let Some(head) = journal.head()? {
                    found.push((journal, head));
                }
            }
        }
        Ok(found)
    }

    /// The tag that links the put's deals.
    pub fn file_tag(&self) -> FileTag {
        self.file_tag
    }

    /// What is stored, if it was begun.
    pub fn head(&self) -> Result<Option<Head>, ClientError> {
        self.file("head").read()
    }

    /// Whether the put's deals are verified ones.
    pub fn verified(&self) -> Result<bool, ClientError> {
        Ok(self.file("verified").read::<u16>()?.is_some())
    }

    /// The epoch whose beacon seeds the placement; a put that an earlier version began did not write it down.
    pub fn drawn(&self) -> Result<Option<Epoch>, ClientError> {
        self.file("drawn").read()
    }

    /// Where shards are staged.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The record of a segment or manifest part, if it was begun.
    pub fn segment(&self, part: Part) -> Result<Option<SegmentRecord>, ClientError> {
        let file = self.file(&part.file());
        let record: Option<SegmentRecord> = file.read()?;
        if let Some(record) = &record
            && (record.shards.is_empty() || record.shards.iter().any(|s| s.attempts.is_empty()))
        {
            return Err(file.damaged("a shard without a proposal"));
        }
        Ok(record)
    }

    /// The live attempt of every shard of every part that was begun.
    pub fn live_attempts(&self) -> Result<Vec<Attempt>, ClientError> {
        let kinds: [fn(u64) -> Part; 2] = [Part::Data, Part::Manifest];
        let mut attempts = Vec::new();
        for kind in kinds {
            // Parts are begun in order, so the first gap is the end.
            for index in 0.. {
                let Some(record) = self.segment(kind(index))? else {
                    break;
                };
                attempts.extend(record.shards.iter().map(|shard| shard.live().clone()));
            }
        }
        Ok(attempts)
    }

    /// Makes the record of a segment durable.
    pub fn write_segment(&self, part: Part, record: &SegmentRecord) -> Result<(), ClientError> {
        self.file(&part.file()).write(record)
    }

    /// The signed deposit, if one was made.
    pub fn funding(&self) -> Result<Option<chain_lite::message::SignedTx>, ClientError> {
        self.file("funding").read()
    }

    /// Makes a signed deposit durable, before it is submitted.
    pub fn write_funding(&self, tx: &chain_lite::message::SignedTx) -> Result<(), ClientError> {
        self.file("funding").write(tx)
    }

    /// The sealed manifest with its object id, if the put came that far.
    pub fn manifest(&self) -> Result<Option<(ObjectId, SealedManifest)>, ClientError> {
        let record: Option<([u8; 32], Vec<u8>)> = self.file("manifest").read()?;
        Ok(record.map(|(object, sealed)| (ObjectId(object), SealedManifest(sealed))))
    }

    /// Makes the sealed manifest durable, before its first part is sent.
    pub fn write_manifest(
        &self,
        object: ObjectId,
        sealed: &SealedManifest,
    ) -> Result<(), ClientError> {
        self.file("manifest").write(&(&object.0, &sealed.0))
    }

    /// The end of the put, if it is complete.
    pub fn done(&self) -> Result<Option<Done>, ClientError> {
        self.file("done").read()
    }

    /// Makes the end durable.
    pub fn write_done(&self, done: &Done) -> Result<(), ClientError> {
        self.file("done").write(done)
    }

    fn file(&self, name: &str) -> RecordFile {
        RecordFile::new(&self.home, self.dir.join(name))
    }
}

/// Replaces a file atomically and durably: temporary file, fsync, rename, fsync of the folder. For files that several processes
/// may write at once, each the whole of it.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), ClientError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let wrap = || ClientError::file("write", path);
    let mut file = tempfile::Builder::new()
        .prefix(".tmp-")
        .tempfile_in(dir)
        .map_err(wrap())?;
    file.write_all(bytes).map_err(wrap())?;
    file.as_file().sync_all().map_err(wrap())?;
    file.persist(path).map_err(|error| wrap()(error.error))?;
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> Result<(), ClientError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(ClientError::file("write", dir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::cipher::FileKey;
    use crate::object::manifest::ManifestKey;

    fn head() -> Head {
        let mut rng = rand::rngs::OsRng;
        let tag = FileTag([1; 16]);
        Head::new(
            Path::new("/data/photo.tar"),
            Stamp {
                len: 5,
                mtime_s: 6,
                mtime_ns: 7,
            },
            "photo.tar".into(),
            Address([2; 32]),
            ChainId([3; 32]),
            Scheme::new(2, 2).expect("legal"),
            100,
            EpochCount(60),
            [4; 32],
            NoncePrefix([5; 19]),
            ManifestKey::derive(&[6; 32]).wrap(&FileKey::generate(&mut rng), &tag, &mut rng),
        )
    }

    #[test]
    fn a_journal_comes_back_and_unfinished_folders_are_ignored() {
        let dir = tempfile::tempdir().expect("a folder");
        let home = Home::new(dir.path());
        let journal =
            Journal::create(&home, FileTag([1; 16]), &head(), Epoch(7), false).expect("creates");
        assert!(journal.done().expect("reads").is_none());
        assert_eq!(journal.drawn().expect("reads"), Some(Epoch(7)));
        std::fs::create_dir(Journal::root(&home).join("00".repeat(16))).expect("an empty folder");
        std::fs::create_dir(Journal::root(&home).join("unrelated")).expect("a foreign folder");
        let all = Journal::all(&home).expect("lists");
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].1.name, "photo.tar");
        journal
            .write_done(&Done::new(ObjectId([9; 32]), TokenAmount(5)))
            .expect("writes");
        assert_eq!(
            journal.done().expect("reads").map(|done| done.object),
            Some([9; 32])
        );
    }

    #[test]
    fn damage_is_named_never_guessed_around() {
        let dir = tempfile::tempdir().expect("a folder");
        let home = Home::new(dir.path());
        let journal =
            Journal::create(&home, FileTag([1; 16]), &head(), Epoch(7), false).expect("creates");
        let path = journal.dir().join("head");
        let good = std::fs::read(&path).expect("reads");
        for at in [0, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, bad).expect("writes");
            assert!(matches!(
                Journal::all(&home),
                Err(ClientError::Journal { .. })
            ));
        }
        for len in [0, 10, good.len() - 1] {
            std::fs::write(&path, &good[..len]).expect("writes");
            assert!(Journal::all(&home).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn one_command_at_a_time_holds_the_wallet() {
        let dir = tempfile::tempdir().expect("a folder");
        let home = Home::new(dir.path());
        let lock = WalletLock::take(&home).expect("free");
        assert!(matches!(WalletLock::take(&home), Err(ClientError::Busy(_))));
        drop(lock);
        WalletLock::take(&home).expect("free again");
    }
}
