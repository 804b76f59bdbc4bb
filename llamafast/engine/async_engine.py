"""AsyncEngine: the engine that generates text, as an event loop uses it."""

from __future__ import annotations

from llamafast.engine.engine import Engine
from llamafast.engine.engine_thread import EngineThread
from llamafast.engine.output_stream import OutputStream
from llamafast.engine.sequence import RequestState
from llamafast.grammars.constraint import Grammar
from llamafast.grammars.structured import StructuredOutput
from llamafast.request import Request, RequestOutput


class AsyncEngine(EngineThread[Request, RequestState, RequestOutput]):
    """Runs an Engine on its own thread, delivers its outputs to one event loop, and closes it when the thread stops.

    max_queued_requests: number of requests that may wait, in addition to the running ones; None: EngineConfig's value.
    tokenizer: the engine's tokenizer. It stops working when the engine is closed.
    max_seq_len: tokens of prompt and output of one sequence.
    model_info, context_info: facts about the model and its memory.
    media: turns images and sounds into parts of prompts; None: the model has no projector.
    """

    def __init__(self, engine: Engine, *, max_queued_requests: int | None = None) -> None:
        limit = engine.config.max_queued_requests if max_queued_requests is None else max_queued_requests
        super().__init__(engine, max_queued_requests=limit)
        self.tokenizer = engine.tokenizer
        self.max_seq_len = engine.max_seq_len
        self.model_info = engine.model_info
        self.context_info = engine.context_info
        self.media = engine.media
        self._compile = engine.compile_grammar_async

    async def compile_grammar(self, structured: StructuredOutput) -> Grammar:
        """Compile a constraint for Request.grammar: a child process tries it first, then a thread compiles it.

        Raises GrammarError, CompilerBusyError, EngineDeadError, ShuttingDownError.
        """
        self.check_ready()
        return await self._compile(structured)

    def submit(self, request: Request | RequestState) -> OutputStream[RequestOutput]:
        """Queue a request. Raises what prepare() does, and QueueFullError."""
        if isinstance(request, Request):
            self.check_ready()
            request = self._prepare(request)
        return super().submit(request)
