"""An answer written by a chat template and read back by a format: whether both know the same language."""

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
_PIECE = 3  # characters: a text comes in pieces
# What a generation prompt opens beside the turn's head (a tag of reasoning) is shorter.
_LONGEST_HEADER = 40
_BEGUN_TAG = re.compile(r"[<\[][^<>\[\]\s]*\Z")
_END_TAGS = re.compile(r"(\s*<[^<>\s]+>)+\s*\Z")


def _with_answer(conversation: Conversation) -> Conversation | None:
    """The conversation up to its first answer, where that is all that the model is to write."""
    index = next((i for i, message in enumerate(conversation.messages) if message["role"] == "assistant"), None)
    if index is None or conversation.is_open or "apart" in conversation.name or "older" in conversation.name:
        return None
    return Conversation(
        conversation.name, conversation.messages[: index + 1], conversation.tools, needs=conversation.needs
    )


ANSWERS = tuple(answer for conversation in CONVERSATIONS if (answer := _with_answer(conversation)) is not None)


def read_back(template: ChatTemplate, answers: ChatFormat, answer: Conversation, header: Header | None) -> str | None:
    """What is lost between the template and the format; None if nothing is that the template writes.

    answer: a conversation that ends with one. The model is taken to write what the template writes behind the prompt.
    """
    messages = template_messages(answer.messages, template.traits)
    tools = template_tools(answer.tools, template.traits)
    try:
        prompt, text = _prompt_and_text(template, messages, tools)
        if header is None:
            text = _without_end(template, text, tools)
    except TemplateError:
        return None  # what the template refuses no model writes
    if header is not None:
        text = _visible(header.tokenizer, text, answers)
    known = [Tool(str(_function(tool)["name"]), parameters=_schema(tool)) for tool in answer.tools or ()]
    parser = answers.parser(prompt, known or None)
    message = ParsedMessage.of(parser.read(text[i : i + _PIECE] for i in range(0, len(text), _PIECE)))
    if header is None:
        # The tags that end a turn are control tokens, which a parser never sees.
        message.content = _END_TAGS.sub("", message.content)
    return _difference(answer, messages, text, message)


def _prompt_and_text(
    template: ChatTemplate, messages: Sequence[Message], tools: Sequence[object] | None
) -> tuple[str, str]:
    """What the model reads, and what it writes: the last turn."""
    number = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
    for enable_thinking in (True, False):
        whole = template.render(messages, tools=tools, add_generation_prompt=False, enable_thinking=enable_thinking)
        prompt = template.render(messages[:number], tools=tools, enable_thinking=enable_thinking)
        if whole.startswith(prompt):
            return prompt, whole[len(prompt) :]
    # The prompt opens what the history leaves out: go back to where they part, but into no tag.
    num_shared = next(i for i, char in enumerate(prompt) if not whole.startswith(char, i))
    if len(prompt) - num_shared > _LONGEST_HEADER:
        raise TemplateError("the template writes the prompt otherwise once there is an answer")
    begun = _BEGUN_TAG.search(prompt[:num_shared])
    num_shared = begun.start() if begun else num_shared
    return prompt[:num_shared], whole[num_shared:]


def _without_end(template: ChatTemplate, text: str, tools: Sequence[object] | None) -> str:
    """The text without what the template writes behind any answer: no parser sees it."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _NEEDLE}]
    end = template.render(turns, tools=tools, add_generation_prompt=False).rpartition(_NEEDLE)[2]
    return text.removesuffix(end)


def _visible(tokenizer: Tokenizer, text: str, answers: ChatFormat) -> str:
    """The text as the parser of a server gets it: up to the end of the turn, without control tokens but its markers."""
    pieces: list[bytes] = []
    for token_id in tokenizer.encode(text, add_special=False, parse_special=True):
        data = tokenizer.token_bytes_of(token_id)
        name = b"" if data else tokenizer.token_bytes_of(token_id, special=True)
        if token_id in tokenizer.eog_ids and name.decode() not in answers.markers:
            break
        pieces.append(data or (name if name.decode() in answers.markers else b""))
    return b"".join(pieces).decode("utf-8", "replace")


def _difference(answer: Conversation, messages: Sequence[Message], text: str, message: ParsedMessage) -> str | None:
    wanted = answer.messages[-1]
    calls = wanted.get("tool_calls")
    expected = [(_function(call)["name"], json.loads(str(_function(call)["arguments"])))
                for call in (calls if isinstance(calls, list) else ())]  # fmt: skip
    if not all(str(name) in text for name, _ in expected) or len(messages) > len(answer.messages):
        return None  # the template does not write calls, or not so many in one turn
    found = [(call.name, _value(call.arguments)) for call in message.calls]
    content, reasoning = (str(wanted.get(name) or "").strip() for name in ("content", "reasoning_content"))
    have_content, have_reasoning = message.content.strip(), message.reasoning.strip()
    if expected and content and not have_content and have_reasoning.endswith(content):
        # gpt-oss has one place for what is said beside a call.
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
