"""Constraints on the output: fields of several servers, compiled grammars, reasoning, errors."""

from __future__ import annotations

import json

import pytest

from llamafast.errors import CompilerBusyError, GrammarError
from llamafast.grammars.structured import StructuredKind
from llamafast.request import FinishReason, RequestOutput, TokenLogprob, Usage

from .conftest import FakeGrammar, FakeTemplate

SCHEMA = {"type": "object", "properties": {"z": {"type": "integer"}, "a": {"enum": ["é", None]}}}
TEXT = '{"type":"object","properties":{"z":{"type":"integer"},"a":{"enum":["é",null]}}}'
NAMED = {"name": "thing", "schema": SCHEMA}
APIS = pytest.mark.parametrize("api", ["chat", "complete"])

FIELDS = [
    ({"response_format": {"type": "json_object"}}, "json_object", "", "response_format"),
    (
        {"response_format": {"type": "json_object", "schema": SCHEMA}}, "json_schema", TEXT,
        "response_format.schema",
    ),
    (
        {"response_format": {"type": "json_schema", "schema": SCHEMA}}, "json_schema", TEXT,
        "response_format.schema",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": NAMED}}, "json_schema", TEXT,
        "response_format.json_schema.schema",
    ),
    ({"structured_outputs": {"json": SCHEMA}}, "json_schema", TEXT, "structured_outputs.json"),
    ({"structured_outputs": {"json": "{ }", "regex": None}}, "json_schema", "{ }", "structured_outputs.json"),
    ({"structured_outputs": {"json_object": True}}, "json_object", "", "structured_outputs.json_object"),
    ({"structured_outputs": {"regex": "a+"}}, "regex", "a+", "structured_outputs.regex"),
    ({"structured_outputs": {"choice": ["é", "b"]}}, "choice", '["é","b"]', "structured_outputs.choice"),
    ({"structured_outputs": {"grammar": "root ::= x"}}, "gbnf", "root ::= x", "structured_outputs.grammar"),
    ({"guided_json": SCHEMA}, "json_schema", TEXT, "guided_json"),
    ({"guided_json": TEXT}, "json_schema", TEXT, "guided_json"),
    ({"guided_regex": "a+"}, "regex", "a+", "guided_regex"),
    ({"guided_choice": ["a"]}, "choice", '["a"]', "guided_choice"),
    ({"guided_grammar": "root ::= x"}, "gbnf", "root ::= x", "guided_grammar"),
    ({"grammar": "root ::= x"}, "gbnf", "root ::= x", "grammar"),
    ({"json_schema": False}, "json_schema", "false", "json_schema"),
]  # fmt: skip


def error_of(response) -> dict:
    assert response.status_code == 400, response.text
    return response.json()["error"]


@APIS
@pytest.mark.parametrize(("fields", "kind", "text", "param"), FIELDS)
def test_constraint_reaches_the_engine_with_its_grammar(server, api, fields, kind, text, param):
    assert getattr(server, api)(**fields).status_code == 200
    (request,) = server.engine.requests
    structured = request.params.structured
    is_strict = fields.get("response_format", {}).get("type") != "json_schema"
    assert (structured.kind.value, structured.text, structured.strict) == (kind, text, is_strict)
    assert structured.start_after == ()
    assert server.engine.compiled == [structured]
    assert request.grammar is server.engine.grammar


@APIS
@pytest.mark.parametrize(("fields", "kind", "text", "param"), FIELDS)
def test_constraint_that_does_not_compile_names_the_clients_field(server, api, fields, kind, text, param):
    server.engine.grammar = GrammarError("'$ref' cannot be enforced", param="structured")
    error = error_of(getattr(server, api)(**fields))
    assert (error["param"], error["code"], error["type"]) == (param, "invalid_grammar", "invalid_request_error")
    assert "'$ref' cannot be enforced" in error["message"]
    assert server.engine.requests == []


