"""Adds empty turns where a template requires a turn that the client did not send."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from llamafast.chat.prompt.template_traits import TemplateTraits
from llamafast.chat.prompt.turns import Turn, text_of


def with_empty_turns(turns: Sequence[Turn], traits: TemplateTraits) -> list[Turn]:
    """The turns, and the empty turns that the template requires.

    An empty user turn is added before an answer that may not be the first message, and to a conversation without a
    user. If turns must alternate, an empty turn of the other role is added between two turns of one role. Calls and
    results may be between those two, because many such templates do not count them. An answer without text gets the
    filler of the template.
    """
    shown = [_filled(turn, traits) for turn in turns]
    first = next((i for i, turn in enumerate(shown) if not turn.is_system), len(shown))
    if shown and _wants_user(shown[first:], traits):
        shown.insert(first, Turn("user", ""))
    return list(_alternating(shown, traits))


def _wants_user(turns: Sequence[Turn], traits: TemplateTraits) -> bool:
    if traits.needs_user and not any(turn.role == "user" for turn in turns):
        return True
    first = next((turn for turn in turns if _counts(turn, traits)), None)
    if first is None or first.role != "assistant":
        return False
    return ("calls" if first.calls else "text") in traits.user_first


def _counts(turn: Turn, traits: TemplateTraits) -> bool:
    """Whether a template in which turns alternate counts this turn."""
    return traits.user_after_result or turn.role == "user" or (turn.role == "assistant" and not turn.calls)


def _alternating(turns: Sequence[Turn], traits: TemplateTraits) -> Iterator[Turn]:
    last = ""
    for turn in turns:
        if _counts(turn, traits):
            if turn.role == last and turn.role in traits.single_roles:
                yield Turn("user", "") if last == "assistant" else Turn("assistant", traits.filler)
            last = turn.role
        yield turn


def _filled(turn: Turn, traits: TemplateTraits) -> Turn:
    is_silent = turn.role == "assistant" and not turn.calls and not text_of(turn.content)
    if is_silent and traits.filler and not (turn.reasoning and traits.reasoning_parts):
        return replace(turn, content=traits.filler)
    return turn
