"""The rarer filters. Each narrows a row to the kept tokens; the usual draw runs on them. No model, no llama.h."""

from libc.float cimport FLT_MAX
from libc.math cimport INFINITY, exp2, fabs, log, pow, sqrt
from libc.string cimport memcpy

cimport llamafast._kernels as kernels
from llamafast._kernels cimport Cut, Noise, RowParams, Scratch

cdef extern from "_vecmath.h" nogil:
    uint32_t vm_order(float x)
    float vm_maxima(const float* row, int32_t n, float* maxima)
    int32_t vm_gather(const float* row, int32_t n, const float* maxima, float floor, float ceiling, uint64_t* keys)
    int32_t vm_pack(const float* row, int32_t n, const uint32_t* mask, const uint32_t* also, float* packed,
                    int32_t* ids)
    int32_t vm_pack_cut(const float* order, const float* row, const int32_t* ids, int32_t n, float floor,
                        int32_t last_id, float* packed, int32_t* packed_ids)
    void vm_closeness(const float* row, int32_t n, float center, float* scores)
    void vm_spread(const float* row, int32_t n, float max, double* stats)
    void vm_surprise(const float* row, int32_t n, float max, double* stats)

cdef enum:
    MIROSTAT_TOKENS = 100   # from which mirostat 1 estimates the exponent (m in the paper)

cdef double LN2 = 0.6931471805599453


cdef struct View:           # the remaining part of a row: the row itself, or a copy of a part in scratch.packed
    const float* logits
    const int32_t* ids      # their indices in the row; NULL: the whole row
    int32_t n


cdef inline float top_of(const View* view, Scratch* scratch) noexcept nogil:
    return vm_maxima(view.logits, view.n, scratch.maxima)


cdef inline Cut everything(const View* view) noexcept nogil:
    return Cut(-FLT_MAX, view.n - 1)


cdef int32_t filtered_draw(const float* row, int32_t n, const uint32_t* mask, const uint32_t* also,
                           const FilterParams* params, float mu, const Noise* noise, Scratch* scratch,
                           float* surprise) except -2 nogil:
    cdef View view = View(row, NULL, n)
    cdef int32_t place
    if mask is not NULL:
        kernels.scratch_reserve_packed(scratch)
        view.logits = scratch.packed
        view.ids = scratch.packed_ids
        view.n = vm_pack(row, n, mask, also, scratch.packed, scratch.packed_ids)
        if view.n == 0:
            return -1
    place = draw_view(&view, params, mu, noise, scratch, surprise)
    if mask is not NULL and not view.logits[place] > -INFINITY:
        return -1
    return place if view.ids is NULL else view.ids[place]


cdef int32_t draw_view(View* view, const FilterParams* params, float mu, const Noise* noise, Scratch* scratch,
                       float* surprise) except -2 nogil:
    # OUT view: the remaining part. Returns an index into it.
    cdef RowParams last = params.row
    cdef float top
    cdef bint xtc
    if not last.temperature + max(params.dynatemp_range, <float> 0) > 0:
        return kernels.row_argmax(view.logits, view.n)
    if not is_rare(params):
        return kernels.row_draw(view.logits, view.ids, view.n, &last, noise, scratch)
    top = top_of(view, scratch)
    if not -INFINITY < top < INFINITY:
        return kernels.row_argmax(view.logits, view.n)
    if params.mirostat > 0:
        return draw_mirostat(view, top, params, mu, noise, scratch, surprise)
    kernels.scratch_reserve_packed(scratch)
    if params.top_n_sigma > 0:
        narrow(view, view.logits, sigma_cut(view, top, params.top_n_sigma), scratch)
    if params.typical_p < 1:
        last = RowParams(last.temperature, 0, last.top_p, last.min_p)
        cut_usual(view, RowParams(1, params.row.top_k, 1, 0), scratch)
        keep_typical(view, params.typical_p, scratch)
    xtc = params.xtc_probability > 0 and kernels.uniform_of(noise.coin) < params.xtc_probability
    if xtc or params.dynatemp_range > 0:
        cut_usual(view, last, scratch)
        last = RowParams(last.temperature, 0, 1, 0)
    if xtc:
        exclude_top(view, params.xtc_threshold, scratch)
    if params.dynatemp_range > 0:
        last.temperature = dynamic_temperature(view, params, scratch)
    return kernels.row_draw(view.logits, view.ids, view.n, &last, noise, scratch)


