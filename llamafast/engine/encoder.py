"""The engine of models that make embeddings: whole inputs in, one vector each out, packed over all requests."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from llamafast._core import Context, Model, supports_gpu_offload
from llamafast._encoder import POOLING_LAST, POOLING_MEAN, POOLING_RANK, EncoderRunner
from llamafast.engine.config import EngineConfig, Group
from llamafast.engine.embedding import FLOAT_BYTES, EmbeddingJob, EmbeddingOutput, EmbeddingRequest
from llamafast.engine.metrics import EngineStats
from llamafast.engine.model_info import context_info, makes_embeddings, model_info
from llamafast.engine.snapshot import MAX_SEQUENCES, EngineSnapshot, EngineState, SequenceSnapshot, closed_snapshot
from llamafast.errors import (
    ContextLengthError,
    DecodeError,
    EngineDeadError,
    InvalidRequestError,
    ModelLoadError,
    RequestFailedError,
)
from llamafast.host.cpu import default_threads
from llamafast.request import SequenceStatus
from llamafast.tokenizer import Tokenizer

# llama.cpp keeps n_vocab floats for each token of the longest call, although an encoder has no use for them. A model
# trained for more tokens than fit here takes as many as fit, unless n_ctx says otherwise.
_MAX_OUTPUT_BYTES = 2 << 30

# A model that also generates text computes these floats, in a second buffer of that size.
_MAX_LOGIT_BYTES = 1 << 30

# Tokens of one input where n_ctx is 0, at most: as OpenAI's models take.
_DEFAULT_MAX_TOKENS = 8192

# The pooling types that make one vector of an input.
_POOLED = range(POOLING_MEAN, POOLING_LAST + 1)

# So many requests may be passed over in search of an input that fits the rest of a call.
_MAX_PASSED_OVER = 16


class Encoder:
    """Encodes the inputs of all requests in packs. It is a StepEngine (engine/protocol.py).

    A step is one call of llama.cpp: inputs of all requests in turn, up to config.n_batch tokens, more only for one long
    input. So a request with few inputs waits for one call at most, however large the others are.

    model: path of a GGUF file, or a loaded Model. Use it as a context manager, or close() it. Raises ModelLoadError.

    Any thread may call validate(), prepare_cost() and prepare(). All other methods belong to one thread.

    model_info, context_info: facts about the model and its context.
    max_seq_len: tokens of one input.
    n_embd: floats of one vector.
    n_seq_max: inputs of one call.
    pack_tokens: tokens of one call.
    stats: counters and gauges.
    death: why the engine does no more work; None while it does.
    """

    is_stalled = False

    def __init__(self, model: Model | str, config: EngineConfig | None = None) -> None:
        config = config or EngineConfig()
        model = Model(model, **config.values(Group.MODEL)) if isinstance(model, str) else model
        self.config = config
        _check_pooling(model, config)
        self._context: Context | None = make_encoder_context(model, config)
        self._runner: EncoderRunner | None = EncoderRunner(self._context)
        _check_vocabulary(model)
        self.model_info = replace(model_info(model), n_embd=self._runner.n_embd)
        self.context_info = context_info(self._context)
        self.tokenizer = Tokenizer(model)
        longest = min(self._runner.max_input_tokens, longest_input(model, config))
        self.max_seq_len = min(longest, config.max_seq_len or longest)
        self.n_embd = self._runner.n_embd
        self.n_seq_max = self._context.n_seq_max
        self.pack_tokens = min(config.n_batch, self._runner.max_tokens)
        self.stats = EngineStats()
        self.death: str | None = None
        self._jobs: dict[str, EmbeddingJob] = {}  # until they end, in order of arrival
        self._turns: deque[EmbeddingJob] = deque()  # those with inputs left, in order of their turn
        self._ended: list[EmbeddingOutput] = []
        self._is_closed = False

    def __enter__(self) -> Encoder:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def num_waiting(self) -> int:
        """Requests of which no input is encoded yet."""
        return self.stats.num_waiting

    @property
    def has_work(self) -> bool:
        """Whether step() has anything to do."""
        return bool(self._turns or self._ended)

    def validate(self, request: EmbeddingRequest) -> None:
        """Raises InvalidRequestError or ContextLengthError, naming the field."""
        if not request.inputs:
            raise InvalidRequestError("there is no input", param="input")
        for i, token_ids in enumerate(request.inputs):
            place = "input" if len(request.inputs) == 1 else f"input[{i}]"
            if not token_ids:
                raise InvalidRequestError(f"{place} is empty", param=place)
            if len(token_ids) > self.max_seq_len:
                raise ContextLengthError(
                    f"{place} is too large: it has {len(token_ids)} tokens, the model takes {self.max_seq_len}",
                    param=place,
                )
            if min(token_ids) < 0 or max(token_ids) >= self.model_info.n_vocab:
                raise InvalidRequestError(
                    f"{place}: token ids are in [0, {self.model_info.n_vocab})", param=place, code="invalid_token_id"
                )
        if request.n_dims is not None and not 1 <= request.n_dims <= self.n_embd:
            raise InvalidRequestError(
                f"dimensions is {request.n_dims}; this model's vectors have {self.n_embd}", param="dimensions"
            )

    def prepare_cost(self, request: EmbeddingRequest) -> int:
        """Microseconds that prepare() takes, roughly."""
        return len(request.inputs) + request.num_tokens // 50

    def prepare(self, request: EmbeddingRequest) -> EmbeddingJob:
        """What add() takes: the request checked. Raises InvalidRequestError, ContextLengthError, EngineDeadError."""
        self._check_alive()
        self.validate(request)
        return EmbeddingJob(request, self.n_embd if request.n_dims is None else request.n_dims)

    def add(self, prepared: EmbeddingJob) -> None:
        """Queue a request. Raises EngineDeadError, InvalidRequestError if its id is in use."""
        self._check_alive()
        if prepared.request_id in self._jobs:
            raise InvalidRequestError(f"request id {prepared.request_id!r} is in use", param="request_id")
        self._jobs[prepared.request_id] = prepared
        self._turns.append(prepared)
        self.stats.num_waiting += 1
        self.stats.add_embedding_request(prepared.request.num_tokens, len(prepared.request.inputs))

    def abort(self, request_id: str) -> None:
        """End a request now; its last output comes with the next step. An unknown id is ignored."""
        job = self._jobs.get(request_id)
        if job is not None:
            self._end(job, EmbeddingOutput(request_id), "abort")

    def finish(self, request_id: str, index: int) -> None:
        """Without effect: an input has no end before its vector."""

    def abort_all(self) -> list[EmbeddingOutput]:
        """End all requests now; their last outputs."""
        for request_id in list(self._jobs):
            self.abort(request_id)
        return self._take_ended()

    def step(self) -> list[EmbeddingOutput]:
        """Encode one pack; the outputs of the requests that it completed.

        After a fatal error `death` gives the reason, and the last outputs of all requests come at once. Raises
        EngineDeadError after close().
        """
        runner = self._runner
        if runner is None:
            raise EngineDeadError(f"the engine is dead: {self.death}")
        pack = self._pack()
        if not pack:
            return self._take_ended()
        token_ids = [job.request.inputs[index] for job, index in pack]
        self.stats.num_running = len(pack)
        try:
            runner.encode(token_ids)
        except DecodeError as error:
            self._die(error)
            return self._take_ended()
        self._read(runner, pack)
        self.stats.add_step(time.monotonic(), sum(map(len, token_ids)), 0)
        self.stats.num_running = 0
        return self._take_ended()

    def failure(self, request_id: str, error: Exception) -> EmbeddingOutput:
        """The last output of a request that the engine could not end itself."""
        return EmbeddingOutput(request_id, error=error)

    def on_wake(self, wake: Callable[[], None]) -> None:
        """Without effect: an encoder waits for nothing outside."""

    def snapshot(self) -> EngineSnapshot:
        """What the engine is doing. Works after close(), too."""
        if self._is_closed:
            return closed_snapshot(self.stats, self.death, self.n_seq_max)
        now, last = time.monotonic(), self.stats.last_step_s
        dead = EngineState.DEAD if self.death is not None else None
        return EngineSnapshot(
            state=dead or (EngineState.WORKING if self.has_work else EngineState.IDLE),
            death=self.death,
            sequences=tuple(islice(_waiting_inputs(self._jobs.values(), now), MAX_SEQUENCES)),
            num_waiting=sum(len(job.request.inputs) - job.next_input for job in self._jobs.values()),
            n_seq_max=self.n_seq_max,
            num_steps=self.stats.steps,
            last_step_s=now - last if last else None,
        )

    def check_integrity(self) -> None:
        """Assert that the records add up. For tests and debug runs."""
        assert {job.request_id for job in self._turns} == set(self._jobs)
        assert all(job.has_inputs_left for job in self._turns)

    def close(self) -> None:
        """Free the context, and the model unless the caller holds it. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self.death = self.death or "it is closed"
        self._jobs, self._turns, self._ended = {}, deque(), []
        self.tokenizer.close()
        self._runner = self._context = None

    def _pack(self) -> list[tuple[EmbeddingJob, int]]:
        """The inputs of the next call: one of each request in turn, and again, until the call is full."""
        turns, room = self._turns, self.pack_tokens
        pack: list[tuple[EmbeddingJob, int]] = []
        passed_over: list[EmbeddingJob] = []
        while turns and room > 0 and len(pack) < self.n_seq_max and len(passed_over) < _MAX_PASSED_OVER:
            job = turns.popleft()
            size = len(job.request.inputs[job.next_input])
            if pack and size > room:
                passed_over.append(job)  # it is among the first of the next call
                continue
            self.stats.num_waiting -= not job.next_input
            pack.append((job, job.take_input()))
            room -= size
            if job.has_inputs_left:
                turns.append(job)
        turns.extendleft(reversed(passed_over))
        return pack

    def _read(self, runner: EncoderRunner, pack: list[tuple[EmbeddingJob, int]]) -> None:
        """Put the vectors of a pack into their jobs, and end the jobs that are complete."""
        now = time.monotonic()
        for i, (job, index) in enumerate(pack):
            if job.request_id not in self._jobs:
                continue  # an earlier input of this call has failed
            if not runner.copy(i, *job.place_of(index), job.n_dims):
                error = RequestFailedError(f"the vector of input {index} is not finite: the model computes NaN")
                self._end(job, self.failure(job.request_id, error), "error")
            elif index == len(job.request.inputs) - 1:
                self.stats.time_to_first_token.observe(now - job.request.arrival_s)
                self._end(job, EmbeddingOutput(job.request_id, job.vectors, job.n_dims), "stop")

    def _end(self, job: EmbeddingJob, output: EmbeddingOutput, reason: str) -> None:
        del self._jobs[job.request_id]
        if job.has_inputs_left:
            self._turns.remove(job)
            self.stats.num_waiting -= not job.next_input
        self._ended.append(output)
        self.stats.add_end(reason, 0, job.request.arrival_s, 0.0)

    def _die(self, error: DecodeError) -> None:
        self.death = str(error)
        for job in list(self._jobs.values()):
            self._end(job, self.failure(job.request_id, error), "error")
        self._turns.clear()

    def _take_ended(self) -> list[EmbeddingOutput]:
        outputs, self._ended = self._ended, []
        return outputs

    def _check_alive(self) -> None:
        if self.death is not None:
            raise EngineDeadError(f"the engine is dead: {self.death}")


