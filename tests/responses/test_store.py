"""The store of responses: its thread, its file, and what a killed process leaves."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from contextlib import closing

import pytest

from llamafast.errors import ConfigError, InvalidRequestError
from llamafast.responses.database import StoredResponse
from llamafast.responses.store import ResponseStore


def row(name: str, parent: str | None = None, status: str = "completed", body: bytes = b"{}") -> StoredResponse:
    return StoredResponse(name, "", parent, status, False, time.time(), body, b"[]")


@pytest.fixture
def store():
    opened = ResponseStore()
    yield opened
    opened.close()


def test_store_forks_of_one_parent_at_once_see_it(store):
    async def main():
        await store.put(row("parent"))
        chains = await asyncio.gather(*(store.chain("parent", "") for _ in range(20)))
        assert all([found.id for found in chain] == ["parent"] for chain in chains)

    asyncio.run(main())


def test_store_chain_of_an_unknown_response_is_openais_error(store):
    async def main():
        with pytest.raises(InvalidRequestError) as caught:
            await store.chain("resp_1", "")
        assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")
        assert caught.value.message == "Previous response with id 'resp_1' not found."

    asyncio.run(main())


def test_store_chain_of_a_running_response_is_refused(store):
    async def main():
        await store.put(row("a", status="in_progress"))
        with pytest.raises(InvalidRequestError, match="still in progress"):
            await store.chain("a", "")

    asyncio.run(main())


def test_store_whose_database_fails_goes_on_without_it(store):
    async def main():
        store._database._db.execute("DROP TABLE responses")
        assert not await store.put(row("a"))
        assert await store.get("a", "") is None
        assert store.num_failures == 2

    asyncio.run(main())


def test_store_that_is_closed_finds_nothing(store):
    async def main():
        await store.put(row("a"))
        store.close()
        assert await store.get("a", "") is None

    asyncio.run(main())


def test_store_file_is_readable_by_its_owner_alone(tmp_path):
    store = ResponseStore(tmp_path / "new" / "responses.db")
    asyncio.run(store.put(row("a")))
    modes = {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in (tmp_path / "new").iterdir()}
    store.close()
    assert modes == {0}


def test_store_file_of_another_process_is_refused(tmp_path):
    store = ResponseStore(tmp_path / "responses.db")
    with pytest.raises(ConfigError, match="in use"):
        ResponseStore(tmp_path / "responses.db")
    store.close()
    ResponseStore(tmp_path / "responses.db").close()


def test_store_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "responses.db"
    path.write_bytes(b"something else" * 1000)
    with pytest.raises(ConfigError, match="cannot be used"):
        ResponseStore(path)
    assert path.read_bytes() == b"something else" * 1000


def test_store_fails_what_ran_when_the_process_ended(tmp_path):
    first = ResponseStore(tmp_path / "responses.db")
    asyncio.run(first.put(row("a", status="in_progress")))
    first.close()
    second = ResponseStore(tmp_path / "responses.db")
    assert second.fail_active(lambda found: b"failed " + found.id.encode()) == 1
    found = asyncio.run(second.get("a", ""))
    assert (found.status, found.body) == ("failed", b"failed a")
    second.close()


WRITER = """
import asyncio, sys, time
from pathlib import Path
from llamafast.responses.database import StoredResponse
from llamafast.responses.store import ResponseStore
async def main():
    store = ResponseStore(Path(sys.argv[1]))
    i = 0
    while True:
        await store.put(StoredResponse(f"r{i}", "", f"r{i-1}" if i else None, "completed", False, time.time(),
                                       b"{" + b"x" * 3000, b"[]"))
        print(i, flush=True)
        i += 1
asyncio.run(main())
"""


def test_store_of_a_killed_process_has_all_that_was_answered(tmp_path):
    path = tmp_path / "responses.db"
    for attempt in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        lines = [writer.stdout.readline() for _ in range(random.Random(attempt).randrange(1, 60))]
        writer.send_signal(signal.SIGKILL)
        last = int((lines + writer.communicate()[0].splitlines())[-1])
        store = ResponseStore(path)
        found = asyncio.run(store.chain(f"r{last}", ""))
        assert [r.id for r in found] == [f"r{i}" for i in range(last + 1)]
        store.close()
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
