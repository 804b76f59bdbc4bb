"""The façade over libmtmd: what it says of images, what it refuses, and that its rows give mtmd's own logits."""

from __future__ import annotations

import ast
import ctypes
import math
import os
import subprocess
import sys
from array import array
from pathlib import Path

import llama_cpp.llama_cpp as raw
import llama_cpp.mtmd_cpp as mtmd
import pytest

import llamafast
from llamafast import _mtmd
from llamafast._core import Batch, Context, MediaBatch, Model
from llamafast._mtmd import Projector
from llamafast._runner import ModelRunner
from llamafast._sampling import Sampler
from llamafast.engine.plan import StepKind, StepPlan
from llamafast.errors import InvalidRequestError, ModelLoadError
from tests.tiny_models import write_attention_model
from tests.tiny_projectors import write_hearing_projector, write_seeing_projector

MODELS = Path(llamafast.__file__).parent / "models"
MODEL, PROJECTOR = str(MODELS / "tiny-qwen35-f16.gguf"), str(MODELS / "mmproj-tiny-qwen35-f16.gguf")
TRAPS = Path(__file__).with_name("media_traps.py")
NAMES = [
    node.name
    for node in ast.parse(TRAPS.read_text()).body
    if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.name not in ("projector", "refused")
]


@pytest.fixture(scope="module")
def projector() -> Projector:
    return Projector(Model(MODEL), PROJECTOR)


def pixels(width: int, height: int) -> bytes:
    return bytes((x * 5 + y * 3 + c * 70) % 256 for y in range(height) for x in range(width) for c in range(3))


