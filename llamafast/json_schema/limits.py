"""Size limits of schemas and regular expressions."""

from __future__ import annotations

import re

from llamafast.errors import GrammarError
from llamafast.json_schema.types import Schema

_MAX_PROPERTIES = 400  # per object: the parser accepts no more
_MAX_PATTERN_PROPERTIES = 32  # they are compared in pairs
_MAX_SIZE = 1_000_000
_MAX_REGEX = 10_000  # with repetitions written out

# Constraints of older drafts and of validators. llguidance ignores them.
_REFUSED = ("divisibleBy", "extends", "disallow", "formatMinimum", "formatMaximum", "$merge", "$patch")
SIZES = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_REPEAT = re.compile(r"\{(\d*)(?:,(\d*))?\}")


def check_limits(schema: Schema) -> None:
    """Raises GrammarError for keywords of one schema that no grammar supports."""
    for name in _REFUSED:
        if name in schema:
            raise GrammarError(f"the keyword {name!r} cannot be enforced")
    for name in SIZES:
        size = schema.get(name)
        if isinstance(size, int | float) and size > _MAX_SIZE:
            raise GrammarError(f"{name} is {size}; the limit is {_MAX_SIZE}")
    for name, limit in (("properties", _MAX_PROPERTIES), ("patternProperties", _MAX_PATTERN_PROPERTIES)):
        table = schema.get(name)
        if isinstance(table, dict) and len(table) > limit:
            raise GrammarError(f"{len(table)} {name} of one object; the limit is {limit}")
    pattern, patterns = schema.get("pattern"), schema.get("patternProperties")
    for text in (pattern, *(patterns if isinstance(patterns, dict) else ())):
        if isinstance(text, str):
            check_regex(text)


def check_regex(text: str) -> None:
    """Raises GrammarError if nested repetitions make the expression too large. The compiler finds other errors."""
    sums = [0]  # of the open groups, outermost first
    last, i = 0, 0  # size of the last item
    while i < len(text):
        char = text[i]
        if char == "{" and (match := _REPEAT.match(text, i)):
            counts = [int(digits[:9]) for digits in match.groups() if digits]
            sums[-1] += last * (max(counts, default=1) - 1)
            last *= max(counts, default=1)
            i = match.end()
        elif char == "(":
            sums.append(0)
            i += 1
        elif char == ")" and len(sums) > 1:
            last = sums.pop()
            sums[-1] += last
            i += 1
        else:
            if char not in "*+?|":
                last = 1
                sums[-1] += 1
            i = _class_end(text, i) if char == "[" else i + (2 if char == "\\" else 1)
        if sums[-1] > _MAX_REGEX and last > 1:
            raise GrammarError(f"with its repetitions written out the pattern is larger than {_MAX_REGEX}")


def _class_end(text: str, start: int) -> int:
    i = start + (2 if text.startswith("[^", start) else 1)
    i += text.startswith("]", i)
    while i < len(text) and text[i] != "]":
        i += 2 if text[i] == "\\" else 1
    return i + 1
