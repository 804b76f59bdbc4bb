"""Runs of several tokens, as drafts give them: a sequence can end in the middle of a run."""

from __future__ import annotations

import pytest

from llamafast.engine.plan import max_output_rows
from llamafast.request import FinishReason
from tests.engine.fakes import EOS, Collector, encode, make_engine, make_request


def run_of(tokens, **params) -> Collector:
    """The outputs of a request with a first step that accepts all of `tokens`."""
    engine = make_engine()
    step, runs = engine.runner.step, []

    def step_with_run(plan):
        runs[:] = [list(tokens) for _ in step(plan)]
        return runs

    engine.runner.step = step_with_run
    engine.runner.logprobs = lambda i, k: (-1.0 - k, [])
    collector = Collector().run(engine, make_request("0", **params))
    assert engine.stats.generation_tokens == len(runs[0])
    assert collector.usage["0"].completion_tokens == sum(token_id >= 0 for token_id in runs[0])
    return collector


@pytest.mark.parametrize(
    ("tokens", "params", "text", "reason"),
    [
        (encode("abcd"), {"max_tokens": 3}, "abc", FinishReason.LENGTH),
        ([*encode("ab"), EOS, *encode("cd")], {}, "ab", FinishReason.STOP),
        (encode("abcd"), {"stop": ("bc",)}, "a", FinishReason.STOP),
        ([*encode("ab"), -1], {}, "ab", FinishReason.ERROR),
    ],
)
def test_update_run_is_cut_where_the_sequence_ends(tokens, params, text, reason):
    collector = run_of(tokens, **params)
    assert (collector.text["0", 0], collector.finished["0", 0].finish_reason) == (text, reason)


def test_update_run_takes_the_logprobs_of_each_token():
    collector = run_of(encode("abc"), max_tokens=3, logprobs=0)
    assert [entry.logprob for entry in collector.logprobs["0", 0]] == [-1.0, -2.0, -3.0]


@pytest.mark.parametrize(
    ("n_seq_max", "n_batch", "n_vocab", "rows"), [(4, 512, 1 << 20, 16), (32, 512, 1 << 20, 32), (4, 8, 1000, 8)]
)
def test_max_output_rows_holds_all_draws_and_a_bounded_score(n_seq_max, n_batch, n_vocab, rows):
    assert max_output_rows(n_seq_max=n_seq_max, n_batch=n_batch, n_vocab=n_vocab) == rows
