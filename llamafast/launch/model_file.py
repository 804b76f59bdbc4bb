"""Finds the local file of a model."""

from __future__ import annotations

from pathlib import Path

from llamafast.errors import ConfigError
from llamafast.launch.config import BUILT_IN, FileConfig, ModelConfig
from llamafast.launch.hub import find_local, resolve

BUILT_IN_MODEL = Path(__file__).parents[1] / "models" / "tiny-qwen35-f16.gguf"
BUILT_IN_PROJECTOR = BUILT_IN_MODEL.with_name("mmproj-tiny-qwen35-f16.gguf")


def local_path(source: FileConfig, name: str) -> Path:
    """The path of the file. Downloads a file of the hub that is not on this machine.

    name: the configuration's name of `source`, for errors. Raises ConfigError, ModelLoadError.
    """
    return resolve(source.from_pretrained) if source.from_pretrained is not None else _configured(source, name)


def projector_path(model: ModelConfig, path: Path) -> Path | None:
    """The projector's file of the model at `path`; None: it has none. Raises ConfigError, ModelLoadError."""
    file = None if model.mtmd is None else model.mtmd.file
    if file is None and path == BUILT_IN_MODEL:
        return BUILT_IN_PROJECTOR
    if file is not None:
        return BUILT_IN_PROJECTOR if file.path == BUILT_IN else _named(file)
    if model.mtmd is not None:
        raise ConfigError("model.mtmd: give mmproj_path or mmproj_from_pretrained")
    return None


def path_if_local(source: FileConfig, name: str) -> Path | None:
    """As local_path(), but without a connection. None for a file of the hub that is not on this machine."""
    return find_local(source.from_pretrained) if source.from_pretrained is not None else _configured(source, name)


def _named(source: FileConfig) -> Path:
    if source.path is None:
        return local_path(source, "model.mtmd")
    path = Path(source.path).expanduser()
    if not path.is_file():
        raise ConfigError(f"model.mtmd.mmproj_path: {path}: no such file")
    return path


def _configured(source: FileConfig, name: str) -> Path:
    if source.path == BUILT_IN:
        return BUILT_IN_MODEL
    path = Path(str(source.path)).expanduser()
    if not path.is_file():
        raise ConfigError(f"{name}.path: {path}: the file does not exist")
    return path
