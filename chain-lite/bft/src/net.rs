//! The engine with its network: Malachite's actors in a runtime of their own, and one thread that answers them from [`App`].
//!
//! Walk: [`start`] after [`Ledger::open`](chain_lite::ledger::Ledger::open), in the place of `chain_lite::engine::solo::start`;
//! RPC and provider talk to the same [`EngineHandle`] and to the same ledger. Spec: `consensus.md` §§3, 4, 10.
//! One height: core asks for a value or receives parts → votes → `Decided`: commit, synced → `Finalized`: the certificate
//! may grow → wait for the clock → next height.
//!
//! Clock: a height begins when the chain's clock says that its block is due *here*. Two thirds must think so before a block
//! can be decided, so no single validator makes time run. A lease ([`EngineHandle::hold`]) keeps this validator from beginning the next
//! height; the chain stands while validators with a third of the power hold it. A node that catches up asks no clock.
//! Memory: [`crate::app`]'s, Malachite's queues ([`QUEUED_HEIGHTS`] heights), libp2p's buffers; about 50 MB in all.
//! Crash: votes and proposals are in `consensus.wal`, flushed before they are published; bodies in `undecided/`; decided
//! blocks in the block log. Failure: an error of disk or ledger stops the engine, [`EngineHandle::status`] says why; it signs
//! nothing more until the node is restarted. So does a journal with votes that do not follow from the rest of it, as after its key
//! ran on two machines; such a one is refused at every start, so the error says how to go on without it. A damaged one is refused before
//! Malachite may cut it, and at every start too (`journal`).
//!
//! Peers are named in full, with `/p2p/<peer id>`: without it Malachite rejects and dials a peer for ever (trap 2), so
//! [`start`] refuses such an address. They are dialled again whenever they are away (trap 3), so the order of starting does
//! not matter. Metrics of several engines in one process are told apart by the validator's key (trap 14).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytesize::ByteSize;
use chain_lite::clock::{ClockMode, Tick};
use chain_lite::engine::{Control, EngineHandle, EngineStatus};
use chain_lite::ledger::LedgerError;
use malachite_app_channel::app::config::{
    ConsensusConfig, NodeConfig, P2pConfig, ValuePayload, ValueSyncConfig,
};
use malachite_app_channel::app::engine::host::{Next, SyncedValueOutcome};
use malachite_app_channel::app::engine::util::events::{Event, RxEvent};
use malachite_app_channel::app::net::{Multiaddr, PeerId};
use malachite_app_channel::app::streaming::{StreamContent, StreamId, StreamMessage};
use malachite_app_channel::app::types::Keypair;
use malachite_app_channel::{
    AppMsg, Channels, ConsensusContext, EngineBuilder, EngineHandle as Actors, NetworkContext,
    NetworkIdentity, NetworkMsg, Reply, RequestContext, SyncContext, WalContext,
};
use malachite_codec::Codec as _;
use malachite_core_consensus::LocallyProposedValue;
use malachite_core_types::{Round, SigningScheme as _};
use malachite_signing::Signer as _;
use malachite_sync::RawDecidedValue;
use sha2::{Digest, Sha256};
use tokio::sync::broadcast::error::TryRecvError;

use crate::app::{ANSWER_WITHIN, App, Parts, STATUS_EVERY, SYNC_BATCH, Synced};
use crate::codec::{Codec, MAX_PART_BYTES, MAX_RESPONSE_BYTES, MAX_VOTES_BYTES};
use crate::context::{ChainContext, Ed25519, Height};
use crate::journal;
use crate::parts::Part;
use crate::signing::ChainVerifier;

/// The form of what validators tell each other; part of the protocol's name, so that two forms do not talk past each other but are
/// told at once that they cannot talk. A change of the form of any message of consensus raises it.
///
/// 1: announcements without [`Init::first`](crate::parts::Init::first). 2: with it.
pub const PROTOCOL: u32 = 2;
/// Heights ahead of ours whose messages wait in memory.
pub const QUEUED_HEIGHTS: usize = 10;
/// Longest pause between looks at the clock and the wish to stop.
const LOOK: Duration = Duration::from_millis(20);
/// Longest pause between two heights, beyond an epoch, while this node lacks the next beacon round of a logical clock. Others may have
/// it, and need this validator's votes to pass over a proposer that is away.
const WITHOUT_ROUND: Duration = Duration::from_secs(1);
/// As [`WITHOUT_ROUND`] under the beacon's clock, where no round is waited for so long: then this machine's clock is behind.
const CLOCK_BEHIND: Duration = Duration::from_secs(60);
/// How long it may take until the engine listens.
const LISTEN: Duration = Duration::from_secs(10);
/// How long the runtime's tasks may take to end.
const WIND_DOWN: Duration = Duration::from_secs(2);

