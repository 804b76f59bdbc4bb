"""Declarations of the used part of llama.h. Functions that can throw have `except +`."""

from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libcpp cimport bool as cbool

cdef extern from "ggml.h" nogil:
    ctypedef enum ggml_type:
        GGML_TYPE_COUNT
    ctypedef enum ggml_log_level:
        GGML_LOG_LEVEL_ERROR

cdef extern from "llama.h" nogil:
    ctypedef struct llama_model
    ctypedef struct llama_context
    ctypedef struct llama_vocab
    ctypedef struct llama_adapter_lora
    ctypedef void* llama_memory_t
    ctypedef int32_t llama_token
    ctypedef int32_t llama_pos
    ctypedef int32_t llama_seq_id
    ctypedef enum llama_split_mode:
        LLAMA_SPLIT_MODE_NONE
    ctypedef enum llama_load_mode:
        LLAMA_LOAD_MODE_NONE
        LLAMA_LOAD_MODE_MMAP
        LLAMA_LOAD_MODE_MLOCK
        LLAMA_LOAD_MODE_MMAP_MLOCK
    ctypedef enum llama_rope_scaling_type:
        LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED
    ctypedef enum llama_pooling_type "enum llama_pooling_type":     # a function has the same name
        LLAMA_POOLING_TYPE_UNSPECIFIED
    ctypedef enum llama_attention_type:
        LLAMA_ATTENTION_TYPE_UNSPECIFIED
    ctypedef enum llama_flash_attn_type:
        LLAMA_FLASH_ATTN_TYPE_DISABLED
        LLAMA_FLASH_ATTN_TYPE_ENABLED
    ctypedef enum llama_model_kv_override_type:
        LLAMA_KV_OVERRIDE_TYPE_INT
        LLAMA_KV_OVERRIDE_TYPE_FLOAT
        LLAMA_KV_OVERRIDE_TYPE_BOOL
        LLAMA_KV_OVERRIDE_TYPE_STR
    ctypedef cbool (*llama_progress_callback)(float progress, void* user_data) noexcept nogil
    ctypedef uint32_t llama_state_seq_flags
    int LLAMA_STATE_SEQ_FLAGS_NONE
    int LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY

    ctypedef struct llama_batch:
        int32_t n_tokens
        llama_token* token
        float* embd
        llama_pos* pos
        int32_t* n_seq_id
        llama_seq_id** seq_id
        int8_t* logits

    ctypedef struct llama_model_kv_override:
        llama_model_kv_override_type tag
        char key[128]
        int64_t val_i64
        double val_f64
        bint val_bool
        char val_str[128]

    ctypedef struct llama_model_params:
        int32_t n_gpu_layers
        llama_split_mode split_mode
        llama_load_mode load_mode
        int32_t main_gpu
        const float* tensor_split
        llama_progress_callback progress_callback
        void* progress_callback_user_data
        const llama_model_kv_override* kv_overrides
        bint vocab_only
        bint no_alloc

    ctypedef struct llama_context_params:
        uint32_t n_ctx
        uint32_t n_batch
        uint32_t n_ubatch
        uint32_t n_seq_max
        uint32_t n_rs_seq
        uint32_t n_outputs_max
        int32_t n_threads
        int32_t n_threads_batch
        llama_rope_scaling_type rope_scaling_type
        llama_pooling_type pooling_type
        llama_attention_type attention_type
        llama_flash_attn_type flash_attn_type
        float rope_freq_base
        float rope_freq_scale
        float yarn_ext_factor
        float yarn_attn_factor
        float yarn_beta_fast
        float yarn_beta_slow
        uint32_t yarn_orig_ctx
        ggml_type type_k
        ggml_type type_v
        bint embeddings
        bint offload_kqv
        bint no_perf
        bint op_offload
        bint swa_full
        bint kv_unified

    void llama_backend_init() except +
    const char* llama_version()
    void llama_log_set(void (*log_callback)(ggml_log_level, const char*, void*) noexcept nogil, void* user_data)
    int64_t llama_time_us()
    size_t llama_max_devices()
    size_t llama_max_parallel_sequences()

    llama_model_params llama_model_default_params()
    llama_context_params llama_context_default_params()
    llama_model* llama_model_load_from_file(const char* path, llama_model_params params) except +
    void llama_model_free(llama_model* model)
    llama_context* llama_init_from_model(llama_model* model, llama_context_params params) except +
    void llama_free(llama_context* ctx)

    const llama_vocab* llama_model_get_vocab(const llama_model* model)
    int32_t llama_model_n_ctx_train(const llama_model* model)
    bint llama_supports_gpu_offload()
    int32_t llama_model_n_embd(const llama_model* model)
    int32_t llama_model_n_embd_out(const llama_model* model)
    int32_t llama_model_n_embd_inp(const llama_model* model)
    ctypedef enum llama_rope_type:
        LLAMA_ROPE_TYPE_MROPE
        LLAMA_ROPE_TYPE_IMROPE
    llama_rope_type llama_model_rope_type(const llama_model* model)
    int32_t llama_model_n_layer(const llama_model* model)
    int32_t llama_model_n_swa(const llama_model* model)
    uint64_t llama_model_size(const llama_model* model)
    uint64_t llama_model_n_params(const llama_model* model)
    int32_t llama_model_desc(const llama_model* model, char* buf, size_t buf_size)
    bint llama_model_has_encoder(const llama_model* model)
    bint llama_model_has_decoder(const llama_model* model)
    bint llama_model_is_recurrent(const llama_model* model)
    bint llama_model_is_hybrid(const llama_model* model)
    int32_t llama_model_meta_count(const llama_model* model)
    int32_t llama_model_meta_key_by_index(const llama_model* model, int32_t i, char* buf, size_t buf_size)
    int32_t llama_model_meta_val_str_by_index(const llama_model* model, int32_t i, char* buf, size_t buf_size)
    const char* llama_model_chat_template(const llama_model* model, const char* name) except +

    int32_t llama_vocab_n_tokens(const llama_vocab* vocab)
    bint llama_vocab_is_eog(const llama_vocab* vocab, llama_token token)
    bint llama_vocab_is_control(const llama_vocab* vocab, llama_token token)
    int llama_vocab_get_attr(const llama_vocab* vocab, llama_token token)
    int LLAMA_TOKEN_ATTR_USER_DEFINED
    llama_token llama_vocab_bos(const llama_vocab* vocab)
    llama_token llama_vocab_eos(const llama_vocab* vocab)
    llama_token llama_vocab_sep(const llama_vocab* vocab)
    llama_token llama_vocab_eot(const llama_vocab* vocab)
    llama_token llama_vocab_fim_pre(const llama_vocab* vocab)
    llama_token llama_vocab_fim_suf(const llama_vocab* vocab)
    llama_token llama_vocab_fim_mid(const llama_vocab* vocab)
    const llama_token* llama_vocab_get_suppress_tokens(const llama_vocab* vocab, int32_t* n_suppress_tokens)
    bint llama_vocab_get_add_bos(const llama_vocab* vocab)
    bint llama_vocab_get_add_eos(const llama_vocab* vocab)
    int32_t llama_tokenize(const llama_vocab* vocab, const char* text, int32_t text_len, llama_token* tokens,
                           int32_t n_tokens_max, bint add_special, bint parse_special) except +
    int32_t llama_token_to_piece(const llama_vocab* vocab, llama_token token, char* buf, int32_t length,
                                 int32_t lstrip, bint special) except +

    llama_adapter_lora* llama_adapter_lora_init(llama_model* model, const char* path) except +
    int32_t llama_set_adapters_lora(llama_context* ctx, llama_adapter_lora** adapters, size_t n, float* scales) except +

    uint32_t llama_n_ctx(const llama_context* ctx)
    uint32_t llama_n_ctx_seq(const llama_context* ctx)
    uint32_t llama_n_batch(const llama_context* ctx)
    uint32_t llama_n_ubatch(const llama_context* ctx)
    uint32_t llama_n_seq_max(const llama_context* ctx)
    uint32_t llama_n_rs_seq(const llama_context* ctx)
    llama_memory_t llama_get_memory(const llama_context* ctx)
    llama_pooling_type llama_pooling_type_of "llama_pooling_type" (const llama_context* ctx)

    void llama_memory_clear(llama_memory_t mem, bint data) except +
    bint llama_memory_seq_rm(llama_memory_t mem, llama_seq_id seq_id, llama_pos p0, llama_pos p1) except +
    void llama_memory_seq_cp(llama_memory_t mem, llama_seq_id src, llama_seq_id dst, llama_pos p0,
                             llama_pos p1) except +
    void llama_memory_seq_add(llama_memory_t mem, llama_seq_id seq_id, llama_pos p0, llama_pos p1,
                              llama_pos delta) except +
    llama_pos llama_memory_seq_pos_min(llama_memory_t mem, llama_seq_id seq_id)
    llama_pos llama_memory_seq_pos_max(llama_memory_t mem, llama_seq_id seq_id)
    bint llama_memory_can_shift(llama_memory_t mem)

    size_t llama_state_seq_get_size_ext(llama_context* ctx, llama_seq_id seq_id, llama_state_seq_flags flags) except +
    size_t llama_state_seq_get_data_ext(llama_context* ctx, uint8_t* dst, size_t size, llama_seq_id seq_id,
                                        llama_state_seq_flags flags) except +
    size_t llama_state_seq_set_data_ext(llama_context* ctx, const uint8_t* src, size_t size, llama_seq_id dest_seq_id,
                                        llama_state_seq_flags flags) except +

    llama_batch llama_batch_init(int32_t n_tokens, int32_t embd, int32_t n_seq_max)
    void llama_batch_free(llama_batch batch)
    int32_t llama_decode(llama_context* ctx, llama_batch batch) except +
    void llama_set_causal_attn(llama_context* ctx, cbool causal_attn)
    void llama_synchronize(llama_context* ctx) except +
    float* llama_get_logits_ith(llama_context* ctx, int32_t i) except +
    float* llama_get_embeddings_seq(llama_context* ctx, llama_seq_id seq_id) except +
