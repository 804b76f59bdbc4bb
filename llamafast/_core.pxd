"""C interface of the façade, for llamafast's other Cython modules."""

from libcpp.vector cimport vector

cimport llamafast._llama as lib

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
    cdef readonly Model model           # keeps the weights alive
    cdef readonly int n_ctx, n_ctx_seq, n_batch, n_ubatch, n_seq_max, n_outputs_max, n_rs_seq
    cdef readonly int threads, threads_batch
    cdef readonly bint kv_unified, swa_full, can_shift
    cdef readonly str memory_kind
    cdef int read_facts(self) except -1
    cdef int check_seq(self, int seq_id) except -1

cdef class Batch:
    cdef lib.llama_batch c
    cdef readonly int n_tokens_max

cdef str take_log()                     # llama.cpp's error messages since the last call, in one line
