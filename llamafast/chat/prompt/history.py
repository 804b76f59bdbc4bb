"""The messages of a request as the chat template reads them: one turn per answer, calls with parsed arguments."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from llamafast.chat.prompt.call_arguments import RAW_NAME, read_arguments
from llamafast.chat.prompt.empty_turns import with_empty_turns
from llamafast.chat.prompt.system_messages import with_joined_turns, with_placed_system_messages
from llamafast.chat.prompt.template_traits import REASONING_FIELDS, TemplateTraits
from llamafast.chat.prompt.tool_documents import filled_tools
from llamafast.chat.prompt.turns import (
    Call,
    MessageContent,
    TrustedText,
    Turn,
    joined,
    text_of,
    text_part,
    with_trusted_names,
)
from llamafast.errors import InvalidRequestError

Message = Mapping[str, object]

_SHORT_ID = re.compile(r"[a-zA-Z0-9]{9}")


def template_messages(messages: Sequence[Message], traits: TemplateTraits) -> list[dict[str, object]]:
    """The messages for the template, from the messages of a request in OpenAI's format. Unknown fields are kept.

    An answer that came as several messages (reasoning, text, calls) becomes one turn, as the model wrote it. Results of
    tools get the name of their call. Messages that the template does not show at their place are moved to a place where
    it shows them.
    Raises InvalidRequestError for malformed calls. Arguments that are not JSON are not an error.
    """
    turns: list[Turn] = []
    for i, message in enumerate(messages):
        turn = _turn(message, i, traits)
        if turns and _continues(turns[-1], turn, traits):
            turns[-1] = _joined(turns[-1], turn)
        else:
            turns.append(turn)
    ordered = list(_with_results_in_order(with_placed_system_messages(turns, traits), traits))
    shown = with_empty_turns(list(with_joined_turns(_shown_apart(ordered, traits), traits)), traits)
    return [_written(turn, traits) for turn in shown]


def template_tools(tools: Sequence[Message] | None, traits: TemplateTraits) -> list[dict[str, object]] | None:
    """The tools for the template, from the tools of a request."""
    return filled_tools(tools or (), traits.tool_gaps) or ([] if traits.empty_tools else None)


def content_text(content: object) -> str:
    """All text of a message's content, which is a string, a list of parts or null."""
    return text_of(content) if isinstance(content, (str, list)) else ""


def _turn(message: Message, index: int, traits: TemplateTraits) -> Turn:
    extra = {name: value for name, value in message.items() if value is not None and name not in _KNOWN}
    role = str(message.get("role"))
    content = message.get("content")
    turn = Turn(role, content if content and isinstance(content, (str, list)) else "", extra=extra)
    if role == "developer" and not traits.knows_developer:
        turn.role = "system"
    elif role in ("tool", "function"):
        turn.role = "tool"
        if "tool_call_id" in extra:
            extra["tool_call_id"] = _id(extra["tool_call_id"], f"messages[{index}].tool_call_id")
    elif role == "assistant":
        turn.reasoning = next((v for n in REASONING_FIELDS if isinstance(v := extra.pop(n, None), str) and v), "")
        refusal = extra.pop("refusal", None)
        turn.content = joined([turn.content, refusal if isinstance(refusal, str) else ""])
        turn.calls = _calls(message, index)
    return turn


_KNOWN = frozenset({"role", "content", "tool_calls", "function_call"})


def _calls(message: Message, index: int) -> list[Call]:
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


def _call(call: Message, param: str, default_id: str) -> Call:
    function = call.get("function")
    if not isinstance(function, Mapping):
        raise InvalidRequestError(f"{param}: must be an object", param=param)
    if not isinstance(function.get("name"), str):
        raise InvalidRequestError(f"{param}.name: must be a string", param=f"{param}.name")
    arguments, text = read_arguments(function.get("arguments"), f"{param}.arguments")
    extra = {name: value for name, value in call.items() if name not in ("id", "type", "function")}
    return Call(
        _id(call.get("id"), f"{param.removesuffix('.function')}.id") or default_id,
        str(function.get("name", "")),
        arguments,
        text,
        extra,
    )


def _id(given: object, param: str) -> str:
    """An id as text; "" if there is none. Raises InvalidRequestError with this param."""
    if given is not None and not isinstance(given, (str, int)):
        raise InvalidRequestError(f"{param}: must be a string", param=param)
    return "" if given is None else str(given)


def _continues(turn: Turn, following: Turn, traits: TemplateTraits) -> bool:
    """Whether two messages are parts of one answer: reasoning, then text, then calls, each at most once."""
    if turn.content and following.calls and not traits.text_beside:
        return False
    if turn.role != "assistant" or following.role != "assistant":
        return False
    pieces = [bool(following.reasoning), bool(following.content), bool(following.calls)]
    if not any(pieces):
        return False
    last = 2 if turn.calls else 1 if turn.content else 0 if turn.reasoning else -1
    return pieces.index(True) > last or (last == 2 and pieces == [False, False, True])


def _joined(turn: Turn, following: Turn) -> Turn:
    return replace(
        turn,
        content=turn.content or following.content,
        reasoning=turn.reasoning or following.reasoning,
        calls=turn.calls + following.calls,
        extra={**turn.extra, **following.extra},
    )


