"""Float row kernels over logits. Rows are contiguous float32 buffers (numpy arrays, array('f'), memoryviews)."""

from typing import Protocol, TypeAlias

from _typeshed import ReadableBuffer, WriteableBuffer

class _Array(Protocol):
    """A numpy array, which type checkers know as a buffer only from Python 3.12 on."""

    @property
    def __array_interface__(self) -> dict[str, object]: ...

_Readable: TypeAlias = ReadableBuffer | _Array
_Writeable: TypeAlias = WriteableBuffer | _Array

def argmax(row: _Readable) -> int: ...
def logsumexp(row: _Readable) -> float: ...
def penalize(
    row: _Writeable,
    ids: _Readable,
    counts: _Readable,
    *,
    repetition: float = 1.0,
    frequency: float = 0.0,
    presence: float = 0.0,
) -> None: ...
def draw(
    row: _Readable,
    n_draws: int = 1,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int = 0,
) -> list[int]: ...
def top_n(row: _Readable, k: int) -> list[tuple[int, float]]: ...
def rank(row: _Readable, i: int) -> int: ...
