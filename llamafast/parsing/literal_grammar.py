"""The grammar of arguments written like a program's: key, value, key, value; strings in quotes of the format's own."""

from __future__ import annotations

import json
import re
from dataclasses import replace

from llamafast.errors import GrammarError
from llamafast.json_schema import types
from llamafast.json_schema.alternatives import Alternative
from llamafast.json_schema.lark_regex import escaped, slashed
from llamafast.parsing.call_syntax import LiteralArguments
from llamafast.parsing.output_grammar import EmbeddedSchema, OutputGrammar, repeated
from llamafast.parsing.value_forms import ArgumentForms, Terminal, ended, hold, string_terminal, written

_is_bare = re.compile(r"[\w.-]+").fullmatch
_KEY = "/[a-zA-Z_][a-zA-Z0-9_]{0,63}/"
_QUOTED_KEY = r'/"[^"\\<\x00-\x1f]{1,255}"/'
_BARE_KEY = "/[0-9A-Za-z_.-]{1,255}/"
_NONE = "None"  # null, as templates write it
_MAX_DEPTH = 6  # below it values are JSON, which the parsers of such formats read too
_MAX_RULES = 20_000  # of one grammar
_JSON_ALONE = frozenset({"prefixItems", "contains", "uniqueItems", "patternProperties", "propertyNames"})


def literal_arguments(grammar: OutputGrammar, syntax: LiteralArguments, schema: EmbeddedSchema) -> str:
    """The elements for the arguments of this schema, in the order in which it declares them."""
    return _Literal(grammar, syntax, schema).arguments()


class _Literal(ArgumentForms):
    """The arguments of one tool."""

    def __init__(self, grammar: OutputGrammar, syntax: LiteralArguments, owner: EmbeddedSchema) -> None:
        super().__init__(grammar, owner)
        self._syntax = syntax

    def objects(self, found: list[Alternative]) -> list[str]:
        """The elements for the members of each object."""
        return [self._object(each, 0) for each in found]

    def _object(self, alternative: Alternative, depth: int) -> str:
        """A rule for what stands between an object's braces."""
        grammar, syntax = self._grammar, self._syntax
        hold(grammar, self._owner, alternative.object_unheld)
        between = grammar.text(syntax.between)
        if not alternative.properties:
            if alternative.others is False:
                return grammar.new_rule('""')
            entry = f"{self._any_key(alternative)} {self._value(alternative.others, depth)}"
            return grammar.new_rule(repeated(grammar.new_rule(entry), between, alternative.bounds("Properties")))
        first, later = '""', '""'  # rules for the members from one on, where none and where one stands before
        for each in reversed(alternative.properties):
            key = each.name if _is_bare(each.name) else json.dumps(each.name, ensure_ascii=False)
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
        return ended(self._grammar, self._owner, keys, self._syntax.after_key)

    def _value(self, schema: object, depth: int) -> str:
        key = (self._syntax, json.dumps(schema), self._owner.param, self._owner.strict, depth)
        return self._grammar.once(key, lambda: self._new_value(schema, depth))

    def _new_value(self, schema: object, depth: int) -> str:
        """A rule for a value; "" where none satisfies the schema."""
        grammar = self._grammar
        if len(grammar.lines) > _MAX_RULES:
            raise GrammarError("it is too large")
        found = self.alternatives(schema)
        is_json = not self._syntax.quote or depth > _MAX_DEPTH
        if is_json or any(_JSON_ALONE & part.keys() for each in found for part in each.parts):
            return self._json(schema) if schema is not False else ""
        forms = [form for each in found for form in self._forms(each, depth)]
        return grammar.new_rule(" | ".join(dict.fromkeys(forms))) if forms else ""

    def _forms(self, alternative: Alternative, depth: int) -> list[str]:
        """The ways to write the values of an alternative."""
        grammar = self._grammar
        hold(grammar, self._owner, alternative.unheld)
        forms = []
        if "null" in alternative.types:
            forms.append(grammar.text(_NONE))
        if "string" in alternative.types:
            forms += self._strings(alternative)
        if alternative.values is not None:
            return [*forms, *(grammar.text("", text) for text in written(alternative.values))]
        scalars = alternative.types & types.SCALARS
        if scalars:
            forms.append(self._json({"allOf": [*alternative.parts, {"type": types.names(scalars)}]}))
        if "array" in alternative.types:
            forms.append(self._array(alternative, depth + 1))
        if "object" in alternative.types:
            forms.append(self._braces(alternative, depth + 1))
        return forms

    def _strings(self, alternative: Alternative) -> list[str]:
        """Strings in the format's quotes; what holds those, in JSON's."""
        grammar, quote, strings = self._grammar, self._syntax.quote, alternative.strings
        if strings.is_free:
            return [f"{grammar.text(quote)} {grammar.until(quote)}"]
        quoted = [value for value in strings.values or () if quote in value]
        if quoted:
            strings = replace(strings, values=tuple(value for value in strings.values or () if quote not in value))
        terminal = string_terminal(grammar, strings, self._owner, (quote,))
        forms = [] if terminal is None else [f"{grammar.text(quote)} {ended(grammar, self._owner, [terminal], quote)}"]
        in_json = slashed("|".join(escaped(json.dumps(value, ensure_ascii=False)) for value in quoted))
        return [*forms, *([grammar.terminal(in_json)] if quoted else [])]

    def _braces(self, alternative: Alternative, depth: int) -> str:
        grammar = self._grammar
        if alternative.object_unheld:  # more than its properties can hold it to
            return self._json({"allOf": [*alternative.parts, {"type": "object"}]})
        return f"{grammar.text('{')} {self._object(alternative, depth)} {grammar.text('}')}"

    def _array(self, alternative: Alternative, depth: int) -> str:
        grammar, bounds = self._grammar, alternative.bounds("Items")
        item = self._value(alternative.items, depth)
        items = repeated(item, grammar.text(self._syntax.between), bounds if item else (bounds[0], 0))
        return f"{grammar.text('[')} {items} {grammar.text(']')}"

    def _json(self, schema: object) -> str:
        return self._grammar.json(replace(self._owner, schema=self._document.standalone(schema)))
