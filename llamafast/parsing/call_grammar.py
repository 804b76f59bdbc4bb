"""The grammar of an answer that calls tools in a format's own syntax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llamafast.errors import GrammarError
from llamafast.parsing.call_syntax import CallSyntax, JsonArguments, Pattern, Piece, ReasoningTags
from llamafast.parsing.output_grammar import CallRules, EmbeddedSchema, FreeText, OutputGrammar
from llamafast.parsing.tagged_grammar import tagged_arguments
from llamafast.parsing.tools import Tool

_SPACE = r"/[ \t\r\n]{0,4}/"


def call_grammar(
    syntax: CallSyntax, reasoning: ReasoningTags | None, prompt: str, tools: Sequence[Tool], rules: CallRules
) -> OutputGrammar:
    """What may follow a prompt. The parameters of tools are known to clients as tools[i].function.parameters.

    Raises GrammarError naming the tool whose parameters this format cannot enforce.
    """
    grammar = OutputGrammar()
    builder = _Builder(grammar, syntax, tools, rules)
    grammar.rule("start", f"{_reasoning(grammar, reasoning, syntax.after_reasoning, prompt)} output".strip())
    if rules.answer_schema is not None:
        answer = grammar.json(EmbeddedSchema(rules.answer_schema, "response_format.json_schema.schema", True))
        grammar.rule("output", f"{builder.calls()} | {answer}")
    elif rules.is_required:
        grammar.rule("output", builder.calls())
    else:
        grammar.rule("output", builder.text_or_calls(reasoning))
    return grammar


class _Builder:
    def __init__(self, grammar: OutputGrammar, syntax: CallSyntax, tools: Sequence[Tool], rules: CallRules) -> None:
        self._grammar = grammar
        self._syntax = syntax
        self._rules = rules
        self._tools = [(i, tool) for i, tool in enumerate(tools) if rules.names is None or tool.name in rules.names]
        if not self._tools:
            raise GrammarError("there is no tool that may be called", param="tool_choice")
        self._arguments = [self._arguments_of(i, tool) for i, tool in self._tools]

    def calls(self, num_seen: int = 0) -> str:
        """A rule for one call or more, as the rules have it; num_seen characters of it have been matched before."""
        syntax = self._syntax
        first = _joined((syntax.before_calls, *syntax.before_name))
        head = first[0]
        assert isinstance(head, str)
        body = self._call((head[num_seen:], *first[1:]))
        if self._rules.is_parallel:
            body += f" {self._call(_joined((syntax.between, *syntax.before_name)))}*"
        return self._grammar.new_rule(f"{body} {self._grammar.text(syntax.after_calls)}".strip())

    def text_or_calls(self, reasoning: ReasoningTags | None) -> str:
        """The body of a rule for free text, in which the first call's marker begins what must be calls."""
        syntax = self._syntax
        if syntax.marker:
            free = FreeText(syntax.marker, "" if reasoning is None else reasoning.open, syntax.content_tokens)
            text, head = self._grammar.free(free)
            return f"{text} | {head} {self.calls(len(syntax.marker))}"
        first = _joined((syntax.before_calls, *syntax.before_name))[0]
        assert isinstance(first, str)
        return rf'"" | /[^\s\{first[0]}](?s:.*)/ | {self.calls()}'

    def _call(self, before: Sequence[Piece]) -> str:
        syntax, grammar = self._syntax, self._grammar
        after = self._pieces(syntax.after_arguments)
        *head, last = before if isinstance(before[-1], str) else (*before, "")
        alternatives = [
            f"{grammar.text(f'{last}{tool.name}{syntax.after_name}')} {arguments}"
            for (_, tool), arguments in zip(self._tools, self._arguments, strict=True)
        ]
        return grammar.new_rule(f"{self._pieces(head)} ({' | '.join(alternatives)}) {after}".strip())

    def _pieces(self, pieces: Sequence[Piece]) -> str:
        grammar = self._grammar
        return " ".join(
            grammar.terminal(f"/{piece.regex}/") if isinstance(piece, Pattern) else grammar.text(piece)
            for piece in pieces
        )

    def _arguments_of(self, i: int, tool: Tool) -> str:
        arguments = self._syntax.arguments
        schema = EmbeddedSchema(as_object(tool.parameters), f"tools[{i}].function.parameters", tool.strict)
        if isinstance(arguments, JsonArguments):
            return self._grammar.json(schema)
        self._grammar.checked.append(schema)
        return tagged_arguments(self._grammar, arguments, schema)


def as_object(parameters: Mapping[str, object]) -> dict[str, object]:
    """The schema of a tool's arguments, which are an object even where it does not say so."""
    says_what = parameters.keys() & {"type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"}
    return dict(parameters) if says_what else {"type": "object", **parameters}


def _reasoning(grammar: OutputGrammar, tags: ReasoningTags | None, behind: str, prompt: str) -> str:
    """The elements for what is left of the reasoning: all of it, its rest, or none."""
    prompt = prompt.rstrip()
    if tags is None or prompt.endswith(tags.close):
        return grammar.text(behind)
    rest = f"{grammar.until(tags.close)} {grammar.terminal(_SPACE)} {grammar.text(behind)}"
    return rest if prompt.endswith(tags.open) else f"({grammar.text(tags.open)} {rest})?"


def _joined(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """The same pieces, texts that follow each other being one; the first one is a text."""
    joined: list[Piece] = [""]
    for piece in pieces:
        last = joined[-1]
        if isinstance(piece, str) and isinstance(last, str):
            joined[-1] = last + piece
        else:
            joined.append(piece)
    return tuple(joined)
