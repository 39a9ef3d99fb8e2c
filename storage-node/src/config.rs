//! Where things are: the home folder and its layout, the parameter cache, the chain's address.
//!
//! Resolved once at the edge ([`Config::resolve`]) from flags, then environment, then the platform's folders, and passed
//! on as values; nothing below `cli` reads the environment.
//!
//! | what | flag | variable | default |
//! |---|---|---|---|
//! | home | `--home` | `HOLDFAST_HOME` | the platform's data folder, `holdfast` |
//! | parameters | — | `HOLDFAST_PARAMS` | the platform's cache folder, `holdfast/params` |
//! | chain | `--chain` | `HOLDFAST_CHAIN` | the URL a devnet left in `<home>/chain.url` |
//!
//! The parameter cache stands apart from the home, so that a second home finds the proving keys of the first.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chain_lite::vfs::{OsVfs, Vfs};
use directories::ProjectDirs;

/// Variable that names the home folder when `--home` is absent.
pub const HOME_VARIABLE: &str = "HOLDFAST_HOME";
/// Variable that names the folder of proving and verifying keys.
pub const PARAMS_VARIABLE: &str = "HOLDFAST_PARAMS";
/// Variable that names the chain's JSON-RPC address when `--chain` is absent.
pub const CHAIN_VARIABLE: &str = "HOLDFAST_CHAIN";
/// Largest list of parents that a node keeps on disk: that of 512 MiB sectors is 896 MiB.
pub const LARGEST_PARENT_LIST: u64 = 1 << 30;
/// Longest chain URL that [`Home::read_chain_url`] accepts, in bytes.
const MAX_CHAIN_URL_BYTES: u64 = 1024;

/// Where lists of parents are kept: beside the keys, because they too depend on the proof type alone.
pub fn parents_dir(params_dir: &Path) -> PathBuf {
    params_dir.join("parents")
}

/// Everything a command needs to know about its surroundings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The home folder of this run.
    pub home: Home,
    /// Cache of proving and verifying keys.
    pub params_dir: PathBuf,
    /// Address given by `--chain` or [`CHAIN_VARIABLE`], if any. See [`Config::chain_url`].
    pub chain: Option<String>,
}

