"""The engine of embeddings over a random BERT: packs, turns, guards, ends."""

from __future__ import annotations

import asyncio
import random
from array import array
from dataclasses import replace

import numpy as np
import pytest

from llamafast._core import Context, Model
from llamafast._encoder import EncoderRunner
from llamafast.engine.async_encoder import AsyncEncoder
from llamafast.engine.config import EngineConfig
from llamafast.engine.embedding import EmbeddingOutput, EmbeddingRequest
from llamafast.engine.encoder import Encoder
from llamafast.engine.snapshot import EngineState
from llamafast.errors import ContextLengthError, DecodeError, EngineDeadError, InvalidRequestError, ModelLoadError
from tests.tiny_models import write_attention_model, write_encoder_model, write_hybrid_model, write_swa_model

N_EMBD = 64
CONFIG = EngineConfig(n_ctx=128, n_batch=64, n_seq_max=16, threads=1)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "encoder.gguf"
    write_encoder_model(path, n_layer=2)
    return str(path)


@pytest.fixture
def encoder(path):
    with Encoder(path, CONFIG) as encoder:
        yield encoder
        if encoder.death is None:
            encoder.check_integrity()


def text(length, seed=0):
    """Token ids of an input, [CLS] and [SEP] included."""
    draw = random.Random(seed)
    return array("i", [2, *(draw.randrange(5, 31) for _ in range(length - 2)), 3])


def request(name, *inputs, n_dims=None):
    return EmbeddingRequest(name, tuple(inputs), n_dims)


def run(encoder, *requests):
    """The outputs by request id, and the ids that each step ended."""
    for each in requests:
        encoder.add(encoder.prepare(each))
    outputs, steps = {}, []
    while encoder.has_work:
        ended = encoder.step()
        outputs |= {output.request_id: output for output in ended}
        steps.append([output.request_id for output in ended])
    return outputs, steps


def vectors(output):
    return np.frombuffer(bytes(output.vectors), np.float32).reshape(-1, output.n_dims)


def test_encoder_batched_inputs_equal_those_alone(encoder):
    inputs = [text(2 + i, seed=i) for i in range(64)]
    order = random.Random(1).sample(range(64), 64)
    requests = [request(str(k), *(inputs[i] for i in order[8 * k : 8 * k + 8])) for k in range(8)]
    outputs, _ = run(encoder, *requests)
    together = np.concatenate([vectors(outputs[str(k)]) for k in range(8)])
    alone = np.concatenate([vectors(run(encoder, request("a", inputs[i]))[0]["a"]) for i in order])
    assert (together * alone).sum(axis=1).min() > 0.9999


@pytest.mark.parametrize("write", [write_attention_model, write_swa_model, write_hybrid_model])
def test_encoder_batched_inputs_of_a_causal_model_equal_those_alone(tmp_path, write):
    write(tmp_path / "causal.gguf")
    inputs = [text(2 + 3 * i, seed=i) for i in range(16)]
    with Encoder(str(tmp_path / "causal.gguf"), replace(CONFIG, embedding=True, n_seq_max=8)) as encoder:
        together = vectors(run(encoder, request("all", *inputs))[0]["all"])
        alone = [vectors(run(encoder, request("a", each))[0]["a"])[0] for each in inputs]
    assert (together * np.array(alone)).sum(axis=1).min() > 0.9999
    assert together[1] @ together[2] < 0.999


def test_encoder_causal_vector_is_that_of_the_last_token(tmp_path):
    write_attention_model(tmp_path / "causal.gguf")
    with Encoder(str(tmp_path / "causal.gguf"), replace(CONFIG, embedding=True)) as encoder:
        first, second = vectors(run(encoder, request("a", text(9), text(9)[:-1] + array("i", [7])))[0]["a"])
        assert first @ second < 0.999


def test_encoder_different_inputs_have_different_vectors(encoder):
    first, second = vectors(run(encoder, request("a", text(8), text(8, seed=1)))[0]["a"])
    assert first @ second < 0.999


def test_encoder_query_beside_a_bulk_request_waits_for_one_step(encoder):
    bulk = request("bulk", *(text(20, seed=i) for i in range(100)))
    encoder.add(encoder.prepare(bulk))
    assert encoder.step() == []
    encoder.add(encoder.prepare(request("query", text(10))))
    assert [output.request_id for output in encoder.step()] == ["query"]


def test_encoder_packs_short_inputs_into_one_step(encoder):
    run(encoder, *(request(str(i), text(8)) for i in range(8)))
    assert encoder.stats.steps == 1


def test_encoder_long_input_among_short_ones_is_not_starved(encoder):
    encoder.add(encoder.prepare(request("bulk", *(text(8, seed=i) for i in range(100)))))
    encoder.add(encoder.prepare(request("long", text(128))))
    steps = [[output.request_id for output in encoder.step()] for _ in range(2)]
    assert ["long"] in steps


def test_encoder_cut_vectors_have_length_one(encoder):
    output = run(encoder, request("a", text(8), n_dims=7))[0]["a"]
    whole = vectors(run(encoder, request("b", text(8)))[0]["b"])[0, :7]
    assert vectors(output)[0] == pytest.approx(whole / np.linalg.norm(whole), abs=1e-6)


