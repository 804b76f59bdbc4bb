"""FunctionGemma's calls: objects in Gemma 4's notation, between other tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax, LiteralArguments
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.formats.gemma4 import GemmaCallParser
from llamafast.chat.reading.literals import Notation
from llamafast.chat.reading.markers import Markers
from llamafast.chat.tools import Tool

_QUOTE = "<escape>"


class FunctionGemma(ChatFormat):
    """<start_function_call>call:NAME{key:<escape>text<escape>,other:1}<end_function_call>"""

    name: ClassVar[str] = "functiongemma"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (("<start_function_call>",),)
    priority: ClassVar[int] = 90
    markers: ClassVar[tuple[str, ...]] = (
        "<start_function_call>",
        "<end_function_call>",
        "<start_function_response>",
        _QUOTE,
    )
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (
        CallSyntax(
            before_name=("<start_function_call>call:",),
            after_name="{",
            arguments=LiteralArguments(":", ",", _QUOTE),
            after_arguments=("}<end_function_call>",),
            between="",
            marker="<start_function_call>",
        ),
    )

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(GemmaCallParser):
    starts = Markers("<start_function_call>")
    closers = ("<end_function_call>",)
    # The model opens the function's response, which ends its turn.
    wrappers = ("<start_function_response>",)
    notation = Notation((_QUOTE, '"'), ('"',), has_bare_strings=True)
