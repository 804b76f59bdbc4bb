"""Settings that allow no token: the request ends with an error, and never with an excluded token."""

from __future__ import annotations

import math
from array import array
from pathlib import Path

import pytest

import llamafast
from llamafast._sampling import Sampler
from llamafast.engine.config import EngineConfig
from llamafast.engine.engine import Engine
from llamafast.errors import GrammarError, InvalidRequestError
from llamafast.grammars import constraint as account_module
from llamafast.grammars.constraint import CpuAccount
from llamafast.grammars.pushdown import compile_gbnf
from llamafast.request import FinishReason, Request, SamplingParams
from tests.engine.fakes import Collector
from tests.grammars.vocabularies import bytes_vocabulary

BUILT_IN = Path(llamafast.__file__).parent / "models" / "tiny-qwen35-f16.gguf"
N_VOCAB = 3584
NOTHING_LEFT = [
    {"allowed_token_ids": (5,), "logit_bias": ((5, -math.inf),)},
    {"allowed_token_ids": (5,), "bad_words": ((5, 5),)},
    {"allowed_token_ids": (5,), "stop_token_ids": (5,), "min_tokens": 4},
    {"logit_bias": tuple((i, -math.inf) for i in range(N_VOCAB))},
    {"logit_bias": tuple((i, -math.inf) for i in range(N_VOCAB)), "temperature": 0.0},
    {"logit_bias": tuple((i, -math.inf) for i in range(N_VOCAB)), "mirostat": 2},
]
pytestmark = pytest.mark.usefixtures("native")


@pytest.fixture(scope="module")
def engine():
    with Engine(str(BUILT_IN), EngineConfig(n_ctx=512, n_seq_max=2, threads=1)) as engine:
        yield engine


@pytest.mark.parametrize("params", NOTHING_LEFT)
def test_settings_that_rule_out_every_token_end_the_request_with_an_error(engine, params):
    assert engine.tokenizer.n_vocab == N_VOCAB
    token_ids = array("i", [7, 8, 9])
    bad = Request("bad", token_ids, SamplingParams(max_tokens=4, seed=1, **params))
    good = Request("good", token_ids, SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True))
    collector = Collector().run(engine, bad, good)
    last = collector.finished["bad", 0]
    assert last.finish_reason is FinishReason.ERROR
    assert isinstance(last.error, InvalidRequestError)
    assert collector.token_ids["bad", 0] in ([], [5])
    assert len(collector.token_ids["good", 0]) == 4


def test_sampler_with_everything_ruled_out_draws_none():
    sampler = Sampler(4, logit_bias=[(i, -math.inf) for i in range(4)])
    assert sampler.draw(array("f", [1.0, 2.0, 3.0, 4.0])) == [-1]


def test_account_of_a_request_is_shared_by_its_choices(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(account_module, "thread_time", lambda: next(clock) * 0.04)
    program, account = compile_gbnf(bytes_vocabulary(), 'root ::= "abc" [a-z]*'), CpuAccount()
    num_masks = 0
    with pytest.raises(GrammarError, match="too complex"):
        for _ in range(100):
            program.start(account).mask()
            num_masks += 1
    assert num_masks == 3  # of 0.04 s each, in 0.15 s


def test_prepared_request_is_queued_once(engine):
    state = engine.prepare(Request("0", array("i", [7]), SamplingParams(max_tokens=1)))
    engine.add(state)
    Collector().run(engine)
    with pytest.raises(InvalidRequestError):
        engine.add(state)