@APIS
def test_constraint_that_cannot_be_compiled_now_gets_503_with_retry_after(server, api):
    server.engine.grammar = CompilerBusyError("grammars are waiting to be compiled", retry_after=2.5)
    response = getattr(server, api)(guided_json=SCHEMA)
    assert (response.status_code, response.headers["retry-after"]) == (503, "3")
    assert response.json()["error"]["code"] == "compiler_busy"


@pytest.mark.parametrize("stream", [True, False])
def test_constraint_that_fails_while_it_runs_names_the_clients_field(server, events, stream):
    error = GrammarError("nothing is allowed")
    server.engine.reply = lambda request: [
        [RequestOutput(request.request_id, 0, "", [], None, FinishReason.ERROR, usage=Usage(1, 0), error=error)]
    ]
    response = server.complete(guided_json=SCHEMA, stream=stream)
    shown = events(response.content)[-1]["error"] if stream else error_of(response)
    assert (shown["param"], shown["code"]) == ("guided_json", "invalid_grammar")


def test_constraint_error_that_quotes_it_all_is_cut(server):
    server.engine.grammar = GrammarError("x" * 10**6)
    assert len(error_of(server.chat(guided_regex="x"))["message"]) < 2000


@APIS
@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "text"}},
        {"structured_outputs": {}},
        {"structured_outputs": {"json_object": False, "whitespace_pattern": None, "disable_fallback": True}},
        {"grammar": ""},
        {"grammar_lazy": False},
        {"guided_decoding_backend": "auto"},
        {"response_format": None, "guided_json": None},
    ],
)
def test_constraint_fields_that_ask_for_nothing_are_taken(server, api, fields):
    assert getattr(server, api)(**fields).status_code == 200
    assert server.engine.requests[0].params.structured is None
    assert server.engine.compiled == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "json_schema", "json_schema": 5}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": "{}"}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {**NAMED, "strict": "no"}}},
            "response_format.json_schema.strict",
        ),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": "json_object"}, "response_format"),
        ({"structured_outputs": {"choice": "ab"}}, "structured_outputs.choice"),
        ({"structured_outputs": {"choice": ["a", 1]}}, "structured_outputs.choice[1]"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag"),
        (
            {"structured_outputs": {"json": {}, "disable_any_whitespace": True}},
            "structured_outputs.disable_any_whitespace",
        ),
        ({"guided_json": 5}, "guided_json"),
        ({"guided_regex": 5}, "guided_regex"),
        ({"guided_choice": "ab"}, "guided_choice"),
        ({"guided_whitespace_pattern": " "}, "guided_whitespace_pattern"),
        ({"structured_outputs": {"json": {}, "whitespace_pattern": " "}}, "structured_outputs.whitespace_pattern"),
        ({"structured_outputs": {"jsn": {}}}, "structured_outputs.jsn"),
        ({"json_schema": "{}"}, "json_schema"),
        ({"grammar": {"root": "x"}}, "grammar"),
        ({"grammar": "root ::= x", "grammar_lazy": True}, "grammar_lazy"),
        ({"regex": "a"}, "regex"),
        ({"guided_regex": "a", "guided_json": {}}, "guided_regex"),
        ({"response_format": {"type": "json_object"}, "grammar": "root ::= x"}, "grammar"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
        ({"structured_outputs": {"json": {}, "json_object": True}}, "structured_outputs.json_object"),
    ],
)
def test_constraint_that_makes_no_sense_is_refused_by_name(server, fields, param):
    assert error_of(server.chat(**fields))["param"] == param
    assert server.engine.compiled == []


def test_constraint_nested_beyond_json_is_refused_by_name(server):
    schema = '{"not":' * 400 + "true" + "}" * 400
    body = f'{{"prompt": "Hi", "guided_json": {schema}}}'
    error = error_of(server.call("POST", "/v1/completions", content=body))
    assert (error["param"], error["code"]) == ("guided_json", "invalid_grammar")


