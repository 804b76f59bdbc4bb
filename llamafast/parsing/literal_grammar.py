"""The grammar of arguments written like a program's: key, value, key, value; strings in quotes of the format's own."""

from __future__ import annotations

import json
import re
from dataclasses import replace

from llamafast.errors import GrammarError
from llamafast.parsing import schema_parts
from llamafast.parsing.call_syntax import LiteralArguments
from llamafast.parsing.output_grammar import EmbeddedSchema, OutputGrammar, repeated
from llamafast.parsing.schema_parts import Schema, as_schema
from llamafast.parsing.text_regex import key_regex, looks_around, string_regex

_is_bare = re.compile(r"[\w.-]+").fullmatch
_MAX_DEPTH = 6  # below it values are JSON, which the parsers of such formats read too
_MAX_RULES = 20_000  # of one grammar
_JSON_ALONE = frozenset({"prefixItems", "contains", "uniqueItems", "patternProperties", "propertyNames"})
_SCALARS = frozenset({"number", "integer", "boolean", "null"})


def literal_arguments(grammar: OutputGrammar, syntax: LiteralArguments, schema: EmbeddedSchema) -> str:
    """The elements for the arguments of this schema, in the order in which it declares them."""
    root = as_schema(schema.schema)
    try:
        bodies = [_object(grammar, syntax, branch, schema, 0) for branch in schema_parts.branches(root, root)]
    except ValueError as error:
        raise GrammarError(f"it cannot be enforced in this model's format: {error}", param=schema.param) from None
    return bodies[0] if len(bodies) == 1 else f"({' | '.join(bodies)})"


def _object(grammar: OutputGrammar, syntax: LiteralArguments, schema: Schema, owner: EmbeddedSchema, depth: int) -> str:
    """A rule for what stands between an object's braces."""
    members = schema_parts.members(schema, owner.strict)
    grammar.drop(owner, schema_parts.unheld(schema))
    between = grammar.text(syntax.between)
    if not members:
        extra = schema.get("additionalProperties", True)
        if extra is False:
            return grammar.new_rule('""')
        key = grammar.terminal(key_regex(as_schema(schema.get("propertyNames"))))
        any_value = _value(grammar, syntax, as_schema(extra), owner, depth)
        entry = grammar.new_rule(f"{key} {grammar.text(syntax.after_key)} {any_value}")
        return grammar.new_rule(repeated(entry, between, schema_parts.bounds(schema, "Properties")))
    first, later = '""', '""'  # rules for the members from one on, where none and where one stands before
    for name, value, is_required in reversed(members):
        key = name if _is_bare(name) else json.dumps(name, ensure_ascii=False)
        body = f"{grammar.text('', key, syntax.after_key)} {_value(grammar, syntax, value, owner, depth)}"
        alone = f"{body} {later}"
        first = grammar.new_rule(alone if is_required else f"{alone} | {first}")
        later = grammar.new_rule(f"{between} {body} {later}" if is_required else f"({between} {body})? {later}")
    return first


def _value(grammar: OutputGrammar, syntax: LiteralArguments, schema: Schema, owner: EmbeddedSchema, depth: int) -> str:
    key = (syntax, json.dumps(schema), owner.param, owner.strict, depth)
    return grammar.once(key, lambda: _new_value(grammar, syntax, schema, owner, depth))


def _new_value(
    grammar: OutputGrammar, syntax: LiteralArguments, schema: Schema, owner: EmbeddedSchema, depth: int
) -> str:
    if len(grammar.lines) > _MAX_RULES:
        raise ValueError("it is too large")
    root = as_schema(owner.schema)
    found = schema_parts.branches(schema, root)
    if not syntax.quote or depth > _MAX_DEPTH or any(_JSON_ALONE & branch.keys() for branch in found):
        return grammar.json(replace(owner, schema=schema_parts.standalone(schema, root)))
    forms = [form for branch in found for form in _forms(grammar, syntax, branch, owner, depth)]
    return grammar.new_rule(" | ".join(forms))


def _forms(
    grammar: OutputGrammar, syntax: LiteralArguments, schema: Schema, owner: EmbeddedSchema, depth: int
) -> list[str]:
    """The ways to write the values that a schema without combinations allows."""
    quote, types, allowed = syntax.quote, schema_parts.types(schema), schema_parts.values(schema)
    if allowed is not None:
        return [
            grammar.text(quote, value, quote) if isinstance(value, str) else grammar.text("", json.dumps(value))
            for value in allowed
        ]
    forms = []
    if "string" in types:
        regex = string_regex(schema, quote, strict=owner.strict)
        grammar.drop(owner, ["pattern"] if looks_around(schema) else [])
        inside = grammar.until(quote) if regex is None else f"{grammar.terminal(regex)} {grammar.text(quote)}"
        forms.append(f"{grammar.text(quote)} {inside}")
    scalars = sorted(types & _SCALARS)
    if scalars:
        part = schema_parts.standalone({**schema, "type": scalars}, as_schema(owner.schema))
        forms.append(grammar.json(replace(owner, schema=part)))
    if "array" in types:
        forms.append(_array(grammar, syntax, schema, owner, depth + 1))
    if "object" in types:
        forms.append(_braces(grammar, syntax, schema, owner, depth + 1))
    return forms


def _braces(grammar: OutputGrammar, syntax: LiteralArguments, schema: Schema, owner: EmbeddedSchema, depth: int) -> str:
    try:
        body = _object(grammar, syntax, schema, replace(owner, strict=True), depth)
    except ValueError:  # more than its properties can hold it to
        part = schema_parts.standalone({**schema, "type": "object"}, as_schema(owner.schema))
        return grammar.json(replace(owner, schema=part))
    return f"{grammar.text('{')} {body} {grammar.text('}')}"


def _array(grammar: OutputGrammar, syntax: LiteralArguments, schema: Schema, owner: EmbeddedSchema, depth: int) -> str:
    item = _value(grammar, syntax, as_schema(schema.get("items")), owner, depth)
    items = repeated(item, grammar.text(syntax.between), schema_parts.bounds(schema, "Items"))
    return f"{grammar.text('[')} {items} {grammar.text(']')}"
