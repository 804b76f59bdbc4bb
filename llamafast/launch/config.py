"""The sections of a configuration file, as frozen records. `config_file.py` reads the file."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from llamafast.chat.prompt.reasoning_state import invalid_reasoning_switch
from llamafast.engine.config import ENGINE_SETTINGS, EngineConfig
from llamafast.sampling_params import SAMPLING_SETTINGS
from llamafast.setting_fields import HasOption, default_fields, section_fields, with_fields

# The value of model.path that selects the model inside the package.
BUILT_IN = "built-in"


def _joined(value: object) -> object:
    """Join a chat template that is written as a list of pieces."""
    if isinstance(value, list) and all(isinstance(piece, str) for piece in value):
        return "".join(value)
    return value


def _unicode(value: str) -> str:
    """Refuse lone surrogates: options and variables that are not UTF-8 contain them, and no answer can."""
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError("must be valid UTF-8")
    return value


Text: TypeAlias = Annotated[str, AfterValidator(_unicode)]
Name: TypeAlias = Annotated[str, Field(min_length=1), AfterValidator(_unicode)]
Count: TypeAlias = Annotated[int, Field(ge=1, lt=2**31)]


class _Section(BaseModel):
    """A section of the file: a JSON object. null counts as absent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {name: item for name, item in value.items() if item is not None or name not in cls.model_fields}


class FromPretrained(_Section):
    """A file of a Hugging Face repository, downloaded at the first start."""

    repo_id: str = Field(description="The repository, as `owner/name`.")
    filename: str = Field(description="The file in the repository, or a glob that matches one file.")
    additional_files: tuple[str, ...] = Field(
        default=(), description="Globs of further files to download, such as the other parts of a split model."
    )
    local_dir: str | None = Field(default=None, description="The folder to download into. Absent: the hub's cache.")
    local_dir_use_symlinks: Literal["auto", False] = Field(
        default="auto", description="Ignored: the hub's client no longer makes links."
    )
    cache_dir: str | None = Field(default=None, description="The hub's cache. Absent: the client's default.")


class FileConfig(_Section):
    """A file on this machine or on the Hugging Face hub. Exactly one of `path` and `from_pretrained` is set."""

    path: str | None = Field(default=None, description=f"Path of the file. `{BUILT_IN}`: the model inside the package.")
    from_pretrained: FromPretrained | None = Field(default=None, description="The file on the Hugging Face hub.")

    @model_validator(mode="after")
    def _exactly_one_source(self) -> FileConfig:
        if (self.path is None) == (self.from_pretrained is None):
            raise ValueError("set exactly one of path and from_pretrained")
        return self


class EmbeddingCacheConfig(_Section):
    """Where embeddings of images and sounds are kept."""

    path: str | None = Field(default=None, description="Of no effect: embeddings are kept in memory.")
    max_bytes: int = Field(default=256 * 2**20, ge=0, description="Maximum bytes of embeddings in memory.")


class MediaConfig(_Section):
    """The projector (mmproj file) of a model that takes images or sounds, and what requests may bring."""

    mmproj_path: str | None = Field(
        default=None,
        description="Path of the projector's file (mmproj). Absent: that of the model inside the package, if it is "
        "used.",
    )
    mmproj_from_pretrained: FromPretrained | None = Field(default=None, description="Where the hub has that file.")
    batch_max_tokens: Count = Field(default=1024, description="Of no effect: one image or sound is encoded at a time.")
    image_min_tokens: Annotated[int | None, HasOption()] = Field(
        default=None, ge=1, le=16384, description="Least rows of an image; smaller ones are scaled up."
    )
    image_max_tokens: Annotated[int | None, HasOption()] = Field(
        default=None, ge=1, le=16384, description="Most rows of an image; larger ones are scaled down."
    )
    max_images: Annotated[int, HasOption()] = Field(default=16, ge=0, description="Images of one request.")
    max_audios: int = Field(default=4, ge=0, description="Sounds of one request.")
    image_max_bytes: Count = Field(default=20 * 2**20, description="Maximum bytes of an image's file.")
    audio_max_bytes: Count = Field(default=100 * 2**20, description="Maximum bytes of a sound's file.")
    video_max_bytes: Count = Field(default=512 * 2**20, description="Of no effect: videos are not supported yet.")
    image_timeout_seconds: float = Field(
        default=10.0, gt=0, description="Seconds to fetch a file, from the name lookup to the last byte."
    )
    allowed_media_domains: Annotated[tuple[str, ...] | None, HasOption(str)] = Field(
        default=None,
        description="Hosts from which files are fetched, `*.example.com` for all below one. Absent: all hosts with "
        "public addresses. Empty: none.",
    )
    media_allow_private: Annotated[bool, HasOption()] = Field(
        default=False, description="Fetch files from private addresses and other ports too: for closed networks."
    )
    allowed_local_media_path: Annotated[str | None, HasOption()] = Field(
        default=None, description="The folder whose files `file:` URLs may name. Absent: none."
    )
    embedding_cache: EmbeddingCacheConfig = Field(
        default=EmbeddingCacheConfig(), description="How many embeddings are kept for later prompts."
    )

    @model_validator(mode="after")
    def _at_most_one_projector(self) -> MediaConfig:
        if self.mmproj_path is not None and self.mmproj_from_pretrained is not None:
            raise ValueError("give mmproj_path or mmproj_from_pretrained, not both")
        return self

    @property
    def file(self) -> FileConfig | None:
        """The projector's file; None: the configuration names none."""
        if self.mmproj_path is None and self.mmproj_from_pretrained is None:
            return None
        return FileConfig(path=self.mmproj_path, from_pretrained=self.mmproj_from_pretrained)


