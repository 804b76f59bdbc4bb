"""Ownership of state: an object of engine/ changes only its own fields and records, and calls methods of others."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import llamafast

ENGINE = Path(llamafast.__file__).parent / "engine"
MODULES = sorted(ENGINE.glob("*.py"))

# The records of engine/, which have no owner, by the variable names under which they are changed.
RECORDS = {
    "sequence": "Sequence", "first": "Sequence", "state": "RequestState", "output": "RequestOutput",
    "held": "RequestOutput", "plan": "StepPlan", "stats": "EngineStats or DiskCacheStats, counters",
    "_stats": "EngineStats, counters", "new": "_Copy", "copy": "_Copy", "known": "_Known", "job": "EncoderJob",
}  # fmt: skip
# Fields that AsyncEngine sets in its engine.
KNOWN = {("async_engine.py", "engine.disk.on_load"), ("async_engine.py", "engine.is_stalled")}
MUTATORS = {"append", "appendleft", "clear", "extend", "extendleft", "insert", "pop", "popleft", "remove", "sort"}


def owner(target: ast.expr) -> ast.expr | None:
    """The object that has the assigned field: `a.b` for `a.b.c` and `a.b.c[0]`; None for a local variable."""
    while isinstance(target, ast.Subscript | ast.Starred):
        target = target.value
    return target.value if isinstance(target, ast.Attribute) else None


def last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def targets(node: ast.AST) -> Iterator[ast.expr]:
    """The targets that a statement or a call changes."""
    if isinstance(node, ast.Assign | ast.Delete):
        for target in node.targets:
            yield from target.elts if isinstance(target, ast.Tuple) else [target]
    elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.For):
        yield from node.target.elts if isinstance(node.target, ast.Tuple) else [node.target]
    elif isinstance(node, ast.Call):
        function = node.func
        if isinstance(function, ast.Attribute) and function.attr in MUTATORS:
            yield function.value
        elif last_name(function) in ("insort", "heappush", "heappop", "setattr"):
            yield node.args[0]


def trespasses(path: Path, source: str | None = None) -> list[str]:
    """The fields of other objects that a module changes, and their private fields that it reads."""
    found = []
    for node in ast.walk(ast.parse(path.read_text() if source is None else source)):
        for target in targets(node):
            holder = owner(target)
            if holder is not None and last_name(holder) not in ("self", *RECORDS):
                found.append(ast.unparse(target))
        is_private = isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        if is_private and last_name(node.value) not in ("self", "os", "StepPlanner"):
            found.append(ast.unparse(node))
    return [name for name in found if (path.name, name) not in KNOWN]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_engine_module_changes_only_its_own_state_and_records(path: Path) -> None:
    assert trespasses(path) == []


@pytest.mark.parametrize(
    "source",
    [
        "self.cache.num_cells += 1", "self.planner.running.append(sequence)", "insort(slot.places, 3)",
        "slot.length = 3", "del waiting.disk", "self._planner._running", "plan.slots[0].length = 3",
        "a, self.cache.num_cells = 1, 2",
    ],
)  # fmt: skip
def test_trespasses_change_of_another_object_is_found(source: str) -> None:
    assert trespasses(Path("example.py"), source)


@pytest.mark.parametrize(
    "source", ["self.x = 1", "sequence.slot = slot", "self.stats.steps += 1", "x = cache.num_cells", "self.x.append(1)"]
)
def test_trespasses_own_state_and_records_are_allowed(source: str) -> None:
    assert not trespasses(Path("example.py"), source)
