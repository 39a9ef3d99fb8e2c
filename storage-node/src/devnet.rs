//! A chain and n providers embedded in one process, on loopback, with state that survives restarts.
//!
//! Place in the walk: what a newcomer starts first; the demo drives it through [`Devnet`]. Everything inside meets through
//! the same doors as in a real network: providers and clients speak JSON-RPC with the chain and QUIC with each other.
//! Spec: `DESIGN.md` §5 (solo engine, logical clock, devnet beacon); `chain.md` §2 (genesis money).
//!
//! ```text
//! <home>/wallet.key            the client's wallet, with money from genesis
//! <home>/chain.url             where this home finds the chain
//! <home>/devnet/devnet.json    size, providers, epoch length, port     genesis.bin   made once
//!               validator.key beacon.key faucet.key                    secrets, 0600
//!               chain/                                                 block log and index
//!               provider-1/ …                                          one home per provider
//!               validators.json validator-2/ …                         several validators: feature `bft`
//!               endpoints.json devnet.lock stop.request                who runs where; asks it to stop
//! ```
//! Anybody who can open these files can forge this chain's randomness and, because its proving keys come from a published
//! seed, its proofs. It is for trying out, and says so.
//!
//! Slowness is never a fault here: while a proof is unfinished its provider holds the clock. With several validators a lease is
//! passed on to all of them ([`crate::rpc::fellows`]), because one alone makes nobody wait, and their clocks go on only a few
//! epochs beyond what this process has seen (`devnet::validators`), however little of the processor it gets.
//! Memory: the chain, and each provider's idle need; one sector is sealed at a time on the whole machine.

#[cfg(feature = "bft")]
mod validators;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chain_lite::account::{Address, ProviderId};
use chain_lite::audit::Groth16Verifier;
use chain_lite::beacon::{BeaconParams, DevnetSigner};
use chain_lite::certificate::{Validator, ValidatorId};
use chain_lite::clock::{ClockError, ClockMode, MAX_LEASE_MS};
use chain_lite::engine::{EngineHandle, EngineStatus, solo};
use chain_lite::genesis::{CircuitKey, GENESIS_VERSION, Genesis, NetworkKind};
use chain_lite::ledger::{Ledger, LedgerError};
use chain_lite::mempool::Mempool;
use chain_lite::params::{ChainParams, VerificationMode};
use chain_lite::units::{EpochCount, TokenAmount};
use prover::snark::CircuitId;
use prover::snark::keys::KeyError as ProvingKeyError;
use prover::{Progress, SectorSize};
use serde::{Deserialize, Serialize};

use crate::chain::{ChainClient, ChainError};
use crate::config::Home;
use crate::identity::{KeyError, Wallet, create_private_dir};
use crate::kernels::Kernels;
use crate::provider::journal::{JournalError, replace_file};
use crate::provider::prover::{Workshop, WorkshopError};
use crate::provider::{
    self, ProviderConfig, ProviderError, ProviderHandle, ProviderSettings, enrol,
};
use crate::rpc::fellows::{self as told, Told};
use crate::rpc::{self, RpcError, RpcHandle};

/// Most validators of one devnet: each beyond the first is a process with its own copy of the chain.
pub const MAX_VALIDATORS: u16 = 16;
/// Most providers of one devnet: each is a full provider with its own sockets and threads.
pub const MAX_PROVIDERS: u16 = 32;
/// Money in genesis (`chain.md` §2).
const TOTAL_TOKENS: u64 = 1_000_000_000;
/// Each provider's part.
const PROVIDER_TOKENS: u64 = 50_000_000;
/// The home's own wallet's part.
const CLIENT_TOKENS: u64 = 10_000_000;
/// At least this much stays with the faucet.
const FAUCET_TOKENS: u64 = 100_000_000;
/// Longest state file that is read, in bytes.
const MAX_STATE_BYTES: u64 = 8 << 20;
/// How long `stop_requested` pauses between looks.
const STOP_POLL: Duration = Duration::from_millis(200);
/// Looks at a taken lock before it counts as taken, and the pause between them.
const LOCK_ATTEMPTS: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

const STATE_FILE: &str = "devnet.json";
const GENESIS_FILE: &str = "genesis.bin";
const ENDPOINTS_FILE: &str = "endpoints.json";
const LOCK_FILE: &str = "devnet.lock";
const STOP_FILE: &str = "stop.request";

