//! Which waiting pieces go into the next sector, and when.
//!
//! Place in the walk: after [`super::intake`] and the deals' publication, before `prover::piece::layout` and sealing.
//! Pure: pieces, the clock and a policy come in; an ordered list of deals comes out.
//! Spec: `spec/chain.md` §6 (pieces in listed order, each aligned to its own padded size, zero pieces in the gaps).
//!
//! Sizes are powers of two. Listed from large to small they leave no gap, so a set of pieces fits a sector exactly when
//! the sum of its padded sizes does; no search is needed. Earliest start comes first, because a deal that misses its start
//! costs its whole collateral; a piece that does not fit any more lets smaller, later ones pass.
//!
//! A sector is closed when it is full, when its oldest piece has waited long enough, or when the earliest start is so near
//! that sealing must begin. Pieces whose start can no longer be met are left out: one of them would make the chain refuse
//! the whole sector's proof.

use chain_lite::account::DealId;
use chain_lite::units::{Epoch, EpochCount};
use prover::PaddedPieceSize;

/// A published deal that no sector holds yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitingPiece {
    /// Which deal.
    pub deal: DealId,
    /// Its padded size.
    pub size: PaddedPieceSize,
    /// Last epoch at which its sector may be proven.
    pub start: Epoch,
    /// First epoch after the deal.
    pub end: Epoch,
    /// When we saw it published; waiting is counted from here.
    pub published: Epoch,
}

/// How eagerly sectors are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackPolicy {
    /// Padded bytes of one sector.
    pub sector_bytes: u64,
    /// Most deals in a sector (`MAX_DEALS_PER_SECTOR`).
    pub max_deals: usize,
    /// Close a part-filled sector when its oldest piece has waited this long.
    /// Longer fills sectors better; shorter reaches rung 3 of the proof ladder sooner.
    pub max_wait: EpochCount,
    /// Close when the earliest start is this near, whatever the fill: the time one sector needs, queue included.
    pub seal_lead: EpochCount,
    /// Leave out pieces that start sooner than this: they cannot be active in time.
    pub hopeless: EpochCount,
}

/// Chooses the deals of the next sector, in the order in which they are laid out, or `None` if it is better to wait.
///
/// # Panics
/// Never; a piece larger than a sector is left waiting (intake refuses those).
pub fn choose(waiting: &[WaitingPiece], now: Epoch, policy: &PackPolicy) -> Option<Vec<DealId>> {
    let mut candidates: Vec<&WaitingPiece> = waiting
        .iter()
        .filter(|piece| piece.start.0 > now.0.saturating_add(policy.hopeless.0))
        .filter(|piece| piece.size.bytes() <= policy.sector_bytes)
        .collect();
    candidates.sort_by_key(|piece| (piece.start, piece.published, piece.deal));

    let mut chosen: Vec<&WaitingPiece> = Vec::new();
    let mut free = policy.sector_bytes;
    for piece in &candidates {
        if piece.size.bytes() <= free && chosen.len() < policy.max_deals {
            free -= piece.size.bytes();
            chosen.push(piece);
        }
    }
    // Full also means: the next one in line did not fit, so waiting cannot improve much.
    let full = free == 0 || chosen.len() < candidates.len();
    let oldest = chosen.iter().map(|piece| piece.published).min()?;
    let first_start = chosen.iter().map(|piece| piece.start).min()?;
    let waited = now.0.saturating_sub(oldest.0) >= policy.max_wait.0;
    let due = first_start.0.saturating_sub(now.0) <= policy.seal_lead.0;
    if !(full || waited || due) {
        return None;
    }
    chosen.sort_by_key(|piece| (std::cmp::Reverse(piece.size.bytes()), piece.deal));
    Some(chosen.iter().map(|piece| piece.deal).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: PackPolicy = PackPolicy {
        sector_bytes: 2048,
        max_deals: 4,
        max_wait: EpochCount(20),
        seal_lead: EpochCount(50),
        hopeless: EpochCount(10),
    };

    fn piece(id: u8, size: u64, start: u64, published: u64) -> WaitingPiece {
        WaitingPiece {
            deal: DealId([id; 32]),
            size: PaddedPieceSize::new(size).expect("a power of two of at least 128"),
            start: Epoch(start),
            end: Epoch(start + 100),
            published: Epoch(published),
        }
    }

    #[test]
    fn waits_for_more_then_closes_by_age_by_start_or_when_full() {
        let one = [piece(1, 512, 1000, 0)];
        assert_eq!(choose(&one, Epoch(19), &POLICY), None);
        assert!(
            choose(&one, Epoch(20), &POLICY).is_some(),
            "waited long enough"
        );
        let near = [piece(1, 512, 60, 5)];
        assert!(choose(&near, Epoch(10), &POLICY).is_some(), "start is near");
        let full = [piece(1, 1024, 1000, 0), piece(2, 1024, 1000, 0)];
        assert!(choose(&full, Epoch(0), &POLICY).is_some(), "full");
        assert_eq!(choose(&[], Epoch(0), &POLICY), None);
    }

    #[test]
    fn a_piece_that_cannot_start_in_time_does_not_spoil_the_sector() {
        let pieces = [piece(1, 512, 12, 0), piece(2, 512, 40, 0)];
        assert_eq!(
            choose(&pieces, Epoch(5), &POLICY),
            Some(vec![DealId([2; 32])])
        );
    }

    #[test]
    fn the_most_urgent_come_first_and_the_list_runs_from_large_to_small() {
        let pieces = [
            piece(1, 128, 100, 0),
            piece(2, 1024, 500, 0),
            piece(3, 1024, 200, 0),
            piece(4, 512, 300, 0),
        ];
        // 1, 3, 4 and nothing of 2: it does not fit beside the more urgent ones.
        assert_eq!(
            choose(&pieces, Epoch(0), &POLICY),
            Some(vec![DealId([3; 32]), DealId([4; 32]), DealId([1; 32])])
        );
    }

    proptest! {
        #[test]
        fn a_choice_fits_is_ordered_without_gaps_and_never_repeats_a_deal(
            sizes in proptest::collection::vec((7u32..13, 0u64..400, 0u64..50), 0..40),
            now in 0u64..100,
        ) {
            let pieces: Vec<WaitingPiece> = sizes
                .iter()
                .enumerate()
                .map(|(i, (log, start, published))| {
                    piece(u8::try_from(i).expect("few"), 1 << log, *start, *published)
                })
                .collect();
            if let Some(chosen) = choose(&pieces, Epoch(now), &POLICY) {
                let find = |id: &DealId| pieces.iter().find(|p| p.deal == *id).expect("one of ours");
                let mut offset = 0u64;
                let mut previous = u64::MAX;
                for id in &chosen {
                    let size = find(id).size.bytes();
                    prop_assert!(find(id).start.0 > now + 10);
                    prop_assert!(size <= previous);
                    prop_assert_eq!(offset % size, 0, "aligned without a gap");
                    offset += size;
                    previous = size;
                }
                prop_assert!(offset <= 2048 && !chosen.is_empty() && chosen.len() <= 4);
                let mut unique = chosen.clone();
                unique.sort();
                unique.dedup();
                prop_assert_eq!(unique.len(), chosen.len());
            }
        }
    }
}
