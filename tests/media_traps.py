"""Inputs for which libmtmd ends the process: run as `python media_traps.py MODEL PROJECTOR NAME...`.

Prints each name after the façade has refused the input with an error of ours.
"""

from __future__ import annotations

import sys
from array import array

from llamafast._core import Batch, Context, MediaBatch, Model
from llamafast._mtmd import MediaChunk, Projector
from llamafast._runner import ModelRunner
from llamafast.engine.plan import StepKind, StepPlan
from llamafast.errors import InvalidRequestError

MODEL, PROJECTOR = sys.argv[1:3]


def projector() -> Projector:
    return Projector(Model(MODEL), PROJECTOR)


def refused(call) -> None:
    try:
        call()
    except (InvalidRequestError, ValueError):
        return
    raise SystemExit("it was taken")


def image_without_pixels() -> None:
    refused(lambda: projector().image(0, 10, b""))


def image_beyond_32_bits() -> None:
    refused(lambda: projector().image(65_536, 65_536))


def image_of_extreme_ratio() -> None:
    refused(lambda: projector().image(1, 5000, bytes(15_000)))


def image_with_too_few_bytes() -> None:
    refused(lambda: projector().image(64, 64, bytes(100)))


def sound_for_a_projector_that_does_not_hear() -> None:
    refused(lambda: projector().audio(array("f", [0.0] * 16_000)))


def encoding_of_sizes_alone() -> None:
    made = projector()
    media = made.image(64, 64)
    refused(lambda: made.encode(media, media.chunks[0]))


def encoding_of_a_foreign_chunk() -> None:
    made = projector()
    media, other = made.image(64, 64, bytes(3 * 64 * 64)), made.image(128, 128)
    refused(lambda: made.encode(media, other.chunks[0]))
    refused(lambda: made.encode(media, MediaChunk(99, 9, 3, None, True)))


def media_of_another_projector() -> None:
    media = projector().image(64, 64, bytes(3 * 64 * 64))
    refused(lambda: projector().encode(media, media.chunks[0]))


def _step(n_rows: int, *, is_causal: bool = True, seq_id: int = 0, pos: int = 0) -> None:
    model = Model(MODEL)
    context = Context(model, n_ctx=256, n_batch=32, n_ubatch=16, n_seq_max=2)
    batch = MediaBatch(64, model)
    batch.extend(array("f", [0.0] * (n_rows * model.n_embd_inp)), None, 0, n_rows, pos, seq_id, is_causal)
    refused(lambda: ModelRunner(context).step(StepPlan(StepKind.MEDIA, batch)))


def more_rows_than_a_batch() -> None:
    _step(33)


def more_whole_rows_than_an_ubatch() -> None:
    _step(17, is_causal=False)


def sequence_outside_range() -> None:
    _step(4, seq_id=99)


def position_below_zero() -> None:
    _step(4, pos=-9)


def empty_batch() -> None:
    model = Model(MODEL)
    context = Context(model, n_ctx=256)
    refused(lambda: ModelRunner(context).step(StepPlan(StepKind.MEDIA, MediaBatch(4, model))))


def part_of_a_chunk_that_is_not_causal() -> None:
    model = Model(MODEL)
    rows = array("f", [0.0] * (8 * model.n_embd_inp))
    refused(lambda: MediaBatch(8, model).extend(rows, None, 0, 4, 0, 0, False))


def offsets_that_are_too_few() -> None:
    model = Model(MODEL)
    rows = array("f", [0.0] * (8 * model.n_embd_inp))
    refused(lambda: MediaBatch(8, model).extend(rows, array("i", [0] * 8), 0, 8, 0, 0))


def garbage_collection_in_any_order() -> None:
    import gc

    made = projector()
    media = made.image(64, 64, bytes(3 * 64 * 64))
    made.encode(media, media.chunks[0])
    del made
    gc.collect()
    assert media.projector.encode(media, media.chunks[0])
    Batch(1).clear()


if __name__ == "__main__":
    for name in sys.argv[3:]:
        globals()[name]()
        print(name, flush=True)