/// What a devnet is made with. Written down at the first start; later starts use what is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevnetConfig {
    /// How many providers.
    pub providers: u16,
    /// Size of their sectors.
    pub sector_size: SectorSize,
    /// Milliseconds between blocks. 100 makes a proving period of 12 s and keeps a core busy; 2000 is the rules' own pace.
    pub epoch_ms: u64,
    /// Loopback port of the chain's JSON-RPC; 0 takes a free one, which is then kept.
    pub rpc_port: u16,
    /// Whether providers reseal damaged replicas by themselves.
    pub auto_repair: bool,
    /// Sectors' worth of pieces that each provider allows for while they are on their way; see
    /// [`ProviderSettings::burst_sectors`].
    #[serde(default = "default_burst")]
    pub burst_sectors: u64,
    /// How many validators. 1 is the embedded solo engine; more are processes of their own, except the first.
    #[serde(default = "default_validators")]
    pub validators: u16,
    /// Whether the chain takes window PoSts unverified where it may; then somebody has to watch ([`crate::watch`]).
    #[serde(default)]
    pub optimistic: bool,
    /// Whether money is closed credit: it pays for storage and secures it, and nobody can pass it on or take it out. There is no
    /// faucet then: genesis gives all there is to the home's wallet and the providers.
    #[serde(default)]
    pub closed_credit: bool,
}

fn default_burst() -> u64 {
    enrol::BURST_SECTORS
}

fn default_validators() -> u16 {
    1
}

impl Default for DevnetConfig {
    fn default() -> Self {
        Self {
            providers: 4,
            sector_size: SectorSize::Mib8,
            epoch_ms: 1000,
            rpc_port: 0,
            auto_repair: true,
            burst_sectors: default_burst(),
            validators: default_validators(),
            optimistic: false,
            closed_credit: false,
        }
    }
}

/// Why a devnet does not start, or what failed in it.
#[derive(Debug, thiserror::Error)]
pub enum DevnetError {
    /// Settings that make no devnet.
    #[error("{0}")]
    Config(String),
    /// One runs already.
    #[error(
        "a devnet is already running in {0}; `holdfast devnet status` shows it, `holdfast devnet down` stops it"
    )]
    Running(PathBuf),
    /// None runs.
    #[error("no devnet is running in {0}; start one with `holdfast devnet up`")]
    NotRunning(PathBuf),
    /// It does not stop.
    #[error(
        "the devnet (process {0}) has not stopped yet; a proof at hand ends first, so try again in a minute"
    )]
    StillRunning(u32),
    /// A file.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file with unusable content.
    #[error("{path}: {reason}; move the folder {folder} away to start a new devnet", path = .path.display(), folder = .path.parent().unwrap_or(.path).display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A small durable file.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A key file.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Proving keys.
    #[error(transparent)]
    ProvingKey(#[from] ProvingKeyError),
    /// Threads.
    #[error(transparent)]
    Workshop(#[from] WorkshopError),
    /// The chain's folder.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] solo::EngineError),
    /// The clock.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// The RPC port.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// Speaking with our own chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A provider.
    #[error("provider {index}: {source}")]
    Provider {
        /// Which, from 1.
        index: usize,
        /// Why.
        source: Box<ProviderError>,
    },
    /// No such provider.
    #[error("there is no provider {0} in this devnet")]
    NoProvider(usize),
    /// A validator.
    #[error("validators: {0}")]
    Validator(String),
    /// No such validator beside the devnet's own.
    #[error("there is no validator {0} in a process of its own in this devnet")]
    NoValidator(usize),
    /// A task ended abnormally.
    #[error("a part of the devnet ended abnormally: {0}; please report this")]
    Task(String),
}

/// Who runs where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Endpoints {
    /// The process.
    pub pid: u32,
    /// The chain's JSON-RPC.
    pub chain_url: String,
    /// What it was made with.
    pub config: DevnetConfig,
    /// The providers.
    pub providers: Vec<ProviderEndpoint>,
    /// The validators beside the devnet's own.
    #[serde(default)]
    pub fellows: Vec<FellowEndpoint>,
    /// Which code makes its providers' proofs; `None` of a devnet of an older version.
    #[serde(default)]
    pub kernels: Option<Kernels>,
}

/// One validator of a devnet that is a process of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FellowEndpoint {
    /// Its number, from 2; the devnet's own process is validator 1.
    pub number: usize,
    /// The process, while it runs.
    pub pid: Option<u32>,
    /// The key that signs its votes.
    pub id: ValidatorId,
    /// Its JSON-RPC.
    pub chain_url: String,
    /// Its home.
    pub home: PathBuf,
}

