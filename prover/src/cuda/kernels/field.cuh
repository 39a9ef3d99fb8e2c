// Prime fields of BLS12-381 in Montgomery form, in limbs of 32 bits: the memory layout of arkworks' elements.
//
// First part of the program that `prover/src/cuda` hands to NVRTC. Compiled as C++ for the host it is the same program with
// the eight carry instructions spelled out, which is how the gate tests it without a GPU (`cuda/emulated.rs`).
//
// Products (`mul`): Montgomery's, row by row, with two accumulators so that every carry chain is one run of `mad` pairs:
// `even` holds limbs 0…N−1 of the sum so far, `odd` limbs 1…N, and the two change places when the sum moves down by a limb.

typedef unsigned int u32;
typedef unsigned long long u64;

#ifdef __CUDACC_RTC__
#define INLINE __device__ __forceinline__
#define CALLED __device__ __noinline__
#define CONSTANT __device__ constexpr
#define KERNEL extern "C" __global__ void
#define UNROLL _Pragma("unroll")
#define KEPT _Pragma("unroll 1")
#define THREAD (u64(blockIdx.x) * blockDim.x + threadIdx.x)

INLINE u32 fetch_add(u32* at, u32 value) { return atomicAdd(at, value); }
INLINE void keep_smallest(u64* at, u64 value) { atomicMin(at, value); }

