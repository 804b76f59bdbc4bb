"""Images through the real engine with the built-in model: answers as of a run alone, and no work twice."""

from __future__ import annotations

import base64
import json
from array import array
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

import llamafast
from llamafast.cache.prompt import MediaSpan, Prompt
from llamafast.engine.engine import Engine, EngineConfig
from llamafast.engine.plan import StepKind
from llamafast.errors import InvalidRequestError, RequestFailedError
from llamafast.request import FinishReason, PromptPlaces, Request, SamplingParams
from tests.engine.fakes import Collector
from tests.tiny_models import write_attention_model
from tests.tiny_projectors import write_hearing_projector, write_seeing_projector

pytestmark = pytest.mark.usefixtures("native")

MODELS = Path(llamafast.__file__).parent / "models"
RECORDED = [item for item in json.loads((MODELS / "transcripts.json").read_text()) if item.get("image")]
PLAIN = [item for item in RECORDED if not item["thinking"]]


def open_engine(**settings) -> Engine:
    """The built-in model with its projector, in steps of 20 rows, so that images are split."""
    settings = {"n_ctx": 1024, "n_batch": 20, "n_ubatch": 20, "n_seq_max": 6, "threads": 1, **settings}
    engine = Engine(str(MODELS / "tiny-qwen35-f16.gguf"), EngineConfig(**settings))
    engine.add_projector(str(MODELS / "mmproj-tiny-qwen35-f16.gguf"))
    return engine


