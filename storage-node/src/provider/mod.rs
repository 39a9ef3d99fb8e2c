//! The provider: takes pieces in, seals them, proves them, serves them.
//!
//! Place in the walk: a client's bytes arrive at [`intake`], are acknowledged after both roots were recomputed, published by
//! [`worker`], chosen for a sector by [`pack`], sealed and proven by [`prover`] when [`lifecycle`] says so, and read back
//! through [`intake`] again. [`journal`] survives kill -9 at any point.
//!
//! | module | what |
//! |---|---|
//! | [`ask`] | the terms, said in every QUIC Hello |
//! | [`intake`] | the piece store: judge, keep, serve |
//! | [`lifecycle`], [`pack`] | pure: what to do next |
//! | [`worker`], [`tx`] | do it: chain, disk, threads; nonces |
//! | [`prover`], [`slot`] | the bench: sealing, proofs, the scrubber's checks; whose turn it is on this machine |
//! | [`enrol`], [`treasury`] | keys, settings, registration; money kept ready |
//! | [`control`], [`status`] | speaking with a running provider |
//!
//! The same code runs as its own process (`holdfast provider run`) and several times in a devnet; it meets the chain through
//! JSON-RPC and clients through QUIC in both.
//!
//! ```text
//! <home>/wallet.key  net.key          owner's and network key
//! <home>/provider/provider.json       settings               worker.key    everyday key
//!                 journal/            deals/, sectors/       pieces/       unsealed copies
//!                 sectors/<number>/   replicas               chain.id      which chain this folder belongs to
//!                 control.json, provider.lock                quic.port     the port clients know
//! ```
//! Memory: tens of MiB while idle; keys and layers only while a proof is made.

pub mod ask;
pub mod control;
pub mod enrol;
pub mod intake;
pub mod journal;
pub mod lifecycle;
pub mod pack;
pub mod prover;
pub mod slot;
pub mod status;
pub mod treasury;
pub mod tx;
pub mod worker;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::prover::snark::CircuitId;
use ::prover::{Progress, SectorNumber, SectorSize};
use chain_lite::account::{Address, ChainId, ProviderId};
use chain_lite::message::DealProposal;
use chain_lite::params::ChainParams;
use chain_lite::units::{Epoch, EpochCount, TokenAmount};
use chain_lite::vfs::OsVfs;
use ed25519_dalek::SigningKey;
use retrieval::{ChainTag, Endpoint, Limits, PeerAddr};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::chain::{ChainClient, ChainError, Head, ProviderView};
use crate::config::Home;
use crate::identity::{KeyError, Wallet};
use ask::{Ask, Terms};
use control::{ControlError, ControlServer};
pub use enrol::ProviderSettings;
use intake::{Funds, IntakeLimits, Market, Store, StoreError};
use journal::{Journal, JournalError};
use lifecycle::{Event, Lifecycle, Rules, SectorRecord, Settings};
use pack::PackPolicy;
use prover::{Bench, NamedKey, Workshop, WorkshopError};
pub use status::ProviderStatus;
use status::StatusWatch;
use treasury::{Keeper, Treasury};
use tx::TxSender;
use worker::{Backlog, Input, Parts, Worker, WorkerError};

/// A collateral above so many times the chain's least is refused.
const COLLATERAL_MULTIPLE: u128 = 4;
/// Full instead of sampled check, every so many proving periods.
const FULL_SCRUB_EVERY: u32 = 8;
/// Attempts before a sector or deal is given up.
const MAX_ATTEMPTS: u32 = 5;
/// Epochs that must remain before a window closes or a ticket ages while the clock runs.
pub(crate) const HOLD_RESERVE: EpochCount = EpochCount(8);
/// Wait before something refused is tried again.
const BACKOFF: EpochCount = EpochCount(5);

