"""Float row kernels: C interface. No llama.h here."""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

cdef struct RowParams:
    float temperature       # <= 0: greedy
    int32_t top_k           # <= 0: off
    float top_p             # >= 1: off
    float min_p             # <= 0: off

cdef struct Scratch:        # initialize with zeros, grow with scratch_reserve, free with scratch_free
    uint64_t* keys          # (capacity,) candidates
    float* maxima           # per block of the row, then per block of those, and so on
    double* sums            # sum of weights, per block of the row
    double* bins            # probability mass by logit
    float* haste            # per block of the row: -(lower bound of the times of its tokens)
    float* hashes           # per block of the row, then per VM_BLOCK token ids
    float* packed           # (capacity,) the remaining part of a row; see scratch_reserve_packed, also for the next two
    int32_t* packed_ids     # (capacity,) indices of packed in the row
    float* scores           # (capacity,) values by which packed is ordered, if not by logit
    int32_t capacity

cdef struct Cut:            # the kept places: row[i] > floor, or row[i] == floor and i <= last_id
    float floor
    int32_t last_id

cdef struct Noise:          # keys of the random numbers of one draw; each number is a function of a key and an index
    uint64_t blocks         # per VM_BLOCK token ids
    uint64_t tokens         # per token id
    uint64_t coin           # for XTC

cdef int scratch_reserve(Scratch* scratch, int32_t n_vocab) except -1 nogil
cdef int scratch_reserve_packed(Scratch* scratch) except -1 nogil
cdef void scratch_free(Scratch* scratch) noexcept nogil

# The random numbers of a draw are a function of (seed, position): a counter-based generator without a state.
cdef uint64_t stream_of(uint64_t seed) noexcept nogil
cdef Noise noise_of(uint64_t stream, int64_t position) noexcept nogil
cdef double uniform_of(uint64_t random) noexcept nogil      # (0, 1), from 52 bits

# In all following functions NaN counts as -inf.
cdef int32_t row_argmax(const float* row, int32_t n) noexcept nogil             # the first among equals; all -inf: 0
cdef double row_logsumexp(const float* row, int32_t n) noexcept nogil
# IN ids (n_ids,), counts (n_ids,), IN/OUT row
cdef void row_penalize(float* row, const int32_t* ids, const int32_t* counts, int32_t n_ids,
                       float repetition, float frequency, float presence) noexcept nogil
# One draw: top_k -> top_p -> min_p -> temperature -> race (llama.cpp's default order). Does not change row.
# scratch must be reserved for n. IN ids (n,): token id of each place, ascending; NULL: the place is the token id.
cdef int32_t row_draw(const float* row, const int32_t* ids, int32_t n, const RowParams* params, const Noise* noise,
                      Scratch* scratch) noexcept nogil
# The steps of row_draw. IN scratch.maxima: block maxima of row; top: its maximum, finite. OUT n_keys: the first n_keys
# of scratch.keys include all kept places, and perhaps others; 0: unknown.
cdef Cut row_cut(const float* row, int32_t n, float top, const RowParams* params, Scratch* scratch,
                 int32_t* n_keys) noexcept nogil
# Sum of exp((logit - top) * scale) over the places that the cut keeps, without negligible terms.
cdef double row_sum_cut(const float* row, int32_t n, float top, float scale, Cut cut, Scratch* scratch) noexcept nogil
# The race: each token id has an independent exponential random time, the same for every row and cut. Among the kept
# places, the one with the smallest time / weight wins, with weight = exp((logit - top) * scale). So each place wins
# with a probability proportional to its weight.
# The smallest time of VM_BLOCK consecutive ids is one random number; a second number gives the id that has it. The
# times of the other ids are that time plus an exponential time each. So a block is examined only if its smallest time
# and its largest logit could win. This avoids an exp per token: at most about VM_BLOCK blocks are examined in any row.
cdef int32_t row_race(const float* row, const int32_t* ids, int32_t n, float top, float scale, Cut cut, int32_t n_keys,
                      const Noise* noise, Scratch* scratch) noexcept nogil
# The fewest places, largest `order` first, that together have `share` (< 1) of the mass exp(logits - top), as a cut of
# order. IN scratch.maxima, best: block maxima and maximum of order; reach: places with order < best - reach together
# have less than 1 - share of the mass.
cdef Cut row_cut_mass(const float* order, int32_t n, float best, const float* logits, float top, float reach,
                      float share, Scratch* scratch) noexcept nogil
cdef float mass_reach(int32_t n, float share) noexcept nogil    # the reach if order is logits
# The k largest, largest first (ties: lower id first); OUT ids (k,), values (k,). Returns min(k, n).
cdef int32_t row_top_n(const float* row, int32_t n, int32_t k, int32_t* ids, float* values) noexcept nogil
# 1 + the number of elements that are larger than row[i].
cdef int32_t row_rank(const float* row, int32_t n, int32_t i) noexcept nogil
