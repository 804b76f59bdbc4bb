"""The import laws of docs/structure.md, checked in the source."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "llamafast"
MODULES = {
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}
ROOMS = {module.split(".")[1] for module in MODULES if "." in module}
BENCHMARKS = sorted((SOURCE.parent / "benchmarks").glob("*.py"))
CYTHON = sorted([*SOURCE.glob("*.pyx"), *SOURCE.glob("*.pxd")])


@cache
def syntax(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


@cache
def imports(module: str) -> set[str]:
    """Full names of all imports of a module, including those for types only."""
    nodes = list(ast.walk(syntax(module)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def in_room(name: str, *rooms: str) -> bool:
    return any(name == f"llamafast.{room}" or name.startswith(f"llamafast.{room}.") for room in rooms)


def importers_of(room: str) -> set[str]:
    return {module for module in MODULES if any(in_room(name, room) for name in imports(module))}


def has_cycle(graph: dict[str, set[str]]) -> list[str]:
    """The modules in import cycles: what remains after removing modules without remaining imports repeatedly."""
    left = dict(graph)
    while ready := [name for name, needs in left.items() if not needs & left.keys() - {name}]:
        for name in ready:
            del left[name]
    return sorted(left)


def test_core_is_imported_by_engine_and_tokenizer_only() -> None:
    others = [module for module in importers_of("_core") if not in_room(module, "engine", "tokenizer")]
    assert others == []


@pytest.mark.parametrize(
    ("room", "library", "below"),
    [
        ("chat", "jinja2", ["json_schema"]),
        ("cache", "", []),
        ("grammars", "llguidance", ["json_schema", "_grammar"]),
        ("json_schema", "", []),
        ("responses", "orjson", []),
        ("media", "PIL miniaudio httpcore", []),
    ],
)
def test_room_imports_errors_its_one_library_and_what_lies_below(room: str, library: str, below: list[str]) -> None:
    allowed = {*sys.stdlib_module_names, *library.split()}  # cache and json_schema have none
    for module in filter(lambda name: in_room(name, room), MODULES):
        strangers = {name for name in imports(module) if name.split(".")[0] not in allowed}
        assert {name for name in strangers if not in_room(name, room, "errors", *below)} - {"llamafast"} == set(), (
            module
        )


def test_engine_imports_neither_chat_nor_server() -> None:
    assert [name for name in importers_of("chat") | importers_of("server") if in_room(name, "engine")] == []


# Attributes inside an Engine. Others use its methods and its records (limits, stats, model_info, context_info).
INSIDE = {"batch", "cache", "context", "disk", "grammars", "model", "scheduler"}


def reads_inside(tree: ast.Module) -> list[str]:
    """Expressions such as `engine.cache` and `self._engine.disk`: an attribute in INSIDE of an object named engine."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in INSIDE]
    return [text for text in map(ast.unparse, nodes) if text.rsplit(".", 2)[-2].endswith("engine")]


@pytest.mark.parametrize("room", ["server", "launch", "benchmarks"])
def test_others_do_not_reach_into_the_engine(room: str) -> None:
    trees = {module: syntax(module) for module in MODULES if in_room(module, room)}
    if room == "benchmarks":
        trees = {path.name: ast.parse(path.read_text()) for path in BENCHMARKS}
    assert trees
    assert {name: found for name, tree in trees.items() if (found := reads_inside(tree))} == {}


def test_engines_are_run_by_their_protocol_alone() -> None:
    # The code that runs an engine also works for engines without text.
    strangers = {name for name in imports("llamafast.engine.engine_thread") if in_room(name, "engine")}
    known = {"metrics", "output_stream", "protocol", "snapshot"}
    assert {name for name in strangers if name.split(".")[2] not in known} == set()


def test_engine_imports_nothing_for_types_alone() -> None:
    names = [module for module in MODULES if in_room(module, "engine") and "typing.TYPE_CHECKING" in imports(module)]
    assert names == []


def test_launch_is_imported_by_launch_only() -> None:
    assert {name for name in importers_of("launch") if not in_room(name, "launch")} <= {"llamafast.__main__"}


def test_host_imports_nothing_of_ours() -> None:
    modules = [module for module in MODULES if in_room(module, "host")]
    assert [name for module in modules for name in imports(module) if in_room(name, *ROOMS - {"host"})] == []


def test_delivery_imports_no_dialect() -> None:
    dialects = [f"server.answers.{name}" for name in ("openai", "chunks", "chat", "completions", "items")]
    assert [name for name in imports("llamafast.server.delivery") if in_room(name, *dialects)] == []


def test_conversations_import_neither_bodies_nor_answers() -> None:
    modules = [module for module in MODULES if in_room(module, "server.chat")]
    strangers = ("server.schemas", "server.routes", "server.answers", "server.delivery", "server.openapi")
    assert [(module, name) for module in modules for name in imports(module) if in_room(name, *strangers)] == []


@pytest.mark.parametrize("name", ["_encoder", "_runner", "_sampling", "_mtmd"])
def test_native_loops_are_imported_by_engine_only(name: str) -> None:
    assert [module for module in importers_of(name) if not in_room(module, "engine")] == []


@pytest.mark.parametrize(
    ("name", "allowed"), [("_kernels", []), ("_filters", ["_kernels"]), ("_sampling", ["_filters", "_kernels"])]
)
def test_kernels_filters_and_sampling_import_what_lies_below(name: str, allowed: list[str]) -> None:
    text = "".join(path.read_text() for path in CYTHON if path.stem == name)
    found = re.findall(r"^\s*(?:from|import|cimport)\s+llamafast\.?([\w.]*)", text, re.MULTILINE)
    assert sorted(set(found)) == allowed


def test_modules_import_without_cycle() -> None:
    # Imports for types count, too: a module that needs another's types cannot be understood without it. Only the
    # package itself imports its exports for types only.
    graph = {module: {name for name in imports(module) if name in MODULES} for module in MODULES}
    graph["llamafast"] = {"llamafast._libllama"}
    assert has_cycle(graph) == []


def test_pxd_files_cimport_without_cycle() -> None:
    pattern = re.compile(r"^cimport llamafast\.(\w+)|^from llamafast\.(\w+) cimport", re.MULTILINE)
    graph = {
        path.stem: {first or second for first, second in pattern.findall(path.read_text())} - {path.stem}
        for path in CYTHON
        if path.suffix == ".pxd"
    }
    assert has_cycle(graph) == []


def test_cython_includes_no_source() -> None:
    assert [path.name for path in CYTHON if re.search(r"^\s*include\s", path.read_text(), re.MULTILINE)] == []


def test_functions_import_nothing_of_ours() -> None:
    # Only the command line does: it must answer --version and --help without libllama.
    hidden = {
        module
        for module in MODULES
        for function in ast.walk(syntax(module))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llamafast")
    }
    assert hidden == {"llamafast.launch.cli"}
