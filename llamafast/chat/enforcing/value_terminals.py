"""The terminals of values that are written as bare text, by their schemas."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llamafast.chat.enforcing.output_grammar import DelimitedText, EmbeddedSchema, OutputGrammar
from llamafast.errors import GrammarError
from llamafast.json_schema import types
from llamafast.json_schema.alternatives import Alternative, StringConstraints, alternatives
from llamafast.json_schema.lark_regex import (
    anchored,
    escaped,
    needs_lookaround,
    not_containing,
    not_ending_within,
    slashed,
)
from llamafast.json_schema.limits import check_limits
from llamafast.json_schema.refs import Document
from llamafast.json_schema.string_formats import STRING_FORMATS

_ANY_STRING = "/(?s:.*)/"
_NOT_NESTED = r"/\s*([^\s\[{](?s:.*))?/"


@dataclass(frozen=True, slots=True)
class Terminal:
    """A terminal for values.

    body: the terminal in Lark.
    fallback: the body without the patterns of clients, if body may match nothing. Empty: it matches something.
    """

    body: str
    fallback: str = ""

    def within(self, before: str, after: str) -> Terminal:
        """The same terminal between two other bodies."""
        return Terminal(f"{before}({self.body}){after}", self.fallback and f"{before}({self.fallback}){after}")


def report_unenforced(grammar: OutputGrammar, owner: EmbeddedSchema, what: Iterable[str]) -> None:
    """Report keywords of the owner's schema that are not enforced. Raises GrammarError if it is strict."""
    found = list(what)
    if found and owner.strict:
        raise GrammarError(f"the call format of this model cannot enforce {found[0]}", param=owner.param)
    grammar.drop(owner, found)


def string_terminal(
    grammar: OutputGrammar,
    strings: StringConstraints,
    owner: EmbeddedSchema,
    forbidden: Sequence[str],
    *,
    is_nested: bool = True,
    close: str = "",
) -> Terminal | None:
    """A terminal for strings that contain none of the forbidden texts. None: no such string exists.

    is_nested: they may begin with a bracket or a brace, like lists and objects.
    close: the forbidden text that ends them. A constrained string also contains no forbidden text without its last
        character, and does not end within close. Otherwise a model that may not end there would continue with a tag.
    """
    has_length = strings.values is None and (strings.min_length > 0 or strings.max_length is not None)
    parts, patterns = [] if is_nested else [_NOT_NESTED], list[str]()
    if strings.values is not None:
        values = without_forbidden(grammar, owner, strings.values, forbidden)
        if not values:
            return None
        parts.insert(0, slashed("|".join(map(escaped, values))))
    elif close and not strings.is_free:
        parts.append(slashed(not_containing(*(text[:-1] for text in forbidden))))
        parts.append(slashed(not_ending_within(close)))
    elif forbidden:
        parts.append(slashed(not_containing(*forbidden)))
    report_unenforced(grammar, owner, strings.lookaround_keywords)
    for pattern in strings.patterns:
        check_limits({"pattern": pattern})
        patterns += [] if needs_lookaround(pattern) else [slashed(anchored(pattern))]
    parts += (slashed(STRING_FORMATS[name]) for name in strings.formats if name in STRING_FORMATS)
    if has_length:
        check_limits({"minLength": strings.min_length, "maxLength": strings.max_length})
        high = "" if strings.max_length is None else strings.max_length
        parts.append(f"/(?s:.{{{strings.min_length},{high}}})/")
    parts = parts or [_ANY_STRING]
    num_said = len(strings.patterns) + len(strings.formats) + has_length
    is_doubtful = bool(patterns) or (num_said > 1 and bool(strings.formats))
    return Terminal(" & ".join([*parts, *patterns]), " & ".join(parts) if is_doubtful else "")


def without_forbidden(
    grammar: OutputGrammar, owner: EmbeddedSchema, texts: Iterable[str], forbidden: Sequence[str]
) -> list[str]:
    """The texts that contain no forbidden text. The others are reported as unenforced."""
    found = list(texts)
    held = {tag for text in found for tag in forbidden if tag in text}
    report_unenforced(grammar, owner, [f"a value that holds {tag!r}" for tag in forbidden if tag in held])
    return [text for text in found if not any(tag in text for tag in held)]


def scalar_terminals(
    grammar: OutputGrammar, alternative: Alternative, owner: EmbeddedSchema, forbidden: Sequence[str]
) -> list[Terminal]:
    """Terminals for values that are not strings, lists or objects; with an enum, for all its values except strings."""
    if alternative.values is not None:
        left = without_forbidden(grammar, owner, as_json(alternative.values), forbidden)
        return [Terminal(slashed("|".join(map(escaped, left))))] if left else []
    found = [slashed("null")] if "null" in alternative.types else []
    found += [slashed("true|false")] if "boolean" in alternative.types else []
    if alternative.types & types.NUMBERS:
        report_unenforced(grammar, owner, ["multipleOf"] if alternative.numbers.steps else [])
        patterns = alternative.numbers.patterns(is_integer="number" not in alternative.types)
        found.append(" & ".join(map(slashed, patterns)))
    return list(map(Terminal, found))


def as_json(values: Iterable[object]) -> list[str]:
    """The JSON texts of the values that are not strings. A whole number is in it with and without a point."""
    found = [value for value in values if not isinstance(value, str)]
    found += [int(value) for value in found if isinstance(value, float) and value.is_integer()]
    return [json.dumps(value, ensure_ascii=False) for value in found]


def union(terminals: Sequence[Terminal]) -> Terminal:
    """A terminal for a match of any of these."""
    if len(terminals) == 1:
        return terminals[0]
    fallback = " | ".join(f"({each.fallback or each.body})" for each in terminals)
    body = " | ".join(f"({each.body})" for each in terminals)
    return Terminal(body, fallback if any(each.fallback for each in terminals) else "")


def delimited(grammar: OutputGrammar, owner: EmbeddedSchema, terminals: Sequence[Terminal], end: str) -> str:
    """The name of a rule for a match of any of these terminals, followed by a text."""
    one = union(terminals)
    return grammar.delimited_text(DelimitedText(one.body, one.fallback, end, owner.param, owner.strict))


class ArgumentsGrammar(ABC):
    """The arguments of one tool, in one notation."""

    def __init__(self, grammar: OutputGrammar, owner: EmbeddedSchema) -> None:
        self._grammar = grammar
        self._owner = owner
        self._document = Document(owner.schema)

    def arguments(self) -> str:
        """The elements for the arguments. Raises GrammarError if no object satisfies the schema, or it cannot be
        enforced.
        """
        objects = [each for each in self.alternatives(self._owner.schema) if "object" in each.types]
        if not objects:
            raise GrammarError("the parameters of a function must allow an object")
        bodies = self.objects(objects)
        return bodies[0] if len(bodies) == 1 else f"({' | '.join(bodies)})"

    def alternatives(self, schema: object) -> list[Alternative]:
        """The alternatives of a part of the tool's schema."""
        return alternatives(schema, self._document)

    @abstractmethod
    def objects(self, found: list[Alternative]) -> list[str]:
        """The elements for the members of each object."""
