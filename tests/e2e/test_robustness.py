"""Bad input, lost clients and full memory against the real server: it answers the next request every time."""

from __future__ import annotations

import asyncio
import json
import signal
import socket

import httpx
import openai
import pytest

from llamafast._core import Model

from .conftest import MODELS, Server, post, refused

pytestmark = pytest.mark.usefixtures("next_request_is_answered")

STORY = "<|im_start|>user\nTell me a long story.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
ENDLESS = {"temperature": 0.8, "seed": 1, "ignore_eos": True}


@pytest.fixture(scope="module")
def small_server():
    """A server with few sequences and a small context: the queue and the KV memory fill quickly."""
    with Server("--n-ctx", "1024", "--n-seq-max", "4", "--threads", "1") as server:
        yield server
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [10_000_000]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [1, 2**40]}, "prompt"),
        ({"prompt": "Hi", "n": 0}, "n"),
        ({"prompt": "Hi", "n": 1000}, "n"),
        ({"prompt": "Hi", "best_of": 1, "n": 2}, "best_of"),
        ({"prompt": "Hi", "max_tokens": -1}, "max_tokens"),
        ({"prompt": "Hi", "temperature": -1}, "temperature"),
        ({"prompt": "Hi", "temperature": "warm"}, "temperature"),
        ({"prompt": "Hi", "top_p": 7}, "top_p"),
        ({"prompt": "Hi", "logit_bias": {"99999999": 1}}, "logit_bias"),
        ({"prompt": "Hi", "stop": [""]}, "stop"),
    ],
)
def test_completions_bad_value_gets_400_naming_the_field(server, model_name, body, param):
    raw = json.dumps({"model": model_name, **body})
    answer = httpx.post(f"{server.url}/v1/completions", content=raw, headers={"content-type": "application/json"})
    assert refused(answer, param)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"nul", b"\xff\xfe", b'{"model": 1', b'{"prompt": "\\ud800"}', b"[" * 100_000]
)
def test_completions_unparsable_body_gets_400(server, raw):
    answer = httpx.post(f"{server.url}/v1/completions", content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_completions_prompt_longer_than_context_gets_context_length_exceeded(server, model_name):
    assert refused(post(server, "completions", model=model_name, prompt=[5] * 40_000), "prompt",
                   "context_length_exceeded")  # fmt: skip


def test_chat_prompt_longer_than_context_gets_context_length_exceeded(server, model_name):
    messages = [{"role": "user", "content": "word " * 60_000}]
    assert refused(post(server, "chat/completions", model=model_name, messages=messages), "messages",
                   "context_length_exceeded")  # fmt: skip


def test_completions_absurd_max_tokens_ends_at_the_context(small_server):
    answer = post(
        small_server, "completions", model=small_server.model_name(), prompt=STORY, max_tokens=10**12, **ENDLESS
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["finish_reason"] == "length"
    assert answer.json()["usage"]["total_tokens"] <= 1024


def test_completions_1000_stop_strings_work(client, model_name):
    stops = [f"never {i}" for i in range(999)] + ["Paris"]
    answer = client.chat.completions.create(
        model=model_name, messages=[{"role": "user", "content": "What is the capital of France?"}], temperature=0,
        stop=stops,
    )  # fmt: skip
    assert answer.choices[0].finish_reason == "stop"
    assert "Paris" not in answer.choices[0].message.content


def test_completions_invalid_utf8_output_becomes_replacement_characters(server, model_name):
    model = Model(str(MODELS / "tiny-qwen35-f16.gguf"), vocab_only=True)
    halves = [i for i in range(model.n_vocab) if len(piece := model.token_bytes(i)) == 1 and piece >= b"\xc2"]
    bias = {str(token_id): 100 for token_id in halves}
    body = {"model": model_name, "prompt": "Hi", "max_tokens": 20, "temperature": 0, "logit_bias": bias}
    whole = post(server, "completions", **body).json()["choices"][0]["text"]
    streamed = httpx.post(f"{server.url}/v1/completions", json={**body, "stream": True}, timeout=60).text
    events = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    assert "\ufffd" in whole
    assert "".join(event["choices"][0]["text"] for event in events) == whole


def open_stream(server, body):
    """A raw connection with a streaming request. The caller closes it."""
    raw = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        + f"Content-Length: {len(raw)}\r\n\r\n".encode()
        + raw
    )
    return connection


@pytest.mark.parametrize("stream", [True, False])
def test_client_gone_while_decoding_frees_its_sequence(server, model_name, stream):
    body = {"model": model_name, "prompt": STORY, "max_tokens": 20_000, "stream": stream, **ENDLESS}
    connection = open_stream(server, body)
    assert server.wait_for_metric("vllm:num_requests_running", lambda value: value == 1) == 1
    connection.close()
    assert server.wait_for_metric("vllm:num_requests_running", lambda value: value == 0) == 0


def test_client_gone_while_prefilling_frees_its_sequence(server, model_name):
    body = {"model": model_name, "prompt": [7] * 30_000, "max_tokens": 5, "stream": True}
    connection = open_stream(server, body)
    assert server.wait_for_metric("vllm:num_requests_running", lambda value: value == 1) == 1
    connection.close()
    assert server.wait_for_metric("vllm:num_requests_running", lambda value: value == 0) == 0


def test_client_gone_while_queued_leaves_the_queue(small_server):
    body = {"model": small_server.model_name(), "prompt": STORY, "max_tokens": 900, "stream": True, **ENDLESS}
    running = [open_stream(small_server, body) for _ in range(4)]
    assert small_server.wait_for_metric("vllm:num_requests_running", lambda value: value >= 1) >= 1
    queued = [open_stream(small_server, body) for _ in range(4)]
    assert small_server.wait_for_metric("vllm:num_requests_waiting", lambda value: value >= 4) >= 4
    for connection in queued:
        connection.close()
    assert small_server.wait_for_metric("vllm:num_requests_waiting", lambda value: value <= 3) <= 3
    for connection in running:
        connection.close()
    assert small_server.wait_for_metric("vllm:num_requests_running", lambda value: value == 0) == 0


def gather(server, bodies):
    async def ask_all():
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=120, limits=limits) as client:
            asked = [client.post(f"{server.url}/v1/completions", json=body) for body in bodies]
            return await asyncio.gather(*asked)

    return asyncio.run(ask_all())


