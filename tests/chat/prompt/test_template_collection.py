"""With every template of llama.cpp's collection, no text of a conversation is lost, and prompts have the right tokens.

No package contains the templates: make test-templates.
"""

from __future__ import annotations

import random
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

from llamafast._core import Model
from llamafast.chat.prompt.history import template_messages, template_tools
from llamafast.chat.prompt.template import ChatTemplate
from llamafast.errors import InvalidRequestError
from llamafast.launch.conversations import CONVERSATIONS, TOOLS, Conversation
from llamafast.server.model_names import ModelNames
from llamafast.server.schemas.chat import ChatBody
from llamafast.server.served_model import ServedModel
from llamafast.tokenizer import Tokenizer
from tests.chat.collection import PATHS, SDIST, SPECIAL
from tests.server.prompts import chat_prompt
from tests.tiny_models import CONTROL_TOKENS, write_attention_model

pytestmark = pytest.mark.templates

# The sandboxes refuse what they do with calls or tools (docs/templates.md).
NO_CALLS = {"Kimi-K2-Instruct", "Kimi-K2-Thinking", "llama-cpp-deepseek-r1"}
# They require variables that no request has by default.
VARIABLES = {"fireworks-ai-llama-3-firefunction-v2": {"functions": "[]", "datetime": "now"}}
# They write no calls, so the text of one is not in the prompt either.
CALLS_NOT_WRITTEN = {
    "HuggingFaceTB-SmolLM3-3B", "LFM2-8B-A1B", "LFM2.5-Instruct", "google-gemma-2-2b-it",
    "ibm-granite-granite-3.3-2B-Instruct", "llama-cpp-rwkv-world", "microsoft-Phi-3.5-mini-instruct",
}  # fmt: skip
# They drop the text next to calls, and refuse it as a separate message before other answers. gpt-oss drops it if there
# is a later answer.
TEXT_BESIDE_CALLS_LOST = {
    "Mistral-Small-3.2-24B-Instruct-2506", "mistralai-Mistral-Nemo-Instruct-2407", "openai-gpt-oss-120b",
}  # fmt: skip
EACH = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
EACH_WITH_CALLS = pytest.mark.parametrize(
    "path", [path for path in PATHS if path.stem not in NO_CALLS], ids=lambda path: path.stem
)
TOOL = TOOLS[0]


@cache
def template_of(path: Path) -> ChatTemplate:
    return ChatTemplate(path.read_text(), **SPECIAL)


def render(path: Path, messages, tools=None) -> str:
    template = template_of(path)
    shown = template_tools(tools, template.traits)
    return template.render(template_messages(messages, template.traits), tools=shown, **VARIABLES.get(path.stem, {}))


def say(role: str, text: str, **fields) -> dict[str, object]:
    return {"role": role, "content": text, **fields}


def call(text: str, call_id: str, arguments: str = "{}") -> dict[str, object]:
    function = {"name": "get_weather", "arguments": arguments}
    return say("assistant", text, tool_calls=[{"id": call_id, "type": "function", "function": function}])


def conversation(seed: int) -> list[dict[str, object]]:
    """Questions, answers and calls in a usual order, with instructions at any place."""
    choose = random.Random(seed)
    messages: list[dict[str, object]] = []

    def add(role: str) -> None:
        messages.append(say(role, f"text{len(messages)}."))

    def instruct(chance: float) -> None:
        while choose.random() < chance:
            add(choose.choice(("system", "developer")))

    instruct(0.6)
    for i in range(choose.randint(1, 3)):
        add("user")
        instruct(0.3)
        if choose.random() < 0.4:
            text = choose.choice(("", f"text{len(messages)}."))
            messages.append(call(text, f"call0000{i}"))
            instruct(0.2)
            messages.append(say("tool", f"text{len(messages)}.", tool_call_id=f"call0000{i}"))
            instruct(0.2)
        add("assistant")
        instruct(0.2)
    if choose.random() < 0.7:
        add("user")
        instruct(0.2)
    return messages


def lost_texts(path: Path, messages: list[dict[str, object]]) -> list[str]:
    has_calls = any("tool_calls" in message for message in messages)
    text = render(path, messages, [TOOL] if has_calls else None)
    return [
        str(message["content"])
        for message in messages
        if str(message["content"]) not in text and not ("tool_calls" in message and path.stem in TEXT_BESIDE_CALLS_LOST)
    ]


