//! Inverses of Fq by binary division steps on approximations.
//!
//! Walk: under [`super::field`], where eight lanes, or a batch of additions, share one inversion. Plain twin: arkworks'
//! inverse, which divides whole numbers at every step and takes about five times as long.
//! Source: T. Pornin, "Optimized Binary GCD for Modular Inversion", eprint 2020/972, algorithm 2. Which of two numbers is
//! odd or larger is decided on 64 bits, the lowest 31 and the highest 33, for 31 steps; then the steps are done on the whole
//! numbers as one linear combination. Time depends on the value: points of a key are public.

use ark_bls12_381::Fq;
use ark_ff::{BigInt, BigInteger, PrimeField};

const WORDS: usize = 6;
/// Steps on approximations.
const STEPS: u32 = 31;
/// Together two numbers of 381 bits lose a bit a step, so these rounds bring one to zero.
const ROUNDS: u32 = (2 * Fq::MODULUS_BIT_SIZE).div_ceil(STEPS);
const STEP_MASK: u64 = (1 << STEPS) - 1;
const ORDER: [u64; WORDS] = Fq::MODULUS.0;
/// `−q^−1 mod 2^31`.
const NEGATED_INVERSE: u64 =
    <ark_bls12_381::FqConfig as ark_ff::MontConfig<WORDS>>::INV & STEP_MASK;

type Words = [u64; WORDS];

/// `1 / value`; nothing for zero.
pub fn inverse(value: Fq) -> Option<Fq> {
    // Always a = value·u and b = value·v, modulo q.
    let (mut a, mut b) = (value.0.0, ORDER);
    let (mut u, mut v) = ([1, 0, 0, 0, 0, 0], [0; WORDS]);
    for _ in 0..ROUNDS {
        if a == [0; WORDS] {
            break;
        }
        let mut factors = steps(&a, &b);
        let (next_a, a_negative) = combined(&a, &b, factors[0]);
        let (next_b, b_negative) = combined(&a, &b, factors[1]);
        (a, b) = (next_a, next_b);
        for (factors, negative) in factors.iter_mut().zip([a_negative, b_negative]) {
            if negative {
                *factors = factors.map(|factor| -factor);
            }
        }
        (u, v) = (
            combined_modulo(&u, &v, factors[0]),
            combined_modulo(&u, &v, factors[1]),
        );
    }
    // b is the greatest common divisor: one, or q for the value zero.
    if b != [1, 0, 0, 0, 0, 0] {
        return None;
    }
    // The words are x·2^384 and so are the inverse's to be: 1/(x·2^384) times 2^768.
    let square = Fq::new_unchecked(<ark_bls12_381::FqConfig as ark_ff::MontConfig<WORDS>>::R2);
    Some(Fq::new_unchecked(BigInt(v)) * square * square)
}

/// Factors `[f₀, g₀]` and `[f₁, g₁]` of 31 steps: `a·f₀ + b·g₀` and `a·f₁ + b·g₁` are what `a` and `b` become, times 2^31.
fn steps(a: &Words, b: &Words) -> [[i64; 2]; 2] {
    let (mut a, mut b) = approximate(a, b);
    let (mut f0, mut g0, mut f1, mut g1) = (1i64, 0i64, 0i64, 1i64);
    for _ in 0..STEPS {
        let odd = (a & 1).wrapping_neg();
        let swap = odd & u64::from(a < b).wrapping_neg();
        let both = (a ^ b) & swap;
        (a, b) = (a ^ both, b ^ both);
        let (odd_sign, swap_sign) = (odd.cast_signed(), swap.cast_signed());
        let (f, g) = ((f0 ^ f1) & swap_sign, (g0 ^ g1) & swap_sign);
        (f0, f1, g0, g1) = (f0 ^ f, f1 ^ f, g0 ^ g, g1 ^ g);
        a = a.wrapping_sub(b & odd) >> 1;
        f0 = f0.wrapping_sub(f1 & odd_sign);
        g0 = g0.wrapping_sub(g1 & odd_sign);
        (f1, g1) = (f1 << 1, g1 << 1);
    }
    [[f0, g0], [f1, g1]]
}