def test_kv_full_with_16_long_requests_all_finish():
    with Server("--n-ctx", "1024", "--n-seq-max", "16", "--threads", "1") as server:
        body = {
            "model": server.model_name(),
            "prompt": STORY,
            "max_tokens": 200,
            "temperature": 0.8,
            "ignore_eos": True,
        }
        answers = gather(server, [{**body, "seed": seed} for seed in range(16)])
        assert [answer.status_code for answer in answers] == [200] * 16
        assert {answer.json()["usage"]["completion_tokens"] for answer in answers} == {200}
        assert server.metric("vllm:num_preemptions_total") > 0
        assert server.stop() == 0


def test_200_requests_at_once_none_is_lost(server, model_name):
    prompt = "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    answers = gather(server, [{"model": model_name, "prompt": prompt, "temperature": 0, "max_tokens": 8}] * 200)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["choices"][0]["text"] for answer in answers}) == 1
    assert len({answer.json()["id"] for answer in answers}) == 200


def test_queue_over_its_bound_gets_503_with_retry_after():
    with Server("--n-ctx", "1024", "--n-seq-max", "1", "--threads", "1", "--max-queued-requests", "2") as server:
        body = {"model": server.model_name(), "prompt": STORY, "max_tokens": 300, **ENDLESS}
        answers = gather(server, [body] * 12)
        full = [answer for answer in answers if answer.status_code == 503]
        assert full and len(full) + len([answer for answer in answers if answer.status_code == 200]) == 12
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in full)
        assert server.stop() == 0


def test_body_over_the_limit_gets_413(server):
    answer = httpx.post(f"{server.url}/v1/completions", content=b" " * (200 << 20), timeout=60)
    assert answer.status_code == 413
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def last_finish_reason(stream):
    return [chunk.choices[0].finish_reason async for chunk in stream][-1]


def test_sigterm_under_load_running_requests_finish():
    async def under_load(server, model_name):
        options = {"model": model_name, "prompt": STORY, "max_tokens": 150, "temperature": 0.8, "stream": True}
        async with server.async_client() as client:
            streams = [
                await client.completions.create(**options, seed=seed, extra_body={"ignore_eos": True})
                for seed in range(8)
            ]
            server.process.send_signal(signal.SIGTERM)
            return await asyncio.gather(*(last_finish_reason(stream) for stream in streams))

    with Server("--threads", "1") as server:
        assert asyncio.run(under_load(server, server.model_name())) == ["length"] * 8
        assert server.process.wait(20) == 0


def test_sigterm_new_requests_are_refused_while_old_ones_finish():
    with Server("--threads", "1") as server, httpx.Client(base_url=server.url) as kept:
        body = {"model": server.model_name(), "prompt": STORY, "max_tokens": 20_000, "stream": True, **ENDLESS}
        running = open_stream(server, body)
        server.wait_for_metric("vllm:num_requests_running", lambda value: value == 1)
        assert kept.get("/ready").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        while kept.get("/ready").status_code != 503:
            assert server.process.poll() is None
        answer = kept.post("/v1/completions", json={**body, "stream": False})
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "shutting_down"
        running.close()
        kept.close()
        assert server.process.wait(20) == 0


def test_unknown_model_is_an_openai_not_found_error(client):
    with pytest.raises(openai.NotFoundError) as error:
        client.completions.create(model="no-such-model", prompt="Hi")
    assert error.value.code == "model_not_found"
