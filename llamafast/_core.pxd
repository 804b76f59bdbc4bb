"""C interface of the façade, for llamafast's other Cython modules."""

from libc.stdint cimport int8_t, int32_t
from libcpp.vector cimport vector

cimport llamafast._llama as lib

cdef class Model:
    cdef lib.llama_model* ptr
    cdef const lib.llama_vocab* vocab
    cdef readonly str path
    cdef readonly bint vocab_only
    cdef readonly int n_vocab, n_ctx_train, n_embd, n_embd_inp, n_layer, n_swa
    cdef readonly int bos_id, eos_id, sep_id, eot_id
    cdef readonly bint uses_mrope           # a row of embeddings has four positions
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

cdef class RowBatch:
    cdef lib.llama_batch c
    cdef readonly int n_tokens_max
    cdef readonly bint is_causal

cdef class Batch(RowBatch):
    pass

cdef class MediaBatch(RowBatch):
    cdef readonly int n_embd
    cdef readonly bint uses_mrope
    cdef vector[float] embd
    cdef vector[lib.llama_pos] pos          # as llama_decode takes them, once sealed
    cdef vector[lib.llama_pos] staged       # t, y, x and z of each row
    cdef vector[int32_t] n_seq_id
    cdef vector[lib.llama_seq_id] seq_ids
    cdef vector[lib.llama_seq_id*] seq_id
    cdef vector[int8_t] logits
    cdef int seal(self) except -1

cdef str take_log()                     # llama.cpp's error messages since the last call, in one line
cdef void log_line(lib.ggml_log_level level, const char* text, void* data) noexcept nogil   # takes a library's log
cdef int check_gguf(str path) except -1
