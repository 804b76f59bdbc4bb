"""Context shift: a sequence that has filled its context loses a block of old tokens and goes on."""

from __future__ import annotations

from llamafast.cache.prefix_cache import PrefixCache
from llamafast.engine.sequence import NO_SLOT, Sequence
from llamafast.request import Request

# Of a full context at least so many tokens are not kept: the block to be dropped is half of them.
MIN_MOVABLE = 4


class ContextShift:
    """Knows which tokens stay in front, and moves the rest. A context has max_seq_len tokens, MIN_MOVABLE at least.

    bos_id: stays at the beginning of every prompt that has it there; negative: no prompt has.
    """

    def __init__(self, cache: PrefixCache, *, max_seq_len: int, bos_id: int) -> None:
        self.max_seq_len = max_seq_len
        self._cache = cache
        self._bos_id = bos_id

    def drop(self, sequence: Sequence) -> bool:
        """Take half of what follows the kept tokens out of a full sequence, and out of its slot.

        False: others hold cells that would have to move, so that all has to be computed again, in another slot.
        """
        slot, num_tokens = sequence.slot, len(sequence.token_ids)
        num_kept = self._num_kept(sequence)
        num_dropped = (num_tokens - num_kept) // 2
        sequence.drop(num_kept, num_dropped, self.max_seq_len)
        is_computed = slot is not NO_SLOT and num_kept + num_dropped <= slot.length
        return is_computed and self._cache.shift(slot, num_kept, num_dropped)

    def _num_kept(self, sequence: Sequence) -> int:
        request = sequence.state.request
        kept = num_kept(request, self._bos_id)
        # A first message that fills the context would leave the rest no room.
        most = self.max_seq_len // 2 if request.n_keep is None else self.max_seq_len - MIN_MOVABLE
        return min(kept, most)


def num_kept(request: Request, bos_id: int) -> int:
    """How many tokens in front of a prompt are never dropped: as asked for, else its first message, else a BOS."""
    prompt = request.prompt_token_ids
    has_bos = int(prompt[0] == bos_id)
    if request.n_keep is None:
        return request.boundaries[0] if request.boundaries else has_bos
    return len(prompt) if request.n_keep < 0 else min(request.n_keep + has_bos, len(prompt))
