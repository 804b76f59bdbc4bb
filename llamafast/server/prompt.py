"""A conversation as the engine takes it: rendered, in tokens, with the places where later ones may part from it."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from llamafast.control_texts import ControlTexts, Range, new_mark, segments
from llamafast.errors import InvalidRequestError
from llamafast.parsing.history import content_text, template_messages
from llamafast.parsing.reasoning import leaves_reasoning_open
from llamafast.parsing.template import ChatTemplate, TemplateError
from llamafast.server.deps import ServerSettings
from llamafast.server.schemas.chat import ChatBody
from llamafast.tokenizer import Tokenizer

# To find the boundaries of a shorter prompt takes longer than to compute it again.
_MIN_TOKENS = 64


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """is_reasoning: the prompt leaves reasoning open. boundaries: ascending numbers of tokens."""

    token_ids: array[int]
    is_reasoning: bool
    boundaries: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Conversation:
    """What the template gets. kwargs are the client's, defaults the operator's."""

    messages: Sequence[Mapping[str, object]]
    tools: Sequence[object] | None
    kwargs: Mapping[str, object]
    defaults: Mapping[str, object]

    @property
    def variables(self) -> dict[str, object]:
        return {"documents": None, **self.defaults, **self.kwargs, "tools": self.tools}

    def marked(self, texts: ControlTexts, mark: str) -> _Conversation:
        """A copy with the client's control texts marked."""
        reasoning_tags = frozenset(text for text in texts.texts if "think" in text.lower())
        try:
            messages = [
                # Templates look for these tags in answers; what they open there can be had as reasoning_content too.
                {str(name): texts.mark(value, mark, reasoning_tags if name == "content" else frozenset())
                 for name, value in message.items()}
                if message.get("role") == "assistant" else _object(texts.mark(message, mark))
                for message in self.messages
            ]  # fmt: skip
            tools = None if self.tools is None else [texts.mark(tool, mark) for tool in self.tools]
            return _Conversation(messages, tools, _object(texts.mark(self.kwargs, mark)), self.defaults)
        except RecursionError:
            raise InvalidRequestError("the request is nested too deeply", param="messages") from None


def chat_prompt(settings: ServerSettings, tokenizer: Tokenizer, body: ChatBody) -> ChatPrompt:
    """Render and tokenize a conversation. Raises InvalidRequestError."""
    template = settings.chat_template
    if template is None:
        raise InvalidRequestError("this model has no chat template: use /v1/completions", param="messages")
    sent = [message.as_sent() for message in body.messages]
    conversation = _Conversation(
        template_messages(sent, template.traits),
        _tools(template, None),
        body.template_kwargs,
        settings.chat_template_kwargs,
    )
    text, plain = _rendered(template, conversation, None if settings.parse_special_in_messages else tokenizer, body)
    token_ids = array(
        "i",
        tokenizer.encode_segments(segments(text, plain))
        if plain
        else tokenizer.encode(text, add_special=False, parse_special=True),
    )
    if not token_ids:
        raise InvalidRequestError("the messages render to an empty prompt", param="messages")
    boundaries: tuple[int, ...] = ()
    if len(token_ids) >= _MIN_TOKENS and body.cache_prompt:
        ends = template.message_ends(conversation.messages, text, **conversation.variables)
        boundaries = _tokens_before(ends, text, token_ids, tokenizer)
    continued = content_text(conversation.messages[-1]["content"]) if body.continue_final_message else None
    return ChatPrompt(token_ids, leaves_reasoning_open(text, continued), boundaries)


def _tools(template: ChatTemplate, tools: Sequence[object] | None) -> Sequence[object] | None:
    """The tools for the template. Raises InvalidRequestError if it has no place for them."""
    if tools and "tools" not in template.traits.variables:
        raise InvalidRequestError("this model's chat template has no place for tools", param="tools")
    return tools or ([] if template.traits.empty_tools else None)


def _rendered(
    template: ChatTemplate, conversation: _Conversation, tokenizer: Tokenizer | None, body: ChatBody
) -> tuple[str, list[Range]]:
    """The prompt, and the ranges in it that must not be parsed: where the client wrote a control token's text.

    Without a tokenizer nothing is looked for.
    """
    mark = ""
    client = (conversation.messages, conversation.tools, conversation.kwargs)
    if tokenizer is not None and tokenizer.control_texts.are_in(*client):
        mark = new_mark()
        conversation = conversation.marked(tokenizer.control_texts, mark)
    generate = not body.continue_final_message if body.add_generation_prompt is None else body.add_generation_prompt
    try:
        text = template.render(
            conversation.messages,
            add_generation_prompt=generate,
            continue_final_message=body.continue_final_message,
            **conversation.variables,  # type: ignore[arg-type]
        )
    except TemplateError as exc:
        reason = str(exc).replace(mark, "") if mark else str(exc)
        raise InvalidRequestError(f"the chat template refuses these messages: {reason}", param="messages") from exc
    return tokenizer.control_texts.unmark(text, mark) if tokenizer is not None and mark else (text, [])


def _object(value: object) -> dict[str, object]:
    """A marked object, whose names are strings."""
    return {str(name): inner for name, inner in value.items()} if isinstance(value, Mapping) else {}


def _tokens_before(places: Sequence[int], text: str, token_ids: Sequence[int], tokenizer: Tokenizer) -> tuple[int, ...]:
    """How many tokens lie wholly before each place in the text, but none and all of them."""
    names = tokenizer.table(skip_special=False).token_bytes
    ends = list(accumulate(len(names[token_id]) for token_id in token_ids))
    added = ends[-1] - len(text.encode())  # a vocabulary may put a space before a text
    counts = {bisect_right(ends, len(text[:place].encode()) + added) for place in places}
    return tuple(sorted(counts - {0, len(token_ids)}))
