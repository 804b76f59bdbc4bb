"""C interface of the samplers, for the model runner."""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libcpp.unordered_map cimport unordered_map
from libcpp.vector cimport vector

cimport llamafast._filters as filters
cimport llamafast._kernels as kernels

cdef cppclass BreakerTable:
    vector[uint32_t] single                             # bit mask: tokens that contain a whole breaker
    vector[vector[int32_t]] heads, tails                # breakers in pieces: any of heads[i] (sorted), then tails[i]
    unordered_map[int32_t, vector[int32_t]] by_end      # last token of a tail -> numbers of its pieces

cdef class DryBreakers:
    cdef BreakerTable* ptr
    cdef readonly int n_vocab

cdef cppclass SamplerState:
    filters.FilterParams params
    uint64_t stream                             # key of the random numbers
    int32_t n_vocab, num_logprobs, min_tokens, num_accepted
    # mirostat
    float mu, next_mu, tau, eta
    int32_t drawn                               # next_mu becomes mu when this token is accepted
    # repetition, frequency, presence
    float repetition, frequency, presence
    int32_t window                              # number of last tokens that they read; -1: all, 0: off
    unordered_map[int32_t, int32_t] slot_of     # token id -> index into ids and counts
    vector[int32_t] ids, counts                 # distinct tokens in the window, and their numbers of occurrences
    # DRY
    float dry_multiplier, dry_base              # multiplier 0: off
    int32_t dry_allowed_length, dry_window, num_since_breaker
    const BreakerTable* breakers                # NULL: none
    vector[int32_t] same_before                 # see find_repetitions
    unordered_map[int32_t, int32_t] repeats     # token id -> length of the longest repetition that it would extend
    # bias and bans
    vector[int32_t] bias_ids, banned_ids
    vector[float] bias
    vector[vector[int32_t]] bad_words           # of two or more tokens
    unordered_map[int32_t, vector[int32_t]] bad_words_of    # second-last token -> numbers of bad words
    vector[uint32_t] allowed                    # bit mask, empty: all
    bint keeps_history
    vector[int32_t] history                     # prompt and accepted tokens, if keeps_history
    # the original logits of the ids that one draw changes
    vector[int32_t] changed_ids
    vector[float] saved
    # logprobs of the last draw
    float logprob
    vector[int32_t] top_ids
    vector[float] top_logprobs

cdef class Sampler:
    cdef SamplerState* ptr
    cdef DryBreakers dry_breakers               # keeps ptr.breakers alive
    cdef int checked(self, int token_id) except -1
    cdef int set_filters(self, dict settings) except -1
    cdef int set_lists(self, logit_bias, banned_ids, bad_words, allowed_token_ids) except -1

cdef int num_live_samplers() noexcept nogil
# None of the following functions changes IN logits (n_vocab,). scratch must be reserved for n_vocab.
# position: index of the token in the output, which selects the random numbers (num_accepted for the next token).
# Draws one token without accepting it.
cdef int32_t draw_token(SamplerState* state, float* logits, int64_t position, kernels.Scratch* scratch) except -2 nogil
# Draws one token with a set bit in mask (n_vocab bits, bit i % 32 of word i // 32); -1 if none of them is above -inf.
# Without filters, the result is that of draw_token at the same position if mask contains it.
cdef int32_t draw_masked(SamplerState* state, float* logits, const uint32_t* mask, int64_t position,
                         kernels.Scratch* scratch) except -2 nogil
# Keeps the raw logprobs of a row from which token was drawn, if the sampler has logprobs.
cdef int keep_logprobs(SamplerState* state, const float* logits, int32_t token) except -1 nogil
cdef int accept_token(SamplerState* state, int32_t token) except -1 nogil
# Draws the next token, keeps its logprobs and accepts it.
cdef int32_t draw_row(SamplerState* state, float* logits, kernels.Scratch* scratch) except -2 nogil
