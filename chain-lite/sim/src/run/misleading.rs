//! What a validator says to nodes that catch up, and that is not so (`threat-model.md` V12): tips that it does not have, and answers
//! with anything but the blocks.

use chain_lite_bft::context::{ChainContext, Height};
use malachite_sync::{RawDecidedValue, ValueResponse};
use rand::Rng;
use rand::seq::SliceRandom;

use super::World;
use crate::node::Message;

type Values = Vec<RawDecidedValue<ChainContext>>;

impl World<'_> {
    /// Whether a machine lies to who catches up.
    pub(super) fn is_misleader(&self, machine: usize) -> bool {
        let (last, of_all) = (self.scenario.misleaders, self.scenario.validators);
        (of_all.saturating_sub(last)..of_all).contains(&machine)
    }

    /// What becomes of what a machine is to say; nothing, if it is silent.
    pub(super) fn as_said(&mut self, from: usize, message: Message) -> Option<Message> {
        if !self.is_misleader(from) {
            return Some(message);
        }
        match message {
            Message::Status { tip, first } if self.rng.gen_bool(0.05) => {
                let more = [1, 20, u64::MAX].choose(&mut self.rng).copied();
                let tip = Height(tip.0.saturating_add(more.unwrap_or(1)));
                Some(Message::Status { tip, first })
            }
            Message::Response {
                id,
                answer: Some(answer),
            } => {
                // Half of the time it serves as others do.
                let manner = self.rng.gen_range(0..16);
                let answer = match manner {
                    0 => return None,
                    1 => None,
                    _ => Some(self.instead(from, manner, answer)),
                };
                Some(Message::Response { id, answer })
            }
            other => Some(other),
        }
    }

    fn instead(
        &mut self,
        from: usize,
        manner: u8,
        mut answer: ValueResponse<ChainContext>,
    ) -> ValueResponse<ChainContext> {
        let own = self.machines[from].node.as_ref();
        let newest = own.map(|n| n.decided(n.ledger().tip().height));
        let newest: Values = newest.into_iter().flatten().collect();
        let start = answer.start_height;
        if answer.values.is_empty() {
            // Asked for what it only claims to have, it makes something up.
            answer.values.extend(newest.first().cloned());
            answer
                .values
                .iter_mut()
                .for_each(|v| v.certificate.height = start);
            return answer;
        }
        let which = self.rng.gen_range(0..answer.values.len());
        let value = &mut answer.values[which];
        let signatures = &mut value.certificate.commit_signatures;
        match manner {
            2 => answer.values.clear(),
            3 => value.value_bytes = self.rng.r#gen::<[u8; 32]>().to_vec().into(),
            4 => signatures.iter_mut().for_each(|s| s.signature.0[0] ^= 1),
            5 => signatures.truncate(1),
            // A sound block, of another height.
            6 => {
                let other = newest.first().map(|v| v.value_bytes.clone());
                value.value_bytes = other.unwrap_or_default();
            }
            // A sound certificate, of another block: of another height, that is.
            7 => {
                if let Some(other) = newest.first() {
                    let height = value.certificate.height;
                    *value = other.clone();
                    value.certificate.height = height;
                }
            }
            8 => answer.start_height = Height(start.0 + 1),
            _ => {}
        }
        answer
    }
}
