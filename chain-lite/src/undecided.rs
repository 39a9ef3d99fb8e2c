//! Blocks that were proposed and are not decided: kept on disk before this node votes for them, gone once their height is.
//!
//! Walk: an engine with rounds [`saves`](crate::ledger::Ledger::save_undecided) a proposed block, votes, and commits it from
//! here once it is decided. Engines keep votes and 32-byte ids in their own journal, not bodies: without this folder, a
//! validator that was cut off could be bound to a block that nobody has any more (`spec/consensus.md` §4, traps 7 and 9).
//!
//! ```text
//! undecided/<height, 20 digits>-<round of the header, 10 digits>-<block id, hex>
//! file = "HFUNDC02" ‖ SHA-256 of the rest ‖ borsh(Block, Heard)
//! ```
//! [`Heard`] has the signature of the header's proposer under its announcement of the block. An engine with rounds needs it when a
//! later round takes the block up ([`crate::ledger::Ledger::announcement`]); it has to survive with the block, or a validator that is
//! bound to it could never propose it again. And it says whether the block came in time: then it is taken up whenever it is.
//!
//! Bounds: [`MAX_BLOCKS`] files and [`MAX_BYTES`] in all, [`MAX_AHEAD`] heights above the tip. When they are full, blocks of
//! later heights go first (whoever sent them sends them again), then of the same height what nobody has proposed for longest. A block
//! that validators are bound to is an early one, but each of them proposes it again whenever it has its turn; and the one that this
//! node is bound to by its own vote never goes. After a restart the last proposal of a block is its header's round, until
//! it is [`named`](crate::ledger::Ledger::name_undecided) again.
//! Cost: one fsync of the file and one of the folder a block; in memory the names only.
//! Crash: written beside its name, synced, renamed, folder synced: a file is whole or not there. What is left of an
//! unfinished write is removed at the next start, and so is a file whose digest does not fit (H3): a missing body is
//! fetched again, a wrong one never served.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use borsh::{BorshDeserialize, BorshSerialize};

use crate::block::{Block, BlockId, MAX_BODY_BYTES};
use crate::certificate::Sig;
use crate::codec;
use crate::merkle::digest;
use crate::vfs::{Readers, Vfs};

/// Most blocks kept.
pub const MAX_BLOCKS: usize = 256;
/// Most bytes kept, on disk.
pub const MAX_BYTES: u64 = 512 << 20;
/// Furthest height above the tip whose blocks are kept.
pub const MAX_AHEAD: u64 = 16;
const MAGIC: &[u8; 8] = b"HFUNDC02";
const HEAD: usize = 8 + 32;
/// Largest file: a body, its header and lengths.
const MAX_FILE: u64 = (MAX_BODY_BYTES + HEAD + 4096) as u64;
const _: () = assert!(MAX_FILE * 2 < MAX_BYTES);

/// How a block came here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Heard {
    /// The header's proposer's signature under its announcement; none of a block of our own, or of one that came decided.
    pub announced: Option<Sig>,
    /// Whether this node's clock had nothing against it when it came.
    pub in_time: bool,
}

/// Order of names is order of age: height, round of the header, id.
type Name = (u64, u32, BlockId);

/// The folder.
pub(crate) struct Undecided {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    files: BTreeMap<Name, Kept>,
    bytes: u64,
}

/// What is known of a file without reading it.
#[derive(Clone, Copy)]
struct Kept {
    len: u64,
    /// Newest round in which the block was proposed, as far as this node knows; after a restart also in which it voted for it.
    named: u32,
}

/// Why a block is to be kept, and beside what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// The round that it is proposed in now; its header's, or later.
    pub round: u32,
    /// The block that this node has precommitted last, if any: it does not give way.
    pub bound: Option<BlockId>,
}

impl Undecided {
    /// Opens or creates the folder, and clears it of unfinished writes and of everything up to `tip`.
    pub(crate) fn open(vfs: Arc<dyn Vfs>, dir: &Path, tip: u64) -> io::Result<Self> {
        vfs.create_dir(dir)?;
        let mut found = Self {
            vfs,
            dir: dir.to_owned(),
            files: BTreeMap::new(),
            bytes: 0,
        };
        for (file, len) in found.vfs.list(dir)? {
            match parse(&file).filter(|n| n.0 > tip) {
                Some(name) if len <= MAX_FILE => {
                    found.files.insert(name, Kept { len, named: name.1 });
                    found.bytes += len;
                }
                _ => found.vfs.remove(&dir.join(file))?,
            }
        }
        while let Some(name) = found.overflow(0, None) {
            found.remove(&name)?;
        }
        Ok(found)
    }

