"""Context shift: a sequence with a full context drops a block of old tokens and continues."""

from __future__ import annotations

from llamafast._core import Batch, Context
from llamafast._runner import ModelRunner
from llamafast.cache.prefix_cache import PrefixCache
from llamafast.engine.plan import StepKind, StepPlan
from llamafast.engine.sequence import NO_SLOT, Sequence
from llamafast.errors import ConfigError
from llamafast.request import Request

# At least this many tokens of a full context are not kept. Half of the tokens that are not kept are dropped.
MIN_MOVABLE = 4

# Types of keys that llama.cpp can rotate: the default (None), F32, F16 and quantized ones. BF16 aborts the process.
_KEY_TYPES = (None, 0, 1, 2, 3, 6, 7, 8, 20)


class ContextShift:
    """Drops a block of tokens from a full sequence: the tokens before it are kept, the tokens after it move up.

    max_seq_len: tokens of a full sequence, MIN_MOVABLE at least.
    bos_id: id of the BOS token, which is always kept at the beginning of a prompt; negative: the model has none.
    """

    def __init__(self, cache: PrefixCache, *, max_seq_len: int, bos_id: int) -> None:
        self.max_seq_len = max_seq_len
        self._cache = cache
        self._bos_id = bos_id

    def drop(self, sequence: Sequence) -> bool:
        """Remove half of the tokens after the kept ones from a full sequence and from its slot.

        Returns False if other slots share cells that must move. The sequence must then be computed again elsewhere.
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
        # A first message must not fill the context.
        most = self.max_seq_len // 2 if request.n_keep is None else self.max_seq_len - MIN_MOVABLE
        return min(kept, most)


def num_kept(request: Request, bos_id: int) -> int:
    """Number of tokens at the beginning of a prompt that are never dropped.

    That is request.n_keep; if it is None, the first message; without messages, a BOS token.
    """
    prompt = request.prompt_token_ids
    has_bos = int(prompt[0] == bos_id)
    if request.n_keep is None:
        return has_bos if request.places is None else request.places.head
    return len(prompt) if request.n_keep < 0 else min(request.n_keep + has_bos, len(prompt))


def check_context_shift(
    context: Context, runner: ModelRunner, batch: Batch, *, type_k: int | None, max_seq_len: int
) -> None:
    """Raises ConfigError unless this memory, which must be empty, can move cells without changing other cells."""
    # A hybrid memory can move its cells, but its recurrent state has read the dropped tokens. A sliding window has two
    # caches: llama.cpp aborts the process if the layers of one have no RoPE (Cohere2).
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
    """Whether the first cells of a sequence stay the same when others move. With YaRN, llama.cpp rescales all cells."""

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
    compute(4, 5)  # llama.cpp moves the cells in the next decode
    context.seq_rm(0, 2, -1)
    after = context.state_seq_get(0)
    context.seq_rm(0, -1, -1)
    return before == after
