"""Responses as routes and sockets use them: asked for, started, kept, found again."""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from array import array
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial

import orjson
from fastapi import Request
from prometheus_client import Counter
from starlette.types import Receive

from llamafast.errors import InvalidRequestError, NotFoundError, QueueFullError
from llamafast.request import RequestOutput
from llamafast.responses.database import StoredResponse
from llamafast.responses.sealed import Seal
from llamafast.responses.store import ResponseStore
from llamafast.server.answers.framing import Framing
from llamafast.server.answers.options import AnswerOptions
from llamafast.server.answers.responses import ResponseFormatter
from llamafast.server.chat.prepare import prepare_chat, with_media
from llamafast.server.delivery import Outputs
from llamafast.server.responses.background import BackgroundRun
from llamafast.server.responses.head import response_head
from llamafast.server.responses.reading import AskedResponse, read_prompt, read_response
from llamafast.server.responses.recent import RecentResponses
from llamafast.server.responses.store_metrics import StoreCollector
from llamafast.server.schemas.responses import ResponseBody
from llamafast.server.served_model import ServedModel
from llamafast.server.state import ServerState
from llamafast.server.submission import submit

# The owner of all responses. Requests have no keys that could tell clients apart.
_OWNER = ""

_RESTARTED = {"code": "server_error", "message": "the server ended while the response was generated"}


@dataclass(frozen=True, slots=True)
class StartedResponse:
    """A response that the engine computes.

    row: the response as it is stored at first; its body has the status `queued`, and its tokens are those of the
    prompt. outputs: of the engine. formatter:
    writes its events and its object. warnings: texts for the client. is_stored: the response is to be kept.
    """

    row: StoredResponse
    outputs: Outputs
    formatter: ResponseFormatter
    warnings: tuple[str, ...]
    is_stored: bool

    def ended(self) -> StoredResponse:
        """The response as it is stored at its end. Call it after the formatter has concluded."""
        return replace(
            self.row,
            status=self.formatter.status,
            body=orjson.dumps(self.formatter.response()),
            token_ids=self.row.token_ids + array("i", self.formatter.token_ids).tobytes(),
        )


