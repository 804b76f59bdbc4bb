"""Items as messages of a chat: all message forms, replayed items, calls and their outputs."""

from __future__ import annotations

import pytest

from llamafast.errors import InvalidRequestError
from llamafast.responses.items import Conversation, add_messages, input_items
from llamafast.responses.tools import ToolTable

CALL = {"type": "function_call", "call_id": "call_1", "name": "get", "arguments": "{}"}


def read(*items, find=lambda item_id: None, unseal=lambda text: None, table=None) -> Conversation:
    conversation = Conversation()
    add_messages(conversation, input_items(list(items)), table or ToolTable(), path="input", find=find, unseal=unseal)
    return conversation


@pytest.mark.parametrize(
    "item",
    [
        {"role": "user", "content": "Hi"},
        {"type": "message", "role": "user", "content": "Hi"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
    ],
)
def test_message_in_every_form_is_one_message(item):
    assert read(item).messages == [{"role": "user", "content": "Hi"}]


def test_text_is_a_message_of_the_user():
    (item,) = input_items("Hi")
    assert (item["role"], item["content"]) == ("user", [{"type": "input_text", "text": "Hi"}])
    assert str(item["id"]).startswith("msg_")


def test_absent_input_has_no_items():
    assert input_items(None) == input_items([]) == []


@pytest.mark.parametrize(
    "part", [{"type": "output_text", "text": "No", "annotations": []}, {"type": "refusal", "refusal": "No"}]
)
def test_answer_that_is_replayed_is_a_message_of_the_assistant(part):
    assert read({"type": "message", "role": "assistant", "content": [part]}).messages == [
        {"role": "assistant", "content": "No"}
    ]


def test_call_and_its_output_keep_their_id():
    assert read(CALL, {"type": "function_call_output", "call_id": "call_1", "output": "5"}).messages == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "get", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "5", "tool_call_id": "call_1"},
    ]


def test_output_as_a_list_of_parts_is_its_texts():
    output = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    message = read(CALL, {"type": "function_call_output", "call_id": "call_1", "output": output}).messages[1]
    assert message["content"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]


def test_custom_call_is_a_call_with_one_text():
    call = {"type": "custom_tool_call", "call_id": "c", "name": "sh", "input": 'echo "x"'}
    (message,) = read(call).messages
    assert message["tool_calls"][0]["function"]["arguments"] == '{"input":"echo \\"x\\""}'


def test_shell_call_is_a_call_named_after_its_type():
    call = {"type": "local_shell_call", "call_id": "c", "action": {"command": ["ls"]}}
    (message, result) = read(call, {"type": "local_shell_call_output", "call_id": "c", "output": "a.txt"}).messages
    assert message["tool_calls"][0]["function"] == {"name": "local_shell", "arguments": '{"command":["ls"]}'}
    assert result["tool_call_id"] == "c"


def test_call_in_a_namespace_has_the_name_that_the_model_sees():
    table = ToolTable()
    table.add([{"type": "namespace", "name": "mcp", "tools": [{"type": "function", "name": "get"}]}], "tools")
    (message,) = read({**CALL, "namespace": "mcp"}, table=table).messages
    assert message["tool_calls"][0]["function"]["name"] == "mcp__get"


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ({"content": [{"type": "reasoning_text", "text": "Hm"}], "summary": []}, "Hm"),
        ({"encrypted_content": "sealed"}, "opened"),
        ({"content": [{"type": "reasoning_text", "text": "Hm"}], "encrypted_content": "sealed"}, "Hm"),
    ],
)
def test_reasoning_is_read_from_its_content_or_its_seal(item, text):
    messages = read({"type": "reasoning", **item}, unseal=lambda sealed: "opened").messages
    assert messages == [{"role": "assistant", "content": None, "reasoning_content": text}]


def test_reasoning_of_another_server_says_nothing():
    assert (
        read(
            {"type": "reasoning", "encrypted_content": "foreign", "summary": [{"type": "summary_text", "text": "s"}]}
        ).messages
        == []
    )


def test_reference_is_the_item_that_it_names():
    found = input_items([CALL])[0]
    assert read({"id": "fc_1"}, find={"fc_1": found}.get).messages[0]["tool_calls"][0]["id"] == "call_1"


def test_additional_tools_join_the_others():
    table = ToolTable()
    read({"type": "additional_tools", "role": "developer", "tools": [{"type": "function", "name": "get"}]}, table=table)
    assert list(table.origins) == ["get"]


@pytest.mark.parametrize("kind", ["web_search_call", "mcp_list_tools", "compaction_trigger", "future_item"])
def test_item_of_another_server_is_left_out_with_a_warning(kind):
    conversation = read({"role": "user", "content": "Hi"}, {"type": kind, "id": "x"})
    assert len(conversation.messages) == 1
    assert kind in conversation.warnings[0]


@pytest.mark.parametrize(
    ("items", "param"),
    [
        (["Hi"], "input[0]"),
        ([{"type": 3}], "input[0].type"),
        ([{"role": "robot", "content": ""}], "input[0].role"),
        ([{"role": "user", "content": [3]}], "input[0].content[0]"),
        ([{"role": "user", "content": [{"type": "input_text"}]}], "input[0].content[0].text"),
        ([{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}], "input[0].content[0]"),
        ([{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}], "input[0].content[0].image_url"),
        ([{"type": "function_call", "call_id": "c", "name": "f"}], "input[0].arguments"),
        ([{"type": "function_call_output", "call_id": "c", "output": ""}], "input[0].call_id"),
        ([{"type": "item_reference", "id": "msg_1"}], "input[0].id"),
        ([{"id": 5, "type": "message", "role": "user"}], "input[0].id"),
    ],
)
def test_item_that_is_wrong_is_named(items, param):
    with pytest.raises(InvalidRequestError) as caught:
        read(*items)
    assert caught.value.param == param


def test_input_that_is_no_list_is_refused():
    with pytest.raises(InvalidRequestError):
        input_items({"role": "user"})