    /// Keeps a block and how it came; returns once it survives a power cut. `tip` is the newest final height. A block that is here
    /// already stays as it is; a file of an older form, or a damaged one, is none.
    ///
    /// An error of the disk leaves what was there before; the caller must then not vote for the block.
    pub(crate) fn save(
        &mut self,
        block: &Block,
        heard: Heard,
        turn: Turn,
        tip: u64,
    ) -> io::Result<Saved> {
        let name = (block.header.height, block.header.round, block.id());
        if name.0 <= tip || name.0 - tip > MAX_AHEAD {
            return Ok(Saved::OutOfReach);
        }
        let named = turn.round.max(name.1);
        if self.files.contains_key(&name) {
            // A name alone is no block: a vote would follow for one that is not here.
            match self.read(&name) {
                Ok(Some(_)) => {
                    self.name(&name.2, named);
                    return Ok(Saved::Kept);
                }
                // It was damaged, or is gone.
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.forget(&name),
                // It cannot be read now, whatever it is: it stands until another is in its place.
                Err(error) => {
                    tracing::warn!(%error, height = name.0, "a kept proposal cannot be read and is written anew");
                }
            }
        }
        let [magic, check, body] = seal(block, heard);
        let len = (HEAD + body.len()) as u64;
        if len > MAX_FILE {
            return Ok(Saved::TooLarge);
        }
        let is_new = !self.files.contains_key(&name);
        while is_new && (self.files.len() >= MAX_BLOCKS || self.bytes + len > MAX_BYTES) {
            let out = self.overflow(len, turn.bound);
            let gives_way = |out: &Name| {
                let since = self.files.get(out).map_or(0, |kept| kept.named);
                out.0 > name.0 || (out.0 == name.0 && (since, *out) < (named, name))
            };
            match out.filter(gives_way) {
                Some(out) => self.remove(&out)?,
                None => return Ok(Saved::OutOfReach),
            }
        }
        let path = self.dir.join(spell(&name));
        let part = path.with_extension("part");
        let vfs = &self.vfs;
        let written = vfs
            .write_synced(&part, Readers::Umask, &[&magic, &check, &body])
            .and_then(|()| vfs.rename(&part, &path));
        if let Err(error) = written {
            drop(vfs.remove(&part));
            return Err(error);
        }
        if let Err(error) = vfs.sync_names(&path) {
            // Never synced again: the next try writes another file. Whatever remains goes at the next start.
            drop(vfs.remove(&path));
            self.forget(&name);
            return Err(error);
        }
        self.forget(&name);
        self.files.insert(name, Kept { len, named });
        self.bytes += len;
        Ok(Saved::Kept)
    }

    /// The block is proposed in `round` too, or the journal tells of a vote for it there.
    pub(crate) fn name(&mut self, id: &BlockId, round: u32) {
        for (_, kept) in self.files.iter_mut().filter(|(name, _)| name.2 == *id) {
            kept.named = kept.named.max(round);
        }
    }

    /// Who would have to go for `len` more bytes, if anybody: of the furthest height what was not named for longest.
    fn overflow(&self, len: u64, bound: Option<BlockId>) -> Option<Name> {
        let full = match len {
            0 => self.files.len() > MAX_BLOCKS || self.bytes > MAX_BYTES,
            _ => self.files.len() >= MAX_BLOCKS || self.bytes + len > MAX_BYTES,
        };
        let furthest = self.files.last_key_value().filter(|_| full)?.0.0;
        let first = (furthest, 0, BlockId([0; 32]));
        self.files
            .range(first..)
            .filter(|(name, _)| Some(name.2) != bound)
            .min_by_key(|(name, kept)| (kept.named, **name))
            .map(|(name, _)| *name)
    }

    /// Blocks proposed in `round` of `height`, in order of id.
    pub(crate) fn of_round(&mut self, height: u64, round: u32) -> io::Result<Vec<Block>> {
        let names = (height, round, BlockId([0; 32]))..=(height, round, BlockId([0xff; 32]));
        let names: Vec<Name> = self.files.range(names).map(|(name, _)| *name).collect();
        let mut blocks = Vec::with_capacity(names.len());
        for name in names {
            blocks.extend(self.read(&name)?.map(|(block, _)| block));
        }
        Ok(blocks)
    }

    /// The block with this id, and how it came.
    pub(crate) fn by_id(&mut self, id: &BlockId) -> io::Result<Option<(Block, Heard)>> {
        match self.files.keys().find(|name| name.2 == *id).copied() {
            Some(name) => self.read(&name),
            None => Ok(None),
        }
    }

