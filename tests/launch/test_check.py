"""`llamafast check`: its output for good and bad configurations, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamafast.errors import ConfigError
from llamafast.launch import cli
from llamafast.launch.check import check
from llamafast.launch.config_file import load_config
from tests.tiny_models import write_encoder_model

ROOT = Path(__file__).parents[2]
PLAIN = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
HERMES = (
    "{{ tools }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% for c in m.tool_calls %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """(exit code, output) of `llamafast check` with the configuration's model section, or with arguments."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def go(*arguments, **model):
        path = tmp_path / "config.json"
        path.write_text(json.dumps({"model": model}))
        try:
            cli.app(["check", *([str(path)] if model else []), *arguments], standalone_mode=False)
        except SystemExit as exit_code:
            return exit_code.code, capsys.readouterr().out
        return 0, capsys.readouterr().out

    return go


def test_check_built_in_configuration_passes_everything(run):
    code, output = run()
    assert code == 0
    lines = [line.split()[:2] for line in output.splitlines()]
    assert lines == [[name, "ok"] for name in ("config", "model", "template", "format", "parser")]
    assert "qwen3_xml, detected from the template" in output


def test_check_tools_in_an_unknown_format_are_said_to_be_unread(run):
    output = run(path="built-in", chat_template="{{ tools }}" + PLAIN)[1]
    assert "tools     unknown  the chat template supports tools, but its call format is not known" in output


def test_check_wrong_tool_format_fails_the_parser(run):
    code, output = run("--tool-format", "mistral")
    assert code == 2
    assert "mistral, configured" in output
    assert "parser    failed" in output
    assert "a call: calls [('get_weather'" in output


def test_check_unknown_tool_format_is_named_with_a_suggestion(run):
    code, output = run("--tool-format", "hermess")
    assert code == 2
    assert "model.tool_format: unknown tool format 'hermess'. Did you mean hermes?" in output


def test_check_template_file_alone_needs_no_model(run, tmp_path):
    (tmp_path / "chat.jinja").write_text(HERMES)
    code, output = run("--template", str(tmp_path / "chat.jinja"))
    assert code == 0
    assert [line.split()[0] for line in output.splitlines()] == ["template", "format", "parser"]
    assert "hermes, detected from the template" in output


def test_check_refused_conversations_are_listed_and_do_not_fail(run):
    source = "{% if messages | length > 4 %}{{ raise_exception('too long') }}{% endif %}" + PLAIN
    code, output = run(path="built-in", chat_template=source)
    assert code == 0
    assert "refused  several turns: too long" in output
    assert "does not support tools" in output


@pytest.mark.parametrize("source", ["{{ raise_exception('never') }}", "{% if %}"])
def test_check_template_that_renders_nothing_fails(run, source):
    code, output = run(path="built-in", chat_template=source)
    assert code == 2
    assert "failed" in output


def test_check_weights_that_are_not_here_are_said_and_skipped(run):
    code, output = run(from_pretrained={"repo_id": "org/model", "filename": "m.gguf"})
    assert code == 0
    assert "model     skipped  org/model: m.gguf is not on this machine; `llamafast serve` downloads it" in output
    assert "template  skipped" in output


def test_check_configured_template_is_checked_without_weights(run):
    code, output = run(from_pretrained={"repo_id": "org/model", "filename": "m.gguf"}, chat_template=HERMES)
    assert code == 0
    assert "without BOS and EOS" in output


def test_check_missing_model_file_fails_with_its_field(run):
    code, output = run(path="none.gguf")
    assert code == 2
    assert "model.path: none.gguf: the file does not exist" in output


def test_check_encoder_has_no_template_to_check(run, tmp_path):
    write_encoder_model(tmp_path / "encoder.gguf")
    code, output = run(path=str(tmp_path / "encoder.gguf"))
    assert code == 0
    assert "the model makes embeddings" in output


def test_check_wrong_configuration_is_a_config_error(run):
    with pytest.raises(ConfigError, match=r"model\.n_ctxx: unknown field"):
        run(path="built-in", n_ctxx=1)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.json")), ids=lambda path: path.stem)
def test_check_own_configurations_pass_and_bind_this_machine_alone(path, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    config = load_config(path)
    assert config.server.host == "127.0.0.1"
    assert check(config, path.name)