/// Why a provider does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// `provider init` was not run here.
    #[error("{0} holds no provider; make one with `holdfast provider init`")]
    NotInitialised(PathBuf),
    /// The settings file.
    #[error("{path}: {reason}; correct it or run `holdfast provider init` again", path = .path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A folder.
    #[error("cannot use {path}: {source}", path = .path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A key file.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The pieces.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Keys of the proofs, or threads.
    #[error(transparent)]
    Workshop(#[from] WorkshopError),
    /// Control and lock.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The QUIC endpoint.
    #[error(
        "cannot serve clients on {addr}: {source}; is the port in use? change `listen` in provider.json"
    )]
    Quic {
        /// The address.
        addr: SocketAddr,
        /// The reason.
        source: Box<retrieval::Error>,
    },
    /// The folder belongs to another chain.
    #[error(
        "this provider belongs to chain {expected}, and {url} serves {found}; name the right chain or use another --home"
    )]
    WrongChain {
        /// What the folder says.
        expected: String,
        /// What is there.
        found: ChainId,
        /// Where.
        url: String,
    },
    /// The chain has this owner's provider with something else.
    #[error(
        "the chain has provider {provider} of this owner with another {what}; restore the key or settings it was registered with"
    )]
    OtherIdentity {
        /// Which provider.
        provider: ProviderId,
        /// What differs.
        what: &'static str,
    },
    /// Not enough money.
    #[error("account {owner} has {} tokens and registration needs {}; send it the rest and run this again", .has.in_tokens(), .needed.in_tokens())]
    Funds {
        /// The owner.
        owner: Address,
        /// What it has.
        has: TokenAmount,
        /// What it needs.
        needed: TokenAmount,
    },
    /// Less than the chain asks for.
    #[error("the deposit is {} tokens and the chain asks for {} at least; raise `deposit` in provider.json", .has.in_tokens(), .least.in_tokens())]
    DepositTooSmall {
        /// By the settings.
        has: TokenAmount,
        /// By the chain.
        least: TokenAmount,
    },
    /// The chain does not allow that size.
    #[error("this chain does not take {0} sectors; choose another --sector-size")]
    SectorSize(SectorSize),
    /// The chain accepted the registration and does not show it: a bug.
    #[error("the chain does not show the new provider; please report this")]
    NotRegistered,
    /// The worker ended.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// A task ended abnormally.
    #[error("a part of the provider ended abnormally: {0}; please report this")]
    Task(String),
    /// The owner's wallet, which registration uses.
    #[error(transparent)]
    Wallet(#[from] crate::client::ClientError),
}

/// What a provider needs to run.
pub struct ProviderConfig {
    /// Its home.
    pub home: Home,
    /// The chain's JSON-RPC address.
    pub chain_url: String,
    /// Keys of the proofs and threads, shared by the providers of a process.
    pub shop: Arc<Workshop>,
    /// Told of the making of proving keys.
    pub progress: Arc<dyn Progress>,
}

/// A running provider.
pub struct ProviderHandle {
    id: ProviderId,
    owner: Address,
    home: Home,
    quic: PeerAddr,
    status: StatusWatch,
    stop: CancellationToken,
    done: JoinHandle<Result<(), ProviderError>>,
}

impl ProviderHandle {
    /// Its id on the chain.
    pub fn id(&self) -> ProviderId {
        self.id
    }

    /// Whose it is.
    pub fn owner(&self) -> Address {
        self.owner
    }

    /// Its home.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Where clients reach it.
    pub fn quic(&self) -> PeerAddr {
        self.quic
    }

    /// What it shows of itself.
    pub fn status(&self) -> ProviderStatus {
        self.status.get()
    }

    /// The newest status, to be followed.
    pub fn status_watch(&self) -> StatusWatch {
        self.status.clone()
    }

    /// Cancelled, it asks the provider to stop.
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// The folder of a sector, for example to damage it.
    pub fn sector_dir(&self, number: SectorNumber) -> PathBuf {
        self.home
            .provider_dir()
            .join("sectors")
            .join(number.to_string())
    }

