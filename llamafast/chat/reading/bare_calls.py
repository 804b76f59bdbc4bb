"""Calls without a marker: an answer that begins like a call is one if it calls a tool of the request."""

from __future__ import annotations

from typing import ClassVar

from llamafast.chat.reading.answer_parser import MalformedError, Wait
from llamafast.chat.reading.python_calls import PythonCallParser


class BareCallParser(PythonCallParser):
    """Reads calls at the beginning of a part, and after markers.

    beginnings: the texts that may begin a bare call. `call` gets one of them as its marker, after it has been consumed.
    keys: the members that a bare JSON call may have. Empty: any member.
    """

    beginnings: ClassVar[tuple[str, ...]]
    keys: ClassVar[tuple[str, ...]] = ()
    is_bare = False

    def run(self) -> Wait[None]:
        """Read the whole text."""
        if self._opened is not None:
            yield from self.reasoning(self._opened.close)
        is_between = True
        while True:
            if is_between:
                yield from self.skip_between_parts()
                first = "" if self.tools is None else (yield from self.peek_any(self.beginnings))
                if first:
                    self.at += len(first)
                    is_between = yield from self._try_call(first)
                    if is_between:
                        yield from self.accept_end(";")
                        continue
            marker = yield from self.copy(self._stops, self.add_content)
            is_between = yield from self._try_call(marker)
            if is_between:
                yield from self.accept_end(";")

    def start_call(self, name: str, call_id: str | None = None) -> None:
        """The head of a call has been read. Raises MalformedError if a bare call names no tool of the request."""
        if self.is_bare and all(tool.name != name for tool in self.tools or ()):
            raise MalformedError
        super().start_call(name, call_id)

    def _member(self, key: str) -> Wait[None]:
        if self.is_bare and self.keys and key not in self.keys:  # an answer in JSON must not wait for its end
            raise MalformedError
        yield from super()._member(key)
