//! Asks drand's relays for the rounds that a proposer lacks, in a thread of its own.
//!
//! Walk: the engine asks [`Relays`] for a round; what is not here is written down as wanted, and the engine goes on. Each relay has a
//! worker that takes wanted rounds, asks, verifies, and writes down what it found; the engine finds it there when it asks again.
//! Spec: `beacon.md` §§3, 4.
//!
//! A relay that hangs, lies, lags, floods or is away costs its own turn: workers do not wait for each other, the newest round is asked
//! of all relays at once, and the rounds of an outage are shared out among them, [`BATCH`] at a time each. A relay that fails is left
//! alone for a while that doubles ([`Patience`]).
//! Bounds: [`MAX_ANSWER_BYTES`] a body, [`MAX_HEAD_BYTES`] a head, [`Patience::answer`] a question, `MAX_ENTRIES` wanted rounds.
//! Nothing is followed (no redirects) and nothing is sent but the question. Memory: 100 bytes a round, a socket or eight a relay.
//! Crash: nothing is kept; rounds are fetched again.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use chain_lite::beacon::{BeaconParams, BeaconSchedule, BeaconSource, Entry, MAX_ENTRIES};
use chain_lite::units::Epoch;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls_platform_verifier::{BuilderVerifierExt, Verifier};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::subscriber::NoSubscriber;

use super::{Info, MAX_ANSWER_BYTES, RelayError, Round};

/// Rounds that one relay is asked for at once.
pub const BATCH: usize = 8;
/// Longest head of an answer that is read, in bytes.
pub const MAX_HEAD_BYTES: usize = 16 << 10;
/// Most relays.
pub const MAX_RELAYS: usize = 16;

/// How long relays are waited for. Pauses double with each failure in a row, up to sixteenfold.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until a question without an answer has failed.
    pub answer: Duration,
    /// First pause after "not there yet": a relay is a moment behind.
    pub late: Duration,
    /// First pause after no answer, or one that says that the relay is in trouble.
    pub away: Duration,
    /// First pause after an answer that does not hold.
    pub lied: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(5),
            late: Duration::from_millis(250),
            away: Duration::from_secs(2),
            lied: Duration::from_secs(30),
        }
    }
}

/// Why a relay gave no round.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
enum Fault {
    /// It does not have the round yet.
    #[error("it does not have the round yet")]
    Late,
    /// Nothing, an error, or another answer than 200.
    #[error("{0}")]
    Away(String),
    /// An answer that does not hold.
    #[error("its answer does not hold: {0}")]
    Lied(String),
}

impl Fault {
    fn pause(&self, patience: &Patience, in_a_row: u32) -> Duration {
        let first = match self {
            Self::Late => patience.late,
            Self::Away(_) => patience.away,
            Self::Lied(_) => patience.lied,
        };
        first * (1 << in_a_row.saturating_sub(1).min(4))
    }
}

/// Whether an address is a relay's: `http` or `https`, a host, perhaps a path; nothing else.
pub fn check_url(url: &str) -> Result<(), RelayError> {
    let bad = |why: &str| RelayError::Url {
        url: url.to_owned(),
        why: why.to_owned(),
    };
    if url.len() > 512 {
        return Err(bad("it is longer than 512 bytes"));
    }
    let uri: Uri = url.parse().map_err(|e| bad(&format!("{e}")))?;
    let scheme = uri.scheme_str();
    if !matches!(scheme, Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        return Err(bad("it does not begin with http://host or https://host"));
    }
    match uri.query() {
        Some(_) => Err(bad("it has a query")),
        None => Ok(()),
    }
}

/// Rounds from relays. Dropping it ends the asking.
pub struct Relays {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    schedule: BeaconSchedule,
    rounds: Mutex<Wanted>,
    /// Something new is wanted.
    wake: Notify,
    stop: Notify,
}

