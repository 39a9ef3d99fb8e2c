//! Moments: what a block's figures follow from, shown while the block is applied, to whoever explains them.
//!
//! Walk: [`crate::execute::apply_watched`] applies a block as [`crate::execute::apply`] does and shows these on the way; the
//! auditor's replay ([`crate::audit`]) hands them to its visitor, and [`crate::explain`] computes figures from them again. A block
//! may do many things to one provider, in several epochs and transactions; the states at its borders do not tell them apart, and
//! a moment does. `chain.md` §20: events say what happened; a moment says what it happened to.
//!
//! A watcher reads and changes nothing, so a block's writes, receipts and events are the same with and without one. Cost:
//! nothing where nobody watches, else a call for each event, claim, charge and close.

use crate::events::Event;
use crate::provider::Provider;
use crate::sector::deadline::Window;
use crate::state::{KvRead, Network};
use crate::units::Epoch;

/// The state in the middle of a block, and what comes next.
pub struct Moment<'a> {
    /// The leaves as written so far. A rule saves what it has in hand at its end: within it, its provider is newer in
    /// [`Moment::what`] than here, and the partition that it closes is still as it was.
    pub state: &'a dyn KvRead,
    /// The totals as they are.
    pub net: &'a Network,
    /// The epoch that begins; of transactions, the block's.
    pub now: Epoch,
    /// How many events there were: the index of the next one. Less than before after a message that failed, because its events are
    /// taken back: what was shown from this index on did not happen.
    pub at: usize,
    /// What comes next.
    pub what: What<'a>,
}

/// What comes next.
#[derive(Clone, Copy, Debug)]
pub enum What<'a> {
    /// The emission of an epoch.
    Emission,
    /// A provider's reward is claimed; its record before that.
    Claim(&'a Provider),
    /// Who found a wrong proof is paid; the provider's record before that.
    Share(&'a Provider),
    /// A provider is charged; its record before that. The charge's `Penalty` is the next one of this provider.
    Charge(&'a Provider),
    /// A deadline closes for good; its sectors and their proofs are in [`Moment::state`] as they were until now.
    Close {
        /// Whose, as it was before.
        provider: &'a Provider,
        /// Which deadline.
        deadline: u16,
        /// The occurrence that ends; outages may have lengthened it.
        window: Window,
    },
    /// This event is told.
    Event(&'a Event),
}
