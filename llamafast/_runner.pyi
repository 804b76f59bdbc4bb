"""The model runner: a step is one decode and one pass over its output rows."""

from array import array
from collections.abc import Sequence
from typing import Protocol

from llamafast._core import Batch, Context, MediaBatch
from llamafast._sampling import Sampler
from llamafast.grammars.constraint import Constraint

SAMPLES_IN_PARALLEL: bool  # built with OpenMP

class Plan(Protocol):
    """The fields of a StepPlan that the runner reads. llamafast.engine.plan.StepPlan documents them."""

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
    """Decodes and samples the plan of each step."""

    context: Context
    decode_s: float  # seconds inside llama_decode and synchronize, summed
    sample_s: float
    num_decodes: int
    num_parallel: int  # number of steps in which several threads sampled
    def __init__(self, context: Context) -> None: ...
    def step(self, plan: Plan) -> list[list[int]]:
        """Decode plan.batch, score its scored rows, then draw and accept. One nogil block.

        Returns the runs: runs[i] is the list of tokens that plan.samplers[i] accepted, at least one. A run ends with -1
        if no token is allowed; the `error` of its constraint is then the reason. Raises DecodeError (status 1: no free
        KV cells, nothing changed; others are fatal), and ValueError for an invalid plan.
        """
    def logprobs(self, i: int, k: int = 0) -> tuple[float, list[tuple[int, float]]]:
        """(raw logprob, the sampler's num_logprobs most likely tokens) of token k of run i of the last step."""
    def scores(self) -> dict[int, tuple[float, int, list[tuple[int, float]]]]:
        """Scores of the last step by batch row of plan.scored: (raw logprob, rank from 1, most likely tokens)."""
    def logits(self, i: int, k: int = 0) -> array[float]:
        """Copy of the raw logits at place k of draw i in the last step, shape (n_vocab,)."""
