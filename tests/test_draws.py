"""Draws are races: a numpy twin of the random numbers, their independence, and how seldom a draw flips."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest

from llamafast import _kernels
from llamafast._sampling import Sampler
from tests.test_kernels import KINDS, Filters, Row, chi_square_excess, clean, make_row, survivors

Numbers = npt.NDArray[np.uint64]
GOLDEN, BLOCK = 0x9E3779B97F4A7C15, 64
FILTERS: list[Filters] = [{}, {"top_k": 7}, {"top_k": 300}, {"top_p": 0.3}, {"top_p": 0.95}, {"min_p": 0.01},
                          {"top_p": 0.9, "min_p": 0.001}, {"top_k": 40, "top_p": 0.95, "min_p": 0.05}]  # fmt: skip


# ---- the numpy twin


def mix(x: Numbers) -> Numbers:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def numbers(key: Numbers, places: npt.ArrayLike) -> Numbers:
    return mix(key + (np.atleast_1d(np.asarray(places, np.uint64)) + np.uint64(1)) * np.uint64(GOLDEN))


def exponential(random: Numbers) -> npt.NDArray[np.float64]:
    return -np.log1p(-((random >> np.uint64(12)).astype(np.float64) + 0.5) / 2.0**52)


def arrival_times(seed: int, position: int, n: int) -> npt.NDArray[np.float64]:
    """Times of n tokens: iid, exponential with mean 1. Of 64 tokens, the smallest time is drawn first."""
    stream = mix(mix(np.array([(seed + GOLDEN) % 2**64], np.uint64)) ^ np.uint64(0xD1B54A32D192ED03))
    key = numbers(stream, position)
    blocks = numbers(mix(key ^ np.uint64(0xA0761D6478BD642F)), np.arange((n + BLOCK - 1) // BLOCK))
    own = exponential(numbers(mix(key ^ np.uint64(0xE7037ED1A0B428DB)), np.arange(n)))
    ids = np.arange(n)
    is_first = (blocks % np.uint64(BLOCK))[ids // BLOCK] == (ids % BLOCK).astype(np.uint64)
    return (exponential(blocks) / BLOCK)[ids // BLOCK] + np.where(is_first, 0, own)


def twin(row: Row, kept: npt.NDArray[np.int64], temperature: float, seed: int, position: int) -> int:
    x = clean(row)[kept]
    times = np.log(arrival_times(seed, position, len(row))[kept]) - (x - x.max()) / temperature
    return int(kept[np.argmin(times)])


def make_mask(allowed: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.uint32]:
    bits = np.zeros((n + 31) // 32 * 32, np.uint8)
    bits[allowed] = 1
    return np.packbits(bits, bitorder="little").view(np.uint32)


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_draw_any_row_equals_the_twin(kind: str, filters: Filters) -> None:
    for n in (1, 2, 63, 65, 700, 9000):
        row = make_row(kind, n, seed=3)
        kept = survivors(row, **filters)
        drawn = _kernels.draw(row, 6, temperature=0.9, seed=8, position=5, **filters)
        assert drawn == [twin(row, kept, 0.9, 8, 5 + i) for i in range(6)]


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.9])
@pytest.mark.parametrize("kind", ["normal", "peaked", "ties"])
def test_draw_under_a_mask_is_the_winner_among_the_allowed(kind: str, share: float) -> None:
    row = make_row(kind, 40_000)
    allowed = np.flatnonzero(np.random.default_rng(2).random(len(row)) < share)
    drawn = Sampler(len(row), temperature=1.2, seed=4).draw(row, make_mask(allowed, len(row)), 8)
    assert drawn == [twin(row, allowed, 1.2, 4, i) for i in range(8)]


@pytest.mark.parametrize("settings", [{"top_k": 3}, {"typical_p": 0.5}, {"top_n_sigma": 1.5}, {"mirostat": 2}])
def test_draw_survivor_of_more_filters_stays_the_winner(settings: dict[str, float]) -> None:
    """Filters only remove tokens: if the winner of all tokens is kept, it wins."""
    row = make_row("normal", 2000)
    wide, narrow = (Sampler(2000, temperature=1.0, seed=6, **s).draw(row, n_draws=500) for s in ({}, settings))
    kept = set(narrow)
    stayed = [a == b for a, b in zip(wide, narrow, strict=True) if a in kept]
    assert all(stayed) and len(stayed) > 5


def test_draw_masks_that_hold_the_winner_do_not_change_it() -> None:
    row, rng = make_row("normal", 5000), np.random.default_rng(5)
    sampler = Sampler(5000, temperature=1.5, seed=9)
    for position in range(50):
        (token,) = sampler.draw(row, position=position)
        allowed = np.union1d(np.flatnonzero(rng.random(5000) < 0.1), [token])
        assert sampler.draw(row, make_mask(allowed, 5000), position=position) == [token]


# ---- distribution


def probe_then_mask(sampler: Sampler, row: Row, allowed: npt.NDArray[np.int64], position: int) -> int:
    """Draw as with a constraint: first among all tokens; if that one is not allowed, among the allowed tokens."""
    (token,) = sampler.draw(row, position=position)
    return token if token in allowed else sampler.draw(row, make_mask(allowed, len(row)), position=position)[0]


def test_draw_probed_then_masked_follows_the_distribution_of_the_allowed() -> None:
    row = make_row("normal", 60)
    allowed = np.flatnonzero(np.random.default_rng(7).random(60) < 0.3)
    p = np.zeros(60)
    p[allowed] = np.exp(row[allowed] - row.max())
    sampler = Sampler(60, seed=1)
    tokens = [probe_then_mask(sampler, row, allowed, i) for i in range(20_000)]
    assert chi_square_excess(tokens, p / p.sum()) < 4


@pytest.mark.parametrize("depth", [5.0, 12.0, 20.0])
def test_draw_unlikely_tokens_are_as_likely_as_they_should_be(depth: float) -> None:
    """A long tail of logits, about `depth` below zero, that together has the probability of the top token."""
    row = np.full(50_000, -depth, np.float32)
    row[777] = math.log(50_000) - depth
    hits = _kernels.draw(row, 20_000, seed=2).count(777)
    assert abs(hits - 10_000) < 4 * math.sqrt(5000)


def test_draw_places_of_a_block_are_independent_of_their_time() -> None:
    """Two rows that each allow one half of a block: each winner is the first token of its half."""
    row = np.zeros(64, np.float32)
    halves = [np.arange(0, 64, 2), np.arange(1, 64, 2)]
    low, high = (Sampler(64, seed=3).draw(row, make_mask(half, 64), 30_000) for half in halves)
    pairs = [a // 2 * 32 + b // 2 for a, b in zip(low, high, strict=True)]
    assert chi_square_excess(pairs, np.full(1024, 1 / 1024)) < 4


@pytest.mark.parametrize("step", ["position", "seed"])
def test_draw_neighbours_are_independent(step: str) -> None:
    row = np.zeros(40, np.float32)
    tokens = [_kernels.draw(row, 1, **{step: i})[0] for i in range(30_001)]
    pairs = [a * 40 + b for a, b in itertools.pairwise(tokens)]
    assert chi_square_excess(pairs, np.full(1600, 1 / 1600)) < 4


# ---- independence of draws


def test_draw_depends_on_the_position_alone() -> None:
    row = make_row("normal", 3000)
    sampler = Sampler(3000, temperature=1.3, seed=2)
    at_once = sampler.draw(row, n_draws=20)
    assert [sampler.draw(row, position=i)[0] for i in reversed(range(20))] == at_once[::-1]


@pytest.mark.parametrize("settings", [{}, {"top_p": 0.9}, {"xtc_probability": 0.5}, {"repetition_penalty": 1.2}])
def test_draw_sampler_made_anew_continues_as_the_first(settings: dict[str, float]) -> None:
    row = make_row("normal", 3000)
    first, tokens = Sampler(3000, seed=5, **settings), list[int]()
    for _ in range(12):
        tokens += first.draw(row)
        first.accept(tokens[-1])
    for k in (0, 1, 7):
        again, resumed = Sampler(3000, seed=5, **settings), tokens[:k]
        for token in resumed:
            again.accept(token)
        while len(resumed) < 12:
            resumed += again.draw(row)
            again.accept(resumed[-1])
        assert resumed == tokens


# ---- flips: how often the draw differs if the logits differ slightly


def total_variation(a: Row, b: Row, temperature: float) -> float:
    p, q = (np.exp((row.astype(np.float64) - row.max()) / temperature) for row in (a, b))
    return float(np.abs(p / p.sum() - q / q.sum()).sum() / 2)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
@pytest.mark.parametrize("n", [200, 32_000])
def test_draw_flips_are_at_most_twice_the_total_variation(n: int, temperature: float) -> None:
    row = make_row("normal", n, seed=1)
    other = row + np.random.default_rng(6).normal(0, 0.05, n).astype(np.float32)
    before, after = (_kernels.draw(x, 4000, temperature=temperature, seed=7) for x in (row, other))
    flips = sum(a != b for a, b in zip(before, after, strict=True)) / 4000
    tv = total_variation(row, other, temperature)
    most = 2 * tv / (1 + tv)
    assert flips < most + 3 * math.sqrt(most / 4000)


def test_draw_shifted_row_draws_the_same() -> None:
    """An exact shift of all logits changes no probability and no draw."""
    row = np.round(make_row("normal", 5000) * 64) / np.float32(64)
    assert _kernels.draw(row, 200, top_p=0.9) == _kernels.draw(row + np.float32(8), 200, top_p=0.9)
