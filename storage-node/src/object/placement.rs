//! Placement: which n providers get the n shards of a segment.
//!
//! Pure: the same candidates, seed and needs give the same choice, so a resumed put and an auditor can redo it. Spec:
//! `DESIGN.md` §3, `threat-model.md` Y1, P23.
//!
//! Rules, in this order: a candidate must be able to take the shard (room, sector size, price, not failing); at most one per
//! owner and one per network neighbourhood (IPv4 /24, IPv6 /48; loopback is exempt, since a devnet is one machine). Among
//! those, providers with fewer remembered failures come first, then the order drawn from the seed: neither side picks. The
//! seed is a beacon output and the file tag, so a Sybil operator cannot grind its way to more than its share.
//!
//! The labels of a put's deals name the epoch whose beacon drew its holders ([`super::manifest::Label`]), so that whoever audits it can
//! draw again: [`put_seed`], [`group_seed`], [`is_in_order`].
//!
//! Owners and addresses change after a put. [`clumps`] says which holders have come together since: health counts such a clump as
//! one, and a repair stays out of it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use sha2::{Digest, Sha256};

/// A provider as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The provider's id.
    pub provider: u64,
    /// Its owner's address: one shard per owner.
    pub owner: [u8; 32],
    /// Where it is reached; empty counts as unreachable.
    pub hosts: Vec<IpAddr>,
    /// Bytes it says it can still take.
    pub free_bytes: u64,
    /// Largest padded piece it takes.
    pub max_piece: u64,
    /// Price per epoch for a piece of the size in question, in the smallest unit.
    pub price: u128,
    /// Failures this client remembers.
    pub failures: u32,
}

/// Where a shard is or was: what decides whether two holders may be one operator's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The owner's address.
    pub owner: [u8; 32],
    /// Where it is reached.
    pub hosts: Vec<IpAddr>,
}

/// What one segment needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Providers wanted.
    pub count: usize,
    /// Padded bytes of each piece.
    pub piece_size: u64,
    /// Highest price per epoch and piece.
    pub max_price: u128,
}

/// Why no placement exists.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{found} of the {wanted} providers needed are available ({candidates} known; {refused} cannot take the piece, \
     {crowded} share an owner or network with another)"
)]
pub struct PlacementError {
    /// Providers needed.
    pub wanted: usize,
    /// Distinct ones found.
    pub found: usize,
    /// All candidates.
    pub candidates: usize,
    /// Left out for room, size, price or reachability.
    pub refused: usize,
    /// Left out for a shared owner or neighbourhood.
    pub crowded: usize,
}

/// Orders the candidates for one segment and takes the first that may be taken together; `excluded` ones are not considered, and
/// owners and neighbourhoods of `taken` count as occupied (a repair keeps what is healthy).
pub fn place(
    candidates: &[Candidate],
    need: &Need,
    seed: &[u8; 32],
    excluded: &BTreeSet<u64>,
    taken: &[Holder],
) -> Result<Vec<u64>, PlacementError> {
    let mut able: Vec<&Candidate> = candidates
        .iter()
        .filter(|c| !excluded.contains(&c.provider) && can_take(c, need))
        .collect();
    let refused = candidates.len() - able.len();
    able.sort_by_cached_key(|c| (c.failures, draw(seed, c.provider)));

    let mut occupied = Occupied::default();
    for holder in taken {
        // Whether or not they may stand together: each keeps its neighbours out.
        occupied.mark(&holder.owner, &holder.hosts);
    }
    let mut chosen = Vec::with_capacity(need.count);
    let mut crowded = 0;
    for candidate in able {
        if chosen.len() == need.count {
            break;
        }
        if occupied.is_free(&candidate.owner, &candidate.hosts) {
            occupied.mark(&candidate.owner, &candidate.hosts);
            chosen.push(candidate.provider);
        } else {
            crowded += 1;
        }
    }
    if chosen.len() < need.count {
        return Err(PlacementError {
            wanted: need.count,
            found: chosen.len(),
            candidates: candidates.len(),
            refused,
            crowded,
        });
    }
    Ok(chosen)
}

fn can_take(candidate: &Candidate, need: &Need) -> bool {
    !candidate.hosts.is_empty()
        && candidate.free_bytes >= need.piece_size
        && candidate.max_piece >= need.piece_size
        && candidate.price <= need.max_price
}

/// Seed of all draws of a put: a beacon's output, known to nobody before its epoch, and the tag that links the put's deals.
pub fn put_seed(beacon: &[u8; 32], file_tag: &[u8; 16]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"holdfast/placement-seed/v1");
    hash.update(beacon);
    hash.update(file_tag);
    hash.finalize().into()
}

/// A group of pieces that no two of one operator may hold. Each has a draw of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// The shards of a segment.
    Segment(u64),
    /// The copies of a part of the manifest.
    ManifestPart(u64),
}

