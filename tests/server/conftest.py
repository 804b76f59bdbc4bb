"""The real app with a scripted engine, and functions that call it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import httpx
import orjson
import pytest

from llamafast.chat.prompt.template_traits import TemplateTraits
from llamafast.engine.metrics import EngineStats
from llamafast.engine.prepare import prepare_request
from llamafast.engine.sequence import RequestState
from llamafast.engine.validation import Limits
from llamafast.errors import EngineDeadError, LlamaFastError
from llamafast.grammars.structured import StructuredOutput
from llamafast.request import FinishReason, Request, RequestOutput, Usage
from llamafast.responses.store import ResponseStore
from llamafast.server.app import create_app
from llamafast.server.model_names import ModelNames
from llamafast.server.served_model import RequestDefaults, ServedModel
from llamafast.server.state import ServerSettings
from llamafast.tokenizer import TokenTable

Deliveries = Sequence[list[RequestOutput]]

THE = 299
CLOSE_THINK = 298


class FakeTokenizer:
    """A vocabulary of one token per UTF-8 byte and one for " the"; 256 to 258 are fill-in-the-middle tokens.

    has_think: one more token for "</think>". It is a control token unless shows_think is true.
    """

    n_vocab = 300
    add_bos = False
    bos_id = -1
    fim_ids: tuple[int, int, int] | None = (256, 257, 258)
    eog_ids: frozenset[int] = frozenset()
    suppress_ids: tuple[int, ...] = ()
    has_think = True
    shows_think = False

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        if text == "</think>" and self.has_think:
            return [CLOSE_THINK]
        token_ids: list[int] = []
        for i, plain in enumerate(text.split(" the")):
            token_ids += ([THE] if i else []) + list(plain.encode())
        return token_ids

    def min_tokens(self, text: str) -> int:
        return -(-len(text.encode()) // 4)

    @property
    def token_bytes(self) -> list[bytes]:
        return [self.token_bytes_of(i) for i in range(self.n_vocab)]

    def encode_segments(self, segments: Sequence[tuple[str, bool]], between=lambda: None) -> list[int]:
        return [i for text, special in segments for i in self.encode(text, add_special=False, parse_special=special)]

    def control_texts(self) -> frozenset[str]:
        return frozenset()

    def defined_texts(self) -> frozenset[str]:
        return frozenset()

    def decode(self, token_ids: Sequence[int], *, skip_special: bool = True) -> str:
        return b"".join(self.token_bytes_of(i, not skip_special) for i in token_ids).decode("utf-8", "replace")

    def is_text(self, token_id: int) -> bool:
        return token_id != CLOSE_THINK or self.shows_think

    def token_bytes_of(self, token_id: int, special: bool = False) -> bytes:
        if token_id >= 256:
            return b" the" if token_id == THE else b"<%d>" % token_id if special else b""
        return bytes([token_id])

    def table(self, *, skip_special: bool, shown_ids: frozenset[int] = frozenset()) -> TokenTable:
        names = [self.token_bytes_of(i, not skip_special or i in shown_ids) for i in range(self.n_vocab)]
        return TokenTable(names, [name.decode() if name.isascii() else None for name in names])


class FakeStream:
    """Deliveries that the test pushes, or that the engine's script gives at once."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.finished: list[int] = []
        self._queue: asyncio.Queue[list[RequestOutput] | Exception | None] = asyncio.Queue()

    def push(self, item: list[RequestOutput] | Exception | None) -> None:
        self._queue.put_nowait(item)

    async def __aiter__(self) -> AsyncIterator[list[RequestOutput]]:
        while (item := await self._queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def finish(self, index: int) -> None:
        self.finished.append(index)

    async def aclose(self) -> None:
        self.closed.set()


def default_reply(request: Request) -> Deliveries:
    """Every choice says "Hello", in two deliveries."""
    n = request.params.n
    first = [RequestOutput(request.request_id, i, "Hel", [1, 2, 3]) for i in range(n)]
    last = [RequestOutput(request.request_id, i, "lo", [4, 5], finish_reason=FinishReason.STOP) for i in range(n)]
    last[-1].usage = Usage(len(request.prompt_token_ids), 5 * n, 2)
    return [first, last]


@dataclass
class FakeGrammar:
    """A grammar as the engine compiles it."""

    warnings: tuple[str, ...] = ()

    def start(self, account: object = None) -> None:
        return None


class FakeEngine:
    """Accepts and refuses the same requests as AsyncEngine. reply: None if the test pushes the outputs."""

    max_seq_len = 512
    num_running = 0
    num_waiting = 0

    def __init__(self) -> None:
        self.tokenizer = FakeTokenizer()
        self.ready = True
        self.death: str | None = None
        self.stats = EngineStats()
        self.requests: list[Request] = []
        self.streams: list[FakeStream] = []
        self.reply: Callable[[Request], Deliveries] | None = default_reply
        self.refuse: Callable[[Request], LlamaFastError | Exception | None] = lambda request: None
        self.log: list[str] = []
        self.compiled: list[StructuredOutput] = []
        self.grammar: FakeGrammar | Exception = FakeGrammar()

    async def compile_grammar(self, structured: StructuredOutput) -> FakeGrammar:
        self.compiled.append(structured)
        if isinstance(self.grammar, Exception):
            raise self.grammar
        return self.grammar

    async def start(self) -> None:
        self.ready = True
        self.log.append("start")

    async def stop(self, deadline_s: float) -> None:
        self.ready = False
        self.log.append(f"stop {deadline_s}")

    def check_ready(self) -> None:
        if self.death is not None:
            raise EngineDeadError(f"the engine is dead: {self.death}")

    async def prepare(self, request: Request) -> RequestState:
        limits = Limits(n_vocab=self.tokenizer.n_vocab, n_seq_max=256, max_seq_len=self.max_seq_len)
        return prepare_request(request, self.tokenizer, limits)

    def submit(self, prepared: RequestState) -> FakeStream:
        request = prepared.request
        refusal = self.refuse(request)
        if refusal is not None:
            raise refusal
        stream = FakeStream()
        self.requests.append(request)
        self.streams.append(stream)
        if self.reply is not None:
            for delivery in self.reply(request):
                stream.push(delivery)
            stream.push(None)
        return stream


class FakeTemplate:
    """Renders <role>content, one per line; `!` is the generation prompt. Records its arguments."""

    source = "<tool_call><function=name><parameter=name>"
    traits = TemplateTraits(variables=frozenset({"tools", "enable_thinking"}))
    literals = frozenset()

    def __init__(self) -> None:
        self.calls: list[dict[str, object]] = []

    def render(self, messages, /, **kwargs) -> str:
        self.calls.append({"messages": messages, **kwargs})
        text = "\n".join(f"<{message['role']}>{message['content']}" for message in messages)
        return text + ("!" if kwargs["add_generation_prompt"] else "")

    def message_ends(self, messages, text, /, **kwargs) -> list[int]:
        return [len(text) - 1]


@dataclass
class Server:
    """The app with methods that call it. engine and template belong to the first model."""

    engine: FakeEngine
    template: FakeTemplate
    model: ServedModel
    settings: ServerSettings
    others: Sequence[ServedModel] = ()
    app: object = field(init=False)

    def __post_init__(self) -> None:
        self.app = create_app([self.model, *self.others], settings=self.settings)

    def call(self, method: str, path: str, **kwargs) -> httpx.Response:
        async def go() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **kwargs)

        return asyncio.run(go())

    def get(self, path: str) -> httpx.Response:
        return self.call("GET", path)

    def post(self, path: str, body: object) -> httpx.Response:
        return self.call("POST", path, content=orjson.dumps(body))

    def complete(self, **fields) -> httpx.Response:
        return self.post("/v1/completions", {"prompt": "Say", **fields})

    def chat(self, **fields) -> httpx.Response:
        return self.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], **fields})


