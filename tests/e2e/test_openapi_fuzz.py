"""The whole OpenAPI document, fuzzed: no 5xx, no hang, and every refusal in OpenAI's shape (`make test-schema`)."""

from __future__ import annotations

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st

pytestmark = [pytest.mark.schema, pytest.mark.filterwarnings("default")]


@hypothesis.settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
)
@hypothesis.given(data=hypothesis.strategies.data())
def answers_in_openai_shape(operation, data):
    case = data.draw(operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE))
    mutate(data, case)
    response = case.call(timeout=30)
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=8), values, max_size=3),
    max_leaves=8,
)


def mutate(data, case):
    """Give half of the bodies a field of a wrong type. Keep all answers short."""
    body = case.body
    if not isinstance(body, dict):
        return
    body["max_tokens"] = body["max_completion_tokens"] = 2
    if body and data.draw(st.booleans()):
        body[data.draw(st.sampled_from(sorted(body)))] = data.draw(JUNK)


def test_any_request_is_answered_or_refused_in_openai_shape(server):
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 8
    for operation in operations:
        answers_in_openai_shape(operation)