    /// Forgets everything up to `height`. A file that stays behind is removed at the next start.
    pub(crate) fn decided(&mut self, height: u64) {
        let last = (height, u32::MAX, BlockId([0xff; 32]));
        let old: Vec<Name> = self.files.range(..=last).map(|(name, _)| *name).collect();
        for name in old {
            if let Err(error) = self.remove(&name) {
                tracing::warn!(%error, "a decided block's proposal could not be removed");
            }
        }
    }

    fn read(&mut self, name: &Name) -> io::Result<Option<(Block, Heard)>> {
        let bytes = self.vfs.read(&self.dir.join(spell(name)))?;
        let kept =
            unseal(&bytes).filter(|(b, _)| (b.header.height, b.header.round, b.id()) == *name);
        if kept.is_none() {
            tracing::warn!(
                height = name.0,
                "a kept proposal is damaged and was removed"
            );
            self.remove(name)?;
        }
        Ok(kept)
    }

    fn forget(&mut self, name: &Name) {
        if let Some(kept) = self.files.remove(name) {
            self.bytes -= kept.len;
        }
    }

    fn remove(&mut self, name: &Name) -> io::Result<()> {
        self.forget(name);
        self.vfs.remove(&self.dir.join(spell(name)))
    }
}

/// What became of a block to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Saved {
    /// It is on disk.
    Kept,
    /// Its height is decided, too far ahead, or there are too many nearer ones.
    OutOfReach,
    /// No block is that large.
    TooLarge,
}

fn unseal(bytes: &[u8]) -> Option<(Block, Heard)> {
    let (magic, rest) = bytes.split_at_checked(MAGIC.len())?;
    let (check, body) = rest.split_at_checked(32)?;
    if magic != MAGIC || digest(&[body]) != *check {
        return None;
    }
    codec::decode(body, MAX_FILE as usize).ok()
}

/// Any bytes as a kept file, and as its name: refused, or written as they were read. Body of the fuzz target.
pub fn fuzz_undecided(bytes: &[u8]) {
    if let Some((block, heard)) = unseal(bytes) {
        assert_eq!(
            seal(&block, heard).concat(),
            bytes,
            "one encoding per block"
        );
    }
    if let Some((name, text)) = std::str::from_utf8(bytes)
        .ok()
        .and_then(|t| Some((parse(t)?, t)))
    {
        assert_eq!(spell(&name), text, "one spelling per name");
    }
}

/// The pieces of a kept file.
fn seal(block: &Block, heard: Heard) -> [Vec<u8>; 3] {
    let body = codec::encode(&(block, heard));
    [MAGIC.to_vec(), digest(&[&body]).to_vec(), body]
}

fn spell((height, round, id): &Name) -> String {
    format!("{height:020}-{round:010}-{id}")
}

