"""Float row kernels: C face. No llama.h here."""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

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
    float* haste            # per block of the row: -(the earliest time that its tokens can arrive at)
    float* hashes           # per block of the row, then per VM_BLOCK token ids
    float* packed           # (capacity,) what is left of a row; made by scratch_reserve_packed, as the next two
    int32_t* packed_ids     # (capacity,) their places
    float* scores           # (capacity,) another order of them
    int32_t capacity

cdef struct Cut:            # which places survive: row[i] > floor, or == floor and i <= last_id
    float floor
    int32_t last_id

cdef struct Noise:          # keys of the random numbers of one draw: each is a function of a key and a place
    uint64_t blocks         # per VM_BLOCK token ids
    uint64_t tokens         # per token id
    uint64_t coin           # XTC's

cdef int scratch_reserve(Scratch* scratch, int32_t n_vocab) except -1 nogil
cdef int scratch_reserve_packed(Scratch* scratch) except -1 nogil
cdef void scratch_free(Scratch* scratch) noexcept nogil

# The random numbers of a draw come from a counter, (seed, position), and not from a running state.
cdef uint64_t stream_of(uint64_t seed) noexcept nogil
cdef Noise noise_of(uint64_t stream, int64_t position) noexcept nogil
cdef double uniform_of(uint64_t random) noexcept nogil      # (0, 1), from 52 bits

# NaN counts as -inf in all of them.
cdef int32_t row_argmax(const float* row, int32_t n) noexcept nogil             # first of equal; all -inf: 0
cdef double row_logsumexp(const float* row, int32_t n) noexcept nogil
# IN ids (n_ids,), counts (n_ids,), IN/OUT row
cdef void row_penalize(float* row, const int32_t* ids, const int32_t* counts, int32_t n_ids,
                       float repetition, float frequency, float presence) noexcept nogil
# One draw: top_k -> top_p -> min_p -> temperature -> race (llama.cpp's default order). Does not change row.
# scratch must be reserved for n. IN ids (n,): the token ids of the places, ascending; NULL: the places themselves.
cdef int32_t row_draw(const float* row, const int32_t* ids, int32_t n, const RowParams* params, const Noise* noise,
                      Scratch* scratch) noexcept nogil
# The steps of row_draw. IN scratch.maxima: the block maxima of row; top: its largest, finite. OUT n_keys: so many keys
# in scratch.keys hold all that survive (some may not); 0: not known.
cdef Cut row_cut(const float* row, int32_t n, float top, const RowParams* params, Scratch* scratch,
                 int32_t* n_keys) noexcept nogil
# Sum of exp((logit - top) * scale) over what the cut leaves, but for what is negligible
cdef double row_sum_cut(const float* row, int32_t n, float top, float scale, Cut cut, Scratch* scratch) noexcept nogil
# The race: each token id has an exponential random time, the same in every row and cut, iid. That place wins of those
# that the cut leaves whose time / exp((logit - top) * scale) is least; so each with probability ~ that weight.
# Of VM_BLOCK ids at a time the least time is one number, and another says whose it is; the others' are that plus an
# exponential time each. So a block is only looked at if its least time and its largest logit could win: no exp per
# token, and of n tokens about VM_BLOCK blocks at most are looked at, whatever the row.
cdef int32_t row_race(const float* row, const int32_t* ids, int32_t n, float top, float scale, Cut cut, int32_t n_keys,
                      const Noise* noise, Scratch* scratch) noexcept nogil
# The fewest places, best first by order, that together hold `share` (< 1) of the mass exp(logits - top); as a cut of
# order. IN scratch.maxima, best: those of order; reach: what lies so far below best holds less than 1 - share.
cdef Cut row_cut_mass(const float* order, int32_t n, float best, const float* logits, float top, float reach,
                      float share, Scratch* scratch) noexcept nogil
cdef float mass_reach(int32_t n, float share) noexcept nogil    # that reach where order is logits
# The k largest, best first (ties: lower id first); OUT ids (k,), values (k,); returns min(k, n)
cdef int32_t row_top_n(const float* row, int32_t n, int32_t k, int32_t* ids, float* values) noexcept nogil
# 1 + how many are larger than row[i]
cdef int32_t row_rank(const float* row, int32_t n, int32_t i) noexcept nogil
