"""Tools as the chat template reads them. What the template requires is added, for the template only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from llamafast.chat.prompt.turns import TrustedText, with_trusted_names
from llamafast.json_schema.subschemas import DEFINITIONS, PARTS, ROWS, TABLES, map_subschemas

Document = Mapping[str, object]

_NO_ARGUMENTS: Document = MappingProxyType({"type": "object", "properties": {}})
_WORDS = {
    word: TrustedText(word)
    for word in (
        *TABLES, *DEFINITIONS, *ROWS, *PARTS,
        "type", "description", "enum", "const", "required", "default", "format", "pattern", "title",
        "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "uniqueItems", "$ref",
        "nullable", "examples",
        "object", "array", "string", "number", "integer", "boolean", "null",
    )
}  # fmt: skip


def _function(**fields: object) -> Document:
    return {"type": "function", "function": {"name": "probe_name", **fields}}


def _with(schema: object) -> Document:
    return _function(description="A probe.", parameters={"type": "object", "properties": {"probe_key": schema}})


# Tools that lack something or have a rare form, by a name for that.
_GAPS: Mapping[str, Document] = MappingProxyType(
    {
        "description": _function(parameters=dict(_NO_ARGUMENTS)),
        "parameters": _function(description="A probe."),
        "properties": _function(description="A probe.", parameters={"type": "object"}),
        "descriptions": _with({"type": "string"}),
        "one type": _with({"type": ["string", "null"], "description": "A probe."}),
        "additional": _with({"type": "object", "properties": {}, "description": "A probe."}),
        "objects": _with(True),
        "items": _with({"type": "array", "items": True, "description": "A probe."}),
    }
)


def find_gaps(takes: Callable[[Document], bool]) -> frozenset[str]:
    """The names of what a template requires in a tool. takes: whether it accepts a tool. Empty if it accepts no tool at
    all.
    """
    if not takes(_with({"type": "string", "description": "A probe.", "additionalProperties": {}})):
        return frozenset()
    return frozenset(name for name, document in _GAPS.items() if not takes(document))


def filled_tools(tools: Sequence[Document], gaps: frozenset[str]) -> list[dict[str, object]]:
    """Copies of tools in OpenAI's format, without nulls, and with what the template requires."""
    return [_filled(tool, gaps) for tool in tools]


def with_trusted_keywords(tool: object) -> object:
    """A copy of a tool in which JSON Schema's keywords and types are trusted texts."""
    if not isinstance(tool, Mapping):
        return tool
    function = tool.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("parameters"), Mapping):
        return with_trusted_names(tool)
    parameters = _own_words(function["parameters"])
    return with_trusted_names({**tool, "function": with_trusted_names({**function, "parameters": parameters})})


def _own_words(schema: object) -> object:
    if not isinstance(schema, Mapping):
        return schema
    parts = map_subschemas(schema, _own_words)
    types = schema.get("type")
    if isinstance(types, list):
        parts["type"] = [_WORDS.get(name, name) for name in types]
    elif isinstance(types, str):
        parts["type"] = _WORDS.get(types, types)
    return {_WORDS.get(name, name): value for name, value in parts.items()}


def _filled(tool: Document, gaps: frozenset[str]) -> dict[str, object]:
    function = tool.get("function")
    if not isinstance(function, Mapping):
        return with_trusted_names(tool)
    filled = {name: value for name, value in function.items() if value is not None}
    if "description" in gaps:
        filled.setdefault("description", "")
    if "parameters" in gaps:
        filled.setdefault("parameters", dict(_NO_ARGUMENTS))
    parameters = filled.get("parameters")
    if isinstance(parameters, Mapping):
        if "properties" in gaps:
            parameters = {**parameters, "properties": parameters.get("properties") or {}}
        if not gaps <= {"description", "parameters", "properties"}:
            parameters = map_subschemas(parameters, lambda part: _schema_filled(part, gaps))
        filled["parameters"] = parameters
    return with_trusted_names({**tool, "function": with_trusted_names(filled)})


def _schema_filled(schema: object, gaps: frozenset[str]) -> object:
    """A schema below the parameters, and all schemas inside it."""
    if isinstance(schema, bool) and gaps & {"objects", "items"}:
        schema = {}
    if not isinstance(schema, Mapping):
        return schema
    filled = {name: value for name, value in schema.items() if value is not None or name != "description"}
    types = filled.get("type")
    if "one type" in gaps and isinstance(types, list):
        filled["type"] = next((name for name in types if name != "null"), "null")
    if "descriptions" in gaps:
        filled.setdefault("description", "")
    filled = map_subschemas(filled, lambda part: _schema_filled(part, gaps))
    if "additional" in gaps and not isinstance(filled.get("additionalProperties"), Mapping):
        filled["additionalProperties"] = {}
    return filled
