"""The rows of a prompt: tokens and media, with the ids that identify them and their positions.

A row takes one KV cell. Its index is its number in the prompt. Its position is its number in the KV memory. Both are
equal up to the first media. After media they can differ, because an image of n rows can have fewer than n positions
(M-RoPE).
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import shake_256
from itertools import zip_longest


@dataclass(frozen=True, slots=True)
class MediaSpan:
    """One media chunk in a prompt: an image, or a window of audio. It is computed, kept and reused only as a whole.

    start: int, index of its first row.
    n_rows: int >= 1, number of rows.
    n_pos: int, 1 to n_rows, number of positions. If the first row has position p, the row after the span has p + n_pos.
    last_t_offset: int, 0 to n_pos - 1, position of the last row minus position of the first row. 0: all rows have the
    same position (an image with M-RoPE); n_rows - 1: each row has its own.
    digest: bytes, hash of all inputs of the rows' embeddings: content, transforms, projector, its settings, and the
    chunk's number within the content. Equal digests mean equal rows.
    """

    start: int
    n_rows: int
    n_pos: int
    last_t_offset: int
    digest: bytes

    @property
    def end(self) -> int:
        """Index of the row after the span."""
        return self.start + self.n_rows


class Layout:
    """The media spans of a prompt, and the positions of its rows. Immutable.

    media: tuple[MediaSpan, ...], ascending; all rows between and after them are text.
    offset: int, position minus index of a row after the last span; 0 without media.
    """

    __slots__ = ("_offsets", "_starts", "media", "offset")

    def __init__(self, media: tuple[MediaSpan, ...] = ()) -> None:
        self.media = media
        self._starts = [span.start for span in media]
        self._offsets = [0]  # position minus index of a text row after the first k spans
        for span in media:
            self._offsets.append(self._offsets[-1] + span.n_pos - span.n_rows)
        self.offset = self._offsets[-1]

    def position(self, index: int) -> int:
        """The position of the row at an index. The index may be after the prompt."""
        if not self.media:
            return index
        num_spans = bisect_left(self._starts, index)  # number of spans that begin before the index
        if num_spans and index < self.media[num_spans - 1].end:
            span = self.media[num_spans - 1]
            return span.start + self._offsets[num_spans - 1] + min(index - span.start, span.last_t_offset)
        return index + self._offsets[num_spans]

    def pos_max(self, num_rows: int) -> int:
        """The largest position in a memory that holds the first num_rows rows; -1 if it holds none."""
        return self.position(num_rows - 1) if num_rows else -1

    def round_down(self, num_rows: int) -> int:
        """The largest number of rows, at most num_rows, that splits no span."""
        span = self._split_by(num_rows)
        return num_rows if span is None else span.start

    def round_up(self, num_rows: int) -> int:
        """The smallest number of rows, at least num_rows, that splits no span."""
        span = self._split_by(num_rows)
        return num_rows if span is None else span.end

    def run_end(self, start: int, end: int) -> int:
        """End of the run of rows from `start` on that are all text, or all of one span; at most `end`."""
        for span in self.media:
            if start < span.end:
                return min(end, span.end if start >= span.start else span.start)
        return end

    def span_at(self, index: int) -> MediaSpan | None:
        """The span of the row at an index; None if it is text."""
        num_spans = bisect_right(self._starts, index)
        span = self.media[num_spans - 1] if num_spans else None
        return span if span is not None and index < span.end else None

    def common(self, other: Layout, num_rows: int) -> int:
        """Number of leading rows, at most num_rows, with the same media in both layouts. It splits no span.

        num_rows: number of leading rows with equal ids in both prompts.
        """
        if not self.media and not other.media:
            return num_rows
        for mine, theirs in zip_longest(self.media, other.media):
            start = min(span.start for span in (mine, theirs) if span is not None)
            if start >= num_rows:
                break
            if mine != theirs or mine.end > num_rows:
                return start
        return num_rows

    def upto(self, num_rows: int) -> Layout:
        """The layout of the first num_rows rows. They must split no span."""
        if not self.media or self.media[-1].end <= num_rows:
            return self
        return Layout(tuple(span for span in self.media if span.end <= num_rows))

    def last_ends(self, boundaries: Sequence[int]) -> list[int]:
        """The end of the last span before each boundary, and the end of the last span; ascending."""
        last = {bisect_left(boundaries, span.end): span.end for span in self.media}
        return sorted(last.values())

    def text_ids(self, ids: array[int]) -> array[int]:
        """The token ids of the text rows. ids: one id per row of the prompt."""
        if not self.media:
            return ids
        text, start = array("i"), 0
        for span in self.media:
            text += ids[start : span.start]
            start = span.end
        return text + ids[start:]

    def _split_by(self, num_rows: int) -> MediaSpan | None:
        num_spans = bisect_left(self._starts, num_rows)
        span = self.media[num_spans - 1] if num_spans else None
        return span if span is not None and num_rows < span.end else None


TEXT_ONLY = Layout()
"""The layout of every prompt without media."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as a list of rows.

    ids: array('i'), one id per row: the token id of a text row, or a negative id from media_ids() of a media row.
    layout: Layout, the media spans.
    """

    ids: array[int]
    layout: Layout = TEXT_ONLY

    @classmethod
    def join(cls, parts: Iterable[Sequence[int] | MediaSpan]) -> Prompt:
        """A prompt from its parts in order: token ids of texts, and spans. The method sets the `start` of each span."""
        ids, media = array("i"), []
        for part in parts:
            if isinstance(part, MediaSpan):
                media.append(replace(part, start=len(ids)))
                ids += media_ids(part.digest, part.n_rows)
            else:
                ids.extend(part)
        return cls(ids, Layout(tuple(media)) if media else TEXT_ONLY)

    @property
    def num_rows(self) -> int:
        """Number of rows, and of the KV cells that the prompt takes."""
        return len(self.ids)

    @property
    def next_pos(self) -> int:
        """The position of the first row after the prompt."""
        return self.layout.position(len(self.ids))

    def position(self, index: int) -> int:
        """See Layout.position."""
        return self.layout.position(index)


def media_ids(digest: bytes, n_rows: int) -> array[int]:
    """Negative ids for the rows of a span, shape (n_rows,): 31 bits each of a SHAKE-256 stream of the digest.

    The ids of a span with few rows have few bits and can collide. So Layout.common(), which compares digests, must
    confirm a match of ids.
    """
    words = struct.iter_unpack("<I", shake_256(digest).digest(4 * n_rows))
    return array("i", (-1 - (word >> 1) for (word,) in words))


def media_fault(ids: array[int], media: tuple[MediaSpan, ...]) -> str | None:
    """The reason why these spans are invalid for a prompt with these ids; None if they are valid."""
    previous_end = 0
    for number, span in enumerate(media):
        if not previous_end <= span.start < span.end <= len(ids):
            return f"span {number} has no rows, overlaps another one, or does not lie within the prompt"
        if not 0 <= span.last_t_offset < span.n_pos <= span.n_rows:
            return f"span {number} has positions that do not fit its {span.n_rows} rows"
        if ids[span.start : span.end] != media_ids(span.digest, span.n_rows):
            return f"span {number} has other ids than those of its digest"
        previous_end = span.end
    return None
