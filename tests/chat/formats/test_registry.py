"""The registry finds the format that a chat template writes, in any order of registration."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from llamafast.chat.formats import registry
from tests.chat.collection import PATHS

# The deciding parts of the templates of these models. Several lines: the markers are shared with other formats.
SNIPPETS = {
    "apertus": ["{{ '<|tools_prefix|>[' }}"],
    "apriel": [
        '<thinking>{{ x }}</thinking> <tool_calls>[{"name": "f"}]</tool_calls>',
        "<tool_calls> [BEGIN FINAL RESPONSE]",
    ],
    "command_r": ['Action:\n```json\n[{"tool_name": "f"}]'],
    "command_r7b": ["<|START_ACTION|>[<|END_ACTION|>"],
    "deepseek_dsml": ["<｜DSML｜invoke name="],
    "deepseek_v3": ["<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>"],
    "functiongemma": ["{{ '<start_function_call>call:' + name + '{' }}"],
    "functionary_v31": ['<function=example_function_name>{"example_name": "example_value"}</function>'],
    "functionary_v32": [">>>all\n{{ content }}"],
    "gemma4": ["{{ '<|tool_call>call:' + function.name }}"],
    "gigachat": ["{{ 'function call' + '<|role_sep|>\n' }}", "<|role_sep|><|function_call|>"],
    "glm": ["<tool_call>{name}<arg_key>{key}</arg_key><arg_value>", '<tool_call> "name" <arg_key>'],
    "granite": ["respond only with <|tool_call|> followed by a JSON list"],
    "harmony": ["<|start|>assistant<|channel|>analysis<|message|>"],
    "hermes": [
        r"<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>",
        """{{ '\n<tool_call>\n{"name": "' + tool_call.name }}""",
    ],
    "hunyuan3": ["{{ '<tool_call{}>'.format(x) + '<tool_sep{}>' + '<arg_key{}>' }}"],
    "internlm2": ["<|im_start|>system name=<|plugin|>\n[", "{{ '<|action_start|><|plugin|>\n' }}"],
    "kimi_k2": ["<|tool_calls_section_begin|><|tool_call_begin|>{{ id }}<|tool_call_argument_begin|>"],
    "kimi_k3": ["{{ '<|open|>' + tag }}{{ '<|sep|>' }}{{ open_tag('argument') }}"],
    "lfm2": ["<|tool_call_start|>[", "List of tools: ["],
    "llama3_json": [
        """<|header_start|> <|python_start|> {\\"name\\": function name, \\"parameters\\": dictionary}""",
        """<|start_header_id|> respond with {"name": function name, "parameters": dictionary}""",
    ],
    "llama4_pythonic": [
        "<|header_start|> Use exact format: [func_name1(param1=value1, param2=value2), func_name2()]",
        "<|python_start|>",
    ],
    "llama_pythonic": ["[func_name1(params_name1=params_value1)]"],
    "minicpm5": ["""{{ '<function name="' ~ name }}{{ '<param name="' ~ key }}"""],
    "minimax_m1": ['<tool_calls>\n{"name": <tool-name>, "arguments": <args-json-object>}\n</tool_calls>'],
    "minimax_m2": ["""{{ '<minimax:tool_call>' }}<invoke name="f">"""],
    "minimax_m3": ["{%- set ns_token = ']<]minimax[>[' %}{{ ns_token ~ '<tool_call>' }}"],
    "mistral": ['[TOOL_CALLS][{"name": "f"}]', "[TOOL_CALLS]f[ARGS]"],
    "muse": ['<atem:function_calls>\n<atem:invoke name="f">'],
    "nemotron": ['<TOOLCALL>[{"name": "f", "arguments": {}}]</TOOLCALL>'],
    "phi": ["<|tool|>{{ tools }}<|/tool|>", "functools[", "<|tool|><|/tool|><|tool_call|>"],
    "plain": ["{{ messages }}", "<think></think>", "<tool_response>"],
    "qwen3_xml": [
        '<tool_call>\n<function=example>\n<parameter=a>\n</parameter> {{ "name" }}',
        "{{ '<tool_call>\n<function=' ~ name }}{{ '<parameter=' ~ key }}",
    ],
    "seed_oss": ["<seed:tool_call>\n<function=f>\n<parameter=a>"],
    "xlam": [
        '<|start_header_id|> make calls in a list: [{"name": "tool_call_name", "arguments": {"arg1": "value1"}}]',
        "<|im_start|>system\nYou are developed by Salesforce xLAM team.",
    ],
    "solar": ["<|tool_call:begin|>id<|tool_call:name|>f<|tool_call:args|>"],
}


@pytest.mark.parametrize("format", registry.names())
def test_registry_template_has_the_format_that_it_writes(format: str) -> None:
    assert [registry.detect(template).name for template in SNIPPETS[format]] == [format] * len(SNIPPETS[format])


@pytest.mark.parametrize("name", ["qwen3_xml", "Qwen3-XML", "qwen3-xml"])
def test_registry_name_is_found_however_it_is_spelled(name: str) -> None:
    assert registry.by_name(name).name == "qwen3_xml"


def test_registry_names_are_each_others_only_ones() -> None:
    assert sorted(set(registry.names())) == registry.names()


def known_templates() -> dict[str, str]:
    """The source of each known template by its name: the snippets above, and llama.cpp's collection if present."""
    snippets = {f"{name}-{i}": text for name, texts in SNIPPETS.items() for i, text in enumerate(texts)}
    return {**snippets, **{path.stem: path.read_text() for path in PATHS}}


def test_registry_order_of_registration_changes_no_detection() -> None:
    shuffled = list(registry.FORMATS)
    random.Random(7).shuffle(shuffled)
    ordered = registry.by_priority(shuffled)
    for name, template in known_templates().items():
        found = next(format for format in ordered if format.matches(template))
        assert type(found) is type(registry.detect(template)), name


def test_registry_formats_of_one_priority_match_no_template_together() -> None:
    for name, template in known_templates().items():
        priorities = [format.priority for format in registry.FORMATS if format.matches(template)]
        assert len(priorities) == len(set(priorities)), name


def test_registry_finds_every_file_of_the_package() -> None:
    files = {path.stem for path in Path(registry.__file__).parent.glob("*.py")} - {"__init__", "registry"}
    assert {type(format).__module__.rpartition(".")[2] for format in registry.FORMATS} == files
