"""The sampling settings of a request. Each is declared here, once.

To add a setting, declare it in SamplingParams and read it in the native Sampler (`_sampling.pyx` and `.pyi`); `make
docs` writes the documentation. The fields of requests, their aliases, `model.sampling_defaults`, recommendations of
model files, range checks and the Sampler's arguments come from the declaration.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from llamafast.grammars.structured import StructuredOutput
from llamafast.settings import INT32_MAX, Setting, declare, described, settings_of

T = TypeVar("T")

_MOST = 1e6  # limit of settings without a natural limit: 32-bit floats above it are too coarse


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSetting(Setting):
    """A field of SamplingParams.

    off: the value that turns the setting off; None: no value does.
    limit: name of the field of the engine's Limits that is the largest allowed value; "": `high` is.
    aliases: other servers' names for the setting, which requests may use, too.
    gguf: the metadata key, after `general.sampling.`, for the model file's recommended value; "": none.
    in_request: whether requests have a field with this name and type. If not, server/schemas defines their form.
    in_config: whether `model.sampling_defaults` of a configuration may set a default for requests.
    in_sampler: whether the native Sampler takes the value as an argument with this name.
    """

    off: float | None = None
    limit: str = ""
    aliases: tuple[str, ...] = ()
    gguf: str = ""
    in_request: bool = True
    in_config: bool = True
    in_sampler: bool = True

    @property
    def meaning(self) -> str:
        """The meaning of the setting, with the value that turns it off."""
        return self.doc if self.off is None else f"{self.doc} {self.off:g}: off."

    @property
    def description(self) -> str:
        """The text for schemas and documentation: the meaning, and the other names."""
        return f"{self.meaning} Also {', '.join(f'`{a}`' for a in self.aliases)}." if self.aliases else self.meaning


def _number(
    default: T,
    doc: str,
    low: float,
    high: float,
    *,
    above: bool = False,
    off: float | None = None,
    aliases: tuple[str, ...] = (),
    gguf: str = "",
) -> T:
    """Declare a number for the native Sampler, with a field in requests and in configurations."""
    setting = SamplingSetting(doc=doc, low=low, high=high, above=above, off=off, aliases=aliases, gguf=gguf)
    return declare(default, setting)


def _request_only(
    default: T,
    doc: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    limit: str = "",
    in_request: bool = False,
    in_sampler: bool = False,
) -> T:
    """Declare a setting without a field in configurations, such as a list or a condition that ends the output."""
    setting = SamplingSetting(
        doc=doc,
        low=low,
        high=high,
        limit=limit,
        in_request=in_request,
        in_config=False,
        in_sampler=in_sampler,
    )
    return declare(default, setting)


@dataclass(frozen=True, slots=True)
class ReasoningBudget:
    """A limit on the tokens that the model draws while its reasoning is open.

    At the limit closing_ids are forced. They count as generated tokens in usage, max_tokens, penalties and stop
    strings. If the request has logprobs, they are computed one by one and have logprobs.

    max_tokens: maximum tokens of reasoning, without closing_ids.
    is_open: whether the prompt leaves reasoning open.
    end: the text that closes reasoning.
    closing_ids: token ids of a closing message and of the text `end`.
    start: the text that opens reasoning in the output; "": none.
    """

    max_tokens: int
    is_open: bool
    end: str
    closing_ids: tuple[int, ...]
    start: str = ""


@described
@dataclass(frozen=True, slots=True)
class SamplingParams:
    """The sampling settings of one request. Immutable. Engine.validate checks the ranges."""

    temperature: float = _number(
        1.0,
        "0 takes the most likely token. If two tokens are almost equally likely, rounding decides, and a cached prompt "
        "can be rounded differently than a newly computed one.",
        0.0,
        _MOST,
        off=1.0,
        gguf="temp",
    )
    top_k: int = _number(
        0, "Draw among this many of the most likely tokens. -1: as 0.", -1, INT32_MAX, off=0, gguf="top_k"
    )
    top_p: float = _number(
        1.0,
        "Draw among the most likely tokens that together have this probability.",
        0.0,
        1.0,
        above=True,
        off=1.0,
        gguf="top_p",
    )
    min_p: float = _number(
        0.0, "Minimum probability, relative to the most likely token.", 0.0, 1.0, off=0.0, gguf="min_p"
    )
    repetition_penalty: float = _number(
        1.0,
        "The logit of a token that occurred is divided by this if positive, and multiplied by this if negative.",
        0.0,
        _MOST,
        above=True,
        off=1.0,
        aliases=("repeat_penalty",),
        gguf="penalty_repeat",
    )
    frequency_penalty: float = _number(
        0.0, "Subtracted from a token's logit for each occurrence of the token.", -2.0, 2.0, off=0.0
    )
    presence_penalty: float = _number(
        0.0, "Subtracted once from the logit of a token that occurred.", -2.0, 2.0, off=0.0
    )
    logit_bias: tuple[tuple[int, float], ...] = _request_only(
        (), "Pairs of a token id and a value that is added to its logit, -100 to 100; -inf: the token is never drawn."
    )
    seed: int | None = _request_only(
        None,
        "Equal seeds draw equal tokens from equal logits. The rounding of logits depends on the other rows of a step, "
        "and on the prefix cache. Absent, -1 or 4294967295: a random seed.",
        -(2**63),
        2**64 - 1,
        in_request=True,
    )
    n: int = _request_only(1, "Choices per prompt.", 1, limit="n_seq_max", in_request=True)
    best_of: int | None = _request_only(
        None, "Draw this many choices, and return the n best by mean logprob.", 1, limit="n_seq_max"
    )
    max_tokens: int | None = _request_only(
        None, "Maximum tokens of each choice; None: up to the end of the context.", 0
    )
    min_tokens: int = _request_only(
        0, "Nothing ends the answer before this many tokens.", 0, INT32_MAX, in_request=True, in_sampler=True
    )
    stop: tuple[str, ...] = _request_only((), "Texts that end the answer.")
    stop_token_ids: tuple[int, ...] = _request_only((), "Tokens that end the answer.")
    ignore_eos: bool = _request_only(
        False, "The model cannot end the answer: its end tokens are never drawn.", in_request=True
    )
    logprobs: int | None = _request_only(
        None,
        "Return each token's raw logprob, and those of this many most likely tokens; None: no logprobs.",
        0,
        limit="n_vocab",
    )
    include_stop: bool = _request_only(False, "Keep the stop text or stop token in the answer.")
    typical_p: float = _number(1.0, "Locally typical sampling.", 0.0, 1.0, above=True, off=1.0, aliases=("typ_p",))
    top_n_sigma: float = _number(
        -1.0, "Keep logits within this many standard deviations of the largest.", -1.0, _MOST, off=-1.0
    )
    xtc_probability: float = _number(
        0.0, "Probability that a draw excludes the most likely tokens (XTC).", 0.0, 1.0, off=0.0, gguf="xtc_probability"
    )
    xtc_threshold: float = _number(
        0.1,
        "XTC excludes tokens with at least this probability, except the least likely of them.",
        0.0,
        1.0,
        gguf="xtc_threshold",
    )
    dynatemp_range: float = _number(0.0, "The temperature varies by this much with the entropy.", 0.0, _MOST, off=0.0)
    dynatemp_exponent: float = _number(1.0, "Exponent of the temperature's dependence on the entropy.", 0.0, _MOST)
    dry_multiplier: float = _number(0.0, "DRY's penalty for a repeated token sequence.", 0.0, _MOST, off=0.0)
    dry_base: float = _number(1.75, "DRY's penalty grows by this factor per repeated token.", 1.0, _MOST)
    dry_allowed_length: int = _number(2, "Repeated sequences up to this length have no penalty.", 0, INT32_MAX)
    dry_penalty_last_n: int = _number(-1, "Number of last tokens that DRY reads; -1: all, 0: none.", -1, INT32_MAX)
    dry_sequence_breakers: tuple[str, ...] = _request_only(
        ("\n", ":", '"', "*"), "Texts at which DRY's repeated sequences end."
    )
    mirostat: int = _number(0, "Version of Mirostat, 1 or 2.", 0, 2, off=0, gguf="mirostat")
    mirostat_tau: float = _number(5.0, "Mirostat's target surprise, in bits.", 0.0, _MOST, gguf="mirostat_tau")
    mirostat_eta: float = _number(0.1, "Mirostat's learning rate.", 0.0, _MOST, gguf="mirostat_eta")
    penalty_last_n: int = _number(
        -1,
        "Number of last tokens that the repetition, frequency and presence penalties read; -1: all, 0: none.",
        -1,
        INT32_MAX,
        aliases=("repeat_last_n",),
        gguf="penalty_last_n",
    )
    bad_words: tuple[tuple[int, ...], ...] = _request_only(
        (), "Sequences of token ids that are never generated.", in_sampler=True
    )
    allowed_token_ids: tuple[int, ...] | None = _request_only(None, "Only these tokens are drawn.", in_sampler=True)
    prompt_logprobs: int | None = _request_only(
        None,
        "Return logprobs of the prompt's tokens, with this many alternatives each; None: none.",
        0,
        limit="n_vocab",
    )
    structured: StructuredOutput | None = _request_only(
        None, "A grammar, schema or list that the whole output matches."
    )
    reasoning_budget: ReasoningBudget | None = _request_only(None, "A limit on the tokens of reasoning.")


SAMPLING_SETTINGS: Mapping[str, SamplingSetting] = settings_of(SamplingParams, SamplingSetting)
"""Every sampling setting by name."""

SAMPLER_ARGUMENTS: tuple[str, ...] = tuple(s.name for s in SAMPLING_SETTINGS.values() if s.in_sampler)
"""Names of the settings that the native Sampler takes as arguments."""


def gguf_defaults(metadata: Mapping[str, str]) -> dict[str, float]:
    """The sampling settings that a model file recommends (`general.sampling.*`), by field of SamplingParams.

    Values that are not numbers are ignored.
    """
    return dict(_recommended(metadata))


def _recommended(metadata: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    for setting in SAMPLING_SETTINGS.values():
        text = metadata.get(f"general.sampling.{setting.gguf}") if setting.gguf else None
        if text is None:
            continue
        try:
            value = float(text)
            yield setting.name, int(value) if setting.type is int else value
        except (ValueError, OverflowError):
            continue
