"""Float row kernels over logits. Rows are contiguous float32 buffers (numpy arrays, array('f'), memoryviews)."""

from typing import Protocol, TypeAlias

from _typeshed import ReadableBuffer, WriteableBuffer

class _Array(Protocol):
    """A numpy array. Type checkers know it as a buffer only since Python 3.12."""

    @property
    def __array_interface__(self) -> dict[str, object]: ...

Readable: TypeAlias = ReadableBuffer | _Array
Writeable: TypeAlias = WriteableBuffer | _Array

def argmax(row: Readable) -> int: ...
def logsumexp(row: Readable) -> float: ...
def penalize(
    row: Writeable,
    ids: Readable,
    counts: Readable,
    *,
    repetition: float = 1.0,
    frequency: float = 0.0,
    presence: float = 0.0,
) -> None: ...
def draw(
    row: Readable,
    n_draws: int = 1,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int = 0,
    position: int = 0,
) -> list[int]: ...
def top_n(row: Readable, k: int) -> list[tuple[int, float]]: ...
def rank(row: Readable, i: int) -> int: ...
