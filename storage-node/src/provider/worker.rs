//! The worker: feeds the life cycle with what happens and does what it says.
//!
//! Place in the walk: the thin shell around [`super::lifecycle`]. It owns the journal of sectors, the transaction sender, the
//! bench and the clock lease; it decides nothing.
//!
//! One task runs [`Worker::run`]. For each new block it asks the transactions what became of them, then takes a picture of the
//! chain, shows it to the machine, and only then tells it the outcomes, so that an outcome is never older than the picture.
//! Commands are carried out in order; a record is on disk before the next command runs. Writes of records wait for the disk on
//! blocking threads, so that readers are served meanwhile. Heavy work goes there too and comes back as events. While the chain is away, jobs go on and their results wait.
//!
//! Crash: the machine is rebuilt from the journal, the sectors' folders and the chain. A lease that is not renewed runs out
//! by itself within [`LEASE`].
//!
//! A record that cannot be written: the machine has decided, and acting on what is not on disk would break promises. Want of room
//! passes, so the worker waits for it (H4). Anything else ends it, and with it the process: after a failed sync nobody knows what
//! the disk holds, and only the next start, which reads it back, can go on (H5); whoever watches over the process starts it
//! (`deploy/holdfast-provider.service`). A piece that cannot be kept only closes the store, because nothing was promised yet.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chain_lite::account::{DealId, ProviderId};
use chain_lite::codec;
use chain_lite::deal::DealStatus as ChainDealStatus;
use chain_lite::message::{Message, SignedProposal};
use chain_lite::sector::SectorState as ChainSectorState;
use chain_lite::units::Epoch;
use prover::{PostRandomness, SectorNumber, SectorSize, Seed, Ticket};
use retrieval::wire::MAX_PROPOSAL_BYTES;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::intake::Store;
use super::journal::{Journal, JournalError};
use super::lifecycle::{
    ChainView, Command, DealOnChain, DealRecord, Event, Lifecycle, Op, Sealing, SectorRecord,
    SectorState, SlotHolder, Stage, Window, WindowKey,
};
use super::prover::{Bench, JobError};
use super::slot::{Holder, POLL as SLOT_POLL, SlotGuard, SlotLine, SlotLook};
use super::status::{DealStatus, DueWindow, Money, StatusWatch, sector_status};
use super::tx::TxSender;
use crate::chain::{ChainClient, Head, PictureQuery, ProviderPicture};

/// Length of a clock lease; a provider that dies holds the clock no longer than this.
pub const LEASE: Duration = Duration::from_secs(12);
/// A lease is renewed this often.
const LEASE_RENEWAL: Duration = Duration::from_secs(4);
/// One unfinished job holds the clock no longer than this (`DESIGN.md` §5).
const LEASE_LIMIT: Duration = Duration::from_secs(600);
/// Without a new block, what is under way is looked at this often.
const IDLE_LOOK: Duration = Duration::from_secs(2);
/// Pause before a failed disk write is tried again.
const DISK_RETRY: Duration = Duration::from_secs(5);
/// Journal record of the next sector number.
pub const COUNTER: &str = "next-sector";

/// Why the worker ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The journal can no longer be trusted.
    #[error(
        "the provider ends, because it could not write down what it decided: {0}. What it promised is on disk, and the next start goes on from there; a window that closes before that is a fault"
    )]
    Journal(#[from] JournalError),
    /// The chain changed under us, or forgot us.
    #[error("{0}")]
    Chain(String),
    /// A thread that wrote a record ended abnormally.
    #[error("the writing of a record ended abnormally: {0}; please report this")]
    Task(String),
}

impl WorkerError {
    /// Whether it only waited for room when it was asked to stop: what was not written was not acted on.
    fn is_wait_cut_short(&self, stop: &CancellationToken) -> bool {
        stop.is_cancelled() && matches!(self, Self::Journal(error) if error.passes_with_space())
    }
}

/// What reaches the worker from outside.
#[derive(Debug)]
pub enum Input {
    /// Something happened.
    Event(Event),
    /// The slot we queued for.
    Slot(SlotGuard),
    /// Who has the slot that we queue for.
    SlotHeldBy(Holder),
    /// The operator declares a sector damaged; answered when it was taken in.
    Report(SectorNumber, oneshot::Sender<Result<(), String>>),
}

/// The parts a worker is made of.
pub struct Parts {
    /// Who we are on the chain.
    pub provider: ProviderId,
    /// The chain.
    pub chain: ChainClient,
    /// Our transactions; made before anything else looked at the chain.
    pub sender: TxSender,
    /// Sector records and the counter.
    pub journal: Arc<Journal>,
    /// Pieces.
    pub store: Store,
    /// Cores and folders.
    pub bench: Bench,
    /// The machine, restored.
    pub machine: Lifecycle,
    /// Shown to others.
    pub status: StatusWatch,
    /// What waits for sealing.
    pub backlog: Arc<Backlog>,
    /// Sends to `inbox`.
    pub outbox: mpsc::UnboundedSender<Input>,
    /// What reaches us.
    pub inbox: mpsc::UnboundedReceiver<Input>,
}

