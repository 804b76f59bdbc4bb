"""The command line: precedence, one-line errors, the greeting, and how the process ends."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import llamafast.launch.serve
from llamafast.errors import ConfigError
from llamafast.launch import cli
from llamafast.launch.config import Config, DiskCacheConfig
from llamafast.launch.load import load_served_model
from llamafast.launch.model_file import BUILT_IN_MODEL
from llamafast.launch.options import OPTIONS
from llamafast.server.served_model import Capability
from tests.tiny_models import write_encoder_model

# The child processes run the installed llamafast under test, not the source code in the current folder.
ELSEWHERE = tempfile.gettempdir()
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(llamafast.__file__).parents[1])}
ENDLESS = {"prompt": "Tell me a story.", "max_tokens": 30000, "ignore_eos": True, "stream": True}


def llamafast_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "llamafast", *arguments]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        llamafast_command(*arguments),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=ELSEWHERE,
        env={**ENVIRONMENT, **environment},
    )


class Served:
    """`llamafast serve` as a child process, up to the printed curl line."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            llamafast_command("serve", "--port", "0", *arguments),
            stdout=subprocess.PIPE,
            text=True,
            cwd=ELSEWHERE,
            env=ENVIRONMENT,
        )
        assert self.process.stdout is not None
        self.lines: list[str] = []
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if line.startswith("curl "):
                break
        self.curl = shlex.split(self.lines[-1])
        self.url = self.curl[1].partition("/v1/")[0]

    def end(self) -> int:
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Config]]:
    """The configuration that would be served."""
    configs: list[Config] = []
    monkeypatch.setattr(llamafast.launch.serve, "serve", configs.append)
    for name in [name for name in os.environ if name.startswith("LLAMAFAST_")]:
        monkeypatch.delenv(name)
    yield configs


def serve(*arguments: str) -> None:
    cli.app(["serve", *arguments], standalone_mode=False)


def test_serve_no_arguments_is_built_in_on_port_8000(asked: list[Config]) -> None:
    serve()
    assert (asked[0].model.path, asked[0].model.alias) == ("built-in", "tiny-qwen35")
    assert (asked[0].server.host, asked[0].server.port) == ("127.0.0.1", 8000)


def test_serve_model_option_needs_no_config(asked: list[Config]) -> None:
    serve("--model", "my.gguf", "--strict-fields", "--no-prefix-cache", "--type-k", "q8_0")
    assert (asked[0].model.path, asked[0].model.alias) == ("my.gguf", None)
    assert (asked[0].server.strict_fields, asked[0].model.prefix_cache, asked[0].model.type_k) == (True, False, 8)


def test_serve_option_over_environment_over_file(
    asked: list[Config], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps({"server": {"port": 1, "host": "::1"}, "model": {"path": "m", "n_ctx": 1, "n_batch": 1}})
    )
    monkeypatch.setenv("LLAMAFAST_PORT", "2")
    monkeypatch.setenv("LLAMAFAST_N_CTX", "2")
    serve(str(path), "--port", "3")
    server, model = asked[0].server, asked[0].model
    assert (server.port, server.host, model.n_ctx, model.n_batch, model.path) == (3, "::1", 2, 1, "m")


def test_serve_every_option_reaches_a_field(asked: list[Config]) -> None:
    config = Config.model_validate({"model": {"path": "m", "mtmd": {}}, "disk_cache": {"path": "p"}})
    sections = {
        "server": config.server,
        "model": config.model,
        "mtmd": config.model.mtmd,
        "disk_cache": config.disk_cache,
    }
    assert cli.serve.__annotations__.keys() - {"context", "config", "return"} == OPTIONS.keys()
    assert [field for section, field in OPTIONS.values() if not hasattr(sections[section], field)] == []


def test_serve_disk_cache_options_make_the_section(asked: list[Config]) -> None:
    serve("--disk-cache", "here", "--disk-cache-max-bytes", "1000")
    assert asked[0].disk_cache == DiskCacheConfig(path="here", max_bytes=1000, min_tokens=128)


