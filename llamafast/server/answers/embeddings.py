"""The answer of POST /v1/embeddings, as bytes: a vector is never a list of Python numbers."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable, Mapping

import orjson

from llamafast._vectors import json_array
from llamafast.engine.embedding import FLOAT_BYTES


def embeddings_answer(
    vectors: bytes | bytearray, n_dims: int, *, encoding_format: str, model: str, usage: Mapping[str, int]
) -> bytes:
    """The JSON document.

    vectors: float32, shape (inputs, n_dims). encoding_format: "float" or "base64". model: the name to show.
    """
    write: Callable[[memoryview], bytes] = _base64 if encoding_format == "base64" else json_array
    view, size = memoryview(vectors), FLOAT_BYTES * n_dims
    items = [
        b'{"object":"embedding","index":%d,"embedding":%b}' % (i, write(view[start : start + size]))
        for i, start in enumerate(range(0, len(vectors), size))
    ]
    end = orjson.dumps({"model": model, "usage": usage})
    return b'{"object":"list","data":[%b],%b' % (b",".join(items), end[1:])


def _base64(vector: memoryview) -> bytes:
    return b'"%b"' % b2a_base64(vector, newline=False)
