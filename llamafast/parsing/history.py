"""The conversation of a request as a chat template knows it: one turn per answer, calls with parsed arguments."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

from llamafast.errors import InvalidRequestError
from llamafast.parsing.template_traits import REASONING_FIELDS, TemplateTraits

Message = Mapping[str, object]

_SHORT_ID = re.compile(r"[a-zA-Z0-9]{9}")


@dataclass(slots=True)
class _Call:
    """call_id as the client has it; arguments_text as well."""

    call_id: str
    name: str
    arguments: object
    arguments_text: str
    extra: dict[str, object]


@dataclass(slots=True)
class _Turn:
    role: str
    content: str | list[object]
    reasoning: str = ""
    calls: list[_Call] = field(default_factory=list)
    extra: dict[str, object] = field(default_factory=dict)


def template_messages(messages: Sequence[Message], traits: TemplateTraits) -> list[dict[str, object]]:
    """What the template gets for the messages of a request, in OpenAI's shape; fields beyond it stay.

    An answer that came as several messages (reasoning, text, calls) is one turn again, as the model wrote it. Results
    of tools get the name of their call. Raises InvalidRequestError for arguments that are not a JSON object.
    """
    turns: list[_Turn] = []
    for i, message in enumerate(messages):
        turn = _turn(message, i, traits)
        if turns and _continues(turns[-1], turn):
            turns[-1] = _joined(turns[-1], turn)
        elif turns and message.get("role") == "developer" and turn.role == turns[-1].role == "system":
            # Templates know one system message at most, and some refuse a second one.
            turns[-1].content = f"{_text(turns[-1].content)}\n\n{_text(turn.content)}"
        else:
            turns.append(turn)
    return [_written(turn, traits) for turn in _shown_apart(_with_results_in_order(turns, traits), traits)]


def content_text(content: object) -> str:
    """All text of a message's content: a string, parts, or null."""
    return _text(content) if isinstance(content, (str, list)) else ""


def _turn(message: Message, index: int, traits: TemplateTraits) -> _Turn:
    extra = {name: value for name, value in message.items() if value is not None and name not in _KNOWN}
    role = str(message.get("role"))
    content = message.get("content")
    turn = _Turn(role, content if isinstance(content, (str, list)) else "", extra=extra)
    if role == "developer" and not traits.knows_developer:
        turn.role = "system"
    elif role == "function":
        turn.role = "tool"
    elif role == "assistant":
        turn.reasoning = next((v for n in REASONING_FIELDS if isinstance(v := extra.pop(n, None), str) and v), "")
        refusal = extra.pop("refusal", None)
        turn.content = turn.content or (refusal if isinstance(refusal, str) else "")
        turn.calls = _calls(message, index)
    return turn


_KNOWN = frozenset({"role", "content", "tool_calls", "function_call"})


def _calls(message: Message, index: int) -> list[_Call]:
    calls = message.get("tool_calls")
    where = f"messages[{index}]"
    found = [
        _call(call, f"{where}.tool_calls[{j}].function", f"call{index:03}{j:02}")
        for j, call in enumerate(calls if isinstance(calls, list) else ())
        if isinstance(call, Mapping)
    ]
    legacy = message.get("function_call")
    if legacy is not None and not found:
        found = [_call({"function": legacy}, f"{where}.function_call", f"call{index:03}00")]
    return found


def _call(call: Message, param: str, default_id: str) -> _Call:
    function = call.get("function")
    if not isinstance(function, Mapping):
        raise InvalidRequestError(f"{param}: must be an object", param=param)
    if not isinstance(function.get("name"), str):
        raise InvalidRequestError(f"{param}.name: must be a string", param=f"{param}.name")
    arguments, text = _parsed(function.get("arguments"), f"{param}.arguments")
    extra = {name: value for name, value in call.items() if name not in ("id", "type", "function")}
    return _Call(str(call.get("id") or default_id), str(function.get("name", "")), arguments, text, extra)


def _parsed(arguments: object, param: str) -> tuple[object, str]:
    """Arguments as an object and as JSON text."""
    if isinstance(arguments, Mapping):
        return arguments, json.dumps(arguments, ensure_ascii=False)
    if arguments is not None and not isinstance(arguments, str):
        raise InvalidRequestError(f"{param}: must be a JSON object", param=param)
    text = arguments or ""
    try:
        value: object = json.loads(text or "{}", parse_constant=_refuse_constant)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError):
        raise InvalidRequestError(f"{param}: not valid JSON", param=param) from None
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{param}: must be a JSON object", param=param)
    return value, text.strip() or "{}"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _continues(turn: _Turn, following: _Turn) -> bool:
    """Whether two messages are pieces of one answer: reasoning, then text, then calls; none of them twice."""
    if turn.role != "assistant" or following.role != "assistant":
        return False
    pieces = [bool(following.reasoning), bool(following.content), bool(following.calls)]
    if not any(pieces):
        return False
    last = 2 if turn.calls else 1 if turn.content else 0 if turn.reasoning else -1
    return pieces.index(True) > last or (last == 2 and pieces == [False, False, True])


