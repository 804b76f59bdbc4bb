"""A model, a batch and a runner in pure Python, over a fake KV memory: tokens by arithmetic."""

from __future__ import annotations

import zlib
from array import array
from dataclasses import replace

from llamafast._sampling import Sampler
from llamafast.cache.prompt import MediaSpan
from llamafast.engine import packing
from llamafast.engine.engine import Engine, EngineConfig
from llamafast.engine.seeds import choice_seed
from llamafast.errors import DecodeError, GrammarError, request_failure
from llamafast.request import Request, SamplingParams
from tests.engine.fake_memory import FakeContext

EOS = 1
FIRST = 3  # ids below are control tokens; id FIRST + b is the byte b


class FakeModel:
    n_vocab = FIRST + 256
    bos_id, eos_id, add_bos, fim_ids, suppress_ids = 0, EOS, False, (-1, -1, -1), ()
    path, description, n_params, size_bytes, n_ctx_train, n_embd = "fake.gguf", "fake F32", 0, 0, 1024, 8

    def __init__(self) -> None:
        self.metadata: dict[str, str] = {}
        self.sampling_defaults: dict[str, float] = {}

    def chat_template(self, name: str | None = None) -> str | None:
        return self.metadata.get("tokenizer.chat_template" if name is None else f"tokenizer.chat_template.{name}")

    def token_bytes(self, token_id: int, special: bool = False) -> bytes:
        if token_id < FIRST:
            return b"<%d>" % token_id if special else b""
        return bytes([token_id - FIRST])

    def is_eog(self, token_id: int) -> bool:
        return token_id == EOS

    def is_control(self, token_id: int) -> bool:
        return token_id < FIRST

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        return encode(text)


class FakeBatch:
    def __init__(self, n_tokens_max: int) -> None:
        self.n_tokens_max = n_tokens_max
        self.media: dict[int, tuple[MediaSpan, int]] = {}  # that of the memory
        self.rows: list[tuple[int, int, int]] = []

    @property
    def num_tokens(self) -> int:
        return len(self.rows)

    def clear(self) -> None:
        self.rows = []

    def add(self, token_id: int, pos: int, seq_id: int) -> int:
        self.rows.append((token_id, pos, seq_id))
        return len(self.rows) - 1

    def extend(self, token_ids: array[int], start: int, stop: int, pos: int, seq_id: int) -> int:
        assert 0 <= start < stop <= len(token_ids)
        spans = {self.media[row_id][0] if row_id < 0 else None for row_id in token_ids[start:stop]}
        assert len(spans) == 1, "a chunk is all text, or a part of one span"
        (span,), first = spans, self.media.get(token_ids[start], (None, 0))[1]
        for i in range(start, stop):
            number = i - start
            if span is not None:
                number = min(first + number, span.last_t_offset) - min(first, span.last_t_offset)
            self.add(token_ids[i], pos + number, seq_id)
        return len(self.rows) - 1


class FakeSupply:
    """Embeddings of media that are ready at every `period`-th look at a prompt that needs them.

    is_whole: the rows of a span attend to later ones: it is computed in one step.
    """

    is_encoding = False

    def __init__(self, batch: FakeBatch, period: int = 3, is_whole: bool = False) -> None:
        self.batch = batch
        self._period = period
        self._is_whole = is_whole
        self._num_looks = 0

    def refresh(self, prompts):
        self._num_looks += 1
        return []

    def clear(self) -> None:
        self.batch.clear()

    def is_ready(self, sequence) -> bool:
        is_media = sequence.layout.span_at(sequence.slot.length) is not None
        return is_media and (self._num_looks + sequence.slot.seq_id) % self._period == 0

    def is_causal(self, sequence) -> bool:
        return not self._is_whole

    def extend(self, sequence, num_rows: int) -> int:
        span = sequence.layout.span_at(sequence.slot.length)
        assert not self._is_whole or num_rows == span.n_rows, "a part of a span that is computed whole"
        return packing.extend(self.batch, sequence, num_rows)


