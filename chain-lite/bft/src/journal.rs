//! The engine's journal, looked at before Malachite opens it: a damaged one is refused at every start, not at the first alone.
//!
//! Walk: [`crate::net::start`] asks here first. Malachite replays `consensus.wal` so that a restarted validator says nothing that
//! contradicts what it said. It cuts off what it cannot read, some of it without a word, and the next start would go on
//! without the votes that were lost, and could cast others (`threat-model.md` V1, H3).
//!
//! ```text
//! consensus.wal      version u32 ‖ height u64 ‖ entries: compressed u8 ‖ length u64 ‖ CRC-32 of the data u32 ‖ data; big-endian
//! consensus.refused  height, in decimal, a line feed, and why
//! ```
//! Refused: an entry whose CRC does not fit or that cannot be decoded; an entry with a false length, behind which, or in whose own bytes,
//! something whole stands; a head of another height than its votes; less than a head, or a version that Malachite does not know, which
//! it would open at no start, so that such a journal is removed for who follows. Not refused: a beginning of an entry at the end. That
//! is what a kill leaves of an entry that was not synced yet, so nothing of it was published.
//!
//! Crash: `consensus.refused` is durable before Malachite may cut the journal. It refuses every start of a validator of its
//! height, whatever became of the journal, and is removed at the first start beyond that height.
//! Cost: one read of the journal, which has the messages of one height.

use std::io;
use std::path::{Path, PathBuf};

use chain_lite::vfs::{OsVfs, Readers, Vfs as _};
use malachite_core_consensus::Input;
use malachite_engine::wal::decode_entry;

use crate::codec::Codec;
use crate::context::{Address, ChainContext, Height};
use crate::said::Said;

/// Version and height.
const HEAD: usize = 4 + 8;
const VERSION: u32 = 1;
/// What stands before an entry's data.
const ENTRY_HEAD: usize = 1 + 8 + 4;
/// Longest mark that is read: a height and a sentence.
const MAX_MARK: u64 = 4096;

/// Whether the engine may open the journal at `path` and go on with it at height `next`; what it says of that height, or why not.
/// `votes` tells whether this node's key is a validator's, at `next` or the height after it: any other signs nothing, and Malachite
/// begins the journal anew for it.
pub(crate) fn check(
    path: &Path,
    next: Height,
    me: &Address,
    votes: impl Fn(Height) -> bool,
) -> Result<Said, String> {
    let mark = mark_of(path);
    match read_mark(&mark) {
        Ok(None) => {}
        Ok(Some((height, _))) if height < next => {
            // What may have been lost is of heights that are over. One that stays is over the next time too.
            let gone = OsVfs.remove(&mark).and_then(|()| OsVfs.sync_names(&mark));
            if let Err(error) = gone {
                tracing::warn!(path = %mark.display(), %error, "a mark that is over could not be removed");
            }
        }
        Ok(Some((height, why))) => {
            if votes(height) {
                return Err(follow_past(path, height, &why));
            }
        }
        // Nobody knows any more up to which height it refuses.
        Err(error) => {
            return Err(format!(
                "{} says that the journal of this validator's votes was damaged, and cannot be read: {error}. Nothing was signed. When the other validators have made at least one block more than are here (`holdfast chain status`), remove it, and start again",
                mark.display()
            ));
        }
    }
    let bytes = match OsVfs.read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Said::default()),
        bytes => bytes.map_err(|error| {
            format!(
                "the journal of its votes, {}, cannot be read: {error}. Nothing was signed, and the journal is as it was",
                path.display()
            )
        })?,
    };
    match look(&bytes, next) {
        Ok(entries) => Ok(Said::of(&entries, me)),
        Err((height, why)) => {
            let marked = refuse(path, height, &why);
            match votes(height) {
                true => Err(marked.unwrap_or_else(|why| why)),
                // The journal is about to be cut: not before the mark stands. One without a sound head Malachite would refuse for ever.
                false => {
                    marked?;
                    if head_of(&bytes).is_err() {
                        OsVfs.remove(path).map_err(|error| {
                            format!("{} cannot be removed: {error}", path.display())
                        })?;
                    }
                    Ok(Said::default())
                }
            }
        }
    }
}

