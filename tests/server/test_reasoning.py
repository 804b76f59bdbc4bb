"""Reasoning over HTTP: switches, budgets, and the reasoning in the answer."""

from __future__ import annotations

import pytest

from llamafast.request import FinishReason, RequestOutput, TokenLogprob, Usage


def reply(request):
    pieces = ["hm", ",\nso", "\n", "</think>", "\n\n", "Yes", "."]
    outputs = [RequestOutput(request.request_id, 0, text, [i]) for i, text in enumerate(pieces)]
    outputs[-1].finish_reason = FinishReason.STOP
    outputs[-1].usage = Usage(3, len(outputs))
    return [[output] for output in outputs]


@pytest.fixture
def thinking(server):
    server.engine.reply = reply
    server.template.render = lambda messages, /, **kwargs: "<|im_start|>assistant\n<think>\n"
    return server


def error_of(response):
    assert response.status_code == 400, response.text
    return response.json()["error"]


def test_reasoning_has_both_names_and_is_not_in_the_content(thinking):
    answer = thinking.chat().json()
    assert answer["choices"][0]["message"] == {
        "role": "assistant", "content": "Yes.", "refusal": None, "reasoning_content": "hm,\nso",
        "reasoning": "hm,\nso",
    }  # fmt: skip
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 4}


def test_reasoning_streamed_has_both_names(thinking, events):
    *chunks, _ = events(thinking.chat(stream=True).content)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "hm", "reasoning": "hm"},
        {"reasoning_content": ",\nso", "reasoning": ",\nso"},
        {"content": "Yes"},
        {"content": "."},
        {},
    ]


def test_reasoning_tokens_do_not_hold_the_head_of_a_call(thinking):
    pieces = ["hm", "</think>", "\n\n", "<tool_call>", "\n<function=", "f", ">\n", "</function>\n</tool_call>"]
    outputs = [RequestOutput("r", 0, text, [i]) for i, text in enumerate(pieces)]
    outputs[-1].finish_reason, outputs[-1].usage = FinishReason.STOP, Usage(3, len(outputs))
    thinking.engine.reply = lambda request: [[output] for output in outputs]
    answer = thinking.chat(tools=[{"type": "function", "function": {"name": "f"}}]).json()
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}


@pytest.mark.parametrize("pieces", [["hm", "</think>", "\n\n", " Yes", "."], ["hm</think>\n", "\nYes", "."]])
def test_logprobs_hold_a_first_token_whose_white_space_is_cut(thinking, pieces):
    outputs, offset = [], 0
    for i, text in enumerate(pieces):
        outputs.append(RequestOutput("r", 0, text, [i], [TokenLogprob(i, -1.0, text.encode(), offset)]))
        offset += len(text)
    outputs[-1].finish_reason, outputs[-1].usage = FinishReason.STOP, Usage(3, len(outputs))
    thinking.engine.reply = lambda request: [[output] for output in outputs]
    (choice,) = thinking.chat(logprobs=True).json()["choices"]
    assert choice["message"]["content"] == "Yes."
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == pieces[-2:]


@pytest.mark.parametrize("fields", [{"include_reasoning": False}, {"reasoning": {"exclude": True}}])
def test_reasoning_that_is_not_wanted_is_hidden_and_counted(thinking, events, fields):
    answer = thinking.chat(**fields).json()
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "Yes.", "refusal": None}
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 4}
    *chunks, _ = events(thinking.chat(stream=True, **fields).content)
    assert all("reasoning" not in chunk["choices"][0]["delta"] for chunk in chunks)


@pytest.mark.parametrize(
    ("fields", "switches"),
    [
        ({}, {}),
        ({"reasoning_effort": "none"}, {"reasoning_effort": "none", "enable_thinking": False}),
        ({"reasoning_effort": "minimal"}, {"reasoning_effort": "minimal", "enable_thinking": False}),
        ({"reasoning_effort": "low"}, {"reasoning_effort": "low", "enable_thinking": True}),
        ({"reasoning": {"effort": "high"}}, {"reasoning_effort": "high", "enable_thinking": True}),
        ({"reasoning": {"enabled": False}}, {"enable_thinking": False}),
        ({"enable_thinking": True}, {"enable_thinking": True}),
        ({"enable_thinking": False, "reasoning_effort": "low"}, {"reasoning_effort": "low", "enable_thinking": False}),
        ({"enable_thinking": False, "chat_template_kwargs": {"enable_thinking": True}}, {"enable_thinking": True}),
    ],
)
def test_reasoning_fields_turn_the_templates_switches(server, fields, switches):
    server.chat(**fields)
    (call,) = server.template.calls
    seen = {name: value for name, value in call.items() if name in ("reasoning_effort", "enable_thinking")}
    assert seen == switches


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"reasoning_effort": "low", "reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"enable_thinking": "yes"}, "enable_thinking"),
        ({"enable_thinking": True, "reasoning": {"enabled": False}}, "reasoning.enabled"),
        ({"thinking_budget": -2}, "thinking_budget"),
        ({"reasoning_budget": "much"}, "reasoning_budget"),
        ({"thinking_budget": 5, "thinking_token_budget": 6}, "thinking_token_budget"),
        ({"thinking_budget": 5, "reasoning": {"max_tokens": 6}}, "reasoning.max_tokens"),
        ({"include_reasoning": True, "reasoning": {"exclude": True}}, "reasoning.exclude"),
        ({"separate_reasoning": False}, "separate_reasoning"),
        ({"reasoning_format": "none"}, "reasoning_format"),
    ],
)
def test_reasoning_field_that_cannot_be_honoured_is_refused_by_name(server, fields, param):
    assert error_of(server.chat(**fields))["param"] == param


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({"thinking_budget": 7}, 7),
        ({"thinking_token_budget": 0}, 0),
        ({"reasoning": {"max_tokens": 9}}, 9),
        ({"thinking_budget": -1}, None),
        ({}, None),
    ],
)
def test_thinking_budget_reaches_the_engine_under_any_name(server, fields, limit):
    server.chat(**fields)
    budget = server.engine.requests[0].params.reasoning_budget
    assert (budget and budget.max_tokens) == limit


def test_thinking_budget_closes_with_the_operators_message(make_server):
    server = make_server(reasoning_budget=5, reasoning_budget_message="Enough.")
    server.chat()
    (request,) = server.engine.requests
    budget = request.params.reasoning_budget
    assert (budget.max_tokens, budget.is_open, budget.end) == (5, False, "</think>")
    assert server.engine.tokenizer.decode(budget.closing_ids).startswith("Enough.")
    server.chat(thinking_budget=-1)
    assert server.engine.requests[1].params.reasoning_budget is None


def test_thinking_budget_knows_that_the_prompt_leaves_reasoning_open(thinking):
    thinking.chat(thinking_budget=5)
    assert thinking.engine.requests[0].params.reasoning_budget.is_open


def test_logprobs_hold_the_token_that_begins_with_the_space_before_the_answer(thinking):
    def with_logprobs(request):
        steps, num_chars = reply(request), 0
        for output in (output for outputs in steps for output in outputs):
            output.text = " Yes" if output.text == "Yes" else output.text
            output.logprobs = [TokenLogprob(output.token_ids[0], -0.5, output.text.encode(), num_chars)]
            num_chars += len(output.text)
        return steps

    thinking.engine.reply = with_logprobs
    choice = thinking.chat(logprobs=True).json()["choices"][0]
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == [" Yes", "."]
