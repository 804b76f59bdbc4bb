"""Images and sounds in a rendered conversation: cut at their marks, and put in as rows."""

from __future__ import annotations

import asyncio
from array import array
from types import SimpleNamespace

import pytest

from llamafast.cache.prompt import MediaSpan
from llamafast.errors import InvalidRequestError
from llamafast.media.limits import MediaLimits
from llamafast.request import MediaContent, PromptPlaces
from llamafast.server.chat.media import (
    LoadedMedia,
    MediaPart,
    PlacedMedia,
    contents_of,
    cut_at_media,
    joined_prompt,
    moved_places,
    without_marks,
)
from llamafast.server.media import MediaLoader
from llamafast.server.schemas.media import media_part

FIRST, SECOND = (MediaPart.new("image", "data:", f"messages[0].content[{i}]") for i in range(2))


def loaded(name: str, n_rows: int) -> LoadedMedia:
    """An image of so many rows between two tokens."""
    return LoadedMedia("image", MediaContent(name.encode()), [(91,), MediaSpan(0, n_rows, 2, 0, name.encode()), (92,)])


PLACED = PlacedMedia((1, 0), (2, 3))
LOADED = [loaded("a", 4), loaded("b", 3)]
IDS = array("i", [1, 2, 3, 4])


def test_segments_are_cut_at_marks_in_the_order_of_the_text():
    groups, numbers = cut_at_media([(f"a{SECOND.mark}", True), (f"b{FIRST.mark}c", False)], [FIRST, SECOND])
    assert groups == [[("a", True)], [("b", False)], [("c", False)]]
    assert numbers == [1, 0]


@pytest.mark.parametrize("text", ["no mark", f"{FIRST.mark}{FIRST.mark}"])
def test_part_that_the_template_does_not_show_once_is_refused(text):
    with pytest.raises(InvalidRequestError, match="no place for an image") as caught:
        cut_at_media([(text, True)], [FIRST])
    assert caught.value.param == "messages[0].content[0]"


def test_marks_are_taken_out_of_a_text_and_its_places():
    text, ends = without_marks(f"ab{FIRST.mark}c{SECOND.mark}", [2, 3 + len(FIRST.mark)], [FIRST, SECOND])
    assert (text, ends) == ("abc", [2, 3])


def test_rows_stand_between_the_tokens_where_the_marks_were():
    prompt = joined_prompt(IDS, PLACED, LOADED)
    spans = prompt.layout.media
    assert [(span.start, span.n_rows, span.digest) for span in spans] == [(3, 3, b"b"), (9, 4, b"a")]
    assert [i for i in prompt.ids if i >= 0] == [1, 2, 91, 92, 3, 91, 92, 4]
    assert [content.digest for content in contents_of(PLACED, LOADED)] == [b"b", b"a"]


def test_places_after_media_move_by_their_rows():
    places = moved_places(PromptPlaces(1, (2, 3), 4), PLACED, LOADED)
    assert places == PromptPlaces(1, (2, 3 + 5), 4 + 5 + 6)


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ({"type": "image_url", "image_url": {"url": "http://a/b"}}, "http://a/b"),
        ({"type": "image_url", "image_url": "http://a/b"}, "http://a/b"),
        ({"type": "input_image", "image_url": "http://a/b", "detail": "low"}, "http://a/b"),
        ({"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}}, "UklG"),
        ({"type": "audio_url", "audio_url": {"url": "http://a/b"}}, "http://a/b"),
    ],
)
def test_part_of_each_form_gives_its_source(part, source):
    found = media_part(part, "user", "messages[0].content[0]")
    assert found.source == source
    assert found.is_small == (part.get("detail") == "low")


def loader(**changes) -> MediaLoader:
    prompts = SimpleNamespace(sees=True, hears=False, sample_rate=0, min_samples=0)
    return MediaLoader(prompts, MediaLimits(**changes), None, None)


@pytest.mark.parametrize("source", ["http://example.com/a.png", "file:///a.png"])
def test_source_that_the_server_does_not_read_is_refused(source):
    part = MediaPart.new("image", source, "messages[0].content[0]")
    with pytest.raises(InvalidRequestError, match=r"not (fetched|read) here") as caught:
        asyncio.run(loader().load([part]))
    assert caught.value.param == part.param


def test_files_of_a_request_that_are_too_large_together_are_refused():
    parts = [MediaPart.new("image", "data:;base64,AAAA", f"messages[0].content[{i}]") for i in range(1)]
    with pytest.raises(InvalidRequestError, match="more than 2 bytes"):
        asyncio.run(loader(max_request_bytes=2).load(parts))
