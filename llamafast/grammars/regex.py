"""Clients' regular expressions: how large one becomes with its repetitions written out, and how Lark writes it."""

from __future__ import annotations

import re

from llamafast.errors import GrammarError

_MAX_SIZE = 10_000
_PIECE = re.compile(r"\\.|[^\\]|\\$", re.DOTALL)
_REPEAT = re.compile(r"\{(\d*)(?:,(\d*))?\}")


def check_regex(text: str) -> None:
    """Raises GrammarError if nested repetitions make it too large. What is wrong otherwise is for the compiler."""
    sums = [0]  # of the open groups, outermost first
    last, i = 0, 0  # size of the last item
    while i < len(text):
        char = text[i]
        if char == "{" and (match := _REPEAT.match(text, i)):
            counts = [int(digits[:9]) for digits in match.groups() if digits]
            sums[-1] += last * (max(counts, default=1) - 1)
            last *= max(counts, default=1)
            i = match.end()
        elif char == "(":
            sums.append(0)
            i += 1
        elif char == ")" and len(sums) > 1:
            last = sums.pop()
            sums[-1] += last
            i += 1
        else:
            if char not in "*+?|":
                last = 1
                sums[-1] += 1
            i = _class_end(text, i) if char == "[" else i + (2 if char == "\\" else 1)
        if sums[-1] > _MAX_SIZE and last > 1:
            raise GrammarError(f"the repetitions of the pattern make it larger than {_MAX_SIZE}")


def slashed(text: str) -> str:
    """A regular expression as Lark writes one; two slashes begin a comment there."""
    written = {"/": "\\/", "\n": "\\n", "\r": "\\r", "\\\n": "\\n"}
    return f"/{''.join(written.get(piece, piece) for piece in _PIECE.findall(text)) or '()'}/"


def _class_end(text: str, start: int) -> int:
    i = start + (2 if text.startswith("[^", start) else 1)
    i += text.startswith("]", i)
    while i < len(text) and text[i] != "]":
        i += 2 if text[i] == "\\" else 1
    return i + 1
