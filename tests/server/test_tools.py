"""Tools over HTTP: the request's fields, calls in the answer streamed and whole, stops, and the older functions."""

from __future__ import annotations

import json

import pytest

from llamafast.errors import GrammarError
from llamafast.grammars.structured import StructuredKind
from llamafast.request import FinishReason, RequestOutput, TokenLogprob, Usage

WEATHER = {
    "name": "get_weather",
    "description": "The weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
}
TIME = {"name": "get_time", "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}}}
TOOLS = [{"type": "function", "function": WEATHER}, {"type": "function", "function": TIME}]


def call(name, **arguments):
    parameters = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())
    return f"<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>"


PARIS = call("get_weather", city="Paris", days=3)
UTC = call("get_time", zone="UTC")


def says(server, text, size=3, finish=FinishReason.STOP, n=1, with_logprobs=False):
    """Make the engine answer with text. size: characters per token."""

    def reply(request):
        outputs = []
        for start in range(0, max(len(text), 1), size):
            for index in range(n):
                piece = text[start : start + size]
                entries = [TokenLogprob(7, -1.0, piece.encode(), start)] if with_logprobs else None
                outputs.append(RequestOutput(request.request_id, index, piece, [7], entries))
        for output in outputs[-n:]:
            output.finish_reason = finish
        outputs[-1].usage = Usage(1, len(outputs))
        return [[output] for output in outputs]

    server.engine.reply = reply
    return server


def error_of(response):
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error


def choice_of(response):
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    return choice


def gathered(chunks):
    """The message, joined from the chunks of one choice, and the finish reason."""
    message = {"content": None, "calls": {}, "function_call": None, "reasoning": ""}
    finish = None
    for chunk in chunks:
        (choice,) = chunk["choices"]
        delta, finish = choice["delta"], choice["finish_reason"] or finish
        if delta.get("content") is not None:
            message["content"] = (message["content"] or "") + delta["content"]
        message["reasoning"] += delta.get("reasoning", "")
        for part in delta.get("tool_calls", ()):
            if "id" in part:
                message["calls"][part["index"]] = {"name": part["function"]["name"], "arguments": ""}
            message["calls"][part["index"]]["arguments"] += part["function"]["arguments"]
        if "function_call" in delta:
            message["function_call"] = message["function_call"] or {"name": "", "arguments": ""}
            for name, text in delta["function_call"].items():
                message["function_call"][name] += text
    return message, finish


def test_tools_reach_the_template_as_the_client_wrote_them(server):
    tools = [{"type": "function", "x": 1, "function": {"parameters": {"type": "object"}, "name": "b", "z": [1]}}]
    server.chat(tools=tools)
    assert list(server.template.calls[0]["tools"]) == tools


@pytest.mark.parametrize("fields", [{"tools": TOOLS, "tool_choice": "none"}, {"tools": []}, {}])
def test_tools_that_may_not_be_called_are_hidden(server, fields):
    choice = choice_of(says(server, PARIS).chat(**fields))
    assert server.template.calls[0]["tools"] is None
    assert choice["message"]["content"] == PARIS
    assert choice["finish_reason"] == "stop"


def test_call_in_a_whole_answer_has_openai_shape(server):
    choice = choice_of(says(server, PARIS).chat(tools=TOOLS))
    (made,) = choice["message"].pop("tool_calls")
    assert made.pop("id").startswith("call_")
    assert made == {"type": "function", "function": {"name": "get_weather", "arguments": made["function"]["arguments"]}}
    assert json.loads(made["function"]["arguments"]) == {"city": "Paris", "days": 3}
    assert choice["message"] == {"role": "assistant", "content": None, "refusal": None}
    assert choice["finish_reason"] == "tool_calls"


