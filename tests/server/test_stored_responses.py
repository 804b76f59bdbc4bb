"""Stored responses: continued, read, cancelled, deleted, replayed; and those that run in the background."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import httpx
import orjson
import pytest
from openai.types.responses import Response

from llamafast.request import FinishReason, RequestOutput, Usage
from llamafast.responses.database import StoredResponse
from llamafast.responses.store import ResponseStore
from llamafast.server.app import create_app
from llamafast.server.responses.service import failed_by_restart
from tests.server.conftest import Connection, FakeTemplate, Server
from tests.server.responses_client import PATH, create, prompt_of, refused, replies, stream


@pytest.fixture
def server(keeping_server) -> Server:
    return keeping_server


def test_continued_response_has_the_history_without_its_instructions(server):
    first = create(server, instructions="Be brief")
    second = create(server, input="More", previous_response_id=first["id"])
    third = create(server, input="Stop", previous_response_id=second["id"])
    assert third["previous_response_id"] == second["id"]
    assert prompt_of(server) == "<user>Hi\n<assistant>Hello\n<user>More\n<assistant>Hello\n<user>Stop!"


class RepeatingTemplate(FakeTemplate):
    """An answer begins as it is repeated later."""

    def render(self, messages, /, **kwargs) -> str:
        return super().render(messages, **kwargs).removesuffix("!") + (
            "\n<assistant>" if kwargs["add_generation_prompt"] else ""
        )


@pytest.mark.parametrize("background", [False, True])
def test_continued_prompt_begins_with_the_tokens_that_the_model_wrote(make_server, response_store, background):
    server = make_server(chat_template=RepeatingTemplate())
    server.app = create_app([server.model], settings=server.settings, response_store=response_store)
    written = list(b" the")  # the tokenizer has one token for this text
    server.engine.reply = lambda request: [
        [RequestOutput("r", 0, " the", written, finish_reason=FinishReason.STOP, usage=Usage(1, 4, 0))]
    ]

    async def go() -> None:
        async with connected(server) as client:
            first = (await client.post(PATH, json={"input": "Hi", "background": background})).json()
            await ended(client, first["id"])
            await client.post(PATH, json={"input": "More", "previous_response_id": first["id"]})

    asyncio.run(go())
    before, after = (list(request.prompt_token_ids) for request in server.engine.requests)
    assert after == [*before, *written, *b"\n<user>More\n<assistant>"]


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


def test_response_is_stored_when_its_last_event_arrives(server, response_store):
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


def test_store_shows_its_counts(server, response_store):
    made = create(server)["id"]
    server.get(f"{PATH}/{made}")
    server.get(f"{PATH}/resp_none")
    lines = server.get("/metrics").text.splitlines()
    assert "llamafast:responses_stored 1.0" in lines
    assert f"llamafast:responses_store_bytes {float(response_store.counts.num_bytes)}" in lines
    assert "llamafast:responses_store_hits_total 1.0" in lines
    assert "llamafast:responses_store_misses_total 1.0" in lines
