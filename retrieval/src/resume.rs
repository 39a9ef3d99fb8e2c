//! What a crash does not lose: which groups of a partial file are there, one bit each.
//!
//! Walk: `client::get` marks what it wrote and, after a crash, asks [`crate::fetch`] for [`Bitmap::missing`] only.
//! Spec: `network.md` §2.4, "Resumption". Order of durability, for the caller: write the data, `fsync` it, [`Bitmap::mark`],
//! [`Bitmap::save`]. Then a marked group is always on disk; a crash in between loses only work.
//! The marks say "verified when written"; they are no proof against somebody who edits the partial file later, so a
//! finished file is compared with its own hash by the caller where that matters.
//!
//! Bytes: `"hfbm" | u8 version = 1 | [u8; 32] name | u64 size | bits, LSB first | [u8; 32] BLAKE3 of all before`, 8 KiB per GiB.
//! The name binds the bitmap to what it describes (a piece root, an object id). A bitmap that is damaged, cut, or of another
//! name or size is an error that means "begin again", never a wrong mark.
//! Atomic: written to a neighbour file, synced, renamed over the old one, folder synced.

use std::{
    fs::{self, File},
    io::{self, Write},
    ops::Range,
    path::Path,
};

use crate::range::{GROUP_BYTES, MAX_PIECE_BYTES};

const MAGIC: &[u8; 5] = b"hfbm\x01";
const HEAD_BYTES: usize = 5 + 32 + 8;
const HASH_BYTES: usize = 32;

/// Why a bitmap could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BitmapError {
    /// The disk.
    #[error("resume file: {0}")]
    Io(#[from] io::Error),
    /// Cut, changed, or of an unknown version.
    #[error("the resume file is damaged; delete it to begin again")]
    Damaged,
    /// Belongs to something else.
    #[error("the resume file belongs to another transfer; delete it to begin again")]
    Other,
}

/// Which 16 KiB groups of `size` bytes are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    name: [u8; 32],
    size: u64,
    bits: Vec<u8>,
}

impl Bitmap {
    /// Nothing there yet.
    ///
    /// # Panics
    /// Above 64 GiB, which no piece or segment reaches.
    pub fn new(name: [u8; 32], size: u64) -> Self {
        assert!(
            size <= MAX_PIECE_BYTES,
            "no transfer is larger than the largest piece"
        );
        let bytes = usize::try_from(size.div_ceil(GROUP_BYTES).div_ceil(8)).expect("8 KiB per GiB");
        Self {
            name,
            size,
            bits: vec![0; bytes],
        }
    }

