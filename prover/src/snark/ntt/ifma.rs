//! Transforms in two steps on AVX-512 IFMA: columns, then rows, or the other way round.
//!
//! Plain twin: [`super::portable`]. The values are a matrix of `2^h` rows, row after row. With `j = j₁·C + j₂`
//! for `C` columns and `k = k₁ + R·k₂` for `R` rows,
//! `X_k = Σ_j₂ w^(j₂·k₁) · (w^R)^(j₂·k₂) · Σ_j₁ x_j·(w^C)^(j₁·k₁)`:
//! a transform of every column, a factor for each element, a transform of every row. Each small transform
//! runs in a tile that fits the second cache, eight columns or rows to a tile, one in each lane. Small
//! transforms from natural order leave bit-reversed order, so `X_k` ends in row `rev(k₁)`, column
//! `rev(k₂)`; [`Plan::evaluate_coset`] takes that order, rows first, and gives natural order.
//!
//! Form: data stay in arkworks' Montgomery form with 2^256 and constants carry 2^260, so products by
//! constants stay in arkworks' form. Bounds, in units of the order `r`, with room for 35: a butterfly adds a
//! product by a constant, below 2, and 2 to keep differences positive, so a tile that starts below 2 is below
//! `2 + 2·layers ≤ 34` at its end; a product of that by a constant is below `0.0283·34 + 1 < 2`.
//!
//! `unsafe`: the functions are compiled for AVX-512F and IFMA, of which [`Ifma`] is the evidence, and tiles
//! of several threads are disjoint columns or rows of one slice, see [`Matrix`].

#![allow(unsafe_code)]

use std::arch::x86_64::*;
use std::marker::PhantomData;

use ark_bls12_381::Fr;
use ark_ff::{FftField, Field};
use rayon::prelude::*;

use crate::hash::poseidon::lanes::{Constant, Ifma, LANES, Lanes, ORDER, all, constant};
use crate::snark::lanes::field::transpose;

const LIMBS: usize = 5;
const LIMB_MASK: u64 = (1 << 52) - 1;
/// Words of an element in memory.
const WORDS: usize = 4;
/// More layers would outgrow the bounds above.
const MAX_LAYERS: u32 = 16;
const TWICE_ORDER: Constant = twice(ORDER);
/// Which element of eight neighbours ends in which lane, see [`load_columns`].
const COLUMN_OF_LANE: [usize; LANES] = [0, 2, 1, 3, 4, 6, 5, 7];
/// Powers in the finer of two tables, see [`Powers`].
const FINE: usize = 32;

/// Constants for one size.
pub struct Plan {
    ifma: Ifma,
    rows_log: u32,
    columns_log: u32,
    /// The root of the domain.
    root: Fr,
    /// For the small transforms of columns and of rows, forwards and backwards.
    columns: [Twiddles; 2],
    rows: [Twiddles; 2],
}

/// Forwards is from coefficients to values.
const FORWARDS: usize = 0;
const BACKWARDS: usize = 1;

/// Powers of a root of unity of a small transform of `m` elements.
struct Twiddles {
    /// `root^rev(b)` for block `b`: natural order to bit-reversed.
    by_block: Vec<Constant>,
    /// Per layer of half-length `l = 1, 2, …`: `root^(i·m/2l)`, from index `l − 1` on.
    by_place: Vec<Constant>,
}

impl Twiddles {
    fn new(root: Fr, log: u32) -> Twiddles {
        let half = 1usize << (log - 1);
        let mut powers = vec![Fr::from(1u64); half];
        for i in 1..half {
            powers[i] = powers[i - 1] * root;
        }
        let mut by_place = Vec::with_capacity(2 * half);
        for layer in 0..log {
            let stride = half >> layer;
            by_place.extend(powers.iter().step_by(stride).map(|p| constant(*p)));
        }
        Twiddles {
            by_block: (0..half)
                .map(|b| constant(powers[reversed(b, log - 1)]))
                .collect(),
            by_place,
        }
    }
}

