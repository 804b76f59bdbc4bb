"""How each format writes a message: the twins of the parsers, sharing no code with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from tests.parsing.messages import Call, Message


@dataclass(frozen=True)
class Written:
    """prompt: its end. text: what the model writes behind it."""

    prompt: str
    text: str


# opens: whether the prompt has opened the reasoning already, where a format can do that.
Writer = Callable[[Message, bool], Written]


def tagged(write_calls: Callable[[tuple[Call, ...]], str], open: str = "<think>", close: str = "</think>") -> Writer:
    """Reasoning between tags, then content, then calls."""

    def write(message: Message, opens: bool) -> Written:
        head = ""
        if message.reasoning:
            head = f"{message.reasoning}\n{close}\n\n"
        elif opens:
            head = f"{close}\n\n"
        if message.reasoning and not opens:
            head = f"{open}\n{head}"
        calls = write_calls(message.calls) if message.calls else ""
        parts = [part for part in (message.content, calls, message.after) if part]
        return Written(f"assistant\n{open}\n" if opens else "assistant\n", head + "\n".join(parts))

    return write


def bare(value: object) -> str:
    """A value as formats with typed parameters write it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def as_json(call: Call, arguments: str = "arguments") -> str:
    return json.dumps({"name": call[0], arguments: call[1]}, ensure_ascii=False)


def _plain(calls: tuple[Call, ...]) -> str:
    return ""


def _qwen3_xml(calls: tuple[Call, ...]) -> str:
    return "\n".join(
        f"<tool_call>\n<function={name}>\n"
        + "".join(f"<parameter={key}>\n{bare(value)}\n</parameter>\n" for key, value in arguments.items())
        + "</function>\n</tool_call>"
        for name, arguments in calls
    )


def _hermes(calls: tuple[Call, ...]) -> str:
    return "\n".join(f"<tool_call>\n{as_json(call)}\n</tool_call>" for call in calls)


WRITERS: dict[str, Writer] = {
    "hermes": tagged(_hermes),
    "plain": tagged(_plain),
    "qwen3_xml": tagged(_qwen3_xml),
}
