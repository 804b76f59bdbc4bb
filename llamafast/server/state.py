"""What every route shares: settings, the engine, the field counters, and reading a request body."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import orjson
from fastapi import Request
from prometheus_client import CollectorRegistry, Counter, Gauge
from starlette.types import Receive

from llamafast import caps
from llamafast._json_shape import shape_of
from llamafast.chat.formats.registry import detect
from llamafast.chat.prompt.control_texts import ControlTexts, control_like
from llamafast.engine.breakers import dry_breakers
from llamafast.errors import InvalidRequestError, LlamaFastError, NotFoundError, QueueFullError, RequestTooLargeError
from llamafast.request import Request as EngineRequest
from llamafast.request import SamplingParams
from llamafast.server.delivery import MergedOutputs, Outputs
from llamafast.server.receiving import json_body
from llamafast.server.receiving.preparation import Preparation
from llamafast.server.schemas.common import RequestBody, parse_body

if TYPE_CHECKING:
    from llamafast.chat.format import ChatFormat
    from llamafast.chat.prompt.template import ChatTemplate
    from llamafast.engine.async_engine import AsyncEngine
    from llamafast.engine.sequence import RequestState
    from llamafast.tokenizer import Tokenizer

logger = logging.getLogger("llamafast.server")

Body = TypeVar("Body", bound=RequestBody)
T = TypeVar("T")

# Field names come from clients: beyond this many different ones they share one label.
_MAX_FIELD_NAMES = 100

# Bodies of a higher cost are read, checked, rendered and tokenized in a thread: they would hold the event loop for more
# than about 5 ms. The cost of one is its bytes, with so many more for each object (most are messages, which take that
# long to render) and string (which may have to be tokenized).
_INLINE_COST = 20_000
_OBJECT_COST = 1000
_STRING_COST = 50
# To find the cost itself takes a millisecond for so many bytes.
_SCANNED_INLINE = 1_000_000

# Bodies that have come but are not read yet, all together, in bodies of the greatest size.
_MAX_HELD_BODIES = 8


# What ends reasoning at its limit; the closing tag is put behind it.
DEFAULT_BUDGET_MESSAGE = "\n\nConsidering the limited time, I have to answer now.\n"


@dataclass(frozen=True)
class ServerSettings:
    """What the HTTP layer needs to know and cannot ask the engine.

    chat_format None: the one that the template writes. meta: facts about the model for /v1/models. sampling_defaults,
    by names of SamplingParams, stand where a request is silent, and so does chat_template_kwargs.
    parse_special_in_messages: clients may write control tokens. reasoning_budget: the most tokens of reasoning, None:
    no limit; the message is what then closes it.
    """

    alias: str
    chat_template: ChatTemplate | None = None
    chat_format: ChatFormat | None = None
    max_body_bytes: int = 32 * 1024 * 1024
    strict_fields: bool = False
    keepalive_s: float = 15.0
    created: int = 0
    shutdown_deadline_s: float = 30.0
    version: str = ""
    meta: Mapping[str, int | float | str] = field(default_factory=dict)
    sampling_defaults: Mapping[str, float] = field(default_factory=dict)
    chat_template_kwargs: Mapping[str, object] = field(default_factory=dict)
    parse_special_in_messages: bool = False
    reasoning_budget: int | None = None
    reasoning_budget_message: str = DEFAULT_BUDGET_MESSAGE

    @property
    def fingerprint(self) -> str:
        """`system_fingerprint`: equal for equal model facts and program version."""
        facts = repr((self.alias, self.version, sorted(self.meta.items())))
        return "fp_" + hashlib.sha256(facts.encode()).hexdigest()[:12]


class UnknownFields:
    """Counts request fields that the server does not know, and logs each name once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counter = Counter(
            "llamafast:unknown_request_fields", "Request fields the server does not know.", ["field"], registry=registry
        )
        self._names: set[str] = set()

    def note(self, name: str) -> None:
        """Count one use of the field `name`."""
        label = name[:64]
        if label not in self._names:
            if len(self._names) < _MAX_FIELD_NAMES:
                self._names.add(label)
                logger.warning("unknown request field %r is ignored (logged once)", label)
            else:
                label = "other"
        self._counter.labels(label).inc()


