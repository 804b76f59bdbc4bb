"""The rarer filters: draws follow the exact distributions of numpy twins and of llama.cpp's own samplers."""

from __future__ import annotations

import ctypes
import itertools
import math

import llama_cpp.llama_cpp as lib
import numpy as np
import pytest

from llamafast._sampling import Sampler
from tests.test_kernels import KINDS, chi_square_excess, clean, make_row, survivors

SETTINGS = [
    {"top_n_sigma": 1.0},
    {"top_n_sigma": 0.3, "top_p": 0.9},
    {"top_n_sigma": 2.0, "top_k": 9, "min_p": 0.01},
    {"typical_p": 0.2},
    {"typical_p": 0.7},
    {"typical_p": 0.95, "top_k": 30},
    {"typical_p": 0.6, "top_p": 0.8, "min_p": 0.02},
    {"xtc_probability": 1.0, "xtc_threshold": 0.05},
    {"xtc_probability": 0.5, "xtc_threshold": 0.02, "top_k": 20},
    {"xtc_probability": 0.3, "xtc_threshold": 0.01, "top_p": 0.9, "dynatemp_range": 0.4},
    {"xtc_probability": 1.0, "xtc_threshold": 0.6},
    {"xtc_probability": 1.0, "xtc_threshold": 0.0},
    {"dynatemp_range": 0.5},
    {"dynatemp_range": 0.3, "dynatemp_exponent": 2.0, "top_k": 12},
    {
        "top_n_sigma": 3.0,
        "typical_p": 0.9,
        "top_p": 0.95,
        "min_p": 0.001,
        "xtc_probability": 0.5,
        "dynatemp_range": 0.2,
    },
    {"mirostat": 1, "mirostat_tau": 3.0},
    {"mirostat": 1, "mirostat_tau": 0.5, "dynatemp_range": 0.2},
    {"mirostat": 2, "mirostat_tau": 2.0},
    {"mirostat": 2, "mirostat_tau": 0.01},
    {"mirostat": 2, "mirostat_tau": 1e6},
]


# ---- the numpy twin: everything sorted, one filter after the other; ids best first


def softmax(x):
    p = np.exp(x - x.max())
    return p / p.sum()


def keep_typical(x, ids, share):
    p = softmax(x[ids])
    surprise = -np.log(np.maximum(p, 1e-300))
    order = np.argsort(np.abs(surprise - (p * surprise).sum()), kind="stable")
    n_kept = int(np.searchsorted(np.cumsum(p[order]), np.float32(share))) + 1
    return ids[np.sort(order[:n_kept])]


def exclude_top(x, ids, threshold):
    n_likely = int((softmax(x[ids]) >= np.float32(threshold)).sum())
    return ids[n_likely - 1 :] if n_likely >= 2 else ids


def dynamic_temperature(x, ids, temperature, spread, exponent):
    if spread <= 0 or len(ids) < 2:
        return temperature
    p = softmax(x[ids])
    entropy = -(p * np.log(np.maximum(p, 1e-300))).sum()
    low = max(0.0, temperature - spread)
    return low + (temperature + spread - low) * max(0.0, entropy / math.log(len(ids))) ** exponent


def mirostat_survivors(x, ids, temperature, version, mu):
    p = softmax(x[ids] / temperature)
    if version == 2:
        return ids[: max(1, int((-np.log2(np.maximum(p, 1e-300)) <= mu).sum()))]
    n = min(len(ids), 100)
    t = np.log((np.arange(n - 1) + 2) / (np.arange(n - 1) + 1))
    b = -np.diff(x[ids][:n]) / temperature
    s = (t * b).sum() / (t * t).sum() if n > 1 else 0.0
    if s <= 0:
        return ids[:1]
    k = ((s - 1) * 2**mu / (1 - float(len(x)) ** (1 - s))) ** (1 / s)
    return ids[: max(1, int(min(k, len(x))))]


def cut_usual(row, ids, **filters):
    alone = np.full(len(row), -np.inf, np.float32)
    alone[ids] = row[ids]
    kept = set(survivors(alone, **filters).tolist())
    return np.array([i for i in ids if i in kept])


