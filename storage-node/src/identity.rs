//! Secret keys: the account's (`wallet.key`) and the network identity's (`net.key`), and the rules for their files.
//!
//! Spec: `threat-model.md` H7. A key file is created with mode 0600 and never readable by others, not even for a moment; it is
//! refused at open when its mode or owner says otherwise; what is read is wiped from memory after use; keys print as `[secret]`.
//!
//! ```text
//! # Holdfast secret key: whoever has this file has the account. Keep a copy, show it to nobody.
//! kind: wallet | net
//! public: hf1… | 64 hex digits
//! seed: 64 hex digits                                   (ed25519 seed)
//! ```
//!
//! With a passphrase the same text is wrapped by age's scrypt recipient, so the standard `age -d` opens it without us.
//!
//! Writing: temporary file 0600 → fsync → link (fails if the name is taken, so a key is never overwritten) → fsync of the
//! folder. A crash leaves no key or the whole key. A wallet is also the root of [`ManifestKey`]: the file restores every object.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use chain_lite::account::Address;
use chain_lite::vfs::create_dirs;
use ed25519_dalek::SigningKey;
use rand::rngs::OsRng;
use rand::{CryptoRng, RngCore};
use retrieval::NetSecret;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::object::manifest::ManifestKey;

/// Longest key file that is read: a protected one is about 400 bytes.
const MAX_KEY_FILE_BYTES: u64 = 16 * 1024;
/// First bytes of every age file.
const AGE_MAGIC: &[u8] = b"age-encryption.org/v1";
/// Largest scrypt work factor accepted at open (2^22: about 4 GiB·s of work is refused, not done).
const MAX_WORK_FACTOR: u8 = 20;

/// An account's secret key.
pub struct Wallet {
    key: SigningKey,
}

/// Why a key is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No key file there.
    #[error("there is no key at {}", .0.display())]
    Missing(PathBuf),
    /// A key file is there already and stays untouched.
    #[error("there is already a key at {}", .0.display())]
    Exists(PathBuf),
    /// Others may read or write the file.
    #[error("{} can be read by other users (mode {mode:o})", .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file belongs to somebody else, or is no plain file.
    #[error("{} is not a plain file of this user", .0.display())]
    Foreign(PathBuf),
    /// The file is protected and no passphrase was given.
    #[error("{} is protected by a passphrase", .0.display())]
    Locked(PathBuf),
    /// The passphrase does not open it.
    #[error("the passphrase does not open {}", .0.display())]
    WrongPassphrase(PathBuf),
    /// Not a key file, or a damaged one.
    #[error("{} is not a usable key file: {reason}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// The disk said no.
    #[error("cannot {what} {}: {error}", .path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
}

/// What a key file is for; a wallet's seed is never taken for a network key or the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Wallet,
    Net,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Wallet => "wallet",
            Self::Net => "net",
        }
    }

    fn public(self, seed: &[u8; 32]) -> String {
        match self {
            Self::Wallet => Wallet::from_seed(seed).address().to_string(),
            Self::Net => NetSecret::from_seed(seed).peer_id().to_string(),
        }
    }
}

impl Wallet {
    /// A wallet from its seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self {
            key: SigningKey::from_bytes(seed),
        }
    }

    /// A new wallet from the given randomness; nothing is written.
    pub fn generate(rng: &mut (impl RngCore + CryptoRng)) -> Self {
        Self {
            key: SigningKey::generate(rng),
        }
    }

    /// Makes a wallet and its key file, protected if a passphrase is given. An existing file is never overwritten.
    pub fn create(path: &Path, passphrase: Option<&SecretString>) -> Result<Self, KeyError> {
        let wallet = Self::generate(&mut OsRng);
        write_new(path, Kind::Wallet, &wallet.key.to_bytes(), passphrase)?;
        Ok(wallet)
    }

    /// Opens a wallet's key file. `passphrase` is asked for only when the file is protected.
    pub fn open(
        path: &Path,
        passphrase: impl FnOnce() -> Option<SecretString>,
    ) -> Result<Self, KeyError> {
        let seed = read_seed(path, Kind::Wallet, passphrase)?;
        Ok(Self::from_seed(&seed))
    }

    /// Where the account's money is.
    pub fn address(&self) -> Address {
        Address::of(&self.key.verifying_key())
    }

    /// The signing key, for `chain_lite::message`.
    pub fn signing_key(&self) -> &SigningKey {
        &self.key
    }

    /// The key that opens the account's manifests.
    pub fn manifest_key(&self) -> ManifestKey {
        ManifestKey::derive(&Zeroizing::new(self.key.to_bytes()))
    }
}

