//! The application's side of consensus without an engine: four [`App`]s, parts and certificates passed by hand.

use std::sync::Arc;

use chain_lite::beacon::{BeaconSource, Entry};
use chain_lite::block::{Block, BlockId};
use chain_lite::certificate::Certificate;
use chain_lite::clock::ClockMode;
use chain_lite::codec;
use chain_lite::ledger::LedgerError;
use chain_lite::mempool::Mempool;
use chain_lite::undecided::MAX_BLOCKS;
use chain_lite::units::Epoch;
use chain_lite_bft::app::{App, Ours, Parts, Synced, Timing};
use chain_lite_bft::context::{ChainContext, Height, Proposal, Signature, Value, Vote};
use chain_lite_bft::malachite_core_consensus::{Input, ProposedValue};
use chain_lite_bft::malachite_core_types::{
    CommitCertificate, NilOrVal, Round, Validity, VoteType,
};
use chain_lite_bft::parts::{Announced, Init, PART_BYTES, Part, cut};
use chain_lite_bft::said::Said;
use chain_lite_bft::signing::ChainSigner;
use sha2::{Digest, Sha256};

mod common;
use common::{beacon, open, transfer, validator_key};

const NOW: u64 = 1_700_000_000_000;

struct Node {
    app: App,
    mempool: Arc<Mempool>,
    home: tempfile::TempDir,
    /// Streams received, so that each has its own name.
    streams: u64,
}

fn app_in(home: &std::path::Path, n: usize) -> (App, Arc<Mempool>) {
    let chain = open(home).chain_id();
    app_with(home, ChainSigner::new(chain, validator_key(n)))
}

fn app_with(home: &std::path::Path, signer: ChainSigner) -> (App, Arc<Mempool>) {
    let ledger = Arc::new(open(home));
    let mempool = Arc::new(Mempool::new(ledger.chain_id()));
    let parts = Parts {
        mempool: Arc::clone(&mempool),
        signer,
        beacon: Box::new(beacon()),
        timing: Timing::default(),
        ledger,
    };
    (App::new(parts), mempool)
}

impl Node {
    fn new(n: usize) -> Self {
        let home = tempfile::tempdir().unwrap();
        let (app, mempool) = app_in(home.path(), n);
        Self {
            app,
            mempool,
            home,
            streams: 0,
        }
    }

    fn hears(&mut self, parts: &[Part]) -> Option<ProposedValue<ChainContext>> {
        self.streams += 1;
        let stream = self.streams.to_be_bytes();
        let mut last = None;
        for (n, part) in (0..).zip(parts) {
            last = self
                .app
                .received_part(b"peer", &stream, n, part.clone(), NOW)
                .unwrap();
        }
        last
    }

    fn begins(&mut self, height: u64, round: u32) -> Vec<ProposedValue<ChainContext>> {
        self.app
            .started_round(Height(height), Round::new(round), NOW)
            .unwrap()
    }

    fn proposes(&mut self, height: u64, round: u32) -> Option<Ours> {
        self.app
            .get_value(Height(height), Round::new(round), NOW)
            .unwrap()
    }

    fn root(&self) -> [u8; 32] {
        self.app.ledger().tip().state_root
    }
}

fn four() -> Vec<Node> {
    (0..4).map(Node::new).collect()
}

/// Whose turn it is.
fn proposer(nodes: &[Node], height: u64, round: u32) -> usize {
    let whose = nodes[0].app.ledger().validators().proposer(height, round);
    nodes
        .iter()
        .position(|n| n.app.address().0 == whose)
        .unwrap()
}

fn decision(
    nodes: &[Node],
    height: u64,
    round: u32,
    id: BlockId,
    signers: &[usize],
) -> CommitCertificate<ChainContext> {
    let chain = nodes[0].app.ledger().chain_id();
    let vote = |n: &usize| {
        let signer = ChainSigner::new(chain, validator_key(*n));
        let vote = Vote {
            kind: VoteType::Precommit,
            height: Height(height),
            round: Round::new(round),
            value: NilOrVal::Val(id),
            validator: signer.address(),
        };
        signer.vote(vote).unwrap()
    };
    let votes = signers.iter().map(vote).collect();
    CommitCertificate::new(Height(height), Round::new(round), id, votes)
}

/// Everybody but `away` decides one block of the next height.
fn one_block(nodes: &mut [Node], away: Option<usize>) -> BlockId {
    let height = nodes
        .iter()
        .map(|n| n.app.ledger().tip().height)
        .max()
        .unwrap()
        + 1;
    let present: Vec<usize> = (0..4).filter(|n| Some(*n) != away).collect();
    let round = (0..9)
        .find(|r| Some(proposer(nodes, height, *r)) != away)
        .unwrap();
    let maker = proposer(nodes, height, round);
    for n in &present {
        nodes[*n].begins(height, round);
    }
    let ours = nodes[maker].proposes(height, round).unwrap();
    let id = ours.value.value.0;
    for n in present.iter().filter(|n| **n != maker) {
        let heard = nodes[*n].hears(&ours.parts).unwrap();
        assert_eq!((heard.value.0, heard.validity), (id, Validity::Valid));
    }
    let set = nodes[present[0]].app.ledger().validators();
    let votes = |n: &usize| set.power_of(&nodes[*n].app.address().0).is_some();
    let voters: Vec<usize> = present.iter().copied().filter(votes).collect();
    let certificate = decision(nodes, height, round, id, &voters[..3]);
    for n in present {
        nodes[n].app.decided(&certificate).unwrap();
        assert_eq!(nodes[n].app.ledger().tip().id, id);
    }
    id
}

