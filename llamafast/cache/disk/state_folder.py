"""A folder of state files under a cap, which several processes may share."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG

_SUFFIX = ".llamafast-state"
_TEMPORARY = ".llamafast-tmp"
_LOCK = "llamafast.lock"

# Of a folder's time stamp: a change may hide behind another one that came this shortly before.
_TICK_NS = 50_000_000


class StateFolder:
    """Whole files appear by a rename, and room is made before one is written. Other files in the folder do not count.

    Only who holds the lock writes, so a temporary file found under it was left by a process that was killed. Raises
    OSError if the folder cannot be made or written.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.num_bytes = 0  # when it was looked at last
        self.num_evicted = 0
        self._seen_ns = -1  # the folder's time stamp at the last listing
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._lock():
            self._make_room(0)

    def changed_names(self) -> list[str] | None:
        """The names of all states, or None if there is nothing new since the last call. Raises OSError."""
        stamp_ns = self.path.stat().st_mtime_ns
        if stamp_ns == self._seen_ns:
            return None
        self._seen_ns = stamp_ns if time.time_ns() - stamp_ns > _TICK_NS else -1
        files = self._files()
        self.num_bytes = sum(size for _, size, _ in files)
        return [name for _, _, name in files if name.endswith(_SUFFIX)]

    def write(self, stem: str, parts: Collection[bytes], covered: Collection[str] = ()) -> bool:
        """Put a file in place; False if it is there already or does not fit. Waits for the disk.

        covered: names that are not needed once it is there. Raises OSError.
        """
        temporary, final = self.path / (stem + _TEMPORARY), self.path / (stem + _SUFFIX)
        num_bytes = sum(map(len, parts))
        with self._lock():
            if final.exists() or not self._make_room(num_bytes, covered):
                return False
            try:
                with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    for part in parts:
                        file.write(part)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, final)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
            self.num_bytes += num_bytes
            for name in covered:
                self.remove(name)
        return True

    def remove(self, name: str) -> None:
        """Delete a file; no matter if it is gone or cannot be deleted."""
        with suppress(OSError):
            num_bytes = (self.path / name).stat().st_size
            (self.path / name).unlink()
            self.num_bytes -= num_bytes

    def touch(self, name: str) -> None:
        """Make a file the most recently used one."""
        with suppress(OSError):
            os.utime(self.path / name)

    def _files(self) -> list[tuple[int, int, str]]:
        """(last use, bytes, name) of states and temporary files."""
        files = []
        with os.scandir(self.path) as entries:
            for entry in entries:
                if entry.name.endswith((_SUFFIX, _TEMPORARY)):
                    with suppress(FileNotFoundError):
                        stat = entry.stat(follow_symlinks=False)
                        if S_ISREG(stat.st_mode):
                            files.append((stat.st_mtime_ns, stat.st_size, entry.name))
        return files

    def _make_room(self, num_bytes: int, covered: Collection[str] = ()) -> bool:
        """Under the lock: whether num_bytes more fit; what was used least recently goes for it, covered files first."""
        files = self._files()
        for _, _, name in files:
            if name.endswith(_TEMPORARY):
                (self.path / name).unlink(missing_ok=True)
        files = [file for file in files if file[2].endswith(_SUFFIX)]
        total = sum(size for _, size, _ in files)
        if num_bytes <= self.max_bytes:
            for _, size, name in sorted(files, key=lambda file: (file[2] not in covered, file)):
                if total + num_bytes <= self.max_bytes:
                    break
                (self.path / name).unlink(missing_ok=True)
                total -= size
                self.num_evicted += 1
        self.num_bytes = total
        return total + num_bytes <= self.max_bytes

    @contextmanager
    def _lock(self) -> Iterator[None]:
        path = self.path / _LOCK
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                if _is_same(handle, path):  # someone may have deleted the file meanwhile: then it locks nobody out
                    yield
                    return
            finally:
                os.close(handle)


def _is_same(handle: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), path.stat())
    return False
