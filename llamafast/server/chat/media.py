"""Images and sounds in a conversation: where they stand in the prompt, and the prompt with their rows in it."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from llamafast.cache.prompt import MediaSpan, Prompt
from llamafast.chat.prompt.control_texts import new_mark
from llamafast.chat.prompt.turns import TrustedText
from llamafast.engine.media_prompts import PromptPart
from llamafast.errors import InvalidRequestError
from llamafast.request import MediaContent, PromptPlaces

Segment = tuple[str, bool]


@dataclass(frozen=True, slots=True)
class MediaPart:
    """An image or a sound that a client put into a message.

    kind: `image` or `audio`.
    source: a `data:`, `http:`, `https:` or `file:` URL, or base64 data.
    param: the path of the client's part, for errors.
    mark: a text that stands in the message in its place. It occurs nowhere else.
    is_small: the client wants it in low resolution.
    """

    kind: str
    source: str
    param: str
    mark: TrustedText
    is_small: bool = False

    @classmethod
    def new(cls, kind: str, source: str, param: str, *, is_small: bool = False) -> MediaPart:
        """A part with a new mark."""
        return cls(kind, source, param, TrustedText(new_mark()), is_small)


@dataclass(frozen=True, slots=True)
class LoadedMedia:
    """An image or a sound as it goes into the prompt. parts: what MediaPrompts.parts gives."""

    kind: str
    content: MediaContent
    parts: Sequence[PromptPart]

    @property
    def num_rows(self) -> int:
        """Rows of the prompt that are its embeddings."""
        return sum(part.n_rows for part in self.parts if isinstance(part, MediaSpan))

    @property
    def num_cells(self) -> int:
        """Rows of the prompt, with the tokens around and between its embeddings."""
        return sum(part.n_rows if isinstance(part, MediaSpan) else len(part) for part in self.parts)


@dataclass(frozen=True, slots=True)
class PlacedMedia:
    """The media of a prompt: number of the part in the request, and number of tokens before it, ascending."""

    numbers: tuple[int, ...] = ()
    places: tuple[int, ...] = ()


NO_MEDIA = PlacedMedia()


def cut_at_media(segments: Sequence[Segment], parts: Sequence[MediaPart]) -> tuple[list[list[Segment]], list[int]]:
    """The segments between the marks of parts, without the marks, and the numbers of the parts between them.

    Raises InvalidRequestError for a part that the template does not show once.
    """
    groups: list[list[Segment]] = [[]]
    numbers: list[int] = []
    for text, parses in segments:
        found = sorted((at, number) for number, part in enumerate(parts) for at in _places(text, part.mark))
        start = 0
        for at, number in found:
            groups[-1].append((text[start:at], parses))
            groups.append([])
            numbers.append(number)
            start = at + len(parts[number].mark)
        groups[-1].append((text[start:], parses))
    for number, part in enumerate(parts):
        if numbers.count(number) != 1:
            kind = {"image": "an image", "audio": "a sound"}[part.kind]
            raise InvalidRequestError(
                f"{part.param}: this model's chat template has no place for {kind} in this message", param=part.param
            )
    return [[segment for segment in group if segment[0]] for group in groups], numbers


def without_marks(text: str, ends: Sequence[int], parts: Sequence[MediaPart]) -> tuple[str, list[int]]:
    """The text without the marks of parts, and places in it, moved accordingly."""
    cuts = sorted((at, len(part.mark)) for part in parts for at in _places(text, part.mark))
    moved = [end - sum(length for at, length in cuts if at < end) for end in ends]
    for part in parts:
        text = text.replace(part.mark, "")
    return text, moved


def joined_prompt(token_ids: array[int], placed: PlacedMedia, loaded: Sequence[LoadedMedia]) -> Prompt:
    """The prompt with the rows of its media. loaded: in the order of the request's parts."""
    pieces: list[Sequence[int] | MediaSpan] = []
    start = 0
    for number, place in zip(placed.numbers, placed.places, strict=True):
        pieces.append(token_ids[start:place])
        pieces += loaded[number].parts
        start = place
    return Prompt.join([*pieces, token_ids[start:]])


def contents_of(placed: PlacedMedia, loaded: Sequence[LoadedMedia]) -> tuple[MediaContent, ...]:
    """For each span of the joined prompt, its content."""
    return tuple(
        loaded[number].content
        for number in placed.numbers
        for part in loaded[number].parts
        if isinstance(part, MediaSpan)
    )


def moved_places(
    places: PromptPlaces | None, placed: PlacedMedia, loaded: Sequence[LoadedMedia]
) -> PromptPlaces | None:
    """The places of a prompt after its media have been put in."""
    if places is None:
        return None
    before = [0]
    for number in placed.numbers:
        before.append(before[-1] + loaded[number].num_cells)

    def moved(place: int) -> int:
        return place + before[bisect_left(placed.places, place)]

    return replace(places, head=moved(places.head), turns=tuple(map(moved, places.turns)), end=moved(places.end))


def _places(text: str, mark: str) -> Iterator[int]:
    at = text.find(mark)
    while at >= 0:
        yield at
        at = text.find(mark, at + len(mark))
