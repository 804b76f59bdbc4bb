"""GigaChat: two generations write calls in two ways, and each grammar forces its own."""

from __future__ import annotations

import json

import pytest

from llamafast.chat.enforcing.output_grammar import CallPolicy
from llamafast.chat.formats import registry
from llamafast.chat.tools import Tool
from llamafast.grammars.lark import compile_lark
from tests.chat.calls import read
from tests.grammars.vocabularies import bytes_vocabulary
from tests.grammars.walks import WORDS, walk_program

TOOLS = [Tool("f", "", {"properties": {"a": {"const": 1}}, "required": ["a"]})]


@pytest.mark.parametrize(
    ("template", "begin"),
    [
        ("function call<|role_sep|>", "function call<|role_sep|>\n"),
        ("<|role_sep|><|function_call|>", "<|function_call|>"),
    ],
)
def test_gigachat_is_held_to_calls_as_its_template_writes_them(template: str, begin: str) -> None:
    chat_format = registry.detect(template)
    source = chat_format.grammar("</think>", TOOLS, CallPolicy(is_required=True))
    text = walk_program(compile_lark(bytes_vocabulary(*chat_format.markers), source), 0, WORDS)
    assert text.startswith(begin)
    [call] = read(chat_format, "", TOOLS, text).calls
    assert (json.loads(call.arguments), call.is_complete) == ({"a": 1}, True)
