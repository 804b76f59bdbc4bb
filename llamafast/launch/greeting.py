"""The lines for the operator at the start: the loaded model, and an example request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from llamafast.engine.engine import Engine
from llamafast.launch.chat_setup import UNKNOWN_CALLS, hides_calls
from llamafast.server.served_model import Capability, ServedModel

_QUESTION = "What is the capital of France?"


def describe(path: Path, engine: Engine, served: ServedModel, *, thread_source: str, has_mtmd: bool) -> str:
    """A description of the loaded model, in lines.

    thread_source: the reason for the number of threads.
    has_mtmd: the configuration has an image encoder, which is not used.
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
    if has_mtmd:
        lines.append("images   not supported yet: model.mtmd is not used, and requests with images get a 400")
    return "\n".join(lines)


def greeting(url: str, models: Sequence[ServedModel]) -> str:
    """The address of the server, and an example request to its first model."""
    first = models[0]
    body: dict[str, object] = {"model": first.alias}
    if Capability.CHAT in first.capabilities:
        route = "chat/completions"
        body |= {"messages": [{"role": "user", "content": _QUESTION}]}
    else:
        route = "completions"
        body |= {"prompt": _QUESTION, "max_tokens": 32}
    data = json.dumps(body).replace("'", "'\\''")
    return (
        f"serving  {', '.join(model.alias for model in models)} on {url}; try:\n"
        f"curl {url}/v1/{route} -H 'Content-Type: application/json' -d '{data}'"
    )
