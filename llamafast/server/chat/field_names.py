"""Maps the names of fields in errors to the names that the client's API uses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from llamafast.errors import InvalidRequestError

_ENTRY = re.compile(r"(messages|tools)\[([0-9]+)\](?:\.function)?(.*)", re.DOTALL)
_NAME = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class FieldNames:
    """The names of fields in the client's API, for errors. The default: the names of OpenAI's chat API.

    fields: the client's names of fields, by their names in Request, SamplingParams or ChatRequest (`prompt`,
    `max_tokens`, `tool_choice`, `thinking_budget`). A field that is not listed has the same name.
    messages: the path of the client's field (`input[2]`, `system`) for each message of the ChatRequest. Empty:
    `messages[i]`, where i counts from 0.
    functions: the path of the client's object with name and parameters (`tools[0]`) for each tool. Empty:
    `tools[i].function`.
    """

    fields: Mapping[str, str] = field(default_factory=dict)
    messages: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()

    def of(self, param: str) -> str:
        """The client's path for a path in the ChatRequest."""
        entry, start = _ENTRY.fullmatch(param), ""
        if entry is not None:
            paths = self.messages if entry[1] == "messages" else self.functions
            index = int(entry[2])
            if index < len(paths):
                start, param = paths[index], entry[3]
        return start + _NAME.sub(lambda name: self.fields.get(name[0], name[0]), param)

    @contextmanager
    def in_errors(self) -> Iterator[None]:
        """In this context, an InvalidRequestError gets the client's field name in its param and its message."""
        try:
            yield
        except InvalidRequestError as exc:
            param = None if exc.param is None else self.of(exc.param)
            if exc.param is None or param is None or param == exc.param:
                raise
            raise type(exc)(exc.message.replace(exc.param, param), param=param, code=exc.code) from exc