def _joined(turn: _Turn, following: _Turn) -> _Turn:
    return replace(
        turn,
        content=turn.content or following.content,
        reasoning=turn.reasoning or following.reasoning,
        calls=turn.calls + following.calls,
        extra={**turn.extra, **following.extra},
    )


def _with_results_in_order(turns: Sequence[_Turn], traits: TemplateTraits) -> Iterable[_Turn]:
    """Results behind their calls, in the order of the calls, which is how most templates tell them apart."""
    i = 0
    while i < len(turns):
        turn = turns[i]
        num_results = 0
        while turn.calls and i + 1 + num_results < len(turns) and turns[i + 1 + num_results].role == "tool":
            num_results += 1
        results = [_named(turn.calls, j, result) for j, result in enumerate(turns[i + 1 : i + 1 + num_results])]
        ids = [call.call_id for call in turn.calls]
        if all(result.extra["tool_call_id"] in ids for result in results):
            results.sort(key=lambda result: ids.index(str(result.extra["tool_call_id"])))
        if traits.single_calls and len(turn.calls) > 1:
            yield from _one_by_one(turn, results)
        else:
            yield turn
            yield from results
        i += 1 + num_results


def _named(calls: Sequence[_Call], position: int, result: _Turn) -> _Turn:
    """A result with the id and the name of its call; one without an id belongs to the call at its position."""
    call_id = result.extra.get("tool_call_id")
    call = next((call for call in calls if call.call_id == call_id), None)
    if call is None and call_id is None and position < len(calls):
        call = calls[position]
    extra: dict[str, object] = {"tool_call_id": "" if call is None else call.call_id, **result.extra}
    return replace(result, extra={"name": call.name, **extra} if call is not None else extra)


def _one_by_one(turn: _Turn, results: Sequence[_Turn]) -> Iterable[_Turn]:
    """A turn of one call and its results after the other."""
    ids = [call.call_id for call in turn.calls]
    for i, call in enumerate(turn.calls):
        yield replace(turn, calls=[call]) if i == 0 else _Turn("assistant", "", calls=[call])
        yield from (result for result in results if result.extra["tool_call_id"] == call.call_id)
    yield from (result for result in results if result.extra["tool_call_id"] not in ids)


def _shown_apart(turns: Iterable[_Turn], traits: TemplateTraits) -> Iterable[_Turn]:
    """Text and calls of an answer as two turns where the template would drop the calls beside a text."""
    for turn in turns:
        if traits.null_content and turn.calls and turn.content:
            yield replace(turn, calls=[])
            yield _Turn("assistant", "", calls=turn.calls)
        else:
            yield turn


def _written(turn: _Turn, traits: TemplateTraits) -> dict[str, object]:
    """The turn in the words of the template."""
    content, reasoning = turn.content, turn.reasoning
    if turn.calls and reasoning and content and traits.joins_reasoning:
        content, reasoning = "", f"{reasoning}\n\n{_text(content)}"
    message: dict[str, object] = {"role": turn.role, "content": _shaped(content, turn.role, traits), **turn.extra}
    if reasoning and traits.reasoning_field is not None:
        message[traits.reasoning_field] = reasoning
    elif reasoning and traits.reasoning_parts:
        text = [{"type": "text", "text": content}] if isinstance(content, str) and content else content or []
        message["content"] = [{"type": "thinking", "thinking": reasoning}, *text]
    if turn.calls:
        if not content and traits.null_content:
            message["content"] = None
        message["tool_calls"] = [_written_call(call, traits) for call in turn.calls]
    if traits.short_ids and isinstance(message.get("tool_call_id"), str):
        message["tool_call_id"] = _short(str(message["tool_call_id"]))
    return message


def _written_call(call: _Call, traits: TemplateTraits) -> dict[str, object]:
    arguments = call.arguments_text if traits.text_arguments else call.arguments
    call_id = _short(call.call_id) if traits.short_ids else call.call_id
    return {"id": call_id, "type": "function", "function": {"name": call.name, "arguments": arguments}, **call.extra}


def _shaped(content: str | list[object], role: str, traits: TemplateTraits) -> str | list[object]:
    """A content that came as parts stays so where the template reads parts; else its text, in lines."""
    if isinstance(content, str):
        only_parts = content and role in traits.part_roles and role not in traits.text_roles
        return [{"type": "text", "text": content}] if only_parts else content
    return content if role in traits.part_roles else _text(content)


def _text(content: str | list[object]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))


def _short(call_id: str) -> str:
    """An id of nine letters and digits, the same for the same id."""
    return call_id if _SHORT_ID.fullmatch(call_id) else hashlib.sha256(call_id.encode()).hexdigest()[:9]
