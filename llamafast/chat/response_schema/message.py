"""Applies a response schema to a whole answer, exactly. The result is the events of a message."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llamafast.chat.events import CallArguments, CallEnd, CallStart, Content, Event, Reasoning
from llamafast.chat.reading.argument_writer import ArgumentWriter
from llamafast.chat.response_schema.schema_nodes import ABSENT, PARSERS, SchemaNode, captured_value
from llamafast.chat.strict_json import loads
from llamafast.chat.tools import Tool

REASONING_NAMES = ("reasoning_content", "reasoning", "thinking")


@dataclass(frozen=True, slots=True)
class FoundCall:
    """A call that a schema found.

    name: the name of the function. Empty: the text proved not to be a call.
    arguments: JSON text.
    start, end: the range of the call in the text.
    """

    name: str
    arguments: str
    start: int = 0
    end: int = 0


def message_events(root: SchemaNode, text: str, num_prompt: int, tools: Sequence[Tool] | None) -> list[Event]:
    """The events of a text. Its first num_prompt characters are the end of the prompt and yield no events.

    The whole text is content if the schema finds nothing in it. The text after the last call is content, and so is text
    that only looks like a call.
    """
    message = root.value(text)
    fields = message if isinstance(message, dict) else {}
    events: list[Event] = []
    reasoning_end = -1
    reasoning = _reasoning(fields)
    if reasoning is not None:
        start, reasoning_end = _span(root, *reasoning, text)
        thought = reasoning[1][min(max(num_prompt - start, 0), len(reasoning[1])) if start >= 0 else 0 :].strip()
        events += [Reasoning(thought)] if thought else []
    calls = _calls(root, fields, text, tools)
    num_read = max([num_prompt, reasoning_end, *(call.end for call in calls)])
    has_content = False
    if isinstance(content := fields.get("content"), str) and content.strip():
        start, end = _span(root, "content", content, text)
        if 0 <= reasoning_end <= start:
            start += len(content) - len(content.lstrip())
        if any(call.start >= end for call in calls):
            end = start + len(text[start:end].rstrip())
        if start < 0:  # a parser has changed it, so it is not a piece of the text
            has_content = True
            events.append(Content(content, 0))
        else:
            has_content = end > num_prompt
            events += _content(text, max(start, num_prompt), end, num_prompt)
    for call in calls:
        if not call.name:
            events += _content(text, *_trimmed(text, call.start, call.end), num_prompt)
    if calls or not (has_content or reasoning is not None):
        events += _content(text, *_trimmed(text, num_read, len(text)), num_prompt)
    for index, call in enumerate(call for call in calls if call.name):
        events += [CallStart(index, call.name), CallArguments(index, call.arguments), CallEnd(index, True)]
    return events


def item_call(items: SchemaNode, item: str, tools: Sequence[Tool]) -> FoundCall | None:
    """The call in one item of tool_calls; None if it is not a call."""
    return _call(items.value(item), items, item, tools)


def arguments_node(items: SchemaNode) -> SchemaNode | None:
    """The schema node of a call's arguments, inside `function` or next to the name."""
    return items.properties.get("function", items).properties.get("arguments")


def _calls(root: SchemaNode, fields: Mapping[str, object], text: str, tools: Sequence[Tool] | None) -> list[FoundCall]:
    """The calls. Those that proved not to be calls, and those of a request without tools, have no name."""
    node = root.properties.get("tool_calls")
    if node is not None and node.iterator is not None and node.regex is None and node.items is not None:
        calls: list[FoundCall] = []
        for match in node.iterator.finditer(text):
            given = captured_value(match)
            call = None if tools is None else _call(node.items.value(given), node.items, given, tools)
            call = call or FoundCall("", "")
            calls.append(FoundCall(call.name, call.arguments, *match.span()))
        return calls
    values = fields.get("tool_calls") if tools is not None else None
    values = values if isinstance(values, list) else []
    found = (_call(value, node.items if node else None, value, tools or ()) for value in values)
    return [FoundCall(call.name, call.arguments, len(text), len(text)) for call in found if call is not None]


def _call(value: object, items: SchemaNode | None, given: object, tools: Sequence[Tool]) -> FoundCall | None:
    node = arguments_node(items) if items is not None else None
    if items is not None and not isinstance(value, dict) and node is not None and node.key_value is not None:
        value = _without_arguments(items, given)
    function = value.get("function", value) if isinstance(value, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not name:
        return None
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _parsed(arguments, name, tools)
    if not isinstance(arguments, dict):
        return None
    if node is None or not _is_bare(given, items, node):
        return FoundCall(name, json.dumps(arguments, ensure_ascii=False))
    writer = ArgumentWriter(name, tools)
    pieces = [
        writer.begin(key) + writer.add(value if isinstance(value, str) else json.dumps(value)) + writer.end()
        for key, value in arguments.items()
    ]
    return FoundCall(name, "".join(pieces) + writer.close())


def _is_bare(given: object, items: SchemaNode | None, node: SchemaNode) -> bool:
    """Whether the arguments of a call are bare text. The tool's schema then defines their types."""
    function = items.properties.get("function") if items is not None else None
    parsers = [each.parser for each in (items, function, node) if each is not None]
    return isinstance(given, str) and not any(parsers)


def _without_arguments(items: SchemaNode, given: object) -> object:
    """A call of a function without parameters, in which the regex of the arguments matches nothing."""
    function = items.properties.get("function", items)
    name = function.properties["name"].value(given) if "name" in function.properties else ABSENT
    node = function.properties["arguments"].key_value
    has_pairs = node is not None and isinstance(given, str) and node.search(given) is not None
    return {"name": name} if isinstance(name, str) and not has_pairs else ABSENT


def _parsed(arguments: str, name: str, tools: Sequence[Tool]) -> object:
    """The value of arguments that a schema leaves as text."""
    for parse in (_json, PARSERS["gemma4-tool-call"]):
        value = parse(arguments)
        if isinstance(value, dict):
            return value
    required = next((tool.members.required for tool in tools if tool.name == name), frozenset[str]())
    return {next(iter(required)): arguments} if len(required) == 1 else ABSENT


def _json(text: str) -> object:
    try:
        return loads(text) if text.strip() else {}
    except ValueError:
        return ABSENT


def _reasoning(fields: Mapping[str, object]) -> tuple[str, str] | None:
    return next(((name, value) for name in REASONING_NAMES if isinstance(value := fields.get(name), str)), None)


def _content(text: str, start: int, end: int, num_prompt: int) -> list[Event]:
    return [Content(text[start:end], start - num_prompt)] if start < end else []


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    stripped = text[start:end].strip()
    start = text.find(stripped, start)
    return start, start + len(stripped)


def _span(root: SchemaNode, name: str, value: str, text: str) -> tuple[int, int]:
    """The range of a field in the text. (-1, -1): the text does not contain its value."""
    node = root.properties.get(name)
    if node is not None and node.regex is not None and root.regex is None and root.parser is None:
        match = node.regex.search(text)
        if match is not None and not match.re.groupindex:
            return match.span(1 if match.re.groups else 0)
    start = text.find(value)
    return (start, start + len(value)) if start >= 0 else (-1, -1)
