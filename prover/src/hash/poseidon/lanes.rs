//! Eight field elements at once in AVX-512 registers: Montgomery arithmetic in 52-bit limbs.
//!
//! Walk: under [`super::ifma`], the vector kernel of Poseidon, and the transforms of `snark::ntt`. Plain twin: arkworks' `Fr`, compared by the tests below.
//! Form: element = five limbs of 52 bits, little-endian, lane `l` of limb `i` belongs to element `l`; the value is
//! `x·2^260 mod r`, kept below a small multiple of `r` instead of below `r`. Every function states what it needs and
//! gives in units of `r`; with `r < 2^254.86` a product of `a·r` and `b·r` reduces to less than `(0.0283·a·b + 1)·r`.
//! The multiplier reads the low 52 bits of a limb, so limbs are normalised before each multiplication.
//!
//! `unsafe`: every function here is compiled for AVX-512F and IFMA, so calling one from ordinary code is the unsafe step.
//! [`Ifma`] is the evidence that both exist: only [`Ifma::detect`] makes one, and whoever takes that step holds one.

use std::arch::x86_64::*;

use ark_bls12_381::Fr;
use ark_ff::{BigInt, Field, PrimeField};

/// Limbs of an element.
const LIMBS: usize = 5;
/// Elements worked on at once.
pub(crate) const LANES: usize = 8;
const LIMB_BITS: usize = 52;
const LIMB_MASK: u64 = (1 << LIMB_BITS) - 1;
/// The field order in 52-bit limbs.
pub(crate) const ORDER: [u64; LIMBS] = split(Fr::MODULUS.0);

// −r^-1 mod 2^52 is −1 − 2^32: reduction multiplies by it with a shift.
const _: () = assert!(ORDER[0].wrapping_mul((1 << 32) + 1) & LIMB_MASK == 1);

/// Evidence that this CPU has AVX-512F and IFMA.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ifma(());

/// Eight elements. Limbs below 2^52 unless a function says otherwise.
#[derive(Clone, Copy)]
pub(crate) struct Lanes(pub(crate) [__m512i; LIMBS]);

impl Lanes {
    /// Eight zeros.
    // SAFETY: eight words of zero bits are a valid register.
    #[cfg(feature = "prove")]
    pub(crate) const ZERO: Lanes = Lanes([unsafe { std::mem::zeroed::<__m512i>() }; LIMBS]);
}

/// Eight sums of products before reduction: ten limbs of up to 64 bits.
#[derive(Clone, Copy)]
pub(crate) struct Wide([__m512i; 2 * LIMBS]);

/// One element for all lanes, below `r`.
pub(crate) type Constant = [u64; LIMBS];

/// An element in the kernel's form.
pub(crate) fn constant(value: Fr) -> Constant {
    split(
        (value * Fr::from(2u64).pow([(LIMBS * LIMB_BITS) as u64]))
            .into_bigint()
            .0,
    )
}

impl Ifma {
    /// Asks [`crate::instructions`].
    pub(crate) fn detect() -> Option<Self> {
        crate::instructions::ifma().then_some(Self(()))
    }

