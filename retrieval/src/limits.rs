//! Every limit of the crate in one place: unit, default, how to choose, worst-case memory.
//!
//! Walk: read once by `endpoint` and `serve`; `fetch` has its own [`FetchLimits`].
//! Spec: `network.md` §2.4, threats N1 to N4 and R4. A peer can make us hold no more than
//! [`Limits::worst_case_bytes`], whatever it sends or leaves unsent; the test `tm_n2_*` holds the process to it.
//!
//! What is bounded, and by what:
//!
//! | a hostile peer would like us to hold | bound |
//! |---|---|
//! | connections | `max_connections`, `max_connections_per_ip`, `max_connections_per_peer` |
//! | half-open handshakes | `max_handshakes`, `max_handshakes_per_ip`, after the address proved itself (Retry): `prove_first`, `retry_above` |
//! | received, unread bytes | `idle_window_bytes` per connection; `put_window_bytes` while a put is admitted |
//! | sent, unacknowledged bytes | `send_window_bytes` per serving connection, `max_serving` of them |
//! | requests at work | `max_serving`, `max_serving_per_peer`, `max_puts`, `max_puts_per_peer` |
//! | time | `handshake_timeout`, `request_timeout`, `stall_timeout`, `idle_timeout` |

use std::time::Duration;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Bytes that one block of a stream holds: what the server encodes at once and the client hands on at once.
pub const BLOCK_BYTES: usize = 256 * 1024;

/// Datagrams between two ends on one machine, where no path limits them: a fourth of the packets, and ten of them still
/// fit the 64 KiB that one segmented send may carry.
pub const LOOPBACK_DATAGRAM_BYTES: u16 = 6400;

/// What one connection costs while it is open and silent: quinn's state, our tasks and the kernel's share, measured by
/// the test `tm_n4_idle_connections_stay_within_their_memory`.
pub const CONNECTION_BYTES: u64 = 96 * KIB;

/// Limits of one endpoint and of the service behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections. Default 1024. Each costs [`CONNECTION_BYTES`] and up to `idle_window_bytes`.
    pub max_connections: usize,
    /// Open connections from one IP address, or IPv6 network of 64 bits. Default 256: a devnet's clients and providers all live on 127.0.0.1.
    pub max_connections_per_ip: usize,
    /// Open connections of one peer id. Default 16. Ids are free to make, so this only keeps honest peers tidy.
    pub max_connections_per_peer: usize,
    /// Handshakes under way with addresses that proved themselves. Default 512, about 30 KiB each.
    pub max_handshakes: usize,
    /// The part of them that one IP address, or IPv6 network of 64 bits, may have. Default 128: one that never finishes
    /// its handshakes leaves room for others.
    pub max_handshakes_per_ip: usize,
    /// Whether every address off this machine must prove itself with a stateless Retry first: one round trip more for a
    /// cold connection (sessions are kept warm), and nothing kept or computed for a spoofed one. Default true, because
    /// quinn lets one full datagram pass beyond the threefold limit before validation (its issue 1082).
    pub prove_first: bool,
    /// Handshakes under way above which addresses of this machine must prove themselves too. Default 64.
    pub retry_above: usize,
    /// From first packet to finished handshake. Default 5 s.
    pub handshake_timeout: Duration,
    /// From finished handshake to Hello, and from opened stream to complete request frame. Default 5 s.
    pub request_timeout: Duration,
    /// A stream that makes no progress for so long is reset. Default 20 s.
    pub stall_timeout: Duration,
    /// A connection that hears nothing at all is dropped after this. Default 30 s.
    pub idle_timeout: Duration,
    /// A session without any request is closed after this. Default 60 s: readers come back.
    pub session_timeout: Duration,
    /// Streams that one connection may have open. Default 256 (`network.md`), costing one small task each.
    pub max_streams: u16,
    /// Received and unread bytes of a connection that has no put admitted. Default 256 KiB: a few frames.
    pub idle_window_bytes: u64,
    /// The same while a put is admitted. Default 4 MiB: 80 MB/s at 50 ms. `max_puts` connections can have it.
    pub put_window_bytes: u64,
    /// Received and unread bytes of a connection that we opened, where we asked for every byte. Default 16 MiB.
    pub client_window_bytes: u64,
    /// Received and unread bytes of one stream. Default 4 MiB, and never more than the connection's.
    pub stream_window_bytes: u64,
    /// Sent and unacknowledged bytes of one connection. Default 8 MiB: 160 MB/s at 50 ms.
    pub send_window_bytes: u64,
    /// Gets and proofs being served at once. Default 64; each holds two blocks of [`BLOCK_BYTES`] and, through its
    /// connection, up to `send_window_bytes`. More wait their turn.
    pub max_serving: usize,
    /// The part of them that one peer may have. Default 16: four busy peers fill the service, one cannot.
    pub max_serving_per_peer: usize,
    /// Puts being received at once. Default 16; each holds two blocks and its connection's `put_window_bytes`.
    pub max_puts: usize,
    /// The part of them that one peer may have. Default 4.
    pub max_puts_per_peer: usize,
    /// Requests per second of one peer, with a burst of twice as many. Default 20,000: small ranges are cheap.
    pub requests_per_second: u32,
    /// New connections per second from one IP address, or IPv6 network of 64 bits, with a burst of four times as many. Default 100.
    pub connections_per_second: u32,
    /// Bytes per second served to one peer, in KiB. Default none: QUIC shares a link fairly between connections;
    /// set it where traffic costs money.
    pub egress_kib_per_second: Option<u32>,
    /// Largest UDP payload in bytes that we look for when we send over a network. Default 1472 for Ethernet; larger only
    /// inside one data centre. Between two ends on one machine [`LOOPBACK_DATAGRAM_BYTES`] is used.
    pub max_datagram_bytes: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_connections_per_ip: 256,
            max_connections_per_peer: 16,
            max_handshakes: 512,
            max_handshakes_per_ip: 128,
            prove_first: true,
            retry_above: 64,
            handshake_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(30),
            session_timeout: Duration::from_secs(60),
            max_streams: 256,
            idle_window_bytes: 256 * KIB,
            put_window_bytes: 4 * MIB,
            client_window_bytes: 16 * MIB,
            stream_window_bytes: 4 * MIB,
            send_window_bytes: 8 * MIB,
            max_serving: 64,
            max_serving_per_peer: 16,
            max_puts: 16,
            max_puts_per_peer: 4,
            requests_per_second: 20_000,
            connections_per_second: 100,
            egress_kib_per_second: None,
            max_datagram_bytes: 1472,
        }
    }
}

