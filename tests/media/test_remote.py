"""Fetching over the network: which hosts, which addresses, and servers that mean harm. All on loopback."""

from __future__ import annotations

import asyncio
import gzip

import pytest

from llamafast.errors import InvalidRequestError
from llamafast.media.addresses import is_public
from llamafast.media.remote import RemoteMedia, RemotePolicy

LAB = RemotePolicy(allow_private=True, timeout_s=2.0)


class Server:
    """A loopback server that answers every request with the same bytes. requests: what came."""

    def __init__(self, *answers: bytes, pause_s: float = 0.0, endless: bytes = b"") -> None:
        self.requests: list[bytes] = []
        self._answers, self._pause_s, self._endless = list(answers), pause_s, endless

    async def __aenter__(self) -> Server:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader, writer):
        try:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            answer = self._answers[min(len(self.requests), len(self._answers)) - 1]
            for i in range(0, len(answer), 1 if self._pause_s else 65536):
                writer.write(answer[i : i + (1 if self._pause_s else 65536)])
                await writer.drain()
                await asyncio.sleep(self._pause_s)
            while self._endless:
                writer.write(self._endless)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def ok(body: bytes, *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def fetched(url, server=None, *, policy=LAB, addresses=("127.0.0.1",), max_bytes=1000):
    """The bytes, or the error; and the number of lookups."""
    lookups = []

    async def resolve(host, port):
        lookups.append(host)
        found = addresses(len(lookups)) if callable(addresses) else addresses
        if found is None:
            raise OSError
        return found

    async def main():
        media = RemoteMedia(policy, resolve)
        try:
            if server is None:
                return await media.fetch(url, "p", max_bytes)
            async with server:
                return await media.fetch(url.replace("PORT", str(server.port)), "p", max_bytes)
        except InvalidRequestError as error:
            assert error.param == "p"
            assert "127.0.0.1" not in error.message
            return error

    return asyncio.run(main()), lookups


def test_fetch_gives_the_body_and_sends_the_hosts_name():
    server = Server(ok(b"pixels"))
    assert fetched("http://example.com:PORT/a/b.png?x=1", server)[0] == b"pixels"
    head = server.requests[0].decode()
    assert head.startswith("GET /a/b.png?x=1 HTTP/1.1\r\n")
    assert f"\r\nHost: example.com:{server.port}\r\n" in head
    assert "Accept-Encoding: identity" in head


PRIVATE = [
    "127.0.0.1", "10.1.2.3", "192.168.1.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "192.0.0.8",
    "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "::ffff:127.0.0.1",
    "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "ff02::1", "::127.0.0.1", "not an address",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_address_that_is_not_public_is_none(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:2800:220:1::1", "::ffff:8.8.8.8"])
def test_address_that_is_public_is_one(address):
    assert is_public(address)


@pytest.mark.parametrize("addresses", [("127.0.0.1",), ("8.8.8.8", "127.0.0.1"), ("::1",), ()])
def test_host_with_any_private_address_is_never_dialled(addresses):
    server = Server(ok(b"secret"))
    error, _ = fetched("http://example.com:80/", server, policy=RemotePolicy(), addresses=addresses)
    assert isinstance(error, InvalidRequestError)
    assert server.requests == []


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "2130706433", "0x7f.1", "017700000001", "127.1", "localhost."],
)
def test_host_that_means_this_machine_is_refused_with_the_real_lookup(host):
    async def main():
        with pytest.raises(InvalidRequestError):
            await RemoteMedia(RemotePolicy(timeout_s=2.0)).fetch(f"http://{host}/x", "p", 100)

    asyncio.run(main())


def test_name_is_looked_up_once_and_its_judged_address_dialled():
    server = Server(ok(b"pixels"))
    result, lookups = fetched(
        "http://example.com:PORT/", server, addresses=lambda n: ["127.0.0.1"] if n == 1 else ["::1"]
    )
    assert (result, lookups) == (b"pixels", ["example.com"])


