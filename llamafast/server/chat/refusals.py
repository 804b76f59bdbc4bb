"""What a client is told of a conversation that the chat template refuses."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from llamafast.chat.prompt.history import template_messages
from llamafast.chat.prompt.template import ChatTemplate, TemplateError
from llamafast.errors import InvalidRequestError

# CPU time of a refused rendering beyond which the message is not looked for: it takes some ten more of them.
_MAX_SEARCHED_S = 0.02


def refusal(
    template: ChatTemplate,
    sent: Sequence[Mapping[str, object]],
    variables: Mapping[str, object],
    reason: str,
    took_s: float,
) -> InvalidRequestError:
    """The error for messages that the template has refused for that reason, after took_s of CPU time.

    It names the message with which the template first refuses them, if it takes those before it.
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
