"""One round trip through each framework: a question, a tool call, its result (`make test-clients`)."""

from __future__ import annotations

import asyncio
import json
from typing import Literal

import pytest

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("default")]

QUESTION = "What is the weather in Paris?"
CALL = ("get_weather", {"city": "Paris"})
PLAIN = {"enable_thinking": False}


def get_weather(city: str, unit: str = "celsius") -> str:
    """Get the current weather"""
    return json.dumps({"temperature": 18, "unit": unit, "condition": "sunny", "city": city})


def test_langchain_calls_a_tool_and_streams_the_same(server, model_name):
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(
        base_url=f"{server.url}/v1", api_key="none", model=model_name, temperature=0, extra_body=PLAIN, max_retries=0
    )
    bound = model.bind_tools([get_weather])
    question = HumanMessage(QUESTION)
    answer = bound.invoke([question])
    assert [(call["name"], call["args"]["city"]) for call in answer.tool_calls] == [("get_weather", "Paris")]
    chunks = list(bound.stream([question]))
    streamed = sum(chunks[1:], chunks[0])
    assert [(call["name"], call["args"]) for call in streamed.tool_calls] == [
        (call["name"], call["args"]) for call in answer.tool_calls
    ]
    result = ToolMessage(get_weather("Paris"), tool_call_id=answer.tool_calls[0]["id"])
    assert bound.invoke([question, answer, result]).content


def test_llama_index_calls_a_tool(server, model_name):
    from llama_index.core.tools import FunctionTool
    from llama_index.llms.openai_like import OpenAILike

    model = OpenAILike(
        api_base=f"{server.url}/v1", api_key="none", model=model_name, is_chat_model=True, temperature=0, max_retries=0,
        is_function_calling_model=True, additional_kwargs={"extra_body": PLAIN}, context_window=2048,
    )  # fmt: skip
    answer = model.chat_with_tools([FunctionTool.from_defaults(get_weather)], user_msg=QUESTION)
    calls = model.get_tool_calls_from_response(answer)
    assert [(call.tool_name, call.tool_kwargs["city"]) for call in calls] == [("get_weather", "Paris")]


def test_instructor_gets_its_model(server, client, model_name):
    import instructor
    from pydantic import BaseModel

    class Weather(BaseModel):
        """Get the current weather"""

        city: Literal["Paris", "London"]

    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
        wrapped = instructor.from_openai(client, mode=mode)
        made = wrapped.chat.completions.create(
            model=model_name, messages=[{"role": "user", "content": QUESTION}], response_model=Weather, temperature=0,
            max_retries=0, extra_body=PLAIN, max_tokens=200,
        )  # fmt: skip
        assert isinstance(made, Weather)


@pytest.mark.parametrize("stream", [False, True])
def test_litellm_calls_a_tool_and_keeps_reasoning_apart(server, model_name, transcripts, stream):
    import litellm

    item = next(item for item in transcripts if item["tools"] and item["thinking"])
    answer = litellm.completion(
        model=f"openai/{model_name}", api_base=f"{server.url}/v1", api_key="none", messages=item["messages"],
        tools=item["tools"], temperature=0, stream=stream, extra_body={"enable_thinking": True}, num_retries=0,
    )  # fmt: skip
    if stream:
        answer = litellm.stream_chunk_builder(list(answer))
    message = answer.choices[0].message
    (call,) = message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == CALL
    assert message.reasoning_content.startswith("The user asks for the weather in Paris.")
    assert answer.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("api", ["OpenAIChatCompletionsModel", "OpenAIResponsesModel"])
def test_openai_agents_run_a_tool_and_answer(server, model_name, api):
    import agents

    agents.set_tracing_disabled(True)
    asked = []

    @agents.function_tool(strict_mode=False)
    def get_weather(city: str) -> str:
        """Get the current weather"""
        asked.append(city)
        return '{"temperature": 18, "unit": "celsius", "condition": "sunny"}'

    async def run():
        async with server.async_client() as client:
            agent = agents.Agent(
                "helper",
                model=getattr(agents, api)(model_name, client),
                model_settings=agents.ModelSettings(temperature=0, extra_body=PLAIN),
                tools=[get_weather],
            )
            return await agents.Runner.run(agent, QUESTION, max_turns=3)

    result = asyncio.run(run())
    assert asked == ["Paris"]
    assert result.final_output