/// One provider of a devnet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProviderEndpoint {
    /// Position in the devnet, from 0.
    pub index: usize,
    /// Its id on the chain.
    pub id: ProviderId,
    /// Where clients reach it: `<net key>@<ip>:<port>`.
    pub quic: String,
    /// Its home.
    pub home: PathBuf,
    /// Whether it runs.
    pub running: bool,
}

struct Place {
    home: Home,
    id: ProviderId,
    quic: String,
    running: Option<ProviderHandle>,
}

/// While it lives, the devnet's clock stands; see [`Devnet::pause_after`].
pub struct ClockPause {
    engine: Arc<EngineHandle>,
    told: told::Fellows,
}

impl Drop for ClockPause {
    fn drop(&mut self) {
        self.engine.release(told::OWNER);
        self.told.tell(&Told::Release(told::OWNER));
    }
}

/// A running devnet. [`Devnet::shutdown`] stops it in order; dropping it stops the chain at once.
pub struct Devnet {
    dir: PathBuf,
    config: DevnetConfig,
    ledger: Arc<Ledger>,
    engine: Arc<EngineHandle>,
    rpc: RpcHandle,
    chain: ChainClient,
    shop: Arc<Workshop>,
    places: Vec<Place>,
    told: told::Fellows,
    #[cfg(feature = "bft")]
    fellows: Option<validators::Fellows>,
    #[cfg(feature = "bft")]
    _pace: Option<validators::Pace>,
    progress: Arc<dyn Progress>,
    _lock: File,
}

impl Devnet {
    /// Starts the devnet of `home`, making it first if there is none. Returns when every provider serves.
    ///
    /// `params` is the folder of proving keys; making them takes minutes for 8 MiB, once per machine, and is told to
    /// `progress`.
    pub async fn start(
        home: &Home,
        config: DevnetConfig,
        params: &Path,
        progress: Arc<dyn Progress>,
    ) -> Result<Self, DevnetError> {
        check(&config)?;
        let dir = home.devnet_dir();
        create_private_dir(&dir).map_err(file_error(&dir))?;
        let lock = lock(&dir)?;
        // A request from before we ran is not for us.
        let _ = fs::remove_file(dir.join(STOP_FILE));
        let config = settle_config(&dir, config)?;
        let shop = Arc::new(Workshop::new(params)?);
        let made = make_keys(&shop, config.sector_size, &progress).await?;

        let secrets = Secrets::open(&dir)?;
        let client = open_or_create(&home.wallet_key())?;
        let places: Vec<Home> = (1..=config.providers)
            .map(|number| Home::new(dir.join(format!("provider-{number}"))))
            .collect();
        let owners = init_providers(&places, &config)?;
        #[cfg(feature = "bft")]
        let several = match config.validators {
            1 => None,
            count => Some(validators::places(&dir, count)?),
        };
        let set = vec![secrets.validator()];
        #[cfg(feature = "bft")]
        let set = several.as_ref().map_or(set, validators::Places::set);
        let genesis = open_genesis(
            &dir,
            &config,
            &secrets,
            client.address(),
            &owners,
            made,
            set,
        )?;

        let (ledger, mempool) = open_chain(&dir, &genesis)?;
        #[cfg(feature = "bft")]
        let mut fellows = None;
        #[cfg(feature = "bft")]
        let own = match &several {
            Some(places) => {
                fellows = Some(validators::Fellows::start(&dir, places, &genesis)?);
                Some(validators::start_own(
                    &dir, places, &secrets, &ledger, &mempool,
                )?)
            }
            None => None,
        };
        #[cfg(not(feature = "bft"))]
        let own = None;
        let engine = Arc::new(match own {
            Some(engine) => engine,
            None => solo::start(
                Arc::clone(&ledger),
                Arc::clone(&mempool),
                solo::Keys {
                    validator: secrets.validator.signing_key().clone(),
                    beacon: Box::new(secrets.beacon.clone()),
                },
            )?,
        });
        #[cfg(feature = "bft")]
        let told = told::Fellows::at(fellows.iter().flat_map(validators::Fellows::urls));
        #[cfg(not(feature = "bft"))]
        let told = told::Fellows::default();
        #[cfg(feature = "bft")]
        let gossip = match &several {
            Some(places) => Some(places.gossip(&secrets, &ledger, &mempool)?),
            None => None,
        };
        #[cfg(not(feature = "bft"))]
        let gossip = None;
        let node = || rpc::Node {
            ledger: Arc::clone(&ledger),
            mempool: Arc::clone(&mempool),
            engine: Arc::clone(&engine),
            // Its transfers would be refused.
            faucet: (!config.closed_credit).then(|| secrets.faucet.signing_key().clone()),
            fellows: told.clone(),
            gossip: gossip.clone(),
        };
        let rpc = serve_rpc(node, &dir, config.rpc_port).await?;
        let chain = ChainClient::connect(&rpc.url()).await?;
        replace_file(
            home.root(),
            "chain.url",
            format!("{}\n", rpc.url()).as_bytes(),
        )?;

        #[cfg(feature = "bft")]
        let _pace = several.map(|_| validators::Pace::keep(&chain, told.clone()));
        let mut devnet = Self {
            dir,
            config,
            ledger,
            engine,
            rpc,
            chain,
            shop,
            places: Vec::new(),
            told,
            #[cfg(feature = "bft")]
            fellows,
            #[cfg(feature = "bft")]
            _pace,
            progress,
            _lock: lock,
        };
        devnet.start_all(places).await?;
        devnet.write_endpoints()?;
        Ok(devnet)
    }

