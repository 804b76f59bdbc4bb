"""Tools for a model of which nobody knows how it writes calls."""

from __future__ import annotations

import dataclasses

import pytest

from llamafast.server.served_model import ServedModel

TOOLS = [{"type": "function", "function": {"name": "now"}}]


@pytest.fixture
def unknown(server):
    """A server with a template that shows tools and no calls."""
    server.template.source = "{{ tools }}"
    model = ServedModel.new(server.engine, server.model.names, chat_template=server.template)
    return dataclasses.replace(server, model=model)


@pytest.mark.parametrize("stream", [False, True])
def test_tools_in_an_unknown_format_bring_a_warning(unknown, stream):
    response = unknown.chat(tools=TOOLS, stream=stream)
    assert response.status_code == 200
    assert response.headers["warning"].startswith('299 llamafast "tools: calls stay in the content')


def test_tools_that_may_not_be_called_bring_no_warning(unknown):
    assert "warning" not in unknown.chat(tools=TOOLS, tool_choice="none").headers


def test_tools_in_a_known_format_bring_no_warning(server):
    assert "warning" not in server.chat(tools=TOOLS).headers
