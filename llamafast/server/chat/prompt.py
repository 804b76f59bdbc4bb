"""Renders and tokenizes a conversation, and finds the ends of its messages.

It depends only on the request and the model, so it can run in a thread.
"""

from __future__ import annotations

import time
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from llamafast.cache.prompt import MediaSpan
from llamafast.chat.prompt.control_texts import ControlTexts, new_mark, strings_in
from llamafast.chat.prompt.history import content_text, template_messages, template_tools
from llamafast.chat.prompt.reasoning_state import leaves_reasoning_open
from llamafast.chat.prompt.template import ChatTemplate, TemplateError
from llamafast.chat.prompt.tool_documents import with_trusted_keywords
from llamafast.chat.reasoning_tags import ReasoningTags
from llamafast.errors import InvalidRequestError
from llamafast.request import MediaContent, PromptPlaces
from llamafast.server.chat.media import (
    NO_MEDIA,
    LoadedMedia,
    PlacedMedia,
    contents_of,
    cut_at_media,
    joined_prompt,
    moved_places,
    without_marks,
)
from llamafast.server.chat.refusals import refusal
from llamafast.server.chat.request import ChatRequest
from llamafast.server.receiving.preparation import checkpoint
from llamafast.server.receiving.prompt_size import check_fits
from llamafast.server.served_model import ServedModel
from llamafast.tokenizer import Tokenizer

# Tokens. For a shorter prompt, finding the places takes longer than computing the prompt again.
_MIN_TOKENS = 64


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """The prompt of a conversation.

    text: the rendered conversation.
    token_ids: array('i'), the tokens of the text; with_media() adds the ids of media rows.
    media: where the images and sounds of the request stand.
    spans, contents: the media rows in token_ids, and what they are computed from; empty before with_media().
    num_media_rows: number of rows by kind, `image` and `audio`.
    media_cells: for each media part of the request, the number of tokens that with_media() added for it.
    places: where the head and the messages end, in tokens. None: the prompt is short, or the request does not use the
    cache.
    tags: the tags around the model's reasoning. None: the model writes no reasoning.
    is_reasoning: the prompt ends inside reasoning.
    may_reason: the model may open its reasoning itself.
    is_continued: the answer continues the last message.
    """

    text: str
    token_ids: array[int]
    places: PromptPlaces | None
    tags: ReasoningTags | None
    is_reasoning: bool
    may_reason: bool
    is_continued: bool
    media: PlacedMedia = NO_MEDIA
    spans: tuple[MediaSpan, ...] = ()
    contents: tuple[MediaContent, ...] = ()
    num_media_rows: Mapping[str, int] = field(default_factory=dict)
    media_cells: tuple[int, ...] = ()

    def with_media(self, loaded: Sequence[LoadedMedia]) -> ChatPrompt:
        """The prompt with the rows of its media. loaded: one for each media part of the request."""
        if not loaded:
            return self
        prompt = joined_prompt(self.token_ids, self.media, loaded)
        num_rows: dict[str, int] = {}
        for one in loaded:
            num_rows[one.kind] = num_rows.get(one.kind, 0) + one.num_rows
        return replace(
            self,
            token_ids=prompt.ids,
            places=moved_places(self.places, self.media, loaded),
            spans=prompt.layout.media,
            contents=contents_of(self.media, loaded),
            num_media_rows=num_rows,
            media_cells=tuple(one.num_cells for one in loaded),
        )

    @property
    def answer_context(self) -> str:
        """The text before the answer, as the parser and the grammar of a chat format read it.

        If the prompt ends inside reasoning that a continued message opened earlier, the opening tag is appended.
        """
        return self.text + self.tags.open if self.tags and self.is_reasoning and self.is_continued else self.text


@dataclass(frozen=True, slots=True)
class _Conversation:
    """The arguments of the template.

    messages, tools: in the form that the template expects.
    variables: the client's variables, by name.
    defaults: the operator's variables, by name. The client's variables override them.
    """

    messages: Sequence[Mapping[str, object]]
    tools: Sequence[object] | None
    variables: Mapping[str, object]
    defaults: Mapping[str, object]

    @property
    def kwargs(self) -> dict[str, object]:
        """The keyword arguments of ChatTemplate.render that are the same for every part of the conversation."""
        return {"documents": None, **self.defaults, **self.variables, "tools": self.tools}

    def marked(self, texts: ControlTexts, mark: str) -> _Conversation:
        """A copy with marks in every text that the client wrote."""
        try:
            return _Conversation(
                [
                    {str(texts.mark(name, mark)): texts.mark(value, mark, is_answer=_is_answer(message, name))
                     for name, value in message.items()}
                    for message in self.messages
                ],
                None if self.tools is None else [texts.mark(with_trusted_keywords(tool), mark) for tool in self.tools],
                # Names of variables get no marks: no template writes them.
                {name: texts.mark(value, mark) for name, value in self.variables.items()},
                self.defaults,
            )  # fmt: skip
        except RecursionError:
            raise InvalidRequestError("the request is nested too deeply", param="messages") from None


def _is_answer(message: Mapping[str, object], name: str) -> bool:
    return name == "content" and message.get("role") == "assistant"


def chat_prompt(served: ServedModel, request: ChatRequest) -> ChatPrompt:
    """Render and tokenize a conversation. Raises InvalidRequestError, which names the client's field."""
    with request.names.in_errors():
        return _prompt(served, request)


