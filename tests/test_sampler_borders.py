"""Settings at the limits of double, float and int32: legal values draw the same tokens as their 32-bit limits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llamafast._sampling import Sampler
from tests.test_kernels import make_row

N = 500
TINY, HUGE = (5e-324, 1e-300, 1e-46, 1e-40), (1e39, 1e300, 1.7e308)
NUMBERS = [
    "temperature", "top_p", "min_p", "typical_p", "top_n_sigma", "xtc_probability", "xtc_threshold", "dynatemp_range",
    "dynatemp_exponent", "mirostat_tau", "mirostat_eta", "repetition_penalty", "frequency_penalty", "presence_penalty",
    "dry_multiplier", "dry_base",
]  # fmt: skip
BESIDE: dict[str, dict[str, float]] = {
    "xtc_threshold": {"xtc_probability": 1.0},
    "dynatemp_exponent": {"dynatemp_range": 0.5},
    "mirostat_tau": {"mirostat": 2},
    "mirostat_eta": {"mirostat": 1},
    "dry_base": {"dry_multiplier": 1.0},
}


def drawn(**settings: float) -> list[int]:
    """Draw and accept forty tokens, so that penalties, DRY and mirostat have an effect."""
    row, sampler, tokens = make_row("ties", N), Sampler(N, seed=1, **settings), list[int]()
    for _ in range(40):
        tokens += sampler.draw(row)
        sampler.accept(tokens[-1])
    return tokens


@pytest.mark.parametrize("value", [*TINY, *HUGE, 0.0])
@pytest.mark.parametrize("name", NUMBERS)
def test_sampler_border_values_draw_tokens(name: str, value: float) -> None:
    if name == "repetition_penalty" and value == 0:
        return
    assert all(0 <= token < N for token in drawn(**{name: value}, **BESIDE.get(name, {})))


@pytest.mark.parametrize("value", TINY)
def test_sampler_tiny_limits_keep_the_best_only(value: float) -> None:
    row = make_row("normal", N)
    best = [int(row.argmax())] * 20
    for name in ("temperature", "top_p", "top_n_sigma"):
        assert Sampler(N, **{name: value}).draw(row, n_draws=20) == best


@pytest.mark.parametrize("name", ["min_p", "xtc_probability", "dynatemp_range", "frequency_penalty", "dry_multiplier"])
def test_sampler_tiny_strengths_change_nothing(name: str) -> None:
    assert drawn(**{name: 1e-46}) == drawn()


def test_sampler_endless_heat_draws_from_all() -> None:
    row = make_row("normal", 20)
    assert set(Sampler(20, temperature=1e300).draw(row, n_draws=400)) == set(range(20))


@pytest.mark.parametrize("value", [1e-46, 1e39])
def test_sampler_repetition_border_values_leave_numbers(value: float) -> None:
    row = np.array([0.0, 2.0, -2.0, 1.0], np.float32)
    sampler = Sampler(4, repetition_penalty=value)
    for token in range(3):
        sampler.accept(token)
    assert not np.isnan(np.asarray(sampler.adjusted(row))).any()


@pytest.mark.parametrize("value", [1e300, -1e300, -math.inf])
def test_sampler_bias_border_values_leave_numbers(value: float) -> None:
    row = np.array([-math.inf, 1.0], np.float32)
    adjusted = np.asarray(Sampler(2, logit_bias=[(0, value), (1, value)]).adjusted(row))
    assert np.isneginf(adjusted[0]) and np.isneginf(adjusted[1]) == (value == -math.inf)


@pytest.mark.parametrize("name", NUMBERS)
def test_sampler_nan_raises(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Sampler(N, **{name: math.nan})


@pytest.mark.parametrize("value", [2**31, 2**40, 2**64])
def test_sampler_counts_beyond_32_bits_are_as_good_as_endless(value: int) -> None:
    counts = {"penalty_last_n": value, "dry_allowed_length": value, "dry_penalty_last_n": value, "min_tokens": value}
    sampler = Sampler(N, top_k=value, frequency_penalty=0.1, dry_multiplier=1.0, banned_ids=[3], **counts)
    assert all(0 <= token < N and token != 3 for token in sampler.draw(make_row("normal", N), n_draws=50))
