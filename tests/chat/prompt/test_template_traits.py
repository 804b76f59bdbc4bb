"""TemplateTraits: each trait is found in a small template that has it, and not in one that lacks it."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGUFReader

import llamafast
from llamafast.chat.prompt.template import ChatTemplate
from llamafast.chat.prompt.template_traits import TemplateTraits

MESSAGES = "{% for m in messages %}<{{ m.role }}>"
CALLS = "{% for c in m.tool_calls %}{{ c.id }}{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}"
# It reads text, reasoning and any number of calls.
PLAIN = MESSAGES + "{{ m.reasoning_content }}{{ m.content }}" + CALLS + "{% endfor %}{{ tools }}"
PARTS = "{% for p in m.content %}{% if p.text %}{{ p.text }}{% endif %}{% endfor %}"
BOTH = "{% if m.content is string %}{{ m.content }}{% else %}" + PARTS + "{% endif %}"
ROLES = frozenset({"system", "user", "assistant", "tool"})


def traits(source: str) -> TemplateTraits:
    return ChatTemplate(source, bos_token="", eos_token="").traits


def refuse(condition: str) -> str:
    return MESSAGES + "{% if " + condition + " %}{{ raise_exception('no') }}{% endif %}"


def test_traits_of_a_plain_template_are_the_defaults() -> None:
    found = traits(PLAIN)
    assert found == TemplateTraits(variables=frozenset({"messages", "tools"}))


def test_traits_of_the_built_in_model() -> None:
    model = Path(llamafast.__file__).parent / "models" / "tiny-qwen35-f16.gguf"
    found = traits(GGUFReader(model).fields["tokenizer.chat_template"].contents())
    assert {"tools", "enable_thinking"} <= found.variables
    assert (found.reasoning_field, found.part_roles, found.text_roles) == ("reasoning_content", ROLES, ROLES)
    assert not (found.text_arguments or found.null_content or found.single_calls or found.short_ids)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking", "thought"])
def test_traits_reasoning_field_is_the_one_that_is_shown(field: str) -> None:
    assert traits(PLAIN.replace("m.reasoning_content", f"m.{field}")).reasoning_field == field


def test_traits_reasoning_field_none_where_no_field_is_named() -> None:
    assert traits(MESSAGES + "{{ m.content }}{% endfor %}").reasoning_field is None


def test_traits_reasoning_parts_are_found() -> None:
    part = "{% if p.type == 'thinking' %}{{ p['thinking'] }}{% else %}{{ p.text }}{% endif %}"
    source = MESSAGES + "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}" + part
    found = traits(source + "{% endfor %}{% endif %}{% endfor %}")
    assert (found.reasoning_field, found.reasoning_parts) == (None, True)


@pytest.mark.parametrize(
    ("content", "part_roles", "text_roles"),
    [("{{ m.content }}", set(), ROLES), (BOTH, ROLES, ROLES), (PARTS, ROLES, set())],
)
def test_traits_roles_of_parts_and_texts(content: str, part_roles: set[str], text_roles: set[str]) -> None:
    found = traits(MESSAGES + content + "{% endfor %}")
    assert (found.part_roles, found.text_roles) == (part_roles, text_roles)


def test_traits_developer_is_known_where_it_is_named() -> None:
    assert traits("{% if messages[0].role == 'developer' %}D{% endif %}" + PLAIN).knows_developer


def test_traits_arguments_are_text_where_only_text_can_be_shown() -> None:
    found = traits(MESSAGES + "{% for c in m.tool_calls %}{{ '' + c.function.arguments }}{% endfor %}{% endfor %}")
    assert found.text_arguments


def test_traits_content_is_null_where_calls_need_it() -> None:
    assert traits(MESSAGES + "{% if m.content is none %}" + CALLS + "{% else %}-{% endif %}{% endfor %}").null_content


@pytest.mark.parametrize(
    "source", [refuse("m.tool_calls and m.tool_calls | length > 1") + CALLS, MESSAGES + CALLS.replace("m.tool_calls",
               "(m.tool_calls or [])[:1]")],
)  # fmt: skip
def test_traits_single_calls_where_the_second_is_refused_or_lost(source: str) -> None:
    assert traits(source + "{{ m.content }}{% endfor %}").single_calls


def test_traits_reasoning_beside_text_and_calls_is_refused() -> None:
    source = refuse("m.tool_calls and m.content and m.thinking") + "{{ m.thinking }}{{ m.content }}" + CALLS
    assert traits(source + "{% endfor %}").joins_reasoning


def test_traits_short_ids_where_long_ones_are_refused() -> None:
    source = refuse("m.tool_calls and m.tool_calls[0].id | length != 9") + CALLS + "{{ m.content }}{% endfor %}"
    assert traits(source).short_ids


def test_traits_empty_tools_where_none_is_refused() -> None:
    assert traits("{% for t in tools %}{{ t }}{% endfor %}" + PLAIN.replace("{{ tools }}", "")).empty_tools


def test_traits_developer_that_is_named_but_not_shown_is_not_known() -> None:
    assert not traits(refuse("m.role == 'developer'") + "{{ m.content }}{% endfor %}").knows_developer


def test_traits_systems_of_a_template_that_refuses_all_but_one() -> None:
    found = traits(refuse("m.role == 'system' and not loop.first") + "{{ m.content }}" + CALLS + "{% endfor %}")
    assert (found.shows_system, found.several_systems, found.late_systems) == (True, False, False)


def test_traits_systems_of_a_template_that_drops_all_but_one() -> None:
    found = traits(MESSAGES + "{% if m.role != 'system' or loop.first %}{{ m.content }}{% endif %}{% endfor %}")
    assert (found.shows_system, found.several_systems, found.late_systems) == (True, False, False)


def test_traits_developer_after_system_is_dropped() -> None:
    shown = "{% if m.role not in ['system', 'developer'] or loop.first %}{{ m.content }}{% endif %}{% endfor %}"
    found = traits(MESSAGES + shown)
    assert (found.knows_developer, found.several_systems) == (True, False)


@pytest.mark.parametrize("lost", ["m.role == 'system'", "m.role == 'system' and messages[-1].role == 'tool'"])
def test_traits_system_is_not_shown_where_any_conversation_loses_it(lost: str) -> None:
    shown = "{% if not (" + lost + ") %}{{ m.content }}{% endif %}" + CALLS
    assert not traits(MESSAGES + shown + "{% endfor %}").shows_system


def test_traits_roles_that_must_alternate_are_single() -> None:
    source = refuse("not loop.first and m.role == messages[loop.index0 - 1].role") + "{{ m.content }}{% endfor %}"
    assert traits(source).single_roles == {"user", "assistant"}


def test_traits_user_after_a_result_is_refused() -> None:
    source = refuse("m.role == 'user' and not loop.first and messages[loop.index0 - 1].role == 'tool'")
    assert not traits(source + "{{ m.content }}" + CALLS + "{% endfor %}").user_after_result


def test_traits_results_that_are_dropped_or_need_a_call() -> None:
    dropped = traits(MESSAGES + "{% if m.role != 'tool' %}{{ m.content }}{% endif %}{% endfor %}")
    assert (dropped.shows_results, dropped.lone_results) == (False, False)
    source = refuse("m.role == 'tool' and not messages[loop.index0 - 1].tool_calls")
    needs_call = traits(source + "{{ m.content }}" + CALLS + "{% endfor %}")
    assert (needs_call.shows_results, needs_call.lone_results) == (True, False)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [("{{ c.function.arguments | tojson }}", False), ("{% for k, v in c.function.arguments | items %}{{ k }}{{ v }}"
      "{% endfor %}", False), ("{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}"
      "{{ c.function.arguments | tojson }}{% endif %}", True)],
)  # fmt: skip
def test_traits_raw_arguments_where_they_come_out_as_they_are(arguments: str, expected: bool) -> None:
    found = traits(MESSAGES + "{{ m.content }}{% for c in m.tool_calls %}" + arguments + "{% endfor %}{% endfor %}")
    assert (found.raw_arguments, found.text_arguments) == (expected, False)


def test_traits_text_beside_calls_that_is_lost_stands_apart() -> None:
    source = MESSAGES + "{% if m.tool_calls %}" + CALLS + "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    assert traits(source).text_apart
    assert not traits(PLAIN).text_apart


def test_traits_of_a_template_that_wants_variables_are_the_defaults() -> None:
    found = traits("{{ missing.value.deep }}" + PLAIN)
    assert (found.shows_system, found.late_systems, found.single_roles) == (True, True, frozenset())


def test_traits_filler_is_what_an_empty_answer_needs() -> None:
    assert traits(refuse("m.role == 'assistant' and not m.content") + "{{ m.content }}{% endfor %}").filler == " "
    assert traits(PLAIN).filler == ""


def test_traits_user_is_first_where_an_answer_may_not_be() -> None:
    condition = "loop.first and m.role == 'assistant'"
    assert traits(refuse(condition) + "{{ m.content }}" + CALLS + "{% endfor %}{{ tools }}").user_first == {
        "text", "calls",
    }  # fmt: skip
    lost = MESSAGES + "{{ m.content }}{% if not loop.first %}" + CALLS + "{% endif %}{% endfor %}{{ tools }}"
    assert traits(lost).user_first == {"calls"}
    assert traits(PLAIN).user_first == frozenset()


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_traits_user_is_needed_where_a_conversation_without_one_is_refused(role: str) -> None:
    source = refuse(f"m.role == '{role}' and not messages | selectattr('role', 'equalto', 'user') | list")
    assert traits(source + "{{ m.content }}{% endfor %}").needs_user
    assert not traits(PLAIN).needs_user


@pytest.mark.parametrize("condition", ["m.role == 'tool' and not m.name", "m.role == 'tool' and loop.index0 > 2"])
def test_traits_nameless_results_where_a_name_makes_no_difference(condition: str) -> None:
    found = traits(refuse(condition) + "{{ m.content }}" + CALLS + "{% endfor %}{{ tools }}")
    assert found.nameless_results == ("name" not in condition)


def test_traits_text_beside_calls_that_is_lost_everywhere() -> None:
    source = refuse("m.role == 'assistant' and not m.tool_calls and loop.nextitem and loop.nextitem.tool_calls")
    lost = source + "{% if m.tool_calls %}" + CALLS + "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    assert (traits(lost).text_beside, traits(PLAIN).text_beside) == (False, True)
