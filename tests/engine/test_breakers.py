"""DRY's breakers: the tokens that contain them; the penalties equal llama.cpp's on a real vocabulary."""

from __future__ import annotations

import ctypes
from array import array
from pathlib import Path

import llama_cpp.llama_cpp as lib
import numpy as np
import pytest

import llamafast
from llamafast._core import Model
from llamafast._sampling import Sampler
from llamafast.engine.breakers import _Vocabulary, dry_breakers
from llamafast.tokenizer import Tokenizer
from tests.engine.fakes import FIRST, FakeModel, encode

MODEL_PATH = Path(llamafast.__file__).parent / "models" / "tiny-qwen35-f16.gguf"
TEXT = 'To be: or not to be, that is the question. "To be", he said: or not to be, that is\nTo be: or not to be, that'


def dry(n_vocab, breakers, **settings):
    return Sampler(n_vocab, dry_multiplier=0.8, dry_breakers=breakers, **settings)


def changed(sampler, n_vocab):
    row = np.array(sampler.adjusted(np.zeros(n_vocab, np.float32)))
    return {int(i): float(row[i]) for i in np.flatnonzero(row)}


def ended(breakers, text):
    """Whether a breaker at the end of text prevents the penalty."""
    sampler = dry(FakeModel.n_vocab, breakers, dry_allowed_length=1)
    sampler.prime(array("i", encode(f"{text}?{text}")))
    return not changed(sampler, FakeModel.n_vocab)


@pytest.mark.parametrize(
    ("breakers", "text", "ends"),
    [
        ((), "ab", False),
        (("b",), "ab", True),
        (("b",), "ba", False),
        (("ab",), "ab", True),
        (("ab",), "cb", False),
        (("xyz", "abc"), "abc", True),
        (("xyz", "abc"), "abz", False),
        (("\u00e9",), "a\u00e9", False),  # two tokens: only whole characters are searched
    ],
)
def test_breakers_end_a_repetition(breakers, text, ends):
    assert ended(dry_breakers(Tokenizer(FakeModel()), breakers), text) is ends


def test_breakers_of_one_tokenizer_are_cached():
    tokenizer = Tokenizer(FakeModel())
    first = dry_breakers(tokenizer, ("a",))
    assert dry_breakers(tokenizer, ("a",)) is first
    for i in range(40):
        dry_breakers(tokenizer, (f"b{i}",))
    assert dry_breakers(tokenizer, ("a",)) is not first


def test_breakers_do_not_reach_over_two_tokens():
    breakers = dry_breakers(Tokenizer(FakeModel()), (chr(0) + chr(1),))  # neighbours in the vocabulary
    assert not ended(breakers, chr(1))
    assert FIRST == 3


def test_vocabulary_search_equals_a_search_in_each_token():
    tokens = [b"", b"a", b"ba", b"ab", b"aba", b"bab", b"\xc3\xa9", b"a\xc3\xa9"]
    vocabulary = _Vocabulary(tokens)
    for data in (b"a", b"b", b"ba", b"ab", b"aba", b"\xa9", b"x"):
        assert vocabulary.holding(data) == [i for i, token in enumerate(tokens) if data in token]
        assert vocabulary.ending(data) == [i for i, token in enumerate(tokens) if token.endswith(data)]


@pytest.fixture(scope="module")
def vocabulary():
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(str(MODEL_PATH).encode(), params)
    yield lib.llama_model_get_vocab(model)
    lib.llama_model_free(model)


def llama_cpp_penalties(vocabulary, n_vocab, tokens, breakers, allowed, window):
    texts = (ctypes.c_char_p * len(breakers))(*[text.encode() for text in breakers])
    sampler = lib.llama_sampler_init_dry(vocabulary, 0.8, 1.75, allowed, window, texts, len(breakers))
    for token in tokens:
        lib.llama_sampler_accept(sampler, token)
    data = (lib.llama_token_data * n_vocab)(*[(i, 0.0, 0.0) for i in range(n_vocab)])
    candidates = lib.llama_token_data_array(data, n_vocab, -1, False)
    lib.llama_sampler_apply(sampler, ctypes.byref(candidates))
    lib.llama_sampler_free(sampler)
    return {item.id: item.logit for item in data if item.logit}


@pytest.mark.parametrize("breakers", [("\n", ":", '"', "*"), (",",), ("be:", "is the"), ("that", "or")])
@pytest.mark.parametrize(("allowed", "window"), [(2, 10_000), (1, 20), (4, 35)])
def test_dry_penalties_equal_llama_cpp(vocabulary, breakers, allowed, window):
    model = Model(str(MODEL_PATH), vocab_only=True)
    tokenizer = Tokenizer(model)
    tokens = model.tokenize(TEXT, False, False)
    compiled = dry_breakers(tokenizer, breakers)
    for end in range(20, len(tokens)):
        sampler = dry(model.n_vocab, compiled, dry_allowed_length=allowed, dry_penalty_last_n=window)
        sampler.prime(array("i", tokens[:end]))
        theirs = llama_cpp_penalties(vocabulary, model.n_vocab, tokens[:end], breakers, allowed, window)
        assert changed(sampler, model.n_vocab) == pytest.approx(theirs)
