//! Offers of every bad kind, over the store itself and over real QUIC on loopback.

use std::fs;
use std::sync::{Mutex, mpsc};

use chain_lite::account::{ChainId, ProviderId};
use chain_lite::message::DealGroup;
use chain_lite::units::EpochCount;
use chain_lite::vfs::{OsVfs, Readers};
use holdfast_sim::disk::SimDisk;
use prover::SectorSize;
use prover::piece::commp::commp_of;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use retrieval::push::{PutSource, put};
use retrieval::verify::OutboardBuilder;
use retrieval::{ChainTag, Endpoint, Limits, NetSecret};
use tokio_util::sync::CancellationToken;

use super::super::ask::Terms;
use super::*;

const CHAIN: ChainId = ChainId([7; 32]);
const PROVIDER: ProviderId = ProviderId(1000);

struct TestMarket {
    params: ChainParams,
    client_escrow: TokenAmount,
    money: Arc<Mutex<OwnMoney>>,
}

/// The provider's side of a test market.
#[derive(Clone, Copy)]
struct OwnMoney {
    escrow: u128,
    pledges: u128,
    for_pledges: u128,
    /// Whether more escrow comes when it is asked for, and how much.
    filled_to: Option<u128>,
}

impl Market for TestMarket {
    fn ask(&self, free_bytes: u64) -> Ask {
        Ask::new(
            CHAIN,
            PROVIDER,
            SectorSize::Mib8,
            Terms {
                min_piece: PaddedPieceSize::new(256).expect("a valid size"),
                free_bytes,
                price_per_gib: TokenAmount(1 << 30),
                earliest_start: Epoch(100),
                min_duration: EpochCount(60),
                max_duration: EpochCount(1000),
            },
        )
    }

    fn least_start(&self) -> Epoch {
        Epoch(100)
    }

    fn now(&self) -> Epoch {
        Epoch(10)
    }

    fn params(&self) -> &ChainParams {
        &self.params
    }

    fn funds(&self, proposal: &DealProposal, _full: bool) -> Result<Funds, String> {
        let piece_bytes = proposal.piece_size.bytes();
        let own = *self.money.lock().expect("no panic");
        Ok(Funds {
            client: self.client_escrow,
            provider: TokenAmount(own.escrow),
            least_collateral: TokenAmount(u128::from(piece_bytes) / 100),
            pledges: TokenAmount(own.pledges),
            for_pledges: TokenAmount(own.for_pledges),
            verified: StoragePower(1024),
        })
    }

    fn fill_escrow(&self) -> bool {
        let mut own = self.money.lock().expect("no panic");
        if let Some(full) = own.filled_to {
            own.escrow = full;
        }
        own.filled_to.is_some()
    }
}

struct Bed {
    dir: tempfile::TempDir,
    store: Store,
    told: Arc<Mutex<Vec<DealRecord>>>,
}

fn limits() -> IntakeLimits {
    IntakeLimits {
        capacity_bytes: 64 << 10,
        reserve_bytes: 0,
        client_deals: 4,
        client_bytes: 16 << 10,
        collateral_multiple: 4,
    }
}

fn net_secret() -> NetSecret {
    NetSecret::from_seed(&[3; 32])
}

type Opened = (
    Store,
    Vec<DealRecord>,
    OpenReport,
    Arc<Mutex<Vec<DealRecord>>>,
);

/// A store that keeps nothing yet, for tests of what stands beside it.
pub(in crate::provider) fn empty_store(dir: &Path) -> Store {
    open_in(dir).0
}

/// Closes a store as a failed sync of this file would.
pub(in crate::provider) fn fail_sync(store: &Store, path: &str) {
    store.inner.journal.close_on_sync(&JournalError::Sync {
        path: PathBuf::from(path),
        source: io::Error::other("EIO"),
    });
}

/// The names of a store's pieces, held by another thread: whoever forgets a deal waits.
pub(in crate::provider) struct HeldNames {
    done: mpsc::Sender<()>,
    thread: std::thread::JoinHandle<bool>,
}

pub(in crate::provider) fn hold_names(store: &Store) -> HeldNames {
    let (done, until) = mpsc::channel();
    let (ready, is_held) = mpsc::channel();
    let store = store.share();
    let thread = std::thread::spawn(move || {
        let _naming = store.inner.lock_naming();
        ready.send(()).expect("the test waits");
        until.recv_timeout(Duration::from_secs(10)).is_ok()
    });
    is_held.recv().expect("it holds them");
    HeldNames { done, thread }
}

impl HeldNames {
    /// False if nobody came to let them go, so that they went by themselves.
    pub(in crate::provider) fn let_go(self) -> bool {
        let _ = self.done.send(());
        self.thread.join().expect("no panic")
    }
}

fn open_in(dir: &Path) -> Opened {
    open_with(dir, limits())
}

fn open_with(dir: &Path, limits: IntakeLimits) -> Opened {
    open_with_money(dir, limits, Arc::new(Mutex::new(RICH)))
}

fn open_with_money(dir: &Path, limits: IntakeLimits, money: Arc<Mutex<OwnMoney>>) -> Opened {
    open_on(dir, limits, money, ChainParams::devnet())
}

fn open_on(
    dir: &Path,
    limits: IntakeLimits,
    money: Arc<Mutex<OwnMoney>>,
    params: ChainParams,
) -> Opened {
    open_at(Arc::new(OsVfs), dir, limits, money, params).expect("opens")
}

fn open_at(
    vfs: Arc<dyn Vfs>,
    dir: &Path,
    limits: IntakeLimits,
    money: Arc<Mutex<OwnMoney>>,
    params: ChainParams,
) -> Result<Opened, StoreError> {
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let market = TestMarket {
        params,
        client_escrow: TokenAmount(10_000_000),
        money,
    };
    let folders = Folders {
        vfs,
        pieces: dir.join("pieces"),
        journal: dir.join("journal"),
    };
    let (store, records, report) = Store::open(
        folders,
        Box::new(market),
        limits,
        SigningKey::from_bytes(&net_secret().to_seed()),
        Box::new(move |record| tell.lock().expect("no panic").push(record)),
        Box::new(|_| {}),
    )?;
    Ok((store, records, report, told))
}

