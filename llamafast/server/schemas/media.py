"""Parts of messages that hold an image or a sound, as OpenAI's chat API writes them."""

from __future__ import annotations

from collections.abc import Mapping

from llamafast.errors import InvalidRequestError
from llamafast.server.chat.media import MediaPart

KINDS = {"image_url": "image", "input_image": "image", "audio_url": "audio", "input_audio": "audio"}
"""By the type of a part, the kind of its media."""

_DETAILS = ("auto", "low", "high", "original")
_ROLES = ("user", "tool", "function")


def media_part(part: Mapping[str, object], role: str, path: str) -> MediaPart:
    """The image or sound of a part. path: the part's place in the body. Raises InvalidRequestError."""
    name = str(part.get("type"))
    if role not in _ROLES:
        raise _invalid(path, f"a message of the role '{role}' can hold no part of type '{name}'")
    if name == "input_audio":
        value = part.get(name)
        data = value.get("data") if isinstance(value, Mapping) else None
        return MediaPart.new("audio", _text(data, f"{path}.input_audio.data", path), path)
    field = "image_url" if name == "input_image" else name
    value = part.get(field)
    detail = part.get("detail")
    url = value
    if isinstance(value, Mapping):
        url, detail = value.get("url"), value.get("detail", detail)
    if detail is not None and detail not in _DETAILS:
        raise _invalid(path, f"detail must be one of {', '.join(_DETAILS)}")
    return MediaPart.new(KINDS[name], _text(url, f"{path}.{field}.url", path), path, is_small=detail == "low")


def _text(value: object, where: str, path: str) -> str:
    if not isinstance(value, str) or not value:
        raise _invalid(path, f"{where} must be a text that is not empty")
    return value


def _invalid(path: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(f"{path}: {why}", param=path, code="invalid_content")
