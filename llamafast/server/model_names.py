"""The names under which clients ask for a model: exact names, and patterns with `*`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# Every chunk of an answer repeats the name that the client sent, so patterns match only names up to this length.
MAX_MATCHED_CHARS = 256


@dataclass(frozen=True, slots=True)
class ModelNames:
    """The names of one model.

    alias: the main name. Answers to requests without a model name show it. Metrics and messages always show it.
    aliases: further exact names.
    patterns: names with `*`, which matches any text, the empty one included.
    """

    alias: str
    aliases: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()

    @classmethod
    def of(cls, alias: str, others: Iterable[str] = ()) -> ModelNames:
        """Sort `others` into exact names and patterns. Repetitions are dropped."""
        names = [name for name in dict.fromkeys(others) if name != alias]
        return cls(alias, tuple(n for n in names if "*" not in n), tuple(n for n in names if "*" in n))

    @property
    def exact(self) -> tuple[str, ...]:
        """The alias, then the further exact names: what /v1/models lists."""
        return (self.alias, *self.aliases)

    def shown(self, asked: str | None) -> str:
        """The name that an answer shows: the one that the client asked for, else the alias."""
        return self.alias if asked is None else asked


def matches(pattern: str, name: str) -> bool:
    """Whether `name` is `pattern` with a text in place of each `*`. Takes linear time."""
    if len(name) > MAX_MATCHED_CHARS:
        return False
    first, *middle, last = pattern.split("*")
    if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
        return False
    start, end = len(first), len(name) - len(last)
    for part in middle:
        place = name.find(part, start, end)
        if place < 0:
            return False
        start = place + len(part)
    return True