    /// The folder of unsealed copies.
    pub fn pieces_dir(&self) -> PathBuf {
        self.home.provider_dir().join("pieces")
    }

    /// Asks it to stop; a job at hand ends first.
    pub fn ask_to_stop(&self) {
        self.stop.cancel();
    }

    /// Stops it and waits. What it had promised is on disk.
    pub async fn stop(self) -> Result<(), ProviderError> {
        self.stop.cancel();
        self.wait().await
    }

    /// Waits until it ends.
    pub async fn wait(self) -> Result<(), ProviderError> {
        match self.done.await {
            Ok(result) => result,
            Err(error) => Err(ProviderError::Task(error.to_string())),
        }
    }
}

/// Starts a provider: keys, chain, registration, then QUIC service, control and worker. Returns when it serves.
pub async fn start(config: ProviderConfig) -> Result<ProviderHandle, ProviderError> {
    let dir = config.home.provider_dir();
    let settings = ProviderSettings::read(&dir)?;
    let lock = control::lock(&dir)?;
    let keys = enrol::open_keys(&config.home)?;
    let chain = ChainClient::connect(&config.chain_url).await?;
    belongs(&dir, &chain)?;
    prepare_keys(&config, &chain, settings.sector_size).await?;

    let endpoint = bind(&dir, &settings, &keys, &chain)?;
    let quic = endpoint.peer_addr();
    let view = enrol::enrol(&chain, &config.home, &settings, &keys, quic.addr).await?;
    let provider = view.provider.id;
    // Nonce before picture: see `tx`.
    let sender = TxSender::new(chain.clone(), keys.worker.signing_key().clone()).await?;
    let used = highest_number(&chain, provider).await?;

    let status = StatusWatch::new(first_status(&view, quic));
    let backlog = Arc::new(Backlog::default());
    let treasury = Treasury::new(settings.top_up);
    let (outbox, inbox) = mpsc::unbounded_channel();
    let market = ChainMarket {
        chain: chain.clone(),
        provider,
        owner: view.provider.owner,
        settings: settings.clone(),
        heads: chain.subscribe_heads(),
        backlog: Arc::clone(&backlog),
        treasury: Arc::clone(&treasury),
        runtime: tokio::runtime::Handle::current(),
    };
    let (store, deals, found) = open_store(&dir, &settings, market, &keys, &outbox)?;
    for deal in &found.missing {
        status.note(
            Epoch(0),
            format!("the bytes of deal {deal} are not on disk any more; put the file back into pieces/ and start again, or the deal fails"),
        );
    }
    for path in &found.damaged_records {
        status.note(Epoch(0), damaged_record(path));
    }
    let journal = Journal::open(&dir.join("journal").join("sectors"))?;
    let (sectors, next) = load_sectors(&journal, &status)?;
    let next = SectorNumber(next.0.max(used));
    let machine = Lifecycle::restore(
        rules_of(chain.params()),
        settings_of(chain.params(), &settings),
        deals,
        sectors,
        next,
    );
    let sectors_dir = dir.join("sectors");
    std::fs::create_dir_all(&sectors_dir).map_err(|source| ProviderError::Folder {
        path: sectors_dir.clone(),
        source,
    })?;
    let bench = Bench::new(
        Arc::clone(&config.shop),
        sectors_dir,
        settings.sector_size,
        provider.prover_id(),
    );

    let stop = CancellationToken::new();
    let serving = CancellationToken::new();
    let service = retrieval::serve::spawn(&endpoint, Arc::new(store.share()), serving.clone())
        .map_err(|source| ProviderError::Quic {
            addr: quic.addr,
            source: Box::new(source),
        })?;
    let control = ControlServer::start(&dir, status.clone(), outbox.clone(), stop.clone()).await?;
    let keeper = Keeper {
        treasury,
        home: config.home.clone(),
        chain: chain.clone(),
        provider,
        owner: view.provider.owner,
        key: owner_key(&config.home, &settings)?,
        sector_size: settings.sector_size,
        store: store.share(),
        backlog: Arc::clone(&backlog),
        status: status.clone(),
    };
    let parts = Parts {
        provider,
        chain,
        sender,
        journal: Arc::new(journal),
        store,
        bench,
        machine,
        status: status.clone(),
        backlog,
        outbox,
        inbox,
    };
    let worker = Worker::new(parts, stop.clone());
    let done = tokio::spawn(async move {
        let keeping = tokio::spawn(keeper.run(serving.clone()));
        let result = worker.run().await;
        serving.cancel();
        service.join().await;
        // What it had sent is in the pool or on chain; it holds nothing.
        keeping.abort();
        endpoint.close().await;
        control.stop().await;
        drop(lock);
        Ok(result?)
    });
    tracing::info!(%provider, quic = %quic.addr, "provider runs");
    Ok(ProviderHandle {
        id: provider,
        owner: view.provider.owner,
        home: config.home,
        quic,
        status,
        stop,
        done,
    })
}

