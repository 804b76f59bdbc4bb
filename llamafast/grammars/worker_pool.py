"""WorkerPool: processes that try grammars out. They are started when needed, shared in this process, and killed when
late.
"""

from __future__ import annotations

import atexit
import signal
import subprocess
import sys
import threading
from multiprocessing.connection import Connection, Pipe
from time import monotonic

from llamafast.errors import CompilerBusyError, GrammarError
from llamafast.grammars.worker import Job, Refused, TrialResult

_START_S = 30.0
_WALL_PER_CPU = 8.0  # a loaded machine gives a process only a part of a core
_MAX_IDLE = 3
_COMMAND = "import sys; sys.path[:] = sys.argv[1:-1]; from llamafast.grammars.worker import main; main()"


class Worker:
    """One process. is_spent: it accepts no more jobs."""

    is_spent = False

    def __init__(self) -> None:
        ours, theirs = Pipe()
        self._connection: Connection = ours
        command = [sys.executable, "-I", "-c", _COMMAND, *filter(None, sys.path), str(theirs.fileno())]
        try:
            self._process = subprocess.Popen(
                command,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._is_started = False

    @property
    def is_usable(self) -> bool:
        """Whether it accepts another job."""
        return not self.is_spent and self._process.poll() is None

    def run(self, job: Job) -> TrialResult:
        """Try a grammar out. Raises GrammarError if it can never be compiled, CompilerBusyError if it may be later."""
        try:
            if not self._is_started:
                self._receive(monotonic() + _START_S)
                self._is_started = True
            self._connection.send(job)
            answer = self._receive(monotonic() + _WALL_PER_CPU * (1 + job.max_cpu_s))
        except (EOFError, OSError):
            self.kill()
            raise self._error(job) from None
        if isinstance(answer, Refused):
            raise GrammarError(answer.message, param=answer.param)
        assert isinstance(answer, TrialResult)
        return answer

    def kill(self) -> None:
        """End the process and wait for its end."""
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def _receive(self, deadline_s: float) -> TrialResult | Refused | None:
        if not self._connection.poll(max(0.0, deadline_s - monotonic())):
            raise EOFError
        answer: TrialResult | Refused | None
        answer, self.is_spent = self._connection.recv()
        return answer

    def _error(self, job: Job) -> GrammarError | CompilerBusyError:
        code = self._process.returncode
        if code == -signal.SIGPROF:
            return GrammarError(f"the grammar does not compile within {job.max_cpu_s:g} s of CPU time")
        if self._is_started and code in (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL):
            return GrammarError("the grammar takes more memory or stack to compile than allowed")
        return CompilerBusyError("the grammar did not compile in time; try again later", retry_after=1.0)


class WorkerPool:
    """Free processes. Thread-safe. A job takes a free worker or starts one; the callers limit how many run at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Worker] = []

    def run(self, job: Job) -> TrialResult:
        """Try a grammar out, as Worker.run does."""
        worker = self._take()
        try:
            return worker.run(job)
        finally:
            self._give_back(worker)

    def close(self) -> None:
        """End the free processes."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.kill()

    def _take(self) -> Worker:
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.is_usable:
                    return worker
                worker.kill()
        try:
            return Worker()
        except OSError as error:
            raise CompilerBusyError(f"no process can be started to compile in: {error}", retry_after=5.0) from None

    def _give_back(self, worker: Worker) -> None:
        with self._lock:
            if worker.is_usable and len(self._idle) < _MAX_IDLE:
                self._idle.append(worker)
                return
        worker.kill()


WORKERS = WorkerPool()
atexit.register(WORKERS.close)
