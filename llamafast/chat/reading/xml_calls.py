"""Calls whose arguments are elements with bare text in them: <function=NAME><parameter=KEY>VALUE</parameter>..."""

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

    outer_close: closes one call or several, "": nothing does. A value's first and last line break belong to the tags
    where has_lines; has_cdata: it may stand in <![CDATA[..]]>. call_close "": a value ends at its closing tag alone.
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
        # Some models forget the inner one of two closing tags.
        closes = tuple(text for text in (self.call_close, self.outer_close) if text)
        opener = self.value_open if closes else ""
        call_open = self.call_open if closes else ""
        ends = ValueEnds(self.value_close, opener, closes, self.has_lines, call_open=call_open)
        object.__setattr__(self, "ends", ends)
        object.__setattr__(self, "cdata_ends", Markers("]]>" + self.value_close))


class XmlCallParser(TaggedCallParser):
    """Reads calls out of elements."""

    elements: Elements

    @property
    def ends(self) -> ValueEnds:
        """What ends a value."""
        return self.elements.ends

    @property
    def after_call(self) -> tuple[str, ...]:
        """What may stand behind the tags that end a call."""
        texts = (self.elements.outer_close, self.elements.call_open, *self.starts.texts, *self.wrappers)
        return tuple(text for text in texts if text)

    def xml_call(self, is_call: bool = True) -> Wait[None]:
        """The rest of a call, behind call_open. Unless it is_call already, its name must be a tool's."""
        name = yield from self._call_name()
        if not name or not (is_call or any(tool.name == name for tool in self.tools or ())):
            raise MalformedError
        self.start_call(name)
        yield from self.space()
        if (yield from self.accept(self.elements.call_open)) and (yield from self._call_name()) != name:
            raise MalformedError
        yield from self.tagged_arguments(name)

    def xml_calls(self) -> Wait[None]:
        """Calls up to what closes them."""
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
        """The rest of an argument's opening tag."""
        key = (yield from self.word(_name)).strip()
        yield from self.expect(self.elements.name_close)
        return key, None

    def value(self, writer: ArgumentWriter, key: str) -> Wait[None]:
        """A value and its closing tag."""
        if self.elements.has_cdata and (yield from self.accept("<![CDATA[")):
            yield from self.copy(self.elements.cdata_ends, lambda text: self.arguments(writer.add(text)))
        else:
            yield from super().value(writer, key)

    def _call_name(self) -> Wait[str]:
        name = (yield from self.word(_name)).strip()
        yield from self.expect(self.elements.name_close)
        return name