#[test]
fn what_one_proposes_everybody_judges_commits_and_executes_alike() {
    let mut nodes = four();
    let chain = nodes[0].app.ledger().chain_id();
    for height in 0..5u64 {
        let maker = proposer(&nodes, height + 1, 0);
        let ledger = nodes[maker].app.ledger().clone();
        let state = ledger.view();
        for from in 0..4 {
            let first = nodes[maker]
                .mempool
                .next_nonce(
                    &state,
                    &chain_lite::account::Address::of(&common::user(from).verifying_key()),
                )
                .unwrap();
            for nonce in first..first + 150 {
                let tx = transfer(chain, from, nonce);
                nodes[maker].mempool.submit(tx, height, &state).unwrap();
            }
        }
        one_block(&mut nodes, None);
        assert!(nodes.iter().all(|n| n.root() == nodes[0].root()));
        assert!(
            nodes[maker].mempool.is_empty(),
            "what was committed leaves the pool"
        );
    }
    let body = nodes[2].app.ledger().block(5).unwrap().block.body;
    assert!(body.txs.len() == 600 && codec::encode(&body).len() > PART_BYTES);
}

#[test]
fn tm_v2_a_restart_proposes_the_same_block_again() {
    let mut nodes = four();
    one_block(&mut nodes, None);
    let n = proposer(&nodes, 2, 0);
    let first = nodes[n].proposes(2, 0).unwrap();
    assert_eq!(nodes[n].proposes(2, 0), Some(first.clone()));
    // Between the two there is more to propose, and it is later.
    let Node {
        app, mempool, home, ..
    } = nodes.remove(n);
    drop((app, mempool));
    let (mut app, mempool) = app_in(home.path(), n);
    let chain = app.ledger().chain_id();
    mempool
        .submit(transfer(chain, 0, 0), 1, &app.ledger().view())
        .unwrap();
    let again = app
        .get_value(Height(2), Round::new(0), NOW + 9_000)
        .unwrap();
    assert_eq!(again, Some(first.clone()));
    // The engine's journal has our own value; the body is read back for it, and it can be decided.
    let values = app.started_round(Height(2), Round::new(0), NOW).unwrap();
    assert_eq!(values.len(), 1);
    let certificate = decision(&nodes, 2, 0, first.value.value.0, &[0, 1, 2]);
    app.decided(&certificate).unwrap();
    app.decided(&certificate).unwrap();
    assert_eq!(app.ledger().tip().height, 2);
    // Another round is another block; a height that is not next is none.
    assert_eq!(app.get_value(Height(2), Round::new(1), NOW).unwrap(), None);
    assert_eq!(app.get_value(Height(4), Round::new(0), NOW).unwrap(), None);
}

#[test]
fn parts_of_the_next_height_are_kept_and_judged_when_its_round_begins() {
    let mut nodes = four();
    let late = (0..4)
        .find(|n| *n != proposer(&nodes, 1, 0) && *n != proposer(&nodes, 2, 0))
        .unwrap();
    let maker = proposer(&nodes, 1, 0);
    let one = nodes[maker].proposes(1, 0).unwrap();
    for n in (0..4).filter(|n| *n != maker) {
        nodes[n].begins(1, 0);
        nodes[n].hears(&one.parts).unwrap();
    }
    let certificate = decision(&nodes, 1, 0, one.value.value.0, &[0, 1, 2]);
    for n in (0..4).filter(|n| *n != late) {
        nodes[n].app.decided(&certificate).unwrap();
    }
    let next = proposer(&nodes, 2, 0);
    let two = nodes[next].proposes(2, 0).unwrap();
    assert_eq!(
        nodes[late].hears(&two.parts),
        None,
        "its parent is not final here"
    );
    nodes[late].app.decided(&certificate).unwrap();
    let values = nodes[late].begins(2, 0);
    assert_eq!(values.len(), 1);
    assert_eq!(
        (values[0].value.0, values[0].validity),
        (two.value.value.0, Validity::Valid)
    );
}

#[test]
fn a_block_is_streamed_again_by_the_next_proposer_and_by_anybody_who_heard_it() {
    let mut nodes = four();
    let maker = proposer(&nodes, 1, 0);
    let round = (1..9).find(|r| proposer(&nodes, 1, *r) != maker).unwrap();
    let second = proposer(&nodes, 1, round);
    let others: Vec<usize> = (0..4).filter(|n| *n != maker && *n != second).collect();
    let (helper, missing) = (others[0], others[1]);
    let ours = nodes[maker].proposes(1, 0).unwrap();
    let id = ours.value.value.0;
    nodes[second].hears(&ours.parts).unwrap();
    nodes[helper].hears(&ours.parts).unwrap();
    // The next proposer takes it up under its own name and round.
    let again = nodes[second]
        .app
        .restream(Height(1), Round::new(round), id)
        .unwrap();
    let heard = nodes[missing].hears(&again).unwrap();
    assert_eq!((heard.value.0, heard.validity), (id, Validity::Valid));
    assert_eq!(
        (heard.round, heard.proposer),
        (Round::new(round), nodes[second].app.address())
    );
    // Anybody else repeats the words of its proposer.
    let repeated = nodes[helper]
        .app
        .restream(Height(1), Round::new(0), id)
        .unwrap();
    assert_eq!(repeated, ours.parts);
    let unknown = BlockId([7; 32]);
    assert!(
        nodes[helper]
            .app
            .restream(Height(1), Round::new(0), unknown)
            .unwrap()
            .is_empty()
    );
}

