"""Lines for stdout and stderr from a thread of their own: whoever writes never waits for whoever should read."""

from __future__ import annotations

import logging
import os
import queue
import threading

_MAX_LINES = 1000


class Output:
    """A file descriptor for lines. What finds no room, for nobody reads or the disk is full, is dropped and counted."""

    def __init__(self, fd: int, max_lines: int = _MAX_LINES) -> None:
        self._fd = fd
        self._lines: queue.Queue[str] = queue.Queue(max_lines)
        self.num_dropped = 0
        threading.Thread(target=self._run, name=f"llamafast-output-{fd}", daemon=True).start()

    def write(self, text: str) -> None:
        """Text of one line or several, without the last line's end. Thread-safe, never blocks, never fails."""
        try:
            self._lines.put_nowait(text)
        except queue.Full:
            self.num_dropped += 1

    def flush(self, timeout_s: float) -> None:
        """Wait until all is written, but no longer than that."""
        with self._lines.all_tasks_done:
            self._lines.all_tasks_done.wait_for(lambda: not self._lines.unfinished_tasks, timeout_s)

    def _run(self) -> None:
        while True:
            text = self._lines.get()
            num_dropped, self.num_dropped = self.num_dropped, 0
            if num_dropped:
                text = f"({num_dropped} lines could not be written)\n{text}"
            try:
                _write_all(self._fd, f"{text}\n".encode("utf-8", "backslashreplace"))
            except OSError:  # closed, or full
                self.num_dropped += num_dropped + 1
            self._lines.task_done()


class OutputHandler(logging.Handler):
    """Log records as lines of an Output."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        """Format in the caller's thread, write in the output's."""
        try:
            self._output.write(self.format(record))
        except (TypeError, ValueError):  # arguments that do not fit the message
            self._output.write(f"{record.levelname}: {record.msg!r} {record.args!r}")


def log_to(stdout: Output, stderr: Output, *, access_log: bool) -> None:
    """Send all log records to stderr, those of the access log to stdout; both without waiting."""
    formatter = logging.Formatter("%(levelname)s: %(message)s")
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    for name, output in (("", stderr), ("uvicorn.access", stdout)):
        handler = OutputHandler(output)
        handler.setFormatter(formatter)
        logging.getLogger(name).addHandler(handler)
    logging.getLogger("uvicorn.access").propagate = False
    if access_log:
        logging.getLogger("llamafast").setLevel(logging.INFO)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
