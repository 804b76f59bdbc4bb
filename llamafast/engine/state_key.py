"""The key of stored states: a state with another key is wrong for this engine, although llama.cpp would load it."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from glob import escape, glob
from hashlib import blake2b
from pathlib import Path

from llamafast._core import COMPILED_LLAMA_CPP_PYTHON, Context, Model, libllama_version
from llamafast.engine.config import ENGINE_SETTINGS, EngineConfig

# Larger files are read in this many evenly spread pieces, because reading a large model would take minutes.
_NUM_PIECES = 256
_PIECE_BYTES = 2**20

_SETTINGS = tuple(s.name for s in ENGINE_SETTINGS.values() if s.in_state_key)
_FACTS = ("memory_kind", "kv_unified", "swa_full", "n_rs_seq")


def state_key(model: Model, context: Context, config: EngineConfig, loras: Iterable[tuple[str, float]] = ()) -> bytes:
    """The key as bytes: model content, adapters, version of llama.cpp, memory layout, types and rope settings.

    loras: (path, scale) of each adapter. Reads at most 256 MiB of each file.
    """
    return json.dumps(
        {
            "model": [fingerprint(path) for path in _parts(model.path)],
            "loras": [(fingerprint(path), scale) for path, scale in loras],
            "llama.cpp": [COMPILED_LLAMA_CPP_PYTHON, libllama_version(), sys.byteorder],
            **{name: getattr(context, name) for name in _FACTS},
            **{name: getattr(config, name) for name in _SETTINGS},
        },
        sort_keys=True,
    ).encode()


def fingerprint(path: str) -> str:
    """Hash of a file's size and content; above 256 MiB, of the content at evenly spread places."""
    size = os.stat(path).st_size
    found = blake2b(str(size).encode(), digest_size=32)
    with open(path, "rb") as file:
        for start in _pieces(size):
            file.seek(start)
            found.update(file.read(_PIECE_BYTES))
    return found.hexdigest()


def _pieces(size: int) -> Iterator[int]:
    if size <= _NUM_PIECES * _PIECE_BYTES:
        yield from range(0, size, _PIECE_BYTES)
    else:
        yield from (i * (size - _PIECE_BYTES) // (_NUM_PIECES - 1) for i in range(_NUM_PIECES))


def _parts(path: str) -> list[str]:
    """All files of a model that is split into several files; else the file itself."""
    name = re.fullmatch(r"(.*)-\d{5}-(of-\d{5}\.gguf)", Path(path).name)
    if name is None:
        return [path]
    folder = escape(str(Path(path).parent))
    return sorted(glob(f"{folder}/{escape(name[1])}-[0-9][0-9][0-9][0-9][0-9]-{name[2]}"))