cdef inline bint is_rare(const FilterParams* params) noexcept nogil:
    return (params.mirostat > 0 or params.top_n_sigma > 0 or params.typical_p < 1 or params.xtc_probability > 0
            or params.dynatemp_range > 0)


cdef void narrow(View* view, const float* order, Cut cut, Scratch* scratch) noexcept nogil:
    # order (n,): the values to which the cut applies
    view.n = vm_pack_cut(order, view.logits, view.ids, view.n, cut.floor, cut.last_id, scratch.packed,
                         scratch.packed_ids)
    view.logits = scratch.packed
    view.ids = scratch.packed_ids


cdef void cut_usual(View* view, RowParams params, Scratch* scratch) noexcept nogil:
    """Apply top_k, top_p and min_p."""
    cdef float top
    cdef int32_t n_keys
    if not 0 < params.top_k < view.n and not params.top_p < 1 and not params.min_p > 0:
        return
    top = top_of(view, scratch)
    narrow(view, view.logits, kernels.row_cut(view.logits, view.n, top, &params, scratch, &n_keys), scratch)


cdef Cut sigma_cut(const View* view, float top, float n_sigma) noexcept nogil:
    # Standard deviation of all logits above -inf, as a population.
    cdef double[3] stats
    cdef double mean, variance
    cdef float floor
    vm_spread(view.logits, view.n, top, stats)
    mean = stats[1] / stats[0]
    variance = max(stats[2] / stats[0] - mean * mean, 0.0)
    floor = top - n_sigma * <float> sqrt(variance)
    return Cut(floor if floor > -FLT_MAX else -FLT_MAX, view.n - 1)


cdef void keep_typical(View* view, float share, Scratch* scratch) noexcept nogil:
    """Keep the fewest tokens that together have `share` of the mass: those with surprise closest to the entropy."""
    cdef double[3] stats
    cdef float top = top_of(view, scratch), center, best, reach
    vm_surprise(view.logits, view.n, top, stats)
    # The logit of a token with a surprise equal to the entropy. Surprise: log(sum) - d; entropy: log(sum) - mean(d).
    center = top + <float> (stats[2] / stats[1])
    vm_closeness(view.logits, view.n, center, scratch.scores)
    best = vm_maxima(scratch.scores, view.n, scratch.maxima)
    reach = max(kernels.mass_reach(view.n, share), (top - center) * <float> 1.0001 + <float> 1e-6)
    narrow(view, scratch.scores,
           kernels.row_cut_mass(scratch.scores, view.n, best, view.logits, top, reach, share, scratch), scratch)


cdef void exclude_top(View* view, float threshold, Scratch* scratch) noexcept nogil:
    """Drop the tokens with at least `threshold` probability, except the least likely of them."""
    cdef float top = top_of(view, scratch), floor
    cdef double total = kernels.row_sum_cut(view.logits, view.n, top, 1, everything(view), scratch)
    cdef uint64_t worst = <uint64_t> -1
    cdef int32_t n_keys, place, i
    floor = top + <float> log(threshold * total) if threshold > 0 else -FLT_MAX
    n_keys = vm_gather(view.logits, view.n, scratch.maxima, max(floor, -FLT_MAX), INFINITY, scratch.keys)
    if n_keys < 2:
        return
    if view.ids is NULL:
        memcpy(scratch.packed, view.logits, view.n * sizeof(float))
        view.logits = scratch.packed
    for i in range(n_keys):
        worst = min(worst, scratch.keys[i])
    for i in range(n_keys):
        place = <int32_t> ~<uint32_t> scratch.keys[i]
        if scratch.keys[i] != worst:
            scratch.packed[place] = -INFINITY


