//! The manifest: everything needed to read an object back, and the id that names it.
//!
//! Walk: written last by a put, read first by a get. Spec: `DESIGN.md` §3, `threat-model.md` C6, C8.
//!
//! ```text
//! "HFMF" ‖ version u16 ‖ name (u16 + UTF-8, ≤ 255 B) ‖ plain_len u64 ‖ plain_hash 32 (BLAKE3) ‖ k u8 ‖ m u8
//!        ‖ nonce prefix 19 ‖ wrapped file key (tag u8, nonce 24, sealed 48) ‖ file tag 16 ‖ segment_len u64 ‖ shards…
//! shard  = CommP 32 ‖ BLAKE3 root 32 ‖ provider u64 ‖ deal id 32                 (integers little-endian)
//! ```
//!
//! All segments but the last are `segment_len` bytes of ciphertext, so the number of shards follows from the header:
//! a decoder knows the exact length of the rest before it allocates, there is one encoding per value and nothing nests.
//! Object id = SHA-256 of these bytes. Shard sizes are not stored: they follow from [`Geometry`].
//!
//! **At rest** the manifest is sealed under a key derived from the wallet's seed ([`SealedManifest`]), cut into parts that fit a
//! sector's payload and stored in full on each of n providers (a 1+(n−1) code) by deals whose [`Label`] starts with `manifest`.
//! So a key file finds and opens every object of its account from the chain alone. Where a shard lives *now* the chain says (a
//! repair moves it); the providers in the manifest are those of the put.
//!
//! Cost: 104 bytes per shard. Crash: the sealed bytes are journaled before the first part is pushed.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use chain_lite::units::Epoch;
use rand::{CryptoRng, RngCore};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::cipher::{self, FileKey, NoncePrefix};
use super::erasure::{Geometry, Scheme};

/// Most bytes of an encoded manifest: about 150,000 shards.
pub const MAX_MANIFEST_BYTES: usize = 16 * 1024 * 1024;
/// Longest name, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 255;
/// Bytes that [`SealedManifest`] adds to a manifest.
pub const SEAL_OVERHEAD_BYTES: usize = SEAL_MAGIC.len() + 24 + cipher::TAG_BYTES;

const MAGIC: [u8; 4] = *b"HFMF";
const VERSION: u16 = 1;
const SEAL_MAGIC: [u8; 8] = *b"HFMSEAL1";
const KEY_ACCOUNT: u8 = 1;
const SHARD_BYTES: usize = 32 + 32 + 8 + 32;
/// Everything between the name and the shards.
const FIXED_BYTES: usize = 8 + 32 + 1 + 1 + 19 + WRAPPED_BYTES + 16 + 8;
const WRAPPED_BYTES: usize = 1 + 24 + 48;

/// Names an object: SHA-256 of its encoded manifest. Text form: 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub [u8; 32]);

/// Links the pieces of one object in public deal labels; random, drawn by the put.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileTag(pub [u8; 16]);

macro_rules! hex_text {
    ($name:ident, $len:literal, $what:literal) => {
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                let mut bytes = [0; $len];
                hex::decode_to_slice(text, &mut bytes)
                    .map_err(|_| format!("{} is {} hex digits", $what, 2 * $len))?;
                Ok(Self(bytes))
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
hex_text!(ObjectId, 32, "an object id");
hex_text!(FileTag, 16, "a file tag");

/// One shard of one segment, as it was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Piece commitment.
    pub comm_p: [u8; 32],
    /// BLAKE3 root of the shard's bytes.
    pub blake3_root: [u8; 32],
    /// Provider that took it.
    pub provider: u64,
    /// Deal that pays for it.
    pub deal: [u8; 32],
}

/// The file key, sealed for the account that put the object.
#[derive(Clone, Debug, PartialEq, Eq, borsh::BorshSerialize, borsh::BorshDeserialize)]
pub struct WrappedKey {
    nonce: [u8; 24],
    sealed: [u8; 48],
}

/// Everything needed to read an object back. Checked: the shards are exactly as many as the lengths say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// A label for people; never used as a path.
    pub name: String,
    /// Plaintext bytes.
    pub plain_len: u64,
    /// BLAKE3 of the plaintext.
    pub plain_hash: [u8; 32],
    /// k and m of every segment.
    pub scheme: Scheme,
    /// Random part of the nonces.
    pub nonce_prefix: NoncePrefix,
    /// The file key.
    pub key: WrappedKey,
    /// Links the object's deals.
    pub file_tag: FileTag,
    /// Ciphertext bytes of every segment but the last.
    pub segment_len: u64,
    /// n shards of segment 0, then of segment 1, …
    pub shards: Vec<Shard>,
}

