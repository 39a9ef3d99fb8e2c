//! `holdfast chain card|init|join|run|relay|validators`: a chain that several operators run together.
//!
//! Arguments and words; the work is [`crate::validator`]. `deploy/README.md` walks through four hosts with the exact commands.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use chain_lite::account::Address;
use chain_lite::engine::EngineStatus;
use chain_lite::governance;
use chain_lite::params::VerificationMode;
use chain_lite::snapshot;
use chain_lite::units::TokenAmount;
use chain_lite_bft::app::Timing;
use prover::SectorSize;
use serde::Serialize;

use super::account::{connect_proven, proven};
use super::args::TrustArgs;
use super::output::BarProgress;
use super::{Class, CliError, Context};
use crate::chain::ValidatorView;
use crate::chain::gossip::{HostPort, Peer};
use crate::provider::prover::Workshop;
use crate::relay::RelayError;
use crate::validator::{self, Card, Founding, Joined, Randomness, RunConfig, ValidatorError};

/// Money of a network whose founder names no accounts, in tokens; it goes to the founder's own wallet.
const TOTAL_TOKENS: u64 = 1_000_000_000;
/// Pause between looks at a running engine.
const LOOK: Duration = Duration::from_millis(200);

/// Pause between looks at a node that is not live yet.
const LIVE_LOOK: Duration = Duration::from_millis(20);

/// Arguments of `chain card`.
#[derive(Debug, clap::Args)]
pub struct CardArgs {
    /// Where the other validators reach this one, such as /ip4/10.0.0.1/tcp/26600 or /dns4/a.example/tcp/26600
    #[arg(long, value_name = "MULTIADDR")]
    listen: String,
    /// Where other nodes bring transactions (UDP) [default: the same host, the next port]
    #[arg(long, value_name = "HOST:PORT")]
    gossip: Option<HostPort>,
    /// This validator's share of the votes
    #[arg(long, default_value_t = 1, value_name = "N")]
    power: u64,
}

/// Arguments of `chain init`.
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// File with every validator's card, one per line
    #[arg(long, value_name = "FILE")]
    validators: PathBuf,
    /// Folder for network.json and, with a key of its own, beacon.key, which every operator gets [default: this home]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// A name for people
    #[arg(long, default_value = "holdfast", value_name = "NAME")]
    name: String,
    /// Milliseconds between blocks [default: 2000, with quicknet 30000]
    #[arg(long, value_name = "MS")]
    epoch_ms: Option<u64>,
    /// Where randomness comes from
    #[arg(long, value_enum, default_value_t = Beacon::Own)]
    beacon: Beacon,
    /// Who gives rounds to nodes without the key; may be repeated [default with quicknet: drand's own relays]
    #[arg(long, value_name = "URL")]
    relay: Vec<String>,
    /// Size of sectors: 2KiB, 8MiB or 512MiB
    #[arg(long, default_value = "8MiB", value_name = "SIZE")]
    sector_size: SectorSize,
    /// An account with money at the start, ADDRESS=TOKENS; may be repeated [default: all to this home's wallet]
    #[arg(long, value_name = "ADDRESS=TOKENS", value_parser = parse_fund)]
    fund: Vec<(Address, TokenAmount)>,
    /// Who lets notaries grant DataCap [default: nobody, so there are no verified deals]
    #[arg(long, value_name = "ADDRESS")]
    datacap_root: Option<Address>,
    /// Take window PoSts unverified where the rules allow it: then run `holdfast dispute watch` beside the validators
    #[arg(long)]
    optimistic: bool,
}

/// Where a network's randomness comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Beacon {
    /// A key that every operator gets; an epoch is a block
    Own,
    /// The same, and epochs follow the times of its rounds, which `chain relay` gives to nodes without the key
    OwnClock,
    /// drand's quicknet, whose key no single operator has; an epoch is ten rounds
    Quicknet,
}

/// drand's public relays.
const DRAND_RELAYS: [&str; 3] = [
    "https://api.drand.sh",
    "https://api2.drand.sh",
    "https://api3.drand.sh",
];

