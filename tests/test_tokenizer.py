"""Tokenizer and Detokenizer, with byte vocabularies of a fake model and the built-in model."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llamafast
from llamafast._core import Model
from llamafast.errors import InvalidRequestError
from llamafast.tokenizer import Detokenizer, Tokenizer
from tests.tiny_models import write_attention_model

MODELS = Path(llamafast.__file__).parent / "models"
CONTROL = b"<|control|>"
# Characters of 1 to 4 bytes, and invalid bytes of every kind: lone, overlong, surrogate, out of range.
BAD = [b"\x80", b"\xc0\xaf", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf5", b"\xff", b"\xe2\x82"]
BYTES = st.lists(st.one_of(st.characters().map(lambda c: c.encode("utf-8", "replace")), st.sampled_from(BAD))).map(
    b"".join
)


class FakeModel:
    """A vocabulary of the given byte strings and one control token. It cannot tokenize."""

    bos_id = eos_id = -1
    add_bos = False
    fim_ids = (-1, -1, -1)
    suppress_ids = ()

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces
        self.n_vocab = len(pieces) + 1

    def token_bytes(self, token_id: int, special: bool = False) -> bytes:
        if token_id == len(self.pieces):
            return CONTROL if special else b""
        return self.pieces[token_id]

    def is_eog(self, token_id: int) -> bool:
        return token_id == len(self.pieces)

    def is_control(self, token_id: int) -> bool:
        return token_id == len(self.pieces)

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        return []


def detokenize(pieces: list[bytes], token_ids: list[int], skip_special: bool = True) -> list[str]:
    detokenizer = Detokenizer(Tokenizer(FakeModel(pieces)), skip_special)
    return [*[detokenizer.add(i) for i in token_ids], detokenizer.flush()]


BYTE_TOKENIZER = Tokenizer(FakeModel([bytes([i]) for i in range(256)]))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(Model(str(MODELS / "tiny-qwen35-f16.gguf"), vocab_only=True))


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("vocab") / "sentencepiece.gguf"
    write_attention_model(path, sentencepiece=True)
    return Tokenizer(Model(str(path), vocab_only=True))


@settings(deadline=None)
@given(BYTES, st.data())
def test_detokenizer_any_split_into_tokens_equals_whole_decode(data, draw):
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=8)))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert "".join(detokenize(pieces, list(range(len(pieces))))) == data.decode("utf-8", "replace")


def is_unfinished(data: bytes) -> bool:
    """Whether data is the incomplete beginning of a valid character."""
    for rest in (b"\x80", b"\x80\x80", b"\xa0\x80", b"\x80\x80\x80", b"\x90\x80\x80"):
        text = (data + rest).decode("utf-8", "replace")
        if len(text) == 1 and text != "\ufffd":
            return True
    return False


@settings(deadline=None)
@given(BYTES)
def test_detokenizer_byte_by_byte_emits_bad_bytes_as_soon_as_certain(data):
    detokenizer = Detokenizer(BYTE_TOKENIZER)
    text = ""
    for end, byte in enumerate(data, 1):
        text += detokenizer.add(byte)
        num_held = next((n for n in (3, 2, 1) if n <= end and is_unfinished(data[end - n : end])), 0)
        assert text == data[: end - num_held].decode("utf-8", "replace")


def test_detokenizer_unfinished_character_at_end_is_one_replacement():
    assert detokenize([b"a", b"\xf0\x9f\x98"], [0, 1]) == ["a", "", "\ufffd"]


def test_detokenizer_flush_leaves_nothing_pending():
    detokenizer = Detokenizer(BYTE_TOKENIZER)
    detokenizer.add(0xF0)
    detokenizer.flush()
    assert detokenizer.add(ord("a")) == "a"


def test_detokenizer_control_token_inside_a_character_is_skipped():
    assert detokenize([b"\xc3", b"\xa9"], [0, 2, 1]) == ["", "", "\u00e9", ""]


def test_detokenizer_keeping_special_writes_control_tokens():
    assert detokenize([b"a"], [0, 1], skip_special=False) == ["a", "<|control|>", ""]


def test_tokenizer_decode_skips_or_writes_control_tokens():
    tokenizer = Tokenizer(FakeModel([b"a", b"\xff"]))
    assert (tokenizer.decode([0, 2, 1]), tokenizer.decode([2, 0], skip_special=False)) == ("a\ufffd", "<|control|>a")


@pytest.mark.parametrize("token_id", [-1, 3, 2**40])
def test_tokenizer_decode_id_outside_vocabulary_is_value_error(token_id):
    with pytest.raises(ValueError, match="outside the vocabulary of 3"):
        Tokenizer(FakeModel([b"a", b"b"])).decode([0, token_id])


def test_tokenizer_table_shows_the_control_tokens_asked_for():
    tokenizer = Tokenizer(FakeModel([b"a"]))
    assert tokenizer.table(skip_special=True, shown_ids=frozenset({1})).pieces[1] == "<|control|>"
    assert tokenizer.table(skip_special=True).pieces[1] == ""


def test_tokenizer_token_bytes_of_control_token_only_with_special():
    tokenizer = Tokenizer(FakeModel([b"a"]))
    assert (tokenizer.token_bytes_of(1), tokenizer.token_bytes_of(1, special=True)) == (b"", CONTROL)


def test_tokenizer_facts_of_built_in_model(tokenizer):
    assert (tokenizer.n_vocab, tokenizer.bos_id, tokenizer.add_bos) == (3584, -1, False)
    assert tokenizer.decode([tokenizer.eos_id], skip_special=False) == "<|im_end|>"
    assert tokenizer.eos_id in tokenizer.eog_ids


@settings(deadline=None)
@given(st.text())
def test_tokenizer_any_text_encodes_and_decodes_to_itself(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special=False, parse_special=False)) == text


@pytest.mark.parametrize("text", ["", "a\0b\0", "\0", "<|im_end|>", "\U0001f6d1", "\r\n\t  "])
def test_tokenizer_odd_text_encodes_and_decodes_to_itself(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special=False, parse_special=False)) == text


def test_tokenizer_encode_lone_surrogate_is_invalid_request(tokenizer):
    with pytest.raises(InvalidRequestError, match="lone surrogate at character 2"):
        tokenizer.encode("ab\ud800", add_special=True, parse_special=True)


def test_tokenizer_encode_parses_control_tokens_only_when_asked(tokenizer):
    assert tokenizer.encode("<|im_end|>", add_special=False, parse_special=True) == [tokenizer.eos_id]
    assert tokenizer.eos_id not in tokenizer.encode("<|im_end|>", add_special=False, parse_special=False)


def test_tokenizer_encode_segments_parses_control_tokens_only_in_trusted_ones(tokenizer):
    token_ids = tokenizer.encode_segments([("<|im_start|>user\n", True), ("<|im_end|>", False), ("<|im_end|>", True)])
    assert tokenizer.decode(token_ids, skip_special=False) == "<|im_start|>user\n<|im_end|><|im_end|>"
    assert token_ids.count(tokenizer.eos_id) == 1


def test_tokenizer_encode_puts_bos_only_with_add_special(sentencepiece):
    with_bos = sentencepiece.encode("hello", add_special=True, parse_special=False)
    assert with_bos == [sentencepiece.bos_id, *sentencepiece.encode("hello", add_special=False, parse_special=False)]


def test_tokenizer_encode_does_not_double_a_bos_that_the_text_begins_with(sentencepiece):
    def encode(text, parse_special=True):
        return sentencepiece.encode(text, add_special=True, parse_special=parse_special)

    assert encode("<s>hello") == encode("hello")
    assert encode("<s><s>hello").count(sentencepiece.bos_id) == 2
    assert encode("<s>") == [sentencepiece.bos_id]
    assert encode("<s>hello", parse_special=False).count(sentencepiece.bos_id) == 1


def test_tokenizer_encode_segments_adds_no_space_where_text_is_cut(sentencepiece):
    segments = [("<s>", True), ("hello", False), ("he", False), ("", True), ("llo</s>", True), ("the", False)]
    token_ids = sentencepiece.encode_segments(segments)
    assert sentencepiece.decode(token_ids, skip_special=False) == "<s> hellohello</s> the"


def test_tokenizer_vocabulary_without_fim_tokens_has_none(sentencepiece):
    assert sentencepiece.fim_ids is None


def test_tokenizer_encode_in_many_threads_equals_one_thread(tokenizer):
    texts = [json.dumps(list(range(i, i + 200))) for i in range(64)]

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special=True, parse_special=True)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(encode, texts)) == [encode(text) for text in texts]


def test_tokenizer_prompts_of_transcripts_have_the_recorded_length(tokenizer):
    transcripts = [t for t in json.loads((MODELS / "transcripts.json").read_text()) if "prompt" in t]
    lengths = [len(tokenizer.encode(t["prompt"], add_special=True, parse_special=True)) for t in transcripts]
    assert lengths == [t["prompt_tokens"] for t in transcripts]


@settings(deadline=None, max_examples=50)
@given(st.text() | st.text(" \n\t<|im_end>") | st.sampled_from(["<|im_end|>" * 20, " " * 500, "word " * 100]))
def test_min_tokens_of_any_text_is_at_most_its_tokens(tokenizer, text):
    assert tokenizer.min_tokens(text) <= len(tokenizer.encode(text, add_special=False, parse_special=True))


@pytest.mark.parametrize("text", ["", " " * 100, "a  b" * 20, "\u4e2d\U0001f642" * 9, "\n\t" * 50])
def test_min_tokens_of_sentencepiece_is_at_most_the_tokens_of_a_text(sentencepiece, text):
    num_tokens = len(sentencepiece.encode(text, add_special=False, parse_special=True))
    assert sentencepiece.min_tokens(text) <= num_tokens


def test_min_tokens_of_a_long_text_is_near_its_length(tokenizer):
    longest = max(len(tokenizer.token_bytes_of(i, special=True)) for i in range(tokenizer.n_vocab))
    assert tokenizer.min_tokens("a" * 1000 * longest) == 1000


def test_min_tokens_where_a_text_may_vanish_is_none():
    tokenizer = Tokenizer(FakeModel([bytes([i]) for i in range(256)]))  # it tokenizes every text to no tokens
    assert tokenizer.min_tokens("a" * 1000) == 0


def test_min_tokens_where_control_tokens_swallow_blanks_counts_the_rest():
    class Swallowing(FakeModel):
        def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
            ids: list[int] = []
            for i, plain in enumerate(re.split(r" *<\|control\|> *", text)):
                ids += [256] * (i > 0) + list(plain.encode())
            return ids

    tokenizer = Tokenizer(Swallowing([bytes([i]) for i in range(256)]))
    assert tokenizer.min_tokens("a " * 1100) == 1100 // len(CONTROL)


def test_encode_segments_calls_between_before_each_piece(tokenizer):
    class Stop(Exception):
        pass

    asked = []

    def ask() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise Stop

    with pytest.raises(Stop):
        tokenizer.encode_segments([("a", True)] * 10, ask)
    assert len(asked) == 3
