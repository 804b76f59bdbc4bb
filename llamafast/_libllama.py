"""Finds the libllama of llama-cpp-python, checks its version and loads it before `_core` is imported.

libmtmd, from the same folder, is loaded before `_mtmd` is imported.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

REQUIREMENT = "llama-cpp-python"
_LINKED = ("llamafast._core", "llamafast._encoder", "llamafast._runner", "llamafast._mtmd")
SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"


def pinned_version() -> str | None:
    """The llama-cpp-python version that llamafast was compiled against; None if llamafast is not installed."""
    try:
        requirements = importlib.metadata.requires("llamafast") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    prefix = f"{REQUIREMENT}=="
    return next((line.removeprefix(prefix).strip() for line in requirements if line.startswith(prefix)), None)


def find_libllama(pinned: str | None) -> Path:
    """Path of the libllama to load. Raises ImportError with one line if it is missing or has another version."""
    wanted = f"{REQUIREMENT}=={pinned}" if pinned else REQUIREMENT
    # find_spec does not import the package, which would load numpy and take most of a second.
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise ImportError(f'llamafast needs {REQUIREMENT}, which is not installed; run: pip install "{wanted}"')
    try:
        installed = importlib.metadata.version(REQUIREMENT)
    except importlib.metadata.PackageNotFoundError:
        installed = "of unknown version"
    if pinned is not None and installed != pinned:
        raise ImportError(
            f"llamafast was compiled against {REQUIREMENT} {pinned}, but {installed} is installed; "
            f'run: pip install "{wanted}"'
        )
    path = Path(spec.origin).parent / "lib" / f"libllama{SUFFIX}"
    if not path.is_file():
        raise ImportError(f'llamafast: {path} is missing; run: pip install --force-reinstall "{wanted}"')
    return path


def load(path: Path) -> None:
    """Load libllama, so that the dynamic linker finds it by its SONAME for `_core`. Raises ImportError."""
    # When llama.cpp aborts, it would start a debugger for a stack trace.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    try:
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise ImportError(f"llamafast: {path} cannot be loaded: {error}") from error


class CoreFinder:
    """Import hook: loads libllama before the first import of a module that links to it.

    It also explains in one line that a compiled module is missing. A hook works for every order of imports, and
    `import llamafast` alone stays cheap.
    """

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Load libllama if `name` links to it. Returns None, so that the usual finders continue. Raises ImportError."""
        if name.startswith("llamafast._") and importlib.machinery.PathFinder.find_spec(name, path) is None:
            folder = Path(__file__).parent
            raise ImportError(
                f"{name} is not compiled in {folder}: this is the source folder, not the installed package; "
                f"run Python in another folder, or with PYTHONSAFEPATH=1"
            )
        if name in _LINKED:
            libllama = find_libllama(pinned_version())
            load(libllama)
            if name == "llamafast._mtmd":
                load(libllama.with_name(f"libmtmd{SUFFIX}"))
        return None