/// Makes a refusal last: durable when this returns. What to tell the operator; an error says that it could not be made to last.
pub(crate) fn refuse(path: &Path, height: Height, why: &str) -> Result<String, String> {
    let (mark, part) = (mark_of(path), path.with_extension("refused.part"));
    // One that refuses for longer goes on doing so.
    let height = match read_mark(&mark) {
        Ok(Some((marked, _))) => marked.max(height),
        _ => height,
    };
    let text = format!("{height}\n{why}\n");
    let written = OsVfs
        .write_synced(&part, Readers::Umask, &[text.as_bytes()])
        .and_then(|()| OsVfs.rename(&part, &mark))
        .and_then(|()| OsVfs.sync_names(&mark));
    let told = follow_past(path, height, why);
    match written {
        Ok(()) => Ok(told),
        Err(error) => Err(format!(
            "{told}. Do not start it again before that: {} could not be written ({error})",
            mark.display()
        )),
    }
}

/// What is wrong with the journal, and what its operator does. To vote again at this height without knowing what was voted may be
/// a double vote, so the node follows until it is over; a key that is no validator's makes Malachite begin the journal anew.
pub(crate) fn follow_past(path: &Path, height: Height, what: &str) -> String {
    format!(
        "the journal of its votes, {}, {what}. Nothing was signed. Make sure that no other machine has the key, and do not delete the journal while the key is here: it could vote twice. Move the key (validator.key) away and start the node: it makes a new key, follows, and begins the journal anew. When it has block {height}, stop it, put the key back, and start it",
        path.display()
    )
}

fn mark_of(path: &Path) -> PathBuf {
    path.with_extension("refused")
}

fn read_mark(mark: &Path) -> io::Result<Option<(Height, String)>> {
    let wrong = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "it does not begin with a height",
        )
    };
    match OsVfs.len(mark) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        len => {
            if len? > MAX_MARK {
                return Err(wrong());
            }
        }
    }
    let text = String::from_utf8(OsVfs.read(mark)?).map_err(|_| wrong())?;
    let (height, why) = text.split_once('\n').ok_or_else(wrong)?;
    let height = height.parse().map_err(|_| wrong())?;
    Ok(Some((Height(height), why.trim_end().to_owned())))
}

/// The entries of height `next`, none if the journal is of an earlier one; or a height whose votes may be lost, and why.
fn look(bytes: &[u8], next: Height) -> Result<Vec<Input<ChainContext>>, (Height, String)> {
    if bytes.is_empty() {
        // Whoever opens it begins it.
        return Ok(Vec::new());
    }
    let head = head_of(bytes);
    let mut rest = bytes.get(HEAD..).unwrap_or_default();
    let (mut entries, mut damage) = (Vec::new(), None);
    while damage.is_none() {
        let at = bytes.len() - rest.len();
        let Some((entry, after)) = first(rest) else {
            if is_cut_wrongly(rest) {
                damage = Some(format!("has an entry of a false length at byte {at}"));
            }
            break;
        };
        rest = after;
        match entry.content() {
            Ok(content) => entries.push(content),
            Err(why) => damage = Some(format!("is damaged at byte {at}: {why}")),
        }
    }
    let said_in = entries.iter().filter_map(height_of).max();
    let journal_height = head.map_err(|why| (said_in.map_or(next, |said| said.max(next)), why))?;
    if journal_height == next {
        return damage.map_or(Ok(entries), |why| Err((next, why)));
    }
    // One of another height is begun anew. But votes that are not over have not been cast for nothing: the head rotted, or the chain
    // here is an older one.
    match said_in.filter(|height| *height >= next) {
        Some(height) => Err((
            height,
            format!(
                "has votes of block {height} and stands at another one, or the chain here is older than its votes"
            ),
        )),
        None => Ok(Vec::new()),
    }
}

/// The height in the head of a journal that is not empty; an error where Malachite opens it at no start.
fn head_of(bytes: &[u8]) -> Result<Height, String> {
    let Some(head) = bytes.first_chunk::<HEAD>() else {
        return Err(format!("has {} bytes, less than its head", bytes.len()));
    };
    let [a, b, c, d, height @ ..] = *head;
    match u32::from_be_bytes([a, b, c, d]) {
        VERSION => Ok(Height(u64::from_be_bytes(height))),
        other => Err(format!("is of version {other}, not {VERSION}")),
    }
}

