"""Checks a request before it is queued. Pure and thread-safe: the thread that submits the request runs the checks."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from ctypes import c_float
from dataclasses import dataclass

from llamafast import caps
from llamafast.cache.prompt import Layout, media_fault
from llamafast.caps import at_most
from llamafast.engine.context_shift import MIN_MOVABLE, num_kept
from llamafast.errors import ContextLengthError, InvalidRequestError
from llamafast.request import Request, SamplingParams
from llamafast.sampling_params import SAMPLING_SETTINGS
from llamafast.settings import INT32_MAX

_MAX_BIAS = 100.0

_NUMBERS = [s for s in SAMPLING_SETTINGS.values() if s.has_range]
# With the lowest value that is certainly in the range: values closer to an excluded low may be equal to it as 32-bit
# floats.
_RANGES = [(s.name, s.low + 1e-6 if s.above else s.low, s.high, s) for s in _NUMBERS if not s.limit]
_LIMITED = [(s.name, s.low, s.limit) for s in _NUMBERS if s.limit]


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits for one request.

    n_vocab: number of tokens of the vocabulary.
    n_seq_max: maximum number of choices.
    max_seq_len: maximum tokens of one sequence, prompt and output together.
    max_output_tokens: maximum generated tokens of one choice; None: no limit.
    generates: whether the model generates text.
    context_shift: whether an output may continue beyond max_seq_len.
    bos_id: id of the BOS token; negative: the vocabulary has none.
    takes_media: whether prompts may contain media.
    """

    n_vocab: int
    n_seq_max: int
    max_seq_len: int
    max_output_tokens: int | None = None
    generates: bool = True
    context_shift: bool = False
    bos_id: int = -1
    takes_media: bool = False


def check_request(request: Request, limits: Limits) -> None:
    """Check a request. Raises InvalidRequestError or ContextLengthError with the field."""
    if not limits.generates:
        raise InvalidRequestError("this model cannot generate text", param="model")
    _check_prompt(request, limits)
    if request.params.structured is not None and request.grammar is None:
        raise InvalidRequestError("structured needs its compiled grammar in Request.grammar", param="structured")
    check_sizes(request.params, limits.n_vocab)
    _check_relations(request.params, limits)
    _check_ranges(request.params, limits)
    _check_breakers(request.params)
    _check_stops(request.params, limits.n_vocab)
    _check_bias(request.params, limits.n_vocab)
    _check_words(request.params, limits.n_vocab)
    _check_budget(request.params, limits.n_vocab)


def check_sizes(params: SamplingParams, n_vocab: int, num_prompts: int = 1) -> None:
    """Reject lists that are too long. The other checks and the samplers of all choices read every entry.

    num_prompts: the number of prompts with these settings. Raises InvalidRequestError with the field.
    """
    allowed = () if params.allowed_token_ids is None else params.allowed_token_ids
    at_most("stop strings", len(params.stop), caps.MAX_STOP_STRINGS, "stop")
    at_most("characters in all stop strings", sum(map(len, params.stop)), caps.MAX_ALL_STOP_CHARS, "stop")
    at_most("dry_sequence_breakers", len(params.dry_sequence_breakers), caps.MAX_BREAKERS)
    num_chars = sum(map(len, params.dry_sequence_breakers))
    at_most("characters in all dry_sequence_breakers", num_chars, caps.MAX_ALL_BREAKER_CHARS, "dry_sequence_breakers")
    at_most("logit_bias entries", len(params.logit_bias), caps.MAX_BIAS_PAIRS, "logit_bias")
    at_most("bad_words", len(params.bad_words), caps.MAX_BAD_WORDS)
    num_tokens = sum(map(len, params.bad_words))
    at_most("tokens in all bad_words", num_tokens, caps.MAX_ALL_BAD_WORD_TOKENS, "bad_words")
    at_most("stop_token_ids", len(params.stop_token_ids), n_vocab)
    at_most("allowed_token_ids", len(allowed), n_vocab)
    sizes = {
        "logit_bias": len(params.logit_bias),
        "bad_words": num_tokens,
        "stop_token_ids": len(params.stop_token_ids),
        "allowed_token_ids": len(allowed),
    }
    largest = max(sizes, key=lambda name: sizes[name])
    num_entries = sum(sizes.values()) * max(params.n, params.best_of or 0) * num_prompts
    at_most(f"list entries of all choices (most in {largest})", num_entries, caps.MAX_SAMPLER_ENTRIES, largest)


def _check_prompt(request: Request, limits: Limits) -> None:
    token_ids = request.prompt_token_ids
    if not token_ids:
        raise InvalidRequestError("the prompt is empty; it needs at least one token", param="prompt")
    # At least one token is generated, but the last generated token needs no cell.
    if len(token_ids) > limits.max_seq_len - (0 if request.params.max_tokens == 0 else 1):
        raise ContextLengthError(
            f"the prompt has {len(token_ids)} tokens; prompt and output together can have at most {limits.max_seq_len}",
            param="prompt",
        )
    text_ids = _check_media(request, limits) if request.media else token_ids
    if text_ids and (min(text_ids) < 0 or max(text_ids) >= limits.n_vocab):
        raise InvalidRequestError(f"the prompt has a token id outside [0, {limits.n_vocab})", param="prompt")
    min_tokens = request.params.min_tokens
    if limits.context_shift and not request.media:
        _check_kept(request, limits)
    elif len(token_ids) + min_tokens > limits.max_seq_len:
        raise ContextLengthError(
            f"the prompt has {len(token_ids)} tokens and min_tokens is {min_tokens}; "
            f"their sum can be at most {limits.max_seq_len}",
            param="min_tokens",
        )


