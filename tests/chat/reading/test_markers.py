"""Markers: complete ones, begun ones, and texts that only look like one."""

from __future__ import annotations

import pytest

from llamafast.chat.formats import registry
from llamafast.chat.reading.markers import Markers
from tests.chat.messages import TOOLS

TAGS = Markers("<call>", "<calm>", "[C]", "\n</x>", "</x>")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", (0, None)),
        ("a b", (3, None)),
        ("a<call>b[C]", (1, "<call>")),
        ("a[C]<call>", (1, "[C]")),
        ("a<ca", (1, None)),
        ("a<ca b", (6, None)),
        ("<<<c", (2, None)),
        ("<c<call>", (2, "<call>")),
        ("[<[C", (2, None)),
        ("a\n</x>", (1, "\n</x>")),
        ("a\n", (1, None)),
        ("a\n\n</x", (2, None)),
    ],
)
def test_markers_text_is_certain_up_to_the_first_or_a_begun_one(text: str, found: tuple[int, str | None]) -> None:
    assert TAGS.find(text, 0) == found


def test_markers_after_a_place_are_found_from_there() -> None:
    assert TAGS.find("<call> <call>", 1) == (7, "<call>")


def test_markers_without_any_let_all_pass() -> None:
    assert Markers().find("<call>", 0) == (6, None)


@pytest.mark.parametrize("format", registry.names())
def test_markers_of_no_format_begin_another(format: str) -> None:
    texts = registry.by_name(format).parser("", TOOLS)._stops.texts
    assert [(a, b) for a in texts for b in texts if a != b and b.startswith(a)] == []
