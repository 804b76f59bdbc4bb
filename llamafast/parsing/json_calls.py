"""Calls that are JSON objects: {"name": ..., "arguments": {...}}, one or a list of them."""

from __future__ import annotations

import json
from typing import ClassVar

from llamafast.parsing.machine import Machine, MalformedError, Wait
from llamafast.parsing.shape import loads


class JsonMachine(Machine):
    """Reads calls in JSON. The keys may come in any order: arguments before the name wait for it.

    Arguments may be a JSON string that holds an object, null, or missing: then they are {}.
    """

    name_keys: ClassVar[tuple[str, ...]] = ("name",)
    arguments_keys: ClassVar[tuple[str, ...]] = ("arguments", "parameters")
    id_keys: ClassVar[tuple[str, ...]] = ()  # known only if they come before the name

    def json_calls(self, is_list: bool = False) -> Wait[None]:
        """One call, several in a row, or a list of them: what separates them may be white space or commas.

        is_list: the list's bracket was taken already.
        """
        yield from self.space()
        is_list = is_list or (yield from self.accept("["))
        while True:
            yield from self.space()
            yield from self.json_call()
            yield from self.space()
            char = yield from self.peek()
            if char == ",":
                self.at += 1
                self.settle()
            elif char == "]" and is_list:
                self.at += 1
                return
            elif char != "{":
                return

    def json_call(self) -> Wait[None]:
        """One call."""
        self._name, self._id, self._arguments = "", None, None
        yield from self.expect("{")
        yield from self._members()
        if not self._name:
            raise MalformedError
        if self._arguments is None:
            self.arguments("{}")
        self.end_call()

    _name: str
    _id: str | None
    _arguments: str | None  # what waits for the name; empty: they are out

    def json_string(self) -> Wait[str]:
        """A string's value."""
        if (yield from self.peek()) != '"':
            raise MalformedError
        return str(json.loads((yield from self._json_text())))

    def _members(self) -> Wait[None]:
        """What stands in an object, up to its end."""
        yield from self.space()
        if (yield from self.accept("}")):
            return
        while True:
            yield from self.space()
            key = yield from self.json_string()
            yield from self.space()
            yield from self.expect(":")
            yield from self.space()
            yield from self._member(key)
            yield from self.space()
            if (yield from self.accept("}")):
                return
            yield from self.expect(",")

    def _member(self, key: str) -> Wait[None]:
        char = yield from self.peek()
        if key == "function" and char == "{":
            self.at += 1
            yield from self._members()
        elif (key in self.name_keys or key == "function") and not self._name:
            self._name = yield from self.json_string()
            self.start_call(self._name, self._id)
            if self._arguments:
                self.arguments(self._arguments)
                self._arguments, self.is_whole = "", True
        elif key in self.arguments_keys and self._arguments is None:
            yield from self._read_arguments(char)
        elif key in self.id_keys and char == '"':
            self._id = yield from self.json_string()
        else:
            yield from self.json(_drop)

    def _read_arguments(self, char: str) -> Wait[None]:
        if char == "{" and self._name:
            yield from self.json(self.arguments)
            self._arguments, self.is_whole = "", True
            return
        text = yield from self._json_text()
        if char == '"':
            text = json.loads(text).strip() or "{}"
        elif char == "n":
            text = "{}"
        if not _is_object(text):
            raise MalformedError
        if self._name:
            self.arguments(text)
            text, self.is_whole = "", True
        self._arguments = text

    def _json_text(self) -> Wait[str]:
        pieces: list[str] = []
        yield from self.json(pieces.append)
        return "".join(pieces)


def _is_object(text: str) -> bool:
    try:
        return isinstance(loads(text), dict)
    except ValueError:
        return False


def _drop(text: str) -> None:
    pass
