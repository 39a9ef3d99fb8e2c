//! Placing a path's node among its siblings, by the bits of its index.
//!
//! Spec: `vectors/r1cs/README.md` §8. A nested choice is allocated before the one around it, left
//! to right; the order below is the order of the rows.

use ark_bls12_381::Fr;
use ark_ff::Field;

use super::bits::{Bit, and};
use crate::snark::cs::{ConstraintSystem, MINUS_ONE, Num};

/// `condition ? x : y`: row `y − x | condition | y − c`.
fn pick<CS: ConstraintSystem>(cs: &mut CS, condition: Bit, x: Num, y: Num) -> Num {
    let chosen = Num::alloc(cs, if condition.value() { x.value } else { y.value });
    cs.row(
        &[(y.var, Fr::ONE), (x.var, MINUS_ONE)],
        &condition.sum(),
        &[(y.var, Fr::ONE), (chosen.var, MINUS_ONE)],
    );
    chosen
}

/// One of `from`, the one at the index whose bits are `index`, least significant first: halves of the list are chosen by
/// the highest bit first, as Filecoin's gadget does. `from.len() − 1` rows.
///
/// # Panics
/// Unless there are `2^index.len()` numbers: both come from the const table of [`crate::spec`].
pub fn select<CS: ConstraintSystem>(cs: &mut CS, from: &[Num], index: &[Bit]) -> Num {
    assert_eq!(from.len(), 1 << index.len(), "one number for each index");
    let mut left = from.to_vec();
    for bit in index.iter().rev() {
        let (low, high) = left.split_at(left.len() / 2);
        left = low
            .iter()
            .zip(high)
            .map(|(low, high)| pick(cs, *bit, *high, *low))
            .collect();
    }
    left[0]
}

/// The children of a node: `x` inserted among 1, 3 or 7 `siblings` at the index whose bits are
/// `index`, least significant first.
///
/// # Panics
/// On another number of siblings or bits: arities come from the const table of [`crate::spec`].
pub fn insert<CS: ConstraintSystem>(
    cs: &mut CS,
    x: Num,
    index: &[Bit],
    siblings: &[Num],
) -> Vec<Num> {
    match (index, siblings) {
        (&[p], &[b]) => vec![pick(cs, p, b, x), pick(cs, p, x, b)],
        (&[p, q], &[b, c, d]) => insert_4(cs, x, p, q, [b, c, d]),
        (&[p, q, r], &[b, c, d, e, f, g, h]) => insert_8(cs, x, [p, q, r], [b, c, d, e, f, g, h]),
        _ => unreachable!("tree arities are 2, 4 and 8"),
    }
}

fn insert_4<CS: ConstraintSystem>(
    cs: &mut CS,
    x: Num,
    p: Bit,
    q: Bit,
    [b, c, d]: [Num; 3],
) -> Vec<Num> {
    let first = pick(cs, p, b, x);
    let first = pick(cs, q, b, first);
    let second = pick(cs, p, x, b);
    let second = pick(cs, q, c, second);
    let third = pick(cs, p, d, x);
    let third = pick(cs, q, third, c);
    let fourth = pick(cs, p, x, d);
    let fourth = pick(cs, q, fourth, d);
    vec![first, second, third, fourth]
}

fn insert_8<CS: ConstraintSystem>(
    cs: &mut CS,
    x: Num,
    [p, q, r]: [Bit; 3],
    siblings: [Num; 7],
) -> Vec<Num> {
    let [b, c, d, e, f, g, h] = siblings;
    let neither = and(cs, !p, !q);
    let both = and(cs, p, q);
    let mut out = Vec::with_capacity(8);
    let t = pick(cs, neither, x, b);
    out.push(pick(cs, r, b, t));
    let t = pick(cs, p, x, b);
    let t = pick(cs, q, c, t);
    out.push(pick(cs, r, c, t));
    let t = pick(cs, p, d, x);
    let t = pick(cs, q, t, c);
    out.push(pick(cs, r, d, t));
    let t = pick(cs, both, x, d);
    out.push(pick(cs, r, e, t));
    let t = pick(cs, neither, x, f);
    out.push(pick(cs, r, t, e));
    let t = pick(cs, p, x, f);
    let t = pick(cs, q, g, t);
    out.push(pick(cs, r, t, f));
    let t = pick(cs, p, h, x);
    let t = pick(cs, q, t, g);
    out.push(pick(cs, r, t, g));
    let t = pick(cs, both, x, h);
    out.push(pick(cs, r, t, h));
    out
}
