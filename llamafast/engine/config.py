"""The settings of the engine: how it loads and runs its model. Each is declared here, once.

To add an argument of Model or Context, declare it in EngineConfig with its group and read it in `_core.pyx` (and
`.pyi`); `make docs` writes the documentation. The configuration file, the command line, the native arguments, the key
of stored states and the key of tried model files follow the declaration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

from llamafast.settings import INT32_MAX, Setting, declare, described, settings_of

T = TypeVar("T")

# With n_ctx 0: a model trained for 256k tokens would ask for tens of gigabytes.
_DEFAULT_N_CTX = 16384

# Ranges.
_COUNT = (1, INT32_MAX)
_SIZE = (0, INT32_MAX)
_INT32 = (-(2**31), INT32_MAX)

# llama.h's enumerations.
_KV_TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q5_1": 7, "q5_0": 6, "q4_1": 3, "q4_0": 2, "iq4_nl": 20}
_SPLIT_MODES = {"none": 0, "layer": 1, "row": 2, "tensor": 3}
_ROPE_SCALING_TYPES = {"unspecified": -1, "none": 0, "linear": 1, "yarn": 2, "longrope": 3}
_POOLING_TYPES = {"unspecified": -1, "none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}
_ATTENTION_TYPES = {"unspecified": -1, "causal": 0, "non_causal": 1}


class Group(Enum):
    """The part of the engine that a setting configures. The value is its heading in the documentation."""

    MODEL = "Loading the model"  # arguments of Model
    CONTEXT = "Context"  # arguments of Context
    THREADS = "Threads"  # arguments of Context that change no result
    SCHEDULING = "Scheduling"
    CACHE = "Prefix cache"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSetting(Setting):
    """A field of EngineConfig.

    group: the part of the engine that the setting configures.
    names: names of values, which a configuration file may use instead of the numbers; empty: no value has a name.
    section, key: place in the configuration file; key "" is the field's name.
    has_option: whether the command line has an option for it.
    in_state_key: whether a stored state is valid only under the same value.
    """

    group: Group
    names: Mapping[str, int] = field(default_factory=dict)
    section: str = "model"
    key: str = ""
    has_option: bool = False
    in_state_key: bool = False


def _setting(
    default: T,
    group: Group,
    doc: str,
    *,
    within: tuple[float, float] = (-math.inf, math.inf),
    names: Mapping[str, int] | None = None,
    section: str = "model",
    key: str = "",
    has_option: bool = False,
    in_state_key: bool = False,
) -> T:
    setting = EngineSetting(
        doc=doc,
        low=within[0],
        high=within[1],
        group=group,
        names=names or {},
        section=section,
        key=key,
        has_option=has_option,
        in_state_key=in_state_key,
    )
    return declare(default, setting)


@described
@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How the model is loaded and run. None (absent in a configuration) leaves a choice to llama.cpp or the engine."""

    n_ctx: int = _setting(
        0,
        Group.CONTEXT,
        "Tokens of KV memory, shared by all sequences if kv_unified. 0: as the model was trained for, 16384 at most.",
        within=_SIZE,
        has_option=True,
    )
    n_batch: int = _setting(512, Group.CONTEXT, "Maximum tokens of one step.", within=_COUNT, has_option=True)
    n_ubatch: int = _setting(
        512, Group.CONTEXT, "Maximum tokens of one pass over the weights.", within=_COUNT, has_option=True
    )
    n_seq_max: int = _setting(
        32, Group.CONTEXT, "Number of sequences that run at once.", within=(1, 256), has_option=True
    )
    n_rs_seq: int = _setting(
        0,
        Group.CONTEXT,
        "Number of last positions whose states recurrent memory keeps, so that it can be cut there.",
        within=_SIZE,
    )
    threads: int = _setting(
        0,
        Group.THREADS,
        "Threads that compute. 0: one per physical core, within CPU affinity and quota.",
        within=_SIZE,
        has_option=True,
    )
    threads_batch: int = _setting(
        0, Group.THREADS, "Threads that compute prompts. 0: the value of threads.", within=_SIZE, has_option=True
    )
    kv_unified: bool = _setting(
        True,
        Group.CONTEXT,
        "One KV memory for all sequences. false: each sequence has n_ctx / n_seq_max tokens of its own.",
    )
    swa_full: bool = _setting(
        True,
        Group.CONTEXT,
        "Keep all tokens of layers with a sliding window, so that prefixes can be cut. false: keep the window only.",
    )
    offload_kqv: bool | None = _setting(None, Group.CONTEXT, "Keep the KV memory on the GPU.")
    op_offload: bool | None = _setting(None, Group.CONTEXT, "Let the GPU compute operations on tensors in host memory.")
    flash_attn: bool | None = _setting(
        None,
        Group.CONTEXT,
        "Use flash attention. Absent: if it is faster on this machine.",
        has_option=True,
        in_state_key=True,
    )
    no_perf: bool | None = _setting(None, Group.CONTEXT, "Turn off llama.cpp's own timings.")
    embedding: bool | None = _setting(None, Group.CONTEXT, "Make embeddings with a model that could generate text.")
    type_k: int | None = _setting(
        None, Group.CONTEXT, "Type of cached keys. Absent: f16.", names=_KV_TYPES, has_option=True, in_state_key=True
    )
    type_v: int | None = _setting(
        None,
        Group.CONTEXT,
        "Type of cached values; quantized ones need flash attention. Absent: f16.",
        names=_KV_TYPES,
        has_option=True,
        in_state_key=True,
    )
    rope_scaling_type: int | None = _setting(
        None, Group.CONTEXT, "How RoPE is scaled for long contexts.", names=_ROPE_SCALING_TYPES, in_state_key=True
    )
    pooling_type: int | None = _setting(
        None,
        Group.CONTEXT,
        "How the embeddings of tokens are combined into one. Absent: as the file says; with embedding, else the last "
        "token's. none: a model that could generate text does so.",
        names=_POOLING_TYPES,
    )
    attention_type: int | None = _setting(
        None, Group.CONTEXT, "Which tokens a token attends to.", names=_ATTENTION_TYPES, in_state_key=True
    )
    rope_freq_base: float | None = _setting(
        None, Group.CONTEXT, "RoPE's base frequency. Absent: the model's.", in_state_key=True
    )
    rope_freq_scale: float | None = _setting(
        None, Group.CONTEXT, "RoPE's frequency factor. Absent: the model's.", in_state_key=True
    )
    yarn_ext_factor: float | None = _setting(
        None, Group.CONTEXT, "YaRN's extrapolation mix. Negative: the model's.", in_state_key=True
    )
    yarn_attn_factor: float | None = _setting(
        None, Group.CONTEXT, "YaRN's factor of attention magnitudes.", in_state_key=True
    )
    yarn_beta_fast: float | None = _setting(None, Group.CONTEXT, "YaRN's low correction dimension.", in_state_key=True)
    yarn_beta_slow: float | None = _setting(None, Group.CONTEXT, "YaRN's high correction dimension.", in_state_key=True)
    yarn_orig_ctx: int | None = _setting(
        None,
        Group.CONTEXT,
        "Tokens of context that the model was trained for, for YaRN. 0: the model's.",
        within=_SIZE,
        in_state_key=True,
    )

    n_gpu_layers: int | None = _setting(
        None, Group.MODEL, "Layers on the GPU; -1: all.", within=_INT32, has_option=True
    )
    split_mode: int | None = _setting(None, Group.MODEL, "How the model is split across GPUs.", names=_SPLIT_MODES)
    main_gpu: int | None = _setting(None, Group.MODEL, "The GPU that holds all that is not split.", within=_INT32)
    tensor_split: tuple[float, ...] | None = _setting(None, Group.MODEL, "Each GPU's share of the model.")
    use_mmap: bool | None = _setting(None, Group.MODEL, "Map the file instead of reading it.")
    use_mlock: bool | None = _setting(None, Group.MODEL, "Lock the weights in memory.")
    kv_overrides: dict[str, bool | int | float | str] | None = _setting(
        None, Group.MODEL, "Metadata by key: values that replace those of the model file.", in_state_key=True
    )

    max_prefill_tokens: int | None = _setting(
        None,
        Group.SCHEDULING,
        "Maximum prompt tokens of a step while others generate. Absent: n_batch.",
        within=_COUNT,
        has_option=True,
    )
    max_step_ms: float | None = _setting(
        None,
        Group.SCHEDULING,
        "Maximum milliseconds of a step that computes prompts while others generate: it limits the step's prompt "
        "tokens. Absent: 1.6 times the duration of a step without prompts; 0: no limit.",
        within=(0, math.inf),
        has_option=True,
    )
    max_queued_requests: int = _setting(
        1024,
        Group.SCHEDULING,
        "Maximum number of waiting requests; further ones get 503.",
        within=_COUNT,
        section="server",
        has_option=True,
    )
    max_seq_len: int | None = _setting(
        None,
        Group.SCHEDULING,
        "Maximum tokens of one sequence, prompt and output together. Absent: the size of the context.",
        within=_COUNT,
        has_option=True,
    )
    max_output_tokens: int | None = _setting(
        None,
        Group.SCHEDULING,
        "Maximum generated tokens of each choice, whatever the request says. Absent: no limit.",
        within=_SIZE,
        has_option=True,
    )
    enable_prefix_cache: bool = _setting(
        True,
        Group.CACHE,
        "Reuse the computed tokens of common prompt beginnings.",
        key="prefix_cache",
        has_option=True,
    )
    max_cached_tokens: int | None = _setting(
        None,
        Group.CACHE,
        "Drop finished prefixes when more tokens of KV memory are in use. Absent: when it is full.",
        within=_SIZE,
    )
    max_idle_tokens: int | None = _setting(
        512,
        Group.CACHE,
        "A finished prefix is dropped when no request has used it while others generated this many tokens, because it "
        "slows their attention down. A large number keeps it until its room is needed.",
        within=_SIZE,
    )
    max_checkpoint_bytes: int = _setting(
        1 << 30,
        Group.CACHE,
        "Bytes of host memory for checkpoints: saved states of memories that cannot be cut (hybrid, recurrent, sliding "
        "window). A prompt continues from the last checkpoint before its first different token.",
        within=(0, math.inf),
    )
    checkpoint_every: int = _setting(
        512,
        Group.CACHE,
        "Tokens between checkpoints in prompts without message boundaries. 0: no checkpoints there.",
        within=_SIZE,
    )
    context_shift: bool = _setting(
        False,
        Group.SCHEDULING,
        "A sequence of max_seq_len tokens drops half of the tokens after its first message and continues. The tokens "
        "after the dropped ones are not computed again. false: the sequence ends.",
    )

    def context_size(self, n_ctx_train: int) -> int:
        """Number of KV cells for a model that was trained for n_ctx_train tokens."""
        return self.n_ctx or min(n_ctx_train, _DEFAULT_N_CTX)

    def values(self, *groups: Group) -> dict[str, Any]:
        """The values of these groups by name: keyword arguments of Model (MODEL) and Context (CONTEXT, THREADS)."""
        return {s.name: getattr(self, s.name) for s in ENGINE_SETTINGS.values() if s.group in groups}


ENGINE_SETTINGS: Mapping[str, EngineSetting] = settings_of(EngineConfig, EngineSetting)
"""Every setting of the engine by name."""
