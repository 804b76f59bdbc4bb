"""Constraints on an output: the client's, the compiled one, and warnings about parts that are not enforced."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llamafast.engine.async_engine import AsyncEngine
from llamafast.errors import GrammarError
from llamafast.grammars.constraint import Grammar
from llamafast.grammars.structured import StructuredKind, StructuredOutput

_MAX_HEADER_CHARS = 2000
_MAX_MESSAGE_CHARS = 1000  # compilers quote the grammar


@dataclass(frozen=True, slots=True)
class OutputConstraint:
    """A constraint on the output's text, as a request asks for it.

    param: the path of the client's field that contains the constraint.
    structured: the schema, regex, choice or grammar that the text has to match.
    """

    param: str
    structured: StructuredOutput


@dataclass(frozen=True, slots=True)
class CompiledConstraint:
    """A constraint as the engine takes it. The default value is no constraint.

    structured: the value of SamplingParams.structured.
    grammar: the value of Request.grammar.
    warnings: one text for each part of the client's constraint that is not enforced.
    """

    structured: StructuredOutput | None = None
    grammar: Grammar | None = None
    warnings: tuple[str, ...] = ()

    @property
    def headers(self) -> dict[str, str]:
        """The response headers that contain the warnings."""
        return warning_headers(self.warnings)


async def compile_constraint(
    engine: AsyncEngine, constraint: OutputConstraint | None, *, start_after: tuple[int, ...] = ()
) -> CompiledConstraint:
    """Compile a constraint on the text of an output.

    constraint: None for no constraint.
    start_after: the constraint begins after these token ids. Empty: at the first token of the output.
    Raises CompilerBusyError, and GrammarError, which names the client's field.
    """
    if constraint is None:
        return CompiledConstraint()
    return await compile_output(engine, replace(constraint.structured, start_after=start_after), constraint.param)


async def compile_output(engine: AsyncEngine, structured: StructuredOutput, param: str) -> CompiledConstraint:
    """Compile a schema, regex, choice or grammar for an output.

    param: the client's field, for errors and warnings. A grammar of the kind LARK is made from several fields. An error
    in it may name another field.
    Raises GrammarError and CompilerBusyError.
    """
    try:
        grammar = await engine.compile_grammar(structured)
    except GrammarError as exc:
        param = exc.param if exc.param and structured.kind is StructuredKind.LARK else param
        raise GrammarError(f"{param}: {exc.message[:_MAX_MESSAGE_CHARS]}", param=param, code=exc.code) from exc
    warnings = (f"{param}: not enforced: {'; '.join(grammar.warnings)}",) if grammar.warnings else ()
    return CompiledConstraint(structured, grammar, warnings)


def warning_headers(warnings: Sequence[str]) -> dict[str, str]:
    """The header `Warning` with these texts; no header for no texts. Texts may quote a client: only ASCII is kept.

    RFC 7234 (5.5) defines the header; RFC 9111 (5.5) makes it obsolete. Clients that do not know it ignore it.
    """
    return {"warning": ", ".join(map(_warning, warnings))} if warnings else {}


def _warning(text: str) -> str:
    """One value of the header: code 299 (a miscellaneous persistent warning), agent, text."""
    visible = re.sub(r"[^ -~]", "?", text)[:_MAX_HEADER_CHARS].replace("\\", "\\\\").replace('"', '\\"')
    return f'299 llamafast "{visible}"'
