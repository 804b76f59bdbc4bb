/* The loops of _kernels.pyx that must become SIMD code, in plain C that compilers vectorize: blocks of
 * VM_BLOCK floats, fixed trip counts, element-wise steps, explicit reduction trees. A short last block is padded with
 * -inf. NaN counts as -inf. `maxima` has one value per block. */
#ifndef LLAMAFAST_VECMATH_H
#define LLAMAFAST_VECMATH_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

#define VM_BLOCK 64
#define VM_REST 8

/* gcc on x86 Linux compiles each loop for several CPU levels and selects one at load time (ifunc needs glibc). */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#if __GNUC__ >= 12
#define VM_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define VM_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#else
#define VM_CLONES
#endif

/* Without it gcc unrolls the short loops of a reduction tree into scalar code before it vectorizes. */
#if defined(__GNUC__) && !defined(__clang__)
#define VM_ROLLED _Pragma("GCC unroll 1")
#else
#define VM_ROLLED
#endif

/* exp(x) for x <= 0 as 2^n * p(r), n = round(x / ln 2), |r| <= ln(2) / 2; within 2.5e-7 relative down to -86, where it
 * stays. p is the minimax polynomial of degree 5 with p(0) = 1. */
static inline float vm_exp(float x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer held in the low mantissa bits */
    float shifted, n, r, p;
    uint32_t exponent, bits;
    x = x > -86.0f ? x : -86.0f;
    shifted = x * 1.44269504f + magic;
    n = shifted - magic;
    r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
    p = 8.29027211e-3f;
    p = p * r + 4.18981597e-2f;
    p = p * r + 1.66676381e-1f;
    p = p * r + 4.99991478e-1f;
    p = p * r + 9.99999706e-1f;
    p = p * r + 1.0f;
    memcpy(&exponent, &shifted, 4);
    memcpy(&bits, &p, 4);
    bits += exponent << 23;
    memcpy(&p, &bits, 4);
    return p;
}

/* The random number of an index, 64 bits: a function of the key and the index (splitmix64 after that many steps). */
static inline uint64_t vm_mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static inline uint64_t vm_random(uint64_t key, uint64_t place) {
    return vm_mix(key + (place + 1) * 0x9E3779B97F4A7C15u);
}

