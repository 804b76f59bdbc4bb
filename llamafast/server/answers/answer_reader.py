"""Turns the outputs of a chat answer into parser events."""

from __future__ import annotations

from llamafast.chat.events import Event
from llamafast.request import RequestOutput
from llamafast.server.answers.logprobs import ContentLogprobs
from llamafast.server.answers.progress import AnswerProgress
from llamafast.server.chat.choice import ChoiceReader, ReadOptions


class AnswerReader:
    """Reads the outputs of all choices of one chat. Every chat dialect builds its answer from these events.

    choices: the reader of each choice.
    logprobs: the logprobs of each choice.
    """

    __slots__ = ("_progress", "choices", "logprobs")

    def __init__(self, read_options: ReadOptions, progress: AnswerProgress) -> None:
        self.choices = [ChoiceReader(read_options) for _ in progress.choices]
        self.logprobs = [ContentLogprobs() for _ in progress.choices]
        self._progress = progress

    def read(self, output: RequestOutput) -> list[Event]:
        """The events that an output adds. Ends the choice if its text ends it. Call it after progress.note(output)."""
        index = output.index
        reader = self.choices[index]
        if output.logprobs:
            self.logprobs[index].waiting += output.logprobs
        events = reader.read(output)
        if reader.is_over:
            self._progress.end_choice(output)
        return events

    @property
    def num_reasoning_tokens(self) -> int:
        """The generated tokens that are reasoning, of all choices."""
        return sum(reader.num_reasoning_tokens for reader in self.choices)
