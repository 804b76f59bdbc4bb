"""Three response schemas as in configs, and answers as their models write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Arguments = Mapping[str, object]


@dataclass(frozen=True)
class Family:
    """prompt: the end of a generation prompt. write: writes an answer of (reasoning, content, calls)."""

    schema: dict[str, object]
    prompt: str
    write: Callable[[str, str, list[tuple[str, Arguments]]], str] = lambda *parts: "".join(map(str, parts))


def schema(reasoning: str, content: str, calls: str, name: str, arguments: Mapping[str, object]) -> dict[str, object]:
    function = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "x-regex": name},
            "arguments": {"type": "object", "additionalProperties": True, **arguments},
        },
        "required": ["name", "arguments"],
    }
    items = {
        "type": "object",
        "properties": {"type": {"const": "function"}, "function": function},
        "required": ["type", "function"],
    }
    return {
        "type": "object",
        "properties": {
            "role": {"const": "assistant"},
            "reasoning_content": {"type": "string", "x-regex": reasoning},
            "content": {"type": "string", "x-regex": content},
            "tool_calls": {"type": "array", "x-regex-iterator": calls, "items": items},
        },
        "required": ["role"],
    }


def _write_elements(reasoning: str, content: str, calls: list[tuple[str, Arguments]]) -> str:
    text = f"{reasoning}\n</muse>\n\n{content}"
    for name, arguments in calls:
        values = "".join(
            f"\n<arg={key}>\n{value if isinstance(value, str) else json.dumps(value)}\n</arg>"
            for key, value in arguments.items()
        )
        text += f"\n<use>\n<fn={name}>{values}\n</fn>\n</use>"
    return text


def _write_loose(reasoning: str, content: str, calls: list[tuple[str, Arguments]]) -> str:
    text = (f"<|side>muse\n{reasoning}\n<side|>" if reasoning else "") + content
    for name, arguments in calls:
        values = ",".join(f"{key}:{_loose(value)}" for key, value in arguments.items())
        text += f"<|use>do:{name}{{{values}}}<use|>"
    return text


def _loose(value: object) -> str:
    if isinstance(value, str):
        return f'<|"|>{value}<|"|>'
    if isinstance(value, list):
        return f"[{','.join(map(_loose, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f'<|"|>{key}<|"|>:{_loose(inner)}' for key, inner in value.items()) + "}"
    return json.dumps(value)


def _write_channels(reasoning: str, content: str, calls: list[tuple[str, Arguments]]) -> str:
    parts = [f"<|on|>muse<|is|>{reasoning}<|off|>"] if reasoning else []
    if content:
        parts.append(f"<|on|>say<|is|>{content}<|off|>")
    parts += [f"<|on|>do to=fn.{name} <|as|>json<|is|>{json.dumps(values)}<|go|>" for name, values in calls]
    return "<|me|>".join(parts)


ELEMENTS = Family(
    schema(
        r"^(?:<\|me\|>bot\n)?(?:<muse>\n)?(.*?)(?=</muse>)",
        r"^(?:<\|me\|>bot\n)?(?:(?:<muse>\n)?.*?</muse>\s*)?(.*?)(?=\s*<use>\n|<\|out\|>$|$)",
        r"<use>\n(.*?)\n</use>",
        r"^<fn=([^>\n]+)>\n",
        {
            "x-regex": r"^<fn=[^>\n]+>\n(.*?)\n</fn>$",
            "x-regex-key-value": r"<arg=(?P<key>[^>\n]+)>\n(?P<value>.*?)\n</arg>",
        },
    ),
    "<|me|>you\nHi<|out|>\n<|me|>bot\n<muse>\n",
    _write_elements,
)
LOOSE = Family(
    schema(
        r"^(?:<\|me>bot\n)?<\|side>muse\n(.*?)<side\|>",
        r"^(?:<\|me>bot\n)?(?:(?:<\|side>muse\n).*?<side\|>)?(.*?)(?=<\|use>|<me\|>|$)",
        r"<\|use>(do:[^\{\[]+[\{\[].*?[\}\]])<use\|>",
        r"^do:(\w+)[\{\[]",
        {"x-regex": r"^do:\w+(\{.*\}|\[.*\])$", "x-parser": "gemma4-tool-call"},
    ),
    "<|me>you\nHi<me|>\n<|me>bot\n",
    _write_loose,
)
CHANNELS = Family(
    schema(
        r"^(?:<\|me\|>)?<\|on\|>muse<\|is\|>(.*?)(?=<\|off\|>|<\|me\|>|$)",
        r"^(?:.*?<\|me\|>)?<\|on\|>say<\|is\|>(.*?)(?=<\|back\|>|<\|off\|>|$)",
        r"(<\|me\|><\|on\|>do to=fn\.\w+ <\|as\|>json<\|is\|>.*?<\|go\|>)",
        r"^<\|me\|><\|on\|>do to=fn\.(\w+) <\|as\|>json<\|is\|>",
        {"x-regex": r"^<\|me\|><\|on\|>do to=fn\.\w+ <\|as\|>json<\|is\|>(.*?)<\|go\|>$", "x-parser": "json"},
    ),
    "<|you|>Hi<|off|><|me|>",
    _write_channels,
)
FAMILIES = {"elements": ELEMENTS, "loose": LOOSE, "channels": CHANNELS}
