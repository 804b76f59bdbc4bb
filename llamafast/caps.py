"""How much one request may hold of each thing, so that no request holds the event loop or the engine's thread for long.

Each cap is far above what clients send. At its cap a field holds nobody for more than 50 ms (docs/performance.md).
"""

from __future__ import annotations

from llamafast.errors import InvalidRequestError

# The JSON text, as JsonShape counts it. Weights are of 50 ns: a million token ids are let in.
MAX_JSON_WEIGHT = 1_200_000
MAX_JSON_DEPTH = 512
MAX_FIELDS = 1024
# JSON inside of a string: the arguments of a call in the history. Its parser is slower.
MAX_ARGUMENTS_WEIGHT = 300_000

MAX_MESSAGES = 8192
MAX_PARTS = 8192  # of all messages together, and so the calls
MAX_TOOL_CALLS = 8192
MAX_TOOLS = 1024
MAX_TOOL_BYTES = 2 * 1024 * 1024  # of all tools together
MAX_PROMPTS = 1024
MAX_CHOICES = 4096  # of all prompts together

MAX_STOP_STRINGS = 4096
MAX_STOP_CHARS = 4096
MAX_ALL_STOP_CHARS = 32_768  # an automaton has a state for each
MAX_BIAS_PAIRS = 16_384
MAX_ALL_BIAS_CHARS = 262_144  # of keys that are texts
MAX_BAD_WORDS = 4096
MAX_BAD_WORD_TOKENS = 256
MAX_ALL_BAD_WORD_CHARS = 65_536
MAX_ALL_BAD_WORD_TOKENS = 16_384
MAX_BREAKERS = 32
MAX_BREAKER_CHARS = 40
MAX_ALL_BREAKER_CHARS = 256  # each is a search through the vocabulary
# Biases, tokens of bad words, allowed and stop ids, for each choice that has a sampler of its own.
MAX_SAMPLER_ENTRIES = 2**20
# Logprobs of prompts' tokens and of their alternatives, for each choice that shows them.
MAX_PROMPT_LOGPROBS = 2**21


def at_most(what: str, number: int, limit: int, param: str | None = None) -> None:
    """Raises InvalidRequestError naming `param`, by default what is counted, for a number beyond the limit."""
    if number > limit:
        raise InvalidRequestError(f"{number} {what}; the limit is {limit}", param=param or what)