/// Why bytes are not a manifest, or one cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Larger than [`MAX_MANIFEST_BYTES`].
    #[error("a manifest of {bytes} bytes is above the limit of {MAX_MANIFEST_BYTES}")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// Not the bytes of a manifest this version reads.
    #[error("not a manifest: {0}")]
    Malformed(&'static str),
    /// The seal does not open: another wallet's manifest, or changed bytes.
    #[error("the manifest does not open with this wallet")]
    Forged,
    /// The file key does not unwrap.
    #[error("the file key does not open with this wallet")]
    KeyForged,
}

/// The wallet's secret for manifests and file keys, derived from its seed. Prints as `[secret]`.
#[derive(Clone)]
pub struct ManifestKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for ManifestKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

impl ManifestKey {
    /// Derives the key from an account's 32-byte seed.
    pub fn derive(seed: &[u8; 32]) -> Self {
        Self(Zeroizing::new(blake3::derive_key(
            "holdfast/manifest-key/v1",
            seed,
        )))
    }

    fn aead(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&(*self.0).into())
    }

    /// Seals a file key for this wallet; `file_tag` binds it to its object.
    pub fn wrap(
        &self,
        key: &FileKey,
        file_tag: &FileTag,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> WrappedKey {
        let mut nonce = [0; 24];
        rng.fill_bytes(&mut nonce);
        let payload = Payload {
            msg: key.expose(),
            aad: &wrap_aad(file_tag),
        };
        let sealed = self
            .aead()
            .encrypt(&XNonce::from(nonce), payload)
            .expect("32 bytes are far below the AEAD's limit");
        let sealed = sealed
            .try_into()
            .expect("32 bytes and a 16-byte tag are 48 bytes");
        WrappedKey { nonce, sealed }
    }

    /// Opens the file key that was wrapped for the object with this tag.
    pub fn unwrap_key(
        &self,
        key: &WrappedKey,
        file_tag: &FileTag,
    ) -> Result<FileKey, ManifestError> {
        let payload = Payload {
            msg: &key.sealed[..],
            aad: &wrap_aad(file_tag),
        };
        let bytes = self
            .aead()
            .decrypt(&XNonce::from(key.nonce), payload)
            .map(Zeroizing::new)
            .map_err(|_| ManifestError::KeyForged)?;
        let key: [u8; 32] = bytes[..].try_into().map_err(|_| ManifestError::KeyForged)?;
        Ok(FileKey::from_bytes(key))
    }
}

fn wrap_aad(file_tag: &FileTag) -> Vec<u8> {
    [b"holdfast/file-key/v1".as_slice(), &file_tag.0].concat()
}

impl Manifest {
    /// Number of segments.
    pub fn segments(&self) -> u64 {
        segment_count(self.plain_len, self.segment_len)
    }

    /// Ciphertext bytes of segment `index`, which must exist.
    pub fn segment(&self, index: u64) -> Result<Geometry, ManifestError> {
        let sealed = cipher::sealed_len(self.plain_len);
        let start = index
            .checked_mul(self.segment_len)
            .filter(|start| *start < sealed)
            .ok_or(ManifestError::Malformed("no such segment"))?;
        Geometry::new(self.scheme, (sealed - start).min(self.segment_len))
            .map_err(|_| ManifestError::Malformed("impossible segment length"))
    }

