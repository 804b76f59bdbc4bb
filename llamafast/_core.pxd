"""C face of the façade, for other Cython modules of ours."""

from libc.stdint cimport int32_t, int64_t
from libcpp.vector cimport vector

cimport llamafast._kernels as kernels
cimport llamafast._llama as lib
cimport llamafast._sampling as sampling

cdef class Model:
    cdef lib.llama_model* ptr
    cdef const lib.llama_vocab* vocab
    cdef readonly str path
    cdef readonly bint vocab_only
    cdef readonly int n_vocab, n_ctx_train, n_embd, n_layer, n_swa
    cdef readonly int bos_id, eos_id, eot_id
    cdef readonly bint add_bos, add_eos, is_recurrent, is_hybrid, has_encoder, has_decoder
    cdef readonly tuple fim_ids, suppress_ids
    cdef vector[lib.llama_adapter_lora*] adapters       # freed with the model
    cdef int read_facts(self) except -1

cdef class Context:
    cdef lib.llama_context* ptr
    cdef lib.llama_memory_t memory
    cdef int abort_flag                 # read by ggml between graph nodes, set by any thread
    cdef readonly Model model           # keeps the weights alive
    cdef readonly int n_ctx, n_ctx_seq, n_batch, n_ubatch, n_seq_max, n_outputs_max, n_rs_seq
    cdef readonly int threads, threads_batch
    cdef readonly bint kv_unified, swa_full, can_shift
    cdef readonly str memory_kind
    cdef int read_facts(self) except -1
    cdef int check_seq(self, int seq_id) except -1

cdef struct AskedScore:                 # logprob and rank of `token` after batch row `row`, and the n_top best
    int32_t row, token, n_top

cdef cppclass Score:
    float logprob
    int32_t rank
    vector[int32_t] top_ids
    vector[float] top_logprobs

cdef class Batch:
    cdef lib.llama_batch c
    cdef vector[AskedScore] asked
    cdef readonly int n_tokens_max

cdef class ModelRunner:
    cdef readonly Context context
    cdef vector[kernels.Scratch] scratches              # per thread
    cdef list samplers                  # of the last step: keeps them alive for logprobs()
    cdef vector[int32_t] rows, drawn
    cdef vector[Score] scored           # by the last step
    cdef vector[sampling.SamplerState*] states, sorted_states
    cdef vector[float*] logit_rows, sorted_rows
    cdef vector[int32_t] starts
    cdef vector[char] is_constrained
    cdef readonly double decode_s, sample_s
    cdef readonly int64_t num_decodes, num_parallel
    cdef int32_t settle(self, Py_ssize_t i, constraint) except -2
    cdef int check_rows(self, Batch batch, rows, samplers) except -1
    cdef int draw_rows(self, int32_t n_threads) except -1 nogil
    cdef bint is_independent(self) except -1 nogil
