"""C face of the samplers, for the model runner."""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libcpp.unordered_map cimport unordered_map
from libcpp.vector cimport vector

cimport llamafast._kernels as kernels

cdef cppclass SamplerState:
    kernels.RowParams row
    float repetition, frequency, presence
    bint penalize
    uint64_t rng
    int32_t n_vocab, num_logprobs, min_tokens, num_accepted
    unordered_map[int32_t, int32_t] slot_of     # token id -> index into ids and counts
    vector[int32_t] ids, counts                 # distinct tokens seen, and how often
    vector[int32_t] bias_ids, banned_ids
    vector[float] bias
    vector[float] saved                         # the logits under the changes of one draw
    # of the last draw
    float logprob
    vector[int32_t] top_ids
    vector[float] top_logprobs

cdef class Sampler:
    cdef SamplerState* ptr
    cdef int checked(self, int token_id) except -1

cdef int num_live_samplers() noexcept nogil
# All leave IN logits (n_vocab,) as they were. scratch must be reserved for n_vocab.
# One token, not accepted.
cdef int32_t draw_token(SamplerState* state, float* logits, kernels.Scratch* scratch) except -2 nogil
# One token whose bit in mask is set (n_vocab bits, bit i % 32 of word i // 32); -1 if there is none above -inf.
cdef int32_t draw_masked(SamplerState* state, float* logits, const uint32_t* mask,
                         kernels.Scratch* scratch) except -2 nogil
# The raw logprobs of a row where token was drawn, if this sampler was asked for them.
cdef int keep_logprobs(SamplerState* state, const float* logits, int32_t token) except -1 nogil
cdef int accept_token(SamplerState* state, int32_t token) except -1 nogil
# One token: drawn, its logprobs kept, accepted.
cdef int32_t draw_row(SamplerState* state, float* logits, kernels.Scratch* scratch) except -2 nogil
