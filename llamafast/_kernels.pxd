"""Float row kernels: C face. No llama.h here."""

from libc.stdint cimport int32_t, uint32_t, uint64_t

cdef struct RowParams:
    float temperature       # <= 0: greedy
    int32_t top_k           # <= 0: off
    float top_p             # >= 1: off
    float min_p             # <= 0: off

cdef struct Scratch:        # grows on demand; zero-initialise; free with scratch_free
    uint64_t* keys          # (capacity,) candidates
    float* maxima           # per block of the row, then per block of those, and so on
    double* sums            # per block of the row
    double* bins            # probability mass by logit
    float* packed           # (capacity,) the allowed logits of a masked row, made when first needed
    int32_t* packed_ids     # (capacity,) their places
    int32_t capacity

cdef int scratch_reserve(Scratch* scratch, int32_t n_vocab) except -1 nogil
cdef void scratch_free(Scratch* scratch) noexcept nogil

cdef uint64_t rng_seed(uint64_t seed) noexcept nogil
cdef double rng_uniform(uint64_t* state) noexcept nogil    # [0, 1)

# NaN counts as -inf in all of them.
cdef int32_t row_argmax(const float* row, int32_t n) noexcept nogil             # first of equal; all -inf: 0
cdef double row_logsumexp(const float* row, int32_t n) noexcept nogil
# IN ids (n_ids,), counts (n_ids,), IN/OUT row
cdef void row_penalize(float* row, const int32_t* ids, const int32_t* counts, int32_t n_ids,
                       float repetition, float frequency, float presence) noexcept nogil
# One draw: top_k -> top_p -> min_p -> temperature -> draw (llama.cpp's default order). Does not change row.
# scratch must be reserved for n. Uses one random number, none if greedy.
cdef int32_t row_draw(const float* row, int32_t n, const RowParams* params, uint64_t* rng,
                      Scratch* scratch) noexcept nogil
# As row_draw, from those places of row alone whose bit (i % 32 of word i // 32) is set in mask, and in also unless that
# is NULL; -1 if none of them is above -inf.
cdef int32_t row_draw_masked(const float* row, int32_t n, const uint32_t* mask, const uint32_t* also,
                             const RowParams* params, uint64_t* rng, Scratch* scratch) except -2 nogil
# The k largest, best first (ties: lower id first); OUT ids (k,), values (k,); returns min(k, n)
cdef int32_t row_top_n(const float* row, int32_t n, int32_t k, int32_t* ids, float* values) noexcept nogil
