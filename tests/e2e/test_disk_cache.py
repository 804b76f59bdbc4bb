"""A conversation goes on after the server was restarted or killed."""

from __future__ import annotations

import signal

import pytest

from .conftest import Server, post

PROMPT = [20 + (7 * i + i * i // 5) % 200 for i in range(300)]


def complete(server, num_tokens):
    """The answer to the first tokens of the prompt, and how many of them came from a cache."""
    answer = post(server, "completions", prompt=PROMPT[:num_tokens], max_tokens=1, temperature=0).json()
    return answer["choices"][0]["text"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_next_turn_after_a_restart_computes_what_is_new(server, tmp_path, number):
    arguments = ("--disk-cache", str(tmp_path), "--disk-cache-max-bytes", "100000000", "--threads", "1")
    with Server(*arguments) as first:
        assert complete(first, 250)[1] == 0
        if number == signal.SIGKILL:  # SIGTERM writes all, this nothing more
            first.wait_for_metric("llamafast:disk_cache_writes_total", lambda writes: writes == 1)
        first.process.send_signal(number)
        assert first.process.wait(30) in (0, -signal.SIGKILL)
    with Server(*arguments) as second:
        text, cached_tokens = complete(second, 300)
        assert second.metric("llamafast:disk_cache_hits_total") == 1
    assert (text, cached_tokens) == (complete(server, 300)[0], 249)  # the last token is computed anew