def test_serve_options_of_images_change_the_section_in_the_file(asked: list[Config], tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    hub = {"repo_id": "o/r", "filename": "f"}
    media: dict[str, object] = {"mmproj_from_pretrained": hub, "image_max_bytes": 7, "image_max_tokens": 5}
    path.write_text(json.dumps({"model": {"path": "m", "mtmd": media}}))
    serve(str(path), "--mmproj", "p.gguf", "--image-max-tokens", "9", "--allowed-media-domains", "a.com,*.b.com")
    found = asked[0].model.mtmd
    assert found is not None
    assert (found.mmproj_path, found.mmproj_from_pretrained, found.image_max_bytes) == ("p.gguf", None, 7)
    assert (found.image_max_tokens, found.allowed_media_domains) == (9, ("a.com", "*.b.com"))


def test_serve_aliases_option_is_split_at_commas(asked: list[Config], monkeypatch: pytest.MonkeyPatch) -> None:
    serve("--aliases", "a, gpt-*")
    monkeypatch.setenv("LLAMAFAST_ALIASES", "b")
    serve()
    assert [config.model.aliases for config in asked] == [("a", "gpt-*"), ("b",)]


def test_version_option_prints_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"llamafast {llamafast.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.json"], 2, "none.json: No such file or directory"),
        (["--model", "none.gguf"], 2, "model.path: none.gguf: the file does not exist"),
        (["--model", str(Path(__file__))], 1, "test_cli.py"),
        (["--disk-cache", __file__], 2, "disk_cache.path: " + __file__),
        (["--disk-cache-max-bytes", "5"], 2, "disk_cache.path: missing"),
        (["--aliases", "a,,b"], 2, "model.aliases.1: String should have at least 1 character"),
        (["--n-batch", "0"], 2, "model.n_batch: should be greater than or equal to 1"),
        ([tempfile.gettempdir()], 2, "Is a directory"),
        ([sys.executable], 2, "not UTF-8 text"),
        (["--n-ctx", "500000000"], 2, "would fit"),
    ],
)
def test_serve_wrong_start_is_one_line(
    arguments: list[str], code: int, message: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["llamafast", "serve", "--port", "0", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("llamafast: ")]
    assert (end.value.code, len(lines)) == (code, 1)
    assert message in lines[0]


def test_serve_address_of_a_kubernetes_service_is_ignored_with_a_warning(
    asked: list[Config], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in {
        "LLAMAFAST_PORT": "tcp://10.0.0.1:8000",
        "LLAMAFAST_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "LLAMAFAST_PORT_8000_TCP_ADDR": "10.0.0.1",
        "LLAMAFAST_SERVICE_HOST": "10.0.0.1",
        "LLAMAFAST_SERVICE_PORT": "8000",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["llamafast", "serve"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert (end.value.code, asked[0].server.port) == (0, 8000)
    assert capfd.readouterr().err == (
        "llamafast: LLAMAFAST_PORT=tcp://10.0.0.1:8000 is ignored: it is the address of a Kubernetes service, not a "
        "port\n"
    )


def test_serve_malformed_environment_is_a_wrong_configuration(
    asked: list[Config], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLAMAFAST_N_CTX", "abc")
    monkeypatch.setattr(sys, "argv", ["llamafast", "serve"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert (end.value.code, asked) == (2, [])
    assert "LLAMAFAST_N_CTX" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (MemoryError(), 1, "not enough memory"),
        (PermissionError(13, "Permission denied", "model.gguf"), 1, "model.gguf: Permission denied"),
        (RuntimeError("can't start new thread"), 1, "RuntimeError: can't start new thread"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_main_unexpected_error_shows_no_traceback(
    error: BaseException,
    code: int,
    line: str,
    asked: list[Config],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(config: Config) -> None:
        raise error

    monkeypatch.setattr(llamafast.launch.serve, "serve", fail)
    monkeypatch.setattr(sys, "argv", ["llamafast", "serve"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert (end.value.code, capfd.readouterr().err) == (code, f"llamafast: {line}\n" if line else "")


def test_version_option_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            llamafast_command("--version"), stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=ENVIRONMENT
        )
    assert (done.returncode, done.stderr) == (1, "llamafast: No space left on device\n")


def test_serve_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", "--port", str(port))
    expected = f"llamafast: cannot listen on 127.0.0.1:{port}: Address already in use; "
    assert done.returncode == 2
    assert done.stderr.startswith(expected)
    assert len(done.stderr.splitlines()) == 1


def test_serve_greeting_says_what_runs_and_its_curl_line_works() -> None:
    served = Served("--threads", "1")
    try:
        text = "\n".join(served.lines)
        assert str(BUILT_IN_MODEL) in text
        assert "32768 tokens for 32 sequences, hybrid memory" in text
        assert "threads  1 (as configured)" in text
        body = json.loads(served.curl[served.curl.index("-d") + 1])
        answer = httpx.post(served.curl[1], json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        served.process.send_signal(signal.SIGTERM)
    finally:
        code = served.end()
    assert code == 0


def test_serve_lora_in_config_changes_the_answer(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    lora = {"path": str(BUILT_IN_MODEL.with_name("tiny-qwen35-lora-f16.gguf"))}
    path.write_text(json.dumps({"model": {"path": "built-in", "alias": "pirate", "loras": [lora]}}))
    served = Served(str(path), "--threads", "1")
    try:
        messages = [{"role": "user", "content": "Hello!"}]
        body = {"messages": messages, "temperature": 0, "chat_template_kwargs": {"enable_thinking": False}}
        answer = httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=30).json()
        served.process.send_signal(signal.SIGINT)
    finally:
        code = served.end()
    assert answer["choices"][0]["message"]["content"].endswith("Ahoy!")
    assert (answer["model"], code) == ("pirate", 0)


@pytest.mark.parametrize(
    ("deadline_s", "signals", "code"),
    [
        ("0.2", 1, 0),  # the running request is aborted at the deadline
        ("60", 2, 1),  # the second signal does not wait
    ],
)
def test_serve_sigterm_endless_request_ends(deadline_s: str, signals: int, code: int) -> None:
    served = Served("--threads", "1", "--shutdown-deadline-s", deadline_s)
    try:
        with httpx.stream("POST", f"{served.url}/v1/completions", json=ENDLESS, timeout=30) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("data: ")
            for _ in range(signals):
                served.process.send_signal(signal.SIGTERM)
                assert served.process.stdout is not None
                assert served.process.stdout.readline()
            assert served.process.wait(20) == code
    finally:
        served.end()


def test_load_encoder_is_a_model_of_embeddings(tmp_path: Path) -> None:
    write_encoder_model(tmp_path / "encoder.gguf")
    config = Config.model_validate(
        {"model": {"path": str(tmp_path / "encoder.gguf"), "n_ctx": 512}, "server": {"model_probe": False}}
    )
    lines: list[str] = []
    with load_served_model(config, lines.append) as served:
        assert served.capabilities == {Capability.EMBEDDINGS}
        assert "vectors  64 numbers each, of inputs of 512 tokens at most" in lines[-1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": {"loras": [{"path": "a.gguf"}]}}, r"model\.loras"),
        ({"disk_cache": {"path": "folder", "max_bytes": 1}}, "disk_cache"),
    ],
)
def test_load_encoder_with_settings_of_text_is_refused(
    tmp_path: Path, fields: dict[str, dict[str, object]], message: str
) -> None:
    write_encoder_model(tmp_path / "encoder.gguf")
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    model = {"path": str(tmp_path / "encoder.gguf"), "n_ctx": 512, **fields.pop("model", {})}
    model["loras"] = [{"path": str(tmp_path / "a.gguf")}] if "loras" in model else []
    config = Config.model_validate({"model": model, "server": {"model_probe": False}, **fields})
    with pytest.raises(ConfigError, match=message), load_served_model(config, print):
        pass


@pytest.mark.parametrize(
    ("name", "value", "capability"),
    [
        ("embedding", True, Capability.EMBEDDINGS),
        ("pooling_type", "last", Capability.EMBEDDINGS),
        ("pooling_type", "none", Capability.CHAT),
    ],
)
def test_load_text_model_makes_embeddings_if_configured(name: str, value: object, capability: Capability) -> None:
    config = Config.model_validate({"model": {"path": "built-in", name: value, "n_ctx": 512}})
    with load_served_model(config, lambda line: None) as served:
        assert capability in served.capabilities
        assert (Capability.EMBEDDINGS in served.capabilities) == (capability is Capability.EMBEDDINGS)
