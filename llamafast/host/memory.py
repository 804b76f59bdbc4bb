"""The memory that this process can still use: of the machine, the cgroup and the address space."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

from llamafast.host.cpu import cgroup_folders, read_text

# A memory cgroup of version 1 without a limit contains a number near 2**63.
_NO_LIMIT = 1 << 60


def available_memory(proc: Path = Path("/proc"), sysfs: Path = Path("/sys")) -> int | None:
    """Bytes that the machine and the cgroup have left. Pages of files count as free, because the system drops them.

    None if the system has no answer.
    """
    return min([*_machine(proc), *_cgroups(proc, sysfs)], default=None)


def address_space(proc: Path = Path("/proc"), limit: int | None = None) -> int | None:
    """Bytes left of the address space; mapped files use it too. None without a limit (`ulimit -v`)."""
    if limit is None:
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    pages = (read_text(proc / "self/statm") or "").split()
    if limit == resource.RLIM_INFINITY or not pages:
        return None
    return max(limit - int(pages[0]) * resource.getpagesize(), 0)


def _machine(proc: Path) -> Iterator[int]:
    lines = (read_text(proc / "meminfo") or "").splitlines()
    kibibytes = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
    if "MemAvailable" in kibibytes:
        yield 1024 * (kibibytes["MemAvailable"] + kibibytes.get("SwapFree", 0))


def _cgroups(proc: Path, sysfs: Path) -> Iterator[int]:
    for folder in cgroup_folders("memory", sysfs / "fs" / "cgroup", proc / "self/cgroup"):
        for limit_file, usage_file, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, usage = read_text(folder / limit_file), read_text(folder / usage_file)
            if limit is None or usage is None or not limit.isdigit() or int(limit) >= _NO_LIMIT:
                continue
            stat = dict(line.split(" ", 1) for line in (read_text(folder / "memory.stat") or "").splitlines())
            used = max(int(usage) - int(stat.get(cache, 0)), 0)
            yield max(int(limit) - used, 0)
