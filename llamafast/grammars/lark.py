"""Grammars of whole outputs that formats write: Lark rules over control tokens, free text and JSON Schemas."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from llguidance import LLMatcher

from llamafast.errors import GrammarError
from llamafast.grammars.guidance import WHITESPACE, GuidanceProgram
from llamafast.grammars.json_schema import prepare_schema
from llamafast.grammars.regex import check_regex, slashed
from llamafast.grammars.schema_cost import check_schema_cost
from llamafast.grammars.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator

_ANY_TEXT = "/(?s:.*)/"


def compile_lark(vocabulary: Vocabulary, text: str) -> GuidanceProgram:
    """A program for the JSON text of an OutputGrammar: {rules, texts, frees, schemas, checked, regexes, dropped}.

    Raises GrammarError; its param is the client's field where a schema or a regex is at fault.
    """
    source = json.loads(text)
    for schema, param, _ in source["checked"]:
        _prepare(schema, param)
    rules = [source["rules"]]
    rules += (f"{name}: {_literal(vocabulary, *parts)}" for name, parts in source["texts"].items())
    for name, free in source["frees"].items():
        rules += _free(vocabulary, name, *free)
    clients = [(f"{name}: ", _embed(*entry), entry[1]) for name, entry in source["schemas"].items()]
    clients += [(f"{name}: ", _pattern(*entry), entry[1]) for name, entry in source["regexes"].items()]
    rules += (f"{name}{body}" for name, body, _ in clients)
    try:
        program = GuidanceProgram(vocabulary, LLMatcher.grammar_from_lark("\n".join(rules)))
    except GrammarError:
        # Which of the client's parts it is only shows when each stands alone.
        clients += [("", _embed(*entry), entry[1]) for entry in source["checked"]]
        for _, body, param in clients:
            try:
                GuidanceProgram(vocabulary, LLMatcher.grammar_from_lark(f"start: {body}"))
            except GrammarError as error:
                raise GrammarError(error.message, param=param) from None
        raise
    program.warnings += tuple(source["dropped"])
    return program


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


def _free(vocabulary: Vocabulary, name: str, end: str, unless: str) -> Iterator[str]:
    """Rules for a free text: NAME_open without `end`, NAME up to the first place where it stands, and with it."""
    parts, term = list(_parts(vocabulary, end)), f"T_{name.upper()}"
    control = next((i for i, part in enumerate(parts) if isinstance(part, int)), len(parts))
    before = "".join(str(part) for part in parts[:control])
    begins = next(_parts(vocabulary, unless), 0)
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
        yield f"{name}: {term}_END {_literal(vocabulary, end[len(before) :])}"
        yield f"{term}_END: /(?s:.*){_escape(before)}/{exception}"
    else:
        yield f"{name}: {term} {_literal(vocabulary, end)}"


def _literal(vocabulary: Vocabulary, *parts: str) -> str:
    """Elements that are these texts in a row: only the first, third and so on may name control tokens."""
    elements: list[str | int] = [""]
    for i, part in enumerate(parts):
        for element in (part,) if i % 2 else _parts(vocabulary, part):
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


def _parts(vocabulary: Vocabulary, text: str) -> Iterator[str | int]:
    """A text as control tokens and what lies between."""
    if vocabulary.control_pattern is None:
        yield text
        return
    for i, part in enumerate(vocabulary.control_pattern.split(text)):
        if i % 2:
            yield vocabulary.control_ids[part]
        elif part:
            yield part


def _escape(text: str) -> str:
    """A regular expression in slashes that matches this text."""
    return re.escape(text).replace("/", r"\/").replace("\\\n", r"\n")
