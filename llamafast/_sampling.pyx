"""The sampling state of one sequence and the draw of its next token. No llama.h here: tests need no model."""

from cpython cimport array
from libc.float cimport FLT_MAX, FLT_MIN
from libc.math cimport INFINITY, copysign, fabs, log, pow
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from libcpp.algorithm cimport binary_search
from libcpp.vector cimport vector

cimport cython
cimport llamafast._filters as filters
cimport llamafast._kernels as kernels

import array as _array

cdef int num_samplers = 0


cdef int num_live_samplers() noexcept nogil:
    return num_samplers


@cython.final
cdef class DryBreakers:
    """DRY's sequence breakers as token ids. Immutable, so samplers share it. Raises ValueError for an unknown id.

    single: tokens that contain a whole breaker.
    pieces: (heads, tail) pairs: any token of heads, followed by the tokens of tail, contains a breaker.
    """

    def __cinit__(self, *args, **kwargs):
        self.ptr = new BreakerTable()

    def __dealloc__(self):
        del self.ptr

    def __init__(self, int n_vocab, single, pieces=()):
        cdef int32_t number
        self.n_vocab = n_vocab
        fill_mask(&self.ptr.single, n_vocab, single)
        for number, (heads, tail) in enumerate(pieces):
            self.ptr.heads.push_back(sorted(heads))
            self.ptr.tails.push_back(tail)
            self.ptr.by_end[<int32_t> tail[len(tail) - 1]].push_back(number)


cdef float as_float(str name, double value) except? -1:
    """The nearest finite 32-bit float with the same sign; 0 only for 0. Raises ValueError for NaN."""
    cdef double size = fabs(value)
    if value != value:
        raise ValueError(f"{name} must be a number, not NaN")
    return <float> copysign(0.0 if size == 0 else max(FLT_MIN, min(size, <double> FLT_MAX)), value)


cdef int32_t as_int(value) except? -1:
    """The nearest 32-bit integer."""
    return max(-2**31, min(value, 2**31 - 1))


