"""The parts of a grammar that clients wrote: as rules, and checked one by one.

Nothing here needs the model's vocabulary, because a grammar that compiles over bytes compiles over tokens.
"""

from __future__ import annotations

import json
from typing import Any

from llguidance import LLMatcher

from llamafast.errors import GrammarError
from llamafast.grammars.byte_vocabulary import ByteVocabulary
from llamafast.grammars.guidance import GuidanceProgram, matches_any
from llamafast.grammars.llguidance_schema import compilable, compile_options
from llamafast.json_schema.lark_regex import slashed
from llamafast.json_schema.limits import check_regex
from llamafast.json_schema.simplify import without_fragile_keywords


def compilable_schema(entry: tuple[object, str, bool], dropped: list[str]) -> dict[str, object]:
    """A client's schema as llguidance accepts it. Raises GrammarError with the param of the entry.

    entry: (schema, param, strict).
    dropped: OUT: the names of dropped keywords are added.
    """
    schema, param, strict = entry
    try:
        root, missing = compilable(schema, strict=strict)
    except GrammarError as error:
        raise GrammarError(error.message, param=param) from None
    dropped += (f"{param}: {name}" for name in missing)
    return root


def schema_rule(entry: tuple[object, str, bool], dropped: list[str]) -> str:
    """The body of a rule for JSON of such a schema."""
    root = {**compilable_schema(entry, dropped), "x-guidance": compile_options(strict=entry[2])}
    return f"%json {json.dumps(root)}"


def regex_rule(regex: str, param: str) -> str:
    """The body of a rule for a client's regular expression. Raises GrammarError with this param."""
    try:
        check_regex(regex)
    except GrammarError as error:
        raise GrammarError(error.message, param=param) from None
    return slashed(regex)


def drop_unmatchable_patterns(source: dict[str, Any]) -> None:
    """Drop patterns that are not valid or match no string. Raises GrammarError if they must not be dropped."""
    for entry in source["delimited_texts"].values():
        body, fallback, _, param, strict = entry
        if not fallback or _matches_any(body):
            continue
        if strict or body == fallback or not _matches_any(fallback):
            raise GrammarError("no string satisfies its pattern, format and length together", param=param)
        entry[0] = fallback
        source["dropped"].append(f"{param}: pattern")


def _matches_any(body: str) -> bool:
    """Whether a terminal compiles and matches a string."""
    return matches_any(ByteVocabulary({}), LLMatcher.grammar_from_lark(f"start: TEXT\nTEXT: {body}"))


def without_broken_parts(text: str) -> str | None:
    """The text of an OutputGrammar without the parts that do not compile by themselves. None: all of them compile.

    Raises GrammarError with the param of the client's field, if a part must not be dropped.
    """
    source = json.loads(text)
    drop_unmatchable_patterns(source)
    num_before = len(source["dropped"])
    for entry in (*source["schemas"].values(), *source["checked"]):
        if not _compiles(schema_rule(entry, []), *entry[1:]):
            entry[0], missing = without_fragile_keywords(entry[0])
            source["dropped"] += (f"{entry[1]}: {name}" for name in missing)
            _compiles(schema_rule(entry, []), entry[1], True)
    for regex, param in source["regexes"].values():
        _compiles(regex_rule(regex, param), param, True)
    return json.dumps(source) if len(source["dropped"]) > num_before else None


def _compiles(rule: str, param: str, strict: bool) -> bool:
    try:
        GuidanceProgram(ByteVocabulary({}), LLMatcher.grammar_from_lark(f"start: {rule}"))
    except GrammarError as error:
        if strict:
            raise GrammarError(error.message, param=param) from None
        return False
    return True