struct Entry<'a> {
    compressed: bool,
    crc: u32,
    data: &'a [u8],
}

/// The entry at the beginning, if all of it is there, and what follows it.
fn first(bytes: &[u8]) -> Option<(Entry<'_>, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<ENTRY_HEAD>()?;
    let [compressed, a, b, c, d, e, f, g, h, crc @ ..] = *head;
    let len = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    let (data, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    let entry = Entry {
        compressed: compressed != 0,
        crc: u32::from_be_bytes(crc),
        data,
    };
    Some((entry, rest))
}

impl Entry<'_> {
    fn content(&self) -> Result<Input<ChainContext>, String> {
        if self.compressed {
            return Err("it says that it is compressed".into());
        }
        if crc32(self.data).last() != Some(self.crc) {
            return Err("its checksum does not fit".into());
        }
        decode_entry(&Codec, self.data).map_err(|error| error.to_string())
    }
}

/// Whether bytes that begin no whole entry hold one all the same: of another length than they say, or further on. What a kill leaves
/// of the last entry holds none.
fn is_cut_wrongly(bytes: &[u8]) -> bool {
    let own = bytes.split_first_chunk::<ENTRY_HEAD>();
    let own = own.is_some_and(|(head, data)| {
        let [.., a, b, c, d] = *head;
        let crc = u32::from_be_bytes([a, b, c, d]);
        crc32(data).skip(1).any(|c| c == crc)
    });
    let behind = || {
        let from = |at: usize| first(&bytes[at..]).is_some_and(|(e, _)| e.content().is_ok());
        (1..bytes.len()).any(from)
    };
    own || behind()
}

/// CRC-32 (IEEE) of each beginning of `bytes`, the empty one first.
fn crc32(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    let step = |state: &mut u32, byte: Option<u8>| {
        if let Some(byte) = byte {
            *state ^= u32::from(byte);
            for _ in 0..8 {
                *state = (*state >> 1) ^ (0xedb8_8320 & (*state & 1).wrapping_neg());
            }
        }
        Some(!*state)
    };
    let bytes = bytes.iter().copied().map(Some);
    std::iter::once(None).chain(bytes).scan(u32::MAX, step)
}

