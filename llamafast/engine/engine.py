"""The synchronous engine: one model, one context, one thread; requests in, outputs out, step by step."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from llamafast._core import Batch, Context, Model, ModelRunner
from llamafast.cache.disk_cache import DiskCache
from llamafast.cache.prefix_cache import PrefixCache
from llamafast.cpu import default_threads
from llamafast.engine.attention import flash_attention
from llamafast.engine.context_shift import ContextShift, check_context_shift
from llamafast.engine.disk_prefixes import DiskPrefixes
from llamafast.engine.grammar import Grammar, GrammarCompiler
from llamafast.engine.metrics import EngineStats
from llamafast.engine.pacing import StepPacer
from llamafast.engine.packing import SchedulerOutput
from llamafast.engine.planner import StepPlanner
from llamafast.engine.scheduler import Scheduler
from llamafast.engine.state_key import state_key
from llamafast.engine.validation import Limits, check_request
from llamafast.errors import DecodeError, EngineDeadError, InvalidRequestError
from llamafast.request import FinishReason, Request, RequestOutput, SamplingParams, StructuredOutput
from llamafast.tokenizer import Tokenizer

# With n_ctx 0: a model trained for 256k tokens would ask for tens of gigabytes.
DEFAULT_N_CTX = 16384
_MAX_SEQ_IDS = 256
_MIN_SPARE_IDS = 8
_MAX_SPARE_STATES = 16

MODEL_FIELDS = ("n_gpu_layers", "split_mode", "main_gpu", "tensor_split", "use_mmap", "use_mlock", "kv_overrides")
_CONTEXT_FIELDS = (
    "n_rs_seq", "kv_unified", "swa_full", "offload_kqv", "op_offload", "flash_attn", "no_perf", "embedding", "type_k",
    "type_v", "rope_scaling_type", "pooling_type", "attention_type", "rope_freq_base", "rope_freq_scale",
    "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow", "yarn_orig_ctx",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How the model is loaded and run. None leaves a choice to llama.cpp.

    n_ctx: KV cells, shared by all sequences if kv_unified; 0: the model's own, 16384 at most. n_seq_max: sequences that
    run at once. threads 0: as many as there are cores to use; threads_batch 0: as threads. max_prefill_tokens: most
    prompt tokens per step while others generate; None: n_batch. max_step_ms: such a step gets as many prompt tokens as
    let it take about so long; None: 1.6 times as long as without; 0: no limit. max_seq_len: prompt and output of
    one sequence.
    max_cached_tokens: KV cells in use above which finished prefixes are dropped; None: all. max_idle_tokens: tokens
    that others generate before an unused finished prefix is dropped; None: it stays while there is room, though their
    attention is slower meanwhile. max_checkpoint_bytes: host memory for the states of memories that cannot be cut, by
    which prompts that part inside of a sequence still share; checkpoint_every: how many tokens apart they are taken in
    prompts that come without boundaries, 0: not; the default is n_batch's, where a step ends anyway.
    context_shift: a sequence that has max_seq_len tokens loses half of those behind its first message and goes on; what
    was computed behind the lost ones stays. Otherwise it ends.
    """

    n_ctx: int = 0
    n_batch: int = 512
    n_ubatch: int = 512
    n_seq_max: int = 32
    n_rs_seq: int = 0
    threads: int = 0
    threads_batch: int = 0
    kv_unified: bool = True
    swa_full: bool = True
    offload_kqv: bool | None = None
    op_offload: bool | None = None
    flash_attn: bool | None = None
    no_perf: bool | None = None
    embedding: bool | None = None
    type_k: int | None = None
    type_v: int | None = None
    rope_scaling_type: int | None = None
    pooling_type: int | None = None
    attention_type: int | None = None
    rope_freq_base: float | None = None
    rope_freq_scale: float | None = None
    yarn_ext_factor: float | None = None
    yarn_attn_factor: float | None = None
    yarn_beta_fast: float | None = None
    yarn_beta_slow: float | None = None
    yarn_orig_ctx: int | None = None

    n_gpu_layers: int | None = None
    split_mode: int | None = None
    main_gpu: int | None = None
    tensor_split: tuple[float, ...] | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    kv_overrides: dict[str, bool | int | float | str] | None = None

    max_prefill_tokens: int | None = None
    max_step_ms: float | None = None
    max_queued_requests: int = 1024
    max_seq_len: int | None = None
    max_output_tokens: int | None = None
    enable_prefix_cache: bool = True
    max_cached_tokens: int | None = None
    max_idle_tokens: int | None = 512
    max_checkpoint_bytes: int = 1 << 30
    checkpoint_every: int = 512
    context_shift: bool = False


