"""Structured output against the real server: openai's parse(), every field, streamed and whole."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Literal

import httpx
import jsonschema
import pytest
from pydantic import BaseModel, Field

from .conftest import Server, post

THINKING = pytest.mark.parametrize("thinking", [False, True])
NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


class Person(BaseModel):
    name: str
    age: int


class Capital(BaseModel):
    country: str
    capital: str


class Verdict(BaseModel, extra="forbid"):
    size: Literal["big", "small"]
    tags: list[Literal["a", "b"]] = Field(max_length=3)
    year: int | None


TASKS = pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("Give me a JSON object with name Anna and age 7.", Person(name="Anna", age=7)),
        ("Give me the capital of Spain as JSON.", Capital(country="Spain", capital="Madrid")),
    ],
)


def asking(model_name, text, thinking=False, **options):
    return {
        "model": model_name,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 200,
        "extra_body": {"chat_template_kwargs": {"enable_thinking": thinking}},
        **options,
    }


@TASKS
@THINKING
def test_parse_of_a_task_gives_the_right_object(client, model_name, task, expected, thinking):
    answer = client.chat.completions.parse(
        **asking(model_name, task, thinking, max_tokens=60), response_format=type(expected)
    )
    message = answer.choices[0].message
    assert message.parsed == expected
    assert (getattr(message, "reasoning_content", None) is not None) == thinking
    assert (answer.usage.completion_tokens_details.reasoning_tokens > 0) == thinking


@TASKS
@THINKING
def test_parse_streamed_gives_the_same_object(client, model_name, task, expected, thinking):
    with client.chat.completions.stream(
        **asking(model_name, task, thinking, max_tokens=60), response_format=type(expected)
    ) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == expected
    assert "".join(deltas) == final.choices[0].message.content


@pytest.mark.parametrize("part", ["tools=[", "class Capital(BaseModel)"])
def test_example_of_the_readme_prints_what_it_says(server, client, capsys, part):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (example,) = (text for text in readme.split("```python\n") if part in text.partition("```")[0])
    code = example.partition("```")[0]
    exec(code.replace("http://127.0.0.1:8000", server.url), {"__name__": "example", "client": client})
    assert capsys.readouterr().out.strip() == code.strip().rpartition("# ")[2]


def test_output_of_any_temperature_is_an_object_of_its_model(client, model_name):
    schema = {"name": "Verdict", "schema": Verdict.model_json_schema(), "strict": True}
    answer = client.chat.completions.create(
        **asking(model_name, "Hello!", temperature=1.5, seed=1, max_tokens=300, n=8),
        response_format={"type": "json_schema", "json_schema": schema},
    )
    ended = [choice.message.content for choice in answer.choices if choice.finish_reason == "stop"]
    assert ended
    assert all(Verdict.model_validate_json(text) for text in ended)


def fits_schema(text):
    return jsonschema.validate(json.loads(text), SCHEMA) is None


def is_object(text):
    return isinstance(json.loads(text), dict)


def matches(pattern):
    return lambda text: re.fullmatch(pattern, text) is not None


FIELDS = [
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}, fits_schema),
    ({"response_format": {"type": "json_object", "schema": SCHEMA}}, fits_schema),
    ({"structured_outputs": {"json": SCHEMA}}, fits_schema),
    ({"structured_outputs": {"regex": "[a-f]{3}-[0-9]{2}"}}, matches("[a-f]{3}-[0-9]{2}")),
    ({"structured_outputs": {"choice": ["Paris", "Rome"]}}, matches("Paris|Rome")),
    ({"guided_json": json.dumps(SCHEMA)}, fits_schema),
    ({"guided_regex": "x{2,4}y"}, matches("x{2,4}y")),
    ({"guided_choice": ["yes", "no", "né"]}, matches("yes|no|né")),
    ({"json_schema": SCHEMA}, fits_schema),
    ({"guided_grammar": 'root ::= "a" [0-9] [0-9]?'}, matches("a[0-9]{1,2}")),
    ({"grammar": 'root ::= item+ "."\nitem ::= "ab" | "c"'}, matches(r"(ab|c)+\.")),
]


def ask(server, api, **fields):
    """One request of either API, possibly with reasoning. Returns the choices of the whole answer."""
    if api == "completions":
        return post(server, api, prompt="The capital of France is", **fields)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    return post(server, "chat/completions", messages=messages, **fields)


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize(("fields", "fits"), FIELDS)
def test_every_field_holds_every_choice_to_it(server, api, fields, fits):
    answer = ask(server, api, **fields, n=3, temperature=1.5, seed=1, max_tokens=150)
    assert answer.status_code == 200, answer.text
    ended = [choice for choice in answer.json()["choices"] if choice["finish_reason"] == "stop"]
    assert ended
    assert all(fits(choice["text"] if "text" in choice else choice["message"]["content"]) for choice in ended)


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_json_object_is_one_or_its_beginning(server, api):
    answer = ask(server, api, response_format={"type": "json_object"}, n=4, temperature=0.5, seed=2, max_tokens=120)
    for choice in answer.json()["choices"]:
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        assert is_object(text) if choice["finish_reason"] == "stop" else text.startswith("{") or not text


def streamed(server, api, **fields):
    """The choices of a streamed answer, joined from the chunks."""
    if api == "completions":
        path, body = api, {"prompt": "The capital of France is"}
    else:
        path = "chat/completions"
        body = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
    raw = httpx.post(f"{server.url}/v1/{path}", json={**body, **fields, "stream": True}, timeout=60).text
    choices: dict[int, dict] = {}
    for line in raw.splitlines():
        if line.startswith("data: {"):
            (part,) = json.loads(line[6:])["choices"]
            choice = choices.setdefault(part["index"], {"text": "", "reasoning": "", "logprobs": [], "finish": None})
            delta = part.get("delta", part)
            choice["text"] += delta.get("text", delta.get("content", ""))
            choice["reasoning"] += delta.get("reasoning_content", "")
            choice["logprobs"] += entries(part)
            choice["finish"] = part["finish_reason"] or choice["finish"]
    return [choices[index] for index in sorted(choices)]


def entries(choice):
    logprobs = choice["logprobs"]
    if not logprobs:
        return []
    if "content" in logprobs:
        return logprobs["content"]
    return list(zip(*(logprobs[name] for name in ("tokens", "token_logprobs", "text_offset")), strict=True))


def whole(server, api, **fields):
    answer = ask(server, api, **fields)
    assert answer.status_code == 200, answer.text
    return [
        {
            "text": choice["text"] if "text" in choice else choice["message"]["content"],
            "reasoning": choice.get("message", {}).get("reasoning_content", ""),
            "logprobs": entries(choice),
            "finish": choice["finish_reason"],
        }
        for choice in answer.json()["choices"]
    ]


@pytest.fixture(scope="module")
def forgetful_server():
    """A server without a prefix cache: cached prefixes change the logits of the next request by rounding."""
    with Server("--threads", "1", "--no-prefix-cache") as running:
        yield running


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize("seed", range(8))
def test_streamed_answer_equals_the_whole_one(forgetful_server, api, seed):
    rng = random.Random(seed)
    fields, _ = rng.choice(FIELDS)
    options = {"n": rng.randint(1, 3), "temperature": rng.choice([0, 0.9, 1.5]), "seed": seed, "max_tokens": 60}
    if rng.random() < 0.5:
        options["stop"] = rng.sample(["e", "1", '",', "is", "ab", "}"], 2)
    if rng.random() < 0.5:
        options |= {"logprobs": 2} if api == "completions" else {"logprobs": True, "top_logprobs": 2}
    if api == "chat":
        options |= {"chat_template_kwargs": {"enable_thinking": rng.random() < 0.5}}
    assert streamed(forgetful_server, api, **fields, **options) == whole(forgetful_server, api, **fields, **options)


def test_stop_string_cuts_the_content(server):
    (choice,) = whole(server, "completions", guided_choice=["Paris"], stop="r", temperature=0)
    assert (choice["text"], choice["finish"]) == ("Pa", "stop")


def test_logprobs_are_those_of_the_content(server):
    (choice,) = whole(server, "chat", guided_choice=["Paris"], logprobs=True, temperature=0)
    assert "".join(entry["token"] for entry in choice["logprobs"]) == choice["text"] == "Paris"
    assert choice["reasoning"]


def test_lenient_schema_warns_and_a_strict_one_is_refused(server):
    loose = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    named = {"name": "x", "schema": loose, "strict": False}
    answer = ask(server, "chat", response_format={"type": "json_schema", "json_schema": named}, max_tokens=3)
    assert "uniqueItems" in answer.headers["warning"]
    named["strict"] = True
    answer = ask(server, "chat", response_format={"type": "json_schema", "json_schema": named}, max_tokens=3)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "response_format.json_schema.schema")