class Connection:
    """One raw ASGI exchange: the test sends body chunks, sees every message, and may disconnect."""

    def __init__(self, app, path: str, chunks: Sequence[bytes], *, more: bool = False) -> None:
        self.sent: list[dict] = []
        self.gone = asyncio.Event()
        self.num_reads = 0
        self._chunks = list(chunks)
        self._more = more
        self._arrived = asyncio.Condition()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [],
            "client": ("127.0.0.1", 1),
            "server": ("test", 80),
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> dict:
        if self._chunks:
            self.num_reads += 1
            chunk = self._chunks.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(self._chunks) or self._more}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict) -> None:
        async with self._arrived:
            self.sent.append(message)
            self._arrived.notify_all()

    async def until(self, num_messages: int) -> list[dict]:
        """Wait for at least num_messages messages. Returns all messages."""
        async with self._arrived:
            await asyncio.wait_for(self._arrived.wait_for(lambda: len(self.sent) >= num_messages), 5)
        return self.sent

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.sent if message["type"] == "http.response.body"]


def served_model(engine: FakeEngine, alias: str, aliases: Sequence[str] = (), **fields) -> ServedModel:
    """fields: arguments of ServedModel.new() and of RequestDefaults."""
    defaults = {name: fields.pop(name) for name in RequestDefaults.__dataclass_fields__ if name in fields}
    return ServedModel.new(engine, ModelNames.of(alias, aliases), defaults=RequestDefaults(**defaults), **fields)


@pytest.fixture
def make_server() -> Callable[..., Server]:
    """Takes the arguments of served_model() and of ServerSettings."""

    def make(others: Sequence[ServedModel] = (), **fields) -> Server:
        template, engine = FakeTemplate(), FakeEngine()
        settings = {name: fields.pop(name) for name in ServerSettings.__dataclass_fields__ if name in fields}
        version = settings.setdefault("version", "1")
        known = {"alias": "tiny", "chat_template": template, "created": 7, "version": version, "meta": {"n_ctx": 512}}
        model = served_model(engine, **{**known, **fields})
        return Server(engine, template, model, ServerSettings(**settings), others)

    return make


@pytest.fixture
def make_model() -> Callable[..., ServedModel]:
    """A further model for make_server(others=...), with its own engine and template.

    Takes the arguments of served_model().
    """

    def make(alias: str, **fields) -> ServedModel:
        return served_model(FakeEngine(), alias, **{"chat_template": FakeTemplate(), **fields})

    return make


@pytest.fixture
def server(make_server) -> Server:
    return make_server()


@pytest.fixture
def response_store() -> Iterator[ResponseStore]:
    with closing(ResponseStore()) as store:
        yield store


@pytest.fixture
def keeping_server(make_server, response_store) -> Server:
    """A server with a store of responses."""
    server = make_server()
    server.app = create_app([server.model], settings=server.settings, response_store=response_store)
    return server


@pytest.fixture
def connect() -> type[Connection]:
    return Connection


@pytest.fixture
def events() -> Callable[[bytes], list]:
    """The decoded data of each event of a stream, without comments. The end mark stays a string."""

    def parse(stream: bytes) -> list:
        blocks = stream.decode().split("\n\n")
        assert blocks.pop() == ""
        data = [block.removeprefix("data: ") for block in blocks if not block.startswith(":")]
        return [item if item == "[DONE]" else orjson.loads(item) for item in data]

    return parse
