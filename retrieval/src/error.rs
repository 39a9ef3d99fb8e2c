//! What can go wrong between two peers, by who is to blame.
//!
//! Walk: every async call of the crate returns [`Error`]; `fetch` turns the errors of many providers into one story.

use std::{io, sync::Arc};

use crate::{
    peer::PeerAddr,
    range::RangeError,
    verify::VerifyError,
    wire::{Failure, WireError},
};

/// A failed exchange with one peer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The peer could not be reached or went away; trying later may help.
    #[error("cannot reach {peer}: {why}")]
    Unreachable {
        /// Who.
        peer: PeerAddr,
        /// What the transport said.
        why: String,
    },
    /// The peer at that address has another key, or serves another chain. Trying again will not help.
    #[error(
        "{peer} is not whom we expect: {why}; check the provider's address and network key on chain"
    )]
    WrongPeer {
        /// Whom we expected.
        peer: PeerAddr,
        /// What the handshake said.
        why: String,
    },
    /// The connection or stream ended before the answer was complete.
    #[error("the peer ended the exchange early: {0}")]
    Closed(String),
    /// No progress within the stated time.
    #[error("no progress for {0:?}")]
    Stalled(std::time::Duration),
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Wire(#[from] WireError),
    /// The peer sent something that does not belong here.
    #[error("the peer broke the protocol: {0}")]
    Protocol(String),
    /// The peer sent bytes that do not match the root: a lie or a broken disk.
    #[error("the peer sent wrong data: {0}")]
    BadData(#[from] VerifyError),
    /// The peer says no.
    #[error("the peer refused: {0}")]
    Refused(Failure),
    /// The request makes no sense; the caller's mistake.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// Our own file, socket or setting.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The cause.
        source: Arc<io::Error>,
    },
    /// A value of ours breaks a limit.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// Wraps an I/O error of our own side.
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            what,
            source: Arc::new(source),
        }
    }

    /// Whether the peer is proven wrong or hostile, so that it should not be asked again.
    pub fn is_lie(&self) -> bool {
        matches!(
            self,
            Self::BadData(_) | Self::Wire(_) | Self::Protocol(_) | Self::WrongPeer { .. }
        )
    }
}
