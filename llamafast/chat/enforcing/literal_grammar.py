"""The grammar of arguments in a program's notation: keys and values, with strings in the quotes of the format."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace

from llamafast.chat.enforcing.call_syntax import LiteralArguments
from llamafast.chat.enforcing.output_grammar import EmbeddedSchema, OutputGrammar, repeated
from llamafast.chat.enforcing.value_terminals import (
    ArgumentsGrammar,
    Terminal,
    as_json,
    delimited,
    report_unenforced,
    string_terminal,
)
from llamafast.errors import GrammarError
from llamafast.json_schema import types
from llamafast.json_schema.alternatives import Alternative, StringConstraints
from llamafast.json_schema.lark_regex import escaped, slashed
from llamafast.json_schema.types import as_schema

_is_bare = re.compile(r"[\w.-]+").fullmatch
_KEY = "/[a-zA-Z_][a-zA-Z0-9_]{0,63}/"
_QUOTED_KEY = r'/"[^"\\<\x00-\x1f]{1,255}"/'
_BARE_KEY = "/[0-9A-Za-z_.-]{1,255}/"
_NONE = "None"  # null, as templates write it
_KEYS = (_BARE_KEY, r'/[^"\\<\x00-\x1f]{1,255}/')
_MAX_DEPTH = 6  # deeper values are JSON, which the parsers of such formats read too
_MAX_RULES = 20_000  # per grammar
_NAMING = frozenset({"patternProperties", "propertyNames"})
_JSON_ALONE = frozenset({"contains", "uniqueItems"})


def literal_arguments(grammar: OutputGrammar, syntax: LiteralArguments, schema: EmbeddedSchema) -> str:
    """The elements for the arguments of this schema, in the order of its properties."""
    return _Literal(grammar, syntax, schema).arguments()


class _Literal(ArgumentsGrammar):
    """The arguments of one tool."""

    def __init__(self, grammar: OutputGrammar, syntax: LiteralArguments, owner: EmbeddedSchema) -> None:
        super().__init__(grammar, owner)
        self._syntax = syntax

    def objects(self, found: list[Alternative]) -> list[str]:
        """The elements for the members of each object."""
        return [self._object(each, 0) for each in found]

    def _object(self, alternative: Alternative, depth: int) -> str:
        """A rule for the text between the braces of an object."""
        grammar, syntax = self._grammar, self._syntax
        report_unenforced(grammar, self._owner, alternative.unenforced_for_objects)
        between = grammar.text(syntax.between)
        if not alternative.properties:
            if alternative.others is False:
                return grammar.new_rule('""')
            entry = f"{self._any_key(alternative)} {self._value(alternative.others, depth)}"
            return grammar.new_rule(repeated(grammar.new_rule(entry), between, alternative.bounds("Properties")))
        first, later = '""', '""'  # rules for the members from one on: without and with a member before it
        for each in reversed(alternative.properties):
            key = _key_text(each.name)
            value = self._value(each.schema, depth)
            if not value and each.is_required:
                raise GrammarError(f"no value satisfies {each.name!r}")
            if not value:
                continue
            body = f"{grammar.text('', key, syntax.after_key)} {value}"
            alone = f"{body} {later}"
            first = grammar.new_rule(alone if each.is_required else f"{alone} | {first}")
            later = grammar.new_rule(
                f"{between} {body} {later}" if each.is_required else f"({between} {body})? {later}"
            )
        return first

    def _any_key(self, alternative: Alternative) -> str:
        names = [each.strings for each in self.alternatives(alternative.names) if "string" in each.types]
        found = [string_terminal(self._grammar, each, self._owner, ()) for each in names]
        keys = [each.within(f"{_BARE_KEY} & ", "") for each in found if each is not None]
        if any(each.is_free for each in names):
            keys = [Terminal(body) for body in (_KEY, *([_QUOTED_KEY] if self._syntax.quote else []))]
        if not keys:
            raise GrammarError("no name satisfies 'propertyNames'")
        return delimited(self._grammar, self._owner, keys, self._syntax.after_key)

    def _value(self, schema: object, depth: int) -> str:
        key = (self._syntax, json.dumps(schema), self._owner.param, self._owner.strict, depth)
        return self._grammar.memoized(key, lambda: self._new_value(schema, depth))

    def _new_value(self, schema: object, depth: int) -> str:
        """A rule for a value; "" if no value satisfies the schema."""
        grammar = self._grammar
        if len(grammar.lines) > _MAX_RULES:
            raise GrammarError("the schema is too large")
        found = self.alternatives(schema)
        is_json = not self._syntax.quote or depth > _MAX_DEPTH
        if is_json or any(_JSON_ALONE & part.keys() for each in found for part in each.parts):
            return self._json(schema) if schema is not False else ""
        forms = [form for each in found for form in self._forms(each, depth)]
        return grammar.new_rule(" | ".join(dict.fromkeys(forms))) if forms else ""

    def _forms(self, alternative: Alternative, depth: int) -> list[str]:
        """The ways to write the values of an alternative."""
        grammar = self._grammar
        report_unenforced(grammar, self._owner, alternative.unenforced)
        forms = []
        if "null" in alternative.types:
            forms.append(grammar.text(_NONE))
        if "string" in alternative.types:
            forms += self._strings(alternative)
        if alternative.values is not None:
            nested = [value for value in alternative.values if isinstance(value, list | dict)]
            texts = [text for value in nested if (text := self._literal(value))]
            return [*forms, *(grammar.text("", text) for text in as_json(alternative.values)), *texts]
        scalars = alternative.types & types.SCALARS
        if scalars:
            forms.append(self._json({"allOf": [*alternative.parts, {"type": types.names(scalars)}]}))
        if "array" in alternative.types:
            forms += self._arrays(alternative, depth + 1)
        if "object" in alternative.types:
            forms += self._braces(alternative, depth + 1)
        return forms

    def _strings(self, alternative: Alternative) -> list[str]:
        """Strings in the quotes of the format. Strings that contain those are in JSON's quotes."""
        grammar, quote, strings = self._grammar, self._syntax.quote, alternative.strings
        if strings.is_free:
            return [f"{grammar.text(quote)} {grammar.text_until(quote)}"]
        quoted = [value for value in strings.values or () if quote in value]
        if quoted:
            strings = replace(strings, values=tuple(value for value in strings.values or () if quote not in value))
        terminal = string_terminal(grammar, strings, self._owner, (quote,))
        forms = (
            [] if terminal is None else [f"{grammar.text(quote)} {delimited(grammar, self._owner, [terminal], quote)}"]
        )
        in_json = slashed("|".join(escaped(json.dumps(value, ensure_ascii=False)) for value in quoted))
        return [*forms, *([grammar.terminal(in_json)] if quoted else [])]

    def _literal(self, value: object) -> str:
        """The elements of a list or an object; "" if a string in it contains the quote."""
        quote, parts = self._syntax.quote, [""]
        for is_quote, text in self._pieces(value):
            if not is_quote and quote in text:
                return ""
            if len(parts) % 2 != is_quote:
                parts.append("")
            parts[-1] += text
        return self._grammar.text(*parts)

    def _pieces(self, value: object) -> Iterator[tuple[bool, str]]:
        """The pieces of a value's text, each with whether it is a quote of the format."""
        if isinstance(value, str):
            yield from ((True, self._syntax.quote), (False, value), (True, self._syntax.quote))
        elif isinstance(value, list | dict):
            is_list = isinstance(value, list)
            for i, each in enumerate(value):
                yield False, self._syntax.between if i else "[" if is_list else "{"
                if not is_list:
                    yield False, _key_text(each) + self._syntax.after_key
                yield from self._pieces(each if is_list else value[each])
            yield False, ("" if value else "[" if is_list else "{") + ("]" if is_list else "}")
        else:
            yield False, json.dumps(value)

    def _braces(self, alternative: Alternative, depth: int) -> list[str]:
        """The ways to write an object. It is JSON if its properties alone do not define it."""
        grammar = self._grammar
        opened, closed = grammar.text("{"), grammar.text("}")
        others = [part for part in alternative.parts if _NAMING & part.keys()]
        if not alternative.unenforced_for_objects and not others:
            return [f"{opened} {self._object(alternative, depth)} {closed}"]
        in_json = self._json({"allOf": [*alternative.parts, {"type": "object"}]})
        entry = self._named(alternative, depth) if len(alternative.parts) == 1 else ""
        members = repeated(entry, grammar.text(self._syntax.between), alternative.bounds("Properties")) if entry else ""
        return [in_json, *([f"{opened} {members} {closed}"] if members else [])]

    def _named(self, alternative: Alternative, depth: int) -> str:
        """A rule for a member whose name the schema describes; "" if the schema says more."""
        [part] = alternative.parts
        patterns = as_schema(part.get("patternProperties"))
        unenforced = [name for name in alternative.unenforced_for_objects if name != "patternProperties"]
        if unenforced or alternative.properties or len(patterns) > 1 or (patterns and "propertyNames" in part):
            return ""
        for pattern in patterns:
            names, values = [StringConstraints(None, (pattern,), (), 0, None)], patterns[pattern]
        if not patterns:
            names = [each.strings for each in self.alternatives(alternative.names) if "string" in each.types]
            values = alternative.others
        keys = [key for each in names for key in self._keys_of(each)]
        value = self._value(values, depth)
        if not keys or not value:
            return ""
        return self._grammar.new_rule(f"{delimited(self._grammar, self._owner, keys, self._syntax.after_key)} {value}")

    def _keys_of(self, names: StringConstraints) -> list[Terminal]:
        """Terminals for these names: bare if possible, and in JSON's quotes."""
        found = [string_terminal(self._grammar, each, self._owner, ()) for each in (_bare(names), names)]
        bare, quoted = (each and each.within(f"{body} & ", "") for each, body in zip(found, _KEYS, strict=True))
        return [*([bare] if bare else []), *([quoted.within('/"/ ', ' /"/')] if quoted else [])]

    def _arrays(self, alternative: Alternative, depth: int) -> list[str]:
        """The ways to write an array."""
        rows = [part for part in alternative.parts if "prefixItems" in part or isinstance(part.get("items"), list)]
        if not rows:
            return [self._array(alternative, depth)]
        in_json = self._json({"allOf": [*alternative.parts, {"type": "array"}]})
        row = self._row(alternative, depth) if len(alternative.parts) == 1 else ""
        return [in_json, *([f"{self._grammar.text('[')} {row} {self._grammar.text(']')}"] if row else [])]

    def _row(self, alternative: Alternative, depth: int) -> str:
        """A rule for items of which the first have their own schemas; "" if no value satisfies one of these."""
        grammar, [part] = self._grammar, alternative.parts
        first, rest = part.get("prefixItems", []), part.get("items", True)
        if isinstance(rest, list):
            first, rest = rest, part.get("additionalItems", True)
        least, most = alternative.bounds("Items")
        values = [self._value(each, depth) for each in (first if isinstance(first, list) else [])[:most]]
        if not values or not all(values):
            return ""
        between, num_first = grammar.text(self._syntax.between), len(values)
        item = self._value(rest, depth)
        if not item and least > num_first:
            return ""
        bounds = (max(0, least - num_first), None if most is None else most - num_first)
        behind = repeated(grammar.new_rule(f"{between} {item}"), "", bounds) if item else '""'
        for i in reversed(range(num_first)):
            body = f"{between if i else ''} {values[i]} {behind}"
            behind = grammar.new_rule(body if i < least else f"({body})?")
        return behind

    def _array(self, alternative: Alternative, depth: int) -> str:
        grammar, bounds = self._grammar, alternative.bounds("Items")
        item = self._value(alternative.items, depth)
        items = repeated(item, grammar.text(self._syntax.between), bounds if item else (bounds[0], 0))
        return f"{grammar.text('[')} {items} {grammar.text(']')}"

    def _json(self, schema: object) -> str:
        return self._grammar.json(replace(self._owner, schema=self._document.standalone(schema)))


def _key_text(name: str) -> str:
    return name if _is_bare(name) else json.dumps(name, ensure_ascii=False)


def _bare(names: StringConstraints) -> StringConstraints:
    """The listed names that need no quotes; all names if none are listed."""
    return names if names.values is None else replace(names, values=tuple(filter(_is_bare, names.values)))
