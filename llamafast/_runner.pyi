"""The model runner: one step of the engine is one decode and one pass over its output rows."""

from array import array
from collections.abc import Sequence
from typing import Protocol

from llamafast._core import Batch, Context, MediaBatch
from llamafast._sampling import Sampler
from llamafast.grammars.constraint import Constraint

SAMPLES_IN_PARALLEL: bool  # built with OpenMP

class Plan(Protocol):
    """What the runner reads of a step's plan; llamafast.engine.plan.StepPlan says what each field means."""

    @property
    def batch(self) -> Batch | MediaBatch: ...
    @property
    def samplers(self) -> Sequence[Sampler]: ...
    @property
    def rows(self) -> Sequence[int]: ...
    @property
    def drafts(self) -> Sequence[tuple[int, int]]: ...
    @property
    def constraints(self) -> Sequence[tuple[int, Constraint]]: ...
    @property
    def scored(self) -> Sequence[tuple[int, int, int]]: ...

class ModelRunner:
    """One crossing per engine step."""

    context: Context
    decode_s: float  # seconds inside llama_decode and synchronize, summed
    sample_s: float
    num_decodes: int
    num_parallel: int  # steps whose rows were sampled by several threads
    def __init__(self, context: Context) -> None: ...
    def step(self, plan: Plan) -> list[list[int]]:
        """Decode plan.batch, score its scored rows, then draw and accept. One nogil block.

        Returns the runs: runs[i] is the list of the tokens that plan.samplers[i] accepted, at least one. A run ends
        with -1 where no token may come next; if it has a constraint, that one's `error` says why.
        Raises DecodeError: 1 no KV room (nothing changed), others fatal; ValueError for a bad plan.
        """
    def logprobs(self, i: int, k: int = 0) -> tuple[float, list[tuple[int, float]]]:
        """Of token k of run i of the last step: raw logprob, and the sampler's num_logprobs best (best first)."""
    def scores(self) -> dict[int, tuple[float, int, list[tuple[int, float]]]]:
        """Of the last step, by each batch row of plan.scored: raw logprob, rank from 1, and the best (best first)."""
    def logits(self, i: int, k: int = 0) -> array[float]:
        """Copy of the raw logits of token k of run i of the last step, shape (n_vocab,)."""
