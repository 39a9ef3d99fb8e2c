//! Lit and dark epochs: an outage of the chain or of the beacon stops the timers, and so it punishes nobody.
//!
//! Spec: `beacon.md` §3 "Missing rounds". Epoch `x` is **lit** if it has a block after whose beacon entries the newest known
//! round is at most `POST_LOOKBACK` epochs old; else it is **dark**. Deadline windows, pre-commitments, the start of deals, dispute
//! windows, the age of faults and the closing of payment channels count lit epochs only. A timer that falls due with dark epochs
//! inside is put off by that many, with no other effect, and so on until enough lit epochs have passed.
//!
//! Walk: [`crate::execute::apply`] calls [`record_dark`] before an epoch's own work; the rules ask [`passed`] and [`due_at`].
//!
//! Bytes: one leaf for each run of dark epochs, keyed by the first epoch after it, with all dark epochs up to there. So the
//! number of dark epochs up to any epoch is one short range read, and nothing at all while there was no outage, as under the
//! logical clock. Runs stay for ever: an outage is history that an auditor wants, and indexes are recomputed from them.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::state::{KvRead, Network, decode, key};
use crate::units::{Epoch, EpochCount};

/// A run of dark epochs, from here until the epoch in its key.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct DarkRun {
    /// Its first epoch.
    pub from: Epoch,
    /// Dark epochs of the chain up to its end.
    pub total: u64,
}

/// Dark epochs up to and including `epoch`, as far as they are known.
fn dark_up_to(state: &dyn KvRead, net: &Network, epoch: Epoch) -> Result<u64, StoreError> {
    if net.dark == 0 {
        return Ok(0);
    }
    let (_, end) = key::prefix_range(&key::dark_runs());
    let next = state.range(&key::dark_run(epoch.next()), &end, 1)?;
    let Some((at, bytes)) = next.first() else {
        return Ok(net.dark);
    };
    let until = key::parse_dark_run(at)
        .ok_or_else(|| StoreError::corrupt(at, "not a key of a dark run"))?;
    let run: DarkRun = decode(at, bytes)?;
    let before = run.total.saturating_sub(until.since(run.from).0);
    Ok(before + epoch.next().since(run.from).0)
}

/// Dark epochs before `epoch`, as far as they are known.
pub(crate) fn dark_before(
    state: &dyn KvRead,
    net: &Network,
    epoch: Epoch,
) -> Result<u64, StoreError> {
    match epoch.0.checked_sub(1) {
        Some(last) => dark_up_to(state, net, Epoch(last)),
        None => Ok(0),
    }
}

/// Lit epochs after `since`, up to and including `until`.
pub fn passed(
    state: &dyn KvRead,
    net: &Network,
    since: Epoch,
    until: Epoch,
) -> Result<EpochCount, StoreError> {
    let dark = dark_up_to(state, net, until)? - dark_up_to(state, net, since.min(until))?;
    Ok(EpochCount(until.since(since).0.saturating_sub(dark)))
}

/// Lit epochs that a timer of `span`, set at `since`, still lacks at `now`: it is over when there is none.
pub fn lacking(
    state: &dyn KvRead,
    net: &Network,
    (since, span): (Epoch, EpochCount),
    now: Epoch,
) -> Result<EpochCount, StoreError> {
    let passed = passed(state, net, since, now)?;
    Ok(EpochCount(span.0.saturating_sub(passed.0)))
}

/// The epoch at which a timer of `span`, set at `since`, stands in its index, given all that is dark up to `now`; it has not
/// fired yet. At first that is `since + span`; whenever it falls due too early, it moves on by what it lacks.
pub fn due_at(
    state: &dyn KvRead,
    net: &Network,
    (since, span): (Epoch, EpochCount),
    now: Epoch,
) -> Result<Epoch, StoreError> {
    let mut due = since.after(span);
    while due <= now {
        let left = lacking(state, net, (since, span), due)?;
        if left.0 == 0 {
            break;
        }
        due = due.after(left);
    }
    Ok(due)
}

/// The run that a dark epoch makes or extends: the key that goes, the key that comes, and its value.
pub(crate) fn record_dark(
    state: &dyn KvRead,
    net: &mut Network,
    epoch: Epoch,
) -> Result<(Option<Vec<u8>>, Vec<u8>, DarkRun), StoreError> {
    net.dark += 1;
    let last = key::dark_run(epoch);
    let extended: Option<DarkRun> = crate::state::read(state, &last)?;
    let run = DarkRun {
        from: extended.map_or(epoch, |run| run.from),
        total: net.dark,
    };
    Ok((extended.map(|_| last), key::dark_run(epoch.next()), run))
}

/// The newest runs of dark epochs of a state of which only some leaves are known, as an audit bundle shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// First epoch, and the first one after, ascending.
    runs: Vec<(Epoch, Epoch)>,
    /// Nothing is known of epochs before this one.
    since: Epoch,
}

