//! The client's side of a put.

use std::sync::Arc;

use crate::{
    endpoint::Session,
    error::Error,
    verify::ReadAt,
    wire::{PutAck, PutHeader},
};

/// The bytes of a piece and its outboard ([`crate::verify::OutboardBuilder`]).
#[derive(Clone)]
pub struct PutSource {
    /// The unpadded piece.
    pub data: Arc<dyn ReadAt>,
    /// Pairs in pre-order.
    pub outboard: Arc<dyn ReadAt>,
}

/// Offers a piece, sends it when wanted, returns the provider's acknowledgement. Repeating it after a crash or a lost
/// answer is safe: a provider that has the piece under the same proposal acknowledges again without taking a byte.
pub async fn put(session: &Session, header: PutHeader, source: PutSource) -> Result<PutAck, Error> {
    let _ = (session, header, source);
    Err(Error::Invalid("landing".into()))
}
