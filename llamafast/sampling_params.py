"""The sampling settings of a request. Each is declared here, once.

To add a setting, declare it in SamplingParams and read it in the native Sampler (`_sampling.pyx` and `.pyi`); `make
docs` writes the documentation. Requests, aliases, `model.sampling_defaults`, a model file's recommendation, the range
check and the Sampler's arguments follow the declaration.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from llamafast.grammars.structured import StructuredOutput
from llamafast.settings import INT32_MAX, Setting, declare, described, settings_of

T = TypeVar("T")

_MOST = 1e6  # a limit for settings that have none of their own: beyond it 32-bit floats lose their digits


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSetting(Setting):
    """A field of SamplingParams.

    off: the value at which the setting changes nothing; None: it has none, or other settings decide.
    limit: the field of the engine's Limits that is the largest value; "": `high` is.
    aliases: names that other servers have for the same setting; requests may use them.
    gguf: the key after `general.sampling.` under which a model file recommends a value; "": none.
    in_request: requests have the field under this name and with this type. Else server/schemas says how they write it.
    in_config: `model.sampling_defaults` of a configuration may give a value for requests that give none.
    in_sampler: the native Sampler takes the value as an argument of this name.
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
        """What the setting does, with the value for off."""
        return self.doc if self.off is None else f"{self.doc} {self.off:g}: off."

    @property
    def description(self) -> str:
        """The text for schemas and documentation: the meaning, and the other names."""
        return f"{self.meaning} Also {', '.join(f'`{a}`' for a in self.aliases)}." if self.aliases else self.meaning


