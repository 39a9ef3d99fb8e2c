//! What may cost an honest provider something: nothing that others do, and no outage.
//!
//! An honest provider of a run keeps its sectors, proves them, and publishes no deal that it could not begin in time. So it loses no
//! deposit, no pledge and no collateral, whatever validators, disks, network, clocks and relays do: least of all while no round of
//! the beacon comes, when nothing can be proven and nothing sealed (`beacon.md` §3, `threat-model.md` V5). There are two exceptions,
//! each counted:
//!
//! * what censors cost ([`super::checks`]): a sector whose post they kept out pays the fee of a fault until it is proven again;
//! * a publication that waited. It is signed in time, but the chain stands, or a censor makes the blocks, and when it comes into one
//!   there is no time left to begin the deal. Its timer counts lit epochs from then on, so nothing puts it off, and nothing in a
//!   transaction lets its sender take it back by the epoch. Such a deal is lost ([`crate::report::Report::late`]).

use chain_lite::account::{DealId, ProviderId};
use chain_lite::events::{Event as ChainEvent, PenaltyReason};

use chain_lite::query;

use super::{Outcome, World, text};
use crate::actors::COMMIT_BEFORE;

impl World<'_> {
    /// The honest provider with this number.
    pub(super) fn honest_one(&self, provider: ProviderId) -> Option<usize> {
        let of = |p: &usize| self.actors.providers[*p].id == Some(provider);
        self.honest.iter().copied().find(of)
    }

    /// Whether there was no time left to begin a deal when it was published. A provider that has to prove just then commits one block
    /// later, for it does one thing at a time.
    fn is_too_late(&self, deal: &DealId) -> Outcome<bool> {
        let view = query::deal(self.replay.state(), deal).map_err(text)?;
        let view = view.ok_or_else(|| format!("{deal} is published and not there"))?;
        let left = view.proposal.start.next().since(view.published);
        Ok(left.0 <= COMMIT_BEFORE.0 + 1)
    }

    /// Whether an event charges an honest provider for what is no fault of its own.
    pub(super) fn costs_the_honest_nothing(&mut self, height: u64, event: &ChainEvent) -> Outcome {
        let whose = |world: &Self, provider| world.honest_one(provider);
        let hit = match event {
            ChainEvent::DealPublished { deal, provider, .. } => {
                if let Some(whose) = self.honest_one(*provider) {
                    let is_late = self.is_too_late(deal)?;
                    self.deals.insert(*deal, (whose, is_late));
                }
                None
            }
            ChainEvent::DealCompleted { deal } => {
                self.report.kept += u64::from(self.deals.remove(deal).is_some());
                None
            }
            ChainEvent::DealSlashed { deal, .. } => {
                let (whose, is_late) = self.deals.remove(deal).unzip();
                self.report.late += u64::from(is_late == Some(true));
                whose.filter(|_| is_late == Some(false))
            }
            ChainEvent::PreCommitExpired { provider, .. }
            | ChainEvent::SectorTerminated { provider, .. } => whose(self, *provider),
            ChainEvent::SectorRecovered { provider, sector } => {
                if let Some(whose) = whose(self, *provider) {
                    self.censored_out.remove(&(whose, *sector));
                }
                None
            }
            ChainEvent::FaultFee {
                provider, sector, ..
            } => whose(self, *provider).filter(|whose| {
                let excused = self.censored_out.contains(&(*whose, *sector));
                if excused {
                    self.excused_fees.insert((height, *whose));
                }
                !excused
            }),
            ChainEvent::Penalty {
                provider, reason, ..
            } => {
                let whose = whose(self, *provider);
                match reason {
                    // Everybody pays for a place in a block.
                    PenaltyReason::Fee => None,
                    PenaltyReason::Faults => {
                        whose.filter(|whose| !self.excused_fees.contains(&(height, *whose)))
                    }
                    PenaltyReason::Termination
                    | PenaltyReason::PreCommitExpired
                    | PenaltyReason::Disputed => whose,
                }
            }
            _ => None,
        };
        hit.map_or(Ok(()), |whose| {
            Err(format!(
                "block {height} charges the honest provider {whose}: {event:?}"
            ))
        })
    }
}
