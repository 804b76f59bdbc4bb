"""Media from the network: one lookup, public addresses only, within a time and a size."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

import httpcore

from llamafast.errors import InvalidRequestError, QueueFullError
from llamafast.media.addresses import is_public

_log = logging.getLogger(__name__)

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

_MAX_URL_CHARS = 8192
_MAX_FETCHES = 64  # of all requests, running or waiting
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class RemotePolicy:
    """Which URLs are fetched.

    allowed_domains: host names, or `*.example.com` for all below one; None: any host; empty: none. allow_private:
    addresses that are not public too, for labs. max_redirects: how many are followed, each judged anew. timeout_s:
    seconds for one fetch, all together.
    """

    allowed_domains: tuple[str, ...] | None = None
    allow_private: bool = False
    max_redirects: int = 0
    timeout_s: float = 10.0


class RemoteMedia:
    """Fetches files for requests. Errors tell nothing of what lies inside a network; the log does."""

    def __init__(self, policy: RemotePolicy, resolve: Resolve | None = None) -> None:
        self._policy = policy
        self._resolve = resolve or _looked_up
        self._slots = asyncio.Semaphore(_MAX_FETCHES)
        self._num_waiting = 0
        self._tls = ssl.create_default_context()

    async def fetch(self, url: str, param: str, max_bytes: int) -> bytes:
        """The bytes at a URL. Raises InvalidRequestError, naming `param`, and QueueFullError."""
        if self._num_waiting >= 4 * _MAX_FETCHES:
            raise QueueFullError("too many files are being fetched; try again later", retry_after=1.0)
        self._num_waiting += 1
        try:
            async with self._slots:
                return await asyncio.wait_for(self._follow(url, param, max_bytes), self._policy.timeout_s)
        except (asyncio.TimeoutError, TimeoutError):
            raise _refused(param, f"it took longer than {self._policy.timeout_s:g} seconds") from None
        finally:
            self._num_waiting -= 1

    async def _follow(self, url: str, param: str, max_bytes: int) -> bytes:
        for _ in range(self._policy.max_redirects + 1):
            found = await self._get(url, param, max_bytes)
            if isinstance(found, bytes):
                return found
            if url.startswith("https:") and not found.startswith("https:"):
                raise _refused(param, "it is redirected from https to http")
            url = found
        raise _refused(param, "redirects are not followed" if not self._policy.max_redirects else "too many redirects")

    async def _get(self, url: str, param: str, max_bytes: int) -> bytes | str:
        """The body, or where it is redirected to."""
        parts, host, port = self._checked(url, param)
        try:
            addresses = await self._resolve(host, port)
        except OSError:
            raise _refused(param, "its host has no address") from None
        if not addresses or not (self._policy.allow_private or all(map(is_public, addresses))):
            _log.warning("refused to fetch media from %s: %s", host, ", ".join(addresses))
            raise _refused(param, "its host is not allowed")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        name = f"[{host}]" if ":" in host else host
        default = 443 if parts.scheme == "https" else 80
        request = httpcore.Request(
            "GET",
            httpcore.URL(scheme=parts.scheme, host=host, port=port, target=target),
            headers={
                "Host": name if port == default else f"{name}:{port}",
                "Accept-Encoding": "identity",
                "User-Agent": "llamafast",
                "Connection": "close",
            },
        )
        backend = _DialsOnly(addresses)
        try:
            async with httpcore.AsyncConnectionPool(
                ssl_context=self._tls, network_backend=backend, max_connections=1, max_keepalive_connections=0
            ) as pool:
                response = await pool.handle_async_request(request)
                try:
                    return await _body(response, url, param, max_bytes)
                finally:
                    await response.aclose()
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, ssl.SSLError, OSError) as exc:
            _log.info("media from %s could not be fetched: %s", host, exc or type(exc).__name__)
            raise _refused(param, "it could not be fetched") from None

    def _checked(self, url: str, param: str) -> tuple[SplitResult, str, int]:
        """The parts of a URL that may be fetched. Raises InvalidRequestError."""
        if len(url) > _MAX_URL_CHARS:
            raise _refused(param, f"it is longer than {_MAX_URL_CHARS} characters")
        if not url.isascii() or any(character <= " " or character in "\\\x7f" for character in url):
            raise _refused(param, "it holds characters that no URL has")
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").rstrip(".").lower(), parts.port
        except ValueError:
            raise _refused(param, "it is not a URL") from None
        if parts.scheme not in ("http", "https"):
            raise _refused(param, "only http, https, data and (where allowed) file URLs are read")
        if "@" in parts.netloc or not host:
            raise _refused(param, "it must name a host and no user")
        default = 443 if parts.scheme == "https" else 80
        if port is not None and port not in (80, 443) and not self._policy.allow_private:
            raise _refused(param, "only the ports 80 and 443 are allowed")
        allowed = self._policy.allowed_domains
        if allowed is not None and not any(_matches(host, pattern.lower()) for pattern in allowed):
            raise _refused(param, "its host is not allowed")
        return parts, host, port or default


class _DialsOnly(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were judged, whatever host is asked for."""

    def __init__(self, addresses: Iterable[str]) -> None:
        self._addresses = tuple(addresses)
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        error: Exception = httpcore.ConnectError("no address")
        for address in self._addresses:
            try:
                return await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                error = exc
        raise error

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise httpcore.ConnectError("no sockets of files")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def _body(response: httpcore.Response, url: str, param: str, max_bytes: int) -> bytes | str:
    headers = {name.lower(): value for name, value in response.headers}
    if response.status in _REDIRECTS and b"location" in headers:
        return urljoin(url, headers[b"location"].decode("ascii", "replace"))
    if response.status != 200:
        raise _refused(param, "it could not be fetched")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise _refused(param, "it came compressed, which was not asked for")
    pieces: list[bytes] = []
    size = 0
    async for piece in response.aiter_stream():
        size += len(piece)
        if size > max_bytes:
            raise InvalidRequestError(
                f"{param}: the file is larger than {max_bytes} bytes", param=param, code="media_too_large"
            )
        pieces.append(piece)
    if not size:
        raise _refused(param, "it is empty")
    return b"".join(pieces)


async def _looked_up(host: str, port: int) -> Sequence[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _matches(host: str, pattern: str) -> bool:
    if pattern == "*":
        return True
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern.rstrip(".")


def _refused(param: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param}: the file cannot be used: {why}", param=param, code="invalid_image_url")
