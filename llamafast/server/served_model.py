"""The record of a served model: its engine, its names, its chat template and format, and its defaults."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from llamafast.chat.format import ChatFormat
from llamafast.chat.formats.registry import detect
from llamafast.chat.prompt.control_texts import ControlTexts, likely_control_texts
from llamafast.chat.prompt.template import ChatTemplate
from llamafast.engine.async_encoder import AsyncEncoder
from llamafast.engine.async_engine import AsyncEngine
from llamafast.engine.engine_thread import EngineThread
from llamafast.errors import InvalidRequestError
from llamafast.server.media import MediaLoader
from llamafast.server.model_names import ModelNames
from llamafast.tokenizer import Tokenizer

# The text that ends reasoning at its limit; the closing tag follows it.
DEFAULT_BUDGET_MESSAGE = "\n\nConsidering the limited time, I have to answer now.\n"


class Capability(Enum):
    """A kind of request that a model takes."""

    COMPLETION = "completion"  # continue a text
    CHAT = "chat"  # answer a conversation: the model has a chat template
    TOOLS = "tools"  # call tools: the template shows them, and calls can be read from the answer
    EMBEDDINGS = "embeddings"  # make vectors of texts
    IMAGES = "image"  # images in messages
    AUDIO = "audio"  # sounds in messages
    REASONING = "reasoning"  # reason before the answer: the template and the chat format know the same tags


@dataclass(frozen=True, slots=True)
class RequestDefaults:
    """Default values of request fields.

    sampling: values by the names of SamplingParams.
    chat_template_kwargs: variables of the chat template.
    reasoning_budget: the greatest number of reasoning tokens; None: no limit.
    reasoning_budget_message: the text that ends reasoning at that limit.
    """

    sampling: Mapping[str, float] = field(default_factory=dict)
    chat_template_kwargs: Mapping[str, object] = field(default_factory=dict)
    reasoning_budget: int | None = None
    reasoning_budget_message: str = DEFAULT_BUDGET_MESSAGE


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """Everything that the server knows of one model. Make it with new().

    text_engine: runs a model that generates text; else None.
    encoder: runs a model that makes embeddings; else None.
    names: the names by which clients select it.
    capabilities: the kinds of requests that it takes.
    chat_template: renders conversations as prompts; None: the model has no template and takes no chats.
    chat_format: reads reasoning, content and tool calls from answers.
    control_texts: the texts of control tokens that clients must not write.
    marker_ids: the control tokens that the chat format reads, so answers show them to it.
    defaults: default values of request fields.
    prompts: texts that a request for embeddings can have put before its inputs, by name.
    media: loads the images and sounds of requests; None: the model takes none.
    meta: facts about the model for /v1/models.
    fingerprint: `system_fingerprint` in answers; equal for equal model facts and program versions.
    created: when the model was loaded, in seconds since 1970.
    """

    text_engine: AsyncEngine | None
    encoder: AsyncEncoder | None
    names: ModelNames
    capabilities: frozenset[Capability]
    chat_template: ChatTemplate | None
    chat_format: ChatFormat
    control_texts: ControlTexts
    marker_ids: frozenset[int]
    defaults: RequestDefaults
    prompts: Mapping[str, str]
    media: MediaLoader | None
    meta: Mapping[str, int | float | str]
    fingerprint: str
    created: int

    @classmethod
    def new(
        cls,
        engine: AsyncEngine,
        names: ModelNames,
        *,
        chat_template: ChatTemplate | None = None,
        chat_format: ChatFormat | None = None,
        defaults: RequestDefaults | None = None,
        parse_special_in_messages: bool = False,
        media: MediaLoader | None = None,
        meta: Mapping[str, int | float | str] | None = None,
        created: int = 0,
        version: str = "",
    ) -> ServedModel:
        """Make a record and derive its other fields. Reads the whole vocabulary, so that no request has to.

        chat_format: None: the format that matches the template.
        parse_special_in_messages: clients may write control tokens in messages.
        version: the version of the program, a part of the fingerprint.
        """
        tokenizer = engine.tokenizer
        chat_format = chat_format or detect("" if chat_template is None else chat_template.source)
        marker_ids = _control_ids(tokenizer, chat_format.markers)
        for skip_special in (False, True):
            tokenizer.table(skip_special=skip_special, shown_ids=marker_ids)
        is_guarded = chat_template is not None and not parse_special_in_messages
        return cls(
            text_engine=engine,
            encoder=None,
            names=names,
            capabilities=_capabilities(chat_template, chat_format, media),
            chat_template=chat_template,
            chat_format=chat_format,
            control_texts=_control_texts(tokenizer, chat_template if is_guarded else None, chat_format),
            marker_ids=marker_ids,
            defaults=defaults or RequestDefaults(),
            prompts={},
            media=media,
            meta=meta or {},
            fingerprint=_fingerprint(names.alias, version, meta or {}),
            created=created,
        )

    @classmethod
    def of_encoder(
        cls,
        encoder: AsyncEncoder,
        names: ModelNames,
        *,
        prompts: Mapping[str, str] | None = None,
        meta: Mapping[str, int | float | str] | None = None,
        created: int = 0,
        version: str = "",
    ) -> ServedModel:
        """A model that makes embeddings and no text. The arguments are those of new(), and the field `prompts`."""
        return cls(
            text_engine=None,
            encoder=encoder,
            names=names,
            capabilities=frozenset({Capability.EMBEDDINGS}),
            chat_template=None,
            chat_format=detect(""),
            control_texts=ControlTexts(()),
            marker_ids=frozenset(),
            defaults=RequestDefaults(),
            prompts=prompts or {},
            media=None,
            meta=meta or {},
            fingerprint=_fingerprint(names.alias, version, meta or {}),
            created=created,
        )

    def require(self, capability: Capability) -> None:
        """Raise InvalidRequestError if the model does not have the capability."""
        if capability not in self.capabilities:
            can = ", ".join(sorted(each.value for each in self.capabilities))
            raise InvalidRequestError(
                f"the model '{self.alias}' does not support {capability.value}; it supports {can}",
                param="model",
                code=f"model_does_not_support_{capability.value}",
            )

    @property
    def engine(self) -> AsyncEngine:
        """Generates text. Raises InvalidRequestError if the model generates none."""
        if self.text_engine is None:
            self.require(Capability.COMPLETION)
        assert self.text_engine is not None
        return self.text_engine

    @property
    def embedder(self) -> AsyncEncoder:
        """Makes embeddings. Raises InvalidRequestError if the model makes none."""
        if self.encoder is None:
            self.require(Capability.EMBEDDINGS)
        assert self.encoder is not None
        return self.encoder

    @property
    def engine_thread(self) -> EngineThread[Any, Any, Any]:
        """Whatever runs the model."""
        engine = self.encoder if self.text_engine is None else self.text_engine
        assert engine is not None
        return engine

    @property
    def alias(self) -> str:
        """The main name."""
        return self.names.alias

    @property
    def death(self) -> str | None:
        """The reason why the engine has died; None while it lives."""
        return self.engine_thread.death

    @property
    def max_seq_len(self) -> int:
        """The greatest number of tokens of one request, prompt and output together; of one input, for embeddings."""
        return self.engine.max_seq_len if self.encoder is None else self.encoder.max_seq_len


def _capabilities(
    template: ChatTemplate | None, chat_format: ChatFormat, media: MediaLoader | None
) -> frozenset[Capability]:
    found = {Capability.COMPLETION}
    if template is not None:
        found.add(Capability.CHAT)
        found |= {Capability(kind) for kind in (() if media is None else media.kinds)}
        if "tools" in template.traits.variables and chat_format.reads_calls:
            found.add(Capability.TOOLS)
        # The template of a reasoning model writes the reasoning of earlier turns.
        if chat_format.reasoning is not None and chat_format.reasoning.open in template.source:
            found.add(Capability.REASONING)
    return frozenset(found)


def _control_texts(tokenizer: Tokenizer, template: ChatTemplate | None, chat_format: ChatFormat) -> ControlTexts:
    """The texts of control tokens that clients must not write in messages. template: None if there are no messages."""
    if template is None:
        return ControlTexts(())
    written = [*template.literals, *chat_format.markers]
    return ControlTexts(
        tokenizer.control_texts(), template.literals, likely_control_texts(tokenizer.defined_texts(), written)
    )


def _control_ids(tokenizer: Tokenizer, texts: Iterable[str]) -> frozenset[int]:
    """The control tokens among `texts`. A text that the vocabulary writes as several tokens is ordinary text."""
    token_ids = (tokenizer.encode(text, add_special=False, parse_special=True) for text in texts)
    return frozenset(ids[0] for ids in token_ids if len(ids) == 1 and not tokenizer.is_text(ids[0]))


def _fingerprint(alias: str, version: str, meta: Mapping[str, int | float | str]) -> str:
    facts = repr((alias, version, sorted(meta.items())))
    return "fp_" + hashlib.sha256(facts.encode()).hexdigest()[:12]
