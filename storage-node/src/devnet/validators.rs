//! A devnet of several validators: the first in the devnet's own process, each other one a process of its own.
//!
//! Place in the walk: [`super`] starts these before its providers. A fellow is this same binary, `holdfast chain run`, with a
//! home in the devnet's folder; it ends when its standard input does, so that no fellow outlives its devnet, however that ended.
//! Spec: `consensus.md` §10.
//!
//! Time: providers live in the devnet's own process, and fellows could decide blocks without it: three of four are enough. So each
//! fellow's clock is held ([`Pace`]) at most [`AHEAD`] epochs beyond the newest block that this process has seen. If it gets no
//! processor, or is suspended, the chain stands soon after, and no deadline passes that its providers could not see. It costs two
//! small calls a fellow and block, and it is the devnet's alone: operators' chains wait for nobody.
//!
//! ```text
//! <home>/devnet/validators.json      ports and cards, made once      network.json  what the fellows join
//!               validator-2/ …       one home per fellow, log in node.log
//! ```

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chain_lite::certificate::{Validator, ValidatorId};
use chain_lite::clock::MAX_LEASE_MS;
use chain_lite::engine::EngineHandle;
use chain_lite::genesis::Genesis;
use chain_lite::ledger::Ledger;
use chain_lite::mempool::Mempool;
use chain_lite::units::EpochCount;
use chain_lite_bft::app::{Parts, Timing};
use chain_lite_bft::net;
use chain_lite_bft::signing::ChainSigner;
use retrieval::NetSecret;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::{DevnetError, FellowEndpoint, Secrets, file_error, read_json};
use crate::chain::ChainClient;
use crate::chain::gossip::{self, Gossip, HostPort};
use crate::config::Home;
use crate::provider::HOLD_RESERVE;
use crate::provider::journal::replace_file;
use crate::rpc::fellows::{self as told, Told};
use crate::validator::{self, Card, Network};

const PLACES_FILE: &str = "validators.json";
const NETWORK_FILE: &str = "network.json";
/// How long a fellow may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);
/// How far fellows may go on beyond what this process has seen, in epochs: less than providers keep in hand when they hold the
/// clock before a deadline.
const AHEAD: EpochCount = EpochCount(6);
const _: () = assert!(AHEAD.0 < HOLD_RESERVE.0);
/// A fellow that started again learns within this how far it may go.
const PACE_RENEWAL: Duration = Duration::from_secs(1);

/// Where the validators of a devnet are; made once.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Places {
    /// In order of number; the first is the devnet's own.
    pub(super) cards: Vec<Card>,
    /// Ports of the fellows' JSON-RPC.
    rpc: Vec<u16>,
}

impl Places {
    /// The validators of genesis.
    pub(super) fn set(&self) -> Vec<Validator> {
        let of = |card: &Card| Validator {
            id: card.id,
            power: card.power,
        };
        let mut set: Vec<Validator> = self.cards.iter().map(of).collect();
        set.sort_by_key(|v| v.id);
        set
    }

    /// Tells the fellows of transactions, and hears of theirs.
    pub(super) fn gossip(
        &self,
        secrets: &Secrets,
        ledger: &Arc<Ledger>,
        mempool: &Arc<Mempool>,
    ) -> Result<Gossip, DevnetError> {
        let peers: Result<Vec<_>, _> = self.cards.iter().map(Card::peer).collect();
        let peers = peers.map_err(failed)?;
        let secret = NetSecret::from_seed(&secrets.validator.signing_key().to_bytes());
        let own = peers.iter().find(|peer| peer.key == secret.peer_id());
        let config = gossip::Config {
            listen: own.map(|peer| peer.at.bind_addr()),
            secret,
            peers,
        };
        let started = Gossip::start(config, Arc::clone(ledger), Arc::clone(mempool));
        started.map_err(|e| DevnetError::Validator(e.to_string()))
    }
}

struct Process {
    child: Child,
    /// The fellow ends when this closes.
    stdin: Option<ChildStdin>,
}

/// The fellows' processes, in order of number, shared with whoever watches them.
type Running = Arc<Mutex<Vec<Option<Process>>>>;

fn lock(running: &Running) -> MutexGuard<'_, Vec<Option<Process>>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The fellows of a devnet.
pub(super) struct Fellows {
    homes: Vec<Home>,
    ids: Vec<ValidatorId>,
    rpc: Vec<u16>,
    running: Running,
}

