"""Which messages a template shows, by position and role: found by rendering small conversations with known texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import product

Message = Mapping[str, object]
# (messages, whether there are tools) -> the rendered text; None if the template refuses them.
Probe = Callable[[Sequence[Message], bool], str | None]


def _say(role: str, text: str) -> Message:
    return {"role": role, "content": f"probe_said_{text}"}


VALUE = "probe_value"  # the value of an argument of the call

_QUESTION, _ANSWER, _NEXT = _say("user", "a"), _say("assistant", "b"), _say("user", "c")
_SILENCE: Message = {"role": "user", "content": ""}
_FILLERS = ("", " ", "...")


class ShownMessages:
    """What one template shows.

    probe: renders messages with the template.
    answered: a question, a call and its result, in the form that the template reads.
    """

    def __init__(self, probe: Probe, answered: Sequence[Message]) -> None:
        self._probe = probe
        self._answered = answered
        # If the template refuses a single question, nothing is known about it. It may require variables.
        self._is_known = self._shows(_QUESTION)
        self._takes_tools = self._shows(_QUESTION, with_tools=True)
        self._shows_calls = self._takes_tools and self._shows(*answered, with_tools=True)

    def shows_head(self, role: str) -> bool:
        """Whether a system message of this role is shown as the first message, also with tools and before calls."""
        head = _say(role, "s")
        return not self._is_known or (
            self._shows(head, _QUESTION)
            and (not self._takes_tools or self._shows(head, _QUESTION, with_tools=True))
            and (not self._shows_calls or self._shows(head, *self._answered, with_tools=True))
        )

    def shows_several(self, roles: Sequence[str]) -> bool:
        """Whether two such messages are shown at the beginning, one after the other."""
        return not self._is_known or all(
            self._shows(_say(first, "s"), _say(second, "t"), _QUESTION) for first, second in product(roles, roles)
        )

    def shows_late(self, roles: Sequence[str]) -> bool:
        """Whether such a message is shown after any other message, without hiding others."""
        head = _say(roles[0], "s")
        return not self._is_known or all(
            self._shows(_QUESTION, late)
            and self._shows(_QUESTION, _ANSWER, late)
            and self._shows(_ANSWER, late, _NEXT)
            and self._shows(head, _QUESTION, _ANSWER, late, _NEXT)
            and (not self._shows_calls or self._shows(*self._answered, late, with_tools=True))
            for late in (_say(role, "t") for role in roles)
        )

    @property
    def shows_user_after_result(self) -> bool:
        """Whether a message of the user is shown after the result of a tool."""
        return not self._shows_calls or self._shows(*self._answered, _NEXT, with_tools=True)

    @property
    def single_roles(self) -> frozenset[str]:
        """Those of the roles user and assistant that must alternate with others."""
        rows = {"user": (_QUESTION, _NEXT), "assistant": (_QUESTION, _ANSWER, _say("assistant", "d"), _NEXT)}
        return frozenset(role for role, row in rows.items() if self._is_known and not self._shows(*row))

    @cached_property
    def shows_results(self) -> bool:
        """Whether the result of a tool is shown. Also True if the same text is not shown as a message of the user."""
        question, turn, result = self._answered
        spoken = {"role": "user", "content": result["content"]}
        return self._shows_calls or self._shows(result, among=self._answered) or not self._shows(
            spoken, among=(question, turn, spoken)
        )  # fmt: skip

    @property
    def shows_lone_results(self) -> bool:
        """Whether a result without a call is shown."""
        result = self._answered[-1]
        return not self._is_known or (
            self._shows(_QUESTION, result, with_tools=self._takes_tools)
            and self._shows(_QUESTION, _ANSWER, result, _NEXT, with_tools=self._takes_tools)
        )

    @property
    def shows_nameless_results(self) -> bool:
        """Whether a result without a call and without a name is shown, if it is shown with a name."""
        named = {**self._answered[-1], "tool_call_id": "call00009"}
        nameless = {name: value for name, value in named.items() if name != "name"}
        return not any(
            self._shows(*before, named, with_tools=self._takes_tools)
            and not self._shows(*before, nameless, with_tools=self._takes_tools)
            for before in ((_QUESTION,), self._answered)
        )

    @property
    def filler(self) -> str:
        """The text that an answer without text must have."""
        fillers = (text for text in _FILLERS if self._shows(_QUESTION, {"role": "assistant", "content": text}, _NEXT))
        return next(fillers, "")

    @property
    def user_first(self) -> frozenset[str]:
        """The kinds of answers ("text", "calls") that are shown after an empty user turn, but not first."""
        turn, result = self._answered[1:]
        kinds = {"text": ((_ANSWER, _NEXT),), "calls": ((turn, result), (turn, _NEXT))}
        return frozenset(kind for kind, rows in kinds.items() if any(map(self._needs_silence, rows)))

    @property
    def needs_user(self) -> bool:
        """Whether a conversation without a user is refused, but accepted with an empty user turn."""
        head = _say("system", "s")
        return (not self._shows(head) and self._shows(head, _SILENCE)) or (
            not self._shows(_ANSWER) and self._shows(_SILENCE, _ANSWER)
        )

    def _needs_silence(self, row: Sequence[Message]) -> bool:
        bare, led = (self._probe(messages, self._takes_tools) for messages in (row, (_SILENCE, *row)))
        texts = [str(message["content"]) for message in row if message["content"]] + [VALUE]
        return led is not None and (bare is None or any(text in led and text not in bare for text in texts))

    def _shows(self, *messages: Message, with_tools: bool = False, among: Sequence[Message] = ()) -> bool:
        """Whether the texts of the messages are in the rendered text. among: the messages to render."""
        text = self._probe(among or messages, with_tools)
        return text is not None and all(str(message["content"] or "") in text for message in messages)
