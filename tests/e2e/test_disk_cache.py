"""A conversation continues after the server was restarted or killed."""

from __future__ import annotations

import json
import random
import signal
import threading

import httpx
import pytest

from .conftest import Server, post

PROMPT = [20 + (7 * i + i * i // 5) % 200 for i in range(300)]
COUNTRIES = ("France", "Japan", "Norway", "Spain", "Italy", "Egypt")
TEXT = "The moon is round, and the sun is warm. A short story about a fox that lives near the river. "


def complete(server, num_tokens):
    """The answer to the first tokens of the prompt, and how many of them came from a cache."""
    answer = post(server, "completions", prompt=PROMPT[:num_tokens], max_tokens=1, temperature=0).json()
    return answer["choices"][0]["text"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_next_turn_after_a_restart_computes_what_is_new(server, tmp_path):
    arguments = ("--disk-cache", str(tmp_path), "--disk-cache-max-bytes", "100000000", "--threads", "1")
    with Server(*arguments) as first:
        assert complete(first, 250)[1] == 0
        assert first.stop() == 0
    with Server(*arguments) as second:
        text, cached_tokens = complete(second, 300)
        assert second.metric("llamafast:disk_cache_hits_total") == 1
    assert (text, cached_tokens) == (complete(server, 300)[0], 249)  # the last token is computed anew


def chat(server, country, salt, **fields):
    """The tokens of the answer to a conversation."""
    messages = [
        {"role": "system", "content": "You are a helpful assistant. " + TEXT * 2},
        {"role": "user", "content": f"What is the capital of {country}? " + TEXT},
        {"role": "assistant", "content": "I do not know. " + TEXT},
        {"role": "user", "content": f"What is the capital of {country}?"},
    ]
    body = {"messages": messages, "cache_salt": salt, "temperature": 0, "max_tokens": 12, "logprobs": True}
    answer = post(server, "chat/completions", chat_template_kwargs={"enable_thinking": False}, **body, **fields).json()
    return [token["token"] for token in answer["choices"][0]["logprobs"]["content"]]


def chat_until_killed(server, salt):
    """Run all conversations, a few at a time. Each is written to the disk when it ends."""

    def talk(countries):
        try:
            for country in countries:
                chat(server, country, salt)
        except httpx.TransportError:
            pass

    threads = [threading.Thread(target=talk, args=(COUNTRIES[i::2],)) for i in range(2)]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.parametrize("num_kills", [1, pytest.param(20, marks=pytest.mark.kill)])
def test_server_killed_while_writing_starts_and_answers_as_without_a_cache(server, tmp_path, num_kills):
    expected = {country: chat(server, country, "cold", cache_prompt=False) for country in COUNTRIES}
    config, folder = tmp_path / "config.json", tmp_path / "folder"
    cache = {"path": str(folder), "max_bytes": 30_000_000, "min_tokens": 16}
    config.write_text(json.dumps({"model": {"path": "built-in", "threads": 1}, "disk_cache": cache}))
    rng, num_hits = random.Random(1), 0
    for kill in range(num_kills + 1):
        with Server(str(config)) as running:
            if kill:  # the states of the previous server
                answers = {country: chat(running, country, str(kill - 1)) for country in COUNTRIES}
                assert answers == expected
                num_hits += running.metric("llamafast:disk_cache_hits_total")
                assert running.metric("llamafast:disk_cache_damaged_total") == 0
            threads = chat_until_killed(running, str(kill))
            if not kill:  # the next server needs a stored state
                running.wait_for_metric("llamafast:disk_cache_writes_total", lambda value: value > 0)
            threads[0].join(rng.uniform(0.0, 0.4))
            running.process.send_signal(signal.SIGKILL)
            assert running.process.wait(30) == -signal.SIGKILL
        for thread in threads:
            thread.join()
        assert sum(file.stat().st_size for file in folder.iterdir()) <= cache["max_bytes"]
    assert num_hits > 0
