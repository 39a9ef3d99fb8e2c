// Points of G1 and G2, and sums of them.
//
// A point in a key is affine (`x, y`); a sum is kept as `x/zz, y/zzz` with `zz³ = zzz²` (EFD's "XYZZ", shortw-xyzz), whose
// mixed addition takes ten products and no inversion. `zz = 0` is the point at infinity. The curves have a = 0.

template <class F> struct Affine {
    F x, y;
};

template <class F> struct Sum {
    F x, y, zz, zzz;
    static INLINE Sum infinity() { return {F::zero(), F::zero(), F::zero(), F::zero()}; }
};

// Twice an affine point (mdbl-2008-s-1). Points of order two do not occur: the groups' order is odd.
template <class F> CALLED Sum<F> doubled(const Affine<F>& p) {
    F u = twice(p.y), v = sqr(u), w = mul(u, v), s = mul(p.x, v), xx = sqr(p.x);
    F m = add(twice(xx), xx);
    F x = sub(sqr(m), twice(s));
    return {x, sub(mul(m, sub(s, x)), mul(w, p.y)), v, w};
}

// Twice a sum (dbl-2008-s-1).
template <class F> CALLED Sum<F> doubled(const Sum<F>& p) {
    F u = twice(p.y), v = sqr(u), w = mul(u, v), s = mul(p.x, v), xx = sqr(p.x);
    F m = add(twice(xx), xx);
    F x = sub(sqr(m), twice(s));
    return {x, sub(mul(m, sub(s, x)), mul(w, p.y)), mul(v, p.zz), mul(w, p.zzz)};
}

// What both additions end with: `x1, y1` scaled to the common denominator, `p` and `r` the differences of both points.
template <class F> INLINE void chord(Sum<F>& out, const F& x1, const F& y1, const F& p, const F& r, const F& zz, const F& zzz) {
    F pp = sqr(p), ppp = mul(p, pp), q = mul(x1, pp);
    out.x = sub(sub(sqr(r), ppp), twice(q));
    out.y = sub(mul(r, sub(q, out.x)), mul(y1, ppp));
    out.zz = mul(zz, pp);
    out.zzz = mul(zzz, ppp);
}

// Adds an affine point (madd-2008-s), whatever the two are to each other.
template <class F> INLINE void accumulate(Sum<F>& sum, const Affine<F>& point) {
    if (is_zero(sum.zz)) {
        sum = {point.x, point.y, F::one(), F::one()};
        return;
    }
    F p = sub(mul(point.x, sum.zz), sum.x), r = sub(mul(point.y, sum.zzz), sum.y);
    if (is_zero(p)) {
        sum = is_zero(r) ? doubled(point) : Sum<F>::infinity();
        return;
    }
    chord(sum, sum.x, sum.y, p, r, sum.zz, sum.zzz);
}

// Adds two sums (add-2008-s), whatever they are to each other.
template <class F> CALLED Sum<F> joined(const Sum<F>& a, const Sum<F>& b) {
    if (is_zero(a.zz)) return b;
    if (is_zero(b.zz)) return a;
    F x1 = mul(a.x, b.zz), y1 = mul(a.y, b.zzz);
    F p = sub(mul(b.x, a.zz), x1), r = sub(mul(b.y, a.zzz), y1);
    if (is_zero(p)) return is_zero(r) ? doubled(a) : Sum<F>::infinity();
    Sum<F> sum;
    chord(sum, x1, y1, p, r, mul(a.zz, b.zz), mul(a.zzz, b.zzz));
    return sum;
}

// A coordinate as keys have it: big-endian; whether it is canonical.
INLINE bool decode(const u32* bytes, Fq& out) {
    Fq integer;
    UNROLL for (int i = 0; i < Fq::N; i++) {
        u32 word = bytes[Fq::N - 1 - i];
        integer.limb[i] = word << 24 | (word & 0xff00) << 8 | (word >> 8 & 0xff00) | word >> 24;
    }
    out = element(integer);
    return is_canonical(integer);
}

// The same of G2, the higher coordinate first.
INLINE bool decode(const u32* bytes, Fq2& out) {
    bool high = decode(bytes, out.c1), low = decode(bytes + Fq::N, out.c0);
    return high && low;
}
