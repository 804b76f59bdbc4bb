"""Every template of llama.cpp's collection writes what transformers writes with it (make test-templates)."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import jinja2
import pytest

from llamafast.parsing.conversations import CONVERSATIONS, Conversation
from llamafast.parsing.history import template_messages
from llamafast.parsing.template import ChatTemplate, TemplateError

FOLDER = Path(os.environ.get("LLAMAFAST_TEMPLATES", "none"))
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
PATHS = sorted(FOLDER.glob("*.jinja"))

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
