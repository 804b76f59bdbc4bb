"""Turn: a message of a conversation before the template reads it. Call: a tool call in such a message."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

MessageContent = str | list[object]

SYSTEM_ROLES = ("system", "developer")


class TrustedText(str):
    """A text that no client wrote, or one of a closed list such as a role. Control tokens in it are not marked."""

    __slots__ = ()


# The names of the fields of OpenAI's messages and tools, of reasoning fields, and the types of parts.
_WORDS = {
    word: TrustedText(word)
    for word in (
        "role", "content", "name", "tool_calls", "tool_call_id", "id", "type", "function", "arguments", "text",
        "description", "parameters", "reasoning_content", "reasoning", "thinking", "thought",
    )
}  # fmt: skip


def with_trusted_names(fields: Mapping[str, object]) -> dict[str, object]:
    """A copy in which the names of known fields, and the type, are trusted texts."""
    own: dict[str, object] = {_WORDS.get(name, name): value for name, value in fields.items()}
    if isinstance(kind := own.get("type"), str):
        own[_WORDS["type"]] = _WORDS.get(kind, kind)
    return own


@dataclass(slots=True)
class Call:
    """A tool call in an earlier answer.

    call_id: the id from the client.
    name: the name of the function.
    arguments: the arguments as an object, or the text itself if it is not a JSON object.
    arguments_text: the arguments as text.
    extra: other fields of the call.
    """

    call_id: str
    name: str
    arguments: object
    arguments_text: str
    extra: dict[str, object]


@dataclass(slots=True)
class Turn:
    """One message.

    role: system, developer, user, assistant or tool.
    content: a text or a list of parts.
    reasoning: the reasoning of an answer.
    calls: the tool calls of an answer.
    extra: fields that the template gets unchanged.
    """

    role: str
    content: MessageContent
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    extra: dict[str, object] = field(default_factory=dict)

    @property
    def is_system(self) -> bool:
        """Whether it is an instruction to the model."""
        return self.role in SYSTEM_ROLES


def text_of(content: MessageContent) -> str:
    """The text of a content. Parts are joined by line breaks."""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))


def joined(contents: Iterable[MessageContent]) -> MessageContent:
    """Contents as paragraphs of one content. It is a list of parts if one of them is."""
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
    """A text as a content part."""
    return {"type": "text", "text": text}