/// The places of `count` validators: as written, or chosen and written.
pub(super) fn places(dir: &Path, count: u16) -> Result<Places, DevnetError> {
    let path = dir.join(PLACES_FILE);
    if path.exists() {
        return read_json(&path);
    }
    let ports = |n| free_ports(n).map_err(file_error(&path));
    let gossip = free_udp_ports(count).map_err(file_error(&path))?;
    let own = Home::new(dir);
    let fellows = (2..=count).map(|n| fellow_home(dir, usize::from(n)));
    let homes = std::iter::once(own).chain(fellows);
    let card = |((home, port), gossip): ((Home, u16), HostPort)| {
        let listen = format!("/ip4/127.0.0.1/tcp/{port}");
        validator::card(&home, &listen, Some(&gossip), 1).map_err(failed)
    };
    let cards = homes.zip(ports(count)?).zip(gossip).map(card);
    let cards: Result<Vec<Card>, _> = cards.collect();
    let places = Places {
        cards: cards?,
        rpc: ports(count - 1)?,
    };
    let bytes = serde_json::to_vec_pretty(&places).expect("plain fields serialise");
    replace_file(dir, PLACES_FILE, &bytes)?;
    Ok(places)
}

fn fellow_home(dir: &Path, number: usize) -> Home {
    Home::new(dir.join(format!("validator-{number}")))
}

fn log_of(home: &Home) -> PathBuf {
    home.root().join("node.log")
}

fn failed(error: validator::ValidatorError) -> DevnetError {
    DevnetError::Validator(error.to_string())
}

/// Ports that nobody listens on now; held together, so that they differ.
fn free_ports(count: u16) -> std::io::Result<Vec<u16>> {
    let bind = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let held: Vec<TcpListener> = (0..count).map(bind).collect::<Result<_, _>>()?;
    held.iter().map(|l| Ok(l.local_addr()?.port())).collect()
}

/// The same for gossip, which is on UDP.
fn free_udp_ports(count: u16) -> std::io::Result<Vec<HostPort>> {
    let bind = |_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
    let held: Vec<UdpSocket> = (0..count).map(bind).collect::<Result<_, _>>()?;
    held.iter().map(|s| Ok(s.local_addr()?.into())).collect()
}

/// Starts the devnet's own validator, in this process.
pub(super) fn start_own(
    dir: &Path,
    places: &Places,
    secrets: &Secrets,
    ledger: &Arc<Ledger>,
    mempool: &Arc<Mempool>,
) -> Result<EngineHandle, DevnetError> {
    let key = secrets.validator.signing_key();
    let bad = |what: &str| DevnetError::Validator(format!("{PLACES_FILE}: {what}"));
    let (own, others) = places
        .cards
        .split_first()
        .ok_or_else(|| bad("it names nobody"))?;
    let listen = own
        .address
        .rsplit_once("/p2p/")
        .map(|(at, _)| at.to_owned());
    let config = net::Config {
        listen: listen.ok_or_else(|| bad("an address without /p2p/"))?,
        peers: others.iter().map(|card| card.address.clone()).collect(),
        home: dir.join("chain"),
        connections_per_ip: usize::from(super::MAX_VALIDATORS) * 8,
    };
    let parts = Parts {
        ledger: Arc::clone(ledger),
        mempool: Arc::clone(mempool),
        signer: ChainSigner::new(ledger.chain_id(), key.clone()),
        beacon: Box::new(secrets.beacon.clone()),
        timing: Timing::default(),
    };
    net::start(config, parts, &key.to_bytes()).map_err(|e| DevnetError::Validator(e.to_string()))
}

impl Fellows {
    /// Prepares the fellows' homes and starts them.
    pub(super) fn start(
        dir: &Path,
        places: &Places,
        genesis: &Genesis,
    ) -> Result<Self, DevnetError> {
        let network = Network {
            genesis: genesis.clone(),
            validators: places.cards.clone(),
            relays: Vec::new(),
        };
        let bytes = serde_json::to_vec_pretty(&network).expect("plain fields serialise");
        replace_file(dir, NETWORK_FILE, &bytes)?;
        let homes: Vec<Home> = (2..2 + places.rpc.len())
            .map(|n| fellow_home(dir, n))
            .collect();
        for home in &homes {
            let (file, beacon) = (dir.join(NETWORK_FILE), dir.join("beacon.key"));
            validator::join(home, &file, Some(&beacon), &[]).map_err(failed)?;
        }
        let fellows = Self {
            running: Arc::new(Mutex::new(homes.iter().map(|_| None).collect())),
            ids: places.cards.iter().skip(1).map(|card| card.id).collect(),
            rpc: places.rpc.clone(),
            homes,
        };
        for number in 2..2 + fellows.homes.len() {
            fellows.start_one(number)?;
        }
        Ok(fellows)
    }

    fn at(&self, number: usize) -> Result<usize, DevnetError> {
        let index = number.checked_sub(2).filter(|i| *i < self.homes.len());
        index.ok_or(DevnetError::NoValidator(number))
    }

