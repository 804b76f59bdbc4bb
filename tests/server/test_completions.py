"""POST /v1/completions against a scripted engine."""

from __future__ import annotations

from array import array

import pytest

from llamafast.errors import QueueFullError
from llamafast.request import FinishReason, RequestOutput, TokenLogprob, Usage


def _reply_with_prompt(request):
    """Each choice answers with its prompt and index. Later prompts answer first."""
    text = bytes(list(request.prompt_token_ids)).decode()
    outputs = [
        RequestOutput(request.request_id, i, f"[{text}{i}]", [1], finish_reason=FinishReason.STOP)
        for i in range(request.params.n)
    ]
    outputs[-1].usage = Usage(len(request.prompt_token_ids), request.params.n, 1)
    return [outputs]


def test_completion_whole_answer_has_openai_shape(server):
    answer = server.complete().json()
    assert answer.pop("id").startswith("cmpl-")
    assert isinstance(answer.pop("created"), int)
    assert answer == {
        "object": "text_completion",
        "model": "tiny",
        "system_fingerprint": server.model.fingerprint,
        "choices": [{"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 5,
            "total_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


def test_completion_stream_ends_with_finish_reason_and_done(server, events):
    *chunks, end = events(server.complete(stream=True).content)
    assert [(c["choices"][0]["text"], c["choices"][0]["finish_reason"]) for c in chunks] == [
        ("Hel", None),
        ("lo", None),
        ("", "stop"),
    ]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert end == "[DONE]"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("ab", [[97, 98]]),
        (["a", "b"], [[97], [98]]),
        ([97, 98], [[97, 98]]),
        ([[97], [98, 99]], [[97], [98, 99]]),
    ],
)
def test_completion_prompt_forms_become_token_ids(server, prompt, expected):
    assert server.complete(prompt=prompt).status_code == 200
    assert [request.prompt_token_ids for request in server.engine.requests] == [array("i", ids) for ids in expected]


def test_completion_of_many_prompts_numbers_choices_by_prompt(server):
    server.engine.reply = _reply_with_prompt
    answer = server.complete(prompt=["a", "b", "c"], n=2).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3, 4, 5]
    assert [choice["text"] for choice in answer["choices"]] == ["[a0]", "[a1]", "[b0]", "[b1]", "[c0]", "[c1]"]
    assert answer["usage"]["prompt_tokens"] == 3
    assert answer["usage"]["completion_tokens"] == 6
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}
    assert len({request.request_id for request in server.engine.requests}) == 3


def test_completion_stream_of_many_prompts_equals_whole(server, events):
    server.engine.reply = _reply_with_prompt
    texts = [choice["text"] for choice in server.complete(prompt=["a", "b"], n=2).json()["choices"]]
    streamed = [""] * 4
    for chunk in events(server.complete(prompt=["a", "b"], n=2, stream=True).content)[:-1]:
        streamed[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert streamed == texts


def test_completion_when_one_prompt_is_refused_aborts_the_others(server):
    server.engine.reply = None
    server.engine.refuse = lambda request: (
        QueueFullError("full", retry_after=2.5) if len(server.engine.requests) == 2 else None
    )
    response = server.complete(prompt=["a", "b", "c"])
    assert (response.status_code, response.headers["retry-after"]) == (503, "3")
    assert [stream.closed.is_set() for stream in server.engine.streams] == [True, True]


def test_completion_max_tokens_defaults_to_sixteen(server):
    server.complete()
    server.complete(max_tokens=0)
    assert [request.params.max_tokens for request in server.engine.requests] == [16, 0]


@pytest.mark.parametrize("prompt", ["Say", [83, 97, 121]])
def test_completion_echo_puts_the_prompt_first(server, events, prompt):
    assert server.complete(prompt=prompt, echo=True).json()["choices"][0]["text"] == "SayHello"
    *chunks, _ = events(server.complete(prompt=prompt, echo=True, stream=True).content)
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Say", "Hel", "lo", ""]


def test_completion_suffix_builds_a_fill_in_the_middle_prompt(server):
    server.complete(prompt="a", suffix="z")
    assert list(server.engine.requests[0].prompt_token_ids) == [256, 97, 257, 122, 258]


def test_completion_suffix_begins_with_bos_where_the_vocabulary_wants_it(server):
    server.engine.tokenizer.add_bos = True
    server.engine.tokenizer.bos_id = 299
    server.complete(prompt=[97], suffix="z")
    assert list(server.engine.requests[0].prompt_token_ids) == [299, 256, 97, 257, 122, 258]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"add_special_tokens": True}, True),
        ({"add_special_tokens": False}, False),
        ({"add_special": False}, False),
    ],
)
def test_completion_special_tokens_are_added_unless_the_request_says_no(server, fields, expected):
    seen = []
    encode = server.engine.tokenizer.encode
    server.engine.tokenizer.encode = lambda text, **kwargs: seen.append(kwargs) or encode(text, **kwargs)
    assert server.complete(prompt="a", **fields).status_code == 200
    assert seen == [{"add_special": expected, "parse_special": True}]


