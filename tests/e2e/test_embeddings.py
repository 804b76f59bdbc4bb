"""Embeddings of a random BERT through the real server: OpenAI's client, odd bodies, many clients."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from tests.tiny_models import write_encoder_model

from .conftest import Server, post, refused

N_EMBD = 64
N_VOCAB = 31
N_CTX = 128
WORDS = [chr(97 + i) for i in range(26)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    write_encoder_model(folder / "encoder.gguf")
    model = {"path": str(folder / "encoder.gguf"), "alias": "bert", "n_ctx": N_CTX, "prompts": {"query": "q q "}}
    (folder / "config.json").write_text(json.dumps({"model": model, "server": {"model_probe": False}}))
    with Server(str(folder / "config.json"), "--threads", "1") as running:
        yield running
        assert running.stop() == 0


@pytest.fixture(scope="module")
def client(server):
    with server.client() as client:
        yield client


def vectors(answer):
    return np.array([item["embedding"] for item in answer.json()["data"]], np.float32)


def embed(server, given, **fields):
    answer = post(server, "embeddings", input=given, **fields)
    assert answer.status_code == 200, answer.text
    return vectors(answer)


def test_openai_client_gets_vectors_of_length_one(client):
    answer = client.embeddings.create(model="bert", input=["a b c", "d e"])
    assert [item.index for item in answer.data] == [0, 1]
    assert [np.linalg.norm(item.embedding) for item in answer.data] == pytest.approx([1, 1], abs=1e-5)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens, answer.model) == (9, 9, "bert")


def test_openai_client_base64_is_bit_for_bit_the_floats(client, server):
    answer = client.embeddings.create(model="bert", input="a b c", encoding_format="base64")
    raw = np.frombuffer(base64.b64decode(answer.data[0].embedding), "<f4")
    assert (raw == embed(server, "a b c")[0]).all()


def test_embeddings_dimensions_are_cut_to_length_one(server):
    cut, whole = embed(server, "a b c", dimensions=5)[0], embed(server, "a b c")[0, :5]
    assert cut == pytest.approx(whole / np.linalg.norm(whole), abs=1e-6)


@pytest.mark.parametrize(
    "form",
    [
        ["a b c"],
        [{"prompt_string": "a b c"}],
        [{"content": [{"type": "text", "text": "a b"}, {"type": "text", "text": " c"}]}],
        {"prompt_string": "a b c"},
    ],
)
def test_embeddings_every_form_of_a_text_gives_one_vector(server, form):
    assert (embed(server, form) == embed(server, "a b c")).all()


def test_embeddings_of_token_ids_are_those_of_the_ids(server):
    several = embed(server, [[2, 7, 8, 3], [2, 9, 3]])
    assert several[0] @ embed(server, [2, 7, 8, 3])[0] > 0.9999


def test_embeddings_of_mixed_pieces_are_of_one_input(server):
    assert embed(server, [2, "a", 3]).shape == (1, N_EMBD)
    assert embed(server, [[2, "a", 3], "b"]).shape == (2, N_EMBD)


def test_embeddings_prompt_name_puts_its_text_first(server):
    assert (embed(server, "a", prompt_name="query") == embed(server, "q q a")).all()


def test_embeddings_texts_of_control_tokens_stay_text(server):
    usage = post(server, "embeddings", input="[SEP]").json()["usage"]
    assert usage["prompt_tokens"] > 3


@pytest.mark.parametrize(
    ("fields", "like"),
    [
        ({"truncate": True}, ["a"] * (N_CTX - 2)),
        ({"truncate_prompt_tokens": -1}, ["a"] * (N_CTX - 2)),
        ({"truncate_prompt_tokens": 4}, ["a", "a"]),
        ({"truncate_prompt_tokens": 4, "truncation_side": "left"}, ["b", "b"]),
    ],
)
def test_embeddings_truncation_keeps_the_special_tokens(server, fields, like):
    text = " ".join(["a"] * 20_000 + ["b"] * 20_000)
    assert embed(server, text, **fields)[0] @ embed(server, " ".join(like))[0] > 0.9999


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [[]]}, "input[0]"),
        ({"input": ["a", []]}, "input[1]"),
        ({"input": 5}, "input"),
        ({"input": True}, "input"),
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": [None]}, "input[0]"),
        ({"input": [1.5]}, "input[0]"),
        ({"input": [True]}, "input[0]"),
        ({"input": [[[2]]]}, "input[0]"),
        ({"input": [-1]}, "input"),
        ({"input": [N_VOCAB]}, "input"),
        ({"input": [2**31]}, "input"),
        ({"input": [10**30]}, "input[0]"),
        ({"input": {"content": "text"}}, "input"),
        ({"input": {"content": [{"type": "image_url", "image_url": "x"}]}}, "input.content[0]"),
        ({"input": [5] * (N_CTX + 1)}, "input"),
        ({"input": ["a", " ".join(WORDS * 5)]}, "input[1]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a" * 10_000_000}, "input"),
        ({"input": [["a " * 5_000_000, 3]]}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": -1}, "dimensions"),
        ({"input": "a", "dimensions": N_EMBD + 1}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"input": "a", "truncate_prompt_tokens": N_CTX + 1}, "truncate_prompt_tokens"),
        ({"input": "a", "prompt_name": "none"}, "prompt_name"),
        ({"input": "a", "embd_normalize": 1}, "embd_normalize"),
        ({"content": "a", "input": "b"}, "content"),
    ],
)
def test_embeddings_wrong_field_is_refused_by_name(server, fields, param):
    assert refused(post(server, "embeddings", **fields), param)


def test_embeddings_lone_surrogate_is_refused(server):
    raw = b'{"input": "\\ud800"}'
    assert httpx.post(f"{server.url}/v1/embeddings", content=raw, timeout=60).status_code == 400


@pytest.mark.parametrize("given", [["a"] * 2048, [""] * 2048, [[5] * N_CTX, [5]], "", " \t\n", "\0", "\U0001f600"])
def test_embeddings_odd_input_gets_a_vector_each(server, given):
    number = len(given) if isinstance(given, list) else 1
    found = embed(server, given)
    assert found.shape == (number, N_EMBD)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("path", "fields", "capability"),
    [
        ("chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}, "chat"),
        ("completions", {"prompt": "Hi"}, "completion"),
    ],
)
def test_encoder_asked_for_text_is_refused_by_capability(server, path, fields, capability):
    assert refused(post(server, path, **fields), "model", f"model_does_not_support_{capability}")


def test_embeddings_of_eight_clients_equal_those_alone(server):
    texts = [" ".join(WORDS[: 1 + i % 26]) for i in range(64)]
    expected = embed(server, texts)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda k: np.roll(embed(server, texts[k:] + texts[:k]), k, axis=0), range(8)))
    assert min((answer * expected).sum(axis=1).min() for answer in answers) > 0.9999


def test_embeddings_are_counted(server):
    before = server.metric("llamafast:embedding_inputs_total")
    embed(server, ["a", "b", "c"])
    assert server.metric("llamafast:embedding_inputs_total") == before + 3
