"""The section responses_store: from a configuration to a store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import JsonValue

from llamafast.errors import ConfigError
from llamafast.launch.config_file import load_config
from llamafast.launch.serve import response_store


def config_of(tmp_path: Path, section: JsonValue, *, is_on: bool = True) -> Path:
    path = tmp_path / "config.json"
    document = {"server": {"responses_store": is_on}, "model": {"path": "m"}, "responses_store": section}
    path.write_text(json.dumps(document))
    return path


def test_response_store_is_in_memory_without_a_path(tmp_path: Path) -> None:
    with response_store(load_config(config_of(tmp_path, None))) as store:
        assert store is not None
        assert store.counts.num_rows == 0
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_response_store_uses_the_file_of_its_path(tmp_path: Path) -> None:
    path = tmp_path / "responses.db"
    with response_store(load_config(config_of(tmp_path, {"path": str(path), "max_bytes": 2**20, "ttl_s": 60}))):
        assert path.exists()


def test_response_store_that_is_switched_off_is_none(tmp_path: Path) -> None:
    with response_store(load_config(config_of(tmp_path, None, is_on=False))) as store:
        assert store is None


def test_response_store_that_another_process_uses_is_refused(tmp_path: Path) -> None:
    config = load_config(config_of(tmp_path, {"path": str(tmp_path / "responses.db")}))
    with response_store(config), pytest.raises(ConfigError, match="in use"), response_store(config):
        pass


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": ""}, "responses_store.path: String should have at least 1 character"),
        ({"max_bytes": 1}, "responses_store.max_bytes: should be greater than or equal to 65536"),
        ({"ttl_s": 0}, "responses_store.ttl_s: should be greater than 0"),
        ({"ttl": 1}, "responses_store.ttl: unknown field; did you mean ttl_s?"),
    ],
)
def test_load_config_wrong_responses_store_is_named(tmp_path: Path, fields: JsonValue, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(config_of(tmp_path, fields))
    assert str(caught.value).endswith(message)
