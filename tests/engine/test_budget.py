"""Reasoning budget: at the limit the closing text is forced, and the rest of the output does not change."""

from __future__ import annotations

import random
from array import array
from pathlib import Path

import pytest

import llamafast
from llamafast.engine.engine import Engine, EngineConfig
from llamafast.errors import InvalidRequestError
from llamafast.grammars.constraint import Constraint
from llamafast.grammars.structured import StructuredKind, StructuredOutput
from llamafast.request import FinishReason, ReasoningBudget, Request, SamplingParams
from tests.engine.fakes import Collector, encode, make_engine, make_request

BUILT_IN = Path(llamafast.__file__).parent / "models" / "tiny-qwen35-f16.gguf"
END, CLOSING = "</t>", "Enough.</t>!"
OUTPUT = 40
PROMPT = "hello"


def budget(max_tokens: int, *, is_open: bool = True, start: str = "") -> ReasoningBudget:
    return ReasoningBudget(max_tokens, is_open, END, tuple(encode(CLOSING)), start)


def engine_writing(text: str, **context) -> Engine:
    """An engine with a model that generates the characters of one text by position, for any history."""
    tokens = encode(text.ljust(OUTPUT * 4, "."))
    return make_engine(lambda history, sampler: tokens[len(history) - len(PROMPT)], **{"n_ctx": 512, **context})


def run(text: str, limit: ReasoningBudget | None, **params) -> str:
    params = {"max_tokens": OUTPUT, **params}
    request = make_request("0", PROMPT, reasoning_budget=limit, **params)
    return Collector().run(engine_writing(text), request).text["0", 0]


def expected(text: str, max_tokens: int, is_open: bool, start: str) -> str:
    """The expected output, computed from texts only."""
    out, since, left = "", "", max_tokens
    while len(out) < OUTPUT:
        if is_open and left <= 0 and not any(since.endswith(END[:n]) for n in range(1, len(END))):
            out, since, is_open = out + CLOSING, "", False
            continue
        char = text.ljust(OUTPUT * 4, ".")[len(out)]
        out, since = out + char, since + char
        if is_open:
            left -= 1
            is_open = not since.endswith(END)
        elif start:
            is_open = since.endswith(start)
    return out[:OUTPUT]


def test_text_equals_what_the_rules_say_on_random_histories() -> None:
    rng = random.Random(7)
    for _ in range(120):
        pieces = [rng.choice(["<t>", END, "</", "a", "bc", "."]) for _ in range(rng.randrange(12))]
        text, max_tokens = "".join(pieces), rng.randrange(14)
        is_open, start = rng.random() < 0.6, rng.choice(["", "<t>"])
        limit = budget(max_tokens, is_open=is_open, start=start)
        assert run(text, limit) == expected(text, max_tokens, is_open, start), (text, limit)


def test_budget_of_zero_closes_at_once() -> None:
    assert run("abcdef", budget(0)) == CLOSING + "." * (OUTPUT - len(CLOSING))


def test_reasoning_that_ends_in_time_is_left_alone() -> None:
    assert run(f"abc{END}def", budget(7)) == f"abc{END}def".ljust(OUTPUT, ".")


def test_closing_text_is_computed_in_one_decode() -> None:
    engine = engine_writing("abcdef")
    Collector().run(engine, make_request("0", PROMPT, reasoning_budget=budget(3), max_tokens=OUTPUT))
    assert max(sum(counts.values()) for counts in engine.runner.steps[1:]) >= len(CLOSING)


def test_closing_text_stops_at_max_tokens() -> None:
    engine = engine_writing("abcdef")
    outputs = Collector().run(engine, make_request("0", PROMPT, reasoning_budget=budget(3), max_tokens=6))
    assert (outputs.text["0", 0], outputs.finished["0", 0].finish_reason) == ("abcEno", FinishReason.LENGTH)
    assert outputs.usage["0"].completion_tokens == 6


def test_closing_text_is_fed_token_by_token_where_logprobs_are_asked_for() -> None:
    engine = engine_writing("abcdef")
    request = make_request("0", PROMPT, reasoning_budget=budget(3), max_tokens=OUTPUT, logprobs=1)
    outputs = Collector().run(engine, request)
    written = b"".join(entry.token_bytes for entry in outputs.logprobs["0", 0]).decode()
    assert (written, outputs.text["0", 0][:15]) == (outputs.text["0", 0], "abc" + CLOSING)
    assert max(sum(counts.values()) for counts in engine.runner.steps[1:]) == 1


def test_each_choice_has_a_budget_of_its_own() -> None:
    engine = engine_writing("abcdef")
    outputs = Collector().run(engine, make_request("0", PROMPT, reasoning_budget=budget(2), max_tokens=OUTPUT, n=3))
    assert {outputs.text["0", i][:14] for i in range(3)} == {"ab" + CLOSING}


