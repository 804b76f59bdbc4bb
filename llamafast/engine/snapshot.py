"""EngineSnapshot: the work of an engine at one moment, as frozen records for operators and HTTP routes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import islice

from llamafast.cache.prefix_cache import PrefixCache
from llamafast.engine.disk_prefixes import DiskPrefixes
from llamafast.engine.metrics import EngineStats
from llamafast.engine.scheduler import Scheduler
from llamafast.engine.sequence import NO_SLOT, RequestState, Sequence
from llamafast.request import SamplingParams, SequenceStatus

# Each record takes 2 to 4 microseconds of the engine's thread, and the number of waiting sequences depends on clients.
MAX_SEQUENCES = 512


class EngineState(str, Enum):
    """The state of an engine."""

    IDLE = "idle"  # it has nothing to compute
    WORKING = "working"
    DEAD = "dead"  # a fatal error ended it
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class SequenceSnapshot:
    """One sequence that has not finished: one choice of a request, or one input of an encoder.

    request_id: as in Request.
    index: number of the choice within its request, from 0.
    status: WAITING has no KV cells, PREFILLING computes its prompt, RUNNING generates.
    num_prompt_tokens: tokens of the prompt.
    num_computed_tokens: tokens in the KV memory, prompt and output together.
    num_generated_tokens: tokens of the output so far.
    num_remaining_tokens: tokens that the output can still get before it ends with "length".
    num_cached_tokens: prompt tokens that came from the cache when the request was first admitted.
    seq_id: id in the KV memory; None while it has none.
    priority: as in Request.
    age_s: seconds since the request arrived.
    params: the sampling settings; None for an encoder's input.
    """

    request_id: str
    index: int
    status: SequenceStatus
    num_prompt_tokens: int
    num_computed_tokens: int
    num_generated_tokens: int
    num_remaining_tokens: int
    num_cached_tokens: int
    seq_id: int | None
    priority: int
    age_s: float
    params: SamplingParams | None = None


@dataclass(frozen=True, slots=True)
class CacheSnapshot:
    """The KV memory.

    n_cells: cells in all.
    num_cells: cells in use.
    num_parked_cells: cells in use that only finished prefixes hold.
    num_parked: finished prefixes that are kept.
    n_seq_ids: sequence ids in all.
    num_free_ids: sequence ids that hold nothing.
    """

    n_cells: int
    num_cells: int
    num_parked_cells: int
    num_parked: int
    n_seq_ids: int
    num_free_ids: int


@dataclass(frozen=True, slots=True)
class DiskSnapshot:
    """The disk cache.

    num_states: states in the folder that this engine can read.
    num_bytes: their size on the disk.
    num_copies: states that wait to be copied out of the KV memory.
    is_reading: whether a state is being read.
    """

    num_states: int
    num_bytes: int
    num_copies: int
    is_reading: bool


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """The work of an engine at one moment between two steps.

    state: the state of the engine.
    death: the reason why the engine is dead or closed; None while it works.
    sequences: the running ones, then the waiting ones, in order of arrival; at most MAX_SEQUENCES.
    num_waiting: sequences in the waiting queue, including those that are not listed.
    n_seq_max: sequences that can run at once.
    num_steps: decodes so far.
    last_step_s: seconds since the last decode; None before the first.
    cache: the KV memory; None without one, and once the engine is closed.
    disk: the disk cache; None without one, and once the engine is closed.
    """

    state: EngineState
    death: str | None = None
    sequences: tuple[SequenceSnapshot, ...] = ()
    num_waiting: int = 0
    n_seq_max: int = 0
    num_steps: int = 0
    last_step_s: float | None = None
    cache: CacheSnapshot | None = None
    disk: DiskSnapshot | None = None


def take_snapshot(
    scheduler: Scheduler, disk: DiskPrefixes | None, *, death: str | None, is_working: bool
) -> EngineSnapshot:
    """The snapshot of an open engine. Takes O(requests + sequence ids)."""
    stats, cache = scheduler.stats, scheduler.cache
    now = time.monotonic()
    state = EngineState.DEAD if death is not None else EngineState.WORKING if is_working else EngineState.IDLE
    return EngineSnapshot(
        state=state,
        death=death,
        sequences=_sequences(scheduler.requests.values(), now),
        num_waiting=len(scheduler.waiting),
        n_seq_max=scheduler.n_seq_max,
        num_steps=stats.steps,
        last_step_s=now - stats.last_step_s if stats.last_step_s else None,
        cache=_of_cache(cache),
        disk=None if disk is None else _of_disk(disk),
    )


def closed_snapshot(stats: EngineStats, death: str | None, n_seq_max: int) -> EngineSnapshot:
    """The snapshot of a closed engine."""
    last_step_s = time.monotonic() - stats.last_step_s if stats.last_step_s else None
    return EngineSnapshot(
        EngineState.CLOSED, death, n_seq_max=n_seq_max, num_steps=stats.steps, last_step_s=last_step_s
    )


def _sequences(requests: Iterable[RequestState], now: float) -> tuple[SequenceSnapshot, ...]:
    """The unfinished sequences of requests, given in order of arrival; at most MAX_SEQUENCES."""
    # A request that was never admitted has only waiting sequences.
    ordered = sorted(requests, key=lambda state: not state.scheduled_s)
    unfinished = (s for state in ordered for s in state.sequences if s.status is not SequenceStatus.FINISHED)
    return tuple(_of_sequence(sequence, now) for sequence in islice(unfinished, MAX_SEQUENCES))


def _of_cache(cache: PrefixCache) -> CacheSnapshot:
    return CacheSnapshot(
        n_cells=cache.n_cells,
        num_cells=cache.num_cells,
        num_parked_cells=cache.num_cells - cache.num_live_cells(),
        num_parked=cache.num_parked,
        n_seq_ids=cache.n_slots,
        num_free_ids=cache.num_free,
    )


def _of_disk(disk: DiskPrefixes) -> DiskSnapshot:
    stats = disk.disk.stats  # in memory: the disk is not read
    return DiskSnapshot(stats.num_states, stats.num_bytes, len(disk.copies), disk.is_reading)


def _of_sequence(sequence: Sequence, now: float) -> SequenceSnapshot:
    state, slot = sequence.state, sequence.slot
    return SequenceSnapshot(
        request_id=sequence.request_id,
        index=sequence.index,
        status=sequence.status,
        num_prompt_tokens=sequence.num_prompt,
        num_computed_tokens=slot.length,
        num_generated_tokens=sequence.num_generated,
        num_remaining_tokens=max(0, sequence.end_len - len(sequence.token_ids)),
        num_cached_tokens=state.cached_tokens,
        seq_id=None if slot is NO_SLOT else slot.seq_id,
        priority=state.request.priority,
        age_s=now - state.request.arrival_s,
        params=state.request.params,
    )
