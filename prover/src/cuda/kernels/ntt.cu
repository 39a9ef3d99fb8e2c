// The quotient's transforms over Fr. `cuda/ntt.rs` says in which order.
//
// Interpolation takes values in their natural order to coefficients in bit-reversed order, evaluation takes them back, so
// nothing is ever permuted but the result. Powers of a root come from two short tables: `low[e mod 2^SPLIT]·high[e >> SPLIT]`.

enum : u64 { SPLIT = 11 };

INLINE Fr power_of(const Fr* low, const Fr* high, u64 e) { return mul(low[e & ((1u << SPLIT) - 1)], high[e >> SPLIT]); }

INLINE u64 reversed(u64 i, u64 bits) {
    u64 r = 0;
    KEPT for (u64 k = 0; k < bits; k++) r |= (i >> k & 1) << (bits - 1 - k);
    return r;
}

// Powers of a root, `low` and `high` in one table.
KERNEL ntt_powers(const Fr* root, Fr* table, u64 count) {
    u64 i = THREAD;
    if (i >= count) return;
    u64 split = u64(1) << SPLIT;
    table[i] = power(*root, i < split ? i : (i - split) << SPLIT);
}

// One level of the transform from natural to bit-reversed order: pairs that are `half` apart.
KERNEL ntt_split(Fr* values, u64 n, u64 half, const Fr* table) {
    u64 i = THREAD;
    if (i >= n / 2) return;
    u64 offset = i & (half - 1), at = 2 * (i - offset) + offset;
    Fr a = values[at], b = values[at + half];
    values[at] = add(a, b);
    values[at + half] = mul(sub(a, b), power_of(table, table + (1u << SPLIT), offset * (n / 2 / half)));
}

// One level of the transform back.
KERNEL ntt_join(Fr* values, u64 n, u64 half, const Fr* table) {
    u64 i = THREAD;
    if (i >= n / 2) return;
    u64 offset = i & (half - 1), at = 2 * (i - offset) + offset;
    Fr a = values[at], b = mul(values[at + half], power_of(table, table + (1u << SPLIT), offset * (n / 2 / half)));
    values[at] = add(a, b);
    values[at + half] = sub(a, b);
}

// values[i] ·= factor · root^e, where e is i read backwards in `bits` bits: scales coefficients, to and from the coset.
KERNEL ntt_scale(Fr* values, u64 bits, const Fr* factor, const Fr* table) {
    u64 i = THREAD;
    if (i >> bits) return;
    values[i] = mul(mul(values[i], *factor), power_of(table, table + (1u << SPLIT), reversed(i, bits)));
}

// out[i] = a[i]·b[i]; `out` may be either of them.
KERNEL ntt_multiply(const Fr* a, const Fr* b, Fr* out, u64 n) {
    u64 i = THREAD;
    if (i >= n) return;
    out[i] = mul(a[i], b[i]);
}

// The quotient's coefficients in natural order: (v − u)·factor.
KERNEL ntt_quotient(const Fr* v, const Fr* u, const Fr* factor, Fr* out, u64 bits) {
    u64 i = THREAD;
    if (i >> bits) return;
    out[reversed(i, bits)] = mul(sub(v[i], u[i]), *factor);
}
