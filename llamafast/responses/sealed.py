"""Reasoning that only this server can read: what `encrypted_content` holds."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import zlib

_VERSION = b"lf1"
_DIGEST_BYTES = 16
_MAX_TEXT_BYTES = 8 * 2**20


class Seal:
    """Packs texts so that clients can send them back, and tells its own from those of other servers.

    key: any bytes; a server with another key, or after a restart with a fresh one, takes a text for a foreign one. The
    text is not secret: it is what the model wrote for this client.
    """

    def __init__(self, key: bytes) -> None:
        self._key = hashlib.sha256(key).digest()

    def close(self, text: str) -> str:
        """The packed text."""
        packed = zlib.compress(text.encode())
        return base64.b64encode(_VERSION + self._digest(packed) + packed).decode()

    def open(self, sealed: str) -> str | None:
        """The text in what close() gave; None: it is not from here, or damaged."""
        try:
            data = base64.b64decode(sealed, validate=True)
        except (ValueError, binascii.Error):
            return None
        head, packed = data[: len(_VERSION) + _DIGEST_BYTES], data[len(_VERSION) + _DIGEST_BYTES :]
        if not hmac.compare_digest(head, _VERSION + self._digest(packed)):
            return None
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(packed, _MAX_TEXT_BYTES)
        return None if unpacker.unconsumed_tail else text.decode()

    def _digest(self, packed: bytes) -> bytes:
        return hmac.digest(self._key, packed, "sha256")[:_DIGEST_BYTES]