def _with_results_in_order(turns: Sequence[Turn], traits: TemplateTraits) -> Iterable[Turn]:
    """Results after their calls, in the order of the calls. Most templates match them by this order."""
    i = 0
    while i < len(turns):
        turn = turns[i]
        num_results = 0
        while turn.calls and i + 1 + num_results < len(turns) and turns[i + 1 + num_results].role == "tool":
            num_results += 1
        results = _with_owners(turn.calls, turns[i + 1 : i + 1 + num_results])
        if not traits.nameless_results or all(owner is not None for owner, _ in results):
            results.sort(key=lambda owned: len(turn.calls) if owned[0] is None else owned[0])
        is_lost = turn.role == "tool" and not (traits.lone_results and _is_shown(turn, traits))
        yield from _with_results(_spoken(turn) if is_lost else turn, results, traits)
        i += 1 + num_results


_OwnedResult = tuple[int | None, Turn]


def _with_owners(calls: Sequence[Call], results: Sequence[Turn]) -> list[_OwnedResult]:
    """The results with the index, the id and the name of their call. A result without an id belongs to the call at its
    index.
    """
    by_id: dict[object, list[int]] = {}
    for i in reversed(range(len(calls))):
        by_id.setdefault(calls[i].call_id, []).append(i)
    owned: list[_OwnedResult] = []
    for position, result in enumerate(results):
        call_id = result.extra.get("tool_call_id")
        owners = by_id.get(call_id)
        owner = position if owners is None and call_id is None and position < len(calls) else None
        if owners is not None:
            owner = owners.pop() if len(owners) > 1 else owners[0]  # calls with the same id get one result each
        extra: dict[str, object] = {"tool_call_id": "" if owner is None else calls[owner].call_id, **result.extra}
        if owner is not None:
            extra = {"name": calls[owner].name, **extra}
        owned.append((owner, replace(result, extra=extra)))
    return owned


def _with_results(turn: Turn, results: Sequence[_OwnedResult], traits: TemplateTraits) -> Iterable[Turn]:
    """A turn and its results. If the template shows one call per message, each call is followed by its results."""
    of_call: dict[int | None, list[Turn]] = {}
    for owner, result in results:
        of_call.setdefault(owner if traits.single_calls else None, []).append(
            result if _is_shown(result, traits) else _spoken(result)
        )
    yield replace(turn, calls=turn.calls[:1]) if traits.single_calls else turn
    for i, call in enumerate(turn.calls if traits.single_calls else ()):
        if i > 0:
            yield Turn("assistant", "", calls=[call])
        yield from of_call.get(i, ())
    yield from of_call.get(None, ())


def _is_shown(result: Turn, traits: TemplateTraits) -> bool:
    return traits.shows_results and (traits.nameless_results or bool(result.extra.get("name")))


def _spoken(result: Turn) -> Turn:
    """The result of a tool as a message of the user."""
    name = result.extra.get("name")
    title = f"Result of {name}:" if isinstance(name, str) and name else "Result of a tool:"
    return Turn("user", joined([title, result.content]))


def _shown_apart(turns: Iterable[Turn], traits: TemplateTraits) -> Iterable[Turn]:
    """Text and calls of an answer as two turns, if the template would drop the calls next to a text."""
    for turn in turns:
        if (traits.null_content or traits.text_apart) and turn.calls and turn.content:
            yield replace(turn, calls=[])
            yield Turn("assistant", "", calls=turn.calls)
        else:
            yield turn


def _written(turn: Turn, traits: TemplateTraits) -> dict[str, object]:
    """The turn as a message with the fields that the template reads."""
    content, reasoning = turn.content, turn.reasoning
    if turn.calls and content and traits.joins_reasoning:
        content, reasoning = "", "\n\n".join(filter(None, (reasoning, text_of(content))))
    shaped = _shaped(content, turn.role, traits)
    message: dict[str, object] = {"role": TrustedText(turn.role), "content": shaped, **turn.extra}
    if reasoning and traits.reasoning_field is not None:
        message[traits.reasoning_field] = reasoning
    elif reasoning and traits.reasoning_parts:
        text = [text_part(content)] if isinstance(content, str) and content else content or []
        message["content"] = [{"type": "thinking", "thinking": reasoning}, *text]
    if turn.calls:
        if not content and traits.null_content:
            message["content"] = None
        message["tool_calls"] = [_written_call(call, traits) for call in turn.calls]
    if isinstance(message["content"], list):
        message["content"] = [with_trusted_names(part) for part in message["content"] if isinstance(part, Mapping)]
    if traits.short_ids and isinstance(message.get("tool_call_id"), str):
        message["tool_call_id"] = _short(str(message["tool_call_id"]))
    return with_trusted_names(message)


def _written_call(call: Call, traits: TemplateTraits) -> dict[str, object]:
    arguments = call.arguments
    if traits.text_arguments:
        arguments = call.arguments_text
    elif isinstance(arguments, str) and not traits.raw_arguments:
        arguments = {RAW_NAME: arguments}
    call_id = _short(call.call_id) if traits.short_ids else call.call_id
    function = with_trusted_names({"name": call.name, "arguments": arguments})
    return with_trusted_names({"id": call_id, "type": "function", "function": function, **call.extra})


def _shaped(content: MessageContent, role: str, traits: TemplateTraits) -> MessageContent:
    """A content as parts if the template reads parts, otherwise as text, one part per line."""
    if isinstance(content, str):
        only_parts = content and role in traits.part_roles and role not in traits.text_roles
        return [text_part(content)] if only_parts else content
    return content if role in traits.part_roles else text_of(content)


def _short(call_id: str) -> str:
    """An id of nine letters and digits. Equal ids give equal results."""
    return call_id if _SHORT_ID.fullmatch(call_id) else hashlib.sha256(call_id.encode()).hexdigest()[:9]