def picture(item) -> Image.Image:
    url = item["messages"][0]["content"][0]["image_url"]["url"]
    return Image.open(BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")


def encode(engine: Engine, text: str) -> list[int]:
    return engine.tokenizer.encode(text, add_special=False, parse_special=True)


def ask(engine: Engine, request_id: str, item, question: str | None = None, **params) -> Request:
    """The request of a transcript, or another question about its image."""
    image = picture(item)
    content = engine.media.image(image.width, image.height, image.tobytes())
    text = question or item["messages"][0]["content"][1]["text"]
    end = f"{text}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    head = encode(engine, "<|im_start|>user\n")
    prompt = Prompt.join([head, *engine.media.parts(content), encode(engine, end)])
    contents = tuple(content for _ in prompt.layout.media)
    params = SamplingParams(**{"temperature": 0, "max_tokens": 40, **params})
    return Request(request_id, prompt.ids, params, media=prompt.layout.media, contents=contents)


@pytest.mark.parametrize("settings", [{}, {"kv_unified": False, "n_ctx": 1200}, {"n_batch": 7}])
def test_images_of_several_requests_at_once_give_the_recorded_answers(settings):
    with open_engine(**settings) as engine:
        collector = Collector().run(engine, *(ask(engine, str(i), item) for i, item in enumerate(PLAIN)))
        texts = [collector.text[str(i), 0] for i in range(len(PLAIN))]
    assert texts == [item["expected"] for item in PLAIN]


def test_rows_of_several_images_share_a_step():
    with open_engine(n_batch=64, n_ubatch=64) as engine:
        most, runner = 0, engine.runner

        class Watch:
            context = runner.context
            logprobs = runner.logprobs

            def step(self, plan):
                nonlocal most
                most = max(most, len(plan.chunks) if plan.kind is StepKind.MEDIA else 0)
                return runner.step(plan)

        engine.runner = Watch()
        supply = engine.scheduler.planner.media
        requests = [ask(engine, str(i), item) for i, item in enumerate(PLAIN[:3])]
        jobs = [supply.encoder.want(request.contents[0]) for request in requests]
        while not all(job.has_ended for job in jobs):
            supply.wait()
        collector = Collector().run(engine, *requests)
    assert most == 3
    assert [collector.text[str(i), 0] for i in range(3)] == [item["expected"] for item in PLAIN[:3]]


def test_second_question_about_an_image_computes_and_encodes_no_image_row():
    item = PLAIN[-1]
    with open_engine() as engine:
        first = ask(engine, "0", item)
        Collector().run(engine, first)
        computed = engine.stats.computed_prompt_tokens
        second = ask(engine, "1", item, "What do you see?")
        collector = Collector().run(engine, second)
        assert collector.usage["1"].cached_tokens >= second.media[0].end
        assert engine.stats.computed_prompt_tokens - computed < second.media[0].n_rows
        assert engine.scheduler.planner.media.encoder.stats.num_encoded == 1
    with open_engine(enable_prefix_cache=False) as engine:
        cold = Collector().run(engine, ask(engine, "1", item, "What do you see?"))
    assert collector.text == cold.text


def test_equal_images_that_come_together_are_encoded_once():
    with open_engine(enable_prefix_cache=False) as engine:
        requests = [ask(engine, str(i), PLAIN[0]) for i in range(4)]
        collector = Collector().run(engine, *requests)
        assert engine.scheduler.planner.media.encoder.stats.num_encoded == 1
    assert set(collector.text.values()) == {PLAIN[0]["expected"]}


def test_images_that_differ_in_one_pixel_share_no_row():
    item = PLAIN[-1]
    with open_engine() as engine:
        request = ask(engine, "0", item)
        image = picture(item)
        image.putpixel((100, 100), (1, 2, 3))
        other = engine.media.image(image.width, image.height, image.tobytes())
        (span,) = (part for part in engine.media.parts(other) if isinstance(part, MediaSpan))
        assert span.digest != request.media[0].digest


def test_abort_within_an_image_leaves_the_next_request_right():
    item = PLAIN[-1]
    with open_engine() as engine:
        request = ask(engine, "0", item)
        engine.add(request)
        span = request.media[0]
        while not engine.scheduler.prefilling or engine.scheduler.prefilling[0].slot.length <= span.start:
            engine.step()
        assert engine.scheduler.prefilling[0].slot.length < span.end
        engine.abort("0")
        engine.step()
        engine.check_integrity()
        collector = Collector().run(engine, ask(engine, "1", item))
    assert collector.text["1", 0] == item["expected"]


def test_choices_of_one_request_share_its_image():
    item = PLAIN[-1]
    with open_engine() as engine:
        collector = Collector().run(engine, ask(engine, "0", item, n=3))
        assert engine.stats.computed_prompt_tokens == len(ask(engine, "0", item).prompt_token_ids)
    assert [collector.text["0", i] for i in range(3)] == [item["expected"]] * 3


def test_preempted_requests_with_images_end_as_alone():
    items = PLAIN[-2:]
    with open_engine(n_ctx=256, n_batch=64, n_ubatch=64) as engine:
        requests = [ask(engine, str(i), item, ignore_eos=True, max_tokens=75) for i, item in enumerate(items)]
        together = Collector().run(engine, *requests)
        assert engine.stats.preemptions > 0
    for i, item in enumerate(items):
        with open_engine(enable_prefix_cache=False) as engine:
            alone = Collector().run(engine, ask(engine, str(i), item, ignore_eos=True, max_tokens=75))
        assert together.text[str(i), 0] == alone.text[str(i), 0]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict[str, str]:
    """A model with plain positions, and projectors for it."""
    folder = tmp_path_factory.mktemp("plain")
    paths = {name: str(folder / f"{name}.gguf") for name in ("model", "sees", "hears")}
    write_attention_model(paths["model"])
    write_seeing_projector(paths["sees"])
    write_hearing_projector(paths["hears"])
    return paths


def plain_engine(plain, projector: str, **settings) -> Engine:
    settings = {"n_ctx": 2048, "n_batch": 64, "n_ubatch": 32, "n_seq_max": 4, "threads": 1, **settings}
    engine = Engine(plain["model"], EngineConfig(**settings))
    engine.add_projector(plain[projector])
    return engine


def plain_request(engine: Engine, request_id: str, content, question: str) -> Request:
    parts = engine.media.parts(content)
    prompt = Prompt.join([encode(engine, "look: "), *parts, encode(engine, question)])
    contents = tuple(content for _ in prompt.layout.media)
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    return Request(request_id, prompt.ids, params, media=prompt.layout.media, contents=contents)


def test_images_whose_rows_attend_to_each_other_share_steps_and_prefixes(plain):
    def requests(engine):
        contents = [engine.media.image(64, 64, bytes([shade]) * 64 * 64 * 3) for shade in (0, 90, 200)]
        return [plain_request(engine, str(i), contents[i % 3], f"question {i}?") for i in range(6)]

    with plain_engine(plain, "sees") as engine:
        warm = Collector().run(engine, *requests(engine))
        assert engine.scheduler.planner.media.encoder.stats.num_encoded == 3
        assert any(usage.cached_tokens >= 16 for usage in warm.usage.values())
    with plain_engine(plain, "sees", enable_prefix_cache=False, n_seq_max=1) as engine:
        cold = Collector().run(engine, *requests(engine))
    assert warm.text == cold.text


def test_restart_reads_an_image_from_the_disk(tmp_path):
    item = PLAIN[-1]
    texts = []
    for question in (None, "What do you see?"):
        with open_engine() as engine:
            engine.open_disk_cache(str(tmp_path), max_bytes=10**8, min_tokens=8)
            request = ask(engine, "0", item, question)
            request = replace(request, places=PromptPlaces.of((request.media[0].end,)))
            collector = Collector().run(engine, request)
            texts.append(collector.text["0", 0])
            cached, num_encoded = collector.usage["0"].cached_tokens, engine.stats.media.num_encoded
    assert (cached, num_encoded) == (request.media[0].end, 0)
    with open_engine(enable_prefix_cache=False) as engine:
        assert texts[1] == Collector().run(engine, ask(engine, "0", item, "What do you see?")).text["0", 0]


def test_image_whose_rows_do_not_fit_a_pass_is_refused(plain):
    with plain_engine(plain, "sees", n_ubatch=15) as engine, pytest.raises(InvalidRequestError, match="n_ubatch"):
        engine.media.parts(engine.media.image(64, 64, bytes(64 * 64 * 3)))


def test_second_question_about_a_sound_computes_no_row_of_it(plain):
    def requests(engine):
        content = engine.media.audio(array("f", [(i % 50) / 50 for i in range(16_000)]))
        return [plain_request(engine, str(i), content, f"question {i}?") for i in range(2)]

    with plain_engine(plain, "hears") as engine:
        first, second = requests(engine)
        Collector().run(engine, first)
        warm = Collector().run(engine, second)
        assert warm.usage["1"].cached_tokens >= second.media[0].end
    with plain_engine(plain, "hears", enable_prefix_cache=False) as engine:
        cold = Collector().run(engine, requests(engine)[1])
    assert warm.text == cold.text


class Faulty:
    """A projector whose encodings fail."""

    def __init__(self, projector, error: Exception | None, rows=None) -> None:
        self._projector = projector
        self._error = error
        self._rows = rows
        self.image = projector.image

    def encode(self, media, chunk):
        if self._error is not None:
            raise self._error
        return self._rows


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequestError("not finite"), InvalidRequestError),
        (RuntimeError("no memory"), RequestFailedError),
        (None, RequestFailedError),
    ],
)
def test_encoding_that_fails_ends_its_request_alone(error, kind):
    with open_engine() as engine:
        encoder = engine.scheduler.planner.media.encoder
        right = Collector().run(engine, ask(engine, "0", PLAIN[0]))
        encoder._projector = Faulty(encoder._projector, error, rows=[0.0] * 7)
        text = Request("2", Prompt.join([encode(engine, "Hello")]).ids, SamplingParams(temperature=0, max_tokens=8))
        collector = Collector().run(engine, ask(engine, "1", PLAIN[1]), text)
    assert right.text["0", 0] == PLAIN[0]["expected"]
    assert collector.finished["1", 0].finish_reason is FinishReason.ERROR
    assert isinstance(collector.finished["1", 0].error, kind)
    assert collector.finished["2", 0].finish_reason is not FinishReason.ERROR


def test_request_whose_spans_have_no_content_is_refused():
    with open_engine() as engine:
        request = ask(engine, "0", PLAIN[0])
        with pytest.raises(InvalidRequestError, match="content"):
            engine.prepare(Request("1", request.prompt_token_ids, request.params, media=request.media))


def test_second_projector_is_refused():
    with open_engine() as engine, pytest.raises(RuntimeError, match="once"):
        engine.add_projector(str(MODELS / "mmproj-tiny-qwen35-f16.gguf"))
