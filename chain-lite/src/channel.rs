//! Payment channels: money set aside once, spent by signed vouchers, settled on chain at the end (`chain.md` §14).
//!
//! Walk: a client opens a channel to a provider, signs a [`Voucher`] with each request of `retrieval`, and the provider
//! redeems the last one of each lane. Vouchers are cumulative: only the newest counts, so losing one costs nobody anything.
//!
//! ```text
//! Open --Redeem*--> Open --Settle (either side)--> closing, CHANNEL_SETTLE epochs, Redeem* --Collect (anybody)--> gone
//! ```
//! Signed bytes (72 after the tag, numbers little-endian):
//! `"holdfast/voucher/v1" ‖ chain id 32 ‖ channel u64 ‖ lane u64 ‖ nonce u64 ‖ amount u128`.
//!
//! Only the payee redeems. A payer who could would sign itself a voucher with the highest nonce and the lowest amount, and
//! thereby void those it has given away. Ids count up and are never used again, so a voucher outlives no channel
//! (`threat-model.md` R1, C2, C3). Until collected, all of the money is in the channel (I1, I10).
//! Cost: one strict signature for each redemption, 40 µs. Memory: a leaf of at most [`MAX_LANES`] lanes of 32 bytes.

use borsh::{BorshDeserialize, BorshSerialize};
use ed25519_dalek::{Signer, SigningKey};
use serde::{Deserialize, Serialize};

use crate::account::{Address, ChainId, ChannelId};
use crate::codec;
use crate::error::{ChainError, Rule, Subject};
use crate::events::Event;
use crate::execute::{Work, require_some};
use crate::message::{Signature, verify_strict};
use crate::units::{Epoch, Overflow, TokenAmount};

/// Most lanes of a channel: sessions that pay side by side.
pub const MAX_LANES: usize = 64;

const VOUCHER_DOMAIN: &str = "holdfast/voucher/v1";

/// A promise of the payer: so much of the channel is the payee's, on this lane, in all.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Voucher {
    /// The chain on which it counts.
    pub chain_id: ChainId,
    /// The channel that it draws on.
    pub channel: ChannelId,
    /// One for each parallel session; 0 unless there are several.
    pub lane: u64,
    /// Higher than that of the lane's last redeemed voucher; the first is at least 1.
    pub nonce: u64,
    /// All that the lane has promised so far.
    pub amount: TokenAmount,
}

impl Voucher {
    /// What the payer signs.
    pub fn signing_bytes(&self) -> Vec<u8> {
        [VOUCHER_DOMAIN.as_bytes(), &codec::encode(self)].concat()
    }

    /// The voucher with its payer's signature.
    pub fn sign(self, key: &SigningKey) -> SignedVoucher {
        let signature = Signature(key.sign(&self.signing_bytes()).to_bytes());
        SignedVoucher {
            voucher: self,
            signature,
        }
    }
}

/// A voucher with a signature that has not been checked.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct SignedVoucher {
    /// What is promised.
    pub voucher: Voucher,
    /// The payer's, over the voucher's tagged bytes.
    pub signature: Signature,
}

impl SignedVoucher {
    /// Whether `payer` signed it, strictly.
    pub fn signature_holds(&self, payer: &Address) -> bool {
        verify_strict(payer, &self.voucher.signing_bytes(), &self.signature)
    }
}

/// What was redeemed on one lane.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Lane {
    /// Its number.
    pub lane: u64,
    /// Nonce of the last redeemed voucher.
    pub nonce: u64,
    /// Its amount.
    pub redeemed: TokenAmount,
}

/// A channel's leaf. It is gone once collected.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Channel {
    /// Whose money it is until redeemed.
    pub payer: Address,
    /// Who redeems.
    pub payee: Address,
    /// All of it.
    pub balance: TokenAmount,
    /// The redeemed part: the payee's at the end.
    pub due: TokenAmount,
    /// Lanes with a redeemed voucher, ascending.
    pub lanes: Vec<Lane>,
    /// The first epoch in which it takes no voucher and may be collected, once a side has asked for it; dark epochs since
    /// then are added.
    pub closes: Option<Epoch>,
}

impl Channel {
    fn require_party(&self, sender: &Address) -> Rule<()> {
        if *sender != self.payer && *sender != self.payee {
            return refuse_key();
        }
        Ok(())
    }
}

fn refuse_key<T>() -> Rule<T> {
    Err(ChainError::NotAllowed {
        what: Subject::ChannelKey,
    }
    .into())
}

/// Sets the sender's free money aside for a payee.
pub(crate) fn open(
    work: &mut Work<'_>,
    payer: &Address,
    payee: &Address,
    amount: TokenAmount,
) -> Rule<ChannelId> {
    require_some(amount)?;
    if payer == payee {
        return refuse_key();
    }
    work.debit(payer, amount)?;
    let id = ChannelId(work.net.next_channel);
    work.net.next_channel = id.0.checked_add(1).ok_or(Overflow)?;
    let channel = Channel {
        payer: *payer,
        payee: *payee,
        balance: amount,
        due: TokenAmount::ZERO,
        lanes: Vec::new(),
        closes: None,
    };
    work.save_channel(id, &channel)?;
    work.emit(Event::ChannelOpened {
        channel: id,
        payer: *payer,
        payee: *payee,
        amount,
    });
    Ok(id)
}