def test_calls_streamed_come_in_openai_order(server, events):
    text = f"Let me see.\n\n{PARIS}\n{UTC}"
    *chunks, end = events(says(server, text).chat(tools=TOOLS, stream=True).content)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": None}
    calls = [part for delta in deltas for part in delta.get("tool_calls", ())]
    heads = [part for part in calls if "id" in part]
    assert [set(part) for part in heads] == [{"index", "id", "type", "function"}] * 2
    assert [part["function"] for part in heads] == [
        {"name": "get_weather", "arguments": ""},
        {"name": "get_time", "arguments": ""},
    ]
    assert {json.dumps(sorted(part)) for part in calls if "id" not in part} == {'["function", "index"]'}
    assert len({part["id"] for part in heads}) == 2
    assert deltas[-1] == {}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert end == "[DONE]"


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize(
    "text",
    [
        PARIS, f"{PARIS}\n{UTC}", f"Hi!\n{PARIS}", "Hi!", "", PARIS[:40], f"{PARIS} and", "<tool_call>\n{}", "<tool",
        f"<think>\nhm\n</think>\n\n{PARIS}",
    ],
)  # fmt: skip
def test_answer_streamed_adds_up_to_the_whole_one(server, events, text, size):
    whole = choice_of(says(server, text, size).chat(tools=TOOLS))
    *chunks, _ = events(server.chat(tools=TOOLS, stream=True).content)
    message, finish = gathered(chunks)
    assert finish == whole["finish_reason"]
    assert message["content"] == whole["message"]["content"]
    assert message["reasoning"] == whole["message"].get("reasoning", "")
    assert list(message["calls"].values()) == [made["function"] for made in whole["message"].get("tool_calls", [])]


@pytest.mark.parametrize(
    ("text", "finish", "shown"),
    [
        (PARIS, FinishReason.LENGTH, "length"),
        (PARIS[:60], FinishReason.LENGTH, "length"),
        (PARIS[:60], FinishReason.STOP, "stop"),
        ("Hi", FinishReason.STOP, "stop"),
    ],
)
def test_finish_reason_is_tool_calls_only_for_complete_calls_of_a_model_that_stopped(server, text, finish, shown):
    assert choice_of(says(server, text, finish=finish).chat(tools=TOOLS))["finish_reason"] == shown


def test_parallel_tool_calls_false_ends_the_answer_after_the_first(server, events):
    says(server, f"{PARIS}\n{UTC}")
    whole = choice_of(server.chat(tools=TOOLS, parallel_tool_calls=False))
    assert [made["function"]["name"] for made in whole["message"]["tool_calls"]] == ["get_weather"]
    assert whole["finish_reason"] == "tool_calls"
    *chunks, _ = events(server.chat(tools=TOOLS, parallel_tool_calls=False, stream=True).content)
    assert gathered(chunks)[1] == "tool_calls"
    assert len(gathered(chunks)[0]["calls"]) == 1
    assert [stream.finished for stream in server.engine.streams] == [[0], [0]]


def test_usage_leaves_out_tokens_after_the_end(server):
    answer = says(server, f"{PARIS}\n{UTC}", size=1).chat(tools=TOOLS, parallel_tool_calls=False).json()
    assert answer["usage"]["completion_tokens"] <= len(PARIS)


def test_two_choices_interleaved_keep_their_calls_apart(server, events):
    *chunks, _ = events(says(server, f"{PARIS}\n{UTC}", n=2).chat(tools=TOOLS, n=2, stream=True).content)
    messages = [gathered([c for c in chunks if c["choices"][0]["index"] == index])[0] for index in (0, 1)]
    assert messages[0] == messages[1]
    assert [made["name"] for made in messages[0]["calls"].values()] == ["get_weather", "get_time"]
    ids = {part["id"] for c in chunks for part in c["choices"][0]["delta"].get("tool_calls", ()) if "id" in part}
    assert len(ids) == 4


def test_legacy_functions_give_a_function_call(server, events):
    says(server, PARIS)
    whole = choice_of(server.chat(functions=[WEATHER, TIME]))
    assert whole["finish_reason"] == "function_call"
    assert "tool_calls" not in whole["message"]
    assert whole["message"]["function_call"]["name"] == "get_weather"
    assert json.loads(whole["message"]["function_call"]["arguments"]) == {"city": "Paris", "days": 3}
    message, finish = gathered(events(server.chat(functions=[WEATHER, TIME], stream=True).content)[:-1])
    assert (message["function_call"], finish) == (whole["message"]["function_call"], "function_call")
    assert list(server.template.calls[0]["tools"]) == [*TOOLS[:1], {"type": "function", "function": TIME}]


def test_legacy_function_call_none_hides_the_functions(server):
    server.chat(functions=[WEATHER], function_call="none")
    assert server.template.calls[0]["tools"] is None


