"""ReasoningBudgetConstraint: a limit on reasoning tokens. At the limit it forces the text that closes the reasoning."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence

from llamafast.grammars.constraint import Constraint

_MAX_CHAR_BYTES = 4


class ReasoningBudgetConstraint(Constraint):
    """Counts the tokens while reasoning is open. At the limit it forces the closing text, unless `inner` forbids it.

    inner: another constraint, which decides about all other tokens. None: all are allowed.
    max_tokens: the limit. Tokens of the tags count, those of closing_ids do not.
    is_open: reasoning is open from the beginning.
    start: the text that opens reasoning. Empty: nothing does.
    end: the text that closes reasoning.
    closing_ids: the token ids of the forced text.
    token_bytes: shape (n_vocab,), the text of each token, or its name.
    The tags may be written in any tokens. A closing tag or a character that has begun may be finished.
    """

    def __init__(
        self,
        inner: Constraint | None,
        max_tokens: int,
        *,
        is_open: bool,
        start: bytes,
        end: bytes,
        closing_ids: Sequence[int],
        token_bytes: Sequence[bytes],
    ) -> None:
        self._inner = inner
        self._num_left = max_tokens
        self._is_open = is_open
        self._start = start
        self._end = end
        self._closing_ids = list(closing_ids)
        self._token_bytes = token_bytes
        self._n_vocab = len(token_bytes)
        self._tail = b""  # the text after the last tag, which may be the beginning of one
        self._queue = deque[int]()  # the tokens that must come next
        self._is_over = False
        self._close_if_used_up()

    def accept(self, token_id: int) -> bool:
        if self._queue:
            if token_id != self._queue[0]:
                return False
            if self._inner is None or self._inner.accept(token_id):
                self._queue.popleft()
                return True
            self._give_up()
            return False
        if self._inner is not None and not self._inner.accept(token_id):
            return False
        if not self._is_over:
            self._count(token_id)
        return True

    def mask(self) -> bytes:
        allowed = None if self._inner is None else self._inner.mask()
        if self._queue:
            token_id = self._queue[0]
            if allowed is None or allowed[token_id // 8] >> token_id % 8 & 1:
                bits = array("I", [0]) * ((self._n_vocab + 31) // 32)
                bits[token_id // 32] = 1 << token_id % 32
                return bits.tobytes()
            self._give_up()
        if allowed is not None:
            return allowed
        return array("I", [0xFFFFFFFF] * ((self._n_vocab + 31) // 32)).tobytes()

    def forced(self, min_tokens: int = 1) -> list[int]:
        if self._queue:
            return list(self._queue) if len(self._queue) >= min_tokens else []
        return [] if self._inner is None else self._inner.forced(min_tokens)

    @property
    def is_finished(self) -> bool:
        return self._inner is not None and self._inner.is_finished

    def _give_up(self) -> None:
        """The grammar has no end of reasoning, or another one."""
        self._queue.clear()
        self._is_over = True

    def _count(self, token_id: int) -> None:
        self._num_left -= self._is_open
        text = self._tail + self._token_bytes[token_id]
        while (tag := self._end if self._is_open else self._start) and tag in text:
            text = text.partition(tag)[2]
            self._is_open = not self._is_open
        self._tail = text[-max(len(self._start), len(self._end), _MAX_CHAR_BYTES) :]
        self._close_if_used_up()

    def _close_if_used_up(self) -> None:
        if not self._is_open or self._num_left > 0 or self._has_begun_to_end() or _ends_inside_char(self._tail):
            return
        self._queue.extend(self._closing_ids)
        self._is_open = False
        self._tail = b""

    def _has_begun_to_end(self) -> bool:
        return any(self._tail.endswith(self._end[:n]) for n in range(1, len(self._end)))


def _ends_inside_char(text: bytes) -> bool:
    """Whether the last character of this UTF-8 text is incomplete."""
    for num_bytes in range(1, min(len(text), _MAX_CHAR_BYTES - 1) + 1):
        byte = text[-num_bytes]
        if byte >= 0xC0:  # begins a character of 2, 3 or 4 bytes
            return num_bytes < 2 + (byte >= 0xE0) + (byte >= 0xF0)
        if byte < 0x80:
            break
    return False
