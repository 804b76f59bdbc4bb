"""Plain records of facts about a model and its context, for code that holds neither."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llamafast._core import Context, Model
from llamafast.sampling_params import gguf_defaults
from llamafast.tokenizer import Tokenizer

# Encoders whose files do not say that their attention is not causal.
_ENCODERS = frozenset({"gemma-embedding", "t5encoder"})

_TEMPLATE_KEY = "tokenizer.chat_template"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Facts about a model. They stay valid after the model is freed.

    path: the file; of a model in several files, the first.
    description: llama.cpp's short name of architecture, size and quantization.
    n_params: number of weights.
    size_bytes: bytes of all weights.
    n_vocab: number of token ids.
    n_ctx_train: tokens of context that the model was trained for.
    n_embd: width of a hidden state.
    chat_templates: Jinja sources by name; the default one has the name "". Empty if the file has none.
    sampling_defaults: the settings that the file recommends, by field of SamplingParams.
    """

    path: str
    description: str
    n_params: int
    size_bytes: int
    n_vocab: int
    n_ctx_train: int
    n_embd: int
    chat_templates: Mapping[str, str]
    sampling_defaults: Mapping[str, float | int]

    @property
    def chat_template(self) -> str | None:
        """Source of the default chat template; None if the file has none."""
        return self.chat_templates.get("")


@dataclass(frozen=True, slots=True)
class ContextInfo:
    """Facts about the memory of an engine. They stay valid after the context is freed.

    memory_kind: "attention", "swa", "hybrid" or "recurrent"; "none": the model generates no text.
    n_ctx: tokens that the KV memory holds, all sequences together.
    n_batch: maximum tokens of one step.
    n_seq_ids: number of sequence ids, those of finished prefixes included.
    threads: threads that compute.
    kv_unified: whether all sequences share one memory.
    """

    memory_kind: str
    n_ctx: int
    n_batch: int
    n_seq_ids: int
    threads: int
    kv_unified: bool


@dataclass(frozen=True, slots=True)
class Header:
    """The text-related facts of a model file.

    tokenizer: Tokenizer over the file's vocabulary.
    chat_template: source of the default chat template; None if the file has none.
    makes_embeddings: whether the model is an encoder, which generates no text.
    """

    tokenizer: Tokenizer
    chat_template: str | None
    makes_embeddings: bool


def model_info(model: Model) -> ModelInfo:
    """The facts of a loaded model."""
    prefix = f"{_TEMPLATE_KEY}."
    templates = {key.removeprefix(prefix): text for key, text in model.metadata.items() if key.startswith(prefix)}
    default = model.chat_template()
    return ModelInfo(
        path=model.path,
        description=model.description,
        n_params=model.n_params,
        size_bytes=model.size_bytes,
        n_vocab=model.n_vocab,
        n_ctx_train=model.n_ctx_train,
        n_embd=model.n_embd,
        chat_templates=templates if default is None else {"": default, **templates},
        sampling_defaults=gguf_defaults(model.metadata),
    )


def context_info(context: Context) -> ContextInfo:
    """The facts of a context."""
    return ContextInfo(
        memory_kind=context.memory_kind,
        n_ctx=context.n_ctx,
        n_batch=context.n_batch,
        n_seq_ids=context.n_seq_max,
        threads=context.threads,
        kv_unified=context.kv_unified,
    )


def read_header(path: str) -> Header:
    """The vocabulary and metadata of a GGUF file, without its weights; of a model in several files, of the first.

    Raises ModelLoadError.
    """
    model = Model(path, vocab_only=True)
    return Header(Tokenizer(model), model.chat_template(), makes_embeddings(model))


def makes_embeddings(model: Model) -> bool:
    """Whether the model is an encoder, which generates no text."""
    metadata = model.metadata
    architecture = metadata.get("general.architecture", "")
    causal = metadata.get(f"{architecture}.attention.causal", "true")
    return causal == "false" or architecture in _ENCODERS or not model.has_decoder