    /// The n shards of segment `index`, which must exist.
    pub fn segment_shards(&self, index: u64) -> &[Shard] {
        let n = self.scheme.n();
        let start = index as usize * n;
        &self.shards[start..start + n]
    }

    /// The id that names this object.
    pub fn id(&self) -> ObjectId {
        ObjectId(Sha256::digest(self.encode()).into())
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(
            MAGIC.len() + 4 + self.name.len() + FIXED_BYTES + self.shards.len() * SHARD_BYTES,
        );
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        let name = &self.name.as_bytes()[..self.name.len().min(MAX_NAME_BYTES)];
        out.extend((name.len() as u16).to_le_bytes());
        out.extend(name);
        out.extend(self.plain_len.to_le_bytes());
        out.extend(self.plain_hash);
        out.extend([self.scheme.k() as u8, self.scheme.m() as u8]);
        out.extend(self.nonce_prefix.0);
        out.push(KEY_ACCOUNT);
        out.extend(self.key.nonce);
        out.extend(self.key.sealed);
        out.extend(self.file_tag.0);
        out.extend(self.segment_len.to_le_bytes());
        for shard in &self.shards {
            out.extend(shard.comm_p);
            out.extend(shard.blake3_root);
            out.extend(shard.provider.to_le_bytes());
            out.extend(shard.deal);
        }
        out
    }

    /// Decodes and checks; allocates at most the input's size.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge {
                bytes: bytes.len() as u64,
            });
        }
        let mut reader = Reader(bytes);
        if reader.array()? != MAGIC {
            return Err(ManifestError::Malformed("wrong first bytes"));
        }
        if reader.u16()? != VERSION {
            return Err(ManifestError::Malformed(
                "written by a newer version of holdfast",
            ));
        }
        let name_len = reader.u16()?;
        let name = checked_name(reader.bytes(name_len.into())?)?;
        let plain_len = reader.u64()?;
        let plain_hash = reader.array()?;
        let (k, m) = (reader.u8()?, reader.u8()?);
        let scheme = Scheme::new(k.into(), m.into())
            .map_err(|_| ManifestError::Malformed("impossible k and m"))?;
        let nonce_prefix = NoncePrefix(reader.array()?);
        if reader.u8()? != KEY_ACCOUNT {
            return Err(ManifestError::Malformed("unknown kind of key"));
        }
        let key = WrappedKey {
            nonce: reader.array()?,
            sealed: reader.array()?,
        };
        let file_tag = FileTag(reader.array()?);
        let segment_len = reader.u64()?;
        let count = shard_count(plain_len, segment_len, scheme)?;
        let shards = reader.shards(count)?;
        Ok(Self {
            name,
            plain_len,
            plain_hash,
            scheme,
            nonce_prefix,
            key,
            file_tag,
            segment_len,
            shards,
        })
    }
}

/// Bytes of the manifest of an object, before it is built: what a put checks first.
pub fn encoded_len(
    name: &str,
    plain_len: u64,
    segment_len: u64,
    scheme: Scheme,
) -> Result<usize, ManifestError> {
    let shards = shard_count(plain_len, segment_len, scheme)?;
    let bytes = MAGIC.len() + 4 + name.len() + FIXED_BYTES + shards * SHARD_BYTES;
    if bytes > MAX_MANIFEST_BYTES {
        return Err(ManifestError::TooLarge {
            bytes: bytes as u64,
        });
    }
    Ok(bytes)
}

/// Segments of an object; `segment_len` is not zero.
pub fn segment_count(plain_len: u64, segment_len: u64) -> u64 {
    cipher::sealed_len(plain_len).div_ceil(segment_len)
}

/// Shards of an object, refused when no manifest could hold them.
fn shard_count(plain_len: u64, segment_len: u64, scheme: Scheme) -> Result<usize, ManifestError> {
    if plain_len > cipher::MAX_PLAIN_BYTES {
        return Err(ManifestError::Malformed("the object is too long"));
    }
    if segment_len == 0 {
        return Err(ManifestError::Malformed("segments of zero bytes"));
    }
    let shards = segment_count(plain_len, segment_len).saturating_mul(scheme.n() as u64);
    if shards > (MAX_MANIFEST_BYTES / SHARD_BYTES) as u64 {
        return Err(ManifestError::TooLarge {
            bytes: shards.saturating_mul(SHARD_BYTES as u64),
        });
    }
    Ok(shards as usize)
}

