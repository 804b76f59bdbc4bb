"""A process that tries grammars out before the server compiles them: it can be given up, and its memory is capped.

It knows no vocabulary but bytes: how long a grammar compiles does not depend on the tokens.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

from llamafast.errors import GrammarError
from llamafast.grammars.byte_vocabulary import ByteVocabulary, byte_tokenizer
from llamafast.grammars.guidance import STACK_BYTES, compile_choice, compile_json_schema, compile_regex
from llamafast.grammars.lark import compile_lark

MAX_PROGRAM_BYTES = 96 * 1024 * 1024  # of what stays
_MAX_WORK_BYTES = 768 * 1024 * 1024  # of address space, while it compiles
_MAX_LEFT_BYTES = 256 * 1024 * 1024  # of address space, after a job
_NICENESS = 5  # tokens come first


@dataclass(frozen=True, slots=True)
class Job:
    """kind: json_schema, regex, choice or lark. controls: the control tokens by name, for Lark alone."""

    kind: str
    text: str
    lenient: bool
    controls: dict[str, int]
    max_cpu_s: float


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What llguidance takes, and what was dropped on the way. num_bytes: that its program holds."""

    grammar: str
    warnings: tuple[str, ...]
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The GrammarError that a job raised."""

    message: str
    param: str | None


def try_out(job: Job) -> TrialResult:
    """Read a client's text, compile it and take a few steps. Raises GrammarError."""
    num_before = _num_bytes_used()
    vocabulary = ByteVocabulary(job.controls)
    if job.kind == "lark":
        program = compile_lark(vocabulary, job.text)
    elif job.kind == "json_schema":
        program = compile_json_schema(vocabulary, job.text, lenient=job.lenient)
    elif job.kind == "regex":
        program = compile_regex(vocabulary, job.text)
    else:
        program = compile_choice(vocabulary, _choices(job.text))
    num_bytes = max(0, _num_bytes_used() - num_before) + len(program.grammar)
    if num_bytes > MAX_PROGRAM_BYTES:
        raise GrammarError(f"the compiled grammar takes {num_bytes >> 20} MiB; the limit is {MAX_PROGRAM_BYTES >> 20}")
    return TrialResult(program.grammar, program.warnings, num_bytes)


def serve(connection: Connection) -> None:
    """Answer jobs until the other side is gone, each time with whether this was the last one.

    A job beyond its time ends the process by SIGPROF.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_NICENESS)
    threading.stack_size(STACK_BYTES)
    num_bytes = _address_space()
    limit = num_bytes + _MAX_WORK_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    byte_tokenizer()  # made before the first job's time counts
    connection.send((None, False))
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, job.max_cpu_s)
        answer = _on_large_stack(job)
        signal.setitimer(signal.ITIMER_PROF, 0)
        # What jobs leave behind must not be counted against the next ones.
        is_spent = _address_space() > num_bytes + _MAX_LEFT_BYTES
        connection.send((answer, is_spent))


def main() -> None:
    """serve() at the descriptor that the last argument names."""
    serve(Connection(int(sys.argv[-1])))


def _on_large_stack(job: Job) -> TrialResult | Refused:
    answers: list[TrialResult | Refused] = []

    def work() -> None:
        try:
            answers.append(try_out(job))
        except GrammarError as error:
            answers.append(Refused(error.message, error.param))
        except MemoryError:
            answers.append(Refused("it takes too much memory to compile", None))
        except RecursionError:
            answers.append(Refused("it is nested too deeply", None))
        except Exception as error:  # a fault of ours: the next job needs this process
            answers.append(Refused(f"it cannot be compiled: {type(error).__name__}: {error}", None))

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


def _address_space() -> int:
    """Bytes that the process has mapped; 1 GiB where nothing tells."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 1 << 30


class _MallocInfo(ctypes.Structure):
    """struct mallinfo2 of glibc; in use are uordblks and hblkhd."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks")),
        *((name, ctypes.c_size_t) for name in ("fsmblks", "uordblks", "fordblks", "keepcost")),
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