fn bed() -> Bed {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (store, _, _, told) = open_in(dir.path());
    Bed { dir, store, told }
}

fn client(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| u8::try_from(i % 251).expect("small") ^ seed)
        .collect()
}

/// A correct offer of these bytes, changed by `change` before it is signed.
fn offer(
    key: &SigningKey,
    data: &[u8],
    nonce: u64,
    change: impl FnOnce(&mut DealProposal),
) -> PutHeader {
    let (comm_p, size) = commp_of(data);
    let root = *blake3::hash(data).as_bytes();
    let mut proposal = DealProposal {
        chain_id: CHAIN,
        client: Address::of(&key.verifying_key()),
        provider: PROVIDER,
        piece_commp: comm_p,
        piece_size: size,
        blake3_root: Blake3Root(root),
        group: DealGroup::default(),
        start: Epoch(200),
        end: Epoch(400),
        price: TokenAmount(u128::from(size.bytes())),
        provider_collateral: TokenAmount(u128::from(size.bytes()) / 50),
        verified: false,
        label: String::new(),
        client_nonce: nonce,
    };
    change(&mut proposal);
    PutHeader {
        size: data.len() as u64,
        root: PieceRoot(root),
        commp: comm_p,
        proposal: codec::encode(&proposal.sign(key)),
    }
}

fn peer() -> PeerId {
    PeerId([1; 32])
}

fn refusal(bed: &Bed, header: &PutHeader) -> String {
    match bed.store.accept(&peer(), header) {
        Err(Refusal::Refused(reason)) => reason,
        Err(other) => panic!("refused for another reason: {other}"),
        Ok(_) => panic!("accepted"),
    }
}

#[test]
fn tm_c5_every_bad_term_is_refused_before_a_byte_is_sent() {
    let bed = bed();
    let (key, data) = (client(1), bytes(0, 1000));
    type Change = Box<dyn FnOnce(&mut DealProposal)>;
    let cases: Vec<(&str, Change)> = vec![
        ("chain", Box::new(|p| p.chain_id = ChainId([8; 32]))),
        ("provider", Box::new(|p| p.provider = ProviderId(1001))),
        ("CommP", Box::new(|p| p.piece_commp = CommP([1; 32]))),
        ("BLAKE3", Box::new(|p| p.blake3_root = Blake3Root([1; 32]))),
        (
            "padded size",
            Box::new(|p| p.piece_size = PaddedPieceSize::new(2048).expect("valid")),
        ),
        ("starts", Box::new(|p| p.start = Epoch(99))),
        ("starts", Box::new(|p| p.start = Epoch(30_000))),
        ("lasts", Box::new(|p| p.end = p.start)),
        ("lasts", Box::new(|p| p.end = Epoch(p.start.0 + 59))),
        ("lasts", Box::new(|p| p.end = Epoch(5000))),
        ("lasts", Box::new(|p| p.end = Epoch(0))),
        ("price", Box::new(|p| p.price = TokenAmount(1023))),
        (
            "costs",
            Box::new(|p| p.price = TokenAmount(u128::from(u64::MAX))),
        ),
        ("128 bits", Box::new(|p| p.price = TokenAmount(u128::MAX))),
        (
            "collateral",
            Box::new(|p| p.provider_collateral = TokenAmount(0)),
        ),
        (
            "collateral",
            Box::new(|p| p.provider_collateral = TokenAmount(u128::MAX)),
        ),
        ("verified", Box::new(|p| p.verified = true)),
        ("label", Box::new(|p| p.label = "x".repeat(257))),
    ];
    for (word, change) in cases {
        let reason = refusal(&bed, &offer(&key, &data, 0, change));
        assert!(reason.contains(word), "expected {word:?} in {reason:?}");
    }
    assert!(refusal(&bed, &offer(&key, &bytes(0, 100), 0, |_| {})).contains("takes 256"));
    assert!(
        bed.store
            .accept(&peer(), &offer(&key, &data, 0, |_| {}))
            .is_ok()
    );
}

#[test]
fn tm_c3_a_proposal_that_its_client_did_not_sign_is_refused() {
    let bed = bed();
    let (key, data) = (client(1), bytes(0, 1000));
    let mut header = offer(&key, &data, 0, |_| {});
    let last = header.proposal.len() - 1;
    header.proposal[last - 40] ^= 1;
    assert!(refusal(&bed, &header).contains("not signed"));
    let stolen = offer(&client(2), &data, 0, |p| {
        p.client = Address::of(&client(1).verifying_key());
    });
    assert!(refusal(&bed, &stolen).contains("not signed"));
    header.proposal.truncate(50);
    assert!(refusal(&bed, &header).contains("cannot be read"));
}

#[test]
fn tm_c5_one_client_cannot_fill_the_provider_with_promises() {
    let bed = bed();
    let key = client(1);
    let mut open = Vec::new();
    for nonce in 0..4 {
        let header = offer(
            &key,
            &bytes(u8::try_from(nonce).expect("few"), 1000),
            nonce,
            |_| {},
        );
        open.push(
            bed.store
                .accept(&peer(), &header)
                .expect("within the quota"),
        );
    }
    let fifth = offer(&key, &bytes(9, 1000), 9, |_| {});
    assert!(refusal(&bed, &fifth).contains("unpublished deals"));
    // Another client is not affected, and a transfer that breaks off gives its place back.
    let other = offer(&client(2), &bytes(20, 1000), 0, |_| {});
    assert!(bed.store.accept(&peer(), &other).is_ok());
    open.clear();
    assert!(bed.store.accept(&peer(), &fifth).is_ok());
    let incoming = fs::read_dir(bed.dir.path().join("pieces/incoming"))
        .expect("the folder")
        .count();
    assert_eq!(incoming, 0, "incomplete pieces are removed");
}

