"""The trial of a model file: once, in a child process; a file that does not fit into memory is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import llamafast.launch.probe
from llamafast._core import Model
from llamafast.engine.config import EngineConfig
from llamafast.engine.loading import make_context
from llamafast.engine.probe import MemoryNeed, memory_need, try_out
from llamafast.errors import ConfigError, ModelLoadError
from llamafast.launch.model_file import BUILT_IN_MODEL
from llamafast.launch.probe import check_memory, check_model
from tests.tiny_models import write_attention_model, write_encoder_model

CONFIG = EngineConfig(n_ctx=2048, threads=1)
GIB = 1 << 30


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    write_attention_model(path)
    return path


@pytest.fixture
def check(model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Run check_model with a separate cache folder. Returns the reported lines."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def run(path: Path = model_path, **settings: object) -> list[str]:
        lines: list[str] = []
        check_model(path, replace(CONFIG, **settings), [], is_known=False, report=lines.append)
        return lines

    return run


def overridden(setting: str, value: float) -> dict[str, dict[str, float]]:
    return {"kv_overrides": {f"qwen3.{setting}": value}}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (overridden("block_count", 0), "ended the process by SIGABRT: llama-model.cpp:"),
        (overridden("attention.layer_norm_rms_epsilon", float("nan")), "ended the process by SIGABRT: ops.cpp:"),
    ],
)
def test_check_model_file_that_ends_the_process_is_refused_in_one_line(
    check: Callable[..., list[str]], settings: dict[str, object], reason: str
) -> None:
    with pytest.raises(ModelLoadError) as refusal:
        check(**settings)
    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_check_model_good_file_is_tried_out_once(check: Callable[..., list[str]]) -> None:
    assert [len(check()), len(check())] == [1, 0]


def test_check_model_slow_file_is_given_up(check: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llamafast.launch.probe, "_MIN_TIMEOUT_S", 0.0)
    with pytest.raises(ModelLoadError, match="--no-model-probe"):
        check()


def test_check_model_unwritable_cache_folder_is_no_fault(
    model_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(model_path))  # a file
    llamafast.launch.probe._write_need(llamafast.launch.probe._cache_folder() / "key.json", MemoryNeed(1, 1, 1.0, 1))
    assert llamafast.launch.probe._read_need(llamafast.launch.probe._cache_folder() / "key.json") is None


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"),
        lambda path: path.write_bytes(path.read_bytes() + b"!"),
    ],
)
def test_key_other_content_is_another_file(change: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    before = llamafast.launch.probe._key(path, CONFIG, [])
    change(path)
    assert llamafast.launch.probe._key(path, CONFIG, []) != before


def test_key_other_settings_are_another_trial_but_not_threads(model_path: Path) -> None:
    key = llamafast.launch.probe._key(model_path, CONFIG, [])
    assert llamafast.launch.probe._key(model_path, replace(CONFIG, threads=2), []) == key
    assert llamafast.launch.probe._key(model_path, replace(CONFIG, n_ctx=4096), []) != key


def test_files_of_a_split_model_are_all_its_parts(tmp_path: Path) -> None:
    names = [f"m[1]-0000{i}-of-00002.gguf" for i in (1, 2)]
    for name in (*names, "m-00001-of-00002.gguf"):
        (tmp_path / name).touch()
    assert [path.name for path in llamafast.launch.probe._files(tmp_path / names[0])] == names


def test_try_out_nan_in_the_results_is_refused(model_path: Path) -> None:
    config = replace(CONFIG, kv_overrides={"qwen3.rope.freq_base": float("nan")})
    with pytest.raises(ModelLoadError, match="computes NaN"):
        try_out(str(model_path), config)


def test_try_out_encoder_is_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_encoder_model(tmp_path / "encoder.gguf")
    try_out(str(tmp_path / "encoder.gguf"), CONFIG)
    assert '"progress": 1.0' in capsys.readouterr().out


@pytest.mark.parametrize("n_ctx", [0, 2048, 65_536])
def test_memory_need_is_what_the_context_takes(model_path: Path, n_ctx: int) -> None:
    config = replace(CONFIG, n_ctx=n_ctx, flash_attn=True)
    need = memory_need(str(model_path), config)
    context = make_context(Model(str(model_path)), config)
    _, cells, work = context.host_bytes()
    assert need.n_ctx == context.n_ctx
    assert need.context_bytes == pytest.approx(cells + work + 64 * need.n_ctx, rel=0.02)


def test_memory_need_of_500_million_tokens_allocates_nothing() -> None:
    assert memory_need(str(BUILT_IN_MODEL), replace(CONFIG, n_ctx=500_000_000)).context_bytes > 500 * GIB


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def set_limits(room: int | None = None, addresses: int | None = None) -> None:
        monkeypatch.setattr(llamafast.launch.probe, "available_memory", lambda: room)
        monkeypatch.setattr(llamafast.launch.probe, "address_space", lambda: addresses)

    return set_limits


def checked(need: MemoryNeed, **settings: object) -> list[str]:
    lines: list[str] = []
    check_memory(Path("m.gguf"), replace(CONFIG, **settings), need, lines.append)
    return lines


NEED = MemoryNeed(n_ctx=100_000, context_bytes=10 * GIB, bytes_per_token=100_000.0, weights_bytes=8 * GIB)


def test_check_memory_too_long_context_says_what_would_fit(memory: Callable[..., None]) -> None:
    memory(room=5 * GIB)
    with pytest.raises(ConfigError) as refusal:
        checked(NEED)
    assert str(refusal.value) == (
        "m.gguf: with 100000 tokens of context it needs 10.0 GiB, but 5.0 GiB are available; --n-ctx 45312 would fit"
    )


def test_check_memory_too_large_weights_say_that_no_context_would_fit(memory: Callable[..., None]) -> None:
    memory(room=5 * GIB)
    with pytest.raises(ConfigError, match=r"it needs 18.0 GiB, .* no smaller context would help"):
        checked(NEED, use_mmap=False)


def test_check_memory_mapped_weights_beyond_it_are_a_warning(memory: Callable[..., None]) -> None:
    memory(room=12 * GIB)
    assert [line[:6] for line in checked(NEED)] == ["memory"]


def test_check_memory_enough_or_unknown_is_fine(memory: Callable[..., None]) -> None:
    memory(room=20 * GIB)
    assert checked(NEED, use_mmap=False) == []
    memory()
    assert checked(NEED) == []


def test_check_memory_address_space_counts_mapped_weights(memory: Callable[..., None]) -> None:
    memory(room=20 * GIB, addresses=17 * GIB)
    with pytest.raises(ConfigError, match=r"17.0 GiB are left under the limit of `ulimit -v`"):
        checked(NEED)
