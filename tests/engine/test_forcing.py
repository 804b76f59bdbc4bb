"""Forced tokens of a grammar: they are appended at once and computed in one decode, and the text is the same."""

from __future__ import annotations

from array import array

import pytest

from llamafast.engine import packing
from llamafast.engine.engine import Engine, EngineConfig
from llamafast.grammars.structured import StructuredKind, StructuredOutput
from llamafast.request import FinishReason, Request, SamplingParams
from tests import tiny_models
from tests.engine.fakes import Collector, encode, make_engine

# No two letters of it are one token in the models below, so it has only one tokenization.
GBNF = 'root ::= "ABCDEFGH" [0-9] "KLMNOPQRST" [0-9]{2} "UVWXYZ" [0-9]'
GRAMMAR = StructuredOutput(StructuredKind.GBNF, GBNF)


def request_for(engine: Engine, prompt: str = "hello", **params) -> Request:
    params = {"temperature": 0.0, "seed": 1, "structured": GRAMMAR, **params}
    grammar = engine.compile_grammar(params["structured"])
    return Request(
        "0",
        array("i", engine.tokenizer.encode(prompt, add_special=True, parse_special=False)),
        SamplingParams(**params),
        grammar=grammar,
    )


def fake_run(kind: str = "attention", **params) -> tuple[Collector, list[dict[int, int]]]:
    engine = make_engine(kind=kind, n_ctx=256, n_batch=64)
    outputs = Collector().run(engine, request_for(engine, **params))
    return outputs, engine.runner.steps


@pytest.mark.parametrize("kind", ["attention", "hybrid"])
def test_forced_tokens_take_fewer_decodes_and_give_the_same_tokens(kind, monkeypatch) -> None:
    forced, steps = fake_run(kind)
    monkeypatch.setattr(packing, "_MAX_FORCED", 0)
    drawn, all_steps = fake_run(kind)
    assert (forced.token_ids, forced.usage, len(steps) < len(all_steps)) == (drawn.token_ids, drawn.usage, True)


def test_forced_tokens_stop_at_max_tokens() -> None:
    outputs, _ = fake_run(max_tokens=5)
    assert (outputs.text["0", 0], outputs.finished["0", 0].finish_reason) == ("ABCDE", FinishReason.LENGTH)


def test_forced_tokens_stop_at_a_stop_string() -> None:
    outputs, _ = fake_run(stop=("DE",))
    assert (outputs.text["0", 0], outputs.finished["0", 0].stop_reason) == ("ABC", "DE")


def test_forced_tokens_stop_at_a_stop_token() -> None:
    outputs, _ = fake_run(stop_token_ids=tuple(encode("F")))
    assert (outputs.text["0", 0], outputs.usage["0"].completion_tokens) == ("ABCDE", 6)


@pytest.mark.parametrize("n", [1, 3])
def test_forced_tokens_fill_the_context_with_a_cold_prompt_and_a_cached_one(n) -> None:
    engine = make_engine(n_ctx=24)
    request = request_for(engine, "x" * 22, n=n)
    for _ in range(2):
        outputs = Collector().run(engine, request)
        assert set(outputs.text.values()) == {"AB"}
        assert {output.finish_reason for output in outputs.finished.values()} == {FinishReason.LENGTH}


@pytest.mark.parametrize("n", [1, 3])
def test_forced_tokens_shift_a_full_context_where_drawn_tokens_do(n, monkeypatch) -> None:
    # The drawn letters depend on all tokens in the context.
    structured = StructuredOutput(StructuredKind.GBNF, 'root ::= ("ABCDEFGH" [a-z]{3}){4}')
    config = EngineConfig(n_seq_max=4, context_shift=True, max_seq_len=16)
    texts = []
    for most in (64, 0):
        monkeypatch.setattr(packing, "_MAX_FORCED", most)
        engine = make_engine(config=config, n_ctx=100, n_batch=64)
        texts.append(Collector().run(engine, request_for(engine, n=n, max_tokens=44, structured=structured)).text)
        assert engine.stats.context_shifts >= 3 * n
    assert texts[0] == texts[1]
    assert {len(text) for text in texts[0].values()} == {44}


def test_nothing_is_forced_where_logprobs_are_asked_for() -> None:
    _, steps = fake_run(logprobs=1)
    assert max(sum(counts.values()) for counts in steps[1:]) == 1


def test_forced_tokens_of_many_sequences_fit_the_batch() -> None:
    engine = make_engine(n_ctx=512, n_batch=16, n_seq_max=8)
    outputs = Collector().run(engine, request_for(engine, n=8))
    assert {outputs.text["0", i][:8] for i in range(8)} == {"ABCDEFGH"}


@pytest.mark.parametrize("kind", ["attention", "hybrid"])
def test_forced_text_equals_the_text_token_by_token_on_a_real_model(kind, native, tmp_path, monkeypatch) -> None:
    path = tmp_path / "tiny.gguf"
    {"attention": tiny_models.write_attention_model, "hybrid": tiny_models.write_hybrid_model}[kind](path)
    exact = {"flash_attn": False, "type_k": 0, "type_v": 0}
    texts, decodes = [], []
    for most in (64, 0):
        monkeypatch.setattr(packing, "_MAX_FORCED", most)
        with Engine(str(path), EngineConfig(n_ctx=512, n_seq_max=2, threads=1, **exact)) as engine:
            texts.append(Collector().run(engine, request_for(engine)).text["0", 0])
            decodes.append(engine.runner.num_decodes)
    assert (texts[0], decodes[0] < decodes[1] - 12) == (texts[1], True)
