"""POST /v1/responses against a scripted engine."""

from __future__ import annotations

import asyncio

import httpx
import orjson
import pytest

from llamafast.chat.prompt.template_traits import TemplateTraits
from llamafast.errors import DecodeError
from llamafast.request import FinishReason, RequestOutput, TokenLogprob, Usage
from llamafast.server.schemas.common import RequestBody
from llamafast.server.schemas.responses import ResponseBody
from tests.server.conftest import Server
from tests.server.responses_client import PATH, create, prompt_of, refused, replies, stream

IMAGE = {"type": "input_image", "image_url": "data:,"}
TOOL = {"type": "function", "name": "get", "parameters": {"type": "object", "properties": {}}}
BAD_TOOL = {**TOOL, "name": "a b"}


@pytest.fixture
def server(keeping_server) -> Server:
    return keeping_server


def test_response_is_openais(server):
    answer = create(server, instructions="Be brief", metadata={"a": "b"})
    assert (answer["object"], answer["status"], answer["model"]) == ("response", "completed", "tiny")
    assert answer["output"][0]["content"][0]["text"] == "Hello"
    num_tokens = len(server.engine.requests[0].prompt_token_ids)
    assert answer["usage"]["input_tokens"] == num_tokens
    assert answer["usage"]["input_tokens_details"] == {"cached_tokens": 2, "cache_write_tokens": num_tokens - 2}
    assert (answer["instructions"], answer["metadata"]) == ("Be brief", {"a": "b"})
    assert prompt_of(server) == "<system>Be brief\n<user>Hi!"


def without_ids(document) -> object:
    volatile = ("id", "created_at", "completed_at", "call_id")
    if isinstance(document, dict):
        return {name: None if name in volatile else without_ids(value) for name, value in document.items()}
    return [without_ids(value) for value in document] if isinstance(document, list) else document


CALLED = "<tool_call>\n<function=get>\n</function>\n</tool_call>"


@pytest.mark.parametrize("finish", [FinishReason.STOP, FinishReason.LENGTH])
@pytest.mark.parametrize("text", ["Hello", f"Well\n\n{CALLED}", CALLED, f"{CALLED}\n{CALLED}", ""])
def test_streamed_response_equals_the_whole_one(server, text, finish):
    replies(server, *(text[i : i + 3] for i in range(0, len(text) or 1, 3)), finish=finish)
    events = stream(server, tools=[TOOL])
    replies(server, text, finish=finish)
    assert without_ids(events[-1]["response"]) == without_ids(create(server, tools=[TOOL]))
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == (
        events[-1]["response"]["output"]
    )


def test_response_that_is_cut_is_incomplete(server):
    replies(server, "Hel", finish=FinishReason.LENGTH)
    events = stream(server, max_output_tokens=1)
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert server.engine.requests[0].params.max_tokens == 1


def test_response_that_fails_in_its_stream_ends_with_an_error_and_a_failed_response(server):
    replies(server, "Hel", "", error=DecodeError("no memory", 1))
    *_, done, error, failed = stream(server)
    assert (done["type"], error["type"], failed["type"]) == ("response.output_item.done", "error", "response.failed")
    assert failed["response"]["error"] == {"code": "server_error", "message": "no memory"}
    assert failed["response"]["output"][0]["status"] == "incomplete"


def test_logprobs_are_in_deltas_and_in_the_item(server):
    entry = TokenLogprob(72, -0.5, b"H", 0, [(72, -0.5, b"H")])
    server.engine.reply = lambda request: [
        [RequestOutput(request.request_id, 0, "H", [72], [entry], FinishReason.STOP, usage=Usage(1, 1, 0))]
    ]
    events = stream(server, top_logprobs=1, include=["message.output_text.logprobs"])
    delta = next(event for event in events if event["type"] == "response.output_text.delta")
    assert delta["logprobs"] == [{"token": "H", "logprob": -0.5, "top_logprobs": [{"token": "H", "logprob": -0.5}]}]
    kept = events[-1]["response"]["output"][0]["content"][0]["logprobs"]
    assert (kept[0]["bytes"], kept[0]["top_logprobs"][0]["bytes"]) == ([72], [72])