/// An announcement of `block` for `round`, signed by validator `by`.
fn announced(nodes: &[Node], block: &Block, round: u32, by: usize) -> Vec<Part> {
    announced_after(nodes, block, round, by, None)
}

/// The same with what is said to be the word of the block's own proposer.
fn announced_after(
    nodes: &[Node],
    block: &Block,
    round: u32,
    by: usize,
    first: Option<Signature>,
) -> Vec<Part> {
    let signer = ChainSigner::new(nodes[0].app.ledger().chain_id(), validator_key(by));
    let (init, bytes) = Announced::init(block, round, signer.address()).unwrap();
    let init = Init { first, ..init };
    let signature = signer.parts(&init);
    cut(&Announced {
        init,
        signature,
        bytes,
    })
}

/// The block that validator `by` proposes in `round` of height 1.
fn proposal(nodes: &mut [Node], by: usize, round: u32) -> Block {
    let ours = nodes[by].proposes(1, round).unwrap();
    let ledger = nodes[by].app.ledger();
    ledger
        .undecided_block(&ours.value.value.0)
        .unwrap()
        .unwrap()
}

/// A proposer with many blocks for one turn shows two of them; the rest is not even kept.
#[test]
fn tm_v6_a_proposer_fills_nobodys_disk() {
    let mut nodes = four();
    let maker = proposer(&nodes, 1, 0);
    let judge = (maker + 1) % 4;
    let mut block = proposal(&mut nodes, maker, 0);
    let mut taken = 0;
    for _ in 0..6 {
        block.header.time_ms += 1;
        let parts = announced(&nodes, &block, 0, maker);
        taken += usize::from(nodes[judge].hears(&parts).is_some());
    }
    assert_eq!(taken, 2);
    assert_eq!(nodes[judge].app.ledger().undecided(1, 0).unwrap().len(), 2);
}

/// Somebody takes up a block of an earlier round that names us and that we never made: we do not keep it, and make our
/// own when our turn comes. A new block that names another proposer than its announcer is nobody's.
#[test]
fn tm_v1_a_block_in_our_name_that_we_did_not_make_is_not_ours() {
    let mut nodes = four();
    let victim = proposer(&nodes, 1, 1);
    let (round, by) = (2..9)
        .map(|round| (round, proposer(&nodes, 1, round)))
        .find(|(_, by)| *by != victim)
        .unwrap();
    let mut forged = proposal(&mut nodes, by, round);
    forged.header.proposer = nodes[victim].app.address().0;
    let parts = announced(&nodes, &forged, round, by);
    assert_eq!(nodes[victim].hears(&parts), None);
    forged.header.round = 1;
    let parts = announced(&nodes, &forged, round, by);
    assert_eq!(nodes[victim].hears(&parts), None);
    nodes[victim].begins(1, 1);
    assert!(
        nodes[victim].proposes(1, 1).is_some(),
        "its turn is its own"
    );
}

/// A validator whose disk has lost its block hears it again, from who took it up or in its own announcement: it keeps it, votes for
/// it, and proposes it and no second one. Of another process with its key it takes no second block of one turn.
#[test]
fn tm_v1_a_block_of_our_own_that_the_disk_has_lost_is_ours_again() {
    let mut nodes = four();
    let maker = proposer(&nodes, 1, 0);
    let ours = nodes[maker].proposes(1, 0).unwrap();
    let id = ours.value.value.0;
    let again = (1..9).find(|r| proposer(&nodes, 1, *r) != maker).unwrap();
    let second = proposer(&nodes, 1, again);
    nodes[second].hears(&ours.parts).unwrap();
    let taken_up = nodes[second]
        .app
        .restream(Height(1), Round::new(again), id)
        .unwrap();
    for (round, parts) in [(0, &ours.parts), (again, &taken_up)] {
        let mut fresh = Node::new(maker);
        fresh.begins(1, round);
        let heard = fresh.hears(parts).map(|v| (v.value.0, v.validity));
        assert_eq!(heard, Some((id, Validity::Valid)), "round {round}");
        // Where it would otherwise have made another: nothing in this mempool is in that block.
        fresh
            .mempool
            .submit(
                transfer(fresh.app.ledger().chain_id(), 0, 0),
                0,
                &fresh.app.ledger().view(),
            )
            .unwrap();
        assert_eq!(fresh.proposes(1, 0).map(|o| o.value.value.0), Some(id));
        // Signed with its key, and not by it.
        let mut other = proposal(std::slice::from_mut(&mut fresh), 0, 0);
        other.header.time_ms += 1;
        let parts = announced(&nodes, &other, 0, maker);
        assert_eq!(fresh.hears(&parts), None);
        let kept = fresh.app.ledger().undecided(1, 0).unwrap();
        assert_eq!(kept.iter().map(Block::id).collect::<Vec<_>>(), [id]);
    }
}

