"""Unusual request bodies: all fields of both APIs, alone and in pairs, with border values."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

from llamafast.server.schemas.chat import ChatBody
from llamafast.server.schemas.common import RequestBody
from llamafast.server.schemas.completions import CompletionBody

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"

# Written as JSON text: Python's json module cannot write some of them.
NUMBERS = (
    "0",
    "-0",
    "1",
    "-1",
    "2",
    "3",
    "0.0",
    "0.5",
    "1.0",
    "-0.5",
    "1e-46",
    "5e-324",
    "1e-300",
    "1e-7",
    "0.9999999999999999",
    "1.0000001",
    "1e6",
    "1e7",
    "3.5e38",
    "1e308",
    "1e400",
    "-1e400",
    "2147483647",
    "2147483648",
    "-2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1" + "0" * 400,
    "NaN",
    "Infinity",
)
TEXTS = (
    '""',
    '"a"',
    '"\\u0000"',
    '"\\ud800"',
    '"\\udc00\\ud800"',
    '"é"',
    '"\\u202e<|im_end|>"',
    '"<tool_call>"',
    '"</think>"',
    '"true"',
    '"auto"',
    '"none"',
    '"required"',
    '"2147483648"',
    '"{"',
    '"(a|b)*c"',
    '"(((((((((("',
    '"[a-"',
    '"root ::= \\"a\\""',
    '"root ::= root"',
    '"x{999999999}"',
    '"' + "x" * 5000 + '"',
    '"' + "\\u00e9" * 3000 + '"',
)
LISTS = (
    "[]",
    "[null]",
    "[[]]",
    "[{}]",
    "[0]",
    "[-1]",
    "[2147483648]",
    "[1.5]",
    "[true]",
    '[""]',
    '["a"]',
    '["\\ud800"]',
    "[0,0,0]",
    '["a","a"]',
    '[["a",1]]',
    '[["a",-1e400]]',
    "[[0,100]]",
    "[[8192,1]]",
    "[[0,false]]",
    "[[0]]",
    "[" + ",".join(map(str, range(0, 9000, 7))) + "]",
    "[" + ",".join(['"ab"'] * 600) + "]",
    "[" * 300 + "]" * 300,
)
OBJECTS = (
    "{}",
    '{"":""}',
    '{"type":null}',
    '{"type":"text"}',
    '{"type":"json_object"}',
    '{"type":"json_schema"}',
    '{"type":"json_schema","json_schema":{"name":"a","schema":{"type":"integer","multipleOf":999983}}}',
    '{"type":"json_schema","json_schema":{"name":"a","schema":{"$ref":"#"}}}',
    '{"type":"integer"}',
    '{"$ref":"#/a/b"}',
    '{"enum":[]}',
    '{"enum":[null,1,"a",{}]}',
    '{"type":"object","properties":{"a":{"type":"string","maxLength":1e9}}}',
    '{"type":"string","allOf":[{"pattern":"^.*a.{9}$"},{"pattern":"^.*b.{9}$"},{"pattern":"^.*c.{9}$"}]}',
    '{"type":"array","minItems":100000,"items":{"type":"integer","minimum":-1e20,"maximum":1e20}}',
    '{"0":100}',
    '{"0":-1e400}',
    '{"-1":1}',
    '{"99999999999":1}',
    '{"a":1}',
    '{"include_usage":true}',
    '{"type":"function","function":{"name":"f"}}',
    '{"effort":"low","max_tokens":-1}',
    '{"regex":"a*","json":{}}',
    '{"' + "k" * 300 + '":{"a":' * 40 + "1" + "}" * 41,
    "{" + ",".join(f'"{i}":{i}' for i in range(700)) + "}",
)
OTHERS = ("null", "true", "false")
VALUES = (*OTHERS, *NUMBERS, *TEXTS, *LISTS, *OBJECTS)

CALL = '{"id":"c","type":"function","function":{"name":"f","arguments":%s}}'
MESSAGES = (
    '[{"role":"user","content":null}]',
    '[{"role":"user"}]',
    '[{"role":"assistant","content":"a"}]',
    '[{"role":"x"}]',
    '[{"role":"user","content":[]}]',
    '[{"role":"user","content":[{"type":"text","text":"\\ud800"}]}]',
    '[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]',
    '[{"role":"tool","content":"a"}]',
    '[{"role":"system","content":"a"},{"role":"system","content":"b"},{"role":"user","content":"c"}]',
    '[{"role":"user","content":"a"},{"role":"assistant","tool_calls":['
    + CALL % '"{"'
    + ']},{"role":"user","content":"b"}]',
    '[{"role":"user","content":"a"},{"role":"assistant","tool_calls":[' + CALL % "{}" + "]}]",
    '[{"role":"user","content":"a"},{"role":"assistant","tool_calls":[' + CALL % '"[[[1]]]"' + "]}]",
    '[{"role":"developer","content":"a"},{"role":"user","content":"b","name":"\\u0000"}]',
    "[" + ",".join(['{"role":"user","content":"a"}'] * 300) + "]",
    '[{"role":"user","content":"' + "word " * 3000 + '"}]',
)


def tool(name: str, parameters: str = "{}") -> str:
    return '{"type":"function","function":{"name":' + name + ',"parameters":' + parameters + "}}"


TOOLS = (
    *(f"[{tool(name)}]" for name in ('""', '"a b"', '"\\ud800"', '"' + "n" * 200 + '"', "1", "null")),
    *("[" + tool('"f"', schema) + "]" for schema in OBJECTS),
    "[" + tool('"f"') + "," + tool('"f"') + "]",
    "[" + ",".join(tool(f'"f{i}"', '{"properties":{"a":{"type":"string"}}}') for i in range(100)) + "]",
)
PROMPTS = (
    '"Hi"',
    "[]",
    '[""]',
    "[1,2,3]",
    "[[1,2],[3]]",
    "[99999]",
    '["a","b"]',
    '"' + "word " * 3000 + '"',
    '[["a"]]',
)
SPECIAL = {"messages": MESSAGES, "tools": TOOLS, "functions": OBJECTS, "prompt": PROMPTS}

# Bodies that are not JSON objects.
RAW = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"1",
    b'"a"',
    b"\xff\xfe",
    b'{"messages":',
    b"{}" * 2,
    b'{"a":1,}',
    b"{'a':1}",
    b"\x00",
    b"[" * 5000 + b"]" * 5000,
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b'{"prompt":"\xff"}',
    b'{"prompt":"Hi","prompt":1}',
)


def field_names(model: type[RequestBody]) -> list[str]:
    """All field names of the API, and one unknown name."""
    return [*model.model_fields, *model.aliases, *model.not_yet, *sorted(model.no_op), "unheard_of"]


def singles() -> Iterator[tuple[str, bytes]]:
    """(path, body): each field of each API with each value."""
    for path, model in ((CHAT, ChatBody), (COMPLETIONS, CompletionBody)):
        for name in field_names(model):
            for value in (*VALUES, *SPECIAL.get(name, ())):
                yield path, body(path, {name: value})
    for path in (CHAT, COMPLETIONS):
        yield from ((path, raw) for raw in RAW)


def pairs(number: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """(path, body): two to four fields at once, with random values. Equal seeds give equal bodies."""
    draw = random.Random(seed)
    names = {CHAT: field_names(ChatBody), COMPLETIONS: field_names(CompletionBody)}
    for _ in range(number):
        path = draw.choice((CHAT, COMPLETIONS))
        chosen = draw.sample(names[path], draw.choice((2, 2, 2, 3, 4)))
        yield path, body(path, {name: draw.choice((*VALUES, *SPECIAL.get(name, ()) * 8)) for name in chosen})


def body(path: str, fields: dict[str, str]) -> bytes:
    """A short request that is valid except for these fields. Their values are JSON text."""
    start = {"messages": '[{"role":"user","content":"Hi"}]'} if path == CHAT else {"prompt": '"Hi"'}
    given = {**start, "max_tokens": "2", **fields}
    return ("{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in given.items()) + "}").encode()