#[derive(Default)]
struct Wanted {
    /// By epoch: the round, and how many workers are asking for it now.
    missing: BTreeMap<Epoch, (u64, u32)>,
    known: BTreeMap<Epoch, Entry>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rounds to ask for next: those that fewest workers ask for, oldest first. All of one network.
    fn take(&self) -> Vec<(Epoch, u64)> {
        let mut wanted = self.lock();
        let mut order: Vec<(u32, Epoch)> = wanted
            .missing
            .iter()
            .map(|(epoch, (_, asking))| (*asking, *epoch))
            .collect();
        order.sort_unstable();
        let network = |epoch: Epoch| self.schedule.params(epoch).from_epoch;
        let first = order.first().map(|(_, epoch)| network(*epoch));
        let chosen = order.into_iter().map(|(_, epoch)| epoch);
        let batch: Vec<Epoch> = chosen
            .filter(|epoch| Some(network(*epoch)) == first)
            .take(BATCH)
            .collect();
        let mut taken = Vec::with_capacity(batch.len());
        for epoch in batch {
            if let Some((round, asking)) = wanted.missing.get_mut(&epoch) {
                *asking += 1;
                taken.push((epoch, *round));
            }
        }
        taken
    }

    /// As [`Self::take`], when there is something.
    async fn next(&self) -> Vec<(Epoch, u64)> {
        loop {
            let woken = self.wake.notified();
            tokio::pin!(woken);
            // Before looking, so that what comes in between is not missed.
            woken.as_mut().enable();
            let taken = self.take();
            if !taken.is_empty() {
                return taken;
            }
            woken.await;
        }
    }

    /// Ends one asking, with what it found.
    fn done(&self, epoch: Epoch, found: Option<Entry>) {
        let mut wanted = self.lock();
        match found {
            Some(entry) => {
                // Another worker may have been faster, or nobody wants it any more.
                if wanted.missing.remove(&epoch).is_some() {
                    wanted.known.insert(epoch, entry);
                }
            }
            None => {
                if let Some((_, asking)) = wanted.missing.get_mut(&epoch) {
                    *asking = asking.saturating_sub(1);
                }
            }
        }
    }
}

impl Relays {
    /// Begins to ask these relays for rounds of the chain with this schedule, when they are wanted.
    pub fn start(urls: &[String], schedule: BeaconSchedule) -> Result<Self, RelayError> {
        Self::start_with(urls, schedule, Patience::default())
    }

