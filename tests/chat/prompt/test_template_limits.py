"""Templates that would compute or write endlessly: each ends with an error before it takes much."""

from __future__ import annotations

import pytest

from llamafast.chat.prompt.template import ChatTemplate, TemplateCostError, TemplateError

HELLO = [{"role": "user", "content": "Hello"}]
DOUBLE = "{%% set ns = namespace(x=%s) %%}{%% for i in range(60) %%}{%% set ns.x = %s %%}{%% endfor %%}{{ ns.x%s }}"


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, bos_token="", eos_token="")


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}",
        "{% macro m(n) %}{% if n > 0 %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(100) }}",
        "{{ 'x' * 10**10 }}",
        "{{ 10**9 * 'x' }}",
        "{{ [1] * 10**10 }}",
        "{{ 10 ** (10 ** 9) }}",
        DOUBLE % ("'x'", "ns.x ~ ns.x", ""),
        DOUBLE % ("'x'", "ns.x + ns.x", ""),
        DOUBLE % ("[1]", "ns.x + ns.x", "|length"),
        DOUBLE % ("3", "ns.x * ns.x", ""),
        DOUBLE % ("[1]", "[ns.x, ns.x]", ""),
        DOUBLE % ("[1]", "[ns.x, ns.x]", "|tojson"),
        DOUBLE % ("[1]", "{'a': ns.x, 'b': ns.x}", "|string"),
        "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set z %}{{ ns.x }}{{ ns.x }}{% endset %}"
        "{% set ns.x = z %}{% endfor %}{{ ns.x }}",
        "{{ 'x'|center(10**10) }}",
        "{{ 'x'.ljust(10**10) }}",
        "{{ 'x'.zfill(10**10) }}",
        "{{ '\t'.expandtabs(10**10) }}",
        "{{ '%9999999999d' % 1 }}",
        "{{ '%*d' % (10**10, 1) }}",
        "{{ '%9999999999d'|format(1) }}",
        "{{ '{:9999999999d}'.format(1) }}",
        "{{ '{:{w}d}'.format(1, w=10**10) }}",
        "{{ ('{0}' * 9999).format('x' * 99999) }}",
        "{{ ('x' * 99999).replace('x', 'y' * 99999) }}",
        "{{ ('x' * 99999)|replace('x', 'y' * 99999) }}",
        "{{ ('x' * 99999).join('y' * 99999) }}",
        "{{ (['y'] * 99999)|join('x' * 99999) }}",
        "{{ ('x' * 99999).translate({120: 'y' * 99999}) }}",
        "{{ ('x\n' * 99999)|indent(10**6) }}",
        "{{ [1]|batch(10**10, 0)|list }}",
        "{{ [1]|slice(10**10)|list }}",
        "{{ 1|round(10**10, 'ceil') }}",
        "{{ [[1]]|tojson(indent=10**10) }}",
        "{{ ('a' * 999999)|wordwrap(1) }}",
        "{{ 'x'.encode() * 10**10 }}",
        "{{ (1).to_bytes(10**10, 'big') }}",
    ],
)
def test_render_without_an_end_is_refused(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamafast.chat.prompt.template_limits._BASE_UNITS", 20_000)
    with pytest.raises(TemplateCostError):
        template(source).render(HELLO)


def test_render_slow_steps_end_by_the_time_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamafast.chat.prompt.template_limits._CPU_S_PER_UNIT", 0.0)
    with pytest.raises(TemplateCostError):
        template("{% for i in range(1000) %}{% endfor %}").render(HELLO)


def test_render_range_beyond_the_sandbox_is_refused() -> None:
    with pytest.raises(TemplateError, match="Range too big"):
        template("{% for i in range(n) %}x{% endfor %}").render(HELLO, n=10**10)


@pytest.mark.parametrize("source", ["{{ 'x' * n }}", "{{ 'x'|center(n) }}", "{{ 10 ** n }}"])
def test_render_number_of_a_client_costs_no_more(source: str) -> None:
    with pytest.raises(TemplateCostError):
        template(source).render(HELLO, n=10**10)


def test_compile_large_constant_is_not_computed() -> None:
    assert template("{% if false %}{{ 'x'|center(10**10) }}{{ 'x' * 10**10 }}{% endif %}ok").render(HELLO) == "ok"


def test_render_after_a_refusal_has_its_whole_budget_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamafast.chat.prompt.template_limits._BASE_UNITS", 20_000)
    endless = template("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
    for _ in range(2):
        with pytest.raises(TemplateCostError):
            endless.render(HELLO)
    assert template("{{ messages[0].content }}").render(HELLO) == "Hello"


def test_render_long_conversation_fits_its_budget() -> None:
    source = (
        "{% for m in messages %}{% if m.content is string %}{{ '<' ~ m.role ~ '>' + m.content.split('</think>')[-1]"
        ".strip() }}{% endif %}{% endfor %}"
    )
    messages = [{"role": "user", "content": "Hello there. " * 500}] * 5000
    assert len(template(source).render(messages)) > 30_000_000


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ 'a' + 'b' ~ 1 ~ none ~ [1, 'x'] }}", "ab1None[1, 'x']"),
        ("{{ 1 + 2 * 3 ** 2 % 7 }}", "5"),
        ("{{ '%s-%03d' % ('a', 7) }} {{ '{}:{b:>4}'.format(1, b='x') }}", "a-007 1:   x"),
        ("{{ ['a', 'b']|map('upper')|join(', ') }} {{ ', '.join(['a', 'b']|map('upper')) }}", "A, B A, B"),
        ("{% for i in range(5) if i % 2 %}{{ loop.index }}:{{ i }}/{{ loop.length }} {% endfor %}", "1:1/2 2:3/2 "),
        ("{{ [1, 2, 3]|batch(2, 0)|list }}{{ 3.14159|round(2) }}{{ missing }}", "[[1, 2], [3, 0]]3.14"),
        (
            "{{ {'a': [1, {'b': none}]}|tojson(indent=2) }}",
            '{\n  "a": [\n    1,\n    {\n      "b": null\n    }\n  ]\n}',
        ),
    ],
)
def test_render_ordinary_expressions_write_what_jinja_writes(source: str, text: str) -> None:
    assert template(source).render(HELLO) == text


@pytest.mark.parametrize(
    "source",
    [
        "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "{% for i in [1] %}" * 30 + "{% endfor %}" * 30,
        "{% if true %}" * 3000 + "{% endif %}" * 3000,
        "{{ " + "9" * 9999 + " }}",
    ],
)
def test_compile_what_python_cannot_compile_is_refused(source: str) -> None:
    with pytest.raises(TemplateError, match=r"^chat template"):
        template(source)