fn checked_name(bytes: &[u8]) -> Result<String, ManifestError> {
    if bytes.len() > MAX_NAME_BYTES {
        return Err(ManifestError::Malformed("the name is too long"));
    }
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| ManifestError::Malformed("the name is not text"))
}

/// Takes bytes from the front; never reads past the end.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], ManifestError> {
        let (head, tail) = self
            .0
            .split_at_checked(len)
            .ok_or(ManifestError::Malformed("it ends too early"))?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ManifestError> {
        let bytes = self.bytes(N)?;
        Ok(bytes.try_into().expect("bytes() gave N bytes"))
    }

    fn u8(&mut self) -> Result<u8, ManifestError> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, ManifestError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, ManifestError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// The rest of the input, which must be exactly `count` shards.
    fn shards(&mut self, count: usize) -> Result<Vec<Shard>, ManifestError> {
        if self.0.len() != count * SHARD_BYTES {
            return Err(ManifestError::Malformed(
                "the number of shards differs from what the lengths say",
            ));
        }
        (0..count)
            .map(|_| {
                Ok(Shard {
                    comm_p: self.array()?,
                    blake3_root: self.array()?,
                    provider: self.u64()?,
                    deal: self.array()?,
                })
            })
            .collect()
    }
}

/// A manifest encrypted for its account, as it lies with providers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedManifest(pub Vec<u8>);

impl SealedManifest {
    /// Seals a manifest with a fresh nonce; the object id is bound as associated data.
    pub fn seal(
        manifest: &Manifest,
        key: &ManifestKey,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Self {
        let encoded = manifest.encode();
        let id = ObjectId(Sha256::digest(&encoded).into());
        let mut nonce = [0; 24];
        rng.fill_bytes(&mut nonce);
        let payload = Payload {
            msg: &encoded,
            aad: &id.0,
        };
        let sealed = key
            .aead()
            .encrypt(&XNonce::from(nonce), payload)
            .expect("a manifest is far below the AEAD's limit");
        Self([SEAL_MAGIC.as_slice(), &nonce, &sealed].concat())
    }

    /// Opens and decodes; the result is the manifest that `id` names, or an error.
    pub fn open(&self, id: &ObjectId, key: &ManifestKey) -> Result<Manifest, ManifestError> {
        if self.0.len() > MAX_MANIFEST_BYTES + SEAL_OVERHEAD_BYTES {
            return Err(ManifestError::TooLarge {
                bytes: self.0.len() as u64,
            });
        }
        let mut reader = Reader(&self.0);
        if reader.array()? != SEAL_MAGIC {
            return Err(ManifestError::Malformed("wrong first bytes of the seal"));
        }
        let nonce: [u8; 24] = reader.array()?;
        let payload = Payload {
            msg: reader.0,
            aad: &id.0,
        };
        let encoded = key
            .aead()
            .decrypt(&XNonce::from(nonce), payload)
            .map_err(|_| ManifestError::Forged)?;
        let manifest = Manifest::decode(&encoded)?;
        if Sha256::digest(&encoded)[..] != id.0 {
            return Err(ManifestError::Forged);
        }
        Ok(manifest)
    }
}

/// A segment's public commitment, the `file_root` of its deal group: anybody can recompute it from the group's n deals.
///
/// SHA-256("holdfast/segment/v1" ‖ k ‖ n ‖ shard length u64 LE ‖ (CommP ‖ BLAKE3 root) of each shard in order).
pub fn segment_root(k: u8, shard_len: u64, shards: &[([u8; 32], [u8; 32])]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"holdfast/segment/v1");
    hash.update([k, shards.len() as u8]);
    hash.update(shard_len.to_le_bytes());
    for (comm_p, blake3_root) in shards {
        hash.update(comm_p);
        hash.update(blake3_root);
    }
    hash.finalize().into()
}