    /// Starts a fellow that does not run.
    pub(super) fn start_one(&self, number: usize) -> Result<(), DevnetError> {
        let index = self.at(number)?;
        let mut running = lock(&self.running);
        // One that ended by itself is started again like one that was killed.
        if let Some(process) = &mut running[index]
            && matches!(process.child.try_wait(), Ok(None))
        {
            return Ok(());
        }
        let home = &self.homes[index];
        let path = log_of(home);
        let open = || File::options().create(true).append(true).open(&path);
        let (log, errors) = (
            open().map_err(file_error(&path))?,
            open().map_err(file_error(&path))?,
        );
        let binary = std::env::current_exe().map_err(file_error(&path))?;
        let mut command = Command::new(binary);
        command
            .arg("--home")
            .arg(home.root())
            .args(["-v", "chain", "run", "--stop-with-stdin", "--rpc"])
            .arg(self.rpc_at(index).to_string())
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(errors);
        #[cfg(unix)]
        {
            use std::os::unix::process::CommandExt;
            // Ctrl-C is for the devnet, which then ends its fellows.
            command.process_group(0);
        }
        let mut child = command.spawn().map_err(file_error(&path))?;
        let stdin = child.stdin.take();
        running[index] = Some(Process { child, stdin });
        Ok(())
    }

    fn rpc_at(&self, index: usize) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.rpc[index]))
    }

    /// Ends a fellow at once, as a failing machine would (SIGKILL).
    pub(super) fn kill_one(&self, number: usize) -> Result<(), DevnetError> {
        let index = self.at(number)?;
        if let Some(mut process) = lock(&self.running)[index].take() {
            let path = self.homes[index].root();
            process.child.kill().map_err(file_error(path))?;
            process.child.wait().map_err(file_error(path))?;
        }
        Ok(())
    }

    /// Asks all to end, and ends those that do not.
    pub(super) fn stop(&self) {
        // Taken first: a process that ends now ends on purpose.
        let mut running: Vec<Process> = lock(&self.running)
            .iter_mut()
            .filter_map(Option::take)
            .collect();
        for process in &mut running {
            drop(process.stdin.take());
        }
        let until = Instant::now() + PATIENCE;
        for mut process in running {
            while matches!(process.child.try_wait(), Ok(None)) && Instant::now() < until {
                std::thread::sleep(LOOK);
            }
            // Ended already, or has to.
            drop(process.child.kill());
            drop(process.child.wait());
        }
    }

    /// Their JSON-RPC addresses.
    pub(super) fn urls(&self) -> Vec<String> {
        (0..self.rpc.len())
            .map(|i| format!("ws://{}", self.rpc_at(i)))
            .collect()
    }

    /// For a look at whether one ended by itself.
    pub(super) fn watch(&self) -> Watch {
        Watch {
            running: Arc::clone(&self.running),
            logs: self.homes.iter().map(log_of).collect(),
        }
    }

    /// Who runs where.
    pub(super) fn endpoints(&self) -> Vec<FellowEndpoint> {
        let running = lock(&self.running);
        let one = |(i, home): (usize, &Home)| FellowEndpoint {
            number: i + 2,
            pid: running[i].as_ref().map(|p| p.child.id()),
            id: self.ids[i],
            chain_url: format!("ws://{}", self.rpc_at(i)),
            home: home.root().to_owned(),
        };
        self.homes.iter().enumerate().map(one).collect()
    }
}

impl Drop for Fellows {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Sees fellows that ended although nobody ended them.
pub(super) struct Watch {
    running: Running,
    logs: Vec<PathBuf>,
}

impl Watch {
    /// The first such fellow, as a sentence.
    pub(super) fn look(&self) -> Option<String> {
        let mut running = lock(&self.running);
        let mut each = running.iter_mut().zip(&self.logs).enumerate();
        each.find_map(|(i, (process, log))| {
            let child = &mut process.as_mut()?.child;
            let status: ExitStatus = child.try_wait().ok().flatten()?;
            let (number, pid) = (i + 2, child.id());
            let log = log.display();
            Some(format!(
                "validator {number} (process {pid}) ended by itself, {status}; its log: {log}"
            ))
        })
    }
}

/// Keeps the fellows' clocks near what this process has seen, while it lives.
pub(super) struct Pace(JoinHandle<()>);

impl Pace {
    /// Follows the heads that `chain`, a client of the devnet's own node, is told: what its providers see too.
    pub(super) fn keep(chain: &ChainClient, fellows: told::Fellows) -> Self {
        let mut heads = chain.subscribe_heads();
        Self(tokio::spawn(async move {
            let [mut now, mut before] = told::PACE;
            loop {
                let seen = heads.borrow_and_update().map(|head| head.epoch);
                if let Some(epoch) = seen {
                    let ttl = Duration::from_millis(MAX_LEASE_MS);
                    fellows.tell(&Told::Hold(now, epoch.after(AHEAD).next(), ttl));
                    fellows.tell(&Told::Release(before));
                    std::mem::swap(&mut now, &mut before);
                }
                // The renewal comes in any case.
                if let Ok(Err(_)) = tokio::time::timeout(PACE_RENEWAL, heads.changed()).await {
                    return;
                }
            }
        }))
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        self.0.abort();
    }
}
