"""The remaining memory, read from files in Linux's formats."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from llamafast.host.memory import address_space, available_memory

MIB = 1 << 20


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def machine(root: Path, cgroup: str, available_kib: int = 1_000_000) -> tuple[Path, Path]:
    write(
        root,
        proc__meminfo=f"MemTotal: 9 kB\nMemAvailable: {available_kib - 9} kB\nSwapFree: 9 kB\n",
        proc__self__cgroup=cgroup,
    )
    return root / "proc", root / "sys"


def test_available_memory_without_cgroup_is_the_machines(tmp_path: Path) -> None:
    assert available_memory(*machine(tmp_path, "0::/\n")) == 1_000_000 * 1024


def test_available_memory_cgroup_2_gives_back_file_pages(tmp_path: Path) -> None:
    folder = tmp_path / "sys/fs/cgroup/a"
    folder.mkdir(parents=True)
    write(folder.parent / "a", **{"memory.max": f"{100 * MIB}\n", "memory.current": f"{70 * MIB}"})
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {50 * MIB}\n")
    assert available_memory(*machine(tmp_path, "0::/a\n")) == 80 * MIB


def test_available_memory_parent_cgroup_limits_too(tmp_path: Path) -> None:
    root = tmp_path / "sys/fs/cgroup"
    for name, limit in (("a", f"{10 * MIB}"), ("a/b", "max")):
        (root / name).mkdir(parents=True)
        write(root / name, **{"memory.max": limit, "memory.current": "0"})
    assert available_memory(*machine(tmp_path, "0::/a/b\n")) == 10 * MIB


@pytest.mark.parametrize(("limit", "expected"), [(f"{30 * MIB}", 20 * MIB), (f"{2**63 - 4096}", 1_000_000 * 1024)])
def test_available_memory_cgroup_1_limit_counts(tmp_path: Path, limit: str, expected: int) -> None:
    folder = tmp_path / "sys/fs/cgroup/memory/a"
    folder.mkdir(parents=True)
    write(folder, **{"memory.limit_in_bytes": limit, "memory.usage_in_bytes": f"{10 * MIB}"})
    assert available_memory(*machine(tmp_path, "5:cpu:/x\n4:memory:/a\n")) == expected


def test_available_memory_unknown_system_is_none(tmp_path: Path) -> None:
    assert available_memory(tmp_path, tmp_path) is None


def test_address_space_limit_counts_mapped_pages(tmp_path: Path) -> None:
    write(tmp_path, self__statm="10 5 1\n")
    page = resource.getpagesize()
    assert address_space(tmp_path, 30 * page) == 20 * page
    assert address_space(tmp_path, page) == 0
    assert address_space(tmp_path, resource.RLIM_INFINITY) is None
