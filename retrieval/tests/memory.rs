//! Memory bounds, in a process of their own so that other tests do not blur the figures.

mod support;

use std::time::{Duration, Instant};

use retrieval::{
    Limits, NetSecret, PeerAddr,
    limits::CONNECTION_BYTES,
    range::Ranges,
    wire::{Get, Request},
};
use support::*;

/// Resident bytes of this process; `None` where the system does not tell.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// How long hostile peers keep at it: `HOLDFAST_HOSTILE_SECONDS`, else three seconds.
fn lasts() -> Duration {
    let asked = std::env::var("HOLDFAST_HOSTILE_SECONDS");
    let seconds = asked.map_or(3, |s| {
        s.parse().expect("HOLDFAST_HOSTILE_SECONDS: a number")
    });
    Duration::from_secs(seconds)
}

/// How many hostile peers there are at once, and how much each takes without reading it.
const HOSTILE: u64 = 40;
const HOSTILE_WINDOW_BYTES: u32 = 128 << 10;

/// A peer that asks for everything and reads nothing, sends half frames, and breaks off every third stream. Gaps in a stream cannot be
/// sent from here, because quinn's streams have none; what a peer may leave open is the receive window, a part of the bound.
struct Hostile {
    _connection: quinn::Connection,
    _streams: Vec<(quinn::SendStream, quinn::RecvStream)>,
}

impl Hostile {
    async fn greet(endpoint: &quinn::Endpoint, addr: PeerAddr, get: &[u8], peer: u8) -> Self {
        let connection = rogue::greeted_as_another(endpoint, addr, HOSTILE_WINDOW_BYTES).await;
        let mut streams = Vec::new();
        for stream in 0..20 {
            let Ok((mut send, recv)) = connection.open_bi().await else {
                break;
            };
            let bytes: &[u8] = if stream % 2 == 0 {
                get
            } else {
                &[0xff, 0xff, peer]
            };
            if send.write_all(bytes).await.is_err() {
                break;
            }
            if stream % 3 == 2 {
                // Over already, or broken off in the middle.
                let _ = send.reset(1u32.into());
            }
            streams.push((send, recv));
        }
        Self {
            _connection: connection,
            _streams: streams,
        }
    }
}

/// Threats N2, N4. One test, so that its parts do not run beside each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tm_n4_idle_and_tm_n2_hostile_connections_stay_within_their_memory() {
    let Some(_) = resident() else { return };
    let piece = Piece::without_commp(sample(40_000_000, 1));
    let limits = Limits {
        max_connections_per_peer: 2_000,
        ..patient()
    };
    let provider = Provider::with_limits(MemStore::with(&[&piece]), limits.clone());
    let endpoint = client();
    endpoint
        .session(provider.addr)
        .await
        .expect("warm")
        .read(piece.key, 0..1)
        .await
        .expect("bytes");

    // 1,000 idle connections; both ends live in this process.
    let before = resident().expect("told before");
    let mut sessions = Vec::new();
    for _ in 0..1_000 {
        sessions.push(
            endpoint
                .connect(provider.addr)
                .await
                .expect("within the caps"),
        );
    }
    let grown = resident().expect("told before").saturating_sub(before);
    assert!(
        grown <= 1_000 * 2 * CONNECTION_BYTES,
        "{} KiB per idle connection and end",
        grown / 2_000 / 1024
    );
    drop(sessions);

    // Forty hostile peers: they ask for everything and read nothing, and send half frames. Small limits, so that the bound
    // is far below what they ask for: 40 peers, ten gets each, 40 MB.
    let limits = Limits {
        max_connections: 64,
        max_serving: 16,
        max_puts: 2,
        send_window_bytes: 1 << 20,
        stall_timeout: Duration::from_secs(1),
        ..limits
    };
    let provider = Provider::with_limits(MemStore::with(&[&piece]), limits.clone());
    let rogues = rogue::client(&NetSecret::generate());
    let before = resident().expect("told before");
    let whole = Ranges::whole(piece.key.size).expect("a range");
    let get = Request::Get(Get {
        req_id: 0,
        root: piece.key.root,
        ranges: whole,
        deadline_ms: 0,
    });
    let get = get.encode().expect("bounds");
    let mut hostile = Vec::new();
    for peer in 0..HOSTILE as u8 {
        hostile.push(Hostile::greet(&rogues, provider.addr, &get, peer).await);
    }
    let mut peak = 0;
    let begun = Instant::now();
    for tick in (0..=u8::MAX).cycle() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        peak = peak.max(resident().expect("told before"));
        if begun.elapsed() >= lasts() {
            break;
        }
        // One after the other goes and comes again as somebody else.
        let slot = usize::from(tick) % hostile.len();
        hostile[slot] = Hostile::greet(&rogues, provider.addr, &get, tick).await;
    }
    let grown = peak.saturating_sub(before);
    // The hostile ends live in this process too, some while they close: they hold little, or this would be about them.
    let ends = 2 * HOSTILE * (CONNECTION_BYTES + u64::from(HOSTILE_WINDOW_BYTES));
    let bound = limits.worst_case_bytes() + ends;
    assert!(bound < 120 << 20, "a bound that says something");
    assert!(
        grown <= bound,
        "{} MiB, bound {} MiB",
        grown >> 20,
        bound >> 20
    );
    drop(hostile);
    let session = client()
        .session(provider.addr)
        .await
        .expect("still serving");
    // Its turn comes once the vanished ones have lost theirs.
    let begun = Instant::now();
    while let Err(error) = session.read(piece.key, 0..1_000).await {
        assert!(begun.elapsed() < PATIENCE, "{error}");
    }
}