def _check_media(request: Request, limits: Limits) -> array[int]:
    """Check the media of a prompt. Returns the token ids of its text."""
    if not limits.takes_media:
        raise InvalidRequestError("this model takes no images and no audio", param="media")
    if len(request.contents) != len(request.media):
        raise InvalidRequestError("media: each span needs its content", param="media")
    fault = media_fault(request.prompt_token_ids, request.media)
    if fault is not None:
        raise InvalidRequestError(f"media: {fault}", param="media")
    if request.params.prompt_logprobs is not None:
        raise InvalidRequestError("a prompt with media has no prompt_logprobs", param="prompt_logprobs")
    if request.n_keep is not None:
        raise InvalidRequestError("a prompt with media cannot be shifted: remove n_keep", param="n_keep")
    return Layout(request.media).text_ids(request.prompt_token_ids)


def _check_kept(request: Request, limits: Limits) -> None:
    most = limits.max_seq_len - MIN_MOVABLE
    if request.n_keep is not None and (kept := num_kept(request, limits.bos_id)) > most:
        raise InvalidRequestError(f"n_keep keeps {kept} tokens; at most {most} can be kept", param="n_keep")


def _check_relations(params: SamplingParams, limits: Limits) -> None:
    """Check the ranges that depend on another setting. They are narrower than the declared ranges."""
    if params.best_of is not None:
        _in_range("n", params.n, 1, limits.n_seq_max)
        _in_range("best_of", params.best_of, params.n, limits.n_seq_max)
    if params.max_tokens is not None and 0 <= params.max_tokens < INT32_MAX:
        _in_range("min_tokens", params.min_tokens, 0, params.max_tokens)


def _check_ranges(params: SamplingParams, limits: Limits) -> None:
    """Check the ranges that the settings declare. None is allowed."""
    for name, safe_low, high, setting in _RANGES:
        value = getattr(params, name)
        if value is not None and not safe_low <= value <= high:
            _in_range(name, value, setting.low, high, above=setting.above)
    for name, low, limit in _LIMITED:
        value = getattr(params, name)
        if value is not None:
            _in_range(name, value, low, getattr(limits, limit))


def _check_breakers(params: SamplingParams) -> None:
    breakers, name = params.dry_sequence_breakers, "dry_sequence_breakers"
    for text in breakers:
        if not 0 < len(text) <= caps.MAX_BREAKER_CHARS or not _is_unicode(text):
            message = f"each of {name} must be valid text of 1 to {caps.MAX_BREAKER_CHARS} characters"
            raise InvalidRequestError(message, param=name)


def _check_stops(params: SamplingParams, n_vocab: int) -> None:
    for stop in params.stop:
        if not 0 < len(stop) <= caps.MAX_STOP_CHARS:
            raise InvalidRequestError(f"a stop string must have 1 to {caps.MAX_STOP_CHARS} characters", param="stop")
    _all_known("stop_token_ids", params.stop_token_ids, n_vocab)


def _check_bias(params: SamplingParams, n_vocab: int) -> None:
    for token_id, value in params.logit_bias:
        if not 0 <= token_id < n_vocab:
            raise InvalidRequestError(f"logit_bias: token id {token_id} is not in [0, {n_vocab})", param="logit_bias")
        if value != -math.inf:  # which bans the token
            _in_range("logit_bias", value, -_MAX_BIAS, _MAX_BIAS)


def _check_words(params: SamplingParams, n_vocab: int) -> None:
    for word in params.bad_words:
        if not 0 < len(word) <= caps.MAX_BAD_WORD_TOKENS:
            raise InvalidRequestError(
                f"each of bad_words must have 1 to {caps.MAX_BAD_WORD_TOKENS} tokens, not {len(word)}",
                param="bad_words",
            )
        _all_known("bad_words", word, n_vocab)
    if params.allowed_token_ids is not None:
        if not params.allowed_token_ids:
            raise InvalidRequestError(
                "allowed_token_ids is empty: nothing could be generated", param="allowed_token_ids"
            )
        _all_known("allowed_token_ids", params.allowed_token_ids, n_vocab)


def _check_budget(params: SamplingParams, n_vocab: int) -> None:
    """Reject a closing text with tokens that the request forbids."""
    budget = params.reasoning_budget
    if budget is None:
        return
    _in_range("reasoning_budget", budget.max_tokens, 0, INT32_MAX)
    if not budget.end or not budget.closing_ids:
        raise InvalidRequestError("reasoning_budget needs a text that closes reasoning", param="reasoning_budget")
    _all_known("reasoning_budget", budget.closing_ids, n_vocab)
    closing = set(budget.closing_ids)
    banned = {token_id for token_id, value in params.logit_bias if value == -math.inf}
    banned |= {word[0] for word in params.bad_words if len(word) == 1}
    allowed = params.allowed_token_ids
    if closing & banned or (allowed is not None and not closing <= set(allowed)):
        message = "the text that closes reasoning contains tokens that this request forbids"
        raise InvalidRequestError(message, param="reasoning_budget")


def _all_known(name: str, token_ids: Sequence[int], n_vocab: int) -> None:
    # The list may be as long as the vocabulary: min() and max() are faster than a loop.
    if token_ids:
        _in_range(name, min(token_ids), 0, n_vocab - 1)
        _in_range(name, max(token_ids), 0, n_vocab - 1)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _in_range(name: str, value: float, low: float, high: float, *, above: bool = False) -> None:
    # NaN fails the first comparison. `above` excludes low, and values that a 32-bit float rounds to low.
    if not low <= value <= high or (above and c_float(value).value <= low):
        text = f"above {low:g}" if above else f"at least {low:g}"
        limit = "" if math.isinf(high) else f" and at most {high:g}"
        raise InvalidRequestError(f"{name} is {value}; it must be {text}{limit}", param=name)
