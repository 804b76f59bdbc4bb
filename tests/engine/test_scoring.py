"""Logprobs of prompts: every row is scored once, for any chunks, other sequences, preemptions and failures."""

from __future__ import annotations

import random
from array import array
from pathlib import Path

import pytest

import llamafast
from llamafast.engine.engine import Engine, EngineConfig
from llamafast.engine.scoring import num_scored_rows
from llamafast.request import FinishReason, Request, SamplingParams
from tests import tiny_models
from tests.engine.fakes import Collector, FakeContext, FakeRunner, make_engine, make_request, scripted

BUILT_IN = Path(llamafast.__file__).parent / "models" / "tiny-qwen35-f16.gguf"
LONG = "a long text that never ends, at least not in this test; " * 4
KINDS = [
    ("attention", True), ("attention", False), ("hybrid", True), ("hybrid", False), ("swa", True), ("recurrent", True)
]  # fmt: skip


class Scores(Collector):
    """A Collector that also collects the prompt logprobs of each choice."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt: dict[tuple[str, int], list] = {}

    def add(self, outputs) -> None:
        super().add(outputs)
        for output in outputs:
            if output.prompt_logprobs is not None:
                key = (output.request_id, output.index)
                assert key not in self.prompt, "given twice"
                self.prompt[key] = output.prompt_logprobs


def expected(request: Request) -> list:
    """The fakes' scores of each token: checksum of the prompt up to it, and the number of tokens before it."""
    token_ids = tuple(request.prompt_token_ids)
    context = FakeContext()
    context.cells = [(pos, token, {0}) for pos, token in enumerate(token_ids)]
    score = FakeRunner(context)._score
    return [None] + [score((0, i - 1, 0), token_ids[i], 0)[:2] for i in range(1, len(token_ids))]


def brief(entries: list) -> list:
    return [entry and (entry.logprob, entry.rank) for entry in entries]


@pytest.mark.parametrize(("n_vocab", "num_rows"), [(3_584, 4681), (32_000, 524), (151_936, 110), (248_320, 67)])
def test_num_scored_rows_stays_within_the_bound_on_memory(n_vocab, num_rows):
    assert num_scored_rows(n_vocab) == num_rows


@pytest.mark.usefixtures("native")
def test_prompt_logprobs_take_no_more_steps_than_the_prompt():
    steps = {}
    with Engine(str(BUILT_IN), EngineConfig(n_ctx=1024, n_seq_max=2, n_batch=256, threads=1)) as engine:
        for prompt_logprobs in (None, 0):
            before = engine.stats.steps
            params = SamplingParams(max_tokens=1, prompt_logprobs=prompt_logprobs)
            list(engine.generate([300 + i for i in range(600)], params))
            steps[prompt_logprobs] = engine.stats.steps - before
    assert steps[0] <= steps[None] + 1


@pytest.mark.parametrize(("kind", "kv_unified"), KINDS)
@pytest.mark.parametrize("max_tokens", [0, 5])
def test_prompt_logprobs_every_token_once_on_every_memory(kind, kv_unified, max_tokens):
    engine = make_engine(n_ctx=800, n_batch=8, kind=kind, kv_unified=kv_unified)
    requests = [
        make_request(str(i), f"{i} is the number of this prompt", prompt_logprobs=0, max_tokens=max_tokens)
        for i in range(7)
    ]
    others = [make_request(f"other {i}", "abc" * 9 * i, max_tokens=20) for i in range(1, 4)]
    scores = Scores().run(engine, *[x for pair in zip(requests, others, strict=False) for x in pair], *requests[3:])
    assert {key: brief(entries) for key, entries in scores.prompt.items()} == {
        (request.request_id, 0): expected(request) for request in requests
    }


def test_prompt_logprobs_same_prompt_again_is_not_taken_from_the_cache():
    engine = make_engine(n_ctx=400, n_batch=16)
    scores = Scores().run(engine, make_request("0", LONG[:40], max_tokens=3))
    scores.run(engine, request := make_request("1", LONG[:40], max_tokens=3, prompt_logprobs=0))
    assert brief(scores.prompt["1", 0]) == expected(request)
    assert scores.usage["1"].cached_tokens == 0


def test_prompt_logprobs_without_output_end_with_length():
    engine = make_engine()
    scores = Scores().run(engine, make_request("0", "abcd", max_tokens=0, prompt_logprobs=1, n=2))
    assert [len(scores.prompt["0", i]) for i in (0, 1)] == [4, 4]
    assert {output.finish_reason for output in scores.finished.values()} == {FinishReason.LENGTH}
    assert (scores.usage["0"].completion_tokens, scores.usage["0"].prompt_tokens) == (0, 4)


def test_prompt_logprobs_of_one_token_are_one_none():
    scores = Scores().run(make_engine(), *[make_request(str(n), "a", max_tokens=n, prompt_logprobs=0) for n in (0, 2)])
    assert scores.prompt == {("0", 0): [None], ("2", 0): [None]}


def test_prompt_logprobs_every_choice_has_them_once():
    engine = make_engine(scripted("ab", "cd", "ef"), n_ctx=200)
    request = make_request("0", "abcdefgh", seed=0, n=3, prompt_logprobs=0)
    scores = Scores().run(engine, request)
    assert [brief(scores.prompt["0", i]) for i in range(3)] == [expected(request)] * 3


