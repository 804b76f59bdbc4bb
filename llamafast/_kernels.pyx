"""Float row kernels: argmax, logsumexp, penalties, top-n and the fused filter-and-draw. No model, no llama.h."""

from array import array

from libc.float cimport FLT_MAX
from libc.math cimport INFINITY, exp, log, log1p, logf, nextafterf
from libc.stdlib cimport free, malloc
from libc.string cimport memset

cdef extern from "_vecmath.h" nogil:
    enum:
        VM_BLOCK
        VM_REST
    float vm_exp(float x)
    uint64_t vm_mix(uint64_t x)
    uint64_t vm_random(uint64_t key, uint64_t place)
    uint32_t vm_order(float x)
    float vm_unorder(uint32_t order)
    int32_t vm_bin(float x, float max, float scale, int32_t last)
    float vm_maxima(const float* row, int32_t n, float* maxima)
    double vm_sums(const float* row, int32_t n, const float* maxima, float max, float scale, float floor, double* sums)
    double vm_mass(const float* row, int32_t n, const float* maxima, float max, float floor, int32_t place,
                   double* better)
    uint64_t vm_contenders(const float* row, int32_t n, int32_t b, float max, float scale, float floor, float hash,
                           float limit, float* w)
    int32_t vm_lowest(uint64_t bits)
    void vm_hashes(uint64_t key, int32_t first, int32_t n, float* hashes)
    void vm_haste(const float* values, int32_t n, float max, float scale, float floor, const float* hashes,
                  float* haste)
    void vm_histogram(const float* row, int32_t n, const float* maxima, float max, const float* logits, float peak,
                      float power, float scale, float floor, int32_t last, double* bins)
    int32_t vm_count(const float* row, int32_t n, const float* maxima, float floor)
    int32_t vm_gather(const float* row, int32_t n, const float* maxima, float floor, float ceiling, uint64_t* keys)

cdef float SLACK = VM_BLOCK * 1.00001      # rounding can make a weight larger than that of the block's maximum

cdef struct Winner:         # the best place of a race so far
    double time
    int32_t place           # -1: none

cdef enum:
    MAX_BINS = 2048
    CHUNK_BLOCKS = 64       # blocks per chunk of the kernels without scratch: 16 KB, which fits into the L1 cache


cdef inline int32_t num_blocks(int32_t n) noexcept nogil:
    return (n + VM_BLOCK - 1) // VM_BLOCK


# ---- scratch and random numbers

cdef int scratch_reserve(Scratch* scratch, int32_t n_vocab) except -1 nogil:
    """Allocate room for rows of n_vocab floats. Raises MemoryError."""
    cdef size_t n = <size_t> n_vocab, n_blocks = n // VM_BLOCK + 1
    if scratch.capacity >= n_vocab:
        return 0
    scratch_free(scratch)
    scratch.keys = <uint64_t*> malloc(n * sizeof(uint64_t))
    scratch.maxima = <float*> malloc((n_blocks * 2 + 64) * sizeof(float))    # n/64 + n/4096 + ... and rounding up
    scratch.sums = <double*> malloc(n_blocks * sizeof(double))
    scratch.bins = <double*> malloc((MAX_BINS + VM_REST) * sizeof(double))
    scratch.haste = <float*> malloc(n_blocks * sizeof(float))
    scratch.hashes = <float*> malloc(n_blocks * 2 * sizeof(float))
    if (scratch.keys is NULL or scratch.maxima is NULL or scratch.sums is NULL or scratch.bins is NULL
            or scratch.haste is NULL or scratch.hashes is NULL):
        scratch_free(scratch)
        with gil:
            raise MemoryError(f"no memory for sampling rows of {n_vocab} logits")
    scratch.capacity = n_vocab
    return 0


cdef int scratch_reserve_packed(Scratch* scratch) except -1 nogil:
    """Allocate room for packed rows, too, of the size for which scratch is reserved. Raises MemoryError."""
    cdef size_t n = <size_t> scratch.capacity
    if scratch.packed is NULL:
        scratch.packed = <float*> malloc(n * sizeof(float))
    if scratch.packed_ids is NULL:
        scratch.packed_ids = <int32_t*> malloc(n * sizeof(int32_t))
    if scratch.scores is NULL:
        scratch.scores = <float*> malloc(n * sizeof(float))
    if scratch.packed is NULL or scratch.packed_ids is NULL or scratch.scores is NULL:
        with gil:
            raise MemoryError(f"no memory for packed rows of {scratch.capacity} logits")
    return 0