INLINE u32 add_cc(u32 a, u32 b) { u32 r; asm volatile("add.cc.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); return r; }
INLINE u32 addc_cc(u32 a, u32 b) { u32 r; asm volatile("addc.cc.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); return r; }
INLINE u32 addc(u32 a, u32 b) { u32 r; asm volatile("addc.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); return r; }
INLINE u32 sub_cc(u32 a, u32 b) { u32 r; asm volatile("sub.cc.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); return r; }
INLINE u32 subc_cc(u32 a, u32 b) { u32 r; asm volatile("subc.cc.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); return r; }
INLINE u32 subc(u32 a, u32 b) { u32 r; asm volatile("subc.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); return r; }
INLINE u32 mad_lo_cc(u32 a, u32 b, u32 c) { u32 r; asm volatile("mad.lo.cc.u32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); return r; }
INLINE u32 madc_lo_cc(u32 a, u32 b, u32 c) { u32 r; asm volatile("madc.lo.cc.u32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); return r; }
INLINE u32 madc_hi_cc(u32 a, u32 b, u32 c) { u32 r; asm volatile("madc.hi.cc.u32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); return r; }
INLINE u32 madc_hi(u32 a, u32 b, u32 c) { u32 r; asm volatile("madc.hi.u32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); return r; }
#else
#define INLINE inline
#define CALLED static
#define CONSTANT static constexpr
#define KERNEL extern "C" void
#define UNROLL
#define KEPT
// Which thread a kernel runs as; whoever calls it counts.
extern "C" { u64 holdfast_thread; }
#define THREAD holdfast_thread

INLINE u32 fetch_add(u32* at, u32 value) { u32 before = *at; *at += value; return before; }
INLINE void keep_smallest(u64* at, u64 value) { if (value < *at) *at = value; }

static u32 flag;
INLINE u32 keep(u64 sum) { flag = u32(sum >> 32) & 1; return u32(sum); }
INLINE u32 add_cc(u32 a, u32 b) { return keep(u64(a) + b); }
INLINE u32 addc_cc(u32 a, u32 b) { return keep(u64(a) + b + flag); }
INLINE u32 addc(u32 a, u32 b) { return a + b + flag; }
INLINE u32 sub_cc(u32 a, u32 b) { return keep(u64(a) - b); }
INLINE u32 subc_cc(u32 a, u32 b) { return keep(u64(a) - b - flag); }
INLINE u32 subc(u32 a, u32 b) { return a - b - flag; }
INLINE u32 low(u32 a, u32 b) { return u32(u64(a) * b); }
INLINE u32 high(u32 a, u32 b) { return u32((u64(a) * b) >> 32); }
INLINE u32 mad_lo_cc(u32 a, u32 b, u32 c) { return keep(u64(low(a, b)) + c); }
INLINE u32 madc_lo_cc(u32 a, u32 b, u32 c) { return keep(u64(low(a, b)) + c + flag); }
INLINE u32 madc_hi_cc(u32 a, u32 b, u32 c) { return keep(u64(high(a, b)) + c + flag); }
INLINE u32 madc_hi(u32 a, u32 b, u32 c) { return high(a, b) + c + flag; }
#endif

// The field of scalars, and of everything that is hashed.
struct FrParams {
    enum { N = 8 };
    static constexpr u32 M0 = 0xffffffff; // −1/modulus, modulo 2^32
    static INLINE u32 modulus(int i) {
        constexpr u32 limbs[N] = {0x00000001, 0xffffffff, 0xfffe5bfe, 0x53bda402, 0x09a1d805, 0x3339d808, 0x299d7d48, 0x73eda753};
        return limbs[i];
    }
    static INLINE u32 one(int i) {
        constexpr u32 limbs[N] = {0xfffffffe, 0x00000001, 0x00034802, 0x5884b7fa, 0xecbc4ff5, 0x998c4fef, 0xacc5056f, 0x1824b159};
        return limbs[i];
    }
    static INLINE u32 square_of_r(int i) {
        constexpr u32 limbs[N] = {0xf3f29c6d, 0xc999e990, 0x87925c23, 0x2b6cedcb, 0x7254398f, 0x05d31496, 0x9f59ff11, 0x0748d9d9};
        return limbs[i];
    }
};

// The field of the curves' coordinates.
struct FqParams {
    enum { N = 12 };
    static constexpr u32 M0 = 0xfffcfffd;
    static INLINE u32 modulus(int i) {
        constexpr u32 limbs[N] = {0xffffaaab, 0xb9feffff, 0xb153ffff, 0x1eabfffe, 0xf6b0f624, 0x6730d2a0,
                                  0xf38512bf, 0x64774b84, 0x434bacd7, 0x4b1ba7b6, 0x397fe69a, 0x1a0111ea};
        return limbs[i];
    }
    static INLINE u32 one(int i) {
        constexpr u32 limbs[N] = {0x0002fffd, 0x76090000, 0xc40c0002, 0xebf4000b, 0x53c758ba, 0x5f489857,
                                  0x70525745, 0x77ce5853, 0xa256ec6d, 0x5c071a97, 0xfa80e493, 0x15f65ec3};
        return limbs[i];
    }
    static INLINE u32 square_of_r(int i) {
        constexpr u32 limbs[N] = {0x1c341746, 0xf4df1f34, 0x09d104f1, 0x0a76e6a6, 0x4c95b6d5, 0x8de5476c,
                                  0x939d83c0, 0x67eb88a9, 0xb519952d, 0x9a793e85, 0x92cae3aa, 0x11988fe5};
        return limbs[i];
    }
};

// An element, always below the modulus.
template <class P> struct alignas(16) Field {
    enum { N = P::N };
    u32 limb[N];

    static INLINE Field zero() {
        Field r;
        UNROLL for (int i = 0; i < N; i++) r.limb[i] = 0;
        return r;
    }
    static INLINE Field one() {
        Field r;
        UNROLL for (int i = 0; i < N; i++) r.limb[i] = P::one(i);
        return r;
    }
    static INLINE Field square_of_r() {
        Field r;
        UNROLL for (int i = 0; i < N; i++) r.limb[i] = P::square_of_r(i);
        return r;
    }
};

typedef Field<FrParams> Fr;
typedef Field<FqParams> Fq;

template <class P> INLINE bool is_zero(const Field<P>& a) {
    u32 any = 0;
    UNROLL for (int i = 0; i < P::N; i++) any |= a.limb[i];
    return any == 0;
}

// Whether an integer is below the modulus: then it is an element's canonical form.
template <class P> INLINE bool is_canonical(const Field<P>& a) {
    sub_cc(a.limb[0], P::modulus(0));
    UNROLL for (int i = 1; i < P::N; i++) subc_cc(a.limb[i], P::modulus(i));
    return subc(0, 0) != 0;
}

// Takes the modulus off a number below twice the modulus, once if need be.
template <class P> INLINE Field<P> reduced(const Field<P>& a) {
    Field<P> less;
    less.limb[0] = sub_cc(a.limb[0], P::modulus(0));
    UNROLL for (int i = 1; i < P::N; i++) less.limb[i] = subc_cc(a.limb[i], P::modulus(i));
    bool below = subc(0, 0) != 0;
    UNROLL for (int i = 0; i < P::N; i++) less.limb[i] = below ? a.limb[i] : less.limb[i];
    return less;
}

template <class P> INLINE Field<P> add(const Field<P>& a, const Field<P>& b) {
    Field<P> sum;
    sum.limb[0] = add_cc(a.limb[0], b.limb[0]);
    UNROLL for (int i = 1; i < P::N - 1; i++) sum.limb[i] = addc_cc(a.limb[i], b.limb[i]);
    sum.limb[P::N - 1] = addc(a.limb[P::N - 1], b.limb[P::N - 1]);
    return reduced(sum);
}

template <class P> INLINE Field<P> sub(const Field<P>& a, const Field<P>& b) {
    Field<P> rest;
    rest.limb[0] = sub_cc(a.limb[0], b.limb[0]);
    UNROLL for (int i = 1; i < P::N; i++) rest.limb[i] = subc_cc(a.limb[i], b.limb[i]);
    u32 borrowed = subc(0, 0);
    rest.limb[0] = add_cc(rest.limb[0], P::modulus(0) & borrowed);
    UNROLL for (int i = 1; i < P::N - 1; i++) rest.limb[i] = addc_cc(rest.limb[i], P::modulus(i) & borrowed);
    rest.limb[P::N - 1] = addc(rest.limb[P::N - 1], P::modulus(P::N - 1) & borrowed);
    return rest;
}

template <class P> INLINE Field<P> neg(const Field<P>& a) { return is_zero(a) ? a : sub(Field<P>::zero(), a); }
template <class P> INLINE Field<P> twice(const Field<P>& a) { return add(a, a); }

// One row: `even + odd·2^32 += a·b`, after the sum has moved down by the limb that the row before cleared.
template <class P> INLINE void row(u32* even, u32* odd, const Field<P>& a, u32 b) {
    enum { N = P::N };
    even[0] = add_cc(even[0], odd[1]);
    UNROLL for (int i = 0; i < N - 2; i += 2) {
        odd[i] = madc_lo_cc(a.limb[i + 1], b, odd[i + 2]);
        odd[i + 1] = madc_hi_cc(a.limb[i + 1], b, odd[i + 3]);
    }
    odd[N - 2] = madc_lo_cc(a.limb[N - 1], b, 0);
    odd[N - 1] = madc_hi(a.limb[N - 1], b, 0);
    even[0] = mad_lo_cc(a.limb[0], b, even[0]);
    even[1] = madc_hi_cc(a.limb[0], b, even[1]);
    UNROLL for (int i = 2; i < N; i += 2) {
        even[i] = madc_lo_cc(a.limb[i], b, even[i]);
        even[i + 1] = madc_hi_cc(a.limb[i], b, even[i + 1]);
    }
    odd[N - 1] = addc(odd[N - 1], 0);
}

// Adds the multiple of the modulus that clears the lowest limb.
template <class P> INLINE void clear(u32* even, u32* odd) {
    enum { N = P::N };
    u32 m = even[0] * P::M0;
    odd[0] = mad_lo_cc(P::modulus(1), m, odd[0]);
    odd[1] = madc_hi_cc(P::modulus(1), m, odd[1]);
    UNROLL for (int i = 2; i < N - 2; i += 2) {
        odd[i] = madc_lo_cc(P::modulus(i + 1), m, odd[i]);
        odd[i + 1] = madc_hi_cc(P::modulus(i + 1), m, odd[i + 1]);
    }
    odd[N - 2] = madc_lo_cc(P::modulus(N - 1), m, odd[N - 2]);
    odd[N - 1] = madc_hi(P::modulus(N - 1), m, odd[N - 1]);
    even[0] = mad_lo_cc(P::modulus(0), m, even[0]);
    even[1] = madc_hi_cc(P::modulus(0), m, even[1]);
    UNROLL for (int i = 2; i < N; i += 2) {
        even[i] = madc_lo_cc(P::modulus(i), m, even[i]);
        even[i + 1] = madc_hi_cc(P::modulus(i), m, even[i + 1]);
    }
    odd[N - 1] = addc(odd[N - 1], 0);
}

// A product, spelled out where it stands: some 300 instructions for Fr, 650 for Fq.
template <class P> INLINE Field<P> product(const Field<P>& a, const Field<P>& b) {
    enum { N = P::N };
    u32 x[N], y[N];
    UNROLL for (int i = 0; i < N; i++) x[i] = y[i] = 0;
    UNROLL for (int i = 0; i < N; i += 2) {
        row<P>(x, y, a, b.limb[i]);
        clear<P>(x, y);
        row<P>(y, x, a, b.limb[i + 1]);
        clear<P>(y, x);
    }
    Field<P> product;
    product.limb[0] = add_cc(x[0], y[1]);
    UNROLL for (int i = 1; i < N - 1; i++) product.limb[i] = addc_cc(x[i], y[i + 1]);
    product.limb[N - 1] = addc(x[N - 1], 0);
    return reduced(product);
}

// The same by a call: keeps the program small enough for the caches of instructions, and for its compiler.
template <class P> CALLED Field<P> mul(Field<P> a, Field<P> b) { return product(a, b); }
template <class P> INLINE Field<P> sqr(const Field<P>& a) { return mul(a, a); }

// The integer that an element stands for.
template <class P> INLINE Field<P> canonical(const Field<P>& a) {
    Field<P> one = Field<P>::zero();
    one.limb[0] = 1;
    return mul(a, one);
}

// The element of a canonical integer.
template <class P> INLINE Field<P> element(const Field<P>& integer) { return mul(integer, Field<P>::square_of_r()); }

// x^e; few, and far from the hot loops.
template <class P> CALLED Field<P> power(Field<P> x, u64 e) {
    Field<P> result = Field<P>::one();
    KEPT for (; e; e >>= 1) {
        if (e & 1) result = mul(result, x);
        x = sqr(x);
    }
    return result;
}

// The quadratic extension, with i² = −1: coordinates of G2.
struct Fq2 {
    Fq c0, c1;
    static INLINE Fq2 zero() { return {Fq::zero(), Fq::zero()}; }
    static INLINE Fq2 one() { return {Fq::one(), Fq::zero()}; }
};

INLINE bool is_zero(const Fq2& a) { return is_zero(a.c0) && is_zero(a.c1); }
INLINE Fq2 add(const Fq2& a, const Fq2& b) { return {add(a.c0, b.c0), add(a.c1, b.c1)}; }
INLINE Fq2 sub(const Fq2& a, const Fq2& b) { return {sub(a.c0, b.c0), sub(a.c1, b.c1)}; }
INLINE Fq2 neg(const Fq2& a) { return {neg(a.c0), neg(a.c1)}; }
INLINE Fq2 twice(const Fq2& a) { return add(a, a); }
CALLED Fq2 mul(const Fq2& a, const Fq2& b) {
    Fq low = mul(a.c0, b.c0), high = mul(a.c1, b.c1);
    Fq all = mul(add(a.c0, a.c1), add(b.c0, b.c1));
    return {sub(low, high), sub(sub(all, low), high)};
}
CALLED Fq2 sqr(const Fq2& a) {
    Fq cross = mul(a.c0, a.c1);
    return {mul(add(a.c0, a.c1), sub(a.c0, a.c1)), twice(cross)};
}
