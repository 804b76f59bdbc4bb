"""More writers of formats, other than tags around JSON or elements. WRITERS contains all writers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from tests.chat import writers
from tests.chat.messages import TOOLS, Call, Message
from tests.chat.writers import Writer, Written, as_json, bare, tagged

_DECLARED = {tool.name for tool in TOOLS}


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _either(first: Writer, second: Writer) -> Writer:
    """Formats that are written in two ways."""
    return lambda message, opens: (first if opens else second)(message, opens)


def _harmony(message: Message, opens: bool) -> Written:
    parts = [f"<|channel|>analysis<|message|>{message.reasoning}<|end|>"] if message.reasoning else []
    if message.content and message.calls:
        parts.append(f"<|channel|>commentary<|message|>{message.content}<|end|>")
    for name, arguments in message.calls:
        first = f"<|channel|>commentary to=functions.{name} <|constrain|>json"
        second = f" to=functions.{name}<|channel|>commentary json"
        parts.append(f"{first if opens else second}<|message|>{_dump(arguments)}<|call|>")
    final = message.after if message.calls else message.content
    if final:
        parts.append(f"<|channel|>final<|message|>{final}{'<|return|>' if opens else ''}")
    text = "<|start|>assistant".join(parts)
    return Written("<|start|>user<|message|>Hi<|end|><|start|>assistant", text)


def _gemma(head: str, tail: str, mark: str) -> Callable[[tuple[Call, ...]], str]:
    def pairs(values: dict[str, object], quote: str) -> str:
        return "{" + ",".join(f"{quote}{key}{quote}:{value(inner)}" for key, inner in values.items()) + "}"

    def value(given: object) -> str:
        if isinstance(given, str):
            return f"{mark}{given}{mark}"
        if isinstance(given, dict):
            return pairs(given, mark)
        if isinstance(given, list):
            return "[" + ",".join(map(value, given)) + "]"
        return "None" if given is None else _dump(given)

    return lambda calls: "".join(f"{head}call:{name}{pairs(values, '')}{tail}" for name, values in calls)


def _internlm2(calls: tuple[Call, ...]) -> str:
    return "".join(f"<|action_start|><|plugin|>\n{as_json(call, 'parameters')}<|action_end|>" for call in calls)


def _mistral_list(calls: tuple[Call, ...]) -> str:
    return f"[TOOL_CALLS][{', '.join(map(as_json, calls))}]"


def _mistral_names(calls: tuple[Call, ...]) -> str:
    ids = ("[CALL_ID]abcDEF123", "", "[CALL_ID]9")
    return "".join(
        f"[TOOL_CALLS]{name}{id}[ARGS]{_dump(values)}" for (name, values), id in zip(calls, ids, strict=False)
    )


def _deepseek_r1(calls: tuple[Call, ...]) -> str:
    written = "\n".join(
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{_dump(values)}\n```<｜tool▁call▁end｜>"
        for name, values in calls
    )
    return f"<｜tool▁calls▁begin｜>{written}<｜tool▁calls▁end｜>"


def _deepseek_v31(calls: tuple[Call, ...]) -> str:
    written = "".join(
        f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{_dump(values)}<｜tool▁call▁end｜>" for name, values in calls
    )
    return f"<｜tool▁calls▁begin｜>{written}<｜tool▁calls▁end｜>"


def _deepseek_dsml(section: str) -> Writer:
    def write(calls: tuple[Call, ...]) -> str:
        text = f"\n<｜DSML｜{section}>\n"
        for name, values in calls:
            text += f'<｜DSML｜invoke name="{name}">\n'
            for key, value in values.items():
                kind = "true" if isinstance(value, str) else "false"
                text += f'<｜DSML｜parameter name="{key}" string="{kind}">{bare(value)}</｜DSML｜parameter>\n'
            text += "</｜DSML｜invoke>\n"
        return f"{text}</｜DSML｜{section}>"

    return tagged(write)


def _kimi_k2(calls: tuple[Call, ...]) -> str:
    written = "".join(
        f"<|tool_call_begin|>functions.{name}:{i}<|tool_call_argument_begin|>{_dump(values)}<|tool_call_end|>"
        for i, (name, values) in enumerate(calls)
    )
    return f"<|tool_calls_section_begin|>{written}<|tool_calls_section_end|>"


def _command_actions(calls: tuple[Call, ...]) -> str:
    actions = [{"tool_call_id": str(i), "tool_name": name, "parameters": v} for i, (name, v) in enumerate(calls)]
    written = ",\n    ".join(map(_dump, actions))
    return f"<|START_ACTION|>[\n    {written}\n]<|END_ACTION|>"


def _command_r7b(message: Message, opens: bool) -> Written:
    if message.content and not message.calls:
        message = replace(message, content=f"<|START_RESPONSE|>{message.content}<|END_RESPONSE|>")
    return tagged(_command_actions, "<|START_THINKING|>", "<|END_THINKING|>")(message, opens)


def _command_r(calls: tuple[Call, ...]) -> str:
    actions = [{"tool_name": name, "parameters": values} for name, values in calls]
    return f"Action:\n```json\n{json.dumps(actions, indent=4, ensure_ascii=False)}```\n"


def _apertus(calls: tuple[Call, ...]) -> str:
    return f"<|tools_prefix|>[{', '.join(_dump({name: values}) for name, values in calls)}]<|tools_suffix|>"


def _python(calls: tuple[Call, ...]) -> str:
    def call(name: str, values: dict[str, object]) -> str:
        return f"{name}({', '.join(f'{key}={value!r}' for key, value in values.items())})"

    return f"[{', '.join(call(*each) for each in calls)}]"


def _lfm2(calls: tuple[Call, ...]) -> str:
    return f"<|tool_call_start|>{_python(calls)}<|tool_call_end|>"


def _lfm2_json(calls: tuple[Call, ...]) -> str:
    return f"<|tool_call_start|>[{', '.join(map(as_json, calls))}]<|tool_call_end|>"


def _can_be_bare(message: Message) -> bool:
    return not message.content and all(name in _DECLARED for name, _ in message.calls)


def _llama3_json(message: Message, opens: bool) -> Written:
    tag = "" if _can_be_bare(message) else "<|python_tag|>"
    return tagged(lambda calls: tag + "; ".join(as_json(call, "parameters") for call in calls))(message, opens)


def _xlam(message: Message, opens: bool) -> Written:
    head, tail = ("[TOOL_CALLS]", "") if opens else ("<tool_call>", "</tool_call>")
    if _can_be_bare(message):
        head, tail = ("```json\n", "\n```") if opens else ("", "")
    return tagged(lambda calls: f"{head}[{', '.join(map(as_json, calls))}]{tail}")(message, opens)


def _llama_pythonic(message: Message, opens: bool) -> Written:
    tags = ("", "") if _can_be_bare(message) else ("<|python_start|>", "<|python_end|>")
    return tagged(lambda calls: tags[0] + _python(calls) + tags[1])(message, opens)


def _functionary_v31(calls: tuple[Call, ...]) -> str:
    return "".join(f"<function={name}>{_dump(values)}</function>" for name, values in calls)


def _functionary_v32(message: Message, opens: bool) -> Written:
    parts = [f">>>all\n{message.content}"] if message.content else []
    parts += [f">>>{name}\n{_dump(values)}" for name, values in message.calls]
    parts += [f">>>all\n{message.after}"] if message.after else []
    text = "\n".join(parts)
    if message.reasoning:
        return Written("assistant\n", f"<think>\n{message.reasoning}\n</think>\n\n{text}")
    return Written("assistant\n>>>", text.removeprefix(">>>")) if opens else Written("assistant\n", text)


WRITERS: dict[str, Writer] = {
    **writers.WRITERS,
    "apertus": tagged(_apertus, "<|inner_prefix|>", "<|inner_suffix|>"),
    "command_r": tagged(_command_r),
    "command_r7b": _command_r7b,
    "deepseek_dsml": _either(_deepseek_dsml("function_calls"), _deepseek_dsml("tool_calls")),
    "deepseek_v3": _either(tagged(_deepseek_r1), tagged(_deepseek_v31)),
    "functionary_v31": tagged(_functionary_v31),
    "functionary_v32": _functionary_v32,
    "functiongemma": tagged(_gemma("<start_function_call>", "<end_function_call>", "<escape>")),
    "gemma4": tagged(_gemma("<|tool_call>", "<tool_call|>", '<|"|>'), "<|channel>thought", "<channel|>"),
    "harmony": _harmony,
    "internlm2": tagged(_internlm2),
    "kimi_k2": tagged(_kimi_k2),
    "lfm2": _either(tagged(_lfm2), tagged(_lfm2_json)),
    "llama3_json": _llama3_json,
    "llama4_pythonic": _llama_pythonic,
    "llama_pythonic": _llama_pythonic,
    "mistral": _either(tagged(_mistral_list, "[THINK]", "[/THINK]"), tagged(_mistral_names, "[THINK]", "[/THINK]")),
    "xlam": _xlam,
}