def allowed(mode, *names):
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize(
    ("fields", "calls"),
    [
        ({"tool_choice": "required"}, {"get_weather", "get_time"}),
        ({"tool_choice": {"type": "function", "function": {"name": "get_time"}}}, {"get_time"}),
        ({"tool_choice": allowed("auto", "get_time", "get_time")}, {"get_time"}),
        ({"tool_choice": allowed("required", "get_weather", "get_time")}, {"get_weather", "get_time"}),
        (
            {"tools": [TOOLS[0], {"type": "function", "function": {**TIME, "strict": True}}]},
            {"get_weather", "get_time"},
        ),
        ({"response_format": {"type": "json_object"}}, {"get_weather", "get_time"}),
        ({"tools": None, "functions": [WEATHER, TIME], "function_call": {"name": "get_time"}}, {"get_time"}),
    ],
)
def test_enforced_tools_become_one_constraint(server, fields, calls):
    assert server.chat(**{"tools": TOOLS, **fields}).status_code == 200
    (request,) = server.engine.requests
    assert request.params.structured.kind is StructuredKind.LARK
    assert request.grammar is server.engine.grammar
    assert {name for name in ("get_weather", "get_time") if name in request.params.structured.text} == calls
    assert len(server.template.calls[0]["tools"]) == 2


@pytest.mark.parametrize("fields", [{}, {"tool_choice": "auto"}, {"parallel_tool_calls": False}])
def test_tools_that_may_be_called_freely_constrain_nothing(server, fields):
    server.chat(tools=TOOLS, **fields)
    assert server.engine.requests[0].params.structured is None


@pytest.mark.parametrize("field", [{"guided_regex": "a"}, {"grammar": "root ::= x"}, {"guided_choice": ["a"]}])
@pytest.mark.parametrize("tools", [{"tools": TOOLS}, {"functions": [WEATHER]}], ids=list)
def test_constraint_of_another_kind_cannot_go_with_tools(server, field, tools):
    error = error_of(server.chat(**tools, **field))
    assert error["param"] in field
    assert f"cannot be combined with {next(iter(tools))}:" in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": TOOLS, "tool_choice": "required"}, "tools[0].function.parameters"),
        ({"functions": [WEATHER], "function_call": {"name": "get_weather"}}, "functions[0].parameters"),
    ],
)
def test_tool_that_cannot_be_enforced_is_named_as_the_client_wrote_it(server, fields, param):
    server.engine.grammar = GrammarError("no", param="tools[0].function.parameters")
    error = error_of(server.chat(**fields))
    assert error["param"] == param
    assert error["message"].startswith(param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [*TOOLS, {"type": "function", "function": {"name": "a b"}}]}, "tools[2].function.name"),
        ({"tools": [{"type": "function", "function": {"name": 5}}]}, "tools[0].function.name"),
        ({"tools": [*TOOLS, TOOLS[0]]}, "tools[2].function.name"),
        ({"tools": {"a": 1}}, "tools"),
        ({"tools": TOOLS, "tool_choice": "maybe"}, "tool_choice"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice.function.name",
        ),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        (
            {
                "tools": TOOLS,
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "x"}}]},
                },
            },
            "tool_choice.allowed_tools.tools[0].function.name",
        ),
        ({"functions": [WEATHER], "tools": TOOLS}, "functions"),
        ({"functions": [WEATHER], "function_call": {"name": "x"}}, "function_call.name"),
        ({"functions": [WEATHER, WEATHER]}, "functions[1].name"),
    ],
)
def test_tool_field_that_makes_no_sense_is_refused_by_name(server, fields, param):
    assert error_of(server.chat(**fields))["param"] == param
    assert server.engine.requests == []


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        ({"type": "objekt"}, ""),
        ({"type": "array"}, ""),
        ({"type": "object", "properties": []}, ""),
        ({"type": "object", "properties": {"a": {"type": "int"}}}, ".properties.a"),
        ({"type": "object", "properties": {"a": 5}}, ".properties.a"),
        ({"type": "object", "properties": {"a": {"items": {"type": 5}}}}, ".properties.a.items"),
        ({"type": "object", "required": "a"}, ""),
        ({"type": "object", "properties": {"a": {"enum": "x"}}}, ".properties.a"),
        ({"type": "object", "properties": {"a": {"anyOf": {"type": "string"}}}}, ".properties.a"),
        ({"type": "object", "properties": {"a": {"anyOf": [{"pattern": 5}]}}}, ".properties.a.anyOf[0]"),
    ],
)
def test_tool_with_a_bad_schema_is_refused_by_name(server, parameters, place):
    tools = [TOOLS[1], {"type": "function", "function": {"name": "x", "parameters": parameters}}]
    error = error_of(server.chat(tools=tools))
    assert (error["param"], error["code"]) == ("tools[1].function.parameters", "invalid_function_parameters")
    assert error["message"].startswith(f"tools[1].function.parameters{place}: ")