def test_custom_tool_call_is_its_plain_text(server):
    call = "<tool_call>\n<function=sh>\n<parameter=input>\nls -l\n</parameter>\n</function>\n</tool_call>"
    replies(server, call)
    answer = create(server, tools=[{"type": "custom", "name": "sh"}])
    assert (answer["output"][0]["type"], answer["output"][0]["input"]) == ("custom_tool_call", "ls -l")


def test_hosted_tools_are_left_out_with_a_warning(server):
    answer = server.post(PATH, {"input": "Hi", "tools": [{"type": "web_search"}, TOOL]})
    assert "web_search" in answer.headers["warning"]
    assert [tool["type"] for tool in answer.json()["tools"]] == ["function"]


def test_input_tokens_are_those_of_the_prompt(server):
    counted = server.post(f"{PATH}/input_tokens", {"input": "Hi"}).json()
    create(server)
    assert counted == {
        "object": "response.input_tokens",
        "input_tokens": len(server.engine.requests[0].prompt_token_ids),
    }


@pytest.mark.parametrize("fields", [{"generate": False}, {"prompt_cache_options": {"prewarm": True}}])
def test_prewarm_computes_the_prompt_and_answers_nothing(server, fields):
    replies(server, "x", finish=FinishReason.LENGTH)
    answer = create(server, input=[], instructions="Be brief", **fields)
    assert (answer["status"], answer["output"]) == ("completed", [])
    assert (answer["usage"]["output_tokens"], answer["incomplete_details"]) == (0, None)
    assert prompt_of(server) == "<system>Be brief\n<user>Hi"
    create(server, previous_response_id=answer["id"])
    assert prompt_of(server) == "<user>Hi!"


def test_truncation_auto_drops_whole_turns_from_the_front(server):
    turns = []
    for i in range(6):
        turns += [{"role": "user", "content": f"{i}" * 60}, {"role": "assistant", "content": "yes"}]
    call = {"type": "function_call", "call_id": "c", "name": "get", "arguments": "{}"}
    items = [*turns, {"role": "user", "content": "Go"}, call, {**call, "type": "function_call_output", "output": "5"}]
    refused(server.post(PATH, {"input": items}), "input")
    create(server, input=items, truncation="auto", instructions="Be brief", max_output_tokens=20)
    prompt = prompt_of(server)
    assert prompt.startswith("<system>Be brief\n<user>")
    assert len(prompt) <= 512 - 20
    assert "<user>" + "5" * 60 in prompt
    assert "<user>Go" in prompt
    assert "0" * 60 not in prompt


def test_truncation_auto_cannot_shorten_the_last_turn(server):
    answer = server.post(PATH, {"input": "long" * 200, "truncation": "auto"})
    refused(answer, "input")
    assert answer.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [{"role": "user", "content": [IMAGE]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": "a"}, {"role": "robot"}]}, "input[1].role"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": "a"}]}, "input[0].call_id"),
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"tools": [{**TOOL, "parameters": {"type": "string"}}]}, "tools[0].parameters"),
        ({"tools": [BAD_TOOL]}, "tools[0].name"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [TOOL, BAD_TOOL]}]}, "tools[0].tools[1].name"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "put"}}, "tool_choice.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"include": ["everything"]}, "include[0]"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a"),
        ({"reasoning": {"effort": "most"}}, "reasoning.effort"),
        ({"temperature": -1}, "temperature"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"conversation": "c"}, "conversation"),
        ({"n": 2}, "n"),
        ({"background": True, "store": False}, "background"),
        ({"image": {"context_compression": "enabled"}}, "image.context_compression"),
        ({"top_logprobs": 21}, "top_logprobs"),
    ],
)  # fmt: skip
def test_field_that_cannot_be_honoured_is_named(server, fields, param):
    refused(server.post(PATH, {"input": "Hi", **fields}), param)
    assert server.engine.requests == []