/// Why the surroundings could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The platform names no data folder and the user named none.
    #[error("this platform names no folder for application data")]
    NoPlatformFolder,
    /// No chain address is known.
    #[error(
        "no chain address: neither --chain, nor {CHAIN_VARIABLE}, nor {path} names one",
        path = .looked_at.display()
    )]
    NoChain {
        /// The file that would have named it.
        looked_at: PathBuf,
    },
    /// The chain address file exists but cannot be used.
    #[error("cannot use the chain address in {path}: {reason}", path = .path.display())]
    BadChainUrl {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Config {
    /// Resolves flags, the given environment and the platform's folders. `env` is `std::env::var_os` outside tests.
    pub fn resolve(
        home: Option<PathBuf>,
        chain: Option<String>,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let platform = ProjectDirs::from("", "", "holdfast");
        let named = |variable: &str| {
            env(variable)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let root = home
            .or_else(|| named(HOME_VARIABLE))
            .or_else(|| platform.as_ref().map(|dirs| dirs.data_dir().to_owned()))
            .ok_or(ConfigError::NoPlatformFolder)?;
        let params_dir = named(PARAMS_VARIABLE)
            .or_else(|| {
                platform
                    .as_ref()
                    .map(|dirs| dirs.cache_dir().join("params"))
            })
            .ok_or(ConfigError::NoPlatformFolder)?;
        let chain = chain.or_else(|| {
            env(CHAIN_VARIABLE)
                .and_then(|value| value.into_string().ok())
                .filter(|value| !value.is_empty())
        });
        Ok(Self {
            home: Home::new(root),
            params_dir,
            chain,
        })
    }

    /// The chain's JSON-RPC address: flag or variable first, then the file a devnet left in the home folder.
    pub fn chain_url(&self) -> Result<String, ConfigError> {
        match &self.chain {
            Some(url) => Ok(url.clone()),
            None => self.home.read_chain_url(),
        }
    }
}

/// The home folder: one place for each file, named here and nowhere else.
#[derive(Clone, Debug)]
pub struct Home {
    root: PathBuf,
    vfs: Arc<dyn Vfs>,
}

impl Home {
    /// A home at `root`; nothing is created.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self::on(Arc::new(OsVfs), root)
    }

    /// [`Home::new`] whose records of money are kept on another file system: one whose power fails at each change (`chain-lite/sim`).
    pub fn on(vfs: Arc<dyn Vfs>, root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self { root, vfs }
    }

    /// What records of money are kept on ([`crate::client::record`]). Other files are the operating system's.
    pub fn vfs(&self) -> &Arc<dyn Vfs> {
        &self.vfs
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The account's secret key, 0600.
    pub fn wallet_key(&self) -> PathBuf {
        self.root.join("wallet.key")
    }

    /// The network identity's secret key, 0600.
    pub fn net_key(&self) -> PathBuf {
        self.root.join("net.key")
    }

    /// URL of the chain this home belongs to, written by `devnet up` and `provider init`.
    pub fn chain_url(&self) -> PathBuf {
        self.root.join("chain.url")
    }

    /// The newest block of the chain that this home believes.
    pub fn light_trust(&self) -> PathBuf {
        self.root.join("light.trust")
    }

    /// The client's journals and staged shards.
    pub fn client_dir(&self) -> PathBuf {
        self.root.join("client")
    }

    /// Receipts of what was read ([`crate::client::receipts`]); older ones beside it, with `.old` at the end.
    pub fn receipts(&self) -> PathBuf {
        self.client_dir().join("receipts")
    }

    /// A watcher's book.
    pub fn watch_dir(&self) -> PathBuf {
        self.root.join("watch")
    }

    /// Block log, index and genesis of an embedded or full node.
    pub fn chain_dir(&self) -> PathBuf {
        self.root.join("chain")
    }

    /// A provider's pieces, sectors, journal and scratch space.
    pub fn provider_dir(&self) -> PathBuf {
        self.root.join("provider")
    }

    /// A devnet's state: its own chain and one home per provider.
    pub fn devnet_dir(&self) -> PathBuf {
        self.root.join("devnet")
    }

    fn read_chain_url(&self) -> Result<String, ConfigError> {
        let path = self.chain_url();
        let bad = |reason: String| ConfigError::BadChainUrl {
            path: self.chain_url(),
            reason,
        };
        match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ConfigError::NoChain { looked_at: path });
            }
            Err(error) => return Err(bad(error.to_string())),
            Ok(meta) if meta.len() > MAX_CHAIN_URL_BYTES => {
                return Err(bad(format!("{} bytes are too many for a URL", meta.len())));
            }
            Ok(_) => {}
        }
        let text = std::fs::read_to_string(&path).map_err(|error| bad(error.to_string()))?;
        let url = text.trim();
        if url.starts_with("ws://") || url.starts_with("wss://") {
            Ok(url.to_owned())
        } else {
            Err(bad("it does not start with ws:// or wss://".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
        |name| {
            pairs
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.into())
        }
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_the_environment_over_the_platform() {
        let vars = [(HOME_VARIABLE, "/from-env"), (PARAMS_VARIABLE, "/keys")];
        let flag = Config::resolve(Some("/from-flag".into()), None, env(&vars)).expect("resolves");
        assert_eq!(flag.home.root(), Path::new("/from-flag"));
        assert_eq!(flag.params_dir, Path::new("/keys"));
        let from_env = Config::resolve(None, None, env(&vars)).expect("resolves");
        assert_eq!(from_env.home.root(), Path::new("/from-env"));
    }

    #[test]
    fn an_empty_variable_counts_as_absent() {
        let vars = [(CHAIN_VARIABLE, "")];
        let config = Config::resolve(Some("/h".into()), None, env(&vars)).expect("resolves");
        assert_eq!(config.chain, None);
    }

    #[test]
    fn the_chain_address_comes_from_the_flag_or_the_devnets_file_and_is_checked() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = Config::resolve(Some(dir.path().into()), None, env(&[])).expect("resolves");
        assert!(matches!(
            config.chain_url(),
            Err(ConfigError::NoChain { .. })
        ));
        std::fs::write(config.home.chain_url(), "ws://127.0.0.1:9000\n").expect("writes");
        assert_eq!(config.chain_url().expect("reads"), "ws://127.0.0.1:9000");
        std::fs::write(config.home.chain_url(), "x".repeat(2000)).expect("writes");
        assert!(matches!(
            config.chain_url(),
            Err(ConfigError::BadChainUrl { .. })
        ));
        let flag = Config::resolve(Some(dir.path().into()), Some("ws://other".into()), env(&[]))
            .expect("resolves");
        assert_eq!(flag.chain_url().expect("flag"), "ws://other");
    }
}