/// Asked for its turn before anybody brings the block back, as at a restart: the journal says that there is one, so it makes no
/// other; and if another is there all the same, the one that was proposed is taken up for it.
#[test]
fn tm_v1_of_a_turn_that_the_journal_tells_of_there_is_no_second_block() {
    let mut nodes = four();
    let maker = proposer(&nodes, 1, 0);
    let ours = nodes[maker].proposes(1, 0).unwrap();
    let id = ours.value.value.0;
    let chain = nodes[0].app.ledger().chain_id();
    let signer = ChainSigner::new(chain, validator_key(maker));
    let proposal = Proposal {
        height: Height(1),
        round: Round::new(0),
        value: Value(id),
        pol_round: Round::Nil,
        proposer: signer.address(),
    };
    let journal = [Input::Proposal(signer.proposal(proposal).unwrap())];
    let said = Said::of(&journal, &signer.address());
    for makes_another in [false, true] {
        let mut fresh = Node::new(maker);
        let waits = transfer(chain, 0, 0);
        let view = fresh.app.ledger().view();
        fresh.mempool.submit(waits, 0, &view).unwrap();
        // Of somebody else's journal nothing follows.
        let other = nodes[(maker + 1) % 4].app.address();
        fresh.app.remind(&Said::of(&journal, &other));
        if makes_another {
            assert_ne!(fresh.proposes(1, 0).unwrap().value.value.0, id);
        }
        fresh.app.remind(&said);
        fresh.begins(1, 0);
        if !makes_another {
            assert_eq!(fresh.proposes(1, 0).map(|o| o.value.value.0), None);
        }
        let heard = fresh.hears(&ours.parts).map(|v| (v.value.0, v.validity));
        assert_eq!(heard, Some((id, Validity::Valid)));
        assert!(fresh.app.ledger().undecided_block(&id).unwrap().is_some());
        if !makes_another {
            assert_eq!(fresh.proposes(1, 0).map(|o| o.value.value.0), Some(id));
        }
    }
}

/// What this validator has precommitted stays here through any number of later proposals that nobody takes it up in, and through a
/// restart, after which the journal tells of it.
#[test]
fn tm_v2_what_we_precommitted_outlives_a_flood_and_a_restart() {
    let mut nodes = four();
    let maker = proposer(&nodes, 1, 0);
    let judge = (maker + 1) % 4;
    let first = nodes[maker].proposes(1, 0).unwrap();
    let id = first.value.value.0;
    let sample = proposal(&mut nodes, maker, 0);
    let chain = sample.header.chain_id;
    let flood = |node: &mut Node, rounds: std::ops::Range<u32>| {
        for round in rounds {
            node.begins(1, round);
            let by = proposer(&nodes, 1, round);
            for ms in 0..2 {
                let mut block = sample.clone();
                let header = &mut block.header;
                (header.round, header.proposer) = (round, nodes[by].app.address().0);
                header.time_ms += ms;
                if by != judge {
                    node.hears(&announced(&nodes, &block, round, by));
                }
            }
        }
    };
    let is_here = |node: &Node| {
        let here = node.app.ledger().undecided_block(&id).unwrap();
        here.is_some()
    };
    let many = u32::try_from(MAX_BLOCKS).unwrap();
    for is_bound in [false, true] {
        let home = tempfile::tempdir().unwrap();
        let signer = ChainSigner::new(chain, validator_key(judge));
        let (app, mempool) = app_with(home.path(), signer.clone());
        let mut node = Node {
            app,
            mempool,
            home,
            streams: 0,
        };
        node.begins(1, 0);
        node.hears(&first.parts).unwrap();
        let vote = Vote {
            kind: VoteType::Precommit,
            height: Height(1),
            round: Round::new(0),
            value: NilOrVal::Val(id),
            validator: signer.address(),
        };
        let mut journal = Vec::new();
        if is_bound {
            journal.push(Input::Vote(signer.vote(vote).unwrap()));
        }
        flood(&mut node, 1..many);
        assert_eq!(is_here(&node), is_bound);
        // The same disk under another process.
        drop(node.app);
        let signer = ChainSigner::new(chain, validator_key(judge));
        let (app, mempool) = app_with(node.home.path(), signer.clone());
        let mut node = Node {
            app,
            mempool,
            ..node
        };
        node.app.remind(&Said::of(&journal, &signer.address()));
        flood(&mut node, many..2 * many);
        assert_eq!(is_here(&node), is_bound);
    }
}

