"""Downloads files from the Hugging Face hub: `from_pretrained` -> local path. No other module downloads."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from llamafast.errors import ModelLoadError
from llamafast.launch.config import FromPretrained

# The hub's client changed its HTTP library twice, and each library has its own network errors. The client derives its
# error from the base of all errors of the library that it uses.
_NETWORK_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    *(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)),
)
_TIMEOUT_S = 10.0
_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<total>\d{5})\.gguf")


def resolve(source: FromPretrained) -> Path:
    """The local path of the file that `source` names. Downloads it and its additional files if they are missing.

    All parts of a split model are downloaded; the path is that of the first part. Without a connection, files of an
    earlier download are used. Raises ModelLoadError, in one line, if the repository does not exist, if no file or
    several files match, or without a connection.
    """
    try:
        # Not list_repo_files(): without a connection it retries for half a minute.
        info = HfApi().model_info(source.repo_id, timeout=_TIMEOUT_S)
    except GatedRepoError:
        raise ModelLoadError(
            f"{source.repo_id}: access is restricted; accept its terms on huggingface.co and set HF_TOKEN"
        ) from None
    except RepositoryNotFoundError:
        raise ModelLoadError(
            f"{source.repo_id}: the repository does not exist, or it is private and HF_TOKEN is not set"
        ) from None
    except HFValidationError as error:
        raise ModelLoadError(f"{source.repo_id}: {_first_line(error)}") from None
    except _NETWORK_ERRORS as error:
        return _resolve_offline(source, error)
    names = [file.rfilename for file in info.siblings or []]
    paths = [_download(source, name) for name in _wanted(source, names)]
    return paths[0]


def find_local(source: FromPretrained) -> Path | None:
    """The local path of the file that `source` names; None if it was never downloaded. Makes no connection."""
    try:
        return _resolve_offline(source, LocalEntryNotFoundError("not asked"))
    except ModelLoadError:
        return None


def _resolve_offline(source: FromPretrained, reason: Exception) -> Path:
    try:
        folder = snapshot_download(
            source.repo_id,
            local_dir=source.local_dir,
            cache_dir=source.cache_dir,
            allow_patterns=[source.filename, *source.additional_files],
            local_files_only=True,
        )
    except EntryNotFoundError:
        raise ModelLoadError(
            f"{source.repo_id}: the hub cannot be reached and the files are not in the cache ({_first_line(reason)})"
        ) from None
    root = Path(folder)
    names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    return root / _wanted(source, names)[0]


def _download(source: FromPretrained, name: str) -> Path:
    try:
        return Path(hf_hub_download(source.repo_id, name, local_dir=source.local_dir, cache_dir=source.cache_dir))
    except LocalEntryNotFoundError as error:
        raise ModelLoadError(
            f"{source.repo_id}: the connection broke before {name} was complete ({_first_line(error)})"
        ) from None
    except _NETWORK_ERRORS as error:
        raise ModelLoadError(f"{source.repo_id}: {name} cannot be downloaded: {_first_line(error)}") from None


def _wanted(source: FromPretrained, names: list[str]) -> list[str]:
    """The names of the files to download; the first one is the file to load. Raises ModelLoadError."""
    main = _match(source, source.filename, names)
    wanted = [main, *_other_shards(main)]
    wanted += [_match(source, pattern, names) for pattern in source.additional_files]
    return list(dict.fromkeys(wanted))


def _match(source: FromPretrained, pattern: str, names: list[str]) -> str:
    found = sorted(name for name in names if name == pattern or fnmatchcase(name, pattern))
    if not found:
        candidates = [name for name in names if name.endswith(".gguf")] or names
        raise ModelLoadError(f"{source.repo_id}: no file matches {pattern!r}; it has: {', '.join(sorted(candidates))}")
    if len(found) > 1 and found[1:] != _other_shards(found[0]):
        raise ModelLoadError(f"{source.repo_id}: several files match {pattern!r}: {', '.join(found)}")
    return found[0]


def _other_shards(name: str) -> list[str]:
    """The names of the other parts if `name` is the first part of a split model; else none."""
    match = _SHARD.fullmatch(name)
    if match is None or int(match["number"]) != 1:
        return []
    return [f"{match['stem']}-{number:05}-of-{match['total']}.gguf" for number in range(2, int(match["total"]) + 1)]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
