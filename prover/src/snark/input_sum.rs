//! The sum over a proof's public inputs, `ic_0 + Σ input_i · ic_i`, made cheap for the inputs that proofs have.
//!
//! Walk: [`super::groth16::CheckedKey`] holds one and asks it for every proof, [`super::batch`] for every batch.
//! Nearly all public inputs of storage proofs are node indices of at most 31 bits; the rest are commitments of full
//! width, which in a PoSt often repeat (proofs.md §§4.4, 5.2, 5.3). So:
//!
//! * a **run** of equal wide inputs is one multiplication of the sum of its bases;
//! * keys of few inputs get a **table** of each base's multiples, and a scalar is walked byte by byte as signed digits,
//!   zero digits left out: an index costs at most four additions;
//! * larger keys (WindowPoSt of big sectors, 26,000 inputs) are summed by buckets, indices and wide inputs apart.
//!
//! Memory: a table takes at most [`TABLE_BYTES`] per key and is made, in some 30 ms, once a key has been used so often that
//! the table pays; until then, and for keys without one, sums need up to a few hundred KiB. Any scalar gives the right
//! sum, whatever it costs.
//!
//! ```text
//! table   base 0: tables 0 … T−1 | base 1: … ;  table t: multiples 1 … 128 of 2^(8·L·t)·base
//! scalar  digit i (weight 2^(8i)) is taken from table i / L at level i mod L;  T·L = 32 digits
//! ```

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use ark_bls12_381::{Fr, G1Affine};
use ark_ff::Zero;

use super::pairing::{self, G1, G1Sum, MULTIPLES, scalar_bytes};

/// The most that one key's table may take.
pub const TABLE_BYTES: usize = 4 << 20;
/// One table of one base.
const ROW_BYTES: usize = MULTIPLES * size_of::<G1>();
/// Signed digits of a scalar: the group's order is below `0x74 · 2^248`, so the last digit takes the carry.
const DIGITS: usize = 32;
/// Bytes of a scalar that counts as narrow.
const NARROW: usize = 8;
/// From how many equal wide inputs on a multiplication of their own is cheaper than the table.
const RUN: usize = 4;

/// A table saves some 0.2 ms a sum.
const TABLE_PAYS_AFTER: usize = 100;

/// The bases of a key's public inputs.
#[derive(Debug)]
pub struct InputSum {
    constant: G1,
    bases: Vec<G1>,
    table: OnceLock<Table>,
    /// Sums so far.
    sums: AtomicUsize,
}

impl InputSum {
    /// Over the `ic` points of a key, the constant one first. None is the identity.
    pub fn new(ic: &[G1Affine]) -> Self {
        let (constant, bases) = match ic.split_first() {
            Some((constant, bases)) => (G1::from(constant), bases),
            None => (G1::default(), ic),
        };
        Self {
            constant,
            bases: bases.iter().map(G1::from).collect(),
            table: OnceLock::new(),
            sums: AtomicUsize::new(0),
        }
    }

    /// Inputs of one proof, the constant one left out.
    pub fn inputs(&self) -> usize {
        self.bases.len()
    }

    /// `constant·ic_0 + Σ inputs_i·ic_i`; `None` when there are not as many inputs as bases.
    pub fn of(&self, constant: Option<&Fr>, inputs: &[Fr]) -> Option<G1Sum> {
        if inputs.len() != self.bases.len() {
            return None;
        }
        let mut total = match constant {
            None => pairing::sum(&[self.constant]),
            Some(weight) => self.constant.times(weight),
        };
        let terms = self.terms(inputs, &mut total);
        match self.table() {
            Some(table) => total.add(&table.sum(&terms)),
            None => self.add_by_buckets(&terms, &mut total),
        }
        Some(total)
    }

    fn table(&self) -> Option<&Table> {
        let levels = Table::levels(self.bases.len())?;
        let pays = self.sums.fetch_add(1, Ordering::Relaxed) >= TABLE_PAYS_AFTER;
        // Whoever comes while it is made waits for the maker, who does not use the thread pool.
        pays.then(|| self.table.get_or_init(|| Table::new(&self.bases, levels)))
    }

