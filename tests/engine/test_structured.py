"""Outputs under a grammar in the real engine: valid at any temperature, without an effect on other sequences."""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from pathlib import Path

import jsonschema
import pytest

import llamafast
from llamafast.engine.engine import Engine, EngineConfig
from llamafast.grammars.structured import StructuredKind, StructuredOutput
from llamafast.request import FinishReason, Request, SamplingParams
from tests import tiny_models
from tests.engine.fakes import Collector
from tests.grammars.models import MODELS
from tests.grammars.schemas import SCHEMAS

BUILT_IN = Path(llamafast.__file__).parent / "models" / "tiny-qwen35-f16.gguf"
PROMPT = "Extract as JSON: Bob is 40 years old and lives in Berlin."
MAX_TOKENS = 300
pytestmark = pytest.mark.usefixtures("native")


def open_engine(path: Path) -> Engine:
    return Engine(str(path), EngineConfig(n_ctx=16384, n_seq_max=16, threads=1))


@pytest.fixture(scope="module")
def built_in():
    with open_engine(BUILT_IN) as engine:
        yield engine


@pytest.fixture(scope="module", params=["built-in", "random weights"])
def engine(request, built_in, tmp_path_factory):
    if request.param == "built-in":
        yield built_in
        return
    path = tmp_path_factory.mktemp("models") / "large.gguf"
    tiny_models.write_large_vocab_model(path)
    with open_engine(path) as engine:
        yield engine


def schema_of(schema: dict) -> StructuredOutput:
    return StructuredOutput(StructuredKind.JSON_SCHEMA, json.dumps(schema))


def request_for(engine: Engine, request_id: str, structured: StructuredOutput | None, **params) -> Request:
    params = {"temperature": 1.5, "seed": 1, "max_tokens": MAX_TOKENS, "structured": structured, **params}
    grammar = None if structured is None else engine.compile_grammar(structured)
    token_ids = array("i", engine.tokenizer.encode(PROMPT, add_special=True, parse_special=False))
    return Request(request_id, token_ids, SamplingParams(**params), grammar=grammar)


@pytest.fixture(scope="module")
def schemas(engine, built_in) -> dict[str, dict]:
    """All schemas for the built-in model; every third for the large vocabulary, where a token costs ten times more."""
    names = list(SCHEMAS) if engine is built_in else list(SCHEMAS)[::3]
    return {name: SCHEMAS[name] for name in names}


@pytest.fixture(scope="module")
def outputs(engine, schemas) -> Collector:
    """One output for each schema, all in one batch."""
    return Collector().run(engine, *(request_for(engine, name, schema_of(schemas[name])) for name in schemas))


def test_schema_is_met_by_complete_outputs(outputs, schemas) -> None:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    broken = {}
    for name, schema in schemas.items():
        if outputs.finished[name, 0].finish_reason is FinishReason.STOP:
            validator = jsonschema.Draft202012Validator(schema, format_checker=checker)
            broken[name] = [error.message for error in validator.iter_errors(json.loads(outputs.text[name, 0]))]
    assert {name: errors for name, errors in broken.items() if errors} == {}


def test_pydantic_model_takes_complete_outputs(outputs, schemas) -> None:
    models = [model for model in MODELS if model.__name__ in schemas]
    finished = [model for model in models if outputs.finished[model.__name__, 0].finish_reason is FinishReason.STOP]
    values = [model.model_validate_json(outputs.text[model.__name__, 0]) for model in finished]
    assert [type(value) for value in values] == finished


def test_output_cut_by_length_is_still_allowed_so_far(engine, outputs, schemas) -> None:
    for name, schema in schemas.items():
        if outputs.finished[name, 0].finish_reason is FinishReason.LENGTH:
            constraint = engine.compile_grammar(schema_of(schema)).start()
            assert all(constraint.accept(token_id) for token_id in outputs.token_ids[name, 0])


def test_most_outputs_are_complete(outputs, schemas) -> None:
    reasons = [outputs.finished[name, 0].finish_reason for name in schemas]
    assert set(reasons) <= {FinishReason.STOP, FinishReason.LENGTH}
    assert reasons.count(FinishReason.STOP) >= 0.9 * len(reasons)


PERSON = schema_of(SCHEMAS["Person"])
GBNF = StructuredOutput(StructuredKind.GBNF, 'root ::= "{\\"first name of the person\\": \\"" [a-z]{1,9} "\\"}"')