/// Whoever has a turn may spread garbage under an honest block's name, as its bytes or as its body: that announcement is worth
/// nothing, and no word is said of the block. The next who takes it up gets its votes, in this round or a later one.
#[test]
fn tm_v1_garbage_under_an_honest_blocks_name_taints_it_nowhere() {
    let mut nodes = four();
    let maker = proposer(&nodes, 1, 0);
    let round = (1..9).find(|r| proposer(&nodes, 1, *r) != maker).unwrap();
    let liar = proposer(&nodes, 1, round);
    let judge = (0..4).find(|n| ![maker, liar].contains(n)).unwrap();
    let ours = nodes[maker].proposes(1, 0).unwrap();
    let id = ours.value.value.0;
    nodes[liar].hears(&ours.parts).unwrap();
    let honest = nodes[liar]
        .app
        .restream(Height(1), Round::new(round), id)
        .unwrap();
    let Part::Init { init: word, .. } = honest[0] else {
        panic!("the first part announces")
    };
    let signer = ChainSigner::new(nodes[0].app.ledger().chain_id(), validator_key(liar));
    let mut body = proposal(&mut nodes, maker, 0);
    body.body.beacons.clear();
    let mut header = body.clone();
    header.header.time_ms += 1;
    assert_eq!(body.id(), id);
    for bytes in [codec::encode(&body), codec::encode(&header), vec![7; 900]] {
        let init = Init {
            bytes: bytes.len() as u32,
            digest: Sha256::digest(&bytes).into(),
            ..word
        };
        let signature = signer.parts(&init);
        let lie = cut(&Announced {
            init,
            signature,
            bytes,
        });
        let mut judge = Node::new(judge);
        judge.begins(1, round);
        assert_eq!(judge.hears(&lie), None);
        assert_eq!(judge.app.ledger().undecided_block(&id).unwrap(), None);
        let heard = judge.hears(&honest).map(|v| (v.value.0, v.validity));
        assert_eq!(heard, Some((id, Validity::Valid)));
    }
    // Of a height whose parent is not here nothing is judged yet; what is kept is the block, not what goes by its name.
    let next = proposer(&nodes, 2, 0);
    let mut ahead = body.clone();
    (ahead.header.height, ahead.header.proposer) = (2, nodes[next].app.address().0);
    let parts = announced(&nodes, &ahead, 0, next);
    let other = (next + 1) % 4;
    assert_eq!(nodes[other].hears(&parts), None);
    let kept = nodes[other].app.ledger().undecided_block(&ahead.id());
    assert_eq!(kept.unwrap(), None);
}

/// Whoever has a turn after a long silence says that it takes up an earlier round's block, stamped with the time of that silence: a
/// commitment in it would have its challenges known to all. Only what that round's proposer did announce is taken up; a validator
/// keeps its word with the block, through a restart too.
#[test]
fn tm_v5_tm_p7_only_what_its_proposer_announced_is_a_block_of_an_earlier_round() {
    let mut nodes = four();
    let maker = proposer(&nodes, 1, 0);
    let round = (1..9).find(|r| proposer(&nodes, 1, *r) != maker).unwrap();
    let second = proposer(&nodes, 1, round);
    let judge = (0..4).find(|n| ![maker, second].contains(n)).unwrap();
    let chain = nodes[0].app.ledger().chain_id();
    // Of the maker, whom nobody has heard in round 0: another time, so another block.
    let mut forged = proposal(&mut nodes, maker, 0);
    forged.header.time_ms += 1;
    let word = |by: usize, round: u32, block: &Block| {
        let signer = ChainSigner::new(chain, validator_key(by));
        let (init, _) = Announced::init(block, round, signer.address()).unwrap();
        signer.parts(&init)
    };
    let mut other = forged.clone();
    other.header.time_ms += 1;
    for first in [
        None,
        Some(Signature([7; 64])),
        Some(word(second, 0, &forged)),
        Some(word(second, round, &forged)),
        Some(word(maker, 0, &other)),
        Some(word(maker, 1, &forged)),
    ] {
        // A stranger to all that was before: who heard two blocks of one turn hears no third.
        let mut judge = Node::new(judge);
        let parts = announced_after(&nodes, &forged, round, second, first);
        assert_eq!(judge.hears(&parts), None, "{first:?}");
        assert_eq!(judge.app.ledger().undecided(1, 0).unwrap(), []);
    }
    // Nor does a new block come with a word before it: its own signature would be over that, and no later round could show it.
    for first in [Signature([7; 64]), word(maker, 0, &forged)] {
        let mut judge = Node::new(judge);
        let parts = announced_after(&nodes, &forged, 0, maker, Some(first));
        assert_eq!(judge.hears(&parts), None);
        assert_eq!(judge.app.ledger().undecided(1, 0).unwrap(), []);
    }
    // What the maker did say: taken up by who heard it, after a restart, and by who heard it from that one.
    let ours = nodes[maker].proposes(1, 0).unwrap();
    let id = ours.value.value.0;
    nodes[second].hears(&ours.parts).unwrap();
    let Node {
        app, mempool, home, ..
    } = &mut nodes[second];
    let elsewhere = tempfile::tempdir().unwrap();
    (*app, *mempool) = app_in(elsewhere.path(), second);
    (*app, *mempool) = app_in(home.path(), second);
    let again = nodes[second]
        .app
        .restream(Height(1), Round::new(round), id)
        .unwrap();
    let heard = nodes[judge].hears(&again).unwrap();
    assert_eq!((heard.value.0, heard.validity), (id, Validity::Valid));
    let third = (round + 1..20)
        .find(|r| proposer(&nodes, 1, *r) == judge)
        .unwrap();
    let once_more = nodes[judge]
        .app
        .restream(Height(1), Round::new(third), id)
        .unwrap();
    let mut last = Node::new(6 - maker - second - judge);
    last.begins(1, third);
    let heard = last.hears(&once_more).unwrap();
    assert_eq!((heard.value.0, heard.validity), (id, Validity::Valid));
    // The maker itself signs its own word again.
    let own = (1..20).find(|r| proposer(&nodes, 1, *r) == maker).unwrap();
    let own_again = nodes[maker]
        .app
        .restream(Height(1), Round::new(own), id)
        .unwrap();
    let mut last = Node::new(6 - maker - second - judge);
    last.begins(1, own);
    let heard = last.hears(&own_again).unwrap();
    assert_eq!((heard.value.0, heard.validity), (id, Validity::Valid));
}