    async fn start_all(&mut self, homes: Vec<Home>) -> Result<(), DevnetError> {
        let mut starts = Vec::new();
        for home in homes {
            let config = self.provider_config(&home);
            starts.push((home, tokio::spawn(provider::start(config))));
        }
        for (index, (home, start)) in starts.into_iter().enumerate() {
            let handle = start
                .await
                .map_err(|error| DevnetError::Task(error.to_string()))?
                .map_err(|source| DevnetError::Provider {
                    index: index + 1,
                    source: Box::new(source),
                })?;
            self.places.push(Place {
                home,
                id: handle.id(),
                quic: handle.quic().to_string(),
                running: Some(handle),
            });
        }
        Ok(())
    }

    fn provider_config(&self, home: &Home) -> ProviderConfig {
        ProviderConfig {
            home: home.clone(),
            chain_url: self.rpc.url(),
            shop: Arc::clone(&self.shop),
            progress: Arc::clone(&self.progress),
        }
    }

    /// What it was made with.
    pub fn config(&self) -> &DevnetConfig {
        &self.config
    }

    /// The chain's JSON-RPC address.
    pub fn chain_url(&self) -> String {
        self.rpc.url()
    }

    /// A client of its chain.
    pub fn chain(&self) -> &ChainClient {
        &self.chain
    }

    /// The chain itself, for exporting its log.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Lets the clock go on for `epochs` more at most, until the guard is dropped or ten minutes are over. For whoever owns
    /// the devnet and switches providers off on purpose: that is no fault of theirs. When this returns, so many validators hold
    /// it that the others cannot go on without them.
    pub async fn pause_after(&self, epochs: EpochCount) -> Result<ClockPause, DevnetError> {
        let before = self.ledger.tip().epoch.after(epochs).next();
        let ttl = Duration::from_millis(MAX_LEASE_MS);
        self.engine.hold_before(told::OWNER, before, ttl)?;
        let pause = ClockPause {
            engine: Arc::clone(&self.engine),
            told: self.told.clone(),
        };
        let holders = 1 + self.told.ask(&Told::Hold(told::OWNER, before, ttl)).await;
        // Each has one vote, and a block takes more than two thirds of them.
        let all = usize::from(self.config.validators);
        match 3 * holders >= all {
            true => Ok(pause),
            false => Err(DevnetError::Validator(format!(
                "{holders} of {all} hold the clock, and that makes nobody wait"
            ))),
        }
    }

    /// Whether the chain moves.
    pub fn engine_status(&self) -> EngineStatus {
        self.engine.status()
    }

    /// Where block log and index are.
    pub fn chain_dir(&self) -> PathBuf {
        self.dir.join("chain")
    }

    /// The proving keys.
    pub fn workshop(&self) -> &Arc<Workshop> {
        &self.shop
    }

    /// All providers, running or not.
    pub fn providers(&self) -> Vec<ProviderEndpoint> {
        self.places
            .iter()
            .enumerate()
            .map(|(index, place)| ProviderEndpoint {
                index,
                id: place.id,
                quic: place.quic.clone(),
                home: place.home.root().to_owned(),
                running: place.running.is_some(),
            })
            .collect()
    }

