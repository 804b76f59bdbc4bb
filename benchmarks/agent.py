"""An agent's conversation: a task, then a call of a tool and its result per turn, the whole history sent each time."""

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
    """Different numbers share no words beyond the start of the prompt."""

    number: int
    messages: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.messages = [
            {"role": "system", "content": f"You are agent {self.number}. {self._words(200)}"},
            {"role": "user", "content": f"Task {self.number}: {self._words(30)}"},
        ]

    def add_turn(self) -> None:
        """The model's call of a tool, and what came of it."""
        call = {"name": "look", "arguments": f'{{"at": "{self._words(6)}"}}'}
        self.messages += [
            {"role": "assistant", "content": "", "tool_calls": [{"id": "c", "type": "function", "function": call}]},
            {"role": "tool", "tool_call_id": "c", "content": self._words(80)},
        ]

    def edit_last(self) -> None:
        """Another result in the place of the last one."""
        self.messages[-1] = {**self.messages[-1], "content": f"Edited: {self._words(80)}"}

    def drop_last(self) -> None:
        """Without the last turn."""
        del self.messages[-2:]

    def _words(self, number: int) -> str:
        # Seeded by all that makes the text: two runs send the same.
        rng = random.Random(f"{self.number} {len(self.messages)} {number}")
        return " ".join(rng.choices(WORDS, k=number))


class Counter:
    """Counts the tokens of a prompt that no earlier prompt began with: what a perfect cache would compute."""

    def __init__(self, path: Path) -> None:
        model = Model(str(path), vocab_only=True)
        self._tokenizer = Tokenizer(model)
        eos = model.token_bytes(model.eos_id, special=True).decode()
        self._template = ChatTemplate(model.chat_template() or "", bos_token="", eos_token=eos)
        self._seen: list[array[int]] = []

    def num_new(self, messages: list[Message]) -> int:
        """Of the next prompt, which is an earlier one for those after it."""
        text = self._template.render([_with_object(message) for message in messages], **TEMPLATE_FIELDS)  # type: ignore[arg-type]
        token_ids = array("i", self._tokenizer.encode(text, add_special=False, parse_special=True))
        shared = max((_num_common(token_ids, other) for other in self._seen), default=0)
        self._seen.append(token_ids)
        return len(token_ids) - shared


def _num_common(first: array[int], second: array[int]) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def _with_object(message: Message) -> Message:
    """Arguments as the server hands them to the template: decoded."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    at = calls[0]["function"]["arguments"].removeprefix('{"at": "').removesuffix('"}')
    return {**message, "tool_calls": [{**calls[0], "function": {"name": "look", "arguments": {"at": at}}}]}