#[test]
fn tm_c5_a_thousand_hostile_clients_cannot_take_more_than_the_capacity() {
    let bed = bed();
    let mut open = Vec::new();
    for seed in 0..=255u8 {
        for nonce in 0..4 {
            let header = offer(&client(seed), &bytes(seed, 2000), nonce, |_| {});
            if let Ok(decision) = bed.store.accept(&peer(), &header) {
                open.push(decision);
            }
        }
    }
    // 64 KiB of capacity are 32 pieces of 2 KiB.
    assert_eq!(open.len(), 32);
    assert_eq!(bed.store.ask().free_bytes, 0);
    open.clear();
    assert_eq!(bed.store.ask().free_bytes, 64 << 10);
}

/// Store and service on loopback, with a session to them.
fn money_bed(money: OwnMoney) -> (Bed, Arc<Mutex<OwnMoney>>) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let money = Arc::new(Mutex::new(money));
    let (store, _, _, told) = open_with_money(dir.path(), limits(), Arc::clone(&money));
    (Bed { dir, store, told }, money)
}

const RICH: OwnMoney = OwnMoney {
    escrow: 1_000_000,
    ..POOR
};

const POOR: OwnMoney = OwnMoney {
    escrow: 50,
    pledges: 0,
    for_pledges: 0,
    filled_to: None,
};

/// The test offers' collateral is 20 for 1 KiB padded.
#[test]
fn collateral_that_is_promised_to_one_client_is_not_promised_to_another() {
    let (bed, money) = money_bed(POOR);
    let data = bytes(0, 1000);
    let mut under_way = Vec::new();
    for seed in 1..=2 {
        let decision = bed
            .store
            .accept(&peer(), &offer(&client(seed), &data, 1, |_| {}));
        under_way.push(decision.expect("covered"));
    }
    assert_eq!(bed.store.promised_collateral(), TokenAmount(40));
    let third = offer(&client(3), &data, 1, |_| {});
    let reason = refusal(&bed, &third);
    for word in ["escrow", "collateral", "provider deposit", "--escrow"] {
        assert!(reason.contains(word), "no {word:?} in {reason}");
    }
    // A transfer that breaks off gives its promise back; so does one that the chain shows, because it locks there.
    under_way.pop();
    assert_eq!(bed.store.promised_collateral(), TokenAmount(20));
    assert!(bed.store.accept(&peer(), &third).is_ok());
    money.lock().expect("no panic").escrow = 39;
    let again = offer(&client(4), &data, 1, |_| {});
    assert!(refusal(&bed, &again).contains("escrow"));
}

#[test]
fn an_offer_waits_for_escrow_that_is_on_its_way_and_is_busy_if_it_does_not_come() {
    let filling = OwnMoney {
        escrow: 0,
        filled_to: Some(20),
        ..POOR
    };
    let (bed, _) = money_bed(filling);
    let data = bytes(0, 1000);
    let offer = |seed| offer(&client(seed), &data, 1, |_| {});
    let taken = bed.store.accept(&peer(), &offer(1));
    assert!(matches!(taken, Ok(PutDecision::Receive(_))));
    // Nothing is left of it for a second one: it is told to come back, not that it is refused.
    let begun = Instant::now();
    match bed.store.accept(&peer(), &offer(2)) {
        Err(Refusal::Busy { retry_after_ms }) => assert!(retry_after_ms > 0),
        Err(other) => panic!("refused: {other}"),
        Ok(_) => panic!("accepted"),
    }
    assert!(begun.elapsed() >= ESCROW_PATIENCE);
}

#[test]
fn a_piece_whose_sector_cannot_be_pledged_is_refused_with_both_amounts() {
    let short = OwnMoney {
        pledges: 3_000_000_000_000_000_000,
        for_pledges: 2_500_000_000_000_000_000,
        ..POOR
    };
    let (bed, money) = money_bed(short);
    let header = offer(&client(1), &bytes(0, 1000), 1, |_| {});
    let reason = refusal(&bed, &header);
    for word in ["pledges", "2.5 tokens", "3", "provider deposit"] {
        assert!(reason.contains(word), "no {word:?} in {reason}");
    }
    money.lock().expect("no panic").for_pledges = short.pledges;
    assert!(bed.store.accept(&peer(), &header).is_ok());
}

async fn served(store: &Store) -> (Endpoint, retrieval::Session, CancellationToken) {
    let tag = ChainTag([7; 4]);
    let loopback = "127.0.0.1:0".parse().expect("an address");
    let server = Endpoint::bind(loopback, net_secret(), tag, Limits::default()).expect("binds");
    let stop = CancellationToken::new();
    retrieval::serve::spawn(&server, Arc::new(store.share()), stop.clone()).expect("serves");
    let client = Endpoint::client(tag, Limits::default()).expect("binds");
    let session = client.session(server.peer_addr()).await.expect("connects");
    // The client endpoint must live as long as its session.
    std::mem::forget(client);
    (server, session, stop)
}

