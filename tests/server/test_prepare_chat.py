"""prepare_chat is the same for all APIs; rendering a prompt needs no engine."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from llamafast.chat.formats.qwen3_xml import Qwen3Xml
from llamafast.chat.prompt.template import TemplateError
from llamafast.chat.prompt.turns import TrustedText
from llamafast.chat.tools import Tool
from llamafast.errors import ContextLengthError, GrammarError, InvalidRequestError
from llamafast.grammars.structured import StructuredKind, StructuredOutput
from llamafast.request import PromptPlaces, SamplingParams
from llamafast.server.chat.field_names import FieldNames
from llamafast.server.chat.prepare import PreparedChat, draft_chat, prepare_chat
from llamafast.server.chat.prompt import chat_prompt
from llamafast.server.chat.request import ChatRequest, ReasoningSettings, ToolPolicy
from llamafast.server.constraint import OutputConstraint
from llamafast.server.schemas.chat import ChatBody
from llamafast.server.served_model import ServedModel
from llamafast.server.state import ServerSettings, ServerState

from .conftest import FakeGrammar

USER = {"role": "user", "content": "Hi"}
LONG = {"role": "user", "content": "word " * 40}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
TOOLS = ToolPolicy((Tool("weather"),), (WEATHER,))
# The field names of another API.
NAMES = FieldNames(
    {"messages": "input", "thinking_budget": "thinking.budget_tokens", "parameters": "input_schema"},
    messages=("instructions", "input[0]"),
    functions=("tools[3]",),
)


def chat(*messages, **fields) -> ChatRequest:
    return ChatRequest(messages or (USER,), lambda tokenizer, defaults: SamplingParams(**defaults), **fields)


@pytest.fixture
def served(server) -> ServedModel:
    return server.model


async def never() -> dict:
    await asyncio.Event().wait()
    return {}


def prepared(served, request) -> PreparedChat:
    state = ServerState([served], ServerSettings())
    return asyncio.run(prepare_chat(state, draft_chat(served, request), "chat-1", never))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"messages": [{"role": "system", "content": "Be kind."}, LONG, {"role": "assistant", "content": "Yes."}, USER]},
        {"messages": [LONG], "cache_prompt": False},
        {"messages": [USER, {"role": "assistant", "content": "So"}], "continue_final_message": True},
        {"messages": [LONG], "tools": [WEATHER], "tool_choice": "required"},
        {"tools": [WEATHER], "tool_choice": "none"},
        {"functions": [WEATHER["function"]]},
        {"reasoning_effort": "none", "chat_template_kwargs": {"x": 1}},
        {"guided_choice": ["a", "b"], "add_generation_prompt": False},
    ],
    ids=str,
)
def test_chat_prompt_is_what_the_route_gives_the_engine(server, served, fields):
    body = {"messages": [USER], **fields}
    assert server.post("/v1/chat/completions", body).status_code == 200
    prompt = chat_prompt(served, ChatBody.model_validate(body).to_chat_request())
    (request,) = server.engine.requests
    assert (prompt.token_ids, prompt.places) == (request.prompt_token_ids, request.places)
    first, second = server.template.calls
    assert first == second


def test_chat_prompt_text_is_the_text_of_its_tokens(server, served):
    prompt = chat_prompt(served, chat(USER, {"role": "assistant", "content": "<think>So"}, continue_final_message=True,
                                     add_generation_prompt=False))  # fmt: skip
    assert server.engine.tokenizer.decode(prompt.token_ids) == prompt.text
    assert prompt.answer_context == prompt.text + "<think>"


def test_prepare_chat_of_a_record_without_a_body_fills_the_engines_request(server, served):
    request = chat(LONG, cache={"cache_salt": "a", "priority": 2, "n_keep": 3}, skip_special=False)
    ready = prepared(served, replace(request, reasoning=ReasoningSettings(budget=7)))
    given = ready.engine_request
    assert (given.request_id, given.prompt_token_ids, given.places) == (
        "chat-1", ready.prompt.token_ids, ready.prompt.places
    )  # fmt: skip
    assert (given.cache_salt, given.use_cache, given.priority, given.n_keep) == ("a", True, 2, 3)
    assert (given.skip_special, given.match_stops, given.params.reasoning_budget.max_tokens) == (False, False, 7)
    assert (ready.warnings, ready.constraint_param) == ((), None)


def test_draft_chat_takes_the_models_sampling_defaults(make_server):
    server = make_server(sampling={"top_k": 5})
    assert draft_chat(server.model, chat()).params.top_k == 5


def test_prepare_chat_reads_the_answer_as_the_record_says(served):
    request = replace(
        chat(tools=replace(TOOLS, is_parallel=False), reasoning=ReasoningSettings(is_shown=False)),
        sampling=lambda tokenizer, defaults: SamplingParams(stop=("END",), include_stop=True, min_tokens=2),
    )
    options = prepared(served, request).read_options
    assert (options.stops, options.include_stop, options.min_tokens) == (("END",), True, 2)
    assert (options.calls, options.is_parallel, options.shows_reasoning) == (True, False, False)


def test_prepare_chat_collects_the_warnings_of_all_stages(server, served):
    server.engine.grammar = FakeGrammar(("format",))
    constraint = OutputConstraint("text.format", StructuredOutput(StructuredKind.JSON_SCHEMA, "{}"))
    ready = prepared(served, chat(constraint=constraint, warnings=("tools[0]: this kind of tool is left out",)))
    assert ready.warnings == ("tools[0]: this kind of tool is left out", "text.format: not enforced: format")
    assert ready.constraint_param == "text.format"


def refuse(messages, /, **kwargs):
    if any(message["content"] == "bad" for message in messages):
        raise TemplateError("no")
    return "text"


def test_chat_prompt_that_the_template_refuses_names_the_clients_message(server, served):
    server.template.render = refuse
    with pytest.raises(InvalidRequestError, match=r"^input\[0\]: the chat template refuses") as caught:
        chat_prompt(served, chat(USER, {"role": "user", "content": "bad"}, names=NAMES))
    assert caught.value.param == "input[0]"


def test_chat_prompt_that_is_too_long_names_the_clients_field(served):
    with pytest.raises(ContextLengthError, match=r"^input has at least") as caught:
        chat_prompt(served, chat({"role": "user", "content": "x" * 9999}, names=NAMES))
    assert caught.value.param == "input"


def test_prepare_chat_of_a_tool_that_cannot_be_enforced_names_the_clients_schema(server, served):
    server.engine.grammar = GrammarError("no such keyword", param="tools[0].function.parameters")
    request = chat(tools=replace(TOOLS, is_required=True), names=NAMES)
    with pytest.raises(GrammarError, match=r"^tools\[3\].input_schema: no such keyword") as caught:
        prepared(served, request)
    assert caught.value.param == "tools[3].input_schema"


def test_prepare_chat_with_a_budget_of_a_model_without_reasoning_names_the_clients_field(make_server):
    class WithoutReasoning(Qwen3Xml):
        reasoning = None

    served = make_server(chat_format=WithoutReasoning()).model
    request = chat(reasoning=ReasoningSettings(budget=5), names=NAMES)
    with pytest.raises(InvalidRequestError, match=r"'thinking.budget_tokens'") as caught:
        prepared(served, request)
    assert caught.value.param == "thinking.budget_tokens"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (ReasoningSettings(), {}),
        (ReasoningSettings("low"), {"reasoning_effort": "low", "enable_thinking": True}),
        (ReasoningSettings("minimal"), {"reasoning_effort": "minimal", "enable_thinking": False}),
        (ReasoningSettings("high", is_enabled=False), {"reasoning_effort": "high", "enable_thinking": False}),
        (ReasoningSettings(is_enabled=True), {"enable_thinking": True}),
    ],
)
def test_reasoning_settings_set_the_variables_that_the_template_reads(settings, expected):
    variables = settings.variables({"enable_thinking"})
    assert variables == expected
    assert type(variables.get("reasoning_effort", TrustedText())) is TrustedText


def test_prompt_places_have_a_head_turns_and_an_end():
    places = PromptPlaces.of((4, 9, 20))
    assert (places.head, places.turns, places.end, places.boundaries) == (4, (9, 20), 20, (4, 9, 20))
    assert PromptPlaces.of(()) is None
