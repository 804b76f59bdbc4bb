"""The grammar of arguments between tags: strings as they are up to the closing tag, other values in JSON."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import NoReturn

from llamafast.chat.enforcing.call_syntax import CallSyntax, TaggedArguments
from llamafast.chat.enforcing.output_grammar import EmbeddedSchema, OutputGrammar, repeated
from llamafast.chat.enforcing.value_terminals import (
    ArgumentsGrammar,
    Terminal,
    delimited,
    report_unenforced,
    scalar_terminals,
    string_terminal,
    union,
)
from llamafast.errors import GrammarError
from llamafast.json_schema import types
from llamafast.json_schema.alternatives import Alternative, Property, StringConstraints
from llamafast.json_schema.forbidden_texts import without_forbidden_texts
from llamafast.json_schema.lark_regex import escaped, not_beginning, slashed

_KEY = Terminal("/[a-zA-Z_][a-zA-Z0-9_]{0,63}/")
_ANY_STRING = StringConstraints(None, (), (), 0, None)
_NO_BREAK = r" & /((?s:.*)[^\n])?/"
_READABLE_KEY = r'[^<>"\n]{1,255}'  # the names that the parsers of such formats accept


def tagged_arguments(grammar: OutputGrammar, syntax: CallSyntax, tags: TaggedArguments, schema: EmbeddedSchema) -> str:
    """The elements for the arguments of this schema, in the order of its properties.

    Optional arguments may be omitted. Undeclared arguments are allowed only if none is declared.
    """
    return _Tagged(grammar, tags, schema, _tags_of(syntax, tags)).arguments()


class _Tagged(ArgumentsGrammar):
    """The arguments of one tool."""

    def __init__(
        self, grammar: OutputGrammar, tags: TaggedArguments, owner: EmbeddedSchema, forbidden: tuple[str, ...]
    ) -> None:
        """forbidden: texts that no value contains."""
        super().__init__(grammar, owner)
        self._tags = tags
        self._forbidden = forbidden

    def objects(self, found: list[Alternative]) -> list[str]:
        """The elements for the members of each object."""
        report_unenforced(
            self._grammar, self._owner, [f"the alternatives of {name!r}" for name in self._ambiguous(found)]
        )
        return [self._object(each) for each in found]

    def _ambiguous(self, objects: list[Alternative]) -> list[str]:
        """Names that are a string in one alternative and another type in another. The text does not show which is
        meant.
        """
        found: dict[str, list[Property]] = {}
        for each in objects:
            for its in each.properties:
                found.setdefault(its.name, []).append(its)
        names = []
        for name, several in found.items():
            if any(its.schemas != several[0].schemas for its in several):
                kinds = [each.types for its in several for each in self.alternatives(its.schema)]
                if any("string" in each for each in kinds) and any(each != types.STRING for each in kinds):
                    names.append(name)
        return names if self._tags.after_other_key is None else []

    def _object(self, alternative: Alternative) -> str:
        grammar, tags = self._grammar, self._tags
        report_unenforced(grammar, self._owner, alternative.unenforced_for_objects)
        if not alternative.properties:
            if alternative.others is False:
                return ""
            entry = grammar.new_rule(f"{grammar.text(tags.before_key)} {self._any_key(alternative)}")
            return repeated(entry, "", alternative.bounds("Properties"))
        elements = []
        for each in alternative.properties:
            if not re.fullmatch(_READABLE_KEY, each.name):
                report_unenforced(grammar, self._owner, [f"a property named {each.name!r}"])
                continue
            body = self._value((tags.before_key, each.name), each.schema)
            if body or each.is_required:
                elements.append((body or self._nothing(each.name)) if each.is_required else f"({body})?")
        return grammar.new_rule(" ".join(elements) or '""')

    def _any_key(self, alternative: Alternative) -> str:
        """A key that the model chooses, and its value."""
        names = [each.strings for each in self.alternatives(alternative.names) if "string" in each.types]
        keys = [_KEY] if any(each.is_free for each in names) else self._keys(names)
        if self._tags.after_other_key is None:
            key = delimited(self._grammar, self._owner, keys, self._tags.after_key)
            return f"{key} {self._value(None, alternative.others)}"
        return f"{self._grammar.terminal(union(keys).body)} {self._value((), alternative.others)}"

    def _keys(self, names: list[StringConstraints]) -> list[Terminal]:
        found = [string_terminal(self._grammar, each, self._owner, ()) for each in names]
        keys = [each.within(f"/{_READABLE_KEY}/ & ", "") for each in found if each is not None]
        if not keys:
            self._nothing("propertyNames")
        return keys

    def _nothing(self, name: str) -> NoReturn:
        raise GrammarError(f"no value satisfies {name!r}")

    def _value(self, before: tuple[str, ...] | None, schema: object) -> str:
        """The elements of one argument; "" if no value satisfies the schema. before None: the key has been matched."""
        grammar, tags = self._grammar, self._tags
        found = self.alternatives(schema)
        strings, others = self._forms(schema, found)
        after_other = tags.after_key if tags.after_other_key is None else tags.after_other_key
        forms = [(tags.after_key, strings), (after_other, others)]
        if after_other == tags.after_key:
            forms = [(tags.after_key, strings + others)]
        bodies = [
            f"{'' if before is None else grammar.text(*before, key) if before else grammar.text(key)} "
            f"({' | '.join(several)})"
            for key, several in forms
            if several
        ]
        return f"({' | '.join(bodies)})" if bodies else ""

    def _forms(self, schema: object, found: list[Alternative]) -> tuple[list[str], list[str]]:
        """The ways to write strings, and those to write other values, each with the text that ends it.

        Bare text that is JSON of an allowed type is read as that type. So one terminal matches both strings and other
        values. Lists and objects have their own rule, and no string begins like them.
        """
        grammar, tags, owner = self._grammar, self._tags, self._owner
        texts = [each for each in found if "string" in each.types]
        nested = [each for each in found if each.types & types.NESTED and each.values is None]
        is_apart = tags.after_other_key is not None
        is_bound = any(each.is_constrained(each.types & types.NESTED) for each in nested)
        is_free = any(each.strings.is_free for each in texts) and not any(each.unenforced for each in texts)
        is_enough = is_free and not is_bound  # any text is allowed
        if is_free and tags.quotes is None and (is_apart or is_enough):
            return self._free(), self._others(schema, found) if is_apart else []
        if not texts and any(each.values is None for each in found):
            return [], self._others(schema, found)
        for each in found:
            report_unenforced(grammar, owner, each.unenforced)
        is_nested = is_apart or is_enough or not nested
        bodies = [body for each in texts for body in self._bodies(each.strings, is_nested=is_nested)]
        scalars = [each for one in found for each in scalar_terminals(grammar, one, owner, self._forbidden)]
        if is_apart:
            return (
                self._ended(bodies),
                self._others(schema, found) if scalars or nested else [],
            )
        return self._ended([*bodies, *scalars]), self._json_of(schema, types.NESTED) if nested and not is_enough else []

    def _free(self) -> list[str]:
        """The ways to write any string."""
        body = string_terminal(self._grammar, _ANY_STRING, self._owner, self._forbidden)
        return [delimited(self._grammar, self._owner, [body], end) for end in self._tags.ends] if body else []

    def _ended(self, bodies: list[Terminal]) -> list[str]:
        """The ways to write a match of one of these terminals. A line break before the closing tag belongs to it."""
        if not bodies:
            return []
        body = union(bodies)
        shorts = [
            delimited(self._grammar, self._owner, [body.within("", _NO_BREAK)], end) for end in self._tags.ends[1:]
        ]
        return [delimited(self._grammar, self._owner, [body], self._tags.after_value), *shorts]

    def _bodies(self, strings: StringConstraints, *, is_nested: bool) -> list[Terminal]:
        """Terminals for strings, also in the quotes of the format if it has some."""
        grammar, owner, tags = self._grammar, self._owner, self._tags
        plain = string_terminal(grammar, strings, owner, self._forbidden, is_nested=is_nested, close=tags.close)
        if tags.quotes is None or plain is None:
            return [] if plain is None else [plain]
        opening, closing = tags.quotes
        inside = string_terminal(grammar, strings, owner, (closing,), is_nested=is_nested)
        quoted = [inside.within(f"{slashed(escaped(opening))} ", f" {slashed(escaped(closing))}")] if inside else []
        return [plain.within("", f" & {slashed(not_beginning(opening))}"), *quoted]

    def _others(self, schema: object, found: list[Alternative]) -> list[str]:
        """The ways to write values that are not strings."""
        kinds = frozenset[str]().union(*(each.types for each in found))
        return self._json_of(schema, kinds - types.STRING) if kinds - types.STRING else []

    def _json_of(self, schema: object, kinds: frozenset[str]) -> list[str]:
        """JSON of the schema, for values of these types."""
        part = without_forbidden_texts(
            self._document.standalone(schema),
            self._forbidden,
            lambda name: report_unenforced(self._grammar, self._owner, [name]),
        )
        definitions = part.pop("$defs")
        whole = {"allOf": [part, {"type": types.names(kinds)}], "$defs": definitions}
        name = self._grammar.json(replace(self._owner, schema=whole))
        ends = " | ".join(map(self._grammar.text, self._tags.ends))
        return [f"{name} ({ends})"]


def _tags_of(syntax: CallSyntax, tags: TaggedArguments) -> tuple[str, ...]:
    """The tags that a value may not contain. Parsers end a value at them if its closing tag is missing."""
    behind = "".join(piece for piece in syntax.after_arguments if isinstance(piece, str))
    texts = (tags.after_key, tags.after_other_key or "", behind, syntax.after_calls)
    found = [tags.close, tags.before_key, *(tag for text in texts for tag in re.findall("<[^<>]*>", text))]
    return tuple(dict.fromkeys(found))
