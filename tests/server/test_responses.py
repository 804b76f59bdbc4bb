"""POST /v1/responses against a scripted engine, and the stored responses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing

import httpx
import orjson
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from llamafast.chat.prompt.template_traits import TemplateTraits
from llamafast.errors import DecodeError
from llamafast.request import FinishReason, RequestOutput, TokenLogprob, Usage
from llamafast.responses.database import StoredResponse
from llamafast.responses.store import ResponseStore
from llamafast.server.app import create_app
from llamafast.server.responses.service import failed_by_restart
from llamafast.server.schemas.common import RequestBody
from llamafast.server.schemas.responses import ResponseBody
from tests.server.conftest import Connection, Server

PATH = "/v1/responses"
EVENTS: TypeAdapter = TypeAdapter(ResponseStreamEvent)
IMAGE = {"type": "input_image", "image_url": "data:,"}
TOOL = {"type": "function", "name": "get", "parameters": {"type": "object", "properties": {}}}
BAD_TOOL = {**TOOL, "name": "a b"}


@pytest.fixture
def store() -> Iterator[ResponseStore]:
    with closing(ResponseStore()) as made:
        yield made


@pytest.fixture
def server(make_server, store) -> Server:
    made = make_server()
    made.app = create_app([made.model], settings=made.settings, response_store=store)
    return made


def create(server, **fields) -> dict:
    answer = server.post(PATH, {"input": "Hi", **fields})
    assert answer.status_code == 200, answer.text
    Response.model_validate(answer.json())
    return answer.json()


def stream(server, **fields) -> list[dict]:
    answer = server.post(PATH, {"input": "Hi", "stream": True, **fields})
    *blocks, end, rest = answer.content.split(b"\n\n")
    assert (end, rest) == (b"data: [DONE]", b"")
    events = []
    for block in blocks:
        name, data = block.split(b"\n")
        events.append(orjson.loads(data.removeprefix(b"data: ")))
        assert name == b"event: " + events[-1]["type"].encode()
        EVENTS.validate_python(events[-1])
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def refused(answer, param) -> None:
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def replies(server, *texts, finish=FinishReason.STOP, error=None):
    """The engine says these texts, one delivery each."""

    def reply(request):
        outputs = [RequestOutput(request.request_id, 0, text, [1] * len(text)) for text in texts]
        outputs[-1].finish_reason = FinishReason.ERROR if error else finish
        outputs[-1].error = error
        outputs[-1].usage = Usage(len(request.prompt_token_ids), sum(map(len, texts)), 2)
        return [[output] for output in outputs]

    server.engine.reply = reply


def prompt_of(server, index=-1) -> str:
    return server.engine.tokenizer.decode(server.engine.requests[index].prompt_token_ids, skip_special=False)


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


def test_continued_response_has_the_history_without_its_instructions(server):
    first = create(server, instructions="Be brief")
    second = create(server, input="More", previous_response_id=first["id"])
    third = create(server, input="Stop", previous_response_id=second["id"])
    assert third["previous_response_id"] == second["id"]
    assert prompt_of(server) == "<user>Hi\n<assistant>Hello\n<user>More\n<assistant>Hello\n<user>Stop!"


def test_two_responses_continue_the_same_one(server):
    parent = create(server)["id"]
    for text in ("left", "right"):
        create(server, input=text, previous_response_id=parent)
        assert prompt_of(server) == f"<user>Hi\n<assistant>Hello\n<user>{text}!"


@pytest.mark.parametrize("is_deleted", [False, True])
def test_response_that_continues_an_unknown_one_is_refused(server, is_deleted):
    first = create(server)["id"]
    second = create(server, previous_response_id=first)["id"]
    if is_deleted:
        assert server.call("DELETE", f"{PATH}/{first}").json() == {"id": first, "object": "response", "deleted": True}
    answer = server.post(PATH, {"input": "Hi", "previous_response_id": second if is_deleted else "resp_none"})
    refused(answer, "previous_response_id")
    assert answer.json()["error"]["code"] == "previous_response_not_found"


def test_response_is_stored_when_its_last_event_arrives(server, store):
    answer = stream(server)[-1]["response"]
    assert server.get(f"{PATH}/{answer['id']}").json() == answer


def test_response_that_is_not_to_be_stored_is_not_found(server):
    answer = create(server, store=False)
    assert answer["store"] is False
    missing = server.get(f"{PATH}/{answer['id']}")
    assert missing.status_code == 404
    assert missing.json()["error"]["message"] == f"Response with id '{answer['id']}' not found."


def test_server_without_a_store_says_so(make_server):
    server = make_server()
    answer = create(server)
    assert answer["store"] is False
    refused(server.post(PATH, {"input": "Hi", "previous_response_id": answer["id"]}), "previous_response_id")
    refused(server.post(PATH, {"input": "Hi", "background": True}), "background")


def test_response_too_large_for_the_store_says_that_it_is_not_stored(make_server):
    with closing(ResponseStore(max_bytes=1024)) as small:
        server = make_server()
        server.app = create_app([server.model], settings=server.settings, response_store=small)
        random = "".join(chr(33 + i * i % 89) for i in range(400))
        replies(server, random * 9)
        metadata = {str(i): str(i) * 500 for i in range(9)}
        assert stream(server, metadata=metadata)[-1]["response"]["store"] is False


def test_input_items_are_paged(server):
    items = [{"role": "user", "content": str(i)} for i in range(3)]
    answer = create(server, input=items)
    path = f"{PATH}/{answer['id']}/input_items"
    page = server.get(f"{path}?limit=2").json()
    assert [item["content"][0]["text"] for item in page["data"]] == ["2", "1"]
    assert page["has_more"]
    rest = server.get(f"{path}?limit=2&after={page['last_id']}").json()
    assert [item["content"][0]["text"] for item in rest["data"]] == ["0"]
    assert not rest["has_more"]
    for query in ("limit=0", "limit=x", "order=up", "after=msg_none"):
        refused(server.get(f"{path}?{query}"), query.partition("=")[0])


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


@asynccontextmanager
async def connected(server) -> AsyncIterator[httpx.AsyncClient]:
    """A client in the event loop of the test, so that background runs go on between its requests."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=server.app), base_url="http://test") as client:
        yield client