    /// A running provider, by position from 0.
    pub fn provider(&self, index: usize) -> Option<&ProviderHandle> {
        self.places.get(index)?.running.as_ref()
    }

    /// Stops one provider: it disappears from the network as if its machine were switched off.
    pub async fn stop_provider(&mut self, index: usize) -> Result<(), DevnetError> {
        let place = self
            .places
            .get_mut(index)
            .ok_or(DevnetError::NoProvider(index))?;
        if let Some(handle) = place.running.take() {
            handle
                .stop()
                .await
                .map_err(|source| DevnetError::Provider {
                    index: index + 1,
                    source: Box::new(source),
                })?;
        }
        self.write_endpoints()
    }

    /// Starts a stopped provider again from its home.
    pub async fn start_provider(&mut self, index: usize) -> Result<(), DevnetError> {
        let place = self
            .places
            .get(index)
            .ok_or(DevnetError::NoProvider(index))?;
        if place.running.is_some() {
            return Ok(());
        }
        let config = self.provider_config(&place.home);
        let handle = provider::start(config)
            .await
            .map_err(|source| DevnetError::Provider {
                index: index + 1,
                source: Box::new(source),
            })?;
        if let Some(place) = self.places.get_mut(index) {
            place.quic = handle.quic().to_string();
            place.running = Some(handle);
        }
        self.write_endpoints()
    }

    /// The validators that are processes of their own, running or not.
    pub fn fellows(&self) -> Vec<FellowEndpoint> {
        let found = Vec::new();
        #[cfg(feature = "bft")]
        let found = self
            .fellows
            .as_ref()
            .map_or(found, validators::Fellows::endpoints);
        found
    }

    /// Ends validator `number` (from 2) at once, as if its machine had failed.
    pub fn kill_validator(&mut self, number: usize) -> Result<(), DevnetError> {
        self.change_validator(number, false)
    }

    /// Starts validator `number` (from 2) again; it fetches what it missed.
    pub fn start_validator(&mut self, number: usize) -> Result<(), DevnetError> {
        self.change_validator(number, true)
    }

    fn change_validator(&mut self, number: usize, run: bool) -> Result<(), DevnetError> {
        #[cfg(feature = "bft")]
        if let Some(fellows) = &self.fellows {
            match run {
                true => fellows.start_one(number)?,
                false => fellows.kill_one(number)?,
            }
            return self.write_endpoints();
        }
        tracing::debug!(number, run, "no such validator");
        Err(DevnetError::NoValidator(number))
    }

    /// Comes when a validator ends that nobody stopped: which one, and why. Never comes otherwise.
    pub fn validator_lost(&self) -> impl Future<Output = String> + Send + use<> {
        #[cfg(feature = "bft")]
        let fellows = self.fellows.as_ref().map(validators::Fellows::watch);
        let engine = Arc::clone(&self.engine);
        async move {
            loop {
                if let EngineStatus::Failed { why } = engine.status() {
                    return format!("validator 1, in this process, stopped: {why}");
                }
                #[cfg(feature = "bft")]
                if let Some(ended) = fellows.as_ref().and_then(validators::Watch::look) {
                    return ended;
                }
                tokio::time::sleep(STOP_POLL).await;
            }
        }
    }

    /// Waits until another process asks this one to stop, or the chain stops by itself.
    pub async fn stop_requested(&self) {
        let request = self.dir.join(STOP_FILE);
        while !request.exists() && self.engine.status() == EngineStatus::Running {
            tokio::time::sleep(STOP_POLL).await;
        }
    }

    /// Stops providers, then the chain. Jobs at hand end first, so that nothing has to be done twice.
    pub async fn shutdown(mut self) -> Result<(), DevnetError> {
        for place in &self.places {
            if let Some(handle) = &place.running {
                handle.ask_to_stop();
            }
        }
        let mut first_failure = None;
        for (index, place) in self.places.iter_mut().enumerate() {
            if let Some(handle) = place.running.take()
                && let Err(source) = handle.stop().await
            {
                first_failure.get_or_insert(DevnetError::Provider {
                    index: index + 1,
                    source: Box::new(source),
                });
            }
        }
        self.rpc.stop().await;
        let engine = Arc::clone(&self.engine);
        #[cfg(feature = "bft")]
        let fellows = self.fellows.take();
        let stopped = tokio::task::spawn_blocking(move || {
            engine.stop();
            #[cfg(feature = "bft")]
            if let Some(fellows) = &fellows {
                fellows.stop();
            }
        })
        .await;
        let _ = fs::remove_file(self.dir.join(ENDPOINTS_FILE));
        let _ = fs::remove_file(self.dir.join(STOP_FILE));
        match (first_failure, stopped) {
            (Some(failure), _) => Err(failure),
            (None, Err(error)) => Err(DevnetError::Task(error.to_string())),
            (None, Ok(())) => Ok(()),
        }
    }

