"""Context shift: a sequence that has filled its context loses a block of old tokens and goes on generating."""

from __future__ import annotations

from llamafast._core import Batch, Context
from llamafast._runner import ModelRunner
from llamafast.cache.prefix_cache import PrefixCache
from llamafast.engine.plan import StepKind, StepPlan
from llamafast.engine.sequence import NO_SLOT, Sequence
from llamafast.errors import ConfigError
from llamafast.request import Request

# At least so many tokens of a full context can move; half of those that can move are dropped.
MIN_MOVABLE = 4

# None: the default. F32, F16 and the quantized types of keys that llama.cpp can rotate; BF16 ends the process.
_KEY_TYPES = (None, 0, 1, 2, 3, 6, 7, 8, 20)


class ContextShift:
    """Drops a block of tokens from a full sequence: some at its beginning are kept, the rest moves up.

    max_seq_len: tokens that a context holds, MIN_MOVABLE at least. bos_id: a BOS token at the beginning of a prompt is
    always kept; negative: there is no such token.
    """

    def __init__(self, cache: PrefixCache, *, max_seq_len: int, bos_id: int) -> None:
        self.max_seq_len = max_seq_len
        self._cache = cache
        self._bos_id = bos_id

    def drop(self, sequence: Sequence) -> bool:
        """Take half of the tokens after the kept ones out of a full sequence, and out of its slot.

        False: other slots hold cells that would have to move. Then the sequence must be computed again in another slot.
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
    """How many tokens at the beginning of a prompt are never dropped: n_keep, else its first message, else a BOS."""
    prompt = request.prompt_token_ids
    has_bos = int(prompt[0] == bos_id)
    if request.n_keep is None:
        return has_bos if request.places is None else request.places.head
    return len(prompt) if request.n_keep < 0 else min(request.n_keep + has_bos, len(prompt))


def check_context_shift(
    context: Context, runner: ModelRunner, batch: Batch, *, type_k: int | None, max_seq_len: int
) -> None:
    """Raises ConfigError unless this memory, still empty, can move cells and leaves all others as they are."""
    # A hybrid memory may move its cells, but its state has read the dropped tokens. A sliding window has two caches:
    # llama.cpp ends the process where the layers of one have no positions to move (Cohere2).
    if not context.can_shift or context.memory_kind != "attention":
        raise ConfigError(f"context_shift: the {context.memory_kind} memory of this model cannot be shifted; remove it")
    if type_k not in _KEY_TYPES:
        raise ConfigError(f"context_shift: llama.cpp cannot move keys of type_k {type_k}; remove it, or choose another")
    if max_seq_len < 2 * MIN_MOVABLE:
        raise ConfigError(f"context_shift: sequences of {max_seq_len} tokens are too short for it")
    if not _moves_nothing_else(context, runner, batch):
        raise ConfigError(
            "context_shift: with this RoPE scaling, llama.cpp changes all keys when it moves some; remove it"
        )


def _moves_nothing_else(context: Context, runner: ModelRunner, batch: Batch) -> bool:
    """Whether the first cells of a sequence are the same after others have moved. YaRN scales all of them anew."""

    def compute(start: int, end: int) -> None:
        for pos in range(start, end):
            batch.clear()
            batch.add(0, pos, 0)
            runner.step(StepPlan(StepKind.DECODE, batch))

    compute(0, 2)
    before = context.state_seq_get(0)
    compute(2, 6)
    context.seq_rm(0, 2, 4)
    context.seq_add(0, 4, 6, -2)
    compute(4, 5)  # carries out the move
    context.seq_rm(0, 2, -1)
    after = context.state_seq_get(0)
    context.seq_rm(0, -1, -1)
    return before == after
