"""PrefixLookup: finds the longest reusable prefix of a prompt, and the reason why it is not longer."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from llamafast.cache.checkpoints import Checkpoint, CheckpointStore
from llamafast.cache.memory import MemoryKind
from llamafast.cache.prefix_index import PrefixIndex
from llamafast.cache.prompt import TEXT_ONLY, Layout
from llamafast.cache.slots import Slot

# If each sequence has a stream, a prefix is copied. Computing fewer rows than this is cheaper than the copy.
_MIN_COPIED = 32


@dataclass(frozen=True, slots=True)
class Match:
    """The beginning of a prompt that the cache already has.

    length: int, number of rows; 0: all rows must be computed.
    slot: Slot that holds the cells of these rows; None if length is 0 or the memory has no cells.
    checkpoint: Checkpoint, the state after these rows; None if the slot can be forked there without one.
    """

    length: int
    slot: Slot | None
    checkpoint: Checkpoint | None = None


NOTHING = Match(0, None)


class PrefixLookup:
    """Searches the prefix index and the checkpoints, and changes nothing.

    Every method takes the prompt's ids, its salt (None: it shares no prefix) and its layout. A match never splits a
    media span. It never contains the last row, because the logits of that row must be computed.

    reuse: bool; if it is False, nothing is found.
    """

    def __init__(self, kind: MemoryKind, index: PrefixIndex, checkpoints: CheckpointStore, *, reuse: bool) -> None:
        self._kind = kind
        self._index = index
        self._checkpoints = checkpoints
        self._reuse = reuse

    def match(self, token_ids: array[int], salt: str | None, layout: Layout = TEXT_ONLY) -> Match:
        """The longest prefix that can be reused."""
        if not self._reuse or salt is None:
            return NOTHING
        wanted = token_ids[:-1]
        length, holder = self._index.longest(wanted, salt)
        if holder is not None:
            length = layout.common(holder.layout, length)
        if holder is not None and length and self._kind.can_fork(holder, length):
            best = Match(length, holder)
        else:
            best = self._match_place(wanted, salt, layout, length, holder)
        return NOTHING if self._kind.copies_cells and best.length < _MIN_COPIED else best

    def match_announced(self, token_ids: array[int], salt: str | None, layout: Layout = TEXT_ONLY) -> Match:
        """The longest prefix that some slot has announced and not completely computed."""
        if not self._reuse or salt is None:
            return NOTHING
        length, slot = self._index.longest_announced(token_ids[:-1], salt)
        if slot is not None:
            length = layout.common(slot.layout, length)
        return Match(length, slot) if length else NOTHING

    def miss_reason(self, token_ids: array[int], salt: str | None, length: int, layout: Layout = TEXT_ONLY) -> str:
        """The reason why only `length` rows of a prompt were found: the value of a MissReason."""
        if not self._reuse or salt is None:
            return "off"
        wanted = token_ids[: layout.round_down(len(token_ids) - 1)]
        if length >= len(wanted):
            return "none"
        if self._index.longest(wanted, salt)[0] > length:
            return "no_checkpoint"
        if self._index.evicted(wanted, salt)[0] > length:
            return "evicted"
        return "salt" if self._index.is_of_other_salt(wanted, salt, length) else "new"

    def _match_place(self, wanted: array[int], salt: str, layout: Layout, length: int, holder: Slot | None) -> Match:
        """The longest prefix that ends at the end of a slot or at a checkpoint. `holder` has `length` of its cells."""
        best = NOTHING
        for slot in self._index.whole_prefixes(wanted, salt):
            is_same = layout.common(slot.layout, slot.length) == slot.length
            if slot.length == slot.num_listed > best.length and is_same:
                best = Match(slot.length, slot)
        found = self._checkpoints.find(wanted, salt, length if self._kind.has_cells else len(wanted), layout)
        if found is not None and found.length > best.length:
            return Match(found.length, holder if self._kind.has_cells else None, found)
        return best