def make_encoder_context(model: Model, config: EngineConfig) -> Context:
    """The context of an encoder. Raises ModelLoadError.

    One pass takes a whole input, so n_batch and n_ubatch are at least the length of the longest one.
    """
    n_tokens = max(longest_input(model, config), config.n_batch, config.n_seq_max)
    threads = config.threads or default_threads()[0]
    pooling_type = config.pooling_type
    if not makes_embeddings(model) and _pooling(model, config) not in _POOLED:
        pooling_type = POOLING_LAST
    arguments: dict[str, Any] = config.values(Group.CONTEXT) | {
        "n_ctx": n_tokens,
        "n_batch": n_tokens,
        "n_ubatch": n_tokens,
        "n_outputs_max": n_tokens,
        "kv_unified": True,
        "embedding": True,
        "pooling_type": pooling_type,
        # Without it, each token's scores over all inputs of a call are computed and thrown away.
        "flash_attn": True if config.flash_attn is None and not supports_gpu_offload() else config.flash_attn,
        "threads": threads,
        "threads_batch": config.threads_batch or threads,
    }
    return Context(model, **arguments)


def is_for_embeddings(model: Model, config: EngineConfig) -> bool:
    """Whether the model is to make embeddings: it is an encoder, it pools its vectors, or the config says so.

    pooling_type "none" makes a model that pools generate text.
    """
    return makes_embeddings(model) or bool(config.embedding) or _pooling(model, config) in _POOLED


