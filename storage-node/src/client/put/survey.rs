//! What the providers say, and which of them a group of pieces goes to.
//!
//! Part of [`super`]: asks every provider at once for a limited time, drops those that are too dear, remembers what this put
//! already gave to whom, and lets [`crate::object::placement`] draw.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chain_lite::account::ProviderId;
use chain_lite::units::{EpochCount, TokenAmount};
use prover::PaddedPieceSize;
use tokio::task::JoinSet;

use super::PutRequest;
use crate::client::encode::piece_limit;
use crate::client::{Chain, Client, ClientError, Network, ProviderRecord, ask};
use crate::object::erasure::Scheme;
use crate::object::placement::{Candidate, Holder, Need, PlacementError, place};
use crate::provider::ask::Ask;

/// What the providers say.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) offers: BTreeMap<ProviderId, Offer>,
    pub(super) refusals: Vec<String>,
    /// All providers of the chain, those included that do not answer: a holder keeps its neighbours out, silent or not.
    holders: BTreeMap<ProviderId, Holder>,
    /// How long deals will run.
    pub(super) duration: EpochCount,
}

#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) record: ProviderRecord,
    pub(super) ask: Ask,
    /// Epochs from "now" to the earliest start, when asked.
    pub(super) lead: EpochCount,
    /// Padded bytes of pieces that this put already gave it.
    pub(super) assigned_bytes: u64,
    pub(super) failures: u32,
}

impl Survey {
    /// Asks every provider for its terms, all at once.
    pub(super) async fn take<C: Chain, N: Network>(
        client: &Arc<Client<C, N>>,
        request: &PutRequest,
        duration: EpochCount,
    ) -> Result<Self, ClientError> {
        let dearest = request.max_price_per_gib.unwrap_or(TokenAmount(u128::MAX));
        let now = client.chain.now().await?.epoch;
        let mut asks = JoinSet::new();
        let mut refusals = Vec::new();
        let mut holders = BTreeMap::new();
        for record in client.chain.providers().await? {
            holders.insert(record.id, record.holder());
            if !record.bonded {
                let id = record.id;
                refusals.push(format!(
                    "provider {id} has no bond on chain for one more sector"
                ));
                continue;
            }
            let client = Arc::clone(client);
            asks.spawn(async move {
                let ask = ask(&client.network, &record).await;
                (record, ask)
            });
        }
        let mut survey = Self {
            offers: BTreeMap::new(),
            refusals,
            holders,
            duration,
        };
        while let Some(answer) = asks.join_next().await {
            match answer.map_err(ClientError::task)? {
                (record, Ok(ask)) if ask.price_per_gib > dearest => {
                    survey.refusals.push(format!(
                        "provider {} asks {} per GiB and epoch",
                        record.id,
                        ask.price_per_gib.in_tokens()
                    ));
                }
                (record, Ok(ask)) => {
                    let offer = Offer {
                        lead: ask.earliest_start.since(now),
                        record,
                        ask,
                        assigned_bytes: 0,
                        failures: 0,
                    };
                    survey.offers.insert(offer.record.id, offer);
                }
                (record, Err(reason)) => survey
                    .refusals
                    .push(format!("provider {}: {reason}", record.id)),
            }
        }
        survey.refusals.sort();
        Ok(survey)
    }

    /// Largest padded piece that n providers take.
    pub(super) fn max_piece(&self, n: usize, scheme: &Scheme) -> Result<u64, ClientError> {
        let mut sizes: Vec<u64> = self
            .offers
            .values()
            .map(|o| o.ask.sector_size.bytes())
            .collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        match sizes.get(n - 1) {
            Some(size) => Ok(piece_limit(*scheme, *size)),
            None => Err(self.too_few(PlacementError {
                wanted: n,
                found: sizes.len(),
                candidates: sizes.len() + self.refusals.len(),
                refused: self.refusals.len(),
                crowded: 0,
            })),
        }
    }

    pub(super) fn too_few(&self, error: PlacementError) -> ClientError {
        ClientError::Placement {
            error,
            refusals: self.refusals.clone(),
        }
    }

    /// Remembers why a provider did not take a shard.
    pub(super) fn failed(&mut self, provider: ProviderId, reason: &str) {
        if let Some(offer) = self.offers.get_mut(&provider) {
            offer.failures += 1;
        }
        let line = format!("provider {provider}: {reason}");
        if !self.refusals.contains(&line) {
            self.refusals.push(line);
        }
    }

    fn candidates(&self, size: PaddedPieceSize) -> Vec<Candidate> {
        let offers = self.offers.values();
        offers
            .map(|offer| offer.candidate(size, self.duration))
            .collect()
    }

    /// Chooses providers for a group and remembers what they were given.
    pub(super) fn choose(
        &mut self,
        count: usize,
        size: PaddedPieceSize,
        seed: &[u8; 32],
        excluded: &BTreeSet<u64>,
        keeping: &[ProviderId],
    ) -> Result<Vec<ProviderId>, ClientError> {
        let candidates = self.candidates(size);
        let need = Need {
            count,
            piece_size: size.bytes(),
            max_price: u128::MAX,
        };
        let taken = keeping.iter().filter_map(|id| self.holders.get(id));
        let taken: Vec<Holder> = taken.cloned().collect();
        let chosen = place(&candidates, &need, seed, excluded, &taken)
            .map_err(|error| self.too_few(error))?;
        for provider in &chosen {
            if let Some(offer) = self.offers.get_mut(&ProviderId(*provider)) {
                offer.assigned_bytes += size.bytes();
            }
        }
        Ok(chosen.into_iter().map(ProviderId).collect())
    }
}

impl Offer {
    fn candidate(&self, size: PaddedPieceSize, duration: EpochCount) -> Candidate {
        let lasts = (self.ask.min_duration..=self.ask.max_duration).contains(&duration);
        let free = self.ask.free_bytes.saturating_sub(self.assigned_bytes);
        let Holder { owner, hosts } = self.record.holder();
        Candidate {
            provider: self.record.id.0,
            owner,
            hosts,
            free_bytes: if lasts && self.ask.takes(size) {
                free
            } else {
                0
            },
            max_piece: self.ask.sector_size.bytes(),
            price: self.ask.price(size).0,
            failures: self.failures,
        }
    }
}