impl std::fmt::Debug for Wallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wallet({}, [secret])", self.address())
    }
}

/// Opens a network key, or makes one on first use. Network keys carry no passphrase: a server must start by itself, and the
/// key holds no money.
pub fn open_or_create_net_key(path: &Path) -> Result<NetSecret, KeyError> {
    match read_seed(path, Kind::Net, || None) {
        Ok(seed) => Ok(NetSecret::from_seed(&seed)),
        Err(KeyError::Missing(_)) => {
            let secret = NetSecret::generate();
            write_new(path, Kind::Net, &secret.to_seed(), None)?;
            Ok(secret)
        }
        Err(error) => Err(error),
    }
}

fn write_new(
    path: &Path,
    kind: Kind,
    seed: &[u8; 32],
    passphrase: Option<&SecretString>,
) -> Result<(), KeyError> {
    let io = |what| {
        move |error| KeyError::Io {
            what,
            path: path.to_owned(),
            error,
        }
    };
    if path.symlink_metadata().is_ok() {
        return Err(KeyError::Exists(path.to_owned()));
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    create_private_dir(folder).map_err(io("create the folder of"))?;
    let text = Zeroizing::new(format!(
        "# Holdfast secret key: whoever has this file has the account. Keep a copy, show it to nobody.\n\
         kind: {}\npublic: {}\nseed: {}\n",
        kind.name(),
        kind.public(seed),
        *Zeroizing::new(hex::encode(seed)),
    ));
    let bytes = match passphrase {
        None => Zeroizing::new(text.as_bytes().to_vec()),
        Some(passphrase) => Zeroizing::new(
            age::encrypt(
                &age::scrypt::Recipient::new(passphrase.expose_secret().to_owned().into()),
                text.as_bytes(),
            )
            .map_err(|error| io("protect")(io::Error::other(error)))?,
        ),
    };
    // tempfile creates with 0600, and persist_noclobber links: an existing key wins even against a race.
    let mut file = tempfile::Builder::new()
        .prefix(".key-")
        .tempfile_in(folder)
        .map_err(io("write"))?;
    file.write_all(&bytes).map_err(io("write"))?;
    file.as_file().sync_all().map_err(io("write"))?;
    file.persist_noclobber(path).map_err(|error| {
        if error.error.kind() == io::ErrorKind::AlreadyExists {
            KeyError::Exists(path.to_owned())
        } else {
            io("write")(error.error)
        }
    })?;
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(io("write"))
}

/// Creates a folder (and its parents) that only this user may enter, durably; an existing one is left as it is.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    create_dirs(path, &builder)
}

fn read_seed(
    path: &Path,
    kind: Kind,
    passphrase: impl FnOnce() -> Option<SecretString>,
) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let bytes = read_guarded(path)?;
    let text = if bytes.starts_with(AGE_MAGIC) {
        let passphrase = passphrase().ok_or_else(|| KeyError::Locked(path.to_owned()))?;
        unlock(path, &bytes, &passphrase)?
    } else {
        bytes
    };
    parse(&text, kind).map_err(|reason| KeyError::Damaged {
        path: path.to_owned(),
        reason,
    })
}

/// Reads a key file after checking, on the open file, that it is this user's and nobody else's.
fn read_guarded(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let io = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => KeyError::Missing(path.to_owned()),
        _ => KeyError::Io {
            what: "read",
            path: path.to_owned(),
            error,
        },
    };
    let file = open_without_blocking(path).map_err(io)?;
    let meta = file.metadata().map_err(io)?;
    check_owner(path, &meta)?;
    if meta.len() > MAX_KEY_FILE_BYTES {
        return Err(KeyError::Damaged {
            path: path.to_owned(),
            reason: "it is far too long",
        });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_KEY_FILE_BYTES as usize));
    file.take(MAX_KEY_FILE_BYTES)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    Ok(bytes)
}

