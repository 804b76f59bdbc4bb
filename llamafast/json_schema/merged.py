"""An alternative as one schema, without references and combinations."""

from __future__ import annotations

from fractions import Fraction

from llamafast.errors import GrammarError
from llamafast.json_schema import types
from llamafast.json_schema.alternatives import Alternative
from llamafast.json_schema.string_formats import STRING_FORMATS

_LENGTHS = ("Length", "Items", "Properties")
_TOGETHER = frozenset(
    {
        *(f"{end}{of}" for end in ("min", "max") for of in _LENGTHS),
        *("type", "enum", "const", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
        *("multipleOf", "properties", "required", "additionalProperties", "items"),
    }
)


def merged(alternative: Alternative) -> dict[str, object]:
    """One schema for all parts. Raises GrammarError for a keyword of several parts that cannot be merged."""
    out: dict[str, object] = {"type": types.names(alternative.types)}
    for part in alternative.parts:
        for name, value in part.items():
            if name not in _TOGETHER:
                if name in out and out[name] != value:
                    raise GrammarError(f"the keyword {name!r} cannot be enforced several times for one value")
                out[name] = value
    if alternative.values is not None:
        return {**out, "enum": list(alternative.values)}
    for of in _LENGTHS:
        least, most = alternative.bounds(of)
        out |= {f"min{of}": least} if least else {}
        out |= {} if most is None else {f"max{of}": most}
    _add_texts(out, alternative)
    _add_numbers(out, alternative)
    _add_nested(out, alternative)
    return out


def _add_texts(out: dict[str, object], alternative: Alternative) -> None:
    strings = alternative.strings
    formats = [STRING_FORMATS[name] for name in strings.formats if name in STRING_FORMATS]
    patterns = [*strings.patterns, *(f"^({pattern})$" for pattern in formats)]
    if patterns:
        out["pattern"] = patterns[0]
    if patterns[1:]:
        out["allOf"] = [{"pattern": pattern} for pattern in patterns[1:]]


def _add_numbers(out: dict[str, object], alternative: Alternative) -> None:
    numbers = alternative.numbers
    if numbers.low is not None:
        out["exclusiveMinimum" if numbers.is_low_open else "minimum"] = _plain(numbers.low)
    if numbers.high is not None:
        out["exclusiveMaximum" if numbers.is_high_open else "maximum"] = _plain(numbers.high)
    if len(set(numbers.steps)) > 1:
        raise GrammarError("the keyword 'multipleOf' cannot be enforced several times for one value")
    if numbers.steps:
        out["multipleOf"] = _plain(numbers.steps[0])


def _add_nested(out: dict[str, object], alternative: Alternative) -> None:
    if alternative.properties:
        out["properties"] = {each.name: each.schema for each in alternative.properties if each.is_declared}
        out["required"] = [each.name for each in alternative.properties if each.is_required]
    if any("additionalProperties" in part for part in alternative.parts):
        out["additionalProperties"] = alternative.others
    if any("items" in part for part in alternative.parts):
        out["items"] = alternative.items


def _plain(value: Fraction) -> int | float:
    return int(value) if value.denominator == 1 else float(value)