/// Both numbers in 64 bits: the lowest 31, and 33 from the highest place that either of them uses.
fn approximate(a: &Words, b: &Words) -> (u64, u64) {
    let used = |i: &usize| a[*i] | b[*i] != 0;
    let top = (0..WORDS).rev().find(used).unwrap_or(0);
    if top == 0 {
        return (a[0], b[0]);
    }
    let free = (a[top] | b[top]).leading_zeros();
    let high = |x: &Words| {
        let below = x[top - 1].unbounded_shr(64 - free);
        x[top] << free | below
    };
    let both = |x: &Words| (high(x) & !STEP_MASK) | (x[0] & STEP_MASK);
    (both(a), both(b))
}

/// Size and sign of `(x·f + y·g) / 2^31`, which is an integer.
fn combined(x: &Words, y: &Words, factors: [i64; 2]) -> (Words, bool) {
    let (mut words, top) = sum(x, y, factors);
    let negative = top < 0;
    shift(&mut words, top);
    if negative {
        negate(&mut words);
    }
    (words, negative)
}

/// `(x·f + y·g) / 2^31` modulo `q`, of numbers below `q`.
fn combined_modulo(x: &Words, y: &Words, factors: [i64; 2]) -> Words {
    let (mut words, mut top) = sum(x, y, factors);
    // A multiple of q makes the lowest 31 bits zero.
    let multiple = words[0].wrapping_mul(NEGATED_INVERSE) & STEP_MASK;
    let mut carry = 0u128;
    for (word, order) in words.iter_mut().zip(ORDER) {
        carry += u128::from(*word) + u128::from(order) * u128::from(multiple);
        *word = carry as u64;
        carry >>= 64;
    }
    top += carry as i64;
    shift(&mut words, top);
    // From −q to 2q.
    let mut value = BigInt(words);
    if top < 0 {
        value.add_with_carry(&Fq::MODULUS);
    } else if value >= Fq::MODULUS {
        value.sub_with_borrow(&Fq::MODULUS);
    }
    value.0
}

/// `x·f + y·g`: six words and what is above them, the sign included.
fn sum(x: &Words, y: &Words, [f, g]: [i64; 2]) -> (Words, i64) {
    let mut words = [0; WORDS];
    let mut carry = 0i128;
    for i in 0..WORDS {
        carry += i128::from(x[i]) * i128::from(f) + i128::from(y[i]) * i128::from(g);
        words[i] = carry as u64;
        carry >>= 64;
    }
    (words, carry as i64)
}

/// Shifts right by 31, the highest bits from `top`.
fn shift(words: &mut Words, top: i64) {
    for i in 0..WORDS {
        let above = if i + 1 < WORDS {
            words[i + 1]
        } else {
            top.cast_unsigned()
        };
        words[i] = words[i] >> STEPS | above << (64 - STEPS);
    }
}

fn negate(words: &mut Words) {
    let mut carry = true;
    for word in words {
        (*word, carry) = (!*word).overflowing_add(u64::from(carry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ark_ff::{AdditiveGroup, Field, UniformRand};
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn inverses_are_arks() {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        assert_eq!(inverse(Fq::ZERO), None);
        let powers = (0..381).map(|i| Fq::from(2u64).pow([i]));
        let raw = [1u64, 2, 3, u64::MAX].map(|word| Fq::new_unchecked(BigInt::from(word)));
        let mut edges: Vec<Fq> = powers
            .chain(raw)
            .chain([1u64, 2, 3, 5].map(Fq::from))
            .collect();
        edges.extend((0..64).map(|word| {
            let mut words = [0; WORDS];
            words[word / 16] = 1 << (word % 16 * 4);
            Fq::new_unchecked(BigInt(words))
        }));
        let random: Vec<Fq> = (0..2000).map(|_| Fq::rand(&mut rng)).collect();
        for value in edges.iter().chain(&random) {
            for value in [*value, -*value] {
                assert_eq!(inverse(value), value.inverse(), "{value}");
            }
        }
    }
}
