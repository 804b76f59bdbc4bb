"""The default number of threads, with a made-up sysfs and cgroup tree."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llamafast.host.cpu import default_threads


def make_machine(
    folder: Path, siblings: list[str], cgroup: str = "0::/\n", files: dict[str, str] | None = None
) -> None:
    """A sysfs in which CPU number i shares a core with siblings[i], and a /proc/self/cgroup."""
    for cpu, text in enumerate(siblings):
        topology = folder / f"sys/devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(text + "\n")
    (folder / "cgroup").write_text(cgroup)
    for name, text in (files or {}).items():
        path = folder / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def threads(folder: Path, num_cpus: int) -> tuple[int, str]:
    return default_threads(folder / "sys", folder / "cgroup", set(range(num_cpus)))


FOUR_CORES = ["0,4", "1,5", "2,6", "3,7"] * 2


def test_default_threads_this_machine_is_positive() -> None:
    number, reason = default_threads()
    assert number >= 1
    assert "physical cores" in reason


@pytest.mark.parametrize(
    ("cgroup", "files", "number", "reason"),
    [
        ("0::/\n", {}, 4, "8 CPUs allowed, 4 physical cores"),
        ("0::/\n", {"cpu.max": "max 100000"}, 4, "8 CPUs allowed, 4 physical cores"),
        ("0::/\n", {"cpu.max": "250000 100000"}, 2, "8 CPUs allowed, 4 physical cores, cgroup quota of 2.5 CPUs"),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1, "8 CPUs allowed, 4 physical cores, cgroup quota of 0.5 CPUs"),
        (
            "0::/a/b\n",
            {"a/cpu.max": "100000 100000", "a/b/cpu.max": "300000 100000"},
            1,
            "8 CPUs allowed, 4 physical cores, cgroup quota of 1 CPUs",
        ),
        ("0::/gone\n", {"cpu.max": "300000 100000"}, 3, "8 CPUs allowed, 4 physical cores, cgroup quota of 3 CPUs"),
        (
            "3:cpu,cpuacct:/a\n2:memory:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "200000", "cpu/a/cpu.cfs_period_us": "100000"},
            2,
            "8 CPUs allowed, 4 physical cores, cgroup quota of 2 CPUs",
        ),
        (
            "1:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            4,
            "8 CPUs allowed, 4 physical cores",
        ),
    ],
)
def test_default_threads_quota_limits_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cgroup: str, files: dict[str, str], number: int, reason: str
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    make_machine(tmp_path, FOUR_CORES, cgroup, files)
    assert threads(tmp_path, 8) == (number, reason)


def test_default_threads_affinity_counts_its_own_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    make_machine(tmp_path, ["0-1", "0-1", "2-3", "2-3"])
    assert threads(tmp_path, 2)[0] == 1
    assert threads(tmp_path, 3)[0] == 2


def test_default_threads_no_topology_takes_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    make_machine(tmp_path, [])
    assert threads(tmp_path, 6)[0] == 6