cdef void scratch_free(Scratch* scratch) noexcept nogil:
    free(scratch.keys)
    free(scratch.maxima)
    free(scratch.sums)
    free(scratch.bins)
    free(scratch.haste)
    free(scratch.hashes)
    free(scratch.packed)
    free(scratch.packed_ids)
    free(scratch.scores)
    scratch.keys = NULL
    scratch.maxima = NULL
    scratch.sums = NULL
    scratch.bins = NULL
    scratch.haste = NULL
    scratch.hashes = NULL
    scratch.packed = NULL
    scratch.packed_ids = NULL
    scratch.scores = NULL
    scratch.capacity = 0


cdef uint64_t stream_of(uint64_t seed) noexcept nogil:
    # mixed twice: consecutive seeds must not start at consecutive places of the same splitmix64 sequence
    return vm_mix(vm_mix(seed + <uint64_t> 0x9E3779B97F4A7C15) ^ <uint64_t> 0xD1B54A32D192ED03)


cdef Noise noise_of(uint64_t stream, int64_t position) noexcept nogil:
    cdef uint64_t key = vm_random(stream, <uint64_t> position)
    return Noise(vm_mix(key ^ <uint64_t> 0xA0761D6478BD642F), vm_mix(key ^ <uint64_t> 0xE7037ED1A0B428DB),
                 vm_mix(key ^ <uint64_t> 0x8EBC6AF09C88C6E3))


cdef double uniform_of(uint64_t random) noexcept nogil:
    return (<double> (random >> 12) + 0.5) * (1.0 / 4503599627370496.0)


# ---- one row

cdef int32_t find(const float* row, int32_t n, float value) noexcept nogil:
    cdef int32_t i
    for i in range(n):
        if row[i] == value:
            return i
    return 0


cdef int32_t row_argmax(const float* row, int32_t n) noexcept nogil:
    cdef float[CHUNK_BLOCKS] maxima
    cdef float best = -INFINITY, chunk_max
    cdef int32_t chunk = CHUNK_BLOCKS * VM_BLOCK, start = 0, best_start = 0
    while start < n:
        chunk_max = vm_maxima(row + start, min(chunk, n - start), maxima)
        if chunk_max > best:
            best = chunk_max
            best_start = start
        start += chunk
    return best_start + find(row + best_start, min(chunk, n - best_start), best) if best > -INFINITY else 0


cdef double row_logsumexp(const float* row, int32_t n) noexcept nogil:
    cdef float[CHUNK_BLOCKS] maxima
    cdef double[CHUNK_BLOCKS] sums
    cdef double total = 0
    cdef float top = -INFINITY, chunk_max
    cdef int32_t chunk = CHUNK_BLOCKS * VM_BLOCK, start = 0, length
    while start < n:
        length = min(chunk, n - start)
        chunk_max = vm_maxima(row + start, length, maxima)
        if chunk_max > top:
            total *= exp(<double> top - chunk_max)
            top = chunk_max
        if top == INFINITY:
            return INFINITY
        if chunk_max > -INFINITY:
            total += vm_sums(row + start, length, maxima, top, 1.0, -FLT_MAX, sums)
        start += chunk
    return top + log(total) if total > 0 else -INFINITY


cdef void row_penalize(float* row, const int32_t* ids, const int32_t* counts, int32_t n_ids,
                       float repetition, float frequency, float presence) noexcept nogil:
    cdef int32_t i
    cdef float logit
    for i in range(n_ids):
        if counts[i] <= 0:
            continue
        logit = row[ids[i]]
        logit = logit / repetition if logit > 0 else logit * repetition
        row[ids[i]] = logit - (counts[i] * frequency + presence)


# ---- the k largest, without scratch: a heap in the output arrays; its root is the smallest kept element