/// A pipe under the key's name must not make us wait for a writer.
fn open_without_blocking(path: &Path) -> io::Result<File> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a plain file",
        ));
    }
    OpenOptions::new().read(true).open(path)
}

#[cfg(unix)]
fn check_owner(path: &Path, meta: &std::fs::Metadata) -> Result<(), KeyError> {
    use std::os::unix::fs::MetadataExt;
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    // The process's own user id, without a C call: what owns a file that this process has just made.
    let probe = tempfile::tempfile().and_then(|file| file.metadata());
    match probe {
        Ok(own) if own.uid() != meta.uid() => Err(KeyError::Foreign(path.to_owned())),
        _ if !meta.is_file() => Err(KeyError::Foreign(path.to_owned())),
        _ => Ok(()),
    }
}

#[cfg(not(unix))]
fn check_owner(path: &Path, meta: &std::fs::Metadata) -> Result<(), KeyError> {
    if meta.is_file() {
        Ok(())
    } else {
        Err(KeyError::Foreign(path.to_owned()))
    }
}

fn unlock(
    path: &Path,
    bytes: &[u8],
    passphrase: &SecretString,
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let mut identity = age::scrypt::Identity::new(passphrase.expose_secret().to_owned().into());
    identity.set_max_work_factor(MAX_WORK_FACTOR);
    age::decrypt(&identity, bytes)
        .map(Zeroizing::new)
        .map_err(|error| match error {
            age::DecryptError::DecryptionFailed
            | age::DecryptError::KeyDecryptionFailed
            | age::DecryptError::NoMatchingKeys => KeyError::WrongPassphrase(path.to_owned()),
            age::DecryptError::ExcessiveWork { .. } => KeyError::Damaged {
                path: path.to_owned(),
                reason: "its scrypt work factor is too high to be ours",
            },
            _ => KeyError::Damaged {
                path: path.to_owned(),
                reason: "its encryption is damaged",
            },
        })
}

fn parse(text: &[u8], kind: Kind) -> Result<Zeroizing<[u8; 32]>, &'static str> {
    let text = std::str::from_utf8(text).map_err(|_| "it is not text")?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .map(str::trim)
    };
    if field("kind").ok_or("it names no kind")? != kind.name() {
        return Err("it is a key of another kind");
    }
    let mut seed = Zeroizing::new([0; 32]);
    hex::decode_to_slice(field("seed").ok_or("it holds no seed")?, &mut *seed)
        .map_err(|_| "its seed is not 64 hex digits")?;
    // A typing error in a copied seed shows here, not as an empty account.
    if field("public") != Some(&kind.public(&seed)) {
        return Err("its seed and its public key do not belong together");
    }
    Ok(seed)
}

