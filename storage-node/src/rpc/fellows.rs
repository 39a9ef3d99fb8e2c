//! Telling a devnet's other validators of the leases of the clock that this one was told of.
//!
//! Walk: [`super`]'s handlers answer for their own node and then [`Fellows::tell`] the others, so that a lease makes enough
//! validators wait. Leases exist on devnets only; transactions travel over [`crate::chain::gossip`].
//!
//! Bounds: [`QUEUE`] messages a fellow; more are dropped, as are those for a fellow that is away. Nothing is lost by that: a
//! lease is renewed while the proof runs.

use chain_lite::account::ProviderId;
use chain_lite::units::Epoch;
use std::time::Duration;
use tokio::sync::mpsc;

use crate::chain::ChainClient;

/// Messages that wait for one fellow.
const QUEUE: usize = 1024;

/// What a fellow is told.
#[derive(Clone, Debug)]
pub enum Told {
    /// A lease that we gave.
    Hold(ProviderId, Epoch, Duration),
    /// A lease given back.
    Release(ProviderId),
}

/// The other validators.
#[derive(Clone, Debug, Default)]
pub struct Fellows(Vec<mpsc::Sender<Told>>);

impl Fellows {
    /// Nodes at these JSON-RPC addresses, each with a task of its own that ends with the last clone. Needs a tokio runtime.
    pub fn at(urls: impl IntoIterator<Item = String>) -> Self {
        let start = |url| {
            let (sender, receiver) = mpsc::channel(QUEUE);
            tokio::spawn(pass_on(url, receiver));
            sender
        };
        Self(urls.into_iter().map(start).collect())
    }

    /// Tells all of them, without waiting.
    pub fn tell(&self, told: &Told) {
        for fellow in &self.0 {
            if fellow.try_send(told.clone()).is_err() {
                tracing::debug!("a fellow validator is slow or away; it is told no more for now");
            }
        }
    }
}

async fn pass_on(url: String, mut receiver: mpsc::Receiver<Told>) {
    let mut client: Option<ChainClient> = None;
    while let Some(told) = receiver.recv().await {
        if client.is_none() {
            client = ChainClient::connect(&url).await.ok();
        }
        let Some(chain) = &client else {
            continue;
        };
        let done = match told {
            Told::Hold(provider, before, ttl) => chain.hold_clock(provider, before, ttl).await,
            Told::Release(provider) => chain.release_clock(provider).await,
        };
        if let Err(error) = done {
            tracing::debug!(%error, url, "a fellow validator did not take it");
        }
    }
}
