"""ChatTemplate behaves like Hugging Face's, and the built-in model's template matches its transcripts."""

from __future__ import annotations

import copy
import json
from datetime import datetime
from pathlib import Path

import pytest
from gguf import GGUFReader

import llamafast
from llamafast.chat.prompt.template import ChatTemplate, TemplateError

MODELS = Path(llamafast.__file__).parent / "models"
TRANSCRIPTS = [
    t for t in json.loads((MODELS / "transcripts.json").read_text()) if "prompt" in t
]  # the others are images
HELLO = [{"role": "user", "content": "Hello!"}]
CONTENTS = "{% for m in messages %}[{{ m.content }}]{% endfor %}"


def render(source, messages=HELLO, **kwargs):
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>").render(messages, **kwargs)


@pytest.fixture(scope="module")
def built_in() -> ChatTemplate:
    reader = GGUFReader(MODELS / "tiny-qwen35-f16.gguf")
    return ChatTemplate(reader.fields["tokenizer.chat_template"].contents(), bos_token="", eos_token="<|im_end|>")


def with_parsed_arguments(messages):
    """A copy whose tool calls have objects, as templates require, instead of the API's JSON text."""
    messages = copy.deepcopy(messages)
    for call in (call for message in messages for call in message.get("tool_calls") or []):
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return messages


def test_template_of_built_in_model_gives_the_recorded_prompts(built_in):
    prompts = [
        built_in.render(with_parsed_arguments(t["messages"]), tools=t["tools"], enable_thinking=t["thinking"])
        for t in TRANSCRIPTS
    ]
    assert prompts == [t["prompt"] for t in TRANSCRIPTS]


def test_template_raise_exception_is_template_error_with_its_text(built_in):
    with pytest.raises(TemplateError, match=r"^unknown role: robot$"):
        built_in.render([{"role": "robot", "content": "beep"}])


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].absent.field }}",
        "{{ 'a' + messages[0].n }}",
        "{{ 1 / 0 }}",
        "{{ absent | tojson }}",
        "{{ 'x' | from_json }}",
        "{{ messages.append(1) }}",
        "{{ messages.__class__.__mro__ }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ range(10000000000) }}",
        "{{ raise_exception() }}",
    ],
)
def test_template_runtime_failure_is_template_error(source):
    with pytest.raises(TemplateError, match=r"^the chat template failed on this request: "):
        render(source, [{"n": 1}])


@pytest.mark.parametrize("source", ["{% if %}", "{{ x | no_such_filter }}", "{% endfor %}", "{{"])
def test_template_that_does_not_compile_is_template_error_with_line(source):
    with pytest.raises(TemplateError, match="line 2"):
        ChatTemplate("\n" + source, bos_token="", eos_token="")


def test_template_tojson_is_plain_json_in_the_given_order():
    value = [{"b": "<é> & 'q'", "a": [1, 2.5, None, True]}]
    assert render("{{ tools | tojson }}", tools=value) == json.dumps(value, ensure_ascii=False)


def test_template_tojson_after_text_escapes_nothing():
    assert render("{{ '<a>' + messages | tojson }}") == '<a>[{"role": "user", "content": "Hello!"}]'


def test_template_tojson_options_are_those_of_json_dumps():
    source = (
        "{{ tools | tojson(indent=2) }}{{ tools | tojson(ensure_ascii=true, separators=(',', ':'), sort_keys=true) }}"
    )
    value = {"b": "é", "a": 1}
    assert render(source, tools=value) == json.dumps(value, indent=2, ensure_ascii=False) + '{"a":1,"b":"\\u00e9"}'


def test_template_from_json_parses_text_and_passes_values():
    assert render("""{{ ('{"a": 1}' | from_json).a }}{{ ({'a': 2} | from_json).a }}""") == "12"


def test_template_blocks_leave_no_whitespace():
    assert render("a\n  {% if true %}\nb\n  {% endif %}\nc\n") == "a\nb\nc"


def test_template_loop_controls_work():
    assert render("{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}"
                  "{{ i }}{% endfor %}") == "023"  # fmt: skip


def test_template_generation_block_renders_its_content():
    source = "{% for m in messages %}{% generation %}{{ loop.index }}{{ m.content }}{% endgeneration %}!{% endfor %}"
    assert render(source) == "1Hello!!"


def test_template_strftime_now_writes_the_date():
    before = datetime.now().strftime("%d %b %Y")
    assert render("{{ strftime_now('%d %b %Y') }}") in {before, datetime.now().strftime("%d %b %Y")}


def test_template_variables_are_special_tokens_prompt_flag_and_kwargs():
    source = (
        "{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}{{ tools is none }}{{ documents is none }}{{ extra }}"
    )
    assert render(source, extra="x") == "<s></s>TrueTrueTruex"


def test_template_kwargs_may_replace_special_tokens_but_not_messages():
    template = ChatTemplate("{{ bos_token }}" + CONTENTS, bos_token="<s>", eos_token="")
    assert template.render(HELLO, bos_token="!", messages=[]) == "![Hello!]"


