"""Stored states of prompts with media: their spans are restored, damage is found, and no match splits a span."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamafast.cache.disk.disk_cache import DiskCache
from llamafast.cache.prompt import TEXT_ONLY, Prompt
from tests.cache.test_prompt import audio, image

PROMPT = Prompt.join([[1, 2, 3], image("A"), [4], audio("D"), [5, 6]])  # 3 + 6 + 1 + 5 + 2 rows


def store(path: Path, prompt: Prompt, **settings) -> DiskCache:
    """A closed cache that has written the state of a prompt. match() still works."""
    settings = {"max_bytes": 10**6, "min_tokens": 1, "key": b"key", "can_cut": True} | settings
    cache = DiskCache(path, **settings)
    cache.store(prompt.ids, "", b"state", layout=prompt.layout)
    cache.close()
    return cache


def file_in(path: Path) -> Path:
    (file,) = path.glob("*.llamafast-state")
    return file


def length(cache: DiskCache, parts) -> int:
    prompt = Prompt.join(parts)
    return cache.match(prompt.ids, "", prompt.layout).length


def test_spans_come_back_after_a_restart(tmp_path):
    store(tmp_path, PROMPT)
    match = store(tmp_path, Prompt.join([[9]])).match(PROMPT.ids, "", PROMPT.layout)
    assert (match.length, match.entry.header.layout.media) == (16, PROMPT.layout.media)


def test_state_of_text_alone_has_the_first_version(tmp_path):
    store(tmp_path, Prompt.join([[1, 2, 3]]))
    assert file_in(tmp_path).read_bytes()[8:12] == (1).to_bytes(4, "little")


def test_match_splits_no_span(tmp_path):
    cache = store(tmp_path, PROMPT)
    assert length(cache, [[1, 2, 3], image("A")]) == 3  # the last image is computed again
    assert length(cache, [[1, 2, 3], image("A"), [7]]) == 9
    assert length(cache, [[1, 2, 3], image("B"), [7]]) == 3


def test_match_that_cannot_cut_takes_no_part(tmp_path):
    cache = store(tmp_path, Prompt.join([[1, 2, 3], image("A")]), can_cut=False)
    assert length(cache, [[1, 2, 3], image("A"), [7]]) == 9
    assert length(cache, [[1, 2, 3], image("B"), [7]]) == 0


@pytest.mark.parametrize(("can_cut", "length"), [(True, 3), (False, 0)])
def test_match_of_forged_ids_ends_before_the_span(tmp_path, can_cut, length):
    cache = store(tmp_path, PROMPT, can_cut=can_cut)
    assert cache.match(Prompt.join([PROMPT.ids, [7]]).ids, "", TEXT_ONLY).length == length


@pytest.mark.parametrize("place", range(0, 400, 13))
def test_damage_anywhere_in_the_header_is_found(tmp_path, place):
    store(tmp_path, PROMPT)
    file = file_in(tmp_path)
    whole = file.read_bytes()
    place %= len(whole) - len(b"state")
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    cache = DiskCache(tmp_path, max_bytes=10**6, min_tokens=1, key=b"key", can_cut=True)
    cache.close()
    assert (cache.stats.damaged, cache.stats.num_states) == (1, 0)


def test_file_cut_within_its_spans_is_found(tmp_path):
    store(tmp_path, PROMPT)
    file = file_in(tmp_path)
    file.write_bytes(file.read_bytes()[:-40])
    cache = DiskCache(tmp_path, max_bytes=10**6, min_tokens=1, key=b"key", can_cut=True)
    cache.close()
    assert (cache.stats.damaged, cache.stats.num_states) == (1, 0)