def test_tool_with_an_endless_schema_is_refused(server):
    schema = '{"type":"object","not":' + '{"not":' * 300 + "true" + "}" * 301
    tool = f'{{"type":"function","function":{{"name":"x","parameters":{schema}}}}}'
    body = f'{{"messages":[{{"role":"user","content":"Hi"}}],"tools":[{tool}]}}'
    error = error_of(server.call("POST", "/v1/chat/completions", content=body))
    assert error["param"] == "tools[0].function.parameters"


@pytest.mark.parametrize(
    "parameters",
    [
        None,
        {},
        {"properties": {}},
        {
            "type": "object",
            "properties": {
                "a": {"type": ["string", "null"], "enum": ["x", None]},
                "b": {"anyOf": [{"$ref": "#/$defs/b"}, {"const": 1}], "required": True},
                "c": {"items": [{"type": "string"}], "additionalProperties": False},
                "type": True,
            },
            "$defs": {"b": {"type": "array", "items": {"type": "number"}}},
            "required": ["a"],
        },
    ],
)
def test_tool_with_any_json_schema_is_taken(server, parameters):
    tool = {"type": "function", "function": {"name": "mcp.x/y:1", "parameters": parameters}}
    assert server.chat(tools=[tool]).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("text", "stop", "content", "num_calls"),
    [
        ("one\ntwo\n", "\n", "one", 0),
        (PARIS, "\n", None, 1),
        (f"ab{PARIS}\n{UTC}", "\n", "ab", 2),
        ("<think>\na stop\nb\n</think>\n\nyes stop no", "stop", "yes ", 0),
        ("abcabd", ["bd", "abd"], "abc", 0),
        ("ends in a part of st", "stop", "ends in a part of st", 0),
        ("x<tool y", "<tool y", "x", 0),
        (call("get_time", zone="stop"), "stop", None, 1),
    ],
)
def test_stop_ends_content_alone(server, events, stream, text, stop, content, num_calls):
    says(server, text, size=2)
    response = server.chat(tools=TOOLS, stop=stop, stream=stream)
    if stream:
        message, finish = gathered(events(response.content)[:-1])
        calls = message["calls"]
    else:
        choice = choice_of(response)
        message, finish, calls = choice["message"], choice["finish_reason"], choice["message"].get("tool_calls", [])
    assert (message["content"], len(calls)) == (content, num_calls)
    assert finish == ("tool_calls" if num_calls else "stop")


def test_stop_in_the_content_tells_the_engine_once_and_cuts_logprobs(server, events):
    says(server, "one two stop three", size=2, with_logprobs=True)
    for stream in (False, True):
        response = server.chat(stop="stop", logprobs=True, stream=stream)
        assert server.engine.streams[-1].finished == [0]
    chunks = events(response.content)[:-1]
    entries = [e for chunk in chunks for e in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert "".join(entry["token"] for entry in entries) == "one two "
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_stop_before_min_tokens_is_passed_over(server):
    choice = choice_of(says(server, "a.b.c.d", size=1).chat(stop=".", min_tokens=4))
    assert choice["message"]["content"] == "a.b"


def test_stop_may_stay_in_the_content(server):
    choice = choice_of(says(server, "a stop b").chat(stop="stop", include_stop_str_in_output=True))
    assert choice["message"]["content"] == "a stop"


def test_logprobs_are_those_of_the_content(server, events):
    text = f"<think>\nhm\n</think>\n\nWell now{PARIS}"
    says(server, text, size=2, with_logprobs=True)
    whole = choice_of(server.chat(tools=TOOLS, logprobs=True))
    assert "".join(entry["token"] for entry in whole["logprobs"]["content"]) == "\nWell now<"
    chunks = events(server.chat(tools=TOOLS, logprobs=True, stream=True).content)[:-1]
    streamed = [e for chunk in chunks for e in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert streamed == whole["logprobs"]["content"]
