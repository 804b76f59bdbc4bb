"""C interface of the model runner."""

from libc.stdint cimport int32_t, int64_t
from libcpp.vector cimport vector

cimport llamafast._kernels as kernels
cimport llamafast._sampling as sampling
from llamafast._core cimport Context, RowBatch

cdef struct AskedScore:                 # request: logprob and rank of `token` after batch row `row`, and the n_top best
    int32_t row, token, n_top

cdef cppclass Score:
    float logprob
    int32_t rank
    vector[int32_t] top_ids
    vector[float] top_logprobs

# A draw is the sampling of one sampler in a step. Its places are the rows that it reads: one, plus one per draft. The
# vectors describe the last step.
cdef class ModelRunner:
    cdef readonly Context context
    cdef readonly double decode_s, sample_s
    cdef readonly int64_t num_decodes, num_parallel
    cdef vector[kernels.Scratch] scratches              # per thread
    cdef list samplers                                  # per draw: keeps the states alive
    cdef vector[sampling.SamplerState*] states          # per draw
    cdef vector[char] is_constrained                    # per draw
    cdef vector[int32_t] starts                         # per draw: its first place; at the end: the number of places
    cdef vector[int32_t] lengths                        # per draw: number of accepted tokens
    cdef vector[int32_t] rows                           # per place: its batch row
    cdef vector[float*] logits_of                       # per place
    cdef vector[int32_t] drawn                          # per place
    cdef vector[Score] kept                             # per place, if the sampler has logprobs
    cdef vector[AskedScore] asked
    cdef vector[Score] scored                           # per asked score
    cdef vector[int32_t] groups                         # first draw of each group of draws that share a row
    cdef vector[float*] sorted_logits
    cdef vector[sampling.SamplerState*] sorted_states
    cdef list runs(self)
    cdef int read_draws(self, RowBatch batch, rows, samplers, drafts, constraints) except -1
    cdef int read_scored(self, scored) except -1
    cdef int check_batch(self, RowBatch batch) except -1
    cdef int mark_outputs(self, RowBatch batch) except -1
    cdef int draw(self, RowBatch batch, int32_t n_threads) except -1 nogil
    cdef int find_logits(self) except -1 nogil
    cdef bint is_independent(self) except -1 nogil
    cdef int settle_run(self, RowBatch batch, Py_ssize_t i, constraint) except -1
    cdef int32_t settle(self, Py_ssize_t i, int32_t place, constraint) except -2
