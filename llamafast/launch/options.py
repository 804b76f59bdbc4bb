"""The options of `llamafast serve`: their help, their environment variables, and the settings that they replace.

Each option can also come from the environment: --n-ctx from LLAMAFAST_N_CTX.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from pydantic import JsonValue
from typer.models import OptionInfo

from llamafast.launch.config import ModelConfig, Overrides, ServerConfig

# Options of the section disk_cache, with the fields that they set.
DISK_CACHE_FIELDS = {"disk_cache": "path", "disk_cache_max_bytes": "max_bytes"}


def overrides(options: Mapping[str, JsonValue]) -> Overrides:
    """The settings of the given options, by section. None: the option is not given."""
    given = {name: value for name, value in options.items() if value is not None}
    server = {name: value for name, value in given.items() if name in ServerConfig.model_fields}
    model = {name: value for name, value in given.items() if name in ModelConfig.model_fields}
    if "model" in given:
        model["path"] = given["model"]
    if "aliases" in given:
        model["aliases"] = [name.strip() for name in str(given["aliases"]).split(",")]
    disk_cache = {DISK_CACHE_FIELDS[name]: value for name, value in given.items() if name in DISK_CACHE_FIELDS}
    return {"server": server, "model": model} | ({"disk_cache": disk_cache} if disk_cache else {})


def _option(flag: str, help_text: str) -> OptionInfo:
    name = "LLAMAFAST_" + flag.partition("/")[0].removeprefix("--").replace("-", "_").upper()
    option: OptionInfo = typer.Option(flag, envvar=name, help=help_text, show_default=False)
    return option


ConfigFile: TypeAlias = Annotated[
    Path | None, typer.Argument(help="Configuration file (JSON).", envvar="LLAMAFAST_CONFIG")
]

# The names are those of the settings. The help gives the default in brackets, unless the model decides it.
Model: TypeAlias = Annotated[str | None, _option("--model", "Model file (GGUF).")]
Alias: TypeAlias = Annotated[str | None, _option("--alias", "Name of the model for clients [the file's name].")]
Aliases: TypeAlias = Annotated[
    str | None, _option("--aliases", "Further names, separated by commas; * matches any text.")
]
Host: TypeAlias = Annotated[str | None, _option("--host", "Address to listen on [127.0.0.1].")]
Port: TypeAlias = Annotated[int | None, _option("--port", "Port to listen on; 0 takes a free one [8000].")]
NCtx: TypeAlias = Annotated[
    int | None, _option("--n-ctx", "Tokens of context, shared by all requests [the model's, at most 16384].")
]
NSeqMax: TypeAlias = Annotated[int | None, _option("--n-seq-max", "Number of sequences that run at once [32].")]
NBatch: TypeAlias = Annotated[int | None, _option("--n-batch", "Maximum tokens of one step [512].")]
NUbatch: TypeAlias = Annotated[int | None, _option("--n-ubatch", "Maximum tokens of one pass over the weights [512].")]
MaxPrefillTokens: TypeAlias = Annotated[
    int | None, _option("--max-prefill-tokens", "Maximum prompt tokens of one step [--n-batch].")
]
MaxStepMs: TypeAlias = Annotated[
    float | None,
    _option("--max-step-ms", "Target duration of steps with prompts; 0: none [1.6 times one without prompts]."),
]
MaxSeqLen: TypeAlias = Annotated[
    int | None, _option("--max-seq-len", "Maximum tokens of one request, prompt and output together [--n-ctx].")
]
MaxOutputTokens: TypeAlias = Annotated[
    int | None, _option("--max-output-tokens", "Maximum generated tokens of one choice [no limit].")
]
Threads: TypeAlias = Annotated[
    int | None, _option("--threads", "Threads that compute [as CPU affinity, quota and physical cores allow].")
]
ThreadsBatch: TypeAlias = Annotated[
    int | None, _option("--threads-batch", "Threads that compute prompts [as --threads].")
]
NGpuLayers: TypeAlias = Annotated[int | None, _option("--n-gpu-layers", "Layers on the GPU; -1: all.")]
FlashAttn: TypeAlias = Annotated[
    bool | None, _option("--flash-attn/--no-flash-attn", "Flash attention [whatever is faster on this machine].")
]
TypeK: TypeAlias = Annotated[str | None, _option("--type-k", "Type of the cached keys, for example q8_0 [f16].")]
TypeV: TypeAlias = Annotated[str | None, _option("--type-v", "Type of the cached values [f16].")]
PrefixCache: TypeAlias = Annotated[
    bool | None, _option("--prefix-cache/--no-prefix-cache", "Reuse of common prompt beginnings [on].")
]
DiskCache: TypeAlias = Annotated[
    str | None, _option("--disk-cache", "Folder that keeps computed prefixes after the server ends [none].")
]
DiskCacheMaxBytes: TypeAlias = Annotated[
    int | None, _option("--disk-cache-max-bytes", "Maximum size of that folder [8 GiB].")
]
ToolFormat: TypeAlias = Annotated[
    str | None, _option("--tool-format", "Format of the model's tool calls [the template's].")
]
ChatTemplateFile: TypeAlias = Annotated[
    str | None, _option("--chat-template-file", "Chat template (Jinja) [the model file's].")
]
GgufSamplingDefaults: TypeAlias = Annotated[
    bool | None,
    _option("--gguf-sampling-defaults/--no-gguf-sampling-defaults", "Sampling settings of the model file [on]."),
]
MaxQueuedRequests: TypeAlias = Annotated[
    int | None, _option("--max-queued-requests", "Maximum number of waiting requests; further ones get 503 [1024].")
]
MaxBodyBytes: TypeAlias = Annotated[
    int | None, _option("--max-body-bytes", "Maximum size of a request body; larger ones get 413 [32 MiB].")
]
StrictFields: TypeAlias = Annotated[
    bool | None, _option("--strict-fields/--no-strict-fields", "400 for unknown request fields [off].")
]
KeepaliveS: TypeAlias = Annotated[
    float | None, _option("--keepalive-s", "Seconds without output after which a stream sends a comment [15].")
]
ShutdownDeadlineS: TypeAlias = Annotated[
    float | None, _option("--shutdown-deadline-s", "Seconds that running requests have after SIGTERM [30].")
]
AccessLog: TypeAlias = Annotated[
    bool | None, _option("--access-log/--no-access-log", "Print one line per request [off].")
]
KeepDead: TypeAlias = Annotated[
    bool | None, _option("--keep-dead/--no-keep-dead", "Keep the process, answering 503, after the engine died [off].")
]
ModelProbe: TypeAlias = Annotated[
    bool | None,
    _option("--model-probe/--no-model-probe", "Try new model files in a child process first [on]."),
]
