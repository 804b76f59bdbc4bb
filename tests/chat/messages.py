"""Answers of models for every format to write, and the tools that they call."""

from __future__ import annotations

from dataclasses import dataclass

from llamafast.chat.tools import Tool

Call = tuple[str, dict[str, object]]


@dataclass(frozen=True)
class Message:
    """One answer. after: content after the calls, for formats that allow it."""

    content: str = ""
    calls: tuple[Call, ...] = ()
    reasoning: str = ""
    after: str = ""


TOOLS = [
    Tool(
        "get_weather",
        parameters={
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city"],
        },
    ),
    Tool("run", parameters={"type": "object", "properties": {"code": {"type": "string"}}}),
    Tool("now", parameters={"type": "object", "properties": {}}),
    Tool("anything"),
    Tool(
        "search",
        parameters={
            "$defs": {"tag": {"type": "string"}, "filter": {"type": "object", "properties": {"a": {}}}},
            "properties": {
                "query": {"$ref": "#/$defs/tag"},
                "limit": {"type": "integer"},
                "ratio": {"type": "number"},
                "fuzzy": {"type": "boolean"},
                "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}},
                "filters": {"anyOf": [{"$ref": "#/$defs/filter"}, {"type": "null"}]},
                "parent": {"type": ["string", "null"]},
                "either": {"oneOf": [{"type": "integer"}, {"type": "string"}]},
            },
        },
    ),
]

_PARIS = ("get_weather", {"city": "Paris"})
_LONDON = ("get_weather", {"city": "London", "unit": "celsius"})
_ALL_TYPES: dict[str, object] = {
    "query": "x",
    "limit": -3,
    "ratio": 2.5e-7,
    "fuzzy": True,
    "tags": ["a", "b c", ""],
    "filters": {"a": {"b": [1, None, {"c": "d"}]}, "e": False},
    "parent": None,
    "either": 5,
}


def _run(code: str) -> Message:
    return Message(calls=(("run", {"code": code}),))


def _search(**arguments: object) -> Message:
    return Message(calls=(("search", arguments),))


MESSAGES = {
    "content": Message("Hello! How can I help you?"),
    "unicode": Message("Grüße aus Köln 🎉👨‍👩‍👧 日本語 \u2028 ½"),
    "lines": Message("a\n\n  b\tc\n- d\n```python\nprint('<b>')\n```\n"),
    "marker-like": Message("a < b, <tool, </think, [x](y) {z} <| |> a[0] f(x) and done"),
    "json content": Message('{"answer": [1, true, null]}'),
    "reasoning": Message("Four.", reasoning="2 + 2\n\n= 4 <b>"),
    "reasoning only": Message(reasoning="I wonder why."),
    "one call": Message(calls=(_PARIS,)),
    "two calls": Message(calls=(_PARIS, _LONDON)),
    "three calls": Message(calls=(_PARIS, ("now", {}), _LONDON)),
    "no arguments": Message(calls=(("now", {}),)),
    "text before": Message("Let me look.\n\nOne moment", (_PARIS,)),
    "text after": Message(calls=(_PARIS,), after="Done: 1 < 2."),
    "text around": Message("Before.", (_PARIS, _LONDON), after="And after."),
    "all before a call": Message("I look it up.", (_PARIS,), "The user wants weather.\nI call a tool."),
    "reasoning before calls": Message(calls=(_PARIS, _LONDON), reasoning="Two calls."),
    "line breaks": _run("def f(x):\n\tif x:\n\n        return 'y'\n\nprint(f(1))"),
    "outer line breaks": _run("\n\na\n\n"),
    "outer spaces": _run("  a  "),
    "quotes": _run("""print("a", 'b', `c`) ''' \"\"\" """),
    "backslashes": _run(r'\n \\ C:\temp\new "\"" \u00e9 \d+\\'),
    "emoji": _run("🎉 naïve 日本語 👩‍🚀 \u200b ﷽ \x7f"),
    "tag-like": _run("<a href='x'>if a < b && c > d: </param <parameter </arg <</a>"),
    "brackets-like": _run("[{(]})] },{ ]} }}"),
    "empty string": _run(""),
    "long string": _run("for i in range(10): print(i, 'abc')\n" * 12),
    "string like values": _search(query="true", parent="5", either="x"),
    "string like json": Message(calls=(("run", {"code": '{"a": [1, 2]}'}), ("run", {"code": "12"}))),
    "string like null": _search(query="null", parent="nul", either="nullable"),
    "all types": _search(**_ALL_TYPES),
    "empty values": _search(query="", tags=[], filters={}),
    "null object": _search(filters=None, fuzzy=False, limit=0),
    "numbers": _search(limit=12345678901234567890, ratio=-0.0001),
    "nested strings": _search(filters={"a": 'x "y" \\ \n {', "ü": ["é", "\t"]}),
    "without schema": Message(calls=(("anything", {"a": 1, "b": [True], "c": {"d": None}, "e": "text", "f": None}),)),
    "unknown tool": Message(calls=(("stranger_2", {"x": "some text", "n": 7}),)),
    "markdown before": Message("# Plan\n\n1. **look**\n2. `call`", (_PARIS,)),
}
