"""The configuration file, with the command line over it: frozen records. Reads JSON, does no other I/O."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

import llamafast
from llamafast.chat.prompt.reasoning_state import invalid_reasoning_switch
from llamafast.errors import ConfigError

# The value of model.path that stands for the model inside the package.
BUILT_IN = "built-in"

# Configurations and templates have some hundred kilobytes at most; a device has no end.
_MAX_FILE_BYTES = 16 << 20

Overrides: TypeAlias = Mapping[str, Mapping[str, JsonValue]]
Where: TypeAlias = tuple[int | str, ...]


def _joined(value: object) -> object:
    """Chat templates may be written as a list of pieces."""
    if isinstance(value, list) and all(isinstance(piece, str) for piece in value):
        return "".join(value)
    return value


def _one_of(names: Mapping[str, int]) -> BeforeValidator:
    """An enumeration of llama.h, by name or by number."""

    def number_of(value: object) -> object:
        if isinstance(value, str) and value.lower() in names:
            return names[value.lower()]
        if value is None or value in names.values():
            return value
        choices = ", ".join(f"{name} ({number})" for name, number in names.items())
        raise ValueError(f"{value!r} is none of {choices}")

    return BeforeValidator(number_of)


_KV_TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q5_1": 7, "q5_0": 6, "q4_1": 3, "q4_0": 2, "iq4_nl": 20}
_SPLIT_MODES = {"none": 0, "layer": 1, "row": 2, "tensor": 3}
_ROPE_SCALING_TYPES = {"unspecified": -1, "none": 0, "linear": 1, "yarn": 2, "longrope": 3}
_POOLING_TYPES = {"unspecified": -1, "none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}
_ATTENTION_TYPES = {"unspecified": -1, "causal": 0, "non_causal": 1}

KvType: TypeAlias = Annotated[int | None, _one_of(_KV_TYPES)]
SplitMode: TypeAlias = Annotated[int | None, _one_of(_SPLIT_MODES)]
RopeScalingType: TypeAlias = Annotated[int | None, _one_of(_ROPE_SCALING_TYPES)]
PoolingType: TypeAlias = Annotated[int | None, _one_of(_POOLING_TYPES)]
AttentionType: TypeAlias = Annotated[int | None, _one_of(_ATTENTION_TYPES)]


def _unicode(value: str) -> str:
    """Variables and options that are not UTF-8 come as lone surrogates, which no answer can hold."""
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError("it is not valid UTF-8")
    return value


Text: TypeAlias = Annotated[str, AfterValidator(_unicode)]
Name: TypeAlias = Annotated[str, Field(min_length=1), AfterValidator(_unicode)]
Int32: TypeAlias = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Count: TypeAlias = Annotated[int, Field(ge=1, lt=2**31)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FromPretrained(_Section):
    """A file of a Hugging Face repository. `filename` and `additional_files` may be globs."""

    repo_id: str
    filename: str
    additional_files: tuple[str, ...] = ()
    local_dir: str | None = None
    local_dir_use_symlinks: Literal["auto", False] = "auto"  # the hub's client makes no links there any more
    cache_dir: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("additional_files", ()) is None:
            return {**value, "additional_files": ()}
        return value


class FileConfig(_Section):
    """A file: on this machine, or on the hub."""

    path: str | None = None
    from_pretrained: FromPretrained | None = None

    @model_validator(mode="after")
    def _exactly_one_source(self) -> FileConfig:
        if (self.path is None) == (self.from_pretrained is None):
            raise ValueError("give exactly one of path and from_pretrained")
        return self


class LoraConfig(FileConfig):
    """One LoRA adapter, applied to every request at `scale`."""

    scale: float = 1.0


class ServerConfig(_Section):
    """Where to listen, and what to take in.

    keep_dead: a process whose engine has died stays, and answers with 503; otherwise it ends, to be started again.
    """

    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=8000, ge=0, le=65535)
    max_body_bytes: Count = 32 * 1024 * 1024
    max_queued_requests: Count = 1024
    keepalive_s: float = Field(default=15.0, gt=0)
    strict_fields: bool = False
    shutdown_deadline_s: float = Field(default=30.0, ge=0)
    access_log: bool = False
    keep_dead: bool = False
    # A child process tries an unknown model file first, and the memory that it needs is compared with what there is.
    model_probe: bool = True


class SamplingDefaults(_Section):
    """Sampling settings where a request is silent, under the request's names. None: the GGUF's, else OpenAI's."""

    temperature: float | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    top_k: Int32 | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    penalty_last_n: Int32 | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: Int32 | None = None
    dry_penalty_last_n: Int32 | None = None
    mirostat: Int32 | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None


