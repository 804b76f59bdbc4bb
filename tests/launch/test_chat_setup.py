"""The chat template and the chat format that a configuration selects."""

from __future__ import annotations

import json

import pytest

from llamafast.chat.enforcing.output_grammar import CallPolicy
from llamafast.chat.formats.registry import detect
from llamafast.chat.prompt.template import ChatTemplate
from llamafast.chat.tools import Tool
from llamafast.errors import ConfigError, GrammarError
from llamafast.launch.chat_setup import chat_format, chat_template
from llamafast.launch.config_file import load_config


def model(**fields):
    return load_config(None, {"model": {"path": "m", **fields}}).model


def test_chat_template_of_the_configuration_wins_over_the_models():
    assert chat_template(model(chat_template=["mi", "ne"]), "its", None).source == "mine"
    assert chat_template(model(), "its", None).source == "its"
    assert chat_template(model(), None, None) is None


def test_chat_template_file_is_read(tmp_path):
    path = tmp_path / "chat.jinja"
    path.write_text("mine é")
    assert chat_template(model(chat_template_file=str(path)), "its", None).source == "mine é"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "No such file"),
        (b"\xff", "not UTF-8"),
        (b"\n{% if %}", "chat template, line 2"),
        (b"{{ 'x' * 10**10 }}", "cannot be rendered"),
    ],
)
def test_chat_template_file_that_is_wrong_is_named(tmp_path, data, message):
    path = tmp_path / "chat.jinja"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConfigError, match=rf"^model\.chat_template_file: .*{message}"):
        chat_template(model(chat_template_file=str(path)), None, None)


def test_chat_template_file_without_an_end_is_refused():
    with pytest.raises(ConfigError, match=r"^model\.chat_template_file: /dev/zero: the file is larger than"):
        chat_template(model(chat_template_file="/dev/zero"), None, None)


def test_chat_format_is_the_configured_one_else_the_templates():
    template = ChatTemplate("<tool_call>\n<function= <parameter=", bos_token="", eos_token="")
    assert chat_format(model(tool_format="hermes"), template).name == "hermes"
    assert chat_format(model(), template).name == "qwen3_xml"
    assert chat_format(model(), None).name == "plain"


def test_chat_format_of_a_response_schema_follows_it():
    schema = {"type": "object", "properties": {"content": {"type": "string", "x-regex": "^(.*)$"}}}
    assert chat_format(model(response_schema=schema), None).name == "response_schema"


def test_calls_of_a_response_schema_are_held_to_the_templates_format():
    schema = {"type": "object", "properties": {"content": {"type": "string", "x-regex": "^(.*)$"}}}
    template = ChatTemplate("<|inner_prefix|><|tools_prefix|>", bos_token="", eos_token="")
    configured, tools = chat_format(model(response_schema=schema), template), [Tool("f")]
    assert configured.reasoning_at("").open == "<|inner_prefix|>"
    assert configured.grammar("", tools, CallPolicy()) == detect(template.source).grammar("", tools, CallPolicy())
    with pytest.raises(GrammarError) as caught:
        chat_format(model(response_schema=schema), None).grammar("", tools, CallPolicy())
    assert caught.value.param == "tool_choice"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tool_format": "hermess"}, "model.tool_format: unknown tool format 'hermess'"),
        ({"response_schema": {"x-regex": "("}}, "model.response_schema: "),
    ],
)
def test_chat_format_that_is_wrong_is_named(fields, message):
    with pytest.raises(ConfigError) as caught:
        chat_format(model(**fields), None)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "fields",
    [{"chat_template": "a", "chat_template_file": "b"}, {"tool_format": "hermes", "response_schema": {}}],
    ids=json.dumps,
)
def test_model_section_refuses_two_of_one_kind(fields):
    with pytest.raises(ConfigError, match=r"set .* or .*, not both"):
        model(**fields)
