"""The names of a model: exact ones and patterns."""

from __future__ import annotations

import pytest

from llamafast.server.model_names import MAX_MATCHED_CHARS, ModelNames, matches


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("gpt-*", "gpt-4o", True),
        ("gpt-*", "gpt-", True),
        ("gpt-*", "xgpt-4o", False),
        ("*-mini", "gpt-4o-mini", True),
        ("*", "", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("a*b*c", "axbxc", True),
        ("a*b*c", "acb", False),
        ("*ab*ab", "xab", False),
        ("org/*.5?[x]", "org/m.5?[x]", True),
        ("org/*.5?[x]", "org/m.55x", False),
        ("GPT-*", "gpt-4", False),
        ("*", "x" * MAX_MATCHED_CHARS, True),
        ("*", "x" * (MAX_MATCHED_CHARS + 1), False),
    ],
)
def test_matches_star_is_any_text(pattern, name, expected):
    assert matches(pattern, name) is expected


def test_names_are_sorted_into_exact_ones_and_patterns_without_repetitions():
    names = ModelNames.of("a", ["b", "*x", "a", "b", "*x"])
    assert (names.exact, names.patterns) == (("a", "b"), ("*x",))
