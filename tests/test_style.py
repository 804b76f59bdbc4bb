"""Size caps and forbidden words in the whole source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHON = sorted(
    [
        ROOT / "setup.py",
        *(path for room in ("llamafast", "tests", "benchmarks") for path in (ROOT / room).rglob("*.py")),
    ]
)
CYTHON = sorted((ROOT / "llamafast").glob("*.pyx"))
TESTS = [path for path in PYTHON if path.name.startswith("test_")]

MAX_PYTHON_LINES = 400
MAX_CYTHON_LINES = 1000
MAX_FUNCTION_LINES = 60

# Joined from pieces, so that this file does not match.
UNFINISHED = re.compile(r"\bTO" + r"DO\b|\bFIX" + r"ME\b|NotImplemented" + r"Error|except" + r":")
# Places that isolate a failure of one request, or of the engine.
GUARD = re.compile(r"except Base" + r"Exception|suppress\(Base" + r"Exception")
GUARDED = {
    "_runner.pyx", "engine/engine_thread.py", "grammars/compile_queue.py", "engine/engine.py", "engine/scheduler.py",
    "engine/step_update.py", "engine/waiting_queue.py", "grammars/guidance.py", "server/receiving/preparation.py",
}  # fmt: skip
EVASION = re.compile(r"\btime\.sl" + r"eep\(|\bmark\.(?:sk" + r"ip|xf" + r"ail)|\bpytest\.(?:sk" + r"ip|xf" + r"ail)\(")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def functions(path: Path) -> list[Function]:
    return [node for node in ast.walk(syntax(path)) if isinstance(node, Function)]


def cython_functions(path: Path) -> Iterator[tuple[str, int]]:
    """(first line, number of lines) of each function: it ends before the next line that is not indented further."""
    lines = path.read_text().splitlines()
    for start, line in enumerate(lines):
        match = re.match(r"(\s*)(?:def|cdef|cpdef)\b(?! class)[^=]*\(", line)
        if match is None:
            continue
        indent, end = len(match[1]), start + 1
        for number in range(start + 1, len(lines)):
            text = lines[number]
            if not text.strip():
                continue
            if len(text) - len(text.lstrip()) <= indent and not text.lstrip().startswith(")"):
                break
            end = number + 1
        yield line.strip(), end - start


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def matches(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    return [
        f"{name(path)}:{number}: {line.strip()}"
        for path in paths
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]


def claims(function: Function) -> bool:
    """Whether a test can fail: it asserts, expects an error, or calls a function with such a name."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).rpartition(".")[2]
            if called in ("raises", "check") or called.startswith(("assert_", "check_")):
                return True
    return False


def test_files_stay_under_their_cap() -> None:
    sizes = {path: len(path.read_text().splitlines()) for path in PYTHON + CYTHON}
    over = {
        name(path): size
        for path, size in sizes.items()
        if size > (MAX_CYTHON_LINES if path.suffix == ".pyx" else MAX_PYTHON_LINES)
    }
    assert over == {}


def test_functions_stay_under_their_cap() -> None:
    sizes = {
        f"{name(path)}: {function.name}": (function.end_lineno or 0) - function.lineno + 1
        for path in PYTHON
        for function in functions(path)
    }
    sizes |= {f"{name(path)}: {line}": size for path in CYTHON for line, size in cython_functions(path)}
    assert {function: size for function, size in sizes.items() if size > MAX_FUNCTION_LINES} == {}


def test_modules_begin_with_docstring() -> None:
    assert [name(path) for path in PYTHON if not ast.get_docstring(syntax(path))] == []


def test_source_holds_nothing_unfinished() -> None:
    assert matches(UNFINISHED, PYTHON + CYTHON) == []
    others = [path for path in PYTHON + CYTHON if name(path).removeprefix("llamafast/") not in GUARDED]
    assert matches(GUARD, [path for path in others if "tests" not in path.parts]) == []


def test_tests_neither_sleep_nor_evade() -> None:
    assert matches(EVASION, [path for path in PYTHON if "tests" in path.parts]) == []


def test_tests_are_named_unit_condition_result() -> None:
    names = [f.name for path in TESTS for f in functions(path) if f.name.startswith("test")]
    assert [test for test in names if not re.fullmatch(r"test(?:_[a-z0-9]+){3,}", test)] == []


def test_tests_each_make_a_claim() -> None:
    tests = [(path, function) for path in TESTS for function in functions(path) if function.name.startswith("test_")]
    assert [f"{name(path)}: {function.name}" for path, function in tests if not claims(function)] == []
