"""C face of the samplers, for the model runner."""

from libc.stdint cimport int32_t, uint64_t
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
# One token: drawn, its logprobs kept if asked, accepted. IN logits (n_vocab,): the same afterwards.
cdef int32_t draw_row(SamplerState* state, float* logits, kernels.Scratch* scratch) except -1 nogil
