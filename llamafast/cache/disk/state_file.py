"""The file of one stored state, and how anything else is told from it before it is used."""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from hashlib import blake2b
from typing import BinaryIO

_MAGIC = b"LLFSTATE"
_VERSION = 1
_DIGEST_BYTES = 32
_TOKEN_BYTES = array("i").itemsize
_FIXED = struct.Struct(f"<8sI{_DIGEST_BYTES}s{_DIGEST_BYTES}sQQ{_DIGEST_BYTES}s")


class DamagedFileError(Exception):
    """A file is not what was once written, or of a version that is not known here."""


@dataclass(frozen=True, slots=True)
class StateHeader:
    """What stands before the state:

        magic, version | key | salt | number of tokens, of bytes | digest of the state | tokens | digest of the former

    key: digest of all that gives the state its meaning. salt: digest of the tenant's name. Digests are BLAKE2b.
    """

    key: bytes
    salt: bytes
    token_ids: array[int]
    state_bytes: int
    state_digest: bytes

    @property
    def header_bytes(self) -> int:
        return _FIXED.size + len(self.token_ids) * _TOKEN_BYTES + _DIGEST_BYTES

    @property
    def file_bytes(self) -> int:
        return self.header_bytes + self.state_bytes

    def stands_for(self, other: StateHeader) -> bool:
        """Whether the other's state is of the same tokens; two servers may compute them with other roundings."""
        return (self.key, self.salt, self.token_ids) == (other.key, other.salt, other.token_ids)

    def pack(self) -> bytes:
        """The bytes in front of the state."""
        fixed = _FIXED.pack(
            _MAGIC, _VERSION, self.key, self.salt, len(self.token_ids), self.state_bytes, self.state_digest
        )
        head = fixed + self.token_ids.tobytes()
        return head + digest(head)


def digest(*parts: bytes) -> bytes:
    """BLAKE2b of the parts in a row; does not hold the GIL for long data."""
    found = blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        found.update(part)
    return found.digest()


def file_bytes(num_tokens: int, state_bytes: int) -> int:
    """The size of a file before it is made."""
    return _FIXED.size + num_tokens * _TOKEN_BYTES + _DIGEST_BYTES + state_bytes


def read_header(file: BinaryIO, num_bytes: int) -> StateHeader:
    """The header of a file of num_bytes; the file stands at the state then. Raises DamagedFileError."""
    fixed = file.read(_FIXED.size)
    if len(fixed) < _FIXED.size:
        raise DamagedFileError("too short")
    magic, version, key, salt, num_tokens, state_bytes, state_digest = _FIXED.unpack(fixed)
    if magic != _MAGIC or version != _VERSION:
        raise DamagedFileError("not a state of this version")
    if file_bytes(num_tokens, state_bytes) != num_bytes:
        raise DamagedFileError("not as long as it says")
    tokens = file.read(num_tokens * _TOKEN_BYTES)
    if file.read(_DIGEST_BYTES) != digest(fixed + tokens):
        raise DamagedFileError("the header's checksum is wrong")
    return StateHeader(key, salt, array("i", tokens), state_bytes, state_digest)


def read_state(file: BinaryIO, header: StateHeader) -> bytes:
    """What follows the header. Raises DamagedFileError."""
    state = file.read(header.state_bytes)
    if len(state) != header.state_bytes or digest(state) != header.state_digest:
        raise DamagedFileError("the state's checksum is wrong")
    return state
