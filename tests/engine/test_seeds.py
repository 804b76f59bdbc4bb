"""The seeds of a request's choices."""

from __future__ import annotations

from llamafast.engine.seeds import choice_seed


def test_choice_seed_first_choice_has_the_seed_itself():
    assert [choice_seed(seed, 0) for seed in (0, 7, 2**64 - 1, -1)] == [0, 7, 2**64 - 1, 2**64 - 1]


def test_choice_seed_choices_of_neighbouring_seeds_all_differ():
    seeds = {choice_seed(seed, index) for seed in range(100) for index in range(16)}
    assert len(seeds) == 1600 and all(0 <= seed < 2**64 for seed in seeds)
