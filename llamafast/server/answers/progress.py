"""The progress of an answer: the state that every dialect keeps of the engine's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from llamafast.errors import DecodeError, GrammarError, ShuttingDownError
from llamafast.request import FinishReason, RequestOutput, TokenLogprob
from llamafast.server.answers.usage import UsageCount

PromptLogprobs: TypeAlias = Sequence[TokenLogprob | None]


class ChoiceProgress:
    """The progress of one choice.

    finish_reason: STOP or LENGTH once the choice has ended.
    is_over: the server ended the choice before the engine did. Its later outputs are not shown.
    prompt_logprobs: one per token of the choice's prompt, None for the first; empty if the client did not ask.
    """

    __slots__ = ("finish_reason", "is_over", "prompt_logprobs")

    def __init__(self) -> None:
        self.finish_reason: FinishReason | None = None
        self.is_over = False
        self.prompt_logprobs: PromptLogprobs = ()


class AnswerProgress:
    """The progress of the answer to one HTTP request.

    choices: one per choice, those of the first prompt first.
    usage: the tokens counted so far.
    error: the error that ended the request; None while there is none. No output follows it.
    to_finish: indices of choices that the server has ended and the engine has not. The code that tells the engine
    empties the list.
    """

    __slots__ = ("_constraint", "choices", "error", "to_finish", "usage")

    def __init__(self, num_choices: int, constraint: str | None = None) -> None:
        """constraint: the path of the request field that constrains the output; None for no constraint."""
        self.choices = [ChoiceProgress() for _ in range(num_choices)]
        self.usage = UsageCount()
        self.error: Exception | None = None
        self.to_finish: list[int] = []
        self._constraint = constraint

    def note(self, output: RequestOutput) -> ChoiceProgress | None:
        """Count an output and note the end of its choice. Returns the choice, or None after an error."""
        choice = self.choices[output.index]
        if choice.is_over:
            self.usage.num_unwanted += len(output.token_ids)
        else:
            self.usage.num_tokens += len(output.token_ids)
        if output.usage is not None:
            self.usage.add(output, output.usage)
        reason = output.finish_reason
        if reason is None:
            return choice
        if reason is FinishReason.ERROR or output.error is not None:
            self.error = output.error or DecodeError("the engine ended this request without an answer", -1)
            if isinstance(self.error, GrammarError) and self.error.param is None:  # the constraint failed while it ran
                self.error.param = self._constraint
        elif reason is FinishReason.ABORT:
            self.error = ShuttingDownError("the request was aborted by the server")
        elif not choice.is_over:
            choice.finish_reason = reason
        return choice if self.error is None else None

    def end_choice(self, output: RequestOutput) -> None:
        """End a choice at this output because its text ends it: by a stop string, or by the only allowed call."""
        choice = self.choices[output.index]
        choice.finish_reason = FinishReason.STOP
        if output.finish_reason is None:
            choice.is_over = True
            self.to_finish.append(output.index)
