// Sums of multiples of points: Pippenger's buckets, one thread a stretch of a bucket. `cuda/msm.rs` says in which order.
//
// Digits are those of the CPU's `snark/msm.rs`: of a scalar and its negative the smaller is cut into windows of signed
// digits, size 1…2^(width−1). Zeros have no digit and cost nothing; ones have one, in the lowest window.

enum : u32 { NEGATED = 1u << 31, NO_DIGIT = 0xffffffffu };

// (r − 1)/2: larger scalars are taken as the negative of a smaller one.
INLINE u32 half_order(int i) {
    constexpr u32 limbs[Fr::N] = {0x80000000, 0x7fffffff, 0x7fff2dff, 0xa9ded201, 0x04d0ec02, 0x199cec04, 0x94cebea4, 0x39f6d3a9};
    return limbs[i];
}

// Cuts scalars into digits and counts how many points each bucket gets.
// digits: windows × count; sizes: windows × buckets.
KERNEL msm_digits(const Fr* scalars, u64 count, u64 width, u64 windows, u32* digits, u32* sizes) {
    u64 i = THREAD;
    if (i >= count) return;
    Fr scalar = canonical(scalars[i]);
    sub_cc(half_order(0), scalar.limb[0]);
    UNROLL for (int k = 1; k < Fr::N; k++) subc_cc(half_order(k), scalar.limb[k]);
    bool negative = subc(0, 0) != 0;
    if (negative) scalar = neg(scalar);
    u32 sign = negative ? u32(NEGATED) : 0;
    u32 buckets = 1u << (width - 1), carry = 0;
    KEPT for (u64 w = 0; w < windows; w++) {
        u64 bit = w * width, word = bit / 32, shift = bit % 32;
        u64 pair = 0;
        UNROLL for (int k = 0; k < Fr::N; k++) {
            if (k == int(word)) pair |= scalar.limb[k];
            if (k == int(word) + 1) pair |= u64(scalar.limb[k]) << 32;
        }
        u32 value = u32(pair >> shift & ((1u << width) - 1)) + carry;
        carry = value > buckets;
        u32 size = carry ? (1u << width) - value : value;
        u32 digit = NO_DIGIT;
        if (size) {
            fetch_add(&sizes[w * buckets + size - 1], 1);
            digit = (size - 1) | (carry ? NEGATED ^ sign : sign);
        }
        digits[w * count + i] = digit;
    }
}

// Lists each bucket's points. next: where each bucket's next entry goes.
KERNEL msm_sort(const u32* digits, u64 count, u64 width, u64 windows, u32* next, u32* sorted) {
    u64 at = THREAD;
    if (at >= count * windows) return;
    u32 digit = digits[at];
    if (digit == NO_DIGIT) return;
    u64 window = at / count;
    u32 point = u32(at - window * count);
    u32 place = fetch_add(&next[(window << (width - 1)) + (digit & ~NEGATED)], 1);
    sorted[place] = point | (digit & NEGATED);
}

// A stretch of the sorted list, all of one bucket.
struct Task {
    u32 start, length, out, unused;
};

template <class F> INLINE void decode_points(const u32* bytes, const Fr* scalars, u64 count, Affine<F>* points, u64* bad) {
    u64 i = THREAD;
    if (i >= count || is_zero(scalars[i])) return;
    enum { WORDS = sizeof(F) / 4 };
    Affine<F> point;
    bool x = decode(bytes + i * 2 * WORDS, point.x), y = decode(bytes + i * 2 * WORDS + WORDS, point.y);
    if (!x || !y) keep_smallest(bad, i);
    points[i] = point;
}

template <class F> INLINE void add_points(const Affine<F>* points, const u32* sorted, const Task* tasks, u64 count, Sum<F>* sums) {
    u64 i = THREAD;
    if (i >= count) return;
    Task task = tasks[i];
    Sum<F> sum = Sum<F>::infinity();
    KEPT for (u32 k = 0; k < task.length; k++) {
        u32 entry = sorted[task.start + k];
        Affine<F> point = points[entry & ~NEGATED];
        if (entry & NEGATED) point.y = neg(point.y);
        accumulate(sum, point);
    }
    sums[task.out] = sum;
}

// Adds up neighbouring sums, a task a stretch of them: for buckets that many tasks have shared.
template <class F> INLINE void join_sums(const Sum<F>* sums, const Task* tasks, u64 count, Sum<F>* out) {
    u64 i = THREAD;
    if (i >= count) return;
    Task task = tasks[i];
    Sum<F> sum = sums[task.start];
    KEPT for (u32 k = 1; k < task.length; k++) sum = joined(sum, sums[task.start + k]);
    out[task.out] = sum;
}

// Adds what the tasks found to the buckets: those of bucket i stand from first[i] to first[i + 1].
template <class F> INLINE void gather(const Sum<F>* sums, const u32* first, u64 buckets, Sum<F>* out) {
    u64 i = THREAD;
    if (i >= buckets || first[i] == first[i + 1]) return;
    Sum<F> sum = out[i];
    KEPT for (u32 k = first[i]; k < first[i + 1]; k++) sum = joined(sum, sums[k]);
    out[i] = sum;
}

// Σ size·bucket over a stretch of one window's buckets, each thread one: a running sum from the top, and the sum of those.
template <class F> INLINE void reduce(const Sum<F>* buckets, u64 per_window, u64 stretch, u64 threads, Sum<F>* out) {
    u64 i = THREAD;
    if (i >= threads) return;
    u64 from = i * stretch % per_window;
    const Sum<F>* own = buckets + i * stretch;
    Sum<F> running = Sum<F>::infinity(), sum = Sum<F>::infinity();
    KEPT for (u64 k = stretch; k-- > 0;) {
        running = joined(running, own[k]);
        sum = joined(sum, running);
    }
    // The stretch's lowest bucket has size `from + 1`; it has been counted once.
    Sum<F> offset = Sum<F>::infinity();
    KEPT for (int bit = 31; bit >= 0; bit--) {
        offset = doubled(offset);
        if (from >> bit & 1) offset = joined(offset, running);
    }
    out[i] = joined(sum, offset);
}

#define CURVE(G, F)                                                                                                              \
    KERNEL msm_decode_##G(const u32* bytes, const Fr* scalars, u64 count, Affine<F>* points, u64* bad) {                         \
        decode_points<F>(bytes, scalars, count, points, bad);                                                                    \
    }                                                                                                                            \
    KERNEL msm_add_##G(const Affine<F>* points, const u32* sorted, const Task* tasks, u64 count, Sum<F>* sums) {                 \
        add_points<F>(points, sorted, tasks, count, sums);                                                                       \
    }                                                                                                                            \
    KERNEL msm_join_##G(const Sum<F>* sums, const Task* tasks, u64 count, Sum<F>* out) {                                         \
        join_sums<F>(sums, tasks, count, out);                                                                                   \
    }                                                                                                                            \
    KERNEL msm_gather_##G(const Sum<F>* sums, const u32* first, u64 buckets, Sum<F>* out) { gather<F>(sums, first, buckets, out); } \
    KERNEL msm_reduce_##G(const Sum<F>* buckets, u64 per_window, u64 stretch, u64 threads, Sum<F>* out) {                        \
        reduce<F>(buckets, per_window, stretch, threads, out);                                                                   \
    }

CURVE(g1, Fq)
CURVE(g2, Fq2)