/// What waits for sealing, shared with those who promise more: the ask, intake and the treasury.
#[derive(Debug, Default)]
pub struct Backlog {
    /// Sectors that are queued or being sealed.
    sealing: AtomicU64,
    /// Padded bytes of pieces that have no sector yet.
    loose_bytes: AtomicU64,
}

impl Backlog {
    /// Sectors to seal if `more` padded bytes are accepted.
    pub fn sectors(&self, more: u64, size: SectorSize) -> u64 {
        let loose = self.loose_bytes.load(Ordering::Relaxed);
        let loose = loose.saturating_add(more).div_ceil(size.bytes().max(1));
        self.sealing.load(Ordering::Relaxed).saturating_add(loose)
    }

    fn set(&self, machine: &Lifecycle) {
        let (sealing, loose_bytes) = machine.backlog();
        self.sealing.store(sealing, Ordering::Relaxed);
        self.loose_bytes.store(loose_bytes, Ordering::Relaxed);
    }
}

/// The running worker.
pub struct Worker {
    parts: Parts,
    now: Epoch,
    height: u64,
    slot: Option<SlotGuard>,
    queueing: Option<JoinHandle<()>>,
    /// Which epoch is held back; read by the lease task.
    lease: watch::Sender<Option<Epoch>>,
    jobs: Vec<JoinHandle<()>>,
    /// Asks it to stop.
    stop: CancellationToken,
}

impl Worker {
    /// A worker that has seen nothing yet, and works until `stop`.
    pub fn new(parts: Parts, stop: CancellationToken) -> Self {
        let (lease, _) = watch::channel(None);
        Self {
            parts,
            now: Epoch(0),
            height: 0,
            slot: None,
            queueing: None,
            lease,
            jobs: Vec::new(),
            stop,
        }
    }

