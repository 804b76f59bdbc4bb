"""The import check: each problem with libllama gives one readable ImportError."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from llamafast import _core, _libllama

ROOT = Path(__file__).parents[1]


def run(code: str) -> subprocess.CompletedProcess[str]:
    # The child imports the llamafast under test, not the source folder that it would find in the current folder.
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tempfile.gettempdir(),
        env={**os.environ, "PYTHONPATH": str(Path(_libllama.__file__).parents[1])},
    )


def one_line(caught: pytest.ExceptionInfo[ImportError]) -> str:
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_core_compiled_version_is_the_pinned_one() -> None:
    pinned = re.search(r'"llama-cpp-python==([^"]+)"', (ROOT / "pyproject.toml").read_text())
    assert pinned is not None
    assert pinned[1] == _core.COMPILED_LLAMA_CPP_PYTHON == importlib.metadata.version("llama-cpp-python")


def test_find_libllama_right_version_is_a_file() -> None:
    assert _libllama.find_libllama(_core.COMPILED_LLAMA_CPP_PYTHON).is_file()


def test_find_libllama_other_version_says_both_and_what_to_do() -> None:
    with pytest.raises(ImportError) as caught:
        _libllama.find_libllama("9.9.9")
    text = one_line(caught)
    assert "compiled against llama-cpp-python 9.9.9" in text
    assert f"{_core.COMPILED_LLAMA_CPP_PYTHON} is installed" in text
    assert 'pip install "llama-cpp-python==9.9.9"' in text


def test_find_libllama_not_installed_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'is not installed; run: pip install "llama-cpp-python==1.2.3"') as caught:
        _libllama.find_libllama("1.2.3")
    assert one_line(caught)


def test_find_libllama_missing_file_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = ModuleSpec("llama_cpp", None, origin=str(tmp_path / "llama_cpp" / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ImportError, match=r"libllama.* is missing; run: pip install --force-reinstall") as caught:
        _libllama.find_libllama(None)
    assert str(tmp_path) in one_line(caught)


def test_load_broken_library_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "libllama.so"
    path.write_bytes(b"no library")
    with pytest.raises(ImportError, match="cannot be loaded") as caught:
        _libllama.load(path)
    assert one_line(caught)


def test_pinned_version_comes_from_installed_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = ["fastapi>=0.1", "llama-cpp-python==1.2.3", 'pytest>=8; extra == "test"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requirements)
    assert _libllama.pinned_version() == "1.2.3"


def test_import_llamafast_alone_loads_nothing_heavy() -> None:
    done = run(
        "import sys, llamafast.launch.cli; "
        "print({'llamafast._core', 'llama_cpp', 'numpy', 'fastapi', 'uvicorn', 'huggingface_hub'} & set(sys.modules))"
    )
    assert done.stdout == "set()\n", done.stderr


def test_import_exports_are_all_there() -> None:
    done = run("import llamafast; print([getattr(llamafast, name) is not None for name in llamafast.__all__])")
    assert done.stdout == f"{[True] * 5}\n", done.stderr


def test_import_core_by_any_module_checks_version() -> None:
    done = run(
        "from llamafast import _libllama; _libllama.pinned_version = lambda: '9.9.9'\nimport llamafast.engine.engine"
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: llamafast was compiled against llama-cpp-python 9.9.9")


def test_command_line_without_libllama_still_prints_version() -> None:
    done = run(
        "import importlib.util, sys; from llamafast import _libllama; from llamafast.launch import cli\n"
        "_libllama.importlib.util.find_spec = lambda name: None\n"
        "sys.argv = ['llamafast', '--version']; cli.main()"
    )
    assert done.stdout.startswith("llamafast "), done.stderr


def test_command_line_without_libllama_is_one_line_and_exit_code_1() -> None:
    done = run(
        "import importlib.util, sys; from llamafast import _libllama; from llamafast.launch import cli\n"
        "_libllama.importlib.util.find_spec = lambda name: None\n"
        "sys.argv = ['llamafast', 'serve']; cli.main()"
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [done.stderr.strip()]
    assert "llama-cpp-python, which is not installed" in done.stderr


def test_source_folder_without_compiled_modules_says_where_to_run(tmp_path: Path) -> None:
    package = tmp_path / "llamafast"
    package.mkdir()
    for name in ("__init__.py", "_libllama.py"):
        (package / name).write_bytes((Path(_libllama.__file__).parent / name).read_bytes())
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import llamafast._kernels"
    result = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr.splitlines()[-1].startswith("ImportError: llamafast._kernels is not compiled in")
