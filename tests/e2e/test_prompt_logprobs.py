"""Logprobs of prompts against the real server: echo, vLLM's field, long prompts together with other requests."""

from __future__ import annotations

import asyncio
import math

import pytest

from .conftest import post

PROMPT = "The capital of France is Paris. The capital of Spain is Madrid."


def scored(server, **fields):
    answer = post(server, "completions", **{"prompt": PROMPT, "max_tokens": 0, "echo": True, "logprobs": 1, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"]


def test_echo_with_logprobs_covers_the_whole_text(server):
    (choice,) = scored(server, max_tokens=6, temperature=0)
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]) == choice["text"]
    assert choice["text"].startswith(PROMPT)
    assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
    places = zip(logprobs["tokens"], logprobs["text_offset"], strict=True)
    assert all(choice["text"][offset:].startswith(token) for token, offset in places)


def test_echo_of_generated_text_says_what_the_generation_said(server):
    (said,) = scored(server, prompt="Once upon a time", echo=False, max_tokens=40, seed=3, logprobs=0)
    (read,) = scored(server, prompt="Once upon a time" + said["text"], logprobs=0)
    num_said = len(said["logprobs"]["tokens"])
    assert read["logprobs"]["tokens"][-num_said:] == said["logprobs"]["tokens"]
    assert read["logprobs"]["token_logprobs"][-num_said:] == pytest.approx(said["logprobs"]["token_logprobs"], abs=0.02)


def test_prompt_logprobs_agree_with_echo(server):
    (choice,) = scored(server, prompt_logprobs=2)
    entries = choice["prompt_logprobs"]
    own = [next(iter(entry.values())) for entry in entries[1:]]
    assert [token["logprob"] for token in own] == choice["logprobs"]["token_logprobs"][1:]
    assert [token["decoded_token"] for token in own] == choice["logprobs"]["tokens"][1:]
    ranks = [sorted(token["rank"] for token in entry.values()) for entry in entries[1:]]
    assert all(rank[:2] == [1, 2] for rank in ranks)


def test_prompt_logprobs_of_many_at_once_equal_those_of_each_alone(server):
    prompts = [f"{i}. " + PROMPT * (1 + i % 3) for i in range(12)]
    alone = [scored(server, prompt=prompt)[0]["logprobs"]["token_logprobs"][1:] for prompt in prompts]

    async def together():
        async with server.async_client() as client:
            asked = [
                client.completions.create(
                    model=server.model_name(), prompt=prompt, max_tokens=4 * (i % 2), echo=True, logprobs=1
                )
                for i, prompt in enumerate(prompts)
            ]
            return await asyncio.gather(*asked)

    for answer, expected in zip(asyncio.run(together()), alone, strict=True):
        got = answer.choices[0].logprobs.token_logprobs[1 : 1 + len(expected)]
        assert got == pytest.approx(expected, abs=0.05)


def test_perplexity_of_sense_is_below_that_of_nonsense(server):
    sense, nonsense = scored(server, prompt=[PROMPT, "is Spain capital Paris of France Madrid The of capital The is"])
    means = [
        sum(values) / len(values)
        for values in (choice["logprobs"]["token_logprobs"][1:] for choice in (sense, nonsense))
    ]
    assert math.exp(-means[0]) < math.exp(-means[1])
