"""OutputGrammar: the grammar of a whole output, as Lark rules and tables that the grammar compiler turns into rules."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field


@dataclass(frozen=True, slots=True)
class ContentConstraint:
    """What an answer without a call must be: JSON of a schema, a match of a regex, or one of some texts.

    param: the field of the client.
    schema, regex, choices: the constraint; one of them is set.
    strict: False: keywords of the schema that cannot be enforced are dropped.
    """

    param: str
    schema: Mapping[str, object] | bool | None = None
    regex: str | None = None
    choices: tuple[str, ...] = ()
    strict: bool = True


@dataclass(frozen=True, slots=True)
class CallPolicy:
    """Which calls an answer may or must contain.

    is_required: the answer is a call and nothing else, after its reasoning.
    is_parallel: it may contain several calls.
    names: the tools that may be called. None: all.
    answer: what an answer without a call must be. None: any text.
    """

    is_required: bool = False
    is_parallel: bool = True
    names: tuple[str, ...] | None = None
    answer: ContentConstraint | None = None


@dataclass(frozen=True, slots=True)
class EmbeddedSchema:
    """A JSON Schema for one rule.

    schema: the schema.
    param: the field of the client.
    strict: False: keywords that cannot be enforced are dropped.
    """

    schema: Mapping[str, object] | bool
    param: str
    strict: bool


@dataclass(frozen=True, slots=True)
class FreeText:
    """Any text up to the first occurrence of `end`. unless: a text that it does not begin with, after white space."""

    end: str
    unless: str = ""


@dataclass(frozen=True, slots=True)
class DelimitedText:
    """A match of a terminal, followed by the text `end`, which the match does not contain.

    body: the terminal in Lark.
    fallback: the body without the patterns of clients, if body may match nothing. Empty: it matches something.
    end: the text after it.
    param, strict: as in EmbeddedSchema.
    """

    body: str
    fallback: str
    end: str
    param: str
    strict: bool


@dataclass(slots=True)
class OutputGrammar:
    """Rules under construction, in llguidance's dialect of Lark. The first rule is `start`. The compiler adds rules for
    the entries of the tables.

    lines: the rules.
    texts: rules that are a sequence of texts. Names of control tokens in the first, third and later odd texts mean
        those tokens.
    free_texts: each entry has two rules: NAME for a free text with its end, NAME_open for one without it.
    delimited_texts: rules for a match of a terminal with its end.
    schemas: rules for JSON of a schema.
    checked: schemas that only have to be valid.
    regexes: rules for a regular expression of a client, each with its field.
    dropped: keywords of schemas that no rule enforces.
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
        """Add a rule. Returns its name."""
        self.lines.append(f"{name}: {body}")
        return name

    def new_rule(self, body: str) -> str:
        """The name of a rule with this body. Equal bodies share a rule."""
        return self._interned("r", body, lambda name: self.rule(name, body))

    def memoized(self, key: Hashable, make: Callable[[], str]) -> str:
        """The elements that `make` returns. It is called once per key, because parts of schemas occur many times."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def terminal(self, body: str) -> str:
        """The name of a terminal with this body."""
        return self._interned("T", body, lambda name: self.rule(name, body))

    def text(self, *parts: str) -> str:
        """The name of a rule that is a sequence of texts, which the format and the client wrote in turn. The format's
        is first.

        Only the format's texts may name control tokens. Returns "" if all texts are empty.
        """
        if not any(parts):
            return ""
        return self._interned("x", json.dumps(parts), lambda name: self.texts.setdefault(name, parts))

    def text_until(self, end: str) -> str:
        """The name of a rule for any text up to and including this one."""
        return self.free_text(FreeText(end))[1]

    def free_text(self, text: FreeText) -> tuple[str, str]:
        """The names of a rule for a free text without its end, and of a rule for one with it."""
        key = json.dumps([text.end, text.unless])
        name = self._interned("f", key, lambda name: self.free_texts.setdefault(name, text))
        return f"{name}_open", name

    def delimited_text(self, text: DelimitedText) -> str:
        """The name of a rule for a match of a terminal with its end."""
        return self._interned("e", json.dumps(asdict(text)), lambda name: self.delimited_texts.setdefault(name, text))

    def json(self, schema: EmbeddedSchema) -> str:
        """The name of a rule for JSON of this schema."""
        key = json.dumps([schema.schema, schema.param, schema.strict])
        return self._interned("j", key, lambda name: self.schemas.setdefault(name, schema))

    def regex(self, regex: str, param: str) -> str:
        """The name of a rule for a regular expression, which is in the field param."""
        key = json.dumps([regex, param])
        return self._interned("p", key, lambda name: self.regexes.setdefault(name, (regex, param)))

    def drop(self, schema: EmbeddedSchema, what: Sequence[str]) -> None:
        """Record keywords of a schema that no rule enforces."""
        self.dropped += (f"{schema.param}: {name}" for name in what if f"{schema.param}: {name}" not in self.dropped)

    @property
    def source(self) -> str:
        """The text of a StructuredOutput of kind LARK."""

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
    """The elements for a repetition of body, with `between` between two of them. bounds: (minimum, maximum)."""
    least, most = bounds
    if most == 0:
        return '""'
    if most == 1:
        return body if least else f"({body})?"
    several = f"{body} ({between} {body}){{{max(0, least - 1)},{'' if most is None else most - 1}}}"
    return several if least > 0 else f"({several})?"