    /// The inputs that are not zero, as bytes; runs of equal wide ones go to the total at once.
    fn terms(&self, inputs: &[Fr], total: &mut G1Sum) -> Vec<Term> {
        let mut terms = Vec::with_capacity(inputs.len());
        let mut run: Vec<usize> = Vec::new();
        let mut end_run = |run: &mut Vec<usize>, terms: &mut Vec<Term>| {
            if run.len() >= RUN {
                let bases: Vec<G1> = run.iter().map(|base| self.bases[*base]).collect();
                total.add(&pairing::sum(&bases).point().times(&inputs[run[0]]));
            } else {
                let term = |base: &usize| Term::new(*base, &inputs[*base]);
                terms.extend(run.iter().map(term));
            }
            run.clear();
        };
        for (base, input) in inputs.iter().enumerate() {
            if input.is_zero() {
                continue;
            }
            let term = Term::new(base, input);
            if term.length <= NARROW {
                terms.push(term);
                continue;
            }
            if run.first().is_some_and(|first| inputs[*first] != *input) {
                end_run(&mut run, &mut terms);
            }
            run.push(base);
        }
        end_run(&mut run, &mut terms);
        terms
    }

    fn add_by_buckets(&self, terms: &[Term], total: &mut G1Sum) {
        let (narrow, wide): (Vec<&Term>, Vec<&Term>) =
            terms.iter().partition(|term| term.length <= NARROW);
        for class in [narrow, wide] {
            let length = class.iter().map(|term| term.length).max().unwrap_or(0);
            let points: Vec<G1> = class.iter().map(|term| self.bases[term.base]).collect();
            let scalars: Vec<u8> = class
                .iter()
                .flat_map(|term| &term.bytes[..length])
                .copied()
                .collect();
            total.add(&pairing::weighted_sum(&points, &scalars, 8 * length));
        }
    }
}

/// One input with its base.
struct Term {
    base: usize,
    bytes: [u8; 32],
    /// Bytes up to the last that is not zero.
    length: usize,
}

impl Term {
    fn new(base: usize, input: &Fr) -> Self {
        let bytes = scalar_bytes(input);
        let length = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |at| at + 1);
        Self {
            base,
            bytes,
            length,
        }
    }

    /// Signed digits in base 256, from −127 to 128, least first; all that are not zero with their places.
    fn digits(&self) -> impl Iterator<Item = (usize, bool, usize)> + '_ {
        let mut carry = 0;
        let upto = (self.length + 1).min(DIGITS);
        self.bytes[..upto]
            .iter()
            .enumerate()
            .filter_map(move |(place, byte)| {
                let digit = usize::from(*byte) + carry;
                let negative = digit > MULTIPLES;
                carry = usize::from(negative);
                let size = if negative {
                    2 * MULTIPLES - digit
                } else {
                    digit
                };
                (size != 0).then_some((place, negative, size))
            })
    }
}

/// Multiples of every base.
#[derive(Debug)]
struct Table {
    multiples: Vec<G1>,
    /// Digits that share one table, a doubling of 8 bits apart.
    levels: usize,
}

impl Table {
    /// The fewest levels whose table keeps to [`TABLE_BYTES`]; none where even one table a base is too large.
    fn levels(bases: usize) -> Option<usize> {
        [1, 2, 4, 8, 16, 32]
            .into_iter()
            .find(|levels| bases * (DIGITS / levels) * ROW_BYTES <= TABLE_BYTES)
    }

    fn new(bases: &[G1], levels: usize) -> Self {
        let mut sums: Vec<G1Sum> = Vec::with_capacity(bases.len() * (DIGITS / levels));
        for base in bases {
            let mut sum = pairing::sum(&[*base]);
            for table in 0..DIGITS / levels {
                sum.double(if table == 0 { 0 } else { 8 * levels });
                sums.push(sum);
            }
        }
        Self {
            multiples: pairing::multiples(&pairing::points(&sums)),
            levels,
        }
    }

