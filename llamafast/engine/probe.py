"""Tries a model file in a child process: how much memory it needs, and whether it computes.

llama.cpp aborts the process if a model file has certain wrong values. So a child process loads an unknown file first.
The child writes lines of JSON. If it dies, the parent reports why.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from llamafast._core import Batch, Model
from llamafast._runner import ModelRunner
from llamafast.engine.adapters import Adapter, Adapters
from llamafast.engine.config import EngineConfig
from llamafast.engine.embedding import FLOAT_BYTES, EmbeddingRequest
from llamafast.engine.encoder import Encoder, is_for_embeddings, longest_input, make_encoder_context
from llamafast.engine.loading import choose_attention, load_model, make_context
from llamafast.engine.plan import StepKind, StepPlan
from llamafast.errors import ModelLoadError

_NUM_TOKENS = 8
_N_CTX_MEASURED = 32_768
# llama.cpp's bytes per cell in addition to keys and values: its position and its sequences.
_CELL_BYTES = 64


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes of host memory that a model needs. GPU memory is not counted.

    n_ctx: tokens of the KV memory.
    context_bytes: bytes of the KV memory and of the buffers of a step, for n_ctx tokens.
    bytes_per_token: additional bytes per additional token of n_ctx.
    weights_bytes: bytes of the weights. With use_mmap they are pages of the file.
    """

    n_ctx: int
    context_bytes: int
    bytes_per_token: float
    weights_bytes: int


def memory_need(path: str, config: EngineConfig) -> MemoryNeed:
    """The memory that the model needs with this config. Allocates nothing of it. Raises ModelLoadError."""
    model = load_model(path, config, no_alloc=True)
    if is_for_embeddings(model, config):
        return _encoder_need(model, config)
    config = choose_attention(model, config)
    n_ctx = config.context_size(model.n_ctx_train)
    # Both grow linearly. Measured with few tokens, because llama.cpp allocates its list of cells in any case.
    sizes = (min(n_ctx, _N_CTX_MEASURED), min(n_ctx, _N_CTX_MEASURED) // 2)
    (weights, large), (_, small) = (_host_bytes(model, replace(config, n_ctx=max(size, 256))) for size in sizes)
    per_token = max(large - small, 0) / max(sizes[0] - sizes[1], 1)
    rest = (n_ctx - sizes[0]) * per_token + n_ctx * _CELL_BYTES
    return MemoryNeed(n_ctx, large + round(rest), per_token + _CELL_BYTES, weights)


def try_out(path: str, config: EngineConfig, loras: Sequence[tuple[str, float]] = ()) -> None:
    """Load the model with a small context and compute. Raises ModelLoadError; a bad file can abort the process."""
    model = load_model(path, config, progress=_report_progress)
    small = replace(
        config, n_ctx=256, n_batch=_NUM_TOKENS, n_ubatch=_NUM_TOKENS, n_seq_max=1, enable_prefix_cache=False
    )
    if is_for_embeddings(model, config):
        _try_encoder(path, model, small)
        return
    context = make_context(model, choose_attention(model, small))
    adapters = Adapters(context)
    for path_of_adapter, scale in loras:
        adapters.add(Adapter(path_of_adapter, scale))
    runner, batch = ModelRunner(context), Batch(_NUM_TOKENS)
    token_ids = array("i", [max(model.bos_id, 0), *(i % model.n_vocab for i in range(1, _NUM_TOKENS))])
    for start, stop in ((0, _NUM_TOKENS - 1), (_NUM_TOKENS - 1, _NUM_TOKENS)):  # a prompt, then one token
        batch.clear()
        plan = StepPlan(StepKind.DECODE, batch)
        last_row = batch.extend(token_ids, start, stop, start, 0)
        plan.scored = [(last_row, 0, 1)]
        runner.step(plan)
        logprob, _, best = runner.scores()[last_row]
        if math.isnan(logprob) or math.isnan(best[0][1]):
            raise ModelLoadError(f"{path}: the model computes NaN: a weight or a setting in the file is wrong")


def main(job: dict[str, Any]) -> None:
    """Run the child process. job: path, config and loras. It loads the weights after a line on stdin."""
    config = EngineConfig(**job["config"])
    try:
        _say(need=asdict(memory_need(job["path"], config)))
        if sys.stdin.readline():
            threading.Thread(target=_end_with_parent, daemon=True).start()
            try_out(job["path"], config, job["loras"])
            _say(done=True)
    except ModelLoadError as error:
        _say(error=str(error))
    except MemoryError:
        _say(error=f"{job['path']}: there is not enough memory to load it")
    sys.stdout.flush()
    # A normal exit would free the model, which can crash after a broken file.
    os._exit(0)


def _try_encoder(path: str, model: Model, config: EngineConfig) -> None:
    """Encode one input. Raises ModelLoadError."""
    token_ids = array("i", [i % model.n_vocab for i in range(_NUM_TOKENS)])
    with Encoder(model, config) as encoder:
        encoder.add(encoder.prepare(EmbeddingRequest("probe", (token_ids,))))
        for output in encoder.step():
            if output.error is not None:
                raise ModelLoadError(f"{path}: {output.error}: a weight or a setting in the file is wrong")


def _encoder_need(model: Model, config: EngineConfig) -> MemoryNeed:
    """The memory of a model of embeddings; n_ctx is the length of its longest input."""
    n_ctx = longest_input(model, config)
    weights, cells, work = make_encoder_context(model, config).host_bytes()
    context_bytes = cells + work + FLOAT_BYTES * model.n_vocab * n_ctx
    return MemoryNeed(n_ctx, context_bytes, context_bytes / n_ctx, weights)


def _host_bytes(model: Model, config: EngineConfig) -> tuple[int, int]:
    """Bytes of (the weights, a context)."""
    weights, cells, work = make_context(model, config).host_bytes()
    return weights, cells + work


def _report_progress(fraction: float) -> bool:
    _say(progress=round(fraction, 3))
    return True


def _say(**values: object) -> None:
    print(json.dumps(values), flush=True)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)
