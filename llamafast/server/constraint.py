"""Compiling the constraint of a request: errors under the client's field names, warnings as headers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from llamafast.errors import GrammarError
from llamafast.grammars.structured import StructuredKind, StructuredOutput
from llamafast.request import ReasoningBudget

if TYPE_CHECKING:
    from llamafast.chat.enforcing.output_grammar import CallPolicy
    from llamafast.chat.format import ChatFormat
    from llamafast.chat.reasoning_tags import ReasoningTags
    from llamafast.chat.tools import Tool
    from llamafast.engine.async_engine import AsyncEngine
    from llamafast.grammars.constraint import Grammar
    from llamafast.server.chat.prompt import ChatPrompt
    from llamafast.server.schemas.structured import Constraint

_MAX_HEADER_CHARS = 2000
_MAX_MESSAGE_CHARS = 1000  # compilers quote the grammar


@dataclass(frozen=True, slots=True)
class Compiled:
    """A constraint as the engine takes it, and the headers that tell what of it was dropped; nothing by default."""

    structured: StructuredOutput | None = None
    grammar: Grammar | None = None
    headers: dict[str, str] = field(default_factory=dict)


async def compile_constraint(
    engine: AsyncEngine, constraint: Constraint | None, *, start_after: tuple[int, ...] = ()
) -> Compiled:
    """start_after: the token ids behind which the constraint begins; empty: at once.

    Raises GrammarError naming the client's field.
    """
    if constraint is None:
        return Compiled()
    structured = replace(constraint.structured, start_after=start_after)
    try:
        grammar = await engine.compile_grammar(structured)
    except GrammarError as exc:
        message = f"{constraint.param}: {exc.message[:_MAX_MESSAGE_CHARS]}"
        raise GrammarError(message, param=constraint.param, code=exc.code) from exc
    return Compiled(structured, grammar, _warning_header(constraint.param, grammar.warnings))


async def compile_calls(
    engine: AsyncEngine, chat_format: ChatFormat, prompt: ChatPrompt, tools: Sequence[Tool], rules: CallPolicy
) -> Compiled:
    """The constraint that holds an answer to calls of these tools, in the format's own syntax, or to the rules' answer.

    Raises GrammarError naming the client's field.
    """
    name = rules.answer.param if rules.answer is not None and not tools else "tools"
    # A large schema takes longer than other requests should wait.
    text = await asyncio.to_thread(chat_format.grammar, prompt.text, tools, rules, may_reason=prompt.may_reason)
    structured = StructuredOutput(StructuredKind.LARK, text)
    try:
        grammar = await engine.compile_grammar(structured)
    except GrammarError as exc:
        param = exc.param or name
        raise GrammarError(f"{param}: {exc.message[:_MAX_MESSAGE_CHARS]}", param=param, code=exc.code) from exc
    return Compiled(structured, grammar, _warning_header(name, grammar.warnings))


def reasoning_budget(
    engine: AsyncEngine, max_tokens: int, tags: ReasoningTags, closing: str, *, is_open: bool
) -> ReasoningBudget:
    """A limit of so many tokens on the reasoning between these tags.

    closing: the text that is forced at the limit, with the closing tag. is_open: the prompt leaves reasoning open.
    """
    closing_ids = tuple(engine.tokenizer.encode(closing, add_special=False, parse_special=True))
    return ReasoningBudget(max_tokens, is_open, tags.close, closing_ids, tags.open)


def tag_ids(engine: AsyncEngine, tag: str) -> tuple[int, ...]:
    """The tokens that a tag is written in, if it is written as the vocabulary would."""
    return tuple(engine.tokenizer.encode(tag, add_special=False, parse_special=True))


def _warning_header(param: str, warnings: Sequence[str]) -> dict[str, str]:
    """What of a constraint is dropped."""
    return warning_header(f"{param}: not enforced: {'; '.join(warnings)}") if warnings else {}


def warning_header(text: str) -> dict[str, str]:
    """RFC 9110's Warning, in visible ASCII; names of keywords come from clients."""
    visible = re.sub(r"[^ -~]", "?", text)[:_MAX_HEADER_CHARS].replace("\\", "\\\\").replace('"', '\\"')
    return {"warning": f'299 llamafast "{visible}"'}
