"""The façade over libllama: Model, Context, Batch. Only this module, `_runner` and `_encoder` call llama.h."""

from cpython cimport array
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, uint8_t
from libc.string cimport memcpy, memset, strlen
from libcpp cimport bool as cbool
from libcpp.vector cimport vector

cimport cython
cimport llamafast._llama as lib
cimport llamafast._sampling as sampling

import array as _array
import os

from llamafast.errors import ModelLoadError

cdef extern from *:
    """
    #include <cstring>
    #include <map>
    #include <mutex>
    #include <cstdio>
    #include <string>
    #include "ggml-backend.h"
    #include "llama.h"
    // From llama.cpp's staging header llama-ext.h, which no package installs: bytes per buffer type.
    struct llama_memory_breakdown_data { size_t model, context, compute; };
    std::map<ggml_backend_buffer_type_t, llama_memory_breakdown_data> llama_get_memory_breakdown(const llama_context *);
    static void llamafast_host_bytes(const llama_context * ctx, size_t * out) {
        for (const auto & [buft, bytes] : llama_get_memory_breakdown(ctx)) {
            if (!ggml_backend_buft_is_host(buft)) { continue; }
            out[0] += bytes.model; out[1] += bytes.context; out[2] += bytes.compute;
        }
    }
    // llama.cpp reports the reason of a failed load only in its log: keep the error lines until take_log() reads them.
    static std::mutex llamafast_log_mutex;
    static std::string llamafast_log_errors;
    static bool llamafast_log_echo = false;
    static void llamafast_log(ggml_log_level level, const char * text, void *) {
        std::lock_guard<std::mutex> lock(llamafast_log_mutex);
        if (llamafast_log_echo) { fputs(text, stderr); }
        if (level == GGML_LOG_LEVEL_ERROR && llamafast_log_errors.size() < 4096) { llamafast_log_errors += text; }
    }
    static std::string llamafast_log_take() {
        std::lock_guard<std::mutex> lock(llamafast_log_mutex);
        std::string taken; taken.swap(llamafast_log_errors); return taken;
    }
    static void llamafast_log_start(bool echo) { llamafast_log_echo = echo; llama_log_set(llamafast_log, nullptr); }
    """
    cdef cppclass cpp_string "std::string":
        const char* c_str()
        size_t size()
    cpp_string llamafast_log_take() nogil
    void llamafast_log(lib.ggml_log_level level, const char* text, void* data) noexcept nogil
    void llamafast_log_start(bint echo) nogil
    void llamafast_host_bytes(const lib.llama_context* ctx, size_t* out) except +
    const char* LLAMAFAST_LLAMA_CPP_PYTHON

COMPILED_LLAMA_CPP_PYTHON = LLAMAFAST_LLAMA_CPP_PYTHON.decode()

cdef int num_models = 0, num_contexts = 0, num_batches = 0

llamafast_log_start(os.environ.get("LLAMAFAST_LLAMA_LOG", "0") not in ("", "0"))
lib.llama_backend_init()


def live_handles() -> dict[str, int]:
    """Number of native objects that are not freed, by class. For leak tests."""
    num_samplers = sampling.num_live_samplers()
    return {"Model": num_models, "Context": num_contexts, "Batch": num_batches, "Sampler": num_samplers}


def libllama_version() -> str:
    """The version of the loaded libllama."""
    return lib.llama_version().decode()


def supports_gpu_offload() -> bool:
    """Whether libllama was built with a GPU backend and finds a GPU."""
    return lib.llama_supports_gpu_offload()


cdef void log_line(lib.ggml_log_level level, const char* text, void* data) noexcept nogil:
    llamafast_log(level, text, data)


cdef str take_log():
    cdef cpp_string text = llamafast_log_take()
    lines = text.c_str()[:text.size()].decode("utf-8", "replace").strip().splitlines()
    return "; ".join(line.strip() for line in lines[max(0, len(lines) - 3):]) if lines else "llama.cpp gave no reason"


cdef cbool on_progress(float progress, void* callback) noexcept nogil:
    with gil:
        try:
            return bool((<object> callback)(progress))
        except Exception:
            return False        # an exception cannot pass through llama.cpp, so it cancels the load


