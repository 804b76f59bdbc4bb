"""What an output is held to, as a client asks for it: the input of the compiler."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class StructuredKind(str, Enum):
    """What the text of a StructuredOutput is."""

    JSON_OBJECT = "json_object"  # no text: any JSON object
    JSON_SCHEMA = "json_schema"  # a JSON Schema
    REGEX = "regex"
    CHOICE = "choice"  # a JSON list of strings, one of which is the whole output
    GBNF = "gbnf"  # llama.cpp's grammar format, root rule "root"
    LARK = "lark"  # what OutputGrammar.source gives; no client can write one


@dataclass(frozen=True, slots=True)
class StructuredOutput:
    """A constraint on the whole output. strict False: what cannot be enforced may be dropped, with a warning.

    start_after: the token ids that end the reasoning part; the constraint begins behind them. Empty: at once.
    """

    kind: StructuredKind
    text: str = ""
    strict: bool = True
    start_after: tuple[int, ...] = ()
