"""Refuses prompts that are too long for the context before they are tokenized."""

from __future__ import annotations

from llamafast.engine.async_engine import AsyncEngine
from llamafast.errors import ContextLengthError


def check_fits(engine: AsyncEngine, prompt: str | list[int], param: str) -> None:
    """Refuse a prompt that cannot fit into the context.

    prompt: a text or token ids. param: the client's field. Raises ContextLengthError.
    """
    if isinstance(prompt, list):
        if len(prompt) > engine.max_seq_len:
            raise ContextLengthError(
                f"{param} has {len(prompt)} tokens; prompt and output together can have at most {engine.max_seq_len}",
                param=param,
            )
        return
    # A character has at most 4 bytes and a token has at least one: a shorter text fits.
    least = engine.tokenizer.min_tokens(prompt) if len(prompt) > engine.max_seq_len // 4 else 0
    if least > engine.max_seq_len:
        raise ContextLengthError(
            f"{param} has at least {least} tokens; prompt and output together can have at most {engine.max_seq_len}",
            param=param,
        )
