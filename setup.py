"""Build of the Cython modules: those without llama.h, and those that link libllama or libmtmd of llama-cpp-python."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
DEBUG = os.environ.get("LLAMAFAST_DEBUG", "0") not in ("", "0")
# The extensions that call llama.cpp, with the libraries that each one needs.
LINKED = {"_core": ["llama"], "_encoder": ["llama"], "_runner": ["llama"], "_mtmd": ["mtmd"]}
REQUIREMENT = re.compile(r'"llama-cpp-python==([^"]+)"')


def pinned_version() -> str:
    """The one llama-cpp-python version that this source is written against (pyproject.toml is the only place)."""
    match = REQUIREMENT.search((ROOT / "pyproject.toml").read_text())
    if match is None:
        sys.exit("llamafast: pyproject.toml pins no llama-cpp-python version")
    return match.group(1)


def llama_folders(pinned: str) -> tuple[Path, Path]:
    """(include folder, library folder) of the installed llama-cpp-python. Exits with one line if it does not fit."""
    how = f'install it first: pip install "llama-cpp-python=={pinned}"'
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        sys.exit(f"llamafast: llama-cpp-python is needed to build; {how}")
    installed = importlib.metadata.version("llama-cpp-python")
    if installed != pinned:
        sys.exit(f"llamafast: llama-cpp-python {installed} is installed, but this source needs {pinned}; {how}")
    package = Path(spec.origin).parent
    include, lib = package.parent / "include", package / "lib"
    if not (include / "llama.h").is_file() or not list(lib.glob("libllama.*")):
        sys.exit(f"llamafast: {package} holds no llama.h and libllama; {how} --force-reinstall")
    return include, lib


def is_gcc(compiler: str) -> bool:
    """Whether a compiler command is GNU's."""
    return "Free Software Foundation" in subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout


class BuildExt(build_ext):
    """build_ext that says in one line what to do when there is no compiler."""

    def build_extensions(self) -> None:
        command = list(getattr(self.compiler, "compiler_cxx", None) or self.compiler.compiler)
        if shutil.which(command[0]) is None:
            sys.exit(
                f"llamafast: no C++ compiler found (looked for {command[0]!r}); install one "
                "(Debian/Ubuntu: apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install)"
            )
        if sys.platform == "linux" and is_gcc(command[0]):
            # libgomp's threads are llama.cpp's: another compiler's OpenMP would start its own beside them.
            for extension in self.extensions:
                if extension.name == "llamafast._runner":
                    extension.extra_compile_args.append("-fopenmp")
                    extension.extra_link_args.append("-fopenmp")
        super().build_extensions()


def extensions() -> list[Extension]:
    pinned = pinned_version()
    include, lib = llama_folders(pinned)
    flags = ["-O1", "-g"] if DEBUG else ["-O3", "-g0"]
    flags += ["-fno-math-errno", "-fno-trapping-math", "-Wno-unused-function"]
    origin = "@loader_path" if sys.platform == "darwin" else "$ORIGIN"
    plain = [
        Extension(f"llamafast.{name}", [f"llamafast/{name}.pyx"], language="c++", extra_compile_args=flags)
        for name in ("_kernels", "_filters", "_sampling", "_grammar", "_json_shape", "_vectors")
    ]
    linked = [
        Extension(
            f"llamafast.{name}",
            [f"llamafast/{name}.pyx"],
            language="c++",
            include_dirs=[str(include)],
            library_dirs=[str(lib)],
            libraries=libraries,
            define_macros=[("LLAMAFAST_LLAMA_CPP_PYTHON", f'"{pinned}"')],
            extra_compile_args=[*flags, "-std=c++17"],
            extra_link_args=[f"-Wl,-rpath,{origin}/../llama_cpp/lib"],
        )
        for name, libraries in LINKED.items()
    ]
    return [*plain, *linked]


directives = {
    "language_level": 3,
    "binding": True,
    "embedsignature": True,
    "cdivision": True,
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": DEBUG,
    "nonecheck": DEBUG,
}

setup(
    ext_modules=cythonize(extensions(), compiler_directives=directives, force=DEBUG),
    cmdclass={"build_ext": BuildExt},
)
