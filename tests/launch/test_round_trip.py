"""The format of small templates is detected, and their answers are read back."""

from __future__ import annotations

import pytest

from llamafast.chat.formats.registry import detect
from llamafast.chat.prompt.template import ChatTemplate
from llamafast.launch.round_trip import ANSWERS, read_back

CALL = "{{ c.function.arguments | tojson }}"
TEMPLATES = {
    "internlm2": (
        "{% if tools %}<|im_start|>system name=<|plugin|>\n{{ tools | tojson }}<|im_end|>\n{% endif %}",
        '<|action_start|><|plugin|>\n{"name": "{{ c.function.name }}", "parameters": ' + CALL + "}<|action_end|>",
    ),
    "xlam": (
        'Make calls in a list: [{"name": "tool_call_name", "arguments": {"arg1": "value1"}}]\n{{ tools }}',
        '{{ "[" if loop.first }}{"name": "{{ c.function.name }}", "arguments": '
        + CALL
        + '}{{ "]" if loop.last else ", " }}',
    ),
    "functiongemma": (
        "{{ tools }}",
        "<start_function_call>call:{{ c.function.name }}{ {%- for k, v in c.function.arguments.items() -%}"
        "{{ k }}:{% if v is string %}<escape>{{ v }}<escape>{% else %}{{ v | tojson }}{% endif %}"
        '{{ "," if not loop.last }}{%- endfor -%} }<end_function_call>',
    ),
    "llama4_pythonic": (
        "<|header_start|>Use the format [func_name1(param1=value1), func_name2()]\n{{ tools }}",
        '{{ "[" if loop.first }}{{ c.function.name }}({% for k, v in c.function.arguments.items() %}'
        '{{ k }}={{ v | tojson }}{{ ", " if not loop.last }}{% endfor %}){{ "]" if loop.last else ", " }}',
    ),
}


def template(name: str) -> ChatTemplate:
    tools, call = TEMPLATES[name]
    return ChatTemplate(
        "{% if tools %}"
        + tools
        + "{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content if not m.tool_calls }}"
        "{% for c in m.tool_calls %}" + call + "{% endfor %}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        bos_token="",
        eos_token="<|im_end|>",
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_calls_that_a_template_writes_are_read_back_in_the_format_that_it_shows(name: str) -> None:
    written = template(name)
    answers = detect(written.source)
    assert answers.name == name
    assert [fault for answer in ANSWERS if (fault := read_back(written, answers, answer, None))] == []
