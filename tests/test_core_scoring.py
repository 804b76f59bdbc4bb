"""Scored rows of the façade: the logprob of a known next token, and the guards before llama.h."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import llamafast
from llamafast import _core, _runner, _sampling
from llamafast.engine.plan import StepKind, StepPlan

MODEL_PATH = str(Path(llamafast.__file__).parent / "models" / "tiny-qwen35-f16.gguf")


@pytest.fixture(scope="module")
def model():
    return _core.Model(MODEL_PATH)


@pytest.fixture
def runner(model):
    context = _core.Context(model, n_ctx=512, n_batch=32, n_ubatch=32, n_seq_max=4, n_outputs_max=4, threads=1)
    return _runner.ModelRunner(context)


@pytest.fixture
def batch():
    """A batch of five rows of one sequence."""
    batch = _core.Batch(8)
    for pos, token_id in enumerate((319, 452, 391, 1760, 310)):
        batch.add(token_id, pos, 0)
    return batch


def scoring_plan(batch, *scored):
    plan = StepPlan(StepKind.DECODE, batch)
    plan.scored = scored
    return plan


def test_step_scores_are_those_of_the_row_that_asked(runner, batch, model):
    plan = scoring_plan(batch, (1, 101, 5), (4, 104, 5))
    plan.rows, plan.samplers = [4], [_sampling.Sampler(model.n_vocab, temperature=0.0, num_logprobs=5)]
    runner.step(plan)
    logits = runner.logits(0)
    total = math.log(sum(map(math.exp, logits)))
    scores = runner.scores()
    assert list(scores) == [1, 4]
    first, last = scores[1], scores[4]
    assert last[0] == pytest.approx(logits[104] - total, abs=1e-4)
    assert last[1] == 1 + sum(value > logits[104] for value in logits)
    assert last[2] == runner.logprobs(0)[1]
    assert first[2] != last[2] and len(first[2]) == 5


def test_step_that_scores_nothing_has_no_scores(runner, batch):
    runner.step(scoring_plan(batch, (1, 7, 0)))
    assert len(runner.scores()) == 1
    batch.clear()
    batch.add(5, 5, 0)
    runner.step(scoring_plan(batch))
    assert runner.scores() == {}


def test_step_more_alternatives_than_tokens_gives_all_tokens(runner, batch, model):
    runner.step(scoring_plan(batch, (0, 7, 10**6)))
    ((_, rank, best),) = runner.scores().values()
    assert sorted(token_id for token_id, _ in best) == list(range(model.n_vocab))
    assert best[rank - 1][0] == 7


def test_step_too_many_scored_rows_raises(runner, batch):
    with pytest.raises(ValueError, match="n_outputs_max"):
        runner.step(scoring_plan(batch, *[(row, 7, 0) for row in range(5)]))


@pytest.mark.parametrize("next_id", [-1, 3584])
def test_step_scored_token_out_of_range_raises(runner, batch, next_id):
    with pytest.raises(ValueError, match="token id"):
        runner.step(scoring_plan(batch, (0, next_id, 0)))


@pytest.mark.parametrize(("row", "num_top"), [(-1, 0), (5, 0), (0, -1)])
def test_step_scored_row_out_of_range_raises(runner, batch, row, num_top):
    with pytest.raises(ValueError, match=f"row {row}"):
        runner.step(scoring_plan(batch, (row, 7, num_top)))
