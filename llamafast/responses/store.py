"""The store of responses behind an event loop: one thread owns the database, and nothing waits on the loop."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from llamafast.errors import ConfigError, InvalidRequestError, QueueFullError
from llamafast.responses.database import ACTIVE, ResponseDatabase, StoreCounts, StoredResponse

_log = logging.getLogger(__name__)

T = TypeVar("T")

DEFAULT_MAX_BYTES = 64 * 2**20
DEFAULT_TTL_S = 24 * 3600.0  # seconds
MAX_ROW_BYTES = 64 * 2**20

# A conversation that is read back: so many responses, so many bytes of JSON.
_MAX_CHAIN_ROWS = 10_000
_MAX_CHAIN_BYTES = 64 * 2**20

_MAX_QUEUED = 4096


class ResponseStore:
    """Responses that outlive their requests.

    path: a file, which one process uses at a time; None: in memory. max_bytes: the limit of all rows. ttl_s: seconds
    until a response is forgotten. Responses that ran when the last process ended become failed at the start.
    Raises ConfigError if the file cannot be used.
    """

    def __init__(
        self, path: Path | None = None, *, max_bytes: int = DEFAULT_MAX_BYTES, ttl_s: float = DEFAULT_TTL_S
    ) -> None:
        self._lock_fd = -1 if path is None else _locked(path)
        try:
            self._database = ResponseDatabase(path, max_bytes=max_bytes, max_row_bytes=MAX_ROW_BYTES, ttl_s=ttl_s)
        except sqlite3.Error as exc:
            if self._lock_fd >= 0:
                os.close(self._lock_fd)
            raise ConfigError(f"responses_store.path: {path} cannot be used: {exc}") from exc
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._is_closed = False
        self.num_failures = 0  # of the database
        self._thread = threading.Thread(target=self._work, name="llamafast-responses", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> StoreCounts:
        """What the store holds and did. Any thread."""
        return self._database.counts

    def fail_active(self, fail: Callable[[StoredResponse], bytes]) -> int:
        """Before the first request: end what ran when the last process ended. fail: a row's new body.

        Returns the number of rows.
        """
        rows = self._wait(self._database.active)
        for row in rows:
            self._wait(partial(self._database.finish, replace(row, status="failed", body=fail(row)), time.time()))
        return len(rows)

    async def put(self, row: StoredResponse) -> bool:
        """Store a response; it is committed when this returns. False: it is too large, or the disk is full."""
        return await self._run(lambda: self._database.put(row, time.time()), False)

    async def finish(self, row: StoredResponse) -> bool:
        """Store the end of a response that is queued or in progress; False: it has ended already, or is gone."""
        return await self._run(lambda: self._database.finish(row, time.time()), False, is_end=True)

    async def get(self, response_id: str, owner: str) -> StoredResponse | None:
        """A response of this owner, or None."""
        return await self._run(lambda: self._database.get(response_id, owner, time.time()), None)

    async def chain(self, response_id: str, owner: str) -> list[StoredResponse]:
        """A response with all that it continues, the first one first.

        Raises InvalidRequestError `previous_response_not_found` if one of them is gone, and for a response that still
        runs, or a conversation that is too long.
        """
        missing: list[StoredResponse] | str = response_id
        try:
            found = await self._run(lambda: self._chain(response_id, owner), missing)
        except OverflowError:
            raise InvalidRequestError(
                f"the conversation before '{response_id[:100]}' is too long", param="previous_response_id"
            ) from None
        if isinstance(found, str):
            raise InvalidRequestError(
                f"Previous response with id '{found[:100]}' not found.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        if found[-1].status in ACTIVE:
            raise InvalidRequestError(
                f"the response '{response_id[:100]}' is still in progress", param="previous_response_id"
            )
        return found

    async def delete(self, response_id: str, owner: str) -> bool:
        """Remove a response; False: there is none."""
        return await self._run(lambda: self._database.delete(response_id, owner, time.time()), False)

    async def add_events(self, response_id: str, first_number: int, events: Sequence[bytes]) -> bool:
        """Keep events of a response that runs; False: it is gone, or its events are too large."""
        return await self._run(lambda: self._database.add_events(response_id, first_number, events), False, is_end=True)

    async def events(self, response_id: str, after: int) -> list[tuple[int, bytes]]:
        """The kept events with numbers above `after`."""
        return await self._run(lambda: self._database.events(response_id, after), [])

    def close(self) -> None:
        """Finish what is queued and close the file. Idempotent. Blocks."""
        if self._is_closed:
            return
        self._is_closed = True
        self._jobs.put(None)
        self._thread.join()
        self._database.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)

    def _chain(self, response_id: str, owner: str) -> list[StoredResponse] | str:
        return self._database.chain(
            response_id, owner, time.time(), max_rows=_MAX_CHAIN_ROWS, max_bytes=_MAX_CHAIN_BYTES
        )

    async def _run(self, work: Callable[[], T], otherwise: T, *, is_end: bool = False) -> T:
        """The result of work() in the store's thread; `otherwise` if the database fails.

        is_end: the work belongs to the end of a running response, which must not be lost. Else raises QueueFullError.
        """
        if self._is_closed:
            return otherwise
        if self._jobs.qsize() >= _MAX_QUEUED and not is_end:
            raise QueueFullError("the store of responses has too much to do; try again later", retry_after=1.0)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def job() -> None:
            result: T = otherwise
            error: Exception | None = None
            try:
                result = work()
            except (sqlite3.Error, zlib.error) as exc:  # the disk is full, or the file is damaged: requests continue
                self.num_failures += 1
                _log.error("the store of responses failed: %s", exc)
            except Exception as exc:  # it is raised where the result is awaited
                error = exc
            _settle(loop, future, result, error)

        self._jobs.put(job)
        return await asyncio.shield(future)

    def _wait(self, work: Callable[[], T]) -> T:
        done: SimpleQueue[Any] = SimpleQueue()
        self._jobs.put(lambda: done.put(work()))
        result: T = done.get()
        return result

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _locked(path: Path) -> int:
    """The open lock file beside a database, which is made readable by its owner alone. Raises ConfigError."""
    descriptor = -1
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(f"responses_store.path: {path} is in use by another process") from None
    except OSError as exc:
        if descriptor >= 0:
            os.close(descriptor)
        raise ConfigError(f"responses_store.path: {path} cannot be written: {exc.strerror}") from exc
    return descriptor


def _settle(loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], result: T, error: Exception | None) -> None:
    def settle() -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    with suppress(RuntimeError):  # the loop is closed: nobody waits
        loop.call_soon_threadsafe(settle)
