"""The sampling state of one sequence and the draw of its next token. No llama.h here: tests need no model."""

from cpython cimport array
from libc.math cimport INFINITY
from libc.stdint cimport int32_t, uint32_t, uint64_t

cimport cython
cimport llamafast._kernels as kernels

import array as _array

cdef int num_samplers = 0


cdef int num_live_samplers() noexcept nogil:
    return num_samplers


@cython.final
cdef class Sampler:
    """Sampling state of one sequence: settings, its own random numbers, and token counts for the penalties.

    Order as llama.cpp's default chain: bias, penalties, top_k, top_p, min_p, temperature, draw. temperature 0 is
    greedy; top_k 0, top_p 1 and min_p 0 are off. num_logprobs -1: none; N >= 0: the drawn token's raw logprob and the
    N best. banned_ids cannot be drawn before min_tokens tokens were accepted. Raises ValueError for an unknown id.
    """

    def __cinit__(self, *args, **kwargs):
        global num_samplers
        self.ptr = new SamplerState()
        num_samplers += 1

    def __dealloc__(self):
        global num_samplers
        del self.ptr
        num_samplers -= 1

    def __init__(self, int n_vocab, *, float temperature=1.0, int top_k=0, float top_p=1.0, float min_p=0.0,
                 float repetition_penalty=1.0, float frequency_penalty=0.0, float presence_penalty=0.0,
                 logit_bias=(), seed=0, int num_logprobs=-1, banned_ids=(), int min_tokens=0):
        cdef SamplerState* state = self.ptr
        if n_vocab < 1:
            raise ValueError("n_vocab must be at least 1")
        if repetition_penalty <= 0:
            raise ValueError("repetition_penalty must be positive")
        state.n_vocab = n_vocab
        state.row.temperature = temperature
        state.row.top_k = top_k
        state.row.top_p = top_p
        state.row.min_p = min_p
        state.repetition = repetition_penalty
        state.frequency = frequency_penalty
        state.presence = presence_penalty
        state.penalize = repetition_penalty != 1.0 or frequency_penalty != 0.0 or presence_penalty != 0.0
        state.rng = kernels.rng_seed(<uint64_t> (seed & 0xFFFFFFFFFFFFFFFF))
        state.num_logprobs = min(num_logprobs, n_vocab)
        state.min_tokens = min_tokens
        state.num_accepted = 0
        for token_id, value in logit_bias:
            state.bias_ids.push_back(self.checked(token_id))
            state.bias.push_back(value)
        for token_id in banned_ids:
            state.banned_ids.push_back(self.checked(token_id))

    cdef int checked(self, int token_id) except -1:
        if not 0 <= token_id < self.ptr.n_vocab:
            raise ValueError(f"token id {token_id} is not in [0, {self.ptr.n_vocab})")
        return token_id

    @property
    def num_logprobs(self) -> int:
        """-1: none; N >= 0: the drawn token and the N best."""
        return self.ptr.num_logprobs

    def prime(self, array.array token_ids not None) -> None:
        """Count prompt tokens (array('i')) for the penalties."""
        cdef Py_ssize_t i
        if not self.ptr.penalize:
            return
        if token_ids.ob_descr.typecode != c'i':
            raise ValueError("token_ids must be an array('i')")
        for i in range(len(token_ids)):
            count_token(self.ptr, self.checked(token_ids.data.as_ints[i]))

    def accept(self, int token_id) -> None:
        """Take one token as generated."""
        accept_token(self.ptr, self.checked(token_id))

    def draw(self, float[::1] logits not None, const uint32_t[::1] mask=None, int n_draws=1) -> list[int]:
        """n_draws tokens from logits, float32 (n_vocab,), none of them accepted. The row is the same afterwards.

        mask: n_vocab bits as uint32 words, lowest bit first; only tokens whose bit is set are drawn, and -1 where none
        of them is above -inf. Raises ValueError for a row or a mask of another size.
        """
        cdef SamplerState* state = self.ptr
        cdef int32_t n_words = (state.n_vocab + 31) // 32, i
        cdef const uint32_t* words = NULL
        cdef kernels.Scratch scratch = kernels.Scratch(NULL, NULL, NULL, NULL, NULL, NULL, 0)
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
                        out[i] = draw_token(state, &logits[0], &scratch)
                    else:
                        out[i] = draw_masked(state, &logits[0], words, &scratch)
        finally:
            kernels.scratch_free(&scratch)
        return tokens.tolist()


cdef array.array TOKENS = _array.array("i")


# ---- C face

cdef int count_token(SamplerState* state, int32_t token_id) except -1 nogil:
    if state.slot_of.count(token_id):
        state.counts[state.slot_of[token_id]] += 1
        return 0
    state.slot_of[token_id] = <int32_t> state.ids.size()
    state.ids.push_back(token_id)
    state.counts.push_back(1)
    return 0


cdef int accept_token(SamplerState* state, int32_t token) except -1 nogil:
    state.num_accepted += 1
    if state.penalize:
        count_token(state, token)
    return 0


cdef int change_row(SamplerState* state, float* logits) except -1 nogil:
    # IN/OUT logits: bias, penalties and bans; what stood there goes into state.saved, for restore_row
    cdef size_t n_bias = state.bias_ids.size(), n_seen = state.ids.size(), i, n = 0
    cdef size_t n_banned = state.banned_ids.size() if state.num_accepted < state.min_tokens else 0
    state.saved.resize(n_bias + n_seen + n_banned)
    for i in range(n_bias):
        state.saved[n] = logits[state.bias_ids[i]]
        logits[state.bias_ids[i]] += state.bias[i]
        n += 1
    for i in range(n_seen):
        state.saved[n] = logits[state.ids[i]]
        n += 1
    if n_seen:
        kernels.row_penalize(logits, state.ids.data(), state.counts.data(), <int32_t> n_seen,
                             state.repetition, state.frequency, state.presence)
    for i in range(n_banned):
        state.saved[n] = logits[state.banned_ids[i]]
        logits[state.banned_ids[i]] = -INFINITY
        n += 1
    return 0


cdef void restore_row(SamplerState* state, float* logits) noexcept nogil:
    # back in reverse order: an id may stand in two lists
    cdef size_t n_bias = state.bias_ids.size(), n_seen = state.ids.size(), i, n = state.saved.size()
    for i in range(n - n_bias - n_seen, 0, -1):
        n -= 1
        logits[state.banned_ids[i - 1]] = state.saved[n]
    for i in range(n_seen, 0, -1):
        n -= 1
        logits[state.ids[i - 1]] = state.saved[n]
    for i in range(n_bias, 0, -1):
        n -= 1
        logits[state.bias_ids[i - 1]] = state.saved[n]


cdef int32_t draw_token(SamplerState* state, float* logits, kernels.Scratch* scratch) except -2 nogil:
    cdef int32_t token
    change_row(state, logits)
    token = kernels.row_draw(logits, state.n_vocab, &state.row, &state.rng, scratch)
    restore_row(state, logits)
    return token


cdef int32_t draw_masked(SamplerState* state, float* logits, const uint32_t* mask,
                         kernels.Scratch* scratch) except -2 nogil:
    cdef int32_t token = -1
    change_row(state, logits)
    try:
        token = kernels.row_draw_masked(logits, state.n_vocab, mask, NULL, &state.row, &state.rng, scratch)
    finally:
        restore_row(state, logits)
    return token


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
    cdef int32_t token = draw_token(state, logits, scratch)
    keep_logprobs(state, logits, token)
    accept_token(state, token)
    return token
