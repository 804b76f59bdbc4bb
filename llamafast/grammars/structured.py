"""StructuredOutput: the constraint on an output, as a client requests it. It is the input of the compiler."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class StructuredKind(str, Enum):
    """What the text of a StructuredOutput is."""

    JSON_OBJECT = "json_object"  # no text: any JSON object
    JSON_SCHEMA = "json_schema"  # a JSON Schema
    REGEX = "regex"
    CHOICE = "choice"  # a JSON list of strings; one of them is the whole output
    GBNF = "gbnf"  # llama.cpp's grammar format, with the root rule "root"
    LARK = "lark"  # the source of an OutputGrammar; clients cannot send one


@dataclass(frozen=True, slots=True)
class StructuredOutput:
    """A constraint on the whole output.

    kind: what text is.
    text: the schema, the expression or the grammar.
    strict: False: what cannot be enforced may be dropped, with a warning.
    start_after: the token ids that end the reasoning. The constraint begins after them. Empty: it begins at once.
    """

    kind: StructuredKind
    text: str = ""
    strict: bool = True
    start_after: tuple[int, ...] = ()
