"""The synchronous engine: one model, one context, one thread; requests in, outputs out, step by step."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial

from llamafast._core import Batch, Context, Model
from llamafast._runner import ModelRunner
from llamafast.cache.disk.disk_cache import DiskCache
from llamafast.cache.prefix_cache import PrefixCache
from llamafast.engine.attention import flash_attention
from llamafast.engine.config import EngineConfig
from llamafast.engine.context_shift import ContextShift, check_context_shift
from llamafast.engine.disk_prefixes import DiskPrefixes
from llamafast.engine.metrics import EngineStats
from llamafast.engine.pacing import StepPacer
from llamafast.engine.plan import max_output_rows
from llamafast.engine.planner import StepPlanner
from llamafast.engine.prepare import prepare_request
from llamafast.engine.scheduler import Scheduler
from llamafast.engine.sequence import RequestState
from llamafast.engine.state_key import state_key
from llamafast.engine.validation import Limits, check_request
from llamafast.engine.vocabulary import grammar_vocabulary
from llamafast.errors import DecodeError, EngineDeadError, InvalidRequestError
from llamafast.grammars.compiler import GrammarCompiler
from llamafast.grammars.constraint import Grammar
from llamafast.grammars.structured import StructuredOutput
from llamafast.host.cpu import default_threads
from llamafast.request import FinishReason, Request, RequestOutput, SamplingParams
from llamafast.tokenizer import Tokenizer

_MAX_SEQ_IDS = 256
_MIN_SPARE_IDS = 8
_MAX_SPARE_STATES = 16

MODEL_FIELDS = ("n_gpu_layers", "split_mode", "main_gpu", "tensor_split", "use_mmap", "use_mlock", "kv_overrides")
_CONTEXT_FIELDS = (
    "n_rs_seq", "kv_unified", "swa_full", "offload_kqv", "op_offload", "flash_attn", "no_perf", "embedding", "type_k",
    "type_v", "rope_scaling_type", "pooling_type", "attention_type", "rope_freq_base", "rope_freq_scale",
    "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow", "yarn_orig_ctx",
)  # fmt: skip


class Engine:
    """Continuous batching over one model. All but validate(), prepare() and compile_grammar() belong to one
    thread.

    model: a path to a GGUF file, or a loaded Model. context, runner and batch are made here unless given, as tests do.
    Use it as a context manager, or close() it. Raises ModelLoadError.
    """

    _num_runs = 0  # of generate()

    def __init__(
        self,
        model: Model | str,
        config: EngineConfig | None = None,
        *,
        context: Context | None = None,
        runner: ModelRunner | None = None,
        batch: Batch | None = None,
    ) -> None:
        config = config or EngineConfig()
        if isinstance(model, str):
            values = asdict(config)
            model = Model(model, **{name: values[name] for name in MODEL_FIELDS})
        self.model = model
        if context is None:
            config = replace(config, flash_attn=flash_attention(model, config))
        self.config = config
        self.tokenizer = Tokenizer(model)
        self.grammars = GrammarCompiler(partial(grammar_vocabulary, self.tokenizer))
        self.context = context = context or make_context(model, config)
        self.runner = runner or ModelRunner(context)
        self.batch = batch or Batch(context.n_batch)
        self.stats = EngineStats()
        self.dead: str | None = None
        self.disk: DiskPrefixes | None = None
        self.is_stalled = False  # all that is left to do waits for the disk
        n_ctx_seq = context.n_ctx if context.kv_unified else context.n_ctx // context.n_seq_max
        self.max_seq_len = min(n_ctx_seq, config.max_seq_len or n_ctx_seq)
        n_seq_max = min(config.n_seq_max, context.n_seq_max, context.n_batch)
        self.limits = Limits(
            n_vocab=model.n_vocab,
            n_seq_max=n_seq_max,
            max_seq_len=self.max_seq_len,
            max_output_tokens=config.max_output_tokens,
            generates=context.memory_kind != "none",
            context_shift=config.context_shift,
            bos_id=model.bos_id,
        )
        self.cache = _make_cache(context, model, config, self.max_seq_len)
        self.stats.n_cells = self.cache.n_cells
        context_shift = None
        if config.context_shift:
            check_context_shift(context, self.runner, self.batch, type_k=config.type_k, max_seq_len=self.max_seq_len)
            context_shift = ContextShift(self.cache, max_seq_len=self.max_seq_len, bos_id=model.bos_id)
        equal_lengths = context.memory_kind in ("hybrid", "recurrent") or not context.kv_unified
        planner = StepPlanner(
            self.batch,
            n_outputs_max=context.n_outputs_max,
            pacer=StepPacer(config.max_step_ms, config.max_prefill_tokens or context.n_batch, equal_lengths),
            equal_lengths=equal_lengths,
        )
        self.scheduler = Scheduler(
            self.cache,
            planner,
            self.stats,
            n_seq_max=n_seq_max,
            context_shift=context_shift,
        )

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def n_seq_max(self) -> int:
        """Sequences that run at once."""
        return self.limits.n_seq_max

    @property
    def has_work(self) -> bool:
        """Whether step() has anything to do."""
        is_copying = self.disk is not None and self.dead is None and len(self.disk.copies) > 0
        return self.scheduler.has_work or is_copying

    def open_disk_cache(
        self, path: str, *, max_bytes: int, min_tokens: int = 128, loras: Sequence[tuple[str, float]] = ()
    ) -> None:
        """Keep prefixes in a folder too, where the next process finds them; close() writes what is still waiting.

        max_bytes: of the folder. min_tokens: that a prefix must have beyond what is there. loras: (path, scale) of the
        adapters in use. Call it before the first request. Raises ConfigError if the folder cannot be written.
        """
        context = self.context
        can_cut = context.memory_kind == "attention"  # the state of a sliding window holds no more than the window
        key = state_key(self.model, context, self.config, loras)
        disk = DiskCache(path, max_bytes=max_bytes, min_tokens=min_tokens, key=key, can_cut=can_cut)
        # A part of a sequence is copied by way of another one, of which this kind of memory has some to spare.
        has_spare = can_cut and context.kv_unified and self.cache.n_slots > self.n_seq_max
        spare_id = self.cache.reserve_id() if has_spare else None
        self.disk = DiskPrefixes(disk, self.cache, context, spare_id)
        self.scheduler.attach_disk(self.disk)
        self.stats.disk_cache = disk.stats

    def validate(self, request: Request) -> None:
        """Raises InvalidRequestError or ContextLengthError, naming the field. Thread-safe; touches no llama context."""
        check_request(request, self.limits)

    def compile_grammar(self, structured: StructuredOutput) -> Grammar:
        """What Request.grammar takes. Equal ones are compiled once. Thread-safe. Raises GrammarError."""
        return self.grammars.compile(structured)

    def prepare(self, request: Request) -> RequestState:
        """What add() takes: the request checked, with all that is built for it alone. Thread-safe.

        Raises InvalidRequestError or ContextLengthError, naming the field.
        """
        return prepare_request(request, self.tokenizer, self.limits)

    def add(self, request: Request | RequestState) -> None:
        """Queue a request. Raises what prepare() does, EngineDeadError, InvalidRequestError if its id is in use.

        One that prepare() made ready can fail here or later only by a mistake of the engine's: it then ends with ERROR.
        """
        self._check_alive()
        state = request if isinstance(request, RequestState) else self.prepare(request)
        if state.number:
            raise InvalidRequestError("a prepared request can be queued once", param="request_id")
        if state.request.request_id in self.scheduler.requests:
            raise InvalidRequestError(f"request id {state.request.request_id!r} is in use", param="request_id")
        self._guarded(state, lambda: self.scheduler.add(state))

    def abort(self, request_id: str) -> None:
        """End a request now, wherever it is; its last outputs come with the next step. An unknown id is ignored."""
        self._guarded(self.scheduler.requests.get(request_id), lambda: self.scheduler.abort(request_id))

    def finish(self, request_id: str, index: int) -> None:
        """End one choice of a request as a stop string would. One unknown, finished or without a token is ignored."""
        self._guarded(self.scheduler.requests.get(request_id), lambda: self.scheduler.finish(request_id, index))

    def abort_all(self) -> list[RequestOutput]:
        """End all requests now; their last outputs."""
        for request_id in list(self.scheduler.requests):
            self.scheduler.abort(request_id)
        return self.scheduler.take_instant()

    def step(self) -> list[RequestOutput]:
        """One decode, and what it brought. After a fatal error all requests end with ERROR, and `dead` says why.

        With nothing to compute but prompts whose beginning is being loaded, it waits for that; but if disk.on_load is
        set, it only sets is_stalled: the next step is of use after that call. A slice of what goes to the disk is
        copied, too.
        """
        scheduler = self.scheduler
        outputs: list[RequestOutput] = []
        while (plan := scheduler.schedule()) is not None:
            try:
                runs = self.runner.step(plan)
            except DecodeError as error:
                if self._recover(error):
                    continue
                break
            if plan.scored:
                plan.scores = self.runner.scores()
            outputs = scheduler.update(plan, runs, self.runner.logprobs)
            break
        scheduler.count_active()
        instant = scheduler.take_instant()
        if self.disk is not None and self.dead is None:
            self.disk.copies.step()
            self.is_stalled = plan is None and not instant and self.disk.is_reading and not self.disk.copies
            if self.is_stalled and self.disk.on_load is None:
                self.disk.wait()
        return instant + outputs if instant else outputs

    def generate(
        self, prompts: str | Sequence[int] | Sequence[str | Sequence[int]], params: SamplingParams | None = None
    ) -> Iterator[RequestOutput]:
        """Continue one prompt or several (text or token ids), yielding deltas as they come.

        RequestOutput.request_id is the number of the prompt, "0", "1", ... Raises InvalidRequestError before anything
        runs, and RuntimeError if the engine is busy, now or when the iteration begins. Leaving the iterator early
        aborts what is left.
        """
        self._check_free()
        params = params or SamplingParams()
        grammar = None if params.structured is None else self.compile_grammar(params.structured)
        self._num_runs += 1
        requests = [
            Request(f"run {self._num_runs} {i}", array("i", self._token_ids(prompt)), params, grammar=grammar)
            for i, prompt in enumerate(_as_list(prompts))
        ]
        for request in requests:
            self.validate(request)
        return self._run(requests)

    def check_integrity(self) -> None:
        """Assert that slots, cells and lists add up. For tests and debug runs."""
        self.scheduler.check_integrity()

    def close(self) -> None:
        """Free the context and the model. Idempotent; afterwards only validate() and stats are left.

        A model that was given as such stays its owner's.
        """
        self.grammars.close()
        if self.disk is not None:
            self.disk.close(copy_all=self.dead is None)
            self.disk = None
        self.dead = self.dead or "it is closed"
        if "tokenizer" in self.__dict__:
            self.tokenizer.close()
        for name in ("scheduler", "cache", "batch", "runner", "context", "tokenizer", "model"):
            self.__dict__.pop(name, None)

    def _run(self, requests: list[Request]) -> Iterator[RequestOutput]:
        self._check_free()
        numbers = {request.request_id: str(i) for i, request in enumerate(requests)}
        left = set(numbers)
        try:
            for request in requests:
                self.add(request)
            while left:
                self._check_alive()
                for output in self.step():
                    if output.usage is not None:
                        left.discard(output.request_id)
                    output.request_id = numbers.get(output.request_id, output.request_id)
                    yield output
        finally:
            if self.dead is None:
                self.scheduler.drop(left)

    def _guarded(self, state: RequestState | None, work: Callable[[], None]) -> None:
        """Work for one request: if it raises, that request ends with ERROR, and the others go on."""
        try:
            work()
        except BaseException as error:
            if state is None:
                raise
            self.scheduler.fail(state, error)

    def _check_alive(self) -> None:
        if self.dead is not None:
            raise EngineDeadError(f"the engine is dead: {self.dead}")

    def _check_free(self) -> None:
        self._check_alive()
        if self.scheduler.has_work:
            raise RuntimeError("the engine is busy with other requests")

    def _token_ids(self, prompt: str | Sequence[int]) -> Sequence[int]:
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt, add_special=True, parse_special=True)
        return prompt

    def _recover(self, error: DecodeError) -> bool:
        """Whether the step is worth another try: room was made for it. After any other failure the engine is dead."""
        if error.status_code == 1:
            self.scheduler.relieve()
            return True
        self.dead = str(error)
        for request_id in list(self.scheduler.requests):
            self.scheduler.abort(request_id, FinishReason.ERROR, error)
        return False


def _as_list(prompts: str | Sequence[int] | Sequence[str | Sequence[int]]) -> list[str | Sequence[int]]:
    if isinstance(prompts, str):
        return [prompts]
    several: list[str | Sequence[int]] = [prompt for prompt in prompts if not isinstance(prompt, int)]
    token_ids = [token_id for token_id in prompts if isinstance(token_id, int)]
    if several and token_ids:
        raise InvalidRequestError("prompts are either token ids or a list of prompts, not both", param="prompt")
    return several or [token_ids]


def make_context(model: Model, config: EngineConfig) -> Context:
    """The context that `config` asks for, with sequence ids for finished prefixes. Raises ModelLoadError."""
    n_seq_ids = config.n_seq_max
    if config.enable_prefix_cache and config.kv_unified:  # ids for finished prefixes
        n_seq_ids = max(n_seq_ids, min(n_seq_ids + _num_spare_ids(model, n_seq_ids), _MAX_SEQ_IDS))
    threads = config.threads or default_threads()[0]
    n_batch = max(config.n_batch, config.n_seq_max)
    values = asdict(config)
    return Context(
        model,
        n_ctx=config.context_size(model.n_ctx_train),
        n_batch=n_batch,
        n_ubatch=config.n_ubatch,
        n_seq_max=n_seq_ids,
        n_outputs_max=max_output_rows(n_seq_max=config.n_seq_max, n_batch=n_batch, n_vocab=model.n_vocab),
        threads=threads,
        threads_batch=config.threads_batch or threads,
        **{name: values[name] for name in _CONTEXT_FIELDS},
    )


def _num_spare_ids(model: Model, n_seq_max: int) -> int:
    """Sequence ids for finished prefixes: free but for recurrent memories, where each takes a state of megabytes."""
    has_state = model.is_hybrid or model.is_recurrent
    return min(max(_MIN_SPARE_IDS, n_seq_max), _MAX_SPARE_STATES if has_state else _MAX_SEQ_IDS)


def _make_cache(context: Context, model: Model, config: EngineConfig, max_seq_len: int) -> PrefixCache:
    # Recurrent state takes no cells: only the sequences' length is limited.
    n_cells = context.n_seq_max * max_seq_len if context.memory_kind == "recurrent" else context.n_ctx
    return PrefixCache(
        context,
        n_slots=context.n_seq_max,
        n_cells=n_cells,
        reuse=config.enable_prefix_cache and context.memory_kind != "none",
        kind=context.memory_kind,
        n_swa=model.n_swa if context.memory_kind == "swa" else 0,
        swa_full=context.memory_kind != "swa" or context.swa_full,
        copies_cells=not context.kv_unified,
        n_cells_kept=config.max_cached_tokens,
        max_idle_tokens=config.max_idle_tokens,
        max_checkpoint_bytes=config.max_checkpoint_bytes,
        checkpoint_every=config.checkpoint_every,
    )