class FakeSampler:
    """Keeps its arguments. num_drawn represents all state that a preemption must keep.

    What the native sampler refuses, it refuses too: it makes one.
    """

    def __init__(self, n_vocab: int, **settings) -> None:
        self._native = Sampler(n_vocab, **settings)
        self.settings = settings
        self.num_logprobs = settings["num_logprobs"]
        self.num_drawn = 0

    def prime(self, token_ids: array[int]) -> None:
        self._native.prime(token_ids)
        self.primed = list(token_ids)

    def accept(self, token_id: int) -> None:
        self._native.accept(token_id)
        self.num_drawn += 1


class FakeRunner:
    """Decodes into a FakeContext. draw(history, sampler) gives the next token; by default `hashed`.

    steps: of each decode the tokens per sequence id. failures: status codes to fail with, before anything is decoded.
    """

    def __init__(self, context: FakeContext, draw=None) -> None:
        self.context = context
        self.draw = draw or hashed
        self.steps: list[dict[int, int]] = []
        self.failures: list[int] = []
        self.num_failures = 0

    def step(self, plan) -> list[list[int]]:
        context, batch, rows, samplers = self.context, plan.batch, plan.rows, plan.samplers
        assert 1 <= len(batch.rows) <= context.n_batch, "tokens > n_batch would end the process"
        outputs = {*rows, *(row for row, _, _ in plan.scored)}
        assert len(outputs) <= context.n_outputs_max, "outputs > n_outputs_max would end the process"
        assert len(rows) == len(samplers)
        if self.failures:
            self._fail(self.failures.pop(0))
        if context.memory_kind != "recurrent" and len(context.cells) + len(batch.rows) > context.n_ctx:
            self._fail(1)
        counts: dict[int, int] = {}
        for token, pos, seq_id in batch.rows:
            context.add_cell(pos, token, seq_id)
            counts[seq_id] = counts.get(seq_id, 0) + 1
        self.steps.append(counts)
        self._scores = {row: self._score(batch.rows[row], *asked) for row, *asked in plan.scored}
        drawn = []
        for row, sampler in zip(rows, samplers, strict=True):
            _, pos, seq_id = batch.rows[row]
            drawn.append(self.draw(self._upto(seq_id, pos), sampler))
            sampler.num_drawn += 1
        for i, constraint in plan.constraints:
            drawn[i] = self._settle(drawn[i], constraint)
        return [[token] for token in drawn]

    def scores(self) -> dict[int, tuple[float, int, list[tuple[int, float]]]]:
        return self._scores

    def _score(self, row: tuple[int, int, int], next_id: int, n_top: int):
        # Depends on the history before the token and on the token, so that a test can identify the score.
        _, pos, seq_id = row
        history = self._upto(seq_id, pos)
        return -float(zlib.crc32(repr((history, next_id)).encode())), len(history), [(next_id, -0.5)] * n_top

    def _upto(self, seq_id: int, pos: int) -> tuple[int, ...]:
        """The ids of a sequence up to those at a position."""
        return self.context.history(seq_id)[: sum(row_pos <= pos for row_pos, _ in self.context.rows(seq_id))]

    def logprobs(self, i: int, k: int = 0) -> tuple[float, list[tuple[int, float]]]:
        return -0.5 - i, [(FIRST + i, -0.5), (EOS, -2.0)]

    def _settle(self, token: int, constraint) -> int:
        """The token if it is allowed; else the first allowed token."""
        try:
            if constraint.accept(token):
                return token
            bits = int.from_bytes(constraint.mask(), "little") & ((1 << FakeModel.n_vocab) - 1)
            if not bits:
                raise GrammarError("nothing is allowed")
            token = (bits & -bits).bit_length() - 1
            assert constraint.accept(token)
        except BaseException as error:
            constraint.error = request_failure(error)
            return -1
        return token

    def _fail(self, status: int) -> None:
        self.num_failures += 1
        raise DecodeError(f"fake failure {status}", status)


