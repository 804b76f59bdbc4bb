"""RequestState and Sequence: the state of a request in the engine, and of each of its sequences."""

from __future__ import annotations

from array import array

from llamafast._sampling import Sampler
from llamafast.cache.disk.disk_cache import DiskLoad
from llamafast.cache.prompt import TEXT_ONLY, Layout
from llamafast.cache.slots import Slot
from llamafast.engine.scoring import PromptScores
from llamafast.errors import GrammarError, InvalidRequestError, LlamaFastError
from llamafast.grammars.constraint import Constraint, CpuAccount
from llamafast.request import (
    FinishReason,
    MissReason,
    Request,
    RequestOutput,
    SequenceStatus,
    TokenLogprob,
    Usage,
)
from llamafast.tokenizer import Detokenizer, StopMatcher, Tokenizer

Logprobs = tuple[float, list[tuple[int, float]]]

NO_TOKEN = -1
"""The result of a draw if no token is allowed."""

NO_SLOT = Slot(-1, 0)
"""The slot of a sequence that has none. It is never changed."""


class RequestState:
    """A request in the engine, with the state that all its sequences share.

    number: number of the request in order of arrival, from 1; 0 until it is queued.
    """

    __slots__ = (
        "account",
        "cached_tokens",
        "completion_tokens",
        "first_token_s",
        "layout",
        "miss_reason",
        "num_unfinished",
        "number",
        "ranked",
        "request",
        "request_id",
        "scheduled_s",
        "scores",
        "sequences",
    )

    def __init__(self, request: Request) -> None:
        self.request = request
        self.request_id = request.request_id
        self.layout = Layout(request.media) if request.media else TEXT_ONLY
        self.number = 0
        self.account = CpuAccount()
        self.sequences: list[Sequence] = []
        self.num_unfinished = 0
        self.cached_tokens = 0
        self.miss_reason = MissReason.NONE
        self.completion_tokens = 0
        self.scheduled_s = 0.0  # time of its first admission; 0: not admitted yet
        self.first_token_s = 0.0
        self.scores: PromptScores | None = None
        self.ranked = (request.params.best_of or 0) > request.params.n

    @property
    def usage(self) -> Usage:
        return Usage(len(self.request.prompt_token_ids), self.completion_tokens, self.cached_tokens, self.miss_reason)

    def best(self) -> list[RequestOutput]:
        """The outputs of the n finished sequences with the highest mean logprob, as choices 0 to n - 1."""
        order = sorted(self.sequences, key=lambda sequence: -sequence.mean_logprob)
        outputs = [sequence.held for sequence in order[: self.request.params.n]]
        for i, output in enumerate(outputs):
            output.index = i
        return outputs


