//! Nodes and strangers on loopback. Every wait is for a condition; what must not happen is shown by what comes after it.

use chain_lite::account::{Address, NetKey, ProviderId};
use chain_lite::message::{Message, TX_VERSION, Tx, sign};
use chain_lite::params::ChainParams;
use chain_lite::provider::Provider;
use chain_lite::state::{MemoryState, key as state_key};
use chain_lite::units::{Epoch, EpochCount, StoragePower, TokenAmount};
use chain_lite::{codec, execute};
use ed25519_dalek::SigningKey;

use super::*;
use crate::rpc::tests::{address, key, still_nodes};

struct Node {
    _dir: tempfile::TempDir,
    ledger: Arc<Ledger>,
    mempool: Arc<Mempool>,
    gossip: Gossip,
}

/// The key of node `n`.
fn secret(n: u8) -> NetSecret {
    NetSecret::from_seed(&[100 + n; 32])
}

fn peer(n: u8, port: u16) -> Peer {
    Peer {
        key: secret(n).peer_id(),
        at: HostPort {
            host: "127.0.0.1".to_owned(),
            port,
        },
    }
}

fn config(n: u8, port: u16, peers: Vec<Peer>) -> Config {
    Config {
        listen: Some(SocketAddr::from(([127, 0, 0, 1], port))),
        secret: secret(n),
        peers,
    }
}

/// Ports that nobody listens on, held together so that they differ.
fn free_ports<const N: usize>() -> [u16; N] {
    let held: [std::net::UdpSocket; N] =
        std::array::from_fn(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    held.map(|socket| socket.local_addr().unwrap().port())
}

/// Nodes of which node `n` pushes to `peers[n]`.
fn nodes<const N: usize>(peers: [&[usize]; N]) -> [Node; N] {
    let mut chains = still_nodes(N).into_iter();
    let ports = free_ports::<N>();
    std::array::from_fn(|n| {
        let (dir, ledger, mempool) = chains.next().unwrap();
        let to = peers[n].iter().map(|p| peer(*p as u8, ports[*p])).collect();
        let config = config(n as u8, ports[n], to);
        let gossip = Gossip::start(config, Arc::clone(&ledger), Arc::clone(&mempool)).unwrap();
        Node {
            _dir: dir,
            ledger,
            mempool,
            gossip,
        }
    })
}

fn transfer(chain: ChainId, from: &SigningKey, nonce: u64) -> SignedTx {
    let tx = Tx {
        version: TX_VERSION,
        chain_id: chain,
        sender: Address::of(&from.verifying_key()),
        nonce,
        fee_limit: TokenAmount(1 << 60),
        valid_until_height: 1_000,
        msgs: vec![Message::Transfer {
            to: address(2),
            amount: TokenAmount(1),
        }],
    };
    sign(tx, from)
}

impl Node {
    /// As JSON-RPC does.
    fn submit(&self, tx: SignedTx) -> TxId {
        let view = self.ledger.view();
        let id = self.mempool.submit(tx, view.height(), &view).unwrap();
        self.gossip.push(id);
        id
    }

    fn rich(&self, nonce: u64) -> SignedTx {
        transfer(self.ledger.chain_id(), &key(1), nonce)
    }

    async fn has(&self, id: &TxId) {
        until(|| self.mempool.contains(id)).await;
    }

    fn taken(&self) -> u64 {
        self.gossip.stats().taken.load(Ordering::Relaxed)
    }

    /// Transactions that came here, new ones or not.
    fn heard(&self) -> u64 {
        self.taken() + self.gossip.stats().known.load(Ordering::Relaxed)
    }

    fn refused(&self) -> u64 {
        self.gossip.stats().refused.load(Ordering::Relaxed)
    }

    /// A line to this node under some key, of frames that may be longer than it takes.
    async fn line(&self, secret: NetSecret) -> (Lines, LineOut) {
        self.line_from(1, secret).await
    }

    /// The same from this address of the loopback network.
    async fn line_from(&self, host: u8, secret: NetSecret) -> (Lines, LineOut) {
        self.try_line_from(host, secret).await.unwrap()
    }

    /// A stranger's line from this address, with these words on it, once they had their effect or the line was ended for them. On a busy
    /// machine the first may come later than a stranger may take; then it comes again.
    async fn stranger(
        &self,
        host: u8,
        n: u8,
        words: &[Vec<u8>],
        effect: impl Fn() -> bool,
    ) -> (Lines, LineOut) {
        let mut was_late = false;
        for _ in 0..20 {
            let mut open = match self.try_line_from(host, secret(n)).await {
                Ok(open) => open,
                // The seat that it was late for may still be taken.
                Err(error) if was_late && error.to_string().contains(NO_ROOM) => continue,
                Err(error) => panic!("{error}"),
            };
            for word in words {
                // The line may be over before.
                let _ = open.1.send(word).await;
            }
            let ended = tokio::select! {
                () = until(&effect) => None,
                error = open.1.closed() => Some(error),
            };
            let is = |why: &str| ended.as_ref().is_some_and(|e| e.to_string().contains(why));
            match is("no line") {
                true => was_late = true,
                false if was_late && is(NO_ROOM) => {}
                false => return open,
            }
        }
        panic!("always too late");
    }

    /// A stranger that finds no room hears of it when it dials, or after.
    async fn try_line_from(
        &self,
        host: u8,
        secret: NetSecret,
    ) -> Result<(Lines, LineOut), LineError> {
        let lines = Lines::bind(
            Some(SocketAddr::from(([127, 0, 0, host], 0))),
            secret,
            LineConfig {
                protocol: protocol(&self.ledger.chain_id()),
                max_frame_bytes: 2 * MAX_TX_BYTES,
                limits: limits(),
            },
        )?;
        let line = lines.dial(self.gossip.peer_addr().unwrap()).await?;
        Ok((lines, line))
    }

    /// Whether a stranger is sent away unheard.
    async fn has_no_room_for(&self, host: u8, secret: NetSecret) -> bool {
        let error = match self.try_line_from(host, secret).await {
            Ok((_lines, line)) => line.closed().await,
            Err(error) => error,
        };
        error.to_string().contains(NO_ROOM)
    }
}

/// What a stranger hears that finds none.
const NO_ROOM: &str = "no room for strangers";

async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // Far beyond what it takes: only so that a wrong program ends the test.
    tokio::time::timeout(Duration::from_secs(120), waiting)
        .await
        .expect("it comes");
}

