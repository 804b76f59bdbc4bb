"""Outputs held to a grammar by the real engine: valid at any temperature, the neighbours untouched."""

from __future__ import annotations

import json
from array import array
from pathlib import Path

import jsonschema
import pytest

import llamafast
from llamafast.engine.engine import Engine, EngineConfig
from llamafast.request import FinishReason, Request, SamplingParams, StructuredKind, StructuredOutput
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
def outputs(engine) -> Collector:
    """One output for each schema, all of them together."""
    return Collector().run(engine, *(request_for(engine, name, schema_of(SCHEMAS[name])) for name in SCHEMAS))


def test_schema_is_met_by_what_came_to_its_end(outputs) -> None:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    broken = {}
    for name, schema in SCHEMAS.items():
        if outputs.finished[name, 0].finish_reason is FinishReason.STOP:
            validator = jsonschema.Draft202012Validator(schema, format_checker=checker)
            broken[name] = [error.message for error in validator.iter_errors(json.loads(outputs.text[name, 0]))]
    assert {name: errors for name, errors in broken.items() if errors} == {}


def test_pydantic_model_takes_what_came_to_its_end(outputs) -> None:
    finished = [model for model in MODELS if outputs.finished[model.__name__, 0].finish_reason is FinishReason.STOP]
    values = [model.model_validate_json(outputs.text[model.__name__, 0]) for model in finished]
    assert [type(value) for value in values] == finished


def test_output_cut_by_length_is_still_allowed_so_far(engine, outputs) -> None:
    for name in SCHEMAS:
        if outputs.finished[name, 0].finish_reason is FinishReason.LENGTH:
            constraint = engine.compile_grammar(schema_of(SCHEMAS[name])).start()
            assert all(constraint.accept(token_id) for token_id in outputs.token_ids[name, 0])


def test_most_outputs_come_to_their_end(outputs) -> None:
    reasons = [outputs.finished[name, 0].finish_reason for name in SCHEMAS]
    assert set(reasons) <= {FinishReason.STOP, FinishReason.LENGTH}
    assert reasons.count(FinishReason.STOP) >= 0.9 * len(reasons)
