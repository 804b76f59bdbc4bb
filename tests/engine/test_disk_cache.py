"""Stored prefixes: tokens computed after a restart, equal outputs, damaged and foreign files."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from array import array
from pathlib import Path

import pytest

import llamafast
from llamafast.engine.engine import Engine, EngineConfig
from llamafast.engine.state_key import fingerprint, state_key
from llamafast.request import PromptPlaces, Request, SamplingParams
from tests import tiny_models
from tests.engine.test_async_engine import serve
from tests.engine.test_batch_equality import assert_equal_or_near_tie

BUILT_IN = Path(llamafast.__file__).parent / "models" / "tiny-qwen35-f16.gguf"
pytestmark = pytest.mark.usefixtures("native")
WRITERS = {
    "attention": tiny_models.write_attention_model,
    "swa": tiny_models.write_swa_model,
    "hybrid": tiny_models.write_hybrid_model,
}
EXACT = {"flash_attn": False, "type_k": 0, "type_v": 0}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, write in WRITERS.items():
        write(folder / f"{name}.gguf")
    return {"built-in": BUILT_IN, **{name: folder / f"{name}.gguf" for name in WRITERS}}


@pytest.fixture(params=["built-in", *WRITERS])
def path(request, paths):
    return paths[request.param]


def open_engine(path, folder=None, min_tokens=16, max_bytes=2**30, **settings) -> Engine:
    settings = {"n_ctx": 2048, "n_seq_max": 4, "threads": 1, **EXACT, **settings}
    engine = Engine(str(path), EngineConfig(**settings))
    if folder is not None:
        engine.open_disk_cache(str(folder), max_bytes=max_bytes, min_tokens=min_tokens)
    return engine


def run(engine, *requests):
    """Token logprobs and usage by request id."""
    logprobs, usage = {}, {}
    for request in requests:
        engine.validate(request)
        engine.add(request)
    while engine.has_work:
        for output in engine.step():
            assert output.error is None
            logprobs.setdefault(output.request_id, []).extend(output.logprobs or [])
            usage[output.request_id] = output.usage
        engine.check_integrity()
    return logprobs, usage


def prompt(num_tokens, start=0):
    """Ordinary tokens of every vocabulary here."""
    return array("i", [20 + (7 * i + i * i // 5 + start) % 200 for i in range(num_tokens)])


def request(request_id, token_ids, ends=(), max_tokens=12, **fields):
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, logprobs=2, ignore_eos=True)
    return Request(request_id, token_ids, params, places=PromptPlaces.of(ends), **fields)


def test_next_turn_after_restart_computes_what_is_new(path, tmp_path):
    with open_engine(path, tmp_path, min_tokens=8) as engine:
        answer, _ = run(engine, request("1", prompt(200)))
    spoken = prompt(200) + array("i", [token.token_id for token in answer["1"]])
    turn = request("2", spoken + prompt(30, start=3))
    with open_engine(path) as engine:
        cold, _ = run(engine, turn)
    with open_engine(path, tmp_path) as engine:
        warm, usage = run(engine, turn)
        assert engine.disk.disk.stats.hits == 1
    assert usage["2"].cached_tokens == len(spoken) - 1  # the last token of an answer is never computed
    assert_equal_or_near_tie(warm["2"], cold["2"])


def test_other_prompt_with_the_same_beginning_is_cut_from_the_state(paths, tmp_path):
    with open_engine(paths["attention"], tmp_path) as engine:
        run(engine, request("1", prompt(200)))
    other = request("2", prompt(150) + prompt(40, start=3))
    with open_engine(paths["attention"]) as engine:
        cold, _ = run(engine, other)
    with open_engine(paths["attention"], tmp_path) as engine:
        warm, usage = run(engine, other)
    assert usage["2"].cached_tokens == 150
    assert_equal_or_near_tie(warm["2"], cold["2"])


def test_state_loaded_into_a_stream_does_not_change_the_slot_that_moved_out_of_it(paths, tmp_path):
    settings = {"kv_unified": False, "n_ctx": 4096}
    with open_engine(paths["attention"], tmp_path, **settings) as engine:
        run(engine, request("1", prompt(200)))
    again, other = request("2", prompt(200) + prompt(9, start=5)), request("3", prompt(150, start=90))
    turn = request("4", other.prompt_token_ids + prompt(20, start=3))
    with open_engine(paths["attention"], **settings) as engine:
        cold, _ = run(engine, turn)
    with open_engine(paths["attention"], tmp_path, min_tokens=1000, **settings) as engine:
        for earlier in (other, again):
            run(engine, earlier)
        warm, usage = run(engine, turn)
        assert (engine.disk.disk.stats.hits, usage["4"].cached_tokens) == (1, 150)
    assert_equal_or_near_tie(warm["4"], cold["4"])


@pytest.mark.parametrize("kv_unified", [True, False])
def test_requests_that_wait_for_the_same_state_share_it(paths, tmp_path, kv_unified):
    settings = {"kv_unified": kv_unified, "n_ctx": 4096}
    with open_engine(paths["attention"], tmp_path, **settings) as engine:
        run(engine, request("1", prompt(200)))
    others = [request(str(i), prompt(200) + prompt(20, start=i + 1)) for i in range(4)]
    with open_engine(paths["attention"], tmp_path, **settings) as engine:
        _, usage = run(engine, *others)
    assert [usage[str(i)].cached_tokens >= 200 for i in range(4)] == [True] * 4


def test_request_of_another_tenant_gets_nothing(paths, tmp_path):
    with open_engine(paths["attention"], tmp_path) as engine:
        run(engine, request("1", prompt(200), cache_salt="a"))
    with open_engine(paths["attention"], tmp_path) as engine:
        _, usage = run(engine, request("2", prompt(200), cache_salt="b"))
        assert (usage["2"].cached_tokens, engine.disk.disk.stats.misses) == (0, 1)


def test_request_without_cache_neither_reads_nor_writes(paths, tmp_path):
    with open_engine(paths["attention"], tmp_path) as engine:
        run(engine, request("1", prompt(200), use_cache=False))
        run(engine, request("2", prompt(300, start=9)))
    with open_engine(paths["attention"], tmp_path) as engine:
        _, usage = run(engine, request("3", prompt(300, start=9), use_cache=False))
        assert (usage["3"].cached_tokens, engine.disk.disk.stats.num_states) == (0, 1)


@pytest.mark.parametrize("change", [{"type_k": 8}, {"rope_freq_base": 5000.0}, {"kv_unified": False}])
def test_state_of_other_settings_is_foreign(paths, tmp_path, change):
    with open_engine(paths["attention"], tmp_path) as engine:
        run(engine, request("1", prompt(200)))
    with open_engine(paths["attention"], tmp_path, **change) as engine:
        _, usage = run(engine, request("2", prompt(200)))
        assert (usage["2"].cached_tokens, engine.disk.disk.stats.foreign) == (0, 1)


def test_state_that_the_memory_refuses_is_removed_and_computed(paths, tmp_path):
    with open_engine(paths["attention"], tmp_path) as engine:
        run(engine, request("1", prompt(200)))
        engine.disk.disk.store(prompt(300, start=9), "", b"no state at all")
    with open_engine(paths["attention"], tmp_path) as engine:
        warm, usage = run(engine, request("2", prompt(300, start=9)))
        stats = engine.disk.disk.stats
    assert (usage["2"].cached_tokens, stats.damaged) == (0, 1)
    with open_engine(paths["attention"]) as engine:
        cold, _ = run(engine, request("2", prompt(300, start=9)))
    assert_equal_or_near_tie(warm["2"], cold["2"])


def test_state_longer_than_the_memory_is_left_alone(paths, tmp_path):
    with open_engine(paths["attention"], tmp_path) as engine:
        run(engine, request("1", prompt(400)))
    with open_engine(paths["attention"], tmp_path, n_ctx=256) as engine:
        _, usage = run(engine, request("2", prompt(200)))
    assert usage["2"].cached_tokens == 0


def test_checkpoint_at_the_last_boundary_serves_an_edited_turn(path, tmp_path):
    boundary = 130
    with open_engine(path, tmp_path) as engine:
        run(engine, request("1", prompt(160), ends=(64, boundary)))
    edited = request("2", prompt(boundary) + prompt(40, start=3))
    with open_engine(path) as engine:
        cold, _ = run(engine, edited)
    with open_engine(path, tmp_path) as engine:
        warm, usage = run(engine, edited)
    assert usage["2"].cached_tokens == boundary
    assert_equal_or_near_tie(warm["2"], cold["2"])


def test_engine_continues_while_a_state_is_loading(paths, tmp_path, monkeypatch):
    may_read = threading.Event()
    with open_engine(paths["attention"], tmp_path) as engine:
        run(engine, request("1", prompt(200)))
    with open_engine(paths["attention"], tmp_path) as engine:
        read = engine.disk.disk._read
        monkeypatch.setattr(engine.disk.disk, "_read", lambda entry: (may_read.wait(), read(entry))[1])
        engine.add(request("2", prompt(200)))
        engine.add(request("3", prompt(100, start=5)))
        ended = []
        while not ended:
            ended = [output.request_id for output in engine.step() if output.usage is not None]
        may_read.set()
        _, usage = run(engine)
    assert (ended, usage["2"].cached_tokens) == (["3"], 199)


WRITER = """
import itertools, sys
from array import array
from pathlib import Path
from llamafast.cache.disk.disk_cache import DiskCache
folder, states, key, max_bytes = sys.argv[1:]
files = sorted(Path(states).iterdir())
cache = DiskCache(folder, max_bytes=int(max_bytes), min_tokens=1, key=bytes.fromhex(key), can_cut=False)
print("ready", flush=True)
for file in itertools.cycle(files):
    token_ids = array("i", file.read_bytes()[: int(file.name) * 4])
    cache.store(token_ids, "", file.read_bytes()[int(file.name) * 4 :])
