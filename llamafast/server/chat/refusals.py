"""The error for a conversation that the chat template refuses."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from llamafast.chat.prompt.history import template_messages
from llamafast.chat.prompt.template import ChatTemplate, TemplateError
from llamafast.errors import InvalidRequestError

# CPU time of one rendering, in seconds. If it takes longer, the refused message is not searched for: the search takes
# about ten renderings.
_MAX_SEARCHED_S = 0.02


def refusal(
    template: ChatTemplate,
    sent: Sequence[Mapping[str, object]],
    variables: Mapping[str, object],
    reason: str,
    took_s: float,
) -> InvalidRequestError:
    """The error for messages that the template has refused.

    It names the last message of the shortest beginning that the template refuses for the same reason.

    sent: the messages of the request, as template_messages takes them.
    variables: the keyword arguments of the rendering.
    reason: the text of the template's error.
    took_s: CPU time of the refused rendering, in seconds.
    """

    def refuses(messages: Sequence[Mapping[str, object]]) -> bool:
        try:
            template.render(template_messages(messages, template.traits), **variables)  # type: ignore[arg-type]
        except TemplateError as exc:
            return str(exc) == reason
        return False

    param = "messages"
    if took_s <= _MAX_SEARCHED_S:
        index = bisect_left(range(1, len(sent)), True, key=lambda length: refuses(sent[:length]))
        before = sent[:index] or [{"role": "user", "content": "Hi"}]
        if refuses(sent[: index + 1]) and not refuses(before):
            param = f"messages[{index}]"
    return InvalidRequestError(f"{param}: the chat template refuses this conversation: {reason}", param=param)