    /// Works until it is asked to stop, then lets running jobs end at their next durable stage.
    pub async fn run(mut self) -> Result<(), WorkerError> {
        let stop = self.stop.clone();
        let leases = tokio::spawn(keep_lease(
            self.parts.chain.clone(),
            self.parts.provider,
            self.lease.subscribe(),
        ));
        let mut heads = self.parts.chain.subscribe_heads();
        let result = loop {
            let step = tokio::select! {
                biased;
                () = stop.cancelled() => break Ok(()),
                input = self.parts.inbox.recv() => match input {
                    Some(input) => self.take_in(input).await,
                    None => break Ok(()),
                },
                _ = tokio::time::timeout(IDLE_LOOK, heads.changed()) => {
                    let head = *heads.borrow_and_update();
                    self.look(head).await
                }
            };
            match step {
                Ok(()) => {}
                Err(error) if error.is_wait_cut_short(&stop) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = &result {
            self.tell_why_it_ends(error);
        }
        self.wind_down(leases).await;
        result
    }

    /// Jobs at hand may take hours to end: until then whoever looks reads why, and nothing more is promised.
    fn tell_why_it_ends(&self, error: &WorkerError) {
        let text = error.to_string();
        self.parts.store.close(&text);
        self.parts.status.close(&text);
        self.note(text);
    }

    async fn wind_down(mut self, leases: JoinHandle<()>) {
        self.leave_line();
        // Jobs cannot be interrupted; what they finish is on disk. The clock stays held for them, so that a stop in the
        // middle of a proof is no fault either.
        for job in std::mem::take(&mut self.jobs) {
            // A job that panicked has told the log.
            let _ = job.await;
        }
        drop(self.lease);
        // The lease task ends when its channel does, after giving the lease back.
        let _ = tokio::time::timeout(Duration::from_secs(5), leases).await;
    }

    async fn take_in(&mut self, input: Input) -> Result<(), WorkerError> {
        match input {
            Input::Event(event) => self.feed(event).await,
            Input::Slot(guard) => {
                // A grant may cross our leaving the line and entering it again: then another task still queues.
                self.leave_line();
                self.slot = Some(guard);
                self.feed(Event::SlotGranted).await
            }
            Input::SlotHeldBy(holder) => {
                if self.queueing.is_none() {
                    return Ok(());
                }
                self.working_on(Some(format!(
                    "waits for the machine's sealing slot, which {holder} has"
                )));
                let ours = holder.is_of(self.parts.chain.chain_id());
                self.feed(Event::SlotHeldBy(match ours {
                    true => SlotHolder::OurChain,
                    false => SlotHolder::Stranger,
                }))
                .await
            }
            Input::Report(number, answer) => {
                let known = self.parts.machine.sector(number).is_some();
                // The asker may be gone; the report counts all the same.
                let _ = answer.send(if known {
                    Ok(())
                } else {
                    Err(format!("this provider has no sector {number}"))
                });
                self.feed(Event::ReportedDamaged(number)).await
            }
        }
    }

    /// Shows why no more pieces are taken, if so: once in the notes, and in the status for good.
    fn tell_if_closed(&self) {
        if let Some(text) = newly_closed(&self.parts.store, &self.parts.status) {
            self.note(text);
        }
    }

    /// A new block, or time to look anyway.
    async fn look(&mut self, head: Option<Head>) -> Result<(), WorkerError> {
        self.tell_if_closed();
        let height = head.map_or(self.height, |head| head.height);
        let ended = self.parts.sender.poll(height).await;
        let query = PictureQuery {
            deals: self
                .parts
                .machine
                .deals()
                .map(|record| record.deal)
                .collect(),
            sectors: self
                .parts
                .machine
                .sectors()
                .map(|record| record.number)
                .collect(),
        };
        match self.parts.chain.picture(self.parts.provider, &query).await {
            Ok(Some(picture)) => {
                self.now = picture.head.epoch;
                self.height = picture.head.height;
                for deal in &picture.deals {
                    self.parts.store.published(&deal.id);
                }
                self.feed(Event::Chain(view_of(&picture))).await?;
                self.show(&picture);
            }
            Ok(None) => {
                return Err(WorkerError::Chain(format!(
                    "the chain does not know provider {}; was it started anew?",
                    self.parts.provider
                )));
            }
            Err(error) if error.is_transient() => {
                self.parts
                    .status
                    .update(|status| status.chain_reachable = false);
            }
            Err(error @ crate::chain::ChainError::OtherChain { .. }) => {
                return Err(WorkerError::Chain(error.to_string()));
            }
            Err(error) => tracing::warn!(%error, "cannot see the chain"),
        }
        for (op, outcome) in ended {
            self.feed(Event::Outcome(op, outcome)).await?;
        }
        self.jobs.retain(|job| !job.is_finished());
        Ok(())
    }

    /// One event into the machine, and everything that follows from it.
    async fn feed(&mut self, event: Event) -> Result<(), WorkerError> {
        let mut events = std::collections::VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for command in self.parts.machine.handle(self.now, event) {
                if let Some(next) = self.execute(command).await? {
                    events.push_back(next);
                }
            }
        }
        self.parts.backlog.set(&self.parts.machine);
        Ok(())
    }

    /// Carries out one command; some end at once with an event.
    async fn execute(&mut self, command: Command) -> Result<Option<Event>, WorkerError> {
        match command {
            Command::SaveSector(record) => {
                let number = record.number;
                let is_committed = matches!(record.stage, Stage::Committed(_));
                self.save(sector_name(number), record).await?;
                if is_committed {
                    self.trim(number);
                }
            }
            Command::SaveCounter(next) => self.save(COUNTER.to_owned(), next).await?,
            Command::ForgetDeal(id) => {
                if let Err(error) = forget_deal(&self.parts.store, id).await {
                    self.note(format!("deal {id} stays on disk for now: {error}"));
                }
            }
            Command::ForgetSector(number) => {
                self.discard(number).await;
                if let Err(error) = remove(&self.parts.journal, sector_name(number)).await {
                    self.note(format!(
                        "the record of sector {number} stays for now: {error}"
                    ));
                }
            }
            Command::DiscardReplica(number) => self.discard(number).await,
            Command::AskSlot => self.queue_for_slot(),
            Command::ReturnSlot => {
                self.slot = None;
                self.leave_line();
            }
            Command::DrawTicket(number, epoch) => self.draw_ticket(number, epoch),
            Command::Seal(number) => self.seal(number),
            Command::Prove(number, epoch) => self.prove(number, epoch),
            Command::ProveWindow {
                key,
                challenge,
                sectors,
            } => self.prove_window(key, challenge, sectors),
            Command::Scrub { sector, full } => self.scrub(sector, full),
            Command::Rebuild(number) => self.rebuild(number),
            Command::Submit(op) => return self.submit(op).await,
            Command::Hold(before) => self.set_lease(Some(before)),
            Command::Release => self.set_lease(None),
            Command::Note(text) => self.note(text),
        }
        Ok(None)
    }

    fn note(&self, text: String) {
        tracing::info!(provider = %self.parts.provider, "{text}");
        self.parts.status.note(self.now, text);
    }

    fn set_lease(&self, before: Option<Epoch>) {
        self.lease.send_replace(before);
        self.parts
            .status
            .update(|status| status.holds_clock = before.is_some());
    }

    async fn save<T>(&self, name: String, value: T) -> Result<(), WorkerError>
    where
        T: borsh::BorshSerialize + Send + Sync + 'static,
    {
        let (journal, stop) = (&self.parts.journal, &self.stop);
        save(journal, name, value, DISK_RETRY, stop, |text| {
            self.note(text)
        })
        .await
    }

    async fn discard(&self, number: SectorNumber) {
        let bench = self.parts.bench.clone();
        if let Err(error) = off_the_runtime(move || bench.discard(number)).await {
            self.note(format!(
                "the files of sector {number} stay for now: {error}"
            ));
        }
    }

    /// Enters the line; a task looks until the slot is ours, and says whenever somebody else has it.
    fn queue_for_slot(&mut self) {
        self.leave_line();
        let shop = Arc::clone(self.parts.bench.shop());
        let chain = self.parts.chain.chain_id();
        let outbox = self.parts.outbox.clone();
        self.queueing = Some(tokio::spawn(async move {
            let mut line = SlotLine::enter(&shop, chain);
            let mut told = None;
            let mut failed = false;
            loop {
                match line.look() {
                    Ok(SlotLook::Granted(guard)) => {
                        // The worker is gone: the guard is dropped with the message.
                        let _ = outbox.send(Input::Slot(guard));
                        return;
                    }
                    Ok(SlotLook::HeldBy(holder)) => {
                        if told != Some(holder) {
                            told = Some(holder);
                            let _ = outbox.send(Input::SlotHeldBy(holder));
                        }
                    }
                    Ok(SlotLook::NotOurTurn) => {}
                    Err(error) if !failed => {
                        failed = true;
                        tracing::warn!(%error, "cannot look at the machine's sealing slot; trying on");
                    }
                    Err(_) => {}
                }
                tokio::time::sleep(SLOT_POLL).await;
            }
        }));
    }

    /// Ends the queueing task, if one runs. What it was just granted is dropped with it.
    fn leave_line(&mut self) {
        if let Some(queueing) = self.queueing.take() {
            queueing.abort();
        }
    }

    fn draw_ticket(&mut self, number: SectorNumber, epoch: Epoch) {
        let (chain, provider) = (self.parts.chain.clone(), self.parts.provider);
        self.spawn(async move {
            match chain.randomness(1, epoch, provider).await {
                Ok(value) => Event::Ticket(
                    number,
                    Sealing {
                        ticket_epoch: epoch,
                        ticket: Ticket(value),
                    },
                ),
                Err(error) => Event::SealFailed(number, format!("no ticket: {error}")),
            }
        });
    }

    fn seal(&mut self, number: SectorNumber) {
        let Some((record, pieces)) = self.sector_with_pieces(number) else {
            return;
        };
        self.working_on(Some(format!("sealing sector {number}")));
        let bench = self.parts.bench.clone();
        let progress = self.parts.status.sealing();
        self.spawn_blocking(
            move || match bench.seal(&record, &pieces, progress.as_ref()) {
                Ok((comm_d, comm_r, spent)) => Event::Replicated {
                    sector: number,
                    comm_d,
                    comm_r,
                    spent,
                },
                Err(error) => job_failed(number, &error),
            },
        );
    }

    fn prove(&mut self, number: SectorNumber, epoch: Epoch) {
        let Some(record) = self.parts.machine.sector(number).cloned() else {
            return;
        };
        self.working_on(Some(format!("proving sector {number}")));
        let (chain, provider) = (self.parts.chain.clone(), self.parts.provider);
        let bench = self.parts.bench.clone();
        let progress = self.parts.status.sealing();
        self.spawn(async move {
            let seed = match chain.randomness(2, epoch, provider).await {
                Ok(value) => Seed(value),
                Err(error) => return Event::SealFailed(number, format!("no seed: {error}")),
            };
            let work = move || bench.prove(&record, seed, progress.as_ref());
            match tokio::task::spawn_blocking(work).await {
                Ok(Ok((proof, spent))) => Event::Proven {
                    sector: number,
                    proof,
                    spent,
                },
                Ok(Err(error)) => job_failed(number, &error),
                Err(error) => Event::SealFailed(number, error.to_string()),
            }
        });
    }

    fn prove_window(
        &mut self,
        key: WindowKey,
        challenge: Epoch,
        sectors: Vec<(SectorNumber, prover::CommR)>,
    ) {
        let (chain, provider) = (self.parts.chain.clone(), self.parts.provider);
        let bench = self.parts.bench.clone();
        let progress = self.parts.status.posting();
        self.spawn(async move {
            let randomness = match chain.randomness(3, challenge, provider).await {
                Ok(value) => PostRandomness::masked(value),
                Err(error) => return Event::WindowFailed(key, format!("no challenge: {error}")),
            };
            let begun = Instant::now();
            let work = move || bench.prove_window(randomness, &sectors, progress.as_ref());
            let result = tokio::task::spawn_blocking(work).await;
            tracing::info!(%provider, deadline = key.deadline, ms = begun.elapsed().as_millis(), "window proof");
            match result {
                Ok(Ok(proof)) => Event::WindowProven(key, proof),
                Ok(Err(JobError::Post(::prover::post::proof::PostError::Faulty(sectors)))) => {
                    Event::WindowFaulty(key, sectors)
                }
                Ok(Err(error)) => Event::WindowFailed(key, error.to_string()),
                Err(error) => Event::WindowFailed(key, error.to_string()),
            }
        });
    }

    fn scrub(&mut self, number: SectorNumber, full: bool) {
        let Some(replica) = self
            .parts
            .machine
            .sector(number)
            .and_then(SectorRecord::replica)
            .copied()
        else {
            return;
        };
        let bench = self.parts.bench.clone();
        self.spawn_blocking(move || {
            Event::Scrubbed(number, bench.scrub(number, &replica.comm_r, full))
        });
    }

    /// Frees what only sealing needed. Left for later if it fails: it costs space, nothing else.
    fn trim(&mut self, number: SectorNumber) {
        let bench = self.parts.bench.clone();
        self.jobs.push(tokio::task::spawn_blocking(move || {
            if let Err(error) = bench.trim(number) {
                tracing::warn!(sector = number.0, %error, "sealing's files stay for now");
            }
        }));
    }

    fn rebuild(&mut self, number: SectorNumber) {
        let Some((record, pieces)) = self.sector_with_pieces(number) else {
            return;
        };
        self.working_on(Some(format!("resealing damaged sector {number}")));
        let bench = self.parts.bench.clone();
        let progress = self.parts.status.sealing();
        self.spawn_blocking(move || {
            let result = bench.rebuild(&record, &pieces, progress.as_ref());
            Event::Rebuilt(number, result.map_err(|error| error.to_string()))
        });
    }

    fn sector_with_pieces(
        &self,
        number: SectorNumber,
    ) -> Option<(SectorRecord, Vec<(DealRecord, PathBuf)>)> {
        let record = self.parts.machine.sector(number)?.clone();
        let pieces = record
            .deals
            .iter()
            .filter_map(|id| self.parts.machine.deal(id))
            .map(|deal| (deal.clone(), self.parts.store.path_of(&deal.blake3_root)))
            .collect();
        Some((record, pieces))
    }

    async fn submit(&mut self, op: Op) -> Result<Option<Event>, WorkerError> {
        let key = op.key();
        let Some(message) = self.message_of(op) else {
            return Ok(None);
        };
        let outcome = self
            .parts
            .sender
            .submit(key, vec![message], self.height)
            .await;
        Ok(outcome.map(|outcome| Event::Outcome(key, outcome)))
    }

    fn message_of(&self, op: Op) -> Option<Message> {
        let provider = self.parts.provider;
        Some(match op {
            Op::Publish(deals) => Message::PublishDeals {
                provider,
                proposals: deals.iter().filter_map(|id| self.proposal(id)).collect(),
            },
            Op::PreCommit(number, expiration) => {
                let record = self.parts.machine.sector(number)?;
                let replica = record.replica()?;
                Message::PreCommit {
                    provider,
                    sector: number,
                    comm_r: replica.comm_r,
                    comm_d: replica.comm_d,
                    ticket_epoch: replica.sealing.ticket_epoch,
                    expiration,
                    deals: record.deals.clone(),
                }
            }
            Op::ProveCommit(sector, proof) => Message::ProveCommit {
                provider,
                sector,
                proof,
            },
            Op::PostWindow {
                key,
                skipped,
                proof,
            } => Message::SubmitPost {
                provider,
                deadline: u16::try_from(key.deadline).ok()?,
                partition: u32::try_from(key.partition).ok()?,
                skipped,
                proof,
            },
            Op::DeclareFaults(sectors) => Message::DeclareFaults {
                provider,
                sectors: sorted(sectors),
            },
            Op::DeclareRecovered(sectors) => Message::DeclareRecovered {
                provider,
                sectors: sorted(sectors),
            },
        })
    }

    fn proposal(&self, id: &DealId) -> Option<SignedProposal> {
        let record = self.parts.machine.deal(id)?;
        // Intake decoded these very bytes before it wrote them down.
        codec::decode(&record.proposal, MAX_PROPOSAL_BYTES).ok()
    }

    fn spawn(&mut self, job: impl Future<Output = Event> + Send + 'static) {
        let outbox = self.parts.outbox.clone();
        self.jobs.push(tokio::spawn(async move {
            // The worker may have ended; the work is on disk.
            let _ = outbox.send(Input::Event(job.await));
        }));
    }

    fn spawn_blocking(&mut self, job: impl FnOnce() -> Event + Send + 'static) {
        let outbox = self.parts.outbox.clone();
        self.jobs.push(tokio::task::spawn_blocking(move || {
            let _ = outbox.send(Input::Event(job()));
        }));
    }

    fn working_on(&self, what: Option<String>) {
        self.parts.status.update(|status| status.working_on = what);
    }

    fn show(&self, picture: &ProviderPicture) {
        let mut states: BTreeMap<SectorNumber, String> = BTreeMap::new();
        for sector in picture.partitions.iter().flat_map(|p| &p.sectors) {
            states.insert(sector.number, state_name(sector.state).to_owned());
        }
        let damaged = self.parts.machine.damaged();
        let sectors = self
            .parts
            .machine
            .sectors()
            .map(|record| {
                sector_status(
                    record,
                    states.get(&record.number).cloned(),
                    damaged.contains(&record.number),
                    self.parts.bench.sector_dir(record.number),
                )
            })
            .collect();
        let on_chain: BTreeMap<DealId, ChainDealStatus> = picture
            .deals
            .iter()
            .map(|deal| (deal.id, deal.status))
            .collect();
        let deals = self
            .parts
            .machine
            .deals()
            .map(|record| DealStatus {
                deal: record.deal,
                state: on_chain
                    .get(&record.deal)
                    .map(|status| deal_name(*status).to_owned()),
                bytes: record.bytes,
                start: record.start,
                end: record.end,
            })
            .collect();
        let mut due: Vec<DueWindow> = picture
            .partitions
            .iter()
            .map(|partition| DueWindow {
                deadline: partition.deadline.into(),
                partition: partition.partition.into(),
                open: partition.open,
                close: partition.close,
                posted: partition.posted,
            })
            .collect();
        due.sort_by_key(|window| (window.open, window.deadline, window.partition));
        let provider = &picture.provider.provider;
        let money = Money {
            balance: provider.balance,
            available: picture.provider.available,
            pledge: provider.pledge,
            deposits: provider.deposits,
            vesting: provider.vesting,
            fee_debt: provider.fee_debt,
            escrow: picture.provider.escrow.escrow,
            escrow_locked: picture.provider.escrow.locked,
        };
        let free_bytes = self.parts.store.ask().free_bytes;
        let idle = self.slot.is_none() && self.queueing.is_none();
        self.parts.status.update(|status| {
            status.epoch = picture.head.epoch;
            status.height = picture.head.height;
            status.chain_reachable = true;
            status.money = money;
            status.sectors = sectors;
            status.deals = deals;
            status.due = due;
            status.held_bytes = self.parts.store.held_bytes();
            status.free_bytes = free_bytes;
            status.transactions = self.parts.sender.waiting();
            if idle {
                status.working_on = None;
            }
        });
    }
}

/// Shows a store's failure in the status; what to say of it if that is new.
fn newly_closed(store: &Store, status: &StatusWatch) -> Option<String> {
    let failure = store.failure()?;
    let is_new = status.close(failure);
    is_new
        .then(|| format!("no more pieces are taken; what is here is served and proven: {failure}"))
}

/// Lets go of a deal and of its bytes; waits for a piece that is getting its names, and for the disk.
async fn forget_deal(store: &Store, id: DealId) -> Result<(), String> {
    let store = store.share();
    off_the_runtime(move || store.forget(&id)).await
}

/// Writes a record; waits for the disk, which syncs twice.
async fn put<T>(journal: &Arc<Journal>, name: String, value: &Arc<T>) -> Result<(), WorkerError>
where
    T: borsh::BorshSerialize + Send + Sync + 'static,
{
    let (journal, value) = (Arc::clone(journal), Arc::clone(value));
    match tokio::task::spawn_blocking(move || journal.put(&name, &*value)).await {
        Ok(written) => Ok(written?),
        Err(error) => Err(WorkerError::Task(error.to_string())),
    }
}

/// Writes a record, and waits while the disk is full, until `stop`: going on without it would break promises.
async fn save<T>(
    journal: &Arc<Journal>,
    name: String,
    value: T,
    retry: Duration,
    stop: &CancellationToken,
    mut tell: impl FnMut(String),
) -> Result<(), WorkerError>
where
    T: borsh::BorshSerialize + Send + Sync + 'static,
{
    let value = Arc::new(value);
    let mut is_told = false;
    loop {
        match put(journal, name.clone(), &value).await {
            Err(WorkerError::Journal(error)) if error.passes_with_space() => {
                // Once: a note at every try would push all others out.
                if !std::mem::replace(&mut is_told, true) {
                    tell(format!(
                        "{error}; nothing goes on until there is room, and windows that close before that are faults"
                    ));
                }
                tokio::select! {
                    () = stop.cancelled() => return Err(error.into()),
                    () = tokio::time::sleep(retry) => {}
                }
            }
            ended => return ended,
        }
    }
}

/// Removes a record; waits for the disk.
async fn remove(journal: &Arc<Journal>, name: String) -> Result<(), String> {
    let journal = Arc::clone(journal);
    off_the_runtime(move || journal.remove(&name)).await
}

/// Runs what waits for a disk or a lock where waiting stops nobody else; returns when it is done.
async fn off_the_runtime<E: std::fmt::Display + Send + 'static>(
    work: impl FnOnce() -> Result<(), E> + Send + 'static,
) -> Result<(), String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Keeps the chain's lease as the worker wants it: taken, renewed while wanted, given back. Ends with the worker.
async fn keep_lease(
    chain: ChainClient,
    provider: ProviderId,
    mut wanted: watch::Receiver<Option<Epoch>>,
) {
    let mut held: Option<Epoch> = None;
    let mut since = Instant::now();
    loop {
        let want = *wanted.borrow_and_update();
        let spent = held.is_some() && since.elapsed() > LEASE_LIMIT;
        match want {
            Some(before) if !spent => {
                if held != Some(before) {
                    // A later epoch than before needs a fresh lease: a renewal never loosens.
                    if held.is_some_and(|old| old < before) {
                        let _ = chain.release_clock(provider).await;
                    }
                    if held.is_none() {
                        since = Instant::now();
                    }
                    held = Some(before);
                }
                if let Err(error) = chain.hold_clock(provider, before, LEASE).await {
                    tracing::debug!(%error, "the clock cannot be held");
                }
            }
            Some(_) => {
                tracing::warn!(%provider, "a proof takes longer than ten minutes; the clock goes on without it")
            }
            None => {
                if held.take().is_some() {
                    let _ = chain.release_clock(provider).await;
                }
            }
        }
        match tokio::time::timeout(LEASE_RENEWAL, wanted.changed()).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(_)) => {
                if held.is_some() {
                    let _ = chain.release_clock(provider).await;
                }
                return;
            }
        }
    }
}

