"""ArgumentWriter: turns arguments that a model writes as bare text into JSON, by the tool's schema."""

from __future__ import annotations

from collections.abc import Sequence
from json.encoder import encode_basestring

from llamafast.chat.reading.value_schema import ANY
from llamafast.chat.tools import Tool
from llamafast.json_schema.types import STRING

# Characters of null and the white space around it.
_MAX_NULL = 16

_STRING_OR_NULL = STRING | {"null"}


class ArgumentWriter:
    """Writes the arguments object of one call as pieces of JSON text.

    Strings are written as they arrive; other values are written when they end. A value becomes a string if it is not
    JSON of a type that its schema allows. Without a schema, JSON stays as it is, except strings in quotes. Python's
    constants, lists and dicts are converted to JSON, because some templates show them to the model.
    """

    __slots__ = ("_num_values", "_parameters", "_pieces", "is_streaming", "schema")

    def __init__(self, name: str, tools: Sequence[Tool] | None) -> None:
        self._parameters = next((tool.value_schema for tool in tools or () if tool.name == name), ANY)
        self._num_values = 0
        self._pieces: list[str] = []
        self.schema = ANY  # of the current value
        self.is_streaming = False  # the value is a string, and what was added has been written

    def begin(self, key: str, *, is_string: bool | None = None) -> str:
        """Begin a value. is_string: what the model declares about the value; None: the schema decides."""
        self._pieces.clear()
        self.schema = self._parameters.member(key) if is_string is None else ANY
        self.is_streaming = self.schema.types == STRING if is_string is None else is_string
        head = f"{', ' if self._num_values else '{'}{encode_basestring(key)}: "
        self._num_values += 1
        return head + '"' if self.is_streaming else head

    def add(self, text: str) -> str:
        """Add a piece of the value."""
        if self.is_streaming:
            return encode_basestring(text)[1:-1]
        self._pieces.append(text)
        if self.schema.types == _STRING_OR_NULL:
            begun = "".join(self._pieces)
            # A value that may still become null has to wait.
            if len(begun) > _MAX_NULL or not any(word.startswith(begun.strip()) for word in ("null", "None")):
                self.is_streaming = True
                return encode_basestring(begun)[:-1]
        return ""

    def end(self) -> str:
        """End the value."""
        return '"' if self.is_streaming else self.schema.value("".join(self._pieces))

    def cut(self) -> str:
        """End the value where the whole text ends."""
        return "" if self.is_streaming else encode_basestring("".join(self._pieces))[:-1]

    def close(self) -> str:
        """End the object."""
        return "}" if self._num_values else "{}"
