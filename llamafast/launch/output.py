"""Lines for stdout and stderr, written by a thread, so that a full pipe does not block the server."""

from __future__ import annotations

import logging
import os
import queue
import threading

_MAX_LINES = 1000


class Output:
    """Writes lines to a file descriptor. Lines that it does not accept (full pipe, full disk) are dropped and counted.

    num_dropped: the number of lines dropped since the last written line.
    """

    def __init__(self, fd: int, max_lines: int = _MAX_LINES) -> None:
        self._fd = fd
        self._lines: queue.Queue[str] = queue.Queue(max_lines)
        self.num_dropped = 0
        threading.Thread(target=self._run, name=f"llamafast-output-{fd}", daemon=True).start()

    def write(self, text: str) -> None:
        """Queue one or several lines. text: without a line end at its end. Thread-safe. Never blocks, never fails."""
        try:
            self._lines.put_nowait(text)
        except queue.Full:
            self.num_dropped += 1

    def flush(self, timeout_s: float) -> None:
        """Wait until everything is written, at most timeout_s seconds."""
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
    """Writes log records to an Output."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        """Format the record in the caller's thread. The output's thread writes it."""
        try:
            self._output.write(self.format(record))
        except (TypeError, ValueError):  # arguments that do not fit the message
            self._output.write(f"{record.levelname}: {record.msg!r} {record.args!r}")


def log_to(stdout: Output, stderr: Output, *, access_log: bool) -> None:
    """Send the records of the access log to stdout and all others to stderr, without waiting."""
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