impl Plan {
    /// `None` without the instructions, for domains too small to fill the lanes, and beyond 2^32.
    pub fn new(n: usize) -> Option<Plan> {
        let ifma = Ifma::detect()?;
        let log = n.ilog2();
        let (rows_log, columns_log) = (log / 2, log - log / 2);
        if !n.is_power_of_two() || 1 << rows_log < LANES || columns_log > MAX_LAYERS {
            return None;
        }
        let root = Fr::get_root_of_unity(n as u64)?;
        let inverse = root.inverse()?;
        let twiddles = |log: u32, power: u32| {
            [root, inverse].map(|root| Twiddles::new(root.pow([1u64 << power]), log))
        };
        Some(Plan {
            ifma,
            rows_log,
            columns_log,
            root,
            columns: twiddles(rows_log, columns_log),
            rows: twiddles(columns_log, rows_log),
        })
    }

    /// Reads along rows, eight columns at a time; column `rev(k₂)` becomes the stretch of `k₂`.
    pub fn in_order(&self, coefficient: impl Fn(usize) -> Fr + Sync) -> Vec<Fr> {
        let (rows, columns) = (1usize << self.rows_log, 1usize << self.columns_log);
        let mut out = vec![Fr::from(0u64); rows * columns];
        let mut stretches: Vec<&mut [Fr]> = out.chunks_exact_mut(rows).collect();
        for k2 in 0..columns {
            let column = reversed(k2, self.columns_log);
            if k2 < column {
                stretches.swap(k2, column);
            }
        }
        let groups = stretches.par_chunks_exact_mut(LANES).enumerate();
        groups.for_each(|(group, stretches)| {
            for row in 0..rows {
                let (k1, first) = (reversed(row, self.rows_log), row * columns + LANES * group);
                for (column, stretch) in stretches.iter_mut().enumerate() {
                    stretch[k1] = coefficient(first + column);
                }
            }
        });
        out
    }

    pub fn interpolate(&self, values: &mut [Fr]) {
        self.to_coefficients(values, Fr::from(1u64));
    }

    pub fn interpolate_coset(&self, values: &mut [Fr]) {
        let inverse = Fr::GENERATOR.inverse().expect("the generator is not zero");
        self.to_coefficients(values, inverse);
    }

    /// Interpolates; coefficient `k` is multiplied by `base^k`.
    fn to_coefficients(&self, values: &mut [Fr], base: Fr) {
        let inverse = self.root.inverse().expect("a root of unity is not zero");
        let size = Fr::from(values.len() as u64);
        let scale = size.inverse().expect("2 is invertible");
        // base^k = base^k₁ · (base^R)^k₂.
        let by_column = self.column_factors(base);
        let matrix = Matrix::new(values, self.columns_log);
        let rows = 1usize << self.rows_log;
        matrix.for_each_group(1 << self.columns_log, |column, tile| {
            // SAFETY: the plan proves the features; each group of columns is given to one thread.
            unsafe { self.column_group_backwards(&matrix, column, tile, inverse, base, scale) };
        });
        matrix.for_each_group(rows, |row, tile| {
            // SAFETY: as above, with rows.
            unsafe { self.row_group_backwards(&matrix, row, tile, &by_column) };
        });
    }

    pub fn evaluate_coset(&self, coefficients: &mut [Fr]) {
        let by_column = self.column_factors(Fr::GENERATOR);
        let matrix = Matrix::new(coefficients, self.columns_log);
        let rows = 1usize << self.rows_log;
        matrix.for_each_group(rows, |row, tile| {
            // SAFETY: the plan proves the features; each group of rows is given to one thread.
            unsafe { self.row_group_forwards(&matrix, row, tile, &by_column) };
        });
        matrix.for_each_group(1 << self.columns_log, |column, tile| {
            // SAFETY: as above, with columns.
            unsafe { self.column_group_forwards(&matrix, column, tile) };
        });
    }

    /// `(base^R)^k₂` for the column where `k₂` stands.
    fn column_factors(&self, base: Fr) -> Vec<Constant> {
        let step = base.pow([1u64 << self.rows_log]);
        let mut factors = vec![[0; LIMBS]; 1 << self.columns_log];
        let mut power = Fr::from(1u64);
        for k2 in 0..factors.len() {
            factors[reversed(k2, self.columns_log)] = constant(power);
            power *= step;
        }
        factors
    }