fn source(data: &[u8]) -> PutSource {
    let mut builder = OutboardBuilder::new(data.len() as u64).expect("a piece has bytes");
    builder.update(data).expect("within its size");
    let (_, outboard) = builder.finish().expect("complete");
    PutSource {
        data: Arc::new(data.to_vec()),
        outboard: Arc::new(outboard),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tm_c4_only_the_promised_bytes_are_acknowledged_and_they_survive_a_restart() {
    let bed = bed();
    let (_server, session, stop) = served(&bed.store).await;
    let (key, data) = (client(1), bytes(5, 3000));

    // Right BLAKE3 root, wrong CommP, both signed: found when the piece is complete.
    let lie = offer(&key, &data, 1, |p| {
        p.piece_commp = commp_of(&bytes(6, 3000)).0
    });
    let lie = PutHeader {
        commp: commp_of(&bytes(6, 3000)).0,
        ..lie
    };
    put(&session, lie, source(&data))
        .await
        .expect_err("the CommP is not that of the bytes");
    assert!(bed.told.lock().expect("no panic").is_empty());

    let header = offer(&key, &data, 2, |_| {});
    let ack = put(&session, header.clone(), source(&data))
        .await
        .expect("acknowledged");
    let told = bed.told.lock().expect("no panic").clone();
    assert_eq!(told.len(), 1);
    let expected = PieceAck {
        deal: told[0].deal,
        comm_p: header.commp,
        blake3_root: Blake3Root(header.root.0),
        bytes: 3000,
    };
    let net_key = chain_lite::account::NetKey(*net_secret().peer_id().as_bytes());
    assert_eq!(expected.verify(&ack.ack, &net_key), Ok(()));

    // Asked again after the acknowledgement was lost: the same answer, no byte sent, no second deal.
    let again = put(&session, header.clone(), source(&bytes(9, 3000)))
        .await
        .expect("acknowledged again");
    assert_eq!(again.ack, ack.ack);
    assert_eq!(bed.told.lock().expect("no panic").len(), 1);
    stop.cancel();

    // A new process finds the deal and the bytes, and removes what belongs to nobody.
    fs::write(
        bed.dir
            .path()
            .join("pieces")
            .join(format!("{}.bin", "ab".repeat(32))),
        b"orphan",
    )
    .expect("writes");
    let (store, records, report, _) = open_in(bed.dir.path());
    assert_eq!(records, told);
    assert!(report.missing.is_empty());
    assert!(store.have(&PieceRef::Root(header.root)).is_some());
    assert!(store.have(&PieceRef::Commp(header.commp)).is_some());
    assert!(!store.path_of(&[0xab; 32]).exists());
    let proof = store.commp_proof(&header.commp, 3, 5).expect("a proof");
    let piece = PieceInfo {
        comm_p: header.commp,
        size: PaddedPieceSize::fitting(3000).expect("fits"),
    };
    LeafProof::decode(&proof)
        .expect("canonical")
        .verify(&piece, 3..8)
        .expect("the leaves are the piece's");
    store.forget(&told[0].deal).expect("forgets");
    assert!(store.have(&PieceRef::Root(header.root)).is_none());
    assert!(!store.path_of(&header.root.0).exists());
}

#[test]
fn tm_h3_a_deal_whose_bytes_are_gone_is_reported_and_not_served() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let header = offer(&client(1), &bytes(1, 1000), 0, |_| {});
    let signed: SignedProposal = codec::decode(&header.proposal, MAX_PROPOSAL_BYTES).expect("ours");
    let record = record_of(&header, &signed);
    Journal::open(&dir.path().join("journal"))
        .expect("opens")
        .put(&record.deal.to_string(), &record)
        .expect("writes");
    let (store, records, report, _) = open_in(dir.path());
    assert_eq!(records.len(), 1);
    assert_eq!(report.missing, vec![record.deal]);
    assert!(matches!(store.open(&header.root), Err(Refusal::NotFound)));
}

#[test]
fn tm_h4_without_room_above_the_reserve_nothing_is_taken_and_the_reason_is_said() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let full = IntakeLimits {
        reserve_bytes: u64::MAX,
        ..limits()
    };
    let (store, _, _, told) = open_with(dir.path(), full);
    let bed = Bed { dir, store, told };
    assert_eq!(bed.store.ask().free_bytes, 0);
    let header = offer(&client(1), &bytes(0, 1000), 0, |_| {});
    assert!(refusal(&bed, &header).contains("takes 256 to 0"));
}

/// `/dev/full` takes no byte, as a full disk does: first where the piece goes, then where its record goes.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn tm_h4_nothing_is_acknowledged_on_a_full_disk_and_the_same_offer_is_when_space_returns() {
    let bed = bed();
    let (_server, session, stop) = served(&bed.store).await;
    let (key, data) = (client(1), bytes(5, 3000));
    let header = offer(&key, &data, 1, |_| {});
    let full = |at: &Path| std::os::unix::fs::symlink("/dev/full", at).expect("links");

    full(&bed.dir.path().join("pieces/incoming/0.bin"));
    let refused = put(&session, header.clone(), source(&data)).await;
    let said = refused.expect_err("no room for the bytes").to_string();
    assert!(said.contains("disk is full"), "{said}");

    let signed: SignedProposal = codec::decode(&header.proposal, MAX_PROPOSAL_BYTES).expect("ours");
    let record = format!("{}.tmp", signed.proposal.id());
    full(&bed.dir.path().join("journal").join(&record));
    let refused = put(&session, header.clone(), source(&data)).await;
    let said = refused.expect_err("no room for the record").to_string();
    assert!(said.contains("disk is full"), "{said}");
    assert!(bed.told.lock().expect("no panic").is_empty());
    assert_eq!(bed.store.promised_collateral(), TokenAmount(0));

    // What could not be kept has given its room back.
    let left = fs::read_dir(bed.dir.path().join("pieces")).expect("the folder");
    let left: Vec<_> = left.map(|entry| entry.expect("read").file_name()).collect();
    assert_eq!(left, ["incoming"]);
    let half = bed.dir.path().join("journal").join(&record);
    assert!(half.symlink_metadata().is_err(), "half a record");
    put(&session, header, source(&data))
        .await
        .expect("acknowledged");
    stop.cancel();
    let (again, records, report, _) = open_in(bed.dir.path());
    assert_eq!((records.len(), report.missing.len()), (1, 0));
    assert_eq!(again.held_bytes(), 4096);
}

#[test]
fn tm_h4_a_full_disk_is_told_to_the_client_and_any_other_failure_is_not() {
    let full = full_or_failed(&io::Error::from(io::ErrorKind::StorageFull));
    assert_eq!(
        full,
        Refusal::Refused("this provider's disk is full".to_owned())
    );
    let other = full_or_failed(&io::Error::other("/home/somebody/secret"));
    assert!(matches!(other, Refusal::Internal(_)));
    assert!(other.to_failure().detail.is_empty(), "paths stay here");
}