/// What a sealing job's error means for its sector.
fn job_failed(number: SectorNumber, error: &JobError) -> Event {
    match error.passes() {
        true => Event::SealWaits(number, error.to_string()),
        false => Event::SealFailed(number, error.to_string()),
    }
}

/// Record name of a sector.
pub fn sector_name(number: SectorNumber) -> String {
    format!("sector-{number}")
}

fn sorted(mut sectors: Vec<SectorNumber>) -> Vec<SectorNumber> {
    sectors.sort_unstable();
    sectors.dedup();
    sectors
}

fn view_of(picture: &ProviderPicture) -> ChainView {
    let deals = picture
        .deals
        .iter()
        .map(|deal| {
            let state = match deal.status {
                ChainDealStatus::Published => DealOnChain::Published {
                    begin_by: deal.begin_by,
                },
                ChainDealStatus::Active => DealOnChain::Active,
                ChainDealStatus::Completed | ChainDealStatus::Slashed => DealOnChain::Over,
            };
            (deal.id, state)
        })
        .collect();
    let sectors = picture
        .partitions
        .iter()
        .flat_map(|partition| &partition.sectors)
        .map(|sector| {
            let state = match sector.state {
                ChainSectorState::Unproven => SectorState::Unproven,
                ChainSectorState::Active => SectorState::Active,
                ChainSectorState::Faulty { .. } => SectorState::Faulty,
                ChainSectorState::Recovering { .. } => SectorState::Recovering,
            };
            (sector.number, state)
        })
        .collect();
    let windows = picture
        .partitions
        .iter()
        .map(|partition| Window {
            key: WindowKey {
                open: partition.open,
                deadline: partition.deadline.into(),
                partition: partition.partition.into(),
            },
            close: partition.close,
            posted: partition.posted,
            sectors: partition
                .sectors
                .iter()
                .map(|sector| sector.number)
                .collect(),
        })
        .collect();
    ChainView {
        deals,
        precommits: picture.precommits.iter().copied().collect(),
        sectors,
        windows,
        in_debt: !picture.provider.provider.fee_debt.is_zero(),
    }
}

