"""Which members the objects have that a schema allows."""

from __future__ import annotations

from dataclasses import dataclass

from llamafast.errors import GrammarError
from llamafast.json_schema.alternatives import alternatives
from llamafast.json_schema.refs import Document
from llamafast.json_schema.types import Schema


@dataclass(frozen=True, slots=True)
class Members:
    """names: those that it names. required: those that every object has. may_be_empty: some object has none."""

    names: frozenset[str]
    required: frozenset[str]
    may_be_empty: bool


def members_of(schema: Schema) -> Members:
    """The members of the objects that meet a whole schema, references and combinations followed."""
    try:
        found = alternatives(schema, Document(schema))
    except GrammarError:
        # Too much to follow: what stands at its top is known.
        top = {name: schema[name] for name in ("properties", "required") if name in schema}
        found = alternatives(top, Document(top))
    rows = [each.properties for each in found if "object" in each.types]
    required = [frozenset(each.name for each in row if each.is_required) for row in rows]
    return Members(
        frozenset(each.name for row in rows for each in row),
        frozenset.intersection(*required) if required else frozenset(),
        not all(required) if required else True,
    )