def test_output_of_gbnf_matches_it_and_ends(engine) -> None:
    outputs = Collector().run(engine, request_for(engine, "0", GBNF))
    assert list(json.loads(outputs.text["0", 0])) == ["first name of the person"]


def test_neighbour_of_a_constrained_stream_writes_what_it_writes_alone(built_in) -> None:
    def neighbour() -> Request:
        return request_for(built_in, "free", None, temperature=0.8, max_tokens=40, ignore_eos=True)

    alone = Collector().run(built_in, neighbour()).text["free", 0]
    together = Collector().run(built_in, request_for(built_in, "held", PERSON), neighbour())
    assert together.text["free", 0] == alone


def test_choices_of_one_request_each_follow_the_schema(built_in) -> None:
    outputs = Collector().run(built_in, request_for(built_in, "0", PERSON, n=4))
    values = [json.loads(outputs.text["0", i]) for i in range(4)]
    assert all(value.keys() >= {"name", "age"} for value in values) and len({str(value) for value in values}) > 1


def test_constraint_waits_for_the_tokens_that_end_the_reasoning(built_in) -> None:
    end = tuple(built_in.tokenizer.encode("</think>", add_special=False, parse_special=True))
    structured = StructuredOutput(StructuredKind.REGEX, "[0-9]{3}", start_after=end)
    bias = {"logit_bias": ((end[0], 30.0),)}
    outputs = Collector().run(built_in, request_for(built_in, "0", structured, temperature=1.0, **bias))
    assert outputs.text["0", 0].split("</think>", 1)[1].isdigit()


def test_logprobs_and_stop_work_under_a_schema(built_in) -> None:
    outputs = Collector().run(built_in, request_for(built_in, "0", PERSON, logprobs=1, stop=(",",)))
    written = b"".join(entry.token_bytes for entry in outputs.logprobs["0", 0]).decode()
    assert (outputs.finished["0", 0].stop_reason, written.startswith(outputs.text["0", 0])) == (",", True)


def test_settings_that_allow_no_token_end_that_request_with_an_error(built_in) -> None:
    digits = tuple(i for i, data in enumerate(built_in.tokenizer.token_bytes) if data[:1].isdigit())
    others = tuple(i for i in range(built_in.tokenizer.n_vocab) if i not in digits)
    structured = StructuredOutput(StructuredKind.REGEX, "[0-9]+")
    broken = request_for(built_in, "broken", structured, allowed_token_ids=others)
    outputs = Collector().run(built_in, broken, request_for(built_in, "fine", PERSON))
    reasons = [outputs.finished[name, 0].finish_reason for name in ("broken", "fine")]
    assert reasons == [FinishReason.ERROR, FinishReason.STOP]


def test_preempted_sequences_keep_their_place_in_the_schema(built_in) -> None:
    with Engine(built_in.model, EngineConfig(n_ctx=256, n_seq_max=8, threads=1)) as engine:
        outputs = Collector().run(engine, *(request_for(engine, str(i), PERSON, seed=i) for i in range(12)))
        num_preemptions = engine.stats.preemptions
    values = [json.loads(outputs.text[str(i), 0]) for i in range(12)]
    assert num_preemptions > 0 and all(value.keys() >= {"name", "age"} for value in values)


def test_constrained_draws_follow_the_exact_distribution(built_in):
    letters = [built_in.tokenizer.encode(letter, add_special=False, parse_special=False)[0] for letter in "abcdefgh"]
    free = request_for(built_in, "free", None, temperature=1.0, max_tokens=1, logprobs=built_in.model.n_vocab)
    built_in.add(free)
    top = {i: logprob for output in built_in.step() for token in output.logprobs or [] for i, logprob, _ in token.top}
    weights = [math.exp(top[i] / 3) for i in letters]  # temperature 3: the model has clear favourites
    regex = StructuredOutput(StructuredKind.REGEX, "[a-h]")
    drawn = Counter[int]()
    for seed in range(0, 3200, 16):
        built_in.add(request_for(built_in, "r", regex, temperature=3.0, seed=seed, n=16))
        while built_in.has_work:
            drawn.update(output.token_ids[0] for output in built_in.step() if output.token_ids)
    expected = [3200 * weight / sum(weights) for weight in weights]
    assert sum(drawn[i] for i in letters) == 3200
    assert sum((drawn[i] - e) ** 2 / e for i, e in zip(letters, expected, strict=True)) < 29.9  # 7 degrees, p 1e-4
