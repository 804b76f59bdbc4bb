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
from typer.models import OptionInfo

import llamafast
from llamafast.errors import ConfigError, LlamaFastError
from llamafast.launch.config import ModelConfig, ServerConfig
from llamafast.launch.config_file import Overrides, load_config

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


def _option(flag: str, help_text: str) -> OptionInfo:
    """An option that is also read from the environment: --n-ctx from LLAMAFAST_N_CTX."""
    name = "LLAMAFAST_" + flag.partition("/")[0].removeprefix("--").replace("-", "_").upper()
    option: OptionInfo = typer.Option(flag, envvar=name, help=help_text, show_default=False)
    return option


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
def serve(
    context: typer.Context,
    config: Annotated[Path | None, typer.Argument(help="Configuration file (JSON).", envvar="LLAMAFAST_CONFIG")] = None,
    model: Annotated[str | None, _option("--model", "Model file (GGUF).")] = None,
    alias: Annotated[str | None, _option("--alias", "Name of the model for clients.")] = None,
    host: Annotated[str | None, _option("--host", "Address to listen on [127.0.0.1].")] = None,
    port: Annotated[int | None, _option("--port", "Port to listen on; 0 takes a free one [8000].")] = None,
    n_ctx: Annotated[int | None, _option("--n-ctx", "Tokens of context of all requests [16384 at most].")] = None,
    n_seq_max: Annotated[int | None, _option("--n-seq-max", "Sequences that run at once.")] = None,
    n_batch: Annotated[int | None, _option("--n-batch", "Most tokens of one step.")] = None,
    n_ubatch: Annotated[int | None, _option("--n-ubatch", "Most tokens of one pass over the weights.")] = None,
    max_prefill_tokens: Annotated[int | None, _option("--max-prefill-tokens", "Most prompt tokens a step.")] = None,
    max_step_ms: Annotated[float | None, _option("--max-step-ms", "Target for steps with prompts; 0: none.")] = None,
    max_seq_len: Annotated[int | None, _option("--max-seq-len", "Most tokens of one request, prompt included.")] = None,
    max_output_tokens: Annotated[int | None, _option("--max-output-tokens", "Most generated tokens each.")] = None,
    threads: Annotated[int | None, _option("--threads", "Threads [CPUs allowed, quota, physical cores].")] = None,
    threads_batch: Annotated[int | None, _option("--threads-batch", "Threads for prompts [--threads].")] = None,
    n_gpu_layers: Annotated[int | None, _option("--n-gpu-layers", "Layers on the GPU; -1 is all.")] = None,
    flash_attn: Annotated[
        bool | None, _option("--flash-attn/--no-flash-attn", "Flash attention [what is faster here].")
    ] = None,
    type_k: Annotated[str | None, _option("--type-k", "Type of cached keys, as f16 or q8_0.")] = None,
    type_v: Annotated[str | None, _option("--type-v", "Type of cached values.")] = None,
    prefix_cache: Annotated[
        bool | None, _option("--prefix-cache/--no-prefix-cache", "Reuse of common prompt beginnings [on].")
    ] = None,
    disk_cache: Annotated[
        str | None, _option("--disk-cache", "Folder where prefixes outlive the server [none].")
    ] = None,
    disk_cache_max_bytes: Annotated[
        int | None, _option("--disk-cache-max-bytes", "Largest size of that folder [8 GiB].")
    ] = None,
    tool_format: Annotated[str | None, _option("--tool-format", "How it writes calls [the template's way].")] = None,
    chat_template_file: Annotated[str | None, _option("--chat-template-file", "Jinja file [the model's].")] = None,
    gguf_sampling_defaults: Annotated[
        bool | None,
        _option("--gguf-sampling-defaults/--no-gguf-sampling-defaults", "The file's sampling settings [on]."),
    ] = None,
    max_queued_requests: Annotated[int | None, _option("--max-queued-requests", "Most that wait; then 503.")] = None,
    max_body_bytes: Annotated[int | None, _option("--max-body-bytes", "Largest request; beyond it 413.")] = None,
    strict_fields: Annotated[
        bool | None, _option("--strict-fields/--no-strict-fields", "400 for unknown request fields [off].")
    ] = None,
    keepalive_s: Annotated[float | None, _option("--keepalive-s", "Seconds between signs of life in a stream.")] = None,
    shutdown_deadline_s: Annotated[
        float | None, _option("--shutdown-deadline-s", "Seconds that running requests have after SIGTERM.")
    ] = None,
    access_log: Annotated[bool | None, _option("--access-log/--no-access-log", "A line per request [off].")] = None,
    keep_dead: Annotated[bool | None, _option("--keep-dead/--no-keep-dead", "Stay when the engine died [off].")] = None,
    model_probe: Annotated[bool | None, _option("--model-probe/--no-model-probe", "Try new files first [on].")] = None,
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