cdef inline bint is_worse(const int32_t* ids, const float* values, int32_t a, int32_t b) noexcept nogil:
    return values[a] < values[b] or (values[a] == values[b] and ids[a] > ids[b])


cdef void sift_down(int32_t* ids, float* values, int32_t n, int32_t i) noexcept nogil:
    cdef int32_t child
    while 2 * i + 1 < n:
        child = 2 * i + 1
        if child + 1 < n and is_worse(ids, values, child + 1, child):
            child += 1
        if not is_worse(ids, values, child, i):
            return
        ids[i], ids[child] = ids[child], ids[i]
        values[i], values[child] = values[child], values[i]
        i = child


cdef int32_t row_rank(const float* row, int32_t n, int32_t i) noexcept nogil:
    """1 + the number of elements of row (n,) that are larger than row[i]."""
    cdef int32_t k, rank = 1
    cdef float value = row[i] if row[i] == row[i] else -INFINITY
    for k in range(n):
        rank += row[k] > value
    return rank


cdef int32_t row_top_n(const float* row, int32_t n, int32_t k, int32_t* ids, float* values) noexcept nogil:
    cdef float[CHUNK_BLOCKS] maxima
    cdef int32_t kept = min(k, n), chunk = CHUNK_BLOCKS * VM_BLOCK, start = kept, length, b, i
    if kept <= 0:
        return 0
    for i in range(kept):
        ids[i] = i
        values[i] = row[i] if row[i] == row[i] else -INFINITY
    for i in range(kept // 2 - 1, -1, -1):
        sift_down(ids, values, kept, i)
    while start < n:
        length = min(chunk, n - start)
        vm_maxima(row + start, length, maxima)
        for b in range(num_blocks(length)):
            if not maxima[b] > values[0]:       # an equal value comes later in the row, so it loses the tie
                continue
            for i in range(start + b * VM_BLOCK, min(start + (b + 1) * VM_BLOCK, n)):
                if row[i] > values[0]:
                    ids[0] = i
                    values[0] = row[i]
                    sift_down(ids, values, kept, 0)
        start += length
    for i in range(kept - 1, 0, -1):
        ids[0], ids[i] = ids[i], ids[0]
        values[0], values[i] = values[i], values[0]
        sift_down(ids, values, i, 0)
    return kept


# ---- the filters: each finds a Cut

cdef inline double mass_of(uint64_t key, const float* logits, float top) noexcept nogil:
    return 1.0 if logits is NULL else vm_exp(logits[<int32_t> ~<uint32_t> key] - top)


cdef int32_t split(uint64_t* keys, int32_t low, int32_t high) noexcept nogil:
    """Hoare partition of keys[low:high], at least 2, around a median of 3, larger keys first. Returns the border."""
    cdef uint64_t a = keys[low], b = keys[low + (high - low) // 2], c = keys[high - 1]
    cdef uint64_t pivot = max(min(a, b), min(max(a, b), c))
    cdef int32_t i = low, j = high - 1
    while True:
        while keys[i] > pivot:
            i += 1
        while keys[j] < pivot:
            j -= 1
        if i >= j:
            # i == j is the pivot itself; it goes to the left side unless the right side would be empty
            return i + 1 if i == j and i + 1 < high else i
        keys[i], keys[j] = keys[j], keys[i]
        i += 1
        j -= 1


cdef int32_t take_best(uint64_t* keys, int32_t n, double wanted, const float* logits, float top) noexcept nogil:
    """Quickselect: moves the fewest largest keys that together weigh `wanted` to the front. Returns their number.

    A key weighs exp(logit - top), or 1 if logits is NULL. Returns n if all keys together weigh less.
    """
    cdef int32_t low = 0, high = n, border, i
    cdef double before = 0, mass
    while high - low > 1:
        border = split(keys, low, high)
        mass = 0
        for i in range(low, border):
            mass += mass_of(keys[i], logits, top)
        if before + mass >= wanted:
            high = border
        else:
            before += mass
            low = border
    return high


cdef Cut worst_of(const uint64_t* keys, int32_t n) noexcept nogil:
    cdef uint64_t worst = keys[0]
    cdef int32_t i
    cdef Cut cut
    for i in range(1, n):
        worst = min(worst, keys[i])
    cut.floor = vm_unorder(<uint32_t> (worst >> 32))
    cut.last_id = <int32_t> ~<uint32_t> worst
    return cut


cdef float bin_floor(int32_t index, float top, float scale, int32_t last) noexcept nogil:
    """The smallest float with a bin <= index, found by bisection over the order of floats; index < last."""
    cdef uint32_t low = vm_order(-FLT_MAX), high = vm_order(top), middle
    while high - low > 1:
        middle = low + (high - low) // 2
        if vm_bin(vm_unorder(middle), top, scale, last) <= index:
            high = middle
        else:
            low = middle
    return vm_unorder(high)


cdef int32_t find_bin(const double* bins, int32_t last, double wanted, double* before) noexcept nogil:
    """The first bin at which the running sum reaches `wanted`, or last. OUT before: the sum before that bin."""
    cdef int32_t i
    before[0] = 0
    for i in range(last):
        if before[0] + bins[i] >= wanted:
            return i
        before[0] += bins[i]
    return last


cdef inline int32_t num_bins(int32_t n) noexcept nogil:
    return max(64, min(MAX_BINS, n // 16))


cdef float count_floor(const float* row, int32_t n, float top, const float* maxima, int32_t k,
                       double* bins) noexcept nogil:
    """A value slightly below the k-th largest of row; -FLT_MAX if that is far below top."""
    cdef float reach = 32
    cdef int32_t last = num_bins(n), index
    cdef double before
    vm_histogram(row, n, maxima, top, row, top, 0, last / reach, top - reach, last, bins)
    index = find_bin(bins, last, k, &before)
    return bin_floor(index, top, last / reach, last) if index < last else -FLT_MAX


cdef int32_t gather_best(const float* row, int32_t n, float top, float* maxima, int32_t k,
                         Scratch* scratch) noexcept nogil:
    """OUT scratch.keys: keys of the k largest of row, unordered. Returns their number, less than k if others are -inf.

    IN maxima: block maxima of row. The k-th largest block maximum is a lower bound of the k-th largest element; it is
    found in the same way.
    """
    cdef int32_t n_blocks = num_blocks(n), n_keys
    cdef float floor = -FLT_MAX
    if n_blocks > k:
        vm_maxima(maxima, n_blocks, maxima + n_blocks)
        n_keys = gather_best(maxima, n_blocks, top, maxima + n_blocks, k, scratch)
        if n_keys == k:
            floor = worst_of(scratch.keys, n_keys).floor
    elif n > 1024:
        floor = count_floor(row, n, top, maxima, k, scratch.bins)
    n_keys = vm_gather(row, n, maxima, floor, INFINITY, scratch.keys)
    return take_best(scratch.keys, n_keys, k, NULL, 0) if n_keys > k else n_keys


cdef float mass_reach(int32_t n, float share) noexcept nogil:
    # Logits that are further below the top have less than 1 - share of the mass, even if all n were there.
    return <float> (log(n / (1.0 - share)) + 1.0)


cdef Cut row_cut_mass(const float* order, int32_t n, float best, const float* logits, float top, float reach,
                      float share, Scratch* scratch) noexcept nogil:
    cdef float ceiling = INFINITY
    cdef int32_t last = num_bins(n), index, n_keys, i
    cdef float scale = last / reach
    cdef double wanted = 0, before
    vm_histogram(order, n, scratch.maxima, best, logits, top, 1, scale, best - reach, last, scratch.bins)
    for i in range(last + VM_REST):
        wanted += scratch.bins[i]
    wanted *= share
    index = find_bin(scratch.bins, last, wanted, &before)
    if index == last:       # share is so close to 1 that the rest is lost in rounding
        return Cut(-FLT_MAX, n - 1)
    if index > 0:
        ceiling = bin_floor(index - 1, best, scale, last)
    n_keys = vm_gather(order, n, scratch.maxima, bin_floor(index, best, scale, last), ceiling, scratch.keys)
    return worst_of(scratch.keys, take_best(scratch.keys, n_keys, wanted - before, logits, top))


cdef Cut cut_min_p(int32_t n, float top, const RowParams* params) noexcept nogil:
    if params.min_p > 0:
        return Cut(min(top, top + logf(params.min_p)), n - 1)
    return Cut(-FLT_MAX, n - 1)


cdef Cut row_cut(const float* row, int32_t n, float top, const RowParams* params, Scratch* scratch,
                 int32_t* n_keys) noexcept nogil:
    cdef Cut cut = cut_min_p(n, top, params), other = cut
    cdef double mass = 0
    cdef int32_t i
    n_keys[0] = 0
    if 0 < params.top_k < n:
        n_keys[0] = gather_best(row, n, top, scratch.maxima, params.top_k, scratch)
        if params.top_p < 1:
            for i in range(n_keys[0]):
                mass += mass_of(scratch.keys[i], row, top)
            n_keys[0] = take_best(scratch.keys, n_keys[0], mass * params.top_p, row, top)
        other = worst_of(scratch.keys, n_keys[0])
    elif params.top_p < 1:
        other = row_cut_mass(row, n, top, row, top, mass_reach(n, params.top_p), params.top_p, scratch)
    return cut if cut.floor > other.floor else other


# ---- the draw: a race

cdef void weigh_block(const float* row, int32_t n, int32_t b, float top, float scale, Cut cut,
                      double* weights) noexcept nogil:
    cdef int32_t start = b * VM_BLOCK, i
    for i in range(start, start + VM_BLOCK):
        if i < n and (row[i] > cut.floor or (row[i] == cut.floor and i <= cut.last_id)):
            weights[i - start] = vm_exp((row[i] - top) * scale)
        else:
            weights[i - start] = 0


cdef inline float negligible(int32_t n, float top, float scale) noexcept nogil:
    """n logits below this value together weigh less than exp(-17), the rounding error of a float."""
    return top - <float> (log(n) + 17) / scale


cdef double row_sum_cut(const float* row, int32_t n, float top, float scale, Cut cut, Scratch* scratch) noexcept nogil:
    """Sum of exp((logit - top) * scale) over the places that the cut keeps, without negligible terms."""
    # Ties are handled differently before and after the block of last_id:
    #   blocks before it: row[i] >= floor      this block: both      blocks after it: row[i] > floor
    cdef double[VM_BLOCK] weights
    cdef float least = negligible(n, top, scale)
    cdef int32_t border, after, i
    cdef double* sums = scratch.sums
    cdef double total
    if least > cut.floor:
        cut = Cut(least, n - 1)
    border = cut.last_id // VM_BLOCK
    after = (border + 1) * VM_BLOCK
    total = vm_sums(row, border * VM_BLOCK, scratch.maxima, top, scale, cut.floor, sums)
    weigh_block(row, n, border, top, scale, cut, weights)
    sums[border] = 0
    for i in range(VM_BLOCK):
        sums[border] += weights[i]
    total += sums[border]
    if after < n:
        total += vm_sums(row + after, n - after, scratch.maxima + border + 1, top, scale,
                         nextafterf(cut.floor, INFINITY), sums + border + 1)
    return total


cdef void load_hashes(const int32_t* ids, int32_t n, const Noise* noise, float* hashes) noexcept nogil:
    """OUT hashes: per block of the row a value of at most VM_BLOCK times the time of each of its tokens."""
    cdef int32_t n_blocks = num_blocks(n), first, n_groups, b, i
    cdef float* own = hashes + n_blocks     # per VM_BLOCK ids
    cdef float least
    if ids is NULL:
        vm_hashes(noise.blocks, 0, n_blocks, hashes)
        return
    first = ids[0] // VM_BLOCK
    n_groups = ids[n - 1] // VM_BLOCK + 1 - first
    if n_groups > n:                # few tokens: it is cheaper to examine each
        memset(hashes, 0, n_blocks * sizeof(float))
        return
    vm_hashes(noise.blocks, first, n_groups, own)
    for b in range(n_blocks):
        least = 1
        for i in range(ids[b * VM_BLOCK] // VM_BLOCK, ids[min((b + 1) * VM_BLOCK, n) - 1] // VM_BLOCK + 1):
            least = min(least, own[i - first])
        hashes[b] = least


cdef inline void race_token(int32_t place, int32_t token, double weight, uint64_t random, const Noise* noise,
                            Winner* winner) noexcept nogil:
    """IN random: random number of the token's block; OUT winner. Stops as soon as the token's time is too late."""
    cdef uint64_t own
    cdef double limit = weight * winner.time, time
    if uniform_of(random) > limit * VM_BLOCK:       # -log(1 - u) >= u: most need no logarithm
        return
    time = -log1p(-uniform_of(random)) / VM_BLOCK
    if <int32_t> (random % VM_BLOCK) != token % VM_BLOCK:
        own = vm_random(noise.tokens, token)
        if time + uniform_of(own) > limit:
            return
        time -= log1p(-uniform_of(own))
    time /= weight
    if time < winner.time:
        winner.time = time
        winner.place = place


cdef void race_block(const float* row, const int32_t* ids, int32_t n, int32_t b, float top, float scale, Cut cut,
                     const Noise* noise, float hash, Winner* winner) noexcept nogil:
    cdef float[VM_BLOCK] weights
    cdef int32_t group = -1, i, token
    cdef uint64_t random = 0, contenders
    contenders = vm_contenders(row, n, b, top, scale, cut.floor, hash, SLACK * <float> winner.time, weights)
    while contenders:
        i = b * VM_BLOCK + vm_lowest(contenders)
        contenders &= contenders - 1
        if row[i] == cut.floor and i > cut.last_id:
            continue
        token = i if ids is NULL else ids[i]
        if token // VM_BLOCK != group:
            group = token // VM_BLOCK
            random = vm_random(noise.blocks, group)
        race_token(i, token, weights[i % VM_BLOCK], random, noise, winner)


cdef void race_keys(const float* row, const int32_t* ids, const uint64_t* keys, int32_t n_keys, float top, float scale,
                    Cut cut, const Noise* noise, Winner* winner) noexcept nogil:
    cdef int32_t k, i, token
    for k in range(n_keys):
        i = <int32_t> ~<uint32_t> keys[k]
        if row[i] > cut.floor or (row[i] == cut.floor and i <= cut.last_id):
            token = i if ids is NULL else ids[i]
            race_token(i, token, vm_exp((row[i] - top) * scale), vm_random(noise.blocks, token // VM_BLOCK), noise,
                       winner)


cdef int32_t row_race(const float* row, const int32_t* ids, int32_t n, float top, float scale, Cut cut, int32_t n_keys,
                      const Noise* noise, Scratch* scratch) noexcept nogil:
    cdef int32_t n_blocks = num_blocks(n), n_chunks = num_blocks(n_blocks), best, chunk, b
    cdef float* haste = scratch.haste
    cdef float* hashes = scratch.hashes
    cdef float* maxima = scratch.maxima + n_blocks      # maxima of the blocks of haste
    cdef Winner winner = Winner(INFINITY, -1)
    cdef float earliest, too_late
    if 0 < n_keys <= n_blocks:
        race_keys(row, ids, scratch.keys, n_keys, top, scale, cut, noise, &winner)
        return winner.place if winner.place >= 0 else row_argmax(row, n)
    load_hashes(ids, n, noise, hashes)
    vm_haste(scratch.maxima, n_blocks, top, scale, cut.floor, hashes, haste)
    earliest = vm_maxima(haste, n_blocks, maxima)
    chunk = find(maxima, n_chunks, earliest)
    best = chunk * VM_BLOCK + find(haste + chunk * VM_BLOCK, min(VM_BLOCK, n_blocks - chunk * VM_BLOCK), earliest)
    race_block(row, ids, n, best, top, scale, cut, noise, hashes[best], &winner)
    too_late = -SLACK * <float> winner.time
    for chunk in range(n_chunks):
        if maxima[chunk] < too_late:
            continue
        for b in range(chunk * VM_BLOCK, min((chunk + 1) * VM_BLOCK, n_blocks)):
            if haste[b] >= too_late and b != best:
                race_block(row, ids, n, b, top, scale, cut, noise, hashes[b], &winner)
                too_late = -SLACK * <float> winner.time
    return winner.place if winner.place >= 0 else row_argmax(row, n)


cdef bint is_inside(const float* row, int32_t n, float top, const RowParams* params, int32_t place, Scratch* scratch,
                    double* mass) noexcept nogil:
    """Whether top_p keeps a place: the better places have less than top_p of the mass. The best place is always kept.

    OUT mass: mass of the whole row at temperature 1, without negligible terms.
    """
    cdef double better
    mass[0] = vm_mass(row, n, scratch.maxima, top, negligible(n, top, 1), place, &better)
    return better < mass[0] * params.top_p


cdef Cut cut_above(const float* row, int32_t n, float top, const RowParams* params, float floor, double mass,
                   Scratch* scratch, int32_t* n_keys) noexcept nogil:
    """The cut of top_p and min_p. IN floor: lower bound of top_p's floor; mass: mass of the row."""
    cdef Cut cut = cut_min_p(n, top, params), other
    if vm_count(row, n, scratch.maxima, floor) > n // 16:
        return row_cut(row, n, top, params, scratch, n_keys)
    n_keys[0] = vm_gather(row, n, scratch.maxima, floor, INFINITY, scratch.keys)
    n_keys[0] = take_best(scratch.keys, n_keys[0], mass * params.top_p, row, top)
    other = worst_of(scratch.keys, n_keys[0])
    return cut if cut.floor > other.floor else other


cdef int32_t row_draw(const float* row, const int32_t* ids, int32_t n, const RowParams* params, const Noise* noise,
                      Scratch* scratch) noexcept nogil:
    cdef double mass
    cdef int32_t place, n_keys
    cdef float top, scale
    cdef Cut cut
    if not params.temperature > 0:
        return row_argmax(row, n)
    top = vm_maxima(row, n, scratch.maxima)
    if not -INFINITY < top < INFINITY:
        return row_argmax(row, n)
    scale = min(<float> 1 / params.temperature, FLT_MAX)
    if not 0 < params.top_k < n and 0.5 <= params.top_p < 1 and scale >= 1:
        # top_p keeps most winners, and checking one is cheaper than finding the cut. If it does not keep the winner,
        # the race is repeated among the kept places.
        place = row_race(row, ids, n, top, scale, cut_min_p(n, top, params), 0, noise, scratch)
        if is_inside(row, n, top, params, place, scratch, &mass):
            return place
        cut = cut_above(row, n, top, params, row[place], mass, scratch, &n_keys)
    else:
        cut = row_cut(row, n, top, params, scratch, &n_keys)
    return row_race(row, ids, n, top, scale, cut, n_keys, noise, scratch)


# ---- Python interface

cdef int32_t checked_length(const float[::1] row) except -1:
    if not 0 < row.shape[0] < 1 << 30:
        raise ValueError(f"a row has 1 to 2**30 - 1 logits, not {row.shape[0]}")
    return <int32_t> row.shape[0]


def argmax(const float[::1] row) -> int:
    """Index of the largest logit of row, float32 (n,), n >= 1; the first one among equals.

    NaN counts as -inf; 0 if all are -inf. Raises ValueError if n == 0.
    """
    cdef int32_t n = checked_length(row), best
    with nogil:
        best = row_argmax(&row[0], n)
    return best


def logsumexp(const float[::1] row) -> float:
    """log(sum(exp(row))) in nats of row, float32 (n,), n >= 1, to about 1e-6. NaN counts as -inf.

    row[i] - logsumexp(row) is the log probability of i. Raises ValueError if n == 0.
    """
    cdef int32_t n = checked_length(row)
    cdef double total
    with nogil:
        total = row_logsumexp(&row[0], n)
    return total


def penalize(float[::1] row, const int32_t[::1] ids, const int32_t[::1] counts, *, float repetition=1.0,
             float frequency=0.0, float presence=0.0) -> None:
    """Lower the logits of tokens that have occurred.

    row: float32 (n,), changed. ids: int32 (m,), tokens. counts: int32 (m,), their numbers of occurrences.
    A positive logit is divided by repetition, a negative one multiplied by it; then count * frequency + presence is
    subtracted. Raises ValueError if ids and counts differ in length, an id is outside the row or repetition <= 0.
    Source: repetition, CTRL, arXiv:1909.05858; frequency and presence, the OpenAI API.
    """
    cdef int32_t n = checked_length(row), i
    if ids.shape[0] != counts.shape[0]:
        raise ValueError(f"{ids.shape[0]} ids, but {counts.shape[0]} counts")
    if not repetition > 0:
        raise ValueError(f"repetition must be above 0, not {repetition}")
    for i in range(ids.shape[0]):
        if not 0 <= ids[i] < n:
            raise ValueError(f"id {ids[i]} is outside a row of {n} logits")
    if ids.shape[0] > 0:
        with nogil:
            row_penalize(&row[0], &ids[0], &counts[0], <int32_t> ids.shape[0], repetition, frequency, presence)


def draw(const float[::1] row, int n_draws=1, *, float temperature=1.0, int32_t top_k=0, float top_p=1.0,
         float min_p=0.0, seed: int = 0, int64_t position=0) -> list[int]:
    """Draw n_draws tokens from the logits row, float32 (n,), n >= 1; the i-th with the random numbers of position + i.

    The filters apply in this order, to the logits before the temperature. top_k (<= 0: off) keeps the k largest. top_p
    (>= 1: off) keeps the fewest largest with top_p of the remaining probability, at least one. min_p (<= 0: off) keeps
    those with at least min_p times the largest probability. Among equal logits, lower indices are kept first. Then one
    is drawn with a probability proportional to exp(logit / temperature); temperature <= 0 is argmax. NaN and -inf are
    never drawn, +inf always; the result is 0 if nothing can be drawn.

    Each (seed, position, index) has its own random number. The draw takes the index with the best score of random
    number and logit (Gumbel-max). So small changes of the logits seldom change the draw, and removing other indices
    never does. Raises ValueError if n == 0 or n_draws < 0.
    Source: top_p, arXiv:1904.09751; min_p, arXiv:2407.01082; order, llama.cpp's default.
    """
    cdef int32_t n = checked_length(row), i
    cdef RowParams params = RowParams(temperature, top_k, top_p, min_p)
    cdef Scratch scratch = Scratch(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0)
    cdef uint64_t stream = stream_of(<uint64_t> (seed & 0xFFFFFFFFFFFFFFFF))
    cdef Noise noise
    if n_draws < 0:
        raise ValueError(f"n_draws must not be negative, not {n_draws}")
    tokens = array("i", bytes(4 * n_draws))
    cdef int32_t[::1] out = tokens
    try:
        with nogil:
            scratch_reserve(&scratch, n)
            for i in range(n_draws):
                noise = noise_of(stream, position + i)
                out[i] = row_draw(&row[0], NULL, n, &params, &noise, &scratch)
    finally:
        scratch_free(&scratch)
    return tokens.tolist()


def top_n(const float[::1] row, int32_t k) -> list[tuple[int, float]]:
    """The k largest logits of row, float32 (n,), n >= 1, as (index, logit), largest first.

    Returns min(k, n) pairs. Among equals, the lower index comes first. NaN counts as -inf. Raises ValueError if n == 0
    or k < 0.
    """
    cdef int32_t n = checked_length(row)
    if k < 0:
        raise ValueError(f"k must not be negative, not {k}")
    if k == 0:
        return []
    ids = array("i", bytes(4 * min(k, n)))
    values = array("f", bytes(4 * min(k, n)))
    cdef int32_t[::1] out_ids = ids
    cdef float[::1] out_values = values
    with nogil:
        row_top_n(&row[0], n, k, &out_ids[0], &out_values[0])
    return list(zip(ids.tolist(), values.tolist()))


def rank(const float[::1] row, int32_t i) -> int:
    """The rank of row[i] among the logits row, float32 (n,), from 1 for the largest. Equal logits have the same rank.

    NaN counts as -inf. Raises ValueError if i is not in [0, n).
    """
    cdef int32_t n = checked_length(row), place
    if not 0 <= i < n:
        raise ValueError(f"index {i} of a row of {n} logits")
    with nogil:
        place = row_rank(&row[0], n, i)
    return place
