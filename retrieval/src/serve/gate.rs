//! Who may come in, and how much each may have: counters and caps, no I/O.
//!
//! Threats N1 (an unproven address gets a stateless answer under load), N4 (half-open and idle floods), R4 (one peer
//! cannot take the service from the others). An address stands for its [`network_of`]. Memory: one entry per address and per peer that is connected, and one
//! rate cell of about 100 bytes per peer and address that finished a handshake within the last half minute.

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex},
    time::Duration,
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{
    endpoint::lock,
    limits::Limits,
    peer::{PeerId, network_of},
};

/// The least burst of the egress bucket: one block with its hashes.
const MIN_EGRESS_BURST_KIB: u32 = 512;

/// What to do with a first packet.
#[derive(Debug)]
pub(crate) enum Admission {
    /// Shake hands, holding this place.
    Handshake(Place),
    /// Answer with Retry and keep nothing.
    ProveAddress,
    /// Say nothing.
    Drop,
    /// Say no.
    Refuse,
}

/// The caps and the counters of one service.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) limits: Limits,
    counts: Mutex<Counts>,
    serving: Arc<Semaphore>,
    puts: Arc<Semaphore>,
    requests: DefaultKeyedRateLimiter<PeerId>,
    connections: DefaultKeyedRateLimiter<IpAddr>,
    egress: Option<DefaultKeyedRateLimiter<PeerId>>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: usize,
    handshakes: usize,
    per_ip: HashMap<IpAddr, IpCount>,
    per_peer: HashMap<PeerId, PeerCount>,
}

#[derive(Clone, Copy, Debug, Default)]
struct IpCount {
    connections: usize,
    handshakes: usize,
}

#[derive(Debug)]
struct PeerCount {
    connections: usize,
    serving: Arc<Semaphore>,
    puts: Arc<Semaphore>,
}

impl Gate {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        let per_second = |n: u32, burst: u32| {
            let n = NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
            Quota::per_second(n).allow_burst(NonZeroU32::new(burst).unwrap_or(n).max(n))
        };
        Arc::new(Self {
            counts: Mutex::default(),
            serving: Arc::new(Semaphore::new(limits.max_serving)),
            puts: Arc::new(Semaphore::new(limits.max_puts)),
            requests: RateLimiter::keyed(per_second(
                limits.requests_per_second,
                limits.requests_per_second.saturating_mul(2),
            )),
            connections: RateLimiter::keyed(per_second(
                limits.connections_per_second,
                limits.connections_per_second.saturating_mul(4),
            )),
            egress: limits
                .egress_kib_per_second
                .map(|kib| RateLimiter::keyed(per_second(kib, kib.max(MIN_EGRESS_BURST_KIB)))),
            limits,
        })
    }

    /// Judges a first packet from `ip`. Only proven addresses are counted against their caps: a spoofed packet must not
    /// use up the share of its victim.
    pub(crate) fn admit(self: &Arc<Self>, ip: IpAddr, proven: bool) -> Admission {
        let mut counts = lock(&self.counts);
        let must_prove = self.limits.prove_first && !ip.is_loopback();
        if !proven && (must_prove || counts.handshakes >= self.limits.retry_above) {
            return Admission::ProveAddress;
        }
        if counts.handshakes >= self.limits.max_handshakes {
            return Admission::Drop;
        }
        let ip = network_of(ip);
        let from_ip = counts.per_ip.get(&ip).copied().unwrap_or_default();
        if from_ip.handshakes >= self.limits.max_handshakes_per_ip {
            return Admission::Drop;
        }
        if counts.connections >= self.limits.max_connections
            || from_ip.connections >= self.limits.max_connections_per_ip
        {
            return Admission::Refuse;
        }
        if proven && self.connections.check_key(&ip).is_err() {
            return Admission::Refuse;
        }
        counts.connections += 1;
        counts.handshakes += 1;
        let from_ip = counts.per_ip.entry(ip).or_default();
        from_ip.connections += 1;
        from_ip.handshakes += 1;
        Admission::Handshake(Place {
            gate: self.clone(),
            ip,
            shaking: true,
        })
    }

    /// A finished handshake: the peer is known now.
    pub(crate) fn enter(self: &Arc<Self>, peer: PeerId, mut place: Place) -> Option<Visit> {
        place.end_handshake();
        let mut counts = lock(&self.counts);
        let count = counts.per_peer.entry(peer).or_insert_with(|| PeerCount {
            connections: 0,
            serving: Arc::new(Semaphore::new(self.limits.max_serving_per_peer)),
            puts: Arc::new(Semaphore::new(self.limits.max_puts_per_peer)),
        });
        if count.connections >= self.limits.max_connections_per_peer {
            return None;
        }
        count.connections += 1;
        let (serving, puts) = (count.serving.clone(), count.puts.clone());
        Some(Visit {
            gate: self.clone(),
            peer,
            serving,
            puts,
            place: Some(place),
        })
    }

    /// Drops rate cells that are full again.
    pub(crate) fn forget_idle_peers(&self) {
        self.requests.retain_recent();
        self.connections.retain_recent();
        if let Some(egress) = &self.egress {
            egress.retain_recent();
        }
    }
}