/// Announcements that nobody wants leave nothing behind: no memory, and no belief that the round's proposer has spoken.
#[test]
fn tm_n3_tm_v6_strangers_announcements_are_forgotten() {
    let mut nodes = four();
    let maker = proposer(&nodes, 1, 0);
    let judge = (maker + 1) % 4;
    let block = proposal(&mut nodes, maker, 0);
    let genuine = announced(&nodes, &block, 0, maker);
    let Part::Init { init, signature } = genuine[0] else {
        panic!("the first part announces")
    };
    for n in 0..10_000u32 {
        let mut init = init;
        match n % 4 {
            0 => init.height = Height(u64::MAX - u64::from(n)),
            1 => init.round = n,
            2 => init.block.0[..4].copy_from_slice(&n.to_be_bytes()),
            _ => init.proposer = nodes[judge].app.address(),
        }
        let stranger = [Part::Init { init, signature }];
        assert_eq!(nodes[judge].hears(&stranger), None);
    }
    assert!(!nodes[judge].app.is_proposed());
    assert!(nodes[judge].hears(&genuine).is_some());
    assert!(nodes[judge].app.is_proposed());
}

#[test]
fn tm_v6_forged_garbled_and_uncalled_proposals_get_no_vote() {
    let mut nodes = four();
    let maker = proposer(&nodes, 1, 0);
    let judge = (maker + 1) % 4;
    let chain = nodes[0].app.ledger().chain_id();
    let ours = nodes[maker].proposes(1, 0).unwrap();
    let block = nodes[maker]
        .app
        .ledger()
        .undecided_block(&ours.value.value.0)
        .unwrap()
        .unwrap();
    let announce = |block: &Block, round: u32, by: usize, change: fn(&mut Announced)| {
        let signer = ChainSigner::new(chain, validator_key(by));
        let (init, bytes) = Announced::init(block, round, signer.address()).unwrap();
        let signature = signer.parts(&init);
        let mut announced = Announced {
            init,
            signature,
            bytes,
        };
        change(&mut announced);
        announced.signature = signer.parts(&announced.init);
        cut(&announced)
    };
    let keep = |_: &mut Announced| ();
    let validity = |node: &mut Node, parts: &[Part]| node.hears(parts).map(|v| v.validity);
    // A good signature over a block that breaks a rule.
    let mut wrong = block.clone();
    wrong.header.prev_state_root[0] ^= 1;
    let parts = announce(&wrong, 0, maker, keep);
    assert_eq!(validity(&mut nodes[judge], &parts), Some(Validity::Invalid));
    // From the future by more than clocks may differ.
    let mut future = block.clone();
    future.header.time_ms = NOW + 6_000;
    let parts = announce(&future, 0, maker, keep);
    let other = (maker + 2) % 4;
    assert_eq!(validity(&mut nodes[other], &parts), Some(Validity::Invalid));
    // Another block than the one announced, and bytes that are none.
    let parts = announce(&block, 0, maker, |a| a.init.block.0[0] ^= 1);
    let third = (maker + 3) % 4;
    assert_eq!(validity(&mut nodes[third], &parts), None);
    // Out of turn, too far ahead in rounds and heights, decided already.
    let stranger = (0..4).find(|n| *n != maker).unwrap();
    assert_eq!(
        validity(&mut nodes[judge], &announce(&block, 0, stranger, keep)),
        None
    );
    let far = (11..40).find(|r| proposer(&nodes, 1, *r) == maker).unwrap();
    assert_eq!(
        validity(&mut nodes[judge], &announce(&block, far, maker, keep)),
        None
    );
    let mut high = block.clone();
    high.header.height = 3;
    let by = proposer(&nodes, 3, 0);
    assert_eq!(
        validity(&mut nodes[judge], &announce(&high, 0, by, keep)),
        None
    );
    assert_eq!(
        validity(&mut nodes[judge], &ours.parts),
        Some(Validity::Valid)
    );
    one_block(&mut nodes, None);
    assert_eq!(validity(&mut nodes[judge], &ours.parts), None);
}

/// A validator whose clock is behind votes for no block that is stamped ahead of it. Two thirds may decide that block all the same,
/// or bind this validator to it: then its body is here.
#[test]
fn tm_h6_what_only_our_clock_is_against_is_here_when_others_decide_it() {
    let mut nodes = four();
    let maker = proposer(&nodes, 1, 0);
    let late = (maker + 1) % 4;
    let mut block = proposal(&mut nodes, maker, 0);
    block.header.time_ms = NOW + 6_000;
    let parts = announced(&nodes, &block, 0, maker);
    nodes[late].begins(1, 0);
    let heard = nodes[late].hears(&parts).map(|v| v.validity);
    assert_eq!(heard, Some(Validity::Invalid));
    let kept = nodes[late].app.ledger().undecided_block(&block.id());
    assert_eq!(kept.unwrap().as_ref(), Some(&block));
    let others: Vec<usize> = (0..4).filter(|n| *n != late).collect();
    let certificate = decision(&nodes, 1, 0, block.id(), &others);
    nodes[late].app.decided(&certificate).unwrap();
    assert_eq!(nodes[late].app.ledger().tip().id, block.id());
    // What breaks a rule is not kept.
    let mut nodes = four();
    block.header.prev_state_root[0] ^= 1;
    let parts = announced(&nodes, &block, 0, maker);
    nodes[late].begins(1, 0);
    let heard = nodes[late].hears(&parts).map(|v| v.validity);
    assert_eq!(heard, Some(Validity::Invalid));
    let kept = nodes[late].app.ledger().undecided_block(&block.id());
    assert_eq!(kept.unwrap(), None);
}