/// H5: after a failed sync nothing is taken, and whoever asks hears why and what to do; what is here goes on being served.
#[tokio::test(flavor = "multi_thread")]
async fn tm_h5_a_closed_store_refuses_pieces_and_serves_what_it_has() {
    let bed = bed();
    let (_server, session, stop) = served(&bed.store).await;
    let (key, data) = (client(1), bytes(5, 3000));
    let header = offer(&key, &data, 1, |_| {});
    let ack = put(&session, header.clone(), source(&data)).await;
    let ack = ack.expect("acknowledged");
    // One that is on its way when another one's sync fails.
    let late = bytes(6, 3000);
    let late_header = offer(&key, &late, 2, |_| {});
    let under_way = bed.store.accept(&peer(), &late_header).expect("room");
    let PutDecision::Receive(mut under_way) = under_way else {
        panic!("nothing of it is here");
    };
    assert_eq!(bed.store.failure(), None);
    fail_sync(&bed.store, "/disk/pieces/a.bin");

    let broken_off = under_way.write(&late[..1024]);
    assert_eq!(broken_off, Err(Refusal::Refused(CLOSED.to_owned())));
    drop(under_way);
    let refused = put(&session, late_header.clone(), source(&late)).await;
    let said = refused.expect_err("closed").to_string();
    for word in ["disk failed", "free space", "replace", "start it again"] {
        assert!(said.contains(word), "no {word:?} in {said}");
    }
    assert!(!said.contains("/disk"), "paths stay here: {said}");
    let told = bed.store.failure().expect("closed");
    for word in ["/disk/pieces/a.bin", "EIO", "replace the disk", "start"] {
        assert!(told.contains(word), "no {word:?} in {told}");
    }
    assert_eq!(bed.store.ask().free_bytes, 0, "nobody is invited");
    let piece = retrieval::PieceKey {
        root: header.root,
        size: 3000,
    };
    let read = session.read(piece, 0..3000).await.expect("served");
    assert!(read[..] == data);
    let again = put(&session, header, source(&data)).await;
    assert_eq!(again.expect("acknowledged already").ack, ack.ack);
    stop.cancel();

    let (store, records, ..) = open_in(bed.dir.path());
    assert_eq!((records.len(), store.failure()), (1, None));
    assert!(store.accept(&peer(), &late_header).is_ok());
}

#[test]
fn a_verified_piece_needs_a_chain_with_datacap_and_a_client_that_holds_enough() {
    let (key, data) = (client(1), bytes(0, 1000));
    let header = offer(&key, &data, 0, |p| p.verified = true);
    let signed: SignedProposal =
        codec::decode(&header.proposal, MAX_PROPOSAL_BYTES).expect("just made");
    let proposal = signed.proposal;
    let market = TestMarket {
        params: ChainParams::devnet(),
        client_escrow: TokenAmount(10_000_000),
        money: Arc::new(Mutex::new(RICH)),
    };
    let ask = market.ask(1 << 20);
    let judge = |params: &ChainParams| judge_terms(&header, &proposal, &ask, Epoch(10), params);
    let without = judge(market.params()).expect_err("no root key");
    assert!(without.contains("no verified deals"), "{without}");
    let params = ChainParams {
        datacap_root: Some(Address([1; 32])),
        ..ChainParams::devnet()
    };
    assert_eq!(judge(&params), Ok(()));
    let holds = |bytes| {
        let funds = market.funds(&proposal, true).expect("told");
        let verified = StoragePower(bytes);
        judge_funds(&proposal, &Funds { verified, ..funds }, 4)
    };
    let short = holds(1023).expect_err("a byte is missing");
    assert!(short.contains("DataCap"), "{short}");
    assert_eq!(holds(1024), Ok(()));
}

/// The test market's clients hold 1,024 bytes of DataCap: one piece.
#[test]
fn tm_c5_datacap_that_is_promised_to_one_piece_is_not_promised_to_another() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let params = ChainParams {
        datacap_root: Some(Address([1; 32])),
        ..ChainParams::devnet()
    };
    let rich = Arc::new(Mutex::new(RICH));
    let (store, _, _, told) = open_on(dir.path(), limits(), rich, params);
    let bed = Bed { dir, store, told };
    let key = client(1);
    let verified = |nonce: u8| {
        offer(&key, &bytes(nonce, 1000), nonce.into(), |p| {
            p.verified = true;
        })
    };
    let first = bed.store.accept(&peer(), &verified(0)).expect("covered");
    // While it is received.
    let refused = refusal(&bed, &verified(1));
    assert!(refused.contains("DataCap"), "{refused}");
    let ordinary = offer(&key, &bytes(2, 1000), 2, |_| {});
    drop(bed.store.accept(&peer(), &ordinary).expect("takes none"));
    drop(first);
    let again = bed.store.accept(&peer(), &verified(1));
    drop(again.expect("the first one broke off"));
    // Once it is acknowledged, and until the chain has published it.
    let record = record_in(&verified(0));
    bed.store.inner.write().add(&record, false);
    let refused = refusal(&bed, &verified(1));
    assert!(refused.contains("DataCap"), "{refused}");
    bed.store.published(&record.deal);
    let next = bed.store.accept(&peer(), &verified(1));
    drop(next.expect("the chain counts the first one now"));
}

fn record_in(header: &PutHeader) -> DealRecord {
    let signed = codec::decode(&header.proposal, MAX_PROPOSAL_BYTES).expect("just made");
    record_of(header, &signed)
}

/// A provider on a disk that can be cut, with one piece that is offered to it.
struct CutBed {
    disk: SimDisk,
    record: DealRecord,
    data: Vec<u8>,
    pairs: Vec<u8>,
}

impl CutBed {
    /// The piece is long enough to have hash pairs.
    fn new() -> Self {
        let data = bytes(5, 40_000);
        let mut pairs = OutboardBuilder::new(data.len() as u64).expect("a piece has bytes");
        pairs.update(&data).expect("within its size");
        Self {
            disk: SimDisk::default(),
            record: record_in(&offer(&client(1), &data, 1, |_| {})),
            pairs: pairs.finish().expect("complete").1,
            data,
        }
    }

