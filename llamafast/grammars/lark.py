"""Grammars of whole outputs that formats write: Lark rules over control tokens, free text and JSON Schemas."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from llguidance import LLMatcher

from llamafast.errors import GrammarError
from llamafast.grammars.guidance import GuidanceProgram
from llamafast.grammars.json_schema import WHITESPACE
from llamafast.grammars.vocabulary import Vocabulary
from llamafast.json_schema.lark_regex import escaped, holding, slashed
from llamafast.json_schema.limits import check_regex
from llamafast.json_schema.prepare import loosened, prepare

if TYPE_CHECKING:
    from collections.abc import Iterator

_ANY_TEXT = "/(?s:.*)/"


def compile_lark(vocabulary: Vocabulary, text: str) -> GuidanceProgram:
    """A program for the JSON text of an OutputGrammar:
    {rules, texts, frees, ends, schemas, checked, regexes, dropped}.

    What does not compile of a schema that is not strict is dropped. Raises GrammarError; its param is the client's
    field where a schema or a regex is at fault.
    """
    source = json.loads(text)
    _check_texts(source)
    try:
        return _compiled(vocabulary, source)
    except GrammarError as error:
        if error.param is not None or not _repair(vocabulary, source):
            raise
    return _compiled(vocabulary, source)


def _compiled(vocabulary: Vocabulary, source: dict[str, Any]) -> GuidanceProgram:
    dropped = list(source["dropped"])
    for schema, param, strict in source["checked"]:
        _prepared(schema, param, strict, dropped)
    rules = [source["rules"]]
    rules += (f"{name}: {_literal(vocabulary, *parts)}" for name, parts in source["texts"].items())
    for name, free in source["frees"].items():
        rules += _free(vocabulary, name, *free)
    for name, (body, _, end, *_rest) in source["ends"].items():
        rules += _ended(vocabulary, name, body, end)
    rules += (f"{name}: {_embed(entry, dropped)}" for name, entry in source["schemas"].items())
    rules += (f"{name}: {_pattern(*entry)}" for name, entry in source["regexes"].items())
    program = _program(vocabulary, *rules)
    program.warnings += tuple(dict.fromkeys(dropped))
    return program


def _program(vocabulary: Vocabulary, *rules: str) -> GuidanceProgram:
    return GuidanceProgram(vocabulary, LLMatcher.grammar_from_lark("\n".join(rules)))


def _check_texts(source: dict[str, Any]) -> None:
    """Drop patterns that are none, or that no string matches. Raises GrammarError where that must not be."""
    for entry in source["ends"].values():
        body, doubt, _, param, strict = entry
        if not doubt or _matches_any(body):
            continue
        if strict or body == doubt or not _matches_any(doubt):
            raise GrammarError("no string satisfies its pattern, format and length together", param=param)
        entry[0] = doubt
        source["dropped"].append(f"{param}: pattern")


def _matches_any(body: str) -> bool:
    """Whether a terminal compiles, and a string matches it."""
    grammar = LLMatcher.grammar_from_lark(f"start: TEXT\nTEXT: {body}")
    matcher = LLMatcher(_bytes().guidance, grammar, log_level=0)
    if not matcher.is_error():
        matcher.compute_bitmask()
    return not matcher.is_error()


@cache
def _bytes() -> Vocabulary:
    """The smallest vocabulary: what is tried out over it costs least."""
    token_bytes = [*(bytes([byte]) for byte in range(256)), b""]
    return Vocabulary(token_bytes, {256: b"<end>"}, [256], lambda text: list(text.encode()))


def _repair(vocabulary: Vocabulary, source: dict[str, Any]) -> bool:
    """Take out of a grammar that does not compile what does not compile by itself; whether there was anything.

    Raises GrammarError naming the client's field if that must not be.
    """
    dropped, num_before = source["dropped"], len(source["dropped"])

    def fails(rule: str, param: str, strict: bool) -> bool:
        try:
            _program(vocabulary, f"start: {rule}")
        except GrammarError as error:
            if strict:
                raise GrammarError(error.message, param=param) from None
            return True
        return False

    for entry in (*source["schemas"].values(), *source["checked"]):
        if fails(_embed(entry, []), *entry[1:]):
            entry[0], missing = loosened(entry[0])
            dropped += (f"{entry[1]}: {name}" for name in missing)
            fails(_embed(entry, []), entry[1], True)
    for regex, param in source["regexes"].values():
        fails(_pattern(regex, param), param, True)
    return len(dropped) > num_before


def _prepared(schema: object, param: str, strict: bool, dropped: list[str]) -> dict[str, object]:
    try:
        root, missing = prepare(schema, strict=strict)
    except GrammarError as error:
        raise GrammarError(error.message, param=param) from None
    dropped += (f"{param}: {name}" for name in missing)
    return root


def _embed(entry: tuple[object, str, bool], dropped: list[str]) -> str:
    schema, param, strict = entry
    root = _prepared(schema, param, strict, dropped)
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
    term, begins = f"T_{name.upper()}", next(_parts(vocabulary, unless), 0)
    # Text holds no control token, so it need not be said that it does not begin with one.
    exception = rf" & ~/(?s:\s*{escaped(begins)}.*)/" if isinstance(begins, str) else ""
    # Nor may it hold the name of a control token in letters: whoever reads the text takes one for the other.
    yield f"{term}: {_ANY_TEXT} & ~{holding(end)}{exception}"
    yield f"{name}_open: {term}"
    yield from _ended(vocabulary, name, term, end)


def _ended(vocabulary: Vocabulary, name: str, body: str, end: str) -> Iterator[str]:
    """Rules for what a terminal of this body matches with `end` behind it.

    Both are one lexeme, which ends as soon as it can: a terminal of its own would take the end for more of itself.
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
