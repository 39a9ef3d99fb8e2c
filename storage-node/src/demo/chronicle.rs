//! Everything the chain said during the demo, kept in order, so that each claim of the report is counted and not guessed.
//!
//! Walk: listens from the first block on; [`super::story`] waits on it and [`super::report`] counts from it.

use std::sync::{Arc, Mutex, PoisonError};

use chain_lite::account::ProviderId;
use chain_lite::events::Event;
use chain_lite::units::{Epoch, TokenAmount};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::chain::ChainClient;

/// The events so far, each with its epoch.
pub struct Chronicle {
    events: Arc<Mutex<Vec<(Epoch, Event)>>>,
    seen: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Chronicle {
    /// Listens from the first block on; `hear` is called for each event once, in order.
    pub fn listen(chain: &ChainClient, hear: impl Fn(Epoch, &Event) + Send + 'static) -> Self {
        let events = Arc::new(Mutex::new(Vec::new()));
        let (tell, seen) = watch::channel(0);
        let mut blocks = chain.subscribe_events(1);
        let kept = Arc::clone(&events);
        let task = tokio::spawn(async move {
            while let Some(block) = blocks.recv().await {
                let mut all = kept.lock().unwrap_or_else(PoisonError::into_inner);
                for record in block.events {
                    hear(block.head.epoch, &record.event);
                    all.push((block.head.epoch, record.event));
                }
                let count = all.len();
                drop(all);
                tell.send_replace(count);
            }
        });
        Self { events, seen, task }
    }

    /// Looks at everything so far.
    pub fn with<T>(&self, look: impl FnOnce(&[(Epoch, Event)]) -> T) -> T {
        look(&self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The first event that `wanted` accepts, waiting for it if need be; `None` when the chain has gone.
    pub async fn wait<T>(&self, mut wanted: impl FnMut(Epoch, &Event) -> Option<T>) -> Option<T> {
        let mut seen = self.seen.clone();
        let mut next = 0;
        loop {
            let found = self.with(|all| {
                let fresh = &all[next..];
                next = all.len();
                fresh
                    .iter()
                    .find_map(|(epoch, event)| wanted(*epoch, event))
            });
            if found.is_some() {
                return found;
            }
            seen.changed().await.ok()?;
        }
    }

    /// WindowPoSt proofs accepted, of one provider or of all.
    pub fn posts(&self, of: Option<ProviderId>) -> u64 {
        self.with(|all| {
            let mine = |p: &ProviderId| of.is_none_or(|of| of == *p);
            let accepted = |event: &Event| matches!(event, Event::PostAccepted { provider, .. } if mine(provider));
            all.iter().filter(|(_, event)| accepted(event)).count() as u64
        })
    }

    /// Rewards that a provider claimed, and what it was charged.
    pub fn money(&self, of: ProviderId) -> (TokenAmount, TokenAmount) {
        self.with(|all| {
            let (mut earned, mut charged) = (0u128, 0u128);
            for (_, event) in all {
                match event {
                    Event::Reward {
                        provider, claimed, ..
                    } if *provider == of => {
                        earned = earned.saturating_add(claimed.0);
                    }
                    Event::Penalty {
                        provider, amount, ..
                    } if *provider == of => {
                        charged = charged.saturating_add(amount.0);
                    }
                    _ => {}
                }
            }
            (TokenAmount(earned), TokenAmount(charged))
        })
    }
}

impl Drop for Chronicle {
    fn drop(&mut self) {
        self.task.abort();
    }
}
