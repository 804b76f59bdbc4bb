"""Media inside of a request: data URLs and base64."""

from __future__ import annotations

import base64
import binascii
import re

from llamafast.errors import InvalidRequestError

_SPACE = re.compile(r"[ \t\r\n]+")
_URL_SAFE = str.maketrans("-_", "+/")


def is_data_url(url: str) -> bool:
    """Whether a URL holds its data itself."""
    return url[:5].lower() == "data:"


def data_url_bytes(url: str, param: str, max_bytes: int) -> bytes:
    """The bytes in a `data:` URL. Its media type is not looked at: the content says what it is.

    Raises InvalidRequestError, naming `param`.
    """
    head, comma, data = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise InvalidRequestError(f"{param}: a data: URL must hold base64 data", param=param, code="invalid_image_url")
    return base64_bytes(data, param, max_bytes)


def base64_bytes(data: str, param: str, max_bytes: int) -> bytes:
    """Decode base64, also URL-safe and with white space. The length is checked before anything is decoded.

    Raises InvalidRequestError, naming `param`.
    """
    if len(data) // 4 * 3 > max_bytes + max_bytes // 16 + 1024:  # room for line breaks
        raise _too_large(param, max_bytes)
    text = _SPACE.sub("", data)
    if len(text) // 4 * 3 > max_bytes + 2:
        raise _too_large(param, max_bytes)
    text = text.translate(_URL_SAFE).rstrip("=")
    try:
        found = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequestError(
            f"{param}: the base64 data is not valid", param=param, code="invalid_base64"
        ) from None
    if not found:
        raise InvalidRequestError(f"{param}: there is no data", param=param)
    if len(found) > max_bytes:
        raise _too_large(param, max_bytes)
    return found


def _too_large(param: str, max_bytes: int) -> InvalidRequestError:
    return InvalidRequestError(
        f"{param}: the file is larger than {max_bytes} bytes", param=param, code="media_too_large"
    )