cdef int pack_overrides(dict overrides, vector[lib.llama_model_kv_override]& out) except -1:
    cdef lib.llama_model_kv_override item
    for key, value in overrides.items():
        memset(&item, 0, sizeof(item))
        raw = key.encode()
        if not 0 < len(raw) < 128:
            raise ModelLoadError(f"kv_overrides: the key {key!r} must have 1 to 127 bytes")
        memcpy(item.key, PyBytes_AS_STRING(raw), len(raw))
        if isinstance(value, bool):
            item.tag = lib.LLAMA_KV_OVERRIDE_TYPE_BOOL
            item.val_bool = value
        elif isinstance(value, int):
            item.tag = lib.LLAMA_KV_OVERRIDE_TYPE_INT
            item.val_i64 = value
        elif isinstance(value, float):
            item.tag = lib.LLAMA_KV_OVERRIDE_TYPE_FLOAT
            item.val_f64 = value
        else:
            text = str(value).encode()
            if len(text) > 127:
                raise ModelLoadError(f"kv_overrides[{key!r}]: a text value has at most 127 bytes")
            item.tag = lib.LLAMA_KV_OVERRIDE_TYPE_STR
            memcpy(item.val_str, PyBytes_AS_STRING(text), len(text))
        out.push_back(item)
    memset(&item, 0, sizeof(item))
    out.push_back(item)                 # an empty key ends the list
    return 0