impl Runs {
    /// The runs among these leaves that reach back from the newest without a gap: each leaf has the sum of all before it, and the
    /// newest has the state's total. Nothing is known if the newest is missing.
    pub fn of(state: &dyn KvRead, net: &Network) -> Result<Self, StoreError> {
        let (from, until) = key::prefix_range(&key::dark_runs());
        let mut shown = state.range(&from, &until, usize::MAX)?;
        let (mut runs, mut before) = (Vec::new(), net.dark);
        while before > 0 {
            let Some((at, bytes)) = shown.pop() else {
                break;
            };
            let until = key::parse_dark_run(&at)
                .ok_or_else(|| StoreError::corrupt(&at, "not a key of a dark run"))?;
            let run: DarkRun = decode(&at, &bytes)?;
            if run.total != before {
                break;
            }
            before = before.saturating_sub(until.since(run.from).0);
            runs.push((run.from, until));
        }
        runs.reverse();
        let since = match (before, runs.first()) {
            (0, _) => Epoch(0),
            (_, Some((from, _))) => *from,
            (_, None) => net.epoch.next(),
        };
        Ok(Self { runs, since })
    }

    /// Dark epochs in `[from, until)`; `None` where that is not known.
    pub fn between(&self, from: Epoch, until: Epoch) -> Option<u64> {
        if from < self.since {
            return None;
        }
        let inside = |(a, b): &(Epoch, Epoch)| (*b).min(until).since((*a).max(from)).0;
        Some(self.runs.iter().map(inside).sum())
    }

    /// Lit epochs in `[from, until)`; `None` where that is not known.
    pub fn lit(&self, from: Epoch, until: Epoch) -> Option<u64> {
        let dark = self.between(from, until)?;
        Some(until.since(from).0.saturating_sub(dark))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::encode;
    use crate::state::MemoryState;

    proptest! {
        /// Counting by runs equals counting one by one, and a timer fires at the first epoch with enough lit ones.
        #[test]
        fn runs_count_like_epochs(
            dark in proptest::collection::vec(any::<bool>(), 1..80),
            since in 0u64..80, span in 1u64..40,
        ) {
            let (mut state, mut net) = (MemoryState::default(), Network::default());
            let last = dark.len() as u64;
            let mut fired = None;
            let lit = |from: u64, to: u64| (from + 1..=to).filter(|e| !dark[*e as usize - 1]).count() as u64;
            let timer = (Epoch(since), EpochCount(span));
            let mut entry = since + span;
            for now in 1..=last {
                if dark[now as usize - 1] {
                    let (gone, key, run) = record_dark(&state, &mut net, Epoch(now)).expect("memory");
                    if let Some(gone) = gone {
                        state.0.remove(&gone);
                    }
                    state.0.insert(key, encode(&run));
                }
                if now >= since {
                    prop_assert_eq!(passed(&state, &net, Epoch(since), Epoch(now)), Ok(EpochCount(lit(since, now))));
                    prop_assert_eq!(passed(&state, &net, Epoch(0), Epoch(now)), Ok(EpochCount(lit(0, now))));
                }
                // What `begin_epoch` does with the index.
                if fired.is_none() && entry <= now {
                    let left = lacking(&state, &net, timer, Epoch(now)).expect("memory").0;
                    if left == 0 { fired = Some(now) } else { entry = now + left }
                }
                if fired.is_none() {
                    prop_assert_eq!(due_at(&state, &net, timer, Epoch(now)), Ok(Epoch(entry)));
                }
            }
            // The leaves alone say the same, and a part of them says it of the newest epochs or nothing.
            net.epoch = Epoch(last);
            let runs = Runs::of(&state, &net).expect("memory");
            let (all, known) = (state.0.len(), runs.clone());
            let count = |from: u64| (from..=last).filter(|e| *e == 0 || !dark[*e as usize - 1]).count() as u64;
            for from in 0..=last {
                prop_assert_eq!(runs.lit(Epoch(from), Epoch(last + 1)), Some(count(from)));
            }
            for gone in 0..all {
                let mut part = state.clone();
                let key = part.0.keys().nth(gone).expect("one of them").clone();
                part.0.remove(&key);
                let runs = Runs::of(&part, &net).expect("memory");
                for from in 0..=last {
                    let found = runs.lit(Epoch(from), Epoch(last + 1));
                    prop_assert!(found.is_none() || found == known.lit(Epoch(from), Epoch(last + 1)));
                }
                prop_assert_eq!(runs.lit(Epoch(0), Epoch(last + 1)), None);
            }
            let first = (since + 1..=last).find(|now| lit(since, *now) >= span && now >= &(since + span));
            // It never fires early; and it fires at that epoch, or a dark one right behind.
            prop_assert!(fired.is_none() || lit(since, fired.unwrap_or(0)) >= span);
            prop_assert_eq!(fired, first);
        }
    }
}
