"""The encoder's thread: order, single flight, what is kept, and what is dropped."""

from __future__ import annotations

import threading
from array import array
from types import SimpleNamespace

import pytest

from llamafast.engine.media_encoder import MediaEncoder, span_digest
from llamafast.request import MediaContent


class FakeProjector:
    """Encodes an image of n pixels as n rows of one number. gate: encodings wait for it."""

    def __init__(self) -> None:
        self.encoded: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def image(self, width: int, height: int, rgb: bytes):
        chunk = SimpleNamespace(number=1, n_rows=width, offsets=None, is_causal=True)
        return SimpleNamespace(chunks=[chunk])

    def encode(self, media, chunk):
        assert self.gate.wait(10)
        self.encoded.append(chunk.n_rows)
        return array("f", [1.0] * chunk.n_rows)


@pytest.fixture
def projector():
    return FakeProjector()


@pytest.fixture
def encoder(projector):
    made = MediaEncoder(projector, max_bytes=4 * 100)
    yield made
    projector.gate.set()
    made.close()


def content(n: int) -> MediaContent:
    return MediaContent(b"%d" % n, width=n, height=1)


def finish(encoder, *jobs) -> None:
    while not all(job.has_ended for job in jobs):
        encoder.wait()


def test_contents_are_encoded_in_the_order_in_which_they_are_wanted(encoder, projector):
    jobs = [encoder.want(content(n)) for n in (3, 1, 2)]
    finish(encoder, *jobs)
    assert projector.encoded == [3, 1, 2]
    assert [len(job.encoded[span_digest(job.content, 1)].rows) for job in jobs] == [3, 1, 2]


def test_equal_contents_have_one_job(encoder, projector):
    projector.gate.clear()
    first, second = encoder.want(content(3)), encoder.want(content(3))
    projector.gate.set()
    finish(encoder, first)
    assert first is second
    assert projector.encoded == [3]


def test_result_that_is_kept_is_not_encoded_again(encoder, projector):
    finish(encoder, encoder.want(content(3)))
    assert encoder.want(content(3)).has_ended
    assert (projector.encoded, encoder.stats.num_hits) == ([3], 1)


def test_least_recently_used_result_goes_first(encoder):
    for n in (40, 50):
        finish(encoder, encoder.want(content(n)))
    encoder.want(content(40))
    finish(encoder, encoder.want(content(30)))
    assert encoder.stats.num_bytes == 4 * 70
    assert [encoder.want(content(n)).has_ended for n in (40, 30)] == [True, True]


def test_result_above_the_limit_is_given_and_not_kept(encoder):
    job = encoder.want(content(101))
    finish(encoder, job)
    assert (job.encoded is not None, encoder.stats.num_bytes) == (True, 0)


def test_job_that_nobody_holds_is_not_encoded(encoder, projector):
    projector.gate.clear()
    running, dropped, last = (encoder.want(content(n)) for n in (1, 2, 3))
    del dropped
    projector.gate.set()
    finish(encoder, running, last)
    assert projector.encoded == [1, 3]


def test_end_of_a_job_is_told_and_leaves_the_encoder_idle(encoder):
    told = threading.Event()
    encoder.call_on_end(told.set)
    finish(encoder, encoder.want(content(1)))
    assert told.wait(10)
    assert not encoder.is_busy
