"""LiteralReader: turns values in a model's notation into JSON."""

from __future__ import annotations

import json

import pytest

from llamafast.chat.reading.literals import GEMMA, PYTHON, LiteralReader, Notation


def read(notation: Notation, text: str, size: int, root: str = "{") -> tuple[LiteralReader, str, str]:
    """The reader, its JSON and the rest, of a text in pieces of this size."""
    reader = LiteralReader(notation, root)
    json_text, held = "", ""
    for start in range(0, len(text), size):
        held += text[start : start + size]
        piece, at = reader.read(held, 0)
        json_text, held = json_text + piece, held[at:]
    return reader, json_text, held


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("notation", "root", "text", "value"),
    [
        (PYTHON, "(", ")", {}),
        (
            PYTHON,
            "(",
            "a=1, b='x\\n\\'q\\\\ \"é😀', c=[True, None])",
            {"a": 1, "b": "x\n'q\\ \"é😀", "c": [True, None]},
        ),
        (PYTHON, "(", r"a='\x41\u00e9\101\U0001F389\q')", {"a": "AéA🎉\\q"}),
        (PYTHON, "(", "a=(1, 2,), b={'k': {}, 2: []},)", {"a": [1, 2], "b": {"k": {}, "2": []}}),
        (PYTHON, "{", "{'a': -1.5e-3}", {"a": -1.5e-3}),
        (GEMMA, "{", "{}", {}),
        (GEMMA, "{", '{a:<|"|>x "q" \\n\n<|"|>,b:1}', {"a": 'x "q" \\n\n', "b": 1}),
        (GEMMA, "{", '{a:{<|"|>k<|"|>:[true,None]},b:<|"|><|"|>}', {"a": {"k": [True, None]}, "b": ""}),
        (GEMMA, "{", '{a:<|"|><|<|"|>}', {"a": "<|"}),
        (GEMMA, "{", '{{a:word,"b":"\\"\\ud83d\\ude00"}}', {"a": "word", "b": '"😀'}),
        (GEMMA, "{", "[a:1]", {"a": 1}),
    ],
)
def test_reader_of_whole_object_gives_its_value(
    notation: Notation, root: str, text: str, value: object, size: int
) -> None:
    reader, json_text, held = read(notation, text + "!", size, root)
    assert (reader.is_complete, json.loads(json_text), held) == (True, value, "!")


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize(
    ("notation", "text", "shown", "left"),
    [
        (PYTHON, "a=b)", '{"a":', "b)"),
        (PYTHON, "a=1 2)", '{"a":1', "2)"),
        (PYTHON, "a=[1)", '{"a":[1', ")"),
        (PYTHON, "a=01)", '{"a":', "01)"),
        (PYTHON, "=1)", "{", "=1)"),
    ],
)
def test_reader_of_mistake_stops_before_it(notation: Notation, text: str, shown: str, left: str, size: int) -> None:
    reader, json_text, held = read(notation, text, size, "(")
    assert (reader.is_broken, json_text, held) == (True, shown, left)


def test_reader_of_endless_word_is_broken() -> None:
    reader, _, _ = read(GEMMA, "{a:" + "x" * 2000, 100)
    assert reader.is_broken


def test_reader_of_begun_string_gives_what_is_certain() -> None:
    assert read(GEMMA, '{a:<|"|>text<|', 1000)[1:] == ('{"a":"text', "<|")