def test_template_undeclared_variable_is_undefined():
    assert render("{{ enable_thinking is defined }}{{ enable_thinking }}") == "False"


def test_template_text_in_messages_is_never_a_template():
    assert render(CONTENTS, [{"content": "{{ 1 + 1 }}<b>"}]) == "[{{ 1 + 1 }}<b>]"


def test_template_continue_leaves_the_last_message_open(built_in):
    messages = [*HELLO, {"role": "assistant", "content": "Hello! How"}]
    prompt = built_in.render(messages, continue_final_message=True)
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\nHello! How")


@pytest.mark.parametrize(("content", "expected"), [("so  ", "[so  "), ("so", "[so"), ("", "[")])
def test_template_continue_keeps_spaces_of_a_template_that_keeps_them(content, expected):
    assert render(CONTENTS, [{"content": content}], continue_final_message=True) == expected


def test_template_continue_trims_as_the_template_does():
    source = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}"
    assert render(source, [{"content": " so \n"}], continue_final_message=True) == "[so"


def test_template_continue_goes_on_with_the_last_text_part():
    source = "{% for p in messages[0].content %}<{{ p.text or p.type }}>{% endfor %}"
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, {"type": "image"}]
    assert render(source, [{"content": content}], continue_final_message=True) == "<a><b"


def test_template_continue_has_no_generation_prompt():
    source = CONTENTS + "{% if add_generation_prompt %}assistant:{% endif %}"
    assert render("{{ add_generation_prompt }}" + source, continue_final_message=True) == "False[Hello!"


@pytest.mark.parametrize("messages", [[], [{"content": None}], [{"role": "user"}], [{"content": [{"type": "image"}]}]])
def test_template_continue_without_text_is_template_error(messages):
    with pytest.raises(TemplateError, match="continue_final_message needs"):
        render(CONTENTS, messages, continue_final_message=True)


@pytest.mark.parametrize("source", ["nothing", "{{ messages[0].content | upper }}", "{{ messages[0].content[:3] }}"])
def test_template_continue_of_text_the_template_changes_is_template_error(source):
    with pytest.raises(TemplateError, match="does not keep"):
        render(source, continue_final_message=True)


@pytest.mark.parametrize("continue_final_message", [False, True])
def test_template_render_changes_no_argument(built_in, continue_final_message):
    case = next(t for t in TRANSCRIPTS if t["tools"])
    messages = [*case["messages"], {"role": "assistant", "content": [{"type": "text", "text": "Let me"}]}]
    before = copy.deepcopy((messages, case["tools"]))
    built_in.render(messages, tools=case["tools"], continue_final_message=continue_final_message)
    assert (messages, case["tools"]) == before


CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    *({"role": role, "content": f"{role} {i}"} for i in range(6) for role in ("user", "assistant")),
    {"role": "user", "content": "last"},
]


def test_message_ends_are_the_system_message_and_the_last_four(built_in):
    text = built_in.render(CONVERSATION, enable_thinking=False)
    ends = built_in.message_ends(CONVERSATION, text, enable_thinking=False)
    assert [text[:end].rpartition("<|im_start|>")[2] for end in ends] == [
        "user\n",  # of the first question
        "user\nuser 5<|im_end|>\n",
        "user\nlast<|im_end|>\n",
    ]  # earlier answers are written without reasoning, the last answer with it


def test_message_ends_of_answers_stand_where_they_are_written_alike():
    template = ChatTemplate(CONTENTS, bos_token="", eos_token="")
    text = template.render(CONVERSATION)
    ends = template.message_ends(CONVERSATION, text)
    assert [text[:end].rpartition("[")[2] for end in ends] == ["", "assistant 4]", "user 5]", "assistant 5]", "last]"]


def test_message_ends_of_an_open_message_leave_it_out(built_in):
    messages = [*CONVERSATION, {"role": "assistant", "content": "So"}]
    text = built_in.render(messages, continue_final_message=True)
    assert text[: built_in.message_ends(messages, text)[-1]].endswith("last<|im_end|>\n")


def test_message_ends_in_tool_results_hold_through_the_turn(built_in):
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}
    messages = [
        *CONVERSATION,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "found"},
    ]
    text = built_in.render(messages, enable_thinking=False)
    ends = built_in.message_ends(messages, text, enable_thinking=False)
    assert [text[:end][-30:] for end in ends[-3:]] == [
        text[: text.index("last<|im_end|>\n") + 15][-30:],
        text[: text.index("</tool_call><|im_end|>\n") + 23][-30:],
        text[: text.index("</tool_response><|im_end|>\n") + 27][-30:],
    ]


def test_message_ends_of_a_template_that_refuses_parts_are_left_out():
    source = "{% if messages|length < 13 %}{{ raise_exception('too few') }}{% endif %}" + CONTENTS
    template = ChatTemplate(source, bos_token="", eos_token="")
    text = template.render(CONVERSATION)
    assert [text[:end].rpartition("[")[2] for end in template.message_ends(CONVERSATION, text)] == [
        "assistant 5]",
        "last]",
    ]