fn height_of(entry: &Input<ChainContext>) -> Option<Height> {
    match entry {
        Input::Vote(vote) => Some(vote.height),
        Input::Proposal(proposal) => Some(proposal.height),
        Input::ProposedValue(value, _) => Some(value.height),
        Input::PolkaCertificate(certificate) => Some(certificate.height),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Vote;
    use crate::signing::ChainSigner;
    use chain_lite::account::ChainId;
    use chain_lite::block::BlockId;
    use ed25519_dalek::SigningKey;
    use malachite_app_channel::app::wal::Log;
    use malachite_codec::Codec as _;
    use malachite_core_consensus::SignedConsensusMsg;
    use malachite_core_types::{NilOrVal, Round, VoteType};

    fn signer() -> ChainSigner {
        ChainSigner::new(ChainId([1; 32]), SigningKey::from_bytes(&[7; 32]))
    }

    /// Entries of height 5: three votes and a timeout, as Malachite writes them.
    fn journal(path: &Path) -> Vec<u8> {
        let mut log = Log::open(path).unwrap();
        log.reset(5).unwrap();
        for (kind, round) in [
            (VoteType::Prevote, 0),
            (VoteType::Precommit, 0),
            (VoteType::Prevote, 1),
        ] {
            let vote = Vote {
                kind,
                height: Height(5),
                round: Round::new(round),
                value: NilOrVal::Val(BlockId([9; 32])),
                validator: signer().address(),
            };
            let vote = SignedConsensusMsg::Vote(signer().vote(vote).unwrap());
            let vote = Codec.encode(&vote).unwrap();
            log.append([&[1][..], &(vote.len() as u64).to_be_bytes(), &vote].concat())
                .unwrap();
        }
        log.append([&[2, 1][..], &1i64.to_be_bytes()].concat())
            .unwrap();
        log.flush().unwrap();
        drop(log);
        std::fs::read(path).unwrap()
    }

    fn path_in(home: &tempfile::TempDir) -> PathBuf {
        home.path().join("consensus.wal")
    }

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789").last(), Some(0xcbf4_3926));
        assert_eq!(crc32(b"").last(), Some(0));
    }

    #[test]
    fn what_was_said_is_read_back_as_malachite_wrote_it() {
        let home = tempfile::tempdir().unwrap();
        let path = path_in(&home);
        let bytes = journal(&path);
        assert_eq!(look(&bytes, Height(5)).unwrap().len(), 4);
        let said = check(&path, Height(5), &signer().address(), |_| true).unwrap();
        assert_eq!(said.votes.len(), 3);
        let id = BlockId([9; 32]);
        assert_eq!(said.named, [(id, 0), (id, 0), (id, 1)]);
        // Of a height that is over nothing is asked; a beginning at the end is what a kill leaves.
        assert!(look(&bytes, Height(6)).unwrap().is_empty());
        let last = bytes.len() - (ENTRY_HEAD + 10);
        for cut in last..bytes.len() {
            assert_eq!(look(&bytes[..cut], Height(5)).unwrap().len(), 3, "{cut}");
        }
        assert!(look(&[], Height(5)).unwrap().is_empty());
        // Nothing was refused, so nothing remains.
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
    }

    /// Malachite would cut the journal at each of these, half of them without a word.
    #[test]
    fn tm_v1_tm_h3_a_flipped_bit_anywhere_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let bytes = journal(&path_in(&home));
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                let told = look(&flipped, Height(5));
                assert!(told.is_err(), "byte {at}, bit {bit}: {told:?}");
            }
        }
        // A whole disk sector, other bytes; and a chain that is older than its votes.
        let mut sector = bytes.clone();
        sector[20..120].fill(0);
        assert!(look(&sector, Height(5)).is_err());
        assert!(look(&bytes, Height(4)).is_err());
    }

    #[test]
    fn tm_v1_a_refusal_lasts_until_its_height_is_over_whatever_becomes_of_the_journal() {
        let home = tempfile::tempdir().unwrap();
        let path = path_in(&home);
        let mut bytes = journal(&path);
        let whole = bytes.clone();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let me = signer().address();
        let refused = |height: u64| check(&path, Height(height), &me, |_| true);
        let why = refused(5).unwrap_err();
        assert!(why.contains("When it has block 5,"), "{why}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "nothing is cut");
        // Cut, deleted, or a good one of the same height in its place.
        for journal in [&bytes[..HEAD], &[], &whole] {
            std::fs::write(&path, journal).unwrap();
            assert_eq!(refused(5).unwrap_err(), why);
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(refused(5).unwrap_err(), why);
        // A key that is no validator's follows, and leaves the mark for the one that is.
        assert!(check(&path, Height(5), &me, |_| false).is_ok());
        assert_eq!(refused(5).unwrap_err(), why);
        assert!(refused(6).is_ok());
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
        // Who follows with a damaged one lets it be cut, so the mark is made there too.
        std::fs::write(&path, &bytes).unwrap();
        assert!(check(&path, Height(5), &me, |_| false).is_ok());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(refused(5).unwrap_err(), why);
        // One that Malachite would open at no start: refused, and gone for who follows.
        let flipped = [&[1u8], &whole[1..]].concat();
        // Votes of a later height than the next one are in the last of them.
        for (journal, over) in [(&whole[..4], 4), (&whole[..HEAD - 1], 4), (&flipped[..], 5)] {
            std::fs::remove_file(mark_of(&path)).unwrap();
            std::fs::write(&path, journal).unwrap();
            assert!(Log::open(&path).is_err());
            let why = refused(4).unwrap_err();
            assert!(why.contains(&format!("When it has block {over},")), "{why}");
            assert_eq!(std::fs::read(&path).unwrap(), journal);
            assert!(check(&path, Height(4), &me, |_| false).is_ok());
            assert!(!path.exists());
            assert_eq!(refused(over).unwrap_err(), why);
        }
        // A mark that nobody can read refuses, and says how to go on.
        std::fs::write(mark_of(&path), b"five\n").unwrap();
        assert!(refused(6).unwrap_err().contains("remove it"));
    }
}
