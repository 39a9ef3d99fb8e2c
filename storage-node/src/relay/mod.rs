//! drand's relay HTTP, both sides: how a node without a beacon key learns the rounds it carries, and how a network with its own
//! key gives them out.
//!
//! Walk: `holdfast chain run --relay URL` → [`Relays`] fetches the rounds that a proposer lacks → `chain_lite::beacon` carries and
//! judges them; `holdfast chain relay` → [`server`] answers, as drand's own relays do. Spec: `beacon.md` §4.
//!
//! | | `B` | network | round |
//! |---|---|---|---|
//! | version 2 | `/v2/chains/{chain hash}`, `/v2/beacons/{id}` | `B/info`, `B/health`, `/v2/chains`, `/v2/beacons` | `B/rounds/{n}`, `B/rounds/latest`, `B/rounds/next` |
//! | version 1 | `/{chain hash}` | `B/info`, `B/health`, `/chains` | `B/public/{n}`, `B/public/latest` |
//!
//! GET only, JSON, lower-case hexadecimal. Round 0 is the newest. The next round is held until it is due; later ones are
//! answered 425. Nothing that comes over this is believed: a round is a signature, and is verified under the genesis' key.

pub mod client;
pub mod server;

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

pub use client::{Patience, Relays};
pub use server::{RelayHandle, Rounds};

/// Longest body of an answer that is read, in bytes: rounds have 150, a network's description 600.
pub const MAX_ANSWER_BYTES: usize = 4 << 10;

/// Why relays are not asked, or rounds not served.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Not the address of a relay.
    #[error("{url:?} is no relay's address: {why}; write one like https://api.drand.sh")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// None was named.
    #[error("no relay is named")]
    None,
    /// The port cannot be had.
    #[error("cannot listen on {addr}: {source}; choose another port")]
    Bind {
        /// The address.
        addr: std::net::SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A thread or its runtime.
    #[error("starting the thread that asks relays: {0}")]
    Thread(#[from] std::io::Error),
    /// TLS.
    #[error("preparing TLS: {0}")]
    Tls(String),
    /// No https relay could show that it is the one named.
    #[error("this machine has no CA certificates to know the relay {url} by: {why}")]
    Roots {
        /// The first https relay.
        url: String,
        /// The system's reason.
        why: String,
    },
}

/// A network's description. The second names are version 1's.
#[derive(Clone, Debug, Deserialize)]
struct Info {
    public_key: String,
    period: u32,
    genesis_time: i64,
    #[serde(alias = "hash")]
    chain_hash: String,
}

/// A round. Version 1 adds the randomness, which is computed here instead.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Round {
    round: u64,
    signature: String,
}

/// Unix milliseconds by this machine's clock; a clock before 1970 counts as 1970.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
