"""Computed prefixes in a folder: they outlive the process, and servers may share them."""

from __future__ import annotations

import itertools
import logging
import time
from array import array
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Lock, Thread

from llamafast.cache.disk.state_file import DamagedFileError, StateHeader, digest, file_bytes, read_header, read_state
from llamafast.cache.disk.state_folder import StateFolder
from llamafast.cache.radix import SaltedTree
from llamafast.errors import ConfigError

logger = logging.getLogger(__name__)

# States that wait for the disk stand in the host's memory.
_MAX_QUEUED_BYTES = 512 * 2**20
# What other servers wrote is seen this much later at most.
_REFRESH_S = 1.0


@dataclass(slots=True)
class DiskCacheStats:
    """hits and misses in requests; written_bytes ever, num_bytes now."""

    hits: int = 0
    hit_tokens: int = 0
    misses: int = 0
    writes: int = 0
    written_bytes: int = 0
    evictions: int = 0
    damaged: int = 0  # and so removed
    foreign: int = 0  # of other models or settings: they stay
    dropped: int = 0  # never written, as the disk was too slow or the cap too small
    failures: int = 0  # of the disk
    num_states: int = 0
    num_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored state: of all its tokens, no more and no less."""

    number: int
    name: str
    header: StateHeader

    @property
    def num_tokens(self) -> int:
        return len(self.header.token_ids)


@dataclass(frozen=True, slots=True)
class DiskMatch:
    """The first `length` tokens are in `entry`; (0, None) if in none. The entry may hold more than those."""

    length: int
    entry: Entry | None


@dataclass(frozen=True, slots=True)
class DiskLoad:
    """A match whose state is on its way; None: there is nothing to load."""

    match: DiskMatch
    state: Future[bytes | None] | None


@dataclass(frozen=True, slots=True)
class _Job:
    number: int
    token_ids: array[int]
    salt: str  # its digest in hex
    parts: tuple[bytes, ...]

    @property
    def state_bytes(self) -> int:
        return sum(map(len, self.parts))


class DiskCache:
    """States by the tokens they stand for. No call but close() and refresh() waits for the disk.

    path: made if need be. key: all that gives a state its meaning; states of other keys are left alone. min_tokens:
    what a state must have beyond those that are there. can_cut: a state also serves prompts that share only its
    beginning, so that a longer one takes the place of a shorter one. Raises ConfigError if the folder is of no use.
    """

    def __init__(self, path: str | Path, *, max_bytes: int, min_tokens: int, key: bytes, can_cut: bool) -> None:
        self.max_bytes = max_bytes
        self.min_tokens = min_tokens
        self.can_cut = can_cut
        self.stats = DiskCacheStats()
        self._key = digest(key)
        self._refreshing = Lock()
        self._lock = Lock()  # of what both the caller and the threads read and write
        self._numbers = itertools.count()
        self._stored = SaltedTree()
        self._numbered: dict[int, Entry] = {}
        self._named: dict[str, Entry | None] = {}  # None: foreign
        self._queued = SaltedTree()
        self._queue: dict[int, _Job] = {}  # by number, the oldest first
        self._num_queued_bytes = 0
        self._has_jobs = Condition(self._lock)
        self._is_closing = False
        try:
            self._folder = StateFolder(Path(path).expanduser(), max_bytes)
        except OSError as error:
            raise ConfigError(f"disk_cache.path: {path}: {error.strerror or error}") from None
        self.refresh()
        self._refreshed_s = time.monotonic()
        self._reader = ThreadPoolExecutor(1, "llamafast-disk-reader")
        self._writer = Thread(target=self._write_all, name="llamafast-disk-writer", daemon=True)
        self._writer.start()

    def match(self, token_ids: array[int], salt: str) -> DiskMatch:
        """The longest stored prefix of token_ids, but for the last token: its logits must be computed."""
        now = time.monotonic()
        if now - self._refreshed_s > _REFRESH_S and not self._is_closing:
            self._refreshed_s = now
            self._reader.submit(self.refresh)
        with self._lock:
            length, number = self._match(self._stored, token_ids[:-1], _salted(salt))
            return DiskMatch(length, self._numbered[number]) if length else DiskMatch(0, None)

    def load(self, entry: Entry) -> Future[bytes | None]:
        """The state of an entry, read in a thread; None if it is gone or damaged."""
        return self._reader.submit(self._read, entry)

    def wants(self, token_ids: array[int], salt: str) -> bool:
        """Whether storing the state of these tokens is worth it."""
        salted = _salted(salt)
        with self._lock:
            num_queued, _ = self._match(self._queued, token_ids, salted)
            num_stored, number = self._match(self._stored, token_ids, salted)
            entry = self._numbered[number] if num_stored else None
        if len(token_ids) - max(num_queued, num_stored) >= self.min_tokens:
            return True
        if entry is not None:  # it serves whoever comes back to this conversation
            self._reader.submit(self._folder.touch, entry.name)
        return False

    def store(self, token_ids: array[int], salt: str, *parts: bytes) -> None:
        """Have a state, its parts in a row, written soon. If too much waits for the disk, the oldest is dropped.

        What is still waiting and would be covered by this state is not written at all.
        """
        job = _Job(next(self._numbers), token_ids, _salted(salt), parts)
        if file_bytes(len(token_ids), job.state_bytes) > self.max_bytes:
            self.stats.dropped += 1
            return
        with self._lock:
            for number in self._queued.prefixes(token_ids, job.salt) if self.can_cut else ():
                if number in self._queue:
                    self._drop(number)
            self._queue[job.number] = job
            self._num_queued_bytes += job.state_bytes
            self._queued.insert(job.number, token_ids, job.salt)
            while self._num_queued_bytes > _MAX_QUEUED_BYTES and len(self._queue) > 1:
                self._drop(next(iter(self._queue)))
                self.stats.dropped += 1
            self._has_jobs.notify()

    def discard(self, entry: Entry) -> None:
        """Have a state removed that its memory did not take."""
        self._reader.submit(self._remove_damaged, entry.name, "llama.cpp refuses it")

    def refresh(self) -> None:
        """Learn what other servers did in the folder."""
        with self._refreshing:
            try:
                names = self._folder.changed_names()
            except OSError as error:
                self._fail("cannot be read", error)
                return
            if names is not None:
                with self._lock:
                    for name in self._named.keys() - set(names):
                        self._forget(name)
                for name in names:
                    if name not in self._named:
                        self._examine(name)
            self.stats.num_bytes = self._folder.num_bytes
            self.stats.evictions = self._folder.num_evicted

    def close(self) -> None:
        """Write what is waiting, then stop. Idempotent."""
        with self._lock:
            self._is_closing = True
            self._has_jobs.notify()
        self._writer.join()
        self._reader.shutdown()

    def _match(self, tree: SaltedTree, token_ids: array[int], salt: str) -> tuple[int, int]:
        """(tokens, number) of what serves the beginning of token_ids best, (0, -1) without any."""
        return tree.match(token_ids, salt) if self.can_cut else tree.longest_prefix(token_ids, salt)

    def _take(self, number: int) -> _Job:
        """Out of the queue, but not out of the index: it is about to be written."""
        job = self._queue.pop(number)
        self._num_queued_bytes -= job.state_bytes
        return job

    def _drop(self, number: int) -> None:
        self._take(number)
        self._queued.remove(number)

    def _write_all(self) -> None:
        while True:
            with self._lock:
                while not self._queue:
                    if self._is_closing:
                        return
                    self._has_jobs.wait()
                job = self._take(next(iter(self._queue)))
            self._write(job)

    def _write(self, job: _Job) -> None:
        salt = bytes.fromhex(job.salt)
        header = StateHeader(self._key, salt, job.token_ids, job.state_bytes, digest(*job.parts))
        stem = digest(self._key + salt + job.token_ids.tobytes()).hex()
        covered: Collection[str] = ()
        if self.can_cut:
            with self._lock:
                numbers = self._stored.prefixes(job.token_ids, job.salt)
                covered = [self._numbered[number].name for number in numbers]
        is_written = False
        try:
            is_written = self._folder.write(stem, (header.pack(), *job.parts), covered)
        except OSError as error:
            self._fail("cannot be written", error)
        if is_written:
            self.stats.writes += 1
            self.stats.written_bytes += header.file_bytes
        self.refresh()
        with self._lock:
            self._queued.remove(job.number)

    def _read(self, entry: Entry) -> bytes | None:
        path = self._folder.path / entry.name
        try:
            with path.open("rb") as file:
                header = read_header(file, path.stat().st_size)
                if not header.stands_for(entry.header):
                    raise DamagedFileError("another file has its name")
                state = read_state(file, header)
        except DamagedFileError as error:
            self._remove_damaged(entry.name, str(error))
        except OSError:
            with self._lock:
                self._forget(entry.name)
        else:
            self._folder.touch(entry.name)
            return state
        return None

    def _examine(self, name: str) -> None:
        """A file that is new here."""
        path = self._folder.path / name
        try:
            with path.open("rb") as file:
                header = read_header(file, path.stat().st_size)
        except DamagedFileError as error:
            self._remove_damaged(name, str(error))
        except OSError:
            return  # gone already, or another user's
        else:
            with self._lock:
                if header.key != self._key:
                    self._named[name] = None
                    self.stats.foreign += 1
                    return
                entry = self._named[name] = Entry(next(self._numbers), name, header)
                self._numbered[entry.number] = entry
                self._stored.insert(entry.number, header.token_ids, header.salt.hex())
                self.stats.num_states = len(self._numbered)

    def _remove_damaged(self, name: str, reason: str) -> None:
        logger.warning("removing the stored state %s: %s", self._folder.path / name, reason)
        self._folder.remove(name)
        with self._lock:
            self.stats.damaged += 1
            self._forget(name)

    def _fail(self, what: str, error: OSError) -> None:
        with self._lock:
            self.stats.failures += 1
        logger.warning("the disk cache %s %s: %s", self._folder.path, what, error)

    def _forget(self, name: str) -> None:
        entry = self._named.pop(name, None)
        if entry is not None:
            del self._numbered[entry.number]
            self._stored.remove(entry.number)
            self.stats.num_states = len(self._numbered)


def _salted(salt: str) -> str:
    return digest(salt.encode()).hex()
