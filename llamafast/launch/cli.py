"""The command line: `llamafast serve` and `llamafast check`. An error is one line on stderr and an exit code."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import JsonValue

import llamafast
from llamafast.errors import ConfigError, LlamaFastError
from llamafast.launch import options
from llamafast.launch.config_file import load_config

BUILT_IN_CONFIG = Path(__file__).parents[1] / "configs" / "built-in.json"

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
    """Run the command line. Exit codes: 2 for a wrong configuration, 1 for every other error, 130 for SIGINT.

    With LLAMAFAST_TRACEBACK=1 an unexpected error shows its traceback.
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
        _fail("not enough memory", 1)
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
    """Open /dev/null in place of a closed stdin, stdout or stderr.

    Otherwise the next file or socket would get its number and receive the lines for stdout or stderr.
    """
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
        # stdout does not accept output. Python would try again at exit and print a second error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _warn(message: str) -> None:
    with contextlib.suppress(OSError):
        print(*(f"llamafast: {line}" for line in message.splitlines()), sep="\n", file=sys.stderr, flush=True)


def _ignore_kubernetes() -> None:
    """Drop the variables that Kubernetes sets for a service named llamafast, e.g. LLAMAFAST_PORT=tcp://10.0.0.1:80."""
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


@app.command()
@options.with_options
def serve(
    context: typer.Context,
    config: options.ConfigFile = None,
    model: options.Model = None,
    **settings: JsonValue,
) -> None:
    """Serve a model over HTTP with OpenAI's API. Without CONFIG and --model it serves the small built-in model."""
    file = BUILT_IN_CONFIG if config is None and model is None else config
    loaded = load_config(file, options.overrides(context.params))
    # Imported here because it needs libllama. --version, --help and errors in the configuration do not need it.
    from llamafast.launch.serve import serve as run

    run(loaded)


@app.command()
def check(
    config: Annotated[
        Path | None, typer.Argument(help="Configuration file (JSON) [that of the built-in model].")
    ] = None,
    template: Annotated[
        str | None, typer.Option("--template", help="Check this chat template (Jinja) instead of the model's.")
    ] = None,
    tool_format: Annotated[str | None, typer.Option("--tool-format", help="Format of the model's tool calls.")] = None,
) -> None:
    """Check a configuration, its chat template, and the parsing of its answers. Does not load the weights."""
    given = {"chat_template": None, "chat_template_file": template} if template is not None else {}
    given |= {"response_schema": None, "tool_format": tool_format} if tool_format is not None else {}
    loaded = load_config(config or BUILT_IN_CONFIG, {"model": given})
    from llamafast.launch.check import check as run

    # With only a template there is no model file to read.
    if not run(loaded, str(config or "built-in"), with_model=config is not None or template is None):
        sys.exit(2)
