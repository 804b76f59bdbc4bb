"""The database of stored responses: limits, eviction, chains and ends, on a clock of the test's own."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest

from llamafast.responses.database import ResponseDatabase, StoredResponse

TTL_S = 100.0


def row(name: str, parent: str | None = None, *, size: int = 10, status: str = "completed", **fields) -> StoredResponse:
    body = fields.pop("body", name.encode() * 1 + bytes(range(256)) * 0 + b"x" * size)
    return StoredResponse(name, fields.pop("owner", ""), parent, status, False, 0.0, body, b"[]", **fields)


@pytest.fixture(params=["memory", "file"])
def database(request, tmp_path):
    path = tmp_path / "responses.db" if request.param == "file" else None
    opened = ResponseDatabase(path, max_bytes=20_000, max_row_bytes=10_000, ttl_s=TTL_S)
    yield opened
    opened.close()


def test_put_row_comes_back_whole(database):
    stored = row("a", "p", size=3000, model_key="m", token_ids=b"1234" * 200)
    assert database.put(stored, 1.0)
    assert database.get("a", "", 2.0) == stored


def test_get_of_another_owner_is_nothing(database):
    database.put(row("a", owner="alice"), 1.0)
    assert database.get("a", "bob", 2.0) is None


def test_get_after_its_time_is_nothing(database):
    database.put(row("a"), 1.0)
    assert database.get("a", "", TTL_S + 1) is None


def test_put_of_a_row_that_is_too_large_is_refused(database):
    # Text that does not compress.
    big = replace(row("a"), body=bytes(hash((i, "x")) % 251 for i in range(30_000)))
    assert not database.put(big, 1.0)
    assert database.counts.num_refused == 1
    assert database.counts.num_rows == 0


def noise(seed: int, size: int) -> bytes:
    import random

    return random.Random(seed).randbytes(size)


def test_put_beyond_the_limit_removes_the_least_recently_used(database):
    for i in range(4):
        database.put(row(f"r{i}", body=noise(i, 4000)), float(i))
    database.chain("r0", "", 10.0, max_rows=9, max_bytes=10**6)  # used now
    database.put(row("new", body=noise(9, 4000)), 11.0)
    assert [name for name in ("r0", "r1", "r2", "r3", "new") if database.get(name, "", 12.0)] == [
        "r0", "r2", "r3", "new",
    ]  # fmt: skip
    assert database.counts.num_evicted == 1
    assert database.counts.num_bytes <= 20_000


def test_put_beyond_the_limit_drops_token_ids_first(database):
    for i in range(4):
        database.put(row(f"r{i}", body=noise(i, 2000), model_key="m", token_ids=noise(i + 50, 2000)), float(i))
    database.put(row("new", body=noise(9, 4000)), 11.0)
    rows = [database.get(f"r{i}", "", 12.0) for i in range(4)]
    assert all(rows)
    assert rows[0].token_ids == b""
    assert rows[3].token_ids


def test_counts_agree_with_the_rows_after_everything(database):
    for i in range(30):
        database.put(row(f"r{i % 7}", body=noise(i, 100 * i), token_ids=noise(i, 50 * i), model_key="m"), float(i))
        if i % 3 == 0:
            database.delete(f"r{i % 5}", "", float(i))
    found = database._db.execute("SELECT COUNT(*), TOTAL(num_bytes) FROM responses").fetchone()
    assert (database.counts.num_rows, database.counts.num_bytes) == found


def test_chain_gives_the_conversation_from_its_beginning(database):
    for name, parent in (("a", None), ("b", "a"), ("c", "b"), ("fork", "a")):
        database.put(row(name, parent), 1.0)
    assert [r.id for r in database.chain("c", "", 2.0, max_rows=9, max_bytes=10**6)] == ["a", "b", "c"]
    assert [r.id for r in database.chain("fork", "", 2.0, max_rows=9, max_bytes=10**6)] == ["a", "fork"]


@pytest.mark.parametrize("gone", ["a", "b", "c"])
def test_chain_with_a_hole_names_what_is_missing(database, gone):
    for name, parent in (("a", None), ("b", "a"), ("c", "b")):
        database.put(row(name, parent), 1.0)
    database.delete(gone, "", 2.0)
    assert database.chain("c", "", 3.0, max_rows=9, max_bytes=10**6) == gone


def test_chain_that_is_too_long_raises(database):
    for i in range(5):
        database.put(row(f"r{i}", f"r{i - 1}" if i else None), 1.0)
    with pytest.raises(OverflowError):
        database.chain("r4", "", 2.0, max_rows=4, max_bytes=10**6)
    with pytest.raises(OverflowError):
        database.chain("r4", "", 2.0, max_rows=9, max_bytes=20)


def test_finish_ends_what_runs_once(database):
    database.put(row("a", status="in_progress"), 1.0)
    assert database.finish(row("a", status="cancelled", body=b"cancelled"), 2.0)
    assert not database.finish(row("a", body=b"completed"), 3.0)
    assert database.get("a", "", 4.0).body == b"cancelled"
    assert not database.finish(row("unknown"), 4.0)


def test_active_lists_what_runs(database):
    for name, status in (("a", "queued"), ("b", "in_progress"), ("c", "completed")):
        database.put(row(name, status=status), 1.0)
    assert sorted(r.id for r in database.active()) == ["a", "b"]


def test_events_are_replayed_from_a_number(database):
    database.put(row("a", status="in_progress"), 1.0)
    assert database.add_events("a", 0, [b"zero", b"one"])
    assert database.add_events("a", 2, [b"two"])
    assert database.events("a", 0) == [(1, b"one"), (2, b"two")]
    database.delete("a", "", 2.0)
    assert database.events("a", -1) == []
    assert not database.add_events("a", 3, [b"three"])


def test_a_transaction_that_fails_changes_nothing(database):
    database.put(row("a"), 1.0)
    before = database.counts
    with pytest.raises(sqlite3.Error):
        database.put(replace(row("b"), status=None), 2.0)
    assert database.counts == before
    assert database.get("b", "", 3.0) is None
    assert database.put(row("c"), 3.0)


def test_rows_are_there_after_the_file_is_opened_again(tmp_path):
    path = tmp_path / "responses.db"
    first = ResponseDatabase(path, max_bytes=20_000, max_row_bytes=10_000, ttl_s=TTL_S)
    first.put(row("a"), 1.0)
    counts = first.counts
    first.close()
    second = ResponseDatabase(path, max_bytes=20_000, max_row_bytes=10_000, ttl_s=TTL_S)
    assert second.get("a", "", 2.0) == row("a")
    assert (second.counts.num_rows, second.counts.num_bytes) == (1, counts.num_bytes)
    second.close()
