"""TemplateTraits: what a chat template reads. Found once, from its source and by rendering small conversations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from llamafast.chat.prompt.shown_messages import VALUE, ShownMessages
from llamafast.chat.prompt.tool_documents import find_gaps

# The fields in which templates read the reasoning of an earlier answer. The most common one is first.
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "thought")

Message = Mapping[str, object]
Tools = Sequence[object] | None
# (messages, tools) -> the rendered text; None if the template refuses them.
Render = Callable[[Sequence[Message], Tools], str | None]
_Probe = Callable[[Sequence[Message], bool], str | None]

_NAME, _KEY, _VALUE, _RESULT, _THOUGHT = "probe_name", "probe_key", VALUE, "probe_result", "probe_thought"
_SECOND = "probe_second"
_CUT = f'{{"{_KEY}": "probe_cut'
_SHORT_ID, _LONG_ID = "call00001", "call_0123456789abcdef"
_USER: Message = {"role": "user", "content": "probe_question"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "A probe.",
            "parameters": {
                "type": "object",
                "properties": {_KEY: {"type": "string", "description": "A probe."}},
                "required": [_KEY],
            },
        },
    }
    for name in (_NAME, _SECOND)
]


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """The form that messages must have for one template. "It" is the template.

    variables: the variables that it reads in addition to the messages (tools, enable_thinking ...).
    reasoning_field: the field in which it reads the reasoning of an earlier answer. None: it reads none.
    reasoning_parts: it reads that reasoning as a content part of type "thinking" instead.
    knows_developer: it names the role developer and shows such messages. If not, they become system messages.
    shows_system: it shows a system message at the beginning.
    several_systems: it shows two system messages there, one after the other.
    late_systems: it shows a system message anywhere.
    user_after_result: it accepts a user message after the result of a tool.
    single_roles: roles (user, assistant) of which it refuses or drops one of two messages in a row.
    filler: the text that an answer without text must have.
    user_first: kinds of answers ("text", "calls") before which it requires a user message, which may be empty.
    needs_user: it requires a user message in every conversation.
    shows_results: it shows the result of a tool after its call.
    lone_results: it shows a result without a call.
    nameless_results: it shows such a result also without the name of the tool.
    part_roles: roles whose content it reads as a list of parts.
    text_roles: roles whose content it reads as one text. Most templates read both forms.
    text_arguments: it requires the arguments of a call as JSON text, not as an object.
    raw_arguments: it writes such a text unchanged if it is not a JSON object.
    null_content: it shows the calls of a message only if its content is null.
    text_apart: it drops the text next to calls, but shows it as a separate message before them.
    text_beside: it shows the text next to calls, or as a separate message.
    single_calls: it shows one call per message.
    joins_reasoning: next to a call it accepts reasoning, but not reasoning and content.
    short_ids: it requires call ids of nine letters or digits.
    empty_tools: without tools it requires an empty list.
    tool_gaps: what it requires in a tool (tool_documents.py).
    """

    variables: frozenset[str] = frozenset({"tools"})
    reasoning_field: str | None = "reasoning_content"
    reasoning_parts: bool = False
    knows_developer: bool = False
    shows_system: bool = True
    several_systems: bool = True
    late_systems: bool = True
    user_after_result: bool = True
    single_roles: frozenset[str] = frozenset()
    filler: str = ""
    user_first: frozenset[str] = frozenset()
    needs_user: bool = False
    shows_results: bool = True
    lone_results: bool = True
    nameless_results: bool = True
    part_roles: frozenset[str] = frozenset()
    text_roles: frozenset[str] = frozenset({"system", "user", "assistant", "tool"})
    text_arguments: bool = False
    raw_arguments: bool = False
    null_content: bool = False
    text_apart: bool = False
    text_beside: bool = True
    single_calls: bool = False
    joins_reasoning: bool = False
    short_ids: bool = False
    empty_tools: bool = False
    tool_gaps: frozenset[str] = frozenset()


def find_traits(render: Render, variables: frozenset[str], names: frozenset[str]) -> TemplateTraits:
    """The traits of the template that render uses. names: the attributes and the strings in its source."""
    empty_tools = render([_USER], None) is None and render([_USER], []) is not None

    def probe(messages: Sequence[Message], with_tools: bool) -> str | None:
        return render(messages, TOOLS if with_tools else [] if empty_tools else None)

    text_arguments, null_content, reads_calls = _call_shape(probe)
    call = _call(_NAME, _VALUE, _SHORT_ID, text_arguments)
    content = None if null_content else ""
    turn: dict[str, object] = {"role": "assistant", "content": content, "tool_calls": [call]}
    answered = [_USER, turn, _result(_SHORT_ID)]
    field = _reasoning_field(probe, answered, names)
    reads_text = reads_calls and not null_content
    joins, text_apart, text_beside = _beside_calls(probe, answered, field) if reads_text else (False, False, True)
    places = ShownMessages(probe, answered)
    knows_developer = "developer" in names and places.shows_head("developer")
    systems = ("system", "developer") if knows_developer else ("system",)
    return TemplateTraits(
        variables=variables,
        reasoning_field=field,
        reasoning_parts=field is None and "thinking" in names and _reads_thinking_part(probe),
        knows_developer=knows_developer,
        shows_system=places.shows_head("system"),
        several_systems=places.shows_several(systems),
        late_systems=places.shows_late(systems),
        user_after_result=places.shows_user_after_result,
        single_roles=places.single_roles,
        filler=places.filler,
        user_first=places.user_first,
        needs_user=places.needs_user,
        shows_results=places.shows_results,
        lone_results=places.shows_lone_results,
        nameless_results=places.shows_nameless_results,
        part_roles=frozenset(role for role in _ROLES if _reads(probe, role, answered, as_parts=True)),
        text_roles=frozenset(role for role in _ROLES if _reads(probe, role, answered, as_parts=False)),
        text_arguments=text_arguments,
        raw_arguments=_shows_raw(probe, turn),
        null_content=null_content,
        text_apart=text_apart,
        text_beside=text_beside,
        single_calls=reads_calls and not _reads_two(probe, turn, text_arguments),
        joins_reasoning=joins,
        short_ids=reads_calls and probe([_USER, _with_id(turn, call), _result(_LONG_ID)], True) is None,
        empty_tools=empty_tools,
        tool_gaps=find_gaps(lambda tool: render([_USER], [tool]) is not None),
    )


_ROLES = ("system", "user", "assistant", "tool")


def _call(name: str, value: str, call_id: str, as_text: bool) -> dict[str, object]:
    arguments = f'{{"{_KEY}": "{value}"}}' if as_text else {_KEY: value}
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _result(call_id: str, name: str = _NAME, content: object = _RESULT) -> Message:
    return {"role": "tool", "tool_call_id": call_id, "name": name, "content": content}


def _with_id(turn: Message, call: Message) -> Message:
    return {**turn, "tool_calls": [{**call, "id": _LONG_ID}]}


def _call_shape(probe: _Probe) -> tuple[bool, bool, bool]:
    """(arguments as text, content null, whether calls are read at all), of the first form that shows a whole call."""
    for as_text in (False, True):
        for content in ("", None):
            turn = {"role": "assistant", "content": content}
            call = _call(_NAME, _VALUE, _SHORT_ID, as_text)
            text = probe([_USER, {**turn, "tool_calls": [call]}, _result(_SHORT_ID)], True)
            # The prompt also contains the tools, but the value can only come from the call.
            if text is not None and _VALUE in text and f"{{'{_KEY}'" not in text and "None" not in text:
                return as_text, content is None, True
    return False, False, False


def _reads_two(probe: _Probe, turn: Message, as_text: bool) -> bool:
    calls = [_call(_NAME, _VALUE, _SHORT_ID, as_text), _call(_SECOND, "probe_other", "call00002", as_text)]
    text = probe([_USER, {**turn, "tool_calls": calls}, _result(_SHORT_ID), _result("call00002", _SECOND)], True)
    return text is not None and _VALUE in text and "probe_other" in text


def _reasoning_field(probe: _Probe, answered: Sequence[Message], names: frozenset[str]) -> str | None:
    """The field whose text is rendered; otherwise the first that the source names, since another conversation may show
    it.
    """
    named = [field for field in REASONING_FIELDS if field in names]
    question, turn, result = answered
    for field in named:
        thinking = {**turn, field: _THOUGHT}
        last = {"role": "assistant", "content": "probe_answer", field: _THOUGHT}
        if any(_THOUGHT in (probe(messages, True) or "") for messages in ([question, thinking, result], [_USER, last])):
            return field
    # `thinking` alone is more often the type of a part, or a switch.
    return named[0] if named and named != ["thinking"] else None


def _reads_thinking_part(probe: _Probe) -> bool:
    parts = [{"type": "thinking", "thinking": _THOUGHT}, {"type": "text", "text": "probe_answer"}]
    text = probe([_USER, {"role": "assistant", "content": parts}, _USER], False)
    return text is not None and _THOUGHT in text and f"'{_THOUGHT}'" not in text and "probe_answer" in text


def _reads(probe: _Probe, role: str, answered: Sequence[Message], *, as_parts: bool) -> bool:
    """Whether the whole content is rendered, and not as a Python list."""
    texts = ["probe_first", "probe_last"]
    content: object = [{"type": "text", "text": text} for text in texts] if as_parts else " ".join(texts)
    message = {"role": role, "content": content}
    if role == "system":
        text = probe([message, _USER], False)
    elif role == "tool":
        text = probe([*answered[:2], _result(_SHORT_ID, content=content)], True)
    else:
        text = probe([message] if role == "user" else [_USER, message, _USER], False)
    # In quotes the texts are a list in Python's or JSON's notation.
    return text is not None and all(t in text and f"'{t}'" not in text and f'"{t}"' not in text for t in texts)


def _shows_raw(probe: _Probe, turn: Message) -> bool:
    call = {**_call(_NAME, "", _SHORT_ID, True), "function": {"name": _NAME, "arguments": _CUT}}
    return _CUT in (probe([_USER, {**turn, "tool_calls": [call]}, _result(_SHORT_ID)], True) or "")


def _beside_calls(probe: _Probe, answered: Sequence[Message], field: str | None) -> tuple[bool, bool, bool]:
    """(joins_reasoning, text_apart, text_beside): what happens to a text next to calls that is not shown there."""
    question, turn, result = answered
    thinking = {} if field is None else {field: _THOUGHT}
    shows_thinking = _THOUGHT in (probe([question, {**turn, **thinking}, result], True) or "")
    both = probe([question, {**turn, **thinking, "content": "probe_text"}, result], True)
    if both is None and shows_thinking:
        return True, False, True
    end = [result, {"role": "assistant", "content": "probe_answer"}, _USER]
    beside = probe([question, {**turn, "content": "probe_text"}, *end], True)
    if both is None or beside is None or "probe_text" in beside:
        return False, False, True
    text: Message = {"role": "assistant", "content": "probe_text", **thinking}
    if shows_thinking and _THOUGHT not in (probe([question, text, turn, result], True) or ""):
        return True, False, True
    apart = probe([question, text, turn, *end], True) or ""
    is_shown = all(shown in apart for shown in ("probe_text", _VALUE, _RESULT, "probe_answer"))
    return False, is_shown, is_shown
