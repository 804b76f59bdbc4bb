"""shape_of against json, and that it never fails."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafast._json_shape import shape_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('a"\\{}[]:,\u00e9', max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('a"\\:{', max_size=3), inner, max_size=3),
    max_leaves=12,
)


def counted(value: object, depth: int = 0) -> tuple[int, int, int]:
    """Objects, strings with names, and depth."""
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
def test_shape_of_what_is_no_json_counts_something(raw):
    shape = shape_of(raw)
    assert 0 < shape.weight <= 7 * len(raw) + 1


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


def test_shape_of_values_weighs_what_they_take_to_build():
    weights = [shape_of(b"[" + b",".join([item] * 1000) + b"]").weight for item in (b"1", b'"a"', b"[]", b'{"a":1}')]
    assert [round(weight / 1000) for weight in weights] == [1, 2, 7, 14]
