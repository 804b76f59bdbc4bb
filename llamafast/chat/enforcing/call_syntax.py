"""How a format writes tool calls, as data: from it the grammar is made that holds a model to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Pattern:
    """A part of a call that the model chooses, such as its id. regex: what the whole part matches."""

    regex: str


Piece: TypeAlias = str | Pattern


@dataclass(frozen=True, slots=True)
class JsonArguments:
    """Arguments are a JSON object."""


@dataclass(frozen=True, slots=True)
class TaggedArguments:
    """Each argument between tags: strings as they are, all else in JSON.

    before_key, KEY, after_key, VALUE, after_value; after_other_key stands behind the key of what is no string. close:
    the text at which the parser ends a value, a part of after_value: no string holds it. Its first character
    comes in it once. quotes: what may stand around a string; behind the closing one the value is over.
    """

    before_key: str
    after_key: str
    after_value: str
    close: str
    after_other_key: str | None = None
    quotes: tuple[str, str] | None = None

    @property
    def ends(self) -> tuple[str, ...]:
        """What may end a value: after_value, and the same without a line break before the closing tag."""
        return tuple(dict.fromkeys((self.after_value, self.after_value[self.after_value.index(self.close) :])))


@dataclass(frozen=True, slots=True)
class LiteralArguments:
    """KEY, after_key, VALUE, with `between` between arguments. quote: around strings, in which nothing is escaped.

    quote "": all values are JSON, which is Python too but for three constants, and those parsers know.
    """

    after_key: str
    between: str
    quote: str = ""


Arguments: TypeAlias = JsonArguments | TaggedArguments | LiteralArguments


@dataclass(frozen=True, slots=True)
class ContentFrame:
    """What stands around content, where something must. opens: its headers, that of a last message first.

    close: between content and what follows; "": the calls' marker ends content.
    """

    opens: tuple[str, ...]
    close: str


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """before_calls, then calls with `between` between them, then after_calls.

    A call is before_name, NAME, after_name, before_arguments, arguments, after_arguments. name_again: what stands
    between NAME and NAME once more, where a call says it twice. marker: the beginning of
    before_calls and before_name together that starts no other text; "": the whole answer is calls if its first
    character is that of one. after_reasoning stands behind the tag that ends it, where there was any. opening: what
    begins calls and content alike, and may be written by the prompt. Tokens that end a generation are left out: it ends
    where the grammar does.
    """

    before_name: tuple[Piece, ...]
    after_name: str
    after_arguments: tuple[Piece, ...] = ()
    before_arguments: tuple[Piece, ...] = ()
    arguments: Arguments = JsonArguments()
    before_calls: str = ""
    between: str = "\n"
    after_calls: str = ""
    marker: str = ""
    has_many: bool = True
    after_reasoning: str = ""
    opening: str = ""
    content: ContentFrame | None = None
    name_again: str = ""


def json_list(before: str, after: str, between: str = ", ", after_arguments: tuple[Piece, ...] = ("}",)) -> CallSyntax:
    """Calls that are JSON objects, one behind the other. before: its bracket or line break aside, the marker."""
    return CallSyntax(
        before_calls=before,
        before_name=('{"name": "',),
        after_name='", "arguments": ',
        after_arguments=after_arguments,
        between=between,
        after_calls=after,
        marker=before.rstrip("[\n"),
    )
