"""The arguments of an earlier call: an object, or any text that a client sends back in its place."""

from __future__ import annotations

import json
from collections.abc import Mapping

from llamafast.chat.strict_json import loads
from llamafast.errors import InvalidRequestError

# If a template requires an object, a text that is not one becomes the value of this key.
RAW_NAME = "arguments"
# Some clients encode twice: the object is in a string in a string.
_MAX_ENCODINGS = 3


def read_arguments(given: object, param: str) -> tuple[object, str]:
    """The arguments as (object, text). If the text is not a JSON object, the first is the given text.

    given: what the client sent. OpenAI accepts any string, and an answer that was cut off has an incomplete object. An
        empty text and null mean no arguments.
    Raises InvalidRequestError with this param if given is neither a string nor an object.
    """
    if isinstance(given, Mapping):
        try:
            return given, json.dumps(given, ensure_ascii=False)
        except RecursionError:
            raise InvalidRequestError(f"{param}: nested too deeply", param=param) from None
    if given is not None and not isinstance(given, str):
        raise InvalidRequestError(f"{param}: must be a string of JSON or an object", param=param)
    text = (given or "").strip()
    value: object = text
    for _ in range(_MAX_ENCODINGS):
        text = str(value).strip()
        value = _json(text)
        if not isinstance(value, str):
            break
    if value is None:
        return {}, "{}"
    return (value, text) if isinstance(value, dict) else (given, str(given))


def _json(text: str) -> object:
    """The value of the text. None: the text is empty or null. 0: it is not JSON."""
    try:
        value = loads(text or "null")
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate has no UTF-8
    except (ValueError, RecursionError):
        return 0
    return value
