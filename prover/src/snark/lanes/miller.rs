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
        let Point { x, y, z } = &self.t;
        let a = x.squared();
        let b = y.squared();
        let zz = z.squared();
        let d = x.times(&b).shifted::<2>();
        let e = a.tripled();
        let x3 = e.squared().minus::<24>(&d.shifted::<1>());
        let c = b.squared().shifted::<3>();
        let y3 = e.times(&d.minus::<BOUND>(&x3)).minus::<24>(&c);
        let z3 = y.times(z).shifted::<1>();
        let line = [
            e.times(x).minus::<8>(&b.shifted::<1>()),
            e.times(&zz).scaled(&self.minus_x),
            z3.times(&zz).scaled(&self.y),
        ];
        self.t = Point {
            x: x3,
            y: y3,
            z: z3,
        };
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
    let low = by_two_terms([a0, a1, a2], l0, l1);
    // b·l₂v
    let high = [b2.wide(l2).twisted(), b0.wide(l2), b1.wide(l2)];
    let sums = [a0.plus(b0), a1.plus(b1), a2.plus(b2)];
    let cross = by_two_terms([&sums[0], &sums[1], &sums[2]], l0, &l1.plus(l2));
    let mut out = *f;
    for i in 0..3 {
        out[3 + i] = cross[i].minus(&low[i]).minus(&high[i]).reduced();
    }
    out[0] = low[0].plus(&high[2].twisted()).reduced();
    out[1] = low[1].plus(&high[0]).reduced();
    out[2] = low[2].plus(&high[1]).reduced();
    *f = out;
}

/// `(a₀ + a₁v + a₂v²)·(x + yv)`.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn by_two_terms([a0, a1, a2]: [&Fe<2>; 3], x: &Fe<2>, y: &Fe<2>) -> [Wide; 3] {
    let (a0x, a1y) = (a0.wide(x), a1.wide(y));
    let middle = a0.plus(a1).wide(&x.plus(y));
    [
        a0x.plus(&a2.wide(y).twisted()),
        middle.minus(&a0x).minus(&a1y),
        a1y.plus(&a2.wide(x)),
    ]
}

/// `f²`: with `f = a + bw` it is `(a + b)(a + bv) − ab − abv + 2ab·w`.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512ifma")]
fn square(f: &mut Fe12) {
    let [a0, a1, a2, b0, b1, b2] = &*f;
    let ab = product([a0, a1, a2], [b0, b1, b2]);
    // bv, whose first coefficient is (1 + u)·b₂.
    let [c0, c1] = b2.halves();
    let turned = Fe::pair(&c0.minus::<4>(&c1), &c0.plus(&c1));
    let left = [a0.plus(b0), a1.plus(b1), a2.plus(b2)];
    let right = [a0.plus(&turned), a1.plus(b0), a2.plus(b1)];
    let cross = product(
        [&left[0], &left[1], &left[2]],
        [&right[0], &right[1], &right[2]],
    );
    let mut out = *f;
    for i in 0..3 {
        out[3 + i] = ab[i].plus(&ab[i]).reduced();
        let turned = match i {
            0 => ab[2].twisted(),
            _ => ab[i - 1],
        };
        out[i] = cross[i].minus(&ab[i]).minus(&turned).reduced();
    }
    *f = out;
}

/// `(a₀ + a₁v + a₂v²)·(b₀ + b₁v + b₂v²)` by Karatsuba.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn product([a0, a1, a2]: [&Fe<2>; 3], [b0, b1, b2]: [&Fe<2>; 3]) -> [Wide; 3] {
    let (t0, t1, t2) = (a0.wide(b0), a1.wide(b1), a2.wide(b2));
    let t12 = a1.plus(a2).wide(&b1.plus(b2)).minus(&t1).minus(&t2);
    let t01 = a0.plus(a1).wide(&b0.plus(b1)).minus(&t0).minus(&t1);
    let t02 = a0.plus(a2).wide(&b0.plus(b2)).minus(&t0).minus(&t2);
    [
        t0.plus(&t12.twisted()),
        t01.plus(&t2.twisted()),
        t02.plus(&t1),
    ]
}
