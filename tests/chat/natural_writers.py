"""Writes one call exactly as the template of a format shows it, in the layout that grammars enforce."""

from __future__ import annotations

import json
from collections.abc import Callable

from llamafast.chat.formats import registry
from tests.chat.messages import Message
from tests.chat.more_writers import WRITERS
from tests.chat.writers import Written, bare

ENFORCED = [name for name in registry.names() if registry.by_name(name).syntaxes]


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _minimax_m2(key: str, value: object) -> str:
    parameter = f'<parameter name="{key}">{bare(value)}</parameter>\n'
    return f'<minimax:tool_call>\n<invoke name="f">\n{parameter}</invoke>\n</minimax:tool_call>'


def _seed_oss(key: str, value: object) -> str:
    parameter = f"<parameter={key}>{bare(value)}</parameter>\n"
    return f"<seed:tool_call>\n<function=f>\n{parameter}</function>\n</seed:tool_call>"


def _minicpm5(key: str, value: object) -> str:
    text = bare(value)
    if isinstance(value, str) and any(char in text for char in "<&\n"):
        text = f"<![CDATA[{text}]]>"
    return f'<function name="f"><param name="{key}">{text}</param></function>'


def _gemma(head: str, tail: str, mark: str, none: str) -> Callable[[str, object], str]:
    """These templates write all keys bare, and null as in Python."""

    def written(value: object) -> str:
        if isinstance(value, dict):
            return "{" + ",".join(f"{_key(key)}:{written(part)}" for key, part in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ",".join(map(written, value)) + "]"
        return f"{mark}{value}{mark}" if isinstance(value, str) else none if value is None else _dump(value)

    def _key(name: str) -> str:
        return name if name.isidentifier() else _dump(name)

    return lambda key, value: f"{head}call:f{{{key}:{written(value)}}}{tail}"


def _deepseek_dsml(key: str, value: object) -> str:
    kind = "true" if isinstance(value, str) else "false"
    parameter = f'<｜DSML｜parameter name="{key}" string="{kind}">{bare(value)}</｜DSML｜parameter>\n'
    invoke = f'<｜DSML｜invoke name="f">\n{parameter}</｜DSML｜invoke>\n'
    return f"<｜DSML｜tool_calls>\n{invoke}</｜DSML｜tool_calls>"


def _command_r(key: str, value: object) -> str:
    call = f'    {{\n        "tool_name": "f",\n        "parameters": {_dump({key: value})}\n    }}'
    return f"Action:\n```json\n[\n{call}\n]```"


OWN = {
    "command_r": _command_r,
    "deepseek_dsml": _deepseek_dsml,
    "functiongemma": _gemma("<start_function_call>", "<end_function_call>", "<escape>", "None"),
    "gemma4": _gemma("<|tool_call>", "<tool_call|>", '<|"|>', "null"),
    "harmony": lambda key, value: (
        f"<|channel|>commentary to=functions.f <|constrain|>json<|message|>{_dump({key: value})}"
    ),
    "kimi_k3": lambda key, value: (
        '<|open|>tools<|sep|><|open|>call tool="f" index="1"<|sep|><|open|>json type="object"<|sep|>'
        f"{_dump({key: value})}<|close|>json<|sep|><|close|>call<|sep|><|close|>tools<|sep|>"
    ),
    "lfm2": lambda key, value: f"<|tool_call_start|>[f({key}={_dump(value)})]<|tool_call_end|>",
    "llama3_json": lambda key, value: f'{{"name": "f", "parameters": {_dump({key: value})}}}',
    "llama4_pythonic": lambda key, value: f"[f({key}={_dump(value)})]",
    "llama_pythonic": lambda key, value: f"[f({key}={_dump(value)})]",
    "minicpm5": _minicpm5,
    "minimax_m2": _minimax_m2,
    "seed_oss": _seed_oss,
    "xlam": lambda key, value: f'[{{"name": "f", "arguments": {_dump({key: value})}}}]',
}


def natural(name: str, key: str, value: object) -> Written:
    """A call of `f` with this argument, in this format."""
    written = WRITERS[name](Message("", (("f", {key: value}),)), False)
    if name in OWN:
        return Written(written.prompt, OWN[name](key, value))
    return Written(written.prompt, written.text.removesuffix("<|calls|>"))


def natural_forms(name: str, key: str, value: object) -> list[Written]:
    """The same, also without the line break before the closing tag where it has no meaning."""
    written = natural(name, key, value)
    short = written.text.replace("\n</parameter>", "</parameter>")
    is_said = isinstance(value, str) and value.endswith("\n")
    return [written] if is_said or short == written.text else [written, Written(written.prompt, short)]
