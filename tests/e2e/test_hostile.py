"""Hostile schemas and grammars on a real server: a 400 names the field, and other clients are served."""

from __future__ import annotations

import asyncio
import json

import pytest

from .conftest import post, refused

pytestmark = pytest.mark.usefixtures("next_request_is_answered")


def nested(opening, num_levels, closing, leaf="true"):
    return json.loads(opening * num_levels + leaf + closing * num_levels)


PROPERTIES = [{"properties": {f"p{i}": {"type": "integer"}}} for i in range(6)]

HOSTILE = {
    "schema of a megabyte": (
        "json_schema", {"properties": {f"property {i}": {"type": "string"} for i in range(25_000)}},
    ),
    "schema nested as deep as JSON goes": ("json_schema", nested('{"not":', 240, "}")),
    "schema nested in lists": ("json_schema", nested('{"anyOf":[', 120, "]}")),
    "schema that is only itself": ("json_schema", {"$ref": "#"}),
    "schema that goes in circles": (
        "json_schema", {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    ),
    "schema that needs itself": (
        "json_schema", {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    ),
    "schema of a billion characters": ("json_schema", {"type": "string", "maxLength": 10**9}),
    "schema of at least a billion characters": ("json_schema", {"type": "string", "minLength": 10**9}),
    "schema of a billion items": ("json_schema", {"type": "array", "items": {"type": "null"}, "minItems": 10**9}),
    "schema that multiplies": ("json_schema", {"allOf": [{"anyOf": PROPERTIES} for _ in range(12)]}),
    "schema on another server": ("json_schema", {"$ref": "http://example.com/schema"}),
    "schema of nothing": ("json_schema", False),
    "schema of no value": ("json_schema", {"enum": []}),
    "schema that contradicts itself": ("json_schema", {"type": "string", "minLength": 5, "maxLength": 2}),
    "schema of multiples of a large prime": ("json_schema", {"type": "integer", "multipleOf": 999_983}),
    "schema of patterns that meet": (
        "json_schema", {"type": "string", "allOf": [{"pattern": f"^.*a.{{{i}}}$"} for i in range(30)]},
    ),
    "schema of lists that look alike": (
        "json_schema", {"anyOf": [{"type": "array", "items": {"type": "array", "items": {"enum": [f"{i}", i]}}}
                                  for i in range(400)]},
    ),
    "schema of two types": ("json_schema", {"allOf": [{"type": "string"}, {"type": "integer"}]}),
    "schema with a bomb": ("json_schema", {"type": "string", "pattern": "^(a{1000}){1000}$"}),
    "schema that forbids a value": ("json_schema", {"type": "string", "not": {"const": "x"}}),
    "schema that is no JSON": ("guided_json", "[1"),
    "schema text nested beyond all": ("guided_json", "[" * 100_000),
    "regex that multiplies": ("guided_regex", "(a{1000}){1000}"),
    "regex that multiplies slowly": ("guided_regex", "(((a{1,100}){1,100}){1,100}){1,100}"),
    "regex nested deeply": ("guided_regex", "(" * 50_000 + "a" + ")" * 50_000),
    "regex nested in stars": ("guided_regex", "(" * 500 + "a" + ")*" * 500),
    "regex that looks ahead": ("guided_regex", "(?=a)b"),
    "regex that is cut": ("guided_regex", "(a"),
    "regex of nothing": ("guided_regex", r"a[^\s\S]"),
    "regex of a megabyte": ("guided_regex", "a" * 1_000_000),
    "choice of nothing": ("guided_choice", []),
    "choice of very many": ("guided_choice", [f"choice {i}" for i in range(50_000)]),
    "choice of a megabyte": ("guided_choice", ["a" * 1_000_000]),
    "grammar that begins with itself": ("grammar", 'root ::= root "a" | "a"'),
    "grammar that hides its left recursion": ("grammar", 'root ::= b "a"\nb ::= c?\nc ::= root*'),
    "grammar without an end": ("grammar", 'root ::= "a" root'),
    "grammar that repeats": ("grammar", 'root ::= "a"{1000000000}'),
    "grammar nested deeply": ("grammar", "root ::= " + "(" * 50_000 + '"a"' + ")" * 50_000),
    "grammar without a root": ("grammar", 'x ::= "a"'),
    "grammar of undefined rules": ("grammar", "root ::= x"),
    "grammar that is cut": ("grammar", 'root ::= "a'),
    "grammar of a megabyte": ("grammar", 'root ::= "a"\n' + "\n".join(f'r{i} ::= "a"' for i in range(60_000))),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_constraint_gets_400_naming_the_field(server, name):
    field, value = HOSTILE[name]
    answer = post(server, "completions", prompt="Hi", max_tokens=8, **{field: value})
    assert refused(answer, field, "invalid_grammar")
    assert len(answer.text) < 3000


def test_hostile_constraints_all_at_once_leave_their_neighbours_alone(server, model_name):
    question = {"role": "user", "content": "What is the capital of France?"}
    thought = {"model": model_name, "messages": [question], "temperature": 0}
    alone = post(server, "chat/completions", **thought).json()["choices"][0]["message"]["content"]

    async def attack():
        async with server.async_client() as client:
            hostile = [
                client.post("/completions", body={"prompt": "Hi", "max_tokens": 8, field: value}, cast_to=object)
                for field, value in HOSTILE.values()
            ]
            neighbours = [client.chat.completions.create(**thought) for _ in range(8)]
            results = await asyncio.gather(*neighbours, *hostile, return_exceptions=True)
            return results[:8], results[8:]

    neighbours, refusals = asyncio.run(attack())
    assert [answer.choices[0].message.content for answer in neighbours] == [alone] * 8
    assert {error.status_code for error in refusals} == {400}
