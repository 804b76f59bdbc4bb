"""Declarations only: the part of mtmd.h that we call. `except +` on all that can throw."""

from libc.stdint cimport int32_t, uint32_t
from libcpp cimport bool as cbool

from llamafast._llama cimport ggml_log_level, llama_flash_attn_type, llama_model, llama_pos, llama_token

cdef extern from "mtmd.h" nogil:
    ctypedef enum mtmd_input_chunk_type:
        MTMD_INPUT_CHUNK_TYPE_TEXT
        MTMD_INPUT_CHUNK_TYPE_IMAGE
        MTMD_INPUT_CHUNK_TYPE_AUDIO
    ctypedef struct mtmd_context
    ctypedef struct mtmd_bitmap
    ctypedef struct mtmd_image_tokens
    ctypedef struct mtmd_input_chunk
    ctypedef struct mtmd_input_chunks
    ctypedef struct mtmd_input_text
    ctypedef struct mtmd_input_part:
        const mtmd_input_text* text
        const mtmd_bitmap* bitmap
    ctypedef struct mtmd_decoder_pos:
        uint32_t t
        uint32_t x
        uint32_t y
        uint32_t z
    ctypedef struct mtmd_context_params:
        cbool use_gpu
        cbool print_timings
        int n_threads
        llama_flash_attn_type flash_attn_type
        cbool warmup
        int image_min_tokens
        int image_max_tokens
        int32_t batch_max_tokens

    mtmd_context_params mtmd_context_params_default()
    mtmd_context* mtmd_init_from_file(const char* path, const llama_model* model, mtmd_context_params params) except +
    void mtmd_free(mtmd_context* ctx)
    cbool mtmd_decode_use_non_causal(const mtmd_context* ctx, const mtmd_input_chunk* chunk)
    cbool mtmd_decode_use_mrope(const mtmd_context* ctx)
    cbool mtmd_support_vision(const mtmd_context* ctx)
    cbool mtmd_support_audio(const mtmd_context* ctx)
    int mtmd_get_audio_sample_rate(const mtmd_context* ctx)
    void mtmd_log_set(void (*log_callback)(ggml_log_level, const char*, void*) noexcept nogil, void* user_data)

    mtmd_bitmap* mtmd_bitmap_init(uint32_t nx, uint32_t ny, const unsigned char* data) except +
    mtmd_bitmap* mtmd_bitmap_init_from_audio(size_t n_samples, const float* data) except +
    void mtmd_bitmap_free(mtmd_bitmap* bitmap)

    mtmd_input_chunks* mtmd_input_chunks_init() except +
    size_t mtmd_input_chunks_size(const mtmd_input_chunks* chunks)
    const mtmd_input_chunk* mtmd_input_chunks_get(const mtmd_input_chunks* chunks, size_t idx)
    void mtmd_input_chunks_free(mtmd_input_chunks* chunks)
    mtmd_input_chunk_type mtmd_input_chunk_get_type(const mtmd_input_chunk* chunk)
    const llama_token* mtmd_input_chunk_get_tokens_text(const mtmd_input_chunk* chunk, size_t* n_tokens)
    const mtmd_image_tokens* mtmd_input_chunk_get_tokens_image(const mtmd_input_chunk* chunk)
    size_t mtmd_input_chunk_get_n_tokens(const mtmd_input_chunk* chunk)
    llama_pos mtmd_input_chunk_get_n_pos(const mtmd_input_chunk* chunk)
    mtmd_decoder_pos mtmd_image_tokens_get_decoder_pos(const mtmd_image_tokens* tokens, llama_pos pos_0, size_t i)

    int32_t mtmd_tokenize_from_parts(const mtmd_context* ctx, mtmd_input_chunks* output,
                                     const mtmd_input_part* const* parts, size_t n_parts, cbool add_special) except +
    int32_t mtmd_encode_chunk(mtmd_context* ctx, const mtmd_input_chunk* chunk) except +
    float* mtmd_get_output_embd(mtmd_context* ctx) except +
