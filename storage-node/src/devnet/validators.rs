//! A devnet of several validators: the first in the devnet's own process, each other one a process of its own.
//!
//! Place in the walk: [`super`] starts these before its providers. A fellow is this same binary, `holdfast chain run`, with a
//! home in the devnet's folder; it ends when its standard input does, so that no fellow outlives its devnet, however that ended.
//! Spec: `consensus.md` §10.
//!
//! ```text
//! <home>/devnet/validators.json      ports and cards, made once      network.json  what the fellows join
//!               validator-2/ …       one home per fellow, log in node.log
//! ```

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chain_lite::certificate::Validator;
use chain_lite::engine::EngineHandle;
use chain_lite::genesis::Genesis;
use chain_lite::ledger::Ledger;
use chain_lite::mempool::Mempool;
use chain_lite_bft::app::{Parts, Timing};
use chain_lite_bft::net;
use chain_lite_bft::signing::ChainSigner;
use retrieval::NetSecret;
use serde::{Deserialize, Serialize};

use super::{DevnetError, FellowEndpoint, Secrets, file_error, read_json};
use crate::chain::gossip::{self, Gossip, HostPort};
use crate::config::Home;
use crate::provider::journal::replace_file;
use crate::validator::{self, Card, Network};

const PLACES_FILE: &str = "validators.json";
const NETWORK_FILE: &str = "network.json";
/// How long a fellow may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);

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

/// The fellows of a devnet.
pub(super) struct Fellows {
    homes: Vec<Home>,
    rpc: Vec<u16>,
    running: Vec<Option<Process>>,
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
        };
        let bytes = serde_json::to_vec_pretty(&network).expect("plain fields serialise");
        replace_file(dir, NETWORK_FILE, &bytes)?;
        let homes: Vec<Home> = (2..2 + places.rpc.len())
            .map(|n| fellow_home(dir, n))
            .collect();
        for home in &homes {
            let (file, beacon) = (dir.join(NETWORK_FILE), dir.join("beacon.key"));
            validator::join(home, &file, Some(&beacon)).map_err(failed)?;
        }
        let mut fellows = Self {
            running: homes.iter().map(|_| None).collect(),
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
    pub(super) fn start_one(&mut self, number: usize) -> Result<(), DevnetError> {
        let index = self.at(number)?;
        // One that ended by itself is started again like one that was killed.
        if let Some(process) = &mut self.running[index]
            && matches!(process.child.try_wait(), Ok(None))
        {
            return Ok(());
        }
        let home = &self.homes[index];
        let path = home.root().join("node.log");
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
        self.running[index] = Some(Process { child, stdin });
        Ok(())
    }

    fn rpc_at(&self, index: usize) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.rpc[index]))
    }

    /// Ends a fellow at once, as a failing machine would (SIGKILL).
    pub(super) fn kill_one(&mut self, number: usize) -> Result<(), DevnetError> {
        let index = self.at(number)?;
        if let Some(mut process) = self.running[index].take() {
            let path = self.homes[index].root();
            process.child.kill().map_err(file_error(path))?;
            process.child.wait().map_err(file_error(path))?;
        }
        Ok(())
    }

    /// Asks all to end, and ends those that do not.
    pub(super) fn stop(&mut self) {
        for process in self.running.iter_mut().flatten() {
            drop(process.stdin.take());
        }
        let until = Instant::now() + PATIENCE;
        for mut process in self.running.iter_mut().filter_map(Option::take) {
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

    /// Who runs where.
    pub(super) fn endpoints(&self) -> Vec<FellowEndpoint> {
        let one = |(i, home): (usize, &Home)| FellowEndpoint {
            number: i + 2,
            pid: self.running[i].as_ref().map(|p| p.child.id()),
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
