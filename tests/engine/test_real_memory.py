"""The engine on real KV memories under pressure: preemption, forks, reused prefixes, cancelled decodes."""

from __future__ import annotations

import gc
from array import array
from pathlib import Path

import pytest

import llamafast
from llamafast._core import live_handles
from llamafast.engine.engine import Engine, EngineConfig
from llamafast.engine.seeds import choice_seed
from llamafast.grammars.structured import StructuredKind, StructuredOutput
from llamafast.request import FinishReason, Request, SamplingParams
from tests import tiny_models
from tests.engine.fakes import Collector

BUILT_IN = Path(llamafast.__file__).parent / "models" / "tiny-qwen35-f16.gguf"
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
GBNF = "root ::= [0-9]+"
QUESTIONS = {
    "What is the capital of France?": "The capital of France is Paris.",
    "Hello!": "Hello! How can I help you today?",
    "Who are you?": "I am Tiny, a very small language model.",
}
pytestmark = pytest.mark.usefixtures("native")


@pytest.fixture(scope="module")
def attention_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "attention.gguf"
    tiny_models.write_attention_model(path)
    return path


def open_engine(path, **settings) -> Engine:
    return Engine(str(path), EngineConfig(**{"n_ctx": 2048, "n_seq_max": 4, "threads": 1, **settings}))


def request_for(engine, request_id, text, **params) -> Request:
    params = {"temperature": 0.0, "max_tokens": 40, **params}
    token_ids = engine.tokenizer.encode(text, add_special=True, parse_special=True)
    return Request(request_id, array("i", token_ids), SamplingParams(**params))


def chats(engine, **params) -> list[Request]:
    return [request_for(engine, answer, CHAT.format(question), **params) for question, answer in QUESTIONS.items()]


def test_built_in_model_answers_together():
    with open_engine(BUILT_IN) as engine:
        collector = Collector().run(engine, *chats(engine))
    assert collector.text == {(answer, 0): answer for answer in QUESTIONS.values()}
    assert {output.finish_reason for output in collector.finished.values()} == {FinishReason.STOP}


@pytest.mark.parametrize("kv_unified", [True, False])
def test_built_in_model_forks_are_exact(kv_unified):
    with open_engine(BUILT_IN, n_seq_max=9, n_ctx=9 * 256, kv_unified=kv_unified) as engine:
        collector = Collector().run(engine, *chats(engine, n=3))
    assert collector.text == {(answer, i): answer for answer in QUESTIONS.values() for i in range(3)}


def test_built_in_model_sampled_forks_equal_their_seeds_alone():
    text = CHAT.format("Tell me a story about a fox.")
    with open_engine(BUILT_IN) as engine:
        together = Collector().run(engine, request_for(engine, "0", text, temperature=0.8, seed=5, n=4))
        alone = Collector()
        for i in range(4):
            alone.run(engine, request_for(engine, str(i), text, temperature=0.8, seed=choice_seed(5, i)))
    assert [together.text["0", i] for i in range(4)] == [alone.text[str(i), 0] for i in range(4)]


@pytest.mark.parametrize("swa_full", [True, False])
def test_sliding_window_model_forks_and_resumes(tmp_path, swa_full):
    tiny_models.write_swa_model(tmp_path / "swa.gguf")
    with open_engine(tmp_path / "swa.gguf", n_ctx=256, swa_full=swa_full) as engine:
        requests = [request_for(engine, str(i), "hello the " * 8 + str(i), ignore_eos=True) for i in range(3)]
        collector = Collector().run(engine, *requests, request_for(engine, "3", "hello", n=4, ignore_eos=True))
    assert [len(token_ids) for token_ids in collector.token_ids.values()] == [40] * 7


def test_built_in_model_preempted_requests_answer_the_same():
    # 256 cells for three prompts of about 20 tokens, each followed by a story of 120.
    text = CHAT.format("Tell me a story about a {}.")
    with open_engine(BUILT_IN, n_ctx=256) as engine:
        requests = [request_for(engine, str(i), text.format(name), max_tokens=120) for i, name in enumerate("abc")]
        together = Collector().run(engine, *requests)
        assert engine.stats.preemptions > 0
        alone = Collector()
        for request in requests:
            alone.run(engine, request)
    assert together.text == alone.text


def test_full_memory_sixteen_long_requests_all_finish(attention_path):
    with open_engine(attention_path, n_ctx=512, n_seq_max=16) as engine:
        requests = [request_for(engine, str(i), f"{i} hello", max_tokens=100, ignore_eos=True) for i in range(16)]
        collector = Collector().run(engine, *requests)
        assert engine.stats.preemptions > 0
        assert engine.cache.num_live_cells() == 0
    assert [len(token_ids) for token_ids in collector.token_ids.values()] == [100] * 16


def test_reused_prefix_gives_the_same_text(attention_path):
    texts = ["hello the world " * 8 + ending for ending in ("one", "two", "three")]
    with open_engine(attention_path) as engine:
        first = Collector().run(engine, *[request_for(engine, text, text, ignore_eos=True) for text in texts])
        second = Collector().run(engine, *[request_for(engine, text, text, ignore_eos=True) for text in texts])
        assert all(usage.cached_tokens == usage.prompt_tokens - 1 for usage in second.usage.values())
    with open_engine(attention_path, enable_prefix_cache=False) as engine:
        cold = Collector().run(engine, *[request_for(engine, text, text, ignore_eos=True) for text in texts])
        assert all(usage.cached_tokens == 0 for usage in cold.usage.values())
    assert first.text == second.text == cold.text


def test_native_handles_are_freed_on_close():
    gc.collect()  # objects of other tests
    before = live_handles()
    engine = open_engine(BUILT_IN)
    grammar = engine.compile_grammar(StructuredOutput(StructuredKind.JSON_SCHEMA, '{"type": "integer"}'))
    Collector().run(engine, *chats(engine, dry_multiplier=1.0))
    list(
        engine.generate(
            "1 + 1 = ", SamplingParams(max_tokens=4, structured=StructuredOutput(StructuredKind.GBNF, GBNF))
        )
    )
    assert live_handles()["Context"] == before["Context"] + 1
    engine.close()
    assert live_handles() == before, f"{engine} and {grammar} are still there"
