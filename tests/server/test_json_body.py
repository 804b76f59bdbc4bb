"""json_body.loads gives the same results as orjson.loads."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafast.server.receiving.json_body import loads

TEXTS = st.text('ab"\\\u00e9\U0001f642', max_size=30)
VALUES = st.recursive(
    TEXTS | st.integers(0, 9) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=10,
)


@settings(deadline=None)
@given(VALUES, st.integers(1, 40))
def test_loads_in_pieces_gives_what_orjson_gives(value, piece):
    assert loads(orjson.dumps(value), piece) == value


@pytest.mark.parametrize(
    "raw", [b'["aaaaaa\xff"]', b'["aaaa\\x"]', b'["aaaaaa', b'["aaaa\naa"]', b'["aaaa\\ud800aaaaaaaa"]']
)
def test_loads_of_bad_json_in_pieces_is_an_error(raw):
    with pytest.raises(orjson.JSONDecodeError):
        loads(raw, 2)
