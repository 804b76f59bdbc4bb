"""JsonScanner agrees with the json module about the ends of values, and about what is not JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafast.chat.reading.json_scanner import JsonScanner

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def scan(text: str, pieces: int = 1) -> tuple[int, JsonScanner]:
    """The number of characters consumed of a text in pieces of this size."""
    scanner, taken = JsonScanner(), 0
    for start in range(0, len(text), pieces):
        piece = text[start : start + pieces]
        end = scanner.scan(piece, 0)
        taken += end
        if end < len(piece):
            break
    return taken, scanner


@settings(deadline=None, max_examples=60)
@given(VALUES, st.integers(1, 5), st.sampled_from([None, 2]), st.booleans())
def test_scanner_any_value_ends_where_it_ends(value, pieces, indent, is_ascii) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=is_ascii)
    taken, scanner = scan(text + ",rest", pieces)
    assert (taken, scanner.is_done, scanner.is_wrong) == (len(text), True, False)


@settings(deadline=None, max_examples=60)
@given(VALUES.filter(lambda value: isinstance(value, (dict, list))), st.data())
def test_scanner_text_is_whole_only_where_json_says_so(value, data) -> None:
    text = json.dumps(value)
    # Not the first character: several ends of a bare number are valid ("0null").
    place = data.draw(st.integers(1, len(text) - 1))
    text = text[:place] + data.draw(st.sampled_from(list('{}[]",:\\0a-. \n'))) + text[place + 1 :]
    try:
        end = json.JSONDecoder(parse_constant=lambda _: 1 / 0).raw_decode(text)[1]
    except (ValueError, ZeroDivisionError):
        end = -1
    taken, scanner = scan(text, 3)
    assert (taken if scanner.is_done else -1) == end


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ('{"a" 1}', 5),
        ("{a: 1}", 1),
        ('{"a": 1,}', 8),
        ("[1,]", 3),
        ("[01]", 3),
        ("[NaN]", 1),
        ("[tru]", 4),
        ('["\\x"]', 3),
        ('["\\u12g4"]', 6),
        ('["a\nb"]', 3),
        ("['a']", 1),
        ("[1 2]", 3),
        ("]", 0),
    ],
)
@pytest.mark.parametrize("pieces", [1, 2, 100])
def test_scanner_wrong_value_is_taken_up_to_the_fault(text: str, taken: int, pieces: int) -> None:
    assert (scan(text, pieces)[0], scan(text, pieces)[1].is_wrong) == (taken, True)


@pytest.mark.parametrize("text", ["[" * 100_000, "[" + "1" * 100_000, '{"a":' * 100_000])
def test_scanner_what_json_loads_cannot_read_is_wrong(text: str) -> None:
    assert scan(text, 1000)[1].is_wrong