/// Seed of one group's draw.
pub fn group_seed(put_seed: &[u8; 32], group: Group) -> [u8; 32] {
    let (kind, index) = match group {
        Group::Segment(index) => (0u8, index),
        Group::ManifestPart(index) => (1, index),
    };
    let mut hash = Sha256::new();
    hash.update(put_seed);
    hash.update([kind]);
    hash.update(index.to_be_bytes());
    hash.finalize().into()
}

/// Whether these providers, shard by shard, stand in the order that the seed draws. So do the holders of a group all of whose first
/// choices took their shards; who else was able to take one, and was drawn before them or after, only the client knew.
pub fn is_in_order(seed: &[u8; 32], holders: &[u64]) -> bool {
    holders.is_sorted_by_key(|provider| draw(seed, *provider))
}

fn draw(seed: &[u8; 32], provider: u64) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"holdfast/placement/v1");
    hash.update(seed);
    hash.update(provider.to_be_bytes());
    hash.finalize().into()
}

/// Owners and neighbourhoods that already hold a shard.
#[derive(Default)]
struct Occupied {
    owners: BTreeSet<[u8; 32]>,
    neighbourhoods: BTreeSet<[u8; 7]>,
}

impl Occupied {
    fn is_free(&self, owner: &[u8; 32], hosts: &[IpAddr]) -> bool {
        let mut near = hosts.iter().filter_map(neighbourhood);
        !self.owners.contains(owner) && near.all(|near| !self.neighbourhoods.contains(&near))
    }

    fn mark(&mut self, owner: &[u8; 32], hosts: &[IpAddr]) {
        self.owners.insert(*owner);
        let near = hosts.iter().filter_map(neighbourhood);
        self.neighbourhoods.extend(near);
    }
}

/// Which of the holders of one group may be one operator's: those that share an owner or a neighbourhood, directly or by way of
/// others. For each of them the position of the first one of its clump.
pub fn clumps(holders: &[Holder]) -> Vec<usize> {
    let near = |holder: &Holder| -> BTreeSet<_> {
        holder.hosts.iter().filter_map(neighbourhood).collect()
    };
    let near: Vec<_> = holders.iter().map(near).collect();
    let mut clump: Vec<usize> = (0..holders.len()).collect();
    for (i, holder) in holders.iter().enumerate() {
        for (j, other) in holders[..i].iter().enumerate() {
            if holder.owner == other.owner || !near[i].is_disjoint(&near[j]) {
                let (first, later) = (clump[i].min(clump[j]), clump[i].max(clump[j]));
                let joined = clump.iter_mut().filter(|of| **of == later);
                joined.for_each(|of| *of = first);
            }
        }
    }
    clump
}

