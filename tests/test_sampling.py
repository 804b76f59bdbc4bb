"""The sampler of one sequence without a model: masks, bias, penalties, and unchanged rows."""

from __future__ import annotations

from array import array

import numpy as np
import pytest

from llamafast._sampling import DryBreakers, Sampler
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


# ---- penalties with a window, DRY, bad words, allowed tokens


def adjusted(sampler, row):
    return np.array(sampler.adjusted(row), np.float32)


def shown(sampler, prompt, generated=()):
    sampler.prime(array("i", prompt))
    for token in generated:
        sampler.accept(token)
    return sampler


@pytest.mark.parametrize("window", [-1, 0, 1, 5, 100])
def test_penalties_within_the_window_equal_numpy(window):
    rng = np.random.default_rng(5)
    tokens = rng.integers(0, 12, 60).tolist()
    sampler = Sampler(20, repetition_penalty=1.3, frequency_penalty=0.25, presence_penalty=0.5, penalty_last_n=window)
    shown(sampler, tokens[:40], tokens[40:])
    row = make_row("normal", 20)
    seen = tokens if window < 0 else tokens[max(0, len(tokens) - window) :]
    counts = np.bincount(seen, minlength=20)
    scaled = np.where(row > 0, row / np.float32(1.3), row * np.float32(1.3)) - (counts * 0.25 + 0.5)
    np.testing.assert_allclose(adjusted(sampler, row), np.where(counts > 0, scaled, row), rtol=1e-5)


def dry_twin(tokens, row, multiplier, base, allowed, window, breakers):
    """The longest repetition of each token, found at all places; breakers are single tokens."""
    tokens = tokens if window < 0 else tokens[len(tokens) - min(window, len(tokens)) :]
    n = len(tokens)
    limit = next((i for i in range(n) if tokens[n - 1 - i] in breakers), n)
    longest = {}
    for i in range(1, n):  # tokens[i] would come again
        length = 0
        while length < min(i, limit) and tokens[i - 1 - length] == tokens[n - 1 - length]:
            length += 1
        longest[tokens[i]] = max(length, longest.get(tokens[i], 0))
    twin = row.copy()
    for token, length in longest.items():
        if length >= allowed and n > allowed and token not in breakers:
            twin[token] -= np.float32(multiplier * base ** (length - allowed))
    return twin


@pytest.mark.parametrize("window", [-1, 0, 1, 7, 30, 1000])
@pytest.mark.parametrize("allowed", [0, 1, 2, 4])
@pytest.mark.parametrize("breakers", [(), (2,), (0, 1)])
def test_dry_equals_a_search_of_all_places(window, allowed, breakers):
    for seed in range(20):
        rng = np.random.default_rng([seed, allowed])
        tokens = rng.integers(0, rng.integers(2, 6), 50).tolist()
        sampler = Sampler(8, dry_multiplier=0.7, dry_base=1.5, dry_allowed_length=allowed, dry_penalty_last_n=window,
                          dry_breakers=DryBreakers(8, breakers))  # fmt: skip
        shown(sampler, tokens[:30], tokens[30:])
        row = make_row("normal", 8)
        twin = row if window == 0 else dry_twin(tokens, row, 0.7, 1.5, allowed, window, breakers)
        np.testing.assert_allclose(adjusted(sampler, row), twin, rtol=1e-5)


def test_dry_breaker_of_several_tokens_ends_a_repetition():
    breakers = DryBreakers(20, [], [((4, 5), (6, 7))])
    repetition, row = [1, 2, 3, 9, 1, 2, 3], np.zeros(20, np.float32)

    def penalty(before):
        tokens = [*before[:3], 9, *before]
        return -adjusted(shown(Sampler(20, dry_multiplier=1.0, dry_breakers=breakers), tokens), row)[9]

    assert -adjusted(shown(Sampler(20, dry_multiplier=1.0), repetition), row)[9] == pytest.approx(1.75)
    assert penalty([1, 2, 3]) == pytest.approx(1.75)
    # the breaker 5 6 7 ends three tokens before the end; 3 6 7 is not a breaker
    tail = [5, 6, 7, 1, 2, 3]
    long = shown(Sampler(20, dry_multiplier=1.0, dry_breakers=breakers), [0, *tail, 9, 0, *tail])
    none = shown(Sampler(20, dry_multiplier=1.0, dry_breakers=breakers), [0, 3, *tail[1:], 9, 0, 3, *tail[1:]])
    assert -adjusted(long, row)[9] == pytest.approx(1.75)
    assert -adjusted(none, row)[9] == pytest.approx(1.75**5)


def test_dry_endless_repetition_stays_finite():
    sampler = shown(Sampler(5, dry_multiplier=0.8, dry_base=1.75), [1] * 5000)
    value = adjusted(sampler, np.zeros(5, np.float32))[1]
    assert np.isfinite(value) and value < -1e37


def test_bad_words_ban_the_last_token_after_the_others():
    row = np.zeros(10, np.float32)
    sampler = shown(Sampler(10, bad_words=[[3], [1, 2, 4], [2, 5]]), [1, 2])
    banned = [set(np.flatnonzero(np.isneginf(adjusted(sampler, row))).tolist())]
    for token in (1, 2, 2):
        sampler.accept(token)
        banned.append(set(np.flatnonzero(np.isneginf(adjusted(sampler, row))).tolist()))
    assert banned == [{3}, {3}, {3, 4, 5}, {3, 5}]  # the prompt's 1 2 was not generated


def test_allowed_token_ids_are_all_that_is_drawn():
    sampler = Sampler(50, allowed_token_ids=[7, 30, 49], temperature=5.0, logit_bias=[(30, -np.inf)])
    assert set(sampler.draw(make_row("normal", 50), n_draws=200)) == {7, 49}


def test_allowed_token_ids_all_banned_draws_none():
    sampler = Sampler(50, allowed_token_ids=[30, 7], banned_ids=[7, 30], min_tokens=1)
    assert sampler.draw(make_row("normal", 50)) == [-1]


def test_allowed_token_ids_meet_the_mask():
    sampler = Sampler(50, allowed_token_ids=[7, 30])
    row = make_row("normal", 50)
    assert sampler.draw(row, make_mask([30, 40], 50), 50) == [30] * 50
    assert sampler.draw(row, make_mask([40], 50)) == [-1]


@pytest.mark.parametrize("settings", [{"bad_words": [[1, 50]]}, {"allowed_token_ids": [-1]}, {"banned_ids": [50]}])
def test_sampler_unknown_id_raises(settings):
    with pytest.raises(ValueError, match="is not in"):
        Sampler(50, **settings)


def test_sampler_unknown_setting_raises():
    with pytest.raises(TypeError, match="topk"):
        Sampler(50, topk=3)


def test_draw_everything_at_once_leaves_the_row_as_it_was():
    row = make_row("normal", 300)
    twin = row.copy()
    sampler = Sampler(
        300, logit_bias=[(1, 5.0)], repetition_penalty=1.3, penalty_last_n=9, dry_multiplier=1.0,
        bad_words=[[2], [3, 1]], allowed_token_ids=[1, 2, 3, 4, 5], banned_ids=[1, 2], min_tokens=99, typical_p=0.9,
        xtc_probability=1.0, dynatemp_range=0.5,
    )  # fmt: skip
    shown(sampler, [1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2], [3])
    sampler.draw(row, n_draws=20)
    np.testing.assert_array_equal(row, twin)
