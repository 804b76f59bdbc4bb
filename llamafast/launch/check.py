"""`llamafast check`: tests a configuration, its chat template and its chat format without the model's weights."""

from __future__ import annotations

from rich.console import Console

from llamafast.chat.prompt.history import template_messages, template_tools
from llamafast.chat.prompt.template import ChatTemplate, TemplateError
from llamafast.engine.model_info import Header, read_header
from llamafast.errors import LlamaFastError
from llamafast.launch import chat_setup
from llamafast.launch.config import Config, ModelConfig
from llamafast.launch.conversations import CONVERSATIONS
from llamafast.launch.model_file import path_if_local
from llamafast.launch.round_trip import ANSWERS, read_back

_console = Console(soft_wrap=True, highlight=False, markup=False)


def check(config: Config, name: str, *, with_model: bool = True) -> bool:
    """Print one line per check. Returns whether all passed.

    name: the name of the configuration, to be printed.
    with_model: read the header of the model file.
    """
    model = config.model
    if with_model:
        _say("config", "ok", name)
    try:
        header = _header(model) if with_model else None
        source, tokenizer = (None, None) if header is None else (header.chat_template, header.tokenizer)
        template = chat_setup.chat_template(model, source, tokenizer)
        chat_format = chat_setup.chat_format(model, template)
    except LlamaFastError as error:
        _say("failed", "", str(error))
        return False
    if header is not None and header.makes_embeddings:
        _say("template", "skipped", "the model makes embeddings")
        return True
    if template is None:
        reason = (
            "the model file has none: only /v1/completions works"
            if header
            else "it is in the model file, which is not read"
        )
        _say("template", "skipped", reason)
        return True
    if not _renders(template, header):
        return False
    origin = "configured" if model.response_schema or model.tool_format else "detected from the template"
    _say("format", "ok", f"{chat_format.name}, {origin}")
    if chat_setup.hides_calls(chat_format, template):
        _say("tools", "unknown", chat_setup.UNKNOWN_CALLS)
    problems = [fault for answer in ANSWERS if (fault := read_back(template, chat_format, answer, header))]
    _say(
        "parser",
        "ok" if not problems else "failed",
        f"{len(ANSWERS) - len(problems)} of {len(ANSWERS)} answers read back",
    )
    for problem in problems:
        _say("", "", problem)
    return not problems


def _say(what: str, result: str, text: str) -> None:
    _console.print(f"{what:10}{result:9}{text}")


def _header(model: ModelConfig) -> Header | None:
    """The header of the model file; None if the file is not on this machine. Prints a line. Raises ConfigError."""
    path = path_if_local(model, "model")
    source = model.from_pretrained
    if path is None and source is not None:
        where = f"{source.repo_id}: {source.filename}"
        _say("model", "skipped", f"{where} is not on this machine; `llamafast serve` downloads it")
        return None
    _say("model", "ok", f"{path}, without its weights")
    return read_header(str(path))


def _renders(template: ChatTemplate, header: Header | None) -> bool:
    """Print which kinds of conversations the template refuses. Returns whether it renders a plain question."""
    refused: dict[str, str] = {}
    for conversation in CONVERSATIONS:
        try:
            template.render(
                template_messages(conversation.messages, template.traits),
                tools=template_tools(conversation.tools, template.traits),
                add_generation_prompt=conversation.add_generation_prompt,
                continue_final_message=conversation.is_open,
                **conversation.variables,  # type: ignore[arg-type]
            )
        except TemplateError as error:
            refused[conversation.name] = str(error)
    is_fine = CONVERSATIONS[0].name not in refused
    number = f"{len(CONVERSATIONS) - len(refused)} of {len(CONVERSATIONS)} conversations"
    _say("template", "ok" if is_fine else "failed", number + ("" if header else ", without BOS and EOS"))
    for name, reason in refused.items():
        _say("", "refused", f"{name}: {reason}")
    if "tools" not in template.traits.variables:
        _say("", "", "the template does not support tools: requests with tools get a 400")
    return is_fine