class ModelConfig(FileConfig):
    """Which model, and how llama.cpp runs it. None leaves the choice to llama.cpp or to llamafast."""

    alias: Text | None = None
    # Further names; `*` matches any text.
    aliases: tuple[Name, ...] = ()
    # Without either: the model file's template.
    chat_template: Annotated[str | None, BeforeValidator(_joined)] = None
    chat_template_file: str | None = None
    chat_template_kwargs: dict[str, JsonValue] = {}
    # Without either: what the template writes.
    tool_format: str | None = None
    response_schema: dict[str, JsonValue] | None = None
    # Clients may write control tokens; then everyone who chats can also speak as the system.
    parse_special_in_messages: bool = False
    # Tokens of reasoning where a request does not say; None: no limit. The message is what then closes it.
    reasoning_budget: int | None = Field(default=None, ge=0, lt=2**31)
    reasoning_budget_message: str | None = None
    loras: tuple[LoraConfig, ...] = ()
    mtmd: dict[str, JsonValue] | None = None
    # Its authors know best what a model needs; llama-server and vLLM follow them too.
    gguf_sampling_defaults: bool = True
    sampling_defaults: SamplingDefaults = SamplingDefaults()

    n_gpu_layers: Int32 | None = None
    split_mode: SplitMode = None
    main_gpu: Int32 | None = None
    tensor_split: tuple[float, ...] | None = None
    vocab_only: bool | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    kv_overrides: dict[str, bool | int | float | str] | None = None

    n_ctx: int | None = Field(default=None, ge=0, lt=2**31)
    n_batch: Count | None = None
    n_ubatch: Count | None = None
    n_seq_max: int | None = Field(default=None, ge=1, le=256)
    threads: Count | None = None
    threads_batch: Count | None = None
    rope_scaling_type: RopeScalingType = None
    pooling_type: PoolingType = None
    attention_type: AttentionType = None
    embedding: bool | None = None
    rope_freq_base: float | None = None
    rope_freq_scale: float | None = None
    yarn_ext_factor: float | None = None
    yarn_attn_factor: float | None = None
    yarn_beta_fast: float | None = None
    yarn_beta_slow: float | None = None
    yarn_orig_ctx: int | None = Field(default=None, ge=0, lt=2**31)
    offload_kqv: bool | None = None
    flash_attn: bool | None = None
    op_offload: bool | None = None
    swa_full: bool | None = None
    no_perf: bool | None = None
    type_k: KvType = None
    type_v: KvType = None
    kv_unified: bool = True

    max_seq_len: Count | None = None
    max_output_tokens: int | None = Field(default=None, ge=0, lt=2**31)
    max_prefill_tokens: Count | None = None
    # None: relative to what a step without prompts takes, on whatever machine.
    max_step_ms: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    prefix_cache: bool = True
    max_checkpoint_bytes: int | None = Field(default=None, ge=0)
    checkpoint_every: int | None = Field(default=None, ge=0, lt=2**31)
    context_shift: bool = False
    # Logits are never kept for long, and logprobs work with either value.
    store_logits: bool = True

    draft_model: str | None = None
    draft_model_path: str | None = None
    draft_model_from_pretrained: FromPretrained | None = None
    draft_model_num_pred_tokens: int = 16
    draft_model_max_ngram_size: int = 2
    draft_model_top_k: Count = 1
    draft_model_p_min: float = Field(default=0.0, ge=0, le=1)
    draft_model_max_batch_size: Count | None = None
    draft_model_threads: Count | None = None
    draft_model_threads_batch: Count | None = None

    @model_validator(mode="after")
    def _one_of_each(self) -> ModelConfig:
        for name, other in (("chat_template", "chat_template_file"), ("tool_format", "response_schema")):
            if getattr(self, name) is not None and getattr(self, other) is not None:
                raise ValueError(f"give {name} or {other}, not both")
        return self

    @model_validator(mode="after")
    def _switches_are_booleans(self) -> ModelConfig:
        switch = invalid_reasoning_switch(self.chat_template_kwargs)
        if switch is not None:
            raise ValueError(f"chat_template_kwargs.{switch} must be true or false")
        return self


