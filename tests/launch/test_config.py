"""Reading the configuration: every field of the file format, precedence, and error messages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import JsonValue

import llamafast
from llamafast.errors import ConfigError
from llamafast.launch.config import Config, ModelConfig
from llamafast.launch.config_file import load_config

ROOT = Path(__file__).parents[2]

# Each field of `model` in the file format, with a value that needs no images or draft models.
MODEL: dict[str, JsonValue] = {
    "path": "model.gguf",
    "alias": "name",
    "aliases": ["other", "gpt-*"],
    "chat_template": ["{{ bos_token }}", "{{ messages[0].content }}"],
    "chat_template_file": None,
    "chat_template_kwargs": {"enable_thinking": False},
    "tool_format": "hermes",
    "response_schema": None,
    "parse_special_in_messages": True,
    "reasoning_budget": 100,
    "reasoning_budget_message": "Enough.",
    "gguf_sampling_defaults": False,
    "sampling_defaults": {"temperature": 0.6, "top_k": 20},
    "loras": [{"path": "a.gguf"}, {"from_pretrained": {"repo_id": "o/r", "filename": "*.gguf"}, "scale": 0.5}],
    "mtmd": {"mmproj_path": "p"},
    "n_gpu_layers": -1,
    "split_mode": 1,
    "main_gpu": 0,
    "tensor_split": [0.5, 0.5],
    "vocab_only": False,
    "use_mmap": True,
    "use_mlock": False,
    "kv_overrides": {"a": True, "b": 1, "c": 0.5, "d": "text"},
    "n_ctx": 4096,
    "n_batch": 512,
    "n_ubatch": 256,
    "n_seq_max": 8,
    "threads": 4,
    "threads_batch": 8,
    "rope_scaling_type": -1,
    "pooling_type": None,
    "attention_type": None,
    "embedding": None,
    "rope_freq_base": 10000.0,
    "rope_freq_scale": 1.0,
    "yarn_ext_factor": -1.0,
    "yarn_attn_factor": 1.0,
    "yarn_beta_fast": 32.0,
    "yarn_beta_slow": 1.0,
    "yarn_orig_ctx": 0,
    "offload_kqv": True,
    "flash_attn": True,
    "op_offload": True,
    "swa_full": True,
    "no_perf": True,
    "type_k": 8,
    "type_v": 8,
    "max_seq_len": 2048,
    "max_output_tokens": 1024,
    "kv_unified": True,
    "context_shift": True,
    "checkpoint_every": 256,
    "max_checkpoint_bytes": 0,
    "max_cached_tokens": 2048,
    "max_idle_tokens": 64,
    "max_prefill_tokens": 128,
    "max_step_ms": 50.0,
    "n_rs_seq": 0,
    "prefix_cache": False,
    "store_logits": False,
    "prompts": {"query": "query: "},
    "draft_model": None,
    "draft_model_path": None,
    "draft_model_from_pretrained": None,
    "draft_model_num_pred_tokens": 16,
    "draft_model_max_ngram_size": 2,
    "draft_model_top_k": 1,
    "draft_model_p_min": 0.0,
    "draft_model_max_batch_size": None,
    "draft_model_threads": None,
    "draft_model_threads_batch": None,
}


def write(folder: Path, document: JsonValue) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(document))
    return path


def fault(folder: Path, document: JsonValue) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(write(folder, document))
    return str(caught.value).removeprefix(f"{folder / 'config.json'}: ")


def test_load_config_every_field_is_read(tmp_path: Path) -> None:
    document: JsonValue = {"server": {"host": "0.0.0.0", "port": 9000}, "model": MODEL, "disk_cache": None}
    config = load_config(write(tmp_path, document))
    read = config.model.model_dump(mode="json", include=set(MODEL))
    pieces = {name: read[name] for name in ("loras", "sampling_defaults", "mtmd")}
    pieces["chat_template"] = "{{ bos_token }}{{ messages[0].content }}"
    assert (config.server.host, config.server.port) == ("0.0.0.0", 9000)
    assert read == {**MODEL, **pieces}
    assert config.model.mtmd is not None
    assert config.model.mtmd.mmproj_path == "p"
    assert [lora.scale for lora in config.model.loras] == [1.0, 0.5]
    assert config.model.sampling_defaults.model_dump(exclude_none=True) == MODEL["sampling_defaults"]


def test_load_config_from_pretrained_is_read(tmp_path: Path) -> None:
    fields: JsonValue = {
        "repo_id": "org/model",
        "filename": "*Q8_0.gguf",
        "additional_files": ["*.json"],
        "local_dir": "here",
        "local_dir_use_symlinks": "auto",
        "cache_dir": "there",
    }
    source = load_config(write(tmp_path, {"model": {"from_pretrained": fields}})).model.from_pretrained
    assert source is not None
    assert source.model_dump(mode="json") == fields


def test_load_config_disk_cache_is_read(tmp_path: Path) -> None:
    fields: JsonValue = {"path": "p", "max_bytes": 0, "min_tokens": 1}
    config = load_config(write(tmp_path, {"model": {"path": "m"}, "disk_cache": fields}))
    assert config.disk_cache is not None
    assert config.disk_cache.model_dump() == fields


@pytest.mark.parametrize("value", ["no", 1])
def test_load_config_template_switch_that_is_no_boolean_is_named(tmp_path: Path, value: JsonValue) -> None:
    model: JsonValue = {"path": "m", "chat_template_kwargs": {"enable_thinking": value}}
    with pytest.raises(ConfigError, match="enable_thinking must be true or false"):
        load_config(write(tmp_path, {"model": model}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_bytes": 1}, "disk_cache.path: missing"),
        ({"path": ""}, "disk_cache.path: String should have at least 1 character"),
        ({"path": "p", "max_bytes": -1}, "disk_cache.max_bytes: should be greater than or equal to 0"),
        ({"path": "p", "min_tokens": 0}, "disk_cache.min_tokens: should be greater than or equal to 1"),
        ({"path": "p", "max_byte": 1}, "disk_cache.max_byte: unknown field; did you mean max_bytes?"),
    ],
)
def test_load_config_wrong_disk_cache_is_named(tmp_path: Path, fields: JsonValue, message: str) -> None:
    assert fault(tmp_path, {"model": {"path": "m"}, "disk_cache": fields}) == message


def test_load_config_null_everywhere_means_absent(tmp_path: Path) -> None:
    nullable = [name for name, field in ModelConfig.model_fields.items() if field.default is None and name != "path"]
    with_nulls = load_config(write(tmp_path, {"model": {"path": "m", **dict.fromkeys(nullable)}, "disk_cache": None}))
    assert with_nulls == load_config(write(tmp_path, {"model": {"path": "m"}}))


def test_load_config_null_is_absent_where_the_default_is_a_value(tmp_path: Path) -> None:
    document: JsonValue = {"server": {"port": None}, "model": {"path": "m", "n_batch": None, "kv_unified": None}}
    assert load_config(write(tmp_path, document)) == load_config(write(tmp_path, {"model": {"path": "m"}}))


def test_load_config_unknown_field_is_refused_even_if_null(tmp_path: Path) -> None:
    document: JsonValue = {"model": {"path": "m", "n_ctxx": None}}
    assert fault(tmp_path, document) == "model.n_ctxx: unknown field; did you mean n_ctx?"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_idle_tokens", -1, "should be greater than or equal to 0"),
        ("max_cached_tokens", 2**31, "should be less than 2147483648"),
        ("n_rs_seq", -1, "should be greater than or equal to 0"),
    ],
)
def test_load_config_setting_out_of_range_is_named(tmp_path: Path, name: str, value: int, message: str) -> None:
    assert fault(tmp_path, {"model": {"path": "m", name: value}}) == f"model.{name}: {message}"


def test_load_config_built_in_file_is_valid() -> None:
    config = load_config(ROOT / "configs" / "built-in.json")
    assert (config.model.path, config.server.port) == ("built-in", 8000)


def test_load_config_example_of_the_readme_is_valid(tmp_path: Path) -> None:
    example = (ROOT / "README.md").read_text().partition("```json\n")[2].partition("```")[0]
    assert load_config(write(tmp_path, json.loads(example))).model.alias == "my-model"


@pytest.mark.parametrize(
    ("field", "name", "number"),
    [
        ("type_k", "f16", 1),
        ("type_v", "Q8_0", 8),
        ("type_k", "bf16", 30),
        ("split_mode", "row", 2),
        ("rope_scaling_type", "yarn", 2),
        ("pooling_type", "none", 0),
        ("attention_type", "causal", 0),
    ],
)
def test_load_config_enumeration_takes_name_or_number(tmp_path: Path, field: str, name: str, number: int) -> None:
    by_name = load_config(write(tmp_path, {"model": {"path": "m", field: name}}))
    by_number = load_config(write(tmp_path, {"model": {"path": "m", field: number}}))
    assert by_name == by_number
    assert getattr(by_name.model, field) == number


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"model": {"path": "m", "n_ctxx": 1}}, "model.n_ctxx: unknown field; did you mean n_ctx?"),
        ({"modle": {"path": "m"}, "model": {"path": "m"}}, "modle: unknown field; did you mean model?"),
        ({"server": {"prot": 1}, "model": {"path": "m"}}, "server.prot: unknown field; did you mean port?"),
        ({"model": {"path": "m", "zzz": 1}}, "model.zzz: unknown field"),
        (
            {"model": {"path": "m", "loras": [{"path": "a", "scal": 1}]}},
            "model.loras.0.scal: unknown field; did you mean scale?",
        ),
        ({"model": {}}, "model: set exactly one of path and from_pretrained"),
        (
            {"model": {"path": "m", "from_pretrained": {"repo_id": "o/r", "filename": "f"}}},
            "model: set exactly one of path and from_pretrained",
        ),
        ({"model": {"from_pretrained": {"repo_id": "o/r"}}}, "model.from_pretrained.filename: missing"),
        ({}, "model: missing"),
        ({"model": 1}, "model: should be an object"),
        ({"model": {"path": "m", "n_ctx": "many"}}, "model.n_ctx: should be a valid integer, unable to parse"),
        ({"model": {"path": "m", "n_seq_max": 0}}, "model.n_seq_max: should be greater than or equal to 1"),
        ({"model": {"path": "m"}, "server": {"port": 70000}}, "server.port: should be less than or equal to 65535"),
        ({"model": {"path": "m", "type_k": "q9"}}, "model.type_k: 'q9' is not one of f32 (0), f16 (1)"),
        ({"model": {"path": "m", "n_ctx": 2**31}}, "model.n_ctx: should be less than 2147483648"),
        ([], "the file must contain a JSON object"),
    ],
)
def test_load_config_wrong_document_names_field(tmp_path: Path, document: JsonValue, message: str) -> None:
    assert fault(tmp_path, document).startswith(message)


def test_load_config_several_faults_one_line_each(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, {"model": {"path": "m", "n_ctxx": 1, "aliass": "a"}}))
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"model": {"draft_model": "draft-mtp"}}, "model.draft_model: draft models are"),
        ({"model": {"draft_model_path": "p"}}, "model.draft_model_path: draft models are"),
        ({"model": {"draft_model_num_pred_tokens": 8}}, "model.draft_model_num_pred_tokens: draft models are"),
        ({"model": {"draft_model_max_ngram_size": 3}}, "model.draft_model_max_ngram_size: draft models are"),
        ({"model": {"draft_model_top_k": 2}}, "model.draft_model_top_k: draft models are"),
        ({"model": {"draft_model_p_min": 0.5}}, "model.draft_model_p_min: draft models are"),
        ({"model": {"draft_model_max_batch_size": 64}}, "model.draft_model_max_batch_size: draft models are"),
        ({"model": {"draft_model_threads": 2}}, "model.draft_model_threads: draft models are"),
        ({"model": {"draft_model_threads_batch": 2}}, "model.draft_model_threads_batch: draft models are"),
        ({"model": {"attention_type": 1}}, "model.attention_type: non-causal models are"),
        ({"model": {"vocab_only": True}}, "model.vocab_only: serving a vocabulary without weights is"),
    ],
)
def test_load_config_capability_not_landed_is_refused(
    tmp_path: Path, document: dict[str, dict[str, JsonValue]], message: str
) -> None:
    document = {**document, "model": {"path": "m", **document["model"]}}
    expected = f"{message} not supported yet by llamafast {llamafast.__version__}; remove the field"
    assert fault(tmp_path, document) == expected


@pytest.mark.parametrize("value", [True, "always"])
def test_load_config_links_into_the_cache_are_refused(tmp_path: Path, value: JsonValue) -> None:
    source: JsonValue = {"repo_id": "o/r", "filename": "f", "local_dir_use_symlinks": value}
    message = "model.from_pretrained.local_dir_use_symlinks: should be 'auto' or False"
    assert fault(tmp_path, {"model": {"from_pretrained": source}}) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model": {"path": "x" "y"}}', "line 1, column 24: "),
        ('{\n  "model": tru\n}', "line 2, column 12: "),
        ("", "line 1, column 1: "),
    ],
)
def test_load_config_bad_json_says_where(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_load_config_not_utf8_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        load_config(path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"model": ' + "1" * 10_000 + "}", None])
def test_load_config_hostile_file_is_one_line(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "config.json" if text is not None else Path("/dev/zero")
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_load_config_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json: No such file or directory$"):
        load_config(tmp_path / "none.json")


def test_load_config_overrides_win_over_file(tmp_path: Path) -> None:
    path = write(tmp_path, {"server": {"port": 1}, "model": {"path": "m", "n_ctx": 1024, "alias": "file"}})
    config = load_config(path, {"server": {"port": 2}, "model": {"n_ctx": 2048}})
    assert (config.server.port, config.model.n_ctx, config.model.alias) == (2, 2048, "file")


def test_load_config_overriding_path_replaces_from_pretrained(tmp_path: Path) -> None:
    path = write(tmp_path, {"model": {"from_pretrained": {"repo_id": "o/r", "filename": "f"}}})
    config = load_config(path, {"model": {"path": "mine.gguf"}})
    assert (config.model.path, config.model.from_pretrained) == ("mine.gguf", None)


def test_load_config_wrong_override_does_not_blame_file(tmp_path: Path) -> None:
    path = write(tmp_path, {"model": {"path": "m"}})
    with pytest.raises(ConfigError, match=r"^model\.n_batch: should be greater than or equal to 1$"):
        load_config(path, {"model": {"n_batch": 0}})


def test_load_config_no_file_uses_defaults() -> None:
    config = load_config(None, {"model": {"path": "m"}})
    assert config == Config.model_validate({"model": {"path": "m"}})


def test_config_record_is_frozen() -> None:
    config = load_config(None, {"model": {"path": "m"}})
    with pytest.raises(ValueError, match="frozen"):
        config.server.port = 1


@pytest.mark.parametrize(("section", "fields"), [("model", {"alias": "m\udce9"}), ("server", {"host": ""})])
def test_text_that_no_answer_can_hold_is_refused_by_name(section, fields):
    with pytest.raises(ConfigError, match=f"{section}.{next(iter(fields))}"):
        load_config(
            None,
            {
                "model": {"path": "built-in"},
                section: {**({"path": "built-in"} if section == "model" else {}), **fields},
            },
        )