class LoraConfig(FileConfig):
    """A LoRA adapter that is applied to every request."""

    scale: float = Field(default=1.0, description="The factor for its weights.")


@with_fields(section_fields(ENGINE_SETTINGS.values(), "server"))
class ServerConfig(_Section):
    """The HTTP server."""

    host: Annotated[str, HasOption()] = Field(default="127.0.0.1", min_length=1, description="Address to listen on.")
    port: Annotated[int, HasOption()] = Field(
        default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one."
    )
    max_body_bytes: Annotated[Count, HasOption()] = Field(
        default=32 * 1024 * 1024, description="Maximum bytes of a request body; a larger body gets a 413."
    )
    keepalive_s: Annotated[float, HasOption()] = Field(
        default=15.0, gt=0, description="Seconds without output after which a stream sends a comment."
    )
    strict_fields: Annotated[bool, HasOption()] = Field(
        default=False, description="Refuse unknown request fields with a 400."
    )
    shutdown_deadline_s: Annotated[float, HasOption()] = Field(
        default=30.0, ge=0, description="Seconds that running requests get to finish after SIGTERM."
    )
    responses_store: Annotated[bool, HasOption()] = Field(
        default=True,
        description="Keep the responses of /v1/responses, within the limits of the section responses_store.",
    )
    access_log: Annotated[bool, HasOption()] = Field(default=False, description="Print one line per request.")
    keep_dead: Annotated[bool, HasOption()] = Field(
        default=False,
        description="Keep the process and answer 503 after the engine died. false: end the process, to be restarted.",
    )
    model_probe: Annotated[bool, HasOption()] = Field(
        default=True,
        description="Try a new model file in a child process first, and check that the memory suffices for it.",
    )


@with_fields(default_fields(SAMPLING_SETTINGS.values()))
class SamplingDefaults(_Section):
    """Sampling settings for requests that do not set them. Absent: those of the model file, else the API's defaults."""


