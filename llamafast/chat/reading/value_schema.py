"""Shape: what a tool's JSON Schema says about one value that a model writes as bare text."""

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

# Longer values are not tried as Python's: its parser is slow.
_MAX_PYTHON = 100_000

_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}
_ANYTHING = [Alternative((), types.ALL)]


class ValueSchema:
    """types: what the value may be, in JSON Schema's words; None: anything. document: where references lead to."""

    __slots__ = ("_alternatives", "_document", "types")

    def __init__(self, schema: object, document: Document) -> None:
        self._document = document
        try:
            self._alternatives = alternatives(schema, document) or _ANYTHING
        except GrammarError:
            self._alternatives = _ANYTHING
        found = frozenset[str]().union(*(each.types for each in self._alternatives))
        self.types = None if found == types.ALL else found

    def member(self, key: str) -> ValueSchema:
        """An object's member of that name."""
        objects = [each for each in self._alternatives if "object" in each.types]
        named = [its.schema for each in objects for its in each.properties if its.name == key and its.is_declared]
        return self._one_of(named or [each.others for each in objects])

    def item(self) -> ValueSchema:
        """A list's items."""
        return self._one_of([each.items for each in self._alternatives if "array" in each.types])

    def value(self, text: str) -> str:
        """A whole value, in JSON: of a type that is allowed, rather with what else is said, if the text can be that."""
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
        return ValueSchema({"anyOf": schemas}, self._document) if schemas else ANY


def _from_python(text: str) -> str:
    """A list or dict as Python prints it, in JSON. Empty: it is none."""
    if text[:1] not in ("[", "{") or len(text) > _MAX_PYTHON:
        return ""
    try:
        value: object = ast.literal_eval(text)
        return json.dumps(value, ensure_ascii=False, allow_nan=False) if isinstance(value, (dict, list)) else ""
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return ""


ANY = ValueSchema(True, Document(True))