def _prompt(served: ServedModel, request: ChatRequest) -> ChatPrompt:
    template, tokenizer = served.chat_template, served.engine.tokenizer
    if template is None:
        raise InvalidRequestError("this model has no chat template: use /v1/completions", param="messages")
    conversation = _Conversation(
        template_messages(request.messages, template.traits),
        _tools(template, request.tools.shown),
        request.variables(template.traits.variables),
        served.defaults.chat_template_kwargs,
    )
    checkpoint()
    segments = _rendered(template, conversation, served, request)
    marked = text = "".join(segment for segment, _ in segments)
    check_fits(served.engine, text, "messages")
    token_ids, media = _tokens(tokenizer, segments, text, request)
    if not token_ids and not request.media:
        raise InvalidRequestError("the messages render to an empty prompt", param="messages")
    places = None
    if (len(token_ids) >= _MIN_TOKENS or request.media) and request.cache.get("use_cache", True):
        checkpoint()
        ends = template.message_ends(conversation.messages, marked, **conversation.kwargs)
        text, ends = without_marks(marked, ends, request.media)
        places = PromptPlaces.of(_tokens_before(ends, text, token_ids, tokenizer))
    text, _ = without_marks(marked, (), request.media)
    is_continued = request.continue_final_message
    continued = content_text(conversation.messages[-1]["content"]) if is_continued else None
    tags = served.chat_format.reasoning_at(text)
    is_reasoning = leaves_reasoning_open(text, tags, continued)
    # The templates of reasoning models write the reasoning of earlier turns.
    may_reason = tags is not None and tags.open in template.source and not text.rstrip().endswith(tags.close)
    return ChatPrompt(text, token_ids, places, tags, is_reasoning, may_reason, is_continued, media)


def _tokens(
    tokenizer: Tokenizer, segments: list[tuple[str, bool]], text: str, request: ChatRequest
) -> tuple[array[int], PlacedMedia]:
    """The tokens of all segments, and the places of the media between them. text: that of the segments."""
    token_ids, places = array("i"), list[int]()
    if not request.media:  # the rows of media are in no text
        token_ids, segments = _known_start(tokenizer, segments, text, request.known_ids)
    groups, numbers = cut_at_media(segments, request.media) if request.media else ([list(segments)], [])
    for group in groups:
        token_ids.extend(tokenizer.encode_segments(group, checkpoint))
        if not places and request.add_special and tokenizer.add_bos and token_ids[:1] != array("i", [tokenizer.bos_id]):
            token_ids.insert(0, tokenizer.bos_id)
        places.append(len(token_ids))
    return token_ids, PlacedMedia(tuple(numbers), tuple(places[:-1]))


def _known_start(
    tokenizer: Tokenizer, segments: list[tuple[str, bool]], text: str, known_ids: array[int] | None
) -> tuple[array[int], list[tuple[str, bool]]]:
    """The tokens that a prompt is known to begin with, and the segments after them. None known: no tokens."""
    start = "" if known_ids is None else tokenizer.decode(known_ids, skip_special=False)
    if known_ids is None or not start or not text.startswith(start):
        return array("i"), segments
    left, num_chars = list[tuple[str, bool]](), len(start)
    for segment, is_parsed in segments:
        if num_chars < len(segment):
            left.append((segment[num_chars:], is_parsed))
        num_chars = max(0, num_chars - len(segment))
    return array("i", known_ids), left


def _tools(template: ChatTemplate, tools: Sequence[Mapping[str, object]]) -> Sequence[object] | None:
    """The tools in the form that the template expects. Raises InvalidRequestError if it does not read tools."""
    if tools and "tools" not in template.traits.variables:
        raise InvalidRequestError("this model's chat template does not support tools", param="tools")
    return template_tools(tools, template.traits)


def _rendered(
    template: ChatTemplate, conversation: _Conversation, served: ServedModel, request: ChatRequest
) -> list[tuple[str, bool]]:
    """The prompt in pieces. The flag of a piece: its control tokens are parsed. In texts of clients they are not."""
    texts = served.control_texts
    client = (conversation.messages, conversation.tools, conversation.variables)
    if not texts.may_be_in(*client):
        return [(_text_of(template, conversation, request), True)]
    if sum(map(len, strings_in(*client))) > served.engine.max_seq_len:
        # Marks can take many times the memory of the texts that contain them.
        check_fits(served.engine, _text_of(template, conversation, request), "messages")
        checkpoint()
    mark = new_mark()
    text = _text_of(template, conversation.marked(texts, mark), request, mark, unmarked=conversation)
    return texts.segments(text, mark)


def _text_of(
    template: ChatTemplate,
    conversation: _Conversation,
    request: ChatRequest,
    mark: str = "",
    unmarked: _Conversation | None = None,
) -> str:
    """The rendered conversation.

    mark: the mark in the conversation's texts. The result contains it too.
    unmarked: the conversation without marks, for errors.
    Raises InvalidRequestError if the template refuses the conversation.
    """
    start_s = time.thread_time()
    try:
        return template.render(
            conversation.messages,
            add_generation_prompt=request.add_generation_prompt,
            continue_final_message=request.continue_final_message,
            **conversation.kwargs,  # type: ignore[arg-type]
        )
    except TemplateError as exc:
        reason = str(exc).replace(mark, "") if mark else str(exc)
        kwargs = (unmarked or conversation).kwargs
        raise refusal(template, request.messages, kwargs, reason, time.thread_time() - start_s) from exc


def _tokens_before(ends: Sequence[int], text: str, token_ids: Sequence[int], tokenizer: Tokenizer) -> tuple[int, ...]:
    """For each end in the text, the number of tokens that end at it or before. Ascending; 0 and all are left out."""
    names = tokenizer.table(skip_special=False).token_bytes
    token_ends = list(accumulate(len(names[token_id]) for token_id in token_ids))
    added = token_ends[-1] - len(text.encode())  # a vocabulary may put a space before a text
    counts = {bisect_right(token_ends, len(text[:end].encode()) + added) for end in ends}
    return tuple(sorted(counts - {0, len(token_ids)}))
