"""StopMatcher agrees with a naive search at every split of the text."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llamafast.tokenizer import StopMatcher, _AutomatonCache

# With two letters, overlaps and stops inside stops are likely.
STOPS = st.lists(st.text("ab", min_size=1, max_size=5), max_size=6).map(tuple)
PARTS = st.lists(st.text("abx", max_size=6), max_size=12)


def naive(text: str, stops: tuple[str, ...]) -> tuple[str, str | None]:
    """(text before the stop, stop) for the stop that ends first; of several that end there, the longest."""
    for end in range(1, len(text) + 1):
        ending_here = [stop for stop in stops if text[:end].endswith(stop)]
        if ending_here:
            stop = max(ending_here, key=len)
            return text[: end - len(stop)], stop
    return text, None


def feed(matcher: StopMatcher, parts: list[str]) -> tuple[list[str], str | None]:
    emitted = []
    for part in parts:
        emit, matched = matcher.add(part)
        emitted.append(emit)
        if matched is not None:
            return emitted, matched
    return [*emitted, matcher.flush()], None


@settings(deadline=None)
@given(STOPS, PARTS)
@example(("aab", "ab", "b"), ["a", "a", "b"])
@example(("abab", "ba"), ["aba", "x"])
def test_stop_matcher_any_split_equals_naive_search(stops, parts):
    emitted, matched = feed(StopMatcher(stops), parts)
    assert ("".join(emitted), matched) == naive("".join(parts), stops)


@settings(deadline=None)
@given(STOPS, PARTS)
def test_stop_matcher_after_each_part_holds_only_longest_stop_prefix(stops, parts):
    matcher = StopMatcher(stops)
    seen = sent = ""
    for part in parts:
        emit, matched = matcher.add(part)
        seen, sent = seen + part, sent + emit
        if matched is not None:
            return
        prefixes = {stop[:n] for stop in stops for n in range(len(stop))}
        assert len(seen) - len(sent) == max((len(p) for p in prefixes if seen.endswith(p)), default=0)
        assert seen.startswith(sent)


@pytest.mark.parametrize("stops", [(), ("",)])
def test_stop_matcher_without_stops_passes_everything(stops):
    matcher = StopMatcher(stops)
    assert (matcher.add("any text"), matcher.flush()) == (("any text", None), "")


def test_stop_matcher_stop_split_over_tokens_is_never_leaked():
    matcher = StopMatcher(("<|end|>",))
    assert [matcher.add(part) for part in ("Hi <", "|en", "d|", "> tail")] == [
        ("Hi ", None),
        ("", None),
        ("", None),
        ("", "<|end|>"),
    ]


def test_stop_matcher_broken_prefix_is_released_with_the_part_that_breaks_it():
    matcher = StopMatcher(("<|end|>",))
    matcher.add("<|en")
    assert matcher.add("ter <") == ("<|enter ", None)


def test_stop_matcher_flush_at_end_returns_held_text():
    matcher = StopMatcher(("stop",))
    matcher.add("a sto")
    assert (matcher.flush(), matcher.flush()) == ("sto", "")


def test_stop_matcher_two_matchers_of_equal_stops_share_no_state():
    first, second = StopMatcher(("ab",)), StopMatcher(("ab",))
    first.add("a")
    assert second.add("b") == ("b", None)


def test_stop_matcher_beyond_the_basic_plane_matches_whole_characters():
    matcher = StopMatcher(("🛑🛑",))
    assert (matcher.add("go🛑"), matcher.add("🛑")) == (("go", None), ("", "🛑🛑"))


def test_stop_matcher_thousand_stops_finds_the_last_one():
    stops = tuple(f"stop number {i};" for i in range(1000))
    emitted, matched = feed(StopMatcher(stops), list("text stop number 99 stop number 999; more"))
    assert ("".join(emitted), matched) == ("text stop number 99 ", "stop number 999;")


def test_stop_matcher_long_hold_costs_linear_time():
    def seconds(length: int) -> float:
        matcher = StopMatcher(("a" * length + "b",))
        start = time.process_time()
        for _ in range(2 * length):
            matcher.add("a")
        return time.process_time() - start

    # 16 times the text takes 16 times the work, or 256 times if the held text were copied or searched again.
    assert min(seconds(16_000) for _ in range(3)) < 64 * min(seconds(1_000) for _ in range(3))


def test_automaton_cache_is_bounded_by_characters_not_by_count():
    cache = _AutomatonCache(1000)
    kept = cache.get(("a",))
    for i in range(300):
        cache.get((f"{i:03}" * 40,))
        assert cache.num_chars <= 1000
    assert cache.get(("a",)) is not kept


def test_automaton_cache_of_few_characters_keeps_many():
    cache = _AutomatonCache(1000)
    made = [cache.get((chr(97 + i),)) for i in range(26)]
    assert [cache.get((chr(97 + i),)) for i in range(26)] == made


def test_automaton_cache_too_large_for_it_is_made_and_not_kept():
    cache = _AutomatonCache(1000)
    assert cache.get(("a" * 5000,)).depth[-1] == 5000
    assert cache.num_chars == 0
