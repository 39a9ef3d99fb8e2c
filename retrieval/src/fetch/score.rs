//! How well providers did: moving averages that rank them for the next unit. Pure.
//!
//! Walk: [`super::plan`] asks for the expected time of a unit; [`super::Fetcher`] keeps the scores between fetches.
//! Spec: `network.md` §2.4: averages of round trip to first byte, speed and success with alpha 0.5, as Lassie's.

use std::{collections::HashMap, time::Duration};

use crate::peer::PeerAddr;

/// Weight of the newest sample.
const ALPHA: f64 = 0.5;
/// Providers remembered; the worst known are forgotten first.
const MAX_SCORES: usize = 4096;

/// What is known of one provider.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Seconds from asking to the first byte.
    first_byte_s: Option<f64>,
    /// Bytes per second while units were in flight.
    rate: Option<f64>,
    /// 0 (always failed) to 1 (never).
    success: f64,
}

impl Default for Score {
    fn default() -> Self {
        Self {
            first_byte_s: None,
            rate: None,
            success: 1.0,
        }
    }
}

fn blend(old: Option<f64>, new: f64) -> Option<f64> {
    Some(old.map_or(new, |old| ALPHA * new + (1.0 - ALPHA) * old))
}

impl Score {
    /// A unit arrived.
    pub fn on_unit(&mut self, first_byte: Duration, rate_bytes_per_s: f64) {
        self.first_byte_s = blend(self.first_byte_s, first_byte.as_secs_f64());
        self.rate = blend(self.rate, rate_bytes_per_s.max(1.0));
        self.success = ALPHA + (1.0 - ALPHA) * self.success;
    }

    /// A unit failed or came too late to be used.
    pub fn on_failure(&mut self) {
        self.success *= 1.0 - ALPHA;
    }

    /// Expected time until `bytes` more (all that is outstanding, and the new unit) are here; zero when nothing is
    /// known, so that newcomers are tried. A provider that fails often counts as that much slower.
    pub fn expected(&self, bytes: u64) -> Duration {
        let Some(rate) = self.rate else {
            return self.penalty();
        };
        let seconds = self.first_byte_s.unwrap_or(0.0) + bytes as f64 / rate;
        Duration::from_secs_f64((seconds / self.success.max(0.05)).min(3_600.0)) + self.penalty()
    }

    fn penalty(&self) -> Duration {
        Duration::from_secs_f64(1.0 - self.success)
    }

    /// Bytes per second, when measured.
    pub fn rate(&self) -> Option<f64> {
        self.rate
    }

    /// Share of successes, 0 to 1.
    pub fn success(&self) -> f64 {
        self.success
    }
}

/// The scores of many providers, bounded.
#[derive(Clone, Debug, Default)]
pub struct Scores(HashMap<PeerAddr, Score>);

impl Scores {
    /// What is known of a provider; the default for a stranger.
    pub fn get(&self, peer: &PeerAddr) -> Score {
        self.0.get(peer).copied().unwrap_or_default()
    }

    /// Remembers a score.
    pub fn set(&mut self, peer: PeerAddr, score: Score) {
        if self.0.len() >= MAX_SCORES && !self.0.contains_key(&peer) {
            let worst = self
                .0
                .iter()
                .min_by(|a, b| a.1.success.total_cmp(&b.1.success))
                .map(|(peer, _)| *peer);
            worst.map(|worst| self.0.remove(&worst));
        }
        self.0.insert(peer, score);
    }

    /// All known providers.
    pub fn iter(&self) -> impl Iterator<Item = (&PeerAddr, &Score)> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faster_and_more_reliable_ranks_first() {
        let ms = Duration::from_millis;
        let (mut fast, mut slow) = (Score::default(), Score::default());
        fast.on_unit(ms(1), 1e9);
        slow.on_unit(ms(50), 1e6);
        assert!(fast.expected(1 << 20) < slow.expected(1 << 20));
        for _ in 0..6 {
            fast.on_failure();
        }
        assert!(fast.expected(1 << 20) > slow.expected(1 << 16));
        for _ in 0..20 {
            fast.on_unit(ms(1), 1e9);
        }
        assert!(
            fast.expected(1 << 20) < slow.expected(1 << 20),
            "a provider can win its name back"
        );
    }

    #[test]
    fn scores_are_bounded_and_finite() {
        let mut scores = Scores::default();
        for port in 0..5_000u16 {
            let addr = std::net::SocketAddr::from(([10, 0, 0, 1], port));
            scores.set(
                PeerAddr {
                    peer: crate::peer::PeerId([1; 32]),
                    addr,
                },
                Score::default(),
            );
        }
        assert_eq!(scores.iter().count(), MAX_SCORES);
        let mut hopeless = Score::default();
        hopeless.on_unit(Duration::MAX, 0.0);
        (0..1_000).for_each(|_| hopeless.on_failure());
        assert!(hopeless.expected(u64::MAX) <= Duration::from_secs(3_601));
    }
}
