"""The grammar of an answer that calls tools in the syntax of a chat format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llamafast.chat.enforcing.call_syntax import CallSyntax, JsonArguments, Pattern, Piece, TaggedArguments
from llamafast.chat.enforcing.literal_grammar import literal_arguments
from llamafast.chat.enforcing.output_grammar import (
    CallPolicy,
    ContentConstraint,
    EmbeddedSchema,
    FreeText,
    OutputGrammar,
)
from llamafast.chat.enforcing.tagged_grammar import tagged_arguments
from llamafast.chat.reasoning_tags import ReasoningTags
from llamafast.chat.tools import Tool
from llamafast.errors import GrammarError

_SPACE = r"/[ \t\r\n]{0,4}/"
_NO_SYNTAX = CallSyntax((), "")


@dataclass(frozen=True, slots=True)
class PromptEnd:
    """What the end of a prompt has already begun.

    is_reasoning_open: it opens a reasoning block.
    is_reasoning_closed: it closes one.
    has_opening: it contains `opening` of the call syntax.
    has_content_header: it contains a header of content.
    may_reason: the model may open a reasoning block itself.
    """

    is_reasoning_open: bool
    is_reasoning_closed: bool
    has_opening: bool
    has_content_header: bool = False
    may_reason: bool = True

    @classmethod
    def of(
        cls, prompt: str, syntaxes: Sequence[CallSyntax], tags: ReasoningTags | None, *, may_reason: bool = True
    ) -> PromptEnd:
        """The end of a prompt's text. may_reason: the model is one that reasons."""
        text, opening = prompt.rstrip(), syntaxes[0].opening if syntaxes else ""
        is_reasoning_open = tags is not None and text.endswith(tags.open)
        opens = tuple(text for syntax in syntaxes if syntax.content for text in syntax.content.opens)
        has_content_header = text.endswith(opens) if opens else False
        is_reasoning_closed = tags is not None and text.endswith(tags.close)
        has_opening = bool(opening) and prompt.endswith(opening)
        return cls(
            is_reasoning_open,
            is_reasoning_closed,
            has_opening,
            has_content_header,
            may_reason and not has_opening and not has_content_header,
        )


def call_grammar(
    syntaxes: Sequence[CallSyntax],
    reasoning: ReasoningTags | None,
    end: PromptEnd,
    tools: Sequence[Tool],
    policy: CallPolicy,
) -> OutputGrammar:
    """The grammar of the text that may follow a prompt.

    syntaxes: the ways to write calls. The model chooses one; all begin with the same text. May be empty without tools.
    reasoning: the tags of reasoning. None: the models write none.
    tools: the tools that may be called. Clients know their parameters as tools[i].function.parameters. Without tools
        the grammar is that of policy.answer, after reasoning and inside the content frame.
    Raises GrammarError. Its param names the tool whose parameters the format cannot enforce.
    """
    grammar, first = OutputGrammar(), syntaxes[0] if syntaxes else _NO_SYNTAX
    opened, frame = first.opening if end.has_opening else "", first.content
    opens = (
        []
        if frame is None or end.has_content_header
        else [grammar.text(text.removeprefix(opened)) for text in frame.opens]
    )
    before = grammar.text(frame.close) if frame is not None and end.has_content_header else ""
    calls = [_Calls(grammar, syntax, tools, policy) for syntax in syntaxes if tools]
    grammar.rule("start", f"{_reasoning(grammar, reasoning, first.after_reasoning, end)} output".strip())
    any_calls = f"{before} ({' | '.join(each.rule(opened) for each in calls)})"
    if policy.answer is not None:
        answer = f"{''.join(opens[:1])} {_answer(grammar, policy.answer)}"
        grammar.rule("output", f"{any_calls} | {answer}" if calls else answer)
    elif policy.is_required:
        grammar.rule("output", any_calls)
    elif frame is not None:
        header = f"({' | '.join(opens)})" if opens else ""
        text, head = grammar.free_text(FreeText(frame.close or first.marker))
        behind = " | ".join(each.rule("" if frame.close else first.marker) for each in calls)
        grammar.rule("output", f"{any_calls} | {header} {text} | {header} {head} ({behind})")
    elif first.marker:
        free = FreeText(first.marker, "" if reasoning is None else reasoning.open)
        text, head = grammar.free_text(free)
        grammar.rule("output", f"{text} | {head} ({' | '.join(each.rule(first.marker) for each in calls)})")
    else:
        # Text that does not begin like a call.
        char = (first.before_calls or str(first.before_name[0]))[0]
        grammar.rule("output", rf'"" | /[^\s\{char}](?s:.*)/ | {any_calls}')
    return grammar


