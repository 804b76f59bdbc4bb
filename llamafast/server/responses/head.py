"""The response object before its answer: the fields that repeat the request."""

from __future__ import annotations

from collections.abc import Mapping

from llamafast.server.answers.formatter import JsonObject
from llamafast.server.responses.reading import AskedResponse

_FUNCTION_FIELDS = ("name", "description", "parameters", "strict")


def response_head(asked: AskedResponse, response_id: str, created_at: int, *, is_stored: bool) -> JsonObject:
    """All fields of the response object. Those that are not known yet are null; clients require all of them.

    is_stored: what `store` says.
    """
    body, params = asked.body, asked.draft.params
    text = body.text
    form: JsonObject = {"type": "text"}
    if text is not None and text.format is not None:
        form = text.format.model_dump(by_alias=True, exclude_unset=True)
    reasoning = asked.draft.request.reasoning
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "status": "in_progress",
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "background": body.background,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata,
        "model": asked.served.names.shown(body.model),
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": reasoning.effort, "summary": body.reasoning and body.reasoning.summary},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": is_stored,
        "temperature": params.temperature,
        "text": {"format": form, "verbosity": (text and text.verbosity) or "medium"},
        "tool_choice": body.tool_choice,
        "tools": [_shown(tool) for tool in asked.table.kept],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": params.top_p,
        "truncation": body.truncation,
        "usage": None,
        "user": body.user,
    }


def _shown(tool: Mapping[str, object]) -> JsonObject:
    """A tool of the request; functions with all the fields that clients require."""
    if tool.get("type") != "function":
        return dict(tool)
    return {**dict.fromkeys(_FUNCTION_FIELDS), **tool}