"""


def test_engine_thread_sleeps_until_a_state_is_read(paths, tmp_path, monkeypatch):
    with open_engine(paths["attention"], tmp_path) as engine:
        run(engine, request("1", prompt(200)))
    engine = open_engine(paths["attention"], tmp_path)
    read, schedule, num_steps = engine.disk.disk._read, engine.scheduler.schedule, []

    def slow(entry):
        num_before = len(num_steps)
        threading.Event().wait(0.2)
        num_steps.append(len(num_steps) - num_before)
        return read(entry)

    monkeypatch.setattr(engine.disk.disk, "_read", slow)
    monkeypatch.setattr(engine.scheduler, "schedule", lambda: (num_steps.append(0), schedule())[1])

    async def work(async_engine):
        async for outputs in async_engine.submit(request("2", prompt(200) + prompt(30, start=3))):
            usage = outputs[-1].usage
        return usage

    assert serve(engine, work).cached_tokens >= 200
    assert max(num_steps) <= 1, "steps while there was nothing to do"


@pytest.mark.parametrize("name", ["attention", "hybrid"])
def test_kill_while_writing_never_serves_a_wrong_state(paths, tmp_path, name):
    folder, states = tmp_path / "folder", tmp_path / "states"
    states.mkdir()
    turn = request("2", prompt(260))
    with open_engine(paths[name]) as engine:
        cold, _ = run(engine, turn)
        key = state_key(engine.model, engine.context, engine.config)
        for length in range(40, 240, 20):
            engine.add(request("1", prompt(length), max_tokens=3))
            while not engine.scheduler.running:
                engine.step()
            state = engine.context.state_seq_get(engine.scheduler.running[0].slot.seq_id)
            (states / str(length)).write_bytes(prompt(length).tobytes() + state)
            run(engine)
    max_bytes = 3 * max(file.stat().st_size for file in states.iterdir())
    command = [sys.executable, "-c", WRITER, str(folder), str(states), key.hex(), str(max_bytes)]
    rng = random.Random(1)
    num_cached = 0
    for _ in range(10):
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.0, 0.05))
        process.kill()
        process.communicate()
        assert sum(file.stat().st_size for file in folder.iterdir()) <= max_bytes
        with open_engine(paths[name], folder, max_bytes=max_bytes, min_tokens=10**6) as engine:
            warm, usage = run(engine, turn)
            assert engine.disk.disk.stats.damaged == 0
        assert_equal_or_near_tie(warm["2"], cold["2"])
        num_cached += usage["2"].cached_tokens
    assert num_cached > 0


def test_abort_while_the_state_is_loading_ends_the_request(paths, tmp_path):
    with open_engine(paths["attention"], tmp_path) as engine:
        run(engine, request("1", prompt(200)))
    with open_engine(paths["attention"], tmp_path) as engine:
        engine.add(request("2", prompt(200)))
        engine.scheduler.schedule()
        engine.abort("2")
        (output,) = engine.step()
        engine.check_integrity()
    assert output.finish_reason == "abort"


def test_fingerprint_of_equal_content_is_equal_for_any_name(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x" * 3_000_000)
    assert fingerprint(str(tmp_path / "a")) == fingerprint(str(tmp_path / "b"))


@pytest.mark.parametrize("place", [0, 1_500_000, 2_999_999])
def test_fingerprint_of_one_changed_byte_differs(tmp_path, place):
    for name, byte in (("a", b"x"), ("b", b"y")):
        (tmp_path / name).write_bytes(b"x" * place + byte + b"x" * (2_999_999 - place))
    assert fingerprint(str(tmp_path / "a")) != fingerprint(str(tmp_path / "b"))


def test_fingerprint_of_a_large_file_with_a_changed_tensor_differs(tmp_path, monkeypatch):
    monkeypatch.setattr("llamafast.engine.state_key._PIECE_BYTES", 16)
    for name, byte in (("a", b"x"), ("b", b"y")):
        (tmp_path / name).write_bytes(b"x" * 50_000 + byte * 1000 + b"x" * 50_000)
    assert fingerprint(str(tmp_path / "a")) != fingerprint(str(tmp_path / "b"))