JUNK = [3, -1, 1e300, True, "", "x", [], [3], [[]], [None], ["x"], {}, {"type": 3}, {"type": "function"}, {"": {}},
        [{}],
        [{"type": None}], [{"type": []}], [{"type": "message", "role": "user", "content": {}}], {"format": 3},
        [{"role": []}], [{"role": "user", "content": [{"type": []}]}], [{"type": "mcp", "name": 3}],
        [{"type": "namespace", "name": "n", "tools": [{"type": []}]}], [{"role": "tool", "content": "a"}],
        {"effort": []}, [{"type": "function_call", "name": [], "call_id": 1, "arguments": {}}],
        [{"type": "reasoning", "content": 3, "encrypted_content": []}], [{"type": "custom", "format": []}],
        [{"type": "tool_search_output", "call_id": [], "tools": 3}],
        [{"type": "function", "name": "f", "parameters": 3}],
        [{"type": "item_reference", "id": []}], {"type": "allowed_tools", "mode": "auto", "tools": [3]},
        [{"type": "local_shell_call", "call_id": "c", "action": [3]}],
        [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "["}]
        ]  # fmt: skip


def test_hostile_values_are_refused_by_name_or_answered(server):
    async def go() -> list[tuple[str, object, httpx.Response]]:
        transport = httpx.ASGITransport(app=server.app)
        found = []
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for name in ResponseBody.model_fields.keys() - RequestBody.model_fields.keys():
                for junk in JUNK:
                    answer = await client.post(PATH, content=orjson.dumps({"input": "Hi", name: junk}))
                    found.append((name, junk, answer))
        return found

    for name, junk, answer in asyncio.run(go()):
        assert answer.status_code in (200, 400), (name, junk, answer.text)
        if answer.status_code == 400:
            param = answer.json()["error"]["param"]
            assert param is not None, (name, junk, answer.text)
            assert param.startswith(("input", name)), (name, junk, answer.text)


CODEX = {
    "model": "tiny",
    "instructions": "You are Codex",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "sandbox"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "list files"}]},
        {"type": "reasoning", "summary": [], "encrypted_content": "gAAAforeign", "content": None},
        {"type": "function_call", "name": "shell", "arguments": '{"command":["ls"]}', "call_id": "call_1"},
        {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "a.txt"}]},
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "compacted"}]},
        {"type": "compaction_summary", "encrypted_content": "x"},
    ],
    "tools": [
        {"type": "function", "name": "shell", "strict": False, "parameters": {"type": "object", "properties": {}}},
        {"type": "custom", "name": "apply_patch", "description": "Edit",
         "format": {"type": "grammar", "syntax": "lark", "definition": "start: /x/"}},
        {"type": "namespace", "name": "mcp__fs__", "tools": [{"type": "function", "name": "read", "parameters": {}}]},
        {"type": "web_search", "external_web_access": False},
        {"type": "local_shell"},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "reasoning": {"effort": "xhigh", "summary": "auto", "context": "all_turns"},
    "store": False,
    "stream": True,
    "stream_options": {"include_obfuscation": False},
    "include": ["reasoning.encrypted_content"],
    "service_tier": "priority",
    "prompt_cache_key": "0199",
    "text": {"verbosity": "low"},
    "client_metadata": {"x": "y"},
    "access_programs": None,
}  # fmt: skip


def test_body_of_codex_is_taken_with_strict_fields(make_server):
    server = make_server(strict_fields=True)
    answer = server.post(PATH, CODEX)
    assert answer.status_code == 200, answer.text
    for text in ("web_search", "local_shell", "compaction_summary", "not enforced"):
        assert text in answer.headers["warning"]
    names = [tool["function"]["name"] for tool in server.template.calls[-1]["tools"]]
    assert names == ["shell", "apply_patch", "mcp__fs__read"]


def test_template_variables_and_effort_reach_the_template(server):
    server.template.traits = TemplateTraits(variables=frozenset({"tools", "enable_thinking", "reasoning_effort"}))
    create(server, reasoning={"effort": "xhigh", "summary": "auto"}, text={"verbosity": "low"})
    called = server.template.calls[-1]
    assert (called["reasoning_effort"], called["enable_thinking"], called["verbosity"]) == ("xhigh", True, "low")