def test_inputs_that_end_libmtmd_are_refused():
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1", "PYTHONPATH": str(MODELS.parents[1])}
    done = subprocess.run(
        [sys.executable, str(TRAPS), MODEL, PROJECTOR, *NAMES], env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == NAMES, done.stderr


def test_projector_of_the_built_in_model_sees_and_does_not_hear(projector):
    assert (projector.sees, projector.hears, projector.uses_mrope, projector.sample_rate) == (True, False, True, 0)


def test_image_is_a_grid_of_rows_between_two_tokens(projector):
    begin, chunk, end = projector.image(128, 64).parts
    assert (len(begin), len(end)) == (1, 1)
    assert (chunk.n_rows, chunk.n_pos, chunk.last_t_offset, chunk.is_causal) == (8, 4, 0, True)
    rows = [tuple(chunk.offsets[k * 8 + i] for k in range(3)) for i in range(8)]
    assert rows == [(0, i // 4, i % 4) for i in range(8)]


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (200, 1), (640, 480), (33, 97)])
def test_sizes_alone_give_the_chunks_of_the_pixels(projector, size):
    assert projector.image(*size).parts == projector.image(*size, pixels(*size)).parts


def test_equal_images_have_equal_embeddings_of_finite_numbers(projector):
    made = [projector.image(96, 64, pixels(96, 64)) for _ in range(2)]
    first, second = (projector.encode(media, media.chunks[0]) for media in made)
    assert first == second
    assert len(first) == made[0].chunks[0].n_rows * projector.model.n_embd_inp
    assert all(map(math.isfinite, first))


@pytest.mark.parametrize(
    ("path", "message"), [(__file__, "not a GGUF file"), ("/nowhere.gguf", "No such file"), (MODEL, "cannot load")]
)
def test_file_that_is_no_projector_is_refused(projector, path, message):
    with pytest.raises(ModelLoadError, match=message):
        Projector(projector.model, path)


@pytest.mark.parametrize("limits", [(0, None), (None, 16_385), (9, 8)])
def test_limits_of_rows_out_of_range_are_refused(projector, limits):
    with pytest.raises(ModelLoadError, match="image_m"):
        Projector(projector.model, PROJECTOR, image_min_tokens=limits[0], image_max_tokens=limits[1])


def test_limits_of_rows_hold(projector):
    small = Projector(projector.model, PROJECTOR, image_max_tokens=16)
    assert small.image(640, 480).chunks[0].n_rows <= 16


def test_handles_are_freed(projector):
    before = _mtmd.live_handles()
    media = projector.image(64, 64, pixels(64, 64))
    assert _mtmd.live_handles()["Media"] == before["Media"] + 1
    del media
    assert _mtmd.live_handles() == before


def reference_logits(
    files: tuple[str, str], texts: list[list[int]], images: list[tuple[int, int, bytes]]
) -> list[float]:
    """The logits after text, image, text, image, ..., text, by mtmd's own evaluation."""
    model = raw.llama_model_load_from_file(files[0].encode(), raw.llama_model_default_params())
    params = raw.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_threads, params.n_threads_batch = 512, 128, 128, 1, 1
    context = raw.llama_init_from_model(model, params)
    settings = mtmd.mtmd_context_params_default()
    settings.n_threads = 1
    own = mtmd.mtmd_init_from_file(files[1].encode(), model, settings)
    place = ctypes.c_int32(0)
    for number, text in enumerate(texts):
        batch = raw.llama_batch_init(len(text), 0, 1)
        batch.n_tokens = len(text)
        for i, token in enumerate(text):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, place.value + i, 1, 0
            batch.seq_id[i][0] = 0
        batch.logits[len(text) - 1] = 1
        assert raw.llama_decode(context, batch) == 0
        place = ctypes.c_int32(place.value + len(text))
        if number == len(images):
            break
        width, height, rgb = images[number]
        bitmap = mtmd.mtmd_bitmap_init(width, height, (ctypes.c_uint8 * len(rgb)).from_buffer_copy(rgb))
        marker = mtmd.mtmd_input_text()
        marker.text, marker.text_len = mtmd.mtmd_default_marker(), len(mtmd.mtmd_default_marker())
        marker.add_special, marker.parse_special = False, True
        chunks = mtmd.mtmd_input_chunks_init()
        bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
        assert mtmd.mtmd_tokenize(own, chunks, ctypes.byref(marker), bitmaps, 1) == 0
        done = ctypes.c_int32(0)
        assert mtmd.mtmd_helper_eval_chunks(own, context, chunks, place, 0, 128, False, ctypes.byref(done)) == 0
        place = done
    n_vocab = raw.llama_vocab_n_tokens(raw.llama_model_get_vocab(model))
    return raw.llama_get_logits_ith(context, -1)[:n_vocab]


def our_logits(
    projector: Projector, texts: list[list[int]], images: list[tuple[int, int, bytes]], step: int
) -> list[float]:
    """The same by our batches, in steps of so many media rows at most."""
    context = Context(projector.model, n_ctx=512, n_batch=128, n_ubatch=128, n_seq_max=1)
    runner, batch, rows = ModelRunner(context), Batch(128), MediaBatch(128, projector.model)
    pos = 0

    def add(tokens: list[int] | tuple[int, ...], plan: StepPlan) -> None:
        batch.clear()
        batch.extend(array("i", tokens), 0, len(tokens), pos, 0)
        runner.step(plan)

    for number, text in enumerate(texts):
        is_last = number == len(images)
        sampler = Sampler(projector.model.n_vocab, seed=0)
        add(text, StepPlan(StepKind.DECODE, batch, rows=[len(text) - 1] * is_last, samplers=[sampler] * is_last))
        pos += len(text)
        if is_last:
            break
        media = projector.image(*images[number])
        for part in media.parts:
            if isinstance(part, tuple):
                add(part, StepPlan(StepKind.DECODE, batch))
                pos += len(part)
                continue
            encoded = projector.encode(media, part)
            for start in range(0, part.n_rows, step):
                rows.clear()
                rows.extend(encoded, part.offsets, start, min(part.n_rows, start + step), pos, 0, part.is_causal)
                runner.step(StepPlan(StepKind.MEDIA, rows))
            pos += part.n_pos
    return list(runner.logits(0))


@pytest.mark.parametrize("step", [128, 5])
def test_logits_after_two_images_are_those_of_mtmd(projector, step):
    texts = [[5, 6, 7], [40, 41, 42, 43, 44], [9, 10]]
    images = [(96, 64, pixels(96, 64)), (64, 160, pixels(64, 160))]
    expected = reference_logits((MODEL, PROJECTOR), texts, images)
    found = our_logits(projector, texts, images, step)
    assert max(abs(one - other) for one, other in zip(expected, found, strict=True)) < 1e-3


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> tuple[str, str, str]:
    """A model with plain positions, a projector for it that sees, and one that hears."""
    paths = [str(tmp_path_factory.mktemp("plain") / f"{name}.gguf") for name in ("model", "sees", "hears")]
    write_attention_model(paths[0])
    write_seeing_projector(paths[1])
    write_hearing_projector(paths[2])
    return paths[0], paths[1], paths[2]


def test_logits_of_rows_that_attend_to_each_other_are_those_of_mtmd(plain):
    projector = Projector(Model(plain[0]), plain[1])
    texts, images = [[5, 6, 7], [40, 41], [9, 10]], [(96, 64, pixels(96, 64)), (64, 160, pixels(64, 160))]
    assert not projector.image(*images[0]).chunks[0].is_causal
    found = our_logits(projector, texts, images, 128)
    expected = reference_logits((plain[0], plain[1]), texts, images)
    assert max(abs(one - other) for one, other in zip(expected, found, strict=True)) < 1e-3


def test_rows_that_attend_to_each_other_differ_from_causal_ones(plain):
    projector = Projector(Model(plain[0]), plain[1])
    media = projector.image(64, 64, pixels(64, 64))
    rows = projector.encode(media, media.chunks[0])
    logits = []
    for is_causal in (False, True):
        runner, batch = ModelRunner(Context(projector.model, n_ctx=64)), MediaBatch(16, projector.model)
        batch.extend(rows, None, 0, 16, 0, 0, is_causal)
        sampler = Sampler(projector.model.n_vocab, seed=0)
        runner.step(StepPlan(StepKind.MEDIA, batch, rows=[15], samplers=[sampler]))
        text = Batch(4)
        text.add(5, 16, 0)
        runner.step(StepPlan(StepKind.DECODE, text, rows=[0], samplers=[sampler]))
        logits.append(runner.logits(0))
    assert logits[0] != logits[1]


@pytest.mark.parametrize(("seconds", "num_chunks"), [(0.11, 1), (1.0, 1), (31.0, 2)])
def test_sound_is_cut_into_windows(plain, seconds, num_chunks):
    projector = Projector(Model(plain[0]), plain[2])
    assert (projector.sees, projector.hears, projector.sample_rate) == (False, True, 16_000)
    chunks = projector.audio(array("f", [0.1] * int(seconds * 16_000))).chunks
    assert [(chunk.n_rows, chunk.n_pos, chunk.is_causal) for chunk in chunks] == [(750, 750, True)] * num_chunks


@pytest.mark.parametrize(
    "samples", [[], [0.1], [0.1] * 319, [0.1] * 1599, [0.1] * 1599 + [math.nan], [math.inf] * 9000]
)
def test_sound_that_would_end_libmtmd_is_refused(plain, samples):
    with pytest.raises(InvalidRequestError, match="sound"):
        Projector(Model(plain[0]), plain[2]).audio(array("f", samples))


def test_projector_of_another_width_is_refused(plain, tmp_path):
    path = str(tmp_path / "wide.gguf")
    write_seeing_projector(path, n_out=128)
    with pytest.raises(ModelLoadError, match="cannot load the projector"):
        Projector(Model(plain[0]), path)