@with_fields(section_fields(ENGINE_SETTINGS.values(), "model"))
class ModelConfig(FileConfig):
    """The model, its chat template and format, and its engine."""

    alias: Annotated[Text | None, HasOption()] = Field(
        default=None, description="Name of the model for clients. Absent: the name of the file."
    )
    aliases: Annotated[tuple[Name, ...], HasOption(str)] = Field(
        default=(), description="Further names of the model for clients. In a name, `*` matches any text."
    )
    chat_template: Annotated[str | None, BeforeValidator(_joined)] = Field(
        default=None,
        description="The chat template (Jinja): a text, or a list of its pieces. Absent: that of the model file.",
    )
    chat_template_file: Annotated[str | None, HasOption()] = Field(
        default=None,
        description="File with the chat template (Jinja). Absent: the template of the model file.",
    )
    chat_template_kwargs: dict[str, JsonValue] = Field(
        default={}, description="Variables of the chat template for requests that do not set them."
    )
    tool_format: Annotated[str | None, HasOption()] = Field(
        default=None, description="Format of the model's tool calls. Absent: detected from the template."
    )
    response_schema: dict[str, JsonValue] | None = Field(
        default=None,
        description="A format that tool_format does not have: see [response-schema.md](response-schema.md).",
    )
    parse_special_in_messages: bool = Field(
        default=False,
        description="Parse control tokens in messages. Then every client can also write system messages.",
    )
    reasoning_budget: int | None = Field(
        default=None,
        ge=0,
        lt=2**31,
        description="Maximum tokens of reasoning for requests that set no limit. Absent: no limit.",
    )
    reasoning_budget_message: str | None = Field(
        default=None, description="The text that ends the reasoning at its limit. Absent: a built-in sentence."
    )
    loras: tuple[LoraConfig, ...] = Field(default=(), description="LoRA adapters that are applied to every request.")
    mtmd: MediaConfig | None = Field(
        default=None, description="Images and sounds. Absent: the model takes text only; the built-in one takes images."
    )
    gguf_sampling_defaults: Annotated[bool, HasOption()] = Field(
        default=True,
        description="Use the sampling settings that the model file recommends, if a request does not set them.",
    )
    sampling_defaults: SamplingDefaults = Field(
        default=SamplingDefaults(),
        description="Sampling settings for requests that do not set them. They override those of the model file.",
    )
    prompts: dict[str, str] = Field(
        default={}, description="Texts that requests for embeddings can have put before their inputs, by name."
    )
    vocab_only: bool | None = Field(default=None, description="Load the vocabulary without the weights.")
    store_logits: bool = Field(default=True, description="Ignored: logprobs work with either value.")

    draft_model: str | None = Field(default=None, description="The method that drafts tokens.")
    draft_model_path: str | None = Field(default=None, description="The draft model's file.")
    draft_model_from_pretrained: FromPretrained | None = Field(
        default=None, description="The draft model's file on the Hugging Face hub."
    )
    draft_model_num_pred_tokens: int = Field(default=16, description="Maximum number of drafted tokens.")
    draft_model_max_ngram_size: int = Field(default=2, description="Maximum tokens of the sequence that is looked up.")
    draft_model_top_k: Count = Field(default=1, description="Number of candidates for each drafted token.")
    draft_model_p_min: float = Field(default=0.0, ge=0, le=1, description="Minimum probability of a drafted token.")
    draft_model_max_batch_size: Count | None = Field(
        default=None, description="Draft only while at most this many sequences run."
    )
    draft_model_threads: Count | None = Field(default=None, description="The draft model's threads.")
    draft_model_threads_batch: Count | None = Field(default=None, description="The draft model's threads for prompts.")

    @model_validator(mode="after")
    def _one_of_each(self) -> ModelConfig:
        for name, other in (("chat_template", "chat_template_file"), ("tool_format", "response_schema")):
            if getattr(self, name) is not None and getattr(self, other) is not None:
                raise ValueError(f"set {name} or {other}, not both")
        return self

    @model_validator(mode="after")
    def _switches_are_booleans(self) -> ModelConfig:
        switch = invalid_reasoning_switch(self.chat_template_kwargs)
        if switch is not None:
            raise ValueError(f"chat_template_kwargs.{switch} must be true or false")
        return self


class DiskCacheConfig(_Section):
    """A folder that keeps computed prefixes after the process ends."""

    path: Annotated[str, Field(min_length=1)] = Field(
        description="Folder that keeps computed prefixes after the server ends."
    )
    max_bytes: Annotated[int, HasOption()] = Field(default=8 * 2**30, ge=0, description="Maximum bytes of the folder.")
    min_tokens: Count = Field(
        default=128, description="Minimum number of tokens of a prefix that the folder does not contain yet."
    )


class ResponsesStoreConfig(_Section):
    """Where the responses of `/v1/responses` are kept, and for how long."""

    path: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="Database file (SQLite), made at the first start. Absent: in memory."
    )
    max_bytes: int = Field(
        default=64 * 2**20, ge=2**16, lt=2**62, description="Maximum bytes of all responses; the least used go first."
    )
    ttl_s: float = Field(
        default=24 * 3600.0, gt=0, lt=1e10, description="Seconds after its creation until a response is forgotten."
    )


class Config(_Section):
    """The configuration file."""

    server: ServerConfig = ServerConfig()
    model: ModelConfig
    disk_cache: DiskCacheConfig | None = None
    responses_store: ResponsesStoreConfig = ResponsesStoreConfig()

    def engine_config(self) -> EngineConfig:
        """The engine's settings, from all sections."""
        sections = {"server": self.server, "model": self.model}
        return EngineConfig(**{s.name: getattr(sections[s.section], s.key or s.name) for s in ENGINE_SETTINGS.values()})


# Fields of the section `model` for features that do not exist yet: the name of the feature, and the values that ask for
# nothing, besides null and the default.
NOT_YET: tuple[tuple[str, str, tuple[JsonValue, ...]], ...] = (
    *((name, "draft models are", ()) for name in ModelConfig.model_fields if name.startswith("draft_model")),
    ("attention_type", "non-causal models are", (-1, 0)),
    ("vocab_only", "serving a vocabulary without weights is", (False,)),
)
