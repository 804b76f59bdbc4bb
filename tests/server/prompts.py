"""The prompt of a chat body, with any documents as tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from llamafast.server.chat import prompt
from llamafast.server.chat.request import ToolPolicy
from llamafast.server.schemas.chat import ChatBody
from llamafast.server.served_model import ServedModel


def chat_prompt(
    served: ServedModel, body: ChatBody, tools: Sequence[Mapping[str, object]] | None = None
) -> prompt.ChatPrompt:
    request = replace(body.to_chat_request(), tools=ToolPolicy(shown=tuple(tools or ())))
    return prompt.chat_prompt(served, request)