def test_stop_string_within_the_closing_text_ends_the_output() -> None:
    assert run("abcdef", budget(1), stop=("ough",)) == "aEn"


@pytest.mark.parametrize("kind", ["attention", "hybrid"])
def test_preempted_and_neighbouring_sequences_write_what_they_write_alone(kind) -> None:
    limits = [budget(i) for i in range(6)] + [None, None]
    texts = [run("abcdefghijkl", limit) for limit in limits]
    engine = engine_writing("abcdefghijkl", kind=kind, n_ctx=120)
    requests = [
        make_request(str(i), PROMPT, reasoning_budget=limit, max_tokens=OUTPUT) for i, limit in enumerate(limits)
    ]
    outputs = Collector().run(engine, *requests)
    assert [outputs.text[str(i), 0] for i in range(len(limits))] == texts
    assert engine.stats.preemptions > 0


def constrained(engine: Engine, structured: StructuredOutput, limit: ReasoningBudget) -> Request:
    params = SamplingParams(max_tokens=OUTPUT, structured=structured, reasoning_budget=limit, seed=0)
    return Request("0", array("i", encode(PROMPT)), params, grammar=engine.compile_grammar(structured))


def test_constraint_that_waits_for_the_end_of_reasoning_starts_after_the_closing_text() -> None:
    engine = engine_writing("abcdef")
    structured = StructuredOutput(StructuredKind.REGEX, "![0-9]{3}", start_after=tuple(encode(END)))
    outputs = Collector().run(engine, constrained(engine, structured, budget(2)))
    assert outputs.text["0", 0][:13] == "ab" + CLOSING[:-1] and outputs.text["0", 0][13:17].strip("!").isdigit()


def test_grammar_without_reasoning_wins_over_the_budget() -> None:
    engine = engine_writing("abcdef")
    structured = StructuredOutput(StructuredKind.REGEX, "[a-c]{8}")
    assert len(Collector().run(engine, constrained(engine, structured, budget(2))).text["0", 0]) == 8


@pytest.mark.parametrize(
    "params",
    [
        {"reasoning_budget": budget(-1)},
        {"reasoning_budget": ReasoningBudget(1, True, "", ())},
        {"reasoning_budget": ReasoningBudget(1, True, END, (9999,))},
        {"reasoning_budget": budget(1), "allowed_token_ids": (5, 6)},
        {"reasoning_budget": budget(1), "logit_bias": ((encode("E")[0], float("-inf")),)},
    ],
)
def test_budget_that_cannot_be_kept_is_refused(params) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        engine_writing("").validate(make_request("0", PROMPT, **params))
    assert caught.value.param == "reasoning_budget"


def test_real_model_answers_after_the_closing_text(native) -> None:
    chat = "<|im_start|>user\nWhat is the capital of Spain?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    with Engine(str(BUILT_IN), EngineConfig(n_ctx=512, n_seq_max=2, threads=1)) as engine:

        def ids(text: str) -> tuple[int, ...]:
            return tuple(engine.tokenizer.encode(text, add_special=False, parse_special=True))

        limit = ReasoningBudget(4, True, "</think>", ids("\n</think>\n\n"))
        params = SamplingParams(temperature=0, max_tokens=40, reasoning_budget=limit)
        request = Request("0", array("i", ids(chat)), params, skip_special=False)
        text = Collector().run(engine, request).text["0", 0]
        reasoning, _, answer = text.partition("\n</think>\n\n")
        assert (len(ids(reasoning)), "Madrid" in answer) == (4, True)


@pytest.mark.parametrize("max_tokens", [3, 4, 5])
def test_limit_inside_a_character_lets_it_end(max_tokens) -> None:
    assert run("ab€cd", budget(max_tokens), max_tokens=5 + len(CLOSING)) == f"ab€{CLOSING}"


def test_closing_text_that_the_grammar_forbids_gives_way_to_the_grammar() -> None:
    class OnlyX(Constraint):
        is_finished = False

        def accept(self, token_id: int) -> bool:
            return [token_id] == encode("x")

        def mask(self) -> bytes:
            return (1 << encode("x")[0]).to_bytes(64, "little")

        def forced(self, min_tokens: int = 1) -> list[int]:
            return []

    class Grammar:
        def start(self, account: object = None) -> Constraint:
            return OnlyX()

    params = SamplingParams(max_tokens=6, seed=0, logprobs=0, reasoning_budget=budget(2))
    request = Request("0", array("i", encode(PROMPT)), params, grammar=Grammar())
    assert Collector().run(engine_writing("abcdef"), request).text["0", 0] == "xxxxxx"