class Responses:
    """All responses of one application.

    store: keeps them; None: nothing is kept, and `store` in requests has no effect.
    """

    def __init__(self, state: ServerState, store: ResponseStore | None) -> None:
        self.store = store
        self._state = state
        self._seal = Seal(secrets.token_bytes(32))
        self._runs: dict[str, BackgroundRun] = {}
        if store is not None:
            state.registry.register(StoreCollector(store))
        self._counter = Counter(
            "llamafast:responses", "Responses by the status that they ended with.", ["status"], registry=state.registry
        )

    async def ask(self, request: Request) -> AskedResponse:
        """Read the body, the responses before it, and the conversation. Raises what ServerState.prepare raises."""
        found = await self._state.prepare(request, ResponseBody, self._read_first)
        if isinstance(found, AskedResponse):
            return found
        served, body = found
        return await self.continued(served, body, request.receive)

    async def ask_message(
        self, document: object, cost: int, receive: Receive, recent: RecentResponses
    ) -> AskedResponse:
        """As ask(), for a body that came in a message. recent: responses that can be continued without the store."""
        state = self._state
        found = await state.prepare_message(document, cost, receive, ResponseBody, self._read_first)
        if isinstance(found, AskedResponse):
            return found
        served, body = found
        return await self.continued(served, body, receive, recent)

    async def continued(
        self, served: ServedModel, body: ResponseBody, receive: Receive, recent: RecentResponses | None = None
    ) -> AskedResponse:
        """A body that continues another response. Raises InvalidRequestError, naming the client's field."""
        history = await self._history(body, recent)
        cost = sum(len(row.body) + len(row.input) for row in history)
        work = partial(read_response, served, body, history, self._seal.open)
        return await self._state.preparation.run(receive, cost, work)

    async def count(self, request: Request) -> int:
        """The tokens of the prompt that a body gives. Raises what ask() raises."""
        served, body = await self._state.prepare(request, ResponseBody, lambda served, body: (served, body))
        history = await self._history(body) if body.previous_response_id is not None else []
        cost = sum(len(row.body) + len(row.input) for row in history)
        work = partial(read_prompt, served, body, history, self._seal.open)
        chat, prompt = await self._state.preparation.run(request.receive, cost, work)
        return len((await with_media(served, chat, prompt, request.receive)).token_ids)

    async def start(self, asked: AskedResponse, receive: Receive, *, framing: Framing | None = None) -> StartedResponse:
        """Give the response to the engine. framing: of its events; None: server-sent events.

        Raises what prepare_chat and submit raise, and InvalidRequestError for `background` without a store.
        """
        body, draft = asked.body, asked.draft
        if body.background and self.store is None:
            raise InvalidRequestError("background needs the store, which this server does not have", param="background")
        response_id, created_s = f"resp_{uuid.uuid4().hex}", time.time()
        chat = await prepare_chat(self._state, draft, response_id, receive)
        if body.truncation == "auto" and len(chat.prompt.token_ids) >= asked.served.max_seq_len:  # its media take much
            work = partial(asked.with_room_for_media, chat.prompt)
            asked = await self._state.preparation.run(receive, len(draft.prompt.text), work)
            draft = asked.draft
            chat = await prepare_chat(self._state, draft, response_id, receive)
        outputs = await submit(asked.served.engine, [chat.engine_request], 1, draft.request.names.fields)
        is_stored = body.store and self.store is not None
        head = response_head(asked, response_id, int(created_s), is_stored=is_stored)
        formatter = ResponseFormatter(
            head,
            asked.table.origins,
            chat.read_options,
            AnswerOptions(
                num_logprobs=body.num_logprobs,
                prompt_tokens=len(chat.prompt.token_ids),
                constraint=chat.constraint_param,
                cache_info=body.return_cache_info,
            ),
            seal=self._seal.close if body.wants_sealed_reasoning else None,
            is_queued=body.background,
            is_prewarm=body.is_prewarm,
            framing=framing,
        )
        row = StoredResponse(
            response_id,
            _OWNER,
            body.previous_response_id,
            "queued",
            body.background,
            created_s,
            orjson.dumps({**head, "status": "queued"}),
            orjson.dumps(asked.items),
            asked.served.fingerprint,
            chat.prompt.token_ids.tobytes(),
        )
        counted = _CountedOutputs(outputs, formatter, self._counter)
        return StartedResponse(row, counted, formatter, chat.warnings, is_stored)

    async def keep(self, started: StartedResponse) -> None:
        """Store a response that has ended. If that fails, its object says so."""
        formatter = started.formatter
        formatter.conclude()
        if not started.is_stored or self.store is None:
            return
        try:
            is_stored = await self.store.put(started.ended())
        except QueueFullError:  # the answer is there: it is not lost because it cannot be kept
            is_stored = False
        if not is_stored:
            formatter.set_not_stored()

    async def run(self, started: StartedResponse, *, keeps_events: bool) -> BackgroundRun:
        """Let a response run without its client. It is stored when this returns. Raises InvalidRequestError."""
        store, row = self.store, started.row
        assert store is not None
        if not await store.put(replace(row, token_ids=b"")):
            await started.outputs.aclose()
            raise InvalidRequestError("the response cannot be stored: it is too large", param="background")
        run = BackgroundRun(
            started.outputs,
            started.formatter,
            row,
            store,
            lambda: self._runs.pop(row.id, None),
            keeps_events=keeps_events,
        )
        self._runs[row.id] = run
        return run

    def running(self, response_id: str) -> BackgroundRun | None:
        """The background run of a response; None: it does not run."""
        return self._runs.get(response_id)

    async def find(self, response_id: str) -> StoredResponse:
        """A stored response. Its body is the present one, if it runs. Raises NotFoundError."""
        row = None if self.store is None else await self.store.get(response_id, _OWNER)
        if row is None:
            raise NotFoundError(f"Response with id '{response_id[:100]}' not found.", code="response_not_found")
        return row

    async def delete(self, response_id: str) -> None:
        """Remove a response; one that runs is cancelled. Raises NotFoundError."""
        row = await self.find(response_id)
        run = self._runs.get(response_id)
        if run is not None:
            await run.cancel()
        if self.store is not None:
            await self.store.delete(row.id, _OWNER)

    async def close(self) -> None:
        """Return when all background runs are over. Call it when the engines have stopped."""
        await asyncio.gather(*(run.wait() for run in list(self._runs.values())))

    def _read_first(self, served: ServedModel, body: ResponseBody) -> AskedResponse | tuple[ServedModel, ResponseBody]:
        """A body that continues nothing is read at once; for others the store has to be asked."""
        if body.previous_response_id is not None:
            return served, body
        return read_response(served, body, (), self._seal.open)

    async def _history(self, body: ResponseBody, recent: RecentResponses | None = None) -> list[StoredResponse]:
        response_id = body.previous_response_id
        assert response_id is not None
        own = [] if recent is None else recent.chain(response_id)
        stored_id = own[0].parent_id if own else response_id
        if stored_id is None:
            return own
        if self.store is None:
            raise InvalidRequestError(
                f"Previous response with id '{stored_id[:100]}' not found: this server stores no responses.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        return [*await self.store.chain(stored_id, _OWNER), *own]


def failed_by_restart(row: StoredResponse) -> bytes:
    """The response object of a response that ran when the last process ended."""
    return orjson.dumps({**orjson.loads(row.body), "status": "failed", "error": _RESTARTED})


class _CountedOutputs:
    """The outputs of one response. When they are closed, the response is counted by its status."""

    def __init__(self, outputs: Outputs, formatter: ResponseFormatter, counter: Counter) -> None:
        self._outputs = outputs
        self._formatter = formatter
        self._counter = counter
        self._is_closed = False

    def __aiter__(self) -> AsyncIterator[list[RequestOutput]]:
        return self._outputs.__aiter__()

    def finish(self, index: int) -> None:
        """As Outputs says."""
        self._outputs.finish(index)

    async def aclose(self) -> None:
        """As Outputs says."""
        if not self._is_closed:
            self._is_closed = True
            status = self._formatter.status
            if status == "in_progress":
                status = "cancelled" if self._formatter.progress.error is None else "failed"
            self._counter.labels(status).inc()
        await self._outputs.aclose()
