"""The process that tries grammars out: its answers, and the fate of endless jobs."""

from __future__ import annotations

import json
import os
import signal
import threading

import pytest

from llamafast.errors import CompilerBusyError, GrammarError
from llamafast.grammars import worker
from llamafast.grammars.worker import Job, try_out
from llamafast.grammars.worker_pool import Worker, WorkerPool

# The product of these exceeds any memory. Clients cannot send it, as schemas are checked before.
ENDLESS = "start: A\nA: " + " & ".join(f"/.*a.{{{i}}}/" for i in range(30))


def lark(rules: str, **parts: object) -> str:
    empty = {name: {} for name in ("texts", "free_texts", "delimited_texts", "schemas", "regexes")}
    return json.dumps({"rules": rules, **empty, "checked": [], "dropped": [], **parts})


def job(kind: str, text: str, *, max_cpu_s: float = 5.0, **controls: int) -> Job:
    return Job(kind, text, False, controls, max_cpu_s)


@pytest.fixture(scope="module")
def pool():
    pool = WorkerPool()
    yield pool
    pool.close()


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("json_schema", '{"type": "integer"}'),
        ("regex", "a+"),
        ("choice", '["yes", "no", ""]'),
        ("lark", lark('start: A x\nA: "a"', texts={"x": ["<tag>"]})),
    ],
)
def test_worker_prepares_each_kind_as_the_process_itself_would(pool, kind, text) -> None:
    given = job(kind, text, **{"<tag>": 248_000})
    assert pool.run(given).grammar == try_out(given).grammar


def test_worker_refuses_by_the_clients_field(pool) -> None:
    text = lark("start: A b\nA: /a/", regexes={"b": ["a(", "tools[0]"]})
    with pytest.raises(GrammarError) as caught:
        pool.run(job("lark", text))
    assert caught.value.param == "tools[0]"


def test_worker_counts_the_memory_of_a_program(pool) -> None:
    small = pool.run(job("regex", "a"))
    large = pool.run(job("json_schema", json.dumps({"enum": [f"value {i}" for i in range(2000)]})))
    assert small.num_bytes < 300_000 < large.num_bytes


def test_program_beyond_its_memory_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(worker, "MAX_PROGRAM_BYTES", 100)
    with pytest.raises(GrammarError, match="takes"):
        try_out(job("regex", "a+"))


def test_job_without_an_end_is_given_up_and_the_next_one_runs(pool) -> None:
    with pytest.raises(GrammarError, match="CPU time"):
        pool.run(job("lark", lark(ENDLESS), max_cpu_s=0.2))
    assert pool.run(job("regex", "a+")).grammar


def test_worker_that_somebody_ends_says_not_now() -> None:
    running = Worker()
    running.run(job("regex", "a"))
    threading.Timer(0.2, os.kill, (running._process.pid, signal.SIGKILL)).start()
    with pytest.raises(CompilerBusyError):
        running.run(job("lark", lark(ENDLESS), max_cpu_s=60))


def test_worker_holds_no_libllama() -> None:
    running = Worker()
    running.run(job("regex", "a"))
    with open(f"/proc/{running._process.pid}/maps") as maps:
        text = maps.read()
    running.kill()
    assert "llguidance" in text and "libllama" not in text


def test_pool_replaces_a_worker_that_died_while_it_was_free() -> None:
    pool = WorkerPool()
    pool.run(job("regex", "a"))
    os.kill(pool._idle[0]._process.pid, signal.SIGKILL)
    pool._idle[0]._process.wait()
    assert pool.run(job("regex", "a")).grammar
    pool.close()
