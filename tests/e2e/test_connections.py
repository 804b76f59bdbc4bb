"""Clients that close their side, signals that are ignored, full pipes, and too few file descriptors."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket

import httpx
import pytest

from .conftest import Server

ENDLESS = {"prompt": "Tell me a story.", "max_tokens": 30000, "ignore_eos": True}
RUNNING = "vllm:num_requests_running"


def raw_request(body, version="1.1"):
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/{version}\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


def half_closed(server, request):
    """The whole answer to a client that closes its sending side after its request."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while data := connection.recv(65536):
            received += data
    return received


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("stream", [False, True])
def test_half_closed_client_gets_its_answer(server, stream, version):
    answer = half_closed(server, raw_request({"prompt": "Hi", "max_tokens": 40, "stream": stream}, version))
    assert b"200 OK" in answer
    assert (b"data: [DONE]" if stream else b'"usage"') in answer


def test_half_closed_client_gets_all_its_pipelined_answers(server):
    request = raw_request({"prompt": "Hi", "max_tokens": 3})
    assert half_closed(server, request * 3).count(b"200 OK") == 3


def test_half_closed_client_with_half_a_request_is_dropped(server):
    assert half_closed(server, raw_request({"prompt": "Hi"})[:-3]) == b""


@pytest.mark.parametrize("stream", [False, True])
def test_half_closed_client_that_leaves_is_noticed(server, stream):
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(raw_request({**ENDLESS, "stream": stream}))
        connection.shutdown(socket.SHUT_WR)
        assert server.wait_for_metric(RUNNING, lambda value: value == 1) == 1
    assert server.wait_for_metric(RUNNING, lambda value: value == 0) == 0


def test_signals_that_end_processes_end_no_stream(server):
    body = {**ENDLESS, "max_tokens": 300, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=30) as answer:
        lines = answer.iter_lines()
        next(lines)
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
            server.process.send_signal(number)
        assert list(lines)[-2:] == ["data: [DONE]", ""]
    assert "SIGHUP is ignored" in server.output()


def test_unread_logs_and_no_descriptors_left_block_no_request():
    reader, writer = os.pipe()
    few = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))}
    with Server("--threads", "1", "--access-log", stdout=writer, stderr=writer, **few) as server:
        with httpx.Client() as client:
            for _ in range(250):  # a pipe holds 64 KiB
                client.get(f"{server.url}/health", params={"x": "x" * 400}, timeout=10)
        held = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
        for connection in held:
            connection.close()
        answer = httpx.post(f"{server.url}/v1/completions", json={"prompt": "Hi", "max_tokens": 3}, timeout=30)
        assert answer.status_code == 200
        assert server.stop() == 0
    os.close(reader)
    os.close(writer)
