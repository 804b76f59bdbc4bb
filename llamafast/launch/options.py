"""The options of `llamafast serve`: their help, their environment variables, and the settings that they replace.

Each option can also come from the environment: --port from LLAMAFAST_PORT. `setting_options.py` makes the options of
the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from pydantic import JsonValue

from llamafast.launch.config import ModelConfig, ServerConfig
from llamafast.launch.config_file import Overrides
from llamafast.launch.setting_options import option

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


ConfigFile: TypeAlias = Annotated[
    Path | None, typer.Argument(help="Configuration file (JSON).", envvar="LLAMAFAST_CONFIG")
]

# The names are those of the settings. The help gives the default in brackets, unless the model decides it.
Model: TypeAlias = Annotated[str | None, option("--model", "Model file (GGUF).")]
Alias: TypeAlias = Annotated[str | None, option("--alias", "Name of the model for clients [the file's name].")]
Aliases: TypeAlias = Annotated[
    str | None, option("--aliases", "Further names, separated by commas; * matches any text.")
]
Host: TypeAlias = Annotated[str | None, option("--host", "Address to listen on [127.0.0.1].")]
Port: TypeAlias = Annotated[int | None, option("--port", "Port to listen on; 0 takes a free one [8000].")]
DiskCache: TypeAlias = Annotated[
    str | None, option("--disk-cache", "Folder that keeps computed prefixes after the server ends [none].")
]
DiskCacheMaxBytes: TypeAlias = Annotated[
    int | None, option("--disk-cache-max-bytes", "Maximum size of that folder [8 GiB].")
]
ToolFormat: TypeAlias = Annotated[
    str | None, option("--tool-format", "Format of the model's tool calls [the template's].")
]
ChatTemplateFile: TypeAlias = Annotated[
    str | None, option("--chat-template-file", "Chat template (Jinja) [the model file's].")
]
GgufSamplingDefaults: TypeAlias = Annotated[
    bool | None,
    option("--gguf-sampling-defaults/--no-gguf-sampling-defaults", "Sampling settings of the model file [on]."),
]
MaxBodyBytes: TypeAlias = Annotated[
    int | None, option("--max-body-bytes", "Maximum size of a request body; larger ones get 413 [32 MiB].")
]
StrictFields: TypeAlias = Annotated[
    bool | None, option("--strict-fields/--no-strict-fields", "400 for unknown request fields [off].")
]
KeepaliveS: TypeAlias = Annotated[
    float | None, option("--keepalive-s", "Seconds without output after which a stream sends a comment [15].")
]
ShutdownDeadlineS: TypeAlias = Annotated[
    float | None, option("--shutdown-deadline-s", "Seconds that running requests have after SIGTERM [30].")
]
AccessLog: TypeAlias = Annotated[
    bool | None, option("--access-log/--no-access-log", "Print one line per request [off].")
]
KeepDead: TypeAlias = Annotated[
    bool | None, option("--keep-dead/--no-keep-dead", "Keep the process, answering 503, after the engine died [off].")
]
ModelProbe: TypeAlias = Annotated[
    bool | None,
    option("--model-probe/--no-model-probe", "Try new model files in a child process first [on]."),
]
