"""The arguments of a call in the history: an object, or whatever text a client sends back for one."""

from __future__ import annotations

import json
from collections.abc import Mapping

from llamafast.chat.strict_json import loads
from llamafast.errors import InvalidRequestError

# The name under which a template that needs an object shows a text that is none.
RAW_NAME = "arguments"
# An object in a string in a string: clients that encode twice.
_MAX_ENCODINGS = 3


def read_arguments(given: object, param: str) -> tuple[object, str]:
    """Arguments as an object and as text; for a text that is no JSON object the first is that text.

    OpenAI takes any string, and an answer that was cut off has half an object. Nothing and null are no arguments.
    Raises InvalidRequestError, naming `param`, for what is neither a string nor an object.
    """
    if isinstance(given, Mapping):
        try:
            return given, json.dumps(given, ensure_ascii=False)
        except RecursionError:
            raise InvalidRequestError(f"{param}: nested too deeply", param=param) from None
    if given is not None and not isinstance(given, str):
        raise InvalidRequestError(f"{param}: must be a string, of JSON, or an object", param=param)
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
    """What the text says; None for nothing, 0 for what is no JSON."""
    try:
        value = loads(text or "null")
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError):
        return 0
    return value
