"""The file format of a stored state, and the checks of a file before its state is used."""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from hashlib import blake2b
from typing import BinaryIO

from llamafast.cache.prompt import TEXT_ONLY, Layout, MediaSpan

_MAGIC = b"LLFSTATE"
_TEXT_VERSION, _MEDIA_VERSION = 1, 2
_DIGEST_BYTES = 32
_ID_BYTES = array("i").itemsize
_FIXED = struct.Struct(f"<8sI{_DIGEST_BYTES}s{_DIGEST_BYTES}sQQ{_DIGEST_BYTES}s")
_NUM_SPANS = struct.Struct("<I")
_SPAN = struct.Struct("<QQQQB")  # start, n_rows, n_pos, last_t_offset, bytes of the digest
_MAX_SPANS_BYTES = 2**20


class DamagedFileError(Exception):
    """A file is not as it was written, or has an unknown version."""


@dataclass(frozen=True, slots=True)
class StateHeader:
    """The header of a file, before the state:

        magic, version | key | salt | number of rows, of bytes | digest of the state | ids | spans | digest of all this

    key: bytes, digest of all settings that the state depends on.
    salt: bytes, digest of the cache salt.
    token_ids: array('i'), the ids of the rows.
    state_bytes: int, size of the state.
    state_digest: bytes, digest of the state.
    layout: Layout, the media spans of the rows. Only files with media contain spans, and have version 2.

    Digests are BLAKE2b of 32 bytes.
    """

    key: bytes
    salt: bytes
    token_ids: array[int]
    state_bytes: int
    state_digest: bytes
    layout: Layout = TEXT_ONLY

    @property
    def file_bytes(self) -> int:
        """Size of the whole file."""
        return file_bytes(len(self.token_ids), self.state_bytes, self.layout)

    def is_same_prefix(self, other: StateHeader) -> bool:
        """Whether both states have the same rows. Their bytes may differ, because servers may round differently."""
        mine, theirs = ((one.key, one.salt, one.token_ids, one.layout.media) for one in (self, other))
        return mine == theirs

    def pack(self) -> bytes:
        """The header as bytes."""
        version = _MEDIA_VERSION if self.layout.media else _TEXT_VERSION
        numbers = len(self.token_ids), self.state_bytes
        fixed = _FIXED.pack(_MAGIC, version, self.key, self.salt, *numbers, self.state_digest)
        head = fixed + self.token_ids.tobytes() + _pack_spans(self.layout)
        return head + digest(head)


def digest(*parts: bytes) -> bytes:
    """BLAKE2b of the joined parts, 32 bytes; releases the GIL for long data."""
    found = blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        found.update(part)
    return found.digest()


def file_bytes(num_rows: int, state_bytes: int, layout: Layout = TEXT_ONLY) -> int:
    """Size of the file of a state."""
    return _FIXED.size + num_rows * _ID_BYTES + len(_pack_spans(layout)) + _DIGEST_BYTES + state_bytes


def read_header(file: BinaryIO, num_bytes: int) -> StateHeader:
    """Read the header of a file of num_bytes bytes, up to the state. Raises DamagedFileError."""
    fixed = file.read(_FIXED.size)
    if len(fixed) < _FIXED.size:
        raise DamagedFileError("too short")
    magic, version, key, salt, num_rows, state_bytes, state_digest = _FIXED.unpack(fixed)
    if magic != _MAGIC or version not in (_TEXT_VERSION, _MEDIA_VERSION):
        raise DamagedFileError("not a state of this version")
    num_left = num_bytes - file_bytes(num_rows, state_bytes)
    if (version == _TEXT_VERSION and num_left) or not 0 <= num_left <= _MAX_SPANS_BYTES:
        raise DamagedFileError("its length is wrong")
    ids, spans = file.read(num_rows * _ID_BYTES), file.read(num_left)
    if file.read(_DIGEST_BYTES) != digest(fixed + ids + spans):
        raise DamagedFileError("the header's checksum is wrong")
    return StateHeader(key, salt, array("i", ids), state_bytes, state_digest, _read_spans(spans))


def read_state(file: BinaryIO, header: StateHeader) -> bytes:
    """Read the state after the header. Raises DamagedFileError."""
    state = file.read(header.state_bytes)
    if len(state) != header.state_bytes or digest(state) != header.state_digest:
        raise DamagedFileError("the state's checksum is wrong")
    return state


def _pack_spans(layout: Layout) -> bytes:
    if not layout.media:
        return b""
    packed = [_NUM_SPANS.pack(len(layout.media))]
    for span in layout.media:
        packed += [
            _SPAN.pack(span.start, span.n_rows, span.n_pos, span.last_t_offset, len(span.digest)),
            span.digest,
        ]
    return b"".join(packed)


def _read_spans(spans: bytes) -> Layout:
    """The layout that _pack_spans() wrote. The checksum is already checked. Raises DamagedFileError."""
    if not spans:
        return TEXT_ONLY
    media, place = [], _NUM_SPANS.size
    try:
        (num_spans,) = _NUM_SPANS.unpack_from(spans)
        for _ in range(num_spans):
            start, n_rows, n_pos, last_t_offset, num_bytes = _SPAN.unpack_from(spans, place)
            place += _SPAN.size + num_bytes
            media.append(MediaSpan(start, n_rows, n_pos, last_t_offset, spans[place - num_bytes : place]))
    except struct.error:
        raise DamagedFileError("its spans are cut off") from None
    return Layout(tuple(media))
