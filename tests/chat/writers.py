"""Writes messages in each format. The writers share no code with the parsers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from tests.chat.messages import Call, Message


@dataclass(frozen=True)
class Written:
    """prompt: its end. text: what the model writes after it."""

    prompt: str
    text: str


# opens: the prompt has opened the reasoning, in formats that allow it.
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


def _glm(calls: tuple[Call, ...]) -> str:
    return "\n".join(_keyed(call, "", "\n") for call in calls)


def _hunyuan3(calls: tuple[Call, ...]) -> str:
    text = "\n".join(_keyed(call, ":opensource", "<tool_sep:opensource>\n") for call in calls)
    return f"<tool_calls:opensource>\n{text}\n</tool_calls:opensource>"


def _keyed(call: Call, suffix: str, after_name: str) -> str:
    pairs = "".join(
        f"<arg_key{suffix}>{key}</arg_key{suffix}>\n<arg_value{suffix}>{bare(value)}</arg_value{suffix}>\n"
        for key, value in call[1].items()
    )
    return f"<tool_call{suffix}>{call[0]}{after_name}{pairs}</tool_call{suffix}>"


def _minimax_m2(calls: tuple[Call, ...]) -> str:
    invokes = "".join(
        f'<invoke name="{name}">'
        + "".join(f'<parameter name="{key}">{bare(value)}</parameter>\n' for key, value in arguments.items())
        + "</invoke>\n"
        for name, arguments in calls
    )
    return f"<minimax:tool_call>\n{invokes}</minimax:tool_call>"


def _seed_oss(calls: tuple[Call, ...]) -> str:
    return "\n".join(
        f"<seed:tool_call>\n<function={name}>\n"
        + "".join(f"<parameter={key}>{_as_python(value)}</parameter>\n" for key, value in arguments.items())
        + "</function>\n</seed:tool_call>"
        for name, arguments in calls
    )


def _minicpm5(calls: tuple[Call, ...]) -> str:
    def value(value: object) -> str:
        text = _as_python(value)
        return f"<![CDATA[{text}]]>" if any(char in text for char in "<&\n") else text

    return "\n".join(
        f'<function name="{name}">'
        + "".join(f'<param name="{key}">{value(argument)}</param>' for key, argument in arguments.items())
        + "</function>"
        for name, arguments in calls
    )


def _solar(message: Message, opens: bool) -> Written:
    parts = [f"<|think|>{message.reasoning}<|end|>"] if message.reasoning else []
    if message.content:
        parts.append(f"<|content|>{message.content}" + ("<|end|>" if message.calls or message.after else ""))
    if message.calls:
        calls = "".join(
            f"<|tool_call:begin|>a1b2c3<|tool_call:name|>{name}<|tool_call:args|>{bare(arguments)}<|tool_call:end|>"
            for name, arguments in message.calls
        )
        parts.append(f"<|tool_calls|>{calls}<|calls|>")
    if message.after:
        parts.append(f"<|content|>{message.after}")
    return Written("<|begin|>assistant", "<|begin|>assistant".join(parts))


def _kimi_k3(message: Message, opens: bool) -> Written:
    def element(tag: str, text: str, attributes: str = "") -> str:
        return f"<|open|>{tag}{attributes}<|sep|>{text}<|close|>{tag}<|sep|>"

    def call(call: Call, index: int) -> str:
        arguments = "".join(
            element("argument", bare(value), f' key="{key}" type="{"string" if isinstance(value, str) else "other"}"')
            for key, value in call[1].items()
        )
        return element("call", arguments, f' tool="{call[0]}" index="{index}"')

    text = element("think", message.reasoning) if message.reasoning or opens else ""
    open_tag = "<|open|>think<|sep|>" if opens else ""
    if message.content:
        text += element("response", message.content) if message.calls else f"<|open|>response<|sep|>{message.content}"
    if message.calls:
        text += element("tools", "".join(map(call, message.calls, range(1, 9))))
    return Written(open_tag, text.removeprefix(open_tag) + message.after)


def _minimax_m3(calls: tuple[Call, ...]) -> str:
    tag = "]<]minimax[>["

    def element(key: str, value: object) -> str:
        if isinstance(value, dict):
            text = "".join(element(*member) for member in value.items())
        elif isinstance(value, list):
            text = "".join(element("item", item) for item in value)
        else:
            text = bare(value)
        return f"{tag}<{key}>{text}{tag}</{key}>"

    invokes = "".join(
        f'{tag}<invoke name="{name}">{"".join(element(*member) for member in arguments.items())}{tag}</invoke>\n'
        for name, arguments in calls
    )
    return f"{tag}<tool_call>\n{invokes}{tag}</tool_call>"


def _muse(message: Message, opens: bool) -> Written:
    parts = [f" to=self<|message|>{message.reasoning}"] if message.reasoning else []
    if message.content:
        parts.append(f" to=user<|message|>{message.content}")
    for name, arguments in message.calls:
        parameters = "".join(
            f'<atem:parameter name="{key}">{bare(value)}</atem:parameter>\n' for key, value in arguments.items()
        )
        invoke = f'<atem:invoke name="{name}">\n{parameters}</atem:invoke>'
        parts.append(f" to={name}<|message|><atem:function_calls>\n{invoke}\n</atem:function_calls>")
    if message.after:
        parts.append(f" to=user<|message|>{message.after}")
    return Written("<|start|>assistant", "<|eom|><|start|>assistant".join(parts))


def _as_python(value: object) -> str:
    """A value as templates write it that turn every value into a string."""
    return value if isinstance(value, str) else str(value)


def _list(head: str, tail: str) -> Callable[[tuple[Call, ...]], str]:
    return lambda calls: f"{head}[{', '.join(map(as_json, calls))}]{tail}"


WRITERS: dict[str, Writer] = {
    "apriel": tagged(_list("<tool_calls>", "</tool_calls>"), "<thinking>", "</thinking>"),
    "gigachat": tagged(lambda calls: "".join(f"function call<|role_sep|>\n{as_json(call)}" for call in calls)),
    "glm": tagged(_glm),
    "granite": tagged(_list("<|tool_call|>", "")),
    "hermes": tagged(_hermes),
    "hunyuan3": tagged(_hunyuan3, "<think:opensource>", "</think:opensource>"),
    "kimi_k3": _kimi_k3,
    "minicpm5": tagged(_minicpm5),
    "minimax_m1": tagged(lambda calls: "\n".join(["<tool_calls>", *map(as_json, calls), "</tool_calls>"])),
    "minimax_m2": tagged(_minimax_m2),
    "minimax_m3": tagged(_minimax_m3, "<mm:think>", "</mm:think>"),
    "muse": _muse,
    "nemotron": tagged(_list("<TOOLCALL>", "</TOOLCALL>")),
    "phi": tagged(_list("<|tool_call|>", "<|/tool_call|>")),
    "plain": tagged(_plain),
    "qwen3_xml": tagged(_qwen3_xml),
    "seed_oss": tagged(_seed_oss, "<seed:think>", "</seed:think>"),
    "solar": _solar,
}
