"""JSON Schemas: outputs are valid in every area of the language, and what cannot be enforced is refused."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys

import jsonschema
import pytest

from llamafast.errors import GrammarError
from llamafast.grammars.guidance import compile_json_schema
from tests.grammars.vocabularies import END, bytes_vocabulary

INT, STR = {"type": "integer"}, {"type": "string"}
MAX_BYTES = 300
VOCABULARY = bytes_vocabulary()

# By area of the JSON Schema test suite.
ENFORCED = {
    "additionalProperties": [
        {"type": "object", "properties": {"a": INT}, "additionalProperties": STR},
        {"type": "object", "properties": {"a": INT}, "additionalProperties": False},
    ],
    "allOf": [{"allOf": [{"minimum": 3}, {"maximum": 5}], "type": "integer"}, {"allOf": [{"maxLength": 3}, STR]}],
    "anchor": [{"$ref": "#foo", "$defs": {"A": {"$anchor": "foo", "type": "integer"}}}],
    "anyOf": [{"anyOf": [INT, STR]}, {"type": "number", "anyOf": [{"minimum": 3}, {"maximum": -3}]}],
    "boolean schema": [{"type": "array", "items": False}, {"properties": {"a": False}}, {"anyOf": [False, INT]}],
    "const": [{"const": {"a": 1}}, {"const": "\u00e9\n"}, {"const": None}, {"const": [1, [2]]}],
    "content": [{"type": "string", "contentEncoding": "base64"}],
    "default": [{"type": "integer", "default": "none"}],
    "defs": [{"$ref": "#/$defs/A", "$defs": {"A": INT}}, {"$ref": "#/definitions/A", "definitions": {"A": STR}}],
    "enum": [{"enum": [{"a": [1, {"b": None}]}, 'x"y', 1.5, True]}, {"type": "string", "enum": ["a", 1, None]}],
    "exclusive bounds": [{"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 6}],
    "format": [{"type": "string", "format": name} for name in ("date-time", "date", "time", "duration", "uuid")],
    "format of hosts": [{"type": "string", "format": name} for name in ("ipv4", "ipv6", "hostname", "email", "uri")],
    "items": [{"type": "array", "items": INT}, {"type": "array", "prefixItems": [INT, STR], "items": False}],
    "bounds of length": [{"type": "string", "minLength": 2, "maxLength": 3}, {"maxLength": 2}],
    "bounds of items": [{"type": "array", "items": INT, "minItems": 2, "maxItems": 3}],
    "bounds of properties": [{"type": "object", "minProperties": 2, "maxProperties": 2}],
    "bounds of 64 bits": [
        {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
        {"type": "integer", "minimum": -(2**63)},
        {"type": "integer", "minimum": 10**18},
        {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
        {"type": "number", "minimum": 0, "maximum": 1e20},
        {"type": "number", "minimum": -3.4028235e38, "maximum": 3.4028235e38},
        {"type": "number", "minimum": 1e-300},
        {"minimum": -(2**63), "maximum": 2**63},
    ],
    "bounds of draft 4": [{"type": "integer", "minimum": 3, "exclusiveMinimum": False, "required": True}],
    "format that is a note": [{"type": "string", "format": name, "maxLength": 3} for name in ("password", "iri", "x")],
    "format and pattern": [{"type": "string", "format": "date", "pattern": "^2024-02"}],
    "bounds of numbers": [{"type": "number", "minimum": -1.5, "maximum": 2.25}, {"minimum": 5, "type": "integer"}],
    "multipleOf": [{"type": "integer", "multipleOf": 7}, {"type": "number", "multipleOf": 0.5}],
    "oneOf": [
        {"oneOf": [INT, STR]},
        {"oneOf": [{"type": "object", "properties": {"k": {"const": k}}, "required": ["k"]} for k in "xyz"]},
    ],
    "pattern": [{"type": "string", "pattern": p} for p in ("^a{2}$", "ab", "^(a|b)$|^c", r"^\w+\s\d$", "^[^\\W]$")],
    "patternProperties": [
        {"type": "object", "patternProperties": {"^a": INT}, "additionalProperties": STR},
        {"type": "object", "patternProperties": {"^a": INT}, "properties": {"ab": STR}},
    ],
    "propertyNames": [
        {"type": "object", "propertyNames": {"pattern": "^a+$"}, "additionalProperties": INT},
        {"type": "object", "propertyNames": {"enum": ["x", "y"]}},
        {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": INT},
        {"type": "object", "properties": {"a": INT}, "propertyNames": {"type": "string"}},
    ],
    "ref": [
        {"$ref": "#/$defs/A", "maximum": 3, "$defs": {"A": INT}},
        {"type": "object", "properties": {"a/b": INT, "c": {"$ref": "#/properties/a~1b"}}, "required": ["c"]},
        {"$defs": {"L": {"anyOf": [{"type": "null"}, {"type": "array", "prefixItems": [{"$ref": "#/$defs/L"}],
                                                     "minItems": 1, "maxItems": 1}]}}, "$ref": "#/$defs/L"},
    ],
    "required": [{"type": "object", "properties": {"a": INT}, "required": ["a", "z"]}, {"required": ["a"]}],
    "type": [{"type": name} for name in ("null", "boolean", "integer", "number", "string", "array", "object")],
    "unknown keyword": [{"type": "integer", "x-order": 1, "deprecated": True}],
    "what does nothing": [
        {"type": "array", "uniqueItems": False, "unevaluatedItems": True},
        {"type": "object", "dependentRequired": {}, "not": False, "then": INT},
    ],
}  # fmt: skip
REFUSED = {
    "additional keywords": {"type": "array", "contains": INT},
    "uniqueItems": {"type": "array", "uniqueItems": True},
    "minContains": {"type": "array", "contains": INT, "minContains": 2},
    "not": {"not": STR},
    "if": {"if": STR, "then": {"maxLength": 2}},
    "dependentRequired": {"dependentRequired": {"a": ["b"]}},
    "dependentSchemas": {"dependentSchemas": {"a": {"required": ["b"]}}},
    "dependencies": {"dependencies": {"a": ["b"]}},
    "unevaluatedProperties": {"properties": {"a": INT}, "unevaluatedProperties": False},
    "propertyNames": {"propertyNames": {"maxLength": 2}},
    "oneOf": {"oneOf": [{"type": "number"}, INT]},
    "$dynamicRef": {"$dynamicRef": "#a"},
    "lookarounds": {"type": "string", "pattern": r"\bfoo\b"},
    "divisibleBy": {"type": "integer", "divisibleBy": 2},
}
HOSTILE = {
    "not JSON": "{",
    "not a number": '{"minimum": NaN}',
    "no schema": "[1]",
    "false": "false",
    "deep text": "[" * 100_000,
    "deep schema": '{"properties": {"a": ' * 60 + "{}" + "}}" * 60,
    "long string": '{"type": "string", "maxLength": 1000000000}',
    "long array": '{"type": "array", "minItems": 1000000000}',
    "many properties": json.dumps({"properties": {f"p{i}": INT for i in range(6000)}}),
    "many patterns": json.dumps({"patternProperties": {f"^p{i}$": INT for i in range(300)}}),
    "pattern bomb": r'{"pattern": "((a{100}){100}){100}"}',
    "reference to itself": '{"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}',
    "object without end": '{"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}',
    "array without end": '{"type": "array", "items": {"$ref": "#"}, "minItems": 1}',
    "no value": '{"type": "integer", "minimum": 5, "maximum": 3}',
    "remote": '{"$ref": "http://example.com/x.json"}',
    "dangling": '{"$ref": "#/$defs/X"}',
    "product": json.dumps(
        {"allOf": [{"anyOf": [{"properties": {f"p{i}{j}": INT}} for j in range(9)]} for i in range(9)]}
    ),
}  # fmt: skip


def write(schema: dict, rng: random.Random) -> str | None:
    """A random text that the grammar allows, with a preference for what closes. None: it does not end."""
    constraint = compile_json_schema(VOCABULARY, json.dumps(schema)).start()
    out = bytearray()
    while len(out) < MAX_BYTES:
        bits = int.from_bytes(constraint.mask(), "little")
        allowed = [i for i in range(END + 1) if bits >> i & 1]
        if constraint.is_finished or allowed == [END] or (END in allowed and rng.random() < 0.5):
            return out.decode()
        allowed = [i for i in allowed if i != END]
        liked = [i for i in allowed if i in b'"}],:0123456789.abxyz'] or allowed
        out.append(rng.choice(liked if rng.random() < 0.8 else allowed))
        assert constraint.accept(out[-1])
    return None


@pytest.mark.parametrize("area", ENFORCED)
def test_schema_of_each_area_is_met_by_every_output(area) -> None:
    rng = random.Random(area)
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    for schema in ENFORCED[area]:
        texts = [text for _ in range(8) if (text := write(schema, rng)) is not None]
        validator = jsonschema.Draft202012Validator(schema, format_checker=checker)
        assert texts and [text for text in texts if not validator.is_valid(json.loads(text))] == [], schema


@pytest.mark.parametrize("keyword", REFUSED)
def test_schema_that_cannot_be_enforced_is_refused_naming_the_keyword(keyword) -> None:
    schema = REFUSED[keyword]
    with pytest.raises(
        GrammarError, match="contains" if keyword == "additional keywords" else keyword.replace("$", ".")
    ):
        compile_json_schema(VOCABULARY, json.dumps(schema))


@pytest.mark.parametrize("name", HOSTILE)
def test_schema_that_is_hostile_is_refused(name) -> None:
    with pytest.raises(GrammarError):
        compile_json_schema(VOCABULARY, HOSTILE[name])


DROPPED = [
    ({"type": "array", "uniqueItems": True}, ["uniqueItems"]),
    ({"contains": {}, "uniqueItems": True}, ["contains", "uniqueItems"]),
    ({"properties": {"a": {"not": {}}, "b": {"not": {}}}}, ["not"]),
    ({"oneOf": [{"minimum": 1}, {"minimum": 2}]}, ["oneOf"]),
    (
        {"type": "object", "properties": {"a": {}}, "maxProperties": 2},
        ["minProperties or maxProperties beside properties that are not required"],
    ),
]


@pytest.mark.parametrize(("schema", "names"), DROPPED, ids=str)
def test_schema_that_is_not_strict_names_the_keywords_that_it_drops(schema, names) -> None:
    assert sorted(compile_json_schema(VOCABULARY, json.dumps(schema), lenient=True).warnings) == names


@pytest.mark.parametrize(("schema", "names"), DROPPED, ids=str)
def test_schema_that_is_strict_is_refused_by_the_names_of_its_keywords(schema, names) -> None:
    with pytest.raises(GrammarError, match=f"^{', '.join(names)} cannot be enforced$"):
        compile_json_schema(VOCABULARY, json.dumps(schema))


@pytest.mark.parametrize(
    ("schema", "what"),
    [
        ({"type": "string", "pattern": "(?=x)y"}, "pattern"),
        ({"type": "string", "pattern": "("}, "pattern"),
        ({"type": "integer", "maximum": -1e30}, "maximum"),
        ({"enum": [2**60 + 1, "x"]}, "enum"),
        ({"type": "integer", "multipleOf": -1}, "multipleOf"),
    ],
)
def test_schema_that_is_not_strict_goes_without_what_does_not_compile(schema, what) -> None:
    assert what in compile_json_schema(VOCABULARY, json.dumps(schema), lenient=True).warnings
    with pytest.raises(GrammarError):
        compile_json_schema(VOCABULARY, json.dumps(schema))


def test_schema_keyword_of_null_says_nothing() -> None:
    schema = {"type": "integer", "pattern": None, "enum": None, "minimum": 3, "maximum": 3, "description": None}
    assert write(schema, random.Random(0)) == "3"


def test_schema_cannot_loosen_itself() -> None:
    with pytest.raises(GrammarError):
        compile_json_schema(VOCABULARY, json.dumps({"not": STR, "x-guidance": {"lenient": True}}))


def test_schema_closes_the_parts_that_never_end() -> None:
    endless = {"type": "object", "properties": {"b": {"$ref": "#/$defs/B"}}, "required": ["b"]}
    schema = {"type": "object", "properties": {"b": {"$ref": "#/$defs/B"}}, "additionalProperties": False}
    constraint = compile_json_schema(VOCABULARY, json.dumps({**schema, "$defs": {"B": endless}})).start()
    assert constraint.accept(ord("{")) and not constraint.accept(ord('"'))


def test_white_space_between_tokens_comes_to_an_end() -> None:
    constraint = compile_json_schema(VOCABULARY, "{}").start()
    assert constraint.accept(ord("[")) and not all(constraint.accept(ord("\n")) for _ in range(4))


CHAIN = """
import json
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
class Bytes:
    eos_token_id, bos_token_id, special_token_ids = 256, None, [256]
    tokens = [*(bytes([b]) for b in range(256)), b"<end>"]
    def __call__(self, text):
        return list(text)
defs = {f"A{i}": {"type": "object", "properties": {"x": {"$ref": f"#/$defs/A{i + 1}"}}} for i in range(20000)}
schema = json.dumps({"$ref": "#/$defs/A0", "$defs": {**defs, "A20000": {}}})
LLMatcher(LLTokenizer(TokenizerWrapper(Bytes())), LLMatcher.grammar_from_json_schema(schema))
"""


def test_chain_of_references_without_our_guard_ends_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", CHAIN], capture_output=True)
    assert done.returncode in (-signal.SIGSEGV, -signal.SIGABRT)


def test_chain_of_references_is_refused() -> None:
    defs = {f"A{i}": {"$ref": f"#/$defs/A{i + 1}"} for i in range(6000)}
    with pytest.raises(GrammarError, match="deeper"):
        compile_json_schema(VOCABULARY, json.dumps({"$ref": "#/$defs/A0", "$defs": {**defs, "A6000": {}}}))
