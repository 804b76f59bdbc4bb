"""The sampling fields of both completion APIs, and their conversion into SamplingParams."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from llamafast import caps
from llamafast.caps import at_most
from llamafast.errors import InvalidRequestError
from llamafast.sampling_params import SAMPLING_SETTINGS, SamplingParams
from llamafast.server.schemas.pieces import IN_PIECES
from llamafast.setting_fields import request_fields, with_fields

if TYPE_CHECKING:
    from llamafast.tokenizer import Tokenizer

# OpenAI's limit for chats. With more alternatives an answer could have megabytes.
MAX_LOGPROBS = 20

# Characters; no vocabulary has a longer token.
_MAX_TOKEN_CHARS = 4096

# llama.cpp's default seed as a signed and as an unsigned number. Other servers read both as "random".
_RANDOM_SEEDS = (-1, 2**32 - 1)

_TOKEN_ID = re.compile(r"-?[0-9]{1,10}", re.ASCII)

# llama-server's `false`: the token is never drawn.
Bias = float | Literal[False]
BiasPair = Annotated[tuple[int | str, Bias], Field(strict=False)]
Texts = Annotated[list[str], IN_PIECES]
TokenIds = Annotated[list[int], IN_PIECES]


_DECLARED = request_fields(SAMPLING_SETTINGS.values())
_DESCRIPTIONS = {s.name: s.description for s in SAMPLING_SETTINGS.values()}


@with_fields(_DECLARED)
class SamplingFields(BaseModel):
    """The fields that SamplingParams declares, and those with another form in requests.

    The types are checked here. The engine checks the ranges and names the field.
    """

    model_config = ConfigDict(strict=True)

    aliases: ClassVar[Mapping[str, str]] = {alias: s.name for s in SAMPLING_SETTINGS.values() for alias in s.aliases}
    """Other servers' names for the same settings."""

    if TYPE_CHECKING:  # declared fields that other modules read
        n: int
        min_tokens: int

    dry_sequence_breakers: Texts = Field(
        default_factory=lambda: list(SamplingParams().dry_sequence_breakers),
        description=_DESCRIPTIONS["dry_sequence_breakers"],
    )
    logit_bias: Annotated[dict[str, Bias], IN_PIECES] | Annotated[list[BiasPair], IN_PIECES] = Field(
        default_factory=dict,
        description="Numbers to add to logits, by token id or by a text that is one token. `false` excludes the token. "
        "An object, or a list of pairs.",
    )
    bad_words: Texts = Field(default_factory=list, description="Texts that the answer must not contain.")
    allowed_token_ids: TokenIds | None = Field(None, description=_DESCRIPTIONS["allowed_token_ids"])
    stop: str | Texts = Field(
        default_factory=list,
        description="Texts that end the answer. In chats they end its content, not reasoning or calls.",
    )
    stop_token_ids: TokenIds = Field(default_factory=list, description=_DESCRIPTIONS["stop_token_ids"])
    include_stop_str_in_output: bool = Field(False, description=_DESCRIPTIONS["include_stop"])
    prompt_logprobs: Annotated[int | None, BeforeValidator(lambda value: None if value is False else value)] = Field(
        None,
        ge=0,
        le=MAX_LOGPROBS,
        description="Return logprobs of the prompt's tokens, with this many alternatives per token.",
    )

    @property
    def num_scored(self) -> int | None:
        """Number of alternatives per prompt token; None: the prompt gets no scores."""
        return self.prompt_logprobs

    def sampling(
        self,
        tokenizer: Tokenizer,
        defaults: Mapping[str, float],
        *,
        max_tokens: int | None,
        logprobs: int | None,
        best_of: int | None = None,
    ) -> SamplingParams:
        """The sampling settings of this body. defaults: values for settings that the body does not set.

        Raises InvalidRequestError for a key of logit_bias that is not one token.
        """
        at_most("bad_words", len(self.bad_words), caps.MAX_BAD_WORDS)
        num_chars = sum(map(len, self.bad_words))
        at_most("characters in all bad_words", num_chars, caps.MAX_ALL_BAD_WORD_CHARS, "bad_words")
        at_most("logit_bias entries", len(self.logit_bias), caps.MAX_BIAS_PAIRS, "logit_bias")
        keys = self.logit_bias if isinstance(self.logit_bias, dict) else (pair[0] for pair in self.logit_bias)
        num_chars = sum(len(key) for key in keys if isinstance(key, str))
        at_most("characters in all keys of logit_bias", num_chars, caps.MAX_ALL_BIAS_CHARS, "logit_bias")
        values = {name: getattr(self, name) for name in _DECLARED}
        values |= {name: value for name, value in defaults.items() if name not in self.model_fields_set}
        values["seed"] = None if values["seed"] in _RANDOM_SEEDS else values["seed"]
        return SamplingParams(
            **values,
            max_tokens=max_tokens,
            logprobs=logprobs,
            best_of=best_of,
            prompt_logprobs=self.num_scored,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop),
            stop_token_ids=tuple(self.stop_token_ids),
            include_stop=self.include_stop_str_in_output,
            dry_sequence_breakers=tuple(self.dry_sequence_breakers),
            logit_bias=_biases(self.logit_bias, tokenizer),
            bad_words=tuple(ids for word in self.bad_words for ids in _spellings(word, tokenizer)),
            allowed_token_ids=None if self.allowed_token_ids is None else tuple(self.allowed_token_ids),
        )


def _biases(
    given: dict[str, Bias] | list[tuple[int | str, Bias]], tokenizer: Tokenizer
) -> tuple[tuple[int, float], ...]:
    """Pairs of token id and bias. A number is an id: in objects as a text, in pairs only as a JSON number."""
    if isinstance(given, dict):
        pairs = [(int(key) if _TOKEN_ID.fullmatch(key) else key, bias) for key, bias in given.items()]
    else:
        pairs = list(given)
    return tuple(
        (key if isinstance(key, int) else _only_token(key, tokenizer), -math.inf if bias is False else bias)
        for key, bias in pairs
    )


def _only_token(text: str, tokenizer: Tokenizer) -> int:
    if len(text) > _MAX_TOKEN_CHARS:
        raise InvalidRequestError(
            f"logit_bias: {text[:64]!r}... has {len(text)} characters; a text that is one token has fewer",
            param="logit_bias",
        )
    token_ids = tokenizer.encode(text, add_special=False, parse_special=True)
    if len(token_ids) != 1:
        raise InvalidRequestError(
            f"logit_bias: {text[:64]!r} is {len(token_ids)} tokens; a key is a token id, or a text that is one token",
            param="logit_bias",
        )
    return token_ids[0]


def _spellings(word: str, tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """The token sequences of a word: at the start of a text, and after a space."""
    bare = word.lstrip(" ")
    plain, spaced = (
        tuple(tokenizer.encode(text, add_special=False, parse_special=True)) for text in (bare, " " + bare)
    )
    if not bare or not plain:
        raise InvalidRequestError("bad_words: a word must have at least one character", param="bad_words")
    # If the space is a separate token, the sequence without it matches both.
    return [plain] if spaced[-len(plain) :] == plain else [plain, spaced]