async def ended(client, response_id) -> dict:
    for _ in range(1000):
        answer = (await client.get(f"{PATH}/{response_id}")).json()
        if answer["status"] not in ("queued", "in_progress"):
            return answer
        await asyncio.sleep(0)
    raise AssertionError(answer)


def test_background_response_is_queued_then_completed(server):
    async def go() -> None:
        async with connected(server) as client:
            first = (await client.post(PATH, json={"input": "Hi", "background": True})).json()
            assert first["status"] == "queued"
            last = await ended(client, first["id"])
            assert (last["status"], last["output"][0]["content"][0]["text"]) == ("completed", "Hello")
            Response.model_validate(last)

    asyncio.run(go())


def test_background_response_that_is_cancelled_keeps_its_part_and_stays_cancelled(server):
    server.engine.reply = None

    async def go() -> None:
        async with connected(server) as client:
            made = (await client.post(PATH, json={"input": "Hi", "background": True})).json()["id"]
            (output,) = server.engine.streams
            output.push([RequestOutput("r", 0, "Hel", [1])])
            for _ in range(5):
                await asyncio.sleep(0)
            for _ in range(2):
                cancelled = (await client.post(f"{PATH}/{made}/cancel")).json()
                assert (cancelled["status"], cancelled["usage"]) == ("cancelled", None)
                assert cancelled["output"][0]["content"][0]["text"] == "Hel"
                assert cancelled["output"][0]["status"] == "incomplete"
            assert output.closed.is_set()
            assert (await client.get(f"{PATH}/{made}")).json() == cancelled

    asyncio.run(go())


def test_response_that_is_not_in_the_background_cannot_be_cancelled(server):
    answer = server.post(f"{PATH}/{create(server)['id']}/cancel", {})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "Cannot cancel a synchronous response."


def test_background_stream_outlives_its_client_and_is_replayed(server):
    server.engine.reply = None

    async def go() -> None:
        body = orjson.dumps({"input": "Hi", "background": True, "stream": True})
        connection = Connection(server.app, PATH, [body])
        await connection.until(2)
        (output,) = server.engine.streams
        first = orjson.loads(connection.bodies[0].split(b"\n")[1].removeprefix(b"data: "))
        made = first["response"]["id"]
        connection.gone.set()
        await connection.task
        output.push([RequestOutput("r", 0, "Hel", [1])])
        async with connected(server) as client:
            replay = asyncio.ensure_future(client.get(f"{PATH}/{made}?stream=true&starting_after=1"))
            await asyncio.sleep(0)
            output.push([RequestOutput("r", 0, "lo", [1], finish_reason=FinishReason.STOP, usage=Usage(1, 2, 0))])
            output.push(None)
            live = (await replay).text
            assert (await ended(client, made))["status"] == "completed"
            kept = (await client.get(f"{PATH}/{made}?stream=true&starting_after=1")).text
        assert kept == live
        numbers = [orjson.loads(block.split("data: ")[1])["sequence_number"] for block in live.split("\n\n")[:-2]]
        assert numbers == list(range(2, 2 + len(numbers)))
        assert live.endswith("data: [DONE]\n\n")

    asyncio.run(go())


def test_response_that_ran_at_the_end_of_the_process_is_failed(tmp_path):
    path = tmp_path / "responses.db"
    body = orjson.dumps({"id": "resp_1", "status": "queued", "error": None, "output": []})
    with closing(ResponseStore(path)) as store:
        asyncio.run(store.put(StoredResponse("resp_1", "", None, "queued", True, 4e9, body, b"[]")))
    with closing(ResponseStore(path)) as store:
        assert store.fail_active(failed_by_restart) == 1
        row = asyncio.run(store.get("resp_1", ""))
        assert (row.status, orjson.loads(row.body)["error"]["code"]) == ("failed", "server_error")


def test_responses_are_counted_by_status(server):
    create(server)
    replies(server, "Hel", finish=FinishReason.LENGTH)
    create(server)
    lines = server.get("/metrics").text.splitlines()
    assert 'llamafast:responses_total{status="completed"} 1.0' in lines
    assert 'llamafast:responses_total{status="incomplete"} 1.0' in lines


def test_template_variables_and_effort_reach_the_template(server):
    server.template.traits = TemplateTraits(variables=frozenset({"tools", "enable_thinking", "reasoning_effort"}))
    create(server, reasoning={"effort": "xhigh", "summary": "auto"}, text={"verbosity": "low"})
    called = server.template.calls[-1]
    assert (called["reasoning_effort"], called["enable_thinking"], called["verbosity"]) == ("xhigh", True, "low")