/// What a deal's public label says: `data/<file tag>/<segment>/<shard>/<bytes>/<drawn>` or
/// `manifest/<object id>/<file tag>/<part>/<parts>/<bytes>/<drawn>`; `bytes` is the piece's length before padding, `drawn` the epoch
/// whose beacon drew the put's holders ([`super::placement`]). Labels of earlier versions end before it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Label {
    /// A shard of an object's segment.
    Data {
        /// Which object.
        file_tag: FileTag,
        /// Segment number.
        segment: u64,
        /// Shard number.
        shard: u8,
        /// Shard bytes.
        bytes: u64,
        /// Epoch of the draw.
        drawn: Option<Epoch>,
    },
    /// A part of an object's sealed manifest.
    Manifest {
        /// The object.
        object: ObjectId,
        /// Links the data deals.
        file_tag: FileTag,
        /// Part number.
        part: u32,
        /// How many parts there are.
        parts: u32,
        /// Part bytes.
        bytes: u64,
        /// Epoch of the draw.
        drawn: Option<Epoch>,
    },
}

impl Label {
    /// The epoch whose beacon drew the holders of this put.
    pub fn drawn(&self) -> Option<Epoch> {
        match self {
            Self::Data { drawn, .. } | Self::Manifest { drawn, .. } => *drawn,
        }
    }
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Data {
                file_tag,
                segment,
                shard,
                bytes,
                drawn: _,
            } => write!(f, "data/{file_tag}/{segment}/{shard}/{bytes}")?,
            Self::Manifest {
                object,
                file_tag,
                part,
                parts,
                bytes,
                drawn: _,
            } => write!(f, "manifest/{object}/{file_tag}/{part}/{parts}/{bytes}")?,
        }
        match self.drawn() {
            Some(epoch) => write!(f, "/{epoch}"),
            None => Ok(()),
        }
    }
}

impl std::str::FromStr for Label {
    type Err = ();

    /// Reads a label; foreign ones (other software, other versions) are an error to skip.
    fn from_str(text: &str) -> Result<Self, ()> {
        let fields: Vec<&str> = text.split('/').take(8).collect();
        let epoch = |drawn: &[&str]| -> Result<Option<Epoch>, ()> {
            let drawn = drawn.first().map(|drawn| drawn.parse().map(Epoch));
            drawn.transpose().map_err(drop)
        };
        let label = match fields[..] {
            ["data", file_tag, segment, shard, bytes, ref drawn @ ..] if drawn.len() <= 1 => {
                Self::Data {
                    file_tag: file_tag.parse().map_err(drop)?,
                    segment: segment.parse().map_err(drop)?,
                    shard: shard.parse().map_err(drop)?,
                    bytes: bytes.parse().map_err(drop)?,
                    drawn: epoch(drawn)?,
                }
            }
            [
                "manifest",
                object,
                file_tag,
                part,
                parts,
                bytes,
                ref drawn @ ..,
            ] if drawn.len() <= 1 => Self::Manifest {
                object: object.parse().map_err(drop)?,
                file_tag: file_tag.parse().map_err(drop)?,
                part: part.parse().map_err(drop)?,
                parts: parts.parse().map_err(drop)?,
                bytes: bytes.parse().map_err(drop)?,
                drawn: epoch(drawn)?,
            },
            _ => return Err(()),
        };
        // One text per label: upper-case hex, a plus sign or leading zeros are foreign.
        if label.to_string() == text {
            Ok(label)
        } else {
            Err(())
        }
    }
}

