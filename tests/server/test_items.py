"""Items: which events close an item, and its status then."""

from __future__ import annotations

import pytest

from llamafast.chat.events import CallArguments, CallEnd, CallStart, Content, Reasoning
from llamafast.request import FinishReason
from llamafast.server.answers.items import ItemDelta, ItemKind, ItemReader, ItemStatus

CALL = [CallStart(0, "f", "call_1"), CallArguments(0, "{}"), CallEnd(0, is_complete=True)]
BROKEN_CALL = [CallStart(0, "f", "call_1"), CallArguments(0, "{"), CallEnd(0, is_complete=False)]


@pytest.mark.parametrize(
    ("events", "finish", "statuses"),
    [
        ([Content("a", 0)], FinishReason.STOP, ["completed"]),
        ([Content("a", 0)], FinishReason.LENGTH, ["incomplete"]),
        ([Reasoning("a")], FinishReason.LENGTH, ["incomplete"]),
        ([Reasoning("a"), Content("b", 1)], FinishReason.LENGTH, ["completed", "incomplete"]),
        ([Reasoning("a"), Content("b", 1)], FinishReason.ERROR, ["completed", "incomplete"]),
        ([], FinishReason.ERROR, []),
        (CALL, FinishReason.LENGTH, ["completed"]),
        (BROKEN_CALL, FinishReason.STOP, ["incomplete"]),
        (CALL[:2], FinishReason.LENGTH, ["incomplete"]),
        ([*BROKEN_CALL, Content("b", 9)], FinishReason.STOP, ["incomplete", "completed"]),
    ],
)
def test_item_status_tells_whether_the_answer_broke_off_inside_it(events, finish, statuses):
    reader = ItemReader()
    reader.read(events)
    reader.finish(finish)
    assert [item.status.value for item in reader.items] == statuses


def test_items_of_an_answer_without_text_are_one_empty_message():
    reader = ItemReader()
    started, done = reader.finish(FinishReason.STOP)
    assert (started.item, done.item.kind, done.item.text) == (done.item, ItemKind.MESSAGE, "")
    assert done.item.status is ItemStatus.COMPLETED


def test_item_of_a_call_without_an_id_gets_one():
    reader = ItemReader()
    reader.read([CallStart(0, "f")])
    assert reader.items[0].call_id.startswith("call_")


def test_items_have_different_ids():
    reader = ItemReader()
    reader.read([Reasoning("a"), Content("b", 1), *CALL])
    assert len({item.id for item in reader.items}) == 3


def test_deltas_of_a_message_have_their_places_in_the_text():
    deltas = [event for event in ItemReader().read([Content("ab", 3), Content("c", 5)]) if isinstance(event, ItemDelta)]
    assert [(delta.text, delta.start) for delta in deltas] == [("ab", 3), ("c", 5)]
