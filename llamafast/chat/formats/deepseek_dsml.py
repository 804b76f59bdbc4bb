"""The calls of DeepSeek V3.2 and V4: elements that declare whether a value is a string."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax, TaggedArguments
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import MalformedError, Wait
from llamafast.chat.reading.markers import Markers
from llamafast.chat.reading.tagged_calls import TaggedCallParser, ValueEnds
from llamafast.chat.tools import Tool

_attribute = re.compile(r'[^"<>\n]*')


def _section(name: str) -> CallSyntax:
    """The syntax with the name of the section, which differs between V3.2 and V4."""
    return CallSyntax(
        before_calls=f"<｜DSML｜{name}>\n",
        before_name=('<｜DSML｜invoke name="',),
        after_name='">\n',
        arguments=TaggedArguments(
            '<｜DSML｜parameter name="',
            '" string="true">',
            "</｜DSML｜parameter>\n",
            "</｜DSML｜parameter>",
            '" string="false">',
        ),
        after_arguments=("</｜DSML｜invoke>\n",),
        between="",
        after_calls=f"</｜DSML｜{name}>",
        marker="<｜DSML｜",
    )


class DeepseekDsml(ChatFormat):
    """<｜DSML｜invoke name="NAME"> with <｜DSML｜parameter name="KEY" string="true|false"> inside, within a section."""

    name: ClassVar[str] = "deepseek_dsml"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (("｜DSML｜",),)
    priority: ClassVar[int] = 90
    markers: ClassVar[tuple[str, ...]] = (
        "<think>",
        "</think>",
        "｜DSML｜",
    )
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (_section("function_calls"), _section("tool_calls"))

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(TaggedCallParser):
    starts = Markers("<｜DSML｜function_calls>", "<｜DSML｜tool_calls>")
    ends = ValueEnds(
        "</｜DSML｜parameter>",
        '<｜DSML｜parameter name="',
        ("</｜DSML｜invoke>",),
        call_open='<｜DSML｜invoke name="',
    )
    after_call = ('<｜DSML｜invoke name="', *starts.texts, "</｜DSML｜function_calls>", "</｜DSML｜tool_calls>")

    def call(self, marker: str) -> Wait[None]:
        """All calls of a section."""
        yield from self.space()
        yield from self.expect('<｜DSML｜invoke name="')
        while True:
            name = yield from self._quoted()
            yield from self.expect(">")
            self.start_call(name)
            yield from self.tagged_arguments(name)
            if not (yield from self.accept_end('<｜DSML｜invoke name="')):
                break
        yield from self.accept_end(marker.replace("<", "</"))

    def argument_head(self) -> Wait[tuple[str, bool | None]]:
        """The rest of an argument's opening tag."""
        key = yield from self._quoted()
        is_string = None
        yield from self.space()
        if (yield from self.accept('string="')):
            is_string = (yield from self._quoted()) == "true"
        yield from self.expect(">")
        return key, is_string

    def _quoted(self) -> Wait[str]:
        """The value of an attribute. Its opening quote has been consumed."""
        text = yield from self.word(_attribute)
        if not (yield from self.accept('"')):
            raise MalformedError
        return text