def _drawn(
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
    """A number that the native Sampler takes: requests and configurations have it too."""
    setting = SamplingSetting(doc=doc, low=low, high=high, above=above, off=off, aliases=aliases, gguf=gguf)
    return declare(default, setting)


def _ruled(
    default: T,
    doc: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    limit: str = "",
    in_request: bool = False,
    in_sampler: bool = False,
) -> T:
    """A setting of the request alone: a list, a count, or what decides when an output ends. No configuration has it."""
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

    At the limit closing_ids are forced. They count as generated tokens: in usage, in max_tokens, for penalties and for
    stop strings. With logprobs they are computed one by one and have logprobs.

    max_tokens: tokens of reasoning, closing_ids not counted.
    is_open: whether the prompt leaves reasoning open.
    end: the text that closes reasoning.
    closing_ids: token ids of a message and of the text `end`.
    start: the text that opens reasoning in the output; "": no text does.
    """

    max_tokens: int
    is_open: bool
    end: str
    closing_ids: tuple[int, ...]
    start: str = ""


@described
@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the tokens of one request are drawn. Immutable. Engine.validate checks the ranges and names the field."""

    temperature: float = _drawn(
        1.0,
        "0 takes the most likely token; where two are about equally likely, rounding decides, which may differ between "
        "a prompt from the prefix cache and one computed anew.",
        0.0,
        _MOST,
        off=1.0,
        gguf="temp",
    )
    top_k: int = _drawn(
        0, "Draw among this many of the likeliest tokens. -1: as 0.", -1, INT32_MAX, off=0, gguf="top_k"
    )
    top_p: float = _drawn(
        1.0,
        "Draw among the likeliest tokens that make up this probability.",
        0.0,
        1.0,
        above=True,
        off=1.0,
        gguf="top_p",
    )
    min_p: float = _drawn(
        0.0, "The least probability, relative to the likeliest token.", 0.0, 1.0, off=0.0, gguf="min_p"
    )
    repetition_penalty: float = _drawn(
        1.0,
        "What the logit of a token that occurred is divided by if positive, and multiplied by if negative.",
        0.0,
        _MOST,
        above=True,
        off=1.0,
        aliases=("repeat_penalty",),
        gguf="penalty_repeat",
    )
    frequency_penalty: float = _drawn(0.0, "Taken from a token's logit each time that it occurred.", -2.0, 2.0, off=0.0)
    presence_penalty: float = _drawn(0.0, "Taken once from the logit of a token that occurred.", -2.0, 2.0, off=0.0)
    logit_bias: tuple[tuple[int, float], ...] = _ruled(
        (), "Pairs of a token id and what is added to its logit, -100 to 100; -inf: the token never comes."
    )
    seed: int | None = _ruled(
        None,
        "Equal seeds draw equal tokens, as far as the logits are equal: rounding depends on what else is "
        "computed in the same step, and on what came from the prefix cache. Absent, -1 or 4294967295: a random one.",
        -(2**63),
        2**64 - 1,
        in_request=True,
    )
    n: int = _ruled(1, "Choices per prompt.", 1, limit="n_seq_max", in_request=True)
    best_of: int | None = _ruled(None, "Draw this many choices, give the n best by mean logprob.", 1, limit="n_seq_max")
    max_tokens: int | None = _ruled(None, "The most tokens of each choice; None: up to the context's end.", 0)
    min_tokens: int = _ruled(
        0, "Before this many tokens nothing ends the answer.", 0, INT32_MAX, in_request=True, in_sampler=True
    )
    stop: tuple[str, ...] = _ruled((), "Texts that end the answer.")
    stop_token_ids: tuple[int, ...] = _ruled((), "Tokens that end the answer.")
    ignore_eos: bool = _ruled(False, "The model cannot end the answer itself.", in_request=True)
    logprobs: int | None = _ruled(
        None,
        "Give each token's raw logprob, and those of this many of the likeliest tokens; None: no logprobs.",
        0,
        limit="n_vocab",
    )
    include_stop: bool = _ruled(False, "The text or token that ended the answer stays in it.")
    typical_p: float = _drawn(1.0, "Locally typical sampling.", 0.0, 1.0, above=True, off=1.0, aliases=("typ_p",))
    top_n_sigma: float = _drawn(-1.0, "Keep logits within this many deviations of the best.", -1.0, _MOST, off=-1.0)
    xtc_probability: float = _drawn(
        0.0, "How often the likeliest tokens are excluded.", 0.0, 1.0, off=0.0, gguf="xtc_probability"
    )
    xtc_threshold: float = _drawn(
        0.1, "How likely tokens must be for XTC to exclude them.", 0.0, 1.0, gguf="xtc_threshold"
    )
    dynatemp_range: float = _drawn(0.0, "The temperature moves by this much with the entropy.", 0.0, _MOST, off=0.0)
    dynatemp_exponent: float = _drawn(1.0, "How the temperature follows the entropy.", 0.0, _MOST)
    dry_multiplier: float = _drawn(0.0, "Penalty of a repeated token sequence.", 0.0, _MOST, off=0.0)
    dry_base: float = _drawn(1.75, "How DRY's penalty grows with the repeated length.", 1.0, _MOST)
    dry_allowed_length: int = _drawn(2, "Repeated sequences up to this length cost nothing.", 0, INT32_MAX)
    dry_penalty_last_n: int = _drawn(-1, "Tokens DRY looks back at; -1: all, 0: none.", -1, INT32_MAX)
    dry_sequence_breakers: tuple[str, ...] = _ruled(
        ("\n", ":", '"', "*"), "Texts that no repeated sequence reaches across."
    )
    mirostat: int = _drawn(0, "1 or 2: that version of Mirostat.", 0, 2, off=0, gguf="mirostat")
    mirostat_tau: float = _drawn(5.0, "Mirostat's wanted surprise, in bits.", 0.0, _MOST, gguf="mirostat_tau")
    mirostat_eta: float = _drawn(0.1, "Mirostat's learning rate.", 0.0, _MOST, gguf="mirostat_eta")
    penalty_last_n: int = _drawn(
        -1,
        "Tokens that the repetition, frequency and presence penalties look back at; -1: all, 0: none.",
        -1,
        INT32_MAX,
        aliases=("repeat_last_n",),
        gguf="penalty_last_n",
    )
    bad_words: tuple[tuple[int, ...], ...] = _ruled(
        (), "Sequences of token ids that may not come out.", in_sampler=True
    )
    allowed_token_ids: tuple[int, ...] | None = _ruled(None, "No other tokens are drawn.", in_sampler=True)
    prompt_logprobs: int | None = _ruled(
        None, "Give logprobs of the prompt's tokens, with this many alternatives each; None: none.", 0, limit="n_vocab"
    )
    structured: StructuredOutput | None = _ruled(None, "A grammar, schema or list that the whole output is held to.")
    reasoning_budget: ReasoningBudget | None = _ruled(None, "A limit on the tokens of reasoning.")


SAMPLING_SETTINGS: Mapping[str, SamplingSetting] = settings_of(SamplingParams, SamplingSetting)
"""Every sampling setting by name."""

SAMPLER_ARGUMENTS: tuple[str, ...] = tuple(s.name for s in SAMPLING_SETTINGS.values() if s.in_sampler)
"""The settings that the native Sampler takes as they are."""


def gguf_defaults(metadata: Mapping[str, str]) -> dict[str, float]:
    """The sampling settings that a model file recommends (`general.sampling.*`), by the names of SamplingParams.

    Values that are no number count as absent.
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
