"""Calls written as Python: [get(city='Paris', days=3), now()]."""

from __future__ import annotations

import re

from llamafast.chat.reading.answer_parser import Wait
from llamafast.chat.reading.json_calls import JsonCallParser
from llamafast.chat.reading.literals import PYTHON, LiteralReader

_name = re.compile(r"[\w.:/-]*")


class PythonCallParser(JsonCallParser):
    """Reads a list of Python calls. Some models write JSON into it."""

    def python_calls(self) -> Wait[None]:
        """Read the list. White space may precede it."""
        yield from self.space()
        yield from self.expect("[")
        while True:
            yield from self.space()
            if (yield from self.peek()) == "{":
                yield from self.json_call()
            else:
                yield from self.python_call()
            yield from self.space()
            if not (yield from self.accept(",")):
                break
        yield from self.expect("]")

    def python_call(self) -> Wait[None]:
        """Read one call."""
        name = yield from self.word(_name)
        yield from self.expect("(")
        self.start_call(name)
        yield from self.literal_arguments(LiteralReader(PYTHON, "("))
        yield from self.skip_stray_brackets("=:'\"", ")}", has_words=True)
        if self.text[self.at] == ",":
            yield from self._another_call()
        self.end_call()

    def _another_call(self) -> Wait[None]:
        """Check that a call or the end of the list follows the comma. Raises MalformedError if not. Nothing is
        consumed.
        """
        self.commit()
        self.at += 1
        self.has_all_arguments = False
        yield from self.space()
        try:
            if (yield from self.peek()) not in "{]":
                yield from self.word(_name)
                yield from self.expect("(")
        finally:
            self.roll_back()
        self.has_all_arguments = True