    /// # Safety
    /// No other thread works on these columns.
    #[target_feature(enable = "avx512f,avx512ifma")]
    unsafe fn column_group_backwards(
        &self,
        matrix: &Matrix,
        column: usize,
        tile: &mut [Lanes],
        root: Fr,
        base: Fr,
        scale: Fr,
    ) {
        for (row, lanes) in tile.iter_mut().enumerate() {
            // SAFETY: the row exists, and eight columns from `column` on.
            *lanes = unsafe { load_columns(matrix.at(row, column)) };
        }
        scramble(self.ifma, tile, &self.columns[BACKWARDS].by_block);
        let bases =
            std::array::from_fn(|lane| root.pow([(column + COLUMN_OF_LANE[lane]) as u64]) * base);
        let powers = Powers::new(self.ifma, &bases, &[scale; LANES], tile.len());
        for (row, lanes) in tile.iter().enumerate() {
            let factor = powers.get(self.ifma, reversed(row, self.rows_log));
            let value = times(self.ifma, &carried(lanes), &factor);
            // SAFETY: as above; the product is below 2r and so below 2^256.
            unsafe { store_columns(matrix.at(row, column), &value) };
        }
    }

    /// # Safety
    /// No other thread works on these rows.
    #[target_feature(enable = "avx512f,avx512ifma")]
    unsafe fn row_group_backwards(
        &self,
        matrix: &Matrix,
        row: usize,
        tile: &mut [Lanes],
        by_column: &[Constant],
    ) {
        // SAFETY: eight rows from `row` on exist.
        unsafe { matrix.load_rows(row, tile) };
        scramble(self.ifma, tile, &self.rows[BACKWARDS].by_block);
        for (lanes, factor) in tile.iter_mut().zip(by_column) {
            *lanes = canonical(times_constant(self.ifma, lanes, factor));
        }
        // SAFETY: as above.
        unsafe { matrix.store_rows(row, tile) };
    }

    /// # Safety
    /// No other thread works on these rows.
    #[target_feature(enable = "avx512f,avx512ifma")]
    unsafe fn row_group_forwards(
        &self,
        matrix: &Matrix,
        row: usize,
        tile: &mut [Lanes],
        by_column: &[Constant],
    ) {
        // SAFETY: eight rows from `row` on exist.
        unsafe { matrix.load_rows(row, tile) };
        for (lanes, factor) in tile.iter_mut().zip(by_column) {
            *lanes = times_constant(self.ifma, lanes, factor);
        }
        unscramble(self.ifma, tile, &self.rows[FORWARDS].by_place);
        // Lanes are k₁; element j₂ gets (root^j₂ · generator)^k₁.
        let k1 = |lane: usize| reversed(row + lane, self.rows_log) as u64;
        let bases = std::array::from_fn(|lane| self.root.pow([k1(lane)]));
        let scales = std::array::from_fn(|lane| Fr::GENERATOR.pow([k1(lane)]));
        let powers = Powers::new(self.ifma, &bases, &scales, tile.len());
        for (j2, lanes) in tile.iter_mut().enumerate() {
            let factor = powers.get(self.ifma, j2);
            *lanes = times(self.ifma, &carried(lanes), &factor);
        }
        // SAFETY: as above; products are below 2r and so below 2^256.
        unsafe { matrix.store_rows(row, tile) };
    }

    /// # Safety
    /// No other thread works on these columns.
    #[target_feature(enable = "avx512f,avx512ifma")]
    unsafe fn column_group_forwards(&self, matrix: &Matrix, column: usize, tile: &mut [Lanes]) {
        for (row, lanes) in tile.iter_mut().enumerate() {
            // SAFETY: the row exists, and eight columns from `column` on.
            *lanes = unsafe { load_columns(matrix.at(row, column)) };
        }
        unscramble(self.ifma, tile, &self.columns[FORWARDS].by_place);
        let one = constant(Fr::from(1u64));
        for (row, lanes) in tile.iter().enumerate() {
            let value = canonical(times_constant(self.ifma, lanes, &one));
            // SAFETY: as above.
            unsafe { store_columns(matrix.at(row, column), &value) };
        }
    }
}