/// What a decoder does with any bytes: an error, or a value that encodes to the same bytes. Body of the fuzz target.
pub fn fuzz_decode(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::decode(bytes) {
        assert_eq!(manifest.encode(), bytes, "one encoding per value");
        for index in 0..manifest.segments().min(1000) {
            manifest
                .segment(index)
                .expect("a decoded manifest's segment");
            manifest.segment_shards(index);
        }
    }
    let key = ManifestKey::derive(&[0; 32]);
    let _ = SealedManifest(bytes.to_vec()).open(&ObjectId([0; 32]), &key);
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(label) = text.parse::<Label>()
    {
        assert_eq!(label.to_string(), text, "one text per label");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;

    fn rng() -> rand_chacha::ChaCha20Rng {
        rand_chacha::ChaCha20Rng::seed_from_u64(5)
    }

    fn manifest(plain_len: u64, segment_len: u64) -> Manifest {
        let scheme = Scheme::new(2, 2).expect("legal");
        let file_tag = FileTag([9; 16]);
        let key = ManifestKey::derive(&[1; 32]);
        let count = shard_count(plain_len, segment_len, scheme).expect("small");
        Manifest {
            name: "photo.tar".into(),
            plain_len,
            plain_hash: [2; 32],
            scheme,
            nonce_prefix: NoncePrefix([3; 19]),
            key: key.wrap(&FileKey::from_bytes([4; 32]), &file_tag, &mut rng()),
            file_tag,
            segment_len,
            shards: (0..count)
                .map(|i| Shard {
                    comm_p: [i as u8; 32],
                    blake3_root: [5; 32],
                    provider: i as u64,
                    deal: [6; 32],
                })
                .collect(),
        }
    }

    #[test]
    fn a_manifest_comes_back_sealed_and_bare() {
        let manifest = manifest(100_000, 40_000);
        assert_eq!(manifest.segments(), 3);
        let bytes = manifest.encode();
        assert_eq!(
            bytes.len(),
            encoded_len("photo.tar", 100_000, 40_000, manifest.scheme).expect("small")
        );
        assert_eq!(Manifest::decode(&bytes), Ok(manifest.clone()));
        let key = ManifestKey::derive(&[1; 32]);
        let sealed = SealedManifest::seal(&manifest, &key, &mut rng());
        assert_eq!(sealed.0.len(), bytes.len() + SEAL_OVERHEAD_BYTES);
        assert_eq!(sealed.open(&manifest.id(), &key), Ok(manifest.clone()));
        assert_eq!(
            key.unwrap_key(&manifest.key, &manifest.file_tag)
                .map(|key| *key.expose()),
            Ok([4; 32])
        );
    }

    #[test]
    fn a_one_segment_manifest_of_four_shards_fits_half_a_two_kib_sector() {
        let manifest = manifest(1500, 2032);
        assert!(manifest.encode().len() + SEAL_OVERHEAD_BYTES <= 1016);
    }

    #[test]
    fn the_format_is_pinned() {
        assert_eq!(
            manifest(100_000, 40_000).id().to_string(),
            "7d78e2087615739083966c5bb0030654f67ce6fd95714c231d3b3cef0413aa8c"
        );
        assert_eq!(
            hex::encode(segment_root(
                2,
                77,
                &[([1; 32], [2; 32]), ([3; 32], [4; 32])]
            )),
            "bba3d6aea21127eff4ef0594987bb3f4e1f6f4e51c81a30f1142048f02d7048e"
        );
    }

    #[test]
    fn tm_c9_another_wallet_another_id_or_a_flipped_bit_opens_nothing() {
        let manifest = manifest(1000, 2032);
        let key = ManifestKey::derive(&[1; 32]);
        let other = ManifestKey::derive(&[2; 32]);
        let id = manifest.id();
        let sealed = SealedManifest::seal(&manifest, &key, &mut rng());
        assert_eq!(sealed.open(&id, &other), Err(ManifestError::Forged));
        assert_eq!(
            sealed.open(&ObjectId([0; 32]), &key),
            Err(ManifestError::Forged)
        );
        assert_eq!(
            other.unwrap_key(&manifest.key, &manifest.file_tag).err(),
            Some(ManifestError::KeyForged)
        );
        for at in 0..sealed.0.len() {
            let mut bad = sealed.clone();
            bad.0[at] ^= 0x10;
            assert!(bad.open(&id, &key).is_err(), "byte {at}");
        }
    }

    #[test]
    fn tm_c8_bombs_are_refused_by_arithmetic_alone() {
        let good = manifest(1000, 2032);
        let tamper = |at: usize, with: &[u8]| {
            let mut bytes = good.encode();
            bytes[at..at + with.len()].copy_from_slice(with);
            Manifest::decode(&bytes)
        };
        let name_end = 8 + good.name.len();
        let huge = u64::MAX.to_le_bytes();
        assert!(tamper(6, &u16::MAX.to_le_bytes()).is_err(), "name length");
        assert!(tamper(name_end, &huge).is_err(), "plain length");
        assert!(tamper(name_end + 40, &[255, 255]).is_err(), "k and m");
        assert!(tamper(name_end + 40, &[0, 2]).is_err(), "no data shards");
        let segment_len_at = good.encode().len() - 4 * SHARD_BYTES - 8;
        for value in [0, 1, u64::MAX] {
            assert!(
                value == u64::MAX || tamper(segment_len_at, &value.to_le_bytes()).is_err(),
                "segment length {value}"
            );
        }
        let mut longer = good.encode();
        longer.push(0);
        assert!(Manifest::decode(&longer).is_err(), "leftover byte");
        assert!(Manifest::decode(&vec![0; MAX_MANIFEST_BYTES + 1]).is_err());
        assert!(
            encoded_len("x", cipher::MAX_PLAIN_BYTES, 2032, good.scheme).is_err(),
            "a put of a huge file on tiny sectors is refused up front"
        );
    }

    #[test]
    fn labels_read_back_and_foreign_ones_are_skipped() {
        for label in [
            Label::Data {
                file_tag: FileTag([1; 16]),
                segment: 12,
                shard: 254,
                bytes: 99,
                drawn: Some(Epoch(41)),
            },
            // As earlier versions wrote them.
            Label::Data {
                file_tag: FileTag([1; 16]),
                segment: 0,
                shard: 0,
                bytes: 99,
                drawn: None,
            },
            Label::Manifest {
                object: ObjectId([0xfe; 32]),
                file_tag: FileTag([1; 16]),
                part: 0,
                parts: 3,
                bytes: 2032,
                drawn: None,
            },
            Label::Manifest {
                object: ObjectId([0xfe; 32]),
                file_tag: FileTag([1; 16]),
                part: u32::MAX,
                parts: u32::MAX,
                bytes: u64::MAX,
                drawn: Some(Epoch(u64::MAX)),
            },
        ] {
            let text = label.to_string();
            assert!(text.len() <= 256, "the chain's limit on labels");
            assert_eq!(text.parse(), Ok(label));
        }
        let old = "data/01010101010101010101010101010101/12/254/99";
        let old: Label = old.parse().expect("of an earlier version");
        assert_eq!(old.drawn(), None);
        for foreign in [
            "",
            "manifest",
            "data/00/1/2/3",
            "data/01010101010101010101010101010101/+1/2/3",
            "data/01010101010101010101010101010101/1/2/3/04",
            "data/01010101010101010101010101010101/1/2/3/4/5",
            "data/01010101010101010101010101010101/1/2/3/",
        ] {
            assert!(foreign.parse::<Label>().is_err(), "{foreign}");
        }
    }

    proptest! {
        #[test]
        fn tm_c8_any_bytes_decode_calmly(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            fuzz_decode(&bytes);
        }

        #[test]
        fn tm_c8_any_damaged_manifest_decodes_calmly(at in 0usize..700, value: u8, cut in 0usize..700) {
            let mut bytes = manifest(1500, 2032).encode();
            let at = at % bytes.len();
            bytes[at] = value;
            fuzz_decode(&bytes);
            bytes.truncate(cut);
            fuzz_decode(&bytes);
        }

        #[test]
        fn tm_c8_any_text_is_a_label_or_not(text in "(data|manifest)(/[0-9a-f+]{0,64}){0,8}") {
            fuzz_decode(text.as_bytes());
        }
    }
}