/// Arguments of `chain relay`.
#[derive(Debug, clap::Args)]
pub struct RelayArgs {
    /// Where it listens; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:26690", value_name = "IP:PORT")]
    listen: SocketAddr,
    /// The founder's network.json [default: this home's]
    #[arg(long, value_name = "FILE")]
    network: Option<PathBuf>,
    /// The founder's beacon.key [default: this home's]
    #[arg(long, value_name = "FILE")]
    beacon_key: Option<PathBuf>,
    /// Stop when standard input ends: for a process that starts this one and must not be outlived
    #[arg(long)]
    stop_with_stdin: bool,
}

/// Arguments of `chain join`.
#[derive(Debug, clap::Args)]
pub struct JoinArgs {
    /// The founder's network.json
    #[arg(value_name = "FILE")]
    network: PathBuf,
    /// The founder's beacon.key; validators need it unless relays give the rounds, followers do not
    #[arg(long, value_name = "FILE")]
    beacon_key: Option<PathBuf>,
    /// Who gives beacon rounds, instead of those that network.json names; may be repeated
    #[arg(long, value_name = "URL")]
    relay: Vec<String>,
}

/// Arguments of `chain invite`.
#[derive(Debug, clap::Args)]
pub struct InviteArgs {
    /// File with every validator's card, one per line
    #[arg(long, value_name = "FILE")]
    validators: PathBuf,
    /// Folder for network.json
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Who gives beacon rounds to nodes without the key; may be repeated [default: as in this home's network.json]
    #[arg(long, value_name = "URL")]
    relay: Vec<String>,
    #[command(flatten)]
    trust: TrustArgs,
}

/// Arguments of `chain run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Where JSON-RPC listens; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:26680", value_name = "IP:PORT")]
    rpc: SocketAddr,
    /// Where consensus listens, if not at the address of this validator's card [default for followers: loopback]
    #[arg(long, value_name = "MULTIADDR")]
    listen: Option<String>,
    /// A peer that network.json does not name, with its /p2p/ id; may be repeated
    #[arg(long, value_name = "MULTIADDR")]
    peer: Vec<String>,
    /// Where transactions are listened for (UDP), if not at the address of this validator's card
    #[arg(long, value_name = "IP:PORT")]
    gossip_listen: Option<SocketAddr>,
    /// A node that network.json does not name, to be told of transactions and to be no stranger; may be repeated
    #[arg(long, value_name = "KEY@HOST:PORT")]
    gossip_peer: Vec<Peer>,
    /// Who gives beacon rounds, instead of those that network.json names; may be repeated
    #[arg(long, value_name = "URL")]
    relay: Vec<String>,
    /// Stop when standard input ends: for a process that starts this one and must not be outlived
    #[arg(long)]
    stop_with_stdin: bool,
    /// Milliseconds until a silent proposer's turn is given up
    #[arg(long, default_value_t = 1500, value_name = "MS")]
    propose_timeout_ms: u64,
    /// Blocks between snapshots in the chain's folder, from which others join (`chain snapshot export`); 0 makes none
    #[arg(long, default_value_t = 10_000, value_name = "BLOCKS")]
    snapshot_every: u64,
}

fn parse_fund(text: &str) -> Result<(Address, TokenAmount), String> {
    let (address, tokens) = text.split_once('=').ok_or("write ADDRESS=TOKENS")?;
    let address = address.parse().map_err(|e| format!("{e}"))?;
    let tokens: u64 = tokens.parse().map_err(|e| format!("{e}"))?;
    Ok((address, TokenAmount::from_tokens(tokens)))
}

/// `chain card`.
pub fn card(args: &CardArgs, context: &Context) -> Result<(), CliError> {
    let card = validator::card(
        &context.config.home,
        &args.listen,
        args.gossip.as_ref(),
        args.power,
    )?;
    // One line, so that the founder can gather them in a file.
    context.out.result(&card, |card| {
        serde_json::to_string(card).expect("plain fields serialise")
    })
}

#[derive(Debug, Serialize)]
struct Founded {
    chain_id: chain_lite::account::ChainId,
    validators: usize,
    network: PathBuf,
    /// Secret; with quicknet there is none.
    beacon_key: Option<PathBuf>,
    relays: Vec<String>,
}

