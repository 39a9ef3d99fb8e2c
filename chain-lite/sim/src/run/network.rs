//! How messages go from one machine to another: late, twice, in another order, or not at all; and who learns that a connection broke.

use rand::Rng;

use super::{Event, World};
use crate::node::Message;

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
            self.deliver(from, to, sent, delay, message.clone());
        }
    }

    /// A message that was said when `sent` was counted comes after so many milliseconds, if the machine has not started anew by then.
    pub(super) fn deliver(
        &mut self,
        from: usize,
        to: usize,
        sent: u64,
        after: u64,
        message: Message,
    ) {
        let boots = self.machines[to].boots;
        let message = Box::new(message);
        self.at(
            after,
            Event::Deliver {
                to,
                boots,
                from,
                sent,
                message,
            },
        );
    }

    pub(super) fn broadcast(&mut self, from: usize, message: Message) {
        for to in 0..self.machines.len() {
            if self.reaches(from, to) {
                self.send(from, to, message.clone());
            }
        }
    }

    /// A message to one node. Who asks for blocks where nobody is learns that.
    pub(super) fn tell(&mut self, from: usize, to: usize, message: Message) {
        match message {
            Message::Request { id, .. }
                if self.machines[to].node.is_none() && self.side[from] == self.side[to] =>
            {
                let boots = self.machines[from].boots;
                let after = self.rng.gen_range(5..150);
                let refused = Event::Refused {
                    node: from,
                    boots,
                    request: id,
                };
                self.at(after, refused);
            }
            message => {
                if self.reaches(from, to) {
                    self.send(from, to, message);
                }
            }
        }
    }

    /// A process ends, and its connections with it: those whom it reached learn that.
    pub(super) fn hang_up(&mut self, gone: usize) {
        for node in self.neighbours(gone) {
            self.disconnect(node, gone);
        }
    }

    /// Who does not hear of each other for long takes the connection for broken.
    pub(super) fn break_off(&mut self, partition: u64) {
        if self.report.troubles[4] != partition {
            return;
        }
        for node in 0..self.machines.len() {
            for other in 0..self.machines.len() {
                if self.side[node] != self.side[other] && self.machines[node].node.is_some() {
                    self.disconnect(node, other);
                }
            }
        }
    }

    fn disconnect(&mut self, node: usize, from: usize) {
        let boots = self.machines[node].boots;
        let after = self.rng.gen_range(5..150);
        self.at(after, Event::Disconnected { node, boots, from });
    }

    /// A node is connected: it and its neighbours tell each other where they are.
    pub(super) fn connect(&mut self, new: usize) {
        let mut both = self.neighbours(new);
        both.push(new);
        for node in both {
            let boots = self.machines[node].boots;
            let after = self.rng.gen_range(50..1_000);
            self.at(after, Event::Connected { node, boots });
        }
    }

    /// Who runs on this machine's side.
    fn neighbours(&self, of: usize) -> Vec<usize> {
        let is_near =
            |n: &usize| self.machines[*n].node.is_some() && self.side[*n] == self.side[of];
        let others = (0..self.machines.len()).filter(|n| *n != of);
        others.filter(is_near).collect()
    }
}