class DiskCacheConfig(_Section):
    """A folder where computed prefixes outlive the process."""

    path: Annotated[str, Field(min_length=1)]
    max_bytes: int = Field(default=8 * 2**30, ge=0)
    min_tokens: Count = 128


class Config(_Section):
    """The whole file."""

    server: ServerConfig = ServerConfig()
    model: ModelConfig
    disk_cache: DiskCacheConfig | None = None


# Fields whose capability has not landed: of model, what it is, values that ask for nothing beside null and the default.
_NOT_YET: tuple[tuple[str, str, tuple[JsonValue, ...]], ...] = (
    *((name, "draft models are", ()) for name in ModelConfig.model_fields if name.startswith("draft_model")),
    ("embedding", "embeddings are", (False,)),
    ("pooling_type", "embeddings are", (-1, 0)),
    ("attention_type", "non-causal models are", (-1, 0)),
    ("vocab_only", "serving a vocabulary without weights is", (False,)),
)


def load_config(path: str | Path | None, overrides: Overrides | None = None) -> Config:
    """Read the file, put `overrides` ({section: {field: value}}) over it and check everything.

    Without a file only the overrides and the defaults count. Raises ConfigError: one line per fault, each with the
    full name of the field.
    """
    overrides = overrides or {}
    raw: dict[str, JsonValue] = {} if path is None else _read(Path(path))
    for section, fields in overrides.items():
        raw[section] = _merged(raw.get(section), fields)
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        faults = list(_explain(error))
    else:
        faults = list(_refusals(config))
        if not faults:
            return config
    raise ConfigError("\n".join(_line(where, reason, path, overrides) for where, reason in faults))


def read_text(path: Path) -> str:
    """A text file that a person writes. Raises ConfigError: it cannot be read, is no text, or is no such file."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    if len(data) > _MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {_MAX_FILE_BYTES} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None


def _line(where: Where, reason: str, path: str | Path | None, overrides: Overrides) -> str:
    """`FILE: model.n_ctxx: unknown field`; without FILE where the value is not the file's."""
    name = ".".join(map(str, where))
    overridden = len(where) > 1 and where[1] in overrides.get(str(where[0]), {})
    return ": ".join(part for part in ("" if path is None or overridden else str(path), name, reason) if part)


def _read(path: Path) -> dict[str, JsonValue]:
    try:
        raw = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or thousands of brackets
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a JSON object is needed, with the sections server and model")
    return raw


def _merged(section: JsonValue, fields: Mapping[str, JsonValue]) -> JsonValue:
    if section is not None and not isinstance(section, dict):
        return section
    merged = {**(section or {}), **fields}
    if "path" in fields:
        merged.pop("from_pretrained", None)
    return merged


def _explain(error: ValidationError) -> Iterator[tuple[Where, str]]:
    """Each fault: where it is and what is wrong, in our words where pydantic's are not plain."""
    for fault in error.errors(include_url=False):
        where = fault["loc"]
        reason = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
        if fault["type"] == "extra_forbidden":
            known = difflib.get_close_matches(str(where[-1]), _fields_at(where[:-1]), n=1)
            reason = f"unknown field; did you mean {known[0]}?" if known else "unknown field"
        elif fault["type"] == "missing":
            reason = "missing"
        elif fault["type"] in ("model_type", "dict_type"):
            reason = "should be an object"
        yield where, reason


def _fields_at(where: Where) -> list[str]:
    """Names of the fields that the section at `where` knows."""
    section: type[BaseModel] = Config
    for part in where:
        if isinstance(part, str):
            section = _section_in(section.model_fields[part].annotation) or section
    return list(section.model_fields)


def _section_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((section for part in get_args(annotation) if (section := _section_in(part))), None)


def _refusals(config: Config) -> Iterator[tuple[Where, str]]:
    for name, what, no_ops in _NOT_YET:
        value = getattr(config.model, name)
        if value not in (None, ModelConfig.model_fields[name].default, *no_ops):
            reason = f"{what} not supported yet by llamafast {llamafast.__version__}; remove the field"
            yield ("model", name), reason