/// `chain init`.
pub async fn init(args: InitArgs, context: &Context) -> Result<(), CliError> {
    let cards = read_cards(&args.validators)?;
    cards.iter().try_for_each(Card::check)?;
    let folder = args
        .out
        .unwrap_or_else(|| context.config.home.root().to_owned());
    let failed = |error: std::io::Error| CliError::io("cannot create", &folder, &error);
    crate::identity::create_private_dir(&folder).map_err(failed)?;
    if args.sector_size.is_production() || !args.sector_size.is_registered() {
        let text = format!("{} sectors need a public network's keys", args.sector_size);
        return Err(CliError::new(Class::Usage, text).hint("choose 2KiB, 8MiB or 512MiB"));
    }
    let shop = Arc::new(
        Workshop::new(&context.config.params_dir).map_err(|e| machine("the proving keys", &e))?,
    );
    let progress: Arc<dyn prover::Progress> = Arc::new(BarProgress::new(&context.out));
    let keys = crate::devnet::make_keys(&shop, args.sector_size, &progress).await?;
    let mut accounts: BTreeMap<Address, TokenAmount> = args.fund.into_iter().collect();
    if accounts.is_empty() {
        let wallet = crate::devnet::open_or_create(&context.config.home.wallet_key())?;
        accounts.insert(wallet.address(), TokenAmount::from_tokens(TOTAL_TOKENS));
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let (randomness, usual_ms) = match args.beacon {
        Beacon::Own => (Randomness::OwnKey, 2_000),
        Beacon::OwnClock => (Randomness::OwnClock, 2_000),
        Beacon::Quicknet => (Randomness::Quicknet, validator::QUICKNET_EPOCH_MS),
    };
    let mut relays = args.relay;
    if relays.is_empty() && randomness == Randomness::Quicknet {
        relays = DRAND_RELAYS.map(str::to_owned).to_vec();
    }
    let founding = Founding {
        name: args.name,
        epoch_ms: args.epoch_ms.unwrap_or(usual_ms),
        randomness,
        relays,
        sector_size: args.sector_size,
        keys,
        accounts,
        time_ms: now.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
        datacap_root: args.datacap_root,
        verification: match args.optimistic {
            true => VerificationMode::Optimistic,
            false => VerificationMode::Eager,
        },
    };
    let network = validator::found(&folder, cards, founding)?;
    let founded = Founded {
        chain_id: network.genesis.chain_id(),
        validators: network.validators.len(),
        network: folder.join("network.json"),
        beacon_key: (randomness != Randomness::Quicknet).then(|| folder.join("beacon.key")),
        relays: network.relays,
    };
    context.out.result(&founded, founded_words)
}

fn founded_words(f: &Founded) -> String {
    let begun = format!(
        "founded chain {} of {} validators",
        f.chain_id, f.validators
    );
    let network = f.network.display();
    match &f.beacon_key {
        Some(key) => format!(
            "{begun}\ngive every operator {network} and, over a private way, {}\n\
             each then runs: holdfast chain join network.json --beacon-key beacon.key && holdfast chain run\n\
             its proofs and randomness can be forged by who holds these files: for trying out, among friends",
            key.display()
        ),
        None => format!(
            "{begun}\ngive every operator {network}\n\
             each then runs: holdfast chain join network.json && holdfast chain run\n\
             its randomness is drand's, from {}; its proofs can be forged by anybody: for trying out, among friends",
            f.relays.join(", ")
        ),
    }
}

fn read_cards(path: &Path) -> Result<Vec<Card>, CliError> {
    super::governance::lines(
        path,
        "the lines that `holdfast chain card` prints at every validator",
    )
}

/// `chain join`.
pub fn join(args: &JoinArgs, context: &Context) -> Result<(), CliError> {
    let home = &context.config.home;
    let key = args.beacon_key.as_deref();
    let joined = validator::join(home, &args.network, key, &args.relay)?;
    context.out.result(&joined, |j: &Joined| match j.power {
        Some(power) => format!(
            "joined chain {} as validator {} with {power} of {} votes; start it with `holdfast chain run`",
            j.chain_id, j.id, j.total_power
        ),
        None => format!(
            "joined chain {} as a follower ({} is none of its validators); start it with `holdfast chain run`",
            j.chain_id, j.id
        ),
    })
}

#[derive(Debug, Serialize)]
struct Invited {
    chain_id: chain_lite::account::ChainId,
    network: PathBuf,
}

/// `chain invite`.
pub async fn invite(args: InviteArgs, context: &Context) -> Result<(), CliError> {
    let cards = read_cards(&args.validators)?;
    // Settles which chain this is; the genesis hashes to its id.
    let chain = connect_proven(context, &args.trust).await?;
    let genesis = chain.node().genesis().await?;
    let failed = |error: std::io::Error| CliError::io("cannot create", &args.out, &error);
    crate::identity::create_private_dir(&args.out).map_err(failed)?;
    let relays = match args.relay.is_empty() {
        true => validator::known_relays(&context.config.home, &genesis),
        false => args.relay,
    };
    let network = validator::invite(&args.out, cards, genesis, relays)?;
    let key = match network.relays.is_empty() {
        true => "; validators also need the network's beacon.key, over a private way",
        false => "; its relays give the beacon's rounds to who has no beacon.key",
    };
    let invited = Invited {
        chain_id: network.genesis.chain_id(),
        network: args.out.join("network.json"),
    };
    context.out.result(&invited, |i| {
        format!(
            "wrote {} of chain {}\ngive it to every operator{key}",
            i.network.display(),
            i.chain_id
        )
    })
}

#[derive(Debug, Serialize)]
struct Started {
    chain_id: chain_lite::account::ChainId,
    chain_url: String,
    /// `KEY@IP:PORT`, for another node's `--gossip-peer`; a follower listens only if it is told where.
    gossip: Option<String>,
    height: u64,
}

/// `chain run`.
pub async fn run(args: RunArgs, context: &Context) -> Result<(), CliError> {
    let begun = Begun::now();
    let timing = Timing {
        propose: Duration::from_millis(args.propose_timeout_ms.clamp(50, 60_000)),
        ..Timing::default()
    };
    let config = RunConfig {
        listen: args.listen,
        more_peers: args.peer,
        gossip_listen: args.gossip_listen,
        gossip_peers: args.gossip_peer,
        relays: args.relay,
        rpc: args.rpc,
        timing,
    };
    let node = validator::run(&context.config.home, config).await?;
    let snapshots = NonZeroU64::new(args.snapshot_every)
        .map(|every| snapshot::keep(Arc::clone(node.ledger()), every))
        .transpose()
        .map_err(|e| machine("the folder of snapshots", &e))?;
    let started = Started {
        chain_id: node.ledger().chain_id(),
        chain_url: node.url(),
        gossip: node.gossip_addr().map(|addr| addr.to_string()),
        height: node.ledger().tip().height,
    };
    context.out.result(&started, |s| {
        format!(
            "chain  {}\nrpc    {}\ngossip {}\nblock  {}",
            s.chain_id,
            s.chain_url,
            s.gossip
                .as_deref()
                .unwrap_or("brings transactions, listens for none"),
            s.height
        )
    })?;
    let ended = async {
        while node.status() == EngineStatus::Running {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        () = ended => {}
        () = tell_live(&node, begun, started.height, context) => {}
        () = super::devnet::interrupted() => {}
        () = stdin_ended(args.stop_with_stdin) => {}
    }
    let status = node.status();
    node.shutdown().await?;
    // A snapshot that is being written is given up.
    let ended = tokio::task::spawn_blocking(move || drop(snapshots)).await;
    ended.map_err(|e| machine("the snapshots", &e))?;
    match status {
        EngineStatus::Failed { why } => {
            let error = CliError::new(Class::Machine, format!("the chain stopped: {why}"));
            // A journal that is refused is refused again; its error says the way on itself.
            Err(match why.contains("the journal of its votes") {
                true => error,
                false => error.hint(
                    "free space or repair the disk, then start it again: it recovers from its logs",
                ),
            })
        }
        EngineStatus::Running | EngineStatus::Stopped => Ok(()),
    }
}

/// When a node was started, by a clock that never steps and by the one that blocks are stamped with.
#[derive(Clone, Copy, Debug)]
struct Begun {
    at: Instant,
    unix_ms: u64,
}

impl Begun {
    fn now() -> Self {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            at: Instant::now(),
            unix_ms: unix.map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            }),
        }
    }
}