/// Values shared by threads that each work on rows or columns of their own.
struct Matrix<'a> {
    first: *mut u64,
    len: usize,
    columns_log: u32,
    values: PhantomData<&'a mut [Fr]>,
}

// SAFETY: the pointer stands for an exclusive borrow of the slice, and all access goes through unsafe
// functions whose callers keep threads apart.
unsafe impl Sync for Matrix<'_> {}

// An element is its four words and nothing else, so the words start where the element does.
const _: () = assert!(size_of::<Fr>() == 8 * WORDS && align_of::<Fr>() == 8);

impl<'a> Matrix<'a> {
    fn new(values: &'a mut [Fr], columns_log: u32) -> Self {
        Matrix {
            first: values.as_mut_ptr().cast(),
            len: values.len(),
            columns_log,
            values: PhantomData,
        }
    }

    /// Every eighth index below `count`, in parallel, each with a tile of the other side's length.
    fn for_each_group(&self, count: usize, work: impl Fn(usize, &mut [Lanes]) + Sync) {
        let length = self.len / count;
        (0..count / LANES).into_par_iter().for_each_init(
            || vec![Lanes::ZERO; length],
            |tile, group| work(LANES * group, tile),
        );
    }

    /// Where an element stands.
    ///
    /// # Safety
    /// Row and column are inside.
    unsafe fn at(&self, row: usize, column: usize) -> *mut u64 {
        let index = (row << self.columns_log) + column;
        debug_assert!(index < self.len);
        // SAFETY: inside by the caller's word.
        unsafe { self.first.add(WORDS * index) }
    }

    /// Eight rows, two columns at a time.
    ///
    /// # Safety
    /// The rows are inside and nobody else writes them; the tile has as many elements as a row.
    #[target_feature(enable = "avx512f,avx512ifma")]
    unsafe fn load_rows(&self, row: usize, tile: &mut [Lanes]) {
        for (pair, lanes) in tile.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let mut words = [_mm512_setzero_si512(); LANES];
            for (lane, words) in words.iter_mut().enumerate() {
                // SAFETY: two elements from an even column are inside the row; unaligned load.
                *words = unsafe { _mm512_loadu_si512(self.at(row + lane, 2 * pair).cast()) };
            }
            let [a, b, c, d, e, f, g, h] = transpose(words);
            *lanes = [split([a, b, c, d]), split([e, f, g, h])];
        }
    }

    /// The reverse, of values below 2^256.
    ///
    /// # Safety
    /// As for [`Matrix::load_rows`].
    #[target_feature(enable = "avx512f,avx512ifma")]
    unsafe fn store_rows(&self, row: usize, tile: &[Lanes]) {
        for (pair, [left, right]) in tile.as_chunks::<2>().0.iter().enumerate() {
            let ([a, b, c, d], [e, f, g, h]) = (join(left), join(right));
            let words = transpose([a, b, c, d, e, f, g, h]);
            for (lane, words) in words.into_iter().enumerate() {
                // SAFETY: two elements from an even column are inside the row; unaligned store.
                unsafe { _mm512_storeu_si512(self.at(row + lane, 2 * pair).cast(), words) };
            }
        }
    }
}

/// Powers `scale · base^i` of eight bases, by two tables: coarse steps and fine ones.
struct Powers {
    coarse: Vec<Lanes>,
    fine: Vec<Lanes>,
}

