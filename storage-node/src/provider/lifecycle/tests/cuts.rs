//! The provider's journal on a disk whose power fails: cut at every write, sync, rename and removal, and so is what comes after. Once
//! by itself, and once as the life of a sector writes it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use holdfast_sim::disk::SimDisk;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::provider::journal::{Damage, Journal, JournalError};
use crate::provider::worker::{COUNTER, WorkerError, sector_name};

const DIR: &str = "/provider/journal";
/// More changes than the story has.
const MOST_CHANGES: u64 = 24;

/// A sector's life in its record: each step is written before it is acted on, and the record goes with the sector.
fn live(disk: &SimDisk, promised: &mut Promised) -> Result<(), JournalError> {
    let journal = Journal::open_on(Arc::new(disk.clone()), Path::new(DIR))?;
    let (records, damage) = journal.load::<u64>()?;
    assert_eq!(damage, Damage::default());
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

/// Runs a story again and again until the power lets it end: cut at a change of so many, and then at a change of what comes after.
/// Gives how many cuts struck.
fn cut_twice<T: Default>(
    changes: u64,
    story: impl Fn(&SimDisk, &mut T) -> Result<(), JournalError>,
    has_ended: impl Fn(&T) -> bool,
) -> u64 {
    let mut cuts = 0;
    for first in 1..=changes {
        for second in 0..=changes {
            let (disk, mut told) = (SimDisk::default(), T::default());
            for (turn, cut) in [first, second, 0].into_iter().enumerate() {
                if cut > 0 {
                    disk.cut_at(disk.operations() + cut);
                }
                let done = story(&disk, &mut told);
                let dead = disk.is_dead();
                cuts += u64::from(dead);
                assert!(done.is_ok() || dead, "{first}, {second}: {done:?}");
                disk.crash(&mut ChaCha8Rng::seed_from_u64(
                    first * 1_000 + second * 3 + turn as u64,
                ));
            }
            assert!(has_ended(&told), "{first}, {second}");
        }
    }
    cuts
}

#[test]
fn tm_h1_the_providers_journal_keeps_what_it_promised_wherever_it_is_cut() {
    let cuts = cut_twice(MOST_CHANGES, live, |promised: &Promised| promised.gone);
    assert!(cuts > 200, "{cuts} cuts: nothing was struck");
}

const DEAL: DealId = DealId([1; 32]);

/// The chain as one provider meets it: it takes what is sent at once, and refuses nothing that is right.
#[derive(Default)]
struct Chain {
    now: u64,
    deal: Option<DealOnChain>,
    /// Every number ever pre-committed, with its replica.
    used: BTreeMap<SectorNumber, CommR>,
    precommits: BTreeMap<SectorNumber, Epoch>,
    sectors: BTreeMap<SectorNumber, SectorState>,
    /// The sector's time is over.
    expired: bool,
}

impl Chain {
    fn view(&self) -> ChainView {
        ChainView {
            deals: self.deal.iter().map(|state| (DEAL, *state)).collect(),
            precommits: self.precommits.clone(),
            sectors: self.sectors.clone(),
            ..ChainView::default()
        }
    }

    fn take(&mut self, op: &Op, journal: &Journal) -> Result<(), JournalError> {
        match op {
            Op::Publish(_) => {
                assert!(self.deal.is_none(), "a deal was published twice");
                self.deal = Some(DealOnChain::Published {
                    begin_by: Epoch(250),
                });
            }
            Op::PreCommit(number, _) => {
                // What is sent was written down before.
                let (_, (records, _)) = journal.load_with::<SectorNumber, SectorRecord>(COUNTER)?;
                let record = records.into_iter().find(|(_, r)| r.number == *number);
                let (_, record) = record.expect("a record");
                assert!(
                    matches!(record.stage, Stage::PreCommitting(..)),
                    "{record:?}"
                );
                let comm_r = record.replica().expect("a replica").comm_r;
                let before = self.used.insert(*number, comm_r);
                assert!(before.is_none(), "{number} was pre-committed twice");
                assert_eq!(self.used.len(), 1, "one deal in two sectors");
                self.precommits.insert(*number, Epoch(self.now));
            }
            Op::ProveCommit(number, _) => {
                assert!(self.precommits.remove(number).is_some());
                self.sectors.insert(*number, SectorState::Active);
                self.deal = Some(DealOnChain::Active);
            }
            other => panic!("nothing else is due: {other:?}"),
        }
        Ok(())
    }
}

/// As the worker does it: want of room is waited for, and anything else ends the run.
fn save<T: borsh::BorshSerialize>(
    journal: &Journal,
    name: &str,
    value: &T,
) -> Result<(), JournalError> {
    loop {
        match journal.put(name, value) {
            Err(error) if error.passes_with_space() => {}
            ended => return ended,
        }
    }
}

/// One run of the provider, from its start to the end of the sector or to a power cut: the machine's commands are carried out as the
/// worker does it, in order, a record on the disk before the next command runs.
fn serve(disk: &SimDisk, chain: &mut Chain) -> Result<(), JournalError> {
    let journal = Journal::open_on(Arc::new(disk.clone()), Path::new(DIR))?;
    let (counter, found) = journal.load_with::<SectorNumber, SectorRecord>(COUNTER)?;
    let (records, damage) = found;
    assert_eq!(damage, Damage::default());
    let records: Vec<SectorRecord> = records.into_iter().map(|(_, record)| record).collect();
    for number in chain.precommits.keys().chain(chain.sectors.keys()) {
        let kept = records.iter().find(|record| record.number == *number);
        let kept = kept.and_then(SectorRecord::replica).map(|r| &r.comm_r);
        assert_eq!(kept, chain.used.get(number), "{number} is on the chain");
    }
    let deals = if chain.expired {
        vec![]
    } else {
        vec![deal(1, 2048, 250, 2_000)]
    };
    let counter = counter.unwrap_or_default();
    let mut machine = Lifecycle::restore(rules(), settings(), deals, records, counter);
    while !chain.expired || machine.sectors().next().is_some() {
        chain.now += 1;
        assert!(
            chain.now < 300,
            "it stands still: {:?}",
            machine.sectors().next()
        );
        if !chain.sectors.is_empty() && chain.now.is_multiple_of(20) {
            chain.sectors.clear();
            (chain.deal, chain.expired) = (Some(DealOnChain::Over), true);
        }
        let mut events = VecDeque::from([Event::Chain(chain.view())]);
        while let Some(event) = events.pop_front() {
            for command in machine.handle(Epoch(chain.now), event) {
                match command {
                    Command::SaveSector(record) => {
                        save(&journal, &sector_name(record.number), &record)?;
                    }
                    Command::SaveCounter(next) => save(&journal, COUNTER, &next)?,
                    Command::ForgetSector(number) => journal.remove(&sector_name(number))?,
                    Command::AskSlot => events.push_back(Event::SlotGranted),
                    Command::DrawTicket(number, ticket_epoch) => {
                        let ticket = Ticket([chain.now as u8; 32]);
                        let sealing = Sealing {
                            ticket_epoch,
                            ticket,
                        };
                        events.push_back(Event::Ticket(number, sealing));
                    }
                    Command::Seal(sector) => {
                        let Some(Stage::Sealing(of)) = machine.sector(sector).map(|r| &r.stage)
                        else {
                            panic!("sealing without a ticket");
                        };
                        events.push_back(Event::Replicated {
                            sector,
                            comm_d: CommD([2; 32]),
                            comm_r: CommR(of.ticket.0),
                            spent: SealTimes::default(),
                        });
                    }
                    Command::Prove(sector, _) => events.push_back(Event::Proven {
                        sector,
                        proof: vec![3; 192],
                        spent: SealTimes::default(),
                    }),
                    Command::Submit(op) => {
                        chain.take(&op, &journal)?;
                        events.push_back(Event::Chain(chain.view()));
                        events.push_back(Event::Outcome(op.key(), Outcome::Accepted));
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

#[test]
fn tm_h1_a_sectors_life_is_one_sector_wherever_its_records_are_cut() {
    // Whole, it makes this many changes.
    let disk = SimDisk::default();
    serve(&disk, &mut Chain::default()).expect("nothing fails");
    let all = disk.operations();
    assert!(all > 20, "{all} changes: that is no life");
    let is_one = |chain: &Chain| chain.expired && chain.used.len() == 1;
    let cuts = cut_twice(all, serve, is_one);
    assert!(cuts > 2 * all, "{cuts} cuts: nothing was struck");
}

/// Each change that a sector's life makes in its journal fails once, for want of room or because the disk is broken. Want of room in
/// a file passes by itself; whatever else fails ends the run with what failed and what to do, and the next run goes on with the same
/// sector, whether the power failed in between or not.
#[test]
fn tm_h4_tm_h5_a_sectors_life_goes_on_as_one_sector_after_a_record_that_failed() {
    let disk = SimDisk::default();
    serve(&disk, &mut Chain::default()).expect("nothing fails");
    let all = disk.operations();
    let kinds = [
        io::ErrorKind::StorageFull,
        io::ErrorKind::Other,
        io::ErrorKind::PermissionDenied,
    ];
    for (kind, power_fails) in kinds
        .iter()
        .flat_map(|kind| [(*kind, false), (*kind, true)])
    {
        let (mut ended, mut went_on) = (0, 0);
        for at in 1..=all {
            let what = format!("{kind:?}, power: {power_fails}, at {at}");
            let (disk, mut chain) = (SimDisk::default(), Chain::default());
            disk.fail_at(at, kind);
            match serve(&disk, &mut chain) {
                Ok(()) => went_on += 1,
                Err(error) => {
                    ended += 1;
                    let said = WorkerError::from(error).to_string();
                    for word in [DIR, "start", "goes on", "fault"] {
                        assert!(said.contains(word), "{what}: no {word:?} in {said}");
                    }
                    match power_fails {
                        true => disk.crash(&mut ChaCha8Rng::seed_from_u64(at)),
                        false => disk.restart(),
                    }
                    serve(&disk, &mut chain).expect(&what);
                }
            }
            assert!(chain.expired && chain.used.len() == 1, "{what}");
        }
        let waits = kind == io::ErrorKind::StorageFull;
        assert!(ended > 4, "{kind:?}: {ended} of {all} ended it");
        assert!(went_on > 0 || !waits, "{kind:?}: it waits for room");
    }
}
