"""Calls whose arguments are elements that contain bare text: <function=NAME><parameter=KEY>VALUE</parameter>..."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from llamafast.chat.reading.answer_parser import MalformedError, Wait
from llamafast.chat.reading.argument_writer import ArgumentWriter
from llamafast.chat.reading.markers import Markers
from llamafast.chat.reading.tagged_calls import TaggedCallParser, ValueEnds

_name = re.compile(r'[^<>"\n]*')


@dataclass(frozen=True, slots=True)
class Elements:
    """How a format writes a call: the texts around names and values.

    call_open, call_close: the texts before the name of a call, and at its end. An empty call_close: only its closing
        tag ends a value.
    value_open, value_close: the texts before the key of a value, and after the value.
    name_close: the text after a name or a key.
    outer_close: the text that closes one or several calls. Empty: there is none.
    has_lines: the first and the last line break of a value belong to its tags.
    has_cdata: a value may be in <![CDATA[..]]>.
    """

    call_open: str
    call_close: str
    value_open: str
    value_close: str
    name_close: str = ">"
    outer_close: str = ""
    has_lines: bool = False
    has_cdata: bool = False
    ends: ValueEnds = field(init=False)
    cdata_ends: Markers = field(init=False)

    def __post_init__(self) -> None:
        # Some models omit the inner one of two closing tags.
        closes = tuple(text for text in (self.call_close, self.outer_close) if text)
        opener = self.value_open if closes else ""
        call_open = self.call_open if closes else ""
        ends = ValueEnds(self.value_close, opener, closes, self.has_lines, call_open=call_open)
        object.__setattr__(self, "ends", ends)
        object.__setattr__(self, "cdata_ends", Markers("]]>" + self.value_close))


class XmlCallParser(TaggedCallParser):
    """Reads calls from elements."""

    elements: Elements

    @property
    def ends(self) -> ValueEnds:
        """The texts that end a value."""
        return self.elements.ends

    @property
    def after_call(self) -> tuple[str, ...]:
        """Texts that may follow the tags that end a call."""
        texts = (self.elements.outer_close, self.elements.call_open, *self.starts.texts, *self.wrappers)
        return tuple(text for text in texts if text)

    def xml_call(self, is_call: bool = True) -> Wait[None]:
        """Read the rest of a call after call_open. Raises MalformedError if neither is_call nor the name is that of a
        tool.
        """
        name = yield from self._call_name()
        if not name or not (is_call or any(tool.name == name for tool in self.tools or ())):
            raise MalformedError
        self.start_call(name)
        yield from self.space()
        if (yield from self.accept(self.elements.call_open)) and (yield from self._call_name()) != name:
            raise MalformedError
        yield from self.tagged_arguments(name)

    def xml_calls(self) -> Wait[None]:
        """Read calls up to the text that closes them."""
        while True:
            yield from self.space()
            yield from self.expect(self.elements.call_open)
            yield from self.xml_call()
            if (yield from self.accept_end(self.elements.outer_close)):
                return
            yield from self.space()
            if (yield from self.peek()) != "<":
                return

    def argument_head(self) -> Wait[tuple[str, bool | None]]:
        """Read the rest of an argument's opening tag."""
        key = (yield from self.word(_name)).strip()
        yield from self.expect(self.elements.name_close)
        return key, None

    def value(self, writer: ArgumentWriter, key: str) -> Wait[None]:
        """Read a value and its closing tag."""
        if self.elements.has_cdata and (yield from self.accept("<![CDATA[")):
            yield from self.copy(self.elements.cdata_ends, lambda text: self.arguments(writer.add(text)))
        else:
            yield from super().value(writer, key)

    def _call_name(self) -> Wait[str]:
        name = (yield from self.word(_name)).strip()
        yield from self.expect(self.elements.name_close)
        return name
