"""Every template of llama.cpp's collection renders as with transformers (make test-templates)."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jinja2
import pytest

from llamafast.chat.formats.registry import detect
from llamafast.chat.prompt.history import template_messages
from llamafast.chat.prompt.template import ChatTemplate, TemplateError
from llamafast.launch.chat_setup import chat_format, chat_template
from llamafast.launch.config_file import load_config
from llamafast.launch.conversations import CONVERSATIONS, Conversation
from llamafast.launch.round_trip import ANSWERS, read_back
from tests.chat.collection import PATHS, SDIST, SPECIAL

CONFIGS = sorted((SDIST / "examples/server/configs").glob("*.json"))
FORMATS = json.loads((Path(__file__).parents[1] / "templates.json").read_text())
# The reasons for which an answer that the template writes cannot be read back (docs/templates.md).
NOT_READ_BACK = {
    "Apriel-1.6-15b-Thinker-fixed": "its reasoning has no tag but the one behind it, and the history leaves that out",
    "Cohere2MoE": "its text has a tag of its own, which is no control token of other Command models",
    "Kimi-K3": "its turns end with a word between control tokens, which only a vocabulary tells from text",
    "LFM2.5-8B-A1B": "it writes backslashes in strings unescaped",
    "MiniMax-M3": "it closes reasoning that nothing has opened, and leaves out nulls",
    "NVIDIA-Nemotron-Nano-v2": "its prompt opens reasoning that the history never closes",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "it writes the text beside calls as a second turn behind them",
}

pytestmark = pytest.mark.templates


def ours(template: ChatTemplate, conversation: Conversation, messages) -> str | None:
    try:
        return template.render(
            copy.deepcopy(messages),
            tools=conversation.tools and list(conversation.tools),
            add_generation_prompt=conversation.add_generation_prompt,
            continue_final_message=conversation.is_open,
            **conversation.variables,
        )
    except TemplateError:
        return None


def theirs(source: str, conversation: Conversation, messages) -> str | None:
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        (text,), _ = render_jinja_template(
            [copy.deepcopy(messages)],
            tools=conversation.tools and list(conversation.tools),
            chat_template=source,
            add_generation_prompt=conversation.add_generation_prompt and not conversation.is_open,
            continue_final_message=conversation.is_open,
            **SPECIAL,
            **conversation.variables,
        )
    except (jinja2.TemplateError, TypeError, ValueError, KeyError):
        return None
    return str(text)


def test_templates_are_all_there() -> None:
    assert len(PATHS) >= 60


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_template_writes_what_transformers_writes(path: Path) -> None:
    template = ChatTemplate(path.read_text(), **SPECIAL)
    different = []
    for conversation in CONVERSATIONS:
        messages = template_messages(conversation.messages, template.traits)
        if ours(template, conversation, messages) != theirs(template.source, conversation, messages):
            different.append(conversation.name)
    assert different == []


def test_templates_have_the_formats_of_the_table() -> None:
    assert {path.stem: detect(path.read_text()).name for path in PATHS} == FORMATS


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_template_answers_are_read_back_by_its_format(path: Path) -> None:
    template = ChatTemplate(path.read_text(), **SPECIAL)
    format = detect(template.source)
    faults = [fault for answer in ANSWERS if (fault := read_back(template, format, answer, None))]
    assert bool(faults) == (path.stem in NOT_READ_BACK), faults


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configuration_of_the_example_server_works(path: Path) -> None:
    model = load_config(path).model
    template = chat_template(model, None, None)
    assert (template is None) == path.stem.startswith("bge")
    if template is not None:
        chat_format(model, template)
        assert template.render(CONVERSATIONS[0].messages)