cdef int fill_mask(vector[uint32_t]* mask, int n_vocab, token_ids) except -1:
    """OUT mask: n_vocab bits; the bits of token_ids are set. Raises ValueError for an unknown id."""
    cdef int token_id
    mask.assign((n_vocab + 31) // 32, 0)
    for token_id in token_ids:
        check_id(token_id, n_vocab)
        mask[0][token_id // 32] |= <uint32_t> 1 << (token_id % 32)
    return 0


cdef int check_id(int token_id, int n_vocab) except -1:
    if not 0 <= token_id < n_vocab:
        raise ValueError(f"token id {token_id} is not in [0, {n_vocab})")
    return 0


@cython.final
@cython.no_gc_clear                     # the state points into dry_breakers
cdef class Sampler:
    """Sampling state of one sequence: settings, a stream of random numbers, and the tokens that its penalties read.

    The order is that of llama.cpp's default chain: bias, repetition, frequency and presence penalty, DRY, bans,
    top_n_sigma, top_k, typical_p, top_p, min_p, XTC, temperature, draw. mirostat replaces all filters and follows the
    temperature. Settings are those of SamplingParams, with the same values for off; temperature 0 is greedy. Others:

    num_logprobs: -1: no logprobs; N >= 0: the raw logprob of the drawn token and of the N most likely ones.
    banned_ids: tokens that cannot be drawn before min_tokens tokens were accepted.
    allowed_token_ids: only these tokens can be drawn; None: all.

    Numbers that do not fit into 32 bits become the nearest 32-bit number that is not infinite, zero or denormal. Raises
    ValueError for an unknown id, a repetition_penalty <= 0 and NaN.
    """

    def __cinit__(self, *args, **kwargs):
        global num_samplers
        self.ptr = new SamplerState()
        num_samplers += 1

    def __dealloc__(self):
        global num_samplers
        del self.ptr
        num_samplers -= 1

    def __init__(self, int n_vocab, *, repetition_penalty=1.0, frequency_penalty=0.0, presence_penalty=0.0,
                 penalty_last_n=-1, dry_multiplier=0.0, dry_base=1.75, dry_allowed_length=2, dry_penalty_last_n=-1,
                 DryBreakers dry_breakers=None, logit_bias=(), bad_words=(), allowed_token_ids=None, seed=0,
                 num_logprobs=-1, banned_ids=(), min_tokens=0, **filter_settings):
        cdef SamplerState* state = self.ptr
        if n_vocab < 1:
            raise ValueError("n_vocab must be at least 1")
        if not repetition_penalty > 0:
            raise ValueError("repetition_penalty must be positive")
        if dry_breakers is not None and dry_breakers.n_vocab != n_vocab:
            raise ValueError("dry_breakers belong to another vocabulary")
        state.n_vocab = n_vocab
        state.repetition = as_float("repetition_penalty", repetition_penalty)
        state.frequency = as_float("frequency_penalty", frequency_penalty)
        state.presence = as_float("presence_penalty", presence_penalty)
        changes = state.repetition != 1 or state.frequency != 0 or state.presence != 0
        state.window = as_int(penalty_last_n) if changes else 0
        state.dry_multiplier = as_float("dry_multiplier", dry_multiplier) if dry_penalty_last_n != 0 else 0
        state.dry_base = as_float("dry_base", dry_base)
        state.dry_allowed_length = as_int(dry_allowed_length)
        state.dry_window = as_int(dry_penalty_last_n)
        state.num_since_breaker = 0
        self.dry_breakers = dry_breakers
        state.breakers = NULL
        if dry_breakers is not None:
            state.breakers = dry_breakers.ptr
        state.stream = kernels.stream_of(<uint64_t> (seed & 0xFFFFFFFFFFFFFFFF))
        state.num_logprobs = as_int(min(num_logprobs, n_vocab))
        state.min_tokens = as_int(min_tokens)
        state.num_accepted = 0
        self.set_filters(filter_settings)
        self.set_lists(logit_bias, banned_ids, bad_words, allowed_token_ids)
        state.keeps_history = state.window > 0 or state.dry_multiplier != 0 or state.bad_words.size() > 0

    cdef int set_filters(self, dict settings) except -1:
        cdef SamplerState* state = self.ptr
        take = {**OFF, **settings}
        if len(take) > len(OFF):
            raise TypeError(f"unknown settings: {sorted(take.keys() - OFF.keys())}")
        state.params.row.temperature = as_float("temperature", take["temperature"])
        state.params.row.top_k = as_int(take["top_k"])
        state.params.row.top_p = as_float("top_p", take["top_p"])
        state.params.row.min_p = as_float("min_p", take["min_p"])
        state.params.typical_p = as_float("typical_p", take["typical_p"])
        state.params.top_n_sigma = as_float("top_n_sigma", take["top_n_sigma"])
        state.params.xtc_probability = as_float("xtc_probability", take["xtc_probability"])
        state.params.xtc_threshold = as_float("xtc_threshold", take["xtc_threshold"])
        state.params.dynatemp_range = as_float("dynatemp_range", take["dynatemp_range"])
        state.params.dynatemp_exponent = as_float("dynatemp_exponent", take["dynatemp_exponent"])
        state.params.mirostat = as_int(take["mirostat"])
        state.tau = as_float("mirostat_tau", take["mirostat_tau"])
        state.eta = as_float("mirostat_eta", take["mirostat_eta"])
        state.mu = 2 * state.tau
        state.drawn = -1
        return 0

    cdef int set_lists(self, logit_bias, banned_ids, bad_words, allowed_token_ids) except -1:
        cdef SamplerState* state = self.ptr
        for token_id, value in logit_bias:
            state.bias_ids.push_back(self.checked(token_id))
            state.bias.push_back(-INFINITY if value == -INFINITY else as_float("logit_bias", value))
        for token_id in banned_ids:
            state.banned_ids.push_back(self.checked(token_id))
        for word in bad_words:
            ids = [self.checked(token_id) for token_id in word]
            if len(ids) == 1:           # the same as a bias of -inf
                state.bias_ids.push_back(ids[0])
                state.bias.push_back(-INFINITY)
                continue
            state.bad_words_of[<int32_t> ids[len(ids) - 2]].push_back(<int32_t> state.bad_words.size())
            state.bad_words.push_back(ids)
        if allowed_token_ids is not None:
            if not len(allowed_token_ids):
                raise ValueError("allowed_token_ids is empty")
            fill_mask(&state.allowed, state.n_vocab, allowed_token_ids)
        return 0

    cdef int checked(self, int token_id) except -1:
        check_id(token_id, self.ptr.n_vocab)
        return token_id

    @property
    def num_logprobs(self) -> int:
        """-1: no logprobs; N >= 0: those of the drawn token and of the N most likely ones."""
        return self.ptr.num_logprobs

    def prime(self, array.array token_ids not None) -> None:
        """Add the prompt, array('i'), to the history of the penalties and of DRY."""
        cdef SamplerState* state = self.ptr
        cdef Py_ssize_t i, n = len(token_ids)
        if state.window == 0 and not state.keeps_history:
            return
        if token_ids.ob_descr.typecode != c'i':
            raise ValueError("token_ids must be an array('i')")
        for i in range(n):
            self.checked(token_ids.data.as_ints[i])
        for i in range(n):
            remember(state, token_ids.data.as_ints[i])

    def accept(self, int token_id) -> None:
        """Add one generated token to the history."""
        accept_token(self.ptr, self.checked(token_id))

    def adjusted(self, const float[::1] logits not None):
        """A copy of the logits, float32 (n_vocab,), with bias, penalties and bans, but without filters."""
        cdef array.array out = array.clone(FLOATS, self.ptr.n_vocab, zero=False)
        if logits.shape[0] != self.ptr.n_vocab:
            raise ValueError(f"a row has {self.ptr.n_vocab} logits, not {logits.shape[0]}")
        memcpy(out.data.as_floats, &logits[0], self.ptr.n_vocab * sizeof(float))
        with nogil:
            change_row(self.ptr, out.data.as_floats)
        return out

    def draw(self, float[::1] logits not None, const uint32_t[::1] mask=None, int n_draws=1,
             position: int | None = None) -> list[int]:
        """Draw n_draws tokens from logits, float32 (n_vocab,), without accepting them. The row does not change.

        position: index in the output; the i-th draw uses the random numbers of position + i. None: the index of the
        next token, which is the number of accepted tokens. So a draw depends on accepted tokens, not on earlier draws.

        mask: n_vocab bits as uint32 words, lowest bit first. Only tokens with a set bit are drawn; -1 if none of them
        is above -inf. Raises ValueError for a row or a mask of another size.
        """
        cdef SamplerState* state = self.ptr
        cdef int64_t start = state.num_accepted if position is None else position
        cdef int32_t n_words = (state.n_vocab + 31) // 32, i
        cdef const uint32_t* words = NULL
        cdef kernels.Scratch scratch = kernels.Scratch(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0)
        if logits.shape[0] != state.n_vocab or (mask is not None and mask.shape[0] != n_words):
            raise ValueError(f"a row has {state.n_vocab} logits, a mask {n_words} words")
        if mask is not None:
            words = &mask[0]
        cdef array.array tokens = array.clone(TOKENS, max(n_draws, 0), zero=False)
        cdef int32_t* out = <int32_t*> tokens.data.as_ints
        try:
            with nogil:
                kernels.scratch_reserve(&scratch, state.n_vocab)
                for i in range(n_draws):
                    if words is NULL:
                        out[i] = draw_token(state, &logits[0], start + i, &scratch)
                    else:
                        out[i] = draw_masked(state, &logits[0], words, start + i, &scratch)
        finally:
            kernels.scratch_free(&scratch)
        return tokens.tolist()


cdef array.array TOKENS = _array.array("i")
cdef array.array FLOATS = _array.array("f")
cdef dict OFF = {
    "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0, "top_n_sigma": -1.0,
    "xtc_probability": 0.0, "xtc_threshold": 0.1, "dynatemp_range": 0.0, "dynatemp_exponent": 1.0, "mirostat": 0,
    "mirostat_tau": 5.0, "mirostat_eta": 0.1,
}


# ---- the history that the penalties read

cdef int count_token(SamplerState* state, int32_t token_id) except -1 nogil:
    if state.slot_of.count(token_id):
        state.counts[state.slot_of[token_id]] += 1
        return 0
    state.slot_of[token_id] = <int32_t> state.ids.size()
    state.ids.push_back(token_id)
    state.counts.push_back(1)
    return 0


cdef int uncount_token(SamplerState* state, int32_t token_id) except -1 nogil:
    # the last slot replaces an empty one
    cdef int32_t slot = state.slot_of[token_id], last = <int32_t> state.ids.size() - 1
    state.counts[slot] -= 1
    if state.counts[slot] > 0:
        return 0
    state.ids[slot] = state.ids[last]
    state.counts[slot] = state.counts[last]
    state.slot_of[state.ids[slot]] = slot
    state.slot_of.erase(token_id)
    state.ids.pop_back()
    state.counts.pop_back()
    return 0


cdef int remember(SamplerState* state, int32_t token) except -1 nogil:
    cdef int64_t leaving
    if state.window != 0:
        count_token(state, token)
    if not state.keeps_history:
        return 0
    state.history.push_back(token)
    leaving = <int64_t> state.history.size() - 1 - state.window
    if state.window > 0 and leaving >= 0:
        uncount_token(state, state.history[leaving])
    if state.dry_multiplier != 0:
        state.num_since_breaker = 0 if ends_breaker(state, token) else state.num_since_breaker + 1
    return 0


cdef int accept_token(SamplerState* state, int32_t token) except -1 nogil:
    state.num_accepted += 1
    if token == state.drawn:
        state.mu = state.next_mu
    state.drawn = -1
    return remember(state, token)


cdef inline bint has_bit(const vector[uint32_t]& mask, int32_t token) noexcept nogil:
    return (mask[token // 32] >> (token % 32)) & 1


cdef bint ends_with(const SamplerState* state, const int32_t* tokens, size_t n) noexcept nogil:
    """Whether the history ends with these tokens."""
    cdef size_t start = state.history.size() - n, i
    if n > state.history.size():
        return False
    for i in range(n):
        if state.history[start + i] != tokens[i]:
            return False
    return True


cdef bint ends_breaker(SamplerState* state, int32_t token) except -1 nogil:
    # token is the last of the history
    cdef BreakerTable* table = <BreakerTable*> state.breakers
    cdef size_t n_tail
    cdef int32_t number, head
    if table is NULL:
        return False
    if has_bit(table.single, token):
        return True
    if not table.by_end.count(token):
        return False
    for number in table.by_end[token]:
        n_tail = table.tails[number].size()
        if state.history.size() > n_tail and ends_with(state, table.tails[number].data(), n_tail):
            head = state.history[state.history.size() - 1 - n_tail]
            if binary_search(table.heads[number].begin(), table.heads[number].end(), head):
                return True
    return False


# ---- the changes of a row before the draw

cdef inline int put(SamplerState* state, float* logits, int32_t token, float value) except -1 nogil:
    state.changed_ids.push_back(token)
    state.saved.push_back(logits[token])
    logits[token] = value
    return 0


cdef int penalize_repetitions(SamplerState* state, float* logits) except -1 nogil:
    """DRY: subtract multiplier * base ** (length - allowed_length) from a token that would extend a repetition.

    A repetition means that the last tokens also precede an earlier occurrence of the token. Its length is the number of
    these tokens, at most back to the last breaker. Source: github.com/oobabooga/text-generation-webui/pull/5677.
    """
    cdef int32_t n = <int32_t> state.history.size(), limit, k, length, token
    cdef double power, most = log(FLT_MAX) / log(state.dry_base) if state.dry_base > 1.000001 else 0
    if state.dry_window >= 0:
        n = min(n, state.dry_window)
    limit = min(n, state.num_since_breaker)
    if n <= state.dry_allowed_length or limit < state.dry_allowed_length:
        return 0
    find_repetitions(state, n)
    state.repeats.clear()
    for k in range(1, n):
        length = min(state.same_before[k], limit)
        if length >= state.dry_allowed_length:
            token = state.history[state.history.size() - k]
            if not state.repeats.count(token) or state.repeats[token] < length:
                state.repeats[token] = length
    for item in state.repeats:
        token = item.first
        if state.breakers is not NULL and has_bit(state.breakers.single, token):
            continue
        power = item.second - state.dry_allowed_length
        power = pow(state.dry_base, min(power, most) if most > 0 else power)
        put(state, logits, token, logits[token] - <float> (state.dry_multiplier * power))
    return 0


cdef int find_repetitions(SamplerState* state, int32_t n) except -1 nogil:
    """OUT same_before (n,): the Z function of the last n tokens in reverse order. O(n).

    same_before[k]: number of tokens that end k places before the last token and equal the last tokens. [0] is unused.
    """
    cdef const int32_t* last = state.history.data() + state.history.size() - 1
    cdef int32_t start = 0, end = 0, k, z     # [start, end): the match with the largest end
    state.same_before.assign(n, 0)
    for k in range(1, n):
        z = min(end - k, state.same_before[k - start]) if k < end else 0
        while k + z < n and last[-z] == last[-k - z]:
            z += 1
        state.same_before[k] = z
        if k + z > end:
            start = k
            end = k + z
    return 0


cdef int ban_bad_words(SamplerState* state, float* logits) except -1 nogil:
    # Bans the last token of each bad word if its other tokens are the last generated ones.
    cdef int32_t number
    cdef size_t n
    if state.num_accepted == 0 or not state.bad_words_of.count(state.history.back()):
        return 0
    for number in state.bad_words_of[state.history.back()]:
        n = state.bad_words[number].size() - 1
        if <size_t> state.num_accepted >= n and ends_with(state, state.bad_words[number].data(), n):
            put(state, logits, state.bad_words[number].back(), -INFINITY)
    return 0


cdef int change_row(SamplerState* state, float* logits) except -1 nogil:
    # IN/OUT logits: applies bias, penalties and bans; restore_row undoes them
    cdef size_t i, n_seen = state.ids.size()
    state.changed_ids.clear()
    state.saved.clear()
    for i in range(state.bias_ids.size()):
        put(state, logits, state.bias_ids[i], logits[state.bias_ids[i]] + state.bias[i])
    if n_seen:
        for i in range(n_seen):
            put(state, logits, state.ids[i], logits[state.ids[i]])
        kernels.row_penalize(logits, state.ids.data(), state.counts.data(), <int32_t> n_seen,
                             state.repetition, state.frequency, state.presence)
    if state.dry_multiplier != 0:
        penalize_repetitions(state, logits)
    if state.bad_words.size():
        ban_bad_words(state, logits)
    if state.num_accepted < state.min_tokens:
        for i in range(state.banned_ids.size()):
            put(state, logits, state.banned_ids[i], -INFINITY)
    return 0


cdef void restore_row(SamplerState* state, float* logits) noexcept nogil:
    # in reverse order, because an id may have been changed twice
    cdef size_t i
    for i in range(state.saved.size(), 0, -1):
        logits[state.changed_ids[i - 1]] = state.saved[i - 1]


# ---- C interface

cdef int32_t draw_among(SamplerState* state, float* logits, const uint32_t* mask, const uint32_t* also,
                        int64_t position, kernels.Scratch* scratch) except -2 nogil:
    cdef kernels.Noise noise = kernels.noise_of(state.stream, position)
    cdef int32_t token = -1
    cdef float surprise = 0
    try:
        change_row(state, logits)
        token = filters.filtered_draw(logits, state.n_vocab, mask, also, &state.params, state.mu, &noise, scratch,
                                      &surprise)
        if token >= 0 and logits[token] == -INFINITY:
            token = -1                      # no token is allowed
    finally:
        restore_row(state, logits)
    if state.params.mirostat:
        state.drawn = token
        state.next_mu = state.mu - state.eta * (surprise - state.tau)
    return token


cdef int32_t draw_token(SamplerState* state, float* logits, int64_t position, kernels.Scratch* scratch) except -2 nogil:
    # Returns -1 if no token is allowed.
    if state.allowed.empty():
        return draw_among(state, logits, NULL, NULL, position, scratch)
    return draw_among(state, logits, state.allowed.data(), NULL, position, scratch)


cdef int32_t draw_masked(SamplerState* state, float* logits, const uint32_t* mask, int64_t position,
                         kernels.Scratch* scratch) except -2 nogil:
    if state.allowed.empty():
        return draw_among(state, logits, mask, NULL, position, scratch)
    return draw_among(state, logits, mask, state.allowed.data(), position, scratch)


cdef int keep_logprobs(SamplerState* state, const float* logits, int32_t token) except -1 nogil:
    cdef int32_t i, n = state.num_logprobs
    cdef double total
    if n < 0:
        return 0
    total = kernels.row_logsumexp(logits, state.n_vocab)
    state.logprob = <float> (logits[token] - total)
    state.top_ids.resize(n)
    state.top_logprobs.resize(n)
    if n > 0:
        kernels.row_top_n(logits, state.n_vocab, n, state.top_ids.data(), state.top_logprobs.data())
    for i in range(n):
        state.top_logprobs[i] = <float> (state.top_logprobs[i] - total)
    return 0


cdef int32_t draw_row(SamplerState* state, float* logits, kernels.Scratch* scratch) except -2 nogil:
    cdef int32_t token = draw_token(state, logits, state.num_accepted, scratch)
    if token >= 0:
        keep_logprobs(state, logits, token)
        accept_token(state, token)
    return token
