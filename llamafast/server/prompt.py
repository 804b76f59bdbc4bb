"""A conversation as the engine takes it: rendered, in tokens, with the places where later ones may part from it."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from llamafast.errors import InvalidRequestError
from llamafast.parsing.reasoning import leaves_reasoning_open
from llamafast.parsing.template import ChatTemplate, TemplateError
from llamafast.server.schemas.chat import ChatBody
from llamafast.tokenizer import Tokenizer

# To find the boundaries of a shorter prompt takes longer than to compute it again.
_MIN_TOKENS = 64


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """is_reasoning: the prompt leaves reasoning open. boundaries: ascending numbers of tokens."""

    text: str
    token_ids: array[int]
    is_reasoning: bool
    boundaries: tuple[int, ...]


def chat_prompt(
    template: ChatTemplate | None, tokenizer: Tokenizer, body: ChatBody, tools: Sequence[object] | None = None
) -> ChatPrompt:
    """Render and tokenize a conversation. tools: as the client wrote them; None: none. Raises InvalidRequestError."""
    if template is None:
        raise InvalidRequestError("this model has no chat template: use /v1/completions", param="messages")
    generate = not body.continue_final_message if body.add_generation_prompt is None else body.add_generation_prompt
    messages = [message.for_template(i) for i, message in enumerate(body.messages)]
    kwargs = body.template_kwargs(template.source)
    try:
        text = template.render(
            messages,
            tools=tools,
            documents=None,
            add_generation_prompt=generate,
            continue_final_message=body.continue_final_message,
            **kwargs,
        )
    except TemplateError as exc:
        raise InvalidRequestError(f"the chat template refuses these messages: {exc}", param="messages") from exc
    token_ids = array("i", tokenizer.encode(text, add_special=False, parse_special=True))
    if not token_ids:
        raise InvalidRequestError("the messages render to an empty prompt", param="messages")
    boundaries: tuple[int, ...] = ()
    if len(token_ids) >= _MIN_TOKENS and body.cache_prompt:
        ends = template.message_ends(messages, text, tools=tools, documents=None, **kwargs)
        boundaries = _tokens_before(ends, text, token_ids, tokenizer)
    continued = str(messages[-1]["content"]) if body.continue_final_message else None
    return ChatPrompt(text, token_ids, leaves_reasoning_open(text, continued), boundaries)


def _tokens_before(places: Sequence[int], text: str, token_ids: Sequence[int], tokenizer: Tokenizer) -> tuple[int, ...]:
    """How many tokens lie wholly before each place in the text, but none and all of them."""
    names = tokenizer.table(skip_special=False).token_bytes
    ends = list(accumulate(len(names[token_id]) for token_id in token_ids))
    added = ends[-1] - len(text.encode())  # a vocabulary may put a space before a text
    counts = {bisect_right(ends, len(text[:place].encode()) + added) for place in places}
    return tuple(sorted(counts - {0, len(token_ids)}))