def test_completion_suffix_begins_without_bos_where_the_request_says_so(server):
    server.engine.tokenizer.add_bos = True
    server.engine.tokenizer.bos_id = 5
    server.complete(prompt=[97], suffix="z", add_special_tokens=False)
    assert server.engine.requests[0].prompt_token_ids[0] == 256


def test_completion_special_tokens_under_two_names_must_agree(server):
    response = server.complete(add_special=False, add_special_tokens=True)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "add_special")


def test_completion_suffix_without_such_tokens_is_refused(server):
    server.engine.tokenizer.fim_ids = None
    response = server.complete(suffix="z")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "suffix")


def test_completion_empty_suffix_asks_for_nothing(server):
    server.engine.tokenizer.fim_ids = None
    assert server.complete(suffix="").status_code == 200


def test_completion_best_of_reaches_the_engine(server):
    assert server.complete(n=1, best_of=3).status_code == 200
    assert server.engine.requests[0].params.best_of == 3


def test_completion_logprobs_have_parallel_lists(server):
    entries = [
        TokenLogprob(1, -0.5, b"a", 0, ((1, -0.5, b"a"), (2, -1.0, b"b"), (9, -2.0, b"b"))),
        TokenLogprob(3, -3.0, b"\xc3", 1, ((2, -0.1, b"b"),)),
    ]
    server.engine.reply = lambda request: [
        [RequestOutput(request.request_id, 0, "a\ufffd", [1, 3], entries, FinishReason.STOP, usage=Usage(1, 2))]
    ]
    assert server.complete(logprobs=3).json()["choices"][0]["logprobs"] == {
        "tokens": ["a", "bytes:\\xc3"],
        "token_logprobs": [-0.5, -3.0],
        "top_logprobs": [{"a": -0.5, "b": -1.0}, {"bytes:\\xc3": -3.0, "b": -0.1}],
        "text_offset": [0, 1],
    }
    assert server.engine.requests[0].params.logprobs == 3


def _scored(request):
    """A score for each prompt token, for each choice; then one generated token."""
    ids = request.prompt_token_ids
    entries = [TokenLogprob(i, -1.0, bytes([i % 256]), 0, ((65, -0.5, b"A"), (66, -0.75, b"B")), 3) for i in ids[1:]]
    said = TokenLogprob(90, -0.25, b"Z", 0, ((90, -0.25, b"Z"), (66, -0.75, b"B")))
    outputs = [
        RequestOutput(request.request_id, i, "Z", [90], [said], FinishReason.LENGTH, prompt_logprobs=[None, *entries])
        for i in range(request.params.n)
    ]
    outputs[-1].usage = Usage(len(ids), request.params.n)
    return [outputs]


