"""Compiles the grammars that chat formats write: Lark rules over control tokens, free text and JSON Schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator

from llguidance import LLMatcher

from llamafast.errors import GrammarError
from llamafast.grammars.client_parts import (
    compilable_schema,
    drop_unmatchable_patterns,
    regex_rule,
    schema_rule,
    without_broken_parts,
)
from llamafast.grammars.guidance import GuidanceProgram
from llamafast.grammars.vocabulary import Vocabulary
from llamafast.json_schema.lark_regex import containing, escaped, slashed

_ANY_TEXT = "/(?s:.*)/"


def compile_lark(vocabulary: Vocabulary, text: str) -> GuidanceProgram:
    """A program for the source of an OutputGrammar.

    text: a JSON object with the keys rules, texts, free_texts, delimited_texts, schemas, checked, regexes and dropped.
    Parts of a schema that do not compile are dropped if it is not strict.
    Raises GrammarError. Its param is the client's field if a schema or a regex is at fault.
    """
    try:
        return _compiled(vocabulary, text)
    except GrammarError as error:
        repaired_text = without_broken_parts(text) if error.param is None else None
        if repaired_text is None:
            raise
    return _compiled(vocabulary, repaired_text)


def _compiled(vocabulary: Vocabulary, text: str) -> GuidanceProgram:
    source = json.loads(text)
    drop_unmatchable_patterns(source)
    dropped = list(source["dropped"])
    for entry in source["checked"]:
        compilable_schema(entry, dropped)
    rules = [source["rules"]]
    rules += (f"{name}: {_literal(vocabulary, *parts)}" for name, parts in source["texts"].items())
    for name, free in source["free_texts"].items():
        rules += _free(vocabulary, name, *free)
    for name, (body, _, end, *_rest) in source["delimited_texts"].items():
        rules += _ended(vocabulary, name, body, end)
    rules += (f"{name}: {schema_rule(entry, dropped)}" for name, entry in source["schemas"].items())
    rules += (f"{name}: {regex_rule(*entry)}" for name, entry in source["regexes"].items())
    program = GuidanceProgram(vocabulary, LLMatcher.grammar_from_lark("\n".join(rules)))
    program.warnings += tuple(dict.fromkeys(dropped))
    return program


def _free(vocabulary: Vocabulary, name: str, end: str, unless: str) -> Iterator[str]:
    """Rules for a free text: NAME_open for one without `end`, NAME for one up to and including the first `end`."""
    term, begins = f"T_{name.upper()}", next(_parts(vocabulary, unless), 0)
    # Text contains no control token, so it cannot begin with one.
    exception = rf" & ~/(?s:\s*{escaped(begins)}.*)/" if isinstance(begins, str) else ""
    # Text must not contain the name of a control token as letters either, because parsers would take it for the token.
    yield f"{term}: {_ANY_TEXT} & ~{containing(end)}{exception}"
    yield f"{name}_open: {term}"
    yield from _ended(vocabulary, name, term, end)


def _ended(vocabulary: Vocabulary, name: str, body: str, end: str) -> Iterator[str]:
    """Rules for a match of the terminal `body` with `end` after it.

    Both are one lexeme, which ends as soon as it can. A separate terminal would match the end as a part of itself.
    """
    parts = list(_parts(vocabulary, end))
    before = "".join(str(part) for part in parts[: next((i for i, p in enumerate(parts) if isinstance(p, int)), None)])
    term = f"T_{name.upper()}_END"
    yield f"{term}: ({body}) {slashed(escaped(before))}" if before else f"{term}: {body}"
    if before == end:
        yield f"{name}: {name}_last"
        yield f"{name}_last[lazy]: {term}"
    else:
        yield f"{name}: {term} {_literal(vocabulary, end[len(before) :])}"


def _literal(vocabulary: Vocabulary, *parts: str) -> str:
    """Elements for a sequence of texts. Only the first, third and later odd ones may name control tokens."""
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
    """A text as control tokens and the texts between them."""
    if vocabulary.control_pattern is None:
        yield text
        return
    for i, part in enumerate(vocabulary.control_pattern.split(text)):
        if i % 2:
            yield vocabulary.control_ids[part]
        elif part:
            yield part
