"""The socket that the server listens on."""

from __future__ import annotations

import socket

from llamafast.errors import ConfigError

_BACKLOG = 2048


def bind(host: str, port: int) -> socket.socket:
    """A socket on host:port that does not listen yet. Raises ConfigError.

    Call it before the models load, so that a port in use is reported at once.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(_fault(host, port, error)) from None
    return listener


def listen(listener: socket.socket) -> None:
    """Let clients connect. Raises ConfigError."""
    try:
        listener.listen(_BACKLOG)
    except OSError as error:
        host, port = listener.getsockname()[:2]
        raise ConfigError(_fault(host, port, error)) from None


def url_of(listener: socket.socket) -> str:
    """The URL of the server for clients on this machine."""
    host, port = listener.getsockname()[:2]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _fault(host: str, port: int, error: OSError) -> str:
    return f"cannot listen on {host}:{port}: {error.strerror or error}; choose another address with --host or --port"
