"""fair_chunks and equal_chunks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafast.engine.packing import equal_chunks, fair_chunks

REMAINING = st.lists(st.integers(1, 50), min_size=1, max_size=10)
BUDGET = st.integers(1, 60)


@pytest.mark.parametrize(
    ("remaining", "budget", "chunks"),
    [
        ([100], 10, [10]),
        ([4], 10, [4]),
        ([100, 100], 10, [5, 5]),
        ([100, 2, 100], 12, [5, 2, 5]),
        ([100, 100, 100], 10, [4, 3, 3]),
        ([5, 5, 5], 2, [1, 1, 0]),
    ],
)
def test_fair_chunks_share_the_budget(remaining, budget, chunks):
    assert fair_chunks(remaining, budget) == chunks


@given(REMAINING, BUDGET)
def test_fair_chunks_use_all_and_differ_by_one_at_most(remaining, budget):
    chunks = fair_chunks(remaining, budget)
    assert sum(chunks) == min(budget, sum(remaining))
    assert all(0 <= chunk <= n for chunk, n in zip(chunks, remaining, strict=True))
    unfinished = [chunk for chunk, n in zip(chunks, remaining, strict=True) if chunk < n]
    assert not unfinished or max(unfinished) - min(unfinished) <= 1


@pytest.mark.parametrize(
    ("remaining", "budget", "chunks"),
    [
        ([20, 20], 64, [20, 20]),
        ([20, 23, 25], 512, [20, 20, 20]),
        ([500, 500, 3], 512, [256, 256, 0]),
        ([500, 3], 512, [500, 0]),
        ([100, 100, 100], 60, [20, 20, 20]),
        ([3, 500], 512, [3, 3]),
        ([7], 3, [3]),
    ],
)
def test_equal_chunks_have_one_length(remaining, budget, chunks):
    assert equal_chunks(remaining, budget) == chunks


@given(REMAINING, BUDGET)
def test_equal_chunks_fit_and_include_the_earliest(remaining, budget):
    chunks = equal_chunks(remaining, budget)
    assert chunks[0] > 0
    assert len(set(chunks) - {0}) == 1
    assert sum(chunks) <= budget
    assert all(chunk <= n for chunk, n in zip(chunks, remaining, strict=True))
