"""Turns: the messages of a conversation on their way to the template, and the calls in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

MessageContent = str | list[object]

SYSTEM_ROLES = ("system", "developer")


class TrustedText(str):
    """A text that is ours, or one of a closed list such as a role: no client's, so it is not marked as theirs."""

    __slots__ = ()


# Names of fields in OpenAI's messages and tools, with those under which templates read reasoning; and types of parts.
_WORDS = {
    word: TrustedText(word)
    for word in (
        "role", "content", "name", "tool_calls", "tool_call_id", "id", "type", "function", "arguments", "text",
        "description", "parameters", "reasoning_content", "reasoning", "thinking", "thought",
    )
}  # fmt: skip


def with_trusted_names(fields: Mapping[str, object]) -> dict[str, object]:
    """A copy in which the names of known fields, and the type, are our own texts."""
    own: dict[str, object] = {_WORDS.get(name, name): value for name, value in fields.items()}
    if isinstance(kind := own.get("type"), str):
        own[_WORDS["type"]] = _WORDS.get(kind, kind)
    return own


@dataclass(slots=True)
class Call:
    """call_id as the client has it; arguments_text as well."""

    call_id: str
    name: str
    arguments: object
    arguments_text: str
    extra: dict[str, object]


@dataclass(slots=True)
class Turn:
    """One message. extra: fields that reach the template as they are."""

    role: str
    content: MessageContent
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    extra: dict[str, object] = field(default_factory=dict)

    @property
    def is_system(self) -> bool:
        """Whether it tells the model how to behave."""
        return self.role in SYSTEM_ROLES


def text_of(content: MessageContent) -> str:
    """The text of a content; that of parts in lines."""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))


def joined(contents: Iterable[MessageContent]) -> MessageContent:
    """Contents as paragraphs of one; it is parts where one of them is."""
    shown = [content for content in contents if content]
    texts = [content for content in shown if isinstance(content, str)]
    if len(texts) == len(shown):
        return "\n\n".join(texts)
    parts: list[object] = []
    for content in shown:
        parts += [
            *([text_part("\n\n")] if parts else []),
            *([text_part(content)] if isinstance(content, str) else content),
        ]
    return parts


def text_part(text: str) -> dict[str, str]:
    """A text as a part of a content."""
    return {"type": "text", "text": text}
