//! Vouchers that this home's wallet has given away: what is promised once stays promised.
//!
//! Place: between `holdfast channel voucher` and [`retrieval::voucher`]. The payee redeems with the same bytes; the conversion to
//! the chain's own type is [`on_chain`]. Spec: `chain.md` §14.
//!
//! ```text
//! <home>/client/vouchers-<chain id>-<channel>   the newest voucher of each lane
//! record = version u16 ‖ borsh(signed vouchers, ascending by lane) ‖ BLAKE3 of it, 32 bytes
//! ```
//! A voucher is durable before it is shown, so that its nonce is never used for another one and a channel is never promised
//! twice. Amounts are totals: asking again for the same total gives the same voucher. A home that lost the file goes on from what
//! the chain has redeemed; the payee may then hold a newer voucher and refuse, and is right.

use std::collections::BTreeMap;

use borsh::{BorshDeserialize, BorshSerialize};
use chain_lite::account::{ChainId, ChannelId};
use chain_lite::channel::{self, Channel, MAX_LANES};
use chain_lite::message::Signature;
use chain_lite::units::TokenAmount;
use ed25519_dalek::SigningKey;
use retrieval::voucher::{SignedVoucher, Voucher, VoucherError};

use super::ClientError;
use super::record::RecordFile;
use crate::config::Home;

const VERSION: u16 = 1;

#[derive(BorshSerialize, BorshDeserialize)]
pub(super) struct Record {
    version: u16,
    vouchers: Vec<SignedVoucher>,
}

/// Why a voucher is not given.
#[derive(Debug, thiserror::Error)]
pub enum PromiseError {
    /// It does not follow the one before it.
    #[error("the voucher does not follow the last one of its lane: {0}")]
    Order(#[from] VoucherError),
    /// More than the channel holds.
    #[error(
        "channel {channel} holds {balance} tokens, and its lanes would promise {promised} together",
        balance = .balance.in_tokens(), promised = .promised.in_tokens()
    )]
    Empty {
        /// Which.
        channel: ChannelId,
        /// What it holds.
        balance: TokenAmount,
        /// What would be promised, this voucher included.
        promised: TokenAmount,
    },
    /// No further lane.
    #[error("a channel has at most {MAX_LANES} lanes")]
    Lanes,
    /// The file.
    #[error(transparent)]
    File(#[from] ClientError),
}

/// A retrieval voucher as the chain's message carries it: the same bytes.
pub fn on_chain(signed: &SignedVoucher) -> channel::SignedVoucher {
    let voucher = &signed.voucher;
    channel::SignedVoucher {
        voucher: channel::Voucher {
            chain_id: ChainId(voucher.chain_id),
            channel: ChannelId(voucher.channel),
            lane: voucher.lane,
            nonce: voucher.nonce,
            amount: TokenAmount(voucher.amount),
        },
        signature: Signature(signed.signature),
    }
}

/// The newest voucher that the chain has redeemed on a lane, without its signature.
pub fn redeemed(chain: ChainId, id: ChannelId, channel: &Channel, lane: u64) -> Voucher {
    let none = Voucher::none(chain.0, id.0, lane);
    let found = channel.lanes.iter().find(|known| known.lane == lane);
    found.map_or(none, |known| Voucher {
        nonce: known.nonce,
        amount: known.redeemed.0,
        ..none
    })
}

/// The vouchers given away out of one channel.
#[derive(Debug)]
pub struct Promises {
    file: RecordFile,
    chain: ChainId,
    id: ChannelId,
    newest: BTreeMap<u64, SignedVoucher>,
}

impl Promises {
    /// Reads what was given away.
    pub fn open(home: &Home, chain: ChainId, id: ChannelId) -> Result<Self, ClientError> {
        let path = home.client_dir().join(format!("vouchers-{chain}-{id}"));
        let file = RecordFile::new(home, path);
        let record: Option<Record> = file.read()?;
        let vouchers = record.map_or_else(Vec::new, |record| record.vouchers);
        let newest = vouchers.into_iter().map(|v| (v.voucher.lane, v)).collect();
        Ok(Self {
            file,
            chain,
            id,
            newest,
        })
    }

    /// Units promised or redeemed on each lane, the larger.
    pub fn by_lane(&self, channel: &Channel) -> BTreeMap<u64, u128> {
        let mut all: BTreeMap<u64, u128> = channel
            .lanes
            .iter()
            .map(|lane| (lane.lane, lane.redeemed.0))
            .collect();
        for (lane, signed) in &self.newest {
            let most = all.entry(*lane).or_default();
            *most = (*most).max(signed.voucher.amount);
        }
        all
    }