    /// As [`Self::start`], more or less patient.
    pub fn start_with(
        urls: &[String],
        schedule: BeaconSchedule,
        patience: Patience,
    ) -> Result<Self, RelayError> {
        if urls.is_empty() {
            return Err(RelayError::None);
        }
        for url in urls {
            check_url(url)?;
        }
        if let Some(url) = urls.iter().find(|url| is_https(url)) {
            require_roots(url)?;
        }
        let http = http()?;
        let shared = Arc::new(Shared {
            schedule,
            rounds: Mutex::default(),
            wake: Notify::new(),
            stop: Notify::new(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let workers: Vec<Worker> = urls
            .iter()
            .take(MAX_RELAYS)
            .map(|url| Worker {
                asker: Asker {
                    http: http.clone(),
                    base: url.trim_end_matches('/').to_owned(),
                    answer: patience.answer,
                },
                shared: Arc::clone(&shared),
                patience,
                known_as: None,
            })
            .collect();
        let stop = Arc::clone(&shared);
        let work = move || {
            runtime.block_on(async move {
                let mut tasks = JoinSet::new();
                for worker in workers {
                    tasks.spawn(worker.run());
                }
                // Workers have no end; they are dropped with the runtime.
                stop.stop.notified().await;
            });
            // A look-up of a name may hang, and nobody waits for it.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new()
            .name("beacon-relays".into())
            .spawn(work)?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        self.shared.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            // It can only have panicked, and then the log has it.
            drop(thread.join());
        }
    }
}

impl BeaconSource for Relays {
    fn round(&mut self, epoch: Epoch, round: u64) -> Option<Entry> {
        let mut wanted = self.shared.lock();
        if let Some(entry) = wanted.known.get(&epoch) {
            return Some(entry.clone());
        }
        if !wanted.missing.contains_key(&epoch) && wanted.missing.len() < MAX_ENTRIES {
            wanted.missing.insert(epoch, (round, 0));
            self.shared.wake.notify_waiters();
        }
        None
    }

    fn settled(&mut self, tip: Epoch) {
        let mut wanted = self.shared.lock();
        wanted.known.retain(|epoch, _| *epoch > tip);
        wanted.missing.retain(|epoch, _| *epoch > tip);
    }
}

/// One relay's worker.
struct Worker {
    asker: Asker,
    shared: Arc<Shared>,
    patience: Patience,
    /// The network last asked about, by its first epoch, and how this relay speaks of it.
    known_as: Option<(u64, Version)>,
}

/// How a relay is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Version {
    /// The path of a network's description.
    fn info(self, hash: &str) -> String {
        match self {
            Self::One => format!("/{hash}/info"),
            Self::Two => format!("/v2/chains/{hash}/info"),
        }
    }

    /// The path of a round.
    fn round(self, hash: &str, round: u64) -> String {
        match self {
            Self::One => format!("/{hash}/public/{round}"),
            Self::Two => format!("/v2/chains/{hash}/rounds/{round}"),
        }
    }
}

impl Worker {
    async fn run(mut self) {
        let mut in_a_row = 0u32;
        loop {
            let wanted = self.shared.next().await;
            let outcome = self.ask(&wanted).await;
            let base = &self.asker.base;
            match &outcome {
                Ok(()) if in_a_row > 0 => tracing::info!(relay = base, "a relay answers again"),
                Ok(()) | Err(Fault::Late) => {}
                Err(fault) if in_a_row == 0 => {
                    tracing::warn!(relay = base, %fault, "a relay gave no round; others are asked");
                }
                Err(fault) => tracing::debug!(relay = base, %fault, "still no round"),
            }
            let Err(fault) = outcome else {
                in_a_row = 0;
                continue;
            };
            in_a_row = in_a_row.saturating_add(1);
            if fault != Fault::Late {
                // What it is may have changed when it is back.
                self.known_as = None;
            }
            tokio::time::sleep(fault.pause(&self.patience, in_a_row)).await;
        }
    }

    /// Asks for these rounds of one network. The worst fault counts.
    async fn ask(&mut self, wanted: &[(Epoch, u64)]) -> Result<(), Fault> {
        let Some((first, _)) = wanted.first() else {
            return Ok(());
        };
        let params = self.shared.schedule.params(*first).clone();
        let version = match self.version(&params).await {
            Ok(version) => version,
            Err(fault) => {
                for (epoch, _) in wanted {
                    self.shared.done(*epoch, None);
                }
                return Err(fault);
            }
        };
        let mut answers = JoinSet::new();
        for (epoch, round) in wanted.iter().copied() {
            let asker = self.asker.clone();
            let path = version.round(&hex::encode(params.chain_hash), round);
            answers.spawn(async move { (epoch, asker.round(&path, round).await) });
        }
        let mut worst: Result<(), Fault> = Ok(());
        while let Some(answer) = answers.join_next().await {
            // A task can only have panicked; its round stays with nobody, as if asked for and not found.
            let Ok((epoch, answer)) = answer else {
                continue;
            };
            let verified = answer.and_then(|entry| {
                let held = self.shared.schedule.check_entry(epoch, &entry);
                held.map(|()| entry).map_err(|e| Fault::Lied(e.to_string()))
            });
            match verified {
                Ok(entry) => self.shared.done(epoch, Some(entry)),
                Err(fault) => {
                    self.shared.done(epoch, None);
                    worst = Err(worst.err().max(Some(fault)).unwrap_or(Fault::Late));
                }
            }
        }
        worst
    }

    /// Learns how the relay speaks of this network, and that it does.
    async fn version(&mut self, params: &BeaconParams) -> Result<Version, Fault> {
        match self.known_as {
            Some((from, version)) if from == params.from_epoch => return Ok(version),
            _ => {}
        }
        let hash = hex::encode(params.chain_hash);
        let mut outcome = Err(Fault::Late);
        for version in [Version::Two, Version::One] {
            outcome = self.asker.get(&version.info(&hash)).await;
            if let Ok(bytes) = &outcome {
                check_info(bytes, params)?;
                self.known_as = Some((params.from_epoch, version));
                return Ok(version);
            }
        }
        Err(match outcome {
            Err(Fault::Late) => Fault::Away(format!("it does not know chain {hash}")),
            Err(fault) => fault,
            Ok(_) => Fault::Late,
        })
    }
}

/// Whether a description is of this network. Its rounds are verified all the same: this only tells a wrong address early.
fn check_info(bytes: &[u8], params: &BeaconParams) -> Result<(), Fault> {
    let info: Info = serde_json::from_slice(bytes).map_err(|e| Fault::Lied(e.to_string()))?;
    let same = info.public_key == hex::encode(params.pk)
        && info.chain_hash == hex::encode(params.chain_hash)
        && (info.period, info.genesis_time) == (params.period, params.genesis_time);
    match same {
        true => Ok(()),
        false => Err(Fault::Lied(format!(
            "it describes another network than {:?} of the genesis",
            params.beacon_id
        ))),
    }
}

/// A round as a relay words it. What its signature is worth is asked elsewhere.
fn read_round(bytes: &[u8], wanted: u64) -> Result<Entry, Fault> {
    let lied = |why: String| Fault::Lied(why);
    let found: Round = serde_json::from_slice(bytes).map_err(|e| lied(e.to_string()))?;
    if found.round != wanted {
        return Err(lied(format!("round {} for {wanted}", found.round)));
    }
    let mut sig = [0u8; 48];
    hex::decode_to_slice(&found.signature, &mut sig).map_err(|e| lied(e.to_string()))?;
    let round = found.round;
    Ok(Entry { round, sig })
}

/// Any bytes as a relay's answers: a lie, or what was asked for. Body of the fuzz target.
pub fn fuzz_answer(bytes: &[u8]) {
    const WANTED: u64 = 7;
    if let Ok(entry) = read_round(bytes, WANTED) {
        assert_eq!(entry.round, WANTED);
    }
    let _ = check_info(bytes, &BeaconParams::quicknet(0, 1));
}

type Http = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

fn is_https(url: &str) -> bool {
    let uri: Option<Uri> = url.parse().ok();
    uri.is_some_and(|uri| uri.scheme_str() == Some("https"))
}

/// Whether certificates can be judged here at all. Else every https relay would be away for ever.
fn require_roots(url: &str) -> Result<(), RelayError> {
    let verifier =
        Verifier::new().with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    // It looks for its roots before it looks at the certificate, which is none.
    let none = CertificateDer::from_slice(&[]);
    let host = ServerName::from(IpAddr::from(Ipv4Addr::LOCALHOST));
    // It reports what it refuses, and this is no certificate that anybody sent.
    let judged = tracing::subscriber::with_default(NoSubscriber::new(), || {
        verifier.verify_server_cert(&none, &[], &host, &[], UnixTime::now())
    });
    match judged {
        Err(rustls::Error::General(why)) => Err(RelayError::Roots {
            url: url.to_owned(),
            why,
        }),
        _ => Ok(()),
    }
}

fn http() -> Result<Http, RelayError> {
    let tls = |e: rustls::Error| RelayError::Tls(e.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .with_platform_verifier()
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_http1()
        .build();
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(BATCH)
        .http1_max_buf_size(MAX_HEAD_BYTES)
        .build(connector))
}

/// Puts one question to one relay.
#[derive(Clone)]
struct Asker {
    http: Http,
    base: String,
    answer: Duration,
}

impl Asker {
    async fn round(&self, path: &str, wanted: u64) -> Result<Entry, Fault> {
        read_round(&self.get(path).await?, wanted)
    }

    /// The body of an answer 200, whole and within its bound and time.
    async fn get(&self, path: &str) -> Result<Bytes, Fault> {
        let away = |e: &dyn std::error::Error| {
            // hyper's own words are "client error"; the cause says what happened.
            Fault::Away(e.source().map_or(e.to_string(), |cause| cause.to_string()))
        };
        let question = Request::get(format!("{}{path}", self.base))
            .header(hyper::header::ACCEPT, "application/json")
            .body(Empty::new())
            .map_err(|e| Fault::Away(e.to_string()))?;
        let work = async {
            let answer = self.http.request(question).await.map_err(|e| away(&e))?;
            match answer.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND | StatusCode::TOO_EARLY => return Err(Fault::Late),
                status => return Err(Fault::Away(format!("it answers {status}"))),
            }
            let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect();
            let body = body.await.map_err(|e| match e.is::<LengthLimitError>() {
                true => Fault::Lied(format!("more than {MAX_ANSWER_BYTES} bytes")),
                false => Fault::Away(e.to_string()),
            })?;
            Ok(body.to_bytes())
        };
        let late = |_| Fault::Away(format!("no answer within {:?}", self.answer));
        tokio::time::timeout(self.answer, work)
            .await
            .map_err(late)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        for good in [
            "https://api.drand.sh",
            "http://127.0.0.1:8080/",
            "https://relay.example/drand",
        ] {
            assert!(check_url(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "api.drand.sh",
            "ftp://a",
            "http://",
            "file:///etc/passwd",
            "http://a/?x=1",
            "http://a b",
        ] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
        assert!(check_url(&format!("http://{}", "a".repeat(600))).is_err());
    }

    #[test]
    fn pauses_double_and_end() {
        let patience = Patience::default();
        let pause = |n| Fault::Away(String::new()).pause(&patience, n).as_secs();
        assert_eq!([1, 2, 3, 5, 6, u32::MAX].map(pause), [2, 4, 8, 32, 32, 32]);
        assert!(Fault::Lied(String::new()) > Fault::Away("z".into()));
        assert!(Fault::Away(String::new()) > Fault::Late);
    }

    /// Rounds of an outage are shared out; the newest is asked of everybody; what is on chain is forgotten.
    #[test]
    fn wanted_rounds_are_shared_out_and_bounded() {
        let key = chain_lite::beacon::DevnetSigner::from_seed(&[1; 32]);
        let schedule = BeaconSchedule::new(&[BeaconParams::devnet(&key, 0)], None).expect("sound");
        let shared = Arc::new(Shared {
            schedule,
            rounds: Mutex::default(),
            wake: Notify::new(),
            stop: Notify::new(),
        });
        let mut relays = Relays {
            shared: Arc::clone(&shared),
            thread: None,
        };
        for epoch in 1..=300 {
            assert_eq!(relays.round(Epoch(epoch), epoch), None);
        }
        assert_eq!(shared.lock().missing.len(), MAX_ENTRIES);
        let first: Vec<u64> = shared.take().iter().map(|(_, round)| *round).collect();
        let second: Vec<u64> = shared.take().iter().map(|(_, round)| *round).collect();
        assert_eq!(first, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(second, [9, 10, 11, 12, 13, 14, 15, 16]);
        // One is found, one is given back.
        shared.done(Epoch(1), Some(key.sign(1)));
        shared.done(Epoch(2), None);
        assert_eq!(relays.round(Epoch(1), 1), Some(key.sign(1)));
        assert_eq!(shared.take()[0], (Epoch(2), 2));
        relays.settled(Epoch(MAX_ENTRIES as u64 - 1));
        assert!(shared.lock().known.is_empty());
        let newest = [(Epoch(MAX_ENTRIES as u64), MAX_ENTRIES as u64)];
        assert_eq!(
            (shared.take(), shared.take()),
            (newest.to_vec(), newest.to_vec())
        );
        // A late answer for what nobody wants any more is dropped.
        shared.done(Epoch(3), Some(key.sign(3)));
        assert!(shared.lock().known.is_empty());
    }
}
