"""Grammars of whole outputs that formats write: Lark rules over control tokens, free text and JSON Schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llguidance import LLMatcher

from llamafast.errors import GrammarError
from llamafast.grammars.guidance import WHITESPACE, GuidanceProgram
from llamafast.grammars.json_schema import prepare_schema
from llamafast.grammars.regex import check_regex, slashed
from llamafast.grammars.schema_cost import check_schema_cost
from llamafast.grammars.vocabulary import ControlTokens, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator

_ANY_TEXT = "/(?s:.*)/"


@dataclass(frozen=True, slots=True)
class LarkSource:
    """Rules for llguidance. parts: each of the client's schemas and regexes, alone as a grammar, and its field."""

    grammar: str
    dropped: tuple[str, ...]
    parts: tuple[tuple[str, str], ...]


def compile_lark(vocabulary: Vocabulary, text: str) -> GuidanceProgram:
    """A program for the JSON text of an OutputGrammar: {rules, texts, frees, schemas, checked, regexes, dropped}.

    Raises GrammarError; its param is the client's field where a schema or a regex is at fault.
    """
    source = lark_source(vocabulary.controls, text)
    try:
        return GuidanceProgram(vocabulary, source.grammar, source.dropped)
    except GrammarError as error:
        raise blamed(vocabulary, source.parts, error) from None


def lark_source(controls: ControlTokens, text: str) -> LarkSource:
    """What compile_lark compiles. Raises GrammarError as it does."""
    source = json.loads(text)
    rules = [source["rules"]]
    rules += (f"{name}: {_literal(controls, *parts)}" for name, parts in source["texts"].items())
    for name, free in source["frees"].items():
        rules += _free(controls, name, *free)
    checked = [(_embed(*entry), entry[1]) for entry in source["checked"]]
    clients = [(name, _embed(*entry), entry[1]) for name, entry in source["schemas"].items()]
    clients += [(name, _pattern(*entry), entry[1]) for name, entry in source["regexes"].items()]
    rules += (f"{name}: {body}" for name, body, _ in clients)
    parts = [(body, param) for _, body, param in clients] + checked
    return LarkSource(
        LLMatcher.grammar_from_lark("\n".join(rules)),
        tuple(source["dropped"]),
        tuple((LLMatcher.grammar_from_lark(f"start: {body}"), param) for body, param in parts),
    )


def blamed(vocabulary: Vocabulary, parts: Sequence[tuple[str, str]], error: GrammarError) -> GrammarError:
    """The error of the first part that does not compile alone, under its field; else the one of the whole grammar."""
    for grammar, param in parts:
        try:
            GuidanceProgram(vocabulary, grammar)
        except GrammarError as part_error:
            return GrammarError(part_error.message, param=param)
    return error


def _prepare(schema: object, param: str) -> str:
    text = json.dumps(schema)
    try:
        check_schema_cost(text)
        return prepare_schema(text)
    except GrammarError as error:
        raise GrammarError(error.message, param=param) from None


def _embed(schema: object, param: str, strict: bool) -> str:
    root = json.loads(_prepare(schema, param))
    root["x-guidance"] = {
        "lenient": not strict,
        "coerce_one_of": not strict,
        "whitespace_flexible": True,
        "whitespace_pattern": WHITESPACE,
    }
    return f"%json {json.dumps(root)}"


def _pattern(regex: str, param: str) -> str:
    try:
        check_regex(regex)
    except GrammarError as error:
        raise GrammarError(error.message, param=param) from None
    return slashed(regex)


def _free(controls: ControlTokens, name: str, end: str, unless: str) -> Iterator[str]:
    """Rules for a free text: NAME_open without `end`, NAME up to the first place where it stands, and with it."""
    parts, term = list(_parts(controls, end)), f"T_{name.upper()}"
    control = next((i for i, part in enumerate(parts) if isinstance(part, int)), len(parts))
    before = "".join(str(part) for part in parts[:control])
    begins = next(_parts(controls, unless), 0)
    # Text holds no control token, so it need not be said that it does not begin with one.
    exception = rf" & ~/(?s:\s*{_escape(begins)}.*)/" if isinstance(begins, str) else ""
    # Nor may it hold the name of a control token in letters: whoever reads the text takes one for the other.
    yield f"{term}: {_ANY_TEXT} & ~/(?s:.*){_escape(end)}(?s:.*)/{exception}"
    yield f"{name}_open: {term}"
    if control == len(parts):
        yield f"{name}: {name}_last"
        yield f"{name}_last[lazy]: {term}_END"
        yield f"{term}_END: /(?s:.*){_escape(end)}/{exception}"
    elif before:
        yield f"{name}: {term}_END {_literal(controls, end[len(before) :])}"
        yield f"{term}_END: /(?s:.*){_escape(before)}/{exception}"
    else:
        yield f"{name}: {term} {_literal(controls, end)}"


def _literal(controls: ControlTokens, *parts: str) -> str:
    """Elements that are these texts in a row: only the first, third and so on may name control tokens."""
    elements: list[str | int] = [""]
    for i, part in enumerate(parts):
        for element in (part,) if i % 2 else _parts(controls, part):
            last = elements[-1]
            if isinstance(element, str) and isinstance(last, str):
                elements[-1] = last + element
            else:
                elements.append(element)
    return " ".join(
        f"<[{element}]>" if isinstance(element, int) else json.dumps(element, ensure_ascii=False)
        for element in elements
        if element != ""
    )


def _parts(controls: ControlTokens, text: str) -> Iterator[str | int]:
    """A text as control tokens and what lies between."""
    if controls.pattern is None:
        yield text
        return
    for i, part in enumerate(controls.pattern.split(text)):
        if i % 2:
            yield controls.ids[part]
        elif part:
            yield part


def _escape(text: str) -> str:
    """A regular expression in slashes that matches this text."""
    return re.escape(text).replace("/", r"\/").replace("\\\n", r"\n")