/// Says how long it took until the node was live: until it had a block that was made after its start. Older ones are what it
/// missed. Never returns.
async fn tell_live(node: &validator::Node, begun: Begun, height: u64, context: &Context) {
    let mut tip = node.ledger().tip();
    while tip.time_ms < begun.unix_ms {
        tokio::time::sleep(LIVE_LOOK).await;
        tip = node.ledger().tip();
    }
    context.out.say(format_args!(
        "live after {:.2} s, at block {}; {height} were here at the start",
        begun.at.elapsed().as_secs_f64(),
        tip.height
    ));
    std::future::pending().await
}

#[derive(Debug, Serialize)]
struct Relaying {
    url: String,
}

/// `chain relay`.
pub async fn relay(args: RelayArgs, context: &Context) -> Result<(), CliError> {
    let (home, network) = (&context.config.home, args.network.as_deref());
    let key = args.beacon_key.as_deref();
    let relay = validator::serve_rounds(home, network, key, args.listen).await?;
    context.out.result(&Relaying { url: relay.url() }, |r| {
        format!(
            "relay {}\nnodes without the key: holdfast chain join network.json --relay {}",
            r.url, r.url
        )
    })?;
    tokio::select! {
        () = super::devnet::interrupted() => {}
        () = stdin_ended(args.stop_with_stdin) => {}
    }
    relay.stop().await;
    Ok(())
}

