"""Reads an output with calls, and names what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import jsonschema

from llamafast.chat.events import ParsedMessage
from llamafast.chat.format import ChatFormat
from llamafast.chat.tools import Tool
from tests.grammars.walks import TOOL


def read(chat_format: ChatFormat, prompt: str, tools: Sequence[Tool], text: str) -> ParsedMessage:
    """The message that the parser reads from an output, one character at a time."""
    return ParsedMessage.of(chat_format.parser(prompt, tools).read(text))


def faults(message: ParsedMessage) -> list[str]:
    """What is wrong with the calls of a message."""
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    found = []
    for call in message.calls:
        if not call.is_complete:
            found.append(f"{call.name} is incomplete: {call.arguments}")
            continue
        validator = jsonschema.Draft202012Validator(TOOL[call.name].parameters, format_checker=checker)
        found += [f"{call.name}: {error.message}" for error in validator.iter_errors(json.loads(call.arguments))]
    return found
