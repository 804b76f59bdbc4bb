"""The grammar of arguments between tags: strings as they are up to the closing tag, all else in JSON."""

from __future__ import annotations

import json
from dataclasses import replace

from llamafast.errors import GrammarError
from llamafast.parsing import schema_parts
from llamafast.parsing.call_syntax import TaggedArguments
from llamafast.parsing.guarded_schema import guarded
from llamafast.parsing.output_grammar import EmbeddedSchema, OutputGrammar, repeated
from llamafast.parsing.schema_parts import Schema, as_schema
from llamafast.parsing.text_regex import key_regex, looks_around, string_regex


def tagged_arguments(grammar: OutputGrammar, tags: TaggedArguments, schema: EmbeddedSchema) -> str:
    """The elements for the arguments of this schema, in the order in which it declares them.

    Optional ones may be left out; others than those declared come only where none is declared.
    """
    root = as_schema(schema.schema)
    try:
        alternatives = [_object(grammar, tags, branch, schema) for branch in schema_parts.branches(root, root)]
    except ValueError as error:
        raise GrammarError(f"it cannot be enforced in this model's format: {error}", param=schema.param) from None
    return alternatives[0] if len(alternatives) == 1 else f"({' | '.join(alternatives)})"


def _object(grammar: OutputGrammar, tags: TaggedArguments, schema: Schema, owner: EmbeddedSchema) -> str:
    members = schema_parts.members(schema, owner.strict)
    grammar.drop(owner, schema_parts.unheld(schema))
    if not members:
        extra = schema.get("additionalProperties", True)
        if extra is False:
            return ""
        entry = _any_argument(grammar, tags, schema, as_schema(extra), owner)
        return repeated(entry, "", schema_parts.bounds(schema, "Properties"))
    elements = []
    for name, value, is_required in members:
        body = _value(grammar, tags, name, value, owner)
        elements.append(body if is_required else f"({body})?")
    return grammar.new_rule(" ".join(elements))


def _any_argument(
    grammar: OutputGrammar, tags: TaggedArguments, schema: Schema, value: Schema, owner: EmbeddedSchema
) -> str:
    """A rule for an argument whose name is the model's choice."""
    key = grammar.terminal(key_regex(as_schema(schema.get("propertyNames"))))
    body = f"{key} {_value(grammar, tags, None, value, owner)}"
    return grammar.new_rule(f"{grammar.text(tags.before_key)} {body}")


def _value(
    grammar: OutputGrammar, tags: TaggedArguments, name: str | None, schema: Schema, owner: EmbeddedSchema
) -> str:
    """The elements of one argument; name None: its key has been matched."""
    root = as_schema(owner.schema)
    before = () if name is None else (tags.before_key, name)
    after_other = tags.after_key if tags.after_other_key is None else tags.after_other_key
    is_apart = after_other != tags.after_key
    found = schema_parts.branches(schema, root)
    strings = [form for branch in found for form in _strings(grammar, tags, branch, owner)]
    if not strings:
        others = [_json(grammar, tags, schema, owner)]
    elif is_apart or grammar.until(tags.close) not in " ".join(strings):
        others = [form for branch in found for form in _others(grammar, tags, branch, owner)]
    else:
        others = []  # free text may be all that
    end = grammar.text(tags.after_value)
    forms = [(tags.after_key, strings), (after_other, [f"{other} {end}" for other in others])]
    if not is_apart:
        forms = [(tags.after_key, [form for _, several in forms for form in several])]
    bodies = [f"{grammar.text(*before, key)} ({' | '.join(several)})" for key, several in forms if several]
    return f"({' | '.join(bodies)})"


def _strings(grammar: OutputGrammar, tags: TaggedArguments, schema: Schema, owner: EmbeddedSchema) -> list[str]:
    """The forms of the string values that a schema without combinations allows, each with what ends it."""
    if "string" not in schema_parts.types(schema):
        return []
    end, allowed = grammar.text(tags.after_value), schema_parts.values(schema)
    if allowed is not None:
        return [f"{grammar.text('', value)} {end}" for value in allowed if isinstance(value, str)]
    regex = string_regex(schema, tags.close, strict=owner.strict)
    grammar.drop(owner, ["pattern"] if looks_around(schema) else [])
    if regex is not None:
        return [f"{grammar.terminal(regex)} {end}"]
    rest = tags.after_value[tags.after_value.index(tags.close) + len(tags.close) :]
    return [f"{grammar.until(tags.close)} {grammar.text(rest)}"]


def _others(grammar: OutputGrammar, tags: TaggedArguments, schema: Schema, owner: EmbeddedSchema) -> list[str]:
    """The forms of the values that are no strings."""
    allowed = schema_parts.values(schema)
    if allowed is not None:
        return [grammar.text("", json.dumps(value)) for value in allowed if not isinstance(value, str)]
    names = sorted(schema_parts.types(schema) - {"string"})
    return [_json(grammar, tags, {**schema, "type": names}, owner)] if names else []


def _json(grammar: OutputGrammar, tags: TaggedArguments, schema: Schema, owner: EmbeddedSchema) -> str:
    part = schema_parts.standalone(schema, as_schema(owner.schema))
    return grammar.json(replace(owner, schema=guarded(part, tags.close)))
