"""Reading one choice: the number of its reasoning tokens."""

from __future__ import annotations

from llamafast.chat.response_schema.format import ResponseSchemaFormat
from llamafast.request import FinishReason, RequestOutput
from llamafast.server.chat.choice import ChoiceReader, ReadOptions

# The content comes before the reasoning, so the text can only be read at its end.
AT_THE_END = {
    "type": "object",
    "properties": {
        "content": {"type": "string", "x-regex": r"^(.*?)(?=\[\[|$)"},
        "reasoning_content": {"type": "string", "x-regex": r"\[\[([a-z]+)\]\](?!x)"},
    },
}


def test_reasoning_tokens_of_a_format_read_at_the_end_are_its_share_of_the_text():
    reader = ChoiceReader(ReadOptions(lambda: ResponseSchemaFormat(AT_THE_END).parser("", None)))
    for i, text in enumerate(["abcd", "efgh", "ijkl", "[[mn", "op]]"]):
        output = RequestOutput("r", 0, text, [i], finish_reason=FinishReason.STOP if i == 4 else None)
        events = reader.read(output)
    assert len(events) == 2
    assert reader.num_reasoning_tokens == 1
