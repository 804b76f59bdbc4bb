"""The Python calls of Llama 3.2 and 4: the whole answer, or text between markers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax, LiteralArguments
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import Wait
from llamafast.chat.reading.bare_calls import BareCallParser
from llamafast.chat.reading.markers import Markers
from llamafast.chat.tools import Tool


class LlamaPythonic(ChatFormat):
    """[name(key='text', other=1)], also between <|python_start|> and <|python_end|>."""

    name: ClassVar[str] = "llama_pythonic"
    priority: ClassVar[int] = 65
    markers: ClassVar[tuple[str, ...]] = (
        "<|python_start|>",
        "<|python_end|>",
    )
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (
        CallSyntax(
            before_calls="[",
            before_name=("",),
            after_name="(",
            arguments=LiteralArguments("=", ", "),
            after_arguments=(")",),
            between=", ",
            after_calls="]",
        ),
    )

    def matches(self, template: str) -> bool:
        """Whether a chat template writes this format."""
        return "<|header_start|>" not in template and _shows_python(template)

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class Llama4Pythonic(LlamaPythonic):
    """The same format in Llama 4's templates. Other Llama 4 templates show calls in JSON."""

    name: ClassVar[str] = "llama4_pythonic"
    priority: ClassVar[int] = 70

    def matches(self, template: str) -> bool:
        """Whether a chat template writes this format."""
        if "<|header_start|>" in template:
            return _shows_python(template)
        return "<|python_start|>" in template and "parameters" not in template


def _shows_python(template: str) -> bool:
    """Whether a template tells the model to call in Python."""
    return re.search(r"\[func_name1\(\w+1=", template) is not None


class _Parser(BareCallParser):
    beginnings = ("[",)
    starts = Markers("<|python_start|>")
    closers = ("<|python_end|>",)

    def call(self, marker: str) -> Wait[None]:
        """All calls of a list."""
        self.is_bare = marker in self.beginnings
        if self.is_bare:
            self.at -= 1
        yield from self.python_calls()
        yield from self.accept_end("<|python_end|>")