def test_completion_echo_with_logprobs_begins_with_those_of_the_prompt(server):
    server.engine.reply = _scored
    choice = server.complete(echo=True, logprobs=1).json()["choices"][0]
    assert choice["text"] == "SayZ"
    assert choice["logprobs"] == {
        "tokens": ["S", "a", "y", "Z"],
        "token_logprobs": [None, -1.0, -1.0, -0.25],
        "top_logprobs": [None, {"a": -1.0, "A": -0.5}, {"y": -1.0, "A": -0.5}, {"Z": -0.25}],
        "text_offset": [0, 1, 2, 3],
    }
    assert "prompt_logprobs" not in choice
    assert server.engine.requests[0].params.prompt_logprobs == 1


def test_completion_echo_alone_does_not_score_the_prompt(server):
    server.complete(echo=True)
    server.complete(logprobs=2)
    assert [request.params.prompt_logprobs for request in server.engine.requests] == [None, None]


def test_completion_streamed_echo_with_logprobs_equals_whole(server, events):
    server.engine.reply = _scored
    fields = {"prompt": ["ab", "cde"], "n": 2, "echo": True, "logprobs": 2}
    whole = server.complete(**fields).json()["choices"]
    streamed = [{name: [] for name in whole[0]["logprobs"]} for _ in whole]
    for chunk in events(server.complete(**fields, stream=True).content)[:-1]:
        (choice,) = chunk["choices"]
        for name, values in (choice["logprobs"] or {}).items():
            streamed[choice["index"]][name] += values
    assert streamed == [choice["logprobs"] for choice in whole]


@pytest.mark.parametrize(
    ("prompt", "skip", "bos", "offsets"),
    [
        (
            "a the<257>é",
            True,
            False,
            [0, 1, 5, 6, 7, 8, 9, 10, 10],
        ),  # a part of a character has the offset of the character's end
        ([97, 299, 257, 98], True, False, [0, 1, 5, 5]),
        ([97, 299, 257, 98], False, False, [0, 1, 5, 10]),
        ("ab", True, True, [0, 0, 1]),
    ],
)
def test_completion_echo_offsets_are_places_in_the_text(server, prompt, skip, bos, offsets):
    server.engine.reply = _scored
    if bos:
        encode = server.engine.tokenizer.encode
        server.engine.tokenizer.encode = lambda text, **kwargs: [258, *encode(text, **kwargs)]
    answer = server.complete(prompt=prompt, echo=True, logprobs=0, skip_special_tokens=skip).json()["choices"][0]
    assert answer["logprobs"]["text_offset"] == [*offsets, len(answer["text"]) - 1]


def test_completion_prompt_logprobs_have_vllms_shape(server):
    server.engine.reply = _scored
    choices = server.complete(prompt_logprobs=1, n=2).json()["choices"]
    top = {"logprob": -0.5, "rank": 1, "decoded_token": "A"}
    assert [choice["prompt_logprobs"] for choice in choices] == [
        [
            None,
            {"97": {"logprob": -1.0, "rank": 3, "decoded_token": "a"}, "65": top},
            {"121": {"logprob": -1.0, "rank": 3, "decoded_token": "y"}, "65": top},
        ]
    ] * 2
    assert choices[0]["logprobs"] is None


def test_completion_prompt_logprobs_and_echo_have_their_own_numbers_of_alternatives(server):
    server.engine.reply = _scored
    choice = server.complete(prompt_logprobs=0, echo=True, logprobs=2).json()["choices"][0]
    assert server.engine.requests[0].params.prompt_logprobs == 2
    assert [len(entry) for entry in choice["prompt_logprobs"][1:]] == [1, 1]
    assert [len(top) for top in choice["logprobs"]["top_logprobs"][1:]] == [3, 3, 2]


def test_completion_prompt_logprobs_false_asks_for_nothing(server):
    assert server.complete(prompt_logprobs=False, stream=True).status_code == 200
