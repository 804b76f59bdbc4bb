"""Bodies that could block a server: each field at its legal maximum, and at the maximum size of a body."""

from __future__ import annotations

import json
from collections.abc import Callable

from llamafast import caps

MIB = 2**20
MOST = 31 * MIB  # of the 32 that a body may have
CALL = {"id": "call00001", "type": "function"}


def prompt(**fields) -> bytes:
    return json.dumps({"prompt": "Hi", "max_tokens": 2, **fields}, ensure_ascii=False).encode()


def chat(*messages, **fields) -> bytes:
    document = {"messages": [*messages, {"role": "user", "content": "Hi"}], "max_tokens": 2, **fields}
    return json.dumps(document, ensure_ascii=False).encode()


def called(arguments: str, name: str = "f") -> bytes:
    call = {**CALL, "function": {"name": name, "arguments": arguments}}
    question = {"role": "user", "content": "Hi"}
    return chat(question, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "1"})


def field(name: str, value: bytes) -> bytes:
    return b'{"prompt":"Hi","max_tokens":2,"%s":%s}' % (name.encode(), value)


def many(item: bytes, num_bytes: int = MOST) -> bytes:
    return b"[" + (item + b",") * (num_bytes // (len(item) + 1)) + item + b"]"


def tool(number: int = 0, **function) -> dict:
    parameters = {"type": "object", "properties": {"a": {"type": "string"}}}
    return {"type": "function", "function": {"name": f"f{number}", "parameters": parameters, **function}}


# Accepted bodies: as large as accepted, or as the engine computes quickly, for this vocabulary and context.
def legal(n_vocab: int, n_ctx: int) -> dict[str, Callable[[], bytes]]:
    num_stops, num_ids = caps.MAX_ALL_STOP_CHARS // 8, list(range(n_vocab))
    word = caps.MAX_ALL_BAD_WORD_TOKENS // caps.MAX_BAD_WORDS
    return {
        "stop": lambda: prompt(stop=[f"{i:08}" for i in range(num_stops)]),
        "stop in a chat": lambda: chat(stop=[f"{i:08}" for i in range(num_stops)]),
        "long stop": lambda: prompt(
            stop=["x" * caps.MAX_STOP_CHARS] * (caps.MAX_ALL_STOP_CHARS // caps.MAX_STOP_CHARS)
        ),
        "dry_sequence_breakers": lambda: prompt(
            dry_multiplier=1, dry_sequence_breakers=["e" * 32 for _ in range(caps.MAX_ALL_BREAKER_CHARS // 32)]
        ),
        "bad_words": lambda: prompt(bad_words=["ab"[: word // 2] for _ in range(caps.MAX_BAD_WORDS // 2)]),
        "logit_bias": lambda: prompt(logit_bias=[[i % n_vocab, 1] for i in range(caps.MAX_BIAS_PAIRS)]),
        "stop_token_ids": lambda: prompt(stop_token_ids=num_ids),
        "allowed_token_ids": lambda: prompt(allowed_token_ids=num_ids, n=4),
        "unknown fields": lambda: prompt(**{f"x{i}": i for i in range(caps.MAX_FIELDS - 10)}),
        "unknown field": lambda: prompt(x="a" * MOST),
        "token ids": lambda: prompt(prompt=[5] * (n_ctx // 16)),
        "prompts": lambda: prompt(prompt=["Hi"] * 64),
        "messages": lambda: chat(*[{"role": "user", "content": ""}] * (n_ctx // 64)),
        "parts": lambda: chat({"role": "user", "content": [{"type": "text", "text": ""}] * (n_ctx // 32)}),
        "tools": lambda: chat(tools=[tool(i) for i in range(64)]),
        "arguments": lambda: called(json.dumps({"a": [0] * (n_ctx // 32)})),
        "kwargs": lambda: chat(chat_template_kwargs={"x": "a" * MOST}),
        "metadata": lambda: chat(metadata={str(i): i for i in range(70_000)}),
    }


# Refused or harmless bodies of the maximum size.
HUGE: dict[str, Callable[[], bytes]] = {
    "stop": lambda: prompt(stop=[f"{i:04}" * 1000 for i in range(512)]),
    "stop strings": lambda: field("stop", many(b'"a"')),
    "bad_words": lambda: field("bad_words", many(b'"a"')),
    "dry_sequence_breakers": lambda: prompt(dry_multiplier=1, dry_sequence_breakers=["e" * 40] * 32),
    "logit_bias": lambda: prompt(logit_bias={str(i): 1 for i in range(150_000)}),
    "logit_bias of the wrong type": lambda: prompt(logit_bias={str(i): "a" for i in range(140_000)}),
    "logit_bias pairs": lambda: field("logit_bias", many(b"[5,1]")),
    "stop_token_ids": lambda: field("stop_token_ids", many(b"5")),
    "a million stop_token_ids": lambda: field("stop_token_ids", many(b"5", 2_000_000)),
    "allowed_token_ids of the wrong type": lambda: field("allowed_token_ids", many(b'"a"', 2_000_000)),
    "unknown fields": lambda: prompt(**{f"x{i}": i for i in range(800_000)}),
    "unknown field": lambda: field("x", many(b"{}")),
    "nesting": lambda: field("x", b"[" * MOST),
    "names": lambda: field("x", json.dumps({str(i): 1 for i in range(2_000_000)}).encode()),
    "no json": lambda: b'{"prompt":"Hi",' + b"0," * (MOST // 2),
    "model": lambda: prompt(model="a" * MOST),
    "prompt of words": lambda: prompt(prompt="word " * (MOST // 5)),
    "prompt of one letter": lambda: prompt(prompt="a" * MOST),
    "prompt of blanks": lambda: prompt(prompt=" " * MOST),
    "prompt of escapes": lambda: field("prompt", b'"' + b"\\n" * (MOST // 2) + b'"'),
    "prompt of ideographs": lambda: prompt(prompt="\u4e2d" * (MOST // 3)),
    "prompt of tags": lambda: prompt(prompt="<|im_end|>" * (MOST // 10)),
    "prompts": lambda: field("prompt", many(b'"a"')),
    "token ids": lambda: field("prompt", many(b"5")),
    "a million token ids": lambda: field("prompt", many(b"5", 2_000_000)),
    "json_schema": lambda: field("json_schema", json.dumps({"enum": ["a" * 30] * 500_000}).encode()),
    "guided_choice": lambda: field("guided_choice", many(b'"a"')),
    "guided_regex": lambda: prompt(guided_regex="a" * MOST),
    "messages": lambda: chat(*[{"role": "user", "content": "a"}] * 400_000),
    "messages at their cap": lambda: chat(*[{"role": "user", "content": "abcdefgh " * 8}] * (caps.MAX_MESSAGES - 1)),
    "parts at their cap": lambda: chat(
        {"role": "user", "content": [{"type": "text", "text": "abcdefgh " * 8}] * caps.MAX_PARTS}
    ),
    "messages of the wrong type": lambda: chat(*[{"role": "usr", "content": 1}] * 60_000),
    "parts": lambda: chat({"role": "user", "content": [{"type": "text", "text": "a"}] * 500_000}),
    "content of words": lambda: chat({"role": "user", "content": "word " * (MOST // 5)}),
    "content of tags": lambda: chat({"role": "user", "content": "<|im_end|>" * (MOST // 10)}),
    "answer of tags": lambda: chat(
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "<|" * (MOST // 2)}
    ),
    "name": lambda: chat({"role": "user", "content": "a", "name": "a" * MOST}),
    "role": lambda: chat({"role": "a" * MOST, "content": "a"}),
    "reasoning_content": lambda: chat({"role": "assistant", "content": "a", "reasoning_content": "ab " * (MOST // 3)}),
    "arguments": lambda: called(json.dumps({"a": "ab " * (4 * MIB)})),
    "arguments of values": lambda: called(json.dumps({"a": [0] * (4 * MIB)})),
    "arguments nested": lambda: called("[" * (12 * MIB)),
    "name of a call": lambda: called("{}", "a" * MOST),
    "tool_calls": lambda: chat({"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f"}}] * 60_000}),
    "tools": lambda: chat(tools=[tool(i) for i in range(8000)]),
    "tool of a long description": lambda: chat(tools=[tool(description="ab " * (MOST // 3))]),
    "tool of a large schema": lambda: chat(
        tools=[tool(parameters={"type": "object", "properties": {str(i): {} for i in range(80_000)}})]
    ),
    "kwargs": lambda: chat(chat_template_kwargs={"x": [[] for _ in range(8_000_000)]}),
    "metadata": lambda: chat(metadata=[{} for _ in range(8_000_000)]),
}
