//! Miller loops eight at a time, several groups of eight sharing the squarings.
//!
//! Walk: [`super::Ifma::miller`]. Plain twin: blst's, [`crate::snark::pairing::Miller::of_points`]; both give the same
//! after the final exponentiation. Lines are blst's (pairing.c) over two, a factor that the final exponentiation takes away.
//! The tower is blst's as well: `v³ = 1 + u` over Fq2, `w² = v` over that.

use super::curve::{BOUND, Point};
use super::field::{Fe, Wide};
use crate::snark::pairing::DOUBLINGS;

/// Eight elements `Σ_{i<3} f[i]·v^i + w·Σ_{i<3} f[3 + i]·v^i`.
pub type Fe12 = [Fe<2>; 6];

/// `l[0] + l[1]·v + l[2]·v·w`.
type Line = [Fe<2>; 3];

/// Eight pairs.
#[derive(Clone, Copy)]
pub struct Pairs {
    /// `−x` of the points of G1.
    minus_x: Fe<1>,
    y: Fe<1>,
    q: (Fe<2>, Fe<2>),
    /// The multiple of `q` so far.
    t: Point<2>,
    /// Lanes that count.
    used: u8,
}

impl Pairs {
    /// Affine points, none the identity in the lanes that count.
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn new(p: (Fe<1>, Fe<1>), q: (Fe<2>, Fe<2>), used: u8) -> Self {
        Pairs {
            minus_x: Fe::zero().minus::<4>(&p.0),
            y: p.1,
            q,
            t: Point::affine(&q.0, &q.1),
            used,
        }
    }

    /// Doubles the multiple; the tangent.
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn double(&mut self) -> Line {
        let Point { x, z, .. } = &self.t;
        let zz = z.squared();
        let (next, b, e) = self.t.tangent();
        let line = [
            e.times(x).minus::<8>(&b.shifted::<1>()),
            e.times(&zz).scaled(&self.minus_x),
            next.z.times(&zz).scaled(&self.y),
        ];
        self.t = next;
        line
    }

    /// Adds the point to its multiple; the chord.
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn add(&mut self) -> Line {
        let Point { x, y, z } = &self.t;
        let (qx, qy) = &self.q;
        let zz = z.squared();
        let h = qx.times(&zz).minus::<BOUND>(x);
        let r = qy.times(&zz.times(z)).minus::<BOUND>(y);
        let hh = h.squared();
        let hhh = hh.times(&h);
        let v = x.times(&hh);
        let x3 = r.squared().minus::<16>(&hhh.plus(&v.shifted::<1>()));
        let y3 = r.times(&v.minus::<BOUND>(&x3)).minus::<4>(&y.times(&hhh));
        let z3 = z.times(&h);
        let line = [
            r.times(qx).minus::<4>(&qy.times(&z3)),
            r.scaled(&self.minus_x),
            z3.scaled(&self.y),
        ];
        self.t = Point {
            x: x3,
            y: y3,
            z: z3,
        };
        line
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    fn times_line(&self, product: &mut Fe12, line: &Line) {
        let mut next = *product;
        multiply_by_line(&mut next, line);
        if self.used == 0xff {
            *product = next;
        } else {
            for (to, from) in product.iter_mut().zip(&next) {
                *to = to.or(self.used, from);
            }
        }
    }
}

/// In each lane the product of its pairs' loops, before the conjugation that a negative `z` asks for.
#[target_feature(enable = "avx512f,avx512ifma")]
pub fn miller(groups: &mut [Pairs]) -> Fe12 {
    let mut product = [Fe::zero(); 6];
    product[0] = Fe::one();
    for group in groups.iter_mut() {
        let line = group.double();
        group.times_line(&mut product, &line);
    }
    for doublings in DOUBLINGS {
        for group in groups.iter_mut() {
            let line = group.add();
            group.times_line(&mut product, &line);
        }
        for _ in 0..doublings {
            square(&mut product);
            for group in groups.iter_mut() {
                let line = group.double();
                group.times_line(&mut product, &line);
            }
        }
    }
    product
}

/// `f · (l₀ + l₁v + l₂vw)`: thirteen products, six reductions.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512ifma")]
fn multiply_by_line(f: &mut Fe12, [l0, l1, l2]: &Line) {
    let [a0, a1, a2, b0, b1, b2] = &*f;
    let mut low = [Wide::zero(); 3];
    by_two_terms([a0, a1, a2], l0, l1, &mut low);
    // b·l₂v
    let mut high = [Wide::zero(); 3];
    b2.wide(l2, &mut high[0]);
    high[0].twist();
    b0.wide(l2, &mut high[1]);
    b1.wide(l2, &mut high[2]);
    let sums = [a0.plus(b0), a1.plus(b1), a2.plus(b2)];
    let mut cross = [Wide::zero(); 3];
    let [s0, s1, s2] = &sums;
    by_two_terms([s0, s1, s2], l0, &l1.plus(l2), &mut cross);
    for i in 0..3 {
        cross[i].subtract(&low[i]);
        cross[i].subtract(&high[i]);
        f[3 + i] = cross[i].reduced();
    }
    high[2].twist();
    for i in 0..3 {
        low[i].add(&high[(i + 2) % 3]);
        f[i] = low[i].reduced();
    }
}

/// `(a₀ + a₁v + a₂v²)·(x + yv)`.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn by_two_terms([a0, a1, a2]: [&Fe<2>; 3], x: &Fe<2>, y: &Fe<2>, out: &mut [Wide; 3]) {
    let [c0, c1, c2] = out;
    a0.wide(x, c0);
    a1.wide(y, c2);
    a0.plus(a1).wide(&x.plus(y), c1);
    c1.subtract(c0);
    c1.subtract(c2);
    let mut last = Wide::zero();
    a2.wide(y, &mut last);
    last.twist();
    c0.add(&last);
    a2.wide(x, &mut last);
    c2.add(&last);
}

