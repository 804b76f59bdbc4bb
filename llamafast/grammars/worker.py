"""A process that tries grammars out before the server compiles them: it can be given up, and its memory is capped.

It knows no vocabulary but bytes: how long a grammar compiles does not depend on the tokens.
"""

from __future__ import annotations

import ctypes
import json
import re
import resource
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

from llamafast.errors import GrammarError
from llamafast.grammars.guidance import (
    GuidanceProgram,
    choice_grammar,
    json_schema_grammar,
    regex_grammar,
)
from llamafast.grammars.lark import blamed, lark_source
from llamafast.grammars.vocabulary import ControlTokens, Vocabulary

MAX_PROGRAM_BYTES = 96 * 1024 * 1024  # of what stays
_MAX_WORK_BYTES = 768 * 1024 * 1024  # of address space, while it compiles
_STACK_BYTES = 64 * 1024 * 1024  # of address space: llguidance descends once per level of a schema
_END = 256
_NUM_CONTROLS = 256
_CONTROL = re.compile(r"<\[(\d+)\]>")


@dataclass(frozen=True, slots=True)
class Job:
    """kind: json_schema, regex, choice or lark. controls: the control tokens by name, for Lark alone."""

    kind: str
    text: str
    lenient: bool
    controls: dict[str, int]
    max_cpu_s: float


@dataclass(frozen=True, slots=True)
class Prepared:
    """What llguidance takes. num_bytes: that its program holds. dropped, parts: as in LarkSource."""

    grammar: str
    num_bytes: int
    dropped: tuple[str, ...] = ()
    parts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """The GrammarError that a job raised."""

    message: str
    param: str | None


def prepare(job: Job) -> Prepared:
    """Read a client's text, compile it and take a few steps. Raises GrammarError."""
    num_before = _num_bytes_used()
    dropped: tuple[str, ...] = ()
    parts: tuple[tuple[str, str], ...] = ()
    if job.kind == "lark":
        source = lark_source(ControlTokens(job.controls), job.text)
        grammar, dropped, parts = source.grammar, source.dropped, source.parts
    elif job.kind == "json_schema":
        grammar = json_schema_grammar(job.text, lenient=job.lenient)
    elif job.kind == "regex":
        grammar = regex_grammar(job.text)
    else:
        grammar = choice_grammar(_choices(job.text))
    try:
        # Here control tokens have other numbers, which changes nothing that counts.
        program = GuidanceProgram(_VOCABULARY, _CONTROL.sub(_small_control, grammar))
    except GrammarError as error:
        raise blamed(_VOCABULARY, parts, error) from None
    num_bytes = max(0, _num_bytes_used() - num_before) + 2 * len(grammar)
    del program
    if num_bytes > MAX_PROGRAM_BYTES:
        raise GrammarError(f"the compiled grammar takes {num_bytes >> 20} MiB; the limit is {MAX_PROGRAM_BYTES >> 20}")
    return Prepared(grammar, num_bytes, dropped, parts)


def serve(connection: Connection) -> None:
    """Answer jobs until the other side is gone. A job beyond its time ends the process by SIGPROF."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.stack_size(_STACK_BYTES)
    limit = _address_space() + _MAX_WORK_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _VOCABULARY.guidance  # noqa: B018 (made before the first job's time counts)
    connection.send(None)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, job.max_cpu_s)
        answer = _on_large_stack(job)
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send(answer)


def main() -> None:
    """serve() at the descriptor that the last argument names."""
    serve(Connection(int(sys.argv[-1])))


def _on_large_stack(job: Job) -> Prepared | Refused:
    answers: list[Prepared | Refused] = []

    def work() -> None:
        try:
            answers.append(prepare(job))
        except GrammarError as error:
            answers.append(Refused(error.message, error.param))
        except MemoryError:
            answers.append(Refused("it takes too much memory to compile", None))
        except RecursionError:
            answers.append(Refused("it is nested too deeply", None))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return answers[0]


def _choices(text: str) -> list[str]:
    try:
        choices = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"the choices are not JSON: {error}") from None
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise GrammarError("the choices must be a list of strings")
    return choices


def _small_control(match: re.Match[str]) -> str:
    return f"<[{_END + 1 + int(match[1]) % _NUM_CONTROLS}]>"


def _bytes_vocabulary() -> Vocabulary:
    token_bytes = [*(bytes([b]) for b in range(_END)), *(b"" for _ in range(1 + _NUM_CONTROLS))]
    names = {i: b"<%d>" % i for i in range(_END, len(token_bytes))}
    return Vocabulary(token_bytes, names, [_END], lambda text: list(text.encode()))


_VOCABULARY = _bytes_vocabulary()


def _address_space() -> int:
    """Bytes that the process has mapped; 1 GiB where nothing tells."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 1 << 30


class _MallocInfo(ctypes.Structure):
    """struct mallinfo2 of glibc."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def _malloc_info() -> Callable[[], _MallocInfo] | None:
    function = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if function is not None:
        function.restype = _MallocInfo
    return function


_MALLINFO = _malloc_info()


def _num_bytes_used() -> int:
    """Bytes of the heap in use; where the C library does not tell, the most that the process ever had."""
    if _MALLINFO is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    info = _MALLINFO()
    return int(info.uordblks + info.hblkhd)
