"""Tools for a model with an unknown call format."""

from __future__ import annotations

import dataclasses

import pytest

from llamafast.server.served_model import ServedModel

TOOLS = [{"type": "function", "function": {"name": "now"}}]


@pytest.fixture
def unknown(server):
    """A server with a template that supports tools but has no known call format."""
    server.template.source = "{{ tools }}"
    model = ServedModel.new(server.engine, server.model.names, chat_template=server.template)
    return dataclasses.replace(server, model=model)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("tools", [{"tools": TOOLS}, {"functions": [TOOLS[0]["function"]]}], ids=list)
def test_tools_in_an_unknown_format_bring_a_warning(unknown, stream, tools):
    response = unknown.chat(**tools, stream=stream)
    assert response.status_code == 200
    assert response.headers["warning"].startswith(f'299 llamafast "{next(iter(tools))}: calls stay in the content')


def test_tools_that_may_not_be_called_bring_no_warning(unknown):
    assert "warning" not in unknown.chat(tools=TOOLS, tool_choice="none").headers


def test_tools_in_a_known_format_bring_no_warning(server):
    assert "warning" not in server.chat(tools=TOOLS).headers