    fn dir() -> &'static Path {
        Path::new("/provider")
    }

    fn open(&self) -> Result<Opened, StoreError> {
        self.open_on(Arc::new(self.disk.clone()))
    }

    fn open_on(&self, vfs: Arc<dyn Vfs>) -> Result<Opened, StoreError> {
        let limits = IntakeLimits {
            client_bytes: 1 << 20,
            ..limits()
        };
        let money = Arc::new(Mutex::new(RICH));
        open_at(vfs, Self::dir(), limits, money, ChainParams::devnet())
    }

    /// What `retrieval::serve` does with an offer that was accepted and whose roots are right.
    fn take_in(&self, store: &Store) -> Result<Vec<u8>, Refusal> {
        self.take_in_as(store, &self.record)
    }

    /// The same bytes, for this deal.
    fn take_in_as(&self, store: &Store, record: &DealRecord) -> Result<Vec<u8>, Refusal> {
        self.receive(store, record)?.keep()
    }

    /// All bytes for this deal, and nothing promised yet.
    fn receive(&self, store: &Store, record: &DealRecord) -> Result<FileSink, Refusal> {
        let held = store.inner.reserve(record).expect("within the quota");
        let sink = FileSink::create(Arc::clone(&store.inner), record.clone(), held);
        let mut sink = sink.map_err(|error| full_or_failed(&error))?;
        for part in self.data.chunks(16 << 10) {
            sink.write(part)?;
        }
        sink.write_outboard(&self.pairs)?;
        Ok(sink)
    }

    /// Another client's deal over the same bytes.
    fn other_deal(&self) -> DealRecord {
        record_in(&offer(&client(2), &self.data, 2, |_| {}))
    }

    fn piece_files(&self) -> [PathBuf; 2] {
        let (pieces, root) = (Self::dir().join("pieces"), &self.record.blake3_root);
        [data_path(&pieces, root), pairs_path(&pieces, root)]
    }

    /// Every file of the provider with its length.
    fn files(&self) -> BTreeMap<PathBuf, u64> {
        let dirs = ["pieces", "pieces/incoming", "journal"].map(|dir| Self::dir().join(dir));
        let files = dirs.iter().flat_map(|dir| {
            let listed = self.disk.list(dir).expect("listed");
            listed.into_iter().map(|(name, len)| (dir.join(name), len))
        });
        files.collect()
    }

    /// A start after a fall: every record has its bytes, bytes have a record. Says which deals are there.
    fn assert_whole(&self, what: &str) -> (Store, BTreeSet<DealId>) {
        let (store, records, report, _) = self.open().expect(what);
        assert!(report.missing.is_empty(), "{what}: a record without bytes");
        assert!(report.damaged_records.is_empty(), "{what}");
        let [data, pairs] = self
            .piece_files()
            .map(|path| self.disk.read(&path).unwrap_or_default());
        match records.is_empty() {
            true => assert!(data.is_empty() && pairs.is_empty(), "{what}: an orphan"),
            false => assert!(data == self.data && pairs == self.pairs, "{what}: bytes"),
        }
        let known = [self.record.clone(), self.other_deal()];
        assert!(
            records.iter().all(|record| known.contains(record)),
            "{what}"
        );
        let incoming = Self::dir().join("pieces/incoming");
        let incoming = self.disk.list(&incoming).expect("listed");
        assert!(incoming.is_empty(), "{what}: {incoming:?}");
        let deals = records.iter().map(|record| record.deal).collect();
        (store, deals)
    }
}

/// A process that is killed leaves what it wrote; a power supply that fails leaves what was synced.
fn falls() -> impl FnMut(&SimDisk, bool) {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    move |disk, power_fails| match power_fails {
        true => disk.crash(&mut rng),
        false => disk.restart(),
    }
}

/// Promise 1 of `DESIGN.md` §6. The provider falls at each change that a piece makes on its disk, and again at each change of
/// the start after that, in either way each time.
#[test]
fn tm_h1_a_piece_is_acknowledged_only_when_it_survives_a_power_cut() {
    let mut fall = falls();
    for (first, second) in [(false, false), (false, true), (true, false), (true, true)] {
        let (mut cut, mut starts_cut) = (0, 0);
        let mut is_over = false;
        while !is_over {
            cut += 1;
            for again in 1.. {
                let what = format!("power: {first}, {second}; cuts at {cut} and {again}");
                let bed = CutBed::new();
                let (store, ..) = bed.open().expect("an empty disk");
                bed.disk.cut_at(bed.disk.operations() + cut);
                let acknowledged = bed.take_in(&store).is_ok();
                is_over = !bed.disk.is_dead();
                assert!(acknowledged || !is_over, "{what}: failed by itself");
                fall(&bed.disk, first);
                bed.disk.cut_at(bed.disk.operations() + again);
                let has_started = bed.open().is_ok();
                assert!(has_started || bed.disk.is_dead(), "{what}");
                fall(&bed.disk, second);
                let (store, kept) = bed.assert_whole(&what);
                let is_kept = kept.contains(&bed.record.deal);
                assert!(is_kept || !acknowledged, "{what}: acknowledged and lost");
                // The client asks again.
                bed.take_in(&store).expect("nothing is in the way");
                fall(&bed.disk, second);
                let (_, kept) = bed.assert_whole(&what);
                assert_eq!(kept.len(), 1, "{what}: lost the second time");
                if has_started {
                    break;
                }
                starts_cut += 1;
            }
        }
        assert!(cut > 15, "only {cut} changes were cut");
        assert!(starts_cut > 20, "only {starts_cut} changes of starts");
    }
}