def twin(row, *, temperature=0.8, top_n_sigma=-1.0, top_k=0, typical_p=1.0, top_p=1.0, min_p=0.0, xtc_probability=0.0,
         xtc_threshold=0.1, dynatemp_range=0.0, dynatemp_exponent=1.0, mirostat=0, mirostat_tau=5.0):  # fmt: skip
    """The exact probabilities of a draw."""
    x = clean(row)
    ids = np.argsort(-x, kind="stable")[: int(np.isfinite(x).sum())]
    result = np.zeros(len(row))
    if mirostat:
        temperature = dynamic_temperature(x, ids, temperature, dynatemp_range, dynatemp_exponent)
        ids = mirostat_survivors(x, ids, temperature, mirostat, 2 * mirostat_tau)
        result[ids] = softmax(x[ids] / temperature)
        return result
    if top_n_sigma > 0:
        ids = ids[x[ids] >= x.max() - top_n_sigma * x[ids].std()]
    if top_k > 0:
        ids = ids[:top_k]
    if typical_p < 1:
        ids = keep_typical(x, ids, typical_p)
    ids = cut_usual(row, ids, top_p=top_p, min_p=min_p)
    for hit, weight in ((True, xtc_probability), (False, 1 - xtc_probability)):
        if weight > 0:
            left = exclude_top(x, ids, xtc_threshold) if hit else ids
            t = dynamic_temperature(x, left, temperature, dynatemp_range, dynatemp_exponent)
            result[left] += weight * softmax(x[left] / t) if t > 0 else weight * (np.arange(len(left)) == 0)
    return result


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_draw_rare_filters_follow_the_exact_distribution(settings):
    row = make_row("normal", 150, seed=2)
    row[50:100] = make_row("holes", 50, seed=2)
    tokens = Sampler(150, temperature=0.8, seed=13, **settings).draw(row, n_draws=50_000)
    assert chi_square_excess(tokens, twin(row, **settings)) < 4


