"""Values that models would write for schemas of every kind."""

from __future__ import annotations

from dataclasses import dataclass

from llamafast.chat.tools import Tool

STR = {"type": "string"}
INT = {"type": "integer"}
DIGITS = {"type": "string", "enum": ["1", "2"]}
NODE = {"type": "object", "properties": {"name": STR, "kids": {"type": "array", "items": {"$ref": "#/$defs/node"}}}}
DEFS = {
    "node": {**NODE, "required": ["name"], "additionalProperties": False},
    "a/b": {"type": "integer", "minimum": 3},
    "My E": DIGITS,
    "base": {"type": "object", "properties": {"id": STR}, "required": ["id"]},
    "100%": {"type": "boolean"},
    "either": {"anyOf": [DIGITS, {"type": "null"}]},
}


@dataclass(frozen=True)
class Case:
    """schema: of an argument `v`. good: values that a model may write for it. bad: values that it must not write."""

    schema: dict[str, object]
    good: tuple[object, ...]
    bad: tuple[object, ...] = ()

    @property
    def tool(self) -> Tool:
        parameters = {"type": "object", "properties": {"v": self.schema}, "required": ["v"], "$defs": DEFS}
        return Tool("f", "", {**parameters, "additionalProperties": False}, strict=True)


LINES = "first line\n\n  second: <b>bold</b> & 'quoted' \"twice\" \\ done\n"

