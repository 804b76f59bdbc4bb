"""The fields for the prefix cache and the queue, and the report on cache misses."""

from __future__ import annotations

import logging

import pytest

from llamafast.request import FinishReason, MissReason, PromptPlaces, RequestOutput, Usage

LONG = [{"role": "user", "content": "word " * 40}]


def missed(request):
    usage = Usage(len(request.prompt_token_ids), 1, 3, MissReason.EVICTED)
    return [[RequestOutput(request.request_id, 0, "x", [1], finish_reason=FinishReason.STOP, usage=usage)]]


@pytest.mark.parametrize("route", ["chat", "complete"])
def test_cache_fields_reach_the_engine(server, route):
    assert getattr(server, route)(cache_salt="tenant", cache_prompt=False, priority=-3, n_keep=-1).status_code == 200
    (request,) = server.engine.requests
    assert (request.cache_salt, request.use_cache, request.priority, request.n_keep) == ("tenant", False, -3, -1)


@pytest.mark.parametrize("route", ["chat", "complete"])
def test_cache_fields_that_are_left_out_ask_for_nothing(server, route):
    assert getattr(server, route)(cache_salt=None).status_code == 200
    (request,) = server.engine.requests
    assert (request.cache_salt, request.use_cache, request.priority, request.n_keep) == ("", True, 0, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cache_salt", ""), ("cache_salt", 7), ("cache_salt", "s" * 5000), ("cache_prompt", "no"), ("priority", 2**31),
        ("priority", 0.5), ("priority", "high"), ("return_cache_info", 1), ("n_keep", -2),
    ],
)  # fmt: skip
def test_cache_field_with_a_wrong_value_is_400_naming_it(server, name, value):
    answer = server.chat(**{name: value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == name


def test_cache_info_is_in_a_whole_answer_on_demand(server):
    server.engine.reply = missed
    assert server.chat(return_cache_info=True).json()["usage"]["prompt_tokens_details"] == {
        "cached_tokens": 3,
        "cache_miss": {"reason": "evicted", "position": 3},
    }
    assert server.chat().json()["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}


def test_cache_info_is_in_the_usage_chunk(server, events):
    server.engine.reply = missed
    answer = server.chat(return_cache_info=True, stream=True, stream_options={"include_usage": True})
    usage = events(answer.content)[-2]["usage"]
    assert usage["prompt_tokens_details"]["cache_miss"] == {"reason": "evicted", "position": 3}


def test_cache_info_of_several_prompts_is_one_for_each(server):
    server.engine.reply = missed
    usage = server.complete(prompt=["a", "b"], return_cache_info=True).json()["usage"]
    assert usage["prompt_tokens_details"]["cache_miss"] == [{"reason": "evicted", "position": 3}] * 2


def test_cache_info_is_in_the_log(server, caplog):
    server.engine.reply = missed
    with caplog.at_level(logging.INFO, "llamafast.server"):
        server.chat()
    assert "3 of them cached (miss: evicted)" in caplog.text


def test_chat_places_are_tokens_before_the_ends_of_messages(server):
    server.template.message_ends = lambda messages, text, /, **kwargs: [0, 5, text.index("é") + 1, len(text)]
    server.chat(messages=[{"role": "user", "content": "word " * 20 + "é the end"}])
    (request,) = server.engine.requests
    text = bytes(token_id for token_id in request.prompt_token_ids if token_id < 256)
    assert request.places == PromptPlaces.of((5, text.index("é".encode()) + 2))


def test_chat_place_within_a_token_comes_before_it(server):
    server.template.message_ends = lambda messages, text, /, **kwargs: [text.index(" the end") + 2]
    server.chat(messages=[{"role": "user", "content": "word" * 20 + " the end"}])
    (request,) = server.engine.requests
    assert request.places == PromptPlaces.of((len("<user>") + 80,))


@pytest.mark.parametrize("fields", [{}, {"messages": LONG, "cache_prompt": False}])
def test_chat_short_or_uncached_prompt_has_no_places(server, fields):
    server.chat(**fields)
    assert server.engine.requests[0].places is None