    /// Eight canonical elements, four 64-bit words each, as plain integers: below `r`, not yet times 2^260.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) fn load(self, elements: &[[u64; 4]; LANES]) -> Lanes {
        let mut limbs = [[0u64; LANES]; LIMBS];
        for (lane, words) in elements.iter().enumerate() {
            for (limb, value) in limbs.iter_mut().zip(split(*words)) {
                limb[lane] = value;
            }
        }
        let mut lanes = Lanes([_mm512_setzero_si512(); LIMBS]);
        for (register, limb) in lanes.0.iter_mut().zip(&limbs) {
            // SAFETY: the array has the 64 bytes that one register takes, and this load needs no alignment.
            *register = unsafe { _mm512_loadu_si512(limb.as_ptr().cast()) };
        }
        lanes
    }

    /// Undoes [`Ifma::load`] for values below `2r`: canonical words.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) fn store(self, lanes: &Lanes) -> [[u64; 4]; LANES] {
        let mut limbs = [[0u64; LANES]; LIMBS];
        for (limb, register) in limbs.iter_mut().zip(lanes.0) {
            // SAFETY: the array has the 64 bytes of a register, and this store needs no alignment.
            unsafe { _mm512_storeu_si512(limb.as_mut_ptr().cast(), register) };
        }
        let mut elements = [[0u64; 4]; LANES];
        for (lane, element) in elements.iter_mut().enumerate() {
            *element = below_order(join(limbs.map(|limb| limb[lane])));
        }
        elements
    }

    /// The same element in all lanes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) fn spread(self, value: &Constant) -> Lanes {
        let mut lanes = Lanes([_mm512_setzero_si512(); LIMBS]);
        for (register, &limb) in lanes.0.iter_mut().zip(value) {
            *register = all(limb);
        }
        lanes
    }

    /// `a + c`; bounds add.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) fn add_constant(self, a: &Lanes, c: &Constant) -> Lanes {
        let mut limbs = a.0;
        for (limb, &c) in limbs.iter_mut().zip(c) {
            *limb = _mm512_add_epi64(*limb, all(c));
        }
        carry(limbs)
    }

    /// An empty sum.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) fn empty(self) -> Wide {
        Wide([_mm512_setzero_si512(); 2 * LIMBS])
    }

    /// `a·2^260` as a sum: reducing it gives `a` back.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) fn shifted(self, a: &Lanes) -> Wide {
        let mut wide = self.empty();
        wide.0[LIMBS..].copy_from_slice(&a.0);
        wide
    }

    /// The plain integer `a` as a sum: reducing it leaves the Montgomery form.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) fn widened(self, a: &Lanes) -> Wide {
        let mut wide = self.empty();
        wide.0[..LIMBS].copy_from_slice(&a.0);
        wide
    }

    /// Adds `c·2^260`, which reduces to `c`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) fn add_shifted(self, mut wide: Wide, c: &Constant) -> Wide {
        for (limb, &c) in wide.0[LIMBS..].iter_mut().zip(c) {
            *limb = _mm512_add_epi64(*limb, all(c));
        }
        wide
    }

    /// Adds `a·b`. A limb of the sum grows by less than 10·2^52, so it has room for hundreds of products.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) fn add_product(self, mut wide: Wide, a: &Lanes, b: &Lanes) -> Wide {
        for i in 0..LIMBS {
            for j in 0..LIMBS {
                wide.0[i + j] = _mm512_madd52lo_epu64(wide.0[i + j], a.0[i], b.0[j]);
                wide.0[i + j + 1] = _mm512_madd52hi_epu64(wide.0[i + j + 1], a.0[i], b.0[j]);
            }
        }
        wide
    }

    /// Adds `a·c`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) fn add_multiple(self, mut wide: Wide, a: &Lanes, c: &Constant) -> Wide {
        for (j, &limb) in c.iter().enumerate() {
            let factor = all(limb);
            for i in 0..LIMBS {
                wide.0[i + j] = _mm512_madd52lo_epu64(wide.0[i + j], a.0[i], factor);
                wide.0[i + j + 1] = _mm512_madd52hi_epu64(wide.0[i + j + 1], a.0[i], factor);
            }
        }
        wide
    }

    /// `a²` as a sum: products off the diagonal once, doubled.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) fn square(self, a: &Lanes) -> Wide {
        let mut wide = self.empty();
        for i in 0..LIMBS {
            for j in i + 1..LIMBS {
                wide.0[i + j] = _mm512_madd52lo_epu64(wide.0[i + j], a.0[i], a.0[j]);
                wide.0[i + j + 1] = _mm512_madd52hi_epu64(wide.0[i + j + 1], a.0[i], a.0[j]);
            }
        }
        for limb in &mut wide.0 {
            *limb = _mm512_add_epi64(*limb, *limb);
        }
        for i in 0..LIMBS {
            wide.0[2 * i] = _mm512_madd52lo_epu64(wide.0[2 * i], a.0[i], a.0[i]);
            wide.0[2 * i + 1] = _mm512_madd52hi_epu64(wide.0[2 * i + 1], a.0[i], a.0[i]);
        }
        wide
    }

    /// Montgomery reduction: `wide / 2^260` plus less than `r`. The result must be below 2^260 (35 r), which the callers'
    /// bounds guarantee.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) fn reduce(self, wide: Wide) -> Lanes {
        let Wide(mut limbs) = wide;
        for i in 0..LIMBS {
            // The low 52 bits of the limb times −1 − 2^32 is the factor; products read no others.
            let multiple = _mm512_add_epi64(limbs[i], _mm512_slli_epi64::<32>(limbs[i]));
            let factor = _mm512_sub_epi64(_mm512_setzero_si512(), multiple);
            // The low 52 bits and those of `factor·r` add up to zero: to 2^52, unless there are none.
            let up = high_bits(_mm512_add_epi64(limbs[i], all(LIMB_MASK)));
            limbs[i + 1] = _mm512_add_epi64(limbs[i + 1], up);
            limbs[i + 1] = _mm512_madd52hi_epu64(limbs[i + 1], factor, all(ORDER[0]));
            for j in 1..LIMBS {
                limbs[i + j] = _mm512_madd52lo_epu64(limbs[i + j], factor, all(ORDER[j]));
                limbs[i + j + 1] = _mm512_madd52hi_epu64(limbs[i + j + 1], factor, all(ORDER[j]));
            }
        }
        carry([limbs[5], limbs[6], limbs[7], limbs[8], limbs[9]])
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
pub(crate) fn all(value: u64) -> __m512i {
    _mm512_set1_epi64(value.cast_signed())
}

