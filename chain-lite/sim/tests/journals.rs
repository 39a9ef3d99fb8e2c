//! The provider's journal on a disk whose power fails: cut at every write, sync, rename and removal, and so is what comes after.

use std::path::Path;
use std::sync::Arc;

use holdfast_sim::disk::SimDisk;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use storage_node::provider::journal::{Damage, Journal};

const DIR: &str = "/provider/journal";
/// More changes than the story has.
const MOST_CHANGES: u64 = 24;

/// A sector's life in its record: each step is written before it is acted on, and the record goes with the sector.
fn live(disk: &SimDisk, promised: &mut Promised) -> anyhow::Result<()> {
    let journal = Journal::open_on(Arc::new(disk.clone()), Path::new(DIR))?;
    let (records, damage) = journal.load::<u64>()?;
    anyhow::ensure!(damage == Damage::default(), "damage: {damage:?}");
    let found: Vec<u64> = records.into_iter().map(|(_, step)| step).collect();
    promised.check(&found);
    if promised.gone {
        return Ok(());
    }
    for step in found.first().map_or(0, |step| step + 1)..3 {
        promised.begun = Some(step);
        journal.put("sector-1", &step)?;
        (promised.kept, promised.begun) = (Some(step), None);
    }
    promised.going = true;
    journal.remove("sector-1")?;
    promised.gone = true;
    Ok(())
}

/// What was promised, and what was under way when the power failed.
#[derive(Default)]
struct Promised {
    kept: Option<u64>,
    begun: Option<u64>,
    going: bool,
    gone: bool,
}

impl Promised {
    fn check(&mut self, found: &[u64]) {
        assert!(found.len() <= 1);
        let found = found.first().copied();
        let sound = match (self.gone, self.going) {
            (true, _) => found.is_none(),
            (false, true) => found.is_none() || found == self.kept,
            (false, false) => found == self.kept || (self.begun.is_some() && found == self.begun),
        };
        let (kept, begun) = (self.kept, self.begun);
        assert!(
            sound,
            "{found:?} is there; kept {kept:?}, begun {begun:?}, going {}, gone {}",
            self.going, self.gone
        );
        if self.going && found.is_none() {
            self.gone = true;
        }
        if !self.going {
            (self.kept, self.begun) = (found, None);
        }
    }
}

#[test]
fn tm_h1_the_providers_journal_keeps_what_it_promised_wherever_it_is_cut() {
    let mut cuts = 0;
    for first in 1..=MOST_CHANGES {
        for second in 0..=MOST_CHANGES {
            let (disk, mut promised) = (SimDisk::default(), Promised::default());
            for (turn, cut) in [first, second, 0].into_iter().enumerate() {
                if cut > 0 {
                    disk.cut_at(disk.operations() + cut);
                }
                let done = live(&disk, &mut promised);
                let dead = disk.is_dead();
                cuts += u64::from(dead);
                assert!(done.is_ok() || dead, "{first}, {second}: {done:?}");
                disk.crash(&mut ChaCha8Rng::seed_from_u64(
                    first * 100 + second * 3 + turn as u64,
                ));
            }
            assert!(promised.gone, "{first}, {second}");
        }
    }
    assert!(cuts > 200, "{cuts} cuts: nothing was struck");
}
