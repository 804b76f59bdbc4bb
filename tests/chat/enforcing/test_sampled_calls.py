"""Calls drawn from a grammar: the parser of the format reads each as a call that satisfies the tool's schema
(`jsonschema`).
"""

from __future__ import annotations

import json
import random

import jsonschema
import pytest

from llamafast.chat.enforcing.call_syntax import LiteralArguments, TaggedArguments
from llamafast.chat.enforcing.output_grammar import CallPolicy
from llamafast.chat.formats import registry
from llamafast.grammars.lark import compile_lark
from tests.chat.calls import read
from tests.chat.natural import CASES, Case
from tests.chat.natural_writers import ENFORCED, natural
from tests.grammars.vocabularies import bytes_vocabulary
from tests.grammars.walks import walk_program

ONE = CallPolicy(is_required=True, is_parallel=False)
# A random walk through these reaches no end.
ENDLESS = {"uri"}
_MAX_WORD = 300
SAMPLED = {key: case for key, case in CASES.items() if key not in ENDLESS}


def words(name: str, case: Case) -> list[str]:
    """Words that a walk needs to make progress: right and wrong values, and the texts that end them."""
    found = ['"', '"}', "]", "}", "}\n", "1", ", "]
    for value in (*case.good, *case.bad):
        if isinstance(value, str) and len(value) > _MAX_WORD:
            continue
        found += [json.dumps(value), value] if isinstance(value, str) and value else [json.dumps(value)]
    for syntax in registry.by_name(name).syntaxes:
        arguments = syntax.arguments
        if isinstance(arguments, TaggedArguments):
            last = (arguments.quotes or ("", ""))[1] + arguments.after_value
            found += [arguments.after_value, last] * (len(found) // 4) + [arguments.close, *(arguments.quotes or ())]
        elif isinstance(arguments, LiteralArguments) and arguments.quote:
            found += [arguments.quote] * (len(found) // 2)
    return found


def faults(name: str, case: Case, seeds: range, *, is_control: bool) -> list[str]:
    chat_format, tools = registry.by_name(name), [case.tool]
    vocabulary = bytes_vocabulary(*(chat_format.markers if is_control else ()))
    prompt = natural(name, "v", 1).prompt
    prompt = f"{prompt}{chat_format.reasoning.close}\n\n" if chat_format.reasoning is not None else prompt
    program = compile_lark(vocabulary, chat_format.grammar(prompt, tools, ONE))
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    validator = jsonschema.Draft202012Validator(case.tool.parameters, format_checker=checker)
    found = []
    for seed in seeds:
        text = walk_program(program, random.Random(f"{name} {seed}").getrandbits(32), words(name, case))
        message = read(chat_format, prompt, tools, text)
        if message.content or len(message.calls) != 1 or not message.calls[0].is_complete:
            found.append(f"{text!r} is read as {message!r}")
        else:
            found += [
                f"{text!r}: {error.message}" for error in validator.iter_errors(json.loads(message.calls[0].arguments))
            ]
    return found


@pytest.mark.parametrize("key", SAMPLED)
def test_sampled_call_is_read_and_meets_its_schema(key) -> None:
    names = random.Random(key).sample(ENFORCED, 3)
    assert [
        (name, fault)
        for name in ("qwen3_xml", *names)
        for fault in faults(name, CASES[key], range(3), is_control=False)
    ] == []


@pytest.mark.fuzz
@pytest.mark.parametrize("is_control", [False, True], ids=["text", "control tokens"])
@pytest.mark.parametrize("name", ENFORCED)
def test_many_sampled_calls_are_read_and_meet_their_schemas(name, is_control) -> None:
    assert [
        (key, f) for key, case in SAMPLED.items() for f in faults(name, case, range(20), is_control=is_control)
    ] == []