fn code(error: &LineError) -> Option<CloseCode> {
    let text = error.to_string();
    [
        CloseCode::Protocol,
        CloseCode::Limit,
        CloseCode::TooSlow,
        CloseCode::Done,
    ]
    .into_iter()
    .find(|code| text.ends_with(&format!("closed by peer: {}", *code as u32)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_reaches_every_pool_once_and_does_not_go_round() {
    let nodes = nodes([&[1, 2], &[0, 2], &[0, 1]]);
    let first = nodes[0].submit(nodes[0].rich(0));
    for node in &nodes {
        node.has(&first).await;
    }
    // Its echoes, if there were any, would be before this one on every line.
    let second = nodes[0].submit(nodes[0].rich(1));
    for node in &nodes {
        node.has(&second).await;
    }
    let third = nodes[2].submit(nodes[0].rich(2));
    for node in &nodes {
        node.has(&third).await;
    }
    // A pool shows a transaction a moment before it is counted.
    let taken = || nodes.iter().map(Node::taken).collect::<Vec<_>>();
    until(|| taken().iter().sum::<u64>() >= 6).await;
    assert_eq!(taken(), [1, 3, 2]);
    // Each of three is written at most twice by who was told and once by the other two.
    let sent = |node: &Node| node.gossip.stats().sent.load(Ordering::Relaxed);
    assert!(nodes.iter().map(sent).sum::<u64>() <= 3 * 4);
    for node in &nodes {
        assert_eq!(node.refused(), 0);
        node.gossip.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_passed_on_to_who_does_not_know_the_first_node() {
    let nodes = nodes([&[1], &[2], &[]]);
    let id = nodes[0].submit(nodes[0].rich(0));
    nodes[2].has(&id).await;
    let taken = || (nodes[1].taken(), nodes[2].taken());
    until(|| taken().0 > 0 && taken().1 > 0).await;
    assert_eq!(taken(), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_is_told_when_it_comes_and_again_when_it_forgot() {
    let mut chains = still_nodes(2).into_iter();
    let [port] = free_ports();
    let (_a, ledger, mempool) = chains.next().unwrap();
    // A follower: it listens nowhere.
    let config_a = Config {
        listen: None,
        ..config(0, 0, vec![peer(1, port)])
    };
    let gossip = Gossip::start(config_a, Arc::clone(&ledger), Arc::clone(&mempool)).unwrap();
    let submit = |nonce| {
        let view = ledger.view();
        let tx = transfer(ledger.chain_id(), &key(1), nonce);
        let id = mempool.submit(tx, view.height(), &view).unwrap();
        gossip.push(id);
        id
    };
    let id = submit(0);
    let (_b, other, pool) = chains.next().unwrap();
    let start = async |pool: &Arc<Mempool>| {
        let started = std::cell::RefCell::new(None);
        // The port is free once the last task of the one before has ended.
        until(|| {
            let config = config(1, port, vec![]);
            *started.borrow_mut() =
                Gossip::start(config, Arc::clone(&other), Arc::clone(pool)).ok();
            started.borrow().is_some()
        })
        .await;
        started.into_inner().expect("it began")
    };
    let first = start(&pool).await;
    until(|| pool.contains(&id)).await;
    // A restart: its pool is empty again.
    first.stop().await;
    drop(first);
    let pool = Arc::new(Mempool::new(other.chain_id()));
    let _second = start(&pool).await;
    gossip.0.shared.republish();
    until(|| pool.contains(&id)).await;
    // In a block, so nobody is told again.
    mempool.committed(1, [&id], &ledger.view()).unwrap();
    gossip.0.shared.republish();
    assert!(lock(&gossip.0.shared.own).waiting(|_| true).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn tm_v8_what_a_pool_refuses_is_not_passed_on_and_costs_its_sender() {
    let nodes = nodes([&[1], &[]]);
    let gap = transfer(nodes[0].ledger.chain_id(), &key(1), 1 << 40);
    let good = nodes[0].rich(0);
    let words = [gap.to_bytes(), good.to_bytes()];
    let reached = || nodes[1].mempool.contains(&good.id());
    let (lines, _line) = nodes[0].stranger(1, 9, &words, reached).await;
    nodes[1].has(&good.id()).await;
    assert_eq!(nodes[0].refused(), 1);
    assert_eq!(nodes[1].refused(), 0, "it never came here");
    assert!(Heard::Refused.cost_txs() > Heard::Taken.cost_txs());
    assert!(Heard::Forged.cost_txs() > Heard::Refused.cost_txs());
    drop(lines);
}

#[tokio::test(flavor = "multi_thread")]
async fn tm_v11_a_forged_copy_does_not_shadow_the_honest_transaction() {
    let nodes = nodes([&[1], &[0, 2], &[]]);
    let honest = nodes[0].rich(0);
    let mut forged = honest.clone();
    forged.signature = transfer(nodes[0].ledger.chain_id(), &key(3), 0).signature;
    assert_eq!(forged.id(), honest.id());
    let (_lines, line) = nodes[1]
        .stranger(1, 9, &[forged.to_bytes()], || false)
        .await;
    assert_eq!(code(&line.closed().await), Some(CloseCode::Protocol));
    assert_eq!((nodes[1].refused(), nodes[1].mempool.len()), (1, 0));
    let id = nodes[0].submit(honest);
    nodes[1].has(&id).await;
    nodes[2].has(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tm_n3_garbage_and_long_frames_end_the_line_and_nothing_else() {
    let nodes = nodes([&[1], &[0]]);
    for frame in [vec![0xff; 100], vec![0; MAX_TX_BYTES + 1], {
        let mut padded = nodes[0].rich(0).to_bytes();
        padded.push(0);
        padded
    }] {
        // Known peers may be as wrong as strangers.
        let (_lines, mut line) = nodes[1].line(secret(0)).await;
        line.send(&frame).await.unwrap();
        assert_eq!(code(&line.closed().await), Some(CloseCode::Protocol));
    }
    assert!(nodes[1].mempool.is_empty());
    let id = nodes[0].submit(nodes[0].rich(0));
    nodes[1].has(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tm_n4_a_flood_of_forgeries_is_refused_and_a_known_peer_gets_through() {
    let nodes = nodes([&[1], &[0]]);
    let mut forged = nodes[0].rich(0);
    forged.tx.nonce = 7;
    let mut refused = false;
    for n in 0..20 {
        let words = [forged.to_bytes()];
        let (_lines, line) = nodes[1].stranger(1, 20 + n, &words, || false).await;
        refused |= code(&line.closed().await) == Some(CloseCode::Limit);
        if refused {
            break;
        }
    }
    assert!(refused, "other keys at the same address owe the same");
    let id = nodes[0].submit(nodes[0].rich(0));
    nodes[1].has(&id).await;
    assert!(nodes[1].gossip.stats().cut_off.load(Ordering::Relaxed) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tm_n4_strangers_have_few_places_and_known_peers_need_none() {
    let nodes = nodes([&[1], &[0]]);
    let mut held = Vec::new();
    let per_host = STRANGERS_PER_ADDRESS as u8;
    // A transaction that is here already costs little.
    let word = [nodes[0].rich(0).to_bytes()];
    for n in 0..MAX_STRANGERS as u8 {
        // Each address of 127/8 is an address of its own.
        let host = 10 + n / per_host;
        let heard = || nodes[1].heard() > n.into();
        held.push(nodes[1].stranger(host, 20 + n, &word, heard).await);
    }
    let stats = nodes[1].gossip.stats();
    until(|| stats.known.load(Ordering::Relaxed) == MAX_STRANGERS as u64 - 1).await;
    assert!(nodes[1].has_no_room_for(99, secret(99)).await);
    let id = nodes[0].submit(nodes[0].rich(2));
    nodes[1].has(&id).await;
    // A place that is left is there for the next.
    let seats = &nodes[1].gossip.0.shared.seats;
    held.pop();
    until(|| lock(seats).tokens().len() < MAX_STRANGERS).await;
    let next = nodes[0].rich(1);
    let heard = || nodes[1].mempool.contains(&next.id());
    nodes[1].stranger(99, 99, &[next.to_bytes()], heard).await;
    nodes[1].has(&next.id()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tm_n4_one_address_takes_few_places_and_leaves_the_others_to_followers() {
    let nodes = nodes([&[], &[]]);
    let mut held = Vec::new();
    let word = [nodes[0].rich(0).to_bytes()];
    for n in 0..STRANGERS_PER_ADDRESS as u8 {
        let heard = || nodes[1].heard() > n.into();
        held.push(nodes[1].stranger(10, 20 + n, &word, heard).await);
    }
    let seats = &nodes[1].gossip.0.shared.seats;
    until(|| lock(seats).tokens().len() == STRANGERS_PER_ADDRESS).await;
    assert!(nodes[1].has_no_room_for(10, secret(98)).await);
    let other = nodes[0].rich(1);
    let heard = || nodes[1].mempool.contains(&other.id());
    let _follower = nodes[1].stranger(11, 99, &[other.to_bytes()], heard).await;
    nodes[1].has(&other.id()).await;
    // Who has to give away its seat is told so.
    lock(seats).tokens()[0].cancel();
    let (_lines, line) = held.remove(0);
    assert_eq!(code(&line.closed().await), Some(CloseCode::Limit));
}

/// A state in which account 3 operates provider 1000.
fn with_provider() -> MemoryState {
    let id = ProviderId(1000);
    let provider = Provider {
        id,
        owner: address(3),
        worker: address(3),
        net_key: NetKey([1; 32]),
        addrs: vec![],
        next_keys: None,
        sector_size: prover::SectorSize::Kib2,
        registered: Epoch(0),
        offset: EpochCount(0),
        balance: TokenAmount(0),
        deposits: TokenAmount(0),
        pledge: TokenAmount(0),
        vesting: TokenAmount(0),
        fee_debt: TokenAmount(0),
        at_stake: TokenAmount(0),
        raw_power: StoragePower(0),
        power: StoragePower(0),
        acc_claimed: 0,
    };
    let money = [(address(3), TokenAmount(5))].into();
    let mut state = MemoryState::default();
    state.commit(&execute::genesis_writes(&ChainParams::devnet(), &money).unwrap());
    state
        .0
        .insert(state_key::provider(id), codec::encode(&provider));
    state
}

/// A client floods a node whose peer is away, and then a provider's proof comes.
#[tokio::test(flavor = "multi_thread")]
async fn tm_v4_a_proof_goes_before_the_flood_of_clients_that_was_there_first() {
    let [port] = free_ports();
    let (_dir, ledger, mempool) = still_nodes(1).remove(0);
    let config = config(0, 0, vec![peer(1, port)]);
    let gossip = Gossip::start(config, Arc::clone(&ledger), Arc::clone(&mempool)).unwrap();
    let view = ledger.view();
    let mut flood = Vec::new();
    for nonce in 0..5 {
        let tx = transfer(ledger.chain_id(), &key(1), nonce);
        let id = mempool.submit(tx, view.height(), &view).unwrap();
        gossip.push(id);
        flood.push(id);
    }
    let mut proof = transfer(ledger.chain_id(), &key(3), 0).tx;
    proof.fee_limit = TokenAmount(0);
    proof.msgs = vec![Message::SubmitPost {
        provider: ProviderId(1000),
        deadline: 0,
        partition: 0,
        skipped: vec![],
        proof: vec![0; 192],
    }];
    let proof = mempool.submit(sign(proof, &key(3)), 0, &with_provider());
    let proof = proof.unwrap();
    gossip.push(proof);
    let shared = &gossip.0.shared;
    let mut queues = lock(&shared.peers[0].1.queues);
    let order: Vec<TxId> = std::iter::from_fn(|| queues.pop()).collect();
    assert_eq!(order[0], proof);
    assert_eq!(order[1..], flood);
    assert_eq!(lock(&shared.own).waiting(|_| true)[0], proof);
}

#[tokio::test(flavor = "multi_thread")]
async fn tm_n5_another_key_or_another_chain_fails_in_the_handshake() {
    let nodes = nodes([&[]]);
    let lines = |protocol| {
        let config = LineConfig {
            protocol,
            max_frame_bytes: MAX_TX_BYTES,
            limits: limits(),
        };
        Lines::bind(None, secret(9), config).unwrap()
    };
    let right = nodes[0].gossip.peer_addr().unwrap();
    let wrong = PeerAddr {
        peer: secret(5).peer_id(),
        ..right
    };
    let here = lines(protocol(&nodes[0].ledger.chain_id()));
    let said = here.dial(wrong).await.expect_err("another key");
    assert!(matches!(said, LineError::WrongPeer { .. }), "{said}");
    let elsewhere = lines(protocol(&ChainId([7; 32])));
    let said = elsewhere.dial(right).await.expect_err("another chain");
    assert!(matches!(said, LineError::WrongPeer { .. }), "{said}");
    here.dial(right).await.expect("the right one");
}

#[test]
fn addresses_read_back_and_bad_ones_are_told_what_to_write() {
    for text in [
        "10.0.0.1:26601",
        "[2001:db8::1]:1",
        "a.example:65535",
        "v1:26601",
    ] {
        assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
    }
    let v6: HostPort = "[2001:db8::1]:1".parse().unwrap();
    assert_eq!(v6.bind_addr().to_string(), "[2001:db8::1]:1");
    let name: HostPort = "a.example:7".parse().unwrap();
    assert_eq!(name.bind_addr().to_string(), "0.0.0.0:7");
    let long = format!("{}:1", "a".repeat(300));
    for text in [
        "",
        "10.0.0.1",
        "10.0.0.1:0",
        ":1",
        "::1:7",
        "[x]:1",
        "a b:1",
        "/ip4/1.2.3.4:1",
        &long,
    ] {
        let said = text.parse::<HostPort>().expect_err(text);
        assert!(said.contains("HOST:PORT") && said.len() < 300, "{said}");
    }
    let key = "ab".repeat(32);
    assert!(format!("{key}@10.0.0.1:1").parse::<Peer>().is_ok());
    assert!("10.0.0.1:1".parse::<Peer>().is_err());
    assert!("zz@10.0.0.1:1".parse::<Peer>().is_err());
}

#[test]
fn tm_n3_any_bytes_are_calmly_read_as_a_line() {
    use proptest::prelude::*;
    let tx = transfer(ChainId([1; 32]), &key(1), 0).to_bytes();
    let framed = |body: &[u8]| [&(body.len() as u32).to_le_bytes()[..], body].concat();
    let good = framed(&tx);
    proptest!(|(cut: u8, at in 0..good.len(), with: u8, tail in prop::collection::vec(any::<u8>(), 0..200))| {
        fuzz_stream(&[&[cut][..], &tail].concat());
        let mut bent = good.clone();
        bent[at] = with;
        fuzz_stream(&[&[cut][..], &good, &bent, &tail].concat());
    });
}
