"""CallSyntax: how a chat format writes tool calls, as data. The grammars are made from it."""

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
    """The arguments are a JSON object."""


@dataclass(frozen=True, slots=True)
class TaggedArguments:
    """Each argument is between tags: strings as they are, other values in JSON.

    An argument is before_key, KEY, after_key, VALUE, after_value.
    after_other_key: the text after the key of a value that is not a string. None: after_key.
    close: the text at which the parser ends a value. It is a part of after_value, no string contains it, and its first
        character occurs in it once.
    quotes: texts that may be around a string. The value ends after the closing one.
    """

    before_key: str
    after_key: str
    after_value: str
    close: str
    after_other_key: str | None = None
    quotes: tuple[str, str] | None = None

    @property
    def ends(self) -> tuple[str, ...]:
        """The texts that may end a value: after_value, also without the line break before the closing tag."""
        return tuple(dict.fromkeys((self.after_value, self.after_value[self.after_value.index(self.close) :])))


@dataclass(frozen=True, slots=True)
class LiteralArguments:
    """The arguments are KEY, after_key, VALUE, with `between` between them.

    quote: the quote around strings, in which nothing is escaped. Empty: all values are JSON. Python reads JSON too,
    except for three constants, which the parsers of such formats know.
    """

    after_key: str
    between: str
    quote: str = ""


Arguments: TypeAlias = JsonArguments | TaggedArguments | LiteralArguments


@dataclass(frozen=True, slots=True)
class ContentFrame:
    """The texts around content, in formats that require them.

    opens: the headers of content. The header of the last message comes first.
    close: the text between content and what follows. Empty: the marker of the calls ends content.
    """

    opens: tuple[str, ...]
    close: str


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """How calls are written: before_calls, then calls with `between` between them, then after_calls.

    A call is before_name, NAME, after_name, before_arguments, arguments, after_arguments. Tokens that end a generation
    are not included, because it ends where the grammar ends.

    marker: the beginning of before_calls and before_name that no other text has. Empty: the whole answer is calls if
        its first character is that of a call.
    has_many: an answer may contain several calls.
    after_reasoning: the text after the closing tag of reasoning.
    opening: the text that begins both calls and content. The prompt may end with it.
    content: the frame of content. None: content has none.
    name_again: the text between NAME and a repetition of NAME. Empty: NAME occurs once.
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
    """The syntax of calls that are JSON objects, one after the other.

    before: the text before the calls. Without its bracket or line break it is the marker.
    """
    return CallSyntax(
        before_calls=before,
        before_name=('{"name": "',),
        after_name='", "arguments": ',
        after_arguments=after_arguments,
        between=between,
        after_calls=after,
        marker=before.rstrip("[\n"),
    )
