"""Calls in JSON: {"name": ..., "arguments": {...}}, one or a list of them."""

from __future__ import annotations

import json
from typing import ClassVar

from llamafast.chat.reading.answer_parser import AnswerParser, MalformedError, Wait
from llamafast.chat.strict_json import loads


class JsonCallParser(AnswerParser):
    """Reads calls in JSON. The keys may be in any order. Arguments before the name wait until the name is known.

    Arguments may be a JSON string that contains an object. Null, an empty string and a missing member mean {}, even if
    the tool requires arguments, because the model says that there are none. A missing value means {} only if the tool
    requires none.
    """

    name_keys: ClassVar[tuple[str, ...]] = ("name",)
    arguments_keys: ClassVar[tuple[str, ...]] = ("arguments", "parameters")
    id_keys: ClassVar[tuple[str, ...]] = ()  # known only if they precede the name
    ends_with_arguments: ClassVar[bool] = True  # usually no member follows them

    def json_calls(self, is_list: bool = False) -> Wait[None]:
        """Read one call, several in a row, or a list of them. White space or commas separate them.

        is_list: the opening bracket of the list has been consumed.
        """
        yield from self.space()
        is_list = is_list or (yield from self.accept("["))
        while True:
            yield from self.space()
            yield from self.json_call()
            char = yield from self._after_call(is_list)
            if char not in (",", "{"):
                return

    def _after_call(self, is_list: bool) -> Wait[str]:
        """Consume a comma, the end of a list and superfluous brackets. Returns the comma, the end, or the next
        character.
        """
        while True:
            yield from self.space()
            char = yield from self.peek()
            if char in ",]":
                self.at += 1
                self.commit()
            if char != "]" or is_list:
                return char

    def json_call(self) -> Wait[None]:
        """Read one call."""
        self._named, self._id, self._arguments = "", None, None
        self._is_odd = self._is_empty = self._has_object = False
        yield from self.expect("{")
        yield from self._members()
        if not self._named:
            raise MalformedError
        # A missing value may have been lost. A missing member was left out on purpose.
        if self._arguments is None and not self._has_object and not (self._is_empty and self.needs_arguments):
            self.pass_empty_arguments()
        self.has_all_arguments = self._arguments is not None or self.has_all_arguments
        # A superfluous brace inside the arguments turns the rest of them into members of the call.
        yield from self.skip_stray_brackets('":' + "}" * self._is_odd + "{" * self._is_empty, "}")
        if self.text[self.at] == ",":
            yield from self._another()
        self.end_call(self.has_all_arguments)

    def _another(self) -> Wait[None]:
        """Check that another call follows the comma, not a member of this one. The comma is not consumed."""
        self.commit()
        self.at += 1
        try:
            yield from self.space()
            has_member = (yield from self.peek()) == '"'
        finally:
            self.roll_back()
        if has_member:
            self.has_all_arguments = False
            raise MalformedError

    _named: str
    _id: str | None
    _arguments: str | None  # text that waits for the name; empty: it has been passed on
    _is_odd: bool  # other members follow the arguments
    _is_empty: bool  # the value of the arguments is missing
    _has_object: bool  # another member than the arguments is an object

    def json_string(self) -> Wait[str]:
        """The value of a string."""
        if (yield from self.peek()) != '"':
            raise MalformedError
        return str(json.loads((yield from self._json_text())))

    def _members(self) -> Wait[None]:
        """Read the members of an object, up to its end or to the place where its closing brace is missing."""
        yield from self.space()
        if (yield from self.accept("}")):
            return
        while True:
            yield from self.space()
            if self._is_over and (yield from self.peek()) == "{":
                return  # the next call begins
            self.has_all_arguments = False
            key = yield from self.json_string()
            yield from self.space()
            yield from self.expect(":")
            yield from self.space()
            yield from self._member(key)
            yield from self.space()
            if (yield from self.accept("}")):
                return
            if not (yield from self.accept(",")):
                if self._is_over and (yield from self.peek_any(("]", *self.closers))):
                    return
                self.has_all_arguments = False
                raise MalformedError

    @property
    def _is_over(self) -> bool:
        """Whether only the closing brace of the call is missing."""
        return self.ends_with_arguments and self._arguments == "" and self.has_all_arguments

    def _member(self, key: str) -> Wait[None]:
        char = yield from self.peek()
        if key == "function" and char == "{":
            self.at += 1
            yield from self._members()
        elif (key in self.name_keys or key == "function") and not self._named:
            self._named = yield from self.json_string()
            self.start_call(self._named, self._id)
            if self._arguments:
                self.arguments(self._arguments)
                self._arguments = ""
                self.hold_back_closer()
        elif key in self.arguments_keys and self._arguments is None:
            yield from self._read_arguments(char)
        elif key in self.id_keys and char == '"':
            self._id = yield from self.json_string()
        else:
            self._is_odd = self._arguments is not None
            self._has_object = self._has_object or char == "{"
            yield from self.json(_drop)

    def _read_arguments(self, char: str) -> Wait[None]:
        if char in "},":
            self._is_empty = True
            return
        if char == "{" and self._named:
            yield from self.json_object()
            self._arguments, self.has_all_arguments = "", self.scanner.is_clear
            return
        text = _object_text((yield from self._json_text()))
        if not text:
            raise MalformedError
        if self._named:
            self.arguments(text)
            self.hold_back_closer()
            text = ""
        self._arguments = text

    def _json_text(self) -> Wait[str]:
        pieces: list[str] = []
        yield from self.json(pieces.append)
        return "".join(pieces)


def _object_text(text: str) -> str:
    """The arguments that a JSON value means, as text. It is an object, null, or a string that contains one; ""
    otherwise.
    """
    try:
        value = loads(text)
        if isinstance(value, str):
            text = value.strip() or "{}"
            value = json.loads(text, strict=False)
            text = json.dumps(value, ensure_ascii=False, allow_nan=False) if any(c < " " for c in text) else text
    except (ValueError, RecursionError):
        return ""
    return text if isinstance(value, dict) else "{}" if value is None else ""


def _drop(text: str) -> None:
    pass