/// Ends when standard input does, if that is wanted. The reading thread is left behind: the process ends next.
async fn stdin_ended(wanted: bool) {
    if !wanted {
        return std::future::pending().await;
    }
    let (told, heard) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Whatever comes is of no interest, and an error is an end too.
        drop(std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
        let _ = told.send(());
    });
    drop(heard.await);
}

/// `chain validators`: proven.
pub async fn validators(trust: &TrustArgs, context: &Context) -> Result<(), CliError> {
    let chain = connect_proven(context, trust).await?;
    let sets = chain.read(|state| Ok(governance::sets(state)?)).await;
    let found = match sets.map_err(proven)? {
        Some((now, _)) => now
            .validators()
            .iter()
            .map(|v| ValidatorView {
                id: v.id,
                power: v.power,
            })
            .collect(),
        None => Vec::new(),
    };
    context.out.result(&found, |set: &Vec<ValidatorView>| {
        let total: u64 = set.iter().map(|v| v.power).sum();
        let line = |v: &ValidatorView| format!("{}  {} of {total} votes", v.id, v.power);
        set.iter().map(line).collect::<Vec<_>>().join("\n")
    })
}

fn machine(what: &str, error: &impl std::error::Error) -> CliError {
    CliError::caused(Class::Machine, what, error)
}

impl From<ValidatorError> for CliError {
    fn from(error: ValidatorError) -> Self {
        let (class, hint) = match &error {
            ValidatorError::Content(_) | ValidatorError::Genesis(_) => {
                (Class::Input, "check the file that was named")
            }
            ValidatorError::Relay(RelayError::Roots { .. }) => (
                Class::Machine,
                "install them (package ca-certificates), name a file of them in SSL_CERT_FILE, or name http relays: rounds are verified all the same",
            ),
            ValidatorError::Relay(_) => (Class::Input, "check the relays' addresses"),
            ValidatorError::File { .. } | ValidatorError::Key(_) => {
                (Class::Input, "check the path and its permissions")
            }
            ValidatorError::OtherNetwork(_) => (Class::Input, "name another --home or --out"),
            ValidatorError::NotJoined(_) => {
                (Class::Input, "get network.json from the network's founder")
            }
            ValidatorError::Engine(_) | ValidatorError::Gossip(_) => (
                Class::Input,
                "check the addresses, and that the port is free; --listen and --gossip-listen name others",
            ),
            ValidatorError::Task(_) => (Class::Bug, "-v says more"),
            ValidatorError::Journal(_) | ValidatorError::Ledger(_) | ValidatorError::Rpc(_) => {
                (Class::Machine, "-v says more")
            }
        };
        Self::caused(class, "the validator", &error).hint(hint)
    }
}
