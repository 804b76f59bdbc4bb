"""A limit on the reasoning: once it is used up, the text that closes it comes next, whatever the model says."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence

from llamafast.grammars.constraint import Constraint


class BudgetConstraint(Constraint):
    """Counts the tokens drawn while reasoning is open; at max_tokens it forces closing_ids, unless `inner` forbids it.

    is_open: reasoning is open from the start; start_ids open it (empty: nothing does), end_ids close it. The tokens of
    these count as reasoning, those of closing_ids do not. A closing tag that has begun may be finished. All other
    tokens are up to `inner`, if there is one.
    """

    def __init__(
        self,
        inner: Constraint | None,
        max_tokens: int,
        *,
        is_open: bool,
        start_ids: Sequence[int],
        end_ids: Sequence[int],
        closing_ids: Sequence[int],
        n_vocab: int,
    ) -> None:
        self._inner = inner
        self._num_left = max_tokens
        self._is_open = is_open
        self._start_ids = list(start_ids)
        self._end_ids = list(end_ids)
        self._closing_ids = list(closing_ids)
        self._n_vocab = n_vocab
        self._last = deque[int](maxlen=max(1, len(self._start_ids), len(self._end_ids)))
        self._queue = deque[int]()  # what has to come next
        self._is_over = False
        self._close_if_used_up()

    def accept(self, token_id: int) -> bool:
        if self._queue:
            if token_id != self._queue[0]:
                return False
            if self._inner is None or self._inner.accept(token_id):
                self._queue.popleft()
                return True
            # The grammar has another end of reasoning than this one, or none.
            self._queue.clear()
            self._is_over = True
            return False
        if self._inner is not None and not self._inner.accept(token_id):
            return False
        if not self._is_over:
            self._count(token_id)
        return True

    def mask(self) -> bytes:
        if self._queue:
            bits = array("I", [0]) * ((self._n_vocab + 31) // 32)
            bits[self._queue[0] // 32] = 1 << self._queue[0] % 32
            return bits.tobytes()
        if self._inner is not None:
            return self._inner.mask()
        return array("I", [0xFFFFFFFF] * ((self._n_vocab + 31) // 32)).tobytes()

    def forced(self, min_tokens: int = 1) -> list[int]:
        if self._queue:
            return list(self._queue) if len(self._queue) >= min_tokens else []
        return [] if self._inner is None else self._inner.forced(min_tokens)

    @property
    def is_finished(self) -> bool:
        return self._inner is not None and self._inner.is_finished

    def _count(self, token_id: int) -> None:
        self._last.append(token_id)
        if self._is_open:
            self._num_left -= 1
            self._is_open = not self._ends_with(self._end_ids)
        elif self._start_ids:
            self._is_open = self._ends_with(self._start_ids)
        self._close_if_used_up()

    def _close_if_used_up(self) -> None:
        if not self._is_open or self._num_left > 0 or self._has_begun_to_end():
            return
        self._queue.extend(self._closing_ids)
        self._is_open = False
        self._last.clear()

    def _ends_with(self, token_ids: list[int]) -> bool:
        return list(self._last)[-len(token_ids) :] == token_ids

    def _has_begun_to_end(self) -> bool:
        last = list(self._last)
        return any(last[-n:] == self._end_ids[:n] for n in range(1, len(self._end_ids)))
