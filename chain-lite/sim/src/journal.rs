//! What a validator's core must not forget: its votes, proposals and timeouts of the present height.
//!
//! Malachite writes this journal from an actor of its own; here the same entries go to the simulated disk, flushed before any
//! message leaves the node. One file per height. An entry is `length u32 ‖ digest 8 ‖ bytes`; a torn last one was never
//! flushed, so nobody saw what it says, and it is cut.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use chain_lite::log::Disk;
use chain_lite::vfs::Vfs;
use chain_lite_bft::codec::Codec;
use chain_lite_bft::context::ChainContext;
use malachite_codec::Codec as _;
use malachite_core_consensus::{Input, ProposedValue, SignedConsensusMsg};
use malachite_core_types::{PolkaCertificate, Round, Timeout, TimeoutKind, ValueOrigin};
use sha2::{Digest, Sha256};

use crate::disk::SimDisk;

const MESSAGE: u8 = 1;
const TIMEOUT: u8 = 2;
const VALUE: u8 = 3;
const POLKA: u8 = 4;

/// The journal of one height.
pub struct Journal {
    file: Arc<dyn Disk>,
    dirty: bool,
}

impl Journal {
    /// Opens the journal of `height` and removes others; gives what is in it.
    pub fn open(
        disk: &SimDisk,
        home: &Path,
        height: u64,
    ) -> io::Result<(Self, Vec<Input<ChainContext>>)> {
        let path = file(home, height);
        for (name, _) in disk.list(&home.join("journal"))? {
            let other = home.join("journal").join(name);
            if other != path {
                disk.remove(&other)?;
            }
        }
        let file = disk.open(&path)?;
        let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(0)];
        file.read_at(0, &mut bytes)?;
        let (entries, whole) = entries(&bytes);
        if whole < bytes.len() {
            file.truncate(whole as u64)?;
            file.sync()?;
        }
        Ok((Self { file, dirty: false }, entries))
    }

    /// Writes an entry. What is never to be kept is an error of the caller.
    pub fn append(&mut self, entry: &Input<ChainContext>) -> io::Result<()> {
        let Some(body) = encode(entry) else {
            return Err(io::Error::other("this input is not for the journal"));
        };
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let record = [&length.to_le_bytes()[..], &digest(&body), &body].concat();
        self.dirty = true;
        self.file.append(&record)
    }

    /// Returns once all entries survive a power cut.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.dirty {
            self.file.sync()?;
            self.dirty = false;
        }
        Ok(())
    }
}

fn file(home: &Path, height: u64) -> PathBuf {
    home.join("journal").join(format!("{height:020}"))
}

fn digest(body: &[u8]) -> [u8; 8] {
    let hash: [u8; 32] = Sha256::digest(body).into();
    let mut short = [0; 8];
    short.copy_from_slice(&hash[..8]);
    short
}

/// Whole entries, and the bytes they take.
fn entries(bytes: &[u8]) -> (Vec<Input<ChainContext>>, usize) {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(entry) = entry(&bytes[at..]) {
        at += entry.1;
        found.push(entry.0);
    }
    (found, at)
}

fn entry(bytes: &[u8]) -> Option<(Input<ChainContext>, usize)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (check, rest) = rest.split_first_chunk::<8>()?;
    let body = rest.get(..usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    (digest(body) == *check).then_some(())?;
    Some((decode(body)?, 12 + body.len()))
}

fn encode(entry: &Input<ChainContext>) -> Option<Vec<u8>> {
    let (tag, body) = match entry {
        Input::Vote(vote) => (
            MESSAGE,
            Codec.encode(&SignedConsensusMsg::Vote(vote.clone())).ok()?,
        ),
        Input::Proposal(p) => (
            MESSAGE,
            Codec
                .encode(&SignedConsensusMsg::Proposal(p.clone()))
                .ok()?,
        ),
        Input::ProposedValue(value, _) => (VALUE, Codec.encode(value).ok()?),
        Input::PolkaCertificate(certificate) => (POLKA, Codec.encode(certificate).ok()?),
        Input::TimeoutElapsed(timeout) => {
            let kind = kinds().iter().position(|kind| *kind == timeout.kind)?;
            let mut body = vec![u8::try_from(kind).ok()?];
            body.extend(timeout.round.as_u32()?.to_le_bytes());
            (TIMEOUT, body.into())
        }
        Input::StartHeight(..)
        | Input::Propose(_)
        | Input::RoundCertificate(_)
        | Input::SyncValueResponse(_) => {
            return None;
        }
    };
    Some([&[tag][..], &body].concat())
}

fn decode(bytes: &[u8]) -> Option<Input<ChainContext>> {
    let (tag, body) = bytes.split_first()?;
    let body = Bytes::copy_from_slice(body);
    match *tag {
        MESSAGE => match Codec.decode(body).ok()? {
            SignedConsensusMsg::Vote(vote) => Some(Input::Vote(vote)),
            SignedConsensusMsg::Proposal(proposal) => Some(Input::Proposal(proposal)),
        },
        VALUE => {
            let value: ProposedValue<ChainContext> = Codec.decode(body).ok()?;
            Some(Input::ProposedValue(value, ValueOrigin::Consensus))
        }
        POLKA => {
            let certificate: PolkaCertificate<ChainContext> = Codec.decode(body).ok()?;
            Some(Input::PolkaCertificate(certificate))
        }
        TIMEOUT => {
            let (kind, round) = body.split_first()?;
            let kind = *kinds().get(usize::from(*kind))?;
            let round = Round::new(u32::from_le_bytes(round.try_into().ok()?));
            Some(Input::TimeoutElapsed(Timeout::new(round, kind)))
        }
        _ => None,
    }
}

/// Timeouts that are kept; the wait for late precommits is not one of them.
fn kinds() -> [TimeoutKind; 4] {
    [
        TimeoutKind::Propose,
        TimeoutKind::Prevote,
        TimeoutKind::Precommit,
        TimeoutKind::Rebroadcast,
    ]
}
