"""ordered_chunks and equal_chunks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafast.engine.packing import cap_scored, equal_chunks, ordered_chunks

REMAINING = st.lists(st.integers(1, 50), min_size=1, max_size=10)
BUDGET = st.integers(1, 60)


@given(REMAINING, st.data(), st.integers(0, 30))
def test_cap_scored_prompts_fit_the_output_rows(remaining, data, spare):
    scored = data.draw(st.lists(st.booleans(), min_size=len(remaining), max_size=len(remaining)).filter(any))
    room = len(remaining) + spare
    capped = cap_scored(remaining, scored, room)
    assert sum(n if is_scored else 1 for n, is_scored in zip(capped, scored, strict=True)) <= room
    assert all(
        1 <= n <= was and (is_scored or n == was) for n, was, is_scored in zip(capped, remaining, scored, strict=True)
    )


@pytest.mark.parametrize(
    ("remaining", "budget", "chunks"),
    [
        ([100], 10, [10]),
        ([4], 10, [4]),
        ([100, 100], 10, [10, 0]),
        ([3, 100, 2], 10, [3, 7, 0]),
        ([5, 5], 0, [0, 0]),
    ],
)
def test_ordered_chunks_serve_the_first_first(remaining, budget, chunks):
    assert ordered_chunks(remaining, budget) == chunks


@given(REMAINING, BUDGET)
def test_ordered_chunks_use_all_and_finish_all_but_one(remaining, budget):
    chunks = ordered_chunks(remaining, budget)
    assert sum(chunks) == min(budget, sum(remaining))
    assert all(0 <= chunk <= n for chunk, n in zip(chunks, remaining, strict=True))
    assert sum(0 < chunk < n for chunk, n in zip(chunks, remaining, strict=True)) <= 1


@pytest.mark.parametrize(
    ("remaining", "budget", "chunks"),
    [
        ([20, 20], 64, [20, 20]),
        ([20, 23, 25], 512, [20, 20, 20]),
        ([3, 500], 512, [0, 500]),
        ([500, 500, 3], 512, [256, 256, 0]),
        ([100, 100, 100], 60, [20, 20, 20]),
        ([7], 3, [3]),
    ],
)
def test_equal_chunks_compute_most_with_one_length(remaining, budget, chunks):
    assert equal_chunks(remaining, budget, must_serve_first=False) == chunks


def test_equal_chunks_first_must_be_served():
    assert equal_chunks([3, 500], 512, must_serve_first=True) == [3, 3]


def test_equal_chunks_different_lengths_need_few_passes():
    remaining, num_passes = list(range(20, 52)), 0
    while remaining:
        chunks = equal_chunks(remaining, 512, must_serve_first=False)
        remaining = [n - chunk for n, chunk in zip(remaining, chunks, strict=True) if n > chunk]
        num_passes += 1
    assert num_passes <= 10


@given(REMAINING, BUDGET, st.booleans())
def test_equal_chunks_fit_and_have_one_length(remaining, budget, must_serve_first):
    chunks = equal_chunks(remaining, budget, must_serve_first)
    assert chunks[0] > 0 or not must_serve_first
    assert len(set(chunks) - {0}) == 1
    assert sum(chunks) <= budget
    assert all(chunk <= n for chunk, n in zip(chunks, remaining, strict=True))