/// Binds this folder to its first chain, and refuses another.
fn belongs(dir: &Path, chain: &ChainClient) -> Result<(), ProviderError> {
    let path = dir.join("chain.id");
    let found = chain.chain_id();
    match std::fs::read_to_string(&path) {
        Ok(text) if text.trim() == found.to_string() => Ok(()),
        Ok(text) => Err(ProviderError::WrongChain {
            expected: text.trim().chars().take(64).collect(),
            found,
            url: chain.url().to_owned(),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(journal::replace_file(
            dir,
            "chain.id",
            found.to_string().as_bytes(),
        )?),
        Err(source) => Err(ProviderError::Folder { path, source }),
    }
}

/// Makes the proving keys ready, if they are those of the chain.
async fn prepare_keys(
    config: &ProviderConfig,
    chain: &ChainClient,
    size: SectorSize,
) -> Result<(), ProviderError> {
    let mut named: Vec<NamedKey> = Vec::new();
    let genesis = chain.genesis().await?;
    for circuit in [CircuitId::window(size), CircuitId::porep(size)] {
        let key = genesis.keys.iter().find(|key| key.circuit == circuit);
        let key = key.ok_or(ProviderError::SectorSize(size))?;
        named.push((circuit, key.vk.clone()));
    }
    let (shop, progress) = (Arc::clone(&config.shop), Arc::clone(&config.progress));
    let made =
        tokio::task::spawn_blocking(move || shop.prepare_for(size, &named, progress.as_ref()));
    match made.await {
        Ok(result) => Ok(result?),
        Err(error) => Err(ProviderError::Task(error.to_string())),
    }
}

/// Binds the endpoint, on the port that clients know if it is still free.
fn bind(
    dir: &Path,
    settings: &ProviderSettings,
    keys: &enrol::Keys,
    chain: &ChainClient,
) -> Result<Endpoint, ProviderError> {
    let tag = ChainTag(chain.chain_tag());
    let known: Option<u16> = std::fs::read_to_string(dir.join("quic.port"))
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let attempt = |addr: SocketAddr| Endpoint::bind(addr, keys.net.clone(), tag, Limits::default());
    let preferred = match (settings.listen.port(), known) {
        (0, Some(port)) => attempt(SocketAddr::new(settings.listen.ip(), port)).ok(),
        _ => None,
    };
    let endpoint = match preferred {
        Some(endpoint) => endpoint,
        None => attempt(settings.listen).map_err(|source| ProviderError::Quic {
            addr: settings.listen,
            source: Box::new(source),
        })?,
    };
    let port = endpoint.local_addr().port().to_string();
    journal::replace_file(dir, "quic.port", port.as_bytes())?;
    Ok(endpoint)
}

/// One more than the highest sector number that the chain ever saw of this provider.
async fn highest_number(chain: &ChainClient, provider: ProviderId) -> Result<u64, ProviderError> {
    let all = chain.sectors(provider).await?;
    Ok(all
        .iter()
        .map(|view| view.number.0.saturating_add(1))
        .max()
        .unwrap_or(0))
}

type Opened = (Store, Vec<lifecycle::DealRecord>, intake::OpenReport);

fn open_store(
    dir: &Path,
    settings: &ProviderSettings,
    market: ChainMarket,
    keys: &enrol::Keys,
    outbox: &mpsc::UnboundedSender<Input>,
) -> Result<Opened, ProviderError> {
    let limits = IntakeLimits {
        capacity_bytes: settings.capacity_bytes,
        reserve_bytes: settings.reserve_bytes,
        client_deals: settings.client_deals,
        client_bytes: settings.client_bytes,
        collateral_multiple: COLLATERAL_MULTIPLE,
    };
    let to_worker = outbox.clone();
    let folders = intake::Folders {
        vfs: Arc::new(OsVfs),
        pieces: dir.join("pieces"),
        journal: dir.join("journal").join("deals"),
    };
    Ok(Store::open(
        folders,
        Box::new(market),
        limits,
        SigningKey::from_bytes(&keys.net.to_seed()),
        Box::new(move |record| {
            // A worker that ended finds the deal in the journal at its next start.
            let _ = to_worker.send(Input::Event(Event::Received(record)));
        }),
        Box::new(
            |root| tracing::error!(%root, "an unsealed copy is damaged; readers are served by other providers"),
        ),
    )?)
}

/// What is said about a record that fails its checksum.
fn damaged_record(path: &Path) -> String {
    format!(
        "a damaged record was moved aside: {}; check the disk. A lost deal is not sealed, a lost sector is skipped in its window posts, unless a copy of the record is put back before the next start",
        path.display()
    )
}

/// Sector records and the counter.
fn load_sectors(
    journal: &Journal,
    status: &StatusWatch,
) -> Result<(Vec<SectorRecord>, SectorNumber), ProviderError> {
    let (counter, records) = journal.load_with::<SectorNumber, SectorRecord>(worker::COUNTER)?;
    for path in records.1.moved_aside {
        status.note(Epoch(0), damaged_record(&path));
    }
    let sectors = records.0.into_iter().map(|(_, record)| record).collect();
    Ok((sectors, counter.unwrap_or_default()))
}

fn rules_of(params: &ChainParams) -> Rules {
    Rules {
        post_lookback: params.post_lookback,
        fault_cutoff: params.fault_cutoff,
        ticket_max_age: params.ticket_max_age,
        seed_delay: params.seed_delay,
        precommit_max: params.precommit_max,
        min_sector_life: params.min_sector_life,
        max_sector_life: params.max_sector_life,
    }
}

fn settings_of(params: &ChainParams, settings: &ProviderSettings) -> Settings {
    let size = settings.sector_size;
    Settings {
        pack: PackPolicy {
            sector_bytes: size.bytes(),
            max_deals: usize::try_from(params.deals_per_sector(size)).unwrap_or(usize::MAX),
            max_wait: settings.pack_wait,
            seal_lead: settings.start_lead,
            // Pre-commit, seed, proof, each with an epoch to spare.
            hopeless: EpochCount(params.seed_delay.0 + 6),
        },
        hold_after: settings.hold_after,
        hold_reserve: HOLD_RESERVE,
        scrub_lead: params.window(),
        full_scrub_every: FULL_SCRUB_EVERY,
        auto_repair: settings.auto_repair,
        backoff: BACKOFF,
        max_attempts: MAX_ATTEMPTS,
    }
}

fn first_status(view: &ProviderView, quic: PeerAddr) -> ProviderStatus {
    let provider = &view.provider;
    let quic = quic.to_string();
    ProviderStatus::new(provider.id, provider.owner, provider.sector_size, quic)
}

/// The market as intake needs it, over the chain client. Called on blocking threads only.
struct ChainMarket {
    chain: ChainClient,
    provider: ProviderId,
    owner: Address,
    settings: ProviderSettings,
    heads: watch::Receiver<Option<Head>>,
    backlog: Arc<Backlog>,
    treasury: Arc<Treasury>,
    runtime: tokio::runtime::Handle,
}

impl Market for ChainMarket {
    fn ask(&self, free_bytes: u64) -> Ask {
        let settings = &self.settings;
        let queue = self.backlog.sectors(0, settings.sector_size);
        let params = self.chain.params();
        Ask::new(
            self.chain.chain_id(),
            self.provider,
            settings.sector_size,
            Terms {
                min_piece: settings.min_piece,
                free_bytes,
                price_per_gib: settings.price_per_gib,
                earliest_start: self.start_behind(queue.saturating_add(settings.burst_sectors)),
                min_duration: params.min_deal,
                max_duration: params.max_deal,
            },
        )
    }

    fn least_start(&self) -> Epoch {
        self.start_behind(self.backlog.sectors(0, self.settings.sector_size))
    }

    fn now(&self) -> Epoch {
        self.heads.borrow().map_or(Epoch(0), |head| head.epoch)
    }

    fn params(&self) -> &ChainParams {
        self.chain.params()
    }

    fn funds(&self, proposal: &DealProposal, full: bool) -> Result<Funds, String> {
        let (size, piece_bytes) = (self.settings.sector_size, proposal.piece_size.bytes());
        let ask = async {
            let client = self
                .chain
                .account(&proposal.client)
                .await?
                .escrow
                .unlocked();
            let verified = self.chain.datacap(&proposal.client).await?.held;
            let owner = self.chain.account(&self.owner).await?;
            let least_collateral = self.chain.quote(piece_bytes).await?.deal_collateral;
            let power = treasury::power_of_sector(size, self.chain.params(), full);
            let pledge = self.chain.quote(power).await?.pledge;
            let sectors = self.backlog.sectors(piece_bytes, size);
            let view = self.chain.provider(self.provider).await?;
            let own = view.map_or(0, |view| {
                let provider = &view.provider;
                let all = provider.unlocked().0.saturating_add(provider.deposits.0);
                all.saturating_sub(provider.fee_debt.0)
            });
            let top_up = self.settings.top_up;
            let behind = match (top_up, self.chain.info().faucet) {
                (true, true) if self.treasury.can_fill() => u128::MAX,
                (true, _) => owner.free.0,
                (false, _) => 0,
            };
            Ok::<_, ChainError>(Funds {
                client,
                provider: owner.escrow.unlocked(),
                least_collateral,
                pledges: TokenAmount(pledge.0.saturating_mul(sectors.into())),
                for_pledges: TokenAmount(own.saturating_add(behind)),
                verified,
            })
        };
        self.runtime
            .block_on(ask)
            .map_err(|error| error.to_string())
    }

    fn fill_escrow(&self) -> bool {
        self.treasury.look_now();
        self.treasury.can_fill()
    }
}

impl ChainMarket {
    /// The start that can be promised behind `queue` sectors.
    fn start_behind(&self, queue: u64) -> Epoch {
        let settings = &self.settings;
        let more = settings.start_lead_per_sector.0.saturating_mul(queue);
        self.now()
            .after(EpochCount(settings.start_lead.0.saturating_add(more)))
    }
}

/// The owner's key, for a provider that fills its purses by itself.
fn owner_key(
    home: &Home,
    settings: &ProviderSettings,
) -> Result<Option<SigningKey>, ProviderError> {
    if !settings.top_up {
        return Ok(None);
    }
    let owner = Wallet::open(&home.wallet_key(), || None)?;
    Ok(Some(owner.signing_key().clone()))
}
