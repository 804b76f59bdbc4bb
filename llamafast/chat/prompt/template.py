"""ChatTemplate: renders messages to a prompt with the model's Jinja template, as Hugging Face does."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from llamafast.chat.prompt.template_limits import BoundedEnvironment, TemplateLimitError, start_budget
from llamafast.chat.prompt.template_traits import TemplateTraits, find_traits
from llamafast.chat.prompt.turns import SYSTEM_ROLES

Message = Mapping[str, object]

# A turn usually adds at most this many messages: an answer, results of tools, a question.
_NUM_ENDS = 4

# The errors that an expression in a template raises for unexpected values. They are faults of the request, not of the
# server.
_RENDER_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class TemplateError(ValueError):
    """The template does not compile, or fails for a request. A raise_exception call sets the text itself."""


class TemplateCostError(TemplateError):
    """A rendering takes more steps or writes more text than a conversation of its size allows."""


class ChatTemplate:
    """A compiled chat template. Rendering is thread-safe and does not change its arguments.

    source: the Jinja source, from the operator or from the GGUF. It runs in Jinja's immutable sandbox, within limits.
        It may use loop controls, `{% generation %}`, raise_exception, strftime_now, a plain `tojson`, and `from_json`.
    bos_token, eos_token: the texts of these tokens, as template variables.
    Raises TemplateError if source does not compile. Source: Hugging Face transformers, apply_chat_template.
    """

    def __init__(self, source: str, *, bos_token: str, eos_token: str) -> None:
        self.source = source
        self._special_tokens = {"bos_token": bos_token, "eos_token": eos_token}
        start_budget()  # the compiler computes constant expressions
        try:
            self._template = _ENVIRONMENT.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"chat template, line {error.lineno}: {error.message}") from error
        except (
            SyntaxError,
            RecursionError,
            ValueError,
            OverflowError,
            MemoryError,
        ) as error:  # raised by Python's compiler
            raise TemplateError(f"chat template: cannot be compiled: {error}") from None

    def render(
        self,
        messages: Sequence[Message],
        /,
        *,
        tools: Sequence[object] | None = None,
        documents: Sequence[object] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **kwargs: object,
    ) -> str:
        """The prompt for messages. kwargs become template variables.

        continue_final_message: leave the last message open, so that the model continues its text. There is then no
            generation prompt.
        Raises TemplateError if the template refuses the messages or fails, or if there is no text to continue.
        """
        variables: dict[str, object] = {
            **self._special_tokens,
            **kwargs,
            "messages": messages,
            "tools": tools,
            "documents": documents,
            "add_generation_prompt": add_generation_prompt and not continue_final_message,
        }
        if not continue_final_message:
            return self._render(variables, messages)
        marker = f"<{secrets.token_hex(8)}> "  # no other text contains it; the space shows whether the template trims
        marked, final_text = _mark_end(messages, marker)
        return _cut_at(marker, self._render({**variables, "messages": marked}, marked), final_text)

    def message_ends(self, messages: Sequence[Message], text: str, /, **kwargs: object) -> list[int]:
        """Offsets in text = render(messages, ...) after which another conversation may continue differently, ascending.

        They are the end of the part before the conversation (system message, tools), and the ends of the last few
        messages. Earlier messages were the last ones in earlier turns. An offset is included only if the template
        writes the text before it in the same way without the text after it.
        """
        num_system = 0
        while num_system < len(messages) and messages[num_system].get("role") in SYSTEM_ROLES:
            num_system += 1
        # A system message alone does not do, because many templates require a user.
        other = self._prefix([*messages[:num_system], {"role": "user", "content": ""}], kwargs)
        shorter = min(len(other), len(text))
        ends = {next((i for i in range(shorter) if other[i] != text[i]), shorter)}
        for num_messages in range(max(num_system + 1, len(messages) - _NUM_ENDS + 1), len(messages) + 1):
            prefix = self._prefix(messages[:num_messages], kwargs)
            if text.startswith(prefix):
                ends.add(len(prefix))
        return sorted(ends - {0})

    @cached_property
    def traits(self) -> TemplateTraits:
        """What the template reads. It is found on first use, by about sixty small renderings."""
        tree = _ENVIRONMENT.parse(self.source)
        attributes = {node.attr for node in tree.find_all(nodes.Getattr)}
        variables = frozenset(meta.find_undeclared_variables(tree))
        return find_traits(self._probe, variables, self.literals | attributes)

    @cached_property
    def literals(self) -> frozenset[str]:
        """The texts in the source: template data and string constants."""
        tree = _ENVIRONMENT.parse(self.source)
        strings = {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
        return frozenset(strings | {node.data for node in tree.find_all(nodes.TemplateData)})

    def _probe(self, messages: Sequence[Message], tools: Sequence[object] | None) -> str | None:
        try:
            return self.render(messages, tools=tools, enable_thinking=True)
        except TemplateError:
            return None

    def _prefix(self, messages: Sequence[Message], kwargs: Mapping[str, object]) -> str:
        """The text of the first messages; "" if the template refuses them."""
        try:
            return self.render(messages, add_generation_prompt=False, **kwargs)  # type: ignore[arg-type]
        except TemplateError:
            return ""

    def _render(self, variables: dict[str, object], messages: Sequence[Message]) -> str:
        start_budget(messages)
        try:
            return self._template.render(variables)
        except TemplateError:
            raise
        except TemplateLimitError as error:
            raise TemplateCostError(f"the chat template cannot be rendered for this request: {error}") from None
        except _RENDER_ERRORS as error:
            raise TemplateError(f"the chat template failed on this request: {error}") from error


def _mark_end(messages: Sequence[Message], marker: str) -> tuple[list[Message], str]:
    """Copies of the messages with marker after the text of the last message, and that text."""
    if not messages:
        raise TemplateError("continue_final_message needs at least one message")
    content = messages[-1].get("content")
    if isinstance(content, str):
        return [*messages[:-1], {**messages[-1], "content": content + marker}], content
    parts = list(content) if isinstance(content, (list, tuple)) else []
    for i in reversed(range(len(parts))):
        text = parts[i].get("text") if isinstance(parts[i], Mapping) else None
        if isinstance(text, str):
            parts[i] = {**parts[i], "text": text + marker}
            return [*messages[:-1], {**messages[-1], "content": parts}], text
    raise TemplateError("continue_final_message needs a last message with text in its content")


def _cut_at(marker: str, prompt: str, final_text: str) -> str:
    """The prompt up to marker. It is stripped at its end if the template stripped the space after marker."""
    end = prompt.rfind(marker.rstrip())
    if end < 0 or final_text.strip() not in prompt:
        raise TemplateError("continue_final_message: the template does not keep the last message's text")
    return prompt[:end] if prompt.startswith(marker, end) else prompt[:end].rstrip()


class _GenerationBlock(Extension):
    """`{% generation %}` marks the assistant's text for training. A prompt contains only its body."""

    tags = {"generation"}  # noqa: RUF012 - the type is Jinja's

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _raise_exception(message: object) -> NoReturn:
    raise TemplateError(str(message))


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML and sorts keys. The model was trained on text without that.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _from_json(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


def _environment() -> BoundedEnvironment:
    environment = BoundedEnvironment(
        {"tojson": _tojson, "from_json": _from_json},
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _GenerationBlock],
    )
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


_ENVIRONMENT = _environment()
