//! Who is at the other end: a peer is its ed25519 network key, and nothing else.
//!
//! Walk: `endpoint` pins a [`PeerId`] in TLS; `serve` counts its limits by it; `fetch` scores by it.
//! Spec: `network.md` §2.5. The provider's record on chain holds the same 32 bytes as `net_key`, so a client that
//! read the chain knows whom it must meet; no certificate, no name, no expiry takes part.
//! Bytes: a peer id is the 32-byte compressed public key; text is 64 lower-case hex digits; an address is
//! `<peer id>@<ip>:<port>`.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use borsh::{BorshDeserialize, BorshSerialize};
use ed25519_dalek::SigningKey;

/// The network identity of a peer: its ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct PeerId(pub [u8; 32]);

impl PeerId {
    /// The 32 bytes of the public key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// First eight hex digits: enough for a log line, never enough for a decision.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..4])
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({self})")
    }
}

/// The addresses that count as one: an IPv4 address alone, of IPv6 a network of 64 bits, which has one owner.
pub fn network_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (!0 << 64)).into(),
    }
}

/// Text that is no peer id or peer address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParsePeerError {
    /// Not 64 hex digits.
    #[error("a peer id is 64 hex digits, got {0:?}")]
    Id(String),
    /// Not `<peer id>@<ip>:<port>`.
    #[error("a peer address is <64 hex digits>@<ip>:<port>, got {0:?}")]
    Addr(String),
}

impl FromStr for PeerId {
    type Err = ParsePeerError;

    fn from_str(text: &str) -> Result<Self, ParsePeerError> {
        let mut key = [0; 32];
        hex::decode_to_slice(text, &mut key).map_err(|_| ParsePeerError::Id(clip(text)))?;
        Ok(Self(key))
    }
}

/// A peer and where it listens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerAddr {
    /// The key that the TLS handshake must prove.
    pub peer: PeerId,
    /// Its UDP socket.
    pub addr: SocketAddr,
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.peer, self.addr)
    }
}

impl FromStr for PeerAddr {
    type Err = ParsePeerError;

    fn from_str(text: &str) -> Result<Self, ParsePeerError> {
        let (peer, addr) = text
            .split_once('@')
            .ok_or_else(|| ParsePeerError::Addr(clip(text)))?;
        let addr = addr.parse().map_err(|_| ParsePeerError::Addr(clip(text)))?;
        Ok(Self {
            peer: peer.parse()?,
            addr,
        })
    }
}

/// Keeps a hostile string from filling an error message.
fn clip(text: &str) -> String {
    text.chars().take(120).collect()
}

/// The private half of a network key. It lives on an internet-facing host, so it is kept apart from every key that
/// holds money; it is wiped from memory when dropped and never printed.
#[derive(Clone)]
pub struct NetSecret(SigningKey);

impl NetSecret {
    /// A fresh key from the operating system's randomness: what a client uses that needs no name of its own.
    pub fn generate() -> Self {
        Self(SigningKey::generate(&mut rand::rngs::OsRng))
    }

    /// The key of a stored 32-byte seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The seed, for the key file.
    pub fn to_seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    pub fn peer_id(&self) -> PeerId {
        PeerId(self.0.verifying_key().to_bytes())
    }
}

impl fmt::Debug for NetSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetSecret(of {})", self.peer_id().short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let peer = NetSecret::from_seed(&[7; 32]).peer_id();
        assert_eq!(peer.to_string().parse::<PeerId>(), Ok(peer));
        let addr = PeerAddr {
            peer,
            addr: "[::1]:4711".parse().expect("a literal address"),
        };
        assert_eq!(addr.to_string().parse::<PeerAddr>(), Ok(addr));
    }

    #[test]
    fn bad_text_is_refused_and_clipped() {
        assert!("00".parse::<PeerId>().is_err());
        assert!("zz".repeat(32).parse::<PeerId>().is_err());
        assert!("x@127.0.0.1:1".parse::<PeerAddr>().is_err());
        let error = "9"
            .repeat(1 << 20)
            .parse::<PeerAddr>()
            .expect_err("no address");
        assert!(error.to_string().len() < 300);
    }

    #[test]
    fn secrets_are_not_printed() {
        let secret = NetSecret::from_seed(&[0xab; 32]);
        assert!(!format!("{secret:?}").contains("abab"));
    }
}
