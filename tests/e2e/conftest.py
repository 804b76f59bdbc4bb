"""A real server process with the built-in model, and real clients."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import openai
import psutil
import pytest

import llamafast

# It needs an extra that the other tests do not need (make test-schema).
collect_ignore = [] if importlib.util.find_spec("schemathesis") else ["test_openapi_fuzz.py"]

MODELS = Path(llamafast.__file__).parent / "models"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """`llamafast serve` as a child process on a free port.

    patch: Python code that runs in it first. options: arguments of Popen that override those here.
    """

    def __init__(self, *arguments, environment=None, patch=None, **options):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        program = (
            ("-m", "llamafast") if patch is None else ("-c", f"{patch}\nfrom llamafast.launch.cli import main\nmain()")
        )
        command = [sys.executable, *program, "serve", *arguments, "--port", str(self.port)]
        # Run the package under test, not the source folder that `-m` finds first on Python 3.10.
        path = str(MODELS.parents[1])
        environment = {**os.environ, "PYTHONPATH": path, **(environment or {})}
        options = {"stdout": self.log, "stderr": subprocess.STDOUT, **options}
        self.process = subprocess.Popen(command, cwd=tempfile.gettempdir(), env=environment, **options)
        self.wait_until_ready()

    def wait_until_ready(self, seconds=60):
        pause = threading.Event()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}: {self.output()}")
            try:
                if httpx.get(f"{self.url}/ready", timeout=2).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            pause.wait(0.05)
        raise RuntimeError(f"the server is not ready after {seconds} s: {self.output()}")

    def output(self):
        self.log.seek(0)
        return self.log.read()

    def client(self, **options):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60, **options)

    def async_client(self):
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120)

    def model_name(self):
        return httpx.get(f"{self.url}/v1/models").json()["data"][0]["id"]

    def metric(self, name):
        """Sum of one metric's samples."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        values = [float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name]
        assert values, f"no metric {name}"
        return sum(values)

    def wait_for_metric(self, name, wanted, seconds=20):
        """Wait until wanted(value) is true for the metric. Returns its last value."""
        pause = threading.Event()
        deadline = time.monotonic() + seconds
        while not wanted(value := self.metric(name)) and time.monotonic() < deadline:
            pause.wait(0.02)
        return value

    def resident_bytes(self):
        return psutil.Process(self.process.pid).memory_info().rss

    def stop(self, seconds=30):
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()


def post(server, path, **body):
    return httpx.post(f"{server.url}/v1/{path}", json=body, timeout=60)


def refused(answer, param, code=None):
    error = answer.json()["error"]
    assert answer.status_code == 400, answer.text
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param, answer.text
    assert error["code"] == code or code is None
    return True


@pytest.fixture(scope="session")
def server():
    with Server("--threads", "1") as running:
        yield running
        assert running.stop() == 0


@pytest.fixture(scope="session")
def client(server):
    with server.client() as client:
        yield client


@pytest.fixture(scope="session")
def model_name(server):
    return server.model_name()


@pytest.fixture(scope="session")
def transcripts():
    """The recorded greedy requests with text input."""
    recorded = json.loads((MODELS / "transcripts.json").read_text())
    return [item for item in recorded if "image" not in item]


@pytest.fixture
def next_request_is_answered(client, model_name):
    """The server must still answer after the test."""
    yield
    answer = client.chat.completions.create(
        model=model_name, messages=[{"role": "user", "content": "What is the capital of France?"}], temperature=0
    )
    assert "Paris" in answer.choices[0].message.content
