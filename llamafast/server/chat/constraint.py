"""Compiles the constraints on a chat answer: tool calls, its text, and a limit on its reasoning."""

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
    """Compile the constraint on an answer: tool calls if the tool policy is enforced, else the constraint on its text.

    If the request has tools and a constraint, the answer is either calls or JSON that matches the constraint.
    Raises InvalidRequestError and GrammarError, which name the client's field, and CompilerBusyError.
    """
    tools, constraint, tools_param = request.tools, request.constraint, request.names.of("tools")
    if not is_constrained(request):
        return CompiledConstraint()
    with request.names.in_errors():
        if constraint is not None and not (tools.is_enforced or tools.tools):
            return await _compile_text(served, constraint, prompt)
        answer = None
        if constraint is not None and not tools.is_required:
            answer = _answer(constraint)
            if answer is None or answer.schema is None:
                why = f"cannot be combined with {tools_param}: only a JSON Schema can"
                raise _unsupported(constraint, why)
        rules = CallPolicy(tools.is_required, tools.is_parallel, tools.allowed, answer)
        return await _compile_calls(served, tools.tools, prompt, rules, tools_param)


def reasoning_budget(served: ServedModel, request: ChatRequest, prompt: ChatPrompt) -> ReasoningBudget | None:
    """The limit on the reasoning, of the request or else of the operator; None for no limit.

    Raises InvalidRequestError if the request sets a limit and the model writes no reasoning.
    """
    budget, defaults, tags = request.reasoning.budget, served.defaults, prompt.tags
    if tags is None and budget is not None and budget >= 0:
        name = request.names.of("thinking_budget")
        raise InvalidRequestError(f"'{name}': this model writes no reasoning, so it cannot be limited", param=name)
    limit = defaults.reasoning_budget if budget is None else budget
    if tags is None or limit is None or limit < 0:
        return None
    closing = defaults.reasoning_budget_message
    closing = closing if tags.close in closing else f"{closing}{tags.close}\n\n"
    return ReasoningBudget(limit, prompt.is_reasoning, tags.close, _token_ids(served, closing), tags.open)


async def _compile_text(served: ServedModel, constraint: OutputConstraint, prompt: ChatPrompt) -> CompiledConstraint:
    """Compile a constraint on the content of an answer without tools.

    The constraint begins after the reasoning and after the header that the chat format writes before content.
    """
    tags, chat_format = prompt.tags, served.chat_format
    close = () if tags is None or not prompt.is_reasoning else _token_ids(served, tags.close)
    may_open = prompt.may_reason and not prompt.is_reasoning
    has_head = not prompt.is_continued and (chat_format.is_framed or may_open)
    # The model can write a closing tag of several tokens in several ways.
    if has_head or len(close) > 1 or (close and chat_format.is_framed):
        answer = _answer(constraint)
        if answer is not None:
            return await _compile_calls(served, (), prompt, CallPolicy(answer=answer), answer.param)
        if chat_format.is_framed or len(close) > 1:
            raise _unsupported(
                constraint,
                "is not supported for this model, which writes a header before its content; use a JSON Schema",
            )
    return await compile_constraint(served.engine, constraint, start_after=close)


async def _compile_calls(
    served: ServedModel, tools: Sequence[Tool], prompt: ChatPrompt, rules: CallPolicy, param: str
) -> CompiledConstraint:
    """Compile a grammar in the syntax of the chat format: calls of these tools, or the answer that `rules` allow.

    param: the client's field, for warnings, and for errors that name no field.
    """
    # A large schema takes long; other requests should not wait for it.
    text = await asyncio.to_thread(
        served.chat_format.grammar, prompt.answer_context, tools, rules, may_reason=prompt.may_reason
    )
    return await compile_output(served.engine, StructuredOutput(StructuredKind.LARK, text), param)


def _token_ids(served: ServedModel, text: str) -> tuple[int, ...]:
    """The tokens of a trusted text. Control tokens in it are parsed."""
    return tuple(served.engine.tokenizer.encode(text, add_special=False, parse_special=True))


def _unsupported(constraint: OutputConstraint, why: str) -> InvalidRequestError:
    return InvalidRequestError(f"'{constraint.param}' {why}", param=constraint.param, code="unsupported_parameter")


def _answer(constraint: OutputConstraint) -> ContentConstraint | None:
    """The constraint in the form that a larger grammar can contain; None if it has none.

    Raises GrammarError if the field takes a JSON Schema and its text is not one.
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
        raise GrammarError(f"{param}: a schema must be an object or a boolean", param=param)
    return ContentConstraint(param, schema, strict=structured.strict)
