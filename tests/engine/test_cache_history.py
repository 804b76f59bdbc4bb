"""Random histories on every kind of memory: outputs equal those of a cold run, and each step keeps the integrity."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from llamafast.engine import packing
from llamafast.engine.engine import EngineConfig
from llamafast.engine.seeds import choice_seed
from llamafast.grammars.structured import StructuredKind, StructuredOutput
from llamafast.request import PromptPlaces, ReasoningBudget
from tests.engine.fakes import Collector, alone, encode, make_engine, make_request

# Parts of prompts, so that prompts share prefixes and differ at the ends of parts and inside them.
PARTS = ["s" * 40, "s" * 33 + "t" * 9, "ab", "question " * 4, "a longer turn of the conversation; ", "x"]
# Constraints with many forced tokens.
LIMITS = [
    {},
    {"structured": StructuredOutput(StructuredKind.GBNF, 'root ::= "ABCDEFGH" [a-m]{2} ("KLMNOPQRST" [a-z])+')},
    {"reasoning_budget": ReasoningBudget(3, True, "</t>", tuple(encode("Enough.</t>!")), "")},
]
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            st.lists(st.integers(0, len(PARTS) - 1), min_size=1, max_size=4),
            st.sampled_from([1, 1, 1, 2]),  # n
            st.integers(0, 12),  # max_tokens
            st.sampled_from(["", "", "", "tenant", None]),
            st.booleans(),  # places
            st.sampled_from([0, 0, 0, 1, 2]),  # limits
            st.sampled_from([0, 0, 1]),  # priority
        ),
        st.tuples(st.just("extend"), st.integers(0, 20), st.integers(0, len(PARTS) - 1)),
        st.tuples(st.just("step"), st.integers(1, 12)),
        st.tuples(st.just("abort"), st.integers(0, 20)),
        st.tuples(st.just("finish"), st.integers(0, 20), st.integers(0, 1)),
        st.tuples(st.just("evict"), st.integers(0, 60)),
        st.tuples(st.just("fail"), st.just(1)),
    ),
    min_size=5,
    max_size=30,
)
MEMORIES = st.sampled_from(
    [
        *((kind, True) for kind in ("attention", "hybrid", "recurrent", "swa")),
        *((kind, False) for kind in ("attention", "hybrid", "swa")),
    ]
)


class History:
    """An engine, and the outputs of a cold run for each request."""

    def __init__(self, kind: str, kv_unified: bool, n_ctx: int, max_checkpoint_bytes: int, **settings) -> None:
        n_ctx = n_ctx if kv_unified else 6 * n_ctx
        self.config = EngineConfig(
            n_seq_max=4, max_checkpoint_bytes=max_checkpoint_bytes, checkpoint_every=48, **settings
        )
        context = {"n_ctx": n_ctx, "kind": kind, "kv_unified": kv_unified, "n_batch": 24, "n_seq_max": 6}
        self.engine = make_engine(config=self.config, **context)
        self.collector = Collector()
        self.expected: dict[str, list[str]] = {}
        self.prompts: list[str] = []
        self.ended: set[tuple[str, int]] = set()  # choices that were ended from outside

    def add(
        self,
        texts: list[str],
        n: int,
        max_tokens: int,
        salt: str | None,
        has_places: bool,
        limit: int = 0,
        priority: int = 0,
    ) -> None:
        prompt = "".join(texts)
        if len(prompt) + 1 >= self.engine.max_seq_len:
            return
        request_id = str(len(self.expected))
        places = tuple(len("".join(texts[:i])) for i in range(1, len(texts))) if has_places else ()
        params = {"n": n, "max_tokens": max_tokens, **LIMITS[limit]}
        request = make_request(request_id, prompt, priority, **params)
        if limit == 1:
            request = replace(request, grammar=self.engine.compile_grammar(request.params.structured))
        request = replace(request, places=PromptPlaces.of(places), cache_salt=salt or "", use_cache=salt is not None)
        self.engine.validate(request)
        self.engine.add(request)
        self.prompts.append(prompt)
        if limit:
            cold = replace(self.config, n_seq_max=n, enable_prefix_cache=False, max_seq_len=self.engine.max_seq_len)
            cold_engine = make_engine(config=cold, n_ctx=2000, n_seq_max=n)
            with patch.object(packing, "_MAX_FORCED", 0):  # token by token
                texts = Collector().run(cold_engine, replace(request, priority=0)).text
            self.expected[request_id] = [texts[request_id, i] for i in range(n)]
            return
        num_kept = None
        if self.engine.config.context_shift:
            num_kept = min(places[0] if places else 0, self.engine.max_seq_len // 2)
        limits = (max_tokens, self.engine.max_seq_len, num_kept)
        self.expected[request_id] = [alone(prompt, choice_seed(0, i), *limits) for i in range(n)]

    def extend(self, number: int, text: str) -> None:
        """The next turn: prompt and answer of a finished request, and new text."""
        if str(number) in self.collector.usage:
            turns = [self.prompts[number], self.collector.text[str(number), 0], text]
            self.add([turn for turn in turns if turn], 1, 5, "", True)

    def end(self, request_id: str, index: int) -> None:
        """End a choice, as after a stop string that was found outside the engine."""
        self.engine.finish(request_id, index)
        self.ended.add((request_id, index))

    def abort(self, request_id: str) -> None:
        self.engine.abort(request_id)
        self.ended |= {(request_id, 0), (request_id, 1)}

    def step(self) -> None:
        self.collector.add(self.engine.step())
        self.check()

    def check(self) -> None:
        self.engine.check_integrity()
        context, cache = self.engine.context, self.engine.cache
        assert context.memory_kind == "recurrent" or cache.num_cells == len(context.cells)
        for slot in cache.slots():
            assert slot.length <= self.engine.max_seq_len, "a sequence is longer than its context"
            assert slot.num_listed <= context.moved.get(slot.seq_id, slot.length), "moved cells can be found"

    def finish(self) -> None:
        self.collector.run(self.engine)
        for request_id, texts in self.expected.items():
            for i, text in enumerate(texts):
                ours = self.collector.text[request_id, i]
                assert text.startswith(ours) if (request_id, i) in self.ended else ours == text
        assert self.engine.cache.num_live_cells() == 0


@patch.multiple("llamafast.cache.eviction", _MIN_FREED=4, _MIN_LEFT=4)
@settings(max_examples=150, deadline=None)
@given(OPERATIONS, MEMORIES, st.sampled_from([150, 250, 600]), st.sampled_from([0, 1500, 1 << 20]))
def test_cache_random_history_gives_what_a_cold_run_gives(operations, memory, n_ctx, max_checkpoint_bytes):
    history = History(*memory, n_ctx, max_checkpoint_bytes)
    assert replay(history, operations) == set(history.expected)


@settings(max_examples=100, deadline=None)
@given(OPERATIONS, st.booleans(), st.sampled_from([150, 250, 600]), st.sampled_from([24, 60, 100]))
def test_cache_random_history_with_context_shift_gives_what_each_gives_alone(operations, kv_unified, n_ctx, max_len):
    long = [
        (*operation[:3], 5 * operation[3], *operation[4:]) if operation[0] == "add" else operation
        for operation in operations
    ]
    history = History("attention", kv_unified, n_ctx, 0, context_shift=True, max_seq_len=max_len)
    assert replay(history, long) == set(history.expected)


def replay(history: History, operations) -> set[str]:
    """The finished requests, each with its output in an engine of its own."""
    engine = history.engine
    for name, *values in operations:
        if name == "add":
            parts, *rest = values
            history.add([PARTS[i] for i in parts], *rest)
        elif name == "extend":
            history.extend(values[0], PARTS[values[1]])
        elif name == "abort":
            history.abort(str(values[0]))
        elif name == "finish":
            history.end(str(values[0]), values[1])
        elif name == "evict":
            cache = engine.cache
            _ = cache.make_room(cache.n_cells - cache.num_cells + values[0]) if values[0] else cache.evict()
        elif name == "fail" and engine.scheduler.num_active > 1:  # a single sequence without room would end
            engine.runner.failures = values
            history.step()
        for _ in range(values[0] if name == "step" else 0):
            history.step()
        history.check()
    history.finish()
    return set(history.collector.usage)