class ServerState:
    """One per app: the engine, its settings, and the registry that /metrics renders."""

    def __init__(self, engine: AsyncEngine, settings: ServerSettings) -> None:
        self.engine = engine
        self.settings = settings
        self.fingerprint = settings.fingerprint
        self.registry = CollectorRegistry()
        self.unknown_fields = UnknownFields(self.registry)
        self.preparation = Preparation()
        preparing = Gauge(
            "llamafast:requests_in_preparation", "Large bodies that are read and tokenized.", registry=self.registry
        )
        preparing.set_function(lambda: self.preparation.num_jobs)
        self._num_held_bytes = 0
        template = settings.chat_template
        self.chat_format = settings.chat_format or detect("" if template is None else template.source)
        self.marker_ids = control_ids(engine.tokenizer, self.chat_format.markers)
        for shown in (False, True):  # made here rather than in somebody's request
            engine.tokenizer.table(skip_special=shown, shown_ids=self.marker_ids)
        # Those that clients must not write; finding them reads the whole vocabulary.
        self.control_texts = (
            ControlTexts(())
            if template is None or settings.parse_special_in_messages
            else ControlTexts(
                engine.tokenizer.control_texts(),
                template.literals,
                control_like(engine.tokenizer.defined_texts(), [*template.literals, *self.chat_format.markers]),
            )
        )

    async def prepare(self, request: Request, model: type[Body], work: Callable[[Body], T]) -> T:
        """The result of `work` on the validated body, in a thread where it may take long.

        Raises what work does, RequestTooLargeError, InvalidRequestError, NotFoundError (model), ClientDisconnect,
        QueueFullError, ShuttingDownError.
        """
        self.engine.check_ready()
        chunks: list[bytes] = []
        try:
            await self._receive(request, chunks)
            num_bytes = sum(map(len, chunks))
            if num_bytes > _SCANNED_INLINE:
                return await self.preparation.run(
                    request.receive, _SCANNED_INLINE + num_bytes, lambda: work(self._read(b"".join(chunks), model))
                )
            raw = b"".join(chunks)
            cost = cost_of(raw)
            if cost <= _INLINE_COST:
                return work(self._read(raw, model))
            return await self.preparation.run(request.receive, cost, lambda: work(self._read(raw, model)))
        finally:
            self._num_held_bytes -= sum(map(len, chunks))

    async def _receive(self, request: Request, chunks: list[bytes]) -> None:
        """OUT chunks: the body; stops at the first chunk beyond what is taken."""
        limit = self.settings.max_body_bytes
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise RequestTooLargeError(f"the request body has {declared[:20]} bytes; at most {limit} are taken")
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise RequestTooLargeError(f"the request body is longer than {limit} bytes")
            chunks.append(chunk)
            self._num_held_bytes += len(chunk)
            if self._num_held_bytes > _MAX_HELD_BODIES * limit:
                raise QueueFullError("too many large request bodies at once; try again later")

    def _read(self, raw: bytes, model: type[Body]) -> Body:
        check_shape(raw)
        try:
            document = json_body.loads(raw)
        except orjson.JSONDecodeError as exc:
            raise InvalidRequestError(f"the request body is not valid JSON: {exc}", code="invalid_json") from exc
        body, unknown = parse_body(document, model)
        if unknown and self.settings.strict_fields:
            raise InvalidRequestError(f"unknown field '{unknown[0]}'", param=unknown[0], code="unknown_field")
        for name in unknown:
            self.unknown_fields.note(name)
        self.check_model(body.model)
        return body

    def sampling(
        self, body: RequestBody, *, max_tokens: int | None, logprobs: int | None, best_of: int | None = None
    ) -> SamplingParams:
        """The sampling settings of a body; the model's defaults where it is silent. Raises InvalidRequestError."""
        return body.sampling(
            self.engine.tokenizer,
            self.settings.sampling_defaults,
            max_tokens=max_tokens,
            logprobs=logprobs,
            best_of=best_of,
        )

    async def resolve_breakers(self, receive: Receive, params: SamplingParams) -> None:
        """Look for DRY's breakers in the vocabulary, so that the engine finds the result in their cache.

        receive: tells when the client leaves. Raises as Preparation.run does.
        """
        if params.dry_multiplier:
            work = partial(dry_breakers, self.engine.tokenizer, params.dry_sequence_breakers)
            await self.preparation.run(receive, 0, work)

    def check_model(self, name: str | None) -> None:
        """None means the served model. Raises NotFoundError for any other name."""
        if name is not None and name != self.settings.alias:
            raise NotFoundError(
                f"the model '{name[:200]}' does not exist; this server has '{self.settings.alias}'",
                param="model",
                code="model_not_found",
            )

    async def submit(
        self, requests: Sequence[EngineRequest], num_choices: int, param_names: Mapping[str, str] | None = None
    ) -> Outputs:
        """Give the prompts of one HTTP request to the engine, all or none.

        Raises what AsyncEngine.submit raises, `param` being renamed by param_names.
        """
        streams: list[Outputs] = []
        try:
            prepared: list[RequestState] = []
            for i, request in enumerate(requests):
                prepared.append(await self.engine.prepare(request))
                if i % 16 == 15:
                    await asyncio.sleep(0)  # others have their turn
            streams += (self.engine.submit(state) for state in prepared)
        except LlamaFastError as exc:
            if exc.param is not None and param_names is not None:
                exc.param = param_names.get(exc.param, exc.param)
            for stream in streams:
                await stream.aclose()
            raise
        return streams[0] if len(streams) == 1 else MergedOutputs(streams, num_choices)


def cost_of(raw: bytes) -> int:
    """About how long a body takes from JSON to tokens, in characters to tokenize."""
    shape = shape_of(raw)
    return len(raw) + _OBJECT_COST * shape.num_objects + _STRING_COST * shape.num_strings


def check_shape(raw: bytes) -> None:
    """Raises InvalidRequestError for JSON that takes long to read, whatever it says: meanwhile no other thread runs."""
    shape = shape_of(raw)
    if shape.depth > caps.MAX_JSON_DEPTH:
        raise InvalidRequestError(f"the request body is nested deeper than {caps.MAX_JSON_DEPTH}")
    if shape.num_fields > caps.MAX_FIELDS:
        raise InvalidRequestError(f"the request body has {shape.num_fields} fields; the limit is {caps.MAX_FIELDS}")
    if shape.weight > caps.MAX_JSON_WEIGHT:
        param = shape.largest[:64].decode("utf-8", "replace") or None
        raise InvalidRequestError(f"{param or 'the request body'}: too many JSON values", param=param)


def control_ids(tokenizer: Tokenizer, texts: Iterable[str]) -> frozenset[int]:
    """The control tokens among texts; those that a vocabulary writes as several tokens are ordinary text."""
    named = (tokenizer.encode(text, add_special=False, parse_special=True) for text in texts)
    return frozenset(ids[0] for ids in named if len(ids) == 1 and not tokenizer.is_text(ids[0]))