@pytest.mark.parametrize(
    "url",
    [
        "", "http://", "ftp://example.com/", "javascript:alert(1)", "//example.com/", "http:///x",
        "http://user@example.com/",
        "http://example.com@evil.com/", "http://exa mple.com/", "http://example.com/\r\nX: y", "http://example.com:99999/",
        "http://example.com:8080/", "http://exämple.com/", "http://[::1", "http://example.com\\@evil.com/",
        "http://a/" + "x" * 9000,
        "gopher://example.com/", "file:///etc/passwd",
    ],
)  # fmt: skip
def test_url_that_is_odd_is_refused_without_a_lookup(url):
    error, lookups = fetched(url, policy=RemotePolicy())
    assert isinstance(error, InvalidRequestError)
    assert lookups == []


@pytest.mark.parametrize(
    ("allowed", "host", "is_allowed"),
    [
        (None, "example.com", True),
        ((), "example.com", False),
        (("example.com",), "example.com", True),
        (("example.com",), "EXAMPLE.com", True),
        (("example.com",), "example.com.", True),
        (("example.com",), "sub.example.com", False),
        (("example.com",), "example.com.evil.org", False),
        (("example.com",), "badexample.com", False),
        (("*.example.com",), "sub.example.com", True),
        (("*.example.com",), "example.com", False),
        (("*",), "anything.org", True),
    ],
)
def test_host_is_fetched_if_the_list_names_it(allowed, host, is_allowed):
    policy = RemotePolicy(allowed_domains=allowed, allow_private=True, timeout_s=2.0)
    result, _ = fetched(f"http://{host}:PORT/", Server(ok(b"x")), policy=policy)
    assert (result == b"x") is is_allowed


def redirect(to: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()


def test_redirect_is_not_followed():
    server = Server(redirect("/other"), ok(b"secret"))
    error, _ = fetched("http://example.com:PORT/", server)
    assert "redirects are not followed" in error.message
    assert len(server.requests) == 1


def test_redirect_is_followed_where_allowed_and_judged_anew():
    policy = RemotePolicy(allow_private=True, max_redirects=1, timeout_s=2.0)
    assert fetched("http://example.com:PORT/", Server(redirect("/b"), ok(b"x")), policy=policy)[0] == b"x"
    for target in ("file:///etc/passwd", "http://user@example.com/", "gopher://x/"):
        error, _ = fetched("http://example.com:PORT/", Server(redirect(target), ok(b"x")), policy=policy)
        assert isinstance(error, InvalidRequestError)


def test_redirects_without_an_end_are_refused():
    policy = RemotePolicy(allow_private=True, max_redirects=3, timeout_s=2.0)
    server = Server(redirect("/again"))
    assert "too many redirects" in fetched("http://example.com:PORT/", server, policy=policy)[0].message
    assert len(server.requests) == 4


HARMFUL = {
    "a drip": Server(ok(bytes(500)), pause_s=0.02),
    "headers without an end": Server(b"HTTP/1.1 200 OK\r\n", endless=b"X: y\r\n"),
    "a body without an end": Server(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", endless=b"400\r\n" + bytes(1024) + b"\r\n"
    ),
    "more than it says": Server(b"HTTP/1.1 200 OK\r\n\r\n", endless=bytes(4096)),
    "less than it says": Server(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\nabc"),
    "too much": Server(ok(bytes(1001))),
    "nothing": Server(ok(b"")),
    "a bomb": Server(ok(gzip.compress(bytes(100_000)), "Content-Encoding: gzip")),
    "404": Server(b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\nsecret"),
    "no HTTP": Server(b"SSH-2.0-OpenSSH\r\n"),
    "silence": Server(b"", endless=b""),
}


@pytest.mark.parametrize("server", HARMFUL.values(), ids=HARMFUL.keys())
def test_server_that_means_harm_costs_one_error(server):
    policy = RemotePolicy(allow_private=True, timeout_s=0.5)
    error, _ = fetched("http://example.com:PORT/", server, policy=policy)
    assert isinstance(error, InvalidRequestError)
    assert "secret" not in error.message


def test_host_without_an_address_is_refused():
    assert isinstance(fetched("http://example.com/", addresses=lambda n: None)[0], InvalidRequestError)
