"""A process that tries grammars out before the server compiles them. It can be killed, and its memory is limited.

Its vocabulary contains only bytes, because the compile time of a grammar does not depend on the tokens.
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

MAX_PROGRAM_BYTES = 96 * 1024 * 1024  # memory that remains
_MAX_WORK_BYTES = 768 * 1024 * 1024  # address space during a job
_MAX_LEFT_BYTES = 256 * 1024 * 1024  # address space after a job
_NICENESS = 5  # generating tokens has priority


@dataclass(frozen=True, slots=True)
class Job:
    """A grammar to try out.

    kind: json_schema, regex, choice or lark.
    text: the grammar.
    lenient: what cannot be enforced is dropped.
    controls: the control tokens by name, for kind lark only.
    max_cpu_s: CPU time limit in seconds.
    """

    kind: str
    text: str
    lenient: bool
    controls: dict[str, int]
    max_cpu_s: float


@dataclass(frozen=True, slots=True)
class TrialResult:
    """The result of a job.

    grammar: the grammar in one of llguidance's formats.
    warnings: the names of what was dropped.
    num_bytes: the memory of its program.
    """

    grammar: str
    warnings: tuple[str, ...]
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The GrammarError that a job raised.

    message, param: those of the error.
    """

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
    """Answer jobs until the other side has closed the connection. Each answer says whether it is the last one.

    A job that exceeds its CPU time ends the process by SIGPROF.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_NICENESS)
    threading.stack_size(STACK_BYTES)
    num_bytes = _address_space()
    limit = num_bytes + _MAX_WORK_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    byte_tokenizer()  # made before the time of the first job counts
    connection.send((None, False))
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, job.max_cpu_s)
        answer = _on_large_stack(job)
        signal.setitimer(signal.ITIMER_PROF, 0)
        # The memory that jobs leave must not count against later jobs.
        is_spent = _address_space() > num_bytes + _MAX_LEFT_BYTES
        connection.send((answer, is_spent))


def main() -> None:
    """Run serve() on the file descriptor that is the last argument."""
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
        except Exception as error:  # our own fault; the next job needs this process
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
    """The bytes that the process has mapped. 1 GiB if the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 1 << 30


class _MallocInfo(ctypes.Structure):
    """struct mallinfo2 of glibc. The used bytes are uordblks and hblkhd."""

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
    """The used bytes of the heap. If the C library does not tell, the maximum that the process ever used."""
    if _MALLINFO is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    info = _MALLINFO()
    return int(info.uordblks + info.hblkhd)
