"""Which requests the engine takes. Pure and thread-safe: runs where a request is submitted, before it is queued."""

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

_MAX_BIAS = 100.0
_MAX_INT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask for. max_seq_len counts prompt and output tokens together.

    max_output_tokens: where a request does not say less; None: no limit. context_shift: an output may go on beyond
    max_seq_len. bos_id: negative if there is none. takes_media: whether prompts may have media.
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
    """Raises InvalidRequestError or ContextLengthError naming the field at fault."""
    if not limits.generates:
        raise InvalidRequestError("this model cannot generate text", param="model")
    _check_prompt(request, limits)
    if request.params.structured is not None and request.grammar is None:
        raise InvalidRequestError("structured needs its compiled grammar beside it", param="structured")
    check_sizes(request.params, limits.n_vocab)
    _check_sampling(request.params)
    _check_rare_filters(request.params)
    _check_dry(request.params)
    _check_counts(request.params, limits)
    _check_stops(request.params, limits.n_vocab)
    _check_bias(request.params, limits.n_vocab)
    _check_words(request.params, limits.n_vocab)
    _check_budget(request.params, limits.n_vocab)


def check_sizes(params: SamplingParams, n_vocab: int, num_prompts: int = 1) -> None:
    """That there is not too much of what all other checks, and the samplers of all choices, go through one by one.

    num_prompts: that have these settings. Raises InvalidRequestError, naming the field.
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
    at_most(f"entries of {largest} and the like in all choices", num_entries, caps.MAX_SAMPLER_ENTRIES, largest)


def _check_prompt(request: Request, limits: Limits) -> None:
    token_ids = request.prompt_token_ids
    if not token_ids:
        raise InvalidRequestError("the prompt is empty; it needs at least one token", param="prompt")
    # At least one token is generated, but the last one generated takes no room.
    if len(token_ids) > limits.max_seq_len - (0 if request.params.max_tokens == 0 else 1):
        raise ContextLengthError(
            f"the prompt has {len(token_ids)} tokens; prompt and output together can have {limits.max_seq_len}",
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
            f"{len(token_ids)} prompt tokens and min_tokens {min_tokens}: together they can have {limits.max_seq_len}",
            param="min_tokens",
        )


def _check_media(request: Request, limits: Limits) -> array[int]:
    """Check the media of a prompt; the token ids of its text."""
    if not limits.takes_media:
        raise InvalidRequestError("this model takes no images and no audio", param="media")
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
        raise InvalidRequestError(f"n_keep: {kept} tokens cannot all stay; {most} can", param="n_keep")


def _check_sampling(params: SamplingParams) -> None:
    _in_range("temperature", params.temperature, 0.0, 1e6)
    _in_range("top_p", params.top_p, 0.0, 1.0, above=True)
    _in_range("min_p", params.min_p, 0.0, 1.0)
    _in_range("repetition_penalty", params.repetition_penalty, 0.0, 1e6, above=True)
    _in_range("frequency_penalty", params.frequency_penalty, -2.0, 2.0)
    _in_range("presence_penalty", params.presence_penalty, -2.0, 2.0)
    _in_range("top_k", params.top_k, -1, _MAX_INT)
    _in_range("penalty_last_n", params.penalty_last_n, -1, _MAX_INT)
    if params.seed is not None:
        _in_range("seed", params.seed, -(2**63), 2**64 - 1)


def _check_rare_filters(params: SamplingParams) -> None:
    _in_range("typical_p", params.typical_p, 0.0, 1.0, above=True)
    _in_range("top_n_sigma", params.top_n_sigma, -1.0, 1e6)
    _in_range("xtc_probability", params.xtc_probability, 0.0, 1.0)
    _in_range("xtc_threshold", params.xtc_threshold, 0.0, 1.0)
    _in_range("dynatemp_range", params.dynatemp_range, 0.0, 1e6)
    _in_range("dynatemp_exponent", params.dynatemp_exponent, 0.0, 1e6)
    _in_range("mirostat", params.mirostat, 0, 2)
    _in_range("mirostat_tau", params.mirostat_tau, 0.0, 1e6)
    _in_range("mirostat_eta", params.mirostat_eta, 0.0, 1e6)


def _check_dry(params: SamplingParams) -> None:
    _in_range("dry_multiplier", params.dry_multiplier, 0.0, 1e6)
    _in_range("dry_base", params.dry_base, 1.0, 1e6)
    _in_range("dry_allowed_length", params.dry_allowed_length, 0, _MAX_INT)
    _in_range("dry_penalty_last_n", params.dry_penalty_last_n, -1, _MAX_INT)
    breakers, name = params.dry_sequence_breakers, "dry_sequence_breakers"
    for text in breakers:
        if not 0 < len(text) <= caps.MAX_BREAKER_CHARS or not _is_unicode(text):
            message = f"each of {name} must be valid text of 1 to {caps.MAX_BREAKER_CHARS} characters"
            raise InvalidRequestError(message, param=name)


def _check_counts(params: SamplingParams, limits: Limits) -> None:
    _in_range("n", params.n, 1, limits.n_seq_max)
    if params.best_of is not None:
        _in_range("best_of", params.best_of, params.n, limits.n_seq_max)
    if params.max_tokens is not None:
        _in_range("max_tokens", params.max_tokens, 0, math.inf)
    most = _MAX_INT if params.max_tokens is None else min(params.max_tokens, _MAX_INT)
    _in_range("min_tokens", params.min_tokens, 0, most)
    for name, value in (("logprobs", params.logprobs), ("prompt_logprobs", params.prompt_logprobs)):
        if value is not None:
            _in_range(name, value, 0, limits.n_vocab)


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
    """The closing text must be possible beside what the request forbids."""
    budget = params.reasoning_budget
    if budget is None:
        return
    _in_range("reasoning_budget", budget.max_tokens, 0, _MAX_INT)
    if not budget.end or not budget.closing_ids:
        raise InvalidRequestError("reasoning_budget needs a text that closes reasoning", param="reasoning_budget")
    _all_known("reasoning_budget", budget.closing_ids, n_vocab)
    closing = set(budget.closing_ids)
    banned = {token_id for token_id, value in params.logit_bias if value == -math.inf}
    banned |= {word[0] for word in params.bad_words if len(word) == 1}
    allowed = params.allowed_token_ids
    if closing & banned or (allowed is not None and not closing <= set(allowed)):
        message = "the text that closes reasoning holds tokens that this request forbids"
        raise InvalidRequestError(message, param="reasoning_budget")


def _all_known(name: str, token_ids: Sequence[int], n_vocab: int) -> None:
    # There may be as many as the vocabulary has: no loop of ours.
    if token_ids:
        _in_range(name, min(token_ids), 0, n_vocab - 1)
        _in_range(name, max(token_ids), 0, n_vocab - 1)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _in_range(name: str, value: float, low: float, high: float, *, above: bool = False) -> None:
    # Written so that NaN fails too; `above`: low itself is out, also what becomes low as a 32-bit float.
    if not low <= value <= high or (above and c_float(value).value <= low):
        text = f"above {low:g}" if above else f"at least {low:g}"
        limit = "" if math.isinf(high) else f" and at most {high:g}"
        raise InvalidRequestError(f"{name} is {value}; it must be {text}{limit}", param=name)
