"""Whether flash attention pays, where the configuration leaves it open."""

from __future__ import annotations

from llamafast._core import Model, supports_gpu_offload
from llamafast.engine.config import EngineConfig

# With more sequences in one memory, going over the cells of all of them costs more than slower work on one's own.
_MAX_SEQS = 12

# Scores of a full batch over a full memory, as floats; flash attention never holds them.
_MAX_SCORE_BYTES = 1 << 30

# ggml's f32, f16 and bf16: values that are quantized need flash attention.
_FLOAT_TYPES = (None, 0, 1, 30)


def flash_attention(model: Model, config: EngineConfig) -> bool | None:
    """config.flash_attn, or the better choice where it is None; None leaves it to llama.cpp, which uses it.

    On a CPU, llama.cpp's flash attention goes over the keys row by row while a chunk has fewer than 64 tokens; plain
    matrix products take a fifth to a tenth of the time per cell, but do not pass over the cells of other sequences.
    """
    if config.flash_attn is not None or supports_gpu_offload() or config.type_v not in _FLOAT_TYPES:
        return config.flash_attn
    is_shared = config.kv_unified and config.n_seq_max > _MAX_SEQS
    return None if is_shared or _score_bytes(model, config) > _MAX_SCORE_BYTES else False


def _score_bytes(model: Model, config: EngineConfig) -> int:
    architecture = model.metadata.get("general.architecture", "")
    n_head = model.metadata.get(f"{architecture}.attention.head_count", "")
    return 4 * config.context_size(model.n_ctx_train) * config.n_ubatch * (int(n_head) if n_head.isdigit() else 1)