@pytest.mark.parametrize("settings", [s for s in SETTINGS if not s.get("mirostat")], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_draw_rare_filters_reach_the_survivors_and_nothing_else(kind, settings):
    for n in (1, 2, 64, 65, 700):
        row = make_row(kind, n, seed=1)
        p = twin(row, temperature=1e6, **settings)
        likely = np.flatnonzero(p > p.max() / 10)
        n_draws = 20 + 40 * len(likely) if len(likely) <= 100 else 2000
        drawn = Sampler(n, temperature=1e6, seed=3, **settings).draw(row, n_draws=n_draws)
        assert set(drawn) <= set(np.flatnonzero(p).tolist())
        assert set(likely.tolist()) <= set(drawn) or len(likely) > 100


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("n", [4097, 262_144])
def test_draw_rare_filters_on_long_rows_stay_within_the_survivors(n, settings):
    row = make_row("peaked", n)
    drawn = Sampler(n, temperature=0.8, seed=5, **settings).draw(row, n_draws=3)
    # Rounding can change the last survivor: the next token in the order also counts as one.
    p = twin(row, **settings)
    order = np.argsort(-clean(row), kind="stable")
    near = np.convolve(p[order] > 0, np.ones(5), "same") > 0
    assert set(drawn) <= set(order[near].tolist())


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_draw_rare_filters_leave_the_row_alone(settings):
    row = make_row("holes", 1000)
    twin_row = row.copy()
    Sampler(1000, seed=1, **settings).draw(row, n_draws=20)
    np.testing.assert_array_equal(row, twin_row)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_draw_rare_filters_odd_rows_stay_in_range(settings):
    certain = make_row("holes", 500)
    certain[[300, 400]] = np.inf
    nothing = np.full(500, -np.inf, np.float32)
    extreme = np.array([3.4e38, -3.4e38, 0.0, 3.4e38, -np.inf, np.nan] * 50, np.float32)
    # 3.4e38 each; with threshold 0 XTC keeps the least likely token
    best = {0, 3} if settings.get("xtc_threshold") != 0 else {1}
    assert set(Sampler(500, **settings).draw(certain, n_draws=5)) == {300}
    assert set(Sampler(500, **settings).draw(nothing, n_draws=5)) == {-1}
    assert {token % 6 for token in Sampler(300, **settings).draw(extreme, n_draws=50)} <= best


@pytest.mark.parametrize("settings", [s for s in SETTINGS if "dynatemp_range" not in s], ids=str)
def test_draw_rare_filters_at_temperature_zero_are_greedy(settings):
    row = make_row("normal", 300)
    assert Sampler(300, temperature=0.0, **settings).draw(row, n_draws=5) == [int(row.argmax())] * 5


@pytest.mark.parametrize("settings", SETTINGS[::3], ids=str)
def test_draw_rare_filters_under_a_mask_see_the_allowed_only(settings):
    row = make_row("normal", 200, seed=4)
    allowed = np.flatnonzero(np.random.default_rng(3).random(200) < 0.3)
    tokens = Sampler(200, temperature=0.8, seed=2, allowed_token_ids=allowed.tolist(), **settings).draw(
        row, n_draws=30_000
    )
    p = np.zeros(200)
    p[allowed] = twin(row[allowed], **settings)
    assert chi_square_excess(tokens, p) < 4


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_accepted_tokens_steer_the_surprise(version):
    sampler = Sampler(2000, temperature=1.0, mirostat=version, mirostat_tau=4.0, mirostat_eta=0.1, seed=1)
    row = make_row("normal", 2000)
    x, mu, surprises = clean(row), 8.0, []
    for _ in range(300):
        (token,) = sampler.draw(row)
        sampler.accept(token)
        left = mirostat_survivors(x, np.argsort(-x, kind="stable"), 1.0, version, mu)
        surprises.append(-math.log2(softmax(x[left])[left.tolist().index(token)]))
        mu -= 0.1 * (surprises[-1] - 4.0)
    assert abs(np.mean(surprises[50:]) - 4.0) < 0.2  # 7 bits without


def test_mirostat_a_forced_token_leaves_mu_alone():
    row = make_row("normal", 100) * np.float32(0.2)
    first, second = (Sampler(100, mirostat=2, mirostat_tau=3.0, mirostat_eta=1.0, seed=1) for _ in range(2))
    (token,) = first.draw(row)
    second.draw(row)
    first.accept((token + 1) % 100)
    assert first.draw(row, n_draws=200, position=9) == second.draw(row, n_draws=200, position=9)


# ---- against llama.cpp


def llama_cpp_probabilities(row, *stages):
    """The probabilities of the row after these samplers. Frees the samplers."""
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    for stage in stages:
        lib.llama_sampler_chain_add(chain, stage)
    data = (lib.llama_token_data * len(row))(*[(i, float(x), 0.0) for i, x in enumerate(row)])
    candidates = lib.llama_token_data_array(data, len(row), -1, False)
    lib.llama_sampler_apply(chain, ctypes.byref(candidates))
    left = [candidates.data[i] for i in range(candidates.size)]
    p = np.zeros(len(row))
    p[[item.id for item in left]] = softmax(np.array([item.logit for item in left], np.float64))
    lib.llama_sampler_free(chain)
    return p


CHAINS = {
    "typical_p": ({"typical_p": 0.6}, lambda: [lib.llama_sampler_init_typical(0.6, 0)]),
    "top_n_sigma": ({"top_n_sigma": 1.0}, lambda: [lib.llama_sampler_init_top_n_sigma(1.0)]),
    "xtc": (
        {"xtc_probability": 1.0, "xtc_threshold": 0.04},
        lambda: [lib.llama_sampler_init_xtc(1.0, 0.04, 0, 1)],
    ),
    # top_k is below the number kept by top_n_sigma: llama.cpp sets the others to -inf, and its typical_p makes NaN.
    "chain": (
        {"top_n_sigma": 3.0, "top_k": 10, "typical_p": 0.95, "top_p": 0.9, "min_p": 0.01, "xtc_probability": 1.0},
        lambda: [
            lib.llama_sampler_init_top_n_sigma(3.0),
            lib.llama_sampler_init_top_k(10),
            lib.llama_sampler_init_typical(0.95, 0),
            lib.llama_sampler_init_top_p(0.9, 0),
            lib.llama_sampler_init_min_p(0.01, 0),
            lib.llama_sampler_init_xtc(1.0, 0.1, 0, 1),
        ],
    ),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("kind", ["normal", "peaked", "ascending"])
def test_draw_like_llama_cpp_follows_its_distribution(kind, name):
    row = make_row(kind, 120, seed=8)
    settings, stages = CHAINS[name]
    p = llama_cpp_probabilities(row, *stages(), lib.llama_sampler_init_temp(0.8))
    tokens = Sampler(120, temperature=0.8, seed=2, **settings).draw(row, n_draws=50_000)
    assert chi_square_excess(tokens, p) < 4


@pytest.mark.parametrize(("spread", "exponent"), [(0.3, 1.0), (2.0, 1.0), (0.7, 2.5)])
def test_draw_dynamic_temperature_follows_llama_cpp(spread, exponent):
    row = make_row("normal", 120, seed=8)
    p = llama_cpp_probabilities(row, lib.llama_sampler_init_temp_ext(0.8, spread, exponent))
    sampler = Sampler(120, temperature=0.8, dynatemp_range=spread, dynatemp_exponent=exponent)
    assert chi_square_excess(sampler.draw(row, n_draws=50_000), p) < 4


@pytest.mark.parametrize(("version", "tau"), list(itertools.product([1, 2], [0.3, 1.5, 3.0])))
def test_draw_mirostat_first_token_follows_llama_cpp(version, tau):
    row = make_row("normal", 400, seed=8)
    last = (
        lib.llama_sampler_init_mirostat(400, 1, tau, 0.1, 100)
        if version == 1
        else lib.llama_sampler_init_mirostat_v2(1, tau, 0.1)
    )
    p = llama_cpp_probabilities(row, lib.llama_sampler_init_temp(0.8), last)
    tokens = Sampler(400, temperature=0.8, mirostat=version, mirostat_tau=tau).draw(row, n_draws=50_000)
    assert chi_square_excess(tokens, p) < 4
