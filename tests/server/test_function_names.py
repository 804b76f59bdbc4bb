"""Errors and warnings about the older `functions` name that field."""

from __future__ import annotations

from llamafast.chat.prompt.template_traits import TemplateTraits
from llamafast.errors import GrammarError
from llamafast.request import FinishReason, RequestOutput, Usage

from .conftest import FakeGrammar

NAMED = {"functions": [{"name": "now"}], "function_call": {"name": "now"}}


def test_functions_without_a_place_in_the_template_are_refused_by_name(server):
    server.template.traits = TemplateTraits(variables=frozenset())
    error = server.chat(functions=NAMED["functions"]).json()["error"]
    assert (error["param"], error["message"]) == ("functions", "this model's chat template does not support functions")


def test_functions_that_are_not_enforced_are_named_in_the_warning(server):
    server.engine.grammar = FakeGrammar(("format",))
    assert server.chat(**NAMED).headers["warning"] == '299 llamafast "functions: not enforced: format"'


def test_functions_that_no_grammar_can_enforce_are_named(server):
    server.engine.grammar = GrammarError("not this")
    error = server.chat(**NAMED).json()["error"]
    assert (error["param"], error["message"]) == ("functions", "functions: not this")


def test_functions_whose_grammar_fails_during_the_answer_are_named(server):
    error = GrammarError("nothing is allowed")
    server.engine.reply = lambda request: [
        [RequestOutput(request.request_id, 0, "", [], None, FinishReason.ERROR, usage=Usage(1, 0), error=error)]
    ]
    assert server.chat(**NAMED).json()["error"]["param"] == "functions"
