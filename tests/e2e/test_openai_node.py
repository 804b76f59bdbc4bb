"""The server through openai-node (`make test-node` installs it)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import MODELS

pytestmark = pytest.mark.node
SCRIPTS = Path(__file__).parent / "node"


def run(script, *arguments):
    command = ["node", str(SCRIPTS / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def said(server):
    return run("main_job.mjs", server.url)


def test_node_chat_stream_equals_whole_answer(said):
    choice = said["whole"]["choices"][0]
    assert "Paris" in choice["message"]["content"]
    assert said["streamed"]["content"] == choice["message"]["content"]
    assert said["streamed"]["finish_reason"] == choice["finish_reason"] == "stop"
    assert said["streamed"]["usage"] == said["whole"]["usage"]
    assert said["streamed"]["tokens"] == len(choice["logprobs"]["content"])


def test_node_stream_helper_builds_the_same_message(said):
    whole, final = (said[name]["choices"][0]["message"]["content"] for name in ("whole", "final"))
    assert final == whole


def test_node_completions_indices_are_right(said):
    choices = said["completion"]["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    assert {choice["text"] for choice in choices} == set(said["texts"]) == {"Hello! How can I help you today?"}


def test_node_error_names_the_field(said):
    assert said["error"] == {
        "name": "BadRequestError", "status": 400, "param": "temperature", "type": "invalid_request_error",
    }  # fmt: skip


def test_node_stream_left_early_frees_its_sequence(server, said):
    assert said["model"]
    assert server.wait_for_metric("vllm:num_requests_running", lambda value: value == 0) == 0


def test_node_tools_and_reasoning_streamed_equal_whole_and_the_runner_answers(server):
    said = run("tools.mjs", server.url, MODELS / "transcripts.json")
    assert len(said["pairs"]) == 24
    for pair in said["pairs"]:
        whole, streamed = (plain(pair[name]) for name in ("whole", "streamed"))
        assert streamed == whole
        assert pair["reasoning"] == pair["whole"]["message"].get("reasoning_content", "")
    assert said["asked"] == ["Paris"]
    assert said["said"]


def plain(choice):
    """The parts that must be equal, streamed and whole: everything except the calls' ids."""
    message = choice["message"]
    calls = [(c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls") or []]
    return message["content"], calls, choice["finish_reason"]


def test_node_response_streams_come_in_its_order(server):
    said = run("responses.mjs", server.url)
    assert [(response["status"], [item["type"] for item in response["output"]]) for response in said["streamed"]] == [
        ("completed", ["reasoning", "message"]),
        ("incomplete", ["reasoning"]),
        ("completed", ["reasoning", "function_call", "function_call"]),
        ("completed", ["reasoning", "function_call", "function_call"]),
    ]
    assert said["numbers"] == list(range(4, 4 + len(said["numbers"])))
    assert "Paris" in said["resumed"]["output_text"]
