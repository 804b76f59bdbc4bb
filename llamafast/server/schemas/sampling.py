"""The sampling fields of both completion APIs, and the engine's settings that they stand for."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from llamafast import caps
from llamafast.caps import at_most
from llamafast.errors import InvalidRequestError
from llamafast.request import SamplingParams
from llamafast.server.schemas.pieces import IN_PIECES

if TYPE_CHECKING:
    from llamafast.tokenizer import Tokenizer

# Beyond this, one answer would weigh megabytes. OpenAI's limit for chats.
MAX_LOGPROBS = 20

# More than any vocabulary's longest token.
_MAX_TOKEN_CHARS = 4096

# llama.cpp's default seed, as signed and as unsigned number: at every peer it asks for a random one.
_RANDOM_SEEDS = (-1, 2**32 - 1)

_TOKEN_ID = re.compile(r"-?[0-9]{1,10}", re.ASCII)

# llama-server's `false`: the token never comes.
Bias = float | Literal[False]
BiasPair = Annotated[tuple[int | str, Bias], Field(strict=False)]
Texts = Annotated[list[str], IN_PIECES]
TokenIds = Annotated[list[int], IN_PIECES]


class SamplingFields(BaseModel):
    """How tokens are drawn. Types only; the ranges are checked by the engine, which names the field."""

    model_config = ConfigDict(strict=True)

    # Other servers' names for the same settings.
    aliases: ClassVar[Mapping[str, str]] = {
        "typ_p": "typical_p",
        "repeat_penalty": "repetition_penalty",
        "repeat_last_n": "penalty_last_n",
    }

    n: int = Field(1, description="Choices per prompt.")
    seed: int | None = Field(
        None,
        description="Equal seeds draw equal tokens, as far as the logits are equal: rounding depends on what else is "
        "computed in the same step, and on what came from the prefix cache. Absent, -1 or 4294967295: a random one.",
    )
    temperature: float = Field(
        1.0,
        description="0 takes the most likely token; where two are about equally likely, rounding decides, which may "
        "differ between a prompt from the prefix cache and one computed anew.",
    )
    dynatemp_range: float = Field(0.0, description="The temperature moves by this much with the entropy; 0: off.")
    dynatemp_exponent: float = Field(1.0, description="How the temperature follows the entropy.")
    top_k: int = Field(0, description="0 or -1 switches the filter off.")
    top_p: float = Field(1.0, description="Draw among the likeliest tokens that make up this probability; 1: off.")
    min_p: float = Field(0.0, description="The least probability, relative to the likeliest token; 0: off.")
    typical_p: float = Field(1.0, description="Locally typical sampling; 1: off. Also `typ_p`.")
    top_n_sigma: float = Field(-1.0, description="Keep logits within this many deviations of the best; -1: off.")
    xtc_probability: float = Field(0.0, description="How often the likeliest tokens are excluded; 0: never.")
    xtc_threshold: float = Field(0.1, description="How likely tokens must be for XTC to exclude them.")
    mirostat: int = Field(0, description="1 or 2: that version of Mirostat; 0: off.")
    mirostat_tau: float = Field(5.0, description="Mirostat's wanted surprise, in bits.")
    mirostat_eta: float = Field(0.1, description="Mirostat's learning rate.")
    frequency_penalty: float = Field(0.0, description="Taken from a token's logit each time that it occurred.")
    presence_penalty: float = Field(0.0, description="Taken once from the logit of a token that occurred.")
    repetition_penalty: float = Field(1.0, description="Also `repeat_penalty`.")
    penalty_last_n: int = Field(
        -1, description="Tokens the three penalties look back at; -1: all, 0: none. Also `repeat_last_n`."
    )
    dry_multiplier: float = Field(0.0, description="Penalty of a repeated token sequence; 0: off.")
    dry_base: float = Field(1.75, description="How DRY's penalty grows with the repeated length.")
    dry_allowed_length: int = Field(2, description="Repeated sequences up to this length cost nothing.")
    dry_penalty_last_n: int = Field(-1, description="Tokens DRY looks back at; -1: all, 0: none.")
    dry_sequence_breakers: Texts = Field(
        default_factory=lambda: list(SamplingParams().dry_sequence_breakers),
        description="Texts that no repeated sequence reaches across.",
    )
    logit_bias: Annotated[dict[str, Bias], IN_PIECES] | Annotated[list[BiasPair], IN_PIECES] = Field(
        default_factory=dict,
        description="What is added to a token's logit, by token id or by a text that is one token; `false`: never. "
        "As an object, or as a list of pairs.",
    )
    bad_words: Texts = Field(default_factory=list, description="Texts that may not come out.")
    allowed_token_ids: TokenIds | None = Field(None, description="No other tokens are drawn.")
    stop: str | Texts = Field(
        default_factory=list, description="Texts that end the answer; in chats its content, never reasoning or calls."
    )
    stop_token_ids: TokenIds = Field(default_factory=list, description="Tokens that end the answer.")
    min_tokens: int = Field(0, description="Before this many tokens nothing ends the answer.")
    ignore_eos: bool = Field(False, description="The model cannot end the answer itself.")
    include_stop_str_in_output: bool = Field(False, description="The stop stays in the text.")
    prompt_logprobs: Annotated[int | None, BeforeValidator(lambda value: None if value is False else value)] = Field(
        None, ge=0, le=MAX_LOGPROBS, description="Logprobs of the prompt's tokens, with this many alternatives each."
    )

    @property
    def num_scored(self) -> int | None:
        """Alternatives for each token of the prompt; None: the prompt is not scored."""
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
        """The settings of every prompt in this body. `defaults` stand where the body is silent.

        Raises InvalidRequestError for a text that names no tokens.
        """
        at_most("bad_words", len(self.bad_words), caps.MAX_BAD_WORDS)
        num_chars = sum(map(len, self.bad_words))
        at_most("characters in all bad_words", num_chars, caps.MAX_ALL_BAD_WORD_CHARS, "bad_words")
        at_most("logit_bias entries", len(self.logit_bias), caps.MAX_BIAS_PAIRS, "logit_bias")
        keys = self.logit_bias if isinstance(self.logit_bias, dict) else (pair[0] for pair in self.logit_bias)
        num_chars = sum(len(key) for key in keys if isinstance(key, str))
        at_most("characters in all keys of logit_bias", num_chars, caps.MAX_ALL_BIAS_CHARS, "logit_bias")
        values = {name: getattr(self, name) for name in _PLAIN}
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


# Of one name and one type here and in the engine.
_PLAIN = (
    "n", "seed", "temperature", "dynatemp_range", "dynatemp_exponent", "top_k", "top_p", "min_p", "typical_p",
    "top_n_sigma", "xtc_probability", "xtc_threshold", "mirostat", "mirostat_tau", "mirostat_eta",
    "frequency_penalty", "presence_penalty", "repetition_penalty", "penalty_last_n", "dry_multiplier", "dry_base",
    "dry_allowed_length", "dry_penalty_last_n", "min_tokens", "ignore_eos",
)  # fmt: skip


def _biases(
    given: dict[str, Bias] | list[tuple[int | str, Bias]], tokenizer: Tokenizer
) -> tuple[tuple[int, float], ...]:
    """Pairs of token id and bias. Keys of an object that look like a number are ids; in pairs only numbers are."""
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
    """The token sequences that write a word: at the start of a text, and behind a space."""
    bare = word.lstrip(" ")
    plain, spaced = (
        tuple(tokenizer.encode(text, add_special=False, parse_special=True)) for text in (bare, " " + bare)
    )
    if not bare or not plain:
        raise InvalidRequestError("bad_words: a word must have at least one character", param="bad_words")
    # A space of its own before the same tokens says nothing new.
    return [plain] if spaced[-len(plain) :] == plain else [plain, spaced]