/// A vote was for it, so it was kept; a disk that lost it leaves a validator that says so, with the way on.
#[test]
fn tm_h6_a_decided_block_that_the_disk_has_lost_is_told_as_that() {
    let mut nodes = four();
    one_block(&mut nodes, None);
    let n = proposer(&nodes, 2, 0);
    let ours = nodes[n].proposes(2, 0).unwrap();
    let certificate = decision(&nodes, 2, 0, ours.value.value.0, &[0, 1, 2]);
    let Node {
        app, mempool, home, ..
    } = nodes.remove(n);
    drop((app, mempool));
    let kept = std::fs::read_dir(home.path().join("undecided")).unwrap();
    let removed = kept.map(|file| std::fs::remove_file(file.unwrap().path()).unwrap());
    assert_eq!(removed.count(), 1);
    let (mut app, _) = app_in(home.path(), n);
    let error = app.decided(&certificate).unwrap_err();
    let LedgerError::BodyLost { height: 2, id } = error else {
        panic!("{error}");
    };
    assert_eq!(id, certificate.value_id);
    assert!(error.to_string().contains("follow the chain"), "{error}");
}

#[test]
fn who_was_away_catches_up_from_what_others_serve() {
    let mut nodes = four();
    for _ in 0..4 {
        one_block(&mut nodes, Some(3));
    }
    let served = nodes[0]
        .app
        .decided_values(Height(1), Height(u64::MAX))
        .unwrap();
    assert_eq!(served.len(), 4);
    let address = nodes[3].app.address();
    let catch_up = |node: &mut Node, height: u64, round: Round, bytes: &[u8]| {
        node.app
            .synced(Height(height), round, address, bytes)
            .unwrap()
    };
    let (bytes, certificate) = &served[0];
    assert!(matches!(
        catch_up(&mut nodes[3], 1, certificate.round, &bytes[1..]),
        Synced::PeerFault
    ));
    assert!(matches!(
        catch_up(&mut nodes[3], 1, Round::Nil, bytes),
        Synced::PeerFault
    ));
    assert!(matches!(
        catch_up(&mut nodes[3], 2, certificate.round, bytes),
        Synced::PeerFault
    ));
    assert!(matches!(
        catch_up(&mut nodes[3], 1, certificate.round, &served[1].0),
        Synced::PeerFault
    ));
    assert!(matches!(
        catch_up(&mut nodes[3], 3, served[2].1.round, &served[2].0),
        Synced::NotNow
    ));
    assert!(!nodes[3].app.is_catching_up());
    for (height, (bytes, certificate)) in (1..).zip(&served) {
        let Synced::Value(value) = catch_up(&mut nodes[3], height, certificate.round, bytes) else {
            panic!("block {height} is as everybody decided it");
        };
        assert_eq!(
            (value.value.0, value.validity),
            (certificate.value_id, Validity::Valid)
        );
        nodes[3]
            .app
            .decided(&certificate.trim_vote_extensions())
            .unwrap();
        assert!(nodes[3].app.is_catching_up(), "the clock is not asked");
    }
    assert_eq!(nodes[3].root(), nodes[0].root());
    // Decided by the other three: they are ahead still. With its own vote it is back.
    one_block(&mut nodes, None);
    assert!(nodes[3].app.is_catching_up());
    one_block(&mut nodes, Some(0));
    assert!(!nodes[3].app.is_catching_up());
}

#[test]
fn a_certificate_grows_between_decided_and_finalized_and_a_forged_one_stops_us() {
    let mut nodes = four();
    let id = one_block(&mut nodes, None);
    let round = match nodes[0].app.ledger().block(1).unwrap().certificate {
        Certificate::Ed25519V1 { round, .. } => round,
    };
    let signatures = |node: &Node| match node.app.ledger().block(1).unwrap().certificate {
        Certificate::Ed25519V1 { sigs, .. } => sigs.len(),
    };
    assert_eq!(signatures(&nodes[0]), 3);
    let all = decision(&nodes, 1, round, id, &[0, 1, 2, 3]);
    nodes[0].app.finalized(&all).unwrap();
    assert_eq!(signatures(&nodes[0]), 4);
    let two = decision(&nodes, 2, 0, BlockId([1; 32]), &[0, 1]);
    assert!(
        nodes[0].app.decided(&two).is_err(),
        "a decision without a body or a quorum is an error of the disk or a forgery"
    );
    let twin = decision(&nodes, 1, round, BlockId([1; 32]), &[0, 1, 2]);
    assert!(nodes[0].app.finalized(&twin).is_err(), "a fork");
}

