// Poseidon, Filecoin's instance, a thread a hash: the schedule of `hash/poseidon/optimised.rs`.
//
// constants: keys in the order of use (8·T + partial rounds) | mds | the matrix before the partial rounds | of each partial
// round the column (T) and the row (T − 1). Every thread of a warp reads the same one at the same time.

INLINE Fr fifth_power(const Fr& x) { return mul(sqr(sqr(x)), x); }

template <int T> INLINE void keyed(Fr (&state)[T], const Fr* keys) {
    UNROLL for (int i = 0; i < T; i++) state[i] = add(fifth_power(state[i]), keys[i]);
}

template <int T> INLINE void mix(Fr (&state)[T], const Fr* matrix) {
    Fr out[T];
    KEPT for (int j = 0; j < T; j++) {
        Fr sum = mul(state[0], matrix[j]);
        UNROLL for (int i = 1; i < T; i++) sum = add(sum, mul(state[i], matrix[i * T + j]));
        out[j] = sum;
    }
    UNROLL for (int i = 0; i < T; i++) state[i] = out[i];
}

template <int T> INLINE void hash(const Fr* nodes, u64 count, const Fr* constants, u64 partial, u64 tag, Fr* out, u64* bad) {
    u64 n = THREAD;
    if (n >= count) return;
    Fr state[T];
    Fr integer = Fr::zero();
    integer.limb[0] = u32(tag);
    state[0] = element(integer);
    const Fr* own = nodes + n * (T - 1);
    UNROLL for (int i = 1; i < T; i++) {
        Fr node = own[i - 1];
        if (!is_canonical(node)) keep_smallest(bad, n * (T - 1) + i - 1);
        state[i] = element(node);
    }
    const Fr* keys = constants;
    const Fr* mds = constants + 8 * T + partial;
    const Fr* opening = mds + T * T;
    const Fr* sparse = opening + T * T;
    UNROLL for (int i = 0; i < T; i++) state[i] = add(state[i], keys[i]);
    keys += T;
    KEPT for (int round = 0; round < 4; round++, keys += T) {
        keyed<T>(state, keys);
        mix<T>(state, round == 3 ? opening : mds);
    }
    KEPT for (u64 round = 0; round < partial; round++, keys++, sparse += 2 * T - 1) {
        Fr first = add(fifth_power(state[0]), *keys);
        Fr corner = mul(first, sparse[0]);
        UNROLL for (int i = 1; i < T; i++) {
            corner = add(corner, mul(state[i], sparse[i]));
            state[i] = add(state[i], mul(first, sparse[T - 1 + i]));
        }
        state[0] = corner;
    }
    KEPT for (int round = 0; round < 3; round++, keys += T) {
        keyed<T>(state, keys);
        mix<T>(state, mds);
    }
    Fr sum = mul(fifth_power(state[0]), mds[1]);
    UNROLL for (int i = 1; i < T; i++) sum = add(sum, mul(fifth_power(state[i]), mds[i * T + 1]));
    out[n] = canonical(sum);
}

#define WIDTH(T)                                                                                                                \
    KERNEL poseidon_##T(const Fr* nodes, u64 count, const Fr* constants, u64 partial, u64 tag, Fr* out, u64* bad) {              \
        hash<T>(nodes, count, constants, partial, tag, out, bad);                                                                \
    }

WIDTH(3)
WIDTH(5)
WIDTH(9)
WIDTH(12)
