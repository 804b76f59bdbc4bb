"""The encoder's runner. Only one thread may use it."""

from array import array

from llamafast._core import Context

POOLING_NONE: int
POOLING_MEAN: int
POOLING_CLS: int
POOLING_LAST: int
POOLING_RANK: int

class EncoderRunner:
    """Encodes packs of whole inputs. Raises ModelLoadError."""

    context: Context
    n_embd: int
    pooling_type: int
    max_tokens: int
    max_input_tokens: int
    encode_s: float
    def __init__(self, context: Context) -> None: ...
    def encode(self, inputs: list[array[int]]) -> None: ...
    def copy(self, i: int, out: bytearray, offset: int, n_dims: int) -> bool: ...
