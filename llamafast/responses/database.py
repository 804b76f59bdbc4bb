"""The SQLite database of stored responses: tables, limits and eviction. One thread uses it."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

ACTIVE = ("queued", "in_progress")

# A short text is not worth compressing. Level 1: about 100 MB/s, half the size.
_MIN_COMPRESSED = 512
_LEVEL = 1
_ROW_BYTES = 512  # index entries and page slack of one row, estimated
_FREED_PAGES = 256  # pages given back to the file system after an eviction

_TABLES = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, parent_id TEXT, status TEXT NOT NULL, background INTEGER NOT NULL,
    created_s REAL NOT NULL, expires_s REAL NOT NULL, used_s REAL NOT NULL, num_bytes INTEGER NOT NULL,
    body BLOB NOT NULL, input BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS responses_used ON responses (used_s);
CREATE INDEX IF NOT EXISTS responses_expires ON responses (expires_s);
CREATE TABLE IF NOT EXISTS tokens (
    id TEXT PRIMARY KEY REFERENCES responses (id) ON DELETE CASCADE, model_key TEXT NOT NULL, token_ids BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS events (
    id TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE, number INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (id, number)
) WITHOUT ROWID;
"""
_COLUMNS = "id, owner, parent_id, status, background, created_s, body, input"


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """One response at rest.

    id: the response's id. owner: who may read it, a digest of the API key; "" if there are no keys. parent_id: the
    `previous_response_id`, None: it begins a conversation. status: OpenAI's word. is_background: it may outlive its
    client. created_s: seconds since the epoch. body: the response object as JSON. input: the list of its own input
    items as JSON, without those of its parents. model_key: names model, template and tools that token_ids are valid
    for. token_ids: int32 bytes of the conversation in tokens up to the end of the answer; empty: not kept.
    """

    id: str
    owner: str
    parent_id: str | None
    status: str
    is_background: bool
    created_s: float
    body: bytes
    input: bytes
    model_key: str = ""
    token_ids: bytes = b""


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """What the store holds and what it did since the start.

    num_rows: responses. num_bytes: their size. num_hits, num_misses: reads of single responses. num_evicted: rows
    removed to make room. num_expired: rows removed after their time. num_refused: rows that were too large to store.
    """

    num_rows: int = 0
    num_bytes: int = 0
    num_hits: int = 0
    num_misses: int = 0
    num_evicted: int = 0
    num_expired: int = 0
    num_refused: int = 0


