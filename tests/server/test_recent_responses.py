"""The responses that one connection keeps."""

from __future__ import annotations

from llamafast.responses.database import StoredResponse
from llamafast.server.responses.recent import RecentResponses


def row(name: str, parent: str | None = None, body: bytes = b"{}", token_ids: bytes = b"1234") -> StoredResponse:
    return StoredResponse(name, "", parent, "completed", False, 0.0, body, b"[]", "model", token_ids)


def ids(rows) -> list[str]:
    return [each.id for each in rows]


def test_chain_begins_with_the_earliest_response() -> None:
    recent = RecentResponses(10_000)
    recent.add(row("a"), None)
    recent.add(row("b", "a"), None)
    recent.add(row("c", "b"), "lane")
    assert ids(recent.chain("c")) == ["a", "b", "c"]


def test_chain_begins_after_a_parent_that_is_not_kept() -> None:
    recent = RecentResponses(10_000)
    recent.add(row("b", "a"), None)
    assert ids(recent.chain("b")) == ["b"]


def test_only_the_last_response_of_a_chain_keeps_its_tokens() -> None:
    recent = RecentResponses(10_000)
    recent.add(row("a"), None)
    recent.add(row("b", "a"), None)
    assert [each.token_ids for each in recent.chain("b")] == [b"", b"1234"]


def test_responses_used_least_recently_make_room() -> None:
    recent = RecentResponses(4_000)
    for name in "abc":
        recent.add(row(name, body=b" " * 700), None)
    recent.chain("a")
    recent.add(row("d", body=b" " * 700), None)
    assert [name for name in "abcd" if recent.chain(name)] == ["a", "c", "d"]


def test_long_chain_stays_within_its_size() -> None:
    recent = RecentResponses(20_000)
    for i in range(1000):
        recent.add(row(f"r{i}", f"r{i - 1}", token_ids=b"1234" * min(i, 1000)), None)
        assert recent.num_bytes <= 20_000
    assert ids(recent.chain("r999"))[-1] == "r999"


def test_response_larger_than_the_limit_is_not_kept() -> None:
    recent = RecentResponses(1_000)
    recent.add(row("a", body=b" " * 2_000), None)
    assert (len(recent), recent.num_bytes) == (0, 0)


def test_forget_removes_a_response_of_the_same_lane_only() -> None:
    recent = RecentResponses(10_000)
    recent.add(row("a"), "one")
    recent.forget("a", "two")
    assert len(recent) == 1
    recent.forget("a", "one")
    assert len(recent) == 0
