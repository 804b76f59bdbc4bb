"""Caps on the parts of one request, so that no request blocks the event loop or the engine's thread for long.

Each cap is far above the requests of real clients. A request at a cap blocks a thread for at most 50 ms
(docs/performance.md). The text in the annotation of a cap is its line in docs/api.md.
"""

from __future__ import annotations

from typing import Annotated

from llamafast.errors import InvalidRequestError

# JsonShape's weight of the JSON text, in units of 50 ns. A list of a million token ids is below the cap.
MAX_JSON_WEIGHT: Annotated[int, "weight of the body: about the number of its JSON values"] = 1_200_000
MAX_JSON_DEPTH: Annotated[int, "nesting depth of the body"] = 512
MAX_FIELDS: Annotated[int, "fields of the body"] = 1024
# JSON inside a string is parsed more slowly.
MAX_ARGUMENTS_WEIGHT: Annotated[int, "weight of the JSON text in `function.arguments` of one call"] = 300_000

MAX_MESSAGES: Annotated[int, "`messages`"] = 8192
MAX_PARTS: Annotated[int, "content parts of all messages"] = 8192
MAX_TOOL_CALLS: Annotated[int, "`tool_calls` of all messages"] = 8192
MAX_TOOLS: Annotated[int, "`tools`"] = 1024
MAX_TOOL_BYTES: Annotated[int, "bytes of all tools"] = 2 * 1024 * 1024
MAX_PROMPTS: Annotated[int, "prompts of one completion request"] = 1024
MAX_CHOICES: Annotated[int, "choices of all prompts"] = 4096

MAX_EMBEDDING_INPUTS: Annotated[int, "inputs of one request for embeddings"] = 2048
MAX_EMBEDDING_TOKENS: Annotated[int, "tokens of all inputs of one request for embeddings"] = 300_000

MAX_STOP_STRINGS: Annotated[int, "`stop` strings"] = 4096
MAX_STOP_CHARS: Annotated[int, "characters of one stop string"] = 4096
# An automaton has a state for each character.
MAX_ALL_STOP_CHARS: Annotated[int, "characters of all stop strings"] = 32_768
MAX_BIAS_PAIRS: Annotated[int, "entries of `logit_bias`"] = 16_384
MAX_ALL_BIAS_CHARS: Annotated[int, "characters of all keys of `logit_bias` that are texts"] = 262_144
MAX_BAD_WORDS: Annotated[int, "`bad_words`"] = 4096
MAX_BAD_WORD_TOKENS: Annotated[int, "tokens of one bad word"] = 256
MAX_ALL_BAD_WORD_CHARS: Annotated[int, "characters of all bad words"] = 65_536
MAX_ALL_BAD_WORD_TOKENS: Annotated[int, "tokens of all bad words"] = 16_384
MAX_BREAKERS: Annotated[int, "`dry_sequence_breakers`"] = 32
MAX_BREAKER_CHARS: Annotated[int, "characters of one breaker"] = 40
# Each part of a breaker is searched for in the vocabulary.
MAX_ALL_BREAKER_CHARS: Annotated[int, "characters of all breakers"] = 256
# Each choice has its own sampler, with a copy of these lists.
MAX_SAMPLER_ENTRIES: Annotated[
    int, "entries of `logit_bias`, tokens of `bad_words`, `allowed_token_ids` and `stop_token_ids`, times the choices"
] = 2**20
MAX_PROMPT_LOGPROBS: Annotated[
    int, "logprobs of prompts' tokens and of their alternatives, for each choice that shows them"
] = 2**21


def at_most(what: str, number: int, limit: int, param: str | None = None) -> None:
    """Raise InvalidRequestError if the number is above the limit.

    what: the counted things, for the message. param: the field at fault; None: `what`.
    """
    if number > limit:
        raise InvalidRequestError(f"{number} {what}; the limit is {limit}", param=param or what)
