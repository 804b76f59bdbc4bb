"""The app around the completion routes: models, health, metrics, documents, lifespan."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llamafast.cache.disk.disk_cache import DiskCacheStats
from llamafast.engine.metrics import MediaStats


def test_models_lists_the_alias(server):
    (card,) = server.get("/v1/models").json()["data"]
    assert card == {
        "id": "tiny",
        "object": "model",
        "created": 7,
        "owned_by": "llamafast",
        "max_model_len": 512,
        "input_modalities": ["text"],
        "meta": {"n_ctx": 512},
    }
    assert server.get("/v1/models/tiny").json() == card


def test_models_alias_may_hold_a_slash(make_server):
    assert make_server(alias="org/tiny").get("/v1/models/org/tiny").json()["id"] == "org/tiny"


def test_models_unknown_id_is_a_404(server):
    response = server.get("/v1/models/other")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("ready", "dead", "expected"),
    [(True, None, [200, 200, 200]), (False, None, [200, 200, 503]), (False, "decode failed", [503, 503, 503])],
)
def test_health_and_readiness_follow_the_engine(server, ready, dead, expected):
    server.engine.ready = ready
    server.engine.death = dead
    assert [server.get(path).status_code for path in ("/health", "/healthz", "/ready")] == expected


def test_metrics_show_the_engine_under_vllm_names(server):
    stats = server.engine.stats
    stats.prompt_tokens, stats.prefix_hits, stats.num_cells, stats.n_cells = 12, 5, 1, 4
    stats.finished["stop"] = 3
    server.engine.num_running = 2
    lines = server.get("/metrics").text.splitlines()
    labels = 'engine="0",model_name="tiny"'
    assert f"vllm:num_requests_running{{{labels}}} 2.0" in lines
    assert f"vllm:kv_cache_usage_perc{{{labels}}} 0.25" in lines
    assert f"vllm:prompt_tokens_total{{{labels}}} 12.0" in lines
    assert f"vllm:prefix_cache_hits_total{{{labels}}} 5.0" in lines
    assert f"vllm:gpu_prefix_cache_hits_total{{{labels}}} 5.0" in lines
    assert any("vllm:request_success_total" in line and 'finished_reason="stop"' in line for line in lines)


def test_metrics_count_misses_by_reason(server):
    stats = server.engine.stats
    stats.prefix_misses["evicted"], stats.computed_prompt_tokens = 2, 7
    lines = server.get("/metrics").text.splitlines()
    labels = 'engine="0",model_name="tiny"'
    assert f'llamafast:prefix_cache_misses_total{{{labels},reason="evicted"}} 2.0' in lines
    assert f"llamafast:computed_prompt_tokens_total{{{labels}}} 7.0" in lines


def test_metrics_histograms_are_cumulative(server):
    for value in (0.002, 0.002, 1e9):
        server.engine.stats.time_to_first_token.observe(value)
    families = text_string_to_metric_families(server.get("/metrics").text)
    (family,) = [f for f in families if f.name == "vllm:time_to_first_token_seconds"]
    counts = {s.labels["le"]: s.value for s in family.samples if s.name.endswith("_bucket")}
    assert (counts["0.001"], counts["0.0025"], counts["2560.0"], counts["+Inf"]) == (0, 2, 2, 3)
    assert [s.value for s in family.samples if s.name.endswith("_count")] == [3]


def test_metrics_last_step_age_counts_only_while_requests_run(server):
    server.engine.stats.last_step_s = 0.5
    ages = []
    for server.engine.num_running in (0, 1):
        families = text_string_to_metric_families(server.get("/metrics").text)
        ages += [f.samples[0].value for f in families if f.name == "llamafast:last_step_age_seconds"]
    assert ages[0] == 0
    assert ages[1] > 0


def test_metrics_speak_openmetrics_when_asked(server):
    response = server.call("GET", "/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")


def test_fingerprint_depends_on_model_facts_and_version(make_server):
    prints = [make_server(**fields).model.fingerprint for fields in ({}, {}, {"version": "2"}, {"alias": "b"})]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_openapi_document_holds_the_request_schemas(server):
    document = server.get("/openapi.json").json()
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    name = body["$ref"].rsplit("/", 1)[1]
    assert "messages" in document["components"]["schemas"][name]["properties"]


def test_lifespan_starts_and_stops_the_engine(make_server):
    server = make_server(shutdown_deadline_s=2.5)
    server.engine.ready = False

    async def go():
        async with server.app.router.lifespan_context(server.app):
            assert server.engine.ready

    asyncio.run(go())
    assert server.engine.log == ["start", "stop 2.5"]


def test_metrics_show_the_disk_cache_where_there_is_one(server):
    assert "llamafast:disk_cache" not in server.get("/metrics").text
    server.engine.stats.disk_cache = DiskCacheStats(hits=3, num_bytes=7)
    lines = server.get("/metrics").text.splitlines()
    labels = '{engine="0",model_name="tiny"}'
    assert {f"llamafast:disk_cache_hits_total{labels} 3.0", f"llamafast:disk_cache_bytes{labels} 7.0"} <= set(lines)


def test_metrics_show_the_encoder_where_there_is_one(server):
    assert "llamafast:media" not in server.get("/metrics").text
    server.engine.stats.media = MediaStats(num_encoded=3, num_bytes=7)
    lines = server.get("/metrics").text.splitlines()
    labels = '{engine="0",model_name="tiny"}'
    assert {f"llamafast:media_encoded_total{labels} 3.0", f"llamafast:media_kept_bytes{labels} 7.0"} <= set(lines)


def test_path_with_a_slash_too_many_is_unknown_and_not_redirected(server):
    answer = server.post("/v1/completions/", {"prompt": "a"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize("path", ["/health", "/healthz", "/ready"])
def test_head_of_a_health_check_is_answered(server, path):
    assert server.call("HEAD", path).status_code == 200
