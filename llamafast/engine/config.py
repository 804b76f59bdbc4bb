"""How an engine loads and runs its model."""

from __future__ import annotations

from dataclasses import dataclass

# With n_ctx 0: a model trained for 256k tokens would ask for tens of gigabytes.
_DEFAULT_N_CTX = 16384


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How the model is loaded and run. None leaves a choice to llama.cpp.

    n_ctx: KV cells, shared by all sequences if kv_unified; 0: the model's own, 16384 at most. n_seq_max: sequences that
    run at once. threads 0: as many as there are cores to use; threads_batch 0: as threads. max_prefill_tokens: most
    prompt tokens per step while others generate; None: n_batch. max_step_ms: such a step gets as many prompt tokens as
    let it take about so long; None: 1.6 times as long as without; 0: no limit. max_seq_len: prompt and output of
    one sequence.
    max_cached_tokens: KV cells in use above which finished prefixes are dropped; None: all. max_idle_tokens: tokens
    that others generate before an unused finished prefix is dropped; None: it stays while there is room, though their
    attention is slower meanwhile. max_checkpoint_bytes: host memory for the states of memories that cannot be cut, by
    which prompts that part inside of a sequence still share; checkpoint_every: how many tokens apart they are taken in
    prompts that come without boundaries, 0: not; the default is n_batch's, where a step ends anyway.
    context_shift: a sequence that has max_seq_len tokens loses half of those behind its first message and goes on; what
    was computed behind the lost ones stays. Otherwise it ends.
    """

    n_ctx: int = 0
    n_batch: int = 512
    n_ubatch: int = 512
    n_seq_max: int = 32
    n_rs_seq: int = 0
    threads: int = 0
    threads_batch: int = 0
    kv_unified: bool = True
    swa_full: bool = True
    offload_kqv: bool | None = None
    op_offload: bool | None = None
    flash_attn: bool | None = None
    no_perf: bool | None = None
    embedding: bool | None = None
    type_k: int | None = None
    type_v: int | None = None
    rope_scaling_type: int | None = None
    pooling_type: int | None = None
    attention_type: int | None = None
    rope_freq_base: float | None = None
    rope_freq_scale: float | None = None
    yarn_ext_factor: float | None = None
    yarn_attn_factor: float | None = None
    yarn_beta_fast: float | None = None
    yarn_beta_slow: float | None = None
    yarn_orig_ctx: int | None = None

    n_gpu_layers: int | None = None
    split_mode: int | None = None
    main_gpu: int | None = None
    tensor_split: tuple[float, ...] | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    kv_overrides: dict[str, bool | int | float | str] | None = None

    max_prefill_tokens: int | None = None
    max_step_ms: float | None = None
    max_queued_requests: int = 1024
    max_seq_len: int | None = None
    max_output_tokens: int | None = None
    enable_prefix_cache: bool = True
    max_cached_tokens: int | None = None
    max_idle_tokens: int | None = 512
    max_checkpoint_bytes: int = 1 << 30
    checkpoint_every: int = 512
    context_shift: bool = False

    def context_size(self, n_ctx_train: int) -> int:
        """KV cells of a model that was trained for n_ctx_train tokens."""
        return self.n_ctx or min(n_ctx_train, _DEFAULT_N_CTX)
