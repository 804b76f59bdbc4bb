"""The command line: `llamafast serve`, `llamafast check`. Options of serve can also come from LLAMAFAST_<OPTION>."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import JsonValue

import llamafast
from llamafast.errors import ConfigError, LlamaFastError
from llamafast.launch.config import ModelConfig, ServerConfig
from llamafast.launch.config_file import Overrides, load_config
from llamafast.launch.setting_options import option, with_engine_options

BUILT_IN_CONFIG = Path(__file__).parents[1] / "configs" / "built-in.json"

# Options that are named otherwise than the fields of the section.
DISK_CACHE_FIELDS = {"disk_cache": "path", "disk_cache_max_bytes": "max_bytes"}

_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://\S+:\d+")

app = typer.Typer(
    name="llamafast",
    help=llamafast.__doc__,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line. An error is one readable line on stderr and exit code 1, or 2 for a wrong configuration.

    LLAMAFAST_TRACEBACK=1 shows where an error comes from that nobody expected.
    """
    _open_standard_files()
    _ignore_kubernetes()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except ConfigError as error:
        _fail(str(error), 2)
    except (LlamaFastError, ImportError) as error:
        _fail(str(error), 1)
    except MemoryError:
        _fail("there is not enough memory", 1)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", 1)
    except Exception as error:
        if os.environ.get("LLAMAFAST_TRACEBACK"):
            raise
        _fail(f"{type(error).__name__}: {error}", 1)


def _open_standard_files() -> None:
    """Put /dev/null where stdin, stdout or stderr is closed: a socket would get its number, and our lines."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")


def _fail(message: str, code: int) -> NoReturn:
    _warn(message)
    try:
        sys.stdout.flush()
    except OSError:
        # What stdout does not take now it would not take at the end either, and Python would say so.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _warn(message: str) -> None:
    with contextlib.suppress(OSError):
        print(*(f"llamafast: {line}" for line in message.splitlines()), sep="\n", file=sys.stderr, flush=True)


def _ignore_kubernetes() -> None:
    """Forget what Kubernetes sets for a service named llamafast: LLAMAFAST_PORT=tcp://10.0.0.1:8000."""
    for name, value in list(os.environ.items()):
        if name.startswith("LLAMAFAST_") and _SERVICE_ADDRESS.fullmatch(value):
            del os.environ[name]
            if name == "LLAMAFAST_PORT":
                _warn(f"{name}={value} is ignored: it is the address of a Kubernetes service, not a port")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"llamafast {llamafast.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def _overrides(options: Mapping[str, JsonValue]) -> Overrides:
    """The given options, by the section of the configuration that they belong to."""
    given = {name: value for name, value in options.items() if value is not None}
    server = {name: value for name, value in given.items() if name in ServerConfig.model_fields}
    model = {name: value for name, value in given.items() if name in ModelConfig.model_fields}
    if "model" in given:
        model["path"] = given["model"]
    disk_cache = {DISK_CACHE_FIELDS[name]: value for name, value in given.items() if name in DISK_CACHE_FIELDS}
    return {"server": server, "model": model} | ({"disk_cache": disk_cache} if disk_cache else {})


@app.command()
@with_engine_options
def serve(
    context: typer.Context,
    config: Annotated[Path | None, typer.Argument(help="Configuration file (JSON).", envvar="LLAMAFAST_CONFIG")] = None,
    model: Annotated[str | None, option("--model", "Model file (GGUF).")] = None,
    alias: Annotated[str | None, option("--alias", "Name of the model for clients.")] = None,
    host: Annotated[str | None, option("--host", "Address to listen on [127.0.0.1].")] = None,
    port: Annotated[int | None, option("--port", "Port to listen on; 0 takes a free one [8000].")] = None,
    disk_cache: Annotated[
        str | None, option("--disk-cache", "Folder where prefixes outlive the server [none].")
    ] = None,
    disk_cache_max_bytes: Annotated[
        int | None, option("--disk-cache-max-bytes", "Largest size of that folder [8 GiB].")
    ] = None,
    tool_format: Annotated[str | None, option("--tool-format", "How it writes calls [the template's way].")] = None,
    chat_template_file: Annotated[str | None, option("--chat-template-file", "Jinja file [the model's].")] = None,
    gguf_sampling_defaults: Annotated[
        bool | None,
        option("--gguf-sampling-defaults/--no-gguf-sampling-defaults", "The file's sampling settings [on]."),
    ] = None,
    max_body_bytes: Annotated[int | None, option("--max-body-bytes", "Largest request; beyond it 413.")] = None,
    strict_fields: Annotated[
        bool | None, option("--strict-fields/--no-strict-fields", "400 for unknown request fields [off].")
    ] = None,
    keepalive_s: Annotated[float | None, option("--keepalive-s", "Seconds between signs of life in a stream.")] = None,
    shutdown_deadline_s: Annotated[
        float | None, option("--shutdown-deadline-s", "Seconds that running requests have after SIGTERM.")
    ] = None,
    access_log: Annotated[bool | None, option("--access-log/--no-access-log", "A line per request [off].")] = None,
    keep_dead: Annotated[bool | None, option("--keep-dead/--no-keep-dead", "Stay when the engine died [off].")] = None,
    model_probe: Annotated[bool | None, option("--model-probe/--no-model-probe", "Try new files first [on].")] = None,
    **engine_options: JsonValue,
) -> None:
    """Serve a model over HTTP, as OpenAI's API. Without CONFIG and --model: the small built-in model."""
    file = BUILT_IN_CONFIG if config is None and model is None else config
    loaded = load_config(file, _overrides(context.params))
    # Imported here: it needs libllama, which `--version`, `--help` and a wrong configuration do not.
    from llamafast.launch.serve import serve as run

    run(loaded)


@app.command()
def check(
    config: Annotated[Path | None, typer.Argument(help="Configuration file (JSON) [the built-in model's].")] = None,
    template: Annotated[str | None, typer.Option("--template", help="Chat template (Jinja) to check instead.")] = None,
    tool_format: Annotated[str | None, typer.Option("--tool-format", help="How answers are taken apart.")] = None,
) -> None:
    """Check a configuration, its chat template and how answers are taken apart. Needs no weights, loads nothing."""
    given = {"chat_template": None, "chat_template_file": template} if template is not None else {}
    given |= {"response_schema": None, "tool_format": tool_format} if tool_format is not None else {}
    loaded = load_config(config or BUILT_IN_CONFIG, {"model": given})
    from llamafast.launch.check import check as run

    # A template alone belongs to no model.
    if not run(loaded, str(config or "built-in"), with_model=config is not None or template is None):
        sys.exit(2)