impl Limits {
    /// The defaults for devnets, demos and tests, where everybody has the same IP address.
    pub fn loopback() -> Self {
        let limits = Self::default();
        Self {
            max_connections_per_ip: limits.max_connections,
            max_handshakes_per_ip: limits.max_handshakes,
            connections_per_second: 2_000,
            ..limits
        }
    }

    /// The most memory that peers can make the service hold: about 1.0 GiB with the defaults, and only while 64 serving
    /// connections stop acknowledging at once.
    pub fn worst_case_bytes(&self) -> u64 {
        let block = BLOCK_BYTES as u64;
        let connections = self.max_connections as u64 * (CONNECTION_BYTES + self.idle_window_bytes);
        let serving = self.max_serving as u64 * (2 * block + self.send_window_bytes);
        let puts = self.max_puts as u64 * (4 * block + self.put_window_bytes);
        connections + serving + puts + self.max_handshakes as u64 * 32 * KIB
    }
}

/// Limits of one [`Fetcher`](crate::fetch::Fetcher) run, and how it works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchLimits {
    /// Bytes of a shard in one work unit, a multiple of 16 KiB. Default 1 MiB.
    pub unit_bytes: u64,
    /// Bytes of all shards in flight: asked for and not yet taken by the caller. Default 32 MiB, so that with as much
    /// in QUIC's windows a fetch stays below 64 MiB. It bounds how many units run at once.
    pub in_flight_bytes: u64,
    /// The shortest time without progress after which another provider is tried. Default 150 ms; the timer grows
    /// with the measured round trips.
    pub hedge_after: Duration,
    /// The part of all bytes that may be asked for twice, in percent. Default 10: hedging cannot amplify overload.
    pub hedge_percent: u32,
    /// A provider that makes no progress for so long has failed. Default 10 s.
    pub stall_timeout: Duration,
    /// Failures after which a provider is left alone for the rest of the run. Default 3; a wrong byte counts as all.
    pub max_strikes: u32,
}

impl Default for FetchLimits {
    fn default() -> Self {
        Self {
            unit_bytes: MIB,
            in_flight_bytes: 32 * MIB,
            hedge_after: Duration::from_millis(150),
            hedge_percent: 10,
            stall_timeout: Duration::from_secs(10),
            max_strikes: 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_bound_is_the_documented_one() {
        let gib = Limits::default().worst_case_bytes() as f64 / (1u64 << 30) as f64;
        assert!(
            (0.9..1.1).contains(&gib),
            "documented as about 1.0 GiB, is {gib:.2}"
        );
    }
}
