"""A JSON Schema as llguidance takes it, from its text."""

from __future__ import annotations

import json
from typing import Any

from llamafast.errors import GrammarError
from llamafast.grammars.schema_cost import affordable
from llamafast.json_schema.prepare import prepare
from llamafast.json_schema.walk import MAX_DEPTH

# Between JSON's tokens. Bounded: a model that has nothing to say would write line breaks up to max_tokens.
WHITESPACE = r"[\x20\x09]|\n{1,2}[\x20\x09]{0,20}"


def prepare_schema(text: str, *, strict: bool = True) -> tuple[str, list[str]]:
    """The text of an equal schema without what would be refused for no reason, and what had to be dropped.

    Raises GrammarError; strict: rather than drop anything.
    """
    root, dropped = prepare(_parse(text), strict=strict)
    root, dear = affordable(root, strict=strict)
    return json.dumps(root), [*dropped, *dear]


def _parse(text: str) -> Any:
    def refuse(name: str) -> None:
        raise GrammarError(f"the schema is not JSON: {name}")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise GrammarError(f"the schema is nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise GrammarError(f"the schema is not JSON: {error}") from None