@pytest.mark.parametrize(
    ("inputs", "n_dims", "error", "param"),
    [
        ((), None, InvalidRequestError, "input"),
        ((array("i"),), None, InvalidRequestError, "input"),
        ((text(4), array("i")), None, InvalidRequestError, "input[1]"),
        ((text(129),), None, ContextLengthError, "input"),
        ((array("i", [2, 31]),), None, InvalidRequestError, "input"),
        ((array("i", [-1]),), None, InvalidRequestError, "input"),
        ((text(4),), 0, InvalidRequestError, "dimensions"),
        ((text(4),), N_EMBD + 1, InvalidRequestError, "dimensions"),
    ],
)
def test_encoder_wrong_request_is_refused_by_its_field(encoder, inputs, n_dims, error, param):
    with pytest.raises(error) as caught:
        encoder.prepare(request("a", *inputs, n_dims=n_dims))
    assert caught.value.param == param


def test_encoder_aborted_request_ends_without_vectors(encoder):
    encoder.add(encoder.prepare(request("a", *(text(60) for _ in range(9)))))
    encoder.step()
    encoder.abort("a")
    assert encoder.step() == [EmbeddingOutput("a")]
    assert not encoder.has_work


def test_encoder_abort_all_ends_every_request(encoder):
    for name in "abc":
        encoder.add(encoder.prepare(request(name, text(60), text(60))))
    assert [output.request_id for output in encoder.abort_all()] == ["a", "b", "c"]
    assert encoder.num_waiting == 0


def test_encoder_failed_decode_ends_all_requests_and_the_engine(encoder):
    class Broken:
        def encode(self, inputs):
            raise DecodeError("broken", -3)

    encoder._runner = Broken()
    encoder.add(encoder.prepare(request("a", text(60), text(60))))
    encoder.add(encoder.prepare(request("b", text(60))))
    outputs = encoder.step()
    assert {output.request_id for output in outputs if isinstance(output.error, DecodeError)} == {"a", "b"}
    assert encoder.death == "broken"
    with pytest.raises(EngineDeadError):
        encoder.prepare(request("c", text(4)))


def test_encoder_vector_that_is_not_finite_fails_its_request_alone(encoder):
    class Bad:
        def encode(self, inputs):
            self.inputs = inputs

        def copy(self, i, out, offset, n_dims):
            return len(self.inputs[i]) != 5

    encoder._runner = Bad()
    outputs, _ = run(encoder, request("bad", text(4), text(5), text(6)), request("good", text(4)))
    assert "not finite" in str(outputs["bad"].error)
    assert outputs["good"].error is None


def test_encoder_counts_requests_inputs_and_tokens(encoder):
    run(encoder, request("a", text(4), text(6)), request("b", text(5)))
    stats = encoder.stats
    assert (stats.embedding_requests, stats.embedding_inputs, stats.prompt_tokens) == (2, 3, 15)
    assert (stats.iteration_tokens.sum, stats.finished["stop"], stats.num_waiting) == (15, 2, 0)


def test_encoder_snapshot_lists_inputs_without_vectors(encoder):
    encoder.add(encoder.prepare(request("a", text(4), text(6))))
    snapshot = encoder.snapshot()
    assert (snapshot.state, snapshot.num_waiting) == (EngineState.WORKING, 2)
    assert [(s.request_id, s.index, s.num_prompt_tokens) for s in snapshot.sequences] == [("a", 0, 4), ("a", 1, 6)]


def test_encoder_closed_takes_no_requests(path):
    encoder = Encoder(path, CONFIG)
    encoder.close()
    encoder.close()
    assert encoder.snapshot().state is EngineState.CLOSED
    with pytest.raises(EngineDeadError):
        encoder.prepare(request("a", text(4)))


def test_encoder_on_its_thread_serves_clients_at_once(path):
    async def embed(engine, name):
        stream = engine.submit(await engine.prepare(request(name, *(text(9, seed=i) for i in range(64)))))
        return [output async for outputs in stream for output in outputs]

    async def main():
        engine = AsyncEncoder(Encoder(path, CONFIG))
        await engine.start()
        try:
            return await asyncio.gather(*(embed(engine, f"r{i}") for i in range(8)))
        finally:
            await engine.stop(5)

    answers = asyncio.run(main())
    assert {(len(outputs), len(outputs[0].vectors)) for outputs in answers} == {(1, 64 * 4 * N_EMBD)}


# Guards of the runner: each wrong call would end the process, or give numbers without meaning.


@pytest.fixture
def runner(encoder):
    return encoder._runner


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "0 inputs"),
        ([text(3)] * 17, "17 inputs"),
        ([array("i")], "range"),
        ([text(129)], "129 tokens"),
        ([text(100), text(100)], "batch is full"),
        ([array("i", [31])], "31 is not in"),
        ([array("i", [-5])], "-5 is not in"),
        ([array("l", [2])], "array"),
    ],
)
def test_runner_wrong_inputs_are_refused(runner, inputs, message):
    with pytest.raises(ValueError, match=message):
        runner.encode(inputs)


@pytest.mark.parametrize(
    ("place", "message"),
    [((1, 0, 64), "input 1"), ((-1, 0, 64), "input -1"), ((0, 4, 64), "at 4"), ((0, 0, 65), "65"), ((0, -4, 1), "-4")],
)
def test_runner_wrong_place_is_refused(runner, place, message):
    i, offset, n_dims = place
    runner.encode([text(4)])
    with pytest.raises(ValueError, match=message):
        runner.copy(i, bytearray(4 * N_EMBD), offset, n_dims)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"pooling_type": 0}, "pooling type 0"), ({"pooling_type": 4}, "pooling type 4"), ({"n_outputs_max": 8}, "needs")],
)
def test_runner_context_that_cannot_encode_is_refused(path, changes, message):
    settings = {"n_ctx": 64, "n_batch": 64, "n_ubatch": 64, "n_seq_max": 4, "n_outputs_max": 64, "embedding": True}
    context = Context(Model(path), **{**settings, **changes})
    with pytest.raises(ModelLoadError, match=message):
        EncoderRunner(context)
