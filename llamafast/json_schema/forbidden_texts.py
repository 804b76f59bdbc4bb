"""Rewrites a JSON Schema so that its strings do not contain certain texts, such as the tag that ends a value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from llamafast.errors import GrammarError
from llamafast.json_schema import types
from llamafast.json_schema.alternatives import StringConstraints, alternatives
from llamafast.json_schema.lark_regex import excluding_character, not_containing
from llamafast.json_schema.merged import merged
from llamafast.json_schema.noop_keywords import drop_noop_keywords
from llamafast.json_schema.refs import Document
from llamafast.json_schema.string_formats import STRING_FORMATS
from llamafast.json_schema.subschemas import map_subschemas
from llamafast.json_schema.types import Schema, as_schema

_ANY = "_any"  # the definition of any value
_APPLIED = frozenset({"anyOf", "oneOf", "allOf", "$ref"})
# Recursive references would never end.
_MAX_MERGED = 500
_MAX_DEPTH = 20

_Plain: TypeAlias = dict[str, object]


def without_forbidden_texts(schema: Schema, forbidden: Sequence[str], on_unenforced: Callable[[str], None]) -> _Plain:
    """A standalone schema for the same values, except those with strings that contain a forbidden text.

    If properties are declared, no others are allowed, because their names could contain a tag. Keys that a pattern
    describes do not contain the first character of the texts.
    on_unenforced: called with each keyword that must be dropped; it may raise.
    Raises GrammarError if the schema is too complex.
    """
    guard = _Rewriter(schema, forbidden, on_unenforced)
    definitions = {name: guard.of(part) for name, part in as_schema(schema.get("$defs")).items()}
    body = guard.of({name: part for name, part in schema.items() if name != "$defs"})
    return {**as_schema(body), "$defs": {**definitions, _ANY: guard.any_value()}}


def _any() -> _Plain:
    return {"$ref": f"#/$defs/{_ANY}"}


class _Rewriter:
    """Rewrites the schemas of one document."""

    def __init__(self, root: Schema, forbidden: Sequence[str], on_unenforced: Callable[[str], None]) -> None:
        self._document = Document(root)
        self._on_unenforced = on_unenforced
        self._forbidden = forbidden
        self._pattern = f"^{not_containing(*forbidden)}$"
        self._num_merged = 0
        self._depth = 0

    def of(self, schema: object) -> object:
        """The schema without strings that contain a forbidden text."""
        if not isinstance(schema, Mapping):
            return schema if schema is False else _any()
        applied = _APPLIED & schema.keys()
        if not applied:
            return self._single(schema) if schema else _any()
        if len(schema) == 1:
            [(name, rows)] = schema.items()
            if name == "$ref":
                return dict(schema)
            if name != "allOf" and isinstance(rows, list):
                return {name: [self.of(each) for each in rows]}
            if isinstance(rows, list) and len(rows) == 1:
                return self.of(rows[0])
        return self._merged(schema)

    def any_value(self) -> _Plain:
        """Any value without strings that contain a forbidden text."""
        return {
            "anyOf": [
                {"type": ["number", "boolean", "null"]},
                {"type": "string", "pattern": self._pattern},
                {"type": "array", "items": _any()},
                {"type": "object", "patternProperties": {self._pattern: _any()}, "additionalProperties": False},
            ]
        }

    def _merged(self, schema: Schema) -> object:
        self._num_merged += 1
        if self._num_merged > _MAX_MERGED or self._depth > _MAX_DEPTH:
            raise GrammarError("the references of the schema never end")
        found = alternatives(schema, self._document)
        self._depth += 1
        rows = [self._single(merged(each)) for each in found]
        self._depth -= 1
        if len(rows) == 1:
            return rows[0]
        return {"oneOf" if any(each.is_overlapping for each in found) else "anyOf": rows} if rows else False

    def _single(self, schema: Schema) -> _Plain:
        """A schema without references, and without combinations other than of patterns."""
        said = dict(schema)
        drop_noop_keywords(said)
        names = said.pop("propertyNames", None)
        out = map_subschemas(said, self.of)
        out |= {"allOf": said["allOf"]} if "allOf" in said else {}
        enum = out.get("enum")
        if isinstance(enum, list):
            out["enum"] = [value for value in enum if not _holds(value, self._forbidden)]
        if _holds(out.get("const"), self._forbidden):
            del out["const"]
            out["enum"] = []
        if "enum" in out or "const" in out:
            return out
        kinds = types.declared(out)
        if "string" in kinds and out.get("format") not in STRING_FORMATS:
            self._guard_string(out)
        others = "additionalItems" if isinstance(out.get("items"), list) else "items"
        if "array" in kinds and others not in out:
            out[others] = _any()
        if "object" in kinds:
            self._guard_object(out, names)
        return out

    def _guard_string(self, schema: _Plain) -> None:
        if "pattern" in schema:
            others = schema.get("allOf")
            schema["allOf"] = [*(others if isinstance(others, list) else []), {"pattern": self._pattern}]
        else:
            schema["pattern"] = self._pattern

    def _guard_object(self, schema: _Plain, names: object) -> None:
        values = schema.get("additionalProperties", _any())
        table, patterns = as_schema(schema.get("properties")), as_schema(schema.get("patternProperties"))
        if table:
            schema["properties"] = {name: False if _holds(name, self._forbidden) else table[name] for name in table}
        if patterns:
            schema["patternProperties"] = self._keys(patterns)
        if names is not None and (table or patterns):
            self._on_unenforced("propertyNames")
        elif names is not None:
            schema |= self._named(names, values)
        elif not table and not patterns and values is not False:
            schema["patternProperties"] = {self._pattern: values}
        schema["additionalProperties"] = False

    def _keys(self, patterns: Schema) -> _Plain:
        """The table without keys that contain a forbidden text."""
        found = {pattern: excluding_character(pattern, self._forbidden[0][0]) for pattern in patterns}
        if None in found.values():
            self._on_unenforced("patternProperties")
            return {self._pattern: _any()}
        return {f"^({new})$": patterns[pattern] for pattern, new in found.items()}

    def _named(self, names: object, values: object) -> _Plain:
        """Members with such names and these values."""
        found = [each.strings for each in alternatives(names, self._document) if "string" in each.types]
        if all(each.values is not None for each in found):
            listed = [name for each in found for name in each.values or () if not _holds(name, self._forbidden)]
            return {"properties": dict.fromkeys(listed, values)}
        if any(each.is_free for each in found):
            return {"patternProperties": {self._pattern: values}}
        said = found[0]
        if len(found) == 1 and said == StringConstraints(None, said.patterns[:1], (), 0, None):
            return {"patternProperties": self._keys({said.patterns[0]: values})}
        self._on_unenforced("propertyNames")
        return {"patternProperties": {self._pattern: values}}


def _holds(value: object, forbidden: Sequence[str]) -> bool:
    if isinstance(value, Mapping):
        return any(_holds(part, forbidden) for pair in value.items() for part in pair)
    if isinstance(value, list):
        return any(_holds(part, forbidden) for part in value)
    return isinstance(value, str) and any(text in value for text in forbidden)