/// Each change of a receipt fails once, for want of room or because the disk is broken, for a piece that is alone and for one whose
/// bytes another deal holds. What was acknowledged stays; what was not gives its room back at once; and after a failed sync
/// nothing is taken until the next start, while any other failure passes.
#[test]
fn tm_h4_tm_h5_a_failed_change_of_a_receipt_leaves_nothing_and_takes_nothing_away() {
    let mut fall = falls();
    let reasons = [io::ErrorKind::StorageFull, io::ErrorKind::Other];
    let cases = reasons.iter().flat_map(|reason| {
        let ways = [(false, false), (false, true), (true, false), (true, true)];
        ways.map(|(is_shared, power_fails)| (*reason, is_shared, power_fails))
    });
    for (reason, is_shared, power_fails) in cases {
        let (mut closed, mut passed, mut stayed) = (0, 0, 0);
        for at in 1.. {
            let what = format!("{reason:?}, shared: {is_shared}, power: {power_fails}, at {at}");
            let bed = CutBed::new();
            let (store, _, _, told) = bed.open().expect("an empty disk");
            let other = bed.other_deal();
            if is_shared {
                bed.take_in_as(&store, &other).expect("kept");
            }
            let (before, told_before) = (bed.files(), told.lock().expect("no panic").len());
            let due = bed.disk.operations() + at;
            bed.disk.fail_at(due, reason);
            let answer = bed.take_in(&store);
            let has_failed = bed.disk.operations() >= due;
            let is_kept = answer.is_ok();
            assert!(is_kept || has_failed, "{what}: {answer:?}");
            let told = told.lock().expect("no panic").len();
            assert_eq!(told, told_before + usize::from(is_kept), "{what}");
            let piece = PieceRef::Root(PieceRoot(other.blake3_root));
            assert_eq!(store.have(&piece).is_some(), is_kept || is_shared, "{what}");
            if let Err(refusal) = answer {
                let mut left = bed.files();
                left.retain(|path, _| !before.contains_key(path));
                // Only where a power cut may bring the record back do its bytes wait for it.
                if !left.is_empty() {
                    assert_eq!(
                        left.into_keys().collect::<Vec<_>>(),
                        bed.piece_files(),
                        "{what}"
                    );
                    stayed += 1;
                }
                let promised = collateral_of(&other) * u128::from(is_shared);
                assert_eq!(store.promised_collateral().0, promised, "{what}");
                match store.failure() {
                    Some(_) => {
                        closed += 1;
                        assert_eq!(refusal, Refusal::Refused(CLOSED.to_owned()), "{what}");
                        let changes = bed.files();
                        assert!(bed.take_in(&store).is_err(), "{what}: it goes on");
                        assert_eq!(bed.files(), changes, "{what}");
                    }
                    None => {
                        passed += 1;
                        let full = Refusal::Refused(FULL.to_owned());
                        assert_eq!(refusal == full, reason == io::ErrorKind::StorageFull);
                        bed.take_in(&store).expect(&what);
                    }
                }
            }
            let is_open = store.failure().is_none();
            drop(store);
            fall(&bed.disk, power_fails);
            let (store, kept) = bed.assert_whole(&what);
            assert_eq!(kept.contains(&other.deal), is_shared, "{what}");
            let may_be_back = !is_open && power_fails;
            let is_there = kept.contains(&bed.record.deal);
            assert!(is_there == (is_kept || is_open) || may_be_back, "{what}");
            assert!(bed.take_in(&store).is_ok(), "{what}: after the next start");
            if !has_failed {
                break;
            }
        }
        // The syncs of two files, of their names, of the record and of its name. Want of room passes where only a file is lost.
        let is_full = reason == io::ErrorKind::StorageFull;
        assert_eq!(closed, if is_full { 2 } else { 5 }, "{reason:?}");
        assert!(passed >= 6, "only {passed} failures pass");
        assert_eq!(stayed, usize::from(!is_shared), "{reason:?}");
    }
}

/// Two receipts of one root are open at once, all bytes of both are there, and a change of what follows fails. Neither takes away
/// what the other was acknowledged for, and neither relies on what the other lost.
#[test]
fn tm_h4_tm_h5_two_receipts_of_one_root_at_once_do_not_undo_each_other() {
    let mut fall = falls();
    let reasons = [io::ErrorKind::StorageFull, io::ErrorKind::Other];
    for (reason, power_fails) in reasons.iter().flat_map(|r| [(*r, false), (*r, true)]) {
        let (mut only_first, mut only_second, mut neither) = (0, 0, 0);
        for at in 1.. {
            let what = format!("{reason:?}, power: {power_fails}, at {at}");
            let bed = CutBed::new();
            let (store, _, _, told) = bed.open().expect("an empty disk");
            let deals = [bed.record.clone(), bed.other_deal()];
            let sinks = deals
                .each_ref()
                .map(|deal| bed.receive(&store, deal).expect("room for both"));
            let due = bed.disk.operations() + at;
            bed.disk.fail_at(due, reason);
            let is_kept = sinks.each_ref().map(|sink| sink.keep().is_ok());
            let has_failed = bed.disk.operations() >= due;
            drop(sinks);
            match is_kept {
                [true, true] => {}
                [true, false] => only_first += 1,
                [false, true] => only_second += 1,
                [false, false] => neither += 1,
            }
            assert_eq!(has_failed, is_kept != [true, true], "{what}");
            let kept = || deals.iter().zip(is_kept).filter(|(_, kept)| *kept);
            assert_eq!(
                told.lock().expect("no panic").len(),
                kept().count(),
                "{what}"
            );
            let promised: u128 = kept().map(|(deal, _)| collateral_of(deal)).sum();
            assert_eq!(store.promised_collateral().0, promised, "{what}");
            let piece = PieceRef::Root(PieceRoot(bed.record.blake3_root));
            assert_eq!(store.have(&piece).is_some(), promised > 0, "{what}");
            let incoming = CutBed::dir().join("pieces/incoming");
            let half = bed.files().into_keys().find(|at| at.starts_with(&incoming));
            assert_eq!(half, None, "{what}");
            let is_open = store.failure().is_none();
            for (deal, _) in deals.iter().zip(is_kept).filter(|(_, kept)| !kept) {
                assert_eq!(bed.take_in_as(&store, deal).is_ok(), is_open, "{what}");
            }
            drop(store);
            fall(&bed.disk, power_fails);
            let (_, there) = bed.assert_whole(&what);
            for (deal, was_kept) in deals.iter().zip(is_kept) {
                let is_there = there.contains(&deal.deal);
                let may_be_back = !is_open && power_fails && is_there;
                assert!(is_there == (was_kept || is_open) || may_be_back, "{what}");
            }
            if !has_failed {
                break;
            }
        }
        assert!(only_first > 0 && neither > 0, "{reason:?}");
        // The first that fails closes the store unless it was for want of room in a file, or before anything was to be durable.
        assert!(only_second > 0, "{reason:?}");
    }
}

