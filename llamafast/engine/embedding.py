"""What an engine of embeddings takes and gives: inputs as token ids, vectors as bytes."""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass, field

FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Inputs whose vectors are wanted.

    request_id: str, unique among the requests that have not ended.
    inputs: token ids of each input, special tokens included.
    n_dims: floats kept of each vector; None: all. A vector that is cut gets length 1 again.
    arrival_s: time.monotonic() when the request came.
    """

    request_id: str
    inputs: tuple[array[int], ...]
    n_dims: int | None = None
    arrival_s: float = field(default_factory=time.monotonic)

    @property
    def num_tokens(self) -> int:
        """Tokens of all inputs."""
        return sum(map(len, self.inputs))


@dataclass(frozen=True, slots=True)
class EmbeddingOutput:
    """The last and only output of a request.

    request_id: the request's.
    vectors: float32 in the machine's byte order, shape (inputs, n_dims); empty if the request failed or was aborted.
    n_dims: floats of one vector.
    error: why there are no vectors; None for success and for an abort.
    """

    request_id: str
    vectors: bytes | bytearray = b""
    n_dims: int = 0
    error: Exception | None = None
    is_last: bool = True


class EmbeddingJob:
    """A checked request and what is done of it.

    request: as it was prepared.
    n_dims: floats kept of each vector.
    vectors: the vectors so far, at their places. It is allocated with the first one.
    next_input: number of the first input that is not encoded.
    """

    __slots__ = ("n_dims", "next_input", "request", "vectors")

    def __init__(self, request: EmbeddingRequest, n_dims: int) -> None:
        self.request = request
        self.n_dims = n_dims
        self.vectors = bytearray()
        self.next_input = 0

    @property
    def request_id(self) -> str:
        """The request's."""
        return self.request.request_id

    @property
    def has_inputs_left(self) -> bool:
        """Whether an input is not encoded."""
        return self.next_input < len(self.request.inputs)

    def take_input(self) -> int:
        """The number of the next input, which is encoded now."""
        self.next_input += 1
        return self.next_input - 1

    def place_of(self, index: int) -> tuple[bytearray, int]:
        """The vectors, and the offset of one of them in bytes."""
        size = FLOAT_BYTES * self.n_dims
        if not self.vectors:
            self.vectors = bytearray(size * len(self.request.inputs))
        return self.vectors, size * index