fn parse(name: &str) -> Option<Name> {
    let mut parts = name.split('-');
    let height = parts.next()?.parse().ok()?;
    let round = parts.next()?.parse().ok()?;
    let mut id = [0; 32];
    hex::decode_to_slice(parts.next()?, &mut id).ok()?;
    let parsed = (height, round, BlockId(id));
    // One spelling: a file under any other name would never be found again.
    (spell(&parsed) == name).then_some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Body;
    use crate::block::tests::header;
    use crate::vfs::OsVfs;
    use std::fs;

    fn open(dir: &Path, tip: u64) -> io::Result<Undecided> {
        Undecided::open(Arc::new(OsVfs), dir, tip)
    }

    fn block(height: u64, round: u32, time_ms: u64) -> Block {
        let mut block = Block {
            header: header(),
            body: Body::default(),
        };
        (block.header.height, block.header.round) = (height, round);
        block.header.time_ms = time_ms;
        block
    }

    #[test]
    fn what_was_kept_reads_back_after_a_restart_until_its_height_is_decided() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("undecided");
        let mut kept = open(&dir, 4).unwrap();
        let (a, b, c, later) = (
            block(5, 0, 1),
            block(5, 0, 2),
            block(5, 1, 1),
            block(6, 0, 1),
        );
        for b in [&a, &b, &c, &later, &a] {
            assert_eq!(
                kept.save(b, Heard::default(), Turn::default(), 4).unwrap(),
                Saved::Kept
            );
        }
        assert_eq!(
            kept.save(&block(4, 0, 1), Heard::default(), Turn::default(), 4)
                .unwrap(),
            Saved::OutOfReach
        );
        // With its proposer's signature, which it keeps.
        let word = Heard {
            announced: Some(Sig([9; 64])),
            in_time: true,
        };
        let d = block(5, 2, 1);
        assert_eq!(
            kept.save(&d, word, Turn::default(), 4).unwrap(),
            Saved::Kept
        );
        let far = block(5 + MAX_AHEAD, 0, 1);
        assert_eq!(
            kept.save(&far, Heard::default(), Turn::default(), 4)
                .unwrap(),
            Saved::OutOfReach
        );
        let mut kept = open(&dir, 4).unwrap();
        let both = kept.of_round(5, 0).unwrap();
        assert!(both.len() == 2 && both.contains(&a) && both.contains(&b));
        assert_eq!(kept.of_round(5, 1).unwrap(), vec![c.clone()]);
        assert_eq!(kept.by_id(&d.id()).unwrap(), Some((d, word)));
        assert_eq!(kept.by_id(&c.id()).unwrap(), Some((c, Heard::default())));
        kept.decided(5);
        assert_eq!(kept.by_id(&a.id()).unwrap(), None);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        assert_eq!(kept.of_round(6, 0).unwrap(), [later]);
        let mut kept = open(&dir, 6).unwrap();
        assert_eq!(kept.of_round(6, 0).unwrap(), []);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    }

    #[test]
    fn tm_h1_tm_h3_a_cut_or_flipped_file_is_never_served() {
        let home = tempfile::tempdir().unwrap();
        let good = block(5, 0, 1);
        let mut kept = open(home.path(), 4).unwrap();
        kept.save(&good, Heard::default(), Turn::default(), 4)
            .unwrap();
        let path = fs::read_dir(home.path())
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let whole = fs::read(&path).unwrap();
        // A crash before the rename leaves `.part`, whatever its length.
        for len in 0..=whole.len() {
            let part = path.with_extension("part");
            fs::write(&part, &whole[..len]).unwrap();
            let mut kept = open(home.path(), 4).unwrap();
            assert!(!part.exists());
            assert_eq!(
                kept.by_id(&good.id()).unwrap(),
                Some((good.clone(), Heard::default()))
            );
        }
        let mut damaged: Vec<Vec<u8>> = (0..whole.len()).map(|n| whole[..n].to_vec()).collect();
        damaged.extend((0..whole.len()).map(|n| {
            let mut flipped = whole.clone();
            flipped[n] ^= 1;
            flipped
        }));
        for bytes in damaged {
            fs::write(&path, bytes).unwrap();
            let mut kept = open(home.path(), 4).unwrap();
            assert_eq!(kept.by_id(&good.id()).unwrap(), None);
            assert!(!path.exists());
            assert_eq!(
                kept.save(&good, Heard::default(), Turn::default(), 4)
                    .unwrap(),
                Saved::Kept,
                "fetched again"
            );
        }
    }

    #[test]
    fn tm_h3_kept_files_have_one_form_and_any_bytes_are_judged_calmly() {
        let good = block(5, 7, 1);
        let whole = seal(&good, Heard::default()).concat();
        assert_eq!(unseal(&whole), Some((good.clone(), Heard::default())));
        fuzz_undecided(&whole);
        let name = spell(&(5, 7, good.id()));
        assert_eq!(parse(&name), Some((5, 7, good.id())));
        for text in [
            name.clone(),
            name.to_uppercase(),
            format!("+{}", &name[1..]),
        ] {
            fuzz_undecided(text.as_bytes());
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            fuzz_undecided(&bytes);
            // A digest that fits leaves the block's own form to be judged.
            let body = bytes.split_off(HEAD);
            let sealed = [&MAGIC[..], &digest(&[&body]), &body].concat();
            fuzz_undecided(&sealed);
            fuzz_undecided(&sealed[..at]);
        }
    }

    #[test]
    fn tm_v6_the_folder_is_bounded_and_the_present_height_wins() {
        let home = tempfile::tempdir().unwrap();
        let mut kept = open(home.path(), 4).unwrap();
        // Names only: the bound is on counts, and writing 256 synced files says nothing more.
        for n in 0..MAX_BLOCKS as u64 {
            let name = (6 + n % 3, 0, BlockId(digest(&[&n.to_le_bytes()])));
            fs::write(home.path().join(spell(&name)), b"x").unwrap();
        }
        kept = open(&kept.dir, 4).unwrap();
        assert_eq!(kept.files.len(), MAX_BLOCKS);
        let late = block(9, 0, 1);
        assert_eq!(
            kept.save(&late, Heard::default(), Turn::default(), 4)
                .unwrap(),
            Saved::OutOfReach
        );
        let now = block(5, 0, 1);
        assert_eq!(
            kept.save(&now, Heard::default(), Turn::default(), 4)
                .unwrap(),
            Saved::Kept
        );
        assert_eq!(kept.files.len(), MAX_BLOCKS);
        assert_eq!(
            kept.files.keys().filter(|n| n.0 == 8).count(),
            84,
            "one of 85"
        );
        assert_eq!(
            kept.by_id(&now.id()).unwrap(),
            Some((now, Heard::default()))
        );
        // Of one height the earliest round gives way, so that a long stalemate never refuses the newest proposal.
        let next = block(6, 1, 1);
        for name in kept.files.keys().copied().collect::<Vec<_>>() {
            if name.0 > 6 {
                kept.remove(&name).unwrap();
            }
        }
        let mut n = 1_000u64;
        while kept.files.len() < MAX_BLOCKS {
            n += 1;
            let name = (6, 0, BlockId(digest(&[&n.to_le_bytes()])));
            fs::write(home.path().join(spell(&name)), b"x").unwrap();
            kept.files.insert(name, Kept { len: 1, named: 0 });
            kept.bytes += 1;
        }
        assert_eq!(
            kept.save(&next, Heard::default(), Turn::default(), 4)
                .unwrap(),
            Saved::Kept
        );
        assert!(kept.files.len() == MAX_BLOCKS && kept.by_id(&next.id()).unwrap().is_some());
    }

    /// What everybody is bound to is an early block that is proposed again and again; what we are bound to, perhaps we alone.
    #[test]
    fn tm_v2_what_validators_are_bound_to_outlives_any_stalemate() {
        let home = tempfile::tempdir().unwrap();
        let mut kept = open(home.path(), 4).unwrap();
        let (early, taken_up, locked) = (block(5, 0, 1), block(5, 0, 2), block(5, 1, 1));
        for b in [&early, &taken_up, &locked] {
            kept.save(b, Heard::default(), Turn::default(), 4).unwrap();
        }
        let bound = Some(locked.id());
        for round in 2..2 * MAX_BLOCKS as u32 {
            let turn = Turn { round, bound };
            let new = block(5, round, 1);
            let saved = kept.save(&new, Heard::default(), turn, 4).unwrap();
            assert_eq!(
                saved,
                Saved::Kept,
                "round {round}: the newest proposal is taken"
            );
            match round % 100 {
                // Announced again by another, and by us.
                0 => drop(kept.save(&taken_up, Heard::default(), turn, 4).unwrap()),
                50 => kept.name(&taken_up.id(), round),
                _ => {}
            }
            assert!(kept.files.len() <= MAX_BLOCKS);
        }
        assert_eq!(kept.by_id(&early.id()).unwrap(), None);
        for b in [taken_up, locked] {
            assert_eq!(kept.by_id(&b.id()).unwrap(), Some((b, Heard::default())));
        }
    }

    /// A file of the form before this one, or one that rotted, is told from a block: it is removed or written anew, never
    /// taken for what a vote needs.
    #[test]
    fn tm_h3_a_file_of_an_older_form_is_no_block_that_is_here() {
        let home = tempfile::tempdir().unwrap();
        let good = block(5, 0, 1);
        let path = home.path().join(spell(&(5, 0, good.id())));
        // As written until November 2026: the block alone, without how it came.
        let body = codec::encode(&good);
        let old = [b"HFUNDC01", &digest(&[&body])[..], &body].concat();
        for file in [old, b"HFUNDC02 and nothing that fits".to_vec()] {
            fs::write(&path, &file).unwrap();
            let mut kept = open(home.path(), 4).unwrap();
            assert_eq!(kept.of_round(5, 0).unwrap(), []);
            assert!(!path.exists());
            fs::write(&path, &file).unwrap();
            let mut kept = open(home.path(), 4).unwrap();
            let saved = kept.save(&good, Heard::default(), Turn::default(), 4);
            assert_eq!(saved.unwrap(), Saved::Kept);
            let mut kept = open(home.path(), 4).unwrap();
            assert_eq!(kept.of_round(5, 0).unwrap(), std::slice::from_ref(&good));
            assert_eq!(kept.bytes, fs::metadata(&path).unwrap().len());
        }
        // Gone under us: written anew. What cannot be read stays until another is in its place, and here nothing can be.
        let save = |kept: &mut Undecided| kept.save(&good, Heard::default(), Turn::default(), 4);
        let mut kept = open(home.path(), 4).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(save(&mut kept).unwrap(), Saved::Kept);
        assert_eq!(kept.of_round(5, 0).unwrap(), std::slice::from_ref(&good));
        assert_eq!(kept.bytes, fs::metadata(&path).unwrap().len());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(save(&mut kept).is_err());
        assert!(path.is_dir());
        assert_eq!((kept.files.len(), kept.bytes > 0), (1, true));
    }
}