    fn write_endpoints(&self) -> Result<(), DevnetError> {
        let endpoints = Endpoints {
            pid: std::process::id(),
            chain_url: self.rpc.url(),
            config: self.config.clone(),
            providers: self.providers(),
            fellows: self.fellows(),
            kernels: Some(Kernels::chosen()),
        };
        let bytes = serde_json::to_vec_pretty(&endpoints).expect("plain fields serialise");
        Ok(replace_file(&self.dir, ENDPOINTS_FILE, &bytes)?)
    }
}

/// Whether a devnet runs in `home`.
pub fn is_running(home: &Home) -> bool {
    let dir = home.devnet_dir();
    dir.is_dir() && matches!(try_lock(&dir), Err(DevnetError::Running(_)))
}

/// Who runs where, of the devnet that runs in `home` and has finished starting.
pub fn endpoints(home: &Home) -> Result<Endpoints, DevnetError> {
    let dir = home.devnet_dir();
    if !is_running(home) {
        return Err(DevnetError::NotRunning(dir));
    }
    read_json(&dir.join(ENDPOINTS_FILE))
}

/// Asks the devnet of `home` to stop and waits until it has, or `patience` is over.
pub async fn stop(home: &Home, patience: Duration) -> Result<(), DevnetError> {
    let dir = home.devnet_dir();
    if !is_running(home) {
        return Err(DevnetError::NotRunning(dir));
    }
    let pid = endpoints(home).map_or(0, |endpoints| endpoints.pid);
    replace_file(&dir, STOP_FILE, b"stop\n")?;
    let until = tokio::time::Instant::now() + patience;
    while is_running(home) {
        if tokio::time::Instant::now() >= until {
            return Err(DevnetError::StillRunning(pid));
        }
        tokio::time::sleep(STOP_POLL).await;
    }
    Ok(())
}

/// Whether this program can run a devnet of so many validators.
pub fn check_validators(count: u16) -> Result<(), DevnetError> {
    if count == 0 || count > MAX_VALIDATORS {
        return Err(DevnetError::Config(format!(
            "{count} validators; a devnet has 1 to {MAX_VALIDATORS}"
        )));
    }
    if count > 1 && cfg!(not(feature = "bft")) {
        return Err(DevnetError::Config(
            "this program was built without the bft engine; build it with `--features bft` for more than one validator"
                .to_owned(),
        ));
    }
    Ok(())
}

pub(crate) fn check(config: &DevnetConfig) -> Result<(), DevnetError> {
    let bad = |text: String| Err(DevnetError::Config(text));
    if config.providers == 0 || config.providers > MAX_PROVIDERS {
        return bad(format!(
            "{} providers; a devnet has 1 to {MAX_PROVIDERS}",
            config.providers
        ));
    }
    check_validators(config.validators)?;
    if !(20..=60_000).contains(&config.epoch_ms) {
        return bad(format!(
            "an epoch of {} ms; choose 20 to 60000",
            config.epoch_ms
        ));
    }
    if config.sector_size.is_production() || !config.sector_size.is_registered() {
        return bad(format!(
            "{} sectors are not for a devnet; choose 2KiB, 8MiB or 512MiB",
            config.sector_size
        ));
    }
    let given = PROVIDER_TOKENS * u64::from(config.providers) + CLIENT_TOKENS + FAUCET_TOKENS;
    if given > TOTAL_TOKENS {
        let most = (TOTAL_TOKENS - CLIENT_TOKENS - FAUCET_TOKENS) / PROVIDER_TOKENS;
        return bad(format!(
            "genesis has money for {most} providers; start more with `holdfast provider init`, the faucet pays"
        ));
    }
    Ok(())
}

/// Takes the folder for this process. Waits a moment: a question whether anybody runs takes the lock for an instant.
fn lock(dir: &Path) -> Result<File, DevnetError> {
    for _ in 0..LOCK_ATTEMPTS {
        match try_lock(dir) {
            Err(DevnetError::Running(_)) => std::thread::sleep(LOCK_PAUSE),
            other => return other,
        }
    }
    try_lock(dir)
}

