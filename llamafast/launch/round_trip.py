"""Checks that a chat format reads back the answers that a chat template writes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from llamafast.chat.events import ParsedMessage
from llamafast.chat.format import ChatFormat
from llamafast.chat.prompt.history import template_messages, template_tools
from llamafast.chat.prompt.template import ChatTemplate, TemplateError
from llamafast.chat.tools import Tool
from llamafast.engine.model_info import Header
from llamafast.launch.conversations import CONVERSATIONS, Conversation
from llamafast.tokenizer import Tokenizer

Message = Mapping[str, object]

_NEEDLE = "qzneedleqz"
_PIECE = 3  # characters: the parser gets a text in pieces
# Characters. The part of a generation prompt that the history omits, such as a reasoning tag, is shorter.
_LONGEST_HEADER = 40
_BEGUN_TAG = re.compile(r"[<\[][^<>\[\]\s]*\Z")
_END_TAGS = re.compile(r"(\s*<[^<>\s]+>)+\s*\Z")


def _with_answer(conversation: Conversation) -> Conversation | None:
    """The conversation up to and including its first answer. None if the answer is more than one message."""
    index = next((i for i, message in enumerate(conversation.messages) if message["role"] == "assistant"), None)
    if index is None or conversation.is_open or "apart" in conversation.name or "older" in conversation.name:
        return None
    return Conversation(
        conversation.name, conversation.messages[: index + 1], conversation.tools, needs=conversation.needs
    )


ANSWERS = tuple(answer for conversation in CONVERSATIONS if (answer := _with_answer(conversation)) is not None)


def read_back(
    template: ChatTemplate, chat_format: ChatFormat, answer: Conversation, header: Header | None
) -> str | None:
    """The first difference between the answer and what the format reads back; None if there is none.

    The text that the template writes after the prompt is used as the text of the model.
    answer: a conversation that ends with an answer.
    """
    messages = template_messages(answer.messages, template.traits)
    tools = template_tools(answer.tools, template.traits)
    try:
        prompt, text = _prompt_and_text(template, messages, tools)
        if header is None:
            text = _without_end(template, text, tools)
    except TemplateError:
        return None  # no model writes an answer that its template refuses
    if header is not None:
        text = _visible(header.tokenizer, text, chat_format)
    known = [Tool(str(_function(tool)["name"]), parameters=_schema(tool)) for tool in answer.tools or ()]
    parser = chat_format.parser(prompt, known or None)
    message = ParsedMessage.of(parser.read(text[i : i + _PIECE] for i in range(0, len(text), _PIECE)))
    if header is None:
        # The tags that end a turn are control tokens, which a parser never sees.
        message.content = _END_TAGS.sub("", message.content)
    return _difference(answer, messages, text, message)


def _prompt_and_text(
    template: ChatTemplate, messages: Sequence[Message], tools: Sequence[object] | None
) -> tuple[str, str]:
    """The text that the model reads, and the text that it writes: the last turn."""
    number = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
    for enable_thinking in (True, False):
        whole = template.render(messages, tools=tools, add_generation_prompt=False, enable_thinking=enable_thinking)
        prompt = template.render(messages[:number], tools=tools, enable_thinking=enable_thinking)
        if whole.startswith(prompt):
            return prompt, whole[len(prompt) :]
    # The prompt opens a part that the history omits: cut where they differ, but not inside a tag.
    num_shared = next(i for i, char in enumerate(prompt) if not whole.startswith(char, i))
    if len(prompt) - num_shared > _LONGEST_HEADER:
        raise TemplateError("the template writes a different prompt if an answer follows")
    begun = _BEGUN_TAG.search(prompt[:num_shared])
    num_shared = begun.start() if begun else num_shared
    return prompt[:num_shared], whole[num_shared:]


def _without_end(template: ChatTemplate, text: str, tools: Sequence[object] | None) -> str:
    """The text without the end that the template writes after any answer. No parser sees this end."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _NEEDLE}]
    end = template.render(turns, tools=tools, add_generation_prompt=False).rpartition(_NEEDLE)[2]
    return text.removesuffix(end)


def _visible(tokenizer: Tokenizer, text: str, chat_format: ChatFormat) -> str:
    """The text that a parser gets: up to the end of the turn, without control tokens except the format's markers."""
    pieces: list[bytes] = []
    for token_id in tokenizer.encode(text, add_special=False, parse_special=True):
        data = tokenizer.token_bytes_of(token_id)
        name = b"" if data else tokenizer.token_bytes_of(token_id, special=True)
        if token_id in tokenizer.eog_ids and name.decode() not in chat_format.markers:
            break
        pieces.append(data or (name if name.decode() in chat_format.markers else b""))
    return b"".join(pieces).decode("utf-8", "replace")


def _difference(answer: Conversation, messages: Sequence[Message], text: str, message: ParsedMessage) -> str | None:
    wanted = answer.messages[-1]
    calls = wanted.get("tool_calls")
    expected = [(_function(call)["name"], json.loads(str(_function(call)["arguments"])))
                for call in (calls if isinstance(calls, list) else ())]  # fmt: skip
    if not all(str(name) in text for name, _ in expected) or len(messages) > len(answer.messages):
        return None  # the template does not write calls, or not this many in one turn
    found = [(call.name, _value(call.arguments)) for call in message.calls]
    content, reasoning = (str(wanted.get(name) or "").strip() for name in ("content", "reasoning_content"))
    have_content, have_reasoning = message.content.strip(), message.reasoning.strip()
    if expected and content and not have_content and have_reasoning.endswith(content):
        # gpt-oss has one channel for reasoning and for content before a call.
        have_content, have_reasoning = content, have_reasoning.removesuffix(content).strip()
    for what, want, have in (
        ("calls", expected, found),
        ("content", content if content in text else "", have_content),
        ("reasoning", reasoning if reasoning in text else "", have_reasoning),
    ):
        if want != have:
            return f"{answer.name}: {what} {want!r} came back as {have!r}"
    return None


def _function(tool: object) -> Mapping[str, object]:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    return function if isinstance(function, Mapping) else {}


def _schema(tool: object) -> Mapping[str, object]:
    schema = _function(tool).get("parameters")
    return schema if isinstance(schema, Mapping) else {}


def _value(text: str) -> object:
    try:
        value: object = json.loads(text)
    except ValueError:
        return text
    return value