/// Payee only: counts a voucher.
pub(crate) fn redeem(work: &mut Work<'_>, sender: &Address, signed: &SignedVoucher) -> Rule<()> {
    let voucher = &signed.voucher;
    let mut channel = work.channel(voucher.channel)?;
    if *sender != channel.payee {
        return refuse_key();
    }
    if voucher.chain_id != work.chain_id {
        return Err(ChainError::NotAllowed {
            what: Subject::VoucherChain,
        }
        .into());
    }
    if let Some(closes) = channel.closes
        && is_closed(work, closes)?
    {
        let (what, now) = (Subject::Voucher, work.now);
        let latest = Epoch(closes.0.saturating_sub(1));
        return Err(ChainError::TooLate { what, latest, now }.into());
    }
    let at = channel
        .lanes
        .binary_search_by_key(&voucher.lane, |lane| lane.lane);
    let before = at.map_or(
        Lane {
            lane: voucher.lane,
            nonce: 0,
            redeemed: TokenAmount::ZERO,
        },
        |at| channel.lanes[at],
    );
    check_progress(voucher, &before)?;
    if at.is_err() && channel.lanes.len() >= MAX_LANES {
        let (value, max) = (channel.lanes.len() as u128 + 1, MAX_LANES as u128);
        return Err(ChainError::OutOfBounds {
            what: Subject::VoucherLane,
            value,
            min: 1,
            max,
        }
        .into());
    }
    let gain = voucher.amount.minus(before.redeemed)?;
    let due = channel.due.plus(gain)?;
    if due > channel.balance {
        return Err(ChainError::InsufficientFunds {
            purse: Subject::Channel,
            need: due,
            have: channel.balance,
        }
        .into());
    }
    // Last, because it is the only check that costs anything.
    if !signed.signature_holds(&channel.payer) {
        return Err(ChainError::BadSignature {
            what: Subject::Voucher,
        }
        .into());
    }
    channel.due = due;
    let lane = Lane {
        lane: voucher.lane,
        nonce: voucher.nonce,
        redeemed: voucher.amount,
    };
    match at {
        Ok(at) => channel.lanes[at] = lane,
        Err(at) => channel.lanes.insert(at, lane),
    }
    work.save_channel(voucher.channel, &channel)?;
    work.emit(Event::VoucherRedeemed {
        channel: voucher.channel,
        lane: voucher.lane,
        amount: gain,
        due,
    });
    Ok(())
}

/// `nonce > lane.nonce`, `amount >= lane.redeemed`.
fn check_progress(voucher: &Voucher, lane: &Lane) -> Rule<()> {
    let bounds = [
        (
            Subject::VoucherNonce,
            voucher.nonce.into(),
            u128::from(lane.nonce) + 1,
            u128::from(u64::MAX),
        ),
        (
            Subject::VoucherAmount,
            voucher.amount.0,
            lane.redeemed.0,
            u128::MAX,
        ),
    ];
    for (what, value, min, max) in bounds {
        if value < min {
            return Err(ChainError::OutOfBounds {
                what,
                value,
                min,
                max,
            }
            .into());
        }
    }
    Ok(())
}

/// Either side: the payee has [`crate::params::ChainParams::channel_settle`] epochs left for its vouchers.
pub(crate) fn settle(work: &mut Work<'_>, sender: &Address, id: ChannelId) -> Rule<()> {
    let mut channel = work.channel(id)?;
    channel.require_party(sender)?;
    if channel.closes.is_some() {
        return Err(ChainError::WrongState {
            what: Subject::Channel,
        }
        .into());
    }
    let closes = work.now.after(work.params.channel_settle);
    channel.closes = Some(closes);
    work.save_channel(id, &channel)?;
    work.emit(Event::ChannelSettling {
        channel: id,
        closes,
    });
    Ok(())
}

/// Whether as many lit epochs have passed as a payee has for its last vouchers: an outage takes none of them away.
fn is_closed(work: &Work<'_>, closes: Epoch) -> Rule<bool> {
    let span = work.params.channel_settle;
    Ok(work.lit_since(closes.before(span))? >= span)
}

/// Anybody, once it is closed: the due part to the payee, the rest to the payer. Nobody can lose by it, and no money waits
/// for a key that is lost.
pub(crate) fn collect(work: &mut Work<'_>, id: ChannelId) -> Rule<()> {
    let channel = work.channel(id)?;
    let Some(closes) = channel.closes else {
        return Err(ChainError::WrongState {
            what: Subject::Channel,
        }
        .into());
    };
    if !is_closed(work, closes)? {
        return Err(ChainError::TooEarly {
            what: Subject::Channel,
            earliest: closes,
            now: work.now,
        }
        .into());
    }
    let rest = channel.balance.minus(channel.due)?;
    work.remove_channel(id, &channel)?;
    for (who, amount) in [(channel.payee, channel.due), (channel.payer, rest)] {
        if !amount.is_zero() {
            work.credit(&who, amount)?;
        }
    }
    work.emit(Event::ChannelCollected {
        channel: id,
        to_payee: channel.due,
        to_payer: rest,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that a payer signs, field by field: `retrieval` writes the same without this crate.
    #[test]
    fn voucher_bytes_are_pinned() {
        let voucher = Voucher {
            chain_id: ChainId([1; 32]),
            channel: ChannelId(0x0203),
            lane: 4,
            nonce: 5,
            amount: TokenAmount(6 << 64),
        };
        let by_hand = [
            b"holdfast/voucher/v1".as_slice(),
            &[1; 32],
            &[3, 2, 0, 0, 0, 0, 0, 0],
            &[4, 0, 0, 0, 0, 0, 0, 0],
            &[5, 0, 0, 0, 0, 0, 0, 0],
            &[0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0],
        ]
        .concat();
        assert_eq!(voucher.signing_bytes(), by_hand);
        let key = SigningKey::from_bytes(&[7; 32]);
        let signed = voucher.sign(&key);
        assert!(signed.signature_holds(&Address::of(&key.verifying_key())));
        assert!(!signed.signature_holds(&Address([7; 32])));
    }
}
