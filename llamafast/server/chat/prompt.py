"""A conversation as the engine takes it: rendered, in tokens, with the places where later ones may part from it."""

from __future__ import annotations

import time
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from llamafast.chat.prompt.control_texts import ControlTexts, new_mark, strings_in
from llamafast.chat.prompt.history import content_text, template_messages, template_tools
from llamafast.chat.prompt.reasoning_state import leaves_reasoning_open
from llamafast.chat.prompt.template import ChatTemplate, TemplateError
from llamafast.chat.prompt.tool_documents import with_trusted_keywords
from llamafast.chat.reasoning_tags import ReasoningTags
from llamafast.errors import ContextLengthError, InvalidRequestError
from llamafast.server.chat.refusals import refusal
from llamafast.server.receiving.preparation import checkpoint
from llamafast.server.schemas.chat import ChatBody
from llamafast.server.served_model import ServedModel
from llamafast.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llamafast.engine.async_engine import AsyncEngine

# To find the boundaries of a shorter prompt takes longer than to compute it again.
_MIN_TOKENS = 64


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """text: for whoever reads its end; of a message that goes on inside its reasoning it ends in the opening tag.

    tags: of the model's reasoning, None: it writes none; is_reasoning: it is open; may_reason: the model may open it
    itself. is_continued: the model goes on with a message. boundaries: ascending numbers of tokens.
    """

    text: str
    token_ids: array[int]
    tags: ReasoningTags | None
    is_reasoning: bool
    may_reason: bool
    is_continued: bool
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
        """A copy with marks in all that the client wrote."""
        try:
            return _Conversation(
                [
                    {str(texts.mark(name, mark)): texts.mark(value, mark, is_answer=_is_answer(message, name))
                     for name, value in message.items()}
                    for message in self.messages
                ],
                None if self.tools is None else [texts.mark(with_trusted_keywords(tool), mark) for tool in self.tools],
                {name: texts.mark(value, mark) for name, value in self.kwargs.items()},  # no template writes the names
                self.defaults,
            )  # fmt: skip
        except RecursionError:
            raise InvalidRequestError("the request is nested too deeply", param="messages") from None


def _is_answer(message: Mapping[str, object], name: str) -> bool:
    return name == "content" and message.get("role") == "assistant"


def check_fits(engine: AsyncEngine, prompt: str | list[int], param: str) -> None:
    """Before anything long is done with it. Raises ContextLengthError for what surely has too many tokens."""
    if isinstance(prompt, list):
        if len(prompt) > engine.max_seq_len:
            raise ContextLengthError(
                f"{param} has {len(prompt)} tokens; prompt and output together can have {engine.max_seq_len}",
                param=param,
            )
        return
    # No token has no characters.
    least = engine.tokenizer.min_tokens(prompt) if len(prompt) > engine.max_seq_len // 4 else 0
    if least > engine.max_seq_len:
        raise ContextLengthError(
            f"{param} has at least {least} tokens; prompt and output together can have {engine.max_seq_len}",
            param=param,
        )


def chat_prompt(served: ServedModel, body: ChatBody, tools: Sequence[Mapping[str, object]] | None = None) -> ChatPrompt:
    """Render and tokenize a conversation. tools: those that the model is to see. Raises InvalidRequestError."""
    template, tokenizer = served.chat_template, served.engine.tokenizer
    if template is None:
        raise InvalidRequestError("this model has no chat template: use /v1/completions", param="messages")
    sent = [message.as_sent() for message in body.messages]
    conversation = _Conversation(
        template_messages(sent, template.traits),
        _tools(template, tools),
        body.template_kwargs(template.traits.variables),
        served.defaults.chat_template_kwargs,
    )
    checkpoint()
    segments = _rendered(template, conversation, served, body)
    text = "".join(segment for segment, _ in segments)
    check_fits(served.engine, text, "messages")
    token_ids = array("i", tokenizer.encode_segments(segments, checkpoint))
    if body.add_special_tokens and tokenizer.add_bos and token_ids[:1] != array("i", [tokenizer.bos_id]):
        token_ids.insert(0, tokenizer.bos_id)
    if not token_ids:
        raise InvalidRequestError("the messages render to an empty prompt", param="messages")
    boundaries: tuple[int, ...] = ()
    if len(token_ids) >= _MIN_TOKENS and body.cache_prompt:
        checkpoint()
        ends = template.message_ends(conversation.messages, text, **conversation.variables)
        boundaries = _tokens_before(ends, text, token_ids, tokenizer)
    continued = content_text(conversation.messages[-1]["content"]) if body.continue_final_message else None
    tags = served.chat_format.reasoning_at(text)
    is_reasoning = leaves_reasoning_open(text, tags, continued)
    # The templates of models that reason show them their earlier reasoning.
    may_reason = tags is not None and tags.open in template.source and not text.rstrip().endswith(tags.close)
    if tags is not None and is_reasoning and body.continue_final_message:
        text += tags.open
    return ChatPrompt(text, token_ids, tags, is_reasoning, may_reason, body.continue_final_message, boundaries)


def _tools(template: ChatTemplate, tools: Sequence[Mapping[str, object]] | None) -> Sequence[object] | None:
    """The tools for the template. Raises InvalidRequestError if it has no place for them."""
    if tools and "tools" not in template.traits.variables:
        raise InvalidRequestError("this model's chat template has no place for tools", param="tools")
    return template_tools(tools, template.traits)


def _rendered(
    template: ChatTemplate, conversation: _Conversation, served: ServedModel, body: ChatBody
) -> list[tuple[str, bool]]:
    """The prompt in pieces, with whether to parse them: those where the client wrote a control token's text are not."""
    texts = served.control_texts
    client = (conversation.messages, conversation.tools, conversation.kwargs)
    if not texts.may_be_in(*client):
        return [(_text_of(template, conversation, body), True)]
    if sum(map(len, strings_in(*client))) > served.engine.max_seq_len:
        # Marks can take many times the memory of what they stand in.
        check_fits(served.engine, _text_of(template, conversation, body), "messages")
        checkpoint()
    mark = new_mark()
    text = _text_of(template, conversation.marked(texts, mark), body, mark, given=conversation)
    return texts.segments(text, mark)


def _text_of(
    template: ChatTemplate,
    conversation: _Conversation,
    body: ChatBody,
    mark: str = "",
    given: _Conversation | None = None,
) -> str:
    """The rendered conversation, with the marks that are in it. given: without them. Raises InvalidRequestError."""
    generate = not body.continue_final_message if body.add_generation_prompt is None else body.add_generation_prompt
    start_s = time.thread_time()
    try:
        return template.render(
            conversation.messages,
            add_generation_prompt=generate,
            continue_final_message=body.continue_final_message,
            **conversation.variables,  # type: ignore[arg-type]
        )
    except TemplateError as exc:
        reason = str(exc).replace(mark, "") if mark else str(exc)
        sent = [message.as_sent() for message in body.messages]
        variables = (given or conversation).variables
        raise refusal(template, sent, variables, reason, time.thread_time() - start_s) from exc


def _tokens_before(places: Sequence[int], text: str, token_ids: Sequence[int], tokenizer: Tokenizer) -> tuple[int, ...]:
    """How many tokens lie wholly before each place in the text, but none and all of them."""
    names = tokenizer.table(skip_special=False).token_bytes
    ends = list(accumulate(len(names[token_id]) for token_id in token_ids))
    added = ends[-1] - len(text.encode())  # a vocabulary may put a space before a text
    counts = {bisect_right(ends, len(text[:place].encode()) + added) for place in places}
    return tuple(sorted(counts - {0, len(token_ids)}))