#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn high_bits(a: __m512i) -> __m512i {
    _mm512_srli_epi64::<{ LIMB_BITS as u32 }>(a)
}

/// Normalises limbs of up to 64 bits. The value must be below 2^260.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn carry(mut limbs: [__m512i; LIMBS]) -> Lanes {
    for i in 0..LIMBS - 1 {
        limbs[i + 1] = _mm512_add_epi64(limbs[i + 1], high_bits(limbs[i]));
        limbs[i] = _mm512_and_si512(limbs[i], all(LIMB_MASK));
    }
    Lanes(limbs)
}

/// Four 64-bit words as five 52-bit limbs.
const fn split(words: [u64; 4]) -> [u64; LIMBS] {
    let mut limbs = [0; LIMBS];
    let mut i = 0;
    while i < LIMBS {
        let (word, shift) = (i * LIMB_BITS / 64, i * LIMB_BITS % 64);
        let mut value = words[word] >> shift;
        if shift > 64 - LIMB_BITS && word + 1 < 4 {
            value |= words[word + 1] << (64 - shift);
        }
        limbs[i] = value & LIMB_MASK;
        i += 1;
    }
    limbs
}

/// Five 52-bit limbs of a value below 2^256 as four words.
fn join(limbs: [u64; LIMBS]) -> [u64; 4] {
    let mut words = [0; 4];
    for (i, limb) in limbs.into_iter().enumerate() {
        let (word, shift) = (i * LIMB_BITS / 64, i * LIMB_BITS % 64);
        words[word] |= limb << shift;
        if shift > 64 - LIMB_BITS && word + 1 < 4 {
            words[word + 1] |= limb >> (64 - shift);
        }
    }
    words
}

/// Subtracts the order once if needed.
fn below_order(words: [u64; 4]) -> [u64; 4] {
    let mut value = BigInt(words);
    if value >= Fr::MODULUS {
        ark_ff::BigInteger::sub_with_borrow(&mut value, &Fr::MODULUS);
    }
    value.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The instructions in a function compiled for them, as the kernel uses them.
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn product_square_sum(
        ifma: Ifma,
        a: &[[u64; 4]; LANES],
        b: &[[u64; 4]; LANES],
        c: &Constant,
    ) -> [[[u64; 4]; LANES]; 4] {
        let (a, b) = (ifma.load(a), ifma.load(b));
        let product = ifma.reduce(ifma.add_product(ifma.empty(), &a, &b));
        let square = ifma.reduce(ifma.square(&a));
        let multiple = ifma.reduce(ifma.add_multiple(ifma.empty(), &a, c));
        let sum = ifma.reduce(ifma.add_shifted(ifma.widened(&a), c));
        [product, square, multiple, sum].map(|lanes| ifma.store(&lanes))
    }

    fn element() -> impl Strategy<Value = Fr> {
        prop_oneof![
            1 => Just(Fr::from(0u64)),
            1 => Just(-Fr::from(1u64)),
            1 => any::<u64>().prop_map(Fr::from),
            5 => any::<[u8; 64]>().prop_map(|bytes| Fr::from_le_bytes_mod_order(&bytes)),
        ]
    }

    proptest! {
        #[test]
        fn equals_arkworks(x in prop::array::uniform8(element()), y in prop::array::uniform8(element()), c in element()) {
            let Some(ifma) = Ifma::detect() else { return Ok(()) };
            let words = |v: [Fr; LANES]| v.map(|x| x.into_bigint().0);
            let scale = Fr::from(2u64).pow([260]).inverse().expect("2 is invertible");
            // SAFETY: `ifma` proves that the CPU has the features that the function is compiled for.
            let found = unsafe { product_square_sum(ifma, &words(x), &words(y), &constant(c)) };
            for lane in 0..LANES {
                let expected = [x[lane] * y[lane] * scale, x[lane].square() * scale, x[lane] * c, x[lane] * scale + c * scale.inverse().expect("not zero")];
                for (found, expected) in found.iter().zip(expected) {
                    prop_assert_eq!(found[lane], expected.into_bigint().0);
                }
            }
        }
    }

    #[test]
    fn limbs_are_the_same_number() {
        let words = Fr::MODULUS.0;
        assert_eq!(join(split(words)), words);
    }
}
