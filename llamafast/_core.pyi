"""The façade over libllama. Objects are thread-safe only where their docstring says so."""

from array import array
from collections.abc import Callable, Sequence

COMPILED_LLAMA_CPP_PYTHON: str

class Model:
    """Weights and vocabulary. Tokenizing is thread-safe. Raises ModelLoadError."""

    path: str
    n_vocab: int
    n_ctx_train: int
    n_embd: int
    n_embd_inp: int  # numbers in a row of embeddings
    n_layer: int
    n_params: int
    n_swa: int
    size_bytes: int
    description: str
    uses_mrope: bool  # a row of embeddings has four positions
    is_recurrent: bool
    is_hybrid: bool
    has_encoder: bool
    has_decoder: bool
    vocab_only: bool
    bos_id: int
    eos_id: int
    sep_id: int
    eot_id: int
    add_bos: bool
    add_eos: bool
    fim_ids: tuple[int, int, int]
    suppress_ids: tuple[int, ...]  # must never be drawn (tokenizer.ggml.suppress_tokens)
    def __init__(
        self,
        path: str,
        *,
        vocab_only: bool = False,
        no_alloc: bool = False,
        n_gpu_layers: int | None = None,
        split_mode: int | None = None,
        main_gpu: int | None = None,
        tensor_split: Sequence[float] | None = None,
        use_mmap: bool | None = None,
        use_mlock: bool | None = None,
        kv_overrides: dict[str, bool | int | float | str] | None = None,
        progress: Callable[[float], bool] | None = None,
    ) -> None: ...
    @property
    def metadata(self) -> dict[str, str]: ...
    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]: ...
    def token_bytes(self, token_id: int, special: bool = False) -> bytes: ...
    def is_eog(self, token_id: int) -> bool: ...
    def is_control(self, token_id: int) -> bool: ...
    def is_user_defined(self, token_id: int) -> bool: ...
    def chat_template(self, name: str | None = None) -> str | None: ...
    def load_lora(self, path: str) -> int: ...

class Context:
    """One KV memory over a Model. Raises ModelLoadError. Only one thread may use it."""

    model: Model
    n_ctx: int
    n_ctx_seq: int
    n_batch: int
    n_ubatch: int
    n_seq_max: int
    n_outputs_max: int
    n_rs_seq: int
    threads: int
    threads_batch: int
    kv_unified: bool
    swa_full: bool
    can_shift: bool
    memory_kind: str  # "attention" | "swa" | "hybrid" | "recurrent" | "none"
    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int = 0,
        n_batch: int = 512,
        n_ubatch: int = 512,
        n_seq_max: int = 32,
        n_outputs_max: int = 0,
        n_rs_seq: int = 0,
        threads: int = 1,
        threads_batch: int = 0,
        kv_unified: bool = True,
        swa_full: bool = True,
        offload_kqv: bool | None = None,
        op_offload: bool | None = None,
        flash_attn: bool | None = None,
        no_perf: bool | None = None,
        embedding: bool | None = None,
        type_k: int | None = None,
        type_v: int | None = None,
        rope_scaling_type: int | None = None,
        pooling_type: int | None = None,
        attention_type: int | None = None,
        rope_freq_base: float | None = None,
        rope_freq_scale: float | None = None,
        yarn_ext_factor: float | None = None,
        yarn_attn_factor: float | None = None,
        yarn_beta_fast: float | None = None,
        yarn_beta_slow: float | None = None,
        yarn_orig_ctx: int | None = None,
    ) -> None: ...
    def host_bytes(self) -> tuple[int, int, int]:
        """Bytes of host memory, without GPU memory: (weights, KV memory, buffers of a step)."""
    def clear(self) -> None: ...
    def seq_rm(self, seq_id: int, p0: int, p1: int) -> bool: ...
    def seq_cp(self, src: int, dst: int, p0: int, p1: int) -> None: ...
    def seq_add(self, seq_id: int, p0: int, p1: int, delta: int) -> None: ...
    def seq_pos_min(self, seq_id: int) -> int: ...
    def seq_pos_max(self, seq_id: int) -> int: ...
    def state_seq_size(self, seq_id: int) -> int: ...
    def state_seq_get(self, seq_id: int, partial_only: bool = False) -> bytes: ...
    def state_seq_set(self, seq_id: int, state: bytes, partial_only: bool = False) -> None: ...
    def set_loras(self, scales: Sequence[tuple[int, float]]) -> None: ...

class Batch:
    """The rows of one decode, at most n_tokens_max."""

    num_tokens: int
    n_tokens_max: int
    def __init__(self, n_tokens_max: int) -> None: ...
    def clear(self) -> None: ...
    def add(self, token_id: int, pos: int, seq_id: int) -> int:
        """Append one row. Returns its index."""
    def extend(self, token_ids: array[int], start: int, stop: int, pos: int, seq_id: int) -> int:
        """Append token_ids[start:stop] (array('i')) at positions pos, pos + 1, ... Returns the last row's index."""

class MediaBatch:
    """Rows of embeddings of one decode. Holds at most n_tokens_max rows, all of one kind of attention."""

    num_tokens: int
    n_tokens_max: int
    n_embd: int
    is_causal: bool
    uses_mrope: bool
    def __init__(self, n_tokens_max: int, model: Model) -> None: ...
    def clear(self) -> None: ...
    def extend(
        self,
        rows: array[float],
        offsets: array[int] | None,
        start: int,
        stop: int,
        pos: int,
        seq_id: int,
        is_causal: bool = True,
    ) -> int:
        """Append rows [start, stop) of a chunk whose first row has position pos; the index of the last one."""

def live_handles() -> dict[str, int]: ...
def libllama_version() -> str: ...
def supports_gpu_offload() -> bool: ...
