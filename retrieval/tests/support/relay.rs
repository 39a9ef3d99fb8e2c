//! A bad network in user space: a UDP relay that delays, reorders (by jitter) and loses datagrams. Needs no privileges.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::net::UdpSocket;

/// How bad.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// One way.
    pub delay: Duration,
    /// Added at random to each datagram, so that some overtake others.
    pub jitter: Duration,
    /// Lost datagrams per thousand.
    pub loss_permille: u32,
}

/// Starts a relay in front of `server` for one client; returns its address.
pub async fn start(server: SocketAddr, weather: Weather, seed: u64) -> SocketAddr {
    let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let addr = front.local_addr().unwrap();
    let client = Arc::new(std::sync::Mutex::new(None));
    let (to_server, to_client) = (back.clone(), front.clone());
    let seen = client.clone();
    pump(front, weather, seed, move |bytes, from| {
        *seen.lock().unwrap() = Some(from);
        let (socket, bytes) = (to_server.clone(), bytes.to_vec());
        Some((socket, bytes, server))
    });
    pump(back, weather, seed ^ 1, move |bytes, _| {
        let client = (*client.lock().unwrap())?;
        Some((to_client.clone(), bytes.to_vec(), client))
    });
    addr
}

/// A small generator, so that a failing run can be repeated with its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below.max(1)
    }
}

fn pump(
    socket: Arc<UdpSocket>,
    weather: Weather,
    seed: u64,
    route: impl Fn(&[u8], SocketAddr) -> Option<(Arc<UdpSocket>, Vec<u8>, SocketAddr)> + Send + 'static,
) {
    tokio::spawn(async move {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut buffer = vec![0; 65_536];
        while let Ok((n, from)) = socket.recv_from(&mut buffer).await {
            if dice.roll(1000) < u64::from(weather.loss_permille) {
                continue;
            }
            let jitter = Duration::from_micros(dice.roll(weather.jitter.as_micros() as u64 + 1));
            let due = Instant::now() + weather.delay + jitter;
            let Some((out, bytes, to)) = route(&buffer[..n], from) else {
                continue;
            };
            tokio::spawn(async move {
                tokio::time::sleep_until(due.into()).await;
                let _ = out.send_to(&bytes, to).await;
            });
        }
    });
}
