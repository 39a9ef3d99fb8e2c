//! A chain that several operators run together: found it, join it, run a validator of it.
//!
//! Place in the walk: in the place of [`crate::devnet`]'s embedded chain; providers and clients meet it through the same JSON-RPC.
//! Spec: `consensus.md` §§8, 10. Consensus is `chain_lite_bft` over libp2p on a port of its own; transactions travel over
//! [`crate::chain::gossip`] on another.
//!
//! ```text
//! <home>/validator.key    signs votes and names the node to its peers; secret, 0600, and on one machine only:
//!                         two nodes with one key are a double vote sooner or later, and jailed for it
//!        beacon.key       the randomness of a network with its own key, the same file at every validator; secret
//!        network.json     genesis and everybody's address, from `chain init`
//!        chain/           block log, index, undecided blocks, consensus.wal
//!        chain.url        where this home finds its own node
//! ```
//! Without `beacon.key` a validator carries rounds that it fetches from the relays of `network.json` ([`crate::relay`]): drand's, or one
//! that `holdfast chain relay` runs where the key is.
//!
//! Crash: `chain_lite::ledger` and `chain_lite_bft::net` recover; a node that was away fetches what it missed from its peers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use chain_lite::account::{Address, ChainId};
use chain_lite::audit::Groth16Verifier;
use chain_lite::beacon::{BeaconParams, BeaconSource, DevnetSigner, Entry};
use chain_lite::certificate::{Validator, ValidatorId};
use chain_lite::clock::ClockMode;
use chain_lite::engine::{EngineHandle, EngineStatus};
use chain_lite::genesis::{CircuitKey, GENESIS_VERSION, Genesis, GenesisError, NetworkKind};
use chain_lite::ledger::{Ledger, LedgerError};
use chain_lite::mempool::Mempool;
use chain_lite::params::{ChainParams, VerificationMode};
use chain_lite::units::{Epoch, TokenAmount};
use chain_lite_bft::app::{Parts, Timing};
use chain_lite_bft::net::{self, StartError};
use chain_lite_bft::signing::ChainSigner;
use prover::SectorSize;
use retrieval::{NetSecret, PeerAddr, PeerId};
use serde::{Deserialize, Serialize};

use crate::chain::gossip::{self, Gossip, GossipError, HostPort, Peer};
use crate::config::Home;
use crate::identity::{KeyError, Wallet};
use crate::provider::journal::{JournalError, replace_file};
use crate::relay::{self, RelayError, RelayHandle, Relays};
use crate::rpc::{self, RpcError, RpcHandle};

/// Longest network file that is read, in bytes.
const MAX_NETWORK_BYTES: u64 = 32 << 20;
/// Connections that peers on one address may open: validators of one machine share one.
const CONNECTIONS_PER_IP: usize = 64;
const NETWORK_FILE: &str = "network.json";
const BEACON_FILE: &str = "beacon.key";
const VALIDATOR_FILE: &str = "validator.key";

/// What an operator tells the others: who it is and where it is reached. No secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// The key that signs its votes.
    pub id: ValidatorId,
    /// Its share of the votes.
    pub power: u64,
    /// Where it listens for consensus, such as `/ip4/10.0.0.1/tcp/26600/p2p/12D3Koo…`.
    pub address: String,
    /// Where it listens for transactions (UDP), such as `10.0.0.1:26601`. Cards of versions without gossip have none and are refused.
    #[serde(default)]
    pub gossip: String,
}

impl Card {
    /// Refuses addresses that nobody could dial.
    pub fn check(&self) -> Result<(), ValidatorError> {
        net::check_peer(&self.address)?;
        self.peer().map(drop)
    }

    /// It as a peer that is told of transactions; its validator key is the key that its handshakes prove.
    pub fn peer(&self) -> Result<Peer, ValidatorError> {
        if self.gossip.is_empty() {
            let text = format!(
                "the card of {} is of an older version and says not where it takes transactions; \
                 make it again with `holdfast chain card`",
                self.id
            );
            return Err(ValidatorError::Content(text));
        }
        let at = self.gossip.parse().map_err(ValidatorError::Content)?;
        Ok(Peer {
            key: PeerId(self.id.0),
            at,
        })
    }
}

