"""Calls whose arguments are elements with bare text in them: <function=NAME><parameter=KEY>VALUE</parameter>..."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from llamafast.parsing.arguments import ArgumentWriter
from llamafast.parsing.machine import Machine, MalformedError, TextEnd, Wait
from llamafast.parsing.markers import Markers

_name = re.compile(r'[^<>"\n]*')


@dataclass(frozen=True, slots=True)
class Elements:
    """How a format writes a call: the texts around names and values.

    A value's first and last line break belong to the tags where has_lines; has_cdata: it may stand in <![CDATA[..]]>.
    """

    call_open: str
    call_close: str
    value_open: str
    value_close: str
    name_close: str = ">"
    has_lines: bool = False
    has_cdata: bool = False
    value_ends: Markers = field(init=False)
    cdata_ends: Markers = field(init=False)

    def __post_init__(self) -> None:
        ends = ("\n" + self.value_close, self.value_close) if self.has_lines else (self.value_close,)
        object.__setattr__(self, "value_ends", Markers(*ends))
        object.__setattr__(self, "cdata_ends", Markers("]]>" + self.value_close))


class XmlMachine(Machine):
    """Reads calls out of elements."""

    elements: Elements
    outer_close: str = ""  # closes one call or several

    def xml_call(self, is_call: bool = True) -> Wait[None]:
        """The rest of a call, behind call_open. Unless it is_call already, its name must be a tool's."""
        name = (yield from self.word(_name)).strip()
        yield from self.expect(self.elements.name_close)
        if not name or not (is_call or any(tool.name == name for tool in self.tools or ())):
            raise MalformedError
        self.start_call(name)
        writer = ArgumentWriter(name, self.tools)
        while True:
            yield from self.space()
            if (yield from self.accept(self.elements.value_open)):
                yield from self._value(writer)
            elif (yield from self._is_closed()):
                break
            else:
                raise MalformedError
        self.arguments(writer.close())
        self.end_call()

    def xml_calls(self) -> Wait[None]:
        """Calls up to outer_close."""
        while True:
            yield from self.space()
            yield from self.expect(self.elements.call_open)
            yield from self.xml_call()
            if (yield from self.accept_end(self.outer_close)):
                return
            yield from self.space()
            if (yield from self.peek()) != "<":
                return

    def _value(self, writer: ArgumentWriter) -> Wait[None]:
        key = yield from self.word(_name)
        yield from self.expect(self.elements.name_close)
        self.arguments(writer.begin(key))
        ends = self.elements.value_ends
        if self.elements.has_lines:
            yield from self.accept("\n")
        elif self.elements.has_cdata and (yield from self.accept("<![CDATA[")):
            ends = self.elements.cdata_ends
        try:
            yield from self.copy(ends, lambda text: self.arguments(writer.add(text)))
        except TextEnd:
            self.arguments(writer.cut())
            raise
        self.arguments(writer.end())

    def _is_closed(self) -> Wait[bool]:
        """Some models forget the inner one of two closing tags."""
        if (yield from self.accept(self.elements.call_close)):
            return True
        return bool(self.outer_close) and (yield from self.accept(self.outer_close))
