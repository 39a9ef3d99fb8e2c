//! Telling a devnet's other validators of the leases of the clock that this one was told of.
//!
//! Walk: [`super`]'s handlers answer for their own node and then [`Fellows::tell`] the others, so that a lease makes enough
//! validators wait. Leases exist on devnets only; transactions travel over [`crate::chain::gossip`].
//!
//! Bounds: [`QUEUE`] messages a fellow; more are dropped, as are those for a fellow that is away. Nothing is lost by that: a
//! lease is renewed while the proof runs. Who must know that a lease is held asks with [`Fellows::ask`], in the same queue, so
//! that an older release never comes after it.

use chain_lite::account::ProviderId;
use chain_lite::units::Epoch;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

use crate::chain::ChainClient;

/// Messages that wait for one fellow.
const QUEUE: usize = 1024;

/// The name of the devnet's owner's own lease of the clock; the chain gives no provider this id.
pub const OWNER: ProviderId = ProviderId(0);
/// Names of the lease that lets fellows go on only as far as the devnet's own process follows; see `devnet::validators`. Two,
/// because a lease can be replaced by a later one only under another name. The chain gives no provider these ids.
pub const PACE: [ProviderId; 2] = [ProviderId(u64::MAX), ProviderId(u64::MAX - 1)];

/// Whether a lease of this name is the devnet's owner's and no provider's.
pub fn is_owners(name: ProviderId) -> bool {
    name == OWNER || PACE.contains(&name)
}

/// What a fellow is told.
#[derive(Clone, Debug)]
pub enum Told {
    /// A lease that we gave.
    Hold(ProviderId, Epoch, Duration),
    /// A lease given back.
    Release(ProviderId),
}

/// What a fellow is told, and who waits until it was taken.
type Message = (Told, Option<oneshot::Sender<()>>);

/// The other validators.
#[derive(Clone, Debug, Default)]
pub struct Fellows(Vec<mpsc::Sender<Message>>);

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
            if fellow.try_send((told.clone(), None)).is_err() {
                tracing::debug!("a fellow validator is slow or away; it is told no more for now");
            }
        }
    }

    /// Tells all of them and waits for each: how many took it.
    pub async fn ask(&self, told: &Told) -> usize {
        let mut answers = Vec::new();
        for fellow in &self.0 {
            let (done, answer) = oneshot::channel();
            if fellow.try_send((told.clone(), Some(done))).is_ok() {
                answers.push(answer);
            }
        }
        let mut took = 0;
        for answer in answers {
            took += usize::from(answer.await.is_ok());
        }
        took
    }
}

async fn pass_on(url: String, mut receiver: mpsc::Receiver<Message>) {
    let mut client: Option<ChainClient> = None;
    while let Some((told, waits)) = receiver.recv().await {
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
        match (done, waits) {
            // Whoever waited may have gone.
            (Ok(()), Some(waits)) => drop(waits.send(())),
            (Ok(()), None) => {}
            (Err(error), _) => {
                tracing::debug!(%error, url, "a fellow validator did not take it");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::bed_named;
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test(flavor = "multi_thread")]
    async fn a_lease_that_was_asked_for_is_held_by_all_that_answer_and_no_older_release_ends_it() {
        let (one, other) = (bed_named("one"), bed_named("other"));
        let servers = [one.serve(0, None).await, other.serve(0, None).await];
        let away = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let gone = format!("ws://{}", away.local_addr().expect("bound"));
        drop(away);
        let urls = servers.iter().map(super::super::RpcHandle::url);
        let fellows = Fellows::at(urls.clone().chain([gone]));
        let mut chains = Vec::new();
        for url in urls {
            chains.push(ChainClient::connect(&url).await.expect("serves"));
        }

        let hold = |name| Told::Hold(name, Epoch(0), LONG);
        for name in [OWNER, PACE[0], PACE[1]] {
            assert_eq!(fellows.ask(&hold(name)).await, 2, "{name}");
            // As when one pause follows another.
            fellows.tell(&Told::Release(name));
            assert_eq!(fellows.ask(&hold(name)).await, 2, "{name}");
            for chain in &chains {
                let leases = chain.leases().await.expect("answers");
                assert!(leases.iter().any(|lease| lease.provider == name), "{name}");
            }
        }
        // No provider has this name, so nobody may stop the clock in it.
        assert_eq!(fellows.ask(&hold(ProviderId(7))).await, 0);

        // Nothing is asked for a release, but the queue keeps its order: the next answer comes after it.
        for name in [OWNER, PACE[0], PACE[1]] {
            fellows.tell(&Told::Release(name));
        }
        assert_eq!(fellows.ask(&Told::Release(ProviderId(7))).await, 2);
        for chain in &chains {
            assert_eq!(chain.leases().await.expect("answers").len(), 0);
        }
    }
}
