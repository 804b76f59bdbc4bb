"""The sampler of one sequence without a model: masks, bias, penalties, and rows that come back unchanged."""

from __future__ import annotations

from array import array

import numpy as np
import pytest

from llamafast._sampling import Sampler
from tests.test_kernels import chi_square_excess, make_row, probabilities


def make_mask(allowed, n_vocab):
    bits = np.zeros((n_vocab + 31) // 32 * 32, np.uint8)
    bits[allowed] = 1
    return np.packbits(bits, bitorder="little").view(np.uint32)


@pytest.mark.parametrize("n_vocab", [1, 31, 32, 33, 64, 1000, 4096, 248_320])
@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
def test_draw_masked_greedy_equals_numpy(n_vocab, share):
    rng = np.random.default_rng(n_vocab)
    row = make_row("ties", n_vocab)
    allowed = np.union1d(np.flatnonzero(rng.random(n_vocab) < share), [n_vocab - 1])
    best = int(allowed[np.argmax(row[allowed])])
    assert Sampler(n_vocab, temperature=0.0).draw(row, make_mask(allowed, n_vocab)) == [best]


@pytest.mark.parametrize("kind", ["normal", "ties", "holes"])
@pytest.mark.parametrize("filters", [{}, {"top_k": 5}, {"top_p": 0.8}, {"top_k": 20, "top_p": 0.9, "min_p": 0.05}])
def test_draw_masked_follows_the_distribution_of_the_allowed(kind, filters):
    row = make_row(kind, 300)
    allowed = np.flatnonzero(np.random.default_rng(1).random(300) < 0.4)
    p = np.zeros(300)
    p[allowed] = probabilities(row[allowed], 0.8, filters)
    tokens = Sampler(300, temperature=0.8, seed=5, **filters).draw(row, make_mask(allowed, 300), 100_000)
    assert chi_square_excess(tokens, p) < 4


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_draw_masked_nothing_allowed_returns_minus_one(temperature):
    row = make_row("normal", 100)
    row[[3, 4]] = -np.inf, np.nan
    sampler = Sampler(100, temperature=temperature, logit_bias=[(5, -np.inf)])
    assert [sampler.draw(row, make_mask(allowed, 100))[0] for allowed in ([], [3, 4, 5])] == [-1, -1]


def test_draw_masked_bits_beyond_the_row_are_ignored():
    row = make_row("normal", 40)
    assert Sampler(40).draw(row, np.array([0, 0xFFFFFF00], np.uint32)) == [-1]


def test_draw_masked_bias_and_bans_count():
    row = np.zeros(64, np.float32)
    sampler = Sampler(64, temperature=0.0, logit_bias=[(9, 1.0), (7, 2.0)], banned_ids=[7], min_tokens=1)
    mask = make_mask([6, 7, 9], 64)
    before = sampler.draw(row, mask)
    sampler.accept(0)
    assert (before, sampler.draw(row, mask)) == ([9], [7])


@pytest.mark.parametrize("masked", [False, True])
def test_draw_leaves_the_row_as_it_was(masked):
    row = make_row("holes", 200)
    twin = row.copy()
    sampler = Sampler(200, logit_bias=[(1, 5.0), (1, 2.0)], repetition_penalty=1.3, banned_ids=[1, 2], min_tokens=9)
    sampler.prime(array("i", [1, 2, 3, 3]))
    sampler.draw(row, make_mask([1, 2, 3, 100], 200) if masked else None, 10)
    np.testing.assert_array_equal(row, twin)


@pytest.mark.parametrize(("n", "n_words"), [(99, 4), (100, 3), (100, 5)])
def test_draw_sizes_that_do_not_fit_raise(n, n_words):
    with pytest.raises(ValueError, match="a row has 100 logits, a mask 4 words"):
        Sampler(100).draw(np.zeros(n, np.float32), np.zeros(n_words, np.uint32))
