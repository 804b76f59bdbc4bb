"""Makes the parts of an engine: model, context, cache, scheduler, disk cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llamafast._core import Batch, Context, MediaBatch, Model, supports_gpu_offload
from llamafast._mtmd import Projector
from llamafast._runner import ModelRunner
from llamafast.cache.disk.disk_cache import DiskCache
from llamafast.cache.prefix_cache import PrefixCache
from llamafast.engine.adapters import Adapter
from llamafast.engine.config import EngineConfig, Group
from llamafast.engine.context_shift import ContextShift, check_context_shift
from llamafast.engine.disk_prefixes import DiskPrefixes
from llamafast.engine.media_encoder import MediaEncoder
from llamafast.engine.media_prompts import MediaPrompts
from llamafast.engine.media_supply import MediaSupply
from llamafast.engine.metrics import EngineStats
from llamafast.engine.pacing import StepPacer
from llamafast.engine.plan import max_output_rows
from llamafast.engine.planner import StepPlanner
from llamafast.engine.projector_settings import ProjectorSettings
from llamafast.engine.scheduler import Scheduler
from llamafast.engine.state_key import state_key
from llamafast.engine.validation import Limits
from llamafast.host.cpu import default_threads

_MAX_SEQ_IDS = 256
_MIN_SPARE_IDS = 8
_MAX_SPARE_STATES = 16

# With more sequences in one memory, plain attention is slower than flash attention: it computes the cells of all
# sequences, flash attention only those of the row's own sequence.
_MAX_PLAIN_SEQS = 12

# Limit for the attention scores of a full ubatch over a full memory. Flash attention does not store them.
_MAX_SCORE_BYTES = 1 << 30

# ggml's f32, f16 and bf16. Quantized values need flash attention.
_FLOAT_TYPES = (None, 0, 1, 30)


def load_model(path: str, config: EngineConfig, **options: Any) -> Model:
    """Load the model of a GGUF file. options: further arguments of Model. Raises ModelLoadError."""
    return Model(path, **config.values(Group.MODEL), **options)


def choose_attention(model: Model, config: EngineConfig) -> EngineConfig:
    """Return `config` with flash_attn set to False if plain attention is faster.

    A value in `config` stays. None stays if flash attention is better; llama.cpp then uses it where it can. On a CPU,
    flash attention processes the keys row by row for chunks below 64 tokens. Plain matrix products take a fifth to a
    tenth of the time per cell, but they also compute the cells of other sequences.
    """
    if config.flash_attn is not None or supports_gpu_offload() or config.type_v not in _FLOAT_TYPES:
        return config
    is_shared = config.kv_unified and config.n_seq_max > _MAX_PLAIN_SEQS
    if is_shared or _score_bytes(model, config) > _MAX_SCORE_BYTES:
        return config
    return replace(config, flash_attn=False)


def make_context(model: Model, config: EngineConfig) -> Context:
    """The context of `config`, with additional sequence ids for finished prefixes. Raises ModelLoadError."""
    n_seq_ids = config.n_seq_max
    if config.enable_prefix_cache and config.kv_unified:
        n_seq_ids = max(n_seq_ids, min(n_seq_ids + _num_spare_ids(model, n_seq_ids), _MAX_SEQ_IDS))
    threads = config.threads or default_threads()[0]
    n_batch = max(config.n_batch, config.n_seq_max)
    arguments = config.values(Group.CONTEXT) | {
        "n_ctx": config.context_size(model.n_ctx_train),
        "n_batch": n_batch,
        "n_seq_max": n_seq_ids,
        "n_outputs_max": max_output_rows(n_seq_max=config.n_seq_max, n_batch=n_batch, n_vocab=model.n_vocab),
        "threads": threads,
        "threads_batch": config.threads_batch or threads,
    }
    return Context(model, **arguments)


def make_limits(model: Model, context: Context, config: EngineConfig) -> Limits:
    """The limits for one request with this model and context."""
    n_ctx_seq = context.n_ctx if context.kv_unified else context.n_ctx // context.n_seq_max
    return Limits(
        n_vocab=model.n_vocab,
        n_seq_max=min(config.n_seq_max, context.n_seq_max, context.n_batch),
        max_seq_len=min(n_ctx_seq, config.max_seq_len or n_ctx_seq),
        max_output_tokens=config.max_output_tokens,
        generates=context.memory_kind != "none",
        context_shift=config.context_shift,
        bos_id=model.bos_id,
    )


def make_cache(model: Model, context: Context, config: EngineConfig, *, max_seq_len: int) -> PrefixCache:
    """The prefix cache of a context. max_seq_len: maximum tokens of one sequence."""
    # Recurrent memory has no cell per token: only the length of each sequence is limited.
    n_cells = context.n_seq_max * max_seq_len if context.memory_kind == "recurrent" else context.n_ctx
    return PrefixCache(
        context,
        n_slots=context.n_seq_max,
        n_cells=n_cells,
        reuse=config.enable_prefix_cache and context.memory_kind != "none",
        kind=context.memory_kind,
        n_swa=model.n_swa if context.memory_kind == "swa" else 0,
        swa_full=context.memory_kind != "swa" or context.swa_full,
        copies_cells=not context.kv_unified,
        n_cells_kept=config.max_cached_tokens,
        max_idle_tokens=config.max_idle_tokens,
        max_checkpoint_bytes=config.max_checkpoint_bytes,
        checkpoint_every=config.checkpoint_every,
    )


def make_scheduler(
    runner: ModelRunner, batch: Batch, cache: PrefixCache, stats: EngineStats, config: EngineConfig, limits: Limits
) -> Scheduler:
    """The scheduler and its planner. Raises ConfigError if context_shift is set and the memory cannot shift."""
    context = runner.context
    context_shift = None
    if config.context_shift:
        check_context_shift(context, runner, batch, type_k=config.type_k, max_seq_len=limits.max_seq_len)
        context_shift = ContextShift(cache, max_seq_len=limits.max_seq_len, bos_id=limits.bos_id)
    equal_lengths = context.memory_kind in ("hybrid", "recurrent") or not context.kv_unified
    planner = StepPlanner(
        batch,
        n_outputs_max=context.n_outputs_max,
        pacer=StepPacer(config.max_step_ms, config.max_prefill_tokens or context.n_batch, equal_lengths),
        equal_lengths=equal_lengths,
    )
    return Scheduler(cache, planner, stats, n_seq_max=limits.n_seq_max, context_shift=context_shift)


def load_projector(context: Context, path: str, settings: ProjectorSettings) -> tuple[MediaPrompts, MediaSupply]:
    """The projector of a GGUF file: what cuts media, and what gives the embeddings to steps. Raises ModelLoadError."""
    projector = Projector(
        context.model,
        path,
        threads=settings.threads or max(1, context.threads // 2),
        image_min_tokens=settings.image_min_tokens,
        image_max_tokens=settings.image_max_tokens,
        use_gpu=settings.use_gpu,
    )
    prompts = MediaPrompts(projector, settings.key, context.n_ubatch)
    encoder = MediaEncoder(projector, settings.max_cache_bytes)
    return prompts, MediaSupply(encoder, MediaBatch(context.n_batch, context.model))


def open_disk(
    cache: PrefixCache,
    context: Context,
    config: EngineConfig,
    adapters: Sequence[Adapter],
    path: str,
    *,
    max_bytes: int,
    min_tokens: int,
) -> DiskPrefixes:
    """Open the stored states of this model in the folder `path`. The cache must not have been used yet.

    max_bytes, min_tokens: see DiskCache. Raises ConfigError.
    """
    can_cut = context.memory_kind == "attention"  # the state of a sliding window contains only the window
    key = state_key(context.model, context, config, adapters)
    disk = DiskCache(path, max_bytes=max_bytes, min_tokens=min_tokens, key=key, can_cut=can_cut)
    # Copying a part of a sequence needs another sequence id. Unified attention memories have spare ones.
    has_spare = can_cut and context.kv_unified and cache.n_slots > config.n_seq_max
    return DiskPrefixes(disk, cache, context, cache.reserve_id() if has_spare else None)


def _num_spare_ids(model: Model, n_seq_max: int) -> int:
    """Number of sequence ids for finished prefixes. Each costs megabytes in recurrent memories, nothing in others."""
    has_state = model.is_hybrid or model.is_recurrent
    return min(max(_MIN_SPARE_IDS, n_seq_max), _MAX_SPARE_STATES if has_state else _MAX_SEQ_IDS)


def _score_bytes(model: Model, config: EngineConfig) -> int:
    """Bytes of the attention scores of a full ubatch over a full memory."""
    metadata = model.metadata
    n_head = metadata.get(f"{metadata.get('general.architecture', '')}.attention.head_count", "")
    return 4 * config.context_size(model.n_ctx_train) * config.n_ubatch * (int(n_head) if n_head.isdigit() else 1)
