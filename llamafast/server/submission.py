"""Submits the prompts of one HTTP request to an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from llamafast.engine.async_engine import AsyncEngine
from llamafast.engine.sequence import RequestState
from llamafast.errors import LlamaFastError
from llamafast.request import Request
from llamafast.server.delivery import MergedOutputs, Outputs

# The number of requests that are prepared before the event loop serves other connections.
_NUM_PREPARED = 16


async def submit(
    engine: AsyncEngine, requests: Sequence[Request], num_choices: int, param_names: Mapping[str, str] | None = None
) -> Outputs:
    """Queue all requests, or none of them. Returns their outputs, merged.

    num_choices: the number of choices of each request.
    param_names: the client's names of fields, by the engine's names, for errors.
    Raises the errors of AsyncEngine.prepare and AsyncEngine.submit.
    """
    streams: list[Outputs] = []
    try:
        prepared: list[RequestState] = []
        for i, request in enumerate(requests, 1):
            prepared.append(await engine.prepare(request))
            if i % _NUM_PREPARED == 0:
                await asyncio.sleep(0)
        streams += (engine.submit(state) for state in prepared)
    except LlamaFastError as exc:
        if exc.param is not None and param_names is not None:
            exc.param = param_names.get(exc.param, exc.param)
        for stream in streams:
            await stream.aclose()
        raise
    return streams[0] if len(streams) == 1 else MergedOutputs(streams, num_choices)