/// A counted connection; gives its place back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    gate: Arc<Gate>,
    ip: IpAddr,
    shaking: bool,
}

impl Place {
    fn end_handshake(&mut self) {
        if std::mem::take(&mut self.shaking) {
            let mut counts = lock(&self.gate.counts);
            counts.handshakes -= 1;
            if let Some(n) = counts.per_ip.get_mut(&self.ip) {
                n.handshakes -= 1;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.end_handshake();
        let mut counts = lock(&self.gate.counts);
        counts.connections -= 1;
        if let Some(n) = counts.per_ip.get_mut(&self.ip) {
            n.connections -= 1;
            if n.connections == 0 {
                counts.per_ip.remove(&self.ip);
            }
        }
    }
}

/// One connection of a known peer.
#[derive(Debug)]
pub(crate) struct Visit {
    gate: Arc<Gate>,
    pub(crate) peer: PeerId,
    serving: Arc<Semaphore>,
    puts: Arc<Semaphore>,
    place: Option<Place>,
}

/// Room to work on one request.
#[derive(Debug)]
pub(crate) struct Turn {
    _own: OwnedSemaphorePermit,
    _shared: OwnedSemaphorePermit,
}

impl Visit {
    /// Gives up its place at the door, for who bounds in another way how many visits there are.
    pub(crate) fn leave_door(&mut self) {
        self.place = None;
    }

    /// Counts a request; `false` when the peer asks too often.
    pub(crate) fn may_ask(&self) -> bool {
        self.gate.requests.check_key(&self.peer).is_ok()
    }

    /// Waits for a place to serve from. First the peer's own share, then the service's, both first come first served:
    /// so at most its share of one peer's requests stands in the common queue, and everybody's turn comes.
    pub(crate) async fn serving_turn(&self, patience: Duration) -> Option<Turn> {
        turn(&self.serving, &self.gate.serving, patience).await
    }

    /// Waits for a place to receive a put.
    pub(crate) async fn put_turn(&self, patience: Duration) -> Option<Turn> {
        turn(&self.puts, &self.gate.puts, patience).await
    }

    /// Waits until this many bytes may be sent.
    pub(crate) async fn pace(&self, bytes: usize) {
        let Some(egress) = &self.gate.egress else {
            return;
        };
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        if let Some(kib) = NonZeroU32::new(kib.min(MIN_EGRESS_BURST_KIB)) {
            // Never more than the least burst, so the bucket can always hold it.
            let _ = egress.until_key_n_ready(&self.peer, kib).await;
        }
    }
}

async fn turn(own: &Arc<Semaphore>, shared: &Arc<Semaphore>, patience: Duration) -> Option<Turn> {
    let both = async {
        let own = own.clone().acquire_owned().await.ok()?;
        let shared = shared.clone().acquire_owned().await.ok()?;
        Some(Turn {
            _own: own,
            _shared: shared,
        })
    };
    timeout(patience, both).await.ok().flatten()
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut counts = lock(&self.gate.counts);
        if let Some(count) = counts.per_peer.get_mut(&self.peer) {
            count.connections -= 1;
            if count.connections == 0 {
                counts.per_peer.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn handshake(gate: &Arc<Gate>, ip: IpAddr, proven: bool) -> Place {
        match gate.admit(ip, proven) {
            Admission::Handshake(place) => place,
            other => panic!("admitted expected, got {other:?}"),
        }
    }

    #[test]
    fn tm_n1_unproven_addresses_must_prove_themselves_under_load() {
        let limits = Limits {
            retry_above: 2,
            prove_first: false,
            ..Limits::default()
        };
        let gate = Gate::new(limits);
        let _held = [
            handshake(&gate, ip(1), false),
            handshake(&gate, ip(2), false),
        ];
        assert!(matches!(gate.admit(ip(3), false), Admission::ProveAddress));
        handshake(&gate, ip(3), true);
    }

    #[test]
    fn tm_n1_addresses_off_this_machine_prove_themselves_first() {
        let gate = Gate::new(Limits::default());
        assert!(matches!(gate.admit(ip(1), false), Admission::ProveAddress));
        handshake(&gate, ip(1), true);
        handshake(&gate, [127, 0, 0, 1].into(), false);
        let link_local = [0xfe80, 0, 0, 0, 0, 0, 0, 1].into();
        assert!(matches!(
            gate.admit(link_local, false),
            Admission::ProveAddress
        ));
    }

    #[test]
    fn tm_n4_caps_hold_and_places_come_back() {
        let limits = Limits {
            max_connections: 3,
            max_connections_per_ip: 2,
            max_handshakes: 3,
            ..Limits::default()
        };
        let gate = Gate::new(limits);
        let first = handshake(&gate, ip(1), true);
        let _second = handshake(&gate, ip(1), true);
        assert!(
            matches!(gate.admit(ip(1), true), Admission::Refuse),
            "per address"
        );
        let _third = handshake(&gate, ip(2), true);
        assert!(
            matches!(gate.admit(ip(3), true), Admission::Drop),
            "handshakes"
        );
        drop(first);
        handshake(&gate, ip(1), true);
        assert_eq!(lock(&gate.counts).per_ip.len(), 2);
    }

    #[test]
    fn tm_n4_one_network_that_never_finishes_its_handshakes_leaves_room_for_others() {
        let gate = Gate::new(Limits {
            max_handshakes: 4,
            max_handshakes_per_ip: 2,
            ..Limits::default()
        });
        let v6 = |low| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, low]);
        let first = handshake(&gate, v6(1), true);
        let _second = handshake(&gate, v6(2), true);
        assert!(matches!(gate.admit(v6(3), true), Admission::Drop));
        let _other = handshake(&gate, ip(1), true);
        let mut visit = gate.enter(PeerId([1; 32]), first).expect("in");
        let _third = handshake(&gate, v6(3), true);
        assert_eq!(lock(&gate.counts).connections, 4);
        visit.leave_door();
        assert_eq!(lock(&gate.counts).connections, 3);
    }

    #[test]
    fn tm_n4_an_ipv6_network_is_counted_as_one_address() {
        let gate = Gate::new(Limits {
            max_connections_per_ip: 2,
            ..Limits::default()
        });
        let v6 = |network, low| IpAddr::from([0x2001, 0xdb8, 0, network, low, 0, 0, low]);
        let _first = handshake(&gate, v6(0, 1), true);
        let _second = handshake(&gate, v6(0, 2), true);
        assert!(matches!(gate.admit(v6(0, 3), true), Admission::Refuse));
        handshake(&gate, v6(1, 3), true);
    }

    #[test]
    fn tm_n4_one_peer_has_few_connections_and_leaves_nothing_behind() {
        let gate = Gate::new(Limits {
            max_connections_per_peer: 1,
            ..Limits::default()
        });
        let visit = gate
            .enter(PeerId([1; 32]), handshake(&gate, ip(1), true))
            .expect("the first");
        assert!(
            gate.enter(PeerId([1; 32]), handshake(&gate, ip(1), true))
                .is_none(),
            "the second"
        );
        drop(visit);
        let counts = lock(&gate.counts);
        assert_eq!((counts.connections, counts.handshakes), (0, 0));
        assert!(counts.per_ip.is_empty() && counts.per_peer.is_empty());
    }

    #[tokio::test]
    async fn tm_r4_a_greedy_peer_leaves_turns_for_others() {
        let limits = Limits {
            max_serving: 4,
            max_serving_per_peer: 3,
            ..Limits::default()
        };
        let gate = Gate::new(limits);
        let greedy = gate
            .enter(PeerId([1; 32]), handshake(&gate, ip(1), true))
            .expect("in");
        let modest = gate
            .enter(PeerId([2; 32]), handshake(&gate, ip(2), true))
            .expect("in");
        let mut held = Vec::new();
        while let Some(turn) = greedy.serving_turn(Duration::from_millis(10)).await {
            held.push(turn);
        }
        assert_eq!(held.len(), 3);
        assert!(
            modest
                .serving_turn(Duration::from_millis(10))
                .await
                .is_some()
        );
    }

    #[tokio::test]
    async fn tm_r4_requests_and_egress_are_paced_per_peer() {
        let limits = Limits {
            requests_per_second: 1,
            egress_kib_per_second: Some(512),
            ..Limits::default()
        };
        let gate = Gate::new(limits);
        let greedy = gate
            .enter(PeerId([1; 32]), handshake(&gate, ip(1), true))
            .expect("in");
        let modest = gate
            .enter(PeerId([2; 32]), handshake(&gate, ip(2), true))
            .expect("in");
        let begun = std::time::Instant::now();
        assert!((0..2).all(|_| greedy.may_ask()), "the burst");
        // One more for each second that this takes, however long.
        let more = (0..1_000).filter(|_| greedy.may_ask()).count() as u64;
        assert!(more <= begun.elapsed().as_secs(), "{more} more");
        assert!(modest.may_ask());
        let begin = std::time::Instant::now();
        for _ in 0..3 {
            greedy.pace(256 * 1024).await;
        }
        assert!(
            begin.elapsed() >= Duration::from_millis(300),
            "768 KiB at 512 KiB/s, 512 KiB of burst"
        );
        let at_once = timeout(Duration::ZERO, modest.pace(256 * 1024)).await;
        assert!(at_once.is_ok(), "the others do not wait");
    }
}
