"""Media files on this machine, below one folder that the operator names."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from llamafast.errors import InvalidRequestError

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIECE = 1 << 20


def read_file_url(url: str, root: Path, param: str, max_bytes: int) -> bytes:
    """The file that a `file:` URL names. It must be a regular file below root, and no part of its path a link.

    Blocks. Raises InvalidRequestError, naming `param`; it does not say what is outside of the root.
    """
    refused = InvalidRequestError(f"{param}: this file cannot be read here", param=param, code="invalid_image_url")
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise refused
    path = os.fsdecode(unquote_to_bytes(parts.path))
    given = Path(path)
    if "\0" in path or ".." in given.parts or not given.is_absolute():
        raise refused
    try:
        names = given.relative_to(root.resolve()).parts
    except (ValueError, OSError):
        raise refused from None
    if not names:
        raise refused
    try:
        return _read_below(root, names, param, max_bytes)
    except OSError:
        raise refused from None


def _read_below(root: Path, names: tuple[str, ...], param: str, max_bytes: int) -> bytes:
    """Open one component after the other, so that nobody can put a link in between. Raises OSError."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names[:-1]:
            below = os.open(name, _FLAGS | os.O_DIRECTORY, dir_fd=folder)
            os.close(folder)
            folder = below
        file = os.open(names[-1], _FLAGS, dir_fd=folder)
    finally:
        with suppress(OSError):
            os.close(folder)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):  # a FIFO, a device, a folder
            raise OSError
        pieces: list[bytes] = []
        left = max_bytes + 1
        while left > 0 and (piece := os.read(file, min(left, _PIECE))):
            pieces.append(piece)
            left -= len(piece)
    finally:
        os.close(file)
    data = b"".join(pieces)
    if len(data) > max_bytes:
        raise InvalidRequestError(
            f"{param}: the file is larger than {max_bytes} bytes", param=param, code="media_too_large"
        )
    if not data:
        raise InvalidRequestError(f"{param}: the file is empty", param=param)
    return data
