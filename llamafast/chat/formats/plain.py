"""The format of models that have no known syntax for tool calls: reasoning and content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import AnswerParser
from llamafast.chat.reasoning_tags import THINK, ReasoningTags
from llamafast.chat.tools import Tool

_TAGS = (
    THINK,
    ReasoningTags("<thinking>", "</thinking>"),
    ReasoningTags("<reasoning>", "</reasoning>"),
    ReasoningTags("<seed:think>", "</seed:think>"),
    ReasoningTags("<mm:think>", "</mm:think>"),
    ReasoningTags("[THINK]", "[/THINK]"),
)


class Plain(ChatFormat):
    """Text in which only reasoning tags have a meaning.

    template: a chat template. Only the tags that it contains count. None: all known tags count.
    """

    name: ClassVar[str] = "plain"
    priority: ClassVar[int] = 0
    reads_calls: ClassVar[bool] = False
    markers: ClassVar[tuple[str, ...]] = tuple(text for tags in _TAGS for text in (tags.open, tags.close))

    def __init__(self, template: str | None = None) -> None:
        self._tags = tuple(
            tags for tags in _TAGS if template is None or tags.open in template or tags.close in template
        )

    @property
    def tags(self) -> tuple[ReasoningTags, ...]:
        """The known tags that the template contains."""
        return self._tags

    def reasoning_at(self, prompt: str) -> ReasoningTags | None:
        """The tags that the prompt's end opens or closes; otherwise the first tags of the template."""
        text = prompt.rstrip()
        at_end = (tags for tags in self._tags if text.endswith((tags.open, tags.close)))
        return next(at_end, self._tags[0] if self._tags else None)

    def matches(self, template: str) -> bool:
        """Every template matches."""
        return True

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return AnswerParser(prompt, None, self.tags)
