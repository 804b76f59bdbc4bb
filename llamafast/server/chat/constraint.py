"""What the answer of a chat is held to: its constraint and its thinking budget."""

from __future__ import annotations

import orjson

from llamafast.chat.enforcing.output_grammar import CallPolicy, ContentConstraint
from llamafast.errors import GrammarError, InvalidRequestError
from llamafast.grammars.structured import StructuredKind
from llamafast.request import ReasoningBudget
from llamafast.server.chat.prompt import ChatPrompt
from llamafast.server.constraint import (
    Compiled,
    compile_calls,
    compile_constraint,
    reasoning_budget,
    tag_ids,
    warning_header,
)
from llamafast.server.schemas.chat import ChatBody
from llamafast.server.schemas.structured import Constraint
from llamafast.server.schemas.tools import ToolUse
from llamafast.server.served_model import ServedModel


async def compile_rules(
    served: ServedModel, constraint: Constraint | None, use: ToolUse, prompt: ChatPrompt
) -> Compiled:
    """The constraint on an answer: calls, where a call is required or enforced; else what a field says.

    With both, the answer is calls or that JSON. Raises InvalidRequestError or GrammarError, naming the client's field.
    """
    if use.is_enforced or (use.tools and constraint is not None):
        answer = None
        if constraint is not None and not use.is_required:
            answer = _answer(constraint)
            if answer is None or answer.schema is None:
                raise _unsupported(constraint, "cannot go with tools: beside calls an answer is held to a JSON Schema")
        rules = CallPolicy(use.is_required, use.is_parallel, use.names, answer)
        try:
            return await compile_calls(served.engine, served.chat_format, prompt, use.tools, rules)
        except GrammarError as exc:
            if not use.is_legacy or exc.param is None:
                raise
            param = exc.param.replace("tools[", "functions[").replace(".function.", ".")
            param = param.replace("tool_choice", "function_call")
            raise GrammarError(exc.message.replace(exc.param, param), param=param, code=exc.code) from exc
    if constraint is None:
        return Compiled()
    return await _compile_answer(served, constraint, prompt)


def warnings_of(served: ServedModel, use: ToolUse, compiled: Compiled) -> dict[str, str]:
    """The headers that tell what of a request is not kept: parts of its constraint, or the reading of its calls."""
    if not use.tools or served.chat_format.reads_calls:
        return compiled.headers
    unread = warning_header("tools: calls stay in the content, since this model's format of calls is not known")
    return {"warning": ", ".join(headers["warning"] for headers in (unread, compiled.headers) if headers)}


def thinking_budget(served: ServedModel, body: ChatBody, prompt: ChatPrompt) -> ReasoningBudget | None:
    """The limit on the reasoning: the request's, else the operator's. Raises InvalidRequestError."""
    wanted, defaults, tags = body.budget, served.defaults, prompt.tags
    if tags is None and wanted is not None and wanted >= 0:
        name = body.param_names.get("thinking_budget", "thinking_budget")
        raise InvalidRequestError(f"'{name}': this model writes no reasoning that could be limited", param=name)
    limit = defaults.reasoning_budget if wanted is None else wanted
    if tags is None or limit is None or limit < 0:
        return None
    closing = defaults.reasoning_budget_message
    closing = closing if tags.close in closing else f"{closing}{tags.close}\n\n"
    return reasoning_budget(served.engine, limit, tags, closing, is_open=prompt.is_reasoning)


async def _compile_answer(served: ServedModel, constraint: Constraint, prompt: ChatPrompt) -> Compiled:
    """The constraint on an answer without tools, behind all that the format has before its content."""
    tags, chat_format = prompt.tags, served.chat_format
    close = () if tags is None or not prompt.is_reasoning else tag_ids(served.engine, tags.close)
    may_open = prompt.may_reason and not prompt.is_reasoning
    has_head = not prompt.is_continued and (chat_format.is_framed or may_open)
    # A closing tag of several tokens can be written in several ways.
    if has_head or len(close) > 1 or (close and chat_format.is_framed):
        answer = _answer(constraint)
        if answer is not None:
            return await compile_calls(served.engine, chat_format, prompt, (), CallPolicy(answer=answer))
        if chat_format.is_framed or len(close) > 1:
            raise _unsupported(constraint, "cannot follow what this model writes before its content; a schema can")
    return await compile_constraint(served.engine, constraint, start_after=close)


def _unsupported(constraint: Constraint, why: str) -> InvalidRequestError:
    return InvalidRequestError(f"'{constraint.param}' {why}", param=constraint.param, code="unsupported_parameter")


def _answer(constraint: Constraint) -> ContentConstraint | None:
    """What an answer without calls is; None for what cannot be a part of a larger grammar.

    Raises GrammarError for a text that is not what the field takes.
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