@pytest.mark.parametrize(("strict", "expected"), [(True, True), (False, False), (None, False)])
def test_response_format_is_strict_only_if_it_says_so(server, strict, expected):
    server.chat(response_format={"type": "json_schema", "json_schema": {**NAMED, "strict": strict}})
    server.chat(response_format={"type": "json_schema", "schema": SCHEMA, "strict": strict})
    assert [request.params.structured.strict for request in server.engine.requests] == [expected] * 2


@pytest.mark.parametrize("fields", [{"guided_json": SCHEMA}, {"json_schema": SCHEMA}])
def test_schema_in_a_field_of_its_own_is_strict(server, fields):
    server.chat(**fields)
    assert server.engine.requests[0].params.structured.strict


@APIS
@pytest.mark.parametrize("stream", [True, False])
def test_lenient_schema_dropped_keywords_are_in_a_warning_header(make_server, api, stream):
    server = make_server()
    server.engine.grammar.warnings = ('"é"\r\nx-evil: 1', "b\\")
    format_ = {"type": "json_schema", "json_schema": {**NAMED, "strict": False}}
    headers = getattr(server, api)(response_format=format_, stream=stream).headers
    assert headers["warning"] == (
        '299 llamafast "response_format.json_schema.schema: not enforced: \\"?\\"??x-evil: 1; b\\\\"'
    )
    assert "x-evil" not in headers


def test_answers_without_warnings_have_no_warning_header(server):
    assert "warning" not in server.chat(json_schema=SCHEMA).headers


def test_each_prompt_of_a_completion_shares_one_grammar(server):
    server.complete(prompt=["a", "b"], n=2, guided_regex="x")
    assert [request.grammar for request in server.engine.requests] == [server.engine.grammar] * 2
    assert len(server.engine.compiled) == 1


def open_reasoning(server):
    server.template.render = lambda messages, /, **kwargs: "<|im_start|>assistant\n<think>\n"
    return server


def test_reasoning_prompt_starts_the_constraint_after_the_tag(server):
    open_reasoning(server).chat(guided_regex="x")
    (request,) = server.engine.requests
    assert request.params.structured.start_after == (298,)
    assert (request.skip_special, request.shown_ids) == (True, {298})


def test_reasoning_tag_that_is_text_leaves_control_tokens_out(make_server, monkeypatch):
    server = make_server()
    monkeypatch.setattr(type(server.engine.tokenizer), "shows_think", True)
    server = make_server()
    open_reasoning(server).chat(guided_regex="x")
    request = server.engine.requests[0]
    assert (request.skip_special, request.shown_ids) == (True, frozenset())


def server_of(make_server, source):
    """A server with a model that writes the format of this template."""
    template = FakeTemplate()
    template.source = source
    return make_server(chat_template=template)


def test_reasoning_tag_of_several_tokens_is_a_part_of_the_grammar(server):
    server.engine.tokenizer.has_think = False
    open_reasoning(server).chat(guided_regex="x+")
    (structured,) = server.engine.compiled
    assert (structured.kind, structured.start_after) == (StructuredKind.LARK, ())
    assert json.loads(structured.text)["regexes"] == {"p2": ["x+", "guided_regex"]}


def test_grammar_after_a_reasoning_tag_of_several_tokens_is_refused(server):
    server.engine.tokenizer.has_think = False
    assert error_of(open_reasoning(server).chat(grammar="root ::= x"))["param"] == "grammar"


@pytest.mark.parametrize(
    ("source", "fields", "kind"),
    [
        ("<think>{{ x }}", {"guided_choice": ["a", ""]}, "lark"),
        ("<think>{{ x }}", {"grammar": "root ::= x"}, "gbnf"),
        ("<think>{{ x }}", {"guided_json": SCHEMA, "continue_final_message": True}, "json_schema"),
        ("<|channel|><|message|><|start|>", {"response_format": {"type": "json_object"}}, "lark"),
        ("<|channel|><|message|><|start|>", {"guided_regex": "a", "continue_final_message": True}, "regex"),
        ("<tool_call>", {"guided_json": SCHEMA}, "json_schema"),
    ],
)
def test_constraint_begins_after_the_header_of_the_content(make_server, source, fields, kind):
    server = server_of(make_server, source)
    messages = [{"role": "assistant", "content": "Hi"}]
    assert server.post("/v1/chat/completions", {"messages": messages, **fields}).status_code == 200
    assert server.engine.compiled[0].kind.value == kind


