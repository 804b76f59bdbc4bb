"""GrammarCompiler: from a StructuredOutput to a Grammar. It tries it out in a process, compiles it and caches it."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256

from llamafast.errors import CompilerBusyError, GrammarError, ShuttingDownError
from llamafast.grammars.compile_queue import LARGE_COST, CompileQueue
from llamafast.grammars.constraint import Grammar, Program
from llamafast.grammars.guidance import GuidanceProgram
from llamafast.grammars.lark import compile_lark
from llamafast.grammars.pushdown import compile_gbnf
from llamafast.grammars.structured import StructuredKind, StructuredOutput
from llamafast.grammars.vocabulary import Vocabulary
from llamafast.grammars.worker import Job
from llamafast.grammars.worker_pool import WORKERS

MAX_WAIT_S = 10.0

_MAX_TEXT_BYTES = 256 * 1024  # of a constraint that a client wrote
_MAX_LARK_BYTES = 1024 * 1024  # of one that a chat format wrote: it repeats for each argument which tags end it
_MAX_CPU_S = 1.0  # of the process that tries a grammar out
_MAX_LARGE_CPU_S = 3.0
_MAX_CACHED_BYTES = 256 * 1024 * 1024  # of compiled grammars
_MAX_REFUSED = 1024
_ANY_OBJECT = '{"type": "object"}'


@dataclass(slots=True)
class _Ticket:
    """A program that is to be compiled, and the number of callers that wait for it."""

    key: bytes
    future: Future[Program]
    num_waiting: int = 0


class GrammarCompiler:
    """Compiles grammars for one vocabulary. Thread-safe. Equal texts are compiled once while they are cached.

    make_vocabulary: called with the first grammar.
    A refused grammar stays refused.
    """

    def __init__(self, make_vocabulary: Callable[[], Vocabulary]) -> None:
        self._make_vocabulary = make_vocabulary
        self._lock = threading.Lock()
        self._vocabulary_lock = threading.Lock()
        self._queue = CompileQueue[Program]()
        self._tickets: dict[bytes, _Ticket] = {}
        self._programs: OrderedDict[bytes, Program] = OrderedDict()
        self._refused: OrderedDict[bytes, tuple[str, str | None]] = OrderedDict()  # message and param

    def compile(self, structured: StructuredOutput) -> Grammar:
        """Wait for the grammar and return it. Raises GrammarError, CompilerBusyError and ShuttingDownError."""
        ticket = self._enter(structured)
        try:
            wait([ticket.future], MAX_WAIT_S)
        finally:
            is_late = self._leave(ticket)
        return self._grammar(structured, ticket.future, is_late)

    async def compile_async(self, structured: StructuredOutput) -> Grammar:
        """The grammar, at once if it is cached. If all callers are cancelled, it is not compiled.

        Raises the same errors as compile().
        """
        ticket = self._enter(structured)
        try:
            if not ticket.future.done():
                waiting = asyncio.wrap_future(ticket.future)
                waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
                await asyncio.wait([waiting], timeout=MAX_WAIT_S)
        finally:
            is_late = self._leave(ticket)
        return self._grammar(structured, ticket.future, is_late)

    def close(self) -> None:
        """Compile no more."""
        self._queue.close()

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return self._make_vocabulary()

    def _enter(self, structured: StructuredOutput) -> _Ticket:
        """Request a program, or wait for one that was requested. Raises the error with which it was refused."""
        try:
            num_bytes = len(structured.text.encode())
        except UnicodeEncodeError:
            raise GrammarError("the text is not valid Unicode: lone surrogate") from None
        most = _MAX_LARK_BYTES if structured.kind is StructuredKind.LARK else _MAX_TEXT_BYTES
        if num_bytes > most:
            raise GrammarError(f"{num_bytes} bytes of {structured.kind.value}; the limit is {most}")
        key = sha256(repr((structured.kind, structured.text, structured.strict)).encode()).digest()
        with self._lock:
            if (program := self._programs.get(key)) is not None:
                self._programs.move_to_end(key)
                future: Future[Program] = Future()
                future.set_result(program)
                return _Ticket(key, future, 1)
            if (refusal := self._refused.get(key)) is not None:
                raise GrammarError(refusal[0], param=refusal[1])
            ticket = self._tickets.get(key)
            if ticket is None:
                future = self._queue.submit(num_bytes, partial(self._work, key, structured, num_bytes))
                ticket = self._tickets[key] = _Ticket(key, future)
            ticket.num_waiting += 1
            return ticket

    def _leave(self, ticket: _Ticket) -> bool:
        """Stop waiting. Returns whether the program is still missing. Work that nobody waits for is not begun."""
        with self._lock:
            is_late = not ticket.future.done()
            ticket.num_waiting -= 1
            if ticket.num_waiting == 0 and ticket.future.cancel() and self._tickets.get(ticket.key) is ticket:
                del self._tickets[ticket.key]
            return is_late

    @staticmethod
    def _grammar(structured: StructuredOutput, future: Future[Program], is_late: bool) -> Grammar:
        if is_late:
            raise CompilerBusyError(f"the grammar was not compiled within {MAX_WAIT_S:g} s", retry_after=MAX_WAIT_S)
        if future.cancelled():
            raise ShuttingDownError("the server is shutting down and compiles no more grammars")
        program = future.result()
        return Grammar(program, program.warnings, structured.start_after)

    def _work(self, key: bytes, structured: StructuredOutput, num_bytes: int) -> Program:
        try:
            program = self._compile(structured, num_bytes)
        except GrammarError as error:
            if (
                self._queue.is_closed
            ):  # the vocabulary is closed too, which llguidance reports as a fault of the grammar
                raise ShuttingDownError("the server is shutting down and compiles no more grammars") from None
            with self._lock:
                self._refused[key] = (error.message, error.param)
                if len(self._refused) > _MAX_REFUSED:
                    self._refused.popitem(last=False)
            raise
        else:
            self._keep(key, program)
            return program
        finally:
            with self._lock:
                self._tickets.pop(key, None)

    def _keep(self, key: bytes, program: Program) -> None:
        with self._lock:
            self._programs[key] = program
            num_bytes = sum(
                kept.num_bytes for kept in self._programs.values()
            )  # the state machines grow while they run
            while num_bytes > _MAX_CACHED_BYTES and len(self._programs) > 1:
                num_bytes -= self._programs.popitem(last=False)[1].num_bytes

    def _compile(self, structured: StructuredOutput, num_bytes: int) -> Program:
        kind, text = structured.kind, structured.text
        with self._vocabulary_lock:
            vocabulary = self._vocabulary
            vocabulary.order if kind is StructuredKind.GBNF else vocabulary.guidance  # noqa: B018 (made once)
        if kind is StructuredKind.GBNF:
            return compile_gbnf(vocabulary, text)
        if kind is StructuredKind.JSON_OBJECT:
            kind, text = StructuredKind.JSON_SCHEMA, _ANY_OBJECT
        controls = vocabulary.control_ids if kind is StructuredKind.LARK else {}
        max_cpu_s = _MAX_LARGE_CPU_S if num_bytes > LARGE_COST else _MAX_CPU_S
        tried = WORKERS.run(Job(kind.value, text, not structured.strict, controls, max_cpu_s))
        try:
            program = GuidanceProgram(vocabulary, tried.grammar)
        except GrammarError:
            if kind is not StructuredKind.LARK:
                raise
            return compile_lark(vocabulary, text)  # names the client's part at fault
        program.warnings = tried.warnings
        program.num_bytes = tried.num_bytes
        return program
