"""The row kernels agree with short numpy twins, and draws follow exact distributions."""

from __future__ import annotations

import math
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import pytest

from llamafast import _kernels

Row = npt.NDArray[np.float32]
SIZES = [1, 2, 3, 15, 63, 64, 65, 127, 128, 129, 1000, 4095, 4096, 4097, 8192, 32000, 262144]
KINDS = ["normal", "peaked", "ties", "equal", "ascending", "descending", "holes", "one", "tail"]


class Filters(TypedDict, total=False):
    top_k: int
    top_p: float
    min_p: float


def make_row(kind: str, n: int, seed: int = 0) -> Row:
    rng = np.random.default_rng([seed, n])
    row = rng.normal(0, 3, n)
    if kind == "peaked":
        row[rng.integers(n)] += 15
    elif kind == "ties":
        row = np.round(row)
    elif kind == "equal":
        row[:] = -1.5
    elif kind == "ascending":
        row.sort()
    elif kind == "descending":
        row[::-1].sort()
    elif kind == "holes":
        row[rng.random(n) < 0.5] = -np.inf
        row[rng.random(n) < 0.2] = np.nan
        row[rng.integers(n)] = 0.5
    elif kind == "one":
        row[:] = -np.inf
        row[n // 2] = -3.0
    elif kind == "tail":
        row[: n // 2] -= 200
    return row.astype(np.float32)


def clean(row: Row) -> npt.NDArray[np.float64]:
    return np.where(np.isnan(row), -np.inf, row).astype(np.float64)


def survivors(row: Row, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> npt.NDArray[np.int64]:
    """Twin of the filters: sorts the row and cuts it three times."""
    x = clean(row)
    order = np.argsort(-x, kind="stable")[: int(np.isfinite(x).sum())]
    order = order[:top_k] if top_k > 0 else order
    p = np.exp(x[order] - x.max())
    if top_p < 1:
        order = order[: int(np.searchsorted(np.cumsum(p), np.float64(np.float32(top_p)) * p.sum())) + 1]
    if min_p > 0:
        order = order[x[order] >= min(np.float32(x.max()) + np.log(np.float32(min_p)), x.max())]
    return np.sort(order)


def probabilities(row: Row, temperature: float, filters: Filters) -> npt.NDArray[np.float64]:
    kept = survivors(row, **filters)
    p = np.zeros(len(row), np.float64)
    p[kept] = np.exp((row[kept].astype(np.float64) - clean(row).max()) / temperature)
    p /= p.sum()
    return p


def chi_square_excess(tokens: list[int], p: npt.NDArray[np.float64]) -> float:
    """Standard deviations of the chi-square statistic above its mean (Wilson-Hilferty); rare values are pooled."""
    observed = np.bincount(tokens, minlength=len(p)).astype(np.float64)
    expected = p * len(tokens)
    assert observed[p == 0].sum() == 0
    common = expected >= 10
    o = np.append(observed[common], observed[~common].sum())
    e = np.append(expected[common], expected[~common].sum())
    o, e = o[e > 0], e[e > 0]
    df = len(o) - 1
    if df == 0:
        return 0.0
    statistic = float(((o - e) ** 2 / e).sum())
    return (math.pow(statistic / df, 1 / 3) - (1 - 2 / (9 * df))) / math.sqrt(2 / (9 * df))


@pytest.mark.parametrize("kind", KINDS)
def test_argmax_any_row_equals_numpy(kind: str) -> None:
    rows = [make_row(kind, n) for n in SIZES]
    assert [_kernels.argmax(row) for row in rows] == [int(np.argmax(clean(row))) for row in rows]


@pytest.mark.parametrize("value", [-np.inf, np.nan])
def test_argmax_nothing_there_returns_zero(value: float) -> None:
    assert [_kernels.argmax(np.full(n, value, np.float32)) for n in (1, 64, 5000)] == [0, 0, 0]


@pytest.mark.parametrize("place", [0, 63, 64, 4095, 4096, 4999])
def test_argmax_infinity_returns_its_first_place(place: int) -> None:
    row = make_row("normal", 5000)
    row[place:] = np.inf
    assert _kernels.argmax(row) == place


@pytest.mark.parametrize("kind", KINDS)
def test_logsumexp_any_row_equals_numpy(kind: str) -> None:
    rows = [make_row(kind, n) for n in SIZES]
    twins = [clean(row).max() + np.log(np.exp(clean(row) - clean(row).max()).sum()) for row in rows]
    np.testing.assert_allclose([_kernels.logsumexp(row) for row in rows], twins, rtol=3e-7, atol=5e-7)


def test_logsumexp_infinities_are_kept() -> None:
    nothing, certain = np.full(5000, -np.inf, np.float32), make_row("normal", 5000)
    certain[4500] = np.inf
    assert (_kernels.logsumexp(nothing), _kernels.logsumexp(certain)) == (-math.inf, math.inf)


@pytest.mark.parametrize("offset", [-1e4, 0.0, 1e4])
def test_logsumexp_weights_stay_within_a_millionth(offset: float) -> None:
    errors = [
        _kernels.logsumexp(np.array([offset, offset - d], np.float32)) - offset - math.log1p(math.exp(-d))
        for d in map(float, np.arange(0, 16, 0.0625))
    ]
    assert max(map(abs, errors)) < 1e-6


def test_penalize_listed_ids_equals_numpy() -> None:
    row, ids = make_row("normal", 1000), np.arange(0, 1000, 7, dtype=np.int32)
    counts = (ids % 4).astype(np.int32)
    scaled = np.where(row[ids] > 0, row[ids] / np.float32(1.3), row[ids] * np.float32(1.3))
    twin = row.copy()
    twin[ids] = np.where(counts > 0, scaled - (counts * 0.25 + 0.5), row[ids])
    _kernels.penalize(row, ids, counts, repetition=1.3, frequency=0.25, presence=0.5)
    np.testing.assert_allclose(row, twin, rtol=1e-6)


def test_penalize_no_ids_changes_nothing() -> None:
    row, none = make_row("normal", 100), np.zeros(0, np.int32)
    twin = row.copy()
    _kernels.penalize(row, none, none, repetition=2.0)
    np.testing.assert_array_equal(row, twin)


@pytest.mark.parametrize(
    ("ids", "counts", "repetition"), [([100], [1], 1.1), ([-1], [1], 1.1), ([1, 2], [1], 1.1), ([1], [1], 0.0)]
)
def test_penalize_bad_arguments_raise_and_change_nothing(ids: list[int], counts: list[int], repetition: float) -> None:
    row = make_row("normal", 100)
    with pytest.raises(ValueError):
        _kernels.penalize(row, np.array(ids, np.int32), np.array(counts, np.int32), repetition=repetition)
    np.testing.assert_array_equal(row, make_row("normal", 100))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 2, 20, 64, 1000, 10**9])
def test_top_n_any_row_equals_stable_sort(kind: str, k: int) -> None:
    for row in (make_row(kind, n) for n in SIZES[: -1 if k > 64 else None]):
        order = np.argsort(-clean(row), kind="stable")[:k].tolist()
        assert _kernels.top_n(row, k) == list(zip(order, clean(row)[order].tolist(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_rank_any_row_equals_numpy(kind: str) -> None:
    for row in (make_row(kind, n) for n in SIZES):
        for i in {0, len(row) // 2, len(row) - 1, int(np.argmax(clean(row)))}:
            assert _kernels.rank(row, i) == 1 + int((clean(row) > clean(row)[i]).sum())


@pytest.mark.parametrize("i", [-1, 10])
def test_rank_outside_the_row_raises(i: int) -> None:
    with pytest.raises(ValueError, match="of a row of 10"):
        _kernels.rank(make_row("normal", 10), i)


def test_top_n_zero_returns_nothing() -> None:
    assert _kernels.top_n(make_row("normal", 10), 0) == []


FILTERS: list[Filters] = [
    {},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 40, "top_p": 0.8},
    {"top_k": 100},
    {"top_k": 100, "top_p": 0.9, "min_p": 0.05},
    {"top_p": 0.0},
    {"top_p": 0.3},
    {"top_p": 0.95},
    {"top_p": 0.9999},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"top_p": 0.7, "min_p": 0.02},
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_draw_filtered_rows_reach_exactly_the_survivors(kind: str, filters: Filters) -> None:
    # So hot that all survivors are almost equally likely: n ln n + 7n draws miss one only in a thousandth of all rows.
    for n in (1, 2, 64, 65, 700):
        row = make_row(kind, n, seed=1)
        kept = survivors(row, **filters)
        n_draws = int(len(kept) * (math.log(len(kept)) + 9)) + 1
        drawn = _kernels.draw(row, n_draws, temperature=1e6, seed=3, **filters)
        assert sorted(set(drawn)) == kept.tolist()


@pytest.mark.parametrize("top_k", [1, 20, 80])
@pytest.mark.parametrize("kind", KINDS)
def test_draw_top_k_on_long_rows_reaches_exactly_the_survivors(kind: str, top_k: int) -> None:
    for n in (2000, 5000, 9000):  # fewer and more blocks than top_k: two ways to find the floor
        row = make_row(kind, n, seed=4)
        drawn = _kernels.draw(row, 14 * top_k + 1, temperature=1e6, top_k=top_k, seed=6)
        assert sorted(set(drawn)) == survivors(row, top_k=top_k).tolist()


@pytest.mark.parametrize("top_k", [0, 50, 5000])
@pytest.mark.parametrize("kind", KINDS)
def test_draw_large_rows_stay_within_the_survivors(kind: str, top_k: int) -> None:
    row = make_row(kind, 151_936)
    kept = survivors(row, top_k=top_k, top_p=0.9)
    drawn = _kernels.draw(row, 3, temperature=1e6, top_k=top_k, top_p=0.9, seed=5)
    assert set(drawn) <= set(kept.tolist())


@pytest.mark.parametrize(
    ("temperature", "filters"),
    [(0.7, filters) for filters in FILTERS]
    + [(t, {"top_p": 0.9, "min_p": min_p}) for t in (1.0, 2.5) for min_p in (0.0, 0.05)],
    ids=str,
)
def test_draw_many_times_follows_the_exact_distribution(temperature: float, filters: Filters) -> None:
    row = make_row("ties", 150, seed=2)
    row[50:100] = make_row("holes", 50, seed=2)
    p = probabilities(row, temperature, filters)
    tokens = _kernels.draw(row, 100_000, temperature=temperature, seed=11, **filters)
    assert chi_square_excess(tokens, p) < 4


@pytest.mark.parametrize("n", [1, 2, 64, 4096, 262144])
def test_draw_greedy_equals_argmax(n: int) -> None:
    row = make_row("ties", n)
    assert _kernels.draw(row, 3, temperature=0.0, top_k=5, top_p=0.5) == [int(row.argmax())] * 3


@pytest.mark.parametrize("temperature", [1e-45, 1e-30, 1e-6])
def test_draw_nearly_cold_equals_argmax(temperature: float) -> None:
    row = make_row("normal", 5000)
    assert _kernels.draw(row, 20, temperature=temperature) == [int(row.argmax())] * 20


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_draw_infinity_is_certain(filters: Filters) -> None:
    row = make_row("holes", 500)
    row[[300, 400]] = np.inf
    assert _kernels.draw(row, 10, **filters) == [300] * 10


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_draw_nothing_there_returns_zero(filters: Filters) -> None:
    row = np.full(500, -np.inf, np.float32)
    row[::3] = np.nan
    assert _kernels.draw(row, 10, **filters) == [0] * 10


def test_draw_extreme_logits_never_leave_the_row() -> None:
    row = np.array([3.4e38, -3.4e38, 0.0, 3.4e38, -np.inf, np.nan] * 50, np.float32)
    drawn = _kernels.draw(row, 5000, temperature=0.7, top_p=0.99, min_p=0.01)
    assert set(drawn) <= set(np.flatnonzero(row == row[0]).tolist())


def test_draw_zero_signs_are_equal() -> None:
    row = np.array([-0.0, 0.0, -0.0, 0.0], np.float32)
    assert set(_kernels.draw(row, 100, top_k=2)) == {0, 1}


def test_draw_same_seed_same_tokens() -> None:
    row = make_row("normal", 5000)
    runs = [_kernels.draw(row, 200, temperature=1.5, top_p=0.99, seed=seed) for seed in (7, 7, 8, -1, 2**64 - 1)]
    assert runs[0] == runs[1] != runs[2]
    assert runs[3] == runs[4]


def test_draw_neighbouring_seeds_are_independent() -> None:
    row = np.zeros(100, np.float32)
    first = [_kernels.draw(row, 1, seed=seed)[0] for seed in range(20_000)]
    assert chi_square_excess(first, np.full(100, 0.01)) < 4
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.03


def test_draw_leaves_the_row_alone() -> None:
    row = make_row("holes", 3000)
    twin = row.copy()
    _kernels.draw(row, 5, top_k=10, top_p=0.9, min_p=0.1)
    _kernels.top_n(row, 10)
    np.testing.assert_array_equal(row, twin)


@pytest.mark.parametrize("call", ["argmax", "logsumexp", "draw"])
def test_kernels_empty_row_raises(call: str) -> None:
    with pytest.raises(ValueError, match="not 0"):
        getattr(_kernels, call)(np.zeros(0, np.float32))


def test_draw_negative_count_raises() -> None:
    with pytest.raises(ValueError, match="n_draws"):
        _kernels.draw(np.zeros(4, np.float32), -1)