def hashed(history: tuple[int, ...], sampler: FakeSampler) -> int:
    """A token that depends on the whole history, the seed and the number of draws. About every 16th is the end."""
    text = repr((history, sampler.settings["seed"], sampler.num_drawn))
    value = zlib.crc32(text.encode())
    if value % 16 == 0 and sampler.num_drawn >= sampler.settings["min_tokens"]:
        return EOS
    return FIRST + ord("a") + value // 16 % 26


def alone(
    prompt: str, seed: int = 0, max_tokens: int = 10**9, max_seq_len: int = 10**9, num_kept: int | None = None
) -> str:
    """The text that `hashed` generates for a prompt in an engine of its own.

    num_kept: number of tokens that each context shift keeps; None: no context shift.
    """
    history = tuple(encode(prompt))
    sampler = FakeSampler(FakeModel.n_vocab, seed=seed, min_tokens=0, num_logprobs=-1)
    text = ""
    while len(text) < max_tokens:
        if len(history) >= max_seq_len:
            if num_kept is None:
                break
            history = history[:num_kept] + history[num_kept + (len(history) - num_kept) // 2 :]
        token = hashed(history, sampler)
        if token == EOS:
            break
        sampler.num_drawn += 1
        history += (token,)
        text += chr(token - FIRST)
    return text


def scripted(*texts: str):
    """A draw() that generates texts[i] and the end, for seed i and for choice i of seed 0. Bytes are latin-1."""
    of_seed = {choice_seed(0, i): text for i, text in enumerate(texts)} | dict(enumerate(texts))

    def draw(history: tuple[int, ...], sampler: FakeSampler) -> int:
        text = of_seed[sampler.settings["seed"]]
        return FIRST + ord(text[sampler.num_drawn]) if sampler.num_drawn < len(text) else EOS

    return draw


def encode(text: str) -> list[int]:
    return [FIRST + byte for byte in text.encode()]


def make_engine(draw=None, config: EngineConfig | None = None, **context) -> Engine:
    """An Engine over fakes; context are FakeContext's arguments. n_seq_max of both is equal unless config says more."""
    memory = FakeContext(**context)
    config = config or EngineConfig(n_seq_max=memory.n_seq_max)
    if config.max_step_ms is None:  # the pacer measures real time, but fakes take none
        config = replace(config, max_step_ms=0)
    model = FakeModel()
    model.n_swa = memory.n_swa
    batch = FakeBatch(memory.n_batch)
    batch.media = memory.media
    return Engine(model, config, context=memory, runner=FakeRunner(memory, draw), batch=batch)


def make_request(request_id: str, prompt: str = "hello", priority: int = 0, **params) -> Request:
    params.setdefault("seed", 0)
    return Request(request_id, array("i", encode(prompt)), SamplingParams(**params), priority=priority)


class Collector:
    """Joins the outputs of an engine by (request id, choice)."""

    def __init__(self) -> None:
        self.text: dict[tuple[str, int], str] = {}
        self.token_ids: dict[tuple[str, int], list[int]] = {}
        self.logprobs: dict[tuple[str, int], list] = {}
        self.finished: dict[tuple[str, int], object] = {}
        self.usage: dict[str, object] = {}

    def add(self, outputs) -> None:
        for output in outputs:
            key = (output.request_id, output.index)
            assert key not in self.finished, "an output after the end"
            assert output.request_id not in self.usage, "an output after the last one"
            self.text[key] = self.text.get(key, "") + output.text
            self.token_ids.setdefault(key, []).extend(output.token_ids)
            self.logprobs.setdefault(key, []).extend(output.logprobs or [])
            if output.finish_reason is not None:
                self.finished[key] = output
            if output.usage is not None:
                self.usage[output.request_id] = output.usage

    def run(self, engine: Engine, *requests: Request, max_steps: int = 2000) -> Collector:
        """Add the requests and step until the engine has no work. Check its integrity after every step."""
        for request in requests:
            engine.validate(request)
            engine.add(request)
        for _ in range(max_steps):
            if not engine.has_work:
                return self
            self.add(engine.step())
            engine.check_integrity()
        raise AssertionError("the engine never comes to an end")