fn try_lock(dir: &Path) -> Result<File, DevnetError> {
    let path = dir.join(LOCK_FILE);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(file_error(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(DevnetError::Running(dir.to_owned())),
        Err(fs::TryLockError::Error(source)) => Err(DevnetError::File { path, source }),
    }
}

/// The written configuration of an existing devnet, or this one, written down.
fn settle_config(dir: &Path, wanted: DevnetConfig) -> Result<DevnetConfig, DevnetError> {
    let path = dir.join(STATE_FILE);
    if !path.exists() {
        let bytes = serde_json::to_vec_pretty(&wanted).expect("plain fields serialise");
        replace_file(dir, STATE_FILE, &bytes)?;
        return Ok(wanted);
    }
    let written: DevnetConfig = read_json(&path)?;
    check(&written)?;
    let same_chain = written.sector_size == wanted.sector_size
        && written.providers == wanted.providers
        && written.validators == wanted.validators
        && written.optimistic == wanted.optimistic
        && written.closed_credit == wanted.closed_credit;
    if !same_chain {
        return Err(DevnetError::Config(format!(
            "the devnet in {} has {} providers with {} sectors and {} validators, verifies {}, and its money is {}; use those, or another --home",
            dir.display(),
            written.providers,
            written.sector_size,
            written.validators,
            match written.optimistic {
                true => "optimistically",
                false => "eagerly",
            },
            match written.closed_credit {
                true => "closed credit",
                false => "free to be passed on",
            }
        )));
    }
    Ok(written)
}

/// The configuration that the devnet of `home` was made with, if there is one.
pub fn written_config(home: &Home) -> Result<Option<DevnetConfig>, DevnetError> {
    let path = home.devnet_dir().join(STATE_FILE);
    match path.exists() {
        true => read_json(&path).map(Some),
        false => Ok(None),
    }
}

/// Verifying keys for genesis, and proving keys for the providers, before any clock runs.
pub(crate) async fn make_keys(
    shop: &Arc<Workshop>,
    size: SectorSize,
    progress: &Arc<dyn Progress>,
) -> Result<Vec<CircuitKey>, DevnetError> {
    let (shop, progress) = (Arc::clone(shop), Arc::clone(progress));
    let work = move || {
        shop.prepare(size, progress.as_ref())?;
        let mut keys = Vec::new();
        for circuit in [CircuitId::porep(size), CircuitId::window(size)] {
            let vk = shop
                .params()
                .verifying_key_bytes(circuit, progress.as_ref())?;
            keys.push(CircuitKey {
                circuit,
                insecure: true,
                vk,
            });
        }
        keys.sort_by_key(|key| key.circuit);
        Ok(keys)
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| DevnetError::Task(error.to_string()))?
}

struct Secrets {
    validator: Wallet,
    faucet: Wallet,
    beacon: DevnetSigner,
}

impl Secrets {
    fn open(dir: &Path) -> Result<Self, DevnetError> {
        // The beacon's secret is derived from an ordinary key file, so that the same care protects it.
        let seed = open_or_create(&dir.join("beacon.key"))?
            .signing_key()
            .to_bytes();
        Ok(Self {
            validator: open_or_create(&dir.join("validator.key"))?,
            faucet: open_or_create(&dir.join("faucet.key"))?,
            beacon: DevnetSigner::from_seed(&seed),
        })
    }

    fn validator(&self) -> Validator {
        Validator {
            id: ValidatorId(self.validator.address().0),
            power: 1,
        }
    }
}

pub(crate) fn open_or_create(path: &Path) -> Result<Wallet, DevnetError> {
    match Wallet::open(path, || None) {
        Err(KeyError::Missing(_)) => Ok(Wallet::create(path, None)?),
        other => Ok(other?),
    }
}

/// Homes with keys and settings; gives the owners' addresses. Settings that are there already are kept: people may have
/// changed them.
fn init_providers(homes: &[Home], config: &DevnetConfig) -> Result<Vec<Address>, DevnetError> {
    let mut settings = ProviderSettings::devnet(config.sector_size, u64::from(config.providers));
    settings.auto_repair = config.auto_repair;
    settings.burst_sectors = config.burst_sectors;
    homes
        .iter()
        .enumerate()
        .map(|(index, home)| {
            let kept = ProviderSettings::read(&home.provider_dir());
            enrol::init(home, kept.as_ref().unwrap_or(&settings)).map_err(|source| {
                DevnetError::Provider {
                    index: index + 1,
                    source: Box::new(source),
                }
            })
        })
        .collect()
}

/// The devnet's genesis: read, or made once.
fn open_genesis(
    dir: &Path,
    config: &DevnetConfig,
    secrets: &Secrets,
    client: Address,
    owners: &[Address],
    keys: Vec<CircuitKey>,
    validators: Vec<Validator>,
) -> Result<Genesis, DevnetError> {
    let path = dir.join(GENESIS_FILE);
    if path.exists() {
        let bytes = read_file(&path)?;
        return Genesis::from_bytes(&bytes).map_err(|error| DevnetError::Content {
            path,
            reason: error.to_string(),
        });
    }
    let now_ms = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        });
    let mut accounts: BTreeMap<Address, TokenAmount> = owners
        .iter()
        .map(|owner| (*owner, TokenAmount::from_tokens(PROVIDER_TOKENS)))
        .collect();
    accounts.insert(client, TokenAmount::from_tokens(CLIENT_TOKENS));
    let given: u128 = accounts.values().map(|amount| amount.0).sum();
    let rest = TokenAmount::from_tokens(TOTAL_TOKENS)
        .0
        .saturating_sub(given);
    if config.closed_credit {
        // Nobody can give a provider more later: what the faucet would have is theirs from the beginning.
        let share = rest / (owners.len() as u128).max(1);
        for owner in owners {
            accounts.entry(*owner).or_default().0 += share;
        }
    } else {
        accounts.insert(secrets.faucet.address(), TokenAmount(rest));
    }
    let genesis = Genesis {
        version: GENESIS_VERSION,
        chain_name: "holdfast devnet".to_owned(),
        kind: NetworkKind::Devnet,
        time_ms: now_ms,
        clock: ClockMode::Logical {
            epoch_ms: config.epoch_ms,
        },
        params: ChainParams {
            sector_sizes: vec![config.sector_size],
            // The home's wallet: whoever tries the network can try verified deals too.
            datacap_root: Some(client),
            verification: match config.optimistic {
                true => VerificationMode::Optimistic,
                false => VerificationMode::Eager,
            },
            closed_credit: config.closed_credit,
            ..ChainParams::devnet()
        },
        accounts,
        validators,
        beacons: vec![BeaconParams::devnet(
            &secrets.beacon,
            i64::try_from(now_ms / 1000).unwrap_or(i64::MAX),
        )],
        keys,
    };
    replace_file(dir, GENESIS_FILE, &genesis.to_bytes())?;
    Ok(genesis)
}

