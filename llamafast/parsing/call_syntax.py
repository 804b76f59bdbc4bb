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
    the text at which the parser ends a value, a part of after_value: no string holds it.
    """

    before_key: str
    after_key: str
    after_value: str
    close: str
    after_other_key: str | None = None


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """before_calls, then calls with `between` between them, then after_calls.

    A call is before_name, NAME, after_name, arguments, after_arguments. marker: the beginning of before_calls and
    before_name together that starts no other text; "": the whole answer is calls if its first character is that of
    one. after_reasoning stands behind the tag that ends it. content_tokens: control tokens that free text may hold.
    Tokens that end a generation are left out: it ends where the grammar does.
    """

    before_name: tuple[Piece, ...]
    after_name: str
    after_arguments: tuple[Piece, ...]
    arguments: JsonArguments | TaggedArguments = JsonArguments()
    before_calls: str = ""
    between: str = "\n"
    after_calls: str = ""
    marker: str = ""
    after_reasoning: str = ""
    content_tokens: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReasoningTags:
    """What opens and what ends the reasoning, without the white space around."""

    open: str
    close: str


def json_list(before: str, after: str, arguments_key: str = "arguments", between: str = ", ") -> CallSyntax:
    """Calls that are JSON objects, one behind the other. before: its first line or bracket aside, the marker."""
    return CallSyntax(
        before_calls=before,
        before_name=('{"name": "',),
        after_name=f'", "{arguments_key}": ',
        after_arguments=("}",),
        between=between,
        after_calls=after,
        marker=before.rstrip("[\n"),
    )