fn state_name(state: ChainSectorState) -> &'static str {
    match state {
        ChainSectorState::Unproven => "unproven",
        ChainSectorState::Active => "active",
        ChainSectorState::Faulty { .. } => "faulty",
        ChainSectorState::Recovering { .. } => "recovering",
    }
}

fn deal_name(status: ChainDealStatus) -> &'static str {
    match status {
        ChainDealStatus::Published => "published",
        ChainDealStatus::Active => "active",
        ChainDealStatus::Completed => "completed",
        ChainDealStatus::Slashed => "slashed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::intake::tests::{empty_store, fail_sync, hold_names};
    use crate::provider::status::tests::fresh;
    use std::io;
    use std::path::Path;
    use std::sync::{Mutex, mpsc};

    use ::prover::seal::SealError;
    use ::prover::sector_dir::SectorDirError;
    use ::prover::sector_dir::disk::DiskError;
    use chain_lite::log::Disk;
    use chain_lite::vfs::{OsVfs, Readers, Vfs};
    use holdfast_sim::disk::SimDisk;

    /// On a runtime of one thread: while a deal waits for the disk or a lock, everything else goes on.
    #[tokio::test]
    async fn a_deal_that_is_forgotten_stops_nobody_else() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = empty_store(dir.path());
        let naming = hold_names(&store);
        let forgotten = forget_deal(&store, DealId([1; 32]));
        let meanwhile = async {
            tokio::task::yield_now().await;
            naming.let_go()
        };
        let (forgotten, was_in_time) = tokio::join!(forgotten, meanwhile);
        assert_eq!(forgotten, Ok(()));
        assert!(was_in_time, "the runtime stood until the lock was given up");
    }

    /// A disk whose syncs of names take until the test lets them end.
    #[derive(Debug)]
    struct SlowDisk(Mutex<mpsc::Receiver<()>>, AtomicU64);

    impl Vfs for SlowDisk {
        fn open(&self, path: &Path) -> io::Result<Arc<dyn Disk>> {
            OsVfs.open(path)
        }
        fn create_dir(&self, dir: &Path) -> io::Result<()> {
            OsVfs.create_dir(dir)
        }
        fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
            OsVfs.list(dir)
        }
        fn len(&self, path: &Path) -> io::Result<u64> {
            OsVfs.len(path)
        }
        fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
            OsVfs.read(path)
        }
        fn write_synced(&self, path: &Path, readers: Readers, pieces: &[&[u8]]) -> io::Result<()> {
            OsVfs.write_synced(path, readers, pieces)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            OsVfs.rename(from, to)
        }
        fn remove(&self, path: &Path) -> io::Result<()> {
            OsVfs.remove(path)
        }
        fn sync_names(&self, path: &Path) -> io::Result<()> {
            let let_go = self.0.lock().expect("no panic");
            if let_go.recv_timeout(Duration::from_secs(10)).is_ok() {
                self.1.fetch_add(1, Ordering::Relaxed);
            }
            OsVfs.sync_names(path)
        }
    }

    /// On a runtime of one thread: while a record waits for its syncs, everything else goes on.
    #[tokio::test]
    async fn records_that_wait_for_the_disk_stop_nobody_else() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (let_go, until) = mpsc::channel();
        let disk = Arc::new(SlowDisk(Mutex::new(until), AtomicU64::new(0)));
        let_go.send(()).expect("opening syncs once");
        let journal = Journal::open_on(Arc::clone(&disk) as Arc<dyn Vfs>, dir.path());
        let journal = Arc::new(journal.expect("opens"));
        let meanwhile = || async {
            tokio::task::yield_now().await;
            let_go.send(()).expect("the disk waits");
        };
        let value = Arc::new(7u64);
        let (written, ()) = tokio::join!(put(&journal, "a".to_owned(), &value), meanwhile());
        written.expect("written");
        assert_eq!(disk.1.load(Ordering::Relaxed), 2, "the runtime stood");
        let kept = journal.load::<u64>().expect("reads").0;
        assert_eq!(kept, [("a".to_owned(), 7)]);
        let (removed, ()) = tokio::join!(remove(&journal, "a".to_owned()), meanwhile());
        assert_eq!(removed, Ok(()));
        assert_eq!(disk.1.load(Ordering::Relaxed), 3, "the runtime stood");
        assert!(journal.load::<u64>().expect("reads").0.is_empty());
    }

    /// A note would be pushed out by later ones, and the operator be left with a provider that refuses everything.
    #[test]
    fn tm_h5_why_a_store_is_closed_stays_in_the_status_and_is_noted_once() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (store, status) = (empty_store(dir.path()), StatusWatch::new(fresh()));
        assert_eq!(newly_closed(&store, &status), None);
        assert_eq!(status.get().closed, None);
        fail_sync(&store, "/disk/pieces/a.bin");
        let text = newly_closed(&store, &status).expect("new");
        assert!(text.contains("/disk/pieces/a.bin"), "{text}");
        for n in 0..200 {
            status.note(Epoch(n), "something else".to_owned());
            assert_eq!(newly_closed(&store, &status), None, "told already");
        }
        let shown = status.get();
        assert!(!shown.notes.iter().any(|note| note.text == text));
        assert_eq!(shown.closed.as_deref(), store.failure());
        assert!(!status.close("a later reason"), "the first one stays");
        assert_eq!(status.get().closed.as_deref(), store.failure());
    }

    /// A record that finds no room is written when there is some, is told of once, and does not hold up who stops the provider.
    #[tokio::test]
    async fn tm_h4_a_record_waits_for_room_and_the_waiting_ends_with_the_provider() {
        let full = io::ErrorKind::StorageFull;
        let disk = SimDisk::default();
        let opened = Journal::open_on(Arc::new(disk.clone()), Path::new("/journal"));
        let journal = Arc::new(opened.expect("opens"));
        let stop = CancellationToken::new();
        let mut told = Vec::new();
        let short = Duration::from_millis(1);
        disk.fail_next(full);
        let saved = save(
            &journal,
            sector_name(SectorNumber(1)),
            7u64,
            short,
            &stop,
            |text| {
                // The second try finds none either.
                disk.fail_next(full);
                told.push(text);
            },
        );
        saved.await.expect("there is room at the third try");
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("/journal/sector-1") && told[0].contains("free space"));
        assert_eq!(journal.load::<u64>().expect("reads").0[0].1, 7);

        disk.fail_next(full);
        let long = Duration::from_secs(3600);
        let saved = save(
            &journal,
            sector_name(SectorNumber(1)),
            8u64,
            long,
            &stop,
            |_| {
                stop.cancel();
            },
        );
        let error = saved.await.expect_err("asked to stop");
        assert!(error.is_wait_cut_short(&stop), "{error}");
        assert_eq!(
            journal.load::<u64>().expect("reads").0[0].1,
            7,
            "the old one"
        );
        assert_eq!(journal.failure(), None);
    }

    #[test]
    fn tm_h4_a_full_disk_is_told_apart_from_a_failed_seal() {
        let here = PathBuf::from("sealed");
        let file = |kind: io::ErrorKind| JobError::File {
            path: here.clone(),
            source: kind.into(),
        };
        let folder = |kind: io::ErrorKind| {
            let error = DiskError::at("writing", &here)(kind.into());
            JobError::Seal(SealError::Dir(SectorDirError::Disk(error)))
        };
        let too_small = JobError::Seal(SealError::DiskSpace {
            path: here.clone(),
            needed: 2,
            free: 1,
        });
        for full in [
            file(io::ErrorKind::StorageFull),
            folder(io::ErrorKind::StorageFull),
            folder(io::ErrorKind::QuotaExceeded),
            too_small,
            // Hours of labels are not thrown away because somebody looks at them, or an older program runs.
            JobError::Kept {
                path: here.clone(),
                source: SealError::Dir(SectorDirError::Locked(here.clone())),
            },
            JobError::Seal(SealError::Dir(SectorDirError::Record {
                path: here.clone(),
                source: prover::sector_dir::record::RecordError::Version(9),
            })),
        ] {
            let event = job_failed(SectorNumber(1), &full);
            assert!(
                matches!(event, Event::SealWaits(SectorNumber(1), _)),
                "{event:?}"
            );
        }
        for other in [
            file(io::ErrorKind::PermissionDenied),
            folder(io::ErrorKind::NotFound),
        ] {
            let event = job_failed(SectorNumber(1), &other);
            assert!(matches!(event, Event::SealFailed(..)), "{event:?}");
        }
    }
}
