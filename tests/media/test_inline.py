"""Data URLs, base64, and files below a folder."""

from __future__ import annotations

import base64
import os

import pytest

from llamafast.errors import InvalidRequestError
from llamafast.media.inline import base64_bytes, data_url_bytes, is_data_url
from llamafast.media.local import read_file_url

DATA = bytes(range(256))
TEXT = base64.b64encode(DATA).decode()


@pytest.mark.parametrize(
    "head", ["data:image/png;base64,", "DATA:image/png;BASE64,", "data:;base64,", "data:text/html;base64,"]
)
def test_data_url_gives_its_bytes(head):
    assert is_data_url(head)
    assert data_url_bytes(head + TEXT, "p", 1000) == DATA


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT.rstrip("="),
        base64.urlsafe_b64encode(DATA).decode(),
        "\n".join(TEXT[i : i + 76] for i in range(0, len(TEXT), 76)),
        " " + TEXT + "\r\n",
    ],
)
def test_base64_in_every_spelling_gives_its_bytes(text):
    assert base64_bytes(text, "p", 1000) == DATA


@pytest.mark.parametrize("text", ["", "=", "!!!!", "abc$", "a", TEXT + "ü", TEXT[:-5] + "=" + TEXT[-5:]])
def test_base64_that_is_wrong_is_refused(text):
    with pytest.raises(InvalidRequestError):
        base64_bytes(text, "p", 1000)


def test_base64_that_is_too_long_is_refused_before_it_is_decoded():
    with pytest.raises(InvalidRequestError) as caught:
        base64_bytes("!" * 10_000_000, "p", 1000)
    assert caught.value.code == "media_too_large"


@pytest.mark.parametrize("size", [999, 1000, 1001])
def test_base64_of_the_largest_size_is_taken(size):
    text = base64.b64encode(bytes(size)).decode()
    if size <= 1000:
        assert len(base64_bytes(text, "p", 1000)) == size
    else:
        with pytest.raises(InvalidRequestError):
            base64_bytes(text, "p", 1000)


@pytest.mark.parametrize("url", ["data:", "data:image/png", "data:image/png,abc", "data:image/png;base64"])
def test_data_url_without_base64_is_refused(url):
    with pytest.raises(InvalidRequestError):
        data_url_bytes(url, "p", 1000)


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "media"
    (root / "deep").mkdir(parents=True)
    (root / "a b.png").write_bytes(b"here")
    (root / "deep" / "c.png").write_bytes(b"below")
    (tmp_path / "secret").write_bytes(b"secret")
    return root


@pytest.mark.parametrize(("path", "data"), [("a%20b.png", b"here"), ("deep/c.png", b"below")])
def test_file_below_the_root_is_read(root, path, data):
    for host in ("", "localhost"):
        assert read_file_url(f"file://{host}{root}/{path}", root, "p", 100) == data


def test_files_that_are_not_below_the_root_are_refused(root):
    os.symlink(root.parent / "secret", root / "link")
    os.symlink(root.parent, root / "up")
    os.mkfifo(root / "fifo")
    paths = ["../secret", "..%2fsecret", "link", "up/secret", "fifo", "deep", "", "none", "a%00", "deep/../../secret"]
    urls = [f"file://{root}/{path}" for path in paths]
    urls += ["file:///etc/passwd", "file:///dev/zero", f"file://host{root}/deep/c.png", "file:deep/c.png"]
    messages = set()
    for url in urls:
        with pytest.raises(InvalidRequestError) as caught:
            read_file_url(url, root, "p", 100)
        messages.add(caught.value.message)
    assert messages == {"p: this file cannot be read here"}


def test_file_that_is_too_large_or_empty_is_refused(root):
    (root / "empty").write_bytes(b"")
    for name, limit in (("deep/c.png", 4), ("empty", 100)):
        with pytest.raises(InvalidRequestError):
            read_file_url(f"file://{root}/{name}", root, "p", limit)
