"""An engine dies: all clients get an error, and the process ends so that it can be restarted."""

from __future__ import annotations

import signal

import httpx
import pytest

from tests.e2e.conftest import Server, post

# The second step of the engine fails like a bug in a Rust library.
DYING = """
from llamafast.engine.engine import Engine
class Panic(BaseException): pass
step, steps = Engine.step, []
def dying(self):
    steps.append(1)
    if len(steps) > 2: raise Panic("thread panicked")
    return step(self)
Engine.step = dying
"""
BODY = {"prompt": "Count:", "max_tokens": 50, "ignore_eos": True}


def test_death_is_told_and_ends_the_process():
    with Server("--threads", "1", patch=DYING) as server:
        with httpx.stream("POST", f"{server.url}/v1/completions", json={**BODY, "stream": True}, timeout=30) as stream:
            events = [line for line in stream.iter_lines() if line]
        assert '"code":"engine_dead"' in events[-1]
        assert server.process.wait(20) == 1
        assert server.output().splitlines()[-1] == "llamafast: the engine died: Panic: thread panicked"


def test_death_with_keep_dead_leaves_a_process_that_says_so():
    with Server("--threads", "1", "--keep-dead", patch=DYING) as server:
        assert post(server, "completions", **BODY).status_code == 503
        assert post(server, "completions", **BODY).json()["error"]["code"] == "engine_dead"
        assert httpx.get(f"{server.url}/health").status_code == 503
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 1


@pytest.mark.parametrize("value", [1e-46, 5e-324, 1e-300])
def test_penalty_that_is_no_float_is_refused(server, next_request_is_answered, value):
    answer = post(server, "completions", prompt="Hi", max_tokens=1, repetition_penalty=value)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "repetition_penalty"
