"""What the model's answer in a chat is held to: tool calls, a constraint on its text, and a limit on its reasoning."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import orjson

from llamafast.chat.enforcing.output_grammar import CallPolicy, ContentConstraint
from llamafast.chat.tools import Tool
from llamafast.errors import GrammarError, InvalidRequestError
from llamafast.grammars.structured import StructuredKind, StructuredOutput
from llamafast.request import ReasoningBudget
from llamafast.server.chat.prompt import ChatPrompt
from llamafast.server.chat.request import ChatRequest
from llamafast.server.constraint import CompiledConstraint, OutputConstraint, compile_constraint, compile_output
from llamafast.server.served_model import ServedModel


def is_constrained(request: ChatRequest) -> bool:
    """Whether a grammar has to be compiled for the answer."""
    return request.constraint is not None or request.tools.is_enforced


async def compile_answer(served: ServedModel, request: ChatRequest, prompt: ChatPrompt) -> CompiledConstraint:
    """Compile what the answer is held to: calls, if the tool policy is enforced, or else the constraint on its text.

    With tools and a constraint, the answer is calls or the constraint's JSON.
    Raises InvalidRequestError and GrammarError, which name the client's field, and CompilerBusyError.
    """
    tools, constraint = request.tools, request.constraint
    if not is_constrained(request):
        return CompiledConstraint()
    with request.names.in_errors():
        if constraint is not None and not (tools.is_enforced or tools.tools):
            return await _compile_text(served, constraint, prompt)
        answer = None
        if constraint is not None and not tools.is_required:
            answer = _answer(constraint)
            if answer is None or answer.schema is None:
                raise _unsupported(constraint, "cannot go with tools: beside calls an answer is held to a JSON Schema")
        rules = CallPolicy(tools.is_required, tools.is_parallel, tools.allowed, answer)
        return await _compile_calls(served, tools.tools, prompt, rules)


def reasoning_budget(served: ServedModel, request: ChatRequest, prompt: ChatPrompt) -> ReasoningBudget | None:
    """The limit on the reasoning: the request's or else the operator's. None: no limit. Raises InvalidRequestError."""
    budget, defaults, tags = request.reasoning.budget, served.defaults, prompt.tags
    if tags is None and budget is not None and budget >= 0:
        name = request.names.of("thinking_budget")
        raise InvalidRequestError(f"'{name}': this model writes no reasoning that could be limited", param=name)
    limit = defaults.reasoning_budget if budget is None else budget
    if tags is None or limit is None or limit < 0:
        return None
    closing = defaults.reasoning_budget_message
    closing = closing if tags.close in closing else f"{closing}{tags.close}\n\n"
    return ReasoningBudget(limit, prompt.is_reasoning, tags.close, _token_ids(served, closing), tags.open)


async def _compile_text(served: ServedModel, constraint: OutputConstraint, prompt: ChatPrompt) -> CompiledConstraint:
    """Compile a constraint on the content of an answer without tools.

    The constraint begins after the reasoning, and after what the chat format writes before the content.
    """
    tags, chat_format = prompt.tags, served.chat_format
    close = () if tags is None or not prompt.is_reasoning else _token_ids(served, tags.close)
    may_open = prompt.may_reason and not prompt.is_reasoning
    has_head = not prompt.is_continued and (chat_format.is_framed or may_open)
    # The model can write a closing tag of several tokens in several ways.
    if has_head or len(close) > 1 or (close and chat_format.is_framed):
        answer = _answer(constraint)
        if answer is not None:
            return await _compile_calls(served, (), prompt, CallPolicy(answer=answer))
        if chat_format.is_framed or len(close) > 1:
            raise _unsupported(constraint, "cannot follow what this model writes before its content; a schema can")
    return await compile_constraint(served.engine, constraint, start_after=close)


async def _compile_calls(
    served: ServedModel, tools: Sequence[Tool], prompt: ChatPrompt, rules: CallPolicy
) -> CompiledConstraint:
    """Compile an answer in the syntax of the chat format: calls of these tools, or the answer of the rules."""
    # A large schema takes longer than other requests should wait.
    text = await asyncio.to_thread(
        served.chat_format.grammar, prompt.answer_context, tools, rules, may_reason=prompt.may_reason
    )
    param = rules.answer.param if rules.answer is not None and not tools else "tools"
    return await compile_output(served.engine, StructuredOutput(StructuredKind.LARK, text), param)


def _token_ids(served: ServedModel, text: str) -> tuple[int, ...]:
    """The tokens of a text of ours, its control tokens parsed."""
    return tuple(served.engine.tokenizer.encode(text, add_special=False, parse_special=True))


def _unsupported(constraint: OutputConstraint, why: str) -> InvalidRequestError:
    return InvalidRequestError(f"'{constraint.param}' {why}", param=constraint.param, code="unsupported_parameter")


def _answer(constraint: OutputConstraint) -> ContentConstraint | None:
    """The constraint as a part of a larger grammar; None if it cannot be one.

    Raises GrammarError for a text that is no JSON Schema although the field takes one.
    """
    structured, param = constraint.structured, constraint.param
    if structured.kind is StructuredKind.JSON_OBJECT:
        return ContentConstraint(param, {"type": "object"})
    if structured.kind is StructuredKind.REGEX:
        return ContentConstraint(param, regex=structured.text)
    if structured.kind is StructuredKind.CHOICE:
        return ContentConstraint(param, choices=tuple(orjson.loads(structured.text)))
    if structured.kind is not StructuredKind.JSON_SCHEMA:
        return None
    try:
        schema: object = orjson.loads(structured.text)
    except orjson.JSONDecodeError as exc:
        raise GrammarError(f"{param}: the schema is not JSON: {exc}", param=param) from exc
    if not isinstance(schema, (dict, bool)):
        raise GrammarError(f"{param}: a schema is an object or a boolean", param=param)
    return ContentConstraint(param, schema, strict=structured.strict)
