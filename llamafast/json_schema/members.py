"""The members of the objects that a schema allows."""

from __future__ import annotations

from dataclasses import dataclass

from llamafast.errors import GrammarError
from llamafast.json_schema.alternatives import alternatives
from llamafast.json_schema.refs import Document
from llamafast.json_schema.types import Schema


@dataclass(frozen=True, slots=True)
class Members:
    """The members of the objects that a schema allows.

    names: the names that the schema mentions.
    required: the names that every object has.
    may_be_empty: an object without members is allowed.
    """

    names: frozenset[str]
    required: frozenset[str]
    may_be_empty: bool


def members_of(schema: Schema) -> Members:
    """The members of the objects that satisfy a schema. References and combinations are followed."""
    try:
        found = alternatives(schema, Document(schema))
    except GrammarError:
        # The schema is too complex. Its top level is known.
        top = {name: schema[name] for name in ("properties", "required") if name in schema}
        found = alternatives(top, Document(top))
    rows = [each.properties for each in found if "object" in each.types]
    required = [frozenset(each.name for each in row if each.is_required) for row in rows]
    return Members(
        frozenset(each.name for row in rows for each in row),
        frozenset.intersection(*required) if required else frozenset(),
        not all(required) if required else True,
    )
