"""Every format that can be enforced allows what a model would write, and nothing that violates the schema."""

from __future__ import annotations

import json

import jsonschema
import pytest

from llamafast._core import Model
from llamafast.chat.enforcing.output_grammar import CallPolicy
from llamafast.chat.formats import registry
from llamafast.grammars.constraint import Program
from llamafast.grammars.lark import compile_lark
from tests.chat.calls import read
from tests.chat.natural import CASES, Case
from tests.chat.natural_writers import ENFORCED, natural, natural_forms
from tests.chat.writers import Written
from tests.grammars.vocabularies import BUILT_IN, END, bytes_vocabulary, model_vocabulary

ONE = CallPolicy(is_required=True, is_parallel=False)
# One format per way to write arguments. Runs with the fuzz marker use all.
SOME = ("qwen3_xml", "minicpm5", "deepseek_dsml", "gemma4", "llama_pythonic", "hermes")


def program_of(name: str, case: Case, *, is_control: bool) -> Program:
    chat_format = registry.by_name(name)
    vocabulary = bytes_vocabulary(*(chat_format.markers if is_control else ()))
    source = chat_format.grammar(natural(name, "v", 1).prompt, [case.tool], ONE)
    return compile_lark(vocabulary, source)


def stopped_at(program: Program, text: str) -> str | None:
    """The part of a text that is not allowed. "": only its end is not. None: the whole text is allowed."""
    constraint, vocabulary = program.start(), program.vocabulary
    ids, pattern = vocabulary.control_ids, vocabulary.control_pattern
    for part in [text] if pattern is None else pattern.split(text):
        for i, token_id in enumerate([ids[part]] if part in ids else part.encode()):
            if token_id in (10, 60, 62):
                constraint.mask()  # this also checks that the state can be continued
            if not constraint.accept(token_id):
                return part.encode()[i:].decode("utf-8", "replace")
    return None if constraint.accept(END) else ""


def arguments(name: str, case: Case, written: Written) -> object:
    """The arguments that the parser of the format reads from this call. None: it is not a call."""
    calls = read(registry.by_name(name), written.prompt, [case.tool], written.text).calls
    return json.loads(calls[0].arguments) if len(calls) == 1 and calls[0].is_complete else None


def faults(name: str, case: Case, *, is_control: bool) -> list[str]:
    program, found = program_of(name, case, is_control=is_control), []
    for value, written in ((each, form) for each in case.good for form in natural_forms(name, "v", each)):
        rest = stopped_at(program, written.text)
        found += [f"{value!r} is not allowed from {rest!r} on"] if rest is not None else []
        read_as = arguments(name, case, written)
        found += [f"{value!r} is read as {read_as!r}"] if read_as != {"v": value} else []
    for value, written in ((each, form) for each in case.bad for form in natural_forms(name, "v", each)):
        is_allowed = stopped_at(program, written.text) is None
        # Bare text does not show its type, so the value that is read counts.
        if is_allowed and not jsonschema.Draft202012Validator(case.tool.parameters).is_valid(
            arguments(name, case, written)
        ):
            found.append(f"{value!r} is allowed")
    return found


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_natural_value_is_allowed_and_read_and_a_wrong_one_is_not(case) -> None:
    assert [(name, fault) for name in SOME for fault in faults(name, case, is_control=False)] == []


@pytest.mark.parametrize("name", ENFORCED)
def test_natural_value_ends_in_every_format_over_control_tokens(name) -> None:
    cases = [
        CASES[key] for key in ("maxLength", "pattern that is not anchored", "enum of beginnings", "string or list")
    ]
    assert [fault for case in cases for fault in faults(name, case, is_control=True)] == []


def test_natural_values_are_allowed_in_the_tokens_of_a_model() -> None:
    model = Model(BUILT_IN, vocab_only=True)
    vocabulary, chat_format, found = model_vocabulary(model), registry.by_name("qwen3_xml"), []
    for key in (
        "maxLength",
        "minLength",
        "pattern that is not anchored",
        "enum of beginnings",
        "word or number",
        "list",
    ):
        case = CASES[key]
        program = compile_lark(vocabulary, chat_format.grammar(natural("qwen3_xml", "v", 1).prompt, [case.tool], ONE))
        for value in case.good:
            constraint = program.start()
            token_ids = model.tokenize(natural("qwen3_xml", "v", value).text, False, True)
            is_allowed = all(map(constraint.accept, token_ids)) and constraint.accept(min(vocabulary.eog_ids))
            found += [] if is_allowed else [(key, value)]
    assert found == []


@pytest.mark.parametrize(
    ("key", "body", "rest"),
    [("minLength", "\n</parameter", "r"), ("minLength", "\n<parameter circle", "r circle"),
     ("maxLength", "\nx</function home", "n home"), ("minLength", "\nParis</parameterville", "ville"),
     ("maxLength", "\nParis</parameters", "s"), ("lengths", "\n\na</p\n", "\n"), ("minLength", "\n\n</pa", ""),
     ("minLength", "\nParis</parameter>", None), ("maxLength", "\n</parameter>", None),
     ("maxLength", "\n" + "x" * 18 + "</parameter>", None), ("lengths", "\na\n</parameter>", "/parameter>")],
)  # fmt: skip
def test_bounded_string_holds_no_part_of_a_closing_tag(key, body, rest) -> None:
    program = program_of("qwen3_xml", CASES[key], is_control=False)
    head, tail = "<tool_call>\n<function=f>\n<parameter=v>", "\n</function>\n</tool_call>"
    assert stopped_at(program, head + body + (tail if rest is None else "")) == rest


@pytest.mark.fuzz
@pytest.mark.parametrize("is_control", [False, True], ids=["text", "control tokens"])
@pytest.mark.parametrize("name", ENFORCED)
def test_natural_values_of_all_schemas_are_allowed_and_read(name, is_control) -> None:
    assert [(key, f) for key, case in CASES.items() for f in faults(name, case, is_control=is_control)] == []
