"""Tool: a function that a request offers to the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from llamafast.chat.reading.value_schema import ValueSchema
from llamafast.json_schema.members import Members, members_of
from llamafast.json_schema.refs import Document


@dataclass(frozen=True)
class Tool:
    """A function that the model may call.

    name: the name of the function.
    description: what it does, for the model.
    parameters: the JSON Schema of the arguments object. An empty schema allows any object.
    strict: whether every keyword of parameters must be enforced.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict)
    strict: bool = False

    @cached_property
    def members(self) -> Members:
        """The arguments that parameters names, and those that it requires."""
        return members_of(self.parameters)

    @cached_property
    def value_schema(self) -> ValueSchema:
        """What parameters says about the arguments object. All calls of the tool share it."""
        return ValueSchema(self.parameters, Document(self.parameters))
