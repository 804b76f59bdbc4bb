"""A tool as a request declares it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from llamafast.json_schema.members import Members, members_of


@dataclass(frozen=True)
class Tool:
    """A function that the model may call. parameters: the JSON Schema of its arguments object; {}: any object."""

    name: str
    description: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict)
    strict: bool = False

    @cached_property
    def members(self) -> Members:
        """Which arguments the parameters name, and which they require."""
        return members_of(self.parameters)
