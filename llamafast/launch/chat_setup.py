"""The chat template and the chat format of a model, from the configuration or else from the model file."""

from __future__ import annotations

from pathlib import Path

from llamafast.chat.format import ChatFormat
from llamafast.chat.formats.registry import by_name, detect
from llamafast.chat.prompt.template import ChatTemplate, TemplateCostError, TemplateError
from llamafast.chat.response_schema.format import ResponseSchemaFormat
from llamafast.errors import ConfigError
from llamafast.launch.config import ModelConfig
from llamafast.launch.config_file import read_text
from llamafast.tokenizer import Tokenizer

UNKNOWN_CALLS = (
    "the chat template supports tools, but its call format is not known: calls stay in the content; "
    "name a format with --tool-format, or define one with model.response_schema"
)


def chat_template(model: ModelConfig, gguf_source: str | None, tokenizer: Tokenizer | None) -> ChatTemplate | None:
    """The chat template of the configuration, or else of the model file. None if neither has one.

    gguf_source: the template of the model file.
    tokenizer: for the texts of BOS and EOS. None: both are empty.
    Raises ConfigError if the template cannot be read, does not compile, or computes for too long.
    """
    source = model.chat_template or _read(model.chat_template_file) or gguf_source
    if source is None:
        return None
    ids = (-1, -1) if tokenizer is None else (tokenizer.bos_id, tokenizer.eos_id)
    bos, eos = ("" if tokenizer is None or i < 0 else _text(tokenizer, i) for i in ids)
    try:
        template = ChatTemplate(source, bos_token=bos, eos_token=eos)
        _check_cost(template)
    except TemplateError as error:
        field = "chat_template_file" if model.chat_template_file else "chat_template"
        raise ConfigError(f"model.{field}: {error}") from None
    return template


def chat_format(model: ModelConfig, template: ChatTemplate | None) -> ChatFormat:
    """The chat format of the configuration, or else the format that matches the template. Raises ConfigError."""
    detected = detect("" if template is None else template.source)
    if model.response_schema is not None:
        try:
            return ResponseSchemaFormat(model.response_schema, detected)
        except ValueError as error:
            raise ConfigError(f"model.response_schema: {error}") from None
    if model.tool_format is not None:
        try:
            return by_name(model.tool_format)
        except ValueError as error:
            raise ConfigError(f"model.tool_format: {error}") from None
    return detected


def hides_calls(chat_format: ChatFormat, template: ChatTemplate | None) -> bool:
    """Whether the template supports tools but its call format is unknown, so that calls stay in the content."""
    return template is not None and not chat_format.reads_calls and "tools" in template.traits.variables


def _check_cost(template: ChatTemplate) -> None:
    """Raise TemplateCostError if rendering a short question costs too much. Other template errors are ignored."""
    try:
        template.render([{"role": "user", "content": "Hi"}])
    except TemplateCostError:
        raise
    except TemplateError:
        pass


def _read(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return read_text(Path(path).expanduser()).replace("\r\n", "\n")
    except ConfigError as error:
        raise ConfigError(f"model.chat_template_file: {error}") from None


def _text(tokenizer: Tokenizer, token_id: int) -> str:
    return tokenizer.token_bytes_of(token_id, special=True).decode("utf-8", "replace")