/// Where the engine listens, whom it speaks with, and where its journal is.
#[derive(Clone, Debug)]
pub struct Config {
    /// Such as `/ip4/127.0.0.1/tcp/26600`; loopback unless somebody wants otherwise.
    pub listen: String,
    /// Every other validator, such as `/ip4/10.0.0.2/tcp/26600/p2p/12D3Koo…`. See [`peer_id`].
    pub peers: Vec<String>,
    /// Folder of `consensus.wal`.
    pub home: PathBuf,
    /// Most connections from one IP address. 5 is right among hosts; validators that share a machine need more.
    pub connections_per_ip: usize,
}

/// Why the engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address that libp2p cannot use.
    #[error("{address:?} is no address to {what}: {why}")]
    Address {
        /// What was given.
        address: String,
        /// For what.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The operating system refused a thread or the runtime.
    #[error("starting the engine's threads: {0}")]
    Thread(#[from] std::io::Error),
    /// The journal of this validator's votes is not what it wrote: what is wrong, and how to go on.
    #[error("{0}")]
    Journal(String),
    /// Malachite's own reason.
    #[error("starting consensus: {0}")]
    Engine(String),
}

/// A validator's network key: derived from its signing key's secret, so that one file is kept, and unrelated to it for
/// everybody else.
fn network_key(validator_secret: &[u8; 32]) -> Result<Keypair, StartError> {
    let seed: [u8; 32] = Sha256::new_with_prefix(b"holdfast/network-key/v1")
        .chain_update(validator_secret)
        .finalize()
        .into();
    Keypair::ed25519_from_bytes(seed).map_err(|e| StartError::Engine(e.to_string()))
}

/// The name by which peers dial the validator with this secret key: the `/p2p/…` of its address.
pub fn peer_id(validator_secret: &[u8; 32]) -> Result<String, StartError> {
    Ok(network_key(validator_secret)?
        .public()
        .to_peer_id()
        .to_string())
}

/// Checks an address to dial: a transport and the peer's id.
pub fn check_peer(address: &str) -> Result<Multiaddr, StartError> {
    let parsed = parse(address, "dial")?;
    let named = address
        .rsplit_once("/p2p/")
        .map(|(_, id)| id.parse::<PeerId>());
    match named {
        Some(Ok(_)) => Ok(parsed),
        _ => Err(StartError::Address {
            address: address.into(),
            what: "dial",
            why: "it must end with /p2p/ and the peer's id".into(),
        }),
    }
}

fn parse(address: &str, what: &'static str) -> Result<Multiaddr, StartError> {
    let bad = |why: String| StartError::Address {
        address: address.into(),
        what,
        why,
    };
    let parsed: Multiaddr = address.parse().map_err(|e| bad(format!("{e}")))?;
    // Malachite panics on an address without a transport that it knows.
    match address.contains("/tcp/") || address.contains("/quic-v1") {
        true => Ok(parsed),
        false => Err(bad("it names neither /tcp/ nor /udp/…/quic-v1".into())),
    }
}

struct EngineConfig {
    moniker: String,
    consensus: ConsensusConfig,
    sync: ValueSyncConfig,
}

impl NodeConfig for EngineConfig {
    fn moniker(&self) -> &str {
        &self.moniker
    }
    fn consensus(&self) -> &ConsensusConfig {
        &self.consensus
    }
    fn consensus_mut(&mut self) -> &mut ConsensusConfig {
        &mut self.consensus
    }
    fn value_sync(&self) -> &ValueSyncConfig {
        &self.sync
    }
    fn value_sync_mut(&mut self) -> &mut ValueSyncConfig {
        &mut self.sync
    }
}

impl EngineConfig {
    fn new(config: &Config, app: &App) -> Result<Self, StartError> {
        let bytes = |n: usize| ByteSize(n as u64);
        let chain = app.ledger().chain_id();
        let peers: Result<Vec<Multiaddr>, StartError> =
            config.peers.iter().map(|p| check_peer(p)).collect();
        let mut p2p = P2pConfig {
            listen_addr: parse(&config.listen, "listen on")?,
            persistent_peers: peers?,
            ..P2pConfig::default()
        };
        p2p.discovery.max_connections_per_ip = config.connections_per_ip;
        p2p.pubsub_max_size = bytes(MAX_VOTES_BYTES.max(2 * MAX_PART_BYTES));
        p2p.rpc_max_size = bytes(MAX_RESPONSE_BYTES);
        // A node of another chain is disconnected at once, instead of being found out at every message.
        p2p.protocol_names.consensus = format!("/holdfast/{chain}/{PROTOCOL}");
        let consensus = ConsensusConfig {
            p2p,
            // Trap 1: `ProposalOnly` would call strangers' proposals valid unseen.
            value_payload: ValuePayload::ProposalAndParts,
            queue_capacity: QUEUED_HEIGHTS,
            ..ConsensusConfig::default()
        };
        let sync = ValueSyncConfig {
            status_update_interval: STATUS_EVERY,
            request_timeout: ANSWER_WITHIN,
            max_response_size: bytes(MAX_RESPONSE_BYTES),
            batch_size: SYNC_BATCH,
            ..ValueSyncConfig::default()
        };
        Ok(Self {
            moniker: app.address().to_string(),
            consensus,
            sync,
        })
    }
}

/// Starts the engine; returns when it listens. `secret` is the validator's signing key's, for its network name.
pub fn start(config: Config, parts: Parts, secret: &[u8; 32]) -> Result<EngineHandle, StartError> {
    let keypair = network_key(secret)?;
    let control = Control::new(parts.ledger.genesis().genesis().clock);
    let signer = parts.signer.clone();
    let wal = config.home.join("consensus.wal");
    let mut app = App::new(parts);
    // Before Malachite opens it, which may cut it.
    let said = journal::check(&wal, app.next().0, &app.address(), |height| {
        app.may_vote_at(height)
    });
    app.remind(&said.map_err(StartError::Journal)?);
    let engine = EngineConfig::new(&config, &app)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("bft")
        .enable_all()
        .build()?;
    let (told, heard) = sync_channel(1);
    let thread = {
        let control = Arc::clone(&control);
        let work = move || {
            let _guard = control.guard();
            let built = runtime.block_on(build(engine, &app, signer, keypair, wal.clone()));
            run(runtime, built, app, &control, told, wal);
        };
        std::thread::Builder::new()
            .name("bft-engine".into())
            .spawn(work)?
    };
    match heard.recv() {
        Ok(Ok(())) => Ok(EngineHandle::new(control, thread)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(StartError::Engine(
            "the engine's thread ended at once".into(),
        )),
    }
}

async fn build(
    config: EngineConfig,
    app: &App,
    signer: crate::signing::ChainSigner,
    keypair: Keypair,
    wal: PathBuf,
) -> Result<(Channels<ChainContext>, Actors), StartError> {
    let failed = |e: &dyn std::fmt::Display| StartError::Engine(e.to_string());
    let address = app.address();
    let key = Ed25519::encode_public_key(&address.0);
    let peer = keypair.public().to_peer_id().to_bytes();
    let proof = signer.sign_validator_proof(key, peer).await;
    let proof = Codec.encode(&proof.map_err(|e| failed(&e))?);
    let proof = proof.map_err(|e| failed(&e))?;
    let moniker = config.moniker.clone();
    let identity = NetworkIdentity::new_validator(moniker, keypair, address.to_string(), proof);
    let verifier = ChainVerifier::new(app.ledger().chain_id());
    let consensus = ConsensusContext::new_validator(address, Box::new(verifier), Box::new(signer));
    EngineBuilder::new(ChainContext, config)
        .with_default_wal(WalContext::new(wal, Codec))
        .with_default_network(NetworkContext::new(identity, Codec))
        .with_default_sync(SyncContext::new(Codec))
        .with_default_consensus(consensus)
        .with_default_request(RequestContext::new(16))
        .build()
        .await
        .map_err(|e| StartError::Engine(format!("{e:#}")))
}

/// The engine's thread. Blocking work (signatures, execution, fsync) is done here, beside the runtime's own threads.
fn run(
    runtime: tokio::runtime::Runtime,
    built: Result<(Channels<ChainContext>, Actors), StartError>,
    app: App,
    control: &Control,
    told: SyncSender<Result<(), StartError>>,
    wal: PathBuf,
) {
    let (mut channels, actors) = match built {
        Ok(built) => built,
        Err(error) => {
            drop(told.send(Err(error)));
            return;
        }
    };
    // Before the first height begins, which is when the journal is read.
    let mut journal = Journal {
        path: wal,
        events: channels.events.subscribe(),
    };
    let mut driver = Driver {
        app,
        network: channels.network.clone(),
        control,
        asked: None,
        finalized: None,
        streams: Streams::new(),
    };
    // The first word comes when the address is had; a busy port is told by silence or by the end of the actors.
    let first = async { tokio::time::timeout(LISTEN, channels.consensus.recv()).await };
    let begun = match runtime.block_on(first) {
        Ok(Some(message)) => driver.answer(message),
        Ok(None) | Err(_) => {
            let why = "it cannot listen there; is the port taken?".to_owned();
            // The journal is let go before the caller may try another place.
            drop((driver, journal, channels));
            actors.actor.stop(None);
            runtime.shutdown_timeout(WIND_DOWN);
            drop(told.send(Err(StartError::Engine(why))));
            return;
        }
    };
    drop(told.send(Ok(())));
    let failed = begun.err().map(|error| EngineStatus::Failed {
        why: error.to_string(),
    });
    let status = loop {
        if let Some(failed) = failed {
            break failed;
        }
        if control.is_stopping() {
            break EngineStatus::Stopped;
        }
        let wait = driver.patience();
        let next = async { tokio::time::timeout(wait, channels.consensus.recv()).await };
        let next = runtime.block_on(next);
        // Malachite's actors stop without another word to us when the journal is refused.
        if let Some(why) = journal.refusal(|| driver.app.next().0) {
            tracing::error!(%why, "the chain stops");
            break EngineStatus::Failed { why };
        }
        let done = match next {
            Ok(Some(message)) => driver.answer(message),
            Ok(None) => {
                let why = "Malachite's actors ended; the log says why".into();
                break EngineStatus::Failed { why };
            }
            Err(_) => Ok(()),
        };
        let done = done.and_then(|()| driver.propose());
        if let Err(error) = done.and_then(|()| driver.pace()) {
            tracing::error!(%error, "the chain stops");
            let why = error.to_string();
            break EngineStatus::Failed { why };
        }
    };
    drop(driver);
    drop(channels);
    actors.actor.stop(Some("the node stops".into()));
    runtime.shutdown_timeout(WIND_DOWN);
    control.ended(status);
}

/// What Malachite says of its journal.
struct Journal {
    path: PathBuf,
    events: RxEvent<ChainContext>,
}

impl Journal {
    /// Why the engine cannot go on from its journal, if it said so; `next` is the height that it is at.
    fn refusal(&mut self, next: impl Fn() -> Height) -> Option<String> {
        loop {
            match self.events.try_recv() {
                Ok(Event::WalReplayError(error)) => {
                    return Some(refused(&self.path, next(), &error));
                }
                // It was whole a moment ago, so the disk fails. By now it is cut.
                Ok(Event::WalCorrupted(error)) => {
                    let what = format!("is damaged: {error}");
                    let told = journal::refuse(&self.path, next(), &what);
                    return Some(told.unwrap_or_else(|why| why));
                }
                // What is lost is older than what comes, and a refusal is the last that comes.
                Ok(_) | Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
            }
        }
    }
}

fn refused(
    path: &Path,
    next: Height,
    error: &malachite_core_consensus::Error<ChainContext>,
) -> String {
    use malachite_core_consensus::Error::ReplayDivergence;
    let what = match error {
        ReplayDivergence(kind, height, round) => format!(
            "has a {kind} of block {height}, round {round}, that does not follow from the rest of it; most likely this validator's key ran on two machines, or an old copy of its folder was started"
        ),
        other => format!("cannot be applied: {other}"),
    };
    journal::follow_past(path, next, &what)
}

/// Names of streams that no restart and no second streaming repeats (trap 8).
struct Streams {
    run: [u8; 8],
    next: u64,
}

impl Streams {
    fn new() -> Self {
        let nanos = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_nanos());
        let mut hash = Sha256::new_with_prefix(b"holdfast/stream/v1");
        hash.update(nanos.to_le_bytes());
        hash.update(std::process::id().to_le_bytes());
        let digest = hash.finalize();
        let mut run = [0; 8];
        run.copy_from_slice(&digest[..8]);
        Self { run, next: 0 }
    }

    fn next(&mut self) -> StreamId {
        self.next += 1;
        StreamId::new([self.run, self.next.to_be_bytes()].concat().into())
    }
}

struct Driver<'a> {
    app: App,
    network: tokio::sync::mpsc::Sender<NetworkMsg<ChainContext>>,
    control: &'a Control,
    /// The core waits for our block.
    asked: Option<Asked>,
    /// Who waits to be told the next height, and since when.
    finalized: Option<(Instant, Reply<Next<ChainContext>>)>,
    streams: Streams,
}