def as_object(parameters: Mapping[str, object]) -> dict[str, object]:
    """The schema of a tool's arguments. They are an object, even if the schema does not say so."""
    says_what = parameters.keys() & {"type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"}
    return dict(parameters) if says_what else {"type": "object", **parameters}


class _Calls:
    """The calls in one syntax."""

    def __init__(self, grammar: OutputGrammar, syntax: CallSyntax, tools: Sequence[Tool], policy: CallPolicy) -> None:
        self._grammar = grammar
        self._syntax = syntax
        self._is_parallel = policy.is_parallel and syntax.has_many
        self._tools = [(i, tool) for i, tool in enumerate(tools) if policy.names is None or tool.name in policy.names]
        if not self._tools:
            raise GrammarError("no tool of the request may be called", param="tool_choice")
        self._arguments = [self._arguments_of(i, tool) for i, tool in self._tools]

    def rule(self, written: str = "") -> str:
        """A rule for one or more calls. written: the part of their beginning that has already been matched."""
        syntax = self._syntax
        first = _joined((syntax.before_calls, *syntax.before_name))
        body = self._call((str(first[0]).removeprefix(written), *first[1:]))
        if self._is_parallel:
            body += f" {self._call(_joined((syntax.between, *syntax.before_name)))}*"
        return self._grammar.new_rule(f"{body} {self._grammar.text(syntax.after_calls)}".strip())

    def _call(self, before: Sequence[Piece]) -> str:
        syntax, grammar = self._syntax, self._grammar
        *head, last = before if isinstance(before[-1], str) else (*before, "")
        first, *rest = _joined((syntax.after_name, *syntax.before_arguments))
        alternatives = [
            f"{grammar.text(str(last), *self._names(tool), str(first))} {self._pieces(rest)} {arguments}"
            for (_, tool), arguments in zip(self._tools, self._arguments, strict=True)
        ]
        after = self._pieces(syntax.after_arguments)
        return grammar.new_rule(f"{self._pieces(head)} ({' | '.join(alternatives)}) {after}".strip())

    def _names(self, tool: Tool) -> tuple[str, ...]:
        again = self._syntax.name_again
        return (tool.name, again, tool.name) if again else (tool.name,)

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
        try:
            if isinstance(arguments, TaggedArguments):
                return tagged_arguments(self._grammar, self._syntax, arguments, schema)
            return literal_arguments(self._grammar, arguments, schema)
        except GrammarError as error:
            raise GrammarError(error.message, param=schema.param) from None


def _reasoning(grammar: OutputGrammar, tags: ReasoningTags | None, behind: str, end: PromptEnd) -> str:
    """The elements for the remaining reasoning: all of it, its rest, or none."""
    if end.is_reasoning_closed:
        return grammar.text(behind)
    if tags is None or not (end.is_reasoning_open or end.may_reason):
        return ""
    rest = f"{grammar.text_until(tags.close)} {grammar.terminal(_SPACE)} {grammar.text(behind)}"
    return rest if end.is_reasoning_open else f"({grammar.text(tags.open)} {rest})?"


def _answer(grammar: OutputGrammar, answer: ContentConstraint) -> str:
    """The elements for an answer without calls."""
    if answer.schema is not None:
        return grammar.json(EmbeddedSchema(answer.schema, answer.param, answer.strict))
    if answer.regex is not None:
        return grammar.regex(answer.regex, answer.param)
    if not answer.choices:
        raise GrammarError("the list of choices is empty", param=answer.param)
    choices = [grammar.text("", choice) or '""' for choice in answer.choices]
    return f"({' | '.join(choices)})"


def _joined(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """The same pieces, with consecutive texts joined. The first piece is a text."""
    joined: list[Piece] = [""]
    for piece in pieces:
        last = joined[-1]
        if isinstance(piece, str) and isinstance(last, str):
            joined[-1] = last + piece
        else:
            joined.append(piece)
    return tuple(joined)