#[test]
fn tm_v1_who_votes_twice_is_reported_jailed_and_out_of_the_set() {
    let mut nodes = four();
    one_block(&mut nodes, None);
    let chain = nodes[0].app.ledger().chain_id();
    let liar = 2;
    let signer = ChainSigner::new(chain, validator_key(liar));
    let vote = |kind, value| {
        let vote = Vote {
            kind,
            height: Height(1),
            round: Round::new(0),
            value,
            validator: signer.address(),
        };
        signer.vote(vote).unwrap()
    };
    let (a, b) = (NilOrVal::Val(BlockId([1; 32])), NilOrVal::Nil);
    let twice = (vote(VoteType::Prevote, a), vote(VoteType::Prevote, b));
    // A vote in each step is what everybody casts.
    let honest = (vote(VoteType::Prevote, a), vote(VoteType::Precommit, a));
    nodes[0].app.report([honest], []).unwrap();
    for _ in 0..8 {
        one_block(&mut nodes, None);
    }
    assert_eq!(nodes[0].app.ledger().validators().validators().len(), 4);
    nodes[0].app.report([twice.clone()], []).unwrap();
    assert_eq!(nodes[0].mempool.len(), 1);
    for _ in 0..8 {
        one_block(&mut nodes, None);
    }
    for node in &nodes {
        let set = node.app.ledger().validators();
        assert_eq!(
            (set.validators().len(), set.power_of(&signer.address().0)),
            (3, None)
        );
    }
    nodes[0].app.report([twice], []).unwrap();
    assert!(nodes[0].mempool.is_empty(), "once is enough");
}

/// A proposer that shows each half of the others another block votes once, and is out all the same.
#[test]
fn tm_v1_who_proposes_twice_is_reported_jailed_and_out_of_the_set() {
    let mut nodes = four();
    one_block(&mut nodes, None);
    let chain = nodes[0].app.ledger().chain_id();
    let signer = ChainSigner::new(chain, validator_key(2));
    let proposed = |block: u8, pol_round| {
        let proposal = Proposal {
            height: Height(1),
            round: Round::new(3),
            value: Value(BlockId([block; 32])),
            pol_round,
            proposer: signer.address(),
        };
        signer.proposal(proposal).unwrap()
    };
    // The same block again, with the round in which it was voted for, is what a proposer may have to say.
    let honest = (proposed(1, Round::Nil), proposed(1, Round::new(2)));
    nodes[0].app.report([], [honest]).unwrap();
    assert!(nodes[0].mempool.is_empty());
    let twice = (proposed(2, Round::new(2)), proposed(1, Round::Nil));
    // It voted twice too, and contradicts itself again before the report is in a block: a second report would be refused.
    let voted = |block: u8| {
        let vote = Vote {
            kind: VoteType::Precommit,
            height: Height(1),
            round: Round::new(3),
            value: NilOrVal::Val(BlockId([block; 32])),
            validator: signer.address(),
        };
        signer.vote(vote).unwrap()
    };
    let votes = (voted(1), voted(2));
    nodes[0].app.report([votes], [twice.clone()]).unwrap();
    nodes[0].app.report([], [twice]).unwrap();
    assert_eq!(nodes[0].mempool.len(), 1);
    for _ in 0..8 {
        one_block(&mut nodes, None);
    }
    for node in &nodes {
        let set = node.app.ledger().validators();
        assert_eq!(set.power_of(&signer.address().0), None);
    }
}

/// Rounds that come when the test says so.
struct Late(Arc<std::sync::atomic::AtomicU64>);

impl BeaconSource for Late {
    fn round(&mut self, _: Epoch, round: u64) -> Option<Entry> {
        let newest = self.0.load(std::sync::atomic::Ordering::Relaxed);
        (round <= newest).then(|| beacon().sign(round))
    }
}

/// Under the beacon's clock a proposer waits for its epoch's round, but for no more than a quarter of the epoch (`beacon.md` §3).
#[test]
fn a_proposer_waits_a_quarter_of_an_epoch_for_its_round() {
    let home = tempfile::tempdir().unwrap();
    let mut genesis = common::genesis();
    genesis.clock = ClockMode::Beacon { epoch_ms: 2_000 };
    genesis.time_ms = 1_000;
    let ledger = Arc::new(common::open_with(home.path(), &genesis));
    let newest: Arc<std::sync::atomic::AtomicU64> = Arc::default();
    let first = ledger.validators().proposer(1, 0);
    let key = (0..4)
        .map(validator_key)
        .find(|key| key.verifying_key().to_bytes() == first.0)
        .unwrap();
    let parts = |newest: &Arc<_>| Parts {
        mempool: Arc::new(Mempool::new(ledger.chain_id())),
        signer: ChainSigner::new(ledger.chain_id(), key.clone()),
        beacon: Box::new(Late(Arc::clone(newest))),
        timing: Timing::default(),
        ledger: ledger.clone(),
    };
    let mut app = App::new(parts(&newest));
    // Epoch 5 begins at 9 s.
    let proposes = |app: &mut App, now_ms| {
        let (height, round) = (Height(1), Round::new(0));
        let due = app.is_due(now_ms);
        let ours = app.get_value(height, round, now_ms).unwrap();
        assert_eq!(due, ours.is_some());
        ours.map(|ours| {
            let id = ours.value.value.0;
            let block = app.ledger().undecided_block(&id).unwrap().unwrap();
            (block.header.epoch, block.body.beacons.len())
        })
    };
    newest.store(4, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(proposes(&mut app, 9_000), None);
    assert_eq!(proposes(&mut app, 9_499), None);
    newest.store(5, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(proposes(&mut app, 9_499), Some((Epoch(5), 5)));
    assert!(app.is_due(9_500));
    newest.store(3, std::sync::atomic::Ordering::Relaxed);
    assert!(!app.is_due(9_499));
    assert!(app.is_due(9_500), "with what there is");
    // One that starts now has only begun to ask.
    let mut restarted = App::new(parts(&newest));
    assert!(!restarted.is_due(9_700) && !restarted.is_due(10_199));
    assert!(restarted.is_due(10_200));
}