/// The bytes of an acknowledged piece whose record was damaged wait for it to be put back from a copy: the same bytes that come
/// again and cannot be kept do not take them away. Nor do they take a record whose bytes were missing.
#[test]
fn tm_h3_tm_h4_a_failed_receipt_takes_nothing_that_was_on_disk_before() {
    for is_record_lost in [true, false] {
        let (mut failed, mut at) = (0, 1);
        loop {
            let what = format!("record lost: {is_record_lost}, at {at}");
            let bed = CutBed::new();
            let (store, ..) = bed.open().expect("an empty disk");
            bed.take_in(&store).expect("kept");
            drop(store);
            let record = CutBed::dir()
                .join("journal")
                .join(bed.record.deal.to_string());
            let [data, pairs] = bed.piece_files();
            if is_record_lost {
                bed.disk.put(&record, b"damaged");
            } else {
                bed.disk.remove(&data).expect("there");
                bed.disk.remove(&pairs).expect("there");
            }
            let (store, ..) = bed.open().expect(&what);
            let due = bed.disk.operations() + at;
            bed.disk.fail_at(due, io::ErrorKind::StorageFull);
            let answer = bed.take_in(&store);
            if bed.disk.operations() < due {
                answer.expect(&what);
                break;
            }
            failed += u64::from(answer.is_err());
            if is_record_lost {
                assert_eq!(bed.disk.read_all(&data), bed.data, "{what}");
                assert_eq!(bed.disk.read_all(&pairs), bed.pairs, "{what}");
            } else {
                assert!(bed.disk.has(&record), "{what}");
            }
            at += 1;
        }
        assert!(failed > 6, "only {failed} failed");
    }
}

/// A deal that ends while the disk fails or is cut: its record goes before its bytes.
#[test]
fn tm_h1_tm_h4_tm_h5_an_ending_deal_that_fails_leaves_no_record_without_bytes() {
    let mut fall = falls();
    let reasons = [
        None,
        Some(io::ErrorKind::StorageFull),
        Some(io::ErrorKind::Other),
    ];
    for (reason, power_fails) in reasons.iter().flat_map(|r| [(r, false), (r, true)]) {
        let mut ended_badly = 0;
        for at in 1.. {
            let what = format!("{reason:?}, power: {power_fails}, at {at}");
            let bed = CutBed::new();
            let (store, ..) = bed.open().expect("an empty disk");
            bed.take_in(&store).expect("kept");
            let due = bed.disk.operations() + at;
            match reason {
                None => bed.disk.cut_at(due),
                Some(kind) => bed.disk.fail_at(due, *kind),
            }
            let ended = store.forget(&bed.record.deal);
            let has_failed = bed.disk.operations() >= due;
            assert!(ended.is_ok() || has_failed, "{what}: {ended:?}");
            ended_badly += u32::from(ended.is_err());
            fall(&bed.disk, power_fails);
            let (_, kept) = bed.assert_whole(&what);
            assert!(ended.is_err() || kept.is_empty(), "{what}: back again");
            if !has_failed {
                break;
            }
        }
        assert_eq!(
            ended_badly, 2,
            "{reason:?}: the record's removal and its sync"
        );
    }
}

type Meddling = Box<dyn FnOnce() + Send>;

/// A disk on which something else happens just before the next record is written.
struct Meddled {
    disk: SimDisk,
    next: Mutex<Option<Meddling>>,
}

impl std::fmt::Debug for Meddled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.disk, f)
    }
}

impl Vfs for Meddled {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn Disk>> {
        Vfs::open(&self.disk, path)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        self.disk.list(dir)
    }
    fn len(&self, path: &Path) -> io::Result<u64> {
        self.disk.len(path)
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.disk.read(path)
    }
    fn write_synced(&self, path: &Path, readers: Readers, pieces: &[&[u8]]) -> io::Result<()> {
        let meddling = self.next.lock().expect("no panic").take();
        if let Some(meddling) = meddling {
            meddling();
        }
        self.disk.write_synced(path, readers, pieces)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn sync_names(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_names(path)
    }
}

/// Promise 1, by the other way to lose bytes: a deal ends while another one over the same piece is between its names and its
/// record. Either of the two that does not wait for the other takes the bytes away.
#[test]
fn a_deal_that_ends_does_not_take_the_bytes_of_one_that_comes() {
    let bed = CutBed::new();
    let vfs = Arc::new(Meddled {
        disk: bed.disk.clone(),
        next: Mutex::default(),
    });
    let (store, ..) = bed
        .open_on(Arc::clone(&vfs) as Arc<dyn Vfs>)
        .expect("an empty disk");
    bed.take_in(&store).expect("kept");
    let (ending, deal) = (store.share(), bed.record.deal);
    let ends = Arc::new(Mutex::new(None));
    let begun = Arc::clone(&ends);
    *vfs.next.lock().expect("no panic") = Some(Box::new(move || {
        let end = std::thread::spawn(move || ending.forget(&deal));
        // Whoever does not wait for the names has had time enough.
        for _ in 0..100 {
            if end.is_finished() {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        *begun.lock().expect("no panic") = Some(end);
    }));
    let next = bed.other_deal();
    bed.take_in_as(&store, &next).expect("kept");
    let end = ends.lock().expect("no panic").take().expect("it began");
    end.join().expect("no panic").expect("forgets");
    drop(store);
    let (_, kept) = bed.assert_whole("one ends, one comes");
    assert_eq!(kept, BTreeSet::from([next.deal]));
}
