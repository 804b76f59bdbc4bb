"""The responses of one connection, which later creates on the same connection can continue without the store."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from llamafast.responses.database import StoredResponse

_ROW_BYTES = 512  # Python objects of one entry, estimated


class RecentResponses:
    """Responses by id. The ones used least recently are removed when the total size exceeds a limit."""

    def __init__(self, max_bytes: int) -> None:
        """max_bytes: the limit of all responses together."""
        self._max_bytes = max_bytes
        self._rows: OrderedDict[str, tuple[StoredResponse, str | None]] = OrderedDict()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: StoredResponse, lane: str | None) -> None:
        """Keep a response that has ended. lane: the stream id of its create.

        Its parent loses the token ids: each response has those of the whole conversation, so a long conversation would
        need memory in the square of its length. A second response to the same parent tokenizes its history again.
        """
        if row.parent_id is not None and row.parent_id in self._rows:
            parent, parent_lane = self._remove(row.parent_id)
            self._insert(replace(parent, token_ids=b""), parent_lane)
        self._insert(row, lane)
        while self.num_bytes > self._max_bytes:
            self._remove(next(iter(self._rows)))

    def chain(self, response_id: str) -> list[StoredResponse]:
        """The response and the responses before it that are kept, the earliest first. Empty: the id is not kept."""
        rows: list[StoredResponse] = []
        next_id: str | None = response_id
        while next_id is not None and next_id in self._rows:
            rows.append(self._rows[next_id][0])
            self._rows.move_to_end(next_id)
            next_id = rows[-1].parent_id
        return rows[::-1]

    def forget(self, response_id: str | None, lane: str | None) -> None:
        """Remove a response if its create came on this lane."""
        if response_id is not None and response_id in self._rows and self._rows[response_id][1] == lane:
            self._remove(response_id)

    def _insert(self, row: StoredResponse, lane: str | None) -> None:
        self._rows[row.id] = row, lane
        self.num_bytes += _size(row)

    def _remove(self, response_id: str) -> tuple[StoredResponse, str | None]:
        row, lane = self._rows.pop(response_id)
        self.num_bytes -= _size(row)
        return row, lane


def _size(row: StoredResponse) -> int:
    return _ROW_BYTES + len(row.body) + len(row.input) + len(row.token_ids)
