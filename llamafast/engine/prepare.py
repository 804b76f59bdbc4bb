"""Prepares a request outside the engine's thread: all work that can fail or take long for one request alone."""

from __future__ import annotations

import math
import os

from llamafast._sampling import Sampler
from llamafast.engine.breakers import dry_breakers, has_breakers
from llamafast.engine.scoring import PromptScores
from llamafast.engine.seeds import choice_seed
from llamafast.engine.sequence import RequestState, Sequence
from llamafast.engine.validation import Limits, check_request
from llamafast.errors import InvalidRequestError
from llamafast.grammars.constraint import Constraint
from llamafast.grammars.reasoning_budget import ReasoningBudgetConstraint
from llamafast.request import Request
from llamafast.sampling_params import SAMPLER_ARGUMENTS
from llamafast.tokenizer import Tokenizer

# Microseconds: preparing one choice without lists; searching the vocabulary for DRY's breakers.
_BASE_COST = 10
_BREAKERS_COST = 100_000


def prepare_request(request: Request, tokenizer: Tokenizer, limits: Limits) -> RequestState:
    """Check a request and build its sequences: samplers, constraints, detokenizers, stop matchers. Thread-safe.

    Raises InvalidRequestError or ContextLengthError, with the field if it is known.
    """
    check_request(request, limits)
    params = request.params
    num_prompt = len(request.prompt_token_ids)
    most = (params.max_tokens, limits.max_output_tokens)
    # With context shift, an output has no natural limit. Without max_tokens it gets as many tokens as a context has.
    end_len = num_prompt + min((limit for limit in most if limit is not None), default=limits.max_seq_len)
    seed = int.from_bytes(os.urandom(8), "little") if params.seed is None else params.seed
    state = RequestState(request)
    try:
        state.sequences = _make_sequences(state, tokenizer, min(end_len, limits.max_seq_len), seed)
    except (ValueError, OverflowError, TypeError) as error:
        raise InvalidRequestError(f"the sampler rejects these settings: {error}") from error
    # A sequence with media is not shifted: the indices of its rows would no longer match their positions.
    for sequence in state.sequences if limits.context_shift and not request.media else ():
        sequence.end_len = end_len
    state.num_unfinished = len(state.sequences)
    return state


def prepare_cost(request: Request, tokenizer: Tokenizer) -> int:
    """Estimate of the microseconds that prepare_request takes. Expensive requests are prepared in a thread."""
    params = request.params
    lists = params.logit_bias, params.stop_token_ids, params.allowed_token_ids or ()
    num_entries = sum(map(len, lists)) + sum(map(len, params.bad_words)) + sum(map(len, params.stop))
    needs_search = params.dry_multiplier and not has_breakers(tokenizer, params.dry_sequence_breakers)
    return (_BREAKERS_COST if needs_search else 0) + (params.best_of or params.n) * (_BASE_COST + num_entries)


def _make_sequences(state: RequestState, tokenizer: Tokenizer, max_len: int, seed: int) -> list[Sequence]:
    """The sequences of a request, each with its own sampler. The first one computes the prompt for all."""
    params = state.request.params
    if params.prompt_logprobs is not None:
        names = tokenizer.table(skip_special=False).token_bytes
        state.scores = PromptScores(state.request.prompt_token_ids, params.prompt_logprobs, names)
    eog_ids = tuple(tokenizer.eog_ids)
    never = tokenizer.suppress_ids + (eog_ids if params.ignore_eos else ())
    num_logprobs = 0 if state.ranked and params.logprobs is None else params.logprobs
    settings = {name: getattr(params, name) for name in SAMPLER_ARGUMENTS}
    settings["logit_bias"] = params.logit_bias + tuple((i, -math.inf) for i in never)
    settings["num_logprobs"] = -1 if num_logprobs is None else num_logprobs
    settings["banned_ids"] = (*eog_ids, *params.stop_token_ids) if params.min_tokens else ()
    if params.dry_multiplier:
        settings["dry_breakers"] = dry_breakers(tokenizer, params.dry_sequence_breakers)
    sequences = []
    for index in range(params.best_of or params.n):
        sampler = Sampler(tokenizer.n_vocab, seed=choice_seed(seed, index), **settings)
        sampler.prime(state.layout.text_ids(state.request.prompt_token_ids))
        sequences.append(Sequence(state, index, sampler, tokenizer, max_len, _constraint(state, tokenizer)))
    return sequences


def _constraint(state: RequestState, tokenizer: Tokenizer) -> Constraint | None:
    request = state.request
    grammar = None if request.grammar is None else request.grammar.start(state.account)
    budget = request.params.reasoning_budget
    if budget is None:
        return grammar
    return ReasoningBudgetConstraint(
        grammar,
        budget.max_tokens,
        is_open=budget.is_open,
        start=budget.start.encode(),
        end=budget.end.encode(),
        closing_ids=budget.closing_ids,
        token_bytes=tokenizer.table(skip_special=False).token_bytes,
    )