    /// The lane's voucher for `total` units in all; the caller holds the wallet's lock.
    pub fn promise(
        &mut self,
        channel: &Channel,
        lane: u64,
        total: TokenAmount,
        payer: &SigningKey,
    ) -> Result<SignedVoucher, PromiseError> {
        let known = redeemed(self.chain, self.id, channel, lane);
        let last = match self.newest.get(&lane) {
            Some(given) if given.voucher.amount == total.0 => {
                self.file.settle()?;
                return Ok(*given);
            }
            Some(given) if given.voucher.nonce > known.nonce => given.voucher,
            _ => known,
        };
        let next = last.next(total.0)?;
        let mut lanes = self.by_lane(channel);
        lanes.insert(lane, total.0);
        if lanes.len() > MAX_LANES {
            return Err(PromiseError::Lanes);
        }
        let promised = lanes.values().fold(0u128, |sum, v| sum.saturating_add(*v));
        if promised > channel.balance.0 {
            return Err(PromiseError::Empty {
                channel: self.id,
                balance: channel.balance,
                promised: TokenAmount(promised),
            });
        }
        let signed = next.sign(payer);
        self.newest.insert(lane, signed);
        self.file.write(&Record {
            version: VERSION,
            vouchers: self.newest.values().copied().collect(),
        })?;
        Ok(signed)
    }
}

#[cfg(test)]
mod tests {
    use chain_lite::account::Address;
    use chain_lite::channel::Lane;
    use chain_lite::codec;

    use super::*;
    use crate::identity::create_private_dir;

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    fn channel(lanes: Vec<Lane>) -> Channel {
        Channel {
            payer: Address::of(&key().verifying_key()),
            payee: Address([2; 32]),
            balance: TokenAmount(100),
            due: TokenAmount::ZERO,
            lanes,
            closes: None,
        }
    }

    fn open(dir: &std::path::Path) -> Promises {
        let home = Home::new(dir);
        create_private_dir(&home.client_dir()).expect("a folder");
        Promises::open(&home, ChainId([1; 32]), ChannelId(3)).expect("reads")
    }

    /// Two crates that do not know each other write the same bytes, field by field, and each takes the other's signature.
    #[test]
    fn tm_c3_both_crates_sign_and_send_the_same_bytes() {
        for at in 0u8..16 {
            let voucher = Voucher {
                chain_id: [at ^ 0x5a; 32],
                channel: u64::from(at) << 40 | 3,
                lane: u64::from(at) << 3,
                nonce: u64::MAX >> at,
                amount: u128::MAX >> (8 * at),
            };
            let here = voucher.sign(&key());
            let there = on_chain(&here);
            assert_eq!(here.voucher.signing_bytes(), there.voucher.signing_bytes());
            assert_eq!(here.to_bytes(), codec::encode(&there));
            assert_eq!(there.voucher.sign(&key()), there);
            let payer = Address::of(&key().verifying_key());
            assert!(there.signature_holds(&payer) && here.is_from(&payer.0));
            let mut forged = here;
            forged.voucher.amount ^= 1;
            assert!(!on_chain(&forged).signature_holds(&payer) && !forged.is_from(&payer.0));
        }
    }

    #[test]
    fn a_total_is_promised_once_and_never_taken_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let channel = channel(Vec::new());
        let give = |promises: &mut Promises, lane, total| {
            promises.promise(&channel, lane, TokenAmount(total), &key())
        };
        let first = give(&mut open(dir.path()), 0, 40).expect("given");
        assert_eq!((first.voucher.nonce, first.voucher.amount), (1, 40));
        // Killed before it was shown, asked for again, by a new process.
        assert_eq!(give(&mut open(dir.path()), 0, 40).expect("again"), first);
        let second = give(&mut open(dir.path()), 0, 60).expect("more");
        assert_eq!(second.voucher.nonce, 2);
        let less = give(&mut open(dir.path()), 0, 50);
        assert!(matches!(
            less,
            Err(PromiseError::Order(VoucherError::Less { .. }))
        ));
        // Lanes share the channel.
        assert!(give(&mut open(dir.path()), 1, 40).is_ok());
        let over = give(&mut open(dir.path()), 2, 1);
        assert!(matches!(over, Err(PromiseError::Empty { .. })), "{over:?}");
    }

    #[test]
    fn a_home_that_lost_its_file_goes_on_after_what_was_redeemed() {
        let dir = tempfile::tempdir().expect("a folder");
        let lane = Lane {
            lane: 0,
            nonce: 9,
            redeemed: TokenAmount(30),
        };
        let channel = channel(vec![lane]);
        let mut promises = open(dir.path());
        let next = promises.promise(&channel, 0, TokenAmount(50), &key());
        assert_eq!(next.expect("given").voucher.nonce, 10);
        let over = promises.promise(&channel, 1, TokenAmount(51), &key());
        assert!(matches!(over, Err(PromiseError::Empty { .. })));
    }
}