/// The /24 or /48 of an address, tagged by family; `None` for loopback.
fn neighbourhood(host: &IpAddr) -> Option<[u8; 7]> {
    let host = host.to_canonical();
    if host.is_loopback() {
        return None;
    }
    Some(match host {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            [4, a, b, c, 0, 0, 0]
        }
        IpAddr::V6(v6) => {
            let o = v6.octets();
            [6, o[0], o[1], o[2], o[3], o[4], o[5]]
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate(provider: u64, owner: u8, host: &str) -> Candidate {
        Candidate {
            provider,
            owner: [owner; 32],
            hosts: vec![host.parse().expect("an address")],
            free_bytes: 1 << 30,
            max_piece: 8 << 20,
            price: 10,
            failures: 0,
        }
    }

    fn holder(candidate: &Candidate) -> Holder {
        Holder {
            owner: candidate.owner,
            hosts: candidate.hosts.clone(),
        }
    }

    fn need(count: usize) -> Need {
        Need {
            count,
            piece_size: 1024,
            max_price: 10,
        }
    }

    fn none() -> BTreeSet<u64> {
        BTreeSet::new()
    }

    #[test]
    fn tm_y1_one_per_owner_and_one_per_neighbourhood() {
        let all = [
            candidate(1, 1, "10.0.0.1"),
            candidate(2, 1, "10.0.1.1"),
            candidate(3, 3, "10.0.0.200"),
            candidate(4, 4, "::ffff:10.0.0.9"),
            candidate(5, 5, "2001:db8:1:ffff::1"),
            candidate(6, 6, "2001:db8:1::2"),
        ];
        for seed in 0..50u8 {
            // Candidates 1, 3, 4 share a /24 and 1, 2 an owner; 5, 6 share a /48: never more than three stand together.
            let seed = [seed; 32];
            let error = place(&all, &need(4), &seed, &none(), &[]).expect_err("too crowded");
            assert!(error.crowded >= 2 && error.found <= 3, "{error}");
            let two =
                place(&all, &need(2), &seed, &none(), &[]).expect("two always stand together");
            assert_ne!(two[0], two[1]);
        }
    }

    #[test]
    fn tm_y1_holders_of_one_owner_or_network_are_one_clump() {
        let of = |all: &[(u8, &str)]| -> Vec<usize> {
            let holders = all
                .iter()
                .map(|(owner, host)| holder(&candidate(0, *owner, host)));
            clumps(&holders.collect::<Vec<_>>())
        };
        assert_eq!(of(&[]), [0usize; 0]);
        // All loopback: by owner alone.
        assert_eq!(
            of(&[(1, "127.0.0.1"), (2, "127.0.0.1"), (1, "::1")]),
            [0, 1, 0]
        );
        assert_eq!(
            of(&[(1, "10.0.0.1"), (2, "10.0.1.1"), (3, "::ffff:10.0.0.9")]),
            [0, 1, 0]
        );
        // The last one joins two clumps, by its owner and by its network.
        let chain = [
            (1, "10.0.0.1"),
            (2, "10.0.1.1"),
            (3, "10.0.2.1"),
            (2, "10.0.0.2"),
        ];
        assert_eq!(of(&chain), [0, 0, 2, 0]);
        let late = [
            (1, "10.0.0.1"),
            (2, "10.0.1.1"),
            (3, "10.0.2.1"),
            (3, "10.0.1.9"),
        ];
        assert_eq!(of(&late), [0, 1, 1, 1]);
    }

    /// Two that stand together although they may not: each of them keeps its own owner and network closed.
    #[test]
    fn tm_y1_every_holder_keeps_its_neighbours_out() {
        let taken = [
            candidate(1, 1, "10.0.0.1"),
            candidate(2, 2, "10.0.0.2"),
            candidate(3, 1, "10.0.3.1"),
        ];
        let taken: Vec<_> = taken.iter().map(holder).collect();
        let near = [
            candidate(4, 2, "10.0.9.1"),
            candidate(5, 5, "10.0.3.7"),
            candidate(6, 1, "10.0.8.1"),
        ];
        let error = place(&near, &need(1), &[0; 32], &none(), &taken).expect_err("all are near");
        assert_eq!((error.found, error.crowded), (0, 3));
    }

    #[test]
    fn tm_y1_what_is_drawn_stands_in_order_and_hardly_anything_else_does() {
        let all: Vec<_> = (0..6).map(|i| candidate(i, i as u8, "127.0.0.1")).collect();
        let mut others = 0;
        for segment in 0..100 {
            let seed = group_seed(&[7; 32], Group::Segment(segment));
            let drawn = place(&all, &need(6), &seed, &none(), &[]).expect("six owners");
            assert!(is_in_order(&seed, &drawn));
            let swapped = [&drawn[1..2], &drawn[..1], &drawn[2..]].concat();
            assert!(!is_in_order(&seed, &swapped));
            for other in [
                group_seed(&[7; 32], Group::ManifestPart(segment)),
                group_seed(&[8; 32], Group::Segment(segment)),
            ] {
                others += u32::from(is_in_order(&other, &drawn));
            }
        }
        // One of 6! by chance.
        assert!(others <= 3, "{others} of 200");
    }

    #[test]
    fn a_devnet_on_loopback_is_placed_by_owner_alone() {
        let all: Vec<_> = (0..4).map(|i| candidate(i, i as u8, "127.0.0.1")).collect();
        let mut chosen = place(&all, &need(4), &[0; 32], &none(), &[]).expect("four owners");
        chosen.sort_unstable();
        assert_eq!(chosen, [0, 1, 2, 3]);
    }

    #[test]
    fn room_price_size_and_reachability_are_conditions() {
        let base = candidate(1, 1, "127.0.0.1");
        let full = Candidate {
            free_bytes: 1023,
            ..base.clone()
        };
        let dear = Candidate {
            price: 11,
            ..base.clone()
        };
        let small = Candidate {
            max_piece: 512,
            ..base.clone()
        };
        let lost = Candidate {
            hosts: vec![],
            ..base.clone()
        };
        for unable in [full, dear, small, lost] {
            let error = place(&[unable], &need(1), &[0; 32], &none(), &[]).expect_err("unable");
            assert_eq!(error.refused, 1);
        }
        assert!(place(&[base], &need(1), &[0; 32], &none(), &[]).is_ok());
    }

    #[test]
    fn tm_p23_remembered_failures_come_last() {
        let mut all: Vec<_> = (0..5).map(|i| candidate(i, i as u8, "127.0.0.1")).collect();
        all[2].failures = 3;
        for seed in 0..20u8 {
            let chosen = place(&all, &need(4), &[seed; 32], &none(), &[]).expect("four others");
            assert!(!chosen.contains(&2));
        }
        assert!(
            place(&all, &need(5), &[0; 32], &none(), &[])
                .expect("all")
                .contains(&2)
        );
    }

    #[test]
    fn tm_y1_the_seed_decides_and_every_provider_gets_its_share() {
        let all: Vec<_> = (0..8).map(|i| candidate(i, i as u8, "127.0.0.1")).collect();
        let mut counts = [0u32; 8];
        for seed in 0..2000u32 {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&seed.to_be_bytes());
            for provider in place(&all, &need(2), &bytes, &none(), &[]).expect("eight owners") {
                counts[provider as usize] += 1;
            }
        }
        // 4,000 draws over eight: mean 500, standard deviation about 19; six of them either way.
        assert!(counts.iter().all(|c| (386..=614).contains(c)), "{counts:?}");
    }

    /// `threat-model.md`, table of Y: an operator who passes for many, with its own owners and networks, gets no more than its
    /// share of the draws; the chance that it can destroy a file is the table's. In one network it holds one shard at most.
    #[test]
    fn tm_y1_an_operator_of_many_names_destroys_as_few_files_as_the_table_says() {
        const NAMES: u64 = 120;
        const FILES: u32 = 3_000;
        let world = |operators: u64, clumped: bool| -> Vec<Candidate> {
            let host = |i: u64| match clumped && i < operators {
                true => format!("10.0.0.{}", i + 1),
                false => format!("10.{}.{}.1", i / 200 + 1, i % 200),
            };
            (0..NAMES)
                .map(|i| Candidate {
                    owner: crate::object::placement::draw(&[9; 32], i),
                    ..candidate(i, 0, &host(i))
                })
                .collect()
        };
        // k, m, share of the names in percent, destroyed files in a thousand by the table.
        for (k, m, share, table) in [
            (4usize, 2usize, 10, 16.0),
            (4, 2, 20, 99.0),
            (4, 2, 33, 310.0),
            (8, 4, 10, 4.3),
            (8, 4, 20, 73.0),
        ] {
            let operators = NAMES * share / 100;
            let held = |all: &[Candidate], file: u32| {
                let mut seed = [0; 32];
                seed[..4].copy_from_slice(&file.to_be_bytes());
                let chosen = place(all, &need(k + m), &seed, &none(), &[]).expect("many");
                chosen.iter().filter(|id| **id < operators).count()
            };
            let spread = world(operators, false);
            let lost = (0..FILES).filter(|file| held(&spread, *file) > m).count();
            let found = lost as f64 * 1_000.0 / f64::from(FILES);
            // Drawn without putting back, so a little below the table; four standard deviations above it at most.
            let p = table / 1_000.0;
            let deviation = 1_000.0 * (p * (1.0 - p) / f64::from(FILES)).sqrt();
            assert!(
                found < table + 4.0 * deviation && found > table * 0.6 - 4.0 * deviation,
                "{k}+{m} at {share} %: {found} of {table} per mille"
            );
            let clumped = world(operators, true);
            assert!((0..200).all(|file| held(&clumped, file) <= 1), "{k}+{m}");
        }
    }

    proptest! {
        #[test]
        fn tm_y1_owners_and_neighbourhoods_are_never_shared(
            owners in proptest::collection::vec((0u8..6, 0u8..6), 1..20), count in 1usize..6, seed: [u8; 32],
        ) {
            let all: Vec<_> = owners.iter().enumerate()
                .map(|(i, (owner, net))| candidate(i as u64, *owner, &format!("10.0.{net}.{i}")))
                .collect();
            if let Ok(chosen) = place(&all, &need(count), &seed, &none(), &[]) {
                let distinct = |key: fn(&Candidate) -> [u8; 32]| {
                    chosen.iter().map(|i| key(&all[*i as usize])).collect::<BTreeSet<_>>().len()
                };
                prop_assert_eq!(distinct(|c| c.owner), count);
                prop_assert_eq!(distinct(|c| {
                    let mut key = [0; 32];
                    key[..7].copy_from_slice(&neighbourhood(&c.hosts[0]).expect("not loopback"));
                    key
                }), count);
                prop_assert_eq!(&place(&all, &need(count), &seed, &none(), &[]).expect("again"), &chosen);
            }
        }

        #[test]
        fn a_repair_avoids_what_still_holds(kept in 0u64..6, seed: [u8; 32]) {
            let all: Vec<_> = (0..6).map(|i| candidate(i, (i / 2) as u8, "127.0.0.1")).collect();
            let excluded = BTreeSet::from([kept]);
            let chosen = place(&all, &need(2), &seed, &excluded, &[holder(&all[kept as usize])]).expect("two owners are left");
            prop_assert!(chosen.iter().all(|c| all[*c as usize].owner != all[kept as usize].owner));
        }
    }
}