/// Any bytes as the text of a key file: refused, or a seed whose public key the text names. Body of the fuzz target.
pub fn fuzz_key_text(bytes: &[u8]) {
    for kind in [Kind::Wallet, Kind::Net] {
        if let Ok(seed) = parse(bytes, kind) {
            let text = std::str::from_utf8(bytes).expect("it was read as text");
            assert!(text.contains(&kind.public(&seed)));
            assert!(text.contains(kind.name()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    fn none() -> Option<SecretString> {
        None
    }

    #[test]
    fn a_wallet_comes_back_and_is_never_overwritten() {
        let dir = home();
        let path = dir.path().join("deep/wallet.key");
        let made = Wallet::create(&path, None).expect("creates");
        let opened = Wallet::open(&path, none).expect("opens");
        assert_eq!(made.address(), opened.address());
        assert!(matches!(
            Wallet::create(&path, None),
            Err(KeyError::Exists(_))
        ));
        assert_eq!(
            Wallet::open(&path, none).expect("unchanged").address(),
            made.address()
        );
    }

    #[cfg(unix)]
    #[test]
    fn tm_h7_a_key_file_is_private_from_birth_and_refused_when_it_is_not() {
        use std::os::unix::fs::PermissionsExt;
        let dir = home();
        let path = dir.path().join("wallet.key");
        Wallet::create(&path, None).expect("creates");
        let mode = |path: &Path| path.metadata().expect("exists").permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        for bad in [0o644, 0o640, 0o604, 0o660, 0o602] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(bad)).expect("own file");
            match Wallet::open(&path, none) {
                Err(KeyError::Exposed { mode, .. }) => assert_eq!(mode, bad),
                other => panic!("mode {bad:o} gave {other:?}"),
            }
        }
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o400)).expect("own file");
        Wallet::open(&path, none).expect("read-only for its owner is fine");
    }

    #[test]
    fn tm_h7_nothing_that_prints_shows_the_seed() {
        let dir = home();
        let path = dir.path().join("wallet.key");
        let wallet = Wallet::create(&path, None).expect("creates");
        let seed = hex::encode(wallet.signing_key().to_bytes());
        let text = std::fs::read_to_string(&path).expect("own file");
        assert!(text.contains(&seed), "the test looks for the right thing");
        let damaged = text.replace("kind: wallet", "kind: walet");
        std::fs::write(&path, damaged).expect("own file");
        let error = Wallet::open(&path, none).expect_err("damaged");
        for shown in [
            format!("{wallet:?}"),
            format!("{:?}", wallet.manifest_key()),
            format!("{error:?} {error}"),
        ] {
            assert!(
                !shown.contains(&seed) && !shown.contains(&seed[..16]),
                "{shown}"
            );
        }
    }

    #[test]
    fn damaged_foreign_and_huge_files_are_named() {
        let dir = home();
        let path = dir.path().join("wallet.key");
        Wallet::create(&path, None).expect("creates");
        let good = std::fs::read_to_string(&path).expect("own file");
        let seed_at = good.find("seed: ").expect("has a seed") + 6;
        let mut flipped = good.clone().into_bytes();
        flipped[seed_at] = if flipped[seed_at] == b'0' { b'1' } else { b'0' };
        let cases: [(Vec<u8>, &str); 6] = [
            (Vec::new(), "no kind"),
            (vec![0xff; 100], "not text"),
            (flipped, "do not belong together"),
            (
                good.replace("kind: wallet", "kind: net").into_bytes(),
                "another kind",
            ),
            (good.as_bytes()[..seed_at + 10].to_vec(), "64 hex digits"),
            (vec![b'x'; 100_000], "too long"),
        ];
        for (bytes, expected) in cases {
            std::fs::write(&path, bytes).expect("own file");
            let error = Wallet::open(&path, none).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(matches!(
            Wallet::open(&dir.path().join("absent"), none),
            Err(KeyError::Missing(_))
        ));
        assert!(matches!(
            Wallet::open(dir.path(), none),
            Err(KeyError::Io { .. })
        ));
    }

    #[test]
    fn a_passphrase_protects_and_a_wrong_one_is_called_wrong() {
        let dir = home();
        let path = dir.path().join("wallet.key");
        let right = SecretString::from("correct horse".to_owned());
        let made = Wallet::create(&path, Some(&right)).expect("creates");
        let raw = std::fs::read(&path).expect("own file");
        assert!(raw.starts_with(AGE_MAGIC));
        let opened = Wallet::open(&path, || Some(right)).expect("opens");
        assert_eq!(opened.address(), made.address());
        let wrong = || Some(SecretString::from("battery staple".to_owned()));
        assert!(matches!(
            Wallet::open(&path, wrong),
            Err(KeyError::WrongPassphrase(_))
        ));
        assert!(matches!(
            Wallet::open(&path, none),
            Err(KeyError::Locked(_))
        ));
    }

    #[test]
    fn a_network_key_is_made_once() {
        let dir = home();
        let path = dir.path().join("net.key");
        let first = open_or_create_net_key(&path).expect("makes");
        let again = open_or_create_net_key(&path).expect("reads");
        assert_eq!(first.peer_id(), again.peer_id());
        assert!(matches!(
            Wallet::open(&path, none),
            Err(KeyError::Damaged { .. })
        ));
    }
}