class Sequence:
    """One continuation of a prompt.

    token_ids: array('i'), ids of the prompt's rows, then the generated tokens. The slot holds the first of these rows.
    A context shift drops a block of token_ids, here and in the slot.
    layout: Layout, the media spans of the prompt.
    pos_offset: int, position minus index of every row after the prompt.
    """

    __slots__ = (
        "constraint",
        "detokenizer",
        "due",
        "end_len",
        "forks",
        "has_given_scores",
        "held",
        "index",
        "is_plain",
        "is_prompt_only",
        "last_s",
        "last_token",
        "layout",
        "load",
        "logprob_sum",
        "max_len",
        "min_len",
        "num_chars",
        "num_dropped",
        "num_emitted",
        "num_passed",
        "num_prompt",
        "num_shared",
        "pending",
        "pos_offset",
        "request_id",
        "sampler",
        "slot",
        "state",
        "status",
        "stop_ids",
        "stops",
        "takes_forced",
        "token_bytes",
        "token_ids",
        "waits_for",
    )

    def __init__(
        self,
        state: RequestState,
        index: int,
        sampler: Sampler,
        tokenizer: Tokenizer,
        max_len: int,
        constraint: Constraint | None = None,
    ) -> None:
        request = state.request
        params = request.params
        self.state = state
        self.index = index
        self.request_id = request.request_id
        self.status = SequenceStatus.WAITING
        self.token_ids = array("i", request.prompt_token_ids)
        self.num_prompt = len(self.token_ids)
        self.last_token = self.token_ids[-1]
        self.layout = state.layout
        self.pos_offset = state.layout.offset
        self.last_s = 0.0  # time of the last token
        self.num_dropped = 0  # tokens removed by drop()
        self.max_len = max_len  # at this number of tokens it must drop some, or end
        self.end_len = max_len  # at this number of tokens it ends
        self.is_prompt_only = max_len <= self.num_prompt  # it generates nothing
        self.min_len = self.num_prompt + params.min_tokens
        self.slot = NO_SLOT
        self.waits_for: Slot | None = None  # a slot that is about to compute a part of this prompt
        self.load: DiskLoad | None = None  # the read of a stored prefix; None: not looked up
        self.num_shared = 0  # length of that part
        self.due = 0  # sort key among the prompts: see StepPlanner.enter
        self.num_passed = 0  # steps of equal chunks without this prompt, since it is the first
        self.forks: list[Sequence] = []  # sequences that start when this one has computed the prompt
        self.sampler = sampler
        self.constraint = constraint
        self.detokenizer = Detokenizer(tokenizer, request.skip_special, request.shown_ids)
        self.stops = StopMatcher(params.stop) if params.stop and request.match_stops else None
        self.stop_ids = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else tokenizer.eog_ids)
        self.stop_ids |= {NO_TOKEN}
        # The bytes of all tokens: a control token has no text in the output, but logprobs show its name.
        self.token_bytes = tokenizer.table(skip_special=False).token_bytes if sampler.num_logprobs >= 0 else []
        self.num_chars = 0  # characters generated
        self.num_emitted = 0  # characters in outputs
        self.pending: list[TokenLogprob] = []  # logprobs of tokens without text in an output so far
        self.logprob_sum = 0.0
        self.held = RequestOutput(self.request_id, index, "", [])  # whole output, if sequences are ranked
        self.has_given_scores = state.request.params.prompt_logprobs is None
        # Forced tokens skip the draw: they have no logprobs, and no check of the settings that exclude tokens.
        is_limited = bool(params.logit_bias or params.bad_words or params.allowed_token_ids is not None)
        self.takes_forced = sampler.num_logprobs < 0 and not is_limited
        self.is_plain = self.stops is None and sampler.num_logprobs < 0 and self.constraint is None

    @property
    def draw_error(self) -> LlamaFastError:
        """The error of a sequence that could draw no token."""
        error = None if self.constraint is None else self.constraint.error
        return error or InvalidRequestError("the settings of this request allow no next token")

    @property
    def rank(self) -> tuple[int, int, int]:
        """Sort key: (priority, order of arrival, choice). Sequences with a lower rank are admitted first."""
        return self.state.request.priority, self.state.number, self.index

    @property
    def num_remaining(self) -> int:
        """Number of rows still to be computed. If nothing is generated, the prompt's last row is not needed."""
        return len(self.token_ids) - self.is_prompt_only - self.slot.length

    @property
    def num_in_reach(self) -> int:
        """Number of rows that one step may compute: up to the next checkpoint, text only or one media span only."""
        length, place = self.slot.length, self.slot.next_place
        num_rows = self.num_remaining if place is None else min(self.num_remaining, place - length)
        return num_rows if not self.layout.media else self.layout.run_end(length, length + num_rows) - length

    @property
    def next_pos(self) -> int:
        """The position of the next row to be computed. After the prompt this is slot.length + pos_offset."""
        return self.layout.position(self.slot.length)

    def position(self, index: int) -> int:
        """The position of the row at an index of token_ids."""
        return self.layout.position(index)

    @property
    def is_scored(self) -> bool:
        """Whether logprobs of prompt tokens are still to be computed."""
        scores = self.state.scores
        return scores is not None and not scores.is_done

    @property
    def reusable_ids(self) -> array[int]:
        """The rows that the cache may supply, plus one token. Rows that are to be scored must be computed."""
        scores = self.state.scores
        return self.token_ids if scores is None or scores.is_done else self.token_ids[: len(scores.entries)]

    @property
    def cache_salt(self) -> str | None:
        """The salt of the prefixes that it may share; None: it shares none."""
        request = self.state.request
        return request.cache_salt if request.use_cache else None

    @property
    def num_generated(self) -> int:
        """Number of tokens of the output."""
        return len(self.token_ids) + self.num_dropped - self.num_prompt

    @property
    def mean_logprob(self) -> float:
        return self.logprob_sum / max(1, self.num_generated)

    def append(self, token_id: int) -> None:
        """Append a generated token. Its row is not computed yet."""
        self.token_ids.append(token_id)
        self.last_token = token_id

    def drop(self, start: int, num_tokens: int, max_len: int) -> None:
        """Remove num_tokens of token_ids from `start` on. The output does not change."""
        del self.token_ids[start : start + num_tokens]
        self.num_dropped += num_tokens
        self.min_len -= num_tokens
        self.end_len -= num_tokens
        self.max_len = min(self.end_len, max_len)

    def advance(self, token_id: int, logprobs: Logprobs | None) -> RequestOutput:
        """The output of the token that was just appended. It has a finish_reason if the token was the last one."""
        output = RequestOutput(self.request_id, self.index, "", [token_id])
        params = self.state.request.params
        offset = self.num_chars
        is_stop = token_id in self.stop_ids
        if is_stop:
            listed = token_id in params.stop_token_ids
            output.finish_reason = FinishReason.STOP
            output.stop_reason = token_id if listed else None
            text = self.detokenizer.add(token_id) if listed and params.include_stop else ""
        else:
            text = self.detokenizer.add(token_id)
            if self.constraint is not None and self.constraint.is_finished:
                output.finish_reason = FinishReason.STOP
            elif len(self.token_ids) >= self.end_len:
                output.finish_reason = FinishReason.LENGTH
        if output.finish_reason is not None:
            text += self.detokenizer.flush()
        self.num_chars += len(text)
        self._match_stops(output, text)
        self.num_emitted += len(output.text)
        if logprobs is not None:
            self.logprob_sum += logprobs[0]
            if not is_stop and params.logprobs is not None:
                self._add_logprobs(token_id, offset, logprobs)
        self._release_logprobs(output)
        return output

    def force(self, output: RequestOutput, min_tokens: int, max_tokens: int) -> int:
        """Append the forced tokens of the grammar if there are at least min_tokens. One decode computes all of them.

        IN/OUT output: the output of the last token, to which they are added. Returns their number.
        """
        constraint = self.constraint
        if constraint is None or not self.takes_forced:
            return 0
        num_before = len(self.token_ids)
        try:
            for token_id in constraint.forced(min_tokens)[:max_tokens]:
                if output.finish_reason is not None or not constraint.accept(token_id):
                    break
                self.sampler.accept(token_id)
                self.append(token_id)
                following = self.advance(token_id, None)
                output.text += following.text
                output.token_ids.append(token_id)
                output.finish_reason = following.finish_reason
                output.stop_reason = following.stop_reason
        except GrammarError:
            pass  # the next draw fails with the same error and reports it
        return len(self.token_ids) - num_before

    def finish(self, reason: FinishReason, error: Exception | None = None) -> RequestOutput:
        """The last output of a sequence that ends without a token, with the text that was held back."""
        output = RequestOutput(self.request_id, self.index, "", [], finish_reason=reason, error=error)
        text = self.detokenizer.flush()
        self.num_chars += len(text)
        self._match_stops(output, text)
        self.num_emitted += len(output.text)
        self._release_logprobs(output)
        return output

    def emit(self, output: RequestOutput, outputs: list[RequestOutput]) -> None:
        """Append an output to outputs, or hold it back until the sequences can be ranked."""
        if not self.has_given_scores and not self.is_scored and self.state.scores is not None:
            self.has_given_scores = True
            output.prompt_logprobs = self.state.scores.entries
        if not self.state.ranked:
            outputs.append(output)
            return
        held = self.held
        held.text += output.text
        held.token_ids += output.token_ids
        held.finish_reason = output.finish_reason
        held.stop_reason = output.stop_reason
        held.error = output.error
        held.prompt_logprobs = held.prompt_logprobs or output.prompt_logprobs
        if output.logprobs is not None:
            held.logprobs = (held.logprobs or []) + output.logprobs

    def _match_stops(self, output: RequestOutput, text: str) -> None:
        # IN text: text of the last token; OUT output.text, and its finish_reason if a stop string is complete
        if self.stops is None or len(self.token_ids) < self.min_len:
            output.text = text
            return
        output.text, matched = self.stops.add(text)
        if matched is not None:
            output.finish_reason = FinishReason.STOP
            output.stop_reason = matched
            if self.state.request.params.include_stop:
                output.text += matched
        elif output.finish_reason is not None:
            output.text += self.stops.flush()

    def _add_logprobs(self, token_id: int, offset: int, logprobs: Logprobs) -> None:
        names = self.token_bytes
        top = tuple((i, logprob, names[i]) for i, logprob in logprobs[1])
        self.pending.append(TokenLogprob(token_id, logprobs[0], names[token_id], offset, top))

    def _release_logprobs(self, output: RequestOutput) -> None:
        """Add logprobs to an output. A token's logprob comes with the first character of its text.

        If a stop string has removed that character, the logprob is dropped.
        """
        if self.state.request.params.logprobs is None:
            return
        pending = self.pending
        num_out = sum(1 for entry in pending if entry.text_offset < self.num_emitted)
        if output.finish_reason is not None and not isinstance(output.stop_reason, str):
            num_out = len(pending)
        output.logprobs = pending[:num_out]
        del pending[:num_out]