@EACH
def test_template_shows_the_text_of_every_message(path: Path) -> None:
    faults = {}
    for seed in range(60):
        messages = conversation(seed)
        if path.stem in NO_CALLS and any("tool_calls" in message for message in messages):
            continue
        lost = lost_texts(path, messages)
        if lost:
            faults[seed] = lost
    assert faults == {}


@EACH_WITH_CALLS
@pytest.mark.parametrize("arguments", ['{"city": "cut_off', "[1, 2] cut_off", "cut_off", '{"city": "cut_off"}{"a": 1}'])
def test_template_shows_arguments_that_are_no_object(path: Path, arguments: str) -> None:
    messages = [say("user", "Go."), call("", "call00001", arguments), say("tool", "bad", tool_call_id="call00001")]
    text = render(path, messages, [TOOL])
    assert ("cut_off" in text) == (path.stem not in CALLS_NOT_WRITTEN)


@EACH_WITH_CALLS
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"description": None, "parameters": None},
        {"description": "d", "parameters": {}},
        {"parameters": {"type": "object", "properties": {"a": {}, "b": {"type": ["string", "null"]}, "c": True}}},
        {"parameters": {"type": "object", "properties": {"a": {"type": "object"}, "b": {"type": "array"}}}},
    ],
    ids=str,
)
def test_template_takes_tools_that_say_little(path: Path, fields: dict[str, object]) -> None:
    if "tools" not in template_of(path).traits.variables:
        return
    assert "bare_tool" in render(
        path, [say("user", "Go.")], [{"type": "function", "function": {"name": "bare_tool", **fields}}]
    )


# Each word is a message of the role that its first letter names; "c" is a call, "r" its result.
ORDINARY = (
    "u1 c1 r1 u2", "s1 u1 c1 r1 u2 c2 r2 u3", "u1 c1 r1 c2 r2 a1 u2", "u1 c1 u2", "u1 c1 u2 r1", "a1 u1", "s1 a1 u1",
    "a1", "s1", "u1 a u2", "u1 a", "u1 r1 u2", "c1 r1 u1", "r1 a1 u1", "u1 a1 c1 r1", "u1 r u2",
)  # fmt: skip


def spoken(word: str) -> dict[str, object]:
    if word[0] == "c":
        return call("", "call00001", f'{{"city": "{word}"}}') | {"content": None}
    role = {"s": "system", "u": "user", "a": "assistant", "r": "tool"}[word[0]]
    ids = {"tool_call_id": "call00001"} if role == "tool" else {}
    return {"role": role, "content": word if word[1:] else None, **ids}


@EACH
def test_template_takes_ordinary_conversations(path: Path) -> None:
    faults = {}
    for words in map(str.split, ORDINARY):
        if path.stem in NO_CALLS and {"c", "r"} & {word[0] for word in words}:
            continue
        messages = [spoken(word) for word in words]
        text = render(path, messages, [TOOL] if any(word[0] == "c" for word in words) else None)
        lost = [word for word in words if word[1:] and word not in text]
        lost = [word for word in lost if word[0] != "c" or path.stem not in CALLS_NOT_WRITTEN]
        if lost:
            faults[" ".join(words)] = lost
    assert faults == {}


CONTROL = re.compile(r"<\|[\w:./-]+\|>|</?[A-Za-z_:]+>|\[/?[A-Z_]+\]|<｜[^｜<>]+｜>")
ROLES = ("system", "developer", "user", "assistant", "tool")


