"""How much of a prompt is there already, where, and why no more."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from llamafast.cache.checkpoints import Checkpoint, CheckpointStore
from llamafast.cache.memory import MemoryKind
from llamafast.cache.prefix_index import PrefixIndex
from llamafast.cache.slots import Slot

# With a stream for each sequence a prefix is copied: not for a few tokens.
_MIN_COPIED = 32


@dataclass(frozen=True, slots=True)
class Match:
    """The first `length` tokens need not be computed; (0, None) if all have to be.

    slot holds their cells (none where the memory has no cells). checkpoint is the state behind them, unless the slot
    itself still has it.
    """

    length: int
    slot: Slot | None
    checkpoint: Checkpoint | None = None


NOTHING = Match(0, None)


class PrefixLookup:
    """Asks the index and the checkpoints; changes nothing. reuse False: nothing is ever found."""

    def __init__(self, kind: MemoryKind, index: PrefixIndex, checkpoints: CheckpointStore, *, reuse: bool) -> None:
        self._kind = kind
        self._index = index
        self._checkpoints = checkpoints
        self._reuse = reuse

    def match(self, token_ids: array[int], salt: str | None) -> Match:
        """The longest usable prefix of token_ids, but for the last token: its logits must be computed."""
        if not self._reuse or salt is None:
            return NOTHING
        wanted = token_ids[:-1]
        length, holder = self._index.longest(wanted, salt)
        best = NOTHING
        if holder is not None and self._kind.can_fork(holder, length):
            best = Match(length, holder)
        else:
            best = self._match_place(wanted, salt, length, holder)
        return NOTHING if self._kind.copies_cells and best.length < _MIN_COPIED else best

    def match_announced(self, token_ids: array[int], salt: str | None) -> Match:
        """The longest prefix that some slot is about to compute, or has computed while others still are to come."""
        if not self._reuse or salt is None:
            return NOTHING
        return Match(*self._index.longest_announced(token_ids[:-1], salt))

    def miss_reason(self, token_ids: array[int], salt: str | None, length: int) -> str:
        """Why no more than `length` tokens of these came from here: the value of a MissReason."""
        if not self._reuse or salt is None:
            return "off"
        wanted = token_ids[:-1]
        if length >= len(wanted):
            return "none"
        if self._index.longest(wanted, salt)[0] > length:
            return "no_checkpoint"
        if self._index.evicted(wanted, salt)[0] > length:
            return "evicted"
        return "salt" if self._index.is_of_other_salt(wanted, salt, length) else "new"

    def _match_place(self, wanted: array[int], salt: str, length: int, holder: Slot | None) -> Match:
        """The longest prefix at whose end a sequence stands or a checkpoint was taken; `holder` has `length` cells."""
        best = NOTHING
        for slot in self._index.whole_prefixes(wanted, salt):
            if slot.length == slot.num_listed > best.length:
                best = Match(slot.length, slot)
        found = self._checkpoints.find(wanted, salt, length if self._kind.has_cells else len(wanted))
        if found is not None and found.length > best.length:
            return Match(found.length, holder if self._kind.has_cells else None, found)
        return best