/// What all operators of a chain have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// The chain's beginning.
    pub genesis: Genesis,
    /// The validators, and where they are: those of genesis, or since a change of the set those that `chain invite` was given.
    pub validators: Vec<Card>,
    /// Who gives beacon rounds to nodes without the key, such as `https://api.drand.sh`. Each operator may name others.
    #[serde(default)]
    pub relays: Vec<String>,
}

/// Where a network's randomness comes from, and what its epochs follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Randomness {
    /// A key of its own at every validator; an epoch is a block.
    OwnKey,
    /// A key of its own that signs a round in each epoch; epochs follow the rounds' times.
    OwnClock,
    /// drand quicknet; an epoch is ten of its rounds, 30 s.
    Quicknet,
}

/// Milliseconds of an epoch of ten quicknet rounds.
pub const QUICKNET_EPOCH_MS: u64 = 30_000;

/// Why a network is not founded or joined, or a validator does not start.
#[derive(Debug, thiserror::Error)]
pub enum ValidatorError {
    /// A file.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file with unusable content, or settings that make no network.
    #[error("{0}")]
    Content(String),
    /// Another network is here already.
    #[error("{0} belongs to another network; use another --home")]
    OtherNetwork(std::path::PathBuf),
    /// This home joined none.
    #[error("{0} has joined no network; `holdfast chain join` does")]
    NotJoined(std::path::PathBuf),
    /// Genesis.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// A key file.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Beacon rounds over HTTP.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// A small durable file.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The chain's folder.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Consensus.
    #[error(transparent)]
    Engine(#[from] StartError),
    /// The port for transactions.
    #[error(transparent)]
    Gossip(#[from] GossipError),
    /// The RPC port.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// A task ended abnormally.
    #[error("starting the validator ended abnormally: {0}; please report this")]
    Task(String),
}

fn open_or_create(path: &Path) -> Result<Wallet, ValidatorError> {
    match Wallet::open(path, || None) {
        Err(KeyError::Missing(_)) => Ok(Wallet::create(path, None)?),
        other => Ok(other?),
    }
}

/// The validator key of this home, made at first use. It has no passphrase: a validator must start by itself.
fn validator_key(home: &Home) -> Result<Wallet, ValidatorError> {
    open_or_create(&home.root().join(VALIDATOR_FILE))
}

/// This home's card: its key, made at first use, and where peers reach it; for transactions at `gossip`, or else on the same
/// host at the port after the one for consensus.
pub fn card(
    home: &Home,
    listen: &str,
    gossip: Option<&HostPort>,
    power: u64,
) -> Result<Card, ValidatorError> {
    let key = validator_key(home)?;
    let secret = key.signing_key().to_bytes();
    let address = format!(
        "{}/p2p/{}",
        listen.trim_end_matches('/'),
        net::peer_id(&secret)?
    );
    net::check_peer(&address)?;
    let gossip = match gossip {
        Some(at) => at.to_string(),
        None => beside(listen)?.to_string(),
    };
    Ok(Card {
        id: ValidatorId(key.address().0),
        power,
        address,
        gossip,
    })
}

/// The host of a multiaddr with the port after its own.
fn beside(listen: &str) -> Result<HostPort, ValidatorError> {
    let mut parts = listen.split('/').skip(1);
    let (kind, host) = (parts.next(), parts.next().unwrap_or_default());
    let port = parts.nth(1).and_then(|port| port.parse::<u16>().ok());
    let text = match (kind, port.and_then(|port| port.checked_add(1))) {
        (Some("ip6"), Some(port)) => format!("[{host}]:{port}"),
        (_, Some(port)) => format!("{host}:{port}"),
        (_, None) => listen.to_owned(),
    };
    text.parse()
        .map_err(|error| ValidatorError::Content(format!("{error}; say it with `--gossip`")))
}

/// What a network is founded with.
#[derive(Clone, Debug)]
pub struct Founding {
    /// A name for people.
    pub name: String,
    /// Milliseconds between blocks; whole seconds where epochs follow a beacon.
    pub epoch_ms: u64,
    /// Where randomness and epochs come from.
    pub randomness: Randomness,
    /// Who gives rounds to nodes without the key.
    pub relays: Vec<String>,
    /// Sector sizes and their verifying keys.
    pub sector_size: SectorSize,
    /// Both circuits' keys.
    pub keys: Vec<CircuitKey>,
    /// Who has money at the start.
    pub accounts: BTreeMap<Address, TokenAmount>,
    /// Unix milliseconds of genesis.
    pub time_ms: u64,
    /// Who lets notaries grant DataCap; nobody: no verified deals.
    pub datacap_root: Option<Address>,
    /// Whether window PoSts are taken unverified where they may be.
    pub verification: VerificationMode,
}

/// Founds a network: `network.json` and, if it has its own key, `beacon.key` in `folder`, to be given to every operator.
pub fn found(
    folder: &Path,
    mut cards: Vec<Card>,
    founding: Founding,
) -> Result<Network, ValidatorError> {
    let path = folder.join(NETWORK_FILE);
    if path.exists() {
        return Err(ValidatorError::OtherNetwork(path));
    }
    cards.sort_by_key(|card| card.id);
    cards.iter().try_for_each(Card::check)?;
    for url in &founding.relays {
        relay::client::check_url(url)?;
    }
    let begin = beginning(folder, &founding)?;
    let validator = |card: &Card| Validator {
        id: card.id,
        power: card.power,
    };
    let genesis = Genesis {
        version: GENESIS_VERSION,
        chain_name: founding.name,
        kind: NetworkKind::Devnet,
        time_ms: begin.time_ms,
        clock: begin.clock,
        params: ChainParams {
            sector_sizes: vec![founding.sector_size],
            datacap_root: founding.datacap_root,
            verification: founding.verification,
            ..ChainParams::devnet()
        },
        accounts: founding.accounts,
        validators: cards.iter().map(validator).collect(),
        beacons: vec![begin.beacon],
        keys: founding.keys,
    };
    genesis.clone().check()?;
    let network = Network {
        genesis,
        validators: cards,
        relays: founding.relays,
    };
    let text = serde_json::to_vec_pretty(&network).expect("plain fields serialise");
    replace_file(folder, NETWORK_FILE, &text)?;
    Ok(network)
}

/// The relays of the network that this home has joined, if it is of this genesis.
pub fn known_relays(home: &Home, genesis: &Genesis) -> Vec<String> {
    let joined = read_network(&home.root().join(NETWORK_FILE)).ok();
    let same = joined.filter(|network| network.genesis == *genesis);
    same.map_or_else(Vec::new, |network| network.relays)
}

/// Writes the network file of a chain that exists, for who joins it when its validators have changed.
pub fn invite(
    folder: &Path,
    validators: Vec<Card>,
    genesis: Genesis,
    relays: Vec<String>,
) -> Result<Network, ValidatorError> {
    let path = folder.join(NETWORK_FILE);
    for url in &relays {
        relay::client::check_url(url)?;
    }
    let network = Network {
        genesis,
        validators,
        relays,
    };
    if path.exists() && read_network(&path)?.genesis != network.genesis {
        return Err(ValidatorError::OtherNetwork(path));
    }
    let text = serde_json::to_vec_pretty(&network).expect("plain fields serialise");
    replace_file(folder, NETWORK_FILE, &text)?;
    read_network(&path)
}

struct Beginning {
    time_ms: u64,
    clock: ClockMode,
    beacon: BeaconParams,
}

/// A network's beacon and clock, so that its genesis lies in epoch 0.
fn beginning(folder: &Path, founding: &Founding) -> Result<Beginning, ValidatorError> {
    let (time_ms, epoch_ms) = (founding.time_ms, founding.epoch_ms);
    let seconds = i64::try_from(time_ms / 1000).unwrap_or(i64::MAX);
    let own = || -> Result<_, ValidatorError> {
        let key = beacon_of(&open_or_create(&folder.join(BEACON_FILE))?);
        Ok(BeaconParams::devnet(&key, seconds))
    };
    match founding.randomness {
        Randomness::OwnKey => Ok(Beginning {
            time_ms,
            clock: ClockMode::Logical { epoch_ms },
            beacon: own()?,
        }),
        Randomness::OwnClock => {
            let period = u32::try_from(epoch_ms / 1000).unwrap_or(0);
            if period == 0 || epoch_ms % 1000 != 0 {
                let text = format!("an epoch of {epoch_ms} ms; rounds are whole seconds apart");
                return Err(ValidatorError::Content(text));
            }
            let mut beacon = own()?;
            beacon.period = period;
            beacon.chain_hash = beacon.compute_chain_hash();
            // Round 1 is epoch 1, and begins now.
            let time_ms = time_ms / 1000 * 1000;
            let clock = ClockMode::Beacon { epoch_ms };
            Ok(Beginning {
                time_ms,
                clock,
                beacon,
            })
        }
        Randomness::Quicknet => {
            if epoch_ms != QUICKNET_EPOCH_MS {
                let text = format!(
                    "an epoch of {epoch_ms} ms; ten rounds of quicknet are {QUICKNET_EPOCH_MS} ms"
                );
                return Err(ValidatorError::Content(text));
            }
            // The newest round begins epoch 0, which has no value; that of epoch 1 is not known to anybody yet.
            let newest = BeaconParams::quicknet(0, 0).round_at(seconds);
            Ok(Beginning {
                time_ms,
                clock: ClockMode::Beacon { epoch_ms },
                beacon: BeaconParams::quicknet(0, newest),
            })
        }
    }
}

fn beacon_of(key: &Wallet) -> DevnetSigner {
    DevnetSigner::from_seed(&key.signing_key().to_bytes())
}

/// Reads and checks a network file.
pub fn read_network(path: &Path) -> Result<Network, ValidatorError> {
    let network = parse_network(path)?;
    network.validators.iter().try_for_each(Card::check)?;
    Ok(network)
}

/// Reads a network file whose addresses may be of no use.
fn parse_network(path: &Path) -> Result<Network, ValidatorError> {
    let file = |source| ValidatorError::File {
        path: path.to_owned(),
        source,
    };
    if fs::metadata(path).map_err(file)?.len() > MAX_NETWORK_BYTES {
        return Err(ValidatorError::Content(format!(
            "{} is too large",
            path.display()
        )));
    }
    let text = fs::read(path).map_err(file)?;
    network_of(&text).map_err(|error| match error {
        ValidatorError::Content(why) => {
            ValidatorError::Content(format!("{}: {why}", path.display()))
        }
        other => other,
    })
}

/// The network in the text of a network file.
fn network_of(text: &[u8]) -> Result<Network, ValidatorError> {
    let network: Network =
        serde_json::from_slice(text).map_err(|error| ValidatorError::Content(error.to_string()))?;
    network.genesis.clone().check()?;
    let distinct: BTreeSet<ValidatorId> = network.validators.iter().map(|card| card.id).collect();
    if distinct.len() != network.validators.len() {
        return Err(ValidatorError::Content(
            "it names a validator twice".to_owned(),
        ));
    }
    Ok(network)
}

/// Any bytes as a network file: refused, or the same after being written and read; and looking at its cards is calm. Body of the fuzz
/// target.
pub fn fuzz_network(bytes: &[u8]) {
    if let Ok(network) = network_of(bytes) {
        let written = serde_json::to_vec(&network).expect("plain fields serialise");
        assert_eq!(network_of(&written).ok().as_ref(), Some(&network));
        for card in &network.validators {
            check_calmly(card);
        }
    }
}

/// Any bytes as an operator's card: refused, or the same after being written and read; and looking at it is calm. Body of the
/// fuzz target.
pub fn fuzz_card(bytes: &[u8]) {
    if let Ok(card) = serde_json::from_slice::<Card>(bytes) {
        let written = serde_json::to_vec(&card).expect("plain fields serialise");
        let again: Card = serde_json::from_slice(&written).expect("just written");
        assert_eq!(again, card);
        check_calmly(&card);
    }
}

/// A card that passes its check is a peer that both kinds of traffic can name.
fn check_calmly(card: &Card) {
    if card.check().is_ok() {
        let peer = card.peer().expect("checked");
        assert_eq!(peer.key.as_bytes(), &card.id.0);
        assert!(card.address.contains("/p2p/"));
    }
}

/// What this home is in the network that it joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Joined {
    /// The chain.
    pub chain_id: ChainId,
    /// This home's key.
    pub id: ValidatorId,
    /// Its share of the votes, if the network's file names it; else it follows.
    pub power: Option<u64>,
    /// All shares.
    pub total_power: u64,
}

/// Makes this home a node of the network in `file`. A validator needs the network's beacon key or relays, a follower does not.
/// `relays` take the place of the file's, if there are any.
pub fn join(
    home: &Home,
    file: &Path,
    beacon: Option<&Path>,
    relays: &[String],
) -> Result<Joined, ValidatorError> {
    let mut network = read_network(file)?;
    if !relays.is_empty() {
        network.relays = relays.to_vec();
    }
    for url in &network.relays {
        relay::client::check_url(url)?;
    }
    let root = home.root();
    crate::identity::create_private_dir(root).map_err(|source| ValidatorError::File {
        path: root.to_owned(),
        source,
    })?;
    let kept = root.join(NETWORK_FILE);
    if kept.exists() && parse_network(&kept)?.genesis != network.genesis {
        return Err(ValidatorError::OtherNetwork(root.to_owned()));
    }
    if let Some(path) = beacon {
        signer_of(path, &network)?;
        let here = root.join(BEACON_FILE);
        if !same_file(path, &here) {
            fs::copy(path, &here).map_err(|source| ValidatorError::File { path: here, source })?;
        }
    }
    let joined = role(home, &network)?;
    let keyless = !root.join(BEACON_FILE).exists();
    if joined.power.is_some() && keyless && network.relays.is_empty() {
        let text = "a validator needs the network's beacon key, or relays that give its rounds: add --beacon-key FILE or --relay URL".to_owned();
        return Err(ValidatorError::Content(text));
    }
    let text = serde_json::to_vec_pretty(&network).expect("plain fields serialise");
    replace_file(root, NETWORK_FILE, &text)?;
    Ok(joined)
}

/// The beacon key in a file, with the parameters of the network that it signs for.
fn signer_of(
    path: &Path,
    network: &Network,
) -> Result<(DevnetSigner, BeaconParams), ValidatorError> {
    let signer = beacon_of(&Wallet::open(path, || None)?);
    let pk = signer.public_key();
    match network.genesis.beacons.iter().find(|p| p.pk == pk) {
        Some(params) => Ok((signer, params.clone())),
        None => {
            let text = format!("{} is not this network's beacon key", path.display());
            Err(ValidatorError::Content(text))
        }
    }
}

/// Serves the rounds of a network whose key is here, for nodes without it; see [`relay::server`]. Files that are not named are
/// this home's.
pub async fn serve_rounds(
    home: &Home,
    network: Option<&Path>,
    key: Option<&Path>,
    listen: SocketAddr,
) -> Result<RelayHandle, ValidatorError> {
    let or_own = |given: Option<&Path>, name: &str| {
        given.map_or_else(|| home.root().join(name), Path::to_owned)
    };
    let network = or_own(network, NETWORK_FILE);
    if !network.exists() {
        return Err(ValidatorError::NotJoined(home.root().to_owned()));
    }
    let (signer, params) = signer_of(&or_own(key, BEACON_FILE), &read_network(&network)?)?;
    Ok(relay::server::serve(params, Arc::new(signer), listen).await?)
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn role(home: &Home, network: &Network) -> Result<Joined, ValidatorError> {
    let id = ValidatorId(validator_key(home)?.address().0);
    let set = &network.validators;
    Ok(Joined {
        chain_id: network.genesis.chain_id(),
        id,
        power: set.iter().find(|v| v.id == id).map(|v| v.power),
        total_power: set.iter().map(|v| v.power).sum(),
    })
}

/// A follower knows no rounds before the chain does; it never proposes.
struct NoBeacon;

impl BeaconSource for NoBeacon {
    fn round(&mut self, _: Epoch, _: u64) -> Option<Entry> {
        None
    }
}

/// How a node runs.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// Where consensus listens, if not at the address of its card: behind a NAT or a proxy.
    pub listen: Option<String>,
    /// Peers beyond those of the network file: validators that came later.
    pub more_peers: Vec<String>,
    /// Where transactions are listened for, if not at the address of its card.
    pub gossip_listen: Option<SocketAddr>,
    /// Nodes beyond those of the network file that are told of transactions, and are no strangers.
    pub gossip_peers: Vec<Peer>,
    /// Relays to ask instead of the network file's.
    pub relays: Vec<String>,
    /// Where JSON-RPC listens.
    pub rpc: SocketAddr,
    /// How patient consensus is.
    pub timing: Timing,
}

/// A running node. [`Node::shutdown`] stops it in order.
pub struct Node {
    ledger: Arc<Ledger>,
    mempool: Arc<Mempool>,
    engine: Arc<EngineHandle>,
    gossip: Gossip,
    rpc: RpcHandle,
}

/// Starts the node of this home.
pub async fn run(home: &Home, config: RunConfig) -> Result<Node, ValidatorError> {
    let root = home.root();
    let path = root.join(NETWORK_FILE);
    if !path.exists() {
        return Err(ValidatorError::NotJoined(root.to_owned()));
    }
    let network = read_network(&path)?;
    let key = validator_key(home)?;
    let secret = key.signing_key().to_bytes();
    let me = ValidatorId(key.address().0);
    let signer = match Wallet::open(&root.join(BEACON_FILE), || None) {
        Ok(key) => Some(beacon_of(&key)),
        Err(KeyError::Missing(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let relays = match config.relays.is_empty() {
        true => network.relays.clone(),
        false => config.relays,
    };
    let own = network.validators.iter().find(|card| card.id == me);
    let announced = own.and_then(|card| card.address.rsplit_once("/p2p/").map(|(at, _)| at));
    let listen = config.listen.or_else(|| announced.map(str::to_owned));
    let bind = own.map(Card::peer).transpose()?.map(|p| p.at.bind_addr());
    let others = network.validators.iter().filter(|card| card.id != me);
    let mut peers: Vec<String> = others.clone().map(|card| card.address.clone()).collect();
    peers.extend(config.more_peers);
    let mut told = others.map(Card::peer).collect::<Result<Vec<_>, _>>()?;
    told.extend(config.gossip_peers);
    let gossip_config = gossip::Config {
        listen: config.gossip_listen.or(bind),
        secret: NetSecret::from_seed(&secret),
        peers: told,
    };
    let dir = home.chain_dir();
    let engine_config = net::Config {
        listen: listen.unwrap_or_else(|| "/ip4/127.0.0.1/tcp/0".into()),
        peers,
        home: dir.clone(),
        connections_per_ip: CONNECTIONS_PER_IP,
    };
    let timing = config.timing;
    let start = move || -> Result<_, ValidatorError> {
        let checked = network.genesis.clone().check()?;
        let beacon: Box<dyn BeaconSource> = match signer {
            Some(signer) => Box::new(signer),
            None if relays.is_empty() => Box::new(NoBeacon),
            None => Box::new(Relays::start(&relays, checked.beacons().clone())?),
        };
        let verifier = Arc::new(Groth16Verifier::new(checked.keys().clone()));
        let ledger = Arc::new(Ledger::open(&dir, &network.genesis, verifier)?);
        let mempool = Arc::new(Mempool::new(ledger.chain_id()));
        let signer = ChainSigner::new(ledger.chain_id(), key.signing_key().clone());
        let parts = Parts {
            ledger: Arc::clone(&ledger),
            mempool: Arc::clone(&mempool),
            signer,
            beacon,
            timing,
        };
        let engine = Arc::new(net::start(engine_config, parts, &secret)?);
        Ok((ledger, mempool, engine))
    };
    let started = tokio::task::spawn_blocking(start).await;
    let (ledger, mempool, engine) = started.map_err(|e| ValidatorError::Task(e.to_string()))??;
    let gossip = Gossip::start(gossip_config, Arc::clone(&ledger), Arc::clone(&mempool))?;
    let node = rpc::Node {
        ledger: Arc::clone(&ledger),
        mempool: Arc::clone(&mempool),
        engine: Arc::clone(&engine),
        faucet: None,
        fellows: rpc::fellows::Fellows::default(),
        gossip: Some(gossip.clone()),
    };
    let rpc = rpc::serve(node, config.rpc).await?;
    replace_file(root, "chain.url", format!("{}\n", rpc.url()).as_bytes())?;
    Ok(Node {
        ledger,
        mempool,
        engine,
        gossip,
        rpc,
    })
}

impl Node {
    /// Its JSON-RPC address.
    pub fn url(&self) -> String {
        self.rpc.url()
    }

    /// Its key, and where it listens for transactions; a follower does not, unless it is told to.
    pub fn gossip_addr(&self) -> Option<PeerAddr> {
        self.gossip.peer_addr()
    }

    /// Whether consensus goes on.
    pub fn status(&self) -> EngineStatus {
        self.engine.status()
    }

    /// Its chain.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Its pool.
    pub fn mempool(&self) -> &Arc<Mempool> {
        &self.mempool
    }

    /// Stops RPC, then gossip, then consensus.
    pub async fn shutdown(self) -> Result<(), ValidatorError> {
        self.rpc.stop().await;
        self.gossip.stop().await;
        let engine = self.engine;
        tokio::task::spawn_blocking(move || engine.stop())
            .await
            .map_err(|e| ValidatorError::Task(e.to_string()))
    }
}
