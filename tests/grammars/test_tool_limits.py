"""How many tools fit into one grammar, whatever the chat format writes around their arguments."""

from __future__ import annotations

from functools import partial

from llamafast.chat.enforcing.output_grammar import CallPolicy
from llamafast.chat.formats import registry
from llamafast.chat.tools import Tool
from llamafast.engine.vocabulary import grammar_vocabulary
from llamafast.grammars.compiler import GrammarCompiler
from llamafast.grammars.structured import StructuredKind, StructuredOutput
from llamafast.tokenizer import Tokenizer
from tests.engine.fakes import FakeModel
from tests.grammars.schemas import TOOLS


def test_longest_grammar_of_20_strict_tools_compiles() -> None:
    objects = [name for name, schema in TOOLS.items() if schema.get("type") == "object"]
    tools = [Tool(name, parameters=TOOLS[name], strict=True) for name in objects[:20]]
    formats = [chat_format for chat_format in map(registry.by_name, registry.names()) if chat_format.syntaxes]
    texts = [chat_format.grammar("", tools, CallPolicy(is_required=True)) for chat_format in formats]
    compiler = GrammarCompiler(partial(grammar_vocabulary, Tokenizer(FakeModel())))
    try:
        grammar = compiler.compile(StructuredOutput(StructuredKind.LARK, max(texts, key=len)))
        assert len(grammar.start().mask()) * 8 >= FakeModel.n_vocab
    finally:
        compiler.close()
