"""The items of a Responses request: as the messages of a chat, and as they are stored and shown."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from llamafast.errors import InvalidRequestError
from llamafast.responses.tools import CUSTOM_PARAMETER, ToolTable

Item = dict[str, object]

_ROLES = frozenset({"user", "assistant", "system", "developer", "tool", "function"})
_TEXT_PARTS = frozenset({"input_text", "output_text", "text", "reasoning_text", "summary_text"})

# Calls of OpenAI's own tools that a client carries out: the field that holds their arguments.
_CLIENT_CALLS: Mapping[str, str] = {
    "local_shell_call": "action",
    "shell_call": "action",
    "apply_patch_call": "operation",
    "tool_search_call": "arguments",
}
_CLIENT_OUTPUTS = frozenset({f"{name}_output" for name in _CLIENT_CALLS} - {"tool_search_call_output"})

_WITH_STATUS = frozenset(
    {"message", "function_call", "custom_tool_call", "function_call_output", "custom_tool_call_output"}
)

_PREFIXES: Mapping[str, str] = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "custom_tool_call": "ctc",
    "function_call_output": "fco",
    "custom_tool_call_output": "ctco",
    "compaction": "cmp",
}


@dataclass(slots=True)
class Conversation:
    """A list of items as a chat.

    messages: as POST /v1/chat/completions takes them; answers that came as several items are several messages.
    places: the item that each message came from, as `input[3]`. warnings: what was left out, one text each.
    """

    messages: list[dict[str, object]] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def new_id(kind: str, digits: str = "") -> str:
    """An id for an item of this type. digits: what it has after its prefix; empty: random ones."""
    return f"{_PREFIXES.get(kind, 'item')}_{digits or uuid.uuid4().hex}"


def input_items(given: object, path: str = "input") -> list[Item]:
    """The items of `input`: a text is one message. Ids, types and statuses that the client left out are filled in.

    Raises InvalidRequestError, naming the field.
    """
    if given is None:
        return []
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise InvalidRequestError(f"{path}: must be a string or a list of items", param=path)
    return [_complete(item, f"{path}[{i}]") for i, item in enumerate(given)]


def add_messages(
    conversation: Conversation,
    items: Sequence[Item],
    table: ToolTable,
    *,
    path: str,
    find: Callable[[str], Item | None],
    unseal: Callable[[str], str | None],
) -> None:
    """Append what these items say. OUT table: the tools that they bring.

    path: where the items stand, for errors: `input`. find: an item by its id, for references. unseal: the reasoning in
    an `encrypted_content`; None: it is not ours. Raises InvalidRequestError, naming the field.
    """
    reader = _Reader(conversation, table, find, unseal)
    for i, item in enumerate(items):
        reader.read(item, f"{path}[{i}]")


def _complete(item: object, path: str) -> Item:
    if not isinstance(item, dict):
        raise InvalidRequestError(f"{path}: must be an object", param=path)
    kind = item.get("type")
    if kind is None:
        kind = "message" if "role" in item else "item_reference"
    if not isinstance(kind, str):
        raise InvalidRequestError(f"{path}.type: must be a string", param=f"{path}.type")
    whole: Item = {
        "type": kind,
        **{name: value for name, value in item.items() if value is not None and name != "type"},
    }
    if kind == "item_reference":
        return whole
    if not isinstance(whole.get("id", ""), str):
        raise InvalidRequestError(f"{path}.id: must be a string", param=f"{path}.id")
    if not whole.get("id"):
        whole["id"] = new_id(kind)
    if kind in _WITH_STATUS:
        whole.setdefault("status", "completed")
    if kind == "message":
        role = whole.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise InvalidRequestError(f"{path}.role: must be one of {', '.join(sorted(_ROLES))}", param=f"{path}.role")
        if isinstance(whole.get("content"), str):
            text_type = "output_text" if role == "assistant" else "input_text"
            whole["content"] = [{"type": text_type, "text": whole["content"]}]
    elif kind == "reasoning":
        whole.setdefault("summary", [])
    return whole


class _Reader:
    def __init__(
        self,
        conversation: Conversation,
        table: ToolTable,
        find: Callable[[str], Item | None],
        unseal: Callable[[str], str | None],
    ) -> None:
        self._out = conversation
        self._table = table
        self._find = find
        self._unseal = unseal
        self._calls = {
            call.get("id")
            for message in conversation.messages
            for call in _list(message.get("tool_calls"))
            if isinstance(call, dict)
        }

    def read(self, item: Item, path: str) -> None:
        kind = str(item.get("type"))
        if kind == "item_reference":
            self._read_reference(item, path)
        elif kind == "message":
            self._say(path, str(item.get("role")), content=_parts(item.get("content"), f"{path}.content"))
        elif kind == "reasoning":
            self._read_reasoning(item, path)
        elif kind == "function_call":
            self._call(item, path, "function", _text(item, "name", path), _text(item, "arguments", path))
        elif kind == "custom_tool_call":
            arguments = orjson.dumps({CUSTOM_PARAMETER: _text(item, "input", path)}).decode()
            self._call(item, path, "custom", _text(item, "name", path), arguments)
        elif kind in _CLIENT_CALLS:
            given = item.get(_CLIENT_CALLS[kind], {})
            arguments = given if isinstance(given, str) else orjson.dumps(given).decode()
            self._call(item, path, "function", kind.removesuffix("_call"), arguments)
        elif kind in ("function_call_output", "custom_tool_call_output") or kind in _CLIENT_OUTPUTS:
            self._result(item, path, _parts(item.get("output"), f"{path}.output"))
        elif kind in ("additional_tools", "tool_search_output"):
            self._table.add(_list(item.get("tools")), f"{path}.tools")
            if kind == "tool_search_output":
                self._result(item, path, orjson.dumps(item.get("tools")).decode())
        else:
            self._out.warnings.append(f"{path}: items of type '{kind[:64]}' are not known here, so it was left out")

    def _read_reference(self, item: Item, path: str) -> None:
        wanted = item.get("id")
        found = self._find(wanted) if isinstance(wanted, str) else None
        if found is None or found.get("type") == "item_reference":
            raise InvalidRequestError(f"{path}.id: there is no item '{str(wanted)[:100]}'", param=f"{path}.id")
        self.read(found, path)

    def _read_reasoning(self, item: Item, path: str) -> None:
        text = _parts(item.get("content"), f"{path}.content")
        sealed = item.get("encrypted_content")
        if not text and isinstance(sealed, str):
            text = self._unseal(sealed) or ""
        if text:
            self._say(path, "assistant", content=None, reasoning_content=_joined(text))

    def _call(self, item: Item, path: str, kind: str, name: str, arguments: str) -> None:
        namespace = item.get("namespace")
        seen = self._table.model_name(kind, name, namespace if isinstance(namespace, str) else None)
        call_id = item.get("call_id", item.get("id"))
        if not isinstance(call_id, str):
            raise InvalidRequestError(f"{path}.call_id: must be a string", param=f"{path}.call_id")
        self._calls.add(call_id)
        function = {"name": seen or name, "arguments": arguments}
        self._say(path, "assistant", content=None,
                  tool_calls=[{"id": call_id, "type": "function", "function": function}])  # fmt: skip

    def _result(self, item: Item, path: str, content: object) -> None:
        call_id = item.get("call_id")
        if call_id is None:
            self._say(path, "tool", content=content)
            return
        if not isinstance(call_id, str):
            raise InvalidRequestError(f"{path}.call_id: must be a string", param=f"{path}.call_id")
        if call_id not in self._calls:
            raise InvalidRequestError(
                f"No tool call found for function call output with call_id {call_id[:100]}.",
                param=f"{path}.call_id",
            )
        self._say(path, "tool", content=content, tool_call_id=call_id)

    def _say(self, path: str, role: str, **fields: object) -> None:
        self._out.messages.append({"role": role, **fields})
        self._out.places.append(path)


def _parts(content: object, path: str) -> str | list[object]:
    """Content as chat takes it: a text, or parts where one of them is no text. Raises InvalidRequestError."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise InvalidRequestError(f"{path}: must be a string or a list of parts", param=path)
    parts = [_part(part, f"{path}[{i}]") for i, part in enumerate(content)]
    if all(part["type"] == "text" for part in parts) and len(parts) == 1:
        return str(parts[0]["text"])
    return list(parts)


def _part(part: object, path: str) -> dict[str, object]:
    if not isinstance(part, dict):
        raise InvalidRequestError(f"{path}: must be an object", param=path)
    kind = part.get("type")
    if not isinstance(kind, str):
        raise InvalidRequestError(f"{path}.type: must be a string", param=f"{path}.type")
    if kind in _TEXT_PARTS:
        return {"type": "text", "text": _text(part, "text", path)}
    if kind == "refusal":
        return {"type": "text", "text": _text(part, "refusal", path)}
    if kind == "input_image":
        if not isinstance(part.get("image_url"), str):
            raise InvalidRequestError(
                f"{path}.image_url: must be a URL; files by id are not stored here", param=f"{path}.image_url"
            )
        return {"type": "image_url", "image_url": {"url": part["image_url"], "detail": part.get("detail", "auto")}}
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": part.get("input_audio")}
    raise InvalidRequestError(
        f"{path}: a part of type '{kind[:64]}' is not supported", param=path, code="unsupported_content"
    )


def _joined(content: str | list[object]) -> str:
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))


def _text(item: Mapping[str, object], name: str, path: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise InvalidRequestError(f"{path}.{name}: must be a string", param=f"{path}.{name}")
    return value


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
