"""StateFolder: a folder of state files with a cap on its size. Several processes can share it."""

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

# Two changes of a folder within this time can have the same time stamp.
_TICK_NS = 50_000_000


class StateFolder:
    """State files in a folder; other files in it are ignored.

    path: the folder, created if missing.
    max_bytes: int, cap on the size of all state files.
    num_bytes: int, their size at the last listing.
    num_evicted: int, number of files that this process removed to make room.

    A file is written under a temporary name and then renamed. Every writer holds the lock, so an existing temporary
    file comes from a killed process. Raises OSError if the folder cannot be created or written.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.num_evicted = 0
        self._seen_ns = -1  # the folder's time stamp at the last listing
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._lock():
            self._make_room(0)

    def changed_names(self) -> list[str] | None:
        """The names of all state files, or None if nothing changed since the last call. Raises OSError."""
        stamp_ns = self.path.stat().st_mtime_ns
        if stamp_ns == self._seen_ns:
            return None
        self._seen_ns = stamp_ns if time.time_ns() - stamp_ns > _TICK_NS else -1
        files = self._files()
        self.num_bytes = sum(size for _, size, _ in files)
        return [name for _, _, name in files if name.endswith(_SUFFIX)]

    def write(self, stem: str, parts: Collection[bytes], covered: Collection[str] = ()) -> bool:
        """Write a file; False if it exists or does not fit. Waits for the disk.

        covered: names of files whose rows the new file contains; they are removed. Raises OSError.
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
        """Delete a file if it exists and can be deleted."""
        with suppress(OSError):
            num_bytes = (self.path / name).stat().st_size
            (self.path / name).unlink()
            self.num_bytes -= num_bytes

    def touch(self, name: str) -> None:
        """Make a file the most recently used one."""
        with suppress(OSError):
            os.utime(self.path / name)

    def _files(self) -> list[tuple[int, int, str]]:
        """(last use in ns, bytes, name) of state files and temporary files."""
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
        """Whether num_bytes more bytes fit. Removes covered files, then the least recently used ones, if necessary.

        The caller holds the lock.
        """
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
                if _is_same(handle, path):  # a lock on a deleted file has no effect on other processes
                    yield
                    return
            finally:
                os.close(handle)


def _is_same(handle: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), path.stat())
    return False
