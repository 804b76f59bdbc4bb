"""Random histories on every kind of memory: the outputs are a cold run's, and everything adds up after each step."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from llamafast.engine.engine import EngineConfig
from tests.engine.fakes import Collector, alone, make_engine, make_request

# Prompts are made of these, so that they share beginnings and part at boundaries and inside of them.
PARTS = ["s" * 40, "s" * 33 + "t" * 9, "ab", "question " * 4, "a longer turn of the conversation; ", "x"]
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            st.lists(st.integers(0, len(PARTS) - 1), min_size=1, max_size=4),
            st.sampled_from([1, 1, 1, 2]),  # n
            st.integers(0, 12),  # max_tokens
            st.sampled_from(["", "", "", "tenant", None]),
            st.booleans(),  # boundaries
        ),
        st.tuples(st.just("extend"), st.integers(0, 20), st.integers(0, len(PARTS) - 1)),
        st.tuples(st.just("step"), st.integers(1, 12)),
        st.tuples(st.just("abort"), st.integers(0, 20)),
        st.tuples(st.just("evict"), st.integers(0, 60)),
        st.tuples(st.just("fail"), st.sampled_from([1, 2])),
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
    """An engine, and for each request what a cold run would give."""

    def __init__(self, kind: str, kv_unified: bool, n_ctx: int, max_checkpoint_bytes: int, **settings) -> None:
        n_ctx = n_ctx if kv_unified else 6 * n_ctx
        config = EngineConfig(n_seq_max=4, max_checkpoint_bytes=max_checkpoint_bytes, checkpoint_every=48, **settings)
        context = {"n_ctx": n_ctx, "kind": kind, "kv_unified": kv_unified, "n_batch": 24, "n_seq_max": 6}
        self.engine = make_engine(config=config, **context)
        self.collector = Collector()
        self.expected: dict[str, list[str]] = {}
        self.prompts: list[str] = []
        self.aborted: set[str] = set()

    def add(self, texts: list[str], n: int, max_tokens: int, salt: str | None, has_boundaries: bool) -> None:
        prompt = "".join(texts)
        if len(prompt) + 1 >= self.engine.max_seq_len:
            return
        request_id = str(len(self.expected))
        places = tuple(len("".join(texts[:i])) for i in range(1, len(texts))) if has_boundaries else ()
        request = make_request(request_id, prompt, n=n, max_tokens=max_tokens)
        request = replace(request, boundaries=places, cache_salt=salt or "", use_cache=salt is not None)
        self.engine.validate(request)
        self.engine.add(request)
        self.prompts.append(prompt)
        num_kept = None
        if self.engine.config.context_shift:
            num_kept = min(places[0] if places else 0, self.engine.max_seq_len // 2)
        limits = (max_tokens, self.engine.max_seq_len, num_kept)
        self.expected[request_id] = [alone(prompt, seed, *limits) for seed in range(n)]

    def extend(self, number: int, text: str) -> None:
        """The next turn: a finished request's prompt and answer, and more."""
        if str(number) in self.collector.usage:
            turns = [self.prompts[number], self.collector.text[str(number), 0], text]
            self.add([turn for turn in turns if turn], 1, 5, "", True)

    def step(self) -> None:
        self.collector.add(self.engine.step())
        self.check()

    def check(self) -> None:
        self.engine.check_integrity()
        context, cache = self.engine.context, self.engine.cache
        assert context.memory_kind == "recurrent" or cache.num_cells == len(context.cells)
        for slot in cache._slots.values():
            assert slot.num_listed <= context.moved.get(slot.seq_id, slot.length), "moved cells can be found"

    def finish(self) -> None:
        self.collector.run(self.engine)
        for request_id, texts in self.expected.items():
            for i, text in enumerate(texts):
                ours = self.collector.text[request_id, i]
                assert text.startswith(ours) if request_id in self.aborted else ours == text
        assert self.engine.cache.num_live_cells() == 0


@patch.multiple("llamafast.cache.prefix_cache", _MIN_FREED=4, _MIN_LEFT=4)
@settings(max_examples=150, deadline=None)
@given(OPERATIONS, MEMORIES, st.sampled_from([150, 250, 600]), st.sampled_from([0, 1500, 1 << 20]))
def test_cache_random_history_gives_what_a_cold_run_gives(operations, memory, n_ctx, max_checkpoint_bytes):
    history = History(*memory, n_ctx, max_checkpoint_bytes)
    assert replay(history, operations) == set(history.expected)


@settings(max_examples=100, deadline=None)
@given(OPERATIONS, st.booleans(), st.sampled_from([150, 250, 600]), st.sampled_from([24, 60, 100]))
def test_cache_random_history_with_context_shift_gives_what_each_gives_alone(operations, kv_unified, n_ctx, max_len):
    long = [
        (*operation[:3], 5 * operation[3], *operation[4:]) if len(operation) == 6 else operation
        for operation in operations
    ]
    history = History("attention", kv_unified, n_ctx, 0, context_shift=True, max_seq_len=max_len)
    assert replay(history, long) == set(history.expected)


def replay(history: History, operations) -> set[str]:
    """The requests that came to an end, each with what it gives alone."""
    engine = history.engine
    for name, *values in operations:
        if name == "add":
            parts, *rest = values
            history.add([PARTS[i] for i in parts], *rest)
        elif name == "extend":
            history.extend(values[0], PARTS[values[1]])
        elif name == "abort":
            engine.abort(str(values[0]))
            history.aborted.add(str(values[0]))
        elif name == "evict":
            cache = engine.cache
            _ = cache.make_room(cache.n_cells - cache.num_cells + values[0]) if values[0] else cache.evict()
        elif name == "fail" and engine.scheduler.num_active > 1:  # a sole sequence without room would end
            engine.runner.failures = values
            history.step()
        for _ in range(values[0] if name == "step" else 0):
            history.step()
        history.check()
    history.finish()
    return set(history.collector.usage)
