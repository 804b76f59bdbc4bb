"""Random outputs that a grammar allows, and call syntaxes for tests."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

from llamafast.chat.enforcing.call_grammar import PromptEnd, call_grammar
from llamafast.chat.enforcing.call_syntax import CallSyntax, LiteralArguments, Pattern, TaggedArguments, json_list
from llamafast.chat.enforcing.output_grammar import CallPolicy
from llamafast.chat.reasoning_tags import ReasoningTags
from llamafast.chat.tools import Tool
from llamafast.grammars.constraint import Program
from llamafast.grammars.lark import compile_lark
from llamafast.grammars.vocabulary import Vocabulary
from tests.grammars.schemas import TOOLS
from tests.grammars.vocabularies import END

THINK = ReasoningTags("<think>", "</think>")
MAX_TOKENS = 6000
WORDS = ('"', "}", "]", "</parameter>", "\n</parameter>")  # words with which an output reaches its end
# One format of each kind: arguments between tags, JSON objects, a list of them.
TAGGED = CallSyntax(
    before_name=("<tool_call>\n<function=",),
    after_name=">\n",
    arguments=TaggedArguments("<parameter=", ">\n", "\n</parameter>\n", "</parameter>"),
    after_arguments=("</function>\n</tool_call>",),
    marker="<tool_call>",
)
OBJECTS = CallSyntax(
    before_name=('<tool_call>\n{"name": "',),
    after_name='", "arguments": ',
    after_arguments=("}\n</tool_call>",),
    marker="<tool_call>",
)
QUOTED = CallSyntax(
    before_name=("call:",), after_name="{", arguments=LiteralArguments(":", ",", "'"), after_arguments=("}",)
)
LIST = json_list("[TOOL_CALLS][", "]", after_arguments=(', "id": "', Pattern("[a-z0-9]{9}"), '"}'))
OBJECT_TOOLS = [Tool(name, "", schema, strict=True) for name, schema in TOOLS.items() if schema.get("type") == "object"]
TOOL = {tool.name: tool for tool in OBJECT_TOOLS}


def walk(
    vocabulary: Vocabulary,
    syntax: CallSyntax | tuple[CallSyntax, ...],
    tools: Sequence[Tool],
    rules: CallPolicy,
    *,
    tags: ReasoningTags | None = THINK,
    prompt: str = "</think>",
    seed: int = 0,
    words: Sequence[str] = WORDS,
) -> str:
    """An output with calls."""
    syntaxes = syntax if isinstance(syntax, tuple) else (syntax,)
    source = call_grammar(syntaxes, tags, PromptEnd.of(prompt, syntaxes, tags), tools, rules).source
    return walk_program(compile_lark(vocabulary, source), seed, words)


def walk_program(program: Program, seed: int, words: Sequence[str]) -> str:
    """An output of allowed letters and words, drawn at random. It must reach its end."""
    constraint, vocabulary = program.start(), program.vocabulary
    ids, pattern = vocabulary.control_ids, vocabulary.control_pattern
    rng, token_ids, wanted = random.Random(seed), list[int](), list[int]()
    while len(token_ids) < MAX_TOKENS:
        for token_id in constraint.forced():
            assert constraint.accept(token_id)
            token_ids.append(token_id)
        if constraint.is_finished:
            break
        if not wanted and rng.random() < 0.4:
            word = rng.choice(words)
            parts = [word] if pattern is None else pattern.split(word)
            wanted = [i for part in parts for i in ([ids[part]] if part in ids else part.encode())]
        if wanted and constraint.accept(wanted[0]):
            token_ids.append(wanted.pop(0))
            continue
        wanted = []
        bits = int.from_bytes(constraint.mask(), "little")
        allowed = [i for i in range(vocabulary.n_vocab) if bits >> i & 1]
        if END in allowed and rng.random() < 0.5:
            break
        token_id = rng.choice(
            [i for i in allowed if i == 10 or 32 <= i < 127 or i > END] or [i for i in allowed if i != END]
        )
        assert constraint.accept(token_id)
        token_ids.append(token_id)
    assert len(token_ids) < MAX_TOKENS, "the output does not end"
    names = {i: name for name, i in ids.items()}
    return b"".join(names[i].encode() if i in names else bytes([i]) for i in token_ids).decode("utf-8", "replace")


def listed(text: str) -> list[dict]:
    """The calls of an output in LIST."""
    return json.loads(text.removeprefix("[TOOL_CALLS]"))
