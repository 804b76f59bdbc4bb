"""Calls that are a name and a JSON object, with markers of the format's own around both."""

from __future__ import annotations

from llamafast.parsing.machine import Machine, MalformedError, Wait


class NamedMachine(Machine):
    """Reads the arguments of a call whose name is read."""

    def object_arguments(self) -> Wait[None]:
        """One JSON object, behind white space."""
        yield from self.space()
        if (yield from self.peek()) != "{":
            raise MalformedError
        yield from self.json(self.arguments)
        self.is_whole = True
