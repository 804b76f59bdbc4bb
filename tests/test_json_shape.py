"""shape_of agrees with json, and never fails."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafast._json_shape import long_strings, shape_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('a"\\{}[]:,\u00e9', max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('a"\\:{', max_size=3), inner, max_size=3),
    max_leaves=12,
)


def counted(value: object, depth: int = 0) -> tuple[int, int, int]:
    """(number of objects, number of strings with names, depth)."""
    if isinstance(value, str):
        return 0, 1, depth
    if not isinstance(value, (dict, list)):
        return 0, 0, depth
    parts = [counted(part, depth + 1) for part in (value.values() if isinstance(value, dict) else value)]
    num_objects = isinstance(value, dict) + sum(part[0] for part in parts)
    num_strings = (len(value) if isinstance(value, dict) else 0) + sum(part[1] for part in parts)
    return num_objects, num_strings, max([depth + 1, *(part[2] for part in parts)])


@settings(deadline=None)
@given(VALUES, st.sampled_from([None, 1]))
def test_shape_of_any_document_counts_as_json_does(value, indent):
    shape = shape_of(json.dumps(value, ensure_ascii=False, indent=indent).encode())
    assert (shape.num_objects, shape.num_strings, shape.depth) == counted(value)


@settings(deadline=None)
@given(st.text('"\\{}[]:, a').map(str.encode) | st.binary())
def test_shape_of_other_bytes_does_not_fail(raw):
    shape = shape_of(raw)
    assert 0 < shape.weight <= 10 * len(raw) + 1


@pytest.mark.parametrize(
    ("raw", "fields", "largest"),
    [
        (b"{}", 0, b""),
        (b'{"a":[1,2],"b":{"c":[1,2,3]},"d":0}', 3, b"b"),
        (b'{"a":1,"b\\"":[[],[]]}', 2, b'b\\"'),
        (b'[{"a":1}]', 0, b""),
        (b'{"a":"{\\"b\\":1}"}', 1, b"a"),
    ],
)
def test_shape_of_an_object_knows_its_fields_and_the_largest(raw, fields, largest):
    shape = shape_of(raw)
    assert (shape.num_fields, shape.largest) == (fields, largest)


def test_shape_of_values_weighs_the_time_to_build_them():
    weights = [shape_of(b"[" + b",".join([item] * 1000) + b"]").weight for item in (b"1", b'"a"', b"[]", b'{"a":1}')]
    assert [round(weight / 1000) for weight in weights] == [1, 4, 7, 20]


@settings(deadline=None)
@given(st.lists(st.text('ab"\\\n\u00e9\u4e2d\U0001f642', max_size=30), max_size=3), st.booleans(), st.integers(1, 9))
def test_long_strings_cut_anywhere_join_to_the_whole(texts, ascii_only, piece):
    raw = json.dumps(texts, ensure_ascii=ascii_only).encode()
    for places in long_strings(raw, piece):
        pieces = [json.loads(b'"' + raw[start:stop] + b'"') for start, stop in pairwise(places)]
        assert "".join(pieces) in texts


def test_long_strings_are_cut_into_pieces_of_the_size():
    raw = b'{"a":"' + b"x" * 1000 + b'","b":"' + b"\\u4e2d" * 100 + b'","c":"x"}'
    assert [[stop - start for start, stop in pairwise(places)] for places in long_strings(raw, 300)] == [
        [300, 300, 300, 100],
        [300, 300],
    ]


@pytest.mark.parametrize("raw", [b'"abc', b'"ab\\', b'"ab\\u', b'"', b""])
def test_long_strings_without_an_end_are_omitted(raw):
    assert long_strings(raw, 1) == []