    fn sum(&self, terms: &[Term]) -> G1Sum {
        let per_base = DIGITS / self.levels * MULTIPLES;
        let mut by_level = vec![Vec::new(); self.levels];
        for term in terms {
            for (place, negative, size) in term.digits() {
                let at = term.base * per_base + place / self.levels * MULTIPLES + size - 1;
                let point = self.multiples[at];
                by_level[place % self.levels].push(if negative { -point } else { point });
            }
        }
        let mut total = G1Sum::default();
        for points in by_level.iter().rev() {
            total.double(8);
            total.add(&pairing::sum(points));
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ark_bls12_381::G1Projective;
    use ark_ec::VariableBaseMSM;
    use ark_ff::UniformRand;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Inputs of every width, edges of digits and carries, runs of equal ones.
    fn inputs(count: usize, rng: &mut ChaCha8Rng) -> Vec<Fr> {
        let mut out: Vec<Fr> = Vec::with_capacity(count);
        let wide = Fr::rand(rng);
        while out.len() < count {
            let next = match rng.gen_range(0..12) {
                0 => Fr::zero(),
                1 => Fr::from(1u64),
                2 => -Fr::from(1u64),
                3 => Fr::from(u64::MAX),
                4 => Fr::from(u128::MAX),
                5 => Fr::from(0x8080_8080u64),
                6 => Fr::from(0x8180_7f81u64),
                7 => Fr::rand(rng),
                8 | 9 => wide,
                10 => Fr::from(rng.r#gen::<u64>()),
                _ => Fr::from(u64::from(rng.r#gen::<u32>())),
            };
            let times = if next == wide { 3 } else { 1 };
            out.extend(std::iter::repeat_n(next, times));
        }
        out.truncate(count);
        out
    }

    #[test]
    fn sums_are_arkworks_sums() {
        let mut rng = ChaCha8Rng::seed_from_u64(39);
        let ic: Vec<G1Affine> = (0..800).map(|_| G1Affine::rand(&mut rng)).collect();
        // 1, 2, 8 and 32 levels, and no table.
        for count in [0, 1, 9, 10, 20, 39, 132, 327, 341, 342, 700] {
            let sum = InputSum::new(&ic[..=count]);
            assert_eq!(sum.inputs(), count);
            for round in 0..8 {
                if round == 4 {
                    sum.sums.store(TABLE_PAYS_AFTER, Ordering::Relaxed);
                }
                let inputs = inputs(count, &mut rng);
                let expected = ic[0] + G1Projective::msm_unchecked(&ic[1..=count], &inputs);
                let got = sum.of(None, &inputs).expect("as many inputs as bases");
                assert_eq!(G1Affine::from(got.point()), expected, "{count}");
                let weight = Fr::rand(&mut rng);
                let expected = expected - ic[0] + ic[0] * weight;
                let got = sum.of(Some(&weight), &inputs).expect("as many");
                assert_eq!(G1Affine::from(got.point()), expected, "{count}");
            }
            assert!(sum.of(None, &vec![Fr::zero(); count + 1]).is_none());
        }
        assert!(InputSum::new(&ic[..3]).of(None, &[]).is_none());
    }

    /// Bases that cancel and inputs that repeat: sums through the identity.
    #[test]
    fn sums_may_pass_through_the_identity() {
        let mut rng = ChaCha8Rng::seed_from_u64(40);
        let p = G1Affine::rand(&mut rng);
        let wide = Fr::rand(&mut rng);
        for count in [RUN, 342] {
            let mut ic = vec![p; count + 1];
            ic[1..].iter_mut().step_by(2).for_each(|point| *point = -p);
            let sum = InputSum::new(&ic);
            for used in [0, TABLE_PAYS_AFTER] {
                sum.sums.store(used, Ordering::Relaxed);
                let got = sum.of(None, &vec![wide; count]);
                assert_eq!(G1Affine::from(got.expect("as many").point()), p);
                let got = sum.of(Some(&Fr::zero()), &vec![Fr::from(7u64); count]);
                assert!(got.expect("as many").point().is_identity());
            }
        }
    }

    #[test]
    fn a_table_keeps_to_its_bytes() {
        for bases in 0..2000 {
            if let Some(levels) = Table::levels(bases) {
                assert!(bases * (DIGITS / levels) * ROW_BYTES <= TABLE_BYTES);
            }
        }
        assert_eq!(Table::levels(39), Some(4));
        assert_eq!(Table::levels(327), Some(32));
        assert_eq!(Table::levels(342), None);
        let mut rng = ChaCha8Rng::seed_from_u64(41);
        let bases: Vec<G1> = (0..3)
            .map(|_| G1::from(&G1Affine::rand(&mut rng)))
            .collect();
        assert_eq!(Table::new(&bases, 4).multiples.len(), 3 * 8 * MULTIPLES);
    }
}