class Engine:
    """Continuous batching over one model. All but validate() belong to one thread.

    model: a path to a GGUF file, or a loaded Model. context, runner and batch are made here unless given, as tests do.
    Use it as a context manager, or close() it. Raises ModelLoadError.
    """

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
        self.grammars = GrammarCompiler(self.tokenizer)
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
        self._limits = Limits(
            n_vocab=model.n_vocab,
            n_seq_max=n_seq_max,
            max_seq_len=self.max_seq_len,
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
            self.tokenizer,
            self.cache,
            planner,
            self.stats,
            n_seq_max=n_seq_max,
            max_seq_len=self.max_seq_len,
            max_output_tokens=config.max_output_tokens,
            context_shift=context_shift,
        )

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def n_seq_max(self) -> int:
        """Sequences that run at once."""
        return self._limits.n_seq_max

    @property
    def has_work(self) -> bool:
        """Whether step() has anything to do."""
        return self.scheduler.has_work

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
        self.disk = self.scheduler.waiting.disk = DiskPrefixes(disk, self.cache, context)
        self.stats.disk_cache = disk.stats

    def validate(self, request: Request) -> None:
        """Raises InvalidRequestError or ContextLengthError, naming the field. Thread-safe; touches no llama context."""
        check_request(request, self._limits)

    def compile_grammar(self, structured: StructuredOutput) -> Grammar:
        """What Request.grammar takes. Equal ones are compiled once. Thread-safe. Raises GrammarError."""
        return self.grammars.compile(structured)

    def add(self, request: Request) -> None:
        """Queue a valid request. Raises EngineDeadError, and InvalidRequestError if its id is in use."""
        if self.dead is not None:
            raise EngineDeadError(f"the engine is dead: {self.dead}")
        if request.request_id in self.scheduler.requests:
            raise InvalidRequestError(f"request id {request.request_id!r} is in use", param="request_id")
        self.scheduler.add(request)

    def abort(self, request_id: str) -> None:
        """End a request now, wherever it is; its last outputs come with the next step. An unknown id is ignored."""
        self.scheduler.abort(request_id)

    def finish(self, request_id: str, index: int) -> None:
        """End one choice of a request as a stop string would. One unknown, finished or without a token is ignored."""
        self.scheduler.finish(request_id, index)

    def abort_all(self) -> list[RequestOutput]:
        """End all requests now; their last outputs."""
        for request_id in list(self.scheduler.requests):
            self.scheduler.abort(request_id)
        return self.scheduler.take_instant()

    def step(self) -> list[RequestOutput]:
        """One decode, and what it brought. After a fatal error all requests end with ERROR, and `dead` says why.

        With nothing to compute but prompts whose beginning is being loaded, it waits for that; but if disk.on_load is
        set, it only sets is_stalled: the next step is of use after that call.
        """
        scheduler = self.scheduler
        outputs: list[RequestOutput] = []
        while (plan := scheduler.schedule()) is not None:
            try:
                token_ids = self.runner.step(self.batch, plan.rows, plan.samplers, plan.constraints)
            except DecodeError as error:
                if self._recover(plan, error):
                    continue
                break
            if plan.num_asked:
                plan.scores = self.runner.scores()
            outputs = scheduler.update(plan, token_ids, self.runner.logprobs)
            break
        scheduler.count_active()
        instant = scheduler.take_instant()
        if self.disk is not None:
            self.is_stalled = plan is None and not instant and self.disk.is_reading
            if self.is_stalled and self.disk.on_load is None:
                self.disk.wait()
        return instant + outputs if instant else outputs

    def generate(
        self, prompts: str | Sequence[int] | Sequence[str | Sequence[int]], params: SamplingParams | None = None
    ) -> Iterator[RequestOutput]:
        """Continue one prompt or several (text or token ids), yielding deltas as they come.

        RequestOutput.request_id is the number of the prompt, "0", "1", ... Raises InvalidRequestError before anything
        runs, and RuntimeError if the engine is busy. Leaving the iterator early aborts what is left.
        """
        params = params or SamplingParams()
        grammar = None if params.structured is None else self.compile_grammar(params.structured)
        requests = [
            Request(str(i), array("i", self._token_ids(prompt)), params, grammar=grammar)
            for i, prompt in enumerate(_as_list(prompts))
        ]
        for request in requests:
            self.validate(request)
        if self.has_work:
            raise RuntimeError("the engine is busy with other requests")
        return self._run(requests)

    def check_integrity(self) -> None:
        """Assert that slots, cells and lists add up. For tests and debug runs."""
        self.scheduler.check_integrity()

    def close(self) -> None:
        """Free the context and the model. Idempotent; afterwards only validate() and stats are left."""
        self.grammars.close()
        if self.disk is not None:
            self.disk.disk.close()
            self.disk = None
        for name in ("scheduler", "cache", "batch", "runner", "context", "tokenizer", "model"):
            self.__dict__.pop(name, None)

    def _run(self, requests: list[Request]) -> Iterator[RequestOutput]:
        try:
            for request in requests:
                self.add(request)
            while self.has_work:
                yield from self.step()
        finally:
            for request in requests:
                self.abort(request.request_id)
            self.scheduler.take_instant()

    def _token_ids(self, prompt: str | Sequence[int]) -> Sequence[int]:
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt, add_special=True, parse_special=True)
        return prompt

    def _recover(self, plan: SchedulerOutput, error: DecodeError) -> bool:
        """Whether the step is worth another try, after a failure that left the engine alive."""
        if error.status_code == 1:
            self.scheduler.relieve()
            return True
        if error.status_code == 2:
            self.scheduler.rewind(plan)
        else:
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
    values = asdict(config)
    return Context(
        model,
        n_ctx=config.n_ctx or min(model.n_ctx_train, DEFAULT_N_CTX),
        n_batch=max(config.n_batch, config.n_seq_max),
        n_ubatch=config.n_ubatch,
        n_seq_max=n_seq_ids,
        n_outputs_max=config.n_seq_max,
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
