"""DiskCache: states of computed prefixes in a folder. They outlive the process, and several servers can share them."""

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
from llamafast.cache.prompt import TEXT_ONLY, Layout
from llamafast.cache.radix import SaltedTree
from llamafast.errors import ConfigError

logger = logging.getLogger(__name__)

# Maximum bytes of states that wait to be written.
_MAX_QUEUED_BYTES = 512 * 2**20
# Seconds between two looks for states that other servers have written.
_REFRESH_S = 1.0


@dataclass(slots=True)
class DiskCacheStats:
    """Counters since the start, and two gauges.

    hits, misses: requests with a loaded prefix, and requests without one.
    hit_tokens: prompt tokens that were loaded.
    writes, written_bytes: number of written states, and their bytes.
    evictions: states removed to make room.
    damaged: states removed because a check failed.
    foreign: states of other models or settings, which are left alone.
    dropped: states that were not written, because the disk was too slow or the cap too small.
    failures: failed reads and writes of the folder.
    num_states, num_bytes: present number of usable states, and the folder's size in bytes.
    """

    hits: int = 0
    hit_tokens: int = 0
    misses: int = 0
    writes: int = 0
    written_bytes: int = 0
    evictions: int = 0
    damaged: int = 0
    foreign: int = 0
    dropped: int = 0
    failures: int = 0
    num_states: int = 0
    num_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored state.

    number: owner number of the state in the tree.
    name: name of its file.
    header: header of the file.
    """

    number: int
    name: str
    header: StateHeader

    @property
    def num_tokens(self) -> int:
        """Number of rows that the state has."""
        return len(self.header.token_ids)


@dataclass(frozen=True, slots=True)
class DiskMatch:
    """The stored prefix of a prompt.

    length: int, number of rows of the prompt that the state contains; 0: none.
    entry: Entry, the stored state, which may have more rows; None if length is 0.
    """

    length: int
    entry: Entry | None


@dataclass(frozen=True, slots=True)
class DiskLoad:
    """The read of a stored prefix.

    match: DiskMatch, the prefix.
    state: future of the state's bytes (None: the file is gone or damaged); None: nothing is read.
    """

    match: DiskMatch
    state: Future[bytes | None] | None


@dataclass(frozen=True, slots=True)
class _Job:
    """A state to be written.

    number: owner number in the tree of queued states.
    token_ids, layout: the rows.
    salt: digest of the cache salt, in hex.
    parts: the bytes of the state, in parts.
    """

    number: int
    token_ids: array[int]
    salt: str
    parts: tuple[bytes, ...]
    layout: Layout

    @property
    def state_bytes(self) -> int:
        return sum(map(len, self.parts))


class DiskCache:
    """Stored states, found by their rows. Only close() and refresh() wait for the disk.

    path: the folder, created if missing.
    max_bytes: int, cap on the folder's size.
    min_tokens: int, a state is stored if at least this many of its rows are not stored yet.
    key: bytes, all facts and settings that a state depends on. States with other keys are ignored.
    can_cut: bool, whether a prompt can use the beginning of a state. If so, a longer state replaces a shorter one.

    Raises ConfigError if the folder cannot be used.
    """

    def __init__(self, path: str | Path, *, max_bytes: int, min_tokens: int, key: bytes, can_cut: bool) -> None:
        self.max_bytes = max_bytes
        self.min_tokens = min_tokens
        self.can_cut = can_cut
        self.stats = DiskCacheStats()
        self._key = digest(key)
        self._refreshing = Lock()
        self._lock = Lock()  # guards the attributes that the caller and the threads share
        self._numbers = itertools.count()
        self._stored = SaltedTree()
        self._numbered: dict[int, Entry] = {}
        self._named: dict[str, Entry | None] = {}  # None: foreign
        self._queued = SaltedTree()
        self._queue: dict[int, _Job] = {}  # by number, oldest first
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

    def match(self, token_ids: array[int], salt: str, layout: Layout = TEXT_ONLY) -> DiskMatch:
        """The longest stored prefix of a prompt, without the last row: its logits must be computed."""
        now = time.monotonic()
        if now - self._refreshed_s > _REFRESH_S and not self._is_closing:
            self._refreshed_s = now
            self._reader.submit(self.refresh)
        with self._lock:
            length, number = self._match(self._stored, token_ids[:-1], _salted(salt))
            if not length:
                return DiskMatch(0, None)
            entry = self._numbered[number]
        common = layout.common(entry.header.layout, length)
        is_usable = common > 0 and (self.can_cut or common == length)
        return DiskMatch(common, entry) if is_usable else DiskMatch(0, None)

    def load(self, entry: Entry) -> Future[bytes | None]:
        """Read the state of an entry in a thread. The result is None if the file is gone or damaged."""
        return self._reader.submit(self._read, entry)

    def wants(self, token_ids: array[int], salt: str) -> bool:
        """Whether the state of these rows is worth storing."""
        salted = _salted(salt)
        with self._lock:
            num_queued, _ = self._match(self._queued, token_ids, salted)
            num_stored, number = self._match(self._stored, token_ids, salted)
            entry = self._numbered[number] if num_stored else None
        if len(token_ids) - max(num_queued, num_stored) >= self.min_tokens:
            return True
        if entry is not None:  # the next turn of this conversation will use it
            self._reader.submit(self._folder.touch, entry.name)
        return False

    def store(self, token_ids: array[int], salt: str, *parts: bytes, layout: Layout = TEXT_ONLY) -> None:
        """Queue a state for writing. If the queue takes too much memory, its oldest states are dropped.

        Queued states that this one contains are not written. parts: the bytes of the state, in parts.
        """
        job = _Job(next(self._numbers), token_ids, _salted(salt), parts, layout)
        if file_bytes(len(token_ids), job.state_bytes, layout) > self.max_bytes:
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
        """Remove the file of a state that the memory rejected."""
        self._reader.submit(self._remove_damaged, entry.name, "llama.cpp rejects it")

    def refresh(self) -> None:
        """Update the index with the files that other servers have added or removed."""
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
        """Write all queued states, then stop. Idempotent."""
        with self._lock:
            self._is_closing = True
            self._has_jobs.notify()
        self._writer.join()
        self._reader.shutdown()

    def _match(self, tree: SaltedTree, token_ids: array[int], salt: str) -> tuple[int, int]:
        """(rows, number) of the entry with the most rows of a prompt; (0, -1) without one."""
        return tree.match(token_ids, salt) if self.can_cut else tree.longest_prefix(token_ids, salt)

    def _take(self, number: int) -> _Job:
        """Remove a job from the queue. The index of queued states keeps it until it is written."""
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
        header = StateHeader(self._key, salt, job.token_ids, job.state_bytes, digest(*job.parts), job.layout)
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
                if not header.is_same_prefix(entry.header):
                    raise DamagedFileError("the file contains another state")
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
        """Add a new file to the index if its header is valid."""
        path = self._folder.path / name
        try:
            with path.open("rb") as file:
                header = read_header(file, path.stat().st_size)
        except DamagedFileError as error:
            self._remove_damaged(name, str(error))
        except OSError:
            return  # removed meanwhile, or not readable
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
