"""From the body of a response and the responses before it to the draft of a chat."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import orjson

from llamafast.errors import ContextLengthError, InvalidRequestError
from llamafast.responses.database import StoredResponse
from llamafast.responses.items import Conversation, Item, add_messages, input_items
from llamafast.responses.tools import ToolTable
from llamafast.server.chat.prepare import ChatDraft, check_media, draft_chat
from llamafast.server.chat.prompt import ChatPrompt, chat_prompt
from llamafast.server.chat.request import ChatRequest
from llamafast.server.schemas.responses import ReadInput, ResponseBody
from llamafast.server.served_model import ServedModel

# Tokens that a conversation leaves for the answer once turns had to be dropped from it.
_LEFT_FOR_ANSWER = 256

_NO_CELLS: Mapping[tuple[str, str, bool], int] = {}

_CALLS = ("function_call", "custom_tool_call")
_SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True, slots=True)
class AskedResponse:
    """A response as it is asked for, before its constraint is compiled.

    body: the client's. items: the items of its own input. given: the whole conversation and its tools. draft: the chat.
    """

    body: ResponseBody
    items: list[Item]
    given: ReadInput
    draft: ChatDraft

    @property
    def served(self) -> ServedModel:
        """The model that answers."""
        return self.draft.served

    @property
    def table(self) -> ToolTable:
        """The tools of the whole conversation."""
        return self.given.table

    def with_room_for_media(self, prompt: ChatPrompt) -> AskedResponse:
        """A copy without the turns at its front for which the media leave no room.

        prompt: that of the draft, with its media. May take long, so it may run in a thread. Raises InvalidRequestError.
        """
        cells = {
            (part.kind, part.source, part.is_small): num
            for part, num in zip(self.draft.request.media, prompt.media_cells, strict=True)
        }
        return replace(self, draft=draft_chat(self.served, _shortened(self.served, self.body, self.given, cells)))


def read_response(
    served: ServedModel,
    body: ResponseBody,
    history: Sequence[StoredResponse],
    unseal: Callable[[str], str | None],
) -> AskedResponse:
    """Read the input, render the conversation and tokenize it. May take long, so it may run in a thread.

    history: the responses before this one, the first one first. unseal: the reasoning in an `encrypted_content`; None:
    it is from another server. Raises InvalidRequestError, naming the client's field.
    """
    items, given = _read_input(body, history, unseal)
    request = replace(body.to_chat_request(given), known_ids=_known_ids(served, history))
    try:
        draft = draft_chat(served, request)
        if body.truncation == "auto":
            _check_room(served, len(draft.prompt.token_ids), 1)
    except ContextLengthError:
        if body.truncation != "auto":
            raise
        draft = draft_chat(served, _shortened(served, body, given))
    return AskedResponse(body, items, given, draft)


def read_prompt(
    served: ServedModel,
    body: ResponseBody,
    history: Sequence[StoredResponse],
    unseal: Callable[[str], str | None],
) -> tuple[ChatRequest, ChatPrompt]:
    """The conversation and its prompt without media rows. Raises InvalidRequestError, naming the client's field."""
    _, given = _read_input(body, history, unseal)
    request = body.to_chat_request(given)
    check_media(served, request)
    return request, chat_prompt(served, request)


def _read_input(
    body: ResponseBody, history: Sequence[StoredResponse], unseal: Callable[[str], str | None]
) -> tuple[list[Item], ReadInput]:
    conversation, table = Conversation(), ToolTable()
    table.add(body.tools, "tools")
    if body.instructions is not None:
        conversation.messages.append({"role": "system", "content": body.instructions})
        conversation.places.append("instructions")
    known: dict[str, Item] = {}
    for row in history:
        earlier = _items_of(row)
        known |= {str(item.get("id")): item for item in earlier}
        add_messages(conversation, earlier, table, path="previous_response_id", find=known.get, unseal=unseal)
    items = input_items(body.input)
    own = {str(item.get("id")): item for item in items if item.get("type") != "item_reference"}
    find = {**own, **known}.get
    add_messages(conversation, items, table, path="input", find=find, unseal=unseal)
    if not conversation.messages:
        raise InvalidRequestError("input: Field required", param="input")
    return items, ReadInput(conversation, table)


def _items_of(row: StoredResponse) -> list[Item]:
    """The items of a stored response: its input, then its output without calls that broke off."""
    given, body = orjson.loads(row.input), orjson.loads(row.body)
    output = [item for item in body["output"] if item["type"] not in _CALLS or item["status"] == "completed"]
    return [*given, *output]


def _known_ids(served: ServedModel, history: Sequence[StoredResponse]) -> array[int] | None:
    """The tokens of the conversation up to the last answer, if this model wrote it."""
    if not history or not history[-1].token_ids or history[-1].model_key != served.fingerprint:
        return None
    known = array("i")
    known.frombytes(history[-1].token_ids)
    return known


def _check_room(served: ServedModel, num_tokens: int, num_left: int) -> None:
    """Raises ContextLengthError if fewer than num_left tokens are left for the answer."""
    if num_tokens + num_left > served.max_seq_len:
        raise ContextLengthError(
            f"input has {num_tokens} tokens; input and output together can have {served.max_seq_len}",
            param="input",
        )


def _shortened(
    served: ServedModel, body: ResponseBody, given: ReadInput, cells: Mapping[tuple[str, str, bool], int] = _NO_CELLS
) -> ChatRequest:
    """The conversation without the fewest turns at its front that make it fit. Raises ContextLengthError.

    cells: the tokens of media, by kind, source and low resolution. Media that it lacks count nothing.
    """
    num_left = min(body.max_output_tokens or _LEFT_FOR_ANSWER, served.max_seq_len // 4)
    starts = _turn_starts(given.conversation)

    def without(num_turns: int) -> ChatRequest:
        return body.to_chat_request(ReadInput(_without_front(given.conversation, starts[num_turns]), given.table))

    def fits(num_turns: int) -> bool:
        try:
            request = without(num_turns)
            num_media = sum(cells.get((part.kind, part.source, part.is_small), 0) for part in request.media)
            _check_room(served, len(chat_prompt(served, request).token_ids) + num_media, num_left)
        except ContextLengthError:
            return False
        return True

    if not starts:
        starts = [0]
    num_turns = bisect_left(range(len(starts) - 1), True, key=fits)
    return without(num_turns)


def _turn_starts(conversation: Conversation) -> list[int]:
    """The messages with which turns begin: those of the user that follow another message than the user's."""
    roles = [str(message["role"]) for message in conversation.messages]
    starts = [i for i, role in enumerate(roles) if role == "user" and (i == 0 or roles[i - 1] != "user")]
    return starts if starts and all(role in _SYSTEM_ROLES for role in roles[: starts[0]]) else [0, *starts]


def _without_front(conversation: Conversation, start: int) -> Conversation:
    """A copy without the messages before `start`, but for those of the system."""
    kept = [i for i, message in enumerate(conversation.messages) if i >= start or message["role"] in _SYSTEM_ROLES]
    return Conversation(
        [conversation.messages[i] for i in kept], [conversation.places[i] for i in kept], conversation.warnings
    )
