"""The number of compute threads, from CPU affinity, the cgroup's quota and the physical cores."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


def default_threads(
    sysfs: Path = Path("/sys"), proc_cgroup: Path = Path("/proc/self/cgroup"), allowed: set[int] | None = None
) -> tuple[int, str]:
    """Number of threads, min(affinity, cgroup quota, physical cores), and the reason in words. Reads files only."""
    cpus = _allowed_cpus() if allowed is None else allowed
    cores = _mac_cores() if sys.platform == "darwin" else _physical_cores(sysfs, cpus)
    quota = _cgroup_quota(sysfs / "fs" / "cgroup", proc_cgroup)
    limits = [(len(cpus), f"{len(cpus)} CPUs allowed"), (cores, f"{cores} physical cores")]
    if quota is not None:
        # Rounded down: with one thread too many, the system throttles the process in the middle of each step.
        limits.append((max(1, int(quota)), f"cgroup quota of {quota:g} CPUs"))
    return min(number for number, _ in limits), ", ".join(text for _, text in limits)


def cgroup_folders(controller: str, root: Path, proc_cgroup: Path) -> Iterator[Path]:
    """The cgroup folders (version 1 and 2) that limit this process, from its own up to the root."""
    for line in (read_text(proc_cgroup) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = root if not controllers else root / controller
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(base):
                break
            yield folder


def read_text(path: Path) -> str | None:
    """The text of a small file; None if it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _allowed_cpus() -> set[int]:
    if sys.platform == "linux":
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _physical_cores(sysfs: Path, cpus: set[int]) -> int:
    """Number of physical cores of `cpus`: hyper-threads of one core count once. len(cpus) if sysfs has no answer."""
    cores: set[str] = set()
    for cpu in cpus:
        siblings = read_text(sysfs / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        if siblings is None:
            return len(cpus)
        cores.add(siblings)
    return len(cores)


def _mac_cores() -> int:
    # Apple's efficiency cores would slow every step down, so only performance level 0 counts if it exists.
    for name in ("hw.perflevel0.physicalcpu", "hw.physicalcpu"):
        answer = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            return int(answer.stdout)
    return os.cpu_count() or 1


def _cgroup_quota(root: Path, proc_cgroup: Path) -> float | None:
    """The smallest CPU quota of our cgroup and its parents, in CPUs; None if there is no quota."""
    quotas = (_quota_of(folder) for folder in cgroup_folders("cpu", root, proc_cgroup))
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_of(folder: Path) -> float | None:
    version_2 = read_text(folder / "cpu.max")
    if version_2 is not None:
        quota, period = version_2.split()
        return None if quota == "max" else int(quota) / int(period)
    quota_us, period_us = read_text(folder / "cpu.cfs_quota_us"), read_text(folder / "cpu.cfs_period_us")
    if quota_us is None or period_us is None or int(quota_us) <= 0:
        return None
    return int(quota_us) / int(period_us)
