//! How messages go from one machine to another: late, twice, in another order, or not at all; and how who is behind catches up.

use rand::Rng;
use rand::seq::SliceRandom;

use super::{Event, World};
use crate::node::Message;

/// How often nodes tell their height.
pub(super) const STATUS_MS: u64 = 2_000;

impl World<'_> {
    pub(super) fn reaches(&mut self, from: usize, to: usize) -> bool {
        if from == to || self.side[from] != self.side[to] {
            return false;
        }
        let lost = self.rng.gen_bool(self.loss);
        self.report.lost += u64::from(lost);
        !lost
    }

    pub(super) fn send(&mut self, from: usize, to: usize, message: Message) {
        let copies = 1 + usize::from(self.loss > 0.0 && self.rng.gen_bool(0.05));
        self.report.doubled += copies as u64 - 1;
        let sent = self.order;
        for _ in 0..copies {
            let delay = self.rng.gen_range(5..150)
                + u64::from(self.rng.gen_bool(0.02)) * self.rng.gen_range(0..2_000);
            let boots = self.machines[to].boots;
            let message = Box::new(message.clone());
            self.at(
                delay,
                Event::Deliver {
                    to,
                    boots,
                    from,
                    sent,
                    message,
                },
            );
        }
    }

    pub(super) fn broadcast(&mut self, from: usize, message: Message) {
        for to in 0..self.machines.len() {
            if self.reaches(from, to) {
                self.send(from, to, message.clone());
            }
        }
    }

    /// Says where a node is; who is ahead and reachable sends what it lacks.
    pub(super) fn status(&mut self, node: usize, boots: u64) {
        let Some(height) = self.running(node, boots).map(|n| n.ledger().tip().height) else {
            return;
        };
        let mut others: Vec<usize> = (0..self.machines.len()).collect();
        others.shuffle(&mut self.rng);
        let next = chain_lite_bft::context::Height(height + 1);
        for other in others {
            let ahead = self.machines[other]
                .node
                .as_ref()
                .filter(|n| n.ledger().tip().height > height);
            let values = ahead.and_then(|n| n.decided_values(next));
            if let Some(values) = values
                && self.reaches(other, node)
            {
                self.send(other, node, Message::Values(values));
                break;
            }
        }
        self.at(STATUS_MS, Event::Status { node, boots });
    }
}
