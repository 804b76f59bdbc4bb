"""Calls that nothing marks: an answer that begins as one is one, if it calls a tool that there is."""

from __future__ import annotations

from typing import ClassVar

from llamafast.parsing.machine import MalformedError, Wait
from llamafast.parsing.python_calls import PythonMachine


class BareMachine(PythonMachine):
    """Reads calls at the beginning of a part, and behind markers. first: a bare call's first character.

    `call` gets `first` for a marker, one character behind it.
    """

    first: ClassVar[str]
    is_bare = False

    def run(self) -> Wait[None]:
        """The whole text."""
        if self._opened is not None:
            yield from self.reasoning(self._opened.close)
        is_between = True
        while True:
            if is_between:
                yield from self.between()
                if self.tools is not None and (yield from self.accept(self.first)):
                    is_between = yield from self._try_call(self.first)
                    if is_between:
                        yield from self.accept_end(";")
                        continue
            marker = yield from self.copy(self._stops, self.add_content)
            is_between = yield from self._try_call(marker)
            if is_between:
                yield from self.accept_end(";")

    def start_call(self, name: str, call_id: str | None = None) -> None:
        """The head of a call is read. Raises MalformedError where only a tool may be called."""
        if self.is_bare and all(tool.name != name for tool in self.tools or ()):
            raise MalformedError
        super().start_call(name, call_id)
