"""Ways to call POST /v1/responses of a scripted server."""

from __future__ import annotations

import orjson
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from llamafast.request import FinishReason, RequestOutput, Usage
from tests.server.conftest import Server

PATH = "/v1/responses"
EVENTS: TypeAdapter = TypeAdapter(ResponseStreamEvent)


def create(server: Server, **fields) -> dict:
    answer = server.post(PATH, {"input": "Hi", **fields})
    assert answer.status_code == 200, answer.text
    Response.model_validate(answer.json())
    return answer.json()


def stream(server: Server, **fields) -> list[dict]:
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
