"""Handshakes of the WebSocket of responses that are refused."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient, WebSocketDenialResponse

from llamafast.server.responses.service import Responses
from llamafast.server.routes.response_socket import ResponseSockets, response_socket_router
from llamafast.server.state import ServerState


@pytest.mark.parametrize(
    ("max_connections", "is_closed", "code"), [(0, False, "queue_full"), (9, True, "shutting_down")]
)
def test_handshake_above_the_limit_or_at_the_end_gets_503(server, max_connections, is_closed, code):
    state = ServerState([server.model], server.settings)
    sockets = ResponseSockets(state, Responses(state, None), max_connections=max_connections)
    if is_closed:
        sockets.close()
    app = FastAPI()
    app.include_router(response_socket_router(sockets))
    with pytest.raises(WebSocketDenialResponse) as refused, TestClient(app).websocket_connect("/v1/responses"):
        pass
    assert refused.value.status_code == 503
    assert refused.value.json()["error"]["code"] == code
