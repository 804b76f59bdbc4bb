"""What the answer of a chat is held to: its constraint and its thinking budget."""

from __future__ import annotations

from dataclasses import replace

import orjson

from llamafast.errors import GrammarError, InvalidRequestError
from llamafast.parsing.output_grammar import CallRules
from llamafast.request import ReasoningBudget, StructuredKind
from llamafast.server.deps import ServerState
from llamafast.server.prompt import ChatPrompt
from llamafast.server.schemas.chat import ChatBody
from llamafast.server.schemas.structured import Constraint
from llamafast.server.schemas.tools import ToolUse
from llamafast.server.structured import (
    Compiled,
    compile_calls,
    compile_constraint,
    end_of_reasoning,
    reasoning_budget,
)


async def compile_rules(
    state: ServerState, constraint: Constraint | None, use: ToolUse, prompt: ChatPrompt
) -> Compiled:
    """The constraint on an answer: calls, where a call is required or enforced; else what a field says.

    With both, the answer is calls or that JSON. Raises InvalidRequestError or GrammarError, naming the client's field.
    """
    chat_format = state.chat_format
    if use.is_enforced or (use.tools and constraint is not None):
        schema = None if constraint is None or use.is_required else _answer_schema(constraint)
        rules = CallRules(use.is_required, use.is_parallel, use.names, schema)
        if constraint is not None:
            rules = replace(rules, answer_param=constraint.param, answer_strict=constraint.structured.strict)
        try:
            return await compile_calls(state.engine, chat_format, prompt.text, use.tools, rules)
        except GrammarError as exc:
            if not use.is_legacy or exc.param is None:
                raise
            param = exc.param.replace("tools[", "functions[").replace(".function.", ".")
            param = param.replace("tool_choice", "function_call")
            raise GrammarError(exc.message.replace(exc.param, param), param=param, code=exc.code) from exc
    start_after: tuple[int, ...] = ()
    if constraint is not None and prompt.is_reasoning and chat_format.reasoning is not None:
        start_after = (end_of_reasoning(state.engine, constraint, chat_format.reasoning.close),)
    return await compile_constraint(state.engine, constraint, start_after=start_after)


def thinking_budget(state: ServerState, body: ChatBody, prompt: ChatPrompt) -> ReasoningBudget | None:
    """The limit on the reasoning: the request's, else the operator's. Raises InvalidRequestError."""
    wanted, settings, tags = body.budget, state.settings, state.chat_format.reasoning
    if tags is None and wanted is not None and wanted >= 0:
        name = body.param_names.get("thinking_budget", "thinking_budget")
        raise InvalidRequestError(f"'{name}': this model writes no reasoning that could be limited", param=name)
    limit = settings.reasoning_budget if wanted is None else wanted
    if tags is None or limit is None or limit < 0:
        return None
    closing = settings.reasoning_budget_message
    closing = closing if tags.close in closing else f"{closing}{tags.close}\n\n"
    return reasoning_budget(state.engine, limit, tags, closing, is_open=prompt.is_reasoning)


def _answer_schema(constraint: Constraint) -> dict[str, object] | bool:
    """The JSON Schema of an answer without calls. Raises InvalidRequestError for a constraint of another kind."""
    structured = constraint.structured
    if structured.kind is StructuredKind.JSON_OBJECT:
        return {"type": "object"}
    if structured.kind is not StructuredKind.JSON_SCHEMA:
        raise InvalidRequestError(
            f"'{constraint.param}' cannot go with tools: beside calls an answer can only be held to a JSON Schema",
            param=constraint.param,
            code="unsupported_parameter",
        )
    try:
        schema: object = orjson.loads(structured.text)
    except orjson.JSONDecodeError as exc:
        raise GrammarError(f"{constraint.param}: the schema is not JSON: {exc}", param=constraint.param) from exc
    if not isinstance(schema, (dict, bool)):
        raise GrammarError(f"{constraint.param}: a schema is an object or a boolean", param=constraint.param)
    return schema
