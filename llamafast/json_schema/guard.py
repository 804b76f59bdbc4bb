"""A JSON Schema whose strings do not hold the tags that the value stands between: the first one would end it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from llamafast.errors import GrammarError
from llamafast.json_schema import types
from llamafast.json_schema.alternatives import Strings, alternatives
from llamafast.json_schema.formats import FORMATS
from llamafast.json_schema.idle import drop_idle
from llamafast.json_schema.lark_regex import without, without_character
from llamafast.json_schema.merged import merged
from llamafast.json_schema.refs import Document
from llamafast.json_schema.types import Schema, as_schema
from llamafast.json_schema.walk import mapped

_ANY = "_any"  # the definition of every value
_APPLIED = frozenset({"anyOf", "oneOf", "allOf", "$ref"})
# Where references lead into themselves it would go on for ever.
_MAX_MERGED = 500
_MAX_DEPTH = 20

_Plain: TypeAlias = dict[str, object]


def guarded(schema: Schema, never: Sequence[str], unheld: Callable[[str], None]) -> _Plain:
    """A standalone schema that allows what the given one does, without strings that hold one of the texts `never`.

    Where properties are declared, no others are allowed: their names could not be kept from holding a tag. Names that a
    pattern describes are without the first character of the texts. unheld: told of a keyword that has to go, it may
    raise. Raises GrammarError for a schema that is too complex.
    """
    guard = _Guard(schema, never, unheld)
    definitions = {name: guard.of(part) for name, part in as_schema(schema.get("$defs")).items()}
    body = guard.of({name: part for name, part in schema.items() if name != "$defs"})
    return {**as_schema(body), "$defs": {**definitions, _ANY: guard.any_value()}}


def _any() -> _Plain:
    return {"$ref": f"#/$defs/{_ANY}"}


class _Guard:
    """Guards the schemas of one document."""

    def __init__(self, root: Schema, never: Sequence[str], unheld: Callable[[str], None]) -> None:
        self._document = Document(root)
        self._unheld = unheld
        self._never = never
        self._pattern = f"^{without(*never)}$"
        self._num_merged = 0
        self._depth = 0

    def of(self, schema: object) -> object:
        """The same without strings that hold a tag."""
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
        """Every value without strings that hold a tag."""
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
            raise GrammarError("references that never end")
        found = alternatives(schema, self._document)
        self._depth += 1
        rows = [self._single(merged(each)) for each in found]
        self._depth -= 1
        if len(rows) == 1:
            return rows[0]
        return {"oneOf" if any(each.is_overlapping for each in found) else "anyOf": rows} if rows else False

    def _single(self, schema: Schema) -> _Plain:
        """One without references, and with no more combinations than of patterns."""
        said = dict(schema)
        drop_idle(said)
        names = said.pop("propertyNames", None)
        out = mapped(said, self.of)
        out |= {"allOf": said["allOf"]} if "allOf" in said else {}
        enum = out.get("enum")
        if isinstance(enum, list):
            out["enum"] = [value for value in enum if not _holds(value, self._never)]
        if _holds(out.get("const"), self._never):
            del out["const"]
            out["enum"] = []
        if "enum" in out or "const" in out:
            return out
        kinds = types.declared(out)
        if "string" in kinds and out.get("format") not in FORMATS:
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
            schema["properties"] = {name: False if _holds(name, self._never) else table[name] for name in table}
        if patterns:
            schema["patternProperties"] = self._keys(patterns)
        if names is not None and (table or patterns):
            self._unheld("propertyNames")
        elif names is not None:
            schema |= self._named(names, values)
        elif not table and not patterns and values is not False:
            schema["patternProperties"] = {self._pattern: values}
        schema["additionalProperties"] = False

    def _keys(self, patterns: Schema) -> _Plain:
        """The same table without keys that hold a tag."""
        found = {pattern: without_character(pattern, self._never[0][0]) for pattern in patterns}
        if None in found.values():
            self._unheld("patternProperties")
            return {self._pattern: _any()}
        return {f"^({new})$": patterns[pattern] for pattern, new in found.items()}

    def _named(self, names: object, values: object) -> _Plain:
        """Members with such names, and these values."""
        found = [each.strings for each in alternatives(names, self._document) if "string" in each.types]
        if all(each.values is not None for each in found):
            listed = [name for each in found for name in each.values or () if not _holds(name, self._never)]
            return {"properties": dict.fromkeys(listed, values)}
        if any(each.is_free for each in found):
            return {"patternProperties": {self._pattern: values}}
        said = found[0]
        if len(found) == 1 and said == Strings(None, said.patterns[:1], (), 0, None):
            return {"patternProperties": self._keys({said.patterns[0]: values})}
        self._unheld("propertyNames")
        return {"patternProperties": {self._pattern: values}}


def _holds(value: object, never: Sequence[str]) -> bool:
    if isinstance(value, Mapping):
        return any(_holds(part, never) for pair in value.items() for part in pair)
    if isinstance(value, list):
        return any(_holds(part, never) for part in value)
    return isinstance(value, str) and any(text in value for text in never)
