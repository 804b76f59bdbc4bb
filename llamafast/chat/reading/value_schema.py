"""ValueSchema: what a tool's JSON Schema says about one value that a model writes as bare text."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from json.encoder import encode_basestring

from llamafast.chat.strict_json import loads
from llamafast.errors import GrammarError
from llamafast.json_schema import types
from llamafast.json_schema.alternatives import Alternative, alternatives
from llamafast.json_schema.refs import Document

# Longer values are not tried as Python, because its parser is slow.
_MAX_PYTHON = 100_000

_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}
_ANYTHING = [Alternative((), types.ALL)]


class ValueSchema:
    """The schema of one value.

    types: the JSON Schema types that the value may have. None: any type.
    """

    __slots__ = ("_alternatives", "_document", "_members", "types")

    def __init__(self, schema: object, document: Document) -> None:
        self._document = document
        self._members: dict[str, ValueSchema] = {}  # those that the schema names
        try:
            self._alternatives = alternatives(schema, document) or _ANYTHING
        except GrammarError:
            self._alternatives = _ANYTHING
        found = frozenset[str]().union(*(each.types for each in self._alternatives))
        self.types = None if found == types.ALL else found

    def member(self, key: str) -> ValueSchema:
        """The schema of an object's member of this name."""
        if key in self._members:
            return self._members[key]
        objects = [each for each in self._alternatives if "object" in each.types]
        named = [its.schema for each in objects for its in each.properties if its.name == key and its.is_declared]
        if not named:
            return self._one_of([each.others for each in objects])
        self._members[key] = self._one_of(named)
        return self._members[key]

    def item(self) -> ValueSchema:
        """The schema of a list's items."""
        return self._one_of([each.items for each in self._alternatives if "array" in each.types])

    def value(self, text: str) -> str:
        """The JSON of a whole value. It has a type that the schema allows, and meets its other keywords, if the text
        can be read so.
        """
        strings = [each.strings for each in self._alternatives if "string" in each.types]
        if self.types == types.STRING or any(text in its.values for its in strings if its.values is not None):
            return encode_basestring(text)
        read = [(word, value) for word, value in self._read(text) if not isinstance(value, str)]
        for word, value in read:
            if any(each.allows(value) for each in self._alternatives):
                return word
        if all(its.values is not None for its in strings):
            for word, value in read:
                if self.types is None or types.kinds(value) & self.types:
                    return word
        return encode_basestring(text)

    def _read(self, text: str) -> Iterator[tuple[str, object]]:
        """The JSON that a text may mean, and its value."""
        word = text.strip()
        if not word and self.types is not None and "string" not in self.types:
            word = "[]" if "array" in self.types else "{}" if "object" in self.types else ""
        for found in (_PYTHON_WORDS.get(word, word), _from_python(word)):
            try:
                yield found, loads(found)
                return
            except ValueError:
                continue

    def _one_of(self, schemas: list[object]) -> ValueSchema:
        if not schemas:
            return ANY
        return ValueSchema(schemas[0] if len(schemas) == 1 else {"anyOf": schemas}, self._document)


def _from_python(text: str) -> str:
    """The JSON of a list or dict in Python's notation; "" if the text is neither."""
    if text[:1] not in ("[", "{") or len(text) > _MAX_PYTHON:
        return ""
    try:
        value: object = ast.literal_eval(text)
        return json.dumps(value, ensure_ascii=False, allow_nan=False) if isinstance(value, (dict, list)) else ""
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return ""


ANY = ValueSchema(True, Document(True))