def _pooling(model: Model, config: EngineConfig) -> int:
    """The pooling type of the config, else of the file; 0 if neither has one."""
    if config.pooling_type not in (None, -1):
        return config.pooling_type or 0
    architecture = model.metadata.get("general.architecture", "")
    return int(model.metadata.get(f"{architecture}.pooling_type", "0"))


def longest_input(model: Model, config: EngineConfig) -> int:
    """The most tokens of one input: config.n_ctx, but no more than the model was trained for. 0: see the constants."""
    most_bytes = _MAX_OUTPUT_BYTES if makes_embeddings(model) else _MAX_LOGIT_BYTES
    fitting = max(config.n_batch, most_bytes // (FLOAT_BYTES * model.n_vocab))
    return min(model.n_ctx_train, config.n_ctx or min(_DEFAULT_MAX_TOKENS, fitting))


def _check_pooling(model: Model, config: EngineConfig) -> None:
    """Raise ModelLoadError if an encoder makes no vector of an input."""
    pooling_type = _pooling(model, config)
    if pooling_type == POOLING_RANK:
        raise ModelLoadError(f"{model.path}: pooling type rank: models that rank documents are not supported yet")
    if makes_embeddings(model) and pooling_type not in _POOLED:
        raise ModelLoadError(f"{model.path}: the file has no pooling type; set model.pooling_type")


def _check_vocabulary(model: Model) -> None:
    """Raise ModelLoadError if the special tokens around a text do not exist: llama.cpp's tokenizer ends the process."""
    if model.metadata.get("tokenizer.ggml.model") == "bert":
        for name, token_id in (("BOS", model.bos_id), ("separator", model.sep_id)):
            if not 0 <= token_id < model.n_vocab:
                raise ModelLoadError(f"{model.path}: the vocabulary has no {name} token")


def _waiting_inputs(jobs: Iterable[EmbeddingJob], now: float) -> Iterator[SequenceSnapshot]:
    """A record of each input that has no vector yet."""
    for job in jobs:
        for index in range(job.next_input, len(job.request.inputs)):
            yield SequenceSnapshot(
                request_id=job.request_id,
                index=index,
                status=SequenceStatus.WAITING,
                num_prompt_tokens=len(job.request.inputs[index]),
                num_computed_tokens=0,
                num_generated_tokens=0,
                num_remaining_tokens=0,
                num_cached_tokens=0,
                seq_id=None,
                priority=0,
                age_s=now - job.request.arrival_s,
            )
