"""Prompt and Layout: ids and positions of text and media rows, and the common rows of two prompts."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafast.cache.prompt import TEXT_ONLY, Layout, MediaSpan, Prompt, media_fault, media_ids


def image(name: str, n_rows: int = 6, n_pos: int = 3) -> MediaSpan:
    """An image with M-RoPE: all rows have the same position."""
    return MediaSpan(0, n_rows, n_pos, 0, name.encode())


def audio(name: str, n_rows: int = 5) -> MediaSpan:
    """Audio: each row has its own position."""
    return MediaSpan(0, n_rows, n_rows, n_rows - 1, name.encode())


TEXTS = st.lists(st.integers(0, 2), min_size=1, max_size=5)
IMAGES = st.builds(
    lambda name, n_rows: image(f"{name}{n_rows}", n_rows, -(-n_rows // 2)), st.sampled_from("AB"), st.integers(1, 6)
)
PARTS = st.lists(st.one_of(TEXTS, IMAGES, st.builds(audio, st.sampled_from("CD"))), min_size=1, max_size=6)


FEW = settings(max_examples=40, deadline=None)


def num_equal_ids(one: array, other: array) -> int:
    """Length of the common prefix of two prompts' ids."""
    shorter = min(len(one), len(other))
    return next((i for i in range(shorter) if one[i] != other[i]), shorter)


def positions_by_the_rules(prompt: Prompt) -> list[int]:
    """The position of each row and of the next one, row by row."""
    positions, next_pos, index = [], 0, 0
    spans = {span.start: span for span in prompt.layout.media}
    while index < prompt.num_rows:
        span = spans.get(index, MediaSpan(index, 1, 1, 0, b""))
        positions += [next_pos + min(number, span.last_t_offset) for number in range(span.n_rows)]
        next_pos += span.n_pos
        index += span.n_rows
    return [*positions, next_pos]


def split_places(prompt: Prompt) -> set[int]:
    """Numbers of rows that split a span."""
    return {place for span in prompt.layout.media for place in range(span.start + 1, span.end)}


@FEW
@given(PARTS)
def test_position_of_every_row_is_that_of_the_rules(parts):
    prompt = Prompt.join(parts)
    positions = positions_by_the_rules(prompt)
    assert [prompt.position(i) for i in range(prompt.num_rows + 1)] == positions
    assert prompt.next_pos == positions[-1] == prompt.num_rows + prompt.layout.offset


@FEW
@given(PARTS)
def test_pos_max_is_the_largest_position_of_the_rows(parts):
    prompt = Prompt.join(parts)
    positions = positions_by_the_rules(prompt)
    largest = [max(positions[:length], default=-1) for length in range(prompt.num_rows + 1)]
    assert [prompt.layout.pos_max(length) for length in range(prompt.num_rows + 1)] == largest


@FEW
@given(PARTS)
def test_rounding_gives_the_nearest_place_that_splits_no_span(parts):
    prompt = Prompt.join(parts)
    places = [place for place in range(prompt.num_rows + 1) if place not in split_places(prompt)]
    for length in range(prompt.num_rows + 1):
        assert prompt.layout.round_down(length) == max(place for place in places if place <= length)
        assert prompt.layout.round_up(length) == min(place for place in places if place >= length)


@FEW
@given(PARTS)
def test_run_end_includes_rows_while_they_are_of_one_kind(parts):
    prompt = Prompt.join(parts)
    kinds = [
        next((span for span in prompt.layout.media if span.start <= i < span.end), None) for i in range(prompt.num_rows)
    ]
    for start in range(prompt.num_rows):
        end = next((i for i in range(start, prompt.num_rows) if kinds[i] != kinds[start]), prompt.num_rows)
        assert prompt.layout.run_end(start, prompt.num_rows) == end


@FEW
@given(PARTS, PARTS)
def test_common_is_the_longest_whole_prefix_of_both(first, second):
    one, other = Prompt.join(first), Prompt.join(second)
    num_equal = num_equal_ids(one.ids, other.ids)
    splits = split_places(one) | split_places(other)
    expected = max(i for i in range(num_equal + 1) if i not in splits)
    assert one.layout.common(other.layout, num_equal) == other.layout.common(one.layout, num_equal) == expected


@FEW
@given(PARTS)
def test_upto_keeps_the_spans_of_the_first_rows(parts):
    prompt = Prompt.join(parts)
    for length in set(range(prompt.num_rows + 1)) - split_places(prompt):
        upto = prompt.layout.upto(length)
        assert [upto.position(i) for i in range(length + 1)] == [prompt.position(i) for i in range(length + 1)]
        assert all(span.end <= length for span in upto.media)


@FEW
@given(PARTS)
def test_text_ids_are_those_of_the_texts(parts):
    prompt = Prompt.join(parts)
    texts = [part for part in parts if not isinstance(part, MediaSpan)]
    assert list(prompt.layout.text_ids(prompt.ids)) == [token_id for text in texts for token_id in text]


def test_text_ids_without_media_are_the_same_array():
    ids = array("i", [1, 2, 3])
    assert TEXT_ONLY.text_ids(ids) is ids


def test_common_of_forged_ids_ends_before_the_span():
    one, other = (Layout((replace(image(name, 1, 1), start=2),)) for name in "AB")
    assert one.common(other, 9) == 2


def test_common_of_a_span_and_text_ends_before_the_span():
    assert Prompt.join([[1, 2], image("A")]).layout.common(TEXT_ONLY, 9) == 2


def test_media_ids_are_negative_and_of_the_digest_alone():
    ids = media_ids(b"one", 300)
    assert max(ids) < 0 and len(set(ids)) == 300
    assert media_ids(b"one", 20) == ids[:20] and media_ids(b"two", 20)[0] != ids[0]


def test_last_ends_are_one_for_each_section():
    layout = Prompt.join([[1], image("A"), image("B"), [1, 1], image("C"), [1]]).layout
    assert (layout.last_ends((14, 22)), layout.last_ends(())) == ([13, 21], [21])


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"start": 1}, "other ids"),
        ({"n_rows": 60}, "lie within"),
        ({"n_rows": 0}, "no rows"),
        ({"n_pos": 7}, "positions"),
        ({"last_t_offset": 3}, "positions"),
        ({"digest": b"B"}, "other ids"),
    ],
)
def test_media_fault_names_what_does_not_fit(changes, fault):
    prompt = Prompt.join([[1, 2], image("A"), [3]])
    found = media_fault(prompt.ids, (replace(prompt.layout.media[0], **changes),))
    assert found is None if fault is None else fault in found


def test_media_fault_of_spans_out_of_order_is_named():
    prompt = Prompt.join([image("A"), image("B")])
    assert "overlaps" in (media_fault(prompt.ids, prompt.layout.media[::-1]) or "")
