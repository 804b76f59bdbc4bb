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
    float* packed           # (capacity,) what is left of a row; made by scratch_reserve_packed, as the next two
    int32_t* packed_ids     # (capacity,) their places
    float* scores           # (capacity,) another order of them
    int32_t capacity

cdef struct Cut:            # which places survive: row[i] > floor, or == floor and i <= last_id
    float floor
    int32_t last_id

cdef int scratch_reserve(Scratch* scratch, int32_t n_vocab) except -1 nogil
cdef int scratch_reserve_packed(Scratch* scratch) except -1 nogil
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
# The steps of row_draw. IN scratch.maxima: the block maxima of row; top: its largest, finite.
cdef Cut row_cut(const float* row, int32_t n, float top, const RowParams* params, Scratch* scratch) noexcept nogil
# Sum of exp((logit - top) * scale) over what the cut leaves, but for what is negligible; per block in scratch.sums
cdef double row_sum_cut(const float* row, int32_t n, float top, float scale, Cut cut, Scratch* scratch) noexcept nogil
# IN uniform [0, 1); OUT total: that sum
cdef int32_t row_draw_cut(const float* row, int32_t n, float top, float scale, Cut cut, double uniform,
                          Scratch* scratch, double* total) noexcept nogil
# The fewest places, best first by order, that together hold `share` (< 1) of the mass exp(logits - top); as a cut of
# order. IN scratch.maxima, best: those of order; reach: what lies so far below best holds less than 1 - share.
cdef Cut row_cut_mass(const float* order, int32_t n, float best, const float* logits, float top, float reach,
                      float share, Scratch* scratch) noexcept nogil
cdef float mass_reach(int32_t n, float share) noexcept nogil    # that reach where order is logits
# The k largest, best first (ties: lower id first); OUT ids (k,), values (k,); returns min(k, n)
cdef int32_t row_top_n(const float* row, int32_t n, int32_t k, int32_t* ids, float* values) noexcept nogil
# 1 + how many are larger than row[i]
cdef int32_t row_rank(const float* row, int32_t n, int32_t i) noexcept nogil