class ResponseDatabase:
    """Responses under a limit of bytes and of time. Not thread-safe.

    path: a file, made if there is none; None: in memory. max_bytes: of all rows. max_row_bytes: of one. ttl_s: seconds
    that a row is kept after its creation. Raises sqlite3.Error if the file cannot be opened or is no such database.
    """

    def __init__(self, path: Path | None, *, max_bytes: int, max_row_bytes: int, ttl_s: float) -> None:
        self._max_bytes = max_bytes
        self._max_row_bytes = min(max_row_bytes, max_bytes)
        self._ttl_s = ttl_s
        self._db = sqlite3.connect(":memory:" if path is None else path, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")  # a killed process loses nothing, a power cut the last rows
            self._db.execute("PRAGMA foreign_keys = ON")
            self._db.execute(f"PRAGMA journal_size_limit = {max(1 << 20, max_bytes // 8)}")
            self._db.executescript(_TABLES)
            num_rows, num_bytes = self._db.execute("SELECT COUNT(*), TOTAL(num_bytes) FROM responses").fetchone()
        except sqlite3.Error:
            self._db.close()
            raise
        self.counts = StoreCounts(num_rows, int(num_bytes))

    def put(self, row: StoredResponse, now_s: float) -> bool:
        """Add a response, or replace one with the same id; False: it is too large.

        Rows that have expired go first, then token ids, then whole rows, both in the order of their last use.
        """
        body, given, tokens = _packed(row.body), _packed(row.input), _packed(row.token_ids)
        num_bytes = _ROW_BYTES + len(body) + len(given)
        if num_bytes > self._max_row_bytes:
            self.counts = replace(self.counts, num_refused=self.counts.num_refused + 1)
            return False
        if num_bytes + len(tokens) > self._max_row_bytes:
            tokens = b""
        num_bytes += len(tokens)
        with self._transaction():
            self._remove([row.id])
            self._make_room(num_bytes, now_s)
            values = (row.id, row.owner, row.parent_id, row.status, row.is_background, row.created_s)
            self._db.execute(
                "INSERT INTO responses (id, owner, parent_id, status, background, created_s, expires_s, used_s, "
                "num_bytes, body, input) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*values, row.created_s + self._ttl_s, now_s, num_bytes, body, given),
            )
            if tokens:
                self._db.execute("INSERT INTO tokens VALUES (?, ?, ?)", (row.id, row.model_key, tokens))
            self._count(1, num_bytes)
        return True

    def finish(self, row: StoredResponse, now_s: float) -> bool:
        """Store the end of a response that is queued or in progress; False: it has ended already, or is gone.

        So a late end never overwrites a cancellation. Its events stay.
        """
        found = self._db.execute("SELECT status FROM responses WHERE id = ?", (row.id,)).fetchone()
        if found is None or found[0] not in ACTIVE:
            return False
        body, tokens = _packed(row.body), _packed(row.token_ids)
        with self._transaction():
            (before, had) = self._db.execute(
                "SELECT num_bytes, LENGTH(body) FROM responses WHERE id = ?", (row.id,)
            ).fetchone()
            if before - had + len(body) > self._max_row_bytes:  # the answer itself is too large: its end is kept
                return False
            grown = len(body) - had + len(tokens)
            self._make_room(max(0, grown), now_s, keep=row.id)
            self._db.execute(
                "UPDATE responses SET status = ?, body = ?, used_s = ?, num_bytes = num_bytes + ? WHERE id = ?",
                (row.status, body, now_s, grown, row.id),
            )
            if tokens:
                self._db.execute("INSERT OR REPLACE INTO tokens VALUES (?, ?, ?)", (row.id, row.model_key, tokens))
            self._count(0, grown)
        return True

    def get(self, response_id: str, owner: str, now_s: float, *, with_tokens: bool = True) -> StoredResponse | None:
        """A response of this owner; None: there is none, or its time is over. with_tokens: with its token ids."""
        row = self._read(response_id, owner, now_s, with_tokens=with_tokens)
        counts = self.counts
        self.counts = replace(
            counts, num_hits=counts.num_hits + (row is not None), num_misses=counts.num_misses + (row is None)
        )
        return row

    def chain(
        self, response_id: str, owner: str, now_s: float, *, max_rows: int, max_bytes: int
    ) -> list[StoredResponse] | str:
        """A response with all that it continues, the first one first; else the id of what is missing.

        Only the last one has its token ids: they are those of the whole conversation. All of them count as used.
        Raises OverflowError beyond max_rows or max_bytes.
        """
        rows: list[StoredResponse] = []
        num_bytes = 0
        wanted: str | None = response_id
        while wanted is not None:
            row = self.get(wanted, owner, now_s, with_tokens=not rows)
            if row is None:
                return wanted
            rows.append(row)
            num_bytes += len(row.body) + len(row.input)
            if len(rows) > max_rows or num_bytes > max_bytes:
                raise OverflowError
            wanted = row.parent_id
        self._db.executemany("UPDATE responses SET used_s = ? WHERE id = ?", [(now_s, row.id) for row in rows])
        return rows[::-1]

    def delete(self, response_id: str, owner: str, now_s: float) -> bool:
        """Remove a response; those that continue it lose their history. False: there is none."""
        if self._read(response_id, owner, now_s) is None:
            return False
        with self._transaction():
            self._remove([response_id])
        return True

    def add_events(self, response_id: str, first_number: int, events: Sequence[bytes]) -> bool:
        """Keep events of a response that runs, numbered from first_number on. False: it is gone, or too large now."""
        found = self._db.execute("SELECT num_bytes FROM responses WHERE id = ?", (response_id,)).fetchone()
        num_bytes = sum(map(len, events))
        if found is None or found[0] + num_bytes > self._max_row_bytes:
            return False
        with self._transaction():
            self._make_room(num_bytes, 0.0, keep=response_id)
            rows = [(response_id, number, data) for number, data in enumerate(events, first_number)]
            self._db.executemany("INSERT OR REPLACE INTO events VALUES (?, ?, ?)", rows)
            self._db.execute("UPDATE responses SET num_bytes = num_bytes + ? WHERE id = ?", (num_bytes, response_id))
            self._count(0, num_bytes)
        return True

    def events(self, response_id: str, after: int) -> list[tuple[int, bytes]]:
        """The kept events with numbers above `after`, as (number, data)."""
        found = self._db.execute(
            "SELECT number, data FROM events WHERE id = ? AND number > ? ORDER BY number", (response_id, after)
        )
        return found.fetchall()

    def active(self) -> list[StoredResponse]:
        """The responses that are queued or in progress."""
        found = self._db.execute(f"SELECT {_COLUMNS} FROM responses WHERE status IN (?, ?)", ACTIVE)
        return [self._row(values) for values in found.fetchall()]

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing, the counts too."""
        counts, is_done = self.counts, False
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
            is_done = True
        finally:
            if not is_done:
                self.counts = counts
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def _read(self, response_id: str, owner: str, now_s: float, *, with_tokens: bool = True) -> StoredResponse | None:
        found = self._db.execute(
            f"SELECT {_COLUMNS} FROM responses WHERE id = ? AND owner = ? AND expires_s > ?",
            (response_id, owner, now_s),
        ).fetchone()
        return None if found is None else self._row(found, with_tokens=with_tokens)

    def _row(
        self, values: tuple[str, str, str | None, str, int, float, bytes, bytes], *, with_tokens: bool = True
    ) -> StoredResponse:
        response_id, owner, parent_id, status, background, created_s, body, given = values
        query = "SELECT model_key, token_ids FROM tokens WHERE id = ?"
        found = self._db.execute(query, (response_id,)).fetchone() if with_tokens else None
        model_key, tokens = ("", b"") if found is None else found
        return StoredResponse(
            response_id,
            owner,
            parent_id,
            status,
            bool(background),
            created_s,
            _unpacked(body),
            _unpacked(given),
            model_key,
            _unpacked(tokens),
        )

    def _make_room(self, num_bytes: int, now_s: float, keep: str = "") -> None:
        """Within a transaction: remove until num_bytes more fit. keep: a row that stays whole."""
        expired = self._db.execute("SELECT id FROM responses WHERE expires_s <= ?", (now_s,)).fetchall()
        self._remove([row[0] for row in expired])
        num_evicted = 0
        if self.counts.num_bytes + num_bytes > self._max_bytes:
            self._drop_tokens(self.counts.num_bytes + num_bytes - self._max_bytes, keep)
        while self.counts.num_bytes + num_bytes > self._max_bytes:
            found = self._db.execute(
                "SELECT id FROM responses WHERE id != ? ORDER BY used_s LIMIT 1", (keep,)
            ).fetchone()
            if found is None:
                break
            self._remove([found[0]])
            num_evicted += 1
        if expired or num_evicted:
            self._db.execute(f"PRAGMA incremental_vacuum({_FREED_PAGES})").fetchall()
        self.counts = replace(
            self.counts,
            num_evicted=self.counts.num_evicted + num_evicted,
            num_expired=self.counts.num_expired + len(expired),
        )

    def _drop_tokens(self, num_bytes: int, keep: str) -> None:
        """Remove token ids in the order of the last use until num_bytes are free: they can be computed again."""
        found = self._db.execute(
            "SELECT tokens.id, LENGTH(token_ids) FROM tokens JOIN responses USING (id) WHERE id != ? ORDER BY used_s",
            (keep,),
        )
        dropped: list[tuple[int, str]] = []
        for response_id, size in found:
            if num_bytes <= 0:
                break
            dropped.append((size, response_id))
            num_bytes -= size
        self._db.executemany("DELETE FROM tokens WHERE id = ?", [(response_id,) for _, response_id in dropped])
        self._db.executemany("UPDATE responses SET num_bytes = num_bytes - ? WHERE id = ?", dropped)
        self._count(0, -sum(size for size, _ in dropped))

    def _remove(self, response_ids: Sequence[str]) -> None:
        for response_id in response_ids:
            found = self._db.execute("SELECT num_bytes FROM responses WHERE id = ?", (response_id,)).fetchone()
            if found is not None:
                self._db.execute("DELETE FROM responses WHERE id = ?", (response_id,))
                self._count(-1, -found[0])

    def _count(self, num_rows: int, num_bytes: int) -> None:
        counts = self.counts
        self.counts = replace(counts, num_rows=counts.num_rows + num_rows, num_bytes=counts.num_bytes + num_bytes)


def _packed(data: bytes) -> bytes:
    """The bytes with a mark before them: compressed or as they are."""
    if not data:
        return b""
    return b"z" + zlib.compress(data, _LEVEL) if len(data) >= _MIN_COMPRESSED else b"=" + data


def _unpacked(data: bytes) -> bytes:
    return zlib.decompress(data[1:]) if data[:1] == b"z" else data[1:]