def test_prompt_logprobs_come_with_the_best_of_several():
    engine = make_engine(n_ctx=200)
    request = make_request("0", "abcdefgh", n=1, best_of=3, max_tokens=4, prompt_logprobs=0)
    assert brief(Scores().run(engine, request).prompt["0", 0]) == expected(request)


def test_prompt_logprobs_tops_are_as_many_as_asked():
    scores = Scores().run(make_engine(), make_request("0", "abc", max_tokens=1, prompt_logprobs=3))
    assert [len(entry.top) for entry in scores.prompt["0", 0][1:]] == [3, 3]
    assert scores.prompt["0", 0][1].token_bytes == b"b"


def test_prompt_logprobs_silent_neighbour_has_none():
    scores = Scores().run(make_engine(), make_request("0", "ab", prompt_logprobs=0), make_request("1", "cd"))
    assert set(scores.prompt) == {("0", 0)}


@pytest.mark.parametrize(("kind", "kv_unified"), KINDS)
def test_prompt_logprobs_preempted_half_way_are_neither_lost_nor_doubled(kind, kv_unified):
    engine = make_engine(scripted(LONG, LONG), n_ctx=4 * 64, n_batch=8, kind=kind, kv_unified=kv_unified)
    engine.add(make_request("0", "abc", seed=0, max_tokens=30))
    engine.step()
    engine.add(request := make_request("1", LONG[:50], seed=1, max_tokens=3, prompt_logprobs=0))
    scores = Scores()
    for _ in range(6):
        scores.add(engine.step())
    (prefilling,) = engine.scheduler.prefilling
    assert 0 < prefilling.slot.length < 49
    engine.scheduler.relieve()
    assert engine.stats.preemptions == 1
    assert brief(scores.run(engine).prompt["1", 0]) == expected(request)


@pytest.mark.parametrize("kind", ["attention", "hybrid"])
@pytest.mark.parametrize("seed", range(10))
def test_prompt_logprobs_survive_preemptions_and_failures_at_random(kind, seed):
    rng = random.Random(seed)
    engine = make_engine(n_ctx=120, n_batch=12, kind=kind)
    requests = [
        make_request(
            str(i), LONG[: rng.randint(1, 40)], seed=i, n=rng.randint(1, 2), max_tokens=rng.choice([0, 5, 30]),
            prompt_logprobs=rng.choice([None, 0, 1]),
        )
        for i in range(12)
    ]  # fmt: skip
    scores = Scores()
    for request in requests:
        engine.add(request)
        for _ in range(rng.randint(0, 4)):
            engine.runner.failures = rng.choice([[], [], [], [1]])
            scores.add(engine.step())
            engine.check_integrity()
    scores.run(engine)
    for request in requests:
        for i in range(request.params.n):
            entries = scores.prompt.get((request.request_id, i))
            if request.params.prompt_logprobs is None or entries is None:
                assert entries is None
                ended_early = scores.finished[request.request_id, i].finish_reason is FinishReason.LENGTH
                assert request.params.prompt_logprobs is None or ended_early
            else:
                assert brief(entries) == expected(request)
    assert len(scores.prompt) > 2


def test_prompt_logprobs_no_room_ends_without_them():
    engine = make_engine(n_ctx=16, n_batch=8)
    engine.runner.failures = [1]
    scores = Scores().run(engine, make_request("0", "abcdefgh", max_tokens=2, prompt_logprobs=0))
    assert scores.prompt == {}
    assert scores.finished["0", 0].finish_reason is FinishReason.LENGTH


def scores_of(engine: Engine, *prompts, **params) -> Scores:
    requests = [
        Request(str(i), array("i", ids), SamplingParams(temperature=0.0, **params)) for i, ids in enumerate(prompts)
    ]
    return Scores().run(engine, *requests)


def models(folder: Path) -> dict[str, Path]:
    tiny_models.write_attention_model(folder / "attention.gguf")
    tiny_models.write_swa_model(folder / "swa.gguf")
    return {"hybrid": BUILT_IN, "attention": folder / "attention.gguf", "swa": folder / "swa.gguf"}


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("name", "kv_unified"), [("hybrid", True), ("hybrid", False), ("attention", True), ("swa", True)]
)
def test_prompt_logprobs_equal_those_of_the_same_tokens_generated(tmp_path, name, kv_unified):
    config = EngineConfig(n_ctx=4096, n_seq_max=4, n_batch=64, threads=1, kv_unified=kv_unified)
    with Engine(str(models(tmp_path)[name]), config) as engine:
        start = engine.tokenizer.encode("hello the world of", add_special=True, parse_special=True)
        said = Scores().run(
            engine, Request("0", array("i", start), SamplingParams(max_tokens=60, seed=1, logprobs=2, ignore_eos=True))
        )
        whole = [*start, *said.token_ids["0", 0]]
        scores = scores_of(engine, whole, whole[:30], max_tokens=0, prompt_logprobs=2)
        again = scores_of(engine, whole, max_tokens=4, prompt_logprobs=2)
    written = said.logprobs["0", 0]
    for read in (scores.prompt["0", 0][len(start) :], again.prompt["0", 0][len(start) :]):
        assert [entry.token_id for entry in read] == [entry.token_id for entry in written]
        assert [entry.logprob for entry in read] == pytest.approx([entry.logprob for entry in written], abs=0.02)
        assert [e.top[0][1] for e in read] == pytest.approx([e.top[0][1] for e in written], abs=0.02)
        assert all((entry.rank == 1) == (entry.token_id == entry.top[0][0]) for entry in read)
    assert len(scores.prompt["1", 0]) == 30
