"""Requests made ready outside the engine's thread: everything that can fail or take long for one request alone."""

from __future__ import annotations

import os

from llamafast.engine.breakers import has_breakers
from llamafast.engine.sequence import RequestState, make_sequences
from llamafast.engine.validation import Limits, check_request
from llamafast.errors import InvalidRequestError
from llamafast.request import Request
from llamafast.tokenizer import Tokenizer

# Microseconds of one choice without lists, and of a search for DRY's breakers in the vocabulary.
_BASE_COST = 10
_BREAKERS_COST = 100_000


def prepare_request(request: Request, tokenizer: Tokenizer, limits: Limits) -> RequestState:
    """Check a request and build its sequences: samplers, constraints, detokenizers, stop matchers. Thread-safe.

    Raises InvalidRequestError or ContextLengthError, naming the field if it is known.
    """
    check_request(request, limits)
    params = request.params
    num_prompt = len(request.prompt_token_ids)
    most = (params.max_tokens, limits.max_output_tokens)
    # A context shift can go on for ever: such an output gets as many tokens as one context has.
    end_len = num_prompt + min((limit for limit in most if limit is not None), default=limits.max_seq_len)
    seed = int.from_bytes(os.urandom(8), "little") if params.seed is None else params.seed
    state = RequestState(request)
    try:
        state.sequences = make_sequences(state, tokenizer, min(end_len, limits.max_seq_len), seed)
    except (ValueError, OverflowError, TypeError) as error:
        raise InvalidRequestError(f"the sampler refuses these settings: {error}") from error
    for sequence in state.sequences if limits.context_shift else ():
        sequence.end_len = end_len
    state.num_unfinished = len(state.sequences)
    return state


def prepare_cost(request: Request, tokenizer: Tokenizer) -> int:
    """Microseconds that prepare_request takes, roughly. A long one belongs into a thread."""
    params = request.params
    lists = params.logit_bias, params.stop_token_ids, params.allowed_token_ids or ()
    num_entries = sum(map(len, lists)) + sum(map(len, params.bad_words)) + sum(map(len, params.stop))
    needs_search = params.dry_multiplier and not has_breakers(tokenizer, params.dry_sequence_breakers)
    return (_BREAKERS_COST if needs_search else 0) + (params.best_of or params.n) * (_BASE_COST + num_entries)
