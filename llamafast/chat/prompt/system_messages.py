"""Moves system messages that the template would not show where the client has put them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from llamafast.chat.prompt.template_traits import TemplateTraits
from llamafast.chat.prompt.turns import MessageContent, Turn, joined


def with_placed_system_messages(turns: Iterable[Turn], traits: TemplateTraits) -> list[Turn]:
    """The turns without system messages that the template would refuse or drop. Their texts are moved to other turns.

    System messages at the beginning are joined. A later one is joined with the user message after it, otherwise with
    the one before it, so that the beginning of the prompt does not change. If neither exists it becomes a user message.
    After a call or its results, if the template accepts no user message there, it is joined with the first message. No
    template accepts a system message between a call and its results, so it is moved after them.
    """
    turns = list(_after_results(turns))
    num_heads = next((i for i, turn in enumerate(turns) if not turn.is_system), len(turns))
    if num_heads > 1 and not traits.several_systems:
        turns[:num_heads] = [_as_one(turns[:num_heads])]
        num_heads = 1
    if not traits.shows_system:
        num_heads = 0
    elif traits.late_systems:
        return turns
    placed = turns[:num_heads]
    for_first: list[MessageContent] = []
    late: Turn | None = None
    for is_system, group in groupby(turns[num_heads:], lambda turn: turn.is_system):
        if is_system:
            late = _as_one(list(group))
            continue
        following = list(group)
        if late is not None and following[0].role == "user":
            following[0] = replace(following[0], content=joined([late.content, following[0].content]))
        elif late is not None:
            _place(late, placed, for_first, traits)
        late = None
        placed += following
    if late is not None:
        _place(late, placed, for_first, traits)
    if for_first:
        index = next((i for i, turn in enumerate(placed) if turn.role == "user" or turn.is_system), 0)
        placed[index] = replace(placed[index], content=joined([placed[index].content, *for_first]))
    return placed


def with_joined_turns(turns: Iterable[Turn], traits: TemplateTraits) -> Iterator[Turn]:
    """The turns. Those of one role in a row are joined if the template refuses or drops one of them."""
    row: list[Turn] = []
    for turn in turns:
        is_apart = bool(turn.calls) and not traits.text_beside
        if row and (turn.role != row[-1].role or turn.role not in traits.single_roles or row[-1].calls or is_apart):
            yield _as_one(row)
            row = []
        row.append(turn)
    if row:
        yield _as_one(row)


def _after_results(turns: Iterable[Turn]) -> Iterator[Turn]:
    """The turns. System messages between a call and its results are moved after the results."""
    held: list[Turn] = []
    has_calls = False
    for turn in turns:
        if turn.is_system and has_calls:
            held.append(turn)
            continue
        if turn.role != "tool":
            yield from held
            held = []
            has_calls = bool(turn.calls)
        yield turn
    yield from held


def _place(late: Turn, placed: list[Turn], for_first: list[MessageContent], traits: TemplateTraits) -> None:
    """Move the text of a late system message to the end of `placed`, or to for_first (both IN and OUT)."""
    last = placed[-1] if placed else None
    if last is not None and last.role == "user":
        placed[-1] = replace(last, content=joined([last.content, late.content]))
    elif last is not None and (last.role == "tool" or last.calls) and not traits.user_after_result:
        for_first.append(late.content)
    else:
        placed.append(Turn("user", late.content))


def _as_one(turns: Sequence[Turn]) -> Turn:
    """Turns of one role as one turn."""
    if len(turns) == 1:
        return turns[0]
    return Turn(
        turns[0].role,
        joined([turn.content for turn in turns]),
        "\n\n".join(turn.reasoning for turn in turns if turn.reasoning),
        turns[-1].calls,
        {name: value for turn in turns for name, value in turn.extra.items()},
    )
