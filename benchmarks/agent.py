"""An agent's conversation: a task, then a tool call and its result per turn. Each request sends the whole history."""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass, field
from pathlib import Path

from llamafast._core import Model
from llamafast.chat.prompt.template import ChatTemplate
from llamafast.tokenizer import Tokenizer

Message = dict[str, object]

WORDS = [
    "the",
    "fox",
    "saw",
    "a",
    "red",
    "house",
    "near",
    "the",
    "river",
    "and",
    "the",
    "old",
    "man",
    "said",
    "that",
    "it",
    "was",
    "a",
    "good",
    "day",
    "to",
    "go",
    "home",
]
TEMPLATE_FIELDS: dict[str, object] = {"enable_thinking": False}


@dataclass(slots=True)
class Conversation:
    """A conversation. Conversations with different numbers share only the start of the prompt."""

    number: int
    messages: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.messages = [
            {"role": "system", "content": f"You are agent {self.number}. {self._words(200)}"},
            {"role": "user", "content": f"Task {self.number}: {self._words(30)}"},
        ]

    def add_turn(self) -> None:
        """Add a tool call of the model, and its result."""
        call = {"name": "look", "arguments": f'{{"at": "{self._words(6)}"}}'}
        self.messages += [
            {"role": "assistant", "content": "", "tool_calls": [{"id": "c", "type": "function", "function": call}]},
            {"role": "tool", "tool_call_id": "c", "content": self._words(80)},
        ]

    def edit_last(self) -> None:
        """Replace the last result."""
        self.messages[-1] = {**self.messages[-1], "content": f"Edited: {self._words(80)}"}

    def drop_last(self) -> None:
        """Drop the last turn."""
        del self.messages[-2:]

    def _words(self, number: int) -> str:
        # Seeded by everything that the text depends on, so that two runs send the same texts.
        rng = random.Random(f"{self.number} {len(self.messages)} {number}")
        return " ".join(rng.choices(WORDS, k=number))


class Counter:
    """Counts the tokens of a prompt after its longest prefix shared with an earlier one: the minimum to compute."""

    def __init__(self, path: Path) -> None:
        model = Model(str(path), vocab_only=True)
        self._tokenizer = Tokenizer(model)
        eos = model.token_bytes(model.eos_id, special=True).decode()
        self._template = ChatTemplate(model.chat_template() or "", bos_token="", eos_token=eos)
        self._seen: list[array[int]] = []

    def num_new(self, messages: list[Message]) -> int:
        """Count the next prompt, and add it to the earlier ones."""
        text = self._template.render([_with_object(message) for message in messages], **TEMPLATE_FIELDS)  # type: ignore[arg-type]
        token_ids = array("i", self._tokenizer.encode(text, add_special=False, parse_special=True))
        shared = max((_num_common(token_ids, other) for other in self._seen), default=0)
        self._seen.append(token_ids)
        return len(token_ids) - shared


def _num_common(first: array[int], second: array[int]) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def _with_object(message: Message) -> Message:
    """The message with decoded arguments, as the server gives it to the template."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    at = calls[0]["function"]["arguments"].removeprefix('{"at": "').removesuffix('"}')
    return {**message, "tool_calls": [{**calls[0], "function": {"name": "look", "arguments": {"at": at}}}]}
