"""The lines for the operator at the start: the loaded model, and an example request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from llamafast.engine.encoder import Encoder
from llamafast.engine.engine import Engine
from llamafast.launch.chat_setup import UNKNOWN_CALLS, hides_calls
from llamafast.server.served_model import Capability, ServedModel

_QUESTION = "What is the capital of France?"


def describe(path: Path, engine: Engine, served: ServedModel, *, thread_source: str) -> str:
    """A description of the loaded model, in lines.

    thread_source: the reason for the number of threads.
    """
    model, context = engine.model_info, engine.context_info
    kind = model.description.replace(" ?B", "")  # llama.cpp writes this for an unknown size
    lines = [
        f"model    {path}",
        f"         {kind}, {model.n_params:,} parameters, {model.size_bytes / 2**20:,.1f} MiB",
        f"context  {context.n_ctx} tokens for {engine.n_seq_max} sequences, {context.memory_kind} memory, "
        f"batches of {context.n_batch}",
        f"threads  {context.threads} ({thread_source})",
        f"format   {served.chat_format.name}",
    ]
    if hides_calls(served.chat_format, served.chat_template):
        lines.append(f"tools    {UNKNOWN_CALLS}")
    if served.media is not None:
        lines.append(f"media    {', '.join(served.media.kinds)}")
    return "\n".join(lines)


def describe_encoder(path: Path, encoder: Encoder, *, thread_source: str) -> str:
    """What was loaded, in lines. thread_source: why there are so many threads."""
    model = encoder.model_info
    return "\n".join(
        (
            f"model    {path}",
            f"         {model.description}, {model.n_params:,} parameters, {model.size_bytes / 2**20:,.1f} MiB",
            f"vectors  {encoder.n_embd} numbers each, of inputs of {encoder.max_seq_len} tokens at most, "
            f"packed to {encoder.pack_tokens} tokens",
            f"threads  {encoder.context_info.threads} ({thread_source})",
        )
    )


def greeting(url: str, models: Sequence[ServedModel]) -> str:
    """The address of the server, and an example request to its first model."""
    first = models[0]
    body: dict[str, object] = {"model": first.alias}
    if Capability.CHAT in first.capabilities:
        route = "chat/completions"
        body |= {"messages": [{"role": "user", "content": _QUESTION}]}
    elif Capability.EMBEDDINGS in first.capabilities:
        route = "embeddings"
        body |= {"input": _QUESTION}
    else:
        route = "completions"
        body |= {"prompt": _QUESTION, "max_tokens": 32}
    data = json.dumps(body).replace("'", "'\\''")
    return (
        f"serving  {', '.join(model.alias for model in models)} on {url}; try:\n"
        f"curl {url}/v1/{route} -H 'Content-Type: application/json' -d '{data}'"
    )