impl Powers {
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn new(ifma: Ifma, bases: &[Fr; LANES], scales: &[Fr; LANES], count: usize) -> Powers {
        let table = |bases: &[Fr; LANES], first: &[Fr; LANES], count: usize| {
            let step = load_constants(bases);
            let mut powers = Vec::with_capacity(count);
            powers.push(load_constants(first));
            for i in 1..count {
                powers.push(times(ifma, &powers[i - 1], &step));
            }
            powers
        };
        let leaps = bases.map(|base| base.pow([FINE as u64]));
        Powers {
            coarse: table(&leaps, scales, count.div_ceil(FINE)),
            fine: table(bases, &[Fr::from(1u64); LANES], FINE.min(count)),
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn get(&self, ifma: Ifma, i: usize) -> Lanes {
        times(ifma, &self.coarse[i / FINE], &self.fine[i % FINE])
    }
}

/// Eight constants, one to a lane.
#[target_feature(enable = "avx512f,avx512ifma")]
fn load_constants(values: &[Fr; LANES]) -> Lanes {
    let constants = values.map(constant);
    let mut out = Lanes::ZERO;
    for (i, register) in out.0.iter_mut().enumerate() {
        let limbs: [u64; LANES] = std::array::from_fn(|lane| constants[lane][i]);
        // SAFETY: the array has the 64 bytes of a register; this load needs no alignment.
        *register = unsafe { _mm512_loadu_si512(limbs.as_ptr().cast()) };
    }
    out
}

/// Natural order to bit-reversed. The tile holds values below 2; limbs of the result are not normalised.
#[target_feature(enable = "avx512f,avx512ifma")]
fn scramble(ifma: Ifma, tile: &mut [Lanes], by_block: &[Constant]) {
    let mut half = tile.len() / 2;
    while half >= 1 {
        for (block, factor) in tile.chunks_exact_mut(2 * half).zip(by_block) {
            let (left, right) = block.split_at_mut(half);
            for (u, v) in left.iter_mut().zip(right) {
                butterfly(ifma, u, v, factor);
            }
        }
        half /= 2;
    }
}

/// Bit-reversed order to natural, with the same bounds.
#[target_feature(enable = "avx512f,avx512ifma")]
fn unscramble(ifma: Ifma, tile: &mut [Lanes], by_place: &[Constant]) {
    let mut half = 1;
    while half < tile.len() {
        let factors = &by_place[half - 1..2 * half - 1];
        for block in tile.chunks_exact_mut(2 * half) {
            let (left, right) = block.split_at_mut(half);
            for ((u, v), factor) in left.iter_mut().zip(right).zip(factors) {
                butterfly(ifma, u, v, factor);
            }
        }
        half *= 2;
    }
}

/// `u + v·w` and `u − v·w`.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn butterfly(ifma: Ifma, u: &mut Lanes, v: &mut Lanes, factor: &Constant) {
    let product = times_constant(ifma, v, factor);
    for (i, bound) in TWICE_ORDER.iter().enumerate() {
        let (a, b) = (u.0[i], product.0[i]);
        u.0[i] = _mm512_add_epi64(a, b);
        v.0[i] = _mm512_add_epi64(_mm512_sub_epi64(a, b), all(*bound));
    }
}

/// Product with a constant, below 2 for values up to 34; limbs need not be normalised.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn times_constant(ifma: Ifma, a: &Lanes, factor: &Constant) -> Lanes {
    ifma.reduce(ifma.add_multiple(ifma.empty(), &carried(a), factor))
}

/// Product, both sides normalised.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn times(ifma: Ifma, a: &Lanes, b: &Lanes) -> Lanes {
    ifma.reduce(ifma.add_product(ifma.empty(), a, b))
}

/// Normalises limbs that may be negative; the value is not.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn carried(lanes: &Lanes) -> Lanes {
    let mut limbs = lanes.0;
    for i in 0..LIMBS - 1 {
        limbs[i + 1] = _mm512_add_epi64(limbs[i + 1], _mm512_srai_epi64::<52>(limbs[i]));
        limbs[i] = _mm512_and_si512(limbs[i], all(LIMB_MASK));
    }
    Lanes(limbs)
}

/// Subtracts the order once where a value below `2r` is not below `r`.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn canonical(lanes: Lanes) -> Lanes {
    let mut less = lanes;
    for (limb, order) in less.0.iter_mut().zip(ORDER) {
        *limb = _mm512_sub_epi64(*limb, all(order));
    }
    let less = carried(&less);
    // The sign of the difference is that of its last limb.
    let negative = _mm512_cmplt_epi64_mask(less.0[LIMBS - 1], _mm512_setzero_si512());
    let mut out = lanes;
    for i in 0..LIMBS {
        out.0[i] = _mm512_mask_blend_epi64(negative, less.0[i], lanes.0[i]);
    }
    out
}

