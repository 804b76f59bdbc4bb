"""Conversations of every kind, which `llamafast check` and the tests render with a chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Message = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat request.

    messages, tools: in the form of OpenAI's chat API.
    variables: variables for the template.
    is_open: the answer continues the last message.
    needs: the abilities that a model needs for it, in addition to plain chat.
    """

    name: str
    messages: Sequence[Message]
    tools: Sequence[Mapping[str, object]] | None = None
    variables: Mapping[str, object] = field(default_factory=dict)
    add_generation_prompt: bool = True
    is_open: bool = False
    needs: frozenset[str] = frozenset()


def _tool(name: str, description: str, properties: Mapping[str, object]) -> Mapping[str, object]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)[:1]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS = (
    _tool(
        "get_weather",
        "The weather of a place & its <unit>.",
        {
            "city": {"type": "string", "description": "Name of the town"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            "days": {"type": "integer", "description": "How far ahead"},
        },
    ),
    _tool(
        "store",
        "Keep something.",
        {
            "text": {"type": "string", "description": "What"},
            "tags": {"type": "array", "items": {"type": "string"}, "description": "Under which names"},
            "options": {
                "type": "object",
                "description": "How",
                "properties": {"public": {"type": "boolean", "description": "For all"}},
            },
        },
    ),
    _tool("now", "The time.", {}),
)


def _say(role: str, content: object, **fields: object) -> Message:
    return {"role": role, "content": content, **fields}


def _calls(*calls: tuple[str, str, str], content: str | None = None, **fields: object) -> Message:
    tool_calls = [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for call_id, name, arguments in calls
    ]
    return {"role": "assistant", "content": content, "tool_calls": tool_calls, **fields}


def _result(call_id: str, content: str) -> Message:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def _parts(*texts: str) -> list[object]:
    return [{"type": "text", "text": text} for text in texts]


_SYSTEM = _say("system", "You are brief.")
_USER = _say("user", 'What is "1 < 2"?\n\n  Say\\it. ')
_PARIS = ("call_a1", "get_weather", '{"city": "Paris", "unit": "celsius", "days": 2}')
_ROME = ("call_b2", "get_weather", '{"city": "Roma \\"città\\"", "days": 1}')
_STORE = (
    "call_c3",
    "store",
    '{"text": "line 1\\nline \\\\2 — ✓ 😀", "tags": ["a", "b & c"], "options": {"public": true, "by": null, "n": 1.5}}',
)
_NOW = ("call_d4", "now", "{}")
_SUNNY, _RAIN = _result("call_a1", '{"weather": "sunny"}'), _result("call_b2", "rain\nand <wind>")
_TURN = (_say("user", "And in Paris?"), _calls(_PARIS), _SUNNY)
_CALLS, _PARALLEL, _REASONING = frozenset({"calls"}), frozenset({"calls", "parallel"}), frozenset({"reasoning"})

CONVERSATIONS = (
    Conversation("one question", [_USER]),
    Conversation("system message", [_SYSTEM, _USER]),
    Conversation("developer message", [_say("developer", "You are kind."), _USER]),
    Conversation(
        "several turns", [_SYSTEM, _USER, _say("assistant", "It is true."), _say("user", "Sure?"),
                          _say("assistant", " Yes.\n"), _say("user", "Thanks")],
    ),
    Conversation("thinking on", [_SYSTEM, _USER], variables={"enable_thinking": True}),
    Conversation("thinking off", [_SYSTEM, _USER], variables={"enable_thinking": False}),
    Conversation("thinking off, with tools", [_USER], TOOLS, {"enable_thinking": False}),
    Conversation("effort", [_USER], variables={"reasoning_effort": "low"}),
    Conversation("no generation prompt", [_USER, _say("assistant", "Yes.")], add_generation_prompt=False),
    Conversation("continued answer", [_USER, _say("assistant", "It is")], is_open=True),
    Conversation("parts", [_say("system", _parts("You are", " brief.")), _say("user", _parts("What is", "this?"))]),
    Conversation("tools", [_USER], TOOLS),
    Conversation("tools and system message", [_SYSTEM, _USER], TOOLS),
    Conversation("a call", [_say("user", "Weather in Paris?"), _calls(_PARIS), _SUNNY], TOOLS, needs=_CALLS),
    Conversation("a call without result", [_USER, _calls(_PARIS)], TOOLS, add_generation_prompt=False, needs=_CALLS),
    Conversation("a call without arguments", [_USER, _calls(_NOW), _result("call_d4", "noon")], TOOLS, needs=_CALLS),
    Conversation("a call of every type", [_USER, _calls(_STORE), _result("call_c3", "ok")], TOOLS, needs=_CALLS),
    Conversation("text and a call", [_USER, _calls(_PARIS, content="I look."), _SUNNY], TOOLS, needs=_CALLS),
    Conversation("parallel calls", [_USER, _calls(_PARIS, _ROME), _SUNNY, _RAIN], TOOLS, needs=_PARALLEL),
    Conversation(
        "three calls with text", [_USER, _calls(_PARIS, _STORE, _ROME, content="I look."), _RAIN,
                                  _result("call_c3", "ok"), _SUNNY], TOOLS, needs=_PARALLEL,
    ),
    Conversation(
        "calls in two turns",
        [_SYSTEM, _USER, _calls(_ROME), _RAIN, _say("assistant", "It rains."), *_TURN, _say("assistant", "Sun.")],
        TOOLS, add_generation_prompt=False, needs=_CALLS,
    ),
    Conversation("call after call", [_say("user", "Go."), _calls(_PARIS), _SUNNY, _calls(_ROME), _RAIN], TOOLS,
                 needs=_CALLS),
    Conversation(
        "reasoning", [_USER, _say("assistant", "True.", reasoning_content="One is\n\nless."), _say("user", "Sure?")],
        needs=_REASONING,
    ),
    Conversation(
        "reasoning at the end", [_USER, _say("assistant", "True.", reasoning_content="One is\n\nless.")],
        add_generation_prompt=False, needs=_REASONING,
    ),
    Conversation(
        "reasoning and a call", [_USER, _calls(_PARIS, reasoning_content="I need it."), _SUNNY], TOOLS,
        needs=_CALLS | _REASONING,
    ),
    Conversation(
        "reasoning, text and calls", [_USER, _calls(_PARIS, _ROME, content="I look.", reasoning_content="Both."),
                                      _SUNNY, _RAIN], TOOLS, needs=_PARALLEL | _REASONING,
    ),
    Conversation(
        "reasoning, text and calls apart", [_USER, _say("assistant", None, reasoning_content="Both."),
                                            _say("assistant", "I look."), _calls(_PARIS), _calls(_ROME), _RAIN, _SUNNY],
        TOOLS, needs=_PARALLEL | _REASONING,
    ),
    Conversation(
        "a function of the older kind",
        [_USER, {"role": "assistant", "content": None, "function_call": {"name": "now", "arguments": "{}"}},
         {"role": "function", "name": "now", "content": "noon"}], TOOLS, needs=_CALLS,
    ),
)  # fmt: skip