/// `f²`: with `f = a + bw` it is `(a + b)(a + bv) − ab − abv + 2ab·w`.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512ifma")]
fn square(f: &mut Fe12) {
    let [a0, a1, a2, b0, b1, b2] = &*f;
    let mut ab = [Wide::zero(); 3];
    product([a0, a1, a2], [b0, b1, b2], &mut ab);
    // bv, whose first coefficient is (1 + u)·b₂.
    let [c0, c1] = b2.halves();
    let turned = Fe::pair(&c0.minus::<4>(&c1), &c0.plus(&c1));
    let left = [a0.plus(b0), a1.plus(b1), a2.plus(b2)];
    let right = [a0.plus(&turned), a1.plus(b0), a2.plus(b1)];
    let mut cross = [Wide::zero(); 3];
    product(left.each_ref(), right.each_ref(), &mut cross);
    for i in 0..3 {
        cross[i].subtract(&ab[i]);
        let mut twice = ab[i];
        twice.add(&ab[i]);
        f[3 + i] = twice.reduced();
    }
    ab[2].twist();
    for i in 0..3 {
        cross[i].subtract(&ab[(i + 2) % 3]);
        f[i] = cross[i].reduced();
    }
}

/// `(a₀ + a₁v + a₂v²)·(b₀ + b₁v + b₂v²)` by Karatsuba.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn product([a0, a1, a2]: [&Fe<2>; 3], [b0, b1, b2]: [&Fe<2>; 3], out: &mut [Wide; 3]) {
    let [c0, c1, c2] = out;
    let mut t = [Wide::zero(); 3];
    let [t0, t1, t2] = &mut t;
    a0.wide(b0, t0);
    a1.wide(b1, t1);
    a2.wide(b2, t2);
    a1.plus(a2).wide(&b1.plus(b2), c0);
    c0.subtract(t1);
    c0.subtract(t2);
    c0.twist();
    c0.add(t0);
    a0.plus(a1).wide(&b0.plus(b1), c1);
    c1.subtract(t0);
    c1.subtract(t1);
    a0.plus(a2).wide(&b0.plus(b2), c2);
    c2.subtract(t0);
    c2.subtract(t2);
    c2.add(t1);
    t2.twist();
    c1.add(t2);
}