cdef float dynamic_temperature(const View* view, const FilterParams* params, Scratch* scratch) noexcept nogil:
    # From max(0, t - range) at entropy 0 to t + range at the maximum entropy of this number of tokens.
    cdef float temperature = params.row.temperature
    cdef double low = max(<float> 0, temperature - params.dynatemp_range), high = temperature + params.dynatemp_range
    cdef double[3] stats
    vm_surprise(view.logits, view.n, top_of(view, scratch), stats)
    if stats[0] < 2:
        return temperature
    share = max((log(stats[1]) - stats[2] / stats[1]) / log(stats[0]), 0.0)
    return <float> (low + (high - low) * pow(share, params.dynatemp_exponent))


# ---- mirostat

cdef int32_t draw_mirostat(const View* view, float top, const FilterParams* params, float mu, const Noise* noise,
                           Scratch* scratch, float* surprise) noexcept nogil:
    # IN scratch.maxima, top: block maxima and maximum of the view
    cdef RowParams limit = RowParams(1, 0, 1, 0)
    cdef Cut cut = everything(view)
    cdef float scale, temperature = params.row.temperature
    cdef double total, floor
    cdef int32_t place, n_keys = 0
    surprise[0] = 0
    if params.dynatemp_range > 0:
        temperature = dynamic_temperature(view, params, scratch)
    if not temperature > 0:
        return kernels.row_argmax(view.logits, view.n)
    scale = min(<float> 1 / temperature, FLT_MAX)
    if params.mirostat == 1:
        limit.top_k = mirostat_k(view, scale, mu)
        cut = kernels.row_cut(view.logits, view.n, top, &limit, scratch, &n_keys)
    else:
        total = kernels.row_sum_cut(view.logits, view.n, top, scale, cut, scratch)
        floor = top + (log(total) - mu * LN2) / scale
        if floor > top:                 # only the most likely token
            cut = Cut(top, kernels.row_argmax(view.logits, view.n))
        elif floor > -FLT_MAX:
            cut.floor = <float> floor
    total = kernels.row_sum_cut(view.logits, view.n, top, scale, cut, scratch)
    place = kernels.row_race(view.logits, view.ids, view.n, top, scale, cut, n_keys, noise, scratch)
    surprise[0] = <float> ((log(total) - (view.logits[place] - top) * scale) / LN2)
    return place


cdef int32_t mirostat_k(const View* view, float scale, float mu) noexcept nogil:
    """Number of most likely tokens to keep. Assumes that probabilities fall like rank ** -exponent (Zipf)."""
    cdef int32_t[MIROSTAT_TOKENS] ids
    cdef float[MIROSTAT_TOKENS] values
    cdef int32_t n = kernels.row_top_n(view.logits, view.n, MIROSTAT_TOKENS, ids, values), i
    cdef double products = 0, squares = 0, exponent, excess, share, k, t
    for i in range(n - 1):
        if not values[i + 1] > -INFINITY:
            break
        t = log((i + 2.0) / (i + 1.0))
        products += t * (values[i] - values[i + 1]) * scale
        squares += t * t
    if squares == 0:
        return 1
    exponent = products / squares
    excess = exponent - 1
    # the limit of excess / (1 - n ** -excess) for excess -> 0 is 1 / log(n)
    share = excess / (1 - pow(view.n, -excess)) if fabs(excess) > 1e-6 else 1 / log(view.n)
    k = pow(share * exp2(mu), 1 / exponent) if exponent > 0 else 1
    return max(1, <int32_t> min(k, <double> view.n)) if k == k else 1
