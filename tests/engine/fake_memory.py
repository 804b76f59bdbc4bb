"""A KV memory in pure Python, with cells, positions, states and windows like llama.cpp's."""

from __future__ import annotations

import ast

from llamafast.cache.prompt import MediaSpan, media_ids

TEXT_ROW = MediaSpan(0, 1, 1, 0, b"")
"""A text row has positions like a span of one row."""


class FakeContext:
    """A KV memory. kind as Context.memory_kind; a violated precondition is an AssertionError.

    cells: (position, id, owners) of each cell.
    media: (span, number of the row within it) by the id of a media row. The rows of a span take positions as M-RoPE
        gives them: p0 + min(number, last_t_offset); the next row has p0 + n_pos.
    states: of hybrid and recurrent memories, the ids that each sequence's state has read. A copied range of cells
        brings the source's present state, and a decode is right only from a state that fits the cells.
    window_starts: of sliding windows, the first position that each sequence still has, out of windows of n_swa
        positions; swa_full keeps all.
    moved: the position from which on the cells of a sequence were computed after other tokens than those that they
        follow.
    """

    def __init__(
        self, n_ctx=64, n_seq_max=4, n_batch=16, kind="attention", kv_unified=True, n_swa=8, swa_full=False
    ) -> None:
        self.n_ctx, self.n_seq_max, self.n_batch, self.n_outputs_max = n_ctx, n_seq_max, n_batch, n_seq_max
        self.memory_kind, self.kv_unified, self.n_swa = kind, kv_unified, n_swa
        self.swa_full = swa_full or kind != "swa"
        self.cells: list[tuple[int, int, set[int]]] = []
        self.media: dict[int, tuple[MediaSpan, int]] = {}
        self.has_state = kind in ("hybrid", "recurrent")
        self.states: dict[int, tuple[int, ...]] = {}
        self.window_starts: dict[int, int] = {}
        self.moved: dict[int, int] = {}
        self.can_shift = kind == "attention"
        self.threads = 1
        self.model = None

    def take_media(self, spans) -> None:
        """Register the ids of spans."""
        for span in spans:
            ids = media_ids(span.digest, span.n_rows)
            self.media.update((row_id, (span, number)) for number, row_id in enumerate(ids))

    def rows(self, seq_id: int) -> list[tuple[int, int]]:
        """(position, id) of each row of a sequence, in the order of the prompt."""
        rows = [(pos, token) for pos, token, owners in self.cells if seq_id in owners]
        return sorted(rows, key=lambda row: row[0])

    def positions(self, ids) -> list[int]:
        """The positions of the rows of a sequence with these ids, and the position of the next row."""
        positions, start, expected, span = [], 0, 0, TEXT_ROW
        for row_id in ids:
            span, number = self.media.get(row_id, (TEXT_ROW, 0))
            assert number == expected, "a span is cut"
            positions.append(start + min(number, span.last_t_offset))
            expected = (number + 1) % span.n_rows
            start += 0 if expected else span.n_pos
        return [*positions, start + min(expected, span.last_t_offset)]

    def history(self, seq_id: int) -> tuple[int, ...]:
        rows = self.rows(seq_id)
        ids = tuple(row_id for _, row_id in rows)
        assert [pos for pos, _ in rows] == self.positions(ids)[:-1], f"sequence {seq_id} has holes"
        return ids

    def add_cell(self, pos: int, token: int, seq_id: int) -> None:
        """Add one row, like a decode."""
        next_pos = self.positions(self.history(seq_id))[-1] if self.media else self.seq_pos_max(seq_id) + 1
        assert pos == next_pos, f"sequence {seq_id} jumps to {pos}"
        if self.has_state:
            state = self.states.get(seq_id, ())
            assert state == self.history(seq_id), f"the state of sequence {seq_id} is that of other tokens"
            self.states[seq_id] = (*state, token)
        if not self.swa_full:
            window_start = self.window_starts.get(seq_id, 0)
            assert window_start <= max(0, pos - self.n_swa + 1), f"the window of sequence {seq_id} has gone"
            self.window_starts[seq_id] = max(window_start, pos - self.n_swa + 1)
        self.cells.append((pos, token, {seq_id}))

    def seq_rm(self, seq_id: int, p0: int, p1: int) -> bool:
        assert 0 <= seq_id < self.n_seq_max
        if p0 > 0 and len(self.states.get(seq_id, ())) > sum(pos < p0 for pos, _ in self.rows(seq_id)):
            return False
        if p0 <= 0:
            self.states.pop(seq_id, None)
            self.window_starts.pop(seq_id, None)
        if p1 < 0 and p0 <= self.moved.get(seq_id, 0):
            self.moved.pop(seq_id, None)
        for pos, _, owners in self.cells:
            if pos >= p0 and (p1 < 0 or pos < p1):
                owners.discard(seq_id)
        self.cells = [cell for cell in self.cells if cell[2]]
        return True

    def seq_add(self, seq_id: int, p0: int, p1: int, delta: int) -> None:
        assert self.can_shift, "llama.cpp would end the process"
        for i, (pos, token, owners) in enumerate(self.cells):
            if seq_id in owners and p0 <= pos < p1:
                assert owners == {seq_id}, "a cell moves under another sequence"
                self.cells[i] = (pos + delta, token, owners)
        self.moved[seq_id] = min(p0 + delta, self.moved.get(seq_id, p0))

    def seq_cp(self, src: int, dst: int, p0: int, p1: int) -> None:
        copied = [pos for pos, _ in self.rows(src) if pos >= p0 and (p1 < 0 or pos < p1)]
        assert min(copied, default=0) > self.seq_pos_max(dst) or not copied, "copied rows do not follow those there"
        assert p0 < 0 or self.kv_unified, "streams copy whole sequences only"
        if src in self.moved and (p1 < 0 or p1 > self.moved[src]):
            assert not self.kv_unified, "a moved cell is shared"
            self.moved[dst] = self.moved[src]
        if src in self.states:
            self.states[dst] = self.states[src]
        if src in self.window_starts:
            self.window_starts[dst] = self.window_starts[src]
        for pos, token, owners in list(self.cells):
            if src in owners and pos >= p0 and (p1 < 0 or pos < p1):
                if self.kv_unified:
                    owners.add(dst)
                else:
                    self.cells.append((pos, token, {dst}))

    def seq_pos_min(self, seq_id: int) -> int:
        return self.window_starts.get(seq_id, 0) if self.rows(seq_id) else -1

    def seq_pos_max(self, seq_id: int) -> int:
        return max((pos for pos, _, owners in self.cells if seq_id in owners), default=-1)

    def state_seq_size(self, seq_id: int) -> int:
        return len(self.state_seq_get(seq_id))

    def state_seq_get(self, seq_id: int, partial_only: bool = False) -> bytes:
        if not partial_only:  # of a part of a sequence too
            return repr((self.rows(seq_id), self.states.get(seq_id), self.window_starts.get(seq_id, 0))).encode()
        assert self.has_state or (self.kv_unified and not self.swa_full), "this memory has no state of its own"
        return repr((self.history(seq_id), self.window_starts.get(seq_id, 0))).encode()

    def state_seq_set(self, seq_id: int, state: bytes, partial_only: bool = False) -> None:
        if not partial_only:
            rows, state_ids, window_start = ast.literal_eval(state.decode())
            self.cells += [(pos, row_id, {seq_id}) for pos, row_id in rows]
            self.states |= {seq_id: state_ids} if state_ids is not None else {}
            self.window_starts |= {seq_id: window_start} if window_start else {}
            return
        history, window_start = ast.literal_eval(state.decode())
        if self.memory_kind == "recurrent":
            self.seq_rm(seq_id, -1, -1)
            self.cells += [
                (pos, token, {seq_id}) for pos, token in zip(self.positions(history)[:-1], history, strict=True)
            ]
        else:
            assert self.history(seq_id)[: len(history)] == history, "a state without its cells"
        if self.has_state:
            self.states[seq_id] = history
        else:
            self.window_starts[seq_id] = window_start
