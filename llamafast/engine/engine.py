"""Engine: generates text with one model and one context, step by step, on one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set, Sized
from dataclasses import replace
from functools import partial

from llamafast._core import Batch, Context, Model
from llamafast._runner import ModelRunner
from llamafast.engine import loading
from llamafast.engine.adapters import Adapter, Adapters
from llamafast.engine.config import EngineConfig
from llamafast.engine.disk_prefixes import DiskPrefixes
from llamafast.engine.generate import Prompts, make_requests, run_requests
from llamafast.engine.media_prompts import MediaPrompts
from llamafast.engine.media_supply import MediaSupply
from llamafast.engine.metrics import EngineStats
from llamafast.engine.model_info import context_info, model_info
from llamafast.engine.prepare import prepare_cost, prepare_request
from llamafast.engine.projector_settings import ProjectorSettings
from llamafast.engine.sequence import RequestState
from llamafast.engine.snapshot import EngineSnapshot, closed_snapshot, take_snapshot
from llamafast.engine.validation import check_request
from llamafast.engine.vocabulary import grammar_vocabulary
from llamafast.errors import DecodeError, EngineDeadError, InvalidRequestError
from llamafast.grammars.compiler import GrammarCompiler
from llamafast.grammars.constraint import Grammar
from llamafast.grammars.structured import StructuredOutput
from llamafast.request import FinishReason, Request, RequestOutput, SamplingParams, Usage
from llamafast.tokenizer import Tokenizer


class Engine:
    """Continuous batching over one model. It implements StepEngine (engine/protocol.py); generate() runs it alone.

    model: path of a GGUF file, or a loaded Model.
    context, runner, batch: passed by tests only; None: made from the model and `config`.

    Any thread may call validate(), prepare_cost(), prepare(), compile_grammar() and compile_grammar_async(). All other
    methods belong to one thread. Use it as a context manager, or close() it. Raises ModelLoadError, ConfigError.

    model_info, context_info: facts about the model and its memory.
    limits: the limits that each request is checked against.
    max_seq_len: maximum tokens of one sequence, prompt and output together.
    n_seq_max: maximum number of sequences that run at once.
    adapters: the LoRA adapters in use.
    stats: counters and gauges.
    media: turns images and sounds into parts of prompts; None: the model has no projector.
    death: the reason why the engine stopped working; None while it works.
    is_stalled: set by step(); whether all work waits for the disk or for embeddings of media.
    """

    _num_runs = 0  # calls of generate()

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
        self.model = model = loading.load_model(model, config) if isinstance(model, str) else model
        self.config = config = config if context is not None else loading.choose_attention(model, config)
        self.context = context = context or loading.make_context(model, config)
        self.runner = runner or ModelRunner(context)
        self.batch = batch or Batch(context.n_batch)
        self.model_info = model_info(model)
        self.context_info = context_info(context)
        self.limits = limits = loading.make_limits(model, context, config)
        self.max_seq_len = limits.max_seq_len
        self.n_seq_max = limits.n_seq_max
        self.tokenizer = Tokenizer(model)
        self.grammars: GrammarCompiler | None = GrammarCompiler(partial(grammar_vocabulary, self.tokenizer))
        self.cache = loading.make_cache(model, context, config, max_seq_len=limits.max_seq_len)
        self.stats = EngineStats(n_cells=self.cache.n_cells)
        self.scheduler = loading.make_scheduler(self.runner, self.batch, self.cache, self.stats, config, limits)
        self.disk: DiskPrefixes | None = None
        self.media: MediaPrompts | None = None
        self.death: str | None = None
        self.is_stalled = False
        self.adapters: tuple[Adapter, ...] = ()
        self._adapters = Adapters(context)
        self._waiting: Sized = self.scheduler.waiting
        self._supply: MediaSupply | None = None
        self._can_wake = False
        self._is_closed = False

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def num_waiting(self) -> int:
        """Requests that were added and have no sequence yet."""
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        """Whether step() has anything to do."""
        if self._is_closed:
            return False
        is_copying = self.disk is not None and self.death is None and len(self.disk.copies) > 0
        return self.scheduler.has_work or is_copying

    def add_adapter(self, path: str, scale: float = 1.0) -> None:
        """Load a LoRA adapter from a GGUF file and use it for every sequence, in addition to the others.

        scale: factor of its weights. Raises ModelLoadError, ValueError, EngineDeadError, and RuntimeError after the
        first request or open_disk_cache(): prefixes that were computed without the adapter would be wrong with it.
        """
        self._check_alive()
        if self.disk is not None or self.scheduler.has_work or self.cache.num_cells:
            raise RuntimeError("adapters must be added before the first request and before the disk cache is opened")
        self._adapters.add(Adapter(path, scale))
        self.adapters = self._adapters.in_use

    def add_projector(self, path: str, settings: ProjectorSettings | None = None) -> None:
        """Load a projector (an mmproj file): prompts may then have images or sounds.

        Raises ModelLoadError, EngineDeadError, and RuntimeError after the first request or a second time.
        """
        self._check_alive()
        if self.media is not None or self.scheduler.has_work:
            raise RuntimeError("the projector must be added once, before the first request")
        self.media, self._supply = loading.load_projector(self.context, path, settings or ProjectorSettings())
        self.stats.media = self._supply.encoder.stats
        self.scheduler.attach_media(self._supply, max_whole_rows=self.context.n_ubatch)
        self.limits = replace(self.limits, takes_media=True)

    def open_disk_cache(self, path: str, *, max_bytes: int, min_tokens: int = 128) -> None:
        """Also keep prefixes in a folder, for later processes. close() writes the remaining ones.

        max_bytes: maximum size of the folder. min_tokens: a prefix is stored if this many of its tokens are not stored.
        Call it after add_adapter() and before the first request. Raises ConfigError if the folder cannot be written.
        """
        self._check_alive()
        disk = loading.open_disk(
            self.cache, self.context, self.config, self.adapters, path, max_bytes=max_bytes, min_tokens=min_tokens
        )
        self.disk = disk
        self.scheduler.attach_disk(disk)
        self.stats.disk_cache = disk.disk.stats

    def on_wake(self, wake: Callable[[], None]) -> None:
        """Set the function that is called when a read from the disk or an encoding of media has ended.

        Any thread may call it. Without it, step() waits. Call it after open_disk_cache() and add_projector().
        """
        self._can_wake = True
        if self.disk is not None:
            self.disk.call_on_load(wake)
        if self._supply is not None:
            self._supply.on_end(wake)

    def validate(self, request: Request) -> None:
        """Check a request. Raises InvalidRequestError or ContextLengthError with the field. Works after close()."""
        check_request(request, self.limits)

    def compile_grammar(self, structured: StructuredOutput) -> Grammar:
        """Compile a constraint for Request.grammar; equal ones once. Raises GrammarError, EngineDeadError."""
        return self._compiler().compile(structured)

    async def compile_grammar_async(self, structured: StructuredOutput) -> Grammar:
        """Like compile_grammar(), without blocking the event loop. Also raises CompilerBusyError."""
        return await self._compiler().compile_async(structured)

    def prepare_cost(self, request: Request) -> int:
        """Estimate of the microseconds that prepare() takes. Works after close()."""
        return prepare_cost(request, self.tokenizer)

    def prepare(self, request: Request) -> RequestState:
        """Check a request, and build the state that add() takes.

        Raises InvalidRequestError or ContextLengthError with the field, EngineDeadError.
        """
        self._check_alive()
        return prepare_request(request, self.tokenizer, self.limits)

    def add(self, request: Request | RequestState) -> None:
        """Queue a request. Raises the errors of prepare(), and InvalidRequestError if its id is in use.

        If a prepared request fails because of a fault in the engine, it ends with ERROR and nothing is raised.
        """
        self._check_alive()
        state = request if isinstance(request, RequestState) else self.prepare(request)
        if state.number:
            raise InvalidRequestError("a prepared request can be queued only once", param="request_id")
        if state.request_id in self.scheduler.requests:
            raise InvalidRequestError(f"request id {state.request_id!r} is in use", param="request_id")
        self._guarded(state, lambda: self.scheduler.add(state))

    def abort(self, request_id: str) -> None:
        """End a request in any state. The next step() returns its last outputs. An unknown id is ignored."""
        if not self._is_closed:
            self._guarded(self.scheduler.requests.get(request_id), lambda: self.scheduler.abort(request_id))

    def finish(self, request_id: str, index: int) -> None:
        """End one choice of a request like a stop string. An unknown, finished or empty choice is ignored."""
        if not self._is_closed:
            self._guarded(self.scheduler.requests.get(request_id), lambda: self.scheduler.finish(request_id, index))

    def drop(self, request_ids: Set[str]) -> None:
        """End requests without an output. Unknown and finished ones are ignored."""
        if not self._is_closed:
            self.scheduler.drop(request_ids)

    def abort_all(self) -> list[RequestOutput]:
        """End all requests and return their last outputs."""
        if self._is_closed:
            return []
        for request_id in list(self.scheduler.requests):
            self.scheduler.abort(request_id)
        return self.scheduler.take_instant()

    def step(self) -> list[RequestOutput]:
        """Compute one step and return its outputs. A fatal error ends all requests with ERROR and sets `death`.

        If all requests wait for reads from the disk or for encodings of media, step() waits for one of them, too; after
        on_wake() it sets is_stalled instead. Each step also copies a slice of the states that are to be stored. Raises
        EngineDeadError after close().
        """
        if self._is_closed:
            self._check_alive()
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
        if self.disk is not None and self.death is None:
            self.disk.copies.step()
        self.is_stalled = plan is None and not instant and self.death is None and self._waits()
        if self.is_stalled and not self._can_wake:
            self._wait()
        return instant + outputs if instant else outputs

    def generate(self, prompts: Prompts, params: SamplingParams | None = None) -> Iterator[RequestOutput]:
        """Continue one prompt or several (text or token ids) and yield their outputs step by step.

        RequestOutput.request_id is the number of the prompt, "0", "1", ... Raises InvalidRequestError before anything
        runs, EngineDeadError, and RuntimeError if the engine is busy, in this call or when the iteration begins.
        Closing the iterator early aborts the unfinished prompts.
        """
        self.check_free()
        params = params or SamplingParams()
        grammar = None if params.structured is None else self.compile_grammar(params.structured)
        self._num_runs += 1
        requests = make_requests(prompts, params, self.tokenizer, grammar=grammar, run=self._num_runs)
        for request in requests:
            self.validate(request)
        return run_requests(self, requests)

    def check_free(self) -> None:
        """Raises EngineDeadError, and RuntimeError if the engine has requests."""
        self._check_alive()
        if self.scheduler.has_work:
            raise RuntimeError("the engine is busy with other requests")

    def failure(self, request_id: str, error: Exception) -> RequestOutput:
        """The last output of a request that the engine could not end itself."""
        return RequestOutput(request_id, 0, "", [], finish_reason=FinishReason.ERROR, usage=Usage(0, 0), error=error)

    def snapshot(self) -> EngineSnapshot:
        """A record of the current work of the engine. Works after close()."""
        if self._is_closed:
            return closed_snapshot(self.stats, self.death, self.n_seq_max)
        return take_snapshot(self.scheduler, self.disk, death=self.death, is_working=self.has_work)

    def check_integrity(self) -> None:
        """Assert that slots, cells and lists are consistent. For tests and debug runs. Raises EngineDeadError."""
        if self._is_closed:
            self._check_alive()
        self.scheduler.check_integrity()

    def close(self) -> None:
        """Write the remaining states to the disk and free everything else. Idempotent.

        It frees the KV memory, all requests (without further outputs), the compiled grammars, and the model unless the
        caller still has a reference to it. The tokenizer stops working. Afterwards validate(), prepare_cost(),
        snapshot(), failure() and the properties still work; abort(), finish(), drop(), abort_all() and on_wake() do
        nothing; all other methods raise EngineDeadError.
        """
        if self._is_closed:
            return
        if self.grammars is not None:
            self.grammars.close()
        if self.disk is not None:
            self.disk.close(copy_all=self.death is None)
        if self._supply is not None:
            self._supply.close()
        self._is_closed = True
        self.death = self.death or "it is closed"
        self.is_stalled = False
        self.grammars = self.disk = self.media = self._supply = None
        self._waiting = ()
        self.tokenizer.close()
        for name in ("scheduler", "cache", "batch", "runner", "context", "model", "_adapters"):
            del self.__dict__[name]

    def _waits(self) -> bool:
        """Whether something outside of the engine's thread is to come, and there is nothing to do before."""
        reads, copies = (False, False) if self.disk is None else (self.disk.is_reading, bool(self.disk.copies))
        return (reads or (self._supply is not None and self._supply.is_encoding)) and not copies

    def _wait(self) -> None:
        if self._supply is not None and self._supply.is_encoding:
            self._supply.wait()
        elif self.disk is not None:
            self.disk.wait()

    def _guarded(self, state: RequestState | None, work: Callable[[], None]) -> None:
        """Call `work`. If it raises, the request ends with ERROR; the other requests continue."""
        try:
            work()
        except BaseException as error:
            if state is None:
                raise
            self.scheduler.fail(state, error)

    def _compiler(self) -> GrammarCompiler:
        compiler = self.grammars  # read once: another thread may close the engine
        if compiler is None:
            raise EngineDeadError(f"the engine is dead: {self.death}")
        return compiler

    def _check_alive(self) -> None:
        if self.death is not None:
            raise EngineDeadError(f"the engine is dead: {self.death}")

    def _recover(self, error: DecodeError) -> bool:
        """Whether the step can be repeated: if no cells were free, room is made. Any other error ends the engine."""
        if error.status_code == 1:
            self.scheduler.relieve()
            return True
        self.death = str(error)
        for request_id in list(self.scheduler.requests):
            self.scheduler.abort(request_id, FinishReason.ERROR, error)
        return False