    /// Bytes that the bitmap speaks of.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn groups(&self) -> u64 {
        self.size.div_ceil(GROUP_BYTES)
    }

    fn has(&self, group: u64) -> bool {
        self.bits[(group / 8) as usize] >> (group % 8) & 1 == 1
    }

    /// Marks the groups that lie wholly inside the range; the last, shorter group counts when the range reaches the end.
    pub fn mark(&mut self, range: Range<u64>) {
        let end = range.end.min(self.size);
        let last = if end == self.size {
            self.groups()
        } else {
            end / GROUP_BYTES
        };
        for group in range.start.div_ceil(GROUP_BYTES)..last {
            self.bits[(group / 8) as usize] |= 1 << (group % 8);
        }
    }

    /// What is not there, ascending and disjoint; ready for a [`crate::FetchRequest`].
    pub fn missing(&self) -> Vec<Range<u64>> {
        let mut missing: Vec<Range<u64>> = Vec::new();
        for group in (0..self.groups()).filter(|group| !self.has(*group)) {
            let (start, end) = (
                group * GROUP_BYTES,
                ((group + 1) * GROUP_BYTES).min(self.size),
            );
            match missing.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => missing.push(start..end),
            }
        }
        missing
    }

    /// Whether all is there.
    pub fn is_complete(&self) -> bool {
        (0..self.groups()).all(|group| self.has(group))
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_BYTES + self.bits.len() + HASH_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.name);
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.bits);
        out.extend_from_slice(blake3::hash(&out).as_bytes());
        out
    }

    /// Reads the file's bytes; total.
    pub fn decode(bytes: &[u8]) -> Result<Self, BitmapError> {
        let body_end = bytes
            .len()
            .checked_sub(HASH_BYTES)
            .ok_or(BitmapError::Damaged)?;
        let (body, hash) = bytes.split_at(body_end);
        if body.len() < HEAD_BYTES || blake3::hash(body).as_bytes() != hash || &body[..5] != MAGIC {
            return Err(BitmapError::Damaged);
        }
        let name = body[5..37].try_into().expect("32 bytes");
        let size = u64::from_le_bytes(body[37..HEAD_BYTES].try_into().expect("8 bytes"));
        if size > MAX_PIECE_BYTES {
            return Err(BitmapError::Damaged);
        }
        let map = Self {
            bits: body[HEAD_BYTES..].to_vec(),
            ..Self::new(name, size)
        };
        let wanted = map.groups().div_ceil(8);
        // One encoding per value: bits behind the last group are zero.
        let stray = (map.groups()..wanted * 8)
            .any(|group| map.bits.len() as u64 == wanted && map.has(group));
        if map.bits.len() as u64 != wanted || stray {
            Err(BitmapError::Damaged)
        } else {
            Ok(map)
        }
    }

    /// Replaces the file at `path` by this bitmap.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let next = path.with_extension("next");
        let mut file = File::create(&next)?;
        file.write_all(&self.encode())?;
        file.sync_all()?;
        fs::rename(&next, path)?;
        match path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
            _ => Ok(()),
        }
    }

    /// The bitmap at `path`, which must be of this name and size; a new one when there is no file.
    pub fn load(path: &Path, name: [u8; 32], size: u64) -> Result<Self, BitmapError> {
        let limit = Self::new(name, size).encode().len() as u64;
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self::new(name, size));
            }
            Err(error) => return Err(error.into()),
            // Checked before reading: the file may be anything.
            Ok(found) if found.len() > limit.max(1 << 20) => return Err(BitmapError::Damaged),
            Ok(_) => {}
        }
        let map = Self::decode(&fs::read(path)?)?;
        if map.name == name && map.size == size {
            Ok(map)
        } else {
            Err(BitmapError::Other)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn survives_its_file_and_notices_damage() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("x.resume");
        let mut map = Bitmap::load(&path, [1; 32], 100_000).expect("new");
        map.mark(0..50_000);
        map.save(&path).expect("saved");
        assert_eq!(Bitmap::load(&path, [1; 32], 100_000).expect("loaded"), map);
        assert!(matches!(
            Bitmap::load(&path, [2; 32], 100_000),
            Err(BitmapError::Other)
        ));
        let good = fs::read(&path).expect("bytes");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(
                matches!(Bitmap::decode(&bad), Err(BitmapError::Damaged)),
                "byte {at}"
            );
            assert!(
                matches!(Bitmap::decode(&good[..at]), Err(BitmapError::Damaged)),
                "cut at {at}"
            );
        }
    }

    #[test]
    fn the_format_is_pinned() {
        let mut map = Bitmap::new([7; 32], 20 * GROUP_BYTES + 5);
        map.mark(GROUP_BYTES..3 * GROUP_BYTES);
        map.mark(20 * GROUP_BYTES..20 * GROUP_BYTES + 5);
        let digest = blake3::hash(&map.encode()).to_hex();
        assert_eq!(
            digest.as_str(),
            "68865c81d4f7617b5396f34a55e94715a5de2bc3683921120798989774e956b3"
        );
    }

    proptest! {
        /// Marks and gaps against a plain list of booleans.
        #[test]
        fn marks_match_a_plain_model(size in 1u64..600_000, ranges in prop::collection::vec((0u64..620_000, 0u64..300_000), 0..12)) {
            let mut map = Bitmap::new([0; 32], size);
            let mut have = vec![false; size as usize];
            for (start, length) in ranges {
                map.mark(start..start + length);
                for group in 0..size.div_ceil(GROUP_BYTES) {
                    let (s, e) = (group * GROUP_BYTES, ((group + 1) * GROUP_BYTES).min(size));
                    if start <= s && start + length >= e {
                        have[s as usize..e as usize].fill(true);
                    }
                }
            }
            let mut told = vec![true; size as usize];
            for range in map.missing() {
                told[range.start as usize..range.end as usize].fill(false);
            }
            prop_assert!(told == have);
            prop_assert_eq!(map.is_complete(), have.iter().all(|x| *x));
            prop_assert_eq!(Bitmap::decode(&map.encode()).expect("own bytes"), map);
        }
    }
}
