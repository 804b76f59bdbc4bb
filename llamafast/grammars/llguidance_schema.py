"""JSON Schemas for llguidance, from their text, with cost limits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llamafast.errors import GrammarError
from llamafast.grammars.schema_cost import within_cost_limits
from llamafast.json_schema.simplify import simplified
from llamafast.json_schema.subschemas import MAX_DEPTH

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

# White space between JSON tokens. It is limited, because a model might write line breaks up to max_tokens.
_WHITESPACE = r"[\x20\x09]|\n{1,2}[\x20\x09]{0,20}"


def compile_options(*, strict: bool) -> JsonCompileOptions:
    """The options with which llguidance reads a schema. strict: it refuses what it cannot enforce, instead of dropping
    it.
    """
    return {
        "lenient": not strict,
        "coerce_one_of": not strict,
        "whitespace_flexible": True,
        "whitespace_pattern": _WHITESPACE,
    }


def compilable(schema: object, *, strict: bool = True) -> tuple[dict[str, Any], list[str]]:
    """(an equal schema without what llguidance would refuse needlessly, the names of dropped keywords).

    Raises GrammarError; if strict, instead of dropping anything.
    """
    root, dropped = simplified(schema, strict=strict)
    root, costly = within_cost_limits(root, strict=strict)
    return root, [*dropped, *costly]


def parse_schema(text: str) -> object:
    """A schema from its text. Raises GrammarError."""

    def refuse(name: str) -> None:
        raise GrammarError(f"the schema is not JSON: {name}")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise GrammarError(f"the schema is nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise GrammarError(f"the schema is not JSON: {error}") from None
