"""uvicorn's server, with a shutdown in which running requests finish before the listener closes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence

import uvicorn

from llamafast.launch.output import Output
from llamafast.server.receiving.preparation import Preparation
from llamafast.server.served_model import ServedModel

# Seconds that the end of the process waits for lines that are not written yet.
LAST_LINES_S = 2.0

# Their default action ends the process; SIGHUP comes when the terminal of the process is closed.
_IGNORED_SIGNALS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class DrainingServer(uvicorn.Server):
    """A uvicorn server that drains at the first SIGTERM or SIGINT and ends the process at the second.

    While it drains, new requests get 503 and running ones finish; the listener closes after that.

    models: the models whose engines are stopped.
    preparation: the threads for large bodies, which are stopped too.
    deadline_s: seconds that running requests get to finish.
    greeting: the lines that are written when the server listens.
    output: takes lines for the operator.
    on_drain: called when the draining begins.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        models: Sequence[ServedModel],
        preparation: Preparation,
        *,
        deadline_s: float,
        greeting: str,
        output: Output,
        on_drain: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._models = models
        self._preparation = preparation
        self._deadline_s = deadline_s
        self._greeting = greeting
        self._output = output
        self._on_drain = on_drain
        self._drain_task: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then write the greeting."""
        await super().startup(sockets=sockets)
        # A full collection stops all threads while it visits all objects. Exclude those of the start, which stay.
        gc.collect()
        gc.freeze()
        gc.collect()  # resets the collector's counts
        if self.started:
            self._output.write(self._greeting)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install signal handlers. uvicorn's own close the listener first and end the process by the signal."""
        loop = asyncio.get_running_loop()
        handled = (signal.SIGINT, signal.SIGTERM)
        for number in handled:
            loop.add_signal_handler(number, self._on_signal)
        for number in _IGNORED_SIGNALS:
            loop.add_signal_handler(number, self._output.write, f"{number.name} is ignored")
        try:
            yield
        finally:
            for number in (*handled, *_IGNORED_SIGNALS):
                loop.remove_signal_handler(number)

    def on_death(self, reason: str) -> None:
        """Called when an engine has died. End the process if no engine is alive: only a restart can help."""
        if all(model.death is not None for model in self._models):
            self.should_exit = True

    def _on_signal(self) -> None:
        if self._drain_task is not None:
            self._output.write("stopped at once")
            self._output.flush(LAST_LINES_S)
            # Threads inside llama.cpp cannot be interrupted: do not wait for them.
            os._exit(1)
        self._drain_task = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        self._preparation.stop()
        self._on_drain()
        num_requests = sum(model.engine_thread.num_running + model.engine_thread.num_waiting for model in self._models)
        if num_requests:
            self._output.write(
                f"finishing {num_requests} requests in at most {self._deadline_s:g} s; a second signal stops at once"
            )
        try:
            await asyncio.gather(*(model.engine_thread.stop(self._deadline_s) for model in self._models))
        finally:
            self.should_exit = True