@pytest.fixture(params=["control", "user-defined"])
def vocabulary(path: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Tokenizer:
    """A vocabulary whose control tokens are those that the template writes or builds from roles."""
    found = {*CONTROL.findall(path.read_text()), *(f"<|{role}|>" for role in ROLES), "<s>", "</s>"}
    control = tuple(sorted(found - set(CONTROL_TOKENS)))
    model = tmp_path / "model.gguf"
    extra = {"extra_control" if request.param == "control" else "extra_defined": control}
    write_attention_model(model, n_vocab=512 + len(control), n_layer=1, n_embd=32, n_ff=32, **extra)
    return Tokenizer(Model(str(model), vocab_only=True))


def harmless(conversation: Conversation, ending: str) -> list[dict[str, object]]:
    """The messages with the beginning of a control token at the end of each text of a client."""
    return [
        {**message, "content": f"{message['content']}{ending}"}
        if isinstance(message.get("content"), str) and message["role"] != "assistant"
        else dict(message)
        for message in conversation.messages
    ]


ENDINGS = pytest.mark.parametrize("ending", ["", " <|"])
# Templates and real vocabularies of one family.
FAMILIES = {
    "Qwen-Qwen2.5-7B-Instruct": "qwen2",
    "Qwen-Qwen3-0.6B": "qwen2",
    "Qwen3.5-4B": "qwen35",
    "CohereForAI-c4ai-command-r-plus-tool_use": "command-r",
    "google-gemma-4-31B-it": "gemma-4",
    "meta-llama-Llama-3.1-8B-Instruct": "llama-bpe",
    "microsoft-Phi-3.5-mini-instruct": "phi-3",
}


def prompts_of_other_tokens(path: Path, tokenizer: Tokenizer, ending: str) -> list[str]:
    """The conversations whose prompts do not have the tokens of the whole text with control tokens parsed."""
    template = template_of(path)
    state = ServedModel.new(
        SimpleNamespace(tokenizer=tokenizer, max_seq_len=100_000), ModelNames("tiny"), chat_template=template
    )
    different = []
    for each in CONVERSATIONS:
        messages = harmless(each, ending)
        kwargs = {**each.variables, **VARIABLES.get(path.stem, {})}
        body = ChatBody(
            messages=messages,
            chat_template_kwargs=kwargs,
            continue_final_message=each.is_open,
            add_generation_prompt=None if each.is_open else each.add_generation_prompt,
        )
        tools = each.tools if "tools" in template.traits.variables else None
        try:
            prompt = chat_prompt(state, body, tools)
        except InvalidRequestError:
            continue
        text = template.render(
            template_messages(messages, template.traits),
            tools=template_tools(tools, template.traits),
            add_generation_prompt=each.add_generation_prompt,
            continue_final_message=each.is_open,
            **kwargs,
        )
        if list(prompt.token_ids) != tokenizer.encode(text, add_special=False, parse_special=True):
            different.append(each.name)
    return different


@EACH
@ENDINGS
def test_template_prompts_have_the_tokens_of_their_text(path: Path, vocabulary: Tokenizer, ending: str) -> None:
    assert prompts_of_other_tokens(path, vocabulary, ending) == []


@EACH
def test_template_prompts_have_no_token_that_a_client_names(path: Path, vocabulary: Tokenizer) -> None:
    template = template_of(path)
    state = ServedModel.new(
        SimpleNamespace(tokenizer=vocabulary, max_seq_len=100_000), ModelNames("tiny"), chat_template=template
    )
    written = "".join(template.literals)
    defined = {name for name in vocabulary.defined_texts() if name in written or "|" in name}
    names = sorted(vocabulary.control_texts() | defined)
    words = [f"word{i}" for i in range(len(names))]
    tokens = []
    for content in ("x".join(words), "x".join(names)):
        body = ChatBody(
            messages=[say("system", content), say("user", content)], chat_template_kwargs=VARIABLES.get(path.stem, {})
        )
        ids = chat_prompt(state, body).token_ids
        tokens.append([i for i in ids if vocabulary.decode([i], skip_special=False) in names])
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize(("stem", "family"), FAMILIES.items(), ids=lambda name: name)
def test_template_prompts_have_the_tokens_of_their_text_in_real_vocabularies(stem: str, family: str) -> None:
    file = SDIST / f"vendor/llama.cpp/models/ggml-vocab-{family}.gguf"
    tokenizer = Tokenizer(Model(str(file), vocab_only=True))
    (path,) = (path for path in PATHS if path.stem == stem)
    assert [prompts_of_other_tokens(path, tokenizer, ending) for ending in ("", " <|")] == [[], []]


@EACH
def test_template_refuses_no_instructions_at_odd_places(path: Path) -> None:
    messages = [say("user", "a1"), say("system", "b2"), say("assistant", "c3"), say("developer", "d4")]
    text = render(path, messages)
    assert [message["content"] in text for message in messages] == [True] * 4
