"""The disk cache: matches, damaged files, the size of the folder, and several caches in one folder."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from array import array
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafast.cache.disk.disk_cache import DiskCache
from llamafast.cache.disk.state_file import file_bytes
from llamafast.errors import ConfigError

KEY = b"model one"
CAP = 1_000_000


def tokens(*ids: int) -> array[int]:
    return array("i", ids)


def run(first: int, last: int) -> array[int]:
    return array("i", range(first, last))


def state_of(token_ids: array[int]) -> bytes:
    """A state that contains its tokens."""
    return b"state of " + token_ids.tobytes()


@pytest.fixture
def opened():
    """A function that opens caches, which are closed at the end."""
    caches: list[DiskCache] = []

    def opened(path: Path, **settings) -> DiskCache:
        settings = {"max_bytes": CAP, "min_tokens": 1, "key": KEY, "can_cut": True} | settings
        caches.append(DiskCache(path, **settings))
        return caches[-1]

    yield opened
    for cache in caches:
        cache.close()


def stored(opened, path: Path, *lists: array[int], salt: str = "", **settings) -> DiskCache:
    """A closed cache that has written these states."""
    cache = opened(path, **settings)
    for token_ids in lists:
        cache.store(token_ids, salt, state_of(token_ids))
    cache.close()
    return cache


def files(path: Path) -> list[Path]:
    return sorted(path.glob("*.llamafast-state"))


def found(cache: DiskCache, token_ids: array[int], salt: str = "") -> tuple[int, bytes | None]:
    """The length of the match for a prompt of these tokens, and the state."""
    match = cache.match(token_ids + tokens(-1), salt)
    return match.length, None if match.entry is None else cache.load(match.entry).result()


def folder_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir() if ".llamafast-" in file.name)


def test_match_after_restart_gives_the_state(tmp_path, opened):
    stored(opened, tmp_path, run(0, 50))
    assert found(opened(tmp_path), run(0, 50)) == (50, state_of(run(0, 50)))


def test_match_without_restart_finds_written_states(tmp_path, opened):
    assert stored(opened, tmp_path, run(0, 50)).match(run(0, 9), "").length == 8


def test_match_never_takes_the_last_token(tmp_path, opened):
    stored(opened, tmp_path, run(0, 50))
    assert opened(tmp_path).match(run(0, 50), "").length == 49


def test_match_that_cuts_ends_where_the_tokens_differ(tmp_path, opened):
    stored(opened, tmp_path, run(0, 50))
    assert opened(tmp_path).match(run(0, 20) + tokens(7, 7), "").length == 20


def test_match_that_cannot_cut_takes_the_longest_whole_state(tmp_path, opened):
    stored(opened, tmp_path, run(0, 10), run(0, 30), run(0, 60), can_cut=False)
    assert found(opened(tmp_path, can_cut=False), run(0, 50)) == (30, state_of(run(0, 30)))


def test_match_of_another_salt_finds_nothing(tmp_path, opened):
    stored(opened, tmp_path, run(0, 50), salt="a")
    assert found(opened(tmp_path), run(0, 50), "b") == (0, None)


def test_match_of_the_same_salt_finds_it(tmp_path, opened):
    stored(opened, tmp_path, run(0, 50), salt="a")
    assert found(opened(tmp_path), run(0, 50), "a")[0] == 50


def test_wants_counts_new_tokens(tmp_path, opened):
    stored(opened, tmp_path, run(0, 50))
    cache = opened(tmp_path, min_tokens=8)
    assert [cache.wants(run(0, n), "") for n in (40, 57, 58)] == [False, False, True]


def test_wants_counts_queued_states(tmp_path, opened, monkeypatch):
    may_write = threading.Event()
    cache = opened(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda handle: may_write.wait())
    cache.store(run(0, 50), "", b"state")
    assert not cache.wants(run(0, 50), "")
    may_write.set()


def test_store_longer_state_takes_the_place_of_the_shorter(tmp_path, opened):
    stored(opened, tmp_path, run(0, 10), run(0, 30), run(5, 9))
    assert {found(opened(tmp_path), ids)[0] for ids in (run(0, 30), run(5, 9))} == {30, 4}
    assert len(files(tmp_path)) == 2


def test_store_that_cannot_cut_keeps_the_shorter(tmp_path, opened):
    stored(opened, tmp_path, run(0, 10), run(0, 30), can_cut=False)
    assert len(files(tmp_path)) == 2


def test_store_with_a_slow_disk_drops_the_oldest(tmp_path, opened, monkeypatch):
    monkeypatch.setattr("llamafast.cache.disk.disk_cache._MAX_QUEUED_BYTES", 1000)
    may_write, is_writing = threading.Event(), threading.Event()
    monkeypatch.setattr(os, "fsync", lambda handle: (is_writing.set(), may_write.wait()))
    cache = opened(tmp_path)
    cache.store(run(0, 5), "", b"first")
    is_writing.wait()
    for start in (100, 200, 300):
        cache.store(run(start, start + 5), "", b"x" * 400)
    may_write.set()
    cache.close()
    assert [cache.match(run(start, start + 6), "").length for start in (0, 100, 200, 300)] == [5, 0, 5, 5]
    assert cache.stats.dropped == 1


def test_store_with_a_slow_disk_skips_states_that_a_longer_one_covers(tmp_path, opened, monkeypatch):
    may_write, is_writing = threading.Event(), threading.Event()
    monkeypatch.setattr(os, "fsync", lambda handle: (is_writing.set(), may_write.wait()))
    cache = opened(tmp_path)
    cache.store(run(50, 60), "", b"first")
    is_writing.wait()
    for length in (5, 6, 7):
        cache.store(run(0, length), "", state_of(run(0, length)))
    may_write.set()
    cache.close()
    assert (cache.stats.writes, cache.match(run(0, 8), "").length) == (2, 7)


def test_wants_of_a_stored_state_makes_it_the_most_recently_used(tmp_path, opened):
    stored(opened, tmp_path, run(0, 50))
    (file,) = files(tmp_path)
    os.utime(file, (1, 1))
    cache = opened(tmp_path)
    cache.wants(run(0, 50), "")
    cache.close()
    assert file.stat().st_mtime > 1


def test_store_larger_than_the_cap_is_dropped(tmp_path, opened):
    cache = stored(opened, tmp_path, run(0, 50), max_bytes=100)
    assert (cache.stats.dropped, files(tmp_path)) == (1, [])


def test_store_on_a_full_disk_counts_a_failure(tmp_path, opened, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    cache = opened(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    cache.store(run(0, 50), "", b"state")
    cache.close()
    assert (cache.stats.failures, folder_bytes(tmp_path)) == (1, 0)


def test_eviction_takes_the_least_recently_used(tmp_path, opened):
    cap = 2 * file_bytes(50, len(state_of(run(0, 50))))
    stored(opened, tmp_path, run(0, 50), run(100, 150), max_bytes=cap)
    for age, file in enumerate(files(tmp_path)):
        os.utime(file, (age, age))
    cache = opened(tmp_path, max_bytes=cap)
    used = [ids for ids in (run(0, 50), run(100, 150)) if cache.match(ids, "").entry.name == files(tmp_path)[0].name]
    assert found(cache, used[0])[0] == 50  # the older one, now used
    cache.store(run(200, 250), "", state_of(run(200, 250)))
    cache.close()
    assert (cache.stats.evictions, found(opened(tmp_path), used[0])[0]) == (1, 50)


def test_start_with_a_smaller_cap_evicts(tmp_path, opened):
    stored(opened, tmp_path, run(0, 50), run(100, 150))
    cache = opened(tmp_path, max_bytes=800)
    assert (cache.stats.num_states, cache.stats.evictions) == (1, 1)


def test_start_in_a_folder_that_is_a_file_is_a_config_error(tmp_path, opened):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"disk_cache\.path: .*file: "):
        opened(tmp_path / "file")


def test_start_makes_the_folder_for_its_user_alone(tmp_path, opened):
    stored(opened, tmp_path / "a" / "b", run(0, 50))
    assert [path.stat().st_mode & 0o077 for path in (tmp_path / "a" / "b", *files(tmp_path / "a" / "b"))] == [0, 0]


def test_start_leaves_other_files_alone(tmp_path, opened):
    (tmp_path / "notes.txt").write_text("x" * 2000)
    opened(tmp_path, max_bytes=1000)
    assert (tmp_path / "notes.txt").exists()


def test_foreign_state_is_skipped_counted_and_kept(tmp_path, opened):
    stored(opened, tmp_path, run(0, 50), key=b"model two")
    cache = opened(tmp_path)
    assert (found(cache, run(0, 50)), cache.stats.foreign, len(files(tmp_path))) == ((0, None), 1, 1)


def test_foreign_state_counts_for_the_cap(tmp_path, opened):
    stored(opened, tmp_path, run(0, 50), key=b"model two")
    stored(opened, tmp_path, run(0, 50), max_bytes=800)
    assert folder_bytes(tmp_path) <= 800


def test_damage_anywhere_is_found_removed_and_counted(tmp_path, opened):
    stored(opened, tmp_path, run(0, 10))
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        cache = opened(tmp_path)
        assert found(cache, run(0, 10))[1] is None, f"byte {place}"
        cache.close()
        assert (cache.stats.damaged, files(tmp_path)) == (1, []), f"byte {place}"


def test_truncated_or_longer_file_is_found_removed_and_counted(tmp_path, opened):
    stored(opened, tmp_path, run(0, 10))
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    for damaged in (*(whole[:size] for size in range(0, len(whole), 7)), whole + b"x"):
        file.write_bytes(damaged)
        cache = opened(tmp_path)
        assert (found(cache, run(0, 10)), cache.stats.damaged, files(tmp_path)) == ((0, None), 1, [])
        cache.close()


def test_damage_after_the_start_is_found_at_the_read(tmp_path, opened):
    cache = stored(opened, tmp_path, run(0, 10))
    cache = opened(tmp_path)
    (file,) = files(tmp_path)
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert (found(cache, run(0, 10)), found(cache, run(0, 10))) == ((10, None), (0, None))
    assert (cache.stats.damaged, files(tmp_path)) == (1, [])


def test_state_of_other_tokens_under_the_name_is_found(tmp_path, opened):
    stored(opened, tmp_path, run(0, 10), run(100, 120))
    cache = opened(tmp_path)
    first, second = (tmp_path / cache.match(ids, "").entry.name for ids in (run(0, 10), run(100, 120)))
    os.replace(second, first)
    assert found(cache, run(0, 10)) == (10, None)


def test_state_that_was_deleted_is_a_miss(tmp_path, opened):
    stored(opened, tmp_path, run(0, 10))
    cache = opened(tmp_path)
    files(tmp_path)[0].unlink()
    assert (found(cache, run(0, 10)), found(cache, run(0, 10))) == ((10, None), (0, None))


def test_discarded_state_is_removed(tmp_path, opened):
    stored(opened, tmp_path, run(0, 10))
    cache = opened(tmp_path)
    cache.discard(cache.match(run(0, 10), "").entry)
    cache.close()
    assert (cache.stats.damaged, files(tmp_path)) == (1, [])


def test_two_caches_in_one_folder_find_each_others_states(tmp_path, opened):
    first, second = opened(tmp_path), opened(tmp_path)
    stored(lambda path: first, tmp_path, run(0, 50))
    second.refresh()
    assert found(second, run(0, 50)) == (50, state_of(run(0, 50)))


def test_two_caches_that_store_the_same_keep_one_file(tmp_path, opened):
    first, second = opened(tmp_path), opened(tmp_path)
    for cache in (first, second):
        stored(lambda path, cache=cache: cache, tmp_path, run(0, 50))
    assert (len(files(tmp_path)), second.stats.writes) == (1, 0)


def test_temporary_file_of_a_dead_process_is_removed_at_the_start(tmp_path, opened):
    (tmp_path / "0.llamafast-tmp").write_bytes(b"x" * 100)
    opened(tmp_path)
    assert folder_bytes(tmp_path) == 0


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6), st.integers(1, 30)), min_size=1, max_size=12),
    can_cut=st.booleans(),
)
def test_folder_never_exceeds_its_cap(tmp_path_factory, sizes, can_cut):
    folder = tmp_path_factory.mktemp("cap")
    largest, fsync = [0], os.fsync

    def watching(handle: int) -> None:  # when a new file is complete and the files that it covers still exist
        largest[0] = max(largest[0], folder_bytes(folder))
        fsync(handle)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", watching)
        settings = {"max_bytes": 1500, "min_tokens": 1, "can_cut": can_cut}
        caches = [DiskCache(folder, key=key, **settings) for key in (b"1", b"2")]
        for number, start, length in sizes:
            caches[number].store(run(start, start + length), "", b"x" * 10 * length)
        for cache in caches:
            cache.close()
    assert max(largest[0], folder_bytes(folder)) <= 1500


WRITER = """
import sys
from array import array
from llamafast.cache.disk.disk_cache import DiskCache
cache = DiskCache(sys.argv[1], max_bytes=60_000, min_tokens=1, key=b"model one", can_cut=False)
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    token_ids = array("i", range(number, number + 40))
    cache.store(token_ids, "", b"state of " + token_ids.tobytes() * 50)
cache.close()
"""


def writer(path: Path, first: int, last: int) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(first), str(last)])


def check_all(cache: DiskCache) -> int:
    """Read every state in the index and compare it with its tokens. Returns their number."""
    entries = list(cache._numbered.values())
    for entry in entries:
        assert cache.load(entry).result() == b"state of " + entry.header.token_ids.tobytes() * 50
    return len(entries)


def test_processes_that_share_a_folder_keep_it_whole(tmp_path, opened):
    processes = [writer(tmp_path, first, first + 60) for first in (0, 1000)]
    for process in processes:
        process.wait()
    cache = opened(tmp_path, max_bytes=60_000, can_cut=False)
    assert [process.returncode for process in processes] == [0, 0]
    assert (check_all(cache), cache.stats.damaged, folder_bytes(tmp_path) <= 60_000) == (7, 0, True)
