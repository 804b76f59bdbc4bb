"""From a StructuredOutput to a Grammar that sequences start from: compiled in a thread, within caps, and cached."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cached_property, partial
from hashlib import sha256

from llamafast.errors import GrammarError, ShuttingDownError
from llamafast.grammars.constraint import Grammar, Program
from llamafast.grammars.guidance import compile_choice, compile_json_schema, compile_regex
from llamafast.grammars.lark import compile_lark
from llamafast.grammars.pushdown import compile_gbnf
from llamafast.grammars.vocabulary import Vocabulary
from llamafast.request import StructuredKind, StructuredOutput
from llamafast.tokenizer import Tokenizer

MAX_COMPILE_S = 10.0

_MAX_TEXT_BYTES = 256 * 1024
_MAX_CACHED = 32
_MAX_CACHED_BYTES = 8 * 1024 * 1024  # of their texts
_STACK_BYTES = 64 * 1024 * 1024  # of address space
_ANCHOR = "\n"
_ANY_OBJECT = '{"type": "object"}'


class GrammarCompiler:
    """Compiles over one vocabulary. Thread-safe; equal texts are compiled once, whoever asks, while they are cached.

    The vocabulary is prepared with the first grammar.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._programs: OrderedDict[bytes, tuple[int, Future[Program]]] = OrderedDict()
        self._num_bytes = 0

    def compile(self, structured: StructuredOutput) -> Grammar:
        """The grammar, waiting for it. Raises GrammarError."""
        future = self._program(structured)
        wait([future], MAX_COMPILE_S)
        return self._grammar(structured, future)

    async def compile_async(self, structured: StructuredOutput) -> Grammar:
        """The grammar, without a pause where it is cached. Raises GrammarError."""
        future = self._program(structured)
        if not future.done():
            waiting = asyncio.wrap_future(future)
            waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.wait([waiting], timeout=MAX_COMPILE_S)
        return self._grammar(structured, future)

    def close(self) -> None:
        """Compile no more."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    @cached_property
    def _executor(self) -> ThreadPoolExecutor:
        """One thread, with a large stack: llguidance descends once per level of a schema."""
        executor = ThreadPoolExecutor(1, thread_name_prefix="llamafast-grammar")
        previous = threading.stack_size(_STACK_BYTES)
        try:
            executor.submit(int).result()
        finally:
            threading.stack_size(previous)
        return executor

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        tokenizer = self._tokenizer
        names = tokenizer.table(skip_special=False).token_bytes
        control = {i: names[i] for i, data in enumerate(tokenizer.token_bytes) if not data}
        return Vocabulary(tokenizer.token_bytes, control, sorted(tokenizer.eog_ids), partial(_tokenize, tokenizer))

    def _program(self, structured: StructuredOutput) -> Future[Program]:
        try:
            num_bytes = len(structured.text.encode())
        except UnicodeEncodeError:
            raise GrammarError("the text is not valid Unicode: lone surrogate") from None
        if num_bytes > _MAX_TEXT_BYTES:
            raise GrammarError(f"{num_bytes} bytes of {structured.kind.value}; the limit is {_MAX_TEXT_BYTES}")
        key = sha256(repr((structured.kind, structured.text, structured.strict)).encode()).digest()
        with self._lock:
            entry = self._programs.get(key)
            if entry is not None:
                self._programs.move_to_end(key)
                return entry[1]
            try:
                future = self._executor.submit(self._compile, structured)
            except RuntimeError:
                raise ShuttingDownError("the server is shutting down and compiles no more grammars") from None
            self._programs[key] = (num_bytes, future)
            self._num_bytes += num_bytes
            while len(self._programs) > _MAX_CACHED or self._num_bytes > _MAX_CACHED_BYTES:
                self._num_bytes -= self._programs.popitem(last=False)[1][0]
            return future

    @staticmethod
    def _grammar(structured: StructuredOutput, future: Future[Program]) -> Grammar:
        if not future.done():
            raise GrammarError(f"it does not compile within {MAX_COMPILE_S:g} s")
        if future.cancelled():
            raise ShuttingDownError("the server is shutting down and compiles no more grammars")
        program = future.result()
        return Grammar(program, program.warnings, structured.start_after)

    def _compile(self, structured: StructuredOutput) -> Program:
        kind, text, vocabulary = structured.kind, structured.text, self._vocabulary
        if kind is StructuredKind.JSON_OBJECT:
            return compile_json_schema(vocabulary, _ANY_OBJECT)
        if kind is StructuredKind.JSON_SCHEMA:
            return compile_json_schema(vocabulary, text, lenient=not structured.strict)
        if kind is StructuredKind.REGEX:
            return compile_regex(vocabulary, text)
        if kind is StructuredKind.CHOICE:
            return compile_choice(vocabulary, _choices(text))
        if kind is StructuredKind.LARK:
            return compile_lark(vocabulary, text)
        return compile_gbnf(vocabulary, text)


def _tokenize(tokenizer: Tokenizer, text: str) -> list[int]:
    """As it stands behind other text: a vocabulary that puts a space before a text puts none here."""
    before = tokenizer.encode(_ANCHOR, add_special=False, parse_special=False)
    return tokenizer.encode_segments([(_ANCHOR, False), (text, False)])[len(before) :]


def _choices(text: str) -> list[str]:
    try:
        choices = json.loads(text)
    except ValueError as error:
        raise GrammarError(f"the choices are not JSON: {error}") from None
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise GrammarError("the choices must be a list of strings")
    return choices
