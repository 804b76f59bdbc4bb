"""A grammar of a whole output, as text: Lark rules, and what only the vocabulary and the schema compiler can settle."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field


@dataclass(frozen=True, slots=True)
class ContentConstraint:
    """What an answer without a call is: JSON of a schema, or what a regex matches, or else one of some choices.

    param: the client's field. strict False: what cannot be enforced of the schema is dropped.
    """

    param: str
    schema: Mapping[str, object] | bool | None = None
    regex: str | None = None
    choices: tuple[str, ...] = ()
    strict: bool = True


@dataclass(frozen=True, slots=True)
class CallPolicy:
    """What the calls of an answer must be.

    is_required: the answer is a call, nothing else (behind its reasoning). is_parallel: there may be several. names:
    the tools that may be called, None: all. answer: what it is without a call, None: any text.
    """

    is_required: bool = False
    is_parallel: bool = True
    names: tuple[str, ...] | None = None
    answer: ContentConstraint | None = None


@dataclass(frozen=True, slots=True)
class EmbeddedSchema:
    """A JSON Schema that a rule stands for. param: the client's field. strict False: what cannot be enforced goes."""

    schema: Mapping[str, object] | bool
    param: str
    strict: bool


@dataclass(frozen=True, slots=True)
class FreeText:
    """Any text up to the first place where `end` stands. unless: what it does not begin with, white space aside."""

    end: str
    unless: str = ""


@dataclass(frozen=True, slots=True)
class DelimitedText:
    """What a terminal of this body matches, with the text `end` behind it, which stands nowhere in what it matches.

    doubt: the body without clients' patterns, if it may turn out to match nothing. param, strict: as in EmbeddedSchema.
    """

    body: str
    fallback: str
    end: str
    param: str
    strict: bool


@dataclass(slots=True)
class OutputGrammar:
    """Rules under construction; the first one is `start`. Whoever compiles the text adds the rules of the tables.

    texts: rules that are these texts in a row; names of control tokens are those tokens in the first, third and so on.
    free_texts: of each free text there are two rules, NAME for one with its end, NAME_open for one without.
    delimited_texts: rules for texts of a terminal with their end. schemas: rules that are JSON of a schema. checked: schemas that only have to be
    sound. regexes: rules that match a client's regular expression, and the field that it stands in. dropped: what of
    schemas that are not strict no rule holds. Rules are in llguidance's dialect of Lark.
    """

    lines: list[str] = field(default_factory=list)
    texts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    free_texts: dict[str, FreeText] = field(default_factory=dict)
    delimited_texts: dict[str, DelimitedText] = field(default_factory=dict)
    schemas: dict[str, EmbeddedSchema] = field(default_factory=dict)
    checked: list[EmbeddedSchema] = field(default_factory=list)
    regexes: dict[str, tuple[str, str]] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    _names: dict[tuple[str, str], str] = field(default_factory=dict)
    _made: dict[Hashable, str] = field(default_factory=dict)

    def rule(self, name: str, body: str) -> str:
        """Add a rule; its name."""
        self.lines.append(f"{name}: {body}")
        return name

    def new_rule(self, body: str) -> str:
        """The name of a rule with this body, equal ones being one."""
        return self._interned("r", body, lambda name: self.rule(name, body))

    def memoized(self, key: Hashable, make: Callable[[], str]) -> str:
        """The elements that `make` gives, made once for each key: parts of schemas stand in many places."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def terminal(self, body: str) -> str:
        """The name of a terminal with this body."""
        return self._interned("T", body, lambda name: self.rule(name, body))

    def text(self, *parts: str) -> str:
        """The name of a rule that is these texts in a row, the format's and the client's by turns, the format's first.

        Only the format's may name control tokens. "" where there is none to write.
        """
        if not any(parts):
            return ""
        return self._interned("x", json.dumps(parts), lambda name: self.texts.setdefault(name, parts))

    def text_until(self, end: str) -> str:
        """The name of a rule that is any text up to and with this one."""
        return self.free_text(FreeText(end))[1]

    def free_text(self, text: FreeText) -> tuple[str, str]:
        """The names of a rule for a free text without its end, and of one for a free text with it."""
        key = json.dumps([text.end, text.unless])
        name = self._interned("f", key, lambda name: self.free_texts.setdefault(name, text))
        return f"{name}_open", name

    def delimited_text(self, text: DelimitedText) -> str:
        """The name of a rule for a text of a terminal, with its end."""
        return self._interned("e", json.dumps(asdict(text)), lambda name: self.delimited_texts.setdefault(name, text))

    def json(self, schema: EmbeddedSchema) -> str:
        """The name of a rule that is JSON of this schema."""
        key = json.dumps([schema.schema, schema.param, schema.strict])
        return self._interned("j", key, lambda name: self.schemas.setdefault(name, schema))

    def regex(self, regex: str, param: str) -> str:
        """The name of a rule that matches a regular expression, which stands in this field."""
        key = json.dumps([regex, param])
        return self._interned("p", key, lambda name: self.regexes.setdefault(name, (regex, param)))

    def drop(self, schema: EmbeddedSchema, what: Sequence[str]) -> None:
        """Say what of a schema no rule will hold."""
        self.dropped += (f"{schema.param}: {name}" for name in what if f"{schema.param}: {name}" not in self.dropped)

    @property
    def source(self) -> str:
        """What StructuredOutput.text holds for StructuredKind.LARK."""

        def plain(schema: EmbeddedSchema) -> list[object]:
            return [schema.schema, schema.param, schema.strict]

        return json.dumps(
            {
                "rules": "\n".join(self.lines),
                "texts": self.texts,
                "free_texts": {name: [free.end, free.unless] for name, free in self.free_texts.items()},
                "delimited_texts": {name: list(astuple(text)) for name, text in self.delimited_texts.items()},
                "schemas": {name: plain(schema) for name, schema in self.schemas.items()},
                "checked": [plain(schema) for schema in self.checked],
                "regexes": self.regexes,
                "dropped": self.dropped,
            },
            ensure_ascii=False,
        )

    def _interned(self, kind: str, key: str, add: Callable[[str], object]) -> str:
        name = self._names.get((kind, key))
        if name is None:
            name = self._names[kind, key] = f"{kind}{len(self._names)}"
            add(name)
        return name


def repeated(body: str, between: str, bounds: tuple[int, int | None]) -> str:
    """The elements for a body that comes so many times, (least, most), with something between."""
    least, most = bounds
    if most == 0:
        return '""'
    if most == 1:
        return body if least else f"({body})?"
    several = f"{body} ({between} {body}){{{max(0, least - 1)},{'' if most is None else most - 1}}}"
    return several if least > 0 else f"({several})?"
