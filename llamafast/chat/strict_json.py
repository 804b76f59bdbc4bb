"""JSON text to Python values without the constants that Python adds to JSON."""

from __future__ import annotations

import json
from typing import NoReturn


def loads(text: str) -> object:
    """The value of a JSON text.

    Raises ValueError if the text is not JSON (NaN and Infinity are not) or is nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("too deep") from error


def _refuse(word: str) -> NoReturn:
    raise ValueError(word)