def test_grammar_in_a_frame_is_refused(make_server):
    server = server_of(make_server, "<|channel|><|message|><|start|>")
    assert error_of(server.chat(grammar="root ::= x"))["param"] == "grammar"


def test_answer_in_a_frame_that_does_not_compile_names_the_clients_field(make_server):
    server = server_of(make_server, "<think>{{ x }}")
    server.engine.grammar = GrammarError("not this")
    assert error_of(server.chat(json_schema=SCHEMA))["param"] == "json_schema"


def test_answer_after_reasoning_names_its_field_in_the_warning(make_server):
    server = server_of(make_server, "<think>{{ x }}")
    server.engine.grammar = FakeGrammar(("'not'",))
    assert "json_schema: not enforced" in server.chat(json_schema=SCHEMA).headers["warning"]


def _thoughtful(request):
    """An answer with reasoning, a closing tag and JSON, in tokens with arbitrary cuts."""
    pieces = [("hm", 1), (",\n", 2), ("so</thi", 3), ("", 4), ("nk>", 298), ('{"a"', 5), (":1}", 6)]
    outputs, offset = [], 0
    for text, token_id in pieces:
        entry = TokenLogprob(token_id, -float(token_id), text.encode(), offset)
        offset += len(text)
        outputs.append([RequestOutput(request.request_id, 0, text, [token_id], [entry])])
    outputs[-1][0].finish_reason = FinishReason.STOP
    outputs[-1][0].usage = Usage(3, len(pieces))
    return outputs


def test_reasoning_of_a_constrained_chat_is_not_in_its_content(server):
    server.engine.reply = _thoughtful
    answer = open_reasoning(server).chat(guided_regex="x", logprobs=True).json()
    (choice,) = answer["choices"]
    assert choice["message"] == {
        "role": "assistant", "content": '{"a":1}', "refusal": None, "reasoning_content": "hm,\nso",
        "reasoning": "hm,\nso",
    }  # fmt: skip
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == ['{"a"', ":1}"]
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 5}


def test_reasoning_streamed_equals_whole(server, events):
    server.engine.reply = _thoughtful
    fields = {"guided_regex": "x", "logprobs": True, "stream_options": {"include_usage": True}}
    *chunks, usage, _ = events(open_reasoning(server).chat(**fields, stream=True).content)
    del fields["stream_options"]
    answer = server.chat(**fields).json()
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    for name in ("content", "reasoning_content"):
        assert "".join(delta.get(name, "") for delta in deltas) == answer["choices"][0]["message"][name]
    logprobs = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    streamed = [entry for item in logprobs if item for entry in item["content"]]
    assert streamed == answer["choices"][0]["logprobs"]["content"]
    assert usage["usage"] == answer["usage"]
    assert deltas[1] == {"reasoning_content": "hm", "reasoning": "hm"}


def test_reasoning_that_never_ends_is_no_content(server, events):
    server.engine.reply = lambda request: [
        [RequestOutput(request.request_id, 0, "hm </th", [1], finish_reason=FinishReason.LENGTH, usage=Usage(1, 1))]
    ]
    message = open_reasoning(server).chat(guided_regex="x").json()["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("", "hm </th")
    *chunks, _ = events(server.chat(guided_regex="x", stream=True).content)
    assert "".join(c["choices"][0]["delta"].get("reasoning_content", "") for c in chunks) == "hm </th"


def test_openapi_documents_the_constraints(server):
    schemas = server.get("/openapi.json").json()["components"]["schemas"]
    names = {"response_format", "structured_outputs", "guided_json", "guided_regex", "grammar", "json_schema"}
    for body in ("ChatBody", "CompletionBody"):
        assert names <= set(schemas[body]["properties"])
    assert {"name", "schema", "strict"} <= set(schemas["JsonSchemaFormat"]["properties"])
