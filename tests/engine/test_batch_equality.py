"""The greedy output of 16 requests in one batch equals that of each request alone, on every kind of memory."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest

import llamafast
from llamafast.engine.engine import Engine, EngineConfig
from llamafast.request import Request, SamplingParams
from tests import tiny_models

BUILT_IN = Path(llamafast.__file__).parent / "models" / "tiny-qwen35-f16.gguf"
NEAR_TIE = 1e-3
ROUNDING = 1e-2  # of the built-in model's F16 weights; the F32 models stay within 1e-3
pytestmark = pytest.mark.usefixtures("native")
WRITERS = {
    "attention": tiny_models.write_attention_model,
    "swa": tiny_models.write_swa_model,
    "hybrid": tiny_models.write_hybrid_model,
    "moe": tiny_models.write_moe_model,
}
TEXT = (
    "What is the capital of France? Say hello. Count to five. Name three colours, then a list of animals that live "
    "near the river. A short story about a fox. Seven plus five is twelve. The moon is round, and the sun is warm."
)


@pytest.fixture(scope="module", params=["built-in", *WRITERS])
def path(request, tmp_path_factory):
    if request.param == "built-in":
        return BUILT_IN
    file = tmp_path_factory.mktemp("models") / f"{request.param}.gguf"
    WRITERS[request.param](file)
    return file


def open_engine(path, **changes):
    """F32 if the file allows it: with F16 memory or flash attention, logits depend on the batch size by 1e-2."""
    exact = {"flash_attn": False, "type_k": 0, "type_v": 0}
    return Engine(str(path), EngineConfig(n_ctx=4096, n_seq_max=16, threads=1, **exact, **changes))


def requests_for(engine, n, num_tokens=48):
    """n prompts of 1 to 60 tokens. Some have a common prefix."""
    token_ids = array("i", engine.tokenizer.encode(TEXT, add_special=True, parse_special=False))
    params = SamplingParams(temperature=0.0, max_tokens=num_tokens, logprobs=2, ignore_eos=True)
    starts = [0, 0, 5, 9]
    cuts = [(starts[i % 4], starts[i % 4] + 1 + (i * 17) % 60) for i in range(n)]
    return [Request(str(i), token_ids[a:b], params) for i, (a, b) in enumerate(cuts)]


def run(engine, requests):
    """All of them together: their token logprobs by request id."""
    logprobs = {request.request_id: [] for request in requests}
    for request in requests:
        engine.add(request)
    while engine.has_work:
        for output in engine.step():
            logprobs[output.request_id] += output.logprobs or []
        engine.check_integrity()
    return logprobs


def assert_equal_or_near_tie(together, alone):
    """Assert equal token ids up to a place where in both runs the two tokens' logprobs differ by less than NEAR_TIE."""
    assert len(together) == len(alone) > 0
    for ours, theirs in zip(together, alone, strict=True):
        if ours.token_id != theirs.token_id:
            gaps = [token.top[0][1] - token.top[1][1] for token in (ours, theirs)]
            assert max(gaps) <= NEAR_TIE
            assert {token_id for token_id, *_ in ours.top} == {token_id for token_id, *_ in theirs.top}
            return
        assert ours.logprob == pytest.approx(theirs.logprob, abs=ROUNDING)


@pytest.fixture(scope="module")
def alone(path):
    """The output of each of 16 requests in an engine of its own."""
    with open_engine(path, enable_prefix_cache=False) as engine:
        return {request.request_id: run(engine, [request])[request.request_id] for request in requests_for(engine, 16)}


@pytest.fixture(scope="module")
def together(path):
    """The outputs of the 16 requests in one engine, twice."""
    with open_engine(path) as engine:
        return run(engine, requests_for(engine, 16)), run(engine, requests_for(engine, 16))


def test_16_together_equal_each_alone(together, alone):
    for request_id, tokens in together[0].items():
        assert_equal_or_near_tie(tokens, alone[request_id])


def test_prompt_in_small_chunks_equals_prompt_at_once(path, alone):
    with open_engine(path, n_batch=16, n_ubatch=16) as engine:
        chunked = run(engine, requests_for(engine, 8))
    for request_id, tokens in chunked.items():
        assert_equal_or_near_tie(tokens, alone[request_id])


def test_a_second_time_equals_the_first(together):
    first, second = together
    for request_id, tokens in first.items():
        assert_equal_or_near_tie(second[request_id], tokens)