@cython.final
cdef class Model:
    """Weights and vocabulary of one GGUF file. Tokenizing is thread-safe. Raises ModelLoadError.

    vocab_only: load no weights. Such a model tokenizes, but cannot have a Context.
    no_alloc: load no weights, and allocate nothing in a Context of the model, which then only reports its size.
    progress: function of the loaded fraction, 0 to 1, called while loading; if it returns False, the load is cancelled.
    """

    def __init__(self, path, *, bint vocab_only=False, bint no_alloc=False, n_gpu_layers=None, split_mode=None,
                 main_gpu=None, tensor_split=None, use_mmap=None, use_mlock=None, kv_overrides=None, progress=None):
        global num_models
        cdef lib.llama_model_params params = lib.llama_model_default_params()
        cdef vector[float] split
        cdef vector[lib.llama_model_kv_override] overrides
        cdef bytes raw_path
        if self.ptr is not NULL:
            raise ModelLoadError("a Model can be loaded only once")
        self.path = os.fspath(path)
        check_gguf(self.path)
        self.vocab_only = params.vocab_only = vocab_only
        if n_gpu_layers is not None:
            params.n_gpu_layers = n_gpu_layers
        if split_mode is not None:
            params.split_mode = <lib.llama_split_mode> <int> split_mode
        if main_gpu is not None:
            params.main_gpu = main_gpu
        if use_mmap is not None or use_mlock is not None:
            params.load_mode = load_mode(use_mmap is None or use_mmap, bool(use_mlock))
        if no_alloc:
            params.no_alloc = True
            params.load_mode = lib.LLAMA_LOAD_MODE_NONE
        if tensor_split is not None:
            split = tensor_split
            if split.size() > lib.llama_max_devices():
                raise ModelLoadError(f"tensor_split: {split.size()} values for {lib.llama_max_devices()} devices")
            split.resize(lib.llama_max_devices(), 0.0)  # llama.cpp reads one value per possible device
            params.tensor_split = split.data()
        if kv_overrides:
            pack_overrides(kv_overrides, overrides)
            params.kv_overrides = overrides.data()
        if progress is not None:
            params.progress_callback = on_progress
            params.progress_callback_user_data = <void*> progress
        raw_path = os.fsencode(self.path)
        cdef const char* c_path = raw_path
        llamafast_log_take()
        with nogil:
            self.ptr = lib.llama_model_load_from_file(c_path, params)
        if self.ptr is NULL:
            raise ModelLoadError(f"cannot load {self.path}: {take_log()}")
        num_models += 1
        self.read_facts()

    def __dealloc__(self):
        global num_models
        if self.ptr is not NULL:
            lib.llama_model_free(self.ptr)
            num_models -= 1

    cdef int read_facts(self) except -1:
        cdef const lib.llama_vocab* vocab = lib.llama_model_get_vocab(self.ptr)
        cdef int32_t n_suppressed = 0, i
        cdef const lib.llama_token* suppressed = lib.llama_vocab_get_suppress_tokens(vocab, &n_suppressed)
        self.vocab = vocab
        self.n_vocab = lib.llama_vocab_n_tokens(vocab)
        self.n_ctx_train = lib.llama_model_n_ctx_train(self.ptr)
        self.n_embd = lib.llama_model_n_embd(self.ptr)
        self.n_embd_inp = lib.llama_model_n_embd_inp(self.ptr)
        rope_type = lib.llama_model_rope_type(self.ptr)
        self.uses_mrope = rope_type in (lib.LLAMA_ROPE_TYPE_MROPE, lib.LLAMA_ROPE_TYPE_IMROPE)
        self.n_layer = lib.llama_model_n_layer(self.ptr)
        self.n_swa = lib.llama_model_n_swa(self.ptr)
        self.is_recurrent = lib.llama_model_is_recurrent(self.ptr)
        self.is_hybrid = lib.llama_model_is_hybrid(self.ptr)
        self.has_encoder = lib.llama_model_has_encoder(self.ptr)
        self.has_decoder = lib.llama_model_has_decoder(self.ptr)
        self.bos_id = lib.llama_vocab_bos(vocab)
        self.eos_id = lib.llama_vocab_eos(vocab)
        self.sep_id = lib.llama_vocab_sep(vocab)
        self.eot_id = lib.llama_vocab_eot(vocab)
        self.add_bos = lib.llama_vocab_get_add_bos(vocab)
        self.add_eos = lib.llama_vocab_get_add_eos(vocab)
        self.fim_ids = (lib.llama_vocab_fim_pre(vocab), lib.llama_vocab_fim_suf(vocab), lib.llama_vocab_fim_mid(vocab))
        self.suppress_ids = tuple([suppressed[i] for i in range(n_suppressed) if 0 <= suppressed[i] < self.n_vocab])
        return 0

    @property
    def size_bytes(self) -> int:
        """Size of all tensors in bytes."""
        return lib.llama_model_size(self.ptr)

    @property
    def n_params(self) -> int:
        """Number of parameters."""
        return lib.llama_model_n_params(self.ptr)

    @property
    def description(self) -> str:
        """llama.cpp's short name of architecture, size and quantization."""
        cdef char buf[256]
        lib.llama_model_desc(self.ptr, buf, sizeof(buf))
        return buf.decode("utf-8", "replace")

    @property
    def metadata(self) -> dict:
        """Text of all scalar and string values in the GGUF file, by key."""
        cdef int i
        return {
            meta_text(self.ptr, i, lib.llama_model_meta_key_by_index):
                meta_text(self.ptr, i, lib.llama_model_meta_val_str_by_index)
            for i in range(lib.llama_model_meta_count(self.ptr))
        }

    def tokenize(self, str text, bint add_special, bint parse_special):
        """Token ids of text. parse_special: turn names of control tokens into these tokens. Thread-safe.

        Raises UnicodeEncodeError for lone surrogates, ValueError for text beyond 2**30 bytes.
        """
        cdef bytes raw = text.encode()
        cdef Py_ssize_t n_bytes = len(raw)
        if n_bytes > 1 << 30:
            raise ValueError("text is longer than 2**30 bytes")
        cdef const char* data = raw
        cdef array.array out = array.clone(TOKENS, n_bytes // 2 + 16, zero=False)
        cdef int32_t* ids = <int32_t*> out.data.as_ints
        cdef int32_t capacity = <int32_t> len(out), n
        with nogil:
            n = lib.llama_tokenize(self.vocab, data, <int32_t> n_bytes, ids, capacity, add_special, parse_special)
        if n < 0:                       # -n is the required capacity
            capacity = -n
            array.resize(out, capacity)
            ids = <int32_t*> out.data.as_ints
            with nogil:
                n = lib.llama_tokenize(self.vocab, data, <int32_t> n_bytes, ids, capacity, add_special, parse_special)
        if n < 0:
            raise ValueError("the tokenizer failed")
        array.resize(out, n)
        return out.tolist()

    def token_bytes(self, int token_id, bint special=False):
        """Bytes of one token; of a control token b"", with special its name. Raises ValueError for an unknown id."""
        cdef char small[64]
        cdef int32_t n
        if not 0 <= token_id < self.n_vocab:
            raise ValueError(f"token id {token_id} is not in [0, {self.n_vocab})")
        n = lib.llama_token_to_piece(self.vocab, token_id, small, sizeof(small), 0, special)
        if n >= 0:
            return small[:n]
        cdef bytes out = PyBytes_FromStringAndSize(NULL, -n)
        n = lib.llama_token_to_piece(self.vocab, token_id, PyBytes_AS_STRING(out), -n, 0, special)
        return out[:max(n, 0)]

    def is_eog(self, int token_id) -> bool:
        """True if the token ends a generation."""
        return 0 <= token_id < self.n_vocab and lib.llama_vocab_is_eog(self.vocab, token_id)

    def is_control(self, int token_id) -> bool:
        """True if the token is a control token."""
        return 0 <= token_id < self.n_vocab and lib.llama_vocab_is_control(self.vocab, token_id)

    def is_user_defined(self, int token_id) -> bool:
        """True if tokenize() turns the token's text into the token even without parse_special."""
        if not 0 <= token_id < self.n_vocab:
            return False
        return lib.llama_vocab_get_attr(self.vocab, token_id) & lib.LLAMA_TOKEN_ATTR_USER_DEFINED != 0

    def chat_template(self, name=None):
        """The chat template in the GGUF file, the default one or one by name; None if it has none."""
        cdef bytes raw = b"" if name is None else name.encode()
        cdef const char* c_name = NULL
        cdef const char* text
        if name is not None:
            c_name = raw
        text = lib.llama_model_chat_template(self.ptr, c_name)
        return None if text is NULL else text[:strlen(text)].decode("utf-8", "replace")

    def load_lora(self, path) -> int:
        """Load a LoRA adapter. Returns its number for Context.set_loras. Raises ModelLoadError."""
        cdef bytes raw = os.fsencode(path)
        check_gguf(os.fspath(path))
        llamafast_log_take()
        cdef lib.llama_adapter_lora* adapter = lib.llama_adapter_lora_init(self.ptr, raw)
        if adapter is NULL:
            raise ModelLoadError(f"cannot load the adapter {path}: {take_log()}")
        self.adapters.push_back(adapter)
        return self.adapters.size() - 1


cdef array.array TOKENS = _array.array("i")
ctypedef int32_t (*meta_getter)(const lib.llama_model*, int32_t, char*, size_t) noexcept nogil


cdef str meta_text(const lib.llama_model* model, int i, meta_getter get):
    cdef char small[256]
    cdef int32_t n = get(model, i, small, sizeof(small))
    if n < 0:
        return ""
    if n < <int32_t> sizeof(small):
        return small[:n].decode("utf-8", "replace")
    cdef bytes out = PyBytes_FromStringAndSize(NULL, n + 1)
    get(model, i, PyBytes_AS_STRING(out), n + 1)
    return out[:n].decode("utf-8", "replace")


cdef lib.llama_load_mode load_mode(bint use_mmap, bint use_mlock):
    if use_mmap and use_mlock:
        return lib.LLAMA_LOAD_MODE_MMAP_MLOCK
    if use_mmap:
        return lib.LLAMA_LOAD_MODE_MMAP
    if use_mlock:
        return lib.LLAMA_LOAD_MODE_MLOCK
    return lib.LLAMA_LOAD_MODE_NONE


cdef int check_gguf(str path) except -1:
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelLoadError(f"cannot read {path}: {error.strerror}") from None
    if magic != b"GGUF":
        raise ModelLoadError(f"{path} is not a GGUF file")
    return 0


@cython.final
@cython.no_gc_clear                     # the garbage collector must not free the model first
cdef class Context:
    """One KV memory over a Model. Owns the llama_context; only one thread may use it. Raises ModelLoadError.

    n_ctx: tokens, rounded up by llama.cpp; 0: the model's n_ctx_train. With kv_unified all sequences share them;
    without it each sequence has n_ctx_seq = n_ctx // n_seq_max.
    n_outputs_max: maximum rows of one decode that have logits; 0: n_seq_max.
    """

    def __init__(self, Model model, *, int n_ctx=0, int n_batch=512, int n_ubatch=512, int n_seq_max=32,
                 int n_outputs_max=0, int n_rs_seq=0, int threads=1, int threads_batch=0, bint kv_unified=True,
                 bint swa_full=True, offload_kqv=None, op_offload=None, flash_attn=None, no_perf=None, embedding=None,
                 type_k=None, type_v=None, rope_scaling_type=None, pooling_type=None, attention_type=None,
                 rope_freq_base=None, rope_freq_scale=None, yarn_ext_factor=None, yarn_attn_factor=None,
                 yarn_beta_fast=None, yarn_beta_slow=None, yarn_orig_ctx=None):
        global num_contexts
        cdef lib.llama_context_params params = lib.llama_context_default_params()
        if self.ptr is not NULL:
            raise ModelLoadError("a Context can be created only once")
        if model is None or model.vocab_only:
            raise ModelLoadError("a context needs a model with weights, not vocab_only")
        check_sizes(n_ctx, n_batch, n_ubatch, n_seq_max, n_outputs_max, n_rs_seq, threads)
        self.model = model
        params.n_ctx = n_ctx
        params.n_batch = n_batch
        params.n_ubatch = min(n_ubatch, n_batch)
        params.n_seq_max = n_seq_max
        params.n_rs_seq = n_rs_seq
        # 0 would reserve logits for a full ubatch: 508 MB for 248k tokens in the vocabulary
        self.n_outputs_max = params.n_outputs_max = min(max(n_outputs_max, n_seq_max), max(n_batch, n_seq_max))
        self.threads = params.n_threads = threads
        self.threads_batch = params.n_threads_batch = threads_batch if threads_batch > 0 else threads
        self.kv_unified = params.kv_unified = kv_unified
        self.swa_full = params.swa_full = swa_full
        if flash_attn is not None:
            params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
            if flash_attn:
                params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.offload_kqv = params.offload_kqv if offload_kqv is None else offload_kqv
        params.op_offload = params.op_offload if op_offload is None else op_offload
        params.no_perf = params.no_perf if no_perf is None else no_perf
        params.embeddings = params.embeddings if embedding is None else embedding
        if type_k is not None:
            params.type_k = ggml_type_of("type_k", type_k)
        if type_v is not None:
            params.type_v = ggml_type_of("type_v", type_v)
        if rope_scaling_type is not None:
            params.rope_scaling_type = <lib.llama_rope_scaling_type> <int> rope_scaling_type
        if pooling_type is not None:
            if not -1 <= pooling_type <= 4:     # llama.cpp ends the process
                raise ModelLoadError(f"pooling_type is {pooling_type}; it must be -1 to 4")
            params.pooling_type = <lib.llama_pooling_type> <int> pooling_type
        if attention_type is not None:
            params.attention_type = <lib.llama_attention_type> <int> attention_type
        params.rope_freq_base = params.rope_freq_base if rope_freq_base is None else rope_freq_base
        params.rope_freq_scale = params.rope_freq_scale if rope_freq_scale is None else rope_freq_scale
        params.yarn_ext_factor = params.yarn_ext_factor if yarn_ext_factor is None else yarn_ext_factor
        params.yarn_attn_factor = params.yarn_attn_factor if yarn_attn_factor is None else yarn_attn_factor
        params.yarn_beta_fast = params.yarn_beta_fast if yarn_beta_fast is None else yarn_beta_fast
        params.yarn_beta_slow = params.yarn_beta_slow if yarn_beta_slow is None else yarn_beta_slow
        params.yarn_orig_ctx = params.yarn_orig_ctx if yarn_orig_ctx is None else yarn_orig_ctx
        llamafast_log_take()
        with nogil:
            self.ptr = lib.llama_init_from_model(model.ptr, params)
        if self.ptr is NULL:
            raise ModelLoadError(f"cannot create a context of {model.path}: {take_log()}")
        num_contexts += 1
        self.read_facts()

    def __dealloc__(self):
        global num_contexts
        if self.ptr is not NULL:
            lib.llama_free(self.ptr)
            num_contexts -= 1

    cdef int read_facts(self) except -1:
        self.memory = lib.llama_get_memory(self.ptr)
        self.n_ctx = lib.llama_n_ctx(self.ptr)
        self.n_ctx_seq = lib.llama_n_ctx_seq(self.ptr)
        self.n_batch = lib.llama_n_batch(self.ptr)
        self.n_ubatch = lib.llama_n_ubatch(self.ptr)
        self.n_seq_max = lib.llama_n_seq_max(self.ptr)
        self.n_rs_seq = lib.llama_n_rs_seq(self.ptr)
        self.can_shift = self.memory is not NULL and lib.llama_memory_can_shift(self.memory)
        if self.memory is NULL:
            self.memory_kind = "none"
        elif self.model.is_recurrent:
            self.memory_kind = "recurrent"
        elif self.model.is_hybrid:
            self.memory_kind = "hybrid"
        else:
            self.memory_kind = "swa" if self.model.n_swa > 0 else "attention"
        return 0

    cdef int check_seq(self, int seq_id) except -1:
        if self.memory is NULL:
            raise ValueError("this model has no KV memory")
        if not 0 <= seq_id < self.n_seq_max:
            raise ValueError(f"sequence id {seq_id} is not in [0, {self.n_seq_max})")
        return 0

    def host_bytes(self) -> tuple[int, int, int]:
        """Bytes of host memory, without GPU memory: (weights, KV memory, buffers of a step)."""
        cdef size_t[3] out = [0, 0, 0]
        llamafast_host_bytes(self.ptr, out)
        return out[0], out[1], out[2]

    def clear(self) -> None:
        """Remove all sequences."""
        if self.memory is not NULL:
            lib.llama_memory_clear(self.memory, False)

    def seq_rm(self, int seq_id, int p0, int p1) -> bool:
        """Remove positions [p0, p1) of a sequence (negative: start, end). False: the memory cannot remove them."""
        self.check_seq(seq_id)
        return lib.llama_memory_seq_rm(self.memory, seq_id, p0, p1)

    def seq_cp(self, int src, int dst, int p0, int p1) -> None:
        """Let dst share positions [p0, p1) of src. A recurrent state is shared as a whole, for any range.

        Raises ValueError for a partial range when each sequence has its own stream: llama.cpp would abort.
        """
        self.check_seq(src)
        self.check_seq(dst)
        if not self.kv_unified and src != dst:
            if p0 > 0 or (p1 >= 0 and p1 <= lib.llama_memory_seq_pos_max(self.memory, src)):
                raise ValueError("with kv_unified=False only a whole sequence can be copied")
            p0 = p1 = -1
        lib.llama_memory_seq_cp(self.memory, src, dst, p0, p1)

    def seq_add(self, int seq_id, int p0, int p1, int delta) -> None:
        """Shift positions [p0, p1) by delta. Raises ValueError if this memory cannot shift: llama.cpp would abort."""
        self.check_seq(seq_id)
        if not self.can_shift:
            raise ValueError(f"{self.memory_kind} memory of this model cannot be shifted")
        lib.llama_memory_seq_add(self.memory, seq_id, p0, p1, delta)

    def seq_pos_min(self, int seq_id) -> int:
        """Smallest position of a sequence; -1 if it is empty."""
        self.check_seq(seq_id)
        return lib.llama_memory_seq_pos_min(self.memory, seq_id)

    def seq_pos_max(self, int seq_id) -> int:
        """Largest position of a sequence; -1 if it is empty."""
        self.check_seq(seq_id)
        return lib.llama_memory_seq_pos_max(self.memory, seq_id)

    def state_seq_size(self, int seq_id) -> int:
        """Bytes of state_seq_get(seq_id)."""
        self.check_seq(seq_id)
        return lib.llama_state_seq_get_size_ext(self.ptr, seq_id, lib.LLAMA_STATE_SEQ_FLAGS_NONE)

    def state_seq_get(self, int seq_id, bint partial_only=False) -> bytes:
        """State of one sequence; partial_only: only the recurrent or sliding-window part."""
        self.check_seq(seq_id)
        cdef int flags = lib.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY if partial_only else lib.LLAMA_STATE_SEQ_FLAGS_NONE
        cdef size_t size = lib.llama_state_seq_get_size_ext(self.ptr, seq_id, flags), written
        cdef bytes out = PyBytes_FromStringAndSize(NULL, size)
        cdef uint8_t* data = <uint8_t*> PyBytes_AS_STRING(out)
        with nogil:
            written = lib.llama_state_seq_get_data_ext(self.ptr, data, size, seq_id, flags)
        if written == 0 and size > 0:
            raise RuntimeError(f"cannot save sequence {seq_id}")
        return out[:written]

    def state_seq_set(self, int seq_id, bytes state not None, bint partial_only=False) -> None:
        """Put a saved state into a sequence. Raises ValueError if it is invalid or the memory has no room for it."""
        self.check_seq(seq_id)
        cdef int flags = lib.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY if partial_only else lib.LLAMA_STATE_SEQ_FLAGS_NONE
        cdef const uint8_t* data = <const uint8_t*> PyBytes_AS_STRING(state)
        cdef size_t size = len(state), read = 0
        llamafast_log_take()
        try:
            with nogil:
                read = lib.llama_state_seq_set_data_ext(self.ptr, data, size, seq_id, flags)
        except RuntimeError as error:
            raise ValueError(f"not a state of a sequence of this context: {error}") from None
        if read == 0 or read != size:
            raise ValueError(f"not a state of a sequence of this context, or no room for it: {take_log()}")

    def set_loras(self, scales) -> None:
        """Use these adapters for every sequence: [(number from Model.load_lora, scale), ...]. Raises ValueError."""
        cdef vector[lib.llama_adapter_lora*] adapters
        cdef vector[float] values
        for number, scale in scales:
            if not 0 <= number < <Py_ssize_t> self.model.adapters.size():
                raise ValueError(f"no adapter has number {number}")
            adapters.push_back(self.model.adapters[<size_t> number])
            values.push_back(scale)
        if lib.llama_set_adapters_lora(self.ptr, adapters.data(), adapters.size(), values.data()) != 0:
            raise ValueError(f"llama.cpp rejected the adapters: {take_log()}")


cdef int check_sizes(int n_ctx, int n_batch, int n_ubatch, int n_seq_max, int n_outputs_max, int n_rs_seq,
                     int threads) except -1:
    cdef int limit = <int> lib.llama_max_parallel_sequences()
    if n_ctx < 0:
        raise ModelLoadError(f"n_ctx is {n_ctx}; it must be 0 (the model's value) or more")
    if n_batch < 1 or n_ubatch < 1:
        raise ModelLoadError(f"n_batch is {n_batch} and n_ubatch {n_ubatch}; both must be at least 1")
    if not 1 <= n_seq_max <= limit:
        raise ModelLoadError(f"n_seq_max is {n_seq_max}; it must be 1 to {limit}")
    if n_outputs_max < 0 or n_rs_seq < 0:
        raise ModelLoadError("n_outputs_max and n_rs_seq must not be negative")
    if not 1 <= threads <= 512:
        raise ModelLoadError(f"threads is {threads}; it must be 1 to 512")
    return 0


cdef lib.ggml_type ggml_type_of(str name, int value) except *:
    if not 0 <= value < lib.GGML_TYPE_COUNT:
        raise ModelLoadError(f"{name} is {value}, which is not a ggml type")
    return <lib.ggml_type> value


cdef class RowBatch:
    """Rows of one decode; at most n_tokens_max. is_causal: a row attends only to the rows before it."""

    @property
    def num_tokens(self) -> int:
        """Rows in use."""
        return self.c.n_tokens

    def clear(self) -> None:
        """Remove all rows."""
        self.c.n_tokens = 0


@cython.final
cdef class Batch(RowBatch):
    """The rows (token, position, sequence id) of one decode, at most n_tokens_max."""

    def __cinit__(self, int n_tokens_max):
        global num_batches
        if n_tokens_max < 1:
            raise ValueError("n_tokens_max of a batch must be at least 1")
        self.c = lib.llama_batch_init(n_tokens_max, 0, 1)
        if self.c.token is NULL:
            raise MemoryError()
        self.n_tokens_max = n_tokens_max
        self.is_causal = True
        num_batches += 1

    def __dealloc__(self):
        global num_batches
        if self.c.token is not NULL:
            lib.llama_batch_free(self.c)
            num_batches -= 1

    def add(self, int token_id, int pos, int seq_id) -> int:
        """Append one row. Returns its index. Raises ValueError if the batch is full."""
        cdef int i = self.c.n_tokens
        if i >= self.n_tokens_max:
            raise ValueError(f"the batch is full ({self.n_tokens_max} rows)")
        self.c.token[i] = token_id
        self.c.pos[i] = pos
        self.c.n_seq_id[i] = 1
        self.c.seq_id[i][0] = seq_id
        self.c.logits[i] = 0
        self.c.n_tokens = i + 1
        return i

    def extend(self, array.array token_ids not None, Py_ssize_t start, Py_ssize_t stop, int pos, int seq_id) -> int:
        """Append token_ids[start:stop] (array('i')) at positions pos, pos + 1, ... Returns the index of the last row.

        Raises ValueError for an empty or invalid range, another typecode, or a full batch.
        """
        cdef Py_ssize_t i
        cdef int row
        if token_ids.ob_descr.typecode != c'i':
            raise ValueError("token_ids must be an array('i')")
        if not 0 <= start < stop <= len(token_ids):
            raise ValueError(f"range [{start}, {stop}) of {len(token_ids)} tokens")
        if stop - start > self.n_tokens_max - self.c.n_tokens:
            raise ValueError(f"the batch is full ({self.n_tokens_max} rows)")
        for i in range(start, stop):
            row = self.c.n_tokens
            self.c.token[row] = token_ids.data.as_ints[i]
            self.c.pos[row] = pos + <int> (i - start)
            self.c.n_seq_id[row] = 1
            self.c.seq_id[row][0] = seq_id
            self.c.logits[row] = 0
            self.c.n_tokens = row + 1
        return self.c.n_tokens - 1


@cython.final
cdef class MediaBatch(RowBatch):
    """Rows of embeddings of one decode; at most n_tokens_max, and all of one kind of attention.

    The arrays are its own: llama_batch_init allocates one position per row, and under M-RoPE a row has four.
    """

    def __cinit__(self, int n_tokens_max, Model model not None):
        cdef int i
        if n_tokens_max < 1:
            raise ValueError("a batch holds at least one row")
        self.n_tokens_max = n_tokens_max
        self.n_embd = model.n_embd_inp
        self.uses_mrope = model.uses_mrope
        self.is_causal = True
        self.n_seq_id.assign(n_tokens_max, 1)
        self.seq_ids.assign(n_tokens_max, 0)
        self.logits.assign(n_tokens_max, 0)
        for i in range(n_tokens_max):
            self.seq_id.push_back(&self.seq_ids[i])
        self.c.n_seq_id = self.n_seq_id.data()
        self.c.seq_id = self.seq_id.data()
        self.c.logits = self.logits.data()

    def extend(self, array.array rows not None, array.array offsets, int start, int stop, int pos, int seq_id,
               bint is_causal=True) -> int:
        """Append rows [start, stop) of a chunk whose first row has position pos; the index of the last one.

        rows: array('f'), shape (n_rows, n_embd), the embeddings of the whole chunk. offsets: as in MediaChunk.
        is_causal: False: the chunk must go into one batch whole. Raises ValueError for a wrong range, arrays that do
        not fit, a full batch, or rows of both kinds of attention.
        """
        cdef int n_rows = <int> (len(rows) // self.n_embd), first = self.c.n_tokens, i, k
        cdef int* from_first = NULL
        if rows.ob_descr.typecode != c'f' or len(rows) % self.n_embd:
            raise ValueError(f"rows must be an array('f') of rows of {self.n_embd} numbers")
        if offsets is not None:
            if offsets.ob_descr.typecode != c'i' or len(offsets) != 3 * n_rows:
                raise ValueError(f"offsets must be an array('i') of 3 x {n_rows} numbers")
            from_first = offsets.data.as_ints
        if offsets is not None and not self.uses_mrope:
            raise ValueError("the offsets are of another kind of model")
        if not 0 <= start < stop <= n_rows:
            raise ValueError(f"range [{start}, {stop}) of {n_rows} rows")
        if stop - start > self.n_tokens_max - first:
            raise ValueError(f"the batch is full ({self.n_tokens_max} rows)")
        if not is_causal and stop - start != n_rows:
            raise ValueError("a chunk whose rows attend to later ones is computed whole")
        if first and is_causal != self.is_causal:
            raise ValueError("causal rows and others do not share a batch")
        self.is_causal = is_causal
        self.embd.resize(<size_t> (first + stop - start) * self.n_embd)
        self.staged.resize(4 * (first + stop - start))
        memcpy(self.embd.data() + <size_t> first * self.n_embd, rows.data.as_floats + <size_t> start * self.n_embd,
               <size_t> (stop - start) * self.n_embd * sizeof(float))
        for i in range(start, stop):
            for k in range(4):
                if from_first is NULL:
                    self.staged[4 * (first + i - start) + k] = pos + i
                else:
                    self.staged[4 * (first + i - start) + k] = pos + from_first[k * n_rows + i] if k < 3 else 0
            self.seq_ids[first + i - start] = seq_id
        self.c.n_tokens = first + stop - start
        return self.c.n_tokens - 1

    cdef int seal(self) except -1:
        """Lay out the positions for this number of rows: under M-RoPE section after section, t, y, x and z."""
        cdef int n = self.c.n_tokens, i, k
        self.pos.assign(4 * n if self.uses_mrope else n, 0)
        for i in range(n):
            for k in range(4 if self.uses_mrope else 1):
                self.pos[k * n + i] = self.staged[4 * i + k]
        self.c.pos = self.pos.data()
        self.c.embd = self.embd.data()
        return 0