CASES = {
    "string": Case(STR, ("Paris", "", LINES, "naïve 日本 🎉", "5", "null", "{", "a < b </p> <par")),
    "maxLength": Case(
        {**STR, "maxLength": 20}, ("Paris", "", "a\nb", "x" * 20, "<b>&\\'\"</b>", "日本🎉"), ("x" * 21,)
    ),
    "long maxLength": Case({**STR, "maxLength": 5000}, ("Paris", LINES * 3, ""), ("x" * 5001,)),
    "long maxLength or list": Case(
        {"anyOf": [{**STR, "maxLength": 200}, {"type": "array", "items": {**STR, "maxLength": 200}}]},
        ("Paris", LINES, ["</b>", "x" * 200]),
        (["x" * 201],),
    ),
    "minLength": Case({**STR, "minLength": 1}, ("P", "\n", LINES, "]"), ("",)),
    "lengths": Case({**STR, "minLength": 2, "maxLength": 4}, ("ab", "a\nbc", "12"), ("a", "abcde")),
    "pattern that is not anchored": Case({**STR, "pattern": "b+"}, ("abc", "b", "x\nb\ny"), ("", "ac")),
    "pattern": Case({**STR, "pattern": r"^[A-Z]{2}-\d+$"}, ("AB-12",), ("AB-", "xAB-1")),
    "pattern with a break": Case({**STR, "pattern": "^a\\\nb/c\\/d$"}, ("a\nb/c/d",), ("ab/c/d",)),
    "pattern with a slash": Case({**STR, "pattern": "^https?://[^ /]+/?$"}, ("https://x.org/",), ("http:/x",)),
    "pattern with alternatives": Case({**STR, "pattern": "^(cat|dog)s?$|^x"}, ("cats", "xyz"), ("acat",)),
    "pattern and length": Case({**STR, "pattern": "^a", "maxLength": 3}, ("a", "abc"), ("abcd", "b")),
    "date": Case({**STR, "format": "date"}, ("2024-02-29", "2026-11-27"), ("2023-02-29", "2024-13-01")),
    "date-time": Case({**STR, "format": "date-time"}, ("2026-11-27T20:15:00Z", "2026-11-27T20:15:00.5+01:00")),
    "email": Case({**STR, "format": "email"}, ("a.b+c@example.com",), ("nobody",)),
    "uri": Case({**STR, "format": "uri"}, ("https://example.com/a?b=c#d", "mailto:a@b.c"), ("no uri",)),
    "uuid": Case({**STR, "format": "uuid"}, ("123e4567-e89b-12d3-a456-426614174000",), ("123e4567",)),
    "ipv6": Case({**STR, "format": "ipv6"}, ("::1", "2001:db8::8a2e:370:7334"), ("1::2::3",)),
    "unknown format": Case({**STR, "format": "password", "maxLength": 8}, ("hunter2",), ("x" * 9,)),
    "other format": Case({**STR, "format": "uri-reference"}, ("/a/b",)),
    "enum": Case({"enum": ["celsius", "fahrenheit"]}, ("celsius", "fahrenheit"), ("kelvin", "cel")),
    "enum of beginnings": Case({"enum": ["a", "a\nb", "ab", "a<"]}, ("a", "a\nb", "ab", "a<"), ("b",)),
    "enum of several types": Case({"enum": ["a", 1, None, True]}, ("a", 1, None, True), ("b", 2)),
    "enum of digits": Case(DIGITS, ("1", "2"), ("3",)),
    "enum under a type": Case({**STR, "enum": ["a", "b", None]}, ("a", "b"), (None,)),
    "enum with null": Case({"type": ["string", "null"], "enum": ["a", "null", None]}, ("a", "null")),
    "enum under allOf": Case(
        {"allOf": [{"description": "d"}, {"type": "string", "enum": ["7", "8"]}]}, ("7",), (7, "9")
    ),
    "two enums": Case({"allOf": [{"enum": ["a", "b"]}, {"enum": ["b", "c"]}]}, ("b",), ("a", "c")),
    "const": Case({"const": "x y"}, ("x y",), ("x",)),
    "integer": Case(INT, (5, -3, 0, 2**63 - 1), ("x", 1.5)),
    "counts with a point": Case({**STR, "minLength": 2.0, "maxLength": 4.0}, ("ab", "abcd"), ("a", "abcde")),
    "items with a point": Case(
        {"type": "array", "items": INT, "minItems": 1.0, "maxItems": 2.0}, ([1],), ([], [1] * 3)
    ),
    "numbers of a list": Case({"enum": [0.5, 1.0]}, (0.5, 1), (2,)),
    "bounds": Case({**INT, "minimum": 3, "maximum": 120}, (3, 99, 120), (2, 121)),
    "int64": Case({**INT, "format": "int64", "minimum": -(2**63), "maximum": 2**63 - 1}, (0, -5, 2**63 - 1), (2**63,)),
    "uint64": Case({**INT, "minimum": 0, "maximum": 2**64 - 1}, (0, 10**18), (-1,)),
    "number": Case({"type": "number"}, (1.5, -2, 0, 1e-7, 6.02e23)),
    "number to 1e20": Case({"type": "number", "minimum": 0, "maximum": 1e20}, (0, 1.5, 12345678), (-1,)),
    "float32": Case({"type": "number", "minimum": -3.4028235e38, "maximum": 3.4028235e38}, (0, -1.5, 1e6)),
    "multipleOf": Case({"type": "number", "multipleOf": 0.5}, (1.5, 2), (1.25,)),
    "boolean": Case({"type": "boolean"}, (True, False), ("yes",)),
    "null": Case({"type": "null"}, (None,), (1,)),
    "string or null": Case({"type": ["string", "null"]}, ("Paris", None, "", LINES)),
    "short string or null": Case(
        {"anyOf": [{**STR, "maxLength": 5}, {"type": "null"}]}, ("Paris", None, ""), ("Berlin",)
    ),
    "digits or integer": Case(
        {"anyOf": [{**STR, "pattern": "^[0-9]{2}$"}, {**INT, "minimum": 100, "maximum": 105}]},
        ("50", 100, 105),
        (50, 99, "7"),
    ),
    "word or number": Case(
        {"anyOf": [{**STR, "minLength": 3}, {"type": "number", "minimum": 0.5, "exclusiveMaximum": 9}]},
        ("abc", "5th street", 5, 0.5, 8.99),
        ("a", 9, 0.4),
    ),
    "word or integer": Case({"type": ["string", "integer"], "pattern": "^[a-z]+$"}, ("abc", 5), ("A",)),
    "any of strings": Case({"anyOf": [{"enum": ["auto"]}, {**STR, "pattern": "^v[0-9]+$"}]}, ("auto", "v12"), ("v",)),
    "string or list": Case({"anyOf": [STR, {"type": "array", "items": STR}]}, ("Paris", ["a", "b"], LINES), ([1],)),
    "short string or list": Case(
        {"anyOf": [{**STR, "maxLength": 4}, {"type": "array", "items": INT}]}, ("abc", [1, 2])
    ),
    "list": Case({"type": "array", "items": STR, "minItems": 1}, (["a", "b c"], ["</b>", '"', "\\", "\n"]), ([], [1])),
    "list of objects": Case(
        {"type": "array", "items": {"type": "object", "properties": {"old": STR, "new": {"type": ["string", "null"]}}}},
        ([{"old": "<a></a>", "new": None}], []),
        ([{"old": 5}],),
    ),
    "object": Case({"type": "object", "properties": {"a": INT}, "required": ["a"]}, ({"a": 5},), ({}, {"a": "x"})),
    "map": Case(
        {"type": "object", "additionalProperties": {"type": "number"}}, ({"x": 1.5, "y z": 2}, {}), ({"x": "1"},)
    ),
    "map of strings": Case(
        {"type": "object", "propertyNames": STR, "additionalProperties": {"type": "number"}}, ({"x": 1},), ({"x": "1"},)
    ),
    "map of a pattern": Case(
        {"type": "object", "patternProperties": {"^x-": STR}, "additionalProperties": False},
        ({"x-a": "b"}, {"x-a": "</b>", "x-c": ""}, {}),
        ({"a": "b"}, {"x-a": 1}),
    ),
    "map of listed names": Case(
        {"type": "object", "propertyNames": {"type": "string", "enum": ["a", "b c"]}, "additionalProperties": INT},
        ({"a": 1}, {"b c": 2}),
        ({"c": 1}, {"a": "x"}),
    ),
    "tuple": Case(
        {"type": "array", "prefixItems": [INT, STR], "items": False, "minItems": 2},
        ([1, "a"], [2, ""]),
        ([1], ["a", 1], [1, "a", 2]),
    ),
    "tuple and more": Case(
        {"type": "array", "prefixItems": [STR], "items": INT, "maxItems": 3},
        ([], ["a"], ["a", 1, 2]),
        ([1], ["a", "b"], ["a", 1, 2, 3]),
    ),
    "constant object": Case({"const": {"a": ["x", 1, {}]}}, ({"a": ["x", 1, {}]},), ({"a": ["x", 1]}, {})),
    "list of constants": Case({"enum": [["a", "b"], [], {"c d": None}]}, (["a", "b"], []), (["a"],)),
    "anything": Case({}, ("Paris", 5, None, [1, "a"], {"a": 1}, True)),
    "reference": Case({"$ref": "#/$defs/node"}, ({"name": "a", "kids": [{"name": "b"}]},), ({"kids": []},)),
    "reference with a slash": Case({"$ref": "#/$defs/a~1b"}, (5,), (2, "x")),
    "reference with a space": Case({"$ref": "#/$defs/My%20E"}, ("1",), ("3", 1)),
    "reference with a percent sign": Case({"$ref": "#/$defs/100%25"}, (True,), ("x",)),
    "reference into a list": Case({"$ref": "#/$defs/either/anyOf/0"}, ("1", "2"), (1, None)),
    "reference to a choice": Case({"$ref": "#/$defs/either"}, ("1", None), (1,)),
    "extension": Case(
        {"allOf": [{"$ref": "#/$defs/base"}, {"type": "object", "properties": {"size": INT}, "required": ["size"]}]},
        ({"id": "x", "size": 3}, {"id": "</b>", "size": 3}),
        ({"id": "x"}, {"size": 3}, {"id": "x", "size": "3"}),
    ),
    "one of two keys": Case(
        {"type": "object", "properties": {"a": STR, "b": STR}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        ({"a": "x"}, {"b": "x"}, {"a": "x", "b": "y"}),
        ({},),
    ),
    "oneOf": Case({"oneOf": [{"type": "boolean"}, {"type": "array", "items": INT}]}, (True, [1]), ("x", ["a"])),
}