/* Maps floats to integers with the same order; -0 equals +0. */
static inline uint32_t vm_order(float x) {
    uint32_t bits;
    x += 0.0f;
    memcpy(&bits, &x, 4);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static inline float vm_unorder(uint32_t order) {
    uint32_t bits = order & 0x80000000u ? order & 0x7fffffffu : ~order;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

/* Histogram bin of a logit: 0 at max, larger for smaller logits; bin `last` takes the rest. Monotone in x. */
static inline int32_t vm_bin(float x, float max, float scale, int32_t last) {
    float distance = (max - x) * scale;
    return (int32_t)(distance < (float)last ? distance : (float)last);
}

/* Block b; a short last block is copied into pad. */
static inline const float* vm_block(const float* row, int32_t n, int32_t b, float* pad) {
    int32_t start = b * VM_BLOCK, left = n - start, j;
    if (left >= VM_BLOCK) return row + start;
    for (j = 0; j < VM_BLOCK; j++) pad[j] = j < left ? row[start + j] : -INFINITY;
    return pad;
}

static inline float vm_block_max(const float* x) {
    float m[32];
    int j;
    for (j = 0; j < 32; j++) {
        float a = x[j] > -INFINITY ? x[j] : -INFINITY;
        m[j] = x[j + 32] > a ? x[j + 32] : a;
    }
    VM_ROLLED for (j = 0; j < 16; j++) m[j] = m[j] > m[j + 16] ? m[j] : m[j + 16];
    VM_ROLLED for (j = 0; j < 8; j++) m[j] = m[j] > m[j + 8] ? m[j] : m[j + 8];
    VM_ROLLED for (j = 0; j < 4; j++) m[j] = m[j] > m[j + 4] ? m[j] : m[j + 4];
    m[0] = m[0] > m[2] ? m[0] : m[2];
    m[1] = m[1] > m[3] ? m[1] : m[3];
    return m[0] > m[1] ? m[0] : m[1];
}

static inline float vm_block_sum(const float* w) {
    float s[32];
    int j;
    for (j = 0; j < 32; j++) s[j] = w[j] + w[j + 32];
    VM_ROLLED for (j = 0; j < 16; j++) s[j] += s[j + 16];
    VM_ROLLED for (j = 0; j < 8; j++) s[j] += s[j + 8];
    VM_ROLLED for (j = 0; j < 4; j++) s[j] += s[j + 4];
    return (s[0] + s[2]) + (s[1] + s[3]);
}

/* w = exp((x - max) * scale) if x >= floor, else 0. */
static inline void vm_block_weights(const float* x, float max, float scale, float floor, float* w) {
    int j;
    for (j = 0; j < VM_BLOCK; j++) {
        float weight = vm_exp((x[j] - max) * scale);
        w[j] = x[j] >= floor ? weight : 0.0f;
    }
}

/* OUT maxima. Returns the largest. */
VM_CLONES
static float vm_maxima(const float* row, int32_t n, float* maxima) {
    float pad[VM_BLOCK], best = -INFINITY;
    int32_t b, n_blocks = (n + VM_BLOCK - 1) / VM_BLOCK;
    for (b = 0; b < n_blocks; b++) {
        float m = vm_block_max(vm_block(row, n, b, pad));
        maxima[b] = m;
        best = m > best ? m : best;
    }
    return best;
}

/* OUT sums: sum of each block's weights. Returns the sum of all. */
VM_CLONES
static double vm_sums(const float* row, int32_t n, const float* maxima, float max, float scale, float floor,
                      double* sums) {
    float pad[VM_BLOCK], w[VM_BLOCK];
    double total = 0;
    int32_t b, n_blocks = (n + VM_BLOCK - 1) / VM_BLOCK;
    for (b = 0; b < n_blocks; b++) {
        sums[b] = 0;
        if (maxima[b] < floor) continue;
        vm_block_weights(vm_block(row, n, b, pad), max, scale, floor, w);
        sums[b] = vm_block_sum(w);
        total += sums[b];
    }
    return total;
}

/* Sum of exp(x - max), without blocks below floor. OUT better: the same over the elements that are larger than
* row[place], or equal to it at a lower index. */
VM_CLONES
static double vm_mass(const float* row, int32_t n, const float* maxima, float max, float floor, int32_t place,
                      double* better) {
    float pad[VM_BLOCK], w[VM_BLOCK], value = row[place];
    double total = 0;
    int32_t b, j, n_blocks = (n + VM_BLOCK - 1) / VM_BLOCK;
    *better = 0;
    for (b = 0; b < n_blocks; b++) {
        const float* x = vm_block(row, n, b, pad);
        int32_t before = place - b * VM_BLOCK;
        if (maxima[b] < floor) continue;
        vm_block_weights(x, max, 1.0f, -FLT_MAX, w);
        total += vm_block_sum(w);
        if (maxima[b] < value) continue;
        for (j = 0; j < VM_BLOCK; j++) w[j] = (x[j] > value) | ((x[j] == value) & (j < before)) ? w[j] : 0.0f;
        *better += vm_block_sum(w);
    }
    return total;
}

/* OUT w (VM_BLOCK,): the weights of block b, 0 below floor. Returns bits: bit j is set if hash <= w[j] * limit. */
VM_CLONES
static uint64_t vm_contenders(const float* row, int32_t n, int32_t b, float max, float scale, float floor, float hash,
                              float limit, float* w) {
    float pad[VM_BLOCK];
    uint8_t hit[VM_BLOCK];
    uint64_t bits = 0, eight;
    int j;
    vm_block_weights(vm_block(row, n, b, pad), max, scale, floor, w);
    for (j = 0; j < VM_BLOCK; j++) hit[j] = (w[j] > 0) & (w[j] * limit >= hash);
    for (j = 0; j < VM_BLOCK; j += 8) { /* bytes of 0 or 1: the product's highest byte has byte k as bit k */
        memcpy(&eight, hit + j, 8);
        bits |= eight * 0x0102040810204080u >> 56 << j;
    }
    return bits;
}

static inline int32_t vm_lowest(uint64_t bits) { return (int32_t)__builtin_ctzll(bits); }

/* OUT hashes (n,): the random numbers of the indices first, first + 1, ... as fractions, rounded down to 24 bits. */
VM_CLONES
static void vm_hashes(uint64_t key, int32_t first, int32_t n, float* hashes) {
    int32_t i;
    for (i = 0; i < n; i++)
        hashes[i] = (float)(int32_t)(vm_random(key, (uint64_t)first + (uint64_t)i) >> 40) * (1.0f / 16777216.0f);
}

/* OUT haste (n,): -hash / weight; -inf if the value is below floor. */
VM_CLONES
static void vm_haste(const float* values, int32_t n, float max, float scale, float floor, const float* hashes,
                     float* haste) {
    int32_t i;
    for (i = 0; i < n; i++) {
        float quotient = -hashes[i] / vm_exp((values[i] - max) * scale);
        haste[i] = values[i] >= floor ? quotient : -INFINITY;
    }
}

/* OUT bins (last + VM_REST,): sums of exp((logits - peak) * power) by vm_bin of row; power 0 counts elements. row and
* logits may be the same. The rest is spread over the VM_REST bins from last on, because repeated additions to one bin
* are slow. Blocks below floor belong to the rest as a whole. IN maxima, max: block maxima and maximum of row. */
VM_CLONES
static void vm_histogram(const float* row, int32_t n, const float* maxima, float max, const float* logits, float peak,
                         float power, float scale, float floor, int32_t last, double* bins) {
    float pad[VM_BLOCK], logits_pad[VM_BLOCK], w[VM_BLOCK];
    int32_t bin[VM_BLOCK], b, j, n_blocks = (n + VM_BLOCK - 1) / VM_BLOCK;
    memset(bins, 0, (last + VM_REST) * sizeof(double));
    for (b = 0; b < n_blocks; b++) {
        const float* x = vm_block(row, n, b, pad);
        vm_block_weights(vm_block(logits, n, b, logits_pad), peak, power, -FLT_MAX, w);
        if (maxima[b] < floor) {
            bins[last] += vm_block_sum(w);
            continue;
        }
        for (j = 0; j < VM_BLOCK; j++) {
            int32_t i = vm_bin(x[j], max, scale, last);
            bin[j] = i < last ? i : last + j % VM_REST;
        }
        for (j = 0; j < VM_BLOCK; j++) bins[bin[j]] += w[j];
    }
}

/* OUT keys: one per element with floor <= x < ceiling, by index. A larger key means a larger x, then a lower index.
 * Returns their number. */
VM_CLONES
static int32_t vm_gather(const float* row, int32_t n, const float* maxima, float floor, float ceiling, uint64_t* keys) {
    float pad[VM_BLOCK];
    uint8_t hit[VM_BLOCK];
    int32_t b, i, j, n_keys = 0, n_blocks = (n + VM_BLOCK - 1) / VM_BLOCK;
    for (b = 0; b < n_blocks; b++) {
        const float* x = vm_block(row, n, b, pad);
        if (maxima[b] < floor) continue;
        for (j = 0; j < VM_BLOCK; j++) hit[j] = (x[j] >= floor) & (x[j] < ceiling);
        for (i = 0; i < VM_BLOCK; i += 8) {
            uint64_t hits;
            memcpy(&hits, hit + i, 8);
            if (!hits) continue;
            for (j = i; j < i + 8; j++)
                if (hit[j]) keys[n_keys++] = (uint64_t)vm_order(x[j]) << 32 | ~(uint32_t)(b * VM_BLOCK + j);
        }
    }
    return n_keys;
}

/* Number of elements >= floor. */
VM_CLONES
static int32_t vm_count(const float* row, int32_t n, const float* maxima, float floor) {
    float pad[VM_BLOCK], hit[VM_BLOCK];
    int32_t b, j, n_blocks = (n + VM_BLOCK - 1) / VM_BLOCK, count = 0;
    for (b = 0; b < n_blocks; b++) {
        const float* x = vm_block(row, n, b, pad);
        if (maxima[b] < floor) continue;
        for (j = 0; j < VM_BLOCK; j++) hit[j] = x[j] >= floor ? 1.0f : 0.0f;
        count += (int32_t)vm_block_sum(hit);
    }
    return count;
}

/* Packs from index `start` on, a multiple of 32. OUT packed, ids: written from n_packed on. */
static int32_t vm_pack_words(const float* row, int32_t start, int32_t n, const uint32_t* mask, const uint32_t* also,
                             float* packed, int32_t* ids, int32_t n_packed) {
    for (; start < n; start += 32) {
        uint32_t bits = also ? mask[start / 32] & also[start / 32] : mask[start / 32];
        if (n - start < 32) bits &= (1u << (n - start)) - 1;
        for (; bits; bits &= bits - 1) {
            int32_t i = start + __builtin_ctz(bits);
            packed[n_packed] = row[i];
            ids[n_packed++] = i;
        }
    }
    return n_packed;
}

#if defined(__x86_64__) && defined(__GNUC__)
/* Packs the full words. Each store writes 16 floats, the wanted ones first; the next store overwrites the others. */
__attribute__((target("avx512f"))) static int32_t vm_pack_avx512(const float* row, int32_t n, const uint32_t* mask,
                                                                 const uint32_t* also, float* packed, int32_t* ids) {
    __m512i places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    int32_t start, n_packed = 0;
    for (start = 0; start + 16 <= n / 32 * 32; start += 16) {
        uint32_t word = also ? mask[start / 32] & also[start / 32] : mask[start / 32];
        __mmask16 bits = (__mmask16)(word >> start % 32);
        if (bits) {
            __m512i here = _mm512_add_epi32(places, _mm512_set1_epi32(start));
            _mm512_storeu_ps(packed + n_packed, _mm512_maskz_compress_ps(bits, _mm512_loadu_ps(row + start)));
            _mm512_storeu_si512(ids + n_packed, _mm512_maskz_compress_epi32(bits, here));
            n_packed += __builtin_popcount(bits);
        }
    }
    return n_packed;
}
#endif

/* OUT packed, ids (n,): the elements of row with a set bit in mask (bit i % 32 of word i / 32), and in `also` unless
* it is NULL. Returns their number. */
static int32_t vm_pack(const float* row, int32_t n, const uint32_t* mask, const uint32_t* also, float* packed,
                       int32_t* ids) {
#if defined(__x86_64__) && defined(__GNUC__)
    if (__builtin_cpu_supports("avx512f"))
        return vm_pack_words(row, n / 32 * 32, n, mask, also, packed, ids,
                             vm_pack_avx512(row, n, mask, also, packed, ids));
#endif
    return vm_pack_words(row, 0, n, mask, also, packed, ids, 0);
}

/* OUT packed, packed_ids: the elements with order > floor, or order == floor at an index <= last_id. ids NULL: the ids
* are the indices. Returns their number. packed may be row, and packed_ids may be ids: reads are ahead of writes. */
VM_CLONES
static int32_t vm_pack_cut(const float* order, const float* row, const int32_t* ids, int32_t n, float floor,
                           int32_t last_id, float* packed, int32_t* packed_ids) {
    float pad[VM_BLOCK];
    uint8_t hit[VM_BLOCK];
    int32_t b, i, j, n_packed = 0, n_blocks = (n + VM_BLOCK - 1) / VM_BLOCK;
    for (b = 0; b < n_blocks; b++) {
        const float* x = vm_block(order, n, b, pad);
        int32_t start = b * VM_BLOCK;
        for (j = 0; j < VM_BLOCK; j++) hit[j] = (x[j] > floor) | ((x[j] == floor) & (start + j <= last_id));
        for (i = 0; i < VM_BLOCK; i += 8) {
            uint64_t hits;
            memcpy(&hits, hit + i, 8);
            if (!hits) continue;
            for (j = start + i; j < start + i + 8; j++) {
                if (!hit[j - start]) continue;
                packed[n_packed] = row[j];
                packed_ids[n_packed++] = ids ? ids[j] : j;
            }
        }
    }
    return n_packed;
}

/* OUT scores (n,): -|x - center|; -inf if x is -inf. */
VM_CLONES
static void vm_closeness(const float* row, int32_t n, float center, float* scores) {
    int32_t i;
    for (i = 0; i < n; i++) scores[i] = row[i] > -INFINITY ? -fabsf(row[i] - center) : -INFINITY;
}

/* OUT stats (3,): the number of elements above -inf, and their sums of d = x - max and of d * d. */
VM_CLONES
static void vm_spread(const float* row, int32_t n, float max, double* stats) {
    float pad[VM_BLOCK], count[VM_BLOCK], d[VM_BLOCK], square[VM_BLOCK];
    int32_t b, j, n_blocks = (n + VM_BLOCK - 1) / VM_BLOCK;
    stats[0] = stats[1] = stats[2] = 0;
    for (b = 0; b < n_blocks; b++) {
        const float* x = vm_block(row, n, b, pad);
        for (j = 0; j < VM_BLOCK; j++) {
            count[j] = x[j] > -INFINITY ? 1.0f : 0.0f;
            d[j] = x[j] > -INFINITY ? x[j] - max : 0.0f;
            square[j] = d[j] * d[j];
        }
        stats[0] += vm_block_sum(count);
        stats[1] += vm_block_sum(d);
        stats[2] += vm_block_sum(square);
    }
}

/* OUT stats (3,): the number of elements above -inf, and their sums of w = exp(d), d = x - max, and of w * d. */
VM_CLONES
static void vm_surprise(const float* row, int32_t n, float max, double* stats) {
    float pad[VM_BLOCK], count[VM_BLOCK], w[VM_BLOCK], product[VM_BLOCK];
    int32_t b, j, n_blocks = (n + VM_BLOCK - 1) / VM_BLOCK;
    stats[0] = stats[1] = stats[2] = 0;
    for (b = 0; b < n_blocks; b++) {
        const float* x = vm_block(row, n, b, pad);
        for (j = 0; j < VM_BLOCK; j++) {
            float d = x[j] - max;
            count[j] = x[j] > -INFINITY ? 1.0f : 0.0f;
            d = d > -86.0f ? d : -86.0f;
            w[j] = vm_exp(d);
            product[j] = w[j] * d;
        }
        stats[0] += vm_block_sum(count);
        stats[1] += vm_block_sum(w);
        stats[2] += vm_block_sum(product);
    }
}

#endif