/// Eight neighbours of a row as lanes, in the order of [`COLUMN_OF_LANE`].
///
/// # Safety
/// There are eight elements at the place.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
unsafe fn load_columns(place: *const u64) -> Lanes {
    let mut z = [_mm512_setzero_si512(); WORDS];
    for (i, words) in z.iter_mut().enumerate() {
        // SAFETY: two of the eight elements; this load needs no alignment.
        *words = unsafe { _mm512_loadu_si512(place.add(8 * i).cast()) };
    }
    let (a, b) = (
        _mm512_unpacklo_epi64(z[0], z[1]),
        _mm512_unpackhi_epi64(z[0], z[1]),
    );
    let (c, d) = (
        _mm512_unpacklo_epi64(z[2], z[3]),
        _mm512_unpackhi_epi64(z[2], z[3]),
    );
    split([
        _mm512_shuffle_i64x2::<0x88>(a, c),
        _mm512_shuffle_i64x2::<0x88>(b, d),
        _mm512_shuffle_i64x2::<0xdd>(a, c),
        _mm512_shuffle_i64x2::<0xdd>(b, d),
    ])
}

/// The reverse, of values below 2^256.
///
/// # Safety
/// There are eight elements at the place, and nobody else uses them.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
unsafe fn store_columns(place: *mut u64, lanes: &Lanes) {
    let w = join(lanes);
    let low = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0);
    let high = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
    let (a, c) = (
        _mm512_permutex2var_epi64(w[0], low, w[2]),
        _mm512_permutex2var_epi64(w[0], high, w[2]),
    );
    let (b, d) = (
        _mm512_permutex2var_epi64(w[1], low, w[3]),
        _mm512_permutex2var_epi64(w[1], high, w[3]),
    );
    let rows = [
        _mm512_unpacklo_epi64(a, b),
        _mm512_unpackhi_epi64(a, b),
        _mm512_unpacklo_epi64(c, d),
        _mm512_unpackhi_epi64(c, d),
    ];
    for (i, words) in rows.into_iter().enumerate() {
        // SAFETY: two of the eight elements; this store needs no alignment.
        unsafe { _mm512_storeu_si512(place.add(8 * i).cast(), words) };
    }
}

/// Four words to five limbs.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn split(w: [__m512i; WORDS]) -> Lanes {
    let mask = all(LIMB_MASK);
    let piece = |low: __m512i, high: __m512i| _mm512_and_si512(_mm512_or_si512(low, high), mask);
    Lanes([
        _mm512_and_si512(w[0], mask),
        piece(_mm512_srli_epi64::<52>(w[0]), _mm512_slli_epi64::<12>(w[1])),
        piece(_mm512_srli_epi64::<40>(w[1]), _mm512_slli_epi64::<24>(w[2])),
        piece(_mm512_srli_epi64::<28>(w[2]), _mm512_slli_epi64::<36>(w[3])),
        _mm512_srli_epi64::<16>(w[3]),
    ])
}

/// Five normalised limbs of a value below 2^256 to four words.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn join(lanes: &Lanes) -> [__m512i; WORDS] {
    let l = &lanes.0;
    [
        _mm512_or_si512(l[0], _mm512_slli_epi64::<52>(l[1])),
        _mm512_or_si512(_mm512_srli_epi64::<12>(l[1]), _mm512_slli_epi64::<40>(l[2])),
        _mm512_or_si512(_mm512_srli_epi64::<24>(l[2]), _mm512_slli_epi64::<28>(l[3])),
        _mm512_or_si512(_mm512_srli_epi64::<36>(l[3]), _mm512_slli_epi64::<16>(l[4])),
    ]
}

/// The lowest `bits` bits in reverse.
fn reversed(i: usize, bits: u32) -> usize {
    if bits == 0 {
        return 0;
    }
    i.reverse_bits() >> (usize::BITS - bits)
}

const fn twice(value: Constant) -> Constant {
    let mut out = [0; LIMBS];
    let (mut i, mut carry) = (0, 0);
    while i < LIMBS {
        let limb = 2 * value[i] + carry;
        out[i] = limb & LIMB_MASK;
        carry = limb >> 52;
        i += 1;
    }
    assert!(carry == 0);
    out
}
