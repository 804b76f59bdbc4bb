"""template_messages: an answer becomes one turn, calls have objects, and fields are where the template reads them."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest

from llamafast.chat.prompt.history import content_text, template_messages
from llamafast.chat.prompt.template_traits import TemplateTraits
from llamafast.errors import InvalidRequestError

TRAITS = TemplateTraits()
USER = {"role": "user", "content": "Hi"}


def call(call_id="call_1", name="look", arguments='{"at": "it"}'):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def result(call_id="call_1", content="found", **fields):
    return {"role": "tool", "tool_call_id": call_id, "content": content, **fields}


def assistant(content=None, **fields):
    return {"role": "assistant", "content": content, **fields}


def seen(*messages, **traits):
    return template_messages(messages, replace(TRAITS, **traits))


def names(messages):
    return [[c["function"]["name"] for c in m["tool_calls"]] if "tool_calls" in m else m["role"] for m in messages]


def test_history_plain_messages_stay_and_nulls_go():
    messages = [{"role": "system", "content": "Be kind."}, {**USER, "name": "ann", "audio": None}, assistant("Yes.")]
    assert seen(*messages) == [messages[0], {**USER, "name": "ann"}, {"role": "assistant", "content": "Yes."}]


def test_history_changes_no_message():
    messages = [USER, assistant(None, tool_calls=[call(), call("call_2")]), result("call_2"), result(), USER]
    before = copy.deepcopy(messages)
    seen(*messages, single_calls=True, short_ids=True, text_arguments=True)
    assert messages == before


def test_history_arguments_are_objects_with_every_type():
    (message,) = seen(assistant(None, tool_calls=[call(arguments='{"a": [true, null, 1.5, {"ü": "\\n"}]}')]))
    assert message["tool_calls"][0]["function"]["arguments"] == {"a": [True, None, 1.5, {"ü": "\n"}]}


@pytest.mark.parametrize(("given", "expected"), [(' {"a": 1}', '{"a": 1}'), ({"a": "é"}, '{"a": "é"}'), ("", "{}")])
def test_history_arguments_are_text_where_the_template_wants_text(given, expected):
    (message,) = seen(assistant(None, tool_calls=[call(arguments=given)]), text_arguments=True)
    assert message["tool_calls"][0]["function"]["arguments"] == expected


RAW = ["{", '{"path": "/srv/no', "[]", "5", "true", '"text"', '{"a": NaN}', "[" * 100_000, '{"a": "\\ud800"}', " x "]


@pytest.mark.parametrize("arguments", RAW)
def test_history_arguments_that_are_no_object_are_shown_as_they_are(arguments):
    def shown(**traits):
        (_, message) = seen(USER, assistant(None, tool_calls=[call(arguments=arguments)]), **traits)
        return message["tool_calls"][0]["function"]["arguments"]

    assert shown(text_arguments=True) == arguments
    assert shown(raw_arguments=True) == arguments
    assert shown() == {"arguments": arguments}


@pytest.mark.parametrize("arguments", ["", " \n", "null", " null ", '""', '"null"', None])
def test_history_arguments_of_nothing_are_an_empty_object(arguments):
    (message,) = seen(assistant(None, tool_calls=[call(arguments=arguments)]))
    assert message["tool_calls"][0]["function"]["arguments"] == {}


def test_history_arguments_that_were_encoded_twice_are_an_object():
    given = json.dumps(json.dumps({"a": "b"}))
    (message,) = seen(assistant(None, tool_calls=[call(arguments=given)]))
    assert message["tool_calls"][0]["function"]["arguments"] == {"a": "b"}
    (message,) = seen(assistant(None, tool_calls=[call(arguments=given)]), text_arguments=True)
    assert message["tool_calls"][0]["function"]["arguments"] == '{"a": "b"}'


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking", "thought"])
def test_history_reasoning_stands_where_the_template_reads_it(name, field):
    assert seen(assistant("So.", **{name: "hm"}), reasoning_field=field) == [
        {"role": "assistant", "content": "So.", field: "hm"}
    ]


def test_history_reasoning_that_no_template_field_takes_is_left_out():
    assert seen(assistant("So.", reasoning="hm"), reasoning_field=None) == [{"role": "assistant", "content": "So."}]


def test_history_reasoning_is_a_part_where_the_template_reads_parts_of_thinking():
    (message,) = seen(assistant("So.", reasoning="hm"), reasoning_field=None, reasoning_parts=True)
    assert message["content"] == [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "So."}]


def test_history_reasoning_joins_the_text_where_calls_take_only_one():
    (message,) = seen(assistant("So.", reasoning="hm", tool_calls=[call()]), joins_reasoning=True)
    assert (message["content"], message["reasoning_content"]) == ("", "hm\n\nSo.")


def test_history_pieces_of_one_answer_are_one_turn():
    pieces = [
        assistant(reasoning="hm"),
        assistant("So."),
        assistant(tool_calls=[call()]),
        assistant(tool_calls=[call("2")]),
    ]
    messages = seen(USER, *pieces, result(), result("2"))
    assert [m["role"] for m in messages] == ["user", "assistant", "tool", "tool"]
    assert (messages[1]["reasoning_content"], messages[1]["content"]) == ("hm", "So.")
    assert [c["id"] for c in messages[1]["tool_calls"]] == ["call_1", "2"]


@pytest.mark.parametrize(
    "pair",
    [
        (assistant("a"), assistant("b")),
        (assistant(tool_calls=[call()]), assistant("b")),
        (assistant("a"), assistant(reasoning="hm")),
        (assistant("a"), assistant("")),
    ],
)
def test_history_answers_that_are_not_one_stay_apart(pair):
    assert len(seen(USER, *pair)) == 3


def test_history_developer_is_system_but_for_templates_that_know_it():
    message = {"role": "developer", "content": "Be kind."}
    assert [m["role"] for m in seen(message)] == ["system"]
    assert [m["role"] for m in seen(message, knows_developer=True)] == ["developer"]


def test_history_parts_are_lines_but_for_templates_that_read_parts():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert seen({"role": "user", "content": parts})[0]["content"] == "a\nb"
    assert seen({"role": "user", "content": parts}, part_roles=frozenset({"user"}))[0]["content"] == parts


def test_history_text_is_a_part_for_templates_that_read_only_parts():
    (message,) = seen(USER, part_roles=frozenset({"user"}), text_roles=frozenset())
    assert message["content"] == [{"type": "text", "text": "Hi"}]


def test_history_content_beside_calls_is_null_only_where_the_template_needs_it():
    (message,) = seen(assistant(None, tool_calls=[call()]))
    assert message["content"] == ""
    (message,) = seen(assistant("", tool_calls=[call()]), null_content=True)
    assert message["content"] is None


def test_history_text_beside_calls_is_a_turn_of_its_own_where_calls_need_null():
    messages = seen(assistant("So.", reasoning="hm", tool_calls=[call()]), result(), null_content=True)
    assert [m["content"] for m in messages] == ["So.", None, "found"]
    assert names(messages) == ["assistant", ["look"], "tool"]


def test_history_results_have_the_name_of_their_call_in_its_order():
    calls = [call("a", "first"), call("b", "second")]
    messages = seen(assistant(tool_calls=calls), result("b", "2"), result("a", "1"))
    assert [(m["name"], m["content"]) for m in messages[1:]] == [("first", "1"), ("second", "2")]


def test_history_results_without_ids_belong_to_calls_by_position():
    calls = [{"function": {"name": name, "arguments": "{}"}} for name in ("first", "second")]
    turn, *results = seen(assistant(tool_calls=calls), result(None, "1"), result(None, "2"))
    assert [m["name"] for m in results] == ["first", "second"]
    assert [m["tool_call_id"] for m in results] == [c["id"] for c in turn["tool_calls"]]


def test_history_results_of_unknown_calls_stay():
    (message,) = seen(result("x", "lost"))
    assert message == {"role": "tool", "content": "lost", "tool_call_id": "x"}


def test_history_single_calls_come_one_after_the_other_with_their_results():
    calls = [call("a", "first"), call("b", "second")]
    messages = seen(
        assistant("So.", tool_calls=calls, reasoning="hm"), result("b", "2"), result("a", "1"), USER, single_calls=True
    )
    assert names(messages) == [["first"], "tool", ["second"], "tool", "user"]
    assert [m["content"] for m in messages] == ["So.", "1", "", "2", "Hi"]
    assert [("reasoning_content" in m) for m in messages] == [True, False, False, False, False]


def test_history_short_ids_have_nine_letters_and_still_agree():
    turn, answer = seen(assistant(tool_calls=[call("call_0123456789")]), result("call_0123456789"), short_ids=True)
    assert turn["tool_calls"][0]["id"] == answer["tool_call_id"]
    assert len(answer["tool_call_id"]) == 9
    assert answer["tool_call_id"].isalnum()
    assert seen(result("abcdefgh1"), short_ids=True)[0]["tool_call_id"] == "abcdefgh1"


def test_history_legacy_functions_are_calls_and_results():
    turn, answer = seen(
        assistant(None, function_call={"name": "look", "arguments": '{"at": "it"}'}),
        {"role": "function", "name": "look", "content": "found"},
    )
    assert turn["tool_calls"][0]["function"] == {"name": "look", "arguments": {"at": "it"}}
    assert answer == {
        "role": "tool", "name": "look", "content": "found", "tool_call_id": turn["tool_calls"][0]["id"],
    }  # fmt: skip


def test_history_results_of_calls_with_one_id_come_once_each():
    calls = [call("a", "first"), call("a", "second")]
    messages = seen(assistant(tool_calls=calls), result("a", "1"), result("a", "2"), single_calls=True)
    assert names(messages) == [["first"], "tool", ["second"], "tool"]
    assert [m["content"] for m in messages if m["role"] == "tool"] == ["1", "2"]


@pytest.mark.parametrize("traits", [{"shows_results": False}, {"lone_results": False}])
def test_history_results_without_calls_are_the_users_words_where_the_template_loses_them(traits):
    messages = seen(USER, assistant("Yes."), result("x", "noon", name="now"), **traits)
    assert messages[2:] == [{"role": "user", "content": "Result of now:\n\nnoon"}]


def test_history_results_are_the_users_words_only_where_the_template_loses_them():
    messages = [USER, assistant(None, tool_calls=[call()]), result()]
    assert seen(*messages, lone_results=False)[2]["role"] == "tool"
    assert seen(*messages, shows_results=False)[2]["content"] == "Result of look:\n\nfound"


def test_history_text_beside_calls_is_a_turn_of_its_own_where_it_would_be_lost():
    messages = seen(assistant("So.", tool_calls=[call()]), result(), text_apart=True)
    assert [m["content"] for m in messages] == ["So.", "", "found"]


def test_history_text_beside_calls_is_reasoning_where_only_that_is_shown():
    (message,) = seen(assistant("So.", tool_calls=[call()]), joins_reasoning=True)
    assert (message["content"], message["reasoning_content"]) == ("", "So.")


@pytest.mark.parametrize("content", [None, "", []])
@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_history_empty_contents_are_empty_text(role, content):
    assert seen({"role": role, "content": content}, part_roles=frozenset({role}))[0]["content"] == ""


def test_history_refusal_is_the_content_of_its_answer():
    assert seen(assistant(None, refusal="No.")) == [{"role": "assistant", "content": "No."}]
    assert seen(assistant("Well.", refusal="No.")) == [{"role": "assistant", "content": "Well.\n\nNo."}]


def test_content_text_is_all_text_of_any_content():
    assert content_text([{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]) == "a\n\nb"
    assert (content_text("a"), content_text(None)) == ("a", "")


@pytest.mark.parametrize(
    ("call", "field"),
    [
        ({"function": "f"}, "function"),
        ({}, "function"),
        ({"function": {"name": 5}}, "function.name"),
        ({"function": {"name": "f", "arguments": 5}}, "function.arguments"),
        ({"function": {"name": "f", "arguments": [1]}}, "function.arguments"),
    ],
)
def test_call_of_the_wrong_shape_is_refused_by_name(call, field):
    with pytest.raises(InvalidRequestError) as refused:
        template_messages([{"role": "assistant", "tool_calls": [call]}], TemplateTraits())
    assert refused.value.param == f"messages[0].tool_calls[0].{field}"


@pytest.mark.parametrize("given", [[], {}, 1.5, [["c"]]])
def test_ids_that_are_no_texts_are_refused_by_name(given):
    with pytest.raises(InvalidRequestError) as refused:
        seen(USER, {"role": "tool", "content": "x", "tool_call_id": given})
    assert refused.value.param == "messages[1].tool_call_id"
    with pytest.raises(InvalidRequestError) as refused:
        seen(USER, assistant(tool_calls=[{**call(), "id": given}]))
    assert refused.value.param == "messages[1].tool_calls[0].id"


def test_ids_that_are_numbers_are_texts():
    messages = seen(assistant(tool_calls=[call(5, "first"), call(6, "second")]), result(6, "2"), result(5, "1"))
    assert [(m["name"], m["tool_call_id"]) for m in messages[1:]] == [("first", "5"), ("second", "6")]


def test_arguments_nested_too_deeply_are_refused_by_name():
    deep: object = {}
    for _ in range(5000):
        deep = {"a": deep}
    with pytest.raises(InvalidRequestError) as refused:
        seen(assistant(tool_calls=[call(arguments=deep)]))
    assert refused.value.param == "messages[0].tool_calls[0].function.arguments"


def test_function_call_that_is_no_object_is_refused():
    with pytest.raises(InvalidRequestError) as refused:
        template_messages([{"role": "assistant", "function_call": "f"}], TemplateTraits())
    assert refused.value.param == "messages[0].function_call"
