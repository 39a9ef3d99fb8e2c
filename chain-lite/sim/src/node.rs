//! One validator: the real consensus core, the real application, a simulated disk. No time and no network of its own.
//!
//! [`Node::boot`] opens what the disk has, [`Node::handle`] takes one input, and both leave in [`Node::out`] what the world is to do:
//! messages, timers, the wish to begin the next height. Whatever fails on the disk stops the node ([`Node::failed`]); it
//! says nothing more until it is booted again, which is the rule that keeps a validator from contradicting itself.

use std::collections::{BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chain_lite::account::ChainId;
use chain_lite::beacon::DevnetSigner;
use chain_lite::certificate::ValidatorId;
use chain_lite::execute::ProofVerifier;
use chain_lite::genesis::CheckedGenesis;
use chain_lite::ledger::Ledger;
use chain_lite::mempool::Mempool;
use chain_lite::message::CheckedTx;
use chain_lite::store::MemoryIndex;
use chain_lite_bft::app::{App, Parts, Synced, Timing};
use chain_lite_bft::context::{Address, ChainContext, Height, PAYLOAD, ValidatorSet};
use chain_lite_bft::parts::Part;
use chain_lite_bft::said::Said;
use chain_lite_bft::signing::{ChainSigner, ChainVerifier, proposal_bytes, vote_bytes};
use ed25519_dalek::SigningKey;
use futures::executor::block_on;
use malachite_core_consensus::{
    ConsensusMsg, Effect, Error, Input, LivenessMsg, Params, PeerId, Resumable, Resume,
    SignedConsensusMsg, State, process,
};
use malachite_core_types::{
    LinearTimeouts, Round, SignedVote, Timeout, TimeoutKind, ValueOrigin, ValueResponse,
    VoteExtensionPolicy,
};
use malachite_signing::VerifierExt as _;
use malachite_sync::{OutboundRequestId, RawDecidedValue};
use sha2::{Digest, Sha256};

use crate::disk::SimDisk;
use crate::epochs::{Relays, Rounds};
use crate::journal::Journal;
use crate::sync::{self, Counts, Do, Sync};

/// Where every simulated node keeps its files.
pub const HOME: &str = "/node";
/// Messages of later heights that the core keeps.
const QUEUE: usize = 10;
/// How long a core waits for late precommits.
const FINALIZE: Duration = Duration::from_millis(500);
/// Handed to the core, which subtracts real time from it: so long that the result is never zero, and never looked at.
const TARGET: Duration = Duration::from_secs(1 << 30);

/// What one node says to another.
#[derive(Clone, Debug)]
pub enum Message {
    /// A vote or proposal.
    Consensus(SignedConsensusMsg<ChainContext>),
    /// Said again because a round takes long.
    Liveness(LivenessMsg<ChainContext>),
    /// A part of a proposed block.
    Part {
        /// Who streams.
        publisher: usize,
        /// Which of its streams.
        stream: u64,
        /// Which part.
        sequence: u64,
        /// The part.
        part: Part,
    },
    /// Where a node is, for who catches up.
    Status {
        /// Its newest block.
        tip: Height,
        /// The first one that it serves.
        first: Height,
    },
    /// Somebody asks for blocks.
    Request {
        /// Which of its requests.
        id: u64,
        /// Their heights.
        range: RangeInclusive<Height>,
    },
    /// The blocks, or what is no answer at all.
    Response {
        /// To which request.
        id: u64,
        /// What can be read of it.
        answer: Option<malachite_sync::ValueResponse<ChainContext>>,
    },
}

/// What the world is to do for a node.
#[derive(Debug)]
pub enum Out {
    /// Tell everybody else.
    Broadcast(Message),
    /// Tell one node.
    Tell(usize, Message),
    /// Wake the node with [`Node::timer`] after a while.
    Timer(Timeout, Duration),
    /// Wake it with [`Node::sync_timer`].
    SyncTimer(sync::Timer, Duration),
    /// A block is final and durable here.
    Decided(u64),
    /// A block was proposed whose stamp is further in the past than any may be.
    Backdated,
    /// A vote or proposal came whose signature is none.
    Refused,
    /// Two proposals of this validator for one turn were seen.
    TwoProposals(ValidatorId),
    /// Votes that contradict each other were seen.
    Evidence(SignedVote<ChainContext>, SignedVote<ChainContext>),
}

/// Signatures that held, of all nodes of a run: each is verified by the first node that it reaches, for all of them. They are
/// one process, and what is asked is a function of key, bytes and signature alone.
#[derive(Clone, Debug, Default)]
pub struct Held(Arc<Mutex<BTreeSet<[u8; 32]>>>);

impl Held {
    /// Far more than are said of one height.
    const MOST: usize = 1 << 12;

    fn or(&self, said: &[&[u8]], check: impl FnOnce() -> bool) -> bool {
        let mut digest = Sha256::new();
        said.iter().for_each(|bytes| digest.update(bytes));
        let said = digest.finalize().into();
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.contains(&said) {
            return true;
        }
        let holds = check();
        if holds {
            if held.len() >= Self::MOST {
                held.clear();
            }
            held.insert(said);
        }
        holds
    }
}

/// What a node needs besides its disk.
#[derive(Clone)]
pub struct Identity {
    /// Its number.
    pub index: usize,
    /// Signs votes.
    pub key: SigningKey,
    /// The chain.
    pub genesis: CheckedGenesis,
    /// Judges proofs.
    pub verifier: Arc<dyn ProofVerifier>,
    /// Gives beacon rounds.
    pub beacon: DevnetSigner,
    /// Where they come from under the beacon's clock; without, every round is there at once.
    pub relays: Option<Relays>,
    /// Whether it stamps its blocks as far into the past as their parents allow.
    pub backdates: bool,
    /// What nodes of this run need not verify again.
    pub held: Held,
    /// Whether it puts before the chain what others do twice, as a running node does.
    pub reports: bool,
    /// From which it draws whom it asks for blocks.
    pub seed: u64,
    /// How many blocks it asks for at once.
    pub batch: usize,
}

/// Everything but the core, which is lent out while it works.
struct Host {
    index: usize,
    disk: SimDisk,
    app: App,
    signer: ChainSigner,
    verifier: ChainVerifier,
    chain: ChainId,
    held: Held,
    reports: bool,
    backdates: bool,
    journal: Option<Journal>,
    timeouts: LinearTimeouts,
    recovering: bool,
    now_ms: u64,
    boots: u64,
    streams: u64,
    inbox: VecDeque<Input<ChainContext>>,
    timers: Vec<Timeout>,
    out: Vec<Out>,
    /// The turn for which no block could be made yet.
    asked: Option<(Height, Round)>,
    finalized: bool,
    failed: Option<String>,
    /// The request that brought the block which the core looks at.
    brought_by: Option<OutboundRequestId>,
    /// What consensus has for value sync.
    told: VecDeque<Told>,
}

/// What consensus tells value sync.
enum Told {
    Started(Height),
    Decided(Height),
    Fault(PeerId, Height, OutboundRequestId),
    OwnTrouble(Height),
}

/// A running validator.
pub struct Node {
    core: State<ChainContext>,
    host: Host,
    mempool: Arc<Mempool>,
    sync: Sync,
}

impl Node {
    /// Opens what the disk has. `boots` counts this node's starts, so that stream names never repeat; `waits` is what its clients
    /// tell it before its turn may come.
    pub fn boot(
        who: &Identity,
        disk: &SimDisk,
        index: &MemoryIndex,
        boots: u64,
        now_ms: u64,
        waits: Vec<CheckedTx>,
    ) -> anyhow::Result<Self> {
        let vfs = Arc::new(disk.clone());
        let ledger = Ledger::open_simulated(
            vfs,
            index,
            Path::new(HOME),
            who.genesis.clone(),
            who.verifier.clone(),
        )?;
        let ledger = Arc::new(ledger);
        let chain = ledger.chain_id();
        let mempool = Arc::new(Mempool::new(chain));
        let (tip, view) = (ledger.tip().height, ledger.view());
        for tx in waits {
            drop(mempool.submit_checked(&tx, tip, &view));
        }
        let signer = ChainSigner::new(chain, who.key.clone());
        let address = signer.address();
        let app = App::new(Parts {
            ledger,
            mempool: mempool.clone(),
            signer: signer.clone(),
            beacon: Box::new(Rounds::new(
                who.beacon.clone(),
                who.index,
                who.relays.clone(),
            )),
            timing: Timing::default(),
        });
        let (height, first) = app.next();
        let params = Params {
            address,
            threshold_params: Default::default(),
            value_payload: PAYLOAD,
            enabled: true,
        };
        let core = State::new(
            ChainContext,
            height,
            first.validator_set,
            params,
            QUEUE,
            10_000,
        );
        let host = Host {
            index: who.index,
            disk: disk.clone(),
            app,
            signer,
            verifier: ChainVerifier::new(chain),
            chain,
            held: who.held.clone(),
            reports: who.reports,
            backdates: who.backdates,
            journal: None,
            timeouts: first.timeouts,
            recovering: false,
            now_ms,
            boots,
            streams: 0,
            inbox: VecDeque::new(),
            timers: Vec::new(),
            out: Vec::new(),
            asked: None,
            finalized: true,
            failed: None,
            brought_by: None,
            told: VecDeque::new(),
        };
        let sync = Sync::new(who.seed, boots, who.batch);
        let mut node = Self {
            core,
            host,
            mempool,
            sync,
        };
        node.begin_height(now_ms);
        Ok(node)
    }

    /// The chain.
    pub fn ledger(&self) -> &Arc<Ledger> {
        self.host.app.ledger()
    }

    /// Transactions on their way.
    pub fn mempool(&self) -> &Mempool {
        &self.mempool
    }

    /// Bytes of blocks of which parts are missing.
    pub fn waiting_bytes(&self) -> usize {
        self.host.app.waiting_bytes()
    }

    /// Whether the height is over and the next one may begin.
    pub fn is_waiting(&self) -> bool {
        self.host.finalized
    }

    /// Whether the newest block came from a peer: then the clock is not asked.
    pub fn is_catching_up(&self) -> bool {
        self.host.app.is_catching_up()
    }

    /// Whether its clock says that it could make the next block.
    pub fn is_due(&mut self, now_ms: u64) -> bool {
        self.host.app.is_due(now_ms)
    }

    /// Whether it is its turn, and it could make no block so far.
    pub fn is_asked(&self) -> bool {
        self.host.asked.is_some()
    }

    /// Makes the block that it was asked for, if that is possible by now.
    pub fn ask_again(&mut self, now_ms: u64) {
        self.host.now_ms = now_ms;
        if let Some((height, round)) = self.host.asked
            && self.host.app.is_due(now_ms)
        {
            self.host.propose(height, round);
            self.settle();
        }
    }

    /// The time that passes evenly, whatever its clock says.
    pub fn is_now(&mut self, now_ms: u64) {
        self.sync.is_now(now_ms);
    }

    /// What came of value sync since this was asked last.
    pub fn sync_counts(&mut self) -> Counts {
        self.sync.counts()
    }

    /// Whether there is nothing to be done for it.
    pub fn is_quiet(&self) -> bool {
        self.host.out.is_empty() && self.host.failed.is_none()
    }

    /// A final block, as a peer would serve it.
    pub fn decided(&self, height: u64) -> Option<RawDecidedValue<ChainContext>> {
        let found = self.host.app.decided_values(Height(height), Height(height));
        let first = found.ok()?.into_iter().next();
        first.map(|(bytes, certificate)| RawDecidedValue::new(bytes, certificate))
    }

    /// Why the node stopped.
    pub fn failed(&self) -> Option<&str> {
        self.host.failed.as_deref()
    }

    /// What is to be done, in order; empty if the node failed meanwhile.
    pub fn out(&mut self) -> Vec<Out> {
        let out = std::mem::take(&mut self.host.out);
        match self.host.failed {
            Some(_) => Vec::new(),
            None => out,
        }
    }

    /// Begins the next height, from its journal if there is one.
    pub fn begin_height(&mut self, now_ms: u64) {
        let (height, params) = self.host.app.next();
        self.host.now_ms = now_ms;
        self.host.finalized = false;
        self.host.asked = None;
        self.host.timers.clear();
        self.host.timeouts = params.timeouts;
        let opened = Journal::open(&self.host.disk, Path::new(HOME), height.0);
        let entries = match opened {
            Ok((journal, entries)) => {
                self.host.journal = Some(journal);
                entries
            }
            Err(error) => return self.host.fail("opening the journal", &error),
        };
        let said = Said::of(&entries, &self.host.app.address());
        self.host.app.remind(&said);
        self.process(start(height, params.validator_set));
        if !entries.is_empty() {
            self.host.recovering = true;
            self.core.index_wal_entries(&entries);
            for entry in entries {
                self.process(entry);
            }
            self.core.reset_entries_index();
            self.host.recovering = false;
        }
        // Before what it may have decided again meanwhile.
        self.host.told.push_front(Told::Started(height));
        self.settle();
    }

    /// A message from another node. Whether it made a block whole that may be judged.
    pub fn receive(&mut self, from: usize, message: Message, now_ms: u64) -> bool {
        self.host.now_ms = now_ms;
        let mut whole = false;
        match message {
            Message::Consensus(SignedConsensusMsg::Vote(vote)) => self.handle(Input::Vote(vote)),
            Message::Consensus(SignedConsensusMsg::Proposal(p)) => self.handle(Input::Proposal(p)),
            Message::Liveness(LivenessMsg::Vote(vote)) => self.handle(Input::Vote(vote)),
            Message::Liveness(LivenessMsg::PolkaCertificate(c)) => {
                self.handle(Input::PolkaCertificate(c));
            }
            Message::Liveness(LivenessMsg::SkipRoundCertificate(c)) => {
                self.handle(Input::RoundCertificate(c));
            }
            Message::Part {
                publisher,
                stream,
                sequence,
                part,
            } => {
                let (publisher, stream) = (publisher.to_be_bytes(), stream.to_be_bytes());
                let added = self
                    .host
                    .app
                    .received_part(&publisher, &stream, sequence, part, now_ms);
                match added {
                    Ok(Some(value)) => {
                        self.handle(Input::ProposedValue(value, ValueOrigin::Consensus));
                        whole = true;
                    }
                    Ok(None) => {}
                    Err(error) => self.host.fail("judging a block", &error),
                }
            }
            Message::Status { tip, first } => self.sync.status(from, tip, first),
            Message::Request { id, range } => self.sync.requested(from, id, range),
            Message::Response { id, answer } => self.sync.answered(from, id, answer),
        }
        self.settle();
        whole
    }

    /// A timer of value sync.
    pub fn sync_timer(&mut self, timer: sync::Timer, now_ms: u64) {
        self.host.now_ms = now_ms;
        self.sync.timer(timer);
        self.settle();
    }

    /// Another node is connected now.
    pub fn connected(&mut self) {
        self.sync.connected();
        self.settle();
    }

    /// Another node's connection broke.
    pub fn disconnected(&mut self, from: usize, now_ms: u64) {
        self.host.now_ms = now_ms;
        self.sync.disconnected(from);
        self.settle();
    }

    /// Nobody is there whom this request for blocks could reach.
    pub fn refused(&mut self, request: u64, now_ms: u64) {
        self.host.now_ms = now_ms;
        self.sync.refused(request);
        self.settle();
    }

    /// A timer that was asked for. One that was called off since does nothing.
    pub fn timer(&mut self, timeout: Timeout, now_ms: u64) {
        self.host.now_ms = now_ms;
        if let Some(at) = self.host.timers.iter().position(|t| same(t, &timeout)) {
            let timeout = self.host.timers.swap_remove(at);
            if timeout.kind == TimeoutKind::Propose {
                self.host.asked = None;
            }
            self.handle(Input::TimeoutElapsed(timeout));
        }
    }

    fn handle(&mut self, input: Input<ChainContext>) {
        self.process(input);
        self.settle();
    }

    /// Until neither core has anything for the other.
    fn settle(&mut self) {
        while self.host.failed.is_none() {
            if let Some(input) = self.host.inbox.pop_front() {
                self.process(input);
            } else if let Some(told) = self.host.told.pop_front() {
                match told {
                    Told::Started(height) => self.sync.started(height),
                    Told::Decided(height) => self.sync.decided(height),
                    Told::Fault(peer, height, by) => self.sync.fault(peer, height, by),
                    Told::OwnTrouble(height) => self.sync.own_trouble(height),
                }
            } else if let Some(wanted) = self.sync.wanted() {
                self.sync_wants(wanted);
            } else {
                return;
            }
        }
    }

    fn sync_wants(&mut self, wanted: Do) {
        match wanted {
            Do::TellTip(tip) => {
                let first = self.host.app.history_min();
                self.sync.serves_from(first);
                let status = Message::Status { tip, first };
                self.host.out.push(Out::Broadcast(status));
            }
            Do::Tell(to, message) => self.host.out.push(Out::Tell(to, message)),
            Do::Wake(timer, after) => self.host.out.push(Out::SyncTimer(timer, after)),
            Do::LookUp(id, range) => {
                let found = self.host.app.decided_values(*range.start(), *range.end());
                if let Some(values) = self.host.durable("reading blocks", found) {
                    let raw = |(bytes, certificate)| RawDecidedValue::new(bytes, certificate);
                    let values = values.into_iter().map(raw).collect();
                    self.sync.found(id, range, values);
                }
            }
            Do::Judge(by, value) => {
                self.host.brought_by = Some(by);
                self.process(Input::SyncValueResponse(value));
                self.host.brought_by = None;
            }
        }
    }

    fn process(&mut self, input: Input<ChainContext>) {
        if self.host.failed.is_some() {
            return;
        }
        // Nothing, unless the core's own metrics are built in by somebody else's wish.
        #[allow(clippy::let_unit_value)]
        let metrics = Default::default();
        let (core, host) = (&mut self.core, &mut self.host);
        let result: Result<(), malachite_core_consensus::Error<ChainContext>> = process!(
            input: input,
            state: core,
            metrics: &metrics,
            with: effect => host.effect(effect)
        );
        if let Err(error) = result {
            host.fail("the core", &error);
        }
    }
}

fn start(height: Height, set: ValidatorSet) -> Input<ChainContext> {
    Input::StartHeight(
        height,
        set,
        false,
        Some(TARGET),
        VoteExtensionPolicy::Disabled,
    )
}

/// The wait for late precommits carries the real time that is left of it, which means nothing here.
fn same(a: &Timeout, b: &Timeout) -> bool {
    let finalize = |t: &Timeout| matches!(t.kind, TimeoutKind::FinalizeHeight(_));
    a.round == b.round && (a.kind == b.kind || (finalize(a) && finalize(b)))
}

type Done = Result<Resume<ChainContext>, std::convert::Infallible>;

impl Host {
    fn fail(&mut self, what: &str, error: &dyn std::fmt::Display) {
        self.failed
            .get_or_insert_with(|| format!("{what}: {error}"));
        self.out.clear();
        self.inbox.clear();
        self.told.clear();
    }

    /// Keeps what worked; the node stops at what did not.
    fn durable<T>(&mut self, what: &str, done: Result<T, impl std::fmt::Display>) -> Option<T> {
        match done {
            Ok(value) => Some(value),
            Err(error) => {
                self.fail(what, &error);
                None
            }
        }
    }

    fn flush(&mut self) {
        if self.recovering {
            return;
        }
        let done = self.journal.as_mut().map_or(Ok(()), Journal::flush);
        self.durable("flushing the journal", done);
    }

    fn say(&mut self, message: Message) {
        self.flush();
        self.out.push(Out::Broadcast(message));
    }

    fn stream(&mut self, parts: Vec<Part>) {
        self.streams += 1;
        let stream = self.boots << 32 | self.streams;
        for (sequence, part) in (0..).zip(parts) {
            self.out.push(Out::Broadcast(Message::Part {
                publisher: self.index,
                stream,
                sequence,
                part,
            }));
        }
    }

    fn effect(&mut self, effect: Effect<ChainContext>) -> Done {
        Ok(match effect {
            Effect::CancelAllTimeouts(r) => {
                self.timers.clear();
                r.resume_with(())
            }
            Effect::CancelTimeout(timeout, r) => {
                self.timers.retain(|t| !same(t, &timeout));
                r.resume_with(())
            }
            Effect::ScheduleTimeout(timeout, r) => {
                self.schedule(timeout);
                r.resume_with(())
            }
            Effect::StartRound(height, round, _, _, r) => {
                self.flush();
                self.asked = None;
                let held = self.app.started_round(height, round, self.now_ms);
                for value in self.durable("beginning a round", held).unwrap_or_default() {
                    self.inbox
                        .push_back(Input::ProposedValue(value, ValueOrigin::Consensus));
                }
                r.resume_with(())
            }
            Effect::PublishConsensusMsg(message, r) => {
                self.say(Message::Consensus(message));
                r.resume_with(())
            }
            Effect::PublishLivenessMsg(message, r) => {
                self.say(Message::Liveness(message));
                r.resume_with(())
            }
            Effect::RepublishVote(vote, r) => {
                self.say(Message::Liveness(LivenessMsg::Vote(vote)));
                r.resume_with(())
            }
            Effect::RepublishRoundCertificate(certificate, r) => {
                self.say(Message::Liveness(LivenessMsg::SkipRoundCertificate(
                    certificate,
                )));
                r.resume_with(())
            }
            Effect::GetValue(height, round, _, r) => {
                self.propose(height, round);
                r.resume_with(())
            }
            Effect::RestreamProposal(height, round, _, _, id, r) => {
                let parts = self.app.restream(height, round, id);
                if let Some(parts) = self
                    .durable("reading a block", parts)
                    .filter(|p| !p.is_empty())
                {
                    self.stream(parts);
                }
                r.resume_with(())
            }
            Effect::WalAppend(_, entry, r) => {
                if let (false, Some(journal)) = (self.recovering, self.journal.as_mut()) {
                    let done = journal.append(&entry);
                    self.durable("writing the journal", done);
                }
                r.resume_with(())
            }
            Effect::Decide(certificate, _, r) => {
                self.flush();
                // A decision counts once it is durable; a node that failed in between says it when it is back.
                if self.failed.is_none() {
                    let done = self.app.decided(&certificate);
                    if self.durable("committing a block", done).is_some() {
                        self.out.push(Out::Decided(certificate.height.0));
                        self.told.push_back(Told::Decided(certificate.height));
                    }
                }
                r.resume_with(())
            }
            Effect::Finalize(certificate, _, evidence, r) => {
                if self.failed.is_none() {
                    let done = self.app.finalized(&certificate);
                    self.durable("keeping a certificate", done);
                }
                if self.failed.is_none() && self.reports {
                    let votes = evidence.votes.iter().flat_map(|(_, pairs)| pairs);
                    let proposals = evidence.proposals.iter().flat_map(|(_, pairs)| pairs);
                    let told = self.app.report(votes.cloned(), proposals.cloned());
                    self.durable("reporting", told);
                }
                for (_, votes) in evidence.votes.iter() {
                    for (a, b) in votes {
                        self.out.push(Out::Evidence(a.clone(), b.clone()));
                    }
                }
                for (proposer, pairs) in evidence.proposals.iter() {
                    let two = pairs.iter().map(|_| Out::TwoProposals(proposer.0));
                    self.out.extend(two);
                }
                (self.finalized, self.asked) = (true, None);
                r.resume_with(())
            }
            Effect::CertVerifiedSyncValue(value, proposer, r) => {
                self.synced(value, proposer);
                r.resume_with(())
            }
            Effect::CertRejectedSyncValue(peer, height, error, r) => {
                match error {
                    Error::InvalidCommitCertificate(certificate, _) => {
                        self.blame(peer, certificate.height);
                    }
                    _ => self.told.push_back(Told::OwnTrouble(height)),
                }
                r.resume_with(())
            }
            Effect::SignVote(vote, r) => {
                r.resume_with(self.signer.vote(vote).expect("the core votes in rounds"))
            }
            Effect::SignProposal(proposal, r) => r.resume_with(
                self.signer
                    .proposal(proposal)
                    .expect("the core proposes in rounds"),
            ),
            Effect::VerifySignature(message, key, r) => {
                let bytes = match &message.message {
                    ConsensusMsg::Vote(vote) => vote_bytes(&self.chain, vote),
                    ConsensusMsg::Proposal(p) => proposal_bytes(&self.chain, p),
                };
                let signature = &message.signature;
                let check = || match &message.message {
                    ConsensusMsg::Vote(vote) => self.verifier.vote(vote, signature, &key),
                    ConsensusMsg::Proposal(p) => self.verifier.proposal(p, signature, &key),
                };
                let said = bytes
                    .as_deref()
                    .map(|bytes| [&key.0, &signature.0[..], bytes]);
                let holds = said.is_some_and(|said| self.held.or(&said, check));
                self.out.extend((!holds).then_some(Out::Refused));
                r.resume_with(holds)
            }
            Effect::VerifyCommitCertificate(certificate, set, thresholds, r) => {
                let check = self.verifier.verify_commit_certificate(
                    &ChainContext,
                    &certificate,
                    &set,
                    thresholds,
                );
                r.resume_with(block_on(check))
            }
            Effect::VerifyExtendedCommitCertificate(certificate, set, thresholds, policy, r) => {
                let check = self.verifier.verify_extended_commit_certificate(
                    &ChainContext,
                    &certificate,
                    &set,
                    thresholds,
                    policy,
                );
                r.resume_with(block_on(check))
            }
            Effect::VerifyPolkaCertificate(certificate, set, thresholds, r) => {
                let check = self.verifier.verify_polka_certificate(
                    &ChainContext,
                    &certificate,
                    &set,
                    thresholds,
                );
                r.resume_with(block_on(check))
            }
            Effect::VerifyRoundCertificate(certificate, set, thresholds, r) => {
                let check = self.verifier.verify_round_certificate(
                    &ChainContext,
                    &certificate,
                    &set,
                    thresholds,
                );
                r.resume_with(block_on(check))
            }
            // There are no vote extensions.
            Effect::ExtendVote(_, _, _, _, r) => r.resume_with(None),
            Effect::VerifyVoteExtension(_, _, _, _, _, _, r) => r.resume_with(Ok(())),
        })
    }

    fn schedule(&mut self, timeout: Timeout) {
        let after = match timeout.kind {
            TimeoutKind::FinalizeHeight(_) => FINALIZE,
            _ => self.timeouts.duration_for(timeout),
        };
        self.timers.retain(|t| !same(t, &timeout));
        self.timers.push(timeout);
        self.out.push(Out::Timer(timeout, after));
    }

    fn propose(&mut self, height: Height, round: Round) {
        let stamp_ms = self.stamp_ms();
        let made = self.app.get_value(height, round, stamp_ms);
        let made = self.durable("making a block", made).flatten();
        self.asked = made.is_none().then_some((height, round));
        if let Some(ours) = made {
            self.inbox.push_back(Input::Propose(ours.value));
            self.stream(ours.parts);
            let epoch_ms = self.app.ledger().genesis().genesis().clock.epoch_ms();
            if self.backdates && stamp_ms + epoch_ms / 2 < self.now_ms {
                self.out.push(Out::Backdated);
            }
        }
    }

    /// What its block says of the time. Who backdates chooses the oldest epoch that may follow the parent, late enough in it to go on
    /// without the round: after an outage it knows the randomness of all that it commits to there.
    fn stamp_ms(&self) -> u64 {
        let ledger = self.app.ledger();
        let genesis = ledger.genesis();
        let begins = genesis.beacons().time_ms_of(ledger.tip().epoch.next());
        let oldest = begins.map(|at| at + genesis.genesis().clock.epoch_ms() / 4 * 3);
        let oldest = oldest.filter(|_| self.backdates);
        oldest.map_or(self.now_ms, |at| at.min(self.now_ms))
    }

    /// What is wrong with the block that the core looks at is its peer's fault.
    fn blame(&mut self, peer: PeerId, height: Height) {
        let by = self.brought_by.clone();
        self.told.push_back(match by {
            Some(by) => Told::Fault(peer, height, by),
            None => Told::OwnTrouble(height),
        });
    }

    fn synced(&mut self, value: ValueResponse<ChainContext>, proposer: Address) {
        let certificate = &value.certificate;
        let (height, round) = (certificate.height, certificate.round);
        let judged = self.app.synced(height, round, proposer, &value.value_bytes);
        match self.durable("judging a peer's block", judged) {
            Some(Synced::Value(proposed)) if proposed.value.0 == certificate.value_id => {
                let input = Input::ProposedValue(proposed, ValueOrigin::Sync);
                self.inbox.push_back(input);
            }
            Some(Synced::Value(_) | Synced::PeerFault) => self.blame(value.peer, height),
            Some(Synced::NotNow) => self.told.push_back(Told::OwnTrouble(height)),
            None => {}
        }
    }
}