/// The core's question for our block of a height and round. While it is open, Malachite's connector brings nothing else, not even
/// the beginning of the next round: it must be answered or dropped before the round passes.
struct Asked {
    height: Height,
    round: Round,
    /// When it is dropped.
    until: Instant,
    /// No block could be made, so the next try waits for its beacon round.
    waits: bool,
    to: Reply<LocallyProposedValue<ChainContext>>,
}

/// An answer that nobody waits for any more is no error: the engine is stopping.
fn reply<T>(to: Reply<T>, answer: T) {
    drop(to.send(answer));
}

impl Driver<'_> {
    fn answer(&mut self, message: AppMsg<ChainContext>) -> Result<(), LedgerError> {
        match message {
            AppMsg::ConsensusReady { reply: to } => {
                self.control.made_block();
                reply(to, self.app.next());
            }
            AppMsg::StartedRound {
                height,
                round,
                proposer,
                reply_value,
                ..
            } => {
                if round.as_u32().is_some_and(|r| r > 0) {
                    tracing::info!(%height, %round, %proposer, "another round begins");
                }
                let values = self.app.started_round(height, round, unix_ms())?;
                reply(reply_value, values);
            }
            AppMsg::GetValue {
                height,
                round,
                timeout,
                reply: to,
            } => {
                // A block that is made later reaches nobody in time.
                self.asked = Some(Asked {
                    height,
                    round,
                    until: Instant::now() + timeout - timeout / 4,
                    waits: false,
                    to,
                });
                self.propose()?;
            }
            AppMsg::ReceivedProposalPart {
                from,
                published_by,
                part,
                reply: to,
            } => {
                let publisher = published_by.unwrap_or(from).to_bytes();
                let stream = part.stream_id.to_bytes();
                let value = match part.content {
                    StreamContent::Data(data) => self.app.received_part(
                        &publisher,
                        &stream,
                        part.sequence,
                        data,
                        unix_ms(),
                    )?,
                    StreamContent::Fin => None,
                };
                reply(to, value);
            }
            AppMsg::RestreamProposal {
                height,
                round,
                value_id,
                ..
            } => {
                let parts = self.app.restream(height, round, value_id)?;
                self.publish(parts);
            }
            AppMsg::Decided {
                certificate,
                reply: to,
                ..
            } => {
                self.app.decided(&certificate)?;
                reply(to, ());
            }
            AppMsg::Finalized {
                certificate,
                evidence,
                reply: to,
                ..
            } => {
                self.app.finalized(&certificate)?;
                let votes = evidence.votes.iter().flat_map(|(_, pairs)| pairs);
                let proposals = evidence.proposals.iter().flat_map(|(_, pairs)| pairs);
                self.app.report(votes.cloned(), proposals.cloned())?;
                self.finalized = Some((Instant::now(), to));
            }
            AppMsg::GetHistoryMinHeight { reply: to } => reply(to, self.app.history_min()),
            AppMsg::GetDecidedValues { range, reply: to } => {
                let values = self.app.decided_values(*range.start(), *range.end())?;
                let raw = |(bytes, certificate)| RawDecidedValue::new(bytes, certificate);
                reply(to, values.into_iter().map(raw).collect());
            }
            AppMsg::ProcessSyncedValue {
                height,
                round,
                proposer,
                value_bytes,
                reply: to,
            } => {
                let outcome = match self.app.synced(height, round, proposer, &value_bytes)? {
                    Synced::Value(value) => SyncedValueOutcome::Verdict(value),
                    Synced::PeerFault => SyncedValueOutcome::PeerFault,
                    Synced::NotNow => SyncedValueOutcome::LocalTransientError,
                };
                reply(to, outcome);
            }
            // There are no vote extensions, so neither is asked; an answer is due all the same.
            AppMsg::ExtendVote { reply: to, .. } => reply(to, None),
            AppMsg::VerifyVoteExtensions { reply: to, .. } => reply(to, Vec::new()),
        }
        Ok(())
    }

    /// Answers the core's question for our block as soon as one can be made: a node that catches up begins a height before its
    /// beacon round is here. Without an answer in time the question is dropped, and the round passes after its timeout. A block
    /// is tried at most twice: at once, and when its beacon round is here.
    fn propose(&mut self) -> Result<(), LedgerError> {
        let Some(asked) = self.asked.take() else {
            return Ok(());
        };
        let (height, round, now_ms) = (asked.height, asked.round, unix_ms());
        if Instant::now() >= asked.until {
            tracing::info!(%height, %round, "our turn passes: there was nothing to propose in time");
            return Ok(());
        }
        if asked.waits && !self.app.is_due(now_ms) {
            self.asked = Some(asked);
            return Ok(());
        }
        match self.app.get_value(height, round, now_ms)? {
            Some(ours) => {
                reply(asked.to, ours.value);
                self.publish(ours.parts);
            }
            None if asked.waits => {
                tracing::warn!(%height, %round, "our turn passes: no block can be made");
            }
            None => {
                self.asked = Some(Asked {
                    waits: true,
                    ..asked
                });
            }
        }
        Ok(())
    }

    /// Begins the next height when its block is due.
    fn pace(&mut self) -> Result<(), LedgerError> {
        if self.finalized.is_none() || !self.is_due() {
            return Ok(());
        }
        if let Some((_, to)) = self.finalized.take() {
            self.control.made_block();
            let (height, params) = self.app.next();
            reply(to, Next::Start(height, params));
        }
        Ok(())
    }

    /// How long to listen before the clock is looked at again.
    fn patience(&self) -> Duration {
        let parent = self.app.ledger().tip().epoch;
        match self
            .finalized
            .as_ref()
            .and_then(|_| self.control.tick(parent))
        {
            Some(Tick::Wait(ms) | Tick::Held(ms)) => LOOK.min(Duration::from_millis(ms.max(1))),
            Some(Tick::Due(_)) | None => LOOK,
        }
    }

    fn is_due(&mut self) -> bool {
        if self.app.is_catching_up() {
            return true;
        }
        let parent = self.app.ledger().tip().epoch;
        let tick = self.control.tick(parent);
        let held = matches!(tick, Some(Tick::Wait(_) | Tick::Held(_)));
        let clock = self.app.ledger().genesis().genesis().clock;
        let pause = match clock {
            ClockMode::Logical { .. } => WITHOUT_ROUND,
            ClockMode::Beacon { .. } => CLOCK_BEHIND,
        };
        let longest = pause + Duration::from_millis(clock.epoch_ms());
        // Who has no source of rounds, or none that answers, begins when another did: to vote for its block takes no source.
        let since = self.finalized.as_ref().map(|(since, _)| *since);
        let long = since.is_some_and(|since| since.elapsed() >= longest);
        !held && (self.app.is_due(unix_ms()) || self.app.is_proposed() || long)
    }

    fn publish(&mut self, parts: Vec<Part>) {
        if parts.is_empty() {
            return;
        }
        let stream = self.streams.next();
        for (sequence, part) in (0..).zip(parts) {
            let content = StreamContent::Data(part);
            let message = StreamMessage::new(stream.clone(), sequence, content);
            // Closed means that the engine is stopping.
            drop(
                self.network
                    .blocking_send(NetworkMsg::PublishProposalPart(message)),
            );
        }
    }
}

/// Unix milliseconds by this machine's clock; a clock before 1970 counts as 1970.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
