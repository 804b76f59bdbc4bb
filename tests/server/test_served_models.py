"""Several models in one app, and several names for one model."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llamafast.server.served_model import Capability
from llamafast.server.state import ServerSettings, ServerState


@pytest.fixture
def other(make_model):
    return make_model("other", aliases=["second", "gpt-*", "gpt-4*"])


@pytest.fixture
def both(make_server, make_model, other):
    """A server with the models tiny and other, and a third model with a broader pattern."""
    third = make_model("third", aliases=["*-mini", "org/*"])
    return make_server(others=[other, third], aliases=["gpt-4o", "gpt-4-*"])


@pytest.mark.parametrize("api", ["chat", "complete"])
@pytest.mark.parametrize(
    ("name", "model"),
    [
        (None, "tiny"),
        ("tiny", "tiny"),
        ("gpt-4o", "tiny"),  # an exact name counts before a pattern
        ("gpt-4-turbo", "tiny"),  # the longest pattern counts
        ("gpt-4.1", "other"),
        ("gpt-3.5", "other"),
        ("second", "other"),
        ("o4-mini", "third"),
        ("org/any", "third"),
    ],
)
def test_request_goes_to_the_model_of_its_name(both, other, api, name, model):
    fields = {} if name is None else {"model": name}
    assert getattr(both, api)(**fields).json()["model"] == (name or "tiny")
    engines = {"tiny": both.engine, "other": other.engine, "third": both.others[1].engine}
    assert [alias for alias, engine in engines.items() if engine.requests] == [model]


def test_streamed_answer_shows_the_name_that_was_asked_for(both, events):
    *chunks, _ = events(both.complete(model="gpt-3.5", stream=True).content)
    assert {chunk["model"] for chunk in chunks} == {"gpt-3.5"}


def test_request_takes_template_and_defaults_of_its_model(make_server, make_model):
    other = make_model("other", sampling={"temperature": 0.25}, chat_template=None)
    server = make_server(others=[other], sampling={"temperature": 0.75})
    assert server.chat(model="other").json()["error"]["param"] == "messages"  # it has no template
    server.complete()
    server.complete(model="other")
    engines = (server.engine, other.engine)
    assert [engine.requests[0].params.temperature for engine in engines] == [0.75, 0.25]


@pytest.mark.parametrize("name", ["none", "", "Tiny", "gpt", "org/" + "x" * 300])
def test_unknown_name_is_a_404_that_names_the_models(both, name):
    response = both.complete(model=name)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert error["message"].endswith("does not exist; this server has 'tiny', 'gpt-4o', 'other', 'second', 'third'")


def test_models_are_listed_once_per_exact_name(both):
    cards = both.get("/v1/models").json()["data"]
    assert [card["id"] for card in cards] == ["tiny", "gpt-4o", "other", "second", "third"]


@pytest.mark.parametrize("name", ["tiny", "second", "gpt-3.5", "org/any/more"])
def test_model_card_is_found_as_a_request_finds_the_model(both, name):
    card = both.get(f"/v1/models/{name}").json()
    assert (card["id"], card["meta"]) == (name, {"n_ctx": 512} if name == "tiny" else {})


def test_dead_model_does_not_stop_the_other_one(both, other):
    other.engine.ready, other.engine.death = False, "decode failed"
    assert both.complete().status_code == 200
    error = both.complete(model="second").json()["error"]
    assert (error["code"], error["message"]) == ("engine_dead", "model 'other': the engine is dead: decode failed")


def test_health_of_several_models_names_the_dead_one(both, other):
    other.engine.ready, other.engine.death = False, "decode failed"
    health, ready = both.get("/health"), both.get("/ready")
    assert (health.status_code, health.json()) == (200, {"status": "degraded", "dead": {"other": "decode failed"}})
    assert (ready.status_code, ready.json()) == (
        200,
        {"status": "degraded", "not_ready": {"other": "decode failed"}},
    )


def test_health_of_dead_models_alone_is_a_503_that_names_all(both):
    for model in (both.model, *both.others):
        model.engine.ready, model.engine.death = False, f"{model.alias} fell"
    for response in (both.get("/health"), both.get("/ready"), both.complete(model="other")):
        assert response.status_code == 503
        assert "'tiny': tiny fell; model 'other': other fell" in response.json()["error"]["message"]


def test_metrics_have_each_family_once_with_all_models(both, other):
    other.engine.stats.steps = 3
    families = {family.name: family for family in text_string_to_metric_families(both.get("/metrics").text)}
    steps = families["llamafast:steps"].samples
    assert {sample.labels["model_name"]: sample.value for sample in steps} == {"tiny": 0, "other": 3, "third": 0}
    assert both.get("/metrics").text.count("# TYPE llamafast:steps_total counter") == 1


def test_lifespan_starts_and_stops_all_engines(both, other):
    both.engine.ready = other.engine.ready = False

    async def go():
        async with both.app.router.lifespan_context(both.app):
            assert other.engine.ready

    asyncio.run(go())
    assert [engine.log for engine in (both.engine, other.engine)] == [["start", "stop 30.0"]] * 2


@pytest.mark.parametrize("name", ["tiny", "same", "same-*"])
def test_name_of_two_models_is_refused(make_server, make_model, name):
    with pytest.raises(ValueError, match=r"two models have the name"):
        make_server(others=[make_model("other", aliases=[name])], aliases=["same", "same-*"])


def test_capabilities_follow_template_and_format(make_server):
    chat = make_server().model.capabilities
    assert chat == {Capability.COMPLETION, Capability.CHAT, Capability.TOOLS}
    assert make_server(chat_template=None).model.capabilities == {Capability.COMPLETION}


def test_serve_replaces_the_models_unless_two_have_one_name(make_model):
    first, second = make_model("first"), make_model("second", aliases=["gpt-*"])
    state = ServerState([first], ServerSettings())
    state.serve([second, first])
    assert [state.model_for(name) for name in (None, "first", "gpt-4")] == [second, first, second]
    with pytest.raises(ValueError, match="first"):
        state.serve([first, make_model("first")])
    assert state.model_for(None) is second
