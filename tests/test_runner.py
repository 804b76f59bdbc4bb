"""Runs of several tokens: one step verifies rows with drafted tokens."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest

import llamafast
from llamafast import _core, _runner, _sampling
from llamafast.engine.plan import StepKind, StepPlan

MODEL_PATH = str(Path(llamafast.__file__).parent / "models" / "tiny-qwen35-f16.gguf")
PROMPT = (319, 452, 391, 1760, 310)
NUM_DRAFTS = 3


class Allowing:
    """A constraint that allows some tokens, and is finished after `most` tokens."""

    error = None

    def __init__(self, token_ids, n_vocab, most=99):
        self.token_ids, self.n_vocab, self.left = set(token_ids), n_vocab, most

    @property
    def is_finished(self):
        return self.left == 0

    def accept(self, token_id):
        self.left -= token_id in self.token_ids
        return token_id in self.token_ids

    def mask(self):
        bits = sum(1 << token_id for token_id in self.token_ids)
        return bits.to_bytes((self.n_vocab + 31) // 32 * 4, "little")


@pytest.fixture(scope="module")
def model():
    return _core.Model(MODEL_PATH)


def verify(model, drafts, constraint=None, **settings):
    """(runner, run) of a step with the prompt and drafts after it."""
    context = _core.Context(model, n_ctx=512, n_batch=32, n_ubatch=32, n_seq_max=1, n_outputs_max=8, threads=1)
    batch, runner = _core.Batch(32), _runner.ModelRunner(context)
    tokens = array("i", [*PROMPT, *drafts])
    batch.extend(tokens, 0, len(tokens), 0, 0)
    sampler = _sampling.Sampler(model.n_vocab, **{"temperature": 0.0, **settings})
    plan = StepPlan(StepKind.DECODE, batch, rows=[len(PROMPT) - 1], samplers=[sampler])
    plan.drafts = [(0, len(drafts))]
    plan.constraints = [] if constraint is None else [(0, constraint)]
    (run,) = runner.step(plan)
    return runner, run


@pytest.fixture(scope="module")
def continuation(model):
    """The tokens that greedy decoding draws after the prompt."""
    tokens = []
    for _ in range(NUM_DRAFTS + 1):
        tokens += verify(model, tokens)[1][len(tokens) :]
    return tokens


def test_step_right_drafts_give_one_token_more(model, continuation):
    assert verify(model, continuation[:NUM_DRAFTS])[1] == continuation


@pytest.mark.parametrize("place", range(NUM_DRAFTS))
def test_step_wrong_draft_is_replaced_and_ends_the_run(model, continuation, place):
    drafts = continuation[:NUM_DRAFTS]
    drafts[place] += 1
    assert verify(model, drafts)[1] == continuation[: place + 1]


def test_step_verified_tokens_are_the_draws_of_their_rows(model, continuation):
    settings = {"temperature": 0.7, "seed": 5, "presence_penalty": 1.0, "repetition_penalty": 1.3}
    runner, run = verify(model, continuation[:NUM_DRAFTS], **settings)
    twin = _sampling.Sampler(model.n_vocab, **settings)
    for k, token_id in enumerate(run):
        assert twin.draw(runner.logits(0, k)) == [token_id]
        twin.accept(token_id)


def test_logprobs_of_a_run_are_kept_for_each_token(model, continuation):
    runner, run = verify(model, continuation[:NUM_DRAFTS], num_logprobs=2)
    assert [runner.logprobs(0, k)[1][0][0] for k in range(len(run))] == continuation
    with pytest.raises(IndexError):
        runner.logprobs(0, len(run))


def test_step_constrained_run_continues_while_drafts_are_allowed(model, continuation):
    constraint = Allowing(continuation, model.n_vocab)
    assert verify(model, continuation[:NUM_DRAFTS], constraint=constraint)[1] == continuation


def test_step_constrained_run_ends_with_its_constraint(model, continuation):
    constraint = Allowing(continuation, model.n_vocab, most=2)
    assert verify(model, continuation[:NUM_DRAFTS], constraint=constraint)[1] == continuation[:2]


def test_step_constraint_without_tokens_ends_the_run_with_an_error(model, continuation):
    constraint = Allowing(continuation[:1], model.n_vocab)
    constraint.mask = lambda: bytes(4 * (model.n_vocab // 32 + 1))
    assert verify(model, continuation[:NUM_DRAFTS], constraint=constraint)[1] == [continuation[0], -1]
    assert constraint.error is not None


@pytest.mark.parametrize(
    ("draft", "message"), [((0, 4), "row 0, and 4 after it"), ((1, 1), "sampler 1 of 1"), ((0, 3), "4 output rows")]
)
def test_step_drafts_that_do_not_fit_raise(model, draft, message):
    context = _core.Context(model, n_ctx=512, n_batch=32, n_ubatch=32, n_seq_max=1, n_outputs_max=3, threads=1)
    batch = _core.Batch(8)
    batch.extend(array("i", PROMPT[:4]), 0, 4, 0, 0)
    plan = StepPlan(StepKind.DECODE, batch, rows=[0], samplers=[_sampling.Sampler(model.n_vocab)])
    plan.drafts = [draft]
    with pytest.raises(ValueError, match=message):
        _runner.ModelRunner(context).step(plan)
