"""hub.resolve with a small HTTP server in place of the hub."""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

from llamafast.errors import ModelLoadError
from llamafast.launch.config import FromPretrained
from llamafast.launch.hub import resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "README.md": b"read me",
    "tiny-Q8_0.gguf": b"GGUF eight",
    "tiny-Q4_K_M.gguf": b"GGUF four",
    "mmproj/tower-f16.gguf": b"GGUF tower",
    "big-00001-of-00003.gguf": b"part 1",
    "big-00002-of-00003.gguf": b"part 2",
    "big-00003-of-00003.gguf": b"part 3",
}


class Hub(BaseHTTPRequestHandler):
    """A hub with the repository org/tiny and the gated repository org/secret."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        name = path.removeprefix("/org/tiny/resolve/main/")
        if path.startswith("/api/models/org/tiny"):
            files = [{"path": name, "rfilename": name, "size": len(data)} for name, data in FILES.items()]
            tree = [{"type": "file", "oid": COMMIT, **file} for file in files]
            model = {"id": "org/tiny", "sha": COMMIT, "siblings": files, "tags": [], "private": False}
            self._send(200, json.dumps(tree if "/tree/" in path else model).encode())
        elif path.startswith("/api/models/org/secret"):
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif name in FILES:
            self._send(200, FILES[name], {"ETag": f'"{zlib.crc32(FILES[name]):x}"', "X-Repo-Commit": COMMIT})
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class Endpoint:
    """The running server."""

    def __init__(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture(scope="module")
def running_hub() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    yield endpoint
    endpoint.stop()


def use(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The client reads HF_ENDPOINT when it is imported, so setting the variable here has no effect.
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}", raising=False
    )


@pytest.fixture
def hub(running_hub: Endpoint, monkeypatch: pytest.MonkeyPatch) -> str:
    use(running_hub.url, monkeypatch)
    return running_hub.url


def source(cache: Path, filename: str, **fields: object) -> FromPretrained:
    return FromPretrained.model_validate(
        {"repo_id": "org/tiny", "filename": filename, "cache_dir": str(cache), **fields}
    )


def test_resolve_exact_name_downloads_file(hub: str, tmp_path: Path) -> None:
    path = resolve(source(tmp_path, "tiny-Q8_0.gguf"))
    assert path.read_bytes() == FILES["tiny-Q8_0.gguf"]


def test_resolve_glob_finds_the_one_match(hub: str, tmp_path: Path) -> None:
    path = resolve(source(tmp_path, "*Q4_K*.gguf"))
    assert path.name == "tiny-Q4_K_M.gguf"


def test_resolve_additional_files_come_along(hub: str, tmp_path: Path) -> None:
    path = resolve(source(tmp_path, "tiny-Q8_0.gguf", additional_files=["mmproj/*.gguf", "README.md"]))
    assert path.name == "tiny-Q8_0.gguf"
    assert (path.parent / "mmproj" / "tower-f16.gguf").read_bytes() == FILES["mmproj/tower-f16.gguf"]
    assert (path.parent / "README.md").exists()


@pytest.mark.parametrize("filename", ["big-*.gguf", "big-00001-of-00003.gguf"])
def test_resolve_split_model_fetches_all_parts_and_returns_first(hub: str, tmp_path: Path, filename: str) -> None:
    path = resolve(source(tmp_path, filename))
    assert path.name == "big-00001-of-00003.gguf"
    assert sorted(part.name for part in path.parent.iterdir()) == [name for name in FILES if name.startswith("big")]


def test_resolve_local_dir_puts_file_there(hub: str, tmp_path: Path) -> None:
    path = resolve(source(tmp_path / "cache", "mmproj/tower-f16.gguf", local_dir=str(tmp_path / "here")))
    assert path == tmp_path / "here" / "mmproj" / "tower-f16.gguf"
    assert path.read_bytes() == FILES["mmproj/tower-f16.gguf"]


def test_resolve_no_match_lists_candidates(hub: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"no file matches '\*Q5\*'; it has: .*tiny-Q4_K_M.gguf, tiny-Q8_0.gguf$"):
        resolve(source(tmp_path, "*Q5*"))


def test_resolve_several_matches_lists_them(hub: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"several files match 'tiny.*': tiny-Q4_K_M.gguf, tiny-Q8_0.gguf$"):
        resolve(source(tmp_path, "tiny*"))
    assert not list(tmp_path.rglob("*.gguf"))


@pytest.mark.parametrize(
    ("repo_id", "message"),
    [
        ("org/none", "the repository does not exist"),
        ("org/secret", "access is restricted"),
        ("not//valid", "not//valid"),
    ],
)
def test_resolve_unusable_repository_is_one_line(hub: str, tmp_path: Path, repo_id: str, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message) as caught:
        resolve(source(tmp_path, "x.gguf", repo_id=repo_id))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("filename", ["tiny-Q8_0.gguf", "*Q8_0.gguf"])
@pytest.mark.parametrize("local", [False, True])
def test_resolve_offline_second_run_uses_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, filename: str, local: bool
) -> None:
    endpoint = Endpoint()
    use(endpoint.url, monkeypatch)
    local_dir = {"local_dir": str(tmp_path / "here")} if local else {}
    wanted = source(tmp_path / "cache", filename, additional_files=["mmproj/*"], **local_dir)
    first = resolve(wanted)
    endpoint.stop()
    assert resolve(wanted) == first


def test_resolve_offline_first_run_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    endpoint = Endpoint()
    endpoint.stop()
    use(endpoint.url, monkeypatch)
    with pytest.raises(ModelLoadError, match="cannot be reached and the files are not in the cache") as caught:
        resolve(source(tmp_path, "tiny-Q8_0.gguf"))
    assert "\n" not in str(caught.value)


def test_resolve_offline_partial_cache_names_missing_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    endpoint = Endpoint()
    use(endpoint.url, monkeypatch)
    resolve(source(tmp_path, "tiny-Q8_0.gguf"))
    endpoint.stop()
    with pytest.raises(ModelLoadError, match=r"no file matches 'tiny-Q4_K_M\.gguf'"):
        resolve(source(tmp_path, "tiny-Q4_K_M.gguf"))