fn open_chain(dir: &Path, genesis: &Genesis) -> Result<(Arc<Ledger>, Arc<Mempool>), DevnetError> {
    let checked = genesis.clone().check().map_err(LedgerError::from)?;
    let verifier = Arc::new(Groth16Verifier::new(checked.keys().clone()));
    let ledger = Arc::new(Ledger::open(&dir.join("chain"), genesis, verifier)?);
    let mempool = Arc::new(Mempool::new(ledger.chain_id()));
    Ok((ledger, mempool))
}

/// Serves on the wanted port, else on the one used before, else on any free one; a wanted port that is busy is an error.
async fn serve_rpc(
    node: impl Fn() -> rpc::Node,
    dir: &Path,
    wanted: u16,
) -> Result<RpcHandle, DevnetError> {
    const PORT_FILE: &str = "rpc.port";
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let known: Option<u16> = fs::read_to_string(dir.join(PORT_FILE))
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let handle = match (wanted, known) {
        (0, Some(port)) => match rpc::serve(node(), at(port)).await {
            Ok(handle) => handle,
            Err(_) => rpc::serve(node(), at(0)).await?,
        },
        (port, _) => rpc::serve(node(), at(port)).await?,
    };
    replace_file(dir, PORT_FILE, handle.addr().port().to_string().as_bytes())?;
    Ok(handle)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, DevnetError> {
    serde_json::from_slice(&read_file(path)?).map_err(|error| DevnetError::Content {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn read_file(path: &Path) -> Result<Vec<u8>, DevnetError> {
    let length = fs::metadata(path).map_err(file_error(path))?.len();
    if length > MAX_STATE_BYTES {
        return Err(DevnetError::Content {
            path: path.to_owned(),
            reason: format!("{length} bytes are too many"),
        });
    }
    fs::read(path).map_err(file_error(path))
}

fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> DevnetError {
    let path = path.to_owned();
    |source| DevnetError::File { path, source }
}
